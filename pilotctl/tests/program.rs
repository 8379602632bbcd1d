//! The program as its users have it: exit codes, envelopes, processes that start and stop. No
//! test here needs an agent on a network.

#![allow(clippy::disallowed_methods, reason = "a watchdog reads the clock")]

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A home; what still runs in it when a test ends is stopped.
struct Home {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Home {
    fn new() -> Home {
        Home::below(|dir| dir.join("home"))
    }

    fn below(path: impl FnOnce(&Path) -> PathBuf) -> Home {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        Home { _dir: dir, path }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pilotctl"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PILOT_")) {
            command.env_remove(name);
        }
        command.env("PILOT_HOME", &self.path).env_remove("HOME").args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(arguments, self.command(arguments).output().unwrap())
    }

    fn rendezvous(&self) -> Run {
        self.run(&[
            "rendezvous",
            "start",
            "--registry-addr",
            "127.0.0.1:0",
            "--beacon-addr",
            "127.0.0.1:0",
            "--json",
        ])
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for who in ["rendezvous", "daemon"] {
            let _ = self.command(&[who, "stop"]).output();
        }
    }
}

struct Run {
    line: String,
    code: i32,
    out: String,
    err: String,
}

impl Run {
    fn of(arguments: &[&str], output: Output) -> Run {
        Run {
            line: arguments.join(" "),
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn exits(self, code: i32) -> Run {
        let Run { line, out, err, .. } = &self;
        assert_eq!(self.code, code, "pilotctl {line}\n{out}\n{err}");
        self
    }

    /// The one envelope.
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "one line of {}", self.out);
        serde_json::from_str(&self.out).unwrap()
    }

    #[track_caller]
    fn data(&self) -> Value {
        let mut envelope = self.json();
        assert_eq!(envelope["status"], "ok", "{envelope}");
        envelope["data"].take()
    }

    /// The error's code; checks the whole envelope.
    #[track_caller]
    fn error(&self) -> String {
        let envelope = self.json();
        assert_eq!(envelope["status"], "error", "{envelope}");
        assert_eq!(envelope.as_object().unwrap().len(), 4);
        assert!(!envelope["message"].as_str().unwrap().is_empty());
        assert!(!envelope["hint"].as_str().unwrap().is_empty());
        envelope["code"].as_str().unwrap().to_owned()
    }
}

fn is_running(pid: u64) -> bool {
    // A process that nobody has waited for still has an entry: look at its state.
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'),
        Err(_) => false,
    }
}

#[track_caller]
fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn without_a_daemon_every_command_that_asks_it_exits_7_and_says_what_to_do() {
    let home = Home::new();
    let to = "1:0001.0000.0042";
    for line in [
        &["info"][..],
        &["peers"],
        &["connections"],
        &["join", "1"],
        &["leave", "1"],
        &["set-hostname", "a"],
        &["clear-hostname"],
        &["set-visibility", "public"],
        &["tags", "set", "a=b"],
        &["resolve", "a"],
        &["discover", "--tag", "a"],
        &["trust", "request", to],
        &["trust", "pending"],
        &["trust", "approve", to],
        &["trust", "refuse", to, "--reason", "no"],
        &["trust", "revoke", to],
        &["trust", "list"],
        &["send-message", to, "hi"],
        &["outbox"],
        &["status", "5b1f0c7a93d2e846000000000000002a"],
        &["cancel", "5b1f0c7a93d2e846000000000000002a"],
        &["inbox"],
        &["inbox", "--follow"],
        &["send-file", to, env!("CARGO_MANIFEST_PATH")],
        &["received"],
        &["echo", to],
        &["forward", "8080", "a:80"],
        &["forward", "list"],
        &["forward", "remove", "8080"],
        &["expose", "80", "localhost:3000"],
        &["expose", "list"],
        &["expose", "remove", "80"],
        &["proxy"],
        &["proxy", "status"],
        &["proxy", "stop"],
        &["daemon", "status"],
        &["daemon", "stop"],
    ] {
        let run = home.run(line).exits(7);
        assert!(run.err.contains("pilotctl daemon start"), "{line:?}: {}", run.err);
        assert_eq!(run.out, "");
        let run = home.run(&[line, &["--json"]].concat()).exits(7);
        assert_eq!((run.error().as_str(), run.err.as_str()), ("not_running", ""), "{line:?}");
    }
    // Where standard output is the stream, the envelope goes to standard error.
    for line in [&["connect", to, "7"][..], &["listen", "7"]] {
        let run = home.run(&[line, &["--json"]].concat()).exits(7);
        let envelope: Value = serde_json::from_str(run.err.trim()).unwrap();
        assert_eq!((&envelope["code"], run.out.as_str()), (&"not_running".into(), ""));
    }
    assert!(!home.path.exists(), "asking makes no home");
}

#[test]
fn a_wrong_command_line_exits_2() {
    let home = Home::new();
    for line in [
        &["bogus"][..],
        &[],
        &["resolve"],
        &["resolve", "under_score"],
        &["send-message", "1:00A3.F291.0004", "hi"],
        &["send-message", "a", "hi", "--wait", "1s", "--timeout", "1s"],
        &["inbox", "--count", "1"],
        &["cancel"],
        &["join", "0"],
        &["connect", "a", "65536"],
        &["set-visibility", "secret"],
        &["tags", "set", "a=b,a=c"],
        &["trust", "request", "not:an-address"],
        &["trust", "request", "1:0001.0000.0042", "--wait", "3 weeks"],
        &["daemon", "start", "--registry", "::1:9000x"],
        &["daemon", "start", "--path", "fast", "--registry", "h:1"],
        &["reset"],
        &["completions", "tcl"],
    ] {
        home.run(line).exits(2);
        let run = home.run(&[line, &["--json"]].concat()).exits(2);
        assert_eq!(run.error(), "usage", "{line:?}");
    }
    let run =
        home.run(&["trust", "request", "1:0001.0000.0042", "--justification", &"x".repeat(513)]);
    assert!(run.exits(2).err.contains("512"));
}

#[test]
fn version_help_and_completions_need_nothing() {
    let home = Home::new();
    let version = home.run(&["--version"]).exits(0).out;
    assert!(version.contains("commit ") && version.contains("wire version 1"), "{version}");
    assert!(home.run(&["trust", "request", "--help"]).exits(0).out.contains("Example"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(home.run(&["completions", shell]).exits(0).out.contains("pilotctl"));
    }
    let data = home.run(&["completions", "bash", "--json"]).exits(0).data();
    assert!(data["script"].as_str().unwrap().contains("pilotctl"));
    // Without HOME and PILOT_HOME there is nowhere to look.
    let mut command = home.command(&["info"]);
    command.env_remove("PILOT_HOME").env("HOME", "");
    let run = Run::of(&["info"], command.output().unwrap());
    assert_ne!(run.code, 0);
}

#[test]
fn a_daemon_needs_a_registry_and_a_correct_configuration() {
    let home = Home::new();
    let run = home.run(&["daemon", "start"]).exits(2);
    assert!(run.err.contains("--registry"), "{}", run.err);
    std::fs::write(home.path.join("config.toml"), "path = \"auto\"\n\nregisty = \"h:1\"\n")
        .unwrap();
    let run = home.run(&["daemon", "start", "--json"]).exits(2);
    assert_eq!(run.error(), "config");
    let message = run.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("line 3") && message.contains("registy"), "{message}");
    home.run(&["daemon", "status"]).exits(7);
}

#[test]
fn a_rendezvous_server_starts_once_and_says_where_it_is() {
    let home = Home::new();
    let started = home.rendezvous().exits(0).data();
    let pid = started["pid"].as_u64().unwrap();
    assert!(is_running(pid));
    assert_eq!(started["key"].as_str().unwrap().len(), 52);
    for address in ["registry", "beacon"] {
        let port = started[address].as_str().unwrap().rsplit_once(':').unwrap().1;
        assert_ne!(port, "0", "{started}");
    }
    assert_eq!(std::fs::metadata(&home.path).unwrap().mode() & 0o777, 0o700);
    let socket = home.path.join("rendezvous/pilot.sock");
    assert_eq!(std::fs::metadata(socket).unwrap().mode() & 0o777, 0o600);

    // Again with the same settings, and bare: the same process. With others: a conflict.
    assert_eq!(home.rendezvous().exits(0).data()["pid"], pid);
    let bare = home.run(&["rendezvous", "start", "--json"]).exits(0).data();
    assert_eq!((&bare["pid"], &bare["registry"]), (&started["pid"], &started["registry"]));
    let other = home.run(&["rendezvous", "start", "--json", "--registry-addr", "127.0.0.1:1"]);
    assert_eq!(other.exits(8).error(), "already_running");
    let foreground = home.run(&["rendezvous", "start", "--json", "--foreground"]).exits(8);
    assert_eq!(foreground.error(), "already_running");

    let status = home.run(&["rendezvous", "status", "--json"]).exits(0).data();
    assert_eq!(status["pid"], pid);
    assert_eq!(status["counters"]["nodes"], 0);
    let exported = home.run(&["rendezvous", "export", "--json"]).exits(0).data();
    let export = std::fs::read_to_string(exported["file"].as_str().unwrap()).unwrap();
    serde_json::from_str::<Value>(&export).unwrap();
    assert!(home.run(&["logs", "--rendezvous"]).exits(0).out.contains("ready"));

    home.run(&["rendezvous", "stop"]).exits(0);
    assert!(!is_running(pid), "stop returns when it has stopped");
    let status = home.run(&["rendezvous", "status"]).exits(7);
    assert!(status.err.contains("pilotctl rendezvous start"), "{}", status.err);
    home.run(&["rendezvous", "stop"]).exits(7);

    // It comes back as the same server.
    let again = home.run(&["rendezvous", "start", "--json"]).exits(0).data();
    assert_eq!(again["key"], started["key"]);
}

#[test]
fn a_killed_rendezvous_server_leaves_nothing_in_the_way() {
    let home = Home::new();
    let started = home.rendezvous().exits(0).data();
    let pid = started["pid"].as_u64().unwrap();
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
    wait_for("the killed process is gone", || !is_running(pid));
    home.run(&["rendezvous", "status"]).exits(7);
    let again = home.rendezvous().exits(0).data();
    assert_ne!(again["pid"], pid);
    assert_eq!(again["key"], started["key"]);
}

#[test]
fn a_store_in_use_and_a_port_in_use_exit_8() {
    let (a, b) = (Home::new(), Home::new());
    let store = a.path.with_file_name("shared.json");
    let start = |home: &Home, registry: &str| {
        home.run(&[
            "rendezvous",
            "start",
            "--json",
            "--registry-addr",
            registry,
            "--beacon-addr",
            "127.0.0.1:0",
            "--persist",
            store.to_str().unwrap(),
        ])
    };
    start(&a, "127.0.0.1:0").exits(0);
    assert_eq!(start(&b, "127.0.0.1:0").exits(8).error(), "store_busy");
    b.run(&["rendezvous", "status"]).exits(7);
    a.run(&["rendezvous", "stop"]).exits(0);
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let run = start(&b, &holder.local_addr().unwrap().to_string()).exits(8);
    assert_eq!(run.error(), "conflict");
}

#[test]
fn two_starts_at_once_are_one_server() {
    let home = Home::new();
    let spawn = || {
        let arguments = ["rendezvous", "start", "--json", "--registry-addr", "127.0.0.1:0"];
        let mut command = home.command(&arguments);
        command.args(["--beacon-addr", "127.0.0.1:0"]).stdout(Stdio::piped());
        command.spawn().unwrap()
    };
    let children: Vec<Child> = (0..4).map(|_| spawn()).collect();
    let mut pids = Vec::new();
    for child in children {
        let run = Run::of(&["rendezvous", "start"], child.wait_with_output().unwrap()).exits(0);
        pids.push(run.data()["pid"].as_u64().unwrap());
    }
    pids.dedup();
    assert_eq!(pids.len(), 1, "{pids:?}");
}

#[test]
fn in_the_foreground_it_logs_to_standard_error_and_ends_on_sigterm() {
    let home = Home::new();
    let mut child = home
        .command(&["rendezvous", "start", "--foreground", "--json"])
        .args(["--registry-addr", "127.0.0.1:0", "--beacon-addr", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let report: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(report["data"]["pid"], child.id());
    assert_eq!(report["data"]["log"], Value::Null);
    let start = Instant::now();
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "graceful within 5 s");
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("ready") && log.contains("stopping"), "{log}");
    assert!(!home.path.join("rendezvous/daemon.log").exists());
}

#[test]
fn a_deep_home_works() {
    let home = Home::below(|dir| dir.join("d".repeat(100)).join("e".repeat(100)));
    home.rendezvous().exits(0);
    home.run(&["rendezvous", "status"]).exits(0);
    home.run(&["rendezvous", "stop"]).exits(0);
}

#[test]
fn a_home_that_others_may_enter_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    std::fs::create_dir(&home.path).unwrap();
    std::fs::write(home.path.join("other"), "").unwrap();
    std::fs::set_permissions(&home.path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let run = home.rendezvous().exits(1);
    assert_eq!(run.error(), "permissions");
    assert!(run.json()["hint"].as_str().unwrap().contains("chmod 700"));
}

#[test]
fn reset_deletes_the_agent_and_nothing_else() {
    let home = Home::new();
    assert_eq!(home.run(&["reset", "--yes"]).exits(0).err, "");
    home.rendezvous().exits(0);
    std::fs::write(home.path.join("notes.txt"), "mine").unwrap();
    let fill = || {
        for name in ["identity", "state.redb", "tasks.redb", "config.toml", "daemon.log.1"] {
            std::fs::write(home.path.join(name), "x").unwrap();
        }
        std::fs::create_dir_all(home.path.join("inbox")).unwrap();
        std::fs::write(home.path.join("inbox/m.msg"), "x").unwrap();
        std::fs::create_dir_all(home.path.join("serving/0")).unwrap();
        std::fs::write(home.path.join("lock"), "").unwrap();
    };
    fill();
    let data = home.run(&["reset", "--yes", "--keep-identity", "--json"]).exits(0).data();
    assert_eq!(data["deleted"].as_array().unwrap().len(), 6, "{data}");
    assert!(home.path.join("identity").exists() && !home.path.join("inbox").exists());
    assert!(!home.path.join("tasks.redb").exists() && !home.path.join("serving").exists());
    fill();
    home.run(&["reset", "--yes"]).exits(0);
    assert!(!home.path.join("identity").exists() && home.path.join("notes.txt").exists());
    assert!(!home.path.join("tasks.redb").exists());
    // A `task serve` that still runs keeps its place.
    fill();
    let lock = std::fs::File::create(home.path.join("serving/lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    home.run(&["reset", "--yes"]).exits(0);
    assert!(!home.path.join("tasks.redb").exists() && home.path.join("serving/0").exists());
    home.run(&["rendezvous", "status"]).exits(0);
}

#[test]
fn logs_follow_a_file_that_grows_and_moves_aside() {
    let home = Home::new();
    let run = home.run(&["logs"]).exits(1);
    assert!(run.err.contains("journalctl"), "{}", run.err);
    home.rendezvous().exits(0);
    let log = home.path.join("rendezvous/daemon.log");
    let arguments = ["logs", "--rendezvous", "-f", "-n", "1"];
    let mut child = home.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("ready"));
    let append = |text: &str| {
        use std::io::Write as _;
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&log).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    append("half a li");
    append("ne\u{1b}[2J\n");
    assert_eq!(lines.next().unwrap().unwrap(), "half a line[2J");
    std::fs::rename(&log, log.with_extension("log.1")).unwrap();
    append("after the move\n");
    assert_eq!(lines.next().unwrap().unwrap(), "after the move");
    child.kill().unwrap();
    child.wait().unwrap();
}
