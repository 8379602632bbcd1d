//! What every adapter has to do, as one suite of tests: the same cases run over the real
//! sockets of each, and over pairs of different ones (feature `conformance`).
//!
//! An adapter's `tests/conformance.rs` implements [`Subject`] for its agent, and
//! [`conformance!`](crate::conformance) makes a test of each case. Adapters with futures get most
//! of [`Subject`] from [`async_subject!`](crate::async_subject); one without futures answers each
//! poll with its non-blocking call and calls the waker when its own loop says that the call is
//! worth repeating.
//!
//! # How cases wait
//!
//! A case runs on a thread of its own and polls the subject's futures itself ([`run`]). Each
//! future is polled again only after its own waker was called, so an operation whose wake-up is
//! lost hangs, although others go on; and everything that is started is dropped at some await
//! point by [`run::abandon`]. Whoever is not over after [`run::WATCHDOG`] has hung.
//!
//! The driver of an agent runs where the subject lets it run: never on the thread of the case.

pub mod cases;
pub mod driver;
pub mod futures;
pub mod run;

mod asynchronous;
mod failure;
mod list;
mod pattern;
mod stage;

use super::agent::KeepAlive;
use super::{IoStats, Refusal};
use crate::addr::{Address, NetworkId, Port, SocketAddress};
use crate::limits::Limits;
use crate::name::{Hostname, Tags};
use crate::node::{
    AgentInfo, CommandError, Link, PathKind, PeerInfo, RequestError, StreamEnd, StreamError,
    Target, TrustRequestInfo,
};
use crate::stats::Drops;
use core::future::Future;
use core::net::{Ipv4Addr, SocketAddr};
use core::task::Waker;
use core::time::Duration;
use std::collections::BTreeMap;
use std::string::String;
use std::sync::{Arc, Mutex, PoisonError};
use std::vec::Vec;

pub use pattern::{check, fill};

/// The rendezvous server of a case: the real one, on a thread of its own.
pub trait Rendezvous: Sized {
    /// Tells how long cases take.
    type Clock: super::Clock + Default;

    /// Starts a server with an empty registry on free ports of the loopback interface.
    fn start() -> Self;

    /// Where the registry is, with its key.
    fn registry(&self) -> String;

    /// Where the beacon is.
    fn beacon(&self) -> String;

    /// Stops the server. Returns when its ports are free.
    fn stop(&mut self);

    /// Starts the stopped server with the same registry on the same ports.
    fn restart(&mut self);
}

/// What an agent is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The identity's secret.
    pub secret: [u8; 32],
    /// Where the registry is.
    pub registry: String,
    /// Where the beacon is.
    pub beacon: String,
    /// The UDP address to bind.
    pub listen: SocketAddr,
    /// How much of everything it may hold.
    pub limits: Limits,
    /// What it has stored, and where it stores.
    pub facts: Facts,
}

impl Setup {
    /// An agent of this world on any port of the loopback interface, its identity made from a
    /// number. Its limits are small enough to be reached.
    pub fn new(world: &impl Rendezvous, number: u8) -> Self {
        Setup {
            secret: [number; 32],
            registry: world.registry(),
            beacon: world.beacon(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            limits: Limits {
                peers: 16,
                sessions: 96,
                streams: 640,
                buffer_bytes: 64 << 20,
                frames: 16 << 10,
                backlog: 512,
                ..Limits::desktop()
            },
            facts: Facts::default(),
        }
    }
}

/// A store in memory that outlives its agent: clones share what is in them. An adapter's test
/// makes a store of it.
#[derive(Clone, Debug, Default)]
pub struct Facts(Arc<Mutex<BTreeMap<[u8; 8], Vec<u8>>>>);

impl Facts {
    /// Hands out all that is stored.
    pub fn load(&self, each: &mut dyn FnMut([u8; 8], &[u8])) {
        let facts = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        facts.iter().for_each(|(key, value)| each(*key, value));
    }

    /// Stores changes, in their order.
    pub fn commit(&self, changes: &[([u8; 8], Option<Vec<u8>>)]) {
        let mut facts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            match value {
                Some(value) => facts.insert(*key, value.clone()),
                None => facts.remove(key),
            };
        }
    }
}

/// Why an operation failed, in the core's words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Refused here.
    Command(CommandError),
    /// The registry refused, or does not answer.
    Request(RequestError),
    /// The stream.
    Stream(StreamError),
    /// The agent will not be registered, or was shut down.
    Refused(Refusal),
    /// In words that are not the core's: no case expects it.
    Other(String),
}

impl Failure {
    /// That a stream ended so.
    pub const fn ended(end: StreamEnd) -> Self {
        Failure::Stream(StreamError::Ended(end))
    }
}

/// What a receiver of an agent's events is told; [`News::Other`] is whatever no case asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// The registry gave or confirmed our address.
    Registered(Address),
    /// The link to the rendezvous server changed.
    Link(Link),
    /// The path to a peer changed.
    Path(Address, PathKind),
    /// Somebody asks for trust.
    TrustRequested(Address),
    /// Trust is mutual now.
    TrustGranted(Address),
    /// Our request was refused.
    TrustRefused(Address),
    /// A peer has ended trust in us.
    TrustRevoked(Address),
    /// The receiver was too slow: this many are lost.
    Missed(u64),
    /// The agent was shut down: nothing follows.
    End,
    /// Anything else.
    Other,
}

/// Which calls of a socket a [`Fault`] concerns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Calls {
    /// Those that send.
    Send,
    /// Those that receive.
    Receive,
}

/// What the operating system answers instead of doing as it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// `ECONNREFUSED`: an earlier datagram met a closed port.
    Refused,
    /// `ENETUNREACH`: no route.
    Unreachable,
    /// `EMSGSIZE`: larger than the interface's MTU.
    TooLarge,
    /// `ENOBUFS`: the interface's queue is full.
    NoBuffers,
    /// Success, and the datagram is lost. Only for [`Calls::Send`].
    Lost,
}

/// An agent of the adapter under test.
///
/// The agent is driven elsewhere than on the caller's thread; every method may be called while it
/// is. A future makes progress only when it is polled, calls the waker of its last poll when
/// polling again is worth while, and may be dropped at any time. Handles that are dropped are
/// released; the last one, an agent's own included, ends the agent in the background.
pub trait Subject: Sized {
    /// The adapter's types.
    type Runtime: super::Runtime;
    /// A stream's reading half.
    type Reader;
    /// A stream's writing half; dropping it finishes.
    type Writer;
    /// A port that accepts streams; closed when dropped.
    type Listener;
    /// A port for datagrams; closed when dropped.
    type Datagrams;
    /// Receives events.
    type Receiver;

    /// Starts an agent.
    fn start(setup: Setup) -> Self;

    /// The agent, for what waits by polls: [`super::services`].
    fn keep_alive(&self) -> &KeepAlive<Self::Runtime>;
    /// The adapter's waker of a future.
    fn waker(waker: &Waker) -> <Self::Runtime as super::Runtime>::Waker;

    // ---- standing ----

    /// What its UDP sockets are bound to; nothing after the end.
    fn local(&self) -> Vec<SocketAddr>;
    /// The addresses at which its host may be reached, as it knows them.
    fn candidates(&self) -> Vec<SocketAddr>;
    /// Its address, once known.
    fn address(&self) -> Option<Address>;
    /// How the link to the rendezvous stands.
    fn link(&self) -> Link;
    /// How many streams have a handle.
    fn connections(&self) -> usize;
    /// What was dropped.
    fn drops(&self) -> Drops;
    /// What the sockets did.
    fn io_stats(&self) -> IoStats;
    /// Trusted agents.
    fn trusted(&self) -> Vec<PeerInfo>;
    /// Requests that wait for a decision.
    fn trust_requests(&self) -> Vec<TrustRequestInfo>;
    /// Events from now on, or since the start for the first caller.
    fn events(&self) -> Self::Receiver;
    /// The next event.
    fn next(receiver: &mut Self::Receiver) -> impl Future<Output = News>;
    /// Waits for the registration.
    fn ready(&self) -> impl Future<Output = Result<Address, Failure>>;

    // ---- streams ----

    /// Opens a stream.
    fn connect(
        &self,
        to: Target,
        port: Port,
    ) -> impl Future<Output = Result<(Self::Reader, Self::Writer), Failure>>;
    /// Accepts streams on a port.
    fn listen(&self, port: Port) -> Result<Self::Listener, Failure>;
    /// The next stream, and whose it is.
    #[allow(clippy::type_complexity, reason = "a stream in halves, and its other end")]
    fn accept(
        listener: &Self::Listener,
    ) -> impl Future<Output = Result<((Self::Reader, Self::Writer), SocketAddress), Failure>>;
    /// Reads; 0 is the end.
    fn read(
        reader: &mut Self::Reader,
        buf: &mut [u8],
    ) -> impl Future<Output = Result<usize, Failure>>;
    /// Writes some.
    fn write(
        writer: &mut Self::Writer,
        bytes: &[u8],
    ) -> impl Future<Output = Result<usize, Failure>>;
    /// Ends the writing direction.
    fn finish(writer: &mut Self::Writer) -> impl Future<Output = Result<(), Failure>>;
    /// Waits until the peer has everything.
    fn acknowledged(writer: &mut Self::Writer) -> impl Future<Output = Result<(), Failure>>;
    /// Ends both directions at once.
    fn reset(writer: &mut Self::Writer);

    // ---- datagrams ----

    /// Binds a port.
    fn datagrams(&self, port: Port) -> Result<Self::Datagrams, Failure>;
    /// Queues a datagram.
    fn send(from: &Self::Datagrams, payload: &[u8], to: SocketAddress) -> Result<(), Failure>;
    /// The next datagram.
    fn receive(
        at: &Self::Datagrams,
        buf: &mut [u8],
    ) -> impl Future<Output = Result<(usize, SocketAddress), Failure>>;

    // ---- directory and trust ----

    /// Joins a network.
    fn join(&self, network: NetworkId) -> impl Future<Output = Result<(), Failure>>;
    /// Takes a hostname in the default network.
    fn set_hostname(&self, name: Hostname) -> impl Future<Output = Result<(), Failure>>;
    /// Whether strangers may find us.
    fn set_visibility(&self, public: bool) -> impl Future<Output = Result<(), Failure>>;
    /// Replaces the tags.
    fn set_tags(&self, tags: Tags) -> impl Future<Output = Result<(), Failure>>;
    /// Looks an agent up in the default network.
    fn resolve(&self, target: Target) -> impl Future<Output = Result<AgentInfo, Failure>>;
    /// The first page of public agents with these tags in the default network.
    fn discover(&self, tags: Tags) -> impl Future<Output = Result<Vec<AgentInfo>, Failure>>;
    /// Asks for trust.
    fn request_trust(&self, to: Address, justification: &str) -> Result<(), Failure>;
    /// Grants a request.
    fn approve_trust(&self, from: Address) -> Result<(), Failure>;
    /// Refuses a request.
    fn refuse_trust(&self, from: Address) -> Result<(), Failure>;
    /// Ends trust.
    fn revoke_trust(&self, peer: Address) -> Result<(), Failure>;

    // ---- the end, and what surrounds an agent ----

    /// Ends the agent and waits for its end.
    fn shutdown(&self) -> impl Future<Output = ()>;
    /// Keeps the thread that drives the agent from doing so, from soon on and for `time`.
    fn hold_up(&self, time: Duration);
    /// From now on the next `times` such calls of the main socket bound to `local` meet this
    /// fault; `None` ends it. One line in every adapter: `pilot_udp::faults::inject`.
    fn inject(local: SocketAddr, calls: Calls, fault: Option<Fault>, times: u32);
    /// From now on these are the host candidates of the main socket bound to `local`; `None`:
    /// those that it really has. One line in every adapter:
    /// `pilot_udp::faults::set_candidates`.
    fn set_candidates(local: SocketAddr, found: Option<Vec<SocketAddr>>);
    /// From now on the clocks of all agents of this process show that the host was asleep for so
    /// long, and that its time was set ahead by so many milliseconds. One line in every adapter:
    /// `pilot_udp::faults::displace_clocks`.
    fn displace_clocks(asleep: Duration, step_ms: i64);
}
