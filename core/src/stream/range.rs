//! Sets of half-open number ranges in a fixed array: bytes lost, bytes received out of order,
//! frame counters received.

use heapless::Vec;

/// The set has no room for one more separate range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoRoom;

/// Ascending, disjoint, non-adjacent ranges `start..end`, at most `N`.
///
/// They are kept as 32-bit distances from a base, 8 bytes each: windows are at most 64 MiB, and
/// a session ends long before 2^31 frames (`wire.md` 5.4). A range that would lie further than
/// that from the lowest one finds no room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeSet<const N: usize> {
    base: u64,
    ranges: Vec<(u32, u32), N>,
}

/// Distances from here on make the base move.
const FAR: u64 = 1 << 31;

impl<const N: usize> RangeSet<N> {
    pub(crate) const fn new() -> Self {
        RangeSet { base: 0, ranges: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.ranges.len()
    }

    fn far(&self, range: (u32, u32)) -> (u64, u64) {
        (self.base + u64::from(range.0), self.base + u64::from(range.1))
    }

    /// The ranges, ascending.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        self.ranges.iter().map(|range| self.far(*range))
    }

    pub(crate) fn first(&self) -> Option<(u64, u64)> {
        self.ranges.first().map(|range| self.far(*range))
    }

    pub(crate) fn last(&self) -> Option<(u64, u64)> {
        self.ranges.last().map(|range| self.far(*range))
    }

    /// Whether `at` is in the set.
    #[cfg(test)]
    pub(crate) fn contains(&self, at: u64) -> bool {
        self.iter().any(|(start, end)| start <= at && at < end)
    }

    /// `start..end` as distances, the base moved so that they fit.
    fn near(&mut self, start: u64, end: u64) -> Result<(u32, u32), NoRoom> {
        if self.ranges.is_empty() {
            self.base = start;
        } else if start < self.base || end - self.base >= FAR {
            let lowest = self.first().map_or(start, |first| first.0.min(start));
            let highest = self.last().map_or(end, |last| last.1.max(end));
            if highest - lowest >= 2 * FAR {
                return Err(NoRoom);
            }
            let base = self.base;
            for range in &mut self.ranges {
                *range = (
                    (base + u64::from(range.0) - lowest) as u32,
                    (base + u64::from(range.1) - lowest) as u32,
                );
            }
            self.base = lowest;
        }
        Ok(((start - self.base) as u32, (end - self.base) as u32))
    }

    /// Adds `start..end`, joining what it touches.
    ///
    /// # Errors
    /// [`NoRoom`] if that would be one range too many; then nothing changes.
    pub(crate) fn insert(&mut self, start: u64, end: u64) -> Result<(), NoRoom> {
        if start >= end {
            return Ok(());
        }
        let (start, end) = self.near(start, end)?;
        // What is received or acknowledged in order extends the last range.
        if let Some(last) = self.ranges.last_mut()
            && start >= last.0
            && start <= last.1
        {
            last.1 = last.1.max(end);
            return Ok(());
        }
        let first = self.ranges.partition_point(|r| r.1 < start);
        let after = first + self.ranges[first..].partition_point(|r| r.0 <= end);
        if first == after {
            return self.ranges.insert(first, (start, end)).map_err(|_| NoRoom);
        }
        let joined = (start.min(self.ranges[first].0), end.max(self.ranges[after - 1].1));
        self.ranges[first] = joined;
        self.cut(first + 1, after);
        Ok(())
    }

    /// Adds `start..end`; in a full set the two ranges with the smallest gap become one first,
    /// so the set may come to hold more than was added, never less.
    pub(crate) fn insert_merging(&mut self, start: u64, end: u64) {
        while self.insert(start, end).is_err() && self.ranges.len() > 1 {
            let (mut best, mut gap) = (0, u32::MAX);
            for (i, pair) in self.ranges.windows(2).enumerate() {
                if pair[1].0 - pair[0].1 < gap {
                    (best, gap) = (i, pair[1].0 - pair[0].1);
                }
            }
            self.ranges[best].1 = self.ranges[best + 1].1;
            self.cut(best + 1, best + 2);
        }
    }

    /// Takes out everything below `at`.
    pub(crate) fn remove_below(&mut self, at: u64) {
        if at > self.base {
            let at = u32::try_from(at - self.base).unwrap_or(u32::MAX);
            let gone = self.ranges.partition_point(|r| r.1 <= at);
            self.cut(0, gone);
            if let Some(first) = self.ranges.first_mut() {
                first.0 = first.0.max(at);
            }
        }
    }

    /// Takes out `start..end`. A range that would have to be split in a full set stays whole.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
        let near = |at: u64| u32::try_from(at.saturating_sub(self.base)).unwrap_or(u32::MAX);
        let (start, end) = (near(start), near(end));
        if start >= end {
            return;
        }
        let mut i = self.ranges.partition_point(|r| r.1 <= start);
        while let Some(&(s, e)) = self.ranges.get(i)
            && s < end
        {
            match (s < start, e > end) {
                (true, true) => {
                    if self.ranges.insert(i + 1, (end, e)).is_ok() {
                        self.ranges[i].1 = start;
                    }
                    return;
                }
                (true, false) => {
                    self.ranges[i].1 = start;
                    i += 1;
                }
                (false, true) => {
                    self.ranges[i].0 = end;
                    return;
                }
                (false, false) => self.cut(i, i + 1),
            }
        }
    }

    /// Drops the lowest range; used where the newest matter most.
    pub(crate) fn drop_first(&mut self) {
        if !self.ranges.is_empty() {
            self.cut(0, 1);
        }
    }

    fn cut(&mut self, from: usize, to: usize) {
        if from < to {
            self.ranges.copy_within(to.., from);
            self.ranges.truncate(self.ranges.len() - (to - from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn members<const N: usize>(set: &RangeSet<N>) -> BTreeSet<u64> {
        set.iter().flat_map(|r| r.0..r.1).collect()
    }

    fn is_canonical<const N: usize>(set: &RangeSet<N>) -> bool {
        set.iter().all(|r| r.0 < r.1) && set.iter().zip(set.iter().skip(1)).all(|(a, b)| a.1 < b.0)
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(ops in prop::collection::vec((0u8..5, 0u64..60, 0u64..12), 0..80)) {
            let mut set = RangeSet::<4>::new();
            let mut model = BTreeSet::new();
            for (op, start, len) in ops {
                let end = start + len;
                let before = members(&set);
                match op {
                    0 | 1 => match set.insert(start, end) {
                        Ok(()) => model.extend(start..end),
                        Err(NoRoom) => {
                            prop_assert_eq!(set.len(), 4);
                            prop_assert_eq!(&members(&set), &before);
                        }
                    },
                    2 => {
                        set.insert_merging(start, end);
                        model.extend(start..end);
                        let now = members(&set);
                        prop_assert!(model.is_subset(&now));
                        model = now;
                    }
                    3 => {
                        set.remove_below(start);
                        model = model.split_off(&start);
                    }
                    _ => {
                        let whole = set.len() == 4;
                        set.remove(start, end);
                        let now = members(&set);
                        let less: BTreeSet<u64> =
                            model.iter().copied().filter(|n| !(start..end).contains(n)).collect();
                        prop_assert!(less.is_subset(&now) && now.is_subset(&model));
                        prop_assert!(whole || now == less);
                        model = now;
                    }
                }
                prop_assert!(is_canonical(&set));
                prop_assert_eq!(&members(&set), &model);
                for at in 0..75 {
                    prop_assert_eq!(set.contains(at), model.contains(&at));
                }
            }
        }
    }

    #[test]
    fn the_base_moves_with_the_ranges() {
        let mut set = RangeSet::<4>::new();
        for n in 0..40u64 {
            let at = n << 30;
            set.insert(at, at + 5).unwrap();
            set.remove_below(at.saturating_sub(1 << 30));
            assert!(set.contains(at + 4) && !set.contains(at + 5));
            assert!(set.len() <= 2);
        }
        set.insert((39 << 30) - 7, (39 << 30) - 3).unwrap();
        assert_eq!(set.iter().count(), 3);
        assert_eq!(set.insert(0, 1), Err(NoRoom));
        set.insert_merging(38 << 30, 39 << 30);
        assert_eq!(set.iter().collect::<std::vec::Vec<_>>(), [(38 << 30, (39 << 30) + 5)]);
    }
}
