//! The paths to one peer: which there are, which are proven, which one carries data.
//!
//! A path is *proven* by a round trip on it: a handshake message answered on it, or our path
//! challenge (F2) answered by its response (F3) from it (`wire.md` 5.5, 5.8). Receipt of a packet
//! alone proves nothing. Data goes by the best proven path: a direct one that is not suspect, has
//! carried a datagram of 1,232 bytes and has the lowest round-trip time, else the relay channel,
//! else whatever is left.
//!
//! | state | on | becomes |
//! |---|---|---|
//! | unknown route | authenticated newest frame from it, or it is a candidate | challenged: F2 at 0, 0.3, 0.9 s, of an unannounced route within 3× the bytes that came from it |
//! | challenged | F3 from it | proven |
//! | challenged | 3 s | forgotten |
//! | proven | transport reports it suspect | suspect: data moves to another path |
//! | in use, direct | the peer's latest data came by another proven path | suspect, and challenged |
//! | suspect | any acknowledgement on it | proven |
//! | suspect, direct | 15 s | removed |
//! | any | session with another process of the peer | forgotten |

use super::PathKind;
use crate::limits::PATH_REMOVE;
use crate::path::nat::Nat;
use crate::path::punch::Tried;
use crate::path::{ChannelId, PATHS, PathId, Route};
use crate::planted::{self, Defect};
use crate::slab::Key;
use crate::time::{Duration, Instant};
use crate::wire::control::CloseCode;
use heapless::Vec;

/// Paths that die younger were lost to something else than a lifetime.
const LIFE_MIN: Duration = Duration::from_secs(20);

/// A path by which nothing came for so long may be forgotten by its NATs, of which the quickest
/// take 30 s and whose keepalives come each 15 s (`nat.md` 3).
const STALE: Duration = Duration::from_secs(20);

/// A proven path.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathState {
    pub(super) route: Route,
    /// When it was proven first.
    pub(super) born: Instant,
    /// When an authenticated frame last came by it.
    pub(super) heard: Instant,
    pub(super) suspect_since: Option<Instant>,
    /// Suspect only because the peer uses another one, and asked.
    pub(super) is_asked: bool,
}

impl PathState {
    /// Paths of a lower class are preferred, however slow. `wide`: it has carried a datagram of
    /// 1,232 bytes; a direct one that has not does not take the data from the relay. `old`: it
    /// was proven so long ago that its NATs are about to end it, as they ended those before.
    /// `stale`: nothing has come by it for so long that its NATs may have forgotten it.
    fn class(&self, wide: bool, old: bool, stale: bool) -> u8 {
        match (self.suspect_since.is_some(), matches!(self.route, Route::Relay(_))) {
            (false, false) if wide && !stale => u8::from(old),
            (false, true) => 2,
            (false, false) => 3,
            (true, true) => 4,
            (true, false) => 5,
        }
    }

    /// Whether an answer now means that it was opened anew.
    pub(super) fn is_revived(&self) -> bool {
        self.suspect_since.is_some() && !self.is_asked
    }

    /// Whether it has to answer before it carries data again.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        matches!(self.route, Route::Direct(_)) && now >= self.heard + STALE
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Link {
    paths: [Option<PathState>; PATHS],
    active: Option<PathId>,
    /// The place of its challenges and answers in the pool of all peers, while there are any.
    pub(super) probes: Option<Key>,
    /// The last direct path that worked; survives sessions.
    pub(super) last_good: Option<Route>,
    /// The peer's own limit of UDP payload bytes.
    pub(super) max_datagram: u16,
    /// Indices, sent and received, of the sessions that the tunnel last told of.
    pub(super) sessions: Vec<(u32, u32), 5>,
    /// When our record is to be sent in the session.
    pub(super) record_due: Option<Instant>,
    /// Our goodbye, about to be sent.
    pub(super) goodbye: Option<CloseCode>,
    /// The earliest next challenge of a route that nobody announced.
    pub(super) roam_at: Option<Instant>,
    /// The earliest next time that the path in use is asked because the peer uses another.
    pub(super) recheck_at: Option<Instant>,
    /// The earliest next INIT that a suspect path causes.
    pub(super) init_at: Option<Instant>,
    /// An INIT that waits for `init_at`.
    pub(super) init_due: Option<Instant>,
    /// Upkeep while streams are open.
    pub(super) upkeep: Upkeep,
    /// How long direct paths to this peer live.
    pub(super) life: Life,
    /// The ladder towards this peer.
    pub(super) ladder: Ladder,
    /// The kind of path that the owner was told of.
    pub(super) told: PathKind,
    /// `told` has changed since the owner was told.
    pub(super) untold: bool,
}

/// How long direct paths live, where something ends them after a fixed time however busy they
/// are: carrier-grade NATs with an absolute lifetime do (`nat.md` 3). Two in a row that died at
/// about the same age are believed.
#[derive(Debug, Default)]
pub(super) struct Life {
    last: Option<Duration>,
    learned: Option<Duration>,
}

impl Life {
    /// A path died at this age.
    fn died(&mut self, age: Duration) {
        let alike = |last: &Duration| age.abs_diff(*last) <= age.max(*last) / 4;
        self.learned = self.last.filter(alike).map(|last| last.min(age));
        self.last = Some(age).filter(|age| *age >= LIFE_MIN);
    }

    /// A path lives although it is much older than those that died: it was something else.
    fn outlasted(&mut self, age: Duration) {
        if self.learned.is_some_and(|learned| age >= learned * 2) {
            *self = Life::default();
        }
    }

    /// The age at which the next path is to be there.
    pub(super) fn renew_after(&self) -> Option<Duration> {
        self.learned.filter(|age| *age >= LIFE_MIN).map(|age| age * 4 / 5)
    }
}

/// What is remembered of punching towards a peer beyond one episode.
#[derive(Debug, Default)]
pub(super) struct Ladder {
    /// The place of the episode in the pool of all peers, while one is under way.
    pub(super) punch: Option<Key>,
    /// The highest attempt.
    pub(super) attempt: u16,
    /// What the peer said of its NAT, last time.
    pub(super) peer_nat: Option<Nat>,
    /// The earliest next episode that we begin.
    pub(super) episode_at: Option<Instant>,
    /// The earliest next episode of the peer's that we join.
    pub(super) join_at: Option<Instant>,
    /// The earliest next spray, and the wait after it.
    pub(super) spray: Option<(Instant, Duration)>,
    /// How the last rounds ended.
    pub(super) tried: Vec<Tried, 6>,
}

impl Ladder {
    /// Another process of the peer counts its attempts anew.
    pub(super) fn restart(&mut self) {
        (self.attempt, self.episode_at, self.join_at) = (0, None, None);
    }
}

/// Timers that run while a peer has open streams and a session.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// The next empty frame on the path in use.
    pub(super) keep_at: Option<Instant>,
    /// The next empty frame on the relay channel.
    pub(super) relay_keep_at: Option<Instant>,
    /// When the next path is to be opened before this one ends.
    pub(super) renew_at: Option<Instant>,
    /// The next search for a direct path, and the wait after it.
    pub(super) upgrade: Option<(Instant, Duration)>,
}

impl Link {
    pub(super) fn new() -> Self {
        Link { max_datagram: crate::limits::DATAGRAM_MAX, ..Link::default() }
    }

    pub(super) fn path_of(&self, route: Route) -> Option<PathId> {
        let is = |p: &Option<PathState>| p.as_ref().is_some_and(|p| same(&p.route, &route));
        // Asked for each packet, nearly all of which come by the path in use.
        let active = self.active.filter(|path| is(&self.paths[usize::from(path.0)]));
        active.or_else(|| Some(PathId(self.paths.iter().position(is)? as u8)))
    }

    pub(super) fn route(&self, path: PathId) -> Option<Route> {
        Some(self.paths[usize::from(path.0)].as_ref()?.route)
    }

    pub(super) fn active(&self) -> Option<PathId> {
        self.active
    }

    pub(super) fn active_route(&self) -> Option<Route> {
        self.route(self.active?)
    }

    /// Whether the path for data is suspect: there is no better one then.
    pub(super) fn is_suspect(&self) -> bool {
        let path = self.active.and_then(|path| self.paths[usize::from(path.0)]);
        path.is_some_and(|path| path.suspect_since.is_some())
    }

    pub(super) fn is_direct(&self) -> bool {
        matches!(self.active_route(), Some(Route::Direct(_)))
    }

    /// The proven paths.
    pub(super) fn paths(&self) -> impl Iterator<Item = (PathId, PathState)> + '_ {
        let numbered = self.paths.iter().enumerate();
        numbered.filter_map(|(i, p)| p.map(|p| (PathId(i as u8), p)))
    }

    /// Adds a proven route. If all places are taken, the one that has been suspect for longest
    /// goes, or else that by which nothing has come for longest: the peer may use one that we do
    /// not. The path in use never goes, the relay last. What goes is named in the second place.
    pub(super) fn prove(&mut self, now: Instant, route: Route) -> (PathId, Option<PathId>) {
        if let Some(known) = self.path_of(route) {
            // The local address may have become known since.
            if let Some(path) = &mut self.paths[usize::from(known.0)] {
                (path.route, path.heard) = (route, now);
                let is_revived = path.is_revived();
                let direct = matches!(route, Route::Direct(_));
                if let Some(since) = path.suspect_since.take().filter(|_| is_revived && direct) {
                    // What our NAT made of it had ended; it is another mapping now.
                    self.life.died(since.since(path.born));
                    path.born = now;
                }
            }
            return (known, None);
        }
        if matches!(route, Route::Direct(_)) {
            self.last_good = Some(route);
        }
        let new =
            Some(PathState { route, born: now, heard: now, suspect_since: None, is_asked: false });
        if let Some(free) = self.paths.iter().position(Option::is_none) {
            self.paths[free] = new;
            return (PathId(free as u8), None);
        }
        let rank = |p: &PathState| match (matches!(p.route, Route::Relay(_)), p.suspect_since) {
            (true, _) => (2, Instant::NEVER),
            (false, None) => (1, p.heard),
            (false, Some(since)) => (0, since),
        };
        let spare = (0..PATHS).filter(|&i| self.active != Some(PathId(i as u8)));
        let victim = spare.min_by_key(|&i| self.paths[i].as_ref().map(rank)).unwrap_or(0);
        self.paths[victim] = new;
        (PathId(victim as u8), Some(PathId(victim as u8)))
    }

    /// The worst path, if that just proven as `path` is of a better class: it gives way when
    /// there is no place for one more.
    pub(super) fn gives_way_to(&self, path: PathId) -> Option<PathId> {
        let class = |p: &PathState| p.class(true, false, false);
        let ours = class(self.paths[usize::from(path.0)].as_ref()?);
        let worst = self.paths().max_by_key(|(_, p)| class(p))?;
        (class(&worst.1) > ours).then_some(worst.0)
    }

    /// An authenticated frame came by a proven path.
    pub(super) fn heard(&mut self, now: Instant, path: PathId) {
        if let Some(state) = &mut self.paths[usize::from(path.0)] {
            state.heard = now;
        }
    }

    pub(super) fn remove(&mut self, path: PathId) {
        self.paths[usize::from(path.0)] = None;
        if self.active == Some(path) {
            self.active = None;
        }
    }

    /// Forgets the paths over a relay channel that is gone.
    pub(super) fn remove_channel(&mut self, channel: ChannelId) -> Option<PathId> {
        let path = self.path_of(Route::Relay(channel))?;
        self.remove(path);
        Some(path)
    }

    /// Forgets all that is known of the session; `last_good` stays. Gives the paths there were.
    pub(super) fn clear(&mut self) -> Vec<PathId, PATHS> {
        self.sessions.clear();
        self.record_due = None;
        self.init_due = None;
        self.upkeep = Upkeep::default();
        self.unprove()
    }

    /// Forgets all paths; `last_good` stays. Gives the paths there were.
    pub(super) fn unprove(&mut self) -> Vec<PathId, PATHS> {
        let paths = self.paths().map(|(id, _)| id).collect();
        self.paths = [None; PATHS];
        self.active = None;
        paths
    }

    pub(super) fn set_suspect(&mut self, path: PathId, since: Option<Instant>) {
        if let Some(state) = &mut self.paths[usize::from(path.0)]
            && !planted::has(Defect::StalePathKept)
        {
            (state.suspect_since, state.is_asked) = (since, false);
        }
    }

    /// The path in use is asked, and does not count until it answers.
    pub(super) fn ask(&mut self, now: Instant, path: PathId) {
        if let Some(state) = &mut self.paths[usize::from(path.0)]
            && !planted::has(Defect::StalePathKept)
        {
            (state.suspect_since, state.is_asked) = (Some(now), true);
        }
    }

    /// Chooses the path for data; `rtt` tells a path's round-trip time, `wide` whether it has
    /// carried a datagram of 1,232 bytes. Gives the choice if it has changed.
    pub(super) fn choose(
        &mut self,
        now: Instant,
        rtt: impl Fn(PathId) -> Option<Duration>,
        wide: impl Fn(PathId) -> bool,
    ) -> Option<PathId> {
        let renew = self.life.renew_after();
        let is_old = |p: &PathState| renew.is_some_and(|age| now >= p.born + age);
        let rank = |(id, p): &(PathId, PathState)| {
            // A direct path keeps its place unless another is a quarter faster (hysteresis).
            let rtt = rtt(*id).unwrap_or(Duration::from_secs(1));
            let rtt = if self.active == Some(*id) { rtt * 3 / 4 } else { rtt };
            // One that is in use is asked by what it carries.
            let stale = self.active != Some(*id) && p.is_stale(now);
            (p.class(wide(*id), is_old(p), stale), rtt)
        };
        let best = self.paths().min_by_key(rank).map(|(id, _)| id)?;
        if self.active == Some(best) {
            return None;
        }
        self.active = Some(best);
        Some(best)
    }

    /// Forgets a direct path that has been suspect for too long, and names it.
    pub(super) fn expire(&mut self, now: Instant) -> Option<PathId> {
        let dead = |(_, p): &(PathId, PathState)| {
            matches!(p.route, Route::Direct(_))
                && p.suspect_since.is_some_and(|since| now >= since + PATH_REMOVE)
        };
        let (path, state) = self.paths().find(dead)?;
        if let Some(since) = state.suspect_since {
            self.life.died(since.since(state.born));
        }
        self.remove(path);
        Some(path)
    }

    /// What is believed of paths' lives, held against the one in use, by which something has
    /// come lately.
    pub(super) fn review_life(&mut self, now: Instant) {
        let active = self.active.and_then(|path| self.paths[usize::from(path.0)]);
        let lives = |p: &PathState| p.suspect_since.is_none() && !p.is_stale(now);
        let direct = |p: &PathState| matches!(p.route, Route::Direct(_));
        if let Some(path) = active.filter(|p| direct(p) && lives(p)) {
            self.life.outlasted(now.since(path.born));
        }
    }

    /// When the path in use has to have a successor.
    pub(super) fn renew_at(&self) -> Option<Instant> {
        let active = self.paths[usize::from(self.active?.0)]?;
        let direct = matches!(active.route, Route::Direct(_));
        self.life.renew_after().filter(|_| direct).map(|age| active.born + age)
    }

    /// A direct path that carries nothing, in either direction, and whose time is over. The peer
    /// may have learned another age than we have, and use it still.
    pub(super) fn outlived(&self, now: Instant) -> Option<PathId> {
        let age = self.life.renew_after()? * 5 / 4;
        let over = |(id, p): &(PathId, PathState)| {
            self.active != Some(*id) && now >= p.born + age && p.is_stale(now)
        };
        self.paths().find(over).map(|(id, _)| id)
    }

    /// The next moment at which there is something to do, probes not counted.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let goodbye = self.goodbye.is_some().then_some(Instant::START);
        let dead = self.paths().filter(|(_, p)| matches!(p.route, Route::Direct(_)));
        let dead = dead.filter_map(|(_, p)| p.suspect_since.map(|since| since + PATH_REMOVE));
        let upkeep = &self.upkeep;
        let upgrade = upkeep.upgrade.map(|u| u.0);
        let own = [upkeep.keep_at, upkeep.relay_keep_at, upgrade, upkeep.renew_at];
        // Our record waits for a path.
        let record = self.active.and(self.record_due);
        let own = own.into_iter().flatten().chain(record).chain(self.init_due);
        dead.chain(goodbye).chain(own).min()
    }
}

/// Whether two routes are one path: the local address may be unknown on one of them.
pub(super) fn same(a: &Route, b: &Route) -> bool {
    match (a, b) {
        (Route::Relay(a), Route::Relay(b)) => a == b,
        (Route::Direct(a), Route::Direct(b)) => a.socket == b.socket && a.remote == b.remote,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Path;

    fn direct(port: u16) -> Route {
        Route::Direct(Path::to(core::net::SocketAddr::from(([203, 0, 113, 1], port))))
    }

    fn ms(n: u64) -> Instant {
        Instant::from_nanos(1 + n * 1_000_000)
    }

    #[test]
    fn a_direct_path_is_preferred_until_it_is_suspect() {
        let mut link = Link::default();
        let (relay, _) = link.prove(ms(0), Route::Relay(ChannelId(7)));
        assert_eq!(link.choose(ms(0), |_| None, |_| false), Some(relay));
        let (straight, _) = link.prove(ms(0), direct(1));
        assert_eq!(link.choose(ms(0), |_| None, |_| false), None, "it may swallow long datagrams");
        assert_eq!(link.choose(ms(0), |_| None, |_| true), Some(straight));
        assert_eq!(link.choose(ms(0), |_| None, |_| true), None);
        link.set_suspect(straight, Some(ms(0)));
        assert_eq!(link.choose(ms(0), |_| None, |_| true), Some(relay));
        link.set_suspect(relay, Some(ms(0)));
        link.set_suspect(straight, None);
        assert_eq!(link.choose(ms(0), |_| None, |_| false), Some(straight), "it answers, at least");
        link.set_suspect(straight, Some(ms(0)));
        assert_eq!(link.expire(ms(14_999)), None);
        assert_eq!(link.next_at(), Some(ms(15_000)));
        assert_eq!(link.expire(ms(15_000)), Some(straight));
        assert_eq!(link.last_good, Some(direct(1)));
    }

    #[test]
    fn two_lives_alike_are_believed_until_a_path_outlives_them() {
        let mut life = Life::default();
        let s = Duration::from_secs;
        for (age, learned) in [(60, None), (100, None), (90, Some(90)), (10, None), (12, None)] {
            life.died(s(age));
            assert_eq!(life.renew_after(), learned.map(|age| s(age) * 4 / 5), "{age} s");
        }
        life.died(s(60));
        life.died(s(61));
        life.outlasted(s(119));
        assert_eq!(life.renew_after(), Some(s(48)));
        life.outlasted(s(120));
        assert_eq!(life.renew_after(), None);
    }

    /// The relay is no path that a NAT ends, and what is only asked has not died.
    #[test]
    fn only_direct_paths_that_were_silent_have_lived() {
        let mut link = Link::default();
        let (relay, _) = link.prove(ms(0), Route::Relay(ChannelId(7)));
        let (straight, _) = link.prove(ms(0), direct(1));
        for round in 1..=2 {
            let at = ms(round * 60_000);
            link.set_suspect(relay, Some(at));
            link.prove(at, Route::Relay(ChannelId(7)));
            link.ask(at, straight);
            link.prove(at, direct(1));
        }
        assert_eq!(link.life.renew_after(), None);
        for round in 3..=4 {
            let at = ms(round * 60_000);
            link.set_suspect(straight, Some(at));
            link.prove(at, direct(1));
        }
        assert_eq!(link.life.renew_after(), None, "180 s and 60 s are not alike");
        link.set_suspect(straight, Some(ms(300_000)));
        link.prove(ms(300_000), direct(1));
        assert_eq!(link.life.renew_after(), Some(Duration::from_secs(48)));
    }

    #[test]
    fn only_a_worse_path_gives_way() {
        let mut link = Link::default();
        let (relay, _) = link.prove(ms(0), Route::Relay(ChannelId(7)));
        assert_eq!(link.gives_way_to(relay), None);
        let (straight, _) = link.prove(ms(0), direct(1));
        assert_eq!(link.gives_way_to(straight), Some(relay));
        assert_eq!(link.gives_way_to(relay), None);
        link.set_suspect(straight, Some(ms(0)));
        assert_eq!(link.gives_way_to(relay), Some(straight));
        link.remove(relay);
        let (other, _) = link.prove(ms(0), direct(2));
        assert_eq!(link.gives_way_to(other), Some(straight));
        link.set_suspect(straight, None);
        assert_eq!(link.gives_way_to(other), None, "equals stay");
    }

    #[test]
    fn a_full_table_drops_what_carries_nothing() {
        let mut link = Link::default();
        for port in 1..=PATHS as u16 {
            link.prove(ms(0), direct(port));
        }
        let active =
            link.choose(ms(0), |id| Some(Duration::from_millis(10 - u64::from(id.0))), |_| true);
        let active = active.unwrap();
        link.set_suspect(PathId(1), Some(ms(5)));
        let (new, gone) = link.prove(ms(0), direct(99));
        assert_eq!((new, gone), (PathId(1), Some(PathId(1))));
        assert_ne!(active, PathId(1));
        link.heard(ms(9), PathId(0));
        link.heard(ms(8), PathId(1));
        let gone = |link: &mut Link, port| link.prove(ms(10), direct(port)).1;
        assert_eq!(gone(&mut link, 100), Some(PathId(2)), "silent for longest");
        assert_eq!(gone(&mut link, 101), Some(PathId(1)), "the new one was just heard of");
    }

    #[test]
    fn our_record_is_due_once_there_is_a_path() {
        let mut link = Link { record_due: Some(ms(1)), ..Link::default() };
        assert_eq!(link.next_at(), None);
        link.prove(ms(2), direct(1));
        link.choose(ms(2), |_| None, |_| true);
        assert_eq!(link.next_at(), Some(ms(1)));
    }

    #[test]
    fn the_relay_gives_its_place_last() {
        let mut link = Link::default();
        let (relay, _) = link.prove(ms(0), Route::Relay(ChannelId(7)));
        for port in 1..=9 {
            let (path, gone) = link.prove(ms(u64::from(port)), direct(port));
            assert_ne!(gone, Some(relay));
            assert_ne!(path, relay);
        }
    }
}
