//! STUN Binding (RFC 8489) with the attributes of NAT behaviour discovery (RFC 5780): enough
//! for any STUN client to use our beacon and for us to use any STUN server.
//!
//! A Binding exchange here carries no credentials; MESSAGE-INTEGRITY and USERNAME of others
//! are understood as such and not used.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of the header (RFC 8489 5).
pub const HEADER: usize = 20;
/// The magic cookie in bytes 4 to 8.
pub const MAGIC: u32 = 0x2112_A442;
/// Longest message that this module writes: three IPv6 addresses and a fingerprint.
pub const MESSAGE_MAX: usize = HEADER + 3 * 24 + 8;
/// Longest request with all that this module writes in one.
pub const REQUEST_MAX: usize = HEADER + 8;

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;

const MAPPED_ADDRESS: u16 = 0x0001;
const CHANGE_REQUEST: u16 = 0x0003;
const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
const REALM: u16 = 0x0014;
const NONCE: u16 = 0x0015;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const FINGERPRINT: u16 = 0x8028;
const RESPONSE_ORIGIN: u16 = 0x802B;
const OTHER_ADDRESS: u16 = 0x802C;

/// What a FINGERPRINT's CRC-32 is XORed with (RFC 8489 14.7).
const FINGERPRINT_XOR: u32 = 0x5354_554E;

/// 96 random bits that tie an answer to its request.
pub type Transaction = [u8; 12];

/// Why bytes are not a STUN message that we can use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StunError {
    /// Lengths, cookie or an attribute's layout are wrong.
    #[error("malformed STUN message")]
    Malformed,
    /// Not the kind of message that was expected.
    #[error("not a STUN message of that kind")]
    Kind,
    /// The FINGERPRINT does not match.
    #[error("STUN fingerprint mismatch")]
    Fingerprint,
    /// A comprehension-required attribute that we do not know, first of them.
    #[error("unknown STUN attribute {0:#06x}")]
    Unknown(u16),
    /// The server answered an error with this code.
    #[error("STUN error {0}")]
    Refused(u16),
}

/// Which of the server's addresses the answer should come from (RFC 5780 7.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Change {
    /// The other IP address.
    pub ip: bool,
    /// The other port.
    pub port: bool,
}

impl Change {
    /// Whether nothing is to be changed.
    pub const fn is_none(self) -> bool {
        !self.ip && !self.port
    }
}

/// A Binding request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Repeated by the answer.
    pub transaction: Transaction,
    /// From where the answer is wanted.
    pub change: Change,
    /// Whether it has a FINGERPRINT; the answer then has one too.
    pub fingerprint: bool,
}

/// A successful Binding response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Response {
    /// Of the request.
    pub transaction: Transaction,
    /// XOR-MAPPED-ADDRESS: where the server saw the request come from.
    pub mapped: SocketAddr,
    /// RESPONSE-ORIGIN: where the server sent the answer from.
    pub origin: Option<SocketAddr>,
    /// OTHER-ADDRESS: where it would have sent it from, with both changed.
    pub other: Option<SocketAddr>,
}

/// Writes a Binding request, at most [`REQUEST_MAX`] bytes; `None` if `out` is too small.
pub fn encode_request(transaction: Transaction, change: Change, out: &mut [u8]) -> Option<usize> {
    let mut writer = Writer::new(BINDING_REQUEST, transaction, out)?;
    if !change.is_none() {
        let bits = u32::from(change.ip) << 2 | u32::from(change.port) << 1;
        writer.attribute(CHANGE_REQUEST, &bits.to_be_bytes())?;
    }
    Some(writer.len)
}

/// Reads a Binding request. With [`StunError::Unknown`], [`encode_unknown`] is the answer.
pub fn decode_request(message: &[u8]) -> Result<Request, StunError> {
    let attributes = Attributes::new(message, BINDING_REQUEST)?;
    let mut request = Request {
        transaction: transaction(message).ok_or(StunError::Malformed)?,
        change: Change::default(),
        fingerprint: false,
    };
    let mut unknown = None;
    for attribute in attributes {
        let attribute = attribute?;
        match attribute.kind {
            CHANGE_REQUEST => {
                let bits: [u8; 4] = attribute.value.try_into().map_err(|_| StunError::Malformed)?;
                let bits = u32::from_be_bytes(bits);
                request.change = Change { ip: bits & 4 != 0, port: bits & 2 != 0 };
            }
            FINGERPRINT => request.fingerprint = true,
            kind if is_unknown(kind) => unknown = unknown.or(Some(kind)),
            _ => {}
        }
    }
    unknown.map_or(Ok(request), |kind| Err(StunError::Unknown(kind)))
}

/// The transaction of what [`crate::wire::frame::classify`] called STUN.
pub fn transaction(message: &[u8]) -> Option<Transaction> {
    message.get(8..HEADER)?.try_into().ok()
}

/// Whether the message is a Binding request, and not an answer.
pub fn is_request(message: &[u8]) -> bool {
    message.get(..2) == Some(&BINDING_REQUEST.to_be_bytes())
}

/// Writes a success response, at most [`MESSAGE_MAX`] bytes; `None` if `out` is too small.
pub fn encode_response(response: &Response, fingerprint: bool, out: &mut [u8]) -> Option<usize> {
    let mut writer = Writer::new(BINDING_SUCCESS, response.transaction, out)?;
    let mut value = [0; 20];
    let n = put_address(response.mapped, &mut value);
    xor(&mut value[..n], &response.transaction);
    writer.attribute(XOR_MAPPED_ADDRESS, &value[..n])?;
    for (kind, address) in [(RESPONSE_ORIGIN, response.origin), (OTHER_ADDRESS, response.other)] {
        if let Some(address) = address {
            let n = put_address(address, &mut value);
            writer.attribute(kind, &value[..n])?;
        }
    }
    if fingerprint {
        writer.fingerprint()?;
    }
    Some(writer.len)
}

/// Writes error 420 that names one attribute which the server does not know or does not
/// offer; `None` if `out` is too small.
pub fn encode_unknown(transaction: Transaction, attribute: u16, out: &mut [u8]) -> Option<usize> {
    let mut writer = Writer::new(BINDING_ERROR, transaction, out)?;
    writer.attribute(ERROR_CODE, &[0, 0, 4, 20])?;
    writer.attribute(UNKNOWN_ATTRIBUTES, &attribute.to_be_bytes())?;
    Some(writer.len)
}

/// Error 420 for a CHANGE-REQUEST that a server with one address cannot honour (RFC 5780 6.1).
pub fn encode_no_change(transaction: Transaction, out: &mut [u8]) -> Option<usize> {
    encode_unknown(transaction, CHANGE_REQUEST, out)
}

/// Reads the answer to a Binding request. The caller compares the transaction.
pub fn decode_response(message: &[u8]) -> Result<Response, StunError> {
    let success = match Attributes::new(message, BINDING_SUCCESS) {
        Err(StunError::Kind) => return Err(refusal(message)),
        attributes => attributes?,
    };
    let transaction = transaction(message).ok_or(StunError::Malformed)?;
    let (mut mapped, mut plain, mut origin, mut other) = (None, None, None, None);
    for attribute in success {
        let attribute = attribute?;
        match attribute.kind {
            XOR_MAPPED_ADDRESS => {
                let mut value = [0; 20];
                let n = attribute.value.len();
                value.get_mut(..n).ok_or(StunError::Malformed)?.copy_from_slice(attribute.value);
                xor(&mut value[..n], &transaction);
                mapped = mapped.or(Some(get_address(&value[..n])?));
            }
            // Servers of RFC 3489 know only this one; a middlebox may have rewritten it.
            MAPPED_ADDRESS => plain = plain.or(Some(get_address(attribute.value)?)),
            RESPONSE_ORIGIN => origin = origin.or(Some(get_address(attribute.value)?)),
            OTHER_ADDRESS => other = other.or(Some(get_address(attribute.value)?)),
            kind if is_unknown(kind) => return Err(StunError::Unknown(kind)),
            _ => {}
        }
    }
    let mapped = mapped.or(plain).ok_or(StunError::Malformed)?;
    Ok(Response { transaction, mapped, origin, other })
}

fn refusal(message: &[u8]) -> StunError {
    let attributes = match Attributes::new(message, BINDING_ERROR) {
        Ok(attributes) => attributes,
        Err(error) => return error,
    };
    for attribute in attributes {
        match attribute {
            Ok(Attribute { kind: ERROR_CODE, value: [_, _, class, number, ..] }) => {
                let code = u16::from(class & 7) * 100 + u16::from((*number).min(99));
                return StunError::Refused(code);
            }
            Ok(_) => {}
            Err(error) => return error,
        }
    }
    StunError::Malformed
}

/// Comprehension-required (below 0x8000) and not among those of RFC 8489 and RFC 5780 that we
/// may ignore because no credentials are in use. PRIORITY and USE-CANDIDATE of ICE are among
/// the unknown: this server is no ICE agent.
fn is_unknown(kind: u16) -> bool {
    const KNOWN: [u16; 10] = [
        MAPPED_ADDRESS,
        CHANGE_REQUEST,
        USERNAME,
        MESSAGE_INTEGRITY,
        ERROR_CODE,
        UNKNOWN_ATTRIBUTES,
        REALM,
        NONCE,
        MESSAGE_INTEGRITY_SHA256,
        XOR_MAPPED_ADDRESS,
    ];
    kind < 0x8000 && !KNOWN.contains(&kind)
}

struct Attribute<'m> {
    kind: u16,
    value: &'m [u8],
}

/// The attributes of a message, FINGERPRINT checked where it stands.
struct Attributes<'m> {
    message: &'m [u8],
    at: usize,
}

impl<'m> Attributes<'m> {
    fn new(message: &'m [u8], kind: u16) -> Result<Self, StunError> {
        let header = message.get(..HEADER).ok_or(StunError::Malformed)?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[4..8] != MAGIC.to_be_bytes()
            || length != message.len() - HEADER
            || !length.is_multiple_of(4)
        {
            return Err(StunError::Malformed);
        }
        if header[..2] != kind.to_be_bytes() {
            return Err(StunError::Kind);
        }
        Ok(Attributes { message, at: HEADER })
    }

    fn parse(&mut self) -> Result<Attribute<'m>, StunError> {
        let rest = &self.message[self.at..];
        let head = rest.first_chunk::<4>().ok_or(StunError::Malformed)?;
        let kind = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = rest.get(4..4 + length).ok_or(StunError::Malformed)?;
        if kind == FINGERPRINT {
            // It must be the last one, and the header's length already counts it.
            let expected = crc32fast::hash(&self.message[..self.at]) ^ FINGERPRINT_XOR;
            if value != expected.to_be_bytes() || rest.len() != 8 {
                return Err(StunError::Fingerprint);
            }
        }
        self.at += (4 + length.next_multiple_of(4)).min(rest.len());
        Ok(Attribute { kind, value })
    }
}

impl<'m> Iterator for Attributes<'m> {
    type Item = Result<Attribute<'m>, StunError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.message.len() {
            return None;
        }
        let attribute = self.parse();
        if attribute.is_err() {
            self.at = self.message.len();
        }
        Some(attribute)
    }
}

struct Writer<'o> {
    out: &'o mut [u8],
    len: usize,
}

impl<'o> Writer<'o> {
    fn new(kind: u16, transaction: Transaction, out: &'o mut [u8]) -> Option<Self> {
        let header = out.get_mut(..HEADER)?;
        header[..2].copy_from_slice(&kind.to_be_bytes());
        header[2..4].fill(0);
        header[4..8].copy_from_slice(&MAGIC.to_be_bytes());
        header[8..].copy_from_slice(&transaction);
        Some(Writer { out, len: HEADER })
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) -> Option<()> {
        let padded = value.len().next_multiple_of(4);
        let place = self.out.get_mut(self.len..self.len + 4 + padded)?;
        place[..2].copy_from_slice(&kind.to_be_bytes());
        place[2..4].copy_from_slice(&(value.len() as u16).to_be_bytes());
        place[4..4 + value.len()].copy_from_slice(value);
        place[4 + value.len()..].fill(0);
        self.len += 4 + padded;
        self.set_length(self.len - HEADER);
        Some(())
    }

    fn set_length(&mut self, length: usize) {
        self.out[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    }

    fn fingerprint(&mut self) -> Option<()> {
        self.set_length(self.len + 8 - HEADER);
        let crc = crc32fast::hash(&self.out[..self.len]) ^ FINGERPRINT_XOR;
        self.attribute(FINGERPRINT, &crc.to_be_bytes())
    }
}

/// `0 ‖ family ‖ port ‖ ip` (RFC 8489 14.1).
fn put_address(address: SocketAddr, out: &mut [u8; 20]) -> usize {
    out[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            out[..2].copy_from_slice(&[0, 1]);
            out[4..8].copy_from_slice(&ip.octets());
            8
        }
        IpAddr::V6(ip) => {
            out[..2].copy_from_slice(&[0, 2]);
            out[4..20].copy_from_slice(&ip.octets());
            20
        }
    }
}

fn get_address(value: &[u8]) -> Result<SocketAddr, StunError> {
    let (head, ip) = value.split_first_chunk::<4>().ok_or(StunError::Malformed)?;
    let port = u16::from_be_bytes([head[2], head[3]]);
    let ip = match (head[1], ip.len()) {
        (1, 4) => IpAddr::V4(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3])),
        (2, 16) => {
            let octets: [u8; 16] = ip.try_into().map_err(|_| StunError::Malformed)?;
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return Err(StunError::Malformed),
    };
    Ok(SocketAddr::new(ip, port))
}

/// XORs port and address of an address attribute with cookie and transaction (RFC 8489 14.2).
fn xor(value: &mut [u8], transaction: &Transaction) {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC.to_be_bytes());
    mask[4..].copy_from_slice(transaction);
    let (head, ip) = value.split_at_mut(value.len().min(4));
    for (byte, mask) in head.iter_mut().skip(2).zip(&mask) {
        *byte ^= mask;
    }
    for (byte, mask) in ip.iter_mut().zip(&mask) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const TRANSACTION: Transaction =
        [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    fn hex(text: &str) -> Vec<u8> {
        let text: std::string::String = text.split_whitespace().collect();
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    /// RFC 5769 2.1: an ICE request, whose PRIORITY a plain server does not know.
    #[test]
    fn rfc5769_request() {
        let message = hex("00010058 2112a442 b7e7a701 bc34d686 fa87dfae
             80220010 5354554e 20746573 7420636c 69656e74
             00240004 6e0001ff 80290008 932ff9b1 51263b36
             00060009 6576746a 3a683676 59202020
             00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2
             80280004 e57a3bcf");
        assert!(is_request(&message));
        assert_eq!(decode_request(&message), Err(StunError::Unknown(0x24)));
        // Without the fingerprint's last bit it is not even that.
        let mut damaged = message.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(decode_request(&damaged), Err(StunError::Fingerprint));
        let mut damaged = message;
        damaged[30] ^= 1;
        assert_eq!(decode_request(&damaged), Err(StunError::Fingerprint));
    }

    /// RFC 5769 2.2 and 2.3.
    #[test]
    fn rfc5769_responses() {
        let v4 = hex("0101003c 2112a442 b7e7a701 bc34d686 fa87dfae
             8022000b 74657374 20766563 746f7220 00200008 0001a147 e112a643
             00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7
             80280004 c07d4c96");
        let response = decode_response(&v4).unwrap();
        assert_eq!(response.mapped, "192.0.2.1:32853".parse().unwrap());
        assert_eq!(response.transaction, TRANSACTION);
        let v6 = hex("01010048 2112a442 b7e7a701 bc34d686 fa87dfae
             8022000b 74657374 20766563 746f7220
             00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9
             00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41
             80280004 c8fb0b4c");
        let mapped = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        assert_eq!(decode_response(&v6).unwrap().mapped, mapped);
        // Our own writer gives the same attribute bytes.
        let mut out = [0; MESSAGE_MAX];
        let ours = Response { transaction: TRANSACTION, mapped, origin: None, other: None };
        let n = encode_response(&ours, true, &mut out).unwrap();
        assert_eq!(out[HEADER..HEADER + 24], v6[36..60]);
        assert_eq!(decode_response(&out[..n]), Ok(ours));
    }

    #[test]
    fn behaviour_discovery_round_trips() {
        let mut out = [0; MESSAGE_MAX];
        for (ip, port) in [(false, false), (true, false), (false, true), (true, true)] {
            let change = Change { ip, port };
            let n = encode_request([9; 12], change, &mut out).unwrap();
            assert!(n <= REQUEST_MAX);
            let request = decode_request(&out[..n]).unwrap();
            assert_eq!((request.change, request.transaction), (change, [9; 12]));
        }
        let response = Response {
            transaction: [9; 12],
            mapped: "[2001:db8::1]:1".parse().unwrap(),
            origin: Some("[2001:db8::2]:2".parse().unwrap()),
            other: Some("[2001:db8::3]:65535".parse().unwrap()),
        };
        for fingerprint in [false, true] {
            let n = encode_response(&response, fingerprint, &mut out).unwrap();
            assert_eq!(decode_response(&out[..n]), Ok(response));
            // `wire.md` 7: at most 3 times the request, IP and UDP headers counted.
            assert!(n + 48 <= 3 * (HEADER + if fingerprint { 8 } else { 0 } + 48));
        }
        assert_eq!(encode_response(&response, true, &mut out[..MESSAGE_MAX - 1]), None);
        let n = encode_no_change([9; 12], &mut out).unwrap();
        assert_eq!(decode_response(&out[..n]), Err(StunError::Refused(420)));
        assert!(n + 28 <= 3 * (HEADER + 8 + 28));
    }

    proptest! {
        #[test]
        fn decoders_are_total(mut bytes in prop::collection::vec(any::<u8>(), 20..200), kind: bool) {
            let _ = decode_request(&bytes);
            // With a good header the attributes are reached.
            bytes.truncate(bytes.len() / 4 * 4);
            let length = (bytes.len() - HEADER) as u16;
            bytes[..2].copy_from_slice(if kind { &[0, 1] } else { &[1, 1] });
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            bytes[4..8].copy_from_slice(&MAGIC.to_be_bytes());
            let _ = decode_request(&bytes);
            let _ = decode_response(&bytes);
        }

        #[test]
        fn any_address_round_trips(ip: std::net::IpAddr, port: u16, transaction: [u8; 12]) {
            let mapped = SocketAddr::new(ip, port);
            let response = Response { transaction, mapped, origin: Some(mapped), other: None };
            let mut out = [0; MESSAGE_MAX];
            let n = encode_response(&response, false, &mut out).unwrap();
            prop_assert_eq!(decode_response(&out[..n]), Ok(response));
        }
    }
}
