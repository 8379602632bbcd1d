//! The memory of one agent: every table and buffer of a node and its driver, lent to them for
//! as long as the program runs.

use pilot_core::directory::{self, ChannelSlot, LINK_BYTES, REQUEST_BYTES_MIN, RequestSlot};
use pilot_core::limits::{BLOCK, Limits};
use pilot_core::node::{LinkSlot, Probes, Storage};
use pilot_core::path::PATHS;
use pilot_core::path::punch::Punch;
use pilot_core::port::OpenPort;
use pilot_core::session::TunnelStorage;
use pilot_core::session::index::{IndexCell, IndexTable};
use pilot_core::session::tunnel::{self, AnswerSlot, AttemptSlot, PeerCell};
use pilot_core::slab::{Slab, Slot, Store};
use pilot_core::stream::{AckSpace, FrameSlot, PathState, PeerSlot, Stream, TransportStorage};
use pilot_core::timer::{Cell, Deadlines};
use pilot_core::trust::{self, IncomingSlot, OutgoingSlot};

/// One friend, two streams, a handful of frames in flight.
pub const LIMITS: Limits = Limits {
    peers: 1,
    sessions: 6,
    replay_words: 4,
    streams: 2,
    buffer_bytes: 8 * BLOCK,
    frames: 48,
    listeners: 2,
    backlog: 1,
    requests: 1,
    trust_requests: 1,
    channels: 1,
    sources: 8,
    ..Limits::small()
};

/// Bytes of the driver's buffers: one datagram, for there is no segmentation offload.
pub const DATAGRAM_BYTES: usize = 1500;

const PEERS: usize = LIMITS.peers;
/// The tunnel's tables have a place for the beacon.
const TUNNELS: usize = PEERS + 1;
const SESSIONS: usize = LIMITS.sessions;
const STREAMS: usize = LIMITS.streams;
/// What a peer has while it moves from one session to the next, and the one before that.
const SPACES: usize = 3 * PEERS;
const INDICES: usize = IndexTable::cells_for(SESSIONS + TUNNELS);
const HASHES: usize = IndexTable::cells_for(TUNNELS);
const CHANNEL_CELLS: usize = IndexTable::cells_for(LIMITS.channels);

/// What begins as zeros and so takes no place in the program's image.
pub struct Buffers {
    pub pool: [u8; LIMITS.buffer_bytes],
    pub registry_in: [u8; LINK_BYTES],
    pub registry_out: [u8; LINK_BYTES],
    pub answers: [u8; LIMITS.requests * REQUEST_BYTES_MIN],
    pub replay: [u64; SESSIONS * LIMITS.replay_words],
    pub sources: [u64; LIMITS.sources],
    pub send: [u8; DATAGRAM_BYTES],
    pub receive: [u8; DATAGRAM_BYTES],
}

impl Buffers {
    pub const fn new() -> Self {
        Buffers {
            pool: [0; LIMITS.buffer_bytes],
            registry_in: [0; LINK_BYTES],
            registry_out: [0; LINK_BYTES],
            answers: [0; LIMITS.requests * REQUEST_BYTES_MIN],
            replay: [0; SESSIONS * LIMITS.replay_words],
            sources: [0; LIMITS.sources],
            send: [0; DATAGRAM_BYTES],
            receive: [0; DATAGRAM_BYTES],
        }
    }
}

/// Bytes of the buffers.
pub struct Sizes {
    /// The registry connection's, and for answers.
    pub registry: usize,
    /// Replay windows, and buckets of sources.
    pub replay: usize,
    /// Stream data.
    pub pool: usize,
}

/// How large the buffers are.
pub const fn sizes() -> Sizes {
    let sizes = Sizes {
        registry: 2 * LINK_BYTES + LIMITS.requests * REQUEST_BYTES_MIN,
        replay: 8 * (SESSIONS * LIMITS.replay_words + LIMITS.sources),
        pool: LIMITS.buffer_bytes,
    };
    let all = sizes.registry + sizes.replay + sizes.pool + 2 * DATAGRAM_BYTES;
    assert!(all <= size_of::<Buffers>() && size_of::<Buffers>() < all + 8, "one is left out");
    sizes
}

/// Registry, beacon and trust.
pub struct DirectoryTables {
    peers: [trust::PeerSlot; PEERS],
    nodes: [u32; PEERS],
    outgoing: [OutgoingSlot; LIMITS.trust_requests],
    incoming: [IncomingSlot; LIMITS.trust_requests],
    requests: [RequestSlot; LIMITS.requests],
    channels: [ChannelSlot; LIMITS.channels],
    channel_index: [IndexCell; CHANNEL_CELLS],
}

/// Sessions.
pub struct TunnelTables {
    peers: [PeerCell; TUNNELS],
    by_address: [u32; TUNNELS],
    ready: [u32; TUNNELS],
    eventful: [u32; TUNNELS],
    deadlines: [Cell; TUNNELS],
    sessions: [tunnel::LinkSlot; SESSIONS],
    attempts: [AttemptSlot; TUNNELS],
    answers: [AnswerSlot; TUNNELS],
    indices: [IndexCell; INDICES],
    hashes: [IndexCell; HASHES],
}

/// Streams and datagrams.
pub struct TransportTables {
    pool_links: [u32; LIMITS.buffer_bytes / BLOCK],
    pool_accounts: [u32; PEERS],
    frames: [FrameSlot; LIMITS.frames],
    streams: [Slot<Stream>; STREAMS],
    buckets: [u32; STREAMS],
    stream_timers: [Cell; STREAMS],
    peers: [PeerSlot; PEERS],
    paths: [Slot<PathState>; PATHS * PEERS],
    spaces: [Slot<AckSpace>; SPACES],
    peer_timers: [Cell; PEERS],
    ports: [OpenPort; LIMITS.listeners],
}

/// Paths to peers.
pub struct LinkTables {
    links: [LinkSlot; PEERS],
    probes: [Slot<Probes>; PEERS],
    punches: [Slot<Punch>; PEERS],
    deadlines: [Cell; PEERS],
}

pub struct Tables {
    pub directory: DirectoryTables,
    pub tunnel: TunnelTables,
    pub transport: TransportTables,
    pub links: LinkTables,
}

impl Tables {
    pub const fn new() -> Self {
        Tables {
            directory: DirectoryTables {
                peers: [const { trust::PeerSlot::empty() }; _],
                nodes: [0; _],
                outgoing: [const { OutgoingSlot::empty() }; _],
                incoming: [const { IncomingSlot::empty() }; _],
                requests: [const { RequestSlot::empty() }; _],
                channels: [const { ChannelSlot::empty() }; _],
                channel_index: [const { IndexCell::empty() }; _],
            },
            tunnel: TunnelTables {
                peers: [const { PeerCell::empty() }; _],
                by_address: [0; _],
                ready: [0; _],
                eventful: [0; _],
                deadlines: [const { Cell::empty() }; _],
                sessions: [const { Slot::empty() }; _],
                attempts: [const { Slot::empty() }; _],
                answers: [const { Slot::empty() }; _],
                indices: [const { IndexCell::empty() }; _],
                hashes: [const { IndexCell::empty() }; _],
            },
            transport: TransportTables {
                pool_links: [0; _],
                pool_accounts: [0; _],
                frames: [const { FrameSlot::empty() }; _],
                streams: [const { Slot::empty() }; _],
                buckets: [0; _],
                stream_timers: [const { Cell::empty() }; _],
                peers: [const { PeerSlot::empty() }; _],
                paths: [const { Slot::empty() }; _],
                spaces: [const { Slot::empty() }; _],
                peer_timers: [const { Cell::empty() }; _],
                ports: [const { OpenPort::empty() }; _],
            },
            links: LinkTables {
                links: [const { LinkSlot::empty() }; _],
                probes: [const { Slot::empty() }; _],
                punches: [const { Slot::empty() }; _],
                deadlines: [const { Cell::empty() }; _],
            },
        }
    }
}

fn lend<T>(items: &'static mut [T]) -> Store<'static, T> {
    Store::from(items)
}

/// Lends it all: a node's storage, and the driver's buffers to send and to receive.
pub fn storage(
    tables: &'static mut Tables,
    buffers: &'static mut Buffers,
) -> (Storage<'static>, Store<'static, u8>, Store<'static, u8>) {
    let Tables { directory: d, tunnel: u, transport: t, links: l } = tables;
    let b = buffers;
    let directory = directory::Storage {
        peers: lend(&mut d.peers),
        nodes: lend(&mut d.nodes),
        outgoing: lend(&mut d.outgoing),
        incoming: lend(&mut d.incoming),
        requests: lend(&mut d.requests),
        answers: lend(&mut b.answers),
        channels: lend(&mut d.channels),
        channel_index: lend(&mut d.channel_index),
        receive: lend(&mut b.registry_in),
        send: lend(&mut b.registry_out),
    };
    let tunnel = TunnelStorage {
        peers: lend(&mut u.peers),
        by_address: lend(&mut u.by_address),
        ready: lend(&mut u.ready),
        eventful: lend(&mut u.eventful),
        deadlines: lend(&mut u.deadlines),
        sessions: lend(&mut u.sessions),
        replay: lend(&mut b.replay),
        attempts: lend(&mut u.attempts),
        answers: lend(&mut u.answers),
        indices: lend(&mut u.indices),
        hashes: lend(&mut u.hashes),
        sources: lend(&mut b.sources),
    };
    let transport = TransportStorage {
        pool: lend(&mut b.pool),
        pool_links: lend(&mut t.pool_links),
        pool_accounts: lend(&mut t.pool_accounts),
        frames: lend(&mut t.frames),
        streams: Slab::new(lend(&mut t.streams)),
        buckets: lend(&mut t.buckets),
        stream_timers: Deadlines::new(lend(&mut t.stream_timers)),
        peers: lend(&mut t.peers),
        paths: Slab::new(lend(&mut t.paths)),
        spaces: Slab::new(lend(&mut t.spaces)),
        peer_timers: Deadlines::new(lend(&mut t.peer_timers)),
        ports: lend(&mut t.ports),
    };
    let storage = Storage {
        directory,
        tunnel,
        transport,
        links: lend(&mut l.links),
        probes: Slab::new(lend(&mut l.probes)),
        punches: Slab::new(lend(&mut l.punches)),
        deadlines: Deadlines::new(lend(&mut l.deadlines)),
    };
    (storage, lend(&mut b.send), lend(&mut b.receive))
}
