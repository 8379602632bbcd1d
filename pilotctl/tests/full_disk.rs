//! No room: a limit on the size of files, put on the running process, makes every write of it
//! fail as a full disk or a used-up quota does. It says so with a stable code, shows nothing
//! that is half there, lives on, and works again once there is room.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use support::pair::pair;
use support::{Home, Story, mutual, request_of, wait_at_most, wait_for, write_file};

/// From now on no file of this process may have more bytes, nor be written beyond them.
fn limit_files(process: &Value, bytes: Option<u64>) {
    let pid = Pid::from_raw(process["pid"].as_i64().unwrap() as i32).unwrap();
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

/// Everything below a directory but the directories, relative to it.
fn files_below(dir: &Path) -> Vec<String> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => files.push(path.strip_prefix(dir).unwrap().display().to_string()),
            }
        }
    }
    files.sort();
    files
}

#[test]
fn a_rendezvous_server_without_room_says_so_and_heals() {
    let mut story = Story::begin("full rendezvous", Duration::from_secs(120));
    let (server, registry, beacon) = Home::rendezvous();
    let (a, _) = Home::agent(&registry, &beacon);
    let (b, _) = Home::agent(&registry, &beacon);
    a.ok(&["set-hostname", "before"]);
    for home in [&a, &b] {
        home.ok(&["set-visibility", "public"]);
    }
    b.ok(&["set-hostname", "other"]);
    server.ok(&["rendezvous", "export"]);
    let export = server.path.join("rendezvous/registry.json");
    let exported = std::fs::read(&export).unwrap();
    let process = server.data(&["rendezvous", "status"]);
    story.done("a server with two agents");

    limit_files(&process, Some(0));
    assert_eq!(a.error(&["set-hostname", "meanwhile"]), (1, "rate_limited".to_owned()));
    assert_eq!(a.error(&["tags", "set", "x=1"]), (1, "rate_limited".to_owned()));
    a.ok(&["resolve", "other"]);
    assert_eq!(server.error(&["rendezvous", "export"]), (1, "full".to_owned()));
    assert_eq!(std::fs::read(&export).unwrap(), exported, "the last export stays");
    let status = server.data(&["rendezvous", "status"]);
    assert_eq!(status["pid"], process["pid"]);
    assert!(status["counters"]["failed_transactions"].as_u64().unwrap() > 0, "{status}");
    story.done("no room");

    limit_files(&process, None);
    // It answers RateLimited while it still has what it could not write.
    wait_for("it works again", || a.run(&["set-hostname", "after"]).code == 0);
    server.kill("rendezvous");
    let addresses = ["--registry-addr", &registry, "--beacon-addr", &beacon];
    server.ok(&[&["rendezvous", "start"][..], &addresses].concat());
    wait_for("what was acknowledged is there", || b.run(&["resolve", "after"]).code == 0);
    assert_eq!(b.error(&["resolve", "before"]).0, 3);
    story.done("room again");
}

#[test]
fn a_daemon_without_room_says_so_and_heals() {
    let mut story = Story::begin("full daemon", Duration::from_secs(180));
    let (_server, registry, beacon) = Home::rendezvous();
    let (a, process) = Home::agent(&registry, &beacon);
    let (b, sender) = Home::agent(&registry, &beacon);
    let (c, other) = Home::agent(&registry, &beacon);
    let text = |report: &Value| report["address"].as_str().unwrap().to_owned();
    let (to_a, to_b, to_c) = (text(&process), text(&sender), text(&other));
    b.ok(&["trust", "request", &to_a]);
    request_of(&a, &to_b);
    a.ok(&["trust", "approve", &to_b]);
    mutual(&b);
    b.ok(&["send-message", &to_a, "before"]);
    let large = b.beside("large.bin");
    write_file(&large, 3_000_000, 7);
    let large = large.to_str().unwrap();
    story.done("friends");

    // Not a byte.
    limit_files(&process, Some(0));
    let kept = b.data(&["send-message", &to_a, "meanwhile"]);
    assert_eq!(kept["reason"]["code"], "full", "{kept}");
    assert_eq!(b.error(&["send-file", &to_a, large]), (1, "full".to_owned()));
    assert_eq!(a.inbox(), ["before"]);
    assert_eq!(files_below(&a.path.join("inbox")).len(), 1);
    assert!(a.received().is_empty());
    // Its own durable facts have no room either: the approval waits for them.
    c.ok(&["trust", "request", &to_a]);
    request_of(&a, &to_c);
    a.ok(&["trust", "approve", &to_c]);
    b.ok(&["echo", &to_a, "--count", "1"]);
    let trusted = |peer: &Value| peer["mutual"] == true;
    let list = c.data(&["trust", "list"]);
    assert!(!list["peers"].as_array().unwrap().iter().any(trusted), "nothing is said yet: {list}");
    story.done("no room");

    limit_files(&process, None);
    assert_eq!(mutual(&c), to_a);
    // What was refused for want of room comes first.
    b.ok(&["send-message", &to_a, "after", "--wait", "80s"]);
    assert_eq!(a.inbox(), ["before", "meanwhile", "after"]);
    story.done("room again");

    // Room for a part of the file: it is not shown, and the next attempt goes on from there.
    limit_files(&process, Some(1_500_000));
    assert_eq!(b.error(&["send-file", &to_a, large]), (1, "full".to_owned()));
    assert!(a.received().is_empty());
    let shown = files_below(&a.path.join("received"));
    assert!(shown.iter().all(|name| name.starts_with(".partial/")), "{shown:?}");
    limit_files(&process, None);
    let sent = b.data(&["send-file", &to_a, large]);
    let resumed = sent["resumed_at"].as_u64().unwrap();
    assert!((1..=1_500_000).contains(&resumed), "{sent}");
    let received = a.received();
    assert_eq!((received.len(), &received[0]["hash"]), (1, &sent["hash"]));
    let there = std::fs::read(received[0]["path"].as_str().unwrap()).unwrap();
    assert!(there == std::fs::read(large).unwrap());
    story.done("a file in two parts");

    // The sender's own disk.
    limit_files(&sender, Some(0));
    assert_eq!(b.error(&["send-file", &to_a, large, "--name", "again"]), (1, "full".to_owned()));
    // A part of it fits into its outbox: nothing of it stays there.
    limit_files(&sender, Some(1_500_000));
    let queue = ["send-file", &to_a, large, "--name", "kept", "--queue"];
    assert_eq!(b.error(&queue), (1, "full".to_owned()));
    assert_eq!(files_below(&b.path.join("outbox")), ["settled"]);
    assert_eq!(b.data(&["outbox"])["waiting"], 0);
    limit_files(&sender, None);
    b.ok(&["send-file", &to_a, large, "--name", "again"]);
    b.ok(&[&queue[..], &["--wait", "80s"]].concat());

    // All of them are the processes that they were, and what they say survives them.
    for (home, report) in [(&a, &process), (&b, &sender), (&c, &other)] {
        assert_eq!(home.data(&["daemon", "status"])["pid"], report["pid"]);
    }
    a.kill("daemon");
    a.ok(&["daemon", "start"]);
    assert_eq!(a.inbox(), ["before", "meanwhile", "after"]);
    assert_eq!(a.received().len(), 3);
    assert_eq!(a.data(&["trust", "list"])["peers"].as_array().unwrap().len(), 2);
    story.done("the same after a crash");
}

#[test]
fn a_result_outlasts_a_worker_without_room() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut story = Story::begin("full worker", Duration::from_secs(180));
    let pair = pair();
    let (s, w) = (&pair.b, &pair.a);
    let (exec, go, over) = (w.beside("worker"), w.beside("go"), w.beside("over"));
    let text = "while [ ! -e $1 ]; do sleep 0.1; done; echo once >>$2; echo done";
    std::fs::write(&exec, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&exec, std::fs::Permissions::from_mode(0o755)).unwrap();
    let [exec, go, over] = [&exec, &go, &over].map(|path| path.to_str().unwrap());
    let serve = ["task", "serve", "--count", "1", "--exec", exec, "--", go, over];
    let mut serving = w.command(&serve).spawn().unwrap();
    let id = s.ok(&["task", "submit", &pair.to_a, "--description", "one"]);
    let state = |home: &Home, id: &str| {
        let answer = home.run(&["task", "show", id, "--json"]).out;
        serde_json::from_str::<Value>(&answer).unwrap_or_default()["data"]["state"].clone()
    };
    wait_for("it runs", || state(s, &id) == "executing");
    story.done("a program runs");

    limit_files(&pair.a_process, Some(0));
    std::fs::write(go, "").unwrap();
    wait_for("it has ended", || Path::new(over).exists());
    std::thread::sleep(Duration::from_secs(3));
    assert!(serving.try_wait().unwrap().is_none(), "it serves on");
    assert_eq!(state(s, &id), "executing");
    story.done("no room for its result");

    limit_files(&pair.a_process, None);
    wait_at_most(Duration::from_secs(80), "it is told", || state(s, &id) == "succeeded");
    assert!(serving.wait().unwrap().success());
    assert_eq!(std::fs::read_to_string(over).unwrap(), "once\n");
    story.done("room again");
}
