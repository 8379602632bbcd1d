//! What happens to a packet between a site and the core of the network, in one direction.

use crate::Span;
use crate::tape::Tape;
use pilot_core::time::{Duration, Instant};
use serde::{Deserialize, Serialize};

/// One direction of a site's access. Shares are of 1,000.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkConfig {
    /// One way.
    pub delay: Span,
    /// Added at random, up to this.
    pub jitter: Span,
    /// Lost at random.
    pub loss: u16,
    /// Lost in bursts as well.
    pub burst: Option<Burst>,
    /// Delivered twice.
    pub duplicate: u16,
    /// Held back for `reorder_by`.
    pub reorder: u16,
    /// How long.
    pub reorder_by: Span,
    /// Delivered with one bit flipped.
    pub corrupt: u16,
    /// Bytes a second, IP and UDP headers included; 0: without limit.
    pub rate: u64,
    /// Bytes that wait for the rate. Full: the packet is lost.
    pub queue: u32,
    /// Longest IP packet; longer ones are lost (a black hole, as on the internet).
    pub mtu: u16,
}

impl Default for LinkConfig {
    /// 10 ms, 1,500 bytes, and nothing else.
    fn default() -> Self {
        LinkConfig {
            delay: Span::millis(10),
            jitter: Span::default(),
            loss: 0,
            burst: None,
            duplicate: 0,
            reorder: 0,
            reorder_by: Span::millis(20),
            corrupt: 0,
            rate: 0,
            queue: 256 * 1024,
            mtu: 1500,
        }
    }
}

/// Loss in bursts, by the model of Gilbert and Elliott: a chain of two states, of which each
/// packet makes a step. Shares are of 1,000.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Burst {
    /// From good to bad.
    pub enter: u16,
    /// From bad to good.
    pub leave: u16,
    /// Lost while bad.
    pub loss: u16,
}

/// IPv4 and UDP headers.
pub const HEADERS: usize = 28;

/// One direction, and its state.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) config: LinkConfig,
    pub(crate) is_cut: bool,
    is_bad: bool,
    /// When the last byte in the queue will have left.
    busy_until: Instant,
}

/// What arrives of one packet: up to two copies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passage {
    pub(crate) copies: [Option<Instant>; 2],
    /// The bit to flip, counted from the first.
    pub(crate) flip: Option<u64>,
}

impl Link {
    pub(crate) fn new(config: LinkConfig) -> Self {
        Link { config, is_cut: false, is_bad: false, busy_until: Instant::START }
    }

    /// A UDP payload of `len` bytes enters.
    pub(crate) fn carry(&mut self, now: Instant, tape: &mut Tape, len: usize) -> Passage {
        let config = self.config;
        let bytes = (len + HEADERS) as u64;
        if self.is_cut || bytes > u64::from(config.mtu) {
            return Passage::default();
        }
        if let Some(burst) = config.burst {
            self.is_bad = match self.is_bad {
                true => !tape.chance(burst.leave),
                false => tape.chance(burst.enter),
            };
            if self.is_bad && tape.chance(burst.loss) {
                return Passage::default();
            }
        }
        if tape.chance(config.loss) {
            return Passage::default();
        }
        let Some(left) = self.queue(now, bytes) else { return Passage::default() };
        let mut passage = Passage::default();
        passage.copies[0] = Some(self.arrival(left, tape));
        if tape.chance(config.duplicate) {
            passage.copies[1] = Some(self.arrival(left, tape));
        }
        if len > 0 && tape.chance(config.corrupt) {
            passage.flip = Some(tape.below(8 * len as u64));
        }
        passage
    }

    /// When the packet has left the queue; `None` if it is full.
    fn queue(&mut self, now: Instant, bytes: u64) -> Option<Instant> {
        let rate = self.config.rate;
        if rate == 0 {
            return Some(now);
        }
        let start = self.busy_until.max(now);
        let waiting = start.since(now).as_nanos() * u128::from(rate) / 1_000_000_000;
        if waiting + u128::from(bytes) > u128::from(self.config.queue) {
            return None;
        }
        self.busy_until = start + Duration::from_nanos(bytes * 1_000_000_000 / rate);
        Some(self.busy_until)
    }

    fn arrival(&self, left: Instant, tape: &mut Tape) -> Instant {
        let jitter = tape.below(self.config.jitter.0.as_micros() as u64);
        let late = tape.chance(self.config.reorder);
        let held = if late { self.config.reorder_by.0 } else { Duration::ZERO };
        left + self.config.delay.0 + Duration::from_micros(jitter) + held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of 20,000 packets of 100 bytes, one a millisecond: shares of lost, doubled,
    /// corrupted and overtaken ones, of 1,000.
    fn shares(config: LinkConfig) -> [usize; 4] {
        let (mut link, mut tape) = (Link::new(config), Tape::from_seed(1));
        let (mut counts, mut last) = ([0; 4], Instant::START);
        for n in 0..20_000 {
            let now = Instant::START + Duration::from_millis(n);
            let passage = link.carry(now, &mut tape, 100);
            counts[0] += usize::from(passage.copies[0].is_none());
            counts[1] += usize::from(passage.copies[1].is_some());
            counts[2] += usize::from(passage.flip.is_some());
            if let Some(at) = passage.copies[0] {
                assert!(at >= now + config.delay.0);
                counts[3] += usize::from(at < last);
                last = last.max(at);
            }
        }
        counts.map(|n| n / 20)
    }

    #[test]
    fn each_fault_has_the_share_that_was_asked_for() {
        let clean = LinkConfig::default();
        assert_eq!(shares(clean), [0; 4]);
        let near = |got: usize, wanted: usize| got.abs_diff(wanted) <= 10 + wanted / 20;
        let got = shares(LinkConfig { loss: 100, duplicate: 50, corrupt: 30, ..clean });
        assert!(near(got[0], 100) && near(got[1], 45) && near(got[2], 27), "{got:?}");
        let got = shares(LinkConfig { reorder: 10, reorder_by: Span::millis(5), ..clean });
        assert!(got[0] == 0 && near(got[3], 38), "{got:?}: up to four overtake each");
        let burst = Some(Burst { enter: 10, leave: 90, loss: 1000 });
        assert!(near(shares(LinkConfig { burst, ..clean })[0], 100));
        let got = shares(LinkConfig { mtu: 127, ..clean });
        assert_eq!(got[0], 1000);
    }

    #[test]
    fn a_rate_is_kept_and_a_full_queue_loses() {
        let config =
            LinkConfig { rate: 128_000, queue: 1280, delay: Span::default(), ..Default::default() };
        let (mut link, mut tape) = (Link::new(config), Tape::from_bytes(vec![]));
        let arrivals: Vec<_> =
            (0..12).map(|_| link.carry(Instant::START, &mut tape, 100).copies[0]).collect();
        for (n, at) in arrivals.iter().enumerate() {
            let expected = Instant::START + Duration::from_millis(n as u64 + 1);
            assert_eq!(*at, (n < 10).then_some(expected), "packet {n}");
        }
        link.is_cut = true;
        assert!(
            link.carry(Instant::START + Duration::from_secs(9), &mut tape, 1).copies[0].is_none()
        );
    }
}
