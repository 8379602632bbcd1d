//! One agent: composes tunnel, transport, directory and trust.
//!
//! The parts decide for themselves: [`crate::session::Tunnel`] about handshakes, sessions and
//! keys, [`crate::stream::Transport`] about streams, datagrams, acknowledgement and congestion,
//! [`crate::directory::Directory`] about registry, beacon and trust. The node owns what lies
//! between them: the table of peers (one [`PeerIndex`] names a peer in all of them), the paths
//! to each peer (`link.rs`), and the one way in and out.
//!
//! | part says | node does |
//! |---|---|
//! | directory: trusted | adds the peer to tunnel and transport |
//! | owner: connect | a stream at once; without a session, INIT by every known route, and registry and beacon are asked for more |
//! | directory: channel up, endpoints known | a running INIT goes there too; with a session: path challenge |
//! | tunnel: session up by a route | proves that path, challenges the others |
//! | challenge answered | proves that path; data moves to the best one |
//! | transport: path suspect | data moves, an INIT goes out by all routes |
//! | peer: goodbye (F7) | its streams end; revoked: trust ends |
//! | directory: no longer trusted | the peer is removed everywhere, its keys are zeroed |

mod command;
mod egress;
mod endpoints;
mod event;
mod info;
mod ingress;
mod link;
mod reach;
mod requests;
mod storage;

pub use crate::directory::{AgentInfo, Answer, Page, RequestError, RequestId, Target};
pub use crate::journal::{LoadError, StoreChange};
pub use crate::stream::{StreamEnd, StreamError, StreamId};
pub use command::{Command, CommandError, PathPolicy, Reply};
pub use event::{Event, PathKind};
pub use info::{Info, PeerInfo, StreamInfo, TrustRequestInfo};
pub use storage::Storage;

use crate::addr::{Address, NetworkId, Port, SocketAddress};
use crate::crypto::{AeadProvider, Identity, IdentityKey};
use crate::directory::{Directory, DirectoryEvent, Link as RendezvousLink};
use crate::limits::Limits;
use crate::machine::{Ecn, Ingress, Machine, Path, Reason, Timeout, Transmit};
use crate::path::PeerIndex;
use crate::rng::Rng;
use crate::session::Tunnel;
use crate::slab::Store;
use crate::stats::Drops;
use crate::stream::Transport;
use crate::time::{Instant, UnixTime};
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
    /// Take the identity over from another home (`wire.md` 10).
    pub takeover: bool,
}

/// One agent as a pure state machine; see [`Machine`] for its datagrams, timers and events.
pub struct Node<'s> {
    config: Config,
    directory: Directory<'s>,
    tunnel: Tunnel<'s>,
    transport: Transport<'s>,
    links: Store<'s, Option<link::Link>>,
    deadlines: Deadlines<'s>,
    locals: endpoints::Locals,
    flight: egress::Flight,
    rng: Rng,
    drops: Drops,
    /// Directory events for the owner that have not been polled, coalesced.
    told: event::Told,
    /// Some link's path kind changed and was not told.
    untold_paths: bool,
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
