//! Streams as futures-io knows them.

use crate::Smol;
use smol::io::{AsyncRead, AsyncWrite};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

pilot_core::stream_types!(Smol, AsyncWrite::poll_close, "close");

macro_rules! reads {
    ($half:ty) => {
        impl AsyncRead for $half {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                self.handle.poll_read(cx.waker(), buf)
            }
        }
    };
}

reads!(Stream);
reads!(ReadHalf<'_>);
reads!(OwnedReadHalf);
