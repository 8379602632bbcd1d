//! How often the folder is looked through for files that are gone: that is a question for each of
//! them, and a sender that has no room makes an offer as often as it likes.

use std::time::Duration;
use tokio::time::Instant;

/// It is looked through at most so often, unless it has changed.
const AGAIN: Duration = Duration::from_secs(2);
/// A later change may bear the time of one that is younger.
const SETTLED_US: u64 = 50_000;

/// When it was looked through last, and when it had changed last by then.
#[derive(Default)]
pub(super) struct Look(Option<(Instant, u64)>);

impl Look {
    /// Whether it is to be looked through now, which it then was. It changed last at `changed_us`,
    /// if that is known.
    pub(super) fn is_due(&mut self, now: Instant, now_us: u64, changed_us: Option<u64>) -> bool {
        let is_same = |(at, before): (Instant, u64)| {
            now.saturating_duration_since(at) < AGAIN && changed_us == Some(before)
        };
        if self.0.is_some_and(is_same) {
            return false;
        }
        let settled = changed_us.filter(|us| now_us.abs_diff(*us) > SETTLED_US);
        self.0 = settled.map(|us| (now, us));
        true
    }

    #[cfg(test)]
    pub(super) fn last(&self) -> Option<Instant> {
        self.0.map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_at_again_when_it_has_changed_or_it_is_time() {
        let (start, mut look) = (Instant::now(), Look::default());
        let mut is_due = |ms: u64, changed_ms: Option<u64>| {
            let now = start + Duration::from_millis(ms);
            look.is_due(now, 1000 * ms, changed_ms.map(|ms| 1000 * ms))
        };
        // So soon after a change another may have the same time.
        assert!(is_due(1000, Some(999)) && is_due(1001, Some(999)) && is_due(1100, Some(999)));
        assert!(!is_due(1101, Some(999)) && !is_due(3099, Some(999)) && is_due(3100, Some(999)));
        assert!(!is_due(3200, Some(999)) && is_due(3300, Some(3201)) && !is_due(3400, Some(3201)));
        // The clock was set back.
        assert!(is_due(3500, Some(90_000)) && !is_due(3501, Some(90_000)));
        assert!(is_due(3502, None) && is_due(3503, None));
    }
}
