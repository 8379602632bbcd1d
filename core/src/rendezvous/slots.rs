//! Entries by small numbers, growing up to a limit, so that a large limit costs nothing until
//! it is used.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

pub(crate) struct Slots<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
    max: usize,
}

impl<T> Slots<T> {
    pub(crate) fn new(max: usize) -> Self {
        Slots { entries: Vec::new(), free: Vec::new(), max }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// `None` if full.
    pub(crate) fn insert(&mut self, entry: T) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            self.entries[slot as usize] = Some(entry);
            return Some(slot);
        }
        if self.entries.len() >= self.max.min(u32::MAX as usize) {
            return None;
        }
        self.entries.push(Some(entry));
        Some(self.entries.len() as u32 - 1)
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let entry = self.entries.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(entry)
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        self.entries.get(slot as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.entries.get_mut(slot as usize)?.as_mut()
    }
}

/// Large entries under keys. They lie side by side in one piece of memory, which is given back
/// when the last one is gone: a flood of short-lived entries, made and dropped by whichever
/// thread, leaves no holes in the memory of any.
pub(crate) struct Keyed<K, T> {
    slots: Slots<T>,
    of: BTreeMap<K, u32>,
}

impl<K: Ord + Copy, T> Keyed<K, T> {
    pub(crate) fn new(max: usize) -> Self {
        Keyed { slots: Slots::new(max), of: BTreeMap::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.of.len()
    }

    pub(crate) fn contains_key(&self, key: K) -> bool {
        self.of.contains_key(&key)
    }

    /// Whether there was room. The key is new.
    pub(crate) fn insert(&mut self, key: K, entry: T) -> bool {
        debug_assert!(!self.contains_key(key), "the entry before it would be lost");
        let Some(slot) = self.slots.insert(entry) else { return false };
        self.of.insert(key, slot);
        true
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<T> {
        let entry = self.slots.remove(self.of.remove(&key)?);
        if self.of.is_empty() {
            self.slots = Slots::new(self.slots.max);
        }
        entry
    }

    pub(crate) fn get(&self, key: K) -> Option<&T> {
        self.slots.get(*self.of.get(&key)?)
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut T> {
        self.slots.get_mut(*self.of.get(&key)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_entries_are_found_and_their_memory_is_given_back() {
        let mut keyed = Keyed::new(2);
        assert!(keyed.insert(7u64, 'a') && keyed.insert(9, 'b') && !keyed.insert(8, 'c'));
        assert_eq!((keyed.get(7), keyed.get(8), keyed.len()), (Some(&'a'), None, 2));
        *keyed.get_mut(9).unwrap() = 'd';
        assert_eq!((keyed.remove(7), keyed.remove(7)), (Some('a'), None));
        assert!(keyed.insert(8, 'c') && !keyed.contains_key(7));
        assert_eq!((keyed.remove(9), keyed.remove(8)), (Some('d'), Some('c')));
        assert_eq!((keyed.len(), keyed.slots.entries.capacity()), (0, 0));
        assert!(keyed.insert(1, 'e'));
    }

    #[test]
    fn slots_are_used_again_and_bounded() {
        let mut slots = Slots::new(2);
        let (a, b) = (slots.insert('a').unwrap(), slots.insert('b').unwrap());
        assert_eq!(slots.insert('c'), None);
        assert_eq!((slots.remove(a), slots.remove(a), slots.len()), (Some('a'), None, 1));
        assert_eq!(slots.insert('c'), Some(a));
        assert_eq!((slots.get(a), slots.get(9)), (Some(&'c'), None));
        assert_eq!(slots.get_mut(b), Some(&mut 'b'));
    }
}
