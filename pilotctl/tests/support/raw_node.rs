//! A core node driven by hand over plain sockets in the test's own process, so that the test
//! decides what it hears. It keeps to nobody's rules but its own.

use pilot_core::addr::Address;
use pilot_core::crypto::{Identity, RUST_CRYPTO};
use pilot_core::machine::{Ecn, Machine as _, Path};
use pilot_core::node::{Command, Config, Event, Node, PathPolicy, Reply, StreamId};
use pilot_core::time::{Instant, UnixTime};
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

/// Whom the node may speak with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Company {
    /// Everybody.
    All,
    /// Nobody: whatever is sent to it is lost.
    Nobody,
    /// Its victim alone; registry and beacon are not there.
    Victim,
}

pub struct RawNode {
    pub node: Node<'static>,
    pub company: Company,
    /// Everything that came from the victim's address, by length.
    pub from_victim: Vec<usize>,
    /// How many datagrams went there.
    pub to_victim: usize,
    pub events: Vec<Event>,
    /// What it would have stored.
    pub facts: BTreeMap<[u8; 8], Vec<u8>>,
    /// The index in front of its newest data frame to the victim.
    pub index_at_victim: Option<[u8; 4]>,
    victim: SocketAddr,
    registry: SocketAddr,
    udp: UdpSocket,
    tcp: Option<TcpStream>,
    start: std::time::Instant,
}

impl RawNode {
    pub fn start(registry: &str, beacon: &str, victim: &str) -> RawNode {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).unwrap();
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).unwrap();
        let (identity, now) = (Identity::from_secret(secret), Instant::from_nanos(1));
        // A path that it doubts would send it to the relay, where the victim hears nothing.
        let config = Config { path_policy: PathPolicy::Direct, ..Config::default() };
        let node = Node::boxed(config, identity, &RUST_CRYPTO, seed, now, unix());
        let mut raw = RawNode {
            node,
            company: Company::All,
            from_victim: Vec::new(),
            to_victim: 0,
            events: Vec::new(),
            facts: BTreeMap::new(),
            index_at_victim: None,
            victim: victim.parse().unwrap(),
            registry: registry.parse().unwrap(),
            udp,
            tcp: None,
            start: std::time::Instant::now(),
        };
        raw.node.start(now);
        let locals = [raw.udp.local_addr().unwrap()];
        raw.command(Command::NetworkChanged { locals: &locals });
        raw.command(Command::SetBeacon { address: beacon.parse().unwrap() });
        raw
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap())
    }

    pub fn command(&mut self, command: Command<'_>) -> Reply {
        self.node.command(self.now(), command).unwrap()
    }

    pub fn connect(&mut self, to: Address, port: pilot_core::addr::Port) -> StreamId {
        match self.command(Command::Connect { to, port }) {
            Reply::Stream(id) => id,
            other => panic!("{other:?}"),
        }
    }

    /// Every session is made anew: INITs to wherever the peers were last.
    pub fn start_over(&mut self) {
        self.command(Command::ClockChanged { unix: unix() });
    }

    pub fn write(&mut self, stream: StreamId, bytes: &[u8]) -> Option<usize> {
        let now = self.now();
        self.node.stream(stream)?.write(now, bytes).ok()
    }

    pub fn read(&mut self, stream: StreamId) -> Vec<u8> {
        let now = self.now();
        let mut buf = vec![0; 65536];
        let read = self.node.stream(stream).and_then(|mut s| s.read(now, &mut buf).ok());
        buf.truncate(read.unwrap_or(0));
        buf
    }

    /// Runs until `done`; whether that came within `span`.
    pub fn run(&mut self, span: Duration, mut done: impl FnMut(&mut RawNode) -> bool) -> bool {
        let end = std::time::Instant::now() + span;
        while std::time::Instant::now() < end {
            self.turn();
            if done(self) {
                self.turn();
                return true;
            }
        }
        false
    }

    fn turn(&mut self) {
        let now = self.now();
        self.node.handle_timeout(now);
        self.handle_events();
        self.transmit();
        self.receive();
        self.receive_tcp();
        self.handle_events();
    }

    fn hears(&self, from: SocketAddr) -> bool {
        match self.company {
            Company::All => true,
            Company::Nobody => false,
            Company::Victim => from == self.victim,
        }
    }

    fn transmit(&mut self) {
        let mut buf = vec![0; 65536];
        let now = self.now();
        while let Some(transmit) = self.node.poll_transmit(now, &mut buf, NonZeroUsize::MIN) {
            let to = transmit.path.remote;
            if self.hears(to) {
                self.to_victim += usize::from(to == self.victim);
                if to == self.victim && buf[0] >= 0x80 {
                    self.index_at_victim = buf.first_chunk().copied();
                }
                let _ = self.udp.send_to(&buf[..transmit.len], to);
            }
        }
    }

    fn receive(&mut self) {
        let mut buf = vec![0; 65536];
        while let Ok((n, from)) = self.udp.recv_from(&mut buf) {
            // Counted before anything decides whether it is taken.
            if from == self.victim {
                self.from_victim.push(n);
            }
            if self.hears(from) {
                let now = self.now();
                let path = Path::to(from);
                let _ = self.node.handle_datagram(now, path, Ecn::NotEct, &mut buf[..n]);
            }
        }
        self.node.handle_batch_end(self.now());
    }

    fn receive_tcp(&mut self) {
        if self.company != Company::All && self.tcp.take().is_some() {
            self.node.handle_registry_close(self.now());
        }
        let mut buf = vec![0; 65536];
        while let Some(tcp) = &mut self.tcp {
            match tcp.read(&mut buf) {
                Ok(n @ 1..) => self.node.handle_bytes(self.now(), &buf[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                _ => self.close(),
            }
        }
    }

    fn close(&mut self) {
        self.tcp = None;
        self.node.handle_registry_close(self.now());
    }

    fn handle_events(&mut self) {
        while let Some(event) = self.node.poll_event() {
            match event {
                Event::DialRegistry if self.company == Company::All => {
                    let Ok(tcp) = TcpStream::connect(self.registry) else {
                        self.node.handle_registry_close(self.now());
                        continue;
                    };
                    tcp.set_nonblocking(true).unwrap();
                    self.tcp = Some(tcp);
                    self.node.handle_registry_open(self.now());
                }
                Event::DialRegistry => self.node.handle_registry_close(self.now()),
                Event::CloseRegistry => {
                    self.send_tcp();
                    self.close();
                }
                Event::RegistryBytes => self.send_tcp(),
                // Nothing of it is ever loaded again.
                Event::Store => {
                    let mut value = [0; 2048];
                    while let Some(change) = self.node.poll_store(&mut value) {
                        let len = change.len.unwrap_or(0);
                        self.facts.insert(change.key, value[..len].to_vec());
                        self.node.handle_stored(self.now(), change.sequence);
                    }
                }
                other => self.events.push(other),
            }
        }
    }

    fn send_tcp(&mut self) {
        let mut buf = vec![0; 65536];
        loop {
            let n = self.node.poll_bytes(self.now(), &mut buf);
            let Some(tcp) = self.tcp.as_mut().filter(|_| n > 0) else { return };
            // Small requests to a local server: its socket has room.
            if tcp.write_all(&buf[..n]).is_err() {
                return self.close();
            }
        }
    }
}

fn unix() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    UnixTime::from_millis(u64::try_from(since.as_millis()).unwrap())
}
