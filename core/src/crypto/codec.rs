//! Reading and writing fixed layouts: every read is checked, every write fits by its type.

use core::fmt;
use core::marker::PhantomData;

/// Why bytes are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Shorter or longer than the layout.
    #[error("wrong length")]
    Length,
    /// A field holds a value that it may not have.
    #[error("a field has a value it may not have")]
    Field,
}

/// Takes fields off the front of a slice.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub(crate) fn remaining(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn slice(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(DecodeError::Length)?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Length)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// Nothing may be left over.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Length) }
    }
}

/// Puts fields one behind the other into a buffer that is large enough by construction.
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut [u8]) -> Self {
        Writer { out, len: 0 }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.out[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Reads a serde byte string of bounded length: the fixed layouts travel in postcard bodies as
/// `length ‖ bytes`.
pub(crate) struct BytesVisitor<T>(pub(crate) fn(&[u8]) -> Result<T, DecodeError>, PhantomData<T>);

impl<T> BytesVisitor<T> {
    pub(crate) fn new(decode: fn(&[u8]) -> Result<T, DecodeError>) -> Self {
        BytesVisitor(decode, PhantomData)
    }
}

impl<'de, T> serde::de::Visitor<'de> for BytesVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes of a fixed layout")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<T, E> {
        (self.0)(bytes).map_err(E::custom)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
        let mut bytes = heapless::Vec::<u8, 1024>::new();
        while let Some(byte) = seq.next_element()? {
            bytes.push(byte).map_err(|_| serde::de::Error::custom(DecodeError::Length))?;
        }
        (self.0)(&bytes).map_err(serde::de::Error::custom)
    }
}

/// Serde for a type with `encode` (to something that derefs to bytes) and `decode`.
macro_rules! serde_as_bytes {
    ($name:ty) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_bytes(&self.encode()[..])
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.deserialize_bytes($crate::crypto::codec::BytesVisitor::new(<$name>::decode))
            }
        }
    };
}
pub(crate) use serde_as_bytes;
