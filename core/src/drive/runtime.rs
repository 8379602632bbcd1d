//! What an adapter supplies: the types and calls of one runtime.
//!
//! [`Runtime`] is enough to share a machine between threads ([`super::Shared`]) and for the
//! synchronous handles of an agent; [`AsyncRuntime`] adds what tasks and futures need.

use super::agent::StreamHandle;
use super::budget::Budget;
use super::household::{Errand, Notice, Outcome, Reading};
use super::io::{Clock, Datagrams};
use super::sockets::{BindError, BindOptions};
use super::waiters::Waken;
use crate::time::Instant;
use alloc::vec::Vec;
use core::task::{Context, Poll, Waker};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// The types of a runtime; an adapter implements it for a marker type of its own.
pub trait Runtime: Sized + 'static {
    /// What makes a waiting task, thread or event source look again.
    type Waker: Waken + Send;
    /// UDP sockets in the runtime's event queue.
    type Sockets: Sockets + Send + 'static;
    /// The operating system's clocks and errands.
    type Host: Host;
    /// How much one turn does.
    const BUDGET: Budget = Budget::DEFAULT;
}

/// The UDP sockets of a machine on a real host.
pub trait Sockets: Datagrams + Sized {
    /// Binds the main socket.
    fn bind(options: &BindOptions) -> Result<Self, BindError>;

    /// The addresses that the main socket is bound to.
    fn local_addresses(&self) -> Vec<SocketAddr>;

    /// The next receive calls, `calls` at most and until one would block, ask those main sockets
    /// that have received something before, although no event has told that there is something.
    /// 0 ends that: then all sockets are asked again.
    fn expect(&mut self, calls: u32);

    /// Whether the main socket can send to an address of this family.
    fn reaches(&self, remote: SocketAddr) -> bool;

    /// The addresses at which this host may be reached by the main socket, best first.
    fn candidates(&self) -> io::Result<Vec<SocketAddr>>;
}

/// What an agent needs of the operating system beside sockets. None of it may block.
pub trait Host: Clock + Copy + Send + Sync + 'static {
    /// Reads all clocks.
    fn reading(&self) -> Reading;

    /// Fresh entropy; `None` where the system gives none at present.
    fn entropy(&self) -> Option<[u8; 32]>;

    /// Carries out `errand` on a thread where it may block, and then calls `report` there. If
    /// there is no thread, `report` may be called at once. Dropping it, as a panic does,
    /// counts as a failure.
    fn carry_out(&self, errand: Errand, report: impl FnOnce(Outcome) + Send + 'static);

    /// Something that an operator may want to read in a log.
    fn note(&self, notice: Notice<'_>) {
        let _ = notice;
    }
}

/// Something in an event queue that a task waits for.
pub trait Readiness {
    /// Whether it is readable; if not, the task is woken once it is.
    fn poll_readable(&self, cx: &mut Context<'_>) -> bool;

    /// Whether what was blocked may go on writing; if not, the task is woken then.
    fn poll_writable(&self, cx: &mut Context<'_>) -> bool;
}

/// A runtime's timer.
pub trait Timer {
    /// Arms it for `at`, also if it was armed or has fired before.
    fn set(&mut self, at: Instant);

    /// Ready when it has fired; otherwise the task is woken then. A little early or late does
    /// no harm: the clock decides.
    fn poll_fired(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// Notices that this machine is a copy: restored from a snapshot, or cloned.
pub trait Copies {
    /// Ready once for each such moment. Never ready where nothing tells.
    fn poll_copied(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A runtime of futures and tasks.
pub trait AsyncRuntime: Runtime<Waker = Waker, Sockets: Readiness> {
    /// The adapter's stream type, with the runtime's traits for reading and writing.
    type Stream: From<StreamHandle<Self>>;
    /// A TCP connection in the event queue, non-blocking.
    type Line: Read + Write + Readiness + Send + 'static;
    /// See [`Copies`].
    type Copies: Copies + Send + 'static;
    /// See [`Timer`].
    type Timer: Timer + Send + 'static;

    /// Puts a connected, non-blocking TCP connection into the event queue.
    fn register(tcp: TcpStream) -> io::Result<Self::Line>;

    /// Begins to watch for copies of this machine.
    fn watch_copies() -> Self::Copies;

    /// A timer for instants of this clock, not armed.
    fn timer(host: &Self::Host) -> Self::Timer;

    /// Starts a task.
    fn spawn(task: impl Future<Output = ()> + Send + 'static);

    /// Whether the present task's executor has no other thread, so that letting others run
    /// first costs nothing: where there are more, one of them is woken for it.
    fn is_alone() -> bool;

    /// Arranges for the present task to be polled again after others, and after the event
    /// queue was asked for news.
    fn give_way(cx: &mut Context<'_>) {
        cx.waker().wake_by_ref();
    }
}
