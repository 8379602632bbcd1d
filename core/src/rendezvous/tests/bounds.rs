//! What strangers can make the rendezvous hold, and that whatever it drops is counted under
//! its reason.

use super::*;
use crate::crypto::TunnelSecret;
use crate::path::ChannelId;
use crate::rendezvous::RendezvousConfig;
use crate::session::channel::HELLO_BUFFER;
use crate::session::handshake::write_mac2;
use crate::stats::{DropReason, Drops};
use crate::time::Duration;
use crate::wire::control;
use crate::wire::frame::{self, Direction, RelayKey};
use crate::wire::registry::{Request, Target};
use core::net::{Ipv4Addr, SocketAddr};
use std::boxed::Box;
use std::vec::Vec;

fn limited(change: impl FnOnce(&mut crate::rendezvous::RendezvousLimits)) -> World {
    let mut config = RendezvousConfig::default();
    change(&mut config.limits);
    World::with(config)
}

fn host(n: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from_bits(0xC633_6400 + n).into(), 5000)
}

/// Half-open connections from everywhere fill the table; who has something to say gets in.
#[test]
fn a_full_table_gives_the_oldest_strangers_place_away() {
    let mut world = limited(|limits| limits.connections = 64);
    let first = world.open(host(0));
    for n in 1..5000 {
        let conn = world.open(host(n));
        world.bytes(conn, &b"AOR1\x00\xE6half of a message"[..(n as usize) % 20]);
    }
    assert_eq!(world.machine.stats().connections, 64);
    assert_eq!(world.closed.first(), Some(&first));
    assert_eq!(world.machine.drops().get(DropReason::Full), 5000 - 64);
    let (home, mut link) = world.registered();
    // Not even a later flood moves a connection whose owner is known.
    for n in 5000..10_000 {
        world.open(host(n));
    }
    world.turn();
    assert!(!world.closed.contains(&link.conn));
    let target = Target::Address(home.address());
    let answer = world.ask(&mut link, &Request::Resolve { target, network: None, grant: None });
    assert!(reply(&answer).is_ok());
}

/// A table full of known agents has no place to give away.
#[test]
fn a_full_table_of_agents_refuses() {
    let mut world = limited(|limits| limits.connections = 2);
    let _links = [world.registered().1, world.registered().1];
    let late = world.open(host(1));
    world.turn();
    assert_eq!(world.closed, [late]);
    assert_eq!(world.machine.stats().connections, 2);
}

/// To authenticate with a key made up just now proves nothing: such channels count for their
/// source, for as long as they live.
#[test]
fn fresh_keys_do_not_lift_the_limit_of_a_source() {
    let mut world = World::new();
    let source = host(1);
    let mut links = Vec::new();
    for n in 0..100u8 {
        let mut home = world.home();
        home.tunnel = TunnelSecret::from_secret([n.wrapping_add(100); 32]);
        home.from = source;
        links.extend(world.try_connect(&home));
    }
    assert_eq!((links.len(), world.machine.stats().connections), (8, 8));
    // One that reserves an address is known, and makes room for one more.
    let mut home = world.home();
    home.from = source;
    let mut link = links.pop().unwrap();
    world.reserve(&mut home, &mut link).unwrap();
    let next = world.home();
    assert!(world.try_connect(&Home { from: source, ..next }).is_some());
    let next = world.home();
    assert!(world.try_connect(&Home { from: source, ..next }).is_none());
}

/// Connections that say nothing, or half a thing, take nobody's handshake away.
#[test]
fn half_open_connections_spend_no_handshake_budget() {
    let mut world = limited(|limits| limits.channel_handshakes_per_second = 10);
    for n in 0..1000 {
        let conn = world.open(host(n));
        world.bytes(conn, &b"AOR1\x00\xE6"[..(n as usize) % 7]);
    }
    assert_eq!(world.machine.drops().get(DropReason::RateLimited), 0);
    world.registered();
    // The budget itself holds: a message costs a token, whether it is one or not.
    let forged = [&b"AOR1"[..], &230u16.to_be_bytes(), &[7; 230]].concat();
    for n in 1000..1100 {
        let conn = world.open(host(n));
        world.bytes(conn, &forged);
    }
    let drops = world.machine.drops();
    let (tried, refused) = (drops.get(DropReason::Handshake), drops.get(DropReason::RateLimited));
    assert_eq!((tried, refused), (9, 91));
}

/// One source that completes handshake after handshake takes none from the others.
#[test]
fn a_flood_of_handshakes_from_one_source_leaves_the_others_theirs() {
    let mut world = limited(|limits| {
        limits.channel_handshakes_per_second = 40;
        limits.channel_handshakes_per_source = 10;
    });
    let forged = [&b"AOR1"[..], &230u16.to_be_bytes(), &[7; 230]].concat();
    for _ in 0..1000 {
        let conn = world.open(host(1));
        world.bytes(conn, &forged);
    }
    let drops = world.machine.drops();
    let (tried, refused) = (drops.get(DropReason::Handshake), drops.get(DropReason::RateLimited));
    assert_eq!((tried, refused), (10, 990));
    world.registered();
}

/// Until it is known that somebody speaks the protocol, a connection has two small buffers.
const _: () = assert!(HELLO_BUFFER <= 512);

/// An INIT of a home that shows the beacon's cookie.
fn with_cookie(world: &mut World, home: &mut Home) -> Vec<u8> {
    let (initiator, mut init) = world.init(home);
    let _ = world.datagram(home.from, &init);
    let cookie = world.sent_to(home.from).pop().expect("a cookie is demanded always");
    write_mac2(&mut init, Some(&initiator.read_cookie(&cookie).unwrap()));
    init
}

type Act = Box<dyn FnOnce(&mut World)>;
type Scene = fn(&mut World) -> Act;

/// What is sent last, from an address of nobody.
fn send(bytes: Vec<u8>) -> Act {
    send_from(host(9), bytes)
}

fn send_from(from: SocketAddr, bytes: Vec<u8>) -> Act {
    Box::new(move |world| {
        let _ = world.datagram(from, &bytes);
    })
}

/// How to provoke each reason that a rendezvous has: what comes before, then the act itself.
const PROVOKED: &[(DropReason, Scene)] = &[
    (DropReason::UnknownType, |_| send([0x55; 40].into())),
    (DropReason::Malformed, |_| send([0x80; 5].into())),
    (DropReason::Version, |_| send([&[0x10, 2, 0, 0][..], &[7; 326]].concat())),
    (DropReason::Mac, |world| {
        let (mut home, _) = world.registered();
        let (_, mut init) = world.init(&mut home);
        let mac1 = init.len() - 20;
        init[mac1] ^= 1;
        send(init)
    }),
    (DropReason::Handshake, |world| {
        let conn = world.open(host(1));
        let forged = [&b"AOR1"[..], &230u16.to_be_bytes(), &[7; 230]].concat();
        Box::new(move |world| drop(world.bytes(conn, &forged)))
    }),
    (DropReason::Untrusted, |world| {
        let mut home = world.home();
        (home.node, home.serial) = (Some(crate::addr::NodeId(999)), 1);
        let init = with_cookie(world, &mut home);
        send_from(home.from, init)
    }),
    (DropReason::Stale, |world| {
        let (mut home, _) = world.registered();
        world.agent(&mut home);
        home.hs_seq = 0;
        let init = with_cookie(world, &mut home);
        send_from(home.from, init)
    }),
    (DropReason::RateLimited, |world| {
        let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
        for _ in 0..10 {
            let _ = world.datagram(host(9), &stun);
        }
        send(stun)
    }),
    (DropReason::UnknownIndex, |_| send([0x80; 40].into())),
    (DropReason::Decrypt, |world| {
        let (mut home, _) = world.registered();
        let mut frame = world.agent(&mut home).seal(world.now, &[]);
        *frame.last_mut().unwrap() ^= 1;
        send(frame)
    }),
    (DropReason::Replay, |world| {
        let (mut home, _) = world.registered();
        let frame = world.agent(&mut home).seal(world.now, &[]);
        let _ = world.datagram(home.from, &frame);
        send(frame)
    }),
    (DropReason::Expired, |world| {
        world.open(host(1));
        Box::new(|world| world.sleep(Duration::from_secs(3)))
    }),
    (DropReason::WrongAddress, |world| {
        // The registry's own tunnel key, reflected.
        let mut home = world.home();
        home.tunnel = TunnelSecret::from_secret([201; 32]);
        Box::new(move |world| assert!(world.try_connect(&home).is_none()))
    }),
    (DropReason::Full, |world| {
        for _ in 0..8 {
            world.open(host(1));
        }
        Box::new(|world| {
            world.open(host(1));
        })
    }),
    (DropReason::UnknownChannel, |_| {
        let mut relayed = std::vec![0x80; 60];
        let key = RelayKey([1; 16]);
        frame::wrap(&key, Direction::ToBeacon, ChannelId(77), &mut relayed);
        send(relayed)
    }),
    (DropReason::Unasked, |_| send([&[0x11, 1, 0, 0][..], &[7; 120]].concat())),
    (DropReason::UnknownControl, |world| {
        let (mut home, _) = world.registered();
        let mut agent = world.agent(&mut home);
        send(agent.seal(world.now, &[0x77]))
    }),
    (DropReason::Offline, |world| {
        let (_, _, of_a, _, mut at_b, _) = world.bound();
        let _ = world.frame(&mut at_b, &[control::CLOSE, 0]);
        let mut relayed = std::vec![0x80; 60];
        frame::wrap(&RelayKey(of_a.key.0), Direction::ToBeacon, of_a.channel, &mut relayed);
        send(relayed)
    }),
];

/// What only an agent drops; `core/tests/drops.rs` provokes these and all others but `Offline`.
const OF_AGENTS: &[DropReason] = &[
    DropReason::NotPermitted,
    DropReason::NoListener,
    DropReason::OutOfWindow,
    DropReason::WrongSource,
    DropReason::DatagramQueue,
    DropReason::Inbox,
];

fn risen(before: &Drops, after: &Drops) -> Vec<(DropReason, u64)> {
    let difference = |&reason| (reason, after.get(reason) - before.get(reason));
    DropReason::ALL.iter().map(difference).filter(|(_, n)| *n > 0).collect()
}

#[test]
fn each_reason_of_a_rendezvous_can_be_provoked_and_moves_its_counter_alone() {
    for (reason, provoke) in PROVOKED {
        let mut world = World::new();
        let act = provoke(&mut world);
        let before = world.machine.drops().clone();
        act(&mut world);
        assert_eq!(risen(&before, world.machine.drops()), [(*reason, 1)]);
    }
    for reason in DropReason::ALL {
        let here = PROVOKED.iter().any(|(provoked, _)| provoked == reason);
        assert_ne!(here, OF_AGENTS.contains(reason), "{reason:?}");
    }
}
