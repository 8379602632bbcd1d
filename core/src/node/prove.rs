//! Proving paths: which routes are challenged and how often, and which proven path carries data.

use super::link::PathState;
use super::{Node, PathKind, PathPolicy};
use crate::limits::{DATAGRAM_MAX, RELAY_HEADER};
use crate::machine::SocketId;
use crate::path::mtu::SizeRange;
use crate::path::{PATHS, PathId, PeerIndex, Route};
use crate::time::{Duration, Instant};

/// At most one challenge a second of a route that nobody announced (`wire.md` 5.5).
const ROAM_DISTANCE: Duration = Duration::from_secs(1);

/// At most this often a direct path is asked because the peer uses another one: once both have
/// answered, the ends agree.
const RECHECK_DISTANCE: Duration = Duration::from_secs(2);

impl Node<'_> {
    /// Whether registry or beacon told us of the route: it is where the peer is, and not where a
    /// forged source says.
    fn is_announced(&self, peer: PeerIndex, route: Route) -> bool {
        let punched = match route {
            Route::Relay(_) => true,
            Route::Direct(path) => self.is_punched(peer, path.remote.ip()),
        };
        punched || self.candidates(peer).iter().any(|known| super::link::same(known, &route))
    }

    /// The peer challenged a route: if it was announced, find out at once whether we reach the
    /// peer there; else it is a route like any other that a frame came from.
    pub(super) fn challenge_back(&mut self, now: Instant, peer: PeerIndex, route: Route) {
        if self.is_announced(peer, route) {
            self.challenge(now, peer, route, None);
        }
    }

    /// Challenges a route that is not proven. `came`: see [`super::probes::Links::challenge`]; a relay channel
    /// leads to the peer and nobody else.
    pub(super) fn challenge(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        route: Route,
        came: Option<usize>,
    ) {
        let came = came.filter(|_| matches!(route, Route::Direct(_)));
        let allowed = match route {
            Route::Direct(_) => self.config.path_policy != PathPolicy::Relay,
            Route::Relay(_) => self.config.path_policy != PathPolicy::Direct,
        };
        let data = self.rng.bytes();
        let Some(link) = self.link_of(peer) else { return };
        if allowed && link.path_of(route).is_none() {
            self.links.challenge(now, peer, route, data, came);
            self.schedule(peer);
        }
    }

    /// An authenticated frame of `came` bytes arrived by `route`.
    pub(super) fn heard(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        route: Route,
        newest: bool,
        came: usize,
    ) {
        let Some(link) = self.link_mut(peer) else { return };
        let known = link.path_of(route);
        if let Some(path) = known {
            link.heard(now, path);
        }
        if known.is_some() && matches!(route, Route::Direct(path) if path.socket == SocketId(0)) {
            // What comes by another route says nothing of whether we are heard by the peer.
            self.heard_at = Some(now);
        }
        if known.is_some() || self.links.credit(peer, route, came) || !newest {
            return;
        }
        if let Route::Direct(path) = route
            && self.is_punched(peer, path.remote.ip())
        {
            // The peer's punch (or its answer): our own way back is proven at once.
            return self.challenge(now, peer, route, None);
        }
        let Some(link) = self.link_mut(peer) else { return };
        // The peer seems to have moved: data stays where it is until the new route answers.
        if link.roam_at.is_none_or(|at| at <= now) {
            link.roam_at = Some(now + ROAM_DISTANCE);
            self.challenge(now, peer, route, Some(came));
        }
    }

    /// The path in use is suspect: others by which nothing came lately are asked, so that data
    /// need not stay on the relay for long.
    pub(super) fn ask_stale(&mut self, now: Instant, peer: PeerIndex) {
        let Some(link) = self.link_of(peer) else { return };
        let stale = |(_, p): &(PathId, PathState)| p.suspect_since.is_none() && p.is_stale(now);
        let routes: heapless::Vec<Route, PATHS> =
            link.paths().filter(stale).map(|(_, p)| p.route).collect();
        for route in routes {
            let data = self.rng.bytes();
            self.links.challenge(now, peer, route, data, None);
        }
    }

    /// The peer's latest data came by `route`. If that is not the direct path that we use, the
    /// peer may have moved, or found that ours does not work in its direction; and as long as we
    /// only acknowledge, nothing else would tell us. Ours is asked, and does not count until it
    /// has answered.
    pub(super) fn peer_uses(&mut self, now: Instant, peer: PeerIndex, route: Route) {
        let Some(link) = self.links.get_mut(peer) else { return };
        let Some(active) = link.active() else { return };
        let ours = link.route(active);
        let Some(ours @ Route::Direct(_)) = ours else { return };
        if super::link::same(&ours, &route) || link.recheck_at.is_some_and(|at| at > now) {
            return;
        }
        // A new direct path that has not carried a long datagram yet would not be chosen, and data
        // would go back to the relay in between: ours is asked once it has.
        let Some(theirs) = link.path_of(route) else { return };
        if matches!(route, Route::Direct(_)) && !self.transport.is_wide(peer, theirs) {
            return;
        }
        link.recheck_at = Some(now + RECHECK_DISTANCE);
        link.ask(now, active);
        let data = self.rng.bytes();
        self.links.challenge(now, peer, ours, data, None);
        self.choose(now, peer);
        self.transport.mark_suspect(now, peer, active);
        self.schedule(peer);
    }

    /// A round trip on `route` succeeded.
    pub(super) fn prove(&mut self, now: Instant, peer: PeerIndex, route: Route) {
        let Some(link) = self.link_mut(peer) else { return };
        let known = link.path_of(route).is_some();
        let is_revived =
            link.paths().any(|(_, p)| p.is_revived() && super::link::same(&p.route, &route));
        let (path, replaced) = link.prove(now, route);
        if let Some(old) = replaced {
            self.transport.remove_path(now, peer, old);
            self.release_sockets(peer);
        }
        if (!known || is_revived) && matches!(route, Route::Direct(_)) {
            self.punched_through(now, peer);
        }
        if !known || replaced.is_some() {
            self.add_path(now, peer, path, route);
        } else {
            self.transport.path_proven(now, peer, path);
        }
        if self.tunnel.has_session(peer) {
            // It may have stood still for want of a path.
            self.transport.session_up(now, peer);
        }
        self.choose(now, peer);
        self.schedule(peer);
    }

    /// Gives a path that was just proven its place in the transport. If there is none, a worse
    /// path gives way, or else this one is given up; the peer has one path in any case.
    fn add_path(&mut self, now: Instant, peer: PeerIndex, path: PathId, route: Route) {
        let sizes = self.sizes(peer, route);
        if self.transport.add_path(now, peer, path, sizes) {
            return;
        }
        let Some(link) = self.link_mut(peer) else { return };
        let given_up = link.gives_way_to(path).unwrap_or(path);
        link.remove(given_up);
        if given_up != path {
            self.transport.remove_path(now, peer, given_up);
            let added = self.transport.add_path(now, peer, path, sizes);
            debug_assert!(added, "a place was just given back");
        }
    }

    /// Up to which size our packets on this route are searched.
    fn sizes(&self, peer: PeerIndex, route: Route) -> SizeRange {
        let theirs = self.link_of(peer).map_or(DATAGRAM_MAX, |l| l.max_datagram);
        let most = self.config.limits.datagram.min(theirs);
        match route {
            Route::Direct(_) => SizeRange::direct(most),
            Route::Relay(_) => SizeRange::new(most, RELAY_HEADER as u16),
        }
    }

    /// Chooses the path for data anew and tells the owner if its kind changed.
    pub(super) fn choose(&mut self, now: Instant, peer: PeerIndex) {
        let Some(link) = self.links.get_mut(peer) else { return };
        let transport = &self.transport;
        let wide = |path| transport.is_wide(peer, path);
        let Some(path) = link.choose(now, |path| transport.srtt(peer, path), wide) else { return };
        self.transport.set_active_path(now, peer, path);
        self.tell_path(now, peer);
        self.schedule(peer);
    }

    pub(super) fn tell_path(&mut self, now: Instant, peer: PeerIndex) {
        let kind = self.path_kind(peer);
        if let Some(link) = self.link_mut(peer)
            && link.told != kind
        {
            let before = core::mem::replace(&mut link.told, kind);
            link.untold = true;
            self.untold_paths = true;
            self.count_relayed(now, before, kind);
        }
    }

    /// A peer's path changed its kind.
    pub(super) fn count_relayed(&mut self, now: Instant, before: PathKind, kind: PathKind) {
        let relayed = self.relayed + usize::from(kind == PathKind::Relayed)
            - usize::from(before == PathKind::Relayed);
        if (relayed > 0) != (self.relayed > 0) {
            self.directory.set_relaying(now, relayed > 0);
        }
        self.relayed = relayed;
    }
}
