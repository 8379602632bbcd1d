//! Paths to a peer: what a route is, and how peers and paths are numbered.

pub mod discover;
pub mod mtu;
pub mod nat;
pub mod punch;
pub mod spray;
pub mod strategy;
pub mod stun_client;

use crate::machine::Path;
use serde::{Deserialize, Serialize};

/// The number of a peer in the tables of tunnel, transport and node; below
/// [`crate::limits::Limits::peers`]. The node hands it out and uses it again after removal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerIndex(pub u32);

impl PeerIndex {
    /// As an index into a table of peers.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The number of a path among those of one peer; below [`PATHS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PathId(pub u8);

/// Most paths of one peer. When full, the oldest that is not in use goes.
pub const PATHS: usize = 4;

/// A relay channel's id: 24 bits, unique in the beacon (`wire.md` 7).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ChannelId(pub u32);

/// Where a packet of the tunnel came from or goes to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Route {
    /// A datagram of its own.
    Direct(Path),
    /// Inside a relay frame to or from the beacon.
    Relay(ChannelId),
}
