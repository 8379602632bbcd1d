//! The Unix socket of the local API. The kernel takes at most 107 bytes of a socket's path;
//! homes may be deeper, so a long path is reached through an open descriptor of its directory.

use crate::error::{Code, Failure};
use rustix::fs::{Mode, OFlags, open};
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Longest path that fits `sockaddr_un`, its final zero aside.
const PATH_MAX: usize = 107;

/// A path that the kernel accepts, and what keeps it valid.
struct Short {
    path: PathBuf,
    _directory: Option<OwnedFd>,
}

fn shorten(path: &Path) -> std::io::Result<Short> {
    if path.as_os_str().len() <= PATH_MAX {
        return Ok(Short { path: path.to_owned(), _directory: None });
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = open(parent, flags, Mode::empty())?;
    let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    Ok(Short { path, _directory: Some(directory) })
}

/// Binds the socket, in place of one that a dead process left. The caller holds the lock of
/// the home, so nobody listens there.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, Failure> {
    let doing = || format!("bind the local API to {}", path.display());
    let short = shorten(path).map_err(|e| Failure::io(doing(), e))?;
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Failure::io(doing(), e)),
        _ => {}
    }
    let listener = UnixListener::bind(&short.path).map_err(|e| {
        let failure = Failure::io(doing(), e);
        match short._directory {
            Some(_) => failure.hint("its path is longer than 107 bytes and /proc is not mounted: choose a shorter PILOT_HOME"),
            None => failure,
        }
    })?;
    // The home is 0700 already; this holds even if somebody widens it later.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .map_err(|e| Failure::io(doing(), e))?;
    listener.set_nonblocking(true).map_err(|e| Failure::io(doing(), e))?;
    Ok(listener)
}

/// Connects to a process's API; `who` is "the daemon" or "the rendezvous server", and
/// `command` the group of commands that start it.
pub(crate) fn connect(path: &Path, who: &str, command: &str) -> Result<UnixStream, Failure> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    let connected = shorten(path).and_then(|short| UnixStream::connect(&short.path));
    connected.map_err(|e| match e.kind() {
        NotFound | ConnectionRefused => {
            Failure::new(Code::NotRunning, format!("{who} is not running"))
                .hint(format!("run `pilotctl {command} start`"))
        }
        PermissionDenied => {
            let message = format!("{who} at {} belongs to another user", path.display());
            Failure::new(Code::Permissions, message).hint("run as its owner, or set PILOT_HOME")
        }
        _ => Failure::io(format!("reach {who} at {}", path.display()), e),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn a_socket_is_private_replaces_a_dead_one_and_may_lie_deep() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        fs::create_dir(&deep).unwrap();
        for parent in [dir.path(), &deep] {
            let path = parent.join("pilot.sock");
            assert_eq!(connect(&path, "the daemon", "daemon").unwrap_err().code, Code::NotRunning);
            drop(bind(&path).unwrap());
            assert_eq!(connect(&path, "the daemon", "daemon").unwrap_err().code, Code::NotRunning);
            let listener = bind(&path).unwrap();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            listener.set_nonblocking(false).unwrap();
            connect(&path, "the daemon", "daemon").unwrap().write_all(b"hi").unwrap();
            let mut got = String::new();
            listener.accept().unwrap().0.read_to_string(&mut got).unwrap();
            assert_eq!(got, "hi");
        }
    }
}
