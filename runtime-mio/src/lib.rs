//! Pilot Protocol on mio.
#![forbid(unsafe_code)]

mod agent;
pub mod blocking;
mod driver;
mod handles;
mod ready;
mod socket;
mod wake;

pub use agent::Agent;
pub use driver::{Driver, Loop, TOKENS};
pub use handles::{Connecting, Datagrams, Events, Listener, Question, Stream};
pub use ready::Ready;
pub use socket::Socket;
pub use wake::{Id, Waker};

use pilot_core::drive::{self, Budget, agent as shared};

/// The types of this runtime.
#[derive(Clone, Copy, Debug)]
pub struct Mio;

impl drive::Runtime for Mio {
    type Waker = Waker;
    type Sockets = Sockets;
    type Host = Clock;
    /// The user is given what came first before the sockets are asked whether there is more.
    const BUDGET: Budget = Budget { receives_first: 1, ..Budget::DEFAULT };
}

/// An agent that is not running yet.
pub type Builder = shared::Builder<Mio>;
/// What one can do with an agent without waiting; every [`Agent`] derefs to it.
pub type Handle = shared::Handle<Mio>;
/// The sockets of an agent under mio.
pub type Sockets = pilot_udp::UdpSockets<Socket>;

pub use pilot_core::drive::agent::{
    AgentEvent, Answer, Change, ConnectError, Connection, DatagramsError, DirectoryError, Info,
    ListenError, MemoryStore, ReadyError, RecvError, SendError, StartError, Store, StreamFailure,
    TrustError,
};
pub use pilot_core::drive::{BindError, BindOptions};
pub use pilot_udp::Clock;

pub use pilot_core::addr::{Address, NetworkId, NodeId, Port, SocketAddress};
pub use pilot_core::crypto::identity::{Fingerprint, Identity, IdentityKey};
#[cfg(feature = "ring")]
pub use pilot_core::crypto::ring::RING;
pub use pilot_core::limits::Limits;
pub use pilot_core::name::{Hostname, Justification, Tag, Tags};
pub use pilot_core::node::{
    AgentInfo, Command, Link, PathKind, PathPolicy, PeerInfo, RequestError, StreamEnd, Target,
    TrustRequestInfo,
};
