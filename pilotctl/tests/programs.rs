//! Other programs use the network: HTTP and raw TCP through `forward`, `expose` and `proxy` of
//! real daemons, by clients that know nothing of agents.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use serde_json::Value;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{Home, Story, mutual, request_of, wait_for};

/// Whatever is read comes within this time, or never.
const READ_MAX: Duration = Duration::from_secs(40);
const STORY_MAX: Duration = Duration::from_secs(180);

/// An agent and its address on the backbone.
type Agent = (Home, String);

fn agent(registry: &str, beacon: &str) -> Agent {
    let (home, report) = Home::agent(registry, beacon);
    (home, report["address"].as_str().unwrap().to_owned())
}

fn befriend(a: &Agent, b: &Agent) {
    b.0.ok(&["trust", "request", &a.1]);
    request_of(&a.0, &b.1);
    a.0.ok(&["trust", "approve", &b.1]);
    // Each learns of the other's grant in its own time.
    assert_eq!((mutual(&a.0), mutual(&b.0)), (b.1.clone(), a.1.clone()));
}

/// A server and two agents that trust each other.
fn friends() -> (Home, Agent, Agent) {
    let (server, registry, beacon) = Home::rendezvous();
    let (a, b) = (agent(&registry, &beacon), agent(&registry, &beacon));
    befriend(&a, &b);
    (server, a, b)
}

/// A forward of `home` on a free port; where it listens.
fn forward(home: &Home, to: &str) -> SocketAddr {
    let set = home.data(&["forward", "0", to]);
    assert_eq!((&set["to"], &set["state"]), (&to.into(), &"listening".into()), "{set}");
    set["local"].as_str().unwrap().parse().unwrap()
}

fn proxy(home: &Home) -> SocketAddr {
    home.data(&["proxy", "0"])["local"].as_str().unwrap().parse().unwrap()
}

fn dial(at: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(at).unwrap();
    tcp.set_read_timeout(Some(READ_MAX)).unwrap();
    tcp
}

/// Asks a proxy for a connection; its reply code, and the connection.
fn socks(proxy: SocketAddr, address: &[u8], port: u16) -> (u8, TcpStream) {
    let mut tcp = dial(proxy);
    let request = [&[5, 1, 0, 5, 1, 0][..], address, &port.to_be_bytes()].concat();
    tcp.write_all(&request).unwrap();
    let mut reply = [0; 12];
    tcp.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..3], [5, 0, 5]);
    (reply[3], tcp)
}

/// A name as SOCKS5 writes it.
fn name(name: &str) -> Vec<u8> {
    [&[3, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat()
}

/// Serves each TCP connection by a thread.
fn tcp_service(serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let tcp = tcp.unwrap();
            std::thread::spawn(move || serve(tcp));
        }
    });
    at
}

/// A real HTTP/1.1 server with keep-alive: `/n/7` is `n=7`.
fn http_service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let answer = get(|Path(n): Path<u32>| async move { format!("n={n}\n") });
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, Router::new().route("/n/{n}", answer)).await.unwrap();
        });
    });
    at
}

fn has_curl() -> bool {
    Command::new("curl").arg("--version").output().is_ok_and(|out| out.status.success())
}

/// Fetches `/n/1` to `/n/COUNT` with one curl, checks every answer, and gives the number of
/// connections that it took.
fn curl(home: &Home, options: &[&str], host: &str, count: u32) -> u64 {
    let dir = home.beside("fetched");
    std::fs::create_dir(&dir).unwrap();
    let mut command = Command::new("curl");
    for (name, _) in std::env::vars().filter(|(name, _)| name.to_lowercase().contains("proxy")) {
        command.env_remove(name);
    }
    let out = dir.join("#1");
    let url = format!("http://{host}/n/[1-{count}]");
    command.args(["-sS", "--fail", "--max-time", "120", "-w", "%{num_connects}\n"]).args(options);
    let run = command.arg("-o").arg(&out).arg(&url).output().unwrap();
    let error = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{options:?} {url}: {error}");
    for n in 1..=count {
        let body = std::fs::read_to_string(dir.join(n.to_string())).unwrap();
        assert_eq!(body, format!("n={n}\n"));
    }
    std::fs::remove_dir_all(&dir).unwrap();
    let connects = String::from_utf8(run.stdout).unwrap();
    assert_eq!(connects.lines().count(), count as usize);
    connects.lines().map(|line| line.parse::<u64>().unwrap()).sum()
}

#[test]
fn a_thousand_http_requests_pass_through_forward_and_through_the_proxy() {
    if !has_curl() {
        eprintln!("SKIPPED: there is no curl on this machine, so no HTTP client was tried");
        return;
    }
    let mut story = Story::begin("HTTP", STORY_MAX);
    let (_server, registry, beacon) = Home::rendezvous();
    let agents = [(); 2].map(|()| agent(&registry, &beacon));
    let [(a, _), (b, to_b)] = &agents;
    // One name for friends, before anybody else may see this agent, and one for all.
    b.ok(&["set-hostname", "web-at-home"]);
    befriend(&agents[0], &agents[1]);
    b.ok(&["expose", "80", &http_service().to_string()]);
    let by_name = forward(a, "web-at-home:80");
    let by_address = forward(a, &format!("{to_b}:80"));
    let proxy = proxy(a).to_string();
    story.done("two agents, ready");

    let through = ["--socks5-hostname", &proxy];
    let parallel = ["--parallel", "--parallel-max", "16"];
    assert_eq!(curl(a, &[], &by_name.to_string(), 250), 1, "kept alive");
    story.done("250 requests through `forward`, one after the other");
    let connections = curl(a, &parallel, &by_address.to_string(), 250);
    story.done(&format!("250 through `forward` in parallel, {connections} connections"));
    assert_eq!(curl(a, &through, "web-at-home.pilot", 250), 1, "kept alive");
    story.done("250 through SOCKS5, one after the other");
    for home in [a, b] {
        home.ok(&["join", "1"]);
    }
    b.ok(&["set-hostname", "web"]);
    b.ok(&["set-visibility", "public"]);
    let options = [&through[..], &parallel].concat();
    let connections = curl(a, &options, "web.pilot", 250);
    story.done(&format!("250 through SOCKS5 in parallel, {connections} connections"));
    assert_eq!(curl(a, &through, "web.1.pilot", 2), 1, "a name with its network");
    assert_eq!(curl(a, &through, "web-at-home.0.pilot", 2), 1, "the other name");
    let dotted = format!("{}.pilot", to_b.replace(':', "."));
    assert_eq!(curl(a, &through, &dotted, 2), 1, "an address as a URL's host");
    let served = b.data(&["expose", "list"])["exposes"][0].clone();
    assert!(served["served"].as_u64().unwrap() >= 5, "{served}");
    assert_eq!(served["failed"], 0, "{served}");
    wait_for("all connections are over", || {
        b.data(&["expose", "list"])["exposes"][0]["open"] == 0
            && a.data(&["forward", "list"])["forwards"][0]["open"] == 0
            && a.data(&["proxy", "status"])["proxy"]["open"] == 0
    });
    story.done("all connections over");
}

/// Takes everything, and only then answers: with all of it.
fn answer_at_the_end(mut tcp: TcpStream) {
    let mut got = Vec::new();
    tcp.read_to_end(&mut got).unwrap();
    tcp.write_all(&got).unwrap();
}

/// Says all that it has to say at once, and then listens.
fn say_first(mut tcp: TcpStream) {
    tcp.write_all(b"first").unwrap();
    tcp.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    tcp.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"then I", "a half-close ends one direction");
}

/// Answers each byte with the same, for as long as it lasts.
fn bytes(mut tcp: TcpStream) {
    let mut byte = [0];
    while tcp.read(&mut byte).is_ok_and(|n| n > 0) && tcp.write_all(&byte).is_ok() {}
}

/// Whether [`late`] may begin to read.
static LATE_READS: AtomicBool = AtomicBool::new(false);

/// Takes nothing until it may, then everything, and says how much that was.
fn late(mut tcp: TcpStream) {
    wait_for("the sender is stopped", || LATE_READS.load(Ordering::Relaxed));
    let (mut buf, mut sum) = (vec![0; 65_536], 0u64);
    while let Ok(n @ 1..) = tcp.read(&mut buf) {
        sum += n as u64;
    }
    tcp.write_all(&sum.to_be_bytes()).unwrap();
}

/// Writes until nothing is taken any more: what is on the way is bounded, and none of it lost.
fn back_pressure(open: impl Fn(u16) -> TcpStream) {
    let mut tcp = open(86);
    let other = open(84);
    tcp.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let (chunk, mut sent) = (vec![7; 65_536], 0u64);
    loop {
        match tcp.write(&chunk) {
            Ok(n) => sent += n as u64,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(e) => panic!("{e}"),
        }
        assert!(sent < 256 << 20, "no end to what is taken");
    }
    // Nobody else waits for that.
    echo(other);
    LATE_READS.store(true, Ordering::Relaxed);
    tcp.shutdown(Shutdown::Write).unwrap();
    let mut sum = [0; 8];
    tcp.read_exact(&mut sum).unwrap();
    assert_eq!(u64::from_be_bytes(sum), sent);
    println!("back-pressure: {:.1} MB were on the way", sent as f64 / 1e6);
}

/// Asks the service that answers byte by byte.
fn echo(mut tcp: TcpStream) -> TcpStream {
    tcp.write_all(b"x").unwrap();
    tcp.read_exact(&mut [0]).unwrap();
    tcp
}

fn half_close_both_ways(open: impl Fn(u16) -> TcpStream) {
    let data: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut tcp = open(81);
    let mut writing = tcp.try_clone().unwrap();
    let sent = data.clone();
    let writer = std::thread::spawn(move || {
        writing.write_all(&sent).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    tcp.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == data, "{} of {} bytes", back.len(), data.len());

    let mut tcp = open(82);
    let mut first = Vec::new();
    tcp.read_to_end(&mut first).unwrap();
    assert_eq!(first, b"first");
    tcp.write_all(b"then I").unwrap();
}

/// Whether a connection ends by a reset, and no other way.
fn is_reset(mut tcp: TcpStream) -> bool {
    let mut byte = [0];
    match tcp.read(&mut byte) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        other => panic!("no reset: {other:?}"),
    }
}

#[test]
fn ends_and_resets_pass_and_strangers_do_not() {
    let mut story = Story::begin("ends", STORY_MAX);
    let (_server, registry, beacon) = Home::rendezvous();
    let agents = [(); 3].map(|()| agent(&registry, &beacon));
    befriend(&agents[0], &agents[1]);
    let [(a, _), (b, to_b), (stranger, to_stranger)] = &agents;
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (port, at) in [
        ("81", tcp_service(answer_at_the_end)),
        ("82", tcp_service(say_first)),
        ("83", gone),
        ("84", tcp_service(bytes)),
        ("86", tcp_service(late)),
    ] {
        b.ok(&["expose", port, &at.to_string()]);
    }
    let proxy = proxy(a);
    let dotted = name(&format!("{}.pilot", to_b.replace(':', ".")));
    let by_forward = |port: u16| dial(forward(a, &format!("{to_b}:{port}")));
    let by_socks = |port: u16| {
        let (reply, tcp) = socks(proxy, &dotted, port);
        assert_eq!(reply, 0);
        tcp
    };
    story.done("three agents, ready");

    half_close_both_ways(by_forward);
    half_close_both_ways(by_socks);
    story.done("half-close both ways, through `forward` and SOCKS5");
    back_pressure(by_forward);
    story.done("back-pressure");

    // The service is down; nobody listens at all.
    assert!(is_reset(by_forward(83)) && is_reset(by_socks(83)));
    assert!(is_reset(by_forward(85)));
    let of = |port: u64| {
        let all = b.data(&["expose", "list"])["exposes"].as_array().unwrap().clone();
        all.into_iter().find(|e| e["port"] == port).unwrap()
    };
    assert_eq!(of(83)["failed"], 2);
    let why = of(83)["last_failure"].as_str().unwrap().to_owned();
    assert!(why.contains(&gone.to_string()), "{why}");
    let log = a.ok(&["logs"]);
    assert!(log.contains("nobody listens on that port"), "{log}");
    // It comes back, and the next connection reaches it.
    let back = tcp_service(bytes).to_string();
    b.ok(&["expose", "83", &back]);
    echo(by_forward(83));
    // A client that breaks off is no end of file for the service, and is counted.
    let before = of(84)["failed"].as_u64().unwrap();
    let breaking = echo(by_forward(84));
    socket2::SockRef::from(&breaking).set_linger(Some(Duration::ZERO)).unwrap();
    drop(breaking);
    wait_for("the reset arrives", || of(84)["failed"] == before + 1);
    story.done("resets both ways");

    // RFC 1928: nowhere but to agents, and by the right code.
    let named = |host: &str| name(host);
    for (host, port, reply) in [
        (named("example.com"), 443, 2),
        (named("localhost"), 80, 2),
        (vec![1, 127, 0, 0, 1], 80, 2),
        ([&[4][..], &[0; 15], &[1]].concat(), 80, 2),
        (named("nobody-has-this-name.pilot"), 80, 4),
        (named(&format!("{}.pilot", to_stranger.replace(':', "."))), 80, 2),
        (dotted.clone(), 85, 5),
    ] {
        let (code, mut tcp) = socks(proxy, &host, port);
        assert_eq!(code, reply, "{host:?}");
        assert_eq!(tcp.read(&mut [0]).unwrap(), 0, "closed after the reply");
    }
    story.done("what the proxy refuses");

    // A stranger reaches nothing, and the service never hears of it.
    let served = |port| of(port)["served"].as_u64().unwrap();
    let before = served(84);
    assert!(is_reset(dial(forward(stranger, &format!("{to_b}:84")))));
    assert_eq!(served(84), before);
    // Who is trusted no more loses what is open.
    let open = echo(by_forward(84));
    b.ok(&["trust", "revoke", &agents[0].1]);
    assert!(is_reset(open));
    assert!(is_reset(by_forward(84)));
    story.done("strangers, and revoked trust");
}

#[test]
fn forwards_exposes_and_the_proxy_outlive_the_daemon() {
    let mut story = Story::begin("lasting", STORY_MAX);
    let (_server, (a, to_a), (b, to_b)) = friends();
    b.ok(&["expose", "84", &tcp_service(bytes).to_string()]);
    let to = format!("{to_b}:84");
    let (first, second) = (forward(&a, &to), forward(&a, &to));
    let proxy = proxy(&a);
    let open = echo(dial(first));
    story.done("two agents, ready");

    // A crash of both; meanwhile another program takes a port.
    for home in [&a, &b] {
        home.kill("daemon");
    }
    assert!(is_gone(open));
    let taken = TcpListener::bind(second).unwrap();
    b.ok(&["daemon", "start"]);
    let run = a.run(&["daemon", "start"]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.err.contains(&format!("warning: forward {second}")), "{}", run.err);
    let warnings = a.data(&["daemon", "status"])["warnings"].clone();
    assert!(warnings[0].as_str().unwrap().contains("in use"), "{warnings}");
    let list = || a.data(&["forward", "list"])["forwards"].as_array().unwrap().clone();
    let state = |at: SocketAddr| {
        let all = list();
        all.iter().find(|f| f["local"] == at.to_string()).unwrap()["state"].clone()
    };
    assert_eq!((state(first), state(second)), ("listening".into(), "waiting".into()));
    echo(dial(first));
    let (reply, tcp) = socks(proxy, &name(&format!("{}.pilot", to_b.replace(':', "."))), 84);
    assert_eq!(reply, 0);
    echo(tcp);
    drop(taken);
    wait_for("the port is free again", || state(second) == "listening");
    echo(dial(second));
    assert_eq!(a.data(&["daemon", "status"])["warnings"], Value::Array(vec![]));
    story.done("after a crash, with a port taken at first");

    // What is removed is gone at once, and stays gone.
    let open = echo(dial(first));
    a.ok(&["forward", "remove", &first.to_string()]);
    a.ok(&["proxy", "stop"]);
    assert!(is_reset(open));
    assert!(TcpStream::connect(first).is_err() && TcpStream::connect(proxy).is_err());
    let open = echo(dial(second));
    a.ok(&["daemon", "stop"]);
    assert!(is_reset(open), "a daemon that stops is no end of file");
    a.ok(&["daemon", "start"]);
    assert_eq!(list().len(), 1);
    assert_eq!(a.data(&["proxy", "status"])["proxy"], Value::Null);
    echo(dial(second));
    let open = echo(dial(second));
    b.ok(&["expose", "remove", "84"]);
    assert!(is_reset(open));
    assert!(is_reset(dial(second)));
    story.done("removed for good");

    // What cannot be, with its code.
    let second = second.to_string();
    let udp = b.data(&["forward", "0", &format!("{to_a}:9")])["local"].clone();
    let other = udp.as_str().unwrap();
    for (line, error) in [
        (&["expose", "1001", "127.0.0.1:80"][..], (8, "conflict")),
        (&["expose", "7", "127.0.0.1:80"], (8, "conflict")),
        (&["expose", "1002", "127.0.0.1:80"], (8, "conflict")),
        (&["forward", other, "a:80"], (8, "conflict")),
        (&["proxy", &second], (8, "conflict")),
        (&["forward", "remove", "1"], (3, "not_found")),
        (&["expose", "remove", "80"], (3, "not_found")),
        (&["proxy", "stop"], (3, "not_found")),
    ] {
        assert_eq!(a.error(line), (error.0, error.1.to_owned()), "{line:?}");
    }
    for line in [
        &["forward", "host.example:80", "a:80"][..],
        &["forward", "8080"],
        &["expose", "0", "h:1"],
        &["forward", "8080", "a:0"],
    ] {
        assert_eq!(a.run(line).code, 2, "{line:?}");
    }
    let run = a.run(&["expose", "1003", "127.0.0.1:80"]);
    assert!(run.err.contains("port 1003 is reserved"), "{}", run.err);
    assert_eq!(list().len(), 1);
    story.done("what is refused");
}

#[test]
fn connections_are_bounded_and_a_client_that_says_nothing_goes() {
    /// As the manual states.
    const PLACES: usize = 512;
    let (_server, registry, beacon) = Home::rendezvous();
    let (home, _) = agent(&registry, &beacon);
    let proxy = proxy(&home);
    let mut silent: Vec<TcpStream> = (0..PLACES).map(|_| dial(proxy)).collect();
    let open = || home.data(&["proxy", "status"])["proxy"]["open"].clone();
    wait_for("all are accepted", || open() == PLACES);
    assert!(is_reset(dial(proxy)), "one too many");
    let state = home.data(&["proxy", "status"])["proxy"].clone();
    assert_eq!((&state["failed"], &state["served"]), (&1.into(), &PLACES.into()), "{state}");
    for tcp in &mut silent {
        assert_eq!(tcp.read(&mut [0]).unwrap(), 0, "closed in time");
    }
    wait_for("their places are free", || open() == 0);
    assert_eq!(socks(proxy, &name("example.com"), 80).0, 2);
}

/// Ended by a crash: the kernel says so in one way or another.
fn is_gone(mut tcp: TcpStream) -> bool {
    !matches!(tcp.read(&mut [0]), Ok(1))
}

/// One request on a connection of its own; the head of the answer, and the connection.
fn ask(home: &Home, head: &str) -> (String, UnixStream) {
    let mut api = UnixStream::connect(home.path.join("pilot.sock")).unwrap();
    api.set_read_timeout(Some(READ_MAX)).unwrap();
    api.write_all(format!("{head}\r\nHost: pilot\r\n\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        api.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    (String::from_utf8(answer).unwrap().to_lowercase(), api)
}

/// The stream's number in the head of an answer.
fn stream_id(head: &str) -> String {
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    let id = head.lines().find_map(|line| line.strip_prefix("pilot-stream: "));
    id.unwrap().to_owned()
}

#[test]
fn raw_streams_of_the_local_api_need_nothing_but_http() {
    let (_server, (a, to_a), (b, to_b)) = friends();
    let upgrade = "HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: pilot-stream";
    let (head, mut listening) = ask(&b, &format!("POST /v1/listen?port=7002 {upgrade}"));
    let listener = stream_id(&head);
    assert!(head.contains("pilot-port: 7002"), "{head}");
    let connect = format!("POST /v1/connect?to={to_b}&port=7002 {upgrade}");
    let (head, mut connected) = ask(&a, &connect);
    let connector = stream_id(&head);
    connected.write_all(b"from here").unwrap();
    connected.shutdown(Shutdown::Write).unwrap();
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        listening.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    let accepted: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(accepted["data"]["peer"], to_a.as_str());
    let mut got = String::new();
    listening.read_to_string(&mut got).unwrap();
    assert_eq!(got, "from here");
    // Half-closed: the other direction is open.
    listening.write_all(b"from there").unwrap();
    listening.shutdown(Shutdown::Write).unwrap();
    got.clear();
    connected.read_to_string(&mut got).unwrap();
    assert_eq!(got, "from there");
    for (home, id) in [(&a, &connector), (&b, &listener)] {
        let (head, _) = ask(home, &format!("GET /v1/streams/{id} HTTP/1.1"));
        assert!(head.starts_with("http/1.1 200 "), "{head}");
    }
    // One stream a listener; and without the upgrade, nothing.
    let (head, _) = ask(&a, &connect);
    assert!(head.starts_with("http/1.1 502 "), "{head}");
    let (head, _) = ask(&a, &format!("POST /v1/connect?to={to_b}&port=7002 HTTP/1.1"));
    assert!(head.starts_with("http/1.1 400 "), "{head}");
}
