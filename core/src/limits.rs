//! Bounds and protocol timers that more than one module needs in one table, checked at compile
//! time.
//!
//! Bounds that an operator may change are in [`Limits`]; what both ends must agree on is a
//! constant. Each says why it has its value.

use crate::time::Duration;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

// ---- handshake (wire.md 4.9) ----

/// When the identical bytes of an INIT are sent again, after the first sending; each ± 20 %.
pub const INIT_REPEAT: [Duration; 3] = [ms(300), ms(900), ms(2100)];
/// When an attempt starts anew with a new ephemeral key.
pub const INIT_RENEW: Duration = ms(4500);
/// Distance of later attempts, plus up to [`INIT_RENEW_JITTER`].
pub const INIT_RENEW_LATER: Duration = s(5);
/// Jitter on top of [`INIT_RENEW_LATER`], so that two ends do not stay in step.
pub const INIT_RENEW_JITTER: Duration = ms(334);
/// When a handshake towards a peer is given up.
pub const INIT_GIVE_UP: Duration = s(90);
/// Most destinations of one INIT: relay channel, last good path, resolved endpoints.
pub const FIRST_FLIGHT: usize = 4;
/// How long the larger identity holds back its own INIT after it has answered one.
pub const SIMULTANEOUS_PAUSE: Duration = s(5);
/// A session that we answered for and that was never confirmed.
pub const PENDING_TTL: Duration = s(15);
/// A pending handshake younger than this makes a lower number stale.
pub const PENDING_FRESH: Duration = s(5);
/// Most resends of one cached RESP, so that a replayed INIT amplifies nothing for long.
pub const RESP_RESENDS: u8 = 32;
/// When the initiator sends F0 again on a session on which it has heard nothing.
pub const CONFIRM_REPEAT: [Duration; 3] = [ms(300), ms(900), ms(2100)];
/// Rotation of the cookie secret; the previous one is accepted for as long again.
pub const COOKIE_ROTATE: Duration = s(120);
/// Handshake numbers from here on are ignored: a clock once set far ahead heals.
pub const HS_SEQ_MAX: u64 = 1 << 62;

/// Records of one identity whose signature is checked, per second (`wire.md` 4.5 step 5).
pub const VERIFY_PER_SECOND: u32 = 2;
/// Least distance of HS_STALE answers to one peer (`wire.md` 4.5 step 6).
pub const STALE_INTERVAL: Duration = s(1);
/// Handshakes of one source that pass at once after it has shown a cookie; a quarter of
/// [`Limits::handshakes_per_source`] if that was raised above 20.
pub const SOURCE_BURST: u32 = 5;
/// Least burst of the Diffie–Hellman budget, so that small systems answer two peers at once.
pub const HANDSHAKE_BURST_MIN: u32 = 10;
/// Answers to strangers (HS_COOKIE, HS_STALE) that wait for the socket.
pub const HANDSHAKE_REPLIES: usize = 16;
/// Replay window words of a session with the beacon (`wire.md` 7).
pub const BEACON_WORDS: usize = 4;

// ---- sessions (wire.md 4.9, 5.4) ----

/// The initiator of `cur` rekeys at this age, less up to [`REKEY_JITTER`].
pub const REKEY_INITIATOR: Duration = s(120);
/// See [`REKEY_INITIATOR`].
pub const REKEY_JITTER: Duration = s(12);
/// The other side rekeys at this age, should the initiator have failed to.
pub const REKEY_RESPONDER: Duration = s(165);
/// A session neither sends nor receives beyond this age.
pub const REJECT_AFTER: Duration = s(180);
/// Rekey after this many 16-byte AEAD blocks (RFC 9001 B.1 for advantage 2^-57).
pub const REKEY_BLOCKS: u64 = 1 << 34;
/// Hard stop after this many blocks.
pub const REJECT_BLOCKS: u64 = 1 << 35;
/// An empty frame this long after data was received and nothing sent.
pub const PASSIVE_KEEPALIVE: Duration = s(10);
/// All keys of a peer are zeroed this long after its last session.
pub const ZEROIZE_AFTER: Duration = s(540);
/// `prev` carries stream segments until newer sessions have received this many bytes ...
pub const PREV_STREAM_BYTES: u64 = 1 << 30;
/// ... or for this long, whichever is first: 32-bit sequence numbers wrap.
pub const PREV_STREAM_TIME: Duration = s(10);

/// A sender leaves out one counter after at least this many frames ...
pub const SKIP_MIN: u64 = 1000;
/// ... and up to this many more, at random: who acknowledges it lies (`wire.md` 11). Often
/// enough to stop a window that was made large by lies, too rare to be noticed otherwise.
pub const SKIP_SPAN: u64 = 2000;

// ---- paths (wire.md 4.9) ----

/// Floor of the suspicion deadline of 3 smoothed round trips.
pub const SUSPECT_FLOOR: Duration = ms(500);
/// Suspicion deadline on a path without a round-trip sample.
pub const SUSPECT_NO_SAMPLE: Duration = s(1);
/// Least distance of the INITs that a suspect path causes.
pub const SUSPECT_INIT: Duration = s(5);
/// A suspect path that stays silent for this long is removed (a relay channel is not).
pub const PATH_REMOVE: Duration = s(15);
/// After this long our record is sent again if the table of frames had no place to watch it.
pub const RECORD_AGAIN: Duration = s(1);
/// Keepalive to the beacon while a peer's data goes over its relay, ± 10 %: a beacon that was
/// restarted has forgotten the channel, and an end that only listens learns of it by nothing else.
pub const RELAYED_KEEPALIVE: Duration = s(2);
/// NAT keepalive to the beacon and on the path of peers with open streams; each ± 10 %.
/// Cloud NATs and security groups forget a UDP flow after 30 s.
pub const NAT_KEEPALIVE: Duration = s(15);
/// A beacon that answers nothing for this long although it is asked: our socket may be what is
/// dead, and is replaced by one on another port (`nat.md` 3). Doubles from then on ...
pub const ROTATE_AFTER: Duration = s(20);
/// ... up to this.
pub const ROTATE_AFTER_MAX: Duration = s(300);
/// An empty frame on the relay channel of a peer with open streams, so that it stays bound.
pub const RELAY_KEEPALIVE: Duration = s(120);

/// Auxiliary UDP sockets of a node: 256 of a spray (`nat.md` 2) and 16 for discovery and fresh
/// attempts. One more is refused, and whoever wanted it does without.
pub const AUXILIARY_MAX: usize = 256 + 16;

/// Peers that a node with boxed storage punches towards at once, at 2 KiB each; others wait for
/// their next turn and are relayed meanwhile.
pub const PUNCHES: usize = 64;

// ---- the search for the path MTU (RFC 8899, wire.md 11) ----

/// How often a size is lost before it is taken not to pass (RFC 8899 5.1.2, MAX_PROBES).
pub const MTU_PROBES: u8 = 3;
/// When a search that is complete is made anew (RFC 8899 5.1.1, PMTU_RAISE_TIMER).
pub const MTU_RAISE: Duration = s(600);
/// When a path on which the base failed is tried again, doubling up to [`MTU_RAISE`].
pub const MTU_BASE_RETRY: Duration = s(10);
/// Rounds of losses above the base, while the base passes, that mean a black hole.
pub const MTU_BLACK_HOLE: u8 = 3;
/// A search is complete when what passes and what fails are no further apart than this, or a 64th.
pub const MTU_GRAIN: u16 = 16;

// ---- directory (wire.md 4.9, 6, 7, 9) ----

/// Longest back-off of attempts towards registry and beacon; each ± 50 %.
pub const DIRECTORY_BACKOFF_MAX: Duration = s(30);
/// When a request to the beacon is sent again.
pub const BEACON_REPEAT: [Duration; 2] = [ms(500), ms(1500)];
/// When an unacknowledged `Bound` is sent again.
pub const BOUND_REPEAT: [Duration; 3] = [ms(300), ms(900), ms(2100)];
/// An idle registry channel is closed after this time by either end.
pub const REGISTRY_IDLE: Duration = s(60);
/// A registry connection that has not authenticated.
pub const REGISTRY_PRE_AUTH: Duration = s(3);
/// Bytes that a registry connection may send before it has authenticated.
pub const REGISTRY_PRE_AUTH_BYTES: usize = 512;
/// Longest frame on a registry channel, tag included.
pub const REGISTRY_FRAME_MAX: usize = 16 * 1024;
/// An unused relay channel is unbound after this time.
pub const CHANNEL_IDLE: Duration = s(300);
/// The agent rekeys its beacon session at this age; the beacon never initiates.
pub const BEACON_REKEY: Duration = s(3600);
/// A beacon session beyond this age is dead.
pub const BEACON_REJECT: Duration = s(3900);
/// First back-off of attempts towards the registry; doubles up to [`DIRECTORY_BACKOFF_MAX`].
pub const DIRECTORY_BACKOFF_MIN: Duration = ms(500);
/// A registry connection that answers nothing for this long is given up.
pub const REGISTRY_ANSWER: Duration = s(10);
/// A request of the owner that found no registry for this long fails.
pub const REQUEST_GIVE_UP: Duration = s(30);
/// Least distance of two searches for a hostname among trusted peers (`wire.md` 10), and how
/// many of them one search asks the registry about.
pub const NAME_SEARCH_DISTANCE: Duration = s(2);
/// See [`NAME_SEARCH_DISTANCE`].
pub const NAME_SEARCH_PEERS: usize = 32;
/// Requests under way on one registry channel.
pub const REQUESTS_IN_FLIGHT: usize = 16;
/// The mailbox keeps a trust request for this long, and an answer is taken as long
/// (`wire.md` 6.5).
pub const TRUST_REQUEST_LIFE: Duration = s(7 * 24 * 3600);
/// When something about trust that the registry refused for now is tried again.
pub const TRUST_RETRY: Duration = s(60);
/// A tunnel key is rotated at this age (`wire.md` 2).
pub const TUNNEL_KEY_LIFE: Duration = s(30 * 24 * 3600);
/// Wall clocks further apart are told to the owner (`wire.md` 8).
pub const CLOCK_TOLERANCE: Duration = s(3600);
/// A `Bind` that found the other end offline is repeated after this time at first ...
pub const BIND_RETRY_MIN: Duration = s(1);
/// ... doubling up to this (`wire.md` 7).
pub const BIND_RETRY_MAX: Duration = s(30);

// ---- streams (wire.md 11) ----

/// Maximum segment lifetime; TIME_WAIT is two of them.
pub const SEGMENT_LIFETIME: Duration = s(5);
/// How long a finished stream that the application has released waits for the peer's FIN.
pub const ORPHAN_LINGER: Duration = s(60);
/// Lower bound of the retransmission timeout (RFC 6298 says 1 s, Linux has used 200 ms).
pub const RTO_MIN: Duration = ms(200);
/// Upper bound of the retransmission timeout (RFC 6298).
pub const RTO_MAX: Duration = s(60);
/// Retransmission timeout before the first sample (RFC 6298 2.1).
pub const RTO_INITIAL: Duration = s(1);
/// Longest delay of an acknowledgement.
pub const ACK_DELAY_MAX: Duration = ms(25);
/// An acknowledgement goes out after this many frames at the latest ...
pub const ACK_FRAMES: u32 = 16;
/// ... with data that goes the other way after this many, ...
pub const ACK_FRAMES_RIDING: u32 = 12;
/// ... and after this many for one round trip after a gap.
pub const ACK_FRAMES_AFTER_GAP: u32 = 4;
/// Most ranges, and most stream entries, of one acknowledgement.
pub const ACK_RANGES: usize = 32;
/// Longest distance of zero-window probes while they are answered.
pub const ZERO_WINDOW_PROBE_MAX: Duration = s(2);
/// Bytes of a pool block.
pub const BLOCK: usize = 16 * 1024;
/// Blocks that an open stream may always have: 64 KiB (`wire.md` 11). They are reserved when
/// it opens, and taken only while bytes are in them ...
pub const BLOCKS_GUARANTEED: usize = BLOCKS_GUARANTEED_RECEIVE + BLOCKS_GUARANTEED_SEND;
/// ... three to receive, so that the first window is 48 KiB ...
pub const BLOCKS_GUARANTEED_RECEIVE: usize = 3;
/// ... and one to send. Both directions grow with what they carry.
pub const BLOCKS_GUARANTEED_SEND: usize = 1;
/// Most bytes of a stream's receive window and send ring.
pub const STREAM_WINDOW_MAX: usize = 16 * 1024 * 1024;
/// The unit of the window field.
pub const WINDOW_UNIT: usize = 1024;
/// Congestion window at the start, in datagrams (RFC 6928).
pub const INITIAL_WINDOW: u32 = 10;
/// Outgoing datagrams that wait, per peer; the oldest is dropped when there is one more.
pub const DATAGRAM_QUEUE: usize = 64;

// ---- tasks (wire.md 12) ----

/// A task that its worker has had for this long and not answered lapses (`published-wire.md`).
pub const TASK_ANSWER: Duration = s(60);
/// An accepted task that has been at the head of its worker's queue for this long expires
/// (`published-wire.md`).
pub const TASK_QUEUE_HEAD: Duration = s(3600);
/// A receipt of work that ended longer ago counts no more: who hands it in had a month, and what
/// the registry has dropped at a limit cannot come back for long.
pub const RECEIPT_AGE: Duration = s(30 * 24 * 3600);
/// Receipts between two identities, whichever works, that the registry takes in one UTC day. One
/// more is answered RateLimited until the next day. Enough for two agents that really work
/// together; what one operator's two identities can deal each other ends here.
pub const RECEIPTS_PER_PAIR: u32 = 32;
/// Points that the receipts of such a pair and day may be worth together; more is answered the
/// same. Four tasks of the longest kind there is, or thirty of ordinary ones.
pub const POINTS_PER_PAIR: u32 = 64;
/// Receipts of one worker that the registry keeps and counts: the ones of the latest work. One
/// more takes the place of the oldest, whose points go; an older one is answered Full.
pub const RECEIPTS_PER_WORKER: usize = 1024;

// ---- frames (wire.md 5.1) ----

/// Index and counter in front of a data frame's ciphertext.
pub const FRAME_HEADER: usize = 12;
/// AEAD tag behind it.
pub const TAG: usize = 16;
/// The inner header (`published-wire.md`).
pub const INNER_HEADER: usize = 34;
/// What a full data packet costs over its payload.
pub const OVERHEAD: usize = FRAME_HEADER + INNER_HEADER + TAG;
/// What the relay adds in front.
pub const RELAY_HEADER: usize = 12;
/// Largest UDP payload that a 1,280-byte MTU carries over IPv6.
pub const DATAGRAM_DEFAULT: u16 = 1232;
/// Largest UDP payload there is over IPv4.
pub const DATAGRAM_MAX: u16 = 65_507;
/// Bytes of the longest segmentation-offload train.
pub const TRAIN_BYTES_MAX: usize = 65_000;
/// Segments of the longest train (Linux UDP_MAX_SEGMENTS).
pub const TRAIN_SEGMENTS_MAX: usize = 64;

const _: () = {
    assert!(OVERHEAD == 62);
    assert!(REGISTRY_FRAME_MAX <= u16::MAX as usize);
    assert!(BLOCKS_GUARANTEED * BLOCK == 64 * 1024);
    assert!(STREAM_WINDOW_MAX <= u16::MAX as usize * WINDOW_UNIT);
    assert!(STREAM_WINDOW_MAX.is_multiple_of(BLOCK));
    // A responder forgets an unconfirmed session only after the initiator's last repetition.
    assert!(PENDING_TTL.as_millis() > INIT_RENEW.as_millis());
    assert!(REKEY_RESPONDER.as_millis() > REKEY_INITIATOR.as_millis());
    assert!(REJECT_AFTER.as_millis() > REKEY_RESPONDER.as_millis());
    assert!(REJECT_BLOCKS > REKEY_BLOCKS);
};

/// How much of everything one node may hold. Set once, at construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Peers: trusted, or asked for trust.
    pub peers: usize,
    /// Sessions over all peers; a peer holds at most 6. Default 2 × peers + 64.
    pub sessions: usize,
    /// Replay window words of 64 counters per session (`wire.md` 5.2): 128, or 4 in small
    /// systems.
    pub replay_words: usize,
    /// Streams over all peers, half-open and lingering ones included.
    pub streams: usize,
    /// Bytes of the pool that all stream data lives in; a multiple of [`BLOCK`].
    pub buffer_bytes: usize,
    /// Frames in flight over all peers.
    pub frames: usize,
    /// Ports with a listener.
    pub listeners: usize,
    /// Streams that wait in one listener's accept queue.
    pub backlog: usize,
    /// Requests to the registry that wait for an answer or for being taken.
    pub requests: usize,
    /// Trust requests of others that wait for a decision.
    pub trust_requests: usize,
    /// Relay channels.
    pub channels: usize,
    /// Diffie–Hellman handshakes a second (token bucket; burst is a fifth).
    pub handshakes_per_second: u32,
    /// Handshakes a second of one source address that has shown a cookie; a quarter of it at once,
    /// at least 5.
    pub handshakes_per_source: u32,
    /// Token buckets of 8 bytes for sources that have shown a cookie; those that share one
    /// share its rate.
    pub sources: usize,
    /// Most UDP payload bytes of our datagrams. A peer's own limit may lower it; what a path
    /// carries is searched from [`DATAGRAM_DEFAULT`] up to it. Not more than that if the sockets
    /// may send in fragments ([`crate::drive::Datagrams::may_fragment`]).
    pub datagram: u16,
}

impl Limits {
    /// For a machine with an operating system.
    pub const fn desktop() -> Self {
        Limits {
            peers: 1024,
            sessions: 2 * 1024 + 64,
            replay_words: 128,
            streams: 4096,
            buffer_bytes: 256 * 1024 * 1024,
            frames: 64 * 1024,
            listeners: 256,
            backlog: 64,
            requests: 64,
            trust_requests: 32,
            channels: 64,
            handshakes_per_second: 1000,
            handshakes_per_source: 20,
            sources: 4096,
            datagram: DATAGRAM_MAX,
        }
    }

    /// For a microcontroller.
    pub const fn small() -> Self {
        Limits {
            peers: 4,
            sessions: 12,
            replay_words: 4,
            streams: 8,
            buffer_bytes: 16 * BLOCK,
            frames: 64,
            listeners: 4,
            backlog: 2,
            requests: 4,
            trust_requests: 2,
            channels: 4,
            handshakes_per_second: 5,
            handshakes_per_source: 20,
            sources: 64,
            datagram: DATAGRAM_DEFAULT,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits::desktop()
    }
}
