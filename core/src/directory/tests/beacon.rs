//! The beacon session and relay channels.

use super::*;
use crate::limits::RELAY_HEADER;
use crate::wire::control::{ChannelInfo, CloseCode, Endpoint, EndpointKind};

fn bind(world: &mut World, n: usize, other: usize) {
    let (peer, now) = (world.peer(n, other).unwrap(), world.now);
    world.agents[n].dir.bind(now, peer).unwrap();
}

fn bound(world: &World, n: usize, other: usize) -> Option<ChannelId> {
    Some(world.agents[n].dir.channel(world.peer(n, other)?)?.id)
}

fn both_bound(world: &World) -> bool {
    bound(world, 0, 1).is_some() && bound(world, 1, 0).is_some()
}

/// Sends a packet of the tunnel over the relay, and tells whether it arrived.
fn relay(world: &mut World, from: usize, to: usize) -> bool {
    let Some(channel) = bound(world, from, to) else { return false };
    let mut frame = std::vec![0x80; RELAY_HEADER + 40];
    assert!(world.agents[from].dir.wrap(channel, &mut frame));
    world.agents[to].relayed.clear();
    world.later(Item::UdpToServer(from, frame));
    world.run(ms(100));
    let sender = world.peer(to, from);
    world.agents[to]
        .relayed
        .iter()
        .any(|(p, packet)| Some(*p) == sender && packet[..] == [0x80; 40])
}

#[test]
fn the_cookie_costs_one_more_init() {
    let world = World::online(1);
    assert_eq!(world.agents[0].inits, 2);
    assert_eq!(world.server.stats().agents, 1);
}

#[test]
fn a_channel_is_bound_from_either_side() {
    for binder in 0..2 {
        let mut world = World::online(2);
        world.befriend(0, 1);
        bind(&mut world, binder, 1 - binder);
        world.run_until(secs(5), both_bound);
        for n in 0..2 {
            let peer = world.peer(n, 1 - n).unwrap();
            assert!(world.has(n, DirectoryEvent::ChannelUp(peer)));
            let channel = world.agents[n].dir.channel(peer).unwrap();
            assert_eq!(channel.observed, world.agents[1 - n].socket);
            let found = world.agents[n].dir.channel_by_id(channel.id).unwrap();
            assert_eq!(found.peer, peer);
        }
        assert!(relay(&mut world, 0, 1) && relay(&mut world, 1, 0));
        assert_eq!(world.server.stats().channels, 1);
        // Both may bind: it stays the same channel.
        bind(&mut world, 1 - binder, binder);
        world.run(secs(5));
        assert_eq!(world.server.stats().channels, 1);
        assert!(relay(&mut world, 0, 1) && relay(&mut world, 1, 0));
    }
}

#[test]
fn forged_and_foreign_relay_frames_are_dropped() {
    let mut world = World::online(2);
    world.befriend(0, 1);
    bind(&mut world, 0, 1);
    world.run_until(secs(5), both_bound);
    let channel = bound(&world, 0, 1).unwrap();
    let id = channel.0.to_be_bytes();
    let mut frame = std::vec![0x80; 60];
    frame[..4].copy_from_slice(&[0x30, id[1], id[2], id[3]]);
    let now = world.now;
    let mut give = |path: SocketAddr, frame: &[u8]| {
        let mut frame = frame.to_vec();
        match world.agents[0].dir.handle_datagram(now, Path::to(path), &mut frame) {
            Inbound::Dropped(reason) => reason,
            other => panic!("{other:?}"),
        }
    };
    let stranger = "203.0.113.9:9001".parse().unwrap();
    assert_eq!(give(beacon_socket(), &frame), DropReason::Mac);
    assert_eq!(give(stranger, &frame), DropReason::WrongSource);
    frame[3] ^= 1;
    assert_eq!(give(beacon_socket(), &frame), DropReason::UnknownChannel);
    assert_eq!(give(beacon_socket(), &frame[..8]), DropReason::UnknownChannel);
    assert_eq!(give(beacon_socket(), &[0x30, 1]), DropReason::Malformed);
    assert_eq!(give(beacon_socket(), &[]), DropReason::Malformed);
    assert_eq!(give(beacon_socket(), &[0x90; 40]), DropReason::UnknownIndex);
    assert_eq!(give(beacon_socket(), &[0x50; 40]), DropReason::UnknownType);
    assert!(relay(&mut world, 0, 1));
}

#[test]
fn a_beacon_that_restarted_is_bound_again() {
    let mut world = World::online(2);
    world.befriend(0, 1);
    bind(&mut world, 0, 1);
    world.run_until(secs(5), both_bound);
    let (peer, old) = (world.peer(0, 1).unwrap(), bound(&world, 0, 1).unwrap());
    world.stop_server();
    world.run(secs(1));
    world.start_server();
    let took = world.run_until(secs(60), |w| {
        w.has(0, DirectoryEvent::ChannelDown { channel: old, peer })
            && both_bound(w)
            && w.server.stats().channels == 1
    });
    assert!(took < secs(40), "{took:?}");
    assert!(relay(&mut world, 0, 1) && relay(&mut world, 1, 0));
}

#[test]
fn an_agent_that_restarted_hears_of_its_channels_again() {
    let mut world = World::online(2);
    world.befriend(0, 1);
    bind(&mut world, 0, 1);
    world.run_until(secs(5), both_bound);
    world.restart(1);
    world.run_until(secs(20), both_bound);
    assert!(relay(&mut world, 0, 1) && relay(&mut world, 1, 0));
}

#[test]
fn lost_datagrams_are_repeated_and_silence_starts_a_handshake() {
    let mut world = World::online(1);
    world.agents[0].cut = true;
    let took = world.run_until(secs(30), |w| w.agents[0].dir.link() == LinkState::Offline);
    assert!(took < secs(20), "{took:?}");
    world.run(secs(3600));
    let inits = world.agents[0].inits;
    assert!((100..400).contains(&inits), "back-off: {inits}");
    world.agents[0].cut = false;
    let took = world.wait_online();
    assert!(took < secs(60), "{took:?}");
    // One lost keepalive is no reason for anything.
    let inits = world.agents[0].inits;
    for _ in 0..20 {
        let now = world.now;
        world.agents[0].dir.keepalive_now(now);
        world.agents[0].cut = true;
        world.drain();
        world.run(ms(100));
        world.agents[0].cut = false;
        world.run(secs(3));
    }
    assert_eq!((world.agents[0].inits, world.agents[0].dir.link()), (inits, LinkState::Online));
}

#[test]
fn the_session_is_rekeyed_without_an_interruption() {
    let mut world = World::online(2);
    world.befriend(0, 1);
    bind(&mut world, 0, 1);
    world.run_until(secs(5), both_bound);
    for agent in &mut world.agents {
        agent.events.clear();
    }
    let inits = world.agents[0].inits;
    for _ in 0..60 {
        world.run(secs(120));
        assert!(relay(&mut world, 0, 1) && relay(&mut world, 1, 0));
    }
    assert!((2..=4).contains(&(world.agents[0].inits - inits)), "two hours, a cookie each");
    for agent in &world.agents {
        let offline = DirectoryEvent::LinkChanged(LinkState::Offline);
        assert!(!agent.events.contains(&offline));
    }
}

#[test]
fn an_offline_peer_is_tried_until_it_is_there() {
    let mut world = World::online(2);
    world.befriend(0, 1);
    world.agents[1].cut = true;
    world.run(secs(60));
    bind(&mut world, 0, 1);
    let peer = world.peer(0, 1).unwrap();
    let offline = DirectoryEvent::ChannelRefused(peer, BeaconError::Offline);
    world.run_until(secs(60), |w| w.has(0, offline));
    world.agents[1].cut = false;
    world.run_until(secs(100), both_bound);
    assert!(relay(&mut world, 0, 1));
}

#[test]
fn either_end_can_let_go() {
    let mut world = World::online(2);
    world.befriend(0, 1);
    for n in 0..2 {
        bind(&mut world, 0, 1);
        world.run_until(secs(5), both_bound);
        let (peer, now) = (world.peer(n, 1 - n).unwrap(), world.now);
        let (mine, theirs) = (bound(&world, n, 1 - n).unwrap(), bound(&world, 1 - n, n).unwrap());
        world.agents[n].dir.unbind(now, peer);
        world.run(secs(1));
        assert!(world.has(n, DirectoryEvent::ChannelDown { channel: mine, peer }));
        let peer = world.peer(1 - n, n).unwrap();
        assert!(world.has(1 - n, DirectoryEvent::ChannelDown { channel: theirs, peer }));
        assert_eq!(world.server.stats().channels, 0);
    }
}

#[test]
fn revoked_peers_have_no_channel_and_get_none() {
    let mut world = World::online(2);
    world.befriend(0, 1);
    bind(&mut world, 1, 0);
    world.run_until(secs(5), both_bound);
    let (now, b) = (world.now, world.address(1));
    world.agents[0].dir.revoke_trust(now, b).unwrap();
    world.run(secs(1));
    assert_eq!((bound(&world, 1, 0), world.server.stats().channels), (None, 0));
    bind(&mut world, 1, 0);
    let peer = world.peer(1, 0).unwrap();
    let refused = DirectoryEvent::ChannelRefused(peer, BeaconError::NotPermitted);
    world.run_until(secs(5), |w| w.has(1, refused));
    assert_eq!(world.server.stats().channels, 0);
}

#[test]
fn a_channel_of_somebody_not_yet_trusted_is_not_taken() {
    let mut world = World::online(2);
    let now = world.now;
    world.agents[1].dir.set_visibility(now, true).unwrap();
    world.run(secs(1));
    world.ask(0, 1);
    let a = world.address(0);
    world.run_until(secs(5), |w| w.has(1, DirectoryEvent::Trust(TrustEvent::Requested(a))));
    // The asker cannot fetch the answer; the other end holds its grant already.
    world.run(secs(70));
    world.agents[0].no_tcp = true;
    let now = world.now;
    world.agents[1].dir.approve_trust(now, a, Permissions::ALL).unwrap();
    bind(&mut world, 1, 0);
    world.run(secs(5));
    assert!(bound(&world, 1, 0).is_some() && world.peer(0, 1).is_none());
    assert!(world.agents[0].dir.drops().get(DropReason::Untrusted) > 0);
    assert!(!world.agents[0].events.iter().any(|e| matches!(e, DirectoryEvent::ChannelUp(_))));
    world.agents[0].no_tcp = false;
    world.run_until(secs(60), |w| w.holds(0, 1));
    bind(&mut world, 0, 1);
    world.run_until(secs(5), both_bound);
    assert!(relay(&mut world, 0, 1) && relay(&mut world, 1, 0));
}

#[test]
fn a_channel_with_another_than_the_pinned_identity_is_not_taken() {
    use super::super::beacon::Heard;
    let mut world = World::online(2);
    world.befriend(0, 1);
    let (peer, address) = (world.peer(0, 1).unwrap(), world.address(1));
    let right = world.agents[1].dir.identity();
    let info = |identity: IdentityKey| ChannelInfo {
        channel: ChannelId(77),
        peer: address,
        identity: Bytes(identity.0),
        observed: beacon_socket(),
        key: Bytes([3; 16]),
    };
    let core = &mut world.agents[0].dir.core;
    let bound = core.handle_heard(Heard::Bound(info(IdentityKey([9; 32])), 1));
    assert_eq!(bound, Err(DropReason::Untrusted));
    // The answer to a Bind is held to the same, and nobody asked for this one.
    assert!(core.beacon.bind(peer));
    let answer = core.handle_heard(Heard::Channel(0, info(IdentityKey([9; 32]))));
    assert_eq!(answer, Err(DropReason::UnknownChannel));
    assert!(core.beacon.channel_of(peer).is_none());
    let answer = core.handle_heard(Heard::Channel(0, info(right)));
    assert_eq!(answer, Err(DropReason::UnknownChannel), "the refusal ended the wish");
    assert_eq!(core.handle_heard(Heard::Bound(info(right), 1)), Ok(()));
    assert_eq!(core.beacon.channel_of(peer).unwrap().id, ChannelId(77));
}

#[test]
fn a_bind_waits_for_the_disk() {
    let mut world = World::online(2);
    world.befriend(0, 1);
    world.agents[0].disk_stuck = true;
    let now = world.now;
    world.agents[0].dir.join(now, NetworkId(5)).unwrap();
    world.run(secs(1));
    assert_eq!(world.agents[0].dir.default_network(), NetworkId(5));
    bind(&mut world, 0, 1);
    world.run(secs(5));
    assert_eq!(world.server.stats().channels, 0);
    world.agents[0].disk_stuck = false;
    world.write_disk(0);
    world.run_until(secs(1), both_bound);
}

#[test]
fn a_new_address_is_validated_and_observed() {
    let mut world = World::online(1);
    world.agents[0].socket = "198.51.100.200:1234".parse().unwrap();
    world.run(secs(40));
    assert_eq!(world.agents[0].dir.observed(), Some(world.agents[0].socket));
    assert_eq!(world.agents[0].dir.link(), LinkState::Online);
}

#[test]
fn candidates_are_told_to_those_who_hold_a_grant() {
    let mut world = World::online(2);
    world.befriend(0, 1);
    let address = "10.0.0.7:4000".parse().unwrap();
    let host = Endpoint { kind: EndpointKind::Host, address };
    let now = world.now;
    world.agents[1].dir.set_candidates(now, [host].into_iter().collect(), 1);
    world.run(secs(1));
    let (peer, now) = (world.peer(0, 1).unwrap(), world.now);
    world.agents[0].events.clear();
    world.agents[0].dir.resolve_peer(now, peer);
    world.run_until(secs(5), |w| w.has(0, DirectoryEvent::Trust(TrustEvent::Resolved(peer))));
    let endpoints = world.agents[0].dir.trust().peer(peer).unwrap().endpoints();
    assert!(endpoints.contains(&host) && endpoints.len() == 2, "{endpoints:?}");
}

#[test]
fn the_channel_table_is_bounded() {
    let mut world = World::new(0);
    let limits = Limits { channels: 1, ..Limits::small_for_tests() };
    world.add(Config::default(), limits);
    for _ in 0..2 {
        world.add(Config::default(), Limits::small_for_tests());
    }
    world.wait_online();
    world.befriend(0, 1);
    world.befriend(0, 2);
    bind(&mut world, 0, 1);
    let (peer, now) = (world.peer(0, 2).unwrap(), world.now);
    assert_eq!(world.agents[0].dir.bind(now, peer), Err(DirectoryError::Full));
    world.run_until(secs(5), both_bound);
    bind(&mut world, 2, 0);
    world.run(secs(5));
    assert!(world.agents[0].dir.drops().get(DropReason::Full) > 0);
    assert!(relay(&mut world, 0, 1), "the one that is there stays");
}

#[test]
fn a_shutdown_says_goodbye() {
    let mut world = World::online(2);
    let now = world.now;
    world.agents[0].dir.shutdown(now, CloseCode::Shutdown);
    world.run(secs(1));
    assert_eq!(world.server.stats().agents, 1);
    let sent = world.agents[0].sent;
    world.run(secs(100));
    assert_eq!(world.agents[0].sent, sent);
}
