//! What the trust table asks of the registry, one job at a time.

use super::mailbox::{SEAL_PURPOSE, attested};
use super::request::{IncomingState, OutgoingState};
use super::*;
use crate::crypto::{TrustRequest, exchange};
use crate::limits::TRUST_RETRY;
use crate::time::Duration;
use crate::wire::registry::{self, Answer, ErrorCode, Refusal, Request, Target};
use crate::wire::{Bytes, CodecError};

/// One request to the registry that a slot wants made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Job {
    /// Is the target of an outgoing request public?
    ResolveTarget(u16),
    /// Send the outgoing request.
    Ask(u16),
    /// Send `TrustAnswer` with our grant.
    Answer(PeerIndex),
    /// Send `TrustAnswer` with code 1.
    Refuse(u16),
    /// Send `TrustConfirm`.
    Confirm(PeerIndex),
    /// Send `Revoke`.
    Revoke(PeerIndex),
    /// Ask for record, name and endpoints.
    Resolve(PeerIndex),
}

/// A job, and the filling of the slot that it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket {
    pub(crate) job: Job,
    stamp: u32,
}

/// What the owner has to do after an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// Nothing.
    Done,
    /// The registry's list of our revocations is full, or the peer has more grants than the one
    /// that was revoked: raise the grant epoch in our record, call [`Trust::reissue`] and register.
    RaiseEpoch,
}

impl Trust<'_> {
    /// When [`Trust::next_job`] may have something.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// All jobs under way were lost with their connection.
    pub(crate) fn restart_jobs(&mut self) {
        self.look();
    }

    /// The next job that is not under way.
    pub(crate) fn next_job(&mut self, now: Instant, busy: impl Fn(Job) -> bool) -> Option<Ticket> {
        if now < self.due {
            return None;
        }
        self.due = Instant::NEVER;
        let mut later = Instant::NEVER;
        let found = self.candidates().find(|(ticket, hold)| {
            if *hold > now {
                later = later.min(*hold);
                return false;
            }
            !busy(ticket.job)
        });
        let found = found.map(|(ticket, _)| ticket);
        // After one job there may be more; without one, only time or a change brings more.
        self.due = if found.is_some() { Instant::START } else { later };
        found
    }

    fn candidates(&self) -> impl Iterator<Item = (Ticket, Instant)> + '_ {
        let peers = self.peers.iter().enumerate().filter_map(|(i, slot)| {
            let job = slot.job(PeerIndex(i as u32))?;
            Some((Ticket { job, stamp: slot.stamp }, slot.hold))
        });
        let incoming = self.incoming.iter().enumerate().filter_map(|(i, slot)| {
            let due = matches!(slot.state, IncomingState::Refused { .. });
            due.then_some((Ticket { job: Job::Refuse(i as u16), stamp: slot.stamp }, slot.hold))
        });
        let outgoing = self.outgoing.iter().enumerate().filter_map(|(i, slot)| {
            let job = match slot.live()?.state {
                OutgoingState::Unresolved => Job::ResolveTarget(i as u16),
                OutgoingState::Ready => Job::Ask(i as u16),
                OutgoingState::Sent => return None,
            };
            Some((Ticket { job, stamp: slot.stamp }, slot.hold))
        });
        peers.chain(incoming).chain(outgoing)
    }

    /// Writes the request of a job; `None` if there is nothing to do any more.
    pub(crate) fn encode_job(
        &self,
        ctx: &mut Context<'_>,
        ticket: Ticket,
        id: u32,
        out: &mut [u8],
    ) -> Option<Result<usize, CodecError>> {
        let request = match ticket.job {
            Job::ResolveTarget(i) => Request::Resolve {
                target: Target::Address(self.outgoing[usize::from(i)].live()?.to),
                network: Some(NetworkId::BACKBONE),
                grant: None,
            },
            Job::Ask(i) => {
                return self.outgoing[usize::from(i)].live().map(|o| ask(ctx, o, id, out));
            }
            Job::Answer(i) => {
                let peer = self.peer(i)?;
                Request::TrustAnswer {
                    to: peer.address,
                    nonce: Bytes(peer.answer_due?),
                    grant: Some(Bytes(peer.given.encode())),
                }
            }
            Job::Refuse(i) => match &self.incoming[usize::from(i)].state {
                IncomingState::Refused { to, nonce } => {
                    Request::TrustAnswer { to: *to, nonce: Bytes(*nonce), grant: None }
                }
                _ => return None,
            },
            Job::Confirm(i) => {
                let peer = self.peer(i)?;
                Request::TrustConfirm {
                    to: peer.address,
                    grant: Bytes(peer.given.encode()),
                    held: Bytes(peer.held.as_ref()?.encode()),
                }
            }
            Job::Revoke(i) => match &self.peers[i.index()].state {
                PeerState::Leaving(l) => {
                    Request::Revoke { grantee: Bytes(l.grantee.0), hash: Bytes(l.hash) }
                }
                _ => return None,
            },
            Job::Resolve(i) => {
                let peer = self.peer(i)?;
                Request::Resolve {
                    target: Target::Address(peer.address),
                    network: Some(ctx.network),
                    grant: peer.held().map(|g| Bytes(g.encode())),
                }
            }
        };
        Some(registry::encode_request(id, &request, out))
    }

    fn is_current(&self, ticket: Ticket) -> bool {
        let stamp = match ticket.job {
            Job::ResolveTarget(i) | Job::Ask(i) => {
                self.outgoing.get(usize::from(i)).filter(|s| s.live().is_some()).map(|s| s.stamp)
            }
            Job::Refuse(i) => self.incoming.get(usize::from(i)).map(|s| s.stamp),
            Job::Answer(i) | Job::Confirm(i) | Job::Revoke(i) | Job::Resolve(i) => {
                self.peers.get(i.index()).map(|s| s.stamp)
            }
        };
        stamp == Some(ticket.stamp)
    }

    /// Takes the registry's answer to a job.
    pub(crate) fn handle_answer(
        &mut self,
        ctx: &mut Context<'_>,
        ticket: Ticket,
        answer: Result<&Answer<'_>, Refusal>,
    ) -> Outcome {
        self.look();
        if !self.is_current(ticket) {
            return Outcome::Done;
        }
        if let Err(Refusal { code: ErrorCode::RateLimited, retry_ms }) = answer {
            let wait = Duration::from_millis(u64::from(retry_ms)).max(Duration::from_secs(1));
            *self.hold_of(ticket.job) = ctx.now + wait;
            return Outcome::Done;
        }
        match ticket.job {
            Job::ResolveTarget(i) => self.target_resolved(ctx, usize::from(i), answer),
            Job::Ask(i) => self.asked(ctx, usize::from(i), answer.map(drop)),
            Job::Answer(i) => self.due_done(ctx, i, answer.map(drop), |p| p.answer_due = None),
            Job::Confirm(i) => self.due_done(ctx, i, answer.map(drop), |p| p.confirm_due = false),
            Job::Refuse(i) => match answer {
                Err(refusal) if !is_final(refusal) => {
                    self.incoming[usize::from(i)].hold = ctx.now + TRUST_RETRY;
                }
                _ => self.incoming[usize::from(i)].clear(ctx.journal),
            },
            Job::Revoke(i) => return self.revoked(ctx, i, answer.map(drop)),
            Job::Resolve(i) => self.peer_resolved(ctx, i, answer),
        }
        Outcome::Done
    }

    fn hold_of(&mut self, job: Job) -> &mut Instant {
        match job {
            Job::ResolveTarget(i) | Job::Ask(i) => &mut self.outgoing[usize::from(i)].hold,
            Job::Refuse(i) => &mut self.incoming[usize::from(i)].hold,
            Job::Answer(i) | Job::Confirm(i) | Job::Revoke(i) | Job::Resolve(i) => {
                &mut self.peers[i.index()].hold
            }
        }
    }

    fn target_resolved(
        &mut self,
        ctx: &mut Context<'_>,
        i: usize,
        answer: Result<&Answer<'_>, Refusal>,
    ) {
        let Some(out) = self.outgoing[i].live() else {
            return;
        };
        let (to, pinned, granted) = (out.to, out.identity, out.grant.is_some());
        let (rights, trusted) = (out.rights, self.find(to).is_some());
        let record = match answer {
            Ok(Answer::Resolved(r)) => {
                attested(ctx, &r.record.0, &r.assign.0).filter(|record| record.fields.addr == to)
            }
            Ok(_) => None,
            Err(refusal) if refusal.code == ErrorCode::NotFound => None,
            Err(_) => {
                self.outgoing[i].hold = ctx.now + TRUST_RETRY;
                return;
            }
        };
        if let Some(record) = &record {
            self.note_record(ctx, record);
            // Who we asked first is who may answer; another identity at that address is not.
            if pinned.is_some_and(|id| id != record.identity) {
                return self.end_outgoing(ctx, i, true);
            }
        }
        let grant = match &record {
            Some(record) if !granted && !trusted => Some(ctx.grant_to(record.identity, rights)),
            _ => None,
        };
        let slot = &mut self.outgoing[i];
        if let Some(out) = slot.live_mut() {
            out.state = OutgoingState::Ready;
            out.identity = out.identity.or(record.map(|r| r.identity));
            out.grant = out.grant.or(grant);
            out.record = record;
            slot.fact.touch(ctx.journal);
        }
    }

    fn asked(&mut self, ctx: &mut Context<'_>, i: usize, answer: Result<(), Refusal>) {
        match answer {
            Ok(()) => {
                let slot = &mut self.outgoing[i];
                if let Some(out) = slot.live_mut() {
                    out.state = OutgoingState::Sent;
                    slot.fact.touch(ctx.journal);
                }
            }
            Err(refusal) if is_final(refusal) => self.end_outgoing(ctx, i, true),
            Err(_) => self.outgoing[i].hold = ctx.now + TRUST_RETRY,
        }
    }

    /// An answer or confirmation was taken, or will never be: the other end can ask again.
    fn due_done(
        &mut self,
        ctx: &mut Context<'_>,
        i: PeerIndex,
        answer: Result<(), Refusal>,
        done: impl FnOnce(&mut Peer),
    ) {
        let slot = &mut self.peers[i.index()];
        let PeerState::Trusted(peer) = &mut slot.state else {
            return;
        };
        match answer {
            Err(refusal) if !is_final(refusal) => slot.hold = ctx.now + TRUST_RETRY,
            _ => {
                done(peer);
                slot.fact.touch(ctx.journal);
            }
        }
    }

    fn revoked(
        &mut self,
        ctx: &mut Context<'_>,
        i: PeerIndex,
        answer: Result<(), Refusal>,
    ) -> Outcome {
        let slot = &mut self.peers[i.index()];
        let PeerState::Leaving(leaving) = &mut slot.state else {
            return Outcome::Done;
        };
        match answer {
            Err(Refusal { code: ErrorCode::Full, .. }) => {
                if leaving.epoch < ctx.epoch {
                    leaving.done = true;
                } else {
                    return Outcome::RaiseEpoch;
                }
            }
            Err(refusal) if !is_final(refusal) => {
                slot.hold = ctx.now + TRUST_RETRY;
                return Outcome::Done;
            }
            _ if leaving.has_more && leaving.epoch >= ctx.epoch => return Outcome::RaiseEpoch,
            _ => leaving.done = true,
        }
        slot.fact.touch(ctx.journal);
        if slot.edges == 0 {
            self.free_leaving(i.index());
        }
        Outcome::Done
    }

    /// Whether an answer about any agent is authentic and contradicts no pin; what it tells of
    /// a trusted peer is kept.
    pub(crate) fn check_resolved(
        &mut self,
        ctx: &mut Context<'_>,
        resolved: &registry::Resolved,
    ) -> bool {
        let Some(record) = attested(ctx, &resolved.record.0, &resolved.assign.0) else {
            return false;
        };
        if record.fields.addr.node != resolved.address.node {
            return false;
        }
        self.note_record(ctx, &record);
        let pinned = self.find(record.fields.addr).and_then(|i| self.peer(i));
        pinned.is_none_or(|peer| peer.identity == record.identity && !peer.frozen)
    }

    fn peer_resolved(
        &mut self,
        ctx: &mut Context<'_>,
        i: PeerIndex,
        answer: Result<&Answer<'_>, Refusal>,
    ) {
        let known = match answer {
            Ok(Answer::Resolved(r)) => attested(ctx, &r.record.0, &r.assign.0).map(|rec| (r, rec)),
            _ => None,
        };
        if let Some((_, record)) = &known {
            self.note_record(ctx, record);
        }
        let slot = &mut self.peers[i.index()];
        let PeerState::Trusted(peer) = &mut slot.state else {
            return;
        };
        let known = known.filter(|(_, r)| {
            r.identity == peer.identity && r.fields.addr == peer.address && !peer.frozen
        });
        match known {
            Some((resolved, _)) => {
                peer.endpoints.clear();
                let reach = resolved.reach.as_ref();
                for endpoint in reach.iter().flat_map(|r| r.endpoints.iter()) {
                    if peer.endpoints.push(*endpoint).is_err() {
                        break;
                    }
                }
                let network = resolved.address.network;
                let name = resolved.hostname.clone().map(|h| (network, h));
                if name != peer.hostname {
                    peer.hostname = name;
                    slot.fact.touch(ctx.journal);
                }
            }
            None => peer.endpoints.clear(),
        }
        peer.resolve_due = false;
        self.raise(i, peer::RESOLVED);
    }
}

impl PeerSlot {
    /// What this slot wants most.
    fn job(&self, index: PeerIndex) -> Option<Job> {
        match &self.state {
            PeerState::Leaving(l) => (!l.done).then_some(Job::Revoke(index)),
            PeerState::Trusted(p) if p.answer_due.is_some() => Some(Job::Answer(index)),
            PeerState::Trusted(p) if p.confirm_due && p.held.is_some() => Some(Job::Confirm(index)),
            PeerState::Trusted(p) if p.resolve_due => Some(Job::Resolve(index)),
            _ => None,
        }
    }
}

/// Whether asking the same again cannot help.
fn is_final(refusal: Refusal) -> bool {
    matches!(
        refusal.code,
        ErrorCode::NotFound
            | ErrorCode::BadSignature
            | ErrorCode::Malformed
            | ErrorCode::Unsupported
            | ErrorCode::Conflict
    )
}

/// Signs, seals and writes a `TrustRequest`.
fn ask(
    ctx: &mut Context<'_>,
    out: &Outgoing,
    id: u32,
    buf: &mut [u8],
) -> Result<usize, CodecError> {
    let signed = TrustRequest::sign(
        ctx.identity,
        &ctx.registry,
        ctx.address,
        (out.to, out.identity),
        out.nonce,
        out.issued,
        out.rights,
        &out.justification,
        out.identity.and(out.grant),
    );
    let text = signed.encode();
    let mut body = [0; registry::TRUST_BODY_MAX];
    let (sealed, body) = match &out.record {
        None => (false, &text[..]),
        Some(record) => {
            let len = exchange::MESSAGE1_OVERHEAD + text.len();
            body[exchange::MESSAGE1_PAYLOAD..][..text.len()].copy_from_slice(&text);
            let to = out.to.to_bytes();
            let prologue = [&crate::crypto::CONTEXT[..], SEAL_PURPOSE, &to];
            let e = TunnelSecret::from_secret(ctx.rng.bytes());
            let body = &mut body[..len];
            exchange::seal_x(&prologue, ctx.secrets.0, &record.fields.tunnel, e, body)
                .map_err(|_| CodecError::Malformed)?;
            (true, &*body)
        }
    };
    registry::encode_request(id, &Request::TrustRequest { to: out.to, sealed, body }, buf)
}
