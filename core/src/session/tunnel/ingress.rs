//! What arrives: handshake packets and data frames.

use super::peers::hash_word;
use super::state::{Answer, COOKIES_ANSWERED, Destinations, Link};
use super::{ATTEMPT, Frame, Policy, Reply, Tunnel};
use crate::crypto::kdf;
use crate::limits::{
    BEACON_REJECT, BEACON_REKEY, HS_SEQ_MAX, PENDING_FRESH, REJECT_AFTER, REKEY_INITIATOR,
    REKEY_JITTER, REKEY_RESPONDER, RESP_RESENDS, SIMULTANEOUS_PAUSE, SKIP_SPAN, STALE_INTERVAL,
    VERIFY_PER_SECOND,
};
use crate::path::{PeerIndex, Route};
use crate::session::cookie::Source;
use crate::session::gate::{Bucket, Verdict};
use crate::session::handshake::{
    self, COOKIE, Received, STALE, SessionKeys, TYPE_COOKIE, TYPE_INIT, TYPE_RESP, word,
};
use crate::session::keys::{Expanded, Session};
use crate::session::payload::BootId;
use crate::session::slots::Entry;
use crate::slab::Key;
use crate::stats::DropReason;
use crate::time::{Duration, Instant};
use core::net::SocketAddr;

/// What became of a datagram.
#[must_use = "a frame's content is in here"]
#[derive(Debug)]
pub enum TunnelIn<'b> {
    /// It was for the tunnel itself.
    Handled,
    /// It was not accepted, and was counted.
    Dropped(DropReason),
    /// A data frame, decrypted in place.
    Frame(Frame<'b>),
}

/// What the two handshake roles know of a new session.
pub(super) struct NewSession<'k> {
    pub(super) keys: &'k SessionKeys,
    pub(super) local_index: u32,
    pub(super) remote_index: u32,
    pub(super) ours: bool,
    pub(super) route: Route,
    pub(super) proven: bool,
    pub(super) boot: BootId,
    pub(super) observed: Option<SocketAddr>,
    pub(super) max_datagram: u16,
}

impl<'s> Tunnel<'s> {
    /// Takes one datagram whose first byte is 0x10–0x13 or 0x80–0xFF; the relay header is off.
    pub fn handle<'b>(
        &mut self,
        now: Instant,
        route: Route,
        datagram: &'b mut [u8],
    ) -> TunnelIn<'b> {
        self.now = self.now.max(now);
        let result = match datagram.first() {
            Some(0x80..) => match self.handle_frame(now, route, datagram) {
                Ok(frame) => return TunnelIn::Frame(frame),
                Err(reason) => Err(reason),
            },
            _ => self.handle_handshake(now, route, datagram),
        };
        match result {
            Ok(()) => TunnelIn::Handled,
            Err(reason) => TunnelIn::Dropped(self.dropped(reason)),
        }
    }

    fn handle_handshake(
        &mut self,
        now: Instant,
        route: Route,
        packet: &mut [u8],
    ) -> Result<(), DropReason> {
        handshake::check_envelope(packet)?;
        match packet[0] {
            TYPE_INIT => self.handle_init(now, route, packet),
            TYPE_RESP => self.handle_resp(now, route, packet),
            TYPE_COOKIE => self.handle_cookie(now, route, packet),
            _ => self.handle_stale(now, packet),
        }
    }

    /// `wire.md` 4.5, in its order.
    fn handle_init(
        &mut self,
        now: Instant,
        route: Route,
        packet: &mut [u8],
    ) -> Result<(), DropReason> {
        // 1. Length and version were checked.
        let (secret, for_previous_key) = self.us.recipient(packet).ok_or(DropReason::Mac)?;
        let ours = secret.public();
        // 2. The same INIT again.
        let digest = kdf::sha256(&[&packet[..packet.len() - 16]]);
        let hash: [u8; 16] = core::array::from_fn(|i| digest[i]);
        if let Some(key) = self.find_answer(&hash) {
            return self.answer_again(route, key);
        }
        // 3. The budget.
        let source = Source::of(&route);
        match self.gate.judge(now, &mut self.rng, &source, packet) {
            Verdict::Admit => {}
            Verdict::Refuse => return Err(DropReason::RateLimited),
            Verdict::DemandCookie(cookie) => {
                let mut reply = Reply { route, len: COOKIE, packet: [0; COOKIE] };
                let nonce = self.rng.bytes();
                handshake::write_cookie(packet, &ours, &cookie, nonce, &mut reply.packet);
                return self.replies.push_back(reply).map_err(|_| DropReason::Full);
            }
        }
        // 4. Decrypt.
        let secret = self.us.secret_of(&ours).ok_or(DropReason::Handshake)?;
        let received = Received::read(secret, packet)?;
        // 5. Who it is.
        let peer = self.authorize(now, &received)?;
        // 6. Whether it is new.
        self.refuse_stale(now, route, peer, &received)?;
        // 7. Take it.
        self.accept(now, route, peer, received, hash, for_previous_key)
    }

    fn find_answer(&self, hash: &[u8; 16]) -> Option<Key> {
        let place = self.hashes.find(hash_word(hash), |place| {
            let key = self.answers.key_at(place as usize);
            key.is_some_and(|key| kdf::equal(&self.answers[key].hash, hash))
        })?;
        self.answers.key_at(place as usize)
    }

    fn answer_again(&mut self, route: Route, key: Key) -> Result<(), DropReason> {
        let answer = &mut self.answers[key];
        if answer.resends >= RESP_RESENDS {
            return Err(DropReason::RateLimited);
        }
        if answer.routes.add(route)? {
            answer.resends += 1;
        }
        let peer = answer.peer;
        self.wake(peer);
        Ok(())
    }

    /// Step 5: the initiator is a peer of ours, under its pinned identity and address, with a
    /// record that we know or that is newer and verifies.
    fn authorize(&mut self, now: Instant, received: &Received) -> Result<PeerIndex, DropReason> {
        let us = &self.us.config;
        let (key, p1) = (received.remote_static(), &received.payload);
        if us.secret_of_own(&key) || us.record.is_none() || p1.dst != us.address {
            return Err(DropReason::Untrusted);
        }
        let unix = us.wall.unix(now);
        let registry = us.registry;
        let peer = match &p1.record {
            None => self.find_by_key(p1.src, &key),
            Some(record) => self.find_peer(p1.src, &record.identity()),
        };
        let index = peer.ok_or(DropReason::Untrusted)?;
        let p = self.peer_mut(index).ok_or(DropReason::Untrusted)?;
        if p.keys.policy == Policy::Beacon {
            return Err(DropReason::Untrusted);
        }
        let Some(record) = &p1.record else { return Ok(index) };
        if p.keys.tunnel_key == key && p.keys.record_serial == record.serial() {
            return Ok(index);
        }
        if record.serial() <= p.keys.record_serial {
            return Err(DropReason::Untrusted);
        }
        let limit = Bucket::new(VERIFY_PER_SECOND, VERIFY_PER_SECOND);
        if !limit.take(&mut p.verify_full_at, now) {
            return Err(DropReason::RateLimited);
        }
        let record = record.expand(p1.src, key);
        let tombstone = record.fields.flags & crate::crypto::record::flag::TOMBSTONE != 0;
        if tombstone || record.is_expired(unix) || record.verify(&registry).is_err() {
            return Err(DropReason::Untrusted);
        }
        // The event must not be lost: the pin is durable.
        self.records.push_back((index, record)).map_err(|_| DropReason::Full)?;
        self.update_peer_record(now, index, &record);
        Ok(index)
    }

    /// Step 6: a number that was used, or is lower than that of a fresh handshake, is answered
    /// with the highest; only the genuine initiator can read it.
    fn refuse_stale(
        &mut self,
        now: Instant,
        route: Route,
        peer: PeerIndex,
        received: &Received,
    ) -> Result<(), DropReason> {
        let seq = received.payload.hs_seq;
        let Some(p) = self.peer(peer) else { return Err(DropReason::Untrusted) };
        let pending = p.slots.pending().filter(|e| {
            self.links.get(e.id).is_some_and(|link| now.since(link.born) < PENDING_FRESH)
        });
        let accepting = p.accepting.and_then(|key| self.answers.get(key)?.received.as_ref());
        let fresh = pending
            .map(|e| e.hs_seq)
            .chain(accepting.map(|received| received.payload.hs_seq))
            .max()
            .unwrap_or(0);
        let confirmed = p.slots.confirmed_seq();
        if seq >= HS_SEQ_MAX {
            return Err(DropReason::Malformed);
        }
        if seq > confirmed && seq >= fresh {
            return Ok(());
        }
        if p.stale_at.is_none_or(|at| now.since(at) >= STALE_INTERVAL) {
            let mut packet = [0; COOKIE];
            let out = packet.first_chunk_mut::<STALE>().expect("a COOKIE is longer");
            received.write_stale(confirmed.max(fresh), self.rng.bytes(), out);
            let reply = Reply { route, len: STALE, packet };
            if self.replies.push_back(reply).is_ok()
                && let Some(p) = self.peer_mut(peer)
            {
                p.stale_at = Some(now);
            }
        }
        Err(DropReason::Stale)
    }

    /// Step 7. The RESP itself is built in `poll_output`, so that the stream layer can give its
    /// SYN-ACK before.
    fn accept(
        &mut self,
        now: Instant,
        route: Route,
        peer: PeerIndex,
        received: Received,
        hash: [u8; 16],
        for_previous_key: bool,
    ) -> Result<(), DropReason> {
        if self.answers.is_full() {
            self.free_answer();
        }
        if self.answers.is_full() || self.links.is_full() {
            return Err(DropReason::Full);
        }
        let index = self.draw_index();
        let syn = received.payload.early;
        let mut routes = Destinations::default();
        let _ = routes.add(route);
        let observed = match route {
            Route::Direct(path) => Some(path.remote),
            Route::Relay(_) => None,
        };
        let answer = Answer {
            peer,
            hash,
            received: Some(received),
            index,
            born: now,
            observed,
            for_previous_key,
            syn,
            syn_ack: None,
            packet: [0; handshake::RESP_MAX],
            len: 0,
            resends: 0,
            routes,
            link: None,
            confirmed: false,
        };
        let key = self.answers.insert(answer).map_err(|_| DropReason::Full)?;
        if !self.hashes.insert(hash_word(&hash), key.index() as u32) {
            self.answers.remove(key);
            return Err(DropReason::Full);
        }
        let Some(p) = self.peer_mut(peer) else { return Err(DropReason::Untrusted) };
        if let Some(before) = p.accepting.replace(key) {
            self.drop_answer(before);
        }
        if let Some(syn) = syn {
            self.event(peer, |events| events.offer = Some((index, syn)));
        }
        self.meet(now, route, peer);
        self.wake(peer);
        self.reschedule(now, peer);
        Ok(())
    }

    /// Simultaneous open (`wire.md` 4.8): the larger identity holds its own attempt back, the
    /// smaller repeats its INIT to where the other's came from.
    fn meet(&mut self, now: Instant, route: Route, peer: PeerIndex) {
        let Some(p) = self.peer(peer) else { return };
        let (smaller, attempt) = (p.we_are_smaller, p.attempt);
        let Some(attempt) = attempt.and_then(|key| self.attempts.get_mut(key)) else { return };
        if !smaller {
            attempt.schedule.pause(now + SIMULTANEOUS_PAUSE);
        } else if attempt.message.is_some() {
            let _ = attempt.resend_to.add(route);
        }
    }

    /// Makes room among the answers: a confirmed one is only there for repeated INITs.
    fn free_answer(&mut self) {
        let confirmed = self.answers.iter().find(|(_, answer)| answer.confirmed);
        if let Some((key, _)) = confirmed {
            self.drop_answer(key);
        }
    }

    fn find_attempt(&self, index: u32) -> Result<Key, DropReason> {
        let value = self.indices.find(index, |_| true).ok_or(DropReason::UnknownIndex)?;
        if value & ATTEMPT == 0 {
            return Err(DropReason::UnknownIndex);
        }
        self.attempts.key_at((value & !ATTEMPT) as usize).ok_or(DropReason::UnknownIndex)
    }

    fn handle_resp(
        &mut self,
        now: Instant,
        route: Route,
        packet: &mut [u8],
    ) -> Result<(), DropReason> {
        let key = self.find_attempt(word(packet, 8))?;
        let attempt = &self.attempts[key];
        let peer = attempt.peer;
        let message = attempt.message.as_ref().ok_or(DropReason::UnknownIndex)?;
        let secret = self.us.secret_of(&message.with).ok_or(DropReason::Handshake)?;
        let accepted = match message.initiator.read_resp(secret, packet)? {
            Ok(accepted) => accepted,
            Err(rejected) => {
                self.event(peer, |events| events.suite_rejected = Some(rejected.0));
                return Err(DropReason::Handshake);
            }
        };
        if self.links.is_full() {
            return Err(DropReason::Full);
        }
        let (generation, hs_seq) = (message.generation, message.hs_seq);
        let (local_index, responder) = (message.initiator.index(), *message.initiator.responder());
        let had_early = attempt.early.is_some();
        // A first flight's destinations are the owner's to know.
        let proven = attempt.resend_to.contains(route);
        let p2 = &accepted.payload;
        if let Some(short) = &p2.record {
            self.adopt_record(now, peer, &short.expand(self.address_of(peer), responder));
        }
        let syn_ack = p2.early.filter(|_| had_early);
        self.drop_attempt(peer);
        let link = self.new_link(
            now,
            peer,
            NewSession {
                keys: &accepted.keys,
                local_index,
                remote_index: accepted.remote_index,
                ours: true,
                route,
                proven,
                boot: p2.boot_id,
                observed: p2.observed,
                max_datagram: p2.max_datagram,
            },
        )?;
        self.links[link].syn_ack = syn_ack;
        self.links[link].probe_due = true;
        self.links[link].probe_at = Some(now + crate::limits::CONFIRM_REPEAT[0]);
        let Some(p) = self.peer_mut(peer) else { return Err(DropReason::Untrusted) };
        let entry = Entry {
            id: link,
            generation,
            ours: true,
            by_smaller: p.we_are_smaller,
            boot: p2.boot_id,
            ord: p.slots.next_ord(),
            heard: false,
            hs_seq,
        };
        let change = p.slots.accepted(entry);
        self.apply(now, peer, link, change);
        self.wake(peer);
        self.reschedule(now, peer);
        Ok(())
    }

    fn address_of(&self, peer: PeerIndex) -> crate::addr::Address {
        self.peer(peer).map_or(crate::addr::Address::UNSPECIFIED, |p| p.keys.address)
    }

    /// A record inside an authenticated answer: taken if it is newer and right, else ignored.
    fn adopt_record(&mut self, now: Instant, peer: PeerIndex, record: &crate::crypto::Record) {
        let newer = self.peer(peer).is_some_and(|p| {
            p.keys.policy == Policy::Peer
                && record.identity == p.keys.identity
                && record.fields.serial > p.keys.record_serial
        });
        if newer
            && record.verify(&self.us.config.registry).is_ok()
            && self.records.push_back((peer, *record)).is_ok()
        {
            self.update_peer_record(now, peer, record);
        }
    }

    /// Enters a session into the tables; the slots are the caller's to change.
    pub(super) fn new_link(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        new: NewSession<'_>,
    ) -> Result<Key, DropReason> {
        let policy = self.peer(peer).map_or(Policy::Peer, |p| p.keys.policy);
        let (life, rekey) = match policy {
            Policy::Beacon => (BEACON_REJECT, BEACON_REKEY),
            Policy::Peer if new.ours => (REJECT_AFTER, REKEY_INITIATOR),
            Policy::Peer => (REJECT_AFTER, REKEY_RESPONDER),
        };
        let jitter = match new.ours {
            true => Duration::from_nanos(self.rng.below(REKEY_JITTER.as_nanos() as u64)),
            false => Duration::ZERO,
        };
        let keys = Expanded::new(self.aead, new.keys);
        // The window's memory is that of the place, which is known after the insertion.
        let session = Session::new(keys, new.local_index, new.remote_index, now + life, &mut []);
        let skip_at = self.rng.below(SKIP_SPAN);
        let link = Link {
            session,
            skip_at,
            peer,
            ours: new.ours,
            born: now,
            route: new.route,
            proven: new.proven,
            boot: new.boot,
            observed: new.observed,
            max_datagram: new.max_datagram,
            rekey_at: (now + rekey).minus(jitter),
            data: false,
            probe_at: None,
            probes: 0,
            probe_due: false,
            empty_due: false,
            superseded: None,
            answer: None,
            needs_record: false,
            syn_ack: None,
        };
        let key = self.links.insert(link).map_err(|_| DropReason::Full)?;
        Self::window(&mut self.replay, self.words, key).fill(0);
        if !self.indices.insert(new.local_index, key.index() as u32) {
            self.links.remove(key);
            return Err(DropReason::Full);
        }
        Ok(key)
    }

    fn handle_cookie(
        &mut self,
        now: Instant,
        route: Route,
        packet: &[u8],
    ) -> Result<(), DropReason> {
        let key = self.find_attempt(word(packet, 4))?;
        let attempt = &mut self.attempts[key];
        let peer = attempt.peer;
        let message = attempt.message.as_mut().ok_or(DropReason::UnknownIndex)?;
        let cookie = message.initiator.read_cookie(packet)?;
        let Some(p) = self.peers[peer.index()].0.as_mut() else {
            return Err(DropReason::Untrusted);
        };
        if !p.cookie.take(now, cookie) || message.cookies >= COOKIES_ANSWERED {
            return Err(DropReason::RateLimited);
        }
        message.cookies += 1;
        attempt.resend_to.add(route)?;
        self.wake(peer);
        Ok(())
    }

    fn handle_stale(&mut self, now: Instant, packet: &[u8]) -> Result<(), DropReason> {
        let key = self.find_attempt(word(packet, 4))?;
        let attempt = &mut self.attempts[key];
        let peer = attempt.peer;
        let message = attempt.message.as_ref().ok_or(DropReason::UnknownIndex)?;
        let highest = message.initiator.read_stale(packet)?;
        if highest >= HS_SEQ_MAX {
            return Err(DropReason::Stale);
        }
        attempt.schedule.restart(now);
        if let Some(p) = self.peer_mut(peer) {
            p.hs_last = p.hs_last.max(highest);
        }
        // The answered message is spent: the same STALE again finds nothing.
        self.forget_message(key);
        self.fire_attempt(now, peer);
        self.reschedule(now, peer);
        Ok(())
    }
}
