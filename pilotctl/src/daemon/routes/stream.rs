//! Raw streams: after `101 Switching Protocols` the connection to the client is the stream, in
//! both directions, with half-close.

use super::Cx;
use crate::api::{self, Accepted, STREAM_PROTOCOL};
use crate::cli::values::Agent;
use crate::commands::{PORT_HEADER, STREAM_HEADER};
use crate::daemon::ends::Ticket;
use crate::daemon::node;
use crate::error::{Code, Envelope, Failure};
use crate::http::{answer, parse, query};
use crate::output::to_line;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use pilot_core::addr::{NetworkId, Port};
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes};

/// The connection to the client, from the upgrade on.
type Client = TokioIo<Upgraded>;

/// Bytes copied at once, in each direction.
const COPY: usize = 64 * 1024;

/// The client's wish to upgrade, if it has said so.
pub(super) struct Wish(Option<OnUpgrade>);

impl<S: Send + Sync> FromRequestParts<S> for Wish {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let asked = parts.headers.get(UPGRADE).is_some_and(|value| value == STREAM_PROTOCOL);
        Ok(Wish(parts.extensions.remove::<OnUpgrade>().filter(|_| asked)))
    }
}

impl Wish {
    fn granted(self) -> Result<OnUpgrade, Failure> {
        self.0.ok_or_else(|| {
            let message = format!("this route needs the header `Upgrade: {STREAM_PROTOCOL}`");
            Failure::new(Code::Usage, message).hint("docs/pilotctl.md shows how")
        })
    }
}

/// `101`, with the stream's number and port.
fn switching(id: u64, port: Port) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(STREAM_PROTOCOL));
    headers.insert(STREAM_HEADER, HeaderValue::from(id));
    headers.insert(PORT_HEADER, HeaderValue::from(port.0));
    response
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Connect {
    /// An address or hostname.
    to: String,
    /// The agent's port.
    port: u16,
    /// Of the name or address; default: the lowest joined non-zero network, else 0.
    network: Option<u16>,
    /// Milliseconds until the stream is open.
    timeout_ms: Option<u64>,
}

pub(super) async fn connect(
    State(shared): Cx,
    asked: Result<Query<Connect>, QueryRejection>,
    wish: Wish,
) -> Response {
    let opened = async {
        let asked = query(asked)?;
        let upgrade = wish.granted()?;
        let agent: Agent = parse("the agent", &asked.to)?;
        let limit = asked.timeout_ms.map(Duration::from_millis);
        let network = asked.network.map(NetworkId);
        let to = shared.node.target(&agent, network).await?;
        let stream = shared.node.connect(to, Port(asked.port), limit).await?;
        Ok((upgrade, stream))
    };
    match opened.await {
        Err(failure) => answer::<()>(Err(failure)),
        Ok((upgrade, stream)) => {
            let ticket = shared.ends.begin();
            let id = ticket.id();
            let (_, port) = node::ends_of(&stream);
            tokio::spawn(async move {
                match upgrade.await {
                    Ok(client) => pump(TokioIo::new(client), stream, ticket).await,
                    Err(error) => tracing::debug!(%error, "the client went away"),
                }
            });
            switching(id, port)
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listen {
    /// This agent's port; 0 takes a free one.
    port: u16,
}

pub(super) async fn listen(
    State(shared): Cx,
    asked: Result<Query<Listen>, QueryRejection>,
    wish: Wish,
) -> Response {
    let opened = async {
        let upgrade = wish.granted()?;
        let listener = shared.node.listen(Port(query(asked)?.port))?;
        Ok((upgrade, listener))
    };
    match opened.await {
        Err(failure) => answer::<()>(Err(failure)),
        Ok((upgrade, listener)) => {
            let ticket = shared.ends.begin();
            let id = ticket.id();
            let port = listener.port();
            tokio::spawn(async move {
                if let Ok(client) = upgrade.await {
                    accept_one(TokioIo::new(client), listener, ticket).await;
                }
            });
            switching(id, port)
        }
    }
}

async fn accept_one(mut client: Client, listener: node::Listener, ticket: Ticket) {
    let accepted = tokio::select! {
        accepted = listener.accept() => accepted,
        // It has nothing to say before somebody comes: it went away.
        () = gone(&mut client) => return,
    };
    // One stream: further ones are refused from now on.
    drop(listener);
    let line = match &accepted {
        Ok((_, peer)) => Envelope::Ok {
            data: Accepted { peer: peer.address.to_string(), peer_port: peer.port.0 },
        },
        Err(error) => Envelope::Error(node::from_listen(error).to_wire()),
    };
    let told = client.write_all((to_line(&line) + "\n").as_bytes()).await;
    if let (Ok((stream, _)), Ok(())) = (accepted, told) {
        pump(client, stream, ticket).await;
    }
}

async fn gone(client: &mut Client) {
    let mut byte = [0];
    let _ = client.read(&mut byte).await;
}

/// Copies in both directions until both have ended, and notes how it ended.
async fn pump(mut client: Client, mut stream: node::Stream, ticket: Ticket) {
    let copied = tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut client, &mut stream, COPY, COPY) => copied,
        () = ticket.aborted() => Err(std::io::Error::other("it has given the stream up")),
    };
    let result = match copied {
        // The client has been told the end only when the other side has everything.
        Ok(_) => stream.acknowledged().await,
        Err(error) => Err(error),
    };
    ticket.end(result.map_err(|error| {
        node::from_io(&error).unwrap_or_else(|| {
            // The client went away in the middle: the other side must not take what it has
            // for the whole.
            stream.reset();
            Failure::new(Code::Ended, format!("the client went away: {error}"))
        })
    }));
}

/// Gives a stream up: the other side must not take what it has for the whole.
pub(super) async fn abort(State(shared): Cx, Path(id): Path<String>) -> Response {
    let aborted = || shared.ends.abort(parse("the stream", &id)?).map(|()| api::Nothing {});
    answer(aborted())
}

pub(super) async fn end(State(shared): Cx, Path(id): Path<String>) -> Response {
    answer(
        async {
            let id = parse("the stream", &id)?;
            shared.ends.wait(id).await.map(|()| api::Nothing {})
        }
        .await,
    )
}
