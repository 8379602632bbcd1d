//! Committed before acknowledged, and the same after a reload.

use super::receipts::work;
use super::*;
use crate::addr::{Address, NetworkId, NodeId};
use crate::name::parse_tags;
use crate::rendezvous::*;
use crate::time::Duration;
use crate::wire::Bytes;
use crate::wire::registry::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

#[test]
fn an_answer_waits_for_its_commit() {
    let mut world = World::new();
    let (home, mut link) = world.registered();
    world.storing = false;
    let name = Request::SetHostname { hostname: "web".parse().unwrap(), network: None };
    assert!(world.ask(&mut link, &name).is_empty());
    let commit = world.machine.poll_commit(world.now).unwrap();
    assert!(matches!(
        Row::decode(commit.changes[0].table, &commit.changes[0].key,
            commit.changes[0].value.as_ref().unwrap()),
        Ok(Row::Name { node, .. }) if Some(node) == home.node
    ));
    assert_eq!(world.machine.poll_commit(world.now), None);
    // The same request again changes nothing, and still waits: it may not be durable yet.
    assert!(world.ask(&mut link, &name).is_empty());
    // What comes meanwhile goes into the next commit; reading does not wait.
    let tags = Request::SetTags { tags: parse_tags("a").unwrap() };
    assert!(world.ask(&mut link, &tags).is_empty());
    assert!(reply(&world.ask(&mut link, &Request::Beacons)).is_ok());
    world.machine.handle_commit(world.now, commit.id, true);
    let bytes = world.read(link.conn);
    assert_eq!(link.receive_all(&bytes).len(), 2);
    let second = world.machine.poll_commit(world.now).unwrap();
    assert_eq!((second.id, second.changes.len()), (commit.id + 1, 1));
    assert!(world.read(link.conn).is_empty());
    world.machine.handle_commit(world.now, second.id, true);
    let bytes = world.read(link.conn);
    assert_eq!(link.receive_all(&bytes).len(), 1);
    // Now that all is durable, a repetition is answered at once.
    assert!(reply(&world.ask(&mut link, &name)).is_ok());
    // Unknown and repeated ids mean nothing.
    world.machine.handle_commit(world.now, second.id, false);
    world.machine.handle_commit(world.now, 99, true);
    assert_eq!(world.machine.stats().failed_commits, 0);
}

#[test]
fn a_failed_commit_is_told_and_tried_again() {
    let mut world = World::new();
    let (_, mut link) = world.registered();
    world.storing = false;
    let name = Request::SetHostname { hostname: "web".parse().unwrap(), network: None };
    world.ask(&mut link, &name);
    let commit = world.machine.poll_commit(world.now).unwrap();
    world.machine.handle_commit(world.now, commit.id, false);
    let bytes = world.read(link.conn);
    let answer = link.receive(&bytes);
    let refusal = reply(&answer).unwrap_err();
    assert_eq!((refusal.code, refusal.retry_ms), (ErrorCode::RateLimited, 1000));
    assert_eq!(world.machine.poll_commit(world.now), None);
    assert!(world.ask(&mut link, &name).is_empty());
    world.sleep(Duration::from_secs(1));
    let again = world.machine.poll_commit(world.now).unwrap();
    assert_eq!(again.changes, commit.changes);
    world.machine.handle_commit(world.now, again.id, true);
    let bytes = world.read(link.conn);
    assert!(reply(&link.receive(&bytes)).is_ok());
}

#[test]
fn a_client_that_left_is_not_missed() {
    let mut world = World::new();
    let (_, mut link) = world.registered();
    world.storing = false;
    let name = Request::SetHostname { hostname: "web".parse().unwrap(), network: None };
    world.ask(&mut link, &name);
    world.machine.handle_close(world.now, link.conn);
    world.storing = true;
    world.turn();
    assert_eq!(world.machine.stats().connections, 0);
    assert!(world.machine.rows().any(|row| matches!(row, Row::Name { .. })));
}

#[test]
fn waiting_requests_and_changes_are_bounded() {
    let mut world = World::new();
    let (_, mut link) = world.registered();
    world.storing = false;
    let mut refused = 0;
    for n in 0..40 {
        let tags = parse_tags(if n % 2 == 0 { "a" } else { "b" }).unwrap();
        let answer = world.ask(&mut link, &Request::SetTags { tags });
        if !answer.is_empty() {
            assert_eq!(code(&answer), ErrorCode::RateLimited);
            refused += 1;
        }
    }
    assert_eq!(refused, 8);
    world.storing = true;
    let bytes = world.read(link.conn);
    assert_eq!(link.receive_all(&bytes).len(), 32);
    // Storage that stands still does not let changes gather without end.
    world.machine.limits.changes = 5;
    world.storing = false;
    let (mut waiting, mut refused) = (0, 0);
    for _ in 0..10 {
        let mut home = world.home();
        let mut link = world.connect(&home);
        let proof = crate::crypto::request::sign_reserve(&home.identity, &link.hash);
        let identity = Bytes(home.identity.public().0);
        let answer = world.ask(&mut link, &Request::Reserve { identity, proof: Bytes(proof) });
        if answer.is_empty() {
            waiting += 1
        } else {
            refused += 1
        }
        home.node = None;
    }
    assert!(waiting >= 3 && refused >= 3 && waiting + refused == 10);
}

#[test]
fn damaged_rows_are_refused() {
    let mut world = World::new();
    world.registered();
    for (table, key, value) in [
        (Table::Nodes, &[0, 0, 0, 16][..], &[][..]),
        (Table::Nodes, &[0, 0, 0, 16], &[2, 0]),
        (Table::Nodes, &[0, 0, 16], &[1, 0]),
        (Table::Names, &[0, 0, b'-'], &[1, 16]),
        (Table::Memberships, &[0, 0, 0, 16, 0], &[1]),
        (Table::Mailbox, &[0; 8], &[1, 16, 17, 0, 9]),
        (Table::Asked, &[0; 8], &[1]),
        (Table::Revocations, &[0; 43], &[1, 1]),
        (Table::Meta, &[], &[1, 17]),
        (Table::Meta, &[1], &[1, 17, 1]),
    ] {
        let (key, value) = (key.to_vec(), Some(value.to_vec()));
        let change = Change { table, key, value };
        assert!(world.machine.apply(&change).is_err(), "{change:?}");
    }
    assert_eq!(
        world.machine.apply(&Change {
            table: Table::Nodes,
            key: std::vec![0, 0, 0, 16],
            value: Some(std::vec![2, 0]),
        }),
        Err(RowError::Schema(2))
    );
}

#[test]
fn rows_export_as_json() {
    let mut world = World::new();
    let (home, mut link) = world.registered();
    let name = Request::SetHostname { hostname: "web".parse().unwrap(), network: None };
    world.ask(&mut link, &name);
    for row in world.machine.rows() {
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<Row>(&json).unwrap(), row);
    }
    let node = world.machine.rows().find(|row| matches!(row, Row::Node { .. })).unwrap();
    let json = serde_json::to_value(node).unwrap();
    let hex = data_encoding::HEXLOWER.encode(&home.key().0);
    assert_eq!(json["Node"]["identity"], hex);
}

/// One thing that somebody does.
#[derive(Clone, Debug)]
enum Step {
    Register { who: usize, raise: bool, tags: bool, public: bool, name: u8 },
    Join(usize, u16),
    Leave(usize, u16),
    Name(usize, u8, Option<u16>),
    Clear(usize),
    Tags(usize, u8),
    Visible(usize, bool),
    Ask(usize, usize),
    Answer(usize, usize, bool),
    Confirm(usize, usize),
    Ack(usize),
    Revoke(usize, usize),
    Work(usize, usize, u8),
    Sleep(u32),
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0usize..3;
    prop_oneof![
        (who.clone(), any::<bool>(), any::<bool>(), any::<bool>(), 0u8..4).prop_map(
            |(who, raise, tags, public, name)| Step::Register { who, raise, tags, public, name }
        ),
        (who.clone(), 1u16..4).prop_map(|(w, n)| Step::Join(w, n)),
        (who.clone(), 1u16..4).prop_map(|(w, n)| Step::Leave(w, n)),
        (who.clone(), 0u8..4, prop::option::of(0u16..4))
            .prop_map(|(w, n, at)| Step::Name(w, n, at)),
        who.clone().prop_map(Step::Clear),
        (who.clone(), 0u8..4).prop_map(|(w, t)| Step::Tags(w, t)),
        (who.clone(), any::<bool>()).prop_map(|(w, v)| Step::Visible(w, v)),
        (who.clone(), who.clone()).prop_map(|(a, b)| Step::Ask(a, b)),
        (who.clone(), who.clone(), any::<bool>()).prop_map(|(a, b, g)| Step::Answer(a, b, g)),
        (who.clone(), who.clone()).prop_map(|(a, b)| Step::Confirm(a, b)),
        who.clone().prop_map(Step::Ack),
        (who.clone(), who).prop_map(|(a, b)| Step::Revoke(a, b)),
        (0u32..200_000).prop_map(Step::Sleep),
        (0usize..3, 1usize..3, 0u8..6).prop_map(|(a, n, task)| Step::Work(a, (a + n) % 3, task)),
        Just(Step::Fail),
    ]
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const TAGS: [&str; 4] = ["x", "y=1", "x,y=2,z", "z=3"];

fn perform(world: &mut World, homes: &mut [Home], step: Step) {
    let registry = world.registry_key();
    let grants = |a: &Home, b: &Home| a.grant(registry, b);
    let receipt;
    let (who, request) = match step {
        Step::Sleep(seconds) => {
            world.sleep(Duration::from_secs(seconds.into()));
            return;
        }
        Step::Fail => {
            // The store refuses once; what was gathered must come again.
            world.turn();
            world.storing = false;
            let mut link = world.connect(&homes[0]);
            let tags = parse_tags("w").unwrap();
            world.ask(&mut link, &Request::SetTags { tags });
            if let Some(commit) = world.machine.poll_commit(world.now) {
                world.machine.handle_commit(world.now, commit.id, false);
            }
            world.storing = true;
            world.sleep(Duration::from_secs(2));
            return;
        }
        Step::Register { who, raise, tags, public, name } => {
            // Its channel shows the record that the registry has.
            let mut link = world.connect(&homes[who]);
            let home = &mut homes[who];
            home.serial += 1;
            home.grant_epoch += u32::from(raise);
            let mut request = home.registration(registry);
            request.tags = tags.then(|| parse_tags(TAGS[usize::from(name)]).unwrap());
            request.visibility = public.then_some(Visibility::Public);
            request.hostname = (name > 0).then(|| NAMES[usize::from(name)].parse().unwrap());
            let before = request.clone();
            if world.register_with(&mut link, request).is_err() {
                // The name was taken; without it the record must be fine.
                world.register_with(&mut link, Registration { hostname: None, ..before }).unwrap();
            }
            return;
        }
        Step::Join(who, n) => (who, Request::Join { network: NetworkId(n) }),
        Step::Leave(who, n) => (who, Request::Leave { network: NetworkId(n) }),
        Step::Name(who, n, at) => {
            let hostname = NAMES[usize::from(n)].parse().unwrap();
            (who, Request::SetHostname { hostname, network: at.map(NetworkId) })
        }
        Step::Clear(who) => (who, Request::ClearHostname { network: None }),
        Step::Tags(who, n) => {
            (who, Request::SetTags { tags: parse_tags(TAGS[usize::from(n)]).unwrap() })
        }
        Step::Visible(who, public) => {
            let visibility = if public { Visibility::Public } else { Visibility::Private };
            (who, Request::SetVisibility { visibility })
        }
        Step::Ask(a, b) => {
            let to = if a == b { Address::backbone(NodeId(500)) } else { homes[b].address() };
            (a, Request::TrustRequest { to, sealed: true, body: b"please" })
        }
        Step::Answer(a, b, yes) => {
            let grant = yes.then(|| grants(&homes[a], &homes[b]));
            (a, Request::TrustAnswer { to: homes[b].address(), nonce: Bytes([3; 16]), grant })
        }
        Step::Confirm(a, b) => {
            let (grant, held) = (grants(&homes[a], &homes[b]), grants(&homes[b], &homes[a]));
            (a, Request::TrustConfirm { to: homes[b].address(), grant, held })
        }
        Step::Ack(who) => (who, Request::TrustAck { ids: (1..32).collect() }),
        Step::Revoke(a, b) => {
            let hash = crate::crypto::kdf::sha256(&[&grants(&homes[a], &homes[b]).0]);
            let hash = Bytes(hash[..8].try_into().unwrap());
            (a, Request::Revoke { grantee: Bytes(homes[b].key().0), hash })
        }
        Step::Work(a, b, task) => {
            receipt = work(world, &homes[a], &homes[b], task, 60 * u64::from(task)).encode();
            (b, Request::Receipt { receipt: &receipt })
        }
    };
    let mut link = world.connect(&homes[who]);
    let answer = world.ask(&mut link, &request);
    assert!(!answer.is_empty());
}

/// All that can be asked of a rendezvous about three homes.
fn view(world: &mut World, homes: &[Home]) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    for who in 0..homes.len() {
        let mut link = world.connect(&homes[who]);
        link.id = 0;
        let mut requests = std::vec![Request::TrustFetch { after: 0 }];
        for tags in TAGS {
            let tags = parse_tags(tags).unwrap();
            requests.push(Request::Discover { tags, network: Some(NetworkId(0)), cursor: 0 });
        }
        for network in 0..4 {
            for name in NAMES {
                let target = Target::Hostname(name.parse().unwrap());
                let network = Some(NetworkId(network));
                requests.push(Request::Resolve { target, network, grant: None });
            }
        }
        for other in homes {
            let target = Target::Address(other.address());
            let grant = Some(other.grant(world.registry_key(), &homes[who]));
            requests.push(Request::Resolve { target, network: None, grant });
            requests.push(Request::Reputation { address: other.address(), grant });
        }
        for request in requests {
            answers.push(world.ask(&mut link, &request));
        }
    }
    answers
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..Default::default() })]

    /// After any history the rows in memory are the rows in the store, and a machine that is
    /// loaded from the store, in any order, answers every question the same.
    #[test]
    fn a_reload_changes_nothing(
        steps in prop::collection::vec(step(), 1..40),
        reverse: bool,
    ) {
        let mut world = World::new();
        let mut homes: Vec<_> = (0..3).map(|_| world.registered().0).collect();
        for step in steps {
            perform(&mut world, &mut homes, step);
        }
        world.sleep(Duration::from_secs(2));
        let rows: BTreeMap<_, _> = world
            .machine
            .rows()
            .map(|row| {
                let change = row.change();
                let decoded =
                    Row::decode(change.table, &change.key, change.value.as_ref().unwrap());
                assert_eq!(decoded.unwrap(), row);
                ((change.table, change.key), change.value.unwrap())
            })
            .collect();
        prop_assert_eq!(&rows, &world.store);
        let before = view(&mut world, &homes);
        let mut stored: Vec<_> = world.store.clone().into_iter().collect();
        if reverse {
            stored.reverse();
        }
        let mut loaded = World::new();
        loaded.now = world.now;
        for ((table, key), value) in stored {
            loaded.machine.apply(&Change { table, key, value: Some(value) }).unwrap();
        }
        loaded.machine.set_wall_clock(world.now, world.unix());
        prop_assert_eq!(view(&mut loaded, &homes), before);
        let again: BTreeMap<_, _> = loaded.machine.rows().map(|row| {
            let change = row.change();
            ((change.table, change.key), change.value.unwrap())
        }).collect();
        prop_assert_eq!(again, rows);
    }
}
