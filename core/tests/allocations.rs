//! After set-up a transfer allocates nothing in the core: two nodes behind the real driver, over
//! links with memory of their own that is all there before counting begins, so that whatever is
//! counted is the core's.

#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/pair.rs"]
mod pair;

use allocations::Counting;
use pair::{Link, World, ms, pattern, secs};
use pilot_core::addr::{Port, SocketAddress};
use pilot_core::drive::{Budget, Datagrams, Driver, IoError, Outlet, Received, Turn};
use pilot_core::machine::{Ecn, Machine as _, Path, SocketId, Transmit};
use pilot_core::node::{Command, Event, Node, Reply, StreamError, StreamId};
use pilot_core::time::{Duration, Instant};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const STREAM_PORT: Port = Port(7);
const DATAGRAM_PORT: Port = Port(5000);
/// One way.
const DELAY: Duration = Duration::from_millis(5);
/// Datagrams on the way in one direction; one more is lost, so that recovery is counted, too.
const ON_THE_WAY: usize = 512;
const EACH_WAY: usize = 16 * 1024 * 1024;

struct Packet {
    at: Instant,
    len: usize,
    bytes: [u8; 1500],
}

/// One end's socket: what it sends goes into `out`, unless it is for somebody else.
struct Socket<'w> {
    now: Instant,
    peer: SocketAddr,
    out: &'w mut VecDeque<Packet>,
    arriving: &'w mut VecDeque<Packet>,
    lost: &'w mut u64,
}

impl Datagrams for Socket<'_> {
    fn recv(&mut self, buf: &mut [u8]) -> Result<Received, IoError> {
        if self.arriving.front().is_none_or(|p| p.at > self.now) {
            return Err(IoError::WouldBlock);
        }
        let packet = self.arriving.pop_front().expect("looked at");
        buf[..packet.len].copy_from_slice(&packet.bytes[..packet.len]);
        let (path, len) = (Path::to(self.peer), packet.len);
        Ok(Received { path, ecn: Ecn::NotEct, len, stride: len })
    }

    fn send(&mut self, transmit: &Transmit, bytes: &[u8]) -> Result<(), IoError> {
        if transmit.path.remote != self.peer {
            // The rendezvous, which is gone.
            return Err(IoError::Unreachable);
        }
        let size = transmit.segment.map_or(bytes.len(), |s| usize::from(s.get()));
        for datagram in bytes.chunks(size) {
            if self.out.len() == ON_THE_WAY {
                *self.lost += 1;
                continue;
            }
            let mut packet = Packet { at: self.now + DELAY, len: datagram.len(), bytes: [0; 1500] };
            packet.bytes[..datagram.len()].copy_from_slice(datagram);
            self.out.push_back(packet);
        }
        Ok(())
    }

    fn max_segments(&self) -> NonZeroUsize {
        NonZeroUsize::new(16).expect("not zero")
    }

    fn open(&mut self, _: SocketId) -> Result<(), IoError> {
        Err(IoError::Full)
    }

    fn close(&mut self, _: SocketId) {}
}

/// What came out of an agent besides packets.
#[derive(Default)]
struct Heard {
    datagrams: u64,
    opened: Option<StreamId>,
    acceptable: bool,
    dials: u64,
}

impl<D> Outlet<Node<'static>, D> for Heard {
    fn handle_payload(&mut self, _: SocketAddress, to: Port, payload: &[u8]) {
        assert_eq!((to, payload), (DATAGRAM_PORT, &b"datagram"[..]));
        self.datagrams += 1;
    }

    fn handle_event(&mut self, now: Instant, node: &mut Node<'static>, _: &mut D, event: Event) {
        match event {
            Event::StreamOpened(id) => self.opened = Some(id),
            Event::Acceptable(_) => self.acceptable = true,
            Event::DialRegistry => {
                // There is none any more.
                self.dials += 1;
                node.handle_registry_close(now);
            }
            Event::CloseRegistry => node.handle_registry_close(now),
            Event::Store => {
                let mut value = [0; 2048];
                let mut last = None;
                while let Some(change) = node.poll_store(&mut value) {
                    last = Some(change.sequence);
                }
                last.into_iter().for_each(|sequence| node.handle_stored(now, sequence));
            }
            _ => {}
        }
    }
}

/// An agent with its application, which sends and checks the same bytes on one stream.
struct End {
    node: Node<'static>,
    driver: Driver<'static>,
    socket: SocketAddr,
    heard: Heard,
    stream: Option<StreamId>,
    sent: usize,
    got: usize,
}

impl End {
    /// Writes and reads what is possible; whether anything was.
    fn work(&mut self, now: Instant, bytes: &[u8], buf: &mut [u8]) -> bool {
        let Some(mut stream) = self.stream.and_then(|id| self.node.stream(id)) else {
            return false;
        };
        let mut did = false;
        if self.sent < bytes.len() {
            match stream.write(now, &bytes[self.sent..]) {
                Ok(len) => (self.sent, did) = (self.sent + len, true),
                Err(StreamError::WouldBlock) => {}
                Err(e) => panic!("write: {e}"),
            }
        }
        loop {
            match stream.read(now, buf) {
                Ok(len) if len > 0 => {
                    assert!(buf[..len] == bytes[self.got..][..len], "other bytes at {}", self.got);
                    (self.got, did) = (self.got + len, true);
                }
                Ok(_) | Err(StreamError::WouldBlock) => return did,
                Err(e) => panic!("read: {e}"),
            }
        }
    }
}

struct Pair {
    now: Instant,
    ends: [End; 2],
    /// From the first to the second, and back.
    wires: [VecDeque<Packet>; 2],
    lost: u64,
    bytes: Vec<u8>,
    buf: Vec<u8>,
}

impl Pair {
    /// Two agents that have met at a rendezvous, which is not there any more.
    fn new() -> Pair {
        let mut world = World::new(1, Link::CLEAN, 2);
        world.register();
        world.trust(0, 1);
        for n in 0..2 {
            world.listen(n, STREAM_PORT.0);
            world.command(n, Command::BindDatagrams { port: DATAGRAM_PORT });
        }
        world.transfer(0, 1, STREAM_PORT.0, b"warm up", secs(10));
        let ends = world.agents.drain(..).map(|agent| End {
            node: agent.node,
            driver: Driver::boxed(Budget::DEFAULT),
            socket: agent.socket,
            heard: Heard::default(),
            stream: None,
            sent: 0,
            got: 0,
        });
        let ends: Vec<End> = ends.collect();
        Pair {
            now: world.now,
            ends: ends.try_into().ok().expect("two agents"),
            wires: [0, 1].map(|_| VecDeque::with_capacity(ON_THE_WAY)),
            lost: 0,
            bytes: pattern(EACH_WAY),
            buf: vec![0; 64 * 1024],
        }
    }

    fn run_until(&mut self, span: Duration, done: impl Fn(&Pair) -> bool) {
        let end = self.now + span;
        while !done(self) {
            assert!(self.now < end, "not done: {:?}", self.ends.each_ref().map(|e| e.got));
            let next = [self.turn(0), self.turn(1)].into_iter().min().expect("two");
            let arrivals = self.wires.iter().filter_map(VecDeque::front).map(|p| p.at);
            self.now = arrivals.fold(next, Instant::min).min(end);
        }
    }

    /// Lets an end do all that it can now; when it wants to be called again.
    fn turn(&mut self, n: usize) -> Instant {
        let (now, peer) = (self.now, self.ends[1 - n].socket);
        let [a, b] = &mut self.wires;
        let (out, arriving) = if n == 0 { (a, b) } else { (b, a) };
        let mut socket = Socket { now, peer, out, arriving, lost: &mut self.lost };
        let end = &mut self.ends[n];
        loop {
            let turn = end.driver.turn(&|| now, &mut end.node, &mut socket, &mut end.heard);
            let did = end.work(now, &self.bytes, &mut self.buf);
            match turn {
                Turn::Wait { until, .. } if !did => return until.unwrap_or(Instant::NEVER),
                _ => {}
            }
        }
    }

    fn open(&mut self) {
        let [a, b] = &mut self.ends;
        (a.heard.opened, b.heard.acceptable) = (None, false);
        let to = b.node.address().expect("registered");
        let connect = Command::Connect { to, port: STREAM_PORT };
        let Ok(Reply::Stream(id)) = a.node.command(self.now, connect) else {
            panic!("a stream was asked for");
        };
        self.run_until(secs(5), |p| p.ends[0].heard.opened == Some(id));
        self.run_until(secs(5), |p| p.ends[1].heard.acceptable);
        self.ends[0].stream = Some(id);
        self.ends[1].stream = self.ends[1].node.accept(STREAM_PORT);
        assert!(self.ends[1].stream.is_some());
        for end in &mut self.ends {
            (end.sent, end.got) = (0, 0);
        }
    }

    fn close(&mut self) {
        for end in &mut self.ends {
            let id = end.stream.take().expect("it was open");
            end.node.release(self.now, id);
        }
        self.run_until(secs(30), |p| p.ends.iter().all(|e| e.node.streams().count() == 0));
    }

    fn transfer(&mut self) {
        self.run_until(secs(120), |p| p.ends.iter().all(|e| e.got == EACH_WAY));
    }

    /// A datagram each way every 10 ms.
    fn datagrams(&mut self, each: u64) {
        let before = self.ends.each_ref().map(|e| e.heard.datagrams);
        for _ in 0..each {
            for n in 0..2 {
                let address = self.ends[1 - n].node.address().expect("registered");
                let to = SocketAddress { address, port: DATAGRAM_PORT };
                let send = Command::SendDatagram { to, from: DATAGRAM_PORT, payload: b"datagram" };
                self.ends[n].node.command(self.now, send).expect("it is trusted");
            }
            let end = self.now + ms(10);
            self.run_until(ms(11), |p| p.now >= end || p.is_quiet_until(end));
            self.now = end;
        }
        self.run_until(secs(1), |p| p.wires.iter().all(VecDeque::is_empty));
        for (end, before) in self.ends.iter().zip(before) {
            assert_eq!(end.heard.datagrams, before + each);
        }
    }

    fn is_quiet_until(&self, end: Instant) -> bool {
        let arrivals = self.wires.iter().filter_map(VecDeque::front).map(|p| p.at);
        let timers = self.ends.iter().filter_map(|e| e.node.poll_timeout()).map(|t| t.at);
        arrivals.chain(timers).all(|at| at >= end)
    }

    fn idle(&mut self, span: Duration) {
        let end = self.now + span;
        self.run_until(span + ms(1), |p| p.now >= end);
    }
}

/// Runs one part and says how often it has allocated.
fn counted(what: &str, part: impl FnOnce()) -> u64 {
    let before = allocations::count();
    part();
    let allocated = allocations::count() - before;
    println!("{what}: {allocated} allocations");
    allocated
}

#[test]
fn a_transfer_allocates_nothing() {
    let mut pair = Pair::new();
    pair.open();
    let mut allocated = counted("16 MiB each way", || pair.transfer());
    assert!(pair.lost > 0, "the links were to lose some");
    allocated += counted("200 datagrams each way", || pair.datagrams(200));
    // Acknowledgements, keepalives, two rekeyings, and a rendezvous that does not answer.
    let dials = pair.ends[0].heard.dials;
    allocated += counted("five idle minutes with a stream open", || pair.idle(secs(300)));
    assert!(pair.ends[0].heard.dials > dials, "its timers ran");
    allocated += counted("its end", || pair.close());
    allocated += counted("another stream", || pair.open());
    allocated += counted("16 MiB each way, again", || pair.transfer());
    allocated += counted("its end", || pair.close());
    assert_eq!(allocated, 0);
}

/// The count is one: what the test relies on.
#[test]
fn an_allocation_is_counted() {
    assert_eq!(counted("a box", || drop(std::hint::black_box(Box::new(1)))), 1);
}
