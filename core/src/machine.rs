//! What every machine of this crate looks like to its driver (`architecture.md` 3).
//!
//! Separate polls, not one output enum: a blocked socket must not hide events or timers.

use crate::addr::{Port, SocketAddress};
use crate::stats::DropReason;
use crate::time::Instant;
use core::net::{IpAddr, SocketAddr};
use core::num::{NonZeroU8, NonZeroU16, NonZeroUsize};

/// A UDP socket of the adapter. Socket 0 is the main one and always there; others are opened
/// and closed on the machine's word (`Event::OpenSocket`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SocketId(pub u16);

/// Where a datagram came from or goes to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Path {
    /// The socket.
    pub socket: SocketId,
    /// The local address, where the operating system told it.
    pub local: Option<IpAddr>,
    /// The other end. IPv4 is never written as an IPv4-mapped IPv6 address here; the adapter
    /// translates in both directions.
    pub remote: SocketAddr,
}

impl Path {
    /// A path on the main socket with the local address left to the operating system.
    pub const fn to(remote: SocketAddr) -> Self {
        Path { socket: SocketId(0), local: None, remote }
    }
}

/// Explicit congestion notification bits of the IP header (RFC 3168).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ecn {
    /// Not ECN-capable.
    #[default]
    NotEct,
    /// ECN-capable, codepoint 01.
    Ect1,
    /// ECN-capable, codepoint 10.
    Ect0,
    /// Congestion experienced.
    Ce,
}

/// One send operation, whose bytes are in the buffer given to `poll_transmit`.
#[must_use = "its bytes are in the buffer and are sent by nobody else"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Where it goes.
    pub path: Path,
    /// Bytes of the buffer to send.
    pub len: usize,
    /// If set, `len` bytes are several datagrams of this length, the last one perhaps shorter
    /// (generic segmentation offload). Unset: one datagram.
    pub segment: Option<NonZeroU16>,
    /// ECN bits to set.
    pub ecn: Ecn,
    /// Hop limit (TTL) of this one datagram; first punches die before the peer's NAT.
    /// A transmit with a hop limit is a single segment.
    pub hop_limit: Option<NonZeroU8>,
}

impl Transmit {
    /// How many datagrams these are.
    pub fn datagrams(&self) -> usize {
        match self.segment {
            Some(segment) => self.len.div_ceil(usize::from(segment.get())),
            None => 1,
        }
    }
}

/// Why the machine wants to be called.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// Output is queued: poll now.
    Output,
    /// A handshake attempt is repeated or given up.
    Handshake,
    /// A session is rekeyed, rejected or forgotten.
    Session,
    /// An acknowledgement is due.
    Acknowledge,
    /// Loss detection, probe or retransmission timeout.
    Recovery,
    /// The pacer lets the next packets go.
    Pacing,
    /// A path is kept alive, is suspected or removed.
    Path,
    /// A stream's own timer: zero-window probe, TIME_WAIT.
    Stream,
    /// A request to registry or beacon is repeated or given up.
    Directory,
    /// A table is swept.
    Sweep,
}

/// The next moment at which `handle_timeout` has something to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeout {
    /// When. Not after the last `now` if output is queued.
    pub at: Instant,
    /// The earliest reason.
    pub reason: Reason,
}

/// What became of a datagram.
#[must_use = "a datagram for the application is in here"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ingress<'b> {
    /// It was for the machine itself.
    Handled,
    /// It was not accepted, and was counted.
    Dropped(DropReason),
    /// An application datagram, decrypted in place.
    Datagram {
        /// The authenticated sender.
        from: SocketAddress,
        /// The local port.
        to: Port,
        /// The content.
        payload: &'b [u8],
    },
}

/// A sans-IO machine: datagrams, bytes and time in; datagrams, bytes, deadlines and events
/// out. The contract is in the crate's root documentation.
pub trait Machine {
    /// Edges that the owner reacts to.
    type Event;

    /// Takes one received datagram (never a GRO train: the driver splits those). Decrypts in
    /// place. Peer bytes never cause an error or a panic.
    fn handle_datagram<'b>(
        &mut self,
        now: Instant,
        path: Path,
        ecn: Ecn,
        datagram: &'b mut [u8],
    ) -> Ingress<'b>;

    /// The driver has handed over all that it received at once. A machine that acknowledges
    /// does so now rather than per datagram (`wire.md` 11, loss recovery).
    fn handle_batch_end(&mut self, now: Instant) {
        let _ = now;
    }

    /// Lets time pass. Early or twice does nothing; late is safe.
    fn handle_timeout(&mut self, now: Instant);

    /// Builds the next datagrams in `out`, up to `max_segments` equal ones for one
    /// destination; `None` when there is nothing to send now. Call until `None`.
    fn poll_transmit(
        &mut self,
        now: Instant,
        out: &mut [u8],
        max_segments: NonZeroUsize,
    ) -> Option<Transmit>;

    /// The host refused to send what [`Machine::poll_transmit`] gave last: its datagrams are
    /// larger than the interface carries. It counts as lost; a machine that searches for the size
    /// of its paths takes a smaller one.
    fn handle_too_large(&mut self, now: Instant, transmit: &Transmit) {
        let _ = (now, transmit);
    }

    /// The next deadline, or `None` if only input can change anything.
    fn poll_timeout(&self) -> Option<Timeout>;

    /// The next event. Call until `None`.
    fn poll_event(&mut self) -> Option<Self::Event>;
}
