//! INITs that authenticate, from a trusted peer that says anything: the fuzzer writes P1, the
//! harness puts it into a correct Noise envelope with a correct mac1. And INITs with a correct
//! mac1 whose ciphertext is broken.
//!
//! Oracle, beside that of [`crate::lab`]: an INIT is answered by at most one RESP, COOKIE or
//! STALE, never longer than it; early data reaches no application before the first frame of
//! its session.

use crate::actor::{Actor, Heard};
use crate::lab::{Lab, elsewhere};
use crate::stage::Stage;
use crate::tape::Tape;
use pilot_core::addr::{Address, Port};
use pilot_core::crypto::record::ShortRecord;
use pilot_core::machine::Machine;
use pilot_core::node::Command;
use pilot_core::session::handshake::{TYPE_COOKIE, TYPE_RESP, TYPE_STALE, write_mac2};
use pilot_core::session::payload::{Caps, InitPayload};
use pilot_core::time::Duration;
use pilot_core::wire::header::{Flags, Header, Protocol};
use std::net::SocketAddr;

const STEPS: usize = 24;
const PORT: Port = Port(1000);

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    let mut lab = Lab::new(0);
    lab.drain();
    lab.node.command(lab.now, Command::Listen { port: PORT }).expect("accepted");
    let [us, _] = &Stage::get().agents;
    let mut actor = Actor::agent(1, us.address, us.record.fields.tunnel);
    let mut confirmed = false;
    let mut last: Option<Vec<u8>> = None;
    let mut cookie = None;
    for _ in 0..STEPS {
        if tape.is_empty() {
            break;
        }
        let from = elsewhere(tape.byte());
        match tape.below(8) {
            0 => {
                let init = actor.init_raw(tape.chunk());
                give(&mut lab, &mut actor, from, &init, &mut cookie);
                last = Some(init);
            }
            1 | 2 => {
                let p1 = p1(&mut actor, &mut tape);
                let mut init = actor.init(&p1);
                if tape.flag() {
                    write_mac2(&mut init, cookie.as_ref());
                }
                give(&mut lab, &mut actor, from, &init, &mut cookie);
                last = Some(init);
            }
            // Broken behind a correct mac1.
            3 => {
                let Some(mut init) = last.clone() else { continue };
                let at = 4 + usize::from(tape.word()) % (init.len() - 36);
                init[at] ^= tape.byte().max(1);
                actor.mac1(&mut init);
                give(&mut lab, &mut actor, from, &init, &mut cookie);
            }
            // The same again, perhaps from elsewhere.
            4 => {
                let Some(init) = last.clone() else { continue };
                give(&mut lab, &mut actor, from, &init, &mut cookie);
            }
            // So many that Diffie–Hellman runs short.
            5 => {
                for _ in 0..=tape.below(128) {
                    let mut init = last.clone().unwrap_or_else(|| actor.init_raw(&[0; 44]));
                    init[9] ^= tape.byte();
                    actor.mac1(&mut init);
                    give(&mut lab, &mut actor, from, &init, &mut cookie);
                }
            }
            6 => {
                let plaintext = tape.chunk();
                if let Some(frame) = actor.seal(lab.now, 0, plaintext) {
                    confirmed = true;
                    lab.deliver(from, &frame);
                }
            }
            _ => {
                lab.advance(Duration::from_millis(u64::from(tape.word()) * 4));
            }
        }
        lab.drain();
        let accepted = lab.node.accept(PORT);
        assert!(confirmed || accepted.is_none(), "early data was believed");
    }
    lab.advance(Duration::from_secs(20));
    lab.drain();
}

/// Delivers an INIT and looks at what comes of it.
fn give(
    lab: &mut Lab,
    actor: &mut Actor,
    from: SocketAddr,
    init: &[u8],
    cookie: &mut Option<[u8; 16]>,
) {
    lab.drain();
    lab.sent.clear();
    lab.deliver(from, init);
    let due = lab.node.poll_timeout().is_some_and(|t| t.at <= lab.now);
    lab.drain();
    let mut answers = 0;
    for (to, packet) in core::mem::take(&mut lab.sent) {
        if [TYPE_RESP, TYPE_COOKIE, TYPE_STALE].contains(&packet[0]) {
            assert!(due && to == from, "answered to {to}");
            assert!(packet.len() <= init.len(), "{} for {}", packet.len(), init.len());
            answers += 1;
        }
        match actor.hear(lab.now, &packet) {
            Heard::Cookie(held) => *cookie = Some(held),
            // Whoever reads the RESP can prove its address, and does so with its first frame.
            Heard::Session => drop(lab.known.insert(from)),
            _ => {}
        }
    }
    assert!(answers <= 1, "{answers} answers to one INIT");
}

/// An honest P1 with some fields of the fuzzer's.
fn p1(actor: &mut Actor, tape: &mut Tape<'_>) -> InitPayload {
    let honest = actor.p1();
    let mut p1 = honest.clone();
    for _ in 0..tape.below(4) {
        match tape.below(11) {
            0 => p1.caps = Caps(tape.byte()),
            1 => p1.rekey = tape.flag(),
            2 => p1.max_datagram = tape.word(),
            3 => p1.src = Address::from_bytes(tape.array()),
            4 => p1.dst = Address::from_bytes(tape.array()),
            5 => p1.hs_seq = tape.quad(),
            6 => p1.known_peer_serial = tape.quad(),
            7 => p1.generation = tape.long(),
            8 => p1.boot_id = tape.array(),
            9 => {
                let mut short: Option<ShortRecord> = p1.record.take();
                if let Some(short) = &mut short {
                    let at = usize::from(tape.byte()) % short.0.len();
                    short.0[at] ^= tape.byte();
                }
                p1.record = short.filter(|_| tape.flag());
            }
            _ => p1.early = Some(syn(actor, tape)),
        }
    }
    p1
}

fn syn(actor: &Actor, tape: &mut Tape<'_>) -> [u8; 34] {
    if tape.flag() {
        return tape.array();
    }
    let header = Header {
        flags: Flags::SYN,
        protocol: Protocol::Stream,
        length: 0,
        source: actor.address,
        destination: actor.other,
        source_port: Port(tape.word()),
        destination_port: PORT,
        sequence: tape.long(),
        acknowledgement: 0,
        window: tape.word(),
        checksum: 0,
    };
    header.to_bytes()
}
