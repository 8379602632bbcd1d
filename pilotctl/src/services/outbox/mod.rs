//! Messages to send: each is one file from before its sender is told of its id until its
//! receiver has it on its disk, refuses it, or it is cancelled.
//!
//! ```text
//!          put              begin               settle
//! (file written, synced) --> Queued --> Sending --> Delivered | Refused | Cancelled
//!                              ^           |        (line written, synced; file removed)
//!                              +-----------+
//!                                put_back: the receiver was not reached, or is full
//! ```
//!
//! A crash leaves a temporary file, which nobody was told of and which is removed; or a file
//! with a line, which is settled; or a file without one, which is sent again with its id: the
//! receiver knows what it has. Ids are numbered per receiver (`TransferId::numbered`), with a
//! fresh incarnation at each start, so that no number is used twice. Of settled messages the
//! youngest [`SETTLED_MAX`] are remembered, without their content.

mod record;

use super::disk;
use pilot_core::addr::Address;
use pilot_core::service::exchange::{ContentHash, Digest, Kind, TransferId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Settled messages that are remembered.
pub(crate) const SETTLED_MAX: usize = 1_000;

/// What an outbox holds at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutboxLimits {
    /// Bytes of one message.
    pub(crate) message_bytes: u64,
    /// Messages.
    pub(crate) messages: usize,
    /// Bytes of all messages.
    pub(crate) bytes: u64,
    /// Messages to one receiver.
    pub(crate) peer_messages: usize,
    /// Bytes of messages to one receiver.
    pub(crate) peer_bytes: u64,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        OutboxLimits {
            message_bytes: 1 << 20,
            messages: 10_000,
            bytes: 128 << 20,
            peer_messages: 4_000,
            peer_bytes: 32 << 20,
        }
    }
}

/// How far a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ItemState {
    /// It waits for its turn, or for its receiver.
    Queued,
    /// An attempt is under way.
    Sending,
    /// It is on the receiver's disk.
    Delivered,
    /// It will not be delivered: the reason says why.
    Refused,
    /// It was taken back.
    Cancelled,
}

impl ItemState {
    /// The lower-case word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            ItemState::Queued => "queued",
            ItemState::Sending => "sending",
            ItemState::Delivered => "delivered",
            ItemState::Refused => "refused",
            ItemState::Cancelled => "cancelled",
        }
    }

    /// Whether it changes no more.
    pub(crate) const fn is_settled(self) -> bool {
        !matches!(self, ItemState::Queued | ItemState::Sending)
    }

    fn settled(word: &str) -> Option<ItemState> {
        let all = [ItemState::Delivered, ItemState::Refused, ItemState::Cancelled];
        all.into_iter().find(|state| state.as_str() == word)
    }
}

/// Why a message was refused or is not delivered yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Reason {
    /// A stable error code.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
}

/// A message in the outbox, or one that was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Item {
    pub(crate) id: TransferId,
    /// The receiver, in the network that the sender has named.
    pub(crate) to: Address,
    pub(crate) kind: Kind,
    /// When it was put there, in microseconds since the Unix epoch; strictly increasing, and the
    /// order of delivery.
    pub(crate) created_us: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// Of the content.
    pub(crate) hash: Digest,
    pub(crate) state: ItemState,
    /// Streams that were opened for it, by this process.
    pub(crate) attempts: u32,
    /// Whether its content was on the way at some time: cancelled, it may have arrived.
    pub(crate) may_have_arrived: bool,
    pub(crate) settled_us: Option<u64>,
    pub(crate) reason: Option<Reason>,
}

/// Why a message was not put into the outbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PutError {
    /// It is too large for any inbox.
    #[error("the message has more than {0} bytes")]
    TooLarge(u64),
    /// There is no room.
    #[error("{messages} messages with {bytes} bytes wait already")]
    Full {
        /// To whom, if only those to one receiver are too many.
        to: Option<Address>,
        /// That wait.
        messages: usize,
        /// Theirs.
        bytes: u64,
    },
    /// The disk failed.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

#[derive(Clone, Copy, Default)]
struct Load {
    messages: usize,
    bytes: u64,
}

impl Load {
    fn add(&mut self, bytes: u64) {
        self.messages += 1;
        self.bytes += bytes;
    }

    fn take(&mut self, bytes: u64) {
        self.messages -= 1;
        self.bytes -= bytes;
    }
}

struct Waiting {
    item: Item,
    /// Its line is being written.
    is_settling: bool,
}

#[derive(Default)]
struct Peer {
    /// With what is being written now.
    load: Load,
    /// The first half of the ids that this process gives to messages for it: random, so that
    /// no two receivers see the same.
    incarnation: Option<[u8; 8]>,
    /// The last number given in it.
    number: u64,
    /// Why the last attempt has failed; none since one that went well.
    failing: Option<Reason>,
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
struct State {
    /// By the time at which they were put there.
    waiting: BTreeMap<u64, Waiting>,
    orders: BTreeMap<TransferId, u64>,
    all: Load,
    /// By address on the backbone. One that nothing waits for stays, for its number; they are
    /// no more than the peers that were ever trusted while this process runs.
    peers: BTreeMap<Address, Peer>,
    last_us: u64,
    /// Oldest first.
    settled: VecDeque<Item>,
}

/// The outbox of one agent. Methods that return an `io::Result` block on the disk.
pub(crate) struct Outbox {
    dir: PathBuf,
    limits: OutboxLimits,
    state: Mutex<State>,
    /// Lines in the file of settled messages. Locked before `state`.
    lines: Mutex<usize>,
    changed: watch::Sender<()>,
}

impl Outbox {
    /// Opens the outbox in `dir`, creating it if needed, and clears away what a crash left. A
    /// file that is not a message is left alone and not sent.
    pub(crate) fn open(dir: PathBuf, limits: OutboxLimits) -> io::Result<Outbox> {
        disk::private_dir(&dir)?;
        let mut state = State::default();
        let mut lines = 0;
        match std::fs::read(dir.join("settled")) {
            Ok(text) => {
                for line in text.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
                    lines += 1;
                    state.settled.extend(record::read_settled(line));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.ends_with(".tmp") {
                std::fs::remove_file(&path)?;
            } else if name.ends_with(".out") {
                match record::read_head(&path) {
                    Ok(item) if record::file_name(&item) != name => {
                        tracing::warn!(file = name, "not named as its message: left alone");
                    }
                    Ok(item) if state.settled.iter().any(|settled| settled.id == item.id) => {
                        std::fs::remove_file(&path)?;
                    }
                    Ok(item) => state.insert(item),
                    Err(_) => tracing::warn!(file = name, "not a message: left alone"),
                }
            }
        }
        let surplus = state.settled.len().saturating_sub(SETTLED_MAX);
        state.settled.drain(..surplus);
        Ok(Outbox {
            dir,
            limits,
            state: Mutex::new(state),
            lines: Mutex::new(lines),
            changed: watch::Sender::new(()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when anything has changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    // ---- in ----

    /// Puts a message in. When it returns well, the message survives a power loss.
    pub(crate) fn put(&self, to: Address, kind: Kind, content: &[u8]) -> Result<Item, PutError> {
        let mut hash = ContentHash::new();
        hash.update(content);
        let (size, peer) = (content.len() as u64, to.on_backbone());
        let item = {
            let mut state = self.state();
            state.room(&self.limits, peer, size)?;
            let of_peer = state.peers.entry(peer).or_default();
            let id = of_peer.next_id()?;
            of_peer.load.add(size);
            state.all.add(size);
            let created_us = disk::unix_micros().max(state.last_us + 1);
            state.last_us = created_us;
            Item {
                id,
                to,
                kind,
                created_us,
                size,
                hash: hash.digest(),
                state: ItemState::Queued,
                attempts: 0,
                may_have_arrived: false,
                settled_us: None,
                reason: None,
            }
        };
        // Without the lock: one slow disk write delays nobody else.
        let written = record::head(&item).and_then(|head| {
            disk::replace(&self.dir.join(record::file_name(&item)), &[&head, content], true)
        });
        let mut state = self.state();
        state.unload(peer, size);
        written?;
        state.insert(item.clone());
        let item = state.shown(&item);
        drop(state);
        self.changed.send_replace(());
        Ok(item)
    }

    // ---- out ----

    /// Whom messages wait for, by their addresses on the backbone.
    pub(crate) fn receivers(&self) -> Vec<Address> {
        let state = self.state();
        let waits = |(_, peer): &(&Address, &Peer)| peer.load.messages > 0;
        state.peers.iter().filter(waits).map(|(address, _)| *address).collect()
    }

    /// Whether a message for a receiver waits that could be begun with.
    pub(crate) fn has_next(&self, peer: Address) -> bool {
        let state = self.state();
        state.waiting.values().any(|w| w.item.to.on_backbone() == peer && !w.is_settling)
    }

    /// Begins an attempt with the first message for a receiver, if one waits.
    pub(crate) fn begin(&self, peer: Address) -> Option<Item> {
        let mut state = self.state();
        let mut waiting = state.waiting.values_mut();
        let next = waiting.find(|w| w.item.to.on_backbone() == peer && !w.is_settling)?;
        next.item.state = ItemState::Sending;
        next.item.attempts = next.item.attempts.saturating_add(1);
        let item = next.item.clone();
        drop(state);
        self.changed.send_replace(());
        Some(item)
    }

    /// The content of a message; `InvalidData` if it is not what was put there.
    pub(crate) fn content(&self, item: &Item) -> io::Result<Vec<u8>> {
        record::read_content(&self.dir.join(record::file_name(item)))
    }

    /// The receiver wants its content: from now on it may be there.
    pub(crate) fn offered(&self, id: TransferId) {
        if let Some(waiting) = self.state().find_mut(id) {
            waiting.item.may_have_arrived = true;
        }
    }

    /// An attempt has ended without an outcome.
    pub(crate) fn put_back(&self, id: TransferId, reason: Reason) {
        let mut state = self.state();
        if let Some(waiting) = state.find_mut(id) {
            waiting.item.state = ItemState::Queued;
            let peer = waiting.item.to.on_backbone();
            state.peers.entry(peer).or_default().failing = Some(reason);
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// A message is done with. False if it was before, or is just being settled otherwise.
    pub(crate) fn settle(
        &self,
        id: TransferId,
        outcome: ItemState,
        reason: Option<Reason>,
    ) -> io::Result<bool> {
        let mut item = {
            let mut state = self.state();
            let Some(waiting) = state.find_mut(id).filter(|w| !w.is_settling) else {
                return Ok(false);
            };
            waiting.is_settling = true;
            waiting.item.clone()
        };
        (item.state, item.reason) = (outcome, reason);
        item.settled_us = Some(disk::unix_micros());
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        // Without its line it is forgotten; what must not fail is that its file goes.
        if let Err(error) = self.note(&mut lines, &item) {
            tracing::warn!(%error, id = %item.id, "cannot note what became of a message");
        }
        let removed = std::fs::remove_file(self.dir.join(record::file_name(&item)));
        let mut state = self.state();
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                if let Some(waiting) = state.find_mut(id) {
                    (waiting.is_settling, waiting.item.state) = (false, ItemState::Queued);
                }
                return Err(e);
            }
            _ => state.settle(item),
        }
        drop((state, lines));
        self.changed.send_replace(());
        Ok(true)
    }

    /// Appends a line, or writes the file anew with what is remembered.
    fn note(&self, lines: &mut usize, item: &Item) -> io::Result<()> {
        let path = self.dir.join("settled");
        let line = record::settled_line(item)?;
        if *lines >= 2 * SETTLED_MAX {
            let settled = self.state().settled.clone();
            let mut all = Vec::new();
            for item in &settled {
                all.extend(record::settled_line(item)?);
            }
            disk::replace(&path, &[&all, &line], true)?;
            *lines = settled.len() + 1;
            return Ok(());
        }
        let mut file = disk::open_append(&path)?;
        // A line that a crash or a full disk has cut must not swallow the next one.
        if !disk::ends_in_newline(&file)? {
            file.write_all(b"\n")?;
        }
        file.write_all(&line)?;
        file.sync_all()?;
        *lines += 1;
        Ok(())
    }

    // ---- to look at ----

    /// A message by its id, also a settled one.
    pub(crate) fn find(&self, id: TransferId) -> Option<Item> {
        let state = self.state();
        if let Some(waiting) = state.orders.get(&id).and_then(|order| state.waiting.get(order)) {
            return Some(state.shown(&waiting.item));
        }
        state.settled.iter().rev().find(|item| item.id == id).cloned()
    }

    /// Whether another message for the same receiver waits before this one.
    pub(crate) fn is_behind(&self, item: &Item) -> bool {
        let (state, peer) = (self.state(), item.to.on_backbone());
        let mut before = state.waiting.range(..item.created_us);
        before.any(|(_, waiting)| waiting.item.to.on_backbone() == peer)
    }

    /// At most `limit` messages that were put in after `after_us`, oldest first: those that
    /// wait and those that were refused, or all that are remembered.
    pub(crate) fn list(&self, after_us: u64, limit: usize, all: bool) -> Vec<Item> {
        let state = self.state();
        let settled = state.settled.iter().filter(|i| all || i.state == ItemState::Refused);
        let mut items: Vec<Item> =
            settled.filter(|item| item.created_us > after_us).cloned().collect();
        let waiting = state.waiting.range(after_us.saturating_add(1)..).take(limit);
        items.extend(waiting.map(|(_, waiting)| state.shown(&waiting.item)));
        items.sort_by_key(|item| item.created_us);
        items.truncate(limit);
        items
    }

    /// How many messages wait, and their bytes.
    pub(crate) fn count(&self) -> (usize, u64) {
        let state = self.state();
        (state.all.messages, state.all.bytes)
    }
}

impl State {
    fn room(&self, limits: &OutboxLimits, peer: Address, size: u64) -> Result<(), PutError> {
        if size > limits.message_bytes {
            return Err(PutError::TooLarge(limits.message_bytes));
        }
        let full =
            |to, load: Load| Err(PutError::Full { to, messages: load.messages, bytes: load.bytes });
        if self.all.messages >= limits.messages || self.all.bytes + size > limits.bytes {
            return full(None, self.all);
        }
        let load = self.peers.get(&peer).map(|peer| peer.load).unwrap_or_default();
        if load.messages >= limits.peer_messages || load.bytes + size > limits.peer_bytes {
            return full(Some(peer), load);
        }
        Ok(())
    }

    fn unload(&mut self, peer: Address, size: u64) {
        self.all.take(size);
        self.peers.entry(peer).or_default().load.take(size);
    }

    fn insert(&mut self, item: Item) {
        self.all.add(item.size);
        self.peers.entry(item.to.on_backbone()).or_default().load.add(item.size);
        self.last_us = self.last_us.max(item.created_us);
        self.orders.insert(item.id, item.created_us);
        self.waiting.insert(item.created_us, Waiting { item, is_settling: false });
    }

    fn find_mut(&mut self, id: TransferId) -> Option<&mut Waiting> {
        self.orders.get(&id).and_then(|order| self.waiting.get_mut(order))
    }

    fn settle(&mut self, item: Item) {
        self.orders.remove(&item.id);
        self.waiting.remove(&item.created_us);
        let peer = item.to.on_backbone();
        self.unload(peer, item.size);
        if item.state != ItemState::Cancelled {
            self.peers.entry(peer).or_default().failing = None;
        }
        self.settled.push_back(item);
        if self.settled.len() > SETTLED_MAX {
            self.settled.pop_front();
        }
    }

    /// With the reason why it waits.
    fn shown(&self, item: &Item) -> Item {
        let failing = self.peers.get(&item.to.on_backbone()).and_then(|peer| peer.failing.clone());
        Item { reason: failing, ..item.clone() }
    }
}

#[cfg(test)]
mod tests;
