//! The home: everything of one agent, so that many agents run on one host. The directory is
//! private (0700) and belongs to its user; a lock inside decides who runs, and no file with a
//! process id is ever trusted.

use crate::error::{Code, Failure};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A directory with a lock: an agent's, or inside it the rendezvous server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    path: PathBuf,
}

impl Home {
    /// `--home` or `PILOT_HOME`, else `~/.pilot`.
    pub(crate) fn find(given: Option<&Path>) -> Result<Home, Failure> {
        if let Some(path) = given {
            let path = std::path::absolute(path).map_err(|e| Failure::io("find the home", e))?;
            return Ok(Home { path });
        }
        match std::env::home_dir() {
            Some(user) if user.is_absolute() => Ok(Home { path: user.join(".pilot") }),
            _ => Err(Failure::new(Code::Usage, "there is no home directory")
                .hint("set PILOT_HOME to a directory of this agent's own")),
        }
    }

    /// The rendezvous server's part of this home.
    pub(crate) fn rendezvous(&self) -> Home {
        Home { path: self.path.join("rendezvous") }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn identity(&self) -> PathBuf {
        self.path.join("identity")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path.join("state.redb")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("pilot.sock")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("daemon.log")
    }

    pub(crate) fn inbox(&self) -> PathBuf {
        self.path.join("inbox")
    }

    pub(crate) fn received(&self) -> PathBuf {
        self.path.join("received")
    }

    /// Messages that wait for their receivers.
    pub(crate) fn outbox(&self) -> PathBuf {
        self.path.join("outbox")
    }

    /// Tasks, ours and those of others.
    pub(crate) fn tasks(&self) -> PathBuf {
        self.path.join("tasks.redb")
    }

    /// Where `task serve` works, one at a time.
    pub(crate) fn serving(&self) -> Home {
        Home { path: self.path.join("serving") }
    }

    /// Files that were begun to be sent.
    pub(crate) fn unfinished(&self) -> PathBuf {
        self.path.join("unfinished.json")
    }

    /// What the daemon listens on for other programs.
    pub(crate) fn programs(&self) -> PathBuf {
        self.path.join("programs.json")
    }

    /// Exists while this identity is known to run elsewhere.
    pub(crate) fn fenced(&self) -> PathBuf {
        self.path.join("fenced")
    }

    /// Exists after a reset that kept the identity: the state that would have shown the
    /// registry that this is the same home is gone, so the next start takes the identity over
    /// from its own past.
    pub(crate) fn takeover(&self) -> PathBuf {
        self.path.join("takeover")
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Creates the directory if needed and makes sure that it is ours alone.
    pub(crate) fn prepare(&self) -> Result<(), Failure> {
        let shown = self.path.display();
        if !self.path.exists() {
            create_private_dir(&self.path)?;
        }
        let meta = fs::metadata(&self.path).map_err(|e| Failure::io(format!("read {shown}"), e))?;
        if !meta.is_dir() {
            return Err(Failure::new(Code::Permissions, format!("{shown} is not a directory")));
        }
        let user = rustix::process::geteuid().as_raw();
        if meta.uid() != user {
            let message = format!("{shown} belongs to user {}, not to {user}", meta.uid());
            return Err(Failure::new(Code::Permissions, message)
                .hint("run as its owner, or set PILOT_HOME to a directory of your own"));
        }
        if meta.mode() & 0o077 == 0 {
            return Ok(());
        }
        // A directory just made for us (mkdir, a container volume) is narrowed; one that holds
        // other things is not ours to change.
        let ours = self.lock_file().exists()
            || fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none());
        if !ours {
            let message = format!("others may enter {shown} (mode {:o})", meta.mode() & 0o7777);
            return Err(Failure::new(Code::Permissions, message)
                .hint(format!("run `chmod 700 {shown}`, or name an empty directory")));
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700))
            .map_err(|e| Failure::io(format!("make {shown} private"), e))
    }

    /// Takes the lock; `None` if another process has it.
    pub(crate) fn try_lock(&self) -> Result<Option<HomeLock>, Failure> {
        let path = self.lock_file();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = open(&path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Failure::io(format!("open {}", path.display()), e))?;
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(HomeLock { _file: File::from(fd) })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(Failure::io(format!("lock {}", path.display()), e)),
        }
    }

    /// Whether a process holds the lock.
    pub(crate) fn is_locked(&self) -> Result<bool, Failure> {
        if !self.lock_file().exists() {
            return Ok(false);
        }
        Ok(self.try_lock()?.is_none())
    }

    /// Waits until nobody holds the lock; false if that took too long.
    pub(crate) fn wait_unlocked(&self, limit: Duration) -> Result<bool, Failure> {
        #[expect(clippy::disallowed_methods, reason = "a person waits for another process here")]
        let start = Instant::now();
        while self.is_locked()? {
            if start.elapsed() >= limit {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(true)
    }
}

/// The lock on a home; released when dropped, also by a crash.
#[derive(Debug)]
pub(crate) struct HomeLock {
    _file: File,
}

/// Creates a directory that only its owner may enter, and its parents.
pub(crate) fn create_private_dir(path: &Path) -> Result<(), Failure> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)
            .map_err(|e| Failure::io(format!("create {}", parent.display()), e))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|e| Failure::io(format!("create {}", path.display()), e)),
    }
}

/// Creates a private file that did not exist, whole and synced or not at all.
pub(crate) fn create_private_file(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let doing = || format!("write {}", path.display());
    let temporary = path.with_extension("new");
    // What a crash left behind was never complete.
    let _ = fs::remove_file(&temporary);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd =
        open(&temporary, flags, Mode::RUSR | Mode::WUSR).map_err(|e| Failure::io(doing(), e))?;
    let mut file = File::from(fd);
    let write = file.write_all(content).and_then(|()| file.sync_all());
    // A hard link, unlike a rename, never replaces what another process has put there.
    let done = write.and_then(|()| fs::hard_link(&temporary, path));
    let _ = fs::remove_file(&temporary);
    done.and_then(|()| sync_parent(path)).map_err(|e| Failure::io(doing(), e))
}

/// Replaces a private file, whole and synced or not at all.
pub(crate) fn replace_private_file(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let doing = || format!("write {}", path.display());
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd =
        open(&temporary, flags, Mode::RUSR | Mode::WUSR).map_err(|e| Failure::io(doing(), e))?;
    let mut file = File::from(fd);
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| sync_parent(path))
        .map_err(|e| Failure::io(doing(), e))
}

/// Reads a secret, refusing a symbolic link, a foreign owner and a mode that lets others in.
/// `None` if there is no such file.
pub(crate) fn read_private_file(path: &Path, bound: u64) -> Result<Option<Vec<u8>>, Failure> {
    let shown = path.display();
    let fd = match open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => {
            let message = format!("{shown} is a symbolic link");
            return Err(Failure::new(Code::Permissions, message)
                .hint("put the file itself there: links are not followed"));
        }
        Err(e) => return Err(Failure::io(format!("open {shown}"), e)),
    };
    let file = File::from(fd);
    let meta = file.metadata().map_err(|e| Failure::io(format!("read {shown}"), e))?;
    let user = rustix::process::geteuid().as_raw();
    if meta.uid() != user {
        let message = format!("{shown} belongs to user {}, not to {user}", meta.uid());
        return Err(Failure::new(Code::Permissions, message));
    }
    if meta.mode() & 0o077 != 0 {
        let message = format!("others may read {shown} (mode {:o})", meta.mode() & 0o777);
        return Err(Failure::new(Code::Permissions, message)
            .hint(format!("if nobody has, run `chmod 600 {shown}`; else `pilotctl reset --yes`")));
    }
    // All at once: growing would leave copies of a secret behind.
    let size = usize::try_from(meta.len().min(bound)).unwrap_or_default();
    let mut content = Vec::with_capacity(size + 1);
    file.take(bound)
        .read_to_end(&mut content)
        .map_err(|e| Failure::io(format!("read {shown}"), e))?;
    Ok(Some(content))
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::find(Some(&dir.path().join("a/home"))).unwrap();
        home.prepare().unwrap();
        (dir, home)
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_home_is_private() {
        let (_dir, home) = home();
        assert_eq!(mode(home.path()), 0o700);
        // An empty directory made by others' habits is narrowed ...
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        home.prepare().unwrap();
        assert_eq!(mode(home.path()), 0o700);
        // ... one with a life of its own is refused, and left as it was.
        fs::write(home.path().join("thesis.tex"), "").unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let failure = home.prepare().unwrap_err();
        assert_eq!(failure.code, Code::Permissions);
        assert!(failure.hint.contains("chmod 700"), "{}", failure.hint);
        assert_eq!(mode(home.path()), 0o755);
    }

    #[test]
    fn one_process_has_the_lock() {
        let (_dir, home) = home();
        assert!(!home.is_locked().unwrap());
        let lock = home.try_lock().unwrap().unwrap();
        // flock belongs to the open file, so a second open in this process conflicts as
        // another process's would.
        assert!(home.try_lock().unwrap().is_none());
        assert!(home.is_locked().unwrap());
        assert!(!home.wait_unlocked(Duration::from_millis(50)).unwrap());
        drop(lock);
        assert!(home.wait_unlocked(Duration::from_millis(50)).unwrap());
        assert_eq!(mode(&home.lock_file()), 0o600);
    }

    #[test]
    fn secrets_are_refused_when_others_could_have_read_them() {
        let (_dir, home) = home();
        let path = home.identity();
        assert!(read_private_file(&path, 100).unwrap().is_none());
        create_private_file(&path, b"secret").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read_private_file(&path, 100).unwrap().unwrap(), b"secret");
        assert!(create_private_file(&path, b"other").is_err(), "never replaced");
        for wide in [0o640, 0o604, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(wide)).unwrap();
            assert_eq!(read_private_file(&path, 100).unwrap_err().code, Code::Permissions);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read_private_file(&link, 100).unwrap_err().code, Code::Permissions);
        replace_private_file(&path, b"third").unwrap();
        assert_eq!(read_private_file(&path, 100).unwrap().unwrap(), b"third");
    }

    #[test]
    fn a_home_needs_a_name() {
        let home = Home::find(Some(Path::new("/x/y"))).unwrap();
        assert_eq!(home.socket(), Path::new("/x/y/pilot.sock"));
        assert_eq!(home.rendezvous().config(), Path::new("/x/y/rendezvous/config.toml"));
    }
}
