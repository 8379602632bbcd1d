//! `task serve`: programs that do what they should, and programs that do not; and processes
//! killed at any moment while they work. `PILOT_TEST_KILLS` sets how often.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use support::pair::{Api, Pair, pair};
use support::{Home, mutual, request_of, start, wait_at_most, wait_for};

/// Whoever is killed all the time uses up what one source may ask of others, and waits.
const PATIENCE: Duration = Duration::from_secs(240);

/// A worker program of this text, in the worker's own place.
fn program(home: &Home, name: &str, text: &str) -> PathBuf {
    let path = home.beside(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A serving process, ended when the test does.
struct Serving(Child);

impl Serving {
    fn start(home: &Home, exec: &Path, more: &[&str]) -> Serving {
        let exec = exec.to_str().unwrap();
        let mut command = home.command(&[&["task", "serve", "--exec", exec], more].concat());
        Serving(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn signal(&mut self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn submit(pair: &Pair, description: &str) -> String {
    pair.b.ok(&["task", "submit", &pair.to_a, "--description", description])
}

/// Waits for the end of a task, as its submitter sees it.
#[track_caller]
fn ended(pair: &Pair, id: &str) -> Value {
    wait_at_most(Duration::from_secs(80), "it ends", || {
        pair.b.data(&["task", "show", id])["settled"] == true
    });
    pair.b.data(&["task", "show", id])
}

/// Whether the worker has a task, and works on it.
fn runs(worker: &Home, id: &str) -> bool {
    let run = worker.run(&["task", "show", id, "--json"]);
    let answer: Value = serde_json::from_str(&run.out).unwrap_or_default();
    answer["data"]["state"] == "executing"
}

#[track_caller]
fn fails(pair: &Pair, id: &str, why: &str) {
    let task = ended(pair, id);
    let reason = task["reason"]["message"].as_str().unwrap_or_default();
    assert!(task["state"] == "failed" && reason.contains(why), "{task}");
}

#[test]
fn a_program_works_on_what_comes_and_nothing_runs_unasked() {
    let pair = pair();
    let (s, w) = (&pair.b, &pair.a);
    let id = submit(&pair, "wait for it");
    wait_for("it comes", || w.run(&["task", "show", &id]).code == 0);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(w.data(&["task", "show", &id])["state"], "new", "nobody has asked for work");

    let text = "cat; ls; cat *.csv; pwd >\"$0.dir\"; echo $PILOT_TASK_FROM; echo no matter >&2";
    let worker = program(w, "worker", text);
    let mut serving = Serving::start(w, &worker, &["--jobs", "2"]);
    let over = ended(&pair, &id);
    assert_eq!(over["state"], "succeeded", "{over}");
    assert!(over["result"].as_str().unwrap().starts_with("wait for it"), "{over}");
    let file = s.beside("data.csv");
    std::fs::write(&file, "1,2\n").unwrap();
    let file = file.to_str().unwrap();
    let id = s.ok(&["task", "submit", &pair.to_a, "--description", "$(touch x)", "--file", file]);
    let from = s.data(&["info"])["backbone"].as_str().unwrap().to_owned();
    let over = ended(&pair, &id);
    assert_eq!(over["result"], format!("$(touch x)data.csv\n1,2\n{from}\n"));
    let dir = std::fs::read_to_string(w.beside("worker.dir")).unwrap();
    assert!(dir.trim_end().ends_with(&id), "a folder of its own: {dir}");
    wait_for("the folder goes", || !Path::new(dir.trim_end()).exists());

    let second = w.error(&["task", "serve", "--exec", worker.to_str().unwrap()]);
    assert_eq!(second, (8, "already_running".to_owned()));
    assert_eq!(w.error(&["task", "serve", "--exec", "./no-such-program"]).0, 2);
    serving.signal(Signal::TERM);
    // Told to end while a program runs, it says so.
    let slow = program(w, "slow", "sleep 300");
    let mut serving = Serving::start(w, &slow, &[]);
    let id = submit(&pair, "long");
    wait_for("it runs", || runs(w, &id));
    serving.signal(Signal::TERM);
    fails(&pair, &id, "stopped");
}

/// Killed without a chance to end, it leaves nothing running, and its task is not begun again.
#[test]
fn a_killed_server_leaves_no_program_running() {
    let pair = pair();
    let w = &pair.a;
    let pid = w.beside("pid");
    let text = format!("sleep 300 &\necho $! >'{}'\nsleep 300", pid.display());
    let worker = program(w, "worker", &text);
    let mut serving = Serving::start(w, &worker, &[]);
    let id = submit(&pair, "long");
    let mut child = None;
    wait_for("it runs", || {
        child = std::fs::read_to_string(&pid).ok().and_then(|pid| pid.trim().parse::<i32>().ok());
        child.is_some()
    });
    let child = Pid::from_raw(child.unwrap()).unwrap();
    let lives = || {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        // Whoever inherits it may take a while to bury it.
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    assert!(lives());
    serving.signal(Signal::KILL);
    wait_for("what it had started is killed", || !lives());
    let folder = w.path.join("serving").join(&id);
    assert!(folder.exists(), "nobody was left to remove it");
    let _serving = Serving::start(w, &worker, &[]);
    fails(&pair, &id, "interrupted");
    assert!(!folder.exists());
}

#[test]
fn programs_that_hang_flood_or_fail_cost_their_task_alone() {
    let pair = pair();
    let w = &pair.a;
    let mark = w.beside("left-running");
    let text = format!(
        "read what\ncase $what in\n\
         hang) sleep 300;;\n\
         deaf) trap '' TERM INT HUP; sleep 300 & wait;;\n\
         flood) yes;;\n\
         shout) yes >&2 & sleep 0.3; kill $!; exit 4;;\n\
         exit) echo 'this is why' >&2; exit 3;;\n\
         crash) kill -SEGV $$;;\n\
         leave) (sleep 2; touch '{}') & echo left;;\n\
         bytes) printf '\\377\\376';;\n\
         close) exec >&- 2>&-; sleep 300;;\n\
         *) echo \"did $what\";;\nesac",
        mark.display()
    );
    let worker = program(w, "worker", &text);
    let _serving = Serving::start(w, &worker, &["--jobs", "12", "--limit", "1500ms"]);
    let task = |what: &str| submit(&pair, &format!("{what}\n"));
    let all: BTreeMap<&str, String> =
        ["hang", "deaf", "flood", "shout", "exit", "crash", "leave", "bytes", "close", "good"]
            .into_iter()
            .map(|what| (what, task(what)))
            .collect();
    assert_eq!(ended(&pair, &all["good"])["result"], "did good\n");
    assert_eq!(ended(&pair, &all["leave"])["result"], "left\n");
    for (what, why) in [
        ("hang", "took longer"),
        ("deaf", "took longer"),
        ("close", "took longer"),
        ("flood", "printed more"),
        ("shout", "exit status: 4"),
        ("exit", "exit status: 3: this is why"),
        ("crash", "signal: 11"),
        ("bytes", "UTF-8"),
    ] {
        fails(&pair, &all[what], why);
    }
    std::thread::sleep(Duration::from_secs(3));
    assert!(!mark.exists(), "what it left running was killed");
    assert!(std::fs::read_dir(w.path.join("serving")).unwrap().count() <= 1, "only the lock");

    // Cancelled while it runs.
    let id = submit(&pair, "hang\n");
    wait_for("it runs", || runs(w, &id));
    pair.b.ok(&["task", "cancel", &id]);
    assert_eq!(ended(&pair, &id)["state"], "cancelled");
    wait_for("its folder goes", || !w.path.join("serving").join(&id).exists());
}

/// Whoever names files that never come keeps out nobody but himself.
#[test]
fn tasks_whose_files_never_come_keep_nobody_out() {
    let pair = pair();
    let w = &pair.a;
    let (other, process) = Home::agent(&pair.registry, &pair.beacon);
    let to_other = process["address"].as_str().unwrap();
    other.ok(&["trust", "request", &pair.to_a]);
    request_of(w, to_other);
    w.ok(&["trust", "approve", to_other, "--allow", "all"]);
    mutual(&other);

    let mut api = Api::open(&pair.b).unwrap();
    let mut ask = |n: usize| {
        let file = serde_json::json!({
            "id": format!("{n:032x}"), "name": "never", "bytes": 1, "sha256": "ab".repeat(32),
        });
        let task = serde_json::json!({ "to": pair.to_a, "description": "x", "files": [file] });
        let (_, answer) = api.ask("POST", "tasks", &task.to_string()).unwrap();
        answer["data"]["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    let ids: Vec<String> = (1..=6).map(&mut ask).collect();
    wait_for("all come", || ids.iter().all(|id| w.run(&["task", "show", id]).code == 0));
    let worker = program(w, "worker", "cat");
    let _serving = Serving::start(w, &worker, &["--queue", "4"]);
    let accepted = || {
        let is_so = |id: &&String| w.data(&["task", "show", id])["state"] == "accepted";
        ids.iter().filter(is_so).count()
    };
    wait_for("one waits for its file", || accepted() > 0);
    let id = other.ok(&["task", "submit", &pair.to_a, "--description", "mine"]);
    wait_at_most(Duration::from_secs(80), "it ends", || {
        other.data(&["task", "show", &id])["settled"] == true
    });
    let over = other.data(&["task", "show", &id]);
    assert_eq!(over["result"], "mine", "{over}");
    let id = submit(&pair, "without files");
    assert_eq!(ended(&pair, &id)["result"], "without files");
    assert_eq!(accepted(), 1, "a quarter of the queue");
}

fn kills() -> usize {
    std::env::var("PILOT_TEST_KILLS").map_or(12, |n| n.parse().unwrap())
}

fn random(below: u64) -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_be_bytes(bytes) % below
}

/// Ends a daemon, as a power loss would.
fn kill(report: &Value) {
    let pid = Pid::from_raw(report["pid"].as_i64().unwrap() as i32).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// Either daemon and the serving process are killed, again and again, while tasks are submitted
/// and done. The program leaves a line for each time that it is run.
#[test]
fn killed_at_any_moment_no_task_is_done_twice_and_none_is_lost() {
    let pair = pair();
    let (s, w) = (&pair.b, &pair.a);
    let log = w.beside("log");
    let text =
        format!("read n; echo \"$n\" >>'{}'; sleep 0.$(($n % 7)); echo \"$n\"", log.display());
    let worker = program(w, "worker", &text);
    let begin = start(&pair.registry, &pair.beacon);
    let (mut s_process, mut w_process) =
        (s.data(&["daemon", "status"]), w.data(&["daemon", "status"]));
    let mut serving = Serving::start(w, &worker, &["--jobs", "3"]);
    let mut accepted: BTreeMap<String, usize> = BTreeMap::new();
    let mut tried = 0;
    let clock = Instant::now();
    for _ in 0..kills() {
        for _ in 0..3 {
            let run =
                s.run(&["task", "submit", &pair.to_a, "--description", &format!("{tried}\n")]);
            if run.code == 0 {
                accepted.insert(run.out.trim().to_owned(), tried);
            }
            tried += 1;
        }
        std::thread::sleep(Duration::from_micros(random(900_000)));
        match random(5) {
            0 | 1 => {
                kill(&w_process);
                w_process = w.data(&begin);
            }
            2 | 3 => {
                kill(&s_process);
                s_process = s.data(&begin);
            }
            _ => {
                serving.signal(Signal::KILL);
                serving = Serving::start(w, &worker, &["--jobs", "3"]);
            }
        }
    }
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for id in accepted.keys() {
        wait_at_most(PATIENCE, "every task ends", || {
            s.data(&["task", "show", id])["settled"] == true
        });
    }
    let runs = std::fs::read_to_string(&log).unwrap();
    for (id, n) in &accepted {
        let ours = s.data(&["task", "show", id]);
        let theirs = w.data(&["task", "show", id]);
        assert_eq!(ours["state"], theirs["state"], "{id}");
        let times = runs.lines().filter(|line| **line == n.to_string()).count();
        assert!(times <= 1, "{id} was done {times} times");
        let state = ours["state"].as_str().unwrap().to_owned();
        if state == "succeeded" {
            assert_eq!((times, &ours["result"]), (1, &format!("{n}\n").into()), "{id}");
        } else {
            // Interrupted by a kill, or not accepted in time while nobody served.
            assert!(["failed", "cancelled"].contains(&state.as_str()), "{ours}");
        }
        *states.entry(state).or_default() += 1;
    }
    println!("{tried} tried, {states:?}, {} kills in {:?}", kills(), clock.elapsed());
    assert!(states["succeeded"] > accepted.len() / 2, "{states:?}");
    wait_at_most(PATIENCE, "receipts are countersigned", || {
        let listed = w.data(&["task", "list"]);
        let mut tasks = listed["tasks"].as_array().unwrap().iter();
        tasks.all(|task| task["state"] != "succeeded" || task["receipt"].is_object())
    });
}
