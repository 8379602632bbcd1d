//! For simple programs: calls that wait, each at most for a time that its caller gives.
//!
//! The agent's turns are made by a thread of its own, so that it goes on while the program
//! does something else. Handles may be used by any thread, and shared.
//!
//! ```no_run
//! use pilot_mio::{Hostname, Identity, Port, blocking::Agent};
//! use std::io::{Read, Write};
//! use std::time::Duration;
//!
//! # fn example(secret: [u8; 32]) -> Result<(), Box<dyn std::error::Error>> {
//! let agent = Agent::start(
//!     Agent::builder(Identity::from_secret(secret)).registry("registry.example:9000"),
//! )?;
//! let here = agent.ready(Some(Duration::from_secs(10)))?;
//! println!("I am {here}");
//!
//! let mut stream = agent.connect("research-aws".parse::<Hostname>()?, Port(2000), None)?;
//! stream.write_all(b"hello")?;
//! stream.finish()?;
//! let mut answer = String::new();
//! stream.read_to_string(&mut answer)?;
//! agent.shutdown();
//! # Ok(())
//! # }
//! ```

use crate::agent::inner;
use crate::wake::{Waker, block, lock};
use crate::{
    Address, AgentEvent, AgentInfo, Answer, Builder, Command, ConnectError, DatagramsError,
    DirectoryError, Handle, Identity, ListenError, Mio, NetworkId, Port, ReadyError, RecvError,
    SendError, SocketAddress, StartError, Tags, Target,
};
use pilot_core::drive::agent::KeepAlive;
use pilot_core::drive::waiters::Ticket;
use std::fmt;
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

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

impl<E: std::error::Error + 'static> std::error::Error for WaitError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WaitError::TimedOut => None,
            WaitError::Failed(error) => error.source(),
        }
    }
}

/// A refusal before anything was waited for.
impl<E> From<E> for WaitError<E> {
    fn from(error: E) -> Self {
        WaitError::Failed(error)
    }
}

fn wait<T, E>(
    timeout: Option<Duration>,
    poll: impl FnMut(&Waker) -> Poll<Result<T, E>>,
) -> Result<T, WaitError<E>> {
    block(timeout, poll).ok_or(WaitError::TimedOut)?.map_err(WaitError::Failed)
}

/// The same with a place among those who wait, which is given back.
fn wait_in_line<T, E>(
    handle: &Handle,
    timeout: Option<Duration>,
    mut poll: impl FnMut(&mut Ticket, &Waker) -> Poll<Result<T, E>>,
) -> Result<T, WaitError<E>> {
    let mut ticket = Ticket::NONE;
    let result = wait(timeout, |waker| poll(&mut ticket, waker));
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
#[derive(Clone, Debug)]
pub struct Agent(KeepAlive<Mio>);

impl Deref for Agent {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.0
    }
}

impl Agent {
    /// Prepares an agent with this identity.
    pub fn builder(identity: Identity) -> Builder {
        Builder::new(identity)
    }

    /// Starts an agent and its thread, which ends with the agent. Does not wait for the
    /// registry.
    pub fn start(builder: Builder) -> Result<Self, StartError> {
        let (agent, mut events) = crate::Agent::start(builder)?;
        let run = move || {
            while !events.is_ended() && events.poll(None).is_ok() {
                // Whoever waits for something is told itself.
                while events.next_ready().is_some() {}
            }
        };
        let spawned = thread::Builder::new().name("pilot-agent".into()).spawn(run);
        spawned.map_err(crate::driver::start_failed)?;
        Ok(Agent(agent.into_inner()))
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
    ) -> Result<Stream, WaitError<ConnectError>> {
        let mut connecting = self.0.begin_connect_to(to, port)?;
        Ok(Stream::new(wait(timeout, |waker| connecting.poll(waker))?))
    }

    /// Accepts streams on a port; 0 takes a free one.
    pub fn listen(&self, port: Port) -> Result<Listener, ListenError> {
        Ok(Listener { listener: self.0.listen(port)?, agent: Handle::clone(&self.0) })
    }

    /// Sends and receives datagrams on a port; 0 takes a free one.
    pub fn datagrams(&self, port: Port) -> Result<Datagrams, DatagramsError> {
        Ok(Datagrams { datagrams: self.0.datagrams(port)?, agent: Handle::clone(&self.0) })
    }

    /// News from now on; see [`Handle::events`].
    pub fn events(&self) -> Events {
        Events(self.0.events())
    }

    /// Asks the registry, and waits for its answer; see [`crate::Agent::ask`]. After the
    /// timeout the question is forgotten; it may have been carried out.
    pub fn ask(
        &self,
        command: Command<'_>,
        timeout: Option<Duration>,
    ) -> Result<Answer, WaitError<DirectoryError>> {
        let mut question = self.0.ask(command)?;
        wait(timeout, |waker| question.poll_answer(waker))
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
    /// Takes four seconds at most. Streams end with [`crate::StreamEnd::Shutdown`]; wait for
    /// [`Stream::acknowledged`] before, where the peer has to have everything.
    pub fn shutdown(&self) {
        self.begin_shutdown();
        let mut ticket = Ticket::NONE;
        let _ = block(None, |waker| self.poll_ended(&mut ticket, waker));
    }
}

/// A reliable, ordered, encrypted stream of bytes in both directions. Clones are the same
/// stream, so that one thread may read and another write.
///
/// Reading waits for a byte, the end or a failure, and writing for room in a bounded ring; if
/// the timeout set for it passes before, it fails with [`io::ErrorKind::TimedOut`]. Dropping
/// the last clone finishes (what was written is still sent), and discards what is received from
/// then on.
///
/// Errors are [`io::Error`]s around a [`StreamFailure`](crate::StreamFailure), which says why.
#[derive(Clone, Debug)]
pub struct Stream {
    stream: inner::Stream,
    /// For reading and for writing.
    timeouts: Arc<Mutex<[Option<Duration>; 2]>>,
}

impl Stream {
    fn new(stream: inner::Stream) -> Self {
        Stream { stream, timeouts: Arc::default() }
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
        lock(&self.timeouts)[0] = timeout;
    }

    /// The same for calls that write, and for [`Stream::acknowledged`].
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        lock(&self.timeouts)[1] = timeout;
    }

    fn wait<T>(
        &self,
        side: usize,
        poll: impl FnMut(&Waker) -> Poll<io::Result<T>>,
    ) -> io::Result<T> {
        let timeout = lock(&self.timeouts)[side];
        block(timeout, poll).unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
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

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.wait(0, |waker| self.stream.poll_read(waker, buf))
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait(1, |waker| self.stream.poll_write(waker, bytes))
    }

    /// Accepted bytes are sent without being asked for.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

crate::handles::owned_stream_traits!(Stream);

/// Accepts streams on a port; see [`crate::Listener`]. Any number of threads may wait.
#[derive(Debug)]
pub struct Listener {
    listener: inner::Listener,
    agent: Handle,
}

impl Listener {
    /// The port.
    pub fn port(&self) -> Port {
        self.listener.port()
    }

    /// Waits for the next stream and its other end.
    pub fn accept(
        &self,
        timeout: Option<Duration>,
    ) -> Result<(Stream, SocketAddress), WaitError<ListenError>> {
        let poll = |ticket: &mut Ticket, waker: &Waker| self.listener.poll_accept(ticket, waker);
        let stream = wait_in_line(&self.agent, timeout, poll)?;
        let peer = stream.peer();
        Ok((Stream::new(stream), peer))
    }
}

/// A port for datagrams; see [`crate::Datagrams`]. Any number of threads may wait.
#[derive(Debug)]
pub struct Datagrams {
    datagrams: inner::Datagrams,
    agent: Handle,
}

impl Datagrams {
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
pub struct Events(inner::Events);

impl Events {
    /// Waits for the next event.
    pub fn next(&mut self, timeout: Option<Duration>) -> Result<AgentEvent, WaitError<RecvError>> {
        wait(timeout, |waker| self.0.poll_recv(waker))
    }
}
