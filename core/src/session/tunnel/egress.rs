//! What the tunnel itself sends: handshake packets, confirmations, keepalives. Each is built
//! from state when it is fetched.

use super::ingress::NewSession;
use super::state::{Destinations, Message};
use super::{ATTEMPT, Policy, Tunnel};
use crate::crypto::TunnelSecret;
use crate::limits::{FRAME_HEADER, HS_SEQ_MAX, TAG};
use crate::path::{PeerIndex, Route};
use crate::session::handshake::{INIT_MAX, Initiator, RESP_MAX, write_mac2};
use crate::session::payload::{InitPayload, RespPayload};
use crate::session::slots::Entry;
use crate::slab::Key;
use crate::time::Instant;

/// Bytes that the buffer of [`Tunnel::poll_output`] must have.
pub const OUTPUT_MIN: usize = INIT_MAX;

/// F0, the ping that asks for key confirmation (`wire.md` 5.3).
const PING: u8 = 0xF0;

/// Where a packet of the tunnel goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// There and nowhere else.
    Route(Route),
    /// An INIT: to the relay channel, the last good path and the resolved endpoints, at most 4
    /// in all (`wire.md` 4.9).
    FirstFlight(PeerIndex),
    /// On the best path.
    Peer(PeerIndex),
}

/// A packet of the tunnel, whose bytes are in the buffer.
#[must_use = "its bytes are in the buffer and are sent by nobody else"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Output {
    /// Where it goes.
    pub to: To,
    /// Bytes of the buffer.
    pub len: usize,
    /// The peer, its index and the counter, if the frame wants an acknowledgement.
    pub eliciting: Option<(PeerIndex, u32, u64)>,
}

impl Tunnel<'_> {
    /// Builds the tunnel's next packet in `out` (at least 366 bytes, else nothing is built).
    /// Call until `None`.
    pub fn poll_output(&mut self, now: Instant, out: &mut [u8]) -> Option<Output> {
        self.now = self.now.max(now);
        if out.len() < OUTPUT_MIN || self.replies.is_empty() && self.ready.front().is_none() {
            return None;
        }
        if let Some(reply) = self.replies.pop_front() {
            out[..reply.len].copy_from_slice(&reply.packet[..reply.len]);
            return Some(Output { to: To::Route(reply.route), len: reply.len, eliciting: None });
        }
        while let Some(number) = self.ready.front() {
            let peer = PeerIndex(number);
            if let Some(output) = self.peer_output(now, peer, out) {
                return Some(output);
            }
            self.ready.pop();
            if let Some(p) = self.peer_mut(peer) {
                p.is_ready = false;
            }
        }
        None
    }

    fn peer_output(&mut self, now: Instant, peer: PeerIndex, out: &mut [u8]) -> Option<Output> {
        if let Some(key) = self.peer_mut(peer)?.accepting.take()
            && self.build_resp(now, peer, key).is_none()
        {
            self.drop_answer(key);
        }
        self.resp_output(peer, out)
            .or_else(|| self.init_output(now, peer, out))
            .or_else(|| self.confirm_output(now, peer, out))
            .or_else(|| self.keepalive_output(now, peer, out))
    }

    /// Builds the RESP and puts the session into pending.
    fn build_resp(&mut self, now: Instant, peer: PeerIndex, key: Key) -> Option<()> {
        let e = TunnelSecret::from_secret(self.rng.bytes());
        let us = &self.us.config;
        let answer = self.answers.get_mut(key)?;
        let received = answer.received.take()?;
        let p1 = &received.payload;
        let suite = us.caps.choose(p1.caps)?;
        let mut p2 = RespPayload {
            suite: suite.to_byte(),
            caps: us.caps,
            max_datagram: us.max_datagram,
            observed: answer.observed,
            boot_id: us.boot_id,
            record: None,
            early: answer.syn_ack.filter(|_| answer.syn.is_some()),
        };
        let newer = us.record.filter(|record| record.fields.serial > p1.known_peer_serial);
        let room = received.init_len.min(RESP_MAX) - (RESP_MAX - crate::session::payload::P2_MAX);
        if !answer.for_previous_key {
            p2.record = newer.map(|record| record.to_short());
        }
        // A RESP is never longer than its INIT (`wire.md` 4.3).
        if p2.encoded_len() > room {
            p2.record = None;
        }
        if p2.encoded_len() > room {
            p2.early = None;
        }
        let needs_record = newer.is_some() && p2.record.is_none();
        if p2.early.is_none() {
            answer.syn_ack = None;
        }
        let (generation, boot, hs_seq) = (p1.generation, p1.boot_id, p1.hs_seq);
        let (remote_index, max_datagram) = (received.remote_index, p1.max_datagram);
        let local_index = answer.index;
        let route = answer.routes.first()?;
        let (len, keys) =
            received.write_resp(e, local_index, suite, &p2, &mut answer.packet).ok()?;
        answer.len = len;
        let link = self
            .new_link(
                now,
                peer,
                NewSession {
                    keys: &keys,
                    local_index,
                    remote_index,
                    ours: false,
                    route,
                    proven: true,
                    boot,
                    observed: None,
                    max_datagram,
                },
            )
            .ok()?;
        self.links[link].answer = Some(key);
        self.links[link].needs_record = needs_record;
        self.answers[key].link = Some(link);
        let p = self.peer_mut(peer)?;
        let entry = Entry {
            id: link,
            generation,
            ours: false,
            by_smaller: !p.we_are_smaller,
            boot,
            ord: p.slots.next_ord(),
            heard: false,
            hs_seq,
        };
        if let Some(replaced) = p.slots.answered(entry) {
            self.drop_link(replaced.id);
        }
        self.reschedule(now, peer);
        Some(())
    }

    fn resp_output(&mut self, peer: PeerIndex, out: &mut [u8]) -> Option<Output> {
        let slots = &self.peers[peer.index()].0.as_ref()?.slots;
        let due = slots.iter().find_map(|(_, entry)| {
            let key = self.links.get(entry.id)?.answer?;
            self.answers.get(key)?.routes.is_due().then_some(key)
        })?;
        let answer = &mut self.answers[due];
        let route = answer.routes.pop()?;
        out[..answer.len].copy_from_slice(&answer.packet[..answer.len]);
        Some(Output { to: To::Route(route), len: answer.len, eliciting: None })
    }

    fn init_output(&mut self, now: Instant, peer: PeerIndex, out: &mut [u8]) -> Option<Output> {
        let key = self.peer(peer)?.attempt?;
        if core::mem::take(&mut self.attempts[key].renew) {
            self.build_init(now, peer, key);
        }
        let cookie = self.peer(peer)?.cookie.get(now);
        let attempt = &mut self.attempts[key];
        let message = attempt.message.as_mut()?;
        let to = match attempt.resend_to.pop() {
            Some(route) => To::Route(route),
            None if core::mem::take(&mut attempt.flight_due) => To::FirstFlight(peer),
            None => return None,
        };
        write_mac2(&mut message.packet[..message.len], cookie.as_ref());
        out[..message.len].copy_from_slice(&message.packet[..message.len]);
        Some(Output { to, len: message.len, eliciting: None })
    }

    /// Builds a new INIT: new e, index and number.
    fn build_init(&mut self, now: Instant, peer: PeerIndex, key: Key) -> Option<()> {
        self.forget_message(key);
        let index = self.draw_index();
        let e = TunnelSecret::from_secret(self.rng.bytes());
        let unix_ms = self.unix_ms(now);
        let p = self.peers[peer.index()].0.as_mut()?;
        let us = &self.us.config;
        let hs_seq = unix_ms.max(p.hs_last.saturating_add(1)).min(HS_SEQ_MAX - 1);
        p.hs_last = hs_seq;
        let attempt = &mut self.attempts[key];
        let payload = InitPayload {
            caps: us.caps,
            rekey: p.slots.current().is_some(),
            max_datagram: us.max_datagram,
            src: us.address,
            dst: p.keys.address,
            hs_seq,
            known_peer_serial: p.keys.record_serial,
            generation: p.slots.next_generation(),
            boot_id: us.boot_id,
            record: us.record.as_ref().map(|record| record.to_short()),
            early: attempt.early.filter(|_| p.keys.policy == Policy::Peer),
        };
        let mut packet = [0; INIT_MAX];
        let (initiator, len) =
            Initiator::start(&us.secret, &p.keys.tunnel_key, e, index, &payload, &mut packet)
                .ok()?;
        attempt.message = Some(Message {
            initiator,
            packet,
            len,
            generation: payload.generation,
            hs_seq,
            with: us.secret.public(),
            cookies: 0,
        });
        attempt.resend_to = Destinations::default();
        // With a place for each attempt the table has room.
        self.indices.insert(index, key.index() as u32 | ATTEMPT);
        Some(())
    }

    /// F0 on a session of ours that nothing was heard on; the empty frame that confirms one of
    /// the peer's.
    fn confirm_output(&mut self, now: Instant, peer: PeerIndex, out: &mut [u8]) -> Option<Output> {
        let slots = &self.peers[peer.index()].0.as_ref()?.slots;
        let mut due = None;
        for (_, entry) in slots.iter() {
            if self.links.get(entry.id).is_some_and(|link| link.probe_due || link.empty_due) {
                due = Some(entry.id);
                break;
            }
        }
        let link = &mut self.links[due?];
        link.empty_due = false;
        let mut plaintext_len = 0;
        if core::mem::take(&mut link.probe_due) {
            out[FRAME_HEADER] = PING;
            out[FRAME_HEADER + 1..][..8].copy_from_slice(&self.rng.bytes::<8>());
            plaintext_len = 9;
        }
        let sealed = link.session.seal(now, self.aead, out, plaintext_len)?;
        debug_assert_eq!(sealed.len, FRAME_HEADER + plaintext_len + TAG);
        Some(Output {
            to: To::Route(link.route),
            len: sealed.len,
            eliciting: (plaintext_len > 0).then_some((peer, sealed.index, sealed.counter)),
        })
    }

    fn keepalive_output(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        out: &mut [u8],
    ) -> Option<Output> {
        if !self.peer(peer)?.keepalive_due {
            return None;
        }
        let sealed = self.seal(now, peer, out, 0);
        self.peer_mut(peer)?.keepalive_due = false;
        Some(Output { to: To::Peer(peer), len: sealed?.len, eliciting: None })
    }
}
