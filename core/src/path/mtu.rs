//! The search for the largest datagram that a path carries (RFC 8899, DPLPMTUD; `wire.md` 11).
//!
//! One [`Search`] belongs to one path. It sends nothing itself: it says which size is to be
//! tried next and is told what became of it. Sizes count bytes of UDP payload, a relay's header
//! included.
//!
//! | Phase (RFC 8899 5.2) | Probe | Acknowledged | Lost [`MTU_PROBES`] times, or refused here |
//! |---|---|---|---|
//! | base | the base size | the path is wide: the leap | the path is narrow: again after [`MTU_BASE_RETRY`], doubling to [`MTU_RAISE`] |
//! | leap | the largest size allowed, once; then 1,472, once | complete; climbing | the next leap; climbing |
//! | climbing | the next plausible size | climbing on | bisecting |
//! | bisecting | just above a plausible size, else half-way to what fails | bisecting on | bisecting on |
//! | complete | none for [`MTU_RAISE`], then the leap | | |
//!
//! Data never uses a size that was not acknowledged. The base is used before it is, because there
//! is nothing smaller; but a narrow path gets data only if there is no other ([`Search::is_wide`]).
//! A wide one stays so: if it comes to swallow the base, too, it is suspect by its silence.
//!
//! The path may come to carry less. Frames above the base that are lost while ones of the base
//! pass, in [`MTU_BLACK_HOLE`] rounds with none above the base arriving in between, mean a black
//! hole (RFC 8899 4.3): back to the base, and climbing again to below the size that is lost now.

use crate::limits::{
    DATAGRAM_DEFAULT, MTU_BASE_RETRY, MTU_BLACK_HOLE, MTU_GRAIN, MTU_PROBES, MTU_RAISE,
};
use crate::time::{Duration, Instant};

/// Smallest datagram that a path may have: a segment carries at least this much less 62.
pub(crate) const FLOOR: u16 = 256;

/// What IPv4 and UDP leave of Ethernet's 1,500 bytes.
const ETHERNET: u16 = 1472;
/// Leaps before climbing.
const LEAPS: u8 = 2;

/// UDP payloads that are worth a try: what is left by IP (20 or 40 bytes) and UDP (8) of MTUs that
/// are common: 1,280 (the least of IPv6), 1,400 (tunnels), 1,420 (WireGuard), 1,480 (6in4), 1,492
/// (PPPoE), 1,500 (Ethernet), 9,000 (jumbo frames); between and above them, steps.
const PLAUSIBLE: [u16; 15] = [
    1252, 1352, 1372, 1392, 1400, 1432, 1452, 1464, ETHERNET, 4088, 8952, 8972, 16_384, 32_768,
    49_152,
];

/// Between which sizes a path is searched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SizeRange {
    base: u16,
    most: u16,
    header: u16,
}

impl SizeRange {
    /// From 1,232 up to `most` bytes of UDP payload (fewer than 1,232: that size alone), of which
    /// `header` are not ours: 0, or the relay's 12.
    pub const fn new(most: u16, header: u16) -> Self {
        let least = FLOOR + header;
        let most = if most < least { least } else { most };
        let base = if most < DATAGRAM_DEFAULT { most } else { DATAGRAM_DEFAULT };
        SizeRange { base, most, header }
    }

    /// Datagrams of our own, from 1,232 up to `most` bytes.
    pub const fn direct(most: u16) -> Self {
        SizeRange::new(most, 0)
    }
}

/// What a path is there for; it is searched no further than that.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Need {
    /// Nothing is to be sent: the first probes of the base, and then silence.
    None,
    /// Data goes by another path: whether this one is wide.
    Standby,
    /// Data goes by this path, or will.
    Data,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Search {
    range: SizeRange,
    /// The largest size that was acknowledged; the base before.
    size: u16,
    /// The smallest size that is taken not to pass; more than the largest allowed if there is none.
    ceiling: u16,
    /// The base was acknowledged.
    is_confirmed: bool,
    /// How many leaps were made: to the largest size allowed, then to [`ETHERNET`].
    leaps: u8,
    /// The size that is tried next or at present.
    next: u16,
    in_flight: bool,
    /// When `next` may be sent; never while it is in flight or there is none.
    at: Instant,
    /// How often `next` was lost.
    losses: u8,
    /// How long after a failure of the base it is tried again.
    retry: Duration,
    /// When the newest frame above the base that has arrived was sent.
    carried: Instant,
    /// Rounds in which frames above the base were lost since, and when the last one was noticed.
    rounds: u8,
    round: Instant,
    /// It was acknowledged since [`Search::take_news`].
    has_news: bool,
}

impl Search {
    /// A path of which nothing is known.
    pub fn new(range: SizeRange) -> Self {
        Search {
            range,
            size: range.base,
            ceiling: range.most + 1,
            is_confirmed: false,
            leaps: 0,
            next: range.base,
            in_flight: false,
            at: Instant::START,
            losses: 0,
            retry: MTU_BASE_RETRY,
            carried: Instant::START,
            rounds: 0,
            round: Instant::START,
            has_news: false,
        }
    }

    /// The size that data uses.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The same without what is not ours.
    pub fn datagram(&self) -> u16 {
        self.size - self.range.header
    }

    /// The size that data starts from, whatever was found.
    pub fn base(&self) -> u16 {
        self.range.base
    }

    /// The same without what is not ours.
    pub fn base_datagram(&self) -> u16 {
        self.range.base - self.range.header
    }

    /// Bytes of each datagram that are not ours.
    pub fn header(&self) -> u16 {
        self.range.header
    }

    /// The base was acknowledged, so bulk may use this path (`wire.md` 5.8).
    pub fn is_wide(&self) -> bool {
        self.is_confirmed
    }

    /// Whether it became wide since this was last asked.
    pub fn take_news(&mut self) -> bool {
        core::mem::take(&mut self.has_news)
    }

    /// When the next probe may go if there is need of it; [`Instant::NEVER`] without one.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// When the next probe may go.
    pub fn probe_at(&self, need: Need) -> Option<Instant> {
        let least = match self.is_confirmed {
            true => Need::Data,
            false if self.retry == MTU_BASE_RETRY => Need::None,
            false => Need::Standby,
        };
        (self.at != Instant::NEVER && need >= least).then_some(self.at)
    }

    /// The size to try now, if one is due.
    pub fn probe(&self, now: Instant, need: Need) -> Option<u16> {
        (self.at <= now).then(|| self.probe_at(need)).flatten().map(|_| self.next)
    }

    /// A probe of `size` bytes was sent: what [`Search::probe`] said, or less if the sender's
    /// buffer holds no more, which then is the limit.
    pub fn on_probe_sent(&mut self, size: u16) {
        if size < self.next {
            self.range.most = size.max(self.size);
            self.ceiling = self.ceiling.min(self.range.most + 1);
            self.next = size;
        }
        self.in_flight = true;
        self.at = Instant::NEVER;
    }

    /// The probe of `size` bytes has arrived.
    pub fn on_probe_acknowledged(&mut self, now: Instant, size: u16) {
        if !self.in_flight || size != self.next {
            return;
        }
        self.in_flight = false;
        self.losses = 0;
        self.has_news |= !self.is_confirmed;
        self.is_confirmed = true;
        self.retry = MTU_BASE_RETRY;
        self.size = self.size.max(size);
        self.ceiling = self.ceiling.max(self.size + 1);
        self.step(now);
    }

    /// The probe of `size` bytes is lost.
    pub fn on_probe_lost(&mut self, now: Instant, size: u16) {
        if !self.in_flight || size != self.next {
            return;
        }
        self.in_flight = false;
        if self.is_confirmed && self.leaps < LEAPS {
            // Climbing comes to that size, if the loss was an accident.
            self.leaps += 1;
            return self.step(now);
        }
        self.losses += 1;
        if self.losses < MTU_PROBES {
            self.at = now;
        } else {
            self.fail(now);
        }
    }

    /// The host itself refused to send `size` bytes: the interface carries less. Whether that was
    /// news: the probe, or data of a size that passed before.
    pub fn on_refused(&mut self, now: Instant, size: u16) -> bool {
        if self.in_flight && size == self.next {
            self.in_flight = false;
            if self.is_confirmed && self.leaps < LEAPS {
                self.leaps += 1;
            }
            self.fail(now);
            return true;
        }
        let narrower = size > self.range.base && size <= self.size;
        if narrower {
            self.fall_back(now, size);
        }
        narrower
    }

    /// Nothing will ever be known of the probe in flight, or nothing that its size is the reason
    /// for: it is tried again.
    pub fn on_probe_void(&mut self) {
        if core::mem::take(&mut self.in_flight) {
            self.at = Instant::START;
        }
    }

    /// A frame above the base that was sent then, or earlier, has arrived.
    pub fn on_carried(&mut self, sent: Instant) {
        self.carried = self.carried.max(sent);
        self.rounds = 0;
    }

    /// A frame above the base that was sent then is lost although something sent later has
    /// arrived.
    pub fn on_frame_lost(&mut self, now: Instant, sent: Instant) {
        if self.size == self.range.base || sent <= self.carried || sent < self.round {
            return;
        }
        self.round = now;
        self.rounds += 1;
        if self.rounds >= MTU_BLACK_HOLE {
            self.fall_back(now, self.size);
        }
    }

    /// `next` does not pass.
    fn fail(&mut self, now: Instant) {
        self.losses = 0;
        if self.next > self.range.base {
            self.ceiling = self.ceiling.min(self.next);
            return self.step(now);
        }
        self.at = now + self.retry;
        self.retry = (self.retry * 2).min(MTU_RAISE);
    }

    /// The path carries less than `ceiling` now.
    fn fall_back(&mut self, now: Instant, ceiling: u16) {
        (self.ceiling, self.size) = (ceiling, self.range.base);
        (self.in_flight, self.losses, self.rounds) = (false, 0, 0);
        self.leaps = 1;
        self.step(now);
    }

    /// Decides what is tried next.
    fn step(&mut self, now: Instant) {
        if self.leaps == 1 && (self.size >= ETHERNET || self.top() <= ETHERNET) {
            self.leaps = LEAPS;
        }
        if let Some(next) = self.wanted() {
            (self.next, self.at) = (next, now);
            return;
        }
        // Complete. The path may come to carry more, so what failed counts for a while only.
        self.ceiling = self.range.most + 1;
        self.leaps = 0;
        match self.wanted() {
            Some(next) => (self.next, self.at) = (next, now + MTU_RAISE),
            None => self.at = Instant::NEVER,
        }
    }

    /// What is tried after the largest size allowed is below this.
    fn top(&self) -> u16 {
        self.ceiling.min(self.range.most)
    }

    fn wanted(&self) -> Option<u16> {
        let SizeRange { base, most, .. } = self.range;
        if !self.is_confirmed {
            return Some(base);
        }
        if self.size >= most {
            return None;
        }
        match self.leaps {
            0 => return Some(most),
            1 => return Some(ETHERNET),
            _ => {}
        }
        let higher = |&&size: &&u16| size > self.size && size < self.top();
        if let Some(&size) = PLAUSIBLE.iter().find(higher) {
            return Some(size);
        }
        if self.ceiling > most {
            return Some(most);
        }
        // What was found need not be exact.
        let (gap, grain) = (self.ceiling - self.size, (self.size / 64).max(MTU_GRAIN));
        if gap <= grain {
            return None;
        }
        // Most likely a plausible size is what the path carries: one look shows.
        let is_plausible = self.size == base || PLAUSIBLE.contains(&self.size);
        Some(self.size + if is_plausible { grain } else { gap / 2 })
    }
}

#[cfg(test)]
#[path = "mtu_tests.rs"]
mod tests;
