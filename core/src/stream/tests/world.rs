//! Two transports over a link in virtual time. Sessions are faked by a counter per direction.

use crate::addr::{Address, NetworkId, NodeId, Port};
use crate::limits::{FRAME_HEADER, Limits, TAG};
use crate::path::mtu::SizeRange;
use crate::path::{PathId, PeerIndex};
use crate::rng::Rng;
use crate::stream::{
    ACKNOWLEDGEMENT, ReadError, StreamId, TrainState, Transport, TransportEvent, TransportStorage,
    WriteError,
};
use crate::time::{Duration, Instant};
use crate::wire::header::Header;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

pub(super) const PEER: PeerIndex = PeerIndex(0);
pub(super) const MAIN: PathId = PathId(0);
pub(super) const PORT: Port = Port(1000);
pub(super) const NETWORK: NetworkId = NetworkId(3);

pub(super) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Which frames, by sending end, reach the link.
pub(super) type Filter = std::boxed::Box<dyn FnMut(usize, &Frame) -> bool>;

/// One direction of one path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    /// Bytes a second; 0: no limit.
    pub(super) rate: u64,
    /// Bytes that wait for the rate.
    pub(super) queue: u64,
    /// Per mille.
    pub(super) loss: u64,
    pub(super) duplicate: u64,
    pub(super) free_at: Instant,
}

impl Link {
    pub(super) const fn clean(delay: Duration) -> Self {
        Link {
            delay,
            jitter: Duration::ZERO,
            rate: 0,
            queue: u64::MAX,
            loss: 0,
            duplicate: 0,
            free_at: Instant::START,
        }
    }

    pub(super) const fn lossy(delay: Duration, loss: u64) -> Self {
        Link { loss, ..Link::clean(delay) }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) path: PathId,
    pub(super) index: u32,
    pub(super) counter: u64,
    pub(super) plain: Vec<u8>,
}

pub(super) struct End {
    pub(super) t: Transport<'static>,
    /// Index under which this end's frames are sealed.
    pub(super) index: u32,
    pub(super) counter: u64,
    pub(super) live: BTreeSet<u32>,
    seen: BTreeSet<(u32, u64)>,
    pub(super) permitted: bool,
    pub(super) events: Vec<TransportEvent>,
    pub(super) datagrams: Vec<(Port, Vec<u8>)>,
    pub(super) sent_frames: u64,
    pub(super) sent_bytes: u64,
    pub(super) acks_sent: u64,
    /// Frame lengths of each train.
    pub(super) trains: Vec<Vec<usize>>,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) ends: [End; 2],
    pub(super) links: [[Link; 2]; 2],
    pub(super) net: BTreeMap<(Instant, u64), (usize, Frame)>,
    serial: u64,
    rng: Rng,
    /// Called for every frame before the link; `false` loses it.
    pub(super) filter: Option<Filter>,
    /// The hosts refuse longer datagrams.
    pub(super) interface: usize,
    pub(super) checks: bool,
}

pub(super) fn limits() -> Limits {
    Limits {
        peers: 2,
        streams: 64,
        buffer_bytes: 64 * 1024 * 1024,
        frames: 16 * 1024,
        listeners: 8,
        backlog: 32,
        ..Limits::desktop()
    }
}

pub(super) fn address(end: usize) -> Address {
    Address::backbone(NodeId(16 + end as u32))
}

impl World {
    pub(super) fn new(seed: u8, link: Link) -> Self {
        World::with(seed, [link; 2], &limits(), 1232)
    }

    pub(super) fn with(seed: u8, links: [Link; 2], limits: &Limits, datagram: u16) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let end = |at: usize| {
            let mut t = Transport::new(
                limits,
                Rng::new([seed.wrapping_add(100 * at as u8); 32]),
                TransportStorage::boxed(limits),
            );
            assert!(t.add_peer(now, PEER, address(at), address(1 - at)));
            assert!(t.add_path(now, PEER, MAIN, SizeRange::direct(datagram)));
            End {
                t,
                index: 0x8000_0000 + at as u32,
                counter: 0,
                live: [0x8000_0000 + at as u32].into(),
                seen: BTreeSet::new(),
                permitted: true,
                events: Vec::new(),
                datagrams: Vec::new(),
                sent_frames: 0,
                sent_bytes: 0,
                acks_sent: 0,
                trains: Vec::new(),
            }
        };
        let mut world = World {
            now,
            ends: [end(0), end(1)],
            links: [[links[0]; 2], [links[1]; 2]],
            net: BTreeMap::new(),
            serial: 0,
            rng: Rng::new([seed; 32]),
            filter: None,
            interface: usize::MAX,
            checks: true,
        };
        for end in &mut world.ends {
            end.t.session_up(now, PEER);
        }
        world
    }

    /// A new session in direction `from`; the old one stays valid until `forget`.
    pub(super) fn rekey(&mut self, from: usize) {
        let end = &mut self.ends[from];
        end.index += 2;
        end.live.insert(end.index);
        end.counter = 0;
    }

    pub(super) fn forget(&mut self, from: usize, index: u32) {
        self.ends[from].live.remove(&index);
        let now = self.now;
        for end in &mut self.ends {
            end.t.session_gone(now, PEER, index);
        }
    }

    fn transmit(&mut self, from: usize, frame: Frame) {
        let now = self.now;
        let end = &mut self.ends[from];
        let wire = (frame.plain.len() + FRAME_HEADER + TAG) as u64;
        end.sent_frames += 1;
        end.sent_bytes += wire;
        end.acks_sent += u64::from(frame.plain[0] == ACKNOWLEDGEMENT);
        if let Some(filter) = &mut self.filter
            && !filter(from, &frame)
        {
            return;
        }
        let link = &mut self.links[from][usize::from(frame.path.0)];
        let mut at = now;
        if link.rate > 0 {
            let start = link.free_at.max(now);
            let waiting = start.since(now).as_nanos() * u128::from(link.rate) / 1_000_000_000;
            if waiting as u64 > link.queue {
                return;
            }
            at = start + Duration::from_nanos(wire * 1_000_000_000 / link.rate);
            link.free_at = at;
        }
        let link = *link;
        let copies = 1 + u64::from(self.rng.below(1000) < link.duplicate);
        for _ in 0..copies {
            if self.rng.below(1000) < link.loss {
                continue;
            }
            let jitter = Duration::from_nanos(self.rng.below(link.jitter.as_nanos() as u64 + 1));
            self.serial += 1;
            self.net.insert((at + link.delay + jitter, self.serial), (1 - from, frame.clone()));
        }
    }

    /// Sends all that may be sent, checking the contract around it.
    pub(super) fn flush(&mut self) {
        for from in 0..2 {
            let mut out = std::vec![0; 65_536];
            let before = self.ends[from].t.poll_timeout();
            let mut any = false;
            while let Some(peer) = self.ends[from].t.poll_ready(self.now) {
                any = true;
                assert!(before.is_some_and(|t| t.at <= self.now), "output without a deadline");
                let path = self.ends[from].t.next_path(peer).expect("a ready peer has a path");
                let mut train = TrainState::new(52);
                let mut lens = Vec::new();
                while let Some(written) =
                    self.ends[from].t.write_frame(self.now, peer, path, &mut out, &mut train)
                {
                    let end = &mut self.ends[from];
                    let (index, counter) = (end.index, end.counter);
                    end.counter += 1;
                    let wire = written.len + FRAME_HEADER + TAG;
                    end.t.frame_sent(self.now, peer, path, index, counter, wire, written.token);
                    lens.push(written.len);
                    if wire > self.interface {
                        end.t.too_large(self.now, wire as u16);
                        continue;
                    }
                    let plain = out[..written.len].to_vec();
                    self.transmit(from, Frame { path, index, counter, plain });
                }
                if let Some((last, rest)) = lens.split_last() {
                    assert!(rest.iter().all(|len| *len == rest[0]), "equal but for the last");
                    assert!(rest.first().is_none_or(|len| last <= len));
                    if self.ends[from].trains.len() < 10_000 {
                        self.ends[from].trains.push(lens);
                    }
                }
            }
            let end = &mut self.ends[from];
            let after = end.t.poll_timeout();
            assert!(after.is_none_or(|t| t.at > self.now), "drained, but due: {after:?} any {any}");
            if self.checks {
                end.t.handle_timeout(self.now);
                assert_eq!(end.t.poll_timeout(), after, "an early timeout changed something");
                assert!(end.t.poll_ready(self.now).is_none());
            }
            while let Some(event) = end.t.poll_event() {
                end.events.push(event);
            }
        }
    }

    pub(super) fn deliver(&mut self, to: usize, frame: &Frame) {
        let now = self.now;
        let live = self.ends[1 - to].live.contains(&frame.index);
        let end = &mut self.ends[to];
        if !live || !end.seen.insert((frame.index, frame.counter)) {
            return;
        }
        let (path, index, counter) = (frame.path, frame.index, frame.counter);
        match frame.plain[0] {
            ACKNOWLEDGEMENT => {
                end.t.handle_ack(now, PEER, &frame.plain, |_| None).unwrap();
                end.t.frame_received(now, PEER, path, index, counter, false, false);
            }
            0xFA => end.t.frame_received(now, PEER, path, index, counter, true, true),
            _ => {
                let (header, payload) = Header::decode(&frame.plain).unwrap();
                assert_eq!(header.checksum, 0);
                let permitted = end.permitted;
                let outcome = end.t.handle_packet(now, PEER, &header, payload, permitted, true);
                if let Some((_, port)) = outcome.datagram {
                    end.datagrams.push((port, payload.to_vec()));
                }
                if outcome.accepted {
                    let immediate = outcome.immediate;
                    end.t.frame_received(now, PEER, path, index, counter, true, immediate);
                }
            }
        }
    }

    /// Advances to the next thing that happens; `false` if nothing ever will.
    pub(super) fn step(&mut self) -> bool {
        self.flush();
        let timers = self.ends.iter().filter_map(|end| end.t.poll_timeout()).map(|t| t.at);
        let arrival = self.net.keys().next().map(|key| key.0);
        let Some(next) = timers.chain(arrival).min() else { return false };
        assert!(next > self.now || self.net.keys().next().is_some_and(|k| k.0 <= self.now));
        self.now = self.now.max(next);
        let mut heard = [false; 2];
        while let Some(entry) = self.net.first_entry()
            && entry.key().0 <= self.now
        {
            let (to, frame) = entry.remove();
            self.deliver(to, &frame);
            heard[to] = true;
        }
        for (at, end) in self.ends.iter_mut().enumerate() {
            if heard[at] {
                end.t.batch_end(self.now, PEER);
            }
            end.t.handle_timeout(self.now);
            while let Some(event) = end.t.poll_event() {
                end.events.push(event);
            }
        }
        true
    }

    /// Steps until `done`, or panics after `limit`.
    pub(super) fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut World) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(self.step(), "nothing more happens\n{}", self.describe());
            assert!(self.now < end, "too slow\n{}", self.describe());
        }
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            self.flush();
            let timers = self.ends.iter().filter_map(|end| end.t.poll_timeout()).map(|t| t.at);
            let next = timers.chain(self.net.keys().next().map(|key| key.0)).min();
            if next.is_none_or(|next| next > end) {
                self.now = end;
                return;
            }
            self.step();
        }
    }

    pub(super) fn describe(&self) -> std::string::String {
        let mut text = std::format!("at {:?}\n", self.now);
        for end in &self.ends {
            text += &std::format!("{:?} {:?}\n", end.t.poll_timeout(), end.t.path_info(PEER, MAIN));
            for (_, info) in end.t.streams() {
                text += &std::format!("  {info:?}\n");
            }
        }
        text
    }

    /// Opens a stream from end 0 to `port` of end 1, which must listen.
    pub(super) fn open(&mut self, port: Port) -> (StreamId, StreamId) {
        self.open_from(0, port)
    }

    /// The same from either end.
    pub(super) fn open_from(&mut self, from: usize, port: Port) -> (StreamId, StreamId) {
        let now = self.now;
        let a = self.ends[from].t.connect(now, PEER, port, NETWORK).unwrap();
        let mut b = None;
        self.run(Duration::from_secs(120), |world| {
            b = world.ends[1 - from].t.accept(port);
            b.is_some()
        });
        (a, b.unwrap())
    }

    pub(super) fn listening(seed: u8, link: Link) -> World {
        let mut world = World::new(seed, link);
        world.ends[1].t.listen(PORT).unwrap();
        world
    }
}

pub(super) fn pattern(stream: u64, at: u64) -> u8 {
    (at ^ at >> 8 ^ at >> 16).wrapping_mul(31).wrapping_add(stream * 7) as u8
}

/// Writes a position-derived pattern and then finishes.
pub(super) struct Source {
    pub(super) end: usize,
    pub(super) id: StreamId,
    pub(super) seed: u64,
    pub(super) total: u64,
    pub(super) at: u64,
    pub(super) finished: bool,
}

impl Source {
    pub(super) fn new(end: usize, id: StreamId, seed: u64, total: u64) -> Self {
        Source { end, id, seed, total, at: 0, finished: false }
    }

    pub(super) fn pump(&mut self, world: &mut World) {
        let now = world.now;
        let t = &mut world.ends[self.end].t;
        while self.at < self.total {
            let n = (self.total - self.at).min(16_384);
            let bytes: Vec<u8> = (self.at..self.at + n).map(|at| pattern(self.seed, at)).collect();
            match t.write(now, self.id, &bytes) {
                Ok(n) => self.at += n as u64,
                Err(WriteError::WouldBlock) => return,
                Err(error) => panic!("write: {error:?}"),
            }
        }
        if !self.finished {
            self.finished = true;
            t.finish(now, self.id).unwrap();
        }
    }
}

/// Reads and checks the pattern.
pub(super) struct Sink {
    pub(super) end: usize,
    pub(super) id: StreamId,
    pub(super) seed: u64,
    pub(super) at: u64,
    pub(super) finished: bool,
}

impl Sink {
    pub(super) fn new(end: usize, id: StreamId, seed: u64) -> Self {
        Sink { end, id, seed, at: 0, finished: false }
    }

    pub(super) fn pump(&mut self, world: &mut World) {
        let now = world.now;
        let t = &mut world.ends[self.end].t;
        let mut buffer = [0; 16_384];
        while !self.finished {
            match t.read(now, self.id, &mut buffer) {
                Ok(0) => self.finished = true,
                Ok(n) => {
                    for byte in &buffer[..n] {
                        assert_eq!(*byte, pattern(self.seed, self.at), "byte {}", self.at);
                        self.at += 1;
                    }
                }
                Err(ReadError::WouldBlock) => return,
                Err(error) => panic!("read: {error:?}"),
            }
        }
    }
}
