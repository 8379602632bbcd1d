//! The turn: a budgeted, synchronous step over a machine and its sockets.
//!
//! Order within a turn, and why:
//!
//! | step | does | until |
//! |---|---|---|
//! | receive | hands datagrams to the machine, trains split, then `handle_batch_end` | nothing left, or `receives` calls |
//! | timers | `handle_timeout`, if the clock says that the deadline has passed | once, only after the receive step ran dry or after `batches_before_timers` full batches in a row |
//! | send | the parked packet first, then `poll_transmit` | nothing left, refused, or `sends` calls |
//! | events | hands events to the outlet | none left, or `events` |
//!
//! A packet that the socket refuses stays whole in the send buffer: it carries a counter that
//! must not be used twice, and everything behind it waits, so order is kept. Receiving, timers
//! and events go on meanwhile. Since queued output makes a machine's deadline "now"
//! (contract rule 3) and thereby hides its real timers, a blocked driver wakes up every
//! [`BLOCKED_TICK`] and lets time pass.

use super::budget::Budget;
use super::io::{Clock, Datagrams, IoError};
use crate::addr::{Port, SocketAddress};
use crate::limits::{TRAIN_BYTES_MAX, TRAIN_SEGMENTS_MAX};
use crate::machine::{Ingress, Machine, Transmit};
use crate::slab::Store;
use crate::time::{Duration, Instant};
use core::fmt;
use core::num::NonZeroUsize;

/// Bytes of the send buffer: one train.
pub const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of the receive buffer: the longest train that receive offload joins.
pub const RECEIVE_BUFFER: usize = 64 * 1024;
/// How often timers are looked at while the socket is blocked: one millisecond is the
/// granularity of every runtime's timer, and a blocked socket is rare and short.
pub const BLOCKED_TICK: Duration = Duration::from_millis(1);
/// Calls of a socket that one answer makes at most: more is worth a turn.
const ANSWERS: u32 = 4;
/// By how much a full batch makes the next one larger.
const GROWTH: u32 = 8;
/// Receive errors that one batch tolerates; a socket that does nothing but fail must not spin.
const RECEIVE_ERRORS: u32 = 4;

const _: () = assert!(SEND_BUFFER >= TRAIN_BYTES_MAX);

/// What to do after a turn.
#[must_use = "the adapter has to wait as it says, or to call again"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// A budget is used up and there is more to do: give way to others, then call again.
    Again,
    /// Nothing more to do. Wait until a socket is readable, somebody has called the machine,
    /// or:
    Wait {
        /// The clock reaches this; `None`: no deadline.
        until: Option<Instant>,
        /// A socket refused a packet: also wait until it is writable.
        writable: bool,
    },
}

/// Where a turn puts what is not for the network.
pub trait Outlet<M: Machine, D> {
    /// An application datagram. Copy it or drop it; the slice is gone afterwards.
    fn handle_payload(&mut self, from: SocketAddress, to: Port, payload: &[u8]);

    /// An event. The machine may be called here; what that queues is seen to in this turn or
    /// the next.
    fn handle_event(&mut self, now: Instant, machine: &mut M, io: &mut D, event: M::Event);
}

/// What the sockets did, in numbers that wrap after 2^64.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IoStats {
    /// Receive calls that yielded something: datagrams or trains.
    pub receives: u64,
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Bytes of UDP payload received.
    pub bytes_in: u64,
    /// Send calls that succeeded.
    pub sends: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Bytes of UDP payload sent.
    pub bytes_out: u64,
    /// Times that the socket refused a packet, which was parked.
    pub blocked: u64,
    /// Packets dropped because they exceed the interface's MTU.
    pub too_large: u64,
    /// Packets dropped because there was no route to their destination.
    pub unreachable: u64,
    /// Packets dropped for any other error.
    pub send_errors: u64,
    /// Receive calls that failed otherwise than by blocking.
    pub receive_errors: u64,
    /// Turns after which the machine asked for the present again although nothing was left to
    /// do: a breach of the contract, kept from spinning.
    pub stalls: u64,
}

/// The loop's state between turns: two buffers and the parked packet.
pub struct Driver<'s> {
    send: Store<'s, u8>,
    receive: Store<'s, u8>,
    parked: Option<Transmit>,
    /// Something was received since the last answer: see [`Driver::answer`].
    may_answer: bool,
    /// See the method of this name.
    has_received: bool,
    /// Sent since the sockets were last asked for something.
    unanswered: u32,
    /// More than one datagram was received in this turn, so that the clock is read again.
    took_time: bool,
    /// Receive batches in a row that used up their budget.
    full_batches: u32,
    /// Receive calls of the next batch.
    batch: u32,
    budget: Budget,
    stats: IoStats,
}

impl fmt::Debug for Driver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("parked", &self.parked)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "alloc")]
impl Driver<'static> {
    /// A driver with boxed buffers.
    pub fn boxed(budget: Budget) -> Self {
        Driver::new(
            Store::<u8>::boxed_zeroed(SEND_BUFFER),
            Store::<u8>::boxed_zeroed(RECEIVE_BUFFER),
            budget,
        )
    }
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing was left to do; the number says how much was done.
    Dry(u32),
    /// The budget is used up.
    Full,
    /// The socket refused; only sending blocks.
    Blocked(u32),
}

impl Step {
    fn is_idle(self) -> bool {
        matches!(self, Step::Dry(0) | Step::Blocked(0))
    }
}

impl<'s> Driver<'s> {
    /// A driver over the caller's buffers. `send` holds a train ([`SEND_BUFFER`]; a small
    /// system may give one datagram's worth), `receive` whatever one receive call can yield.
    pub fn new(send: Store<'s, u8>, receive: Store<'s, u8>, budget: Budget) -> Self {
        Driver {
            send,
            receive,
            parked: None,
            may_answer: false,
            has_received: false,
            unanswered: 0,
            took_time: false,
            full_batches: 0,
            batch: budget.receives_first,
            budget,
            stats: IoStats::default(),
        }
    }

    /// What the sockets did so far.
    pub fn stats(&self) -> &IoStats {
        &self.stats
    }

    /// Whether the last turn received something.
    pub fn has_received(&self) -> bool {
        self.has_received
    }

    /// Whether so much was sent since the sockets were last asked that there are likely to be
    /// acknowledgements. Who has something to send all the time rarely asks an event queue whether
    /// they have come; unread, they would make round trips of milliseconds.
    pub fn expects_answers(&self) -> bool {
        self.unanswered >= self.budget.sends
    }

    /// Whether a packet waits for its socket.
    pub fn is_blocked(&self) -> bool {
        self.parked.is_some()
    }

    /// One budgeted step; see the module. Never blocks.
    pub fn turn<M, D, O>(
        &mut self,
        clock: &impl Clock,
        machine: &mut M,
        io: &mut D,
        outlet: &mut O,
    ) -> Turn
    where
        M: Machine,
        D: Datagrams,
        O: Outlet<M, D>,
    {
        let mut now = clock.now();
        self.unanswered = 0;
        let received = self.receive(now, machine, io, outlet);
        self.has_received = !received.is_idle();
        (self.full_batches, self.batch) = match received {
            Step::Full => (self.full_batches + 1, (self.batch * GROWTH).min(self.budget.receives)),
            _ => (0, self.budget.receives_first),
        };
        if self.took_time {
            now = clock.now();
        }
        if self.full_batches == 0 || self.full_batches >= self.budget.batches_before_timers {
            self.full_batches = 0;
            if machine.poll_timeout().is_some_and(|t| t.at <= now) || self.is_blocked() {
                machine.handle_timeout(now);
            }
        }
        let sent = self.transmit(now, self.budget.sends, machine, io);
        let events = self.events(now, machine, io, outlet);

        if [received, sent, events].contains(&Step::Full) {
            return Turn::Again;
        }
        let idle = received.is_idle() && sent.is_idle() && events.is_idle();
        self.wait(now, idle, machine)
    }

    /// Sends what a call between two turns has queued, if datagrams were received since this was
    /// last done: who answers what has just come in need not wait for the next turn. Who writes
    /// without being asked does, so that many small writes leave together.
    ///
    /// Whether nothing was left to send; if not, the next turn is as due as before. Events and
    /// timers always are the next turn's.
    pub fn answer<M: Machine, D: Datagrams>(
        &mut self,
        now: Instant,
        machine: &mut M,
        io: &mut D,
    ) -> bool {
        if !self.may_answer || self.is_blocked() {
            return false;
        }
        self.may_answer = false;
        let step = self.transmit(now, ANSWERS, machine, io);
        if !step.is_idle() {
            // What comes next is likely to be asked for: it is handed over as soon as it is here.
            self.batch = self.budget.receives_first;
        }
        matches!(step, Step::Dry(_))
    }

    /// Sends what the machine has queued, up to the budget, and nothing else: for an adapter
    /// whose application has just called the machine, so that its words leave before anything
    /// else is asked of the system. A turn has to follow before there is a pause.
    pub fn flush<M: Machine>(
        &mut self,
        clock: &impl Clock,
        machine: &mut M,
        io: &mut impl Datagrams,
    ) {
        self.batch = self.budget.receives_first;
        let _ = self.transmit(clock.now(), self.budget.sends, machine, io);
    }

    /// After a turn that used up no budget: how long to wait.
    fn wait<M: Machine>(&mut self, now: Instant, idle: bool, machine: &M) -> Turn {
        let writable = self.is_blocked();
        let until = machine.poll_timeout().map(|t| t.at);
        match until {
            // Output behind the parked packet, or timers hidden by it.
            Some(at) if writable && at <= now => {
                Turn::Wait { until: Some(now + BLOCKED_TICK), writable }
            }
            // An event's handler has queued output, or a deadline was missed by a hair.
            Some(at) if at <= now && !idle => Turn::Again,
            // This turn let time pass and polled everything, and still: a machine's mistake.
            Some(at) if at <= now => {
                self.stats.stalls = self.stats.stalls.wrapping_add(1);
                Turn::Wait { until: Some(now + BLOCKED_TICK), writable }
            }
            until => Turn::Wait { until: until.filter(|at| *at != Instant::NEVER), writable },
        }
    }

    fn receive<M, D, O>(
        &mut self,
        now: Instant,
        machine: &mut M,
        io: &mut D,
        outlet: &mut O,
    ) -> Step
    where
        M: Machine,
        D: Datagrams,
        O: Outlet<M, D>,
    {
        let mut step = Step::Full;
        let mut errors = 0;
        let mut trains = 0;
        let before = self.stats.datagrams_in;
        let most = self.stats.bytes_in.wrapping_add(self.budget.receive_bytes as u64);
        for _ in 0..self.batch {
            if self.stats.bytes_in >= most {
                break;
            }
            let received = match io.recv(&mut self.receive) {
                Ok(received) => received,
                Err(IoError::WouldBlock) => {
                    step = Step::Dry(trains);
                    break;
                }
                Err(_) => {
                    self.stats.receive_errors = self.stats.receive_errors.wrapping_add(1);
                    errors += 1;
                    if errors == RECEIVE_ERRORS {
                        // Whatever is the matter is still the matter at the next turn, which
                        // readiness or a timer will start.
                        step = Step::Dry(trains);
                        break;
                    }
                    continue;
                }
            };
            trains += 1;
            let len = received.len.min(self.receive.len());
            self.stats.receives = self.stats.receives.wrapping_add(1);
            self.stats.bytes_in = self.stats.bytes_in.wrapping_add(len as u64);
            for datagram in self.receive[..len].chunks_mut(received.stride.max(1)) {
                self.stats.datagrams_in = self.stats.datagrams_in.wrapping_add(1);
                if let Ingress::Datagram { from, to, payload } =
                    machine.handle_datagram(now, received.path, received.ecn, datagram)
                {
                    outlet.handle_payload(from, to, payload);
                }
            }
        }
        self.took_time = self.stats.datagrams_in.wrapping_sub(before) > 1;
        if trains > 0 {
            self.may_answer = true;
            machine.handle_batch_end(now);
        }
        step
    }

    fn transmit<M: Machine, D: Datagrams>(
        &mut self,
        now: Instant,
        most: u32,
        machine: &mut M,
        io: &mut D,
    ) -> Step {
        for done in 0..most {
            let transmit = match self.parked.take() {
                Some(parked) => parked,
                None => {
                    let segments = io.max_segments().min(MAX_SEGMENTS);
                    match machine.poll_transmit(now, &mut self.send, segments) {
                        Some(transmit) => transmit,
                        None => return Step::Dry(done),
                    }
                }
            };
            let bytes = &self.send[..transmit.len];
            let result = io.send(&transmit, bytes);
            let stats = &mut self.stats;
            let counter = match result {
                Ok(()) => {
                    let datagrams = transmit.datagrams() as u64;
                    stats.datagrams_out = stats.datagrams_out.wrapping_add(datagrams);
                    stats.bytes_out = stats.bytes_out.wrapping_add(transmit.len as u64);
                    self.unanswered = self.unanswered.saturating_add(1);
                    &mut stats.sends
                }
                Err(IoError::WouldBlock) => {
                    stats.blocked = stats.blocked.wrapping_add(1);
                    self.parked = Some(transmit);
                    return Step::Blocked(done);
                }
                Err(IoError::TooLarge) => {
                    machine.handle_too_large(now, &transmit);
                    &mut stats.too_large
                }
                Err(IoError::Unreachable) => &mut stats.unreachable,
                Err(_) => &mut stats.send_errors,
            };
            *counter = counter.wrapping_add(1);
        }
        Step::Full
    }

    fn events<M, D, O>(&mut self, now: Instant, machine: &mut M, io: &mut D, outlet: &mut O) -> Step
    where
        M: Machine,
        D: Datagrams,
        O: Outlet<M, D>,
    {
        for done in 0..self.budget.events {
            match machine.poll_event() {
                Some(event) => outlet.handle_event(now, machine, io, event),
                None => return Step::Dry(done),
            }
        }
        Step::Full
    }
}

const MAX_SEGMENTS: NonZeroUsize = NonZeroUsize::new(TRAIN_SEGMENTS_MAX).unwrap();

#[cfg(test)]
mod tests;
