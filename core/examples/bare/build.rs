//! What a factory does: two agents meet at a rendezvous and come to trust each other, here on
//! virtual time. Their identities and what they stored are compiled into the library.

#[path = "../../tests/support/pair.rs"]
mod pair;

use pair::{Link, World, secs};
use std::fmt::Write as _;

fn main() {
    println!("cargo::rerun-if-changed=../../tests/support/pair.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let mut world = World::new(1, Link::CLEAN, 2);
    world.register();
    world.trust(0, 1);
    world.run(secs(5));
    let mut text = format!(
        "/// The wall clock when they had met.\npub const UNIX_SECS: u64 = {};\n\
         /// The two agents.\npub static AGENTS: [Agent; 2] = [\n",
        world.unix().as_secs()
    );
    for n in 0..2 {
        let agent = &world.agents[n];
        writeln!(text, "Agent {{ identity: {:?}, facts: &[", agent.identity).unwrap();
        for (key, value) in &agent.disk {
            writeln!(text, "({key:?}, &{value:?}),").unwrap();
        }
        text += "] },\n";
    }
    text += "];\n";
    let folder = std::env::var_os("OUT_DIR").expect("cargo sets it");
    std::fs::write(std::path::Path::new(&folder).join("facts.rs"), text).expect("writable");
}
