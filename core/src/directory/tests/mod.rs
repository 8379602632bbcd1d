//! The directory against the real rendezvous machine, over in-memory bytes and virtual time.

mod beacon;
mod registry;
mod trust;

use super::*;
use crate::crypto::RUST_CRYPTO;
use crate::journal::VALUE_MAX;
use crate::limits::Limits;
use crate::machine::{Machine, SocketId};
use crate::name::Justification;
use crate::rendezvous::{ConnId, Event as ServerEvent, Rendezvous, RendezvousConfig};
use crate::trust::{Permissions, TrustEvent};
use crate::wire::control::BeaconError;
use core::num::NonZeroUsize;
use std::collections::BTreeMap;
use std::string::String;
use std::vec::Vec;

pub(super) const LATENCY: Duration = Duration::from_millis(10);
const UNIX: UnixTime = UnixTime::from_secs(1_800_000_000);

pub(super) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(super) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn beacon_socket() -> SocketAddr {
    "192.0.2.1:9001".parse().unwrap()
}

/// What is on its way.
pub(super) enum Item {
    UdpToServer(usize, Vec<u8>),
    UdpToAgent(usize, Vec<u8>),
    Opened(usize, ConnId),
    Refused(usize),
    ToServer(ConnId, Vec<u8>),
    ToAgent(usize, ConnId, Vec<u8>),
    ServerCloses(usize, ConnId),
    AgentCloses(ConnId),
}

pub(super) struct Agent {
    pub(super) dir: Directory<'static>,
    pub(super) disk: BTreeMap<[u8; 8], Vec<u8>>,
    pub(super) socket: SocketAddr,
    pub(super) identity: [u8; 32],
    pub(super) config: Config,
    pub(super) limits: Limits,
    conn: Option<ConnId>,
    pub(super) events: Vec<DirectoryEvent>,
    /// Writes are not carried out.
    pub(super) disk_stuck: bool,
    /// Its datagrams are lost.
    pub(super) cut: bool,
    /// What comes for it over TCP is lost.
    pub(super) deaf: bool,
    /// Its dials fail.
    pub(super) no_tcp: bool,
    pub(super) dials: u32,
    /// Packets that came over relay channels.
    pub(super) relayed: Vec<(PeerIndex, Vec<u8>)>,
    /// Bytes it sent over TCP and UDP.
    pub(super) sent: u64,
    pub(super) inits: u64,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) server: Rendezvous,
    pub(super) server_up: bool,
    pub(super) server_disk: BTreeMap<Vec<u8>, crate::rendezvous::Change>,
    pub(super) server_key: [u8; 32],
    server_tunnel: [u8; 32],
    server_seed: u8,
    beacon_serial: u64,
    pub(super) agents: Vec<Agent>,
    items: BTreeMap<(Instant, u64), Item>,
    serial: u64,
    next_conn: u64,
    conn_owner: BTreeMap<ConnId, usize>,
    /// How far the agents' wall clocks are ahead of the server's.
    pub(super) ahead: Duration,
}

impl World {
    pub(super) fn new(agents: usize) -> Self {
        let now = Instant::START + secs(1000);
        let (server_key, server_tunnel) = ([200; 32], [201; 32]);
        let mut world = World {
            now,
            server: Self::make_server(server_key, server_tunnel, 1, 1, now, UNIX),
            server_up: true,
            server_disk: BTreeMap::new(),
            server_key,
            server_tunnel,
            server_seed: 1,
            beacon_serial: 1,
            agents: Vec::new(),
            items: BTreeMap::new(),
            serial: 0,
            next_conn: 0,
            conn_owner: BTreeMap::new(),
            ahead: Duration::ZERO,
        };
        for _ in 0..agents {
            world.add(Config::default(), Limits::small_for_tests());
        }
        world
    }

    fn make_server(
        key: [u8; 32],
        tunnel: [u8; 32],
        seed: u8,
        beacon_serial: u64,
        now: Instant,
        unix: UnixTime,
    ) -> Rendezvous {
        let mut config = RendezvousConfig { beacon_serial, ..RendezvousConfig::default() };
        config.beacon.push(beacon_socket()).unwrap();
        let (identity, tunnel) = (Identity::from_secret(key), TunnelSecret::from_secret(tunnel));
        Rendezvous::new(config, identity, tunnel, &RUST_CRYPTO, [seed; 32], now, unix)
    }

    pub(super) fn unix(&self) -> UnixTime {
        UNIX + self.now.since(Instant::START + secs(1000))
    }

    /// Adds and starts an agent.
    pub(super) fn add(&mut self, config: Config, limits: Limits) -> usize {
        let n = self.agents.len();
        let identity = [n as u8 + 1; 32];
        let socket = std::format!("198.51.100.{}:4000", n + 1).parse().unwrap();
        let dir = self.make_agent(&config, &limits, identity, &BTreeMap::new(), n as u8);
        self.agents.push(Agent {
            dir,
            disk: BTreeMap::new(),
            socket,
            identity,
            config,
            limits,
            conn: None,
            events: Vec::new(),
            disk_stuck: false,
            cut: false,
            deaf: false,
            no_tcp: false,
            dials: 0,
            relayed: Vec::new(),
            sent: 0,
            inits: 0,
        });
        self.agents[n].dir.start(self.now);
        n
    }

    fn make_agent(
        &self,
        config: &Config,
        limits: &Limits,
        identity: [u8; 32],
        disk: &BTreeMap<[u8; 8], Vec<u8>>,
        seed: u8,
    ) -> Directory<'static> {
        let identity = Identity::from_secret(identity);
        let unix = self.unix() + self.ahead;
        let rng = Rng::new([seed; 32]);
        let config = config.clone();
        let mut dir = Directory::boxed(config, limits, identity, &RUST_CRYPTO, rng, self.now, unix);
        for (key, value) in disk {
            dir.load(*key, value).unwrap();
        }
        dir
    }

    /// The process dies and starts again with what is on its disk.
    pub(super) fn restart(&mut self, n: usize) {
        self.hang_up(n);
        let agent = &self.agents[n];
        let seed = 100 + (self.serial % 100) as u8;
        let dir = self.make_agent(&agent.config, &agent.limits, agent.identity, &agent.disk, seed);
        self.agents[n].dir = dir;
        self.agents[n].events.clear();
        self.agents[n].dir.start(self.now);
    }

    fn hang_up(&mut self, n: usize) {
        if let Some(conn) = self.agents[n].conn.take() {
            self.later(Item::AgentCloses(conn));
        }
    }

    /// The server's process dies.
    pub(super) fn stop_server(&mut self) {
        self.server_up = false;
        for n in 0..self.agents.len() {
            if self.agents[n].conn.take().is_some() {
                self.agents[n].dir.handle_close(self.now);
            }
        }
        self.conn_owner.clear();
        self.items.retain(|_, item| {
            !matches!(item, Item::UdpToServer(..) | Item::ToServer(..) | Item::ToAgent(..))
        });
    }

    /// It starts again with what was committed.
    pub(super) fn start_server(&mut self) {
        self.server_seed += 1;
        let (key, tunnel) = (self.server_key, self.server_tunnel);
        self.beacon_serial += 1;
        let (seed, serial) = (self.server_seed, self.beacon_serial);
        let mut server = Self::make_server(key, tunnel, seed, serial, self.now, self.unix());
        // Another identity is another registry, with another store.
        if key == [200; 32] {
            for change in self.server_disk.values() {
                server.apply(change).unwrap();
            }
        }
        self.server = server;
        self.server_up = true;
    }

    pub(super) fn later(&mut self, item: Item) {
        self.serial += 1;
        self.items.insert((self.now + LATENCY, self.serial), item);
    }

    // ---- running ----

    /// Lets everything happen up to `span` from now.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.drain();
            let next = self.next().min(end);
            assert!(next >= self.now);
            self.now = next;
            if next == end && self.items.keys().next().is_none_or(|k| k.0 > end) {
                self.fire();
                self.drain();
                return;
            }
            self.deliver();
            self.fire();
        }
    }

    /// Runs until `done`, at most `span`; gives the time it took.
    pub(super) fn run_until(
        &mut self,
        span: Duration,
        mut done: impl FnMut(&World) -> bool,
    ) -> Duration {
        let begin = self.now;
        loop {
            self.drain();
            if done(self) {
                return self.now.since(begin);
            }
            let next = self.next();
            assert!(next <= begin + span, "not done within {span:?}: {}", self.describe());
            self.now = next;
            self.deliver();
            self.fire();
        }
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for agent in &self.agents {
            text += &std::format!("\n{:?} {:?} {:?}", agent.dir, agent.events, agent.dir.drops());
        }
        text + &std::format!("\n{:?} {:?}", self.server, self.server.drops())
    }

    fn next(&self) -> Instant {
        let mut next = self.items.keys().next().map_or(Instant::NEVER, |k| k.0);
        for agent in &self.agents {
            if let Some(timeout) = agent.dir.poll_timeout() {
                // Contract 3: after a full drain the next deadline is strictly later. (A stuck
                // disk keeps nothing due: its edge was taken.)
                assert!(timeout.at > self.now, "{:?} spins: {:?}", agent.dir, timeout);
                next = next.min(timeout.at);
            }
        }
        if self.server_up
            && let Some(timeout) = self.server.poll_timeout()
        {
            next = next.min(timeout.at.max(self.now));
        }
        next
    }

    fn fire(&mut self) {
        for agent in &mut self.agents {
            agent.dir.handle_timeout(self.now);
        }
        if self.server_up {
            self.server.handle_timeout(self.now);
        }
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.items.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let item = entry.remove();
            self.deliver_item(item);
            self.drain();
        }
    }

    fn deliver_item(&mut self, item: Item) {
        let now = self.now;
        match item {
            Item::UdpToServer(n, mut bytes) if self.server_up => {
                let path = Path::to(self.agents[n].socket);
                let _ = self.server.handle_datagram(now, path, Ecn::NotEct, &mut bytes);
            }
            Item::UdpToAgent(n, mut bytes) if !self.agents[n].cut => {
                let agent = &mut self.agents[n];
                let path = Path::to(beacon_socket());
                match agent.dir.handle_datagram(now, path, &mut bytes) {
                    Inbound::Relayed { peer, packet, .. } => {
                        agent.relayed.push((peer, packet.to_vec()));
                    }
                    Inbound::Handled | Inbound::Dropped(_) => {}
                }
            }
            Item::Opened(n, conn) if self.agents[n].conn == Some(conn) => {
                let remote = self.agents[n].socket;
                self.server.handle_open(now, conn, remote);
                self.conn_owner.insert(conn, n);
                self.agents[n].dir.handle_open(now);
            }
            Item::Refused(n) => self.agents[n].dir.handle_close(now),
            Item::ToServer(conn, bytes) if self.server_up => {
                // In small pieces, as TCP may deliver them.
                for piece in bytes.chunks(7) {
                    self.server.handle_bytes(now, conn, piece);
                }
            }
            Item::ToAgent(n, conn, bytes)
                if self.agents[n].conn == Some(conn) && !self.agents[n].deaf =>
            {
                for piece in bytes.chunks(11) {
                    self.agents[n].dir.handle_bytes(now, piece);
                }
            }
            Item::ServerCloses(n, conn) if self.agents[n].conn == Some(conn) => {
                self.agents[n].conn = None;
                self.agents[n].dir.handle_close(now);
            }
            Item::AgentCloses(conn) if self.server_up => self.server.handle_close(now, conn),
            _ => {}
        }
    }

    /// Takes all output of everybody.
    pub(super) fn drain(&mut self) {
        for n in 0..self.agents.len() {
            while self.drain_agent(n) {}
        }
        if self.server_up {
            self.drain_server();
        }
    }

    fn drain_agent(&mut self, n: usize) -> bool {
        let mut busy = false;
        loop {
            let dir = &mut self.agents[n].dir;
            let Some(event) = dir.poll_change().or_else(|| dir.poll_event()) else { break };
            busy = true;
            match event {
                DirectoryEvent::Dial => {
                    assert!(self.agents[n].conn.is_none(), "one connection at a time");
                    self.agents[n].dials += 1;
                    if self.server_up && !self.agents[n].no_tcp {
                        self.next_conn += 1;
                        let conn = ConnId(self.next_conn);
                        self.agents[n].conn = Some(conn);
                        self.later(Item::Opened(n, conn));
                    } else {
                        self.later(Item::Refused(n));
                    }
                }
                DirectoryEvent::Close => {
                    self.hang_up(n);
                    self.agents[n].dir.handle_close(self.now);
                }
                DirectoryEvent::Bytes => {
                    let mut out = [0; 100];
                    loop {
                        let len = self.agents[n].dir.poll_bytes(self.now, &mut out);
                        if len == 0 {
                            break;
                        }
                        self.agents[n].sent += len as u64;
                        if let Some(conn) = self.agents[n].conn {
                            self.later(Item::ToServer(conn, out[..len].to_vec()));
                        }
                    }
                }
                DirectoryEvent::Store => self.write_disk(n),
                event => self.agents[n].events.push(event),
            }
        }
        let mut out = [0; 1500];
        while let Some(transmit) = self.agents[n].dir.poll_transmit(self.now, &mut out) {
            busy = true;
            assert_eq!(transmit.path.socket, SocketId(0));
            self.agents[n].sent += transmit.len as u64;
            self.agents[n].inits += u64::from(out[0] == crate::wire::frame::HS_INIT);
            if !self.agents[n].cut {
                self.later(Item::UdpToServer(n, out[..transmit.len].to_vec()));
            }
        }
        busy
    }

    /// Carries out the writes of an agent.
    pub(super) fn write_disk(&mut self, n: usize) {
        let agent = &mut self.agents[n];
        if agent.disk_stuck {
            return;
        }
        let mut out = [0; VALUE_MAX];
        let mut last = 0;
        while let Some(change) = agent.dir.poll_store(&mut out) {
            assert!(change.sequence > last);
            last = change.sequence;
            match change.len {
                Some(len) => drop(agent.disk.insert(change.key, out[..len].to_vec())),
                None => drop(agent.disk.remove(&change.key)),
            }
        }
        agent.dir.handle_stored(self.now, last);
    }

    fn drain_server(&mut self) {
        loop {
            let mut busy = false;
            while let Some(commit) = self.server.poll_commit(self.now) {
                busy = true;
                for change in &commit.changes {
                    let key = std::format!("{:?}{:?}", change.table, change.key).into_bytes();
                    self.server_disk.insert(key, change.clone());
                }
                self.server.handle_commit(self.now, commit.id, true);
            }
            while let Some(event) = self.server.poll_event() {
                busy = true;
                match event {
                    ServerEvent::ConnectionWritable(conn) => {
                        let mut out = [0; 1000];
                        loop {
                            let len = self.server.poll_bytes(self.now, conn, &mut out);
                            if len == 0 {
                                break;
                            }
                            if let Some(&n) = self.conn_owner.get(&conn) {
                                self.later(Item::ToAgent(n, conn, out[..len].to_vec()));
                            }
                        }
                    }
                    ServerEvent::CloseConnection(conn) => {
                        if let Some(n) = self.conn_owner.remove(&conn) {
                            self.later(Item::ServerCloses(n, conn));
                        }
                    }
                }
            }
            let mut out = [0; 4000];
            while let Some(t) = self.server.poll_transmit(self.now, &mut out, NonZeroUsize::MIN) {
                busy = true;
                if let Some(n) = self.agents.iter().position(|a| a.socket == t.path.remote) {
                    self.later(Item::UdpToAgent(n, out[..t.len].to_vec()));
                }
            }
            if !busy {
                return;
            }
        }
    }

    // ---- shorthands ----

    pub(super) fn online(agents: usize) -> World {
        let mut world = World::new(agents);
        world.wait_online();
        world
    }

    pub(super) fn wait_online(&mut self) -> Duration {
        self.run_until(secs(120), |w| w.agents.iter().all(|a| a.dir.link() == LinkState::Online))
    }

    pub(super) fn address(&self, n: usize) -> Address {
        self.agents[n].dir.address().unwrap()
    }

    pub(super) fn has(&self, n: usize, event: DirectoryEvent) -> bool {
        self.agents[n].events.contains(&event)
    }

    pub(super) fn ask(&mut self, from: usize, to: usize) {
        let to = self.address(to);
        let why: Justification = "let me in".parse().unwrap();
        self.agents[from].dir.request_trust(self.now, to, why).unwrap();
    }

    pub(super) fn peer(&self, of: usize, who: usize) -> Option<PeerIndex> {
        self.agents[of].dir.trust().find(self.address(who))
    }

    /// Whether `a` trusts `b` and holds its grant.
    pub(super) fn holds(&self, a: usize, b: usize) -> bool {
        let trust = self.agents[a].dir.trust();
        let peer = self.peer(a, b).and_then(|p| trust.peer(p));
        peer.is_some_and(|p| p.held().is_some())
    }

    /// Makes two agents trust each other.
    pub(super) fn befriend(&mut self, a: usize, b: usize) {
        let (from, now) = (self.address(a), self.now);
        self.ask(a, b);
        self.run_until(secs(10), |w| w.has(b, DirectoryEvent::Trust(TrustEvent::Requested(from))));
        self.agents[b].dir.approve_trust(now.max(self.now), from, Permissions::ALL).unwrap();
        self.run_until(secs(10), |w| w.holds(a, b) && w.holds(b, a));
        self.run(secs(1));
    }
}

impl Limits {
    fn small_for_tests() -> Limits {
        Limits { peers: 8, requests: 4, trust_requests: 3, channels: 4, ..Limits::small() }
    }
}
