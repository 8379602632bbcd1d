//! Why packets to a peer travel as they do: what there is, what was tried, and what comes next.

use super::{Node, PathKind, PathPolicy};
use crate::addr::Address;
use crate::path::nat::Nat;
use crate::path::punch::Outcome;
use crate::path::strategy::{Technique, technique};
use crate::path::{PATHS, PathId, Route};
use crate::time::Duration;
use core::net::SocketAddr;
use heapless::Vec;

/// One proven path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathState {
    /// Straight or by the relay.
    pub kind: PathKind,
    /// Where its packets go: the peer, or the beacon.
    pub endpoint: Option<SocketAddr>,
    /// Data goes this way.
    pub is_active: bool,
    /// Whether it leaves by a socket of its own, opened for punching.
    pub is_auxiliary: bool,
    /// Smoothed round-trip time, if measured.
    pub rtt: Option<Duration>,
    /// How long it has been silent although something was sent; such a path carries data only
    /// when there is no other.
    pub suspect_for: Option<Duration>,
}

/// One round of punching that is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TriedRound {
    /// What was tried.
    pub technique: Technique,
    /// How it ended.
    pub outcome: Outcome,
    /// How long ago.
    pub ago: Duration,
    /// Path challenges that it took.
    pub probes: u16,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct PathReport {
    /// The peer.
    pub peer: Address,
    /// How packets travel now.
    pub kind: PathKind,
    /// Which paths we may use at all.
    pub policy: PathPolicy,
    /// Whether there is a session.
    pub has_session: bool,
    /// Whether the relay leads to the peer now.
    pub has_channel: bool,
    /// The proven paths.
    pub paths: Vec<PathState, PATHS>,
    /// Where the peer is said to be, as far as a packet there makes sense.
    pub candidates: Vec<SocketAddr, 10>,
    /// What our NAT does.
    pub nat: Nat,
    /// What the peer says that its NAT does, since it was asked.
    pub peer_nat: Option<Nat>,
    /// The last rounds of punching, oldest first.
    pub tried: Vec<TriedRound, 6>,
    /// What runs now.
    pub running: Option<Technique>,
    /// The hardest technique that these two NATs leave; `None` while the peer's is not known.
    pub hardest: Option<Technique>,
    /// The next attempt to get off the relay, if one is planned.
    pub next_in: Option<Duration>,
    /// How long no birthday spray goes to this peer.
    pub no_spray_for: Option<Duration>,
    /// No spray at all, by configuration.
    pub sprays_forbidden: bool,
}

impl Node<'_> {
    /// Why packets to this peer travel as they do; `None` for one that is not trusted.
    pub fn why(&self, peer: Address) -> Option<PathReport> {
        let index = self.directory.trust().find(peer.on_backbone())?;
        let known = self.directory.trust().peer(index)?;
        let link = self.link_of(index)?;
        let now = self.now;
        let beacon = self.directory.beacon_address();
        let shown = |(id, path): (PathId, super::link::PathState)| PathState {
            kind: match path.route {
                Route::Direct(_) => PathKind::Direct,
                Route::Relay(_) => PathKind::Relayed,
            },
            endpoint: match path.route {
                Route::Direct(direct) => Some(direct.remote),
                Route::Relay(_) => beacon,
            },
            is_active: link.active() == Some(id),
            is_auxiliary: matches!(path.route, Route::Direct(p) if p.socket.0 != 0),
            rtt: self.transport.srtt(index, id),
            suspect_for: path.suspect_since.map(|since| now.since(since)),
        };
        let ladder = &link.ladder;
        let running = ladder.punch.and_then(|key| self.punches.get(key));
        let nat = self.own_nat();
        let hardest = ladder.peer_nat.map(|theirs| {
            let rounds = (0..crate::path::strategy::ROUNDS).rev();
            let mut left = rounds.filter_map(|round| technique(nat, theirs, round));
            left.next().unwrap_or(Technique::Plain)
        });
        let later = |at: crate::time::Instant| Some(at.since(now)).filter(|_| at > now);
        Some(PathReport {
            peer: known.address,
            kind: self.path_kind(index),
            policy: self.config.path_policy,
            has_session: self.tunnel.has_session(index),
            has_channel: self.directory.channel(index).is_some(),
            paths: link.paths().map(shown).collect(),
            candidates: self
                .candidates(index)
                .iter()
                .filter_map(|route| match route {
                    Route::Direct(path) => Some(path.remote),
                    Route::Relay(_) => None,
                })
                .collect(),
            nat,
            peer_nat: ladder.peer_nat,
            tried: ladder
                .tried
                .iter()
                .map(|tried| TriedRound {
                    technique: tried.technique,
                    outcome: tried.outcome,
                    ago: now.since(tried.at),
                    probes: tried.probes,
                })
                .collect(),
            running: running.map(crate::path::punch::Punch::technique),
            hardest,
            next_in: link.upkeep.upgrade.and_then(|(at, _)| later(at)),
            no_spray_for: ladder.spray.and_then(|(at, _)| later(at)),
            sprays_forbidden: self.config.forbid_spray,
        })
    }
}
