//! The rendezvous: registry and beacon as one sans-IO machine, which every agent finds the
//! others through and which learns nothing of what they say to each other.
//!
//! Three sides, each with its own polls:
//!
//! * **UDP** (the beacon), by [`Machine`]: `handle_datagram`, `poll_transmit`.
//! * **TCP** (the registry), many connections: [`Rendezvous::handle_open`],
//!   [`handle_bytes`](Rendezvous::handle_bytes), [`poll_bytes`](Rendezvous::poll_bytes),
//!   [`handle_close`](Rendezvous::handle_close), and events that say which connection has
//!   bytes to write or is to be closed.
//! * **Storage**: [`poll_commit`](Rendezvous::poll_commit) gives what is to be made durable in
//!   one transaction, [`handle_commit`](Rendezvous::handle_commit) says that it is;
//!   [`apply`](Rendezvous::apply) loads.
//!
//! A request that changes something changes memory at once and is answered only after the
//! commit that holds its rows:
//!
//! | Request | Changes | Answered |
//! |---|---|---|
//! | reads only | – | at once |
//! | writes | gathered | when the commit that takes them is durable |
//! | writes what is there already, nothing gathered or under way | none | at once |
//! | writes what is there already, otherwise | none | with the last of those commits: what it repeats may be in there |
//! | any of these, the commit fails | kept, tried again after 1 s | RateLimited with 1 s: every operation may be repeated |
//!
//! `Waiting` and `Fenced` go out after the commit too, since a crash could otherwise take back
//! what they announce. Unbinding after `Revoke` does not wait: it only ever takes rights away.
//!
//! Two departures from the contract of [`crate::machine`]: the beacon's packets are built when
//! their cause arrives and wait in a bounded queue, because a relay has no state to build them
//! from later; and this module needs an allocator.

mod beacon;
mod config;
mod limit;
mod registry;
mod slots;
#[cfg(test)]
mod tests;

pub use config::{Alternate, RendezvousConfig, RendezvousLimits};
pub use registry::commit::Commit;
pub use registry::connection::ConnId;
pub use registry::rows::{Change, Letter, Published, Row, RowError, SCHEMA, Table};

use crate::addr::NodeId;
use crate::crypto::{AeadProvider, BeaconEntry, Identity, IdentityKey, TunnelSecret};
use crate::machine::{Ecn, Ingress, Machine, Path, Reason, Timeout, Transmit};
use crate::rng::Rng;
use crate::stats::Drops;
use crate::time::{Duration, Instant, UnixTime, WallClock};
use crate::wire::Bytes;
use crate::wire::registry::{BeaconInfo, Beacons, Reach};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use beacon::Beacon;
use core::num::NonZeroUsize;
use limit::TokenTable;
use registry::connection::Connections;
use registry::service::{Desk, Whereabouts};
use registry::{Context, Directory, Effect};

/// How often old mail is looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// What the owner of a [`Rendezvous`] reacts to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The connection has bytes to write: call [`Rendezvous::poll_bytes`] until it gives 0.
    ConnectionWritable(ConnId),
    /// Close this connection; the machine has forgotten it already.
    CloseConnection(ConnId),
}

/// Counters and gauges of a rendezvous.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RendezvousStats {
    /// Addresses handed out.
    pub nodes: usize,
    /// Nodes that have published a record.
    pub published: usize,
    /// Agents with a session at the beacon.
    pub agents: usize,
    /// Relay channels.
    pub channels: usize,
    /// Registry connections.
    pub connections: usize,
    /// Letters in all mailboxes.
    pub letters: usize,
    /// Receipts of finished tasks.
    pub receipts: usize,
    /// `Register` requests that were accepted.
    pub registrations: u64,
    /// `Reserve`, `Register` and other requests answered, errors included.
    pub requests: u64,
    /// STUN answers.
    pub stun_answers: u64,
    /// Beacon handshakes answered with a RESP.
    pub handshakes: u64,
    /// Packets relayed.
    pub relayed_packets: u64,
    /// Bytes of them, relay headers included.
    pub relayed_bytes: u64,
    /// Commits stored.
    pub commits: u64,
    /// Commits that failed.
    pub failed_commits: u64,
}

/// What waits for a commit.
enum Waiting {
    Answer { conn: ConnId, id: u32, plaintext: Vec<u8> },
    Effect(Effect),
}

/// The server machine. See the module.
pub struct Rendezvous {
    now: Instant,
    wall: WallClock,
    limits: RendezvousLimits,
    identity: Identity,
    directory: Directory,
    connections: Connections,
    desk: Desk,
    beacon_info: BeaconInfo,
    beacon: Beacon,
    /// By rising ticket.
    waiting: VecDeque<(u64, Waiting)>,
    sweep_at: Instant,
    drops: Drops,
    stats: RendezvousStats,
}

impl core::fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Rendezvous").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Rendezvous {
    /// An empty rendezvous; [`Rendezvous::apply`] then loads what was stored. `identity` is
    /// the registry key that agents pin, `tunnel` the key of channel and beacon handshakes.
    pub fn new(
        config: RendezvousConfig,
        identity: Identity,
        tunnel: TunnelSecret,
        aead: &'static dyn AeadProvider,
        seed: [u8; 32],
        now: Instant,
        unix: UnixTime,
    ) -> Self {
        let mut rng = Rng::new(seed);
        let limits = config.limits.clone();
        let entry =
            BeaconEntry::sign(&identity, NodeId::BEACON, tunnel.public(), config.beacon_serial);
        let mut beacons = Beacons::new();
        let info = BeaconInfo { entry: Bytes(entry.encode()), addresses: config.beacon.clone() };
        beacons.push(info.clone()).expect("the first of several");
        let minute = Duration::from_secs(60);
        let reserves = TokenTable::new(rng.bytes(), limits.reserves_per_minute, minute);
        let beacon_secret = TunnelSecret::from_secret(*tunnel.secret());
        let beacon = Beacon::new(&config, aead, beacon_secret, rng.fork("beacon"), now);
        let connections = Connections::new(&limits, aead, tunnel, rng.fork("registry"));
        let receipts = TokenTable::new(rng.bytes(), limits.receipts_per_minute, minute);
        Rendezvous {
            now,
            wall: WallClock::new(now, unix),
            connections,
            limits,
            identity,
            directory: Directory::new(),
            desk: Desk::new(reserves, receipts, beacons),
            beacon_info: info,
            beacon,
            waiting: VecDeque::new(),
            sweep_at: now + SWEEP,
            drops: Drops::new(),
            stats: RendezvousStats::default(),
        }
    }

    /// Mixes fresh entropy of the operating system into the generators, from which ephemeral
    /// keys and relay keys come (`wire.md` 8). To be called often.
    pub fn reseed(&mut self, entropy: [u8; 32]) {
        let mut rng = Rng::new(entropy);
        self.connections.reseed(&rng.bytes());
        self.beacon.reseed(&rng.bytes());
    }

    /// The registry's public key.
    pub fn identity(&self) -> IdentityKey {
        self.identity.public()
    }

    /// The wall clock was read anew.
    pub fn set_wall_clock(&mut self, now: Instant, unix: UnixTime) {
        self.wall = WallClock::new(now, unix);
    }

    /// Takes a stored row at start, or a change made elsewhere. Nothing is committed for it.
    pub fn apply(&mut self, change: &Change) -> Result<(), RowError> {
        self.directory.apply(change)
    }

    /// All durable facts as they are in memory, in the order of tables and keys.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.directory.rows()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> RendezvousStats {
        let (nodes, published) = self.directory.counts();
        let (agents, channels) = self.beacon.counts_now();
        let counts = self.beacon.counts;
        RendezvousStats {
            nodes,
            published,
            agents,
            channels,
            connections: self.connections.len(),
            letters: self.directory.mail_count(),
            receipts: self.directory.receipt_count(),
            stun_answers: counts.stun,
            handshakes: counts.handshakes,
            relayed_packets: counts.relayed_packets,
            relayed_bytes: counts.relayed_bytes,
            ..self.stats
        }
    }

    /// Datagrams and connections that were dropped, by reason.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    fn tick(&mut self, now: Instant) -> Instant {
        self.now = self.now.max(now);
        self.now
    }

    // ---- TCP ----

    /// A connection was accepted. The adapter chooses the id, never the same one twice.
    pub fn handle_open(&mut self, now: Instant, conn: ConnId, remote: core::net::SocketAddr) {
        let now = self.tick(now);
        if let Err(reason) = self.connections.open(now, conn, remote) {
            self.drops.count(reason);
        }
    }

    /// Bytes arrived on a connection. On a connection that the machine has closed they are
    /// ignored.
    pub fn handle_bytes(&mut self, now: Instant, conn: ConnId, mut bytes: &[u8]) {
        let now = self.tick(now);
        let ctx = Context {
            now,
            unix: self.wall.unix(now),
            registry: &self.identity,
            limits: &self.limits,
        };
        while let Some(step) = self.connections.receive(&ctx, conn, &mut bytes, &self.directory) {
            let request = match step {
                Ok(request) => request,
                Err(reason) => {
                    self.drops.count(reason);
                    return;
                }
            };
            let busy = self.directory.commits.gathered() >= self.limits.changes
                || self.connections.is_busy(conn);
            let Some(standing) = self.connections.standing(conn) else { return };
            let whereabouts = Places { beacon: &self.beacon, info: &self.beacon_info, now };
            let outcome =
                self.desk.serve(&mut self.directory, &ctx, standing, &request, &whereabouts, busy);
            let Some(outcome) = outcome else {
                self.connections.close(conn);
                self.drops.count(crate::stats::DropReason::Malformed);
                return;
            };
            self.stats.requests += 1;
            self.connections.follow(conn);
            match outcome.deed {
                Some(registry::service::Deed::Registered(_)) => self.stats.registrations += 1,
                Some(registry::service::Deed::Revoked(a, b)) => self.beacon.unbind_pair(now, a, b),
                Some(registry::service::Deed::Fetched(node, last)) => {
                    self.beacon.fetched(node, last);
                }
                None => {}
            }
            let ticket = self.directory.commits.ticket();
            for effect in core::mem::take(&mut self.directory.effects) {
                match ticket {
                    Some(ticket) => self.waiting.push_back((ticket, Waiting::Effect(effect))),
                    None => self.beacon.apply(now, effect),
                }
            }
            let plaintext = &self.desk.plaintext[..outcome.len];
            match ticket.filter(|_| !outcome.is_read) {
                None => self.connections.answer(now, conn, plaintext),
                Some(ticket) => {
                    self.connections.wait(conn);
                    let (id, plaintext) = (outcome.id, plaintext.to_vec());
                    self.waiting.push_back((ticket, Waiting::Answer { conn, id, plaintext }));
                }
            }
        }
    }

    /// Copies bytes to be written into `out`; 0 when there are none.
    pub fn poll_bytes(&mut self, now: Instant, conn: ConnId, out: &mut [u8]) -> usize {
        self.tick(now);
        self.connections.poll_bytes(conn, out)
    }

    /// The connection was closed by the other end, or failed.
    pub fn handle_close(&mut self, now: Instant, conn: ConnId) {
        self.tick(now);
        self.connections.forget(conn);
    }

    // ---- storage ----

    /// What is to be stored in one transaction; at most one commit is under way.
    pub fn poll_commit(&mut self, now: Instant) -> Option<Commit> {
        let now = self.tick(now);
        self.directory.commits.poll(now)
    }

    /// The commit is durable (`true`), or nothing of it is (`false`). Unknown ids are ignored.
    pub fn handle_commit(&mut self, now: Instant, id: u64, stored: bool) {
        let now = self.tick(now);
        if !self.directory.commits.finish(now, id, stored) {
            return;
        }
        if stored {
            self.stats.commits += 1
        } else {
            self.stats.failed_commits += 1
        }
        while self.waiting.front().is_some_and(|(ticket, _)| *ticket <= id) {
            let Some((_, waiting)) = self.waiting.pop_front() else { break };
            match waiting {
                Waiting::Answer { conn, id, plaintext } => {
                    self.connections.waited(conn);
                    if stored {
                        self.connections.answer(now, conn, &plaintext);
                    } else {
                        let n = registry::service::storage_failed(id, &mut self.desk.plaintext);
                        self.connections.answer(now, conn, &self.desk.plaintext[..n]);
                    }
                }
                Waiting::Effect(effect) if stored => self.beacon.apply(now, effect),
                // The change is kept and will be stored; what it announces waits for that.
                Waiting::Effect(effect) => {
                    let ticket = self.directory.commits.ticket().unwrap_or(id + 1);
                    self.waiting.push_back((ticket, Waiting::Effect(effect)));
                }
            }
        }
    }
}

/// What `Resolve` tells of where an agent is.
struct Places<'a> {
    beacon: &'a Beacon,
    info: &'a BeaconInfo,
    now: Instant,
}

impl Whereabouts for Places<'_> {
    fn reach(&self, node: NodeId) -> Reach {
        let endpoints = self.beacon.endpoints(self.now, node);
        Reach { endpoints, beacon: Some(self.info.clone()) }
    }
}

impl Machine for Rendezvous {
    type Event = Event;

    fn handle_datagram<'b>(
        &mut self,
        now: Instant,
        path: Path,
        ecn: Ecn,
        datagram: &'b mut [u8],
    ) -> Ingress<'b> {
        let now = self.tick(now);
        let ctx = Context {
            now,
            unix: self.wall.unix(now),
            registry: &self.identity,
            limits: &self.limits,
        };
        match self.beacon.handle_datagram(now, path, ecn, datagram, &self.directory, &ctx) {
            Ok(()) => Ingress::Handled,
            Err(reason) => {
                self.drops.count(reason);
                Ingress::Dropped(reason)
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        let now = self.tick(now);
        for reason in self.connections.handle_timeout(now) {
            self.drops.count(reason);
        }
        self.beacon.handle_timeout(now, &self.directory);
        if self.sweep_at <= now {
            let ctx = Context {
                now,
                unix: self.wall.unix(now),
                registry: &self.identity,
                limits: &self.limits,
            };
            let more = self.directory.sweep(&ctx);
            self.sweep_at = now + if more { Duration::from_millis(100) } else { SWEEP };
        }
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        out: &mut [u8],
        max_segments: NonZeroUsize,
    ) -> Option<Transmit> {
        self.tick(now);
        self.beacon.poll_transmit(out, max_segments)
    }

    fn poll_timeout(&self) -> Option<Timeout> {
        if self.beacon.has_output() || self.connections.has_events() {
            return Some(Timeout { at: self.now, reason: Reason::Output });
        }
        let at = |at: Option<Instant>, reason| at.map(|at| Timeout { at, reason });
        [
            at(self.directory.commits.next_at(), Reason::Output),
            at(self.connections.next_timeout(), Reason::Directory),
            at(self.beacon.next_timeout(), Reason::Session),
            at(Some(self.sweep_at), Reason::Sweep),
        ]
        .into_iter()
        .flatten()
        .min_by_key(|timeout| timeout.at)
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.connections.poll_event()
    }
}
