//! The one place of this crate that reads clocks.

use pilot_core::drive;
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

    /// The moment of tokio's timer that corresponds to `at`.
    pub(crate) fn timer(&self, at: Instant) -> tokio::time::Instant {
        // Tokio's timer reaches about two years ahead; a later deadline is looked at then.
        let ahead = Duration::from_nanos(at.as_nanos()).min(Duration::from_secs(1 << 25));
        tokio::time::Instant::from_std(self.start + ahead)
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

impl drive::Clock for Clock {
    fn now(&self) -> Instant {
        #[allow(clippy::disallowed_methods, reason = "this is where an adapter reads its clock")]
        let since = self.start.elapsed();
        Instant::from_nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Notices suspends and steps of the wall clock.
///
/// The monotonic clock stands still while the machine sleeps and the boot clock does not, so
/// their distance grows by a suspend; the wall clock's distance from the boot clock changes by
/// a step. Disciplining a clock shifts it by at most half a millisecond a second, far below
/// [`TOLERANCE`].
#[derive(Debug)]
pub(crate) struct ClockWatch {
    asleep: Duration,
    offset: i128,
}

/// Smaller changes are scheduling noise between two readings.
const TOLERANCE: Duration = Duration::from_secs(1);

/// One reading of all clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    monotonic: Duration,
    boot: Duration,
    unix: UnixTime,
}

impl Reading {
    pub(crate) fn take(clock: &Clock) -> Self {
        let monotonic = Duration::from_nanos(drive::Clock::now(clock).as_nanos());
        Reading { monotonic, boot: clock.boot(), unix: clock.unix() }
    }

    /// What the wall clock showed.
    pub(crate) fn unix(&self) -> UnixTime {
        self.unix
    }

    fn asleep(&self) -> Duration {
        self.boot.saturating_sub(self.monotonic)
    }

    fn offset(&self) -> i128 {
        i128::from(self.unix.as_millis()) - self.boot.as_millis() as i128
    }
}

impl ClockWatch {
    pub(crate) fn new(reading: Reading) -> Self {
        ClockWatch { asleep: reading.asleep(), offset: reading.offset() }
    }

    /// What the wall clock shows now, if it was stepped or the machine was suspended since the
    /// reading before.
    pub(crate) fn check(&mut self, reading: Reading) -> Option<UnixTime> {
        let slept = reading.asleep().abs_diff(self.asleep);
        let stepped = reading.offset().abs_diff(self.offset);
        self.asleep = reading.asleep();
        self.offset = reading.offset();
        let changed = slept > TOLERANCE || stepped > TOLERANCE.as_millis();
        changed.then_some(reading.unix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(monotonic: u64, boot: u64, unix: u64) -> Reading {
        Reading {
            monotonic: Duration::from_secs(monotonic),
            boot: Duration::from_secs(boot),
            unix: UnixTime::from_secs(unix),
        }
    }

    #[test]
    fn suspends_and_steps_are_noticed_once() {
        let mut watch = ClockWatch::new(reading(10, 1010, 5000));
        assert_eq!(watch.check(reading(15, 1015, 5005)), None);
        // Asleep for a minute.
        assert_eq!(watch.check(reading(20, 1080, 5070)), Some(UnixTime::from_secs(5070)));
        assert_eq!(watch.check(reading(25, 1085, 5075)), None);
        // Set back by an hour.
        assert_eq!(watch.check(reading(30, 1090, 1480)), Some(UnixTime::from_secs(1480)));
        assert_eq!(watch.check(reading(35, 1095, 1485)), None);
        // A slow adjustment.
        let slewed = Reading { unix: UnixTime::from_millis(1_490_900), ..reading(40, 1100, 0) };
        assert_eq!(watch.check(slewed), None);
    }

    #[test]
    fn real_clocks_run_evenly() {
        let clock = Clock::start();
        let mut watch = ClockWatch::new(Reading::take(&clock));
        assert_eq!(watch.check(Reading::take(&clock)), None);
        let earlier = drive::Clock::now(&clock);
        assert!(drive::Clock::now(&clock) >= earlier);
        assert!(clock.unix() > UnixTime::from_secs(1_700_000_000));
    }

    #[test]
    fn a_deadline_that_never_comes_is_far_away_and_no_overflow() {
        let clock = Clock::start();
        assert!(clock.timer(Instant::NEVER) > clock.timer(Instant::START));
    }
}
