//! Operations of the registry (`wire.md` 10) as they are inside its channel (`wire.md` 6.1):
//! `id 4 ‖ kind 1 (0 request, 1 ok, 2 error) ‖ postcard`, an error being `code 2 ‖ retry_ms 4`.
//!
//! The order of enum variants is frozen and only ever appended to. Everything decodes without
//! an allocator: lists that may be long stay borrowed and decode one entry at a time.

use super::control::Endpoints;
use super::{AssignBytes, BeaconBytes, Bytes, CodecError, GrantBytes, RecordBytes};
use super::{decode_enum, encode_into};
use crate::addr::{Address, NetworkId};
use crate::name::{Hostname, Tags};
use core::marker::PhantomData;
use core::net::SocketAddr;
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// Bytes in front of the body.
pub const HEADER: usize = 5;
/// Longest plaintext: a frame less its tag (`wire.md` 6.1).
pub const PLAINTEXT_MAX: usize = crate::limits::REGISTRY_FRAME_MAX - crate::limits::TAG;
/// Most networks a node may join beside the backbone (`wire.md` 1).
pub const NETWORKS_MAX: usize = 16;
/// Most earlier boot ids in a `Register` (`wire.md` 10).
pub const EARLIER_MAX: usize = 8;
/// Most entries of a `Discover` page.
pub const PAGE_MAX: usize = 16;
/// Most ids of one `TrustAck`: all that a full mailbox holds for one target fit in a few.
pub const ACK_MAX: usize = 32;
/// Longest body of a trust request: signed request with 512 bytes of text and a grant, sealed.
pub const TRUST_BODY_MAX: usize = 1024;
/// Most beacons and addresses of one that the registry tells.
pub const BEACONS_MAX: usize = 4;

/// Who may see an agent (`wire.md` 6.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Visibility {
    /// Only with a grant.
    #[default]
    Private,
    /// Record, names and tags for everyone; endpoints still need a grant.
    Public,
}

/// Whom a `Resolve` asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Target {
    /// By address, of any network the node is in.
    Address(Address),
    /// By name, in the request's network.
    Hostname(Hostname),
}

/// What an agent asks of the registry.
#[expect(
    clippy::large_enum_variant,
    reason = "decodes without an allocator; one value lives at a time"
)]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Request<'a> {
    /// Asks for an address. Proof: signature by `identity` over `L ‖ "reserve\0" ‖ h`, `h` the
    /// channel's handshake hash. Idempotent for one identity.
    Reserve {
        /// Ed25519 public key.
        identity: Bytes<32>,
        /// Ed25519 signature.
        proof: Bytes<64>,
    },
    /// Publishes the record; at every start.
    Register(Registration),
    /// Asks for the beacons.
    Beacons,
    /// Joins an open network, 1 to 65535.
    Join {
        /// The network.
        network: NetworkId,
    },
    /// Leaves a network.
    Leave {
        /// The network.
        network: NetworkId,
    },
    /// Takes a name in a network.
    SetHostname {
        /// The name.
        hostname: Hostname,
        /// Where; default: the lowest joined network, else 0.
        network: Option<NetworkId>,
    },
    /// Gives the name in a network back.
    ClearHostname {
        /// Where; default as for `SetHostname`.
        network: Option<NetworkId>,
    },
    /// Private or public.
    SetVisibility {
        /// Which.
        visibility: Visibility,
    },
    /// Replaces the tags.
    SetTags {
        /// All of them.
        tags: Tags,
    },
    /// Asks for one agent.
    Resolve {
        /// Whom.
        target: Target,
        /// Where a name is looked up and which address is printed; default as above.
        network: Option<NetworkId>,
        /// A grant from the target to the asker.
        grant: Option<GrantBytes>,
    },
    /// Lists public agents that have all the tags, oldest first.
    Discover {
        /// All of these.
        tags: Tags,
        /// Members of this network; default as above.
        network: Option<NetworkId>,
        /// 0, or the cursor of the page before.
        cursor: u64,
    },
    /// Leaves a trust request in the target's mailbox (`wire.md` 6.5).
    TrustRequest {
        /// Whom.
        to: Address,
        /// Whether `body` is sealed to the target's tunnel key.
        sealed: bool,
        /// At most [`TRUST_BODY_MAX`] bytes.
        body: &'a [u8],
    },
    /// Asks for the items of the own mailbox; they stay until acknowledged.
    TrustFetch {
        /// Items with a higher id than this; 0: from the first.
        after: u64,
    },
    /// Removes items from the own mailbox.
    TrustAck {
        /// Which.
        ids: Vec<u64, ACK_MAX>,
    },
    /// Answers a trust request.
    TrustAnswer {
        /// Whom.
        to: Address,
        /// The nonce of the request.
        nonce: Bytes<16>,
        /// The grant; `None`: refused (code 1).
        grant: Option<GrantBytes>,
    },
    /// Sends our own grant after an answer.
    TrustConfirm {
        /// Whom.
        to: Address,
        /// From us to them.
        grant: GrantBytes,
        /// The one that we hold from them.
        held: GrantBytes,
    },
    /// Withdraws a grant of ours.
    Revoke {
        /// The identity whose grant it was.
        grantee: Bytes<32>,
        /// First 8 bytes of the grant's SHA-256.
        hash: Bytes<8>,
    },
    /// A finished task, signed by both sides, from one of them (`wire.md` 12.1). Idempotent.
    Receipt {
        /// The [`RECEIPT`](crate::crypto::task::RECEIPT) bytes.
        receipt: &'a [u8],
    },
    /// Asks for an agent's reputation; a private one's needs a grant, as in `Resolve`.
    Reputation {
        /// Whose.
        address: Address,
        /// A grant from it to the asker.
        grant: Option<GrantBytes>,
    },
    /// Changes the identity (deferred).
    Rotate {
        /// The dual-signed record, 252 bytes.
        record: &'a [u8],
    },
    /// Ends an identity (deferred).
    Tombstone {
        /// The tombstone record.
        record: &'a [u8],
    },
    /// Gives the address back (deferred).
    Deregister,
}

/// Kinds of [`Request`] that this version knows.
pub const REQUEST_KINDS: u32 = 22;

/// The body of `Register`; what is `None` stays as stored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Registration {
    /// The record.
    pub record: RecordBytes,
    /// This process's boot id.
    pub boot_id: u64,
    /// Boot ids that this home has used since its last acknowledged `Register`, that one
    /// included.
    pub earlier: Vec<u64, EARLIER_MAX>,
    /// Take the identity over from whoever runs it now.
    pub takeover: bool,
    /// The name in the default network.
    pub hostname: Option<Hostname>,
    /// All tags.
    pub tags: Option<Tags>,
    /// Private or public.
    pub visibility: Option<Visibility>,
}

/// A beacon as the registry tells it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BeaconInfo {
    /// Node, tunnel key and serial, signed by the registry.
    pub entry: BeaconBytes,
    /// Where it is, best first.
    pub addresses: Vec<SocketAddr, BEACONS_MAX>,
}

/// All beacons.
pub type Beacons = Vec<BeaconInfo, BEACONS_MAX>;

/// Where an agent is; only for those who hold a grant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reach {
    /// Candidates and observed endpoint; empty when offline.
    pub endpoints: Endpoints,
    /// The beacon that it is on.
    pub beacon: Option<BeaconInfo>,
}

/// The answer to `Resolve`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Resolved {
    /// The agent's address in the network asked for.
    pub address: Address,
    /// Its record.
    pub record: RecordBytes,
    /// The registry's signature over the record.
    pub assign: AssignBytes,
    /// Its name in that network.
    pub hostname: Option<Hostname>,
    /// Its tags.
    pub tags: Tags,
    /// Networks it has joined.
    pub networks: Vec<NetworkId, NETWORKS_MAX>,
    /// With a valid grant only.
    pub reach: Option<Reach>,
}

/// One agent of a `Discover` page.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Discovered {
    /// Its address in the network asked for.
    pub address: Address,
    /// Its identity key.
    pub identity: Bytes<32>,
    /// Its name in that network.
    pub hostname: Option<Hostname>,
    /// Its tags.
    pub tags: Tags,
}

/// One item of a mailbox, with record and Assign of who sent it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MailboxItem<'a> {
    /// For `TrustAck`; rises with age.
    pub id: u64,
    /// When the registry took it, Unix seconds.
    pub received: u64,
    /// The sender's record.
    pub record: RecordBytes,
    /// The registry's signature over it.
    pub assign: AssignBytes,
    /// What it is.
    #[serde(borrow)]
    pub body: MailboxBody<'a>,
}

/// What an item of a mailbox is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MailboxBody<'a> {
    /// A trust request, as it was sent.
    Request {
        /// Whether `body` is sealed.
        sealed: bool,
        /// At most [`TRUST_BODY_MAX`] bytes.
        body: &'a [u8],
    },
    /// The answer to a request of ours.
    Answer {
        /// Our request's nonce.
        nonce: Bytes<16>,
        /// The grant; `None`: refused.
        grant: Option<GrantBytes>,
    },
    /// The grant of somebody whom we granted.
    Confirm {
        /// From them to us.
        grant: GrantBytes,
        /// Ours, which they hold.
        held: GrantBytes,
    },
}

/// A list of postcard values that decode one by one, so that no page needs a buffer of its
/// own size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(bound(deserialize = ""))]
pub struct List<'a, T> {
    #[serde(borrow)]
    bytes: &'a [u8],
    #[serde(skip)]
    entries: PhantomData<fn() -> T>,
}

impl<'a, T: Deserialize<'a> + Serialize> List<'a, T> {
    /// The list whose entries, one behind the other, are `bytes`.
    pub const fn from_encoded(bytes: &'a [u8]) -> Self {
        List { bytes, entries: PhantomData }
    }

    /// Decodes the entries; ends behind the first one that does not decode.
    pub fn iter(&self) -> impl Iterator<Item = Result<T, CodecError>> + 'a {
        let mut rest = self.bytes;
        core::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            match postcard::take_from_bytes::<T>(rest) {
                Ok((entry, tail)) => {
                    // An entry of no bytes would repeat for ever.
                    rest = if tail.len() < rest.len() { tail } else { &[] };
                    Some(Ok(entry))
                }
                Err(_) => {
                    rest = &[];
                    Some(Err(CodecError::Malformed))
                }
            }
        })
    }
}

/// Appends one entry of a [`List`] at `used` bytes of `out`; gives the new length.
pub fn append<T: Serialize>(entry: &T, out: &mut [u8], used: usize) -> Result<usize, CodecError> {
    let free = out.get_mut(used..).ok_or(CodecError::BufferTooSmall)?;
    Ok(used + encode_into(entry, free)?)
}

/// What the registry answers.
#[expect(
    clippy::large_enum_variant,
    reason = "decodes without an allocator; one value lives at a time"
)]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer<'a> {
    /// Done, and durable.
    Done,
    /// To `Reserve`.
    Reserved {
        /// The address, the same for the same identity always.
        address: Address,
    },
    /// To `Register`.
    Registered {
        /// The record that counts now; newer than the one sent if that was stale.
        record: RecordBytes,
        /// The registry's signature over it.
        assign: AssignBytes,
        /// Where the beacons are.
        beacons: Beacons,
    },
    /// To `Beacons`.
    Beacons(Beacons),
    /// To `Resolve`.
    Resolved(Resolved),
    /// To `Discover`.
    Page {
        /// At most [`PAGE_MAX`].
        #[serde(borrow)]
        entries: List<'a, Discovered>,
        /// For the next page; 0: this was the last.
        cursor: u64,
    },
    /// To `TrustFetch`.
    Mailbox {
        /// Oldest first.
        #[serde(borrow)]
        items: List<'a, MailboxItem<'a>>,
        /// There are more: fetch again, behind the last id.
        more: bool,
    },
    /// To `SetHostname`, `Join` and `Leave`: where it took effect.
    At {
        /// The own address there.
        address: Address,
    },
    /// To `Reputation`.
    Reputation(Reputation),
}

/// What the receipts that the registry holds say of an agent (`wire.md` 12.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Reputation {
    /// Points for work that it has done.
    pub earned: u32,
    /// Points for work that others have done for it.
    pub spent: u32,
    /// Tasks that it has done.
    pub completed: u32,
    /// Tasks that it has accepted and given up.
    pub failed: u32,
    /// Tasks that others have ended for it, done or given up.
    pub submitted: u32,
}

impl Reputation {
    /// Earned less spent.
    pub fn score(&self) -> i64 {
        i64::from(self.earned) - i64::from(self.spent)
    }
}

/// Kinds of [`Answer`] that this version knows.
pub const ANSWER_KINDS: u32 = 9;

/// Stable error codes (`wire.md` 6.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, thiserror::Error)]
#[repr(u16)]
#[non_exhaustive]
pub enum ErrorCode {
    /// No such thing, or not permitted: both answer the same.
    #[error("not found")]
    NotFound = 1,
    /// A signature or proof does not hold.
    #[error("bad signature")]
    BadSignature = 2,
    /// A newer record is known.
    #[error("stale serial")]
    StaleSerial = 3,
    /// The name or the identity belongs to another.
    #[error("conflict")]
    Conflict = 4,
    /// The identity now runs elsewhere.
    #[error("fenced")]
    Fenced = 5,
    /// Too often; `retry_ms` says when again.
    #[error("rate limited")]
    RateLimited = 6,
    /// A table is full.
    #[error("full")]
    Full = 7,
    /// Bytes that make no sense.
    #[error("malformed")]
    Malformed = 8,
    /// An operation that this registry does not offer.
    #[error("unsupported")]
    Unsupported = 9,
    /// Reserve or Register first.
    #[error("not registered")]
    NotRegistered = 10,
}

impl ErrorCode {
    /// The code with this number.
    pub const fn from_u16(code: u16) -> Option<ErrorCode> {
        Some(match code {
            1 => ErrorCode::NotFound,
            2 => ErrorCode::BadSignature,
            3 => ErrorCode::StaleSerial,
            4 => ErrorCode::Conflict,
            5 => ErrorCode::Fenced,
            6 => ErrorCode::RateLimited,
            7 => ErrorCode::Full,
            8 => ErrorCode::Malformed,
            9 => ErrorCode::Unsupported,
            10 => ErrorCode::NotRegistered,
            _ => return None,
        })
    }
}

/// An error answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{code}")]
pub struct Refusal {
    /// Why.
    pub code: ErrorCode,
    /// When to try again, in milliseconds; 0: no statement.
    pub retry_ms: u32,
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Refusal { code, retry_ms: 0 }
    }
}

/// A plaintext of the channel, its body not yet decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope<'a> {
    /// The request's id, repeated by the answer.
    pub id: u32,
    /// What follows.
    pub kind: EnvelopeKind,
    /// Its bytes.
    pub body: &'a [u8],
}

/// What an [`Envelope`] holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EnvelopeKind {
    /// A [`Request`].
    Request = 0,
    /// An [`Answer`].
    Ok = 1,
    /// A [`Refusal`].
    Error = 2,
}

impl<'a> Envelope<'a> {
    /// Splits a plaintext.
    pub fn parse(plaintext: &'a [u8]) -> Result<Self, CodecError> {
        let (head, body) = plaintext.split_first_chunk::<HEADER>().ok_or(CodecError::Malformed)?;
        let kind = match head[4] {
            0 => EnvelopeKind::Request,
            1 => EnvelopeKind::Ok,
            2 => EnvelopeKind::Error,
            _ => return Err(CodecError::UnknownKind),
        };
        Ok(Envelope { id: u32::from_be_bytes([head[0], head[1], head[2], head[3]]), kind, body })
    }

    /// The request in it. [`CodecError::UnknownKind`] is to be answered `Unsupported`.
    pub fn request(&self) -> Result<Request<'a>, CodecError> {
        if self.kind != EnvelopeKind::Request {
            return Err(CodecError::Malformed);
        }
        decode_enum(self.body, REQUEST_KINDS)
    }

    /// The answer in it: the inner `Err` is what the registry said.
    pub fn answer(&self) -> Result<Result<Answer<'a>, Refusal>, CodecError> {
        match self.kind {
            EnvelopeKind::Request => Err(CodecError::Malformed),
            EnvelopeKind::Ok => decode_enum(self.body, ANSWER_KINDS).map(Ok),
            EnvelopeKind::Error => {
                let bytes: [u8; 6] = self.body.try_into().map_err(|_| CodecError::Malformed)?;
                let code = u16::from_be_bytes([bytes[0], bytes[1]]);
                let code = ErrorCode::from_u16(code).ok_or(CodecError::UnknownKind)?;
                let retry_ms = u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
                Ok(Err(Refusal { code, retry_ms }))
            }
        }
    }
}

/// Writes a request's plaintext; gives its length.
pub fn encode_request(id: u32, request: &Request<'_>, out: &mut [u8]) -> Result<usize, CodecError> {
    let body = head(id, EnvelopeKind::Request, out)?;
    Ok(HEADER + encode_into(request, body)?)
}

/// Writes an answer's plaintext; gives its length.
pub fn encode_answer(
    id: u32,
    answer: &Result<Answer<'_>, Refusal>,
    out: &mut [u8],
) -> Result<usize, CodecError> {
    match answer {
        Ok(answer) => {
            let body = head(id, EnvelopeKind::Ok, out)?;
            Ok(HEADER + encode_into(answer, body)?)
        }
        Err(refusal) => {
            let body = head(id, EnvelopeKind::Error, out)?;
            let body = body.get_mut(..6).ok_or(CodecError::BufferTooSmall)?;
            body[..2].copy_from_slice(&(refusal.code as u16).to_be_bytes());
            body[2..].copy_from_slice(&refusal.retry_ms.to_be_bytes());
            Ok(HEADER + 6)
        }
    }
}

fn head(id: u32, kind: EnvelopeKind, out: &mut [u8]) -> Result<&mut [u8], CodecError> {
    let (head, body) = out.split_at_mut_checked(HEADER).ok_or(CodecError::BufferTooSmall)?;
    head[..4].copy_from_slice(&id.to_be_bytes());
    head[4] = kind as u8;
    Ok(body)
}
