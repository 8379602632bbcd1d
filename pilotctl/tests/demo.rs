//! The demo with the real binary: it works, two work at once, and nothing of it survives it,
//! however it ends.

use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The demo with its directory under `parent`.
fn demo(parent: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotctl"));
    command.args(["demo", "--json"]).env("TMPDIR", parent).stdin(Stdio::null());
    // Settings for agents of the user's own are not the demo's.
    command.env("PILOT_REGISTRY", "192.0.2.1:9").env("PILOT_HOME", parent.join("own"));
    command
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn entries(parent: &Path) -> usize {
    std::fs::read_dir(parent).unwrap().count()
}

/// Processes that a demo has started and that still run.
fn processes(demo: u32) -> Vec<u32> {
    let wanted = format!("PILOT_DEMO_PARENT={demo}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let mut variables = environ.split(|&b| b == 0);
        if variables.any(|v| v.starts_with(wanted.as_bytes())) {
            found.push(pid);
        }
    }
    found
}

#[expect(clippy::disallowed_methods, reason = "the test waits for real processes")]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts a demo and waits until all three servers run.
fn halfway(parent: &Path) -> Child {
    let mut child = demo(parent).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..4 {
        reader.read_line(&mut String::new()).unwrap();
    }
    // Reading on, so that it is never blocked by a full pipe.
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    assert!(processes(child.id()).len() >= 3);
    child
}

#[test]
fn two_demos_at_once_work_and_leave_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let spawn = || demo(parent.path()).stdout(Stdio::piped()).spawn().unwrap();
    let (first, second) = (spawn(), spawn());
    for child in [first, second] {
        let pid = child.id();
        let output = child.wait_with_output().unwrap();
        let lines = lines(&output);
        assert!(output.status.success(), "{lines:#?}");
        let (summary, steps) = lines.split_last().unwrap();
        assert_eq!(summary["status"], "ok");
        assert!(steps.len() >= 10 && steps.iter().all(|step| step["ok"] == true));
        assert_eq!(summary["data"]["steps"], steps.len());
        assert!(processes(pid).is_empty());
    }
    assert_eq!(entries(parent.path()), 0);
}

#[test]
fn an_interrupted_demo_cleans_up() {
    let parent = tempfile::tempdir().unwrap();
    let mut child = halfway(parent.path());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(processes(child.id()), [0; 0]);
    assert_eq!(entries(parent.path()), 0);
}

#[test]
fn a_killed_demo_takes_its_processes_along() {
    let parent = tempfile::tempdir().unwrap();
    let mut child = halfway(parent.path());
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("a process survived the demo", || processes(child.id()).is_empty());
    assert_eq!(entries(parent.path()), 1);
    // The next one clears away what it could not.
    let mut next = halfway(parent.path());
    assert_eq!(entries(parent.path()), 1);
    next.kill().unwrap();
    next.wait().unwrap();
    eventually("a process survived the demo", || processes(next.id()).is_empty());
}
