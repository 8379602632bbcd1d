//! F9 and F6, the frames with which two agents agree on a punch (`wire.md` 5.8).
//!
//! ```text
//! F9 ‖ attempt 2 ‖ nat 1 ‖ n 1 ‖ n × (kind 1, family 1, ip 16, port 2)      n ≤ 8
//! F6 ‖ attempt 2 ‖ code 1
//! ```

use super::control::{CANDIDATES, CANDIDATES_MAX, Candidates, Endpoint, EndpointKind, PRIMED};
use crate::path::nat::Nat;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Bytes of one candidate.
const CANDIDATE: usize = 20;
/// Bytes in front of the candidates.
const OFFER_HEADER: usize = 5;
/// Longest F9.
pub const OFFER_MAX: usize = OFFER_HEADER + CANDIDATES_MAX * CANDIDATE;
/// Bytes of F6.
pub const ANSWER: usize = 4;

/// F9: where the sender may be reached in this attempt, and what its NAT does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The attempt; the higher one of two wins.
    pub attempt: u16,
    /// The sender's NAT.
    pub nat: Nat,
    /// In order of promise.
    pub candidates: Candidates,
}

/// What F6 says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Primed {
    /// The sender's own NATs have been sent through: punch.
    Ready = 1,
    /// The sender takes no part in this attempt: its manners or its owner forbid it.
    Declined = 2,
}

impl Offer {
    /// Writes the frame's plaintext into `out` and gives its length, at most [`OFFER_MAX`].
    pub fn encode(&self, out: &mut [u8; OFFER_MAX]) -> usize {
        out[0] = CANDIDATES;
        out[1..3].copy_from_slice(&self.attempt.to_be_bytes());
        out[3] = self.nat.to_byte();
        out[4] = self.candidates.len() as u8;
        let mut len = OFFER_HEADER;
        for candidate in &self.candidates {
            let (family, ip) = match candidate.address.ip() {
                IpAddr::V4(ip) => (4, ip.to_ipv6_mapped().octets()),
                IpAddr::V6(ip) => (6, ip.octets()),
            };
            let place = &mut out[len..len + CANDIDATE];
            place[0] = candidate.kind as u8;
            place[1] = family;
            place[2..18].copy_from_slice(&ip);
            place[18..].copy_from_slice(&candidate.address.port().to_be_bytes());
            len += CANDIDATE;
        }
        len
    }

    /// Reads what follows the frame's first byte; `None` if it is malformed. Candidates of a
    /// kind that we do not know are left out.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let (head, mut rest) = body.split_at_checked(OFFER_HEADER - 1)?;
        let n = usize::from(head[3]);
        if n > CANDIDATES_MAX || rest.len() != n * CANDIDATE {
            return None;
        }
        let mut candidates = Candidates::new();
        while let Some((candidate, others)) = rest.split_at_checked(CANDIDATE) {
            rest = others;
            let octets: [u8; 16] = candidate[2..18].try_into().ok()?;
            let ip = Ipv6Addr::from(octets);
            let ip = match candidate[1] {
                4 => IpAddr::V4(ip.to_ipv4_mapped()?),
                6 if ip.to_ipv4_mapped().is_none() => IpAddr::V6(ip),
                _ => return None,
            };
            let kind = match candidate[0] {
                0 => EndpointKind::Host,
                1 => EndpointKind::Observed,
                2 => EndpointKind::Predicted,
                3 => EndpointKind::Mapped,
                _ => continue,
            };
            let port = u16::from_be_bytes([candidate[18], candidate[19]]);
            let address = SocketAddr::new(ip, port);
            candidates.push(Endpoint { kind, address }).ok()?;
        }
        let attempt = u16::from_be_bytes([head[0], head[1]]);
        Some(Offer { attempt, nat: Nat::from_byte(head[2]), candidates })
    }
}

/// The plaintext of F6.
pub fn encode_primed(attempt: u16, code: Primed) -> [u8; ANSWER] {
    let [high, low] = attempt.to_be_bytes();
    [PRIMED, high, low, code as u8]
}

/// Reads what follows F6's first byte. An unknown code is a refusal.
pub fn decode_primed(body: &[u8]) -> Option<(u16, Primed)> {
    let [high, low, code] = *body else { return None };
    let code = if code == Primed::Ready as u8 { Primed::Ready } else { Primed::Declined };
    Some((u16::from_be_bytes([high, low]), code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint() -> impl Strategy<Value = Endpoint> {
        let kind = prop_oneof![
            Just(EndpointKind::Host),
            Just(EndpointKind::Observed),
            Just(EndpointKind::Predicted),
            Just(EndpointKind::Mapped),
        ];
        let v6 = any::<[u8; 16]>().prop_map(|mut octets| {
            octets[0] = 0x20;
            IpAddr::from(octets)
        });
        let ip = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), v6];
        (kind, ip, any::<u16>())
            .prop_map(|(kind, ip, port)| Endpoint { kind, address: SocketAddr::new(ip, port) })
    }

    proptest! {
        #[test]
        fn an_offer_is_read_back(
            attempt: u16,
            nat in 0u8..80,
            endpoints in proptest::collection::vec(endpoint(), 0..=8),
        ) {
            let candidates = endpoints.into_iter().collect();
            let offer = Offer { attempt, nat: Nat::from_byte(nat), candidates };
            let mut out = [0; OFFER_MAX];
            let len = offer.encode(&mut out);
            prop_assert_eq!(out[0], CANDIDATES);
            prop_assert_eq!(Offer::decode(&out[1..len]), Some(offer));
            for cut in 1..len {
                prop_assert_eq!(Offer::decode(&out[1..cut]), None);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Offer::decode(&body);
            let _ = decode_primed(&body);
        }
    }

    #[test]
    fn the_layout_is_that_of_the_wire_document() {
        let address = "203.0.113.9:4000".parse().unwrap();
        let endpoint = Endpoint { kind: EndpointKind::Observed, address };
        let offer = Offer {
            attempt: 0x0108,
            nat: Nat::from_byte(0x2F),
            candidates: [endpoint].into_iter().collect(),
        };
        let mut out = [0; OFFER_MAX];
        let len = offer.encode(&mut out);
        let mut expected = std::vec![0xF9, 1, 8, 0x2F, 1, 1, 4];
        expected.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 203, 0, 113, 9]);
        expected.extend([0x0F, 0xA0]);
        assert_eq!(out[..len], expected[..]);
        assert_eq!(encode_primed(0x0108, Primed::Ready), [0xF6, 1, 8, 1]);
        assert_eq!(decode_primed(&[1, 8, 1]), Some((0x0108, Primed::Ready)));
        assert_eq!(decode_primed(&[1, 8, 9]), Some((0x0108, Primed::Declined)));
        assert_eq!(decode_primed(&[1, 8]), None);
    }

    #[test]
    fn a_candidate_of_an_unknown_kind_is_left_out() {
        let address = "203.0.113.9:4000".parse().unwrap();
        let endpoint = Endpoint { kind: EndpointKind::Host, address };
        let candidates = [endpoint, endpoint].into_iter().collect();
        let offer = Offer { attempt: 1, nat: Nat::default(), candidates };
        let mut out = [0; OFFER_MAX];
        let len = offer.encode(&mut out);
        out[5] = 7;
        assert_eq!(Offer::decode(&out[1..len]).unwrap().candidates.len(), 1);
        out[6] = 5;
        assert_eq!(Offer::decode(&out[1..len]), None, "a family that does not exist");
    }
}
