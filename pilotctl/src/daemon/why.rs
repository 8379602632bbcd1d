//! A path report as the local API tells it.

use crate::api::{Why, WhyNat, WhyPath, WhyTried};
use crate::services::path_word;
use pilot_core::node::{PathReport, PathState, TriedRound};
use pilot_core::path::nat::Nat;
use pilot_core::path::punch::Outcome;
use pilot_core::time::Duration;
use pilot_tokio::PathPolicy;

fn nat(nat: Nat) -> WhyNat {
    WhyNat {
        mapping: nat.mapping.to_string(),
        filtering: nat.filtering.to_string(),
        allocation: nat.allocation.to_string(),
    }
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Direct => "direct",
        Outcome::NothingCameThrough => "nothing-came-through",
        Outcome::NotAnswered => "not-answered",
        Outcome::Declined => "declined",
        Outcome::Superseded => "superseded",
    }
}

pub(super) fn told(report: &PathReport) -> Why {
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let path = |path: &PathState| WhyPath {
        path: path_word(path.kind).to_owned(),
        endpoint: path.endpoint,
        active: path.is_active,
        auxiliary: path.is_auxiliary,
        rtt_us: path.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        silent_ms: path.suspect_for.map(ms),
    };
    let tried = |tried: &TriedRound| WhyTried {
        technique: tried.technique.to_string(),
        outcome: outcome(tried.outcome).to_owned(),
        ago_ms: ms(tried.ago),
        probes: tried.probes,
    };
    Why {
        address: report.peer.to_string(),
        path: path_word(report.kind).to_owned(),
        policy: match report.policy {
            PathPolicy::Auto => "auto",
            PathPolicy::Direct => "direct",
            PathPolicy::Relay => "relay",
        }
        .to_owned(),
        has_session: report.has_session,
        has_relay: report.has_channel,
        paths: report.paths.iter().map(path).collect(),
        candidates: report.candidates.to_vec(),
        nat: nat(report.nat),
        peer_nat: report.peer_nat.map(nat),
        tried: report.tried.iter().map(tried).collect(),
        running: report.running.map(|technique| technique.to_string()),
        hardest: report.hardest.map(|technique| technique.to_string()),
        next_try_ms: report.next_in.map(ms),
        no_spray_ms: report.no_spray_for.map(ms),
        sprays_forbidden: report.sprays_forbidden,
    }
}
