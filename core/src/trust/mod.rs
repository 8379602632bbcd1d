//! Who may reach which port: trusted peers, requests in both directions, grants, revocation
//! (`wire.md` 6.5).
//!
//! Trust is a pair of grants. An agent **asks** (a signed request in the registry's mailbox of
//! the target, with its own grant inside where it knows the target's identity); the other end
//! **approves** (pins who asked, answers with a grant) or refuses. An answer is believed only
//! while the request's nonce is live, and a confirmation only from an identity that is trusted
//! already: nobody is trusted unasked (attacks W-H1, W-H3). Identity and tunnel key come from
//! the record that the registry attaches, with its Assign over it, never from the message
//! itself (W-H4); the identity is pinned at that moment, and a registry that later names
//! another one only *freezes* the peer.
//!
//! | Table | State | Input | Next |
//! |---|---|---|---|
//! | outgoing | – | `request` | Unresolved |
//! | | Unresolved | public record | Ready, identity pinned, grant made, sealed |
//! | | Unresolved | not found | Ready, no identity, no grant, unsealed |
//! | | Ready | registry took it | Sent |
//! | | any | answer with the live nonce, grant valid | peer Trusted; gone |
//! | | any | answer with the live nonce, refusal | Refused, until the event was taken; gone |
//! | | any | the target asks us | peer Trusted (crossing); gone once we hold a grant |
//! | | any | 7 days | gone |
//! | incoming | – | valid request of a stranger | Waiting (the oldest gives way if full) |
//! | | Waiting | `approve` | peer Trusted, answer due; gone |
//! | | Waiting | `refuse` | Refused, answer due; gone once the registry took it |
//! | peer | Trusted | request of the same identity | present grant is answered at once |
//! | | Trusted | `set_permissions` | new grant and confirmation due, if its rights changed |
//! | | Trusted | `revoke`, or F7 code 2 | Leaving: Revoke due; gone once answered, if rights were changed once the epoch is raised |
//!
//! Everything here is bounded: `Limits::peers` slots for trusted and leaving peers, of which
//! each outgoing request reserves one, `Limits::trust_requests` requests in each direction.
//! Each slot is one durable fact ([`crate::journal`]); nothing is sent that a restart would
//! contradict, because the owner sends requests only while the journal is quiet.

mod mailbox;
mod peer;
mod permissions;
mod request;
mod store;
#[cfg(test)]
mod tests;
mod work;

pub use peer::{Peer, PeerSlot};
pub use permissions::{Permissions, PermissionsError, PortRange, PortRanges};
pub use request::{Incoming, IncomingSlot, Outgoing, OutgoingSlot};
pub(crate) use work::{Job, Outcome, Ticket};

use crate::addr::{Address, NetworkId, Port};
use crate::crypto::{Grant, Identity, IdentityKey, Record, Rights, TunnelSecret};
use crate::journal::Journal;
use crate::limits::TRUST_REQUEST_LIFE;
use crate::name::{Hostname, Justification};
use crate::path::PeerIndex;
use crate::rng::Rng;
use crate::slab::Store;
use crate::stats::{DropReason, Drops};
use crate::time::{Instant, UnixTime};
use crate::wire::control::{Endpoint, EndpointKind};
use core::net::SocketAddr;
use peer::{Leaving, PeerState};
use request::{IncomingState, OutgoingState};

/// What the trust table needs to know of its owner to sign, check and open requests.
pub(crate) struct Context<'c> {
    pub(crate) identity: &'c Identity,
    pub(crate) registry: IdentityKey,
    /// Our backbone address.
    pub(crate) address: Address,
    /// Our tunnel secret, and the one before.
    pub(crate) secrets: (&'c TunnelSecret, Option<&'c TunnelSecret>),
    /// The grant epoch of our record.
    pub(crate) epoch: u32,
    pub(crate) network: NetworkId,
    pub(crate) now: Instant,
    pub(crate) unix: UnixTime,
    pub(crate) rng: &'c mut Rng,
    pub(crate) journal: &'c mut Journal,
    pub(crate) drops: &'c mut Drops,
}

impl Context<'_> {
    fn me(&self) -> IdentityKey {
        self.identity.public()
    }

    fn grant_to(&mut self, grantee: IdentityKey, rights: Rights) -> Grant {
        let nonce = self.rng.bytes();
        Grant::sign(self.identity, &self.registry, self.address, grantee, rights, self.epoch, nonce)
    }
}

/// Why a change of trust was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// No agent can have this address, or it is our own.
    #[error("not another agent's address")]
    BadAddress,
    /// There is no such request or peer.
    #[error("there is no such request or peer")]
    NotFound,
    /// The table of peers or of requests is full.
    #[error("too many peers or requests")]
    Full,
}

/// What changed; edges, one flag per object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrustEvent {
    /// A peer is trusted from now on.
    Added(PeerIndex),
    /// Its record, grants, name or freeze changed.
    Updated(PeerIndex),
    /// It is trusted no more; its number is free for another once all events of it were taken.
    Removed {
        /// Its number so far.
        peer: PeerIndex,
        /// Its address.
        address: Address,
        /// Its identity.
        identity: IdentityKey,
        /// Whether we ended it (else the peer did).
        by_us: bool,
    },
    /// The registry answered a resolution of this peer.
    Resolved(PeerIndex),
    /// Somebody asks for trust.
    Requested(Address),
    /// Trust is mutual: we hold a grant.
    Granted(Address),
    /// A request of ours was refused, or cannot be delivered.
    Refused(Address),
    /// A peer has ended trust in us.
    Revoked(Address),
}

/// The tables; see the module's documentation.
pub struct Trust<'s> {
    peers: Store<'s, PeerSlot>,
    /// Node number per peer slot, 0 without a trusted peer: a search touches 4 bytes a slot.
    nodes: Store<'s, u32>,
    outgoing: Store<'s, OutgoingSlot>,
    incoming: Store<'s, IncomingSlot>,
    peers_used: usize,
    outgoing_used: usize,
    /// Order of arrival of the next incoming request.
    arrivals: u32,
    /// Stamp of the next slot that is filled, so that an answer to an earlier one is known.
    stamps: u32,
    /// Where the next search for a name begins.
    names_from: usize,
    /// Flags set over all slots that are for the node.
    changes: u32,
    /// Flags set over all slots that are for the owner.
    edges: u32,
    /// When there may be a job again.
    due: Instant,
}

impl<'s> Trust<'s> {
    /// Empty tables. `nodes` is as long as `peers`.
    pub fn new(
        mut peers: Store<'s, PeerSlot>,
        mut nodes: Store<'s, u32>,
        mut outgoing: Store<'s, OutgoingSlot>,
        mut incoming: Store<'s, IncomingSlot>,
    ) -> Self {
        assert!(nodes.len() >= peers.capacity(), "one node number per peer slot");
        peers.iter_mut().for_each(|slot| *slot = PeerSlot::empty());
        outgoing.iter_mut().for_each(|slot| *slot = OutgoingSlot::empty());
        incoming.iter_mut().for_each(|slot| *slot = IncomingSlot::empty());
        nodes.fill(0);
        Trust {
            peers,
            nodes,
            outgoing,
            incoming,
            peers_used: 0,
            outgoing_used: 0,
            arrivals: 0,
            stamps: 0,
            names_from: 0,
            changes: 0,
            edges: 0,
            due: Instant::NEVER,
        }
    }

    // ---- questions ----

    /// A trusted peer.
    pub fn peer(&self, peer: PeerIndex) -> Option<&Peer> {
        match &self.peers.get(peer.index())?.state {
            PeerState::Trusted(peer) => Some(peer),
            _ => None,
        }
    }

    /// The trusted peer of an address of any network. Compares one number per slot.
    pub fn find(&self, address: Address) -> Option<PeerIndex> {
        let node = address.node.0;
        if node == 0 {
            return None;
        }
        self.nodes.iter().position(|&n| n == node).map(|i| PeerIndex(i as u32))
    }

    /// The trusted peer of a name that the registry told us.
    pub fn find_hostname(&self, network: NetworkId, name: &Hostname) -> Option<PeerIndex> {
        self.peers()
            .find(|(_, p)| p.hostname.as_ref().is_some_and(|(n, h)| *n == network && h == name))
            .map(|(i, _)| i)
    }

    /// All trusted peers, in table order.
    pub fn peers(&self) -> impl Iterator<Item = (PeerIndex, &Peer)> {
        self.peers.iter().enumerate().filter_map(|(i, slot)| match &slot.state {
            PeerState::Trusted(peer) => Some((PeerIndex(i as u32), peer)),
            _ => None,
        })
    }

    /// Whether this peer may reach a port of ours: its grant covers it, and so do our own
    /// ranges of ports (`wire.md` 12).
    pub fn permits(&self, peer: PeerIndex, port: Port) -> bool {
        self.peer(peer).is_some_and(|p| p.permissions().allows(port))
    }

    /// Trust requests that wait for us.
    pub fn requests(&self) -> impl Iterator<Item = &Incoming> {
        self.incoming.iter().filter_map(|slot| match &slot.state {
            IncomingState::Waiting(request) => Some(request),
            _ => None,
        })
    }

    /// Requests of ours that nobody has answered.
    pub fn outgoing(&self) -> impl Iterator<Item = &Outgoing> {
        self.outgoing.iter().filter_map(|slot| slot.live())
    }

    // ---- commands ----

    /// Asks `to` for trust; asking again sends the request again, under the same nonce.
    pub(crate) fn request(
        &mut self,
        ctx: &mut Context<'_>,
        to: Address,
        justification: Justification,
    ) -> Result<(), TrustError> {
        let to = to.on_backbone();
        if !to.node.is_agent() || to == ctx.address {
            return Err(TrustError::BadAddress);
        }
        self.expire(ctx);
        if let Some(i) = self.find_outgoing(to) {
            let slot = &mut self.outgoing[i];
            if let Some(out) = slot.live_mut() {
                out.justification = justification;
                out.state = OutgoingState::Unresolved;
            }
            slot.hold = Instant::START;
            slot.fact.touch(ctx.journal);
            self.look();
            return Ok(());
        }
        // Each request reserves the slot that its answer will fill.
        let reserved = self.outgoing_used + usize::from(self.find(to).is_none());
        if self.peers_used + reserved > self.peers.capacity() {
            return Err(TrustError::Full);
        }
        let free = self.outgoing.iter().position(OutgoingSlot::is_free).ok_or(TrustError::Full)?;
        let nonce = ctx.rng.bytes();
        let issued = ctx.unix.as_secs();
        let pinned = self.find(to).and_then(|p| self.peer(p));
        let (identity, grant) = (pinned.map(|p| p.identity), pinned.map(|p| p.given));
        self.stamps = self.stamps.wrapping_add(1);
        let out = Outgoing {
            to,
            nonce,
            issued,
            rights: Rights::ALL,
            justification,
            identity,
            grant,
            state: OutgoingState::Unresolved,
            record: None,
        };
        self.outgoing[free].fill(out, self.stamps, ctx.journal);
        self.outgoing_used += 1;
        // Crossing: who asked us before is asked by us now; both want it.
        if self.find(to).is_none() && self.find_incoming(to).is_some() {
            self.approve(ctx, to, Permissions::ALL)?;
        }
        self.look();
        Ok(())
    }

    /// Grants a pending request: the peer is pinned and trusted, the answer is due. It may do
    /// here what `permissions` says and it has asked for.
    pub(crate) fn approve(
        &mut self,
        ctx: &mut Context<'_>,
        from: Address,
        permissions: Permissions,
    ) -> Result<PeerIndex, TrustError> {
        let from = from.on_backbone();
        let i = self.find_incoming(from).ok_or(TrustError::NotFound)?;
        let IncomingState::Waiting(request) = &self.incoming[i].state else {
            return Err(TrustError::NotFound);
        };
        let (record, nonce, rights, held) =
            (request.record, request.nonce, request.rights, request.grant);
        let peer = self.accept(ctx, &record, nonce, permissions.within(rights), held)?;
        self.drop_incoming(i, ctx.journal);
        Ok(peer)
    }

    /// Refuses a pending request; the answer is due.
    pub(crate) fn refuse(
        &mut self,
        ctx: &mut Context<'_>,
        from: Address,
    ) -> Result<(), TrustError> {
        let from = from.on_backbone();
        let i = self.find_incoming(from).ok_or(TrustError::NotFound)?;
        self.clear_edge(|t| &mut t.incoming[i].requested);
        let slot = &mut self.incoming[i];
        let IncomingState::Waiting(request) = &slot.state else {
            return Err(TrustError::NotFound);
        };
        slot.state = IncomingState::Refused { to: request.from(), nonce: request.nonce };
        slot.hold = Instant::START;
        slot.fact.touch(ctx.journal);
        self.look();
        Ok(())
    }

    /// Ends trust. The node itself sends F7 code 2 and forgets the peer's keys; here the entry
    /// goes at once, and `Revoke` is repeated until the registry answers it.
    pub(crate) fn revoke(
        &mut self,
        ctx: &mut Context<'_>,
        peer: PeerIndex,
        by_us: bool,
    ) -> Result<(), TrustError> {
        let Some(entry) = self.peer(peer) else {
            return Err(TrustError::NotFound);
        };
        let leaving = Leaving::new(entry.address, &entry.given, entry.superseded);
        // A live nonce would let a late answer undo the revocation.
        if let Some(i) = self.find_outgoing(entry.address) {
            self.drop_outgoing(i, ctx.journal);
        }
        self.lower(peer, u8::MAX);
        let slot = &mut self.peers[peer.index()];
        slot.state = PeerState::Leaving(leaving);
        slot.hold = Instant::START;
        self.stamps = self.stamps.wrapping_add(1);
        slot.stamp = self.stamps;
        slot.fact.touch(ctx.journal);
        self.nodes[peer.index()] = 0;
        if by_us {
            self.raise(peer, peer::REMOVED_BY_US);
        } else {
            self.raise(peer, peer::REMOVED_BY_THEM);
            self.raise(peer, peer::REVOKED);
        }
        self.look();
        Ok(())
    }

    /// Takes back a request that nobody has answered.
    pub(crate) fn withdraw_request(
        &mut self,
        ctx: &mut Context<'_>,
        to: Address,
    ) -> Result<(), TrustError> {
        let i = self.find_outgoing(to.on_backbone()).ok_or(TrustError::NotFound)?;
        self.end_outgoing(ctx, i, false);
        Ok(())
    }

    /// The owner knows where a peer is: tried first, until the registry's word replaces it.
    pub(crate) fn set_endpoint(&mut self, peer: PeerIndex, address: SocketAddr) {
        if let Some(slot) = self.peers.get_mut(peer.index())
            && let PeerState::Trusted(entry) = &mut slot.state
        {
            entry.put_endpoint(Endpoint { kind: EndpointKind::Mapped, address });
            self.raise(peer, peer::RESOLVED);
        }
    }

    /// Wants the registry's present word on a peer.
    pub(crate) fn resolve(&mut self, peer: PeerIndex) {
        if let Some(slot) = self.peers.get_mut(peer.index())
            && let PeerState::Trusted(entry) = &mut slot.state
        {
            entry.resolve_due = true;
            slot.hold = Instant::START;
            self.look();
        }
    }

    /// Wants the registry's present word on up to so many peers that have granted us access, first
    /// on those whose name is not known; whether there are any. Each time it goes on behind the
    /// last one, so that all have their turn.
    pub(crate) fn resolve_names(&mut self, most: usize) -> bool {
        let (len, from) = (self.peers.len(), self.names_from);
        let mut asked = 0;
        for named in [false, true] {
            for i in (0..len).map(|n| (from + n) % len) {
                let PeerState::Trusted(peer) = &mut self.peers[i].state else { continue };
                let wanted = peer.held().is_some() && !peer.frozen;
                if wanted && peer.hostname.is_some() == named && asked < most {
                    peer.resolve_due = true;
                    asked += 1;
                    self.names_from = (i + 1) % len;
                }
            }
        }
        self.look();
        asked > 0
    }

    /// A record that the peer itself showed (P1, P2 or F8), its signature already checked.
    pub(crate) fn handle_record(
        &mut self,
        journal: &mut Journal,
        peer: PeerIndex,
        record: &Record,
    ) {
        let changed = match self.peers.get_mut(peer.index()) {
            Some(PeerSlot { state: PeerState::Trusted(p), .. }) => p.renew(record),
            _ => false,
        };
        if changed {
            self.peers[peer.index()].fact.touch(journal);
            self.raise(peer, peer::UPDATED);
        }
    }

    // ---- tables ----

    fn look(&mut self) {
        self.due = Instant::START;
    }

    fn raise(&mut self, peer: PeerIndex, flag: u8) {
        let edges = &mut self.peers[peer.index()].edges;
        if *edges & flag == 0 {
            *edges |= flag;
            *if flag & peer::TOLD == 0 { &mut self.changes } else { &mut self.edges } += 1;
        }
    }

    fn lower(&mut self, peer: PeerIndex, flags: u8) {
        let edges = &mut self.peers[peer.index()].edges;
        let lowered = *edges & flags;
        *edges &= !flags;
        self.changes -= (lowered & !peer::TOLD).count_ones();
        self.edges -= (lowered & peer::TOLD).count_ones();
    }

    fn clear_edge(&mut self, flag: impl FnOnce(&mut Self) -> &mut bool) {
        if core::mem::take(flag(self)) {
            self.edges -= 1;
        }
    }

    fn find_outgoing(&self, to: Address) -> Option<usize> {
        self.outgoing.iter().position(|slot| slot.live().is_some_and(|out| out.to == to))
    }

    fn find_incoming(&self, from: Address) -> Option<usize> {
        self.incoming
            .iter()
            .position(|slot| matches!(&slot.state, IncomingState::Waiting(r) if r.from() == from))
    }

    fn drop_outgoing(&mut self, i: usize, journal: &mut Journal) {
        let slot = &mut self.outgoing[i];
        if slot.live().is_some() {
            self.outgoing_used -= 1;
        }
        slot.clear(journal);
    }

    fn drop_incoming(&mut self, i: usize, journal: &mut Journal) {
        self.clear_edge(|t| &mut t.incoming[i].requested);
        self.incoming[i].clear(journal);
    }

    /// A free peer slot; those reserved by outgoing requests are taken only with `reserved`.
    fn free_peer(&mut self, reserved: bool) -> Option<usize> {
        let kept = if reserved { 0 } else { self.outgoing_used };
        if self.peers_used + kept >= self.peers.capacity() {
            return None;
        }
        let free = self.peers.iter().position(PeerSlot::is_free).unwrap_or(self.peers.len());
        self.peers.reach(free, PeerSlot::empty).then_some(free)
    }

    /// Pins who sent `record` and answers `nonce` with a grant.
    fn accept(
        &mut self,
        ctx: &mut Context<'_>,
        record: &Record,
        nonce: [u8; 16],
        permissions: Permissions,
        held: Option<Grant>,
    ) -> Result<PeerIndex, TrustError> {
        let address = record.fields.addr;
        if let Some(known) = self.find(address) {
            return self.accept_again(ctx, known, record, nonce, held);
        }
        let out = self.find_outgoing(address);
        let ours = out.and_then(|i| self.outgoing[i].live()).and_then(|o| o.grant);
        let ours = ours.filter(|g| g.grantee == record.identity);
        let given = match ours.filter(|g| g.rights == permissions.rights()) {
            Some(given) => given,
            None => ctx.grant_to(record.identity, permissions.rights()),
        };
        let mut peer = Peer::new(record, given, held);
        peer.answer_due = Some(nonce);
        peer.ports = permissions.ports();
        // Our own request may have brought it another one.
        peer.superseded = ours.is_some_and(|sent| sent != given);
        let index = self.insert_peer(ctx, peer, out.is_some())?;
        // Our own request has its purpose once we hold a grant; without one it stays live.
        if let Some(i) = out
            && held.is_some()
        {
            self.drop_outgoing(i, ctx.journal);
        }
        Ok(index)
    }

    /// The peer is trusted already: it gets its present grant, and what it grants is taken.
    fn accept_again(
        &mut self,
        ctx: &mut Context<'_>,
        index: PeerIndex,
        record: &Record,
        nonce: [u8; 16],
        held: Option<Grant>,
    ) -> Result<PeerIndex, TrustError> {
        let slot = &mut self.peers[index.index()];
        let PeerState::Trusted(peer) = &mut slot.state else {
            return Err(TrustError::NotFound);
        };
        if peer.identity != record.identity {
            return Err(TrustError::NotFound);
        }
        peer.answer_due = Some(nonce);
        slot.hold = Instant::START;
        let (address, first) = (peer.address, held.is_some_and(|g| peer.hold(g)));
        peer.resolve_due |= first;
        slot.fact.touch(ctx.journal);
        if first {
            self.raise(index, peer::GRANTED);
            if let Some(i) = self.find_outgoing(address) {
                self.drop_outgoing(i, ctx.journal);
            }
        }
        self.look();
        Ok(index)
    }

    /// After loading: a request that was approved, whose end was not written any more, is over.
    pub(crate) fn reconcile(&mut self, journal: &mut Journal) {
        for i in 0..self.incoming.len() {
            let approved = match &self.incoming[i].state {
                IncomingState::Waiting(r) => self
                    .find(r.from())
                    .and_then(|p| self.peer(p))
                    .is_some_and(|p| p.identity == r.identity()),
                _ => false,
            };
            if approved {
                self.drop_incoming(i, journal);
            }
        }
    }

    fn insert_peer(
        &mut self,
        ctx: &mut Context<'_>,
        mut peer: Peer,
        reserved: bool,
    ) -> Result<PeerIndex, TrustError> {
        let i = self.free_peer(reserved).ok_or(TrustError::Full)?;
        // Its name and endpoints are of use at once.
        peer.resolve_due = peer.held().is_some();
        let granted = peer.held().is_some();
        self.stamps = self.stamps.wrapping_add(1);
        self.nodes[i] = peer.address.node.0;
        self.peers_used += 1;
        let slot = &mut self.peers[i];
        slot.stamp = self.stamps;
        slot.hold = Instant::START;
        slot.state = PeerState::Trusted(peer);
        slot.fact.touch(ctx.journal);
        let index = PeerIndex(i as u32);
        self.raise(index, peer::ADDED);
        if granted {
            self.raise(index, peer::GRANTED);
        }
        self.look();
        Ok(index)
    }

    /// Withdraws a grant that was sent with a request which came to nothing.
    fn withdraw(&mut self, ctx: &mut Context<'_>, address: Address, grant: &Grant) {
        let Some(i) = self.free_peer(true) else {
            return;
        };
        self.peers_used += 1;
        self.stamps = self.stamps.wrapping_add(1);
        let slot = &mut self.peers[i];
        slot.stamp = self.stamps;
        slot.hold = Instant::START;
        slot.state = PeerState::Leaving(Leaving::new(address, grant, false));
        slot.fact.touch(ctx.journal);
        self.look();
    }

    /// Ends an outgoing request without success.
    fn end_outgoing(&mut self, ctx: &mut Context<'_>, i: usize, tell: bool) {
        let Some(out) = self.outgoing[i].live() else {
            return;
        };
        let (to, grant, identity) = (out.to, out.grant, out.identity);
        self.drop_outgoing(i, ctx.journal);
        // A grant that a trusted peer has anyway is not withdrawn.
        let trusted = self.find(to).and_then(|p| self.peer(p)).map(|p| p.identity);
        if let Some(grant) = grant
            && (trusted.is_none() || trusted != identity)
        {
            self.withdraw(ctx, to, &grant);
        }
        let holds = self.find(to).and_then(|p| self.peer(p)?.held()).is_some();
        if tell && !holds {
            self.outgoing[i].refused = Some(to);
            self.edges += 1;
        }
    }

    /// Requests older than the registry keeps them are over.
    pub(crate) fn expire(&mut self, ctx: &mut Context<'_>) {
        for i in 0..self.outgoing.len() {
            let old = self.outgoing[i].live().is_some_and(|out| {
                ctx.unix.as_secs() > out.issued.saturating_add(TRUST_REQUEST_LIFE.as_secs())
            });
            if old {
                self.end_outgoing(ctx, i, true);
            }
        }
    }

    /// The grant epoch was raised: everybody gets a new grant, and those who granted us hear
    /// of it at once. Grants of the old epoch need no `Revoke` any more.
    pub(crate) fn reissue(&mut self, ctx: &mut Context<'_>) {
        // An answer to a job that carried a grant of the epoch before must not end the new one.
        self.stamps = self.stamps.wrapping_add(1);
        for slot in self.peers.iter_mut() {
            if let PeerState::Trusted(peer) = &mut slot.state {
                peer.given = ctx.grant_to(peer.identity, peer.given.rights);
                peer.superseded = false;
                peer.confirm_due = peer.held.is_some();
                slot.stamp = self.stamps;
                slot.hold = Instant::START;
                slot.fact.touch(ctx.journal);
            }
        }
        for slot in self.outgoing.iter_mut() {
            if let Some(out) = slot.live_mut() {
                out.grant = None;
                slot.fact.touch(ctx.journal);
            }
        }
        self.look();
    }

    // ---- events ----

    /// Whether there is a change or an event to take.
    pub fn has_event(&self) -> bool {
        self.changes + self.edges > 0
    }

    /// The next change of the table itself, for the node to follow.
    pub(crate) fn poll_change(&mut self) -> Option<TrustEvent> {
        if self.changes == 0 {
            return None;
        }
        self.next_of_peers(!peer::TOLD)
    }

    /// The next event, for the owner.
    pub(crate) fn poll_event(&mut self) -> Option<TrustEvent> {
        if self.edges == 0 {
            return None;
        }
        if let Some(event) = self.next_of_peers(peer::TOLD) {
            return Some(event);
        }
        for slot in self.incoming.iter_mut() {
            if let IncomingState::Waiting(request) = &slot.state
                && core::mem::take(&mut slot.requested)
            {
                self.edges -= 1;
                return Some(TrustEvent::Requested(request.from()));
            }
        }
        for slot in self.outgoing.iter_mut() {
            if let Some(to) = slot.refused.take() {
                self.edges -= 1;
                return Some(TrustEvent::Refused(to));
            }
        }
        unreachable!("every counted edge is a flag in a table")
    }

    /// The first peer's first event among `flags`.
    fn next_of_peers(&mut self, flags: u8) -> Option<TrustEvent> {
        let i = self.peers.iter().position(|slot| slot.edges & flags != 0)?;
        let index = PeerIndex(i as u32);
        let flag = 1 << (self.peers[i].edges & flags).trailing_zeros();
        self.lower(index, flag);
        Some(match &self.peers[i].state {
            PeerState::Trusted(peer) => match flag {
                peer::ADDED => TrustEvent::Added(index),
                peer::GRANTED => TrustEvent::Granted(peer.address),
                peer::RESOLVED => TrustEvent::Resolved(index),
                _ => TrustEvent::Updated(index),
            },
            PeerState::Leaving(leaving) => {
                let (address, identity) = (leaving.address, leaving.grantee);
                if leaving.done && self.peers[i].edges == 0 {
                    self.free_leaving(i);
                }
                match flag {
                    peer::REVOKED => TrustEvent::Revoked(address),
                    _ => {
                        let by_us = flag == peer::REMOVED_BY_US;
                        TrustEvent::Removed { peer: index, address, identity, by_us }
                    }
                }
            }
            PeerState::Empty => unreachable!("an empty slot has no edges"),
        })
    }

    fn free_leaving(&mut self, i: usize) {
        self.peers[i].state = PeerState::Empty;
        self.peers_used -= 1;
    }
}

impl core::fmt::Debug for Trust<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Trust({} peers, {} asked)", self.peers_used, self.outgoing_used)
    }
}

/// Counts what was not believed.
fn drop_item(ctx: &mut Context<'_>, reason: DropReason) {
    ctx.drops.count(reason);
}
