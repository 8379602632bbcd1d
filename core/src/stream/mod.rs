//! Streams and datagrams over data frames, and everything that makes them arrive
//! (`wire.md` 11).
//!
//! [`Transport`] is one sans-IO sub-machine for all peers of a node. It knows no keys: it
//! writes and reads the *plaintext* of frames (34-byte header and payload, or an `FD`
//! acknowledgement), and a frame is named by the pair (session index, counter) under which the
//! node sealed or opened it.
//!
//! # How the node drives it
//!
//! *Receiving*, for each frame whose tag was good:
//! 1. first byte `0x1_`: decode the header, [`Transport::handle_packet`]; `0xFD`:
//!    [`Transport::handle_ack`]; anything else is the node's own;
//! 2. unless the packet was not [`PacketOutcome::accepted`], [`Transport::frame_received`] with
//!    the index and counter it arrived under (also for FD, empty and other frames that elicit
//!    nothing, so that they leave no gap);
//! 3. after each receive batch [`Transport::batch_end`].
//!
//! *Sending*: while [`Transport::poll_ready`] names a peer, ask [`Transport::next_path`], then
//! call [`Transport::write_frame`] with a fresh [`TrainState`] until it returns `None`; after
//! each frame, seal it and report [`Transport::frame_sent`] before anything else is called.
//! Frames are only written while a session is up, from the state of that moment; all frames of
//! a train have the first one's length, the last may be shorter.
//!
//! *Time*: [`Transport::poll_timeout`] is not after the last `now` while something may be
//! ready; [`Transport::handle_timeout`] early or twice does nothing.
//!
//! # How it is built
//!
//! | Module | What |
//! |---|---|
//! | `state` | the states of a stream and their table |
//! | `send`, `receive` | the two halves of a stream, without time and network |
//! | `buffer`, `datagram` | the block pool, rings, the datagram queue |
//! | `frame`, `recovery`, `rtt`, `pace`, `congestion` | frames in flight on a path, when they are lost, how many there may be |
//! | `search` | the probes of [`crate::path::mtu`] on a path, and what becomes of them |
//! | `ack` | what has arrived, the FD frame |
//! | `peer`, `entry` | the records of a peer and of a stream |
//! | `transport`, `lifecycle`, `ingress`, `egress`, `acknowledge`, `application`, `events` | the machine: peers and time, streams coming and going, packets in, frames out, acknowledgements, the application's calls, events |
//!
//! Every peer with possible output is in one *ready* list; a call that may create output only
//! puts the peer there, and [`Transport::poll_ready`] works out once what it has and when its
//! next timer is due.

pub(crate) mod ack;
mod acknowledge;
mod application;
mod buffer;
mod congestion;
mod datagram;
mod egress;
mod entry;
mod events;
mod frame;
mod ingress;
mod lifecycle;
mod list;
mod pace;
mod peer;
mod range;
mod receive;
mod recovery;
mod rtt;
mod search;
mod send;
mod state;
mod transport;

#[cfg(test)]
mod tests;

pub use ack::{ACKNOWLEDGEMENT, AckSpace};
pub use egress::{FrameToken, TrainState, Written};
pub use entry::Stream;
pub use frame::FrameSlot;
pub(crate) use list::List as AcceptQueue;
pub use peer::PeerSlot;
pub use recovery::PathState;
pub use state::State;
pub use transport::{Transport, TransportStorage};

use crate::addr::{NetworkId, Port, SocketAddress};
use crate::path::{PathId, PeerIndex};
use crate::slab::Key;
use crate::stats::DropReason;
use crate::time::Duration;

/// Names one stream until the application releases it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub(crate) Key);

impl StreamId {
    /// One number for handles that leave the core.
    pub const fn to_bits(self) -> u64 {
        self.0.to_bits()
    }

    /// The id whose [`StreamId::to_bits`] this is. One that never was finds nothing.
    pub const fn from_bits(bits: u64) -> Self {
        StreamId(Key::from_bits(bits))
    }
}

/// The code in a reset's payload (`wire.md` 11).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ResetCode {
    /// 0: nobody listens on the port, or the stream is not known.
    Closed,
    /// 1: the grant's rights do not cover the port.
    NotPermitted,
    /// 2: too many streams, or no memory.
    Busy,
    /// 3: the application gave the stream up.
    Aborted,
    /// A code of a later version.
    Other(u8),
}

impl ResetCode {
    /// As on the wire.
    pub const fn to_byte(self) -> u8 {
        match self {
            ResetCode::Closed => 0,
            ResetCode::NotPermitted => 1,
            ResetCode::Busy => 2,
            ResetCode::Aborted => 3,
            ResetCode::Other(code) => code,
        }
    }

    /// From the wire.
    pub const fn from_byte(code: u8) -> Self {
        match code {
            0 => ResetCode::Closed,
            1 => ResetCode::NotPermitted,
            2 => ResetCode::Busy,
            3 => ResetCode::Aborted,
            other => ResetCode::Other(other),
        }
    }
}

/// How a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum StreamEnd {
    /// Both directions were finished and acknowledged.
    Finished,
    /// The peer reset it.
    Reset(ResetCode),
    /// We reset it.
    Aborted,
    /// The peer came back with a new boot id (`wire.md` 11).
    PeerRestarted,
    /// The peer did not answer for 90 s (`wire.md` 4.9).
    Unreachable,
    /// The peer was removed: trust was revoked.
    Removed,
    /// The peer said goodbye (F7).
    Gone,
}

/// Why no stream was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No such peer was added.
    #[error("unknown peer")]
    UnknownPeer,
    /// `Limits::streams` streams exist.
    #[error("too many streams")]
    TooManyStreams,
    /// The pool cannot guarantee 64 KiB more.
    #[error("no buffer memory left")]
    NoMemory,
    /// All 16,384 ephemeral ports lead to this port of the peer.
    #[error("no ephemeral port left")]
    NoPort,
}

/// Why a read gave nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Nothing has arrived; [`TransportEvent::Readable`] tells when to try again.
    #[error("nothing to read yet")]
    WouldBlock,
    /// No such stream.
    #[error("unknown stream")]
    Unknown,
    /// The stream ended before its end was received.
    #[error("the stream has ended")]
    Ended(StreamEnd),
}

/// Why a write took nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The ring is full; [`TransportEvent::Writable`] tells when to try again.
    #[error("no room yet")]
    WouldBlock,
    /// No such stream.
    #[error("unknown stream")]
    Unknown,
    /// `finish` was called before.
    #[error("this direction is finished")]
    Finished,
    /// The stream has ended.
    #[error("the stream has ended")]
    Ended(StreamEnd),
}

/// Why a datagram was not queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// No such peer was added.
    #[error("unknown peer")]
    UnknownPeer,
    /// It does not fit one datagram of the path.
    #[error("a datagram to this peer is at most {max} bytes")]
    TooLarge {
        /// Bytes that fit now.
        max: usize,
    },
    /// The pool has no room for it.
    #[error("no buffer memory left")]
    NoMemory,
}

/// What became of an inner packet.
#[must_use = "its frame is acknowledged, or not"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketOutcome {
    /// Its frame may be acknowledged: call [`Transport::frame_received`].
    pub accepted: bool,
    /// It asks for an acknowledgement at once.
    pub immediate: bool,
    /// It is a datagram for the application: the sender, and the port here.
    pub datagram: Option<(SocketAddress, Port)>,
    /// It, or what it carried, was dropped; the node counts it.
    pub dropped: Option<DropReason>,
}

/// Edges that the node reacts to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TransportEvent {
    /// A stream that we asked for is open.
    Opened(StreamId),
    /// A stream waits in the accept queue of this port.
    Acceptable(Port),
    /// There is more to read, or the end.
    Readable(StreamId),
    /// A writer that was told to wait may go on; or everything is acknowledged, if
    /// [`Transport::is_acknowledged`] has said that it was not.
    Writable(StreamId),
    /// All that was written, and the finish, has arrived.
    Finished(StreamId),
    /// The stream is over. What has arrived in order can still be read.
    Closed(StreamId, StreamEnd),
    /// Frames on this path are unanswered for too long (`wire.md` 4.9).
    PathSuspect(PeerIndex, PathId),
    /// A suspect path has answered.
    PathAlive(PeerIndex, PathId),
    /// Bulk may go by this path from now on ([`Transport::is_wide`]).
    PathWide(PeerIndex, PathId),
    /// A control frame of the node has arrived ([`Transport::control_sent`]).
    ControlAcknowledged(PeerIndex, u8),
    /// A control frame of the node is lost.
    ControlLost(PeerIndex, u8),
}

/// One stream, as `connections` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamInfo {
    /// The other end.
    pub peer: PeerIndex,
    /// The network it speaks in.
    pub network: NetworkId,
    /// Our port.
    pub local_port: Port,
    /// The peer's port.
    pub remote_port: Port,
    /// Where it is.
    pub state: State,
    /// We opened it.
    pub initiator: bool,
    /// Bytes that the application has written.
    pub written: u64,
    /// Of these, acknowledged.
    pub acknowledged: u64,
    /// Bytes that have arrived in order.
    pub received: u64,
    /// Of these, read by the application.
    pub read: u64,
    /// Bytes that the peer still allows us to send.
    pub send_window: u64,
    /// Bytes that we still allow the peer to send.
    pub receive_window: u64,
    /// How it ended.
    pub end: Option<StreamEnd>,
}

/// One path, as `peers` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathInfo {
    /// Smoothed round trip, once there is a sample.
    pub rtt: Option<Duration>,
    /// Smallest round trip; zero before the first sample.
    pub rtt_min: Duration,
    /// Congestion window in bytes.
    pub window: u64,
    /// Bytes in flight.
    pub flight: u64,
    /// The last delivery-rate sample, in bytes a second.
    pub rate: u64,
    /// Frames declared lost so far.
    pub lost: u64,
    /// UDP payload bytes of a full datagram.
    pub datagram: u16,
    /// Reported as suspect and not answered since.
    pub suspect: bool,
}
