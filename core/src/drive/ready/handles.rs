//! Handles that never wait.

use super::agent::option;
use super::board::{Board, Waker, bit, lock};
use super::{Id, ReadyRuntime};
use crate::addr::{Port, SocketAddress};
use crate::drive::agent::{
    self, AgentEvent, Answer, ConnectError, DatagramsError, DirectoryError, Handle, KeepAlive,
    ListenError, RecvError, SendError, StreamHandle,
};
use crate::drive::waiters::Ticket;
use core::task::Poll;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

/// The wakers of a handle; closed with it.
#[derive(Debug)]
struct Seat {
    first: Waker,
    second: Waker,
}

impl Seat {
    fn new(board: &Board, first: u16, second: u16) -> Self {
        let first = Waker::listed(board, first);
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
struct Place<R: ReadyRuntime> {
    handle: Handle<R>,
    seat: Seat,
    ticket: Mutex<Ticket>,
}

impl<R: ReadyRuntime> Place<R> {
    fn new(agent: &KeepAlive<R>, board: &Board, bit: u16) -> Self {
        let seat = Seat::new(board, bit, bit);
        Place { handle: Handle::clone(agent), seat, ticket: Mutex::new(Ticket::NONE) }
    }
}

impl<R: ReadyRuntime> Drop for Place<R> {
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
///   [`super::Ready::Readable`] comes.
/// * **Writing** accepts bytes into a bounded ring. After [`io::ErrorKind::WouldBlock`], when
///   the ring is full, one [`super::Ready::Writable`] comes. What was accepted
///   is sent by the loop, before it waits the next time at the latest; `flush` has nothing to
///   do.
/// * [`Stream::finish`] ends the writing direction: the peer reads to the end; reading goes on.
/// * **Dropping** the last clone finishes, too (what was written is still sent), unless something
///   unread is there or comes: then both directions are reset, and what the peer does not have
///   yet is lost. Who wants to be sure waits for [`Stream::acknowledged`] first.
///
/// Errors are [`io::Error`]s around a [`agent::StreamFailure`], which says why.
#[derive(Debug)]
pub struct Stream<R: ReadyRuntime> {
    stream: StreamHandle<R>,
    seat: Arc<Seat>,
}

impl<R: ReadyRuntime> Clone for Stream<R> {
    fn clone(&self) -> Self {
        Stream { stream: self.stream.clone(), seat: Arc::clone(&self.seat) }
    }
}

impl<R: ReadyRuntime> Stream<R> {
    fn new(stream: StreamHandle<R>, board: &Board) -> Self {
        let seat = Arc::new(Seat::new(board, bit::READABLE, bit::WRITABLE));
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
    /// [`super::Ready::Writable`] comes; that is one readiness for this and
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

impl<R: ReadyRuntime> Read for &Stream<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        would_block(self.stream.poll_read(&self.seat.first, buf))
    }
}

impl<R: ReadyRuntime> Write for &Stream<R> {
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
    ($stream:ident) => {
        impl<R: ReadyRuntime> Read for $stream<R> {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                (&*self).read(buf)
            }
        }

        impl<R: ReadyRuntime> Write for $stream<R> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                (&*self).write(bytes)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
    };
}

pub(in super::super) use owned_stream_traits;

owned_stream_traits!(Stream);

/// A stream that is being opened. Dropping it gives up the attempt.
#[derive(Debug)]
pub struct Connecting<R: ReadyRuntime> {
    connecting: agent::Connecting<R>,
    seat: Seat,
    board: Board,
}

impl<R: ReadyRuntime> Connecting<R> {
    pub(crate) fn new(connecting: agent::Connecting<R>, board: &Board) -> Self {
        let seat = Seat::new(board, bit::CONNECTED, bit::CONNECTED);
        Connecting { connecting, seat, board: board.clone() }
    }

    /// Whose readiness is this attempt's.
    pub fn id(&self) -> Id {
        self.seat.id()
    }

    /// The open stream. `None`: the peer has not answered, for at most 90 seconds after which
    /// it counts as unreachable, and [`super::Ready::Connected`] comes.
    pub fn try_stream(&mut self) -> Result<Option<Stream<R>>, ConnectError> {
        let stream = option(self.connecting.poll(&self.seat.first))?;
        Ok(stream.map(|stream| Stream::new(stream, &self.board)))
    }
}

/// Accepts streams on a port. Only trusted peers whose grant covers the port get this far.
///
/// A bounded number of streams waits to be accepted; when that many wait, further ones are
/// refused as busy. Dropping the listener closes the port and resets those that wait.
#[derive(Debug)]
pub struct Listener<R: ReadyRuntime> {
    place: Place<R>,
    listener: agent::Listener<R>,
    board: Board,
}

impl<R: ReadyRuntime> Listener<R> {
    pub(crate) fn new(listener: agent::Listener<R>, agent: &KeepAlive<R>, board: &Board) -> Self {
        let place = Place::new(agent, board, bit::ACCEPTABLE);
        Listener { place, listener, board: board.clone() }
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
    /// [`super::Ready::Acceptable`] comes.
    pub fn accept(&self) -> Result<Option<(Stream<R>, SocketAddress)>, ListenError> {
        let mut ticket = lock(&self.place.ticket);
        let accepted = option(self.listener.poll_accept(&mut ticket, &self.place.seat.first))?;
        Ok(accepted.map(|stream| {
            let peer = stream.peer();
            (Stream::new(stream, &self.board), peer)
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
pub struct Datagrams<R: ReadyRuntime> {
    place: Place<R>,
    datagrams: agent::Datagrams<R>,
}

impl<R: ReadyRuntime> Datagrams<R> {
    pub(crate) fn new(datagrams: agent::Datagrams<R>, agent: &KeepAlive<R>, board: &Board) -> Self {
        Datagrams { place: Place::new(agent, board, bit::DATAGRAM), datagrams }
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
    /// `None`: there is none, and [`super::Ready::Datagram`] comes.
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
pub struct Question<R: ReadyRuntime> {
    question: agent::Question<R>,
    seat: Seat,
}

impl<R: ReadyRuntime> Question<R> {
    pub(crate) fn new(question: agent::Question<R>, board: &Board) -> Self {
        Question { question, seat: Seat::new(board, bit::ANSWERED, bit::ANSWERED) }
    }

    /// Whose readiness is this question's.
    pub fn id(&self) -> Id {
        self.seat.id()
    }

    /// The answer, once; afterwards there is only [`Answer::Done`]. `None`: not yet, and
    /// [`super::Ready::Answered`] comes.
    pub fn try_answer(&mut self) -> Result<Option<Answer>, DirectoryError> {
        option(self.question.poll_answer(&self.seat.first))
    }
}

/// Receives an agent's news. It does not keep the agent alive.
#[derive(Debug)]
pub struct Events<R: ReadyRuntime> {
    events: agent::Events<R>,
    seat: Seat,
}

impl<R: ReadyRuntime> Events<R> {
    pub(crate) fn new(events: agent::Events<R>, board: &Board) -> Self {
        Events { events, seat: Seat::new(board, bit::EVENT, bit::EVENT) }
    }

    /// Whose readiness is this receiver's.
    pub fn id(&self) -> Id {
        self.seat.id()
    }

    /// The next event. `None`: there is none, and [`super::Ready::Event`] comes.
    pub fn try_next(&mut self) -> Result<Option<AgentEvent>, RecvError> {
        option(self.events.poll_recv(&self.seat.first))
    }
}
