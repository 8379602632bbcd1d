//! The search for the path MTU, in the traffic between two transports.

use super::world::*;
use crate::path::PathId;
use crate::path::mtu::SizeRange;
use crate::stream::TransportEvent;
use crate::time::Duration;
use std::boxed::Box;

const RELAY: PathId = PathId(1);
const LEN: u64 = 2_000_000;

fn wide(rtt_half: u64) -> World {
    let mut world = World::with(21, [Link::clean(ms(rtt_half)); 2], &limits(), 65_507);
    world.ends[1].t.listen(PORT).unwrap();
    world
}

fn size(world: &World, path: PathId) -> u16 {
    world.ends[0].t.path_info(PEER, path).unwrap().datagram
}

/// The host itself says that a probe is too long: nothing waits for a timeout, and nothing is sent
/// three times. The same for data, when the interface carries less than before.
#[test]
fn what_the_host_refuses_is_told_to_the_search() {
    let mut world = wide(10);
    world.interface = 1472;
    let (a, b) = world.open(PORT);
    let begin = world.now;
    let (mut source, mut sink) = (Source::new(0, a, 1, LEN), Sink::new(1, b, 1));
    world.run(Duration::from_secs(60), |world| {
        source.pump(world);
        sink.pump(world);
        size(world, MAIN) == 1472
    });
    assert!(world.now.since(begin) <= ms(100), "{:?}", world.now.since(begin));
    world.run(Duration::from_secs(60), |world| {
        source.pump(world);
        sink.pump(world);
        sink.at > LEN / 4
    });
    assert_eq!(world.ends[0].t.path_info(PEER, MAIN).unwrap().lost, 0, "a probe is not in flight");
    world.interface = 1400;
    let (shrunk, at) = (world.now, sink.at);
    world.run(Duration::from_secs(60), |world| {
        source.pump(world);
        sink.pump(world);
        sink.at > at + 100_000
    });
    assert!(world.now.since(shrunk) <= ms(400), "{:?}", world.now.since(shrunk));
    world.run(Duration::from_secs(60), |world| {
        source.pump(world);
        sink.pump(world);
        sink.finished
    });
    assert_eq!(size(&world, MAIN), 1400);
}

/// Probes go on every path, also one without data, and what is lost of them is neither congestion
/// nor a reason for suspicion. Only where data goes the search goes on beyond the base.
#[test]
fn a_path_that_swallows_long_frames_is_not_wide_nor_suspect() {
    let mut world = wide(10);
    let now = world.now;
    for (from, end) in world.ends.iter_mut().enumerate() {
        assert!(end.t.add_path(now, PEER, RELAY, SizeRange::direct(65_507)));
        world.links[from][1] = Link::clean(ms(10));
    }
    world.filter = Some(Box::new(|_, frame| frame.path == RELAY || frame.plain.len() < 1000));
    world.pass(Duration::from_secs(20));
    for end in &world.ends {
        assert!(!end.t.is_wide(PEER, MAIN) && end.t.is_wide(PEER, RELAY));
        assert_eq!(end.events, [TransportEvent::PathWide(PEER, RELAY)]);
        let info = end.t.path_info(PEER, MAIN).unwrap();
        assert_eq!((info.lost, info.flight, info.suspect), (0, 0, false));
        assert_eq!((info.datagram, info.window), (1232, 12_320));
    }
    for end in &mut world.ends {
        end.t.set_active_path(world.now, PEER, RELAY);
    }
    let (a, b) = world.open(PORT);
    let (mut source, mut sink) = (Source::new(0, a, 1, LEN), Sink::new(1, b, 1));
    world.run(Duration::from_secs(60), |world| {
        source.pump(world);
        sink.pump(world);
        sink.finished
    });
    assert_eq!((size(&world, RELAY), size(&world, MAIN)), (65_507, 1232));
}

/// With no other path, one that swallows 1,232 bytes at least loses nothing of what is short.
#[test]
fn short_frames_pass_where_long_ones_do_not() {
    let mut world = wide(10);
    world.filter = Some(Box::new(|_, frame| frame.plain.len() < 1000));
    let (a, b) = world.open(PORT);
    let (mut source, mut sink) = (Source::new(0, a, 1, 500), Sink::new(1, b, 1));
    let begin = world.now;
    world.run(Duration::from_secs(60), |world| {
        source.pump(world);
        sink.pump(world);
        sink.finished
    });
    assert!(world.now.since(begin) < ms(100));
}
