//! Any datagram from anywhere at a node with a session and an INIT of its own under way.
//!
//! Oracle, beside that of [`crate::lab`]: what no key has made is dropped, each with a reason,
//! and nothing at all is sent to where it came from (to a changed copy of a genuine packet no
//! more than its own length); such copies end no session.

use crate::actor::Heard;
use crate::lab::{self, Traffic, elsewhere};
use crate::stage::{self, Stage};
use crate::tape::Tape;
use pilot_core::limits::RELAY_HEADER;
use pilot_core::machine::Machine;
use pilot_core::node::Command;
use pilot_core::time::Duration;

const STEPS: usize = 48;
/// From where changed copies come.
const COPIES: u8 = 200;

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    let (mut lab, mut actor) = lab::meet();
    let socket = Stage::get().agents[1].socket;
    // Then no session sends before it is made anew.
    let calling = tape.flag();
    if calling {
        let unix = stage::unix();
        lab.node.command(lab.now, Command::ClockChanged { unix }).expect("accepted");
    }
    // Genuine packets, to be changed.
    let mut genuine = vec![actor.seal(lab.now, 0, &[0xF0, 1, 2, 3, 4, 5, 6, 7, 8]).expect("up")];
    let p1 = actor.p1();
    genuine.push(actor.init(&p1));
    lab.drain();
    for packet in lab.take_sent(socket) {
        actor.hear(lab.now, &packet);
        genuine.push(packet);
    }
    for _ in 0..STEPS {
        if tape.is_empty() {
            break;
        }
        match tape.below(6) {
            0 => {
                let from = tape.below(COPIES);
                lab.deliver(elsewhere(from), tape.chunk());
            }
            // As if from the peer or the beacon: neither address proves anything.
            1 => {
                let from = if tape.flag() { socket } else { stage::beacon_socket() };
                lab.deliver(from, tape.chunk());
            }
            // A genuine packet with some bytes changed.
            2 => {
                let n = usize::from(tape.byte()) % genuine.len();
                let mut packet = genuine[n].clone();
                for _ in 0..1 + tape.below(4) {
                    let at = usize::from(tape.word()) % packet.len();
                    packet[at] ^= tape.byte().max(1);
                }
                if tape.flag() {
                    packet.truncate(usize::from(tape.word()) % (packet.len() + 1));
                }
                if packet == genuine[n] {
                    continue;
                }
                lab.deliver(elsewhere(COPIES), &packet);
            }
            // In a relay frame.
            3 => {
                let inner = tape.chunk();
                let mut frame = vec![0x30; RELAY_HEADER];
                frame[1..].copy_from_slice(&tape.array::<{ RELAY_HEADER - 1 }>());
                frame.extend(inner);
                let from = if tape.flag() { stage::beacon_socket() } else { elsewhere(201) };
                lab.deliver(from, &frame);
            }
            4 => lab.node.handle_batch_end(lab.now),
            _ => lab.advance(Duration::from_millis(tape.word().into())),
        }
    }
    lab.drain();
    for (address, Traffic { came, went }) in &lab.traffic {
        // A copy whose mac2 alone was changed is as good as the INIT it was made of.
        let most = if *address == elsewhere(COPIES) { *came } else { 0 };
        assert!(lab.known.contains(address) || *went <= most, "{address} was answered: {went}");
    }
    // The session is as alive as before, unless its time is over.
    if !calling && lab.now.since(stage::start()) < Duration::from_secs(100) {
        lab.sent.clear();
        let ping = actor.seal(lab.now, 0, &[0xF0, 9, 9, 9, 9, 9, 9, 9, 9]).expect("up");
        lab.deliver(socket, &ping);
        lab.advance(Duration::from_millis(1));
        let pong = Heard::Frame(vec![0xF1, 9, 9, 9, 9, 9, 9, 9, 9]);
        let sent = lab.take_sent(socket);
        assert!(sent.iter().any(|packet| actor.hear(lab.now, packet) == pong), "no pong");
    }
}
