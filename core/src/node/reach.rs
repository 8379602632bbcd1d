//! Reaching peers: sessions are started, paths kept alive and given up here; `prove.rs` proves
//! them.

use super::auxiliary::Use;
use super::egress::RECORD;
use super::link::{Life, Link, PathState};
use super::probes::Control;
use super::{Node, PathKind, PathPolicy};
use crate::addr::Address;
use crate::crypto::{IdentityKey, TunnelSecret};
use crate::directory::DirectoryEvent;
use crate::limits::{DATAGRAM_MAX, FIRST_FLIGHT, NAT_KEEPALIVE, RELAY_KEEPALIVE, SUSPECT_INIT};
use crate::machine::Path;
use crate::path::punch::EPISODE_EVERY;
use crate::path::{ChannelId, PATHS, PathId, PeerIndex, Route};
use crate::planted::{self, Defect};
use crate::session::TunnelConfig;
use crate::session::handshake::RESP_MIN;
use crate::session::payload::Caps;
use crate::session::tunnel::{PeerKeys, Policy, SessionUp, TunnelEvent};
use crate::stream::{StreamEnd, TransportEvent};
use crate::time::{Duration, Instant};
use crate::trust::TrustEvent;
use crate::wire::control::CloseCode;
use crate::wire::header::{Flags, Header};
use heapless::Vec;

pub(super) type Routes = Vec<Route, FIRST_FLIGHT>;

/// While a peer with open streams is only relayed, it is punched towards again after this time,
/// doubling up to [`RETRY_MAX`]: never stuck on the relay, never a flood.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(60);

impl<'s> Node<'s> {
    pub(super) fn link_of(&self, peer: PeerIndex) -> Option<&Link> {
        self.links.get(peer)
    }

    pub(super) fn link_mut(&mut self, peer: PeerIndex) -> Option<&mut Link> {
        self.links.get_mut(peer)
    }

    /// The number of the path that `route` is; the active one for a route not proven yet.
    pub(super) fn path_for(&self, peer: PeerIndex, route: Route) -> PathId {
        let link = self.link_of(peer);
        link.and_then(|l| l.path_of(route).or(l.active())).unwrap_or(PathId(0))
    }

    /// Sets the peer's deadline from its link's state.
    pub(super) fn schedule(&mut self, peer: PeerIndex) {
        let at = self.links.next_at(peer).into_iter().chain(self.punch_at(peer)).min();
        self.deadlines.set(peer.index(), at);
    }

    /// Makes sure that a session exists or is being made, by every route there is.
    pub(super) fn reach(&mut self, now: Instant, peer: PeerIndex) {
        let early = self.transport.unanswered_syn(peer);
        let early = early.and_then(|stream| self.transport.syn_for_early(stream));
        self.tunnel.initiate(now, peer, early);
        self.seek_routes(now, peer);
    }

    /// Whether a frame can be sent to the peer now.
    fn is_reachable(&self, peer: PeerIndex) -> bool {
        self.tunnel.has_session(peer) && self.link_of(peer).is_some_and(|l| l.active().is_some())
    }

    /// There is something to send: without a session, or with one that no path is left for, an
    /// INIT goes out; with one whose path is suspect too, as the suspicion was told but once.
    pub(super) fn reach_unless_reachable(&mut self, now: Instant, peer: PeerIndex) {
        if !self.is_reachable(peer) {
            if !self.tunnel.is_attempting(peer) {
                self.reach(now, peer);
            }
        } else if self.link_of(peer).is_some_and(Link::is_suspect) {
            self.suspect_init(now, peer);
            self.schedule(peer);
        }
    }

    /// A path was removed. If it was the last one, the peer may have restarted: it would not
    /// understand a challenge in the old session, so its streams need an INIT.
    fn path_removed(&mut self, now: Instant, peer: PeerIndex) {
        self.choose(now, peer);
        self.tell_path(now, peer);
        if self.tunnel.has_session(peer) && !self.is_reachable(peer) {
            self.transport.session_down(now, peer);
            if self.transport.open_streams(peer) > 0 {
                self.reach(now, peer);
            }
        }
    }

    /// Asks registry and beacon how the peer can be reached.
    fn seek_routes(&mut self, now: Instant, peer: PeerIndex) {
        if self.config.path_policy != PathPolicy::Direct {
            // A full table of channels: the direct paths are left, and the next attempt.
            let _ = self.directory.bind(now, peer);
        }
        if self.config.path_policy != PathPolicy::Relay {
            self.directory.resolve_peer(now, peer);
        }
    }

    /// Destinations of an INIT: the relay channel, the last good path, the known endpoints
    /// (`wire.md` 4.9). Taken from the end, so the relay is last in the list.
    pub(super) fn first_flight(&self, peer: PeerIndex) -> Routes {
        let mut routes = Routes::new();
        let mut add = |route: Route| {
            if !routes.iter().any(|r| super::link::same(r, &route)) {
                // Four are enough; the list is in order of promise.
                let _ = routes.push(route);
            }
        };
        if self.config.path_policy != PathPolicy::Direct
            && let Some(channel) = self.directory.channel(peer)
        {
            add(Route::Relay(channel.id));
        }
        if self.config.path_policy != PathPolicy::Relay {
            if let Some(route) = self.link_of(peer).and_then(|l| l.last_good) {
                add(route);
            }
            for route in self.candidates(peer) {
                add(route);
            }
        }
        routes
    }

    /// The peer's endpoints that are worth a packet.
    pub(super) fn candidates(&self, peer: PeerIndex) -> Vec<Route, 10> {
        let mut found = Vec::new();
        if self.config.path_policy == PathPolicy::Relay {
            return found;
        }
        let beacon = self.directory.beacon_address();
        let observed = self.directory.channel(peer).map(|c| c.observed);
        let known = self.directory.trust().peer(peer);
        let told = known.iter().flat_map(|p| p.endpoints()).map(|e| e.address);
        for address in observed.into_iter().chain(told) {
            let route = Route::Direct(Path::to(address));
            if self.locals.is_worth_trying(address, beacon) && !found.contains(&route) {
                let _ = found.push(route);
            }
        }
        found
    }

    /// The peer's own timers: failed challenges, dead paths, keepalives, upgrades.
    pub(super) fn peer_timeout(&mut self, now: Instant, peer: PeerIndex) {
        self.links.expire(now, peer);
        let Some(link) = self.link_mut(peer) else {
            self.deadlines.set(peer.index(), None);
            return;
        };
        if let Some(dead) = link.expire(now) {
            self.transport.remove_path(now, peer, dead);
            self.release_sockets(peer);
            self.path_removed(now, peer);
        }
        if self.link_mut(peer).is_some_and(|l| l.init_due.take_if(|at| *at <= now).is_some())
            && self.link_of(peer).is_some_and(Link::is_suspect)
        {
            self.suspect_init(now, peer);
        }
        self.punch_timeout(now, peer);
        self.keep_alive(now, peer);
        self.schedule(peer);
    }

    fn keep_alive(&mut self, now: Instant, peer: PeerIndex) {
        let busy = self.transport.open_streams(peer) > 0 && self.tunnel.has_session(peer);
        self.tunnel.set_busy(now, peer, self.transport.open_streams(peer) > 0);
        let jitter = self.rng.below(NAT_KEEPALIVE.as_millis() as u64 / 5);
        let next = NAT_KEEPALIVE * 9 / 10 + Duration::from_millis(jitter);
        let channel = self.directory.channel(peer).map(|c| Route::Relay(c.id));
        let Some(link) = self.link_mut(peer) else { return };
        if !busy {
            link.upkeep.keep_at = None;
            link.upkeep.relay_keep_at = None;
            link.upkeep.upgrade = None;
            link.upkeep.renew_at = None;
            return;
        }
        let (mut keep, mut keep_relay, mut seek) = (None, None, false);
        if link.upkeep.keep_at.is_none_or(|at| at <= now) {
            keep = link.upkeep.keep_at.and(link.active_route());
            link.upkeep.keep_at = Some(now + next);
        }
        if link.upkeep.relay_keep_at.is_none_or(|at| at <= now) {
            keep_relay = link.upkeep.relay_keep_at.and(channel);
            link.upkeep.relay_keep_at = Some(now + RELAY_KEEPALIVE);
        }
        if link.is_direct() {
            link.upkeep.upgrade = None;
        } else {
            let due = link.upkeep.upgrade.is_some_and(|(at, _)| at <= now);
            let wait = match link.upkeep.upgrade {
                None => RETRY_FIRST,
                Some((_, wait)) if due => (wait * 2).min(RETRY_MAX),
                Some((_, wait)) => wait,
            };
            if link.upkeep.upgrade.is_none() || due {
                link.upkeep.upgrade = Some((now + wait, wait));
            }
            seek = due;
        }
        self.renew(now, peer);
        let off = planted::has(Defect::KeepaliveOff);
        for route in keep.into_iter().chain(keep_relay).filter(|_| !off) {
            self.links.answer(peer, route, Control::Keepalive);
        }
        if seek {
            self.seek_routes(now, peer);
            self.challenge_near(now, peer);
            self.seek_direct(now, peer);
        }
    }

    /// Make before break: where paths end at a known age, the next one is opened before that, from
    /// a fresh socket, since the old one's mapping cannot be had anew; and what has outlived its
    /// time and carries nothing is forgotten.
    fn renew(&mut self, now: Instant, peer: PeerIndex) {
        if let Some(path) = self.link_of(peer).and_then(|link| link.outlived(now)) {
            if let Some(link) = self.link_mut(peer) {
                link.remove(path);
            }
            self.transport.remove_path(now, peer, path);
            self.release_sockets(peer);
        }
        let Some(link) = self.link_mut(peer) else { return };
        link.review_life(now);
        let at = link.renew_at();
        let is_due = at.is_some_and(|at| at <= now);
        if is_due {
            self.seek_successor(now, peer);
            // Data moves to it as soon as it is there.
            self.choose(now, peer);
        }
        if let Some(link) = self.link_mut(peer) {
            link.upkeep.renew_at = if is_due { Some(now + EPISODE_EVERY) } else { at };
        }
    }

    /// The peer's streams or session changed: its upkeep timers follow.
    pub(super) fn upkeep(&mut self, now: Instant, peer: PeerIndex) {
        self.keep_alive(now, peer);
        self.schedule(peer);
    }

    /// Reacts to what the sub-machines report. Runs at the end of every mutation.
    #[inline]
    pub(super) fn process(&mut self, now: Instant) {
        // Asked several times a packet, of which few have consequences.
        if self.has_news() {
            self.take_news(now);
        }
    }

    /// Whether a sub-machine may have something to report.
    fn has_news(&self) -> bool {
        self.tunnel.has_event()
            || self.transport.has_peer_event()
            || self.directory.has_change()
            || self.stun.has_answer()
    }

    #[inline(never)]
    fn take_news(&mut self, now: Instant) {
        loop {
            if let Some(event) = self.tunnel.poll_event() {
                self.tunnel_event(now, event);
            } else if let Some(event) = self.transport.poll_peer_event() {
                self.path_event(now, event);
            } else if let Some(change) = self.directory.poll_change() {
                self.directory_changed(now, &change);
            } else if let Some(answer) = self.stun.poll_answer() {
                self.stun_answer(now, &answer);
            } else {
                return;
            }
        }
    }

    pub(super) fn tunnel_event(&mut self, now: Instant, event: TunnelEvent) {
        match event {
            TunnelEvent::NewRecord { peer, record } => {
                self.directory.handle_record(now, peer, &record);
            }
            TunnelEvent::EarlyOffer { peer, ticket, syn } => {
                self.early_offer(now, peer, ticket, &syn);
            }
            TunnelEvent::SessionsChanged { peer } => self.sessions_changed(now, peer),
            TunnelEvent::Down { peer } => {
                self.transport.session_down(now, peer);
                self.forget_paths(now, peer);
            }
            TunnelEvent::SessionUp(up) => self.session_up(now, up),
            TunnelEvent::Confirmed { .. } => {}
            TunnelEvent::EarlySyn { peer, syn, answered } => {
                if answered.is_none() {
                    self.early_packet(now, peer, &syn);
                }
                // Also what another INIT asked for that this one took the place of: the session
                // settles it, and nothing later would.
                self.transport.early_confirmed(now, peer);
            }
            TunnelEvent::EarlyDiscarded { peer } => {
                if !self.tunnel.has_early(peer) {
                    self.transport.early_discarded(now, peer);
                }
            }
            TunnelEvent::SynAck { peer, syn_ack } => self.early_answer(now, peer, &syn_ack),
            TunnelEvent::SendRecord { peer } => {
                if let Some(link) = self.link_mut(peer) {
                    link.record_due = Some(now);
                }
                self.schedule(peer);
            }
            // Its key or its endpoints may have changed.
            TunnelEvent::Unanswered { peer } => self.seek_routes(now, peer),
            TunnelEvent::GaveUp { peer } => {
                self.transport.peer_unreachable(now, peer);
                self.directory.stop_binding(now, peer);
                self.upkeep(now, peer);
            }
            // Counted by the tunnel; the attempt goes on.
            TunnelEvent::SuiteRejected { .. } => {}
        }
    }

    fn session_up(&mut self, now: Instant, up: SessionUp) {
        let peer = up.peer;
        if let Some(link) = self.link_mut(peer) {
            link.max_datagram = up.max_datagram;
        }
        if up.restarted {
            self.transport.peer_restarted(now, peer);
            self.unprove(now, peer);
        }
        self.sessions_changed(now, peer);
        self.transport.session_renewed(now, peer);
        let asked = |r: &Route| super::link::same(r, &up.route);
        let relayed = matches!(up.route, Route::Relay(_));
        if up.proven || relayed || self.first_flight(peer).iter().any(asked) {
            self.prove(now, peer, up.route);
            self.transport.session_up(now, peer);
        } else {
            // A RESP from where no INIT went: forwarded, or the peer answers by another door.
            self.challenge(now, peer, up.route, Some(RESP_MIN));
        }
        self.challenge_near(now, peer);
        self.seek_direct(now, peer);
        self.upkeep(now, peer);
    }

    /// Another process is at the other end: what was proven of the one before says nothing, and
    /// if this one dies, too, it is looked for at once: the distance of INITs is for those that
    /// go unanswered.
    fn unprove(&mut self, now: Instant, peer: PeerIndex) {
        let Some(link) = self.link_mut(peer) else { return };
        let paths = link.unprove();
        (link.init_at, link.init_due) = (None, None);
        self.links.clear_probes(peer);
        self.end_punch(now, peer);
        if let Some(link) = self.link_mut(peer) {
            link.ladder.restart();
        }
        self.release_sockets(peer);
        for path in paths {
            self.transport.remove_path(now, peer, path);
        }
    }

    fn path_event(&mut self, now: Instant, event: TransportEvent) {
        match event {
            TransportEvent::PathSuspect(peer, path) => {
                if let Some(link) = self.link_mut(peer) {
                    link.set_suspect(path, Some(now));
                }
                self.directory.keepalive_now(now);
                self.ask_stale(now, peer);
                self.choose(now, peer);
                self.transport.mark_suspect(now, peer, path);
                self.suspect_init(now, peer);
                self.schedule(peer);
            }
            TransportEvent::PathAlive(peer, path) => {
                if let Some(link) = self.link_mut(peer) {
                    link.set_suspect(path, None);
                }
                self.choose(now, peer);
                self.schedule(peer);
            }
            TransportEvent::PathWide(peer, _) => self.choose(now, peer),
            TransportEvent::ControlLost(peer, RECORD) => {
                if let Some(link) = self.link_mut(peer) {
                    link.record_due = Some(now);
                }
                self.schedule(peer);
            }
            // The confirming ping repeats itself; everything else is the owner's.
            _ => {}
        }
    }

    /// An address of ours is no more, and with it perhaps every direct path: data goes over the
    /// relay at once, the beacon sees where we are now, and new paths are sought without delay.
    /// A path that was not concerned proves itself by its next acknowledgement.
    pub(super) fn address_gone(&mut self, now: Instant) {
        for index in 0..self.links.len() {
            let peer = PeerIndex(index as u32);
            let Some(link) = self.link_mut(peer) else { continue };
            link.ladder.episode_at = None;
            // How long paths lived here says nothing of the next network.
            link.life = Life::default();
            let direct = |(_, p): &(PathId, PathState)| matches!(p.route, Route::Direct(_));
            let paths: Vec<PathId, PATHS> = link.paths().filter(direct).map(|(id, _)| id).collect();
            for path in paths {
                self.path_event(now, TransportEvent::PathSuspect(peer, path));
            }
            self.seek_direct(now, peer);
        }
    }

    /// What was sent in sessions that are gone is sent again.
    fn sessions_changed(&mut self, now: Instant, peer: PeerIndex) {
        let sessions = self.tunnel.sessions(peer);
        let Some(link) = self.link_mut(peer) else { return };
        let before = core::mem::take(&mut link.sessions);
        link.sessions = sessions.iter().map(|s| (s.sent_index, s.received_index)).collect();
        let now_there = link.sessions.clone();
        for &(sent, received) in before.iter().filter(|old| !now_there.contains(old)) {
            self.transport.session_gone(now, peer, sent);
            self.transport.session_gone(now, peer, received);
        }
    }

    /// The SYN of an INIT that may be a replay: answered, but surfaced only when confirmed.
    fn early_offer(&mut self, now: Instant, peer: PeerIndex, ticket: u32, syn: &[u8; 34]) {
        let Ok((header, _)) = Header::decode(syn) else { return };
        if !self.is_ours(peer, &header) {
            return;
        }
        let permitted = self.directory.trust().permits(peer, header.destination_port);
        if let Some(answer) = self.transport.handle_early_syn(now, peer, &header, permitted) {
            self.tunnel.answer_early(peer, ticket, answer);
        }
    }

    /// An inner packet that rode in a handshake which is confirmed now.
    fn early_packet(&mut self, now: Instant, peer: PeerIndex, packet: &[u8; 34]) {
        let Ok((header, payload)) = Header::decode(packet) else { return };
        if self.is_ours(peer, &header) {
            let permitted = self.directory.trust().permits(peer, header.destination_port);
            let outcome =
                self.transport.handle_packet(now, peer, &header, payload, permitted, true);
            if let Some(reason) = outcome.dropped {
                self.drops.count(reason);
            }
        }
    }

    /// The SYN-ACK from the RESP of a handshake of ours.
    fn early_answer(&mut self, now: Instant, peer: PeerIndex, packet: &[u8; 34]) {
        let Ok((header, _)) = Header::decode(packet) else { return };
        let answers = Flags::SYN | Flags::ACK;
        if !self.is_ours(peer, &header) || header.flags != answers {
            return;
        }
        let outcome = self.transport.handle_early_syn_ack(now, peer, &header);
        if let Some(reason) = outcome.dropped {
            self.drops.count(reason);
        }
    }

    /// An INIT at once by all routes, at most one per 5 s: the peer may have restarted. A
    /// suspicion is told once, so an INIT that comes too early is put off, not left out.
    fn suspect_init(&mut self, now: Instant, peer: PeerIndex) {
        let Some(link) = self.link_mut(peer) else { return };
        let early = link.init_at.filter(|at| *at > now);
        link.init_due = early;
        if early.is_none() {
            link.init_at = Some(now + SUSPECT_INIT);
            self.reach(now, peer);
        }
        self.schedule(peer);
    }

    fn forget_paths(&mut self, now: Instant, peer: PeerIndex) {
        let Some(link) = self.link_mut(peer) else { return };
        let paths = link.clear();
        self.links.clear_probes(peer);
        self.end_punch(now, peer);
        self.release_sockets(peer);
        for path in paths {
            self.transport.remove_path(now, peer, path);
        }
        self.tell_path(now, peer);
        self.schedule(peer);
    }

    /// The peer said goodbye (F7).
    pub(super) fn peer_closed(&mut self, now: Instant, peer: PeerIndex, code: CloseCode) {
        self.end_session(now, peer);
        match code {
            CloseCode::Revoked => self.directory.handle_revoked(now, peer),
            // It will be back, and its streams are lost then; until then nobody answers.
            CloseCode::Restart | CloseCode::Shutdown | CloseCode::Fenced => {
                self.transport.end_streams(now, peer, StreamEnd::Gone);
            }
        }
    }

    fn end_session(&mut self, now: Instant, peer: PeerIndex) {
        self.tunnel.close(now, peer);
        self.transport.session_down(now, peer);
        self.forget_paths(now, peer);
    }

    /// Our own goodbye is out, or had nowhere to go.
    pub(super) fn gone(&mut self, now: Instant, peer: PeerIndex, code: CloseCode) {
        if code != CloseCode::Revoked || !planted::has(Defect::UntrustedAccepted) {
            self.end_session(now, peer);
        }
        if code == CloseCode::Revoked
            && let Some(address) = self.directory.trust().peer(peer).map(|p| p.address)
        {
            // It was trusted when the command was accepted; if it is not any more, all is done.
            let _ = self.directory.revoke_trust(now, address);
        }
    }

    /// The path over a relay channel that is no more.
    pub(super) fn channel_gone(&mut self, now: Instant, peer: PeerIndex, channel: ChannelId) {
        if let Some(path) = self.link_mut(peer).and_then(|l| l.remove_channel(channel)) {
            self.transport.remove_path(now, peer, path);
            self.path_removed(now, peer);
            self.schedule(peer);
        }
    }

    /// Follows the directory: whoever is trusted there is known here before anybody looks.
    fn directory_changed(&mut self, now: Instant, change: &DirectoryEvent) {
        match *change {
            DirectoryEvent::Registered(_) => {
                self.identify();
                self.add_known_peers(now);
            }
            DirectoryEvent::BeaconChanged => self.beacon_changed(now),
            DirectoryEvent::Fenced => {
                self.discover.end();
                self.say_goodbye_to_all(CloseCode::Fenced);
            }
            DirectoryEvent::BeaconSilent => self.beacon_silent(now),
            DirectoryEvent::ChannelUp(peer) => self.routes_found(now, peer),
            DirectoryEvent::ChannelDown { channel, peer } => {
                self.channel_gone(now, peer, channel);
            }
            DirectoryEvent::Trust(event) => match event {
                TrustEvent::Added(peer) => self.peer_added(now, peer),
                TrustEvent::Updated(peer) => {
                    if let Some(record) = self.directory.trust().peer(peer).map(|p| p.record) {
                        self.tunnel.update_peer_record(now, peer, &record);
                    }
                    self.enforce_permissions(now, peer);
                }
                TrustEvent::Removed { peer, .. } => self.peer_removed(now, peer),
                TrustEvent::Resolved(peer) => self.routes_found(now, peer),
                // The owner's.
                TrustEvent::Requested(_)
                | TrustEvent::Granted(_)
                | TrustEvent::Refused(_)
                | TrustEvent::Revoked(_) => {}
            },
            _ => {}
        }
    }

    /// A new way to the peer: a running attempt takes it, a session proves it.
    fn routes_found(&mut self, now: Instant, peer: PeerIndex) {
        if self.tunnel.is_attempting(peer) {
            self.tunnel.repeat(peer);
        }
        self.challenge_near(now, peer);
        self.seek_direct(now, peer);
    }

    /// Adds the peers that were loaded; without an address of our own they had to wait for it.
    pub(super) fn add_known_peers(&mut self, now: Instant) {
        for index in 0..self.links.capacity() {
            let peer = PeerIndex(index as u32);
            if self.link_of(peer).is_none() && self.directory.trust().peer(peer).is_some() {
                self.peer_added(now, peer);
            }
        }
    }

    fn peer_added(&mut self, now: Instant, peer: PeerIndex) {
        let Some(known) = self.directory.trust().peer(peer) else { return };
        let Some(own) = self.directory.address() else { return };
        let keys = PeerKeys {
            address: known.address,
            identity: known.identity,
            tunnel_key: known.record.fields.tunnel,
            record_serial: known.record.fields.serial,
            policy: Policy::Peer,
        };
        let added = self.tunnel.add_peer(peer, keys);
        debug_assert!(added.is_ok(), "the trust table hands out each number once: {added:?}");
        self.transport.add_peer(now, peer, own, keys.address);
        if let Some(link) = self.links.replace(peer, Link::new()) {
            self.count_relayed(now, link.told, PathKind::None);
        }
    }

    fn peer_removed(&mut self, now: Instant, peer: PeerIndex) {
        if planted::has(Defect::UntrustedAccepted) {
            return;
        }
        self.transport.remove_peer(now, peer, StreamEnd::Removed);
        self.tunnel.remove_peer(now, peer);
        self.end_punch(now, peer);
        self.close_sockets_of(Use::Punch(peer));
        // A peer that came and went within one mutation was never here.
        if let Some(link) = self.links.take(peer) {
            self.count_relayed(now, link.told, PathKind::None);
        }
        self.deadlines.set(peer.index(), None);
    }

    /// Tells the tunnel who we are, when we start and when the registry has confirmed or the
    /// record has changed.
    pub(super) fn identify(&mut self) {
        let own = &self.directory;
        self.tunnel.configure(TunnelConfig {
            address: own.address().unwrap_or(Address::UNSPECIFIED),
            identity: own.identity(),
            registry: own.registry_key().unwrap_or(IdentityKey::ZERO),
            record: own.record().copied(),
            secret: own.tunnel_secret().duplicate(),
            previous_secret: own.previous_tunnel_secret().map(TunnelSecret::duplicate),
            boot_id: own.boot_id(),
            max_datagram: DATAGRAM_MAX,
            caps: Caps::of(self.aead),
            wall: self.wall,
        });
    }
}
