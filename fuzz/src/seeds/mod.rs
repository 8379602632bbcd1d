//! The seed corpora: what an honest party would send, and scripts that lead deep into a
//! machine. Deterministic; the example `seeds` writes them, a test compares them.

mod identity;
mod machines;
mod services;
mod wire;

use crate::tape::Script;
use pilot_core::rng::Rng;

/// Scripts of random choices per target, beside those made by hand.
const RANDOM: u64 = 12;

/// The name of a target's `n`th seed.
pub fn file(n: usize) -> String {
    format!("seed-{n:02}")
}

/// The seeds of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Script> = match target {
        "header" => wire::headers(),
        "stun" => wire::stuns(),
        "records" => identity::records(),
        "messages" => wire::messages(),
        "events" => services::events(),
        "exchange" => services::exchanges(),
        "tree" => services::trees(),
        "punch" => wire::punches(),
        "demux_node" => machines::demux_node(),
        "demux_rendezvous" => machines::demux_rendezvous(),
        "handshake_init" => machines::handshake_init(),
        "handshake_resp" => machines::handshake_resp(),
        "session" => machines::sessions(),
        "streams" => machines::streams(),
        "registry_open" => machines::registry_open(),
        "registry_session" => machines::registry_session(),
        "beacon_session" => machines::beacon_session(),
        "tasks" => identity::tasks(),
        "talk" => services::talks(),
        "beacon_client" => machines::beacon_client(),
        other => panic!("no target is called {other}"),
    };
    let mut rng = Rng::new([1; 32]).fork(target);
    for n in 0..RANDOM {
        let len = 24 + rng.below(40 * (n + 1));
        seeds.push(Script((0..len).map(|_| rng.u32() as u8).collect()));
    }
    seeds.into_iter().map(|script| script.0).collect()
}

fn s() -> Script {
    Script::new()
}
