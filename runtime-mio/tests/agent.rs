//! Agents within loops: their own, and one that two agents share with something else.

#[path = "../../core/tests/support/allocations.rs"]
mod allocations;

use allocations::Counting;
use mio::{Events, Poll, Token};
use pilot_core::drive::conformance::Rendezvous;
use pilot_mio::{Agent, Builder, Driver, Identity, Loop, Port, Ready, Stream, TOKENS, Target};
use pilot_rendezvous::conformance::TestServer;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PORT: Port = Port(2000);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn builder(world: &TestServer, number: u8) -> Builder {
    Agent::builder(Identity::from_secret([number; 32]))
        .registry(world.registry())
        .beacon(world.beacon())
        .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

#[allow(clippy::disallowed_methods, reason = "a test's deadline")]
fn now() -> Instant {
    Instant::now()
}

/// Two agents in one event queue.
struct Pair {
    poll: Poll,
    events: Events,
    agents: [Agent; 2],
    drivers: [Driver; 2],
    until: Instant,
}

impl Pair {
    fn start(world: &TestServer) -> Self {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), Token(7)).unwrap());
        let join = |n: usize| {
            let first = Token(1000 + n * TOKENS);
            Driver::join(builder(world, n as u8 + 1), poll.registry(), first, &waker).unwrap()
        };
        let ((a, at_a), (b, at_b)) = (join(0), join(1));
        let events = Events::with_capacity(16);
        let until = now() + Duration::from_secs(30);
        Pair { poll, events, agents: [a, b], drivers: [at_a, at_b], until }
    }

    /// Goes round until `ask` has an answer; it is asked after every round.
    fn until<T>(&mut self, mut ask: impl FnMut(&[Agent; 2], &[Ready]) -> Option<T>) -> T {
        let mut ready = Vec::new();
        loop {
            if let Some(answer) = ask(&self.agents, &ready) {
                return answer;
            }
            assert!(now() < self.until, "nothing happens");
            let limit = Some(Duration::from_millis(200));
            let wait = self.drivers.iter_mut().filter_map(|d| d.prepare_wait(limit)).min();
            self.poll.poll(&mut self.events, wait).unwrap();
            for event in &self.events {
                let owners = self.drivers.iter_mut().map(|d| u8::from(d.handle_event(event)));
                let wanted = u8::from(event.token() != Token(7));
                assert_eq!(owners.sum::<u8>(), wanted, "{event:?}");
            }
            ready.clear();
            for driver in &mut self.drivers {
                driver.turn();
                ready.extend(std::iter::from_fn(|| driver.next_ready()));
            }
        }
    }

    fn befriend(&mut self) {
        let [a, b] = [0, 1].map(|n| self.until(|agents, _| agents[n].try_ready().unwrap()));
        self.agents[0].request_trust(b, "to be tested with").unwrap();
        self.until(|agents, _| agents[1].trust_requests().first().map(|_| ()));
        self.agents[1].approve_trust(a).unwrap();
        let is_granted = |agent: &Agent| agent.trusted().iter().any(|peer| peer.grants_us);
        self.until(|agents, _| agents.iter().all(is_granted).then_some(()));
    }

    fn stream(&mut self) -> (Stream, Stream) {
        let to = Target::Address(self.agents[1].address().unwrap());
        let listener = self.agents[1].listen(PORT).unwrap();
        assert!(listener.accept().unwrap().is_none());
        let mut connecting = self.agents[0].connect(to, PORT).unwrap();
        let opened = self.until(|_, _| connecting.try_stream().unwrap());
        let (accepted, _) = self.until(|_, _| listener.accept().unwrap());
        (opened, accepted)
    }
}

#[test]
fn two_agents_share_a_queue_and_readiness_comes_once() {
    let world = TestServer::start();
    let mut pair = Pair::start(&world);
    pair.befriend();
    let (mut left, mut right) = pair.stream();
    let mut buf = [0; 64];
    assert_eq!(right.read(&mut buf).unwrap_err().kind(), ErrorKind::WouldBlock);
    left.write_all(b"hello").unwrap();
    let id = right.id();
    pair.until(|_, ready| ready.contains(&Ready::Readable(id)).then_some(()));
    assert_eq!(right.read(&mut buf).unwrap(), 5);
    // It was not asked again: nothing is told.
    left.write_all(b"again").unwrap();
    let mut rounds = 0;
    pair.until(|_, ready| {
        assert!(!ready.contains(&Ready::Readable(id)));
        rounds += 1;
        (rounds == 3).then_some(())
    });
    // However long it takes on a busy machine.
    let read = pair.until(|_, _| right.read(&mut buf).ok());
    assert_eq!((read, &buf[..5]), (5, b"again".as_slice()));
    right.finish().unwrap();
    pair.until(|_, _| match left.read(&mut buf) {
        Ok(n) => {
            assert_eq!(n, 0);
            Some(())
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            None
        }
    });
}

#[test]
fn a_round_trip_allocates_nothing() {
    const TRIPS: usize = 2000;
    let world = TestServer::start();
    let mut pair = Pair::start(&world);
    pair.befriend();
    let streams = <[Stream; 2]>::from(pair.stream());
    let mut got = [0; 2];
    // Reads all that there is, and answers each time that 64 bytes are complete.
    let mut play = |n: usize, is_last: bool| {
        let mut buf = [0; 64];
        loop {
            match (&streams[n]).read(&mut buf) {
                Ok(len) => got[n] += len,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        let is_complete = got[n] == 64;
        if is_complete && !is_last {
            (&streams[n]).write_all(&buf).unwrap();
        }
        got[n] %= 64;
        is_complete
    };
    assert!(!play(0, false) && !play(1, false));
    (&streams[0]).write_all(&[7; 64]).unwrap();
    let (mut trips, mut allocating, mut before) = (0, 0, allocations::count());
    pair.until(|_, ready| {
        for ready in ready {
            let n = streams.iter().position(|stream| *ready == Ready::Readable(stream.id()));
            if n.is_some_and(|n| play(n, n == 0 && trips == TRIPS) && n == 0) {
                trips += 1;
                allocating += usize::from(allocations::count() != before);
                before = allocations::count();
            }
        }
        (trips > TRIPS).then_some(())
    });
    // The household may: once a second, and when the path or a key changes.
    assert!(allocating < TRIPS / 50, "{allocating} of {TRIPS} round trips allocated");
}

/// The end comes in a turn that no event has asked for: a wait without limit ends all the same.
#[test]
fn the_end_is_not_waited_for_in_vain() {
    let world = TestServer::start();
    let (over, end) = std::sync::mpsc::channel();
    let (here, there) = (builder(&world, 1), builder(&world, 2));
    std::thread::spawn(move || {
        let (agent, mut events) = Loop::start(here).unwrap();
        while agent.try_ready().unwrap().is_none() {
            events.poll(None).unwrap();
            while events.next_ready().is_some() {}
        }
        agent.begin_shutdown();
        while !events.is_ended() {
            events.poll(None).unwrap();
        }
        events.poll(None).unwrap();
        over.send("a loop of its own").unwrap();

        let mut poll = Poll::new().unwrap();
        let mut told = Events::with_capacity(16);
        let waker = Arc::new(mio::Waker::new(poll.registry(), Token(0)).unwrap());
        let (agent, mut driver) = Driver::join(there, poll.registry(), Token(1), &waker).unwrap();
        agent.begin_shutdown();
        while !driver.is_ended() {
            let wait = driver.prepare_wait(None);
            poll.poll(&mut told, wait).unwrap();
            for event in &told {
                driver.handle_event(event);
            }
        }
        over.send("somebody else's").unwrap();
    });
    for within in ["a loop of its own", "somebody else's"] {
        assert_eq!(end.recv_timeout(Duration::from_secs(30)), Ok(within));
    }
}

/// Whoever drops a driver ends its agent, and peers are told.
#[test]
fn a_dropped_driver_ends_its_agent() {
    let world = TestServer::start();
    let mut pair = Pair::start(&world);
    pair.befriend();
    let (left, mut right) = pair.stream();
    let Pair { mut poll, mut events, agents: [a, b], drivers: [at_a, mut at_b], until } = pair;
    drop(at_a);
    assert!(a.is_ended() && a.info().local.is_empty() && !b.is_ended());
    assert_eq!((&left).write(b"x").unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert!(a.try_ready().is_err() && a.try_ended());
    let ended = loop {
        match right.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => assert!(now() < until),
            other => break other,
        }
        let wait = at_b.prepare_wait(Some(Duration::from_millis(200)));
        poll.poll(&mut events, wait).unwrap();
        for event in &events {
            at_b.handle_event(event);
        }
        at_b.turn();
    };
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}
