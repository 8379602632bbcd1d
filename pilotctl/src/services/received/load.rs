//! What the folder writes of its files, and what of it is read and mended at the start.

use super::{FileInfo, Partial, Received, disk, remove, remove_tree};
use crate::services::inbox::parse_digest;
use pilot_core::addr::Address;
use pilot_core::service::exchange::{Kind, Note};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Index entries and descriptions of partial files.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) from: String,
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) note: String,
    pub(super) time_us: u64,
    #[serde(default = "file")]
    pub(super) kind: u8,
    #[serde(default)]
    pub(super) entries: u32,
    /// Of a whole file; formerly of SHA-256 alone.
    #[serde(default, alias = "sha256", skip_serializing_if = "Option::is_none")]
    pub(super) hash: Option<String>,
    /// Of a partial one: bytes that are surely on the disk.
    #[serde(default)]
    pub(super) synced: u64,
}

const fn file() -> u8 {
    Kind::File as u8
}

impl Entry {
    fn kind(&self) -> Option<Kind> {
        Kind::from_u8(self.kind).filter(|kind| !kind.is_message())
    }
}

impl Received {
    pub(super) fn load_partials(&self) -> io::Result<()> {
        let mut state = self.state();
        for (path, entry) in read_entries(&self.dir.join(".partial"))? {
            let loaded = entry.and_then(|entry| {
                let (from, id) = (entry.from.parse::<Address>().ok()?, entry.id.parse().ok()?);
                let partial = Partial {
                    from,
                    kind: entry.kind()?,
                    name: entry.name.parse().ok()?,
                    size: entry.size,
                    note: Note::cleaned(entry.note.as_bytes()),
                    synced: entry.synced.min(entry.size),
                    entries: 0,
                    touched_us: entry.time_us,
                    active: None,
                };
                Some(((from.on_backbone(), id), partial))
            });
            match loaded {
                Some((key, partial)) if self.part_path(&key, "json") == path => {
                    state.last_us = state.last_us.max(partial.touched_us);
                    state.partials.insert(key, partial);
                }
                _ => remove(&path),
            }
        }
        Ok(())
    }

    /// Removes contents that nothing describes.
    pub(super) fn remove_orphans(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(self.dir.join(".partial"))? {
            let path = entry?.path();
            let is_part = path.extension().is_some_and(|e| e == "part");
            if is_part && !path.with_extension("json").exists() {
                remove(&path);
            } else if path.extension().is_some_and(|e| e == "tree") {
                // Not whole: one that is has an index entry, and has its name by now.
                remove_tree(&path);
            }
        }
        Ok(())
    }

    pub(super) fn load_index(&self) -> io::Result<()> {
        let mut entries = read_entries(&self.dir.join(".index"))?;
        // The newest first.
        entries.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        for (path, entry) in entries {
            let loaded = entry.and_then(|entry| {
                Some(FileInfo {
                    id: entry.id.parse().ok()?,
                    from: entry.from.parse().ok()?,
                    kind: entry.kind()?,
                    entries: entry.entries,
                    name: entry.name.parse().ok()?,
                    received_us: entry.time_us,
                    size: entry.size,
                    hash: parse_digest(&entry.hash?)?,
                    note: Note::cleaned(entry.note.as_bytes()),
                })
            });
            match loaded {
                Some(info) if self.index_path(&info) == path && self.is_stale(&info) => {
                    remove(&path);
                }
                Some(info) if self.index_path(&info) == path => {
                    let info = self.complete(info)?;
                    let mut state = self.state();
                    state.last_us = state.last_us.max(info.received_us);
                    state.insert(info);
                }
                _ => tracing::warn!(path = %path.display(), "not an index entry: left alone"),
            }
        }
        Ok(())
    }

    /// Whether an attempt to name a file has left this, and a later one has named it.
    fn is_stale(&self, info: &FileInfo) -> bool {
        let named = self.find(info.from, info.id);
        named.is_some_and(|(named, _)| named.name == info.name || !self.has_place(info))
    }

    /// A crash came between an index entry and the file's name: the content is still partial.
    fn complete(&self, mut info: FileInfo) -> io::Result<FileInfo> {
        let key = info.key();
        let (part, tree) = (self.part_path(&key, "part"), self.part_path(&key, "tree"));
        if info.kind == Kind::Directory {
            if tree.is_dir() {
                self.name_file(&tree, &mut info)?;
                disk::sync_dir(&self.dir)?;
            }
        } else if part.metadata().is_ok_and(|meta| meta.len() == info.size) {
            if is_same_file(&part, &self.path(&info)) {
                remove(&part);
            } else {
                self.name_file(&part, &mut info)?;
                disk::sync_dir(&self.dir)?;
            }
        }
        self.drop_partial(&mut self.state(), &key);
        Ok(info)
    }
}

/// All `.json` files of a directory; those that do not parse as `None`. Temporary files of a
/// crash are removed.
fn read_entries(dir: &Path) -> io::Result<Vec<(PathBuf, Option<Entry>)>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("tmp") => remove(&path),
            Some("json") => {
                let entry = serde_json::from_slice(&std::fs::read(&path)?).ok();
                entries.push((path, entry));
            }
            _ => {}
        }
    }
    Ok(entries)
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (a.symlink_metadata(), b.symlink_metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}
