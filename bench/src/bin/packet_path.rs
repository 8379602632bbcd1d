//! The packet path without sockets or clocks, for callgrind: real nodes and a real rendezvous
//! machine, handed each other's datagrams in virtual time. Every run does the same. Each step of
//! the path is a function of its own here, whose inclusive count `bench/instructions` reads; what
//! the steps were done for is printed as `name=count`.

#[path = "../../../core/tests/support/pair.rs"]
mod pair;

use pair::{Agent, Link, UNIX, World, beacon_socket, ms, secs, test_limits};
use pilot_core::addr::Port;
use pilot_core::crypto::ring::RING;
use pilot_core::crypto::{AeadKey, AeadProvider, Identity, RUST_CRYPTO, Suite};
use pilot_core::limits::{FRAME_HEADER, INNER_HEADER, Limits, TAG, TRAIN_SEGMENTS_MAX};
use pilot_core::machine::{Ecn, Machine, Path};
use pilot_core::node::{Command, Config, Node, PathKind, PathPolicy, StreamError, StreamId};
use pilot_core::rendezvous::Rendezvous;
use pilot_core::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

/// UDP payload bytes.
const DATAGRAM: u16 = 1452;
const PORT: u16 = 2000;
/// One way.
const DELAY: Duration = Duration::from_micros(100);
const MESSAGE: usize = 64;
/// Bytes that an application hands over, or has room for, at once.
const CHUNK: usize = 64 * 1024;

/// What was done in the measured part.
#[derive(Default)]
struct Counts {
    written: u64,
    read: u64,
    packets: u64,
    trains: u64,
    received: u64,
    acknowledgements: u64,
    acknowledged: u64,
    batches: u64,
    relayed: u64,
    forwarded: u64,
    timers: u64,
    events: u64,
    sealed: u64,
    opened: u64,
}

// ---- the steps; none of them may be inlined, or merged with another ----

#[inline(never)]
fn step_write(c: &mut Counts, end: &mut End, now: Instant, bytes: &[u8]) -> usize {
    let len = written(end.node.stream(end.stream).expect("a stream").write(now, bytes));
    c.written += len as u64;
    len
}

#[inline(never)]
fn step_read(c: &mut Counts, end: &mut End, now: Instant, buf: &mut [u8]) -> usize {
    let len = written(end.node.stream(end.stream).expect("a stream").read(now, buf));
    c.read += len as u64;
    len
}

#[inline(never)]
fn step_send(c: &mut Counts, end: &mut End, now: Instant, out: &mut [u8]) -> Option<Train> {
    let train = end.node.poll_transmit(now, out, segments()).map(Train::from)?;
    c.packets += train.count() as u64;
    c.trains += 1;
    Some(train)
}

#[inline(never)]
fn step_receive(c: &mut Counts, end: &mut End, now: Instant, from: SocketAddr, bytes: &mut [u8]) {
    let _ = end.node.handle_datagram(now, Path::to(from), Ecn::NotEct, bytes);
    c.received += 1;
}

#[inline(never)]
fn step_end_of_batch(c: &mut Counts, end: &mut End, now: Instant) {
    end.node.handle_batch_end(now);
    c.batches += 1;
}

#[inline(never)]
fn step_acknowledge(c: &mut Counts, end: &mut End, now: Instant, out: &mut [u8]) -> Option<Train> {
    let train = end.node.poll_transmit(now, out, segments()).map(Train::from)?;
    c.acknowledgements += train.count() as u64;
    Some(train)
}

#[inline(never)]
fn step_acknowledged(
    c: &mut Counts,
    end: &mut End,
    now: Instant,
    from: SocketAddr,
    bytes: &mut [u8],
) {
    let _ = end.node.handle_datagram(now, Path::to(from), Ecn::NotEct, bytes);
    c.acknowledged += 1;
}

#[inline(never)]
fn step_timers(c: &mut Counts, end: &mut End, now: Instant) {
    if end.node.poll_timeout().is_some_and(|timeout| timeout.at <= now) {
        end.node.handle_timeout(now);
        c.timers += 1;
    }
}

#[inline(never)]
fn step_events(c: &mut Counts, end: &mut End) {
    while end.node.poll_event().is_some() {
        c.events += 1;
    }
}

#[inline(never)]
fn step_relay_in(
    c: &mut Counts,
    server: &mut Rendezvous,
    now: Instant,
    from: SocketAddr,
    bytes: &mut [u8],
) {
    let _ = server.handle_datagram(now, Path::to(from), Ecn::NotEct, bytes);
    c.relayed += 1;
}

#[inline(never)]
fn step_relay_out(
    c: &mut Counts,
    server: &mut Rendezvous,
    now: Instant,
    out: &mut [u8],
) -> Option<Train> {
    let train = server.poll_transmit(now, out, segments()).map(Train::from)?;
    c.forwarded += train.count() as u64;
    Some(train)
}

#[inline(never)]
fn step_seal(c: &mut Counts, key: &AeadKey, packet: &mut [u8]) -> [u8; 16] {
    c.sealed += 1;
    key.seal_in_place([1; 12], packet)
}

#[inline(never)]
fn step_open(c: &mut Counts, key: &AeadKey, packet: &mut [u8], tag: &[u8; 16]) {
    c.opened += 1;
    key.open_in_place([1; 12], packet, tag).expect("authentic");
}

// ---- what is between them ----

fn segments() -> NonZeroUsize {
    NonZeroUsize::new(TRAIN_SEGMENTS_MAX).expect("not zero")
}

fn written(result: Result<usize, StreamError>) -> usize {
    match result {
        Ok(len) => len,
        Err(StreamError::WouldBlock) => 0,
        Err(error) => panic!("the stream failed: {error}"),
    }
}

/// What one `poll_transmit` gave.
struct Train {
    to: SocketAddr,
    len: usize,
    segment: usize,
}

impl Train {
    fn from(transmit: pilot_core::machine::Transmit) -> Self {
        let segment = transmit.segment.map_or(transmit.len.max(1), |s| usize::from(s.get()));
        Train { to: transmit.path.remote, len: transmit.len, segment }
    }

    fn count(&self) -> usize {
        self.len.div_ceil(self.segment)
    }
}

/// A node, its stream, and the datagrams that are on their way to it.
struct End {
    node: Node<'static>,
    socket: SocketAddr,
    stream: StreamId,
    arriving: Vec<(SocketAddr, Vec<u8>)>,
    /// Position in the pattern.
    at: u64,
}

struct Bench {
    ends: [End; 2],
    server: Rendezvous,
    now: Instant,
    counts: Counts,
    out: Vec<u8>,
    relay_out: Vec<u8>,
    chunk: Vec<u8>,
}

fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

impl Bench {
    /// Two nodes with a stream between them, all handshakes over, everything at rest.
    fn new(aead: &'static dyn AeadProvider, policy: PathPolicy) -> Self {
        let link = Link { delay: DELAY, ..Link::CLEAN };
        let mut world = World::new(1, link, 0);
        for n in 0..2 {
            add(&mut world, n, aead, policy);
        }
        world.register();
        world.trust(0, 1);
        world.listen(1, PORT);
        let first = world.connect(0, 1, PORT);
        let mut second = None;
        world.run_until(secs(10), |world| {
            second = second.or_else(|| world.agents[1].node.accept(Port(PORT)));
            second.is_some()
        });
        world.run(secs(2));
        let kind = match policy {
            PathPolicy::Relay => PathKind::Relayed,
            _ => PathKind::Direct,
        };
        assert!(world.agents.iter().all(|a| a.node.peers().all(|p| p.path == kind)));
        let streams = [first, second.expect("accepted")];
        let ends = world.agents.into_iter().zip(streams).map(|(agent, stream)| End {
            node: agent.node,
            socket: agent.socket,
            stream,
            arriving: Vec::new(),
            at: 0,
        });
        Bench {
            ends: ends.collect::<Vec<_>>().try_into().ok().expect("two"),
            server: world.server,
            now: world.now,
            counts: Counts::default(),
            out: vec![0; CHUNK],
            relay_out: vec![0; CHUNK],
            chunk: vec![0; CHUNK],
        }
    }

    /// Takes a train apart; its datagrams arrive in the next step.
    fn launch(&mut self, from: SocketAddr, train: &Train) {
        for datagram in self.out[..train.len].chunks(train.segment) {
            if train.to == beacon_socket() {
                let mut datagram = datagram.to_vec();
                let (counts, server) = (&mut self.counts, &mut self.server);
                step_relay_in(counts, server, self.now, from, &mut datagram);
            } else {
                let to = self.ends.iter_mut().find(|end| end.socket == train.to);
                to.expect("one of us").arriving.push((from, datagram.to_vec()));
            }
        }
        self.pump_server();
    }

    fn pump_server(&mut self) {
        let (c, server, out) = (&mut self.counts, &mut self.server, &mut self.relay_out);
        while let Some(train) = step_relay_out(c, server, self.now, out) {
            for datagram in out[..train.len].chunks(train.segment) {
                if let Some(end) = self.ends.iter_mut().find(|end| end.socket == train.to) {
                    end.arriving.push((beacon_socket(), datagram.to_vec()));
                }
            }
        }
    }

    /// Everything that end `n` has to send, as data or as acknowledgements of it.
    fn send(&mut self, n: usize, acknowledges: bool) {
        let from = self.ends[n].socket;
        loop {
            let (c, end, out) = (&mut self.counts, &mut self.ends[n], &mut self.out);
            let train = if acknowledges {
                step_acknowledge(c, end, self.now, out)
            } else {
                step_send(c, end, self.now, out)
            };
            match train {
                Some(train) => self.launch(from, &train),
                None => return,
            }
        }
    }

    /// Everything that has arrived at end `n`.
    fn receive(&mut self, n: usize, acknowledged: bool) {
        let (c, end) = (&mut self.counts, &mut self.ends[n]);
        let arriving = std::mem::take(&mut end.arriving);
        if arriving.is_empty() {
            return;
        }
        for (from, mut datagram) in arriving {
            if acknowledged {
                step_acknowledged(c, end, self.now, from, &mut datagram);
            } else {
                step_receive(c, end, self.now, from, &mut datagram);
            }
        }
        step_end_of_batch(c, end, self.now);
    }

    fn write(&mut self, n: usize, len: usize) -> usize {
        let end = &mut self.ends[n];
        for (i, to) in self.chunk[..len].iter_mut().enumerate() {
            *to = byte(end.at + i as u64);
        }
        let len = step_write(&mut self.counts, end, self.now, &self.chunk[..len]);
        end.at += len as u64;
        len
    }

    /// Reads all there is and checks it; `at` is where the writer began.
    fn read(&mut self, n: usize, at: &mut u64) -> usize {
        let mut all = 0;
        loop {
            let end = &mut self.ends[n];
            let len = step_read(&mut self.counts, end, self.now, &mut self.chunk);
            for got in &self.chunk[..len] {
                assert_eq!(*got, byte(*at), "other bytes");
                *at += 1;
            }
            all += len;
            if len == 0 {
                return all;
            }
        }
    }

    /// Half a round trip passes.
    fn pass(&mut self) {
        self.now += DELAY;
        for end in &mut self.ends {
            step_timers(&mut self.counts, end, self.now);
            step_events(&mut self.counts, end);
        }
        self.server.handle_timeout(self.now);
    }

    /// `bytes` from end 0 to end 1.
    fn bulk(&mut self, bytes: usize) {
        let (mut left, mut got) = (bytes, 0);
        let mut at = self.ends[0].at;
        while got < bytes {
            while left > 0 {
                let len = self.write(0, left.min(CHUNK));
                left -= len;
                if len == 0 {
                    break;
                }
            }
            self.send(0, false);
            self.pass();
            self.receive(1, false);
            got += self.read(1, &mut at);
            self.send(1, true);
            self.pass();
            self.receive(0, true);
        }
    }

    /// Round trips of a message.
    fn ping(&mut self, trips: usize) {
        for _ in 0..trips {
            for (from, to) in [(0, 1), (1, 0)] {
                let mut at = self.ends[from].at;
                assert_eq!(self.write(from, MESSAGE), MESSAGE);
                let mut got = 0;
                while got < MESSAGE {
                    self.send(from, false);
                    self.pass();
                    self.receive(to, false);
                    got += self.read(to, &mut at);
                }
            }
        }
    }
}

/// The pair's own way to add an agent, with our choice of provider and paths.
fn add(world: &mut World, n: usize, aead: &'static dyn AeadProvider, path_policy: PathPolicy) {
    let limits = Limits { datagram: DATAGRAM, ..test_limits() };
    let config = Config { limits, path_policy, ..Config::default() };
    let identity = [n as u8 + 1; 32];
    let socket = SocketAddr::from(([198, 51, 100, n as u8 + 1], 4000));
    let seed = [n as u8 + 50; 32];
    let (id, now) = (Identity::from_secret(identity), world.now);
    let mut node = Node::boxed(config.clone(), id, aead, seed, now, UNIX);
    node.start(now);
    node.command(now, Command::NetworkChanged { locals: &[socket] }).expect("accepted");
    node.command(now, Command::SetBeacon { address: beacon_socket() }).expect("accepted");
    world.agents.push(Agent {
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
    world.run(ms(1));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scenario {
    Bulk,
    Ping,
    Relay,
    Aead,
}

fn aead(counts: &mut Counts, provider: &dyn AeadProvider, packets: usize) {
    let key = provider.key(Suite::Aes256Gcm, &[7; 32]);
    let mut packet = vec![3; usize::from(DATAGRAM) - FRAME_HEADER - TAG];
    assert!(packet.len() > INNER_HEADER);
    for _ in 0..packets {
        let tag = step_seal(counts, &key, &mut packet);
        step_open(counts, &key, &mut packet, &tag);
    }
}

/// The part that callgrind collects.
#[inline(never)]
fn measured(bench: &mut Bench, scenario: Scenario, provider: &dyn AeadProvider, n: usize) {
    match black_box(scenario) {
        Scenario::Bulk | Scenario::Relay => bench.bulk(n * usize::from(DATAGRAM)),
        Scenario::Ping => bench.ping(n),
        Scenario::Aead => aead(&mut bench.counts, provider, n),
    }
}

fn main() {
    const USAGE: &str = "packet_path bulk|ping|relay|aead RustCrypto|ring COUNT";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [scenario, provider, n] = &arguments[..] else { panic!("{USAGE}") };
    let scenario = match scenario.as_str() {
        "bulk" => Scenario::Bulk,
        "ping" => Scenario::Ping,
        "relay" => Scenario::Relay,
        "aead" => Scenario::Aead,
        _ => panic!("{USAGE}"),
    };
    let provider: &'static dyn AeadProvider = match provider.as_str() {
        "RustCrypto" => &RUST_CRYPTO,
        "ring" => &RING,
        _ => panic!("{USAGE}"),
    };
    let n: usize = n.parse().expect(USAGE);
    let policy = match scenario {
        Scenario::Relay => PathPolicy::Relay,
        _ => PathPolicy::Auto,
    };
    let mut bench = Bench::new(provider, policy);
    // Windows, rings and estimates have grown before anything is counted.
    match scenario {
        Scenario::Ping => bench.ping(n),
        _ => bench.bulk(n * usize::from(DATAGRAM)),
    }
    bench.counts = Counts::default();
    measured(&mut bench, scenario, provider, n);
    let c = &bench.counts;
    for (name, count) in [
        ("trips", if scenario == Scenario::Ping { n as u64 } else { 0 }),
        ("written", c.written),
        ("read", c.read),
        ("packets", c.packets),
        ("trains", c.trains),
        ("received", c.received),
        ("acknowledgements", c.acknowledgements),
        ("acknowledged", c.acknowledged),
        ("batches", c.batches),
        ("relayed", c.relayed),
        ("forwarded", c.forwarded),
        ("timers", c.timers),
        ("events", c.events),
        ("sealed", c.sealed),
        ("opened", c.opened),
    ] {
        println!("{name}={count}");
    }
}
