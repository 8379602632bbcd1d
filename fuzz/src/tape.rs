//! How targets read the fuzzer's bytes, and how the seed generator writes them.
//!
//! All numbers are little-endian and come from the front, so that a mutation moves what
//! follows it and nothing else, and so that seeds can be written by hand. What is missing at
//! the end reads as zero; targets stop when [`Tape::is_empty`].

use arbitrary::Unstructured;

/// The fuzzer's bytes as a sequence of choices.
pub struct Tape<'a>(Unstructured<'a>);

impl<'a> Tape<'a> {
    /// Reads from the first byte on.
    pub fn new(data: &'a [u8]) -> Self {
        Tape(Unstructured::new(data))
    }

    /// Whether all was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// Two bytes.
    pub fn word(&mut self) -> u16 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// Four bytes.
    pub fn long(&mut self) -> u32 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// Eight bytes.
    pub fn quad(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or(0)
    }

    /// One byte as a number below `bound`.
    pub fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    /// One byte, as a coin.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        core::array::from_fn(|_| self.byte())
    }

    /// At most `n` bytes: those that are left.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let n = n.min(self.0.len());
        self.0.bytes(n).unwrap_or(&[])
    }

    /// A length of two bytes, then so many.
    pub fn chunk(&mut self) -> &'a [u8] {
        let n = self.word();
        self.take(n.into())
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.take(usize::MAX)
    }
}

/// Writes what [`Tape`] reads.
#[derive(Clone, Default)]
pub struct Script(pub Vec<u8>);

impl Script {
    /// An empty tape.
    pub fn new() -> Self {
        Script::default()
    }

    /// One byte.
    pub fn byte(mut self, n: u8) -> Self {
        self.0.push(n);
        self
    }

    /// Two bytes.
    pub fn word(mut self, n: u16) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    /// Four bytes.
    pub fn long(mut self, n: u32) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    /// Eight bytes.
    pub fn quad(mut self, n: u64) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    /// These bytes and no length.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// A length, and these bytes.
    pub fn chunk(self, bytes: &[u8]) -> Self {
        self.word(bytes.len() as u16).raw(bytes)
    }

    /// Another script behind this one.
    pub fn then(self, other: Script) -> Self {
        self.raw(&other.0)
    }
}
