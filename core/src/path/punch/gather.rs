//! What a round has to find out before it can make its offer.

use super::{Outcome, Output, Punch, SOCKETS, SocketId, Stage, Technique};
use crate::path::strategy::Technique as T;
use crate::time::{Duration, Instant};
use crate::wire::control::{CANDIDATES_MAX, Endpoint, EndpointKind};
use core::net::SocketAddr;

/// A question that goes unanswered is ended by the STUN client after 2 s, two of them after 4 s;
/// one whose socket never opens is not asked at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// Ports that are predicted: as many as an offer has room for beside the others.
const PREDICTED: i32 = 5;
/// Two questions in a row whose ports are further apart met other users' flows in between; what
/// the step is they do not tell.
const STEP_MAX: i32 = 16;

impl Punch {
    /// Sockets that this round asks STUN about, and whether it punches from a further one.
    fn needs(&self) -> (usize, bool) {
        match self.technique {
            T::Fresh => (1, false),
            T::Predict if !self.setting.nat.is_stable() => (2, true),
            _ => (0, false),
        }
    }

    /// Begins to gather. Sockets of the round before are given up.
    pub(super) fn gather(&mut self, now: Instant) {
        self.sockets.clear();
        self.seen.clear();
        self.is_asking = false;
        self.stage = Stage::Gather;
        if self.needs() == (0, false) {
            self.gathered(now);
        }
    }

    pub(super) fn gather_at(&self) -> Option<Instant> {
        Some(if self.is_asking { self.since + PATIENCE } else { self.since })
    }

    pub(super) fn gather_timeout(&mut self, now: Instant) {
        if self.is_asking && now >= self.since + PATIENCE {
            self.is_asking = false;
            self.gathered(now);
        }
    }

    pub(super) fn gather_output(&mut self) -> Option<Output> {
        if self.is_asking {
            return None;
        }
        let (asked, further) = self.needs();
        if self.sockets.len() < asked + usize::from(further)
            && self.seen.len() == self.sockets.len()
        {
            return Some(Output::Open);
        }
        let &socket = self.sockets.last()?;
        self.is_asking = true;
        Some(Output::Ask(socket))
    }

    pub(super) fn opened(&mut self, now: Instant, socket: Option<SocketId>) {
        match (self.stage, socket) {
            (Stage::Gather, Some(socket)) => {
                let _ = self.sockets.push(socket);
                if self.sockets.len() > self.needs().0 {
                    self.gathered(now);
                }
            }
            // No socket: the round goes on with what there is.
            (Stage::Gather, None) => self.gathered(now),
            (Stage::Prime { .. }, Some(socket)) => {
                let _ = self.sockets.push(socket);
            }
            _ => {}
        }
    }

    pub(super) fn failed(&mut self, now: Instant, socket: SocketId) {
        match self.stage {
            Stage::Gather => {
                self.is_asking = false;
                self.gathered(now);
            }
            Stage::Prime { .. } if self.is_opener() => {
                // No further ones; the first punch of this one was still to come.
                self.sockets.retain(|open| *open != socket);
                self.stage = Stage::Prime { next: 2 * SOCKETS as u16, at: now };
            }
            _ if self.source == socket => {
                self.conclude(now, Outcome::NothingCameThrough);
                self.next_round(now);
            }
            _ => self.sockets.retain(|open| *open != socket),
        }
    }

    pub(super) fn observed(&mut self, now: Instant, observed: Option<SocketAddr>) {
        self.is_asking = false;
        let Some(observed) = observed else { return self.gathered(now) };
        let _ = self.seen.push(observed);
        let (asked, further) = self.needs();
        if self.seen.len() == asked && !further {
            self.gathered(now);
        }
    }

    fn gathered(&mut self, now: Instant) {
        let mut candidates = self.setting.candidates.clone();
        match (self.technique, self.sockets.last()) {
            (Technique::Fresh, Some(&socket)) if !self.seen.is_empty() => {
                self.source = socket;
                // Interfaces and mappings are those of the main socket.
                candidates.clear();
                let observed =
                    |&address: &SocketAddr| Endpoint { kind: EndpointKind::Observed, address };
                candidates.extend(self.seen.iter().map(observed));
            }
            (Technique::Predict, Some(&socket)) if self.seen.len() == 2 => {
                self.source = socket;
                candidates.clear();
                candidates.extend(self.predictions());
            }
            _ => {}
        }
        candidates.truncate(CANDIDATES_MAX);
        self.offer.candidates = candidates;
        self.send_offer(now);
    }

    /// The ports that the NAT should hand out next.
    fn predictions(&self) -> impl Iterator<Item = Endpoint> + use<> {
        let (first, last) = (self.seen[0], self.seen[1]);
        let apart = i32::from(last.port()) - i32::from(first.port());
        let step = if apart != 0 && apart.abs() <= STEP_MAX { apart } else { 1 };
        (1..=PREDICTED).filter_map(move |n| {
            let port = u16::try_from(i32::from(last.port()) + n * step).ok()?;
            let address = SocketAddr::new(last.ip(), port);
            (port != 0).then_some(Endpoint { kind: EndpointKind::Predicted, address })
        })
    }
}
