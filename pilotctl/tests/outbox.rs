//! Messages and files that wait for their receivers: they outlive every process and arrive once,
//! messages in order. `PILOT_TEST_KILLS` sets how often processes are killed, and
//! `PILOT_TEST_MESSAGES` how many messages are many.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::pair::{Api, Pair, check_folder, kill, pair, random, waits};
use support::{Home, start, wait_at_most, wait_for, write_file};

/// Whoever is killed all the time uses up what one source may ask of others, and waits.
const PATIENCE: Duration = Duration::from_secs(240);

fn kills() -> usize {
    std::env::var("PILOT_TEST_KILLS").map_or(20, |n| n.parse().unwrap())
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

    // A file that was taken back is a new one when it is sent again.
    let file = b.beside("file");
    write_file(&file, 1000, 1);
    let line = ["send-file", &to_a, file.to_str().unwrap(), "--queue"];
    let queue = || b.data(&line)["id"].as_str().unwrap().to_owned();
    let taken = queue();
    b.data(&["cancel", &taken]);
    let file = queue();
    assert_ne!(file, taken);

    // The sender's daemon dies, too.
    b.kill("daemon");
    b.ok(&["daemon", "start"]);
    assert_eq!(b.data(&["outbox"])["waiting"], 4);
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
    assert_eq!(all["messages"].as_array().unwrap().len(), 7);
    assert_eq!(b.data(&["status", &file])["state"], "delivered");

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

/// Sends messages until it is over: those accepted, and those of which nobody knows.
fn send_messages(b: &Home, to: &str, is_over: &AtomicBool) -> (Vec<String>, BTreeSet<String>) {
    let (mut accepted, mut uncertain) = (Vec::new(), BTreeSet::new());
    while !is_over.load(Ordering::Relaxed) {
        let text = format!("message {}", accepted.len() + uncertain.len());
        let run = b.run(&["send-message", to, &text, "--json"]);
        match run.code {
            0 => accepted.push(text),
            // Its daemon died: it was accepted or not.
            _ => drop(uncertain.insert(text)),
        }
        std::thread::sleep(Duration::from_millis(20 + random(200)));
    }
    (accepted, uncertain)
}

/// The same with files and directories, some of them through the outbox at once; the hashes of
/// those accepted.
fn send_files(
    b: &Home,
    to: &str,
    sources: &Path,
    is_over: &AtomicBool,
) -> BTreeMap<String, String> {
    let mut accepted = BTreeMap::new();
    for n in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let size = [0, 1 << 10, 3 << 20][random(3) as usize] + random(999) as usize;
        let name = match n % 3 {
            0 => format!("directory-{n}"),
            _ => format!("file-{n}.bin"),
        };
        let path = sources.join(&name);
        if n % 3 == 0 {
            std::fs::create_dir_all(path.join("inner")).unwrap();
            write_file(&path.join("inner/small"), 100, n);
            write_file(&path.join("z"), size, n);
        } else {
            write_file(&path, size, n);
        }
        let line = ["send-file", to, path.to_str().unwrap(), "--json", "--queue"];
        let run = b.run(&line[..line.len() - random(2) as usize]);
        if run.code == 0 {
            let sent: Value = serde_json::from_str(&run.out).unwrap();
            let hash = sent["data"]["hash"].as_str().unwrap_or_default();
            accepted.insert(name, hash.to_owned());
        }
        std::thread::sleep(Duration::from_millis(20 + random(200)));
    }
    accepted
}

#[test]
fn killed_at_any_moment_everything_accepted_arrives_once_and_messages_in_order() {
    let Pair { server, registry, beacon, a, b, mut a_process, mut b_process, to_a, .. } = pair();
    let restart = ["rendezvous", "start", "--registry-addr", &registry, "--beacon-addr", &beacon];
    let mut server_process = server.data(&["rendezvous", "status"]);
    let begin = start(&registry, &beacon);
    let (folder, sources) = (a.path.join("received"), b.beside("sources"));
    std::fs::create_dir(&sources).unwrap();
    let is_over = AtomicBool::new(false);
    let mut seen: Vec<String> = Vec::new();
    let ((accepted, uncertain), files) = std::thread::scope(|scope| {
        let messages = scope.spawn(|| send_messages(&b, &to_a, &is_over));
        let files = scope.spawn(|| send_files(&b, &to_a, &sources, &is_over));
        let over = Over(&is_over);
        for n in 0..kills() {
            std::thread::sleep(Duration::from_micros(random(1_500_000)));
            match random(5) {
                0 | 1 => {
                    kill(&a_process);
                    check_folder(&folder, &sources);
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
        (messages.join().unwrap(), files.join().unwrap())
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
    // Whole, under its own name alone, and as it was when it was accepted.
    check_folder(&folder, &sources);
    let received = a.received();
    for (name, hash) in &files {
        let found: Vec<_> = received.iter().filter(|f| f["name"] == **name).collect();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        // Who had it all before is not told its hash.
        assert!(hash.is_empty() || found[0]["hash"] == **hash, "{name}");
    }
    assert!(!files.is_empty());
    let left = std::fs::read_dir(b.path.join("outbox")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["settled"], "nothing of what was sent is left");
    println!(
        "{} messages accepted, {} uncertain, {} files, {} kills",
        accepted.len(),
        uncertain.len(),
        files.len(),
        kills()
    );
}

/// Tells the senders to stop, also when the test fails.
struct Over<'s>(&'s AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn messages_are_text_json_or_bytes_from_an_argument_a_file_or_standard_input() {
    let Pair { server: _server, a, b, to_a, .. } = pair();
    let file = b.beside("message");
    let file = file.to_str().unwrap();
    let from_input = |more: &[&str], input: &[u8]| {
        let line = [&["send-message", &to_a, "--wait", "--json"][..], more].concat();
        let mut command = b.command(&line);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        let envelope: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), envelope)
    };
    b.ok(&["send-message", &to_a, "text", "--wait"]);
    std::fs::write(file, "a file\n").unwrap();
    b.ok(&["send-message", &to_a, "--file", file, "--wait"]);
    assert_eq!(from_input(&["-"], b"an input").0, 0);
    let json = b.data(&["send-message", &to_a, "{\"n\": [1]}", "--kind", "json", "--wait"]);
    assert_eq!((&json["kind"], &json["state"]), (&"json".into(), &"delivered".into()));
    assert_eq!(from_input(&["--file", "-", "--kind", "binary"], &[0, 0xFF, 7]).0, 0);
    std::fs::write(file, [0xC3, 0x28]).unwrap();
    b.ok(&["send-message", &to_a, "--file", file, "--kind", "binary", "--wait"]);
    b.ok(&["send-message", &to_a, "", "--wait"]);

    let inbox = a.data(&["inbox"]);
    let field = |name: &str| {
        let messages = inbox["messages"].as_array().unwrap().iter();
        messages.map(|m| m[name].clone()).collect::<Vec<_>>()
    };
    let kinds = ["text", "text", "text", "json", "binary", "binary", "text"];
    assert_eq!(field("kind"), kinds);
    let texts = field("text");
    assert_eq!(texts[..4], ["text", "a file\n", "an input", "{\"n\": [1]}"]);
    // Where the text does not show the bytes, they are there beside it.
    let exact = [Value::Null, json!("AP8H"), json!("wyg="), Value::Null];
    assert_eq!(field("base64")[3..], exact);

    // What is not of its kind is refused before it is accepted.
    let refused = [&["{", "--kind", "json"][..], &["--file", file], &["-", "--file", file], &[]];
    for more in refused {
        let line = [&["send-message", &to_a][..], more].concat();
        assert_eq!(b.run(&line).code, 2, "{more:?}");
    }
    assert_eq!(from_input(&["-"], &vec![b'x'; (1 << 20) + 1]).1["code"], "too_large");
    assert_eq!(b.data(&["outbox", "--all"])["messages"].as_array().unwrap().len(), 7);
}

#[test]
fn a_full_inbox_refuses_with_a_code_and_what_it_refused_comes_when_there_is_room() {
    let Pair { server: _server, registry, beacon, a, b, to_a, .. } = pair();
    a.ok(&["daemon", "stop"]);
    let config = a.path.join("config.toml");
    let mut text = std::fs::read_to_string(&config).unwrap();
    text.push_str("\n[limits]\ninbox-messages-per-sender = 3\nreceived-files-per-sender = 1\n");
    std::fs::write(&config, text).unwrap();
    a.ok(&start(&registry, &beacon));
    for n in 0..3 {
        b.ok(&["send-message", &to_a, &format!("{n}"), "--wait", "60s"]);
    }
    let full = |item: &Value| waits(item) && item["reason"]["code"] == "full";
    let fourth = b.data(&["send-message", &to_a, "3"]);
    assert!(full(&fourth), "{fourth}");
    let fifth = b.data(&["send-message", &to_a, "4"]);
    // A file is told at once, and waits if it is to.
    let file = b.beside("file");
    write_file(&file, 1000, 1);
    let file = file.to_str().unwrap();
    b.ok(&["send-file", &to_a, file]);
    assert_eq!(b.error(&["send-file", &to_a, file, "--name", "b"]), (1, "full".to_owned()));
    let kept = b.data(&["send-file", &to_a, file, "--name", "b", "--queue"]);
    let kept = kept["id"].as_str().unwrap();
    wait_for("it is refused for now", || full(&b.data(&["status", kept])));
    assert_eq!(a.inbox(), ["0", "1", "2"]);

    // Acknowledged, messages make room.
    a.ok(&["inbox", "--ack"]);
    std::fs::remove_file(a.path.join("received/file")).unwrap();
    for id in [fourth["id"].as_str().unwrap(), fifth["id"].as_str().unwrap(), kept] {
        assert_eq!(b.data(&["status", id, "--wait", "80s"])["state"], "delivered");
    }
    assert_eq!(a.inbox(), ["3", "4"]);
    assert!(a.path.join("received/b").exists());
}

/// While the receiver's process stands still all of them are on their way.
#[test]
fn no_message_waits_for_the_receipt_of_the_one_before() {
    let Pair { server: _server, a, b, a_process, to_a, .. } = pair();
    let pid = Pid::from_raw(a_process["pid"].as_i64().unwrap() as i32).unwrap();
    let mut api = Api::open(&b).unwrap();
    let mut sent = 0;
    let mut post = |api: &mut Api, wait_ms: u64| {
        let body = json!({ "to": to_a, "text": sent.to_string(), "wait_ms": wait_ms }).to_string();
        sent += 1;
        api.ask("POST", "messages", &body).unwrap().1["data"].clone()
    };
    let mut under_way = 0;
    // A stream that nothing was sent over for a second is closed: on a slow machine again.
    for _ in 0..20 {
        assert_eq!(post(&mut api, 60_000)["state"], "delivered");
        kill_process(pid, Signal::STOP).unwrap();
        (0..50).for_each(|_| assert!(waits(&post(&mut api, 0))));
        for _ in 0..20 {
            let listed = api.ask("GET", "outbox", "").unwrap().1;
            let messages = listed["data"]["messages"].as_array().unwrap().iter();
            under_way = messages.filter(|message| message["state"] == "sending").count();
            if under_way == 50 {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        kill_process(pid, Signal::CONT).unwrap();
        wait_for("all have their receipts", || b.data(&["outbox"])["waiting"] == 0);
        if under_way == 50 {
            break;
        }
    }
    assert_eq!(under_way, 50);
    assert_eq!(a.inbox(), (0..sent).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn many_messages_arrive_once_and_in_order() {
    let Pair { server: _server, a, b, to_a, .. } = pair();
    let count = std::env::var("PILOT_TEST_MESSAGES").map_or(1000, |n| n.parse::<u64>().unwrap());
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut api = Api::open(&b).unwrap();
            for n in 0..count {
                let body = json!({ "to": to_a, "text": n.to_string(), "wait_ms": 0 }).to_string();
                loop {
                    let (status, answer) = api.ask("POST", "messages", &body).unwrap();
                    match status {
                        200 => break,
                        // The outbox has its bounds.
                        507 => std::thread::sleep(Duration::from_millis(50)),
                        _ => panic!("{answer}"),
                    }
                }
            }
        });
        let mut api = Api::open(&a).unwrap();
        let mut next = 0;
        while next < count {
            let (_, page) = api.ask("GET", "inbox?wait_ms=90000", "").unwrap();
            let messages = page["data"]["messages"].as_array().unwrap();
            assert!(!messages.is_empty(), "none since {next}");
            for message in messages {
                assert_eq!(message["text"], next.to_string(), "once and in order");
                let path = format!("inbox/{}", message["seq"]);
                assert_eq!(api.ask("DELETE", &path, "").unwrap().0, 200);
                next += 1;
            }
        }
    });
    wait_for("all have their receipts", || b.data(&["outbox"])["waiting"] == 0);
    assert!(a.inbox().is_empty());
    let seconds = start.elapsed().as_secs_f64();
    println!("{count} messages in {seconds:.1} s, {:.0} a second", count as f64 / seconds);
}
