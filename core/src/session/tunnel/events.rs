//! What the tunnel tells its owner: edges, coalesced per peer, so that the queue is bounded.

use super::Tunnel;
use crate::crypto::Record;
use crate::path::{PeerIndex, Route};
use crate::session::payload::EARLY;
use core::net::SocketAddr;

/// An edge. Several of one peer come in the order of this list.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TunnelEvent {
    /// A record of the peer with a higher serial came in a handshake, and its signature is
    /// right: pin it durably. The tunnel uses it already.
    NewRecord {
        /// The peer.
        peer: PeerIndex,
        /// The record.
        record: Record,
    },
    /// An authentic INIT carries a SYN. It may be a replay: answer with
    /// [`Tunnel::answer_early`] without keeping anything, or not at all.
    EarlyOffer {
        /// The peer.
        peer: PeerIndex,
        /// Names the handshake.
        ticket: u32,
        /// The inner packet.
        syn: [u8; EARLY],
    },
    /// Sessions left the slots: compare with [`Tunnel::sessions`]. What was sent in them and
    /// not acknowledged is lost without a congestion signal (`wire.md` 11).
    SessionsChanged {
        /// The peer.
        peer: PeerIndex,
    },
    /// There is no current session any more.
    Down {
        /// The peer.
        peer: PeerIndex,
    },
    /// Another session is current.
    SessionUp(SessionUp),
    /// The first frame on a session of ours came back: the peer has the keys.
    Confirmed {
        /// The peer.
        peer: PeerIndex,
    },
    /// The SYN of a confirmed handshake: now it counts.
    EarlySyn {
        /// The peer.
        peer: PeerIndex,
        /// The inner packet.
        syn: [u8; EARLY],
        /// The SYN-ACK that its RESP carried.
        answered: Option<[u8; EARLY]>,
    },
    /// A handshake that carried a SYN came to nothing. Unless [`Tunnel::has_early`], so did
    /// what was kept for such a SYN.
    EarlyDiscarded {
        /// The peer.
        peer: PeerIndex,
    },
    /// The SYN-ACK for the SYN of our own attempt.
    SynAck {
        /// The peer.
        peer: PeerIndex,
        /// The inner packet.
        syn_ack: [u8; EARLY],
    },
    /// The peer initiated towards our previous tunnel key: send it our record (F8).
    SendRecord {
        /// The peer.
        peer: PeerIndex,
    },
    /// Two INITs went unanswered: the peer's tunnel key may have changed (`wire.md` 6.4).
    Unanswered {
        /// The peer.
        peer: PeerIndex,
    },
    /// The attempt ended after 90 s without an answer.
    GaveUp {
        /// The peer.
        peer: PeerIndex,
    },
    /// The peer, genuinely, chose a suite that we did not offer; its answer was dropped.
    SuiteRejected {
        /// The peer.
        peer: PeerIndex,
        /// The byte it sent.
        suite: u8,
    },
}

/// See [`TunnelEvent::SessionUp`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionUp {
    /// The peer.
    pub peer: PeerIndex,
    /// Where the handshake's last message came from.
    pub route: Route,
    /// Our message before it had gone there, so the handshake proves the path. If not, and it
    /// was not a destination of the first flight either, its source may be forged.
    pub proven: bool,
    /// The peer has another boot id than in the last current session: its streams are gone.
    pub restarted: bool,
    /// There was no current session before.
    pub first: bool,
    /// We initiated it.
    pub ours: bool,
    /// Where the peer saw us (sessions of our own, not relayed).
    pub observed: Option<SocketAddr>,
    /// The largest UDP payload that the peer accepts.
    pub max_datagram: u16,
}

/// The edges of one peer that nobody has fetched yet.
#[derive(Default)]
pub(super) struct PeerEvents {
    pub(super) offer: Option<(u32, [u8; EARLY])>,
    pub(super) changed: bool,
    pub(super) down: bool,
    pub(super) up: Option<SessionUp>,
    pub(super) confirmed: bool,
    pub(super) early_syn: Option<([u8; EARLY], Option<[u8; EARLY]>)>,
    pub(super) early_discarded: bool,
    pub(super) syn_ack: Option<[u8; EARLY]>,
    pub(super) send_record: bool,
    pub(super) unanswered: bool,
    pub(super) gave_up: bool,
    pub(super) suite_rejected: Option<u8>,
}

impl PeerEvents {
    fn take(&mut self, peer: PeerIndex) -> Option<TunnelEvent> {
        let take = core::mem::take::<bool>;
        if let Some((ticket, syn)) = self.offer.take() {
            return Some(TunnelEvent::EarlyOffer { peer, ticket, syn });
        }
        if take(&mut self.changed) {
            return Some(TunnelEvent::SessionsChanged { peer });
        }
        if take(&mut self.down) {
            return Some(TunnelEvent::Down { peer });
        }
        if let Some(up) = self.up.take() {
            return Some(TunnelEvent::SessionUp(up));
        }
        if take(&mut self.confirmed) {
            return Some(TunnelEvent::Confirmed { peer });
        }
        if let Some((syn, answered)) = self.early_syn.take() {
            return Some(TunnelEvent::EarlySyn { peer, syn, answered });
        }
        if take(&mut self.early_discarded) {
            return Some(TunnelEvent::EarlyDiscarded { peer });
        }
        if let Some(syn_ack) = self.syn_ack.take() {
            return Some(TunnelEvent::SynAck { peer, syn_ack });
        }
        if take(&mut self.send_record) {
            return Some(TunnelEvent::SendRecord { peer });
        }
        if take(&mut self.unanswered) {
            return Some(TunnelEvent::Unanswered { peer });
        }
        if take(&mut self.gave_up) {
            return Some(TunnelEvent::GaveUp { peer });
        }
        let suite = self.suite_rejected.take()?;
        Some(TunnelEvent::SuiteRejected { peer, suite })
    }
}

impl Tunnel<'_> {
    /// Whether [`Tunnel::poll_event`] may have something.
    pub(crate) fn has_event(&self) -> bool {
        !self.records.is_empty() || self.eventful.front().is_some()
    }

    /// The next edge. Call until `None` after every input, and before [`Tunnel::poll_output`]
    /// where early SYNs are to be answered.
    pub fn poll_event(&mut self) -> Option<TunnelEvent> {
        if !self.has_event() {
            return None;
        }
        if let Some((peer, record)) = self.records.pop_front() {
            return Some(TunnelEvent::NewRecord { peer, record });
        }
        while let Some(number) = self.eventful.front() {
            if let Some(peer) = self.peers[number as usize].0.as_mut() {
                if let Some(event) = peer.events.take(PeerIndex(number)) {
                    return Some(event);
                }
                peer.is_eventful = false;
            }
            self.eventful.pop();
        }
        None
    }

    /// Answers the SYN of an [`TunnelEvent::EarlyOffer`]: the SYN-ACK goes into the RESP, if
    /// that is not built yet.
    pub fn answer_early(&mut self, peer: PeerIndex, ticket: u32, syn_ack: [u8; EARLY]) -> bool {
        let Some(key) = self.peer(peer).and_then(|p| p.accepting) else { return false };
        let answer = &mut self.answers[key];
        let waits = answer.index == ticket && answer.received.is_some();
        if waits {
            answer.syn_ack = Some(syn_ack);
        }
        waits
    }

    /// Notes an edge of `peer`.
    pub(super) fn event(&mut self, peer: PeerIndex, note: impl FnOnce(&mut PeerEvents)) {
        let Some(p) = self.peers[peer.index()].0.as_mut() else { return };
        note(&mut p.events);
        if !core::mem::replace(&mut p.is_eventful, true) {
            self.eventful.push(peer.0);
        }
    }
}
