//! Durations as scenario files have them: seconds, with a fraction where wanted.

use pilot_core::time::Duration;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) const ZERO: Duration = Duration::ZERO;

/// A duration that is written as a number of seconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Span(pub Duration);

/// Longest span in a file: ten years. A span that is meant to last for ever may say so.
const SECONDS_MAX: f64 = 315_360_000.0;

impl Span {
    /// Whole seconds.
    pub const fn secs(n: u64) -> Self {
        Span(Duration::from_secs(n))
    }

    /// Milliseconds.
    pub const fn millis(n: u64) -> Self {
        Span(Duration::from_millis(n))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_f64(self.0.as_secs_f64())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        /// TOML tells `2` from `2.0`.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Number {
            Whole(u64),
            Fraction(f64),
        }
        let seconds = match Number::deserialize(d)? {
            Number::Whole(n) => n as f64,
            Number::Fraction(n) => n,
        };
        if (0.0..=SECONDS_MAX).contains(&seconds) {
            Ok(Span(Duration::from_secs_f64(seconds)))
        } else {
            Err(D::Error::custom("not between 0 s and ten years"))
        }
    }
}
