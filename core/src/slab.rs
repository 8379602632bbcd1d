//! Fixed-capacity storage: boxed once at construction, or borrowed from the caller where
//! there is no allocator (`architecture.md` 5).

use core::fmt;
use core::ops::{Deref, DerefMut};

#[cfg(feature = "alloc")]
use alloc::{boxed::Box, vec::Vec};

/// A slice whose length is set once: the caller's, or a box.
pub enum Store<'s, T> {
    /// The caller's memory.
    Borrowed(&'s mut [T]),
    /// Allocated once, at construction.
    #[cfg(feature = "alloc")]
    Boxed(Box<[T]>),
    /// Allocated once, at construction, and filled from the front up to the given length as
    /// places are used: a table that is not used costs no resident memory.
    #[cfg(feature = "alloc")]
    Growing(Vec<T>, usize),
}

impl<T> Store<'_, T> {
    /// `len` values made by `make`.
    #[cfg(feature = "alloc")]
    pub fn boxed_with(len: usize, make: impl FnMut() -> T) -> Store<'static, T> {
        let mut items = Vec::with_capacity(len);
        items.resize_with(len, make);
        Store::Boxed(items.into_boxed_slice())
    }

    /// Room for `len` values, none of which exists before [`Store::reach`] makes it.
    #[cfg(feature = "alloc")]
    pub fn growing(len: usize) -> Store<'static, T> {
        Store::Growing(Vec::with_capacity(len), len)
    }

    /// How many values there are or can be.
    pub fn capacity(&self) -> usize {
        match self {
            #[cfg(feature = "alloc")]
            Store::Growing(_, capacity) => *capacity,
            other => other.len(),
        }
    }

    /// Makes sure that there is a value at `index`; `false` beyond the capacity. Allocates
    /// nothing.
    pub fn reach(&mut self, index: usize, make: impl FnMut() -> T) -> bool {
        let _ = &make;
        match self {
            #[cfg(feature = "alloc")]
            Store::Growing(items, capacity) if index >= items.len() && index < *capacity => {
                items.resize_with(index + 1, make);
                true
            }
            other => index < other.len(),
        }
    }
}

#[cfg(feature = "alloc")]
impl Store<'_, u8> {
    /// `len` zero bytes. The allocator hands out untouched zero pages, so a large pool that
    /// is not used costs no resident memory.
    pub fn boxed_zeroed(len: usize) -> Store<'static, u8> {
        Store::Boxed(alloc::vec![0; len].into_boxed_slice())
    }
}

#[cfg(feature = "alloc")]
impl Store<'_, u64> {
    /// `len` zero words; what is not used costs no resident memory.
    pub fn boxed_zero_words(len: usize) -> Store<'static, u64> {
        Store::Boxed(alloc::vec![0; len].into_boxed_slice())
    }
}

impl<T> Deref for Store<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match self {
            Store::Borrowed(items) => items,
            #[cfg(feature = "alloc")]
            Store::Boxed(items) => items,
            #[cfg(feature = "alloc")]
            Store::Growing(items, _) => items,
        }
    }
}

impl<T> DerefMut for Store<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Store::Borrowed(items) => items,
            #[cfg(feature = "alloc")]
            Store::Boxed(items) => items,
            #[cfg(feature = "alloc")]
            Store::Growing(items, _) => items,
        }
    }
}

impl<'s, T> From<&'s mut [T]> for Store<'s, T> {
    fn from(items: &'s mut [T]) -> Self {
        Store::Borrowed(items)
    }
}

impl<T> fmt::Debug for Store<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.len())
    }
}

/// Names one entry of a [`Slab`] for as long as it lives; a key of a removed entry finds
/// nothing, also after its slot is used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// The slot's number, below the slab's capacity.
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// One number for handles that leave the core.
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// The key whose [`Key::to_bits`] this is.
    pub const fn from_bits(bits: u64) -> Key {
        Key { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

const NIL: u32 = u32::MAX;

/// One place of a [`Slab`].
pub struct Slot<T> {
    generation: u32,
    next_free: u32,
    value: Option<T>,
}

impl<T> Slot<T> {
    /// An empty place, for storage that the caller lends.
    pub const fn empty() -> Self {
        Slot { generation: 0, next_free: NIL, value: None }
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot::empty()
    }
}

/// Entries of one type with stable keys, O(1) insertion and removal, and a fixed capacity.
/// Iteration is in slot order, the same for the same history.
pub struct Slab<'s, T> {
    slots: Store<'s, Slot<T>>,
    free: u32,
    /// Slots from here on were never used; so a boxed slab touches no page before it needs it.
    fresh: u32,
    len: u32,
}

impl<T> fmt::Debug for Slab<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slab({}/{})", self.len, self.slots.len())
    }
}

impl<'s, T> Slab<'s, T> {
    /// An empty slab over `slots`; what they held is dropped.
    pub fn new(mut slots: Store<'s, Slot<T>>) -> Self {
        for slot in slots.iter_mut() {
            slot.value = None;
        }
        Slab { slots, free: NIL, fresh: 0, len: 0 }
    }

    /// A slab with room for `capacity` entries.
    #[cfg(feature = "alloc")]
    pub fn boxed(capacity: usize) -> Slab<'static, T> {
        Slab { slots: Store::<Slot<T>>::growing(capacity), free: NIL, fresh: 0, len: 0 }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the next insertion fails.
    pub fn is_full(&self) -> bool {
        self.len() == self.slots.capacity()
    }

    /// The most entries there can be.
    pub fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    /// Adds an entry; gives it back if the slab is full.
    pub fn insert(&mut self, value: T) -> Result<Key, T> {
        let index = if self.free != NIL {
            let index = self.free;
            self.free = self.slots[index as usize].next_free;
            index
        } else if self.slots.reach(self.fresh as usize, Slot::empty) {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return Err(value);
        };
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        self.len += 1;
        Ok(Key { index, generation: slot.generation })
    }

    /// Removes and returns an entry.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index())?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.next_free = self.free;
        self.free = key.index;
        self.len -= 1;
        Some(value)
    }

    /// The entry of `key`.
    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index())?;
        if slot.generation == key.generation { slot.value.as_ref() } else { None }
    }

    /// The entry of `key`, mutably.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index())?;
        if slot.generation == key.generation { slot.value.as_mut() } else { None }
    }

    /// The key of the entry in slot `index`, if there is one.
    pub fn key_at(&self, index: usize) -> Option<Key> {
        let slot = self.slots.get(index)?;
        slot.value.as_ref()?;
        Some(Key { index: index as u32, generation: slot.generation })
    }

    /// All entries, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots[..self.fresh as usize].iter().enumerate().filter_map(|(i, slot)| {
            let key = Key { index: i as u32, generation: slot.generation };
            slot.value.as_ref().map(|value| (key, value))
        })
    }

    /// All entries, mutably, in slot order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut T)> {
        self.slots[..self.fresh as usize].iter_mut().enumerate().filter_map(|(i, slot)| {
            let key = Key { index: i as u32, generation: slot.generation };
            slot.value.as_mut().map(|value| (key, value))
        })
    }
}

impl<T> core::ops::Index<Key> for Slab<'_, T> {
    type Output = T;
    fn index(&self, key: Key) -> &T {
        self.get(key).expect("a key is used only while its entry lives")
    }
}

impl<T> core::ops::IndexMut<Key> for Slab<'_, T> {
    fn index_mut(&mut self, key: Key) -> &mut T {
        self.get_mut(key).expect("a key is used only while its entry lives")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stale_keys_find_nothing() {
        let mut slots = [const { Slot::empty() }; 2];
        let mut slab = Slab::new(Store::from(&mut slots[..]));
        let a = slab.insert("a").unwrap();
        let b = slab.insert("b").unwrap();
        assert_eq!(slab.insert("c"), Err("c"));
        assert_eq!(slab.remove(a), Some("a"));
        assert_eq!(slab.remove(a), None);
        let c = slab.insert("c").unwrap();
        assert_eq!((c.index(), slab.get(a), slab.get(c)), (a.index(), None, Some(&"c")));
        assert_eq!(Key::from_bits(b.to_bits()), b);
        assert_eq!(slab.iter().map(|(_, v)| *v).collect::<std::vec::Vec<_>>(), ["c", "b"]);
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(ops in prop::collection::vec((any::<bool>(), 0usize..8), 0..200)) {
            let mut slab = Slab::<u32>::boxed(5);
            let mut model = std::vec::Vec::<(Key, u32)>::new();
            for (n, (insert, at)) in ops.into_iter().enumerate() {
                if insert {
                    match slab.insert(n as u32) {
                        Ok(key) => model.push((key, n as u32)),
                        Err(_) => prop_assert_eq!(model.len(), 5),
                    }
                } else if at < model.len() {
                    let (key, value) = model.swap_remove(at);
                    prop_assert_eq!(slab.remove(key), Some(value));
                    prop_assert_eq!(slab.get(key), None);
                }
                prop_assert_eq!(slab.len(), model.len());
                for (key, value) in &model {
                    prop_assert_eq!(slab.get(*key), Some(value));
                }
            }
        }
    }
}
