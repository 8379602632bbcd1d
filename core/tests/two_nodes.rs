//! Two agents and the rendezvous, on virtual time.

#[path = "support/pair.rs"]
mod pair;

use pair::*;
use pilot_core::node::{Command, Event, PathKind};

#[test]
fn strangers_register_trust_and_talk() {
    let mut world = World::new(1, Link::CLEAN, 2);
    println!("registered after {:?}", world.register());
    println!("trust after {:?}", world.trust(0, 1));
    world.listen(1, 1001);
    let bytes = pattern(300_000);
    println!("300 kB after {:?}", world.transfer(0, 1, 1001, &bytes, secs(10)));
    let peer = world.agents[0].node.peers().next().unwrap();
    assert_eq!(peer.path, PathKind::Direct);
}
