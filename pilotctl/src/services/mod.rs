//! What this agent offers its trusted peers, and what it asks of theirs: echo on port 7,
//! messages and files on port 1001, events on port 1002 (`wire.md` 12). The protocol is `pilot_core::service`;
//! here are its streams, stores and limits.
//!
//! * [`serve`]: the server's side of data exchange, one task a stream.
//! * [`inbox`], [`received`]: what arrived, durable before it is acknowledged.
//! * [`send`]: messages and files to a peer; [`push`]: many small messages; [`unfinished`]: which
//!   files may be continued.
//! * [`outbox`]: messages that wait for their receiver, durable before they are accepted.
//! * [`segments`], [`group`]: many messages in one file, and made durable by one sync.
//! * [`echo`]: both sides of the echo.
//! * [`events`]: the broker, and its clients.
//! * [`accept`]: accepts streams within limits.
//!
//! Nothing here blocks the runtime on a disk: stores are used on blocking threads, and a file
//! that is being received has its own, behind a queue of a few large chunks. A slow disk fills
//! that queue, then the stream's window, and stops its sender alone.

pub(crate) mod accept;
pub(crate) mod disk;
pub(crate) mod echo;
pub(crate) mod events;
mod group;
pub(crate) mod inbox;
pub(crate) mod outbox;
pub(crate) mod push;
pub(crate) mod received;
mod seen;
mod segments;
pub(crate) mod send;
pub(crate) mod serve;
pub(crate) mod unfinished;

#[cfg(test)]
mod tests;

use pilot_core::addr::{Address, Port, SocketAddress};
use pilot_core::node::PathKind;
use std::future::Future;
use tokio::io::{AsyncRead, AsyncWrite};

/// Where streams to peers come from: the agent, or in tests a pipe.
pub(crate) trait Connect: Sync {
    /// A stream.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send;
    /// Why there is none.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Opens a stream to a port of a peer.
    fn connect(
        &self,
        to: Address,
        port: Port,
    ) -> impl Future<Output = Result<Self::Stream, Self::Error>> + Send;

    /// Whether another attempt cannot help: no grant, say.
    fn is_final(error: &Self::Error) -> bool;

    /// How packets to a peer travel now.
    fn path(&self, peer: Address) -> impl Future<Output = PathKind> + Send;
}

/// Where streams of peers come from.
pub(crate) trait Accept: Send + 'static {
    /// A stream.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next one, and who opened it; `None` when there will be no more.
    fn accept(&mut self) -> impl Future<Output = Option<(Self::Stream, SocketAddress)>> + Send;
}

/// The word that commands and the local API use for a path.
pub(crate) fn path_word(path: PathKind) -> &'static str {
    match path {
        PathKind::Direct => "direct",
        PathKind::Relayed => "relayed",
        PathKind::None => "none",
    }
}
