//! The handle of a stream, from which every adapter makes its own stream type.

use super::error::io_error;
use super::handle::KeepAlive;
use crate::addr::{Port, SocketAddress};
use crate::drive::runtime::Runtime;
use crate::node::{StreamEnd, StreamError, StreamId};
use core::fmt;
use core::task::Poll;
use std::io;
use std::sync::Arc;

struct Held<R: Runtime> {
    agent: KeepAlive<R>,
    id: StreamId,
    peer: SocketAddress,
    local: Port,
}

impl<R: Runtime> Drop for Held<R> {
    fn drop(&mut self) {
        self.agent.shared().with_unless_broken(|access| {
            access.owner.hub.release(access.machine, access.now, self.id);
        });
    }
}

/// A stream in any runtime; what it does when it is read, written and dropped stands at the
/// adapters' stream types. Clones are the same stream, which is released with the last one.
pub struct StreamHandle<R: Runtime>(Arc<Held<R>>);

impl<R: Runtime> Clone for StreamHandle<R> {
    fn clone(&self) -> Self {
        StreamHandle(Arc::clone(&self.0))
    }
}

impl<R: Runtime> fmt::Debug for StreamHandle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("peer", &self.0.peer)
            .field("local_port", &self.0.local)
            .finish_non_exhaustive()
    }
}

impl<R: Runtime> StreamHandle<R> {
    /// A handle for an adopted stream.
    pub(super) fn new(agent: &KeepAlive<R>, id: StreamId) -> Self {
        let (peer, local) = agent.peek(|access| {
            // A stream without a place in the node any more has failed; reading tells.
            access.machine.stream(id).map_or_else(Default::default, |s| s.addresses())
        });
        StreamHandle(Arc::new(Held { agent: agent.clone(), id, peer, local }))
    }

    /// The other end.
    pub fn peer(&self) -> SocketAddress {
        self.0.peer
    }

    /// Our port.
    pub fn local_port(&self) -> Port {
        self.0.local
    }

    /// The agent that the stream is one of.
    pub fn agent(&self) -> &KeepAlive<R> {
        &self.0.agent
    }

    /// Its number in the node: no two streams that exist at the same time share it.
    pub fn id(&self) -> StreamId {
        self.0.id
    }

    /// Whether both are the same stream.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether the opening handshake is over, or how it failed.
    pub fn poll_open(&self, waker: &R::Waker) -> Poll<Result<(), StreamEnd>> {
        let open = self
            .0
            .agent
            .peek(|access| access.owner.hub.poll_open(access.machine, self.0.id, waker));
        open.map_err(|error| match error {
            StreamError::Ended(end) => end,
            _ => StreamEnd::Reset,
        })
    }

    /// Reads into `buf`; 0 bytes are the end. `waker` replaces the one of the reader before.
    pub fn poll_read(&self, waker: &R::Waker, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = self.0.agent.peek(|access| {
            access.owner.hub.poll_read(access.machine, access.now, self.0.id, buf, waker)
        });
        read.map_err(io_error)
    }

    /// Writes; the number says how many bytes were accepted into the bounded send ring.
    /// `waker` replaces the one of the writer before.
    pub fn poll_write(&self, waker: &R::Waker, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let write = self.0.agent.with(|access| {
            access.owner.hub.poll_write(access.machine, access.now, self.0.id, bytes, waker)
        });
        write.map_err(io_error)
    }

    /// Whether the peer has acknowledged every byte written so far and, after
    /// [`StreamHandle::finish`], the end, too. `waker` replaces the one of the writer before.
    pub fn poll_acknowledged(&self, waker: &R::Waker) -> Poll<io::Result<()>> {
        let acknowledged = self
            .0
            .agent
            .peek(|access| access.owner.hub.poll_acknowledged(access.machine, self.0.id, waker));
        acknowledged.map_err(io_error)
    }

    /// Ends the writing direction: the peer reads to the end. Returns at once; what was
    /// written is still sent.
    pub fn finish(&self) -> io::Result<()> {
        let finished = self.0.agent.with(|access| match access.machine.stream(self.0.id) {
            Some(mut stream) => stream.finish(access.now),
            None => Err(StreamError::Ended(StreamEnd::Closed)),
        });
        match finished {
            // Finishing twice, or what has ended well, is nothing to complain of.
            Ok(()) | Err(StreamError::Finished | StreamError::Ended(StreamEnd::Closed)) => Ok(()),
            Err(error) => Err(io_error(error)),
        }
    }

    /// [`StreamHandle::finish`] of a writing half that is dropped. A stream that has failed
    /// already has nothing to finish.
    pub fn finish_dropped(&self) {
        self.0.agent.shared().with_unless_broken(|access| {
            if let Some(mut stream) = access.machine.stream(self.0.id) {
                let _ = stream.finish(access.now);
            }
        });
    }

    /// Ends both directions at once; the peer's reads and writes fail. What was written and
    /// not yet acknowledged may be lost.
    pub fn reset(&self) {
        self.0.agent.with(|access| {
            if let Some(mut stream) = access.machine.stream(self.0.id) {
                stream.reset(access.now);
            }
        });
    }
}

/// Defines an adapter's `Stream` and its halves over [`StreamHandle`]: types of the adapter,
/// because only its own types can have the runtime's reading and writing traits. Each has a
/// field `handle`. `$write` is the runtime's writing trait, `$poll_shutdown` its method that ends
/// the writing direction, and `$shutdown` the name under which its users know that.
#[doc(hidden)]
#[macro_export]
macro_rules! stream_types {
    ($runtime:ty, $write:ident :: $poll_shutdown:ident, $shutdown:literal) => {
        /// A reliable, ordered, encrypted stream of bytes in both directions.
        ///
        /// * **Writing** accepts bytes into a bounded ring and returns; it waits only while the
        ///   ring is full. Bytes are sent as soon as the driver's task runs, so `flush` has
        ///   nothing to do. [`Stream::acknowledged`] waits until the peer has them.
        #[doc = concat!("* **`", $shutdown, "`** ends the writing direction: the peer reads to \
            the end. It returns at once; reading goes on.")]
        /// * **Reading** yields 0 bytes at the end.
        #[doc = concat!("* **Dropping** ends the writing direction like `", $shutdown, "` (what \
            was written is still sent and, if need be, sent again), unless something unread is \
            there or comes: then both directions are reset, and what the peer does not have yet \
            is lost. Who wants to be sure waits for [`Stream::acknowledged`] first.")]
        /// * Every future of a stream may be dropped without losing bytes: a write has either
        ///   accepted bytes, or not.
        ///
        /// Errors are [`std::io::Error`]s around a [`StreamFailure`](crate::StreamFailure),
        /// which says why.
        #[derive(Debug)]
        pub struct Stream {
            handle: $crate::drive::agent::StreamHandle<$runtime>,
        }

        impl From<$crate::drive::agent::StreamHandle<$runtime>> for Stream {
            fn from(handle: $crate::drive::agent::StreamHandle<$runtime>) -> Self {
                Stream { handle }
            }
        }

        impl Stream {
            /// The other end.
            pub fn peer(&self) -> $crate::addr::SocketAddress {
                self.handle.peer()
            }

            /// Our port.
            pub fn local_port(&self) -> $crate::addr::Port {
                self.handle.local_port()
            }

            #[doc = concat!("Waits until the peer has acknowledged every byte written so far \
                and, after `", $shutdown, "`, the end, too.")]
            pub async fn acknowledged(&mut self) -> ::std::io::Result<()> {
                ::std::future::poll_fn(|cx| self.handle.poll_acknowledged(cx.waker())).await
            }

            /// Ends both directions at once; the peer's reads and writes fail. What was
            /// written and not yet acknowledged may be lost.
            pub fn reset(&mut self) {
                self.handle.reset();
            }

            /// Borrowed halves, for reading and writing at the same time in one task.
            pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
                (ReadHalf { handle: &self.handle }, WriteHalf { handle: &self.handle })
            }

            /// Owned halves, for two tasks.
            pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
                let read = OwnedReadHalf { handle: self.handle.clone() };
                (read, OwnedWriteHalf { handle: self.handle, ends: true })
            }
        }

        /// The reading half of a borrowed [`Stream`].
        #[derive(Debug)]
        pub struct ReadHalf<'s> {
            handle: &'s $crate::drive::agent::StreamHandle<$runtime>,
        }

        /// The writing half of a borrowed [`Stream`].
        #[derive(Debug)]
        pub struct WriteHalf<'s> {
            handle: &'s $crate::drive::agent::StreamHandle<$runtime>,
        }

        impl WriteHalf<'_> {
            /// See [`Stream::acknowledged`].
            pub async fn acknowledged(&mut self) -> ::std::io::Result<()> {
                ::std::future::poll_fn(|cx| self.handle.poll_acknowledged(cx.waker())).await
            }
        }

        /// The reading half of a [`Stream`]. Dropping it discards nothing as long as the other
        /// half lives.
        #[derive(Debug)]
        pub struct OwnedReadHalf {
            handle: $crate::drive::agent::StreamHandle<$runtime>,
        }

        /// The writing half of a [`Stream`]. Dropping it ends the writing direction.
        #[derive(Debug)]
        pub struct OwnedWriteHalf {
            handle: $crate::drive::agent::StreamHandle<$runtime>,
            /// Whether dropping it ends the writing direction: not after
            /// [`OwnedReadHalf::reunite`].
            ends: bool,
        }

        impl OwnedReadHalf {
            /// The other end.
            pub fn peer(&self) -> $crate::addr::SocketAddress {
                self.handle.peer()
            }

            /// The whole stream again, if `write` is its other half.
            pub fn reunite(
                self,
                mut write: OwnedWriteHalf,
            ) -> Result<Stream, (Self, OwnedWriteHalf)> {
                if self.handle.is_same(&write.handle) {
                    write.ends = false;
                    Ok(Stream { handle: self.handle })
                } else {
                    Err((self, write))
                }
            }
        }

        impl OwnedWriteHalf {
            /// The other end.
            pub fn peer(&self) -> $crate::addr::SocketAddress {
                self.handle.peer()
            }

            /// See [`Stream::acknowledged`].
            pub async fn acknowledged(&mut self) -> ::std::io::Result<()> {
                ::std::future::poll_fn(|cx| self.handle.poll_acknowledged(cx.waker())).await
            }

            /// See [`Stream::reset`].
            pub fn reset(&mut self) {
                self.handle.reset();
            }
        }

        impl Drop for OwnedWriteHalf {
            fn drop(&mut self) {
                if self.ends {
                    self.handle.finish_dropped();
                }
            }
        }

        $crate::stream_types!(write $write::$poll_shutdown for Stream);
        $crate::stream_types!(write $write::$poll_shutdown for WriteHalf<'_>);
        $crate::stream_types!(write $write::$poll_shutdown for OwnedWriteHalf);
    };
    (write $write:ident :: $poll_shutdown:ident for $half:ty) => {
        impl $write for $half {
            fn poll_write(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                bytes: &[u8],
            ) -> ::std::task::Poll<::std::io::Result<usize>> {
                self.handle.poll_write(cx.waker(), bytes)
            }

            /// Accepted bytes are sent without being asked for.
            fn poll_flush(
                self: ::std::pin::Pin<&mut Self>,
                _: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                ::std::task::Poll::Ready(Ok(()))
            }

            fn $poll_shutdown(
                self: ::std::pin::Pin<&mut Self>,
                _: &mut ::std::task::Context<'_>,
            ) -> ::std::task::Poll<::std::io::Result<()>> {
                ::std::task::Poll::Ready(self.handle.finish())
            }
        }
    };
}
