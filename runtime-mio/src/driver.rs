//! Who makes an agent's turns: within an integrator's loop ([`Driver`]) or with an event queue
//! of its own ([`Loop`]).

use crate::socket::{Readiness, Socket};
use crate::{Agent, Builder, Handle, Mio, Sockets};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};
use pilot_core::drive::agent::{KeepAlive, StartError, Started};
use pilot_core::drive::household::{Household, HouseholdNext};
use pilot_core::drive::ready::{Board, Ready, Waker};
use pilot_core::drive::{BindError, Clock as _, Eagerness, Next, Sockets as _};
use pilot_core::time::{Duration, Instant};
use pilot_udp::{AUXILIARY_MAX, Clock, Generation};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

/// Sockets of an agent: the main one of each address family, and auxiliary ones.
const SOCKETS: usize = 2 + AUXILIARY_MAX;
/// Tokens of an agent in the event queue.
pub const TOKENS: usize = SOCKETS + 2;
/// The registry's connection, counted from the first token.
const LINE: usize = SOCKETS;
/// What tells that the machine was copied.
const COPIES: usize = SOCKETS + 1;
/// Turns made at once although each finds something to do.
const TURNS: u32 = 4;
/// Times that [`Loop::poll`] may return without having asked the system for events.
const UNASKED: u32 = 16;
/// Events taken from the queue at once; the others stay there.
const EVENTS: usize = 256;
/// Turns that the end of a dropped driver may take.
const LAST_TURNS: u32 = 64;

/// The working part of an agent within a mio loop: whoever owns it makes the agent's turns.
///
/// A loop over a [`Poll`] that others share does, again and again:
///
/// 1. ask [`Driver::prepare_wait`] how long it may wait, and wait in [`Poll::poll`] for so long;
/// 2. hand each event to [`Driver::handle_event`], which says whether it was the agent's;
/// 3. call [`Driver::turn`], and then [`Driver::next_ready`] until that has nothing more.
///
/// Dropping it ends the agent at once: peers are told once and without waiting, and changes not
/// yet durable are lost. [`Handle::begin_shutdown`], and going on
/// until [`Driver::is_ended`], is the good end.
#[derive(Debug)]
pub struct Driver {
    handle: Handle,
    household: Household<TcpStream>,
    copies: Generation<Socket>,
    registry: Registry,
    first: usize,
    /// By token, what is known of each socket; free where the socket is gone.
    readiness: Vec<Option<Arc<Readiness>>>,
    board: Board,
    /// For turns.
    turns: Waker,
    /// For the household.
    chores: Waker,
    woken: Vec<Waker>,
    /// The last turn had nothing more to do until then.
    settled: Option<Option<Instant>>,
    /// When the household wants to be called.
    keep_at: Instant,
    /// Whether the sockets are asked before the event queue is.
    eagerness: Eagerness,
    /// The end has cut a wait short.
    has_told_end: bool,
}

/// A driver with its own event queue.
#[derive(Debug)]
pub struct Loop {
    driver: Driver,
    poll: Poll,
    events: Events,
    /// Calls in a row that did not ask the system.
    unasked: u32,
}

fn start_failed(source: io::Error) -> StartError {
    let address = SocketAddr::from(([0, 0, 0, 0], 0));
    StartError::Socket(BindError::Io { address, source })
}

/// Puts sockets that are new into the event queue.
fn enter(
    sockets: &mut Sockets,
    registry: &Registry,
    first: usize,
    readiness: &mut [Option<Arc<Readiness>>],
) -> io::Result<()> {
    for socket in sockets.reactors_mut().filter(|socket| !socket.is_registered()) {
        let is_free = |place: &Option<Arc<Readiness>>| {
            place.as_ref().is_none_or(|readiness| Arc::strong_count(readiness) == 1)
        };
        let place = readiness.iter().position(is_free).ok_or(io::ErrorKind::QuotaExceeded)?;
        socket.enter(registry, Token(first + place))?;
        readiness[place] = Some(Arc::clone(socket.readiness()));
    }
    Ok(())
}

/// Registers for all that a turn left to wait for; whether some of it is there already.
fn is_ready(sockets: &mut Sockets, registry: &Registry, blocked: bool) -> bool {
    let is_readable = sockets.reactors_mut().fold(false, |ready, socket| {
        // What cannot be waited for is tried again when the machine's timers run.
        let _ = socket.await_writable(registry);
        ready | socket.is_readable()
    });
    is_readable | (blocked && sockets.blocked().is_none_or(Socket::is_writable))
}

impl Driver {
    /// Starts an agent within somebody else's event queue. It takes the [`TOKENS`] tokens that
    /// begin with `first`. `waker` is the queue's: a queue has one, which all share, and its
    /// token is not the agent's; it is called when other threads call the agent.
    ///
    /// Reads the stored state on this thread; does not wait for the registry.
    pub fn join(
        builder: Builder,
        registry: &Registry,
        first: Token,
        waker: &Arc<mio::Waker>,
    ) -> Result<(Agent, Driver), StartError> {
        let (agent, driver) = Driver::enter(builder, registry, first, waker)?;
        Ok((Agent::new(agent, &driver.board), driver))
    }

    fn enter(
        builder: Builder,
        registry: &Registry,
        first: Token,
        waker: &Arc<mio::Waker>,
    ) -> Result<(KeepAlive<Mio>, Driver), StartError> {
        let registry = registry.try_clone().map_err(start_failed)?;
        let Started { agent, household } = builder.start(Clock::start())?;
        let waker = Arc::clone(waker);
        // The only failure is a full counter, and then the loop is roused anyway.
        let board = Board::new(move || drop(waker.wake()));
        let (turns, chores) = board.wakers();
        let mut copies = Generation::<Socket>::watch();
        if let Some(socket) = copies.reactor_mut() {
            socket.enter(&registry, Token(first.0 + COPIES)).map_err(start_failed)?;
        }
        let mut driver = Driver {
            handle: Handle::clone(&agent),
            household,
            copies,
            registry,
            first: first.0,
            readiness: vec![None; SOCKETS],
            board,
            turns,
            chores,
            woken: Vec::new(),
            settled: None,
            keep_at: Instant::START,
            eagerness: Eagerness::new(),
            has_told_end: false,
        };
        let Driver { handle, registry, readiness, .. } = &mut driver;
        let entered =
            handle.shared().with_sockets(|sockets| enter(sockets, registry, first.0, readiness));
        entered.unwrap_or(Ok(())).map_err(start_failed)?;
        Ok((agent, driver))
    }

    /// Whether an event of the queue was this agent's.
    pub fn handle_event(&mut self, event: &mio::event::Event) -> bool {
        let Some(place) = event.token().0.checked_sub(self.first).filter(|at| *at < TOKENS) else {
            return false;
        };
        match place {
            LINE => self.board.demand_chores(),
            COPIES => {
                if let Some(socket) = self.copies.reactor() {
                    socket.readiness().handle(event);
                }
                self.board.demand_chores();
            }
            _ => {
                if let Some(readiness) = &self.readiness[place] {
                    readiness.handle(event);
                }
                self.board.demand_turn();
            }
        }
        true
    }

    /// Sends what the application's calls have queued, at once. [`Driver::turn`] and
    /// [`Driver::prepare_wait`] do so, too; this spares the time of whatever comes before them.
    pub fn flush(&mut self) {
        if self.board.take_turn() {
            self.handle.shared().flush();
            self.settled = None;
        }
    }

    /// Receives, lets timers fire and sends, a bounded amount of each; never waits.
    pub fn turn(&mut self) {
        self.board.wake_up();
        let now = self.now();
        self.keep(now);
        for _ in 0..TURNS {
            if !self.is_turn_due(now) {
                return self.try_turn();
            }
            self.make_turn(self.is_past(now));
            if self.board.has_ready() {
                // Answers first.
                return;
            }
        }
    }

    /// A turn that is not due, if it is likely that something has come.
    fn try_turn(&mut self) {
        if self.eagerness.take_try() {
            self.make_turn(true);
        }
    }

    fn now(&self) -> Instant {
        self.handle.shared().host().now()
    }

    fn is_turn_due(&self, now: Instant) -> bool {
        self.board.is_turn_due() || self.settled.is_none() || self.is_past(now)
    }

    /// Whether the time is over for which there was nothing to do.
    fn is_past(&self, now: Instant) -> bool {
        self.settled.flatten().is_some_and(|until| until <= now)
    }

    /// `expects`: the main sockets are asked in any case, also before timers fire, since what
    /// stops them may have come.
    fn make_turn(&mut self, expects: bool) {
        if expects {
            self.handle.shared().with_sockets(|sockets| sockets.expect(1));
        }
        self.board.take_turn();
        let Driver { handle, registry, readiness, first, turns, woken, .. } = self;
        let made = handle.shared().turn(turns, woken, |sockets, blocked| {
            // One that is not in the queue is tried again before the next wait.
            let _ = enter(sockets, registry, *first, readiness);
            is_ready(sockets, registry, blocked)
        });
        self.eagerness.handle_turn(made.has_received);
        self.settled = match made.next {
            Next::Again => None,
            Next::Wait { until } => Some(until),
            Next::End => Some(None),
        };
    }

    /// Keeps the household.
    fn keep(&mut self, now: Instant) {
        for _ in 0..TURNS {
            if !self.board.take_chores() && now < self.keep_at {
                return;
            }
            if self.copies.take_changed() {
                self.household.handle_copied();
            }
            let (registry, token) = (&self.registry, Token(self.first + LINE));
            let next = self.household.attend(&self.handle, &self.chores, |tcp| {
                let mut tcp = TcpStream::from_std(tcp);
                registry.register(&mut tcp, token, Interest::READABLE | Interest::WRITABLE)?;
                Ok(tcp)
            });
            self.keep_at = match next {
                HouseholdNext::Again => Instant::START,
                HouseholdNext::Wait { until } => until,
                HouseholdNext::End => Instant::NEVER,
            };
        }
    }

    /// Makes turns until nothing is left to do, and says how long [`Poll::poll`] may wait then,
    /// at most for `limit`; `None` is for ever. Zero if something is ready already, and once when
    /// the agent has ended.
    ///
    /// Nothing of the agent may be called on this thread between this and [`Poll::poll`]; if
    /// something is, it is sent late. Other threads may call, and end the wait.
    pub fn prepare_wait(&mut self, limit: Option<Duration>) -> Option<Duration> {
        for _ in 0..=TURNS {
            self.flush();
            self.turn();
            if self.board.has_ready() {
                break;
            }
            if !self.is_turn_due(self.now()) && self.board.fall_asleep() {
                if !self.has_told_end && self.is_ended() {
                    self.has_told_end = true;
                    break;
                }
                let until = self.settled.flatten().unwrap_or(Instant::NEVER).min(self.keep_at);
                let wait = (until != Instant::NEVER).then(|| until.since(self.now()));
                return wait.into_iter().chain(limit).min();
            }
        }
        Some(Duration::ZERO)
    }

    /// What is ready, the oldest first.
    pub fn next_ready(&mut self) -> Option<Ready> {
        self.board.next_ready()
    }

    /// Whether the agent has ended: its sockets are closed, and nothing happens any more. That
    /// is so some time after a shutdown was begun, or the last handle was dropped.
    pub fn is_ended(&self) -> bool {
        self.handle.is_ended()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Also of an application that panics; every call of a node that has panicked does so, too.
        if self.handle.shared().is_broken() || self.is_ended() {
            return;
        }
        self.handle.begin_shutdown();
        self.handle.shared().flush();
        self.handle.shared().stop(Duration::ZERO);
        for _ in 0..LAST_TURNS {
            self.make_turn(false);
            if self.is_ended() {
                return;
            }
        }
    }
}

impl Loop {
    /// Starts an agent with an event queue of its own. Reads the stored state on this thread;
    /// does not wait for the registry.
    pub fn start(builder: Builder) -> Result<(Agent, Loop), StartError> {
        let (agent, events) = Loop::enter(builder)?;
        Ok((Agent::new(agent, &events.driver.board), events))
    }

    /// The same for threads that wait: the loop's runs until the agent has ended.
    pub(crate) fn spawn(builder: Builder) -> Result<KeepAlive<Mio>, StartError> {
        let (agent, mut events) = Loop::enter(builder)?;
        let run = move || {
            // Whoever waits for something is told itself.
            while !events.is_ended() && events.poll(None).is_ok() {}
        };
        let spawned = thread::Builder::new().name("pilot-agent".into()).spawn(run);
        spawned.map_err(start_failed)?;
        Ok(agent)
    }

    fn enter(builder: Builder) -> Result<(KeepAlive<Mio>, Loop), StartError> {
        /// Behind those of the agent.
        const WAKE: Token = Token(TOKENS);
        let poll = Poll::new().map_err(start_failed)?;
        let waker = mio::Waker::new(poll.registry(), WAKE).map_err(start_failed)?;
        let (agent, driver) = Driver::enter(builder, poll.registry(), Token(0), &Arc::new(waker))?;
        let events = Events::with_capacity(EVENTS);
        Ok((agent, Loop { driver, poll, events, unasked: 0 }))
    }

    /// Sends what was queued, and waits until something is ready, at most for `timeout`
    /// (`None`: for ever). Returns early if the agent has ended.
    ///
    /// If something is ready already, it usually returns without having asked the system.
    pub fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let until = timeout.map(|timeout| self.driver.now() + timeout);
        loop {
            let limit = until.map(|until| until.since(self.driver.now()));
            let wait = self.driver.prepare_wait(limit);
            if self.driver.board.has_ready() && self.unasked < UNASKED {
                self.unasked += 1;
                return Ok(());
            }
            if self.driver.has_told_end {
                return Ok(());
            }
            self.unasked = 0;
            match self.poll.poll(&mut self.events, wait) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &self.events {
                self.driver.handle_event(event);
            }
            self.driver.turn();
            let is_over = || until.is_some_and(|until| until <= self.driver.now());
            if self.driver.board.has_ready() || self.driver.is_ended() || is_over() {
                return Ok(());
            }
        }
    }

    /// See [`Driver::flush`].
    pub fn flush(&mut self) {
        self.driver.flush();
    }

    /// See [`Driver::next_ready`].
    pub fn next_ready(&mut self) -> Option<Ready> {
        self.driver.next_ready()
    }

    /// See [`Driver::is_ended`].
    pub fn is_ended(&self) -> bool {
        self.driver.is_ended()
    }
}
