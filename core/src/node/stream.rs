//! A stream as its owner sees it, borrowed from the node for a moment.

use super::event::StreamEnd;
use super::{Node, StreamId};
use crate::addr::{Address, Port, SocketAddress};
use crate::path::PeerIndex;
use crate::stream::{self, ReadError, ResetCode, WriteError};
use crate::time::Instant;

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
#[derive(Debug)]
pub struct Stream<'n, 's> {
    node: &'n mut Node<'s>,
    id: StreamId,
}

impl<'s> Node<'s> {
    /// The stream, for reading, writing and closing.
    pub fn stream(&mut self, id: StreamId) -> Option<Stream<'_, 's>> {
        self.transport.stream_info(id)?;
        Some(Stream { node: self, id })
    }

    /// Forgets a stream: its handle was dropped. What was written still goes out and is
    /// finished; if bytes are unread, or come later, the peer gets a reset.
    pub fn release(&mut self, now: Instant, id: StreamId) {
        let now = self.see(now);
        let peer = self.transport.stream_info(id).map(|info| info.peer);
        self.transport.release(now, id);
        self.reach_to_end(now, peer);
        self.process(now);
    }

    /// The end of a stream, too, is worth a session: without one it would keep its place until
    /// something else brings one up. A peer that does not answer is given up in the end.
    pub(super) fn reach_to_end(&mut self, now: Instant, peer: Option<PeerIndex>) {
        if let Some(peer) = peer.filter(|peer| self.transport.wants_session(*peer)) {
            self.reach_unless_reachable(now, peer);
        }
    }

    /// What a peer may do here has changed: what it may not do any more ends.
    pub(super) fn enforce_permissions(&mut self, now: Instant, peer: PeerIndex) {
        let Some(permissions) = self.directory.trust().peer(peer).map(|p| p.permissions()) else {
            return;
        };
        self.transport.reset_forbidden(now, peer, |port| permissions.allows(port));
        self.reach_to_end(now, Some(peer));
    }

    /// The next stream of a listener.
    pub fn accept(&mut self, port: Port) -> Option<StreamId> {
        self.transport.accept(port)
    }

    fn stream_end(&self, end: stream::StreamEnd) -> StreamEnd {
        StreamEnd::from(end)
    }
}

impl Stream<'_, '_> {
    /// Moves received bytes into `buf`; 0 is the end of the stream (or an empty `buf`).
    pub fn read(&mut self, now: Instant, buf: &mut [u8]) -> Result<usize, StreamError> {
        let now = self.node.see(now);
        let result = self.node.transport.read(now, self.id, buf);
        result.map_err(|error| match error {
            ReadError::WouldBlock => StreamError::WouldBlock,
            ReadError::Ended(end) => StreamError::Ended(self.node.stream_end(end)),
            ReadError::Unknown => StreamError::Ended(StreamEnd::Closed),
        })
    }

    /// Accepts bytes into the bounded send ring; acknowledged is an event.
    pub fn write(&mut self, now: Instant, bytes: &[u8]) -> Result<usize, StreamError> {
        let now = self.node.see(now);
        let result = self.node.transport.write(now, self.id, bytes);
        self.reach(now);
        result.map_err(|error| self.write_error(error))
    }

    /// No more bytes will be written; FIN follows the last one.
    pub fn finish(&mut self, now: Instant) -> Result<(), StreamError> {
        let now = self.node.see(now);
        let result = self.node.transport.finish(now, self.id);
        self.reach(now);
        result.map_err(|error| self.write_error(error))
    }

    /// Ends both directions at once; the peer learns that we aborted.
    pub fn reset(&mut self, now: Instant) {
        let now = self.node.see(now);
        let peer = self.node.transport.stream_info(self.id).map(|info| info.peer);
        self.node.transport.reset(now, self.id, ResetCode::Aborted);
        self.node.reach_to_end(now, peer);
        self.node.process(now);
    }

    /// Whether everything written, and FIN if finished, was acknowledged. If not, a
    /// `StreamWritable` follows when it is; therefore by value.
    pub fn is_acknowledged(self) -> bool {
        self.node.transport.is_acknowledged(self.id)
    }

    /// Whether the opening handshake is over.
    pub fn is_open(&self) -> bool {
        let info = self.node.transport.stream_info(self.id);
        info.is_some_and(|info| info.state.is_synchronized())
    }

    /// Why it ended, if it has.
    pub fn end(&self) -> Option<StreamEnd> {
        let end = self.node.transport.stream_info(self.id)?.end?;
        Some(self.node.stream_end(end))
    }

    /// The peer's address and port, and our port.
    pub fn addresses(&self) -> (SocketAddress, Port) {
        let Some(info) = self.node.transport.stream_info(self.id) else {
            return (SocketAddress::default(), Port::default());
        };
        let peer = self.node.directory.trust().peer(info.peer);
        let node = peer.map_or(Address::UNSPECIFIED.node, |peer| peer.address.node);
        let address = Address::new(info.network, node);
        (SocketAddress { address, port: info.remote_port }, info.local_port)
    }

    /// What was written may be the first for long: an idle stream outlives its session.
    fn reach(&mut self, now: Instant) {
        let info = self.node.transport.stream_info(self.id).filter(|info| info.end.is_none());
        if let Some(info) = info {
            self.node.reach_unless_reachable(now, info.peer);
            self.node.process(now);
        }
    }

    fn write_error(&self, error: WriteError) -> StreamError {
        match error {
            WriteError::WouldBlock => StreamError::WouldBlock,
            WriteError::Finished => StreamError::Finished,
            WriteError::Ended(end) => StreamError::Ended(self.node.stream_end(end)),
            WriteError::Unknown => StreamError::Ended(StreamEnd::Closed),
        }
    }
}
