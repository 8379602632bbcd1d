//! One request of one connection: who may ask what, and the answer's plaintext
//! (`wire.md` 6.1, 10).
//!
//! | The connection has | Served |
//! |---|---|
//! | a channel without a record | `Reserve` |
//! | reserved, or shown a record whose serial is not the registry's | also `Register` |
//! | the registry's own record, and the boot id that is current | everything |
//! | been current, and is not any more | `Register`; the rest answers Fenced |

use super::{Caller, Context, Directory};
use crate::addr::NodeId;
use crate::crypto::IdentityKey;
use crate::rendezvous::limit::TokenTable;
use crate::time::Duration;
use crate::wire::CodecError;
use crate::wire::registry::{
    Answer, Beacons, Envelope, EnvelopeKind, ErrorCode, List, PLAINTEXT_MAX, Reach, Refusal,
    Request, encode_answer,
};
use alloc::boxed::Box;
use alloc::vec;
use core::net::IpAddr;

/// Room in front of a page's entries and behind them: envelope, variant, length, cursor.
const PAGE_MARGIN: usize = 32;

/// What a connection has proven.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) from: IpAddr,
    /// The channel's handshake hash.
    pub(crate) hash: [u8; 32],
    /// The boot id said in the handshake, later that of `Register`.
    pub(crate) boot_id: u64,
    pub(crate) caller: Option<Caller>,
    /// The record is the registry's own.
    pub(crate) registered: bool,
    /// The boot id has been the current one on this connection.
    pub(crate) was_current: bool,
}

/// Where a node is, as the beacon knows it, and what `Resolve` tells of the beacon.
pub(crate) trait Whereabouts {
    fn reach(&self, node: NodeId) -> Reach;
}

/// What a request did beside changing rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Deed {
    /// A record was published or confirmed.
    Registered(NodeId),
    /// The grant between these two was withdrawn.
    Revoked(NodeId, NodeId),
    /// Mail up to this number was handed out.
    Fetched(NodeId, u64),
}

/// What is needed beside the directory; reused for every request.
pub(crate) struct Desk {
    pub(crate) reserves: TokenTable,
    /// Receipts, by who hands them in.
    receipts: TokenTable,
    pub(crate) beacons: Beacons,
    /// Entries of a page on their way into an answer.
    page: Box<[u8]>,
    /// The answer's plaintext.
    pub(crate) plaintext: Box<[u8]>,
}

/// The outcome of one request: its answer is in [`Desk::plaintext`].
pub(crate) struct Outcome {
    pub(crate) id: u32,
    pub(crate) len: usize,
    /// Reading only: the answer need not wait for a commit.
    pub(crate) is_read: bool,
    pub(crate) deed: Option<Deed>,
}

impl Desk {
    pub(crate) fn new(reserves: TokenTable, receipts: TokenTable, beacons: Beacons) -> Self {
        let page = vec![0; PLAINTEXT_MAX - PAGE_MARGIN].into_boxed_slice();
        let plaintext = vec![0; PLAINTEXT_MAX].into_boxed_slice();
        Desk { reserves, receipts, beacons, page, plaintext }
    }

    /// Serves a request's plaintext. `None`: not even an id could be read; the connection is
    /// to be closed.
    pub(crate) fn serve(
        &mut self,
        directory: &mut Directory,
        ctx: &Context<'_>,
        standing: &mut Standing,
        request: &[u8],
        whereabouts: &dyn Whereabouts,
        busy: bool,
    ) -> Option<Outcome> {
        let envelope = Envelope::parse(request).ok()?;
        if envelope.kind != EnvelopeKind::Request {
            return None;
        }
        let id = envelope.id;
        let request = match envelope.request() {
            Ok(request) => request,
            Err(CodecError::UnknownKind) => return self.refuse(id, ErrorCode::Unsupported.into()),
            Err(_) => return self.refuse(id, ErrorCode::Malformed.into()),
        };
        let is_read = matches!(
            request,
            Request::Beacons
                | Request::Resolve { .. }
                | Request::Discover { .. }
                | Request::TrustFetch { .. }
                | Request::Reputation { .. }
        );
        if busy && !is_read {
            let refusal = Refusal { code: ErrorCode::RateLimited, retry_ms: 1000 };
            return self.refuse(id, refusal);
        }
        if let Err(refusal) = admit(directory, standing, &request) {
            return self.refuse(id, refusal);
        }
        let mut deed = None;
        // Split, so that an answer may borrow from the page while the plaintext is written.
        let Desk { reserves, receipts, beacons, page, plaintext } = self;
        let answer = match request {
            Request::Reserve { identity, proof } => {
                let identity = IdentityKey(identity.0);
                reserve(directory, ctx, standing, reserves, identity, &proof.0)
            }
            Request::Register(request) => {
                register(directory, ctx, standing, &request, beacons, &mut deed)
            }
            Request::Beacons => Ok(Answer::Beacons(beacons.clone())),
            Request::Receipt { receipt } => {
                take_receipt(directory, ctx, standing, receipts, receipt)
            }
            request => match standing.caller {
                Some(caller) => {
                    serve_registered(directory, ctx, caller, request, page, whereabouts, &mut deed)
                }
                None => Err(ErrorCode::NotRegistered.into()),
            },
        };
        let len = encode_answer(id, &answer, plaintext).ok()?;
        Some(Outcome { id, len, is_read, deed })
    }

    /// A refusal changes nothing, so it need not wait either.
    fn refuse(&mut self, id: u32, refusal: Refusal) -> Option<Outcome> {
        let len = encode_answer(id, &Err(refusal), &mut self.plaintext).ok()?;
        Some(Outcome { id, len, is_read: true, deed: None })
    }
}

/// The answer to a request whose commit failed; gives its length.
pub(crate) fn storage_failed(id: u32, out: &mut [u8]) -> usize {
    let refusal = Refusal { code: ErrorCode::RateLimited, retry_ms: 1000 };
    encode_answer(id, &Err(refusal), out).expect("an error has 11 bytes")
}

/// Whether the connection's standing allows the request at all.
fn admit(directory: &Directory, standing: &Standing, request: &Request<'_>) -> Result<(), Refusal> {
    match request {
        Request::Reserve { .. } => return Ok(()),
        Request::Register(_) if standing.caller.is_some() => return Ok(()),
        _ => {}
    }
    let caller = standing.caller.ok_or(ErrorCode::NotRegistered)?;
    let boot = directory.node(caller.node).and_then(|node| node.boot_id());
    match (standing.registered, boot == Some(standing.boot_id)) {
        (true, true) => Ok(()),
        (_, false) if standing.was_current => Err(ErrorCode::Fenced.into()),
        _ => Err(ErrorCode::NotRegistered.into()),
    }
}

fn reserve<'a>(
    directory: &mut Directory,
    ctx: &Context<'_>,
    standing: &mut Standing,
    reserves: &mut TokenTable,
    identity: IdentityKey,
    proof: &[u8; 64],
) -> Result<Answer<'a>, Refusal> {
    if standing.caller.is_some_and(|caller| caller.identity != identity) {
        return Err(ErrorCode::Conflict.into());
    }
    reserves.take(ctx.now, standing.from).map_err(limited)?;
    let caller = directory.reserve(ctx, identity, proof, &standing.hash)?;
    standing.caller = Some(caller);
    Ok(Answer::Reserved { address: crate::addr::Address::backbone(caller.node) })
}

fn limited(wait: Duration) -> Refusal {
    let retry_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
    Refusal { code: ErrorCode::RateLimited, retry_ms }
}

fn take_receipt<'a>(
    directory: &mut Directory,
    ctx: &Context<'_>,
    standing: &Standing,
    receipts: &mut TokenTable,
    receipt: &[u8],
) -> Result<Answer<'a>, Refusal> {
    let caller = standing.caller.ok_or(ErrorCode::NotRegistered)?;
    // Two signatures are checked for it.
    receipts.take_for(ctx.now, caller.node).map_err(limited)?;
    directory.receipt(ctx, caller, receipt).map(|()| Answer::Done)
}

fn register<'a>(
    directory: &mut Directory,
    ctx: &Context<'_>,
    standing: &mut Standing,
    request: &crate::wire::registry::Registration,
    beacons: &Beacons,
    deed: &mut Option<Deed>,
) -> Result<Answer<'a>, Refusal> {
    let caller = standing.caller.ok_or(ErrorCode::NotRegistered)?;
    let outcome = directory.register(ctx, caller, request)?;
    if outcome.current {
        standing.boot_id = request.boot_id;
        (standing.registered, standing.was_current) = (true, true);
        *deed = Some(Deed::Registered(caller.node));
    }
    let (record, assign) = (outcome.record, outcome.assign);
    Ok(Answer::Registered { record, assign, beacons: beacons.clone() })
}

fn serve_registered<'a>(
    directory: &mut Directory,
    ctx: &Context<'_>,
    caller: Caller,
    request: Request<'_>,
    page: &'a mut [u8],
    whereabouts: &dyn Whereabouts,
    deed: &mut Option<Deed>,
) -> Result<Answer<'a>, Refusal> {
    let node = caller.node;
    match request {
        Request::Join { network } => {
            directory.join(node, network).map(|address| Answer::At { address })
        }
        Request::Leave { network } => {
            directory.leave(node, network).map(|address| Answer::At { address })
        }
        Request::SetHostname { hostname, network } => {
            directory.set_hostname(node, &hostname, network).map(|address| Answer::At { address })
        }
        Request::ClearHostname { network } => {
            directory.clear_hostname(node, network).map(|address| Answer::At { address })
        }
        Request::SetVisibility { visibility } => {
            directory.set_visibility(node, visibility).map(|()| Answer::Done)
        }
        Request::SetTags { tags } => directory.set_tags(node, &tags).map(|()| Answer::Done),
        Request::Resolve { target, network, grant } => {
            let (target, permitted, mut resolved) =
                directory.resolve(ctx, caller, &target, network, grant.as_ref())?;
            resolved.reach = permitted.then(|| whereabouts.reach(target));
            Ok(Answer::Resolved(resolved))
        }
        Request::Discover { tags, network, cursor } => {
            let (len, cursor) = directory.discover(caller, &tags, network, cursor, page)?;
            Ok(Answer::Page { entries: List::from_encoded(&page[..len]), cursor })
        }
        Request::TrustRequest { to, sealed, body } => {
            directory.trust_request(ctx, caller, to, sealed, body).map(|()| Answer::Done)
        }
        Request::TrustFetch { after } => {
            let (len, last, more) = directory.trust_fetch(ctx, node, after, page);
            *deed = Some(Deed::Fetched(node, last));
            Ok(Answer::Mailbox { items: List::from_encoded(&page[..len]), more })
        }
        Request::TrustAck { ids } => {
            directory.trust_ack(node, &ids);
            Ok(Answer::Done)
        }
        Request::TrustAnswer { to, nonce, grant } => {
            directory.trust_answer(ctx, caller, to, nonce, grant).map(|()| Answer::Done)
        }
        Request::TrustConfirm { to, grant, held } => {
            directory.trust_confirm(ctx, caller, to, grant, held).map(|()| Answer::Done)
        }
        Request::Revoke { grantee, hash } => {
            let other = directory.revoke(ctx, node, grantee, hash)?;
            *deed = other.map(|other| Deed::Revoked(node, other));
            Ok(Answer::Done)
        }
        Request::Reputation { address, grant } => {
            directory.reputation(ctx, caller, address, grant.as_ref()).map(Answer::Reputation)
        }
        Request::Rotate { .. } | Request::Tombstone { .. } | Request::Deregister => {
            Err(ErrorCode::Unsupported.into())
        }
        Request::Reserve { .. }
        | Request::Register(_)
        | Request::Beacons
        | Request::Receipt { .. } => Err(ErrorCode::Malformed.into()),
    }
}
