//! The README's walk-through with the real program: rendezvous, two daemons, names, trust, a
//! message, a file; then each of the three is killed in turn and everything still works, with
//! the same addresses and the same trust.

mod support;

use std::time::Duration;
use support::{Home, Story, mutual, request_of, wait_for, write_file};

const FILE: usize = 10_000_000;
/// Bytes of the files after each kill.
const LATER_FILE: usize = 300_000;
const TAGS: &str = "cloud=aws,region=us-east-1,role=research";

/// Two agents, `research-aws` (a) and `analysis-gcp` (b), and their rendezvous server.
struct Cast {
    server: Home,
    registry: String,
    beacon: String,
    a: Home,
    b: Home,
    /// As other commands print them, in network 1.
    to_a: String,
    to_b: String,
    /// `direct` or `relayed`.
    path: &'static str,
    story: Story,
}

/// `host` with a port to be chosen; `path` as `echo` calls it.
fn walk_through(name: &'static str, at: &str, path: &'static str) {
    let mut story = Story::begin(name, Duration::from_secs(180));
    let (server, registry, beacon) = Home::rendezvous_at(at);
    story.done("a rendezvous server");
    let (a, b) = (Home::new(), Home::new());
    for home in [&a, &b] {
        let mut line = vec!["daemon", "start", "--registry", &registry, "--beacon", &beacon];
        line.extend(["--listen", at]);
        if path == "relayed" {
            line.extend(["--path", "relay"]);
        }
        home.ok(&line);
    }
    story.done("two daemons");
    let (to_a, to_b) = name_them(&a, &b);
    story.done("names, tags, resolve, discover");
    make_trust(&a, &to_a, &b, &to_b);
    story.done("trust");
    let mut cast = Cast { server, registry, beacon, a, b, to_a, to_b, path, story };
    exchange(&mut cast);
    for who in ["rendezvous", "a", "b"] {
        kill_and_restart(&mut cast, who);
        works_as_before(&cast, who);
        cast.story.done("everything still works");
    }
    if path == "relayed" {
        // It was restarted since; the files after that are what it has carried.
        assert!(relayed_bytes(&cast.server) >= 3 * LATER_FILE as u64);
    }
}

/// Gives both agents what others find them by; their addresses in network 1.
fn name_them(a: &Home, b: &Home) -> (String, String) {
    let address = |home: &Home| {
        let status = home.data(&["daemon", "status"]);
        let backbone = status["address"].as_str().unwrap().to_owned();
        assert!(backbone.starts_with("0:0000."), "{backbone}");
        backbone.replace("0:0000.", "1:0001.")
    };
    let (to_a, to_b) = (address(a), address(b));
    assert_ne!(to_a, to_b);
    for home in [a, b] {
        home.ok(&["join", "1"]);
    }
    a.ok(&["set-hostname", "research-aws"]);
    b.ok(&["set-hostname", "analysis-gcp"]);
    // Hidden until they say otherwise.
    assert_eq!(a.run(&["resolve", "analysis-gcp"]).code, 3);
    for home in [a, b] {
        home.ok(&["set-visibility", "public"]);
    }
    a.ok(&["tags", "set", TAGS]);
    b.ok(&["tags", "set", "cloud=gcp,role=analysis"]);
    assert_eq!(a.ok(&["resolve", "analysis-gcp"]), to_b, "alone on its line");
    let line = format!("{to_a} research-aws [cloud=aws, region=us-east-1, role=research]");
    assert_eq!(b.ok(&["discover", "--tag", "role=research"]), line);
    (to_a, to_b)
}

fn make_trust(a: &Home, to_a: &str, b: &Home, to_b: &str) {
    assert_eq!(a.run(&["send-message", to_b, "too early"]).code, 4);
    let why = "Cross-cloud research collaboration";
    let requested = a.data(&["trust", "request", to_b, "--justification", why]);
    assert_eq!(requested["state"], "pending");
    let request = request_of(b, &to_a.replace("1:0001.", "0:0000."));
    assert_eq!(request["justification"], why);
    b.ok(&["trust", "approve", to_a]);
    assert_eq!(mutual(a), to_b.replace("1:0001.", "0:0000."));
    assert_eq!(mutual(b), to_a.replace("1:0001.", "0:0000."));
}

/// A message, the large file and an echo.
fn exchange(cast: &mut Cast) {
    let Cast { a, b, to_b, .. } = &*cast;
    a.ok(&["send-message", to_b, "Analyze this dataset"]);
    assert_eq!(b.inbox(), ["Analyze this dataset"]);
    b.ok(&["send-message", "research-aws", "With pleasure"]);
    assert_eq!(a.inbox(), ["With pleasure"]);
    cast.story.done("messages");

    let before = relayed_bytes(&cast.server);
    send_file(cast, "dataset.csv", FILE);
    cast.story.done("a file of 10 MB");
    let carried = relayed_bytes(&cast.server) - before;
    let Cast { a, to_b, path, .. } = &*cast;
    if *path == "relayed" {
        assert!(carried >= FILE as u64, "the beacon carried {carried} bytes");
    }
    let echo = a.ok(&["echo", to_b, "--count", "5", "--bytes", "200000"]);
    let (other, summary) = match *path {
        "direct" => ("relayed", format!("{to_b} direct: rtt min")),
        _ => ("direct", format!("{to_b} relayed: rtt min")),
    };
    assert!(echo.contains(&summary) && !echo.contains(other), "{echo}");
    if *path == "direct" {
        assert!(relayed_bytes(&cast.server) < FILE as u64 / 10, "the file went straight");
    }
    cast.story.done("echo");
}

fn relayed_bytes(server: &Home) -> u64 {
    server.data(&["rendezvous", "status"])["counters"]["relayed_bytes"].as_u64().unwrap()
}

/// Sends a file of `len` bytes from a to b; b has the same bytes under the same hash.
#[track_caller]
fn send_file(cast: &Cast, name: &str, len: usize) {
    let Cast { a, b, to_b, path, .. } = cast;
    let file = a.beside(name);
    write_file(&file, len, len as u64);
    let count = b.received().len();
    let sent = a.data(&["send-file", to_b, file.to_str().unwrap()]);
    assert_eq!(sent["bytes"], len);
    // After a restart packets may take the relay until the direct path is proven; never the
    // other way round.
    assert!(*path == "direct" || sent["path"] == *path, "{sent}");
    let files = b.received();
    assert_eq!(files.len(), count + 1);
    let received = files.last().unwrap();
    assert_eq!((&received["name"], &received["bytes"]), (&name.into(), &len.into()));
    assert_eq!(received["hash"], sent["hash"]);
    let hash = sent["hash"].as_str().unwrap();
    assert!(hash.starts_with("blake3:") && hash.len() == 7 + 64, "{sent}");
    let there = std::fs::read(received["path"].as_str().unwrap()).unwrap();
    assert!(there == std::fs::read(&file).unwrap(), "{name} differs");
    assert!(b.ok(&["received"]).contains(name));
}

fn kill_and_restart(cast: &mut Cast, who: &str) {
    match who {
        "rendezvous" => {
            cast.server.kill("rendezvous");
            let (registry, beacon) = (&cast.registry, &cast.beacon);
            let line = ["--registry-addr", registry, "--beacon-addr", beacon];
            cast.server.ok(&[&["rendezvous", "start"][..], &line].concat());
        }
        who => {
            let home = if who == "a" { &cast.a } else { &cast.b };
            home.kill("daemon");
            // Bare: the settings are those of the last time.
            let report = home.data(&["daemon", "start"]);
            assert_eq!(report["first_contact"], false);
        }
    }
    cast.story.done(&format!("{who} killed and restarted"));
}

/// Both directions, the same addresses, the same trust, a file, the path expected.
fn works_as_before(cast: &Cast, killed: &str) {
    let Cast { a, b, to_a, to_b, path, .. } = cast;
    // The first thing after the restart, in both directions.
    let texts = [format!("to b after {killed}"), format!("to a after {killed}")];
    a.ok(&["send-message", to_b, &texts[0]]);
    assert_eq!(b.inbox().last(), Some(&texts[0]));
    b.ok(&["send-message", to_a, &texts[1]]);
    assert_eq!(a.inbox().last(), Some(&texts[1]));
    send_file(cast, &format!("after-{killed}.csv"), LATER_FILE);
    for (home, address, other) in [(a, to_a, to_b), (b, to_b, to_a)] {
        let info = home.data(&["info"]);
        assert_eq!((&info["address"], &info["network"]), (&address.as_str().into(), &1.into()));
        assert_eq!(mutual(home), other.replace("1:0001.", "0:0000."));
    }
    assert_eq!(a.ok(&["resolve", "analysis-gcp"]), *to_b);
    let line = format!("{to_a} research-aws [cloud=aws, region=us-east-1, role=research]");
    assert_eq!(b.ok(&["discover", "--tag", "role=research"]), line);
    let path_now = || b.data(&["echo", to_a, "--count", "2"])["path"].clone();
    match *path {
        "direct" => wait_for("the direct path is found again", || path_now() == "direct"),
        path => assert_eq!(path_now(), path),
    }
}

#[test]
fn ipv4() {
    walk_through("ipv4", "127.0.0.1:0", "direct");
}

#[test]
fn ipv6() {
    walk_through("ipv6", "[::1]:0", "direct");
}

#[test]
fn relay() {
    walk_through("relay", "127.0.0.1:0", "relayed");
}

/// What an agent may learn of others without trust is nothing, and its own daemon says so.
#[test]
fn a_third_agent_gets_exit_code_4_whoever_it_asks_for() {
    let mut story = Story::begin("third", Duration::from_secs(60));
    let (server, registry, beacon) = Home::rendezvous();
    let agents = [(); 3].map(|()| Home::agent(&registry, &beacon));
    let address = |i: usize| agents[i].1["address"].as_str().unwrap().to_owned();
    let [(public, _), (private, _), (third, _)] = &agents;
    public.ok(&["set-visibility", "public"]);
    // The two trust each other: what the third lacks is its own grant.
    public.ok(&["trust", "request", &address(1)]);
    request_of(private, &address(0));
    private.ok(&["trust", "approve", &address(0)]);
    mutual(public);
    public.ok(&["send-message", &address(1), "between us"]);
    story.done("two that trust each other, and a third");
    let file = third.beside("file");
    write_file(&file, 1000, 1);
    let ask = |server: &str| {
        let mut answers = Vec::new();
        for to in [address(0), address(1), "0:0000.0000.7777".to_owned()] {
            for line in [
                &["send-message", &to, "hi"][..],
                &["send-file", &to, file.to_str().unwrap()],
                &["echo", &to],
            ] {
                let run = third.run(&[line, &["--json"]].concat());
                assert_eq!(run.code, 4, "{server}: {line:?}: {}{}", run.out, run.err);
                // Nothing in the answer but the address says which one it is.
                answers.push(run.out.replace(&to, "ADDR"));
            }
            assert_eq!(third.run(&["connect", &to, "1"]).code, 4);
        }
        assert_eq!(answers[..3], answers[3..6]);
        assert_eq!(answers[..3], answers[6..]);
        answers
    };
    let online = ask("with a server");
    // Decided without the network.
    server.kill("rendezvous");
    assert_eq!(ask("without"), online);
    assert_eq!(private.inbox(), ["between us"]);
    assert!(public.inbox().is_empty() && public.received().is_empty());
    story.done("refused by its own daemon");
}
