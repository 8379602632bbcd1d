//! What a node tells its owner: edges, coalesced on the object they concern.

use super::command::{RequestId, StreamId};
use crate::addr::{Address, Port};
use crate::crypto::identity::IdentityKey;
use crate::machine::SocketId;

/// Why a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamEnd {
    /// Both directions were finished and acknowledged.
    #[error("closed")]
    Closed,
    /// Nobody listens on the port (RST code 0), or the peer closed it.
    #[error("refused: nobody listens on that port")]
    Refused,
    /// The peer's grant does not cover the port (RST code 1).
    #[error("not permitted: the grant does not cover that port")]
    NotPermitted,
    /// The accept queue or a table of the peer is full (RST code 2).
    #[error("the peer is busy")]
    Busy,
    /// The peer aborted (RST code 3).
    #[error("aborted by the peer")]
    Aborted,
    /// The owner reset it.
    #[error("reset")]
    Reset,
    /// The peer restarted and has lost its streams.
    #[error("the peer restarted")]
    PeerRestarted,
    /// No handshake got through for 90 s.
    #[error("the peer cannot be reached")]
    Unreachable,
    /// Trust was revoked, by them or by us.
    #[error("trust was revoked")]
    Revoked,
    /// The peer, or this node, shut down.
    #[error("shut down")]
    Shutdown,
}

/// How the link to the registry and beacon stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// Registered, and the beacon answers.
    Online,
    /// One of them does not.
    Offline,
}

/// How packets to a peer travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathKind {
    /// No session.
    None,
    /// By the beacon's relay.
    Relayed,
    /// Straight.
    Direct,
}

/// An edge. After each, look at the object it names; several may have been coalesced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Connect to the registry (TCP) and report with `handle_registry_open`.
    DialRegistry,
    /// Close the registry connection.
    CloseRegistry,
    /// The registry connection has bytes to send: `poll_bytes`.
    RegistryBytes,
    /// Open an auxiliary UDP socket on any port and bind it to this id.
    OpenSocket(SocketId),
    /// Close an auxiliary socket.
    CloseSocket(SocketId),
    /// Durable state changed: `poll_store`.
    Store,
    /// First contact: this registry key was taken and pinned. Show its fingerprint once.
    RegistryPinned(IdentityKey),
    /// The registry shows another key than the pinned one. Nothing is sent to it.
    RegistryKeyChanged {
        /// What we trust.
        pinned: IdentityKey,
        /// What it shows.
        shown: IdentityKey,
    },
    /// The registry gave or confirmed our address.
    Registered(Address),
    /// The link to the rendezvous server changed.
    LinkChanged(Link),
    /// Our clock and the registry's differ by more than an hour (seconds, theirs less ours).
    ClockSkew(i64),
    /// This identity runs elsewhere: stop (exit code 8).
    Fenced,
    /// A request was answered or failed: `answer`.
    Answered(RequestId),
    /// A listener has a stream to accept.
    Acceptable(Port),
    /// A stream that we opened is open.
    StreamOpened(StreamId),
    /// Bytes, or the end, can be read.
    StreamReadable(StreamId),
    /// Bytes can be written again, or everything is acknowledged.
    StreamWritable(StreamId),
    /// The stream is over; what was received before can still be read.
    StreamClosed(StreamId, StreamEnd),
    /// The path to a peer changed.
    PathChanged(Address, PathKind),
    /// Somebody asks for trust.
    TrustRequested(Address),
    /// Trust is mutual now.
    TrustGranted(Address),
    /// Our request was refused.
    TrustRefused(Address),
    /// A peer has ended trust in us.
    TrustRevoked(Address),
}
