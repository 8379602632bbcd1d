//! What was received, and echo: the routes in front of `services`.

use super::{Cx, follow};
use crate::api::{self, EchoReport};
use crate::cli::values::Agent;
use crate::daemon::offer::{Net, from_echo};
use crate::error::{Code, Failure};
use crate::http::{answer, body, parse, query};
use crate::output::cleaned;
use crate::services::inbox::{Inbox, MessageInfo};
use crate::services::received::{FileInfo, Received};
use crate::services::{echo, path_word};
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use data_encoding::BASE64;
use pilot_core::addr::{Address, NetworkId};
use pilot_core::service::exchange::TransferId;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// Nobody waits longer than a year, in milliseconds.
pub(super) const WAIT_MAX_MS: u64 = 365 * 24 * 3600 * 1000;
/// Most entries of one page.
pub(super) const PAGE: usize = 100;

pub(super) type Queried<T> = Result<Query<T>, QueryRejection>;

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
    let text = cleaned(&String::from_utf8_lossy(content));
    let base64 = (text.as_bytes() != content).then(|| BASE64.encode(content));
    api::Message {
        seq: info.received_us,
        id: info.id.to_string(),
        from: info.from.to_string(),
        at: info.received_us / 1_000_000,
        kind: info.kind.as_str().to_owned(),
        text,
        base64,
        note: info.note.as_str().to_owned(),
        bytes: info.size,
        hash: info.hash.to_string(),
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

/// Messages behind one.
pub(super) fn page(inbox: &Inbox, after: u64, limit: usize) -> std::io::Result<api::Inbox> {
    let infos = inbox.list(after, limit + 1);
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
}

/// Waits until a message has come after `after`, the time is over, or the daemon stops.
async fn arrival(shared: &crate::daemon::Shared, after: u64, limit: Duration) {
    let inbox = &shared.offer.inbox;
    let (mut changes, mut stop) = (inbox.changes(), shared.stop.subscribe());
    let arrived = async {
        while inbox.list(after, 1).is_empty() {
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

pub(super) async fn inbox(
    State(shared): Cx,
    listed: Queried<Followed>,
    headers: HeaderMap,
) -> Response {
    if follow::is_wanted(&headers) {
        let following = query(listed).and_then(|listed| {
            if listed.limit.is_some() || listed.wait_ms.is_some() {
                let message = "events have neither `limit` nor `wait_ms`";
                return Err(Failure::new(Code::Usage, message));
            }
            follow::inbox(shared, listed.after, &headers)
        });
        return following.unwrap_or_else(|failure| answer::<()>(Err(failure)));
    }
    answer(
        async {
            let listed = query(listed)?;
            let inbox = shared.offer.inbox.clone();
            let limit = listed.limit.unwrap_or(PAGE).clamp(1, PAGE);
            if let Some(wait) = listed.wait_ms {
                arrival(&shared, listed.after, Duration::from_millis(wait.min(WAIT_MAX_MS))).await;
            }
            let read = move || page(&inbox, listed.after, limit);
            blocking("read the inbox", read).await
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

fn file(received: &Received, info: &FileInfo, there: bool) -> api::ReceivedFile {
    api::ReceivedFile {
        seq: info.received_us,
        id: info.id.to_string(),
        from: info.from.to_string(),
        at: info.received_us / 1_000_000,
        kind: info.kind.as_str().to_owned(),
        name: info.name.as_str().to_owned(),
        note: info.note.as_str().to_owned(),
        bytes: info.size,
        entries: info.entries,
        hash: info.hash.to_string(),
        path: received.path(info),
        there,
    }
}

/// One file or directory, by its sender and the id that its sender knows it by.
pub(super) async fn received_one(
    State(shared): Cx,
    Path((from, id)): Path<(String, String)>,
) -> Response {
    answer(
        async {
            let from: Address = parse("the sender", &from)?;
            let id: TransferId = parse("the id", &id)?;
            let received = shared.offer.received.clone();
            let found = blocking("read the received files", move || {
                let found = received.find(from, id);
                Ok(found.map(|(info, there)| file(&received, &info, there)))
            });
            found.await?.ok_or_else(|| {
                let message = format!("nothing with id {id} of {from} has been received whole");
                Failure::new(Code::NotFound, message)
                    .hint("`pilotctl received --json` shows each one's id")
            })
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
                let files = infos.iter().take(limit);
                let files = files.map(|(info, there)| file(&received, info, *there)).collect();
                Ok(api::Received { files, more })
            })
            .await
        }
        .await,
    )
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
