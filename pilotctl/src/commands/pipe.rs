//! `connect` and `listen`: standard input and output on a stream, as nc.

use super::Context;
use crate::api::{Accepted, Nothing};
use crate::cli::agent::{Connect, Listen};
use crate::client::{Query, Upgraded};
use crate::error::{Code, Envelope, Failure};
use crate::output::to_line;
use serde::Serialize;
use std::io::{self, IsTerminal as _};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};

/// Where the daemon says which stream it is.
pub(crate) const STREAM_HEADER: &str = "pilot-stream";
/// Where the daemon says on which port it listens.
pub(crate) const PORT_HEADER: &str = "pilot-port";
/// Bytes read at a time: what a pipe of the system holds.
const PIECE: usize = 64 * 1024;
/// Longest first line of `listen`.
const LINE_MAX: u64 = 4096;

#[derive(Serialize)]
struct Piped {
    sent: u64,
    received: u64,
}

pub(super) async fn connect(cx: &Context, args: Connect) -> Result<(), Failure> {
    let timeout_ms = args.timeout.timeout.map(|span| span.0.as_millis());
    let query = Query::new("/v1/connect")
        .with("to", Some(&args.agent))
        .with("port", Some(args.port))
        .with("network", args.at.network)
        .with("timeout_ms", timeout_ms);
    let upgraded = cx.client().upgrade(query.as_str()).await?;
    pipe(cx, upgraded).await
}

pub(super) async fn listen(cx: &Context, args: Listen) -> Result<(), Failure> {
    let query = Query::new("/v1/listen").with("port", Some(args.port));
    let Upgraded { headers, mut stream } = cx.client().upgrade(query.as_str()).await?;
    let port = headers.get(PORT_HEADER).and_then(|port| port.to_str().ok()).unwrap_or("?");
    if !cx.out.json {
        cx.out.note(&format!("listening on port {port}"));
    }
    let accepted = accepted(&mut stream);
    let accepted: Accepted = match args.timeout.timeout {
        None => accepted.await?,
        Some(span) => tokio::time::timeout(span.0, accepted).await.unwrap_or_else(|_| {
            Err(Failure::new(Code::Timeout, format!("nobody came within {:?}", span.0)))
        })?,
    };
    if !cx.out.json {
        cx.out.note(&format!("stream from {}:{}", accepted.peer, accepted.peer_port));
    }
    pipe(cx, Upgraded { headers, stream }).await
}

/// Reads the first line byte by byte: what follows belongs to the stream.
async fn accepted(stream: &mut (impl AsyncRead + Unpin)) -> Result<Accepted, Failure> {
    let mut line = Vec::new();
    let mut reader = BufReader::with_capacity(1, stream).take(LINE_MAX);
    reader
        .read_until(b'\n', &mut line)
        .await
        .map_err(|e| Failure::io("hear from the daemon", e))?;
    let envelope: Envelope<Accepted> = serde_json::from_slice(&line).map_err(|_| {
        Failure::new(Code::Ended, "the daemon stopped listening").hint("see `pilotctl logs`")
    })?;
    envelope.into_result()
}

/// Copies until the end; what has come is written on before more is waited for.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<u64> {
    let (mut piece, mut copied) = (vec![0; PIECE], 0);
    loop {
        let n = from.read(&mut piece).await?;
        to.write_all(&piece[..n]).await?;
        to.flush().await?;
        if n == 0 {
            return Ok(copied);
        }
        copied += n as u64;
    }
}

/// Copies until both directions have ended, then asks the daemon how the stream ended: a
/// reset must not look like an end of file.
async fn pipe(cx: &Context, upgraded: Upgraded) -> Result<(), Failure> {
    let Upgraded { headers, stream } = upgraded;
    let id = headers.get(STREAM_HEADER).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let (mut from, mut to) = tokio::io::split(stream);
    let upward = async {
        let mut input = tokio::io::stdin();
        let copied = copy(&mut input, &mut to).await;
        let _ = to.shutdown().await;
        copied
    };
    let downward = async {
        let mut output = tokio::io::stdout();
        copy(&mut from, &mut output).await
    };
    tokio::pin!(upward);
    tokio::pin!(downward);
    let path = format!("/v1/streams/{id}");
    // Polled once the other side sends no more: it may still read.
    let ended = async { cx.client().get::<Nothing>(&path).await };
    let (sent, received) = if std::io::stdin().is_terminal() {
        // A person need not press a key to learn that the other side has gone.
        tokio::select! {
            sent = &mut upward => (sent.unwrap_or_default(), (&mut downward).await),
            received = &mut downward => (0, received),
        }
    } else {
        tokio::select! {
            sent = &mut upward => (sent.unwrap_or_default(), (&mut downward).await),
            received = &mut downward => {
                // Nobody reads what is still to come once the stream has ended.
                let sent = tokio::select! {
                    sent = &mut upward => sent.unwrap_or_default(),
                    _ = ended => 0,
                };
                (sent, received)
            }
        }
    };
    let received = received.map_err(|e| Failure::io("write to standard output", e))?;
    let end: Result<Nothing, Failure> = cx.client().get(&path).await;
    if cx.out.json {
        // Standard output carries the stream.
        if end.is_ok() {
            let envelope = Envelope::from_result(Ok(Piped { sent, received }));
            cx.out.note(&to_line(&envelope));
        }
    }
    end.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{BufWriter, duplex};

    /// Standard output keeps what is not flushed, also of a full piece.
    #[tokio::test]
    async fn what_has_come_is_written_before_more_is_waited_for() {
        for len in [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let (mut source, mut from) = duplex(4 * PIECE);
            let (to, mut sink) = duplex(4 * PIECE);
            let copying = tokio::spawn(async move {
                copy(&mut from, &mut BufWriter::with_capacity(8 * PIECE, to)).await
            });
            let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
            source.write_all(&bytes).await.unwrap();
            let mut got = vec![0; len];
            let arrived = tokio::time::timeout(Duration::from_secs(30), sink.read_exact(&mut got));
            arrived.await.expect("it is kept").unwrap();
            assert_eq!(got, bytes);
            drop(source);
            assert_eq!(copying.await.unwrap().unwrap(), len as u64);
        }
    }
}
