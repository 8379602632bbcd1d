//! The few things the stores ask of a file system, each of which blocks.

use rustix::fs::{Mode, OFlags, RenameFlags};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Creates a directory for its owner alone, and its parents, unless it exists.
pub(super) fn private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Creates a file for its owner alone that did not exist; follows no link.
pub(super) fn create_new(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?))
}

/// Opens an existing file for reading and writing; follows no link.
pub(super) fn open_existing(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Opens a file for reading and appending, for its owner alone if it is new; follows no link.
pub(super) fn open_append(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?))
}

/// Whether a file is empty or its last line is whole.
pub(super) fn ends_in_newline(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let mut last = *b"\n";
    if let Some(at) = file.metadata()?.len().checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    Ok(last == *b"\n")
}

/// What is in a directory now: whatever is created while one goes through it is not among it.
pub(super) fn paths(dir: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
thread_local! {
    /// A directory that [`sync_dir`] fails for, as it does where no more files may be opened.
    pub(super) static CANNOT_SYNC: std::cell::RefCell<Option<PathBuf>> =
        const { std::cell::RefCell::new(None) };
}

/// Makes names created, renamed and removed in a directory durable.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    if CANNOT_SYNC.with_borrow(|dir| dir.as_deref() == Some(path)) {
        return Err(io::Error::other("as the test wants"));
    }
    File::open(path)?.sync_all()
}

/// Makes a directory durable with all that is below it.
#[cfg(target_os = "linux")]
pub(super) fn sync_all_below(dir: &std::os::fd::OwnedFd, _path: &Path) -> io::Result<()> {
    // One call for a file system: of many small files each on its own would take minutes.
    Ok(rustix::fs::syncfs(dir)?)
}

/// Makes a directory durable with all that is below it.
#[cfg(not(target_os = "linux"))]
pub(super) fn sync_all_below(_dir: &std::os::fd::OwnedFd, path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all_below(_dir, &entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(path)
}

/// Writes a file whole or not at all: beside it, then renamed over it. With `durable` it has
/// survived a power loss when this returns; the file may be there in spite of an error.
pub(super) fn replace(path: &Path, parts: &[&[u8]], durable: bool) -> io::Result<()> {
    create(path, parts, durable).map(drop)
}

/// The same; the file stays open.
pub(super) fn create(path: &Path, parts: &[&[u8]], durable: bool) -> io::Result<File> {
    let temporary = path.with_extension("tmp");
    match std::fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = create_new(&temporary)?;
    let written = parts
        .iter()
        .try_for_each(|part| file.write_all(part))
        .and_then(|()| if durable { file.sync_all() } else { Ok(()) });
    if let Err(e) = written.and_then(|()| std::fs::rename(&temporary, path)) {
        let _ = std::fs::remove_file(&temporary);
        return Err(e);
    }
    match path.parent() {
        Some(dir) if durable => sync_dir(dir)?,
        _ => {}
    }
    Ok(file)
}

/// Renames within a file system without ever replacing what has the new name;
/// `AlreadyExists` if something has.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE) {
        // Some file systems (NFS among them) do not know the flag.
        Err(Errno::INVAL | Errno::NOSYS) if from.is_dir() => {
            // Without a link to try: what comes to have the name just now is a directory that is
            // empty, or stops us.
            match to.symlink_metadata() {
                Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                Err(_) => std::fs::rename(from, to),
            }
        }
        Err(Errno::INVAL | Errno::NOSYS) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from).inspect_err(|_| {
                let _ = std::fs::remove_file(to);
            })
        }
        other => Ok(other?),
    }
}

/// When a file has changed last, or what is in a directory, in microseconds since the Unix epoch.
pub(super) fn changed_us(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = path.metadata().ok()?;
    let (secs, nanos) = (u64::try_from(meta.ctime()).ok()?, u64::try_from(meta.ctime_nsec()).ok()?);
    secs.checked_mul(1_000_000)?.checked_add(nanos / 1000)
}

/// Bytes that an ordinary user may still write where `path` is.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The same error once more, for another who waits.
pub(super) fn same_error(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Microseconds since the Unix epoch.
#[expect(clippy::disallowed_methods, reason = "what arrives is stamped with the time of day")]
pub(super) fn unix_micros() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}
