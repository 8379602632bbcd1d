//! What is under way on routes to peers: our path challenges (F2) that wait for their response,
//! and the answers that wait to be sent. An idle peer has none of either, so they live in a pool
//! that all peers share; a peer takes a place with its first challenge or answer and gives it
//! back with the last. When there is no place, no challenge starts and no question is answered:
//! both ends ask again.

use super::link::{Link, same};
use super::storage::LinkSlot;
use crate::limits::{FRAME_HEADER, TAG};
use crate::path::{PeerIndex, Route};
use crate::slab::{Slab, Store};
use crate::time::{Duration, Instant};
use heapless::{Deque, Vec};

/// When a challenge is sent again, after the first time (`wire.md` 5.5).
const CHALLENGE_REPEAT: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(900)];
/// When an unanswered challenge is forgotten.
const CHALLENGE_FAIL: Duration = Duration::from_secs(3);
/// Most challenges under way: the candidates of `wire.md` 5.8 and one roamed-to route.
const CHALLENGES: usize = 9;
/// Bytes of a frame with F1, F2 or F3.
const CONTROL: u32 = (FRAME_HEADER + 1 + 8 + TAG) as u32;
/// What an address that has proven nothing may get for each byte that came from it (`wire.md` 5.5).
const UNPROVEN: u32 = 3;
/// Most answers (F1, F3) that wait to be sent; further challenges and pings are not answered.
const ANSWERS: usize = 8;

/// A challenge on its way.
#[derive(Clone, Copy, Debug)]
struct Challenge {
    route: Route,
    data: [u8; 8],
    started: Instant,
    sent: u8,
    /// Bytes that may still go there; `None` where the peer or the beacon announced the route.
    credit: Option<u32>,
}

impl Challenge {
    /// Whether one more control frame may go there; then it counts as sent.
    fn spend(&mut self) -> bool {
        match &mut self.credit {
            Some(left) if *left < CONTROL => false,
            Some(left) => {
                *left -= CONTROL;
                true
            }
            None => true,
        }
    }

    fn next_at(&self) -> Instant {
        match self.sent {
            0 => self.started,
            n => match CHALLENGE_REPEAT.get(usize::from(n) - 1) {
                Some(&after) => self.started + after,
                None => self.started + CHALLENGE_FAIL,
            },
        }
    }
}

/// A control frame to send to the peer on one route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Control {
    /// F1 with the ping's bytes.
    Pong([u8; 8]),
    /// F2 with random bytes.
    Challenge([u8; 8]),
    /// F3 with the challenge's bytes.
    Response([u8; 8]),
    /// The empty frame: keeps a NAT mapping or relay channel alive.
    Keepalive,
}

/// What is under way with one peer. Opaque: a pool of these is part of [`super::Storage`].
#[derive(Debug, Default)]
pub struct Probes {
    challenges: Vec<Challenge, CHALLENGES>,
    answers: Deque<(Route, Control), ANSWERS>,
}

impl Probes {
    fn is_empty(&self) -> bool {
        self.challenges.is_empty() && self.answers.is_empty()
    }

    fn is_challenged(&self, route: Route) -> bool {
        self.challenges.iter().any(|c| same(&c.route, &route))
    }

    fn challenge(&mut self, now: Instant, route: Route, data: [u8; 8], came: Option<usize>) {
        if !self.is_challenged(route) {
            let credit = came.map(|came| UNPROVEN * came as u32);
            // A full list means a peer that moves faster than 3 s allow: the next frame retries.
            let _ = self.challenges.push(Challenge { route, data, started: now, sent: 0, credit });
        }
    }

    fn credit(&mut self, route: Route, came: usize) -> bool {
        let challenge = self.challenges.iter_mut().find(|c| same(&c.route, &route));
        if let Some(Challenge { credit: Some(credit), .. }) = challenge {
            *credit = credit.saturating_add(UNPROVEN * came as u32);
            return true;
        }
        challenge.is_some()
    }

    fn respond(&mut self, route: Route, data: [u8; 8]) -> bool {
        let answered = |c: &Challenge| c.data == data && c.sent > 0 && same(&c.route, &route);
        let Some(at) = self.challenges.iter().position(answered) else { return false };
        self.challenges.swap_remove(at);
        true
    }

    fn poll(&mut self, now: Instant, proven: impl Fn(Route) -> bool) -> Option<(Route, Control)> {
        while let Some((route, answer)) = self.answers.pop_front() {
            // An answer is as long as its question; where no challenge is under way, that is all.
            let challenge = self.challenges.iter_mut().find(|c| same(&c.route, &route));
            if proven(route) || challenge.is_none_or(Challenge::spend) {
                return Some((route, answer));
            }
        }
        let due = |c: &&mut Challenge| {
            usize::from(c.sent) <= CHALLENGE_REPEAT.len() && c.next_at() <= now
        };
        while let Some(challenge) = self.challenges.iter_mut().find(due) {
            challenge.sent += 1;
            if challenge.spend() {
                return Some((challenge.route, Control::Challenge(challenge.data)));
            }
        }
        None
    }

    fn next_at(&self) -> Option<Instant> {
        let answers = (!self.answers.is_empty()).then_some(Instant::START);
        self.challenges.iter().map(Challenge::next_at).chain(answers).min()
    }
}

/// The links to all peers, by their numbers, and what is under way with some of them.
pub(super) struct Links<'s> {
    slots: Store<'s, LinkSlot>,
    pool: Slab<'s, Probes>,
}

impl<'s> Links<'s> {
    pub(super) fn new(slots: Store<'s, LinkSlot>, pool: Slab<'s, Probes>) -> Self {
        Links { slots, pool }
    }

    /// How many numbers were in use up to now.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    pub(super) fn get(&self, peer: PeerIndex) -> Option<&Link> {
        self.slots.get(peer.index())?.0.as_ref()
    }

    pub(super) fn get_mut(&mut self, peer: PeerIndex) -> Option<&mut Link> {
        self.slots.get_mut(peer.index())?.0.as_mut()
    }

    /// Puts a link in the peer's place, and gives what was there.
    pub(super) fn replace(&mut self, peer: PeerIndex, link: Link) -> Option<Link> {
        let before = self.take(peer);
        let is_place = self.slots.reach(peer.index(), LinkSlot::empty);
        assert!(is_place, "as many places as the trust table has numbers");
        self.slots[peer.index()].0 = Some(link);
        before
    }

    pub(super) fn take(&mut self, peer: PeerIndex) -> Option<Link> {
        self.clear_probes(peer);
        self.slots.get_mut(peer.index())?.0.take()
    }

    fn probes(&self, peer: PeerIndex) -> Option<&Probes> {
        self.pool.get(self.get(peer)?.probes?)
    }

    /// Does something with what is under way; without a place yet, takes one if `start`.
    fn with<R>(
        &mut self,
        peer: PeerIndex,
        start: bool,
        change: impl FnOnce(&mut Probes, &Link) -> R,
    ) -> Option<R> {
        let link = self.slots.get_mut(peer.index())?.0.as_mut()?;
        let key = match link.probes {
            Some(key) => key,
            None if start => self.pool.insert(Probes::default()).ok()?,
            None => return None,
        };
        let probes = self.pool.get_mut(key)?;
        let result = change(probes, link);
        link.probes = (!probes.is_empty()).then_some(key);
        if link.probes.is_none() {
            self.pool.remove(key);
        }
        Some(result)
    }

    /// Starts a challenge of `route`, unless one is under way there. Nothing happens when too
    /// many are. `came`: the bytes that came from an address that nobody announced, and that
    /// bound what goes there.
    pub(super) fn challenge(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        route: Route,
        data: [u8; 8],
        came: Option<usize>,
    ) {
        self.with(peer, true, |probes, _| probes.challenge(now, route, data, came));
    }

    /// A frame came by a route; whether that is challenged already.
    pub(super) fn credit(&mut self, peer: PeerIndex, route: Route, came: usize) -> bool {
        self.with(peer, false, |probes, _| probes.credit(route, came)).unwrap_or(false)
    }

    #[cfg(test)]
    fn is_challenged(&self, peer: PeerIndex, route: Route) -> bool {
        self.probes(peer).is_some_and(|probes| probes.is_challenged(route))
    }

    /// An F3 arrived: whether it proves this route, which must be the one that was challenged.
    pub(super) fn respond(&mut self, peer: PeerIndex, route: Route, data: [u8; 8]) -> bool {
        self.with(peer, false, |probes, _| probes.respond(route, data)).unwrap_or(false)
    }

    /// Queues an answer; dropped when too many wait (the peer asks again).
    pub(super) fn answer(&mut self, peer: PeerIndex, route: Route, control: Control) -> bool {
        let push =
            |probes: &mut Probes, _: &Link| probes.answers.push_back((route, control)).is_ok();
        self.with(peer, true, push).unwrap_or(false)
    }

    /// The next control frame to send.
    pub(super) fn poll_control(
        &mut self,
        now: Instant,
        peer: PeerIndex,
    ) -> Option<(Route, Control)> {
        let poll = |probes: &mut Probes, link: &Link| {
            probes.poll(now, |route| link.path_of(route).is_some())
        };
        self.with(peer, false, poll).flatten()
    }

    /// Forgets challenges that failed.
    pub(super) fn expire(&mut self, now: Instant, peer: PeerIndex) {
        let young = |c: &Challenge| now < c.started + CHALLENGE_FAIL;
        self.with(peer, false, |probes, _| probes.challenges.retain(young));
    }

    /// Forgets all challenges and answers.
    pub(super) fn clear_probes(&mut self, peer: PeerIndex) {
        self.with(peer, false, |probes, _| *probes = Probes::default());
    }

    /// The next moment at which there is something to do for this peer.
    pub(super) fn next_at(&self, peer: PeerIndex) -> Option<Instant> {
        let probes = self.probes(peer).and_then(Probes::next_at);
        self.get(peer)?.next_at().into_iter().chain(probes).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Path;
    use crate::slab::Slot;

    const A: PeerIndex = PeerIndex(0);
    const B: PeerIndex = PeerIndex(1);

    fn direct(port: u16) -> Route {
        Route::Direct(Path::to(core::net::SocketAddr::from(([203, 0, 113, 1], port))))
    }

    fn ms(n: u64) -> Instant {
        Instant::from_nanos(1 + n * 1_000_000)
    }

    /// Two peers that share `places`.
    fn with_links(places: &mut [Slot<Probes>], test: impl FnOnce(Links<'_>)) {
        let mut slots = [const { LinkSlot::empty() }; 2];
        let mut links = Links::new(Store::from(&mut slots[..]), Slab::new(Store::from(places)));
        links.replace(A, Link::new());
        links.replace(B, Link::new());
        test(links);
    }

    #[test]
    fn only_the_challenged_route_proves_itself() {
        with_links(&mut [Slot::empty()], |mut links| {
            links.challenge(ms(0), A, direct(1), [1; 8], None);
            links.challenge(ms(0), A, direct(1), [2; 8], None);
            assert!(!links.respond(A, direct(1), [1; 8]), "it was never sent");
            let sent = links.poll_control(ms(0), A);
            assert_eq!(sent, Some((direct(1), Control::Challenge([1; 8]))));
            assert_eq!(links.poll_control(ms(0), A), None);
            assert_eq!(links.next_at(A), Some(ms(300)));
            assert!(!links.respond(A, direct(2), [1; 8]), "from elsewhere");
            assert!(!links.respond(A, direct(1), [2; 8]), "other bytes");
            assert!(!links.respond(B, direct(1), [1; 8]), "another peer");
            assert!(links.respond(A, direct(1), [1; 8]));
            assert!(!links.respond(A, direct(1), [1; 8]), "once only");
        });
    }

    #[test]
    fn an_unannounced_route_gets_three_times_what_came_from_it() {
        let sent = |links: &mut Links<'_>| {
            let sent = (0..30).filter(|n| links.poll_control(ms(100 * n), A).is_some());
            sent.count() * CONTROL as usize
        };
        // An empty frame has 28 bytes, so the third F2 has to wait for another one.
        with_links(&mut [Slot::empty()], |mut links| {
            links.challenge(ms(0), A, direct(1), [1; 8], Some(28));
            assert_eq!(sent(&mut links), 2 * 37);
        });
        with_links(&mut [Slot::empty()], |mut links| {
            links.challenge(ms(0), A, direct(1), [1; 8], Some(28));
            assert!(links.credit(A, direct(1), 28) && !links.credit(A, direct(2), 28));
            assert_eq!(sent(&mut links), 3 * 37);
        });
        // The answer to an F2 counts, too.
        with_links(&mut [Slot::empty()], |mut links| {
            links.challenge(ms(0), A, direct(1), [1; 8], Some(37));
            assert!(links.answer(A, direct(1), Control::Response([2; 8])));
            assert_eq!(sent(&mut links), 3 * 37);
            // Until it is proven.
            links.get_mut(A).unwrap().prove(ms(0), direct(1));
            assert!(links.answer(A, direct(1), Control::Response([2; 8])));
            assert_eq!(sent(&mut links), 37);
        });
    }

    #[test]
    fn a_challenge_is_sent_three_times_and_forgotten() {
        with_links(&mut [Slot::empty()], |mut links| {
            links.challenge(ms(0), A, direct(1), [1; 8], None);
            let mut sent = 0;
            while let Some(at) = links.next_at(A) {
                if at == ms(3000) {
                    links.expire(at, A);
                    continue;
                }
                assert!(links.poll_control(at.max(ms(0)), A).is_some());
                sent += 1;
            }
            assert_eq!(sent, 3);
            assert!(links.pool.is_empty());
        });
    }

    #[test]
    fn the_queues_of_a_peer_are_bounded() {
        with_links(&mut [Slot::empty()], |mut links| {
            for n in 0..20 {
                links.answer(A, direct(n), Control::Pong([0; 8]));
                links.challenge(ms(0), A, direct(n), [0; 8], None);
            }
            assert!(!links.answer(A, direct(1), Control::Keepalive));
            let polled = core::iter::from_fn(|| links.poll_control(ms(0), A)).count();
            assert_eq!(polled, ANSWERS + CHALLENGES);
        });
    }

    /// Whoever finds the pool used up starts nothing, and finds a place once another is done.
    #[test]
    fn a_place_is_held_only_while_something_is_under_way() {
        with_links(&mut [Slot::empty()], |mut links| {
            assert!(links.answer(A, direct(1), Control::Keepalive));
            assert!(!links.answer(B, direct(2), Control::Keepalive), "no place");
            links.challenge(ms(0), B, direct(2), [2; 8], None);
            assert!(!links.is_challenged(B, direct(2)));
            assert_eq!((links.poll_control(ms(0), B), links.next_at(B)), (None, None));

            let control = links.poll_control(ms(0), A);
            assert_eq!(control, Some((direct(1), Control::Keepalive)));
            links.challenge(ms(0), B, direct(2), [2; 8], None);
            assert!(links.is_challenged(B, direct(2)));
            assert!(links.poll_control(ms(0), B).is_some());
            assert!(!links.answer(A, direct(1), Control::Keepalive), "held until the response");
            assert!(links.respond(B, direct(2), [2; 8]));
            assert!(links.answer(A, direct(1), Control::Keepalive));

            links.clear_probes(A);
            assert!(links.answer(B, direct(2), Control::Keepalive), "A's was given back");
            links.take(B);
            assert!(links.pool.is_empty());
        });
    }
}
