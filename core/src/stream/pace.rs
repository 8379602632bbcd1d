//! Pacing of one path (`wire.md` 11): a token bucket at a multiple of window per round trip.
//!
//! The bucket holds one quantum, the larger of one train and 1 ms of the rate, so that trains
//! stay whole; but at most a quarter of the window (and never less than the initial window),
//! so that a slow path sees no burst that its queue was not asked to hold.

use crate::limits::{INITIAL_WINDOW, TRAIN_BYTES_MAX, TRAIN_SEGMENTS_MAX};
use crate::time::{Duration, Instant};

/// The bucket.
#[derive(Clone, Debug)]
pub(crate) struct Pacer {
    /// Bytes that may go now; below zero after the frame that emptied it.
    tokens: i64,
    quantum: i64,
    /// Bytes a second; 0: not known, send.
    rate: u64,
    at: Instant,
    /// Once empty, it stays shut until a quantum (or what the window has left) is back.
    shut: bool,
}

impl Pacer {
    pub(crate) const fn new() -> Self {
        Pacer { tokens: 0, quantum: 1, rate: 0, at: Instant::START, shut: false }
    }

    /// Sets the rate (bytes a second; 0 = unpaced) for a window and datagrams of `datagram`
    /// bytes.
    pub(crate) fn set_rate(&mut self, now: Instant, rate: u64, window: u64, datagram: u64) {
        self.refill(now);
        let first = self.rate == 0;
        let train = (TRAIN_BYTES_MAX as u64).min(datagram * TRAIN_SEGMENTS_MAX as u64);
        let burst = (u64::from(INITIAL_WINDOW) * datagram).max(window / 4);
        self.quantum = train.max(rate / 1000).min(burst) as i64;
        self.rate = rate;
        self.tokens = if first { self.quantum } else { self.tokens.min(self.quantum) };
        if first {
            self.at = now;
        }
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.since(self.at).as_nanos();
        let more = elapsed.saturating_mul(u128::from(self.rate)) / 1_000_000_000;
        let missing = (self.quantum - self.tokens).max(0);
        if more >= missing as u128 {
            self.tokens = self.tokens.max(self.quantum);
            self.at = now;
        } else if more > 0 {
            // Only the time that whole bytes took is used up.
            self.tokens += more as i64;
            self.at += Duration::from_nanos((more * 1_000_000_000 / u128::from(self.rate)) as u64);
        }
    }

    /// `None` if a frame may go now, else when it may.
    pub(crate) fn blocked_until(&mut self, now: Instant) -> Option<Instant> {
        if self.rate == 0 {
            return None;
        }
        if self.tokens > 0 && !self.shut {
            return None;
        }
        self.refill(now);
        let missing = self.quantum - self.tokens;
        if missing <= 0 {
            self.shut = false;
            return None;
        }
        let wait = (missing as u128 * 1_000_000_000).div_ceil(u128::from(self.rate));
        let at = self.at + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX));
        // Of the last byte's time a fraction of a nanosecond is missing in `self.at`: now is no
        // answer, or whoever waits for it spins.
        Some(at.max(now + Duration::from_nanos(1)))
    }

    pub(crate) fn on_sent(&mut self, now: Instant, bytes: u64) {
        if self.rate == 0 {
            return;
        }
        if self.tokens <= 0 {
            self.refill(now);
        }
        self.tokens -= bytes as i64;
        if self.tokens <= 0 {
            self.refill(now);
            self.shut = self.tokens <= 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_term_rate_is_kept_and_bursts_are_one_quantum() {
        let mut pacer = Pacer::new();
        let start = Instant::from_nanos(1_000_000_000);
        pacer.set_rate(start, 12_500_000, 1_000_000, 1232);
        let (mut now, mut sent, mut burst) = (start, 0u64, 0u64);
        while now < start + Duration::from_secs(10) {
            match pacer.blocked_until(now) {
                None => {
                    pacer.on_sent(now, 1232);
                    sent += 1232;
                    burst += 1232;
                    assert!(burst <= 65_000 + 1232);
                }
                Some(at) => {
                    assert!(at > now);
                    burst = 0;
                    now = at;
                }
            }
        }
        assert!((124_000_000..126_500_000).contains(&sent), "{sent}");
    }

    /// Asked in the last nanosecond before the bucket is full (explore, seed 638).
    #[test]
    fn who_has_to_wait_is_never_told_to_wait_until_now() {
        for rate in 130_000..140_000 {
            let mut pacer = Pacer::new();
            pacer.set_rate(Instant::START, rate, 12_320, 1232);
            pacer.on_sent(Instant::START, 12_320);
            let full = (12_320 * 1_000_000_000_u64).div_ceil(rate);
            let now = Instant::START + Duration::from_nanos(full - 1);
            assert!(pacer.blocked_until(now).is_some_and(|at| at > now), "{rate}");
            let then = now + Duration::from_nanos(1);
            assert_eq!(pacer.blocked_until(then), None, "{rate}");
        }
    }

    #[test]
    fn a_small_window_means_small_bursts() {
        let mut pacer = Pacer::new();
        pacer.set_rate(Instant::START, 125_000, 12_320, 1232);
        assert_eq!(pacer.quantum, 12_320);
        pacer.set_rate(Instant::START, 10_000_000_000, 100_000_000, 1232);
        assert_eq!(pacer.quantum, 10_000_000);
    }

    #[test]
    fn without_a_rate_nothing_is_held_back() {
        let mut pacer = Pacer::new();
        pacer.on_sent(Instant::START, 1 << 40);
        assert_eq!(pacer.blocked_until(Instant::START), None);
    }
}
