//! Loss recovery of one path: RACK-TLP (RFC 8985) and the retransmission timeout (RFC 6298)
//! over frame counters, the delivery-rate estimator, suspicion, congestion control and pacing
//! (`wire.md` 11, 4.9).
//!
//! A retransmission is a new frame, so there is one rule for all: a frame is lost when a frame
//! sent sufficiently later has arrived. "Sufficiently" is no time at all after three later
//! frames of the same session, until reordering has been seen; otherwise a quarter of the
//! smallest round trip, more if losses turn out to be spurious. Counters of different sessions
//! are not compared, times are.
//!
//! | Timer | Armed | When it fires |
//! |---|---|---|
//! | reordering | a hole is older than the newest arrival but within the reordering window | holes beyond it are lost |
//! | tail probe | frames in flight, not backed off, none sent since the last answer | one frame goes beyond the window |
//! | retransmission | frames in flight otherwise | all of them are lost, window of one datagram, back-off |
//! | suspicion | frames unanswered | the path is reported as suspect, once |

use super::ack::Acknowledgement;
use super::congestion::{AckSample, CongestionControl, Cubic, RateSample};
use super::frame::{Content, FrameList, FrameTable, Record};
use super::pace::Pacer;
use super::rtt::Rtt;
use crate::path::mtu::{Search, SizeRange};
use crate::time::{Duration, Instant};

/// How many frames declared lost are remembered, to notice that they arrive after all.
const REMEMBERED: usize = 16;
/// Newer frames of the same session that make a hole a loss (RFC 8985, DupThresh).
const REORDER_FRAMES: u64 = 3;
/// Frames for which a train waits, up to an eighth of the window.
const TRAIN_WORTHWHILE: u64 = 32;
/// Most quarters of the smallest round trip in the reordering window.
const REORDER_MULTIPLIER_MAX: u8 = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TailProbe {
    Idle,
    /// Due: the next frame goes beyond the window.
    Due,
    /// Sent; only the retransmission timeout is left.
    Sent,
}

/// What a timer asked for.
#[derive(Debug)]
pub(crate) struct Fired {
    pub(crate) lost: FrameList,
    pub(crate) suspect: bool,
}

/// One path of a peer. Opaque: a pool of these is part of [`super::TransportStorage`].
#[derive(Debug)]
pub struct PathState {
    /// UDP payload bytes, the relay's header already taken off: what `mtu` has found.
    pub(crate) datagram: u16,
    pub(crate) mtu: Search,
    pub(crate) frames: FrameList,
    /// Bytes in flight.
    pub(crate) flight: u64,
    pub(crate) rtt: Rtt,
    pub(crate) congestion: Cubic,
    pacer: Pacer,
    pub(crate) tail_probe: TailProbe,
    /// The retransmission timer runs from here.
    timer_base: Instant,
    last_sent: Instant,
    /// RACK: the most recently sent frame that has arrived, and its round trip.
    newest: Option<(Instant, u32, u64)>,
    newest_rtt: Duration,
    reordering_seen: bool,
    reorder_multiplier: u8,
    reorder_at: Option<Instant>,
    /// Frames sent up to here belong to the last reduction.
    recovery: Option<Instant>,
    episode_lost: u32,
    episode_spurious: u32,
    remembered: [(u32, u64); REMEMBERED],
    remember_at: u8,
    /// Unanswered since.
    unanswered: Option<Instant>,
    pub(crate) suspect: bool,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    /// Frames sent until this much is delivered were sent by an idle application.
    app_limited_until: u64,
    round_end: u64,
    /// The window kept us back in this round, in the one before.
    limited: [bool; 2],
    /// The last delivery-rate sample, bytes a second.
    pub(crate) rate: u64,
    pub(crate) lost_frames: u64,
}

impl PathState {
    pub(crate) fn new(now: Instant, sizes: SizeRange) -> Self {
        let mtu = Search::new(sizes);
        let datagram = mtu.datagram();
        PathState {
            datagram,
            mtu,
            frames: FrameList::EMPTY,
            flight: 0,
            rtt: Rtt::new(),
            congestion: Cubic::new(u64::from(datagram)),
            pacer: Pacer::new(),
            tail_probe: TailProbe::Idle,
            timer_base: now,
            last_sent: now,
            newest: None,
            newest_rtt: Duration::ZERO,
            reordering_seen: false,
            reorder_multiplier: 1,
            reorder_at: None,
            recovery: None,
            episode_lost: 0,
            episode_spurious: 0,
            remembered: [(0, 0); REMEMBERED],
            remember_at: 0,
            unanswered: None,
            suspect: false,
            delivered: 0,
            delivered_at: now,
            first_sent: now,
            app_limited_until: 0,
            round_end: 0,
            limited: [false; 2],
            rate: 0,
            lost_frames: 0,
        }
    }

    /// The congestion window in bytes.
    pub(crate) fn window(&self) -> u64 {
        self.congestion.window()
    }

    /// Payload bytes of a full segment.
    pub(crate) fn segment(&self) -> usize {
        usize::from(self.datagram) - crate::limits::OVERHEAD
    }

    /// Whether a new train is worth starting: as [`PathState::may_send`], but it waits for room
    /// for several frames while acknowledgements are coming, so that trains stay long.
    pub(crate) fn may_start(&mut self, now: Instant) -> Result<(), Option<Instant>> {
        let window = self.congestion.window();
        let train = u64::from(self.datagram) * TRAIN_WORTHWHILE;
        if self.flight > 0 && self.flight + train.min(window / 8) > window {
            self.limited[0] = true;
            return Err(None);
        }
        self.may_send(now)
    }

    /// Whether window and pacer let one more frame go; `Err` says when the pacer will, or that
    /// only an acknowledgement helps.
    pub(crate) fn may_send(&mut self, now: Instant) -> Result<(), Option<Instant>> {
        if self.flight >= self.congestion.window() {
            self.limited[0] = true;
            return Err(None);
        }
        match self.pacer.blocked_until(now) {
            None => Ok(()),
            Some(at) => {
                self.limited[0] = true;
                Err(Some(at))
            }
        }
    }

    /// The application has nothing more to send although it may.
    pub(crate) fn set_app_limited(&mut self) {
        self.app_limited_until = self.delivered + self.flight.max(1);
    }

    /// Notes a sent frame; `false` if the table is full, which is to be asked before.
    pub(crate) fn on_sent(
        &mut self,
        now: Instant,
        table: &mut FrameTable<'_>,
        mut record: Record,
    ) -> bool {
        if self.flight == 0 {
            self.first_sent = now;
            self.delivered_at = now;
            self.timer_base = now;
        }
        record.sent = now;
        record.delivered = self.delivered;
        record.delivered_at = self.delivered_at;
        record.first_sent = self.first_sent;
        record.app_limited = self.app_limited_until > self.delivered;
        let bytes = u64::from(record.bytes);
        if self.frames.push(table, record).is_none() {
            return false;
        }
        if record.content == Content::PathProbe {
            self.pacer.on_sent(now, bytes);
            self.mtu.on_probe_sent(record.bytes as u16);
            return true;
        }
        self.flight += bytes;
        self.last_sent = now;
        self.pacer.on_sent(now, bytes);
        if self.tail_probe == TailProbe::Due {
            self.tail_probe = TailProbe::Sent;
            self.timer_base = now;
        }
        self.unanswered.get_or_insert(now);
        true
    }

    /// Takes the frames out that `ack` names. Walks what is newly acknowledged and the holes.
    pub(crate) fn take_acknowledged(
        &mut self,
        table: &mut FrameTable<'_>,
        ack: &Acknowledgement<'_>,
    ) -> FrameList {
        let mut taken = FrameList::EMPTY;
        let (Some(front), Some(back)) = (self.frames.front(), self.frames.back()) else {
            return taken;
        };
        // Sessions follow each other; an index at neither end has nothing in flight here, or
        // is about to lose its last frames to the newer one's losses.
        if table.get(front).index != ack.index && table.get(back).index != ack.index {
            return taken;
        }
        let mut ranges: heapless::Vec<(u64, u64), { crate::limits::ACK_RANGES + 1 }> =
            ack.ranges().collect();
        let mut at = Some(front);
        while let Some(current) = at {
            at = self.frames.next(table, current);
            let record = table.get(current);
            if record.index != ack.index {
                continue;
            }
            while ranges.last().is_some_and(|r| r.1 <= record.counter) {
                ranges.pop();
            }
            match ranges.last() {
                None => break,
                Some(range) if range.0 <= record.counter => {
                    self.frames.move_to(&mut taken, table, current);
                }
                Some(_) => {}
            }
        }
        taken
    }

    /// Whether the acknowledgement names frames that were declared lost.
    pub(crate) fn note_spurious(&mut self, ack: &Acknowledgement<'_>) {
        if self.episode_lost == 0 {
            return;
        }
        for entry in &mut self.remembered {
            let (index, counter) = *entry;
            if index == ack.index && ack.covers(counter) {
                *entry = (0, 0);
                self.episode_spurious += 1;
                self.reordering_seen = true;
                self.reorder_multiplier = (self.reorder_multiplier + 1).min(REORDER_MULTIPLIER_MAX);
                if self.episode_spurious == self.episode_lost {
                    self.congestion.on_spurious();
                    self.recovery = None;
                    self.episode_lost = 0;
                    self.episode_spurious = 0;
                }
            }
        }
    }

    /// Accounts for the frames of one acknowledgement, oldest first in `taken`. Returns whether
    /// this ended a suspicion.
    pub(crate) fn on_acknowledged(
        &mut self,
        now: Instant,
        table: &FrameTable<'_>,
        taken: &FrameList,
        ack: &Acknowledgement<'_>,
    ) -> bool {
        let (mut acked, mut at) = (0, taken.front());
        let (mut latest, mut longest) = (None, 0);
        while let Some(current) = at {
            let record = table.get(current);
            acked += u64::from(record.bytes);
            longest = longest.max(record.bytes);
            if !record.requeued {
                self.flight -= u64::from(record.bytes);
            } else if record.content == Content::PathProbe {
                self.mtu.on_probe_acknowledged(now, record.bytes as u16);
            }
            self.advance_newest(now, record);
            latest = Some(record);
            at = taken.next(table, current);
        }
        let Some(latest) = latest else { return false };
        if longest > u32::from(self.mtu.base()) {
            self.mtu.on_carried(latest.sent);
        }
        self.follow_search();
        let sampled = latest.counter == ack.largest;
        if sampled {
            self.rtt.sample(now.since(latest.sent), ack.delay);
        }
        self.rtt.clear_backoff();
        self.tail_probe = TailProbe::Idle;
        self.timer_base = now;
        self.delivered += acked;
        self.delivered_at = now;
        self.first_sent = latest.sent;
        let sample = self.sample(now, latest, acked, sampled);
        self.congestion.on_ack(now, &sample);
        self.rate = if sample.rate.rate() > 0 { sample.rate.rate() } else { self.rate };
        if let Some(smoothed) = self.rtt.smoothed() {
            let window = self.congestion.window();
            let rate = self.congestion.pacing_rate(smoothed);
            self.pacer.set_rate(now, rate, window, u64::from(self.datagram));
        }
        self.unanswered = (self.flight > 0).then_some(now);
        core::mem::take(&mut self.suspect)
    }

    fn advance_newest(&mut self, now: Instant, record: &Record) {
        let this = (record.sent, record.index, record.counter);
        match self.newest {
            Some((_, index, counter)) if index == record.index && record.counter < counter => {
                // RFC 8985 6.2 step 3: it arrived after one sent later, and is no retransmission.
                self.reordering_seen = true;
            }
            Some((sent, ..)) if record.sent < sent => {}
            _ => {
                self.newest = Some(this);
                self.newest_rtt = now.since(record.sent);
            }
        }
    }

    fn sample(&mut self, now: Instant, latest: &Record, acked: u64, sampled: bool) -> AckSample {
        let round_start = latest.delivered >= self.round_end;
        if round_start {
            self.round_end = self.delivered;
            self.limited = [false, self.limited[0]];
        }
        let send = latest.sent.since(latest.first_sent);
        let receive = now.since(latest.delivered_at);
        AckSample {
            acked,
            rtt: sampled.then(|| self.rtt.latest()),
            smoothed: self.rtt.smoothed().unwrap_or(Duration::ZERO),
            limited: self.limited != [false; 2],
            round_start,
            in_recovery: self.recovery.is_some_and(|start| latest.sent <= start),
            rate: RateSample {
                delivered: self.delivered - latest.delivered,
                interval: send.max(receive),
                app_limited: latest.app_limited,
            },
        }
    }

    /// RFC 8985 6.2 step 5: what is old enough is lost; arms the reordering timer for the rest.
    pub(crate) fn detect_losses(&mut self, now: Instant, table: &mut FrameTable<'_>) -> FrameList {
        let mut lost = FrameList::EMPTY;
        self.reorder_at = None;
        let Some((newest_sent, newest_index, newest_counter)) = self.newest else { return lost };
        let window = (self.rtt.min() / 4 * u32::from(self.reorder_multiplier))
            .min(self.rtt.smoothed().unwrap_or(Duration::ZERO));
        let mut at = self.frames.front();
        while let Some(current) = at {
            at = self.frames.next(table, current);
            let record = table.get(current);
            let same = record.index == newest_index;
            let older = record.sent < newest_sent
                || record.sent == newest_sent && (!same || record.counter < newest_counter);
            if !older {
                break;
            }
            let counted = same && newest_counter.saturating_sub(record.counter) >= REORDER_FRAMES;
            let window = if counted && !self.reordering_seen { Duration::ZERO } else { window };
            let deadline = record.sent + self.newest_rtt + window;
            if now >= deadline {
                self.frames.move_to(&mut lost, table, current);
            } else if self.reorder_at.is_none_or(|at| deadline < at) {
                self.reorder_at = Some(deadline);
            }
        }
        self.account_lost(now, table, &lost, false);
        self.search_lost(now, table, &lost, false);
        lost
    }

    fn account_lost(
        &mut self,
        now: Instant,
        table: &FrameTable<'_>,
        lost: &FrameList,
        timeout: bool,
    ) {
        let flight = self.flight;
        let (mut at, mut signal) = (lost.front(), false);
        while let Some(current) = at {
            let record = table.get(current);
            if !record.requeued {
                self.flight -= u64::from(record.bytes);
                self.lost_frames += 1;
                if !record.silent && self.recovery.is_none_or(|start| record.sent > start) {
                    signal = true;
                }
                if !record.silent {
                    self.remembered[usize::from(self.remember_at)] = (record.index, record.counter);
                    self.remember_at = (self.remember_at + 1) % REMEMBERED as u8;
                    self.episode_lost += 1;
                }
            }
            at = lost.next(table, current);
        }
        if timeout && signal {
            self.rtt.back_off();
            self.congestion.on_timeout(now, flight);
        } else if signal {
            self.congestion.on_congestion(now, flight);
        }
        if signal {
            self.recovery = Some(now);
            if !timeout {
                self.episode_lost = self.count(table, lost);
                self.episode_spurious = 0;
            }
        }
        if self.flight == 0 {
            self.tail_probe = TailProbe::Idle;
            if !timeout && !self.suspect {
                // What was sent later is answered, and nothing else is left to be.
                self.unanswered = None;
            }
        }
    }

    fn count(&self, table: &FrameTable<'_>, list: &FrameList) -> u32 {
        let (mut n, mut at) = (0, list.front());
        while let Some(current) = at {
            n += u32::from(!table.get(current).silent);
            at = list.next(table, current);
        }
        n
    }

    fn timer(&self) -> Option<(Instant, bool)> {
        if self.frames.is_empty() {
            return None;
        }
        let timeout = self.timer_base + self.rtt.rto();
        if self.flight > 0 && self.tail_probe == TailProbe::Idle && !self.rtt.is_backed_off() {
            let probe = self.last_sent + self.rtt.probe();
            if probe < timeout {
                return Some((probe, true));
            }
        }
        Some((timeout, false))
    }

    fn suspicion(&self) -> Option<Instant> {
        if self.suspect {
            return None;
        }
        self.unanswered.map(|since| since + self.rtt.suspicion())
    }

    /// The next moment at which [`PathState::handle_timeout`] does something.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let at = |deadline: Option<Instant>| deadline.unwrap_or(Instant::NEVER);
        let timer = at(self.timer().map(|t| t.0));
        let first = timer.min(at(self.reorder_at)).min(at(self.suspicion()));
        (first != Instant::NEVER).then_some(first)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, table: &mut FrameTable<'_>) -> Fired {
        let mut fired = Fired { lost: FrameList::EMPTY, suspect: false };
        if self.suspicion().is_some_and(|at| now >= at) {
            self.suspect = true;
            fired.suspect = true;
        }
        if self.reorder_at.is_some_and(|at| now >= at) {
            fired.lost = self.detect_losses(now, table);
            return fired;
        }
        match self.timer() {
            Some((at, true)) if now >= at => self.tail_probe = TailProbe::Due,
            Some((at, false)) if now >= at => {
                core::mem::swap(&mut fired.lost, &mut self.frames);
                self.reorder_at = None;
                self.timer_base = now;
                self.tail_probe = TailProbe::Idle;
                self.recovery = None;
                self.account_lost(now, table, &fired.lost, true);
                self.search_lost(now, table, &fired.lost, true);
            }
            _ => {}
        }
        fired
    }

    /// The stream timers stood still while there was no session.
    pub(crate) fn restart_timers(&mut self, now: Instant) {
        self.timer_base = now;
        self.last_sent = now;
        self.unanswered = (self.flight > 0).then_some(now);
    }

    /// A round trip that was not ours to see succeeded on this path: if it is suspect, it is so
    /// no more, and can become so again.
    pub(crate) fn on_proven(&mut self, now: Instant) {
        if core::mem::take(&mut self.suspect) {
            self.rtt.clear_backoff();
            self.restart_timers(now);
        }
    }

    /// The frames whose content is about to be queued again: none of them is in flight any more.
    pub(crate) fn suspend_all(&mut self) -> FrameList {
        self.flight = 0;
        self.tail_probe = TailProbe::Idle;
        self.frames
    }

    /// Takes out the frames of a session that is gone, without a congestion signal.
    pub(crate) fn take_session(&mut self, table: &mut FrameTable<'_>, index: u32) -> FrameList {
        let mut taken = FrameList::EMPTY;
        let mut at = self.frames.front();
        while let Some(current) = at {
            at = self.frames.next(table, current);
            let record = table.get(current);
            if record.index == index {
                if !record.requeued {
                    self.flight -= u64::from(record.bytes);
                } else if record.content == Content::PathProbe {
                    self.mtu.on_probe_void();
                }
                self.frames.move_to(&mut taken, table, current);
            }
        }
        if self.newest.is_some_and(|(_, newest, _)| newest == index) {
            self.newest = None;
            self.reorder_at = None;
        }
        if self.flight == 0 {
            self.tail_probe = TailProbe::Idle;
            if !self.suspect {
                self.unanswered = None;
            }
        }
        taken
    }
}
