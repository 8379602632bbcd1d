//! Agents in mio loops: what other contestants do in tasks, here without any.

use crate::bulk::PAYLOAD;
use crate::latency::{COUNT, LEN, Trips, WARM_UP};
use crate::measure::{Checker, Source, Stopwatch, Took, on_core};
use crate::pilot::{Location, PORT, Provider, Rendezvous, loopback};
use ::mio::{Events, Poll, Token};
use pilot_core::rendezvous::RendezvousLimits;
use pilot_mio::{
    Address, Agent, Builder, Driver, Id, Identity, Limits, Link, Loop, PathKind, Ready, Stream,
    TOKENS,
};
use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// The row's name.
pub const NAME: &str = "pilot, mio, ring";

/// How often what nobody is told of is looked for while an experiment is set up.
const TICK: Option<Duration> = Some(Duration::from_millis(5));

fn builder(secret: u8, at: Location, provider: Provider, payload: u16) -> Builder {
    Agent::builder(Identity::from_secret([secret; 32]))
        .registry(at.registry.to_string())
        .beacon(at.beacon.to_string())
        .listen(loopback())
        .aead(provider.aead())
        .limits(Limits { datagram: payload, ..Limits::desktop() })
}

fn is_online(agent: &Agent) -> bool {
    agent.address().is_some() && agent.info().link == Link::Online
}

fn is_direct(agent: &Agent, peer: Address) -> bool {
    agent.trusted().iter().any(|p| p.address == peer && p.path == PathKind::Direct)
}

/// What a call yielded, if it would not have blocked.
fn moved(result: std::io::Result<usize>) -> Option<usize> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        result => Some(result.expect("a stream")),
    }
}

/// An agent with a loop of its own.
struct End {
    agent: Agent,
    events: Loop,
}

impl End {
    fn start(builder: Builder) -> Self {
        let (agent, events) = Loop::start(builder).expect("an agent");
        let mut end = End { agent, events };
        end.until(|agent| is_online(agent).then_some(()));
        end
    }

    fn until<T>(&mut self, mut ask: impl FnMut(&Agent) -> Option<T>) -> T {
        loop {
            if let Some(answer) = ask(&self.agent) {
                return answer;
            }
            self.events.poll(TICK).expect("events");
            while self.events.next_ready().is_some() {}
        }
    }

    /// Waits for that readiness.
    fn wait(&mut self, wanted: Ready) {
        loop {
            while let Some(ready) = self.events.next_ready() {
                if ready == wanted {
                    return;
                }
            }
            self.events.poll(None).expect("events");
        }
    }

    fn write_all(&mut self, stream: &mut Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match moved(stream.write(bytes)) {
                Some(n) => bytes = &bytes[n..],
                None => self.wait(Ready::Writable(stream.id())),
            }
        }
    }

    fn read(&mut self, stream: &mut Stream, buf: &mut [u8]) -> usize {
        loop {
            match moved(stream.read(buf)) {
                Some(n) => return n,
                None => self.wait(Ready::Readable(stream.id())),
            }
        }
    }

    fn end(mut self) {
        self.agent.begin_shutdown();
        while !self.events.is_ended() {
            self.events.poll(None).expect("events");
            while self.events.next_ready().is_some() {}
        }
    }
}

/// Bytes of one stream in one direction, a core and a loop an end: from the first byte written
/// until the other end says that it has checked the last one.
pub fn bulk(provider: Provider, payload: u16, bytes: usize) -> Took {
    const ENDED: &str = "an end has panicked";
    let server = Rendezvous::start(RendezvousLimits::server());
    let at = server.at;
    let (tell, told) = mpsc::channel();
    let passive = on_core(1, move || {
        let mut end = End::start(builder(2, at, provider, payload));
        let listener = end.agent.listen(PORT).expect("a free port");
        tell.send(end.agent.address().expect("registered")).expect("awaited");
        let from = end.until(|agent| agent.trust_requests().first().map(|r| r.from));
        end.agent.approve_trust(from).expect("approved");
        let (mut stream, _) = end.until(|_| listener.accept().expect("a stream"));
        let (mut buf, mut checker) = (vec![0; 256 * 1024], Checker::new());
        while checker.received() < bytes {
            let n = end.read(&mut stream, &mut buf);
            assert!(n > 0, "the end after {}", checker.received());
            checker.check(&buf[..n]);
        }
        end.write_all(&mut stream, b"done");
        assert_eq!(end.read(&mut stream, &mut buf), 0);
        end.end();
    });
    let active = on_core(0, move || {
        let mut end = End::start(builder(1, at, provider, payload));
        let peer = told.recv().expect("registered");
        end.agent.request_trust(peer, "a benchmark").expect("asked");
        end.until(|agent| agent.trusted().iter().any(|p| p.grants_us).then_some(()));
        let mut connecting = end.agent.connect(peer, PORT).expect("trusted");
        let mut stream = end.until(|_| connecting.try_stream().expect("connected"));
        end.until(|agent| is_direct(agent, peer).then_some(()));
        let mut source = Source::new();
        let watch = Stopwatch::start();
        let mut left = bytes;
        while left > 0 {
            let len = left.min(Source::MOST);
            end.write_all(&mut stream, source.next(len));
            left -= len;
        }
        let mut answer = [0; 4];
        let mut got = 0;
        while got < answer.len() {
            got += end.read(&mut stream, &mut answer[got..]);
        }
        let took = watch.stop();
        stream.finish().expect("open");
        end.until(|_| stream.acknowledged().is_ok().then_some(()));
        drop(stream);
        end.end();
        took
    });
    let took = active.join().expect(ENDED);
    passive.join().expect(ENDED);
    took
}

/// Two agents in one event queue, on one thread.
struct Pair {
    poll: Poll,
    events: Events,
    agents: [Agent; 2],
    drivers: [Driver; 2],
    /// Rounds since the system was asked for events.
    unasked: u32,
}

impl Pair {
    fn start(builders: [Builder; 2]) -> Self {
        let poll = Poll::new().expect("a queue");
        let waker = Arc::new(::mio::Waker::new(poll.registry(), Token(0)).expect("a waker"));
        let mut first = 1;
        let [(a, at_a), (b, at_b)] = builders.map(|builder| {
            let joined = Driver::join(builder, poll.registry(), Token(first), &waker);
            first += TOKENS;
            joined.expect("an agent")
        });
        let events = Events::with_capacity(64);
        Pair { poll, events, agents: [a, b], drivers: [at_a, at_b], unasked: 0 }
    }

    /// One round: each driver makes a turn, and what it has ready is handed to `each`, whose
    /// calls are sent at once; if nothing was ready, or for too long, the system is asked.
    fn round(&mut self, mut each: impl FnMut(usize, &Agent, Ready)) {
        /// Rounds after which others that share the queue would have had their turn.
        const UNASKED: u32 = 16;
        let mut is_idle = true;
        for (n, driver) in self.drivers.iter_mut().enumerate() {
            driver.turn();
            while let Some(ready) = driver.next_ready() {
                is_idle = false;
                each(n, &self.agents[n], ready);
            }
            driver.flush();
        }
        self.unasked += 1;
        if !is_idle && self.unasked < UNASKED {
            return;
        }
        self.unasked = 0;
        let wait = self.drivers.iter_mut().filter_map(|d| d.prepare_wait(TICK)).min();
        self.poll.poll(&mut self.events, wait).expect("events");
        for event in &self.events {
            let _ = self.drivers.iter_mut().any(|driver| driver.handle_event(event));
        }
    }

    fn until<T>(&mut self, mut ask: impl FnMut(&[Agent; 2]) -> Option<T>) -> T {
        loop {
            if let Some(answer) = ask(&self.agents) {
                return answer;
            }
            self.round(|_, _, _| ());
        }
    }

    /// Opens a stream between the two on a direct path.
    fn stream(&mut self) -> [Stream; 2] {
        self.until(|agents| agents.iter().all(is_online).then_some(()));
        let peer = self.agents[1].address().expect("registered");
        let listener = self.agents[1].listen(PORT).expect("a free port");
        self.agents[0].request_trust(peer, "a benchmark").expect("asked");
        let from = self.until(|agents| agents[1].trust_requests().first().map(|r| r.from));
        self.agents[1].approve_trust(from).expect("approved");
        self.until(|agents| agents[0].trusted().iter().any(|p| p.grants_us).then_some(()));
        let mut connecting = self.agents[0].connect(peer, PORT).expect("trusted");
        let opened = self.until(|_| connecting.try_stream().expect("connected"));
        let (accepted, _) = self.until(|_| listener.accept().expect("a stream"));
        self.until(|agents| is_direct(&agents[0], peer).then_some(()));
        [opened, accepted]
    }
}

/// One end of the ping-pong.
struct Player {
    stream: Stream,
    message: [u8; LEN],
    got: usize,
    checker: Checker,
}

impl Player {
    fn new(stream: Stream) -> Self {
        Player { stream, message: [0; LEN], got: 0, checker: Checker::new() }
    }

    fn id(&self) -> Id {
        self.stream.id()
    }

    /// Reads until it would block; whether a message is complete.
    fn read(&mut self) -> bool {
        while let Some(n) = moved(self.stream.read(&mut self.message[self.got..])) {
            assert!(n > 0, "the end");
            self.got += n;
            if self.got == LEN {
                self.checker.check(&self.message);
                self.got = 0;
                return true;
            }
        }
        false
    }

    fn write(&mut self, bytes: &[u8]) {
        assert_eq!(self.stream.write(bytes).expect("room"), bytes.len());
    }
}

/// Round trips of [`LEN`] bytes: both agents in one loop, thread and core.
pub fn latency(provider: Provider) -> Trips {
    let server = Rendezvous::start(RendezvousLimits::server());
    let at = server.at;
    let both = on_core(0, move || {
        let mut pair = Pair::start([1, 2].map(|n| builder(n, at, provider, PAYLOAD)));
        let mut players = pair.stream().map(Player::new);
        let mut source = Source::new();
        let mut trips = Vec::with_capacity(COUNT);
        let mut watch = Stopwatch::start();
        let mut done = 0;
        let mut start = Instant::now();
        // So that readiness is told.
        let armed = players.each_mut().map(|player| player.read());
        assert_eq!(armed, [false; 2]);
        players[0].write(source.next(LEN));
        pair.drivers[0].flush();
        while done < WARM_UP + COUNT {
            pair.round(|n, _, ready| {
                let player = &mut players[n];
                if ready != Ready::Readable(player.id()) {
                    return;
                }
                while player.read() {
                    if n == 1 {
                        let message = player.message;
                        player.write(&message);
                        continue;
                    }
                    let took = start.elapsed();
                    if done >= WARM_UP {
                        trips.push(took.as_secs_f64() * 1e6);
                    }
                    done += 1;
                    if done == WARM_UP {
                        watch = Stopwatch::start();
                    }
                    start = Instant::now();
                    if done < WARM_UP + COUNT {
                        player.write(source.next(LEN));
                    }
                }
            });
        }
        Trips::new(trips, watch)
    });
    both.join().expect("the loop has panicked")
}
