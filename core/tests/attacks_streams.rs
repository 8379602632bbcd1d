//! Attacks on streams, by real nodes (`docs/attacks.md`). What only forged segments can do is
//! tested beside the transport, in `core/src/stream/tests/`.

#[path = "support/pair.rs"]
mod pair;
#[path = "support/thief.rs"]
mod thief;

use pair::*;
use pilot_core::addr::Port;
use pilot_core::crypto::RUST_CRYPTO;
use pilot_core::limits::MTU_PROBES;
use pilot_core::node::{Config, Event, PathPolicy, StreamEnd};
use thief::{Thief, datagram};

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

/// Each session leaves counters out, so that a peer which acknowledges frames that it has not
/// seen gives itself away; between honest nodes no acknowledgement is taken for a lie.
#[test]
fn counters_are_left_out_and_no_honest_acknowledgement_is_refused() {
    let mut world = world(5, 2);
    world.listen(0, 7);
    world.wire = Some(Vec::new());
    world.transfer(1, 0, 7, &pattern(6_000_000), secs(60));
    let mut counters =
        std::collections::BTreeMap::<[u8; 4], std::collections::BTreeSet<u64>>::new();
    for (from, _, bytes) in world.wire.take().unwrap() {
        if from == world.agents[1].socket && bytes.len() >= 28 && bytes[0] & 0x80 != 0 {
            let (index, rest) = bytes.split_first_chunk::<4>().unwrap();
            let counter = u64::from_be_bytes(*rest.first_chunk().unwrap());
            counters.entry(*index).or_default().insert(counter);
        }
    }
    let used = counters.values().max_by_key(|used| used.len()).unwrap();
    // The first ones may have gone over the relay.
    let left_out = (500..*used.last().unwrap()).filter(|n| !used.contains(n)).count();
    assert!(used.len() > 4000 && (2..=6).contains(&left_out), "{left_out} of {}", used.len());
    let refused = pilot_core::stats::DropReason::Unasked;
    assert_eq!(world.agents.iter().map(|a| a.node.drops().get(refused)).sum::<u64>(), 0);
}

/// With the keys of a trusted agent: pings, challenges, acknowledgements of anything, segments
/// of no stream and frames of no kind, thousands of each. Nothing echoes, and others are served
/// as if nothing were. What is more than an answer to each question are acknowledgements: at once
/// after a gap, with all gaps (RFC 9000 13.2.1), so that a real loss is mended soon. They go to
/// the path alone that the asking peer has proven, so nobody is hit but who asks.
#[test]
fn a_storm_inside_a_session_hurts_nobody_else() {
    let mut undisturbed = None;
    for storm in [false, true] {
        let mut world = world(6, 3);
        world.listen(0, 7);
        world.transfer(2, 0, 7, b"x", secs(5));
        world.kill(1);
        let mut thief = Thief::copy(&world, 1);
        let mut session = thief.open(&mut world, 0);
        world.wire = Some(Vec::new());
        let (from, to) = (thief.address, world.address(0));
        let target = world.agents[0].socket;
        for n in 0..if storm { 20_000u32 } else { 0 } {
            let packet = datagram(from, to, Port(n as u16), b"?");
            let eight = u64::from(n).to_be_bytes();
            let content = match n % 8 {
                0 | 1 => [&[0xF0][..], &eight].concat(),
                2 | 3 => [&[0xF2][..], &eight].concat(),
                4 => [&[0xFD][..], &[0xFF; 14], &[0, 0, 0, 1, 0]].concat(),
                5 => packet,
                6 => [&[0x10 | (n as u8 >> 3 & 15), 1], &packet[2..]].concat(),
                _ => vec![0xF0 | n as u8 >> 3 & 15; 1 + n as usize % 40],
            };
            let mut frame = vec![0; 12 + content.len() + 16];
            frame[12..12 + content.len()].copy_from_slice(&content);
            session.seal(world.now, &RUST_CRYPTO, &mut frame, content.len()).unwrap();
            // Four in each microsecond.
            world.send_udp(thief.socket, target, frame);
            if n % 4 == 3 {
                world.run(pilot_core::time::Duration::from_micros(1));
            }
        }
        let took = world.transfer(2, 0, 7, &pattern(1_000_000), secs(20));
        world.run(secs(2));
        let wire = world.wire.take().unwrap();
        let frames = |from_thief: bool| -> Vec<usize> {
            let is = |(from, to, _): &&(_, _, Vec<u8>)| match from_thief {
                true => *from == thief.socket,
                false => *to == thief.socket,
            };
            wire.iter().filter(is).map(|(.., bytes)| bytes.len()).collect()
        };
        let (asked, back) = (frames(true), frames(false));
        // Whether its path is wide was asked three times, whatever it does.
        let (probes, back): (Vec<_>, Vec<_>) = back.into_iter().partition(|len| *len == 1232);
        assert!(probes.len() <= usize::from(MTU_PROBES), "{} probes", probes.len());
        let sum = |frames: &[usize]| frames.iter().sum::<usize>();
        assert!(sum(&back) <= 4 * sum(&asked), "{} bytes for {}", sum(&back), sum(&asked));
        // A question has one answer, of its own length, and one acknowledgement at the most.
        let answers = back.iter().filter(|len| **len == 37).count();
        assert!(answers <= asked.len() / 2, "{answers} answers");
        assert!(back.len() <= asked.len() * 17 / 16, "{} frames for {}", back.len(), asked.len());
        // 33 ranges, 28 bytes of the frame, few streams.
        assert!(back.iter().all(|len| *len <= 21 + 32 * 8 + 28 + 3 * 10), "no longer than that");
        let before = *undisturbed.get_or_insert(took);
        assert!(took <= before + ms(20), "{took:?} instead of {before:?}");
    }
}
