//! Messages, files and echo: the routes in front of `services`.

use super::Cx;
use crate::api::{self, EchoReport, LINES, Line};
use crate::cli::values::Agent;
use crate::daemon::offer::{Net, from_echo, from_send};
use crate::error::{Code, Envelope, Failure};
use crate::http::{answer, body, parse, query, streamed};
use crate::output::{cleaned, to_line};
use crate::services::inbox::MessageInfo;
use crate::services::received::FileInfo;
use crate::services::send::{self, Once, Progress};
use crate::services::unfinished::FileKey;
use crate::services::{echo, path_word};
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_LENGTH};
use axum::response::Response;
use futures_util::TryStreamExt as _;
use pilot_core::addr::NetworkId;
use pilot_core::service::exchange::{FileName, Note};
use schemars::JsonSchema;
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::io::StreamReader;

/// A file may take as long as it moves; this only ends what nobody waits for any more.
const FILE_TIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Nobody waits longer than a year, in milliseconds.
pub(super) const WAIT_MAX_MS: u64 = 365 * 24 * 3600 * 1000;
/// Most entries of one page.
pub(super) const PAGE: usize = 100;
/// Bytes between two progress lines.
const PROGRESS_BYTES: u64 = 256 * 1024;
/// How long a client that has its answer may go on sending.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// Progress lines that wait for the client; more are left out, since the next says as much.
const PROGRESS_QUEUE: usize = 16;

pub(super) type Queried<T> = Result<Query<T>, QueryRejection>;

fn shown(to: pilot_core::addr::Address, sent: &send::Sent) -> api::Sent {
    api::Sent {
        to: to.to_string(),
        id: sent.id.to_string(),
        bytes: sent.size,
        resumed_at: sent.offset,
        sha256: sent.hash.map(|hash| hash.to_string()),
        seconds: sent.elapsed.as_secs_f64(),
        path: path_word(sent.path).to_owned(),
    }
}

/// `?after=SEQ&limit=N`
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    /// `seq` of the last one known.
    #[serde(default)]
    after: u64,
    /// At most, and at most 100.
    limit: Option<usize>,
}

impl Listed {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE).clamp(1, PAGE)
    }
}

fn message(info: &MessageInfo, content: &[u8]) -> api::Message {
    api::Message {
        seq: info.received_us,
        id: info.id.to_string(),
        from: info.from.to_string(),
        at: info.received_us / 1_000_000,
        kind: info.kind.as_str().to_owned(),
        text: cleaned(&String::from_utf8_lossy(content)),
        note: info.note.as_str().to_owned(),
        bytes: info.size,
        sha256: info.hash.to_string(),
    }
}

/// Runs what blocks on the disk.
pub(super) async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|e| Failure::io(doing, e)),
        Err(e) => Err(Failure::new(Code::Internal, format!("cannot {doing}: {e}"))),
    }
}

/// `?after=SEQ&limit=N&wait_ms=T`
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Followed {
    /// `seq` of the last one known.
    #[serde(default)]
    after: u64,
    /// At most, and at most 100.
    limit: Option<usize>,
    /// Milliseconds to wait for the first.
    wait_ms: Option<u64>,
}

/// Waits until a message has come after `after`, the time is over, or the daemon stops.
async fn arrival(shared: &crate::daemon::Shared, after: u64, limit: Duration) {
    let inbox = &shared.offer.inbox;
    let (mut changes, mut stop) = (inbox.changes(), shared.stop.subscribe());
    let arrived = async {
        while inbox.list_settled(after, 1).is_empty() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = arrived => {}
        () = tokio::time::sleep(limit) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

pub(super) async fn inbox(State(shared): Cx, listed: Queried<Followed>) -> Response {
    answer(
        async {
            let listed = query(listed)?;
            let inbox = shared.offer.inbox.clone();
            let limit = listed.limit.unwrap_or(PAGE).clamp(1, PAGE);
            let is_following = listed.wait_ms.is_some();
            if let Some(wait) = listed.wait_ms {
                arrival(&shared, listed.after, Duration::from_millis(wait.min(WAIT_MAX_MS))).await;
            }
            blocking("read the inbox", move || {
                let infos = if is_following {
                    inbox.list_settled(listed.after, limit + 1)
                } else {
                    inbox.list(listed.after, limit + 1)
                };
                let more = infos.len() > limit;
                let mut messages = Vec::new();
                for info in infos.iter().take(limit) {
                    match inbox.content(info) {
                        Ok(content) => messages.push(message(info, &content)),
                        // Deleted meanwhile.
                        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                        Err(e) => return Err(e),
                    }
                }
                Ok(api::Inbox { messages, more })
            })
            .await
        }
        .await,
    )
}

pub(super) async fn delete_message(State(shared): Cx, Path(seq): Path<String>) -> Response {
    answer(
        async {
            let seq: u64 = parse("the message", &seq)?;
            let inbox = shared.offer.inbox.clone();
            let found = blocking("delete a message", move || {
                let found = inbox.list(seq.saturating_sub(1), 1);
                let found: Vec<_> = found.into_iter().filter(|m| m.received_us == seq).collect();
                inbox.remove(&found)
            });
            match found.await? {
                0 => Err(Failure::new(Code::NotFound, format!("there is no message {seq}"))
                    .hint("`pilotctl inbox --json` shows each message's seq")),
                _ => Ok(api::Nothing {}),
            }
        }
        .await,
    )
}

pub(super) async fn received(State(shared): Cx, listed: Queried<Listed>) -> Response {
    answer(
        async {
            let listed = query(listed)?;
            let received = shared.offer.received.clone();
            blocking("read the received files", move || {
                let limit = listed.limit();
                let infos = received.list(listed.after, limit + 1);
                let more = infos.len() > limit;
                let file = |(info, there): &(FileInfo, bool)| api::ReceivedFile {
                    seq: info.received_us,
                    id: info.id.to_string(),
                    from: info.from.to_string(),
                    at: info.received_us / 1_000_000,
                    name: info.name.as_str().to_owned(),
                    note: info.note.as_str().to_owned(),
                    bytes: info.size,
                    sha256: info.hash.to_string(),
                    path: received.path(info),
                    there: *there,
                };
                let files = infos.iter().take(limit).map(file).collect();
                Ok(api::Received { files, more })
            })
            .await
        }
        .await,
    )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SendFile {
    /// An address or hostname.
    to: String,
    /// Its name over there.
    name: String,
    /// A word about it.
    #[serde(default)]
    note: String,
    /// Of the name or address; default: the lowest joined non-zero network, else 0.
    network: Option<u16>,
    /// When the client's file was changed: by it an interrupted one is known again.
    #[serde(default)]
    modified_ns: u64,
    /// Milliseconds until it is delivered.
    timeout_ms: Option<u64>,
}

/// The file comes as the body, whose length must be told; its path never does.
pub(super) async fn send_file(
    State(shared): Cx,
    asked: Queried<SendFile>,
    headers: HeaderMap,
    content: Body,
) -> Response {
    let in_lines = headers.get(ACCEPT).is_some_and(|accept| accept == LINES);
    let (progress, mut told) = mpsc::channel(PROGRESS_QUEUE);
    let stream = content.into_data_stream().map_err(std::io::Error::other);
    let mut source = Once(StreamReader::new(stream));
    let work = async move {
        let result = async {
            let asked = query(asked)?;
            let size = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
            let size: u64 = size.and_then(|length| length.parse().ok()).ok_or_else(|| {
                Failure::new(Code::Usage, "the file's length must be told (Content-Length)")
                    .hint("with curl use -T FILE, or --data-binary @FILE")
            })?;
            transfer(&shared, asked, size, &mut source, progress).await
        };
        (result.await, source.0)
    };
    if !in_lines {
        told.close();
        return answer(work.await.0);
    }
    // The answer begins at once and runs beside the body.
    let telling = Telling::Progress(told, tokio::spawn(work));
    let lines = futures_util::stream::unfold(telling, Telling::next);
    let lines = futures_util::StreamExt::map(lines, Ok::<_, Infallible>);
    streamed(LINES, Body::from_stream(lines))
}

/// The lines of an answer that runs beside the body.
enum Telling<R> {
    Progress(mpsc::Receiver<api::Progress>, JoinHandle<(Result<api::Sent, Failure>, R)>),
    /// All is said. The client may not have noticed yet: were its connection closed while it
    /// still sends, it would lose the last line.
    Over(Option<R>),
}

impl<R: AsyncRead + Unpin> Telling<R> {
    async fn next(self) -> Option<(String, Self)> {
        match self {
            Telling::Progress(mut told, work) => {
                if let Some(at) = told.recv().await {
                    let line: Line<api::Progress, api::Sent> = Line::Progress { progress: at };
                    return Some((to_line(&line) + "\n", Telling::Progress(told, work)));
                }
                let (result, rest) = match work.await {
                    Ok((result, rest)) => (result, Some(rest)),
                    Err(e) => {
                        let message = format!("the transfer failed: {e}");
                        (Err(Failure::new(Code::Internal, message)), None)
                    }
                };
                let line = to_line(&Envelope::from_result(result)) + "\n";
                Some((line, Telling::Over(rest)))
            }
            Telling::Over(rest) => {
                if let Some(mut rest) = rest {
                    let mut nowhere = tokio::io::sink();
                    let drain = tokio::io::copy(&mut rest, &mut nowhere);
                    let _ = tokio::time::timeout(DRAIN_TIME, drain).await;
                }
                None
            }
        }
    }
}

async fn transfer(
    shared: &crate::daemon::Shared,
    asked: SendFile,
    size: u64,
    source: &mut Once<impl AsyncRead + Unpin + Send>,
    progress: mpsc::Sender<api::Progress>,
) -> Result<api::Sent, Failure> {
    let agent: Agent = parse("the agent", &asked.to)?;
    let name: FileName = parse("the file's name", &asked.name)?;
    let limit = asked.timeout_ms.map(Duration::from_millis);
    let deadline = Instant::now() + limit.unwrap_or(FILE_TIME);
    let to = shared.node.target(&agent, asked.network.map(NetworkId)).await?;
    let key = FileKey { to, name: name.clone(), size, modified_ns: asked.modified_ns };
    let unfinished = shared.offer.unfinished.clone();
    let id = blocking("note the transfer", move || unfinished.begin(&key)).await?;
    let mut said = 0;
    let mut tell = |at: Progress| {
        let (Progress::Accepted(sent) | Progress::At(sent)) = at;
        if sent >= said + PROGRESS_BYTES || sent == size || said == 0 {
            said = sent;
            // A client that does not read misses lines, nothing else.
            let _ = progress.try_send(api::Progress { sent, total: size });
        }
    };
    let note = Note::cleaned(asked.note.as_bytes());
    let net = Net::new(shared, limit);
    let sent = send::send_file(&net, to, id, name, size, note, source, deadline, &mut tell).await;
    let result = sent.map(|sent| shown(to, &sent)).map_err(|e| from_send(e, limit.is_some()));
    // What has arrived is kept there, also where there is no room for more.
    let is_kept =
        |code| matches!(code, Code::Interrupted | Code::NoAnswer | Code::Timeout | Code::Full);
    let over = !result.as_ref().is_err_and(|failure| is_kept(failure.code));
    if over {
        let unfinished = shared.offer.unfinished.clone();
        blocking("note the transfer", move || unfinished.end(id)).await?;
    }
    result
}

pub(super) async fn echo(State(shared): Cx, bytes: Bytes) -> Response {
    answer(
        async {
            let wanted: api::EchoRequest = body(&bytes)?;
            let agent: Agent = parse("the agent", &wanted.to)?;
            let limit = wanted.timeout_ms.map(Duration::from_millis);
            let to = shared.node.target(&agent, wanted.network.map(NetworkId)).await?;
            let net = Net::new(&shared, limit);
            let measured = echo::measure(&net, to, wanted.count, wanted.bytes);
            let measured = match limit {
                None => measured.await,
                Some(limit) => tokio::time::timeout(limit, measured).await.map_err(|_| {
                    Failure::new(Code::Timeout, format!("no echo within {limit:?}"))
                })?,
            };
            measured.map(|report| echo_report(to, &report)).map_err(from_echo)
        }
        .await,
    )
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn echo_report(to: pilot_core::addr::Address, report: &echo::EchoReport) -> EchoReport {
    let summary = report.summary();
    EchoReport {
        address: to.to_string(),
        path: path_word(report.path).to_owned(),
        connect_us: micros(report.connect),
        rtts_us: report.rtts.iter().copied().map(micros).collect(),
        min_us: micros(summary.min),
        avg_us: micros(summary.avg),
        p50_us: micros(summary.p50),
        p99_us: micros(summary.p99),
        max_us: micros(summary.max),
        bytes: report.bytes,
        burst_us: micros(report.burst),
        bytes_per_second: report.bytes_per_second(),
    }
}
