//! A TCP connection joined to a stream of a peer. Each direction ends by itself (half-close),
//! and whatever ends otherwise than well ends so on both sides: a reset must not look like an
//! end of file.

use crate::daemon::node::{self, Stream};
use crate::error::{Code, Failure};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;

/// Bytes that wait in the daemon between both, in each direction: what is not taken there is
/// not read here.
const COPY: usize = 32 * 1024;
/// The kernel asks a TCP peer that has been silent for so long whether it is still there: one that
/// went away without a word would keep its place.
const SILENCE: Duration = Duration::from_secs(60);

/// A stream that is reset when dropped, unless it has ended well.
#[derive(Debug)]
pub(super) struct Fragile {
    stream: Stream,
    whole: bool,
}

impl From<Stream> for Fragile {
    fn from(stream: Stream) -> Self {
        Fragile { stream, whole: false }
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        if !self.whole {
            self.stream.reset();
        }
    }
}

impl AsyncRead for Fragile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Fragile {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A TCP connection that is reset when dropped, unless it has ended well.
#[derive(Debug)]
pub(super) struct FragileTcp(TcpStream);

impl FragileTcp {
    /// From now on.
    pub(super) fn new(tcp: TcpStream) -> Result<Self, Failure> {
        let keepalive = TcpKeepalive::new().with_time(SILENCE);
        // The applications decide what belongs together; nothing is held back for more.
        tcp.set_nodelay(true)
            .and_then(|()| SockRef::from(&tcp).set_tcp_keepalive(&keepalive))
            .and_then(|()| tcp.set_zero_linger())
            .map_err(|e| Failure::io("use the connection", e))?;
        Ok(FragileTcp(tcp))
    }
}

/// Copies in both directions until both have ended.
pub(super) async fn join(tcp: FragileTcp, mut stream: Fragile) -> Result<(), Failure> {
    let mut tcp = tcp;
    let copied = copy_bidirectional_with_sizes(&mut tcp.0, &mut stream, COPY, COPY).await;
    copied.map_err(|error| {
        node::from_io(&error)
            .unwrap_or_else(|| Failure::new(Code::Ended, format!("the TCP connection: {error}")))
    })?;
    stream.whole = true;
    let closed = SockRef::from(&tcp.0).set_linger(None);
    closed.map_err(|e| Failure::io("close the connection", e))
}
