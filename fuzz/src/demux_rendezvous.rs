//! Any datagram from anywhere at a real rendezvous: STUN, handshakes with a correct mac1,
//! frames and relay frames of nobody.
//!
//! Oracle, beside that of [`crate::outpost`]: an answer goes to where the request came from
//! (a repeated RESP to where its INIT first did), one for one; a COOKIE or RESP is not longer than its INIT, a STUN answer not more than three
//! times its request with IP and UDP headers (`wire.md` 7); nobody becomes an agent without a
//! cookie; a source gets no more STUN answers than its rate.

use crate::actor::{Actor, Heard};
use crate::lab::elsewhere;
use crate::outpost::Outpost;
use crate::tape::Tape;
use pilot_core::session::handshake::{TYPE_COOKIE, TYPE_RESP, write_mac2};
use pilot_core::time::Duration;
use std::collections::BTreeMap;
use std::net::SocketAddr;

const STEPS: usize = 64;
/// IPv4 and UDP headers.
const HEADERS: usize = 28;

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    let mut outpost = Outpost::new();
    outpost.drain();
    let mut actor = Actor::at_beacon(0);
    let mut cookies: BTreeMap<SocketAddr, [u8; 16]> = BTreeMap::new();
    let mut last: Option<Vec<u8>> = None;
    let mut stun = BTreeMap::<_, u64>::new();
    for _ in 0..STEPS {
        if tape.is_empty() {
            break;
        }
        let from = elsewhere(tape.byte());
        let packet = match tape.below(8) {
            0 | 1 => tape.chunk().to_vec(),
            // STUN with a right header.
            2 => {
                let attributes = tape.chunk();
                let attributes = &attributes[..attributes.len() & !3];
                let mut packet = vec![0, if tape.below(8) == 7 { tape.byte() } else { 1 }];
                packet.extend((attributes.len() as u16).to_be_bytes());
                packet.extend([0x21, 0x12, 0xA4, 0x42]);
                packet.extend([tape.byte(); 12]);
                packet.extend(attributes);
                packet
            }
            3 => actor.init_raw(tape.chunk()),
            4 => {
                let p1 = actor.p1();
                let mut init = actor.init(&p1);
                if tape.flag() {
                    write_mac2(&mut init, cookies.get(&from));
                }
                init
            }
            5 => {
                let Some(mut packet) = last.clone() else { continue };
                let at = usize::from(tape.word()) % packet.len();
                packet[at] ^= tape.byte();
                if tape.flag() {
                    actor.mac1(&mut packet);
                }
                packet
            }
            6 => {
                let Some(packet) = last.clone() else { continue };
                for _ in 0..tape.below(32) {
                    give(&mut outpost, &mut actor, from, &packet, &mut cookies, &mut stun);
                }
                packet
            }
            _ => {
                outpost.advance(Duration::from_millis(u64::from(tape.word()) * 4));
                continue;
            }
        };
        give(&mut outpost, &mut actor, from, &packet, &mut cookies, &mut stun);
        last = Some(packet).filter(|packet| !packet.is_empty());
    }
    outpost.drain();
    let seconds = outpost.now.since(crate::stage::start()).as_secs() + 1;
    for (ip, answers) in stun {
        assert!(answers <= 10 + 10 * seconds, "{answers} STUN answers to {ip} in {seconds} s");
    }
    assert!(outpost.server.stats().agents <= 1, "one record, one agent");
}

fn give(
    outpost: &mut Outpost,
    actor: &mut Actor,
    from: SocketAddr,
    packet: &[u8],
    cookies: &mut BTreeMap<SocketAddr, [u8; 16]>,
    stun: &mut BTreeMap<std::net::IpAddr, u64>,
) {
    outpost.drain();
    outpost.sent.clear();
    let agents = outpost.server.stats().agents;
    let dropped = outpost.deliver(from, packet);
    outpost.drain();
    let sent = core::mem::take(&mut outpost.sent);
    assert!(sent.len() <= 1, "{} answers", sent.len());
    if outpost.server.stats().agents > agents {
        assert!(cookies.contains_key(&from), "admitted without a cookie");
    }
    let Some((to, answer)) = sent.into_iter().next() else { return };
    // The same INIT again has its RESP sent again, to where it first came from.
    assert!(to == from || answer[0] == TYPE_RESP);
    match answer[0] {
        // A cookie for a missing mac2 is a counted drop, too.
        TYPE_COOKIE => assert!(answer.len() <= packet.len()),
        TYPE_RESP => assert!(answer.len() <= packet.len() && !dropped),
        0..=3 => {
            assert!(answer.len() + HEADERS <= 3 * (packet.len() + HEADERS));
            *stun.entry(from.ip()).or_default() += 1;
        }
        other => panic!("a stranger was sent {other:#x}"),
    }
    if let Heard::Cookie(cookie) = actor.hear(outpost.now, &answer) {
        cookies.insert(from, cookie);
    }
}
