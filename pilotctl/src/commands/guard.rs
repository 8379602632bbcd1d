//! What `task serve` leaves behind when it is killed without a chance to end: a process that
//! reads which process groups it works with, and kills those that are left when the words end.
//!
//! ```text
//! task serve --(+GROUP, -GROUP, a line each)--> task guard --(at the end)--> kill what is left
//! ```

use crate::error::Failure;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeSet;
use std::io::{BufRead, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Process groups that are watched at a time; more than `task serve` has programs. Further ones
/// are not.
const WATCHED_MAX: usize = 4096;

/// The process groups named on standard input are killed when it ends, but those taken back.
pub(super) fn guard() {
    for group in left(std::io::stdin().lock()) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Those that were named and not taken back.
fn left(mut words: impl BufRead) -> Vec<Pid> {
    let (mut watched, mut line) = (BTreeSet::new(), String::new());
    while words.read_line(&mut line).is_ok_and(|n| n > 0) {
        // One without an end was cut off.
        let word = line.strip_suffix('\n').unwrap_or_default();
        let number = |text: &str| text.parse::<i32>().ok().filter(|group| *group > 1);
        if let Some(group) = word.strip_prefix('+').and_then(number) {
            if watched.len() < WATCHED_MAX {
                watched.insert(group);
            }
        } else if let Some(group) = word.strip_prefix('-').and_then(number) {
            watched.remove(&group);
        }
        line.clear();
    }
    watched.into_iter().filter_map(Pid::from_raw).collect()
}

/// The guard of this process.
pub(super) struct Guard {
    /// Waited for when it is dropped.
    child: Child,
    words: Mutex<Option<ChildStdin>>,
}

impl Guard {
    /// Runs this program again, in a group of its own: what a terminal sends is not for it.
    pub(super) fn start() -> Result<Guard, Failure> {
        use std::os::unix::process::CommandExt as _;
        let failed = |e| Failure::io("start the guard of the programs", e);
        let exec = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(exec)
            .args(["task", "guard"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let words = Mutex::new(child.stdin.take());
        Ok(Guard { child, words })
    }

    /// A group that is to end with this process.
    pub(super) fn watch(&self, group: Pid) {
        self.say('+', group);
    }

    /// It has ended; its number may be another's soon.
    pub(super) fn forget(&self, group: Pid) {
        self.say('-', group);
    }

    fn say(&self, sign: char, group: Pid) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(words) = words.as_mut() {
            // A guard that is gone was killed: then nobody is left to tell.
            let _ = words.write_all(format!("{sign}{group}\n").as_bytes());
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        *self.words.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_and_not_taken_back_is_left() {
        let words = b"+12\n+13\n-12\n+0\n+1\n+-5\n-99\nnonsense\n+14\n+15" as &[u8];
        let left: Vec<i32> =
            left(words).into_iter().map(|pid| pid.as_raw_nonzero().get()).collect();
        assert_eq!(left, [13, 14], "neither everybody's groups nor one that was cut off");
        let many: String = (2..10_000).map(|n| format!("+{n}\n")).collect();
        assert_eq!(super::left(many.as_bytes()).len(), WATCHED_MAX);
    }
}
