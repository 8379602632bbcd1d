//! Streams as tokio knows them.

use crate::Tokio;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pilot_core::stream_types!(Tokio, "shutdown");

macro_rules! reads {
    ($half:ty) => {
        impl AsyncRead for $half {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let read = self.handle.poll_read(cx.waker(), buf.initialize_unfilled());
                read.map_ok(|n| buf.advance(n))
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
                self.handle.poll_write(cx.waker(), bytes)
            }

            /// Accepted bytes are sent without being asked for.
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(self.handle.finish())
            }
        }
    };
}

reads!(Stream);
reads!(ReadHalf<'_>);
reads!(OwnedReadHalf);
writes!(Stream);
writes!(WriteHalf<'_>);
writes!(OwnedWriteHalf);
