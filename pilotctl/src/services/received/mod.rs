//! Files and directories received: each lands in the folder under a name of its own that nothing had before.
//!
//! ```text
//! received/dataset.csv                  whole, hash verified, synced
//! received/.partial/NODE-ID.part        the content so far
//! received/.partial/NODE-ID.json        whose it is, and how much of it is surely on the disk
//! received/.partial/NODE-ID.tree        a directory that is being made of a whole content
//! received/.index/TIME-ID.json          what is known of a whole file
//! received/.seen                        ids of files that were here, and have no entry any more
//!
//! (none) --begin--> active --finish--> whole
//!                   active --suspend (stream broke, shutdown)--> partial
//!                   active --discard (wrong hash)--> (none)
//!          partial --begin (same sender, id and size)--> active, from the synced offset
//!          active  --begin by a newer stream--> the older is told to stop, then active
//!          partial --7 days, or a newer one needs its place--> (none)
//! ```
//!
//! A directory comes as one content ([`TreeReader`](pilot_core::service::exchange::TreeReader)).
//! Once that is whole a directory is made of it, synced, and then named like a file: all of it is
//! in sight at once. A whole file gets its index entry first, then its name, by a rename that replaces nothing;
//! a crash between the two is mended at the next start. A peer's names are [`FileName`]s:
//! base names that never start with a dot, so none reaches another folder or these two.

mod incoming;
mod load;
mod look;
mod unpack;

pub(crate) use incoming::{Active, Incoming};

use super::disk;
use super::seen::Seen;
use load::Entry;
use look::Look;
use pilot_core::addr::Address;
use pilot_core::service::exchange::{Digest, FileName, Kind, Note, Offer, Refusal, TransferId};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// How long a newer stream of a transfer waits until the older one has let go of the file.
const TAKE_OVER: Duration = Duration::from_secs(10);
/// How many names are tried for one file.
const NAMES_MAX: u32 = 10_000;

/// What is received at most. Beyond it an offer is refused as "full".
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceivedLimits {
    /// Whole files in the folder.
    pub(crate) files: usize,
    /// Bytes of all files, the offered size of unfinished ones included.
    pub(crate) bytes: u64,
    /// Files of one sender.
    pub(crate) sender_files: usize,
    /// Bytes of one sender's files, unfinished ones included.
    pub(crate) sender_bytes: u64,
    /// Entries of all directories in the folder.
    pub(crate) entries: u64,
    /// Entries of one sender's directories.
    pub(crate) sender_entries: u64,
    /// Unfinished files; the oldest that nobody sends makes room for a new one.
    pub(crate) partials: usize,
    /// Unfinished files of one sender.
    pub(crate) sender_partials: usize,
    /// Bytes that stay free on the disk.
    pub(crate) keep_free: u64,
    /// An unfinished file that nobody continues for so long is removed.
    pub(crate) partial_age: Duration,
}

impl Default for ReceivedLimits {
    fn default() -> Self {
        ReceivedLimits {
            files: 20_000,
            bytes: 256 << 30,
            sender_files: 10_000,
            sender_bytes: 128 << 30,
            entries: 400_000,
            sender_entries: 200_000,
            partials: 256,
            sender_partials: 32,
            keep_free: 256 << 20,
            partial_age: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// A file or directory received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FileInfo {
    /// Chosen by the sender.
    pub(crate) id: TransferId,
    /// Who sent it, authenticated.
    pub(crate) from: Address,
    /// A file or a directory.
    pub(crate) kind: Kind,
    /// Its name in the folder.
    pub(crate) name: FileName,
    /// When it was whole, in microseconds since the Unix epoch; strictly increasing.
    pub(crate) received_us: u64,
    /// Bytes of the content.
    pub(crate) size: u64,
    /// Entries of a directory; of a file 0.
    pub(crate) entries: u32,
    /// Of the content.
    pub(crate) hash: Digest,
    /// A remark of the sender: hostile text, cleaned.
    pub(crate) note: Note,
}

impl FileInfo {
    fn key(&self) -> Key {
        (self.from.on_backbone(), self.id)
    }
}

/// A transfer: the sender's node and its id.
type Key = (Address, TransferId);

/// An unfinished file.
#[derive(Clone, Debug)]
struct Partial {
    from: Address,
    kind: Kind,
    name: FileName,
    size: u64,
    note: Note,
    synced: u64,
    /// Of a directory that was made of its content, and has no name yet.
    entries: u32,
    touched_us: u64,
    active: Option<Arc<Active>>,
}

struct State {
    /// By the time of arrival.
    files: BTreeMap<u64, FileInfo>,
    known: BTreeMap<Key, u64>,
    /// The newest file of each name; one before it has been moved away.
    names: BTreeMap<FileName, u64>,
    partials: BTreeMap<Key, Partial>,
    /// Files without an index entry that were here.
    seen: Seen,
    last_us: u64,
    /// Times of arrival that were given to files which are not among `files` yet.
    naming: BTreeSet<u64>,
    look: Look,
    /// A file has its name, and that could not be made durable.
    is_unsynced: bool,
}

/// The folder of received files of one agent. Every method blocks on the disk.
pub(crate) struct Received {
    dir: PathBuf,
    limits: ReceivedLimits,
    state: Mutex<State>,
    /// An active transfer has let go of its file.
    released: Condvar,
}

/// What to say to an offer.
#[allow(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(crate) enum Begin {
    /// It is here already.
    Have,
    /// Send, from where [`Incoming::hash`] ends.
    Go(Incoming),
}

impl Received {
    /// Opens the folder, creating it if needed, and mends what a crash left.
    pub(crate) fn open(dir: PathBuf, limits: ReceivedLimits) -> io::Result<Arc<Received>> {
        for path in [&dir, &dir.join(".partial"), &dir.join(".index")] {
            disk::private_dir(path)?;
        }
        let seen = Seen::load(dir.join(".seen"))?;
        let state = Mutex::new(State {
            files: BTreeMap::new(),
            known: BTreeMap::new(),
            names: BTreeMap::new(),
            partials: BTreeMap::new(),
            last_us: seen.latest_us(),
            seen,
            naming: BTreeSet::new(),
            look: Look::default(),
            is_unsynced: false,
        });
        let received = Received { dir, limits, state, released: Condvar::new() };
        received.load_partials()?;
        received.load_index()?;
        received.remove_orphans()?;
        received.expire();
        Ok(Arc::new(received))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn part_path(&self, key: &Key, extension: &str) -> PathBuf {
        let (from, id) = key;
        self.dir.join(".partial").join(format!("{:08x}-{id}.{extension}", from.node.0))
    }

    fn index_path(&self, info: &FileInfo) -> PathBuf {
        self.dir.join(".index").join(format!("{:017}-{}.json", info.received_us, info.id))
    }

    /// Where a file is.
    pub(crate) fn path(&self, info: &FileInfo) -> PathBuf {
        self.dir.join(info.name.as_str())
    }

    /// At most `limit` files that were whole after `after_us`, oldest first, and whether each
    /// is still where it was put. None ever comes to stand before one that was listed.
    pub(crate) fn list(&self, after_us: u64, limit: usize) -> Vec<(FileInfo, bool)> {
        let after = after_us.saturating_add(1);
        let state = self.state();
        let end = state.naming.first().copied().unwrap_or(u64::MAX);
        let listed = state.files.range(after..).take_while(|(at, _)| **at < end).take(limit);
        listed.map(|(_, info)| (info.clone(), self.is_there(&state, info))).collect()
    }

    /// Whether a file or directory is still where it was put.
    fn is_there(&self, state: &State, info: &FileInfo) -> bool {
        state.names.get(&info.name) == Some(&info.received_us) && self.has_place(info)
    }

    /// Whether something of its kind has its name.
    fn has_place(&self, info: &FileInfo) -> bool {
        let meta = self.path(info).symlink_metadata();
        meta.is_ok_and(|meta| match info.kind {
            Kind::Directory => meta.is_dir(),
            _ => meta.is_file(),
        })
    }

    /// What a sender's transfer has become, once it is whole, and whether it is still where it was
    /// put.
    pub(crate) fn find(&self, from: Address, id: TransferId) -> Option<(FileInfo, bool)> {
        let state = self.state();
        let info = state.files.get(state.known.get(&(from.on_backbone(), id))?)?;
        Some((info.clone(), self.is_there(&state, info)))
    }

    /// Decides an offer of a file and opens it for writing. Reads what is stored of it
    /// already, for the hash.
    pub(crate) fn begin(self: &Arc<Self>, from: Address, offer: &Offer) -> Result<Begin, Refusal> {
        let key = (from.on_backbone(), offer.id);
        let name = offer.name.clone().ok_or(Refusal::BadName)?;
        let active = Arc::new(Active::default());
        let offset = {
            let mut state = self.take_over(&key)?;
            if state.known.contains_key(&key) || state.seen.contains(&key) {
                self.sync_names(&mut state).map_err(|error| {
                    tracing::warn!(%error, "cannot make the name of a received file durable");
                    Refusal::Failed
                })?;
                return Ok(Begin::Have);
            }
            let is_other = |p: &Partial| (p.size, p.kind) != (offer.size, offer.kind);
            if state.partials.get(&key).is_some_and(is_other) {
                self.drop_partial(&mut state, &key);
            }
            self.make_room(&mut state, &key, offer)?;
            let touched_us = state.tick();
            let partial = state.partials.entry(key).or_insert_with(|| Partial {
                from,
                kind: offer.kind,
                name: name.clone(),
                size: offer.size,
                note: offer.note.clone(),
                synced: 0,
                entries: 0,
                touched_us,
                active: None,
            });
            (partial.name, partial.touched_us) = (name, touched_us);
            partial.active = Some(active.clone());
            partial.synced
        };
        // From here on the file is ours alone, and `Incoming` or we release it.
        match Incoming::open(self.clone(), key, offer, offset, active) {
            Ok(incoming) => Ok(Begin::Go(incoming)),
            Err(error) => {
                tracing::warn!(%error, "cannot open a file to receive");
                let mut state = self.state();
                // What an earlier attempt has brought is kept for a later one.
                match state.partials.get_mut(&key) {
                    Some(partial) if partial.synced > 0 => partial.active = None,
                    _ => self.drop_partial(&mut state, &key),
                }
                drop(state);
                self.released.notify_all();
                Err(if disk::is_full(&error) { Refusal::Full } else { Refusal::Failed })
            }
        }
    }

    /// Waits until nobody else writes this transfer, having told so whoever does.
    fn take_over(&self, key: &Key) -> Result<MutexGuard<'_, State>, Refusal> {
        let state = self.state();
        let busy = |state: &mut State| match state.partials.get(key).map(|p| &p.active) {
            Some(Some(active)) => {
                active.supersede();
                true
            }
            _ => false,
        };
        let waited = self.released.wait_timeout_while(state, TAKE_OVER, busy);
        let (state, result) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        if result.timed_out() { Err(Refusal::Busy) } else { Ok(state) }
    }

    /// Whether there is room, after making it as far as that hurts nobody.
    fn make_room(&self, state: &mut State, key: &Key, offer: &Offer) -> Result<(), Refusal> {
        let size = offer.size;
        if size > self.limits.bytes.min(self.limits.sender_bytes) {
            return Err(Refusal::TooLarge);
        }
        self.evict_partials(state, key)?;
        let none = |_: &Key, _: &Partial| false;
        if self.is_full(state, key, size, none) {
            self.prune_index(state);
        }
        // What the sender has left unfinished, or taken back, must not stand in its own way.
        let given_up = |k: &Key, p: &Partial| k.0 == key.0 && k != key && p.active.is_none();
        if self.is_full(state, key, size, given_up) {
            return Err(Refusal::Full);
        }
        while self.is_full(state, key, size, none) {
            let own = state.partials.iter().filter(|(k, p)| given_up(k, p));
            let oldest = own.min_by_key(|(_, p)| p.touched_us).map(|(k, _)| *k);
            self.drop_partial(state, &oldest.ok_or(Refusal::Full)?);
        }
        let have = state.partials.get(key).map_or(0, |partial| partial.synced);
        let free = disk::free_bytes(&self.dir).map_err(|_| Refusal::Failed)?;
        // What others may write still is free only for now.
        let active = state.partials.iter().filter(|(k, p)| *k != key && p.active.is_some());
        let coming = active.map(|(_, p)| to_write(p.kind, p.size, p.synced));
        let wanted = coming.fold(to_write(offer.kind, size, have), u64::saturating_add);
        if wanted.saturating_add(self.limits.keep_free) > free {
            return Err(Refusal::Full);
        }
        Ok(())
    }

    /// Whether there is no room beside the files and partial files that are there, but those
    /// that `gone` names.
    fn is_full(
        &self,
        state: &State,
        key: &Key,
        size: u64,
        gone: impl Fn(&Key, &Partial) -> bool,
    ) -> bool {
        let (mut all, mut sender) = ((0, size), (0, size));
        let files = state.files.values().map(|f| (f.from.on_backbone(), 1, f.size));
        let others = state.partials.iter().filter(|(k, p)| *k != key && !gone(k, p));
        for (from, files, bytes) in files.chain(others.map(|(k, p)| (k.0, 0, p.size))) {
            all = (all.0 + files, all.1.saturating_add(bytes));
            if from == key.0 {
                sender = (sender.0 + files, sender.1.saturating_add(bytes));
            }
        }
        all.0 >= self.limits.files
            || all.1 > self.limits.bytes
            || sender.0 >= self.limits.sender_files
            || sender.1 > self.limits.sender_bytes
    }

    /// Makes a place for one more partial file: first the sender's own oldest goes, then
    /// anybody's; never one that is being sent.
    fn evict_partials(&self, state: &mut State, key: &Key) -> Result<(), Refusal> {
        if state.partials.contains_key(key) {
            return Ok(());
        }
        for (limit, own) in [(self.limits.sender_partials, true), (self.limits.partials, false)] {
            let counted = |k: &Key| !own || k.0 == key.0;
            if state.partials.keys().filter(|k| counted(k)).count() < limit {
                continue;
            }
            let idle = state.partials.iter().filter(|(k, p)| counted(k) && p.active.is_none());
            let oldest = idle.min_by_key(|(_, p)| p.touched_us).map(|(k, _)| *k);
            self.drop_partial(state, &oldest.ok_or(Refusal::Busy)?);
        }
        Ok(())
    }

    fn drop_partial(&self, state: &mut State, key: &Key) {
        state.partials.remove(key);
        for extension in ["part", "json"] {
            remove(&self.part_path(key, extension));
        }
        remove_tree(&self.part_path(key, "tree"));
    }

    /// Entries that the directory of a transfer may have, beside those of all others.
    fn entries_left(&self, state: &State, key: &Key) -> u64 {
        let (mut all, mut sender) = (0, 0);
        let whole = state.files.values().map(|f| (f.from.on_backbone(), f.entries));
        let others =
            state.partials.iter().filter(|(k, _)| *k != key).map(|(k, p)| (k.0, p.entries));
        for (from, entries) in whole.chain(others) {
            all += u64::from(entries);
            if from == key.0 {
                sender += u64::from(entries);
            }
        }
        let ReceivedLimits { entries, sender_entries, .. } = self.limits;
        entries.saturating_sub(all).min(sender_entries.saturating_sub(sender))
    }

    /// Takes that many of them for the transfer, if they are there.
    fn take_entries(&self, key: &Key, entries: u32) -> bool {
        let mut state = self.state();
        let there = u64::from(entries) <= self.entries_left(&state, key);
        if let Some(partial) = state.partials.get_mut(key).filter(|_| there) {
            partial.entries = entries;
        }
        there
    }

    /// Drops the entries of files that the user has moved away or deleted. That they were here
    /// is remembered: a sender that has not learnt of it would bring them again.
    fn prune_index(&self, state: &mut State) {
        let changed_us = disk::changed_us(&self.dir);
        if !state.look.is_due(Instant::now(), disk::unix_micros(), changed_us) {
            return;
        }
        let gone = state.files.values().filter(|f| !self.is_there(state, f)).cloned();
        let gone: Vec<_> = gone.collect();
        if gone.is_empty() {
            return;
        }
        let keys: Vec<_> = gone.iter().map(FileInfo::key).collect();
        let latest_us = gone.iter().map(|info| info.received_us).max().unwrap_or_default();
        if let Err(error) = state.seen.remember(&keys, latest_us).write() {
            tracing::warn!(%error, "entries of files that are gone are kept");
            return;
        }
        for info in gone {
            state.forget(&info);
            remove(&self.index_path(&info));
        }
    }

    /// Removes partial files that nobody continues.
    fn expire(&self) {
        let age = u64::try_from(self.limits.partial_age.as_micros()).unwrap_or(u64::MAX);
        let now = disk::unix_micros();
        let mut state = self.state();
        let idle = state.partials.iter().filter(|(_, p)| p.active.is_none());
        let old: Vec<_> =
            idle.filter(|(_, p)| now.saturating_sub(p.touched_us) > age).map(|(k, _)| *k).collect();
        for key in old {
            self.drop_partial(&mut state, &key);
        }
    }

    /// Makes durable what could not be when it was named: only then its sender is told of it.
    fn sync_names(&self, state: &mut State) -> io::Result<()> {
        if state.is_unsynced {
            disk::sync_dir(&self.dir)?;
            state.is_unsynced = false;
        }
        Ok(())
    }

    /// Gives a whole, synced file or directory its index entry and a name that nothing has, which
    /// is to be synced yet. After an error it has neither.
    fn name_file(&self, part: &Path, info: &mut FileInfo) -> io::Result<()> {
        let wanted = info.name.clone();
        for n in 1..=NAMES_MAX {
            if n > 1 {
                info.name = wanted.numbered(n);
            }
            let path = self.path(info);
            if path.symlink_metadata().is_ok() {
                continue;
            }
            let entry = Entry {
                id: info.id.to_string(),
                from: info.from.to_string(),
                name: info.name.to_string(),
                size: info.size,
                note: info.note.to_string(),
                time_us: info.received_us,
                kind: info.kind as u8,
                entries: info.entries,
                hash: Some(info.hash.to_string()),
                synced: info.size,
            };
            let entry = serde_json::to_vec(&entry)?;
            let noted = disk::replace(&self.index_path(info), &[&entry], true);
            match noted.and_then(|()| disk::rename_new(part, &path)) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => {
                    // The file stays partial, and its next attempt makes an entry of its own.
                    remove(&self.index_path(info));
                    return Err(e);
                }
                Ok(()) => return Ok(()),
            }
        }
        remove(&self.index_path(info));
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl State {
    fn insert(&mut self, info: FileInfo) {
        let at = info.received_us;
        for newest in [
            self.known.entry(info.key()).or_default(),
            self.names.entry(info.name.clone()).or_default(),
        ] {
            *newest = at.max(*newest);
        }
        self.files.insert(at, info);
    }

    fn forget(&mut self, info: &FileInfo) {
        self.files.remove(&info.received_us);
        self.known.remove(&info.key());
        if self.names.get(&info.name) == Some(&info.received_us) {
            self.names.remove(&info.name);
        }
    }

    /// The time, later than every one before.
    fn tick(&mut self) -> u64 {
        self.last_us = disk::unix_micros().max(self.last_us + 1);
        self.last_us
    }
}

/// Bytes that a transfer may write still: a directory is there twice while it is made of its content.
fn to_write(kind: Kind, size: u64, have: u64) -> u64 {
    let unpacked = if kind == Kind::Directory { size } else { 0 };
    size.saturating_sub(have).saturating_add(unpacked)
}

/// Removes a file that is of no more use; one that stays is found again at the next start.
fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), error = %e, "cannot remove a file");
        }
        _ => {}
    }
}

/// The same of a directory.
fn remove_tree(path: &Path) {
    if let Err(e) = unpack::remove_tree(path) {
        tracing::warn!(path = %path.display(), error = %e, "cannot remove a directory");
    }
}

#[cfg(test)]
mod tests;
