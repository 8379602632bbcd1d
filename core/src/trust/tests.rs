//! What a hostile registry, agent or mailbox can make us believe: nothing (attacks W-H1 to
//! W-H4). The honest ways are tested with the real registry in `directory::tests::trust`.

use super::work::Job;
use super::*;
use crate::addr::NodeId;
use crate::crypto::record::{RecordFields, flag};
use crate::crypto::{Assign, TrustRequest, exchange};
use crate::time::Duration;
use crate::wire::Bytes;
use crate::wire::registry::{
    Answer, Envelope, ErrorCode, MailboxBody, MailboxItem, Refusal, Request, Resolved,
};
use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};
use std::vec::Vec;

const UNIX: UnixTime = UnixTime::from_secs(1_800_000_000);

struct Agent {
    identity: Identity,
    secret: TunnelSecret,
    previous: Option<TunnelSecret>,
    address: Address,
    trust: Trust<'static>,
    journal: Journal,
    rng: Rng,
    drops: Drops,
    now: Instant,
    epoch: u32,
}

fn registry() -> Identity {
    Identity::from_secret([99; 32])
}

impl Agent {
    fn new(n: u8) -> Self {
        Agent {
            identity: Identity::from_secret([n; 32]),
            secret: TunnelSecret::from_secret([n + 100; 32]),
            previous: None,
            address: Address::backbone(NodeId(u32::from(n) + 16)),
            trust: Trust::new(
                Store::<PeerSlot>::boxed_with(4, PeerSlot::empty),
                Store::<u32>::boxed_with(4, || 0),
                Store::<OutgoingSlot>::boxed_with(2, OutgoingSlot::empty),
                Store::<IncomingSlot>::boxed_with(2, IncomingSlot::empty),
            ),
            journal: Journal::new(),
            rng: Rng::new([n; 32]),
            drops: Drops::new(),
            now: Instant::START + Duration::from_secs(10),
            epoch: 0,
        }
    }

    fn with<R>(&mut self, act: impl FnOnce(&mut Trust<'static>, &mut Context<'_>) -> R) -> R {
        let mut ctx = Context {
            identity: &self.identity,
            registry: registry().public(),
            address: self.address,
            secrets: (&self.secret, self.previous.as_ref()),
            epoch: self.epoch,
            network: NetworkId::BACKBONE,
            now: self.now,
            unix: UNIX,
            rng: &mut self.rng,
            journal: &mut self.journal,
            drops: &mut self.drops,
        };
        act(&mut self.trust, &mut ctx)
    }

    fn public(&self) -> IdentityKey {
        self.identity.public()
    }

    fn record(&self, serial: u64) -> Record {
        self.record_with(|f| f.serial = serial)
    }

    fn record_with(&self, edit: impl FnOnce(&mut RecordFields)) -> Record {
        let mut fields = RecordFields {
            addr: self.address,
            tunnel: self.secret.public(),
            serial: 1,
            not_after: 0,
            flags: 0,
            grant_epoch: 0,
            prev: [0; 32],
        };
        edit(&mut fields);
        Record::sign(&self.identity, &registry().public(), fields)
    }

    fn grant_to(&self, grantee: IdentityKey, epoch: u32) -> Grant {
        let key = registry().public();
        Grant::sign(&self.identity, &key, self.address, grantee, Rights::ALL, epoch, [7; 8])
    }

    fn request_to(&self, to: &Agent, named: bool) -> TrustRequest {
        let id = named.then(|| to.public());
        TrustRequest::sign(
            &self.identity,
            &registry().public(),
            self.address,
            (to.address, id),
            [5; 16],
            UNIX.as_secs(),
            Rights::ALL,
            &Justification::cleaned("hello"),
            id.map(|id| self.grant_to(id, 0)),
        )
    }

    /// Gets an item that the registry says is of `record`.
    fn receive(&mut self, record: &Record, body: MailboxBody<'_>) {
        self.receive_from(&registry(), record, body);
    }

    fn receive_from(&mut self, registry: &Identity, record: &Record, body: MailboxBody<'_>) {
        let mut bytes = [0; 188];
        bytes.copy_from_slice(&record.encode()[..188]);
        let assign = Assign::sign(registry, record, 0, UNIX.as_secs());
        let item = MailboxItem {
            id: 1,
            received: UNIX.as_secs(),
            record: Bytes(bytes),
            assign: Bytes(assign.encode()),
            body,
        };
        self.with(|trust, ctx| trust.handle_item(ctx, &item));
    }

    fn receive_request(&mut self, record: &Record, body: &[u8]) {
        self.receive(record, MailboxBody::Request { sealed: false, body });
    }

    fn receive_answer(&mut self, from: &Agent, nonce: [u8; 16], grant: Option<Grant>) {
        let grant = grant.map(|g| Bytes(g.encode()));
        self.receive(&from.record(1), MailboxBody::Answer { nonce: Bytes(nonce), grant });
    }

    fn waiting(&self) -> usize {
        self.trust.requests().count()
    }

    fn trusts_nobody(&self) -> bool {
        self.trust.peers().count() == 0
    }

    fn events(&mut self) -> Vec<TrustEvent> {
        let trust = &mut self.trust;
        core::iter::from_fn(|| trust.poll_change().or_else(|| trust.poll_event())).collect()
    }

    fn ask(&mut self, to: Address) -> [u8; 16] {
        self.with(|t, ctx| t.request(ctx, to, Justification::cleaned("hello"))).unwrap();
        let i = self.trust.find_outgoing(to).unwrap();
        self.trust.outgoing[i].live().unwrap().nonce
    }

    /// The next job's request, and its answer.
    fn job(&mut self, answer: Result<&Answer<'_>, Refusal>) -> Option<Vec<u8>> {
        let now = self.now;
        let ticket = self.trust.next_job(now, |_| false)?;
        let mut out = std::vec![0; 2000];
        let len = self.with(|t, ctx| t.encode_job(ctx, ticket, 1, &mut out)).unwrap().unwrap();
        self.with(|t, ctx| t.handle_answer(ctx, ticket, answer));
        out.truncate(len);
        Some(out)
    }

    /// Approves whoever asked.
    fn approve_first(&mut self) -> PeerIndex {
        let from = self.trust.requests().next().unwrap().from();
        self.with(|t, ctx| t.approve(ctx, from, Permissions::ALL)).unwrap()
    }
}

fn resolved(agent: &Agent, record: &Record) -> Answer<'static> {
    let mut bytes = [0; 188];
    bytes.copy_from_slice(&record.encode()[..188]);
    Answer::Resolved(Resolved {
        address: agent.address,
        record: Bytes(bytes),
        assign: Bytes(Assign::sign(&registry(), record, 0, 1).encode()),
        hostname: None,
        tags: Default::default(),
        networks: Default::default(),
        reach: None,
    })
}

#[test]
fn a_request_counts_only_from_its_sender_to_its_target() {
    let (a, mut b, c, m) = (Agent::new(1), Agent::new(2), Agent::new(3), Agent::new(4));
    // Somebody else's request, forwarded.
    b.receive_request(&m.record(1), &a.request_to(&b, true).encode());
    assert_eq!((b.waiting(), b.drops.get(DropReason::WrongAddress)), (0, 1));
    // Meant for somebody else, by address or by identity.
    b.receive_request(&a.record(1), &a.request_to(&c, true).encode());
    let mut elsewhere = Agent::new(3);
    elsewhere.address = b.address;
    b.receive_request(&a.record(1), &a.request_to(&elsewhere, true).encode());
    assert_eq!((b.waiting(), b.drops.get(DropReason::WrongAddress)), (0, 3));
    // Signed by another key under A's name.
    let mut forged = Agent::new(4);
    forged.address = a.address;
    b.receive_request(&a.record(1), &forged.request_to(&b, true).encode());
    assert_eq!((b.waiting(), b.drops.get(DropReason::WrongAddress)), (0, 4));
    // From ourselves.
    b.receive_request(&b.record(1), &b.request_to(&a, true).encode());
    assert_eq!((b.waiting(), b.drops.get(DropReason::WrongAddress)), (0, 5));
    b.receive_request(&a.record(1), &a.request_to(&b, true).encode());
    assert_eq!((b.waiting(), b.events()), (1, std::vec![TrustEvent::Requested(a.address)]));
    assert!(b.trusts_nobody());
}

#[test]
fn no_changed_bit_of_a_request_is_believed() {
    let (a, mut b) = (Agent::new(1), Agent::new(2));
    for named in [false, true] {
        let text = a.request_to(&b, named).encode();
        for i in 0..text.len() {
            let mut bad = text.clone();
            bad[i] ^= 1 << (i % 8);
            b.receive_request(&a.record(1), &bad);
        }
        b.receive_request(&a.record(1), &text[..text.len() - 1]);
        b.receive_request(&a.record(1), &[]);
        assert_eq!((b.waiting(), b.events().len()), (0, 0));
    }
}

#[test]
fn only_our_registry_says_who_somebody_is() {
    let (a, mut b) = (Agent::new(1), Agent::new(2));
    let text = a.request_to(&b, true).encode();
    let body = || MailboxBody::Request { sealed: false, body: &text };
    b.receive_from(&Identity::from_secret([98; 32]), &a.record(1), body());
    // An address that the registry gave to another identity.
    let mut thief = Agent::new(4);
    thief.address = a.address;
    let stolen = thief.request_to(&b, true).encode();
    b.receive(&a.record(1), MailboxBody::Request { sealed: false, body: &stolen });
    // A record that its identity did not sign: the registry puts its own tunnel key in.
    let mut bytes = a.record(1).encode();
    bytes[38..70].copy_from_slice(&thief.secret.public().0);
    b.receive(&Record::decode(&bytes).unwrap(), body());
    b.receive(&a.record_with(|f| f.flags = flag::TOMBSTONE), body());
    b.receive(&a.record_with(|f| f.not_after = UNIX.as_secs() - 4000), body());
    assert_eq!(b.waiting(), 0);
    assert_eq!(b.drops.total(), 5);
    b.receive(&a.record_with(|f| f.not_after = UNIX.as_secs() - 1000), body());
    assert_eq!(b.waiting(), 1, "an hour of tolerance");
}

#[test]
fn a_replayed_request_changes_nothing() {
    let (a, mut b) = (Agent::new(1), Agent::new(2));
    let text = a.request_to(&b, true).encode();
    b.receive_request(&a.record(1), &text);
    assert_eq!(b.events().len(), 1);
    for _ in 0..5 {
        b.receive_request(&a.record(1), &text);
    }
    assert_eq!((b.waiting(), b.events().len()), (1, 0));
    let peer = b.approve_first();
    let given = b.trust.peer(peer).unwrap().given;
    b.events();
    assert!(b.job(Ok(&Answer::Done)).is_some());
    b.receive_request(&a.record(1), &text);
    // The same grant again, to the same identity; nobody is asked.
    let again = b.job(Ok(&Answer::Done)).unwrap();
    let Ok(Request::TrustAnswer { to, grant, .. }) = Envelope::parse(&again).unwrap().request()
    else {
        panic!()
    };
    assert_eq!((to, grant), (a.address, Some(Bytes(given.encode()))));
    assert_eq!((b.waiting(), b.trust.peers().count()), (0, 1));
}

#[test]
fn sealed_requests_open_for_their_target_and_show_their_sender() {
    let (a, mut b, c) = (Agent::new(1), Agent::new(2), Agent::new(3));
    let text = a.request_to(&b, true).encode();
    let seal = |s: &TunnelSecret, to: &TunnelSecret, at: Address| {
        let mut body = std::vec![0; exchange::MESSAGE1_OVERHEAD + text.len()];
        body[exchange::MESSAGE1_PAYLOAD..][..text.len()].copy_from_slice(&text);
        let at = at.to_bytes();
        let prologue = [&crate::crypto::CONTEXT[..], b"trust-x\0", &at];
        let e = TunnelSecret::from_secret([44; 32]);
        exchange::seal_x(&prologue, s, &to.public(), e, &mut body).unwrap();
        body
    };
    let record = a.record(1);
    let give = |b: &mut Agent, body: &[u8]| {
        b.receive(&record, MailboxBody::Request { sealed: true, body });
        b.waiting()
    };
    // By another static key, to another key, under another prologue, cut, empty.
    let good = seal(&a.secret, &b.secret, b.address);
    for bad in [
        seal(&c.secret, &b.secret, b.address),
        seal(&a.secret, &c.secret, b.address),
        seal(&a.secret, &b.secret, c.address),
    ] {
        assert_eq!(give(&mut b, &bad), 0);
    }
    for n in [0, 15, 16, 95, 96, good.len() - 1] {
        assert_eq!(give(&mut b, &good[..n]), 0);
    }
    // Not sealed, though it says so; and the reverse.
    assert_eq!(give(&mut b, &text), 0);
    b.receive_request(&record, &good);
    assert_eq!(b.waiting(), 0);
    assert_eq!(give(&mut b, &good), 1);

    // To the tunnel key that we had before.
    let mut b = Agent::new(2);
    b.previous = Some(core::mem::replace(&mut b.secret, TunnelSecret::from_secret([66; 32])));
    assert_eq!(give(&mut b, &good), 1);

    // From the tunnel key that a known peer had before.
    let peer = b.approve_first();
    b.job(Ok(&Answer::Done));
    let mut later = Agent::new(1);
    later.secret = TunnelSecret::from_secret([67; 32]);
    let next = later.record_with(|f| (f.serial, f.prev) = (2, record.hash()));
    let foreign = later.record_with(|f| (f.serial, f.prev) = (2, [1; 32]));
    for (shown, refused) in [(next, 0), (foreign, 1)] {
        b.receive(&shown, MailboxBody::Request { sealed: true, body: &good });
        assert_eq!(b.drops.get(DropReason::WrongAddress), refused);
        assert_eq!(b.trust.peer(peer).unwrap().record, next);
    }
}

#[test]
fn nobody_is_trusted_unasked() {
    let (mut a, b, m) = (Agent::new(1), Agent::new(2), Agent::new(4));
    let grant = Some(b.grant_to(a.public(), 0));
    // No request at all.
    a.receive_answer(&b, [0; 16], grant);
    a.receive_answer(&b, [5; 16], None);
    assert_eq!((a.trusts_nobody(), a.drops.get(DropReason::Unasked)), (true, 2));
    // A confirmation of a stranger.
    let (mine, theirs) = (b.grant_to(a.public(), 0), a.grant_to(b.public(), 0));
    let confirm =
        || MailboxBody::Confirm { grant: Bytes(mine.encode()), held: Bytes(theirs.encode()) };
    a.receive(&b.record(1), confirm());
    assert_eq!((a.trusts_nobody(), a.drops.get(DropReason::Untrusted)), (true, 1));

    let nonce = a.ask(b.address);
    // Another's answer, another nonce, a confirmation instead of an answer.
    a.receive_answer(&m, nonce, Some(m.grant_to(a.public(), 0)));
    a.receive_answer(&b, [0; 16], grant);
    a.receive_answer(&b, [0; 16], None);
    a.receive(&b.record(1), confirm());
    assert_eq!((a.trusts_nobody(), a.trust.outgoing().count()), (true, 1));
    // Grants that are not from them to us.
    let mut altered = b.grant_to(a.public(), 0);
    altered.rights = Rights::NONE;
    for bad in
        [m.grant_to(a.public(), 0), b.grant_to(m.public(), 0), altered, a.grant_to(b.public(), 0)]
    {
        a.receive_answer(&b, nonce, Some(bad));
        assert_eq!((a.trusts_nobody(), a.trust.outgoing().count()), (true, 1));
    }
    // One that its own record has voided.
    let raised = b.record_with(|f| f.grant_epoch = 1);
    let answer =
        |g: Grant| MailboxBody::Answer { nonce: Bytes(nonce), grant: Some(Bytes(g.encode())) };
    a.receive(&raised, answer(b.grant_to(a.public(), 0)));
    assert!(a.trusts_nobody());
    a.receive(&raised, answer(b.grant_to(a.public(), 1)));
    assert_eq!((a.trust.peers().count(), a.trust.outgoing().count()), (1, 0));
    // The nonce was good once.
    a.with(|t, ctx| t.revoke(ctx, PeerIndex(0), true)).unwrap();
    a.receive(&raised, answer(b.grant_to(a.public(), 1)));
    assert!(a.trusts_nobody());
}

#[test]
fn a_confirmation_is_believed_only_from_the_pinned_identity() {
    let (a, mut b, m) = (Agent::new(1), Agent::new(2), Agent::new(4));
    b.receive_request(&a.record(1), &a.request_to(&b, false).encode());
    let peer = b.approve_first();
    assert!(b.trust.peer(peer).unwrap().held().is_none());
    let held = b.trust.peer(peer).unwrap().given;
    let mut confirm = |from: &Agent, grant: Grant| {
        let (grant, held) = (Bytes(grant.encode()), Bytes(held.encode()));
        b.receive(&from.record(1), MailboxBody::Confirm { grant, held });
        b.trust.peer(peer).unwrap().held().is_some()
    };
    let to = Agent::new(2).public();
    let mut thief = Agent::new(4);
    thief.address = a.address;
    assert!(!confirm(&thief, thief.grant_to(to, 0)), "the registry names another identity");
    assert!(!confirm(&m, m.grant_to(to, 0)));
    assert!(!confirm(&a, m.grant_to(to, 0)));
    assert!(!confirm(&a, a.grant_to(m.public(), 0)));
    assert!(confirm(&a, a.grant_to(to, 0)));
    assert!(b.events().contains(&TrustEvent::Granted(a.address)));
}

#[test]
fn another_identity_at_a_trusted_address_freezes_the_peer() {
    let (a, mut b) = (Agent::new(1), Agent::new(2));
    b.receive_request(&a.record(1), &a.request_to(&b, true).encode());
    let peer = b.approve_first();
    b.events();
    let mut thief = Agent::new(4);
    thief.address = a.address;
    b.receive_request(&thief.record(9), &thief.request_to(&b, true).encode());
    let frozen = b.trust.peer(peer).unwrap();
    assert!(frozen.frozen && frozen.identity == a.public() && frozen.record == a.record(1));
    assert_eq!((b.waiting(), b.trust.peers().count()), (0, 1));
    assert_eq!(b.events(), [TrustEvent::Updated(peer)]);
    // What the registry says of it is not believed any more.
    while b.job(Ok(&resolved(&thief, &thief.record(9)))).is_some() {}
    assert!(b.trust.peer(peer).unwrap().endpoints().is_empty());
    let Answer::Resolved(word) = resolved(&thief, &thief.record(9)) else { panic!() };
    assert!(!b.with(|t, ctx| t.check_resolved(ctx, &word)));
}

#[test]
fn older_records_are_refused() {
    let (a, mut b) = (Agent::new(1), Agent::new(2));
    let text = a.request_to(&b, true).encode();
    b.receive_request(&a.record(5), &text);
    let peer = b.approve_first();
    b.receive_request(&a.record(4), &text);
    assert_eq!(b.trust.peer(peer).unwrap().record.fields.serial, 5);
    b.receive_request(&a.record(6), &text);
    assert_eq!(b.trust.peer(peer).unwrap().record.fields.serial, 6);
    let older = a.record(5);
    b.trust.handle_record(&mut b.journal, peer, &older);
    assert_eq!(b.trust.peer(peer).unwrap().record.fields.serial, 6);
    let raised = a.record_with(|f| (f.serial, f.grant_epoch) = (7, 1));
    assert!(b.trust.peer(peer).unwrap().held().is_some());
    b.trust.handle_record(&mut b.journal, peer, &raised);
    assert!(b.trust.peer(peer).unwrap().held().is_none(), "voided by its own record");
}

#[test]
fn the_target_that_we_asked_is_the_one_that_may_answer() {
    let (mut a, b) = (Agent::new(1), Agent::new(2));
    let nonce = a.ask(b.address);
    // The registry says who it is, then sends somebody else's answer.
    a.job(Ok(&resolved(&b, &b.record(1))));
    assert_eq!(a.trust.outgoing().next().unwrap().identity, Some(b.public()));
    let mut thief = Agent::new(4);
    thief.address = b.address;
    a.receive_answer(&thief, nonce, Some(thief.grant_to(a.public(), 0)));
    assert!(a.trusts_nobody() && a.trust.outgoing().count() == 1);
    // Nor is a request of somebody else at that address a crossing one.
    a.receive_request(&thief.record(1), &thief.request_to(&a, true).encode());
    assert!(a.trusts_nobody() && a.waiting() == 0);
    a.receive_answer(&b, nonce, Some(b.grant_to(a.public(), 0)));
    assert_eq!(a.trust.peers().count(), 1);
}

#[test]
fn a_target_that_became_another_is_asked_no_more() {
    let (mut a, b) = (Agent::new(1), Agent::new(2));
    a.ask(b.address);
    a.job(Ok(&resolved(&b, &b.record(1))));
    let given = a.trust.outgoing[0].live().unwrap().grant.unwrap();
    // The owner repeats the request; meanwhile the registry names somebody else.
    a.ask(b.address);
    let mut thief = Agent::new(4);
    thief.address = b.address;
    a.job(Ok(&resolved(&thief, &thief.record(2))));
    assert_eq!(a.trust.outgoing().count(), 0);
    assert_eq!(a.events(), [TrustEvent::Refused(b.address)]);
    // The grant that the first one may have is withdrawn.
    let revoke = a.job(Ok(&Answer::Done)).unwrap();
    let Ok(Request::Revoke { grantee, hash }) = Envelope::parse(&revoke).unwrap().request() else {
        panic!()
    };
    assert_eq!((grantee.0, &hash.0[..]), (b.public().0, &given.hash()[..8]));
    assert!(a.job(Ok(&Answer::Done)).is_none() && a.trusts_nobody());
}

#[test]
fn rate_limits_are_kept_and_refusals_end_requests() {
    let (mut a, b) = (Agent::new(1), Agent::new(2));
    a.ask(b.address);
    let not_found = Refusal::from(ErrorCode::NotFound);
    assert!(a.job(Err(not_found)).is_some(), "resolve");
    let limited = Refusal { code: ErrorCode::RateLimited, retry_ms: 600_000 };
    assert!(a.job(Err(limited)).is_some(), "request");
    assert!(a.job(Err(limited)).is_none());
    assert_eq!(a.trust.due(), a.now + Duration::from_secs(600));
    a.now += Duration::from_secs(600);
    assert!(a.job(Err(Refusal::from(ErrorCode::Malformed))).is_some());
    assert_eq!(a.events(), [TrustEvent::Refused(b.address)]);
    assert!(a.job(Ok(&Answer::Done)).is_none());
}

#[test]
fn an_answer_for_a_place_that_is_used_anew_is_ignored() {
    let (mut a, b, c) = (Agent::new(1), Agent::new(2), Agent::new(3));
    a.ask(b.address);
    let now = a.now;
    let ticket = a.trust.next_job(now, |_| false).unwrap();
    a.with(|t, ctx| t.withdraw_request(ctx, b.address)).unwrap();
    a.ask(c.address);
    let word = resolved(&b, &b.record(1));
    a.with(|t, ctx| t.handle_answer(ctx, ticket, Ok(&word)));
    assert_eq!(a.trust.outgoing().next().unwrap().identity, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_item_panics_or_makes_trust(
        body in prop::collection::vec(any::<u8>(), 0..1100),
        sealed: bool,
        nonce: [u8; 16],
        grant in prop::array::uniform32(any::<u8>()),
    ) {
        let (mut a, b) = (Agent::new(1), Agent::new(2));
        a.ask(b.address);
        a.receive(&b.record(1), MailboxBody::Request { sealed, body: &body });
        let mut bytes = b.grant_to(a.public(), 0).encode();
        bytes[60..92].copy_from_slice(&grant);
        a.receive(&b.record(1), MailboxBody::Answer {
            nonce: Bytes(nonce),
            grant: Some(Bytes(bytes)),
        });
        prop_assert!(a.trusts_nobody());
    }
}

/// The next request to the registry, decoded by `look`.
fn next_request<R>(agent: &mut Agent, look: impl FnOnce(Request<'_>) -> R) -> R {
    let bytes = agent.job(Ok(&Answer::Done)).expect("a job");
    look(Envelope::parse(&bytes).unwrap().request().unwrap())
}

fn permissions(text: &str) -> Permissions {
    text.parse().unwrap()
}

/// B trusts A with these permissions, and both hold grants; nothing is due.
fn approved(text: &str) -> (Agent, Agent, PeerIndex) {
    let (a, mut b) = (Agent::new(1), Agent::new(2));
    b.receive_request(&a.record(1), &a.request_to(&b, true).encode());
    let peer = b.with(|t, ctx| t.approve(ctx, a.address, permissions(text))).unwrap();
    b.job(Ok(&Answer::Done));
    while b.job(Ok(&resolved(&a, &a.record(1)))).is_some() {}
    b.events();
    (a, b, peer)
}

#[test]
fn a_search_for_a_name_goes_on_behind_the_last_one() {
    let mut b = Agent::new(2);
    for n in 3..6 {
        let a = Agent::new(n);
        b.receive_request(&a.record(1), &a.request_to(&b, true).encode());
        b.with(|t, ctx| t.approve(ctx, a.address, permissions("all"))).unwrap();
    }
    let settle = |b: &mut Agent| while b.job(Ok(&Answer::Done)).is_some() {};
    settle(&mut b);
    for turn in [0, 1, 2, 0] {
        assert!(b.trust.resolve_names(1));
        let due: Vec<u32> =
            b.trust.peers().filter(|(_, p)| p.resolve_due).map(|(i, _)| i.0).collect();
        assert_eq!(due, [turn]);
        settle(&mut b);
    }
}

#[test]
fn an_approval_grants_what_its_owner_says_and_no_more() {
    let (_, b, peer) = approved("message,ports=8000-8100");
    let entry = b.trust.peer(peer).unwrap();
    assert_eq!(entry.given.rights, Rights::MESSAGES.union(Rights::OTHER));
    assert_eq!(entry.permissions(), permissions("message,ports=8000-8100"));
    for (port, allowed) in [(1001, true), (8050, true), (8101, false), (7, false)] {
        assert_eq!(b.trust.permits(peer, Port(port)), allowed, "{port}");
    }
    // Nor more than was asked for.
    let (a, mut b) = (Agent::new(1), Agent::new(2));
    let mut request = a.request_to(&b, true);
    let (to, text) = ((b.address, Some(b.public())), Justification::cleaned("x"));
    request = TrustRequest::sign(
        &a.identity,
        &registry().public(),
        a.address,
        to,
        [5; 16],
        UNIX.as_secs(),
        Rights::ECHO,
        &text,
        request.grant,
    );
    b.receive_request(&a.record(1), &request.encode());
    let peer = b.approve_first();
    assert_eq!(b.trust.peer(peer).unwrap().permissions(), permissions("echo"));
}

#[test]
fn changed_rights_are_a_new_grant_that_the_peer_is_sent() {
    let (a, mut b, peer) = approved("all");
    let before = b.trust.peer(peer).unwrap().given;
    let set =
        |b: &mut Agent, text| b.with(|t, ctx| t.set_permissions(ctx, peer, permissions(text)));
    assert_eq!(set(&mut b, "all"), Ok(false));
    assert!(b.events().is_empty() && b.job(Ok(&Answer::Done)).is_none());
    // Ranges are our own rule: nothing is sent.
    assert_eq!(set(&mut b, "echo,message,file,events,tasks,ports=80"), Ok(true));
    assert_eq!(b.events(), [TrustEvent::Updated(peer)]);
    assert!(b.job(Ok(&Answer::Done)).is_none());
    assert_eq!(b.trust.peer(peer).unwrap().given, before);

    // While the confirmation is under way they change again: it is sent again.
    assert_eq!(set(&mut b, "echo"), Ok(true));
    let now = b.now;
    let ticket = b.trust.next_job(now, |_| false).unwrap();
    assert!(matches!(ticket.job, Job::Confirm(_)));
    assert_eq!(set(&mut b, "echo,file"), Ok(true));
    b.with(|t, ctx| t.handle_answer(ctx, ticket, Ok(&Answer::Done)));
    let given = b.trust.peer(peer).unwrap().given;
    assert_eq!(given.rights, Rights::ECHO.union(Rights::FILES));
    next_request(&mut b, |request| {
        let Request::TrustConfirm { to, grant, .. } = request else { panic!("{request:?}") };
        assert_eq!((to, grant), (a.address, Bytes(given.encode())));
    });
    assert!(b.job(Ok(&Answer::Done)).is_none());
    let unknown = b.with(|t, ctx| t.set_permissions(ctx, PeerIndex(9), Permissions::NONE));
    assert_eq!(unknown, Err(TrustError::NotFound));
}

#[test]
fn a_grant_of_the_epoch_before_does_not_count_as_the_new_one() {
    let (_, mut b, peer) = approved("all");
    b.with(|t, ctx| t.set_permissions(ctx, peer, permissions("echo"))).unwrap();
    let now = b.now;
    let ticket = b.trust.next_job(now, |_| false).unwrap();
    assert!(matches!(ticket.job, Job::Confirm(_)));
    // It is under way when the epoch is raised.
    b.epoch = 1;
    b.with(|t, ctx| t.reissue(ctx));
    b.with(|t, ctx| t.handle_answer(ctx, ticket, Ok(&Answer::Done)));
    let given = b.trust.peer(peer).unwrap().given;
    assert_eq!(given.epoch, 1);
    next_request(&mut b, |request| {
        let Request::TrustConfirm { grant, .. } = request else { panic!("{request:?}") };
        assert_eq!(grant, Bytes(given.encode()));
    });
    assert!(b.job(Ok(&Answer::Done)).is_none());
}

/// The registry knows a revoked grant by its hash, and the peer has two: neither may count.
#[test]
fn who_had_several_grants_keeps_none_when_trust_ends() {
    for (changed, raises) in [(false, false), (true, true)] {
        let (_, mut b, peer) = approved("all");
        if changed {
            b.with(|t, ctx| t.set_permissions(ctx, peer, permissions("echo"))).unwrap();
            b.job(Ok(&Answer::Done));
        }
        b.with(|t, ctx| t.revoke(ctx, peer, true)).unwrap();
        let mut stored = std::vec![0; 2048];
        let change = b.with(|t, ctx| t.poll_store(ctx.journal, &mut stored)).unwrap();
        stored.truncate(change.len.unwrap());
        // Also after a restart.
        let mut again = Agent::new(2);
        again.trust.load(*b"peer", peer.0, &stored).unwrap().unwrap();
        for b in [&mut b, &mut again] {
            let now = b.now;
            let ticket = b.trust.next_job(now, |_| false).unwrap();
            assert_eq!(ticket.job, Job::Revoke(peer));
            let outcome = b.with(|t, ctx| t.handle_answer(ctx, ticket, Ok(&Answer::Done)));
            let wanted = if raises { Outcome::RaiseEpoch } else { Outcome::Done };
            assert_eq!(outcome, wanted);
            if raises {
                // The epoch is raised: the next answer ends it.
                b.epoch = 1;
                let ticket = b.trust.next_job(now, |_| false).unwrap();
                let outcome = b.with(|t, ctx| t.handle_answer(ctx, ticket, Ok(&Answer::Done)));
                assert_eq!(outcome, Outcome::Done);
            }
            b.events();
            assert!(b.trust.next_job(now, |_| false).is_none() && b.trusts_nobody());
        }
    }
}

#[test]
fn permissions_outlive_a_restart_and_old_facts_still_load() {
    let stored = |b: &mut Agent| {
        let mut out = std::vec![0; 2048];
        b.with(|t, ctx| t.poll_store(ctx.journal, &mut out))
            .map(|change| out[..change.len.unwrap()].to_vec())
            .unwrap()
    };
    let load = |fact: &[u8]| {
        let mut b = Agent::new(2);
        b.trust.load(*b"peer", 0, fact).unwrap().unwrap();
        let (_, peer) = b.trust.peers().next().unwrap();
        (peer.permissions(), peer.superseded)
    };
    // As the first version wrote it, byte for byte: format, variant, and the peer as it is.
    let (_, mut b, peer) = approved("echo,file");
    let fact = stored(&mut b);
    let mut first = std::vec![0; 2048];
    let of = b.trust.peer(peer).unwrap();
    let len = postcard::to_slice(&(1u8, 0u8, of), &mut first).unwrap().len();
    assert_eq!(fact, first[..len]);
    assert_eq!(load(&fact), (permissions("echo,file"), false));

    for text in ["all", "none", "echo,ports=1+2-3+4+5+6+7+8+65535", "message,ports=8000-8100"] {
        let (_, mut b, peer) = approved("echo,file");
        stored(&mut b);
        b.with(|t, ctx| t.set_permissions(ctx, peer, permissions(text))).unwrap();
        assert_eq!(load(&stored(&mut b)), (permissions(text), true), "{text}");
    }
}

/// Our own request brought the other a grant for everything; what is approved counts.
#[test]
fn a_crossing_request_does_not_widen_an_approval() {
    let (a, mut b) = (Agent::new(1), Agent::new(2));
    b.receive_request(&a.record(1), &a.request_to(&b, true).encode());
    let peer = b.with(|t, ctx| t.approve(ctx, a.address, permissions("echo"))).unwrap();
    b.ask(a.address);
    assert_eq!(b.trust.peer(peer).unwrap().permissions(), permissions("echo"));
    b.receive_answer(&a, [1; 16], Some(a.grant_to(b.public(), 0)));
    b.receive_request(&a.record(1), &a.request_to(&b, true).encode());
    assert_eq!(b.trust.peer(peer).unwrap().permissions(), permissions("echo"));
}
