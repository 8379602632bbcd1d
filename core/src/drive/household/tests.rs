//! The household on virtual time, with a node, a network and a store that are lists.

use super::line::FLUSH;
use super::*;
use crate::drive::Clock;
use crate::drive::agent::MemoryStore;
use crate::time::UnixTime;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec;
use core::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

/// Milliseconds since the start, and how far the wall clock was stepped.
static TIMES: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];
static STEPS: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];

/// A host's clocks, one pair for each test.
#[derive(Clone, Copy)]
struct Virtual(usize);

impl Virtual {
    fn millis(&self) -> u64 {
        TIMES[self.0].load(Ordering::Relaxed)
    }

    fn pass(&self, span: Duration) {
        TIMES[self.0].fetch_add(span.as_millis() as u64, Ordering::Relaxed);
    }

    fn step(&self, span: Duration) {
        STEPS[self.0].fetch_add(span.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Clock for Virtual {
    fn now(&self) -> Instant {
        Instant::START + Duration::from_millis(self.millis())
    }
}

impl Host for Virtual {
    fn reading(&self) -> Reading {
        let boot = Duration::from_millis(self.millis());
        let unix = 1_800_000_000_000 + self.millis() + STEPS[self.0].load(Ordering::Relaxed);
        Reading { now: self.now(), boot, unix: UnixTime::from_millis(unix) }
    }

    fn entropy(&self) -> Option<[u8; 32]> {
        Some([7; 32])
    }

    fn carry_out(&self, _: Errand, _: impl FnOnce(Outcome) + Send + 'static) {
        unreachable!("the test does it");
    }
}

/// What was called of the node.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Call {
    Open,
    Close,
    Bytes(Vec<u8>),
    Stored(u64),
    Beacon(SocketAddr),
    Locals(Vec<SocketAddr>),
    WallClock(UnixTime),
    Reseed,
    Stop,
}

/// A node: what it wants stored and sent, and what was told to it.
#[derive(Default)]
struct Node {
    calls: RefCell<Vec<Call>>,
    changes: RefCell<VecDeque<Change>>,
    sequence: Cell<u64>,
    bytes: RefCell<VecDeque<u8>>,
    only_v4: bool,
    misses_beacon: Cell<bool>,
}

impl Node {
    fn told(&self, call: Call) {
        self.calls.borrow_mut().push(call);
    }

    /// Everything told since the last call, without what happens every second.
    fn calls(&self) -> Vec<Call> {
        self.calls.take().into_iter().filter(|call| *call != Call::Reseed).collect()
    }

    fn change(&self, key: u8) {
        self.changes.borrow_mut().push_back(([key; 8], Some(vec![key])));
    }
}

impl Tenant for Node {
    fn handle_registry_open(&self) {
        self.told(Call::Open);
    }

    fn handle_registry_close(&self) {
        self.told(Call::Close);
    }

    fn handle_bytes(&self, bytes: &[u8]) {
        self.told(Call::Bytes(bytes.to_vec()));
    }

    fn poll_bytes(&self, out: &mut [u8]) -> usize {
        let mut bytes = self.bytes.borrow_mut();
        let n = bytes.len().min(out.len());
        bytes.drain(..n).zip(out).for_each(|(byte, place)| *place = byte);
        n
    }

    fn poll_store(&self, max: usize, out: &mut Vec<Change>) -> u64 {
        let mut changes = self.changes.borrow_mut();
        let n = changes.len().min(max);
        out.extend(changes.drain(..n));
        self.sequence.set(self.sequence.get() + n as u64);
        self.sequence.get()
    }

    fn handle_stored(&self, sequence: u64) {
        self.told(Call::Stored(sequence));
    }

    fn set_beacon(&self, address: SocketAddr) {
        self.told(Call::Beacon(address));
    }

    fn set_locals(&self, locals: &[SocketAddr]) {
        self.told(Call::Locals(locals.to_vec()));
    }

    fn set_wall_clock(&self, unix: UnixTime) {
        self.told(Call::WallClock(unix));
    }

    fn reseed(&self, _: [u8; 32]) {
        self.told(Call::Reseed);
    }

    fn misses_beacon(&self) -> bool {
        self.misses_beacon.get()
    }

    fn reaches(&self, remote: SocketAddr) -> bool {
        remote.is_ipv4() || !self.only_v4
    }

    fn local_addresses(&self) -> Vec<SocketAddr> {
        vec![at("0.0.0.0:7")]
    }

    fn stop(&self) {
        self.told(Call::Stop);
    }
}

/// A TCP connection: bytes to read (`None` at the end: closed), room to write.
#[derive(Default)]
struct Wire {
    incoming: VecDeque<u8>,
    is_closed: bool,
    room: usize,
    written: Vec<u8>,
}

#[derive(Clone, Default)]
struct Line(Rc<RefCell<Wire>>);

impl Read for Line {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        if wire.incoming.is_empty() {
            return if wire.is_closed { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let n = wire.incoming.len().min(buf.len());
        wire.incoming.drain(..n).zip(buf).for_each(|(byte, place)| *place = byte);
        Ok(n)
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        if wire.room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let n = bytes.len().min(wire.room);
        wire.room -= n;
        wire.written.extend(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const IDLE: Chores = Chores {
    dial: false,
    close: false,
    store: false,
    resolve: false,
    list: false,
    leave: false,
    ended: false,
};
const DIAL: Chores = Chores { dial: true, ..IDLE };
const CLOSE: Chores = Chores { close: true, ..IDLE };

/// A household, and the world around it.
struct World {
    host: Virtual,
    node: Node,
    household: Household<Line>,
    /// Errands under way.
    errands: Vec<Errand>,
}

impl World {
    /// `clock` is the test's own.
    fn new(clock: usize) -> Self {
        let host = Virtual(clock);
        let place = |host: &str| HostPort { host: host.to_string(), port: None };
        let household = Household::new(
            place("registry"),
            place("beacon"),
            Box::new(MemoryStore::default()),
            vec![at("192.0.2.1:7")],
            host.reading(),
        );
        World { host, node: Node::default(), household, errands: Vec::new() }
    }

    fn turn(&mut self, chores: Chores) -> HouseholdNext {
        let next = self.household.turn(&self.host, &self.node, chores);
        self.errands.extend(core::iter::from_fn(|| self.household.poll_errand()));
        next
    }

    fn outcome(&mut self, outcome: Outcome<Line>) {
        self.household.handle_outcome(&self.host, &self.node, outcome);
    }

    /// The errand of this kind, if it is under way.
    fn errand(&mut self, kind: ErrandKind) -> Option<Errand> {
        let at = self.errands.iter().position(|errand| errand.kind() == kind)?;
        Some(self.errands.remove(at))
    }

    /// Keeps the household until `until` is reached, by its own deadlines.
    fn run(&mut self, span: Duration) {
        let end = self.host.now() + span;
        loop {
            let HouseholdNext::Wait { until } = self.turn(IDLE) else { continue };
            assert!(until > self.host.now(), "a deadline that has passed would spin");
            let until = until.min(end);
            self.host.pass(until.since(self.host.now()));
            if until == end {
                return;
            }
        }
    }

    /// Until an errand of this kind goes out: how many seconds that took.
    fn seconds_until(&mut self, kind: ErrandKind) -> u64 {
        let before = self.host.millis();
        while self.errand(kind).is_none() {
            let HouseholdNext::Wait { until } = self.turn(IDLE) else { continue };
            if self.errands.iter().all(|errand| errand.kind() != kind) {
                self.host.pass(until.since(self.host.now()).max(Duration::from_millis(1)));
                assert!(self.host.millis() - before < 3_600_000, "no {kind:?} within an hour");
            }
        }
        (self.host.millis() - before) / 1000
    }

    fn connect(&mut self) -> Line {
        let _ = self.turn(DIAL);
        assert!(self.errand(ErrandKind::Dial).is_some());
        let line = Line::default();
        line.0.borrow_mut().room = usize::MAX;
        self.outcome(Outcome::Dialled(Ok(line.clone())));
        assert_eq!(self.node.calls(), [Call::Open]);
        line
    }
}

#[test]
fn a_commit_that_failed_is_tried_again_after_a_second_with_the_same_changes() {
    let mut world = World::new(0);
    world.node.change(1);
    world.node.change(2);
    let _ = world.turn(IDLE);
    let Some(Errand::Commit(store, changes)) = world.errand(ErrandKind::Commit) else {
        panic!("what there is at the start is stored")
    };
    assert_eq!(changes.iter().map(|(key, _)| key[0]).collect::<Vec<_>>(), [1, 2]);
    // What comes meanwhile waits: commits are made in order, one at a time.
    world.node.change(3);
    let _ = world.turn(Chores { store: true, ..IDLE });
    assert!(world.errand(ErrandKind::Commit).is_none());

    world.outcome(Outcome::Committed(store, changes, Err(io::ErrorKind::StorageFull.into())));
    world.run(RETRY - Duration::from_millis(1));
    assert!(world.errand(ErrandKind::Commit).is_none());
    assert_eq!(world.node.calls(), []);
    world.run(Duration::from_millis(2));
    let Some(Errand::Commit(store, changes)) = world.errand(ErrandKind::Commit) else {
        panic!("it is tried again")
    };
    assert_eq!(changes.iter().map(|(key, _)| key[0]).collect::<Vec<_>>(), [1, 2]);

    world.outcome(Outcome::Committed(store, changes, Ok(())));
    assert_eq!(world.node.calls(), [Call::Stored(2)]);
    let _ = world.turn(IDLE);
    let Some(Errand::Commit(store, changes)) = world.errand(ErrandKind::Commit) else {
        panic!("then the next change")
    };
    assert_eq!(changes[0].0[0], 3);
    world.outcome(Outcome::Committed(store, changes, Ok(())));
    assert_eq!(world.node.calls(), [Call::Stored(3)]);
}

#[test]
fn who_leaves_waits_for_what_is_to_be_stored_but_not_for_ever() {
    let mut world = World::new(1);
    world.node.change(1);
    let _ = world.turn(Chores { leave: true, ..IDLE });
    let Some(Errand::Commit(store, changes)) = world.errand(ErrandKind::Commit) else {
        panic!("the last changes are stored")
    };
    assert_eq!(world.node.calls(), []);
    world.outcome(Outcome::Committed(store, changes, Ok(())));
    let _ = world.turn(IDLE);
    assert_eq!(world.node.calls(), [Call::Stored(1), Call::Stop]);

    // A store that does not come back holds nobody up.
    world.node.change(2);
    let _ = world.turn(Chores { leave: true, ..IDLE });
    assert!(world.errand(ErrandKind::Commit).is_some());
    world.run(LINGER - Duration::from_millis(1));
    assert_eq!(world.node.calls(), []);
    world.run(Duration::from_millis(2));
    assert_eq!(world.node.calls(), [Call::Stop]);
    assert_eq!(world.turn(Chores { ended: true, ..IDLE }), HouseholdNext::End);
}

#[test]
fn the_beacon_is_looked_up_with_growing_pauses_until_it_is_found() {
    let mut world = World::new(2);
    world.node.only_v4 = true;
    assert_eq!(world.seconds_until(ErrandKind::LookUp), 0);
    for seconds in [3, 5, 9, 17, 31, 31, 31] {
        world.outcome(Outcome::LookedUp(Err(io::ErrorKind::NotFound.into())));
        assert_eq!(world.seconds_until(ErrandKind::LookUp), seconds);
    }
    // An address that our sockets cannot send to is none.
    world.outcome(Outcome::LookedUp(Ok(vec![at("[2001:db8::1]:9001")])));
    assert_eq!(world.seconds_until(ErrandKind::LookUp), 31);
    // A panic of the resolver's thread is a failure like others.
    world.outcome(Outcome::Lost(ErrandKind::LookUp));
    assert_eq!(world.seconds_until(ErrandKind::LookUp), 31);
    assert_eq!(world.node.calls(), []);
    let found = vec![at("[2001:db8::1]:9001"), at("192.0.2.9:9001")];
    world.outcome(Outcome::LookedUp(Ok(found)));
    assert_eq!(world.node.calls(), [Call::Beacon(at("192.0.2.9:9001"))]);

    // Known: only when somebody asks, at most once a second, and told only if it changed.
    world.run(Duration::from_secs(600));
    assert!(world.errand(ErrandKind::LookUp).is_none());
    let _ = world.turn(Chores { resolve: true, ..IDLE });
    assert!(world.errand(ErrandKind::LookUp).is_some());
    world.outcome(Outcome::LookedUp(Ok(vec![at("192.0.2.9:9001")])));
    let _ = world.turn(Chores { resolve: true, ..IDLE });
    assert!(world.errand(ErrandKind::LookUp).is_none());
    assert_eq!(world.seconds_until(ErrandKind::LookUp), 1);
    assert_eq!(world.node.calls(), []);
    world.outcome(Outcome::LookedUp(Ok(vec![at("192.0.2.10:9001")])));
    assert_eq!(world.node.calls(), [Call::Beacon(at("192.0.2.10:9001"))]);
}

/// A host may have sockets of a family that its network does not carry.
#[test]
fn the_addresses_of_a_silent_beacon_are_tried_in_turn() {
    let mut world = World::new(10);
    let (a, b) = (at("[2001:db8::1]:9001"), at("192.0.2.9:9001"));
    let found = || Outcome::LookedUp(Ok(vec![a, b]));
    assert_eq!(world.seconds_until(ErrandKind::LookUp), 0);
    world.outcome(found());
    assert_eq!(world.node.calls(), [Call::Beacon(a)]);

    // It answers: nothing else is tried, in whatever order they come.
    world.run(Duration::from_secs(600));
    assert!(world.errand(ErrandKind::LookUp).is_none());
    let _ = world.turn(Chores { resolve: true, ..IDLE });
    assert!(world.errand(ErrandKind::LookUp).is_some());
    world.outcome(Outcome::LookedUp(Ok(vec![b, a])));
    assert_eq!(world.node.calls(), []);

    // It is lost: the next one, at once.
    world.run(RETRY);
    world.node.misses_beacon.set(true);
    let _ = world.turn(Chores { resolve: true, ..IDLE });
    assert!(world.errand(ErrandKind::LookUp).is_some());
    world.outcome(found());
    assert_eq!(world.node.calls(), [Call::Beacon(b)]);
    // Not before that one had its time, whoever asks.
    world.run(RETRY);
    let _ = world.turn(Chores { resolve: true, ..IDLE });
    assert!(world.errand(ErrandKind::LookUp).is_some());
    world.outcome(found());
    assert_eq!(world.node.calls(), []);
    // Then the first one again, although nobody asks, and so on with growing pauses.
    for (seconds, next) in [(10, a), (20, b), (30, a), (30, b)] {
        assert_eq!(world.seconds_until(ErrandKind::LookUp), seconds);
        world.outcome(found());
        assert_eq!(world.node.calls(), [Call::Beacon(next)]);
    }
    // A failure changes nothing.
    assert_eq!(world.seconds_until(ErrandKind::LookUp), 30);
    world.outcome(Outcome::LookedUp(Err(io::ErrorKind::NotFound.into())));
    assert_eq!(world.seconds_until(ErrandKind::LookUp), 30);
    world.outcome(found());
    assert_eq!(world.node.calls(), [Call::Beacon(a)]);
    world.node.misses_beacon.set(false);
    world.run(Duration::from_secs(600));
    assert!(world.errand(ErrandKind::LookUp).is_none());
    assert_eq!(world.node.calls(), []);
}

#[test]
fn the_names_have_default_ports() {
    let mut world = World::new(3);
    let _ = world.turn(DIAL);
    let Some(Errand::Dial(place)) = world.errand(ErrandKind::Dial) else { panic!("dials") };
    assert_eq!(place.to_string(), "registry:9000");
    let Some(Errand::LookUp(place)) = world.errand(ErrandKind::LookUp) else { panic!("asks") };
    assert_eq!(place.to_string(), "beacon:9001");
}

#[test]
fn a_connection_that_is_not_wanted_any_more_when_it_is_there_is_closed() {
    let mut world = World::new(4);
    let _ = world.turn(DIAL);
    assert!(world.errand(ErrandKind::Dial).is_some());
    let _ = world.turn(CLOSE);
    // Nothing is dialled twice at the same time.
    let _ = world.turn(DIAL);
    assert!(world.errand(ErrandKind::Dial).is_none());
    assert_eq!(world.node.calls(), []);
    let line = Line::default();
    world.outcome(Outcome::Dialled(Ok(line.clone())));
    assert_eq!(world.node.calls(), [Call::Close]);
    assert_eq!(Rc::strong_count(&line.0), 1, "it was dropped");
    // What was wanted after the close is done now.
    let _ = world.turn(IDLE);
    assert!(world.errand(ErrandKind::Dial).is_some());
    world.outcome(Outcome::Dialled(Err(io::ErrorKind::ConnectionRefused.into())));
    assert_eq!(world.node.calls(), [Call::Close]);
    // Again is the node's decision.
    world.run(Duration::from_secs(60));
    assert!(world.errand(ErrandKind::Dial).is_none());
    let _ = world.turn(Chores { dial: true, close: true, ..IDLE });
    assert!(world.errand(ErrandKind::Dial).is_some(), "there was nothing to close");
    world.outcome(Outcome::Dialled(Ok(line)));
    assert_eq!(world.node.calls(), [Call::Open]);
}

#[test]
fn bytes_go_both_ways_and_no_more_is_taken_than_the_connection_takes() {
    let mut world = World::new(5);
    let line = world.connect();
    line.0.borrow_mut().room = 3;
    line.0.borrow_mut().incoming.extend(*b"hello");
    let output = vec![9; 20 * 1024];
    world.node.bytes.borrow_mut().extend(&output);
    assert!(matches!(world.turn(IDLE), HouseholdNext::Wait { .. }));
    assert_eq!(world.node.calls(), [Call::Bytes(b"hello".to_vec())]);
    assert_eq!(line.0.borrow().written.len(), 3);
    assert!(world.household.line().unwrap().1, "it waits until it can write");
    assert_eq!(world.node.bytes.borrow().len(), 4 * 1024, "one chunk was taken");

    line.0.borrow_mut().room = usize::MAX;
    while world.turn(IDLE) == HouseholdNext::Again {}
    assert_eq!(line.0.borrow().written, output);
    assert!(!world.household.line().unwrap().1);

    line.0.borrow_mut().is_closed = true;
    let _ = world.turn(IDLE);
    assert_eq!(world.node.calls(), [Call::Close]);
    assert!(world.household.line().is_none());
}

#[test]
fn a_registry_that_sends_without_end_lets_others_have_their_turn() {
    let mut world = World::new(6);
    let line = world.connect();
    line.0.borrow_mut().incoming.extend(vec![1; 1 << 20]);
    assert_eq!(world.turn(IDLE), HouseholdNext::Again);
    assert!(!line.0.borrow().incoming.is_empty());
    while world.turn(IDLE) == HouseholdNext::Again {}
    assert!(line.0.borrow().incoming.is_empty());
}

#[test]
fn the_last_bytes_are_written_before_closing_for_a_second_at_most() {
    let mut world = World::new(7);
    let line = world.connect();
    world.node.bytes.borrow_mut().extend(*b"goodbye");
    let _ = world.turn(CLOSE);
    assert_eq!(line.0.borrow().written, b"goodbye");
    assert_eq!(world.node.calls(), [Call::Close]);
    assert_eq!(Rc::strong_count(&line.0), 1);

    let line = world.connect();
    line.0.borrow_mut().room = 2;
    world.node.bytes.borrow_mut().extend(*b"goodbye");
    // Dialling anew leaves the old connection, too.
    let _ = world.turn(DIAL);
    world.run(FLUSH_ALMOST);
    assert_eq!(world.node.calls(), []);
    assert!(world.errand(ErrandKind::Dial).is_none());
    world.run(Duration::from_millis(2));
    assert_eq!(world.node.calls(), [Call::Close]);
    assert_eq!(line.0.borrow().written, b"go");
    assert!(world.errand(ErrandKind::Dial).is_some());
}

/// An event queue calls as long as there is something to read.
#[test]
fn who_leaves_a_registry_reads_what_it_still_sends() {
    for is_closed in [false, true] {
        let mut world = World::new(11);
        let line = world.connect();
        {
            let mut wire = line.0.borrow_mut();
            (wire.room, wire.is_closed) = (2, is_closed);
            wire.incoming.extend(vec![1; 1 << 20]);
        }
        world.node.bytes.borrow_mut().extend(*b"goodbye");
        let mut next = world.turn(CLOSE);
        let is_readable = |line: &Line| {
            let wire = line.0.borrow();
            !wire.incoming.is_empty() || wire.is_closed
        };
        let mut turns = 1;
        while next == HouseholdNext::Again
            || world.household.line().is_some_and(|(line, _)| is_readable(line))
        {
            next = world.turn(IDLE);
            turns += 1;
            assert!(turns < 20, "it spins");
        }
        assert!(line.0.borrow().incoming.is_empty());
        // Nobody reads any more at the other end of one that is closed.
        let calls = if is_closed { vec![Call::Close] } else { vec![] };
        assert_eq!(world.node.calls(), calls);
        world.run(FLUSH + Duration::from_millis(1));
        assert_eq!(world.node.calls(), if is_closed { vec![] } else { vec![Call::Close] });
        assert_eq!(line.0.borrow().written, b"go");
    }
}

const FLUSH_ALMOST: Duration = Duration::from_millis(999);

#[test]
fn a_change_of_interfaces_is_told_once_and_the_beacon_is_looked_for_anew() {
    let mut world = World::new(8);
    let _ = world.turn(IDLE);
    assert!(world.errand(ErrandKind::LookUp).is_some());
    world.outcome(Outcome::LookedUp(Ok(vec![at("192.0.2.9:9001")])));
    world.run(Duration::from_secs(20));
    // Not more than one at a time, however long it takes.
    let Some(Errand::List(bound)) = world.errand(ErrandKind::List) else { panic!("listed") };
    assert_eq!(bound, [at("0.0.0.0:7")]);
    assert!(world.errand(ErrandKind::List).is_none());
    assert_eq!(world.node.calls(), [Call::Beacon(at("192.0.2.9:9001"))]);

    world.outcome(Outcome::Listed(Ok(vec![at("192.0.2.1:7")])));
    assert_eq!(world.seconds_until(ErrandKind::List), 0, "one was due meanwhile");
    world.outcome(Outcome::Listed(Err(io::ErrorKind::Other.into())));
    assert_eq!(world.seconds_until(ErrandKind::List), 1);
    assert_eq!(world.node.calls(), []);
    assert!(world.errand(ErrandKind::LookUp).is_none());

    let moved = vec![at("198.51.100.1:7")];
    world.outcome(Outcome::Listed(Ok(moved.clone())));
    assert_eq!(world.node.calls(), [Call::Locals(moved.clone())]);
    let _ = world.turn(IDLE);
    assert!(world.errand(ErrandKind::LookUp).is_some());
    assert_eq!(world.seconds_until(ErrandKind::List), 1);
    world.outcome(Outcome::Listed(Ok(moved)));
    assert_eq!(world.node.calls(), []);
    assert_eq!(world.seconds_until(ErrandKind::List), 1);
    world.outcome(Outcome::Lost(ErrandKind::List));
    // The main socket is another one: not a second later, and again if it was being listed.
    let _ = world.turn(Chores { list: true, ..IDLE });
    assert!(world.errand(ErrandKind::List).is_some());
    let _ = world.turn(Chores { list: true, ..IDLE });
    assert!(world.errand(ErrandKind::List).is_none());
    world.outcome(Outcome::Lost(ErrandKind::List));
    assert_eq!(world.seconds_until(ErrandKind::List), 0);
}

#[test]
fn a_step_of_the_clock_and_a_copied_machine_are_told_after_fresh_entropy() {
    let mut world = World::new(9);
    world.run(Duration::from_secs(10));
    let reseeds = world.node.calls.take().into_iter().filter(|call| *call == Call::Reseed).count();
    assert_eq!(reseeds, 10, "at the start and every second");
    world.host.step(Duration::from_secs(3600));
    let _ = world.turn(IDLE);
    let unix = world.host.reading().unix;
    assert_eq!(world.node.calls.take(), [Call::Reseed, Call::WallClock(unix)]);
    world.run(Duration::from_secs(10));
    assert_eq!(world.node.calls(), []);

    world.household.handle_copied();
    let _ = world.turn(IDLE);
    let unix = world.host.reading().unix;
    assert_eq!(world.node.calls.take(), [Call::Reseed, Call::WallClock(unix)]);
    let _ = world.turn(IDLE);
    assert_eq!(world.node.calls.take(), []);
}
