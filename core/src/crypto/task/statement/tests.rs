use super::*;
use proptest::prelude::*;
use std::string::String;
use std::vec::Vec;

pub(crate) const REGISTRY: IdentityKey = IdentityKey([2; 32]);

pub(crate) fn submitter() -> Identity {
    Identity::from_secret([1; 32])
}

pub(crate) fn worker() -> Identity {
    Identity::from_secret([3; 32])
}

fn at(ms: u64) -> UnixTime {
    UnixTime::from_millis(1_700_000_000_000 + ms)
}

pub(crate) fn first() -> Statement {
    let (s, w) = (submitter(), worker());
    let fields = submission(TaskId([7; 16]), s.public(), w.public(), at(0), b"add the numbers");
    Statement::sign(&s, &REGISTRY, fields).unwrap()
}

/// Signs `step` as whoever it belongs to and appends it.
pub(crate) fn take(head: &mut Head, step: Step, body: &[u8]) -> Result<State, Broken> {
    let fields = head.next(step, step.side(), at(1000), body)?;
    let by = if step.side() == Side::Worker { worker() } else { submitter() };
    head.follow(&Statement::sign(&by, &REGISTRY, fields).unwrap(), &REGISTRY)
}

/// The chain after these steps.
pub(crate) fn chain(steps: &[Step]) -> Head {
    let mut head = Head::begin(&first(), &REGISTRY).unwrap();
    for step in steps {
        assert_eq!(take(&mut head, *step, b"body"), Ok(step.to()));
    }
    head
}

#[test]
fn round_trips_in_221_bytes() {
    let statement = first();
    let bytes = statement.encode();
    assert_eq!(bytes.len(), 221);
    assert_eq!(Statement::decode(&bytes), Ok(statement));
    assert_eq!(Statement::decode(&bytes[..220]), Err(DecodeError::Length));
    assert_eq!(Statement::decode(&[&bytes[..], &[0]].concat()), Err(DecodeError::Length));
    assert_eq!(statement.verify(&REGISTRY), Ok(()));
    assert_eq!(statement.verify(&IdentityKey([3; 32])), Err(BadSignature));
    assert!(statement.is_about(b"add the numbers") && !statement.is_about(b"add the number"));
    let mut text = [0; 300];
    let text = postcard::to_slice(&statement, &mut text).unwrap();
    assert_eq!(postcard::from_bytes::<Statement>(text), Ok(statement));
}

/// Ed25519 is deterministic (RFC 8032), so the whole statement is.
#[test]
fn the_bytes_are_frozen() {
    let hex: String = data_encoding::HEXLOWER.encode(&first().encode());
    let expected: String = include_str!("frozen.txt").split_whitespace().collect();
    assert_eq!(hex, expected);
}

#[test]
fn every_flipped_bit_is_refused() {
    let mut bytes = chain(&[Step::Accept, Step::Start]).last().encode();
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let taken = Statement::decode(&bytes).is_ok_and(|s| s.verify(&REGISTRY).is_ok());
        assert!(!taken, "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn decoding_is_strict() {
    let good = chain(&[Step::Accept]).last().encode();
    let with = |at: usize, bytes: &[u8]| {
        let mut copy = good;
        copy[at..][..bytes.len()].copy_from_slice(bytes);
        Statement::decode(&copy).map(|_| ())
    };
    assert_eq!(with(0, &[]), Ok(()));
    for step in [0, 11, 255] {
        assert_eq!(with(84, &[step]), Err(DecodeError::Field), "step {step}");
    }
    assert_eq!(with(80, &[0; 4]), Err(DecodeError::Field), "an acceptance is never the first");
    assert_eq!(with(84, &[1]), Err(DecodeError::Field), "a submission is always the first");
    assert_eq!(with(80, &[0, 0, 0, 0, 1]), Err(DecodeError::Field), "which stands on nothing");
    let submitter: [u8; 32] = good[16..48].try_into().unwrap();
    assert_eq!(with(48, &submitter), Err(DecodeError::Field), "with itself");
}

#[test]
fn only_the_side_whose_step_it_is_signs() {
    let head = chain(&[]);
    for (step, wrong) in [(Step::Accept, submitter()), (Step::Cancel, worker())] {
        let fields = head.next(step, step.side(), at(5), b"").unwrap();
        assert_eq!(Statement::sign(&wrong, &REGISTRY, fields), Err(NotSigned::WrongSide));
        // Signed all the same, past the check.
        let mut forged = Statement { fields, sig: [0; 64] };
        forged.sig = wrong.sign(purpose::TASK, &[&REGISTRY.0, &forged.encode()[..SIGNED]]);
        let mut head = head;
        assert_eq!(head.follow(&forged, &REGISTRY), Err(Broken::Signature(BadSignature)));
        let other = if step.side() == Side::Worker { Side::Submitter } else { Side::Worker };
        assert_eq!(head.next(step, other, at(5), b""), Err(NotAllowed::WrongSide { step }));
    }
    let mine = submitter().public();
    let fields = submission(TaskId([7; 16]), mine, mine, at(0), b"");
    assert_eq!(Statement::sign(&submitter(), &REGISTRY, fields), Err(NotSigned::Itself));
}

/// Another purpose's signature is none, and one for another registry neither.
#[test]
fn signatures_are_for_statements_of_this_registry() {
    let head = chain(&[]);
    let fields = head.next(Step::Accept, Side::Worker, at(5), b"").unwrap();
    let mut forged = Statement { fields, sig: [0; 64] };
    for (purpose, registry) in [(purpose::CLAIM, REGISTRY), (purpose::TASK, IdentityKey([9; 32]))] {
        let text = forged.encode();
        forged.sig = worker().sign(purpose, &[&registry.0, &text[..SIGNED]]);
        let mut head = head;
        assert_eq!(head.follow(&forged, &REGISTRY), Err(Broken::Signature(BadSignature)));
    }
}

#[test]
fn a_chain_takes_nothing_but_its_next_statement() {
    let mut head = chain(&[Step::Accept]);
    let before = head;
    let fields = head.next(Step::Start, Side::Worker, at(9), b"").unwrap();
    let sign = |fields| Statement::sign(&worker(), &REGISTRY, fields).unwrap();
    let skipped = sign(StatementFields { seq: 3, ..fields });
    assert_eq!(head.follow(&skipped, &REGISTRY), Err(Broken::Number { expected: 2 }));
    let again = sign(StatementFields { seq: 1, ..fields });
    assert_eq!(head.follow(&again, &REGISTRY), Err(Broken::Number { expected: 2 }));
    let forked = sign(StatementFields { prev: [1; 32], ..fields });
    assert_eq!(head.follow(&forked, &REGISTRY), Err(Broken::Fork));
    let other = sign(StatementFields { task: TaskId([8; 16]), ..fields });
    assert_eq!(head.follow(&other, &REGISTRY), Err(Broken::OtherTask));
    let early = sign(StatementFields { step: Step::Complete, ..fields });
    let from = Some(State::Accepted);
    let refused = Broken::Step(NotAllowed::NotFrom { step: Step::Complete, from });
    assert_eq!(head.follow(&early, &REGISTRY), Err(refused));
    assert_eq!(head, before, "what is refused changes nothing");
    let next = sign(fields);
    assert_eq!(head.follow(&next, &REGISTRY), Ok(State::Executing));
    let after = head;
    assert_eq!(head.follow(&next, &REGISTRY), Ok(State::Executing), "repeated");
    assert_eq!(head, after);
    assert_eq!(Head::restore(head.last()), head);
    let first = first();
    assert_eq!(head.follow(&first, &REGISTRY), Err(Broken::Number { expected: 3 }));
    assert_eq!(
        Head::begin(&next, &REGISTRY),
        Err(Broken::Step(NotAllowed::NotFrom { step: Step::Start, from: None }))
    );
}

/// Overtaken by progress, a cancellation is a fork; signed again on top of that it counts.
#[test]
fn the_worker_orders() {
    let mut of_worker = chain(&[Step::Accept, Step::Start]);
    let mut of_submitter = of_worker;
    let fields = of_submitter.next(Step::Cancel, Side::Submitter, at(9), b"").unwrap();
    let cancel = Statement::sign(&submitter(), &REGISTRY, fields).unwrap();
    take(&mut of_worker, Step::Progress, b"half").unwrap();
    let refused = of_worker.follow(&cancel, &REGISTRY);
    assert_eq!(refused, Err(Broken::Number { expected: 4 }));
    of_submitter.follow(of_worker.last(), &REGISTRY).unwrap();
    take(&mut of_submitter, Step::Cancel, b"").unwrap();
    assert_eq!(of_worker.follow(of_submitter.last(), &REGISTRY), Ok(State::Cancelled));
    assert_eq!(of_worker, of_submitter);
}

proptest! {
    #[test]
    fn any_bytes_decode_or_err(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(statement) = Statement::decode(&bytes) {
            prop_assert_eq!(&statement.encode()[..], &bytes[..]);
        }
    }

    /// Whatever is tried in whatever order, the chain moves as the table says.
    #[test]
    fn chains_move_as_the_table_says(numbers in prop::collection::vec(1u8..=10, 0..12)) {
        let mut head = chain(&[]);
        let mut states = Vec::from([State::New]);
        for step in numbers.into_iter().filter_map(Step::from_u8) {
            let expected = step.take(Some(head.state()), step.side());
            prop_assert_eq!(take(&mut head, step, b"x"), expected.map_err(Broken::Step));
            states.extend(expected);
        }
        prop_assert_eq!(head.last().fields.seq as usize + 1, states.len());
        prop_assert_eq!(Some(&head.state()), states.last());
    }
}
