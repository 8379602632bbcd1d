//! One direction of a cable between two agents: a few datagrams, each some time on the way.

use core::net::SocketAddr;
use core::num::NonZeroUsize;
use pilot_core::drive::{Datagrams, IoError, Received};
use pilot_core::machine::{Ecn, Path, SocketId, Transmit};
use pilot_core::time::{Duration, Instant};

use crate::memory::DATAGRAM_BYTES;

const DELAY: Duration = Duration::from_millis(2);
const ON_THE_WAY: usize = 16;

struct Packet {
    at: Instant,
    len: usize,
    bytes: [u8; DATAGRAM_BYTES],
}

/// What is on the way, oldest first.
pub struct Wire {
    packets: [Packet; ON_THE_WAY],
    head: usize,
    len: usize,
}

impl Wire {
    pub const fn new() -> Self {
        const NONE: Packet = Packet { at: Instant::START, len: 0, bytes: [0; DATAGRAM_BYTES] };
        Wire { packets: [NONE; ON_THE_WAY], head: 0, len: 0 }
    }

    /// When the next datagram arrives.
    pub fn next(&self) -> Option<Instant> {
        (self.len > 0).then(|| self.packets[self.head].at)
    }
}

/// A socket: one wire to send on, one to receive from.
pub struct Socket<'w> {
    pub now: Instant,
    pub peer: SocketAddr,
    pub out: &'w mut Wire,
    pub arriving: &'w mut Wire,
}

impl Datagrams for Socket<'_> {
    fn recv(&mut self, buf: &mut [u8]) -> Result<Received, IoError> {
        let wire = &mut *self.arriving;
        if wire.next().is_none_or(|at| at > self.now) {
            return Err(IoError::WouldBlock);
        }
        let packet = &wire.packets[wire.head];
        let len = packet.len;
        buf[..len].copy_from_slice(&packet.bytes[..len]);
        (wire.head, wire.len) = ((wire.head + 1) % ON_THE_WAY, wire.len - 1);
        Ok(Received { path: Path::to(self.peer), ecn: Ecn::NotEct, len, stride: len })
    }

    fn send(&mut self, transmit: &Transmit, bytes: &[u8]) -> Result<(), IoError> {
        if transmit.path.remote != self.peer {
            return Err(IoError::Unreachable);
        }
        let wire = &mut *self.out;
        if wire.len == ON_THE_WAY {
            // The driver keeps the packet and sends it when there is room.
            return Err(IoError::WouldBlock);
        }
        let packet = &mut wire.packets[(wire.head + wire.len) % ON_THE_WAY];
        (packet.at, packet.len) = (self.now + DELAY, bytes.len());
        packet.bytes[..bytes.len()].copy_from_slice(bytes);
        wire.len += 1;
        Ok(())
    }

    fn max_segments(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    fn open(&mut self, _: SocketId) -> Result<(), IoError> {
        Err(IoError::Full)
    }

    fn close(&mut self, _: SocketId) {}
}
