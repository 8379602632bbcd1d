//! The beacon: handshakes, sessions, channels, paths, STUN.

use super::*;
use crate::machine::{Ecn, Ingress, Machine, Path, SocketId};
use crate::path::ChannelId;
use crate::rendezvous::*;
use crate::session::handshake::write_mac2;
use crate::stats::DropReason;
use crate::time::Duration;
use crate::wire::control::{self, BeaconError, ChannelInfo, EndpointKind, FromBeacon, ToBeacon};
use crate::wire::frame::{self, Direction, RelayKey};
use crate::wire::registry::{Answer, Request, Resolved, Target};
use crate::wire::{Bytes, GrantBytes, stun};
use core::net::SocketAddr;
use std::vec::Vec;

const KEEPALIVE: ToBeacon = ToBeacon::Keepalive { candidates: None, nat: None };

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A relay frame of one end, with a data frame in it.
fn relay_frame(end: &ChannelInfo, fill: u8, len: usize) -> Vec<u8> {
    let mut bytes = std::vec![0; 12 + len];
    bytes[12..].fill(fill);
    bytes[12] = 0x80;
    frame::wrap(&RelayKey(end.key.0), Direction::ToBeacon, end.channel, &mut bytes);
    bytes
}

fn dropped(reason: DropReason) -> Ingress<'static> {
    Ingress::Dropped(reason)
}

fn error(answer: Option<FromBeacon>) -> BeaconError {
    match answer {
        Some(FromBeacon::Error { error, .. }) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_agents_exchange_relayed_frames() {
    let mut world = World::new();
    let (a, mut at_a, of_a, b, mut at_b, of_b) = world.bound();
    assert_eq!((of_a.peer, of_b.peer), (b.address(), a.address()));
    assert_eq!((of_a.identity.0, of_b.identity.0), (b.key().0, a.key().0));
    assert_eq!((of_a.observed, of_b.observed), (b.from, a.from));
    assert!(of_a.channel != of_b.channel && of_a.key != of_b.key);
    for (from, own, to, other) in [(&a, &of_a, &b, &of_b), (&b, &of_b, &a, &of_a)] {
        for len in [28, 29, 1200] {
            let sent = relay_frame(own, 7, len);
            assert_eq!(world.datagram(from.from, &sent), Ingress::Handled);
            let [got] = &world.sent_to(to.from)[..] else { panic!() };
            assert_eq!(frame::relay_channel(got), Some(other.channel));
            let mut got = got.clone();
            let key = RelayKey(other.key.0);
            let packet = frame::unwrap(&key, Direction::FromBeacon, &mut got).unwrap();
            assert_eq!(packet, &sent[12..]);
        }
    }
    let stats = world.machine.stats();
    assert_eq!((stats.relayed_packets, stats.relayed_bytes), (6, 2 * (28 + 29 + 1200 + 36)));
    assert_eq!((stats.agents, stats.channels), (2, 1));
    // From any address: the MAC counts, and the answer goes to the validated path.
    let frame = relay_frame(&of_a, 1, 40);
    assert_eq!(world.datagram(addr("198.51.100.1:1"), &frame), Ingress::Handled);
    assert_eq!(world.sent_to(b.from).len(), 1);
    assert!(world.outbox.is_empty());
    // Bind again, by either: the same channel.
    let again = world.tell(&mut at_a, &ToBeacon::Bind { grant: b.grant(world.registry_key(), &a) });
    assert_eq!(again, Some(FromBeacon::Channel(of_a)));
    let other = world.tell(&mut at_b, &ToBeacon::Bind { grant: a.grant(world.registry_key(), &b) });
    assert_eq!(other, Some(FromBeacon::Channel(of_b)));
}

#[test]
fn relay_frames_are_taken_only_as_they_were_made() {
    let mut world = World::new();
    let (a, _, of_a, b, _, of_b) = world.bound();
    let good = relay_frame(&of_a, 7, 60);
    for bit in 0..(12 + 32) * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(world.datagram(a.from, &bad), Ingress::Dropped(_)), "bit {bit}");
    }
    assert_eq!(world.datagram(a.from, &good[..71]), dropped(DropReason::Mac));
    assert_eq!(world.datagram(a.from, &good[..12]), dropped(DropReason::Malformed));
    // The beacon's own direction, sent back to it.
    let mut reflected = good.clone();
    frame::wrap(&RelayKey(of_a.key.0), Direction::FromBeacon, of_a.channel, &mut reflected);
    assert_eq!(world.datagram(a.from, &reflected), dropped(DropReason::Mac));
    // Under the other end's id.
    let mut swapped = good.clone();
    frame::wrap(&RelayKey(of_a.key.0), Direction::ToBeacon, of_b.channel, &mut swapped);
    assert_eq!(world.datagram(a.from, &swapped), dropped(DropReason::Mac));
    let unknown = ChannelId(of_a.channel.0 ^ of_b.channel.0 ^ 1);
    frame::wrap(&RelayKey(of_a.key.0), Direction::ToBeacon, unknown, &mut swapped);
    assert_eq!(world.datagram(a.from, &swapped), dropped(DropReason::UnknownChannel));
    // A relay frame in a relay frame, and STUN in one.
    let mut nested = std::vec![0; 12];
    nested.extend(&good);
    frame::wrap(&RelayKey(of_a.key.0), Direction::ToBeacon, of_a.channel, &mut nested);
    assert_eq!(world.datagram(a.from, &nested), dropped(DropReason::UnknownType));
    assert!(world.sent_to(b.from).is_empty());
    assert_eq!(world.datagram(a.from, &good), Ingress::Handled);
}

#[test]
fn a_cookie_is_always_required() {
    let mut world = World::new();
    let (mut home, _) = world.registered();
    let (initiator, mut init) = world.init(&mut home);
    let _ = world.datagram(home.from, &init);
    let [cookie] = &world.sent_to(home.from)[..] else { panic!() };
    assert_eq!(cookie.len(), 64);
    assert_eq!(world.machine.stats().agents, 0);
    // Another source's cookie is none; it gets its own cookie, and no handshake.
    let cookie = initiator.read_cookie(cookie).unwrap();
    write_mac2(&mut init, Some(&cookie));
    for other in ["192.0.2.1:4001", "192.0.2.99:4000", "[2001:db8::1]:4000"] {
        let _ = world.datagram(addr(other), &init);
        let [answer] = &world.sent_to(addr(other))[..] else { panic!() };
        assert_eq!((answer[0], answer.len()), (0x12, 64));
    }
    assert_eq!((world.machine.stats().handshakes, world.machine.stats().agents), (0, 0));
    // Two rotations later the cookie is too old.
    world.sleep(Duration::from_secs(241));
    let _ = world.datagram(home.from, &init);
    assert_eq!(world.sent_to(home.from)[0][0], 0x12);
    world.handshake(&mut home).unwrap();
    assert_eq!((world.machine.stats().handshakes, world.machine.stats().agents), (1, 1));
}

#[test]
fn strangers_get_no_session() {
    let mut world = World::new();
    let (mut home, mut link) = world.registered();
    // An unregistered identity, one with another's address, one with an old or a new record.
    let mut stranger = world.home();
    (stranger.node, stranger.serial) = (Some(crate::addr::NodeId(999)), 1);
    assert!(world.handshake(&mut stranger).is_none());
    stranger.node = home.node;
    assert!(world.handshake(&mut stranger).is_none());
    home.serial = 2;
    assert!(world.handshake(&mut home).is_none());
    world.register(&mut home, &mut link).unwrap();
    assert_eq!(world.machine.drops().get(DropReason::Untrusted), 3);
    // A tunnel key that the record does not have.
    let mut other = home.copy();
    other.tunnel = crate::crypto::TunnelSecret::from_secret([99; 32]);
    assert!(world.handshake(&mut other).is_none());
    assert_eq!(world.machine.stats().agents, 0);
    // A wrong mac1 is not even answered with a cookie.
    let (_, mut init) = world.init(&mut home);
    let n = init.len();
    init[n - 20] ^= 1;
    assert_eq!(world.datagram(home.from, &init), dropped(DropReason::Mac));
    assert!(world.sent_to(home.from).is_empty());
}

#[test]
fn the_same_init_gets_the_same_resp_32_times() {
    let mut world = World::new();
    let (mut home, _) = world.registered();
    let agent = world.handshake(&mut home).unwrap();
    let mut answers = Vec::new();
    for n in 0..40 {
        let result = world.datagram(home.from, &agent.init);
        let expected = if n < 32 { Ingress::Handled } else { dropped(DropReason::RateLimited) };
        assert_eq!(result, expected);
        answers.extend(world.sent_to(home.from));
    }
    assert_eq!(answers.len(), 32);
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer[0] == 0x11));
    // From elsewhere: the answer still goes to where the first one came from.
    let mut agent = world.handshake(&mut home).unwrap();
    let _ = world.datagram(addr("198.51.100.66:6"), &agent.init);
    assert!(world.sent_to(addr("198.51.100.66:6")).is_empty());
    assert_eq!(world.sent_to(home.from).len(), 1);
    // After confirmation it is stale, once a second.
    assert!(world.tell(&mut agent, &home.hello()).is_some());
    for _ in 0..3 {
        assert_eq!(world.datagram(home.from, &agent.init), dropped(DropReason::Stale));
    }
    let [stale] = &world.sent_to(home.from)[..] else { panic!() };
    assert_eq!((stale[0], stale.len()), (0x13, 56));
    assert!(world.tell(&mut agent, &KEEPALIVE).is_some());
}

#[test]
fn an_old_number_heals() {
    let mut world = World::new();
    let (mut home, _) = world.registered();
    home.hs_seq = 1000;
    let mut agent = world.agent(&mut home);
    // The agent's clock was set back.
    home.hs_seq = 5;
    world.sleep(Duration::from_secs(6));
    let mut later = world.handshake(&mut home).unwrap();
    assert!(home.hs_seq > 1000);
    // Until the new session says Hello the old one works.
    assert!(world.tell(&mut agent, &KEEPALIVE).is_some());
    assert!(world.tell(&mut later, &home.hello()).is_some());
    let frame = agent.seal(world.now, &[]);
    assert_eq!(world.datagram(home.from, &frame), dropped(DropReason::UnknownIndex));
    assert!(world.tell(&mut later, &KEEPALIVE).is_some());
    assert_eq!(world.machine.stats().agents, 1);
}

#[test]
fn hello_comes_first_and_with_the_current_boot() {
    let mut world = World::new();
    let (mut home, _) = world.registered();
    let mut agent = world.handshake(&mut home).unwrap();
    assert_eq!(error(world.tell(&mut agent, &KEEPALIVE)), BeaconError::NotRegistered);
    let ToBeacon::Hello { address, boot_id, candidates, nat } = home.hello() else { panic!() };
    let other = crate::addr::Address::backbone(crate::addr::NodeId(999));
    let wrong = ToBeacon::Hello { address: other, boot_id, candidates: candidates.clone(), nat };
    assert_eq!(error(world.tell(&mut agent, &wrong)), BeaconError::NotPermitted);
    let wrong = ToBeacon::Hello { address, boot_id: 1, candidates, nat };
    assert_eq!(error(world.tell(&mut agent, &wrong)), BeaconError::NotRegistered);
    let answer = world.tell(&mut agent, &home.hello());
    let Some(FromBeacon::HelloAck { observed, alternates, waiting }) = answer else { panic!() };
    assert_eq!((observed, alternates.len(), waiting), (home.from, 0, false));
    let answer = world.tell(&mut agent, &KEEPALIVE);
    assert_eq!(answer, Some(FromBeacon::KeepaliveAck { observed: home.from, waiting: false }));
    // Nonsense is answered with its id.
    let _ = world.frame(&mut agent, &[0xFE, 1, 2, 99, 99]);
    let _ = world.frame(&mut agent, &[0xFE, 1]);
    world.collect(&mut agent);
    let answers: Vec<_> = agent.inbox.drain(..).collect();
    let (id, message) = control::decode::<FromBeacon>(&answers[0]).unwrap();
    assert_eq!((id, error(Some(message)), answers.len()), (0x0102, BeaconError::Malformed, 1));
    // Ping, unknown control, replay.
    let _ = world.frame(&mut agent, &[0xF0, 1, 2, 3, 4, 5, 6, 7, 8]);
    world.collect(&mut agent);
    assert_eq!(agent.inbox.pop_front().unwrap(), [0xF1, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(world.frame(&mut agent, &[0xFC, 1]), dropped(DropReason::UnknownControl));
    let frame = agent.seal(world.now, &[]);
    assert_eq!(world.datagram(home.from, &frame), Ingress::Handled);
    assert_eq!(world.datagram(home.from, &frame), dropped(DropReason::Replay));
}

#[test]
fn who_may_bind_to_whom() {
    let mut config = RendezvousConfig::default();
    config.limits.channels_per_node = 2;
    let mut world = World::with(config);
    let registry = world.registry_key();
    let (mut a, _) = world.registered();
    let mut at_a = world.agent(&mut a);
    let mut others: Vec<_> = (0..4).map(|_| world.registered()).collect();
    let grant = |n: usize, others: &Vec<(Home, Link)>| others[n].0.grant(registry, &a);
    let bind = |world: &mut World, agent: &mut Agent, grant: GrantBytes| {
        world.tell(agent, &ToBeacon::Bind { grant })
    };
    // Registered and not here.
    let answer = bind(&mut world, &mut at_a, grant(0, &others));
    assert_eq!(answer, Some(FromBeacon::Error { error: BeaconError::Offline, retry_ms: 1000 }));
    let mut agents: Vec<_> = others.iter_mut().map(|(home, _)| world.agent(home)).collect();
    // A grant to somebody else, of oneself, forged.
    let stolen = others[0].0.grant(registry, &others[1].0);
    let mut forged = grant(0, &others);
    forged.0[80] ^= 1;
    for wrong in [stolen, a.grant(registry, &a), a.grant(registry, &others[0].0), forged] {
        let answer = bind(&mut world, &mut at_a, wrong);
        assert_eq!(error(answer), BeaconError::NotPermitted);
    }
    for n in 0..2 {
        let answer = bind(&mut world, &mut at_a, grant(n, &others));
        assert!(matches!(answer, Some(FromBeacon::Channel(_))), "{answer:?}");
    }
    assert_eq!(error(bind(&mut world, &mut at_a, grant(2, &others))), BeaconError::Quota);
    // The other end's quota counts too.
    let own = a.grant(registry, &others[3].0);
    assert_eq!(error(bind(&mut world, &mut agents[3], own)), BeaconError::Quota);
    // Bound before is not bound anew.
    assert!(matches!(bind(&mut world, &mut at_a, grant(1, &others)), Some(FromBeacon::Channel(_))));
    assert_eq!(world.machine.stats().channels, 2);
}

#[test]
fn bound_is_repeated_until_acknowledged() {
    let mut world = World::new();
    let ((mut a, _), (mut b, _)) = (world.registered(), world.registered());
    let (mut at_a, mut at_b) = (world.agent(&mut a), world.agent(&mut b));
    let grant = b.grant(world.registry_key(), &a);
    world.tell(&mut at_a, &ToBeacon::Bind { grant });
    let start = world.now;
    let mut times = Vec::new();
    let mut bound = None;
    for _ in 0..400 {
        for message in world.unasked(&mut at_b) {
            let FromBeacon::Bound(info) = message else { panic!("{message:?}") };
            times.push(world.now.since(start).as_millis());
            bound = Some(info);
        }
        world.sleep(ms(10));
    }
    assert_eq!(times, [0, 300, 900, 2100]);
    // A new boot of the agent: told again, until it acknowledges.
    let bound = bound.unwrap();
    b.boot_id += 1;
    let mut link = world.connect(&b);
    let mut request = b.registration(world.registry_key());
    request.earlier.push(b.boot_id - 1).unwrap();
    world.register_with(&mut link, request).unwrap();
    let mut at_b = world.agent(&mut b);
    assert_eq!(world.unasked(&mut at_b), [FromBeacon::Bound(bound.clone())]);
    world.sleep(ms(300));
    assert_eq!(world.unasked(&mut at_b), [FromBeacon::Bound(bound.clone())]);
    world.tell(&mut at_b, &ToBeacon::BoundAck { channel: bound.channel });
    world.sleep(Duration::from_secs(5));
    assert!(world.unasked(&mut at_b).is_empty());
    // A rekey of the same boot: the channel lives, and nothing is told.
    let mut at_b = world.agent(&mut b);
    world.sleep(ms(500));
    assert!(world.unasked(&mut at_b).is_empty());
    assert_eq!(world.machine.stats().channels, 1);
}

#[test]
fn channels_end() {
    // Idle: used ones live.
    let mut world = World::new();
    let (a, mut at_a, of_a, b, mut at_b, of_b) = world.bound();
    let frame = relay_frame(&of_b, 1, 40);
    for _ in 0..40 {
        world.sleep(Duration::from_secs(15));
        world.tell(&mut at_a, &KEEPALIVE).unwrap();
        world.tell(&mut at_b, &KEEPALIVE).unwrap();
        assert_eq!(world.datagram(b.from, &frame), Ingress::Handled);
    }
    world.collect(&mut at_a);
    at_a.inbox.clear();
    for _ in 0..20 {
        assert_eq!(world.machine.stats().channels, 1);
        world.sleep(Duration::from_secs(15));
        world.tell(&mut at_a, &KEEPALIVE).unwrap();
        world.tell(&mut at_b, &KEEPALIVE).unwrap();
    }
    assert_eq!(world.machine.stats().channels, 0);
    assert_eq!(world.unasked(&mut at_a), [FromBeacon::Unbound { channel: of_a.channel }]);
    assert_eq!(world.unasked(&mut at_b), [FromBeacon::Unbound { channel: of_b.channel }]);
    assert_eq!(world.datagram(b.from, &frame), dropped(DropReason::UnknownChannel));

    // Released, by the end that was bound; only its own end.
    let grant = b.grant(world.registry_key(), &a);
    let answer = world.tell(&mut at_a, &ToBeacon::Bind { grant });
    let Some(FromBeacon::Channel(of_a)) = answer else { panic!("{answer:?}") };
    let told = world.unasked(&mut at_b);
    let [FromBeacon::Bound(of_b)] = &told[..] else { panic!("{told:?}") };
    let (own, other) = (of_b.channel, of_a.channel);
    let answer = world.tell(&mut at_b, &ToBeacon::Release { channel: other });
    assert_eq!(answer, Some(FromBeacon::Unbound { channel: other }));
    assert_eq!(world.machine.stats().channels, 1);
    let answer = world.tell(&mut at_b, &ToBeacon::Release { channel: own });
    assert_eq!(answer, Some(FromBeacon::Unbound { channel: own }));
    assert_eq!(world.unasked(&mut at_a), [FromBeacon::Unbound { channel: other }]);
    assert_eq!(world.machine.stats().channels, 0);

    // Revoked, by the grantor, though the other bound it.
    world.tell(&mut at_a, &ToBeacon::Bind { grant });
    world.unasked(&mut at_b);
    let mut link = world.connect(&b);
    let hash = Bytes(crate::crypto::kdf::sha256(&[&grant.0])[..8].try_into().unwrap());
    let revoke = Request::Revoke { grantee: Bytes(a.key().0), hash };
    assert_eq!(reply(&world.ask(&mut link, &revoke)), Ok(Answer::Done));
    assert!(matches!(world.unasked(&mut at_a)[..], [FromBeacon::Unbound { .. }]));
    assert!(matches!(world.unasked(&mut at_b)[..], [FromBeacon::Unbound { .. }]));
    let answer = world.tell(&mut at_a, &ToBeacon::Bind { grant });
    assert_eq!(error(answer), BeaconError::NotPermitted);
}

#[test]
fn a_path_is_followed_only_when_it_answers() {
    let mut world = World::new();
    let (a, mut at_a, _, b, mut at_b, of_b) = world.bound();
    let relayed = relay_frame(&of_b, 1, 40);
    let (old, new) = (at_a.from, addr("198.51.100.50:999"));
    // An off-path attacker forwards a copy faster: challenged, and nothing moves.
    let copy = at_a.seal(world.now, &[]);
    assert_eq!(world.datagram(new, &copy), Ingress::Handled);
    assert_eq!(world.datagram(old, &copy), dropped(DropReason::Replay));
    let mut challenges = world.sent_to(new).len();
    for _ in 0..40 {
        world.sleep(ms(100));
        challenges += world.sent_to(new).len();
    }
    // 28 bytes came, so three F2 of 37 bytes would be more than three times as much.
    assert_eq!(challenges, 2);
    let _ = world.datagram(b.from, &relayed);
    assert_eq!(world.sent_to(old).len(), 1);
    // The agent roams: F2 arrives at the new address, F3 from there moves everything.
    let frame = at_a.seal(world.now, &[]);
    let _ = world.datagram(new, &frame);
    let [mut challenge]: [Vec<u8>; 1] = world.sent_to(new).try_into().unwrap();
    at_a.session.open(world.now, &crate::crypto::RUST_CRYPTO, &mut challenge).unwrap();
    assert_eq!(challenge[12], control::PATH_CHALLENGE);
    let mut response = challenge[12..21].to_vec();
    response[0] = control::PATH_RESPONSE;
    // From the old path it proves nothing about the new one; with other bytes neither.
    assert_eq!(world.frame(&mut at_a, &response), dropped(DropReason::Unasked));
    let mut wrong = response.clone();
    wrong[8] ^= 1;
    let frame = at_a.seal(world.now, &wrong);
    assert_eq!(world.datagram(new, &frame), dropped(DropReason::Unasked));
    let _ = world.datagram(b.from, &relayed);
    assert_eq!(world.sent_to(old).len(), 1);
    let frame = at_a.seal(world.now, &response);
    assert_eq!(world.datagram(new, &frame), Ingress::Handled);
    let _ = world.datagram(b.from, &relayed);
    assert_eq!((world.sent_to(old).len(), world.sent_to(new).len()), (0, 1));
    at_a.from = new;
    let answer = world.tell(&mut at_a, &KEEPALIVE);
    assert_eq!(answer, Some(FromBeacon::KeepaliveAck { observed: new, waiting: false }));
    // Who binds again learns the new endpoint.
    let grant = a.grant(world.registry_key(), &b);
    let answer = world.tell(&mut at_b, &ToBeacon::Bind { grant });
    let Some(FromBeacon::Channel(info)) = answer else { panic!("{answer:?}") };
    assert_eq!((info.channel, info.observed), (of_b.channel, new));
}

#[test]
fn path_validations_are_rare_and_small() {
    let mut world = World::new();
    let (mut home, _) = world.registered();
    let mut agent = world.agent(&mut home);
    let mut sent = 0;
    for n in 0..50u16 {
        // Every frame from another address, as an attacker that copies would do.
        let from = SocketAddr::new([198, 51, 100, 9].into(), 1000 + n);
        let frame = agent.seal(world.now, &[]);
        let _ = world.datagram(from, &frame);
        sent += world.sent_to(from).len();
        world.sleep(ms(10));
    }
    assert_eq!(sent, 1);
    // F2 of the agent is answered on its own path, byte for byte.
    let from = addr("198.51.100.10:7");
    let frame = agent.seal(world.now, &[0xF2, 8, 7, 6, 5, 4, 3, 2, 1]);
    let _ = world.datagram(from, &frame);
    let answers = world.sent_to(from);
    let mut f3: Vec<_> = answers.into_iter().filter(|f| f.len() == frame.len()).collect();
    let mut found = false;
    for answer in &mut f3 {
        agent.session.open(world.now, &crate::crypto::RUST_CRYPTO, answer).unwrap();
        found |= answer[12..21] == [0xF3, 8, 7, 6, 5, 4, 3, 2, 1];
    }
    assert!(found);
}

#[test]
fn a_taken_over_agent_is_fenced() {
    let mut world = World::new();
    let (mut home, _) = world.registered();
    let mut agent = world.agent(&mut home);
    let mut copy = home.copy();
    copy.boot_id = 5;
    copy.from = addr("198.51.100.20:4000");
    let mut link = world.connect(&copy);
    let mut request = copy.registration(world.registry_key());
    // A stale copy that wakes up gets a session and never displaces the registered one.
    copy.hs_seq = home.hs_seq + 10;
    let mut stale = world.handshake(&mut copy).unwrap();
    assert_eq!(error(world.tell(&mut stale, &copy.hello())), BeaconError::NotRegistered);
    assert!(matches!(world.tell(&mut agent, &KEEPALIVE), Some(FromBeacon::KeepaliveAck { .. })));
    request.takeover = true;
    world.register_with(&mut link, request).unwrap();
    assert_eq!(world.unasked(&mut agent), [FromBeacon::Fenced]);
    assert_eq!(world.tell(&mut agent, &KEEPALIVE), Some(FromBeacon::Fenced));
    assert_eq!(world.tell(&mut agent, &home.hello()), Some(FromBeacon::Fenced));
    // The new one is served, with the very session that was refused before.
    let answer = world.tell(&mut stale, &copy.hello());
    assert!(matches!(answer, Some(FromBeacon::HelloAck { .. })), "{answer:?}");
    assert_eq!(world.machine.stats().agents, 1);
}

fn resolve(world: &mut World, link: &mut Link, target: &Home, grant: GrantBytes) -> Resolved {
    let target = Target::Address(target.address());
    let answer = world.ask(link, &Request::Resolve { target, network: None, grant: Some(grant) });
    match reply(&answer) {
        Ok(Answer::Resolved(resolved)) => resolved,
        other => panic!("{other:?}"),
    }
}

#[test]
fn endpoints_are_told_while_the_agent_is_here() {
    let mut world = World::new();
    let ((mut a, _), (b, mut link)) = (world.registered(), world.registered());
    let grant = a.grant(world.registry_key(), &b);
    assert!(resolve(&mut world, &mut link, &a, grant).reach.unwrap().endpoints.is_empty());
    let mut agent = world.agent(&mut a);
    let reach = resolve(&mut world, &mut link, &a, grant).reach.unwrap();
    let seen: Vec<_> = reach.endpoints.iter().map(|e| (e.kind, e.address)).collect();
    let host = (EndpointKind::Host, addr("10.0.0.1:4000"));
    assert_eq!(seen, [(EndpointKind::Observed, a.from), host]);
    assert_eq!(reach.beacon.unwrap().addresses[..], [addr(REGISTRY)]);
    // New candidates with a keepalive.
    let candidates = Some(control::Candidates::new());
    world.tell(&mut agent, &ToBeacon::Keepalive { candidates, nat: None });
    let reach = resolve(&mut world, &mut link, &a, grant).reach.unwrap();
    assert_eq!(reach.endpoints.len(), 1);
    // Silent for a minute: not here. It comes back by itself.
    world.sleep(Duration::from_secs(59));
    let mut link = world.connect(&b);
    assert_eq!(resolve(&mut world, &mut link, &a, grant).reach.unwrap().endpoints.len(), 1);
    world.sleep(Duration::from_secs(1));
    assert!(resolve(&mut world, &mut link, &a, grant).reach.unwrap().endpoints.is_empty());
    assert!(world.tell(&mut agent, &KEEPALIVE).is_some());
    assert_eq!(resolve(&mut world, &mut link, &a, grant).reach.unwrap().endpoints.len(), 1);
    // It says goodbye.
    let _ = world.frame(&mut agent, &[control::CLOSE, 0]);
    assert!(resolve(&mut world, &mut link, &a, grant).reach.unwrap().endpoints.is_empty());
    assert_eq!(world.machine.stats().agents, 0);
    // Silence ends a session; so does its age.
    let mut agent = world.agent(&mut a);
    world.sleep(Duration::from_secs(301));
    assert_eq!(world.machine.stats().agents, 0);
    let frame = agent.seal(world.now, &[]);
    assert_eq!(world.datagram(a.from, &frame), dropped(DropReason::UnknownIndex));
    let mut agent = world.agent(&mut a);
    for _ in 0..259 {
        world.sleep(Duration::from_secs(15));
        assert!(world.tell(&mut agent, &KEEPALIVE).is_some());
    }
    world.sleep(Duration::from_secs(15));
    assert_eq!(world.machine.stats().agents, 0);
}

#[test]
fn a_handshake_that_is_never_confirmed_leaves_nothing() {
    let mut world = World::new();
    let (mut home, _) = world.registered();
    world.handshake(&mut home).unwrap();
    assert_eq!(world.machine.stats().agents, 1);
    world.sleep(Duration::from_secs(16));
    assert_eq!(world.machine.stats().agents, 0);
    // Nor does it disturb a session that is there.
    let mut agent = world.agent(&mut home);
    world.handshake(&mut home).unwrap();
    world.sleep(Duration::from_secs(16));
    assert!(world.tell(&mut agent, &KEEPALIVE).is_some());
}

#[test]
fn tables_are_bounded() {
    let mut config = RendezvousConfig::default();
    (config.limits.sessions, config.limits.channels) = (2, 0);
    let mut world = World::with(config);
    let ((mut a, _), (mut b, _), (mut c, _)) =
        (world.registered(), world.registered(), world.registered());
    let (mut at_a, _) = (world.agent(&mut a), world.agent(&mut b));
    assert!(world.handshake(&mut c).is_none());
    assert_eq!(world.machine.drops().get(DropReason::Full), 1);
    let grant = b.grant(world.registry_key(), &a);
    assert_eq!(error(world.tell(&mut at_a, &ToBeacon::Bind { grant })), BeaconError::Quota);
    // An agent that goes makes room.
    let _ = world.frame(&mut at_a, &[control::CLOSE, 1]);
    world.agent(&mut c);
}

#[test]
fn a_full_relay_queue_drops_the_new_packet() {
    let mut world = World::new();
    let (a, _, of_a, b, _, _) = world.bound();
    let mut frame = relay_frame(&of_a, 1, 1200);
    let mut taken = 0;
    loop {
        let path = Path::to(a.from);
        let mut copy = frame.clone();
        let result = world.machine.handle_datagram(world.now, path, Ecn::NotEct, &mut copy);
        match result {
            Ingress::Handled => taken += 1,
            other => {
                assert_eq!(other, dropped(DropReason::Full));
                break;
            }
        }
    }
    assert!((100..110).contains(&taken), "{taken}");
    world.turn();
    assert_eq!(world.sent_to(b.from).len(), taken);
    frame = relay_frame(&of_a, 2, 1200);
    assert_eq!(world.datagram(a.from, &frame), Ingress::Handled);
}

#[test]
fn the_configured_relay_rate_holds() {
    let mut config = RendezvousConfig::default();
    config.limits.relay_bytes_per_second = Some(100_000);
    let mut world = World::with(config);
    let (a, _, of_a, b, _, _) = world.bound();
    let frame = relay_frame(&of_a, 1, 988);
    let mut sent = 0;
    for _ in 0..1000 {
        let _ = world.datagram(a.from, &frame);
        sent += world.sent_to(b.from).len();
        world.sleep(ms(2));
    }
    // 2 seconds at 100 kB/s, and the burst.
    assert!((195..=230).contains(&sent), "{sent}");
    assert_eq!(world.machine.drops().get(DropReason::RateLimited), 1000 - sent as u64);
}

fn stun_request(change: stun::Change) -> Vec<u8> {
    let mut out = [0; stun::REQUEST_MAX];
    let n = stun::encode_request([9; 12], change, &mut out).unwrap();
    out[..n].to_vec()
}

#[test]
fn stun_is_answered_within_limits() {
    let mut world = World::new();
    let request = stun_request(stun::Change::default());
    for from in ["198.51.100.1:1000", "[2001:db8::7]:5"].map(addr) {
        let mut answered = 0;
        for _ in 0..20 {
            let _ = world.datagram(from, &request);
            for answer in world.sent_to(from) {
                assert_eq!(stun::decode_response(&answer).unwrap().mapped, from);
                assert!(answer.len() + 28 <= 3 * (request.len() + 28));
                answered += 1;
            }
        }
        assert_eq!(answered, 10);
    }
    world.sleep(ms(100));
    assert_eq!(world.datagram(addr("198.51.100.1:7"), &request), Ingress::Handled);
    assert_eq!(world.machine.stats().stun_answers, 21);
    // One address: no CHANGE-REQUEST. Answers of others, and nonsense, are dropped.
    let from = addr("198.51.100.3:1000");
    let change = stun_request(stun::Change { ip: true, port: false });
    let _ = world.datagram(from, &change);
    let refusal = stun::decode_response(&world.sent_to(from)[0]);
    assert_eq!(refusal, Err(stun::StunError::Refused(420)));
    let mut answer = request.clone();
    answer[0] = 1;
    answer[1] = 1;
    assert_eq!(world.datagram(from, &answer), dropped(DropReason::Unasked));
    let mut bad = request.clone();
    bad[3] = 4;
    assert_eq!(world.datagram(from, &bad), dropped(DropReason::Malformed));
    assert_eq!(world.machine.stats().agents, 0);
}

#[test]
fn behaviour_discovery_with_two_addresses() {
    let corner = |socket, text: &str| (SocketId(socket), addr(text));
    let alternate = Alternate {
        main: corner(0, "203.0.113.1:9001"),
        port: corner(1, "203.0.113.1:9002"),
        ip: corner(2, "203.0.113.2:9001"),
        both: corner(3, "203.0.113.2:9002"),
    };
    let config = RendezvousConfig { alternate: Some(alternate), ..Default::default() };
    let mut world = World::with(config);
    for (at, ip, port, from, other) in [
        (0, false, false, 0, 3),
        (0, false, true, 1, 3),
        (0, true, false, 2, 3),
        (0, true, true, 3, 3),
        (2, false, true, 3, 1),
        (3, true, true, 0, 0),
    ] {
        let client = SocketAddr::new([198, 51, 100, at as u8 + 1].into(), 1);
        let path = Path { socket: SocketId(at), local: None, remote: client };
        let _ = world.datagram_on(path, &stun_request(stun::Change { ip, port }));
        let (path, answer) = world.outbox.pop_front().unwrap();
        assert_eq!((path.socket, path.remote), (SocketId(from), client));
        let response = stun::decode_response(&answer).unwrap();
        let corners = [alternate.main, alternate.port, alternate.ip, alternate.both];
        assert_eq!(response.origin, Some(corners[usize::from(from)].1));
        assert_eq!(response.other, Some(corners[other].1));
        world.sleep(Duration::from_secs(1));
    }
    let (mut home, _) = world.registered();
    let mut agent = world.handshake(&mut home).unwrap();
    let answer = world.tell(&mut agent, &home.hello());
    let Some(FromBeacon::HelloAck { alternates, .. }) = answer else { panic!() };
    assert_eq!(
        alternates[..],
        ["203.0.113.1:9002", "203.0.113.2:9001", "203.0.113.2:9002"].map(addr)
    );
}

#[test]
fn after_a_restart_agents_start_anew() {
    let mut world = World::new();
    let (a, mut at_a, of_a, _, _, _) = world.bound();
    world.restart();
    let frame = at_a.seal(world.now, &[]);
    assert_eq!(world.datagram(a.from, &frame), dropped(DropReason::UnknownIndex));
    let frame = relay_frame(&of_a, 1, 40);
    assert_eq!(world.datagram(a.from, &frame), dropped(DropReason::UnknownChannel));
    let mut a = a;
    world.agent(&mut a);
}

#[test]
fn handshakes_have_a_budget_and_a_rate_per_source() {
    let mut config = RendezvousConfig::default();
    config.limits.beacon_handshakes_per_second = 50;
    let mut world = World::with(config);
    let (mut home, _) = world.registered();
    let mut answered = 0;
    for _ in 0..30 {
        let (initiator, mut init) = world.init(&mut home);
        let _ = world.datagram(home.from, &init);
        let cookie = world.sent_to(home.from).pop().unwrap();
        write_mac2(&mut init, Some(&initiator.read_cookie(&cookie).unwrap()));
        let _ = world.datagram(home.from, &init);
        answered += world.sent_to(home.from).len();
    }
    assert_eq!(answered, 5);
    assert_eq!(world.machine.drops().get(DropReason::RateLimited), 25);
}
