//! Two boards over links that are cut in every way, and what each of them refuses.

use super::frame::{HEADER, PONG, TELL};
use super::*;
use crate::addr::{Address, NodeId};
use crate::crypto::task::statement::submission;
use crate::crypto::task::{Claim, Head, Side, State, Statement, Step, TaskId, Times};
use crate::crypto::{Identity, IdentityKey};
use crate::time::UnixTime;
use proptest::prelude::*;
use std::string::String;
use std::vec;
use std::vec::Vec;

pub(super) const REGISTRY: IdentityKey = IdentityKey([9; 32]);
pub(super) const ID: TaskId = TaskId([5; 16]);

pub(super) fn identity(n: u8) -> Identity {
    Identity::from_secret([n; 32])
}

pub(super) fn party(n: u8) -> Party {
    Party { address: Address::backbone(NodeId(u32::from(n))), key: identity(n).public() }
}

pub(super) fn limited(n: u8, limits: BoardLimits) -> Board<Keys> {
    let keys = Keys { identity: identity(n), registry: REGISTRY };
    Board::new(keys, identity(n).public(), REGISTRY, limits)
}

pub(super) fn board(n: u8) -> Board<Keys> {
    limited(n, BoardLimits::default())
}

pub(super) fn at(s: u64) -> UnixTime {
    UnixTime::from_secs(1_000_000 + s)
}

pub(super) fn content(text: &str) -> Vec<u8> {
    let mut out = vec![0; CONTENT_MAX];
    let len = Content::of_text(text).encode(&mut out).unwrap();
    out.truncate(len);
    out
}

pub(super) fn text_of(step: Step) -> &'static str {
    match step {
        Step::Submit => "do it",
        Step::Complete => "done",
        Step::Decline | Step::Fail => "no",
        Step::Progress => "half",
        _ => "",
    }
}

/// What 16 has submitted to 17, which has it.
fn pair() -> (Board<Keys>, Board<Keys>) {
    let (mut submitter, mut worker) = (board(16), board(17));
    submitter.submit(ID, party(17), &content("do it"), at(0)).unwrap();
    assert_eq!(tell(&mut submitter, 16, &mut worker, 17), [Verdict::Applied]);
    (submitter, worker)
}

/// Tells until nothing is left; the verdicts.
fn tell(from: &mut Board<Keys>, n: u8, to: &mut Board<Keys>, m: u8) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    loop {
        let next = from.untold(party(m).key).next().map(|(id, tell)| match tell {
            Tell::Statement { statement, .. } => (id, Ok(*statement)),
            Tell::Claim(claim) => (id, Err(*claim)),
        });
        let Some((id, next)) = next else { return verdicts };
        from.offered(id);
        match next {
            Ok(statement) => {
                let body = content(text_of(statement.fields.step));
                let verdict = to.judge(party(n), &statement, &body, || Ok(()), at(1));
                verdicts.push(verdict);
                from.answered(party(m).key, id, statement.fields.seq, verdict, at(1));
                if verdict == Verdict::Overtaken {
                    return verdicts;
                }
            }
            Err(claim) => {
                let receipt = to.judge_claim(party(n), &claim, at(1)).unwrap();
                assert!(from.countersigned(party(m).key, &receipt));
            }
        }
    }
}

fn act(board: &mut Board<Keys>, step: Step) -> Result<(), ActError> {
    board.act(ID, step, &content(text_of(step)), at(1))
}

fn state(board: &Board<Keys>) -> State {
    board.get(ID).unwrap().state()
}

/// A statement that continues what a board has, signed by whomever.
fn forged(board: &Board<Keys>, step: Step, signer: u8) -> Statement {
    let last = board.get(ID).unwrap().last();
    let body = content(text_of(step));
    let fields = crate::crypto::task::StatementFields {
        seq: last.fields.seq + 1,
        step,
        time: at(1),
        body: crate::crypto::kdf::sha256(&[&body]),
        prev: last.hash(),
        ..last.fields
    };
    let by = crate::crypto::task::StatementFields {
        submitter: if step.side() == Side::Submitter {
            party(signer).key
        } else {
            IdentityKey([1; 32])
        },
        worker: if step.side() == Side::Worker { party(signer).key } else { IdentityKey([1; 32]) },
        ..fields
    };
    let signed = Statement::sign(&identity(signer), &REGISTRY, by).unwrap();
    // With the names that the task has, whoever signed.
    let mut bytes = signed.encode();
    bytes[16..80].copy_from_slice(&[fields.submitter.0, fields.worker.0].concat());
    if fields.signer() == party(signer).key {
        return Statement::sign(&identity(signer), &REGISTRY, fields).unwrap();
    }
    Statement::decode(&bytes).unwrap()
}

#[test]
fn a_task_goes_from_side_to_side_and_yields_a_receipt_of_both() {
    let (mut submitter, mut worker) = pair();
    for step in [Step::Accept, Step::Start, Step::Progress, Step::Complete] {
        act(&mut worker, step).unwrap();
    }
    assert_eq!(tell(&mut worker, 17, &mut submitter, 16), [Verdict::Applied; 4]);
    let (s, w) = (submitter.get(ID).unwrap(), worker.get(ID).unwrap());
    assert_eq!((s.state(), s.last(), s.progress()), (State::Succeeded, w.last(), "half"));
    let receipt = *s.receipt().unwrap();
    assert_eq!((receipt.verify(&REGISTRY), w.receipt()), (Ok(()), Some(&receipt)));
    assert_eq!(worker.receipts().collect::<Vec<_>>(), [&receipt]);
    assert_eq!(submitter.receipts().count(), 0, "it is the worker that earns");
    worker.counted(ID);
    assert_eq!(worker.receipts().count(), 0);
    assert!(submitter.get(ID).unwrap().is_told() && worker.get(ID).unwrap().is_told());
}

#[test]
fn steps_of_the_wrong_side_or_state_are_refused_by_both() {
    let (mut submitter, mut worker) = pair();
    for step in [Step::Accept, Step::Start, Step::Complete, Step::Lapse, Step::Expire] {
        assert!(matches!(act(&mut submitter, step), Err(ActError::NotAllowed(_))), "{step:?}");
    }
    for step in [Step::Cancel, Step::Start, Step::Complete, Step::Progress, Step::Submit] {
        assert!(matches!(act(&mut worker, step), Err(ActError::NotAllowed(_))), "{step:?}");
    }
    // The same from the other end of a stream, signed by who may not, or may not now.
    let judge = |board: &mut Board<Keys>, from: u8, statement: &Statement| {
        let body = content(text_of(statement.fields.step));
        board.judge(party(from), statement, &body, || Ok(()), at(1))
    };
    let own = forged(&submitter, Step::Accept, 16);
    assert_eq!(judge(&mut worker, 16, &own), Verdict::Wrong, "not the submitter's to make");
    for step in [Step::Complete, Step::Start, Step::Progress] {
        let early = forged(&submitter, step, 17);
        assert_eq!(judge(&mut submitter, 17, &early), Verdict::Wrong, "{step:?}");
    }
    // By a third, about somebody else's task; and with the worker's name, but another's key.
    let accept = forged(&submitter, Step::Accept, 18);
    assert_eq!(judge(&mut submitter, 18, &accept), Verdict::Unknown);
    assert_eq!(judge(&mut submitter, 17, &accept), Verdict::Wrong, "the signature is another's");
    let stolen = *submitter.get(ID).unwrap().first();
    assert_eq!(judge(&mut worker, 18, &stolen), Verdict::Unknown, "not its task");
    let mut fresh = board(17);
    assert_eq!(judge(&mut fresh, 18, &stolen), Verdict::Wrong, "submitted by another");
    let mut other = board(19);
    assert_eq!(judge(&mut other, 16, &stolen), Verdict::Wrong, "for another worker");
    assert_eq!(judge(&mut fresh, 16, &forged(&submitter, Step::Cancel, 16)), Verdict::Unknown);
    assert_eq!((state(&submitter), state(&worker)), (State::New, State::New));
}

#[test]
fn a_repeated_statement_changes_nothing_and_a_second_result_is_refused() {
    let (mut submitter, mut worker) = pair();
    for step in [Step::Accept, Step::Start, Step::Complete] {
        act(&mut worker, step).unwrap();
    }
    let second = forged(&worker, Step::Complete, 17);
    tell(&mut worker, 17, &mut submitter, 16);
    let before = submitter.get(ID).unwrap().clone();
    let result = *worker.get(ID).unwrap().last();
    for _ in 0..3 {
        let again = submitter.judge(party(17), &result, &content("done"), || Ok(()), at(9));
        assert_eq!(again, Verdict::Applied);
        let more = submitter.judge(party(17), &second, &content("done"), || Ok(()), at(9));
        assert_eq!(more, Verdict::Wrong);
        let claim = before.receipt().unwrap().claim;
        assert_eq!(submitter.judge_claim(party(17), &claim, at(9)), Ok(*before.receipt().unwrap()));
    }
    assert_eq!(*submitter.get(ID).unwrap(), before);
    // A claim with better times, about the same task.
    let head = Head::restore(&result);
    let times = Times::from_millis([1, 2, 3, u64::MAX]);
    let claim = Claim::sign(&identity(17), &REGISTRY, &head, times).unwrap();
    assert_eq!(submitter.judge_claim(party(17), &claim, at(9)), Err(Verdict::Wrong));
    let first = *submitter.get(ID).unwrap().first();
    let again = worker.judge(party(16), &first, &content("do it"), || panic!(), at(9));
    assert_eq!(again, Verdict::Applied, "a submission that is known asks nobody");
}

#[test]
fn what_a_content_may_not_be_is_refused() {
    let (_, mut worker) = pair();
    let long = "x".repeat(REASON_MAX + 1);
    let too_long = worker.act(ID, Step::Decline, &content(&long), at(1));
    assert_eq!(too_long, Err(ActError::Content));
    assert_eq!(worker.act(ID, Step::Accept, &content("text"), at(1)), Err(ActError::Content));
    let mut submitter = board(16);
    assert_eq!(submitter.submit(ID, party(17), &[], at(0)), Err(ActError::Content));
    assert_eq!(submitter.submit(ID, party(16), &content("x"), at(0)), Err(ActError::Itself));
    submitter.submit(ID, party(17), &content("do it"), at(0)).unwrap();
    let first = *submitter.get(ID).unwrap().first();
    let mut fresh = board(17);
    let other = fresh.judge(party(16), &first, &content("do that"), || Ok(()), at(1));
    assert_eq!(other, Verdict::Wrong, "the hash is of something else");
}

#[test]
fn a_cancellation_counts_when_the_worker_has_it() {
    // In time.
    let (mut submitter, mut worker) = pair();
    act(&mut submitter, Step::Cancel).unwrap();
    assert!(submitter.get(ID).unwrap().is_cancelling());
    assert_eq!(act(&mut submitter, Step::Cancel), Err(ActError::Cancelling));
    assert_eq!(tell(&mut submitter, 16, &mut worker, 17), [Verdict::Applied]);
    assert_eq!((state(&submitter), state(&worker)), (State::Cancelled, State::Cancelled));
    assert!(act(&mut worker, Step::Accept).is_err());

    // Beside a step of the worker's: it is signed again on top of that.
    let (mut submitter, mut worker) = pair();
    act(&mut submitter, Step::Cancel).unwrap();
    act(&mut worker, Step::Accept).unwrap();
    act(&mut worker, Step::Start).unwrap();
    assert_eq!(tell(&mut submitter, 16, &mut worker, 17), [Verdict::Overtaken]);
    assert_eq!(act(&mut worker, Step::Progress), Err(ActError::Cancelling));
    assert_eq!(tell(&mut worker, 17, &mut submitter, 16), [Verdict::Applied; 2]);
    assert_eq!(tell(&mut submitter, 16, &mut worker, 17), [Verdict::Applied]);
    assert_eq!((state(&submitter), state(&worker)), (State::Cancelled, State::Cancelled));

    // Too late.
    let (mut submitter, mut worker) = pair();
    act(&mut submitter, Step::Cancel).unwrap();
    act(&mut worker, Step::Decline).unwrap();
    assert_eq!(tell(&mut submitter, 16, &mut worker, 17), [Verdict::TooLate]);
    assert_eq!(tell(&mut worker, 17, &mut submitter, 16), [Verdict::Applied]);
    assert_eq!((state(&submitter), state(&worker)), (State::Declined, State::Declined));

    // Before anybody has heard of the task.
    let mut submitter = board(16);
    submitter.submit(ID, party(17), &content("do it"), at(0)).unwrap();
    act(&mut submitter, Step::Cancel).unwrap();
    assert_eq!(state(&submitter), State::Cancelled);
    assert_eq!(submitter.untold(party(17).key).count(), 0);
}

#[test]
fn a_worker_that_took_a_cancellation_cannot_end_the_task_otherwise() {
    let (mut submitter, mut worker) = pair();
    act(&mut worker, Step::Accept).unwrap();
    tell(&mut worker, 17, &mut submitter, 16);
    let start = forged(&worker, Step::Start, 17);
    act(&mut submitter, Step::Cancel).unwrap();
    tell(&mut submitter, 16, &mut worker, 17);
    let verdict = submitter.judge(party(17), &start, &[], || Ok(()), at(2));
    assert_eq!((verdict, state(&submitter)), (Verdict::Wrong, State::Cancelled));
}

#[test]
fn time_limits_are_the_published_ones_and_both_sides_are_told() {
    let (mut submitter, mut worker) = pair();
    assert_eq!(worker.deadline(), Some(at(61)));
    worker.handle_time(at(60));
    assert_eq!(state(&worker), State::New);
    worker.handle_time(at(61));
    assert_eq!(state(&worker), State::Cancelled);
    tell(&mut worker, 17, &mut submitter, 16);
    assert_eq!(state(&submitter), State::Cancelled);

    // An hour at the head of the queue: the second one's begins when the first has left.
    let (mut submitter, mut worker) = (board(16), board(17));
    let ids = [TaskId([1; 16]), TaskId([2; 16])];
    for id in ids {
        submitter.submit(id, party(17), &content("do it"), at(0)).unwrap();
    }
    tell(&mut submitter, 16, &mut worker, 17);
    worker.act(ids[0], Step::Accept, &[], at(10)).unwrap();
    worker.act(ids[1], Step::Accept, &[], at(11)).unwrap();
    assert_eq!(worker.deadline(), Some(at(3610)));
    worker.act(ids[0], Step::Start, &[], at(2000)).unwrap();
    assert_eq!(worker.deadline(), Some(at(5600)));
    // That survives a restart.
    let records: Vec<_> = worker.tasks().map(|task| worker.record(task.id()).unwrap()).collect();
    let mut worker = board(17);
    for record in &records {
        worker.restore(record).unwrap();
    }
    assert_eq!(worker.queue().map(Task::id).collect::<Vec<_>>(), [ids[1]]);
    worker.handle_time(at(5599));
    assert_eq!(worker.get(ids[1]).unwrap().state(), State::Accepted);
    worker.handle_time(at(5600));
    assert_eq!(worker.get(ids[1]).unwrap().state(), State::Expired);
    assert_eq!(worker.deadline(), None);
    tell(&mut worker, 17, &mut submitter, 16);
    assert_eq!(submitter.get(ids[1]).unwrap().state(), State::Expired);
}

#[test]
fn whoever_may_not_submit_is_told_and_keeps_no_task() {
    for (verdict, is_final) in [
        (Verdict::NotPermitted, true),
        (Verdict::Reputation, true),
        (Verdict::Full, false),
        (Verdict::Failed, false),
    ] {
        let (mut submitter, mut worker) = (board(16), board(17));
        submitter.submit(ID, party(17), &content("do it"), at(0)).unwrap();
        let first = *submitter.get(ID).unwrap().first();
        let found = worker.judge(party(16), &first, &content("do it"), || Err(verdict), at(1));
        assert_eq!((found, worker.tasks().count()), (verdict, 0));
        let again = submitter.answered(party(17).key, ID, 0, verdict, at(1));
        assert_eq!(again, !is_final, "{verdict:?}");
        let task = submitter.get(ID).unwrap();
        assert_eq!((task.refused().is_some(), task.is_settled()), (is_final, is_final));
        assert_eq!(submitter.untold(party(17).key).count(), usize::from(!is_final));
    }
}

#[test]
fn bounds_are_kept_and_the_oldest_that_ended_is_forgotten() {
    let limits =
        BoardLimits { of_peer: 2, of_all: 3, submitted: 4, settled: 2, ..BoardLimits::default() };
    let mut worker = limited(17, limits);
    let submit = |worker: &mut Board<Keys>, from: u8, n: u8| {
        let body = content("do it");
        let fields = submission(TaskId([n; 16]), party(from).key, party(17).key, at(0), &body);
        let first = Statement::sign(&identity(from), &REGISTRY, fields).unwrap();
        worker.judge(party(from), &first, &body, || Ok(()), at(u64::from(n)))
    };
    assert_eq!(submit(&mut worker, 1, 1), Verdict::Applied);
    assert_eq!(submit(&mut worker, 1, 2), Verdict::Applied);
    assert_eq!(submit(&mut worker, 1, 3), Verdict::Full, "of one peer");
    assert_eq!(submit(&mut worker, 2, 4), Verdict::Applied);
    assert_eq!(submit(&mut worker, 2, 5), Verdict::Full, "of all");
    for n in [1, 2, 4] {
        worker.act(TaskId([n; 16]), Step::Decline, &[], at(10 + u64::from(n))).unwrap();
        // One with something left to tell stays longest.
        let key = party(if n == 4 { 2 } else { 1 }).key;
        if n != 1 {
            worker.answered(key, TaskId([n; 16]), 1, Verdict::Applied, at(20));
        }
    }
    let _ = worker.take_changed().count();
    let left: Vec<_> = worker.tasks().map(Task::id).collect();
    assert_eq!(left, [TaskId([1; 16]), TaskId([4; 16])]);
    assert_eq!(worker.record(TaskId([2; 16])), None);

    let mut submitter = limited(16, limits);
    for n in 0..4 {
        submitter.submit(TaskId([n; 16]), party(17), &content("x"), at(0)).unwrap();
    }
    let more = submitter.submit(TaskId([9; 16]), party(17), &content("x"), at(0));
    assert_eq!(more, Err(ActError::Full));
    assert_eq!(
        submitter.submit(TaskId([1; 16]), party(17), &content("x"), at(0)),
        Err(ActError::Taken)
    );
    submitter.give_up(party(17).key, Verdict::NotPermitted, true, at(1));
    assert!(submitter.tasks().all(|task| task.refused() == Some(Verdict::NotPermitted)));
}

/// Nobody pushes receipts out by tasks that he submits and cancels.
#[test]
fn a_receipt_that_is_not_counted_outlives_what_others_call_off() {
    let (mut submitter, mut worker) = pair();
    for step in [Step::Accept, Step::Start, Step::Complete] {
        act(&mut worker, step).unwrap();
    }
    tell(&mut worker, 17, &mut submitter, 16);
    assert_eq!(worker.receipts().count(), 1);
    let body = content("do it");
    for n in 0..=BoardLimits::default().settled as u64 {
        let id = TaskId(core::array::from_fn(|i| if i < 8 { 0 } else { n.to_be_bytes()[i - 8] }));
        let fields = submission(id, party(18).key, party(17).key, at(0), &body);
        let first = Statement::sign(&identity(18), &REGISTRY, fields).unwrap();
        let now = at(100 + n);
        let applied = worker.judge(party(18), &first, &body, || Ok(()), now);
        assert_eq!(applied, Verdict::Applied);
        let cancel = Head::begin(&first, &REGISTRY).unwrap();
        let cancel = cancel.next(Step::Cancel, Side::Submitter, now, &[]).unwrap();
        let cancel = Statement::sign(&identity(18), &REGISTRY, cancel).unwrap();
        assert_eq!(worker.judge(party(18), &cancel, &[], || Ok(()), now), Verdict::Applied);
    }
    assert_eq!(worker.receipts().count(), 1, "it waits for the registry");
    assert_eq!(worker.tasks().count(), BoardLimits::default().settled);
    // Once it is counted it is the oldest.
    worker.counted(ID);
    let id = TaskId([7; 16]);
    worker.submit(id, party(18), &body, at(9999)).unwrap();
    worker.act(id, Step::Cancel, &[], at(9999)).unwrap();
    assert!(worker.get(ID).is_none());
}

#[test]
fn progress_that_waits_is_bounded_and_leaves_room_for_the_end() {
    let (mut submitter, mut worker) = pair();
    act(&mut worker, Step::Accept).unwrap();
    act(&mut worker, Step::Start).unwrap();
    let mut n = 0;
    while act(&mut worker, Step::Progress).is_ok() {
        n += 1;
    }
    assert!((32..UNTOLD_MAX).contains(&n), "{n}");
    act(&mut worker, Step::Complete).unwrap();
    tell(&mut worker, 17, &mut submitter, 16);
    assert_eq!(state(&submitter), State::Succeeded);
}

#[test]
fn a_stored_task_is_the_same_task_and_junk_is_none() {
    let (mut submitter, mut worker) = pair();
    for step in [Step::Accept, Step::Start, Step::Progress, Step::Complete] {
        act(&mut worker, step).unwrap();
    }
    worker.set_mark(ID, 3);
    act(&mut submitter, Step::Cancel).unwrap();
    for (board, n) in [(&submitter, 16), (&worker, 17)] {
        let record = board.record(ID).unwrap();
        let mut again = super::tests::board(n);
        assert_eq!(again.restore(&record), Ok(ID));
        let (mut before, after) = (board.get(ID).unwrap().clone(), again.get(ID).unwrap());
        before.is_offered = true;
        assert_eq!(*after, before);
        assert_eq!(again.take_changed().count(), 0);
        for cut in 0..record.len() {
            assert_eq!(again.restore(&record[..cut]), Err(BadRecord), "{cut}");
        }
    }
}

// ---- links ----

/// Both ends, and what is on its way.
#[derive(Default)]
struct Wire {
    near: Link,
    far: Link,
}

fn frames(link: &mut Link, bytes: &[u8], cut: usize) -> (Vec<String>, Result<(), TasksError>) {
    let (mut held, mut heard) = (Vec::new(), Vec::new());
    for chunk in bytes.chunks(cut) {
        held.extend_from_slice(chunk);
        loop {
            match link.handle_bytes(&held) {
                Ok((0, _)) => break,
                Ok((used, event)) => {
                    heard.push(std::format!("{event:?}"));
                    held.drain(..used);
                }
                Err(error) => return (heard, Err(error)),
            }
        }
    }
    (heard, Ok(()))
}

#[test]
fn links_carry_what_they_are_told_however_it_is_cut() {
    let (submitter, mut worker) = pair();
    for step in [Step::Accept, Step::Start, Step::Complete] {
        act(&mut worker, step).unwrap();
    }
    let claim = worker.get(ID).unwrap().claim.unwrap();
    let first = *submitter.get(ID).unwrap().first();
    let mut wire = Wire::default();
    let mut out = vec![0; FRAME_MAX];
    let mut bytes = Vec::new();
    let len = wire.near.tell(&first, &content("do it"), &mut out).unwrap();
    assert_eq!(out[..8], [0, 0, 0, TELL as u8, 0, 0, 0, (len - 8) as u8]);
    bytes.extend_from_slice(&out[..len]);
    assert!(wire.near.is_asking(ID) && !wire.near.is_idle());
    let len = wire.near.tell_claim(&claim, &mut out).unwrap();
    bytes.extend_from_slice(&out[..len]);
    let len = wire.near.ping(&mut out).unwrap();
    bytes.extend_from_slice(&out[..len]);
    for cut in [1, 7, 230, 9999] {
        let mut far = Link::new();
        let (heard, end) = frames(&mut far, &bytes, cut);
        assert_eq!((heard.len(), end), (3, Ok(())), "{cut}");
        assert!(heard[0].contains("Stated") && heard[1].contains("Claimed"));
    }
    assert_eq!(frames(&mut wire.far, &bytes, 100).1, Ok(()));
    let receipt = worker.get(ID).unwrap().receipt;
    assert!(receipt.is_none());
    let mut back = Vec::new();
    let len = wire.far.answer(Verdict::Reputation, &mut out).unwrap();
    back.extend_from_slice(&out[..len]);
    let len = wire.far.answer(Verdict::Order, &mut out).unwrap();
    back.extend_from_slice(&out[..len]);
    assert_eq!(wire.far.answer(Verdict::Applied, &mut out), Err(Misuse::Nothing));
    let (heard, end) = frames(&mut wire.near, &back, 5);
    assert_eq!((heard.len(), end), (2, Ok(())));
    assert!(heard[0].contains("Reputation") && heard[1].contains("Claim"));
    assert!(wire.near.is_idle() && wire.far.is_idle());
    // An answer to nothing.
    let (_, end) = frames(&mut wire.near, &back, 500);
    assert_eq!(end, Err(TasksError::WrongAnswer));
    assert_eq!(wire.near.handle_bytes(&back), Err(TasksError::Closed));
}

#[test]
fn lengths_and_types_are_refused_at_the_header() {
    for kind in 0..40u32 {
        let header = [&kind.to_be_bytes()[..], &[0xFF; 4]].concat();
        let known = (TELL..=PONG).contains(&kind);
        let expected =
            if known { TasksError::Malformed(kind) } else { TasksError::Unexpected(kind) };
        assert_eq!(Link::new().handle_bytes(&header), Err(expected));
        assert_eq!(HEADER, header.len());
    }
    for verdict in 0..=255 {
        assert_eq!(Verdict::from_code(verdict).code(), verdict);
    }
}

#[test]
fn an_end_that_reads_no_answers_is_not_read() {
    let (submitter, _) = pair();
    let first = *submitter.get(ID).unwrap().first();
    let (mut near, mut far) = (Link::new(), Link::new());
    let mut out = vec![0; FRAME_MAX];
    let mut bytes = Vec::new();
    for _ in 0..WINDOW {
        let len = near.tell(&first, b"", &mut out).unwrap();
        bytes.extend_from_slice(&out[..len]);
    }
    assert_eq!(near.tell(&first, b"", &mut out), Err(Misuse::Window));
    let mut again = Link::new();
    let len = again.tell(&first, b"", &mut out).unwrap();
    bytes.extend_from_slice(&out[..len]);
    let (heard, _) = frames(&mut far, &bytes, usize::MAX);
    assert_eq!(heard.len(), WINDOW);
    assert_eq!(far.handle_bytes(&out[..len]), Ok((0, None)));
    let answered = far.answer(Verdict::Applied, &mut [0; 64]).unwrap();
    assert!(answered > 0 && matches!(far.handle_bytes(&out[..len]), Ok((n, Some(_))) if n == len));
}

proptest! {
    #[test]
    fn any_bytes_give_frames_or_an_error(
        kind in 14u32..24,
        len in prop_oneof![0u32..300, any::<u32>()],
        body in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let bytes = [&kind.to_be_bytes()[..], &len.to_be_bytes(), &body].concat();
        let mut link = Link::new();
        if let Ok((used, event)) = link.handle_bytes(&bytes) {
            prop_assert!(used <= bytes.len() && (used > 0) == event.is_some());
        }
        prop_assert!(board(16).restore(&bytes).is_err());
    }

    #[test]
    fn a_flipped_bit_of_a_statement_is_not_believed(bit in 0usize..221 * 8) {
        let (submitter, _) = pair();
        let mut bytes = submitter.get(ID).unwrap().first().encode();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(statement) = Statement::decode(&bytes) {
            let mut fresh = board(17);
            let verdict = fresh.judge(party(16), &statement, &content("do it"), || Ok(()), at(1));
            prop_assert_ne!(verdict, Verdict::Applied);
            prop_assert_eq!(fresh.tasks().count(), 0);
        }
    }
}
