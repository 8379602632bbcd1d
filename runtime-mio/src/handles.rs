//! Handles that never wait.

use crate::agent::{inner, option};
use crate::wake::{Desk, Id, Waker, bit, lock};
use crate::{
    AgentEvent, Answer, ConnectError, DatagramsError, DirectoryError, Handle, ListenError, Mio,
    Port, RecvError, SendError, SocketAddress,
};
use pilot_core::drive::agent::KeepAlive;
use pilot_core::drive::waiters::Ticket;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::task::Poll;

/// The wakers of a handle; closed with it.
#[derive(Debug)]
struct Seat {
    first: Waker,
    second: Waker,
}

impl Seat {
    fn new(desk: &Arc<Desk>, first: u16, second: u16) -> Self {
        let first = Waker::listed(desk, first);
        Seat { second: first.with(second), first }
    }

    fn id(&self) -> Id {
        self.first.id()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.first.close();
    }
}

/// A seat, and a place among those who wait.
#[derive(Debug)]
struct Place {
    handle: Handle,
    seat: Seat,
    ticket: Mutex<Ticket>,
}

impl Place {
    fn new(agent: &KeepAlive<Mio>, desk: &Arc<Desk>, bit: u16) -> Self {
        let seat = Seat::new(desk, bit, bit);
        Place { handle: Handle::clone(agent), seat, ticket: Mutex::new(Ticket::NONE) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handle.leave(&mut lock(&self.ticket));
    }
}

fn would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// A reliable, ordered, encrypted stream of bytes in both directions, which never blocks.
/// Clones are the same stream, with the same id.
///
/// * **Reading** yields 0 bytes at the end. After [`io::ErrorKind::WouldBlock`] one
///   [`Ready::Readable`](crate::Ready::Readable) comes.
/// * **Writing** accepts bytes into a bounded ring. After [`io::ErrorKind::WouldBlock`], when
///   the ring is full, one [`Ready::Writable`](crate::Ready::Writable) comes. What was accepted
///   is sent by the next [`Driver::turn`](crate::Driver::turn) or before the next wait;
///   `flush` has nothing to do.
/// * [`Stream::finish`] ends the writing direction: the peer reads to the end; reading goes on.
/// * **Dropping** the last clone finishes, too (what was written is still sent), and discards
///   what is received from then on. It is not a reset; that is [`Stream::reset`].
///
/// Errors are [`io::Error`]s around a [`StreamFailure`](crate::StreamFailure), which says why.
#[derive(Clone, Debug)]
pub struct Stream {
    stream: inner::Stream,
    seat: Arc<Seat>,
}

impl Stream {
    fn new(stream: inner::Stream, desk: &Arc<Desk>) -> Self {
        let seat = Arc::new(Seat::new(desk, bit::READABLE, bit::WRITABLE));
        Stream { stream, seat }
    }

    /// Whose readiness is this stream's.
    pub fn id(&self) -> Id {
        self.seat.id()
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddress {
        self.stream.peer()
    }

    /// Our port.
    pub fn local_port(&self) -> Port {
        self.stream.local_port()
    }

    /// Ends the writing direction: the peer reads to the end. What was written is still sent.
    pub fn finish(&self) -> io::Result<()> {
        self.stream.finish()
    }

    /// Succeeds if the peer has acknowledged every byte written so far and, after
    /// [`Stream::finish`], the end, too. Otherwise it would block, and
    /// [`Ready::Writable`](crate::Ready::Writable) comes; that is one readiness for this and
    /// for writing.
    pub fn acknowledged(&self) -> io::Result<()> {
        would_block(self.stream.poll_acknowledged(&self.seat.second))
    }

    /// Ends both directions at once; the peer's reads and writes fail. What was written and
    /// not yet acknowledged may be lost.
    pub fn reset(&self) {
        self.stream.reset();
    }
}

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        would_block(self.stream.poll_read(&self.seat.first, buf))
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        would_block(self.stream.poll_write(&self.seat.second, bytes))
    }

    /// Accepted bytes are sent without being asked for.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reading and writing by an exclusive borrow, as by a shared one.
macro_rules! owned_stream_traits {
    ($stream:ty) => {
        impl Read for $stream {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                (&*self).read(buf)
            }
        }

        impl Write for $stream {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                (&*self).write(bytes)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
    };
}

pub(crate) use owned_stream_traits;

owned_stream_traits!(Stream);

/// A stream that is being opened. Dropping it gives up the attempt.
#[derive(Debug)]
pub struct Connecting {
    connecting: inner::Connecting,
    seat: Seat,
    desk: Arc<Desk>,
}

impl Connecting {
    pub(crate) fn new(connecting: inner::Connecting, desk: &Arc<Desk>) -> Self {
        let seat = Seat::new(desk, bit::CONNECTED, bit::CONNECTED);
        Connecting { connecting, seat, desk: Arc::clone(desk) }
    }

    /// Whose readiness is this attempt's.
    pub fn id(&self) -> Id {
        self.seat.id()
    }

    /// The open stream. `None`: the peer has not answered, for at most 90 seconds after which
    /// it counts as unreachable, and [`Ready::Connected`](crate::Ready::Connected) comes.
    pub fn try_stream(&mut self) -> Result<Option<Stream>, ConnectError> {
        let stream = option(self.connecting.poll(&self.seat.first))?;
        Ok(stream.map(|stream| Stream::new(stream, &self.desk)))
    }
}

/// Accepts streams on a port. Only trusted peers whose grant covers the port get this far.
///
/// A bounded number of streams waits to be accepted; when that many wait, further ones are
/// refused as busy. Dropping the listener closes the port and resets those that wait.
#[derive(Debug)]
pub struct Listener {
    place: Place,
    listener: inner::Listener,
    desk: Arc<Desk>,
}

impl Listener {
    pub(crate) fn new(listener: inner::Listener, agent: &KeepAlive<Mio>, desk: &Arc<Desk>) -> Self {
        let place = Place::new(agent, desk, bit::ACCEPTABLE);
        Listener { place, listener, desk: Arc::clone(desk) }
    }

    /// Whose readiness is this listener's.
    pub fn id(&self) -> Id {
        self.place.seat.id()
    }

    /// The port.
    pub fn port(&self) -> Port {
        self.listener.port()
    }

    /// The next stream and its other end. `None`: there is none, and
    /// [`Ready::Acceptable`](crate::Ready::Acceptable) comes.
    pub fn accept(&self) -> Result<Option<(Stream, SocketAddress)>, ListenError> {
        let mut ticket = lock(&self.place.ticket);
        let accepted = option(self.listener.poll_accept(&mut ticket, &self.place.seat.first))?;
        Ok(accepted.map(|stream| {
            let peer = stream.peer();
            (Stream::new(stream, &self.desk), peer)
        }))
    }
}

/// A port for datagrams: encrypted, authenticated, unreliable and unordered.
///
/// What is received waits in an inbox of 256 KiB and 1024 datagrams. When it is full, the
/// newest datagram is dropped and counted as `inbox` in [`Handle::drops`]. What is sent waits
/// in a queue of 64 per peer, from which the oldest is dropped. Dropping the handle releases
/// the port and discards its inbox.
#[derive(Debug)]
pub struct Datagrams {
    place: Place,
    datagrams: inner::Datagrams,
}

impl Datagrams {
    pub(crate) fn new(
        datagrams: inner::Datagrams,
        agent: &KeepAlive<Mio>,
        desk: &Arc<Desk>,
    ) -> Self {
        Datagrams { place: Place::new(agent, desk, bit::DATAGRAM), datagrams }
    }

    /// Whose readiness is this port's.
    pub fn id(&self) -> Id {
        self.place.seat.id()
    }

    /// Our port.
    pub fn port(&self) -> Port {
        self.datagrams.port()
    }

    /// Queues a datagram to a trusted peer.
    pub fn send_to(&self, payload: &[u8], to: SocketAddress) -> Result<(), SendError> {
        self.datagrams.send_to(payload, to)
    }

    /// Receives a datagram into `buf`; what does not fit there is lost. Its length and sender.
    /// `None`: there is none, and [`Ready::Datagram`](crate::Ready::Datagram) comes.
    pub fn recv_from(
        &self,
        buf: &mut [u8],
    ) -> Result<Option<(usize, SocketAddress)>, DatagramsError> {
        let mut ticket = lock(&self.place.ticket);
        option(self.datagrams.poll_recv(&mut ticket, buf, &self.place.seat.first))
    }
}

/// A question to the registry; forgotten when dropped, but perhaps carried out.
#[derive(Debug)]
pub struct Question {
    question: inner::Question,
    seat: Seat,
}

impl Question {
    pub(crate) fn new(question: inner::Question, desk: &Arc<Desk>) -> Self {
        Question { question, seat: Seat::new(desk, bit::ANSWERED, bit::ANSWERED) }
    }

    /// Whose readiness is this question's.
    pub fn id(&self) -> Id {
        self.seat.id()
    }

    /// The answer, once; afterwards there is only [`Answer::Done`]. `None`: not yet, and
    /// [`Ready::Answered`](crate::Ready::Answered) comes.
    pub fn try_answer(&mut self) -> Result<Option<Answer>, DirectoryError> {
        option(self.question.poll_answer(&self.seat.first))
    }
}

/// Receives an agent's news. It does not keep the agent alive.
#[derive(Debug)]
pub struct Events {
    events: inner::Events,
    seat: Seat,
}

impl Events {
    pub(crate) fn new(events: inner::Events, desk: &Arc<Desk>) -> Self {
        Events { events, seat: Seat::new(desk, bit::EVENT, bit::EVENT) }
    }

    /// Whose readiness is this receiver's.
    pub fn id(&self) -> Id {
        self.seat.id()
    }

    /// The next event. `None`: there is none, and [`Ready::Event`](crate::Ready::Event) comes.
    pub fn try_next(&mut self) -> Result<Option<AgentEvent>, RecvError> {
        option(self.events.poll_recv(&self.seat.first))
    }
}
