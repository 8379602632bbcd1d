//! The rendezvous of a world: the real machine behind the real driver, its storage, and the
//! registry's connections as reliable, ordered bytes with delay.

use crate::Span;
use crate::host::{Access, Host, Power, ServerTold, Sockets};
use crate::link::{Link, LinkConfig};
use crate::nat::{Middlebox, Packet};
use crate::net::HostId;
use crate::trace::Note;
use crate::world::{Item, World};
use pilot_core::crypto::{Identity, TunnelSecret};
use pilot_core::drive::{Driver, Turn};
use pilot_core::machine::{Machine, SocketId};
use pilot_core::rendezvous::{
    Alternate, Change, ConnId, Event, Rendezvous, RendezvousConfig, RendezvousLimits,
    RendezvousStats,
};
use pilot_core::time::{Duration, Instant, UnixTime};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;

/// The registry's TCP port.
pub const REGISTRY_PORT: u16 = 9000;
/// Bytes on their way in one direction of a connection; the rest waits in its machine.
const PIPE_MAX: usize = 64 * 1024;
/// While a link is cut, TCP tries again after this long.
const TCP_RETRY: Duration = Duration::from_millis(250);
/// Calls of one turn after the other without time passing, before a world is called stuck.
pub(crate) const ROUNDS_MAX: u32 = 20_000;

/// One direction of a connection.
#[derive(Debug, Default)]
struct Pipe {
    queue: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
}

impl Pipe {
    fn push(&mut self, at: Instant, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.queue.push_back((at, bytes));
    }

    fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        let _ = self.queue.front().filter(|(at, _)| *at <= now)?;
        let (_, bytes) = self.queue.pop_front()?;
        self.bytes -= bytes.len();
        Some(bytes)
    }
}

/// A TCP connection of an agent to the registry.
#[derive(Debug)]
pub(crate) struct Connection {
    host: HostId,
    is_open: bool,
    to_server: Pipe,
    to_host: Pipe,
}

pub(crate) struct Server {
    pub(crate) machine: Rendezvous,
    driver: Driver<'static>,
    io: Sockets,
    told: ServerTold,
    disk: BTreeMap<(u8, Vec<u8>), Change>,
    pub(crate) access: Access,
    pub(crate) is_up: bool,
    /// Whether the beacon has addresses for behaviour discovery.
    has_alternates: bool,
    starts: u8,
    pub(crate) wake: Instant,
}

/// Where the beacon is.
fn beacon() -> SocketAddr {
    corner(0)
}

/// The beacon's sockets for behaviour discovery (RFC 5780): two addresses with two ports each;
/// bit 0 changes the port, bit 1 the address.
fn corner(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, if n & 2 == 0 { 1 } else { 2 }], 9001 + (n & 1)))
}

const CORNERS: u16 = 4;

pub(crate) fn corners() -> [SocketAddr; 4] {
    [0, 1, 2, 3].map(corner)
}

fn limits() -> RendezvousLimits {
    RendezvousLimits {
        nodes: 1024,
        letters: 1024,
        connections: 256,
        sessions: 256,
        channels: 1024,
        changes: 1024,
        relay_queue_bytes: 1 << 20,
        receipts: 1024,
        ..RendezvousLimits::server()
    }
}

impl Server {
    pub(crate) fn new(now: Instant, unix: UnixTime) -> Self {
        let link = Link::new(LinkConfig { delay: Span::millis(5), ..LinkConfig::default() });
        Server {
            machine: machine(1, true, now, unix),
            driver: Host::fresh_driver(),
            io: sockets(),
            told: ServerTold::default(),
            disk: BTreeMap::new(),
            access: Access { up: link.clone(), down: link },
            is_up: true,
            has_alternates: true,
            starts: 1,
            wake: now,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        beacon()
    }

    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        (0..CORNERS).any(|n| corner(n).ip() == ip)
    }

    pub(crate) fn stats(&self) -> RendezvousStats {
        self.machine.stats()
    }

    pub(crate) fn deliver(&mut self, packet: Packet, bytes: Vec<u8>) {
        let socket = (0..CORNERS).find(|n| corner(*n) == packet.destination);
        if let Some(socket) = socket.filter(|_| self.is_up) {
            let _ = self.io.deliver(SocketId(socket), packet.source, bytes);
            self.wake = Instant::START;
        }
    }
}

fn sockets() -> Sockets {
    let mut sockets = Sockets::new(beacon().port(), NonZeroUsize::MIN);
    sockets.ports.extend((1..CORNERS).map(|n| (SocketId(n), corner(n).port())));
    sockets
}

fn machine(starts: u8, has_alternates: bool, now: Instant, unix: UnixTime) -> Rendezvous {
    let mut config = RendezvousConfig { limits: limits(), ..RendezvousConfig::default() };
    config.beacon.push(beacon()).expect("one address fits");
    let [main, port, ip, both] = [0, 1, 2, 3].map(|n| (SocketId(n), corner(n)));
    config.alternate = has_alternates.then_some(Alternate { main, port, ip, both });
    let identity = Identity::from_secret([200; 32]);
    let tunnel = TunnelSecret::from_secret([201; 32]);
    let mut seed = [202; 32];
    seed[0] = starts;
    Rendezvous::new(config, identity, tunnel, &crate::hosts::CRYPTO, seed, now, unix)
}

impl World {
    /// The beacon has one address alone, from its next start on, and cannot tell agents how their
    /// NATs behave. In a world without agents this is such a start.
    pub fn remove_alternates(&mut self) {
        self.server.has_alternates = false;
        if self.hosts.is_empty() {
            let unix = crate::world::unix_at(self.now);
            self.server.machine = machine(self.server.starts, false, self.now, unix);
        }
    }

    /// The rendezvous dies; what it has stored stays.
    pub fn crash_server(&mut self) {
        self.fault("the server crashes".to_string());
        self.server.is_up = false;
        self.server.io = sockets();
        let conns: Vec<ConnId> = self.conns.keys().copied().collect();
        for conn in conns {
            self.close_at_host(conn);
        }
    }

    /// It starts again with what is stored.
    pub fn restart_server(&mut self) {
        self.fault("the server starts".to_string());
        let server = &mut self.server;
        server.starts += 1;
        let unix = crate::world::unix_at(self.now);
        server.machine = machine(server.starts, server.has_alternates, self.now, unix);
        for change in server.disk.values() {
            server.machine.apply(change).expect("what was stored loads");
        }
        server.driver = Host::fresh_driver();
        server.is_up = true;
        server.wake = self.now;
    }

    /// Lets the server do what it has to.
    pub(crate) fn turn_server(&mut self) {
        let now = self.now;
        for _ in 0..ROUNDS_MAX {
            let server = &mut self.server;
            if !server.is_up {
                server.wake = Instant::NEVER;
                return;
            }
            let clock = || now;
            let (machine, io) = (&mut server.machine, &mut server.io);
            let turn = server.driver.turn(&clock, machine, io, &mut server.told);
            self.flush_server();
            let did = self.serve_registry();
            let server = &self.server;
            let due = server.machine.poll_timeout().map_or(Instant::NEVER, |t| t.at);
            match turn {
                Turn::Again => continue,
                Turn::Wait { .. } if did || due <= now || !server.io.inbox.is_empty() => continue,
                Turn::Wait { until, .. } => {
                    self.server.wake = until.unwrap_or(Instant::NEVER).min(due);
                    self.check_server();
                    return;
                }
            }
        }
        self.fail("the server never comes to rest".to_string());
        self.server.wake = Instant::NEVER;
    }

    /// The bounds.
    fn check_server(&mut self) {
        let (stats, limits) = (self.server.stats(), limits());
        let pairs = [
            (stats.nodes, limits.nodes),
            (stats.letters, limits.letters),
            (stats.receipts, limits.receipts),
            (stats.connections, limits.connections),
            (stats.agents, limits.sessions),
            (stats.channels, limits.channels),
        ];
        if pairs.iter().any(|(held, most)| held > most) {
            self.fail(format!("the server holds more than it may: {stats:?}"));
        }
    }

    fn flush_server(&mut self) {
        for out in core::mem::take(&mut self.server.io.outbox) {
            if let Err(what) = self.checks.server_sent(self.server.starts, out.to, &out.bytes) {
                self.fail(what);
            }
            self.note(Note::FromServer { to: out.to, len: out.bytes.len() }, &out.bytes);
            let packet = Packet::new(corner(out.socket.0), out.to);
            let link = &mut self.server.access.up;
            let passage = link.carry(self.now, &mut self.tape, out.bytes.len());
            for at in passage.copies.into_iter().flatten() {
                self.at(at, Item::Core { packet, bytes: out.bytes.clone() });
            }
        }
    }

    /// Storage and connections; whether anything was done.
    fn serve_registry(&mut self) -> bool {
        let now = self.now;
        let mut did = false;
        while let Some(commit) = self.server.machine.poll_commit(now) {
            did = true;
            for change in &commit.changes {
                let key = (change.table as u8, change.key.clone());
                match change.value {
                    Some(_) => drop(self.server.disk.insert(key, change.clone())),
                    None => drop(self.server.disk.remove(&key)),
                }
            }
            self.server.machine.handle_commit(now, commit.id, true);
        }
        for event in core::mem::take(&mut self.server.told.0) {
            did = true;
            match event {
                Event::ConnectionWritable(conn) => self.pump_to_host(conn),
                Event::CloseConnection(conn) => {
                    let delay = self.tcp_delay(conn);
                    self.later(delay, Item::ServerCloses { conn });
                }
                _ => {}
            }
        }
        did
    }

    // ---- connections ----

    /// One way, from a host's process to the server's.
    fn tcp_delay(&mut self, conn: ConnId) -> Duration {
        let server = self.server.access.delay().0;
        match self.conns.get(&conn).map(|c| c.host) {
            Some(host) => self.access_of(host).delay().0 + server,
            None => server,
        }
    }

    fn is_tcp_cut(&mut self, conn: ConnId) -> bool {
        let server = self.server.access.is_cut();
        let host = self.conns.get(&conn).map(|c| c.host);
        server || host.is_some_and(|host| self.access_of(host).is_cut())
    }

    /// The address that the server sees of a host.
    fn tcp_source(&self, host: HostId) -> SocketAddr {
        let own = self.hosts[host.0].main_socket();
        let boxes = self.boxes_to_core(self.hosts[host.0].place);
        let outer = boxes.iter().rev().find_map(|id| match &self.sites[id.0].middlebox {
            Middlebox::Nat(nat) => nat.config().pool.first(),
            Middlebox::Firewall(_) => None,
        });
        SocketAddr::new(outer.copied().unwrap_or(own.ip()), own.port())
    }

    pub(crate) fn dial(&mut self, host: HostId) {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        let (to_server, to_host) = (Pipe::default(), Pipe::default());
        self.conns.insert(conn, Connection { host, is_open: false, to_server, to_host });
        self.hosts[host.0].conn = Some(conn);
        // SYN there, SYN-ACK back.
        let delay = self.tcp_delay(conn) * 2;
        self.later(delay, Item::TcpOpen { conn });
    }

    pub(crate) fn tcp_open(&mut self, conn: ConnId) {
        let Some(host) = self.conns.get(&conn).map(|c| c.host) else { return };
        let boxes = self.boxes_to_core(self.hosts[host.0].place);
        let passes = boxes.iter().all(|id| self.sites[id.0].middlebox.is_tcp_open(REGISTRY_PORT));
        if self.is_tcp_cut(conn) || !passes || !self.server.is_up {
            self.close_at_host(conn);
            return;
        }
        let remote = self.tcp_source(host);
        self.server.machine.handle_open(self.now, conn, remote);
        self.server.wake = self.now;
        if let Some(connection) = self.conns.get_mut(&conn) {
            connection.is_open = true;
        }
        self.hosts[host.0].node.handle_registry_open(self.now);
        self.due.insert(host);
    }

    /// Takes from a node what its connection has room for.
    pub(crate) fn pump_to_server(&mut self, host: HostId) -> bool {
        let Some(conn) = self.hosts[host.0].conn else { return false };
        let mut did = false;
        let mut buf = [0; 8192];
        while self.conns.get(&conn).is_some_and(|c| c.is_open && c.to_server.bytes < PIPE_MAX) {
            let len = self.hosts[host.0].node.poll_bytes(self.now, &mut buf);
            if len == 0 {
                break;
            }
            did = true;
            let delay = self.tcp_delay(conn);
            let at = self.now + delay;
            if let Some(connection) = self.conns.get_mut(&conn) {
                connection.to_server.push(at, buf[..len].to_vec());
            }
            self.later(delay, Item::TcpToServer { conn });
        }
        did
    }

    fn pump_to_host(&mut self, conn: ConnId) {
        let mut buf = [0; 8192];
        loop {
            let open = self.conns.get(&conn).is_some_and(|c| c.is_open);
            if open && self.conns[&conn].to_host.bytes >= PIPE_MAX {
                return;
            }
            let len = self.server.machine.poll_bytes(self.now, conn, &mut buf);
            if len == 0 {
                return;
            }
            let delay = self.tcp_delay(conn);
            let at = self.now + delay;
            // Of a connection that the host has forgotten, the bytes go nowhere.
            if let Some(connection) = self.conns.get_mut(&conn) {
                connection.to_host.push(at, buf[..len].to_vec());
                self.later(delay, Item::TcpToHost { conn });
            }
        }
    }

    pub(crate) fn tcp_to_server(&mut self, conn: ConnId) {
        if self.is_tcp_cut(conn) {
            self.later(TCP_RETRY, Item::TcpToServer { conn });
            return;
        }
        while let Some(connection) = self.conns.get_mut(&conn) {
            let host = connection.host;
            let Some(bytes) = connection.to_server.pop(self.now) else { break };
            self.note(Note::Registry { host: host.0, at_server: true, len: bytes.len() }, &bytes);
            if self.server.is_up {
                self.server.machine.handle_bytes(self.now, conn, &bytes);
                self.server.wake = self.now;
            }
            self.due.insert(host);
        }
    }

    pub(crate) fn tcp_to_host(&mut self, conn: ConnId) {
        if self.is_tcp_cut(conn) {
            self.later(TCP_RETRY, Item::TcpToHost { conn });
            return;
        }
        while let Some(connection) = self.conns.get_mut(&conn) {
            let host = connection.host;
            let Some(bytes) = connection.to_host.pop(self.now) else { break };
            self.note(Note::Registry { host: host.0, at_server: false, len: bytes.len() }, &bytes);
            if self.hosts[host.0].power == Power::Running {
                self.hosts[host.0].node.handle_bytes(self.now, &bytes);
                self.due.insert(host);
            }
        }
        if self.server.is_up {
            self.pump_to_host(conn);
        }
    }

    /// The host's end is over: told to its node, if it still knows it.
    pub(crate) fn close_at_host(&mut self, conn: ConnId) {
        let Some(connection) = self.conns.remove(&conn) else { return };
        let host = &mut self.hosts[connection.host.0];
        if host.conn == Some(conn) {
            host.conn = None;
            match host.power {
                Power::Running => {
                    host.node.handle_registry_close(self.now);
                    self.due.insert(connection.host);
                }
                // Its system will say so when it wakes up.
                Power::Suspended => host.missed_close = true,
                Power::Down => {}
            }
        }
    }

    /// The host closes: what it has said still arrives, then the server hears of it.
    pub(crate) fn close_by_host(&mut self, host: HostId) {
        let Some(conn) = self.hosts[host.0].conn else { return };
        self.pump_to_server(host);
        let delay = self.tcp_delay(conn);
        self.hosts[host.0].conn = None;
        self.later(delay, Item::HostCloses { conn });
    }

    pub(crate) fn host_closes(&mut self, conn: ConnId) {
        self.tcp_to_server(conn);
        self.conns.remove(&conn);
        if self.server.is_up {
            self.server.machine.handle_close(self.now, conn);
            self.server.wake = self.now;
        }
    }
}
