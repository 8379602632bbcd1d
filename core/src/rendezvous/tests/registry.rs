//! Records, names, networks, resolving and discovering, over real channels.

use super::*;
use crate::addr::{Address, NetworkId, NodeId};
use crate::crypto::assign::verify_keys;
use crate::name::parse_tags;
use crate::rendezvous::Row;
use crate::stats::DropReason;
use crate::time::Duration;
use crate::wire::registry::*;
use crate::wire::{Bytes, GrantBytes};
use std::vec::Vec;

fn hostname(name: &str, network: Option<u16>) -> Request<'static> {
    let network = network.map(NetworkId);
    Request::SetHostname { hostname: name.parse().unwrap(), network }
}

fn resolve(target: Address, grant: Option<GrantBytes>) -> Request<'static> {
    Request::Resolve { target: Target::Address(target), network: None, grant }
}

fn find_name(name: &str, network: u16, grant: Option<GrantBytes>) -> Request<'static> {
    let target = Target::Hostname(name.parse().unwrap());
    Request::Resolve { target, network: Some(NetworkId(network)), grant }
}

fn public() -> Request<'static> {
    Request::SetVisibility { visibility: Visibility::Public }
}

fn tags(text: &str) -> Request<'static> {
    Request::SetTags { tags: parse_tags(text).unwrap() }
}

#[test]
fn addresses_are_handed_out_in_order_and_kept() {
    let mut world = World::new();
    for n in 16..20 {
        let (mut home, mut link) = world.registered();
        assert_eq!(home.node, Some(NodeId(n)));
        // Again, on the same channel and on another.
        world.reserve(&mut home, &mut link).unwrap();
        assert_eq!(home.node, Some(NodeId(n)));
        let serial = core::mem::take(&mut home.serial);
        let mut link = world.connect(&home);
        world.reserve(&mut home, &mut link).unwrap();
        assert_eq!(home.node, Some(NodeId(n)));
        home.serial = serial;
    }
    assert_eq!(world.machine.stats().nodes, 4);
}

#[test]
fn keys_are_told_to_who_does_not_know_them() {
    let mut world = World::new();
    let home = world.home();
    let conn = world.open(home.from);
    let mut hello = b"AOR0".to_vec();
    hello.extend([9; 32]);
    let keys = world.bytes(conn, &hello);
    assert_eq!(keys[..32], world.registry_key().0);
    let tunnel = crate::crypto::TunnelKey(keys[32..64].try_into().unwrap());
    let sig = keys[64..].try_into().unwrap();
    verify_keys(&world.registry_key(), &[9; 32], &tunnel, &sig).unwrap();
    // The same connection goes on with AOR1, in pieces.
    let (client, message1) = Connecting::start(&home, world.registry_key(), tunnel, [3; 32]);
    let mut answer = Vec::new();
    for byte in message1 {
        answer.extend(world.bytes(conn, &[byte]));
    }
    let mut link = client.finish(conn, &home.tunnel, &answer);
    assert_eq!(code(&world.ask(&mut link, &Request::Beacons)), ErrorCode::NotRegistered);
    // A second AOR0 is not.
    let conn = world.open(home.from);
    world.bytes(conn, &hello);
    world.bytes(conn, &hello);
    assert_eq!(world.closed, [conn]);
}

#[test]
fn a_later_channel_shows_its_record() {
    let mut world = World::new();
    let (mut home, _) = world.registered();
    let mut link = world.connect(&home);
    assert!(reply(&world.ask(&mut link, &Request::Beacons)).is_ok());
    // A newer record than the registry's: only Register is served.
    home.serial += 1;
    let mut link = world.connect(&home);
    assert_eq!(code(&world.ask(&mut link, &Request::Beacons)), ErrorCode::NotRegistered);
    home.serial -= 1;
    world.register(&mut home, &mut link).unwrap();
    assert!(reply(&world.ask(&mut link, &Request::Beacons)).is_ok());
    // A record of an address that is not its identity's: no channel at all.
    let mut thief = world.home();
    (thief.node, thief.serial) = (home.node, 5);
    assert!(world.try_connect(&thief).is_none());
    assert_eq!(world.machine.drops().get(DropReason::Untrusted), 1);
    // A record whose signature is another registry's.
    let mut other = home.copy();
    other.serial += 1;
    let conn = world.open(other.from);
    let wrong = crate::crypto::IdentityKey([1; 32]);
    let (_, message1) = Connecting::start(&other, wrong, world.tunnel_key(), [3; 32]);
    assert!(world.bytes(conn, &message1).is_empty());
}

#[test]
fn stale_serials_return_the_record_that_counts() {
    let mut world = World::new();
    let (mut home, mut link) = world.registered();
    world.register(&mut home, &mut link).unwrap();
    let registry = world.registry_key();
    let current = home.record_bytes(registry);
    // The same again is the same.
    world.register_with(&mut link, home.registration(registry)).unwrap();
    home.serial = 1;
    let mut request = home.registration(registry);
    request.hostname = Some("never".parse().unwrap());
    let answer = world.ask(&mut link, &Request::Register(request));
    let Ok(Answer::Registered { record, .. }) = reply(&answer) else { panic!() };
    assert_eq!(record, current);
    assert!(world.machine.rows().all(|row| !matches!(row, Row::Name { .. })));
}

#[test]
fn register_sets_names_tags_and_visibility_or_nothing() {
    let mut world = World::new();
    let (mut a, mut link_a) = world.registered();
    let (mut b, mut link_b) = world.registered();
    let registry = world.registry_key();
    a.serial += 1;
    let mut request = a.registration(registry);
    request.hostname = Some("research".parse().unwrap());
    request.tags = Some(parse_tags("cloud=aws").unwrap());
    request.visibility = Some(Visibility::Public);
    world.register_with(&mut link_a, request).unwrap();
    // Absent: as stored.
    world.register(&mut a, &mut link_a).unwrap();
    let answer = world.ask(&mut link_b, &find_name("research", 0, None));
    let Ok(Answer::Resolved(resolved)) = reply(&answer) else { panic!() };
    assert_eq!(resolved.tags, parse_tags("cloud=aws").unwrap());
    assert_eq!(resolved.hostname.unwrap().as_str(), "research");
    assert_eq!(resolved.reach, None);
    // A taken name refuses the whole, and leaves no trace.
    b.serial += 1;
    let mut request = b.registration(registry);
    request.hostname = Some("research".parse().unwrap());
    request.visibility = Some(Visibility::Public);
    let before: Vec<_> = world.machine.rows().collect();
    assert_eq!(world.register_with(&mut link_b, request).unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(world.machine.rows().collect::<Vec<_>>(), before);
}

#[test]
fn tags_have_each_key_once() {
    let mut world = World::new();
    let (_, mut link) = world.registered();
    let twice = ["a=1", "a=2"].iter().map(|t| t.parse().unwrap()).collect();
    let answer = world.ask(&mut link, &Request::SetTags { tags: twice });
    assert_eq!(code(&answer), ErrorCode::Malformed);
    assert!(reply(&world.ask(&mut link, &tags("a=1,b"))).is_ok());
}

#[test]
fn hostnames_are_unique_per_network() {
    let mut world = World::new();
    let (a, mut link_a) = world.registered();
    let (b, mut link_b) = world.registered();
    for link in [&mut link_a, &mut link_b] {
        world.ask(link, &public());
    }
    let at = |answer: &[u8]| match reply(answer) {
        Ok(Answer::At { address }) => address,
        other => panic!("{other:?}"),
    };
    assert_eq!(at(&world.ask(&mut link_a, &hostname("web", None))), a.address());
    assert_eq!(code(&world.ask(&mut link_b, &hostname("web", None))), ErrorCode::Conflict);
    // Not a member: not there.
    assert_eq!(code(&world.ask(&mut link_b, &hostname("web", Some(7)))), ErrorCode::NotFound);
    let join = Request::Join { network: NetworkId(7) };
    assert_eq!(at(&world.ask(&mut link_b, &join)), b.in_network(7));
    // The default is now the joined network.
    assert_eq!(at(&world.ask(&mut link_b, &hostname("web", None))), b.in_network(7));
    for (network, owner) in [(0, a.address()), (7, b.in_network(7))] {
        let answer = world.ask(&mut link_a, &find_name("web", network, None));
        let Ok(Answer::Resolved(resolved)) = reply(&answer) else { panic!() };
        assert_eq!(resolved.address, owner);
    }
    // A new name gives the old one back; leaving too.
    world.ask(&mut link_a, &hostname("www", None));
    assert_eq!(code(&world.ask(&mut link_b, &find_name("web", 0, None))), ErrorCode::NotFound);
    world.ask(&mut link_b, &Request::Leave { network: NetworkId(7) });
    assert_eq!(code(&world.ask(&mut link_a, &find_name("web", 7, None))), ErrorCode::NotFound);
    world.ask(&mut link_a, &Request::ClearHostname { network: None });
    assert_eq!(code(&world.ask(&mut link_b, &find_name("www", 0, None))), ErrorCode::NotFound);
    assert!(reply(&world.ask(&mut link_b, &hostname("www", None))).is_ok());
}

#[test]
fn networks_are_open_and_bounded() {
    let mut world = World::new();
    let (home, mut link) = world.registered();
    let join = |network| Request::Join { network: NetworkId(network) };
    assert_eq!(code(&world.ask(&mut link, &join(0))), ErrorCode::Malformed);
    for network in 1..=16 {
        assert!(reply(&world.ask(&mut link, &join(network))).is_ok());
    }
    assert!(reply(&world.ask(&mut link, &join(16))).is_ok());
    assert_eq!(code(&world.ask(&mut link, &join(17))), ErrorCode::Full);
    world.ask(&mut link, &Request::Leave { network: NetworkId(3) });
    assert!(reply(&world.ask(&mut link, &join(65535))).is_ok());
    let answer = world.ask(&mut link, &resolve(home.in_network(65535), None));
    let Ok(Answer::Resolved(resolved)) = reply(&answer) else { panic!() };
    assert_eq!(resolved.address, home.in_network(65535));
    assert_eq!(resolved.networks.len(), 16);
    assert_eq!(
        code(&world.ask(&mut link, &resolve(home.in_network(3), None))),
        ErrorCode::NotFound
    );
}

#[test]
fn private_is_the_default_and_looks_like_nobody() {
    let mut world = World::new();
    let (a, mut link_a) = world.registered();
    let (b, mut link_b) = world.registered();
    world.ask(&mut link_a, &hostname("hidden", None));
    let nobody = world.ask(&mut link_b, &resolve(Address::backbone(NodeId(999)), None));
    let private = world.ask(&mut link_b, &resolve(a.address(), None));
    // Byte for byte but for the request's id.
    assert_eq!(nobody[4..], private[4..]);
    let private = world.ask(&mut link_b, &find_name("hidden", 0, None));
    assert_eq!(nobody[4..], private[4..]);
    // A grant of the one opens record and reach of the one.
    let registry = world.registry_key();
    let grant = a.grant(registry, &b);
    for request in [resolve(a.address(), Some(grant)), find_name("hidden", 0, Some(grant))] {
        let answer = world.ask(&mut link_b, &request);
        let Ok(Answer::Resolved(resolved)) = reply(&answer) else { panic!() };
        assert_eq!(resolved.record, a.record_bytes(registry));
        let reach = resolved.reach.unwrap();
        assert!(reach.endpoints.is_empty() && reach.beacon.is_some());
    }
    // Nobody else's, and of nobody else.
    let (c, mut link_c) = world.registered();
    let answer = world.ask(&mut link_c, &resolve(a.address(), Some(grant)));
    assert_eq!(answer[4..], nobody[4..]);
    let answer = world.ask(&mut link_b, &resolve(c.address(), Some(grant)));
    assert_eq!(answer[4..], nobody[4..]);
    // One forged bit, one lower epoch.
    let mut forged = grant;
    forged.0[155] ^= 1;
    let answer = world.ask(&mut link_b, &resolve(a.address(), Some(forged)));
    assert_eq!(answer[4..], nobody[4..]);
    // Oneself is always permitted.
    assert!(reply(&world.ask(&mut link_a, &resolve(a.address(), None))).is_ok());
}

#[test]
fn grants_end_by_revocation_and_by_epoch() {
    let mut world = World::new();
    let (mut a, mut link_a) = world.registered();
    let (b, mut link_b) = world.registered();
    let grant = a.grant(world.registry_key(), &b);
    let asked = resolve(a.address(), Some(grant));
    assert!(reply(&world.ask(&mut link_b, &asked)).is_ok());
    let hash = crate::crypto::kdf::sha256(&[&grant.0]);
    let hash = Bytes(hash[..8].try_into().unwrap());
    // Only the grantor withdraws it.
    let revoke = Request::Revoke { grantee: Bytes(b.key().0), hash };
    world.ask(&mut link_b, &revoke);
    assert!(reply(&world.ask(&mut link_b, &asked)).is_ok());
    assert_eq!(reply(&world.ask(&mut link_a, &revoke)), Ok(Answer::Done));
    assert_eq!(code(&world.ask(&mut link_b, &asked)), ErrorCode::NotFound);
    assert_eq!(reply(&world.ask(&mut link_a, &revoke)), Ok(Answer::Done));
    // 256 of them; then the epoch voids all that was granted, and makes room.
    for n in 1u64..256 {
        let request = Request::Revoke { grantee: Bytes([9; 32]), hash: Bytes(n.to_be_bytes()) };
        assert_eq!(reply(&world.ask(&mut link_a, &request)), Ok(Answer::Done));
    }
    let more = Request::Revoke { grantee: Bytes([9; 32]), hash: Bytes([255; 8]) };
    assert_eq!(code(&world.ask(&mut link_a, &more)), ErrorCode::Full);
    let old = grant;
    a.grant_epoch = 1;
    world.register(&mut a, &mut link_a).unwrap();
    assert_eq!(code(&world.ask(&mut link_b, &asked)), ErrorCode::NotFound);
    assert_eq!(
        code(&world.ask(&mut link_b, &resolve(a.address(), Some(old)))),
        ErrorCode::NotFound
    );
    let grant = a.grant(world.registry_key(), &b);
    assert!(reply(&world.ask(&mut link_b, &resolve(a.address(), Some(grant)))).is_ok());
    assert_eq!(reply(&world.ask(&mut link_a, &more)), Ok(Answer::Done));
    let rows = world.machine.rows().filter(|row| matches!(row, Row::Revocation { .. }));
    // The one just made, and b's own of before.
    assert_eq!(rows.count(), 2);
}

fn page(plaintext: &[u8]) -> (Vec<Discovered>, u64) {
    match reply(plaintext) {
        Ok(Answer::Page { entries, cursor }) => {
            (entries.iter().map(|entry| entry.unwrap()).collect(), cursor)
        }
        other => panic!("{other:?}"),
    }
}

fn discover(text: &str, network: Option<u16>, cursor: u64) -> Request<'static> {
    let tags = if text.is_empty() { Default::default() } else { parse_tags(text).unwrap() };
    Request::Discover { tags, network: network.map(NetworkId), cursor }
}

#[test]
fn discovery_finds_public_agents_with_all_tags_oldest_first() {
    let mut world = World::new();
    let mut homes = Vec::new();
    for n in 0..40u32 {
        let (home, mut link) = world.registered();
        let text = match n % 4 {
            0 => "cloud=aws,role=a",
            1 => "cloud=aws,role=b",
            2 => "cloud=gcp,role=a",
            _ => "x",
        };
        world.ask(&mut link, &tags(text));
        if n != 8 {
            world.ask(&mut link, &public());
        }
        if n % 8 == 0 {
            world.ask(&mut link, &Request::Join { network: NetworkId(5) });
        }
        homes.push(home);
    }
    let (_, mut link) = world.registered();
    let mut all = |text: &str, network| {
        let (mut found, mut cursor, mut pages) = (Vec::new(), 0, 0);
        loop {
            let answer = world.ask(&mut link, &discover(text, network, cursor));
            assert!(answer.len() <= PLAINTEXT_MAX);
            let (entries, next) = page(&answer);
            assert!(entries.len() <= PAGE_MAX);
            found.extend(entries.iter().map(|e| e.address.node.0 - 16));
            pages += 1;
            cursor = next;
            if cursor == 0 {
                return (found, pages);
            }
        }
    };
    let which = |keep: &dyn Fn(u32) -> bool| (0..40).filter(|n| *n != 8 && keep(*n)).collect();
    let expect: Vec<u32> = which(&|n| n % 4 < 2);
    assert_eq!(all("cloud=aws", None), (expect, 2));
    let expect: Vec<u32> = which(&|n| n % 4 == 0);
    assert_eq!(all("cloud=aws,role=a", None).0, expect);
    assert_eq!(all("cloud=aws,role=a,x", None).0, Vec::<u32>::new());
    assert_eq!(all("nobody", None).0, Vec::<u32>::new());
    let expect: Vec<u32> = which(&|n| n % 8 == 0);
    assert_eq!(all("role=a", Some(5)).0, expect);
    let expect: Vec<u32> = which(&|_| true);
    assert_eq!(all("", None), (expect, 3));
    let expect: Vec<u32> = which(&|n| n % 8 == 0);
    assert_eq!(all("", Some(5)).0, expect);
    // Private again: gone from all lists.
    let mut owner = world.connect(&homes[0]);
    let private = Request::SetVisibility { visibility: Visibility::Private };
    world.ask(&mut owner, &private);
    let answer = world.ask(&mut link, &discover("cloud=aws,role=a", None, 0));
    assert_eq!(page(&answer).0[0].address.node.0, 16 + 4);
}

#[test]
fn a_page_of_long_tags_fits_a_frame() {
    let mut world = World::new();
    let long: Vec<_> = (0..16).map(|i| std::format!("key{i:02}={}", "v".repeat(64 - 6))).collect();
    let long = long.join(",");
    for _ in 0..20 {
        let (_, mut link) = world.registered();
        world.ask(&mut link, &tags(&long));
        world.ask(&mut link, &public());
        world.sleep(Duration::from_secs(6));
    }
    let (_, mut link) = world.registered();
    let (mut cursor, mut found) = (0, 0);
    loop {
        let answer = world.ask(&mut link, &discover("", None, cursor));
        let (entries, next) = page(&answer);
        assert!(!entries.is_empty());
        (found, cursor) = (found + entries.len(), next);
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(found, 20);
}

#[test]
fn an_identity_moves_only_by_its_own_history_or_by_takeover() {
    let mut world = World::new();
    let (mut home, mut link) = world.registered();
    let registry = world.registry_key();
    // A stale copy starts elsewhere: fenced.
    let mut copy = home.copy();
    copy.boot_id = 77;
    let mut link_copy = world.connect(&copy);
    let refused = world.register_with(&mut link_copy, copy.registration(registry));
    assert_eq!(refused.unwrap_err().code, ErrorCode::Fenced);
    assert_eq!(code(&world.ask(&mut link_copy, &Request::Beacons)), ErrorCode::NotRegistered);
    assert!(reply(&world.ask(&mut link, &Request::Beacons)).is_ok());
    // The same home restarts: it names the boot ids that it has used.
    let before = home.boot_id;
    home.boot_id = 78;
    let mut link2 = world.connect(&home);
    let mut request = home.registration(registry);
    request.earlier.extend([5, before]);
    world.register_with(&mut link2, request.clone()).unwrap();
    // Its old connection is over.
    assert_eq!(code(&world.ask(&mut link, &Request::Beacons)), ErrorCode::Fenced);
    // A lost answer does not fence it: it crashed again before it knew.
    home.boot_id = 79;
    let mut link3 = world.connect(&home);
    let mut request = home.registration(registry);
    request.earlier.extend([5, before, 78]);
    world.register_with(&mut link3, request).unwrap();
    // With takeover the copy becomes the one, and the former is fenced.
    let mut request = copy.registration(registry);
    request.takeover = true;
    world.register_with(&mut link_copy, request).unwrap();
    assert!(reply(&world.ask(&mut link_copy, &Request::Beacons)).is_ok());
    assert_eq!(code(&world.ask(&mut link3, &Request::Beacons)), ErrorCode::Fenced);
    let mut link4 = world.connect(&home);
    let mut request = home.registration(registry);
    request.earlier.extend([5, before, 78, 79]);
    let refused = world.register_with(&mut link4, request);
    assert_eq!(refused.unwrap_err().code, ErrorCode::Fenced);
}

#[test]
fn reserves_are_limited_per_source() {
    let mut world = World::new();
    let (mut granted, mut refused) = (0, 0);
    for _ in 0..15 {
        let mut home = world.home();
        home.from.set_ip([198, 51, 100, 7].into());
        let mut link = world.connect(&home);
        match world.reserve(&mut home, &mut link) {
            Ok(()) => granted += 1,
            Err(refusal) => {
                assert_eq!(refusal.code, ErrorCode::RateLimited);
                assert!(refusal.retry_ms > 0 && refusal.retry_ms <= 60_000);
                refused += 1;
            }
        }
    }
    assert_eq!((granted, refused), (10, 5));
    world.sleep(Duration::from_secs(6));
    let mut home = world.home();
    home.from.set_ip([198, 51, 100, 7].into());
    let mut link = world.connect(&home);
    world.reserve(&mut home, &mut link).unwrap();
}

#[test]
fn a_full_directory_says_so() {
    let mut world = World::new();
    world.machine.limits.nodes = 2;
    world.registered();
    let (mut known, _) = world.registered();
    let mut home = world.home();
    let mut link = world.connect(&home);
    assert_eq!(world.reserve(&mut home, &mut link).unwrap_err().code, ErrorCode::Full);
    let serial = core::mem::take(&mut known.serial);
    let mut link = world.connect(&known);
    world.reserve(&mut known, &mut link).unwrap();
    assert_eq!(serial, 1);
}

#[test]
fn deferred_and_unknown_operations_are_unsupported() {
    let mut world = World::new();
    let (_, mut link) = world.registered();
    for request in
        [Request::Rotate { record: &[1] }, Request::Tombstone { record: &[1] }, Request::Deregister]
    {
        assert_eq!(code(&world.ask(&mut link, &request)), ErrorCode::Unsupported);
    }
    for (plaintext, expected) in [
        (&[0, 0, 0, 9, 0, 22][..], ErrorCode::Unsupported),
        (&[0, 0, 0, 9, 0, 255, 255, 3][..], ErrorCode::Unsupported),
        (&[0, 0, 0, 9, 0, 2, 1][..], ErrorCode::Malformed),
        (&[0, 0, 0, 9, 0][..], ErrorCode::Malformed),
    ] {
        let frame = link.seal(plaintext);
        let answer = world.bytes(link.conn, &frame);
        let answer = link.receive(&answer);
        assert_eq!((code(&answer), &answer[..4]), (expected, &plaintext[..4]));
    }
}

#[test]
fn strangers_are_bounded() {
    let mut world = World::new();
    let from = addr("198.51.100.9:5000");
    // 8 connections of one source; other sources are not affected.
    let conns: Vec<_> = (0..9).map(|_| world.open(from)).collect();
    world.turn();
    assert_eq!(world.closed, [conns[8]]);
    let other = world.open(addr("198.51.100.10:5000"));
    // 3 seconds.
    world.sleep(Duration::from_millis(2999));
    assert_eq!(world.closed.len(), 1);
    world.sleep(Duration::from_millis(1));
    assert_eq!(world.closed.len(), 10);
    assert!(world.closed.contains(&other));
    assert_eq!(world.machine.stats().connections, 0);
    // 512 bytes: a message 1 that claims to be longer is refused as soon as it says so.
    let conn = world.open(from);
    world.bytes(conn, b"AOR1\xFF\xFF");
    assert_eq!(world.closed.last(), Some(&conn));
    let conn = world.open(from);
    world.bytes(conn, b"GET / HTTP/1.1\r\n");
    assert_eq!(world.closed.last(), Some(&conn));
    // AOR0 and the longest message 1 fit; a forged message 1 closes.
    let conn = world.open(from);
    world.bytes(conn, &[b"AOR0", &[1; 32][..]].concat());
    let forged = [&b"AOR1"[..], &230u16.to_be_bytes(), &[7; 230]].concat();
    world.bytes(conn, &forged);
    assert_eq!(world.closed.last(), Some(&conn));
    assert_eq!(world.machine.drops().get(DropReason::Handshake), 1);
}

#[test]
fn channels_idle_out_and_damaged_frames_close() {
    let mut world = World::new();
    let (home, mut link) = world.registered();
    for _ in 0..3 {
        world.sleep(Duration::from_secs(50));
        assert!(reply(&world.ask(&mut link, &Request::Beacons)).is_ok());
    }
    world.sleep(Duration::from_secs(60));
    assert_eq!(world.closed, [link.conn]);
    for damage in 0..3 {
        let mut link = world.connect(&home);
        let mut frame = link.seal(&[0, 0, 0, 1, 0, 2]);
        match damage {
            0 => *frame.last_mut().unwrap() ^= 1,
            1 => frame[..2].copy_from_slice(&[0, 15]),
            _ => frame[..2].copy_from_slice(&[0x40, 1]),
        }
        assert!(world.bytes(link.conn, &frame).is_empty());
        assert_eq!(world.closed.last(), Some(&link.conn));
    }
    // An answer where a request should be.
    let mut link = world.connect(&home);
    let frame = link.seal(&[0, 0, 0, 1, 1, 0]);
    world.bytes(link.conn, &frame);
    assert_eq!(world.closed.last(), Some(&link.conn));
}

#[test]
fn a_node_has_at_most_four_connections_and_reads_its_answers() {
    let mut world = World::new();
    let (home, first) = world.registered();
    let mut links: Vec<_> = (0..4).map(|_| world.connect(&home)).collect();
    assert_eq!(world.closed, [first.conn]);
    // A client that asks and never reads.
    let link = &mut links[3];
    let mut sent = 0;
    while world.closed.len() < 2 && sent < 10_000 {
        let frame = link.seal(&[0, 0, 0, 1, 0, 2]);
        world.machine.handle_bytes(world.now, link.conn, &frame);
        world.turn();
        sent += 1;
    }
    assert_eq!(world.closed.last(), Some(&link.conn));
    assert!(reply(&world.ask(&mut links[0], &Request::Beacons)).is_ok());
}
