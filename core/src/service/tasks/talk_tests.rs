//! Two talks over a stream that is cut in every way, their timers and their bounds.

use super::tests::{ID, REGISTRY, at, board, content, identity, limited, party};
use super::*;
use crate::crypto::task::{STATEMENT, State, Statement, StatementFields, Step, TaskId};
use crate::time::{Duration, Instant};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

#[derive(Default)]
struct Kept {
    contents: BTreeMap<(TaskId, About), Vec<u8>>,
    is_lost: bool,
    /// How often one was kept.
    count: usize,
}

impl Contents for Kept {
    fn keep(&mut self, id: TaskId, about: About, content: &[u8]) {
        self.count += 1;
        self.contents.insert((id, about), content.to_vec());
    }

    fn get(&mut self, id: TaskId, about: About) -> Option<Vec<u8>> {
        self.contents.get(&(id, about)).filter(|_| !self.is_lost).cloned()
    }
}

struct End {
    board: Board<Keys>,
    kept: Kept,
    talk: Talk,
    news: News,
}

fn ms(ms: u64) -> Instant {
    Instant::START + Duration::from_millis(ms)
}

fn turn(now: Instant) -> Turn {
    Turn { now, unix: at(1), is_teller: true, admitted: Some(Ok(())) }
}

impl End {
    fn new(n: u8, peer: u8) -> End {
        let talk = Talk::new(party(peer), n < peer, ms(0));
        End { board: board(n), kept: Kept::default(), talk, news: News::default() }
    }

    fn submit(&mut self, id: TaskId, to: u8) {
        self.board.submit(id, party(to), &content("do it"), at(0)).unwrap();
        self.kept.keep(id, About::Work, &content("do it"));
    }

    fn act(&mut self, id: TaskId, step: Step, text: &str) {
        self.board.act(id, step, &content(text), at(1)).unwrap();
        if let Some(about) = About::of(step) {
            self.kept.keep(id, about, &content(text));
        }
    }

    fn work(&mut self, turn: Turn) -> Result<Worked, TasksError> {
        self.talk.work(&mut self.board, &mut self.kept, turn)
    }

    /// Works, and has it stored.
    fn settle(&mut self, now: Instant) {
        assert_eq!(self.work(turn(now)), Ok(Worked::Done));
        self.store();
    }

    fn store(&mut self) {
        for id in self.board.take_changed() {
            self.news.note(&self.board, id);
        }
        self.news.handle_stored();
        self.talk.release();
    }

    fn what(&mut self) -> Option<What> {
        self.news.poll().map(|event| event.what)
    }
}

/// Moves at most `n` bytes; whether there were some.
fn carry(from: &mut End, to: &mut End, n: usize, now: Instant) -> bool {
    let n = n.min(from.talk.output().len()).min(to.talk.room());
    assert_eq!(to.talk.handle_bytes(now, &from.talk.output()[..n]), n);
    from.talk.advance(n);
    n > 0
}

fn until_quiet(a: &mut End, b: &mut End, now: Instant, mut cut: impl FnMut() -> usize) {
    loop {
        a.settle(now);
        b.settle(now);
        let there = carry(a, b, cut(), now);
        if !carry(b, a, cut(), now) & !there && !a.talk.is_withheld() {
            return;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn tasks_go_from_end_to_end_however_the_stream_is_cut(
        count in 1u8..90,
        cuts in prop::collection::vec(1usize..4000, 1..20),
    ) {
        let (mut a, mut b) = (End::new(16, 17), End::new(17, 16));
        let ids: Vec<_> = (0..count).map(|n| TaskId([n; 16])).collect();
        ids.iter().for_each(|id| a.submit(*id, 17));
        let mut at = 0;
        let mut cut = || { at += 1; cuts[at % cuts.len()] };
        until_quiet(&mut a, &mut b, ms(1), &mut cut);
        for id in &ids {
            prop_assert_eq!(b.what(), Some(What::Submitted));
            b.act(*id, Step::Accept, "");
            b.act(*id, Step::Start, "");
            b.act(*id, Step::Progress, "half");
        }
        prop_assert_eq!(b.what(), None);
        until_quiet(&mut a, &mut b, ms(2), &mut cut);
        for id in &ids {
            prop_assert_eq!(a.what(), Some(What::Progress("half".into())));
            b.act(*id, Step::Complete, "done");
        }
        until_quiet(&mut a, &mut b, ms(3), &mut cut);
        for id in &ids {
            let (ours, theirs) = (a.board.get(*id).unwrap(), b.board.get(*id).unwrap());
            prop_assert_eq!((ours.state(), ours.last()), (State::Succeeded, theirs.last()));
            prop_assert!(ours.receipt().is_some() && ours.receipt() == theirs.receipt());
            prop_assert!(ours.is_told() && theirs.is_told());
            prop_assert_eq!(&a.kept.contents[&(*id, About::End)], &content("done"));
            prop_assert_eq!(&b.kept.contents[&(*id, About::Work)], &content("do it"));
        }
        let mut told = [0; 2];
        while let Some(what) = a.what() {
            told[usize::from(matches!(what, What::Receipted(_)))] += 1;
            prop_assert!(matches!(what, What::Succeeded | What::Receipted(_)));
        }
        prop_assert_eq!(told, [usize::from(count); 2]);
    }

    #[test]
    fn any_bytes_are_bounded_and_change_nothing_that_is_not_signed(
        chunks in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            (16u32..22, prop_oneof![Just(4u32), Just(17), Just(209), Just(305), 0u32..2000])
                .prop_map(|(kind, len)| {
                    let mut frame = [kind.to_be_bytes(), len.to_be_bytes()].concat();
                    frame.resize(8 + len as usize, 1);
                    frame
                }),
        ], 0..20),
    ) {
        let mut a = End::new(16, 17);
        a.submit(ID, 17);
        a.settle(ms(0));
        let before = a.board.get(ID).unwrap().clone();
        for chunk in chunks {
            let room = a.talk.room();
            prop_assert_eq!(a.talk.handle_bytes(ms(1), &chunk), chunk.len().min(room));
            if a.work(turn(ms(1))).is_err() {
                break;
            }
            a.talk.release();
            prop_assert!(a.talk.output().len() <= OUTPUT_MAX);
        }
        prop_assert_eq!(a.board.tasks().count(), 1);
        // An answer with a good form may refuse it; nothing else may happen.
        let after = a.board.get(ID).unwrap();
        prop_assert!(after == &before || after.refused().is_some());
        prop_assert_eq!(after.state(), State::New);
    }
}

#[test]
fn nothing_is_written_before_what_it_says_is_durable() {
    let (mut a, mut b) = (End::new(16, 17), End::new(17, 16));
    a.submit(ID, 17);
    assert_eq!(a.work(turn(ms(0))), Ok(Worked::Done));
    assert!(a.talk.output().is_empty() && a.talk.is_withheld());
    // A timer's ping goes behind it, and not out.
    a.talk.handle_time(ms(20_000));
    assert!(a.talk.output().is_empty());
    a.store();
    assert!(!a.talk.output().is_empty() && !a.talk.is_withheld());
    carry(&mut a, &mut b, usize::MAX, ms(1));
    assert_eq!(b.work(turn(ms(1))), Ok(Worked::Done));
    assert!(b.board.get(ID).is_some() && b.talk.output().is_empty(), "not durable yet");
    b.store();
    assert!(!b.talk.output().is_empty());
}

#[test]
fn a_submission_waits_until_it_is_known_whether_it_is_welcome() {
    let (mut a, mut b) = (End::new(16, 17), End::new(17, 16));
    a.submit(ID, 17);
    a.settle(ms(0));
    carry(&mut a, &mut b, usize::MAX, ms(0));
    let unknown = Turn { admitted: None, ..turn(ms(0)) };
    for _ in 0..3 {
        assert_eq!(b.work(unknown), Ok(Worked::Admit));
        assert_eq!(b.board.tasks().count(), 0);
    }
    let refused = Turn { admitted: Some(Err(Verdict::NotPermitted)), ..turn(ms(0)) };
    assert_eq!(b.work(refused), Ok(Worked::Done));
    b.store();
    carry(&mut b, &mut a, usize::MAX, ms(0));
    a.settle(ms(0));
    assert_eq!(a.board.get(ID).unwrap().refused(), Some(Verdict::NotPermitted));
    assert_eq!(a.what(), Some(What::Refused(Verdict::NotPermitted)));
    assert_eq!(b.board.tasks().count(), 0);
}

#[test]
fn what_there_was_no_room_for_is_told_again_after_five_seconds() {
    let (mut a, mut b) = (End::new(16, 17), End::new(17, 16));
    b.board = limited(17, BoardLimits { of_peer: 1, ..BoardLimits::default() });
    let second = TaskId([6; 16]);
    a.submit(ID, 17);
    a.submit(second, 17);
    until_quiet(&mut a, &mut b, ms(0), || 999);
    assert!(b.board.get(second).is_none());
    assert_eq!(a.talk.deadline(), ms(5000));
    b.act(ID, Step::Decline, "no");
    a.talk.handle_time(ms(4999));
    until_quiet(&mut a, &mut b, ms(4999), || 999);
    assert!(b.board.get(second).is_none());
    a.talk.handle_time(ms(5000));
    until_quiet(&mut a, &mut b, ms(5000), || 999);
    assert!(b.board.get(second).is_some());

    // The same of a content that cannot be read now.
    let (mut a, mut b) = (End::new(16, 17), End::new(17, 16));
    a.submit(ID, 17);
    a.kept.is_lost = true;
    until_quiet(&mut a, &mut b, ms(0), || 999);
    a.kept.is_lost = false;
    until_quiet(&mut a, &mut b, ms(1), || 999);
    assert!(b.board.get(ID).is_none());
    a.talk.handle_time(ms(5000));
    until_quiet(&mut a, &mut b, ms(5000), || 999);
    assert!(b.board.get(ID).is_some());
}

#[test]
fn what_is_due_between_the_timer_and_the_work_is_told() {
    let (mut a, mut b) = (End::new(16, 17), End::new(17, 16));
    b.board = limited(17, BoardLimits { of_peer: 0, ..BoardLimits::default() });
    a.submit(ID, 17);
    until_quiet(&mut a, &mut b, ms(0), || 999);
    assert_eq!((a.talk.deadline(), a.talk.output().len()), (ms(5000), 0));
    a.talk.handle_time(ms(4999));
    a.settle(ms(4999));
    a.settle(ms(5000));
    assert!(!a.talk.output().is_empty());
}

/// A frame that tells this.
fn told(statement: &Statement, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; frame::FRAME_MAX];
    let len = Link::new().tell(statement, content, &mut frame).unwrap();
    frame.truncate(len);
    frame
}

#[test]
fn no_result_takes_the_place_of_another() {
    let (mut a, mut b) = (End::new(16, 17), End::new(17, 16));
    a.submit(ID, 17);
    until_quiet(&mut a, &mut b, ms(0), || 999);
    b.act(ID, Step::Accept, "");
    b.act(ID, Step::Start, "");
    let begun = *b.board.get(ID).unwrap().last();
    b.act(ID, Step::Complete, "done");
    until_quiet(&mut a, &mut b, ms(1), || 999);
    let task = a.board.get(ID).unwrap().clone();
    assert!(task.state() == State::Succeeded && task.receipt().is_some());
    let (done, other) = (content("done"), content("other"));
    let fields = StatementFields {
        seq: 1,
        step: Step::Complete,
        body: crate::crypto::kdf::sha256(&[&other]),
        ..task.last().fields
    };
    let signed = Statement::sign(&identity(17), &REGISTRY, fields).unwrap();
    let mut forged = signed.encode();
    forged[STATEMENT - 64..].fill(7);
    let forged = Statement::decode(&forged).unwrap();
    let kept = a.kept.count;
    for (statement, content) in [(&forged, &other[..]), (&signed, &other), (&begun, &[])] {
        let frame = told(statement, content);
        assert_eq!(a.talk.handle_bytes(ms(2), &frame), frame.len());
        a.settle(ms(2));
        assert_eq!(a.board.get(ID), Some(&task));
        assert_eq!((&a.kept.contents[&(ID, About::End)], a.kept.count), (&done, kept));
    }
    // The one that it has may come again, with what it is about.
    let frame = told(task.last(), &done);
    assert_eq!(a.talk.handle_bytes(ms(3), &frame), frame.len());
    a.settle(ms(3));
    assert_eq!(a.kept.contents[&(ID, About::End)], done);
}

#[test]
fn only_the_one_that_tells_tells() {
    let mut a = End::new(16, 17);
    a.submit(ID, 17);
    let other = Turn { is_teller: false, ..turn(ms(0)) };
    assert_eq!(a.work(other), Ok(Worked::Done));
    a.talk.release();
    assert!(a.talk.output().is_empty());
    a.settle(ms(0));
    assert!(!a.talk.output().is_empty());
}

#[test]
fn who_opened_pings_and_closes_and_both_give_up_a_silent_end() {
    let (mut a, mut b) = (End::new(16, 17), End::new(17, 16));
    a.submit(ID, 17);
    until_quiet(&mut a, &mut b, ms(0), || 999);
    // While a task is open: a ping every 20 s, which is answered.
    for n in 1..10 {
        assert_eq!(a.talk.deadline(), ms(n * 20_000));
        a.talk.handle_time(ms(n * 20_000));
        assert_eq!(a.talk.output().len(), 12);
        until_quiet(&mut a, &mut b, ms(n * 20_000), || 5);
        b.talk.handle_time(ms(n * 20_000));
        assert_eq!((a.talk.end(), b.talk.end()), (None, None));
    }
    // Then nothing: 5 s later the one that has opened it ends it.
    b.act(ID, Step::Decline, "no");
    until_quiet(&mut a, &mut b, ms(181_000), || 999);
    assert_eq!(a.talk.deadline(), ms(186_000));
    a.talk.handle_time(ms(185_999));
    assert_eq!(a.talk.end(), None);
    a.talk.handle_time(ms(186_000));
    assert_eq!(a.talk.end(), Some(TalkEnd::Finished));
    assert_eq!(b.talk.deadline(), ms(241_000), "60 s after the last word");
    b.talk.handle_time(ms(240_999));
    assert_eq!(b.talk.end(), None);
    b.talk.handle_time(ms(241_000));
    assert_eq!(b.talk.end(), Some(TalkEnd::Silent));
}

#[test]
fn what_an_end_said_before_it_ended_counts() {
    let (mut a, mut b) = (End::new(16, 17), End::new(17, 16));
    a.submit(ID, 17);
    a.settle(ms(0));
    carry(&mut a, &mut b, usize::MAX, ms(0));
    b.talk.handle_end();
    b.settle(ms(0));
    assert_eq!(b.talk.end(), Some(TalkEnd::Finished));
    assert_eq!(b.board.get(ID).unwrap().state(), State::New);
    assert!(!b.talk.output().is_empty(), "and is answered");
}

#[test]
fn who_reads_no_answers_is_not_heard_and_loses_nothing() {
    let mut b = End::new(17, 16);
    let ping = [0, 0, 0, 20, 0, 0, 0, 4, 0, 0, 0, 9];
    let many = vec![ping; 20_000].concat();
    let (mut given, mut taken) = (0, 0);
    loop {
        let n = b.talk.handle_bytes(ms(0), &many[given % 12..][..many.len() - 12]);
        given += n;
        b.settle(ms(0));
        if n == 0 {
            break;
        }
    }
    let len = b.talk.output().len();
    assert!(len <= OUTPUT_MAX && len + 1000 > OUTPUT_MAX, "{len}");
    assert!((1..=OUTPUT_MAX + INPUT_MAX).contains(&given) && b.talk.room() == 0);
    while taken < given / 12 * 12 {
        let n = b.talk.output().len().min(1000);
        assert!(
            b.talk.output()[..n.min(8)] == [0, 0, 0, 21, 0, 0, 0, 4][..n.min(8)] || taken % 12 > 0
        );
        b.talk.advance(n);
        taken += n;
        b.settle(ms(0));
    }
    assert_eq!((b.talk.output().len(), b.talk.room()), (0, INPUT_MAX - given % 12));
}

#[test]
fn after_a_start_what_awaits_an_answer_is_news_again() {
    let (mut a, mut b) = (End::new(16, 17), End::new(17, 16));
    a.submit(ID, 17);
    until_quiet(&mut a, &mut b, ms(0), || 999);
    for (is_accepted, expected) in [(false, Some(What::Submitted)), (true, None)] {
        let mut news = News::default();
        let mut again = board(17);
        if is_accepted {
            b.act(ID, Step::Accept, "");
        }
        again.restore(&b.board.record(ID).unwrap()).unwrap();
        news.begin(&again);
        assert_eq!(news.poll().map(|event| event.what), expected);
    }
    a.board.act(ID, Step::Cancel, &[], at(1)).unwrap();
    until_quiet(&mut a, &mut b, ms(1), || 999);
    until_quiet(&mut a, &mut b, ms(1), || 999);
    assert_eq!((a.what(), b.what()), (Some(What::Cancelled), Some(What::Cancelled)));
}

#[test]
fn news_that_was_not_stored_is_none() {
    let (mut a, mut b) = (End::new(16, 17), End::new(17, 16));
    a.submit(ID, 17);
    until_quiet(&mut a, &mut b, ms(0), || 999);
    assert_eq!(b.what(), Some(What::Submitted));
    let before = b.board.record(ID).unwrap();
    a.board.act(ID, Step::Cancel, &[], at(1)).unwrap();
    for is_stored in [false, true] {
        let cancel = *a.board.get(ID).unwrap().cancel.as_ref().unwrap();
        let verdict = b.board.judge(party(16), &cancel, &[], || Ok(()), at(1));
        assert_eq!((verdict, b.what()), (Verdict::Applied, None));
        b.board.take_changed().for_each(|id| b.news.note(&b.board, id));
        assert_eq!(b.what(), None, "not durable yet");
        if is_stored {
            assert!(b.news.handle_stored());
            assert_eq!(b.what(), Some(What::Cancelled));
        } else {
            b.board.restore(&before).unwrap();
            b.news.handle_not_stored(&b.board, [ID]);
            assert!(!b.news.handle_stored());
        }
    }
}
