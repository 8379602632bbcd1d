//! The daemon: one agent, its services and its local API, from the lock on the home to the
//! last goodbye.
//!
//! ```text
//! lock the home → settings → log → sockets → identity, state → agent → API
//!      → wait for the address → say that we are ready → serve
//!      → SIGTERM, SIGINT, `daemon stop`, or fenced → goodbye within 5 s
//! ```

pub(crate) mod courier;
pub(crate) mod ends;
mod identity;
pub(crate) mod node;
pub(crate) mod offer;
mod routes;
mod start;
pub(crate) mod state;
pub(crate) mod tasks;
mod why;

pub(crate) use start::{Signals, check_settings, forbid_dumps, look_up, run};

use crate::api::{self, DaemonStatus};
use crate::cli::values::PathChoice;
use crate::config::DaemonSettings;
use crate::home::Home;
use crate::programs::Programs;
use courier::Courier;
use ends::Ends;
use node::Node;
use offer::Offer;
use pilot_core::node::Link;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;
use tokio::sync::watch;

/// The description of the local API.
#[cfg(test)]
pub(crate) fn described() -> serde_json::Value {
    routes::api().document()
}

/// What the parts of a daemon share.
pub(crate) struct Shared {
    pub(crate) node: Node,
    pub(crate) offer: Offer,
    pub(crate) courier: Courier,
    pub(crate) carriers: tasks::Carriers,
    pub(crate) ends: Ends,
    pub(crate) programs: Programs,
    /// Becomes true when the daemon shall stop.
    pub(crate) stop: watch::Sender<bool>,
    home: Home,
    settings: DaemonSettings,
    log: Option<PathBuf>,
    started: std::time::Instant,
    /// What its owner should know, beyond what can be seen from the agent.
    warnings: Mutex<Vec<String>>,
}

impl Shared {
    /// `GET /v1/status`.
    fn status(&self) -> DaemonStatus {
        let info = self.node.agent.info();
        let online = info.link == Link::Online;
        let mut warnings = self.warnings.lock().map(|w| w.clone()).unwrap_or_default();
        warnings.extend(self.programs.warnings());
        if info.address.is_some() && !online {
            warnings.push(format!(
                "the registry or beacon at {} does not answer; trying on",
                self.registry()
            ));
        }
        DaemonStatus {
            pid: std::process::id(),
            version: crate::cli::version().to_owned(),
            home: self.home.path().to_owned(),
            ready: info.address.is_some(),
            address: info.address.map(|address| address.to_string()),
            network_address: self.node.address_in(info.default_network),
            online,
            sockets: info.local,
            observed: info.observed,
            registry: self.registry(),
            beacon: self.beacon(),
            registry_fingerprint: info.registry_key.map(|key| node::key_texts(&key).1),
            first_contact: info.is_first_contact,
            uptime_s: self.started.elapsed().as_secs(),
            settings: self.settings.clone(),
            log: self.log.clone(),
            warnings,
        }
    }

    /// `GET /v1/info`.
    fn info(&self) -> api::Info {
        let info = self.node.agent.info();
        let (identity, fingerprint) = node::key_texts(&info.identity);
        let joined = info.memberships.iter().map(|(network, _)| network.0);
        let networks: BTreeSet<u16> = joined.chain([0]).collect();
        let here = info.memberships.iter().find(|(joined, _)| *joined == info.default_network);
        api::Info {
            address: self.node.address_in(info.default_network),
            backbone: info.address.map(|address| address.to_string()),
            network: info.default_network.0,
            networks: networks.into_iter().collect(),
            hostname: here.and_then(|(_, name)| name.as_ref()).map(|name| name.to_string()),
            tags: info.tags.iter().map(ToString::to_string).collect(),
            visibility: Some(if info.is_public { "public" } else { "private" }.to_owned()),
            identity,
            fingerprint,
            online: info.link == Link::Online,
            sockets: info.local,
            observed: info.observed,
            nat: api::NatBehaviour {
                classical: info.nat.classical.to_string(),
                mapping: info.nat.nat.mapping.to_string(),
                filtering: info.nat.nat.filtering.to_string(),
                allocation: info.nat.nat.allocation.to_string(),
                translated: info.nat.is_translated,
                measured_s: info.nat.age.map(|age| age.as_secs()),
            },
            registry: self.registry(),
            registry_fingerprint: info.registry_key.map(|key| node::key_texts(&key).1),
            beacon: self.beacon(),
            path: self.settings.path.unwrap_or(PathChoice::Auto).to_string(),
            version: crate::cli::version().to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            drops: api::drops(&self.node.agent.drops()),
        }
    }

    fn registry(&self) -> String {
        self.settings.registry.as_ref().map(|r| r.at.to_string()).unwrap_or_default()
    }

    fn beacon(&self) -> String {
        start::beacon(&self.settings).map(|beacon| beacon.to_string()).unwrap_or_default()
    }

    fn warn(&self, warning: String) {
        tracing::warn!("{warning}");
        if let Ok(mut warnings) = self.warnings.lock()
            && !warnings.contains(&warning)
        {
            warnings.push(warning);
        }
    }
}
