//! Deadlines of many owners: an indexed binary heap with one entry per owner.

use crate::slab::Store;
use crate::time::Instant;
use core::fmt;

const ABSENT: u32 = u32::MAX;

/// One cell of a [`Deadlines`]: a heap place and, for the owner of the same number, where its
/// entry stands in the heap.
#[derive(Clone, Copy)]
pub struct Cell {
    at: Instant,
    owner: u32,
    place: u32,
}

impl Cell {
    /// An unused cell, for storage that the caller lends.
    pub const fn empty() -> Self {
        Cell { at: Instant::NEVER, owner: ABSENT, place: ABSENT }
    }
}

/// The earliest deadline of each owner `0..capacity`; O(log n) to set, O(1) to see the first.
/// Equal deadlines fire in an order that depends on the history alone.
pub struct Deadlines<'s> {
    cells: Store<'s, Cell>,
    len: usize,
}

impl fmt::Debug for Deadlines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deadlines({}/{})", self.len, self.cells.len())
    }
}

impl<'s> Deadlines<'s> {
    /// No deadline is set; owners are numbered below `cells.len()`.
    pub fn new(mut cells: Store<'s, Cell>) -> Self {
        cells.fill(Cell::empty());
        Deadlines { cells, len: 0 }
    }

    /// Room for `owners` owners.
    #[cfg(feature = "alloc")]
    pub fn boxed(owners: usize) -> Deadlines<'static> {
        Deadlines { cells: Store::<Cell>::boxed_with(owners, Cell::empty), len: 0 }
    }

    /// Sets, moves or (`None`, or [`Instant::NEVER`]) clears the deadline of `owner`.
    pub fn set(&mut self, owner: usize, at: Option<Instant>) {
        let place = self.cells[owner].place;
        match at.filter(|at| *at != Instant::NEVER) {
            Some(at) if place == ABSENT => {
                let place = self.len;
                self.len += 1;
                self.put(place, at, owner as u32);
                self.rise(place);
            }
            Some(at) => {
                let place = place as usize;
                self.cells[place].at = at;
                let place = self.rise(place);
                self.sink(place);
            }
            None if place == ABSENT => {}
            None => {
                let place = place as usize;
                self.cells[owner].place = ABSENT;
                self.len -= 1;
                if place != self.len {
                    let (at, moved) = (self.cells[self.len].at, self.cells[self.len].owner);
                    self.put(place, at, moved);
                    let place = self.rise(place);
                    self.sink(place);
                }
            }
        }
    }

    /// The deadline of `owner`.
    pub fn get(&self, owner: usize) -> Option<Instant> {
        let place = self.cells[owner].place;
        (place != ABSENT).then(|| self.cells[place as usize].at)
    }

    /// The earliest deadline and whose it is.
    pub fn first(&self) -> Option<(Instant, usize)> {
        (self.len > 0).then(|| (self.cells[0].at, self.cells[0].owner as usize))
    }

    /// Removes and returns an owner whose deadline is not after `now`, earliest first.
    pub fn pop_due(&mut self, now: Instant) -> Option<usize> {
        let (at, owner) = self.first()?;
        if at > now {
            return None;
        }
        self.set(owner, None);
        Some(owner)
    }

    fn put(&mut self, place: usize, at: Instant, owner: u32) {
        self.cells[place].at = at;
        self.cells[place].owner = owner;
        self.cells[owner as usize].place = place as u32;
    }

    fn swap(&mut self, a: usize, b: usize) {
        let (x, y) = (self.cells[a], self.cells[b]);
        self.put(a, y.at, y.owner);
        self.put(b, x.at, x.owner);
    }

    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 && self.cells[place].at < self.cells[(place - 1) / 2].at {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        place
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let mut least = place;
            for child in [left, right] {
                if child < self.len && self.cells[child].at < self.cells[least].at {
                    least = child;
                }
            }
            if least == place {
                return;
            }
            self.swap(place, least);
            place = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_table(ops in prop::collection::vec((0usize..9, 0u64..60), 0..300)) {
            let mut heap = Deadlines::boxed(9);
            let mut model = [None; 9];
            for (owner, at) in ops {
                let at = (at >= 10).then(|| Instant::from_nanos(at));
                heap.set(owner, at);
                model[owner] = at;
                prop_assert_eq!(heap.first().map(|f| f.0), model.iter().flatten().min().copied());
                for (i, at) in model.iter().enumerate() {
                    prop_assert_eq!(heap.get(i), *at);
                }
            }
            let mut last = Instant::START;
            while let Some((at, owner)) = heap.first() {
                prop_assert!(at >= last);
                last = at;
                prop_assert_eq!(heap.pop_due(at), Some(owner));
                prop_assert_eq!(model[owner].take(), Some(at));
            }
            prop_assert!(model.iter().all(Option::is_none));
        }
    }
}
