//! A real rendezvous on virtual time in the fuzzer's hands, and what is always asserted of it:
//! contract points 3 and 5 of `pilot_core`, counts within limits, and that a connection that
//! it has closed is silent.

use crate::stage::{self, Stage};
use pilot_core::machine::{Ecn, Ingress, Machine, Path};
use pilot_core::rendezvous::{Commit, ConnId, Event, Rendezvous, RendezvousLimits};
use pilot_core::time::{Duration, Instant};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroUsize;

/// The rendezvous and its surroundings.
pub struct Outpost {
    /// Under test.
    pub server: Rendezvous,
    /// The time it was told last.
    pub now: Instant,
    /// Datagrams that it has sent since this was last taken.
    pub sent: Vec<(SocketAddr, Vec<u8>)>,
    /// Bytes it wrote to each connection since they were last taken.
    pub written: BTreeMap<ConnId, Vec<u8>>,
    /// Connections that are open.
    pub open: BTreeSet<ConnId>,
    /// The commit under way: the caller decides when, and how it ends.
    pub commit: Option<Commit>,
    /// Rows as a disk would have them, by table and key.
    pub disk: BTreeMap<(u8, Vec<u8>), Vec<u8>>,
    limits: RendezvousLimits,
    next: u64,
    out: Vec<u8>,
}

/// Small enough that a fuzzer reaches the bounds.
pub fn limits() -> RendezvousLimits {
    RendezvousLimits {
        nodes: 6,
        letters: 8,
        receipts: 4,
        connections: 12,
        unauthenticated_per_source: 4,
        connections_per_node: 2,
        waiting_per_connection: 4,
        changes: 16,
        sessions: 4,
        channels: 3,
        channels_per_node: 2,
        relay_queue_bytes: 8 << 10,
        ..RendezvousLimits::server()
    }
}

impl Outpost {
    /// The stage's rendezvous, restarted.
    pub fn new() -> Self {
        let (now, limits) = (stage::start(), limits());
        let server = stage::rendezvous(now, limits.clone(), &Stage::get().changes);
        let rows = Stage::get().changes.iter();
        let disk = rows.filter_map(|c| Some(((c.table as u8, c.key.clone()), c.value.clone()?)));
        Outpost {
            disk: disk.collect(),
            server,
            now,
            sent: Vec::new(),
            written: BTreeMap::new(),
            open: BTreeSet::new(),
            commit: None,
            limits,
            next: 1,
            out: vec![0; 65_536],
        }
    }

    /// A connection is accepted, and perhaps closed at once.
    pub fn connect(&mut self, from: SocketAddr) -> ConnId {
        let conn = ConnId(self.next);
        self.next += 1;
        self.open.insert(conn);
        self.server.handle_open(self.now, conn, from);
        conn
    }

    /// Bytes arrive on a connection, open or not.
    pub fn bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        self.server.handle_bytes(self.now, conn, bytes);
    }

    /// A datagram arrives; whether it was dropped.
    pub fn deliver(&mut self, from: SocketAddr, bytes: &[u8]) -> bool {
        let before = self.server.drops().total();
        let mut bytes = bytes.to_vec();
        let path = Path::to(from);
        let ingress = self.server.handle_datagram(self.now, path, Ecn::NotEct, &mut bytes);
        let dropped = match ingress {
            Ingress::Dropped(_) => true,
            Ingress::Handled => false,
            Ingress::Datagram { .. } => panic!("a rendezvous has no application"),
        };
        assert!(!dropped || self.server.drops().total() > before, "dropped and not counted");
        dropped
    }

    /// The commit under way ends.
    pub fn finish_commit(&mut self, stored: bool) {
        let Some(commit) = self.commit.take() else { return };
        if stored {
            for change in &commit.changes {
                let key = (change.table as u8, change.key.clone());
                match &change.value {
                    Some(value) => drop(self.disk.insert(key, value.clone())),
                    None => drop(self.disk.remove(&key)),
                }
            }
        }
        self.server.handle_commit(self.now, commit.id, stored);
    }

    /// Time passes, at most to the next deadline at a time, drained in between.
    pub fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        for _ in 0..64 {
            self.drain();
            let next = self.server.poll_timeout().map_or(Instant::NEVER, |t| t.at);
            self.now = next.min(end).max(self.now);
            self.server.handle_timeout(self.now);
            if self.now >= end {
                return;
            }
        }
        self.now = end;
        self.server.handle_timeout(self.now);
    }

    /// Polls everything until nothing is left.
    pub fn drain(&mut self) {
        let now = self.now;
        for round in 0.. {
            assert!(round < 10_000, "output without end");
            let due = self.server.poll_timeout().is_some_and(|t| t.at <= now);
            let committed = self.commit.is_none() && {
                self.commit = self.server.poll_commit(now);
                self.commit.is_some()
            };
            let did = self.transmit() | self.tell() | committed;
            if !did {
                break;
            }
            assert!(due || round > 0, "output was queued and no deadline said so");
        }
        // A commit that is under way may hold back what is due.
        if let Some(timeout) = self.server.poll_timeout() {
            assert!(timeout.at > now, "spins: {timeout:?} at {now:?}");
        }
        self.check();
    }

    fn transmit(&mut self) -> bool {
        let mut did = false;
        while let Some(t) = self.server.poll_transmit(self.now, &mut self.out, NonZeroUsize::MIN) {
            did = true;
            assert!(t.len > 0 && t.datagrams() == 1);
            self.sent.push((t.path.remote, self.out[..t.len].to_vec()));
        }
        did
    }

    fn tell(&mut self) -> bool {
        let mut did = false;
        while let Some(event) = self.server.poll_event() {
            did = true;
            match event {
                Event::ConnectionWritable(conn) => loop {
                    let n = self.server.poll_bytes(self.now, conn, &mut self.out);
                    if n == 0 {
                        break;
                    }
                    self.written.entry(conn).or_default().extend(&self.out[..n]);
                },
                Event::CloseConnection(conn) => {
                    assert!(self.open.remove(&conn), "{conn:?} was closed twice");
                }
                _ => {}
            }
        }
        did
    }

    fn check(&self) {
        let stats = self.server.stats();
        assert!(stats.nodes <= self.limits.nodes && stats.published <= stats.nodes);
        assert!(stats.letters <= self.limits.letters);
        assert!(stats.receipts <= self.limits.receipts);
        assert!(stats.connections <= self.limits.connections);
        assert_eq!(stats.connections, self.open.len(), "no connection is forgotten or kept");
        assert!(stats.agents <= self.limits.sessions);
        assert!(stats.channels <= self.limits.channels);
    }

    /// Stores all that is gathered; then what a restart would load is what is in memory.
    pub fn settle(&mut self) {
        // One commit, its successor, and what a failed one left for a second later.
        for _ in 0..4 {
            self.drain();
            self.finish_commit(true);
            self.advance(Duration::from_secs(2));
        }
        assert!(self.commit.is_none(), "commits without end");
        let rows = self.server.rows().map(|row| row.change());
        let memory: BTreeMap<_, _> =
            rows.map(|c| ((c.table as u8, c.key), c.value.expect("a row has a value"))).collect();
        let of = |a: &BTreeMap<_, _>, b: &BTreeMap<(u8, Vec<u8>), Vec<u8>>| {
            b.iter().filter(|(k, v)| a.get(*k) != Some(*v)).map(|(k, _)| k.clone()).collect()
        };
        let differ: [Vec<_>; 2] = [of(&memory, &self.disk), of(&self.disk, &memory)];
        assert!(memory == self.disk, "memory and disk differ: {differ:?}");
    }
}

impl Default for Outpost {
    fn default() -> Self {
        Outpost::new()
    }
}
