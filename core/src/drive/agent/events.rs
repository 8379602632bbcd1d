//! News for any number of receivers, bounded.

use super::event::AgentEvent;
use super::handle::Handle;
use crate::drive::runtime::{AsyncRuntime, Runtime};
use crate::drive::waiters::{Ticket, Waiters, Waken};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;

/// Events that a receiver may be behind.
pub const EVENTS: usize = 256;
/// Receivers that may wait at once; more than that take turns.
const WAITERS: usize = 64;

/// Why a receiver has no event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecvError {
    /// The receiver was too far behind and has missed this many events. The next call yields
    /// the oldest that is left.
    #[error("{0} events were missed")]
    Lagged(u64),
    /// The agent has ended, and everything was received.
    #[error("the agent has ended")]
    Closed,
}

/// Where a receiver is: the number of the next event that it wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cursor(u64);

/// The last [`EVENTS`] events, and who waits for the next one.
pub(crate) struct EventLog<W: 'static> {
    ring: VecDeque<AgentEvent>,
    /// The number of the event that comes next; the ring ends before it.
    next: u64,
    /// Whether somebody has asked for events.
    is_read: bool,
    is_closed: bool,
    waiters: Waiters<'static, (), W>,
    woken: Vec<W>,
}

impl<W> fmt::Debug for EventLog<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventLog({} of {})", self.ring.len(), self.next)
    }
}

impl<W: Waken> Default for EventLog<W> {
    fn default() -> Self {
        EventLog {
            ring: VecDeque::new(),
            next: 0,
            is_read: false,
            is_closed: false,
            waiters: Waiters::<(), W>::boxed(WAITERS),
            woken: Vec::new(),
        }
    }
}

impl<W: Waken> EventLog<W> {
    /// Adds an event; the oldest goes when there are [`EVENTS`].
    pub(crate) fn push(&mut self, event: AgentEvent) {
        if self.ring.len() == EVENTS {
            self.ring.pop_front();
        }
        self.ring.push_back(event);
        self.next += 1;
        self.wake();
    }

    /// Nothing comes any more.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
        self.wake();
    }

    fn wake(&mut self) {
        let woken = &mut self.woken;
        self.waiters.take(&(), |waker| woken.push(waker));
    }

    pub(crate) fn take_woken(&mut self, out: &mut Vec<W>) {
        out.append(&mut self.woken);
    }

    /// A receiver of everything from now on; the first one also gets what was before.
    pub(crate) fn subscribe(&mut self) -> Cursor {
        let was_read = core::mem::replace(&mut self.is_read, true);
        Cursor(if was_read { self.next } else { 0 })
    }

    /// A receiver of what comes from now on, which leaves what was before to another.
    pub(crate) fn follow(&self) -> Cursor {
        Cursor(self.next)
    }

    /// The event at the cursor, which moves on; `None`: not yet.
    pub(crate) fn take(&mut self, cursor: &mut Cursor) -> Option<Result<AgentEvent, RecvError>> {
        let oldest = self.next - self.ring.len() as u64;
        if cursor.0 < oldest {
            let missed = oldest - cursor.0;
            cursor.0 = oldest;
            return Some(Err(RecvError::Lagged(missed)));
        }
        let event = usize::try_from(cursor.0 - oldest).ok().and_then(|at| self.ring.get(at));
        match event {
            Some(event) => {
                cursor.0 += 1;
                Some(Ok(*event))
            }
            None => self.is_closed.then_some(Err(RecvError::Closed)),
        }
    }

    /// Waits for the event at the cursor.
    pub(crate) fn poll(
        &mut self,
        cursor: &mut Cursor,
        ticket: &mut Ticket,
        waker: &W,
    ) -> Poll<Result<AgentEvent, RecvError>> {
        match self.take(cursor) {
            Some(result) => {
                self.waiters.leave(ticket);
                Poll::Ready(result)
            }
            None => {
                self.woken.extend(self.waiters.park(ticket, (), waker));
                Poll::Pending
            }
        }
    }

    pub(crate) fn leave(&mut self, ticket: &mut Ticket) {
        self.waiters.leave(ticket);
    }
}

/// Receives an agent's news; see [`Handle::events`]. It does not keep the agent alive.
pub struct Events<R: Runtime> {
    handle: Handle<R>,
    cursor: Cursor,
    ticket: Ticket,
}

impl<R: Runtime> fmt::Debug for Events<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("cursor", &self.cursor).finish_non_exhaustive()
    }
}

impl<R: Runtime> Events<R> {
    pub(super) fn new(handle: Handle<R>) -> Self {
        let cursor = handle.peek(|access| access.owner.events.subscribe());
        Events { handle, cursor, ticket: Ticket::NONE }
    }

    /// For those within the agent: the application's first receiver still gets what was before.
    pub(crate) fn from_now(handle: Handle<R>) -> Self {
        let cursor = handle.peek(|access| access.owner.events.follow());
        Events { handle, cursor, ticket: Ticket::NONE }
    }

    /// The agent's handle.
    pub(crate) fn handle(&self) -> &Handle<R> {
        &self.handle
    }

    /// The next event, if there is one already.
    pub fn try_recv(&mut self) -> Option<Result<AgentEvent, RecvError>> {
        self.handle.peek(|access| access.owner.events.take(&mut self.cursor))
    }

    /// The next event, or `waker` is woken when there is one.
    pub fn poll_recv(&mut self, waker: &R::Waker) -> Poll<Result<AgentEvent, RecvError>> {
        let (cursor, ticket) = (&mut self.cursor, &mut self.ticket);
        self.handle.peek(|access| access.owner.events.poll(cursor, ticket, waker))
    }
}

impl<R: AsyncRuntime> Events<R> {
    /// Waits for the next event. Dropping the future loses none.
    pub async fn recv(&mut self) -> Result<AgentEvent, RecvError> {
        poll_fn(|cx| self.poll_recv(cx.waker())).await
    }
}

impl<R: Runtime> Drop for Events<R> {
    fn drop(&mut self) {
        if self.ticket != Ticket::NONE {
            let ticket = &mut self.ticket;
            self.handle.shared().peek_unless_broken(|access| access.owner.events.leave(ticket));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Address, NodeId};

    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Number(u32);

    impl Waken for Number {
        fn is_same(&self, other: &Self) -> bool {
            self == other
        }

        fn wake(self) {}
    }

    fn event(n: u32) -> AgentEvent {
        AgentEvent::TrustGranted(Address::backbone(NodeId(n)))
    }

    fn woken(log: &mut EventLog<Number>) -> Vec<Number> {
        let mut woken = Vec::new();
        log.take_woken(&mut woken);
        woken
    }

    #[test]
    fn the_first_receiver_gets_what_was_before_and_others_what_comes() {
        let mut log = EventLog::<Number>::default();
        log.push(event(1));
        let (mut first, mut second) = (log.subscribe(), log.subscribe());
        assert_eq!(log.take(&mut first), Some(Ok(event(1))));
        assert_eq!(log.take(&mut second), None);
        log.push(event(2));
        assert_eq!(log.take(&mut first), Some(Ok(event(2))));
        assert_eq!(log.take(&mut second), Some(Ok(event(2))));
        assert_eq!(log.take(&mut first), None);
    }

    #[test]
    fn who_is_too_far_behind_is_told_how_many_were_missed() {
        let mut log = EventLog::<Number>::default();
        let mut cursor = log.subscribe();
        for n in 0..EVENTS as u32 + 3 {
            log.push(event(n));
        }
        assert_eq!(log.ring.len(), EVENTS);
        assert_eq!(log.take(&mut cursor), Some(Err(RecvError::Lagged(3))));
        for n in 3..EVENTS as u32 + 3 {
            assert_eq!(log.take(&mut cursor), Some(Ok(event(n))));
        }
        assert_eq!(log.take(&mut cursor), None);
    }

    #[test]
    fn all_that_wait_are_woken_and_the_end_is_seen_after_the_last_event() {
        let mut log = EventLog::<Number>::default();
        let (mut a, mut b) = (log.subscribe(), log.subscribe());
        let (mut at, mut bt) = (Ticket::NONE, Ticket::NONE);
        assert!(log.poll(&mut a, &mut at, &Number(1)).is_pending());
        assert!(log.poll(&mut b, &mut bt, &Number(2)).is_pending());
        log.leave(&mut bt);
        log.push(event(1));
        assert_eq!(woken(&mut log), [Number(1)]);
        log.close();
        assert_eq!(log.poll(&mut a, &mut at, &Number(1)), Poll::Ready(Ok(event(1))));
        assert_eq!(log.poll(&mut a, &mut at, &Number(1)), Poll::Ready(Err(RecvError::Closed)));
        assert!(woken(&mut log).is_empty());
    }
}
