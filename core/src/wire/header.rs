//! The 34-byte inner header (`published-wire.md`, Header).
//!
//! ```text
//! 0  version (1) << 4 | flags    1  protocol    2  payload length    4  source    10 destination
//! 16 source port    18 destination port    20 sequence    24 acknowledgement    28 window    30 CRC
//! ```

use crate::addr::{Address, Port};
use core::ops::BitOr;

/// The flags of a header: any of [`Flags::SYN`], [`Flags::ACK`], [`Flags::FIN`], [`Flags::RST`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flags(u8);

impl Flags {
    /// None of them.
    pub const NONE: Flags = Flags(0);
    /// Opens a stream; takes one sequence number.
    pub const SYN: Flags = Flags(1);
    /// The acknowledgement number counts.
    pub const ACK: Flags = Flags(2);
    /// Ends one direction; takes one sequence number.
    pub const FIN: Flags = Flags(4);
    /// Ends the stream at once.
    pub const RST: Flags = Flags(8);

    /// The low four bits of `bits`.
    pub const fn from_bits(bits: u8) -> Self {
        Flags(bits & 0x0F)
    }

    /// As on the wire.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all flags of `other` are set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// What an inner packet is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    /// A stream segment.
    Stream,
    /// A datagram.
    Datagram,
    /// Published, dropped here (`wire.md` 1).
    Control,
}

impl Protocol {
    const fn to_byte(self) -> u8 {
        match self {
            Protocol::Stream => 1,
            Protocol::Datagram => 2,
            Protocol::Control => 3,
        }
    }
}

/// Why bytes are not an inner packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Fewer than 34 bytes.
    #[error("shorter than the header")]
    Short,
    /// The high nibble of the first byte is not 1.
    #[error("not version 1")]
    Version,
    /// Protocol 0 or above 3.
    #[error("unknown protocol")]
    Protocol,
    /// The length field is not the length of what follows the header.
    #[error("the length field does not match")]
    Length,
}

/// A decoded header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Header {
    /// SYN, ACK, FIN, RST.
    pub flags: Flags,
    /// What the payload is.
    pub protocol: Protocol,
    /// Bytes of payload.
    pub length: u16,
    /// The sender.
    pub source: Address,
    /// The receiver.
    pub destination: Address,
    /// The sender's port.
    pub source_port: Port,
    /// The receiver's port.
    pub destination_port: Port,
    /// Number of the first byte (of SYN or FIN, without payload).
    pub sequence: u32,
    /// The next number that the sender expects.
    pub acknowledgement: u32,
    /// What the sender has room for, in units of 1,024 bytes (`wire.md` 11).
    pub window: u16,
    /// CRC-32/IEEE over header and payload; zero and ignored inside a session.
    pub checksum: u32,
}

impl Header {
    /// Bytes on the wire.
    pub const LEN: usize = crate::limits::INNER_HEADER;

    /// The 34 bytes.
    pub fn to_bytes(&self) -> [u8; Header::LEN] {
        let mut out = [0; Header::LEN];
        out[0] = 0x10 | self.flags.bits();
        out[1] = self.protocol.to_byte();
        out[2..4].copy_from_slice(&self.length.to_be_bytes());
        out[4..10].copy_from_slice(&self.source.to_bytes());
        out[10..16].copy_from_slice(&self.destination.to_bytes());
        out[16..18].copy_from_slice(&self.source_port.0.to_be_bytes());
        out[18..20].copy_from_slice(&self.destination_port.0.to_be_bytes());
        out[20..24].copy_from_slice(&self.sequence.to_be_bytes());
        out[24..28].copy_from_slice(&self.acknowledgement.to_be_bytes());
        out[28..30].copy_from_slice(&self.window.to_be_bytes());
        out[30..34].copy_from_slice(&self.checksum.to_be_bytes());
        out
    }

    /// Splits an inner packet into header and payload. The checksum is not looked at.
    ///
    /// # Errors
    /// [`HeaderError`] says which field is wrong.
    pub fn decode(packet: &[u8]) -> Result<(Header, &[u8]), HeaderError> {
        let (b, payload) = packet.split_first_chunk::<{ Header::LEN }>().ok_or(HeaderError::Short)?;
        if b[0] >> 4 != 1 {
            return Err(HeaderError::Version);
        }
        let protocol = match b[1] {
            1 => Protocol::Stream,
            2 => Protocol::Datagram,
            3 => Protocol::Control,
            _ => return Err(HeaderError::Protocol),
        };
        let length = u16::from_be_bytes([b[2], b[3]]);
        if usize::from(length) != payload.len() {
            return Err(HeaderError::Length);
        }
        let header = Header {
            flags: Flags::from_bits(b[0]),
            protocol,
            length,
            source: Address::from_bytes([b[4], b[5], b[6], b[7], b[8], b[9]]),
            destination: Address::from_bytes([b[10], b[11], b[12], b[13], b[14], b[15]]),
            source_port: Port(u16::from_be_bytes([b[16], b[17]])),
            destination_port: Port(u16::from_be_bytes([b[18], b[19]])),
            sequence: u32::from_be_bytes([b[20], b[21], b[22], b[23]]),
            acknowledgement: u32::from_be_bytes([b[24], b[25], b[26], b[27]]),
            window: u16::from_be_bytes([b[28], b[29]]),
            checksum: u32::from_be_bytes([b[30], b[31], b[32], b[33]]),
        };
        Ok((header, payload))
    }

    /// The CRC-32/IEEE of this header, with the checksum field zero, and `payload`. Only
    /// outside a session; inside one the field is zero (`wire.md` 11).
    pub fn crc(&self, payload: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&Header { checksum: 0, ..*self }.to_bytes());
        hasher.update(payload);
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{NetworkId, NodeId};
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn stream(flags: Flags, sequence: u32, acknowledgement: u32, window: u16) -> Header {
        Header {
            flags,
            protocol: Protocol::Stream,
            length: 0,
            source: Address::backbone(NodeId(1)),
            destination: Address::backbone(NodeId(2)),
            source_port: Port(49152),
            destination_port: Port(1000),
            sequence,
            acknowledgement,
            window,
            checksum: 0,
        }
    }

    /// Each golden vector of `published-wire.md`, byte for byte, both ways.
    #[test]
    fn golden_vectors() {
        let cases: [(Header, &[u8], &str); 3] = [
            (
                stream(Flags::SYN, 0, 0, 512),
                b"",
                "11010000000000000001000000000002c00003e800000000000000000200145ed874",
            ),
            (
                stream(Flags::ACK, 1, 1, 502),
                b"hello",
                "12010005000000000001000000000002c00003e8000000010000000101f65ee872c868656c6c6f",
            ),
            (
                Header {
                    flags: Flags::NONE,
                    protocol: Protocol::Datagram,
                    length: 0,
                    source: Address::new(NetworkId(0xabcd), NodeId(0xdead_beef)),
                    destination: Address::new(NetworkId(0xffff), NodeId(0xffff_ffff)),
                    source_port: Port(65535),
                    destination_port: Port(53),
                    sequence: 0xffff_ffff,
                    acknowledgement: 0x8000_0000,
                    window: 0xffff,
                    checksum: 0,
                },
                &[0, 1, 2, 3],
                "10020004abcddeadbeefffffffffffffffff0035ffffffff80000000ffff3a346bbd00010203",
            ),
        ];
        for (mut header, payload, hex) in cases {
            header.length = payload.len() as u16;
            header.checksum = header.crc(payload);
            let mut bytes = header.to_bytes().to_vec();
            bytes.extend_from_slice(payload);
            assert_eq!(HEXLOWER.encode(&bytes), hex);
            let (decoded, rest) = Header::decode(&bytes).unwrap();
            assert_eq!((decoded, rest), (header, payload));
        }
    }

    #[test]
    fn wrong_fields_are_told() {
        let good = stream(Flags::SYN, 0, 0, 0).to_bytes();
        assert_eq!(Header::decode(&good[..33]), Err(HeaderError::Short));
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            Header::decode(&bytes).map(|_| ())
        };
        assert_eq!(with(0, 0x21), Err(HeaderError::Version));
        assert_eq!(with(1, 0), Err(HeaderError::Protocol));
        assert_eq!(with(1, 4), Err(HeaderError::Protocol));
        assert_eq!(with(3, 1), Err(HeaderError::Length));
        assert_eq!(with(1, 3), Ok(()));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_err_and_decoded_ones_encode_back(
            mut bytes in prop::collection::vec(any::<u8>(), 0..80), fix: bool
        ) {
            if fix && bytes.len() >= Header::LEN {
                bytes[0] = 0x10 | bytes[0] & 0x0F;
                bytes[1] = 1 + bytes[1] % 3;
                let len = (bytes.len() - Header::LEN) as u16;
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
            }
            if let Ok((header, payload)) = Header::decode(&bytes) {
                let mut again: Vec<u8> = header.to_bytes().to_vec();
                again.extend_from_slice(payload);
                prop_assert_eq!(again, bytes);
            } else {
                prop_assert!(!fix || bytes.len() < Header::LEN);
            }
        }
    }
}
