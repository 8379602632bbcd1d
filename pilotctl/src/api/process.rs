//! The processes themselves: what runs, where, since when.

use crate::config::{DaemonSettings, RendezvousSettings};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// `GET /v1/status` of a daemon, and the report of `daemon start`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct DaemonStatus {
    pub(crate) pid: u32,
    pub(crate) version: String,
    pub(crate) home: PathBuf,
    /// The API answers, UDP is bound and the address is known.
    pub(crate) ready: bool,
    /// The backbone address.
    pub(crate) address: Option<String>,
    /// The address in the default network, which other commands print.
    pub(crate) network_address: Option<String>,
    /// Whether registry and beacon answer now.
    pub(crate) online: bool,
    /// The UDP sockets, with their actual ports.
    pub(crate) sockets: Vec<SocketAddr>,
    /// The endpoint that the beacon sees.
    pub(crate) observed: Option<SocketAddr>,
    pub(crate) registry: String,
    pub(crate) beacon: String,
    /// The fingerprint of the registry's key, once known.
    pub(crate) registry_fingerprint: Option<String>,
    /// This start took the registry's key at first contact.
    #[serde(default)]
    pub(crate) first_contact: bool,
    pub(crate) uptime_s: u64,
    pub(crate) settings: DaemonSettings,
    /// The log file; none if it logs to standard error.
    pub(crate) log: Option<PathBuf>,
    /// What its owner should know.
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
}

/// `GET /v1/status` of a rendezvous server, and the report of `rendezvous start`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct RendezvousStatus {
    pub(crate) pid: u32,
    pub(crate) version: String,
    pub(crate) home: PathBuf,
    pub(crate) ready: bool,
    /// The actual TCP address.
    pub(crate) registry: SocketAddr,
    /// The actual UDP address.
    pub(crate) beacon: SocketAddr,
    /// The server's Ed25519 key, to be given as `--registry HOST:PORT#KEY`.
    pub(crate) key: String,
    pub(crate) fingerprint: String,
    /// The store.
    pub(crate) store: PathBuf,
    /// The readable export.
    pub(crate) export: PathBuf,
    pub(crate) uptime_s: u64,
    /// How much there is and how much was carried.
    pub(crate) counters: BTreeMap<String, u64>,
    /// Datagrams and connections dropped, by reason: all reasons there are, those that never
    /// occurred too.
    pub(crate) drops: BTreeMap<String, u64>,
    pub(crate) settings: RendezvousSettings,
    pub(crate) log: Option<PathBuf>,
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
}

/// `POST /v1/export` of a rendezvous server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Exported {
    pub(crate) file: PathBuf,
}
