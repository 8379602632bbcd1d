//! Homes with real processes in them, for tests that run the program as its users do.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "a watchdog reads the clock")]

use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One home, with the processes in it; they are stopped when a test ends.
pub struct Home {
    _dir: tempfile::TempDir,
    pub path: PathBuf,
}

pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Home {
    pub fn new() -> Home {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("home");
        Home { _dir: dir, path }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pilotctl"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PILOT_")) {
            command.env_remove(name);
        }
        command.env("PILOT_HOME", &self.path).env_remove("HOME").args(arguments);
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Run {
        let output = self.command(arguments).output().unwrap();
        Run {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command that must succeed; its plain output.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let run = self.run(arguments);
        assert_eq!(run.code, 0, "{arguments:?}\n{}\n{}", run.out, run.err);
        run.out.trim_end().to_owned()
    }

    /// Runs a command that must succeed; its data.
    #[track_caller]
    pub fn data(&self, arguments: &[&str]) -> Value {
        let out = self.ok(&[arguments, &["--json"]].concat());
        let mut envelope: Value = serde_json::from_str(&out).unwrap();
        envelope["data"].take()
    }

    /// Runs a command that must fail; exit code and error code.
    pub fn error(&self, arguments: &[&str]) -> (i32, String) {
        let run = self.run(&[arguments, &["--json"]].concat());
        let envelope: Value = serde_json::from_str(run.out.trim()).unwrap();
        (run.code, envelope["code"].as_str().unwrap_or_default().to_owned())
    }

    /// A rendezvous server; the addresses of registry and beacon.
    pub fn rendezvous() -> (Home, String, String) {
        let home = Home::new();
        let (registry, beacon) = ("--registry-addr", "--beacon-addr");
        let at = "127.0.0.1:0";
        let started = home.data(&["rendezvous", "start", registry, at, beacon, at]);
        let text = |name: &str| started[name].as_str().unwrap().to_owned();
        (home, text("registry"), text("beacon"))
    }

    /// An agent of its own; its report.
    pub fn agent(registry: &str, beacon: &str) -> (Home, Value) {
        let home = Home::new();
        let report = home.data(&start(registry, beacon));
        (home, report)
    }

    pub fn kill(&self, who: &str) {
        let pid = self.data(&[who, "status"])["pid"].to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        wait_for("killed", || self.run(&[who, "status"]).code == 7);
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for who in ["rendezvous", "daemon"] {
            let _ = self.command(&[who, "stop"]).output();
        }
    }
}

pub fn start<'a>(registry: &'a str, beacon: &'a str) -> [&'a str; 8] {
    ["daemon", "start", "--registry", registry, "--beacon", beacon, "--listen", "127.0.0.1:0"]
}

#[track_caller]
pub fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Two agents that trust each other, and their addresses.
pub fn friends() -> (Home, [(Home, String); 2]) {
    let (server, registry, beacon) = Home::rendezvous();
    let agent = || {
        let (home, report) = Home::agent(&registry, &beacon);
        (home, report["address"].as_str().unwrap().to_owned())
    };
    let (a, b) = (agent(), agent());
    let state = b.0.data(&["trust", "request", &a.1, "--justification", "a\u{1b}[31m \"test\""]);
    assert_eq!(state["state"], "pending");
    let pending = || a.0.data(&["trust", "pending"])["requests"].clone();
    wait_for("the request arrives", || pending().as_array().unwrap().len() == 1);
    let request = &pending()[0];
    assert_eq!(request["address"], b.1.as_str());
    assert_eq!(request["justification"], "a[31m \"test\"", "cleaned");
    a.0.ok(&["trust", "approve", &b.1]);
    wait_for("trust is mutual", || {
        let trusted = b.0.data(&["trust", "list"]);
        trusted["peers"].as_array().unwrap().iter().any(|peer| peer["mutual"] == true)
    });
    (server, [a, b])
}
