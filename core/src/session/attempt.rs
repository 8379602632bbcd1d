//! When an INIT is sent (`wire.md` 4.9).
//!
//! | Time since the attempt began | Action |
//! |---|---|
//! | 0 | first sending |
//! | 0.3, 0.9, 2.1 s, each ± 20 % | the identical bytes again |
//! | 4.5 s, then every 5 s + 0–334 ms | a new INIT: new e, index and hs_seq |
//! | 90 s | given up |
//!
//! Towards the beacon there is no giving up: after 90 s the distance doubles up to 30 s,
//! − 50 % + 25 %: whoever was cut off is back 40 s after the cut at the latest.

use crate::limits::{
    DIRECTORY_BACKOFF_MAX, INIT_GIVE_UP, INIT_RENEW, INIT_RENEW_JITTER, INIT_RENEW_LATER,
    INIT_REPEAT,
};
use crate::rng::Rng;
use crate::time::{Duration, Instant};

/// What is to be done at [`Schedule::next_at`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing yet.
    Wait,
    /// Send the same bytes again.
    Repeat,
    /// Build a new INIT and send it.
    Renew,
    /// Nobody answers.
    GiveUp,
}

/// Where an attempt stands.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    began: Instant,
    renewed: Instant,
    next_at: Instant,
    /// 0: nothing sent; 1 to 3: the next is that repetition; above: the next is a renewal.
    step: u8,
    back_off: Duration,
    endless: bool,
}

impl Schedule {
    /// An attempt whose first INIT is due now.
    pub fn new(now: Instant, endless: bool) -> Self {
        let back_off = INIT_RENEW_LATER;
        Schedule { began: now, renewed: now, next_at: now, step: 0, back_off, endless }
    }

    /// When the next action is due.
    pub fn next_at(&self) -> Instant {
        self.next_at
    }

    /// INITs sent since the last new one, up to 4.
    pub fn sent(&self) -> u8 {
        self.step
    }

    /// The action that is due, if any; sets the time of the next.
    pub fn fire(&mut self, now: Instant, rng: &mut Rng) -> Action {
        if now < self.next_at {
            return Action::Wait;
        }
        if !self.endless && now.since(self.began) >= INIT_GIVE_UP {
            self.next_at = Instant::NEVER;
            return Action::GiveUp;
        }
        let repetitions = INIT_REPEAT.len() as u8;
        let action = match self.step {
            0 => Action::Renew,
            n if n <= repetitions => Action::Repeat,
            _ => Action::Renew,
        };
        if self.step == 0 {
            self.renewed = now;
        }
        self.step = self.step.saturating_add(1);
        self.next_at = match self.step {
            n if n <= repetitions => self.renewed + fifth(INIT_REPEAT[usize::from(n) - 1], rng),
            n if n == repetitions + 1 => self.renewed + INIT_RENEW,
            _ => now + self.distance(now, rng),
        };
        self.next_at = self.next_at.max(now + Duration::from_millis(50));
        if !self.endless {
            self.next_at = self.next_at.min(self.began + INIT_GIVE_UP);
        }
        action
    }

    fn distance(&mut self, now: Instant, rng: &mut Rng) -> Duration {
        if self.endless && now.since(self.began) >= INIT_GIVE_UP {
            self.back_off = (2 * self.back_off).min(DIRECTORY_BACKOFF_MAX);
            let half = self.back_off / 2;
            return half + Duration::from_nanos(rng.below((half * 3 / 2).as_nanos() as u64));
        }
        INIT_RENEW_LATER + Duration::from_nanos(rng.below(INIT_RENEW_JITTER.as_nanos() as u64))
    }

    /// A new INIT is due now (its number was stale); its repetitions follow.
    pub fn restart(&mut self, now: Instant) {
        self.step = 0;
        self.next_at = now;
    }

    /// The next action waits until `until`, and is then a new INIT.
    pub fn pause(&mut self, until: Instant) {
        self.step = self.step.max(INIT_REPEAT.len() as u8 + 1);
        self.next_at = self.next_at.max(until);
        if !self.endless {
            self.next_at = self.next_at.min(self.began + INIT_GIVE_UP);
        }
    }
}

/// `span` ± 20 %.
fn fifth(span: Duration, rng: &mut Rng) -> Duration {
    span * 4 / 5 + Duration::from_nanos(rng.below((span * 2 / 5).as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn run(endless: bool, seconds: u64) -> Vec<(f64, Action)> {
        let mut rng = Rng::new([3; 32]);
        let start = Instant::START + Duration::from_secs(1000);
        let mut schedule = Schedule::new(start, endless);
        let mut log = Vec::new();
        while schedule.next_at() < start + Duration::from_secs(seconds) {
            let now = schedule.next_at();
            assert_eq!(schedule.fire(now.minus(Duration::from_nanos(1)), &mut rng), Action::Wait);
            log.push((now.since(start).as_secs_f64(), schedule.fire(now, &mut rng)));
        }
        log
    }

    #[test]
    fn the_schedule_is_the_table_of_4_9() {
        let log = run(false, 1000);
        let near = |i: usize, at: f64| (log[i].0 - at).abs() <= at * 0.2 + 1e-6;
        assert_eq!(log[0], (0.0, Action::Renew));
        assert!(near(1, 0.3) && near(2, 0.9) && near(3, 2.1));
        assert!(log[1..4].iter().all(|e| e.1 == Action::Repeat));
        assert_eq!(log[4], (4.5, Action::Renew));
        for pair in log[4..log.len() - 1].windows(2) {
            let gap = pair[1].0 - pair[0].0;
            assert!((5.0..=5.334).contains(&gap), "{gap}");
            assert_eq!(pair[1].1, Action::Renew);
        }
        assert_eq!(*log.last().unwrap(), (90.0, Action::GiveUp));
    }

    #[test]
    fn towards_the_beacon_it_backs_off_for_ever() {
        let log = run(true, 3600);
        assert!(log.iter().all(|e| e.1 != Action::GiveUp));
        for pair in log.windows(2).filter(|pair| pair[0].0 > 300.0) {
            let gap = pair[1].0 - pair[0].0;
            assert!((15.0..=37.5).contains(&gap), "{gap}");
        }
        assert!(log.last().unwrap().0 > 3500.0);
    }

    #[test]
    fn a_pause_ends_in_a_new_init_and_a_restart_repeats() {
        let mut rng = Rng::new([3; 32]);
        let now = Instant::START + Duration::from_secs(1);
        let mut schedule = Schedule::new(now, false);
        schedule.fire(now, &mut rng);
        schedule.pause(now + Duration::from_secs(5));
        assert_eq!(schedule.next_at(), now + Duration::from_secs(5));
        assert_eq!(schedule.fire(schedule.next_at(), &mut rng), Action::Renew);
        let later = now + Duration::from_secs(7);
        schedule.restart(later);
        assert_eq!(schedule.fire(later, &mut rng), Action::Renew);
        let next = schedule.next_at();
        assert!(next.since(later) < Duration::from_millis(400));
        assert_eq!(schedule.fire(next, &mut rng), Action::Repeat);
    }
}
