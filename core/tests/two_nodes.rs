//! Two agents and the rendezvous, on virtual time.

#[path = "support/pair.rs"]
mod pair;

use pair::*;
use pilot_core::addr::{Address, NodeId, Port, SocketAddress};
use pilot_core::machine::Machine as _;
use pilot_core::name::Justification;
use pilot_core::node::{
    Command, CommandError, Config, Event, PathKind, PathPolicy, Storage, StreamEnd,
};
use pilot_core::slab::Slab;
use pilot_core::stats::DropReason;
use pilot_core::stream::PathState;
use pilot_core::time::Duration;
use pilot_core::trust::Permissions;

fn path(world: &World, n: usize) -> PathKind {
    world.agents[n].node.peers().next().expect("a peer").path
}

fn pair(seed: u64, link: Link) -> World {
    let mut world = World::new(seed, link, 2);
    world.register();
    world.trust(0, 1);
    world
}

#[test]
fn strangers_register_trust_and_talk() {
    let mut world = World::new(1, Link::CLEAN, 2);
    println!("registered after {:?}", world.register());
    assert_eq!(world.address(0).node, NodeId::FIRST_AGENT);
    println!("trust after {:?}", world.trust(0, 1));
    world.listen(1, 1001);
    let bytes = pattern(300_000);
    println!("300 kB after {:?}", world.transfer(0, 1, 1001, &bytes, secs(10)));
    assert_eq!((path(&world, 0), path(&world, 1)), (PathKind::Direct, PathKind::Direct));
    world.listen(0, 7);
    world.transfer(1, 0, 7, &bytes, secs(10));
}

/// First byte after one round trip, cold tunnel included: the SYN rides in the INIT.
#[test]
fn a_stream_opens_within_one_round_trip_of_the_first_init() {
    let mut world = pair(2, Link::CLEAN);
    world.listen(1, 7);
    // Learn the endpoints, then let the session go.
    world.transfer(0, 1, 7, b"x", secs(5));
    world.run(secs(400));
    let id = world.connect(0, 1, 7);
    let took = world.run_until(secs(5), |w| w.saw(0, Event::StreamOpened(id)));
    println!("open after {took:?}");
    assert!(took <= ms(20), "{took:?}");
}

/// Contract rule 3 for events: what the owner's own call gave it to hear is output that is due.
#[test]
fn an_event_that_waits_is_due() {
    let mut world = pair(21, Link::CLEAN);
    let id = world.connect(0, 1, 7);
    let (now, node) = (world.now, &mut world.agents[0].node);
    assert!(node.poll_timeout().is_some_and(|t| t.at > now), "drained");
    node.stream(id).expect("it was opened").reset(now);
    assert!(node.poll_timeout().is_some_and(|t| t.at <= now), "its end is to be told");
    world.drain();
    assert!(world.saw(0, Event::StreamClosed(id, StreamEnd::Reset)));
    assert!(world.agents[0].node.poll_timeout().is_some_and(|t| t.at > now));
}

#[test]
fn who_cannot_reach_the_other_is_relayed() {
    let mut world = pair(3, Link::CLEAN);
    world.cut_agents(0, 1);
    world.listen(1, 1001);
    let bytes = pattern(500_000);
    println!("500 kB relayed after {:?}", world.transfer(0, 1, 1001, &bytes, secs(20)));
    assert_eq!((path(&world, 0), path(&world, 1)), (PathKind::Relayed, PathKind::Relayed));
    assert!(world.server.stats().relayed_bytes > 500_000);
}

#[test]
fn the_policy_relay_keeps_every_packet_on_the_relay() {
    let mut world = World::new(4, Link::CLEAN, 0);
    for path_policy in [PathPolicy::Relay, PathPolicy::Auto] {
        world.add(Config { limits: test_limits(), path_policy, ..Config::default() });
    }
    world.register();
    world.trust(0, 1);
    world.listen(0, 7);
    world.listen(1, 7);
    world.wire = Some(Vec::new());
    world.transfer(0, 1, 7, &pattern(50_000), secs(20));
    world.transfer(1, 0, 7, &pattern(50_000), secs(20));
    let relay_only = world.agents[0].socket;
    for (from, to, _) in world.wire.take().unwrap() {
        assert!(from != relay_only || to == beacon_socket(), "{from} sent to {to}");
    }
    assert_eq!(path(&world, 1), PathKind::Relayed);
}

#[test]
fn the_policy_direct_asks_for_no_channel() {
    let mut world = World::new(5, Link::CLEAN, 0);
    for _ in 0..2 {
        let path_policy = PathPolicy::Direct;
        world.add(Config { limits: test_limits(), path_policy, ..Config::default() });
    }
    world.register();
    world.trust(0, 1);
    world.listen(1, 7);
    world.transfer(0, 1, 7, &pattern(50_000), secs(20));
    assert_eq!(world.server.stats().channels, 0);
    assert_eq!(world.server.stats().relayed_packets, 0);
}

/// The relayed path is taken at once and left when the direct one works.
#[test]
fn a_direct_path_that_opens_later_is_found() {
    let mut world = pair(6, Link::CLEAN);
    world.cut_agents(0, 1);
    world.listen(1, 7);
    let id = world.connect(0, 1, 7);
    world.run_until(secs(5), |w| w.saw(0, Event::StreamOpened(id)));
    assert_eq!(path(&world, 0), PathKind::Relayed);
    world.cut.clear();
    let took = world.run_until(secs(60), |w| path(w, 0) == PathKind::Direct);
    println!("upgraded after {took:?}");
    assert!(took <= secs(15), "{took:?}");
}

/// With memory for one path of each peer, a better one takes the place of a worse one, and a
/// stream goes on over each of them.
#[test]
fn who_has_a_place_for_one_path_still_finds_the_best() {
    let mut world = World::over(6, Link::CLEAN, 2, |limits| {
        let mut storage = Storage::boxed(limits);
        storage.transport.paths = Slab::<PathState>::boxed(limits.peers);
        storage
    });
    world.register();
    world.trust(0, 1);
    world.cut_agents(0, 1);
    world.listen(1, 7);
    world.listen(1, 8);
    let bytes = pattern(100_000);
    world.transfer(0, 1, 7, &bytes, secs(20));
    assert_eq!((path(&world, 0), path(&world, 1)), (PathKind::Relayed, PathKind::Relayed));
    for _ in 0..3 {
        // While a stream is open, a better path is looked for.
        let id = world.connect(0, 1, 8);
        world.cut.clear();
        let direct = |w: &mut World| [0, 1].iter().all(|n| path(w, *n) == PathKind::Direct);
        world.run_until(secs(60), direct);
        world.run_until(secs(5), |w| w.saw(0, Event::StreamOpened(id)));
        world.transfer(0, 1, 7, &bytes, secs(10));
        world.cut_agents(0, 1);
        world.transfer(0, 1, 7, &bytes, secs(60));
        assert_eq!((path(&world, 0), path(&world, 1)), (PathKind::Relayed, PathKind::Relayed));
    }
}

#[test]
fn loss_duplication_and_reordering_lose_no_byte() {
    for seed in 0..20 {
        let link = Link {
            delay: ms(5 + seed * 3),
            jitter: ms(20),
            loss: 30 * (seed % 4),
            duplicates: 20 * (seed % 3),
        };
        let mut world = World::new(100 + seed, link, 2);
        world.register();
        world.trust(0, 1);
        if seed % 2 == 1 {
            world.cut_agents(0, 1);
        }
        world.listen(1, 7);
        let took = world.transfer(0, 1, 7, &pattern(200_000), secs(120));
        println!("seed {seed}: {link:?}: {took:?}");
    }
}

/// `wire.md` 4.9: the next message to a peer that was killed and restarted arrives within 2 s
/// at a round trip of 200 ms.
#[test]
fn the_next_message_after_a_restart_arrives_within_two_seconds() {
    for (seed, relayed) in [(7, false), (8, true)] {
        let link = Link { delay: ms(100), ..Link::CLEAN };
        let mut world = pair(seed, link);
        if relayed {
            world.cut_agents(0, 1);
        }
        world.listen(1, 1001);
        world.transfer(0, 1, 1001, b"before", secs(20));
        world.kill(1);
        world.run(secs(1));
        world.revive(1);
        world.listen(1, 1001);
        world.run_until(secs(30), |w| w.agents[1].node.link() == pilot_core::node::Link::Online);
        let took = world.transfer(0, 1, 1001, b"after", secs(30));
        println!("relayed {relayed}: {took:?}");
        assert!(took <= secs(2), "relayed {relayed}: {took:?}");
    }
}

/// A second restart within the 5 s in which only one INIT answers a suspicion: that INIT is late
/// and not forgotten (`wire.md` 4.9).
#[test]
fn the_next_message_after_two_restarts_in_a_row_arrives() {
    for seed in [27, 28] {
        let mut world = pair(seed, Link { delay: ms(20), ..Link::CLEAN });
        world.listen(1, 1001);
        world.transfer(0, 1, 1001, b"before", secs(20));
        for _ in 0..3 {
            world.kill(1);
            world.run(ms(200));
            world.revive(1);
            world.listen(1, 1001);
            world
                .run_until(secs(30), |w| w.agents[1].node.link() == pilot_core::node::Link::Online);
            let took = world.transfer(0, 1, 1001, b"after", secs(30));
            assert!(took <= secs(7), "{took:?}");
        }
    }
}

#[test]
fn each_of_the_three_is_killed_and_addresses_and_trust_stay() {
    let mut world = pair(9, Link::CLEAN);
    world.listen(1, 1001);
    world.transfer(0, 1, 1001, b"one", secs(20));
    let addresses = (world.address(0), world.address(1));

    world.kill_server();
    world.transfer(0, 1, 1001, b"without the server", secs(20));
    world.revive_server();
    world.run(secs(60));
    world.transfer(0, 1, 1001, b"two", secs(20));

    for n in [0, 1] {
        world.kill(n);
        world.run(secs(5));
        world.revive(n);
        world.listen(n, 1001);
        if n == 0 {
            world.listen(1, 1002);
        }
        world.register();
        world.transfer(0, 1, if n == 0 { 1002 } else { 1001 }, b"three", secs(20));
        world.transfer(1, 0, 1001, b"four", secs(20));
    }
    assert_eq!((world.address(0), world.address(1)), addresses);
}

#[test]
fn streams_survive_a_rekey_and_a_suspend() {
    let mut world = pair(10, Link::CLEAN);
    world.listen(1, 7);
    let id = world.connect(0, 1, 7);
    let mut accepted = None;
    world.run_until(secs(5), |w| {
        accepted = accepted.or(w.agents[1].node.accept(Port(7)));
        accepted.is_some()
    });
    let accepted = accepted.unwrap();
    let mut got = Vec::new();
    let bytes = pattern(60_000);
    for (i, chunk) in bytes.chunks(1000).enumerate() {
        assert_eq!(world.write(0, id, chunk), chunk.len());
        world.run(secs(10));
        if i == 30 {
            let unix = world.unix();
            world.command(0, Command::ClockChanged { unix });
        }
        world.read(1, accepted, &mut got);
    }
    assert!(got == bytes, "600 s and five rekeys later {} bytes arrived", got.len());
}

/// Indices of the sessions under which `from` has sent data to anybody.
fn data_indices(world: &World, from: usize) -> std::collections::BTreeSet<[u8; 4]> {
    let socket = world.agents[from].socket;
    let sent = world.wire.iter().flatten().filter(|(source, ..)| *source == socket);
    let packets = sent.map(|(_, _, bytes)| match bytes[0] {
        // A relay frame: what is in it.
        0x30 => &bytes[12..],
        _ => &bytes[..],
    });
    packets.filter(|p| p[0] >= 0x80).map(|p| *p.first_chunk().unwrap()).collect()
}

#[test]
fn after_a_suspend_nothing_leaves_under_an_old_key() {
    let mut world = pair(14, Link::CLEAN);
    world.listen(1, 7);
    let id = world.connect(0, 1, 7);
    world.wire = Some(Vec::new());
    let mut accepted = None;
    world.run_until(secs(5), |w| {
        accepted = accepted.or(w.agents[1].node.accept(Port(7)));
        accepted.is_some()
    });
    world.run(secs(20));
    let mut sent = world.write(0, id, &pattern(100_000));
    world.run(ms(30));
    let before = data_indices(&world, 0);
    assert!(before.len() >= 2, "to the peer and to the beacon");
    // In the middle of a transfer, and with more to send at once.
    world.wire = Some(Vec::new());
    let unix = world.unix();
    world.command(0, Command::ClockChanged { unix });
    sent += world.write(0, id, &pattern(1000));
    let (mut got, accepted) = (Vec::new(), accepted.unwrap());
    world.run_until(secs(20), |w| {
        w.read(1, accepted, &mut got);
        got.len() >= sent
    });
    assert!(sent > 50_000 && got.len() == sent, "the stream survives");
    world.run(secs(30));
    let after = data_indices(&world, 0);
    assert!(after.len() >= 2 && after.is_disjoint(&before), "{before:x?} and then {after:x?}");
}

/// The ephemeral keys of the INITs that `from` has sent.
fn ephemerals(world: &World, from: usize) -> Vec<[u8; 32]> {
    let socket = world.agents[from].socket;
    let sent = world.wire.iter().flatten().filter(|(source, ..)| *source == socket);
    let packets = sent.map(|(_, _, bytes)| if bytes[0] == 0x30 { &bytes[12..] } else { bytes });
    packets.filter(|p| p[0] == 0x10).map(|p| *p[8..].first_chunk().unwrap()).collect()
}

/// Of a machine that was copied there are two with the same generator: fresh entropy parts
/// them before either makes a key.
#[test]
fn two_copies_of_a_machine_draw_different_keys_once_reseeded() {
    let copy = |entropy: Option<[u8; 32]>| {
        let mut world = pair(15, Link::CLEAN);
        world.listen(1, 7);
        let id = world.connect(0, 1, 7);
        world.run(secs(5));
        world.wire = Some(Vec::new());
        if let Some(entropy) = entropy {
            world.command(0, Command::Reseed { entropy });
        }
        let unix = world.unix();
        world.command(0, Command::ClockChanged { unix });
        world.write(0, id, b"more");
        world.run(secs(5));
        ephemerals(&world, 0)
    };
    let (one, two) = (copy(Some([1; 32])), copy(Some([2; 32])));
    // To the peer and to the beacon.
    assert!(one.len() >= 2 && two.len() >= 2, "{one:x?} {two:x?}");
    assert!(one.iter().all(|e| !two.contains(e)), "{one:x?} {two:x?}");
    // The control: copies that are not told so do make the same keys.
    assert_eq!(copy(None), copy(None));
}

#[test]
fn datagrams_arrive_and_too_large_ones_are_refused() {
    let mut world = pair(11, Link::CLEAN);
    world.command(1, Command::BindDatagrams { port: Port(5000) });
    world.listen(1, 7);
    world.transfer(0, 1, 7, b"x", secs(5));
    let to = SocketAddress { address: world.address(1), port: Port(5000) };
    let payload = pattern(1232 - 62);
    world.command(0, Command::SendDatagram { to, from: Port(50_000), payload: &payload });
    world.run(secs(1));
    let got = &world.agents[1].datagrams;
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].payload, payload);
    assert_eq!(got[0].from, SocketAddress { address: world.address(0), port: Port(50_000) });
    let now = world.now;
    let large = pattern(1232 - 61);
    let command = Command::SendDatagram { to, from: Port(50_000), payload: &large };
    let refused = world.agents[0].node.command(now, command);
    assert_eq!(refused, Err(CommandError::TooLarge(1170)));
}

#[test]
fn who_holds_no_grant_is_refused_without_a_packet() {
    let mut world = World::new(12, Link::CLEAN, 3);
    world.register();
    world.trust(0, 1);
    world.run(secs(1));
    world.wire = Some(Vec::new());
    let now = world.now;
    for to in [world.address(1), Address::backbone(NodeId(9999))] {
        let refused = world.agents[2].node.command(now, Command::Connect { to, port: Port(7) });
        assert_eq!(refused, Err(CommandError::NotTrusted));
    }
    world.drain();
    assert!(world.wire.unwrap().is_empty());
}

#[test]
fn refused_and_revoked() {
    let mut world = World::new(13, Link::CLEAN, 2);
    world.register();
    let (a, b) = (world.address(0), world.address(1));
    let justification = Justification::cleaned("please");
    world.command(0, Command::RequestTrust { to: b, justification });
    world.run_until(secs(10), |w| w.saw(1, Event::TrustRequested(a)));
    world.command(1, Command::RefuseTrust { from: a });
    world.run_until(secs(10), |w| w.saw(0, Event::TrustRefused(b)));

    world.trust(0, 1);
    world.listen(1, 7);
    world.transfer(0, 1, 7, b"x", secs(10));
    let id = world.connect(0, 1, 7);
    world.run_until(secs(5), |w| w.saw(0, Event::StreamOpened(id)));
    world.command(1, Command::RevokeTrust { peer: a });
    world.run_until(secs(5), |w| w.saw(0, Event::StreamClosed(id, StreamEnd::Revoked)));
    world.run(secs(5));
    assert!(world.saw(0, Event::TrustRevoked(b)));
    assert_eq!(world.agents[0].node.peers().count(), 0);
    assert_eq!(world.agents[1].node.peers().count(), 0);
    let now = world.now;
    let refused = world.agents[0].node.command(now, Command::Connect { to: b, port: Port(7) });
    assert_eq!(refused, Err(CommandError::NotTrusted));
}

/// Trust forged on one side alone: the attacker's node has the victim's record and believes it
/// is trusted; the victim says nothing at all (`wire.md` 4.5 step 5).
#[test]
fn forged_trust_gets_no_byte_back() {
    let mut world = pair(14, Link::CLEAN);
    world.listen(1, 7);
    world.transfer(0, 1, 7, b"x", secs(5));
    world.run(secs(400));
    // The attacker hears nothing of the revocation, and still knows where the victim is.
    world.cut_agents(0, 1);
    let a = world.address(0);
    world.command(1, Command::RevokeTrust { peer: a });
    world.run(secs(60));
    assert_eq!(world.agents[0].node.peers().count(), 1, "it believes that it is trusted");
    world.cut.clear();
    let untrusted = |w: &World| w.agents[1].node.drops().get(DropReason::Untrusted);
    let before = untrusted(&world);
    let (attacker, victim) = (world.agents[0].socket, world.agents[1].socket);
    world.wire = Some(Vec::new());
    let id = world.connect(0, 1, 7);
    world.run(secs(20));
    assert!(!world.saw(0, Event::StreamOpened(id)));
    let wire = world.wire.take().unwrap();
    let sent = |from, to| wire.iter().filter(|(f, t, _)| (*f, *t) == (from, to)).count();
    assert!(sent(attacker, victim) > 0, "the attack must reach its target");
    assert_eq!(sent(victim, attacker), 0);
    assert!(untrusted(&world) > before);
}

#[test]
fn a_stream_to_a_closed_port_is_refused_at_once() {
    let mut world = pair(15, Link::CLEAN);
    let id = world.connect(0, 1, 4242);
    let took = world.run_until(secs(5), |w| w.saw(0, Event::StreamClosed(id, StreamEnd::Refused)));
    assert!(took <= ms(500), "{took:?}");
}

#[test]
fn an_unreachable_peer_ends_streams_after_ninety_seconds() {
    let mut world = pair(16, Link::CLEAN);
    world.kill(1);
    let id = world.connect(0, 1, 7);
    let took =
        world.run_until(secs(200), |w| w.saw(0, Event::StreamClosed(id, StreamEnd::Unreachable)));
    println!("given up after {took:?}");
    assert!((secs(85)..=secs(100)).contains(&took), "{took:?}");
}

#[test]
fn an_idle_pair_is_silent_but_for_the_beacon() {
    let mut world = pair(17, Link::CLEAN);
    world.listen(1, 7);
    world.transfer(0, 1, 7, b"x", secs(5));
    world.run(secs(300));
    world.wire = Some(Vec::new());
    world.run(secs(300));
    let wire = world.wire.take().unwrap();
    let between = wire.iter().filter(|(f, t, _)| *f != beacon_socket() && *t != beacon_socket());
    let between: Vec<_> = between.map(|(f, t, p)| (f, t, p.len(), p[0])).collect();
    assert!(between.is_empty(), "{between:?}");
    // A keepalive and its answer each 15 s ± 10 %, of two agents.
    assert!((70..=100).contains(&wire.len()), "{}", wire.len());
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let run = || {
        let link = Link { delay: ms(20), jitter: ms(30), loss: 50, duplicates: 20 };
        let mut world = World::new(18, link, 2);
        world.wire = Some(Vec::new());
        world.register();
        world.trust(0, 1);
        world.listen(1, 7);
        world.transfer(0, 1, 7, &pattern(100_000), secs(60));
        world.wire.unwrap()
    };
    assert!(run() == run());
}

#[test]
fn message_bytes_never_appear_on_the_wire_and_a_data_packet_costs_62_bytes() {
    let mut world = pair(19, Link::CLEAN);
    world.listen(1, 7);
    world.transfer(0, 1, 7, b"x", secs(5));
    world.wire = Some(Vec::new());
    let secret = b"the quick brown fox jumps over the lazy dog, unseen";
    let bytes: Vec<u8> = secret.iter().copied().cycle().take(secret.len() * 2000).collect();
    world.transfer(0, 1, 7, &bytes, secs(10));
    let (a, b) = (world.agents[0].socket, world.agents[1].socket);
    let wire = world.wire.take().unwrap();
    let contains = |packet: &[u8]| packet.windows(16).any(|w| w == &secret[..16]);
    assert!(contains(&bytes[..1000]), "the checker finds cleartext");
    assert!(!wire.iter().any(|(_, _, packet)| contains(packet)));
    let full: Vec<_> = wire.iter().filter(|(f, t, p)| (*f, *t, p.len()) == (a, b, 1232)).collect();
    let most = bytes.len() / (1232 - 62);
    assert!(full.len() >= most && full.len() <= most + 4, "{} of {most}", full.len());
}

#[test]
fn time_may_stand_still_or_go_back() {
    let mut world = pair(20, Link::CLEAN);
    let now = world.now;
    let node = &mut world.agents[0].node;
    use pilot_core::machine::Machine as _;
    node.handle_timeout(now.minus(Duration::from_secs(100)));
    node.handle_timeout(now);
    let at = node.poll_timeout().unwrap().at;
    assert!(at > now);
    node.handle_timeout(now);
    assert_eq!(node.poll_timeout().unwrap().at, at, "an early call changes nothing");
}

#[test]
fn who_shuts_down_says_goodbye_to_peers_and_beacon() {
    for (seed, relayed) in [(21, false), (22, true)] {
        let mut world = pair(seed, Link::CLEAN);
        if relayed {
            world.cut_agents(0, 1);
        }
        world.listen(1, 7);
        let id = world.connect(0, 1, 7);
        world.run_until(secs(5), |w| w.saw(0, Event::StreamOpened(id)));
        world.run(secs(1));
        let online = world.server.stats().agents;
        world.command(1, Command::Shutdown);
        let took = world.run_until(secs(5), |w| w.saw(0, Event::StreamClosed(id, StreamEnd::Gone)));
        assert!(took <= ms(100), "relayed {relayed}: {took:?}");
        assert_eq!(world.server.stats().agents, online - 1, "relayed {relayed}");
    }
}

/// A copy of a home takes the identity over: the first one is fenced and tells its peers.
#[test]
fn a_fenced_agent_tells_its_peers() {
    let mut world = pair(23, Link::CLEAN);
    world.listen(1, 7);
    let id = world.connect(0, 1, 7);
    world.run_until(secs(5), |w| w.saw(0, Event::StreamOpened(id)));
    let config = Config { limits: test_limits(), takeover: true, ..Config::default() };
    world.run(secs(1));
    world.add_copy(1, config);
    let took = world.run_until(secs(20), |w| w.saw(1, Event::Fenced));
    println!("fenced after {took:?}");
    world.run_until(secs(1), |w| w.saw(0, Event::StreamClosed(id, StreamEnd::Gone)));
    let now = world.now;
    let address = world.address(0);
    let refused =
        world.agents[1].node.command(now, Command::Connect { to: address, port: Port(7) });
    assert_eq!(refused, Err(CommandError::Fenced));
}

fn allow(world: &mut World, n: usize, peer: usize, text: &str) {
    let permissions = text.parse().unwrap();
    let peer = world.address(peer);
    world.command(n, Command::SetPermissions { peer, permissions });
}

/// A right that goes takes its open streams with it within one way; the others go on, and so
/// do those that the one who took it has opened. The peer is told its new grant.
#[test]
fn a_right_that_is_taken_ends_its_streams_at_once() {
    for (latency, text) in [(0, "message,ports"), (1, "echo,message,ports=9000-9002+9004")] {
        let mut world = pair(30 + latency, Link::CLEAN);
        let forbidden = [7, 9003][latency as usize];
        world.listen(0, forbidden);
        for port in [forbidden, 9000] {
            world.listen(1, port);
        }
        let (gone, stays) = (world.connect(0, 1, forbidden), world.connect(0, 1, 9000));
        let ours = world.connect(1, 0, forbidden);
        world.run_until(secs(5), |w| {
            [(0, gone), (0, stays), (1, ours)]
                .iter()
                .all(|(n, id)| w.saw(*n, Event::StreamOpened(*id)))
        });
        let accepted = world.agents[1].node.accept(Port(forbidden)).expect("it is open");
        let kept = world.agents[1].node.accept(Port(9000)).expect("it is open");
        // One more waits in the queue.
        let queued = world.connect(0, 1, forbidden);
        world.run_until(secs(5), |w| w.saw(0, Event::StreamOpened(queued)));
        allow(&mut world, 1, 0, text);
        let at_once = world.saw(1, Event::StreamClosed(accepted, StreamEnd::Reset));
        assert!(at_once, "its own end is over with the command");
        assert_eq!(world.agents[1].node.accept(Port(forbidden)), None);
        let took = world.run_until(secs(5), |w| {
            [gone, queued]
                .iter()
                .all(|id| w.saw(0, Event::StreamClosed(*id, StreamEnd::NotPermitted)))
        });
        assert!(took <= ms(20), "{took:?}");
        world.write(0, stays, b"still here");
        world.write(1, ours, b"here too");
        let back = world.agents[0].node.accept(Port(forbidden)).expect("it is open");
        let (mut there, mut here) = (Vec::new(), Vec::new());
        world.run_until(secs(5), |w| {
            w.read(1, kept, &mut there);
            w.read(0, back, &mut here);
            there == b"still here" && here == b"here too"
        });
        // Nor does it open another one, nor reach a port where nobody is told from nothing.
        for port in [forbidden, 1002] {
            let again = world.connect(0, 1, port);
            world.run_until(secs(5), |w| {
                w.saw(0, Event::StreamClosed(again, StreamEnd::NotPermitted))
            });
        }
        let rights = |w: &World| w.agents[0].node.peers().next().expect("a peer").granted;
        let wanted = text.parse::<Permissions>().unwrap().rights();
        world.run_until(secs(5), |w| rights(w) == wanted);

        // Given back, it works; and all of it outlives a restart.
        allow(&mut world, 1, 0, "none");
        world.kill(1);
        world.revive(1);
        world.register();
        let peer = |w: &World| w.agents[1].node.peers().next().expect("a peer").permissions;
        assert_eq!(peer(&world), Permissions::NONE);
        allow(&mut world, 1, 0, "all");
        world.listen(1, forbidden);
        world.transfer(0, 1, forbidden, b"again", secs(20));
    }
}
