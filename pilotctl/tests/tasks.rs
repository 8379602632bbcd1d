//! Tasks between real daemons: the whole story, who may do what, and workers that are away or
//! badly made.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use serde_json::Value;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};
use support::pair::{Pair, pair, pair_for};
use support::{Home, start, wait_at_most, wait_for};

fn show(home: &Home, id: &str) -> Value {
    home.data(&["task", "show", id])
}

fn state(home: &Home, id: &str) -> String {
    show(home, id)["state"].as_str().unwrap().to_owned()
}

/// Waits until a side sees a task in a state.
#[track_caller]
fn becomes(home: &Home, id: &str, wanted: &str) -> Value {
    // A carrier that has failed for long pauses for up to a minute.
    wait_at_most(Duration::from_secs(90), &format!("{id} becomes {wanted}"), || {
        let run = home.run(&["task", "show", id, "--json"]);
        let answer: Value = serde_json::from_str(&run.out).unwrap_or_default();
        answer["data"]["state"] == wanted
    });
    show(home, id)
}

fn submit(pair: &Pair, description: &str) -> String {
    pair.b.ok(&["task", "submit", &pair.to_a, "--description", description])
}

fn conflict() -> (i32, String) {
    (8, "conflict".to_owned())
}

#[test]
fn a_task_is_handed_over_worked_on_and_finished_with_a_receipt() {
    let pair = pair();
    let (s, w) = (&pair.b, &pair.a);
    let (data, plot) = (s.beside("dataset.csv"), w.beside("plot.png"));
    std::fs::write(&data, "1,2,3\n").unwrap();
    std::fs::write(&plot, [0xFF, 0, 7]).unwrap();
    let description = "Summarize this \u{202e}now";
    let id = s.ok(&[
        "task",
        "submit",
        &pair.to_a,
        "--description",
        description,
        "--file",
        data.to_str().unwrap(),
        "--wait",
        "30s",
    ]);
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    let there = becomes(w, &id, "new");
    assert_eq!((&there["role"], &there["peer"]), (&"worker".into(), &pair.to_b.as_str().into()));
    assert_eq!(there["description"], "Summarize this now", "cleaned");
    wait_for("its file comes", || show(w, &id)["files"][0]["path"].is_string());
    let path = show(w, &id)["files"][0]["path"].as_str().unwrap().to_owned();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "1,2,3\n");
    assert!(w.ok(&["task", "list"]).contains(&id));
    w.ok(&["task", "accept", &id]);
    assert!(w.ok(&["task", "queue"]).contains(&id));
    becomes(s, &id, "accepted");
    w.ok(&["task", "execute", &id]);
    w.ok(&["task", "progress", &id, "half of it"]);
    wait_for("progress is told", || show(s, &id)["progress"] == "half of it");
    std::thread::sleep(Duration::from_millis(50));
    w.ok(&["task", "complete", &id, "--result", "three numbers", "--file", plot.to_str().unwrap()]);
    let over = s.data(&["task", "wait", &id, "--timeout", "30s"]);
    assert_eq!((&over["state"], &over["result"]), (&"succeeded".into(), &"three numbers".into()));
    wait_for("the result's file comes", || show(s, &id)["result_files"][0]["path"].is_string());
    let path = show(s, &id)["result_files"][0]["path"].as_str().unwrap().to_owned();
    assert_eq!(std::fs::read(path).unwrap(), [0xFF, 0, 7]);
    for home in [s, w] {
        wait_for("there is a receipt", || show(home, &id)["receipt"]["reward"].is_u64());
        assert!(home.ok(&["task", "show", &id]).contains("receipt of both sides"));
    }
    wait_for("it is counted", || show(w, &id)["receipt"]["counted"] == true);
    assert!(s.ok(&["task", "wait", &id]).contains("\"three numbers\""));
    let open = s.data(&["task", "list", "--open"]);
    assert!(open["tasks"].as_array().unwrap().is_empty(), "{open}");

    // It is all there after a restart of both.
    for home in [s, w] {
        home.kill("daemon");
        home.ok(&["daemon", "start"]);
        let again = show(home, &id);
        assert_eq!(again["state"], "succeeded");
        assert_eq!(again["result"], "three numbers");
        assert!(again["receipt"].is_object());
    }
}

#[test]
fn nobody_makes_a_step_that_is_not_his_or_not_now() {
    let pair = pair();
    let (s, w) = (&pair.b, &pair.a);
    let id = submit(&pair, "one");
    becomes(w, &id, "new");
    for step in ["accept", "start", "complete", "fail", "decline"] {
        assert_eq!(s.error(&["task", step, &id]), conflict(), "{step} by the submitter");
    }
    for step in ["start", "complete", "cancel"] {
        assert_eq!(w.error(&["task", step, &id]), conflict(), "{step} too early");
    }
    w.ok(&["task", "accept", &id]);
    assert_eq!(w.error(&["task", "accept", &id]), conflict());
    assert_eq!(w.error(&["task", "progress", &id, "x"]), conflict());
    w.ok(&["task", "start", &id]);
    w.ok(&["task", "complete", &id, "--result", "1"]);
    assert_eq!(w.error(&["task", "complete", &id, "--result", "2"]), conflict(), "once");
    assert_eq!(w.error(&["task", "fail", &id]), conflict());
    assert_eq!(becomes(s, &id, "succeeded")["result"], "1");
    assert_eq!(s.error(&["task", "cancel", &id]), conflict());

    // Ids and names that would be paths.
    for bad in ["../../etc/passwd", "..", "%2e%2e", "0", "x/accept"] {
        assert_eq!(w.error(&["task", "show", bad]).0, 2, "{bad}");
        assert_eq!(w.error(&["task", "accept", bad]).0, 2, "{bad}");
    }
    let unknown = "00000000000000000000000000000001";
    assert_eq!(w.error(&["task", "show", unknown]), (3, "not_found".to_owned()));
    assert_eq!(w.error(&["task", "cancel", unknown]), (3, "not_found".to_owned()));
    let hidden = s.beside(".bashrc");
    std::fs::write(&hidden, "rm -rf /").unwrap();
    let file = hidden.to_str().unwrap();
    let refused = s.error(&["task", "submit", &pair.to_a, "--description", "x", "--file", file]);
    assert_eq!(refused, (2, "usage".to_owned()));
    let long = "x".repeat(513);
    let second = submit(&pair, "two");
    becomes(w, &second, "new");
    assert_eq!(w.error(&["task", "decline", &second, "--reason", &long]).1, "too_large");
    assert_eq!(s.error(&["task", "submit", &pair.to_a, "--description", ""]).1, "usage");

    // The other ways in which a task ends.
    w.ok(&["task", "decline", &second, "--reason", "no GPU \u{1b}[2Jhere"]);
    let declined = becomes(s, &second, "declined");
    assert_eq!(declined["reason"]["message"], "no GPU [2Jhere");
    assert_eq!(s.error(&["task", "wait", &second]), (1, "rejected".to_owned()));
    let third = submit(&pair, "three");
    becomes(w, &third, "new");
    w.ok(&["task", "accept", &third]);
    w.ok(&["task", "start", &third]);
    w.ok(&["task", "fail", &third, "--reason", "damaged"]);
    let failed = becomes(s, &third, "failed");
    assert_eq!(
        (&failed["reason"]["message"], &failed["result"]),
        (&"damaged".into(), &Value::Null)
    );
    let fourth = submit(&pair, "four");
    becomes(w, &fourth, "new");
    w.ok(&["task", "accept", &fourth]);
    becomes(s, &fourth, "accepted");
    assert_eq!(
        s.error(&["task", "wait", &fourth, "--timeout", "200ms"]),
        (6, "timeout".to_owned())
    );
    s.ok(&["task", "cancel", &fourth]);
    becomes(s, &fourth, "cancelled");
    becomes(w, &fourth, "cancelled");
    assert_eq!(w.error(&["task", "start", &fourth]), conflict());
}

#[test]
fn a_task_waits_for_a_worker_that_is_away_and_what_is_told_for_a_submitter() {
    let pair = pair();
    let (s, w) = (&pair.b, &pair.a);
    w.kill("daemon");
    let file = s.beside("a.txt");
    std::fs::write(&file, "for later").unwrap();
    let file = file.to_str().unwrap();
    let id = s.ok(&["task", "submit", &pair.to_a, "--description", "later", "--file", file]);
    assert_eq!(show(s, &id)["delivered"], false);
    assert!(s.ok(&["task", "list"]).contains("not delivered yet"));
    let never = submit(&pair, "never");
    s.kill("daemon");
    s.ok(&["daemon", "start"]);
    assert_eq!(state(s, &id), "new");
    s.ok(&["task", "cancel", &never]);
    w.data(&start(&pair.registry, &pair.beacon));
    becomes(w, &id, "new");
    w.ok(&["task", "accept", &id]);
    becomes(s, &never, "cancelled");
    wait_for("its file comes", || show(w, &id)["files"][0]["path"].is_string());

    // Now the submitter is away while the work is done, and the worker's daemon dies.
    s.kill("daemon");
    w.ok(&["task", "start", &id]);
    w.ok(&["task", "complete", &id, "--result", "at last"]);
    w.kill("daemon");
    w.ok(&["daemon", "start"]);
    s.ok(&["daemon", "start"]);
    let over = s.data(&["task", "wait", &id, "--timeout", "80s"]);
    assert_eq!(over["result"], "at last");
    wait_for("it is counted", || show(w, &id)["receipt"]["counted"] == true);
}

#[test]
fn a_task_that_was_taken_is_answered_by_a_daemon_that_stops() {
    let pair = pair();
    let (s, w) = (&pair.b, &pair.a);
    w.kill("daemon");
    let file = s.beside("a.txt");
    std::fs::write(&file, "for later").unwrap();
    let words = ["task", "submit", &pair.to_a, "--description", "later", "--wait", "60s"];
    let id = std::thread::scope(|scope| {
        let submitting =
            scope.spawn(|| s.ok(&[&words[..], &["--file", file.to_str().unwrap()]].concat()));
        wait_for("it is there", || s.ok(&["task", "list"]).contains("not delivered yet"));
        s.ok(&["daemon", "stop"]);
        submitting.join().unwrap()
    });
    s.ok(&["daemon", "start"]);
    assert_eq!(state(s, &id), "new");
    assert_eq!(s.data(&["outbox"])["waiting"], 1, "its file");
}

#[test]
fn what_nobody_answers_lapses_after_a_minute_on_both_sides() {
    let pair = pair();
    let id = submit(&pair, "anybody?");
    becomes(&pair.a, &id, "new");
    let begin = Instant::now();
    let lapsed = becomes(&pair.b, &id, "cancelled");
    println!("lapsed after {:?}", begin.elapsed());
    assert!(begin.elapsed() > Duration::from_secs(50), "{:?}", begin.elapsed());
    assert_eq!(lapsed["reason"]["code"], "no_answer");
    assert_eq!(state(&pair.a, &id), "cancelled");
    assert_eq!(pair.a.error(&["task", "accept", &id]), conflict());
}

#[test]
fn only_who_has_the_right_and_the_reputation_may_submit() {
    let pair = pair_for("message,file");
    let (s, w) = (&pair.b, &pair.a);
    let id = submit(&pair, "please");
    let refused = becomes(s, &id, "refused");
    assert_eq!(refused["reason"]["code"], "not_permitted");
    assert!(w.data(&["task", "list"])["tasks"].as_array().unwrap().is_empty());
    w.ok(&["trust", "allow", &pair.to_b, "all"]);
    let id = submit(&pair, "please");
    becomes(w, &id, "new");

    // Nobody has a reputation of 1000 here; a newcomer's is 0.
    w.ok(&["daemon", "stop"]);
    w.ok(&["daemon", "start", "--min-reputation", "1000"]);
    let id = submit(&pair, "please");
    let refused = becomes(s, &id, "refused");
    assert!(refused["reason"]["message"].as_str().unwrap().contains("reputation"), "{refused}");
    w.ok(&["daemon", "stop"]);
    w.ok(&["daemon", "start", "--min-reputation", "0"]);
    let id = submit(&pair, "please");
    becomes(w, &id, "new");

    // Where trust has ended there is nobody to submit to, and what is open is told nobody.
    s.ok(&["trust", "revoke", &pair.to_a]);
    let submitted = s.error(&["task", "submit", &pair.to_a, "--description", "x"]);
    assert_eq!(submitted, (4, "not_trusted".to_owned()));
    becomes(s, &id, "refused");
}

#[test]
fn changes_are_told_as_they_happen() {
    let pair = pair();
    let (s, w) = (&pair.b, &pair.a);
    let mut command = w.command(&["task", "list", "--follow", "--json"]);
    let mut following = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(following.stdout.take().unwrap()));
    // Until it follows, nothing would be told.
    std::thread::sleep(Duration::from_secs(1));
    let id = submit(&pair, "watch me");
    becomes(w, &id, "new");
    w.ok(&["task", "accept", &id]);
    w.ok(&["task", "start", &id]);
    w.ok(&["task", "complete", &id]);
    let mut states = Vec::new();
    for line in lines {
        let told: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(told["data"]["id"], id.as_str());
        let state = told["data"]["state"].as_str().unwrap().to_owned();
        if states.last() != Some(&state) {
            states.push(state.clone());
        }
        if state == "succeeded" {
            break;
        }
    }
    following.kill().unwrap();
    following.wait().unwrap();
    assert_eq!(states.last().unwrap(), "succeeded");
    assert!(states.contains(&"new".to_owned()), "{states:?}");
    assert_eq!(becomes(s, &id, "succeeded")["result"], "");
}

/// A daemon that answers two requests shows in which order they come.
#[test]
fn a_list_that_is_followed_is_asked_for_once_changes_are_told() {
    let home = Home::new();
    std::fs::DirBuilder::new().mode(0o700).create(&home.path).unwrap();
    let daemon = UnixListener::bind(home.path.join("pilot.sock")).unwrap();
    let mut command = home.command(&["task", "list", "--follow", "--json"]);
    let following = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let asked = || {
        let (mut stream, _) = daemon.accept().unwrap();
        let mut request = vec![0; 4096];
        let n = std::io::Read::read(&mut stream, &mut request).unwrap();
        (stream, String::from_utf8_lossy(&request[..n]).into_owned())
    };
    let (mut events, request) = asked();
    assert!(request.starts_with("GET /v1/tasks/events"), "{request}");
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    events.write_all(head.as_bytes()).unwrap();
    let (mut list, request) = asked();
    assert!(request.starts_with("GET /v1/tasks HTTP"), "{request}");
    let body = r#"{"status":"ok","data":{"tasks":[],"more":false,"revision":1}}"#;
    let length = body.len();
    write!(list, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
    let end = r#"{"status":"error","code":"not_running","message":"over"}"#;
    write!(events, "event: end\ndata: {end}\n\n").unwrap();
    let output = following.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
}

/// Asks the local API on a connection that stays.
struct Api(UnixStream);

impl Api {
    fn new(home: &Home) -> Api {
        Api(UnixStream::connect(home.path.join("pilot.sock")).unwrap())
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> Value {
        let request = format!(
            "{method} /v1/{path} HTTP/1.1\r\nhost: pilot\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.write_all(request.as_bytes()).unwrap();
        let (mut held, mut buf) = (Vec::new(), [0; 65536]);
        loop {
            let n = std::io::Read::read(&mut self.0, &mut buf).unwrap();
            assert!(n > 0, "{}", String::from_utf8_lossy(&held));
            held.extend_from_slice(&buf[..n]);
            let Some(at) = held.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&held[..at]).to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
            if held.len() >= at + 4 + length {
                return serde_json::from_slice(&held[at + 4..]).unwrap();
            }
        }
    }
}

/// Many tasks at a time from submission to receipt, each step synced by both daemons before it
/// is answered. `PILOT_TEST_TASKS` sets how many.
#[test]
fn many_tasks_at_a_time_from_end_to_end() {
    let count: usize = std::env::var("PILOT_TEST_TASKS").map_or(64, |n| n.parse().unwrap());
    let pair = pair();
    let (s, w) = (&pair.b, &pair.a);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let lanes = 16.min(count);
        for lane in 0..lanes {
            let to = &pair.to_a;
            scope.spawn(move || {
                let (mut api, mut work) = (Api::new(s), Api::new(w));
                for n in (lane..count).step_by(lanes) {
                    let body = format!(r#"{{"to":"{to}","description":"{n}","wait_ms":60000}}"#);
                    let task = api.ask("POST", "tasks", &body);
                    let id = task["data"]["id"].as_str().unwrap_or_else(|| panic!("{task}"));
                    for (step, body) in
                        [("accept", ""), ("start", ""), ("complete", r#"{"text":"ok"}"#)]
                    {
                        let made = work.ask("POST", &format!("tasks/{id}/{step}"), body);
                        assert_eq!(made["status"], "ok", "{made}");
                    }
                    let over = api.ask("GET", &format!("tasks/{id}?wait_ms=60000"), "");
                    assert_eq!(over["data"]["state"], "succeeded", "{over}");
                }
            });
        }
    });
    let took = begin.elapsed().as_secs_f64();
    println!("{count} tasks in {took:.2} s: {:.0} a second", count as f64 / took);
    wait_for("all have a receipt", || {
        let listed = w.data(&["task", "list"]);
        let tasks = listed["tasks"].as_array().unwrap();
        tasks.len() == count.min(1000) && tasks.iter().all(|task| task["receipt"].is_object())
    });
}
