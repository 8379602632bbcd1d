//! Both sides of the echo on port 7: bytes back. The client measures round trips and the
//! rate at which bytes come back, and checks every one of them.

use super::Connect;
use pilot_core::addr::{Address, Port};
use pilot_core::node::PathKind;
use pilot_core::service::echo::{CHUNK, PROBE, check, fill};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

/// A stream on which nothing moves for so long is closed.
const IDLE: Duration = Duration::from_secs(120);

/// Sends back what comes until the peer finishes.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    let mut buf = vec![0; CHUNK];
    loop {
        let n = timeout(IDLE, stream.read(&mut buf)).await??;
        if n == 0 {
            return stream.shutdown().await;
        }
        timeout(IDLE, stream.write_all(&buf[..n])).await??;
        stream.flush().await?;
    }
}

/// What an echo showed.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct EchoReport {
    /// Until the stream was open.
    pub(crate) connect: Duration,
    /// Every round trip, in order.
    pub(crate) rtts: Vec<Duration>,
    /// Bytes of the burst.
    pub(crate) bytes: u64,
    /// How long they took out and back.
    pub(crate) burst: Duration,
    /// How packets travelled at the end.
    pub(crate) path: PathKind,
}

/// Round-trip times in short.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct RttSummary {
    pub(crate) min: Duration,
    pub(crate) avg: Duration,
    /// Half of them took no longer.
    pub(crate) p50: Duration,
    /// 99 of 100 took no longer.
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl EchoReport {
    /// The round trips in short; all zero if there were none.
    pub(crate) fn summary(&self) -> RttSummary {
        let mut sorted = self.rtts.clone();
        sorted.sort_unstable();
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            return RttSummary::default();
        };
        let count = u32::try_from(sorted.len()).unwrap_or(u32::MAX);
        // Nearest rank: the smallest that at least so many hundredths do not exceed.
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        let avg = sorted.iter().sum::<Duration>() / count;
        RttSummary { min, avg, p50: rank(50), p99: rank(99), max }
    }

    /// Bytes a second, out and back counted once; `None` without a burst.
    pub(crate) fn bytes_per_second(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.bytes as f64 / self.burst.as_secs_f64().max(1e-9))
    }
}

/// Why an echo failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EchoError<E> {
    /// There is no stream.
    #[error("{0}")]
    Connect(E),
    /// The stream broke.
    #[error("the stream broke: {0}")]
    Stream(#[from] io::Error),
    /// Other bytes came back than were sent.
    #[error("other bytes came back than were sent")]
    Corrupt,
}

/// Measures `count` round trips of [`PROBE`] bytes, then a burst of `bytes`.
pub(crate) async fn measure<C: Connect>(
    net: &C,
    to: Address,
    count: u32,
    bytes: u64,
) -> Result<EchoReport, EchoError<C::Error>> {
    let start = Instant::now();
    let mut stream = net.connect(to, Port::ECHO).await.map_err(EchoError::Connect)?;
    let connect = start.elapsed();
    let mut rtts = Vec::new();
    let (mut probe, mut back) = ([0; PROBE], [0; PROBE]);
    for i in 0..u64::from(count) {
        fill(i * PROBE as u64, &mut probe);
        let start = Instant::now();
        stream.write_all(&probe).await?;
        stream.flush().await?;
        stream.read_exact(&mut back).await?;
        rtts.push(start.elapsed());
        if probe != back {
            return Err(EchoError::Corrupt);
        }
    }
    let burst = if bytes > 0 { burst(&mut stream, bytes).await? } else { Duration::ZERO };
    let path = net.path(to).await;
    let _ = stream.shutdown().await;
    Ok(EchoReport { connect, rtts, bytes, burst, path })
}

async fn burst<S, E>(stream: &mut S, bytes: u64) -> Result<Duration, EchoError<E>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let start = Instant::now();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let write = async {
        let mut chunk = vec![0; CHUNK];
        let mut sent = 0;
        while sent < bytes {
            let n = usize::try_from(bytes - sent).unwrap_or(CHUNK).min(CHUNK);
            fill(sent, &mut chunk[..n]);
            writing.write_all(&chunk[..n]).await?;
            sent += n as u64;
        }
        writing.flush().await?;
        Ok::<(), EchoError<E>>(())
    };
    let read = async {
        let mut chunk = vec![0; CHUNK];
        let mut got = 0;
        while got < bytes {
            let n = reading.read(&mut chunk).await?;
            if n == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            if n as u64 > bytes - got || !check(got, &chunk[..n]) {
                return Err(EchoError::Corrupt);
            }
            got += n as u64;
        }
        Ok(())
    };
    tokio::try_join!(write, read)?;
    Ok(start.elapsed())
}
