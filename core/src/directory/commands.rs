//! What the owner may ask for, one function for each of the node's commands, and what it may
//! look at.

use super::*;
use crate::crypto::task::{Claim, Head, Receipt, Statement, StatementFields, Times};
use crate::name::{Hostname, Justification, Tags};
use crate::trust::Permissions;
use crate::trust::TrustError;
#[cfg(doc)]
use crate::trust::TrustEvent;
use crate::wire::registry::{Request, Visibility};

impl From<TrustError> for DirectoryError {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::BadAddress => DirectoryError::BadAddress,
            TrustError::NotFound => DirectoryError::NotFound,
            TrustError::Full => DirectoryError::Full,
        }
    }
}

impl<'s> Directory<'s> {
    fn submit(&mut self, now: Instant, request: &Request<'_>) -> Result<RequestId, DirectoryError> {
        self.core.tick(now);
        if self.core.fenced {
            return Err(DirectoryError::Fenced);
        }
        let id = self.core.requests.submit(self.core.now, request);
        self.update();
        id.ok_or(DirectoryError::Full)
    }

    /// Joins a network.
    pub fn join(&mut self, now: Instant, network: NetworkId) -> Result<RequestId, DirectoryError> {
        self.submit(now, &Request::Join { network })
    }

    /// Leaves a network.
    pub fn leave(&mut self, now: Instant, network: NetworkId) -> Result<RequestId, DirectoryError> {
        self.submit(now, &Request::Leave { network })
    }

    /// Takes a hostname, by default in the lowest joined non-zero network, else 0.
    pub fn set_hostname(
        &mut self,
        now: Instant,
        hostname: Hostname,
        network: Option<NetworkId>,
    ) -> Result<RequestId, DirectoryError> {
        let network = Some(network.unwrap_or(self.default_network()));
        self.submit(now, &Request::SetHostname { hostname, network })
    }

    /// Gives a hostname back.
    pub fn clear_hostname(
        &mut self,
        now: Instant,
        network: Option<NetworkId>,
    ) -> Result<RequestId, DirectoryError> {
        let network = Some(network.unwrap_or(self.default_network()));
        self.submit(now, &Request::ClearHostname { network })
    }

    /// Whether strangers may find us.
    pub fn set_visibility(
        &mut self,
        now: Instant,
        public: bool,
    ) -> Result<RequestId, DirectoryError> {
        let visibility = if public { Visibility::Public } else { Visibility::Private };
        self.submit(now, &Request::SetVisibility { visibility })
    }

    /// Replaces our tags.
    pub fn set_tags(&mut self, now: Instant, tags: Tags) -> Result<RequestId, DirectoryError> {
        self.submit(now, &Request::SetTags { tags })
    }

    /// Asks for an agent's address, names and tags. The grant of a trusted peer is presented:
    /// of the one with this address, or of the one that we know by this name (`wire.md` 10).
    pub fn resolve(
        &mut self,
        now: Instant,
        target: &Target,
        network: Option<NetworkId>,
    ) -> Result<RequestId, DirectoryError> {
        let network = network.unwrap_or(self.default_network());
        let trust = &self.core.trust;
        let (target, peer) = match target {
            Target::Address(address) => {
                (Target::Address(address.on_backbone()), trust.find(*address))
            }
            // By its address: a private name is not looked up by strangers, and a name that
            // moved meanwhile must not get another agent's grant.
            Target::Hostname(name) => match trust.find_hostname(network, name) {
                Some(peer) => {
                    let address = trust.peer(peer).map(|p| p.address);
                    let target = address.map_or_else(|| target.clone(), Target::Address);
                    (target, Some(peer))
                }
                None => (target.clone(), None),
            },
        };
        let grant = peer.and_then(|p| trust.peer(p)?.held()).map(|g| Bytes(g.encode()));
        self.submit(now, &Request::Resolve { target, network: Some(network), grant })
    }

    /// Asks for public agents with all of these tags; `cursor` is 0, or from the page before.
    pub fn discover(
        &mut self,
        now: Instant,
        tags: Tags,
        network: Option<NetworkId>,
        cursor: u64,
    ) -> Result<RequestId, DirectoryError> {
        let network = Some(network.unwrap_or(self.default_network()));
        self.submit(now, &Request::Discover { tags, network, cursor })
    }

    /// Hands in the receipt of a finished task of ours. It may be repeated: it counts once.
    pub fn submit_receipt(
        &mut self,
        now: Instant,
        receipt: &Receipt,
    ) -> Result<RequestId, DirectoryError> {
        self.submit(now, &Request::Receipt { receipt: &receipt.encode() })
    }

    /// Asks for an agent's reputation; the grant of a trusted peer is presented.
    pub fn reputation(&mut self, now: Instant, of: Address) -> Result<RequestId, DirectoryError> {
        let trust = &self.core.trust;
        let held = trust.find(of.on_backbone()).and_then(|p| trust.peer(p)?.held());
        let grant = held.map(|g| Bytes(g.encode()));
        self.submit(now, &Request::Reputation { address: of.on_backbone(), grant })
    }

    // ---- what we sign of tasks ----

    /// Signs our step of a task (`wire.md` 12.1).
    pub fn sign_statement(&self, fields: StatementFields) -> Result<Statement, SignError> {
        Ok(Statement::sign(&self.core.own.identity, &self.signing_for()?, fields)?)
    }

    /// Signs the worker's half of the receipt of a task that we have ended.
    pub fn sign_claim(&self, head: &Head, times: Times) -> Result<Claim, SignError> {
        Ok(Claim::sign(&self.core.own.identity, &self.signing_for()?, head, times)?)
    }

    /// Signs the receipt of a task that another has ended for us, once the worker's half was
    /// found to be its and of this task.
    pub fn sign_receipt(
        &self,
        head: &Head,
        claim: &Claim,
        times: Times,
    ) -> Result<Receipt, SignError> {
        let registry = self.signing_for()?;
        Ok(Receipt::sign(&self.core.own.identity, &registry, head, claim, times)?)
    }

    fn signing_for(&self) -> Result<IdentityKey, SignError> {
        if self.core.fenced {
            return Err(SignError::Fenced);
        }
        self.core.registry_key().ok_or(SignError::NotRegistered)
    }

    /// The answer to a request, once [`DirectoryEvent::Answered`] told so; `None` before.
    pub fn answer(&self, id: RequestId) -> Option<Result<Answer<'_>, RequestError>> {
        self.core.requests.get(id)
    }

    /// Frees the place of a request, answered or not.
    pub fn forget(&mut self, id: RequestId) {
        self.core.requests.forget(id);
        self.settle();
    }

    // ---- trust ----

    fn with_trust<R>(
        &mut self,
        now: Instant,
        act: impl FnOnce(&mut Trust<'s>, &mut trust::Context<'_>) -> Result<R, TrustError>,
    ) -> Result<R, DirectoryError> {
        self.core.tick(now);
        if self.core.fenced {
            return Err(DirectoryError::Fenced);
        }
        let (trust, mut ctx) = self.core.trust_parts().ok_or(DirectoryError::NotRegistered)?;
        let result = act(trust, &mut ctx);
        self.update();
        result.map_err(DirectoryError::from)
    }

    /// Asks an agent for trust. The request is written down first and sent then;
    /// [`TrustEvent::Granted`] or [`TrustEvent::Refused`] tells the end.
    pub fn request_trust(
        &mut self,
        now: Instant,
        to: Address,
        justification: Justification,
    ) -> Result<(), DirectoryError> {
        self.with_trust(now, |trust, ctx| trust.request(ctx, to, justification))
    }

    /// Grants a pending request, to do here what `permissions` says.
    pub fn approve_trust(
        &mut self,
        now: Instant,
        from: Address,
        permissions: Permissions,
    ) -> Result<(), DirectoryError> {
        self.with_trust(now, |trust, ctx| trust.approve(ctx, from, permissions).map(drop))
    }

    /// Changes what a peer may do here; [`TrustEvent::Updated`] follows if that is not what it
    /// may do already.
    pub fn set_permissions(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        permissions: Permissions,
    ) -> Result<(), DirectoryError> {
        self.with_trust(now, |trust, ctx| trust.set_permissions(ctx, peer, permissions).map(drop))
    }

    /// Refuses a pending request.
    pub fn refuse_trust(&mut self, now: Instant, from: Address) -> Result<(), DirectoryError> {
        self.with_trust(now, |trust, ctx| trust.refuse(ctx, from))
    }

    /// Ends trust in a peer, and withdraws the request to one that has not answered. The
    /// node sends F7 code 2 on [`TrustEvent::Removed`]; channel and grant end here.
    pub fn revoke_trust(&mut self, now: Instant, address: Address) -> Result<(), DirectoryError> {
        match self.core.trust.find(address) {
            Some(peer) => self.remove_peer(now, peer, true),
            None => self.with_trust(now, |trust, ctx| trust.withdraw_request(ctx, address)),
        }
    }

    /// The peer has ended trust in us (F7 code 2): it is trusted no more either.
    pub fn handle_revoked(&mut self, now: Instant, peer: PeerIndex) {
        // A peer that is gone already has nothing left to end.
        let _ = self.remove_peer(now, peer, false);
    }

    fn remove_peer(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        by_us: bool,
    ) -> Result<(), DirectoryError> {
        self.with_trust(now, |trust, ctx| trust.revoke(ctx, peer, by_us))?;
        self.unbind(now, peer);
        Ok(())
    }

    /// The peer showed a newer record (P1, P2 or F8) whose signature was checked.
    pub fn handle_record(&mut self, now: Instant, peer: PeerIndex, record: &Record) {
        let core = &mut self.core;
        core.tick(now);
        core.trust.handle_record(&mut core.journal, peer, record);
        self.update();
    }

    /// Asks the registry where a peer is now; [`TrustEvent::Resolved`] follows, then see
    /// [`crate::trust::Peer::endpoints`].
    pub fn resolve_peer(&mut self, now: Instant, peer: PeerIndex) {
        self.core.tick(now);
        self.core.trust.resolve(peer);
        self.update();
    }

    /// The owner knows where a peer is; [`TrustEvent::Resolved`] follows, as when the registry
    /// tells it.
    pub fn set_peer_endpoint(&mut self, now: Instant, peer: PeerIndex, address: SocketAddr) {
        self.core.tick(now);
        self.core.trust.set_endpoint(peer, address);
        self.update();
    }

    /// Peers, requests and rights.
    pub fn trust(&self) -> &Trust<'s> {
        &self.core.trust
    }

    // ---- what is so ----

    /// Our backbone address, once known.
    pub fn address(&self) -> Option<Address> {
        self.core.own.keys.address
    }

    /// Our record, once we have an address.
    pub fn record(&self) -> Option<&Record> {
        self.core.own.keys.record.as_ref()
    }

    /// Our identity key.
    pub fn identity(&self) -> IdentityKey {
        self.core.own.public
    }

    /// The secret of our record's tunnel key.
    pub fn tunnel_secret(&self) -> &TunnelSecret {
        &self.core.own.keys.current
    }

    /// The one before, kept until the next rotation.
    pub fn previous_tunnel_secret(&self) -> Option<&TunnelSecret> {
        self.core.own.keys.previous.as_ref()
    }

    /// This process start.
    pub fn boot_id(&self) -> BootId {
        self.core.own.boot_id
    }

    /// The registry whose signatures count: given, or pinned.
    pub fn registry_key(&self) -> Option<IdentityKey> {
        self.core.registry_key()
    }

    /// Whether the registry's key was taken and pinned since [`Directory::start`], so that its
    /// owner should compare its fingerprint.
    pub fn is_first_contact(&self) -> bool {
        self.core.first_contact
    }

    /// Networks that we have joined, and our names there, the backbone included if we have a
    /// name on it.
    pub fn memberships(&self) -> &[Membership] {
        &self.core.own.names.memberships
    }

    /// Whether we are a member of a network; of the backbone everybody is.
    pub fn is_member(&self, network: NetworkId) -> bool {
        network == NetworkId::BACKBONE
            || self.memberships().iter().any(|(joined, _)| *joined == network)
    }

    /// The network used by default: the lowest joined non-zero one, else 0.
    pub fn default_network(&self) -> NetworkId {
        self.core.own.default_network()
    }

    /// Our tags, as last set.
    pub fn tags(&self) -> &Tags {
        &self.core.own.tags.tags
    }

    /// Whether strangers may find us, as last set.
    pub fn is_public(&self) -> bool {
        self.core.visibility() == Visibility::Public
    }

    /// How the link to the rendezvous server stands.
    pub fn link(&self) -> LinkState {
        self.core.link_state
    }

    /// The endpoint that the beacon observes of us.
    pub fn observed(&self) -> Option<SocketAddr> {
        self.core.beacon.observed()
    }

    /// The beacon's other addresses, for RFC 5780: other port, other IP, both.
    pub fn alternates(&self) -> &[SocketAddr] {
        self.core.beacon.alternates()
    }

    /// Whether this identity runs elsewhere.
    pub fn is_fenced(&self) -> bool {
        self.core.fenced
    }

    /// What was dropped, and why.
    pub fn drops(&self) -> &Drops {
        &self.core.drops
    }
}
