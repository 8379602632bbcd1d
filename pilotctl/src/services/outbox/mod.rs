//! Messages and files to send: each is there, on the disk, from before its sender is told of its
//! id until its receiver has it on its disk, refuses it, or it is cancelled.
//!
//! ```text
//! outbox/TIME-ID.out     messages: of each a line that describes it, then its content; named for
//!                        the first
//! outbox/TIME-ID.out     a file: its line alone
//! outbox/TIME-ID.data    its content, as it was when it was given
//! outbox/settled         a line for each item that came to an end
//!
//!        put, keep          begin               settle
//! (synced, then named) --> Queued --> Sending --> Delivered | Refused | Cancelled
//!                            ^           |        (line written, synced; files removed)
//!                            +-----------+
//!                              put_back: the receiver was not reached, or is full
//! ```
//!
//! Messages that are put in while the disk is busy are written and synced together ([`Segments`]),
//! and so is what has become of several.
//!
//! A crash leaves what nobody was told of and which is removed (a temporary file, or a content
//! without its line); or an item with a line in `settled`, which is settled; or one without,
//! which is sent again with its id: the receiver knows what it has. Ids of messages are numbered
//! per receiver (`TransferId::numbered`), with a fresh incarnation at each start, so that no
//! number is used twice; those of files are random, and the receiver's folder knows its files.
//! Messages to one receiver go in order; a file goes when there is a place ([`Lane`]). Of settled
//! items the youngest [`SETTLED_MAX`] are remembered, without their content.

mod keep;
mod record;
mod settle;
mod state;

pub(crate) use keep::{Content, NewFile, keep_file};
pub(crate) use settle::Settling;

use super::disk;
use super::group::Group;
use super::segments::{New, Segments};
use pilot_core::addr::Address;
use pilot_core::service::exchange::{
    ContentHash, Digest, FileName, HashAlgorithm, Kind, Note, TransferId,
};
use serde::{Deserialize, Serialize};
use state::State;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;

/// Settled items that are remembered.
pub(crate) const SETTLED_MAX: usize = 1_000;
/// A file of at most so many bytes is a small one.
pub(crate) const SMALL: u64 = 1 << 20;

/// What there may be of one class of items, messages or files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quota {
    /// Items.
    pub(crate) items: usize,
    /// Bytes of all of them.
    pub(crate) bytes: u64,
    /// Items to one receiver.
    pub(crate) peer_items: usize,
    /// Bytes of items to one receiver.
    pub(crate) peer_bytes: u64,
}

/// What an outbox holds at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutboxLimits {
    /// Bytes of one message.
    pub(crate) message_bytes: u64,
    pub(crate) messages: Quota,
    pub(crate) files: Quota,
    /// Bytes that a file leaves free on the disk.
    pub(crate) keep_free: u64,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        OutboxLimits {
            message_bytes: 1 << 20,
            messages: Quota {
                items: 10_000,
                bytes: 128 << 20,
                peer_items: 4_000,
                peer_bytes: 32 << 20,
            },
            files: Quota { items: 4_000, bytes: 64 << 30, peer_items: 1_000, peer_bytes: 32 << 30 },
            keep_free: 256 << 20,
        }
    }
}

/// What of one receiver's items is carried one after another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Lane {
    /// Messages, in order.
    Messages,
    /// Small files, so that large ones do not hold them up.
    Small,
    /// Files; one of several such lanes.
    Files(u8),
}

impl Lane {
    /// Whether it carries such an item.
    pub(crate) fn carries(self, item: &Item) -> bool {
        match self {
            Lane::Messages => item.kind.is_message(),
            Lane::Small => !item.kind.is_message() && item.size <= SMALL,
            Lane::Files(_) => !item.kind.is_message(),
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

/// Why an item was refused or is not delivered yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Reason {
    /// A stable error code.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
}

/// A message or file in the outbox, or one that was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Item {
    pub(crate) id: TransferId,
    /// The receiver, in the network that the sender has named.
    pub(crate) to: Address,
    pub(crate) kind: Kind,
    /// The name a file gets there; `None` exactly for messages.
    pub(crate) name: Option<FileName>,
    pub(crate) note: Note,
    /// When it was put there, in microseconds since the Unix epoch; strictly increasing, and the
    /// order in which messages are delivered.
    pub(crate) created_us: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// Of the content.
    pub(crate) hash: Digest,
    pub(crate) state: ItemState,
    /// Streams that were opened for it, by this process.
    pub(crate) attempts: u32,
    /// Bytes of a file that were written to the receiver so far, by this attempt.
    pub(crate) sent: u64,
    /// Whether its content was on the way at some time: cancelled, it may have arrived.
    pub(crate) may_have_arrived: bool,
    pub(crate) settled_us: Option<u64>,
    pub(crate) reason: Option<Reason>,
}

/// Why something was not put into the outbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PutError {
    /// It is too large for any inbox, or for this outbox.
    #[error("it has more than {0} bytes")]
    TooLarge(u64),
    /// There is no room.
    #[error("{items} items with {bytes} bytes wait already")]
    Full {
        /// To whom, if only those to one receiver are too many.
        to: Option<Address>,
        /// That wait.
        items: usize,
        /// Theirs.
        bytes: u64,
    },
    /// The disk is as full as a file may make it.
    #[error("there is no room on the disk")]
    NoSpace,
    /// A file with this id waits already.
    #[error("it waits already")]
    Waits(Box<Item>),
    /// The content is not as long as was said.
    #[error("the content is not as long as announced")]
    Size,
    /// The content could not be read.
    #[error("cannot read the content: {0}")]
    Source(io::Error),
    /// The disk failed.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

impl Item {
    /// Not yet in the outbox.
    fn new(to: Address, kind: Kind, size: u64) -> Item {
        Item {
            id: TransferId([0; 16]),
            to,
            kind,
            name: None,
            note: Note::default(),
            created_us: 0,
            size,
            hash: Digest::Sha256([0; 32]),
            state: ItemState::Queued,
            attempts: 0,
            sent: 0,
            may_have_arrived: false,
            settled_us: None,
            reason: None,
        }
    }

    /// An attempt with it begins.
    fn begin(&mut self) {
        self.state = ItemState::Sending;
        self.attempts = self.attempts.saturating_add(1);
        self.sent = 0;
    }
}

/// A message to put in.
#[derive(Clone, Debug)]
pub(crate) struct NewMessage {
    item: Item,
    content: Arc<[u8]>,
}

impl NewMessage {
    /// Hashes the content.
    pub(crate) fn new(to: Address, kind: Kind, content: Vec<u8>) -> Self {
        let mut item = Item::new(to, kind, content.len() as u64);
        item.hash = ContentHash::of(HashAlgorithm::of(kind), &content);
        NewMessage { item, content: content.into() }
    }
}

/// The outbox of one agent. Methods that return an `io::Result` block on the disk.
pub(crate) struct Outbox {
    dir: PathBuf,
    limits: OutboxLimits,
    segments: Segments,
    posts: Group<NewMessage, Result<Item, PutError>>,
    /// Never held while the disk works.
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
        let segments = Segments::new(dir.clone(), "out");
        let mut contents = Vec::new();
        // Listed before any is read: what reading one makes room with is a file of its own.
        for path in disk::paths(&dir)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.ends_with(".tmp") {
                std::fs::remove_file(&path)?;
            } else if name.ends_with(".data") {
                contents.push(path);
            } else if name.ends_with(".out") {
                state.read(&segments, &path, name)?;
            }
        }
        for path in contents {
            // Of nobody who was told: it was cut, or its item is settled.
            if !path.with_extension("out").exists() {
                std::fs::remove_file(&path)?;
            }
        }
        let surplus = state.settled.len().saturating_sub(SETTLED_MAX);
        state.settled.drain(..surplus);
        Ok(Outbox {
            dir,
            limits,
            segments,
            posts: Group::new(),
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

    /// Puts a message in, with whatever else comes meanwhile. Once the outcome is good it survives a
    /// power loss. Within a runtime; does not block.
    pub(crate) fn post(
        self: &Arc<Self>,
        message: NewMessage,
    ) -> oneshot::Receiver<Result<Item, PutError>> {
        let bytes = message.content.len();
        let (outcome, is_first) = self.posts.add(message, bytes);
        if is_first {
            let outbox = Arc::clone(self);
            drop(spawn_blocking(move || outbox.posts.run(|messages| outbox.put_all(messages))));
        }
        outcome
    }

    /// Puts messages in. When it returns, those with a good outcome survive a power loss. Blocks on
    /// the disk.
    fn put_all(&self, messages: Vec<NewMessage>) -> Vec<Result<Item, PutError>> {
        let mut contents = Vec::with_capacity(messages.len());
        let reserved: Vec<Result<Item, PutError>> = {
            let mut state = self.state();
            let reserve = |NewMessage { mut item, content }| {
                contents.push(content);
                state.reserve(&self.limits, &mut item, None).map(|()| item)
            };
            messages.into_iter().map(reserve).collect()
        };
        let items = || {
            reserved.iter().zip(&contents).filter_map(|(item, c)| Some((item.as_ref().ok()?, c)))
        };
        // Without the lock: a slow disk delays nobody else.
        let written = self.write(items());
        let mut state = self.state();
        let mut admit = |(item, content): (Result<Item, PutError>, Arc<[u8]>)| {
            let item = item?;
            state.release(&item);
            if let Err(error) = &written {
                return Err(PutError::Disk(disk::same_error(error)));
            }
            state.insert(item.clone());
            state.keep(&item, content);
            Ok(state.shown(&item))
        };
        let outcomes = reserved.into_iter().zip(contents).map(&mut admit).collect();
        drop(state);
        self.changed.send_replace(());
        outcomes
    }

    fn write<'i>(&self, items: impl Iterator<Item = (&'i Item, &'i Arc<[u8]>)>) -> io::Result<()> {
        let mut name = None;
        let record = |(item, content): (&Item, &'i Arc<[u8]>)| {
            name.get_or_insert_with(|| record::file_name(item));
            Ok(New { order: item.created_us, line: record::head(item)?, content })
        };
        let records = items.map(record).collect::<io::Result<Vec<_>>>()?;
        self.segments.append(&name.unwrap_or_default(), &records)
    }

    /// Puts one message in.
    #[cfg(test)]
    pub(crate) fn put(&self, to: Address, kind: Kind, content: &[u8]) -> Result<Item, PutError> {
        let message = NewMessage::new(to, kind, content.to_vec());
        self.put_all(vec![message]).pop().expect("an outcome for each")
    }

    /// Something for which there is a reservation was written, or not.
    fn admit(&self, item: Item, written: io::Result<()>) -> Result<Item, PutError> {
        let mut state = self.state();
        state.release(&item);
        written?;
        state.insert(item.clone());
        let item = state.shown(&item);
        drop(state);
        self.changed.send_replace(());
        Ok(item)
    }

    // ---- out ----

    /// Whom items wait for, by their addresses on the backbone.
    pub(crate) fn receivers(&self) -> Vec<Address> {
        self.state().receivers()
    }

    /// Whether an item for a receiver waits that could be begun with.
    pub(crate) fn has_next(&self, peer: Address, lane: Lane) -> bool {
        self.state().next(peer, lane).is_some()
    }

    /// Begins an attempt with the next item of a lane, if one waits: the first message; of files
    /// the first of those that were tried least, so that one that is refused for now is in
    /// nobody's way.
    pub(crate) fn begin(&self, peer: Address, lane: Lane) -> Option<Item> {
        let mut state = self.state();
        let order = state.next(peer, lane)?;
        let next = state.waiting.get_mut(&order)?;
        next.item.begin();
        let item = next.item.clone();
        drop(state);
        self.changed.send_replace(());
        Some(item)
    }

    /// Begins with the next messages for a receiver, in order, and with their contents where these
    /// are in memory still: at most `most` that may be pushed, or one that may not. `to` is where
    /// those that are under way go: only such that may be pushed there follow them.
    pub(crate) fn begin_messages(
        &self,
        peer: Address,
        most: usize,
        to: Option<Address>,
    ) -> Vec<(Item, Option<Arc<[u8]>>)> {
        let begun = self.state().begin_messages(peer, most, to);
        if !begun.is_empty() {
            self.changed.send_replace(());
        }
        begun
    }

    /// The content of a message; `InvalidData` if it is not what was put there.
    pub(crate) fn content(&self, item: &Item) -> io::Result<Vec<u8>> {
        let content = self.segments.read(item.created_us)?;
        let hash = ContentHash::of(item.hash.algorithm(), &content);
        if hash == item.hash && content.len() as u64 == item.size {
            Ok(content)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    /// Its content is about to be sent: from now on it may be there. False if it must not be sent,
    /// since it is settled, or just being: what is said of it then stays true.
    #[must_use]
    pub(crate) fn offered(&self, id: TransferId) -> bool {
        let mut state = self.state();
        let waiting = state.find_mut(id).filter(|waiting| !waiting.is_settling);
        waiting.is_some_and(|waiting| {
            waiting.item.may_have_arrived = true;
            true
        })
    }

    /// Whether it is being settled.
    #[cfg(test)]
    pub(crate) fn is_settling(&self, id: TransferId) -> bool {
        self.state().find_mut(id).is_some_and(|waiting| waiting.is_settling)
    }

    /// Nothing comes to be settled meanwhile.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> MutexGuard<'_, usize> {
        self.lines.lock().unwrap()
    }

    /// So many bytes of a file are on their way. Who waits is not woken for it.
    pub(crate) fn progressed(&self, id: TransferId, sent: u64) {
        if let Some(waiting) = self.state().find_mut(id) {
            waiting.item.sent = sent;
        }
    }

    // ---- to look at ----

    /// An item by its id, also a settled one.
    pub(crate) fn find(&self, id: TransferId) -> Option<Item> {
        let state = self.state();
        if let Some(waiting) = state.orders.get(&id).and_then(|order| state.waiting.get(order)) {
            return Some(state.shown(&waiting.item));
        }
        state.settled.iter().rev().find(|item| item.id == id).cloned()
    }

    /// Whether an item waits, or is being put in.
    pub(crate) fn waits(&self, id: TransferId) -> bool {
        self.state().waits(id)
    }

    /// Whether another message for the same receiver waits before this one.
    pub(crate) fn is_behind(&self, item: &Item) -> bool {
        let state = self.state();
        let first = state.peers.get(&item.to.on_backbone()).and_then(|peer| peer.messages.first());
        first.is_some_and(|first| *first < item.created_us)
    }

    /// At most `limit` items that were put in after `after_us`, oldest first: those that
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

    /// Messages that wait to be written.
    #[cfg(test)]
    pub(crate) fn posts(&self) -> usize {
        self.posts.waiting()
    }

    /// How often the disk was made to sync messages.
    #[cfg(test)]
    pub(crate) fn syncs(&self) -> u64 {
        self.segments.syncs()
    }

    /// How many items wait, and their bytes.
    pub(crate) fn count(&self) -> (usize, u64) {
        self.state().count()
    }
}

#[cfg(test)]
mod tests;
