//! A node's application side: what handles of any runtime are made of.
//!
//! A handle's operation is a poll: it tries, and if that would block it parks a waker. The hub
//! is the outlet's half of it, too: events wake those who wait. It owns no node, so that an
//! adapter may keep node, driver and hub side by side behind one lock. Wakers that are due are
//! collected and taken with [`Hub::take_woken`], to be called without the lock.

use super::inbox::Inbox;
use super::waiters::{Side, StreamWaiters, Ticket, Waiters, Waken};
use crate::addr::{Address, Port, SocketAddress};
use crate::crypto::identity::IdentityKey;
use crate::limits::Limits;
use crate::node::{
    Answer, Command, CommandError, Event, Node, Reply, RequestError, RequestId, StreamEnd,
    StreamError, StreamId,
};
use crate::stats::{DropReason, Drops};
use crate::time::Instant;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::task::Poll;

/// Waiters over all listeners, datagram ports and requests; more than that take turns.
const WAITERS: usize = 1024;

/// What a task may wait for, streams apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    /// A stream to accept.
    Accept(Port),
    /// A datagram.
    Datagram(Port),
    /// The registry's answer.
    Request(RequestId),
    /// The node's registration.
    Registered,
}

/// Why a node will not become registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// This identity runs elsewhere now.
    #[error("another home has taken this identity over")]
    Fenced,
    /// The registry shows another key than the pinned one.
    #[error("the registry's key has changed")]
    RegistryKeyChanged {
        /// What we trust.
        pinned: IdentityKey,
        /// What it shows.
        shown: IdentityKey,
    },
    /// The registry's key is neither given nor pinned, and first use is forbidden.
    #[error("the registry's key is not known, and first use is forbidden")]
    RegistryUnknown(IdentityKey),
    /// The node was shut down.
    #[error("shut down")]
    Shutdown,
}

/// The application side of a node; `W` is the runtime's waker.
#[derive(Debug)]
pub struct Hub<W: 'static> {
    streams: StreamWaiters<'static, W>,
    waiters: Waiters<'static, WaitFor, W>,
    inboxes: BTreeMap<Port, Inbox>,
    inboxes_max: usize,
    woken: Vec<W>,
    drops: Drops,
    registered: Option<Address>,
    refusal: Option<Refusal>,
    is_closed: bool,
}

impl<W: Waken> Hub<W> {
    /// For a node with these limits. At most `limits.listeners` datagram ports can be bound.
    pub fn new(limits: &Limits) -> Self {
        Hub {
            streams: StreamWaiters::<W>::boxed(limits.streams),
            waiters: Waiters::<WaitFor, W>::boxed(WAITERS),
            inboxes: BTreeMap::new(),
            inboxes_max: limits.listeners,
            woken: Vec::new(),
            drops: Drops::new(),
            registered: None,
            refusal: None,
            is_closed: false,
        }
    }

    // ---- the driver's side ----

    /// Wakes those whom an event concerns. Events that are not about a handle, and those that
    /// the application wants to see as well, are given back.
    pub fn handle_event(&mut self, event: Event) -> Option<Event> {
        match event {
            Event::StreamReadable(id) => self.wake_stream(id, Side::Read),
            Event::StreamWritable(id) => self.wake_stream(id, Side::Write),
            Event::StreamOpened(id) | Event::StreamClosed(id, _) => {
                self.wake_stream(id, Side::Read);
                self.wake_stream(id, Side::Write);
            }
            Event::Acceptable(port) => self.wake(WaitFor::Accept(port)),
            Event::Answered(id) => self.wake(WaitFor::Request(id)),
            Event::Registered(address) => {
                self.registered = Some(address);
                self.refusal = None;
                self.wake(WaitFor::Registered);
                return Some(event);
            }
            Event::Fenced => {
                self.refuse(Refusal::Fenced);
                return Some(event);
            }
            Event::RegistryKeyChanged { pinned, shown } => {
                self.refuse(Refusal::RegistryKeyChanged { pinned, shown });
                return Some(event);
            }
            Event::RegistryUnknown(key) => {
                self.refuse(Refusal::RegistryUnknown(key));
                return Some(event);
            }
            other => return Some(other),
        }
        None
    }

    /// Queues an application datagram; one that finds no room is dropped and counted.
    pub fn handle_payload(&mut self, from: SocketAddress, to: Port, payload: &[u8]) {
        let Some(inbox) = self.inboxes.get_mut(&to) else {
            return self.drops.count(DropReason::NoListener);
        };
        if !inbox.push(from, payload) {
            return self.drops.count(DropReason::Inbox);
        }
        if inbox.len() == 1 {
            self.wake(WaitFor::Datagram(to));
        }
    }

    /// Everything that waits, and would wait from now on, ends with "shut down".
    pub fn close(&mut self) {
        self.is_closed = true;
        self.refusal.get_or_insert(Refusal::Shutdown);
        let woken = &mut self.woken;
        self.streams.take_all(|waker| woken.push(waker));
        self.waiters.take_all(|waker| woken.push(waker));
    }

    /// Whether [`Hub::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Moves the wakers that are due to the end of `out`.
    pub fn take_woken(&mut self, out: &mut Vec<W>) {
        out.append(&mut self.woken);
    }

    /// Datagrams dropped here, after the node had accepted them.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.registered = None;
        self.refusal = Some(refusal);
        self.wake(WaitFor::Registered);
    }

    fn wake_stream(&mut self, id: StreamId, side: Side) {
        self.woken.extend(self.streams.take(id, side));
    }

    fn wake(&mut self, what: WaitFor) {
        let woken = &mut self.woken;
        self.waiters.take(&what, |waker| woken.push(waker));
    }

    // ---- streams ----

    fn pend_stream<T>(
        &mut self,
        id: StreamId,
        side: Side,
        waker: &W,
    ) -> Poll<Result<T, StreamError>> {
        if self.is_closed {
            return Poll::Ready(Err(StreamError::Ended(StreamEnd::Shutdown)));
        }
        self.streams.park(id, side, waker);
        Poll::Pending
    }

    /// Begins a handle for a stream.
    pub fn adopt(&mut self, id: StreamId) {
        self.streams.adopt(id);
    }

    /// Ends the handle of a stream; see [`Node::release`].
    pub fn release(&mut self, node: &mut Node<'_>, now: Instant, id: StreamId) {
        self.streams.forget(id);
        node.release(now, id);
    }

    /// The streams that have a handle.
    pub fn streams(&self) -> impl Iterator<Item = StreamId> {
        self.streams.iter()
    }

    /// Reads; 0 is the end of the stream (or an empty `buf`).
    pub fn poll_read(
        &mut self,
        node: &mut Node<'_>,
        now: Instant,
        id: StreamId,
        buf: &mut [u8],
        waker: &W,
    ) -> Poll<Result<usize, StreamError>> {
        let Some(mut stream) = node.stream(id) else { return gone() };
        match stream.read(now, buf) {
            Err(StreamError::WouldBlock) => self.pend_stream(id, Side::Read, waker),
            // Both directions have ended well, and all that was received has been read.
            Err(StreamError::Ended(StreamEnd::Closed)) => Poll::Ready(Ok(0)),
            result => Poll::Ready(result),
        }
    }

    /// Writes; the number says how many bytes were accepted into the bounded send ring.
    pub fn poll_write(
        &mut self,
        node: &mut Node<'_>,
        now: Instant,
        id: StreamId,
        bytes: &[u8],
        waker: &W,
    ) -> Poll<Result<usize, StreamError>> {
        if self.is_closed {
            // The node might take them, but nobody sends them any more.
            return Poll::Ready(Err(StreamError::Ended(StreamEnd::Shutdown)));
        }
        let Some(mut stream) = node.stream(id) else { return gone() };
        match stream.write(now, bytes) {
            Err(StreamError::WouldBlock) => self.pend_stream(id, Side::Write, waker),
            result => Poll::Ready(result),
        }
    }

    /// Waits until the opening handshake is over.
    pub fn poll_open(
        &mut self,
        node: &mut Node<'_>,
        id: StreamId,
        waker: &W,
    ) -> Poll<Result<(), StreamError>> {
        let Some(stream) = node.stream(id) else { return gone() };
        match (stream.is_open(), stream.end()) {
            (_, Some(end)) => Poll::Ready(Err(StreamError::Ended(end))),
            (true, None) => Poll::Ready(Ok(())),
            (false, None) => self.pend_stream(id, Side::Write, waker),
        }
    }

    /// Waits until the peer has acknowledged everything written, and FIN if finished.
    pub fn poll_acknowledged(
        &mut self,
        node: &mut Node<'_>,
        id: StreamId,
        waker: &W,
    ) -> Poll<Result<(), StreamError>> {
        let Some(stream) = node.stream(id) else { return gone() };
        let end = stream.end();
        match (stream.is_acknowledged(), end) {
            (true, _) | (_, Some(StreamEnd::Closed)) => Poll::Ready(Ok(())),
            (false, Some(end)) => Poll::Ready(Err(StreamError::Ended(end))),
            (false, None) => self.pend_stream(id, Side::Write, waker),
        }
    }

    // ---- listeners, datagrams, requests ----

    fn pend<T, E>(
        &mut self,
        ticket: &mut Ticket,
        what: WaitFor,
        waker: &W,
        closed: E,
    ) -> Poll<Result<T, E>> {
        if self.is_closed {
            return Poll::Ready(Err(closed));
        }
        self.woken.extend(self.waiters.park(ticket, what, waker));
        Poll::Pending
    }

    /// Gives up waiting: the future was dropped.
    pub fn leave(&mut self, ticket: &mut Ticket) {
        self.waiters.leave(ticket);
    }

    /// The next stream of a listener, adopted.
    pub fn poll_accept(
        &mut self,
        node: &mut Node<'_>,
        port: Port,
        ticket: &mut Ticket,
        waker: &W,
    ) -> Poll<Result<StreamId, Refusal>> {
        match node.accept(port) {
            Some(id) => {
                self.leave(ticket);
                self.adopt(id);
                Poll::Ready(Ok(id))
            }
            None => self.pend(ticket, WaitFor::Accept(port), waker, Refusal::Shutdown),
        }
    }

    /// Binds a port for datagrams and makes its inbox.
    pub fn bind_datagrams(
        &mut self,
        node: &mut Node<'_>,
        now: Instant,
        port: Port,
    ) -> Result<Port, CommandError> {
        if self.inboxes.len() >= self.inboxes_max {
            return Err(CommandError::Full);
        }
        let port = match node.command(now, Command::BindDatagrams { port })? {
            Reply::Port(port) => port,
            _ => port,
        };
        self.inboxes.insert(port, Inbox::default());
        Ok(port)
    }

    /// Releases a datagram port; what waits there is lost.
    pub fn unbind_datagrams(&mut self, node: &mut Node<'_>, now: Instant, port: Port) {
        self.inboxes.remove(&port);
        // The only failure is a port that is not bound, which is what was wanted.
        let _ = node.command(now, Command::UnbindDatagrams { port });
        self.wake(WaitFor::Datagram(port));
    }

    /// The oldest datagram of a port; what exceeds `buf` is lost.
    pub fn poll_datagram(
        &mut self,
        port: Port,
        ticket: &mut Ticket,
        buf: &mut [u8],
        waker: &W,
    ) -> Poll<Result<(usize, SocketAddress), Refusal>> {
        let Some(inbox) = self.inboxes.get_mut(&port) else {
            return Poll::Ready(Err(Refusal::Shutdown));
        };
        match inbox.pop(buf) {
            Some(datagram) => {
                let more = !inbox.is_empty();
                self.leave(ticket);
                if more {
                    // The inbox wakes all when it fills; those who came too late for the first
                    // datagram have parked again and are due for this one.
                    self.wake(WaitFor::Datagram(port));
                }
                Poll::Ready(Ok(datagram))
            }
            None => self.pend(ticket, WaitFor::Datagram(port), waker, Refusal::Shutdown),
        }
    }

    /// The answer to a request, made one's own by `own`; its place in the node is then free.
    pub fn poll_answer<T>(
        &mut self,
        node: &mut Node<'_>,
        id: RequestId,
        ticket: &mut Ticket,
        waker: &W,
        own: impl FnOnce(Answer<'_>) -> T,
    ) -> Poll<Result<T, RequestError>> {
        match node.answer(id) {
            Some(answer) => {
                let answer = answer.map(own);
                node.forget(id);
                self.leave(ticket);
                Poll::Ready(answer)
            }
            None => self.pend(ticket, WaitFor::Request(id), waker, RequestError::Unreachable),
        }
    }

    /// Waits until the node is registered, and yields its address.
    pub fn poll_registered(
        &mut self,
        ticket: &mut Ticket,
        waker: &W,
    ) -> Poll<Result<Address, Refusal>> {
        match (self.refusal, self.registered) {
            (Some(refusal), _) => Poll::Ready(Err(refusal)),
            (None, Some(address)) => Poll::Ready(Ok(address)),
            (None, None) => self.pend(ticket, WaitFor::Registered, waker, Refusal::Shutdown),
        }
    }
}

/// The node has no such stream any more: released elsewhere, which a handle prevents.
fn gone<T>() -> Poll<Result<T, StreamError>> {
    Poll::Ready(Err(StreamError::Ended(StreamEnd::Reset)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::NodeId;
    use crate::node::Link;

    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Number(u32);

    impl Waken for Number {
        fn is_same(&self, other: &Self) -> bool {
            self == other
        }

        fn wake(self) {}
    }

    fn hub() -> Hub<Number> {
        Hub::new(&Limits::small())
    }

    fn woken(hub: &mut Hub<Number>) -> Vec<Number> {
        let mut out = Vec::new();
        hub.take_woken(&mut out);
        out
    }

    fn stream(index: u64) -> StreamId {
        StreamId(crate::slab::Key::from_bits(index))
    }

    const HERE: Address = Address::backbone(NodeId(16));

    #[test]
    fn events_wake_whom_they_concern() {
        let mut hub = hub();
        let (a, b) = (stream(0), stream(1));
        for (id, n) in [(a, 10), (b, 20)] {
            hub.adopt(id);
            let _ = hub.pend_stream::<()>(id, Side::Read, &Number(n));
            let _ = hub.pend_stream::<()>(id, Side::Write, &Number(n + 1));
        }
        assert_eq!(hub.handle_event(Event::StreamReadable(a)), None);
        assert_eq!(woken(&mut hub), [Number(10)]);
        assert_eq!(hub.handle_event(Event::StreamWritable(b)), None);
        assert_eq!(woken(&mut hub), [Number(21)]);
        assert_eq!(hub.handle_event(Event::StreamClosed(b, StreamEnd::Aborted)), None);
        assert_eq!(woken(&mut hub), [Number(20)]);
        assert_eq!(hub.handle_event(Event::StreamOpened(a)), None);
        assert_eq!(woken(&mut hub), [Number(11)]);
        let offline = Event::LinkChanged(Link::Offline);
        assert_eq!(hub.handle_event(offline), Some(offline));
        assert_eq!(hub.streams().collect::<Vec<_>>(), [a, b]);
    }

    #[test]
    fn ports_and_requests_are_told_apart() {
        let mut hub = hub();
        let waits = [
            WaitFor::Accept(Port(7)),
            WaitFor::Accept(Port(8)),
            WaitFor::Datagram(Port(7)),
            WaitFor::Request(RequestId(7)),
        ];
        let mut tickets = [Ticket::NONE; 4];
        for (n, what) in waits.into_iter().enumerate() {
            let pending: Poll<Result<(), ()>> =
                hub.pend(&mut tickets[n], what, &Number(n as u32), ());
            assert!(pending.is_pending());
        }
        assert_eq!(hub.handle_event(Event::Acceptable(Port(7))), None);
        assert_eq!(woken(&mut hub), [Number(0)]);
        assert_eq!(hub.handle_event(Event::Answered(RequestId(7))), None);
        assert_eq!(woken(&mut hub), [Number(3)]);
    }

    #[test]
    fn a_datagram_wakes_its_port_once_and_an_unbound_one_is_counted() {
        let mut hub = hub();
        let from = SocketAddress { address: HERE, port: Port(1) };
        hub.handle_payload(from, Port(5), b"lost");
        assert_eq!(hub.drops().get(DropReason::NoListener), 1);
        hub.inboxes.insert(Port(5), Inbox::default());
        let (mut first, mut second) = (Ticket::NONE, Ticket::NONE);
        let mut buf = [0; 8];
        assert!(hub.poll_datagram(Port(5), &mut first, &mut buf, &Number(1)).is_pending());
        assert!(hub.poll_datagram(Port(5), &mut second, &mut buf, &Number(2)).is_pending());
        hub.handle_payload(from, Port(5), b"a");
        assert_eq!(woken(&mut hub), [Number(1), Number(2)]);
        // The second finds nothing, parks again, and is woken although the inbox was never
        // empty when the next ones came.
        let got = hub.poll_datagram(Port(5), &mut first, &mut buf, &Number(1));
        assert_eq!(got, Poll::Ready(Ok((1, from))));
        hub.handle_payload(from, Port(5), b"bc");
        assert!(woken(&mut hub).is_empty());
        hub.handle_payload(from, Port(5), b"def");
        assert!(hub.poll_datagram(Port(5), &mut first, &mut buf, &Number(1)).is_ready());
        let got = hub.poll_datagram(Port(5), &mut second, &mut buf, &Number(2));
        assert_eq!(got, Poll::Ready(Ok((3, from))));
        hub.handle_payload(from, Port(5), &[0; 100]);
        assert!(hub.poll_datagram(Port(5), &mut first, &mut buf, &Number(1)).is_ready());
        for _ in 0..5000 {
            hub.handle_payload(from, Port(5), &[0; 1000]);
        }
        assert!(hub.drops().get(DropReason::Inbox) > 4000);
    }

    #[test]
    fn registration_and_its_refusal_are_seen_by_those_who_wait_and_those_who_ask_later() {
        let mut hub = hub();
        let mut ticket = Ticket::NONE;
        assert!(hub.poll_registered(&mut ticket, &Number(1)).is_pending());
        assert!(hub.handle_event(Event::Registered(HERE)).is_some());
        assert_eq!(woken(&mut hub), [Number(1)]);
        assert_eq!(hub.poll_registered(&mut ticket, &Number(1)), Poll::Ready(Ok(HERE)));
        assert!(hub.handle_event(Event::Fenced).is_some());
        let fenced = Poll::Ready(Err(Refusal::Fenced));
        assert_eq!(hub.poll_registered(&mut ticket, &Number(1)), fenced);
        hub.close();
        assert_eq!(hub.poll_registered(&mut ticket, &Number(1)), fenced);
    }

    #[test]
    fn closing_wakes_everybody_and_nobody_parks_afterwards() {
        let mut hub = hub();
        let id = stream(3);
        hub.adopt(id);
        let _ = hub.pend_stream::<()>(id, Side::Read, &Number(1));
        let mut ticket = Ticket::NONE;
        assert!(hub.poll_registered(&mut ticket, &Number(2)).is_pending());
        hub.close();
        assert_eq!(woken(&mut hub), [Number(1), Number(2)]);
        let end = StreamError::Ended(StreamEnd::Shutdown);
        assert_eq!(hub.pend_stream::<()>(id, Side::Read, &Number(1)), Poll::Ready(Err(end)));
        let refused = Poll::Ready(Err(Refusal::Shutdown));
        assert_eq!(hub.poll_registered(&mut ticket, &Number(2)), refused);
        assert!(woken(&mut hub).is_empty());
    }
}
