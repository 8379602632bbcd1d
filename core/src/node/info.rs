//! What the owner may look at: peers, streams, requests, counters.

use super::{Link, Node, PathKind, StreamId};
use crate::addr::{Address, NetworkId, Port, SocketAddress};
use crate::crypto::{Fingerprint, IdentityKey, Rights};
use crate::machine::Path;
use crate::name::{Hostname, Justification, Tags};
use crate::path::nat::{Classical, Nat};
use crate::path::{PeerIndex, Route};
use crate::stats::Drops;
use crate::stream;
use crate::time::{Duration, UnixTime};
use crate::trust::Permissions;
use core::net::SocketAddr;

/// A trusted agent, as `trust list` and `peers` show it.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Backbone address.
    pub address: Address,
    /// Its identity.
    pub identity: IdentityKey,
    /// Six words over both identities, for comparison by voice (`wire.md` 6.3).
    pub fingerprint: Fingerprint,
    /// Its hostname, where the registry told us.
    pub hostname: Option<Hostname>,
    /// How packets travel.
    pub path: PathKind,
    /// Where they go, if direct.
    pub endpoint: Option<SocketAddr>,
    /// Smoothed round-trip time, if measured.
    pub rtt: Option<Duration>,
    /// Whether it has granted us access (we have granted it ours in any case).
    pub grants_us: bool,
    /// What its grant lets us do there; none without one. Which ports, it may limit further.
    pub granted: Rights,
    /// What it may do here.
    pub permissions: Permissions,
    /// Its registry entry names another identity than the pinned one.
    pub is_frozen: bool,
    /// Streams that are not over.
    pub streams: usize,
}

/// What is known of the NATs in front of us, as `info` shows it.
#[derive(Clone, Copy, Debug)]
pub struct NatInfo {
    /// Mapping, filtering and allocation.
    pub nat: Nat,
    /// The name for it.
    pub classical: Classical,
    /// Whether our address is translated; unknown before the beacon has answered.
    pub is_translated: Option<bool>,
    /// Our endpoint, as the beacon sees it.
    pub observed: Option<SocketAddr>,
    /// How long ago it was measured completely; `None` if it was not.
    pub age: Option<Duration>,
}

/// A trust request that waits for our decision.
#[derive(Clone, Debug)]
pub struct TrustRequestInfo {
    /// Who asks.
    pub from: Address,
    /// Its identity.
    pub identity: IdentityKey,
    /// Six words over both identities, for comparison by voice (`wire.md` 6.3).
    pub fingerprint: Fingerprint,
    /// Hostile text, cleaned.
    pub justification: Justification,
    /// When it was signed, by the sender's clock.
    pub issued: UnixTime,
}

/// A stream, as `connections` shows it.
#[derive(Clone, Copy, Debug)]
pub struct StreamInfo {
    /// Its handle.
    pub id: StreamId,
    /// The other end.
    pub peer: SocketAddress,
    /// Our port.
    pub local_port: Port,
    /// Whether we opened it.
    pub is_ours: bool,
    /// Where it is in its life.
    pub state: stream::State,
    /// Bytes written by the owner, and of these acknowledged by the peer.
    pub sent: (u64, u64),
    /// Bytes received in order, and of these read by the owner.
    pub received: (u64, u64),
}

impl Node<'_> {
    /// Our backbone address, once known.
    pub fn address(&self) -> Option<Address> {
        self.directory.address()
    }

    /// The network used by default: the lowest joined non-zero one, else 0.
    pub fn default_network(&self) -> NetworkId {
        self.directory.default_network()
    }

    /// Networks that we have joined, and our names there.
    pub fn memberships(&self) -> &[(NetworkId, Option<Hostname>)] {
        self.directory.memberships()
    }

    /// Our tags, as last set.
    pub fn tags(&self) -> &Tags {
        self.directory.tags()
    }

    /// Whether strangers may find us, as last set.
    pub fn is_public(&self) -> bool {
        self.directory.is_public()
    }

    /// Our identity.
    pub fn identity(&self) -> IdentityKey {
        self.directory.identity()
    }

    /// The registry whose signatures count: given, or pinned.
    pub fn registry_key(&self) -> Option<IdentityKey> {
        self.directory.registry_key()
    }

    /// Whether the registry's key was taken and pinned since the start: its owner should compare
    /// its fingerprint.
    pub fn is_first_contact(&self) -> bool {
        self.directory.is_first_contact()
    }

    /// How the link to the rendezvous server stands.
    pub fn link(&self) -> Link {
        self.directory.link()
    }

    /// Whether the beacon does not answer where it was last tried: a name with several addresses
    /// may have it elsewhere.
    pub fn misses_beacon(&self) -> bool {
        self.directory.beacon_address().is_some() && !self.directory.is_beacon_up()
    }

    /// The host candidates, as the owner told them; at most 16.
    pub fn host_candidates(&self) -> &[SocketAddr] {
        self.locals.as_slice()
    }

    /// The endpoint that the beacon observes of us.
    pub fn observed(&self) -> Option<SocketAddr> {
        self.directory.observed()
    }

    /// What the NATs in front of us do, as far as the beacon could tell (RFC 5780).
    pub fn nat(&self) -> NatInfo {
        let found = self.discover.found();
        let classical = Classical::new(found.nat, found.is_translated);
        NatInfo {
            nat: found.nat,
            classical: if found.is_blocked { Classical::Blocked } else { classical },
            is_translated: found.is_translated,
            observed: self.observed().or(found.endpoint),
            age: self.discover.measured_at().map(|at| self.now.since(at)),
        }
    }

    /// Whether this identity runs elsewhere.
    pub fn is_fenced(&self) -> bool {
        self.directory.is_fenced()
    }

    /// Trusted agents, in table order.
    pub fn peers(&self) -> impl Iterator<Item = PeerInfo> + '_ {
        self.directory.trust().peers().map(|(index, peer)| {
            let route = self.link_of(index).and_then(|l| l.active_route());
            let active = self.link_of(index).and_then(|l| l.active());
            PeerInfo {
                address: peer.address,
                identity: peer.identity,
                fingerprint: Fingerprint::of_pair(&self.identity(), &peer.identity),
                hostname: peer.hostname.as_ref().map(|(_, name)| name.clone()),
                path: self.path_kind(index),
                endpoint: match route {
                    Some(Route::Direct(Path { remote, .. })) => Some(remote),
                    _ => None,
                },
                rtt: active.and_then(|path| self.transport.srtt(index, path)),
                grants_us: peer.held().is_some(),
                granted: peer.held().map_or(Rights::NONE, |grant| grant.rights),
                permissions: peer.permissions(),
                is_frozen: peer.frozen,
                streams: self.transport.open_streams(index),
            }
        })
    }

    /// What our grant lets this agent do here; `None` if it is not trusted.
    pub fn rights(&self, peer: Address) -> Option<Rights> {
        let trust = self.directory.trust();
        Some(trust.peer(trust.find(peer)?)?.given.rights)
    }

    /// Trust requests that wait for us.
    pub fn trust_requests(&self) -> impl Iterator<Item = TrustRequestInfo> + '_ {
        let us = self.identity();
        self.directory.trust().requests().map(move |request| TrustRequestInfo {
            from: request.from(),
            identity: request.record.identity,
            fingerprint: Fingerprint::of_pair(&us, &request.record.identity),
            justification: request.justification.clone(),
            issued: request.issued(),
        })
    }

    /// Agents that we have asked and that have not answered.
    pub fn trust_outgoing(&self) -> impl Iterator<Item = Address> + '_ {
        self.directory.trust().outgoing().map(|request| request.to)
    }

    /// All streams, in table order.
    pub fn streams(&self) -> impl Iterator<Item = StreamInfo> + '_ {
        self.transport.streams().map(|(id, info)| {
            let peer = self.directory.trust().peer(info.peer);
            let node = peer.map_or(Address::UNSPECIFIED.node, |peer| peer.address.node);
            StreamInfo {
                id,
                peer: SocketAddress {
                    address: Address::new(info.network, node),
                    port: info.remote_port,
                },
                local_port: info.local_port,
                is_ours: info.initiator,
                state: info.state,
                sent: (info.written, info.acknowledged),
                received: (info.received, info.read),
            }
        })
    }

    /// What the path in use to a peer does: window, flight, rate, losses.
    pub fn path_info(&self, peer: Address) -> Option<stream::PathInfo> {
        let index = self.directory.trust().find(peer)?;
        self.transport.path_info(index, self.link_of(index)?.active()?)
    }

    /// Drop counters, of all parts together.
    pub fn drops(&self) -> Drops {
        let mut sum = self.drops.clone();
        for part in [self.directory.drops(), self.tunnel.drops(), self.transport.drops()] {
            sum.add(part);
        }
        sum
    }

    pub(super) fn path_kind(&self, peer: PeerIndex) -> PathKind {
        match self.link_of(peer).and_then(|l| l.active_route()) {
            Some(Route::Direct(_)) => PathKind::Direct,
            Some(Route::Relay(_)) => PathKind::Relayed,
            None => PathKind::None,
        }
    }
}
