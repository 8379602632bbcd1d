//! Where programs run: folders `serving/ID` in the home, with copies of their tasks' files.

use crate::api::Task;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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
    pub(super) async fn fill(&self, task: &Task) -> Result<(), String> {
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
