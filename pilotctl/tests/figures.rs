//! How fast the daemon is, beside itself: acknowledged messages through the local API, and a file
//! beside the raw stream and beside scp through an OpenSSH server on loopback, where there is one.
//! Only ratios of one run mean anything. What is asserted is that all of it arrives.
//!
//! ```text
//! PILOT_FIGURES=full cargo test --release -p pilotctl --test figures -- --nocapture
//! ```

#![allow(clippy::disallowed_methods, reason = "it measures real processes")]

mod support;

use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::http::Answer;
use support::sshd::Sshd;
use support::{Home, Story, mutual, request_of, write_file};

/// Clients that send at the same time, each one message after another.
const CLIENTS: usize = 128;
/// Whatever is measured takes less, or hangs.
const PATIENCE: Duration = Duration::from_secs(240);

/// Messages, and bytes of the file: some in every run, the stated ones if asked for.
fn sizes() -> (usize, usize) {
    match std::env::var("PILOT_FIGURES").as_deref() {
        Ok("full") => (3_000, 1_000_000_000),
        _ => (300, 20_000_000),
    }
}

fn friends() -> (Home, [Home; 2], String) {
    let (server, registry, beacon) = Home::rendezvous();
    let (a, _) = Home::agent(&registry, &beacon);
    let (b, _) = Home::agent(&registry, &beacon);
    let address = |home: &Home| home.data(&["info"])["address"].as_str().unwrap().to_owned();
    let (at, to) = (address(&a), address(&b));
    a.ok(&["trust", "request", &to]);
    request_of(&b, &at);
    b.ok(&["trust", "approve", &at]);
    assert_eq!(mutual(&a), to);
    a.ok(&["echo", &to, "-c", "3"]);
    (server, [a, b], to)
}

fn client(home: &Home, to: &str, left: &AtomicUsize) {
    let mut stream = BufReader::new(UnixStream::connect(home.path.join("pilot.sock")).unwrap());
    stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    let text = "x".repeat(1024);
    let take = |left: usize| left.checked_sub(1);
    while left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
        let body = json!({"to": to, "text": text, "wait_ms": 200_000}).to_string();
        let head = format!(
            "POST /v1/messages HTTP/1.1\r\nHost: pilot\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.get_mut().write_all((head + &body).as_bytes()).unwrap();
        let answer: Value = serde_json::from_slice(&Answer::read(&mut stream).body).unwrap();
        assert_eq!(answer["data"]["state"], "delivered", "{answer}");
    }
}

#[test]
fn acknowledged_messages_through_the_local_api() {
    let mut story = Story::begin("figures: messages", Duration::from_secs(500));
    let (count, _) = sizes();
    let (_server, [a, b], to) = friends();
    story.done("scene");
    let (left, start) = (AtomicUsize::new(count), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| client(&a, &to, &left));
        }
    });
    let took = start.elapsed().as_secs_f64();
    println!("figures: {count} messages, {:.0} a second through the API", count as f64 / took);
    assert_eq!(b.inbox().len(), count, "each is there, once");
    story.done("sent");
}

/// The time that a command takes to end well.
fn time(mut command: Command) -> Duration {
    let start = Instant::now();
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    start.elapsed()
}

/// From the first byte to the last one's acknowledgement: `connect` ends with it.
fn raw_stream([a, b]: &[Home; 2], to: &str, path: &Path) -> Duration {
    let mut listen = b.command(&["listen", "2000"]);
    let mut listen = listen.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut notes = BufReader::new(listen.stderr.take().unwrap());
    let mut line = String::new();
    notes.read_line(&mut line).unwrap();
    assert_eq!(line, "listening on port 2000\n");
    let mut connect = a.command(&["connect", to, "2000"]);
    connect.stdin(File::open(path).unwrap());
    let took = time(connect);
    assert!(listen.wait().unwrap().success());
    took
}

/// Through an sshd on loopback; `None` where there is none.
fn scp(path: &Path, home: &Home) -> Option<Duration> {
    let sshd = Sshd::start(home)?;
    let there = home.beside("by-scp");
    let mut command = sshd.client("scp", sshd.at);
    command.arg(path).arg(format!("{}:{}", sshd.us(), there.display()));
    let took = time(command);
    assert_eq!(there.metadata().unwrap().len(), path.metadata().unwrap().len(), "{}", sshd.log());
    std::fs::remove_file(there).unwrap();
    Some(took)
}

#[test]
fn a_file_beside_the_raw_stream() {
    let mut story = Story::begin("figures: file", Duration::from_secs(900));
    let (_, bytes) = sizes();
    let (_server, homes, to) = friends();
    let path = homes[0].beside("figures.bin");
    write_file(&path, bytes, 7);
    story.done("scene");
    let mb = |took: Duration| bytes as f64 / 1e6 / took.as_secs_f64();
    let raw = raw_stream(&homes, &to, &path);
    let file = time(homes[0].command(&["send-file", &to, path.to_str().unwrap()]));
    println!("figures: {bytes} bytes, raw stream {:.0} MB/s", mb(raw));
    let ratio = mb(file) / mb(raw);
    println!("figures: send-file {:.0} MB/s, {ratio:.2} of the raw stream", mb(file));
    match scp(&path, &homes[0]) {
        Some(scp) => {
            let (raw, file) = (mb(raw) / mb(scp), mb(file) / mb(scp));
            println!("figures: scp {:.0} MB/s, {raw:.2} raw stream, {file:.2} send-file", mb(scp));
        }
        None => println!("figures: scp SKIPPED"),
    }
    let received = homes[1].received();
    assert_eq!(received[0]["bytes"], bytes);
    story.done("sent");
}
