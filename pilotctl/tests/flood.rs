//! A real daemon and a real rendezvous server under a million hostile packets and ten thousand
//! half-open connections: their memory stays within what their limits allow, and a newcomer
//! registers, becomes trusted and delivers a message meanwhile.
//!
//! `PILOT_FLOOD_PACKETS` is how many packets each of the two gets.

#![allow(clippy::disallowed_methods, reason = "tests of real processes live by the clock")]

mod support;

use pilot_core::addr::Address;
use pilot_core::limits::Limits;
use pilot_core::node::Event;
use pilot_core::rendezvous::RendezvousLimits;
use pilot_core::stats::DropReason;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::hostile::{Attack, Memory, Mix, beacon_key, descriptors};
use support::raw_node::RawNode;
use support::stolen_facts::Thief;
use support::{Home, Story, request_of, start, wait_for};

/// Each of daemon and beacon gets so many, unless the environment says otherwise.
const PACKETS: u64 = 500_000;
/// Half-open connections at the registry.
const CONNECTIONS: u32 = 10_000;
/// For so many packets there is a handshake that is never finished.
const PACKETS_PER_HANDSHAKE: u64 = 250;
/// A newcomer may take so long under attack; the machine may be slow.
const PATIENCE: Duration = Duration::from_secs(180);

/// So many times that many connect and leave, at the end.
const WAVES: u64 = 6;

/// What a half-open connection costs the server, in KiB: two buffers of 512 bytes, the state
/// around them, its place in the tables, a task and a socket of the runtime.
const CONNECTION_KIB: u64 = 6;
/// What does not depend on how many there are, in KiB: threads, caches of the allocator, the
/// message of the newcomer and its way to the disk.
const FIXED_KIB: u64 = 8 * 1024;

/// By how much the server may grow: connections, the queue of the beacon's answers with its
/// list of packets, and the state of those who are there by right.
fn server_growth_max() -> u64 {
    let limits = RendezvousLimits::server();
    let connections = u64::from(CONNECTIONS).min(limits.connections as u64) * CONNECTION_KIB;
    let queue = 2 * limits.relay_queue_bytes as u64 / 1024;
    connections + queue + FIXED_KIB
}

/// By how much the daemon may grow: its tables for strangers are a few cookies, and 8 bytes
/// for each source that has shown one.
fn daemon_growth_max() -> u64 {
    Limits::desktop().sources as u64 * 8 / 1024 + FIXED_KIB
}

fn connections_at_once() -> u32 {
    CONNECTIONS.min(u32::try_from(descriptors()).unwrap_or(u32::MAX))
}

struct Scene {
    server: Home,
    registry: String,
    beacon: String,
    daemon: Home,
    address: String,
    socket: SocketAddr,
    raw: RawNode,
    victim: Address,
    pids: [u64; 2],
}

impl Scene {
    /// A server, a daemon, and an attacker whom the daemon trusts.
    fn new() -> Scene {
        let (server, registry, beacon) = Home::rendezvous();
        let daemon = Home::new();
        let report = daemon.data(&start(&registry, &beacon));
        let address = report["address"].as_str().unwrap().to_owned();
        let victim: Address = address.parse().unwrap();
        let socket = report["sockets"][0].as_str().unwrap();
        let mut raw = RawNode::start(&registry, &beacon, socket);
        assert!(raw.run(PATIENCE, |raw| raw.node.address().is_some()));
        let own = raw.node.address().unwrap().to_string();
        let justification = "a friend".parse().unwrap();
        raw.command(pilot_core::node::Command::RequestTrust { to: victim, justification });
        raw.run(Duration::from_secs(1), |_| false);
        request_of(&daemon, &own);
        daemon.ok(&["trust", "approve", &own]);
        let granted = |raw: &mut RawNode| raw.events.contains(&Event::TrustGranted(victim));
        assert!(raw.run(PATIENCE, granted));
        let stream = raw.connect(victim, pilot_core::addr::Port::ECHO);
        raw.write(stream, b"hello");
        assert!(raw.run(PATIENCE, |raw| raw.read(stream) == b"hello"));
        let pid = |home: &Home, who| home.data(&[who, "status"])["pid"].as_u64().unwrap();
        let pids = [pid(&daemon, "daemon"), pid(&server, "rendezvous")];
        let socket = socket.parse().unwrap();
        Scene { server, registry, beacon, daemon, address, socket, raw, victim, pids }
    }

    fn thief(&self) -> Thief {
        let facts: Vec<_> = self.raw.facts.values().cloned().collect();
        let node = &self.raw.node;
        let victim = node.peers().find(|peer| peer.address == self.victim).unwrap().identity;
        let unix = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let hs_seq = u64::try_from(unix.as_millis()).unwrap();
        Thief::of(&facts, &node.registry_key().unwrap(), &node.identity(), &victim, hs_seq)
    }

    fn memory(&self) -> [Memory; 2] {
        self.pids.map(Memory::of)
    }

    fn drops(&self) -> [u64; 2] {
        let sum = |drops: &serde_json::Value| {
            let drops = drops.as_object().unwrap();
            let all = DropReason::ALL.iter().map(|reason| reason.as_str());
            let all: BTreeSet<_> = all.collect();
            assert_eq!(drops.keys().map(String::as_str).collect::<BTreeSet<_>>(), all);
            drops.values().map(|n| n.as_u64().unwrap()).sum()
        };
        let daemon = self.daemon.data(&["info"]);
        let server = self.server.data(&["rendezvous", "status"]);
        [sum(&daemon["drops"]), sum(&server["drops"])]
    }

    fn open_connections(&self) -> u64 {
        let status = self.server.data(&["rendezvous", "status"]);
        status["counters"]["registry_connections"].as_u64().unwrap()
    }

    /// Everything at once, and a newcomer in the middle of it; how many connections were open
    /// at once.
    fn flood(&self, packets: u64, text: &str) -> u64 {
        let registry: SocketAddr = self.registry.parse().unwrap();
        let beacon: SocketAddr = self.beacon.parse().unwrap();
        let at_beacon = beacon_key(registry);
        let mut thief = self.thief();
        let at_daemon = thief.victim.fields.tunnel;
        let index = self.raw.index_at_victim.expect("it has spoken with the daemon");
        let mix = Mix::new(&mut thief, &at_daemon, self.victim, index);
        let datagrams = Attack::datagrams(self.socket, mix, packets);
        let mix = Mix::new(&mut thief, &at_beacon, Address::BEACON, [0x80, 0, 0, 2]);
        let more = Attack::datagrams(beacon, mix, packets);
        let connections = Attack::connections(registry, connections_at_once());
        let thieves = [self.thief(), self.thief()];
        let [first, second] = thieves;
        let count = u32::try_from(packets / PACKETS_PER_HANDSHAKE).unwrap();
        let half = [
            Attack::handshakes(self.socket, first, at_daemon, self.victim, count),
            Attack::handshakes(beacon, second, at_beacon, Address::BEACON, count),
        ];
        // In the middle of it, not at its beginning.
        wait_for("the flood has begun", || datagrams.done() > 10_000 && more.done() > 10_000);
        let honest = Instant::now();
        self.newcomer(text);
        let honest = honest.elapsed();
        let memory = self.memory();
        let attacks = [&datagrams, &more, &connections, &half[0], &half[1]];
        let mut peak = 0;
        while attacks.iter().filter(|attack| !attack.is_over()).count() > 0 {
            peak = peak.max(self.open_connections());
            std::thread::sleep(Duration::from_millis(50));
        }
        let half = half.map(Attack::end);
        let [at_daemon, at_beacon, opened] = [datagrams, more, connections].map(Attack::end);
        println!(
            "{at_daemon} datagrams at the daemon, {at_beacon} at the beacon, {opened} connections, \
             {peak} at once, {half:?} half-open handshakes; newcomer through after {honest:.2?}, \
             memory then {memory:?}"
        );
        assert!(half.iter().all(|answered| *answered > 0), "{half:?}");
        peak
    }

    /// Connections alone, wave after wave: what one has left behind serves the next. How many
    /// were open at once.
    fn waves(&self) -> u64 {
        let registry: SocketAddr = self.registry.parse().unwrap();
        let each = connections_at_once();
        let begin = Instant::now();
        let connections = Attack::connections(registry, each);
        let mut peak = 0;
        while connections.done() < WAVES * u64::from(each) {
            peak = peak.max(self.open_connections());
            assert!(begin.elapsed() < PATIENCE, "{} connections", connections.done());
            std::thread::sleep(Duration::from_millis(50));
        }
        println!("{} connections in waves, {peak} at once", connections.end());
        peak
    }

    /// Somebody new registers, is trusted, and its message arrives.
    fn newcomer(&self, text: &str) {
        let begin = Instant::now();
        let agent = Home::new();
        let report = loop {
            let run = agent.run(&[&start(&self.registry, &self.beacon)[..], &["--json"]].concat());
            if run.code == 0 {
                let envelope: serde_json::Value = serde_json::from_str(run.out.trim()).unwrap();
                break envelope["data"].clone();
            }
            assert!(begin.elapsed() < PATIENCE, "{}\n{}", run.out, run.err);
        };
        println!("registered after {:.2?}", begin.elapsed());
        let own = report["address"].as_str().unwrap();
        agent.ok(&["trust", "request", &self.address, "--justification", "hello"]);
        let until = |what: &str, done: &dyn Fn() -> bool| {
            while !done() {
                assert!(begin.elapsed() < PATIENCE, "{what}");
                std::thread::sleep(Duration::from_millis(50));
            }
            println!("{what} after {:.2?}", begin.elapsed());
        };
        let approved = || self.daemon.run(&["trust", "approve", own]).code == 0;
        until("approved", &approved);
        let granted = || agent.data(&["trust", "list"])["peers"][0]["mutual"] == true;
        until("trusted", &granted);
        let sent = || agent.run(&["send-message", &self.address, text]).code == 0;
        until("sent", &sent);
        let inbox = self.daemon.inbox();
        assert!(inbox.iter().any(|message| message == text), "{inbox:?}");
    }
}

#[test]
fn floods_are_bounded_in_memory_and_let_a_newcomer_through() {
    let mut story = Story::begin("flood", Duration::from_secs(900));
    let packets = std::env::var("PILOT_FLOOD_PACKETS").ok().and_then(|n| n.parse().ok());
    let packets = packets.unwrap_or(PACKETS);
    let scene = Scene::new();
    let (before, drops_before) = (scene.memory(), scene.drops());
    println!("before {before:?}");
    story.done("a server, a daemon, an attacker");

    let peak = scene.flood(packets, "through the first flood");
    let (after, drops) = (scene.memory(), scene.drops());
    println!("after {after:?}, dropped {drops_before:?} then {drops:?}");
    story.done("the first flood");
    for (n, most) in [daemon_growth_max(), server_growth_max()].into_iter().enumerate() {
        let who = ["the daemon", "the server"][n];
        let peak = after[n].most - before[n].now;
        println!("{who} grew by {peak} KiB at most, {} allowed", most);
        assert!(peak <= most, "{who}: {before:?} {after:?}");
        // Of a mix like this, a sixth is answered with a cookie or STUN; the rest is dropped.
        let dropped = drops[n] - drops_before[n];
        assert!(dropped > packets / 2, "{who} saw only {dropped} of {packets}");
    }

    let peak_again = scene.flood(packets / 4, "through the second flood");
    let again = scene.memory();
    println!("after the second {again:?}");
    story.done("the second flood");
    // What there is more of than before may cost what it costs; nothing else is left behind.
    let more = peak_again.saturating_sub(peak) * CONNECTION_KIB;
    for (n, more) in [0, more].into_iter().enumerate() {
        let grown = again[n].most - after[n].most;
        assert!(grown <= FIXED_KIB + more, "{after:?} {again:?}");
    }

    let peak_of_waves = scene.waves();
    let at_last = scene.memory()[1];
    println!("the server after waves of connections: {at_last:?}");
    story.done("waves of connections");
    let more = peak_of_waves.saturating_sub(peak.max(peak_again)) * CONNECTION_KIB;
    let grown = at_last.most - again[1].most;
    assert!(grown <= FIXED_KIB + more, "{again:?} {at_last:?}");
    let none_left = || scene.open_connections() < u64::from(CONNECTIONS) / 100;
    wait_for("the server forgets connections", none_left);
}
