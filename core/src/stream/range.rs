//! Sets of half-open number ranges in a fixed array: bytes lost, bytes received out of order,
//! frame counters received.

use heapless::Vec;

/// The set has no room for one more separate range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NoRoom;

/// Ascending, disjoint, non-adjacent ranges `start..end`, at most `N`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeSet<const N: usize> {
    ranges: Vec<(u64, u64), N>,
}

impl<const N: usize> RangeSet<N> {
    pub(crate) const fn new() -> Self {
        RangeSet { ranges: Vec::new() }
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

    pub(crate) fn as_slice(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    pub(crate) fn first(&self) -> Option<(u64, u64)> {
        self.ranges.first().copied()
    }

    pub(crate) fn last(&self) -> Option<(u64, u64)> {
        self.ranges.last().copied()
    }

    /// Whether `at` is in the set.
    pub(crate) fn contains(&self, at: u64) -> bool {
        let i = self.ranges.partition_point(|r| r.1 <= at);
        self.ranges.get(i).is_some_and(|r| r.0 <= at)
    }

    /// Adds `start..end`, joining what it touches.
    ///
    /// # Errors
    /// [`NoRoom`] if that would be one range too many; then nothing changes.
    pub(crate) fn insert(&mut self, start: u64, end: u64) -> Result<(), NoRoom> {
        if start >= end {
            return Ok(());
        }
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
        while self.insert(start, end).is_err() {
            let (mut best, mut gap) = (0, u64::MAX);
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
        let gone = self.ranges.partition_point(|r| r.1 <= at);
        if gone > 0 {
            self.cut(0, gone);
        }
        if let Some(first) = self.ranges.first_mut() {
            first.0 = first.0.max(at);
        }
    }

    /// Takes out `start..end`. A range that would have to be split in a full set stays whole.
    pub(crate) fn remove(&mut self, start: u64, end: u64) {
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
        set.as_slice().iter().flat_map(|r| r.0..r.1).collect()
    }

    fn is_canonical<const N: usize>(set: &RangeSet<N>) -> bool {
        set.as_slice().iter().all(|r| r.0 < r.1)
            && set.as_slice().windows(2).all(|w| w[0].1 < w[1].0)
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
}
