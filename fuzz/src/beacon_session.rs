//! Two registered agents in session with a real beacon, one of which says anything: messages of
//! `wire.md` 9 as bytes and as structures, control frames, relay frames with right and wrong
//! MACs, from its own address and from others.
//!
//! Oracle, beside that of [`crate::outpost`]: an answer decodes and repeats the id of a request;
//! what the relay forwards is the packet as sent, to the other end of that channel and nobody
//! else, and there is none unless a grant was shown; an address without proof gets at most
//! three times what came from it.

use crate::actor::{Actor, Heard};
use crate::lab::elsewhere;
use crate::outpost::Outpost;
use crate::stage::Stage;
use crate::tape::Tape;
use pilot_core::crypto::Rights;
use pilot_core::limits::RELAY_HEADER;
use pilot_core::path::ChannelId;
use pilot_core::session::handshake::write_mac2;
use pilot_core::time::Duration;
use pilot_core::wire::Bytes;
use pilot_core::wire::control::{
    self, Candidates, ChannelInfo, Endpoint, EndpointKind, FromBeacon, MESSAGE_MAX, ToBeacon,
};
use pilot_core::wire::frame::{Direction, RelayKey, unwrap, wrap};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

const STEPS: usize = 64;

struct Run {
    outpost: Outpost,
    actors: [Actor; 2],
    sockets: [SocketAddr; 2],
    /// What each end was told of channels, newest last.
    channels: [Vec<ChannelInfo>; 2],
    asked: [BTreeSet<u16>; 2],
    /// Where an agent is or was: what it has proven stays so if it speaks from elsewhere.
    known: BTreeSet<SocketAddr>,
    /// Bytes from and to all other addresses.
    strangers: BTreeMap<SocketAddr, (usize, usize)>,
    /// For which agent, to which address.
    challenges: Vec<(usize, SocketAddr, Vec<u8>)>,
    /// What may now be forwarded to node 0 or 1.
    relayed: [Vec<Vec<u8>>; 2],
    /// A grant was presented.
    bound: bool,
}

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    let stage = Stage::get();
    let mut run = Run {
        outpost: Outpost::new(),
        actors: [Actor::at_beacon(0), Actor::at_beacon(1)],
        sockets: [stage.agents[0].socket, stage.agents[1].socket],
        channels: Default::default(),
        asked: Default::default(),
        known: stage.agents.iter().map(|agent| agent.socket).collect(),
        strangers: BTreeMap::new(),
        challenges: Vec::new(),
        relayed: Default::default(),
        bound: false,
    };
    for n in 0..2 {
        run.enter(n);
    }
    assert_eq!(run.outpost.server.stats().agents, 2);
    for _ in 0..STEPS {
        if tape.is_empty() {
            break;
        }
        run.step(&mut tape);
        run.listen();
    }
    run.outpost.advance(Duration::from_secs(5));
    run.listen();
}

impl Run {
    /// INIT, cookie, INIT, RESP, Hello.
    fn enter(&mut self, n: usize) {
        let p1 = self.actors[n].p1();
        let mut init = self.actors[n].init(&p1);
        for _ in 0..2 {
            self.outpost.deliver(self.sockets[n], &init);
            self.outpost.drain();
            for (to, packet) in core::mem::take(&mut self.outpost.sent) {
                if to == self.sockets[n]
                    && let Heard::Cookie(cookie) = self.actors[n].hear(self.outpost.now, &packet)
                {
                    write_mac2(&mut init, Some(&cookie));
                }
            }
        }
        let agent = &Stage::get().agents[n];
        let (address, boot_id) = (agent.address, agent.boot_id);
        let candidates = Candidates::new();
        self.ask(n, 1, &ToBeacon::Hello { address, boot_id, candidates, nat: 0 });
        self.listen();
    }

    fn ask(&mut self, n: usize, id: u16, message: &ToBeacon) {
        let mut out = [0; MESSAGE_MAX];
        let len = control::encode(id, message, &mut out).expect("it fits");
        self.frame(n, self.sockets[n], &out[..len]);
    }

    fn frame(&mut self, n: usize, from: SocketAddr, plaintext: &[u8]) {
        if let Some(id) = control::message_id(plaintext) {
            self.asked[n].insert(id);
        }
        self.bound |= matches!(control::decode(plaintext), Ok((_, ToBeacon::Bind { .. })));
        let Some(frame) = self.actors[n].seal(self.outpost.now, 0, plaintext) else { return };
        self.deliver(from, &frame);
    }

    fn deliver(&mut self, from: SocketAddr, packet: &[u8]) {
        if !self.known.contains(&from) {
            self.strangers.entry(from).or_default().0 += packet.len();
        }
        self.outpost.deliver(from, packet);
    }

    fn step(&mut self, tape: &mut Tape<'_>) {
        let n = usize::from(tape.byte() & 1);
        match tape.below(12) {
            0 => {
                let plaintext = tape.chunk();
                self.frame(n, self.sockets[n], plaintext);
            }
            1..=4 => {
                let (id, message) = (tape.word(), self.message(n, tape));
                self.ask(n, id, &message);
            }
            5 | 6 => self.relay(n, tape),
            7 => {
                let kind = 0xF0 | tape.byte();
                let body = tape.array::<8>();
                let from = if tape.flag() { self.sockets[n] } else { elsewhere(tape.byte()) };
                self.frame(n, from, &[&[kind], &body[..]].concat());
            }
            8 => {
                if let Some((asked, at, body)) = self.challenges.pop() {
                    let answer = [&[control::PATH_RESPONSE][..], &body].concat();
                    // Proven, unless it was the other one who was asked.
                    if asked == n {
                        self.strangers.remove(&at);
                        self.known.insert(at);
                        self.sockets[n] = at;
                    }
                    self.frame(n, at, &answer);
                }
            }
            9 => {
                self.actors[n].generation += 1;
                self.enter(n);
            }
            10 => self.deliver(elsewhere(9), tape.chunk()),
            _ => self.outpost.advance(Duration::from_millis(u64::from(tape.word()) * 8)),
        }
    }

    fn message(&mut self, n: usize, tape: &mut Tape<'_>) -> ToBeacon {
        let channel = |tape: &mut Tape<'_>| {
            let known = self.channels[n].last().map(|info| info.channel);
            if tape.flag() { known } else { None }.unwrap_or(ChannelId(tape.long()))
        };
        match tape.below(8) {
            0 => ToBeacon::Hello {
                address: Stage::get().agents[usize::from(tape.below(4) == 3)].address,
                boot_id: Stage::get().agents[n].boot_id ^ u64::from(tape.below(2)),
                candidates: candidates(tape),
                nat: tape.byte(),
            },
            1 => ToBeacon::Keepalive {
                candidates: tape.flag().then(|| candidates(tape)),
                nat: tape.flag().then(|| tape.byte()),
            },
            // The other's grant to us, with a bit flipped, or ours to the other.
            2..=4 => {
                let (style, nonce) = (tape.byte(), tape.byte());
                let from = if style & 1 == 0 { 1 - n } else { n };
                let grant = Stage::get().grant(from, Rights::from_bits(tape.word()), nonce);
                let mut grant = grant.encode();
                if style & 2 != 0 {
                    let at = usize::from(tape.byte()) % grant.len();
                    grant[at] ^= 1 << tape.below(8);
                }
                ToBeacon::Bind { grant: Bytes(grant) }
            }
            5 => ToBeacon::BoundAck { channel: channel(tape) },
            _ => ToBeacon::Release { channel: channel(tape) },
        }
    }

    /// A relay frame on a channel that end `n` was told of, or under a forged MAC.
    fn relay(&mut self, n: usize, tape: &mut Tape<'_>) {
        let (style, packet) = (tape.byte(), tape.chunk());
        let mut frame = [&[0; RELAY_HEADER][..], packet].concat();
        let Some(info) = self.channels[n].last().filter(|_| !packet.is_empty()) else { return };
        wrap(&RelayKey(info.key.0), Direction::ToBeacon, info.channel, &mut frame);
        if style & 1 != 0 {
            let at = usize::from(tape.byte()) % RELAY_HEADER.min(frame.len());
            frame[at] ^= 1 << tape.below(8);
        } else if self.relayed[1 - n].len() < 256 {
            self.relayed[1 - n].push(packet.to_vec());
        }
        let from = if style & 2 == 0 { self.sockets[n] } else { elsewhere(7) };
        self.outpost.deliver(from, &frame);
    }

    fn listen(&mut self) {
        self.outpost.drain();
        for (to, packet) in core::mem::take(&mut self.outpost.sent) {
            if let Some(at) = self.strangers.get_mut(&to) {
                at.1 += packet.len();
                assert!(at.1 <= 3 * at.0, "{} bytes to {to}, from where {} came", at.1, at.0);
            }
            if packet[0] == 0x30 {
                self.forwarded(to, &packet);
                continue;
            }
            for n in 0..2 {
                if let Heard::Frame(plain) = self.actors[n].hear(self.outpost.now, &packet) {
                    self.told(n, to, &plain);
                }
            }
        }
    }

    fn told(&mut self, n: usize, to: SocketAddr, plain: &[u8]) {
        match plain.first() {
            Some(&control::PATH_CHALLENGE) => self.challenges.push((n, to, plain[1..].to_vec())),
            Some(&control::BEACON) => {
                let decoded = control::decode::<FromBeacon>(plain);
                let (id, message) = decoded.expect("the beacon's messages decode");
                match message {
                    FromBeacon::Channel(info) => {
                        assert!(self.asked[n].contains(&id));
                        self.channel(n, info);
                    }
                    FromBeacon::Bound(info) => self.channel(n, info),
                    FromBeacon::Waiting | FromBeacon::Unbound { .. } | FromBeacon::Fenced => {}
                    _ => assert!(self.asked[n].contains(&id), "an answer to nothing"),
                }
            }
            Some(&(control::PONG | control::PATH_RESPONSE)) => {}
            other => panic!("the beacon sent {other:?}"),
        }
    }

    fn channel(&mut self, n: usize, info: ChannelInfo) {
        assert!(self.bound, "a channel that nobody asked for");
        assert_eq!(info.peer, Stage::get().agents[1 - n].address);
        assert!(info.channel.0 < 1 << 24);
        self.channels[n].push(info);
    }

    fn forwarded(&mut self, to: SocketAddr, packet: &[u8]) {
        let receiver = (0..2).find(|n| {
            self.channels[*n].iter().any(|info| {
                let key = RelayKey(info.key.0);
                let mut copy = packet.to_vec();
                unwrap(&key, Direction::FromBeacon, &mut copy)
                    .is_ok_and(|inner| self.relayed[*n].iter().any(|p| p == inner))
            })
        });
        assert!(receiver.is_some(), "the relay made something up, for {to}");
        assert!(!self.strangers.contains_key(&to), "relayed to an address without proof");
    }
}

fn candidates(tape: &mut Tape<'_>) -> Candidates {
    let mut candidates = Candidates::new();
    for _ in 0..tape.below(9) {
        let address = SocketAddr::from((tape.array::<4>(), tape.word()));
        let kind = if tape.flag() { EndpointKind::Host } else { EndpointKind::Mapped };
        candidates.push(Endpoint { kind, address }).expect("eight fit");
    }
    candidates
}
