//! First contact, restarts, serials, fencing, the owner's requests.

use super::*;
use crate::name::{Hostname, parse_tags};

fn node(n: u32) -> Address {
    Address::backbone(crate::addr::NodeId(n))
}

fn hostname(name: &str) -> Hostname {
    name.parse().unwrap()
}

fn answered(world: &mut World, n: usize, id: RequestId) {
    world.run_until(secs(60), |w| w.has(n, DirectoryEvent::Answered(id)));
}

/// Submits, waits and tells whether it was done.
fn done(
    world: &mut World,
    n: usize,
    ask: impl FnOnce(&mut Directory<'static>, Instant) -> Result<RequestId, DirectoryError>,
) -> Result<(), RequestError> {
    let now = world.now;
    let id = ask(&mut world.agents[n].dir, now).unwrap();
    answered(world, n, id);
    let result = world.agents[n].dir.answer(id).unwrap().map(|answer| {
        assert!(matches!(answer, Answer::Done));
    });
    world.agents[n].dir.forget(id);
    assert!(world.agents[n].dir.answer(id).is_none());
    result
}

fn agent_info(world: &mut World, n: usize, target: &Target) -> Result<AgentInfo, RequestError> {
    let now = world.now;
    let id = world.agents[n].dir.resolve(now, target, None).unwrap();
    answered(world, n, id);
    let result = match world.agents[n].dir.answer(id).unwrap() {
        Ok(Answer::Agent(info)) => Ok(info),
        Err(error) => Err(error),
        Ok(other) => panic!("{other:?}"),
    };
    world.agents[n].dir.forget(id);
    result
}

#[test]
fn first_start_gets_an_address_and_goes_online() {
    let mut world = World::new(1);
    let took = world.wait_online();
    let agent = &world.agents[0];
    assert_eq!(agent.dir.address(), Some(node(16)));
    let key = world.server.identity();
    assert!(world.has(0, DirectoryEvent::RegistryPinned(key)));
    assert!(world.has(0, DirectoryEvent::Registered(world.address(0))));
    assert!(!agent.events.iter().any(|e| matches!(e, DirectoryEvent::ClockSkew(_))));
    assert_eq!(agent.dir.observed(), Some(agent.socket));
    assert_eq!(agent.dials, 1);
    assert!(took < ms(300), "{took:?}");
    // The channel is closed once there is nothing to ask.
    world.run(secs(70));
    assert_eq!(world.agents[0].conn, None);
    world.run(secs(600));
    assert_eq!((world.agents[0].dials, world.agents[0].dir.link()), (1, LinkState::Online));
}

#[test]
fn a_restart_keeps_address_keys_and_pin() {
    let mut world = World::online(2);
    let record = *world.agents[0].dir.record().unwrap();
    let boot = world.agents[0].dir.boot_id();
    world.restart(0);
    assert_ne!(world.agents[0].dir.boot_id(), boot);
    world.wait_online();
    assert_eq!(world.agents[0].dir.record(), Some(&record));
    assert_eq!(world.address(1), node(17));
    let pinned = |e: &DirectoryEvent| matches!(e, DirectoryEvent::RegistryPinned(_));
    assert!(!world.agents[0].events.iter().any(pinned), "it was pinned already");
}

#[test]
fn a_crash_at_any_moment_neither_loses_nor_fences() {
    let mut world = World::new(1);
    for k in 0..60 {
        world.run(ms(k * 3));
        world.restart(0);
    }
    world.wait_online();
    assert_eq!(world.address(0), node(16));
    assert_eq!(world.server.stats().nodes, 1);
}

#[test]
fn more_crashes_than_boot_ids_are_kept() {
    let mut world = World::online(1);
    // Each registers; no answer arrives.
    for _ in 0..20 {
        world.restart(0);
        world.run(ms(75));
    }
    world.wait_online();
    assert!(!world.agents[0].dir.is_fenced());
}

#[test]
fn the_registry_restarts_and_rotates_its_tunnel_key() {
    let mut world = World::online(1);
    world.stop_server();
    world.run(secs(40));
    assert_eq!(world.agents[0].dir.link(), LinkState::Offline);
    world.start_server();
    world.wait_online();
    let dials = world.agents[0].dials;
    world.stop_server();
    world.server_tunnel = [77; 32];
    world.run(secs(40));
    world.start_server();
    let took = world.wait_online();
    assert!(took < secs(90), "{took:?}");
    assert!(world.agents[0].dials >= dials + 2, "the remembered key was tried first");
    assert_eq!(world.address(0), node(16));
}

#[test]
fn a_registry_that_lost_its_store_takes_us_back_only_under_our_address() {
    let mut world = World::online(2);
    world.stop_server();
    world.server_disk.clear();
    // The second agent comes first and would get the first one's address.
    world.agents[0].cut = true;
    world.agents[0].no_tcp = true;
    world.start_server();
    world.run(secs(300));
    assert_eq!(world.address(1), node(17), "peers have pinned it");
    assert_eq!((world.server.stats().nodes, world.server.stats().published), (1, 0));
    world.stop_server();
    world.server_disk.clear();
    world.agents[0].cut = false;
    world.agents[0].no_tcp = false;
    world.agents[1].no_tcp = true;
    world.start_server();
    world.run_until(secs(300), |w| w.agents[0].dir.link() == LinkState::Online);
    world.agents[1].no_tcp = false;
    world.run_until(secs(300), |w| w.agents[1].dir.link() == LinkState::Online);
    assert_eq!((world.address(0), world.address(1)), (node(16), node(17)));
}

#[test]
fn another_registry_key_is_refused_slowly_and_for_good() {
    let mut world = World::online(1);
    let pinned = world.server.identity();
    world.stop_server();
    world.server_key = [111; 32];
    world.server_tunnel = [112; 32];
    world.start_server();
    let shown = world.server.identity();
    world.run(secs(600));
    assert!(world.has(0, DirectoryEvent::RegistryKeyChanged { pinned, shown }));
    assert_eq!(world.agents[0].dir.link(), LinkState::Offline);
    assert_eq!(world.agents[0].dir.registry_key(), Some(pinned));
    assert_eq!(world.server.stats().nodes, 0, "nothing was said to it");
    assert!(world.agents[0].dials < 100, "{}", world.agents[0].dials);
    // The right one is back.
    world.stop_server();
    world.server_key = [200; 32];
    world.start_server();
    world.wait_online();
}

#[test]
fn first_use_can_be_forbidden_and_a_given_key_is_enough() {
    let mut world = World::new(0);
    let strict = Config { forbid_first_use: true, ..Config::default() };
    let n = world.add(strict.clone(), Limits::small_for_tests());
    let shown = world.server.identity();
    world.run(secs(120));
    assert!(world.has(n, DirectoryEvent::RegistryUnknown(shown)));
    assert_eq!(world.server.stats().nodes, 0);
    world.agents[n].config.registry_key = Some(shown);
    world.restart(n);
    world.wait_online();
    let wrong = Config { registry_key: Some(IdentityKey([9; 32])), ..Config::default() };
    let m = world.add(wrong, Limits::small_for_tests());
    world.run(secs(60));
    let pinned = IdentityKey([9; 32]);
    assert!(world.has(m, DirectoryEvent::RegistryKeyChanged { pinned, shown }));
}

#[test]
fn a_given_key_overrules_the_pin() {
    let mut world = World::online(1);
    let (old, new) = (world.server.identity(), Identity::from_secret([111; 32]).public());
    world.agents[0].config.registry_key = Some(new);
    world.restart(0);
    world.run(secs(60));
    // Not even the remembered tunnel key is used with the old one.
    let changed = DirectoryEvent::RegistryKeyChanged { pinned: new, shown: old };
    assert!(world.has(0, changed));
    assert_eq!(world.server.stats().registrations, 1);
    world.agents[0].config.registry_key = Some(old);
    world.restart(0);
    world.wait_online();
}

#[test]
fn nothing_leaves_before_it_is_stored() {
    let mut world = World::new(0);
    let n = world.add(Config::default(), Limits::small_for_tests());
    world.agents[n].disk_stuck = true;
    world.run(secs(300));
    // What asks for keys; no key of ours, no identity, no datagram.
    let questions = 36 * u64::from(world.agents[n].dials);
    assert_eq!((world.agents[n].sent, world.server.stats().nodes), (questions, 0));
    world.agents[n].disk_stuck = false;
    world.write_disk(n);
    world.wait_online();
}

#[test]
fn an_unreachable_registry_is_tried_for_ever_and_not_too_often() {
    let mut world = World::new(1);
    world.stop_server();
    world.run(secs(3600));
    let dials = world.agents[0].dials;
    assert!((80..260).contains(&dials), "{dials}");
    world.start_server();
    let took = world.wait_online();
    assert!(took < secs(50), "{took:?}");
}

#[test]
fn a_home_that_is_an_old_copy_goes_on_from_the_registrys_record() {
    let mut world = World::online(1);
    let old = world.agents[0].disk.clone();
    rotate(&mut world, 0);
    let serial = world.agents[0].dir.record().unwrap().fields.serial;
    assert_eq!(serial, 2);
    // The keys are old, the boot ids are not: no other home runs.
    let keys = crate::journal::key(b"keys", 0);
    world.agents[0].disk.insert(keys, old[&keys].clone());
    world.restart(0);
    world.wait_online();
    let record = *world.agents[0].dir.record().unwrap();
    assert_eq!((record.fields.serial, world.address(0)), (3, node(16)));
    assert_eq!(record.fields.tunnel, world.agents[0].dir.tunnel_secret().public());
}

/// Thirty-one days pass in a moment.
fn rotate(world: &mut World, n: usize) {
    let before = world.agents[n].dir.tunnel_secret().public();
    let later = world.unix() + secs(31 * 24 * 3600);
    let now = world.now;
    world.agents[n].events.clear();
    world.agents[n].dir.handle_clock_change(now, later);
    world.run_until(secs(10), |w| {
        w.agents[n].events.iter().any(|e| matches!(e, DirectoryEvent::Registered(_)))
    });
    world.wait_online();
    assert_ne!(world.agents[n].dir.tunnel_secret().public(), before);
    assert_eq!(world.agents[n].dir.previous_tunnel_secret().unwrap().public(), before);
}

#[test]
fn the_tunnel_key_is_rotated_each_month() {
    let mut world = World::online(1);
    let first = *world.agents[0].dir.record().unwrap();
    rotate(&mut world, 0);
    let second = *world.agents[0].dir.record().unwrap();
    assert_eq!((second.fields.serial, second.fields.prev), (2, first.hash()));
    world.restart(0);
    world.wait_online();
    assert_eq!(world.agents[0].dir.record(), Some(&second));
}

#[test]
fn a_second_home_is_fenced_unless_it_takes_over() {
    let mut world = World::online(1);
    let copy = world.agents[0].disk.clone();
    world.restart(0);
    world.wait_online();
    // An old copy wakes up.
    let n = world.add(Config::default(), Limits::small_for_tests());
    world.agents[n].identity = world.agents[0].identity;
    world.agents[n].disk = copy.clone();
    world.restart(n);
    world.run(secs(60));
    assert!(world.has(n, DirectoryEvent::Fenced));
    assert_eq!(world.agents[0].dir.link(), LinkState::Online);
    assert_eq!(world.agents[n].conn, None);
    let sent = world.agents[n].sent;
    world.run(secs(600));
    assert_eq!(world.agents[n].sent, sent, "a fenced home says nothing");
    let refused = world.agents[n].dir.join(world.now, NetworkId(1));
    assert_eq!(refused, Err(DirectoryError::Fenced));
    // Its owner wants it so.
    world.agents[n].config.takeover = true;
    world.agents[n].disk = copy;
    world.restart(n);
    world.run_until(secs(60), |w| w.agents[n].dir.link() == LinkState::Online);
    world.run_until(secs(60), |w| w.has(0, DirectoryEvent::Fenced));
    assert_eq!(world.address(0), world.address(n));
    world.agents[n].config.takeover = false;
    world.restart(n);
    world.run_until(secs(60), |w| w.agents[n].dir.link() == LinkState::Online);
}

#[test]
fn a_wrong_clock_is_told() {
    let mut world = World::new(0);
    world.ahead = secs(2 * 3600);
    world.add(Config::default(), Limits::small_for_tests());
    world.wait_online();
    assert!(
        world.agents[0].events.iter().any(
            |e| matches!(e, DirectoryEvent::ClockSkew(skew) if (-7201..=-7199).contains(skew))
        )
    );
}

#[test]
fn networks_names_and_tags_are_set_and_kept() {
    let mut world = World::online(2);
    let seven = NetworkId(7);
    assert_eq!(done(&mut world, 0, |d, now| d.join(now, seven)), Ok(()));
    assert_eq!(world.agents[0].dir.default_network(), seven);
    assert_eq!(done(&mut world, 0, |d, now| d.set_hostname(now, hostname("alpha"), None)), Ok(()));
    assert_eq!(done(&mut world, 1, |d, now| d.join(now, seven)), Ok(()));
    let taken = done(&mut world, 1, |d, now| d.set_hostname(now, hostname("alpha"), None));
    assert_eq!(taken, Err(RequestError::Conflict));
    let tags = parse_tags("role=research,gpu").unwrap();
    assert_eq!(done(&mut world, 0, |d, now| d.set_tags(now, tags.clone())), Ok(()));
    let alpha = Target::Hostname(hostname("alpha"));
    assert_eq!(agent_info(&mut world, 1, &alpha), Err(RequestError::NotFound), "private");
    assert_eq!(done(&mut world, 0, |d, now| d.set_visibility(now, true)), Ok(()));
    let info = agent_info(&mut world, 1, &alpha).unwrap();
    assert_eq!(info.address, Address::new(seven, world.address(0).node));
    assert_eq!(info.identity, world.agents[0].dir.identity());
    assert_eq!((info.hostname, &info.tags), (Some(hostname("alpha")), &tags));

    world.restart(0);
    let dir = &world.agents[0].dir;
    assert_eq!(dir.memberships(), [(seven, Some(hostname("alpha")))]);
    assert_eq!((dir.tags(), dir.is_public()), (&tags, true));
    world.wait_online();
    assert_eq!(done(&mut world, 0, |d, now| d.clear_hostname(now, None)), Ok(()));
    assert_eq!(done(&mut world, 0, |d, now| d.leave(now, seven)), Ok(()));
    assert_eq!(world.agents[0].dir.default_network(), NetworkId::BACKBONE);
    assert_eq!(agent_info(&mut world, 1, &alpha), Err(RequestError::NotFound));
}

#[test]
fn discovery_goes_page_by_page() {
    let mut world = World::online(20);
    let tags = parse_tags("gpu").unwrap();
    for n in 0..19 {
        assert_eq!(done(&mut world, n, |d, now| d.set_visibility(now, true)), Ok(()));
        assert_eq!(done(&mut world, n, |d, now| d.set_tags(now, tags.clone())), Ok(()));
    }
    let (mut found, mut cursor) = (Vec::new(), 0);
    loop {
        let now = world.now;
        let id = world.agents[19].dir.discover(now, tags.clone(), None, cursor).unwrap();
        answered(&mut world, 19, id);
        let Some(Ok(Answer::Page(page))) = world.agents[19].dir.answer(id) else { panic!() };
        let next = page.next_cursor();
        found.extend(page.map(|agent| agent.address));
        world.agents[19].dir.forget(id);
        match next {
            Some(next) => cursor = next,
            None => break,
        }
    }
    assert_eq!(found, (16..35).map(node).collect::<Vec<_>>());
}

#[test]
fn requests_survive_a_short_outage_and_fail_after_a_long_one() {
    let mut world = World::online(1);
    world.run(secs(70));
    world.stop_server();
    let now = world.now;
    let short = world.agents[0].dir.join(now, NetworkId(3)).unwrap();
    world.run(secs(5));
    world.start_server();
    answered(&mut world, 0, short);
    assert!(matches!(world.agents[0].dir.answer(short), Some(Ok(Answer::Done))));
    world.stop_server();
    let now = world.now;
    let long = world.agents[0].dir.join(now, NetworkId(4)).unwrap();
    for _ in 0..2 {
        world.agents[0].dir.join(now, NetworkId(4)).unwrap();
    }
    assert_eq!(world.agents[0].dir.join(now, NetworkId(4)), Err(DirectoryError::Full));
    answered(&mut world, 0, long);
    assert_eq!(world.now.since(now), secs(30));
    let answer = world.agents[0].dir.answer(long).unwrap();
    assert!(matches!(answer, Err(RequestError::Unreachable)));
}

#[test]
fn a_registry_that_answers_nothing_is_left() {
    let mut world = World::online(1);
    world.run(secs(70));
    let dials = world.agents[0].dials;
    world.agents[0].deaf = true;
    let now = world.now;
    let id = world.agents[0].dir.join(now, NetworkId(3)).unwrap();
    world.run(secs(25));
    assert!(world.agents[0].dials >= dials + 2, "a silent connection is given up");
    world.agents[0].deaf = false;
    answered(&mut world, 0, id);
}

#[test]
fn damaged_or_foreign_state_is_not_loaded() {
    let world = World::online(1);
    let disk = world.agents[0].disk.clone();
    let empty = BTreeMap::new();
    let (config, limits) = (Config::default(), Limits::small_for_tests());
    for (key, value) in &disk {
        let mut dir = world.make_agent(&config, &limits, [1; 32], &empty, 5);
        assert_eq!(dir.load(*key, &value[..value.len() - 1]), Err(LoadError::Malformed));
        assert_eq!(dir.load(*key, &[]), Err(LoadError::Malformed));
        assert_eq!(dir.load([key[0]; 8], value), Err(LoadError::Malformed));
        assert_eq!(dir.load(*key, value), Ok(()));
    }
    let keys = crate::journal::key(b"keys", 0);
    let mut other = world.make_agent(&config, &limits, [2; 32], &empty, 5);
    assert_eq!(other.load(keys, &disk[&keys]), Err(LoadError::Malformed), "not its record");
}

/// Both sides sign their own parts only, for this registry; the receipt is handed in and counted.
#[test]
fn a_receipt_is_signed_handed_in_and_counted() {
    use crate::crypto::task::{Head, NotSigned, Side, Step, TaskId, Times, statement::submission};
    let mut world = World::online(2);
    let (s, w) = (world.agents[0].dir.identity(), world.agents[1].dir.identity());
    let registry = world.agents[0].dir.registry_key().unwrap();
    let now = world.unix();
    let first = submission(TaskId([1; 16]), s, w, now, b"work");
    let not_ours = Err(SignError::NotSigned(NotSigned::WrongSide));
    assert_eq!(world.agents[1].dir.sign_statement(first), not_ours);
    let first = world.agents[0].dir.sign_statement(first).unwrap();
    let mut head = Head::begin(&first, &registry).unwrap();
    for step in [Step::Accept, Step::Start, Step::Complete] {
        let next = head.next(step, Side::Worker, now, b"").unwrap();
        assert_eq!(world.agents[0].dir.sign_statement(next), not_ours);
        let next = world.agents[1].dir.sign_statement(next).unwrap();
        head.follow(&next, &registry).unwrap();
    }
    let times = Times { finished: now, ..Times::default() };
    assert!(world.agents[0].dir.sign_claim(&head, times).is_err());
    let claim = world.agents[1].dir.sign_claim(&head, times).unwrap();
    assert!(world.agents[1].dir.sign_receipt(&head, &claim, times).is_err());
    let receipt = world.agents[0].dir.sign_receipt(&head, &claim, times).unwrap();
    for n in [1, 0, 1] {
        assert_eq!(done(&mut world, n, |dir, now| dir.submit_receipt(now, &receipt)), Ok(()));
    }
    let ask = |world: &mut World, n: usize, of: Address| {
        let now = world.now;
        let id = world.agents[n].dir.reputation(now, of).unwrap();
        answered(world, n, id);
        let answer = match world.agents[n].dir.answer(id).unwrap() {
            Ok(Answer::Reputation(reputation)) => Ok(reputation.score()),
            Err(error) => Err(error),
            Ok(other) => panic!("{other:?}"),
        };
        world.agents[n].dir.forget(id);
        answer
    };
    let (at_s, at_w) = (world.address(0), world.address(1));
    // Work since the epoch is worth 16 and not more.
    assert_eq!((ask(&mut world, 0, at_s), ask(&mut world, 1, at_w)), (Ok(-1), Ok(16)));
    assert_eq!(ask(&mut world, 0, at_w), Err(RequestError::NotFound));
    // With the other's grant.
    world.befriend(0, 1);
    assert_eq!(ask(&mut world, 0, at_w), Ok(16));
    assert_eq!(ask(&mut world, 1, at_s), Ok(-1));
}
