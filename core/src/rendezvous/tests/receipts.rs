//! Receipts and reputation, as two agents and a stranger use and misuse them.

use super::*;
use crate::addr::{Address, NodeId};
use crate::crypto::task::support::{receipt, worked};
use crate::crypto::task::{CLAIM, RECEIPT, Receipt, TaskId, Times};
use crate::crypto::{Identity, IdentityKey, purpose};
use crate::limits::{POINTS_PER_PAIR, RECEIPT_AGE, RECEIPTS_PER_PAIR};
use crate::rendezvous::{Row, Table};
use crate::time::{Duration, UnixTime};
use crate::wire::registry::{Answer, ErrorCode, Refusal, Reputation, Request, Visibility};

const HOUR: Duration = Duration::from_secs(3600);

/// `cpu_s` seconds of work that has just ended, seen alike by both.
pub(crate) fn work(
    world: &World,
    submitter: &Home,
    worker: &Home,
    task: u8,
    cpu_s: u64,
) -> Receipt {
    let times = worked(world.unix(), cpu_s);
    let id = TaskId([task; 16]);
    let registry = world.registry_key();
    receipt(&submitter.identity, &worker.identity, &registry, id, (times, times))
}

fn hand_in(world: &mut World, link: &mut Link, receipt: &[u8]) -> Result<(), Refusal> {
    match reply(&world.ask(link, &Request::Receipt { receipt }))? {
        Answer::Done => Ok(()),
        other => panic!("{other:?}"),
    }
}

fn refused(world: &mut World, link: &mut Link, receipt: &[u8]) -> ErrorCode {
    hand_in(world, link, receipt).expect_err("it was counted").code
}

/// An agent's own reputation, over its own channel.
fn own(world: &mut World, home: &Home, link: &mut Link) -> Reputation {
    asked(world, link, home.address(), None).unwrap()
}

fn asked(
    world: &mut World,
    link: &mut Link,
    address: Address,
    grant: Option<crate::wire::GrantBytes>,
) -> Result<Reputation, ErrorCode> {
    match reply(&world.ask(link, &Request::Reputation { address, grant })) {
        Ok(Answer::Reputation(reputation)) => Ok(reputation),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal.code),
    }
}

#[test]
fn a_receipt_counts_once_whoever_hands_it_in() {
    let mut world = World::new();
    let ((s, mut at_s), (w, mut at_w)) = (world.registered(), world.registered());
    assert_eq!(own(&mut world, &w, &mut at_w), Reputation::default());
    let bytes = work(&world, &s, &w, 1, 600).encode();
    for _ in 0..2 {
        hand_in(&mut world, &mut at_w, &bytes).unwrap();
        hand_in(&mut world, &mut at_s, &bytes).unwrap();
    }
    let earned = Reputation { earned: 4, completed: 1, ..Reputation::default() };
    let spent = Reputation { spent: 1, submitted: 1, ..Reputation::default() };
    assert_eq!(own(&mut world, &w, &mut at_w), earned);
    assert_eq!(own(&mut world, &s, &mut at_s), spent);
    assert_eq!((earned.score(), spent.score()), (4, -1));
    assert_eq!(world.machine.stats().receipts, 1);
}

/// W-R6: anybody could write anybody's reputation. Here nothing but a receipt of both sides
/// moves it, and everything else is refused.
#[test]
fn w_r6_nobody_writes_a_reputation() {
    let mut world = World::new();
    let ((s, mut at_s), (w, mut at_w)) = (world.registered(), world.registered());
    let (x, mut at_x) = world.registered();
    let good = work(&world, &s, &w, 1, 600).encode();
    // From somebody whose work it is not.
    assert_eq!(refused(&mut world, &mut at_x, &good), ErrorCode::BadSignature);
    // One bit of each field, of both signatures too.
    for byte in [0, 20, 50, 85, 120, 150, 208, 215, 240, 241, 304] {
        let mut forged = good;
        forged[byte] ^= 1;
        let code = refused(&mut world, &mut at_w, &forged);
        assert!(matches!(code, ErrorCode::BadSignature | ErrorCode::Malformed), "{byte}: {code}");
    }
    // Too short, too long, an outcome that is none.
    assert_eq!(refused(&mut world, &mut at_w, &good[..304]), ErrorCode::Malformed);
    assert_eq!(refused(&mut world, &mut at_w, &[&good[..], &[0]].concat()), ErrorCode::Malformed);
    // Of another registry.
    let (end, id) = (worked(world.unix(), 600), TaskId([1; 16]));
    let other = receipt(&s.identity, &w.identity, &IdentityKey([9; 32]), id, (end, end));
    assert_eq!(refused(&mut world, &mut at_w, &other.encode()), ErrorCode::BadSignature);
    for (home, link) in [(&s, &mut at_s), (&w, &mut at_w), (&x, &mut at_x)] {
        assert_eq!(own(&mut world, home, link), Reputation::default());
    }
    assert!(world.machine.rows().all(|row| !matches!(row, Row::Receipt { .. })));
    assert_eq!(world.machine.stats().receipts, 0);
}

/// Signs a receipt as `signer` where another should have: the claim, the whole, or both.
fn signed_by(
    world: &World,
    good: &Receipt,
    edit: impl Fn(&mut [u8; RECEIPT]),
    claim: Option<&Identity>,
    whole: Option<&Identity>,
) -> [u8; RECEIPT] {
    let mut bytes = good.encode();
    edit(&mut bytes);
    let registry = world.registry_key();
    if let Some(signer) = claim {
        let (text, sig) = bytes[..CLAIM].split_at_mut(CLAIM - 64);
        sig.copy_from_slice(&signer.sign(purpose::CLAIM, &[&registry.0, text]));
    }
    if let Some(signer) = whole {
        let (text, sig) = bytes.split_at_mut(RECEIPT - 64);
        sig.copy_from_slice(&signer.sign(purpose::RECEIPT, &[&registry.0, text]));
    }
    bytes
}

/// W-R6, W-X2: one side alone, or with a friend's signature in the other's place, makes no
/// receipt; a side that changes what the other has signed breaks it.
#[test]
fn w_x2_one_side_alone_makes_no_receipt() {
    let mut world = World::new();
    let ((s, mut at_s), (w, mut at_w)) = (world.registered(), world.registered());
    let friend = world.registered().0;
    let good = work(&world, &s, &w, 1, 60);
    let longer = |bytes: &mut [u8; RECEIPT]| {
        // Both finish times an hour later: the worker's is at 137, the submitter's at 233.
        for at in [137, 233] {
            let t = u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) + 3_600_000;
            bytes[at..at + 8].copy_from_slice(&t.to_be_bytes());
        }
    };
    let same = |_: &mut [u8; RECEIPT]| {};
    let forged = [
        signed_by(&world, &good, longer, Some(&w.identity), None),
        signed_by(&world, &good, longer, None, Some(&s.identity)),
        signed_by(&world, &good, longer, Some(&w.identity), Some(&w.identity)),
        signed_by(&world, &good, longer, Some(&s.identity), Some(&s.identity)),
        signed_by(&world, &good, longer, Some(&w.identity), Some(&friend.identity)),
        signed_by(&world, &good, same, Some(&friend.identity), Some(&s.identity)),
        signed_by(&world, &good, same, Some(&w.identity), Some(&w.identity)),
    ];
    for bytes in forged {
        assert_eq!(refused(&mut world, &mut at_w, &bytes), ErrorCode::BadSignature);
        assert_eq!(refused(&mut world, &mut at_s, &bytes), ErrorCode::BadSignature);
    }
    // The offsets are what they should be: signed by both, it counts as an hour's.
    let both = signed_by(&world, &good, longer, Some(&w.identity), Some(&s.identity));
    assert_eq!(Receipt::decode(&both).unwrap().reward(), 7);
    hand_in(&mut world, &mut at_w, &both).unwrap();
}

/// W-X2: results were repeatable, and each paid again.
#[test]
fn w_x2_a_task_pays_once() {
    let mut world = World::new();
    let ((s, _), (w, mut at_w)) = (world.registered(), world.registered());
    let (v, _) = world.registered();
    let first = work(&world, &s, &w, 1, 60).encode();
    hand_in(&mut world, &mut at_w, &first).unwrap();
    world.sleep(HOUR);
    let [mut at_s, mut at_w, mut at_v] = [&s, &w, &v].map(|home| world.connect(home));
    // Signed anew by both sides, with other times; and for another worker.
    let again = work(&world, &s, &w, 1, 6000).encode();
    let other = work(&world, &s, &v, 1, 6000).encode();
    for link in [&mut at_w, &mut at_s] {
        assert_eq!(refused(&mut world, link, &again), ErrorCode::Conflict);
        hand_in(&mut world, link, &first).unwrap();
    }
    assert_eq!(refused(&mut world, &mut at_v, &other), ErrorCode::Conflict);
    // The same number of another submitter is another task.
    let reversed = work(&world, &w, &s, 1, 60).encode();
    hand_in(&mut world, &mut at_s, &reversed).unwrap();
    world.restart();
    let (mut at_w, mut at_v) = (world.connect(&w), world.connect(&v));
    assert_eq!(refused(&mut world, &mut at_w, &again), ErrorCode::Conflict);
    assert_eq!(refused(&mut world, &mut at_v, &other), ErrorCode::Conflict);
    hand_in(&mut world, &mut at_w, &first).unwrap();
    let expected =
        Reputation { earned: 2, completed: 1, spent: 1, submitted: 1, ..Reputation::default() };
    assert_eq!(own(&mut world, &w, &mut at_w), expected);
    assert_eq!(own(&mut world, &v, &mut at_v), Reputation::default());
}

/// W-X2, W-X3: the sender chose the times, up to 48 points; or they were always zero.
#[test]
fn w_x3_times_count_as_far_as_both_sides_show_them() {
    let mut world = World::new();
    let ((s, _), (w, mut at_w)) = (world.registered(), world.registered());
    let now = world.unix();
    let honest = worked(now, 600);
    let boast = Times { started: UnixTime::default(), ..worked(now, 600) };
    let mut total = 0;
    // 4 for ten minutes, whoever of them boasts; 16 at the very most, if both do.
    for (task, times, reward) in [
        (1, (honest, honest), 4),
        (2, (boast, honest), 4),
        (3, (honest, boast), 4),
        (4, (boast, boast), 16),
        (5, (worked(now, 0), honest), 1),
    ] {
        let id = TaskId([task; 16]);
        let receipt = receipt(&s.identity, &w.identity, &world.registry_key(), id, times);
        hand_in(&mut world, &mut at_w, &receipt.encode()).unwrap();
        total += reward;
        assert_eq!(own(&mut world, &w, &mut at_w).earned, total, "task {task}");
    }
}

/// W-R6: two identities of one operator deal each other receipts.
#[test]
fn w_r6_a_pair_deals_itself_so_much_a_day() {
    let mut world = World::new();
    let ((a, mut at_a), (b, mut at_b)) = (world.registered(), world.registered());
    let (c, mut at_c) = world.registered();
    let day = 24 * HOUR.as_secs();
    let left = day - world.unix().as_secs() % day;
    assert!(left > 7200);
    // 9,000 minutes of work each: 14 points, four of which are allowed.
    let long = 9000 * 60;
    for task in 0..4 {
        let (s, w) = if task % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let bytes = work(&world, s, w, task, long).encode();
        hand_in(&mut world, &mut at_a, &bytes).unwrap();
    }
    let next = work(&world, &a, &b, 4, long).encode();
    for link in [&mut at_a, &mut at_b] {
        let refusal = hand_in(&mut world, link, &next).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::RateLimited);
        let wait = u64::from(refusal.retry_ms).div_ceil(1000);
        assert!(wait.abs_diff(day - world.unix().as_secs() % day) <= 1, "{wait}");
    }
    assert_eq!(own(&mut world, &b, &mut at_b).earned, 28);
    assert!(own(&mut world, &b, &mut at_b).earned * 2 <= POINTS_PER_PAIR);
    // Small ones: one minute is two points, and at most 32 receipts.
    for task in 0..RECEIPTS_PER_PAIR as u8 {
        let bytes = work(&world, &a, &c, 100 + task, 0).encode();
        hand_in(&mut world, &mut at_c, &bytes).unwrap();
    }
    let bytes = work(&world, &a, &c, 200, 0).encode();
    assert_eq!(refused(&mut world, &mut at_c, &bytes), ErrorCode::RateLimited);
    // A restart forgets nothing of that, and the next day is another one.
    world.restart();
    let mut at_a = world.connect(&a);
    assert_eq!(refused(&mut world, &mut at_a, &next), ErrorCode::RateLimited);
    assert_eq!(refused(&mut world, &mut at_a, &bytes), ErrorCode::RateLimited);
    let left = day - world.unix().as_secs() % day;
    world.sleep(Duration::from_secs(left - 1));
    let mut at_a = world.connect(&a);
    assert_eq!(refused(&mut world, &mut at_a, &next), ErrorCode::RateLimited);
    world.sleep(Duration::from_secs(1));
    let mut at_a = world.connect(&a);
    hand_in(&mut world, &mut at_a, &next).unwrap();
    hand_in(&mut world, &mut at_a, &bytes).unwrap();
}

/// W-R8: three minutes of absence, or a new registration, wiped the reputation.
#[test]
fn w_r8_a_reputation_outlives_absence_restarts_and_registrations() {
    let mut world = World::new();
    let ((s, mut at_s), (mut w, mut at_w)) = (world.registered(), world.registered());
    for task in 0..3 {
        let bytes = work(&world, &s, &w, task, 600).encode();
        hand_in(&mut world, &mut at_w, &bytes).unwrap();
    }
    let before = (own(&mut world, &s, &mut at_s), own(&mut world, &w, &mut at_w));
    assert_eq!((before.0.score(), before.1.score()), (-3, 12));
    // The debt too: it cannot be left behind by registering again, with another record, by
    // asking for an address anew, or by trying to deregister.
    let mut s = s;
    let address = s.address();
    for round in 0..3 {
        world.sleep(24 * (1 + 40 * round) * HOUR);
        if round == 1 {
            world.restart();
        }
        s.boot_id += 1;
        w.boot_id += 1;
        (at_s, at_w) = (world.connect(&s), world.connect(&w));
        assert!(reply(&world.ask(&mut at_s, &Request::Deregister)).is_err());
        world.reserve(&mut s, &mut at_s).unwrap();
        for (home, link) in [(&mut s, &mut at_s), (&mut w, &mut at_w)] {
            home.serial += 1;
            let mut request = home.registration(world.registry_key());
            request.earlier.push(home.boot_id - 1).unwrap();
            world.register_with(link, request).unwrap();
        }
        assert_eq!(s.address(), address);
        let after = (own(&mut world, &s, &mut at_s), own(&mut world, &w, &mut at_w));
        assert_eq!(after, before, "round {round}");
    }
}

#[test]
fn both_sides_are_agents_of_this_registry() {
    let mut world = World::new();
    let (s, mut at_s) = world.registered();
    let mut stranger = world.home();
    let bytes = work(&world, &s, &stranger, 1, 60).encode();
    assert_eq!(refused(&mut world, &mut at_s, &bytes), ErrorCode::NotFound);
    // An address alone is not enough.
    let mut link = world.connect(&stranger);
    world.reserve(&mut stranger, &mut link).unwrap();
    assert_eq!(refused(&mut world, &mut at_s, &bytes), ErrorCode::NotFound);
    assert_eq!(refused(&mut world, &mut link, &bytes), ErrorCode::NotRegistered);
    world.register(&mut stranger, &mut link).unwrap();
    hand_in(&mut world, &mut link, &bytes).unwrap();
}

#[test]
fn nobody_works_for_itself() {
    let mut world = World::new();
    let (s, mut at_s) = world.registered();
    let other = world.registered().0;
    let good = work(&world, &s, &other, 1, 60);
    let with_itself = |bytes: &mut [u8; RECEIPT]| bytes.copy_within(16..48, 48);
    let bytes = signed_by(&world, &good, with_itself, Some(&s.identity), Some(&s.identity));
    assert_eq!(refused(&mut world, &mut at_s, &bytes), ErrorCode::Malformed);
    assert_eq!(own(&mut world, &s, &mut at_s), Reputation::default());
}

#[test]
fn work_ended_within_the_last_month() {
    let mut world = World::new();
    let ((s, _), (w, mut at_w)) = (world.registered(), world.registered());
    let now = world.unix();
    let month = RECEIPT_AGE.as_secs();
    let registry = world.registry_key();
    let mut task = 0;
    let mut of = |worked_at: UnixTime, seen_at: UnixTime| {
        task += 1;
        let times = (worked(worked_at, 60), worked(seen_at, 60));
        receipt(&s.identity, &w.identity, &registry, TaskId([task; 16]), times).encode()
    };
    let at = |secs: u64| UnixTime::from_secs(secs);
    let now_s = now.as_secs();
    let (just, old) = (at(now_s - month), at(now_s - month - 1));
    let (ahead, far) = (at(now_s + 3600), at(now_s + 3601));
    for (receipt, counts) in [
        (of(just, just), true),
        (of(old, now), false),
        (of(now, old), false),
        (of(ahead, ahead), true),
        (of(now, far), false),
        (of(far, now), false),
    ] {
        match counts {
            true => hand_in(&mut world, &mut at_w, &receipt).unwrap(),
            false => {
                assert_eq!(refused(&mut world, &mut at_w, &receipt), ErrorCode::Malformed);
            }
        }
    }
}

#[test]
fn a_receipt_is_durable_before_it_is_acknowledged() {
    let mut world = World::new();
    let ((s, mut at_s), (w, mut at_w)) = (world.registered(), world.registered());
    let bytes = work(&world, &s, &w, 1, 60).encode();
    world.storing = false;
    let request = Request::Receipt { receipt: &bytes };
    assert!(world.ask(&mut at_w, &request).is_empty());
    // The other side's copy waits for the same commit.
    assert!(world.ask(&mut at_s, &request).is_empty());
    let commit = world.machine.poll_commit(world.now).unwrap();
    assert_eq!((commit.changes.len(), commit.changes[0].table), (1, Table::Receipts));
    world.machine.handle_commit(world.now, commit.id, true);
    for link in [&mut at_w, &mut at_s] {
        let answer = world.read(link.conn);
        assert_eq!(reply(&link.receive(&answer)), Ok(Answer::Done));
    }
    // Reading never waits.
    assert_eq!(own(&mut world, &w, &mut at_w).completed, 1);
}

#[test]
fn one_agent_hands_in_so_many_a_minute() {
    let mut world = World::new();
    let ((s, mut at_s), (w, mut at_w)) = (world.registered(), world.registered());
    let bytes = work(&world, &s, &w, 1, 60).encode();
    for _ in 0..60 {
        hand_in(&mut world, &mut at_w, &bytes).unwrap();
    }
    let refusal = hand_in(&mut world, &mut at_w, &bytes).unwrap_err();
    assert_eq!((refusal.code, refusal.retry_ms), (ErrorCode::RateLimited, 1000));
    hand_in(&mut world, &mut at_s, &bytes).unwrap();
    world.sleep(Duration::from_secs(1));
    hand_in(&mut world, &mut at_w, &bytes).unwrap();
}

#[test]
fn receipts_are_bounded() {
    let mut world = World::new();
    world.machine.limits.receipts = 8;
    let ((s, _), (w, mut at_w)) = (world.registered(), world.registered());
    let (v, mut at_v) = world.registered();
    let of_v = work(&world, &s, &v, 100, 600).encode();
    hand_in(&mut world, &mut at_v, &of_v).unwrap();
    for task in 0..20 {
        world.sleep(Duration::from_secs(1));
        let bytes = work(&world, &s, &w, task, 60).encode();
        hand_in(&mut world, &mut at_w, &bytes).unwrap();
        assert!(world.machine.stats().receipts <= 8);
    }
    // The one with the most gave way, and in the store as well.
    assert_eq!(own(&mut world, &w, &mut at_w).completed, 7);
    assert_eq!(own(&mut world, &v, &mut at_v).earned, 4);
    let stored = world.store.keys().filter(|(table, _)| *table == Table::Receipts).count();
    assert_eq!(stored, 8);
}

/// Who may ask, and that who may not cannot tell it from there being nobody.
#[test]
fn a_private_agents_reputation_needs_a_grant() {
    let mut world = World::new();
    let ((s, mut at_s), (w, mut at_w)) = (world.registered(), world.registered());
    let (x, mut at_x) = world.registered();
    let bytes = work(&world, &s, &w, 1, 600).encode();
    hand_in(&mut world, &mut at_w, &bytes).unwrap();
    let nobody = Address::backbone(NodeId(0xFFF0));
    let plain = |world: &mut World, link: &mut Link, address| {
        link.id = 70;
        world.ask(link, &Request::Reputation { address, grant: None })
    };
    let to_nobody = plain(&mut world, &mut at_x, nobody);
    let to_private = plain(&mut world, &mut at_x, w.address());
    assert_eq!((code(&to_nobody), &to_nobody), (ErrorCode::NotFound, &to_private));
    let registry = world.registry_key();
    let grant = w.grant(registry, &x);
    let reputation = asked(&mut world, &mut at_x, w.address(), Some(grant)).unwrap();
    assert_eq!(reputation.score(), 4);
    // Somebody else's grant, or one to somebody else.
    for grant in [s.grant(registry, &x), w.grant(registry, &s)] {
        let refused = asked(&mut world, &mut at_x, w.address(), Some(grant));
        assert_eq!(refused, Err(ErrorCode::NotFound));
    }
    let public = Request::SetVisibility { visibility: Visibility::Public };
    reply(&world.ask(&mut at_s, &public)).unwrap();
    assert_eq!(asked(&mut world, &mut at_x, s.address(), None).unwrap().score(), -1);
    let elsewhere = Address::new(crate::addr::NetworkId(5), s.address().node);
    assert_eq!(asked(&mut world, &mut at_x, elsewhere, None), Err(ErrorCode::NotFound));
}
