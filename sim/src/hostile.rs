//! Those who mean harm: agents that lie under a right key, and anybody who can send packets.

use crate::hosts::CRYPTO;
use crate::world::World;
use pilot_core::crypto::{AeadCipher, AeadKey, AeadProvider, NotAuthentic, Suite};
use pilot_core::limits::INNER_HEADER;
use pilot_core::rng::Rng;
use pilot_core::time::Duration;
use pilot_core::wire::control;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::net::SocketAddr;

/// Of so many frames a liar falsifies one.
const LIES: u64 = 8;
/// Longest datagram of a flood.
const GARBAGE_MAX: u64 = 1400;
/// Between two packets of a flood.
const FLOOD_PACE: Duration = Duration::from_micros(500);
/// First bytes of what looks like something: STUN, four handshakes, relay, data, nothing.
const FIRST: [u8; 8] = [0x00, 0x10, 0x11, 0x12, 0x13, 0x30, 0x80, 0x55];

/// The cryptography of an agent that lies: what it encrypts is not always what it was given. So
/// its handshakes, its counters and its tags are right, and what the frames say is not.
pub(crate) struct Liar;

pub(crate) static LIAR: Liar = Liar;

struct LyingCipher(AeadKey);

impl AeadProvider for Liar {
    fn key(&self, suite: Suite, key: &[u8; 32]) -> AeadKey {
        AeadKey::External(Box::new(LyingCipher(CRYPTO.key(suite, key))))
    }

    fn has_aes_hardware(&self) -> bool {
        CRYPTO.has_aes_hardware()
    }
}

impl AeadCipher for LyingCipher {
    fn seal_in_place(&self, nonce: &[u8; 12], buf: &mut [u8]) -> [u8; 16] {
        // The registry's channel has an index of 0; who lies there is not let in at all.
        if nonce[..4] != [0; 4] {
            falsify(nonce, buf);
        }
        self.0.seal_in_place(*nonce, buf)
    }

    fn open_in_place(
        &self,
        nonce: &[u8; 12],
        buf: &mut [u8],
        tag: &[u8; 16],
    ) -> Result<(), NotAuthentic> {
        self.0.open_in_place(*nonce, buf, tag)
    }
}

/// Changes one content in eight, by a rule that depends on nothing but the nonce.
fn falsify(nonce: &[u8; 12], content: &mut [u8]) {
    let mut hasher = SipHasher13::new();
    hasher.write(nonce);
    let draw = hasher.finish();
    if !draw.is_multiple_of(LIES) || content.is_empty() {
        return;
    }
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&draw.to_be_bytes());
    let mut random = Rng::new(seed);
    let first = content[0];
    match first {
        // A header: numbers that were never used, no window, flags that do not fit.
        0x10..=0x1F if content.len() >= INNER_HEADER => match random.below(6) {
            0 => content[20..24].copy_from_slice(&random.bytes::<4>()),
            1 => content[24..28].copy_from_slice(&random.bytes::<4>()),
            2 => content[28..30].fill(0),
            3 => content[0] ^= random.below(16) as u8,
            4 => content[16..20].copy_from_slice(&random.bytes::<4>()),
            _ => content[4..16].copy_from_slice(&random.bytes::<12>()),
        },
        // An acknowledgement: of frames that were not sent.
        control::ACKNOWLEDGE => scramble(&mut random, &mut content[1..]),
        _ => {
            content[0] = 0xF0 | random.below(16) as u8;
            scramble(&mut random, &mut content[1..]);
        }
    }
}

/// Other bytes in up to eight places.
fn scramble(random: &mut Rng, bytes: &mut [u8]) {
    for _ in 0..8.min(bytes.len()) {
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] = random.bytes::<1>()[0];
    }
}

/// Bytes that look like something at first.
fn garbage(random: &mut Rng) -> Vec<u8> {
    let len = 1 + random.below(GARBAGE_MAX) as usize;
    let mut bytes: Vec<u8> = (0..len.div_ceil(32)).flat_map(|_| random.bytes::<32>()).collect();
    bytes.truncate(len);
    bytes[0] = FIRST[random.below(FIRST.len() as u64) as usize];
    if len >= 4 && (0x10..0x14).contains(&bytes[0]) {
        bytes[1..4].copy_from_slice(&[1, 0, 0]);
    }
    bytes
}

impl World {
    /// Sends `count` packets to an address, two a millisecond: garbage, and, as far as packets
    /// are kept for it, what was captured, as it was or with some of its bytes changed. Some come
    /// from where the captured ones came from, the others from addresses at which nobody is.
    pub fn flood(&mut self, to: SocketAddr, count: u32, seed: [u8; 8]) {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed);
        let mut random = Rng::new(bytes);
        let captured: Vec<_> =
            self.trace.recent().filter(|(packet, _)| packet.destination == to).cloned().collect();
        for n in 0..count {
            let at = FLOOD_PACE * n;
            let port = 1024 + random.below(1000) as u16;
            let nobody = SocketAddr::from(([203, 0, 113, 1 + random.below(250) as u8], port));
            if captured.is_empty() || random.below(2) == 0 {
                self.forge_later(at, nobody, to, garbage(&mut random));
                continue;
            }
            let (packet, mut bytes) =
                captured[random.below(captured.len() as u64) as usize].clone();
            if random.below(2) == 0 {
                scramble(&mut random, &mut bytes);
            }
            let source = if random.below(2) == 0 { packet.source } else { nobody };
            self.forge_later(at, source, to, bytes);
        }
    }

    /// Keeps the last packets that cross the core, for [`World::flood`] to use.
    pub fn keep_recent(&mut self) {
        self.trace.keep_recent();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_core::crypto::RUST_CRYPTO;

    #[test]
    fn one_frame_in_eight_is_a_lie_and_all_of_them_authenticate() {
        for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
            let (liar, honest) = (LIAR.key(suite, &[7; 32]), RUST_CRYPTO.key(suite, &[7; 32]));
            let mut lies = 0;
            for counter in 0..800_u32 {
                let mut nonce = [9; 12];
                nonce[8..].copy_from_slice(&counter.to_be_bytes());
                let original = [if counter % 2 == 0 { 0x12 } else { control::ACKNOWLEDGE }; 60];
                let mut content = original;
                let tag = liar.seal_in_place(nonce, &mut content);
                assert_eq!(honest.open_in_place(nonce, &mut content, &tag), Ok(()));
                lies += u32::from(content != original);
            }
            assert!((60..140).contains(&lies), "{lies} of 800");
            let mut content = [0x12; 60];
            for counter in 0..100 {
                let nonce = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, counter];
                let tag = liar.seal_in_place(nonce, &mut content);
                assert_eq!(honest.open_in_place(nonce, &mut content, &tag), Ok(()));
                assert_eq!(content, [0x12; 60], "the registry is told the truth");
            }
        }
    }

    #[test]
    fn garbage_is_of_all_kinds() {
        let mut random = Rng::new([1; 32]);
        let kinds: std::collections::BTreeSet<u8> =
            (0..200).map(|_| garbage(&mut random)[0]).collect();
        assert_eq!(kinds.len(), FIRST.len());
    }
}
