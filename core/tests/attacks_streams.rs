//! Attacks on streams, by real nodes (`docs/attacks.md`). What only forged segments can do is
//! tested beside the transport, in `core/src/stream/tests/`.

#[path = "support/pair.rs"]
mod pair;

use pair::*;
use pilot_core::node::{Config, Event, PathPolicy, StreamEnd};

/// Agents that are online and of which the first trusts all others.
fn world(seed: u64, agents: usize) -> World {
    let mut world = World::new(seed, Link::CLEAN, agents);
    world.register();
    for n in 1..agents {
        world.trust(n, 0);
    }
    world
}

/// W-T1: a close is a few frames, and nothing that is said about it is answered for ever.
#[test]
fn a_close_is_followed_by_silence() {
    let mut world = world(1, 2);
    world.listen(0, 7);
    world.transfer(1, 0, 7, &pattern(10_000), secs(10));
    world.run(secs(1));
    world.wire = Some(Vec::new());
    world.run(secs(9));
    let sent = world.wire.take().unwrap();
    let between = sent.iter().filter(|(_, to, _)| *to != beacon_socket() && to.port() == 4000);
    assert!(between.count() <= 8, "keepalives, and no exchange that feeds itself");
}

/// W-T11: one peer asks for everything that a listener and its node have, and is never
/// accepted; another is served as if it were not there.
#[test]
fn a_peer_that_opens_everything_keeps_nobody_out() {
    let mut world = World::new(2, Link::CLEAN, 0);
    let limits = pilot_core::limits::Limits { streams: 256, ..test_limits() };
    for _ in 0..3 {
        world.add(Config { limits: limits.clone(), ..Config::default() });
    }
    world.register();
    for n in 1..3 {
        world.trust(n, 0);
    }
    world.listen(0, 7);
    let asked: Vec<_> = (0..100).map(|_| world.connect(1, 0, 7)).collect();
    world.run(secs(2));
    let open = |w: &World| w.agents[0].node.streams().count();
    assert_eq!(open(&world), limits.backlog / 2);
    let refused = |w: &World| {
        let busy = |e: &&Event| matches!(e, Event::StreamClosed(_, StreamEnd::Busy));
        w.agents[1].events.iter().filter(busy).count()
    };
    assert_eq!(refused(&world), asked.len() - open(&world), "told, and not left waiting");
    let id = world.connect(2, 0, 7);
    world.run_until(secs(2), |w| w.saw(2, Event::StreamOpened(id)));
}

/// W-T18: no datagram is longer than what the smallest path carries, over the relay neither.
#[test]
fn no_datagram_has_to_be_fragmented() {
    for policy in [PathPolicy::Auto, PathPolicy::Relay] {
        let mut world = World::new(3, Link::CLEAN, 0);
        for _ in 0..2 {
            world.add(Config { limits: test_limits(), path_policy: policy, ..Config::default() });
        }
        world.register();
        world.trust(0, 1);
        world.listen(1, 7);
        world.wire = Some(Vec::new());
        world.transfer(0, 1, 7, &pattern(300_000), secs(60));
        let longest = world.wire.take().unwrap().iter().map(|(.., bytes)| bytes.len()).max();
        assert_eq!(longest, Some(1232), "full, and not more");
    }
}

/// W-T15: a peer that died is noticed by its silence, not by a timer that anything resets; data
/// that nobody will acknowledge ends its stream.
#[test]
fn a_dead_peer_is_noticed() {
    let mut world = world(4, 2);
    world.listen(0, 7);
    let id = world.connect(1, 0, 7);
    world.run_until(secs(5), |w| w.saw(1, Event::StreamOpened(id)));
    world.kill(0);
    world.run(secs(300));
    assert_eq!(world.write(1, id, b"hello"), 5);
    let gone = Event::StreamClosed(id, StreamEnd::Unreachable);
    world.run_until(secs(120), |w| w.saw(1, gone));
}
