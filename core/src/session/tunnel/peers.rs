//! The table of peers: who is pinned, found by address and identity.

use super::state::{Attempt, Peer};
use super::storage::PeerCell;
use super::{ATTEMPT, PeerKeys, Policy, Tunnel};
use crate::addr::Address;
use crate::crypto::{IdentityKey, Record, TunnelKey};
use crate::path::PeerIndex;
use crate::session::payload::EARLY;
use crate::session::slots::Slot;
use crate::slab::Key;
use crate::time::Instant;

/// Why a peer cannot be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The number is beyond the table, or in use.
    #[error("this peer number is in use or beyond the table")]
    Number,
    /// A peer with this address and identity is there already.
    #[error("this address and identity are there already")]
    Exists,
}

/// One session of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionInfo {
    /// The index in front of what we send; names our frames in the peer's acknowledgements.
    pub sent_index: u32,
    /// The index in front of what we receive; names the peer's frames in ours.
    pub received_index: u32,
    /// Its slot.
    pub slot: Slot,
}

impl Tunnel<'_> {
    /// Pins a peer under a number that is not in use.
    pub fn add_peer(&mut self, peer: PeerIndex, keys: PeerKeys) -> Result<(), PeerError> {
        let is_place = self.peers.reach(peer.index(), PeerCell::empty);
        if !is_place || self.peers[peer.index()].0.is_some() {
            return Err(PeerError::Number);
        }
        let Err(place) = self.search(keys.address, &keys.identity) else {
            return Err(PeerError::Exists);
        };
        self.by_address.copy_within(place..self.peer_count, place + 1);
        self.by_address[place] = peer.0;
        self.peer_count += 1;
        let before = self.removed.iter().rev().find(|(identity, _)| *identity == keys.identity);
        let generation = before.map_or(0, |(_, generation)| *generation);
        let us = &self.us.config.identity;
        self.peers[peer.index()] = PeerCell(Some(Peer::new(keys, us, generation)));
        Ok(())
    }

    /// Forgets a peer and zeroes all its keys.
    pub fn remove_peer(&mut self, now: Instant, peer: PeerIndex) {
        let Some(keys) = self.peer(peer).map(|p| p.keys) else { return };
        self.close(now, peer);
        if let Ok(place) = self.search(keys.address, &keys.identity) {
            self.by_address.copy_within(place + 1..self.peer_count, place);
            self.peer_count -= 1;
        }
        self.deadlines.set(peer.index(), None);
        self.ready.remove(peer.0);
        self.eventful.remove(peer.0);
        for _ in 0..self.records.len() {
            if let Some(entry) = self.records.pop_front().filter(|(of, _)| *of != peer) {
                let _ = self.records.push_back(entry);
            }
        }
        if let Some(p) = self.peers[peer.index()].0.take() {
            if self.removed.is_full() {
                self.removed.pop_front();
            }
            let _ = self.removed.push_back((keys.identity, p.slots.next_generation() - 1));
        }
    }

    /// Ends all sessions and attempts of a peer at once (after F7, sent or received).
    pub fn close(&mut self, now: Instant, peer: PeerIndex) {
        self.now = self.now.max(now);
        self.drop_attempt(peer);
        if let Some(key) = self.peer_mut(peer).and_then(|p| p.accepting.take()) {
            self.drop_answer(key);
        }
        while let Some(key) = self.peer(peer).and_then(|p| p.slots.iter().next().map(|(_, e)| e.id))
        {
            self.drop_link(key);
        }
        if let Some(p) = self.peer_mut(peer) {
            p.unanswered_since = None;
            p.keepalive_due = false;
        }
        self.reschedule(now, peer);
    }

    /// A verified record of the peer: adopts its tunnel key if its serial is higher than the
    /// pinned one's. Attempts towards the old key start anew.
    pub fn update_peer_record(&mut self, now: Instant, peer: PeerIndex, record: &Record) -> bool {
        let Some(p) = self.peer_mut(peer) else { return false };
        let fits = record.fields.addr == p.keys.address
            && record.identity == p.keys.identity
            && record.fields.serial > p.keys.record_serial;
        if !fits {
            return false;
        }
        p.keys.tunnel_key = record.fields.tunnel;
        p.keys.record_serial = record.fields.serial;
        let (key, attempt) = (p.keys.tunnel_key, p.attempt);
        if let Some(attempt) = attempt.map(|a| &mut self.attempts[a])
            && attempt.message.as_ref().is_some_and(|m| *m.initiator.responder() != key)
        {
            attempt.schedule.restart(now);
            self.reschedule(now, peer);
        }
        true
    }

    /// A record that the peer sent (F8): checks its signature first. See
    /// [`Tunnel::update_peer_record`].
    pub fn offer_peer_record(&mut self, now: Instant, peer: PeerIndex, record: &Record) -> bool {
        record.verify(&self.us.config.registry).is_ok()
            && self.update_peer_record(now, peer, record)
    }

    /// The peer as pinned now.
    pub fn peer_keys(&self, peer: PeerIndex) -> Option<&PeerKeys> {
        self.peer(peer).map(|p| &p.keys)
    }

    /// The number of a peer by address and identity.
    pub fn find_peer(&self, address: Address, identity: &IdentityKey) -> Option<PeerIndex> {
        self.search(address, identity).ok().map(|place| PeerIndex(self.by_address[place]))
    }

    /// The peer of this address whose tunnel key this is.
    pub(super) fn find_by_key(&self, address: Address, key: &TunnelKey) -> Option<PeerIndex> {
        let place = self.search(address, &IdentityKey::ZERO).unwrap_or_else(|place| place);
        self.by_address[place..self.peer_count]
            .iter()
            .map(|&number| PeerIndex(number))
            .take_while(|p| self.peer(*p).is_some_and(|p| p.keys.address == address))
            .find(|p| self.peer(*p).is_some_and(|p| p.keys.tunnel_key == *key))
    }

    fn search(&self, address: Address, identity: &IdentityKey) -> Result<usize, usize> {
        self.by_address[..self.peer_count].binary_search_by(|&number| {
            let keys =
                &self.peer(PeerIndex(number)).expect("the table lists peers that are there").keys;
            (keys.address, &keys.identity).cmp(&(address, identity))
        })
    }

    /// Whether there is a current session.
    pub fn has_session(&self, peer: PeerIndex) -> bool {
        self.peer(peer).is_some_and(|p| p.slots.current().is_some())
    }

    /// Whether an attempt of ours is under way.
    pub fn is_attempting(&self, peer: PeerIndex) -> bool {
        self.peer(peer).is_some_and(|p| p.attempt.is_some())
    }

    /// All sessions of the peer that still receive, the current one first.
    pub fn sessions(&self, peer: PeerIndex) -> heapless::Vec<SessionInfo, 5> {
        let slots = self.peer(peer).map(|p| p.slots.iter()).into_iter().flatten();
        slots
            .filter_map(|(slot, entry)| {
                let session = &self.links.get(entry.id)?.session;
                Some(SessionInfo {
                    sent_index: session.remote_index(),
                    received_index: session.local_index(),
                    slot,
                })
            })
            .collect()
    }

    /// Starts an attempt, with an inner SYN as early data, unless one is running. False if
    /// there is no such peer, or no record of ours to introduce ourselves with.
    pub fn initiate(&mut self, now: Instant, peer: PeerIndex, early: Option<[u8; EARLY]>) -> bool {
        self.now = self.now.max(now);
        let ready = self.us.config.record.is_some();
        let Some(p) = self.peer(peer).filter(|_| ready) else { return false };
        if p.attempt.is_some() {
            return true;
        }
        let endless = p.keys.policy == Policy::Beacon;
        let attempt = Attempt::new(now, peer, early, endless);
        let Ok(key) = self.attempts.insert(attempt) else { return false };
        if let Some(p) = self.peer_mut(peer) {
            p.attempt = Some(key);
        }
        self.fire_attempt(now, peer);
        self.reschedule(now, peer);
        true
    }

    /// Another way to the peer became known: the INIT under way goes out again now, the same
    /// bytes, besides its schedule.
    pub fn repeat(&mut self, peer: PeerIndex) {
        let Some(key) = self.peer(peer).and_then(|p| p.attempt) else { return };
        self.attempts[key].flight_due = true;
        self.wake(peer);
    }

    /// Stream data or a datagram went to or came from the peer: its session is worth a rekey.
    pub fn note_data(&mut self, now: Instant, peer: PeerIndex) {
        let Some(key) = self.peer(peer).and_then(|p| p.slots.current()).map(|e| e.id) else {
            return;
        };
        if !core::mem::replace(&mut self.links[key].data, true) {
            self.reschedule(now, peer);
        }
    }

    /// Whether a stream with the peer is open: then its session is renewed though idle.
    pub fn set_busy(&mut self, now: Instant, peer: PeerIndex, busy: bool) {
        let Some(p) = self.peer_mut(peer) else { return };
        if core::mem::replace(&mut p.busy, busy) != busy {
            self.reschedule(now, peer);
        }
    }

    /// Ends our attempt and zeroes its keys.
    pub(super) fn drop_attempt(&mut self, peer: PeerIndex) {
        let Some(key) = self.peer_mut(peer).and_then(|p| p.attempt.take()) else { return };
        self.forget_message(key);
        self.attempts.remove(key);
    }

    /// Takes the INIT of an attempt back: answers to it find nothing any more.
    pub(super) fn forget_message(&mut self, key: Key) {
        if let Some(message) = self.attempts[key].message.take() {
            self.indices.remove(message.initiator.index(), key.index() as u32 | ATTEMPT);
        }
    }

    pub(super) fn drop_answer(&mut self, key: Key) {
        let Some(answer) = self.answers.remove(key) else { return };
        self.hashes.remove(hash_word(&answer.hash), key.index() as u32);
        if let Some(link) = answer.link.and_then(|link| self.links.get_mut(link)) {
            link.answer = None;
        }
        if answer.syn.is_some() {
            self.event(answer.peer, |events| events.early_discarded = true);
        }
    }

    /// Whether a handshake of this peer that may still be confirmed carried a SYN.
    pub fn has_early(&self, peer: PeerIndex) -> bool {
        self.answers.iter().any(|(_, answer)| answer.peer == peer && answer.syn.is_some())
    }

    /// Ends a session, wherever it is, and zeroes its keys.
    pub(super) fn drop_link(&mut self, key: Key) {
        let Some(link) = self.links.remove(key) else { return };
        self.indices.remove(link.session.local_index(), key.index() as u32);
        if let Some(answer) = link.answer {
            self.drop_answer(answer);
        }
        let current = self.peer_mut(link.peer).is_some_and(|p| p.slots.remove(key));
        self.event(link.peer, |events| {
            events.changed = true;
            if current {
                events.down = true;
                events.up = None;
            }
        });
    }
}

/// The word under which an INIT's hash is filed.
pub(super) fn hash_word(hash: &[u8; 16]) -> u32 {
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}
