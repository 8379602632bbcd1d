//! From 32-bit indices to table places: open addressing over the caller's memory.
//!
//! Session indices are 31 random bits of our own drawing, so they are their own hash; the
//! table is at most half full, so a look-up costs about one cell.

use crate::slab::Store;

const EMPTY: u32 = u32::MAX;

/// One cell.
#[derive(Clone, Copy, Debug)]
pub struct IndexCell {
    key: u32,
    value: u32,
}

impl IndexCell {
    /// An unused cell, for storage that the caller lends.
    pub const fn empty() -> Self {
        IndexCell { key: 0, value: EMPTY }
    }
}

/// A multimap from `u32` to `u32` below `u32::MAX`.
pub struct IndexTable<'s> {
    cells: Store<'s, IndexCell>,
    len: usize,
}

impl<'s> IndexTable<'s> {
    /// An empty table; it takes half as many entries as there are cells.
    pub fn new(mut cells: Store<'s, IndexCell>) -> Self {
        cells.fill(IndexCell::empty());
        IndexTable { cells, len: 0 }
    }

    /// Cells that `entries` entries need.
    pub const fn cells_for(entries: usize) -> usize {
        2 * entries + 1
    }

    fn home(&self, key: u32) -> usize {
        ((u64::from(key << 1 | key >> 31) * self.cells.len() as u64) >> 32) as usize
    }

    /// The first value of `key` for which `matches` holds.
    pub fn find(&self, key: u32, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut place = self.home(key);
        for _ in 0..self.cells.len() {
            let cell = self.cells[place];
            if cell.value == EMPTY {
                return None;
            }
            if cell.key == key && matches(cell.value) {
                return Some(cell.value);
            }
            place = (place + 1) % self.cells.len();
        }
        None
    }

    /// Adds an entry; false if the table is full.
    pub fn insert(&mut self, key: u32, value: u32) -> bool {
        if value == EMPTY || 2 * (self.len + 1) > self.cells.len() {
            return false;
        }
        let mut place = self.home(key);
        while self.cells[place].value != EMPTY {
            place = (place + 1) % self.cells.len();
        }
        self.cells[place] = IndexCell { key, value };
        self.len += 1;
        true
    }

    /// Removes an entry, if it is there.
    pub fn remove(&mut self, key: u32, value: u32) {
        let n = self.cells.len();
        let mut place = self.home(key);
        for _ in 0..n {
            let cell = self.cells[place];
            if cell.value == EMPTY {
                return;
            }
            if cell.key == key && cell.value == value {
                self.close_gap(place);
                self.len -= 1;
                return;
            }
            place = (place + 1) % n;
        }
    }

    /// Moves later entries of the run back, so that no search ends at the gap.
    fn close_gap(&mut self, mut gap: usize) {
        let n = self.cells.len();
        let mut place = gap;
        loop {
            place = (place + 1) % n;
            let cell = self.cells[place];
            if cell.value == EMPTY {
                break;
            }
            // An entry may move back to the gap unless its home lies behind the gap.
            let home = self.home(cell.key);
            if (place + n - home) % n >= (place + n - gap) % n {
                self.cells[gap] = cell;
                gap = place;
            }
        }
        self.cells[gap] = IndexCell::empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn behaves_like_a_multimap(
            ops in prop::collection::vec((any::<bool>(), 0u32..12, 0u32..4), 0..300),
        ) {
            let mut table =
                IndexTable::new(Store::<IndexCell>::boxed_with(IndexTable::cells_for(9), IndexCell::empty));
            let mut model: Vec<(u32, u32)> = Vec::new();
            for (insert, key, value) in ops {
                // Keys crowd at both ends, so that runs wrap around.
                let key = if key % 2 == 0 { key } else { u32::MAX / 2 - key };
                if insert {
                    if table.insert(key, value) {
                        model.push((key, value));
                    } else {
                        prop_assert_eq!(model.len(), 9);
                    }
                } else {
                    table.remove(key, value);
                    if let Some(i) = model.iter().position(|e| *e == (key, value)) {
                        model.remove(i);
                    }
                }
                for k in (0..12).chain(u32::MAX / 2 - 12..u32::MAX / 2) {
                    for v in 0..4 {
                        let there = table.find(k, |x| x == v) == Some(v);
                        prop_assert_eq!(there, model.contains(&(k, v)), "{} {}", k, v);
                    }
                }
            }
        }
    }
}
