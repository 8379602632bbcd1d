//! A machine, its sockets and the loop, shared between tasks.
//!
//! One task runs [`Driver::turn`] and waits; everybody else calls the machine under the same
//! lock and wakes that task. All protocol work of one machine is thus done one after another,
//! and what many writers queue between two turns leaves in full trains.

use crate::clock::Clock;
use pilot_core::drive::{Budget, Clock as _, Driver, IoStats, Outlet, Turn};
use pilot_core::machine::Machine;
use pilot_core::time::{Duration, Instant};
use pilot_udp::{Reactor, SockRef, UdpSockets};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use tokio::io::Interest;
use tokio::sync::watch;
use tokio::time::Sleep;

/// Turns that one poll of the task makes before it gives way to other tasks, although it
/// finds something to do each time.
const TURNS_PER_POLL: u32 = 4;

/// A UDP socket in tokio's event queue.
#[derive(Debug)]
pub struct Socket(tokio::net::UdpSocket);

impl Reactor for Socket {
    fn register(socket: std::net::UdpSocket) -> io::Result<Self> {
        tokio::net::UdpSocket::from_std(socket).map(Socket)
    }

    fn sock_ref(&self) -> SockRef<'_> {
        SockRef::from(&self.0)
    }

    fn try_recv<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.0.try_io(Interest::READABLE, call)
    }

    fn try_send<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.0.try_io(Interest::WRITABLE, call)
    }
}

/// The sockets of a machine under tokio.
pub type Sockets = UdpSockets<Socket>;

/// Who receives what comes out of a machine, beyond datagrams for the network.
pub trait Owner<M: Machine>: Outlet<M, Sockets> + Send + 'static {
    /// Moves wakers that are due to `out`; they are called without the lock.
    fn take_woken(&mut self, out: &mut Vec<Waker>) {
        let _ = out;
    }

    /// The driver has ended: nothing comes out any more.
    fn handle_end(&mut self) {}
}

/// What a call under the lock may touch.
pub struct Access<'a, M, O> {
    /// The present.
    pub now: Instant,
    /// The machine.
    pub machine: &'a mut M,
    /// Its owner.
    pub owner: &'a mut O,
}

impl<M, O> fmt::Debug for Access<'_, M, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("now", &self.now).finish_non_exhaustive()
    }
}

struct Inner<M, O> {
    driver: Driver<'static>,
    machine: M,
    owner: O,
    /// Gone after the end, so that the ports are free although handles still exist.
    sockets: Option<Sockets>,
    /// The driver's task, while it waits.
    task: Option<Waker>,
    /// The deadline that it waits for.
    until: Option<Instant>,
    /// Ends when everything queued is sent, or at this time.
    stop: Option<Instant>,
}

struct Shared<M, O> {
    inner: Mutex<Inner<M, O>>,
    clock: Clock,
    ended: watch::Sender<bool>,
}

impl<M, O> Shared<M, O> {
    fn lock(&self) -> MutexGuard<'_, Inner<M, O>> {
        self.inner.lock().expect("the machine has panicked")
    }
}

/// A running machine; clones are handles of the same one.
///
/// The task ends after [`UdpDriver::stop`], not when handles are dropped.
pub struct UdpDriver<M, O> {
    shared: Arc<Shared<M, O>>,
}

impl<M, O> Clone for UdpDriver<M, O> {
    fn clone(&self) -> Self {
        UdpDriver { shared: Arc::clone(&self.shared) }
    }
}

impl<M, O> fmt::Debug for UdpDriver<M, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpDriver").field("ended", &*self.shared.ended.borrow()).finish()
    }
}

impl<M: Machine + Send + 'static, O: Owner<M>> UdpDriver<M, O> {
    /// Starts the task. Must be called within a tokio runtime. `clock` is the one that the
    /// machine was constructed with.
    pub fn spawn(machine: M, owner: O, sockets: Sockets, clock: Clock) -> Self {
        let inner = Inner {
            driver: Driver::boxed(Budget::DEFAULT),
            machine,
            owner,
            sockets: Some(sockets),
            task: None,
            until: None,
            stop: None,
        };
        let ended = watch::Sender::new(false);
        let shared = Arc::new(Shared { inner: Mutex::new(inner), clock, ended });
        tokio::spawn(run(Arc::clone(&shared)));
        UdpDriver { shared }
    }

    /// Calls the machine. What that queues is sent soon after: the driver's task is woken.
    /// `call` must not block, and must not call this driver.
    pub fn with<R>(&self, call: impl FnOnce(Access<'_, M, O>) -> R) -> R {
        self.enter(true, call)
    }

    /// The same for calls that rarely have consequences (reading, asking): the driver's task
    /// is woken only if the machine has a deadline that the task does not know of.
    pub fn peek<R>(&self, call: impl FnOnce(Access<'_, M, O>) -> R) -> R {
        self.enter(false, call)
    }

    fn enter<R>(&self, wake: bool, call: impl FnOnce(Access<'_, M, O>) -> R) -> R {
        let mut woken = Vec::new();
        let (result, task) = {
            let mut inner = self.shared.lock();
            let Inner { machine, owner, .. } = &mut *inner;
            let now = self.shared.clock.now();
            let result = call(Access { now, machine, owner });
            owner.take_woken(&mut woken);
            let task = if wake || inner.is_late() { inner.task.take() } else { None };
            (result, task)
        };
        woken.into_iter().chain(task).for_each(Waker::wake);
        result
    }

    /// The clock of this driver.
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// What the sockets did so far.
    pub fn io_stats(&self) -> IoStats {
        *self.shared.lock().driver.stats()
    }

    /// The addresses that the main socket is bound to; none after the end.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        let inner = self.shared.lock();
        inner.sockets.iter().flat_map(UdpSockets::local_addresses).collect()
    }

    /// Whether the main socket can send to an address of this family.
    pub fn reaches(&self, remote: SocketAddr) -> bool {
        self.shared.lock().sockets.as_ref().is_some_and(|sockets| sockets.reaches(remote))
    }

    /// Lets the task end as soon as everything that is queued now was sent, and in any case
    /// after `linger`.
    pub fn stop(&self, linger: Duration) {
        let task = {
            let mut inner = self.shared.lock();
            let at = self.shared.clock.now() + linger;
            inner.stop = Some(inner.stop.map_or(at, |earlier| earlier.min(at)));
            inner.task.take()
        };
        task.into_iter().for_each(Waker::wake);
    }

    /// Waits until the task has ended and the sockets are closed.
    pub async fn ended(&self) {
        // The sender lives as long as this handle.
        let _ = self.shared.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

impl<M: Machine, O> Inner<M, O> {
    /// Whether the machine wants to be called before the task wakes up by itself.
    fn is_late(&self) -> bool {
        match (self.machine.poll_timeout(), self.until) {
            (Some(timeout), Some(until)) => timeout.at < until,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

/// What the task does after a turn.
enum Next {
    Again,
    Wait { until: Option<Instant> },
    End,
}

impl<M: Machine, O: Owner<M>> Inner<M, O> {
    /// One turn and, if there is nothing more to do, registration for everything that the
    /// task waits for, except its timer.
    fn turn(&mut self, clock: &Clock, cx: &mut Context<'_>, woken: &mut Vec<Waker>) -> Next {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
        let Some(sockets) = &mut self.sockets else { return Next::End };
        let turn = self.driver.turn(clock, &mut self.machine, sockets, &mut self.owner);
        self.owner.take_woken(woken);
        let is_drained = matches!(turn, Turn::Wait { writable: false, .. });
        if self.stop.is_some_and(|at| is_drained || at <= clock.now()) {
            self.sockets = None;
            self.owner.handle_end();
            self.owner.take_woken(woken);
            return Next::End;
        }
        let Turn::Wait { until, writable } = turn else { return Next::Again };
        // Readiness that has come since the turn found the socket empty is seen here.
        let mut is_ready = false;
        for socket in sockets.reactors() {
            is_ready |= socket.0.poll_recv_ready(cx).is_ready();
        }
        if writable {
            // A socket that was closed meanwhile has nothing to wait for.
            let blocked = sockets.blocked();
            is_ready |= blocked.is_none_or(|socket| socket.0.poll_send_ready(cx).is_ready());
        }
        let until = match (until, self.stop) {
            (Some(until), Some(stop)) => Some(until.min(stop)),
            (until, stop) => until.or(stop),
        };
        self.until = until;
        if is_ready { Next::Again } else { Next::Wait { until } }
    }
}

async fn run<M: Machine + Send + 'static, O: Owner<M>>(shared: Arc<Shared<M, O>>) {
    let clock = shared.clock;
    let mut timer = Timer::new(&clock);
    let mut woken = Vec::new();
    std::future::poll_fn(|cx| {
        for _ in 0..TURNS_PER_POLL {
            let next = shared.lock().turn(&clock, cx, &mut woken);
            woken.drain(..).for_each(Waker::wake);
            match next {
                Next::Again => {}
                Next::End => return Poll::Ready(()),
                Next::Wait { until } => match until {
                    Some(until) if timer.poll(cx, &clock, until).is_ready() => {}
                    _ => return Poll::Pending,
                },
            }
        }
        // Not `wake_by_ref`: a task that is always runnable keeps tokio from asking the system
        // for events, and acknowledgements would be seen only every 61 polls.
        pin!(tokio::task::yield_now()).poll(cx)
    })
    .await;
    shared.ended.send_replace(true);
}

/// Tokio's timer, armed anew only when the deadline moves forward: most deadlines move back
/// with every packet, and waking up too early costs less than moving the timer each time.
struct Timer {
    sleep: Pin<Box<Sleep>>,
    armed: Option<Instant>,
}

impl Timer {
    fn new(clock: &Clock) -> Self {
        let sleep = Box::pin(tokio::time::sleep_until(clock.timer(Instant::NEVER)));
        Timer { sleep, armed: None }
    }

    /// Ready if the clock, and not only the timer, has reached `until`.
    fn poll(&mut self, cx: &mut Context<'_>, clock: &Clock, until: Instant) -> Poll<()> {
        loop {
            if self.armed.is_none_or(|armed| until < armed) {
                self.sleep.as_mut().reset(clock.timer(until));
                self.armed = Some(until);
            }
            if clock.now() >= until {
                return Poll::Ready(());
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // It fired for an earlier deadline, or a little early.
            self.armed = None;
        }
    }
}
