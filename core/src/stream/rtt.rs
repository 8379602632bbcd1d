//! Round-trip time of one path and the timeouts computed from it (RFC 6298, RFC 8985 7.2).
//!
//! A retransmission is a new frame with a new counter, so every sample is unambiguous and
//! Karn's rule is not needed.

use crate::limits::{
    ACK_DELAY_MAX, RTO_INITIAL, RTO_MAX, RTO_MIN, SUSPECT_FLOOR, SUSPECT_NO_SAMPLE,
};
use crate::time::Duration;

/// Estimator of one path.
#[derive(Clone, Debug)]
pub(crate) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    latest: Duration,
    min: Duration,
    backoff: u8,
    /// What follows from the samples; asked for far more often than there are any.
    timeouts: Timeouts,
}

/// See the methods of [`Rtt`] of these names.
#[derive(Clone, Copy, Debug)]
struct Timeouts {
    rto_base: Duration,
    probe: Duration,
    suspicion: Duration,
}

impl Rtt {
    pub(crate) const fn new() -> Self {
        Rtt {
            smoothed: None,
            variation: Duration::ZERO,
            latest: Duration::ZERO,
            min: Duration::MAX,
            backoff: 0,
            timeouts: Timeouts {
                rto_base: RTO_INITIAL,
                probe: RTO_INITIAL,
                suspicion: SUSPECT_NO_SAMPLE,
            },
        }
    }

    /// Takes a sample: time from sending the largest newly acknowledged frame until now, and
    /// how long the receiver says it held the acknowledgement back. The delay is believed only
    /// as far as the result stays at or above the smallest sample (as in RFC 9002 5.3).
    pub(crate) fn sample(&mut self, raw: Duration, delay: Duration) {
        self.min = self.min.min(raw);
        let delay = delay.min(ACK_DELAY_MAX);
        let rtt = if raw >= self.min + delay { raw - delay } else { raw };
        self.latest = rtt;
        let smoothed = match self.smoothed {
            None => {
                self.variation = rtt / 2;
                rtt
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(rtt)) / 4;
                (smoothed * 7 + rtt) / 8
            }
        };
        self.smoothed = Some(smoothed);
        self.timeouts = Timeouts {
            // The receiver may hold an acknowledgement back for a quarter of the round trip or
            // ACK_DELAY_MAX; the floor covers both.
            rto_base: (smoothed + (self.variation * 4).max(Duration::from_millis(1)))
                .max(smoothed + ACK_DELAY_MAX)
                .clamp(RTO_MIN, RTO_MAX),
            probe: smoothed * 2 + ACK_DELAY_MAX,
            suspicion: (smoothed * 3).max(SUSPECT_FLOOR),
        };
    }

    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    pub(crate) fn latest(&self) -> Duration {
        self.latest
    }

    /// The smallest sample; zero before the first.
    pub(crate) fn min(&self) -> Duration {
        if self.smoothed.is_some() { self.min } else { Duration::ZERO }
    }

    /// The retransmission timeout without back-off (RFC 6298 2, with our bounds).
    pub(crate) fn rto_base(&self) -> Duration {
        self.timeouts.rto_base
    }

    /// The retransmission timeout with the present back-off.
    pub(crate) fn rto(&self) -> Duration {
        match self.backoff {
            0 => self.rto_base(),
            n => self.rto_base().saturating_mul(1 << n.min(10)).min(RTO_MAX),
        }
    }

    /// The time after which a tail loss probe is sent (RFC 8985 7.2): two round trips and the
    /// longest delay of an acknowledgement, never later than the retransmission timeout.
    pub(crate) fn probe(&self) -> Duration {
        match self.smoothed {
            None => self.timeouts.probe,
            Some(_) => self.timeouts.probe.min(self.rto()),
        }
    }

    /// How long a frame may stay unanswered before its path is suspect (`wire.md` 4.9).
    pub(crate) fn suspicion(&self) -> Duration {
        self.timeouts.suspicion
    }

    pub(crate) fn back_off(&mut self) {
        self.backoff = self.backoff.saturating_add(1);
    }

    pub(crate) fn clear_backoff(&mut self) {
        self.backoff = 0;
    }

    pub(crate) fn is_backed_off(&self) -> bool {
        self.backoff > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// RFC 6298 2.2 and 2.3, by hand.
    #[test]
    fn smoothing_follows_rfc_6298() {
        let mut rtt = Rtt::new();
        assert_eq!((rtt.rto(), rtt.suspicion()), (ms(1000), ms(1000)));
        rtt.sample(ms(400), ms(0));
        assert_eq!((rtt.smoothed(), rtt.variation), (Some(ms(400)), ms(200)));
        assert_eq!(rtt.rto(), ms(1200));
        rtt.sample(ms(800), ms(0));
        assert_eq!((rtt.smoothed(), rtt.variation), (Some(ms(450)), ms(250)));
        assert_eq!((rtt.rto(), rtt.suspicion(), rtt.min()), (ms(1450), ms(1350), ms(400)));
    }

    #[test]
    fn the_ack_delay_never_takes_a_sample_below_the_minimum() {
        let mut rtt = Rtt::new();
        rtt.sample(ms(50), ms(0));
        rtt.sample(ms(60), ms(20));
        assert_eq!(rtt.latest(), ms(60));
        rtt.sample(ms(80), ms(20));
        assert_eq!(rtt.latest(), ms(60));
        rtt.sample(ms(100), ms(400));
        assert_eq!(rtt.latest(), ms(75), "a claimed delay is capped");
    }

    #[test]
    fn the_timeout_backs_off_within_its_bounds() {
        let mut rtt = Rtt::new();
        rtt.sample(ms(1), ms(0));
        assert_eq!(rtt.rto(), RTO_MIN);
        for n in 1..20 {
            rtt.back_off();
            assert_eq!(rtt.rto(), (RTO_MIN * (1 << n.min(10))).min(RTO_MAX));
        }
        rtt.clear_backoff();
        assert_eq!(rtt.rto(), RTO_MIN);
    }
}
