//! One episode of punching towards one peer (`wire.md` 5.8, `nat.md` 2): rounds of ever harder
//! techniques, until a direct path is proven or none is left.
//!
//! A pure machine: frames and time in, frames to send out. It encrypts nothing and opens nothing;
//! the node seals its frames in the session, which exists over the relay (or an older path)
//! already, and serves its sockets and STUN questions. Both ends run it, and both may begin.
//!
//! ```text
//!           start, or F9 of a higher attempt
//!                         │
//!          ┌──────────► gather ── sockets and STUN of this round's technique
//!          │              │
//!          │            offer ─── F9, again until answered            ──► 3 s: over
//!          │              │ F9 of this attempt is here
//!          │            prime ─── one F2 a candidate that dies before the peer's NAT
//!          │              │
//!          │            ready ─── F6, again until answered
//!          │              │ F6 of this attempt is here, or 1.2 s
//!          │            punch ─── F2 to every candidate each 100 ms ± 20 % for 1 s,
//!          │              │       or a spray
//!          └── not direct ┴── the owner proved a direct path ──► over
//!           (next round)
//! ```
//!
//! A challenge's eight bytes are a keyed hash of where it goes, so that thousands may be under
//! way and none is remembered; its response proves the path that it came from.
//!
//! Bounds: 8 candidates × 12 F2 a round, one episode per 5 s ([`EPISODE_EVERY`]); a spray's are
//! in [`super::spray`]. Sockets of an episode: at most [`SOCKETS`].

mod gather;
mod rounds;

#[cfg(test)]
mod tests;

use super::nat::Nat;
use super::spray::{self, Ports};
use super::strategy::{ROUNDS, Technique, technique};
use crate::machine::{Path, SocketId};
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use crate::wire::control::{Candidates, EndpointKind};
use crate::wire::punch::{Offer, Primed};
use core::net::{IpAddr, SocketAddr};
use core::num::NonZeroU8;
use heapless::Vec;
use siphasher::sip::SipHasher24;

/// Least distance of two episodes towards one peer (`wire.md` 5.8).
pub const EPISODE_EVERY: Duration = Duration::from_secs(5);
/// Most sockets of an episode: those of a spray.
pub const SOCKETS: usize = spray::OPENED;
/// Distance of punches, ± 20 %.
const PUNCH_EVERY: Duration = Duration::from_millis(100);
/// Punches for each candidate: 1 s of them.
const PUNCHES: u8 = 10;
/// When F9 and F6 are sent again.
const REPEAT: [Duration; 3] =
    [Duration::from_millis(150), Duration::from_millis(300), Duration::from_millis(900)];
/// How often a question that comes again is answered again.
const AGAIN: u8 = 2;
/// How long F9 may go unanswered.
const OFFER_PATIENCE: Duration = Duration::from_secs(3);
/// How long F6 is waited for; then we punch without.
const READY_PATIENCE: Duration = Duration::from_millis(1200);
/// The same while the other end opens the ports of a spray.
const SPRAY_PATIENCE: Duration = Duration::from_secs(4);
/// How long a last punch's answer is waited for before the next round.
const LAST_ANSWER: Duration = Duration::from_millis(400);
/// Hop limits of first punches, by episode: they outlive one's own NATs and die before the
/// peer's; two fits one NAT, carrier-grade NAT needs more (`nat.md` 2).
const HOP_LIMITS: [NonZeroU8; 3] =
    [NonZeroU8::new(2).unwrap(), NonZeroU8::new(4).unwrap(), NonZeroU8::new(6).unwrap()];
/// Most addresses that are punched in a round: the peer's candidates, and where the beacon sees
/// it if it did not say so.
const TARGETS: usize = crate::wire::control::CANDIDATES_MAX + 1;

/// What an episode may do and knows at its start, and again when a new one begins.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Our NAT, as it was found.
    pub nat: Nat,
    /// Our candidates on the main socket, in order of promise.
    pub candidates: Candidates,
    /// Where the beacon sees the peer: sprays go nowhere else.
    pub observed: Option<SocketAddr>,
    /// Whether a spray is within our manners now.
    pub may_spray: bool,
}

/// What the machine wants done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send F9 with [`Punch::offer`] in the session.
    Offer,
    /// Send F6 in the session.
    Primed(u16, Primed),
    /// Send F2 with these bytes on this path.
    Challenge {
        /// Where it goes.
        path: Path,
        /// The eight bytes.
        data: [u8; 8],
        /// For a first punch.
        hop_limit: Option<NonZeroU8>,
    },
    /// Open an auxiliary socket; [`Punch::handle_socket`] takes its id at once.
    Open,
    /// Ask the beacon by STUN how it sees this socket; [`Punch::handle_observed`].
    Ask(SocketId),
}

/// How a round ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A direct path was proven while it ran.
    Direct,
    /// Nothing came through.
    NothingCameThrough,
    /// The peer did not answer our F9.
    NotAnswered,
    /// The peer takes no part in it now.
    Declined,
    /// The peer, or a new episode, went on to something else.
    Superseded,
}

/// One round that is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tried {
    /// What was tried.
    pub technique: Technique,
    /// How it ended.
    pub outcome: Outcome,
    /// When it ended.
    pub at: Instant,
    /// F2 frames that were sent for it.
    pub probes: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Gather,
    Offer,
    Prime { next: u16, at: Instant },
    Ready { since: Instant },
    Punch { next: u16, rounds: u8, at: Instant },
    Over,
}

/// A frame that is sent, and sent again on a schedule.
#[derive(Clone, Copy, Debug, Default)]
struct Repeat {
    since: Option<Instant>,
    sent: u8,
    again: u8,
    is_asked: bool,
}

impl Repeat {
    fn start(&mut self, now: Instant) {
        *self = Repeat { since: Some(now), ..Repeat::default() };
    }

    /// The other end asked again: so the last one was lost. Answered twice, so that two ends that
    /// both ask do not keep each other going.
    fn again(&mut self) {
        if self.since.is_some() && self.again < AGAIN {
            self.again += 1;
            self.is_asked = true;
        }
    }

    fn stop(&mut self) {
        *self = Repeat::default();
    }

    fn at(&self) -> Option<Instant> {
        let since = self.since?;
        match self.sent {
            _ if self.is_asked => Some(since),
            0 => Some(since),
            n => REPEAT.get(usize::from(n) - 1).map(|&after| since + after),
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.at().is_some_and(|at| at <= now);
        if due && !core::mem::take(&mut self.is_asked) {
            self.sent += 1;
        }
        due
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Punch {
    rng: Rng,
    key: [u8; 16],
    setting: Setting,
    offer: Offer,
    theirs: Option<Offer>,
    technique: Technique,
    stage: Stage,
    since: Instant,
    offering: Repeat,
    priming: Repeat,
    /// F6 of this attempt has come.
    is_peer_ready: bool,
    /// The socket that this round punches from.
    source: SocketId,
    /// Opened in this round; the first ones may only have asked.
    sockets: Vec<SocketId, SOCKETS>,
    /// What STUN said of them, in order.
    seen: Vec<SocketAddr, 2>,
    /// A question is under way.
    is_asking: bool,
    targets: Vec<SocketAddr, TARGETS>,
    ports: Option<Ports>,
    probes: u16,
    has_sprayed: bool,
    tried: Vec<Tried, { ROUNDS as usize }>,
}

impl Punch {
    /// Begins an episode after `last`, the highest attempt so far with this peer. Returns the
    /// machine with an F9 to send.
    pub fn start(now: Instant, rng: Rng, setting: Setting, last: u16) -> Self {
        let attempt = (last / ROUNDS).wrapping_add(1).wrapping_mul(ROUNDS);
        let mut punch = Punch::new(now, rng, setting);
        punch.begin(now, attempt, Technique::Plain);
        punch
    }

    /// Begins an episode that is to open another path beside one that works, with what follows
    /// the plain punch: that would find the same path again. `None` where nothing but a spray is
    /// left, which a path that works does not justify.
    pub fn renew(now: Instant, rng: Rng, setting: Setting, last: u16, theirs: Nat) -> Option<Self> {
        let technique = technique(setting.nat, theirs, 1).filter(|t| *t != Technique::Spray)?;
        let attempt = (last / ROUNDS).wrapping_add(1).wrapping_mul(ROUNDS).wrapping_add(1);
        let mut punch = Punch::new(now, rng, setting);
        punch.begin(now, attempt, technique);
        Some(punch)
    }

    /// Joins the attempt of an F9 that came.
    pub fn join(now: Instant, rng: Rng, setting: Setting, theirs: Offer) -> Self {
        let mut punch = Punch::new(now, rng, setting);
        punch.adopt(now, theirs);
        punch
    }

    fn new(now: Instant, mut rng: Rng, setting: Setting) -> Self {
        Punch {
            key: rng.bytes(),
            rng,
            offer: Offer { attempt: 0, nat: setting.nat, candidates: Candidates::new() },
            setting,
            theirs: None,
            technique: Technique::Plain,
            stage: Stage::Over,
            since: now,
            offering: Repeat::default(),
            priming: Repeat::default(),
            is_peer_ready: false,
            source: SocketId(0),
            sockets: Vec::new(),
            seen: Vec::new(),
            is_asking: false,
            targets: Vec::new(),
            ports: None,
            probes: 0,
            has_sprayed: false,
            tried: Vec::new(),
        }
    }

    /// The attempt of the round that runs, or ran last.
    pub fn attempt(&self) -> u16 {
        self.offer.attempt
    }

    /// What F9 says.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// What this round does.
    pub fn technique(&self) -> Technique {
        self.technique
    }

    /// Whether nothing is under way any more.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether a spray was begun: then the next one has to wait ([`spray::BACK_OFF`]).
    pub fn has_sprayed(&self) -> bool {
        self.has_sprayed
    }

    /// The rounds that are over.
    pub fn tried(&self) -> &[Tried] {
        &self.tried
    }

    /// Whether the episode still needs this socket.
    pub fn uses(&self, socket: SocketId) -> bool {
        !self.is_over() && self.sockets.contains(&socket)
    }

    /// Whether a frame from there is what this attempt waits for: the peer said so, or the
    /// beacon sees the peer at that address (a NAT may give it another port towards us).
    pub fn expects(&self, from: IpAddr) -> bool {
        let said = |offer: &Offer| offer.candidates.iter().any(|c| c.address.ip() == from);
        !self.is_over()
            && (self.theirs.as_ref().is_some_and(said)
                || self.setting.observed.is_some_and(|o| o.ip() == from))
    }

    /// F9 came. `setting` is what is known now, should a new attempt begin with it.
    pub fn handle_offer(&mut self, now: Instant, theirs: Offer, setting: Setting) {
        let ours = self.offer.attempt;
        if theirs.attempt == ours && !self.is_over() {
            let again = self.theirs.replace(theirs).is_some();
            match self.stage {
                Stage::Offer => self.prime(now),
                Stage::Ready { .. } | Stage::Prime { .. } if again => self.offering.again(),
                _ => {}
            }
        } else if is_higher(theirs.attempt, ours) {
            self.conclude(now, Outcome::Superseded);
            self.setting = setting;
            self.adopt(now, theirs);
        }
    }

    /// F6 came.
    pub fn handle_primed(&mut self, now: Instant, attempt: u16, code: Primed) {
        if attempt != self.offer.attempt || self.is_over() {
            return;
        }
        if code == Primed::Declined {
            self.conclude(now, Outcome::Declined);
            self.next_round(now);
            return;
        }
        let again = core::mem::replace(&mut self.is_peer_ready, true);
        self.offering.stop();
        match self.stage {
            Stage::Ready { .. } => self.punch(now),
            Stage::Punch { .. } if again => self.priming.again(),
            _ => {}
        }
    }

    /// F3 came on `path`: whether it answers a challenge of this episode.
    pub fn is_response(&self, path: Path, data: [u8; 8]) -> bool {
        self.data(path) == data
    }

    /// A direct path is proven.
    pub fn handle_direct(&mut self, now: Instant) {
        self.conclude(now, Outcome::Direct);
        self.stage = Stage::Over;
    }

    /// The socket that [`Output::Open`] asked for; `None` if there is none to be had.
    pub fn handle_socket(&mut self, now: Instant, socket: Option<SocketId>) {
        self.opened(now, socket);
    }

    /// A socket that could not be opened after all: the round does with those that are.
    pub fn handle_socket_failed(&mut self, now: Instant, socket: SocketId) {
        if self.uses(socket) {
            self.failed(now, socket);
        }
    }

    /// How STUN sees a socket that was asked about; `None` if nothing answered.
    pub fn handle_observed(
        &mut self,
        now: Instant,
        socket: SocketId,
        observed: Option<SocketAddr>,
    ) {
        if self.stage == Stage::Gather && self.is_asking && self.sockets.last() == Some(&socket) {
            self.observed(now, observed);
        }
    }

    /// What is to be done next; call until `None`. `ready` tells whether a packet can leave by a
    /// socket: what has to leave by one that is not yet open waits.
    pub fn poll_output(
        &mut self,
        now: Instant,
        ready: impl Fn(SocketId) -> bool,
    ) -> Option<Output> {
        if self.offering.is_due(now) {
            return Some(Output::Offer);
        }
        if self.priming.is_due(now) {
            return Some(Output::Primed(self.offer.attempt, Primed::Ready));
        }
        if self.sends_by().is_some_and(|socket| !ready(socket)) {
            return None;
        }
        self.round_output(now)
    }

    /// When there is something to do; not counting what waits for a socket to be opened.
    pub fn next_at(&self, ready: impl Fn(SocketId) -> bool) -> Option<Instant> {
        let stage = match self.stage {
            Stage::Over => return None,
            Stage::Gather => self.gather_at(),
            Stage::Offer => Some(self.since + OFFER_PATIENCE),
            Stage::Prime { at, .. } | Stage::Punch { at, .. } => {
                Some(at).filter(|_| self.sends_by().is_none_or(ready))
            }
            Stage::Ready { since } => Some(since + self.patience()),
        };
        let repeats = [self.offering.at(), self.priming.at()];
        stage.into_iter().chain(repeats.into_iter().flatten()).min()
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self.stage {
            Stage::Gather => self.gather_timeout(now),
            Stage::Offer if now >= self.since + OFFER_PATIENCE => {
                self.conclude(now, Outcome::NotAnswered);
                // Whoever does not answer does not do so in the next round either.
                self.stage = Stage::Over;
            }
            Stage::Ready { since } if now >= since + self.patience() => self.punch(now),
            _ => {}
        }
    }

    /// The eight bytes of a challenge on this path.
    fn data(&self, path: Path) -> [u8; 8] {
        let mut text = [0; 20];
        text[..2].copy_from_slice(&path.socket.0.to_be_bytes());
        let ip = match path.remote.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        text[2..18].copy_from_slice(&ip.octets());
        text[18..].copy_from_slice(&path.remote.port().to_be_bytes());
        SipHasher24::new_with_key(&self.key).hash(&text).to_le_bytes()
    }

    /// The socket that the next challenge leaves by.
    fn sends_by(&self) -> Option<SocketId> {
        match self.stage {
            Stage::Prime { next, .. } if self.is_opener() => {
                let place = usize::from(next / 2);
                self.sockets.get(place).copied().filter(|_| !next.is_multiple_of(2))
            }
            Stage::Prime { .. } | Stage::Punch { .. } => Some(self.source),
            _ => None,
        }
    }

    fn hop_limit(&self) -> NonZeroU8 {
        // The first episode is number 1.
        let episode = (self.offer.attempt / ROUNDS).wrapping_sub(1);
        HOP_LIMITS[usize::from(episode) % HOP_LIMITS.len()]
    }

    fn round(&self) -> u16 {
        self.offer.attempt % ROUNDS
    }

    /// Where the peer's main socket is seen, to open ports towards it or look for it.
    fn peer_endpoint(&self) -> Option<SocketAddr> {
        let candidates = self.theirs.iter().flat_map(|offer| &offer.candidates);
        let mut observed = candidates.filter(|c| c.kind == EndpointKind::Observed);
        self.setting.observed.or_else(|| observed.next().map(|c| c.address))
    }
}

/// Whether attempt `a` is later than `b`; numbers wrap (RFC 1982).
pub fn is_higher(a: u16, b: u16) -> bool {
    a != b && a.wrapping_sub(b) < 0x8000
}
