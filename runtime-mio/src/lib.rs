//! Pilot Protocol on mio: no async, no thread that you did not start.
//!
//! An [`Agent`] is one identity on the network. It registers, finds others by address or
//! hostname, asks them for trust and is asked, and opens and accepts streams, which are
//! [`std::io::Read`] and [`std::io::Write`]. Nothing of it ever waits: what would have to says
//! [`WouldBlock`](std::io::ErrorKind::WouldBlock) or `None`, and [`Ready`] says when to ask
//! again. There are three ways to let it work.
//!
//! # With an event queue of its own
//!
//! [`Loop::start`] gives a [`Loop`], whose [`Loop::poll`] sends, receives and waits:
//!
//! ```no_run
//! use pilot_mio::{Agent, Identity, Loop, Port, Ready};
//! use std::collections::HashMap;
//! use std::io::{ErrorKind, Read, Write};
//!
//! # fn example(secret: [u8; 32]) -> Result<(), Box<dyn std::error::Error>> {
//! let builder = Agent::builder(Identity::from_secret(secret)).registry("registry.example:9000");
//! let (agent, mut events) = Loop::start(builder)?;
//! let listener = agent.listen(Port(2000))?;
//! let mut streams = HashMap::new();
//! let mut ready = vec![Ready::Acceptable(listener.id())]; // Try once, and be told afterwards.
//! let mut buf = [0; 4096];
//! while !events.is_ended() {
//!     for ready in ready.drain(..) {
//!         match ready {
//!             Ready::Acceptable(_) => {
//!                 while let Some((stream, _)) = listener.accept()? {
//!                     streams.insert(stream.id(), stream);
//!                 }
//!             }
//!             _ => {}
//!         }
//!     }
//!     // Echo, as long as there is room; a stream that is over is dropped.
//!     streams.retain(|_, stream| loop {
//!         match stream.read(&mut buf) {
//!             Ok(0) => return false,
//!             Ok(n) => {
//!                 if stream.write_all(&buf[..n]).is_err() {
//!                     return false;
//!                 }
//!             }
//!             Err(error) => return error.kind() == ErrorKind::WouldBlock,
//!         }
//!     });
//!     events.poll(None)?;
//!     ready.extend(std::iter::from_fn(|| events.next_ready()));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Within your loop
//!
//! [`Driver::join`] takes your [`Registry`](mio::Registry), [`TOKENS`] tokens of yours, and your
//! queue's [`Waker`](mio::Waker), and gives a [`Driver`] with three duties:
//!
//! ```no_run
//! use mio::{Events, Poll, Token};
//! use pilot_mio::{Agent, Driver, Identity, TOKENS};
//! use std::sync::Arc;
//!
//! # fn example(secret: [u8; 32]) -> Result<(), Box<dyn std::error::Error>> {
//! const WAKE: Token = Token(0);
//! const AGENT: Token = Token(1); // and the TOKENS - 1 behind it
//! const YOURS: Token = Token(1 + TOKENS);
//!
//! let mut poll = Poll::new()?;
//! let mut events = Events::with_capacity(256);
//! let waker = Arc::new(mio::Waker::new(poll.registry(), WAKE)?);
//! let builder = Agent::builder(Identity::from_secret(secret)).registry("registry.example:9000");
//! let (agent, mut driver) = Driver::join(builder, poll.registry(), AGENT, &waker)?;
//! assert!(agent.try_ready()?.is_none());
//! while !driver.is_ended() {
//!     let wait = driver.prepare_wait(None); // sends what you wrote
//!     poll.poll(&mut events, wait)?;
//!     for event in &events {
//!         if !driver.handle_event(event) {
//!             // It is yours: the waker's, or of YOURS and behind.
//!             assert!(event.token() == WAKE || event.token() >= YOURS);
//!         }
//!     }
//!     driver.turn(); // receives
//!     while let Some(ready) = driver.next_ready() {
//!         println!("{ready:?}"); // A handle's: read, write, accept until it would block.
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `examples/beside_tcp.rs` is such a loop, with a TCP listener beside the agent.
//!
//! # Blocking
//!
//! [`blocking`] is for simple programs: calls that wait, and a thread that does the work.
//!
//! ```no_run
//! use pilot_mio::{Hostname, Identity, Port, blocking, blocking::Agent};
//! use std::io::{Read, Write};
//!
//! # fn example(secret: [u8; 32]) -> Result<(), Box<dyn std::error::Error>> {
//! let builder = Agent::builder(Identity::from_secret(secret)).registry("registry.example:9000");
//! let agent = blocking::start(builder)?;
//! println!("I am {}", agent.ready(None)?);
//! let mut stream = agent.connect("research-aws".parse::<Hostname>()?, Port(2000), None)?;
//! stream.write_all(b"hello")?;
//! stream.finish()?;
//! let mut answer = String::new();
//! stream.read_to_string(&mut answer)?;
//! agent.shutdown();
//! # Ok(())
//! # }
//! ```
//!
//! # Services
//!
//! Above streams there are messages, files, events and echo ([`services`]), as every agent and
//! `pilotctl` has them. What a receiver acknowledges is its own promise: here, that a message is on
//! its disk. Calls that wait are named `wait_…`; within a loop of your own, `poll_…` of the same
//! types wait for nothing.
//!
//! ```no_run
//! use pilot_mio::services::{ContentHash, HashAlgorithm, Heard, Kind, Note, Offer, Received};
//! use pilot_mio::{Address, blocking::Agent};
//! use std::io::{Read, Write};
//!
//! # fn store(_: &[u8]) {}
//! # fn sync() {}
//! fn send(agent: &Agent, to: Address) -> Result<(), Box<dyn std::error::Error>> {
//!     let mut messages = agent.connect_messages(to, None)?;
//!     for n in 0..10_000u32 {
//!         while !messages.has_room() {
//!             messages.wait_receipt(None)?;
//!         }
//!         messages.queue(Kind::Binary, Note::default(), &n.to_be_bytes())?;
//!     }
//!     while let Some(receipt) = messages.wait_receipt(None)? {
//!         receipt.delivered()?;
//!     }
//!
//!     let content = std::fs::read("dataset.csv")?;
//!     let (id, size, note) = (agent.transfer_id()?, content.len() as u64, Note::default());
//!     let (kind, hash, name) = (Kind::File, HashAlgorithm::Blake3, Some("dataset.csv".parse()?));
//!     let mut file = agent.upload(to, &Offer { id, kind, size, hash, name, note }, None)?;
//!     file.write_all(&content)?;
//!     file.wait_receipt(None)?;
//!
//!     let mut events = agent.connect_events(to, None)?;
//!     events.wait_subscribe("weather.*", true, None)?;
//!     events.wait_publish("weather.berlin", b"12 C", true, None)?;
//!     if let Heard::Event(event) = events.wait_next(None)? {
//!         println!("{} from {}", event.topic, event.from);
//!     }
//!     println!("{:?}", agent.connect_echo(to, None)?.wait_round_trip(None)?);
//!     Ok(())
//! }
//!
//! fn receive(agent: &Agent) -> Result<(), Box<dyn std::error::Error>> {
//!     let mut from = agent.listen_exchange()?.wait_accept(None)?; // each on a thread of its own
//!     while let Some(received) = from.wait_next(None)? {
//!         match received {
//!             Received::Message(message) => store(&message.content),
//!             Received::File(offer) => {
//!                 from.accept(ContentHash::new(offer.hash))?;
//!                 let mut content = Vec::new();
//!                 from.read_to_end(&mut content)?;
//!                 store(&content);
//!             }
//!         }
//!         sync();
//!         from.acknowledge(1)?;
//!         from.wait_flush(None)?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Time
//!
//! What you write is sent by [`Driver::flush`], or by [`Driver::turn`] and
//! [`Driver::prepare_wait`], which begin with it, so that a message costs one system call, and
//! what many calls queue leaves in full trains. A turn that receives little gives way before the
//! sockets are empty: first the answers, then the question whether there is more. Calls on the
//! loop's thread never wake the loop; those on other threads do, once for each wait.
//!
//! Registry connections, names, and durable changes, all of which may block, are errands on
//! short-lived threads of their own.
//!
//! # Features
//!
//! | Feature | Adds |
//! |---|---|
//! | `ring` | `RING` for [`Builder::aead`](pilot_core::drive::agent::Builder::aead): faster encryption; needs a C compiler |
#![forbid(unsafe_code)]

pub mod blocking;
mod driver;
mod socket;

pub use driver::{Driver, Loop, TOKENS};
pub use socket::Socket;

use pilot_core::drive::{self, Budget, agent as shared, ready};

/// The types of this runtime.
#[derive(Clone, Copy, Debug)]
pub struct Mio;

impl drive::Runtime for Mio {
    type Waker = ready::Waker;
    type Sockets = Sockets;
    type Host = Clock;
    /// The user is given what came first before the sockets are asked whether there is more.
    const BUDGET: Budget = Budget { receives_first: 1, ..Budget::DEFAULT };
}

/// An agent under mio; [`Loop::start`] and [`Driver::join`] make one. What concerns no handle
/// stands at [`Handle`].
pub type Agent = ready::Agent<Mio>;
/// A stream, which never blocks.
pub type Stream = ready::Stream<Mio>;
/// A stream that is being opened.
pub type Connecting = ready::Connecting<Mio>;
/// Accepts streams on a port.
pub type Listener = ready::Listener<Mio>;
/// A port for datagrams.
pub type Datagrams = ready::Datagrams<Mio>;
/// A question to the registry.
pub type Question = ready::Question<Mio>;
/// Receives an agent's news.
pub type Events = ready::Events<Mio>;
/// An agent that is not running yet.
pub type Builder = shared::Builder<Mio>;
/// What one can do with an agent without waiting; every [`Agent`] derefs to it.
pub type Handle = shared::Handle<Mio>;
/// The sockets of an agent under mio.
pub type Sockets = pilot_udp::UdpSockets<Socket>;

pilot_core::service_types!(Mio);

pub use pilot_core::drive::agent::{
    AgentEvent, Answer, Change, ConnectError, Connection, DatagramsError, DirectoryError, Info,
    ListenError, MemoryStore, ReadyError, RecvError, SendError, StartError, Store, StreamFailure,
    TrustError,
};
pub use pilot_core::drive::ready::{Id, Ready};
pub use pilot_core::drive::{BindError, BindOptions};
pub use pilot_udp::Clock;

pub use pilot_core::addr::{Address, NetworkId, NodeId, Port, SocketAddress};
pub use pilot_core::crypto::identity::{Fingerprint, Identity, IdentityKey};
#[cfg(feature = "ring")]
pub use pilot_core::crypto::ring::RING;
pub use pilot_core::limits::Limits;
pub use pilot_core::name::{Hostname, Justification, Tag, Tags};
pub use pilot_core::node::{
    AgentInfo, Command, Link, PathKind, PathPolicy, PeerInfo, Reputation, RequestError, SignError,
    StreamEnd, Target, TrustRequestInfo,
};
