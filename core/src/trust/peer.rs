//! One slot of the peer table: a trusted peer, or one that is leaving.

use super::permissions::{Permissions, PortRanges};
use crate::addr::{Address, NetworkId};
#[cfg(doc)]
use crate::crypto::Rights;
use crate::crypto::{Grant, IdentityKey, Record};
use crate::journal::Fact;
use crate::name::Hostname;
use crate::time::Instant;
use crate::wire::control::Endpoint;
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// Most endpoints kept of one peer, those of the first flight (`wire.md` 4.9).
pub(super) const ENDPOINTS_KEPT: usize = crate::limits::FIRST_FLIGHT;

pub(super) const ADDED: u8 = 1;
pub(super) const GRANTED: u8 = 1 << 1;
pub(super) const UPDATED: u8 = 1 << 2;
pub(super) const RESOLVED: u8 = 1 << 3;
pub(super) const REMOVED_BY_US: u8 = 1 << 4;
pub(super) const REMOVED_BY_THEM: u8 = 1 << 5;
pub(super) const REVOKED: u8 = 1 << 6;
/// What the owner is told of; the other flags are for the node.
pub(super) const TOLD: u8 = GRANTED | REVOKED;

/// A trusted agent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Its backbone address, pinned.
    pub address: Address,
    /// Its identity, pinned.
    pub identity: IdentityKey,
    /// Its latest record: tunnel key and serial.
    pub record: Record,
    /// The grant that we gave.
    pub given: Grant,
    /// The grant that it gave us, void or not; see [`Peer::held`].
    pub(super) held: Option<Grant>,
    /// Its name, and in which network.
    pub hostname: Option<(NetworkId, Hostname)>,
    /// The registry once named another identity for this address: its word on this peer is
    /// not believed any more, and the pin stays (`wire.md` 6.2).
    pub frozen: bool,
    /// A `TrustAnswer` to this nonce is due.
    pub(super) answer_due: Option<[u8; 16]>,
    /// A `TrustConfirm` is due.
    pub(super) confirm_due: bool,
    /// Ports that are no service's own and that [`Rights::OTHER`] covers: our own rule.
    #[serde(skip)]
    pub(super) ports: PortRanges,
    /// It also has a grant of ours with other rights, of the same epoch.
    #[serde(skip)]
    pub(super) superseded: bool,
    #[serde(skip)]
    pub(super) resolve_due: bool,
    #[serde(skip)]
    pub(super) endpoints: Vec<Endpoint, ENDPOINTS_KEPT>,
}

impl Peer {
    pub(super) fn new(record: &Record, given: Grant, held: Option<Grant>) -> Self {
        Peer {
            address: record.fields.addr,
            identity: record.identity,
            record: *record,
            given,
            held,
            hostname: None,
            frozen: false,
            answer_due: None,
            confirm_due: false,
            ports: PortRanges::ALL,
            superseded: false,
            resolve_due: false,
            endpoints: Vec::new(),
        }
    }

    /// What it may do here.
    pub fn permissions(&self) -> Permissions {
        Permissions::new(self.given.rights, self.ports)
    }

    /// The grant that it gave us, unless its record has voided it since.
    pub fn held(&self) -> Option<&Grant> {
        self.held.as_ref().filter(|g| g.epoch >= self.record.fields.grant_epoch)
    }

    /// Where the registry last said it is; empty when offline or never asked.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Puts an endpoint in front of the others; of too many the last one goes.
    pub(super) fn put_endpoint(&mut self, endpoint: Endpoint) {
        self.endpoints.retain(|e| e.address != endpoint.address);
        self.endpoints.truncate(ENDPOINTS_KEPT - 1);
        // Cannot fail: there is room for one more.
        let _ = self.endpoints.insert(0, endpoint);
    }

    /// Takes a newer record of the same identity; whether it was newer.
    pub(super) fn renew(&mut self, record: &Record) -> bool {
        let newer = record.identity == self.identity
            && record.fields.addr == self.address
            && record.fields.serial > self.record.fields.serial;
        if newer {
            self.record = *record;
        }
        newer
    }

    /// Takes a grant from it, already checked; whether this is the first valid one.
    pub(super) fn hold(&mut self, grant: Grant) -> bool {
        let first = self.held().is_none();
        self.held = Some(grant);
        first && self.held().is_some()
    }
}

/// A peer that is trusted no more, until the registry has taken the revocation.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Leaving {
    pub(super) address: Address,
    pub(super) grantee: IdentityKey,
    /// First 8 bytes of the grant's hash.
    pub(super) hash: [u8; 8],
    /// The grant's epoch; once our record has a higher one, there is nothing to revoke.
    pub(super) epoch: u32,
    /// It has other grants of this epoch, too: only a higher epoch voids them all.
    #[serde(skip)]
    pub(super) has_more: bool,
    #[serde(skip)]
    pub(super) done: bool,
}

impl Leaving {
    pub(super) fn new(address: Address, grant: &Grant, has_more: bool) -> Self {
        let mut hash = [0; 8];
        hash.copy_from_slice(&grant.hash()[..8]);
        let (grantee, epoch) = (grant.grantee, grant.epoch);
        Leaving { address, grantee, hash, epoch, has_more, done: false }
    }
}

#[expect(clippy::large_enum_variant, reason = "the slot is as large as its largest content")]
pub(super) enum PeerState {
    Empty,
    Trusted(Peer),
    Leaving(Leaving),
}

/// One place of the peer table.
pub struct PeerSlot {
    pub(super) fact: Fact,
    pub(super) edges: u8,
    pub(super) stamp: u32,
    /// No job of this slot before.
    pub(super) hold: Instant,
    pub(super) state: PeerState,
}

impl PeerSlot {
    /// An empty place, for storage that the caller lends.
    pub const fn empty() -> Self {
        PeerSlot {
            fact: Fact::clean(),
            edges: 0,
            stamp: 0,
            hold: Instant::START,
            state: PeerState::Empty,
        }
    }

    pub(super) fn is_free(&self) -> bool {
        matches!(self.state, PeerState::Empty)
    }
}

impl core::fmt::Debug for PeerSlot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(if self.is_free() { "PeerSlot(free)" } else { "PeerSlot" })
    }
}
