//! Files to send: directly to a receiver that answers, else into the outbox.

use super::Cx;
use super::exchange::{Queried, blocking};
use super::outbox::{api_reason, from_put};
use crate::api::{self, LINES, Line};
use crate::cli::values::Agent;
use crate::daemon::offer::{Net, from_send, is_hopeless};
use crate::daemon::{Shared, courier};
use crate::error::{Code, Envelope, Failure};
use crate::http::{answer, parse, query, streamed};
use crate::output::to_line;
use crate::services::outbox::{Item, NewFile, keep_file};
use crate::services::path_word;
use crate::services::send::{self, Conversation, Interrupted, Once, Progress, SendError, Sent};
use crate::services::unfinished::FileKey;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_LENGTH};
use axum::response::Response;
use futures_util::TryStreamExt as _;
use pilot_core::addr::{Address, NetworkId};
use pilot_core::service::exchange::{
    ExchangeError, FileName, HashAlgorithm, Kind, Note, Offer, Refusal, TransferId,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::io::StreamReader;

/// A receiver that has not answered for so long is away: the file goes into the outbox.
const MOMENT: Duration = Duration::from_secs(10);
/// Between attempts until then, where they fail sooner.
const PAUSE: Duration = Duration::from_millis(250);
/// Bytes between two progress lines.
const PROGRESS_BYTES: u64 = 256 * 1024;
/// How long a client that has its answer may go on sending.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// Progress lines that wait for the client; more are left out, since the next says as much.
const PROGRESS_QUEUE: usize = 16;

fn delivered(to: Address, kind: Kind, sent: &Sent) -> api::Sent {
    api::Sent {
        to: to.to_string(),
        id: sent.id.to_string(),
        state: "delivered".to_owned(),
        kind: kind.as_str().to_owned(),
        bytes: sent.size,
        resumed_at: sent.offset,
        hash: sent.hash.map(|hash| hash.to_string()),
        seconds: sent.elapsed.as_secs_f64(),
        path: path_word(sent.path).to_owned(),
        reason: None,
    }
}

fn queued(item: &Item, reason: Option<&Failure>) -> api::Sent {
    let why = |failure: &Failure| api::Reason {
        code: failure.code.as_str().to_owned(),
        message: failure.message.clone(),
    };
    api::Sent {
        to: item.to.to_string(),
        id: item.id.to_string(),
        state: item.state.as_str().to_owned(),
        kind: item.kind.as_str().to_owned(),
        bytes: item.size,
        resumed_at: 0,
        hash: Some(item.hash.to_string()),
        seconds: 0.0,
        path: "none".to_owned(),
        reason: reason.map(why).or_else(|| item.reason.as_ref().map(api_reason)),
    }
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
    /// `file`, the default, or `directory`: then the content is as `wire.md` 12 says.
    kind: Option<String>,
    /// `blake3`, the default, or `sha256`, by which tasks name their files.
    hash: Option<String>,
    /// Keep it in the outbox before anything is sent.
    #[serde(default)]
    queue: bool,
    /// When the client's file was changed: by it one that waits is known again. Without it a file
    /// of the same name and size goes on where an interrupted one was, but one that waits is
    /// another.
    modified_ns: Option<u64>,
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

/// Tells a client how far its file has got. One that does not read misses lines, nothing else.
struct Teller {
    lines: mpsc::Sender<api::Progress>,
    total: u64,
    said: Option<u64>,
}

impl Teller {
    fn tell(&mut self, at: u64, is_kept: bool) {
        if self.said.is_none_or(|said| at >= said + PROGRESS_BYTES) || at == self.total {
            self.said = Some(at);
            let (sent, kept) = if is_kept { (0, Some(at)) } else { (at, None) };
            let _ = self.lines.try_send(api::Progress { sent, total: self.total, kept });
        }
    }
}

async fn transfer(
    shared: &Arc<Shared>,
    asked: SendFile,
    size: u64,
    source: &mut Once<impl AsyncRead + Unpin + Send>,
    progress: mpsc::Sender<api::Progress>,
) -> Result<api::Sent, Failure> {
    let agent: Agent = parse("the agent", &asked.to)?;
    let name: FileName = parse("the file's name", &asked.name)?;
    let kind = match asked.kind.as_deref() {
        None | Some("file") => Kind::File,
        Some("directory") => Kind::Directory,
        Some(other) => {
            return Err(Failure::new(Code::Usage, format!("there is no kind {other:?} of files")));
        }
    };
    let hash = match asked.hash.as_deref() {
        None => HashAlgorithm::of(kind),
        Some(name) => name.parse().map_err(|_| {
            Failure::new(Code::Usage, format!("there is no hash algorithm {name:?}"))
        })?,
    };
    let limit = asked.timeout_ms.map(Duration::from_millis);
    let to = shared.node.target(&agent, asked.network.map(NetworkId)).await?;
    shared.node.check_grant(to)?;
    let modified_ns = asked.modified_ns.unwrap_or(0);
    let key = FileKey { to, name: name.clone(), size, modified_ns };
    let outbox = &shared.offer.outbox;
    let mut id = begin(shared, &key).await?;
    if let Some(item) = outbox.find(id).filter(|item| !item.state.is_settled()) {
        if asked.modified_ns.is_some() {
            courier::carry(shared, item.to);
            return Ok(queued(&item, None));
        }
        forget(shared, id).await?;
        id = begin(shared, &key).await?;
    }
    let note = Note::cleaned(asked.note.as_bytes());
    let offer = Offer { id, kind, size, hash, name: Some(name), note };
    let mut telling = Teller { lines: progress, total: size, said: None };
    let mut why = None;
    if !asked.queue {
        let sent = match limit {
            Some(limit) => within(shared, to, &offer, source, limit, &mut telling).await,
            None => at_once(shared, to, &offer, source, &mut telling).await,
        };
        match sent {
            Ok(sent) => {
                forget(shared, id).await?;
                return Ok(delivered(to, kind, &sent));
            }
            Err((failure, Then::Keep)) => why = Some(failure),
            Err((failure, Then::Fail)) => {
                // What has arrived is kept there, also where there is no room for more.
                if !matches!(
                    failure.code,
                    Code::Interrupted | Code::NoAnswer | Code::Timeout | Code::Full
                ) {
                    forget(shared, id).await?;
                }
                return Err(failure);
            }
        }
    }
    telling.said = None;
    telling.tell(0, true);
    let Offer { name, note, .. } = offer;
    let Some(name) = name else { return Err(Failure::new(Code::Internal, "a file without name")) };
    let file = NewFile { to, kind, name, size, hash, note, id: Some(id) };
    let carried = Arc::clone(shared);
    let carry = move |item: &Item| courier::carry(&carried, item.to);
    let item = keep_file(outbox, file, &mut source.0, |kept| telling.tell(kept, true), carry);
    let item = item.await.map_err(from_put)?;
    Ok(queued(&item, why.as_ref()))
}

async fn begin(shared: &Shared, key: &FileKey) -> Result<TransferId, Failure> {
    let (offer, key) = (shared.offer.clone(), key.clone());
    let begin = move || offer.unfinished.begin(&key, |id| offer.outbox.waits(id));
    blocking("note the transfer", begin).await
}

async fn forget(shared: &Shared, id: TransferId) -> Result<(), Failure> {
    let unfinished = shared.offer.unfinished.clone();
    blocking("note the transfer", move || unfinished.end(id)).await
}

/// What to do with a file that was not delivered.
enum Then {
    /// Its receiver is away: it waits in the outbox.
    Keep,
    Fail,
}

/// Sends a file now, or finds out that its receiver is away before any of it is read.
async fn at_once(
    shared: &Shared,
    to: Address,
    offer: &Offer,
    source: &mut Once<impl AsyncRead + Unpin + Send>,
    telling: &mut Teller,
) -> Result<Sent, (Failure, Then)> {
    let start = Instant::now();
    let mut tell = |at: Progress| {
        let (Progress::Accepted(at) | Progress::At(at)) = at;
        telling.tell(at, false);
    };
    let mut attempts = 0;
    loop {
        attempts += 1;
        let limit = MOMENT.saturating_sub(start.elapsed());
        let attempt = async {
            let mut talk = Conversation::open(&Net::new(shared, Some(limit)), to)
                .await
                .map_err(|e| Interrupted { error: SendError::Connect(e), was_read: false })?;
            let done = talk.transfer(offer, source, &mut tell).await?;
            let path = shared.node.path(to);
            talk.close().await;
            Ok((done, path))
        };
        let Interrupted { error, was_read } = match attempt.await {
            Ok((send::Done { hash, offset }, path)) => {
                let (id, size, elapsed) = (offer.id, offer.size, start.elapsed());
                return Ok(Sent { id, hash, size, offset, elapsed, attempts, path });
            }
            Err(interrupted) => interrupted,
        };
        if was_read || !is_away(&error) {
            return Err((from_send(error, false), Then::Fail));
        }
        if start.elapsed() + PAUSE >= MOMENT {
            return Err((from_send(error, false), Then::Keep));
        }
        // It may just be starting again.
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether a receiver is not there, rather than there and unwilling.
fn is_away(error: &SendError<Failure>) -> bool {
    match error {
        SendError::Connect(_) | SendError::Broken(_) => !is_hopeless(error),
        SendError::Refused(refusal) => *refusal == Refusal::Busy,
        SendError::Protocol(error) => *error == ExchangeError::Truncated,
        _ => false,
    }
}

/// Sends a file within a time, or not at all.
async fn within(
    shared: &Shared,
    to: Address,
    offer: &Offer,
    source: &mut Once<impl AsyncRead + Unpin + Send>,
    limit: Duration,
    telling: &mut Teller,
) -> Result<Sent, (Failure, Then)> {
    let mut tell = |at: Progress| {
        let (Progress::Accepted(at) | Progress::At(at)) = at;
        telling.tell(at, false);
    };
    let deadline = Instant::now() + limit;
    let net = Net::new(shared, Some(limit));
    let sent = send::send(&net, to, offer, source, deadline, &mut tell).await;
    sent.map_err(|e| (from_send(e, true), Then::Fail))
}
