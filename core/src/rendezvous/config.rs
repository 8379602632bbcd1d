//! What an operator decides about a rendezvous, and how much of everything it holds.

use crate::machine::SocketId;
use crate::time::Duration;
use core::net::SocketAddr;

/// Bounds of one rendezvous. Each says what happens when it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RendezvousLimits {
    /// Addresses handed out. Full: `Reserve` of a new identity answers Full.
    pub nodes: usize,
    /// Letters in all mailboxes together. Full: the oldest of all goes.
    pub letters: usize,
    /// Open registry connections. Full: the oldest of which it is not known whose it is gives
    /// way, else the new one is closed at once.
    pub connections: usize,
    /// Connections of one source (IPv4 address or IPv6 /64) of which it is not known whose they
    /// are: they have neither shown a record nor reserved an address. One more is closed at once.
    pub unauthenticated_per_source: usize,
    /// Authenticated connections of one node; one more closes the oldest.
    pub connections_per_node: usize,
    /// Requests of one connection that wait for storage. One more answers RateLimited.
    pub waiting_per_connection: usize,
    /// Changes that wait for a commit. Full: what would change something answers RateLimited.
    pub changes: usize,
    /// `Reserve` requests of one source a minute.
    pub reserves_per_minute: u32,
    /// Receipts over all identities. Full: the worker with the most loses that of its oldest
    /// work.
    pub receipts: usize,
    /// `Receipt` requests of one node a minute. One more answers RateLimited.
    pub receipts_per_minute: u32,
    /// STUN answers to one source a second (`wire.md` 7).
    pub stun_per_second: u32,
    /// Registry handshakes a second over all sources; the burst is a second's worth. Above it
    /// a connection is closed when its first message is complete.
    pub channel_handshakes_per_second: u32,
    /// The same of one source (IPv4 address or IPv6 /64), so that none spends the budget of all.
    pub channel_handshakes_per_source: u32,
    /// Beacon handshakes a second; a quarter of a second's worth may come at once (`wire.md`
    /// 7). A million agents return within minutes.
    pub beacon_handshakes_per_second: u32,
    /// Beacon handshakes a second of one source that has shown a cookie; a quarter of
    /// it at once, at least 5.
    pub beacon_handshakes_per_source: u32,
    /// Agents with a beacon session. Full: a new one is not admitted, and counted.
    pub sessions: usize,
    /// Relay channels over all agents. Full: `Bind` answers Quota.
    pub channels: usize,
    /// Relay channels of one agent. Full: `Bind` answers Quota.
    pub channels_per_node: usize,
    /// An unused channel is unbound after this time.
    pub channel_idle: Duration,
    /// Bytes a second that the relay carries; `None`: what the machine carries. Above it each
    /// identity gets its fair share.
    pub relay_bytes_per_second: Option<u64>,
    /// Bytes of relayed packets that wait for the socket. Full: the new packet is dropped.
    pub relay_queue_bytes: usize,
}

impl RendezvousLimits {
    /// For a small server: a million agents in less than 1 GiB.
    pub const fn server() -> Self {
        RendezvousLimits {
            nodes: 4 << 20,
            letters: 256 << 10,
            connections: 16 << 10,
            unauthenticated_per_source: 8,
            connections_per_node: 4,
            waiting_per_connection: 32,
            changes: 64 << 10,
            reserves_per_minute: 10,
            receipts: 256 << 10,
            receipts_per_minute: 60,
            stun_per_second: 10,
            channel_handshakes_per_second: 2000,
            channel_handshakes_per_source: 100,
            beacon_handshakes_per_second: 4000,
            beacon_handshakes_per_source: 20,
            sessions: 1 << 20,
            channels: 1 << 20,
            channels_per_node: 64,
            channel_idle: crate::limits::CHANNEL_IDLE,
            relay_bytes_per_second: None,
            relay_queue_bytes: 4 << 20,
        }
    }
}

impl Default for RendezvousLimits {
    fn default() -> Self {
        RendezvousLimits::server()
    }
}

/// What a rendezvous is, beside its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RendezvousConfig {
    /// How much it holds.
    pub limits: RendezvousLimits,
    /// Where agents reach the beacon (`--beacon`), best first; at most 4 are told.
    pub beacon: heapless::Vec<SocketAddr, { crate::wire::registry::BEACONS_MAX }>,
    /// Serial of the beacon's entry; raised whenever its tunnel key changes.
    pub beacon_serial: u64,
    /// The other three corners of RFC 5780, if the beacon has two addresses.
    pub alternate: Option<Alternate>,
}

impl Default for RendezvousConfig {
    fn default() -> Self {
        RendezvousConfig {
            limits: RendezvousLimits::server(),
            beacon: heapless::Vec::new(),
            beacon_serial: 1,
            alternate: None,
        }
    }
}

/// The sockets of a beacon with two addresses and two ports (`--beacon-alt-addr`), each with
/// the address that agents see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alternate {
    /// First address, first port: the main socket.
    pub main: (SocketId, SocketAddr),
    /// First address, second port.
    pub port: (SocketId, SocketAddr),
    /// Second address, first port.
    pub ip: (SocketId, SocketAddr),
    /// Second address, second port.
    pub both: (SocketId, SocketAddr),
}

impl Alternate {
    /// The corners in the order: neither, port, IP, both changed.
    pub(crate) const fn corners(&self) -> [(SocketId, SocketAddr); 4] {
        [self.main, self.port, self.ip, self.both]
    }
}
