//! The receiving half of a stream: reassembly, the window and its growth (`wire.md` 11).
//!
//! A segment is taken whole or not at all, and its frame is acknowledged only if it was taken.
//! Whatever lies below the highest edge that was ever advertised is taken, as its blocks are
//! reserved. What arrives out of order is put into its place in the ring at once.

use super::buffer::{Cursor, Pool, Ring};
use super::range::RangeSet;
use crate::limits::{BLOCK, BLOCKS_GUARANTEED_RECEIVE, STREAM_WINDOW_MAX, WINDOW_UNIT};
use crate::planted::{self, Defect};
use crate::time::{Duration, Instant};

/// Separate ranges received out of order.
const RANGES: usize = 64;
/// The shortest time over which the read rate is measured.
const ROUND_MIN: Duration = Duration::from_millis(1);

/// What became of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Taken {
    /// Its frame may be acknowledged.
    pub(crate) accepted: bool,
    /// It is to be acknowledged at once.
    pub(crate) immediate: bool,
    /// There is more to read.
    pub(crate) readable: bool,
    /// The end of the stream was reached just now.
    pub(crate) finished: bool,
}

#[derive(Debug)]
pub(crate) struct ReceiveHalf {
    pub(crate) irs: u32,
    /// Everything below has arrived.
    pub(crate) nxt: u64,
    /// Everything below was read.
    pub(crate) read: u64,
    /// Highest offset that we ever advertised.
    pub(crate) edge: u64,
    pub(crate) ring: Ring,
    early: RangeSet<RANGES>,
    /// Where the peer's FIN is.
    fin: Option<u64>,
    /// The FIN has been reached.
    pub(crate) finished: bool,
    /// The last window we told was (nearly) nothing.
    told_closed: bool,
    round_at: Instant,
    round_read: u64,
}

impl ReceiveHalf {
    pub(crate) const fn new(now: Instant) -> Self {
        ReceiveHalf {
            irs: 0,
            nxt: 0,
            read: 0,
            edge: 0,
            ring: Ring::new(),
            early: RangeSet::new(),
            fin: None,
            finished: false,
            told_closed: false,
            round_at: now,
            round_read: 0,
        }
    }

    /// The offset of sequence number `sequence`, relative to what is expected; `None` if it is
    /// before the first byte.
    pub(crate) fn offset_of(&self, sequence: u32) -> Option<u64> {
        let expected = self.irs.wrapping_add(1).wrapping_add(self.nxt as u32);
        self.nxt.checked_add_signed(i64::from(sequence.wrapping_sub(expected) as i32))
    }

    /// The acknowledgement number.
    pub(crate) fn acknowledgement(&self) -> u32 {
        let next = self.nxt + u64::from(self.finished);
        self.irs.wrapping_add(1).wrapping_add(next as u32)
    }

    /// The window to tell now; from here on the edge it means is promised.
    pub(crate) fn advertise(&mut self) -> u16 {
        let room = self.ring.limit().saturating_sub(self.nxt);
        let units = (room / WINDOW_UNIT as u64).min(u64::from(u16::MAX));
        self.edge = self.edge.max(self.nxt + units * WINDOW_UNIT as u64);
        self.told_closed = units == 0 && !self.finished;
        units as u16
    }

    /// Whether a reset with this sequence number is within the window.
    pub(crate) fn is_in_window(&self, sequence: u32) -> bool {
        self.offset_of(sequence).is_some_and(|at| {
            (self.nxt..=self.edge.max(self.nxt)).contains(&at)
                || self.finished && at == self.nxt + 1
        })
    }

    /// Takes a segment.
    pub(crate) fn take(
        &mut self,
        pool: &mut Pool<'_>,
        sequence: u32,
        payload: &[u8],
        fin: bool,
    ) -> Taken {
        let refused = Taken::default();
        let (start, payload) = match self.offset_of(sequence) {
            Some(at) => (at, payload),
            // Older than the first byte: nothing of it can be new.
            None => return Taken { accepted: true, immediate: true, ..refused },
        };
        let end = start + payload.len() as u64;
        if payload.len() == 1 && !fin && start == self.nxt && end > self.edge {
            // A zero-window probe (`wire.md` 11): answered at once, taken if there is room now.
            let taken = end <= self.ring.limit();
            if taken {
                self.edge = end;
            } else {
                return Taken { accepted: true, immediate: true, ..refused };
            }
        }
        if end > self.edge.max(self.nxt) {
            return refused;
        }
        if fin {
            if self.fin.is_some_and(|at| at != end) || end < self.nxt || self.is_beyond(end) {
                return refused;
            }
        } else if self.fin.is_some_and(|at| end > at) {
            return refused;
        }
        let before = self.nxt;
        let old = end <= self.nxt && !payload.is_empty();
        let gap = start > self.nxt;
        if !self.store(pool, start, end, payload) {
            return refused;
        }
        if fin {
            self.fin = Some(end);
        }
        let finished = !self.finished && self.fin == Some(self.nxt);
        self.finished |= finished;
        Taken {
            accepted: true,
            // Duplicates too: their sender is missing something.
            immediate: fin || old || gap,
            readable: self.nxt > before || finished,
            finished,
        }
    }

    fn is_beyond(&self, end: u64) -> bool {
        self.early.last().is_some_and(|(_, last)| last > end)
    }

    fn store(&mut self, pool: &mut Pool<'_>, start: u64, end: u64, payload: &[u8]) -> bool {
        if end <= self.nxt {
            return true;
        }
        let skip = self.nxt.saturating_sub(start);
        let (start, payload) = (start + skip, &payload[skip as usize..]);
        if start > self.nxt {
            if planted::has(Defect::UnstoredAcknowledged) {
                return true;
            }
            if self.early.insert(start, end).is_err() {
                return false;
            }
            self.ring.put(pool, Cursor::Random, start, payload);
            return true;
        }
        self.ring.put(pool, Cursor::Sequential, start, payload);
        self.nxt = end;
        if !self.early.is_empty() {
            while let Some((from, to)) = self.early.first()
                && from <= self.nxt
            {
                self.nxt = self.nxt.max(to);
                self.early.drop_first();
            }
        }
        true
    }

    /// Bytes that can be read.
    pub(crate) fn available(&self) -> u64 {
        self.nxt - self.read
    }

    /// Reads; grows the window with the read rate over a round trip of `rtt`. Returns how many
    /// bytes, and whether the window should be told anew.
    pub(crate) fn read(
        &mut self,
        now: Instant,
        pool: &mut Pool<'_>,
        rtt: Duration,
        out: &mut [u8],
    ) -> (usize, bool) {
        let n = self.available().min(out.len() as u64) as usize;
        self.ring.get(pool, Cursor::Random, self.read, &mut out[..n]);
        self.read += n as u64;
        let held = self.ring.limit();
        if self.available() == 0 && self.early.is_empty() {
            self.ring.release_all(pool, self.read);
        } else {
            self.ring.release_below(pool, self.read);
        }
        if pool.is_scarce() && self.ring.limit() > held {
            // Room that became free goes back to the pool, as far as it is not promised.
            self.ring.shrink(pool, self.edge, BLOCKS_GUARANTEED_RECEIVE as u32);
        }
        if self.fin.is_some() {
            return (n, false);
        }
        self.measure(now, pool, rtt.max(ROUND_MIN));
        let size = u64::from(self.ring.reserved()) * BLOCK as u64;
        let opened = self.ring.limit().saturating_sub(self.edge.max(self.nxt));
        (n, opened >= size / 4 && opened >= WINDOW_UNIT as u64)
    }

    /// Dynamic right-sizing: twice what was read in a round trip should fit.
    fn measure(&mut self, now: Instant, pool: &mut Pool<'_>, rtt: Duration) {
        let read = self.read - self.round_read;
        let size = u64::from(self.ring.reserved()) * BLOCK as u64;
        // Half a window within a round is enough to know, which counts where the round trip has
        // not been measured and is only guessed.
        if now.since(self.round_at) < rtt && read * 2 < size {
            return;
        }
        let rounds = (now.since(self.round_at).as_nanos() / rtt.as_nanos()).max(1) as u64;
        if read / rounds * 2 >= size {
            let most = (STREAM_WINDOW_MAX / BLOCK) as u32;
            let wanted = (self.ring.reserved() * 2).min(most);
            self.ring.grow(pool, wanted, BLOCKS_GUARANTEED_RECEIVE as u32);
        }
        self.round_at = now;
        self.round_read = self.read;
    }

    /// The peer was last told that there is no room.
    pub(crate) fn is_told_closed(&self) -> bool {
        self.told_closed
    }

    /// Throws away what was not read.
    pub(crate) fn discard(&mut self, pool: &mut Pool<'_>) {
        self.read = self.nxt;
        self.early.clear();
        self.ring.release_all(pool, self.read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Store;
    use proptest::prelude::*;

    fn pool(blocks: usize) -> Pool<'static> {
        let links = Store::<u32>::boxed_with(blocks, || 0);
        Pool::new(Store::boxed_zeroed(blocks * BLOCK), links, Store::<u32>::growing(2))
    }

    fn half(pool: &mut Pool<'_>, irs: u32) -> ReceiveHalf {
        let mut half = ReceiveHalf { irs, ..ReceiveHalf::new(Instant::START) };
        assert!(half.ring.reserve(pool, BLOCKS_GUARANTEED_RECEIVE as u32));
        half.advertise();
        half
    }

    const RTT: Duration = Duration::from_millis(50);

    #[test]
    fn fin_waits_for_the_data_before_it() {
        let mut pool = pool(4);
        let mut half = half(&mut pool, 99);
        let early = half.take(&mut pool, 100 + 5, b"world", true);
        assert!(early.accepted && early.immediate && !early.finished && !early.readable);
        let rest = half.take(&mut pool, 100, b"hello", false);
        assert!(rest.accepted && rest.finished && rest.readable);
        let mut out = [0; 20];
        assert_eq!(half.read(Instant::START, &mut pool, RTT, &mut out).0, 10);
        assert_eq!(&out[..10], b"helloworld");
        assert_eq!(half.acknowledgement(), 100 + 11);
        assert!(half.take(&mut pool, 110, b"", true).accepted, "the FIN again");
        assert!(!half.take(&mut pool, 110, b"x", false).accepted, "data behind the FIN");
        assert!(!half.take(&mut pool, 105, b"", true).accepted, "another end");
        assert_eq!(pool.taken(), 0);
    }

    #[test]
    fn nothing_beyond_the_advertised_edge_is_taken_and_a_probe_is_answered() {
        let mut pool = pool(4);
        let mut half = half(&mut pool, 0);
        let edge = half.edge;
        assert_eq!(edge, 3 * BLOCK as u64);
        let full = std::vec![1; edge as usize];
        assert!(!half.take(&mut pool, 2, &full, false).accepted);
        assert!(half.take(&mut pool, 1, &full, false).accepted);
        assert_eq!(half.advertise(), 0);
        assert!(half.is_told_closed());
        let probe = half.take(&mut pool, 1 + edge as u32, b"p", false);
        assert_eq!((probe.accepted, probe.immediate, half.nxt), (true, true, edge));
        assert!(!half.take(&mut pool, 1 + edge as u32, b"pp", false).accepted);
        let fin = half.take(&mut pool, 1 + edge as u32, b"", true);
        assert!(fin.accepted && fin.finished, "a FIN needs no window");
    }

    #[test]
    fn the_window_grows_with_the_read_rate_and_is_never_lowered() {
        let mut pool = pool(64);
        let mut half = half(&mut pool, 0);
        let (mut now, mut last) = (Instant::from_nanos(1), 0);
        for _ in 0..8 {
            let n = (half.edge - half.nxt) as usize;
            let at = half.irs.wrapping_add(1).wrapping_add(half.nxt as u32);
            assert!(half.take(&mut pool, at, &std::vec![0; n], false).accepted);
            now += RTT;
            let mut out = std::vec![0; n];
            assert_eq!(half.read(now, &mut pool, RTT, &mut out).0, n);
            half.advertise();
            assert!(half.edge >= last);
            last = half.edge;
        }
        assert_eq!(half.ring.reserved(), 32, "half of a pool of 64, and no more");
    }

    /// Whoever only receives has no round trip of its own, and guesses a long one.
    #[test]
    fn the_window_grows_without_waiting_for_the_end_of_a_guessed_round_trip() {
        let mut pool = pool(64);
        let mut half = half(&mut pool, 0);
        let (mut now, guessed) = (Instant::from_nanos(1), Duration::from_millis(100));
        for _ in 0..8 {
            let n = (half.edge - half.nxt) as usize;
            let at = half.irs.wrapping_add(1).wrapping_add(half.nxt as u32);
            assert!(half.take(&mut pool, at, &std::vec![0; n], false).accepted);
            now += Duration::from_micros(100);
            assert_eq!(half.read(now, &mut pool, guessed, &mut std::vec![0; n]).0, n);
            half.advertise();
        }
        assert_eq!(half.ring.reserved(), 32, "in less than a millisecond");
    }

    proptest! {
        #[test]
        fn any_order_gives_the_pattern_once(
            cuts in prop::collection::vec((0u64..3000, 1u64..700), 1..200), irs: u32
        ) {
            let mut pool = pool(4);
            let mut half = half(&mut pool, irs);
            let mut got = 0u64;
            let mut have = std::collections::BTreeSet::new();
            for (start, len) in cuts {
                let payload: std::vec::Vec<u8> = (start..start + len).map(|at| at as u8).collect();
                let at = irs.wrapping_add(1).wrapping_add(start as u32);
                let taken = half.take(&mut pool, at, &payload, false);
                if taken.accepted {
                    have.extend(start..start + len);
                }
                let mut out = [0; 997];
                let (n, _) = half.read(Instant::START, &mut pool, RTT, &mut out);
                for byte in &out[..n] {
                    prop_assert_eq!(*byte, got as u8);
                    prop_assert!(have.contains(&got));
                    got += 1;
                }
            }
            while half.available() > 0 {
                let mut out = [0; 997];
                let (n, _) = half.read(Instant::START, &mut pool, RTT, &mut out);
                got += n as u64;
            }
            let contiguous = (0..).take_while(|at| have.contains(at)).count() as u64;
            prop_assert_eq!(got, contiguous);
        }
    }
}
