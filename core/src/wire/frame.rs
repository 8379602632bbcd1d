//! What a UDP datagram is (`wire.md` 4.1), and the relay frame (`wire.md` 7).

use crate::limits::{FRAME_HEADER, RELAY_HEADER, TAG};
use crate::path::ChannelId;
use crate::stats::DropReason;
use siphasher::sip::SipHasher24;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// First byte of HS_INIT.
pub const HS_INIT: u8 = 0x10;
/// First byte of HS_RESP.
pub const HS_RESP: u8 = 0x11;
/// First byte of HS_COOKIE.
pub const HS_COOKIE: u8 = 0x12;
/// First byte of HS_STALE.
pub const HS_STALE: u8 = 0x13;
/// First byte of a relay frame.
pub const RELAY: u8 = 0x30;
/// The version in byte 1 of handshake packets.
pub const VERSION: u8 = 1;

/// Shortest HS_INIT: no record, no early data (`wire.md` 4.2).
pub const INIT_MIN: usize = 8 + 32 + 48 + (44 + TAG) + 32;
/// Shortest HS_RESP (`wire.md` 4.3).
pub const RESP_MIN: usize = 124;
/// Exact length of HS_COOKIE (`wire.md` 4.5).
pub const COOKIE_LEN: usize = 64;
/// Exact length of HS_STALE (`wire.md` 4.5).
pub const STALE_LEN: usize = 56;
/// Shortest data frame: an empty one.
pub const DATA_MIN: usize = FRAME_HEADER + TAG;

/// What the first byte says a datagram is; its length and fixed bytes were checked, its MAC
/// or tag was not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// STUN (RFC 8489).
    Stun,
    /// HS_INIT.
    Init,
    /// HS_RESP.
    Response,
    /// HS_COOKIE.
    Cookie,
    /// HS_STALE.
    Stale,
    /// A relay frame; [`classify_relayed`] says what is in it.
    Relay,
    /// A data frame.
    Data,
}

/// The outer demultiplexer: total over all byte strings.
pub fn classify(datagram: &[u8]) -> Result<Kind, DropReason> {
    let first = *datagram.first().ok_or(DropReason::Malformed)?;
    match first {
        0x00..=0x03 => {
            let stun = datagram.len() >= super::stun::HEADER
                && datagram.len().is_multiple_of(4)
                && datagram[4..8] == super::stun::MAGIC.to_be_bytes();
            if stun { Ok(Kind::Stun) } else { Err(DropReason::Malformed) }
        }
        HS_INIT => handshake(datagram, datagram.len() >= INIT_MIN, Kind::Init),
        HS_RESP => handshake(datagram, datagram.len() >= RESP_MIN, Kind::Response),
        HS_COOKIE => handshake(datagram, datagram.len() == COOKIE_LEN, Kind::Cookie),
        HS_STALE => handshake(datagram, datagram.len() == STALE_LEN, Kind::Stale),
        RELAY if datagram.len() > RELAY_HEADER => Ok(Kind::Relay),
        RELAY => Err(DropReason::Malformed),
        0x80..=0xFF if datagram.len() >= DATA_MIN => Ok(Kind::Data),
        0x80..=0xFF => Err(DropReason::Malformed),
        _ => Err(DropReason::UnknownType),
    }
}

/// What is inside a relay frame: handshakes and data only. A relay frame in a relay frame and
/// STUN in one are refused.
pub fn classify_relayed(packet: &[u8]) -> Result<Kind, DropReason> {
    match classify(packet)? {
        Kind::Relay | Kind::Stun => Err(DropReason::UnknownType),
        kind => Ok(kind),
    }
}

fn handshake(datagram: &[u8], length: bool, kind: Kind) -> Result<Kind, DropReason> {
    if datagram.len() < 4 {
        return Err(DropReason::Malformed);
    }
    if datagram[1] != VERSION {
        return Err(DropReason::Version);
    }
    if !length || datagram[2..4] != [0, 0] {
        return Err(DropReason::Malformed);
    }
    Ok(kind)
}

/// Which way a relay frame goes; part of what its MAC covers, so that a frame cannot be
/// reflected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From an end of the channel to the beacon.
    ToBeacon = 0,
    /// From the beacon to an end.
    FromBeacon = 1,
}

/// The key of one end of a channel; each end has its own.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct RelayKey(pub [u8; 16]);

/// The channel in the header of what [`classify`] called [`Kind::Relay`].
pub fn relay_channel(frame: &[u8]) -> Option<ChannelId> {
    let id = frame.get(1..4)?;
    Some(ChannelId(u32::from_be_bytes([0, id[0], id[1], id[2]])))
}

/// Fills the first [`RELAY_HEADER`] bytes of `frame`, whose packet already lies behind them.
///
/// # Panics
/// If `frame` is shorter than the header: the caller reserved it.
pub fn wrap(key: &RelayKey, direction: Direction, channel: ChannelId, frame: &mut [u8]) {
    let mac = mac(key, direction, channel, &frame[RELAY_HEADER..]);
    let id = channel.0.to_be_bytes();
    frame[..4].copy_from_slice(&[RELAY, id[1], id[2], id[3]]);
    frame[4..RELAY_HEADER].copy_from_slice(&mac);
}

/// Checks the MAC of a relay frame and gives the packet inside, in place.
pub fn unwrap<'f>(
    key: &RelayKey,
    direction: Direction,
    frame: &'f mut [u8],
) -> Result<&'f mut [u8], DropReason> {
    verify(key, direction, frame)?;
    Ok(&mut frame[RELAY_HEADER..])
}

/// Checks the MAC of a relay frame.
pub fn verify(key: &RelayKey, direction: Direction, frame: &[u8]) -> Result<(), DropReason> {
    if frame.len() <= RELAY_HEADER || frame[0] != RELAY {
        return Err(DropReason::Malformed);
    }
    let channel = relay_channel(frame).ok_or(DropReason::Malformed)?;
    let expected = mac(key, direction, channel, &frame[RELAY_HEADER..]);
    if bool::from(expected.ct_eq(&frame[4..RELAY_HEADER])) { Ok(()) } else { Err(DropReason::Mac) }
}

/// SipHash-2-4 of direction 1, id 3, length 2 and at most 32 bytes of the packet, which
/// include index and counter of a data frame. The 8 bytes are in SipHash's own (little-endian)
/// order, as in the vectors of its authors.
fn mac(key: &RelayKey, direction: Direction, channel: ChannelId, packet: &[u8]) -> [u8; 8] {
    let mut covered = [0u8; 38];
    let id = channel.0.to_be_bytes();
    let length = (packet.len() as u16).to_be_bytes();
    covered[..6].copy_from_slice(&[direction as u8, id[1], id[2], id[3], length[0], length[1]]);
    let n = packet.len().min(32);
    covered[6..6 + n].copy_from_slice(&packet[..n]);
    SipHasher24::new_with_key(&key.0).hash(&covered[..6 + n]).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn handshake_bytes(first: u8, len: usize) -> Vec<u8> {
        let mut bytes = std::vec![0u8; len];
        bytes[..2].copy_from_slice(&[first, VERSION]);
        bytes
    }

    #[test]
    fn every_first_byte_has_its_place() {
        let mut stun = std::vec![0u8; 20];
        stun[4..8].copy_from_slice(&0x2112_A442u32.to_be_bytes());
        assert_eq!(classify(&stun), Ok(Kind::Stun));
        stun[4] ^= 1;
        assert_eq!(classify(&stun), Err(DropReason::Malformed));
        for (first, len, exact, kind) in [
            (HS_INIT, INIT_MIN, false, Kind::Init),
            (HS_RESP, RESP_MIN, false, Kind::Response),
            (HS_COOKIE, COOKIE_LEN, true, Kind::Cookie),
            (HS_STALE, STALE_LEN, true, Kind::Stale),
        ] {
            assert_eq!(classify(&handshake_bytes(first, len)), Ok(kind));
            assert_eq!(classify(&handshake_bytes(first, len - 1)), Err(DropReason::Malformed));
            let longer = classify(&handshake_bytes(first, len + 1));
            assert_eq!(longer, if exact { Err(DropReason::Malformed) } else { Ok(kind) });
            let mut other = handshake_bytes(first, len);
            other[1] = 2;
            assert_eq!(classify(&other), Err(DropReason::Version));
            other[1] = 1;
            other[3] = 1;
            assert_eq!(classify(&other), Err(DropReason::Malformed));
        }
        assert_eq!(classify(&[]), Err(DropReason::Malformed));
        for first in (0x04..=0x0F).chain(0x14..=0x2F).chain(0x31..=0x7F) {
            assert_eq!(classify(&[first; 400]), Err(DropReason::UnknownType));
        }
        for first in 0x80..=0xFF {
            assert_eq!(classify(&[first; 28]), Ok(Kind::Data));
            assert_eq!(classify(&[first; 27]), Err(DropReason::Malformed));
        }
    }

    #[test]
    fn nesting_is_refused() {
        let (key, channel) = (RelayKey([1; 16]), ChannelId(7));
        let mut inner = [0x80u8; 12 + 28];
        wrap(&key, Direction::ToBeacon, channel, &mut inner);
        let mut outer = Vec::from([0u8; 12]);
        outer.extend_from_slice(&inner);
        wrap(&key, Direction::ToBeacon, channel, &mut outer);
        assert_eq!(classify(&outer), Ok(Kind::Relay));
        let packet = unwrap(&key, Direction::ToBeacon, &mut outer).unwrap();
        assert_eq!(classify_relayed(packet), Err(DropReason::UnknownType));
        assert_eq!(classify_relayed(&inner[12..]), Ok(Kind::Data));
    }

    /// Frozen: a known frame, so that neither layout nor byte order can drift.
    #[test]
    fn golden_relay_frame() {
        let key = RelayKey(core::array::from_fn(|i| i as u8));
        let mut frame = [0u8; 12 + 40];
        for (i, byte) in frame[12..].iter_mut().enumerate() {
            *byte = 0x80 + i as u8;
        }
        wrap(&key, Direction::ToBeacon, ChannelId(0xAB_CDEF), &mut frame);
        assert_eq!(data_encoding::HEXLOWER.encode(&frame[..4]), "30abcdef");
        // SipHash-2-4 over 00 abcdef 0028 ‖ 80..9f, computed with the reference algorithm here.
        let mut message = std::vec![0x00, 0xAB, 0xCD, 0xEF, 0x00, 0x28];
        message.extend(0x80u8..0xA0);
        assert_eq!(frame[4..12], reference_siphash(&key.0, &message).to_le_bytes());
    }

    /// SipHash-2-4 straight from the paper's definition.
    fn reference_siphash(key: &[u8; 16], message: &[u8]) -> u64 {
        let word = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap());
        let (k0, k1) = (word(&key[..8]), word(&key[8..]));
        let mut v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        fn round(v: &mut [u64; 4]) {
            v[0] = v[0].wrapping_add(v[1]);
            v[1] = v[1].rotate_left(13) ^ v[0];
            v[0] = v[0].rotate_left(32);
            v[2] = v[2].wrapping_add(v[3]);
            v[3] = v[3].rotate_left(16) ^ v[2];
            v[0] = v[0].wrapping_add(v[3]);
            v[3] = v[3].rotate_left(21) ^ v[0];
            v[2] = v[2].wrapping_add(v[1]);
            v[1] = v[1].rotate_left(17) ^ v[2];
            v[2] = v[2].rotate_left(32);
        }
        let mut chunks = message.chunks_exact(8);
        let absorb = |v: &mut [u64; 4], m: u64| {
            v[3] ^= m;
            round(v);
            round(v);
            v[0] ^= m;
        };
        for chunk in &mut chunks {
            absorb(&mut v, word(chunk));
        }
        let mut last = [0u8; 8];
        last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        last[7] = message.len() as u8;
        absorb(&mut v, u64::from_le_bytes(last));
        v[2] ^= 0xFF;
        for _ in 0..4 {
            round(&mut v);
        }
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }

    proptest! {
        #[test]
        fn classify_is_total(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = classify(&bytes);
            let _ = classify_relayed(&bytes);
            let _ = relay_channel(&bytes);
            let _ = verify(&RelayKey([0; 16]), Direction::ToBeacon, &bytes);
        }

        #[test]
        fn a_relay_frame_opens_only_as_it_was_made(
            packet in prop::collection::vec(any::<u8>(), 1..80),
            id in 0u32..1 << 24,
            key: [u8; 16],
            bit in 0usize..(12 + 32) * 8,
        ) {
            let key = RelayKey(key);
            let mut frame = Vec::from([0u8; 12]);
            frame.extend_from_slice(&packet);
            wrap(&key, Direction::FromBeacon, ChannelId(id), &mut frame);
            prop_assert_eq!(relay_channel(&frame), Some(ChannelId(id)));
            prop_assert_eq!(verify(&key, Direction::FromBeacon, &frame), Ok(()));
            prop_assert_eq!(verify(&key, Direction::ToBeacon, &frame), Err(DropReason::Mac));
            if packet.len() > 1 {
                let cut = &frame[..frame.len() - 1];
                prop_assert_eq!(verify(&key, Direction::FromBeacon, cut), Err(DropReason::Mac));
            }
            if bit / 8 < frame.len() {
                frame[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(verify(&key, Direction::FromBeacon, &frame).is_err());
            }
        }
    }
}
