//! Mailboxes: who may put what into whose, and how it leaves (`wire.md` 6.5).

use super::*;
use crate::addr::{Address, NodeId};
use crate::time::Duration;
use crate::wire::control::{FromBeacon, ToBeacon};
use crate::wire::registry::*;
use crate::wire::{Bytes, GrantBytes};
use std::vec::Vec;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn request(to: Address, body: &[u8]) -> Request<'_> {
    Request::TrustRequest { to, sealed: false, body }
}

fn answer(to: Address, grant: Option<GrantBytes>) -> Request<'static> {
    Request::TrustAnswer { to, nonce: Bytes([5; 16]), grant }
}

/// Items of the mailbox behind `after`: id, sender's node, and what it is, in one letter.
fn fetch(world: &mut World, link: &mut Link, after: u64) -> (Vec<(u64, u32, char)>, bool) {
    let plaintext = world.ask(link, &Request::TrustFetch { after });
    match reply(&plaintext) {
        Ok(Answer::Mailbox { items, more }) => {
            let items = items.iter().map(|item| {
                let item = item.unwrap();
                let record = crate::crypto::Record::decode(&item.record.0).unwrap();
                let assign = crate::crypto::Assign::decode(&item.assign.0).unwrap();
                assign.verify(&world.machine.identity(), &record).unwrap();
                let kind = match item.body {
                    MailboxBody::Request { .. } => 'r',
                    MailboxBody::Answer { grant: Some(_), .. } => 'g',
                    MailboxBody::Answer { grant: None, .. } => 'n',
                    MailboxBody::Confirm { .. } => 'c',
                };
                (item.id, record.fields.addr.node.0, kind)
            });
            (items.collect(), more)
        }
        other => panic!("{other:?}"),
    }
}

fn kinds(world: &mut World, link: &mut Link) -> Vec<(u32, char)> {
    fetch(world, link, 0).0.into_iter().map(|(_, from, kind)| (from, kind)).collect()
}

/// A channel for later; the one from registering has idled out by then.
fn again(world: &mut World, home: &Home) -> Link {
    world.connect(home)
}

#[test]
fn one_approval_makes_trust_mutual() {
    let mut world = World::new();
    let (a, mut link_a) = world.registered();
    let (b, mut link_b) = world.registered();
    let registry = world.registry_key();
    assert_eq!(reply(&world.ask(&mut link_a, &request(b.address(), b"hello"))), Ok(Answer::Done));
    let (items, more) = fetch(&mut world, &mut link_b, 0);
    assert_eq!((items.len(), more, items[0].1, items[0].2), (1, false, 16, 'r'));
    // It stays until acknowledged, and only its owner can do that.
    world.ask(&mut link_a, &Request::TrustAck { ids: [items[0].0].into_iter().collect() });
    assert_eq!(fetch(&mut world, &mut link_b, 0).0, items);
    let ack = Request::TrustAck { ids: [items[0].0, 999].into_iter().collect() };
    world.ask(&mut link_b, &ack);
    assert!(fetch(&mut world, &mut link_b, 0).0.is_empty());
    // The answer carries b's grant to a, and nothing else.
    let grant = b.grant(registry, &a);
    assert_eq!(reply(&world.ask(&mut link_b, &answer(a.address(), Some(grant)))), Ok(Answer::Done));
    assert_eq!(kinds(&mut world, &mut link_a), [(17, 'g')]);
    let confirm =
        Request::TrustConfirm { to: b.address(), grant: a.grant(registry, &b), held: grant };
    assert_eq!(reply(&world.ask(&mut link_a, &confirm)), Ok(Answer::Done));
    assert_eq!(kinds(&mut world, &mut link_b), [(16, 'c')]);
}

#[test]
fn what_a_grant_in_a_letter_must_be() {
    let mut world = World::new();
    let (a, mut link_a) = world.registered();
    let (b, mut link_b) = world.registered();
    let (c, mut link_c) = world.registered();
    let registry = world.registry_key();
    world.ask(&mut link_a, &request(b.address(), b"x"));
    let mut forged = b.grant(registry, &a);
    forged.0[100] ^= 1;
    for wrong in [b.grant(registry, &c), a.grant(registry, &b), forged] {
        let answer = world.ask(&mut link_b, &answer(a.address(), Some(wrong)));
        assert_eq!(code(&answer), ErrorCode::BadSignature);
    }
    // A confirmation needs a grant that counts.
    let held = b.grant(registry, &a);
    let confirm = |to: &Home, grant, held| Request::TrustConfirm { to: to.address(), grant, held };
    let own = a.grant(registry, &b);
    assert!(reply(&world.ask(&mut link_a, &confirm(&b, own, held))).is_ok());
    for (wrong, expected) in [
        (confirm(&c, a.grant(registry, &c), held), ErrorCode::NotFound),
        (confirm(&b, c.grant(registry, &b), held), ErrorCode::BadSignature),
        (confirm(&b, a.grant(registry, &c), held), ErrorCode::BadSignature),
        (confirm(&b, own, own), ErrorCode::NotFound),
    ] {
        assert_eq!(code(&world.ask(&mut link_a, &wrong)), expected);
    }
    assert_eq!(
        code(&world.ask(&mut link_c, &confirm(&b, c.grant(registry, &b), held))),
        ErrorCode::NotFound
    );
    let hash = Bytes(crate::crypto::kdf::sha256(&[&held.0])[..8].try_into().unwrap());
    world.ask(&mut link_b, &Request::Revoke { grantee: Bytes(a.key().0), hash });
    assert_eq!(code(&world.ask(&mut link_a, &confirm(&b, own, held))), ErrorCode::NotFound);
    assert_eq!(kinds(&mut world, &mut link_b), [(16, 'r'), (16, 'c')]);
    assert!(kinds(&mut world, &mut link_a).is_empty());
}

#[test]
fn an_answer_needs_a_request_within_7_days() {
    let mut world = World::new();
    let (a, mut link_a) = world.registered();
    let (b, mut link_b) = world.registered();
    assert_eq!(code(&world.ask(&mut link_b, &answer(a.address(), None))), ErrorCode::NotFound);
    let nobody = Address::backbone(NodeId(999));
    assert_eq!(code(&world.ask(&mut link_b, &answer(nobody, None))), ErrorCode::NotFound);
    world.ask(&mut link_a, &request(b.address(), b"x"));
    // Also after the request was taken out of the mailbox.
    let (items, _) = fetch(&mut world, &mut link_b, 0);
    world.ask(&mut link_b, &Request::TrustAck { ids: [items[0].0].into_iter().collect() });
    world.sleep(7 * DAY - HOUR);
    let mut link_b = again(&mut world, &b);
    assert!(reply(&world.ask(&mut link_b, &answer(a.address(), None))).is_ok());
    // One answer of one sender; a newer one replaces it.
    let grant = b.grant(world.registry_key(), &a);
    assert!(reply(&world.ask(&mut link_b, &answer(a.address(), Some(grant)))).is_ok());
    let mut link_a = again(&mut world, &a);
    assert_eq!(kinds(&mut world, &mut link_a), [(17, 'g')]);
    world.sleep(2 * HOUR);
    let mut link_b = again(&mut world, &b);
    let late = world.ask(&mut link_b, &answer(a.address(), Some(grant)));
    assert_eq!(code(&late), ErrorCode::NotFound);
    // The answer itself lives 7 days.
    world.sleep(6 * DAY);
    let mut link_a = again(&mut world, &a);
    assert_eq!(kinds(&mut world, &mut link_a).len(), 1);
    world.sleep(DAY);
    let mut link_a = again(&mut world, &a);
    assert!(kinds(&mut world, &mut link_a).is_empty());
    assert_eq!(world.machine.stats().letters, 0);
    assert!(world.machine.rows().all(|row| !matches!(row, crate::rendezvous::Row::Asked { .. })));
}

#[test]
fn a_sender_asks_five_times_an_hour() {
    let mut world = World::new();
    let (a, mut link) = world.registered();
    // Existing or not costs the same and says the same.
    let (b, mut link_b) = world.registered();
    let targets = [b.address(), Address::backbone(NodeId(900)), Address::backbone(NodeId(901))];
    for (n, to) in targets.into_iter().cycle().take(5).enumerate() {
        let body = [n as u8; 10];
        assert_eq!(reply(&world.ask(&mut link, &request(to, &body))), Ok(Answer::Done));
        // The same again, because the answer was lost, is free.
        if to == b.address() {
            assert_eq!(reply(&world.ask(&mut link, &request(to, &body))), Ok(Answer::Done));
        }
    }
    for to in targets {
        let answer = world.ask(&mut link, &request(to, b"more"));
        let refusal = reply(&answer).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::RateLimited);
        assert_eq!(refusal.retry_ms, 3_600_000);
    }
    // One request of one sender: the later replaced the earlier.
    let (items, _) = fetch(&mut world, &mut link_b, 0);
    assert_eq!(items.len(), 1);
    world.sleep(HOUR);
    let mut link = again(&mut world, &a);
    assert_eq!(reply(&world.ask(&mut link, &request(b.address(), b"more"))), Ok(Answer::Done));
    let malformed = [request(a.address(), b"x"), request(b.address(), b"")];
    for request in malformed {
        assert_eq!(code(&world.ask(&mut link, &request)), ErrorCode::Malformed);
    }
    let long = [1; TRUST_BODY_MAX + 1];
    assert_eq!(code(&world.ask(&mut link, &request(b.address(), &long))), ErrorCode::Malformed);
}

#[test]
fn a_full_mailbox_evicts_its_oldest_and_pages() {
    let mut world = World::new();
    let (target, mut link) = world.registered();
    let body = [7; TRUST_BODY_MAX];
    for _ in 0..40 {
        let (_, mut sender) = world.registered();
        let answer = world.ask(&mut sender, &request(target.address(), &body));
        assert_eq!(reply(&answer), Ok(Answer::Done));
    }
    let (mut all, mut after, mut pages) = (Vec::new(), 0, 0);
    loop {
        let (items, more) = fetch(&mut world, &mut link, after);
        after = items.last().unwrap().0;
        all.extend(items.into_iter().map(|(_, from, _)| from));
        pages += 1;
        if !more {
            break;
        }
    }
    assert_eq!(all, (17 + 8..17 + 40).collect::<Vec<_>>());
    assert!(pages >= 3);
}

#[test]
fn all_mailboxes_together_are_bounded() {
    let mut world = World::new();
    world.machine.limits.letters = 3;
    let homes: Vec<_> = (0..5).map(|_| world.registered()).collect();
    let addresses: Vec<_> = homes.iter().map(|(home, _)| home.address()).collect();
    let mut links: Vec<_> = homes.into_iter().map(|(_, link)| link).collect();
    for from in 0..5 {
        let to = addresses[(from + 1) % 5];
        assert!(reply(&world.ask(&mut links[from], &request(to, b"x"))).is_ok());
    }
    assert_eq!(world.machine.stats().letters, 3);
    let left: Vec<_> = (0..5).map(|n| kinds(&mut world, &mut links[n]).len()).collect();
    assert_eq!(left, [1, 0, 0, 1, 1]);
}

#[test]
fn letters_live_7_days() {
    let mut world = World::new();
    let (a, mut link_a) = world.registered();
    let (b, _) = world.registered();
    world.ask(&mut link_a, &request(b.address(), b"x"));
    world.sleep(7 * DAY - HOUR);
    let mut link_b = again(&mut world, &b);
    assert_eq!(kinds(&mut world, &mut link_b).len(), 1);
    world.sleep(HOUR + Duration::from_secs(61));
    let mut link_b = again(&mut world, &b);
    assert!(kinds(&mut world, &mut link_b).is_empty());
    assert_eq!(world.machine.stats().letters, 0);
    let _ = a;
}

#[test]
fn waiting_is_repeated_until_fetched() {
    let mut world = World::new();
    let (_, mut link_a) = world.registered();
    let (mut b, mut link_b) = world.registered();
    let mut agent = world.agent(&mut b);
    assert!(world.unasked(&mut agent).is_empty());
    // Not before it is durable.
    world.storing = false;
    world.ask(&mut link_a, &request(b.address(), b"x"));
    assert!(world.unasked(&mut agent).is_empty());
    world.storing = true;
    assert_eq!(world.unasked(&mut agent), [FromBeacon::Waiting]);
    let keepalive = ToBeacon::Keepalive { candidates: None, nat: None };
    let mut told = 0;
    for second in 0..120 {
        world.sleep(Duration::from_secs(1));
        told += world.unasked(&mut agent).len();
        if second % 15 == 0 {
            let ack = world.tell(&mut agent, &keepalive);
            assert!(matches!(ack, Some(FromBeacon::KeepaliveAck { waiting: true, .. })), "{ack:?}");
        }
    }
    assert!((8..16).contains(&told), "{told}");
    // Fetched, though not acknowledged: quiet.
    let mut link_b2 = again(&mut world, &b);
    assert_eq!(kinds(&mut world, &mut link_b2).len(), 1);
    for _ in 0..8 {
        world.sleep(Duration::from_secs(15));
        let ack = world.tell(&mut agent, &keepalive);
        assert!(matches!(ack, Some(FromBeacon::KeepaliveAck { waiting: false, .. })), "{ack:?}");
    }
    assert!(world.unasked(&mut agent).is_empty());
    // A restarted agent hears of it again.
    let _ = &mut link_b;
    b.boot_id += 1;
    let mut link_b = world.connect(&b);
    let mut request = b.registration(world.registry_key());
    request.earlier.push(b.boot_id - 1).unwrap();
    world.register_with(&mut link_b, request).unwrap();
    let mut agent = world.handshake(&mut b).unwrap();
    let ack = world.tell(&mut agent, &b.hello());
    assert!(matches!(ack, Some(FromBeacon::HelloAck { waiting: true, .. })), "{ack:?}");
}
