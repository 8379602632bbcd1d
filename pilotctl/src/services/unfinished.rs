//! Files that this agent has begun to send and that no receipt has come for, so that sending
//! the same file again continues it. A file is the same if receiver, name, size and time of
//! modification are; should its content differ all the same, the receiver notices by the hash.

use super::disk;
use super::serve::random_id;
use pilot_core::addr::Address;
use pilot_core::service::exchange::{FileName, TransferId};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Files that are remembered; the oldest is forgotten for one more.
const UNFINISHED_MAX: usize = 256;

/// Which file, as its sender sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FileKey {
    /// The receiver.
    pub(crate) to: Address,
    /// Its name there.
    pub(crate) name: FileName,
    /// Bytes.
    pub(crate) size: u64,
    /// When it was last changed, in nanoseconds since the Unix epoch, as the client says.
    pub(crate) modified_ns: u64,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    to: String,
    name: String,
    size: u64,
    modified_ns: u64,
    id: String,
}

impl Entry {
    fn is(&self, key: &FileKey) -> bool {
        self.to == key.to.on_backbone().to_string()
            && self.name == key.name.as_str()
            && (self.size, self.modified_ns) == (key.size, key.modified_ns)
    }
}

/// The list, in one file that is replaced as a whole. Every method blocks on the disk.
pub(crate) struct Unfinished {
    path: PathBuf,
    /// Oldest first.
    entries: Mutex<Vec<Entry>>,
}

impl Unfinished {
    /// Reads the list; a damaged one is started anew, which costs a transfer its resumption.
    pub(crate) fn open(path: PathBuf) -> io::Result<Unfinished> {
        let entries = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        Ok(Unfinished { path, entries: Mutex::new(entries) })
    }

    /// The id under which to send a file: that of its unfinished transfer, or a new one.
    pub(crate) fn begin(&self, key: &FileKey) -> io::Result<TransferId> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = entries.iter().find(|e| e.is(key)).and_then(|e| e.id.parse().ok()) {
            return Ok(id);
        }
        entries.retain(|e| !e.is(key));
        if entries.len() >= UNFINISHED_MAX {
            entries.remove(0);
        }
        let id = random_id()?;
        entries.push(Entry {
            to: key.to.on_backbone().to_string(),
            name: key.name.to_string(),
            size: key.size,
            modified_ns: key.modified_ns,
            id: id.to_string(),
        });
        self.save(&entries)?;
        Ok(id)
    }

    /// The transfer is done, or cannot be continued.
    pub(crate) fn end(&self, id: TransferId) -> io::Result<()> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let before = entries.len();
        let text = id.to_string();
        entries.retain(|e| e.id != text);
        if entries.len() == before { Ok(()) } else { self.save(&entries) }
    }

    fn save(&self, entries: &[Entry]) -> io::Result<()> {
        disk::replace(&self.path, &[&serde_json::to_vec(entries)?], true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_file_keeps_its_id_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unfinished.json");
        let open = || Unfinished::open(path.clone()).unwrap();
        let key = |size| FileKey {
            to: "1:0001.0000.0042".parse().unwrap(),
            name: "dataset.csv".parse().unwrap(),
            size,
            modified_ns: 7,
        };
        let id = open().begin(&key(1)).unwrap();
        assert_eq!(open().begin(&key(1)).unwrap(), id);
        let other = open().begin(&key(2)).unwrap();
        assert_ne!(other, id);
        let unfinished = open();
        unfinished.end(id).unwrap();
        assert_ne!(unfinished.begin(&key(1)).unwrap(), id);
        assert_eq!(open().begin(&key(2)).unwrap(), other);
        for size in 10..10 + UNFINISHED_MAX as u64 {
            unfinished.begin(&key(size)).unwrap();
        }
        assert_ne!(unfinished.begin(&key(2)).unwrap(), other, "the oldest makes room");
        std::fs::write(&path, b"[{").unwrap();
        open().begin(&key(1)).unwrap();
    }
}
