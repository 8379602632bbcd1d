//! Where programs run: folders `serving/ID` in the home, with copies of their tasks' files.

use crate::api::Task;
use crate::services::disk::free_bytes;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that copies leave free, as what is received does.
const KEEP_FREE: u64 = 256 << 20;

/// Room on the disk for copies: many tasks may name one file that was sent once.
#[derive(Clone, Default)]
pub(super) struct Room {
    /// Set aside for copies that are being made.
    aside: Arc<Mutex<u64>>,
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets so many bytes aside until what is given is dropped.
    fn take(
        &self,
        bytes: u64,
        free: impl FnOnce() -> io::Result<u64>,
    ) -> Result<Aside<'_>, String> {
        let mut aside = self.lock();
        let free = free().map_err(|e| format!("cannot tell how much room there is: {e}"))?;
        // What a copy has written by now counts twice: rather too little is done than too much.
        let after = aside.saturating_add(bytes);
        if after.saturating_add(KEEP_FREE) > free {
            return Err("the worker's disk has no room for its files".to_owned());
        }
        *aside = after;
        Ok(Aside { room: self, bytes })
    }
}

struct Aside<'r> {
    room: &'r Room,
    bytes: u64,
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        *self.room.lock() -= self.bytes;
    }
}

/// Removes what is left of one that was killed: its tasks are not begun again.
pub(super) fn clear(serving: &Path) {
    for entry in fs::read_dir(serving).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // One that somebody still writes to goes the next time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A fresh folder in the home, removed when dropped.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(home: &Path, id: &str) -> io::Result<Folder> {
        use std::os::unix::fs::DirBuilderExt as _;
        // An id is 32 hexadecimal digits, as the daemon prints it.
        let path = home.join("serving").join(id);
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Folder(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Copies the files of a task into it, or says why not.
    pub(super) async fn fill(&self, task: &Task, room: &Room) -> Result<(), String> {
        let bytes = task.files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.bytes));
        let _aside = match bytes {
            0 => None,
            bytes => Some(room.take(bytes, || free_bytes(&self.0))?),
        };
        for file in &task.files {
            let from = file.path.as_ref().ok_or("a file is not here")?;
            // A base name, as the protocol has checked.
            let copied = tokio::fs::copy(from, self.0.join(&file.name)).await;
            copied.map_err(|e| format!("cannot copy a file: {e}"))?;
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn copies_that_are_being_made_have_their_room() {
        let room = Room::default();
        let take = |bytes| room.take(bytes, || Ok(356 * MIB));
        assert!(take(101 * MIB).is_err(), "some is kept free");
        let first = take(60 * MIB).ok().unwrap();
        let second = take(40 * MIB).ok().unwrap();
        assert!(take(1).is_err());
        drop(first);
        assert!(take(60 * MIB).is_ok() && take(61 * MIB).is_err());
        drop(second);
        assert!(take(100 * MIB).is_ok() && take(u64::MAX).is_err());
    }

    #[tokio::test]
    async fn a_file_is_copied_only_where_there_is_room() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("serving")).unwrap();
        let from = home.path().join("data.csv");
        fs::write(&from, "1,2").unwrap();
        let task = |bytes: u64| -> Task {
            serde_json::from_value(serde_json::json!({
                "id": "00".repeat(16), "role": "worker", "peer": "1:0001.0000.0042",
                "state": "accepted", "settled": false, "cancelling": false, "delivered": true,
                "created_ms": 1, "changed_ms": 1, "description": "x", "progress": "",
                "result_files": [], "served": false,
                "files": [{ "id": "11".repeat(16), "name": "data.csv", "bytes": bytes,
                            "sha256": "", "path": from }],
            }))
            .unwrap()
        };
        let (dir, room) = (Folder::new(home.path(), "00").unwrap(), Room::default());
        let why = dir.fill(&task(1 << 60), &room).await.unwrap_err();
        assert!(why.contains("no room"), "{why}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        dir.fill(&task(3), &room).await.unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("data.csv")).unwrap(), "1,2");
        assert_eq!(*room.lock(), 0);
    }
}
