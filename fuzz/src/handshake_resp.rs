//! Answers to a node's own INIT: RESP, COOKIE and STALE that authenticate and say anything, and
//! such whose ciphertext is broken behind a correct mac1.
//!
//! Oracle, beside that of [`crate::lab`]: the node sends data only under a session that a
//! genuine RESP with an offered suite made, and never under two indices of one RESP; an INIT is
//! never sent more often than `wire.md` 4.9 allows, whatever STALE or COOKIE say.

use crate::actor::{Actor, Heard};
use crate::lab::{self, Lab};
use crate::stage::{self, Stage};
use crate::tape::Tape;
use pilot_core::addr::Port;
use pilot_core::crypto::Suite;
use pilot_core::crypto::record::ShortRecord;
use pilot_core::node::Command;
use pilot_core::session::handshake::TYPE_COOKIE;
use pilot_core::session::payload::{Caps, RespPayload};
use pilot_core::time::Duration;
use std::net::SocketAddr;

const STEPS: usize = 24;

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    let (mut lab, mut actor) = lab::meet();
    let them = &Stage::get().agents[1];
    let connect = Command::Connect { to: them.address, port: Port(7) };
    lab.node.command(lab.now, connect).expect("it is trusted");
    let unix = stage::unix();
    lab.node.command(lab.now, Command::ClockChanged { unix }).expect("accepted");
    let mut inits = 0;
    let mut answers = 0;
    let mut last: Option<Vec<u8>> = None;
    for _ in 0..STEPS {
        inits += listen(&mut lab, &mut actor);
        if tape.is_empty() {
            break;
        }
        let suite = if tape.flag() { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
        let packet = match tape.below(8) {
            0 => actor.resp_raw(lab.now, suite, tape.chunk()),
            1 | 2 => actor.resp(lab.now, |p2| p2_of(p2, &mut tape)),
            3 => last.clone().map(|mut packet| {
                let at = 4 + usize::from(tape.word()) % (packet.len() - 36);
                packet[at] ^= tape.byte().max(1);
                actor.mac1(&mut packet);
                packet
            }),
            4 => actor.stale(if tape.flag() { tape.quad() } else { actor.hs_seq }),
            5 => actor.cookie(tape.array()),
            6 => {
                let back = usize::from(tape.below(3));
                actor.seal(lab.now, back, tape.chunk())
            }
            _ => {
                lab.advance(Duration::from_millis(u64::from(tape.word()) * 2));
                None
            }
        };
        let Some(packet) = packet else { continue };
        answers += 1;
        let from = source(&mut tape, them.socket);
        if packet[0] == TYPE_COOKIE {
            // The INIT goes again to where a COOKIE came from, 8 times at most (`wire.md` 13).
            lab.known.insert(from);
        }
        lab.deliver(from, &packet);
        if packet.len() >= 100 {
            last = Some(packet);
        }
    }
    inits += listen(&mut lab, &mut actor);
    // The schedule of 4.9 over at most STEPS waits, and one INIT at once for each answer.
    let seconds = lab.now.since(stage::start()).as_secs() as usize;
    assert!(inits <= 8 + 2 * answers + 4 * seconds, "{inits} INITs in {seconds} s");
}

/// Hears all that the node sends; how many INITs were among it.
fn listen(lab: &mut Lab, actor: &mut Actor) -> usize {
    lab.drain();
    let mut inits = 0;
    for (_, packet) in core::mem::take(&mut lab.sent) {
        // To the beacon go INITs that the actor cannot read, and keeps for nothing.
        let before = actor.received.clone();
        if actor.hear(lab.now, &packet) == Heard::Init {
            if actor.stale(0).is_some() {
                inits += 1;
            } else {
                actor.received = before;
            }
        }
    }
    inits
}

fn source(tape: &mut Tape<'_>, socket: SocketAddr) -> SocketAddr {
    if tape.below(4) == 3 { lab::elsewhere(tape.byte()) } else { socket }
}

fn p2_of(p2: &mut RespPayload, tape: &mut Tape<'_>) {
    for _ in 0..tape.below(4) {
        match tape.below(7) {
            0 => p2.suite = tape.byte(),
            1 => p2.caps = Caps(tape.byte()),
            2 => p2.max_datagram = tape.word(),
            3 => p2.observed = Some(SocketAddr::from((tape.array::<4>(), tape.word()))),
            4 => p2.boot_id = tape.array(),
            5 => {
                let mut short = Stage::get().agents[1].record.to_short();
                let at = usize::from(tape.byte()) % short.0.len();
                short.0[at] ^= tape.byte();
                p2.record = Some(ShortRecord(short.0));
            }
            _ => p2.early = Some(tape.array()),
        }
    }
}
