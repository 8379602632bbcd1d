//! What the mailbox holds for us, and how much of it is believed (`wire.md` 6.5).

use super::request::{Incoming, IncomingState};
use super::*;
use crate::crypto::{Assign, TrustRequest, TunnelKey, exchange, record};
use crate::wire::registry::{MailboxBody, MailboxItem, TRUST_BODY_MAX};

/// Part of the prologue of a sealed request.
pub(super) const SEAL_PURPOSE: &[u8] = b"trust-x\0";

impl Trust<'_> {
    /// Takes one item. Whatever it is, the mailbox may forget it once the journal is quiet.
    pub(crate) fn handle_item(&mut self, ctx: &mut Context<'_>, item: &MailboxItem<'_>) {
        self.expire(ctx);
        let Some(sender) = attested(ctx, &item.record.0, &item.assign.0) else {
            return drop_item(ctx, DropReason::Handshake);
        };
        if sender.fields.addr == ctx.address || sender.identity == ctx.me() {
            return drop_item(ctx, DropReason::WrongAddress);
        }
        // A request may have been sealed just before its sender's tunnel key was rotated.
        let before = self.find(sender.fields.addr).and_then(|p| self.peer(p));
        let before = before.filter(|p| p.record.hash() == sender.fields.prev);
        let keys = [Some(sender.fields.tunnel), before.map(|p| p.record.fields.tunnel)];
        self.note_record(ctx, &sender);
        let result = match &item.body {
            MailboxBody::Request { sealed, body } => {
                let keys = sealed.then_some(keys);
                self.handle_request(ctx, &sender, keys, body)
            }
            MailboxBody::Answer { nonce, grant } => {
                let grant = grant.as_ref().map(|g| &g.0);
                self.handle_answer_item(ctx, &sender, &nonce.0, grant)
            }
            MailboxBody::Confirm { grant, .. } => self.handle_confirm(ctx, &sender, &grant.0),
        };
        if let Err(reason) = result {
            drop_item(ctx, reason);
        }
    }

    /// What an attested record means for a trusted peer of its address: a newer record of the
    /// pinned identity is kept, one of another identity freezes the peer.
    pub(super) fn note_record(&mut self, ctx: &mut Context<'_>, record: &Record) {
        let Some(index) = self.find(record.fields.addr) else {
            return;
        };
        let slot = &mut self.peers[index.index()];
        let PeerState::Trusted(peer) = &mut slot.state else {
            return;
        };
        let changed = if peer.identity == record.identity {
            peer.renew(record)
        } else {
            !core::mem::replace(&mut peer.frozen, true)
        };
        if changed {
            slot.fact.touch(ctx.journal);
            self.raise(index, peer::UPDATED);
        }
    }

    fn handle_request(
        &mut self,
        ctx: &mut Context<'_>,
        sender: &Record,
        sealed: Option<[Option<TunnelKey>; 2]>,
        body: &[u8],
    ) -> Result<(), DropReason> {
        let mut buf = [0; TRUST_BODY_MAX];
        let buf = buf.get_mut(..body.len()).ok_or(DropReason::Malformed)?;
        buf.copy_from_slice(body);
        let text = match sealed {
            Some(keys) => unseal(ctx, &keys, buf)?,
            None => &*buf,
        };
        let request = TrustRequest::decode(text).map_err(|_| DropReason::Malformed)?;
        // Whoever forwards somebody else's request is not who it is from.
        if request.from_addr != sender.fields.addr || request.from != sender.identity {
            return Err(DropReason::WrongAddress);
        }
        let unnamed =
            request.to == IdentityKey::ZERO && sealed.is_none() && request.grant.is_none();
        if request.to_addr != ctx.address || (request.to != ctx.me() && !unnamed) {
            return Err(DropReason::WrongAddress);
        }
        request.verify(&ctx.registry).map_err(|_| DropReason::Handshake)?;
        let grant = request.grant.filter(|g| g.epoch >= sender.fields.grant_epoch);
        match self.find(sender.fields.addr) {
            Some(peer) => self.answer_again(ctx, peer, sender, &request, grant),
            None => self.stranger_asks(ctx, sender, &request, grant),
        }
    }

    /// A request from an identity that is trusted already: its answer was lost. It gets the
    /// present grant, and what it grants us is taken.
    fn answer_again(
        &mut self,
        ctx: &mut Context<'_>,
        index: PeerIndex,
        sender: &Record,
        request: &TrustRequest,
        grant: Option<Grant>,
    ) -> Result<(), DropReason> {
        let held = self.accept_again(ctx, index, sender, request.nonce, grant);
        held.map(drop).map_err(|_| DropReason::Untrusted)
    }

    fn stranger_asks(
        &mut self,
        ctx: &mut Context<'_>,
        sender: &Record,
        request: &TrustRequest,
        grant: Option<Grant>,
    ) -> Result<(), DropReason> {
        let address = sender.fields.addr;
        let crossing = self.find_outgoing(address).and_then(|i| self.outgoing[i].live());
        if let Some(out) = crossing {
            if out.identity.is_some_and(|id| id != sender.identity) {
                return Err(DropReason::Untrusted);
            }
            let permissions = Permissions::ALL.within(request.rights);
            self.accept(ctx, sender, request.nonce, permissions, grant)
                .map_err(|_| DropReason::Full)?;
            if let Some(i) = self.find_incoming(address) {
                self.drop_incoming(i, ctx.journal);
            }
            return Ok(());
        }
        let known = self.find_incoming(address);
        if let Some(IncomingState::Waiting(old)) = known.map(|i| &self.incoming[i].state)
            && old.nonce == request.nonce
            && old.identity() == sender.identity
        {
            return Ok(());
        }
        let i = match known.or_else(|| self.incoming.iter().position(IncomingSlot::is_free)) {
            Some(i) => i,
            None => self.oldest_incoming().ok_or(DropReason::Full)?,
        };
        self.drop_incoming(i, ctx.journal);
        self.stamps = self.stamps.wrapping_add(1);
        let slot = &mut self.incoming[i];
        slot.stamp = self.stamps;
        slot.state = IncomingState::Waiting(Incoming {
            record: *sender,
            nonce: request.nonce,
            issued: request.issued,
            rights: request.rights,
            justification: request.text(),
            grant,
            order: self.arrivals,
        });
        self.arrivals = self.arrivals.wrapping_add(1);
        slot.requested = true;
        slot.fact.touch(ctx.journal);
        self.edges += 1;
        Ok(())
    }

    /// Who gives way: the request that waits longest; a refusal that is still to be sent only
    /// where there is nothing else.
    fn oldest_incoming(&self) -> Option<usize> {
        let waiting = self.incoming.iter().enumerate().filter_map(|(i, slot)| match &slot.state {
            IncomingState::Waiting(r) => Some((self.arrivals.wrapping_sub(r.order), i)),
            _ => None,
        });
        waiting.max().map(|(_, i)| i).or((!self.incoming.is_empty()).then_some(0))
    }

    fn handle_answer_item(
        &mut self,
        ctx: &mut Context<'_>,
        sender: &Record,
        nonce: &[u8; 16],
        grant: Option<&[u8; 156]>,
    ) -> Result<(), DropReason> {
        let address = sender.fields.addr;
        let i = self.find_outgoing(address).ok_or(DropReason::Unasked)?;
        let out = self.outgoing[i].live().ok_or(DropReason::Unasked)?;
        if out.nonce != *nonce {
            return Err(DropReason::Unasked);
        }
        if out.identity.is_some_and(|id| id != sender.identity) {
            return Err(DropReason::Untrusted);
        }
        let Some(grant) = grant else {
            self.end_outgoing(ctx, i, true);
            return Ok(());
        };
        let grant = checked_grant(ctx, sender, grant)?;
        let (ours, rights) = (out.grant, out.rights);
        if let Some(index) = self.find(address) {
            let slot = &mut self.peers[index.index()];
            let PeerState::Trusted(peer) = &mut slot.state else {
                return Err(DropReason::Untrusted);
            };
            if peer.identity != sender.identity {
                return Err(DropReason::Untrusted);
            }
            let first = peer.hold(grant);
            peer.resolve_due |= first;
            slot.hold = Instant::START;
            slot.fact.touch(ctx.journal);
            self.drop_outgoing(i, ctx.journal);
            self.raise(index, if first { peer::GRANTED } else { peer::UPDATED });
            self.look();
            return Ok(());
        }
        let given = ours.unwrap_or_else(|| ctx.grant_to(sender.identity, rights));
        let mut peer = Peer::new(sender, given, Some(grant));
        peer.confirm_due = ours.is_none();
        self.insert_peer(ctx, peer, true).map_err(|_| DropReason::Full)?;
        self.drop_outgoing(i, ctx.journal);
        if let Some(i) = self.find_incoming(address) {
            self.drop_incoming(i, ctx.journal);
        }
        Ok(())
    }

    fn handle_confirm(
        &mut self,
        ctx: &mut Context<'_>,
        sender: &Record,
        grant: &[u8; 156],
    ) -> Result<(), DropReason> {
        let index = self.find(sender.fields.addr).ok_or(DropReason::Untrusted)?;
        if self.peer(index).is_none_or(|p| p.identity != sender.identity) {
            return Err(DropReason::Untrusted);
        }
        let grant = checked_grant(ctx, sender, grant)?;
        let slot = &mut self.peers[index.index()];
        let PeerState::Trusted(peer) = &mut slot.state else {
            return Err(DropReason::Untrusted);
        };
        let first = peer.hold(grant);
        peer.resolve_due |= first;
        slot.hold = Instant::START;
        slot.fact.touch(ctx.journal);
        self.raise(index, if first { peer::GRANTED } else { peer::UPDATED });
        self.look();
        Ok(())
    }
}

/// Opens a sealed request in place. Its static key must be the one of the attested record, or
/// of the record before that one where we know it.
fn unseal<'b>(
    ctx: &Context<'_>,
    keys: &[Option<TunnelKey>; 2],
    buf: &'b mut [u8],
) -> Result<&'b [u8], DropReason> {
    let to = ctx.address.to_bytes();
    let prologue = [&crate::crypto::CONTEXT[..], SEAL_PURPOSE, &to];
    let end = buf.len().checked_sub(16).ok_or(DropReason::Malformed)?;
    let opened = exchange::open_x(&prologue, ctx.secrets.0, buf).map(|(key, _)| key);
    let key = match (opened, ctx.secrets.1) {
        (Ok(key), _) => key,
        (Err(_), Some(previous)) => exchange::open_x(&prologue, previous, buf)
            .map(|(key, _)| key)
            .map_err(|_| DropReason::Decrypt)?,
        (Err(_), None) => return Err(DropReason::Decrypt),
    };
    if !keys.contains(&Some(key)) {
        return Err(DropReason::WrongAddress);
    }
    Ok(&buf[exchange::MESSAGE1_PAYLOAD..end])
}

/// The record, if it is signed by its identity and assigned by our registry.
pub(super) fn attested(ctx: &Context<'_>, record: &[u8], assign: &[u8]) -> Option<Record> {
    let record = Record::decode(record).ok()?;
    let assign = Assign::decode(assign).ok()?;
    record.verify(&ctx.registry).ok()?;
    assign.verify(&ctx.registry, &record).ok()?;
    let dead = record.fields.flags & record::flag::TOMBSTONE != 0;
    (!dead && !record.is_expired(ctx.unix)).then_some(record)
}

/// A grant from `sender` to us that its own record has not voided.
fn checked_grant(
    ctx: &Context<'_>,
    sender: &Record,
    bytes: &[u8; 156],
) -> Result<Grant, DropReason> {
    let grant = Grant::decode(bytes).map_err(|_| DropReason::Malformed)?;
    let names = grant.grantor_addr == sender.fields.addr
        && grant.grantor == sender.identity
        && grant.grantee == ctx.me();
    if !names {
        return Err(DropReason::WrongAddress);
    }
    if grant.epoch < sender.fields.grant_epoch {
        return Err(DropReason::Stale);
    }
    grant.verify(&ctx.registry).map_err(|_| DropReason::Handshake)?;
    Ok(grant)
}
