//! What is: this agent, its peers, its streams.

use super::Context;
use crate::api::{Connections, Info, NatBehaviour, Peers};
use crate::cli::agent::Reputation;
use crate::client::Query;
use crate::error::Failure;
use crate::output::{cleaned, table, tag_list, time};
use std::fmt::Write as _;
use std::time::Duration;

/// Lines of `name  value`, aligned.
pub(super) struct Facts(String);

impl Facts {
    pub(super) fn new() -> Self {
        Facts(String::new())
    }

    pub(super) fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name:<21} {value}");
    }

    pub(super) fn maybe(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.line(name, value);
        }
    }

    /// Those that occurred; `--json` has the others too.
    pub(super) fn drops(&mut self, drops: &std::collections::BTreeMap<String, u64>) {
        for (reason, count) in drops.iter().filter(|(_, count)| **count > 0) {
            self.line(&format!("dropped: {reason}"), count);
        }
    }

    pub(super) fn text(self) -> String {
        self.0
    }
}

pub(super) async fn info(cx: &Context) -> Result<(), Failure> {
    let info: Info = cx.client().get("/v1/info").await?;
    cx.out.show(&info, |info| {
        let mut facts = Facts::new();
        facts.line("address", info.address.as_deref().unwrap_or("none yet"));
        facts.maybe("backbone address", info.backbone.as_ref());
        facts.line("hostname", info.hostname.as_deref().unwrap_or("none"));
        facts.line("tags", tag_list(&info.tags));
        facts.maybe("visibility", info.visibility.as_ref());
        let networks: Vec<String> = info.networks.iter().map(u16::to_string).collect();
        facts.line("networks", networks.join(", "));
        facts.line("identity", &info.identity);
        facts.line("fingerprint", &info.fingerprint);
        facts.line("registry", format!("{} ({})", info.registry, online(info.online)));
        facts.maybe("registry fingerprint", info.registry_fingerprint.as_ref());
        facts.line("beacon", &info.beacon);
        facts.maybe("seen from outside as", info.observed);
        facts.line("NAT", &info.nat.classical);
        facts.line("NAT mapping", mapping(&info.nat));
        facts.line("NAT filtering", &info.nat.filtering);
        facts.line("NAT ports", &info.nat.allocation);
        let sockets: Vec<String> = info.sockets.iter().map(ToString::to_string).collect();
        facts.line("UDP sockets", sockets.join(", "));
        facts.line("path", &info.path);
        facts.line("version", &info.version);
        facts.drops(&info.drops);
        facts.text()
    });
    Ok(())
}

fn mapping(nat: &NatBehaviour) -> &str {
    if nat.translated == Some(false) { "none: the address is not translated" } else { &nat.mapping }
}

pub(super) fn online(is: bool) -> &'static str {
    if is { "online" } else { "offline" }
}

pub(super) async fn peers(cx: &Context) -> Result<(), Failure> {
    let peers: Peers = cx.client().get("/v1/peers").await?;
    cx.out.show(&peers, |peers| {
        if peers.peers.is_empty() {
            return "no peers: `pilotctl trust request ADDR` asks for one".to_owned();
        }
        let row = |peer: &crate::api::Peer| {
            let rtt = peer.rtt_us.map(|us| time(Duration::from_micros(us)));
            vec![
                peer.address.clone(),
                cleaned(peer.hostname.as_deref().unwrap_or("-")),
                peer.path.clone(),
                peer.endpoint.map_or_else(|| "-".to_owned(), |e| e.to_string()),
                rtt.unwrap_or_else(|| "-".to_owned()),
            ]
        };
        let rows: Vec<_> = peers.peers.iter().map(row).collect();
        table(&["ADDRESS", "HOSTNAME", "PATH", "ENDPOINT", "RTT"], &rows)
    });
    Ok(())
}

pub(super) async fn reputation(cx: &Context, args: Reputation) -> Result<(), Failure> {
    let query = Query::new("/v1/reputation")
        .with("agent", args.agent.as_ref())
        .with("network", args.at.network);
    let counted: crate::api::Reputation = cx.client().get(query.as_str()).await?;
    cx.out.show(&counted, |counted| {
        let mut facts = Facts::new();
        facts.line("agent", &counted.address);
        facts.line("score", counted.score);
        facts.line("earned", tasks(counted.earned, counted.completed, "done"));
        facts.line("spent", tasks(counted.spent, counted.submitted, "submitted"));
        facts.line("given up", counted.failed);
        facts.text()
    });
    Ok(())
}

/// `4 (1 task done)`
fn tasks(points: u32, count: u32, what: &str) -> String {
    format!("{points} ({count} {} {what})", if count == 1 { "task" } else { "tasks" })
}

pub(super) async fn connections(cx: &Context) -> Result<(), Failure> {
    let open: Connections = cx.client().get("/v1/connections").await?;
    cx.out.show(&open, |open| {
        if open.connections.is_empty() {
            return "no open streams".to_owned();
        }
        let row = |c: &crate::api::Connection| {
            vec![format!("{}:{}", c.peer, c.peer_port), c.local_port.to_string(), c.state.clone()]
        };
        let rows: Vec<_> = open.connections.iter().map(row).collect();
        table(&["PEER", "LOCAL PORT", "STATE"], &rows)
    });
    Ok(())
}
