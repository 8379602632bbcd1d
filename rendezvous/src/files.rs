//! Where a registry keeps its files, and how private files are made, replaced and opened
//! (`wire.md` 8, key files).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The three files of one registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// The truth: a redb database (`P.redb`).
    pub store: PathBuf,
    /// The server's secret keys (`P.key`); never exported.
    pub key: PathBuf,
    /// A readable copy of the store (`P.json`), the path that `--persist` names.
    pub export: PathBuf,
}

impl Files {
    /// The files that belong to `--persist P.json`. Without the extension `.json` the others
    /// are called `P.redb` and `P.key` all the same.
    pub fn beside(persist: &Path) -> Files {
        let stem = match persist.extension() {
            Some(extension) if extension == "json" => persist.with_extension(""),
            _ => persist.to_owned(),
        };
        Files {
            store: with_suffix(&stem, ".redb"),
            key: with_suffix(&stem, ".key"),
            export: persist.to_owned(),
        }
    }

    /// Makes the directory of the files, with mode 0700, if it is missing.
    pub(crate) fn make_directory(&self) -> io::Result<()> {
        let directory = directory_of(&self.export);
        if directory.is_dir() {
            return Ok(());
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(directory)
    }
}

/// `path` with `suffix` behind its last component.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Why a private file was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateFileError {
    /// Group or others may read or write it.
    #[error("{path} has mode {mode:03o}: others may touch it; `chmod 600` it if they have not")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error("{path} belongs to user {owner}, not to the user running this program ({user})")]
    Owner {
        /// The file.
        path: PathBuf,
        /// The user id that owns it.
        owner: u32,
        /// Our effective user id.
        user: u32,
    },
    /// It is a symbolic link, a directory or a device.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl PrivateFileError {
    fn io(path: &Path, source: io::Error) -> Self {
        PrivateFileError::Io { path: path.to_owned(), source }
    }

    /// Whether the file is simply not there.
    pub fn is_missing(&self) -> bool {
        matches!(self, PrivateFileError::Io { source, .. }
            if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Options that never follow a link in the last component and create with mode 0600.
fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
        options.mode(0o600).custom_flags(flags.bits() as i32);
    }
    options
}

/// Opens an existing private file for reading, or (`write`) also for writing. Refused unless
/// it is a regular file of ours that nobody else may touch.
pub(crate) fn open_private(path: &Path, write: bool) -> Result<File, PrivateFileError> {
    let opened = private_options().read(true).write(write).open(path);
    let file = opened.map_err(|error| match is_link_refusal(&error) {
        true => PrivateFileError::NotAFile { path: path.to_owned() },
        false => PrivateFileError::io(path, error),
    })?;
    let metadata = file.metadata().map_err(|error| PrivateFileError::io(path, error))?;
    if !metadata.is_file() {
        return Err(PrivateFileError::NotAFile { path: path.to_owned() });
    }
    #[cfg(unix)]
    check_owner(path, &metadata)?;
    Ok(file)
}

#[cfg(unix)]
fn check_owner(path: &Path, metadata: &fs::Metadata) -> Result<(), PrivateFileError> {
    use std::os::unix::fs::MetadataExt;
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return Err(PrivateFileError::Owner { path: path.to_owned(), owner, user });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Mode { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(unix)]
fn is_link_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

#[cfg(not(unix))]
fn is_link_refusal(_error: &io::Error) -> bool {
    false
}

/// Creates a private file that must not exist yet.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    private_options().read(true).write(true).create_new(true).open(path)
}

/// Replaces `path` atomically by what `fill` writes: a reader, also one after a crash, finds
/// the old content or all of the new one. Mode 0600.
pub(crate) fn replace_private(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let fresh = with_suffix(path, ".new");
    // Left over by a crash; only the holder of the store's lock comes here.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let result = write_and_rename(&fresh, path, fill);
    if result.is_err() {
        // The room may be what somebody else is short of; the error is the one that counts.
        let _ = fs::remove_file(&fresh);
    }
    result
}

fn write_and_rename(
    fresh: &Path,
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(64 * 1024, create_private(fresh)?);
    fill(&mut writer)?;
    let file = writer.into_inner().map_err(|error| error.into_error())?;
    file.sync_all()?;
    drop(file);
    fs::rename(fresh, path)?;
    sync_directory(directory_of(path))
}

/// Makes a created or renamed name durable.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    sync_directory(directory_of(path))
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}

/// Copies a private file of ours; the copy is private, durable and replaces an older copy.
pub(crate) fn copy_private(from: &Path, to: &Path) -> Result<(), PrivateFileError> {
    let mut source = open_private(from, false)?;
    replace_private(to, |writer| {
        io::copy(&mut source, writer)?;
        writer.flush()
    })
    .map_err(|error| PrivateFileError::io(to, error))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn the_names_of_the_files() {
        let files = Files::beside(Path::new("/x/registry.json"));
        assert_eq!(files.store, Path::new("/x/registry.redb"));
        assert_eq!(files.key, Path::new("/x/registry.key"));
        assert_eq!(files.export, Path::new("/x/registry.json"));
        let odd = Files::beside(Path::new("a.b"));
        assert_eq!((odd.store, odd.key), ("a.b.redb".into(), "a.b.key".into()));
        assert_eq!(odd.export, Path::new("a.b"));
    }

    #[test]
    fn a_private_file_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k");
        replace_private(&path, |w| w.write_all(b"one")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        open_private(&path, false).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = open_private(&path, false).unwrap_err();
            assert!(matches!(error, PrivateFileError::Mode { mode: m, .. } if m == mode));
        }
    }

    #[test]
    fn links_and_directories_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("k"), directory.path().join("l"));
        replace_private(&path, |w| w.write_all(b"one")).unwrap();
        symlink(&path, &link).unwrap();
        let refused = open_private(&link, false).unwrap_err();
        assert!(matches!(refused, PrivateFileError::NotAFile { .. }), "{refused}");
        let refused = open_private(directory.path(), false).unwrap_err();
        assert!(matches!(refused, PrivateFileError::NotAFile { .. }), "{refused}");
        let missing = open_private(&directory.path().join("none"), false).unwrap_err();
        assert!(missing.is_missing());
    }

    #[test]
    fn a_foreign_owner_is_refused() {
        // Files of root, read by anybody else; as root, a file of nobody.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k");
        let foreign = if rustix::process::geteuid().is_root() {
            replace_private(&path, |w| w.write_all(b"one")).unwrap();
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            path
        } else {
            PathBuf::from("/etc/hostname")
        };
        let error = open_private(&foreign, false).unwrap_err();
        assert!(matches!(error, PrivateFileError::Owner { .. }), "{error}");
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_content_and_no_litter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k");
        replace_private(&path, |w| w.write_all(b"one")).unwrap();
        let failed = replace_private(&path, |w| {
            w.write_all(b"two")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        // A leftover of a crash does not stand in the way.
        fs::write(with_suffix(&path, ".new"), b"half").unwrap();
        replace_private(&path, |w| w.write_all(b"three")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
    }
}
