//! What the loop needs of the outside: sockets that never block, and a clock.

use crate::machine::{Ecn, Path, SocketId, Transmit};
use crate::time::Instant;
use core::num::NonZeroUsize;

/// What one receive call has put into the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Where it came from, and by which socket. IPv4-mapped addresses are already translated.
    pub path: Path,
    /// ECN bits of the IP header; of the whole train, if it is one.
    pub ecn: Ecn,
    /// Bytes in the buffer.
    pub len: usize,
    /// Length of each datagram of a train (generic receive offload), the last one perhaps
    /// shorter. Equal to `len` for a single datagram.
    pub stride: usize,
}

/// Why a socket did not do as asked. Nothing here is fatal to the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// Nothing to receive, or no room to send, now.
    #[error("would block")]
    WouldBlock,
    /// A datagram exceeds the interface's MTU (`EMSGSIZE`).
    #[error("the datagram is too large for the interface")]
    TooLarge,
    /// No route, or the network or host is down.
    #[error("unreachable")]
    Unreachable,
    /// A local firewall or policy forbids it (`EPERM`, `EACCES`).
    #[error("not permitted by the operating system")]
    Denied,
    /// No such socket is open, or none of the destination's address family.
    #[error("no socket for that")]
    NoSocket,
    /// Too many sockets, or no descriptor left.
    #[error("no more sockets")]
    Full,
    /// Any other error, with the operating system's number, 0 if it has none.
    #[error("operating system error {0}")]
    Os(i32),
}

/// Non-blocking UDP sockets, addressed by [`SocketId`]. Socket 0 is always there.
pub trait Datagrams {
    /// Receives one datagram, or one train of datagrams of one sender, from whichever socket
    /// has something. `buf` is [`super::RECEIVE_BUFFER`] bytes long. [`IoError::WouldBlock`]
    /// when no socket has anything; the adapter then waits for readiness.
    fn recv(&mut self, buf: &mut [u8]) -> Result<Received, IoError>;

    /// Sends `bytes`, as `transmit` describes them. After [`IoError::WouldBlock`] nothing of
    /// it was sent, and the same call is made again when a socket is writable.
    fn send(&mut self, transmit: &Transmit, bytes: &[u8]) -> Result<(), IoError>;

    /// Most segments of a train that can be sent at present; 1 without segmentation offload.
    fn max_segments(&self) -> NonZeroUsize;

    /// Whether a datagram that is longer than an interface or a path carries may be sent in
    /// fragments, instead of being refused ([`IoError::TooLarge`]) or lost. If so, the search for
    /// longer datagrams would find sizes that cost many packets each, so
    /// [`crate::limits::Limits::datagram`] must stay at [`crate::limits::DATAGRAM_DEFAULT`].
    fn may_fragment(&self) -> bool {
        true
    }

    /// Opens an auxiliary socket on any port. Its id is free; or it is 0, and the main socket
    /// is replaced by one of the same addresses on any port. After an error all is as before.
    fn open(&mut self, socket: SocketId) -> Result<(), IoError>;

    /// Closes an auxiliary socket; an unknown id is ignored.
    fn close(&mut self, socket: SocketId);
}

/// A monotonic clock. The loop reads it between its steps, because the clock and not the
/// runtime's timer decides what has expired.
pub trait Clock {
    /// The present.
    fn now(&self) -> Instant;
}

impl<F: Fn() -> Instant> Clock for F {
    fn now(&self) -> Instant {
        self()
    }
}
