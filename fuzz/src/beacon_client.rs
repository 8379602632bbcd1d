//! A real node whose beacon says anything inside the session: answers and unsolicited messages
//! as bytes and as structures, channels with true and false peers, and what comes by them:
//! handshakes and frames of the peer, of the wrong channel, and noise.
//!
//! Oracle: that of [`crate::lab`], the bound on amplification included: an address that the
//! beacon alone named gets no more than the probes of one attempt (`wire.md` 7, punch
//! reflection).

use crate::actor::{Actor, Heard};
use crate::lab::{Lab, elsewhere};
use crate::outpost::Outpost;
use crate::stage::{self, Stage};
use crate::tape::Tape;
use pilot_core::addr::Port;
use pilot_core::limits::RELAY_HEADER;
use pilot_core::node::Command;
use pilot_core::path::ChannelId;
use pilot_core::time::Duration;
use pilot_core::wire::Bytes;
use pilot_core::wire::control::{self, BeaconError, ChannelInfo, FromBeacon, MESSAGE_MAX};
use pilot_core::wire::frame::{Direction, RelayKey, unwrap, wrap};
use std::net::SocketAddr;

const STEPS: usize = 64;

struct Run {
    lab: Lab,
    beacon: Actor,
    peer: Actor,
    channels: Vec<ChannelInfo>,
    /// Ids of the node's requests, newest last.
    ids: Vec<u16>,
}

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    let us = &Stage::get().agents[0];
    let mut run = Run {
        lab: Lab::new(0),
        beacon: Actor::beacon(0),
        peer: Actor::agent(1, us.address, us.record.fields.tunnel),
        channels: Vec::new(),
        ids: Vec::new(),
    };
    run.register();
    assert!(run.beacon.received.is_some(), "a registered node calls its beacon");
    let resp = run.beacon.resp(run.lab.now, |_| {}).expect("its INIT is genuine");
    run.lab.deliver(stage::beacon_socket(), &resp);
    let to = Stage::get().agents[1].address;
    run.lab.node.command(run.lab.now, Command::Connect { to, port: Port(7) }).expect("trusted");
    run.listen();
    assert!(!run.ids.is_empty(), "a session begins with Hello");
    for _ in 0..STEPS {
        if tape.is_empty() {
            break;
        }
        run.step(&mut tape);
        run.listen();
    }
    run.lab.advance(Duration::from_secs(3));
    run.listen();
}

impl Run {
    /// The registry is honest; it is not heard of again.
    fn register(&mut self) {
        let mut registry = Outpost::new();
        self.lab.drain();
        let conn = registry.connect(Stage::get().agents[0].socket);
        for _ in 0..8 {
            registry.bytes(conn, &core::mem::take(&mut self.lab.to_registry));
            registry.drain();
            registry.finish_commit(true);
            registry.drain();
            let written = registry.written.remove(&conn).unwrap_or_default();
            self.lab.node.handle_bytes(self.lab.now, &written);
            self.listen();
        }
    }

    fn step(&mut self, tape: &mut Tape<'_>) {
        match tape.below(10) {
            0 => self.say(tape.chunk()),
            1..=4 => {
                let id = match tape.below(4) {
                    0 => tape.word(),
                    back => {
                        let back = usize::from(back) - 1;
                        self.ids.iter().rev().nth(back).copied().unwrap_or_default()
                    }
                };
                let message = self.message(tape);
                let mut out = [0; MESSAGE_MAX];
                let len = control::encode(id, &message, &mut out).expect("it fits");
                self.say(&out[..len]);
            }
            5 => {
                let kind = 0xF0 | tape.byte();
                self.say(&[&[kind][..], &tape.array::<8>()].concat());
            }
            // The peer's handshake or frame, by its channel or another.
            6 => {
                let p1 = self.peer.p1();
                let init = self.peer.init(&p1);
                self.relay(tape, &init);
            }
            7 => {
                let back = usize::from(tape.below(2));
                if let Some(frame) = self.peer.seal(self.lab.now, back, tape.chunk()) {
                    self.relay(tape, &frame);
                }
            }
            8 => {
                let packet = tape.chunk();
                self.relay(tape, packet);
            }
            _ => self.lab.advance(Duration::from_millis(u64::from(tape.word()) * 4)),
        }
    }

    fn say(&mut self, plaintext: &[u8]) {
        if let Ok((_, FromBeacon::Channel(info) | FromBeacon::Bound(info))) =
            control::decode(plaintext)
        {
            // Where a peer is, the beacon may say; no bound on three times nothing.
            self.lab.known.insert(info.observed);
            self.channels.push(info);
        }
        if let Some(frame) = self.beacon.seal(self.lab.now, 0, plaintext) {
            self.lab.deliver(stage::beacon_socket(), &frame);
        }
    }

    fn message(&mut self, tape: &mut Tape<'_>) -> FromBeacon {
        let observed = SocketAddr::from((tape.array::<4>(), tape.word()));
        match tape.below(10) {
            0 => FromBeacon::HelloAck {
                observed,
                alternates: Default::default(),
                waiting: tape.flag(),
            },
            1 => FromBeacon::KeepaliveAck { observed, waiting: tape.flag() },
            2 => FromBeacon::Waiting,
            3..=6 => {
                let n = usize::from(tape.below(4) != 3);
                let agent = &Stage::get().agents[n];
                let mut identity = agent.identity().public().0;
                identity[0] ^= u8::from(tape.below(8) == 7);
                let observed = if tape.flag() { observed } else { elsewhere(tape.byte()) };
                let info = ChannelInfo {
                    channel: ChannelId(u32::from(tape.below(4)) + 5),
                    peer: agent.address,
                    identity: Bytes(identity),
                    observed,
                    key: Bytes([tape.below(2); 16]),
                };
                if tape.flag() { FromBeacon::Channel(info) } else { FromBeacon::Bound(info) }
            }
            7 => FromBeacon::Unbound { channel: ChannelId(u32::from(tape.below(4)) + 5) },
            8 if tape.below(8) == 7 => FromBeacon::Fenced,
            _ => {
                let errors = [
                    BeaconError::NotPermitted,
                    BeaconError::Offline,
                    BeaconError::Quota,
                    BeaconError::NotRegistered,
                    BeaconError::Malformed,
                ];
                let error = errors[usize::from(tape.below(5))];
                FromBeacon::Error { error, retry_ms: tape.long() }
            }
        }
    }

    fn relay(&mut self, tape: &mut Tape<'_>, packet: &[u8]) {
        let back = usize::from(tape.below(3));
        let Some(info) = self.channels.iter().rev().nth(back) else { return };
        let mut frame = [&[0; RELAY_HEADER][..], packet].concat();
        if packet.is_empty() {
            return;
        }
        wrap(&RelayKey(info.key.0), Direction::FromBeacon, info.channel, &mut frame);
        if tape.below(8) == 7 {
            frame[usize::from(tape.byte()) % RELAY_HEADER] ^= 1;
        }
        self.lab.deliver(stage::beacon_socket(), &frame);
    }

    fn listen(&mut self) {
        self.lab.drain();
        for (to, packet) in core::mem::take(&mut self.lab.sent) {
            if packet[0] == 0x30 {
                for info in &self.channels {
                    let mut copy = packet.clone();
                    let key = RelayKey(info.key.0);
                    if let Ok(inner) = unwrap(&key, Direction::ToBeacon, &mut copy) {
                        self.peer.hear(self.lab.now, inner);
                    }
                }
                continue;
            }
            if to != stage::beacon_socket() {
                self.peer.hear(self.lab.now, &packet);
                continue;
            }
            if let Heard::Frame(plain) = self.beacon.hear(self.lab.now, &packet)
                && let Some(id) = control::message_id(&plain)
            {
                self.ids.push(id);
            }
        }
        for (address, traffic) in &self.lab.traffic {
            // INITs at 0, 0.3, 0.9 and 2.1 s and every 5 s; a probe is 37 bytes.
            let seconds = self.lab.now.since(stage::start()).as_secs() as usize;
            let most = 3 * traffic.came + 8 * 366 + 400 * seconds;
            let told = self.channels.iter().filter(|i| i.observed == *address).count();
            assert!(
                *address == stage::beacon_socket() || traffic.went <= most + told * 1024,
                "{} bytes to {address} in {seconds} s",
                traffic.went
            );
        }
    }
}
