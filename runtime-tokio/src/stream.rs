//! Streams as tokio knows them.

use crate::agent::AgentInner;
use crate::error::io_error;
use pilot_core::addr::{Port, SocketAddress};
use pilot_core::node::StreamId;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The one handle of a stream; dropped with its last half.
#[derive(Debug)]
pub(crate) struct Shared {
    agent: Arc<AgentInner>,
    id: StreamId,
    peer: SocketAddress,
    local: Port,
}

impl Shared {
    /// A handle for an adopted stream.
    fn new(agent: &Arc<AgentInner>, id: StreamId) -> Self {
        let (peer, local) = agent.driver.peek(|access| {
            // A stream without a place in the node any more has failed; reading tells.
            access.machine.stream(id).map_or_else(Default::default, |s| s.addresses())
        });
        Shared { agent: Arc::clone(agent), id, peer, local }
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let unfilled = buf.initialize_unfilled();
        let read = self.agent.driver.peek(|access| {
            let hub = &mut access.owner.hub;
            hub.poll_read(access.machine, access.now, self.id, unfilled, cx.waker())
        });
        read.map_ok(|n| buf.advance(n)).map_err(io_error)
    }

    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let write = self.agent.driver.with(|access| {
            let hub = &mut access.owner.hub;
            hub.poll_write(access.machine, access.now, self.id, bytes, cx.waker())
        });
        write.map_err(io_error)
    }

    fn poll_acknowledged(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let acknowledged = self
            .agent
            .driver
            .peek(|access| access.owner.hub.poll_acknowledged(access.machine, self.id, cx.waker()));
        acknowledged.map_err(io_error)
    }

    fn finish(&self) -> io::Result<()> {
        use pilot_core::node::{StreamEnd, StreamError};
        let finished = self.agent.driver.with(|access| match access.machine.stream(self.id) {
            Some(mut stream) => stream.finish(access.now),
            None => Err(StreamError::Ended(StreamEnd::Closed)),
        });
        match finished {
            // Finishing twice, or what has ended well, is nothing to complain of.
            Ok(()) | Err(StreamError::Finished | StreamError::Ended(StreamEnd::Closed)) => Ok(()),
            Err(error) => Err(io_error(error)),
        }
    }

    fn reset(&self) {
        self.agent.driver.with(|access| {
            if let Some(mut stream) = access.machine.stream(self.id) {
                stream.reset(access.now);
            }
        });
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return; // The lock may be poisoned, and the agent is of no use then anyway.
        }
        self.agent.driver.with(|access| {
            access.owner.hub.release(access.machine, access.now, self.id);
        });
    }
}

/// A reliable, ordered, encrypted stream of bytes in both directions.
///
/// * **Writing** accepts bytes into a bounded ring and returns; it waits only while the ring
///   is full. Bytes are sent as soon as the driver's task runs, so `flush` has nothing to do.
///   [`Stream::acknowledged`] waits until the peer has them.
/// * **`shutdown`** (of [`tokio::io::AsyncWriteExt`]) ends the writing direction: the peer
///   reads to the end. It returns at once; reading goes on.
/// * **Reading** yields 0 bytes at the end.
/// * **Dropping** ends the writing direction like `shutdown` (what was written is still sent
///   and, if need be, sent again), and discards what is received from then on. It is not a
///   reset; that is [`Stream::reset`].
/// * Every future of a stream may be dropped without losing bytes: a write has either
///   accepted bytes, or not.
///
/// Errors are [`io::Error`]s around a [`crate::StreamFailure`], which says why.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
}

impl Stream {
    pub(crate) fn new(agent: &Arc<AgentInner>, id: StreamId) -> Self {
        Stream { shared: Arc::new(Shared::new(agent, id)) }
    }

    pub(crate) fn id(&self) -> StreamId {
        self.shared.id
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddress {
        self.shared.peer
    }

    /// Our port.
    pub fn local_port(&self) -> Port {
        self.shared.local
    }

    /// Waits until the peer has acknowledged every byte written so far and, after
    /// `shutdown`, the end, too.
    pub async fn acknowledged(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.shared.poll_acknowledged(cx)).await
    }

    /// Ends both directions at once; the peer's reads and writes fail. What was written and
    /// not yet acknowledged may be lost.
    pub fn reset(&mut self) {
        self.shared.reset();
    }

    /// Borrowed halves, for reading and writing at the same time in one task.
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        (ReadHalf { shared: &self.shared }, WriteHalf { shared: &self.shared })
    }

    /// Owned halves, for two tasks.
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        let read = OwnedReadHalf { shared: Arc::clone(&self.shared) };
        (read, OwnedWriteHalf { shared: self.shared, ends: true })
    }
}

macro_rules! reads {
    ($half:ty) => {
        impl AsyncRead for $half {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                self.shared.poll_read(cx, buf)
            }
        }
    };
}

macro_rules! writes {
    ($half:ty) => {
        impl AsyncWrite for $half {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.shared.poll_write(cx, bytes)
            }

            /// Accepted bytes are sent without being asked for.
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(self.shared.finish())
            }
        }
    };
}

reads!(Stream);
writes!(Stream);

/// The reading half of a borrowed [`Stream`].
#[derive(Debug)]
pub struct ReadHalf<'s> {
    shared: &'s Shared,
}

/// The writing half of a borrowed [`Stream`].
#[derive(Debug)]
pub struct WriteHalf<'s> {
    shared: &'s Shared,
}

impl WriteHalf<'_> {
    /// See [`Stream::acknowledged`].
    pub async fn acknowledged(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.shared.poll_acknowledged(cx)).await
    }
}

/// The reading half of a [`Stream`]. Dropping it discards nothing as long as the other half
/// lives.
#[derive(Debug)]
pub struct OwnedReadHalf {
    shared: Arc<Shared>,
}

/// The writing half of a [`Stream`]. Dropping it ends the writing direction.
#[derive(Debug)]
pub struct OwnedWriteHalf {
    shared: Arc<Shared>,
    /// Whether dropping it ends the writing direction: not after [`OwnedReadHalf::reunite`].
    ends: bool,
}

impl OwnedReadHalf {
    /// The other end.
    pub fn peer(&self) -> SocketAddress {
        self.shared.peer
    }

    /// The whole stream again, if `write` is its other half.
    pub fn reunite(self, mut write: OwnedWriteHalf) -> Result<Stream, (Self, OwnedWriteHalf)> {
        if Arc::ptr_eq(&self.shared, &write.shared) {
            write.ends = false;
            Ok(Stream { shared: self.shared })
        } else {
            Err((self, write))
        }
    }
}

impl OwnedWriteHalf {
    /// The other end.
    pub fn peer(&self) -> SocketAddress {
        self.shared.peer
    }

    /// See [`Stream::acknowledged`].
    pub async fn acknowledged(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.shared.poll_acknowledged(cx)).await
    }

    /// See [`Stream::reset`].
    pub fn reset(&mut self) {
        self.shared.reset();
    }
}

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        if self.ends && !std::thread::panicking() {
            // A stream that has failed already has nothing to finish.
            let _ = self.shared.finish();
        }
    }
}

reads!(ReadHalf<'_>);
reads!(OwnedReadHalf);
writes!(WriteHalf<'_>);
writes!(OwnedWriteHalf);
