//! What the whole-program tests share: homes with the real program's processes in them, each
//! command under a watchdog.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

pub mod forwarder;
pub mod hostile;
pub mod http;
pub mod pair;
pub mod raw_node;
pub mod sshd;
#[path = "../../../core/tests/support/stolen_facts.rs"]
pub mod stolen_facts;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Whatever a command does takes less, or hangs.
const COMMAND_MAX: Duration = Duration::from_secs(90);
/// Whatever is waited for comes within this time, or never.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// One home, with the processes in it; they are stopped when a test ends.
pub struct Home {
    _dir: tempfile::TempDir,
    pub path: PathBuf,
}

#[derive(Debug)]
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

    /// A path beside the home, deleted with it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
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

    /// Runs a command to its end; one that hangs is killed and fails the test.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Run {
        let mut command = self.command(arguments);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = child.id().to_string();
        let (done, output) = mpsc::channel();
        std::thread::spawn(move || done.send(child.wait_with_output()));
        let output = match output.recv_timeout(COMMAND_MAX) {
            Ok(output) => output.unwrap(),
            Err(_) => {
                let _ = Command::new("kill").args(["-9", &pid]).status();
                panic!("pilotctl {arguments:?} has not ended in {COMMAND_MAX:?}");
            }
        };
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
    #[track_caller]
    pub fn error(&self, arguments: &[&str]) -> (i32, String) {
        let run = self.run(&[arguments, &["--json"]].concat());
        let envelope: Value = serde_json::from_str(run.out.trim()).unwrap();
        (run.code, envelope["code"].as_str().unwrap_or_default().to_owned())
    }

    /// A rendezvous server on IPv4; the addresses of registry and beacon.
    pub fn rendezvous() -> (Home, String, String) {
        Home::rendezvous_at("127.0.0.1:0")
    }

    /// A rendezvous server with both of its ports at `at`.
    pub fn rendezvous_at(at: &str) -> (Home, String, String) {
        let home = Home::new();
        let (registry, beacon) = ("--registry-addr", "--beacon-addr");
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

    /// Ends a process of this home without a word.
    pub fn kill(&self, who: &str) {
        let pid = self.data(&[who, "status"])["pid"].to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
        wait_for("killed", || self.run(&[who, "status"]).code == 7);
    }

    /// How many packets of peers this agent has dropped for a reason.
    pub fn drops(&self, reason: &str) -> u64 {
        self.data(&["info"])["drops"][reason].as_u64().unwrap_or(0)
    }

    /// The texts in the inbox, the oldest first.
    pub fn inbox(&self) -> Vec<String> {
        let inbox = self.data(&["inbox"]);
        let text = |message: &Value| message["text"].as_str().unwrap().to_owned();
        inbox["messages"].as_array().unwrap().iter().map(text).collect()
    }

    /// The files received, the oldest first.
    pub fn received(&self) -> Vec<Value> {
        self.data(&["received"])["files"].as_array().unwrap().clone()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        for who in ["rendezvous/daemon.log", "daemon.log"] {
            if failing && let Ok(log) = std::fs::read_to_string(self.path.join(who)) {
                eprintln!("---- {}/{who}\n{log}", self.path.display());
            }
        }
        for who in ["rendezvous", "daemon"] {
            let _ = self.command(&[who, "stop"]).output();
        }
    }
}

pub fn start<'a>(registry: &'a str, beacon: &'a str) -> [&'a str; 8] {
    ["daemon", "start", "--registry", registry, "--beacon", beacon, "--listen", "127.0.0.1:0"]
}

#[track_caller]
pub fn wait_for(what: &str, is: impl FnMut() -> bool) {
    wait_at_most(WAIT_MAX, what, is);
}

#[track_caller]
pub fn wait_at_most(limit: Duration, what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until `home` has a request of exactly this agent; the request.
#[track_caller]
pub fn request_of(home: &Home, address: &str) -> Value {
    let pending = || home.data(&["trust", "pending"])["requests"].clone();
    wait_for("the request arrives", || pending().as_array().unwrap().len() == 1);
    let request = pending()[0].clone();
    assert_eq!(request["address"], address);
    request
}

/// Waits until `home` knows that it is trusted by exactly one agent, and who that is.
#[track_caller]
pub fn mutual(home: &Home) -> String {
    let mut address = String::new();
    wait_for("trust is mutual", || {
        let trusted = home.data(&["trust", "list"]);
        let peers = trusted["peers"].as_array().unwrap();
        peers.len() == 1 && peers[0]["mutual"] == true && {
            address = peers[0]["address"].as_str().unwrap().to_owned();
            true
        }
    });
    address
}

/// Writes a file of `len` bytes that do not repeat.
pub fn write_file(path: &Path, len: usize, seed: u64) {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_be_bytes());
    }
    bytes.truncate(len);
    std::fs::write(path, bytes).unwrap();
}

/// Names the steps of a test with their times, and ends it when it takes too long.
pub struct Story {
    name: &'static str,
    begin: Instant,
    step: Instant,
    limit: Duration,
}

impl Story {
    pub fn begin(name: &'static str, limit: Duration) -> Story {
        let now = Instant::now();
        Story { name, begin: now, step: now, limit }
    }

    /// The step named is over.
    #[track_caller]
    pub fn done(&mut self, step: &str) {
        let (took, total) = (self.step.elapsed(), self.begin.elapsed());
        println!(
            "{}: {step}: {:.2} s (at {:.2} s)",
            self.name,
            took.as_secs_f64(),
            total.as_secs_f64()
        );
        assert!(total < self.limit, "{}: {step} at {total:?}", self.name);
        self.step = Instant::now();
    }
}
