//! A real node on virtual time in the fuzzer's hands, and what is always asserted of it:
//!
//! * contract points 1 to 5 of `pilot_core`: what is dropped is counted; output that is queued
//!   makes the deadline due, and after a drain every deadline is later than now;
//! * no nonce is used twice;
//! * towards an address that has proven nothing, at most three times the bytes that came from
//!   it (`wire.md` 5.5), and never more than came unless a frame or INIT of it authenticated;
//! * all counts within their limits.

use crate::actor::{Actor, Heard};
use crate::stage::{self, Stage};
use pilot_core::limits::Limits;
use pilot_core::machine::{Ecn, Ingress, Machine, Path};
use pilot_core::node::{Event, Node};
use pilot_core::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroUsize;

/// What came from and went to an address.
#[derive(Clone, Copy, Default)]
pub struct Traffic {
    /// Datagram bytes from there.
    pub came: usize,
    /// Datagram bytes to there.
    pub went: usize,
}

/// The node and its surroundings.
pub struct Lab {
    /// Under test.
    pub node: Node<'static>,
    /// The time it was told last.
    pub now: Instant,
    /// What it has sent since this was last taken, oldest first.
    pub sent: Vec<(SocketAddr, Vec<u8>)>,
    /// What it has told, except what the lab itself serves.
    pub events: Vec<Event>,
    /// By address.
    pub traffic: BTreeMap<SocketAddr, Traffic>,
    /// Addresses that were given as where somebody is, or proven: no bound applies.
    pub known: BTreeSet<SocketAddr>,
    /// Whether the registry connection is up; its bytes wait in `to_registry`.
    pub connected: bool,
    /// Bytes for the registry.
    pub to_registry: Vec<u8>,
    /// Application datagrams that came out.
    pub datagrams: usize,
    nonces: BTreeSet<[u8; 12]>,
    limits: Limits,
    out: Vec<u8>,
}

impl Lab {
    /// Agent `n` of the stage, restarted; nothing has been polled yet.
    pub fn new(n: usize) -> Self {
        let now = stage::start();
        Lab {
            node: Stage::get().node(n, now),
            now,
            sent: Vec::new(),
            events: Vec::new(),
            traffic: BTreeMap::new(),
            known: BTreeSet::from([stage::beacon_socket()]),
            connected: false,
            to_registry: Vec::new(),
            datagrams: 0,
            nonces: BTreeSet::new(),
            limits: stage::limits(),
            out: vec![0; 65_536],
        }
    }

    /// A datagram arrives.
    pub fn deliver(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.traffic.entry(from).or_default().came += bytes.len();
        let before = self.node.drops().total();
        let mut bytes = bytes.to_vec();
        let dropped =
            match self.node.handle_datagram(self.now, Path::to(from), Ecn::NotEct, &mut bytes) {
                Ingress::Dropped(_) => true,
                Ingress::Handled => false,
                Ingress::Datagram { .. } => {
                    self.datagrams += 1;
                    false
                }
            };
        assert!(!dropped || self.node.drops().total() > before, "dropped and not counted");
    }

    /// Time passes, at most to the node's next deadline at a time, drained in between.
    pub fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        for _ in 0..64 {
            self.drain();
            let next = self.node.poll_timeout().map_or(Instant::NEVER, |t| t.at);
            self.now = next.min(end);
            self.node.handle_timeout(self.now);
            if self.now >= end {
                return;
            }
        }
        self.leap(end.since(self.now));
    }

    /// Time passes at once: a late timer is safe.
    pub fn leap(&mut self, span: Duration) {
        self.now += span;
        self.node.handle_timeout(self.now);
        // Twice does nothing.
        self.node.handle_timeout(self.now);
    }

    /// Polls everything until nothing is left, and checks what has to hold then.
    pub fn drain(&mut self) {
        let now = self.now;
        self.poll();
        if self.node.poll_timeout().is_some_and(|t| t.at <= now) {
            // A peer with output has its timers set only when it is drained: one that is overdue
            // by then fires in the driver's next turn. More than one turn would be a spin.
            self.node.handle_timeout(now);
            self.poll();
        }
        if let Some(timeout) = self.node.poll_timeout() {
            assert!(timeout.at > now, "spins: {timeout:?} at {now:?}");
        }
        self.check();
    }

    fn poll(&mut self) {
        let now = self.now;
        // Polling events acts on some that the owner is not told of, so one idle round may be
        // followed by another one with output.
        let mut idle = 0;
        for round in 0.. {
            assert!(round < 10_000, "output without end");
            let due = self.node.poll_timeout().is_some_and(|t| t.at <= now);
            let did = [self.transmit(), self.store(), self.tell(), self.pump()];
            if !did.contains(&true) {
                idle += 1;
                if idle == 2 {
                    return;
                }
                continue;
            }
            idle = 0;
            assert!(due || round > 0, "output was queued and no deadline said so: {did:?}");
        }
    }

    fn transmit(&mut self) -> bool {
        let segments = NonZeroUsize::new(4).expect("not zero");
        let mut did = false;
        while let Some(t) = self.node.poll_transmit(self.now, &mut self.out, segments) {
            did = true;
            assert!(t.len > 0 && t.datagrams() <= segments.get());
            let size = t.segment.map_or(t.len, |s| usize::from(s.get()));
            for bytes in self.out[..t.len].chunks(size) {
                if bytes[0] >= 0x80 {
                    let nonce = *bytes.first_chunk().expect("a frame has 28 bytes");
                    assert!(self.nonces.insert(nonce), "a nonce was used twice");
                }
                self.traffic.entry(t.path.remote).or_default().went += bytes.len();
                self.sent.push((t.path.remote, bytes.to_vec()));
            }
        }
        did
    }

    fn store(&mut self) -> bool {
        let mut value = [0; 2048];
        let mut last = None;
        while let Some(change) = self.node.poll_store(&mut value) {
            last = Some(change.sequence);
        }
        if let Some(sequence) = last {
            self.node.handle_stored(self.now, sequence);
        }
        last.is_some()
    }

    fn tell(&mut self) -> bool {
        let mut did = false;
        while let Some(event) = self.node.poll_event() {
            did = true;
            match event {
                Event::DialRegistry => {
                    self.connected = true;
                    self.node.handle_registry_open(self.now);
                }
                Event::CloseRegistry => {
                    self.connected = false;
                    self.to_registry.clear();
                    self.node.handle_registry_close(self.now);
                }
                Event::RegistryBytes | Event::Store => {}
                event if self.events.len() < 256 => self.events.push(event),
                _ => {}
            }
        }
        did
    }

    fn pump(&mut self) -> bool {
        let mut buf = [0; 4096];
        let mut did = false;
        while self.connected {
            let n = self.node.poll_bytes(self.now, &mut buf);
            if n == 0 {
                break;
            }
            did = true;
            if self.to_registry.len() < 1 << 20 {
                self.to_registry.extend(&buf[..n]);
            }
        }
        did
    }

    fn check(&self) {
        assert!(self.node.streams().count() <= self.limits.streams);
        assert!(self.node.peers().count() <= self.limits.peers);
        assert!(self.node.trust_requests().count() <= self.limits.trust_requests);
        for stream in self.node.streams() {
            assert!(stream.sent.1 <= stream.sent.0, "acknowledged what was not written");
            assert!(stream.received.1 <= stream.received.0, "read what was not received");
        }
        for (address, traffic) in &self.traffic {
            assert!(
                self.known.contains(address) || traffic.went <= 3 * traffic.came,
                "{} bytes to {address}, from where {} came",
                traffic.went,
                traffic.came
            );
        }
    }

    /// What was sent to an address since this was last called; the rest is forgotten.
    pub fn take_sent(&mut self, to: SocketAddr) -> Vec<Vec<u8>> {
        let sent = core::mem::take(&mut self.sent);
        sent.into_iter().filter(|(a, _)| *a == to).map(|(_, bytes)| bytes).collect()
    }
}

/// Agent 0 as a node under test, and agent 1 as an actor with a confirmed session to it.
pub fn meet() -> (Lab, Actor) {
    let mut lab = Lab::new(0);
    lab.drain();
    let [us, them] = &Stage::get().agents;
    lab.known.insert(them.socket);
    let mut actor = Actor::agent(1, us.address, us.record.fields.tunnel);
    begin(&mut lab, &mut actor);
    assert_eq!(actor.sessions.len(), 1, "an honest handshake succeeds");
    lab.sent.clear();
    (lab, actor)
}

/// The actor's INIT from its socket; if it is answered, its first frame too.
pub fn begin(lab: &mut Lab, actor: &mut Actor) {
    let socket = Stage::get().agents[1].socket;
    let p1 = actor.p1();
    let init = actor.init(&p1);
    lab.deliver(socket, &init);
    lab.drain();
    for packet in lab.take_sent(socket) {
        if actor.hear(lab.now, &packet) == Heard::Session {
            let frame = actor.seal(lab.now, 0, &[]).expect("a fresh session");
            lab.deliver(socket, &frame);
            lab.drain();
            return;
        }
    }
}

/// One of the addresses that attackers have; the last of them share an address.
pub fn elsewhere(n: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, n % 4], 1000 + u16::from(n)))
}
