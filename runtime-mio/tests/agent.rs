//! Agents within loops: their own, and one that two agents share with something else.

use mio::{Events, Poll, Token};
use pilot_core::drive::conformance::Rendezvous;
use pilot_mio::{Agent, Builder, Driver, Identity, Port, Ready, Stream, TOKENS, Target};
use pilot_rendezvous::conformance::TestServer;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PORT: Port = Port(2000);

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
    assert_eq!(right.read(&mut buf).unwrap(), 5);
    assert_eq!(&buf[..5], b"again");
    right.finish().unwrap();
    pair.until(|_, _| match left.read(&mut buf) {
        Ok(n) => Some(assert_eq!(n, 0)),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            None
        }
    });
}
