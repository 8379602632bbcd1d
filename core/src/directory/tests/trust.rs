//! Trust between agents through the mailbox, with the real registry between them.

use super::*;
use crate::addr::Port;
use crate::rendezvous::{Row, Table};
use proptest::prelude::*;

fn requested(world: &World, at: usize, by: usize) -> bool {
    world.has(at, DirectoryEvent::Trust(TrustEvent::Requested(world.address(by))))
}

fn publish(world: &mut World, n: usize) {
    let now = world.now;
    let id = world.agents[n].dir.set_visibility(now, true).unwrap();
    world.run_until(secs(10), |w| w.has(n, DirectoryEvent::Answered(id)));
    world.agents[n].dir.forget(id);
}

fn approve(world: &mut World, at: usize, from: usize) {
    let (from, now) = (world.address(from), world.now);
    world.agents[at].dir.approve_trust(now, from, Permissions::ALL).unwrap();
}

fn letters(world: &World) -> usize {
    world.server.stats().letters
}

/// What must be the same after a restart.
fn summary(world: &World, n: usize) -> Vec<String> {
    let trust = world.agents[n].dir.trust();
    let mut lines = Vec::new();
    for (i, p) in trust.peers() {
        lines.push(std::format!(
            "peer {i:?} {} {:?} {:?} {:?} {:?} {:?} {}",
            p.address,
            p.identity,
            p.record,
            p.given,
            p.held(),
            p.hostname,
            p.frozen
        ));
    }
    for r in trust.requests() {
        lines.push(std::format!(
            "asked by {} {:?} {} {:?}",
            r.from(),
            r.identity(),
            r.justification,
            r.issued()
        ));
    }
    for r in trust.outgoing() {
        lines.push(std::format!("asks {} {:?} {:?}", r.to, r.identity, r.issued()));
    }
    lines
}

#[test]
fn request_and_approval_make_trust_mutual() {
    let mut world = World::online(2);
    world.run(secs(1));
    let (a, b) = (world.address(0), world.address(1));
    world.ask(0, 1);
    let seen = world.run_until(secs(10), |w| requested(w, 1, 0));
    // Not by polling: a few round trips of 20 ms (resolve, request, notice, fetch).
    assert!(seen < ms(150), "{seen:?}");
    let request = world.agents[1].dir.trust().requests().next().unwrap();
    assert_eq!((request.from(), request.justification.as_str()), (a, "let me in"));
    assert_eq!(request.identity(), world.agents[0].dir.identity());
    assert!(world.peer(1, 0).is_none() && world.peer(0, 1).is_none());
    approve(&mut world, 1, 0);
    let took = world.run_until(secs(10), |w| w.holds(0, 1) && w.holds(1, 0));
    assert!(took < ms(150), "{took:?}");
    for (n, peer) in [(0, b), (1, a)] {
        world.run_until(secs(1), |w| w.has(n, DirectoryEvent::Trust(TrustEvent::Granted(peer))));
        let index = world.agents[n].dir.trust().find(peer).unwrap();
        assert!(world.has(n, DirectoryEvent::Trust(TrustEvent::Added(index))));
        let trust = world.agents[n].dir.trust();
        assert!(trust.permits(index, Port::ECHO) && trust.permits(index, Port(5555)));
    }
    world.run(secs(1));
    assert_eq!(letters(&world), 0, "everything was acknowledged");
    assert_eq!(world.agents[0].dir.trust().outgoing().count(), 0);
    assert_eq!(world.agents[1].dir.trust().requests().count(), 0);
    // Record, name and endpoints come with the grant.
    let peer = world.agents[0].dir.trust().peer(world.peer(0, 1).unwrap()).unwrap();
    assert_eq!(peer.endpoints().len(), 1);
    assert_eq!(peer.endpoints()[0].address, world.agents[1].socket);
}

#[test]
fn a_request_to_a_public_agent_is_sealed_and_needs_no_confirmation() {
    let mut world = World::online(2);
    publish(&mut world, 1);
    world.ask(0, 1);
    world.run_until(secs(10), |w| letters(w) == 1);
    let letter = world.server.rows().find(|row| matches!(row, Row::Mail { .. })).unwrap();
    let letter = std::format!("{:?}", letter.change());
    let text = std::format!("{:?}", b"let me in");
    assert!(!letter.contains(text.trim_matches(['[', ']'])), "the registry cannot read it");
    world.run_until(secs(10), |w| requested(w, 1, 0));
    approve(&mut world, 1, 0);
    assert!(world.holds(1, 0), "the request brought the grant");
    world.run_until(secs(10), |w| w.holds(0, 1));
    world.run(secs(2));
    let (mine, theirs) = (world.peer(0, 1).unwrap(), world.peer(1, 0).unwrap());
    let given = world.agents[0].dir.trust().peer(mine).unwrap().given;
    let held = *world.agents[1].dir.trust().peer(theirs).unwrap().held().unwrap();
    assert_eq!(given, held);
}

#[test]
fn a_refusal_is_told_and_takes_the_grant_back() {
    for public in [false, true] {
        let mut world = World::online(2);
        if public {
            publish(&mut world, 1);
        }
        world.ask(0, 1);
        world.run_until(secs(10), |w| requested(w, 1, 0));
        let (a, b) = (world.address(0), world.address(1));
        let now = world.now;
        world.agents[1].dir.refuse_trust(now, a).unwrap();
        assert_eq!(world.agents[1].dir.refuse_trust(now, a), Err(DirectoryError::NotFound));
        let refused = DirectoryEvent::Trust(TrustEvent::Refused(b));
        world.run_until(secs(10), |w| w.has(0, refused));
        world.run(secs(2));
        assert!(world.peer(0, 1).is_none() && world.peer(1, 0).is_none());
        let revoked = world.server.rows().filter(|r| matches!(r, Row::Revocation { .. })).count();
        assert_eq!(revoked, usize::from(public), "the grant in the request is void");
        assert_eq!(world.agents[1].disk.keys().filter(|k| k.starts_with(b"inbx")).count(), 0);
        assert_eq!(world.agents[0].disk.keys().filter(|k| k.starts_with(b"peer")).count(), 0);
    }
}

#[test]
fn revocation_ends_trust_on_both_sides_and_at_the_registry() {
    let mut world = World::online(2);
    world.befriend(0, 1);
    let (a, b) = (world.address(0), world.address(1));
    let (at0, at1) = (world.peer(0, 1).unwrap(), world.peer(1, 0).unwrap());
    let now = world.now;
    world.agents[0].dir.revoke_trust(now, b).unwrap();
    assert!(world.peer(0, 1).is_none() && !world.agents[0].dir.trust().permits(at0, Port::ECHO));
    world.run(secs(2));
    let identity = world.agents[1].dir.identity();
    let removed = TrustEvent::Removed { peer: at0, address: b, identity, by_us: true };
    assert!(world.has(0, DirectoryEvent::Trust(removed)));
    assert!(!world.has(0, DirectoryEvent::Trust(TrustEvent::Revoked(b))));
    // The other end has not heard of it, but its grant opens nothing.
    world.agents[1].events.clear();
    let now = world.now;
    world.agents[1].dir.resolve_peer(now, at1);
    world.run_until(secs(5), |w| w.has(1, DirectoryEvent::Trust(TrustEvent::Resolved(at1))));
    assert!(world.agents[1].dir.trust().peer(at1).unwrap().endpoints().is_empty());
    // F7 code 2 arrives.
    let now = world.now;
    world.agents[1].dir.handle_revoked(now, at1);
    world.run(secs(2));
    let identity = world.agents[0].dir.identity();
    let removed = TrustEvent::Removed { peer: at1, address: a, identity, by_us: false };
    assert!(world.has(1, DirectoryEvent::Trust(removed)));
    assert!(world.has(1, DirectoryEvent::Trust(TrustEvent::Revoked(a))));
    for agent in &world.agents {
        assert!(!agent.disk.keys().any(|k| k.starts_with(b"peer")), "durably");
    }
    let revoked = world.server.rows().filter(|r| matches!(r, Row::Revocation { .. })).count();
    assert_eq!(revoked, 2);
    // They may trust each other again.
    world.befriend(1, 0);
}

#[test]
fn a_revocation_is_repeated_until_the_registry_answers() {
    let mut world = World::online(2);
    world.befriend(0, 1);
    world.run(secs(70));
    world.stop_server();
    let (now, b) = (world.now, world.address(1));
    world.agents[0].dir.revoke_trust(now, b).unwrap();
    world.run(secs(10));
    world.restart(0);
    world.run(secs(10));
    assert!(world.peer(0, 1).is_none(), "a restart does not bring it back");
    world.start_server();
    world.run_until(secs(60), |w| w.server.rows().any(|r| matches!(r, Row::Revocation { .. })));
    world.run(secs(1));
    assert!(!world.agents[0].disk.keys().any(|k| k.starts_with(b"peer")));
}

#[test]
fn crossing_requests_approve_each_other() {
    for public in 0..4 {
        let mut world = World::online(2);
        for n in 0..2 {
            if public >> n & 1 == 1 {
                publish(&mut world, n);
            }
        }
        world.ask(0, 1);
        world.ask(1, 0);
        world.run_until(secs(10), |w| w.holds(0, 1) && w.holds(1, 0));
        world.run(secs(5));
        assert_eq!(letters(&world), 0);
        for agent in &world.agents {
            assert_eq!(agent.dir.trust().outgoing().count(), 0, "public: {public:b}");
            assert_eq!(agent.dir.trust().requests().count(), 0);
        }
    }
}

#[test]
fn asking_whoever_asked_us_is_an_approval() {
    let mut world = World::online(2);
    world.ask(0, 1);
    world.run_until(secs(10), |w| requested(w, 1, 0));
    world.ask(1, 0);
    world.run_until(secs(10), |w| w.holds(0, 1) && w.holds(1, 0));
    world.run(secs(5));
    assert!(world.agents.iter().all(|a| a.dir.trust().outgoing().count() == 0));
}

#[test]
fn nothing_of_trust_leaves_before_it_is_stored() {
    let mut world = World::online(2);
    world.run(secs(70));
    // The nonce before the request.
    world.agents[0].disk_stuck = true;
    let dials = world.agents[0].dials;
    world.ask(0, 1);
    world.run(secs(30));
    assert_eq!(
        (letters(&world), world.agents[1].events.contains(&DirectoryEvent::Store)),
        (0, false)
    );
    assert!(world.agents[0].dials <= dials + 1);
    world.agents[0].disk_stuck = false;
    world.write_disk(0);
    world.run_until(secs(10), |w| requested(w, 1, 0));
    world.run(secs(2));
    // The pin before the answer.
    world.agents[1].disk_stuck = true;
    approve(&mut world, 1, 0);
    assert!(world.peer(1, 0).is_some());
    world.run(secs(30));
    assert!(world.peer(0, 1).is_none());
    assert_eq!(letters(&world), 0);
    // A crash: the approval never happened, the request still waits.
    world.agents[1].disk_stuck = false;
    world.restart(1);
    assert!(world.peer(1, 0).is_none());
    approve(&mut world, 1, 0);
    world.run_until(secs(10), |w| w.holds(0, 1) && w.holds(1, 0));
}

#[test]
fn a_crash_between_two_writes_of_an_approval_leaves_one_peer() {
    let mut world = World::online(2);
    world.ask(0, 1);
    world.run_until(secs(10), |w| requested(w, 1, 0));
    world.drain();
    let before = world.agents[1].disk.clone();
    approve(&mut world, 1, 0);
    world.drain();
    for (key, value) in before.iter().filter(|(key, _)| key.starts_with(b"inbx")) {
        world.agents[1].disk.insert(*key, value.clone());
    }
    world.restart(1);
    let trust = world.agents[1].dir.trust();
    assert_eq!((trust.peers().count(), trust.requests().count()), (1, 0));
    world.run_until(secs(60), |w| w.holds(0, 1) && w.holds(1, 0));
    world.run(secs(1));
    assert!(!world.agents[1].disk.keys().any(|key| key.starts_with(b"inbx")));
}

#[test]
fn an_item_is_acknowledged_only_when_it_is_stored() {
    let mut world = World::online(2);
    world.agents[1].disk_stuck = true;
    world.ask(0, 1);
    world.run_until(secs(10), |w| requested(w, 1, 0));
    world.run(secs(20));
    assert_eq!(letters(&world), 1, "the registry still keeps it");
    world.agents[1].disk_stuck = false;
    world.restart(1);
    world.run_until(secs(10), |w| requested(w, 1, 0));
    world.run(secs(5));
    assert_eq!(letters(&world), 0);
}

#[test]
fn a_lost_answer_is_mended_by_asking_again() {
    let mut world = World::online(2);
    world.befriend(0, 1);
    // The asker's disk lost the peer.
    world.agents[0].disk.retain(|key, _| !key.starts_with(b"peer"));
    world.restart(0);
    world.wait_online();
    assert!(world.peer(0, 1).is_none());
    world.ask(0, 1);
    world.run_until(secs(10), |w| w.holds(0, 1));
    world.run(secs(5));
    assert_eq!(world.agents[1].dir.trust().requests().count(), 0, "nobody was asked again");
    assert!(world.holds(1, 0) && letters(&world) == 0);
    // Both hold what the other gives.
    let (mine, theirs) = (world.peer(0, 1).unwrap(), world.peer(1, 0).unwrap());
    let given = world.agents[0].dir.trust().peer(mine).unwrap().given;
    assert_eq!(world.agents[1].dir.trust().peer(theirs).unwrap().held(), Some(&given));
}

#[test]
fn requests_that_nobody_answers_end_after_a_week() {
    let mut world = World::online(2);
    publish(&mut world, 1);
    world.ask(0, 1);
    world.run_until(secs(10), |w| requested(w, 1, 0));
    let (now, later) = (world.now, world.unix() + secs(8 * 24 * 3600));
    world.agents[0].dir.handle_clock_change(now, later);
    world.run(secs(3700));
    assert!(world.has(0, DirectoryEvent::Trust(TrustEvent::Refused(world.address(1)))));
    assert_eq!(world.agents[0].dir.trust().outgoing().count(), 0);
    // An approval that late makes nobody trusted unasked.
    approve(&mut world, 1, 0);
    world.run(secs(10));
    assert!(world.peer(0, 1).is_none());
}

#[test]
fn tables_are_bounded() {
    let mut world = World::online(6);
    // Three places for requests of others: the oldest gives way.
    for n in 1..5 {
        world.ask(n, 0);
        world.run_until(secs(10), |w| requested(w, 0, n));
    }
    let waiting: Vec<_> = world.agents[0].dir.trust().requests().map(|r| r.from()).collect();
    assert_eq!(waiting.len(), 3);
    assert!(!waiting.contains(&world.address(1)) && waiting.contains(&world.address(4)));
    // Three places for our own, one of them taken.
    for n in 2..4 {
        world.ask(1, n);
    }
    let (to, now) = (world.address(5), world.now);
    let why: Justification = "x".parse().unwrap();
    let full = world.agents[1].dir.request_trust(now, to, why.clone());
    assert_eq!(full, Err(DirectoryError::Full));
    let own = world.address(1);
    for bad in [own, Address::REGISTRY, Address::UNSPECIFIED] {
        let result = world.agents[1].dir.request_trust(now, bad, why.clone());
        assert_eq!(result, Err(DirectoryError::BadAddress));
    }
    let unknown = world.agents[1].dir.approve_trust(now, to, Permissions::ALL);
    assert_eq!(unknown, Err(DirectoryError::NotFound));
}

#[test]
fn each_request_reserves_the_peer_that_its_answer_will_be() {
    let mut world = World::new(0);
    let limits = Limits { peers: 1, ..Limits::small_for_tests() };
    world.add(Config::default(), limits);
    for _ in 0..2 {
        world.add(Config::default(), Limits::small_for_tests());
    }
    world.wait_online();
    world.ask(2, 0);
    world.run_until(secs(10), |w| requested(w, 0, 2));
    world.ask(0, 1);
    let (third, now) = (world.address(2), world.now);
    assert_eq!(
        world.agents[0].dir.approve_trust(now, third, Permissions::ALL),
        Err(DirectoryError::Full)
    );
    world.run_until(secs(10), |w| requested(w, 1, 0));
    approve(&mut world, 1, 0);
    world.run_until(secs(10), |w| w.holds(0, 1) && w.holds(1, 0));
    let why: Justification = "x".parse().unwrap();
    let now = world.now;
    assert_eq!(world.agents[0].dir.request_trust(now, third, why), Err(DirectoryError::Full));
}

#[test]
fn a_full_list_of_revocations_raises_the_epoch_and_reissues_grants() {
    let mut world = World::online(3);
    world.befriend(0, 1);
    world.befriend(0, 2);
    let node = world.address(0).node;
    for n in 0..256u32 {
        let row = Row::Revocation {
            grantor: node,
            grantee: Bytes([7; 32]),
            hash: Bytes(*(u64::from(n)).to_be_bytes().first_chunk().unwrap()),
            at: 0,
        };
        assert_eq!(row.change().table, Table::Revocations);
        world.server.apply(&row.change()).unwrap();
    }
    let (now, b) = (world.now, world.address(1));
    let before =
        *world.agents[2].dir.trust().peer(world.peer(2, 0).unwrap()).unwrap().held().unwrap();
    world.agents[0].dir.revoke_trust(now, b).unwrap();
    world.run(secs(10));
    let record = *world.agents[0].dir.record().unwrap();
    assert_eq!((record.fields.grant_epoch, record.fields.serial), (1, 2));
    let after =
        *world.agents[2].dir.trust().peer(world.peer(2, 0).unwrap()).unwrap().held().unwrap();
    assert_eq!((before.epoch, after.epoch), (0, 1));
    assert!(world.holds(0, 2), "who stays trusted notices nothing");
    assert!(!world.agents[0].disk.keys().any(|k| k.starts_with(b"peer") && k[7] == 0));
    // The new grant opens, the one that was revoked does not.
    for (n, found) in [(2, 1), (1, 0)] {
        let peer = world.peer(n, 0).unwrap();
        world.agents[n].events.clear();
        let now = world.now;
        world.agents[n].dir.resolve_peer(now, peer);
        world.run_until(secs(5), |w| w.has(n, DirectoryEvent::Trust(TrustEvent::Resolved(peer))));
        assert_eq!(world.agents[n].dir.trust().peer(peer).unwrap().endpoints().len(), found);
    }
}

#[test]
fn a_private_name_is_found_among_trusted_peers_with_their_grant() {
    let mut world = World::online(3);
    let name: crate::name::Hostname = "secret".parse().unwrap();
    let now = world.now;
    world.agents[1].dir.set_hostname(now, name.clone(), None).unwrap();
    world.run(secs(1));
    world.befriend(0, 1);
    let target = Target::Hostname(name);
    for (n, known) in [(0, true), (2, false)] {
        let now = world.now;
        let id = world.agents[n].dir.resolve(now, &target, None).unwrap();
        world.run_until(secs(5), |w| w.has(n, DirectoryEvent::Answered(id)));
        match world.agents[n].dir.answer(id) {
            Some(Ok(Answer::Agent(info))) => assert!(known && info.address == world.address(1)),
            Some(Err(RequestError::NotFound)) => assert!(!known),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_private_name_that_a_trusted_peer_takes_later_is_found_too() {
    let mut world = World::online(4);
    for n in [1, 3] {
        world.befriend(0, n);
    }
    let ask = |world: &mut World, n: usize, name: &str| {
        let (now, target) = (world.now, Target::Hostname(name.parse().unwrap()));
        let id = world.agents[n].dir.resolve(now, &target, None).unwrap();
        world.run_until(secs(5), |w| w.has(n, DirectoryEvent::Answered(id)));
        let answer = match world.agents[n].dir.answer(id) {
            Some(Ok(Answer::Agent(info))) => Some(info.address),
            Some(Err(RequestError::NotFound)) => None,
            other => panic!("{other:?}"),
        };
        world.agents[n].dir.forget(id);
        answer
    };
    for name in ["early", "later"] {
        let now = world.now;
        world.agents[1].dir.set_hostname(now, name.parse().unwrap(), None).unwrap();
        world.run(secs(3));
        assert_eq!(ask(&mut world, 0, name), Some(world.address(1)));
        assert_eq!(ask(&mut world, 2, name), None, "for a stranger");
    }
    // A name that nobody has costs a search at most every two seconds.
    world.run(secs(3));
    assert_eq!(ask(&mut world, 0, "nobody"), None);
    let (now, sent) = (world.now, world.agents[0].sent);
    assert_eq!(ask(&mut world, 0, "nobody"), None);
    assert!(world.now < now + ms(100) && world.agents[0].sent < sent + 200);
    assert_eq!(ask(&mut world, 0, "early"), None, "given up");
}

#[test]
fn a_trust_that_is_young_survives_crashes_at_any_moment() {
    for k in 0..24u64 {
        let mut world = World::online(2);
        if k % 2 == 0 {
            publish(&mut world, 1);
        }
        world.ask(0, 1);
        // Commands are durable once the events they cause were taken.
        world.drain();
        for round in 0..14 {
            world.run(ms(7 + k));
            world.restart(((k >> 1) + round) as usize % 2);
            if world.agents[1].dir.trust().requests().count() > 0 {
                approve(&mut world, 1, 0);
                world.drain();
            }
        }
        world.run_until(secs(60), |w| (w.holds(0, 1) && w.holds(1, 0)) || requested(w, 1, 0));
        if world.agents[1].dir.trust().requests().count() > 0 {
            approve(&mut world, 1, 0);
        }
        world.run_until(secs(60), |w| w.holds(0, 1) && w.holds(1, 0));
    }
}

/// W-H2: letters of any length and content, which the registry itself put there, neither panic
/// nor make trust, and the mailbox goes on.
#[test]
fn letters_of_any_bytes_do_nothing() {
    use crate::rendezvous::Letter;
    let mut world = World::online(2);
    let (from, to) = (world.address(1).node, world.address(0).node);
    let mut rng = crate::rng::Rng::new([5; 32]);
    let mut id = 1000;
    for len in [1, 5, 6, 37, 38, 44, 76, 95, 96, 97, 102, 104, 168, 200, 500, 1023, 1024] {
        for sealed in [false, true] {
            let body: Vec<u8> = (0..len).map(|_| rng.u32() as u8 & 3).collect();
            let letter = Letter::Request { sealed, body: body.into() };
            let received = world.unix().as_secs();
            id += 1;
            let row = Row::Mail { id, to, from, received, letter };
            world.server.apply(&row.change()).unwrap();
        }
        world.run(secs(40));
    }
    assert_eq!(letters(&world), 0, "each was taken and acknowledged");
    assert_eq!(world.agents[0].dir.trust().requests().count(), 0);
    world.befriend(1, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happened: what was stored gives the same tables.
    #[test]
    fn a_restart_loads_the_same_tables(
        ops in prop::collection::vec((0u8..7, 0usize..3, 1usize..3, 0u64..60), 1..25),
    ) {
        let mut world = World::online(3);
        for (op, n, off, wait) in ops {
            let other = (n + off) % 3;
            let (to, now) = (world.address(other), world.now);
            let dir = &mut world.agents[n].dir;
            match op {
                0 | 1 => {
                    let _ = dir.request_trust(now, to, Justification::cleaned("why"));
                }
                2 | 3 => drop(dir.approve_trust(now, to, Permissions::ALL)),
                4 => drop(dir.refuse_trust(now, to)),
                5 => drop(dir.revoke_trust(now, to)),
                _ => drop(dir.set_visibility(now, off == 1)),
            }
            world.run(ms(wait));
            // A restart forgets endpoints and events, and nothing else.
            let before = summary(&world, n);
            world.restart(n);
            prop_assert_eq!(before, summary(&world, n));
        }
        world.run(secs(30));
        for n in 0..3 {
            let before = summary(&world, n);
            world.restart(n);
            prop_assert_eq!(before, summary(&world, n));
        }
    }
}

#[test]
fn changed_rights_reach_the_peer_and_no_grant_outlives_trust() {
    let mut world = World::online(3);
    world.befriend(0, 1);
    world.befriend(0, 2);
    world.run(secs(1));
    let (at0, b) = (world.peer(0, 1).unwrap(), world.address(1));
    let now = world.now;
    let permissions = "echo,ports=80".parse().unwrap();
    world.agents[0].dir.set_permissions(now, at0, permissions).unwrap();
    let held = |w: &World, n: usize| {
        let trust = w.agents[n].dir.trust();
        *trust.peer(w.peer(n, 0).unwrap()).unwrap().held().unwrap()
    };
    let took = world.run_until(secs(10), |w| held(w, 1).rights == permissions.rights());
    assert!(took < ms(150), "{took:?}");
    world.run(secs(1));
    assert_eq!(letters(&world), 0);
    // The grant from before is not in the revocation that the registry gets. It is void too:
    // the epoch is raised, and the third agent has a new grant.
    let epoch = |w: &World| w.agents[0].dir.record().unwrap().fields.grant_epoch;
    let (before, theirs) = (epoch(&world), held(&world, 2));
    let now = world.now;
    world.agents[0].dir.revoke_trust(now, b).unwrap();
    world.run_until(secs(10), |w| epoch(w) == before + 1 && held(w, 2) != theirs);
    world.run(secs(2));
    assert_eq!(epoch(&world), before + 1, "once");
    assert_eq!(world.agents[0].disk.keys().filter(|k| k.starts_with(b"peer")).count(), 1);
    let now = world.now;
    let (from2, to0) = (world.peer(2, 0).unwrap(), world.address(0));
    world.agents[2].events.clear();
    world.agents[2].dir.resolve_peer(now, from2);
    let resolved = DirectoryEvent::Trust(TrustEvent::Resolved(from2));
    world.run_until(secs(5), |w| w.has(2, resolved));
    let trust = world.agents[2].dir.trust();
    let known = trust.peer(from2).unwrap();
    assert_eq!((known.address, known.endpoints().len()), (to0, 1), "its new grant counts");
}
