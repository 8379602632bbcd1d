//! Logs: to standard error in the foreground; in the background to a file of the home that is
//! rotated by size, so that it never fills the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;

/// A log file is moved aside beyond this size.
const BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How many old ones are kept: `daemon.log.1` is the youngest.
const KEPT: usize = 3;

/// Appends to a file and moves it aside when it has grown. The process's standard output and
/// error follow, so that a panic message lands in the present file too.
pub(crate) struct RotatedLog {
    path: PathBuf,
    file: File,
    size: u64,
    size_max: u64,
    redirects: bool,
}

impl RotatedLog {
    /// Opens the log; `redirects` sends standard error there, too.
    pub(crate) fn open(path: &Path, redirects: bool) -> io::Result<Self> {
        let file = open_append(path)?;
        let size = file.metadata()?.len();
        let log = RotatedLog { path: path.to_owned(), file, size, size_max: BYTES_MAX, redirects };
        log.redirect()?;
        Ok(log)
    }

    fn redirect(&self) -> io::Result<()> {
        if self.redirects {
            rustix::stdio::dup2_stderr(&self.file)?;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for i in (1..KEPT).rev() {
            let _ = fs::rename(rotated(&self.path, i), rotated(&self.path, i + 1));
        }
        fs::rename(&self.path, rotated(&self.path, 1))?;
        self.file = open_append(&self.path)?;
        self.size = 0;
        self.redirect()
    }
}

/// The name of the `i`-th youngest log that was moved aside.
pub(crate) fn rotated(path: &Path, i: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{i}"));
    PathBuf::from(name)
}

/// Opens (creates, 0600) a log for appending.
pub(crate) fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Write for RotatedLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // tracing hands over one whole line at a time, so a line is never torn.
        if self.size + bytes.len() as u64 > self.size_max && self.size > 0 {
            self.rotate()?;
        }
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Starts logging. `PILOT_LOG` chooses what, as in `info,pilot_core=trace`.
pub(crate) fn start(file: Option<RotatedLog>) {
    let filter = EnvFilter::try_from_env("PILOT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        // It would say so on standard error, which is this log: where that is full, it would
        // panic.
        .log_internal_errors(false);
    // A subscriber that is already there (tests) stays.
    let _ = match file {
        Some(file) => builder.with_ansi(false).with_writer(Mutex::new(file)).try_init(),
        None => {
            let colours = std::io::IsTerminal::is_terminal(&io::stderr());
            builder.with_ansi(colours).with_writer(io::stderr).try_init()
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_moves_aside_and_a_bounded_number_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        let mut log = RotatedLog::open(&path, false).unwrap();
        log.size_max = 20;
        for i in 0..12 {
            writeln!(log, "line {i:02}").unwrap();
        }
        let read = |p: &Path| fs::read_to_string(p).unwrap();
        assert_eq!(read(&path), "line 10\nline 11\n");
        assert_eq!(read(&rotated(&path, 1)), "line 08\nline 09\n");
        assert_eq!(read(&rotated(&path, KEPT)), "line 04\nline 05\n");
        assert!(!rotated(&path, KEPT + 1).exists());
        // Reopening appends.
        let mut log = RotatedLog::open(&path, false).unwrap();
        writeln!(log, "more").unwrap();
        assert_eq!(read(&path), "line 10\nline 11\nmore\n");
    }
}
