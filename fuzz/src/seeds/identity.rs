//! Seeds of what is signed: records, requests for trust, what a handshake carries, statements.

use super::s;
use super::wire::header;
use crate::stage::{self, Stage};
use crate::tape::Script;
use pilot_core::crypto::task::statement::submission;
use pilot_core::crypto::task::{Claim, Head, Receipt, Side, Statement, Step, TaskId, Times};
use pilot_core::crypto::{Identity, RUST_CRYPTO, Rights, TrustRequest};
use pilot_core::name::Justification;
use pilot_core::session::payload::{Caps, InitPayload, P1_MAX, P2_MAX, RespPayload};
use pilot_core::wire::header::{Flags, Protocol};

pub(super) fn trust_request(with_grant: bool) -> Vec<u8> {
    let [a, b] = &Stage::get().agents;
    let key = stage::registry().public();
    let grant = with_grant.then(|| Stage::get().grant(0, Rights::ALL, 1));
    let to = with_grant.then(|| b.identity().public());
    TrustRequest::sign(
        &a.identity(),
        &key,
        a.address,
        (b.address, to),
        [4; 16],
        1_800_000_000,
        Rights::ALL,
        &Justification::cleaned("to work together"),
        grant,
    )
    .encode()
    .to_vec()
}

pub(super) fn p1(record: bool, early: bool) -> Vec<u8> {
    let [us, them] = &Stage::get().agents;
    let p1 = InitPayload {
        caps: Caps::of(&RUST_CRYPTO),
        rekey: false,
        max_datagram: 1232,
        src: them.address,
        dst: us.address,
        hs_seq: stage::unix().as_millis() + 5_000_000,
        known_peer_serial: 1,
        generation: 1,
        boot_id: [8; 8],
        record: record.then(|| them.record.to_short()),
        early: early.then(|| {
            let syn = header(Flags::SYN, Protocol::Stream, (3000, 1000), &[]);
            *syn.first_chunk().expect("a header")
        }),
    };
    let mut out = [0; P1_MAX];
    let n = p1.encode(&mut out);
    out[..n].to_vec()
}

pub(super) fn p2(record: bool, early: bool, observed: Option<&str>) -> Vec<u8> {
    let p2 = RespPayload {
        suite: 2,
        caps: Caps::of(&RUST_CRYPTO),
        max_datagram: 1232,
        observed: observed.map(|text| text.parse().expect("an address")),
        boot_id: [3; 8],
        record: record.then(|| Stage::get().agents[1].record.to_short()),
        early: early.then_some([0x13; 34]),
    };
    let mut out = [0; P2_MAX];
    let n = p2.encode(&mut out);
    out[..n].to_vec()
}

pub(super) fn records() -> Vec<Script> {
    let [a, b] = &Stage::get().agents;
    let rotated = a.record.with_previous(&b.identity(), &stage::registry().public());
    let grant = Stage::get().grant(0, Rights::ALL, 1).encode();
    let mut seeds = vec![
        s().byte(0).raw(&a.record.encode()),
        s().byte(0).raw(&rotated.encode()),
        s().byte(1).raw(&grant),
        s().byte(2).raw(&trust_request(false)),
        s().byte(2).raw(&trust_request(true)),
        s().byte(3).raw(&[7; 80]),
        s().byte(3).raw(&[7; 108]),
        s().byte(4).raw(&p1(true, true)),
        s().byte(4).raw(&p1(false, false)),
        s().byte(4).raw(&p2(true, false, Some("192.0.2.1:4000"))),
        s().byte(4).raw(&p2(false, true, Some("[2001:db8::1]:1"))),
        s().byte(4).raw(&p2(false, false, None)),
    ];
    let fill = |n: u8| (0..255).map(|i: u8| i.wrapping_mul(n)).collect::<Vec<u8>>();
    seeds.extend((5..9).map(|kind| s().byte(kind).raw(&fill(kind)).raw(&fill(kind + 1))));
    seeds
}

pub(super) fn tasks() -> Vec<Script> {
    let [a, b] = [1, 2].map(|n| Identity::from_secret([n; 32]));
    let registry = stage::registry().public();
    let first = submission(TaskId([1; 16]), a.public(), b.public(), stage::unix(), b"work");
    let first = Statement::sign(&a, &registry, first).expect("the submitter's");
    let mut head = Head::begin(&first, &registry).expect("it begins a task");
    for step in [Step::Accept, Step::Start, Step::Complete] {
        let next = head.next(step, Side::Worker, stage::unix(), b"").expect("in order");
        let next = Statement::sign(&b, &registry, next).expect("the worker's");
        head.follow(&next, &registry).expect("in order");
    }
    let claim = Claim::sign(&b, &registry, &head, Times::default()).expect("it is done");
    let times = Times::from_millis([1, 2, 3, 600_000]);
    let receipt = Receipt::sign(&a, &registry, &head, &claim, times).expect("it is done");
    let chain = |kinds: &[u8]| {
        let begin = s().byte(3).byte(1).chunk(b"work").quad(5);
        // Step, time, body, no lie; then what is done to each of the signatures: nothing.
        kinds.iter().fold(begin, |script, kind| {
            script.then(s().byte(kind - 1).quad(6).chunk(b"x").byte(9).byte(0))
        })
    };
    vec![
        s().byte(0).raw(&first.encode()),
        s().byte(0).raw(&head.last().encode()),
        s().byte(1).raw(&claim.encode()),
        s().byte(1).raw(&receipt.encode()),
        s().byte(2).quad(600_000).quad(30_000).quad(300_000).long(1).long(1),
        chain(&[]),
        chain(&[2, 4, 5, 5, 6]).then(s().raw(&[9; 60])),
        chain(&[2, 7]),
        chain(&[3]),
        chain(&[8]),
        chain(&[9]),
        chain(&[2, 10]),
        chain(&[2, 4, 8]),
        chain(&[2]).then(s().byte(3).quad(6).chunk(b"x").byte(0).long(3)),
        chain(&[2]).then(s().byte(3).quad(6).chunk(b"x").byte(1).byte(3).byte(2)),
        chain(&[2]).then(s().byte(3).quad(6).chunk(b"x").byte(9).byte(3).word(777)),
    ]
}
