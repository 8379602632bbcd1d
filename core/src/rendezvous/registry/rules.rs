//! The rules of records, names, networks, visibility, resolving and revoking (`wire.md` 10).
//!
//! Each rule first decides and then changes: a refused operation leaves no trace.

use super::rows::{Published, Row, RowKey};
use super::{Caller, Context, Directory, Effect, Node};
use crate::addr::{Address, NetworkId, NodeId};
use crate::crypto::record::flag;
use crate::crypto::request::verify_reserve;
use crate::crypto::{Assign, Grant, IdentityKey, Record};
use crate::name::{Hostname, Tags};
use crate::wire::registry::{
    ErrorCode, NETWORKS_MAX, Refusal, Registration, Resolved, Target, Visibility,
};
use crate::wire::{AssignBytes, Bytes, GrantBytes, RecordBytes};

/// Most withdrawn grants of one grantor; then it raises its grant epoch (`wire.md` 6.5).
pub(crate) const REVOCATIONS_MAX: usize = 256;

/// What `Register` came to.
pub(crate) struct Registered {
    pub(crate) record: RecordBytes,
    pub(crate) assign: AssignBytes,
    /// Whether the record sent is the one that counts.
    pub(crate) current: bool,
}

impl Directory {
    /// `Reserve`: the address of an identity, the same for the same identity always.
    pub(crate) fn reserve(
        &mut self,
        ctx: &Context<'_>,
        identity: IdentityKey,
        proof: &[u8; 64],
        channel_hash: &[u8; 32],
    ) -> Result<Caller, Refusal> {
        verify_reserve(&identity, channel_hash, proof).map_err(|_| ErrorCode::BadSignature)?;
        if let Some(node) = self.by_identity(&identity) {
            return Ok(Caller { node, identity });
        }
        let node = self.next_node;
        if self.nodes.len() >= ctx.limits.nodes || !node.is_agent() {
            return Err(ErrorCode::Full.into());
        }
        self.next_node = NodeId(node.0 + 1);
        self.put(Row::Node {
            node,
            identity: Bytes(identity.0),
            reserved: ctx.unix.as_secs(),
            published: None,
        });
        self.put_meta();
        Ok(Caller { node, identity })
    }

    /// `Register`: publishes the record and makes this boot id the current one.
    pub(crate) fn register(
        &mut self,
        ctx: &Context<'_>,
        caller: Caller,
        request: &Registration,
    ) -> Result<Registered, Refusal> {
        let node = self.nodes.get(&caller.node).ok_or(ErrorCode::NotRegistered)?;
        let stored = node.stored.as_deref();
        let known = stored.is_some_and(|stored| stored.record == request.record);
        let record = Record::decode(&request.record.0).map_err(|_| ErrorCode::Malformed)?;
        if !known {
            check_record(ctx, caller, &record)?;
        }
        let fence = match stored.map(|stored| stored.boot_id) {
            Some(boot) if boot != request.boot_id && !request.earlier.contains(&boot) => {
                if !request.takeover {
                    return Err(ErrorCode::Fenced.into());
                }
                Some(Effect::Fence(caller.node, boot))
            }
            _ => None,
        };
        if let (Some(stored), Some(current)) = (stored, node.record())
            && !known
            && record.fields.serial <= current.fields.serial
        {
            let (record, assign) = (stored.record, stored.assign);
            return Ok(Registered { record, assign, current: false });
        }
        let network = self.default_network(caller.node);
        if let Some(hostname) = &request.hostname {
            self.check_name(caller.node, network, hostname)?;
        }
        if let Some(tags) = &request.tags {
            check_tags(tags)?;
        }

        let assign = match stored {
            Some(stored) if known => stored.assign,
            _ => Bytes(Assign::sign(ctx.registry, &record, 0, ctx.unix.as_secs()).encode()),
        };
        let raised =
            node.record().is_some_and(|old| record.fields.grant_epoch > old.fields.grant_epoch);
        let before = stored.map(super::Stored::to_published);
        let published = Published {
            record: request.record,
            assign,
            boot_id: request.boot_id,
            visibility: request
                .visibility
                .or(before.as_ref().map(|b| b.visibility))
                .unwrap_or_default(),
            tags: request
                .tags
                .clone()
                .or_else(|| before.as_ref().map(|b| b.tags.clone()))
                .unwrap_or_default(),
        };
        if before.as_ref() != Some(&published) {
            self.publish(caller.node, published);
        }
        if let Some(hostname) = &request.hostname {
            self.give_name(caller.node, network, hostname);
        }
        if raised {
            self.forget_revocations(caller.node);
        }
        self.effects.extend(fence);
        Ok(Registered { record: request.record, assign, current: true })
    }

    fn publish(&mut self, node: NodeId, published: Published) {
        let entry = &self.nodes[&node];
        let (identity, reserved) = (Bytes(entry.identity.0), entry.reserved);
        self.put(Row::Node { node, identity, reserved, published: Some(published) });
    }

    /// Old grants are void below the new epoch, so what was withdrawn of them is moot.
    fn forget_revocations(&mut self, node: NodeId) {
        let mine =
            (node, Bytes([0; 32]), Bytes([0; 8]))..=(node, Bytes([255; 32]), Bytes([255; 8]));
        let keys: alloc::vec::Vec<_> = self.revocations.range(mine).map(|(key, _)| *key).collect();
        for (grantor, grantee, hash) in keys {
            self.remove(&RowKey::Revocation(grantor, grantee, hash));
        }
    }

    /// `Join`: any network but the backbone is open to all.
    pub(crate) fn join(&mut self, node: NodeId, network: NetworkId) -> Result<Address, Refusal> {
        if network == NetworkId::BACKBONE {
            return Err(ErrorCode::Malformed.into());
        }
        if !self.is_member(node, network) {
            if self.networks(node).count() >= NETWORKS_MAX {
                return Err(ErrorCode::Full.into());
            }
            self.put(Row::Membership { node, network });
        }
        Ok(Address::new(network, node))
    }

    /// `Leave`: also gives the name there back.
    pub(crate) fn leave(&mut self, node: NodeId, network: NetworkId) -> Result<Address, Refusal> {
        if network == NetworkId::BACKBONE {
            return Err(ErrorCode::Malformed.into());
        }
        if self.is_member(node, network) {
            self.take_name(node, network);
            self.remove(&RowKey::Membership(node, network));
        }
        Ok(Address::backbone(node))
    }

    /// `SetHostname`.
    pub(crate) fn set_hostname(
        &mut self,
        node: NodeId,
        hostname: &Hostname,
        network: Option<NetworkId>,
    ) -> Result<Address, Refusal> {
        let network = self.own_network(node, network)?;
        self.check_name(node, network, hostname)?;
        self.give_name(node, network, hostname);
        Ok(Address::new(network, node))
    }

    /// `ClearHostname`.
    pub(crate) fn clear_hostname(
        &mut self,
        node: NodeId,
        network: Option<NetworkId>,
    ) -> Result<Address, Refusal> {
        let network = self.own_network(node, network)?;
        self.take_name(node, network);
        Ok(Address::new(network, node))
    }

    fn own_network(&self, node: NodeId, network: Option<NetworkId>) -> Result<NetworkId, Refusal> {
        let network = network.unwrap_or_else(|| self.default_network(node));
        if self.is_member(node, network) { Ok(network) } else { Err(ErrorCode::NotFound.into()) }
    }

    fn name_owner(&self, network: NetworkId, hostname: &Hostname) -> Option<NodeId> {
        self.names.get(&(network, hostname.as_str().into())).copied()
    }

    fn check_name(
        &self,
        node: NodeId,
        network: NetworkId,
        hostname: &Hostname,
    ) -> Result<(), Refusal> {
        match self.name_owner(network, hostname) {
            Some(owner) if owner != node => Err(ErrorCode::Conflict.into()),
            _ => Ok(()),
        }
    }

    fn give_name(&mut self, node: NodeId, network: NetworkId, hostname: &Hostname) {
        if self.name_owner(network, hostname) != Some(node) {
            self.take_name(node, network);
            self.put(Row::Name { network, hostname: hostname.clone(), node });
        }
    }

    fn take_name(&mut self, node: NodeId, network: NetworkId) {
        if let Some(name) = self.hostname(node, network) {
            self.remove(&RowKey::Name(network, name));
        }
    }

    pub(super) fn hostname(&self, node: NodeId, network: NetworkId) -> Option<Hostname> {
        self.names_of.get(&(node, network))?.parse().ok()
    }

    /// `SetVisibility`.
    pub(crate) fn set_visibility(
        &mut self,
        node: NodeId,
        visibility: Visibility,
    ) -> Result<(), Refusal> {
        self.change(node, |published| published.visibility = visibility)
    }

    /// `SetTags`.
    pub(crate) fn set_tags(&mut self, node: NodeId, tags: &Tags) -> Result<(), Refusal> {
        check_tags(tags)?;
        self.change(node, |published| published.tags = tags.clone())
    }

    fn change(&mut self, node: NodeId, edit: impl FnOnce(&mut Published)) -> Result<(), Refusal> {
        let stored =
            self.nodes.get(&node).and_then(Node::stored).ok_or(ErrorCode::NotRegistered)?;
        let before = stored.1.to_published();
        let mut after = before.clone();
        edit(&mut after);
        if after != before {
            self.publish(node, after);
        }
        Ok(())
    }

    /// `Resolve`, without the reach: whom, whether the asker may know where it is, and what
    /// it may know anyway. Nobody, private and not permitted are one answer.
    pub(crate) fn resolve(
        &self,
        ctx: &Context<'_>,
        caller: Caller,
        target: &Target,
        network: Option<NetworkId>,
        grant: Option<&GrantBytes>,
    ) -> Result<(NodeId, bool, Resolved), Refusal> {
        let grantor = self.shown_grantor(ctx, caller, grant)?;
        let (node, network) = match target {
            Target::Address(address) if self.is_member(address.node, address.network) => {
                (address.node, network.unwrap_or(address.network))
            }
            Target::Address(_) => return Err(ErrorCode::NotFound.into()),
            Target::Hostname(hostname) => {
                let network = network.unwrap_or_else(|| self.default_network(caller.node));
                let node = self.name_owner(network, hostname).ok_or(ErrorCode::NotFound)?;
                (node, network)
            }
        };
        let (_, stored, permitted) = self.visible(caller, node, grantor)?;
        let network = if self.is_member(node, network) { network } else { NetworkId::BACKBONE };
        let resolved = Resolved {
            address: Address::new(network, node),
            record: stored.record,
            assign: stored.assign,
            hostname: self.hostname(node, network),
            tags: stored.tags(),
            networks: self.networks(node).collect(),
            reach: None,
        };
        Ok((node, permitted, resolved))
    }

    /// Whose grant to the caller was shown, if it counts.
    pub(super) fn shown_grantor(
        &self,
        ctx: &Context<'_>,
        caller: Caller,
        grant: Option<&GrantBytes>,
    ) -> Result<Option<NodeId>, Refusal> {
        let Some(bytes) = grant else { return Ok(None) };
        let grant = Grant::decode(&bytes.0).map_err(|_| ErrorCode::Malformed)?;
        Ok(self.grantor_of(ctx, &caller.identity, &grant))
    }

    /// What `node` has published, and whether the caller may know where it is: it is its own,
    /// or it has shown its grant.
    pub(super) fn visible(
        &self,
        caller: Caller,
        node: NodeId,
        grantor: Option<NodeId>,
    ) -> Result<(&Node, &super::Stored, bool), Refusal> {
        let (entry, stored) =
            self.nodes.get(&node).and_then(Node::stored).ok_or(ErrorCode::NotFound)?;
        let permitted = grantor == Some(node) || caller.node == node;
        if !permitted && stored.visibility == Visibility::Private {
            return Err(ErrorCode::NotFound.into());
        }
        Ok((entry, stored, permitted))
    }

    /// `Revoke`: the grant named by `hash` counts no more. Gives the grantee's node, whose
    /// channel is to be unbound.
    pub(crate) fn revoke(
        &mut self,
        ctx: &Context<'_>,
        node: NodeId,
        grantee: Bytes<32>,
        hash: Bytes<8>,
    ) -> Result<Option<NodeId>, Refusal> {
        if !self.revocations.contains_key(&(node, grantee, hash)) {
            let mine =
                (node, Bytes([0; 32]), Bytes([0; 8]))..=(node, Bytes([255; 32]), Bytes([255; 8]));
            if self.revocations.range(mine).count() >= REVOCATIONS_MAX {
                return Err(ErrorCode::Full.into());
            }
            let at = ctx.unix.as_secs();
            self.put(Row::Revocation { grantor: node, grantee, hash, at });
        }
        Ok(self.by_identity(&IdentityKey(grantee.0)))
    }

    /// Whether a record shown in a handshake is of the node it names, by identity
    /// (`wire.md` 6.1, 7); its signature was or will be checked by the caller.
    pub(crate) fn owner(&self, record: &Record) -> Option<&Node> {
        let node = self.nodes.get(&record.fields.addr.node)?;
        (node.identity == record.identity).then_some(node)
    }
}

fn check_record(ctx: &Context<'_>, caller: Caller, record: &Record) -> Result<(), Refusal> {
    if record.identity != caller.identity || record.fields.addr.node != caller.node {
        return Err(ErrorCode::BadSignature.into());
    }
    if record.fields.flags & flag::TOMBSTONE != 0 {
        return Err(ErrorCode::Unsupported.into());
    }
    if record.is_expired(ctx.unix) {
        return Err(ErrorCode::Malformed.into());
    }
    record.verify(&ctx.registry.public()).map_err(|_| ErrorCode::BadSignature.into())
}

fn check_tags(tags: &Tags) -> Result<(), Refusal> {
    let twice = |i: usize| tags[..i].iter().any(|tag| tag.key() == tags[i].key());
    if (0..tags.len()).any(twice) { Err(ErrorCode::Malformed.into()) } else { Ok(()) }
}
