//! Entries by small numbers, growing up to a limit, so that a large limit costs nothing until
//! it is used.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Entries of a page. A table grows by a page at a time, which moves no entry.
const PAGE: usize = 64;

pub(crate) struct Slots<T> {
    /// Each of [`PAGE`] entries, the last one perhaps of fewer.
    pages: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    len: usize,
    max: usize,
}

impl<T> Slots<T> {
    pub(crate) fn new(max: usize) -> Self {
        Slots { pages: Vec::new(), free: Vec::new(), len: 0, max: max.min(u32::MAX as usize) }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// `None` if full.
    pub(crate) fn insert(&mut self, entry: T) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            *self.place(slot)? = Some(entry);
            self.len += 1;
            return Some(slot);
        }
        // None is free, so all that were ever used are.
        let slot = self.len;
        if slot >= self.max {
            return None;
        }
        if slot.is_multiple_of(PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        self.pages.last_mut()?.push(Some(entry));
        self.len += 1;
        Some(slot as u32)
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let entry = self.place(slot)?.take()?;
        self.free.push(slot);
        self.len -= 1;
        Some(entry)
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        self.pages.get(slot as usize / PAGE)?.get(slot as usize % PAGE)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.place(slot)?.as_mut()
    }

    fn place(&mut self, slot: u32) -> Option<&mut Option<T>> {
        self.pages.get_mut(slot as usize / PAGE)?.get_mut(slot as usize % PAGE)
    }
}

/// Large entries under keys, as small numbers in a tree and side by side in pages: nodes of a
/// tree that held them themselves would stay half empty. The pages are given back when the last
/// entry is gone.
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
        assert_eq!((keyed.len(), keyed.slots.pages.capacity()), (0, 0));
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

    #[test]
    fn many_slots_are_many_pages() {
        let mut slots = Slots::new(3 * PAGE);
        let all: Vec<_> = (0..3 * PAGE).map(|n| slots.insert(n).unwrap()).collect();
        assert_eq!((slots.insert(0), slots.len(), slots.pages.len()), (None, 3 * PAGE, 3));
        let even: Vec<_> = all.iter().step_by(2).map(|slot| slots.remove(*slot)).collect();
        assert!(even.iter().all(Option::is_some) && slots.len() == 3 * PAGE / 2);
        assert!(even.iter().all(|n| slots.insert(n.unwrap() + 1000).is_some()));
        assert_eq!((slots.insert(0), slots.len(), slots.pages.len()), (None, 3 * PAGE, 3));
        assert_eq!((slots.get(all[1]), slots.get(all[3 * PAGE - 1])), (Some(&1), Some(&191)));
    }
}
