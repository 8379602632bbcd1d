//! How long the beacon has been silent although it was asked, and what follows.
//!
//! A router that was renumbered may go on translating an old flow to the address that it had
//! (`nat.md` 3, nebula 889): nothing that leaves by our socket's port is answered ever again, and
//! all would be well by another port. From here that looks like a beacon that is gone; so every
//! now and then the socket is replaced.
//!
//! | State | Input | Next |
//! |---|---|---|
//! | heard | a request or INIT leaves | asked |
//! | asked | a packet that authenticates as the beacon's | heard; the span is 20 s again |
//! | asked | the span is over | asked; the owner is told, the span doubles up to 5 min |
//! | asked | the owner knows that the socket works | asked; the span of before, the owner is told again after 5 s |

use crate::limits::{ROTATE_AFTER, ROTATE_AFTER_MAX};
use crate::time::{Duration, Instant};

/// When the owner is asked again that had an excuse.
const EXCUSED: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Silence {
    over: Instant,
    span: Duration,
}

impl Silence {
    pub(super) const fn new() -> Self {
        Silence { over: Instant::NEVER, span: ROTATE_AFTER }
    }

    /// Something leaves that has to be answered.
    pub(super) fn ask(&mut self, now: Instant) {
        if self.over == Instant::NEVER {
            self.over = now + self.span;
        }
    }

    /// The beacon was heard, or is not asked any more.
    pub(super) fn end(&mut self) {
        *self = Silence::new();
    }

    /// When [`Silence::take`] is true.
    pub(super) fn over(&self) -> Instant {
        self.over
    }

    /// Whether it has lasted for too long; if so, the next span begins.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let is_over = self.over <= now;
        if is_over {
            self.span = (self.span * 2).min(ROTATE_AFTER_MAX);
            self.over = now + self.span;
        }
        is_over
    }

    /// The last [`Silence::take`] had no consequence.
    pub(super) fn excuse(&mut self, now: Instant) {
        if self.over != Instant::NEVER {
            self.span = (self.span / 2).max(ROTATE_AFTER);
            self.over = now + EXCUSED;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(n: u64) -> Instant {
        Instant::START + Duration::from_secs(n)
    }

    #[test]
    fn spans_double_up_to_five_minutes_until_it_is_heard() {
        let mut silence = Silence::new();
        assert!(!silence.take(s(1_000_000)), "nothing was asked");
        silence.ask(s(100));
        silence.ask(s(110));
        let told: std::vec::Vec<u64> = (100..1700).filter(|n| silence.take(s(*n))).collect();
        assert_eq!(told, [120, 160, 240, 400, 700, 1000, 1300, 1600]);
        silence.end();
        assert_eq!(silence.over(), Instant::NEVER);
        silence.ask(s(2000));
        for n in [2020, 2025, 2030] {
            assert!(silence.take(s(n)) && !silence.take(s(n + 4)));
            silence.excuse(s(n));
        }
        assert!(silence.take(s(2035)));
        assert_eq!(silence.over(), s(2075));
        silence.end();
        silence.excuse(s(2040));
        assert_eq!(silence.over(), Instant::NEVER);
    }
}
