//! What the processes that hold keys give away about them (`wire.md` 8): nothing, in files or
//! in memory.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use support::{Home, start};

/// Nobody in particular.
const USER: u32 = 65_534;

/// A process that says when it is ready, and is killed at the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `command` in the foreground until it is ready, as an ordinary user.
fn ready(mut command: Command) -> (Running, serde_json::Value) {
    if rustix::process::geteuid().is_root() {
        command.uid(USER).gid(USER);
    }
    command.args(["--foreground", "--json"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Running(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut report: serde_json::Value = serde_json::from_str(&line).unwrap();
    (running, report["data"].take())
}

/// A home that an ordinary user may have, and the program where that user may run it.
fn home() -> Home {
    let home = Home::new();
    let above = home.path.parent().unwrap();
    std::fs::set_permissions(above, std::fs::Permissions::from_mode(0o711)).unwrap();
    std::fs::create_dir(&home.path).unwrap();
    std::fs::set_permissions(&home.path, std::fs::Permissions::from_mode(0o700)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&home.path, Some(USER), Some(USER)).unwrap();
    }
    home
}

fn command(home: &Home, arguments: &[&str]) -> Command {
    let program = home.beside("pilotctl");
    if !program.exists() {
        // By another process: a descriptor of ours that writes to it would be inherited by what
        // the test beside this one starts, and the program counted as busy.
        let copy = Command::new("cp").arg(env!("CARGO_BIN_EXE_pilotctl")).arg(&program).status();
        assert!(copy.unwrap().success());
    }
    let mut command = Command::new(program);
    command.env("PILOT_HOME", &home.path).env_remove("HOME").args(arguments);
    command.stdin(Stdio::null());
    command
}

/// No core dumps, and no look into the memory by other processes of the same user: the kernel
/// gives what belongs to such a process to root.
fn check(process: &Running) {
    let proc = format!("/proc/{}", process.0.id());
    let limits = std::fs::read_to_string(format!("{proc}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
    let user = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert!(!user.split_whitespace().any(|id| id == "0"), "the test needs an ordinary user");
    for name in ["mem", "environ", "maps"] {
        let owner = std::fs::metadata(format!("{proc}/{name}")).unwrap().uid();
        assert_eq!(owner, 0, "{name} belongs to the user");
    }
    // The control: another process of that user.
    let mut sleep = Command::new("sleep");
    if rustix::process::geteuid().is_root() {
        sleep.uid(USER).gid(USER);
    }
    let control = Running(sleep.arg("60").spawn().unwrap());
    let owner = std::fs::metadata(format!("/proc/{}/mem", control.0.id())).unwrap().uid();
    assert_ne!(owner, 0);
}

#[test]
fn the_memory_of_daemon_and_rendezvous_server_is_nobody_elses() {
    let any = "127.0.0.1:0";
    let (server, agent) = (home(), home());
    let begin = ["rendezvous", "start", "--registry-addr", any, "--beacon-addr", any];
    let (rendezvous, report) = ready(command(&server, &begin));
    check(&rendezvous);
    let text = |name: &str| report[name].as_str().unwrap().to_owned();
    let (daemon, _) = ready(command(&agent, &start(&text("registry"), &text("beacon"))));
    check(&daemon);
    // What they keep on disk is their user's alone.
    for home in [&server, &agent] {
        check_files(&home.path);
    }
}

/// Directories 0700, files and sockets 0600, all of one owner.
fn check_files(dir: &Path) {
    let owner = dir.metadata().unwrap().uid();
    let mut open = vec![dir.to_owned()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let meta = path.symlink_metadata().unwrap();
        let allowed = if meta.is_dir() { 0o700 } else { 0o600 };
        assert_eq!((meta.mode() & 0o777, meta.uid()), (allowed, owner), "{}", path.display());
        if meta.is_dir() {
            open.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
        seen += 1;
    }
    assert!(seen > 4, "{}", dir.display());
}

/// Whatever holds a secret and is not its owner's alone: the process does not start, says
/// which file it is, and leaves it as it was.
#[test]
fn secrets_that_others_may_touch_are_refused_at_the_start() {
    let (server, registry, beacon) = Home::rendezvous();
    let (agent, _) = Home::agent(&registry, &beacon);
    agent.ok(&["daemon", "stop"]);
    server.ok(&["rendezvous", "stop"]);
    let key = "rendezvous/registry.key";
    let store = "rendezvous/registry.redb";
    let begin_server = &["rendezvous", "start"][..];
    let begin_agent = &["daemon", "start"][..];
    for (home, name, begin, code) in [
        (&agent, "identity", begin_agent, "permissions"),
        (&agent, "state.redb", begin_agent, "permissions"),
        (&server, key, begin_server, "state"),
        (&server, store, begin_server, "state"),
    ] {
        let path = home.path.join(name);
        let refused = |what: &str| {
            let run = home.run(&[begin, &["--json"]].concat());
            assert_eq!(run.code, 1, "{name} {what}: {}{}", run.out, run.err);
            let answer: serde_json::Value = serde_json::from_str(run.out.trim()).unwrap();
            assert_eq!(answer["code"], code, "{name} {what}: {answer}");
            let file = path.file_name().unwrap().to_str().unwrap();
            assert!(answer["message"].as_str().unwrap().contains(file), "{name} {what}: {answer}");
        };
        let content = std::fs::read(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            refused("with a mode");
            assert_eq!(path.metadata().unwrap().mode() & 0o777, mode);
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let aside = home.beside("aside");
        std::fs::rename(&path, &aside).unwrap();
        symlink(&aside, &path).unwrap();
        refused("behind a link");
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(&path, Some(USER), None).unwrap();
            refused("of somebody else");
            chown(&path, Some(0), None).unwrap();
        }
        assert!(std::fs::read(&path).unwrap() == content, "{name} was touched");
    }
    let addresses = ["--registry-addr", &registry, "--beacon-addr", &beacon];
    server.ok(&[begin_server, &addresses].concat());
    agent.ok(begin_agent);
}
