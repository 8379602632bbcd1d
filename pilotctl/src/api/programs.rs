//! What the daemon listens on for other programs: forwards, exposes, the SOCKS5 proxy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether one of them listens, and how it is used since the daemon started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Usage {
    /// `listening`, or `waiting` for what it cannot have now.
    pub(crate) state: String,
    /// Why it does not listen.
    pub(crate) trouble: Option<String>,
    /// Connections now.
    pub(crate) open: usize,
    /// Connections that were begun.
    pub(crate) served: u64,
    /// Connections that came to nothing or broke, those without a place included.
    pub(crate) failed: u64,
    /// Why the last of them did.
    pub(crate) last_failure: Option<String>,
}

/// A local TCP address that leads to a port of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Forward {
    pub(crate) local: String,
    /// `ADDR:PORT` or `HOSTNAME:PORT`.
    pub(crate) to: String,
    /// The hostname's network; none is the default network.
    pub(crate) network: Option<u16>,
    #[serde(flatten)]
    pub(crate) usage: Usage,
}

/// `GET /v1/forwards`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Forwards {
    pub(crate) forwards: Vec<Forward>,
}

/// `PUT /v1/forwards/LOCAL`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetForward {
    pub(crate) to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<u16>,
}

/// A virtual port that leads to a TCP service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Expose {
    pub(crate) port: u16,
    /// `HOST:PORT`.
    pub(crate) to: String,
    #[serde(flatten)]
    pub(crate) usage: Usage,
}

/// `GET /v1/exposes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Exposes {
    pub(crate) exposes: Vec<Expose>,
}

/// `PUT /v1/exposes/PORT`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetExpose {
    pub(crate) to: String,
}

/// The SOCKS5 proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Proxy {
    pub(crate) local: String,
    #[serde(flatten)]
    pub(crate) usage: Usage,
}

/// `GET /v1/proxy`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct ProxyState {
    /// None if none runs.
    pub(crate) proxy: Option<Proxy>,
}

/// `PUT /v1/proxy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetProxy {
    /// Default `127.0.0.1:1080`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) local: Option<String>,
}
