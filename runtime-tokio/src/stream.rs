//! Streams as tokio knows them.

use crate::Tokio;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pilot_core::stream_types!(Tokio, AsyncWrite::poll_shutdown, "shutdown");

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

reads!(Stream);
reads!(ReadHalf<'_>);
reads!(OwnedReadHalf);
