//! Messages to send, and what became of messages and files: the routes in front of the outbox.

use super::Cx;
use super::exchange::{PAGE, Queried, WAIT_MAX_MS};
use crate::api::{self, Outgoing};
use crate::cli::values::Agent;
use crate::daemon::{Shared, courier};
use crate::error::{Code, Failure};
use crate::http::{answer, body, parse, query};
use crate::services::outbox::{Item, ItemState, NewMessage, PutError, Reason};
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::Response;
use data_encoding::BASE64;
use pilot_core::addr::{Address, NetworkId};
use pilot_core::service::exchange::{Kind, TransferId};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A client that asks for no time waits so long for the receipt, or for the first attempt to
/// fail: most messages are delivered by then.
const MOMENT: Duration = Duration::from_secs(5);
/// The same where the attempt before has failed already, or another message is under way.
const SHORT_MOMENT: Duration = Duration::from_millis(250);

fn span(ms: u64) -> Duration {
    Duration::from_millis(ms.min(WAIT_MAX_MS))
}

fn outgoing(item: &Item) -> Outgoing {
    Outgoing {
        id: item.id.to_string(),
        to: item.to.to_string(),
        state: item.state.as_str().to_owned(),
        kind: item.kind.as_str().to_owned(),
        name: item.name.as_ref().map(ToString::to_string),
        note: item.note.to_string(),
        bytes: item.size,
        sent: (!item.kind.is_message()).then_some(item.sent),
        hash: item.hash.to_string(),
        seq: item.created_us,
        settled_us: item.settled_us,
        attempts: item.attempts,
        may_have_arrived: item.state == ItemState::Cancelled && item.may_have_arrived,
        reason: item.reason.as_ref().map(api_reason),
    }
}

pub(super) fn api_reason(reason: &Reason) -> api::Reason {
    api::Reason { code: reason.code.clone(), message: reason.message.clone() }
}

/// The content of a message that is to be sent, and what it is.
fn content(wanted: &api::SendMessage) -> Result<(Kind, Vec<u8>), Failure> {
    let (given, content) = match (&wanted.text, &wanted.base64) {
        (Some(text), None) => (Kind::Text, text.clone().into_bytes()),
        (None, Some(base64)) => {
            let bytes = BASE64.decode(base64.as_bytes()).map_err(|e| {
                Failure::new(Code::Usage, format!("`base64` is not standard base64: {e}"))
            })?;
            (Kind::Binary, bytes)
        }
        _ => return Err(Failure::new(Code::Usage, "exactly one of text and base64 is needed")),
    };
    let kind = match wanted.kind.as_deref() {
        None => given,
        Some("text") => Kind::Text,
        Some("json") => Kind::Json,
        Some("binary") => Kind::Binary,
        Some(other) => {
            let message = format!("there is no kind {other:?} of messages");
            return Err(Failure::new(Code::Usage, message).hint("it is text, json or binary"));
        }
    };
    match kind {
        Kind::Text if std::str::from_utf8(&content).is_err() => {
            Err(Failure::new(Code::Usage, "a message of kind text is UTF-8")
                .hint("bytes of any kind go with --kind binary"))
        }
        Kind::Json => match serde_json::from_slice::<serde::de::IgnoredAny>(&content) {
            Ok(_) => Ok((kind, content)),
            Err(e) => Err(Failure::new(Code::Usage, format!("the message is not JSON: {e}"))
                .hint("text of any form goes with --kind text")),
        },
        _ => Ok((kind, content)),
    }
}

pub(super) async fn send_message(State(shared): Cx, bytes: Bytes) -> Response {
    answer(
        async {
            let wanted: api::SendMessage = body(&bytes)?;
            let (kind, content) = content(&wanted)?;
            let agent: Agent = parse("the agent", &wanted.to)?;
            let start = Instant::now();
            let to = shared.node.target(&agent, wanted.network.map(NetworkId)).await?;
            shared.node.check_grant(to)?;
            let item = put(&shared, to, kind, content).await?;
            if let Some(limit) = wanted.timeout_ms.map(span) {
                return within(&shared, &item, start + limit).await;
            }
            let is_held_up = item.reason.is_some() || shared.offer.outbox.is_behind(&item);
            match wanted.wait_ms.map(span) {
                Some(wait) => settled(&shared, &item, start + wait, |_| false).await,
                None if is_held_up => {
                    settled(&shared, &item, start + SHORT_MOMENT, |_| false).await
                }
                None => {
                    let has_failed = |item: &Item| item.reason.is_some();
                    settled(&shared, &item, start + MOMENT, has_failed).await
                }
            }
        }
        .await,
    )
}

/// Puts a message in and lets it be carried, also if the client goes away meanwhile.
async fn put(
    shared: &Arc<Shared>,
    to: Address,
    kind: Kind,
    content: Vec<u8>,
) -> Result<Item, Failure> {
    let shared = Arc::clone(shared);
    let put = async move {
        let put = shared.offer.outbox.post(NewMessage::new(to, kind, content)).await;
        if let Ok(Ok(item)) = &put {
            courier::carry(&shared, item.to);
        }
        put
    };
    let lost = || Failure::new(Code::Internal, "the outbox has lost it");
    let put = tokio::spawn(put).await.map_err(|_| lost())?;
    put.map_err(|_| lost())?.map_err(from_put)
}

/// Why something is not in the outbox.
pub(super) fn from_put(error: PutError) -> Failure {
    match error {
        PutError::TooLarge(_) => Failure::new(Code::TooLarge, error.to_string())
            .hint("a message has at most 1 MiB: use `pilotctl send-file`"),
        PutError::Full { to, .. } => {
            let whose = to.map_or(String::new(), |to| format!(" for {to}"));
            Failure::new(Code::Full, format!("the outbox{whose} is full: {error}"))
                .hint("`pilotctl outbox` lists them, `pilotctl cancel ID` takes one back")
        }
        PutError::NoSpace => {
            Failure::new(Code::Full, "there is no room on the disk for the outbox")
                .hint("make room on the device, or send it while the other side is there")
        }
        PutError::Waits(item) => {
            Failure::new(Code::Conflict, format!("it waits in the outbox already, as {}", item.id))
        }
        PutError::Size => Failure::new(Code::Usage, "the content is not as long as announced")
            .hint("the file was changed meanwhile: send it again"),
        PutError::Source(e) => Failure::io("read the content", e),
        PutError::Disk(e) => Failure::io("write it to the outbox", e),
    }
}

/// Waits until a message is settled, `is_enough`, or it is time. One that is refused is an
/// error, also of who waits no longer.
async fn settled(
    shared: &Shared,
    item: &Item,
    until: Instant,
    is_enough: impl Fn(&Item) -> bool,
) -> Result<Outgoing, Failure> {
    let outbox = &shared.offer.outbox;
    let (mut changes, mut stop) = (outbox.changes(), shared.stop.subscribe());
    loop {
        let now = outbox.find(item.id).unwrap_or_else(|| item.clone());
        if now.state == ItemState::Refused {
            return Err(refused(&now));
        }
        if now.state.is_settled() || is_enough(&now) {
            return Ok(outgoing(&now));
        }
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return Ok(outgoing(&now));
                }
            }
            () = tokio::time::sleep_until(until) => return Ok(outgoing(&now)),
            _ = stop.wait_for(|stop| *stop) => return Ok(outgoing(&now)),
        }
    }
}

fn refused(item: &Item) -> Failure {
    let reason = item.reason.clone();
    let (code, message) =
        reason.map_or((None, String::new()), |r| (Code::parse(&r.code), r.message));
    Failure::new(code.unwrap_or(Code::Rejected), message)
}

/// Delivers a message until it is time, or takes it back.
async fn within(shared: &Arc<Shared>, item: &Item, until: Instant) -> Result<Outgoing, Failure> {
    let now = settled(shared, item, until, |_| false).await?;
    if now.state == ItemState::Delivered.as_str() {
        return Ok(now);
    }
    match take_back(shared, item.id).await? {
        // In the last moment.
        now if now.state == ItemState::Delivered => Ok(outgoing(&now)),
        now if now.may_have_arrived => {
            let message = "not delivered within the time given; it may still have arrived";
            Err(Failure::new(Code::Timeout, message))
        }
        _ => Err(Failure::new(Code::Timeout, "not delivered within the time given")
            .hint("without --timeout it waits in the outbox until it can be delivered")),
    }
}

/// Cancels a message that waits; what has become of it.
async fn take_back(shared: &Arc<Shared>, id: TransferId) -> Result<Item, Failure> {
    let taken = courier::take_back(shared, id).await;
    taken.map_err(|e| Failure::io("remove it from the outbox", e))?.ok_or_else(|| unknown(id))
}

fn unknown(id: TransferId) -> Failure {
    Failure::new(Code::NotFound, format!("there is nothing with id {id} in the outbox"))
        .hint("`pilotctl outbox --all` lists those that are known; old ones are forgotten")
}

/// `?after=SEQ&limit=N&all=true`
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    /// `seq` of the last one known.
    #[serde(default)]
    after: u64,
    /// At most, and at most 100.
    limit: Option<usize>,
    /// Those that are settled, too.
    #[serde(default)]
    all: bool,
}

pub(super) async fn list(State(shared): Cx, listed: Queried<Listed>) -> Response {
    answer(query(listed).map(|listed| {
        let outbox = &shared.offer.outbox;
        let limit = listed.limit.unwrap_or(PAGE).clamp(1, PAGE);
        let items = outbox.list(listed.after, limit + 1, listed.all);
        let (waiting, waiting_bytes) = outbox.count();
        api::Outbox {
            messages: items.iter().take(limit).map(outgoing).collect(),
            more: items.len() > limit,
            waiting,
            waiting_bytes,
        }
    }))
}

/// `?wait_ms=T`
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Waited {
    /// Milliseconds to wait for its end.
    wait_ms: Option<u64>,
}

pub(super) async fn status(
    State(shared): Cx,
    Path(id): Path<String>,
    waited: Queried<Waited>,
) -> Response {
    answer(
        async {
            let wait = query(waited)?.wait_ms.map(span);
            let id: TransferId = parse("the id", &id)?;
            let outbox = &shared.offer.outbox;
            let item = outbox.find(id).ok_or_else(|| unknown(id))?;
            if let Some(wait) = wait {
                // Whether it was refused is what was asked for, and no error.
                let _ = settled(&shared, &item, Instant::now() + wait, |_| false).await;
            }
            Ok(outgoing(&outbox.find(id).unwrap_or(item)))
        }
        .await,
    )
}

pub(super) async fn cancel(State(shared): Cx, Path(id): Path<String>) -> Response {
    answer(
        async {
            let id: TransferId = parse("the id", &id)?;
            let before = shared.offer.outbox.find(id).ok_or_else(|| unknown(id))?;
            let now = take_back(&shared, id).await?;
            if before.state.is_settled() || now.state != ItemState::Cancelled {
                let message = format!("{id} is {} already", now.state.as_str());
                return Err(Failure::new(Code::Conflict, message)
                    .hint("only what waits can be cancelled: `pilotctl outbox` lists it"));
            }
            Ok(outgoing(&now))
        }
        .await,
    )
}
