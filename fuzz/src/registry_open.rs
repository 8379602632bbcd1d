//! Registry connections of strangers at a real rendezvous: any bytes, the two openings, msg1
//! with any plaintext in a correct Noise envelope, in any pieces, from several sources.
//!
//! Oracle, beside that of [`crate::outpost`]: before it is authenticated a connection is
//! written nothing but one answer to AOR0, and closed after 3 s or 512 bytes (`wire.md` 6.1);
//! a source holds at most its share of connections; nothing is stored.

use crate::lab::elsewhere;
use crate::outpost::{self, Outpost};
use crate::stage::{self, Stage};
use crate::tape::Tape;
use pilot_core::addr::Address;
use pilot_core::crypto::exchange::{Initiator, MESSAGE1_OVERHEAD, MESSAGE1_PAYLOAD, Pattern};
use pilot_core::crypto::record::ShortRecord;
use pilot_core::crypto::{CONTEXT, RUST_CRYPTO, TunnelSecret};
use pilot_core::limits::{REGISTRY_PRE_AUTH, REGISTRY_PRE_AUTH_BYTES};
use pilot_core::rendezvous::ConnId;
use pilot_core::session::payload::{Caps, InitPayload, P1_MAX};
use pilot_core::time::{Duration, Instant};
use std::collections::BTreeMap;

const STEPS: usize = 64;
/// Two length bytes, and msg2 with the shortest P2.
const MESSAGE2: usize = 2 + 32 + 32 + 16;
/// The keys and their signature.
const KEYS: usize = 128;

#[derive(Default)]
struct Conn {
    opened: Option<Instant>,
    given: usize,
    /// An AOR1 was sent whose envelope is right.
    authentic: bool,
}

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    let mut outpost = Outpost::new();
    outpost.drain();
    let mut conns: BTreeMap<ConnId, Conn> = BTreeMap::new();
    let mut pending: Vec<u8> = Vec::new();
    for _ in 0..STEPS {
        if tape.is_empty() {
            break;
        }
        let pick = usize::from(tape.byte());
        let conn = conns.keys().nth(pick % conns.len().max(1)).copied();
        match (tape.below(8), conn) {
            (0 | 1, _) | (_, None) => {
                let id = outpost.connect(elsewhere(tape.byte()));
                conns.insert(id, Conn { opened: Some(outpost.now), ..Conn::default() });
            }
            (2, Some(id)) => give(&mut outpost, &mut conns, id, tape.chunk()),
            (3, Some(id)) => {
                let ask = [&b"AOR0"[..], &tape.array::<32>()].concat();
                give(&mut outpost, &mut conns, id, &ask);
            }
            // A msg1 in pieces: the first now, the rest when the tape says so.
            (4 | 5, Some(id)) => {
                let message = message1(&mut tape);
                let cut = match tape.flag() {
                    true => message.len(),
                    false => usize::from(tape.word()) % message.len(),
                };
                conns.get_mut(&id).expect("picked").authentic = true;
                give(&mut outpost, &mut conns, id, &message[..cut]);
                pending = message[cut..].to_vec();
            }
            (6, Some(id)) => {
                let rest = core::mem::take(&mut pending);
                conns.get_mut(&id).expect("picked").authentic = true;
                give(&mut outpost, &mut conns, id, &rest);
            }
            (_, Some(id)) if tape.below(4) == 0 => {
                outpost.drain();
                outpost.server.handle_close(outpost.now, id);
                outpost.open.remove(&id);
            }
            _ => outpost.advance(Duration::from_millis(tape.word().into())),
        }
        check(&mut outpost, &conns);
    }
    outpost.advance(Duration::from_secs(70));
    check(&mut outpost, &conns);
    assert!(outpost.open.is_empty(), "an idle connection stays open");
    outpost.settle();
}

fn give(outpost: &mut Outpost, conns: &mut BTreeMap<ConnId, Conn>, id: ConnId, bytes: &[u8]) {
    conns.get_mut(&id).expect("picked").given += bytes.len();
    outpost.bytes(id, bytes);
}

fn check(outpost: &mut Outpost, conns: &BTreeMap<ConnId, Conn>) {
    outpost.drain();
    let mut waiting = BTreeMap::<_, usize>::new();
    for (id, conn) in conns {
        let written = outpost.written.get(id).map_or(0, Vec::len);
        let most = KEYS + if conn.authentic { MESSAGE2 + 64 } else { 0 };
        assert!(written <= most, "{written} bytes before authentication");
        if !conn.authentic && outpost.open.contains(id) {
            let age = outpost.now.since(conn.opened.expect("it was opened"));
            assert!(age <= REGISTRY_PRE_AUTH, "open after {age:?}");
            assert!(conn.given < REGISTRY_PRE_AUTH_BYTES, "{} bytes", conn.given);
            *waiting.entry(()).or_default() += 1;
        }
    }
    // `elsewhere` has four hosts.
    let most = 4 * outpost::limits().unauthenticated_per_source;
    assert!(waiting.values().all(|n| *n <= most));
    assert!(outpost.commit.is_none(), "a stranger changed something");
}

/// AOR1 with a P1 of the tape's.
fn message1(tape: &mut Tape<'_>) -> Vec<u8> {
    let agent = &Stage::get().agents[0];
    let plaintext = if tape.flag() {
        let raw = tape.chunk();
        raw[..raw.len().min(P1_MAX + 16)].to_vec()
    } else {
        let mut p1 = InitPayload {
            caps: Caps::of(&RUST_CRYPTO),
            rekey: false,
            max_datagram: 1232,
            src: agent.address,
            dst: Address::REGISTRY,
            hs_seq: 0,
            known_peer_serial: 0,
            generation: 0,
            boot_id: [1; 8],
            record: Some(agent.record.to_short()),
            early: None,
        };
        match tape.below(6) {
            0 => p1.caps = Caps(tape.byte()),
            1 => p1.src = Address::from_bytes(tape.array()),
            2 => p1.dst = Address::from_bytes(tape.array()),
            3 => p1.record = None,
            4 => p1.record = Some(ShortRecord(tape.array())),
            _ => {}
        }
        let mut out = [0; P1_MAX];
        let n = p1.encode(&mut out);
        out[..n].to_vec()
    };
    let mut message = vec![0; MESSAGE1_OVERHEAD + plaintext.len()];
    message[MESSAGE1_PAYLOAD..][..plaintext.len()].copy_from_slice(&plaintext);
    let secret = if tape.flag() { agent.secret() } else { TunnelSecret::from_secret([5; 32]) };
    let (e, prologue) = (TunnelSecret::from_secret([8; 32]), [&CONTEXT[..], b"AOR1"]);
    let theirs = stage::registry_secret().public();
    Initiator::write_message1(Pattern::Ik, &prologue, &secret, &theirs, e, &mut message)
        .expect("their key is a key");
    [b"AOR1", &(message.len() as u16).to_be_bytes()[..], &message].concat()
}
