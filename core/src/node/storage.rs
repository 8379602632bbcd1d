//! The memory of a node: every table, boxed once or lent by the caller.

use super::link::Link;
use super::probes::Probes;
use crate::directory;
use crate::path::punch::Punch;
use crate::session::TunnelStorage;
use crate::slab::{Slab, Store};
use crate::stream::TransportStorage;
use crate::timer::Deadlines;

/// One place of the table of paths.
pub struct LinkSlot(pub(super) Option<Link>);

impl LinkSlot {
    /// An empty place, for storage that the caller lends.
    pub const fn empty() -> Self {
        LinkSlot(None)
    }
}

impl core::fmt::Debug for LinkSlot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(if self.0.is_some() { "LinkSlot(used)" } else { "LinkSlot" })
    }
}

/// All tables of a node with `n` peers.
pub struct Storage<'s> {
    /// Registry, beacon and trust.
    pub directory: directory::Storage<'s>,
    /// Sessions.
    pub tunnel: TunnelStorage<'s>,
    /// Streams and datagrams.
    pub transport: TransportStorage<'s>,
    /// `n`: the paths to each peer.
    pub links: Store<'s, LinkSlot>,
    /// Peers that have path challenges or answers under way at once: `n`, or fewer, and then
    /// one that finds no place waits.
    pub probes: Slab<'s, Probes>,
    /// Peers that are punched towards at once; one more waits for its next turn.
    pub punches: Slab<'s, Punch>,
    /// `n`.
    pub deadlines: Deadlines<'s>,
}

impl core::fmt::Debug for Storage<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Storage({} peers)", self.links.capacity())
    }
}

#[cfg(feature = "alloc")]
impl Storage<'static> {
    /// Boxed storage of these limits.
    pub fn boxed(limits: &crate::limits::Limits) -> Self {
        Storage {
            directory: directory::Storage::boxed(limits),
            tunnel: TunnelStorage::boxed(limits),
            transport: TransportStorage::boxed(limits),
            links: Store::<LinkSlot>::growing(limits.peers),
            // A pool that others cannot exhaust; only what is used is touched.
            probes: Slab::<Probes>::boxed(limits.peers),
            punches: Slab::<Punch>::boxed(limits.peers.min(crate::limits::PUNCHES)),
            deadlines: Deadlines::boxed(limits.peers),
        }
    }
}
