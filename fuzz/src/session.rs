//! Any frame inside an established session: the fuzzer chooses the plaintext, the harness seals
//! it. Data packets with sequence numbers near the true ones, acknowledgements of frames that
//! were and were not sent, control frames, replays, other addresses, a second handshake, and an
//! application on both a stream that it opened and those that it accepts.
//!
//! Oracle: that of [`crate::lab`]; and every byte that the application reads is the one that
//! belongs to its sequence number, so the bytes of a stream count up without a gap.

use crate::actor::{Actor, Heard};
use crate::lab::{self, Lab, elsewhere};
use crate::stage::{self, Stage};
use crate::tape::Tape;
use pilot_core::addr::{Address, NetworkId, Port};
use pilot_core::machine::Machine;
use pilot_core::node::{Command, Reply, StreamId};
use pilot_core::time::Duration;
use pilot_core::wire::control;
use pilot_core::wire::header::{Flags, Header, Protocol};
use std::collections::BTreeMap;
use std::net::SocketAddr;

const STEPS: usize = 64;
const LISTEN: Port = Port(1000);
const DATAGRAMS: Port = Port(2000);

struct Run {
    lab: Lab,
    actor: Actor,
    socket: SocketAddr,
    streams: Vec<StreamId>,
    /// Headers that the node has sent, newest last.
    seen: Vec<Header>,
    /// Frames that were delivered.
    frames: Vec<Vec<u8>>,
    /// Frames of the node's that elicit an answer: index is always the newest session's.
    counter: u64,
    challenges: Vec<Vec<u8>>,
    /// The last byte read of each stream.
    read: BTreeMap<u64, u8>,
}

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    let (lab, actor) = lab::meet();
    let them = &Stage::get().agents[1];
    let mut run = Run {
        lab,
        actor,
        socket: them.socket,
        streams: Vec::new(),
        seen: Vec::new(),
        frames: Vec::new(),
        counter: 0,
        challenges: Vec::new(),
        read: BTreeMap::new(),
    };
    for command in [Command::Listen { port: LISTEN }, Command::BindDatagrams { port: DATAGRAMS }] {
        run.lab.node.command(run.lab.now, command).expect("accepted");
    }
    for _ in 0..STEPS {
        if tape.is_empty() {
            break;
        }
        run.step(&mut tape);
    }
    run.listen();
    run.lab.advance(Duration::from_secs(2));
    run.listen();
}

impl Run {
    fn step(&mut self, tape: &mut Tape<'_>) {
        match tape.below(16) {
            0 => self.frame(self.socket, tape.chunk()),
            1..=4 => {
                let packet = self.packet(tape);
                self.frame(self.socket, &packet);
            }
            5 | 6 => {
                let fd = self.acknowledgement(tape);
                self.frame(self.socket, &fd);
            }
            7 => {
                let kind = 0xF0 | tape.byte();
                let body = tape.array::<8>();
                let n = if tape.below(4) == 0 { tape.below(9).into() } else { 8 };
                self.frame(self.socket, &[&[kind], &body[..n]].concat());
            }
            8 => {
                let again = usize::from(tape.byte()) % self.frames.len().max(1);
                if let Some(mut frame) = self.frames.get(again).cloned() {
                    if tape.flag() {
                        let at = usize::from(tape.word()) % frame.len();
                        frame[at] ^= tape.byte();
                    }
                    self.lab.deliver(self.socket, &frame);
                }
            }
            9 => {
                let from = elsewhere(tape.byte());
                let plaintext = tape.chunk();
                self.frame(from, plaintext);
            }
            10 => self.application(tape),
            11 => {
                self.listen();
                if let Some(body) = self.challenges.pop() {
                    let answer = [&[control::PATH_RESPONSE][..], &body].concat();
                    self.frame(self.socket, &answer);
                }
            }
            12 => match tape.below(3) {
                0 => lab::begin(&mut self.lab, &mut self.actor),
                1 => {
                    self.actor.generation = tape.byte().into();
                    self.actor.boot_id = [tape.below(3); 8];
                    lab::begin(&mut self.lab, &mut self.actor);
                }
                _ => {
                    let record = Stage::get().agents[1].record.encode();
                    let mut frame = [&[control::RECORD][..], &record].concat();
                    let at = usize::from(tape.byte()) % frame.len();
                    frame[at] ^= tape.byte();
                    self.frame(self.socket, &frame);
                }
            },
            13 => self.lab.node.handle_batch_end(self.lab.now),
            14 => self.listen(),
            _ => {
                let span = Duration::from_micros(u64::from(tape.word()) * 64);
                if tape.flag() { self.lab.leap(span) } else { self.lab.advance(span) }
            }
        }
    }

    fn frame(&mut self, from: SocketAddr, plaintext: &[u8]) {
        if Header::decode(plaintext).is_ok_and(|(header, payload)| !is_pattern(&header, payload)) {
            return;
        }
        let Some(frame) = self.actor.seal(self.lab.now, 0, plaintext) else { return };
        self.lab.deliver(from, &frame);
        if self.frames.len() < 64 {
            self.frames.push(frame);
        }
    }

    /// Reads what the node has sent.
    fn listen(&mut self) {
        self.lab.drain();
        for (_, packet) in core::mem::take(&mut self.lab.sent) {
            let newest = packet.first_chunk() == Some(&self.actor.local_index().to_be_bytes());
            let Heard::Frame(plain) = self.actor.hear(self.lab.now, &packet) else { continue };
            if newest {
                let counter = packet[4..].first_chunk().expect("a frame has 28 bytes");
                self.counter = u64::from_be_bytes(*counter);
            }
            match plain.first() {
                Some(0x10..=0x1F) => {
                    let (header, _) = Header::decode(&plain).expect("the node writes headers");
                    assert_eq!(header.source.node, self.actor.other.node);
                    assert_eq!(header.destination.node, self.actor.address.node);
                    self.seen.push(header);
                }
                Some(&control::PATH_CHALLENGE) => self.challenges.push(plain[1..].to_vec()),
                _ => {}
            }
        }
    }

    /// A data packet: of a new stream, or answering something that the node has sent, the
    /// numbers off by a little.
    fn packet(&mut self, tape: &mut Tape<'_>) -> Vec<u8> {
        let style = tape.byte();
        let mut header = Header {
            flags: Flags::from_bits(tape.byte()),
            protocol: if style & 1 == 0 { Protocol::Stream } else { Protocol::Datagram },
            length: 0,
            source: self.actor.address,
            destination: self.actor.other,
            source_port: Port(3000 + u16::from(tape.below(4))),
            destination_port: if style & 1 == 0 { LISTEN } else { DATAGRAMS },
            sequence: 1000,
            acknowledgement: 0,
            window: u16::from(tape.byte()),
            checksum: 0,
        };
        let back = usize::from(tape.below(8));
        if style & 2 == 0
            && let Some(seen) = self.seen.iter().rev().nth(back)
        {
            header.source_port = seen.destination_port;
            header.destination_port = seen.source_port;
            header.sequence = seen.acknowledgement;
            header.acknowledgement = seen.sequence.wrapping_add(seen.length.into());
            let one = seen.flags.has(Flags::SYN) || seen.flags.has(Flags::FIN);
            header.acknowledgement = header.acknowledgement.wrapping_add(one.into());
        }
        let near = |n: u8| i32::from(n as i8) as u32;
        header.sequence = header.sequence.wrapping_add(near(tape.byte()));
        if style & 4 != 0 {
            header.acknowledgement = header.acknowledgement.wrapping_add(near(tape.byte()));
        }
        match style >> 3 & 7 {
            1 => header.destination_port = Port(tape.word()),
            2 => header.source = Address::new(NetworkId(tape.word()), header.source.node),
            3 => header.sequence = tape.long(),
            4 => header.acknowledgement = tape.long(),
            5 => header.window = u16::MAX,
            _ => {}
        }
        let bare = style & 0x80 == 0 || header.flags.has(Flags::SYN);
        header.length = if bare { 0 } else { tape.word() % 1200 };
        let payload = (0..u32::from(header.length)).map(|i| header.sequence.wrapping_add(i) as u8);
        header.to_bytes().into_iter().chain(payload).collect()
    }

    /// An FD about the node's frames, true or not.
    fn acknowledgement(&mut self, tape: &mut Tape<'_>) -> Vec<u8> {
        let near = i64::from(tape.byte() as i8);
        let largest = if tape.below(8) == 7 {
            tape.quad()
        } else {
            self.counter.wrapping_add_signed(near.min(0))
        };
        let index = if tape.below(8) == 7 { tape.long() } else { self.actor.local_index() };
        let mut fd = vec![control::ACKNOWLEDGE];
        fd.extend(index.to_be_bytes());
        fd.extend(largest.to_be_bytes());
        fd.extend(tape.word().to_be_bytes());
        let n = tape.below(4);
        fd.push(n);
        fd.extend(u32::from(tape.byte()).to_be_bytes());
        for _ in 0..2 * n {
            fd.extend(u32::from(tape.below(16)).to_be_bytes());
        }
        let m = tape.below(3);
        fd.push(m);
        for _ in 0..m {
            let seen = self.seen.last();
            let ports = seen.map_or((Port(3000), LISTEN), |h| (h.destination_port, h.source_port));
            fd.extend(ports.0.0.to_be_bytes());
            fd.extend(ports.1.0.to_be_bytes());
            let base = seen.map_or(0, |h| h.sequence.wrapping_add(h.length.into()));
            fd.extend(base.wrapping_add(tape.byte() as i8 as u32).to_be_bytes());
            fd.extend(tape.word().to_be_bytes());
        }
        fd
    }

    fn application(&mut self, tape: &mut Tape<'_>) {
        let now = self.lab.now;
        let node = &mut self.lab.node;
        let pick = usize::from(tape.byte()) % self.streams.len().max(1);
        let picked = self.streams.get(pick).copied();
        match (tape.below(8), picked) {
            (0, _) => {
                let connect = Command::Connect { to: self.actor.address, port: Port(5000) };
                if let Ok(Reply::Stream(id)) = node.command(now, connect) {
                    self.streams.push(id);
                }
            }
            (1, _) => self.streams.extend(node.accept(LISTEN)),
            (2, Some(id)) => {
                let bytes = vec![7; usize::from(tape.word())];
                if let Some(mut stream) = node.stream(id) {
                    let _ = stream.write(now, &bytes);
                }
            }
            (3, Some(id)) => {
                let mut buf = vec![0; 1 + usize::from(tape.word())];
                if let Some(mut stream) = node.stream(id)
                    && let Ok(n) = stream.read(now, &mut buf)
                {
                    assert!(n <= buf.len());
                    for byte in &buf[..n] {
                        let before = self.read.insert(id.to_bits(), *byte);
                        assert!(before.is_none_or(|b| b.wrapping_add(1) == *byte), "out of order");
                    }
                }
            }
            (4, Some(id)) => {
                if let Some(mut stream) = node.stream(id) {
                    let _ = stream.finish(now);
                }
            }
            (5, Some(id)) => {
                if let Some(mut stream) = node.stream(id) {
                    stream.reset(now);
                }
            }
            (6, Some(id)) => {
                node.release(now, id);
                self.streams.remove(pick);
            }
            _ => match tape.below(3) {
                0 => {
                    let unix = stage::unix();
                    let _ = node.command(now, Command::ClockChanged { unix });
                }
                1 => {
                    let address = self.actor.address;
                    let to = pilot_core::addr::SocketAddress { address, port: Port(9) };
                    let payload = &[1; 64][..];
                    let _ =
                        node.command(now, Command::SendDatagram { to, from: DATAGRAMS, payload });
                }
                _ => {}
            },
        }
    }
}

/// Whether each byte of a segment is the one that belongs to its sequence number.
fn is_pattern(header: &Header, payload: &[u8]) -> bool {
    let bare = payload.is_empty() || header.protocol != Protocol::Stream;
    let belongs = |(i, byte): (usize, &u8)| header.sequence.wrapping_add(i as u32) as u8 == *byte;
    bare || (!header.flags.has(Flags::SYN) && payload.iter().enumerate().all(belongs))
}
