//! A process of the demo dies with the demo, however that ends.
//!
//! The demo starts its processes with [`PARENT`] set to its own process id. Such a process
//! asks the kernel (Linux) to be killed with its parent. A server also holds the other end of
//! a pipe as its standard input, and ends when that closes: this works on every Unix.

use std::io::Read as _;

/// `PID`, or `PID pipe` for a process whose standard input is the demo's pipe.
pub(super) const PARENT: &str = "PILOT_DEMO_PARENT";

/// What a process exits with when the demo has gone.
const ORPHANED: i32 = 1;

/// Binds this process to the demo if it is one of its processes. Called first of all, on the
/// main thread.
pub(crate) fn bind_to_parent() {
    let Ok(value) = std::env::var(PARENT) else { return };
    let (pid, pipe) = value.split_once(' ').unwrap_or((&value, ""));
    let Ok(parent) = pid.parse::<i32>() else { return };
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        // What it does not know, the check below and the pipe make up for.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
    }
    // It may have died before that.
    if rustix::process::getppid().is_none_or(|pid| pid.as_raw_nonzero().get() != parent) {
        std::process::exit(ORPHANED);
    }
    if pipe == "pipe" {
        std::thread::spawn(|| {
            let mut stdin = std::io::stdin();
            while stdin.read(&mut [0; 64]).is_ok_and(|n| n > 0) {}
            std::process::exit(ORPHANED);
        });
    }
}
