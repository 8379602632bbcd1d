//! A host: a node behind its driver, sockets, a disk and what an application has been told.

use crate::Span;
use crate::link::Link;
use crate::net::Place;
use pilot_core::addr::{Port, SocketAddress};
use pilot_core::drive::{Budget, Datagrams, Driver, IoError, Outlet, Received};
use pilot_core::limits::AUXILIARY_MAX;
use pilot_core::machine::{Ecn, Path, SocketId, Transmit};
use pilot_core::node::{Command, Config, Event, Node};
use pilot_core::rendezvous::{ConnId, Event as ServerEvent, Rendezvous};
use pilot_core::time::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU8, NonZeroUsize};

/// Bytes that a receive buffer of a socket holds; of more, the newest are lost.
const RECEIVE_BYTES_MAX: usize = 4 << 20;
/// Events and datagrams that are kept for whoever asks; of more, the oldest go.
const TOLD_MAX: usize = 4096;
/// Auxiliary sockets at once (`docs/architecture.md` 3).
const SOCKETS_MAX: usize = 1 + AUXILIARY_MAX;

/// A host's sockets, at the world's end of them.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) inbox: VecDeque<(SocketId, SocketAddr, Vec<u8>)>,
    inbox_bytes: usize,
    pub(crate) outbox: Vec<Outgoing>,
    /// Ports by socket; 0 is the main one.
    pub(crate) ports: BTreeMap<SocketId, u16>,
    next_port: u16,
    /// Sockets of other programs on the host, by port.
    pub(crate) raw: BTreeMap<u16, VecDeque<(SocketAddr, Vec<u8>)>>,
    /// So many calls of `send` are refused.
    pub(crate) refusals: u32,
    segments: NonZeroUsize,
}

/// A datagram on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) socket: SocketId,
    pub(crate) to: SocketAddr,
    pub(crate) hop_limit: Option<NonZeroU8>,
    pub(crate) bytes: Vec<u8>,
}

impl Sockets {
    pub(crate) fn new(port: u16, segments: NonZeroUsize) -> Self {
        Sockets {
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            outbox: Vec::new(),
            ports: BTreeMap::from([(SocketId(0), port)]),
            raw: BTreeMap::new(),
            next_port: 50_000,
            refusals: 0,
            segments,
        }
    }

    /// A port that no socket is bound to.
    fn free_port(&self) -> Option<u16> {
        let taken = |port| self.raw.contains_key(&port) || self.bound(port).is_some();
        (self.next_port..=u16::MAX).chain(49_152..self.next_port).find(|port| !taken(*port))
    }

    /// A datagram for another program: of more than [`TOLD_MAX`], the newest are lost.
    pub(crate) fn deliver_raw(&mut self, port: u16, from: SocketAddr, bytes: Vec<u8>) -> bool {
        let Some(inbox) = self.raw.get_mut(&port).filter(|inbox| inbox.len() < TOLD_MAX) else {
            return false;
        };
        inbox.push_back((from, bytes));
        true
    }

    /// The socket that is bound to the port.
    pub(crate) fn bound(&self, port: u16) -> Option<SocketId> {
        self.ports.iter().find(|(_, bound)| **bound == port).map(|(socket, _)| *socket)
    }

    /// Whether there was room.
    pub(crate) fn deliver(&mut self, socket: SocketId, from: SocketAddr, bytes: Vec<u8>) -> bool {
        let room = self.inbox_bytes + bytes.len() <= RECEIVE_BYTES_MAX;
        if room {
            self.inbox_bytes += bytes.len();
            self.inbox.push_back((socket, from, bytes));
        }
        room
    }

    /// A process has ended: what was not read is gone.
    pub(crate) fn clear(&mut self) {
        self.inbox.clear();
        self.inbox_bytes = 0;
        self.outbox.clear();
        self.ports.retain(|socket, _| *socket == SocketId(0));
        self.refusals = 0;
    }
}

impl Datagrams for Sockets {
    fn recv(&mut self, buf: &mut [u8]) -> Result<Received, IoError> {
        let (socket, remote, bytes) = self.inbox.pop_front().ok_or(IoError::WouldBlock)?;
        self.inbox_bytes -= bytes.len();
        buf[..bytes.len()].copy_from_slice(&bytes);
        let path = Path { socket, local: None, remote };
        Ok(Received { path, ecn: Ecn::NotEct, len: bytes.len(), stride: bytes.len() })
    }

    fn send(&mut self, transmit: &Transmit, bytes: &[u8]) -> Result<(), IoError> {
        if self.refusals > 0 {
            self.refusals -= 1;
            return Err(IoError::WouldBlock);
        }
        let (socket, to) = (transmit.path.socket, transmit.path.remote);
        if !self.ports.contains_key(&socket) {
            return Err(IoError::NoSocket);
        }
        let size = transmit.segment.map_or(bytes.len().max(1), |size| usize::from(size.get()));
        for bytes in bytes.chunks(size) {
            let hop_limit = transmit.hop_limit;
            self.outbox.push(Outgoing { socket, to, hop_limit, bytes: bytes.to_vec() });
        }
        Ok(())
    }

    fn max_segments(&self) -> NonZeroUsize {
        self.segments
    }

    fn may_fragment(&self) -> bool {
        false
    }

    fn open(&mut self, socket: SocketId) -> Result<(), IoError> {
        if self.ports.len() >= SOCKETS_MAX {
            return Err(IoError::Full);
        }
        let port = self.free_port().ok_or(IoError::Full)?;
        self.ports.insert(socket, port);
        // As from an operating system, one just given back does not come again at once: a NAT
        // still has a mapping for it.
        self.next_port = port.checked_add(1).unwrap_or(49_152);
        Ok(())
    }

    fn close(&mut self, socket: SocketId) {
        if socket != SocketId(0) {
            self.ports.remove(&socket);
        }
    }
}

/// An application datagram that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The authenticated sender.
    pub from: SocketAddress,
    /// The local port.
    pub to: Port,
    /// The content.
    pub payload: Vec<u8>,
}

/// What came out of a node.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// For the world to carry out.
    pub(crate) errands: Vec<Event>,
    /// Since the last turn.
    pub(crate) fresh: Vec<Event>,
    /// Since the process started, with the time.
    pub(crate) events: VecDeque<(Instant, Event)>,
    pub(crate) datagrams: VecDeque<Arrived>,
    /// How many of the newest were not looked at yet.
    pub(crate) unseen: usize,
}

impl Outlet<Node<'static>, Sockets> for Told {
    fn handle_payload(&mut self, from: SocketAddress, to: Port, payload: &[u8]) {
        if self.datagrams.len() == TOLD_MAX {
            self.datagrams.pop_front();
        }
        self.datagrams.push_back(Arrived { from, to, payload: payload.to_vec() });
        self.unseen = (self.unseen + 1).min(TOLD_MAX);
    }

    fn handle_event(
        &mut self,
        now: Instant,
        node: &mut Node<'static>,
        io: &mut Sockets,
        event: Event,
    ) {
        match event {
            Event::OpenSocket(socket) => {
                let opened = io.open(socket);
                if opened.is_err() {
                    // As in an adapter; a fenced node does not want to know.
                    let _ = node.command(now, Command::SocketFailed { socket });
                } else if socket == SocketId(0) {
                    self.errands.push(event);
                }
            }
            Event::CloseSocket(socket) => io.close(socket),
            Event::DialRegistry | Event::CloseRegistry | Event::RegistryBytes | Event::Store => {
                self.errands.push(event);
            }
            event => {
                if self.events.len() == TOLD_MAX {
                    self.events.pop_front();
                }
                self.events.push_back((now, event));
                self.fresh.push(event);
            }
        }
    }
}

/// What came out of the rendezvous.
#[derive(Debug, Default)]
pub(crate) struct ServerTold(pub(crate) Vec<ServerEvent>);

impl Outlet<Rendezvous, Sockets> for ServerTold {
    fn handle_payload(&mut self, _from: SocketAddress, _to: Port, _payload: &[u8]) {}

    fn handle_event(
        &mut self,
        _now: Instant,
        _server: &mut Rendezvous,
        _io: &mut Sockets,
        event: ServerEvent,
    ) {
        self.0.push(event);
    }
}

/// Facts by key.
pub(crate) type Disk = BTreeMap<[u8; 8], Vec<u8>>;

/// What a host does at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Power {
    Running,
    /// The process does not run.
    Down,
    /// The machine sleeps, and its process with it.
    Suspended,
}

/// The way between the core and whatever stands at it, in both directions.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(crate) up: Link,
    pub(crate) down: Link,
}

impl Access {
    pub(crate) fn each(&mut self) -> [&mut Link; 2] {
        [&mut self.up, &mut self.down]
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.up.is_cut || self.down.is_cut
    }

    /// There and the delay alone: what a TCP segment takes.
    pub(crate) fn delay(&self) -> Span {
        self.up.config.delay
    }
}

pub(crate) struct Host {
    pub(crate) node: Node<'static>,
    pub(crate) driver: Driver<'static>,
    pub(crate) io: Sockets,
    pub(crate) told: Told,
    pub(crate) disk: Disk,
    pub(crate) identity: [u8; 32],
    pub(crate) config: Config,
    pub(crate) address: IpAddr,
    /// Its global IPv6 address, if it has one.
    pub(crate) six: Option<Ipv6Addr>,
    pub(crate) place: Place,
    pub(crate) access: Access,
    pub(crate) power: Power,
    pub(crate) starts: u8,
    pub(crate) conn: Option<ConnId>,
    /// Its connection was closed while it slept.
    pub(crate) missed_close: bool,
    /// When it has something to do, if nothing comes.
    pub(crate) wake: Instant,
    /// What its wall clock shows more than the world's, in milliseconds.
    pub(crate) skew_ms: i64,
    /// Its disk was lost, and the registry does not know of it yet.
    pub(crate) retakes: bool,
    /// Its agent says what is not so, under a right key.
    pub(crate) lies: bool,
}

impl Host {
    pub(crate) fn fresh_driver() -> Driver<'static> {
        Driver::boxed(Budget::DEFAULT)
    }

    /// What the host sends from towards an address of this family.
    pub(crate) fn source(&self, to: SocketAddr) -> Option<IpAddr> {
        match to {
            SocketAddr::V4(_) => Some(self.address),
            SocketAddr::V6(_) => self.six.map(IpAddr::V6),
        }
    }

    /// Whether it has the address.
    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        self.address == ip || self.six.is_some_and(|six| six == ip)
    }

    /// Where its main socket is reached on its own links.
    pub(crate) fn locals(&self) -> Vec<SocketAddr> {
        let port = self.main_socket().port();
        let ips = [Some(self.address), self.six.map(IpAddr::V6)].into_iter().flatten();
        ips.map(|ip| SocketAddr::new(ip, port)).collect()
    }

    pub(crate) fn main_socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.io.ports[&SocketId(0)])
    }
}
