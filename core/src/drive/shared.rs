//! A machine, its sockets and the loop, shared between threads.
//!
//! One task or thread makes turns and waits; everybody else calls the machine under the same
//! lock and wakes that one. All protocol work of one machine is thus done one after another,
//! and what many writers queue between two turns leaves in full trains.

use super::io::Clock as _;
use super::neighbours::{self, Name};
use super::runtime::{Runtime, Sockets as _};
use super::turn::{Driver, IoStats, Outlet, Turn};
use super::waiters::{Ticket, Waiters, Waken};
use crate::machine::Machine;
use crate::time::{Duration, Instant};
use alloc::vec::Vec;
use core::fmt;
use core::task::Poll;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};

/// Tasks that may wait for the end; more than that take turns.
const END_WAITERS: usize = 64;

/// Turns in a row that may leave out sockets, or the event queue: who has something to send all
/// the time would else never hear of the others.
const UNASKED_MAX: u32 = 4;

/// Who receives what comes out of a machine, beyond datagrams for the network.
pub trait Owner<M: Machine, R: Runtime>: Outlet<M, R::Sockets> + Send + 'static {
    /// Moves wakers that are due to `out`; they are called without the lock.
    fn take_woken(&mut self, out: &mut Vec<R::Waker>) {
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

/// What to do after a turn.
#[must_use = "the adapter has to wait as it says, or to call again"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// There is more to do: give way to others now and then, and call again.
    Again,
    /// Wait for readiness, a wake-up, or this deadline, if there is one.
    Wait {
        /// The clock reaches this.
        until: Option<Instant>,
    },
    /// The driver has ended and its sockets are closed.
    End,
}

/// A turn, as it went.
#[must_use = "it says what to do"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Made {
    /// What to do.
    pub next: Next,
    /// It has received something.
    pub has_received: bool,
}

struct Inner<M, O, R: Runtime> {
    driver: Driver<'static>,
    machine: M,
    owner: O,
    /// Gone after the end, so that the ports are free although handles still exist.
    sockets: Option<R::Sockets>,
    /// Who makes the turns, while that one waits.
    task: Option<R::Waker>,
    /// The deadline that it waits for.
    until: Option<Instant>,
    /// A call that is likely to have queued something was not followed by sending.
    has_words: bool,
    /// Turns since one has asked all sockets, and the event queue after them.
    unasked: u32,
    /// Ends when everything queued is sent, or at this time.
    stop: Option<Instant>,
    /// Ends at this time, whatever is queued.
    last: Option<Instant>,
    ended: Waiters<'static, (), R::Waker>,
}

/// A machine, its owner and its sockets behind one lock.
pub struct Shared<M, O, R: Runtime> {
    inner: Mutex<Inner<M, O, R>>,
    host: R::Host,
}

impl<M, O, R: Runtime> fmt::Debug for Shared<M, O, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl<M: Machine, O: Owner<M, R>, R: Runtime> Shared<M, O, R> {
    /// `host` has the clock that the machine was constructed with.
    pub fn new(machine: M, owner: O, sockets: R::Sockets, host: R::Host) -> Self {
        let inner = Inner {
            driver: Driver::boxed(R::BUDGET),
            machine,
            owner,
            sockets: Some(sockets),
            task: None,
            until: None,
            has_words: false,
            unasked: 0,
            stop: None,
            last: None,
            ended: Waiters::<(), R::Waker>::boxed(END_WAITERS),
        };
        Shared { inner: Mutex::new(inner), host }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<M, O, R>> {
        self.inner.lock().expect("the machine has panicked")
    }

    /// What this machine is called among its neighbours.
    pub(super) fn name(&self) -> Name {
        Name(core::ptr::from_ref(self).addr())
    }

    /// Whether a call of the machine has panicked; every other call here panics then.
    pub fn is_broken(&self) -> bool {
        self.inner.is_poisoned()
    }

    // ---- for everybody ----

    /// Calls the machine. What that queues is sent at once if it may be an answer to what has
    /// just been received, see [`Driver::answer`], and soon after otherwise: who makes the turns
    /// is woken. `call` must not block, and must not come back here.
    pub fn with<T>(&self, call: impl FnOnce(Access<'_, M, O>) -> T) -> T {
        self.enter(self.lock(), true, call)
    }

    /// The same for calls that rarely have consequences (reading, asking): who makes the turns
    /// is woken only if the machine has a deadline that is not yet waited for.
    pub fn peek<T>(&self, call: impl FnOnce(Access<'_, M, O>) -> T) -> T {
        self.enter(self.lock(), false, call)
    }

    /// [`Shared::with`] of what is dropped, perhaps because its thread panics: a machine that has
    /// panicked is left alone, because a second panic ends the process.
    pub(crate) fn with_unless_broken(&self, call: impl FnOnce(Access<'_, M, O>)) {
        if let Ok(inner) = self.inner.lock() {
            self.enter(inner, true, call);
        }
    }

    /// [`Shared::peek`], likewise.
    pub(crate) fn peek_unless_broken(&self, call: impl FnOnce(Access<'_, M, O>)) {
        if let Ok(inner) = self.inner.lock() {
            self.enter(inner, false, call);
        }
    }

    fn enter<T>(
        &self,
        mut inner: MutexGuard<'_, Inner<M, O, R>>,
        wake: bool,
        call: impl FnOnce(Access<'_, M, O>) -> T,
    ) -> T {
        let mut woken = Vec::new();
        let (result, task, has_sent) = {
            let sends = inner.driver.stats().sends;
            let Inner { driver, machine, owner, sockets, .. } = &mut *inner;
            let now = self.host.now();
            let result = call(Access { now, machine, owner });
            owner.take_woken(&mut woken);
            let is_sent =
                wake && sockets.as_mut().is_some_and(|io| driver.answer(now, machine, io));
            inner.has_words |= wake && !is_sent;
            let task = if wake && !is_sent || inner.is_late() { inner.task.take() } else { None };
            (result, task, inner.driver.stats().sends != sends)
        };
        drop(inner);
        woken.into_iter().chain(task).for_each(Waken::wake);
        if has_sent {
            neighbours::nudge(self.name());
        }
        result
    }

    /// The clock of this machine, and what else its host has.
    pub fn host(&self) -> R::Host {
        self.host
    }

    /// What the sockets did so far.
    pub fn io_stats(&self) -> IoStats {
        *self.lock().driver.stats()
    }

    /// The addresses that the main socket is bound to; none after the end.
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.lock().sockets.as_ref().map(|sockets| sockets.local_addresses()).unwrap_or_default()
    }

    /// Whether the main socket can send to an address of this family.
    pub fn reaches(&self, remote: SocketAddr) -> bool {
        self.lock().sockets.as_ref().is_some_and(|sockets| sockets.reaches(remote))
    }

    /// Calls `call` with the sockets, to register them with an event queue, say; `None` after
    /// the end.
    pub fn with_sockets<T>(&self, call: impl FnOnce(&mut R::Sockets) -> T) -> Option<T> {
        self.lock().sockets.as_mut().map(call)
    }

    /// Lets the turns end as soon as everything that is queued now was sent, and in any case
    /// after `linger`.
    pub fn stop(&self, linger: Duration) {
        let task = {
            let Ok(mut inner) = self.inner.lock() else { return };
            let at = self.host.now() + linger;
            inner.stop = Some(inner.stop.map_or(at, |earlier| earlier.min(at)));
            inner.task.take()
        };
        task.into_iter().for_each(Waken::wake);
    }

    /// Lets the turns end after `linger` if nobody else has made them end before, whether
    /// something is queued or not.
    pub(crate) fn stop_at_last(&self, linger: Duration) {
        let task = {
            let Ok(mut inner) = self.inner.lock() else { return };
            let at = self.host.now() + linger;
            inner.last = Some(inner.last.map_or(at, |earlier| earlier.min(at)));
            inner.task.take()
        };
        task.into_iter().for_each(Waken::wake);
    }

    /// Whether the turns have ended and the sockets are closed.
    pub fn is_ended(&self) -> bool {
        self.lock().sockets.is_none()
    }

    /// Waits for the end.
    pub fn poll_ended(&self, ticket: &mut Ticket, waker: &R::Waker) -> Poll<()> {
        let evicted = {
            let mut inner = self.lock();
            if inner.sockets.is_none() {
                inner.ended.leave(ticket);
                return Poll::Ready(());
            }
            inner.ended.park(ticket, (), waker)
        };
        evicted.into_iter().for_each(Waken::wake);
        Poll::Pending
    }

    /// Does not wait for the end any more.
    pub fn leave_ended(&self, ticket: &mut Ticket) {
        if let Ok(mut inner) = self.inner.lock() {
            inner.ended.leave(ticket);
        }
    }

    // ---- for the one who makes the turns ----

    /// Ends the machine without sending what is queued, because nobody will make turns any
    /// more. Nothing happens after the end.
    pub fn abandon(&self) {
        let mut woken = Vec::new();
        // Of a machine that has panicked nobody awaits anything but a panic.
        if let Ok(mut inner) = self.inner.lock() {
            inner.end(&mut woken);
        }
        woken.into_iter().for_each(Waken::wake);
    }

    /// One turn and, if there is nothing more to do, registration for everything that `waker`
    /// has to be woken for, except the deadline.
    ///
    /// `is_ready` is called under the lock with the sockets, and whether one of them has
    /// refused a packet: it registers for readability (and writability) and tells whether
    /// there is some already, come since the turn found the sockets empty. It is called now and
    /// then although there is more to do, so that those sockets are heard of that the turn has
    /// not asked. `woken` is empty before and after; it keeps its memory.
    pub fn turn(
        &self,
        waker: &R::Waker,
        woken: &mut Vec<R::Waker>,
        is_ready: impl FnOnce(&mut R::Sockets, bool) -> bool,
    ) -> Made {
        let (made, has_sent) = self.lock().turn(&self.host, waker, woken, is_ready);
        woken.drain(..).for_each(Waken::wake);
        if has_sent {
            neighbours::nudge(self.name());
        }
        made
    }

    /// Sends what calls have queued since the last turn and does nothing else
    /// ([`Driver::flush`]); a turn has to follow. What reading has queued is that turn's, which
    /// receives first: a window that opens can wait for the acknowledgement of what is there.
    pub fn flush(&self) {
        let inner = &mut *self.lock();
        if let Some(sockets) = &mut inner.sockets
            && core::mem::take(&mut inner.has_words)
        {
            inner.driver.flush(&self.host, &mut inner.machine, sockets);
        }
    }
}

impl<M: Machine, O: Owner<M, R>, R: Runtime> Inner<M, O, R> {
    /// Closes the sockets and tells everybody, once.
    fn end(&mut self, woken: &mut Vec<R::Waker>) {
        if self.sockets.take().is_some() {
            self.owner.handle_end();
            self.owner.take_woken(woken);
            self.ended.take(&(), |waker| woken.push(waker));
        }
    }

    /// Whether the machine wants to be called before the deadline that is waited for.
    fn is_late(&self) -> bool {
        match (self.machine.poll_timeout(), self.until) {
            (Some(timeout), Some(until)) => timeout.at < until,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    fn turn(
        &mut self,
        host: &R::Host,
        waker: &R::Waker,
        woken: &mut Vec<R::Waker>,
        is_ready: impl FnOnce(&mut R::Sockets, bool) -> bool,
    ) -> (Made, bool) {
        let sends = self.driver.stats().sends;
        let next = self.next(host, waker, woken, is_ready);
        let next = self.end_at_last(host, woken, next);
        let has_received = self.driver.has_received();
        (Made { next, has_received }, self.driver.stats().sends != sends)
    }

    /// What is next if there is a time at which the turns end in any case.
    fn end_at_last(&mut self, host: &R::Host, woken: &mut Vec<R::Waker>, next: Next) -> Next {
        let Some(last) = self.last.filter(|_| next != Next::End) else { return next };
        if last <= host.now() {
            self.end(woken);
            return Next::End;
        }
        let Next::Wait { until } = next else { return next };
        let until = Some(until.map_or(last, |until| until.min(last)));
        self.until = until;
        Next::Wait { until }
    }

    fn next(
        &mut self,
        host: &R::Host,
        waker: &R::Waker,
        woken: &mut Vec<R::Waker>,
        is_ready: impl FnOnce(&mut R::Sockets, bool) -> bool,
    ) -> Next {
        if !self.task.as_ref().is_some_and(|task| task.is_same(waker)) {
            self.task = Some(waker.clone());
        }
        self.has_words = false;
        let Some(sockets) = &mut self.sockets else { return Next::End };
        let is_due = self.unasked >= UNASKED_MAX;
        let is_trial = !is_due && self.driver.expects_answers();
        if is_trial {
            sockets.expect(u32::MAX);
        }
        let turn = self.driver.turn(host, &mut self.machine, sockets, &mut self.owner);
        if is_trial {
            // One that was not over would go on for as long as there is something.
            sockets.expect(0);
        }
        let is_asking = is_due || matches!(turn, Turn::Wait { .. });
        self.unasked = if is_asking && !is_trial { 0 } else { self.unasked + 1 };
        self.owner.take_woken(woken);
        let is_drained = matches!(turn, Turn::Wait { writable: false, .. });
        if self.stop.is_some_and(|at| is_drained || at <= host.now()) {
            self.end(woken);
            return Next::End;
        }
        let Turn::Wait { until, writable } = turn else {
            if is_asking {
                is_ready(sockets, self.driver.is_blocked());
            }
            return Next::Again;
        };
        let is_ready = is_ready(sockets, writable);
        let until = match (until, self.stop) {
            (Some(until), Some(stop)) => Some(until.min(stop)),
            (until, stop) => until.or(stop),
        };
        self.until = until;
        if is_ready { Next::Again } else { Next::Wait { until } }
    }
}
