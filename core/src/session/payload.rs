//! The encrypted payloads P1 and P2 of the handshake (`wire.md` 4.2, 4.3) and the choice of the
//! suite (4.6).

use crate::addr::Address;
use crate::crypto::codec::{Reader, Writer};
use crate::crypto::record::{RECORD_SHORT, ShortRecord};
use crate::crypto::{AeadProvider, DecodeError, Suite};
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Bytes of P1 without record and early data.
pub const P1_FIXED: usize = 44;
/// Bytes of P2 without record and early data.
pub const P2_FIXED: usize = 32;
/// Bytes of an inner SYN or SYN-ACK, the only early data there is.
pub const EARLY: usize = 34;
/// Bytes of the longest P1.
pub const P1_MAX: usize = P1_FIXED + RECORD_SHORT + 2 + EARLY;
/// Bytes of the longest P2.
pub const P2_MAX: usize = P2_FIXED + RECORD_SHORT + 2 + EARLY;

const FLAG_RECORD: u8 = 1;
const FLAG_EARLY: u8 = 1 << 1;
const FLAG_REKEY: u8 = 1 << 3;

/// 8 random bytes per process start: tells a restart from a rekey.
pub type BootId = [u8; 8];

/// What an end can do; undefined bits are sent zero and ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps(pub u8);

impl Caps {
    /// AES-256-GCM.
    pub const AES_256_GCM: Caps = Caps(1);
    /// ChaCha20-Poly1305.
    pub const CHACHA20_POLY1305: Caps = Caps(1 << 1);
    /// AES runs on instructions of its own.
    pub const AES_HARDWARE: Caps = Caps(1 << 2);

    /// Both suites, and what the provider says of the hardware.
    pub fn of(aead: &dyn AeadProvider) -> Self {
        let suites = Caps(Caps::AES_256_GCM.0 | Caps::CHACHA20_POLY1305.0);
        if aead.has_aes_hardware() { Caps(suites.0 | Caps::AES_HARDWARE.0) } else { suites }
    }

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: Caps) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether `suite` is in it.
    pub const fn offers(self, suite: Suite) -> bool {
        self.contains(match suite {
            Suite::Aes256Gcm => Caps::AES_256_GCM,
            Suite::ChaCha20Poly1305 => Caps::CHACHA20_POLY1305,
        })
    }

    /// The responder's choice: AES-256-GCM if both report AES hardware or either lacks
    /// ChaCha20-Poly1305, that otherwise; `None` without a common suite (`wire.md` 4.6).
    pub const fn choose(self, offer: Caps) -> Option<Suite> {
        let both = Caps(self.0 & offer.0);
        let (aes, chacha) = (both.offers(Suite::Aes256Gcm), both.offers(Suite::ChaCha20Poly1305));
        match (aes, chacha) {
            (true, _) if both.contains(Caps::AES_HARDWARE) || !chacha => Some(Suite::Aes256Gcm),
            (_, true) => Some(Suite::ChaCha20Poly1305),
            _ => None,
        }
    }
}

/// P1: what the initiator says in message 1. Replayable, and forgeable by whoever stole the
/// responder's tunnel secret: nothing here takes effect before key confirmation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitPayload {
    /// What the initiator offers.
    pub caps: Caps,
    /// Whether it replaces a living session.
    pub rekey: bool,
    /// The largest UDP payload the initiator accepts.
    pub max_datagram: u16,
    /// The initiator's backbone address; unspecified before it has one (registry only).
    pub src: Address,
    /// The responder's backbone address.
    pub dst: Address,
    /// Strictly increasing per initiator.
    pub hs_seq: u64,
    /// The serial of the responder's record that the initiator holds.
    pub known_peer_serial: u64,
    /// 1 + the highest generation seen with this peer.
    pub generation: u32,
    /// The initiator's start.
    pub boot_id: BootId,
    /// The initiator's record, without address and tunnel key.
    pub record: Option<ShortRecord>,
    /// One inner SYN.
    pub early: Option<[u8; EARLY]>,
}

impl InitPayload {
    /// Writes it to the start of `out` (of at least [`P1_MAX`] bytes); returns its length.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let rekey = if self.rekey { FLAG_REKEY } else { 0 };
        let fixed = Writer::new(out)
            .put(&[self.caps.0, flags(&self.record, &self.early) | rekey])
            .put(&self.max_datagram.to_be_bytes())
            .put(&self.src.to_bytes())
            .put(&self.dst.to_bytes())
            .put(&self.hs_seq.to_be_bytes())
            .put(&self.known_peer_serial.to_be_bytes())
            .put(&self.generation.to_be_bytes())
            .put(&self.boot_id)
            .len();
        fixed + encode_tail(&self.record, &self.early, &mut out[fixed..])
    }

    /// Reads exactly one payload.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let caps = Caps(r.u8()?);
        let flags = r.u8()?;
        let mut payload = InitPayload {
            caps,
            rekey: flags & FLAG_REKEY != 0,
            max_datagram: r.u16()?,
            src: Address::from_bytes(r.array()?),
            dst: Address::from_bytes(r.array()?),
            hs_seq: r.u64()?,
            known_peer_serial: r.u64()?,
            generation: r.u32()?,
            boot_id: r.array()?,
            record: None,
            early: None,
        };
        (payload.record, payload.early) = decode_tail(flags, r)?;
        Ok(payload)
    }
}

/// P2: what the responder says in message 2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RespPayload {
    /// The number of the suite; checked against the offer by the initiator.
    pub suite: u8,
    /// What the responder can do.
    pub caps: Caps,
    /// The largest UDP payload the responder accepts.
    pub max_datagram: u16,
    /// Where the responder saw the initiator; `None` where it does not know (relay).
    pub observed: Option<SocketAddr>,
    /// The responder's start.
    pub boot_id: BootId,
    /// The responder's record, if newer than the initiator's copy.
    pub record: Option<ShortRecord>,
    /// The SYN-ACK for P1's SYN.
    pub early: Option<[u8; EARLY]>,
}

impl RespPayload {
    /// Writes it to the start of `out` (of at least [`P2_MAX`] bytes); returns its length.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let (family, ip, port) = encode_observed(self.observed);
        let fixed = Writer::new(out)
            .put(&[self.suite, self.caps.0])
            .put(&self.max_datagram.to_be_bytes())
            .put(&[flags(&self.record, &self.early), family])
            .put(&ip)
            .put(&port.to_be_bytes())
            .put(&self.boot_id)
            .len();
        fixed + encode_tail(&self.record, &self.early, &mut out[fixed..])
    }

    /// Reads exactly one payload.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let suite = r.u8()?;
        let caps = Caps(r.u8()?);
        let max_datagram = r.u16()?;
        let flags = r.u8()?;
        let observed = decode_observed(r.u8()?, r.array()?, r.u16()?)?;
        let boot_id = r.array()?;
        let (record, early) = decode_tail(flags, r)?;
        Ok(RespPayload { suite, caps, max_datagram, observed, boot_id, record, early })
    }

    /// Its length when encoded.
    pub fn encoded_len(&self) -> usize {
        P2_FIXED + self.record.map_or(0, |_| RECORD_SHORT) + self.early.map_or(0, |_| 2 + EARLY)
    }
}

fn flags(record: &Option<ShortRecord>, early: &Option<[u8; EARLY]>) -> u8 {
    let record = if record.is_some() { FLAG_RECORD } else { 0 };
    let early = if early.is_some() { FLAG_EARLY } else { 0 };
    record | early
}

fn encode_tail(record: &Option<ShortRecord>, early: &Option<[u8; EARLY]>, out: &mut [u8]) -> usize {
    let mut w = Writer::new(out);
    if let Some(record) = record {
        w.put(&record.0);
    }
    if let Some(early) = early {
        w.put(&(EARLY as u16).to_be_bytes()).put(early);
    }
    w.len()
}

type Tail = (Option<ShortRecord>, Option<[u8; EARLY]>);

fn decode_tail(flags: u8, mut r: Reader<'_>) -> Result<Tail, DecodeError> {
    let record = if flags & FLAG_RECORD != 0 { Some(ShortRecord(r.array()?)) } else { None };
    let mut early = None;
    if flags & FLAG_EARLY != 0 {
        if usize::from(r.u16()?) != EARLY {
            return Err(DecodeError::Field);
        }
        early = Some(r.array()?);
    }
    r.finish()?;
    Ok((record, early))
}

/// Family (0 unknown, 4, 6), IP in 16 bytes (IPv4 as ::ffff:a.b.c.d), port.
fn encode_observed(observed: Option<SocketAddr>) -> (u8, [u8; 16], u16) {
    match observed {
        None => (0, [0; 16], 0),
        Some(SocketAddr::V4(a)) => (4, a.ip().to_ipv6_mapped().octets(), a.port()),
        Some(SocketAddr::V6(a)) => (6, a.ip().octets(), a.port()),
    }
}

fn decode_observed(family: u8, ip: [u8; 16], port: u16) -> Result<Option<SocketAddr>, DecodeError> {
    let ip = Ipv6Addr::from(ip);
    let ip = match family {
        0 => return Ok(None),
        4 => IpAddr::V4(ip.to_ipv4_mapped().ok_or(DecodeError::Field)?),
        6 => IpAddr::V6(ip),
        _ => return Err(DecodeError::Field),
    };
    Ok(Some(SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::NodeId;
    use proptest::prelude::*;

    #[test]
    fn the_choice_is_the_table_of_4_6() {
        let caps = |aes: bool, chacha: bool, hardware: bool| {
            Caps(u8::from(aes) | u8::from(chacha) << 1 | u8::from(hardware) << 2)
        };
        let both = caps(true, true, true);
        assert_eq!(both.choose(both), Some(Suite::Aes256Gcm));
        assert_eq!(both.choose(caps(true, true, false)), Some(Suite::ChaCha20Poly1305));
        assert_eq!(both.choose(caps(true, false, false)), Some(Suite::Aes256Gcm));
        assert_eq!(both.choose(caps(false, true, true)), Some(Suite::ChaCha20Poly1305));
        assert_eq!(both.choose(caps(false, false, true)), None);
        assert_eq!(caps(true, false, true).choose(caps(false, true, true)), None);
        for (a, b) in (0..8).flat_map(|a| (0..8).map(move |b| (Caps(a), Caps(b)))) {
            assert_eq!(a.choose(b), b.choose(a));
            if let Some(suite) = a.choose(b) {
                assert!(a.offers(suite) && b.offers(suite));
            }
        }
    }

    fn early() -> impl Strategy<Value = Option<[u8; EARLY]>> {
        prop::option::of(prop::collection::vec(any::<u8>(), EARLY))
            .prop_map(|v| v.map(|v| v.try_into().unwrap()))
    }

    fn record() -> impl Strategy<Value = Option<ShortRecord>> {
        prop::option::of(prop::collection::vec(any::<u8>(), RECORD_SHORT))
            .prop_map(|v| v.map(|v| ShortRecord(v.try_into().unwrap())))
    }

    proptest! {
        #[test]
        fn p1_round_trips(
            head: (u8, bool, u16, u32, u32), numbers: (u64, u64, u32, [u8; 8]),
            record in record(), early in early(),
        ) {
            let p1 = InitPayload {
                caps: Caps(head.0),
                rekey: head.1,
                max_datagram: head.2,
                src: Address::backbone(NodeId(head.3)),
                dst: Address::backbone(NodeId(head.4)),
                hs_seq: numbers.0,
                known_peer_serial: numbers.1,
                generation: numbers.2,
                boot_id: numbers.3,
                record,
                early,
            };
            let mut out = [0; P1_MAX];
            let n = p1.encode(&mut out);
            let tail = record.map_or(0, |_| 150) + early.map_or(0, |_| 36);
            prop_assert_eq!(n, 44 + tail);
            prop_assert_eq!(InitPayload::decode(&out[..n]), Ok(p1));
            prop_assert_eq!(InitPayload::decode(&out[..n - 1]), Err(DecodeError::Length));
        }

        #[test]
        fn p2_round_trips(
            head: (u8, u8, u16, [u8; 8]), observed: Option<(std::net::IpAddr, u16)>,
            record in record(), early in early(),
        ) {
            let mapped = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
            prop_assume!(!observed.is_some_and(|(ip, _)| mapped(&ip)));
            let p2 = RespPayload {
                suite: head.0,
                caps: Caps(head.1),
                max_datagram: head.2,
                observed: observed.map(|(ip, port)| SocketAddr::new(ip, port)),
                boot_id: head.3,
                record,
                early,
            };
            let mut out = [0; P2_MAX];
            let n = p2.encode(&mut out);
            prop_assert_eq!(n, p2.encoded_len());
            prop_assert_eq!(RespPayload::decode(&out[..n]), Ok(p2));
        }

        #[test]
        fn any_bytes_decode_or_err(bytes in prop::collection::vec(any::<u8>(), 0..250)) {
            let _ = InitPayload::decode(&bytes);
            let _ = RespPayload::decode(&bytes);
        }
    }
}
