//! Rows of the attack list, by their names there. In each the attacker does what worked
//! elsewhere, and must get nowhere.

use super::*;
use crate::addr::{Address, NodeId};
use crate::name::parse_tags;
use crate::rendezvous::Row;
use crate::session::handshake::write_mac2;
use crate::stats::DropReason;
use crate::time::Duration;
use crate::wire::Bytes;
use crate::wire::control::{BeaconError, FromBeacon, ToBeacon};
use crate::wire::frame::{self, Direction, RelayKey};
use crate::wire::registry::*;
use proptest::prelude::*;
use std::vec::Vec;

fn rows(world: &World) -> Vec<Row> {
    world.machine.rows().collect()
}

/// W-R1: registering somebody's public key moved that node's endpoint.
#[test]
fn w_r1_a_public_key_is_no_proof() {
    let mut world = World::new();
    let (victim, _) = world.registered();
    let before = rows(&world);
    let thief = world.home();
    let mut link = world.connect(&thief);
    let identity = Bytes(victim.key().0);
    let own = crate::crypto::request::sign_reserve(&thief.identity, &link.hash);
    // A proof by the thief's key, and one by the victim for another channel.
    let other = crate::crypto::request::sign_reserve(&victim.identity, &[1; 32]);
    for proof in [own, other] {
        let answer = world.ask(&mut link, &Request::Reserve { identity, proof: Bytes(proof) });
        assert_eq!(code(&answer), ErrorCode::BadSignature);
    }
    let stolen = victim.registration(world.registry_key());
    let refused = world.register_with(&mut link, stolen.clone());
    assert_eq!(refused.unwrap_err().code, ErrorCode::NotRegistered);
    // With an address of its own, it still cannot publish the victim's record, nor a record
    // of the victim's address signed by itself.
    let mut thief = thief;
    world.reserve(&mut thief, &mut link).unwrap();
    let refused = world.register_with(&mut link, stolen);
    assert_eq!(refused.unwrap_err().code, ErrorCode::BadSignature);
    let mut claimed = thief.copy();
    (claimed.node, claimed.serial) = (victim.node, 9);
    let request = claimed.registration(world.registry_key());
    let refused = world.register_with(&mut link, request);
    assert_eq!(refused.unwrap_err().code, ErrorCode::BadSignature);
    let of_victim = |rows: &[Row]| {
        rows.iter()
            .find(|row| matches!(row, Row::Node { node, .. } if Some(*node) == victim.node))
            .cloned()
    };
    assert_eq!(of_victim(&rows(&world)), of_victim(&before));
}

/// W-R2: knowing an owner's name was enough to replace a live node's key. Here an address is
/// its identity's for good.
#[test]
fn w_r2_an_address_never_changes_its_identity() {
    let mut world = World::new();
    let (mut home, mut link) = world.registered();
    let mut other = world.home();
    (other.node, other.serial) = (home.node, 7);
    let request = other.registration(world.registry_key());
    let refused = world.register_with(&mut link, request);
    assert_eq!(refused.unwrap_err().code, ErrorCode::BadSignature);
    let request = Request::Rotate { record: &[0; 252] };
    assert_eq!(code(&world.ask(&mut link, &request)), ErrorCode::Unsupported);
    // One channel, one identity.
    let proof = crate::crypto::request::sign_reserve(&other.identity, &link.hash);
    let identity = Bytes(other.key().0);
    let answer = world.ask(&mut link, &Request::Reserve { identity, proof: Bytes(proof) });
    assert_eq!(code(&answer), ErrorCode::Conflict);
    world.register(&mut home, &mut link).unwrap();
}

/// W-R3: one side declared "we trust each other" and then resolved a private endpoint.
#[test]
fn w_r3_trust_is_not_declared_by_the_prying_side() {
    let mut world = World::new();
    let (victim, _) = world.registered();
    let (spy, mut link) = world.registered();
    let registry = world.registry_key();
    let own = spy.grant(registry, &victim);
    // A grant signed by the spy in the victim's name.
    let forged = crate::crypto::Grant::sign(
        &spy.identity,
        &registry,
        victim.address(),
        spy.key(),
        crate::crypto::Rights::ALL,
        0,
        [1; 8],
    );
    // A good one that was given to somebody else, with the spy's key put in.
    let (third, _) = world.registered();
    let stolen = victim.grant(registry, &third);
    let mut altered = stolen;
    altered.0[38..70].copy_from_slice(&spy.key().0);
    let forged = Bytes(forged.encode());
    for grant in [None, Some(own), Some(forged), Some(stolen), Some(altered)] {
        let target = Target::Address(victim.address());
        let answer = world.ask(&mut link, &Request::Resolve { target, network: None, grant });
        assert_eq!(code(&answer), ErrorCode::NotFound);
    }
    let confirm = Request::TrustConfirm { to: victim.address(), grant: own, held: own };
    assert_eq!(code(&world.ask(&mut link, &confirm)), ErrorCode::NotFound);
}

/// W-R4: the punch operation gave both endpoints to either participant. Here endpoints come
/// only with a grant, from Resolve and Bind alike, and a public agent's neither.
#[test]
fn w_r4_endpoints_need_a_grant() {
    let mut world = World::new();
    let (mut victim, mut owner) = world.registered();
    world.ask(&mut owner, &Request::SetVisibility { visibility: Visibility::Public });
    world.agent(&mut victim);
    let (mut spy, mut link) = world.registered();
    let target = Target::Address(victim.address());
    let answer = world.ask(&mut link, &Request::Resolve { target, network: None, grant: None });
    let Ok(Answer::Resolved(resolved)) = reply(&answer) else { panic!() };
    assert_eq!(resolved.reach, None);
    let mut agent = world.agent(&mut spy);
    let grant = spy.grant(world.registry_key(), &victim);
    let answer = world.tell(&mut agent, &ToBeacon::Bind { grant });
    let refused = FromBeacon::Error { error: BeaconError::NotPermitted, retry_ms: 0 };
    assert_eq!(answer, Some(refused));
}

/// W-R5: approving a request that never existed created the pair.
#[test]
fn w_r5_an_approval_needs_a_request() {
    let mut world = World::new();
    let (victim, mut link_v) = world.registered();
    let (spy, mut link) = world.registered();
    let grant = Some(spy.grant(world.registry_key(), &victim));
    for n in 0..50u8 {
        let nonce = Bytes([n; 16]);
        let answer =
            world.ask(&mut link, &Request::TrustAnswer { to: victim.address(), nonce, grant });
        assert_eq!(code(&answer), ErrorCode::NotFound);
    }
    let answer = world.ask(&mut link_v, &Request::TrustFetch { after: 0 });
    let Ok(Answer::Mailbox { items, .. }) = reply(&answer) else { panic!() };
    assert_eq!(items.iter().count(), 0);
    assert_eq!(world.machine.stats().letters, 0);
}

/// W-R7: signatures without nonce, time or parameters worked for ever and with other values.
#[test]
fn w_r7_what_was_captured_cannot_be_replayed() {
    let mut world = World::new();
    let mut home = world.home();
    let mut link = world.connect(&home);
    world.reserve(&mut home, &mut link).unwrap();
    world.register(&mut home, &mut link).unwrap();
    // A proof belongs to its channel.
    let proof = crate::crypto::request::sign_reserve(&home.identity, &link.hash);
    let thief = world.home();
    let mut other = world.connect(&thief);
    let identity = Bytes(home.key().0);
    let answer = world.ask(&mut other, &Request::Reserve { identity, proof: Bytes(proof) });
    assert_eq!(code(&answer), ErrorCode::BadSignature);
    // A frame belongs to its place in its channel.
    let name = Request::SetHostname { hostname: "mine".parse().unwrap(), network: None };
    let mut plaintext = [0; 64];
    let n = encode_request(9, &name, &mut plaintext).unwrap();
    let frame = link.seal(&plaintext[..n]);
    let answer = world.bytes(link.conn, &frame);
    assert!(reply(&link.receive(&answer)).is_ok());
    assert!(world.bytes(link.conn, &frame).is_empty());
    assert_eq!(world.closed, [link.conn]);
    // A whole captured connection, played again, opens nothing: message 1 is answered, as
    // anybody's is, and the frames do not open under the new keys.
    let mut captured = world.connect(&home);
    let frame = captured.seal(&plaintext[..n]);
    let conn = world.open(home.from);
    let (_, message1) = Connecting::start(&home, world.registry_key(), world.tunnel_key(), [1; 32]);
    assert!(!world.bytes(conn, &message1).is_empty());
    assert!(world.bytes(conn, &frame).is_empty());
    assert_eq!(world.closed.last(), Some(&conn));
    // An old record does not come back.
    let old = home.registration(world.registry_key());
    let mut link = world.connect(&home);
    world.register(&mut home, &mut link).unwrap();
    let answer = world.ask(&mut link, &Request::Register(old));
    let Ok(Answer::Registered { record, .. }) = reply(&answer) else { panic!() };
    assert_eq!(record, home.record_bytes(world.registry_key()));
}

/// W-R8: three minutes offline freed the hostname and wiped tags and visibility.
#[test]
fn w_r8_being_offline_costs_nothing() {
    let mut world = World::new();
    let (mut home, mut link) = world.registered();
    world.agent(&mut home);
    let name = Request::SetHostname { hostname: "bank".parse().unwrap(), network: None };
    world.ask(&mut link, &name);
    world.ask(&mut link, &Request::SetTags { tags: parse_tags("a=b").unwrap() });
    world.ask(&mut link, &Request::SetVisibility { visibility: Visibility::Public });
    world.sleep(Duration::from_secs(400 * 24 * 3600));
    let (_, mut squatter) = world.registered();
    assert_eq!(code(&world.ask(&mut squatter, &name)), ErrorCode::Conflict);
    let target = Target::Hostname("bank".parse().unwrap());
    let answer = world.ask(&mut squatter, &Request::Resolve { target, network: None, grant: None });
    let Ok(Answer::Resolved(resolved)) = reply(&answer) else { panic!() };
    assert_eq!((resolved.address, resolved.tags.len()), (home.address(), 1));
}

/// W-R11, W-R12: memory by announced lengths, by many connections, by unknown kinds.
#[test]
fn w_r12_a_flood_of_connections_holds_little() {
    let mut world = World::new();
    let from = addr("198.51.100.1:1");
    for _ in 0..1000 {
        let conn = world.open(from);
        world.bytes(conn, b"AOR1\x01\x00");
    }
    assert_eq!(world.machine.stats().connections, 8);
    world.sleep(Duration::from_secs(3));
    assert_eq!(world.machine.stats().connections, 0);
}

/// W-R17: names led to ids and addresses without trust, and ids could be counted through.
#[test]
fn w_r17_nothing_private_can_be_enumerated() {
    let mut world = World::new();
    let (home, mut link) = world.registered();
    let name = Request::SetHostname { hostname: "secret".parse().unwrap(), network: None };
    world.ask(&mut link, &name);
    world.ask(&mut link, &Request::SetTags { tags: parse_tags("a").unwrap() });
    let (spy, mut link) = world.registered();
    let mut answers = Vec::new();
    let grant = Some(spy.grant(world.registry_key(), &home));
    for node in 16..32 {
        if node == 17 {
            continue; // The spy itself.
        }
        let target = Target::Address(Address::backbone(NodeId(node)));
        answers
            .push(world.ask(&mut link, &Request::Resolve { target, network: None, grant: None }));
        let target = Target::Address(Address::backbone(NodeId(node)));
        answers.push(world.ask(&mut link, &Request::Resolve { target, network: None, grant }));
    }
    for name in ["secret", "nobody"] {
        let target = Target::Hostname(name.parse().unwrap());
        answers
            .push(world.ask(&mut link, &Request::Resolve { target, network: None, grant: None }));
    }
    assert!(answers.iter().all(|answer| answer[4..] == answers[0][4..]));
    // Asking for trust tells as little, whoever is there.
    let mut told = Vec::new();
    for node in [16, 31, 1, 0] {
        let to = Address::backbone(NodeId(node));
        told.push(world.ask(&mut link, &Request::TrustRequest { to, sealed: false, body: b"?" }));
    }
    assert!(told.iter().all(|answer| answer[4..] == told[0][4..]));
    for tags in [parse_tags("a").unwrap(), Default::default()] {
        let answer = world.ask(&mut link, &Request::Discover { tags, network: None, cursor: 0 });
        let Ok(Answer::Page { entries, cursor: 0 }) = reply(&answer) else { panic!() };
        assert_eq!(entries.iter().count(), 0);
    }
}

/// W-B1: an unauthenticated claim of a node id redirected its relay and punch traffic.
#[test]
fn w_b1_a_claim_redirects_nothing() {
    let mut world = World::new();
    let (_, _, of_a, mut b, mut at_b, of_b) = world.bound();
    let thief_at = addr("198.51.100.66:666");
    // The thief replays the victim's INIT from its own address, with the victim's mac2.
    let _ = world.datagram(thief_at, &at_b.init.clone());
    // It takes a frame of the victim's and sends it first.
    let frame = at_b.seal(world.now, &[]);
    let _ = world.datagram(thief_at, &frame);
    // It has an identity of its own and says that it is the victim.
    let (mut thief, _) = world.registered();
    thief.from = thief_at;
    let mut agent = world.handshake(&mut thief).unwrap();
    let ToBeacon::Hello { candidates, .. } = b.hello() else { panic!() };
    let claim = ToBeacon::Hello { address: b.address(), boot_id: b.boot_id, candidates, nat: 0 };
    let answer = world.tell(&mut agent, &claim);
    let refused = FromBeacon::Error { error: BeaconError::NotPermitted, retry_ms: 0 };
    assert_eq!(answer, Some(refused));
    world.sent_to(thief_at);
    let mut relayed = std::vec![0x80; 60];
    frame::wrap(&RelayKey(of_a.key.0), Direction::ToBeacon, of_a.channel, &mut relayed);
    let _ = world.datagram(addr("192.0.2.1:4000"), &relayed);
    assert!(world.sent_to(thief_at).is_empty());
    let [got] = &world.sent_to(b.from)[..] else { panic!() };
    assert_eq!(frame::relay_channel(got), Some(of_b.channel));
    // The victim's next handshake is not in anybody's way either.
    world.sleep(Duration::from_secs(6));
    world.agent(&mut b);
}

/// W-B2: an open relay to any registered node, with a forged origin.
#[test]
fn w_b2_the_relay_is_open_to_nobody() {
    let mut world = World::new();
    let (a, _, of_a, b, _, of_b) = world.bound();
    let spy = addr("198.51.100.66:666");
    world.sent_to(b.from);
    let mut rng = crate::rng::Rng::new([3; 32]);
    for id in [of_a.channel, of_b.channel] {
        for _ in 0..2000 {
            let mut guess = std::vec![0x80; 60];
            frame::wrap(&RelayKey(rng.bytes()), Direction::ToBeacon, id, &mut guess);
            let _ = world.datagram(spy, &guess);
        }
    }
    assert_eq!(world.machine.drops().get(DropReason::Mac), 4000);
    // What the beacon itself sent to an end is no frame of that end.
    let mut good = std::vec![0x80; 60];
    frame::wrap(&RelayKey(of_a.key.0), Direction::ToBeacon, of_a.channel, &mut good);
    let _ = world.datagram(a.from, &good);
    let [delivered] = &world.sent_to(b.from)[..] else { panic!() };
    let _ = world.datagram(spy, &delivered.clone());
    assert!(world.sent_to(a.from).is_empty() && world.sent_to(b.from).is_empty());
}

/// A sender that forges its source gets at most a cookie's 64 bytes per INIT to the victim,
/// and leaves no state behind.
#[test]
fn a_spoofed_flood_costs_nothing() {
    let mut world = World::new();
    let (mut home, _) = world.registered();
    let (_, init) = world.init(&mut home);
    let (mut sent, mut received) = (0, 0);
    for n in 0..5000u32 {
        let from = core::net::SocketAddr::new(core::net::Ipv4Addr::from(n << 8 | 7).into(), 9);
        let mut forged = init.clone();
        write_mac2(&mut forged, Some(&[n as u8; 16]));
        let _ = world.datagram(from, &forged);
        sent += forged.len();
        received += world.sent_to(from).iter().map(Vec::len).sum::<usize>();
    }
    assert!(received * 5 < sent, "{received} of {sent}");
    let stats = world.machine.stats();
    assert_eq!((stats.agents, stats.handshakes), (0, 0));
    // The genuine agent is not kept out.
    world.agent(&mut home);
}

/// A thing that arrives, and what is done to it on the way.
#[derive(Clone, Debug)]
struct Arrival {
    kind: u8,
    content: Vec<u8>,
    changes: Vec<(usize, u8)>,
    cut: usize,
    spoofed: bool,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    (
        0u8..8,
        prop::collection::vec(any::<u8>(), 0..300),
        prop::collection::vec((0usize..400, any::<u8>()), 0..4),
        prop_oneof![4 => Just(0usize), 1 => 0usize..400],
        any::<bool>(),
    )
        .prop_map(|(kind, content, changes, cut, spoofed)| Arrival {
            kind,
            content,
            changes,
            cut,
            spoofed,
        })
}

impl Arrival {
    fn damage(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        for (at, value) in &self.changes {
            if let Some(byte) = bytes.get_mut(*at) {
                *byte ^= value;
            }
        }
        bytes.truncate(bytes.len() - self.cut.min(bytes.len()));
        bytes
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..Default::default() })]

    /// Whatever arrives, and whoever sends it, nothing panics, and an address that has proven
    /// nothing is sent at most three times what came from it.
    #[test]
    fn whatever_arrives(arrivals in prop::collection::vec(arrival(), 1..40)) {
        let mut world = World::new();
        let (mut a, mut at_a, of_a, b, _, _) = world.bound();
        let mut link = world.connect(&b);
        let spy = addr("198.51.100.66:666");
        let (mut sent, mut received) = (0, 0);
        for arrival in arrivals {
            let content = &arrival.content;
            let datagram = match arrival.kind {
                0 => content.clone(),
                1 => world.init(&mut a).1,
                2 => at_a.seal(world.now, content),
                3 => at_a.seal(world.now, &[&[0xFE, 0, 1][..], content].concat()),
                4 => {
                    let mut frame = [&[0; 12][..], &[0x80], content].concat();
                    let key = RelayKey(of_a.key.0);
                    frame::wrap(&key, Direction::ToBeacon, of_a.channel, &mut frame);
                    frame
                }
                5 => {
                    let mut out = [0; crate::wire::stun::REQUEST_MAX];
                    let change = Default::default();
                    let n = crate::wire::stun::encode_request([1; 12], change, &mut out).unwrap();
                    out[..n].to_vec()
                }
                6 => {
                    // A request of a registered agent, in a whole channel.
                    let plaintext = [&[0, 0, 0, 1, 0][..], content].concat();
                    let frame = link.seal(&arrival.damage(plaintext));
                    world.bytes(link.conn, &frame);
                    if world.closed.pop().is_some() {
                        link = world.connect(&b);
                    }
                    continue;
                }
                _ => {
                    // Bytes on a fresh connection.
                    let conn = world.open(spy);
                    let start = [&b"AOR1"[..], content].concat();
                    world.bytes(conn, &arrival.damage(start));
                    world.machine.handle_close(world.now, conn);
                    continue;
                }
            };
            let datagram = arrival.damage(datagram);
            let from = if arrival.spoofed { spy } else { a.from };
            if arrival.spoofed {
                sent += datagram.len() + 28;
            }
            let _ = world.datagram(from, &datagram);
            world.sleep(Duration::from_millis(7));
            received += world.sent_to(spy).iter().map(|d| d.len() + 28).sum::<usize>();
            prop_assert!(received <= 3 * sent, "{received} of {sent}");
        }
    }
}
