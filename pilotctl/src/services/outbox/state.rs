//! What the outbox knows in memory: what waits, for whom, and how much there may be of it.

use super::{Item, ItemState, Lane, OutboxLimits, PutError, Quota, Reason, SETTLED_MAX, disk};
use crate::services::serve::random_id;
use pilot_core::addr::Address;
use pilot_core::service::exchange::{Kind, TransferId};
use std::collections::{BTreeMap, VecDeque};
use std::io;

#[derive(Clone, Copy, Default)]
struct Load {
    items: usize,
    bytes: u64,
}

/// Of messages and of files.
#[derive(Clone, Copy, Default)]
struct Loads {
    messages: Load,
    files: Load,
}

impl Loads {
    fn of(&mut self, kind: Kind) -> &mut Load {
        if kind.is_message() { &mut self.messages } else { &mut self.files }
    }

    fn is_empty(&self) -> bool {
        self.messages.items + self.files.items == 0
    }
}

pub(super) struct Waiting {
    pub(super) item: Item,
    /// Its line is being written.
    pub(super) is_settling: bool,
}

#[derive(Default)]
pub(super) struct Peer {
    /// With what is being written now.
    loads: Loads,
    /// The first half of the ids that this process gives to messages for it: random, so that
    /// no two receivers see the same.
    incarnation: Option<[u8; 8]>,
    /// The last number given in it.
    number: u64,
    /// Why the last attempt with a message has failed; none since one that went well.
    pub(super) failing: Option<Reason>,
}

impl Peer {
    fn next_id(&mut self) -> io::Result<TransferId> {
        let incarnation = match self.incarnation {
            Some(incarnation) => incarnation,
            None => {
                let mut incarnation = [0; 8];
                getrandom::fill(&mut incarnation).map_err(io::Error::other)?;
                *self.incarnation.insert(incarnation)
            }
        };
        self.number += 1;
        TransferId::numbered(incarnation, self.number)
            .ok_or_else(|| io::Error::other("all numbers are used"))
    }
}

#[derive(Default)]
pub(super) struct State {
    /// By the time at which they were put there.
    pub(super) waiting: BTreeMap<u64, Waiting>,
    pub(super) orders: BTreeMap<TransferId, u64>,
    all: Loads,
    /// By address on the backbone. One that nothing waits for stays, for its number; they are
    /// no more than the peers that were ever trusted while this process runs.
    pub(super) peers: BTreeMap<Address, Peer>,
    last_us: u64,
    /// Oldest first.
    pub(super) settled: VecDeque<Item>,
}

impl State {
    /// Takes room for an item, and gives it its place and its id: `id`, or a fresh one.
    pub(super) fn reserve(
        &mut self,
        limits: &OutboxLimits,
        item: &mut Item,
        id: Option<TransferId>,
    ) -> Result<(), PutError> {
        let peer = item.to.on_backbone();
        let (quota, most) = if item.kind.is_message() {
            (limits.messages, limits.message_bytes)
        } else {
            (limits.files, limits.files.bytes.min(limits.files.peer_bytes))
        };
        if item.size > most {
            return Err(PutError::TooLarge(most));
        }
        if let Some(waiting) = id.and_then(|id| self.find_mut(id)) {
            return Err(PutError::Waits(Box::new(waiting.item.clone())));
        }
        let Quota { items, bytes, peer_items, peer_bytes } = quota;
        let of_peer = self.peers.entry(peer).or_default();
        let (all, own) = (self.all.of(item.kind), of_peer.loads.of(item.kind));
        for (to, load, items, bytes) in
            [(None, all, items, bytes), (Some(peer), own, peer_items, peer_bytes)]
        {
            if load.items >= items || load.bytes + item.size > bytes {
                return Err(PutError::Full { to, items: load.items, bytes: load.bytes });
            }
        }
        item.id = match id {
            Some(id) => id,
            None if item.kind.is_message() => of_peer.next_id()?,
            None => random_id()?,
        };
        item.created_us = disk::unix_micros().max(self.last_us + 1);
        self.last_us = item.created_us;
        self.load(item);
        Ok(())
    }

    fn load(&mut self, item: &Item) {
        let peer = self.peers.entry(item.to.on_backbone()).or_default();
        for load in [self.all.of(item.kind), peer.loads.of(item.kind)] {
            load.items += 1;
            load.bytes += item.size;
        }
    }

    pub(super) fn unload(&mut self, item: &Item) {
        let peer = self.peers.entry(item.to.on_backbone()).or_default();
        for load in [self.all.of(item.kind), peer.loads.of(item.kind)] {
            load.items -= 1;
            load.bytes -= item.size;
        }
    }

    pub(super) fn insert(&mut self, item: Item) {
        self.load(&item);
        self.last_us = self.last_us.max(item.created_us);
        self.orders.insert(item.id, item.created_us);
        self.waiting.insert(item.created_us, Waiting { item, is_settling: false });
    }

    pub(super) fn receivers(&self) -> Vec<Address> {
        let waits = |(_, peer): &(&Address, &Peer)| !peer.loads.is_empty();
        self.peers.iter().filter(waits).map(|(address, _)| *address).collect()
    }

    /// The item that a lane carries next, by its place.
    pub(super) fn next(&self, peer: Address, lane: Lane) -> Option<u64> {
        let free = self.waiting.iter().filter(|(_, w)| {
            w.item.to.on_backbone() == peer && !w.is_settling && lane.carries(&w.item)
        });
        let (order, _) = match lane {
            // Its lane is the only one, so whatever it has begun with it has also ended with.
            Lane::Messages => { free }.next()?,
            Lane::Small | Lane::Files(_) => free
                .filter(|(_, w)| w.item.state == ItemState::Queued)
                .min_by_key(|(_, w)| w.item.attempts)?,
        };
        Some(*order)
    }

    pub(super) fn find_mut(&mut self, id: TransferId) -> Option<&mut Waiting> {
        self.orders.get(&id).and_then(|order| self.waiting.get_mut(order))
    }

    pub(super) fn settle(&mut self, item: Item) {
        self.orders.remove(&item.id);
        self.waiting.remove(&item.created_us);
        self.unload(&item);
        if item.state != ItemState::Cancelled && item.kind.is_message() {
            self.peers.entry(item.to.on_backbone()).or_default().failing = None;
        }
        self.settled.push_back(item);
        if self.settled.len() > SETTLED_MAX {
            self.settled.pop_front();
        }
    }

    /// With the reason why it waits.
    pub(super) fn shown(&self, item: &Item) -> Item {
        if !item.kind.is_message() {
            return item.clone();
        }
        let failing = self.peers.get(&item.to.on_backbone()).and_then(|peer| peer.failing.clone());
        Item { reason: failing, ..item.clone() }
    }

    /// How many items wait, and their bytes.
    pub(super) fn count(&self) -> (usize, u64) {
        let Loads { messages, files } = self.all;
        (messages.items + files.items, messages.bytes + files.bytes)
    }
}
