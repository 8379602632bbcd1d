//! The task that makes the turns, for runtimes of futures.

use super::agent::Handle;
use super::eager::Eagerness;
use super::household::{Household, HouseholdNext};
use super::io::Clock as _;
use super::neighbours;
use super::runtime::{AsyncRuntime, Copies as _, Readiness as _, Sockets as _, Timer as _};
use super::shared::{Access, Next, Owner, Shared};
use super::turn::IoStats;
use super::waiters::Ticket;
use crate::machine::Machine;
use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::net::SocketAddr;
use std::sync::Arc;

/// Turns that one poll of a task makes before it gives way to other tasks, although it finds
/// something to do each time.
const TURNS_PER_POLL: u32 = 4;

/// What an executor is given to run: ends by itself when the machine or agent does.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A running machine; clones are handles of the same one.
///
/// Its task ends after [`UdpDriver::stop`], not when handles are dropped.
pub struct UdpDriver<M, O, R: AsyncRuntime> {
    shared: Arc<Shared<M, O, R>>,
}

impl<M, O, R: AsyncRuntime> Clone for UdpDriver<M, O, R> {
    fn clone(&self) -> Self {
        UdpDriver { shared: Arc::clone(&self.shared) }
    }
}

impl<M, O, R: AsyncRuntime> fmt::Debug for UdpDriver<M, O, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpDriver").finish_non_exhaustive()
    }
}

impl<M: Machine + Send + 'static, O: Owner<M, R>, R: AsyncRuntime> UdpDriver<M, O, R> {
    /// Starts the task. Must be called within the runtime. `clock` is the one that the machine
    /// was constructed with.
    pub fn spawn(machine: M, owner: O, sockets: R::Sockets, clock: R::Host) -> Self {
        let shared = Arc::new(Shared::new(machine, owner, sockets, clock));
        R::spawn(drive(Arc::clone(&shared)));
        UdpDriver { shared }
    }

    /// The same with the choice of who runs the task; the driver ends if it is dropped.
    pub fn spawn_with(
        machine: M,
        owner: O,
        sockets: R::Sockets,
        clock: R::Host,
        spawn: impl FnOnce(Task),
    ) -> Self {
        let shared = Arc::new(Shared::new(machine, owner, sockets, clock));
        spawn(Box::pin(drive(Arc::clone(&shared))));
        UdpDriver { shared }
    }

    /// Calls the machine. What that queues is sent soon after: the driver's task is woken.
    /// `call` must not block, and must not call this driver.
    pub fn with<T>(&self, call: impl FnOnce(Access<'_, M, O>) -> T) -> T {
        self.shared.with(call)
    }

    /// The same for calls that rarely have consequences (reading, asking): the driver's task
    /// is woken only if the machine has a deadline that the task does not know of.
    pub fn peek<T>(&self, call: impl FnOnce(Access<'_, M, O>) -> T) -> T {
        self.shared.peek(call)
    }

    /// The clock of this driver.
    pub fn clock(&self) -> R::Host {
        self.shared.host()
    }

    /// What the sockets did so far.
    pub fn io_stats(&self) -> IoStats {
        self.shared.io_stats()
    }

    /// The addresses that the main socket is bound to; none after the end.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.shared.local_addresses()
    }

    /// Whether the main socket can send to an address of this family.
    pub fn reaches(&self, remote: SocketAddr) -> bool {
        self.shared.reaches(remote)
    }

    /// Lets the task end as soon as everything that is queued now was sent, and in any case
    /// after `linger`.
    pub fn stop(&self, linger: Duration) {
        self.shared.stop(linger);
    }

    /// Waits until the task has ended and the sockets are closed.
    pub async fn ended(&self) {
        ended(&self.shared).await;
    }
}

/// Waits until a machine's sockets are closed.
pub(super) async fn ended<M: Machine, O: Owner<M, R>, R: AsyncRuntime>(shared: &Shared<M, O, R>) {
    let mut ending = Ending { shared, ticket: Ticket::NONE };
    poll_fn(|cx| ending.shared.poll_ended(&mut ending.ticket, cx.waker())).await;
}

/// Gives its place back when dropped.
struct Ending<'a, M: Machine, O: Owner<M, R>, R: AsyncRuntime> {
    shared: &'a Shared<M, O, R>,
    ticket: Ticket,
}

impl<M: Machine, O: Owner<M, R>, R: AsyncRuntime> Drop for Ending<'_, M, O, R> {
    fn drop(&mut self) {
        if self.ticket != Ticket::NONE {
            self.shared.leave_ended(&mut self.ticket);
        }
    }
}

/// Ends a machine whose turns nobody makes any more, because the task was dropped before its
/// end: whoever waits for the machine would wait for ever.
struct Turns<M: Machine, O: Owner<M, R>, R: AsyncRuntime>(Arc<Shared<M, O, R>>);

impl<M: Machine, O: Owner<M, R>, R: AsyncRuntime> Drop for Turns<M, O, R> {
    fn drop(&mut self) {
        let _ = neighbours::leave(self.0.name());
        self.0.abandon();
    }
}

/// Makes turns until the driver is stopped.
pub(super) fn drive<M, O, R>(shared: Arc<Shared<M, O, R>>) -> impl Future<Output = ()> + Send
where
    M: Machine + Send + 'static,
    O: Owner<M, R>,
    R: AsyncRuntime,
{
    // Made here and not in the task, which may be dropped before it was ever polled.
    make(Turns(shared))
}

async fn make<M, O, R>(turns: Turns<M, O, R>)
where
    M: Machine + Send + 'static,
    O: Owner<M, R>,
    R: AsyncRuntime,
{
    let shared = &turns.0;
    let mut alarm = Alarm::<R>::new(shared.host());
    let mut woken = Vec::new();
    let mut eagerness = if R::is_alone() { Eagerness::new() } else { Eagerness::none() };
    let mut rests = false;
    poll_fn(|cx| {
        if core::mem::take(&mut rests) && !neighbours::leave(shared.name()) {
            // Not an event, but a neighbour that has sent something, perhaps to us.
            let _ = eagerness.take_try();
            shared.with_sockets(|sockets| sockets.expect(1));
        }
        for _ in 0..TURNS_PER_POLL {
            let waker = cx.waker();
            let made = shared.turn(waker, &mut woken, |sockets, writable| {
                let cx = &mut Context::from_waker(waker);
                let is_readable = sockets.poll_readable(cx);
                is_readable | (writable && sockets.poll_writable(cx))
            });
            eagerness.handle_turn(made.has_received);
            match made.next {
                Next::Again => {}
                Next::End => return Poll::Ready(()),
                Next::Wait { until } => match until {
                    Some(until) if alarm.poll(cx, until).is_ready() => {}
                    _ => {
                        rests = eagerness.may_try();
                        if rests {
                            neighbours::rest(shared.name(), cx.waker());
                        }
                        return Poll::Pending;
                    }
                },
            }
        }
        R::give_way(cx);
        Poll::Pending
    })
    .await;
}

/// Keeps an agent's household until the agent ends.
pub(super) async fn keep<R: AsyncRuntime>(mut household: Household<R::Line>, handle: Handle<R>) {
    let mut alarm = Alarm::<R>::new(handle.shared().host());
    let mut copies = R::watch_copies();
    poll_fn(|cx| {
        for _ in 0..TURNS_PER_POLL {
            if copies.poll_copied(cx).is_ready() {
                household.handle_copied();
            }
            match household.attend(&handle, cx.waker(), R::register) {
                HouseholdNext::Again => {}
                HouseholdNext::End => return Poll::Ready(()),
                HouseholdNext::Wait { until } => {
                    let is_ready = household.line().is_some_and(|(line, writable)| {
                        line.poll_readable(cx) | (writable && line.poll_writable(cx))
                    });
                    if !is_ready && alarm.poll(cx, until).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
        R::give_way(cx);
        Poll::Pending
    })
    .await;
}

/// A runtime's timer, armed anew only when the deadline moves forward: most deadlines move
/// back with every packet, and waking up too early costs less than moving the timer each time.
struct Alarm<R: AsyncRuntime> {
    host: R::Host,
    timer: R::Timer,
    armed: Option<Instant>,
}

impl<R: AsyncRuntime> Alarm<R> {
    fn new(host: R::Host) -> Self {
        Alarm { timer: R::timer(&host), host, armed: None }
    }

    /// Ready if the clock, and not only the timer, has reached `until`.
    fn poll(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        loop {
            if self.armed.is_none_or(|armed| until < armed) {
                self.timer.set(until);
                self.armed = Some(until);
            }
            if self.host.now() >= until {
                return Poll::Ready(());
            }
            if self.timer.poll_fired(cx).is_pending() {
                return Poll::Pending;
            }
            // It fired for an earlier deadline, or a little early.
            self.armed = None;
        }
    }
}
