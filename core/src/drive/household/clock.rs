//! Notices suspends and steps of the wall clock.

use crate::time::{Duration, Instant, UnixTime};

/// Smaller changes are scheduling noise between two readings.
const TOLERANCE: Duration = Duration::from_secs(1);

/// One reading of all clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// The monotonic clock.
    pub now: Instant,
    /// Time since the system was started, suspends included. Where the system does not tell
    /// it, that of the monotonic clock: then the wall clock alone shows a suspend.
    pub boot: Duration,
    /// The wall clock.
    pub unix: UnixTime,
}

impl Reading {
    fn asleep(&self) -> Duration {
        self.boot.saturating_sub(Duration::from_nanos(self.now.as_nanos()))
    }

    fn offset(&self) -> i128 {
        i128::from(self.unix.as_millis()) - self.boot.as_millis() as i128
    }
}

/// Compares readings.
///
/// The monotonic clock stands still while the machine sleeps and the boot clock does not, so
/// their distance grows by a suspend; the wall clock's distance from the boot clock changes by
/// a step. Disciplining a clock shifts it by at most half a millisecond a second, far below
/// what counts as a change, one second.
#[derive(Debug)]
pub struct ClockWatch {
    asleep: Duration,
    offset: i128,
}

impl ClockWatch {
    /// Changes are counted from this reading.
    pub fn new(reading: Reading) -> Self {
        ClockWatch { asleep: reading.asleep(), offset: reading.offset() }
    }

    /// What the wall clock shows now, if it was stepped or the machine was suspended since the
    /// reading before.
    pub fn check(&mut self, reading: Reading) -> Option<UnixTime> {
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
            now: Instant::from_nanos(monotonic * 1_000_000_000),
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
}
