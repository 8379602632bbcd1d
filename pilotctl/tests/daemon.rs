//! Daemons as their users have them: a rendezvous server and agents on loopback, started,
//! connected, killed and stopped with the real program.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use serde_json::Value;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Home, mutual, request_of, start, wait_for};

/// Two agents that trust each other, and their addresses.
fn friends() -> (Home, [(Home, String); 2]) {
    let (server, registry, beacon) = Home::rendezvous();
    let agent = || {
        let (home, report) = Home::agent(&registry, &beacon);
        (home, report["address"].as_str().unwrap().to_owned())
    };
    let (a, b) = (agent(), agent());
    let state = b.0.data(&["trust", "request", &a.1, "--justification", "a\u{1b}[31m \"test\""]);
    assert_eq!(state["state"], "pending");
    let request = request_of(&a.0, &b.1);
    assert_eq!(request["justification"], "a[31m \"test\"", "cleaned");
    a.0.ok(&["trust", "approve", &b.1]);
    assert_eq!(mutual(&b.0), a.1);
    (server, [a, b])
}

#[test]
fn an_agent_starts_once_keeps_its_address_and_stops() {
    let (server, registry, beacon) = Home::rendezvous();
    let (home, report) = Home::agent(&registry, &beacon);
    assert!(report["first_contact"] == true && report["ready"] == true, "{report}");
    let key = server.data(&["rendezvous", "status"])["fingerprint"].clone();
    assert_eq!(report["registry_fingerprint"], key);
    let address = report["address"].clone();
    assert!(address.as_str().unwrap().starts_with("0:0000.0000."), "{address}");
    let udp = report["sockets"][0].as_str().unwrap();
    assert!(!udp.ends_with(":0"), "{udp}");
    for name in ["identity", "pilot.sock", "state.redb", "config.toml"] {
        let mode = std::fs::metadata(home.path.join(name)).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }

    let again = home.data(&start(&registry, &beacon));
    assert_eq!(again["pid"], report["pid"]);
    assert_eq!(home.data(&["daemon", "start"])["pid"], report["pid"]);
    let other = home.error(&["daemon", "start", "--path", "relay"]);
    assert_eq!(other, (8, "already_running".to_owned()));
    assert_eq!(home.error(&["reset", "--yes"]).0, 8);

    home.ok(&["daemon", "stop"]);
    assert_eq!(home.error(&["daemon", "status"]).0, 7);
    let restarted = home.data(&["daemon", "start"]);
    assert_eq!(restarted["address"], address);
    assert_eq!(restarted["first_contact"], false);
    assert_eq!(restarted["registry_fingerprint"], key);
    home.ok(&["daemon", "stop"]);

    // Without state the identity alone gets the address back; without it, another one.
    home.ok(&["reset", "--yes", "--keep-identity"]);
    assert_eq!(home.data(&start(&registry, &beacon))["address"], address);
    home.ok(&["daemon", "stop"]);
    home.ok(&["reset", "--yes"]);
    assert_ne!(home.data(&start(&registry, &beacon))["address"], address);
}

#[test]
fn a_first_start_without_its_registry_exits_5_and_leaves_nothing_running() {
    let home = Home::new();
    let begin = Instant::now();
    let failed = home.error(&start("127.0.0.1:1", "127.0.0.1:1"));
    assert_eq!(failed, (5, "registry_unreachable".to_owned()));
    assert!(begin.elapsed() < Duration::from_secs(14));
    assert_eq!(home.error(&["daemon", "status"]).0, 7);
    assert!(!home.path.join("config.toml").exists(), "settings that failed are not saved");
}

#[test]
fn a_known_address_starts_without_the_registry_and_comes_back_with_it() {
    let (server, registry, beacon) = Home::rendezvous();
    let (home, report) = Home::agent(&registry, &beacon);
    home.ok(&["daemon", "stop"]);
    server.ok(&["rendezvous", "stop"]);
    let run = home.run(&["daemon", "start"]);
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(run.err.contains("warning"), "{}", run.err);
    let status = home.data(&["daemon", "status"]);
    assert_eq!((&status["address"], &status["online"]), (&report["address"], &false.into()));
    let addresses = ["--registry-addr", &registry, "--beacon-addr", &beacon];
    server.ok(&[&["rendezvous", "start"][..], &addresses].concat());
    wait_for("online again", || home.data(&["daemon", "status"])["online"] == true);
}

#[test]
fn another_registry_key_is_refused_with_both_fingerprints() {
    let (server, registry, beacon) = Home::rendezvous();
    let (home, report) = Home::agent(&registry, &beacon);
    home.ok(&["daemon", "stop"]);
    server.ok(&["rendezvous", "stop"]);
    let impostor = Home::new();
    let addresses = ["--registry-addr", &registry, "--beacon-addr", &beacon];
    let other = impostor.data(&[&["rendezvous", "start"][..], &addresses].concat());
    let run = home.run(&["daemon", "start"]);
    assert_eq!(run.code, 1, "{}{}", run.out, run.err);
    for print in [&report["registry_fingerprint"], &other["fingerprint"]] {
        assert!(run.err.contains(print.as_str().unwrap()), "{print}: {}", run.err);
    }
}

#[test]
fn a_copied_home_takes_over_only_where_told_to() {
    let (_server, registry, beacon) = Home::rendezvous();
    let (original, report) = Home::agent(&registry, &beacon);
    original.ok(&["daemon", "stop"]);
    let copy = Home::new();
    let copied = Command::new("cp").arg("-a").args([&original.path, &copy.path]).status();
    assert!(copied.unwrap().success());
    // A move: the home of the last run starts elsewhere, with the same address.
    assert_eq!(copy.data(&["daemon", "start"])["address"], report["address"]);
    // The stale one does not take it back, now or later ...
    for _ in 0..2 {
        assert_eq!(original.error(&["daemon", "start"]), (8, "fenced".to_owned()));
    }
    assert_eq!(copy.run(&["daemon", "status"]).code, 0);
    // ... unless told to; then the other one stops by itself and stays stopped.
    original.ok(&["daemon", "start", "--takeover"]);
    wait_for("the copy stops", || copy.run(&["daemon", "status"]).code == 7);
    assert_eq!(copy.error(&["daemon", "start"]), (8, "fenced".to_owned()));
    assert_eq!(original.data(&["daemon", "status"])["address"], report["address"]);
}

#[test]
fn names_are_set_shown_found_and_taken() {
    let (_server, registry, beacon) = Home::rendezvous();
    let (a, report) = Home::agent(&registry, &beacon);
    let (b, _) = Home::agent(&registry, &beacon);
    let in_1 = report["address"].as_str().unwrap().replace("0:0000.", "1:0001.");
    for home in [&a, &b] {
        home.ok(&["join", "1"]);
    }
    a.ok(&["set-hostname", "research-aws"]);
    a.ok(&["tags", "set", "cloud=aws,region=us-east-1,role=research"]);
    // Private until said otherwise.
    assert_eq!(b.error(&["resolve", "research-aws"]), (3, "not_found".to_owned()));
    assert_eq!(b.ok(&["discover", "--tag", "role=research"]), "");
    a.ok(&["set-visibility", "public"]);
    assert_eq!(b.ok(&["resolve", "research-aws"]), in_1);
    let asked = b.data(&["trust", "request", "research-aws"]);
    assert_eq!((&asked["state"], &asked["address"]), (&"pending".into(), &in_1.as_str().into()));
    let by_name = b.run(&["trust", "approve", "research-aws"]);
    assert!(
        by_name.code == 2 && by_name.err.contains("pilotctl resolve research-aws"),
        "{by_name:?}"
    );
    let line = format!("{in_1} research-aws [cloud=aws, region=us-east-1, role=research]");
    assert_eq!(b.ok(&["discover", "--tag", "role=research", "--tag", "cloud=aws"]), line);
    assert_eq!(b.ok(&["discover", "--tag", "role=other"]), "");
    assert_eq!(b.error(&["resolve", "research-aws", "--network", "0"]).0, 3);
    assert_eq!(b.error(&["set-hostname", "research-aws"]), (8, "conflict".to_owned()));
    let info = a.data(&["info"]);
    assert_eq!((&info["hostname"], &info["address"]), (&"research-aws".into(), &in_1.into()));
    assert_eq!((&info["visibility"], &info["networks"][1]), (&"public".into(), &1.into()));
    a.ok(&["clear-hostname"]);
    assert_eq!(b.error(&["resolve", "research-aws"]).0, 3);
    assert_eq!(b.error(&["trust", "request", "research-aws"]).0, 3);
}

#[test]
fn an_agent_that_names_itself_is_told_so() {
    let (_server, registry, beacon) = Home::rendezvous();
    let (home, report) = Home::agent(&registry, &beacon);
    let own = report["address"].as_str().unwrap();
    for line in [
        &["send-message", own, "hi"][..],
        &["send-file", own, concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")],
        &["trust", "request", own],
        &["echo", own],
        &["why", own],
        &["task", "submit", own, "--description", "work"],
    ] {
        let run = home.run(line);
        assert!(run.code == 2 && run.err.contains("is this agent itself"), "{line:?} {run:?}");
    }
}

#[test]
fn without_a_grant_every_agent_looks_alike() {
    let (_server, registry, beacon) = Home::rendezvous();
    let (a, _) = Home::agent(&registry, &beacon);
    let (public, report) = Home::agent(&registry, &beacon);
    public.ok(&["set-visibility", "public"]);
    let to_public = report["address"].as_str().unwrap();
    for to in [to_public, "0:0000.0000.0777", "9:0009.0000.0012"] {
        for line in [&["send-message", to, "hi"][..], &["echo", to]] {
            assert_eq!(a.error(line), (4, "not_trusted".to_owned()), "{line:?}");
        }
        assert_eq!(a.run(&["connect", to, "7000"]).code, 4);
    }
    assert_eq!(a.data(&["trust", "request", "0:0000.0000.0777"])["state"], "pending");
    let waited = a.error(&["trust", "request", "0:0000.0000.0777", "--wait", "200ms"]);
    assert_eq!(waited, (6, "timeout".to_owned()));
    assert_eq!(a.error(&["trust", "approve", "0:0000.0000.0777"]).0, 3);
    assert_eq!(a.error(&["trust", "revoke", "0:0000.0000.0777"]).0, 3);
    assert_eq!(public.ok(&["inbox"]), "no messages");
}

#[test]
fn streams_carry_bytes_both_ways_and_files_and_messages_survive_kills() {
    let (_server, [(a, to_a), (b, to_b)]) = friends();
    // A pipe, with a half-close in each direction.
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut listener = spawn(a.command(&["listen", "7001"]));
    let mut connector = connect_when_listening(&b, &to_a, "7001");
    let sender = {
        let (mut input, data) = (connector.stdin.take().unwrap(), data.clone());
        std::thread::spawn(move || input.write_all(&data))
    };
    listener.stdin.take().unwrap().write_all(b"from the listener").unwrap();
    let got = listener.wait_with_output().unwrap();
    sender.join().unwrap().unwrap();
    let back = connector.wait_with_output().unwrap();
    assert_eq!((got.status.code(), back.status.code()), (Some(0), Some(0)));
    assert!(got.stdout == data, "{} bytes", got.stdout.len());
    assert_eq!(back.stdout, b"from the listener");

    b.ok(&["send-message", &to_a, "Analyze \u{202e}this\n\"dataset\""]);
    let inbox = a.ok(&["inbox"]);
    assert!(inbox.ends_with(r#""Analyze this\n\"dataset\"""#), "{inbox}");
    let file = b.path.with_file_name("dataset.csv");
    std::fs::write(&file, &data).unwrap();
    let sent = b.data(&["send-file", &to_a, file.to_str().unwrap(), "--note", "as promised"]);
    let received = a.data(&["received"])["files"][0].clone();
    assert_eq!((&received["hash"], &received["note"]), (&sent["hash"], &"as promised".into()));
    assert!(std::fs::read(received["path"].as_str().unwrap()).unwrap() == data);

    for killed in [&a, &b] {
        killed.kill("daemon");
        killed.ok(&["daemon", "start"]);
    }
    a.ok(&["send-message", &to_b, "after the crash"]);
    assert!(b.ok(&["inbox"]).contains("after the crash"));
    assert_eq!(a.data(&["inbox"])["messages"].as_array().unwrap().len(), 1);
    a.ok(&["inbox", "--clear"]);
    assert_eq!(a.ok(&["inbox"]), "no messages");

    // Revoked: decided at once, and without a network. A pipe whose input stays open ends too.
    let mut listener = spawn(b.command(&["listen", "7002"]));
    let mut piped = connect_when_listening(&a, &to_b, "7002");
    assert_eq!(a.error(&["why", "0:0000.0000.0777"]), (4, "not_trusted".to_owned()));
    b.ok(&["trust", "revoke", &to_a]);
    wait_for("the pipe's end", || piped.try_wait().unwrap().is_some());
    assert_eq!(piped.wait().unwrap().code(), Some(4));
    wait_for("the listener's end", || listener.try_wait().unwrap().is_some());
    assert_eq!(b.error(&["send-message", &to_a, "hi"]).0, 4);
    wait_for("the other side learns it", || a.error(&["send-message", &to_b, "hi"]).0 == 4);
}

/// An input that fails is no end, and what could not be shown was not seen.
#[test]
fn nobody_takes_for_whole_or_seen_what_is_not() {
    let (_server, [(a, to_a), (b, _)]) = friends();
    let listener = spawn(a.command(&["listen", "7001"]));
    let directory = || Stdio::from(std::fs::File::open("/").unwrap());
    wait_for("the listener", || {
        let mut connect = b.command(&["connect", &to_a, "7001"]);
        let output = connect.stdin(directory()).output().unwrap();
        let says = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{says}");
        says.contains("cannot read standard input")
    });
    let got = listener.wait_with_output().unwrap();
    assert_ne!(got.status.code(), Some(0), "{:?}", got.stdout);

    for text in ["one", "two"] {
        b.ok(&["send-message", &to_a, text]);
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let cleared = a.command(&["inbox", "--clear"]).stdout(full).output().unwrap();
    assert_eq!(cleared.status.code(), Some(1), "{cleared:?}");
    let mut follow = a.command(&["inbox", "--follow", "--clear", "--json"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    drop(follow.stdout.take());
    wait_for("its end", || follow.try_wait().unwrap().is_some());
    assert_eq!(a.inbox(), ["one", "two"]);
}

fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// `connect`, again and again until the listener is there; the one that holds.
fn connect_when_listening(home: &Home, to: &str, port: &str) -> Child {
    let begin = Instant::now();
    loop {
        let mut child = spawn(home.command(&["connect", to, port]));
        std::thread::sleep(Duration::from_millis(300));
        if child.try_wait().unwrap().is_none() {
            return child;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "nobody listens");
    }
}

#[test]
fn in_the_foreground_a_daemon_says_when_it_is_ready_and_ends_on_sigterm() {
    let (_server, registry, beacon) = Home::rendezvous();
    let home = Home::new();
    let mut command = home.command(&start(&registry, &beacon));
    // What systemd would give it; a socket that receives "READY=1".
    let notify = home.path.with_file_name("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    command.args(["--foreground", "--json"]).env("NOTIFY_SOCKET", &notify);
    let child = spawn(command);
    let mut state = [0; 1024];
    let n = socket.recv(&mut state).unwrap();
    let state = String::from_utf8_lossy(&state[..n]).into_owned();
    assert!(state.contains("READY=1"), "{state}");
    assert_eq!(home.data(&["daemon", "status"])["log"], Value::Null);
    let begin = Instant::now();
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "graceful within 5 s");
    assert_eq!(output.status.code(), Some(0));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("ready: 0:0000.0000."), "{log}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["data"]["ready"], true);
}

/// All of 127/8 is local on Linux alone.
#[cfg(target_os = "linux")]
#[test]
fn info_tells_what_the_nat_does_if_the_beacon_has_two_addresses() {
    let server = |more: &[&str]| {
        let home = Home::new();
        let at = "127.0.0.1:0";
        let start = ["rendezvous", "start", "--registry-addr", at, "--beacon-addr", at];
        let started = home.data(&[&start, more].concat());
        let text = |name: &str| started[name].as_str().unwrap().to_owned();
        let (registry, beacon) = (text("registry"), text("beacon"));
        (home, registry, beacon)
    };
    let measured = |registry: &str, beacon: &str| {
        let (home, _) = Home::agent(registry, beacon);
        wait_for("measured", || home.data(&["info"])["nat"]["measured_s"].is_u64());
        let info = home.data(&["info"]);
        assert_eq!(info["observed"], info["sockets"][0], "nothing translates on loopback");
        assert_eq!(info["nat"]["translated"], false);
        (info["nat"].clone(), home.ok(&["info"]))
    };

    let (_server, registry, beacon) = server(&["--beacon-alt-addr", "127.0.0.2:0"]);
    let (nat, text) = measured(&registry, &beacon);
    assert_eq!(nat["classical"], "public");
    assert_eq!(nat["mapping"], "endpoint-independent");
    assert_eq!(nat["filtering"], "endpoint-independent");
    assert_eq!(nat["allocation"], "preserving");
    let line = text.lines().find(|line| line.starts_with("NAT ")).unwrap();
    assert!(line.ends_with(" public"), "{text}");

    let (_server, registry, beacon) = server(&[]);
    let (nat, text) = measured(&registry, &beacon);
    assert_eq!(nat["classical"], "unknown");
    assert_eq!(nat["mapping"], "unknown");
    assert_eq!(nat["filtering"], "unknown");
    assert_eq!(nat["allocation"], "preserving");
    let line = text.lines().find(|line| line.starts_with("NAT ")).unwrap();
    assert!(line.ends_with(" unknown"), "{text}");
}
