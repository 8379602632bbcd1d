//! The content of a directory becomes a directory: beside the partial content, in a directory
//! that nobody else writes to, entry by entry below open directories. Nothing is opened by a path
//! of more than one name, and nothing that exists or is a link is followed or written to.

use super::disk;
use pilot_core::service::exchange::{FileName, TreeError, TreeItem, TreeReader};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Bytes read at a time.
const READ: usize = 1 << 20;

/// Why a content was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UnpackError {
    /// It is not that of a directory.
    #[error("{0}")]
    Content(#[from] TreeError),
    /// Two names that are one to this file system.
    #[error("the file system takes two of its names for one")]
    Twice,
    /// It has more entries than there is room for.
    #[error("it has too many entries")]
    TooMany,
    /// The disk failed.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

/// Makes a directory at `to` of a content, replacing what an earlier attempt has left there.
/// Entries that it has, at most `most`; when it returns well, all of them survive a power loss.
pub(super) fn unpack(content: impl Read, to: &Path, most: u64) -> Result<u32, UnpackError> {
    remove_tree(to)?;
    let unpacked = write_tree(content, to, most);
    if unpacked.is_err() {
        remove_tree(to)?;
    }
    unpacked
}

/// Removes a directory with all that is in it; links in it are removed, not followed.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn write_tree(mut content: impl Read, to: &Path, most: u64) -> Result<u32, UnpackError> {
    std::fs::create_dir(to)?;
    let mut tree = Tree { dirs: vec![make_private(to)?], file: None };
    let mut reader = TreeReader::new();
    let mut buf = vec![0; READ];
    loop {
        let n = content.read(&mut buf)?;
        if n == 0 {
            break;
        }
        let mut at = 0;
        loop {
            let (used, item) = reader.handle_bytes(&buf[at..n])?;
            at += used;
            if u64::from(reader.entries()) > most {
                return Err(UnpackError::TooMany);
            }
            match item {
                Some(item) => tree.add(&item)?,
                None if used == 0 => break,
                None => {}
            }
        }
    }
    reader.finish()?;
    disk::sync_all_below(tree.dir()?, to)?;
    Ok(reader.entries())
}

fn make_private(path: &Path) -> io::Result<OwnedFd> {
    let dir = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
    rustix::fs::fchmod(&dir, Mode::RWXU)?;
    Ok(dir)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Where in the tree we are.
struct Tree {
    /// Open directories, the outermost first; at most as many as a content may nest.
    dirs: Vec<OwnedFd>,
    file: Option<File>,
}

impl Tree {
    fn add(&mut self, item: &TreeItem<'_>) -> Result<(), UnpackError> {
        match item {
            TreeItem::Data(bytes) => {
                let none = || io::Error::from(io::ErrorKind::InvalidData);
                self.file.as_mut().ok_or_else(none)?.write_all(bytes)?;
            }
            TreeItem::Enter(name) => {
                let dir = self.dir()?;
                let made = rustix::fs::mkdirat(dir, name.as_str(), Mode::RWXU);
                made.map_err(|e| taken(e.into()))?;
                let entered = rustix::fs::openat(dir, name.as_str(), DIRECTORY, Mode::empty());
                self.dirs.push(entered.map_err(io::Error::from)?);
            }
            TreeItem::Leave => drop(self.dirs.pop()),
            TreeItem::File { name, .. } => self.file = Some(self.create(name)?),
        }
        Ok(())
    }

    fn dir(&self) -> io::Result<&OwnedFd> {
        self.dirs.last().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&self, name: &FileName) -> Result<File, UnpackError> {
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(self.dir()?, name.as_str(), NEW_FILE, mode);
        Ok(File::from(file.map_err(|e| taken(e.into()))?))
    }
}

/// Names differ by their bytes, so only a file system that folds them says this.
fn taken(error: io::Error) -> UnpackError {
    match error.kind() {
        io::ErrorKind::AlreadyExists => UnpackError::Twice,
        _ => UnpackError::Disk(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_core::service::exchange::TreeWriter;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn name(text: &str) -> FileName {
        text.parse().unwrap()
    }

    fn sample() -> Vec<u8> {
        let mut writer = TreeWriter::new();
        let mut content = Vec::new();
        content.extend(writer.enter(&name("a")).unwrap());
        content.extend(writer.file(&name("empty"), 0).unwrap());
        content.extend(writer.leave().unwrap());
        content.extend(writer.file(&name("b"), 3_000_000).unwrap());
        content.extend(vec![7; 3_000_000]);
        content.extend(writer.leave().unwrap());
        content
    }

    #[test]
    fn a_content_becomes_a_directory_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("tree");
        std::fs::create_dir_all(to.join("left/over")).unwrap();
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "mine").unwrap();
        symlink(&outside, to.join("b")).unwrap();
        symlink(dir.path(), to.join("a")).unwrap();
        assert_eq!(unpack(&sample()[..], &to, 3).unwrap(), 3);
        assert_eq!(std::fs::read_dir(&to).unwrap().count(), 2);
        assert_eq!(std::fs::read(to.join("a/empty")).unwrap(), b"");
        assert!(std::fs::read(to.join("b")).unwrap() == vec![7; 3_000_000]);
        assert_eq!(std::fs::read(&outside).unwrap(), b"mine");
        for (path, mode) in [("", 0o700), ("a", 0o700), ("b", 0o600)] {
            let meta = std::fs::symlink_metadata(to.join(path)).unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, mode, "{path}");
        }
    }

    #[test]
    fn what_is_no_directory_or_too_large_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("tree");
        let content = sample();
        assert!(matches!(unpack(&content[..], &to, 2), Err(UnpackError::TooMany)));
        let cut = unpack(&content[..content.len() - 1], &to, 9);
        assert!(matches!(cut, Err(UnpackError::Content(TreeError::Truncated))), "{cut:?}");
        for tricky in ["../x", "/x", "a/../../x", ".."] {
            let content = [&[2, tricky.len() as u8], tricky.as_bytes(), &[0; 9]].concat();
            let refused = unpack(&content[..], &to, 9);
            assert!(matches!(refused, Err(UnpackError::Content(TreeError::Name(_)))), "{tricky}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
