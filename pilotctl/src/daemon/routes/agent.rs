//! Names, discovery and trust.

use super::Cx;
use crate::api::{self, DecideTrust, Discovered, Profile, RequestTrust, SetTags, TrustState};
use crate::cli::values::{Agent, TagList, Visibility};
use crate::error::{Code, Failure};
use crate::http::{answer, body, parse, query};
use crate::output::quoted;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use clap::ValueEnum as _;
use pilot_core::addr::{Address, NetworkId};
use pilot_core::name::{Hostname, Justification, Tag, Tags};
use pilot_core::trust::Permissions;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

type Queried<T> = Result<Query<T>, QueryRejection>;

/// `?network=N`
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InNetwork {
    /// Default: the lowest joined non-zero network, else 0.
    network: Option<u16>,
}

pub(super) async fn info(State(shared): Cx) -> Response {
    answer(Ok(shared.info()))
}

pub(super) async fn peers(State(shared): Cx) -> Response {
    answer(Ok(api::Peers { peers: shared.node.peers() }))
}

pub(super) async fn trusted(State(shared): Cx) -> Response {
    answer(Ok(api::Peers { peers: shared.node.trusted() }))
}

pub(super) async fn why(State(shared): Cx, asked: Queried<Resolve>) -> Response {
    answer(
        async {
            let asked = query(asked)?;
            let agent: Agent = parse("the agent", &asked.agent)?;
            let to = shared.node.target(&agent, asked.network.map(NetworkId)).await?;
            shared.node.why(to)
        }
        .await,
    )
}

pub(super) async fn connections(State(shared): Cx) -> Response {
    answer(Ok(api::Connections { connections: shared.node.connections() }))
}

pub(super) async fn join(State(shared): Cx, Path(network): Path<String>) -> Response {
    answer(
        async {
            let network: u16 = parse("the network", &network)?;
            shared.node.join(NetworkId(network)).await?;
            let address = shared.node.address_in(NetworkId(network));
            Ok(Profile { address, network: Some(network), ..Default::default() })
        }
        .await,
    )
}

pub(super) async fn leave(State(shared): Cx, Path(network): Path<String>) -> Response {
    answer(
        async {
            let network: u16 = parse("the network", &network)?;
            shared.node.leave(NetworkId(network)).await?;
            Ok(Profile { network: Some(network), ..Default::default() })
        }
        .await,
    )
}

pub(super) async fn set_hostname(State(shared): Cx, bytes: Bytes) -> Response {
    answer(
        async {
            let wanted: api::SetHostname = body(&bytes)?;
            let name: Hostname = parse("the hostname", &wanted.hostname)?;
            let hostname = name.as_str().to_owned();
            let network = wanted.network.map(NetworkId);
            shared.node.set_hostname(name, network).await?;
            let network = network.unwrap_or(shared.node.default_network());
            Ok(Profile {
                address: shared.node.address_in(network),
                network: Some(network.0),
                hostname: Some(hostname),
                ..Default::default()
            })
        }
        .await,
    )
}

pub(super) async fn clear_hostname(State(shared): Cx, at: Queried<InNetwork>) -> Response {
    answer(
        async {
            let network = query(at)?.network.map(NetworkId);
            shared.node.clear_hostname(network).await?;
            let network = network.unwrap_or(shared.node.default_network());
            Ok(Profile { network: Some(network.0), ..Default::default() })
        }
        .await,
    )
}

pub(super) async fn set_visibility(State(shared): Cx, bytes: Bytes) -> Response {
    answer(
        async {
            let wanted: api::SetVisibility = body(&bytes)?;
            let visibility = Visibility::from_str(&wanted.visibility, false).map_err(|_| {
                Failure::new(Code::Usage, "the visibility is `public` or `private`")
            })?;
            shared.node.set_visibility(visibility == Visibility::Public).await?;
            Ok(Profile { visibility: Some(wanted.visibility), ..Default::default() })
        }
        .await,
    )
}

/// Tags from texts, checked as a whole.
fn tags<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Tags, Failure> {
    let mut tags = Tags::new();
    for text in texts {
        let tag: Tag = parse("the tag", text)?;
        let known = tags.iter().any(|t| t.key() == tag.key());
        if known || tags.push(tag).is_err() {
            return Err(Failure::new(Code::Usage, "at most 16 tags, each key once"));
        }
    }
    Ok(tags)
}

pub(super) async fn set_tags(State(shared): Cx, bytes: Bytes) -> Response {
    answer(
        async {
            let wanted: SetTags = body(&bytes)?;
            shared.node.set_tags(tags(wanted.tags.iter().map(String::as_str))?).await?;
            Ok(Profile { tags: Some(wanted.tags), ..Default::default() })
        }
        .await,
    )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resolve {
    /// An address or hostname.
    agent: String,
    /// Of names and addresses; default: the lowest joined non-zero network, else 0.
    network: Option<u16>,
}

pub(super) async fn resolve(State(shared): Cx, asked: Queried<Resolve>) -> Response {
    answer(
        async {
            let asked = query(asked)?;
            let agent: Agent = parse("the agent", &asked.agent)?;
            shared.node.resolve(&agent, asked.network.map(NetworkId)).await
        }
        .await,
    )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reputed {
    /// An address or hostname; default: this agent.
    agent: Option<String>,
    /// Of the name or address; default: the lowest joined non-zero network, else 0.
    network: Option<u16>,
}

pub(super) async fn reputation(State(shared): Cx, asked: Queried<Reputed>) -> Response {
    answer(
        async {
            let asked = query(asked)?;
            let agent =
                asked.agent.as_deref().map(|agent| parse("the agent", agent)).transpose()?;
            shared.node.reputation(agent.as_ref(), asked.network.map(NetworkId)).await
        }
        .await,
    )
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Discover {
    /// With commas: an agent has all of them.
    #[serde(default)]
    tags: String,
    /// Default: the lowest joined non-zero network, else 0.
    network: Option<u16>,
    /// `next_cursor` of the page before.
    #[serde(default)]
    cursor: u64,
}

pub(super) async fn discover(State(shared): Cx, asked: Queried<Discover>) -> Response {
    answer(
        async {
            let asked = query(asked)?;
            let TagList(list) = parse("the tags", &asked.tags)?;
            let tags = tags(list.iter().map(Tag::as_str))?;
            let network = asked.network.map(NetworkId);
            let (agents, next_cursor) = shared.node.discover(tags, network, asked.cursor).await?;
            Ok(Discovered { agents, next_cursor })
        }
        .await,
    )
}

pub(super) async fn request_trust(State(shared): Cx, bytes: Bytes) -> Response {
    answer(
        async {
            let wanted: RequestTrust = body(&bytes)?;
            let to: Address = parse("the address", &wanted.address)
                .map_err(|f| Failure::new(Code::BadAddress, f.message))?;
            let justification: Justification = parse("the justification", &wanted.justification)?;
            let wait = wanted.wait_ms.map(Duration::from_millis);
            let state = shared.node.request_trust(to, justification, wait).await?;
            Ok(decided(to, state, None))
        }
        .await,
    )
}

pub(super) async fn pending(State(shared): Cx) -> Response {
    answer(Ok(shared.node.pending()))
}

/// Who is decided about, why, and what it is allowed.
fn decide(bytes: &Bytes) -> Result<(Address, Option<String>, Option<Permissions>), Failure> {
    let wanted: DecideTrust = body(bytes)?;
    let address = parse("the address", &wanted.address)
        .map_err(|f| Failure::new(Code::BadAddress, f.message))?;
    let allow = wanted.allow.map(|allow| parse("what is allowed", &allow)).transpose()?;
    Ok((address, wanted.reason, allow))
}

/// A decision that allows nothing.
fn denied(bytes: &Bytes) -> Result<(Address, Option<String>), Failure> {
    match decide(bytes)? {
        (address, reason, None) => Ok((address, reason)),
        _ => Err(Failure::new(Code::Usage, "`allow` belongs to approve and allow")),
    }
}

fn decided(address: Address, state: &str, allow: Option<Permissions>) -> TrustState {
    let allow = allow.map(|allow| allow.to_string());
    TrustState { address: address.to_string(), state: state.to_owned(), allow }
}

pub(super) async fn approve(State(shared): Cx, bytes: Bytes) -> Response {
    answer(
        async {
            let (from, _, allow) = decide(&bytes)?;
            let allow = allow.unwrap_or_default();
            shared.node.approve(from, allow)?;
            tracing::info!(%from, %allow, "trust approved");
            Ok(decided(from, "approved", Some(allow)))
        }
        .await,
    )
}

pub(super) async fn allow(State(shared): Cx, bytes: Bytes) -> Response {
    answer(
        async {
            let (peer, _, allow) = decide(&bytes)?;
            let allow = allow.ok_or_else(|| Failure::new(Code::Usage, "`allow` is missing"))?;
            shared.node.allow(peer, allow)?;
            tracing::info!(%peer, %allow, "rights changed");
            Ok(decided(peer, "allowed", Some(allow)))
        }
        .await,
    )
}

pub(super) async fn refuse(State(shared): Cx, bytes: Bytes) -> Response {
    answer(
        async {
            let (from, reason) = denied(&bytes)?;
            shared.node.refuse(from)?;
            let reason = quoted(reason.as_deref().unwrap_or_default());
            tracing::info!(%from, %reason, "trust refused");
            Ok(decided(from, "refused", None))
        }
        .await,
    )
}

pub(super) async fn revoke(State(shared): Cx, bytes: Bytes) -> Response {
    answer(
        async {
            let (peer, _) = denied(&bytes)?;
            shared.node.revoke(peer)?;
            tracing::info!(%peer, "trust revoked");
            Ok(decided(peer, "revoked", None))
        }
        .await,
    )
}
