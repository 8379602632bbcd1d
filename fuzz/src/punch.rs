//! An episode of the ladder with a peer that says anything at any time: F9 and F6 of any bytes,
//! sockets that open or do not, STUN answers or none.
//!
//! Oracle: what decodes is written and read back the same; every episode ends by itself; a probe
//! goes to what the peer named, or, at no more than 100 a second, to the address that the beacon
//! sees; a response proves no path but its own.

use crate::tape::Tape;
use pilot_core::machine::SocketId;
use pilot_core::path::nat::Nat;
use pilot_core::path::punch::{Output, Punch, Setting};
use pilot_core::path::spray::PROBES;
use pilot_core::rng::Rng;
use pilot_core::time::{Duration, Instant};
use pilot_core::wire::control::{Candidates, Endpoint, EndpointKind};
use pilot_core::wire::punch::{OFFER_MAX, Offer, decode_primed};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Where the beacon sees the peer.
fn observed() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 7], 700))
}

struct World {
    now: Instant,
    punch: Punch,
    sockets: u16,
    named: BTreeSet<SocketAddr>,
    sprayed: u32,
    outputs: u32,
}

fn setting(tape: &mut Tape<'_>) -> Setting {
    let address = SocketAddr::from(([203, 0, 113, 9], 4000));
    let own = Endpoint { kind: EndpointKind::Observed, address };
    Setting {
        nat: Nat::from_byte(tape.byte()),
        candidates: Candidates::from_iter([own]),
        observed: tape.flag().then(observed),
        may_spray: tape.flag(),
    }
}

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    let now = Instant::from_nanos(1);
    let setting = setting(&mut tape);
    let rng = Rng::new([tape.byte(); 32]);
    let punch = Punch::start(now, rng, setting, tape.word());
    let mut world = World {
        now,
        punch,
        sockets: 0,
        named: BTreeSet::from([observed()]),
        sprayed: 0,
        outputs: 0,
    };
    while !tape.is_empty() {
        world.step(&mut tape);
        world.drain(&mut tape);
    }
    let end = world.now + Duration::from_secs(180);
    while let Some(next) = world.punch.next_at(|_| true).filter(|next| *next <= end) {
        world.now = world.now.max(next);
        world.punch.handle_timeout(world.now);
        world.drain(&mut tape);
    }
    assert!(world.punch.is_over(), "it ends by itself");
}

impl World {
    fn step(&mut self, tape: &mut Tape<'_>) {
        let now = self.now;
        match tape.below(6) {
            0 => self.offer(tape),
            1 => {
                let attempt = self.punch.attempt().wrapping_add(u16::from(tape.below(3)));
                if let Some((_, code)) = decode_primed(&[0, 0, tape.byte()]) {
                    self.punch.handle_primed(now, attempt, code);
                }
            }
            2 => {
                let socket = SocketId(tape.word() % 300);
                self.punch.handle_socket_failed(now, socket);
            }
            3 => {
                let socket = SocketId(self.sockets);
                let seen = SocketAddr::from(([203, 0, 113, 9], tape.word()));
                self.punch.handle_observed(now, socket, tape.flag().then_some(seen));
            }
            4 => self.now += Duration::from_millis(u64::from(tape.word() % 3000)),
            _ => {
                if let Some(next) = self.punch.next_at(|_| true) {
                    self.now = self.now.max(next);
                }
            }
        }
        self.punch.handle_timeout(self.now);
    }

    fn offer(&mut self, tape: &mut Tape<'_>) {
        let raw = tape.chunk();
        let offer = Offer::decode(raw);
        if let Some(offer) = &offer {
            let mut out = [0; OFFER_MAX];
            let n = offer.encode(&mut out);
            assert_eq!(Offer::decode(&out[1..n]).as_ref(), Some(offer));
        }
        let near = self.punch.attempt().wrapping_add(u16::from(tape.below(3)));
        let offer = offer.unwrap_or_else(|| {
            let address = SocketAddr::from(([192, 0, 2, tape.byte()], tape.word()));
            let kind = EndpointKind::Predicted;
            let candidates = Candidates::from_iter([Endpoint { kind, address }]);
            Offer { attempt: near, nat: Nat::from_byte(tape.byte()), candidates }
        });
        self.named.extend(offer.candidates.iter().map(|c| c.address));
        let setting = setting(tape);
        self.punch.handle_offer(self.now, offer, setting);
    }

    fn drain(&mut self, tape: &mut Tape<'_>) {
        while let Some(output) = self.punch.poll_output(self.now, |_| true) {
            self.outputs += 1;
            assert!(self.outputs < 200_000, "it does not go on for ever");
            match output {
                Output::Open => {
                    self.sockets += 1;
                    let socket = SocketId(self.sockets);
                    let there = tape.is_empty() || tape.below(8) > 0;
                    self.punch.handle_socket(self.now, there.then_some(socket));
                }
                Output::Ask(socket) if tape.is_empty() => {
                    self.punch.handle_observed(self.now, socket, None);
                }
                Output::Challenge { path, data, .. } => {
                    assert!(self.punch.is_response(path, data));
                    let mut other = path;
                    other.remote.set_port(path.remote.port() ^ 1);
                    assert!(!self.punch.is_response(other, data));
                    if !self.named.contains(&path.remote) {
                        assert_eq!(path.remote.ip(), observed().ip(), "nobody named it");
                        self.sprayed += 1;
                    }
                }
                Output::Ask(_) | Output::Offer | Output::Primed(..) => {}
            }
        }
        // A spray has its bound, and 100 a second however often one is asked for.
        let seconds = self.now.as_nanos() / 1_000_000_000 + 1;
        assert!(u64::from(self.sprayed) <= 100 * seconds + u64::from(PROBES), "{seconds} s");
    }
}
