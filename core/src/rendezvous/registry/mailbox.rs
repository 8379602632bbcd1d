//! Mailboxes: how trust is asked for and given (`wire.md` 6.5).
//!
//! | Letter | Taken if | Bound |
//! |---|---|---|
//! | request | the sender has asked at most 5 times this hour | 1 per sender and receiver, 32 per receiver: the oldest goes |
//! | answer | the receiver asked the sender within 7 days; the grant, if any, is the sender's to the receiver | 1 per sender and receiver: the newer replaces |
//! | confirm | `held` is a grant that counts, from the receiver to the sender; `grant` is the sender's to the receiver | the same |
//!
//! Letters live 7 days. Above the directory's own limit the oldest letter of all goes. A
//! request to an address that nobody has is answered as if it were taken, and costs the
//! sender the same, so that counting through addresses shows nothing.

use super::rows::{Letter, LetterKind, Row, RowKey};
use super::{Caller, Context, Directory, Effect};
use crate::addr::{Address, NodeId};
use crate::crypto::{Grant, IdentityKey};
use crate::time::{Duration, Instant};
use crate::wire::registry::{ErrorCode, MailboxBody, MailboxItem, Refusal, TRUST_BODY_MAX, append};
use crate::wire::{Bytes, GrantBytes};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Requests in one mailbox.
pub(crate) const REQUESTS_MAX: usize = 32;
/// How long a letter is kept, and how long a request may be answered, in seconds.
pub(crate) const KEEP: u64 = 7 * 24 * 3600;
/// Requests of one sender per [`HOUR`].
pub(crate) const REQUESTS_PER_HOUR: usize = 5;
const HOUR: Duration = Duration::from_secs(3600);
/// Letters and requests forgotten in one sweep; the next sweep goes on.
const SWEEP: usize = 256;

/// One letter.
#[derive(Debug)]
pub(crate) struct Mail {
    pub(super) to: NodeId,
    pub(super) from: NodeId,
    pub(super) received: u64,
    pub(super) letter: Letter,
}

/// When each sender made its latest requests; forgotten with the process.
#[derive(Debug, Default)]
pub(crate) struct Senders {
    requests: BTreeMap<NodeId, heapless::Vec<Instant, REQUESTS_PER_HOUR>>,
    swept: Option<Instant>,
}

impl Senders {
    fn take(&mut self, now: Instant, sender: NodeId) -> Result<(), Refusal> {
        let times = self.requests.entry(sender).or_default();
        times.retain(|at| now.since(*at) < HOUR);
        times.push(now).map_err(|_| {
            let wait = HOUR.saturating_sub(now.since(times[0]));
            Refusal { code: ErrorCode::RateLimited, retry_ms: wait.as_millis() as u32 }
        })
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|at| now.since(at) >= HOUR) {
            self.swept = Some(now);
            self.requests.retain(|_, times| times.last().is_some_and(|at| now.since(*at) < HOUR));
        }
    }
}

impl Directory {
    /// `TrustRequest`.
    pub(crate) fn trust_request(
        &mut self,
        ctx: &Context<'_>,
        caller: Caller,
        to: Address,
        sealed: bool,
        body: &[u8],
    ) -> Result<(), Refusal> {
        if body.is_empty() || body.len() > TRUST_BODY_MAX || to.node == caller.node {
            return Err(ErrorCode::Malformed.into());
        }
        let letter = Letter::Request { sealed, body: body.into() };
        let before = self.letter_of(to.node, caller.node, LetterKind::Request);
        if before.is_some_and(|id| self.mail[&id].letter == letter) {
            return Ok(()); // The answer was lost; the letter is there.
        }
        self.senders.take(ctx.now, caller.node)?;
        let at = ctx.unix.as_secs();
        self.put(Row::Asked { from: caller.node, to: to.node, at });
        if self.nodes.contains_key(&to.node) {
            if let Some(id) = before {
                self.remove(&RowKey::Mail(id));
            }
            let requests = self.letters(to.node).filter(|l| l.2 == LetterKind::Request);
            let ids: heapless::Vec<u64, REQUESTS_MAX> = requests.map(|l| l.0).collect();
            if ids.is_full() {
                self.remove(&RowKey::Mail(ids[0]));
            }
            self.deliver(ctx, to.node, caller.node, letter);
        }
        Ok(())
    }

    /// `TrustAnswer`.
    pub(crate) fn trust_answer(
        &mut self,
        ctx: &Context<'_>,
        caller: Caller,
        to: Address,
        nonce: Bytes<16>,
        grant: Option<GrantBytes>,
    ) -> Result<(), Refusal> {
        let asked = self.asked.get(&(to.node, caller.node));
        if asked.is_none_or(|at| ctx.unix.as_secs().saturating_sub(*at) > KEEP) {
            return Err(ErrorCode::NotFound.into());
        }
        let receiver = self.node(to.node).ok_or(ErrorCode::NotFound)?.identity;
        if let Some(grant) = &grant {
            self.check_own_grant(ctx, caller, receiver, grant)?;
        }
        self.replace(ctx, to.node, caller.node, Letter::Answer { nonce, grant });
        Ok(())
    }

    /// `TrustConfirm`.
    pub(crate) fn trust_confirm(
        &mut self,
        ctx: &Context<'_>,
        caller: Caller,
        to: Address,
        grant: GrantBytes,
        held: GrantBytes,
    ) -> Result<(), Refusal> {
        let theirs = Grant::decode(&held.0).map_err(|_| ErrorCode::Malformed)?;
        if self.grantor_of(ctx, &caller.identity, &theirs) != Some(to.node) {
            return Err(ErrorCode::NotFound.into());
        }
        self.check_own_grant(ctx, caller, theirs.grantor, &grant)?;
        self.replace(ctx, to.node, caller.node, Letter::Confirm { grant, held });
        Ok(())
    }

    /// A grant that the caller sends must be its own and name the receiver.
    fn check_own_grant(
        &self,
        ctx: &Context<'_>,
        caller: Caller,
        receiver: IdentityKey,
        grant: &GrantBytes,
    ) -> Result<(), Refusal> {
        let grant = Grant::decode(&grant.0).map_err(|_| ErrorCode::Malformed)?;
        let own = grant.grantor == caller.identity
            && grant.grantor_addr == Address::backbone(caller.node)
            && grant.grantee == receiver;
        if !own || grant.verify(&ctx.registry.public()).is_err() {
            return Err(ErrorCode::BadSignature.into());
        }
        Ok(())
    }

    /// `TrustFetch`: writes items behind `after` into `out`, oldest first; gives their bytes,
    /// the last id written and whether there are more.
    pub(crate) fn trust_fetch(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        after: u64,
        out: &mut [u8],
    ) -> (usize, u64, bool) {
        let (mut used, mut last) = (0, after);
        let oldest = ctx.unix.as_secs().saturating_sub(KEEP);
        for (id, from, _) in self.letters(node) {
            let mail = &self.mail[&id];
            if id <= after || mail.received < oldest {
                continue;
            }
            let Some((record, assign)) = self.certificate(from) else { continue };
            let body = match &mail.letter {
                Letter::Request { sealed, body } => MailboxBody::Request { sealed: *sealed, body },
                Letter::Answer { nonce, grant } => {
                    MailboxBody::Answer { nonce: *nonce, grant: *grant }
                }
                Letter::Confirm { grant, held } => {
                    MailboxBody::Confirm { grant: *grant, held: *held }
                }
            };
            let item = MailboxItem { id, received: mail.received, record, assign, body };
            match append(&item, out, used) {
                Ok(longer) => (used, last) = (longer, id),
                Err(_) => return (used, last, true),
            }
        }
        (used, last, false)
    }

    /// `TrustAck`: only the caller's own items.
    pub(crate) fn trust_ack(&mut self, node: NodeId, ids: &[u64]) {
        for id in ids {
            if self.mail_of.contains_key(&(node, *id)) {
                self.remove(&RowKey::Mail(*id));
            }
        }
    }

    /// The number of the newest letter for `node`, 0 without one.
    pub(crate) fn newest_mail(&self, node: NodeId) -> u64 {
        self.letters(node).next_back().map_or(0, |letter| letter.0)
    }

    /// Forgets what is older than 7 days; whether there is more to forget.
    pub(crate) fn sweep(&mut self, ctx: &Context<'_>) -> bool {
        self.senders.sweep(ctx.now);
        self.ledger.sweep(ctx.unix);
        let oldest = ctx.unix.as_secs().saturating_sub(KEEP);
        let old = self.mail.iter().take_while(|(_, mail)| mail.received < oldest);
        let mail: Vec<u64> = old.take(SWEEP).map(|(id, _)| *id).collect();
        let old = self.asked_by_age.iter().take_while(|(at, ..)| *at < oldest);
        let asked: Vec<_> = old.take(SWEEP).map(|&(_, from, to)| (from, to)).collect();
        for id in &mail {
            self.remove(&RowKey::Mail(*id));
        }
        for (from, to) in &asked {
            self.remove(&RowKey::Asked(*from, *to));
        }
        mail.len() == SWEEP || asked.len() == SWEEP
    }

    fn certificate(&self, node: NodeId) -> Option<(crate::wire::RecordBytes, Bytes<80>)> {
        let stored = self.node(node)?.stored.as_ref()?;
        Some((stored.record, stored.assign))
    }

    /// Number, sender and kind of all letters for `node`, oldest first.
    fn letters(&self, node: NodeId) -> impl DoubleEndedIterator<Item = (u64, NodeId, LetterKind)> {
        self.mail_of
            .range((node, 0)..=(node, u64::MAX))
            .map(|(&(_, id), &(from, kind))| (id, from, kind))
    }

    fn letter_of(&self, to: NodeId, from: NodeId, kind: LetterKind) -> Option<u64> {
        self.letters(to).find(|l| (l.1, l.2) == (from, kind)).map(|l| l.0)
    }

    /// Delivers an answer or a confirmation in the place of an older one.
    fn replace(&mut self, ctx: &Context<'_>, to: NodeId, from: NodeId, letter: Letter) {
        if let Some(id) = self.letter_of(to, from, letter.kind()) {
            if self.mail[&id].letter == letter {
                return;
            }
            self.remove(&RowKey::Mail(id));
        }
        self.deliver(ctx, to, from, letter);
    }

    fn deliver(&mut self, ctx: &Context<'_>, to: NodeId, from: NodeId, letter: Letter) {
        while self.mail.len() >= ctx.limits.letters.max(1) {
            let (&oldest, _) = self.mail.first_key_value().expect("there is at least one");
            self.remove(&RowKey::Mail(oldest));
        }
        let id = self.next_item;
        self.next_item += 1;
        self.put(Row::Mail { id, to, from, received: ctx.unix.as_secs(), letter });
        self.put_meta();
        self.effects.push(Effect::Mail(to));
    }
}
