//! CUBIC (RFC 9438) with HyStart++ (RFC 9406), in integers.
//!
//! | State | Left by | To |
//! |---|---|---|
//! | slow start | round trip grows by the HyStart++ threshold | conservative slow start |
//! | slow start | congestion | avoidance |
//! | conservative slow start | round trip falls below its baseline | slow start |
//! | conservative slow start | 5 rounds, or congestion | avoidance |
//! | avoidance | retransmission timeout | slow start |

use super::{AckSample, CongestionControl};
use crate::limits::INITIAL_WINDOW;
use crate::time::{Duration, Instant};

/// Multiplicative decrease 0.7 (RFC 9438 4.6).
const BETA_PERCENT: u64 = 70;
/// RFC 9406 4.3.
const HYSTART_SAMPLES: u32 = 8;
const HYSTART_THRESHOLD_MIN: Duration = Duration::from_millis(4);
const HYSTART_THRESHOLD_MAX: Duration = Duration::from_millis(16);
const HYSTART_CONSERVATIVE_ROUNDS: u8 = 5;
/// Growth divisor in conservative slow start.
const HYSTART_CONSERVATIVE_DIVISOR: u64 = 4;

/// RFC 9406: watches round trips grow during slow start.
#[derive(Clone, Debug)]
struct HyStart {
    last_round_min: Duration,
    this_round_min: Duration,
    samples: u32,
    /// Baseline and rounds left, in conservative slow start.
    conservative: Option<(Duration, u8)>,
}

impl HyStart {
    const fn new() -> Self {
        HyStart {
            last_round_min: Duration::MAX,
            this_round_min: Duration::MAX,
            samples: 0,
            conservative: None,
        }
    }

    /// Whether slow start ends.
    fn on_ack(&mut self, sample: &AckSample) -> bool {
        if sample.round_start {
            self.last_round_min = self.this_round_min;
            self.this_round_min = Duration::MAX;
            self.samples = 0;
            if let Some((_, rounds)) = &mut self.conservative {
                *rounds -= 1;
                if *rounds == 0 {
                    return true;
                }
            }
        }
        if let Some(rtt) = sample.rtt {
            self.this_round_min = self.this_round_min.min(rtt);
            self.samples += 1;
        }
        if self.samples < HYSTART_SAMPLES || self.this_round_min == Duration::MAX {
            return false;
        }
        match self.conservative {
            Some((baseline, _)) if self.this_round_min < baseline => self.conservative = None,
            None if self.last_round_min != Duration::MAX => {
                let threshold =
                    (self.last_round_min / 8).clamp(HYSTART_THRESHOLD_MIN, HYSTART_THRESHOLD_MAX);
                if self.this_round_min >= self.last_round_min + threshold {
                    self.conservative = Some((self.this_round_min, HYSTART_CONSERVATIVE_ROUNDS));
                }
            }
            _ => {}
        }
        false
    }
}

/// What a spurious reduction is undone to.
#[derive(Clone, Debug)]
struct Undo {
    window: u64,
    threshold: u64,
    max: u64,
    estimate: u64,
    epoch: Option<Instant>,
    k_ms: u64,
}

/// The controller.
#[derive(Clone, Debug)]
pub(crate) struct Cubic {
    datagram: u64,
    window: u64,
    threshold: u64,
    /// W_max.
    max: u64,
    /// W_est, the window that Reno would have.
    estimate: u64,
    /// Start of this avoidance epoch.
    epoch: Option<Instant>,
    /// K, in milliseconds.
    k_ms: u64,
    /// Growth of window and estimate that is not yet worth a byte.
    credit: u64,
    estimate_credit: u64,
    hystart: HyStart,
    undo: Option<Undo>,
}

/// The largest n with n³ ≤ x.
fn cube_root(x: u64) -> u64 {
    let (mut low, mut high) = (0u64, 2_642_245);
    while low < high {
        let mid = (low + high).div_ceil(2);
        if mid * mid * mid <= x { low = mid } else { high = mid - 1 }
    }
    low
}

impl Cubic {
    /// At the initial window, for datagrams of `datagram` bytes.
    pub(crate) fn new(datagram: u64) -> Self {
        Cubic {
            datagram,
            window: u64::from(INITIAL_WINDOW) * datagram,
            threshold: u64::MAX,
            max: 0,
            estimate: 0,
            epoch: None,
            k_ms: 0,
            credit: 0,
            estimate_credit: 0,
            hystart: HyStart::new(),
            undo: None,
        }
    }

    fn floor(&self) -> u64 {
        2 * self.datagram
    }

    fn reduce(&mut self, flight: u64) {
        self.undo = Some(Undo {
            window: self.window,
            threshold: self.threshold,
            max: self.max,
            estimate: self.estimate,
            epoch: self.epoch,
            k_ms: self.k_ms,
        });
        // An application-limited window was never used in full: reduce what was in use.
        let used = self.window.min(flight.max(self.window / 2));
        // Fast convergence (RFC 9438 4.7).
        self.max = if used < self.max { used * (100 + BETA_PERCENT) / 200 } else { used };
        self.threshold = (used * BETA_PERCENT / 100).max(self.floor());
        self.epoch = None;
        self.credit = 0;
        self.estimate_credit = 0;
        self.hystart = HyStart::new();
    }

    /// RFC 9438 4.2: W(t) = C·(t − K)³ + W_max with C = 0.4 segments/s³, in bytes.
    fn cubic_window(&self, t_ms: u64) -> u64 {
        let distance = (t_ms as i64 - self.k_ms as i64).clamp(-1_000_000, 1_000_000);
        let segments_e9 = i128::from(distance).pow(3) * 4 / 10;
        let bytes = segments_e9 * i128::from(self.datagram) / 1_000_000_000;
        u64::try_from(i128::from(self.max) + bytes).unwrap_or(0)
    }

    fn avoid(&mut self, now: Instant, sample: &AckSample) {
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => {
                self.epoch = Some(now);
                self.estimate = self.window;
                self.max = self.max.max(self.window);
                let segments_e9 = u128::from(self.max - self.window) * 10_000_000_000
                    / (4 * u128::from(self.datagram));
                self.k_ms = cube_root(u64::try_from(segments_e9).unwrap_or(u64::MAX));
                now
            }
        };
        let elapsed = now.since(epoch) + sample.smoothed;
        let t_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).min(1_000_000);
        // α = 3·(1 − β)/(1 + β) = 9/17; 1 once the former maximum is reached (4.3).
        let (up, down) = if self.estimate >= self.max { (1, 1) } else { (9, 17) };
        self.estimate_credit += sample.acked * self.datagram * up;
        self.estimate += self.estimate_credit / (down * self.window);
        self.estimate_credit %= down * self.window;
        let target = self.cubic_window(t_ms).clamp(self.window, self.window * 3 / 2);
        if self.estimate > target {
            self.window = self.estimate;
            return;
        }
        self.credit += (target - self.window) * sample.acked;
        let grown = self.credit / self.window;
        self.credit %= self.window;
        self.window += grown.min(self.datagram.max(sample.acked));
    }
}

impl CongestionControl for Cubic {
    fn on_ack(&mut self, now: Instant, sample: &AckSample) {
        if sample.in_recovery || !sample.limited {
            return;
        }
        if self.window >= self.threshold {
            return self.avoid(now, sample);
        }
        if self.hystart.on_ack(sample) {
            self.threshold = self.window;
            return self.avoid(now, sample);
        }
        let divisor =
            if self.hystart.conservative.is_some() { HYSTART_CONSERVATIVE_DIVISOR } else { 1 };
        self.window = (self.window + sample.acked / divisor).min(self.threshold.max(self.window));
    }

    fn on_congestion(&mut self, _now: Instant, flight: u64) {
        self.reduce(flight);
        self.window = self.threshold;
    }

    fn on_timeout(&mut self, _now: Instant, flight: u64) {
        // RFC 5681 3.1: the threshold is set once, not at each repetition of a timeout.
        if self.window > self.datagram {
            self.reduce(flight);
        }
        // RFC 5681 3.1: one segment.
        self.window = self.datagram;
        self.undo = None;
    }

    fn on_spurious(&mut self) {
        if let Some(undo) = self.undo.take() {
            self.window = self.window.max(undo.window);
            self.threshold = undo.threshold;
            self.max = undo.max;
            self.estimate = undo.estimate;
            self.epoch = undo.epoch;
            self.k_ms = undo.k_ms;
        }
    }

    fn set_datagram(&mut self, bytes: u64) {
        // A window still at its start stays worth ten datagrams.
        if self.threshold == u64::MAX && self.window <= u64::from(INITIAL_WINDOW) * self.datagram {
            self.window = self.window.max(u64::from(INITIAL_WINDOW) * bytes);
        }
        self.datagram = bytes;
        self.window = self.window.max(self.floor());
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn pacing_rate(&self, smoothed: Duration) -> u64 {
        // 2 in slow start, so that pacing does not slow its doubling; 1.2 afterwards, so that
        // the window, not the pacer, is what limits (as Linux does).
        let percent = if self.window < self.threshold { 200 } else { 120 };
        let nanos = smoothed.as_nanos().max(1);
        let rate = u128::from(self.window) * percent * 10_000_000 / nanos;
        u64::try_from(rate).unwrap_or(u64::MAX).clamp(1, 1 << 40)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u64 = 1200;

    fn sample(acked: u64, rtt_ms: u64, round_start: bool) -> AckSample {
        let rtt = Duration::from_millis(rtt_ms);
        AckSample {
            acked,
            rtt: Some(rtt),
            smoothed: rtt,
            limited: true,
            round_start,
            in_recovery: false,
            rate: super::super::RateSample::default(),
        }
    }

    #[test]
    fn cube_roots() {
        for n in [0u64, 1, 2, 3, 99, 1000, 2_642_244] {
            assert_eq!(cube_root(n * n * n), n);
            assert_eq!(cube_root(n * n * n + 1), n.max(1));
        }
        assert_eq!(cube_root(u64::MAX), 2_642_245);
    }

    #[test]
    fn slow_start_doubles_each_round_until_the_round_trip_grows() {
        let mut cubic = Cubic::new(MSS);
        let now = Instant::START;
        for round in 0..4 {
            let before = cubic.window();
            for n in 0..before / MSS {
                cubic.on_ack(now, &sample(MSS, 50, n == 0));
            }
            assert_eq!(cubic.window(), 2 * before, "round {round}");
        }
        for round in 0..12 {
            for n in 0..16 {
                cubic.on_ack(now, &sample(MSS, 60 + round, n == 0));
            }
        }
        assert!(cubic.threshold < u64::MAX, "HyStart++ has ended slow start");
    }

    /// RFC 9438 4.2 with numbers worked out by hand: from 100 segments, a loss leaves 70; K is
    /// the cube root of 30/0.4 = 4.217 s, and W(K) is 100 segments again.
    #[test]
    fn the_window_returns_to_its_maximum_after_k() {
        let mut cubic = Cubic::new(MSS);
        cubic.window = 100 * MSS;
        let start = Instant::from_nanos(1_000_000_000);
        cubic.on_congestion(start, 100 * MSS);
        assert_eq!(cubic.window(), 70 * MSS);
        let (mut now, rtt) = (start, Duration::from_millis(500));
        while now < start + Duration::from_millis(4300) {
            for _ in 0..cubic.window() / MSS {
                cubic.on_ack(now, &sample(MSS, 500, false));
            }
            now += rtt;
        }
        assert_eq!(cubic.k_ms, 4217);
        let segments = cubic.window() / MSS;
        assert!((98..=102).contains(&segments), "{segments}");
    }

    #[test]
    fn short_round_trips_grow_like_reno() {
        let mut cubic = Cubic::new(MSS);
        cubic.window = 20 * MSS;
        cubic.on_congestion(Instant::START, 20 * MSS);
        let before = cubic.window();
        let mut now = Instant::START;
        for _ in 0..10 {
            for _ in 0..cubic.window() / MSS {
                cubic.on_ack(now, &sample(MSS, 1, false));
            }
            now += Duration::from_millis(1);
        }
        let grown = (cubic.window() - before) as f64 / MSS as f64;
        assert!((4.0..7.0).contains(&grown), "10 rounds at 9/17 of a segment: {grown}");
    }

    #[test]
    fn timeout_leaves_one_segment_and_spurious_loss_is_undone() {
        let mut cubic = Cubic::new(MSS);
        cubic.window = 50 * MSS;
        cubic.on_congestion(Instant::START, 50 * MSS);
        cubic.on_spurious();
        assert_eq!((cubic.window(), cubic.threshold), (50 * MSS, u64::MAX));
        cubic.on_timeout(Instant::START, 50 * MSS);
        assert_eq!((cubic.window(), cubic.threshold), (MSS, 35 * MSS));
    }

    #[test]
    fn an_idle_sender_does_not_grow() {
        let mut cubic = Cubic::new(MSS);
        let idle = AckSample { limited: false, ..sample(MSS, 50, true) };
        for _ in 0..100 {
            cubic.on_ack(Instant::START, &idle);
        }
        assert_eq!(cubic.window(), 10 * MSS);
    }
}
