//! Two real nodes, and an attacker who owns the network between them: the tape decides what is
//! delivered, dropped, duplicated, reordered, changed or injected, when time passes and how
//! much, and what the two applications do. In the end the network heals.
//!
//! Oracle, beside that of [`crate::lab`]: what is read of a stream is the pattern of its
//! positions, in order and once, and the end is told only behind the last byte; after the
//! healing every stream that nobody gave up has delivered all that was written.

use crate::actor::Actor;
use crate::lab::Lab;
use crate::stage::{self, Stage};
use crate::tape::Tape;
use pilot_core::addr::Port;
use pilot_core::machine::Machine;
use pilot_core::node::{Command, Reply, StreamEnd, StreamError, StreamId};
use pilot_core::time::Duration;
use std::net::SocketAddr;

const STEPS: usize = 160;
const PORT: Port = Port(1000);
const STREAMS: usize = 4;
/// Packets under way in one direction; more are lost.
const WIRE: usize = 128;

/// One direction of a stream, as the applications see it.
#[derive(Default)]
struct Direction {
    written: u64,
    finished: bool,
    read: u64,
    /// The reader was told the end.
    ended: bool,
}

/// A stream from node `from`; `ends[n]` is node `n`'s handle.
struct Pipe {
    from: usize,
    port: Port,
    ends: [Option<StreamId>; 2],
    /// `ways[n]`: what node `n` writes.
    ways: [Direction; 2],
    given_up: bool,
}

struct Run {
    labs: [Lab; 2],
    sockets: [SocketAddr; 2],
    /// `wires[n]`: packets on their way to node `n`.
    wires: [Vec<Vec<u8>>; 2],
    pipes: Vec<Pipe>,
}

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    let mut run = Run::new();
    for _ in 0..STEPS {
        if tape.is_empty() {
            break;
        }
        run.step(&mut tape);
    }
    run.heal();
}

/// The byte at a position.
fn pattern(pipe: usize, from: usize, at: u64) -> u8 {
    let n = at ^ (pipe as u64) << 40 ^ (from as u64) << 48;
    (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

impl Run {
    /// Two nodes that know where the other one is. Without a rendezvous, node 0 learns it from
    /// an INIT that carries node 1's keys and address.
    fn new() -> Self {
        let stage = Stage::get();
        let mut labs = [Lab::new(0), Lab::new(1)];
        let sockets = [stage.agents[0].socket, stage.agents[1].socket];
        for n in 0..2 {
            labs[n].drain();
            labs[n].known.insert(sockets[1 - n]);
        }
        let us = &stage.agents[0];
        let mut actor = Actor::agent(1, us.address, us.record.fields.tunnel);
        crate::lab::begin(&mut labs[0], &mut actor);
        let unix = stage::unix();
        labs[0].node.command(labs[0].now, Command::ClockChanged { unix }).expect("accepted");
        let wires = [Vec::new(), Vec::new()];
        let mut run = Run { labs, sockets, wires, pipes: Vec::new() };
        for lab in &mut run.labs {
            lab.node.command(lab.now, Command::Listen { port: PORT }).expect("accepted");
        }
        run
    }

    fn step(&mut self, tape: &mut Tape<'_>) {
        let choice = tape.byte();
        let n = usize::from(choice >> 7);
        match choice % 16 {
            0 | 1 => self.deliver(n, 0, false),
            2 => {
                let at = tape.byte().into();
                self.deliver(n, at, false);
            }
            3 => {
                let at = tape.byte().into();
                self.deliver(n, at, true);
            }
            4 => {
                let at = usize::from(tape.byte());
                if !self.wires[n].is_empty() {
                    let at = at % self.wires[n].len();
                    self.wires[n].remove(at);
                }
            }
            5 => self.spoil(n, tape),
            6 => {
                for _ in 0..self.wires[n].len() {
                    self.deliver(n, 0, false);
                }
                let lab = &mut self.labs[n];
                lab.node.handle_batch_end(lab.now);
            }
            7 => self.wires[n].clear(),
            8 => self.connect(n),
            9 | 10 => {
                let (pipe, len) = (tape.byte(), tape.word());
                self.write(n, pipe.into(), len.into());
            }
            11 => {
                let (pipe, len) = (tape.byte(), tape.word());
                self.read(n, pipe.into(), 1 + usize::from(len));
            }
            12 => match tape.below(8) {
                0 => self.give_up(n, tape.byte().into()),
                1 => {
                    let unix = stage::unix();
                    let lab = &mut self.labs[n];
                    lab.node.command(lab.now, Command::ClockChanged { unix }).expect("accepted");
                }
                2 => self.labs[n].node.handle_batch_end(self.labs[n].now),
                _ => self.finish(n, tape.byte().into()),
            },
            13 => self.poll(n),
            // Time is one; who is told of it, and how late, is the tape's.
            14 => self.pass(Duration::from_micros(u64::from(tape.word()) * 4)),
            _ => self.pass(Duration::from_millis(u64::from(tape.byte()) * 20)),
        }
    }

    fn pass(&mut self, span: Duration) {
        for n in 0..2 {
            self.labs[n].leap(span);
        }
        self.poll(0);
        self.poll(1);
    }

    /// Puts what a node sends on the wire, and accepts streams.
    fn poll(&mut self, n: usize) {
        self.labs[n].drain();
        for packet in self.labs[n].take_sent(self.sockets[1 - n]) {
            if self.wires[1 - n].len() < WIRE {
                self.wires[1 - n].push(packet);
            }
        }
        while let Some(id) = self.labs[n].node.accept(PORT) {
            let stream = self.labs[n].node.stream(id).expect("it was accepted");
            let port = stream.addresses().0.port;
            let at = self.pipes.iter().position(|p| p.from != n && p.port == port);
            let at = at.expect("somebody opened it");
            assert!(self.pipes[at].ends[n].is_none(), "accepted twice");
            self.pipes[at].ends[n] = Some(id);
        }
    }

    fn deliver(&mut self, to: usize, at: usize, keep: bool) {
        if self.wires[to].is_empty() {
            return self.poll(1 - to);
        }
        let at = at % self.wires[to].len();
        let packet = if keep { self.wires[to][at].clone() } else { self.wires[to].remove(at) };
        self.labs[to].deliver(self.sockets[1 - to], &packet);
    }

    /// Something of the attacker's own, or a packet that it changed, as if from the other node.
    fn spoil(&mut self, to: usize, tape: &mut Tape<'_>) {
        let at = usize::from(tape.byte());
        let mut packet = match self.wires[to].len() {
            0 => tape.chunk().to_vec(),
            len => self.wires[to][at % len].clone(),
        };
        if packet.is_empty() {
            return;
        }
        let at = usize::from(tape.word()) % packet.len();
        packet[at] ^= tape.byte();
        self.labs[to].deliver(self.sockets[1 - to], &packet);
    }

    fn connect(&mut self, n: usize) {
        if self.pipes.len() == STREAMS {
            return;
        }
        let to = Stage::get().agents[1 - n].address;
        let lab = &mut self.labs[n];
        let Ok(reply) = lab.node.command(lab.now, Command::Connect { to, port: PORT }) else {
            return;
        };
        let Reply::Stream(id) = reply else { panic!("{reply:?}") };
        let port = lab.node.stream(id).expect("it was opened").addresses().1;
        let mut ends = [None; 2];
        ends[n] = Some(id);
        let ways = Default::default();
        self.pipes.push(Pipe { from: n, port, ends, ways, given_up: false });
    }

    fn pick(&mut self, n: usize, pipe: usize) -> Option<(usize, StreamId)> {
        let at = pipe % self.pipes.len().max(1);
        let id = self.pipes.get(at)?.ends[n]?;
        Some((at, id))
    }

    fn write(&mut self, n: usize, pipe: usize, len: usize) {
        let Some((at, id)) = self.pick(n, pipe) else { return };
        let lab = &mut self.labs[n];
        let way = &mut self.pipes[at].ways[n];
        let bytes: Vec<u8> =
            (way.written..).take(len).map(|position| pattern(at, n, position)).collect();
        let Some(mut stream) = lab.node.stream(id) else { return };
        match stream.write(lab.now, &bytes) {
            Ok(taken) => {
                assert!(taken <= len && !way.finished);
                way.written += taken as u64;
            }
            Err(StreamError::WouldBlock) => {}
            Err(StreamError::Finished) => assert!(way.finished),
            Err(StreamError::Ended(end)) => self.over(at, end),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn finish(&mut self, n: usize, pipe: usize) {
        let Some((at, id)) = self.pick(n, pipe) else { return };
        let lab = &mut self.labs[n];
        let Some(mut stream) = lab.node.stream(id) else { return };
        match stream.finish(lab.now) {
            Ok(()) => self.pipes[at].ways[n].finished = true,
            Err(StreamError::Ended(end)) => self.over(at, end),
            Err(other) => assert_eq!(other, StreamError::Finished),
        }
    }

    /// Whether there was something to read, or the end.
    fn read(&mut self, n: usize, pipe: usize, len: usize) -> bool {
        let Some((at, id)) = self.pick(n, pipe) else { return false };
        let lab = &mut self.labs[n];
        let mut buf = vec![0; len];
        let Some(mut stream) = lab.node.stream(id) else { return false };
        let result = stream.read(lab.now, &mut buf);
        let way = &mut self.pipes[at].ways[1 - n];
        match result {
            Ok(0) => {
                assert!(way.finished && way.read == way.written, "an end before the last byte");
                let first = !way.ended;
                way.ended = true;
                first
            }
            Ok(got) => {
                assert!(!way.ended && way.read + got as u64 <= way.written, "bytes nobody wrote");
                for byte in &buf[..got] {
                    assert_eq!(*byte, pattern(at, 1 - n, way.read), "position {}", way.read);
                    way.read += 1;
                }
                true
            }
            Err(StreamError::WouldBlock) => false,
            Err(StreamError::Ended(end)) => {
                self.over(at, end);
                false
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    fn give_up(&mut self, n: usize, pipe: usize) {
        let Some((at, id)) = self.pick(n, pipe) else { return };
        let lab = &mut self.labs[n];
        let Some(mut stream) = lab.node.stream(id) else { return };
        stream.reset(lab.now);
        self.pipes[at].given_up = true;
    }

    /// A stream ended otherwise than by being finished and acknowledged. The network may do
    /// that only by letting nothing through for long.
    fn over(&mut self, at: usize, end: StreamEnd) {
        let ids = self.pipes[at].ends;
        let ends = [0, 1].map(|n| {
            let stream = ids[n].and_then(|id| self.labs[n].node.stream(id));
            stream.and_then(|stream| stream.end())
        });
        let pipe = &mut self.pipes[at];
        let finished = pipe.ways.iter().all(|way| way.finished);
        let long = self.labs[0].now.since(stage::start()) >= Duration::from_secs(60);
        let allowed = match end {
            StreamEnd::Closed => finished,
            StreamEnd::Unreachable => long,
            // The accept queue holds three, and nobody may have been there to take them.
            StreamEnd::Busy => true,
            StreamEnd::Reset | StreamEnd::Aborted => pipe.given_up,
            // The other end does not know it: its SYN-ACK came with a handshake that then led
            // nowhere, so nobody has accepted it, or it ended there for a reason of its own.
            StreamEnd::Refused => {
                let own = [Some(StreamEnd::PeerRestarted), Some(StreamEnd::Unreachable)];
                let known = ids.iter().all(Option::is_some);
                pipe.given_up || !known || ends.iter().any(|end| own.contains(end))
            }
            // The INIT of `new` was node 1's keys under another boot id.
            StreamEnd::PeerRestarted => true,
            _ => pipe.given_up,
        };
        assert!(allowed, "stream {at} ended: {ends:?}");
        pipe.given_up |= !matches!(end, StreamEnd::Closed);
    }

    /// From now on everything arrives at once, in order, and the applications read.
    fn heal(&mut self) {
        self.wires = [Vec::new(), Vec::new()];
        for n in 0..2 {
            for at in 0..self.pipes.len() {
                self.finish(n, at);
            }
        }
        let end = self.labs[0].now + Duration::from_secs(400);
        for _ in 0..20_000 {
            self.poll(0);
            self.poll(1);
            let mut busy = false;
            for n in 0..2 {
                busy |= !self.wires[n].is_empty();
                while !self.wires[n].is_empty() {
                    self.deliver(n, 0, false);
                }
                let lab = &mut self.labs[n];
                lab.node.handle_batch_end(lab.now);
                for at in 0..self.pipes.len() {
                    while self.read(n, at, 65_536) {
                        busy = true;
                    }
                    if !self.pipes[at].ways[n].finished {
                        self.finish(n, at);
                    }
                }
            }
            if self.is_done() {
                return;
            }
            if !busy {
                let due = self.labs.iter().filter_map(|l| l.node.poll_timeout()).map(|t| t.at);
                let next = due.min().expect("there is always a timer").max(self.labs[0].now);
                if next > end {
                    break;
                }
                let span = next.since(self.labs[0].now);
                for lab in &mut self.labs {
                    lab.leap(span);
                }
            }
        }
        let ways = |p: &Pipe| p.ways.each_ref().map(|w| (w.written, w.finished, w.read, w.ended));
        let pipes: Vec<_> = self.pipes.iter().map(ways).collect();
        let nodes = self.labs.each_ref().map(|lab| {
            let drops: Vec<_> = lab.node.drops().iter().filter(|(_, n)| *n > 0).collect();
            format!("{:?} {drops:?}", lab.node.streams().collect::<Vec<_>>())
        });
        panic!("the network healed and nothing moves: {pipes:?}\n{}\n{}", nodes[0], nodes[1]);
    }

    fn is_done(&mut self) -> bool {
        (0..self.pipes.len()).all(|at| {
            for n in 0..2 {
                let Some(id) = self.pipes[at].ends[n] else { continue };
                let end = self.labs[n].node.stream(id).and_then(|stream| stream.end());
                if let Some(end) = end {
                    self.over(at, end);
                }
            }
            let pipe = &self.pipes[at];
            pipe.given_up || pipe.ways.iter().all(|way| way.ended)
        })
    }
}
