//! The local API under clients that wait, ask for much, go away or are not its owner's: each is
//! alone with what it does.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::pair::{Api, Pair, pair};
use support::{Home, wait_for};

/// Whatever is not held up is answered in this time.
const SOON: Duration = Duration::from_secs(10);

/// Asks a route that waits; what it is told, and when.
fn waiting(home: &Home, path: &str) -> mpsc::Receiver<(u16, Value)> {
    let (mut api, path) = (Api::open(home).unwrap(), path.to_owned());
    let (told, answer) = mpsc::channel();
    std::thread::spawn(move || told.send(api.ask("GET", &path, "").unwrap()));
    answer
}

#[test]
fn a_request_that_waits_holds_up_no_other_and_each_gets_its_own_answer() {
    let Pair { server: _server, a, b, to_a, .. } = pair();
    let waits: Vec<_> = (0..50).map(|_| waiting(&a, "inbox?wait_ms=60000")).collect();
    let start = Instant::now();
    let mut api = Api::open(&a).unwrap();
    for n in 0..200u16 {
        let (status, answer) = match n % 2 {
            0 => api.ask("GET", "info", "").unwrap(),
            _ => api.ask("GET", "no/such/route", "").unwrap(),
        };
        // Errors come to who made them, in the order of the questions.
        assert_eq!(
            (status, &answer["status"]),
            [(200, &"ok".into()), (400, &"error".into())][usize::from(n % 2)]
        );
    }
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert!(waits.iter().all(|wait| wait.try_recv().is_err()), "they wait still");
    b.ok(&["send-message", &to_a, "for all that wait", "--wait"]);
    for wait in waits {
        let (status, page) = wait.recv_timeout(SOON).unwrap();
        let text = &page["data"]["messages"][0]["text"];
        assert_eq!((status, text), (200, &"for all that wait".into()));
    }
}

/// Opens a raw stream over a connection of its own.
fn stream(home: &Home, path: &str) -> UnixStream {
    let mut api = UnixStream::connect(home.path.join("pilot.sock")).unwrap();
    api.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let upgrade = "Host: pilot\r\nConnection: upgrade\r\nUpgrade: pilot-stream\r\n\r\n";
    api.write_all(format!("POST /v1/{path} HTTP/1.1\r\n{upgrade}").as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        api.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    api
}

#[test]
fn a_stream_that_is_not_read_stops_itself_alone_and_large_writes_pass() {
    let Pair { server: _server, a, b, to_a, .. } = pair();
    let open = |port: u16| {
        let listening = stream(&a, &format!("listen?port={port}"));
        let connected = stream(&b, &format!("connect?to={to_a}&port={port}"));
        (listening, connected)
    };
    // Its reader reads nothing: the writer is stopped, by this stream's window and no more.
    let (_unread, mut stuck) = open(7001);
    stuck.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let chunk = vec![7; 1 << 20];
    let written = (0..64).take_while(|_| stuck.write_all(&chunk).is_ok()).count();
    assert!(written < 64, "it takes {written} MiB that nobody reads");
    // Beside it: three MiB in one write, both ways of ending, and all bytes before the end.
    for port in [7002, 7003] {
        let (mut listening, mut connected) = open(port);
        let bytes = vec![port as u8; 3 << 20];
        let sent = bytes.clone();
        let writing = std::thread::spawn(move || {
            connected.write_all(&sent).unwrap();
            connected.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            connected.read_to_end(&mut rest).unwrap();
            rest
        });
        let mut got = Vec::new();
        listening.read_to_end(&mut got).unwrap();
        let line = got.iter().position(|&b| b == b'\n').unwrap();
        assert!(got[line + 1..] == bytes, "all of it, and then the end");
        listening.write_all(b"back").unwrap();
        listening.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(writing.join().unwrap(), b"back");
    }
    b.ok(&["send-message", &to_a, "beside it", "--wait"]);
}

#[test]
fn a_body_that_is_too_long_is_refused_and_nobody_else_notices() {
    let Pair { server: _server, a: _a, b, to_a, .. } = pair();
    let mut other = Api::open(&b).unwrap();
    assert_eq!(other.ask("GET", "info", "").unwrap().0, 200);
    let before =
        support::hostile::Memory::of(b.data(&["daemon", "status"])["pid"].as_u64().unwrap());
    for _ in 0..4 {
        let mut api = UnixStream::connect(b.path.join("pilot.sock")).unwrap();
        let head =
            "POST /v1/messages HTTP/1.1\r\nHost: pilot\r\nContent-Length: 4000000000\r\n\r\n";
        api.write_all(head.as_bytes()).unwrap();
        let chunk = vec![b'x'; 1 << 20];
        // It does not read all that is announced.
        let written = (0..256).take_while(|_| api.write_all(&chunk).is_ok()).count();
        assert!(written < 64, "it takes {written} MiB");
        let mut answer = String::new();
        let _ = api.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
    let after =
        support::hostile::Memory::of(b.data(&["daemon", "status"])["pid"].as_u64().unwrap());
    assert!(after.most < before.most + (64 << 10), "{before:?} {after:?}");
    // The connection that was open all the time is as it was.
    assert_eq!(other.ask("GET", "info", "").unwrap().0, 200);
    b.ok(&["send-message", &to_a, "as before", "--wait"]);
}

#[test]
fn a_listener_that_goes_away_frees_its_port_and_a_limit_covers_the_whole_request() {
    let Pair { server: _server, a, b, to_a, .. } = pair();
    drop(stream(&a, "listen?port=7001"));
    wait_for("the port is free again", || {
        let mut api = UnixStream::connect(a.path.join("pilot.sock")).unwrap();
        let upgrade = "Host: pilot\r\nConnection: upgrade\r\nUpgrade: pilot-stream\r\n\r\n";
        let request = format!("POST /v1/listen?port=7001 HTTP/1.1\r\n{upgrade}");
        api.write_all(request.as_bytes()).unwrap();
        let mut head = [0; 12];
        api.read_exact(&mut head).unwrap();
        &head == b"HTTP/1.1 101"
    });
    // Its agent is away: also what comes before the first byte is within the limit.
    a.kill("daemon");
    for line in [
        &["echo", &to_a, "--timeout", "500ms"][..],
        &["connect", &to_a, "7001", "--timeout", "500ms"],
        &["send-message", &to_a, "hi", "--timeout", "500ms"],
        &["send-file", &to_a, env!("CARGO_MANIFEST_PATH"), "--timeout", "500ms"],
    ] {
        let start = Instant::now();
        assert_eq!(b.run(line).code, 6, "{line:?}");
        assert!(start.elapsed() < SOON, "{line:?}: {:?}", start.elapsed());
    }
}
