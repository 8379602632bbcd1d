//! Messages that wait for their receivers: they outlive every process and arrive once, in
//! order. `PILOT_TEST_KILLS` sets how often processes are killed.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{Home, mutual, request_of, start, wait_at_most, wait_for};

/// Whoever is killed all the time uses up what one source may ask of others, and waits.
const PATIENCE: Duration = Duration::from_secs(240);

fn kills() -> usize {
    std::env::var("PILOT_TEST_KILLS").map_or(20, |n| n.parse().unwrap())
}

fn random(below: u64) -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_be_bytes(bytes) % below
}

/// Ends a process, as a power loss would.
fn kill(report: &Value) {
    let pid = Pid::from_raw(report["pid"].as_i64().unwrap() as i32).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

struct Pair {
    server: Home,
    registry: String,
    beacon: String,
    a: Home,
    b: Home,
    a_process: Value,
    b_process: Value,
    to_a: String,
}

/// Two agents; `b` may send to `a`.
fn pair() -> Pair {
    let (server, registry, beacon) = Home::rendezvous();
    let (a, a_process) = Home::agent(&registry, &beacon);
    let (b, b_process) = Home::agent(&registry, &beacon);
    let to_a = a_process["address"].as_str().unwrap().to_owned();
    b.ok(&["trust", "request", &to_a]);
    request_of(&a, b_process["address"].as_str().unwrap());
    a.ok(&["trust", "approve", b_process["address"].as_str().unwrap()]);
    mutual(&b);
    Pair { server, registry, beacon, a, b, a_process, b_process, to_a }
}

fn waits(message: &Value) -> bool {
    ["queued", "sending"].contains(&message["state"].as_str().unwrap())
}

fn follow(home: &Home, more: &[&str]) -> Child {
    let mut command: Command = home.command(&[&["inbox", "--follow", "--json"][..], more].concat());
    command.stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_message_waits_for_a_receiver_that_is_away_and_can_be_taken_back() {
    let Pair { server: _server, registry, beacon, a, b, to_a, .. } = pair();
    a.kill("daemon");
    let queued = b.data(&["send-message", &to_a, "one"]);
    assert_eq!(queued["to"], to_a.as_str());
    assert!(waits(&queued), "{queued}");
    let id = queued["id"].as_str().unwrap();
    let second = b.data(&["send-message", &to_a, "never"]);
    let second = second["id"].as_str().unwrap().to_owned();
    b.data(&["send-message", &to_a, "two"]);
    let listed = b.data(&["outbox"]);
    assert_eq!((listed["messages"].as_array().unwrap().len(), &listed["waiting"]), (3, &3.into()));
    assert!(b.ok(&["outbox"]).lines().all(|line| line.contains(&to_a)));

    // Waiting for the receipt leaves it there, a limit takes it back.
    let waited = b.error(&["send-message", &to_a, "three", "--wait", "200ms"]);
    assert_eq!(waited, (6, "timeout".to_owned()));
    let limited = b.error(&["send-message", &to_a, "in time or never", "--timeout", "200ms"]);
    assert_eq!(limited, (6, "timeout".to_owned()));

    let cancelled = b.data(&["cancel", &second]);
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(cancelled["may_have_arrived"], false);
    assert_eq!(b.error(&["cancel", &second]), (8, "conflict".to_owned()));
    let unknown = "00000000000000000000000000000001";
    assert_eq!(b.error(&["cancel", unknown]), (3, "not_found".to_owned()));
    assert_eq!(b.error(&["status", "../info"]).0, 2);

    // The sender's daemon dies, too.
    b.kill("daemon");
    b.ok(&["daemon", "start"]);
    assert_eq!(b.data(&["outbox"])["waiting"], 3);
    a.data(&start(&registry, &beacon));
    let mut shown = follow(&a, &["--count", "3"]);
    let status = b.data(&["status", id, "--wait", "60s"]);
    assert_eq!(status["state"], "delivered");
    let lines = BufReader::new(shown.stdout.take().unwrap()).lines();
    let texts: Vec<String> = lines
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
        .map(|message| message["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(texts, ["one", "two", "three"]);
    assert!(shown.wait().unwrap().success());
    wait_for("nothing waits", || b.data(&["outbox"])["waiting"] == 0);
    assert_eq!(a.inbox(), ["one", "two", "three"]);
    assert_eq!(b.data(&["status", &second])["state"], "cancelled");
    assert_eq!(b.ok(&["outbox"]), "nothing");
    let all = b.data(&["outbox", "--all"]);
    assert_eq!(all["messages"].as_array().unwrap().len(), 5);

    // What was shown and acknowledged does not come back.
    let mut cleared = follow(&a, &["--clear", "--count", "3"]);
    assert!(cleared.wait().unwrap().success());
    assert!(a.inbox().is_empty());
    let delivered = b.data(&["send-message", &to_a, "four", "--wait"]);
    assert_eq!(delivered["state"], "delivered");
    assert_eq!(a.inbox(), ["four"]);
}

#[test]
fn a_full_outbox_and_a_refusal_are_shown() {
    let Pair { server: _server, a: _a, b, a_process, to_a, .. } = pair();
    kill(&a_process);
    let large = b.beside("large.txt");
    std::fs::write(&large, "x".repeat(1 << 20)).unwrap();
    let put = || {
        let mut command = b.command(&["send-message", &to_a, "-", "--json"]);
        command.stdin(std::fs::File::open(&large).unwrap());
        let output = command.output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), answer)
    };
    for n in 0..32 {
        let (code, answer) = put();
        assert!(code == 0 && waits(&answer["data"]), "{n}: {answer}");
    }
    let (code, answer) = put();
    assert_eq!((code, &answer["code"]), (1, &"full".into()), "{answer}");
    let listed = b.data(&["outbox"]);
    assert_eq!(listed["waiting_bytes"], 32 << 20);
    let first = listed["messages"][0]["id"].as_str().unwrap();
    b.ok(&["cancel", first]);
    assert_eq!(put().0, 0);

    // Where trust has ended nothing can be delivered any more, and each says so.
    b.ok(&["trust", "revoke", &to_a]);
    wait_at_most(PATIENCE, "all are settled", || b.data(&["outbox"])["waiting"] == 0);
    let listed = b.data(&["outbox", "--all"]);
    let messages = listed["messages"].as_array().unwrap();
    let refused: Vec<_> = messages.iter().filter(|m| m["state"] == "refused").collect();
    assert_eq!((messages.len(), refused.len()), (33, 32));
    for message in refused {
        assert_eq!(message["reason"]["code"], "not_trusted", "{message}");
    }
    assert_eq!(b.error(&["send-message", &to_a, "hi"]), (4, "not_trusted".to_owned()));
}

#[test]
fn killed_at_any_moment_every_message_accepted_arrives_once_in_order() {
    let Pair { server, registry, beacon, a, b, mut a_process, mut b_process, to_a } = pair();
    let restart = ["rendezvous", "start", "--registry-addr", &registry, "--beacon-addr", &beacon];
    let mut server_process = server.data(&["rendezvous", "status"]);
    let begin = start(&registry, &beacon);
    let is_over = AtomicBool::new(false);
    let mut seen: Vec<String> = Vec::new();
    let (accepted, uncertain) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let (mut accepted, mut uncertain) = (Vec::new(), BTreeSet::new());
            while !is_over.load(Ordering::Relaxed) {
                let text = format!("message {}", accepted.len() + uncertain.len());
                let run = b.run(&["send-message", &to_a, &text, "--json"]);
                match run.code {
                    0 => accepted.push(text),
                    // Its daemon died: it was accepted or not.
                    _ => drop(uncertain.insert(text)),
                }
                std::thread::sleep(Duration::from_millis(20 + random(200)));
            }
            (accepted, uncertain)
        });
        let over = Over(&is_over);
        for n in 0..kills() {
            std::thread::sleep(Duration::from_micros(random(1_500_000)));
            match random(5) {
                0 | 1 => {
                    kill(&a_process);
                    a_process = a.data(&begin);
                }
                2 | 3 => {
                    kill(&b_process);
                    b_process = b.data(&begin);
                }
                _ => {
                    kill(&server_process);
                    server_process = server.data(&restart);
                }
            }
            // The user reads and deletes meanwhile: what is deleted must not come back.
            if n % 4 == 3 {
                let cleared = a.data(&["inbox", "--clear"]);
                let texts = cleared["messages"].as_array().unwrap().iter();
                seen.extend(texts.map(|m| m["text"].as_str().unwrap().to_owned()));
            }
        }
        drop(over);
        sender.join().unwrap()
    });
    wait_at_most(PATIENCE, "everything is delivered", || b.data(&["outbox"])["waiting"] == 0);
    seen.extend(a.inbox());
    let number = |text: &String| text.split(' ').nth(1).unwrap().parse::<u64>().unwrap();
    let numbers: Vec<u64> = seen.iter().map(number).collect();
    assert!(numbers.windows(2).all(|w| w[0] < w[1]), "once and in order: {numbers:?}");
    let arrived: BTreeSet<&String> = seen.iter().collect();
    for text in &accepted {
        assert!(arrived.contains(text), "{text} was accepted and is not there: {numbers:?}");
    }
    assert!(seen.iter().all(|text| accepted.contains(text) || uncertain.contains(text)));
    assert!(!accepted.is_empty());
    let left = std::fs::read_dir(b.path.join("outbox")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["settled"], "no message's file is left");
    println!("{} accepted, {} uncertain, {} kills", accepted.len(), uncertain.len(), kills());
}

/// Tells the sender to stop, also when the test fails.
struct Over<'s>(&'s AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
