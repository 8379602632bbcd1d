//! The world: hosts, boxes and the rendezvous on virtual time.
//!
//! Time goes from event to event. At each, packets arrive, then every host that has something to
//! do makes turns of the real driver until it rests, then the checks of [`crate`] are made.

use crate::app::Transfer;
use crate::check::Checks;
use crate::host::{Host, Power};
use crate::nat::Packet;
use crate::net::{HostId, Site, Target};
use crate::server::{Connection, ROUNDS_MAX, Server};
use crate::tape::Tape;
use crate::trace::{Lost, Note, PathChange, Trace};
use pilot_core::drive::Turn;
use pilot_core::machine::Machine;
use pilot_core::node::{Command, Event};
use pilot_core::rendezvous::ConnId;
use pilot_core::time::{Duration, Instant, UnixTime};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

/// When a world begins.
const START: Duration = Duration::from_secs(1000);
/// What the wall clock shows then.
const UNIX: UnixTime = UnixTime::from_secs(1_800_000_000);
/// On its way at once; a packet that would be more is lost.
const ITEMS_MAX: usize = 1 << 20;
/// Changes of paths that are kept.
const PATHS_MAX: usize = 65_536;
/// How often the costlier checks of a host are made: every so many turns.
const CHECK_EVERY: u64 = 16;

/// The wall clock of the world.
pub(crate) fn unix_at(now: Instant) -> UnixTime {
    UNIX + now.since(Instant::START + START)
}

/// What is on its way.
#[derive(Debug)]
pub(crate) enum Item {
    /// Has crossed an access and is routed.
    Core {
        packet: Packet,
        bytes: Vec<u8>,
    },
    Arrive {
        target: Target,
        packet: Packet,
        bytes: Vec<u8>,
    },
    TcpOpen {
        conn: ConnId,
    },
    TcpToServer {
        conn: ConnId,
    },
    TcpToHost {
        conn: ConnId,
    },
    HostCloses {
        conn: ConnId,
    },
    ServerCloses {
        conn: ConnId,
    },
}

/// Something that must never be was.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}, {after:?} after the start; again: {again}")]
pub struct Failure {
    /// What.
    pub what: String,
    /// In virtual time.
    pub after: Duration,
    /// What shows it again.
    pub again: String,
}

impl Failure {
    /// What failures of one kind have in common: the text up to the first number or list.
    pub fn kind(&self) -> &str {
        let end = self.what.find(|c: char| c.is_ascii_digit() || c == '[' || c == '{');
        self.what[..end.unwrap_or(self.what.len())].trim_end()
    }
}

/// What a world has counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Datagrams that hosts have sent.
    pub sent: u64,
    /// Bytes of UDP payload in them.
    pub sent_bytes: u64,
    /// Bytes of streams that have arrived.
    pub streamed: u64,
    /// Datagrams that have ended on their way, by reason.
    pub lost: BTreeMap<Lost, u64>,
}

impl Stats {
    pub(crate) fn lost(&mut self, why: Lost) {
        *self.lost.entry(why).or_default() += 1;
    }
}

/// A world. See the crate.
pub struct World {
    pub(crate) now: Instant,
    pub(crate) tape: Tape,
    pub(crate) hosts: Vec<Host>,
    pub(crate) sites: Vec<Site>,
    pub(crate) server: Server,
    pub(crate) conns: BTreeMap<ConnId, Connection>,
    pub(crate) next_conn: u64,
    items: BTreeMap<(Instant, u64), Item>,
    serial: u64,
    /// Hosts that something has happened to.
    pub(crate) due: BTreeSet<HostId>,
    pub(crate) core_hops: u8,
    /// Longest IP packets between two addresses of the core, where they are shorter than its
    /// links carry.
    pub(crate) narrow: BTreeMap<(IpAddr, IpAddr), u16>,
    pub(crate) trace: Trace,
    pub(crate) checks: Checks,
    pub(crate) stats: Stats,
    pub(crate) transfers: Vec<Transfer>,
    /// Number of the last application datagram.
    pub(crate) next_datagram: u32,
    pub(crate) next_address: u8,
    /// Of 1,000 turns, in how many a socket refuses at first.
    pub(crate) refuse: u16,
    pub(crate) paths: Vec<PathChange>,
    turns: u64,
    failure: Option<Failure>,
    pub(crate) again: String,
}

impl core::fmt::Debug for World {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("World").field("elapsed", &self.elapsed()).finish_non_exhaustive()
    }
}

impl World {
    /// A world with a rendezvous and nobody else.
    pub fn new(tape: Tape) -> Self {
        // Everybody's keys are on this thread, and nobody's are secret.
        pilot_core::crypto::memo::remember();
        let now = Instant::START + START;
        let again = match tape.seed() {
            Some(seed) => format!("the same test, seed {seed}"),
            None => "the same tape".to_string(),
        };
        World {
            now,
            tape,
            hosts: Vec::new(),
            sites: Vec::new(),
            server: Server::new(now, UNIX),
            conns: BTreeMap::new(),
            next_conn: 0,
            items: BTreeMap::new(),
            serial: 0,
            due: BTreeSet::new(),
            core_hops: 1,
            narrow: BTreeMap::new(),
            trace: Trace::new(now),
            checks: Checks::default(),
            stats: Stats::default(),
            transfers: Vec::new(),
            next_datagram: 0,
            next_address: 0,
            refuse: 0,
            paths: Vec::new(),
            turns: 0,
            failure: None,
            again,
        }
    }

    /// What shows a failure again, as a command for people to copy.
    pub fn set_again(&mut self, command: String) {
        self.again = command;
    }

    // ---- time ----

    /// Virtual time since the world began.
    pub fn elapsed(&self) -> Duration {
        self.now.since(Instant::START + START)
    }

    /// Lets everything happen up to `span` from now.
    ///
    /// # Errors
    /// If a check fails; the world stops there.
    pub fn try_run(&mut self, span: Duration) -> Result<(), Failure> {
        self.try_run_until(span, |_| false).map(|_| ())
    }

    /// Lets things happen until `done`, at most for `span`; how long it took, or `None` if it was
    /// not done.
    ///
    /// # Errors
    /// If a check fails; the world stops there.
    pub fn try_run_until(
        &mut self,
        span: Duration,
        mut done: impl FnMut(&mut World) -> bool,
    ) -> Result<Option<Duration>, Failure> {
        let (begin, end) = (self.now, self.now + span);
        loop {
            self.settle();
            if let Some(failure) = &self.failure {
                return Err(failure.clone());
            }
            if done(self) {
                self.settle();
                return Ok(Some(self.now.since(begin)));
            }
            self.settle();
            let next = self.next();
            if next > end {
                self.now = end;
                return Ok(None);
            }
            self.now = self.now.max(next);
            self.deliver();
        }
    }

    /// [`World::try_run`] for tests.
    ///
    /// # Panics
    /// If a check fails.
    pub fn run(&mut self, span: Duration) {
        self.try_run(span).unwrap_or_else(|failure| panic!("{failure}"));
    }

    /// [`World::try_run_until`] for tests; how long it took.
    ///
    /// # Panics
    /// If a check fails, or if it is not done within `span`.
    pub fn run_until(&mut self, span: Duration, done: impl FnMut(&mut World) -> bool) -> Duration {
        match self.try_run_until(span, done) {
            Ok(Some(took)) => took,
            Ok(None) => {
                panic!("not done within {span:?}; again: {}{}", self.again, self.describe())
            }
            Err(failure) => panic!("{failure}"),
        }
    }

    /// The first failed check counts.
    pub(crate) fn fail(&mut self, what: String) {
        let (after, again) = (self.elapsed(), self.again.clone());
        self.failure.get_or_insert(Failure { what, after, again });
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failure.clone()
    }

    pub(crate) fn later(&mut self, span: Duration, item: Item) {
        self.at(self.now + span, item);
    }

    pub(crate) fn at(&mut self, at: Instant, item: Item) {
        let is_packet = matches!(item, Item::Core { .. } | Item::Arrive { .. });
        if is_packet && self.items.len() >= ITEMS_MAX {
            self.stats.lost(Lost::World);
            return;
        }
        self.serial += 1;
        self.items.insert((at, self.serial), item);
    }

    fn next(&self) -> Instant {
        let items = self.items.keys().next().map_or(Instant::NEVER, |key| key.0);
        let running = self.hosts.iter().filter(|host| host.power == Power::Running);
        let hosts = running.map(|host| host.wake).min().unwrap_or(Instant::NEVER);
        items.min(hosts).min(self.server.wake)
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.items.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            match entry.remove() {
                Item::Core { packet, bytes } => self.route(packet, bytes),
                Item::Arrive { target, packet, bytes } => self.arrive(target, packet, bytes),
                Item::TcpOpen { conn } => self.tcp_open(conn),
                Item::TcpToServer { conn } => self.tcp_to_server(conn),
                Item::TcpToHost { conn } => self.tcp_to_host(conn),
                Item::HostCloses { conn } => self.host_closes(conn),
                Item::ServerCloses { conn } => self.close_at_host(conn),
            }
        }
    }

    // ---- turns ----

    /// Everybody who has something to do now does it.
    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if self.failure.is_some() {
                return;
            }
            for (n, host) in self.hosts.iter().enumerate() {
                if host.power == Power::Running && host.wake <= self.now {
                    self.due.insert(HostId(n));
                }
            }
            let (due, server) = (self.due.pop_first(), self.server.wake <= self.now);
            match due {
                Some(host) => self.turn_host(host),
                None if server => self.turn_server(),
                None => return,
            }
        }
        self.fail("the world never comes to rest".to_string());
    }

    fn turn_host(&mut self, id: HostId) {
        let now = self.now;
        if self.hosts[id.0].power != Power::Running {
            return;
        }
        if self.tape.chance(self.refuse) {
            self.hosts[id.0].io.refusals = 1;
        }
        for _ in 0..ROUNDS_MAX {
            self.serve(id);
            self.check_reported(id);
            let Host { node, driver, io, told, .. } = &mut self.hosts[id.0];
            let turn = driver.turn(&|| now, node, io, told);
            self.flush(id);
            let did = self.errands(id);
            let host = &mut self.hosts[id.0];
            let due = host.node.poll_timeout().map_or(Instant::NEVER, |timeout| timeout.at);
            let Turn::Wait { until, .. } = turn else { continue };
            let blocked = host.driver.is_blocked();
            if did || (due <= now && !blocked) || !host.io.inbox.is_empty() {
                continue;
            }
            host.wake =
                until.unwrap_or(Instant::NEVER).min(if blocked { Instant::NEVER } else { due });
            self.turns += 1;
            if self.turns.is_multiple_of(CHECK_EVERY) && !blocked {
                self.check(id);
            }
            return;
        }
        // Contract rule 3: after a full drain every deadline is strictly later.
        let timeout = self.hosts[id.0].node.poll_timeout();
        self.fail(format!("host {} never comes to rest: {timeout:?}", id.0));
    }

    /// The datagrams of a turn go out.
    fn flush(&mut self, id: HostId) {
        for out in core::mem::take(&mut self.hosts[id.0].io.outbox) {
            let host = &self.hosts[id.0];
            let Some(port) = host.io.ports.get(&out.socket) else { continue };
            // Without an address of that family there is no way.
            let Some(ip) = host.source(out.to) else { continue };
            let source = SocketAddr::new(ip, *port);
            let checked = self.checks.sent((id, host.starts), out.to, &out.bytes);
            if let Err(what) = checked {
                self.fail(what);
            }
            self.stats.sent += 1;
            self.stats.sent_bytes += out.bytes.len() as u64;
            let ttl = out.hop_limit.map(|limit| limit.get());
            let note = Note::Sent { host: id.0, to: out.to, len: out.bytes.len(), ttl };
            self.note(note, &out.bytes);
            let packet = Packet::new(source, out.to);
            let packet = Packet { ttl: ttl.unwrap_or(packet.ttl), ..packet };
            self.launch(id, packet, out.bytes);
        }
    }

    /// Disk and registry connection; whether anything was done.
    fn errands(&mut self, id: HostId) -> bool {
        let now = self.now;
        let mut did = false;
        self.check_datagrams(id);
        for event in core::mem::take(&mut self.hosts[id.0].told.fresh) {
            did = true;
            if let Event::PathChanged(peer, kind) = event
                && self.paths.len() < PATHS_MAX
            {
                self.paths.push(PathChange { at: now, host: id, peer, kind });
            }
            self.note(Note::Event { host: id.0, event: format!("{event:?}") }, &[]);
        }
        for event in core::mem::take(&mut self.hosts[id.0].told.errands) {
            did = true;
            match event {
                Event::DialRegistry => self.dial(id),
                Event::CloseRegistry => {
                    self.close_by_host(id);
                    self.hosts[id.0].node.handle_registry_close(now);
                }
                // The main socket is another one.
                Event::OpenSocket(_) => {
                    let locals = self.hosts[id.0].locals();
                    let _ = self.command(id, Command::NetworkChanged { locals: &locals });
                }
                // Both are looked after in any case.
                _ => {}
            }
        }
        let host = &mut self.hosts[id.0];
        let (mut value, mut sequence) = ([0; 2048], None);
        while let Some(change) = host.node.poll_store(&mut value) {
            match change.len {
                Some(len) => drop(host.disk.insert(change.key, value[..len].to_vec())),
                None => drop(host.disk.remove(&change.key)),
            }
            sequence = Some(change.sequence);
        }
        if let Some(sequence) = sequence {
            did = true;
            host.node.handle_stored(now, sequence);
        }
        self.pump_to_server(id) || did
    }

    /// Contract rule 3: who says that nothing is due has nothing to send and nothing to tell.
    fn check_reported(&mut self, id: HostId) {
        let now = self.now;
        let Host { node, driver, .. } = &mut self.hosts[id.0];
        if driver.is_blocked() || node.poll_timeout().is_some_and(|timeout| timeout.at <= now) {
            return;
        }
        let mut out = [0; 2048];
        let sent = node.poll_transmit(now, &mut out, core::num::NonZeroUsize::MIN);
        let event = node.poll_event();
        if sent.is_some() || event.is_some() {
            self.fail(format!("host {} did not say that it has {sent:?}, {event:?}", id.0));
        }
    }

    /// Contract rules 3, 4 and 7, and the bounds.
    fn check(&mut self, id: HostId) {
        let now = self.now;
        let host = &mut self.hosts[id.0];
        let before = host.node.poll_timeout();
        host.node.handle_timeout(now);
        let after = host.node.poll_timeout();
        let stalls = host.driver.stats().stalls;
        let (peers, streams) = (host.node.peers().count(), host.node.streams().count());
        let limits = &host.config.limits;
        let (peers_max, streams_max) = (limits.peers, limits.streams);
        if before != after {
            self.fail(format!("an early timeout changes host {}: {before:?}, {after:?}", id.0));
        }
        if stalls > 0 {
            self.fail(format!(
                "host {} asked for the present and had nothing to do: {after:?}",
                id.0
            ));
        }
        if peers > peers_max || streams > streams_max {
            self.fail(format!("host {} has {peers} peers and {streams} streams", id.0));
        }
    }

    pub(crate) fn note(&mut self, note: Note, bytes: &[u8]) {
        self.trace.note(self.now, note, bytes);
    }
}
