//! Where an agent keeps what must survive a restart.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use std::io;

/// A key and its new value, or `None` if it was deleted.
pub type Change = ([u8; 8], Option<Vec<u8>>);

/// Durable storage of an agent's facts: trust, pinned keys, its record. A few kilobytes in
/// all, written rarely. The identity's secret is not among them.
///
/// Both methods may block; they are called on a thread where they may, one at a time. That
/// thread belongs to no runtime.
pub trait Store: Send + 'static {
    /// Hands every stored fact to `each`, in any order.
    fn load(&mut self, each: &mut dyn FnMut([u8; 8], &[u8])) -> io::Result<()>;

    /// Makes all changes durable, in this order, all or none; returns when they are on disk.
    /// After an error the same changes are committed again a second later, and what depends
    /// on them waits.
    fn commit(&mut self, changes: &[Change]) -> io::Result<()>;
}

/// A store that forgets everything at the end of the process: for tests and for agents that
/// are made anew each time.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(BTreeMap<[u8; 8], Vec<u8>>);

impl Store for MemoryStore {
    fn load(&mut self, each: &mut dyn FnMut([u8; 8], &[u8])) -> io::Result<()> {
        self.0.iter().for_each(|(key, value)| each(*key, value));
        Ok(())
    }

    fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        for (key, value) in changes {
            match value {
                Some(value) => self.0.insert(*key, value.clone()),
                None => self.0.remove(key),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn changes_apply_in_order() {
        let mut store = MemoryStore::default();
        let (a, b) = (*b"a.......", *b"b.......");
        store.commit(&[(a, Some(vec![1])), (b, Some(vec![2])), (a, Some(vec![3]))]).unwrap();
        store.commit(&[(b, None)]).unwrap();
        let mut facts = Vec::new();
        store.load(&mut |key, value| facts.push((key, value.to_vec()))).unwrap();
        assert_eq!(facts, [(a, vec![3])]);
    }
}
