//! The node, as its household sees it.

use crate::drive::agent::{Change, Handle, LINGER};
use crate::drive::runtime::Runtime;
use crate::node::Command;
use crate::time::UnixTime;
use alloc::vec;
use alloc::vec::Vec;
use std::net::SocketAddr;

/// Bytes of the longest durable value, twice what the node asks for.
const VALUE: usize = 4 * 1024;

/// Whom a household is kept for: the calls of a node and of its sockets that it makes. None of
/// them blocks.
pub trait Tenant {
    /// The registry is connected.
    fn handle_registry_open(&self);
    /// The connection has ended, or was not made.
    fn handle_registry_close(&self);
    /// Bytes from the registry.
    fn handle_bytes(&self, bytes: &[u8]);
    /// Moves bytes for the registry to `out`; their number.
    fn poll_bytes(&self, out: &mut [u8]) -> usize;
    /// Moves at most `max` durable changes to `out`; the sequence number of the last one.
    fn poll_store(&self, max: usize, out: &mut Vec<Change>) -> u64;
    /// Everything up to this sequence number is durable.
    fn handle_stored(&self, sequence: u64);
    /// Where the beacon is.
    fn set_beacon(&self, address: SocketAddr);
    /// The host candidates have changed.
    fn set_locals(&self, locals: &[SocketAddr]);
    /// The wall clock was set, or cannot be trusted to have run evenly.
    fn set_wall_clock(&self, unix: UnixTime);
    /// Fresh entropy.
    fn reseed(&self, entropy: [u8; 32]);
    /// Whether the beacon was told to be somewhere, and does not answer there.
    fn misses_beacon(&self) -> bool;
    /// Whether the sockets can send to this address's family.
    fn reaches(&self, remote: SocketAddr) -> bool;
    /// What the main socket is bound to.
    fn local_addresses(&self) -> Vec<SocketAddr>;
    /// Nothing is left to store before the end: the sockets may be closed.
    fn stop(&self);
}

/// Commands are refused only after a shutdown, when nothing depends on them any more.
impl<R: Runtime> Tenant for Handle<R> {
    fn handle_registry_open(&self) {
        self.with(|access| access.machine.handle_registry_open(access.now));
    }

    fn handle_registry_close(&self) {
        self.with(|access| access.machine.handle_registry_close(access.now));
    }

    fn handle_bytes(&self, bytes: &[u8]) {
        self.with(|access| access.machine.handle_bytes(access.now, bytes));
    }

    fn poll_bytes(&self, out: &mut [u8]) -> usize {
        self.peek(|access| access.machine.poll_bytes(access.now, out))
    }

    fn poll_store(&self, max: usize, out: &mut Vec<Change>) -> u64 {
        let mut value = vec![0; VALUE];
        self.peek(|access| {
            let mut sequence = 0;
            while out.len() < max
                && let Some(change) = access.machine.poll_store(&mut value)
            {
                out.push((change.key, change.len.map(|len| value[..len].to_vec())));
                sequence = change.sequence;
            }
            sequence
        })
    }

    fn handle_stored(&self, sequence: u64) {
        self.with(|access| access.machine.handle_stored(access.now, sequence));
    }

    fn set_beacon(&self, address: SocketAddr) {
        self.with(|access| {
            let _ = access.machine.command(access.now, Command::SetBeacon { address });
        });
    }

    fn set_locals(&self, locals: &[SocketAddr]) {
        self.with(|access| {
            let _ = access.machine.command(access.now, Command::NetworkChanged { locals });
        });
    }

    fn set_wall_clock(&self, unix: UnixTime) {
        self.with(|access| {
            let _ = access.machine.command(access.now, Command::ClockChanged { unix });
        });
    }

    fn reseed(&self, entropy: [u8; 32]) {
        self.peek(|access| {
            let _ = access.machine.command(access.now, Command::Reseed { entropy });
        });
    }

    fn misses_beacon(&self) -> bool {
        self.peek(|access| access.machine.misses_beacon())
    }

    fn reaches(&self, remote: SocketAddr) -> bool {
        self.shared().reaches(remote)
    }

    fn local_addresses(&self) -> Vec<SocketAddr> {
        self.shared().local_addresses()
    }

    fn stop(&self) {
        self.shared().stop(LINGER);
    }
}
