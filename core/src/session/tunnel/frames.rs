//! Data frames, key confirmation, and what follows from a change of the slots.

use super::{ATTEMPT, Policy, SessionUp, Tunnel};
use crate::limits::{FRAME_HEADER, PASSIVE_KEEPALIVE, PREV_STREAM_BYTES, PREV_STREAM_TIME, TAG};
use crate::path::{PeerIndex, Route};
use crate::session::keys::frame_index;
use crate::session::slots::{Change, Slot};
use crate::slab::Key;
use crate::stats::DropReason;
use crate::time::Instant;

/// An authentic data frame.
#[derive(Debug)]
pub struct Frame<'b> {
    /// Who sent it.
    pub peer: PeerIndex,
    /// The index on the frame, ours; names it in an acknowledgement.
    pub index: u32,
    /// Its counter.
    pub counter: u64,
    /// The slot of its session when it arrived.
    pub slot: Slot,
    /// Whether its counter is the highest of the session so far.
    pub is_newest: bool,
    /// Whether stream segments in it may be taken (`wire.md` 4.9: not in a `prev` that is long
    /// superseded, because 32-bit sequence numbers wrap).
    pub streams_ok: bool,
    /// The content; empty for a keepalive.
    pub plaintext: &'b mut [u8],
}

impl Tunnel<'_> {
    pub(super) fn handle_frame<'b>(
        &mut self,
        now: Instant,
        route: Route,
        datagram: &'b mut [u8],
    ) -> Result<Frame<'b>, DropReason> {
        let index = frame_index(datagram).ok_or(DropReason::Malformed)?;
        let place = self
            .indices
            .find(index, |_| true)
            .filter(|value| value & ATTEMPT == 0)
            .ok_or(DropReason::UnknownIndex)?;
        let key = self.links.key_at(place as usize).ok_or(DropReason::UnknownIndex)?;
        let link = &mut self.links[key];
        let words = Self::window(&mut self.replay, self.words, key);
        let opened = link.session.open(now, self.aead, words, datagram)?;
        // From here on the frame is authentic.
        let peer = link.peer;
        link.probe_at = None;
        link.probe_due = false;
        let is_data = datagram.len() > FRAME_HEADER + TAG;
        let Some(p) = self.peers[peer.index()].0.as_mut() else {
            return Err(DropReason::UnknownIndex);
        };
        let (slot, change) = p.slots.heard(key).ok_or(DropReason::UnknownIndex)?;
        if slot == Slot::Current {
            p.current_bytes += datagram.len() as u64;
        }
        let streams_ok = link.superseded.is_none_or(|(since, bytes)| {
            now.since(since) < PREV_STREAM_TIME && p.current_bytes - bytes < PREV_STREAM_BYTES
        });
        let mut earlier = false;
        if is_data && p.keys.policy == Policy::Peer && p.unanswered_since.is_none() {
            p.unanswered_since = Some(now);
            let at = now + PASSIVE_KEEPALIVE;
            earlier = self.deadlines.get(peer.index()).is_none_or(|deadline| at < deadline);
        }
        if change.first_heard {
            self.first_frame(now, route, peer, key, change);
        } else if change.current_changed {
            self.apply(now, peer, key, change);
            self.reschedule(now, peer);
        } else if earlier {
            self.reschedule(now, peer);
        }
        let end = datagram.len() - TAG;
        Ok(Frame {
            peer,
            index,
            counter: opened.counter,
            slot,
            is_newest: opened.is_newest,
            streams_ok,
            plaintext: &mut datagram[FRAME_HEADER..end],
        })
    }

    /// The first frame on a session: key confirmation.
    fn first_frame(
        &mut self,
        now: Instant,
        route: Route,
        peer: PeerIndex,
        key: Key,
        change: Change<Key>,
    ) {
        if let Some(entry) = &change.confirmed {
            let link = &mut self.links[key];
            // Whoever sent it has our RESP, so it receives where that went. From anywhere else
            // the frame may have been forwarded or its source forged (`wire.md` 5.5); and if it
            // went to several places, a copy of the INIT may have named one that never got it.
            let answer = link.answer.and_then(|key| self.answers.get(key));
            if let Some(answer) = answer {
                if answer.routes.contains(route) {
                    link.route = route;
                }
                link.proven = answer.routes.is_single();
            }
            link.empty_due = true;
            let (answer, needs_record) = (link.answer, link.needs_record);
            // Also one whose INIT is not built yet: what it was for is there.
            let attempt = self.peer(peer).and_then(|p| p.attempt);
            let superseded = attempt.is_some_and(|key| {
                let message = self.attempts[key].message.as_ref();
                message.is_none_or(|message| message.generation <= entry.generation)
            });
            if superseded {
                self.drop_attempt(peer);
            }
            let early = answer.and_then(|key| {
                let answer = &mut self.answers[key];
                answer.confirmed = true;
                Some((answer.syn.take()?, answer.syn_ack))
            });
            self.event(peer, |events| {
                events.early_syn = early.or(events.early_syn);
                events.send_record |= needs_record;
            });
        }
        self.event(peer, |events| events.confirmed = true);
        self.apply(now, peer, key, change);
        self.wake(peer);
        self.reschedule(now, peer);
    }

    /// Carries out what a step of the slots changed around session `key`.
    pub(super) fn apply(&mut self, now: Instant, peer: PeerIndex, key: Key, change: Change<Key>) {
        if let Some(dropped) = change.dropped {
            self.drop_link(dropped.id);
        }
        let Some(p) = self.peers[peer.index()].0.as_mut() else { return };
        for (slot, entry) in p.slots.iter() {
            let Some(link) = self.links.get_mut(entry.id) else { continue };
            match slot {
                Slot::Previous => {
                    link.superseded = link.superseded.or(Some((now, p.current_bytes)));
                }
                _ => link.superseded = None,
            }
        }
        if !change.current_changed {
            return;
        }
        let Some(link) = self.links.get_mut(key) else { return };
        let syn_ack = link.syn_ack.take();
        let restarted = p.boot.is_some_and(|boot| boot != link.boot);
        p.boot = Some(link.boot);
        p.rekey_failed = false;
        let up = SessionUp {
            peer,
            route: link.route,
            proven: link.proven,
            restarted: restarted || p.events.up.is_some_and(|up| up.restarted),
            first: change.boot_before.is_none() || p.events.up.is_some_and(|up| up.first),
            ours: link.ours,
            observed: link.observed,
            max_datagram: link.max_datagram,
        };
        self.event(peer, |events| {
            events.up = Some(up);
            events.syn_ack = syn_ack.or(events.syn_ack);
            events.changed = true;
        });
    }
}
