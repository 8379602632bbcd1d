//! Deadlines: one per peer, the earliest of all its timers.

use super::{Policy, Tunnel};
use crate::limits::{CONFIRM_REPEAT, PASSIVE_KEEPALIVE, PENDING_TTL};
use crate::machine::{Reason, Timeout};
use crate::path::PeerIndex;
use crate::session::attempt::Action;
use crate::session::slots::Slot;
use crate::slab::Key;
use crate::time::{Duration, Instant};

impl Tunnel<'_> {
    /// The next deadline; not after the last `now` while output is queued.
    pub fn poll_timeout(&self) -> Option<Timeout> {
        if !self.replies.is_empty() || self.ready.front().is_some() {
            return Some(Timeout { at: self.now, reason: Reason::Output });
        }
        let (at, peer) = self.deadlines.first()?;
        let attempting = self.is_attempting(PeerIndex(peer as u32));
        let reason = if attempting { Reason::Handshake } else { Reason::Session };
        Some(Timeout { at, reason })
    }

    /// Lets time pass. Early or twice does nothing; late is safe.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        while let Some(number) = self.deadlines.pop_due(now) {
            let peer = PeerIndex(number as u32);
            self.fire_attempt(now, peer);
            self.fire_sessions(now, peer);
            self.fire_rekey(now, peer);
            self.fire_keepalive(now, peer);
            self.reschedule(now, peer);
        }
    }

    /// The schedule of our own attempt.
    pub(super) fn fire_attempt(&mut self, now: Instant, peer: PeerIndex) {
        let Some(key) = self.peer(peer).and_then(|p| p.attempt) else { return };
        let attempt = &mut self.attempts[key];
        let action = attempt.schedule.fire(now, &mut self.rng);
        match action {
            Action::Wait => return,
            Action::Repeat => attempt.flight_due = true,
            Action::Renew => {
                attempt.renew = true;
                attempt.flight_due = true;
            }
            Action::GiveUp => {
                self.drop_attempt(peer);
                if let Some(p) = self.peer_mut(peer) {
                    p.rekey_failed = true;
                }
                self.event(peer, |events| events.gave_up = true);
                return;
            }
        }
        if attempt.is_unanswered() {
            self.event(peer, |events| events.unanswered = true);
        }
        self.wake(peer);
    }

    /// Sessions that are over, unconfirmed, or unheard.
    fn fire_sessions(&mut self, now: Instant, peer: PeerIndex) {
        let Some(p) = self.peer(peer) else { return };
        let slots: heapless::Vec<(Slot, Key), 5> = p.slots.iter().map(|(s, e)| (s, e.id)).collect();
        for (slot, key) in slots {
            let Some(link) = self.links.get_mut(key) else { continue };
            let unconfirmed = slot == Slot::Pending && now.since(link.born) >= PENDING_TTL;
            if unconfirmed || !link.session.is_alive(now) {
                self.drop_link(key);
                continue;
            }
            if link.probe_at.is_some_and(|at| at <= now) {
                link.probes += 1;
                let next = CONFIRM_REPEAT.get(usize::from(link.probes));
                link.probe_at = next.map(|span| (link.born + *span).max(now + MIN_STEP));
                link.probe_due = true;
                self.wake(peer);
            }
            let Some(answer) = self.links.get(key).and_then(|link| link.answer) else { continue };
            if now.since(self.answers[answer].born) >= PENDING_TTL {
                self.drop_answer(answer);
            }
        }
    }

    fn fire_rekey(&mut self, now: Instant, peer: PeerIndex) {
        if self.rekey_at(peer).is_some_and(|at| at <= now) {
            self.initiate(now, peer, None);
        }
    }

    /// When the current session is to be replaced, if nothing does that yet.
    fn rekey_at(&self, peer: PeerIndex) -> Option<Instant> {
        let p = self.peer(peer)?;
        let link = self.links.get(p.slots.current()?.id)?;
        let wanted = p.busy || link.data || p.keys.policy == Policy::Beacon;
        let possible = self.us.config.record.is_some() && !self.attempts.is_full();
        (wanted && possible && p.attempt.is_none() && !p.rekey_failed).then_some(link.rekey_at)
    }

    fn fire_keepalive(&mut self, now: Instant, peer: PeerIndex) {
        let Some(p) = self.peer_mut(peer) else { return };
        if p.unanswered_since.is_some_and(|since| now.since(since) >= PASSIVE_KEEPALIVE) {
            p.unanswered_since = None;
            if p.slots.current().is_some() {
                p.keepalive_due = true;
                self.wake(peer);
            }
        }
    }

    /// Sets the peer's deadline to the earliest of its timers.
    pub(super) fn reschedule(&mut self, now: Instant, peer: PeerIndex) {
        let at = self.deadline(peer).map(|at| at.max(now + MIN_STEP));
        self.deadlines.set(peer.index(), at);
    }

    fn deadline(&self, peer: PeerIndex) -> Option<Instant> {
        let p = self.peer(peer)?;
        let attempt = p.attempt.and_then(|key| self.attempts.get(key));
        let mut at = Instant::NEVER;
        let mut earlier = |candidate: Instant| at = at.min(candidate);
        if let Some(attempt) = attempt {
            earlier(attempt.schedule.next_at());
        }
        for (slot, entry) in p.slots.iter() {
            let Some(link) = self.links.get(entry.id) else { continue };
            earlier(link.session.expires());
            if slot == Slot::Pending {
                earlier(link.born + PENDING_TTL);
            }
            if let Some(probe) = link.probe_at {
                earlier(probe);
            }
            if let Some(answer) = link.answer.and_then(|key| self.answers.get(key)) {
                earlier(answer.born + PENDING_TTL);
            }
        }
        if let Some(rekey) = self.rekey_at(peer) {
            earlier(rekey);
        }
        if let Some(since) = p.unanswered_since {
            earlier(since + PASSIVE_KEEPALIVE);
        }
        (at != Instant::NEVER).then_some(at)
    }
}

/// A deadline is at least this far ahead, so that firing always makes progress.
const MIN_STEP: Duration = Duration::from_nanos(1);
