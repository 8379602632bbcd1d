//! Durable facts as a sans-IO machine sees them: keys and values that the adapter writes, and
//! the rule that nothing derived from an unwritten fact leaves the node.
//!
//! A fact is an object of a table (a peer, an outgoing trust request, the node's own keys)
//! with a [`Fact`] beside it. Changing the object touches its fact; `poll_store` of the owner
//! hands out touched facts one by one, each with a rising sequence number; the adapter reports
//! with `handle_stored(n)` that all up to `n` are on disk. Until then the [`Journal`] is not
//! quiet, and its owner sends nothing that could contradict what a restart would load
//! (a nonce before its request, a boot id before `Register`, a pin before its answer).
//!
//! | State | touch | poll_store | handle_stored(n ≥ last) |
//! |---|---|---|---|
//! | quiet | dirty, edge | – | – |
//! | dirty | – | written when none is dirty | – |
//! | written | dirty | – | quiet |

use serde::{Deserialize, Serialize};

/// One durable fact: a key and, unless it was deleted, a value in the buffer of `poll_store`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreChange {
    /// 8 bytes, unique per fact.
    pub key: [u8; 8],
    /// Bytes of the buffer; `None` deletes the key.
    pub len: Option<usize>,
    /// Report this with `handle_stored` once it is on disk.
    pub sequence: u64,
}

/// Longest value of a fact; a buffer of this size suffices for `poll_store`.
pub const VALUE_MAX: usize = 2048;

/// Why stored state was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The key or value is not one of ours, or damaged.
    #[error("stored state does not decode")]
    Malformed,
    /// More than the limits allow.
    #[error("stored state exceeds the limits")]
    Full,
}

/// Whether one fact differs from what was last handed out for storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fact {
    dirty: bool,
}

impl Fact {
    /// A fact that nobody needs to store.
    pub const fn clean() -> Self {
        Fact { dirty: false }
    }

    /// Whether it waits to be handed out.
    pub const fn is_dirty(self) -> bool {
        self.dirty
    }

    /// It changed.
    pub fn touch(&mut self, journal: &mut Journal) {
        if !self.dirty {
            self.dirty = true;
            journal.dirty += 1;
            journal.edge = true;
        }
    }

    /// It is being handed out, under the number returned.
    pub fn hand_out(&mut self, journal: &mut Journal) -> u64 {
        if self.dirty {
            self.dirty = false;
            journal.dirty -= 1;
        }
        journal.last += 1;
        journal.last
    }
}

/// What of all facts is still to be stored.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    dirty: u32,
    last: u64,
    stored: u64,
    edge: bool,
}

impl Journal {
    /// Nothing to store.
    pub const fn new() -> Self {
        Journal { dirty: 0, last: 0, stored: 0, edge: false }
    }

    /// Whether a fact waits to be handed out.
    pub const fn is_dirty(&self) -> bool {
        self.dirty > 0
    }

    /// Whether everything that was changed is on disk, so that effects of it may leave.
    pub const fn is_quiet(&self) -> bool {
        self.dirty == 0 && self.stored >= self.last
    }

    /// All changes up to `sequence` are on disk.
    pub fn handle_stored(&mut self, sequence: u64) {
        // A number that was never given out proves nothing.
        self.stored = self.stored.max(sequence.min(self.last));
    }

    /// Takes the edge "there is something to store".
    pub fn take_edge(&mut self) -> bool {
        let edge = self.edge && self.dirty > 0;
        self.edge = false;
        edge
    }

    /// Whether [`Journal::take_edge`] would say so.
    pub const fn has_edge(&self) -> bool {
        self.edge && self.dirty > 0
    }
}

/// The first byte of every stored value.
const FORMAT: u8 = 1;

/// Writes a fact's value: a format byte, then postcard; gives its length.
///
/// # Panics
/// If `out` is shorter than the value, which [`VALUE_MAX`] bytes never are.
pub(crate) fn encode<T: Serialize>(value: &T, out: &mut [u8]) -> usize {
    out[0] = FORMAT;
    let len = postcard::to_slice(value, &mut out[1..]).expect("VALUE_MAX bytes suffice").len();
    assert!(len < VALUE_MAX);
    1 + len
}

/// Reads what [`encode`] wrote, and nothing behind it.
pub(crate) fn decode<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<T, LoadError> {
    match value.split_first() {
        Some((&FORMAT, rest)) => match postcard::take_from_bytes(rest) {
            Ok((value, [])) => Ok(value),
            _ => Err(LoadError::Malformed),
        },
        _ => Err(LoadError::Malformed),
    }
}

/// The key of a fact: four letters and a number.
pub const fn key(kind: &[u8; 4], number: u32) -> [u8; 8] {
    let n = number.to_be_bytes();
    [kind[0], kind[1], kind[2], kind[3], n[0], n[1], n[2], n[3]]
}

/// Splits what [`key`] made.
pub fn split_key(key: &[u8; 8]) -> ([u8; 4], u32) {
    let [a, b, c, d, e, f, g, h] = *key;
    ([a, b, c, d], u32::from_be_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_only_when_all_is_stored() {
        let (mut journal, mut a, mut b) = (Journal::new(), Fact::clean(), Fact::clean());
        assert!(journal.is_quiet() && !journal.take_edge());
        a.touch(&mut journal);
        b.touch(&mut journal);
        assert!(journal.take_edge() && !journal.take_edge());
        let first = a.hand_out(&mut journal);
        journal.handle_stored(first);
        assert!(!journal.is_quiet(), "b is dirty");
        let second = b.hand_out(&mut journal);
        assert!(!journal.is_quiet(), "b is not stored");
        a.touch(&mut journal);
        journal.handle_stored(second);
        assert!(!journal.is_quiet(), "a changed again");
        let third = a.hand_out(&mut journal);
        journal.handle_stored(third + 10);
        assert!(journal.is_quiet());
        a.touch(&mut journal);
        a.hand_out(&mut journal);
        assert!(!journal.is_quiet(), "numbers from the future prove nothing");
        assert_eq!(split_key(&key(b"peer", 7)), (*b"peer", 7));
    }
}
