//! What the outbox knows in memory: what waits, for whom, and how much there may be of it.

use super::{
    Item, ItemState, Lane, OutboxLimits, PutError, Quota, Reason, SETTLED_MAX, disk, record,
};
use crate::services::push::PUSHED;
use crate::services::segments::Segments;
use crate::services::serve::random_id;
use pilot_core::addr::Address;
use pilot_core::service::exchange::{Kind, TransferId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Bytes of contents that are kept in memory until they are delivered; others are read again.
const KEPT: usize = 4 << 20;
/// Bytes of messages that are begun with at a time.
const BATCH: u64 = 256 * 1024;

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
    /// Of a message, if there was room.
    content: Option<Arc<[u8]>>,
}

#[derive(Default)]
pub(super) struct Peer {
    /// With what is being written now.
    loads: Loads,
    /// Its messages, by their place.
    pub(super) messages: BTreeSet<u64>,
    /// Its files.
    files: BTreeSet<u64>,
    /// The first half of the ids that this process gives to messages for it: random, so that
    /// no two receivers see the same.
    incarnation: Option<[u8; 8]>,
    /// The last number given in it.
    number: u64,
    /// Why the last attempt with a message has failed; none since one that went well.
    pub(super) failing: Option<Reason>,
}

impl Peer {
    fn orders(&mut self, item: &Item) -> &mut BTreeSet<u64> {
        if item.kind.is_message() { &mut self.messages } else { &mut self.files }
    }

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
    /// Ids of what is being written now.
    reserved: BTreeSet<TransferId>,
    all: Loads,
    /// By address on the backbone. One that nothing waits for stays, for its number; they are
    /// no more than the peers that were ever trusted while this process runs.
    pub(super) peers: BTreeMap<Address, Peer>,
    last_us: u64,
    /// Bytes of contents in memory.
    kept: usize,
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
        if let Some(id) = id.filter(|id| self.reserved.contains(id)) {
            return Err(PutError::Waits(Box::new(Item { id, ..item.clone() })));
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
        self.reserved.insert(item.id);
        self.load(item);
        Ok(())
    }

    /// What was reserved was written, or will not be.
    pub(super) fn release(&mut self, item: &Item) {
        self.reserved.remove(&item.id);
        self.unload(item);
    }

    fn load(&mut self, item: &Item) {
        let peer = self.peers.entry(item.to.on_backbone()).or_default();
        for load in [self.all.of(item.kind), peer.loads.of(item.kind)] {
            load.items += 1;
            load.bytes += item.size;
        }
    }

    fn unload(&mut self, item: &Item) {
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
        let peer = self.peers.entry(item.to.on_backbone()).or_default();
        peer.orders(&item).insert(item.created_us);
        self.waiting.insert(item.created_us, Waiting { item, is_settling: false, content: None });
    }

    /// What an earlier process has left in a file.
    pub(super) fn read(&mut self, segments: &Segments, path: &Path, name: &str) -> io::Result<()> {
        if record::read_head(path).is_ok_and(|item| !item.kind.is_message()) {
            match record::read_file(path) {
                Ok(item) if record::file_name(&item) != name => {
                    tracing::warn!(file = name, "not named as its item: left alone");
                }
                Ok(item) if self.is_settled(&item) => std::fs::remove_file(path)?,
                Ok(item) => self.insert(item),
                Err(_) => tracing::warn!(file = name, "not an item: left alone"),
            }
            return Ok(());
        }
        match segments.load::<Item>(path) {
            Ok(found) => {
                // Whoever gets a damaged one to send says so.
                for (item, _) in found {
                    match self.is_settled(&item) {
                        true => segments.remove(&[item.created_us], true)?,
                        false => self.insert(item),
                    }
                }
            }
            Err(error) => tracing::warn!(file = name, %error, "not an item: left alone"),
        }
        Ok(())
    }

    fn is_settled(&self, item: &Item) -> bool {
        // A file that is sent again after it was taken back may have the id that it had.
        let it = (item.id, item.created_us);
        self.settled.iter().any(|settled| (settled.id, settled.created_us) == it)
    }

    /// Keeps a content in memory, if there is room.
    pub(super) fn keep(&mut self, item: &Item, content: Arc<[u8]>) {
        if let Some(waiting) = self.waiting.get_mut(&item.created_us)
            && self.kept + content.len() <= KEPT
        {
            self.kept += content.len();
            waiting.content = Some(content);
        }
    }

    pub(super) fn receivers(&self) -> Vec<Address> {
        let waits = |(_, peer): &(&Address, &Peer)| !peer.loads.is_empty();
        self.peers.iter().filter(waits).map(|(address, _)| *address).collect()
    }

    /// The item that a lane carries next, by its place.
    pub(super) fn next(&self, peer: Address, lane: Lane) -> Option<u64> {
        let of_peer = self.peers.get(&peer)?;
        let orders = if lane == Lane::Messages { &of_peer.messages } else { &of_peer.files };
        let waiting = orders.iter().filter_map(|order| Some((*order, self.waiting.get(order)?)));
        let mut free = waiting.filter(|(_, waiting)| {
            let is_free = waiting.item.state == ItemState::Queued && !waiting.is_settling;
            is_free && lane.carries(&waiting.item)
        });
        let (order, _) = match lane {
            Lane::Messages => free.next()?,
            Lane::Small | Lane::Files(_) => free.min_by_key(|(_, w)| w.item.attempts)?,
        };
        Some(order)
    }

    /// See [`Outbox::begin_messages`](super::Outbox::begin_messages).
    pub(super) fn begin_messages(
        &mut self,
        peer: Address,
        most: usize,
        to: Option<Address>,
    ) -> Vec<(Item, Option<Arc<[u8]>>)> {
        let (mut begun, mut bytes, mut to) = (Vec::new(), 0, to);
        let Some(of_peer) = self.peers.get(&peer) else { return begun };
        for order in &of_peer.messages {
            let Some(waiting) = self.waiting.get_mut(order) else { continue };
            if waiting.item.state != ItemState::Queued || waiting.is_settling {
                continue;
            }
            let (size, is_first) = (waiting.item.size, to.is_none());
            let follows = to.is_none_or(|to| to == waiting.item.to) && size <= PUSHED;
            if begun.len() >= most || bytes >= BATCH || !(follows || is_first) {
                break;
            }
            waiting.item.begin();
            begun.push((waiting.item.clone(), waiting.content.clone()));
            (bytes, to) = (bytes + size, Some(waiting.item.to));
            if !follows {
                break;
            }
        }
        begun
    }

    pub(super) fn waits(&self, id: TransferId) -> bool {
        self.orders.contains_key(&id) || self.reserved.contains(&id)
    }

    pub(super) fn find_mut(&mut self, id: TransferId) -> Option<&mut Waiting> {
        self.orders.get(&id).and_then(|order| self.waiting.get_mut(order))
    }

    pub(super) fn settle(&mut self, item: Item) {
        self.orders.remove(&item.id);
        let waiting = self.waiting.remove(&item.created_us);
        let content = waiting.and_then(|waiting| waiting.content);
        self.kept -= content.map_or(0, |content| content.len());
        let peer = self.peers.entry(item.to.on_backbone()).or_default();
        peer.orders(&item).remove(&item.created_us);
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
