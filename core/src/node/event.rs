//! What a node tells its owner: edges, coalesced on the object they concern.

use super::{Link, Node};
use crate::addr::{Address, Port};
use crate::crypto::IdentityKey;
use crate::directory::{DirectoryEvent, RequestId};
use crate::machine::SocketId;
use crate::path::PeerIndex;
use crate::stream::{self, ResetCode, StreamId, TransportEvent};
use crate::trust::TrustEvent;

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
    /// The peer shut down.
    #[error("the peer shut down")]
    Gone,
    /// This node was shut down.
    #[error("shut down")]
    Shutdown,
}

/// How packets to a peer travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PathKind {
    /// No session.
    #[default]
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
    /// Send what `poll_bytes` still has, close the registry connection and report with
    /// `handle_registry_close`.
    CloseRegistry,
    /// The registry connection has bytes to send: `poll_bytes`.
    RegistryBytes,
    /// Open an auxiliary UDP socket on any port and bind it to this id; if that fails, report
    /// with [`super::Command::SocketFailed`]. With the id of the main socket, 0: bind another
    /// one on any port of the same addresses and close the one before, which seems to be dead;
    /// report the host candidates, which have another port, with
    /// [`super::Command::NetworkChanged`]. If that fails, the one before stays.
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
    /// The registry's key is neither given nor pinned, and first use is forbidden.
    RegistryUnknown(IdentityKey),
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
    /// Bytes can be written again, or everything is acknowledged (the finish, or what
    /// `Stream::is_acknowledged` was asked for).
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

impl From<stream::StreamEnd> for StreamEnd {
    fn from(end: stream::StreamEnd) -> Self {
        match end {
            stream::StreamEnd::Finished => StreamEnd::Closed,
            stream::StreamEnd::Reset(ResetCode::Closed) => StreamEnd::Refused,
            stream::StreamEnd::Reset(ResetCode::NotPermitted) => StreamEnd::NotPermitted,
            stream::StreamEnd::Reset(ResetCode::Busy) => StreamEnd::Busy,
            stream::StreamEnd::Reset(_) => StreamEnd::Aborted,
            stream::StreamEnd::Aborted => StreamEnd::Reset,
            stream::StreamEnd::PeerRestarted => StreamEnd::PeerRestarted,
            stream::StreamEnd::Unreachable => StreamEnd::Unreachable,
            stream::StreamEnd::Removed => StreamEnd::Revoked,
            stream::StreamEnd::Gone => StreamEnd::Gone,
        }
    }
}

impl Node<'_> {
    pub(super) fn next_event(&mut self) -> Option<Event> {
        if core::mem::take(&mut self.rotate) {
            // Behind the event: what asks the beacon leaves by the new socket. What was proven by
            // the one before is doubted when the owner reports that its address is gone.
            self.directory.renew_beacon(self.now);
            return Some(Event::OpenSocket(SocketId(0)));
        }
        while self.directory.has_edge()
            && let Some(event) = self.directory.poll_event()
        {
            if let Some(event) = told(event) {
                return Some(event);
            }
        }
        if self.auxiliary.has_event()
            && let Some(event) = self.auxiliary.poll_event()
        {
            if let Event::OpenSocket(socket) = event {
                self.socket_opened(socket);
            }
            return Some(event);
        }
        if self.untold_paths {
            for index in 0..self.links.len() {
                let peer = PeerIndex(index as u32);
                let untold = self.link_mut(peer).is_some_and(|l| core::mem::take(&mut l.untold));
                if untold && let Some(known) = self.directory.trust().peer(peer) {
                    return Some(Event::PathChanged(known.address, self.path_kind(peer)));
                }
            }
            self.untold_paths = false;
        }
        while self.transport.has_event() || self.transport.has_peer_event() {
            match self.transport.poll_event()? {
                TransportEvent::Opened(id) => return Some(Event::StreamOpened(id)),
                TransportEvent::Acceptable(port) => return Some(Event::Acceptable(port)),
                TransportEvent::Readable(id) => return Some(Event::StreamReadable(id)),
                TransportEvent::Writable(id) | TransportEvent::Finished(id) => {
                    return Some(Event::StreamWritable(id));
                }
                TransportEvent::Closed(id, end) => {
                    return Some(Event::StreamClosed(id, end.into()));
                }
                // Those about peers were taken by `process`.
                _ => {}
            }
        }
        None
    }
}

/// What the owner is told of an event of the directory.
fn told(event: DirectoryEvent) -> Option<Event> {
    Some(match event {
        DirectoryEvent::Dial => Event::DialRegistry,
        DirectoryEvent::Close => Event::CloseRegistry,
        DirectoryEvent::Bytes => Event::RegistryBytes,
        DirectoryEvent::Store => Event::Store,
        DirectoryEvent::RegistryPinned(key) => Event::RegistryPinned(key),
        DirectoryEvent::RegistryKeyChanged { pinned, shown } => {
            Event::RegistryKeyChanged { pinned, shown }
        }
        DirectoryEvent::RegistryUnknown(key) => Event::RegistryUnknown(key),
        DirectoryEvent::Registered(address) => Event::Registered(address),
        DirectoryEvent::LinkChanged(link) => Event::LinkChanged(link),
        DirectoryEvent::ClockSkew(seconds) => Event::ClockSkew(seconds),
        DirectoryEvent::Fenced => Event::Fenced,
        DirectoryEvent::Answered(id) => Event::Answered(id),
        DirectoryEvent::Trust(TrustEvent::Requested(from)) => Event::TrustRequested(from),
        DirectoryEvent::Trust(TrustEvent::Granted(by)) => Event::TrustGranted(by),
        DirectoryEvent::Trust(TrustEvent::Refused(by)) => Event::TrustRefused(by),
        DirectoryEvent::Trust(TrustEvent::Revoked(by)) => Event::TrustRevoked(by),
        // Those about channels and the table of peers were taken by `process`.
        _ => return None,
    })
}
