//! Fixed byte layouts and control message bodies (`wire.md` 4.1, 7, 9, 10).
//!
//! Nothing here keeps state or allocates; what comes from the network decodes into types of
//! fixed capacity or into borrowed slices, and bad bytes give a typed error.

pub mod control;
pub mod frame;
#[cfg(test)]
mod frozen;
pub mod header;
pub mod punch;
pub mod registry;
pub mod stun;

use core::fmt;
use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeTuple, Serializer};

/// `N` bytes in a postcard body, without a length in front: records, grants, keys and
/// signatures have one fixed layout of their own (`wire.md` 2.1, 6.2) and are carried as is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes<const N: usize>(pub [u8; N]);

/// A record without `prev_sig`, as sent (`wire.md` 2.1).
pub type RecordBytes = Bytes<188>;
/// A grant, as sent (`wire.md` 6.2).
pub type GrantBytes = Bytes<156>;
/// An Assign: log index 8, time 8, signature 64 (`wire.md` 6.2).
pub type AssignBytes = Bytes<80>;
/// A beacon entry: node 4, tunnel key 32, serial 8, signature 64 (`wire.md` 7).
pub type BeaconBytes = Bytes<108>;

impl<const N: usize> Bytes<N> {
    /// The bytes.
    pub const fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl<const N: usize> From<[u8; N]> for Bytes<N> {
    fn from(bytes: [u8; N]) -> Self {
        Bytes(bytes)
    }
}

impl<const N: usize> Default for Bytes<N> {
    fn default() -> Self {
        Bytes([0; N])
    }
}

impl<const N: usize> fmt::Debug for Bytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.iter().take(8) {
            write!(f, "{byte:02x}")?;
        }
        if N > 8 { write!(f, "..({N})") } else { Ok(()) }
    }
}

/// In a binary format the bytes alone, in a readable one (exports) hexadecimal digits.
impl<const N: usize> Serialize for Bytes<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            return s.collect_str(&Hex(&self.0));
        }
        let mut tuple = s.serialize_tuple(N)?;
        for byte in &self.0 {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() { d.deserialize_str(Fill) } else { d.deserialize_tuple(N, Fill) }
    }
}

struct Fill<const N: usize>;

impl<'de, const N: usize> Visitor<'de> for Fill<N> {
    type Value = Bytes<N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Bytes<N>, A::Error> {
        let mut bytes = [0; N];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(i, &self))?;
        }
        Ok(Bytes(bytes))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes<N>, E> {
        let digits = text.as_bytes();
        if digits.len() != 2 * N {
            return Err(E::invalid_length(digits.len() / 2, &self));
        }
        let digit = |d: u8| char::from(d).to_digit(16).ok_or_else(|| E::custom("not hexadecimal"));
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Bytes(bytes))
    }
}

/// Why a message could not be read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Too short, too long, out of range, or not of this type.
    #[error("malformed message")]
    Malformed,
    /// A message kind that this version does not know (`wire.md`: enums are append-only).
    #[error("unknown message kind")]
    UnknownKind,
    /// The caller's buffer is too small for the message.
    #[error("the buffer is too small for the message")]
    BufferTooSmall,
}

/// Decodes the postcard enum `T` of `kinds` variants from the whole of `bytes`: a variant
/// added by a later version is told apart from nonsense, and trailing bytes are nonsense.
fn decode_enum<'a, T: serde::Deserialize<'a>>(
    bytes: &'a [u8],
    kinds: u32,
) -> Result<T, CodecError> {
    let (kind, _) = postcard::take_from_bytes::<u32>(bytes).map_err(|_| CodecError::Malformed)?;
    if kind >= kinds {
        return Err(CodecError::UnknownKind);
    }
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(CodecError::Malformed),
    }
}

fn encode_into<T: serde::Serialize>(value: &T, out: &mut [u8]) -> Result<usize, CodecError> {
    postcard::to_slice(value, out).map(|used| used.len()).map_err(|_| CodecError::BufferTooSmall)
}
