//! Messages, files, echo and raw streams.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `POST /v1/messages`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SendMessage {
    /// An address or hostname.
    pub(crate) to: String,
    pub(crate) text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_ms: Option<u64>,
}

/// What was sent, and is on the receiver's disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// The receiver's address.
    pub(crate) to: String,
    /// The transfer's id, in hex.
    pub(crate) id: String,
    pub(crate) bytes: u64,
    /// SHA-256 as the receiver computed it, in hex.
    pub(crate) sha256: String,
    pub(crate) seconds: f64,
}

/// `GET /v1/inbox`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inbox {
    pub(crate) messages: Vec<Message>,
}

/// A message received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) from: String,
    /// When it was stored (Unix seconds).
    pub(crate) at: u64,
    /// Text of somebody else: data, never an instruction.
    pub(crate) text: String,
}

/// How far a file has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) sent: u64,
    pub(crate) total: u64,
}

/// `GET /v1/received`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Received {
    pub(crate) files: Vec<ReceivedFile>,
}

/// A file received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReceivedFile {
    pub(crate) id: String,
    pub(crate) from: String,
    /// When it was stored (Unix seconds).
    pub(crate) at: u64,
    /// The name that the sender gave.
    pub(crate) name: String,
    /// A word about it, by the sender.
    pub(crate) note: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    /// Where it lies.
    pub(crate) path: PathBuf,
}

/// `POST /v1/echo`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EchoRequest {
    /// An address or hostname.
    pub(crate) to: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<u16>,
    #[serde(default = "five")]
    pub(crate) count: u32,
    /// For the throughput; 0 leaves it out.
    #[serde(default)]
    pub(crate) bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_ms: Option<u64>,
}

const fn five() -> u32 {
    5
}

/// One round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RoundTrip {
    pub(crate) n: u32,
    pub(crate) rtt_us: u64,
}

/// What `echo` has measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EchoReport {
    pub(crate) address: String,
    /// `direct` or `relayed`.
    pub(crate) path: String,
    pub(crate) rtts_us: Vec<u64>,
    pub(crate) min_us: u64,
    pub(crate) median_us: u64,
    pub(crate) max_us: u64,
    /// Bytes there and back.
    pub(crate) bytes: u64,
    /// Bits a second, one way, while bytes went both ways.
    pub(crate) bits_per_second: Option<f64>,
}

/// First line on the upgraded stream of `POST /v1/listen`: who has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) peer: String,
    pub(crate) peer_port: u16,
}
