//! Control frames inside a session (`wire.md` 5.3) and the messages between agent and beacon
//! (`wire.md` 9): `FE ‖ id 2 ‖ postcard body`.
//!
//! The order of enum variants is frozen and only ever appended to.

use super::registry::ErrorCode;
use super::{Bytes, CodecError, GrantBytes, decode_enum, encode_into};
use crate::addr::Address;
use crate::path::ChannelId;
use core::net::SocketAddr;
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// F0: ping, 8 bytes.
pub const PING: u8 = 0xF0;
/// F1: pong, the same 8 bytes.
pub const PONG: u8 = 0xF1;
/// F2: path challenge, 8 random bytes (`wire.md` 5.5).
pub const PATH_CHALLENGE: u8 = 0xF2;
/// F3: path response, the same 8 bytes.
pub const PATH_RESPONSE: u8 = 0xF3;
/// F4: post-quantum upgrade, encapsulation key (deferred, `wire.md` 4.10).
pub const PQ_KEY: u8 = 0xF4;
/// F5: post-quantum upgrade, ciphertext (deferred).
pub const PQ_CIPHERTEXT: u8 = 0xF5;
/// F6: punch primed (`wire.md` 5.8).
pub const PRIMED: u8 = 0xF6;
/// F7: close, code 1 (`wire.md` 4.9).
pub const CLOSE: u8 = 0xF7;
/// F8: our newer record.
pub const RECORD: u8 = 0xF8;
/// F9: candidates (`wire.md` 5.8).
pub const CANDIDATES: u8 = 0xF9;
/// FA: padding and path MTU probe.
pub const PADDING: u8 = 0xFA;
/// FB: tree head (deferred, `wire.md` 6.3).
pub const TREE_HEAD: u8 = 0xFB;
/// FC: flow context (deferred, `wire.md` 5.7).
pub const FLOW_CONTEXT: u8 = 0xFC;
/// FD: frame acknowledgement (`wire.md` 11).
pub const ACKNOWLEDGE: u8 = 0xFD;
/// FE: a message with the beacon.
pub const BEACON: u8 = 0xFE;

/// What F7 says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum CloseCode {
    /// The peer shuts down.
    Shutdown = 0,
    /// The peer restarts and will be back.
    Restart = 1,
    /// The peer does not trust us any more.
    Revoked = 2,
    /// The peer's identity now runs elsewhere.
    Fenced = 3,
}

impl CloseCode {
    /// The code in a frame; `None` for one we do not know.
    pub const fn from_u8(code: u8) -> Option<Self> {
        match code {
            0 => Some(CloseCode::Shutdown),
            1 => Some(CloseCode::Restart),
            2 => Some(CloseCode::Revoked),
            3 => Some(CloseCode::Fenced),
            _ => None,
        }
    }
}

/// Most candidates of one agent (`wire.md` 5.8: n ≤ 8).
pub const CANDIDATES_MAX: usize = 8;
/// Most endpoints told of one agent: its candidates and the one that the beacon observed.
pub const ENDPOINTS_MAX: usize = CANDIDATES_MAX + 1;
/// Most alternate addresses of a beacon: the three other corners of RFC 5780.
pub const ALTERNATES_MAX: usize = 3;
/// Longest message of this module, header included; far below what a datagram carries.
pub const MESSAGE_MAX: usize = 512;
/// Bytes in front of the postcard body.
pub const HEADER: usize = 3;

/// How an endpoint was learned (`wire.md` 5.8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
pub enum EndpointKind {
    /// An address of an interface.
    Host = 0,
    /// What a STUN server or the beacon saw.
    Observed = 1,
    /// What a NAT's next mapping should be.
    Predicted = 2,
    /// A port mapping asked of the router.
    Mapped = 3,
}

/// Where an agent may be reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// How it was learned.
    pub kind: EndpointKind,
    /// The address.
    pub address: SocketAddr,
}

/// The candidates an agent reports of itself.
pub type Candidates = Vec<Endpoint, CANDIDATES_MAX>;
/// All endpoints of an agent, the observed one included.
pub type Endpoints = Vec<Endpoint, ENDPOINTS_MAX>;

/// Agent to beacon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToBeacon {
    /// First message on every new session, and after a new boot id of either side.
    Hello {
        /// The sender's backbone address.
        address: Address,
        /// 8 random bytes of this process start.
        boot_id: u64,
        /// Endpoints of its own.
        candidates: Candidates,
        /// NAT behaviour: mapping + 4·filtering + 16·allocation, 0 unknown (`wire.md` 5.8).
        nat: u8,
    },
    /// Every 15 s, and at once when something changed.
    Keepalive {
        /// New candidates, if they changed.
        candidates: Option<Candidates>,
        /// New NAT behaviour, if it changed.
        nat: Option<u8>,
    },
    /// Asks for a relay channel to the grantor of `grant`.
    Bind {
        /// A grant whose grantee is the sender.
        grant: GrantBytes,
    },
    /// The `Bound` of this channel of ours has arrived.
    BoundAck {
        /// Our end's id.
        channel: ChannelId,
    },
    /// The channel is not wanted any more.
    Release {
        /// Our end's id.
        channel: ChannelId,
    },
}

/// One end's view of a relay channel (`wire.md` 7).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChannelInfo {
    /// The receiver's own end; it sends and receives under this id.
    pub channel: ChannelId,
    /// The other end's address.
    pub peer: Address,
    /// The other end's identity key.
    pub identity: Bytes<32>,
    /// Where the beacon sees the other end; punches go only there.
    pub observed: SocketAddr,
    /// The key of the receiver's end.
    pub key: Bytes<16>,
}

/// Beacon to agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FromBeacon {
    /// Answer to `Hello`.
    HelloAck {
        /// Where the beacon sees the agent.
        observed: SocketAddr,
        /// The beacon's other addresses, for RFC 5780: other port, other IP, both.
        alternates: Vec<SocketAddr, ALTERNATES_MAX>,
        /// Something is in the mailbox.
        waiting: bool,
    },
    /// Answer to `Keepalive`.
    KeepaliveAck {
        /// Where the beacon sees the agent.
        observed: SocketAddr,
        /// Something is in the mailbox.
        waiting: bool,
    },
    /// Something new is in the mailbox; repeated until fetched.
    Waiting,
    /// Answer to `Bind`.
    Channel(ChannelInfo),
    /// Unsolicited, to the other end of a new channel; repeated until `BoundAck`.
    Bound(ChannelInfo),
    /// The channel is gone: revoked, released or idle. Unsolicited, or the answer to `Release`.
    Unbound {
        /// The receiver's end.
        channel: ChannelId,
    },
    /// The identity now runs elsewhere (`wire.md` 10).
    Fenced,
    /// The request with this id failed.
    Error {
        /// Why.
        error: BeaconError,
        /// When to try again, in milliseconds; 0: no statement.
        retry_ms: u32,
    },
}

/// Why the beacon refused a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BeaconError {
    /// No valid grant, or an address that is not the session's.
    NotPermitted,
    /// The other end has no session with the beacon.
    Offline,
    /// A quota is used up.
    Quota,
    /// `Hello` has not been accepted on this session.
    NotRegistered,
    /// A request that this beacon does not know or cannot read.
    Malformed,
}

impl From<BeaconError> for ErrorCode {
    fn from(error: BeaconError) -> ErrorCode {
        match error {
            BeaconError::NotPermitted | BeaconError::Offline => ErrorCode::NotFound,
            BeaconError::Quota => ErrorCode::Full,
            BeaconError::NotRegistered => ErrorCode::NotRegistered,
            BeaconError::Malformed => ErrorCode::Malformed,
        }
    }
}

const TO_BEACON_KINDS: u32 = 5;
const FROM_BEACON_KINDS: u32 = 8;

/// Writes `FE ‖ id ‖ message` and gives its length; at most [`MESSAGE_MAX`].
pub fn encode<T: Message>(id: u16, message: &T, out: &mut [u8]) -> Result<usize, CodecError> {
    let (head, body) = out.split_at_mut_checked(HEADER).ok_or(CodecError::BufferTooSmall)?;
    head[0] = BEACON;
    head[1..].copy_from_slice(&id.to_be_bytes());
    Ok(HEADER + encode_into(message, body)?)
}

/// Reads the id of a frame that begins with [`BEACON`]; the answer to a body that does not
/// decode still repeats it.
pub fn message_id(frame: &[u8]) -> Option<u16> {
    match frame {
        [BEACON, high, low, ..] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// Reads `FE ‖ id ‖ message`.
pub fn decode<T: Message>(frame: &[u8]) -> Result<(u16, T), CodecError> {
    let id = message_id(frame).ok_or(CodecError::Malformed)?;
    Ok((id, decode_enum(&frame[HEADER..], T::KINDS)?))
}

/// [`ToBeacon`] or [`FromBeacon`].
pub trait Message: Serialize + for<'de> Deserialize<'de> {
    #[doc(hidden)]
    const KINDS: u32;
}

impl Message for ToBeacon {
    const KINDS: u32 = TO_BEACON_KINDS;
}

impl Message for FromBeacon {
    const KINDS: u32 = FROM_BEACON_KINDS;
}
