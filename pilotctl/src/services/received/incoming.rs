//! One file on its way in.

use super::unpack::{UnpackError, unpack};
use super::{Entry, FileInfo, Key, Partial, Received, disk, remove_tree};
use pilot_core::service::exchange::{ContentHash, Digest, Failure, Kind, Offer};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use tokio::sync::Notify;

/// After so many bytes the content is synced, beside the writing of what follows, and the offset
/// noted: a crash costs little, and the last sync is short.
const CHECKPOINT: u64 = 16 << 20;
/// So many bytes are written at most that are not surely on the disk; then the writing waits.
const BEHIND: u64 = 64 << 20;
/// Bytes read at a time for the hash of what is there already.
const READ: usize = 1 << 20;

/// Tells the stream of a transfer that a newer stream wants to go on with it.
#[derive(Default, Debug)]
pub(crate) struct Active {
    superseded: AtomicBool,
    notify: Notify,
}

impl Active {
    pub(super) fn supersede(&self) {
        self.superseded.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// Completes when a newer stream wants to go on with the transfer. For one waiter.
    pub(crate) async fn superseded(&self) {
        while !self.superseded.load(Ordering::Acquire) {
            self.notify.notified().await;
        }
    }
}

/// A sync under way, which makes the bytes up to here durable.
struct Syncing {
    up_to: u64,
    thread: JoinHandle<io::Result<()>>,
}

/// A file that is being received: it belongs to one stream. Dropped unfinished, what is there
/// is synced and kept for the next attempt.
pub(crate) struct Incoming {
    store: Arc<Received>,
    key: Key,
    file: File,
    kind: Kind,
    size: u64,
    written: u64,
    synced: u64,
    syncing: Option<Syncing>,
    hash: ContentHash,
    active: Arc<Active>,
    /// Its time of arrival, while it gets its name.
    naming: Option<u64>,
    is_over: bool,
}

impl Incoming {
    pub(super) fn open(
        store: Arc<Received>,
        key: Key,
        offer: &Offer,
        synced: u64,
        active: Arc<Active>,
    ) -> io::Result<Incoming> {
        let path = store.part_path(&key, "part");
        let mut file = match disk::open_existing(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => disk::create_new(&path)?,
            other => other?,
        };
        let there = synced.min(file.metadata()?.len());
        // Beyond it nothing is certain after a power loss.
        file.set_len(there)?;
        let mut hash = ContentHash::new(offer.hash);
        let mut buf = vec![0; READ.min(usize::try_from(there).unwrap_or(READ))];
        while hash.len() < there {
            let n = file.read(&mut buf)?;
            if n == 0 {
                break;
            }
            hash.update(&buf[..n]);
        }
        let offset = hash.len();
        file.seek(io::SeekFrom::Start(offset))?;
        let incoming = Incoming {
            store,
            key,
            file,
            kind: offer.kind,
            size: offer.size,
            written: offset,
            synced: offset,
            syncing: None,
            hash,
            active,
            naming: None,
            is_over: false,
        };
        incoming.note()?;
        Ok(incoming)
    }

    /// Bytes that are there already.
    #[cfg(test)]
    pub(crate) fn offset(&self) -> u64 {
        self.hash.len()
    }

    /// The hash over the bytes that are there already; the transfer goes on where it ends.
    pub(crate) fn hash(&self) -> ContentHash {
        self.hash.clone()
    }

    /// Where a newer stream makes itself known.
    pub(crate) fn active(&self) -> Arc<Active> {
        self.active.clone()
    }

    /// Appends the next bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        let behind = self.written - self.synced;
        if self.syncing.as_ref().is_some_and(|s| s.thread.is_finished() || behind >= BEHIND) {
            self.await_sync()?;
            self.note()?;
        }
        if self.syncing.is_none() && self.written - self.synced >= CHECKPOINT {
            let (file, up_to) = (self.file.try_clone()?, self.written);
            let thread = std::thread::Builder::new().name("sync".to_owned());
            let thread = thread.spawn(move || file.sync_data())?;
            self.syncing = Some(Syncing { up_to, thread });
        }
        Ok(())
    }

    /// An error of the disk is told once, to whoever syncs first.
    fn await_sync(&mut self) -> io::Result<()> {
        if let Some(Syncing { up_to, thread }) = self.syncing.take() {
            thread.join().map_err(|_| io::Error::other("the sync has panicked"))??;
            self.synced = up_to;
        }
        Ok(())
    }

    fn checkpoint(&mut self) -> io::Result<()> {
        self.await_sync()?;
        self.file.sync_data()?;
        self.synced = self.written;
        self.note()
    }

    /// Notes how much is surely on the disk. Not synced itself: an older note is true too.
    fn note(&self) -> io::Result<()> {
        let entry = {
            let mut state = self.store.state();
            let touched_us = state.tick();
            let Some(partial) = state.partials.get_mut(&self.key) else { return Ok(()) };
            partial.touched_us = touched_us;
            partial.synced = self.synced;
            Entry {
                id: self.key.1.to_string(),
                from: partial.from.to_string(),
                name: partial.name.to_string(),
                size: partial.size,
                note: partial.note.to_string(),
                time_us: touched_us,
                kind: partial.kind as u8,
                entries: 0,
                hash: None,
                synced: partial.synced,
            }
        };
        let path = self.store.part_path(&self.key, "json");
        disk::replace(&path, &[&serde_json::to_vec(&entry)?], false)
    }

    /// The content is whole and has this hash: gives the file, or the directory that is made of
    /// it, its name. When it returns well, that survives a power loss.
    pub(crate) fn finish(mut self, hash: Digest) -> Result<FileInfo, Failure> {
        match self.make_whole() {
            Ok((whole, entries)) => {
                let info = self.describe(entries, hash)?;
                self.name(&whole, info)
            }
            Err(Failure::BadContent) => {
                self.discard();
                Err(Failure::BadContent)
            }
            Err(failure) => Err(failure),
        }
    }

    /// What is to get its name, on the disk, and the entries that it has.
    pub(super) fn make_whole(&mut self) -> Result<(PathBuf, u32), Failure> {
        if self.written != self.size {
            return Err(Failure::Failed);
        }
        self.await_sync().and_then(|()| self.file.sync_all()).map_err(failed)?;
        self.synced = self.written;
        let mut whole = self.store.part_path(&self.key, "part");
        if self.kind != Kind::Directory {
            return Ok((whole, 0));
        }
        whole.set_extension("tree");
        match self.unpack(&whole) {
            Ok(entries) => Ok((whole, entries)),
            Err(UnpackError::Disk(error)) => Err(failed(error)),
            Err(UnpackError::TooMany) => Err(Failure::Full),
            Err(error) => {
                tracing::info!(%error, "a directory was not what it should be");
                Err(Failure::BadContent)
            }
        }
    }

    /// What it is from now on: until it is listed no later one is.
    pub(super) fn describe(&mut self, entries: u32, hash: Digest) -> Result<FileInfo, Failure> {
        let mut state = self.store.state();
        let partial = state.partials.get(&self.key).cloned().ok_or(Failure::Failed)?;
        let received_us = state.tick();
        state.naming.insert(received_us);
        self.naming = Some(received_us);
        let Partial { from, name, note, .. } = partial;
        let (id, kind, size) = (self.key.1, self.kind, self.size);
        Ok(FileInfo { id, from, kind, name, received_us, size, entries, hash, note })
    }

    pub(super) fn name(mut self, whole: &Path, mut info: FileInfo) -> Result<FileInfo, Failure> {
        self.store.name_file(whole, &mut info).map_err(failed)?;
        let synced = disk::sync_dir(&self.store.dir);
        // It has its name, whatever became of that: sent again it would get another.
        self.is_over = true;
        let mut state = self.store.state();
        state.is_unsynced |= synced.is_err();
        // Its content, too, where that has become a directory.
        self.store.drop_partial(&mut state, &self.key);
        if let Some(at) = self.naming.take() {
            state.naming.remove(&at);
        }
        state.insert(info.clone());
        drop(state);
        self.store.released.notify_all();
        synced.map_err(failed)?;
        Ok(info)
    }

    /// Makes the directory of the content, and takes the entries that it has.
    fn unpack(&mut self, to: &Path) -> Result<u32, UnpackError> {
        let mut most = self.store.entries_left(&self.store.state(), &self.key);
        let mut unpacked = self.unpack_at_most(to, most);
        if matches!(unpacked, Err(UnpackError::TooMany)) {
            // Those of directories that the user has moved away are free.
            let mut state = self.store.state();
            self.store.prune_index(&mut state);
            let now = self.store.entries_left(&state, &self.key);
            drop(state);
            if now > most {
                most = now;
                unpacked = self.unpack_at_most(to, most);
            }
        }
        let entries = unpacked?;
        // Another directory may have become whole meanwhile.
        if !self.store.take_entries(&self.key, entries) {
            remove_tree(to);
            return Err(UnpackError::TooMany);
        }
        Ok(entries)
    }

    fn unpack_at_most(&mut self, to: &Path, most: u64) -> Result<u32, UnpackError> {
        self.file.seek(io::SeekFrom::Start(0))?;
        let unpacked = unpack(&self.file, to, most);
        self.file.seek(io::SeekFrom::End(0))?;
        unpacked
    }

    /// The content is not what was sent: nothing of it is kept.
    pub(crate) fn discard(mut self) {
        self.is_over = true;
        self.store.drop_partial(&mut self.store.state(), &self.key);
        self.store.released.notify_all();
    }
}

fn failed(error: io::Error) -> Failure {
    tracing::warn!(%error, "cannot store a received file");
    if disk::is_full(&error) { Failure::Full } else { Failure::Failed }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        if let Err(error) = self.checkpoint() {
            tracing::warn!(%error, "what was received of a file is kept up to its last checkpoint");
        }
        let mut state = self.store.state();
        if let Some(at) = self.naming.take() {
            state.naming.remove(&at);
        }
        if let Some(partial) = state.partials.get_mut(&self.key) {
            partial.active = None;
        }
        drop(state);
        self.store.released.notify_all();
    }
}
