//! What arrives: outer demultiplexing, then the inner packet of an authenticated peer.

use super::Node;
use super::probes::Control;
use crate::crypto::Record;
use crate::directory::Inbound;
use crate::limits::{FRAME_HEADER, TAG};
use crate::machine::{Ingress, Path};
use crate::path::{PeerIndex, Route};
use crate::planted::{self, Defect};
use crate::session::TunnelIn;
use crate::session::tunnel::Frame;
use crate::stats::DropReason;
use crate::stream::PacketOutcome;
use crate::time::Instant;
use crate::wire::control::{self, CloseCode};
use crate::wire::frame::{Kind, classify};
use crate::wire::header::{Flags, Header, Protocol};

/// Most peers of one receive batch whose acknowledgements are expedited at its end; those of
/// others wait for their timers.
const BATCH_PEERS: usize = 32;

/// The peers whose frames came in the present receive batch.
pub(super) type Batch = heapless::Vec<PeerIndex, BATCH_PEERS>;

/// What became of an inner packet.
pub(super) enum Inner<'b> {
    /// It was understood; whether it is acknowledged, and whether at once.
    Taken { eliciting: bool, immediate: bool },
    /// It was for the application, and is acknowledged.
    Datagram(crate::addr::SocketAddress, crate::addr::Port, &'b [u8]),
    /// It found no room, or was not acceptable: not acknowledged.
    Dropped(DropReason),
}

/// Whether a frame's plaintext that begins so is an inner packet (`wire.md` 5.3).
const fn is_packet(first: u8) -> bool {
    matches!(first, 0x10..=0x1F)
}

const SILENT: Inner<'static> = Inner::Taken { eliciting: false, immediate: false };
const ELICITING: Inner<'static> = Inner::Taken { eliciting: true, immediate: false };

impl<'s> Node<'s> {
    pub(super) fn ingress<'b>(
        &mut self,
        now: Instant,
        path: Path,
        datagram: &'b mut [u8],
    ) -> Ingress<'b> {
        let kind = match classify(datagram) {
            Ok(kind) => kind,
            Err(reason) => return self.dropped(reason),
        };
        if kind == Kind::Stun {
            // From the beacon, too: the client knows whom it has asked.
            return match self.stun.handle(path, datagram) {
                Ok(()) => Ingress::Handled,
                Err(reason) => self.dropped(reason),
            };
        }
        // The beacon's own handshake, messages and relay frames; by source address, which the
        // relay's MAC and the session's tag then prove.
        if kind == Kind::Relay || self.directory.is_beacon(path.remote) {
            return match self.directory.handle_datagram(now, path, datagram) {
                Inbound::Handled => Ingress::Handled,
                Inbound::Dropped(reason) => Ingress::Dropped(reason),
                Inbound::Relayed { channel, peer, packet } => {
                    if self.config.path_policy == super::PathPolicy::Direct {
                        return self.dropped(DropReason::WrongSource);
                    }
                    self.tunnelled(now, Route::Relay(channel), Some(peer), packet)
                }
            };
        }
        if self.config.path_policy == super::PathPolicy::Relay {
            return self.dropped(DropReason::WrongSource);
        }
        self.tunnelled(now, Route::Direct(path), None, datagram)
    }

    /// A handshake or data frame. On a relay channel, `expected` is the channel's peer.
    fn tunnelled<'b>(
        &mut self,
        now: Instant,
        route: Route,
        expected: Option<PeerIndex>,
        datagram: &'b mut [u8],
    ) -> Ingress<'b> {
        match self.tunnel.handle(now, route, datagram) {
            TunnelIn::Handled => Ingress::Handled,
            TunnelIn::Dropped(reason) => Ingress::Dropped(reason),
            // The channel id is the path: nobody else's frames come by it (`wire.md` 7).
            TunnelIn::Frame(frame) if expected.is_some_and(|peer| peer != frame.peer) => {
                self.dropped(DropReason::UnknownChannel)
            }
            TunnelIn::Frame(frame) => {
                // A frame that brings a session up belongs to what that brings: a new process of
                // the peer, whose predecessor's streams are over, or the answer to an early SYN.
                while let Some(event) = self.tunnel.poll_event() {
                    self.tunnel_event(now, event);
                }
                self.frame(now, route, frame)
            }
        }
    }

    fn frame<'b>(&mut self, now: Instant, route: Route, frame: Frame<'b>) -> Ingress<'b> {
        let Frame { peer, index, counter, plaintext, is_newest, streams_ok, .. } = frame;
        let came = FRAME_HEADER + plaintext.len() + TAG;
        self.heard(now, peer, route, is_newest, came);
        // Segments and datagrams go by the path in use and nothing else does: offers to punch go
        // by the relay whatever that is, and probes by the path that they are about.
        let is_data = is_newest && plaintext.first().is_some_and(|&first| is_packet(first));
        match self.inner(now, peer, route, streams_ok, plaintext) {
            Inner::Taken { eliciting, immediate } => {
                if eliciting && is_data {
                    self.peer_uses(now, peer, route);
                }
                self.acknowledge(now, peer, route, index, counter, eliciting, immediate);
                Ingress::Handled
            }
            Inner::Datagram(from, to, payload) => {
                if is_data {
                    self.peer_uses(now, peer, route);
                }
                self.acknowledge(now, peer, route, index, counter, true, false);
                Ingress::Datagram { from, to, payload }
            }
            Inner::Dropped(reason) => self.dropped(reason),
        }
    }
}

impl<'s> Node<'s> {
    /// The first plaintext byte says what it is (`wire.md` 5.3).
    fn inner<'b>(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        route: Route,
        streams_ok: bool,
        plaintext: &'b [u8],
    ) -> Inner<'b> {
        let Some((&first, body)) = plaintext.split_first() else { return SILENT };
        match first {
            first if is_packet(first) => self.packet(now, peer, streams_ok, plaintext),
            control::ACKNOWLEDGE => {
                let sent = |index| self.tunnel.counters(peer, index);
                match self.transport.handle_ack(now, peer, plaintext, sent) {
                    Ok(()) => SILENT,
                    Err(reason) => Inner::Dropped(reason),
                }
            }
            control::PING => self.reply(peer, route, body, Control::Pong, ELICITING),
            control::PONG => SILENT,
            control::PATH_CHALLENGE => {
                let taken = self.reply(peer, route, body, Control::Response, SILENT);
                // The challenger can reach us here; find out whether we reach it (5.8).
                self.challenge_back(now, peer, route);
                taken
            }
            control::PATH_RESPONSE => {
                let Ok(data) = <[u8; 8]>::try_from(body) else {
                    return Inner::Dropped(DropReason::Malformed);
                };
                let is_ours = self.links.respond(peer, route, data)
                    || self.is_punch_response(peer, route, data);
                if is_ours {
                    self.prove(now, peer, route);
                    SILENT
                } else {
                    Inner::Dropped(DropReason::Unasked)
                }
            }
            control::CLOSE => {
                match body.first().copied().and_then(CloseCode::from_u8) {
                    Some(code) => self.peer_closed(now, peer, code),
                    None => return Inner::Dropped(DropReason::Malformed),
                }
                SILENT
            }
            control::RECORD => {
                let Ok(record) = Record::decode(body) else {
                    return Inner::Dropped(DropReason::Malformed);
                };
                self.directory.handle_record(now, peer, &record);
                ELICITING
            }
            control::CANDIDATES => self.punch_offer(now, peer, body),
            control::PRIMED => self.punch_primed(now, peer, body),
            // Padding is a probe whose arrival is all that matters.
            control::PADDING => Inner::Taken { eliciting: true, immediate: true },
            _ => Inner::Dropped(DropReason::UnknownControl),
        }
    }

    /// Queues the answer to 8 bytes. When too many answers wait, the question counts as lost.
    fn reply(
        &mut self,
        peer: PeerIndex,
        route: Route,
        body: &[u8],
        answer: fn([u8; 8]) -> Control,
        taken: Inner<'static>,
    ) -> Inner<'static> {
        let Ok(data) = <[u8; 8]>::try_from(body) else {
            return Inner::Dropped(DropReason::Malformed);
        };
        let queued = self.links.answer(peer, route, answer(data));
        self.schedule(peer);
        if queued { taken } else { Inner::Dropped(DropReason::Full) }
    }

    /// A stream segment or datagram with the 34-byte header.
    fn packet<'b>(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        streams_ok: bool,
        packet: &'b [u8],
    ) -> Inner<'b> {
        let Ok((header, payload)) = Header::decode(packet) else {
            return Inner::Dropped(DropReason::Malformed);
        };
        if !self.is_ours(peer, &header) {
            return Inner::Dropped(DropReason::WrongAddress);
        }
        // The grant's rights decide about streams at their SYN and about each datagram.
        let opens = header.protocol == Protocol::Datagram
            || (header.flags.has(Flags::SYN) && !header.flags.has(Flags::ACK));
        let permitted = !opens
            || planted::has(Defect::UntrustedAccepted)
            || self.directory.trust().permits(peer, header.destination_port);
        let outcome =
            self.transport.handle_packet(now, peer, &header, payload, permitted, streams_ok);
        let PacketOutcome { accepted, immediate, datagram, dropped } = outcome;
        if accepted {
            self.tunnel.note_data(now, peer);
        }
        match (accepted, datagram) {
            (true, Some((from, to))) => Inner::Datagram(from, to, payload),
            (true, None) => {
                if let Some(reason) = dropped {
                    self.drops.count(reason);
                }
                Inner::Taken { eliciting: true, immediate }
            }
            (false, _) => Inner::Dropped(dropped.unwrap_or(DropReason::OutOfWindow)),
        }
    }

    /// Source node is the session's peer, destination node is ours, both in one network that we
    /// are a member of (`wire.md` 1).
    pub(super) fn is_ours(&self, peer: PeerIndex, header: &Header) -> bool {
        let Some(known) = self.directory.trust().peer(peer) else {
            return planted::has(Defect::UntrustedAccepted);
        };
        let Some(own) = self.directory.address() else { return false };
        let network = header.destination.network;
        header.source.node == known.address.node
            && header.destination.node == own.node
            && header.source.network == network
            && self.directory.is_member(network)
    }

    fn acknowledge(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        route: Route,
        index: u32,
        counter: u64,
        eliciting: bool,
        immediate: bool,
    ) {
        let path = self.path_for(peer, route);
        self.transport.frame_received(now, peer, path, index, counter, eliciting, immediate);
        if eliciting && self.batch.last() != Some(&peer) && !self.batch.contains(&peer) {
            // When full, the peer's acknowledgement timer serves.
            let _ = self.batch.push(peer);
        }
    }

    /// The driver has handed over all that had arrived.
    pub(super) fn batch_end(&mut self, now: Instant) {
        for peer in core::mem::take(&mut self.batch) {
            self.transport.batch_end(now, peer);
        }
    }

    pub(super) fn dropped(&mut self, reason: DropReason) -> Ingress<'static> {
        self.drops.count(reason);
        Ingress::Dropped(reason)
    }
}
