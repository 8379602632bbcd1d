//! Transfers that their sender has numbered, and what a receiver remembers of them
//! (`wire.md` 12: delivered exactly once by its id).
//!
//! A sender with a durable outbox makes its ids of 8 random bytes, its incarnation, and 8 bytes
//! of a number that counts from 1 per receiver. It takes a fresh incarnation whenever it cannot
//! be sure of the last number it used, such as at each start, so no number is ever used twice,
//! not even by an outbox restored from a backup. To one receiver it sends in order: it comes to
//! the next number only when the one before is stored, refused or given up. Nothing of this
//! shows on the wire: an id is 16 bytes, as ever.
//!
//! The receiver so remembers any number of deleted messages in a [`NumberSet`], which is one
//! range for a sender that keeps the order.

use super::TransferId;
use heapless::Vec;

/// Numbers are below this. An id of 16 random bytes looks like a numbered one in one case of
/// 2^24, and is then a numbered one: an incarnation with one number, as good as any.
pub const NUMBER_LIMIT: u64 = 1 << 40;

/// Ranges that a [`NumberSet`] keeps apart.
pub const RANGES_MAX: usize = 32;

impl TransferId {
    /// The id of a numbered transfer; `None` unless `1 <= number < NUMBER_LIMIT`.
    pub fn numbered(incarnation: [u8; 8], number: u64) -> Option<TransferId> {
        if number == 0 || number >= NUMBER_LIMIT {
            return None;
        }
        let mut id = [0; 16];
        id[..8].copy_from_slice(&incarnation);
        id[8..].copy_from_slice(&number.to_be_bytes());
        Some(TransferId(id))
    }

    /// Incarnation and number, if it is the id of a numbered transfer.
    pub fn number(self) -> Option<([u8; 8], u64)> {
        let (mut incarnation, mut number) = ([0; 8], [0; 8]);
        incarnation.copy_from_slice(&self.0[..8]);
        number.copy_from_slice(&self.0[8..]);
        let number = u64::from_be_bytes(number);
        (1..NUMBER_LIMIT).contains(&number).then_some((incarnation, number))
    }
}

/// A set of numbers, kept as at most [`RANGES_MAX`] ranges: the highest number up to which all
/// are there, and a bounded set of gaps above it.
///
/// A range too many closes the lowest gap: its numbers count as there. A sender that keeps the
/// order has given them up long before; one that does not, and leaves more gaps than these,
/// loses what it sends into the lowest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NumberSet {
    /// First and last of each, ascending, with a gap between any two.
    ranges: Vec<(u64, u64), RANGES_MAX>,
}

impl NumberSet {
    /// The empty set.
    pub const fn new() -> Self {
        NumberSet { ranges: Vec::new() }
    }

    /// Whether a number is there.
    pub fn contains(&self, number: u64) -> bool {
        self.ranges.iter().any(|&(first, last)| (first..=last).contains(&number))
    }

    /// First and last number of each range, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().copied()
    }

    /// Adds all numbers from `first` to `last`; nothing if `last < first`.
    pub fn insert(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        let (mut first, mut last) = (first, last);
        // Those that it touches become one with it.
        self.ranges.retain(|&(f, l)| {
            let apart = l.saturating_add(1) < first || last.saturating_add(1) < f;
            if !apart {
                (first, last) = (first.min(f), last.max(l));
            }
            apart
        });
        let at = self.ranges.iter().take_while(|&&(f, _)| f < first).count();
        if let Err(new) = self.ranges.insert(at, (first, last)) {
            self.close_lowest_gap(at, new);
        }
    }

    /// Adds a range to a full set, at its place, by joining the two lowest.
    fn close_lowest_gap(&mut self, at: usize, new: (u64, u64)) {
        if at == 0 {
            // The new one and the first.
            self.ranges[0].0 = new.0;
            return;
        }
        let lowest = self.ranges[0].0;
        if at == 1 {
            self.ranges[0] = (lowest, new.1);
            return;
        }
        self.ranges[1].0 = lowest;
        self.ranges.remove(0);
        // There is room now, one place further down.
        let _ = self.ranges.insert(at - 1, new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ranges(set: &NumberSet) -> std::vec::Vec<(u64, u64)> {
        set.ranges().collect()
    }

    #[test]
    fn ids_carry_incarnation_and_number() {
        let id = TransferId::numbered(*b"outbox 1", 7).unwrap();
        assert_eq!(id.number(), Some((*b"outbox 1", 7)));
        assert_eq!(TransferId::numbered([1; 8], 0), None);
        assert_eq!(TransferId::numbered([1; 8], NUMBER_LIMIT), None);
        assert_eq!(TransferId([9; 16]).number(), None);
    }

    #[test]
    fn numbers_in_order_are_one_range_and_gaps_are_closed_as_they_fill() {
        let mut set = NumberSet::new();
        for n in 1..=1000 {
            set.insert(n, n);
        }
        assert_eq!(ranges(&set), [(1, 1000)]);
        set.insert(1003, 1004);
        set.insert(u64::MAX, u64::MAX);
        assert!(!set.contains(1001) && set.contains(1004) && !set.contains(0));
        set.insert(1001, 1002);
        assert_eq!(ranges(&set), [(1, 1004), (u64::MAX, u64::MAX)]);
        set.insert(9, 8);
        assert_eq!(ranges(&set).len(), 2);
    }

    #[test]
    fn a_range_too_many_closes_the_lowest_gap_wherever_it_comes() {
        let full = || {
            let mut set = NumberSet::new();
            for n in 1..=RANGES_MAX as u64 {
                set.insert(10 * n, 10 * n);
            }
            set
        };
        for (new, lowest) in [(5, (5, 10)), (15, (10, 15)), (25, (10, 20)), (999, (10, 20))] {
            let mut set = full();
            set.insert(new, new);
            assert_eq!(ranges(&set).len(), RANGES_MAX, "{new}");
            assert_eq!(ranges(&set)[0], lowest, "{new}");
            assert!(set.contains(new) && (1..=32).all(|n| set.contains(10 * n)), "{new}");
        }
    }

    proptest! {
        #[test]
        fn what_was_inserted_is_there_and_nothing_else_while_the_gaps_are_few(
            inserted in proptest::collection::vec((1u64..60, 0u64..4), 0..40),
        ) {
            let (mut set, mut model) = (NumberSet::new(), BTreeSet::new());
            for (first, more) in inserted {
                set.insert(first, first + more);
                model.extend(first..=first + more);
            }
            for n in 0..70 {
                prop_assert_eq!(set.contains(n), model.contains(&n));
            }
            let ranges = ranges(&set);
            prop_assert!(ranges.windows(2).all(|w| w[0].1 + 1 < w[1].0));
        }

        #[test]
        fn nothing_that_was_inserted_is_ever_forgotten(
            inserted in proptest::collection::vec(0u64..2000, 0..400),
        ) {
            let mut set = NumberSet::new();
            for &n in &inserted {
                set.insert(n, n);
            }
            prop_assert!(inserted.iter().all(|&n| set.contains(n)));
        }
    }
}
