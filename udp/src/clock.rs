//! The operating system as an agent needs it: clocks, entropy, and threads for errands. The
//! one place of the adapters that reads clocks.

use crate::errand;
use pilot_core::drive::household::{Errand, Notice, Outcome, Reading};
use pilot_core::drive::{self, Host};
use pilot_core::time::{Duration, Instant, UnixTime};

/// The monotonic clock, counted from when it was made, and the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: std::time::Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        #[allow(clippy::disallowed_methods, reason = "this is where an adapter reads its clock")]
        let start = std::time::Instant::now();
        Clock { start }
    }

    /// The wall clock.
    pub fn unix(&self) -> UnixTime {
        #[allow(clippy::disallowed_methods, reason = "this is where an adapter reads its clock")]
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        UnixTime::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The moment `at` of this clock, as the standard library has it. A moment that is more
    /// than a year ahead counts as a year ahead: no runtime's timer reaches much farther, and
    /// whoever waits for it looks again then.
    pub fn std_instant(&self, at: Instant) -> std::time::Instant {
        self.start + Duration::from_nanos(at.as_nanos()).min(Duration::from_secs(1 << 25))
    }

    /// Time since the system was started, suspends included, where the system tells it.
    fn boot(&self) -> Duration {
        #[cfg(target_os = "linux")]
        {
            let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            let seconds = u64::try_from(t.tv_sec).unwrap_or_default();
            Duration::new(seconds, u32::try_from(t.tv_nsec).unwrap_or_default())
        }
        #[cfg(not(target_os = "linux"))]
        {
            // The wall clock alone shows a suspend there.
            Duration::from_nanos(drive::Clock::now(self).as_nanos())
        }
    }
}

/// Starts now.
impl Default for Clock {
    fn default() -> Self {
        Clock::start()
    }
}

impl drive::Clock for Clock {
    fn now(&self) -> Instant {
        #[allow(clippy::disallowed_methods, reason = "this is where an adapter reads its clock")]
        let since = self.start.elapsed();
        Instant::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Host for Clock {
    fn reading(&self) -> Reading {
        let reading =
            Reading { now: drive::Clock::now(self), boot: self.boot(), unix: self.unix() };
        #[cfg(feature = "faults")]
        let reading = crate::faults::displaced(reading);
        reading
    }

    fn entropy(&self) -> Option<[u8; 32]> {
        let mut entropy = [0; 32];
        match getrandom::fill(&mut entropy) {
            Ok(()) => Some(entropy),
            Err(error) => {
                tracing::warn!(%error, "no fresh entropy");
                None
            }
        }
    }

    fn carry_out(&self, errand: Errand, report: impl FnOnce(Outcome) + Send + 'static) {
        errand::carry_out(errand, report);
    }

    fn note(&self, notice: Notice<'_>) {
        match notice {
            Notice::CannotStore(_) | Notice::StoreLost => tracing::warn!("{notice}"),
            Notice::ClockStepped | Notice::Copied => tracing::info!("{notice}"),
            _ => tracing::debug!("{notice}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_core::drive::household::ClockWatch;

    #[test]
    fn real_clocks_run_evenly() {
        let clock = Clock::start();
        let mut watch = ClockWatch::new(clock.reading());
        assert_eq!(watch.check(clock.reading()), None);
        let earlier = drive::Clock::now(&clock);
        assert!(drive::Clock::now(&clock) >= earlier);
        assert!(clock.unix() > UnixTime::from_secs(1_700_000_000));
    }

    #[test]
    fn a_deadline_that_never_comes_is_far_away_and_no_overflow() {
        let clock = Clock::start();
        assert!(clock.std_instant(Instant::NEVER) > clock.std_instant(Instant::START));
    }

    #[test]
    fn entropy_is_never_the_same() {
        assert_ne!(Clock::start().entropy(), Clock::start().entropy());
    }
}
