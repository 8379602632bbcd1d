//! Where the demo plays: a temporary directory with a home for each process, and the processes.
//! When it is dropped, the processes are killed and the directory is removed.

use super::bind::PARENT;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, timeout};

const PREFIX: &str = "pilot-demo-";
/// A server that has not stopped by then is killed.
const STOP_MAX: Duration = Duration::from_secs(6);
/// No command of the demo takes so long, unless something is wrong.
pub(super) const COMMAND_MAX: Duration = Duration::from_secs(60);
/// How much of a server's log is shown when something went wrong.
const LOG_LINES: usize = 15;

/// Directory, lock and servers of one demo.
pub(super) struct Stage {
    program: PathBuf,
    dir: PathBuf,
    is_kept: bool,
    servers: Vec<Server>,
    _lock: File,
}

struct Server {
    who: &'static str,
    child: Child,
    /// Closed with us, which ends the server.
    _pipe: Option<ChildStdin>,
}

/// What a command printed and how it ended.
pub(super) struct Answer {
    /// `None` if a signal ended it.
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Stage {
    /// A fresh directory under `parent`. Also removes those of demos that were killed.
    pub(super) fn open(program: PathBuf, parent: &Path, is_kept: bool) -> io::Result<Stage> {
        sweep(parent);
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
        let dir = parent.join(format!("{PREFIX}{:08x}", u32::from_be_bytes(random)));
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        // Locked before it has its name, so that no other demo finds it unlocked.
        let lock = File::create_new(dir.join("lock.new"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        if is_kept {
            File::create_new(dir.join("keep"))?;
        }
        std::fs::rename(dir.join("lock.new"), dir.join("lock"))?;
        Ok(Stage { program, dir, is_kept, servers: Vec::new(), _lock: lock })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn log(&self, who: &str) -> PathBuf {
        self.dir.join(format!("{who}.log"))
    }

    fn command(&self, who: &str, args: &[&str], role: &str) -> Command {
        let mut command = Command::new(&self.program);
        // What the user has set for agents of his own does not concern these.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("PILOT_") || text == "NOTIFY_SOCKET" {
                command.env_remove(&name);
            }
        }
        command
            .args(args)
            .env("PILOT_HOME", self.dir.join(who))
            .env(PARENT, format!("{}{role}", std::process::id()))
            .current_dir(&self.dir)
            .kill_on_drop(true);
        command
    }

    /// Starts a server. Its own process group keeps a Ctrl-C for us.
    pub(super) fn serve(&mut self, who: &'static str, args: &[&str]) -> io::Result<()> {
        let log = File::options().append(true).create(true).open(self.log(who))?;
        let mut child = self
            .command(who, args, " pipe")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take();
        self.servers.push(Server { who, child, _pipe: pipe });
        Ok(())
    }

    /// Runs a command of `who` to its end.
    pub(super) async fn ask(&self, who: &str, args: &[&str]) -> io::Result<Answer> {
        let mut command = self.command(who, args, "");
        let output = command.stdin(Stdio::null()).output();
        let output = timeout(COMMAND_MAX, output).await??;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
        Ok(Answer {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        })
    }

    /// Starts a command of `who`, whose end is waited for later.
    pub(super) fn begin(&self, who: &str, args: &[&str]) -> io::Result<Child> {
        let mut command = self.command(who, args, "");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }

    /// Asks one server to stop, whatever it is doing; true if it did so in time.
    pub(super) async fn stop_one(&mut self, who: &str) -> bool {
        let Some(i) = self.servers.iter().position(|server| server.who == who) else {
            return false;
        };
        let server = self.servers.remove(i);
        stopped(server, Instant::now() + STOP_MAX).await
    }

    /// A server that has ended although it should not have.
    pub(super) fn ended(&mut self) -> Option<&'static str> {
        let ended = |s: &mut Server| !matches!(s.child.try_wait(), Ok(None));
        self.servers.iter_mut().find_map(|s| ended(s).then_some(s.who))
    }

    /// The last lines of every server's log.
    pub(super) fn logs(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for server in &self.servers {
            let log = std::fs::read(self.log(server.who)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let all: Vec<_> = log.lines().collect();
            let tail = &all[all.len().saturating_sub(LOG_LINES)..];
            lines.extend(tail.iter().map(|line| format!("{}: {line}", server.who)));
        }
        lines
    }

    /// Asks the servers to stop, the last one first; true if all of them did so in time.
    pub(super) async fn stop(&mut self) -> bool {
        let deadline = Instant::now() + STOP_MAX;
        let mut all_well = true;
        while let Some(server) = self.servers.pop() {
            all_well &= stopped(server, deadline).await;
        }
        all_well
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for server in &mut self.servers {
            kill(&mut server.child);
        }
        if !self.is_kept
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
        {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot remove the demo's directory");
        }
    }
}

/// Asks a server to stop, and kills it if it has not by then; whether it did well.
async fn stopped(mut server: Server, deadline: Instant) -> bool {
    if let Some(pid) = pid(&server.child) {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
    let left = deadline.saturating_duration_since(Instant::now());
    match timeout(left, server.child.wait()).await {
        Ok(Ok(status)) => status.success(),
        _ => {
            kill(&mut server.child);
            let _ = server.child.wait().await;
            false
        }
    }
}

/// The child's process id, as long as nobody else can have it.
fn pid(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()?).ok()?)
}

/// Kills a server and whatever it has started.
fn kill(child: &mut Child) {
    if let Some(pid) = pid(child) {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
    let _ = child.start_kill();
}

/// Removes directories of demos that were killed: ours, with a lock that nobody holds.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    let user = rustix::process::geteuid().as_raw();
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_ours = path.symlink_metadata().is_ok_and(|m| m.is_dir() && m.uid() == user);
        if !name.starts_with(PREFIX) || !is_ours || path.join("keep").exists() {
            continue;
        }
        let Ok(lock) = File::open(path.join("lock")) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(parent: &tempfile::TempDir, is_kept: bool) -> Stage {
        Stage::open("/bin/sh".into(), parent.path(), is_kept).unwrap()
    }

    fn is_alive(pid: Pid) -> bool {
        rustix::process::test_kill_process(pid).is_ok()
    }

    #[tokio::test]
    async fn commands_run_in_their_own_home() {
        let parent = tempfile::tempdir().unwrap();
        let stage = stage(&parent, false);
        let script = "echo $PILOT_HOME $PILOT_DEMO_PARENT; echo oops >&2; exit 4";
        let answer = stage.ask("research", &["-c", script]).await.unwrap();
        let home = stage.dir().join("research");
        let expected = format!("{} {}", home.display(), std::process::id());
        assert_eq!((answer.code, answer.stdout), (Some(4), expected));
        assert_eq!(answer.stderr, "oops");
    }

    #[tokio::test]
    async fn servers_stop_when_asked_are_killed_when_deaf_and_die_with_the_stage() {
        let parent = tempfile::tempdir().unwrap();
        let mut polite = stage(&parent, false);
        polite.serve("a", &["-c", "trap 'exit 0' TERM; while :; do sleep 0.01; done"]).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(polite.stop().await);

        let mut failing = stage(&parent, false);
        failing.serve("a", &["-c", "echo because >&2; exit 3"]).unwrap();
        for _ in 0..500 {
            if failing.ended().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(failing.ended(), Some("a"));
        assert_eq!(failing.logs(), ["a: because"]);

        let mut deaf = stage(&parent, false);
        // With a child of its own, which is in its group.
        deaf.serve("a", &["-c", "trap '' TERM; sleep 600 & echo $!; wait"]).unwrap();
        let inner = loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let log = std::fs::read_to_string(deaf.log("a")).unwrap();
            if let Ok(pid) = log.trim().parse() {
                break Pid::from_raw(pid).unwrap();
            }
        };
        let outer = pid(&deaf.servers[0].child).unwrap();
        let dir = deaf.dir().to_owned();
        assert!(is_alive(outer) && is_alive(inner));
        drop(deaf);
        assert!(!dir.exists());
        for _ in 0..500 {
            // An orphan is reaped by whoever inherits it; a zombie counts as gone.
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", inner.as_raw_nonzero()));
            if stat.is_err() || stat.is_ok_and(|s| s.contains(") Z")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("a server's child survived the stage");
    }

    #[test]
    fn what_a_killed_demo_left_is_swept_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let running = stage(&parent, false);
        let kept = stage(&parent, true);
        let kept_dir = kept.dir().to_owned();
        drop(kept);
        let killed = parent.path().join("pilot-demo-killed");
        std::fs::create_dir(&killed).unwrap();
        std::fs::write(killed.join("lock"), "").unwrap();
        let young = parent.path().join("pilot-demo-young");
        std::fs::create_dir(&young).unwrap();
        let other = parent.path().join("other");
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("lock"), "").unwrap();
        let second = stage(&parent, false);
        assert!(!killed.exists());
        assert!(
            [running.dir(), second.dir(), &kept_dir, &young, &other].iter().all(|d| d.exists())
        );
    }
}
