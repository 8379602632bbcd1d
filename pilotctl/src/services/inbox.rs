//! Messages received: each is on the disk before its sender gets its receipt, and each is there
//! exactly once.
//!
//! A message is a line of JSON that describes it and, behind it, the content as it came; many of
//! them are in one file, and what has come while the disk was busy is synced together
//! ([`Segments`]). Messages are known by sender and id, also those that the user has deleted
//! ([`Seen`]), so that a late repetition does not bring one back.

use super::disk;
use super::group::Group;
use super::seen::{MessageKey, Seen};
use super::segments::{New, Record, Segments};
use pilot_core::addr::Address;
use pilot_core::service::exchange::{Digest, Kind, Note, Refusal, TransferId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;

/// What an inbox holds at most. Beyond it an offer is refused as "full".
#[derive(Clone, Copy, Debug)]
pub(crate) struct InboxLimits {
    /// Bytes of one message.
    pub(crate) message_bytes: u64,
    /// Messages.
    pub(crate) messages: usize,
    /// Bytes of all messages.
    pub(crate) bytes: u64,
    /// Messages of one sender.
    pub(crate) sender_messages: usize,
    /// Bytes of one sender's messages.
    pub(crate) sender_bytes: u64,
}

impl Default for InboxLimits {
    fn default() -> Self {
        InboxLimits {
            message_bytes: 1 << 20,
            messages: 10_000,
            bytes: 256 << 20,
            sender_messages: 4_000,
            sender_bytes: 64 << 20,
        }
    }
}

/// What is known of a message beside its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MessageInfo {
    /// Chosen by the sender.
    pub(crate) id: TransferId,
    /// Who sent it, authenticated, as seen in the network of the stream.
    pub(crate) from: Address,
    /// Text, JSON or binary.
    pub(crate) kind: Kind,
    /// When it was stored, in microseconds since the Unix epoch; strictly increasing.
    pub(crate) received_us: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// Of the content.
    pub(crate) hash: Digest,
    /// A remark of the sender: hostile text, cleaned.
    pub(crate) note: Note,
}

impl MessageInfo {
    fn key(&self) -> MessageKey {
        (self.from.on_backbone(), self.id)
    }

    /// Of the file that begins with it.
    fn file_name(&self) -> String {
        format!("{:017}-{}.msg", self.received_us, self.id)
    }

    fn line(&self) -> io::Result<Vec<u8>> {
        let header = Header {
            id: self.id.to_string(),
            from: self.from.to_string(),
            kind: self.kind as u8,
            received_us: self.received_us,
            size: self.size,
            hash: self.hash.to_string(),
            note: self.note.to_string(),
        };
        let mut line = serde_json::to_vec(&header)?;
        line.push(b'\n');
        Ok(line)
    }
}

impl Record for MessageInfo {
    fn read(line: &[u8]) -> Option<Self> {
        let header: Header = serde_json::from_slice(line).ok()?;
        Some(MessageInfo {
            id: header.id.parse().ok()?,
            from: header.from.parse().ok()?,
            kind: Kind::from_u8(header.kind).filter(|kind| kind.is_message())?,
            received_us: header.received_us,
            size: header.size,
            hash: parse_digest(&header.hash)?,
            note: Note::cleaned(header.note.as_bytes()),
        })
    }

    fn order(&self) -> u64 {
        self.received_us
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn hash(&self) -> Digest {
        self.hash
    }
}

/// The line of a message.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    id: String,
    from: String,
    kind: u8,
    received_us: u64,
    size: u64,
    /// Formerly of SHA-256 alone.
    #[serde(alias = "sha256")]
    hash: String,
    #[serde(default)]
    note: String,
}

/// A message that has come whole.
pub(crate) struct Arrived {
    pub(crate) from: Address,
    pub(crate) id: TransferId,
    pub(crate) kind: Kind,
    pub(crate) note: Note,
    pub(crate) hash: Digest,
    pub(crate) content: Vec<u8>,
    /// That of its stream, if others may be right behind it.
    pub(crate) turn: Option<Arc<Turn>>,
}

/// Keeps messages of a stream in order of which none waits for the one before: behind one that
/// was not taken for now none is, until that one comes again.
#[derive(Debug, Default)]
pub(crate) struct Turn(Mutex<Option<TransferId>>);

impl Turn {
    fn missing(&self) -> MutexGuard<'_, Option<TransferId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a message may come now.
    pub(crate) fn allows(&self, id: TransferId) -> bool {
        self.missing().is_none_or(|missing| missing == id)
    }

    /// One was not taken, but may be later.
    pub(crate) fn miss(&self, id: TransferId) {
        self.missing().get_or_insert(id);
    }

    /// It was.
    fn take(&self, id: TransferId) {
        let mut missing = self.missing();
        *missing = missing.filter(|missing| *missing != id);
    }
}

struct State {
    /// By the time of arrival.
    messages: BTreeMap<u64, MessageInfo>,
    known: BTreeMap<MessageKey, u64>,
    senders: BTreeMap<Address, (usize, u64)>,
    bytes: u64,
    last_us: u64,
    seen: Seen,
}

/// The inbox of one agent. Methods block on the disk where it says so.
pub(crate) struct Inbox {
    limits: InboxLimits,
    /// Held while messages are written: those of a group are there all at once, and none before
    /// one that has come earlier. Locked before `state`.
    storing: Mutex<()>,
    /// Held while messages are deleted. Locked before `state`.
    removing: Mutex<()>,
    /// Never held while the disk works.
    state: Mutex<State>,
    segments: Segments,
    arriving: Group<Arrived, Result<Delivery, StoreError>>,
    /// Changes whenever messages were stored or have failed to be.
    changed: watch::Sender<()>,
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Delivery {
    /// It is on the disk.
    New,
    /// It was before.
    Known,
}

impl Inbox {
    /// Opens the inbox in `dir`, creating it if needed, and clears away what a crash left.
    /// A file that is not a message is left alone and not shown. Blocks on the disk.
    pub(crate) fn open(dir: PathBuf, limits: InboxLimits) -> io::Result<Inbox> {
        disk::private_dir(&dir)?;
        let seen = Seen::load(dir.join("seen"))?;
        let mut state = State {
            messages: BTreeMap::new(),
            known: BTreeMap::new(),
            senders: BTreeMap::new(),
            bytes: 0,
            last_us: seen.latest_us(),
            seen,
        };
        let segments = Segments::new(dir.clone(), "msg");
        // Listed before any is read: what reading one makes room with is a file of its own.
        for path in disk::paths(&dir)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.ends_with(".tmp") {
                std::fs::remove_file(&path)?;
            } else if name.ends_with(".msg") {
                match segments.load::<MessageInfo>(&path) {
                    Ok(found) => state.insert_whole(&segments, found)?,
                    Err(error) => tracing::warn!(file = name, %error, "no message: left alone"),
                }
            }
        }
        Ok(Inbox {
            limits,
            storing: Mutex::default(),
            removing: Mutex::default(),
            state: Mutex::new(state),
            segments,
            arriving: Group::new(),
            changed: watch::Sender::new(()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a message may come: `Ok(None)`, or that it is here already, or a refusal. Does not
    /// block.
    pub(crate) fn check(
        &self,
        from: Address,
        id: TransferId,
        size: u64,
    ) -> Result<Option<Delivery>, Refusal> {
        let state = self.state();
        let key = (from.on_backbone(), id);
        if state.is_known(&key) {
            return Ok(Some(Delivery::Known));
        }
        state.room(&self.limits, key.0, size, Load::default())?;
        Ok(None)
    }

    /// Stores a message, with whatever else comes meanwhile. Once the outcome is good it survives a
    /// power loss. Within a runtime; does not block.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        arrived: Arrived,
    ) -> oneshot::Receiver<Result<Delivery, StoreError>> {
        let bytes = arrived.content.len();
        let (outcome, is_first) = self.arriving.add(arrived, bytes);
        if is_first {
            let inbox = Arc::clone(self);
            drop(spawn_blocking(move || inbox.arriving.run(|arrived| inbox.store_all(&arrived))));
        }
        outcome
    }

    /// Stores one message.
    #[cfg(test)]
    fn store(
        &self,
        from: Address,
        id: TransferId,
        kind: Kind,
        note: Note,
        hash: Digest,
        content: &[u8],
    ) -> Result<Delivery, StoreError> {
        let content = content.to_vec();
        let arrived = Arrived { from, id, kind, note, hash, content, turn: None };
        self.store_all(&[arrived]).pop().expect("an outcome for each")
    }

    /// Messages that wait to be stored.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.arriving.waiting()
    }

    /// How often the disk was made to sync messages.
    #[cfg(test)]
    pub(crate) fn syncs(&self) -> u64 {
        self.segments.syncs()
    }

    /// Stores messages; when it returns, those with a good outcome survive a power loss. Blocks on
    /// the disk.
    fn store_all(&self, arrived: &[Arrived]) -> Vec<Result<Delivery, StoreError>> {
        let _storing = self.storing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut admitted = Admitted::default();
        let mut outcomes: Vec<_> = {
            let mut state = self.state();
            arrived.iter().map(|one| state.admit(&self.limits, one, &mut admitted)).collect()
        };
        let written = self.write(&admitted.new, arrived);
        for (outcome, one) in outcomes.iter_mut().zip(arrived) {
            // Also one that came twice in this group.
            let is_new = admitted.keys.contains(&(one.from.on_backbone(), one.id));
            if let (Err(error), true, Ok(_)) = (&written, is_new, &outcome) {
                *outcome = Err(StoreError::Disk(disk::same_error(error)));
            }
            match (&one.turn, &outcome) {
                (Some(turn), Ok(_)) => turn.take(one.id),
                (Some(turn), Err(_)) => turn.miss(one.id),
                (None, _) => {}
            }
        }
        if written.is_ok() {
            let mut state = self.state();
            admitted.new.into_iter().for_each(|(info, _)| state.insert(info));
        }
        self.changed.send_replace(());
        outcomes
    }

    fn write(&self, new: &[(MessageInfo, usize)], arrived: &[Arrived]) -> io::Result<()> {
        let Some((first, _)) = new.first() else { return Ok(()) };
        let record = |(info, at): &(MessageInfo, usize)| {
            let (order, content) = (info.received_us, &arrived[*at].content[..]);
            Ok(New { order, line: info.line()?, content })
        };
        let records = new.iter().map(record).collect::<io::Result<Vec<_>>>()?;
        self.segments.append(&first.file_name(), &records)
    }

    /// At most `limit` messages that arrived after `after_us`, oldest first. None ever comes to
    /// stand before one that was listed.
    pub(crate) fn list(&self, after_us: u64, limit: usize) -> Vec<MessageInfo> {
        let after = after_us.saturating_add(1);
        self.state().messages.range(after..).take(limit).map(|(_, info)| info.clone()).collect()
    }

    /// Tells when something came.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// How many messages there are, and their bytes.
    #[cfg(test)]
    pub(crate) fn count(&self) -> (usize, u64) {
        let state = self.state();
        (state.messages.len(), state.bytes)
    }

    /// The content of a message. Blocks on the disk.
    pub(crate) fn content(&self, info: &MessageInfo) -> io::Result<Vec<u8>> {
        self.segments.read(info.received_us)
    }

    /// Deletes messages; those that are not there are passed over. How many there were.
    /// Whatever happens, none of them comes back by a repetition. Blocks on the disk.
    pub(crate) fn remove(&self, messages: &[MessageInfo]) -> io::Result<usize> {
        let _removing = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
        let (there, note) = {
            let mut state = self.state();
            let is_there = |message: &&MessageInfo| state.known.contains_key(&message.key());
            let there: Vec<_> = messages.iter().filter(is_there).cloned().collect();
            if there.is_empty() {
                return Ok(0);
            }
            let keys: Vec<_> = there.iter().map(MessageInfo::key).collect();
            let latest_us = there.iter().map(|info| info.received_us).max();
            let note = state.seen.remember(&keys, latest_us.unwrap_or_default());
            (there, note)
        };
        // Durably, before they go.
        note.write()?;
        let orders: Vec<_> = there.iter().map(|info| info.received_us).collect();
        self.segments.remove(&orders, true)?;
        let mut state = self.state();
        there.iter().for_each(|info| state.forget(info));
        Ok(there.len())
    }
}

/// Messages and their bytes.
#[derive(Clone, Copy, Default)]
struct Load {
    messages: usize,
    bytes: u64,
    of_sender: (usize, u64),
}

/// What of a group is written, and where in the group it is.
#[derive(Default)]
struct Admitted {
    new: Vec<(MessageInfo, usize)>,
    keys: BTreeSet<MessageKey>,
    bytes: u64,
    senders: BTreeMap<Address, (usize, u64)>,
    seen: usize,
}

impl State {
    fn is_known(&self, key: &MessageKey) -> bool {
        self.known.contains_key(key) || self.seen.contains(key)
    }

    /// Decides about the next message of a group.
    fn admit(
        &mut self,
        limits: &InboxLimits,
        arrived: &Arrived,
        admitted: &mut Admitted,
    ) -> Result<Delivery, StoreError> {
        let Arrived { from, id, kind, note, hash, .. } = arrived;
        let (at, size) = (admitted.seen, arrived.content.len() as u64);
        let key = (from.on_backbone(), *id);
        admitted.seen += 1;
        if self.is_known(&key) || admitted.keys.contains(&key) {
            return Ok(Delivery::Known);
        }
        if arrived.turn.as_ref().is_some_and(|turn| !turn.allows(*id)) {
            return Err(StoreError::Refused(Refusal::Busy));
        }
        let of_sender = admitted.senders.entry(key.0).or_default();
        let (messages, bytes) = (admitted.new.len(), admitted.bytes);
        let load = Load { messages, bytes, of_sender: *of_sender };
        if let Err(refusal) = self.room(limits, key.0, size, load) {
            // What follows in this group, too.
            arrived.turn.iter().for_each(|turn| turn.miss(*id));
            return Err(StoreError::Refused(refusal));
        }
        (of_sender.0, of_sender.1) = (of_sender.0 + 1, of_sender.1 + size);
        admitted.bytes += size;
        admitted.keys.insert(key);
        self.last_us = disk::unix_micros().max(self.last_us + 1);
        let (from, kind, received_us) = (*from, *kind, self.last_us);
        let (id, hash, note) = (*id, *hash, note.clone());
        admitted.new.push((MessageInfo { id, from, kind, received_us, size, hash, note }, at));
        Ok(Delivery::New)
    }

    /// Whether there is room for a message beside `more`.
    fn room(
        &self,
        limits: &InboxLimits,
        from: Address,
        size: u64,
        more: Load,
    ) -> Result<(), Refusal> {
        if size > limits.message_bytes {
            return Err(Refusal::TooLarge);
        }
        let (messages, bytes) = self.senders.get(&from).copied().unwrap_or_default();
        let (messages, bytes) = (messages + more.of_sender.0, bytes + more.of_sender.1);
        let full = self.messages.len() + more.messages >= limits.messages
            || self.bytes + more.bytes + size > limits.bytes
            || messages >= limits.sender_messages
            || bytes + size > limits.sender_bytes;
        if full { Err(Refusal::Full) } else { Ok(()) }
    }

    /// What an earlier process has left. A damaged message was never acknowledged, or is one that
    /// nobody should read.
    fn insert_whole(
        &mut self,
        segments: &Segments,
        found: Vec<(MessageInfo, bool)>,
    ) -> io::Result<()> {
        for (info, is_whole) in found {
            if is_whole {
                self.insert_once(segments, info)?;
            } else {
                tracing::warn!(id = %info.id, from = %info.from, "a message is damaged: not shown");
                segments.remove(&[info.received_us], true)?;
            }
        }
        Ok(())
    }

    /// One that is there twice was written, could not be made durable, and came again: that is the
    /// later, which was acknowledged.
    fn insert_once(&mut self, segments: &Segments, info: MessageInfo) -> io::Result<()> {
        if let Some(known) = self.known.get(&info.key()).copied() {
            segments.remove(&[known.min(info.received_us)], true)?;
            if known > info.received_us {
                return Ok(());
            }
            if let Some(before) = self.messages.get(&known).cloned() {
                self.forget(&before);
            }
        }
        self.insert(info);
        Ok(())
    }

    fn insert(&mut self, info: MessageInfo) {
        let sender = self.senders.entry(info.from.on_backbone()).or_default();
        sender.0 += 1;
        sender.1 += info.size;
        self.bytes += info.size;
        self.last_us = self.last_us.max(info.received_us);
        self.known.insert(info.key(), info.received_us);
        self.messages.insert(info.received_us, info);
    }

    fn forget(&mut self, info: &MessageInfo) {
        self.known.remove(&info.key());
        self.messages.remove(&info.received_us);
        self.bytes -= info.size;
        let from = info.from.on_backbone();
        if let Some(sender) = self.senders.get_mut(&from) {
            sender.0 -= 1;
            sender.1 -= info.size;
            if sender.0 == 0 {
                self.senders.remove(&from);
            }
        }
    }
}

/// Why a message was not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// There is no room for it, or it is not its turn.
    #[error("{0}")]
    Refused(Refusal),
    /// The disk failed.
    #[error("{0}")]
    Disk(io::Error),
}

/// Parses a hash that was stored, formerly as the digits of SHA-256 alone.
pub(crate) fn parse_digest(text: &str) -> Option<Digest> {
    match text.contains(':') {
        true => text.parse().ok(),
        false => format!("sha256:{text}").parse().ok(),
    }
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
