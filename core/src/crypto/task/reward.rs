//! What a finished task is worth (`published-wire.md`, reputation), in integers: every registry
//! computes the same number, on every machine.
//!
//! ```text
//! bonus  = log2(1 + cpu_minutes)
//! reward = max(1, round((1 + bonus) · max(0.4, 1 − idle − staged)))
//! idle   = min(0.3, 0.3 · idle_s / 60)      staged = min(0.3, 0.3 · staged_s / 600)
//! ```
//!
//! Both sides have signed their times ([`Receipt`]); the worker is credited
//! with the shorter of the two work times and charged the longer of the two waits, so that
//! neither side raises the reward alone. A span that ends before it begins is no time.

use super::receipt::{Claim, Outcome, Receipt, Times};
use crate::time::Duration;

/// What a finished task costs its submitter.
pub const SUBMIT_COST: u32 = 1;
/// Work beyond this counts no more, so that no pair of clocks makes a task worth over 16. It is
/// also the oldest that a receipt may be.
pub const CPU_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

const MINUTE: u64 = 60_000;
/// Fraction bits of the logarithm.
const FRACTION: u32 = 32;
/// The efficiency is an exact number of these: 10 a millisecond of idling, 1 a millisecond of
/// being staged.
const WHOLE: u64 = 2_000_000;

/// The three spans of a task that count, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spans {
    /// From start to finish.
    pub cpu: u64,
    /// From arrival to acceptance.
    pub idle: u64,
    /// From acceptance to start.
    pub staged: u64,
}

impl Spans {
    /// As one side's times show them.
    pub const fn of(times: &Times) -> Self {
        let [arrived, accepted, started, finished] = times.millis();
        Spans {
            cpu: finished.saturating_sub(started),
            idle: accepted.saturating_sub(arrived),
            staged: started.saturating_sub(accepted),
        }
    }

    /// What both sides agree on at least.
    pub fn agreed(worker: &Times, submitter: &Times) -> Self {
        let (w, s) = (Spans::of(worker), Spans::of(submitter));
        Spans { cpu: w.cpu.min(s.cpu), idle: w.idle.max(s.idle), staged: w.staged.max(s.staged) }
    }

    /// The published formula: 1 to 16.
    pub fn reward(self) -> u32 {
        let cpu_max = CPU_MAX.as_millis() as u64;
        let bonus = log2(MINUTE + self.cpu.min(cpu_max), MINUTE);
        let idle = self.idle.min(MINUTE) * 10;
        let staged = self.staged.min(10 * MINUTE);
        // Each is 0.3 at most, so the published floor of 0.4 holds by itself.
        let efficiency = WHOLE - idle - staged;
        let scaled = u128::from((1 << FRACTION) + bonus) * u128::from(efficiency);
        let unit = u128::from(WHOLE) << FRACTION;
        // Halves are rounded up.
        let rounded = (2 * scaled + unit) / (2 * unit);
        u32::try_from(rounded).expect("at most 1 + log2(43,201)").max(1)
    }
}

impl Receipt {
    /// What the worker earns: [`Spans::reward`] of a task that succeeded, nothing for one that
    /// failed.
    pub fn reward(&self) -> u32 {
        match self.claim.outcome {
            Outcome::Succeeded => Spans::agreed(&self.claim.times, &self.times).reward(),
            Outcome::Failed => 0,
        }
    }

    /// What the submitter pays: [`SUBMIT_COST`] for a task that succeeded, nothing for one that
    /// failed.
    pub const fn cost(&self) -> u32 {
        self.claim.cost()
    }
}

impl Claim {
    const fn cost(&self) -> u32 {
        match self.outcome {
            Outcome::Succeeded => SUBMIT_COST,
            Outcome::Failed => 0,
        }
    }
}

/// log2(n / d) for n ≥ d > 0, in units of 2^-32, rounded down: the mantissa is squared, and
/// each square that reaches 2 is one more bit. Exact where n / d is a power of two.
fn log2(n: u64, d: u64) -> u64 {
    const ONE: u32 = 62;
    let (n, mut d) = (u128::from(n), u128::from(d));
    let mut log = 0;
    while n >= 2 * d {
        d *= 2;
        log += 1;
    }
    let mut mantissa = (n << ONE) / d;
    for _ in 0..FRACTION {
        mantissa = (mantissa * mantissa) >> ONE;
        log <<= 1;
        if mantissa >> (ONE + 1) != 0 {
            mantissa >>= 1;
            log |= 1;
        }
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reward(cpu_s: u64, idle_s: u64, staged_s: u64) -> u32 {
        Spans { cpu: cpu_s * 1000, idle: idle_s * 1000, staged: staged_s * 1000 }.reward()
    }

    /// The published formula as it stands, in floating point, before rounding.
    fn reference(spans: Spans) -> f64 {
        let minutes = spans.cpu as f64 / 60_000.0;
        let idle = f64::min(0.3, 0.3 * (spans.idle as f64 / 1000.0) / 60.0);
        let staged = f64::min(0.3, 0.3 * (spans.staged as f64 / 1000.0) / 600.0);
        (1.0 + (1.0 + minutes).log2()) * f64::max(0.4, 1.0 - idle - staged)
    }

    #[test]
    fn the_published_values() {
        assert_eq!(reward(60, 0, 0), 2);
        assert_eq!(reward(600, 0, 0), 4);
        assert_eq!(reward(600, 30, 300), 3);
        assert_eq!(reward(1860, 0, 0), 6);
        assert_eq!(reward(0, 60, 600), 1);
        assert_eq!(reward(420, 18, 0), 4);
    }

    #[test]
    fn logarithms_are_exact_at_powers_of_two() {
        for shift in 0..16 {
            assert_eq!(log2(MINUTE << shift, MINUTE), shift << FRACTION);
            assert!(log2((MINUTE << shift) + 1, MINUTE) > shift << FRACTION);
        }
    }

    /// (1 + 1) · 0.75 is 1.5, and (1 + 3) · 0.875 is 3.5: halves go up, as published.
    #[test]
    fn halves_are_rounded_up() {
        assert_eq!(reward(60, 50, 0), 2);
        assert_eq!(Spans { cpu: 60_000, idle: 50_001, staged: 0 }.reward(), 1);
        assert_eq!(reward(420, 25, 0), 4);
        assert_eq!(Spans { cpu: 420_000, idle: 25_001, staged: 0 }.reward(), 3);
    }

    #[test]
    fn no_times_are_worth_more_than_sixteen() {
        let most = Spans { cpu: u64::MAX, idle: 0, staged: 0 };
        assert_eq!(most.reward(), 16);
        let least = Spans { cpu: 0, idle: u64::MAX, staged: u64::MAX };
        assert_eq!(least.reward(), 1);
    }

    #[test]
    fn neither_side_raises_the_reward_alone() {
        let times = |list: [u64; 4]| Times::from_millis(list);
        let honest = times([0, 1000, 2000, 602_000]);
        let agreed = |worker, submitter| Spans::agreed(&worker, &submitter);
        assert_eq!(agreed(honest, honest), Spans { cpu: 600_000, idle: 1000, staged: 1000 });
        // Longer work, shorter waits, in whatever order the times are.
        for boast in [[0, 0, 0, u64::MAX], [9, 8, 7, 6], [0, 1000, 1000, 3_000_000]] {
            let one = agreed(times(boast), honest);
            let other = agreed(honest, times(boast));
            assert_eq!(one, other);
            assert!(one.cpu <= 600_000 && one.idle >= 1000 && one.staged >= 1000);
            assert!(one.reward() <= agreed(honest, honest).reward());
        }
        // Finished before it was started.
        assert_eq!(agreed(times([0, 1000, 2000, 1000]), honest).cpu, 0);
    }

    proptest! {
        #[test]
        fn as_in_floating_point(
            cpu in prop_oneof![0u64..10_000_000, 0u64..2_592_000_000],
            idle in 0u64..100_000,
            staged in 0u64..1_000_000,
        ) {
            let spans = Spans { cpu, idle, staged };
            let real = reference(spans);
            // A half and its neighbourhood are where floating point may err.
            prop_assume!((real.fract() - 0.5).abs() > 1e-6);
            prop_assert_eq!(f64::from(spans.reward()), real.round().max(1.0));
        }

        #[test]
        fn more_work_and_shorter_waits_are_never_worth_less(
            cpu in 0u64..2_592_000_000, more in 0u64..1_000_000,
            idle in 0u64..100_000, less in 0u64..100_000, staged in 0u64..1_000_000,
        ) {
            let spans = Spans { cpu, idle, staged };
            let better = Spans {
                cpu: cpu + more,
                idle: idle.saturating_sub(less),
                staged: staged.saturating_sub(10 * less),
            };
            prop_assert!(better.reward() >= spans.reward());
        }
    }
}
