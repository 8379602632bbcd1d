//! Nodes and the rendezvous machine on virtual time, over links that lose, delay, duplicate and
//! reorder, all drawn from one seed. The contract of `pilot_core` is asserted after every step.
//!
//! Beside the simulator, which has NATs, firewalls, hosts and a tape, this stays: its tests hold each
//! datagram in their hands, count allocations and measure the memory of bare nodes, and core uses no
//! crate that uses core (`docs/architecture.md` section 1).

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use pilot_core::addr::{Address, Port};
use pilot_core::crypto::{Identity, RUST_CRYPTO, TunnelSecret};
use pilot_core::limits::{DATAGRAM_DEFAULT, Limits};
use pilot_core::machine::{Ecn, Ingress, Machine, Path, Transmit};
use pilot_core::name::{Justification, parse_tags};
use pilot_core::node::{Command, Config, Event, Node, Reply, Storage, StreamError, StreamId};
use pilot_core::rendezvous::{Change, ConnId, Event as ServerEvent, Rendezvous, RendezvousConfig};
use pilot_core::rng::Rng;
use pilot_core::time::{Duration, Instant, UnixTime};
use pilot_core::trust::Permissions;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroUsize;

pub const UNIX: UnixTime = UnixTime::from_secs(1_800_000_000);

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What UDP datagrams suffer; TCP is reliable and has the delay alone.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// One way.
    pub delay: Duration,
    /// Added at random; reorders.
    pub jitter: Duration,
    /// Of 1,000.
    pub loss: u64,
    /// Of 1,000.
    pub duplicates: u64,
}

impl Link {
    pub const CLEAN: Link =
        Link { delay: Duration::from_millis(10), jitter: Duration::ZERO, loss: 0, duplicates: 0 };
}

/// Whether a datagram is lost.
pub type Loss = fn(SocketAddr, SocketAddr, &[u8]) -> bool;

enum Item {
    Udp { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    Opened { agent: usize, conn: ConnId },
    Refused { agent: usize },
    ToServer { conn: ConnId, bytes: Vec<u8> },
    ToAgent { agent: usize, conn: ConnId, bytes: Vec<u8> },
    ServerCloses { agent: usize, conn: ConnId },
    AgentCloses { conn: ConnId },
}

/// A datagram that an application received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub from: pilot_core::addr::SocketAddress,
    pub to: Port,
    pub payload: Vec<u8>,
}

pub struct Agent {
    pub node: Node<'static>,
    pub disk: BTreeMap<[u8; 8], Vec<u8>>,
    pub socket: SocketAddr,
    pub identity: [u8; 32],
    pub config: Config,
    pub conn: Option<ConnId>,
    pub events: Vec<Event>,
    pub datagrams: Vec<Received>,
    /// The process runs.
    pub up: bool,
    pub starts: u8,
}

pub struct World {
    pub seed: u64,
    pub now: Instant,
    pub link: Link,
    pub agents: Vec<Agent>,
    pub server: Rendezvous,
    pub server_up: bool,
    server_disk: BTreeMap<(u8, Vec<u8>), Change>,
    server_starts: u8,
    /// Pairs of hosts that cannot reach each other by UDP.
    pub cut: BTreeSet<(SocketAddr, SocketAddr)>,
    /// Loses the datagrams for which it says so: from, to, bytes.
    pub lose: Option<Loss>,
    /// Called right after an agent got a datagram or bytes of the registry, before anything is
    /// polled.
    pub on_input: Option<fn(&mut Agent, Instant)>,
    /// Everything that was sent by UDP, if recording.
    pub wire: Option<Vec<(SocketAddr, SocketAddr, Vec<u8>)>>,
    items: BTreeMap<(Instant, u64), Item>,
    serial: u64,
    next_conn: u64,
    owners: BTreeMap<ConnId, usize>,
    rng: Rng,
    steps: u64,
    storage: fn(&Limits) -> Storage<'static>,
}

pub fn beacon_socket() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 9001))
}

fn make_server(starts: u8, now: Instant, unix: UnixTime) -> Rendezvous {
    let mut config = RendezvousConfig::default();
    config.beacon.push(beacon_socket()).expect("one address fits");
    let identity = Identity::from_secret([200; 32]);
    let tunnel = TunnelSecret::from_secret([201; 32]);
    Rendezvous::new(config, identity, tunnel, &RUST_CRYPTO, [starts; 32], now, unix)
}

impl World {
    pub fn new(seed: u64, link: Link, agents: usize) -> Self {
        World::over(seed, link, agents, Storage::boxed)
    }

    /// Agents whose tables are made by `storage`.
    pub fn over(
        seed: u64,
        link: Link,
        agents: usize,
        storage: fn(&Limits) -> Storage<'static>,
    ) -> Self {
        let now = Instant::START + secs(1000);
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        let mut world = World {
            seed,
            now,
            link,
            agents: Vec::new(),
            server: make_server(1, now, UNIX),
            server_up: true,
            server_disk: BTreeMap::new(),
            server_starts: 1,
            cut: BTreeSet::new(),
            lose: None,
            on_input: None,
            wire: None,
            items: BTreeMap::new(),
            serial: 0,
            next_conn: 0,
            owners: BTreeMap::new(),
            rng: Rng::new(bytes),
            steps: 0,
            storage,
        };
        for _ in 0..agents {
            world.add(Config { limits: test_limits(), ..Config::default() });
        }
        world
    }

    pub fn unix(&self) -> UnixTime {
        UNIX + self.now.since(Instant::START + secs(1000))
    }

    /// Adds and starts an agent.
    pub fn add(&mut self, config: Config) -> usize {
        let n = self.agents.len();
        let identity = [n as u8 + 1; 32];
        let socket = SocketAddr::from(([198, 51, 100, n as u8 + 1], 4000));
        let node = self.make(&config, identity, &BTreeMap::new());
        self.agents.push(Agent {
            node,
            disk: BTreeMap::new(),
            socket,
            identity,
            config,
            conn: None,
            events: Vec::new(),
            datagrams: Vec::new(),
            up: true,
            starts: 1,
        });
        self.begin(n);
        n
    }

    /// Starts a copy of an agent's home as another process at another address.
    pub fn add_copy(&mut self, of: usize, config: Config) -> usize {
        let n = self.add(config.clone());
        let (identity, disk) = (self.agents[of].identity, self.agents[of].disk.clone());
        self.kill(n);
        self.agents[n].identity = identity;
        self.agents[n].disk = disk;
        self.revive(n);
        n
    }

    fn make(
        &mut self,
        config: &Config,
        identity: [u8; 32],
        disk: &BTreeMap<[u8; 8], Vec<u8>>,
    ) -> Node<'static> {
        let identity = Identity::from_secret(identity);
        let seed = self.rng.bytes();
        let unix = self.unix();
        let storage = (self.storage)(&config.limits);
        let config = config.clone();
        let mut node = Node::new(config, identity, &RUST_CRYPTO, seed, self.now, unix, storage);
        for (key, value) in disk {
            node.load(*key, value).expect("what was stored loads");
        }
        node
    }

    fn begin(&mut self, n: usize) {
        let now = self.now;
        let agent = &mut self.agents[n];
        agent.node.start(now);
        let locals = [agent.socket];
        agent.node.command(now, Command::NetworkChanged { locals: &locals }).expect("accepted");
        let address = beacon_socket();
        agent.node.command(now, Command::SetBeacon { address }).expect("accepted");
    }

    /// The process dies without a word.
    pub fn kill(&mut self, n: usize) {
        if let Some(conn) = self.agents[n].conn.take() {
            self.later(Item::AgentCloses { conn });
        }
        self.agents[n].up = false;
    }

    /// It starts again with what is on its disk.
    pub fn revive(&mut self, n: usize) {
        let (config, identity) = (self.agents[n].config.clone(), self.agents[n].identity);
        let disk = self.agents[n].disk.clone();
        let node = self.make(&config, identity, &disk);
        let agent = &mut self.agents[n];
        agent.node = node;
        agent.events.clear();
        agent.up = true;
        agent.starts += 1;
        self.begin(n);
    }

    pub fn kill_server(&mut self) {
        self.server_up = false;
        for n in 0..self.agents.len() {
            if let Some(conn) = self.agents[n].conn {
                self.later(Item::ServerCloses { agent: n, conn });
            }
        }
        self.owners.clear();
    }

    pub fn revive_server(&mut self) {
        self.server_starts += 1;
        self.server = make_server(self.server_starts, self.now, self.unix());
        for change in self.server_disk.values() {
            self.server.apply(change).expect("what was stored loads");
        }
        self.server_up = true;
    }

    /// No UDP between these two agents, in either direction.
    pub fn cut_agents(&mut self, a: usize, b: usize) {
        let (a, b) = (self.agents[a].socket, self.agents[b].socket);
        self.cut.insert((a, b));
        self.cut.insert((b, a));
    }

    fn later(&mut self, item: Item) {
        self.after(self.link.delay, item);
    }

    fn after(&mut self, span: Duration, item: Item) {
        self.serial += 1;
        self.items.insert((self.now + span, self.serial), item);
    }

    /// Puts a datagram on the wire, as any host could.
    pub fn send_udp(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        if let Some(wire) = &mut self.wire {
            wire.push((from, to, bytes.clone()));
        }
        if self.cut.contains(&(from, to)) || self.lose.is_some_and(|lost| lost(from, to, &bytes)) {
            return;
        }
        let copies = 1 + usize::from(self.rng.below(1000) < self.link.duplicates);
        for _ in 0..copies {
            if self.rng.below(1000) < self.link.loss {
                continue;
            }
            let jitter = Duration::from_nanos(self.rng.below(self.link.jitter.as_nanos() as u64));
            let span = self.link.delay + jitter;
            self.after(span, Item::Udp { from, to, bytes: bytes.clone() });
        }
    }

    // ---- running ----

    /// Lets everything happen up to `span` from now.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.drain();
            let next = self.next();
            if next > end {
                self.now = end;
                return;
            }
            self.step_to(next);
        }
    }

    /// Runs until `done`; panics after `span`. Gives the time it took.
    pub fn run_until(
        &mut self,
        span: Duration,
        mut done: impl FnMut(&mut World) -> bool,
    ) -> Duration {
        let begin = self.now;
        loop {
            self.drain();
            if done(self) {
                self.drain();
                return self.now.since(begin);
            }
            self.drain();
            let next = self.next();
            assert!(
                next <= begin + span,
                "not done within {span:?} (seed {}): {}",
                self.seed,
                self.describe()
            );
            self.step_to(next);
        }
    }

    fn step_to(&mut self, next: Instant) {
        self.steps += 1;
        assert!(self.steps < 50_000_000, "a world that never comes to rest (seed {})", self.seed);
        self.now = next;
        while let Some(entry) = self.items.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let item = entry.remove();
            self.deliver(item);
        }
        let now = self.now;
        for agent in self.agents.iter_mut().filter(|a| a.up) {
            agent.node.handle_batch_end(now);
            agent.node.handle_timeout(now);
        }
        if self.server_up {
            self.server.handle_timeout(now);
        }
    }

    pub fn describe(&self) -> String {
        let mut text = String::new();
        for agent in &self.agents {
            text += &format!(
                "\n{:?} up {} {:?} drops {:?} events {:?}",
                agent.node,
                agent.up,
                agent.node.peers().map(|p| (p.address, p.path, p.grants_us)).collect::<Vec<_>>(),
                agent.node.drops(),
                agent.events
            );
        }
        text + &format!("\n{:?} drops {:?}", self.server, self.server.drops())
    }

    /// The next moment at which something happens. Asserts contract rule 3: after a full drain
    /// every deadline is strictly later.
    fn next(&self) -> Instant {
        let mut next = self.items.keys().next().map_or(Instant::NEVER, |k| k.0);
        for (n, agent) in self.agents.iter().enumerate().filter(|(_, a)| a.up) {
            if let Some(timeout) = agent.node.poll_timeout() {
                assert!(
                    timeout.at > self.now,
                    "agent {n} spins: {timeout:?} at {:?} (seed {})",
                    self.now,
                    self.seed
                );
                next = next.min(timeout.at);
            }
        }
        if self.server_up
            && let Some(timeout) = self.server.poll_timeout()
        {
            assert!(timeout.at > self.now, "the server spins: {timeout:?}");
            next = next.min(timeout.at);
        }
        next
    }

    fn deliver(&mut self, item: Item) {
        let now = self.now;
        match item {
            Item::Udp { from, to, mut bytes } => {
                if to == beacon_socket() {
                    if self.server_up {
                        let path = Path::to(from);
                        let _ = self.server.handle_datagram(now, path, Ecn::NotEct, &mut bytes);
                    }
                } else if let Some(agent) = self.agents.iter_mut().find(|a| a.socket == to && a.up)
                {
                    let path = Path::to(from);
                    let ingress = agent.node.handle_datagram(now, path, Ecn::NotEct, &mut bytes);
                    if let Ingress::Datagram { from, to, payload } = ingress {
                        let payload = payload.to_vec();
                        agent.datagrams.push(Received { from, to, payload });
                    }
                    if let Some(on_input) = self.on_input {
                        on_input(agent, now);
                    }
                }
            }
            Item::Opened { agent, conn } => {
                if self.agents[agent].conn == Some(conn) {
                    let remote = self.agents[agent].socket;
                    self.server.handle_open(now, conn, remote);
                    self.owners.insert(conn, agent);
                    self.agents[agent].node.handle_registry_open(now);
                }
            }
            Item::Refused { agent } => self.agents[agent].node.handle_registry_close(now),
            Item::ToServer { conn, bytes } => {
                if self.server_up && self.owners.contains_key(&conn) {
                    self.server.handle_bytes(now, conn, &bytes);
                }
            }
            Item::ToAgent { agent, conn, bytes } => {
                if self.agents[agent].conn == Some(conn) {
                    self.agents[agent].node.handle_bytes(now, &bytes);
                    if let Some(on_input) = self.on_input {
                        on_input(&mut self.agents[agent], now);
                    }
                }
            }
            Item::ServerCloses { agent, conn } => {
                if self.agents[agent].conn == Some(conn) {
                    self.agents[agent].conn = None;
                    self.agents[agent].node.handle_registry_close(now);
                }
            }
            Item::AgentCloses { conn } => {
                if self.server_up && self.owners.remove(&conn).is_some() {
                    self.server.handle_close(now, conn);
                }
            }
        }
        self.drain();
    }

    /// Polls everything until nothing is left.
    pub fn drain(&mut self) {
        for n in 0..self.agents.len() {
            while self.agents[n].up && self.drain_agent(n) {}
        }
        while self.server_up && self.drain_server() {}
    }

    fn drain_agent(&mut self, n: usize) -> bool {
        let now = self.now;
        let mut did = false;
        let mut out = vec![0; 65_536];
        let segments = NonZeroUsize::new(16).expect("not zero");
        let from = self.agents[n].socket;
        while let Some(transmit) = self.agents[n].node.poll_transmit(now, &mut out, segments) {
            did = true;
            for (to, bytes) in split(&transmit, &out) {
                self.send_udp(from, to, bytes);
            }
        }
        let mut value = [0; 2048];
        let mut sequence = None;
        while let Some(change) = self.agents[n].node.poll_store(&mut value) {
            did = true;
            let disk = &mut self.agents[n].disk;
            match change.len {
                Some(len) => drop(disk.insert(change.key, value[..len].to_vec())),
                None => drop(disk.remove(&change.key)),
            }
            sequence = Some(change.sequence);
        }
        if let Some(sequence) = sequence {
            self.agents[n].node.handle_stored(now, sequence);
        }
        while let Some(event) = self.agents[n].node.poll_event() {
            did = true;
            self.agent_event(n, event);
        }
        self.pump_registry(n);
        did
    }

    fn agent_event(&mut self, n: usize, event: Event) {
        match event {
            Event::DialRegistry if self.server_up => {
                self.next_conn += 1;
                let conn = ConnId(self.next_conn);
                self.agents[n].conn = Some(conn);
                self.later(Item::Opened { agent: n, conn });
            }
            Event::DialRegistry => self.later(Item::Refused { agent: n }),
            Event::CloseRegistry => {
                if let Some(conn) = self.agents[n].conn.take() {
                    self.later(Item::AgentCloses { conn });
                }
                let now = self.now;
                self.agents[n].node.handle_registry_close(now);
            }
            Event::RegistryBytes | Event::Store => {}
            event => self.agents[n].events.push(event),
        }
    }

    fn pump_registry(&mut self, n: usize) {
        let Some(conn) = self.agents[n].conn else { return };
        let mut buf = vec![0; 8192];
        loop {
            let len = self.agents[n].node.poll_bytes(self.now, &mut buf);
            if len == 0 {
                return;
            }
            self.later(Item::ToServer { conn, bytes: buf[..len].to_vec() });
        }
    }

    fn drain_server(&mut self) -> bool {
        let now = self.now;
        let mut did = false;
        let mut out = vec![0; 65_536];
        while let Some(transmit) = self.server.poll_transmit(now, &mut out, NonZeroUsize::MIN) {
            did = true;
            for (to, bytes) in split(&transmit, &out) {
                self.send_udp(beacon_socket(), to, bytes);
            }
        }
        while let Some(commit) = self.server.poll_commit(now) {
            did = true;
            for change in &commit.changes {
                let key = (change.table as u8, change.key.clone());
                if change.value.is_some() {
                    self.server_disk.insert(key, change.clone());
                } else {
                    self.server_disk.remove(&key);
                }
            }
            self.server.handle_commit(now, commit.id, true);
        }
        while let Some(event) = self.server.poll_event() {
            did = true;
            match event {
                ServerEvent::ConnectionWritable(conn) => {
                    let Some(&agent) = self.owners.get(&conn) else { continue };
                    loop {
                        let len = self.server.poll_bytes(now, conn, &mut out);
                        if len == 0 {
                            break;
                        }
                        self.later(Item::ToAgent { agent, conn, bytes: out[..len].to_vec() });
                    }
                }
                ServerEvent::CloseConnection(conn) => {
                    if let Some(agent) = self.owners.remove(&conn) {
                        self.later(Item::ServerCloses { agent, conn });
                    }
                }
                _ => {}
            }
        }
        did
    }

    // ---- what tests do ----

    pub fn command(&mut self, n: usize, command: Command<'_>) -> Reply {
        let reply = self.agents[n].node.command(self.now, command);
        self.drain();
        reply.unwrap_or_else(|e| panic!("command refused: {e}"))
    }

    pub fn address(&self, n: usize) -> Address {
        self.agents[n].node.address().expect("registered")
    }

    pub fn saw(&self, n: usize, event: Event) -> bool {
        self.agents[n].events.contains(&event)
    }

    /// Everybody is registered and the beacon answers.
    pub fn register(&mut self) -> Duration {
        self.run_until(secs(60), |w| {
            w.agents.iter().all(|a| {
                a.node.address().is_some() && a.node.link() == pilot_core::node::Link::Online
            })
        })
    }

    /// `a` asks, `b` approves, both hold grants.
    pub fn trust(&mut self, a: usize, b: usize) -> Duration {
        let (from, to) = (self.address(a), self.address(b));
        let justification = Justification::cleaned("to test");
        self.command(a, Command::RequestTrust { to, justification });
        let begin = self.now;
        self.run_until(secs(30), |w| w.agents[b].node.trust_requests().any(|r| r.from == from));
        self.command(b, Command::ApproveTrust { from, permissions: Permissions::ALL });
        self.run_until(secs(30), |w| w.holds_grant(a, to) && w.holds_grant(b, from));
        self.now.since(begin)
    }

    pub fn holds_grant(&self, n: usize, of: Address) -> bool {
        self.agents[n].node.peers().any(|p| p.address == of && p.grants_us)
    }

    pub fn connect(&mut self, from: usize, to: usize, port: u16) -> StreamId {
        let to = self.address(to);
        let Reply::Stream(id) = self.command(from, Command::Connect { to, port: Port(port) })
        else {
            panic!("a stream was asked for");
        };
        id
    }

    pub fn listen(&mut self, n: usize, port: u16) {
        self.command(n, Command::Listen { port: Port(port) });
    }

    /// Writes what there is room for; 0 if there is none.
    pub fn write(&mut self, n: usize, id: StreamId, bytes: &[u8]) -> usize {
        let now = self.now;
        let mut stream = self.agents[n].node.stream(id).expect("the stream exists");
        match stream.write(now, bytes) {
            Ok(len) => len,
            Err(StreamError::WouldBlock) => 0,
            Err(e) => panic!("write failed: {e} (seed {})", self.seed),
        }
    }

    /// Reads all there is; true if the end was reached.
    pub fn read(&mut self, n: usize, id: StreamId, into: &mut Vec<u8>) -> bool {
        let now = self.now;
        let mut buf = [0; 16_384];
        loop {
            let Some(mut stream) = self.agents[n].node.stream(id) else { return false };
            match stream.read(now, &mut buf) {
                Ok(0) => return true,
                Ok(len) => into.extend_from_slice(&buf[..len]),
                Err(StreamError::WouldBlock) => return false,
                Err(e) => panic!("read failed: {e} (seed {})", self.seed),
            }
        }
    }

    pub fn finish(&mut self, n: usize, id: StreamId) {
        let now = self.now;
        let mut stream = self.agents[n].node.stream(id).expect("the stream exists");
        stream.finish(now).expect("it can be finished");
    }

    /// Sends `bytes` from `a` to a listener of `b` and checks that they arrive; gives the time
    /// from connecting to the last byte.
    pub fn transfer(
        &mut self,
        a: usize,
        b: usize,
        port: u16,
        bytes: &[u8],
        most: Duration,
    ) -> Duration {
        let id = self.connect(a, b, port);
        let (mut sent, mut finished) = (0, false);
        let mut accepted = None;
        let mut got = Vec::new();
        let took = self.run_until(most, |w| {
            sent += w.write_some(a, id, &bytes[sent..]);
            if sent == bytes.len() && !finished {
                w.finish(a, id);
                finished = true;
            }
            if accepted.is_none() {
                accepted = w.agents[b].node.accept(Port(port));
            }
            accepted.is_some_and(|id| w.read(b, id, &mut got))
        });
        assert!(got == bytes, "{} of {} bytes, or other ones", got.len(), bytes.len());
        let now = self.now;
        self.agents[a].node.release(now, id);
        self.agents[b].node.release(now, accepted.expect("it was read from"));
        took
    }

    fn write_some(&mut self, n: usize, id: StreamId, bytes: &[u8]) -> usize {
        if bytes.is_empty() { 0 } else { self.write(n, id, bytes) }
    }
}

fn split(transmit: &Transmit, out: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
    let size = transmit.segment.map_or(transmit.len.max(1), |s| usize::from(s.get()));
    out[..transmit.len].chunks(size).map(|c| (transmit.path.remote, c.to_vec())).collect()
}

/// Limits of a desktop, with less memory.
pub fn test_limits() -> Limits {
    Limits {
        peers: 16,
        sessions: 96,
        streams: 64,
        buffer_bytes: 8 * 1024 * 1024,
        frames: 4096,
        // These links carry anything; the search for larger sizes is tested in `sim`.
        datagram: DATAGRAM_DEFAULT,
        ..Limits::desktop()
    }
}

pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

pub fn tags(text: &str) -> pilot_core::name::Tags {
    parse_tags(text).expect("valid tags")
}
