//! The ladder's place in the node: when an episode begins, how its frames leave, what becomes of
//! its sockets and of its result. How it goes about it is [`crate::path::punch`]'s to say.
//!
//! | on | an episode |
//! |---|---|
//! | session up or a new way known, and data goes over the relay | begins, at most one per 5 s |
//! | F9 of a higher attempt | is joined |
//! | F9 of a lower one | begins with a higher number: the peer has lost count |
//! | streams open and still relayed after 5 s, doubling to 60 s | begins again |
//! | a local address is gone | begins at once, whatever the distance |
//! | the path in use is about to end at the age of those before | begins with fresh sockets |
//! | a direct path is proven | ends; sockets without a path are closed |

use super::auxiliary::{Purpose, Use};
use super::endpoints::is_near;
use super::ingress::Inner;
use super::link::PathState;
use super::{Node, PathPolicy};
use crate::machine::{Path, SocketId, Transmit};
use crate::path::nat::Nat;
use crate::path::punch::{EPISODE_EVERY, Output, Punch, Setting, is_higher};
use crate::path::spray::{BACK_OFF, BACK_OFF_MAX};
use crate::path::strategy::ROUNDS;
use crate::path::stun_client::{Ask, StunAnswer};
use crate::path::{PeerIndex, Route};
use crate::stats::DropReason;
use crate::time::{Duration, Instant};
use crate::wire::control::{Candidates, Endpoint, EndpointKind};
use crate::wire::punch::{OFFER_MAX, Offer, decode_primed, encode_primed};
use core::net::{IpAddr, SocketAddr};

/// Names the ladder's frames among our own that the transport watches. One that is lost is sent
/// again by the ladder's schedule.
pub(super) const PUNCH: u8 = 2;

/// Least distance of episodes that the peer begins: [`EPISODE_EVERY`], less what the way of an F9
/// may vary.
const JOIN_EVERY: Duration = Duration::from_millis(4500);

const ELICITING: Inner<'static> = Inner::Taken { eliciting: true, immediate: false };

impl Node<'_> {
    /// What our NAT does.
    pub(super) fn own_nat(&self) -> Nat {
        self.discover.found().nat
    }

    fn setting(&self, now: Instant, peer: PeerIndex) -> Setting {
        let spray = self.link_of(peer).and_then(|link| link.ladder.spray);
        Setting {
            nat: self.own_nat(),
            candidates: self.offered(),
            observed: self.directory.channel(peer).map(|channel| channel.observed),
            may_spray: !self.config.forbid_spray && spray.is_none_or(|(at, _)| at <= now),
        }
    }

    /// Our candidates: the endpoint that the operator named, what the beacon sees, interfaces.
    fn offered(&self) -> Candidates {
        let mut candidates = Candidates::new();
        let mapped = self.config.endpoint.map(|e| (EndpointKind::Mapped, e));
        let observed = self.directory.observed().map(|e| (EndpointKind::Observed, e));
        let hosts = self.locals.as_slice().iter().map(|&e| (EndpointKind::Host, e));
        for (kind, address) in mapped.into_iter().chain(observed).chain(hosts) {
            if !candidates.iter().any(|c| c.address == address) {
                // The first eight are the best, by the adapter's order.
                let _ = candidates.push(Endpoint { kind, address });
            }
        }
        candidates
    }

    /// Begins an episode, if the peer is only relayed, none is under way and it is time.
    pub(super) fn seek_direct(&mut self, now: Instant, peer: PeerIndex) {
        let Some(link) = self.link_of(peer) else { return };
        let is_wanted = self.config.path_policy == PathPolicy::Auto
            && self.tunnel.has_session(peer)
            && matches!(link.active_route(), Some(Route::Relay(_)));
        let ladder = &link.ladder;
        if !is_wanted || ladder.punch.is_some() || ladder.episode_at.is_some_and(|at| at > now) {
            return;
        }
        let last = ladder.attempt;
        let setting = self.setting(now, peer);
        let punch = Punch::start(now, self.rng.fork("punch"), setting, last);
        self.keep_punch(now, peer, punch);
    }

    /// Opens the next direct path from a fresh socket while the present one still works.
    pub(super) fn seek_successor(&mut self, now: Instant, peer: PeerIndex) {
        let Some(link) = self.link_of(peer) else { return };
        let ladder = &link.ladder;
        let is_time = ladder.punch.is_none() && ladder.episode_at.is_none_or(|at| at <= now);
        if is_time && self.config.path_policy == PathPolicy::Auto {
            let (last, setting) = (ladder.attempt, self.setting(now, peer));
            let theirs = ladder.peer_nat.unwrap_or_default();
            let rng = self.rng.fork("punch");
            if let Some(punch) = Punch::renew(now, rng, setting, last, theirs) {
                self.keep_punch(now, peer, punch);
            }
        }
    }

    fn keep_punch(&mut self, now: Instant, peer: PeerIndex, punch: Punch) {
        let attempt = punch.attempt();
        // No place: the upgrade timer tries again.
        let Ok(key) = self.punches.insert(punch) else { return };
        let Some(link) = self.link_mut(peer) else { return };
        link.ladder.punch = Some(key);
        link.ladder.attempt = attempt;
        link.ladder.episode_at = Some(now + EPISODE_EVERY);
        self.schedule(peer);
    }

    fn punch_of(&mut self, peer: PeerIndex) -> Option<&mut Punch> {
        let key = self.link_of(peer)?.ladder.punch?;
        self.punches.get_mut(key)
    }

    /// Whether an episode waits for frames from this address: as good as announced.
    pub(super) fn is_punched(&self, peer: PeerIndex, from: IpAddr) -> bool {
        let key = self.link_of(peer).and_then(|link| link.ladder.punch);
        key.and_then(|key| self.punches.get(key)).is_some_and(|punch| punch.expects(from))
    }

    /// F9 came.
    pub(super) fn punch_offer(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        body: &[u8],
    ) -> Inner<'static> {
        let Some(mut offer) = Offer::decode(body) else {
            return Inner::Dropped(DropReason::Malformed);
        };
        if self.config.path_policy != PathPolicy::Auto {
            // Nothing but one kind of path is wanted here: the peer hears no answer.
            return ELICITING;
        }
        let beacon = self.directory.beacon_address();
        let locals = &self.locals;
        offer.candidates.retain(|c| locals.is_worth_trying(c.address, beacon));
        let Some(link) = self.link_mut(peer) else { return ELICITING };
        let ladder = &mut link.ladder;
        ladder.peer_nat = Some(offer.nat);
        // Rounds of one episode follow each other; episodes that the peer begins keep their
        // distance like our own, whatever numbers it gives them.
        if ladder.attempt == 0 || offer.attempt / ROUNDS != ladder.attempt / ROUNDS {
            if ladder.join_at.is_some_and(|at| at > now) {
                return Inner::Dropped(DropReason::RateLimited);
            }
            ladder.join_at = Some(now + JOIN_EVERY);
        }
        let setting = self.setting(now, peer);
        if let Some(punch) = self.punch_of(peer) {
            punch.handle_offer(now, offer, setting);
            self.punch_changed(now, peer);
            return ELICITING;
        }
        let Some(link) = self.link_of(peer) else { return ELICITING };
        if link.ladder.attempt == 0 || is_higher(offer.attempt, link.ladder.attempt) {
            let punch = Punch::join(now, self.rng.fork("punch"), setting, offer);
            self.keep_punch(now, peer, punch);
        } else {
            self.seek_direct(now, peer);
        }
        ELICITING
    }

    /// F6 came.
    pub(super) fn punch_primed(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        body: &[u8],
    ) -> Inner<'static> {
        let Some((attempt, code)) = decode_primed(body) else {
            return Inner::Dropped(DropReason::Malformed);
        };
        if let Some(punch) = self.punch_of(peer) {
            punch.handle_primed(now, attempt, code);
            self.punch_changed(now, peer);
        }
        ELICITING
    }

    /// F3 came by a direct path: whether it answers a punch.
    pub(super) fn is_punch_response(&self, peer: PeerIndex, route: Route, data: [u8; 8]) -> bool {
        let Route::Direct(path) = route else { return false };
        let key = self.link_of(peer).and_then(|link| link.ladder.punch);
        key.and_then(|key| self.punches.get(key)).is_some_and(|p| p.is_response(path, data))
    }

    /// A direct path that was not there before is proven.
    pub(super) fn punched_through(&mut self, now: Instant, peer: PeerIndex) {
        if let Some(punch) = self.punch_of(peer) {
            punch.handle_direct(now);
            self.punch_changed(now, peer);
        }
    }

    /// The ladder's next frame.
    pub(super) fn punch_output(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        out: &mut [u8],
    ) -> Option<Transmit> {
        loop {
            let key = self.link_of(peer)?.ladder.punch?;
            let punch = self.punches.get_mut(key)?;
            let auxiliary = &self.auxiliary;
            let output = punch.poll_output(now, |socket| auxiliary.is_open(socket));
            let mut plain = [0; OFFER_MAX];
            let sent = match output {
                None => {
                    self.punch_changed(now, peer);
                    return None;
                }
                Some(Output::Open) => {
                    let socket = self.open_socket(Use::Punch(peer));
                    self.punches.get_mut(key)?.handle_socket(now, socket);
                    continue;
                }
                Some(Output::Ask(socket)) => {
                    self.ask(now, peer, socket);
                    continue;
                }
                Some(Output::Challenge { path, data, hop_limit }) => {
                    let mut frame = [crate::wire::control::PATH_CHALLENGE; 9];
                    frame[1..].copy_from_slice(&data);
                    let transmit = self.sealed(now, peer, Route::Direct(path), &frame, out);
                    transmit.map(|transmit| Transmit { hop_limit, ..transmit })
                }
                Some(Output::Offer) => {
                    let len = punch.offer().encode(&mut plain);
                    self.agreed(now, peer, &plain[..len], out)
                }
                Some(Output::Primed(attempt, code)) => {
                    self.agreed(now, peer, &encode_primed(attempt, code), out)
                }
            };
            if sent.is_some() {
                self.punch_changed(now, peer);
                return sent;
            }
        }
    }

    /// F9 or F6, by the relay: a direct path may just have died. Acknowledged like all but path
    /// challenges.
    fn agreed(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        plain: &[u8],
        out: &mut [u8],
    ) -> Option<Transmit> {
        let link = self.link_of(peer)?;
        let relayed = |(_, path): &(_, PathState)| matches!(path.route, Route::Relay(_));
        let path = link.paths().find(relayed).map(|(id, _)| id).or(link.active())?;
        let route = link.route(path)?;
        self.watched(now, peer, (path, route), plain, PUNCH, out)
    }

    fn ask(&mut self, now: Instant, peer: PeerIndex, socket: SocketId) {
        let purpose = Purpose::Punch(peer);
        let asked = self.directory.beacon_address().is_some_and(|beacon| {
            let ask = Ask::plain(socket, beacon, purpose);
            self.stun.ask(now, &mut self.rng, ask)
        });
        if !asked && let Some(punch) = self.punch_of(peer) {
            punch.handle_observed(now, socket, None);
        }
    }

    /// A STUN question of the ladder has ended.
    pub(super) fn punch_answer(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        answer: &StunAnswer<Purpose>,
    ) {
        let observed = answer.result.ok().map(|mapped| mapped.observed);
        if let Some(punch) = self.punch_of(peer) {
            punch.handle_observed(now, answer.ask.socket, observed);
            self.punch_changed(now, peer);
        }
    }

    /// A socket of the ladder could not be opened.
    pub(super) fn punch_socket_failed(&mut self, now: Instant, peer: PeerIndex, socket: SocketId) {
        if let Some(punch) = self.punch_of(peer) {
            punch.handle_socket_failed(now, socket);
            self.punch_changed(now, peer);
        }
    }

    /// The ladder's timers.
    pub(super) fn punch_timeout(&mut self, now: Instant, peer: PeerIndex) {
        if let Some(punch) = self.punch_of(peer) {
            punch.handle_timeout(now);
            self.punch_changed(now, peer);
        }
    }

    /// When the ladder has something to do.
    pub(super) fn punch_at(&self, peer: PeerIndex) -> Option<Instant> {
        let key = self.link_of(peer)?.ladder.punch?;
        self.punches.get(key)?.next_at(|socket| self.auxiliary.is_open(socket))
    }

    /// Keeps what outlives an episode, and ends one that is over.
    fn punch_changed(&mut self, now: Instant, peer: PeerIndex) {
        let Some(key) = self.link_of(peer).and_then(|link| link.ladder.punch) else { return };
        let Some(punch) = self.punches.get(key) else { return };
        let (attempt, is_over) = (punch.attempt(), punch.is_over());
        let Some(link) = self.links.get_mut(peer) else { return };
        if attempt != link.ladder.attempt {
            link.ladder.attempt = attempt;
            self.release_sockets(peer);
        }
        // An answer of ours may still be due: it goes out before the place is given back.
        if is_over {
            self.end_punch(now, peer);
        }
        self.schedule(peer);
    }

    /// Ends an episode, whatever its state.
    pub(super) fn end_punch(&mut self, now: Instant, peer: PeerIndex) {
        let Some(link) = self.links.get_mut(peer) else { return };
        let Some(key) = link.ladder.punch.take() else { return };
        let Some(punch) = self.punches.remove(key) else { return };
        let ladder = &mut link.ladder;
        for &tried in punch.tried() {
            if ladder.tried.is_full() {
                ladder.tried.remove(0);
            }
            let _ = ladder.tried.push(tried);
        }
        if punch.has_sprayed() {
            let wait = ladder.spray.map_or(BACK_OFF, |(_, wait)| (wait * 2).min(BACK_OFF_MAX));
            ladder.spray = Some((now + wait, wait));
        }
        self.stun.retain(|ask| ask.purpose != Purpose::Punch(peer));
        self.release_sockets(peer);
    }

    /// Closes the peer's auxiliary sockets that neither a path nor an episode needs.
    pub(super) fn release_sockets(&mut self, peer: PeerIndex) {
        let mut after = SocketId(0);
        while let Some(socket) =
            { self.auxiliary.of(Use::Punch(peer)).find(|socket| *socket > after) }
        {
            after = socket;
            let by = |route: Route| matches!(route, Route::Direct(p) if p.socket == socket);
            let Some(link) = self.links.get_mut(peer) else { continue };
            let needed = link.paths().any(|(_, path)| by(path.route))
                || link
                    .ladder
                    .punch
                    .and_then(|key| self.punches.get(key))
                    .is_some_and(|punch| punch.uses(socket));
            if !needed {
                link.last_good = link.last_good.filter(|route| !by(*route));
                self.close_socket(socket);
            }
        }
    }

    /// Challenges the peer where a packet cannot do harm to a punch: on our own links, where its
    /// operator says it is, and where it was last.
    pub(super) fn challenge_near(&mut self, now: Instant, peer: PeerIndex) {
        if !self.tunnel.has_session(peer) {
            return;
        }
        let known = self.directory.trust().peer(peer).map(|p| p.endpoints()).unwrap_or_default();
        let near = |e: &&Endpoint| e.kind == EndpointKind::Mapped || is_near(e.address.ip());
        let near: heapless::Vec<SocketAddr, 10> =
            known.iter().filter(near).map(|e| e.address).take(10).collect();
        let beacon = self.directory.beacon_address();
        for address in near {
            if self.locals.is_worth_trying(address, beacon) {
                self.challenge(now, peer, Route::Direct(Path::to(address)), None);
            }
        }
        if let Some(route) = self.link_of(peer).and_then(|link| link.last_good) {
            self.challenge(now, peer, route, None);
        }
        if let Some(channel) = self.directory.channel(peer).map(|c| c.id) {
            self.challenge(now, peer, Route::Relay(channel), None);
        }
    }
}
