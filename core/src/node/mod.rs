//! One agent: composes tunnel, transport, directory and trust.
//!
//! The parts decide for themselves: [`crate::session::Tunnel`] about handshakes, sessions and
//! keys, [`crate::stream::Transport`] about streams, datagrams, acknowledgement and congestion,
//! [`crate::directory::Directory`] about registry, beacon and trust. The node owns what lies
//! between them: the table of peers (one [`PeerIndex`](crate::path::PeerIndex) names a peer in all of them), the paths
//! to each peer (`link.rs`), and the one way in and out.
//!
//! | part says | node does |
//! |---|---|
//! | directory: trusted | adds the peer to tunnel and transport, within the same mutation |
//! | tunnel: session with a new process of the peer | its streams end, its paths are proven anew |
//! | owner: connect | a stream at once; without a session, INIT by every known route, and registry and beacon are asked for more |
//! | directory: channel up, endpoints known | a running INIT goes there too; with a session that is only relayed: a punch begins |
//! | tunnel: session up by a route | proves that path, challenges the peer on our own links; if it is the relay, a punch begins |
//! | challenge answered | proves that path; data moves to the best one |
//! | transport: path suspect | data moves, an INIT goes out by all routes |
//! | peer: goodbye (F7) | its streams end; revoked: trust ends |
//! | directory: no longer trusted | the peer is removed everywhere, its keys are zeroed |

mod auxiliary;
mod command;
mod discovery;
mod egress;
mod endpoints;
mod event;
mod info;
mod ingress;
mod link;
mod probes;
mod prove;
mod punch;
mod reach;
mod requests;
mod storage;
mod stream;
mod tasks;
mod why;

pub use crate::directory::{
    AgentInfo, Answer, LinkState as Link, Page, Reputation, RequestError, RequestId, SignError,
    Target,
};
pub use crate::journal::{LoadError, StoreChange};
pub use crate::stream::StreamId;
pub use command::{Command, CommandError, PathPolicy, Reply};
pub use event::{Event, PathKind, StreamEnd};
pub use info::{NatInfo, PeerInfo, StreamInfo, TrustRequestInfo};
pub use probes::Probes;
pub use storage::{LinkSlot, Storage};
pub use stream::{Stream, StreamError};
pub use why::{PathReport, PathState, TriedRound};

use crate::addr::Address;
use crate::crypto::{AeadProvider, Identity, IdentityKey, TunnelSecret};
use crate::directory::{self, Directory};
use crate::limits::Limits;
use crate::machine::{Ecn, Ingress, Machine, Path, Reason, Timeout, Transmit};
use crate::path::discover::Discover;
use crate::path::punch::Punch;
use crate::path::stun_client::StunClient;
use crate::planted::{self, Defect};
use crate::rng::Rng;
use crate::session::payload::Caps;
use crate::session::{Tunnel, TunnelConfig};
use crate::slab::Slab;
use crate::stats::Drops;
use crate::stream::Transport;
use crate::time::{Instant, UnixTime, WallClock};
use crate::timer::Deadlines;
use core::net::SocketAddr;
use core::num::NonZeroUsize;

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
    /// Never look for a peer's port by a birthday spray, which may look like a port scan to
    /// whoever watches the network (`nat.md` 2).
    pub forbid_spray: bool,
    /// Take the identity over from another home (`wire.md` 10).
    pub takeover: bool,
    /// The main socket's port was given by the owner, and is kept although the socket seems
    /// dead; so it is with an `endpoint`, and without a NAT. Otherwise [`Event::OpenSocket`] asks
    /// for another one when neither the beacon, although asked, nor any peer on a proven path has
    /// been heard by it for 20 s.
    pub keep_port: bool,
}

/// One agent as a pure state machine; see [`Machine`] for its datagrams, timers and events.
pub struct Node<'s> {
    config: Config,
    directory: Directory<'s>,
    tunnel: Tunnel<'s>,
    transport: Transport<'s>,
    links: probes::Links<'s>,
    punches: Slab<'s, Punch>,
    deadlines: Deadlines<'s>,
    locals: endpoints::Locals,
    auxiliary: auxiliary::Auxiliary,
    stun: StunClient<auxiliary::Purpose>,
    discover: Discover,
    flight: egress::Flight,
    rng: Rng,
    drops: Drops,
    aead: &'static dyn AeadProvider,
    wall: WallClock,
    /// Peers whose frames came in the present receive batch.
    batch: ingress::Batch,
    /// Peers whose data goes over the relay.
    relayed: usize,
    /// Some link's path kind changed and was not told.
    untold_paths: bool,
    /// Shutting down: the beacon hears of it after the peers, whose goodbyes it may relay.
    leaving: bool,
    /// When a peer was last heard by the main socket on a proven path.
    heard_at: Option<Instant>,
    /// The main socket is to be replaced.
    rotate: bool,
    /// The latest time that we were told.
    now: Instant,
}

impl core::fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Node").field("address", &self.address()).finish_non_exhaustive()
    }
}

#[cfg(feature = "alloc")]
impl Node<'static> {
    /// A node with boxed storage. Load its stored facts ([`Node::load`]), then [`Node::start`].
    pub fn boxed(
        config: Config,
        identity: Identity,
        aead: &'static dyn AeadProvider,
        seed: [u8; 32],
        now: Instant,
        unix: UnixTime,
    ) -> Self {
        let storage = Storage::boxed(&config.limits);
        Node::new(config, identity, aead, seed, now, unix, storage)
    }
}

impl<'s> Node<'s> {
    /// A node over the caller's storage. Load its stored facts, then [`Node::start`].
    pub fn new(
        config: Config,
        identity: Identity,
        aead: &'static dyn AeadProvider,
        seed: [u8; 32],
        now: Instant,
        unix: UnixTime,
        storage: Storage<'s>,
    ) -> Self {
        let mut rng = Rng::new(seed);
        let wall = WallClock::new(now, unix);
        let tunnel = TunnelConfig {
            address: Address::UNSPECIFIED,
            identity: identity.public(),
            registry: IdentityKey::ZERO,
            record: None,
            // Replaced by the stored or first drawn one when the registry knows us.
            secret: TunnelSecret::from_secret(rng.bytes()),
            previous_secret: None,
            boot_id: [0; 8],
            max_datagram: crate::limits::DATAGRAM_MAX,
            caps: Caps::of(aead),
            wall,
        };
        let directory_config = directory::Config {
            registry_key: config.registry_key,
            forbid_first_use: config.forbid_first_use,
            takeover: config.takeover,
        };
        let mut fork = |label| rng.fork(label);
        let (for_directory, for_tunnel) = (fork("directory"), fork("tunnel"));
        let for_transport = fork("transport");
        let limits = &config.limits;
        Node {
            tunnel: Tunnel::new(now, tunnel, limits, aead, for_tunnel, storage.tunnel),
            transport: Transport::new(limits, for_transport, storage.transport),
            directory: Directory::new(
                directory_config,
                identity,
                aead,
                for_directory,
                now,
                unix,
                storage.directory,
            ),
            links: probes::Links::new(storage.links, storage.probes),
            punches: storage.punches,
            deadlines: storage.deadlines,
            locals: endpoints::Locals::default(),
            auxiliary: auxiliary::Auxiliary::default(),
            stun: StunClient::default(),
            discover: Discover::default(),
            flight: egress::Flight::default(),
            rng,
            drops: Drops::new(),
            aead,
            wall,
            batch: ingress::Batch::default(),
            relayed: 0,
            untold_paths: false,
            leaving: false,
            heard_at: None,
            rotate: false,
            now,
            config,
        }
    }

    /// Loads one stored fact; before [`Node::start`].
    pub fn load(&mut self, key: [u8; 8], value: &[u8]) -> Result<(), LoadError> {
        self.directory.load(key, value)
    }

    /// Everything stored is loaded: begins to connect.
    pub fn start(&mut self, now: Instant) {
        let now = self.see(now);
        self.directory.start(now);
        if let Some(endpoint) = self.config.endpoint {
            // Told to the beacon even if no interface has it.
            self.tell_candidates(now, Some(endpoint));
        }
        self.identify();
        self.add_known_peers(now);
        self.process(now);
    }

    /// The next change of durable state, its value in `out` (2 KiB suffice).
    pub fn poll_store(&mut self, out: &mut [u8]) -> Option<StoreChange> {
        self.directory.poll_store(out)
    }

    /// All changes up to `sequence` are on disk; what waited for them goes out.
    pub fn handle_stored(&mut self, now: Instant, sequence: u64) {
        let now = self.see(now);
        self.directory.handle_stored(now, sequence);
        self.process(now);
    }

    /// Carries out a request of the owner.
    pub fn command(&mut self, now: Instant, command: Command<'_>) -> Result<Reply, CommandError> {
        let now = self.see(now);
        let result = self.execute(now, command);
        self.process(now);
        result
    }

    /// The answer to a request, once [`Event::Answered`] told so; `None` before.
    pub fn answer(&mut self, id: RequestId) -> Option<Result<Answer<'_>, RequestError>> {
        self.directory.answer(id)
    }

    /// Frees the place of a request, answered or not.
    pub fn forget(&mut self, id: RequestId) {
        self.directory.forget(id);
    }

    /// The registry connection is up.
    pub fn handle_registry_open(&mut self, now: Instant) {
        let now = self.see(now);
        self.directory.handle_open(now);
        self.process(now);
    }

    /// Bytes from the registry connection.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        let now = self.see(now);
        self.directory.handle_bytes(now, bytes);
        self.process(now);
    }

    /// Bytes for the registry connection; 0 when there are none.
    pub fn poll_bytes(&mut self, now: Instant, out: &mut [u8]) -> usize {
        let now = self.see(now);
        let len = self.directory.poll_bytes(now, out);
        self.process(now);
        len
    }

    /// The registry connection was closed, or could not be opened.
    pub fn handle_registry_close(&mut self, now: Instant) {
        let now = self.see(now);
        self.directory.handle_close(now);
        self.process(now);
    }

    /// The next deadline of packets and timers: [`Machine::poll_timeout`] without the events
    /// that wait to be polled.
    fn next_timeout(&self) -> Option<Timeout> {
        // Asked after each packet: times and reasons are kept apart, because what is copied as
        // one odd-sized piece and then compared stalls the processor.
        let (mut at, mut reason) = (Instant::NEVER, Reason::Sweep);
        let mut sooner = |part: Option<Timeout>| {
            if let Some(part) = part
                && part.at < at
            {
                (at, reason) = (part.at, part.reason);
            }
        };
        sooner(self.directory.poll_timeout());
        sooner(self.tunnel.poll_timeout());
        let unreported = planted::has(Defect::OutputUnreported);
        let transport = self.transport.poll_timeout();
        sooner(transport.filter(|timeout| timeout.at > self.now || !unreported));
        if !self.flight.is_empty() || self.untold_paths || self.leaving || self.rotate {
            sooner(Some(Timeout { at: self.now, reason: Reason::Output }));
        }
        let stun = self.stun.next_at(|socket| self.auxiliary.is_open(socket));
        for at in [self.deadlines.first().map(|(at, _)| at), stun, self.discover.next_at()] {
            sooner(at.map(|at| Timeout { at, reason: Reason::Path }));
        }
        (at != Instant::NEVER).then_some(Timeout { at, reason })
    }

    /// An older `now` counts as the latest one seen (contract rule 1).
    fn see(&mut self, now: Instant) -> Instant {
        self.now = self.now.max(now);
        self.now
    }
}

impl Machine for Node<'_> {
    type Event = Event;

    fn handle_datagram<'b>(
        &mut self,
        now: Instant,
        path: Path,
        _ecn: Ecn,
        datagram: &'b mut [u8],
    ) -> Ingress<'b> {
        let now = self.see(now);
        let ingress = self.ingress(now, path, datagram);
        self.process(now);
        ingress
    }

    fn handle_batch_end(&mut self, now: Instant) {
        let now = self.see(now);
        self.batch_end(now);
        self.process(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        let now = self.see(now);
        self.directory.handle_timeout(now);
        self.tunnel.handle_timeout(now);
        self.transport.handle_timeout(now);
        self.stun.handle_timeout(now);
        self.process(now);
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        out: &mut [u8],
        max_segments: NonZeroUsize,
    ) -> Option<Transmit> {
        let now = self.see(now);
        let transmit = self.egress(now, out, max_segments);
        self.process(now);
        transmit
    }

    fn handle_too_large(&mut self, now: Instant, transmit: &Transmit) {
        let now = self.see(now);
        let size = transmit.segment.map_or(transmit.len, |segment| usize::from(segment.get()));
        self.transport.too_large(now, u16::try_from(size).unwrap_or(u16::MAX));
        self.process(now);
    }

    fn poll_timeout(&self) -> Option<Timeout> {
        if self.transport.has_event() || self.auxiliary.has_event() {
            return Some(Timeout { at: self.now, reason: Reason::Output });
        }
        self.next_timeout()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.next_event()
    }
}
