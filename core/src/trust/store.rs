//! The durable form of the trust tables: one fact per slot, under the slot's number, so that a
//! peer keeps its number over restarts.

use super::Trust;
use super::peer::{Leaving, Peer, PeerSlot, PeerState};
use super::permissions::PortRanges;
use super::request::{Incoming, IncomingState, Outgoing};
use crate::addr::Address;
use crate::journal::{Fact, Journal, LoadError, StoreChange, decode, encode, key};
use serde::{Deserialize, Serialize};

impl Trust<'_> {
    // ---- durable state ----

    /// Takes one stored fact of this table; `None` if the key is not one of its.
    pub(crate) fn load(
        &mut self,
        kind: [u8; 4],
        number: u32,
        value: &[u8],
    ) -> Option<Result<(), LoadError>> {
        let i = number as usize;
        Some(match &kind {
            b"peer" => self.load_peer(i, value),
            b"asks" => self.load_outgoing(i, value),
            b"inbx" => self.load_incoming(i, value),
            _ => return None,
        })
    }

    fn load_peer(&mut self, i: usize, value: &[u8]) -> Result<(), LoadError> {
        let stored: StoredPeer = decode(value)?;
        if !self.peers.reach(i, PeerSlot::empty) {
            return Err(LoadError::Full);
        }
        let slot = &mut self.peers[i];
        if !slot.is_free() {
            return Err(LoadError::Malformed);
        }
        slot.state = match stored {
            StoredPeer::Trusted(peer) => {
                self.nodes[i] = peer.address.node.0;
                PeerState::Trusted(peer)
            }
            StoredPeer::Leaving(leaving) => PeerState::Leaving(leaving),
            StoredPeer::Ruled(mut peer, rules) => {
                self.nodes[i] = peer.address.node.0;
                (peer.ports, peer.superseded) = (rules.ports, rules.superseded);
                PeerState::Trusted(peer)
            }
            StoredPeer::LeavingWithMore(mut leaving) => {
                leaving.has_more = true;
                PeerState::Leaving(leaving)
            }
        };
        self.stamps += 1;
        slot.stamp = self.stamps;
        self.peers_used += 1;
        self.look();
        Ok(())
    }

    fn load_outgoing(&mut self, i: usize, value: &[u8]) -> Result<(), LoadError> {
        let out: Outgoing = decode(value)?;
        let slot = self.outgoing.get_mut(i).ok_or(LoadError::Full)?;
        if !slot.is_free() {
            return Err(LoadError::Malformed);
        }
        self.stamps += 1;
        slot.restore(out, self.stamps);
        self.outgoing_used += 1;
        self.look();
        Ok(())
    }

    fn load_incoming(&mut self, i: usize, value: &[u8]) -> Result<(), LoadError> {
        let stored: StoredIncoming = decode(value)?;
        let slot = self.incoming.get_mut(i).ok_or(LoadError::Full)?;
        if !slot.is_free() {
            return Err(LoadError::Malformed);
        }
        slot.state = match stored {
            StoredIncoming::Waiting(request) => {
                self.arrivals = self.arrivals.max(request.order.wrapping_add(1));
                IncomingState::Waiting(request)
            }
            StoredIncoming::Refused { to, nonce } => IncomingState::Refused { to, nonce },
        };
        self.stamps += 1;
        slot.stamp = self.stamps;
        self.look();
        Ok(())
    }

    /// The next changed fact, its value in `out`. Peers go first: a crash between two writes
    /// may leave a request for what is already done, never a done thing forgotten.
    pub(crate) fn poll_store(
        &mut self,
        journal: &mut Journal,
        out: &mut [u8],
    ) -> Option<StoreChange> {
        if let Some(i) = self.peers.iter().position(|slot| slot.fact.is_dirty()) {
            let slot = &mut self.peers[i];
            let len = match &slot.state {
                PeerState::Empty => None,
                PeerState::Trusted(peer) => Some(encode(&StoredPeerRef::of(peer), out)),
                PeerState::Leaving(l) if l.done => None,
                PeerState::Leaving(l) if l.has_more => {
                    Some(encode(&StoredPeerRef::LeavingWithMore(l), out))
                }
                PeerState::Leaving(leaving) => Some(encode(&StoredPeerRef::Leaving(leaving), out)),
            };
            return Some(change(b"peer", i, len, &mut slot.fact, journal));
        }
        if let Some(i) = self.incoming.iter().position(|slot| slot.fact.is_dirty()) {
            let slot = &mut self.incoming[i];
            let len = match &slot.state {
                IncomingState::Empty => None,
                IncomingState::Waiting(r) => Some(encode(&StoredIncomingRef::Waiting(r), out)),
                IncomingState::Refused { to, nonce } => {
                    Some(encode(&StoredIncomingRef::Refused { to: *to, nonce: *nonce }, out))
                }
            };
            return Some(change(b"inbx", i, len, &mut slot.fact, journal));
        }
        let i = self.outgoing.iter().position(|slot| slot.fact.is_dirty())?;
        let slot = &mut self.outgoing[i];
        let len = slot.live().map(|request| encode(request, out));
        Some(change(b"asks", i, len, &mut slot.fact, journal))
    }
}

/// The first two are as the first version wrote them, and are written so still where nothing
/// else is to be said: what is at rest stays as it is, and only who has rules of our own is not
/// understood by that version.
#[derive(Deserialize)]
enum StoredPeer {
    Trusted(Peer),
    Leaving(Leaving),
    Ruled(Peer, Rules),
    LeavingWithMore(Leaving),
}

#[derive(Serialize)]
enum StoredPeerRef<'a> {
    Trusted(&'a Peer),
    Leaving(&'a Leaving),
    Ruled(&'a Peer, Rules),
    LeavingWithMore(&'a Leaving),
}

impl<'a> StoredPeerRef<'a> {
    fn of(peer: &'a Peer) -> Self {
        let Peer { ports, superseded, .. } = *peer;
        if ports == PortRanges::ALL && !superseded {
            return StoredPeerRef::Trusted(peer);
        }
        StoredPeerRef::Ruled(peer, Rules { ports, superseded })
    }
}

/// What is kept about a peer beside its grant.
#[derive(Serialize, Deserialize)]
struct Rules {
    ports: PortRanges,
    superseded: bool,
}

#[derive(Deserialize)]
#[expect(clippy::large_enum_variant, reason = "lives on the stack while one fact is loaded")]
enum StoredIncoming {
    Waiting(Incoming),
    Refused { to: Address, nonce: [u8; 16] },
}

#[derive(Serialize)]
enum StoredIncomingRef<'a> {
    Waiting(&'a Incoming),
    Refused { to: Address, nonce: [u8; 16] },
}

fn change(
    kind: &[u8; 4],
    i: usize,
    len: Option<usize>,
    fact: &mut Fact,
    journal: &mut Journal,
) -> StoreChange {
    StoreChange { key: key(kind, i as u32), len, sequence: fact.hand_out(journal) }
}
