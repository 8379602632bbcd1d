//! A peer with a good session and no good intentions: it forges every segment and every
//! acknowledgement that it sends, and answers nothing it does not want to. What it takes stays
//! bounded, and the streams of an honest peer go on as if it were not there.

use super::world::{NETWORK, PORT, address, ms, pattern};
use crate::addr::{Address, NodeId, Port};
use crate::limits::{BLOCK, Limits};
use crate::path::mtu::SizeRange;
use crate::path::{PathId, PeerIndex};
use crate::rng::Rng;
use crate::stats::DropReason;
use crate::stream::{
    ACKNOWLEDGEMENT, ReadError, StreamId, TrainState, Transport, TransportEvent, TransportStorage,
    WriteError,
};
use crate::time::{Duration, Instant};
use crate::wire::header::{Flags, Header, Protocol};
use std::collections::VecDeque;
use std::vec::Vec;

/// Peers of the victim.
const ENEMY: PeerIndex = PeerIndex(0);
const FRIEND: PeerIndex = PeerIndex(1);
const MAIN: PathId = PathId(0);
/// A port whose service sends without being asked.
const FEED: Port = Port(1001);
/// Index of the frames that the victim seals for the enemy, and of those that it gets.
const TO_ENEMY: u32 = 0x8000_0001;
const OF_ENEMY: u32 = 0x8000_0002;

fn limits() -> Limits {
    Limits {
        peers: 2,
        streams: 64,
        buffer_bytes: 512 * BLOCK,
        frames: 1024,
        listeners: 8,
        backlog: 32,
        ..Limits::desktop()
    }
}

fn transport(seed: u8) -> Transport<'static> {
    Transport::new(&limits(), Rng::new([seed; 32]), TransportStorage::boxed(&limits()))
}

/// A frame that the victim has sent to the enemy.
struct Seen {
    at: Instant,
    counter: u64,
    plain: Vec<u8>,
}

impl Seen {
    fn header(&self) -> Option<Header> {
        Header::decode(&self.plain).ok().map(|(header, _)| header)
    }
}

struct Arena {
    now: Instant,
    victim: Transport<'static>,
    friend: Transport<'static>,
    /// To the friend, to the victim: when, counter, plaintext.
    wires: [VecDeque<(Instant, u64, Vec<u8>)>; 2],
    counters: [u64; 2],
    /// Next counters of what the victim sends to the enemy and the enemy to the victim.
    to_enemy: u64,
    skipped: Option<u64>,
    of_enemy: u64,
    /// What the enemy has received and not looked at.
    seen: Vec<Seen>,
    /// Streams of the enemy that the victim's applications have.
    accepted: Vec<StreamId>,
    /// Those of the friend.
    friends: Vec<StreamId>,
    /// The enemy's port and the victim's number for each, as its SYN-ACK told.
    opened: Vec<(Port, u32)>,
    rng: Rng,
}

impl Arena {
    fn new() -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let (mut victim, mut friend) = (transport(1), transport(2));
        let of_friend = Address::backbone(NodeId(99));
        assert!(victim.add_peer(now, ENEMY, address(0), address(1)));
        assert!(victim.add_peer(now, FRIEND, address(0), of_friend));
        assert!(friend.add_peer(now, PeerIndex(0), of_friend, address(0)));
        for peer in [ENEMY, FRIEND] {
            assert!(victim.add_path(now, peer, MAIN, SizeRange::direct(1232)));
            victim.session_up(now, peer);
        }
        assert!(friend.add_path(now, PeerIndex(0), MAIN, SizeRange::direct(1232)));
        friend.session_up(now, PeerIndex(0));
        victim.listen(PORT).unwrap();
        victim.listen(FEED).unwrap();
        Arena {
            now,
            victim,
            friend,
            wires: [VecDeque::new(), VecDeque::new()],
            counters: [0; 2],
            to_enemy: 0,
            skipped: None,
            of_enemy: 0,
            seen: Vec::new(),
            accepted: Vec::new(),
            friends: Vec::new(),
            opened: Vec::new(),
            rng: Rng::new([3; 32]),
        }
    }

    // ---- what the enemy does ----

    fn header(&self, flags: Flags, ports: (Port, Port), seq: u32, ack: u32) -> Header {
        Header {
            flags,
            protocol: Protocol::Stream,
            length: 0,
            source: Address::new(NETWORK, address(1).node),
            destination: Address::new(NETWORK, address(0).node),
            source_port: ports.0,
            destination_port: ports.1,
            sequence: seq,
            acknowledgement: ack,
            window: u16::MAX,
            checksum: 0,
        }
    }

    fn send(&mut self, header: Header, payload: &[u8]) {
        let header = Header { length: payload.len() as u16, ..header };
        let now = self.now;
        let outcome = self.victim.handle_packet(now, ENEMY, &header, payload, true, true);
        if outcome.accepted {
            let counter = self.of_enemy;
            let immediate = outcome.immediate;
            self.victim.frame_received(now, ENEMY, MAIN, OF_ENEMY, counter, true, immediate);
        }
        self.of_enemy += 1;
    }

    /// Says that `first` frames up to `largest` have arrived, and all below the one before
    /// these if `rest`; tells about one stream.
    fn acknowledge(
        &mut self,
        largest: u64,
        first: u32,
        rest: bool,
        entry: Option<(Port, Port, u32, u16)>,
    ) -> Result<(), DropReason> {
        let mut fd = std::vec![ACKNOWLEDGEMENT];
        fd.extend_from_slice(&TO_ENEMY.to_be_bytes());
        fd.extend_from_slice(&largest.to_be_bytes());
        fd.extend_from_slice(&[0, 0, u8::from(rest)]);
        fd.extend_from_slice(&first.to_be_bytes());
        if rest {
            fd.extend_from_slice(&1u32.to_be_bytes());
            fd.extend_from_slice(&(largest as u32 - first).to_be_bytes());
        }
        fd.push(u8::from(entry.is_some()));
        if let Some((ours, theirs, ack, window)) = entry {
            fd.extend_from_slice(&ours.0.to_be_bytes());
            fd.extend_from_slice(&theirs.0.to_be_bytes());
            fd.extend_from_slice(&ack.to_be_bytes());
            fd.extend_from_slice(&window.to_be_bytes());
        }
        let sent = (self.to_enemy, self.skipped);
        self.victim.handle_ack(self.now, ENEMY, &fd, |_| Some(sent))
    }

    /// Acknowledges all frames that were sent until `before`.
    fn acknowledge_until(&mut self, before: Instant) {
        let until = self.seen.iter().rev().find(|seen| seen.at <= before).map(|s| s.counter);
        let Some(largest) = until else { return };
        // Not what was left out: the enemy has received the others.
        let gap = self.skipped.filter(|skipped| *skipped < largest);
        let first = gap.map_or(largest + 1, |gap| largest - gap) as u32;
        self.acknowledge(largest, first, gap.is_some(), None).unwrap();
    }

    /// Opens a stream from each of these ports in full: SYN, and the answer to the SYN-ACK.
    fn open(&mut self, ports: core::ops::Range<u16>, to: Port, window: u16) {
        for port in ports.map(Port) {
            let syn = self.header(Flags::SYN, (port, to), 0, 0);
            self.send(Header { window, ..syn }, b"");
            let mut answer = None;
            while answer.is_none() {
                self.tick();
                self.acknowledge_until(self.now);
                let mut headers = self.seen.drain(..).filter_map(|seen| seen.header());
                answer = headers.rfind(|h| h.destination_port == port);
            }
            let answer = answer.filter(|h| h.flags.has(Flags::SYN));
            if let Some(number) = answer.map(|h| h.sequence.wrapping_add(1)) {
                self.opened.push((port, number));
                let ack = self.header(Flags::ACK, (port, to), 1, number);
                self.send(Header { window, ..ack }, b"");
                self.tick();
            }
        }
    }

    /// Lets time pass and acknowledges every frame so late.
    fn answer_after(&mut self, delay: Duration, ticks: u64) {
        for _ in 0..ticks {
            self.acknowledge_until(self.now.minus(delay));
            self.tick();
        }
    }

    // ---- time ----

    /// One millisecond: what is on the wires arrives, timers fire, everybody sends.
    fn tick(&mut self) {
        self.now += ms(1);
        let now = self.now;
        for to in 0..2 {
            let mut heard = false;
            while let Some((at, ..)) = self.wires[to].front()
                && *at <= now
            {
                let (_, counter, plain) = self.wires[to].pop_front().unwrap();
                let (t, peer) = match to {
                    0 => (&mut self.friend, PeerIndex(0)),
                    _ => (&mut self.victim, FRIEND),
                };
                let index = 0x8000_0010 + to as u32;
                heard = true;
                if plain[0] == ACKNOWLEDGEMENT {
                    t.handle_ack(now, peer, &plain, |_| None).unwrap();
                    t.frame_received(now, peer, MAIN, index, counter, false, false);
                    continue;
                }
                let outcome = match Header::decode(&plain) {
                    Ok((header, payload)) => {
                        t.handle_packet(now, peer, &header, payload, true, true)
                    }
                    // Padding.
                    Err(_) => {
                        t.frame_received(now, peer, MAIN, index, counter, true, true);
                        continue;
                    }
                };
                if outcome.accepted {
                    t.frame_received(now, peer, MAIN, index, counter, true, outcome.immediate);
                }
            }
            if heard {
                self.victim.batch_end(now, FRIEND);
                self.friend.batch_end(now, PeerIndex(0));
            }
        }
        self.victim.batch_end(now, ENEMY);
        self.victim.handle_timeout(now);
        self.friend.handle_timeout(now);
        self.applications();
        self.flush();
    }

    fn applications(&mut self) {
        for port in [PORT, FEED] {
            while let Some(id) = self.victim.accept(port) {
                if self.victim.stream_info(id).unwrap().peer == ENEMY {
                    self.accepted.push(id);
                } else {
                    self.friends.push(id);
                }
            }
        }
        let now = self.now;
        for id in &self.accepted {
            let fed = self.victim.stream_info(*id).is_some_and(|info| info.local_port == FEED);
            while fed && self.victim.write(now, *id, &[7; 16_384]).is_ok() {}
        }
        while let Some(event) = self.victim.poll_event() {
            if let TransportEvent::Closed(id, _) = event
                && let Some(at) = self.accepted.iter().position(|known| *known == id)
            {
                self.accepted.swap_remove(at);
                self.victim.release(now, id);
            }
        }
        while self.friend.poll_event().is_some() {}
    }

    fn flush(&mut self) {
        let now = self.now;
        let mut out = std::vec![0; 65_536];
        for from in 0..2 {
            loop {
                let t = if from == 0 { &mut self.victim } else { &mut self.friend };
                let Some(peer) = t.poll_ready(now) else { break };
                let path = t.next_path(peer).unwrap();
                let mut train = TrainState::new(52);
                while let Some(written) = t.write_frame(now, peer, path, &mut out, &mut train) {
                    let plain = out[..written.len].to_vec();
                    let enemy = from == 0 && peer == ENEMY;
                    let (index, counter) = match enemy {
                        true => (TO_ENEMY, &mut self.to_enemy),
                        false => (0x8000_0010 + from as u32, &mut self.counters[from]),
                    };
                    t.frame_sent(now, peer, path, index, *counter, written.len + 28, written.token);
                    if enemy {
                        self.seen.push(Seen { at: now, counter: *counter, plain });
                    } else {
                        self.wires[from].push_back((now + ms(10), *counter, plain));
                    }
                    *counter += 1;
                    if enemy && *counter % 50 == 30 {
                        self.skipped = Some(*counter);
                        *counter += 1;
                    }
                }
            }
            let t = if from == 0 { &mut self.victim } else { &mut self.friend };
            assert!(t.poll_timeout().is_none_or(|timeout| timeout.at > now), "it spins");
        }
    }
}

/// Writes its pattern, then finishes; reads the other end's.
struct Flow {
    id: StreamId,
    seed: u64,
    sent: u64,
    got: u64,
    over: bool,
}

const TOTAL: u64 = 2_000_000;

impl Flow {
    fn pump(&mut self, now: Instant, t: &mut Transport<'_>) {
        while self.sent < TOTAL {
            let most = (TOTAL - self.sent).min(16_384);
            let bytes: Vec<u8> =
                (self.sent..self.sent + most).map(|at| pattern(self.seed, at)).collect();
            match t.write(now, self.id, &bytes) {
                Ok(n) => self.sent += n as u64,
                Err(WriteError::WouldBlock) => break,
                Err(error) => panic!("write: {error:?}"),
            }
            if self.sent == TOTAL {
                t.finish(now, self.id).unwrap();
            }
        }
        let mut buffer = [0; 16_384];
        while !self.over {
            match t.read(now, self.id, &mut buffer) {
                Ok(0) => self.over = true,
                Ok(n) => {
                    for byte in &buffer[..n] {
                        assert_eq!(*byte, pattern(1 - self.seed, self.got));
                        self.got += 1;
                    }
                }
                Err(ReadError::WouldBlock) => break,
                Err(error) => panic!("read: {error:?}"),
            }
        }
    }
}

impl Arena {
    /// The friend opens a stream, and 2 MB go each way while the enemy does what it does each
    /// millisecond; the time from the SYN to the last byte.
    fn transfer(&mut self, mut enemy: impl FnMut(&mut Arena)) -> Duration {
        let start = self.now;
        let id = self.friend.connect(start, PeerIndex(0), PORT, NETWORK).unwrap();
        let mut here = Flow { id, seed: 0, sent: 0, got: 0, over: false };
        let mut there: Option<Flow> = None;
        while !here.over || there.as_ref().is_none_or(|flow| !flow.over) {
            enemy(self);
            self.tick();
            if let Some(id) = self.friends.pop() {
                there = Some(Flow { id, seed: 1, sent: 0, got: 0, over: false });
            }
            here.pump(self.now, &mut self.friend);
            if let Some(flow) = &mut there {
                flow.pump(self.now, &mut self.victim);
            }
            let took = self.now.since(start);
            assert!(took < Duration::from_secs(10), "{} of {TOTAL} bytes after {took:?}", here.got);
        }
        let took = self.now.since(start);
        self.friend.release(self.now, id);
        self.victim.release(self.now, there.map_or(id, |flow| flow.id));
        (0..100).for_each(|_| self.tick());
        took
    }

    /// What the enemy holds of the victim: streams, and blocks of the pool.
    fn held(&self) -> (usize, u32) {
        let (_, unreserved, all) = self.victim.pool_blocks();
        (self.victim.open_streams(ENEMY), all - unreserved)
    }
}

/// What a disturbed transfer may take: two round trips more than an undisturbed one, for what the
/// enemy holds of the memory.
fn disturbed_max() -> Duration {
    Arena::new().transfer(|_| {}) + ms(40)
}

/// W-T11: a flood of SYNs whose answers it ignores fills its own share of the backlog.
#[test]
fn a_flood_of_syns_leaves_the_backlog_to_others() {
    let mut arena = Arena::new();
    let mut next = 0u16;
    let took = arena.transfer(|arena| {
        for _ in 0..100 {
            next = next.wrapping_add(1);
            let syn = arena.header(Flags::SYN, (Port(next), PORT), u32::from(next), 0);
            arena.send(syn, b"");
        }
    });
    assert!(took <= disturbed_max(), "{took:?}");
    assert!(arena.victim.open_streams(ENEMY) <= limits().backlog / 2);
}

/// Streams that it opens properly, as many as it can: others still find places and memory.
#[test]
fn a_peer_that_opens_everything_leaves_half() {
    let mut arena = Arena::new();
    arena.open(0..200, PORT, u16::MAX);
    let (streams, blocks) = arena.held();
    assert_eq!((streams, arena.accepted.len(), blocks), (32, 32, 128), "half of 64 streams");
    let took = arena.transfer(|_| {});
    assert!(took <= disturbed_max(), "{took:?}");
    // And what it gives back it may have again.
    let opened = core::mem::take(&mut arena.opened);
    for (port, number) in opened {
        let rst = arena.header(Flags::RST | Flags::ACK, (port, PORT), 1, number);
        arena.send(rst, &[3]);
    }
    arena.tick();
    assert_eq!(arena.held(), (0, 0));
    arena.open(0..200, PORT, u16::MAX);
    assert_eq!(arena.victim.open_streams(ENEMY), 31, "the friend's is in TIME_WAIT");
}

/// It makes the victim's send window large, shuts the windows of all its other streams, and lets
/// the victim's applications fill their rings.
#[test]
fn a_peer_that_never_reads_leaves_half_of_the_memory() {
    let mut arena = Arena::new();
    arena.open(0..1, FEED, u16::MAX);
    arena.answer_after(ms(20), 400);
    let window = arena.victim.path_info(ENEMY, MAIN).unwrap().window;
    assert!(window > 600_000, "it has a large window: {window}");
    arena.open(1..30, FEED, 0);
    arena.answer_after(ms(20), 100);
    let (_, blocks) = arena.held();
    assert!((200..=256).contains(&blocks), "{blocks} of 512");
    let took = arena.transfer(|arena| arena.acknowledge_until(arena.now.minus(ms(20))));
    assert!(took <= disturbed_max(), "{took:?}");
}

/// It makes the window as large as it gets and its round trip long, and then acknowledges
/// nothing.
#[test]
fn a_peer_that_acknowledges_nothing_leaves_half_of_the_frames() {
    let mut arena = Arena::new();
    arena.open(0..8, FEED, u16::MAX);
    arena.answer_after(ms(20), 400);
    for delay in 20..400 {
        arena.answer_after(ms(delay), 10);
    }
    let info = arena.victim.path_info(ENEMY, MAIN).unwrap();
    assert!(info.window > 600_000 && info.rtt > Some(ms(350)), "{info:?}");
    let frames = arena.victim.frames.len();
    assert!((400..=512).contains(&frames), "{frames} of 1024");
    let took = arena.transfer(|_| {});
    assert!(took <= disturbed_max(), "{took:?}");
}

/// Segments with any flags and numbers, tiny, overlapping, beyond the window and with gaps
/// everywhere, acknowledgements of anything, and a reset for a port that nobody has, all at
/// once: whatever it does to its own streams, nothing grows and nobody else notices.
#[test]
fn a_storm_of_forged_segments_hurts_nobody_else() {
    let mut arena = Arena::new();
    arena.open(0..8, PORT, 10);
    arena.open(8..16, FEED, 10);
    let opened = arena.opened.clone();
    let storm = |arena: &mut Arena| {
        for _ in 0..40 {
            let draw = arena.rng.u32();
            let (port, number) = opened[draw as usize % opened.len()];
            let to = if port.0 < 8 { PORT } else { FEED };
            let near = |rng: &mut Rng, base: u32| match rng.below(8) {
                0 => rng.u32(),
                1 => base.wrapping_sub(rng.below(100) as u32),
                2 => base.wrapping_add(rng.below(60_000) as u32),
                _ => base.wrapping_add(2 * rng.below(1000) as u32),
            };
            let (seq, ack) = (near(&mut arena.rng, 1), near(&mut arena.rng, number));
            let flags = match arena.rng.below(16) {
                0 => Flags::SYN,
                1 => Flags::SYN | Flags::ACK,
                2 => Flags::NONE,
                3 => Flags::FIN | Flags::ACK,
                4 => Flags::RST,
                _ => Flags::ACK,
            };
            let stray = arena.rng.below(20) == 0;
            let ports = (Port(port.0 + 5000 * u16::from(stray)), to);
            let window = arena.rng.below(4) as u16;
            let header = Header { window, ..arena.header(flags, ports, seq, ack) };
            let len = [0, 1, 1, 700][arena.rng.below(4) as usize];
            arena.send(header, &[9; 700][..len]);
            let (largest, ack) = (arena.rng.below(arena.to_enemy + 50), near(&mut arena.rng, 1));
            let first = arena.rng.below(largest + 1) as u32 + 1;
            let _ = arena.acknowledge(largest, first, false, Some((port, to, ack, draw as u16)));
        }
        arena.seen.clear();
    };
    let took = arena.transfer(storm);
    assert!(took <= disturbed_max(), "{took:?}");
    let (streams, blocks) = arena.held();
    assert!(streams <= 32 && blocks <= 256, "{streams} {blocks}");
}

/// It acknowledges at once everything that was sent, and more, whether it has arrived or not, to
/// make the victim send ever faster.
#[test]
fn a_peer_that_acknowledges_what_it_has_not_seen_is_not_believed() {
    for beyond in [0, 1, 100] {
        let mut arena = Arena::new();
        arena.open(0..1, FEED, u16::MAX);
        let (mut lies, mut sent) = (0, arena.to_enemy);
        for _ in 0..3000 {
            let largest = arena.to_enemy - 1 + beyond;
            let told = arena.acknowledge(largest, largest as u32 + 1, false, None);
            lies += u32::from(told == Err(DropReason::Unasked));
            arena.tick();
        }
        sent = arena.to_enemy - sent;
        assert!(lies > 2000, "{lies}");
        assert!(sent < 150, "{sent} frames in 3 s, {beyond} beyond");
    }
    // Who has received them is sent more.
    let mut arena = Arena::new();
    arena.open(0..1, FEED, u16::MAX);
    arena.answer_after(ms(20), 400);
    assert!(arena.to_enemy > 1000);
}
