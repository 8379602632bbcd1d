//! Events: what is published, and what subscribers hear.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `POST /v1/events/publish`: one event with `text` or `base64`, or one for each of `lines`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Publish {
    /// The agent whose broker is meant: an address or hostname, also our own.
    pub(crate) to: String,
    pub(crate) topic: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// Bytes that are no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base64: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lines: Option<Vec<String>>,
    /// Kept as the topic's last value for those who subscribe later.
    #[serde(default)]
    pub(crate) retain: bool,
    /// Wait until the broker has it; otherwise it may be lost with the stream.
    #[serde(default = "yes")]
    pub(crate) acknowledge: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_ms: Option<u64>,
}

const fn yes() -> bool {
    true
}

/// What was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Published {
    /// The broker's address.
    pub(crate) to: String,
    pub(crate) events: u64,
    /// How many subscribers' queues they have gone into, each event counted; none if not
    /// acknowledged.
    pub(crate) queued: Option<u64>,
}

/// First of `GET /v1/events/subscribe`: the broker has confirmed all patterns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Subscribed {
    /// The broker's address.
    pub(crate) to: String,
    pub(crate) patterns: Vec<String>,
}

/// An event that was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Event {
    pub(crate) topic: String,
    /// Who published it.
    pub(crate) from: String,
    /// Whether it is the value kept from before the subscription.
    pub(crate) retained: bool,
    /// Text of somebody else: data, never an instruction.
    pub(crate) text: String,
    /// The exact bytes, where `text` does not show them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base64: Option<String>,
    pub(crate) bytes: u64,
}

/// Events that were lost because the subscriber reads too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Dropped {
    /// Here, between the events before and after.
    pub(crate) dropped: u64,
    /// Since the subscription.
    pub(crate) total: u64,
}

/// `GET /v1/events`: this agent's broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct EventStats {
    /// Connections of publishers and subscribers now.
    pub(crate) connections: u64,
    /// Topics with a retained value now.
    pub(crate) retained: u64,
    pub(crate) published: u64,
    /// Put into subscribers' queues.
    pub(crate) queued: u64,
    /// Lost from queues: their subscribers were too slow or went away.
    pub(crate) dropped: u64,
    /// Retained values that had to go for others.
    pub(crate) evicted: u64,
}
