//! A forwarder in user space between all processes: what it carries shows nothing of messages
//! and files, and a data packet costs 62 bytes, 74 when relayed (`wire.md` 5).

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Stdio};
use std::time::Duration;
use support::forwarder::{Tape, TcpForwarder, UdpForwarder};
use support::{Home, Story, mutual, request_of, wait_for};

/// Of a prime length, so that it never lies alike in two packets.
const MARKER: &[u8] = b"never-in-clear!";
const COPIES: usize = 200_000;
/// UDP payload bytes that every path carries.
const BASE: usize = 1232;
/// Packets of the longest kind that only ask whether the path carries them.
const PROBES: usize = 24;
/// What a data packet costs.
const DIRECT: usize = 62;
const RELAYED: usize = DIRECT + 12;

/// An agent and the forwarders around it.
///
/// One agent has IPv4 alone and the other IPv6 alone, so that neither can reach the other but
/// through a forwarder, which has the other family on its other side.
struct Agent {
    home: Home,
    address: String,
    registry: TcpForwarder,
    beacon: UdpForwarder,
    /// The endpoint by which its peer reaches it.
    end: UdpForwarder,
}

impl Agent {
    fn new(host: IpAddr, other: IpAddr, registry: &str, beacon: &str, path: &str) -> Agent {
        let registry = TcpForwarder::new(host, registry.parse().unwrap());
        let to_beacon = UdpForwarder::new(host);
        to_beacon.set_target(beacon.parse().unwrap());
        let end = UdpForwarder::new(other);
        let home = Home::new();
        let at = [registry.address, to_beacon.address, end.address, SocketAddr::new(host, 0)];
        let at = at.map(|at| at.to_string());
        let line = ["daemon", "start", "--registry", &at[0], "--beacon", &at[1]];
        let more = ["--endpoint", &at[2], "--listen", &at[3], "--path", path];
        let report = home.data(&[&line[..], &more].concat());
        end.set_target(report["sockets"][0].as_str().unwrap().parse().unwrap());
        let address = report["address"].as_str().unwrap().to_owned();
        Agent { home, address, registry, beacon: to_beacon, end }
    }
}

/// Two agents that trust each other; everything between any two processes is on a tape.
struct Cast {
    _server: Home,
    a: Agent,
    b: Agent,
}

impl Cast {
    fn new(path: &str) -> Cast {
        let (server, registry, beacon) = Home::rendezvous();
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        let a = Agent::new(v4, v6, &registry, &beacon, path);
        let b = Agent::new(v6, v4, &registry, &beacon, path);
        a.home.ok(&["trust", "request", &b.address]);
        request_of(&b.home, &a.address);
        b.home.ok(&["trust", "approve", &a.address]);
        mutual(&a.home);
        Cast { _server: server, a, b }
    }

    /// Lengths of all datagrams that were on their way from a to b, in whichever session; a
    /// relayed one is taken where it leaves the server.
    fn lengths(&self, path: &str) -> Vec<usize> {
        let on = |tape: &Tape, forward| {
            let carried = tape.all().into_iter().filter(move |c| c.forward == forward);
            carried.map(|c| c.bytes.len())
        };
        match path {
            "relay" => on(&self.b.beacon.tape, false).collect(),
            _ => on(&self.b.end.tape, true).chain(on(&self.a.end.tape, false)).collect(),
        }
    }

    fn tapes(&self) -> [Tape; 6] {
        let tapes = |agent: &'_ Agent| -> [Tape; 3] {
            [&agent.registry.tape, &agent.beacon.tape, &agent.end.tape].map(Tape::clone)
        };
        let ([r, s, t], [x, y, z]) = (tapes(&self.a), tapes(&self.b));
        [r, s, t, x, y, z]
    }
}

fn tell(path: &'static str, cost: usize) {
    let mut story = Story::begin(path, Duration::from_secs(90));
    let cast = Cast::new(path);
    story.done("two agents behind forwarders");
    let text = String::from_utf8(MARKER.repeat(20)).unwrap();
    cast.a.home.ok(&["send-message", &cast.b.address, &text]);
    assert_eq!(cast.b.home.inbox(), [text]);
    story.done("a message");
    only_one_packet_of(&cast, path, 500, cost);
    story.done("a packet");

    let file = cast.a.home.beside("marked");
    let bytes = MARKER.repeat(COPIES);
    std::fs::write(&file, &bytes).unwrap();
    let before = cast.lengths(path);
    let sent = cast.a.home.data(&["send-file", &cast.b.address, file.to_str().unwrap()]);
    assert_eq!(sent["path"], if path == "relay" { "relayed" } else { "direct" });
    let received = cast.b.home.received();
    let there = std::fs::read(received[0]["path"].as_str().unwrap()).unwrap();
    assert!(there == bytes, "the file differs");
    story.done("a file");

    carried_all(&since(&cast.lengths(path), &before), bytes.len(), cost, path);
    for (i, tape) in cast.tapes().into_iter().enumerate() {
        assert!(!tape.has(MARKER), "the marker was carried in clear, tape {i}");
    }
    story.done("nothing was seen");
    // The same checker sees the same marker where it is sent in clear on the same way.
    for agent in [&cast.a, &cast.b] {
        let mut tcp = TcpStream::connect(agent.registry.address).unwrap();
        for piece in MARKER.chunks(7) {
            tcp.write_all(piece).unwrap();
        }
        for front in [agent.beacon.address, agent.end.address] {
            let any = SocketAddr::new(front.ip(), 0);
            UdpSocket::bind(any).unwrap().send_to(&MARKER.repeat(3), front).unwrap();
        }
    }
    wait_for("the control is seen", || cast.tapes().iter().all(|tape| tape.has(MARKER)));
    assert_eq!(cast.a.home.data(&["peers"])["peers"][0]["address"], cast.b.address.as_str());
    assert_eq!(cast.b.home.data(&["peers"])["peers"][0]["address"], cast.a.address.as_str());
}

/// What is in `all` besides what was in it before; both as sums of two tapes, so by count.
fn since(all: &[usize], before: &[usize]) -> Vec<usize> {
    let mut counts = BTreeMap::new();
    all.iter().for_each(|&n| *counts.entry(n).or_insert(0usize) += 1);
    before.iter().for_each(|n| *counts.get_mut(n).unwrap() -= 1);
    counts.into_iter().flat_map(|(n, count)| std::iter::repeat_n(n, count)).collect()
}

/// `len` bytes through a stream are in one packet, which has `cost` bytes more.
fn only_one_packet_of(cast: &Cast, path: &str, len: usize, cost: usize) {
    let spawn = |home: &Home, line: &[&str]| -> Child {
        let mut command = home.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut listener = spawn(&cast.b.home, &["listen", "7001"]);
    let begin = Story::begin("listener", Duration::from_secs(20));
    let mut begin = begin;
    let mut connector = loop {
        let mut child = spawn(&cast.a.home, &["connect", &cast.b.address, "7001"]);
        std::thread::sleep(Duration::from_millis(500));
        if child.try_wait().unwrap().is_none() {
            break child;
        }
        begin.done("nobody listens yet");
    };
    drop(listener.stdin.take());
    let before = cast.lengths(path);
    let text = MARKER.repeat(len.div_ceil(MARKER.len()));
    connector.stdin.take().unwrap().write_all(&text[..len]).unwrap();
    let got = listener.wait_with_output().unwrap();
    assert!(got.stdout == text[..len]);
    assert!(connector.wait().unwrap().success());
    let lengths = since(&cast.lengths(path), &before);
    // On a machine that is busy it may be sent again, but as it was; acknowledgements are shorter,
    // and probes of the path are as long as some path carries.
    let with_bytes: Vec<usize> =
        lengths.iter().copied().filter(|n| (len / 2..BASE).contains(n)).collect();
    assert!(!with_bytes.is_empty(), "{lengths:?}");
    assert!(with_bytes.iter().all(|&n| n == len + cost), "{lengths:?}");
}

/// The packets of a file of `len` bytes: long ones, each of which carries its length less `cost`.
/// How long they become is what the search for the path MTU found; its probes, which carry
/// nothing, are the longest.
fn carried_all(lengths: &[usize], len: usize, cost: usize, path: &str) {
    let long: Vec<usize> = lengths.iter().copied().filter(|&n| n >= BASE / 2).collect();
    let carried: usize = long.iter().map(|n| n - cost).sum();
    let longest = long.iter().max().copied().unwrap_or_default();
    println!("{path}: {} of {} packets are long, at most {longest}", long.len(), lengths.len());
    assert!(longest >= BASE, "what every path carries is used: {longest}");
    // Some of it is in shorter packets, at ends of what the program wrote at once; some is
    // sent again.
    assert!(carried >= len * 97 / 100, "{carried} of {len}");
    assert!(carried <= len * 125 / 100 + PROBES * longest, "{carried} for {len}");
}

#[test]
fn direct() {
    tell("direct", DIRECT);
}

#[test]
fn relayed() {
    tell("relay", RELAYED);
}
