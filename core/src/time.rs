//! Time as a value: the core reads no clock, every mutation is handed a `now`.

use core::num::NonZeroU64;
use core::ops::{Add, AddAssign, Sub};

pub use core::time::Duration;

/// A point on the adapter's monotonic clock: nanoseconds since an arbitrary start.
///
/// Never zero, so `Option<Instant>` is one word. Arithmetic saturates at both ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Instant(NonZeroU64);

impl Instant {
    /// The earliest instant there is.
    pub const START: Instant = Instant(NonZeroU64::MIN);
    /// A deadline that never comes.
    pub const NEVER: Instant = Instant(NonZeroU64::MAX);

    /// The instant `nanos` nanoseconds after the clock's start (0 counts as 1).
    pub const fn from_nanos(nanos: u64) -> Self {
        match NonZeroU64::new(nanos) {
            Some(n) => Instant(n),
            None => Instant::START,
        }
    }

    /// Nanoseconds since the clock's arbitrary start.
    pub const fn as_nanos(self) -> u64 {
        self.0.get()
    }

    /// How long ago `earlier` was; zero if it is in the future.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }

    /// `self - span`, not before [`Instant::START`].
    pub fn minus(self, span: Duration) -> Instant {
        Instant::from_nanos(self.0.get().saturating_sub(nanos(span)))
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, span: Duration) -> Instant {
        Instant(self.0.saturating_add(nanos(span)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, span: Duration) {
        *self = *self + span;
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.since(earlier)
    }
}

/// Wall-clock time: milliseconds since the Unix epoch. Only `not_after`, handshake numbers
/// and log times use it (`wire.md` 8); a wrong clock costs one round trip, never safety.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct UnixTime(u64);

impl UnixTime {
    /// The time `ms` milliseconds after the epoch.
    pub const fn from_millis(ms: u64) -> Self {
        UnixTime(ms)
    }

    /// The time `s` seconds after the epoch.
    pub const fn from_secs(s: u64) -> Self {
        UnixTime(s.saturating_mul(1000))
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }
}

impl Add<Duration> for UnixTime {
    type Output = UnixTime;
    fn add(self, span: Duration) -> UnixTime {
        UnixTime(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// The wall clock derived from the monotonic one: a pair read together, so that the core can
/// tell the time at any later [`Instant`] without a second clock argument.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    at: Instant,
    unix: UnixTime,
}

impl WallClock {
    /// At monotonic time `at` the wall clock showed `unix`.
    pub const fn new(at: Instant, unix: UnixTime) -> Self {
        WallClock { at, unix }
    }

    /// Wall-clock time at `now`.
    pub fn unix(&self, now: Instant) -> UnixTime {
        self.unix + now.since(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Instant::from_nanos(0), Instant::START);
        assert_eq!(Instant::NEVER + Duration::from_secs(1), Instant::NEVER);
        assert_eq!(Instant::START.since(Instant::NEVER), Duration::ZERO);
        assert_eq!(Instant::from_nanos(5).minus(Duration::from_secs(1)), Instant::START);
        assert_eq!(size_of::<Option<Instant>>(), 8);
    }

    #[test]
    fn wall_clock_follows_the_monotonic_one() {
        let clock = WallClock::new(Instant::from_nanos(7), UnixTime::from_secs(100));
        let later = Instant::from_nanos(7) + Duration::from_millis(1500);
        assert_eq!(clock.unix(later), UnixTime::from_millis(101_500));
    }
}
