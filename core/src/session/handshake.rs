//! The handshake's envelope (`wire.md` 4.2–4.5): HS_INIT, HS_RESP, HS_COOKIE and HS_STALE to
//! and from bytes, and the key schedule.
//!
//! These are the parts that tunnel, beacon and registry channel share; none keeps time or a
//! table. An [`Initiator`] has sent an INIT and reads what comes back; a [`Received`] is an
//! INIT that authenticated, which its owner either answers, calls stale or forgets.
//!
//! ```text
//! INIT   10 1 0 0 | sender 4 | e 32 | S_i 48 | P1 +16 | mac1 16 | mac2 16      330 or 366
//! RESP   11 1 0 0 | sender 4 | receiver 4 | e 32 | P2 +16 | mac1 | mac2        124, 160, 274, 310
//! COOKIE 12 1 0 0 | receiver 4 | nonce 24 | cookie 16 +16                      64
//! STALE  13 1 0 0 | receiver 4 | nonce 24 | highest_seq 8 +16                  56
//! ```

use super::payload::{InitPayload, P1_FIXED, P1_MAX, P2_FIXED, P2_MAX, RespPayload};
use crate::crypto::exchange::{
    self, ExchangeError, Finished, MESSAGE1_OVERHEAD, MESSAGE1_PAYLOAD, MESSAGE2_OVERHEAD,
    MESSAGE2_PAYLOAD, Pattern,
};
use crate::crypto::kdf::{self, SecretKey};
use crate::crypto::{CONTEXT, Suite, TunnelKey, TunnelSecret};
use crate::stats::DropReason;
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};

/// First byte of an INIT.
pub const TYPE_INIT: u8 = 0x10;
/// First byte of a RESP.
pub const TYPE_RESP: u8 = 0x11;
/// First byte of a COOKIE.
pub const TYPE_COOKIE: u8 = 0x12;
/// First byte of a STALE.
pub const TYPE_STALE: u8 = 0x13;
/// The only version there is.
pub const VERSION: u8 = 1;

const MACS: usize = 32;
const INIT_HEAD: usize = 8;
const RESP_HEAD: usize = 12;
/// Bytes of the shortest INIT: no record, no early data.
pub const INIT_MIN: usize = INIT_HEAD + MESSAGE1_OVERHEAD + P1_FIXED + MACS;
/// Bytes of the longest INIT.
pub const INIT_MAX: usize = INIT_HEAD + MESSAGE1_OVERHEAD + P1_MAX + MACS;
/// Bytes of the shortest RESP.
pub const RESP_MIN: usize = RESP_HEAD + MESSAGE2_OVERHEAD + P2_FIXED + MACS;
/// Bytes of the longest RESP.
pub const RESP_MAX: usize = RESP_HEAD + MESSAGE2_OVERHEAD + P2_MAX + MACS;
/// Bytes of a COOKIE.
pub const COOKIE: usize = 64;
/// Bytes of a STALE.
pub const STALE: usize = 56;

/// The bit that every index has, so that a data frame starts with 0x80 or more.
pub const INDEX_BIT: u32 = 1 << 31;

/// Checks type, version, zero bytes and length of a handshake packet.
pub fn check_envelope(packet: &[u8]) -> Result<(), DropReason> {
    let (min, max) = match packet.first() {
        Some(&TYPE_INIT) => (INIT_MIN, INIT_MAX),
        Some(&TYPE_RESP) => (RESP_MIN, RESP_MAX),
        Some(&TYPE_COOKIE) => (COOKIE, COOKIE),
        Some(&TYPE_STALE) => (STALE, STALE),
        _ => return Err(DropReason::UnknownType),
    };
    if packet.len() < min || packet.len() > max {
        return Err(DropReason::Malformed);
    }
    if packet[1] != VERSION {
        return Err(DropReason::Version);
    }
    if packet[2..4] != [0, 0] || word(packet, 4) & INDEX_BIT == 0 {
        return Err(DropReason::Malformed);
    }
    Ok(())
}

/// The index at `at`.
pub(crate) fn word(packet: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(core::array::from_fn(|i| packet[at + i]))
}

/// SHA-256(L ‖ "mac1" ‖ recipient's S): whoever knows S can make and check mac1.
#[derive(Clone, Copy)]
pub struct Mac1Key([u8; 32]);

impl Mac1Key {
    /// For packets to the owner of `recipient`.
    pub fn new(recipient: &TunnelKey) -> Self {
        Mac1Key(kdf::sha256(&[CONTEXT, b"mac1", &recipient.0]))
    }

    /// Whether the packet's mac1 is right. The packet has at least 32 bytes.
    pub fn check(&self, packet: &[u8]) -> bool {
        let (body, macs) = packet.split_at(packet.len() - MACS);
        kdf::equal(&kdf::mac16(&self.0, &[body]), &macs[..16])
    }

    fn write(&self, packet: &mut [u8]) {
        let (body, macs) = packet.split_at_mut(packet.len() - MACS);
        macs[..16].copy_from_slice(&kdf::mac16(&self.0, &[body]));
        macs[16..].fill(0);
    }
}

/// Sets mac2 of an INIT with the cookie that its recipient gave us; `None` clears it.
pub fn write_mac2(packet: &mut [u8], cookie: Option<&[u8; 16]>) {
    let (body, mac2) = packet.split_at_mut(packet.len() - 16);
    mac2.copy_from_slice(&cookie.map_or([0; 16], |cookie| kdf::mac16(cookie, &[body])));
}

/// Whether an INIT's mac2 was made with `cookie`.
pub fn check_mac2(packet: &[u8], cookie: &[u8; 16]) -> bool {
    let (body, mac2) = packet.split_at(packet.len() - 16);
    kdf::equal(&kdf::mac16(cookie, &[body]), mac2)
}

/// The keys of a session, from one end's view (`wire.md` 4.4).
pub struct SessionKeys {
    /// The negotiated suite.
    pub suite: Suite,
    /// For what we send.
    pub send: SecretKey,
    /// For what we receive.
    pub receive: SecretKey,
    /// For further derivations (ML-KEM upgrade).
    pub export: SecretKey,
    /// The transcript hash, the same on both ends.
    pub hash: [u8; 32],
}

/// Derives the session's keys; the indices enter here, so altered cleartext indices give keys
/// that the other end does not have.
pub fn key_schedule(
    finished: &Finished,
    suite: Suite,
    init_index: u32,
    resp_index: u32,
    initiator: bool,
) -> SessionKeys {
    let prk = finished.prk();
    let derive = |label: &[u8]| {
        kdf::expand(
            &prk,
            &[
                CONTEXT,
                label,
                &[suite.to_byte()],
                &init_index.to_be_bytes(),
                &resp_index.to_be_bytes(),
                finished.hash(),
            ],
        )
    };
    let (i2r, r2i) = (derive(b"i2r"), derive(b"r2i"));
    let (send, receive) = if initiator { (i2r, r2i) } else { (r2i, i2r) };
    SessionKeys { suite, send, receive, export: derive(b"exp"), hash: *finished.hash() }
}

/// What the initiator learns from a RESP.
pub struct Accepted {
    /// P2.
    pub payload: RespPayload,
    /// The responder's index, in front of what we send.
    pub remote_index: u32,
    /// The session's keys.
    pub keys: SessionKeys,
}

/// An INIT that was sent, and what is needed to read the answers to it.
pub struct Initiator {
    exchange: exchange::Initiator,
    index: u32,
    responder: TunnelKey,
    offer: super::payload::Caps,
    mac1: [u8; 16],
}

impl Initiator {
    /// Writes an INIT from `s` to `responder` into `out`, mac2 zero; returns its length.
    /// Fails only if `responder` is no usable key.
    pub fn start(
        s: &TunnelSecret,
        responder: &TunnelKey,
        e: TunnelSecret,
        index: u32,
        payload: &InitPayload,
        out: &mut [u8; INIT_MAX],
    ) -> Result<(Self, usize), ExchangeError> {
        out[..4].copy_from_slice(&[TYPE_INIT, VERSION, 0, 0]);
        out[4..8].copy_from_slice(&index.to_be_bytes());
        let n = payload.encode(&mut out[INIT_HEAD + MESSAGE1_PAYLOAD..]);
        let end = INIT_HEAD + MESSAGE1_OVERHEAD + n;
        let (head, message) = out[..end].split_at_mut(INIT_HEAD);
        let prologue = [&CONTEXT[..], head];
        let exchange =
            exchange::Initiator::write_message1(Pattern::Ik, &prologue, s, responder, e, message)?;
        Mac1Key::new(responder).write(&mut out[..end + MACS]);
        let mac1 = core::array::from_fn(|i| out[end + i]);
        let initiator =
            Initiator { exchange, index, responder: *responder, offer: payload.caps, mac1 };
        Ok((initiator, end + MACS))
    }

    /// The index that the INIT named.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The tunnel key it was made for.
    pub fn responder(&self) -> &TunnelKey {
        &self.responder
    }

    /// Opens a RESP in place; `s` is the secret that the INIT was written with. A forged one
    /// changes nothing but the packet. `Ok(Err(_))`: the responder is genuine, but chose a
    /// suite that we did not offer.
    pub fn read_resp(
        &self,
        s: &TunnelSecret,
        packet: &mut [u8],
    ) -> Result<Result<Accepted, SuiteRejected>, DropReason> {
        if !Mac1Key::new(&s.public()).check(packet) || packet[packet.len() - 16..] != [0; 16] {
            return Err(DropReason::Mac);
        }
        let (remote_index, ours) = (word(packet, 4), word(packet, 8));
        if ours != self.index {
            return Err(DropReason::UnknownIndex);
        }
        let end = packet.len() - MACS;
        let message = &mut packet[RESP_HEAD..end];
        let finished =
            self.exchange.read_message2(s, message).map_err(|_| DropReason::Handshake)?;
        let payload = &message[MESSAGE2_PAYLOAD..message.len() - 16];
        let payload = RespPayload::decode(payload).map_err(|_| DropReason::Malformed)?;
        let suite = Suite::from_byte(payload.suite).filter(|suite| self.offer.offers(*suite));
        Ok(match suite {
            Some(suite) => {
                let keys = key_schedule(&finished, suite, self.index, remote_index, true);
                Ok(Accepted { payload, remote_index, keys })
            }
            None => Err(SuiteRejected(payload.suite)),
        })
    }

    /// Reads the responder's highest number from a STALE.
    pub fn read_stale(&self, packet: &[u8]) -> Result<u64, DropReason> {
        let mut text: [u8; 24] = core::array::from_fn(|i| packet[32 + i]);
        let plain = open_x(&self.exchange.stale_key(), &packet[8..32], &packet[..8], &mut text)?;
        Ok(u64::from_be_bytes(core::array::from_fn(|i| plain[i])))
    }

    /// Reads the cookie from a COOKIE that answers our last INIT.
    pub fn read_cookie(&self, packet: &[u8]) -> Result<[u8; 16], DropReason> {
        let mut text: [u8; 32] = core::array::from_fn(|i| packet[32 + i]);
        let key = cookie_key(&self.responder);
        let plain = open_x(&key, &packet[8..32], &self.mac1, &mut text)?;
        Ok(core::array::from_fn(|i| plain[i]))
    }
}

/// The responder chose a suite that was not offered; the byte it sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SuiteRejected(pub u8);

/// An INIT that authenticated (`wire.md` 4.5 step 4).
pub struct Received {
    exchange: exchange::Responder,
    /// P1.
    pub payload: InitPayload,
    /// The initiator's index, in front of what we send.
    pub remote_index: u32,
    /// The length of the INIT; the answer is no longer.
    pub init_len: usize,
}

impl Received {
    /// Opens an INIT in place with our tunnel secret `s`. Envelope and mac1 were checked.
    pub fn read(s: &TunnelSecret, packet: &mut [u8]) -> Result<Self, DropReason> {
        let init_len = packet.len();
        let (head, message) = packet[..init_len - MACS].split_at_mut(INIT_HEAD);
        let prologue = [&CONTEXT[..], head];
        let exchange = exchange::Responder::read_message1(Pattern::Ik, &prologue, s, message)
            .map_err(|_| DropReason::Handshake)?;
        let remote_index = word(head, 4);
        let payload = &message[MESSAGE1_PAYLOAD..message.len() - 16];
        let payload = InitPayload::decode(payload).map_err(|_| DropReason::Malformed)?;
        Ok(Received { exchange, payload, remote_index, init_len })
    }

    /// The initiator's tunnel key.
    pub fn remote_static(&self) -> TunnelKey {
        self.exchange.remote_static()
    }

    /// Writes the RESP; returns its length and the session's keys. `payload.suite` is the
    /// chosen suite.
    pub fn write_resp(
        self,
        e: TunnelSecret,
        index: u32,
        suite: Suite,
        payload: &RespPayload,
        out: &mut [u8; RESP_MAX],
    ) -> Result<(usize, SessionKeys), ExchangeError> {
        out[..4].copy_from_slice(&[TYPE_RESP, VERSION, 0, 0]);
        out[4..8].copy_from_slice(&index.to_be_bytes());
        out[8..12].copy_from_slice(&self.remote_index.to_be_bytes());
        let n = payload.encode(&mut out[RESP_HEAD + MESSAGE2_PAYLOAD..]);
        let end = RESP_HEAD + MESSAGE2_OVERHEAD + n;
        let remote = self.exchange.remote_static();
        let finished = self.exchange.write_message2(e, &mut out[RESP_HEAD..end])?;
        Mac1Key::new(&remote).write(&mut out[..end + MACS]);
        let keys = key_schedule(&finished, suite, self.remote_index, index, false);
        Ok((end + MACS, keys))
    }

    /// Writes the STALE that tells the genuine initiator our highest number.
    pub fn write_stale(&self, highest_seq: u64, nonce: [u8; 24], out: &mut [u8; STALE]) {
        out[..4].copy_from_slice(&[TYPE_STALE, VERSION, 0, 0]);
        out[4..8].copy_from_slice(&self.remote_index.to_be_bytes());
        let head: [u8; 8] = core::array::from_fn(|i| out[i]);
        out[8..32].copy_from_slice(&nonce);
        out[32..40].copy_from_slice(&highest_seq.to_be_bytes());
        seal_x(&self.exchange.stale_key(), &nonce, &head, &mut out[32..]);
    }
}

/// Writes the COOKIE that answers `init` (whose mac1 is right) without any state of ours but
/// the jar's secret.
pub fn write_cookie(
    init: &[u8],
    ours: &TunnelKey,
    cookie: &[u8; 16],
    nonce: [u8; 24],
    out: &mut [u8; COOKIE],
) {
    out[..4].copy_from_slice(&[TYPE_COOKIE, VERSION, 0, 0]);
    out[4..8].copy_from_slice(&init[4..8]);
    out[8..32].copy_from_slice(&nonce);
    out[32..48].copy_from_slice(cookie);
    let mac1 = &init[init.len() - MACS..init.len() - 16];
    seal_x(&cookie_key(ours), &nonce, mac1, &mut out[32..]);
}

fn cookie_key(sender: &TunnelKey) -> SecretKey {
    SecretKey::new(kdf::sha256(&[CONTEXT, b"cookie", &sender.0]))
}

/// Encrypts all of `buf` but its last 16 bytes, which take the tag.
fn seal_x(key: &SecretKey, nonce: &[u8; 24], aad: &[u8], buf: &mut [u8]) {
    let (text, tag) = buf.split_last_chunk_mut::<16>().expect("room for the tag");
    *tag = XChaCha20Poly1305::new(key.as_bytes().into())
        .encrypt_inout_detached(nonce.into(), aad, text.into())
        .expect("a few bytes")
        .into();
}

fn open_x<'b>(
    key: &SecretKey,
    nonce: &[u8],
    aad: &[u8],
    buf: &'b mut [u8],
) -> Result<&'b [u8], DropReason> {
    let nonce: [u8; 24] = nonce.try_into().map_err(|_| DropReason::Malformed)?;
    let (text, tag) = buf.split_last_chunk_mut::<16>().ok_or(DropReason::Malformed)?;
    XChaCha20Poly1305::new(key.as_bytes().into())
        .decrypt_inout_detached(&nonce.into(), aad, (&mut *text).into(), &(*tag).into())
        .map_err(|_| DropReason::Handshake)?;
    Ok(text)
}

const _: () = {
    assert!(INIT_MAX == 366 && RESP_MAX == 310 && RESP_MIN == 124);
    assert!(INIT_MIN == 180 && RESP_MIN <= INIT_MIN && COOKIE <= INIT_MIN && STALE <= INIT_MIN);
};

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
