//! One agent: composes tunnel, transport, directory and trust.

mod command;
mod event;

pub use command::{Command, CommandError, PathPolicy, Reply, RequestId, StreamId, Target};
pub use event::{Event, Link, PathKind, StreamEnd};

use crate::addr::{Address, NetworkId, Port, SocketAddress};
use crate::crypto::aead::AeadProvider;
use crate::crypto::identity::{Identity, IdentityKey};
use crate::limits::Limits;
use crate::stats::Drops;
use crate::time::{Duration, Instant, UnixTime};
use core::net::SocketAddr;

/// What a node is told at construction besides its stored state.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Bounds.
    pub limits: Limits,
    /// The registry's Ed25519 key, if it was given with its address.
    pub registry_key: Option<IdentityKey>,
    /// Refuse a registry whose key is neither given nor pinned.
    pub forbid_first_use: bool,
    /// The UDP address at which everybody can reach us (`--endpoint`).
    pub endpoint: Option<SocketAddr>,
    /// Which paths may be used.
    pub path_policy: PathPolicy,
    /// Take the identity over from another home (`wire.md` 10).
    pub takeover: bool,
}

/// One durable fact: a key and, unless it was deleted, a value in the buffer of `poll_store`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreChange {
    /// 8 bytes, unique per fact.
    pub key: [u8; 8],
    /// Bytes of the buffer; `None` deletes the key.
    pub len: Option<usize>,
    /// Report this with `handle_stored` once it is on disk.
    pub sequence: u64,
}

/// How a read or write of a stream went otherwise than well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// Nothing to read, or no room to write, now.
    #[error("would block")]
    WouldBlock,
    /// The sending side was finished.
    #[error("finished")]
    Finished,
    /// The stream is over.
    #[error("{0}")]
    Ended(StreamEnd),
}

/// A stream, borrowed for a moment.
pub struct Stream<'n>(core::marker::PhantomData<&'n mut ()>);

impl Stream<'_> {
    /// Moves received bytes into `buf`; 0 is the end of the stream (or an empty `buf`).
    pub fn read(&mut self, now: Instant, buf: &mut [u8]) -> Result<usize, StreamError> {
        unimplemented!()
    }
    /// Accepts bytes into the bounded send ring; acknowledged is an event.
    pub fn write(&mut self, now: Instant, bytes: &[u8]) -> Result<usize, StreamError> {
        unimplemented!()
    }
    /// No more bytes will be written; FIN follows the last one.
    pub fn finish(&mut self, now: Instant) -> Result<(), StreamError> {
        unimplemented!()
    }
    /// Ends both directions at once.
    pub fn reset(&mut self, now: Instant) {
        unimplemented!()
    }
    /// Whether everything written, and FIN if finished, was acknowledged.
    pub fn is_acknowledged(&self) -> bool {
        unimplemented!()
    }
    /// Whether the opening handshake is over.
    pub fn is_open(&self) -> bool {
        unimplemented!()
    }
    /// Why it ended, if it has.
    pub fn end(&self) -> Option<StreamEnd> {
        unimplemented!()
    }
    /// The peer's address and port, and our port.
    pub fn addresses(&self) -> (SocketAddress, Port) {
        unimplemented!()
    }
}

/// One agent as a pure state machine; see [`crate::machine::Machine`] for its datagrams,
/// timers and events.
pub struct Node<'s>(core::marker::PhantomData<&'s mut ()>);

#[cfg(feature = "alloc")]
impl Node<'static> {
    /// A node with boxed storage.
    pub fn boxed(
        config: Config,
        identity: Identity,
        aead: &'static dyn AeadProvider,
        seed: [u8; 32],
        now: Instant,
        unix: UnixTime,
    ) -> Self {
        unimplemented!()
    }
}

/// A trusted agent, as `trust list` and `peers` show it.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Backbone address.
    pub address: Address,
    /// Its identity.
    pub identity: IdentityKey,
    /// Its hostname, where the registry told us.
    pub hostname: Option<crate::name::Hostname>,
    /// How packets travel.
    pub path: PathKind,
    /// Where they go, if direct.
    pub endpoint: Option<SocketAddr>,
    /// Smoothed round-trip time, if measured.
    pub rtt: Option<Duration>,
    /// Whether it has granted us access (we have granted it ours in any case).
    pub grants_us: bool,
}

/// A trust request that waits for our decision.
#[derive(Clone, Debug)]
pub struct TrustRequestInfo {
    /// Who asks.
    pub from: Address,
    /// Its identity.
    pub identity: IdentityKey,
    /// Hostile text, cleaned.
    pub justification: crate::name::Justification,
    /// When it was signed, by the sender's clock.
    pub issued: UnixTime,
}

impl<'s> Node<'s> {
    /// Loads one stored fact; before the first other call.
    pub fn load(&mut self, key: [u8; 8], value: &[u8]) -> Result<(), LoadError> {
        unimplemented!()
    }
    /// The next change of durable state, its value in `out` (2 KiB suffice).
    pub fn poll_store(&mut self, out: &mut [u8]) -> Option<StoreChange> {
        unimplemented!()
    }
    /// All changes up to `sequence` are on disk; what waited for them goes out.
    pub fn handle_stored(&mut self, now: Instant, sequence: u64) {
        unimplemented!()
    }
    /// Carries out a request of the owner.
    pub fn command(&mut self, now: Instant, command: Command<'_>) -> Result<Reply, CommandError> {
        unimplemented!()
    }
    /// The stream, for reading, writing and closing.
    pub fn stream(&mut self, id: StreamId) -> Option<Stream<'_>> {
        unimplemented!()
    }
    /// Forgets a stream: its handle was dropped. Unfinished directions are finished (what was
    /// written still goes out), unread bytes are discarded.
    pub fn release(&mut self, now: Instant, id: StreamId) {
        unimplemented!()
    }
    /// The next stream of a listener.
    pub fn accept(&mut self, port: Port) -> Option<StreamId> {
        unimplemented!()
    }
    /// The answer to a request, once [`Event::Answered`] told so; `None` before.
    pub fn answer(&mut self, id: RequestId) -> Option<Result<Answer<'_>, RequestError>> {
        unimplemented!()
    }
    /// Frees the place of a request, answered or not.
    pub fn forget(&mut self, id: RequestId) {
        unimplemented!()
    }
    /// The registry connection is up.
    pub fn handle_registry_open(&mut self, now: Instant) {
        unimplemented!()
    }
    /// Bytes from the registry connection.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        unimplemented!()
    }
    /// Bytes for the registry connection; 0 when there are none.
    pub fn poll_bytes(&mut self, now: Instant, out: &mut [u8]) -> usize {
        unimplemented!()
    }
    /// The registry connection was closed, or could not be opened.
    pub fn handle_registry_close(&mut self, now: Instant) {
        unimplemented!()
    }
    /// Our backbone address, once known.
    pub fn address(&self) -> Option<Address> {
        unimplemented!()
    }
    /// The network used by default: the lowest joined non-zero one, else 0.
    pub fn default_network(&self) -> NetworkId {
        unimplemented!()
    }
    /// Our identity.
    pub fn identity(&self) -> IdentityKey {
        unimplemented!()
    }
    /// How the link to the rendezvous server stands.
    pub fn link(&self) -> Link {
        unimplemented!()
    }
    /// The endpoint that the beacon observes of us.
    pub fn observed(&self) -> Option<SocketAddr> {
        unimplemented!()
    }
    /// Trusted agents, in table order.
    pub fn peers(&self) -> impl Iterator<Item = PeerInfo> + '_ {
        core::iter::empty()
    }
    /// Trust requests that wait for us.
    pub fn trust_requests(&self) -> impl Iterator<Item = TrustRequestInfo> + '_ {
        core::iter::empty()
    }
    /// Agents that we have asked and that have not answered.
    pub fn trust_outgoing(&self) -> impl Iterator<Item = Address> + '_ {
        core::iter::empty()
    }
    /// Drop counters.
    pub fn drops(&self) -> Drops {
        unimplemented!()
    }
}

/// Why stored state was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The key or value is not one of ours, or damaged.
    #[error("stored state does not decode")]
    Malformed,
    /// More than the limits allow.
    #[error("stored state exceeds the limits")]
    Full,
}

/// Why a request to the registry failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Unknown, or private and not ours to see.
    #[error("not found")]
    NotFound,
    /// The name is taken.
    #[error("taken by another agent")]
    Conflict,
    /// Too many requests; try again after this many milliseconds.
    #[error("rate limited for {0} ms")]
    RateLimited(u32),
    /// A limit of the registry is reached.
    #[error("full")]
    Full,
    /// The registry does not do that.
    #[error("unsupported")]
    Unsupported,
    /// The registry could not be asked.
    #[error("the registry does not answer")]
    Unreachable,
    /// Any other refusal, with the registry's error code (`wire.md` 6.1).
    #[error("refused by the registry with code {0}")]
    Refused(u16),
}

/// What the registry answered; owned types of `name` and `addr` inside.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Answer<'a> {
    /// Done.
    Done,
    /// An agent.
    Agent(AgentInfo),
    /// A page of agents, and the cursor of the next page if there is one.
    Page(Page<'a>),
}

/// A public agent, or one that has granted us access.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentInfo {
    /// Its address in the network that was asked for.
    pub address: Address,
    /// Its hostname there.
    pub hostname: Option<crate::name::Hostname>,
    /// Its tags.
    pub tags: crate::name::Tags,
}

/// A page of [`AgentInfo`]s, decoded one by one.
#[derive(Clone, Debug)]
pub struct Page<'a>(core::marker::PhantomData<&'a ()>);

impl Page<'_> {
    /// The cursor of the next page, if there is one.
    pub fn next_cursor(&self) -> Option<u64> {
        unimplemented!()
    }
}

impl Iterator for Page<'_> {
    type Item = AgentInfo;
    fn next(&mut self) -> Option<AgentInfo> {
        unimplemented!()
    }
}

impl crate::machine::Machine for Node<'_> {
    type Event = Event;
    fn handle_datagram<'b>(
        &mut self,
        now: Instant,
        path: crate::machine::Path,
        ecn: crate::machine::Ecn,
        datagram: &'b mut [u8],
    ) -> crate::machine::Ingress<'b> {
        unimplemented!()
    }
    fn handle_timeout(&mut self, now: Instant) {
        unimplemented!()
    }
    fn poll_transmit(
        &mut self,
        now: Instant,
        out: &mut [u8],
        max_segments: core::num::NonZeroUsize,
    ) -> Option<crate::machine::Transmit> {
        unimplemented!()
    }
    fn poll_timeout(&self) -> Option<crate::machine::Timeout> {
        unimplemented!()
    }
    fn poll_event(&mut self) -> Option<Event> {
        unimplemented!()
    }
}
