//! What a trusted agent may do is its grantor's word, and can be changed: with real daemons.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use serde_json::Value;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};
use support::{Home, mutual, request_of, wait_for};

const NOT_PERMITTED: &str = "not_permitted";

/// A server and two agents with their addresses; the first has approved the second for `allow`.
fn friends(allow: &str) -> (Home, [(Home, String); 2]) {
    let (server, registry, beacon) = Home::rendezvous();
    let agent = || {
        let (home, report) = Home::agent(&registry, &beacon);
        (home, report["address"].as_str().unwrap().to_owned())
    };
    let (a, b) = (agent(), agent());
    b.0.ok(&["trust", "request", &a.1]);
    request_of(&a.0, &b.1);
    let approved = a.0.data(&["trust", "approve", &b.1, "--allow", allow]);
    assert_eq!((&approved["state"], &approved["allow"]), (&"approved".into(), &allow.into()));
    assert_eq!(mutual(&b.0), a.1);
    (server, [a, b])
}

fn peer(home: &Home) -> Value {
    home.data(&["trust", "list"])["peers"][0].clone()
}

fn denied() -> (i32, String) {
    (1, NOT_PERMITTED.to_owned())
}

fn spawn(home: &Home, arguments: &[&str]) -> Child {
    let mut command = home.command(arguments);
    command.arg("--json").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// What a command that has no more input says at its end; it is killed if it does not end.
fn ended(mut child: Child) -> Output {
    drop(child.stdin.take());
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("it has not ended: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

/// `connect`, again and again until somebody listens; the one that holds.
fn connected(home: &Home, to: &str, port: &str) -> Child {
    let begin = Instant::now();
    loop {
        let mut child = spawn(home, &["connect", to, port]);
        std::thread::sleep(Duration::from_millis(300));
        if child.try_wait().unwrap().is_none() {
            return child;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", child.wait_with_output());
    }
}

#[test]
fn an_agent_does_what_it_was_allowed_and_more_when_it_is_allowed_more() {
    let (_server, [(a, to_a), (b, to_b)]) = friends("echo");
    let echo = b.data(&["echo", &to_a, "--count", "1", "--bytes", "0"]);
    assert_eq!(echo["rtts_us"].as_array().unwrap().len(), 1);
    let file = b.beside("dataset.csv");
    std::fs::write(&file, b"1,2,3").unwrap();
    let file = file.to_str().unwrap();
    for line in [&["send-message", &to_a, "hi"][..], &["send-file", &to_a, file]] {
        assert_eq!(b.error(line), denied(), "{line:?}");
    }
    let stream = ended(spawn(&b, &["connect", &to_a, "7000"]));
    assert!(String::from_utf8_lossy(&stream.stderr).contains(NOT_PERMITTED), "{stream:?}");
    assert_eq!(peer(&a)["allow"], "echo");
    wait_for("its grant says so", || peer(&b)["allows_us"] == "echo");
    // The other direction has its own rights.
    assert_eq!(peer(&b)["allow"], "echo,message,file,events,tasks,ports");
    a.ok(&["send-message", &to_b, "hello"]);

    // Messages and files share a port, and not their rights.
    let plain = a.ok(&["trust", "allow", &to_b, "messages"]);
    assert_eq!(plain, format!("allowed: {to_b} may do here: message"));
    b.ok(&["send-message", &to_a, "now it works"]);
    assert_eq!(a.inbox(), ["now it works"]);
    assert_eq!(b.error(&["send-file", &to_a, file]), denied());
    assert_eq!(b.error(&["echo", &to_a]), denied());
    wait_for("its new grant has come", || peer(&b)["allows_us"] == "message");
    a.ok(&["trust", "allow", &to_b, "file"]);
    b.ok(&["send-file", &to_a, file]);
    assert_eq!(b.error(&["send-message", &to_a, "and this not"]), denied());
    assert_eq!(a.inbox(), ["now it works"]);

    assert_eq!(a.error(&["trust", "allow", &to_b, "all,echo"]), (2, "usage".to_owned()));
    assert_eq!(a.error(&["trust", "allow", "0:0000.0000.0777", "all"]).0, 3);
    assert_eq!(peer(&a)["allow"], "file", "nothing of it was taken");
}

#[test]
fn ranges_of_ports_hold_for_open_streams_and_after_a_crash() {
    let (_server, [(a, to_a), (b, to_b)]) = friends("ports=8000-8100+9000");
    let inside = spawn(&a, &["listen", "8050"]);
    let outside = spawn(&a, &["listen", "8101"]);
    let stream = connected(&b, &to_a, "8050");
    let refused = ended(spawn(&b, &["connect", &to_a, "8101"]));
    assert!(String::from_utf8_lossy(&refused.stderr).contains(NOT_PERMITTED), "{refused:?}");
    assert_eq!(b.error(&["echo", &to_a]), denied());

    // Changed: what is open and no longer allowed ends at once, on both sides.
    let open = |home: &Home| home.data(&["connections"])["connections"].as_array().unwrap().len();
    assert_eq!((open(&a), open(&b)), (1, 1));
    a.ok(&["trust", "allow", &to_b, "ports=8101+9000"]);
    wait_for("the stream is over", || (open(&a), open(&b)) == (0, 0));
    let end = ended(stream);
    assert_eq!(end.status.code(), Some(1), "{end:?}");
    assert!(String::from_utf8_lossy(&end.stderr).contains(NOT_PERMITTED), "{end:?}");
    assert!(!ended(inside).status.success(), "a reset is no end of file");
    let allowed = connected(&b, &to_a, "8101");
    let listener = std::thread::spawn(move || ended(outside));
    assert!(ended(allowed).status.success() && listener.join().unwrap().status.success());

    a.kill("daemon");
    a.ok(&["daemon", "start"]);
    assert_eq!(peer(&a)["allow"], "ports=8101+9000");
    assert_eq!(b.error(&["send-message", &to_a, "hi"]), denied());
    a.ok(&["trust", "allow", &to_b, "all"]);
    b.ok(&["send-message", &to_a, "hi"]);
}
