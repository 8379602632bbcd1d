//! Agents whose calls wait, each at most for a time that its caller gives, for adapters whose
//! loop runs on a thread of its own.
//!
//! Handles may be used by any thread, and shared.

use super::agent::{
    self, AgentEvent, Answer, Builder, ConnectError, DatagramsError, DirectoryError, Handle,
    KeepAlive, ListenError, ReadyError, RecvError, SendError, StreamHandle,
};
use super::ready::{ReadyRuntime, Waker, block, owned_stream_traits};
use super::waiters::Ticket;
use crate::addr::{Address, NetworkId, Port, SocketAddress};
use crate::crypto::identity::Identity;
use crate::name::Tags;
use crate::node::{AgentInfo, Command, Target};
use crate::time::Duration;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;
use core::task::Poll;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why a call that waits has no result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum WaitError<E> {
    /// The time is over. What was waited for may still come, and nothing of it is lost.
    TimedOut,
    /// The operation has failed.
    Failed(E),
}

impl<E: fmt::Display> fmt::Display for WaitError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitError::TimedOut => f.write_str("the time is over"),
            WaitError::Failed(error) => error.fmt(f),
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for WaitError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            WaitError::TimedOut => None,
            WaitError::Failed(error) => error.source(),
        }
    }
}

impl<E> WaitError<E> {
    /// The same of a larger operation.
    pub(super) fn into<F: From<E>>(self) -> WaitError<F> {
        match self {
            WaitError::TimedOut => WaitError::TimedOut,
            WaitError::Failed(error) => WaitError::Failed(error.into()),
        }
    }
}

/// A refusal before anything was waited for.
impl<E> From<E> for WaitError<E> {
    fn from(error: E) -> Self {
        WaitError::Failed(error)
    }
}

pub(super) fn wait<R: ReadyRuntime, T, E>(
    handle: &Handle<R>,
    timeout: Option<Duration>,
    poll: impl FnMut(&Waker) -> Poll<Result<T, E>>,
) -> Result<T, WaitError<E>> {
    block(&handle.shared().host(), timeout, poll)
        .ok_or(WaitError::TimedOut)?
        .map_err(WaitError::Failed)
}

/// The same with a place among those who wait, which is given back.
pub(super) fn wait_in_line<R: ReadyRuntime, T, E>(
    handle: &Handle<R>,
    timeout: Option<Duration>,
    mut poll: impl FnMut(&mut Ticket, &Waker) -> Poll<Result<T, E>>,
) -> Result<T, WaitError<E>> {
    let mut ticket = Ticket::NONE;
    let result = wait(handle, timeout, |waker| poll(&mut ticket, waker));
    handle.leave(&mut ticket);
    result
}

/// An agent: one identity on the network. Clones are handles of the same agent.
///
/// The agent lives as long as a handle, stream, listener or datagram port of it; when the last
/// one is dropped, peers are told in the background. [`Agent::shutdown`] does the same and
/// waits.
///
/// Every `timeout` is for the whole call, and `None` is for ever. How the agent stands, its
/// peers, and trust stand at [`Handle`].
#[derive(Debug)]
pub struct Agent<R: ReadyRuntime>(KeepAlive<R>);

impl<R: ReadyRuntime> Clone for Agent<R> {
    fn clone(&self) -> Self {
        Agent(self.0.clone())
    }
}

impl<R: ReadyRuntime> Deref for Agent<R> {
    type Target = Handle<R>;

    fn deref(&self) -> &Handle<R> {
        &self.0
    }
}

impl<R: ReadyRuntime> Agent<R> {
    /// Prepares an agent with this identity; the adapter starts it.
    pub fn builder(identity: Identity) -> Builder<R> {
        Builder::new(identity)
    }

    /// An agent whose loop runs on another thread.
    pub fn new(agent: KeepAlive<R>) -> Self {
        Agent(agent)
    }

    /// The agent, for those who wait by polls.
    pub fn keep_alive(&self) -> &KeepAlive<R> {
        &self.0
    }

    /// Waits until the registry has given or confirmed our address.
    pub fn ready(&self, timeout: Option<Duration>) -> Result<Address, WaitError<ReadyError>> {
        wait_in_line(&self.0, timeout, |ticket, waker| self.0.poll_ready(ticket, waker))
    }

    /// Opens a stream to a port of an agent that has granted us trust. A hostname is looked up
    /// in the default network first. Waits for the peer's answer, at most for the 90 seconds
    /// after which it counts as unreachable.
    pub fn connect(
        &self,
        to: impl Into<Target>,
        port: Port,
        timeout: Option<Duration>,
    ) -> Result<Stream<R>, WaitError<ConnectError>> {
        let mut connecting = self.0.begin_connect_to(to, port)?;
        Ok(Stream::new(wait(&self.0, timeout, |waker| connecting.poll(waker))?))
    }

    /// Accepts streams on a port; 0 takes a free one.
    pub fn listen(&self, port: Port) -> Result<Listener<R>, ListenError> {
        Ok(Listener { listener: self.0.listen(port)?, agent: Handle::clone(&self.0) })
    }

    /// Sends and receives datagrams on a port; 0 takes a free one.
    pub fn datagrams(&self, port: Port) -> Result<Datagrams<R>, DatagramsError> {
        Ok(Datagrams { datagrams: self.0.datagrams(port)?, agent: Handle::clone(&self.0) })
    }

    /// News from now on; see [`Handle::events`].
    pub fn events(&self) -> Events<R> {
        Events(self.0.events())
    }

    /// Asks the registry, and waits for its answer; see [`super::ready::Agent::ask`]. After the
    /// timeout the question is forgotten; it may have been carried out.
    pub fn ask(
        &self,
        command: Command<'_>,
        timeout: Option<Duration>,
    ) -> Result<Answer, WaitError<DirectoryError>> {
        let mut question = self.0.ask(command)?;
        wait(&self.0, timeout, |waker| question.poll_answer(waker))
    }

    /// Looks an agent up.
    pub fn resolve(
        &self,
        target: impl Into<Target>,
        network: Option<NetworkId>,
        timeout: Option<Duration>,
    ) -> Result<AgentInfo, WaitError<DirectoryError>> {
        let command = Command::Resolve { target: target.into(), network };
        Ok(self.ask(command, timeout)?.into_agent()?)
    }

    /// A page of public agents that have all of these tags, and the cursor of the next page if
    /// there is one. The first page has cursor 0.
    #[allow(clippy::type_complexity, reason = "a page, and where the next one begins")]
    pub fn discover(
        &self,
        tags: Tags,
        network: Option<NetworkId>,
        cursor: u64,
        timeout: Option<Duration>,
    ) -> Result<(Vec<AgentInfo>, Option<u64>), WaitError<DirectoryError>> {
        Ok(self.ask(Command::Discover { tags, network, cursor }, timeout)?.into_page())
    }

    /// Ends the agent: tells its peers, makes the last changes durable, closes the sockets.
    /// Takes four seconds at most. Streams end with [`crate::node::StreamEnd::Shutdown`]; wait for
    /// [`Stream::acknowledged`] before, where the peer has to have everything.
    pub fn shutdown(&self) {
        self.begin_shutdown();
        let mut ticket = Ticket::NONE;
        let _ = block(&self.shared().host(), None, |waker| self.poll_ended(&mut ticket, waker));
    }
}

/// A reliable, ordered, encrypted stream of bytes in both directions. Clones are the same
/// stream, so that one thread may read and another write.
///
/// Reading waits for a byte, the end or a failure, and writing for room in a bounded ring; if
/// the timeout set for it passes before, it fails with [`io::ErrorKind::TimedOut`]. Dropping
/// the last clone finishes (what was written is still sent), unless something unread is there or
/// comes: then both directions are reset, and what the peer does not have yet is lost. Who wants
/// to be sure waits for [`Stream::acknowledged`] first.
///
/// Errors are [`io::Error`]s around a [`agent::StreamFailure`], which says why.
#[derive(Debug)]
pub struct Stream<R: ReadyRuntime> {
    stream: StreamHandle<R>,
    /// For reading and for writing.
    timeouts: Arc<Mutex<[Option<Duration>; 2]>>,
}

impl<R: ReadyRuntime> Clone for Stream<R> {
    fn clone(&self) -> Self {
        Stream { stream: self.stream.clone(), timeouts: Arc::clone(&self.timeouts) }
    }
}

impl<R: ReadyRuntime> Stream<R> {
    fn new(stream: StreamHandle<R>) -> Self {
        Stream { stream, timeouts: Arc::default() }
    }

    fn timeouts(&self) -> MutexGuard<'_, [Option<Duration>; 2]> {
        self.timeouts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddress {
        self.stream.peer()
    }

    /// Our port.
    pub fn local_port(&self) -> Port {
        self.stream.local_port()
    }

    /// How long a call that reads may wait, of all clones; `None`, as at first, is for ever.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        self.timeouts()[0] = timeout;
    }

    /// The same for calls that write, and for [`Stream::acknowledged`].
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.timeouts()[1] = timeout;
    }

    fn wait<T>(
        &self,
        side: usize,
        poll: impl FnMut(&Waker) -> Poll<io::Result<T>>,
    ) -> io::Result<T> {
        let timeout = self.timeouts()[side];
        let clock = self.stream.agent().shared().host();
        block(&clock, timeout, poll).unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ends the writing direction: the peer reads to the end. What was written is still sent.
    pub fn finish(&self) -> io::Result<()> {
        self.stream.finish()
    }

    /// Waits until the peer has acknowledged every byte written so far and, after
    /// [`Stream::finish`], the end, too.
    pub fn acknowledged(&self) -> io::Result<()> {
        self.wait(1, |waker| self.stream.poll_acknowledged(waker))
    }

    /// Ends both directions at once; the peer's reads and writes fail. What was written and
    /// not yet acknowledged may be lost.
    pub fn reset(&self) {
        self.stream.reset();
    }
}

impl<R: ReadyRuntime> Read for &Stream<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.wait(0, |waker| self.stream.poll_read(waker, buf))
    }
}

impl<R: ReadyRuntime> Write for &Stream<R> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(1, |waker| self.stream.poll_write(waker, bytes))
    }

    /// Accepted bytes are sent without being asked for.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

owned_stream_traits!(Stream);

/// Accepts streams on a port; see [`agent::Listener`]. Any number of threads may wait.
#[derive(Debug)]
pub struct Listener<R: ReadyRuntime> {
    listener: agent::Listener<R>,
    agent: Handle<R>,
}

impl<R: ReadyRuntime> Listener<R> {
    /// The port.
    pub fn port(&self) -> Port {
        self.listener.port()
    }

    /// Waits for the next stream and its other end.
    pub fn accept(
        &self,
        timeout: Option<Duration>,
    ) -> Result<(Stream<R>, SocketAddress), WaitError<ListenError>> {
        let poll = |ticket: &mut Ticket, waker: &Waker| self.listener.poll_accept(ticket, waker);
        let stream = wait_in_line(&self.agent, timeout, poll)?;
        let peer = stream.peer();
        Ok((Stream::new(stream), peer))
    }
}

/// A port for datagrams; see [`agent::Datagrams`]. Any number of threads may wait.
#[derive(Debug)]
pub struct Datagrams<R: ReadyRuntime> {
    datagrams: agent::Datagrams<R>,
    agent: Handle<R>,
}

impl<R: ReadyRuntime> Datagrams<R> {
    /// Our port.
    pub fn port(&self) -> Port {
        self.datagrams.port()
    }

    /// Queues a datagram to a trusted peer. Never waits.
    pub fn send_to(&self, payload: &[u8], to: SocketAddress) -> Result<(), SendError> {
        self.datagrams.send_to(payload, to)
    }

    /// Waits for a datagram and moves it into `buf`; what does not fit there is lost. Returns
    /// its length and sender.
    pub fn recv_from(
        &self,
        buf: &mut [u8],
        timeout: Option<Duration>,
    ) -> Result<(usize, SocketAddress), WaitError<DatagramsError>> {
        wait_in_line(&self.agent, timeout, |ticket, waker| {
            self.datagrams.poll_recv(ticket, buf, waker)
        })
    }
}

/// Receives an agent's news. It does not keep the agent alive.
#[derive(Debug)]
pub struct Events<R: ReadyRuntime>(agent::Events<R>);

impl<R: ReadyRuntime> Events<R> {
    /// Waits for the next event.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<AgentEvent, WaitError<RecvError>> {
        let handle = self.0.handle().clone();
        wait(&handle, timeout, |waker| self.0.poll_recv(waker))
    }
}
