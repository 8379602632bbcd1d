//! Messages received: each is one file, and each is there exactly once.
//!
//! A message file is a line of JSON that describes it and, behind it, the content as it came.
//! It is written under a temporary name, synced, renamed, and the directory synced, before
//! the sender gets its receipt; what a crash leaves under a temporary name was never
//! acknowledged and is removed at the next start. Messages are known by sender and id, also
//! those that the user has deleted ([`Seen`]), so that a late repetition does not bring one
//! back.

use super::disk;
use super::seen::{MessageKey, Seen};
use pilot_core::addr::Address;
use pilot_core::service::exchange::{Digest, Kind, Note, Refusal, TransferId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use tokio::sync::watch;

/// Longest first line of a message file that is read.
const HEADER_MAX: u64 = 16 * 1024;

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

    fn file_name(&self) -> String {
        format!("{:017}-{}.msg", self.received_us, self.id)
    }
}

/// The first line of a message file.
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

struct Writing {
    /// Reserved.
    size: u64,
    received_us: u64,
}

struct State {
    /// By the time of arrival.
    messages: BTreeMap<u64, MessageInfo>,
    known: BTreeMap<MessageKey, u64>,
    /// Being written now.
    writing: BTreeMap<MessageKey, Writing>,
    senders: BTreeMap<Address, (usize, u64)>,
    bytes: u64,
    last_us: u64,
    seen: Seen,
}

/// The inbox of one agent. Every method blocks on the disk.
pub(crate) struct Inbox {
    dir: PathBuf,
    limits: InboxLimits,
    state: Mutex<State>,
    /// Changes whenever a message is stored or has failed to be.
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
    /// A file that is not a message is left alone and not shown.
    pub(crate) fn open(dir: PathBuf, limits: InboxLimits) -> io::Result<Inbox> {
        disk::private_dir(&dir)?;
        let mut state = State {
            messages: BTreeMap::new(),
            known: BTreeMap::new(),
            writing: BTreeMap::new(),
            senders: BTreeMap::new(),
            bytes: 0,
            last_us: 0,
            seen: Seen::load(dir.join("seen"))?,
        };
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(".tmp") {
                std::fs::remove_file(entry.path())?;
            } else if name.ends_with(".msg") {
                match read_header(&entry.path()) {
                    Ok((info, _)) if info.file_name() == name => state.insert(info),
                    _ => tracing::warn!(file = name, "not a message: left alone"),
                }
            }
        }
        Ok(Inbox { dir, limits, state: Mutex::new(state), changed: watch::Sender::new(()) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether a message may come: `Ok(None)`, or that it is here already, or a refusal.
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
        state.room(&self.limits, key.0, size)?;
        Ok(None)
    }

    /// Stores a message; when it returns well, the message survives a power loss.
    pub(crate) fn store(
        &self,
        from: Address,
        id: TransferId,
        kind: Kind,
        note: Note,
        hash: Digest,
        content: &[u8],
    ) -> Result<Delivery, StoreError> {
        let size = content.len() as u64;
        let key = (from.on_backbone(), id);
        let received_us = {
            let mut state = self.state();
            if state.is_known(&key) {
                return Ok(Delivery::Known);
            }
            if state.writing.contains_key(&key) {
                return Err(StoreError::Refused(Refusal::Busy));
            }
            state.room(&self.limits, key.0, size).map_err(StoreError::Refused)?;
            let received_us = disk::unix_micros().max(state.last_us + 1);
            state.last_us = received_us;
            state.writing.insert(key, Writing { size, received_us });
            received_us
        };
        // Without the lock: one slow disk write delays no other message.
        let info = MessageInfo { id, from, kind, received_us, size, hash, note };
        let written = self.write(&info, content);
        let mut state = self.state();
        state.writing.remove(&key);
        let delivery = written.map_err(StoreError::Disk).map(|()| {
            state.insert(info);
            Delivery::New
        });
        drop(state);
        self.changed.send_replace(());
        delivery
    }

    fn write(&self, info: &MessageInfo, content: &[u8]) -> io::Result<()> {
        let header = Header {
            id: info.id.to_string(),
            from: info.from.to_string(),
            kind: info.kind as u8,
            received_us: info.received_us,
            size: info.size,
            hash: info.hash.to_string(),
            note: info.note.to_string(),
        };
        let mut line = serde_json::to_vec(&header)?;
        line.push(b'\n');
        disk::replace(&self.dir.join(info.file_name()), &[&line, content], true)
    }

    /// At most `limit` messages that arrived after `after_us`, oldest first.
    pub(crate) fn list(&self, after_us: u64, limit: usize) -> Vec<MessageInfo> {
        let after = after_us.saturating_add(1);
        self.state().messages.range(after..).take(limit).map(|(_, info)| info.clone()).collect()
    }

    /// The same for who follows: only what no message that is being written now can come to
    /// stand before.
    pub(crate) fn list_settled(&self, after_us: u64, limit: usize) -> Vec<MessageInfo> {
        let after = after_us.saturating_add(1);
        let state = self.state();
        let end = state.writing.values().map(|w| w.received_us).min().unwrap_or(u64::MAX);
        let settled = state.messages.range(after.min(end)..end);
        settled.take(limit).map(|(_, info)| info.clone()).collect()
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

    /// The content of a message.
    pub(crate) fn content(&self, info: &MessageInfo) -> io::Result<Vec<u8>> {
        let (_, mut reader) = read_header(&self.dir.join(info.file_name()))?;
        let mut content = Vec::new();
        reader.by_ref().take(info.size).read_to_end(&mut content)?;
        Ok(content)
    }

    /// Deletes messages; those that are not there are passed over. How many there were.
    /// Whatever happens, none of them comes back by a repetition.
    pub(crate) fn remove(&self, messages: &[MessageInfo]) -> io::Result<usize> {
        let mut state = self.state();
        let there: Vec<_> =
            messages.iter().filter(|m| state.known.contains_key(&m.key())).cloned().collect();
        if there.is_empty() {
            return Ok(0);
        }
        // Durably, before their files go.
        let keys: Vec<_> = there.iter().map(MessageInfo::key).collect();
        state.seen.remember(&keys)?;
        for info in &there {
            match std::fs::remove_file(self.dir.join(info.file_name())) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => state.forget(info),
            }
        }
        disk::sync_dir(&self.dir)?;
        Ok(there.len())
    }
}

impl State {
    fn is_known(&self, key: &MessageKey) -> bool {
        self.known.contains_key(key) || self.seen.contains(key)
    }

    fn room(&self, limits: &InboxLimits, from: Address, size: u64) -> Result<(), Refusal> {
        if size > limits.message_bytes {
            return Err(Refusal::TooLarge);
        }
        let (mut messages, mut bytes) = self.senders.get(&from).copied().unwrap_or_default();
        let mut all = self.bytes;
        for (&(sender, _), &Writing { size: reserved, .. }) in &self.writing {
            all += reserved;
            if sender == from {
                messages += 1;
                bytes += reserved;
            }
        }
        let full = self.messages.len() + self.writing.len() >= limits.messages
            || all + size > limits.bytes
            || messages >= limits.sender_messages
            || bytes + size > limits.sender_bytes;
        if full { Err(Refusal::Full) } else { Ok(()) }
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
    /// There is no room for it, or it is being written by another stream.
    #[error("{0}")]
    Refused(Refusal),
    /// The disk failed.
    #[error("{0}")]
    Disk(io::Error),
}

fn read_header(path: &std::path::Path) -> io::Result<(MessageInfo, BufReader<File>)> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    reader.by_ref().take(HEADER_MAX).read_until(b'\n', &mut line)?;
    let header: Header = serde_json::from_slice(&line)?;
    let info = MessageInfo {
        id: header.id.parse().map_err(|_| bad())?,
        from: header.from.parse().map_err(|_| bad())?,
        kind: Kind::from_u8(header.kind).filter(|k| k.is_message()).ok_or_else(bad)?,
        received_us: header.received_us,
        size: header.size,
        hash: parse_digest(&header.hash).ok_or_else(bad)?,
        note: Note::cleaned(header.note.as_bytes()),
    };
    Ok((info, reader))
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
