//! What leaves: packets are built here, from state, straight into the caller's buffer.
//!
//! Order: the rest of a first flight, the beacon session, handshakes, STUN, control frames, then
//! trains of data. All but the last are bounded by timers and budgets, so data cannot starve.

use super::Node;
use super::probes::Control;
use crate::limits::{FRAME_HEADER, RECORD_AGAIN, RELAY_HEADER, TAG, TRAIN_BYTES_MAX};
use crate::machine::{Ecn, Path, Transmit};
use crate::path::{PathId, PeerIndex, Route};
use crate::session::tunnel::To;
use crate::stream::TrainState;
use crate::time::Instant;
use crate::wire::control::{self, CloseCode};
use core::num::{NonZeroU16, NonZeroUsize};

/// Longest INIT (`wire.md` 4.2).
const INIT_MAX: usize = 366;
/// Names the confirming ping among our own frames that the transport watches.
pub(super) const CONFIRM: u8 = 0;
/// Names the frame with our new record.
pub(super) const RECORD: u8 = 1;

/// One INIT on its way to up to four destinations.
#[derive(Debug)]
pub(super) struct Flight {
    bytes: [u8; INIT_MAX],
    len: usize,
    routes: super::reach::Routes,
}

impl Flight {
    pub(super) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }
}

impl Default for Flight {
    fn default() -> Self {
        Flight { bytes: [0; INIT_MAX], len: 0, routes: super::reach::Routes::new() }
    }
}

/// Where a packet begins in the buffer of its datagram.
const fn prefix(route: Route) -> usize {
    match route {
        Route::Direct(_) => 0,
        Route::Relay(_) => RELAY_HEADER,
    }
}

impl<'s> Node<'s> {
    pub(super) fn egress(
        &mut self,
        now: Instant,
        out: &mut [u8],
        max_segments: NonZeroUsize,
    ) -> Option<Transmit> {
        let sent = self.egress_once(now, out, max_segments);
        if sent.is_none() && self.next_timeout().is_some_and(|timeout| timeout.at <= now) {
            // Upkeep or a session that ended asked for packets of a kind that had its turn:
            // after a full drain nothing may be due (contract rule 3).
            return self.egress_once(now, out, max_segments);
        }
        sent
    }

    fn egress_once(
        &mut self,
        now: Instant,
        out: &mut [u8],
        max_segments: NonZeroUsize,
    ) -> Option<Transmit> {
        self.transport.forget_last_sent();
        // One after another, not as a chain of `or_else`: that would copy the answer six times.
        if let Some(sent) = self.next_of_flight(out) {
            return Some(sent);
        }
        if let Some(sent) = self.directory.poll_transmit(now, out) {
            return Some(sent);
        }
        if let Some(sent) = self.handshake_output(now, out) {
            return Some(sent);
        }
        if let Some(sent) = self.stun_output(now, out) {
            return Some(sent);
        }
        if let Some(sent) = self.control_output(now, out) {
            return Some(sent);
        }
        if let Some(sent) = self.farewell(now, out) {
            return Some(sent);
        }
        self.train(now, out, max_segments)
    }

    /// Completes a packet of `len` bytes that stands behind the route's prefix.
    fn addressed(&mut self, route: Route, out: &mut [u8], len: usize) -> Option<Transmit> {
        let (path, len) = match route {
            Route::Direct(path) => (path, len),
            Route::Relay(channel) => {
                let len = RELAY_HEADER + len;
                if !self.directory.wrap(channel, &mut out[..len]) {
                    return None;
                }
                (Path::to(self.directory.beacon_address()?), len)
            }
        };
        Some(Transmit { path, len, segment: None, ecn: Ecn::NotEct, hop_limit: None })
    }

    fn next_of_flight(&mut self, out: &mut [u8]) -> Option<Transmit> {
        while let Some(route) = self.flight.routes.pop() {
            let (at, len) = (prefix(route), self.flight.len);
            out[at..at + len].copy_from_slice(&self.flight.bytes[..len]);
            if let Some(transmit) = self.addressed(route, out, len) {
                return Some(transmit);
            }
        }
        None
    }

    fn handshake_output(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        loop {
            // The packet's place depends on where it goes, which the tunnel says afterwards; so
            // room for a relay header is always left in front.
            let output = self.tunnel.poll_output(now, &mut out[RELAY_HEADER..])?;
            let (start, end) = (RELAY_HEADER, RELAY_HEADER + output.len);
            let route = match output.to {
                To::Route(route) => route,
                To::Peer(peer) => match self.link_of(peer).and_then(|l| l.active_route()) {
                    Some(route) => route,
                    None => continue,
                },
                To::FirstFlight(peer) => {
                    self.flight.len = output.len;
                    self.flight.bytes[..output.len].copy_from_slice(&out[start..end]);
                    self.flight.routes = self.first_flight(peer);
                    match self.next_of_flight(out) {
                        Some(transmit) => return Some(transmit),
                        None => continue,
                    }
                }
            };
            if let Some((peer, index, counter)) = output.eliciting {
                let path = self.path_for(peer, route);
                let (tag, len) = (CONFIRM, output.len);
                self.transport.control_sent(now, peer, path, index, counter, len, tag, false);
            }
            if prefix(route) == 0 {
                out.copy_within(start..end, 0);
            }
            if let Some(transmit) = self.addressed(route, out, output.len) {
                return Some(transmit);
            }
        }
    }

    /// Control frames of peers whose deadline has come.
    fn control_output(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        while let Some((at, owner)) = self.deadlines.first() {
            if at > now {
                return None;
            }
            let peer = PeerIndex(owner as u32);
            let Some(link) = self.link_mut(peer) else {
                self.deadlines.set(owner, None);
                continue;
            };
            if let Some(code) = link.goodbye.take() {
                let sent = self.goodbye_output(now, peer, code, out);
                self.gone(now, peer, code);
                self.schedule(peer);
                if sent.is_some() {
                    return sent;
                }
                continue;
            }
            if let Some(sent) = self.record_output(now, peer, out) {
                return Some(sent);
            }
            let Some((route, frame)) = self.links.poll_control(now, peer) else {
                if let Some(sent) = self.punch_output(now, peer, out) {
                    return Some(sent);
                }
                // Not output but upkeep was due.
                self.peer_timeout(now, peer);
                continue;
            };
            self.schedule(peer);
            let plain = encode(frame);
            if let Some(transmit) = self.sealed(now, peer, route, plain.as_slice(), out) {
                return Some(transmit);
            }
        }
        None
    }

    /// All peers have our goodbye: now the beacon gets it, too.
    fn farewell(&mut self, now: Instant, out: &mut [u8]) -> Option<Transmit> {
        if !core::mem::take(&mut self.leaving) {
            return None;
        }
        self.directory.shutdown(now, CloseCode::Shutdown);
        self.directory.poll_transmit(now, out)
    }

    fn goodbye_output(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        code: CloseCode,
        out: &mut [u8],
    ) -> Option<Transmit> {
        let route = self.link_of(peer)?.active_route()?;
        self.sealed(now, peer, route, &[control::CLOSE, code as u8], out)
    }

    /// F8, our record, until the peer has acknowledged it (`wire.md` 5.3).
    fn record_output(&mut self, now: Instant, peer: PeerIndex, out: &mut [u8]) -> Option<Transmit> {
        let link = self.link_mut(peer)?;
        let (path, route) = (link.active()?, link.active_route()?);
        link.record_due.take_if(|at| *at <= now)?;
        self.schedule(peer);
        let record = self.directory.record()?.encode();
        let mut plain: heapless::Vec<u8, { 1 + crate::crypto::record::RECORD_ROTATED }> =
            heapless::Vec::new();
        let fits = plain.push(control::RECORD).is_ok() && plain.extend_from_slice(&record).is_ok();
        debug_assert!(fits, "a kind and a record");
        self.watched(now, peer, (path, route), &plain, RECORD, out)
    }

    /// One control frame whose acknowledgement the transport waits for, under this tag.
    pub(super) fn watched(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        (path, route): (PathId, Route),
        plain: &[u8],
        tag: u8,
        out: &mut [u8],
    ) -> Option<Transmit> {
        let at = prefix(route);
        let frame = &mut out[at..at + FRAME_HEADER + plain.len() + TAG];
        frame[FRAME_HEADER..FRAME_HEADER + plain.len()].copy_from_slice(plain);
        let sealed = self.tunnel.seal(now, peer, frame, plain.len())?;
        let (index, counter, len) = (sealed.index, sealed.counter, sealed.len);
        let watched = self.transport.control_sent(now, peer, path, index, counter, len, tag, false);
        if !watched && tag == RECORD {
            // The table of frames is full: whether it arrived cannot be told.
            if let Some(link) = self.link_mut(peer) {
                link.record_due = Some(now + RECORD_AGAIN);
            }
            self.schedule(peer);
        }
        self.addressed(route, out, len)
    }

    /// One control frame that elicits no acknowledgement.
    pub(super) fn sealed(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        route: Route,
        plain: &[u8],
        out: &mut [u8],
    ) -> Option<Transmit> {
        let at = prefix(route);
        let frame = &mut out[at..at + FRAME_HEADER + plain.len() + TAG];
        frame[FRAME_HEADER..FRAME_HEADER + plain.len()].copy_from_slice(plain);
        let sealed = self.tunnel.seal(now, peer, frame, plain.len())?;
        self.addressed(route, out, sealed.len)
    }

    /// A train of equal data frames to one peer.
    fn train(
        &mut self,
        now: Instant,
        out: &mut [u8],
        max_segments: NonZeroUsize,
    ) -> Option<Transmit> {
        while let Some(peer) = self.transport.poll_ready(now) {
            let path = self.transport.next_path(peer);
            let route = path.and_then(|path| self.link_of(peer)?.route(path));
            let (Some(path), Some(route)) = (path, route) else {
                // Transport and link know the same paths; without one there is no session.
                self.transport.session_down(now, peer);
                continue;
            };
            if let Route::Relay(channel) = route
                && self.directory.channel_by_id(channel).is_none()
            {
                // It went after the last event was polled, or without one: it came and went in
                // between, and a frame that came by it made the path.
                self.channel_gone(now, peer, channel);
                continue;
            }
            if let Some(transmit) = self.train_to(now, peer, path, route, out, max_segments) {
                return Some(transmit);
            }
        }
        None
    }

    fn train_to(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        path: PathId,
        route: Route,
        out: &mut [u8],
        max_segments: NonZeroUsize,
    ) -> Option<Transmit> {
        let at = prefix(route);
        let mut train = TrainState::new(max_segments.get());
        let (mut len, mut segment, mut data) = (0, 0, false);
        // One datagram may be longer than the longest train.
        let (mut limit, most) = (out.len(), out.len().min(TRAIN_BYTES_MAX));
        // The next frame is at most as long as the first one.
        while len + segment.max(at + FRAME_HEADER + TAG + 1) <= limit {
            let room = &mut out[len..limit];
            let end = room.len() - TAG;
            let plain = &mut room[at + FRAME_HEADER..end];
            let Some(written) = self.transport.write_frame(now, peer, path, plain, &mut train)
            else {
                break;
            };
            let frame = &mut room[at..at + FRAME_HEADER + written.len + TAG];
            // Segments and datagrams make a session worth renewing, acknowledgements do not.
            data |= frame[FRAME_HEADER] >> 4 == 1;
            let Some(sealed) = self.tunnel.seal(now, peer, frame, written.len) else {
                // The session has just ended; what was written counts as lost.
                self.transport.session_down(now, peer);
                self.reach(now, peer);
                break;
            };
            let wire = at + sealed.len;
            let (index, counter) = (sealed.index, sealed.counter);
            self.transport.frame_sent(now, peer, path, index, counter, wire, written.token);
            if let Route::Relay(channel) = route {
                let wrapped = self.directory.wrap(channel, &mut room[..wire]);
                assert!(wrapped, "a channel does not go while a train is written");
            }
            len += wire;
            segment = segment.max(wire);
            limit = most;
        }
        if len == 0 {
            return None;
        }
        if data {
            self.tunnel.note_data(now, peer);
        }
        let target = match route {
            Route::Direct(path) => path,
            Route::Relay(_) => Path::to(self.directory.beacon_address()?),
        };
        let several = len > segment;
        Some(Transmit {
            path: target,
            len,
            segment: if several { NonZeroU16::new(segment as u16) } else { None },
            ecn: Ecn::NotEct,
            hop_limit: None,
        })
    }
}

fn encode(frame: Control) -> heapless::Vec<u8, 9> {
    let (kind, data) = match frame {
        Control::Pong(data) => (control::PONG, data),
        Control::Challenge(data) => (control::PATH_CHALLENGE, data),
        Control::Response(data) => (control::PATH_RESPONSE, data),
        Control::Keepalive => return heapless::Vec::new(),
    };
    let mut plain = heapless::Vec::new();
    let fits = plain.push(kind).is_ok() && plain.extend_from_slice(&data).is_ok();
    debug_assert!(fits, "a kind and 8 bytes are 9 bytes");
    plain
}
