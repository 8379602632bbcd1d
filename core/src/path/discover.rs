//! NAT behaviour discovery (RFC 5780) with the beacon as the server: what the NATs in front of
//! this agent do, in three facts.
//!
//! | test | socket | to | answer from | tells |
//! |---|---|---|---|---|
//! | main | main | beacon | there | our endpoint; translated at all; port preserved |
//! | address | main | other IP | there | our endpoint towards it |
//! | both | main | other IP and port | there | all the same: EIM; these two: ADM; else APDM |
//! | fresh | fresh | beacon | there | that a fresh socket gets through |
//! | stranger | the fresh one | beacon | other IP and port | comes: EIF |
//! | port | the fresh one | beacon | other port | comes: ADF; neither comes: APDF |
//! | samples | eight fresh ones, one after another | beacon | there | sequential, block or random |
//! | second | the first of them | other IP; other IP and port | there | the mapping once more |
//!
//! Filtering is tested on a socket of its own: the main one has sent to the other addresses, so
//! its filters are open to them. Samples are taken only where the port is not preserved. Without
//! other addresses mapping and filtering stay unknown (`nat.md` 1).
//!
//! A machine of its own: questions and sockets are wishes ([`Discover::poll`]), answers come
//! back ([`Discover::handle_answer`]). Without loss a run costs at most 18 questions, five
//! a second. It is repeated once an hour, since behaviour changes under load (RFC 5780 4.5), when
//! the network or our endpoint has changed, and sooner if it told nothing.

mod run;

use super::nat::{Mapping, Nat};
use super::stun_client::{Ask, Mapped};
use crate::machine::SocketId;
use crate::rng::Rng;
use crate::time::{Duration, Instant};
use core::net::SocketAddr;
use run::{Need, Run};

/// From one complete run to the next, ± 10 %.
const INTERVAL: Duration = Duration::from_secs(3600);
/// After a run that told nothing, doubling up to [`INTERVAL`]; and the least distance of runs
/// that a new endpoint causes.
const RETRY: Duration = Duration::from_secs(60);
/// How long the beacon may be silent before we ask whether UDP passes at all.
const SILENCE: Duration = Duration::from_secs(1);

/// What is known of the beacon.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Server {
    /// Its address.
    pub address: Option<SocketAddr>,
    /// Its others: other port, other IP, both.
    pub alternates: Option<[SocketAddr; 3]>,
    /// Whether there is a session with it.
    pub is_up: bool,
    /// The endpoint that it sees of that session.
    pub observed: Option<SocketAddr>,
}

/// What was found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The three facts.
    pub nat: Nat,
    /// Whether our address is translated; unknown before an answer.
    pub is_translated: Option<bool>,
    /// No UDP packet is answered: UDP is blocked, or the beacon is down. The rest is what was
    /// known before.
    pub is_blocked: bool,
    /// The main socket's endpoint, as the beacon sees it.
    pub endpoint: Option<SocketAddr>,
}

/// A test, by its number.
pub type Test = u8;

/// What the owner is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Open a socket, and say [`Discover::set_socket`] at once.
    Open,
    /// Ask this, or say [`Discover::handle_answer`] without one.
    Ask(Ask<Test>),
    /// A run is over: close its sockets and forget its questions.
    Close,
}

/// Behaviour discovery of one agent.
#[derive(Debug)]
pub struct Discover {
    server: Server,
    found: Found,
    /// When the last complete run ended.
    measured_at: Option<Instant>,
    /// `found` has changed since it was taken.
    is_news: bool,
    run: Option<Run>,
    /// The sockets of a run that is over are to be closed.
    is_closing: bool,
    /// See [`Discover::end`].
    is_over: bool,
    /// When the next run begins.
    next: Instant,
    /// When the last one began.
    began: Option<Instant>,
    /// From a run that told nothing to the next.
    retry: Duration,
}

impl Default for Discover {
    fn default() -> Self {
        Discover {
            server: Server::default(),
            found: Found::default(),
            measured_at: None,
            is_news: false,
            run: None,
            is_closing: false,
            is_over: false,
            next: Instant::NEVER,
            began: None,
            retry: RETRY,
        }
    }
}

impl Discover {
    /// What was found.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// When the last complete run ended.
    pub fn measured_at(&self) -> Option<Instant> {
        self.measured_at
    }

    /// Whether it has changed since this was last asked.
    pub fn take_news(&mut self) -> bool {
        core::mem::take(&mut self.is_news)
    }

    /// What is known of the beacon may have changed.
    pub fn set_server(&mut self, now: Instant, server: Server) {
        let old = core::mem::replace(&mut self.server, server);
        if self.is_over {
            return;
        }
        let is_same = (old.address, old.alternates) == (server.address, server.alternates);
        if server.address.is_none() {
            self.stop();
            self.next = Instant::NEVER;
        } else if !server.is_up {
            if !is_same {
                self.stop();
            }
            if old.is_up || !is_same {
                self.next = self.next.min(now + SILENCE);
            }
        } else if is_same && (old.is_up || self.measured_at.is_some() && !self.found.is_blocked) {
            // If it was gone for a while, nothing says that we are elsewhere.
            self.look_at_endpoint();
        } else {
            self.stop();
            self.retry = RETRY;
            self.next = now;
        }
    }

    /// The agent ends: nothing is asked any more.
    pub fn end(&mut self) {
        self.is_over = true;
        self.stop();
        self.next = Instant::NEVER;
    }

    /// Our interfaces have changed: what was found was found elsewhere.
    pub fn network_changed(&mut self, now: Instant) {
        if self.is_over {
            return;
        }
        self.stop();
        self.set_found(Found::default());
        self.measured_at = None;
        self.retry = RETRY;
        if self.server.address.is_some() {
            self.next = if self.server.is_up { now } else { now + SILENCE };
        }
    }

    /// The main socket has another endpoint than when it was measured: a NAT has restarted, or
    /// there is another one.
    fn look_at_endpoint(&mut self) {
        let observed = self.server.observed.filter(|_| self.server.is_up && self.run.is_none());
        if let (Some(observed), Some(began)) = (observed, self.began)
            && self.found.endpoint != Some(observed)
        {
            self.next = self.next.min(began + RETRY);
        }
    }

    fn stop(&mut self) {
        self.is_closing |= self.run.take().is_some();
    }

    fn set_found(&mut self, found: Found) {
        self.is_news |= self.found != found;
        self.found = found;
    }

    /// When [`Discover::poll`] has something to do.
    pub fn next_at(&self) -> Option<Instant> {
        let at = match &self.run {
            _ if self.is_closing => Instant::START,
            None => self.next,
            Some(run) => match run.need() {
                Need::Ask(_) => run.pace(),
                Need::Socket | Need::Nothing => Instant::START,
                Need::Wait => Instant::NEVER,
            },
        };
        (at != Instant::NEVER).then_some(at)
    }

    /// The next wish. Call until `None`.
    pub fn poll(&mut self, now: Instant, rng: &mut Rng) -> Option<Wish> {
        loop {
            if core::mem::take(&mut self.is_closing) {
                return Some(Wish::Close);
            }
            let Some(run) = &mut self.run else {
                if self.next > now {
                    return None;
                }
                self.next = Instant::NEVER;
                self.began = Some(now);
                self.run = Some(Run::new(now, self.server));
                continue;
            };
            match run.need() {
                Need::Socket => return Some(Wish::Open),
                Need::Ask(test) if run.pace() <= now => {
                    return run.ask(now, test).map(Wish::Ask);
                }
                Need::Ask(_) | Need::Wait => return None,
                Need::Nothing => self.finish(now, rng),
            }
        }
    }

    /// The socket that was wished for, or that there is none.
    pub fn set_socket(&mut self, socket: Option<SocketId>) {
        let Some(run) = &mut self.run else { return };
        run.set_socket(socket);
    }

    /// The system has no such socket for us.
    pub fn handle_no_socket(&mut self, socket: SocketId) {
        let Some(run) = &mut self.run else { return };
        run.handle_no_socket(socket);
    }

    /// A question has ended; `locals` are our interfaces' addresses with the main socket's port.
    pub fn handle_answer(&mut self, test: Test, answer: Option<&Mapped>, locals: &[SocketAddr]) {
        let Some(run) = &mut self.run else { return };
        run.handle_answer(test, answer, locals);
        if self.found.nat.mapping == Mapping::Unknown && run.is_mapping_known() {
            // The rest takes seconds, and this much is of use already.
            let found = run.found(&self.found);
            self.set_found(found);
        }
    }

    fn finish(&mut self, now: Instant, rng: &mut Rng) {
        let Some(run) = self.run.take() else { return };
        self.is_closing = true;
        let found = run.found(&self.found);
        self.set_found(found);
        let span = if run.is_complete() {
            self.measured_at = Some(now);
            self.retry = RETRY;
            INTERVAL
        } else {
            let span = self.retry;
            self.retry = (span * 2).min(INTERVAL);
            span
        };
        let tenth = span / 10;
        let jitter = Duration::from_nanos(rng.below(2 * tenth.as_nanos() as u64));
        self.next = now + (span - tenth) + jitter;
        self.look_at_endpoint();
    }
}

#[cfg(test)]
mod tests;
