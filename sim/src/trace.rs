//! What happened, in order: a hash of all of it, and on demand the events and packets themselves.

use crate::nat::{Blocked, Packet};
use pilot_core::node::PathKind;
use pilot_core::time::Instant;
use serde::Serialize;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::VecDeque;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

/// Events, and packets, that are kept; what comes later is hashed alone.
const KEPT_MAX: usize = 1 << 20;
/// Packets that are kept to be sent again; of more, the oldest go.
const RECENT_MAX: usize = 64;

/// Why a packet ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Lost {
    /// On a link: at random, cut, too long, or its queue was full.
    Link,
    /// By a NAT or firewall.
    Blocked(Blocked),
    /// Its TTL was used up in the core.
    Ttl,
    /// Nobody has that address there.
    NoRoute,
    /// The host is down or asleep, or no socket is bound to the port.
    Nobody,
    /// The socket's receive buffer is full.
    Buffer,
    /// Too much is on its way in the world.
    World,
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Note {
    /// A host sent a datagram.
    Sent {
        /// Which.
        host: usize,
        /// To whom.
        to: SocketAddr,
        /// Bytes of UDP payload.
        len: usize,
        /// If it was limited.
        ttl: Option<u8>,
    },
    /// A host got a datagram.
    ToHost {
        /// Which.
        host: usize,
        /// From whom.
        from: SocketAddr,
        /// Bytes of UDP payload.
        len: usize,
    },
    /// The beacon sent a datagram.
    FromServer {
        /// To whom.
        to: SocketAddr,
        /// Bytes of UDP payload.
        len: usize,
    },
    /// The beacon got a datagram.
    ToServer {
        /// From whom.
        from: SocketAddr,
        /// Bytes of UDP payload.
        len: usize,
    },
    /// A datagram ended on its way.
    Lost {
        /// Its sender at that place.
        from: SocketAddr,
        /// Its receiver at that place.
        to: SocketAddr,
        /// Why.
        why: Lost,
    },
    /// Bytes of a registry connection arrived.
    Registry {
        /// Whose connection.
        host: usize,
        /// At the server, or at the host.
        at_server: bool,
        /// How many.
        len: usize,
    },
    /// A node told its owner something.
    Event {
        /// Whose node.
        host: usize,
        /// What, as Rust prints it.
        event: String,
    },
    /// Something was done to the world.
    Fault {
        /// What.
        what: String,
    },
}

/// A change of the path to a peer.
#[derive(Clone, Copy, Debug)]
pub struct PathChange {
    /// When.
    pub at: Instant,
    /// Whose path.
    pub host: crate::HostId,
    /// To whom.
    pub peer: pilot_core::addr::Address,
    /// What it is now.
    pub kind: PathKind,
}

#[derive(Serialize)]
struct Line<'a> {
    /// Seconds since the world began.
    at: f64,
    #[serde(flatten)]
    note: &'a Note,
}

/// The trace of a world.
pub struct Trace {
    hasher: SipHasher13,
    count: u64,
    start: Instant,
    notes: Option<Vec<(Instant, Note)>>,
    packets: Option<Vec<(Instant, Packet, Vec<u8>)>>,
    recent: Option<VecDeque<(Packet, Vec<u8>)>>,
}

/// Into the hash: byte by byte as written here, so that it is the same in every build;
/// discriminants and layouts need not be.
struct Feed<'h>(&'h mut SipHasher13);

impl Feed<'_> {
    fn number(&mut self, n: usize) {
        self.0.write_u64(n as u64);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.write(text.as_bytes());
    }

    fn address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => self.0.write_u32(ip.to_bits()),
            IpAddr::V6(ip) => self.0.write_u128(ip.to_bits()),
        }
        self.0.write_u16(address.port());
    }

    fn note(&mut self, note: &Note) {
        match note {
            Note::Sent { host, to, len, ttl } => {
                self.0.write_u8(1);
                self.number(*host);
                self.address(*to);
                self.number(*len);
                self.0.write_u16(ttl.map_or(0, |ttl| 256 + u16::from(ttl)));
            }
            Note::ToHost { host, from, len } => {
                self.0.write_u8(2);
                self.number(*host);
                self.address(*from);
                self.number(*len);
            }
            Note::FromServer { to: peer, len } | Note::ToServer { from: peer, len } => {
                self.0.write_u8(if matches!(note, Note::FromServer { .. }) { 3 } else { 4 });
                self.address(*peer);
                self.number(*len);
            }
            Note::Lost { from, to, why } => {
                self.0.write_u8(5);
                self.address(*from);
                self.address(*to);
                self.text(&format!("{why:?}"));
            }
            Note::Registry { host, at_server, len } => {
                self.0.write_u8(if *at_server { 6 } else { 7 });
                self.number(*host);
                self.number(*len);
            }
            Note::Event { host, event } => {
                self.0.write_u8(8);
                self.number(*host);
                self.text(event);
            }
            Note::Fault { what } => {
                self.0.write_u8(9);
                self.text(what);
            }
        }
    }
}

impl core::fmt::Debug for Trace {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Trace").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Trace {
    pub(crate) fn new(start: Instant) -> Self {
        let hasher = SipHasher13::new();
        Trace { hasher, count: 0, start, notes: None, packets: None, recent: None }
    }

    /// Keeps events from now on.
    pub fn keep_events(&mut self) {
        self.notes.get_or_insert_default();
    }

    /// Keeps the packets that cross the core from now on.
    pub fn keep_packets(&mut self) {
        self.packets.get_or_insert_default();
    }

    /// Things that happened.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Of all that happened so far: when, what, and every byte that was delivered.
    pub fn hash(&self) -> String {
        format!("{:032x}", self.hasher.finish128().as_u128())
    }

    pub(crate) fn note(&mut self, now: Instant, note: Note, bytes: &[u8]) {
        self.count += 1;
        self.hasher.write_u64(now.as_nanos());
        Feed(&mut self.hasher).note(&note);
        self.hasher.write_u64(bytes.len() as u64);
        self.hasher.write(bytes);
        if let Some(notes) = &mut self.notes
            && notes.len() < KEPT_MAX
        {
            notes.push((now, note));
        }
    }

    pub(crate) fn capture(&mut self, now: Instant, packet: Packet, bytes: &[u8]) {
        if let Some(packets) = &mut self.packets
            && packets.len() < KEPT_MAX
        {
            packets.push((now, packet, bytes.to_vec()));
        }
        if let Some(recent) = &mut self.recent {
            if recent.len() == RECENT_MAX {
                recent.pop_front();
            }
            recent.push_back((packet, bytes.to_vec()));
        }
    }

    /// The events that were kept, one JSON object a line.
    ///
    /// # Errors
    /// If writing fails.
    pub fn write_events(&self, mut out: impl std::io::Write) -> std::io::Result<()> {
        for (at, note) in self.notes.iter().flatten() {
            let at = at.since(self.start).as_secs_f64();
            serde_json::to_writer(&mut out, &Line { at, note })?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Keeps the last few packets that cross the core, from now on.
    pub(crate) fn keep_recent(&mut self) {
        self.recent.get_or_insert_default();
    }

    /// The last few packets that have crossed the core, if they are kept.
    pub(crate) fn recent(&self) -> impl ExactSizeIterator<Item = &(Packet, Vec<u8>)> {
        self.recent.as_ref().map_or_else(Default::default, VecDeque::iter)
    }

    /// The packets that were kept.
    pub(crate) fn packets(&self) -> impl Iterator<Item = &(Instant, Packet, Vec<u8>)> {
        self.packets.iter().flatten()
    }

    pub(crate) fn start(&self) -> Instant {
        self.start
    }
}
