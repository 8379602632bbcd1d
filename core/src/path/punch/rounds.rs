//! The rounds of an episode: begin, prime, punch, and on to the next.

use super::{
    LAST_ANSWER, Offer, Outcome, Output, PUNCH_EVERY, PUNCHES, Path, Ports, Primed, Punch,
    READY_PATIENCE, ROUNDS, Repeat, SPRAY_PATIENCE, SocketId, Stage, Technique, Tried, spray,
    technique,
};
use crate::path::nat::Allocation;
use crate::time::{Duration, Instant};
use crate::wire::control::EndpointKind;
use core::net::SocketAddr;

impl Punch {
    /// Begins an attempt of our own.
    pub(super) fn begin(&mut self, now: Instant, attempt: u16, technique: Technique) {
        self.offer.attempt = attempt;
        self.offer.nat = self.setting.nat;
        self.technique = technique;
        self.since = now;
        (self.offering, self.priming) = (Repeat::default(), Repeat::default());
        self.is_peer_ready = false;
        self.source = SocketId(0);
        self.targets.clear();
        self.ports = None;
        self.probes = 0;
        self.gather(now);
    }

    /// Takes part in the attempt of an F9 that came.
    pub(super) fn adopt(&mut self, now: Instant, theirs: Offer) {
        let attempt = theirs.attempt;
        let technique = technique(self.setting.nat, theirs.nat, attempt % ROUNDS);
        self.theirs = Some(theirs);
        // A round that our own facts do not foresee: the peer's differ. Punch plainly.
        self.begin(now, attempt, technique.unwrap_or(Technique::Plain));
    }

    /// All that the offer says is known.
    pub(super) fn send_offer(&mut self, now: Instant) {
        self.offering.start(now);
        self.since = now;
        self.stage = Stage::Offer;
        if self.is_this_attempt() {
            self.prime(now);
        }
    }

    fn is_this_attempt(&self) -> bool {
        self.theirs.as_ref().is_some_and(|theirs| theirs.attempt == self.offer.attempt)
    }

    /// Whether we are the end whose ports are opened at random, and not the one that looks.
    pub(super) fn is_opener(&self) -> bool {
        self.technique == Technique::Spray && !self.setting.nat.is_stable()
    }

    /// Whether the peer's NAT gives us another endpoint than everybody else.
    fn is_peer_changing(&self) -> bool {
        self.theirs.as_ref().is_some_and(|theirs| !theirs.nat.is_stable())
    }

    /// Both offers are here.
    pub(super) fn prime(&mut self, now: Instant) {
        self.stage = Stage::Prime { next: 0, at: now };
        self.targets.clear();
        if self.technique == Technique::Spray {
            return;
        }
        let Some(theirs) = &self.theirs else { return };
        let predicting = self.technique == Technique::Predict;
        // An end that has announced predictions is nowhere else; and what a NAT that counts
        // gives us next is what we announced only if nothing is sent elsewhere before.
        let only = match predicting {
            true if self.is_peer_changing() => Some(EndpointKind::Predicted),
            true => Some(EndpointKind::Observed),
            false => None,
        };
        let mut targets = core::mem::take(&mut self.targets);
        let mut add = |address: SocketAddr| {
            if address.port() != 0 && !targets.contains(&address) {
                let _ = targets.push(address);
            }
        };
        let wanted = |kind| only.is_none_or(|only| only == kind);
        theirs.candidates.iter().filter(|c| wanted(c.kind)).for_each(|c| add(c.address));
        if self.technique == Technique::Plain {
            self.setting.observed.into_iter().for_each(&mut add);
        }
        self.targets = targets;
    }

    pub(super) fn patience(&self) -> Duration {
        let opening = self.technique == Technique::Spray && !self.is_opener();
        if opening { SPRAY_PATIENCE } else { READY_PATIENCE }
    }

    /// Both ends are primed, or we do not wait any longer.
    pub(super) fn punch(&mut self, now: Instant) {
        self.stage = Stage::Punch { next: 0, rounds: 0, at: now };
        if self.technique == Technique::Spray && !self.is_opener() {
            let random = (self.rng.u32(), self.rng.u32());
            let block = self.theirs.as_ref().map(|theirs| theirs.nat.allocation);
            self.ports = Some(match (block, self.peer_endpoint()) {
                (Some(Allocation::Block), Some(seen)) => Ports::with_block(random, seen.port()),
                _ => Ports::new(random),
            });
        }
    }

    pub(super) fn round_output(&mut self, now: Instant) -> Option<Output> {
        loop {
            match self.stage {
                Stage::Gather => return self.gather_output(),
                Stage::Prime { next, at } if at <= now => {
                    let output = match self.technique {
                        Technique::Spray if self.is_opener() => self.open_output(now, next),
                        Technique::Spray => None,
                        _ => self.prime_output(now, next),
                    };
                    if output.is_some() {
                        return output;
                    }
                    self.primed(now);
                    if self.is_over() {
                        return Some(Output::Primed(self.offer.attempt, Primed::Declined));
                    }
                    if self.priming.is_due(now) {
                        return Some(Output::Primed(self.offer.attempt, Primed::Ready));
                    }
                }
                Stage::Punch { next, rounds, at } if at <= now => {
                    let output = match self.technique {
                        Technique::Spray => self.spray_output(now, next),
                        _ => self.punch_output(now, next, rounds),
                    };
                    if output.is_some() {
                        return output;
                    }
                }
                _ => return None,
            }
        }
    }

    /// One first punch for each candidate, all at once.
    fn prime_output(&mut self, now: Instant, next: u16) -> Option<Output> {
        let &target = self.targets.get(usize::from(next))?;
        self.stage = Stage::Prime { next: next + 1, at: now };
        Some(self.challenge(self.source, target, true))
    }

    /// A socket, its first punch, the next socket.
    fn open_output(&mut self, now: Instant, next: u16) -> Option<Output> {
        if !self.setting.may_spray {
            return None;
        }
        let target = self.peer_endpoint()?;
        let i = usize::from(next / 2);
        if i >= spray::OPENED {
            return None;
        }
        self.has_sprayed = true;
        if next.is_multiple_of(2) {
            self.stage = Stage::Prime { next: next + 1, at: now };
            return Some(Output::Open);
        }
        // Fewer sockets than wanted: what is open has its chance.
        let &socket = self.sockets.get(i)?;
        self.stage = Stage::Prime { next: next + 1, at: now + spray::OPEN_EVERY };
        Some(self.challenge(socket, target, true))
    }

    /// All first punches are out.
    fn primed(&mut self, now: Instant) {
        if self.technique == Technique::Spray && !self.setting.may_spray {
            self.conclude(now, Outcome::Declined);
            self.stage = Stage::Over;
            return;
        }
        self.priming.start(now);
        self.stage = Stage::Ready { since: now };
        if self.is_peer_ready {
            self.punch(now);
        }
    }

    fn punch_output(&mut self, now: Instant, next: u16, rounds: u8) -> Option<Output> {
        if let Some(&target) = self.targets.get(usize::from(next)) {
            self.stage = Stage::Punch { next: next + 1, rounds, at: now };
            return Some(self.challenge(self.source, target, false));
        }
        if rounds >= PUNCHES {
            self.conclude(now, Outcome::NothingCameThrough);
            self.next_round(now);
            return None;
        }
        let wait = if rounds + 1 < PUNCHES { self.jittered(PUNCH_EVERY) } else { LAST_ANSWER };
        let next = if rounds + 1 < PUNCHES { 0 } else { self.targets.len() as u16 };
        self.stage = Stage::Punch { next, rounds: rounds + 1, at: now + wait };
        None
    }

    fn jittered(&mut self, wait: Duration) -> Duration {
        let tenth = wait / 10;
        let random = self.rng.below(4 * tenth.as_nanos() as u64 + 1);
        wait - 2 * tenth + Duration::from_nanos(random)
    }

    /// One end probes; the one that opened its ports waits to be found.
    fn spray_output(&mut self, now: Instant, next: u16) -> Option<Output> {
        let ip = self.setting.observed.map(|seen| seen.ip());
        let (true, Some(ports), Some(ip)) = (next < spray::PROBES, &mut self.ports, ip) else {
            if next == 0 && self.is_opener() {
                self.stage = Stage::Punch { next: 1, rounds: 0, at: now + spray::LISTEN };
                return None;
            }
            if self.ports.take().is_some() {
                // The last probe's answer is still under way.
                self.stage = Stage::Punch { next, rounds: 0, at: now + LAST_ANSWER };
                return None;
            }
            self.conclude(now, Outcome::NothingCameThrough);
            self.next_round(now);
            return None;
        };
        let target = SocketAddr::new(ip, ports.next_port());
        self.has_sprayed = true;
        self.stage = Stage::Punch { next: next + 1, rounds: 0, at: now + spray::PROBE_EVERY };
        Some(self.challenge(self.source, target, false))
    }

    fn challenge(&mut self, socket: SocketId, remote: SocketAddr, first: bool) -> Output {
        let path = Path { socket, local: None, remote };
        self.probes = self.probes.saturating_add(1);
        let hop_limit = first.then_some(self.hop_limit());
        Output::Challenge { path, data: self.data(path), hop_limit }
    }

    /// The round is over.
    pub(super) fn conclude(&mut self, now: Instant, outcome: Outcome) {
        if self.is_over() {
            return;
        }
        let technique = self.technique;
        let tried = Tried { technique, outcome, at: now, probes: self.probes };
        if self.tried.is_full() {
            self.tried.remove(0);
        }
        let _ = self.tried.push(tried);
        (self.offering, self.priming) = (Repeat::default(), Repeat::default());
    }

    /// On to the next technique, or the end.
    pub(super) fn next_round(&mut self, now: Instant) {
        let theirs = self.theirs.as_ref().map(|theirs| theirs.nat).unwrap_or_default();
        let mut round = self.round();
        loop {
            round += 1;
            match technique(self.setting.nat, theirs, round).filter(|_| round < ROUNDS) {
                None => {
                    self.stage = Stage::Over;
                    return;
                }
                // Without leave to spray we begin none; the peer may, and hears that we do not.
                Some(Technique::Spray) if !self.setting.may_spray => {}
                Some(technique) => {
                    let attempt = self.offer.attempt - self.round() + round;
                    return self.begin(now, attempt, technique);
                }
            }
        }
    }
}
