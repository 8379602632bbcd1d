//! The replay window (`wire.md` 5.2): RFC 6479's ring of 64-bit words over memory that the
//! caller lends, so that sessions of any window size have one type.
//!
//! `check` before the frame is decrypted, `commit` after its tag was found right: a forged
//! counter never moves the window (attack W-C6).

/// Where the window stands. The words themselves are the caller's: `W` of them cover
/// 64·(W−1) counters, and the same slice must be given every time.
#[derive(Debug, Default)]
pub struct Window {
    /// One more than the highest counter committed; 0 before the first.
    next: u64,
}

impl Window {
    /// Nothing received yet. Clears `words`.
    pub fn new(words: &mut [u64]) -> Self {
        words.fill(0);
        Window { next: 0 }
    }

    /// One more than the highest counter committed.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether a frame with this counter could still be accepted.
    pub fn check(&self, words: &[u64], counter: u64) -> bool {
        if counter == u64::MAX || words.len() < 2 {
            return false;
        }
        if counter >= self.next {
            return true;
        }
        let span = 64 * (words.len() as u64 - 1);
        if self.next - 1 - counter >= span {
            return false;
        }
        words[Self::place(words, counter)] & Self::bit(counter) == 0
    }

    /// Marks a counter that passed [`Window::check`] and whose frame is authentic. Returns
    /// whether it is the highest so far.
    pub fn commit(&mut self, words: &mut [u64], counter: u64) -> bool {
        let newest = counter >= self.next;
        if newest {
            // Words between the old and the new head hold counters of an earlier lap.
            let ahead = match self.next.checked_sub(1) {
                None => 0,
                Some(highest) => counter / 64 - highest / 64,
            };
            for step in 0..ahead.min(words.len() as u64) {
                let place = Self::place(words, counter - 64 * step);
                words[place] = 0;
            }
            self.next = counter + 1;
        }
        let place = Self::place(words, counter);
        words[place] |= Self::bit(counter);
        newest
    }

    fn place(words: &[u64], counter: u64) -> usize {
        (counter / 64 % words.len() as u64) as usize
    }

    const fn bit(counter: u64) -> u64 {
        1 << (counter % 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    /// What the window should be: all counters seen, and the span behind the highest.
    struct Model {
        seen: BTreeSet<u64>,
        span: u64,
    }

    impl Model {
        fn accepts(&self, counter: u64) -> bool {
            let in_span = match self.seen.last() {
                Some(&highest) => counter > highest || highest - counter < self.span,
                None => true,
            };
            counter != u64::MAX && in_span && !self.seen.contains(&counter)
        }
    }

    #[test]
    fn counter_zero_is_taken_once() {
        let mut words = [0; 4];
        let mut window = Window::new(&mut words);
        assert!(window.check(&words, 0));
        assert!(window.commit(&mut words, 0));
        assert!(!window.check(&words, 0));
        assert!(!window.check(&words, u64::MAX));
        assert!(window.commit(&mut words, u64::MAX - 1));
        assert!(!window.check(&words, 1));
    }

    #[test]
    fn the_span_is_exact() {
        let mut words = [0; 4];
        let mut window = Window::new(&mut words);
        window.commit(&mut words, 1000);
        assert!(window.check(&words, 1000 - 191));
        assert!(!window.check(&words, 1000 - 192));
        assert_eq!(window.next(), 1001);
    }

    proptest! {
        #[test]
        fn equals_a_set(
            width in 2usize..6,
            start in prop_oneof![Just(0u64), Just(u64::MAX - 3000), any::<u64>()],
            steps in prop::collection::vec((-400i64..700, any::<bool>()), 1..300),
        ) {
            let mut words: Vec<u64> = std::vec![u64::MAX; width];
            let mut window = Window::new(&mut words);
            let mut model = Model { seen: BTreeSet::new(), span: 64 * (width as u64 - 1) };
            let mut base = start;
            for (offset, authentic) in steps {
                let counter = base.saturating_add_signed(offset);
                let accepts = window.check(&words, counter);
                prop_assert_eq!(accepts, model.accepts(counter), "counter {}", counter);
                if accepts && authentic {
                    let newest = window.commit(&mut words, counter);
                    prop_assert_eq!(newest, model.seen.last().is_none_or(|h| counter > *h));
                    model.seen.insert(counter);
                    base = base.max(counter);
                }
            }
        }
    }
}
