//! `connect` and `listen`: standard input and output on a stream, as nc.

use super::Context;
use super::messages::WAIT_MAX;
use crate::api::{Accepted, Nothing};
use crate::cli::agent::{Connect, Listen};
use crate::client::{Query, Upgraded};
use crate::error::{Code, Envelope, Failure};
use crate::output::to_line;
use hyper::Method;
use serde::Serialize;
use std::cell::Cell;
use std::io::{self, IsTerminal as _};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::sync::Notify;

/// Where the daemon says which stream it is.
pub(crate) const STREAM_HEADER: &str = "pilot-stream";
/// Where the daemon says on which port it listens.
pub(crate) const PORT_HEADER: &str = "pilot-port";
/// Bytes read at a time: what a pipe of the system holds.
const PIECE: usize = 64 * 1024;
/// Longest first line of `listen`.
const LINE_MAX: u64 = 4096;

#[derive(Debug, PartialEq, Eq, Serialize)]
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

/// Which end of a copy has failed.
#[derive(Debug)]
enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Copies until the end, and counts; what has come is written on before more is waited for.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    copied: &Cell<u64>,
) -> Result<(), CopyError> {
    let mut piece = vec![0; PIECE];
    loop {
        let n = from.read(&mut piece).await.map_err(CopyError::Read)?;
        to.write_all(&piece[..n]).await.map_err(CopyError::Write)?;
        to.flush().await.map_err(CopyError::Write)?;
        if n == 0 {
            return Ok(());
        }
        copied.set(copied.get() + n as u64);
    }
}

/// Carries both directions until they have ended. `gone` completes when the other side neither
/// sends nor reads any more; it is polled once it sends no more. Of an `is_terminal` nothing more
/// is read then: a person need not press a key to learn that the other side has gone. An error is
/// one of reading the input or of writing the output; how the stream itself ends its owner knows.
async fn both(
    (input, output): (&mut (impl AsyncRead + Unpin), &mut (impl AsyncWrite + Unpin)),
    stream: impl AsyncRead + AsyncWrite,
    is_terminal: bool,
    gone: impl Future<Output = ()>,
) -> Result<Piped, CopyError> {
    let (mut from, mut to) = tokio::io::split(stream);
    let (sent, received, stop) = (Cell::new(0), Cell::new(0), Notify::new());
    let upward = async {
        tokio::select! {
            copied = copy(input, &mut to, &sent) => {
                // Not the end of what there was to send: it is for the caller to say so.
                copied.or_else(|error| match error {
                    CopyError::Read(_) => Err(error),
                    CopyError::Write(_) => Ok(()),
                })?;
            }
            () = stop.notified() => {}
        }
        let _ = to.shutdown().await;
        Ok(())
    };
    let downward = async {
        copy(&mut from, output, &received).await.or_else(|error| match error {
            CopyError::Read(_) => Ok(()),
            CopyError::Write(_) => Err(error),
        })
    };
    tokio::pin!(upward);
    tokio::pin!(downward);
    tokio::select! {
        over = &mut upward => {
            over?;
            downward.await?;
        }
        over = &mut downward => {
            over?;
            if is_terminal {
                stop.notify_one();
                upward.await?;
            } else {
                // Nobody reads what is still to come once the stream has ended.
                tokio::select! {
                    over = &mut upward => over?,
                    () = gone => {}
                }
            }
        }
    }
    Ok(Piped { sent: sent.get(), received: received.get() })
}

/// Copies until both directions have ended, then asks the daemon how the stream ended: a
/// reset must not look like an end of file.
async fn pipe(cx: &Context, upgraded: Upgraded) -> Result<(), Failure> {
    let Upgraded { headers, mut stream } = upgraded;
    let id = headers.get(STREAM_HEADER).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let path = format!("/v1/streams/{id}");
    // A stream may stay half open for as long as its ends like.
    let client = cx.client();
    let end = || client.get_within::<Nothing>(&path, Some(WAIT_MAX));
    let gone = async { drop(end().await) };
    let (mut input, mut output) = (tokio::io::stdin(), tokio::io::stdout());
    let is_terminal = std::io::stdin().is_terminal();
    let piped = match both((&mut input, &mut output), &mut stream, is_terminal, gone).await {
        Ok(piped) => piped,
        Err(error) => {
            // The other side must not take what it has for the whole, as it would at the end of
            // this connection.
            let _: Result<Nothing, _> = client.send(Method::DELETE, &path, &Nothing {}).await;
            return Err(match error {
                CopyError::Read(e) => Failure::io("read standard input", e),
                CopyError::Write(e) => Failure::io("write to standard output", e),
            });
        }
    };
    let end = end().await;
    if cx.out.json && end.is_ok() {
        // Standard output carries the stream.
        cx.out.note(&to_line(&Envelope::from_result(Ok(piped))));
    }
    end.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;
    use tokio::io::{BufWriter, ReadBuf, duplex};

    /// Standard output keeps what is not flushed, also of a full piece.
    #[tokio::test]
    async fn what_has_come_is_written_before_more_is_waited_for() {
        for len in [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE] {
            let (mut source, mut from) = duplex(4 * PIECE);
            let (to, mut sink) = duplex(4 * PIECE);
            let copied = Cell::new(0);
            let mut to = BufWriter::with_capacity(8 * PIECE, to);
            let copying = async { copy(&mut from, &mut to, &copied).await.unwrap() };
            let checking = async {
                let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
                source.write_all(&bytes).await.unwrap();
                let mut got = vec![0; len];
                let arrived = sink.read_exact(&mut got);
                let arrived = tokio::time::timeout(Duration::from_secs(30), arrived);
                arrived.await.expect("it is kept").unwrap();
                assert_eq!(got, bytes);
                drop(source);
            };
            tokio::join!(copying, checking);
            assert_eq!(copied.get(), len as u64);
        }
    }

    /// An input that fails behind what it has brought.
    struct Broken(Vec<u8>);

    impl AsyncRead for Broken {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::IsADirectory.into()));
            }
            buf.put_slice(&std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn an_input_that_fails_is_no_end() {
        let (stream, mut there) = duplex(100);
        let (mut input, mut output) = (Broken(b"half".to_vec()), Vec::new());
        let error = both((&mut input, &mut output), stream, false, pending()).await.unwrap_err();
        assert!(matches!(error, CopyError::Read(e) if e.kind() == io::ErrorKind::IsADirectory));
        let mut got = Vec::new();
        there.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"half");
    }

    /// The other side has ended well. A person has nothing more to do; a program may go on for as
    /// long as it likes.
    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_other_side_ends_a_person_and_no_program() {
        for is_terminal in [true, false] {
            let (stream, mut there) = duplex(100);
            let (mut typed, mut input) = duplex(100);
            let mut output = Vec::new();
            typed.write_all(b"question").await.unwrap();
            let other = async {
                let mut question = [0; 8];
                there.read_exact(&mut question).await.unwrap();
                there.write_all(b"answer").await.unwrap();
                there.shutdown().await.unwrap();
                let mut rest = Vec::new();
                there.read_to_end(&mut rest).await.unwrap();
                rest
            };
            let writing = async {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                let _ = typed.write_all(b" and more").await;
                drop(typed);
            };
            let streams = (&mut input, &mut output);
            let piping = async { both(streams, stream, is_terminal, pending()).await.unwrap() };
            let (piped, rest, ()) = tokio::join!(piping, other, writing);
            let (sent, more) = if is_terminal { (8, &b""[..]) } else { (17, &b" and more"[..]) };
            assert_eq!((piped, &rest[..]), (Piped { sent, received: 6 }, more));
            assert_eq!(output, b"answer");
        }
    }
}
