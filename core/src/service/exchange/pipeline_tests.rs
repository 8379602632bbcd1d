//! Messages that do not wait for each other: order, bounds, and who breaks the rules.

use super::frame::{OFFER, PUSH};
use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

/// What a receiver's owner does with the n-th message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deed {
    Store,
    Defer(bool),
    Have,
    Refuse,
}

fn deed(n: u64, seed: u64) -> Deed {
    match (n.wrapping_mul(0x9E37_79B9) ^ seed) % 7 {
        0 => Deed::Store,
        1 => Deed::Have,
        2 => Deed::Refuse,
        3 => Deed::Defer(false),
        _ => Deed::Defer(true),
    }
}

fn expected(deed: Deed) -> Pushed {
    match deed {
        Deed::Store | Deed::Defer(true) => Pushed::Stored,
        Deed::Defer(false) => Pushed::NotStored(Failure::Full),
        Deed::Have => Pushed::AlreadyThere,
        Deed::Refuse => Pushed::Refused(Refusal::Full),
    }
}

fn id(n: u64) -> TransferId {
    TransferId::numbered([3; 8], n + 1).unwrap()
}

fn content(n: u64) -> Vec<u8> {
    vec![n as u8; (n * 37 % 300) as usize]
}

fn pushed(pipeline: &mut Pipeline, n: u64) -> Result<Vec<u8>, Misuse> {
    let content = content(n);
    let mut out = vec![0; content.len() + PUSH_OVERHEAD];
    let note = Note::cleaned(b"a word");
    let len = pipeline.push(id(n), Kind::Text, note, &content, &mut out)?;
    out.truncate(len);
    Ok(out)
}

/// The receiver's owner: what was stored, and what waits to be synced.
#[derive(Default)]
struct Owner {
    seed: u64,
    offered: u64,
    content: Vec<u8>,
    stored: Vec<(u64, Vec<u8>)>,
    waiting: VecDeque<u64>,
}

impl Owner {
    fn handle(&mut self, receiver: &mut Receiver, event: ReceiverEvent<'_>) {
        let n = self.offered;
        match event {
            ReceiverEvent::Offered(offer) => {
                assert_eq!((offer.id, offer.note.as_str()), (id(n), "a word"));
                let answer = match deed(n, self.seed) {
                    Deed::Have => Answer::Have,
                    Deed::Refuse => Answer::Refuse(Refusal::Full),
                    _ => Answer::Send(ContentHash::new(HashAlgorithm::Sha256)),
                };
                self.offered += u64::from(!matches!(answer, Answer::Send(_)));
                receiver.answer(answer).unwrap();
            }
            ReceiverEvent::Data(bytes) => self.content.extend_from_slice(bytes),
            ReceiverEvent::End { .. } => {
                self.offered += 1;
                self.stored.push((n, std::mem::take(&mut self.content)));
                if deed(n, self.seed) == Deed::Store {
                    receiver.stored(Ok(())).unwrap();
                } else {
                    receiver.defer().unwrap();
                    self.waiting.push_back(n);
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn settle(&mut self, receiver: &mut Receiver) {
        assert_eq!(receiver.deferred(), self.waiting.len());
        while let Some(n) = self.waiting.pop_front() {
            let is_synced = deed(n, self.seed) == Deed::Defer(true);
            receiver.settle(if is_synced { Ok(()) } else { Err(Failure::Full) }).unwrap();
        }
        assert_eq!(receiver.settle(Ok(())), Err(Misuse::State));
    }
}

proptest! {
    #[test]
    fn each_message_is_answered_once_in_order_however_bytes_are_cut_and_syncs_are_put_off(
        seed in any::<u64>(),
        step in 1usize..2000,
        patience in 1usize..40,
    ) {
        const ALL: u64 = 700;
        let (mut pipeline, mut receiver) = (Pipeline::new(), Receiver::new());
        let mut owner = Owner { seed, ..Owner::default() };
        let (mut there, mut back) = (VecDeque::new(), VecDeque::new());
        let (mut sent, mut answered, mut round) = (0, 0, 0);
        while answered < ALL {
            round += 1;
            prop_assert!(round < 200_000, "no progress after {answered}");
            while sent < ALL && there.len() < 4000 && pipeline.outstanding() < PUSHES_MAX {
                there.extend(pushed(&mut pipeline, sent).unwrap());
                sent += 1;
            }
            let piece: Vec<u8> = there.iter().take(step).copied().collect();
            let (used, event) = receiver.handle_bytes(&piece).unwrap();
            let idle = used == 0 && event.is_none();
            if let Some(event) = event {
                owner.handle(&mut receiver, event);
            }
            there.drain(..used);
            if idle || round % patience == 0 {
                owner.settle(&mut receiver);
            }
            while !receiver.output().is_empty() {
                let n = receiver.output().len().min(step);
                back.extend(&receiver.output()[..n]);
                receiver.advance(n);
            }
            let piece: Vec<u8> = back.iter().take(step).copied().collect();
            let (used, answer) = pipeline.handle_bytes(&piece).unwrap();
            back.drain(..used);
            if let Some((which, what)) = answer {
                prop_assert_eq!((which, what), (id(answered), expected(deed(answered, seed))));
                answered += 1;
            }
        }
        prop_assert!(receiver.is_idle() && pipeline.outstanding() == 0);
        for (n, found) in &owner.stored {
            prop_assert_eq!(found, &content(*n));
        }
    }
}

/// Takes all of `input` and puts off all syncs; the error, if there is one.
fn swallow(receiver: &mut Receiver, mut input: &[u8]) -> Result<(), ExchangeError> {
    loop {
        let (used, event) = receiver.handle_bytes(input)?;
        input = &input[used..];
        match event {
            Some(ReceiverEvent::Offered(_)) => {
                receiver.answer(Answer::Send(ContentHash::new(HashAlgorithm::Sha256))).unwrap();
            }
            Some(ReceiverEvent::End { .. }) => receiver.defer().unwrap(),
            Some(_) => {}
            None if used == 0 => return Ok(()),
            None => {}
        }
    }
}

#[test]
fn there_are_at_most_so_many_without_an_answer_on_both_sides() {
    let (mut pipeline, mut receiver) = (Pipeline::new(), Receiver::new());
    for n in 0..PUSHES_MAX as u64 {
        swallow(&mut receiver, &pushed(&mut pipeline, n).unwrap()).unwrap();
    }
    assert_eq!(pushed(&mut pipeline, 999), Err(Misuse::State));
    assert_eq!((receiver.deferred(), pipeline.oldest()), (PUSHES_MAX, Some(id(0))));
    assert!(!receiver.is_idle());
    // One more, by who does not count.
    let more = pushed(&mut Pipeline::new(), 999).unwrap();
    assert_eq!(swallow(&mut receiver, &more), Err(ExchangeError::Unexpected(PUSH)));
}

#[test]
fn an_offer_waits_for_all_answers() {
    let (mut pipeline, mut receiver) = (Pipeline::new(), Receiver::new());
    let push = pushed(&mut pipeline, 1).unwrap();
    let mut sender = Sender::new();
    let offer = Offer {
        id: id(9),
        kind: Kind::Text,
        size: 1,
        hash: HashAlgorithm::Sha256,
        name: None,
        note: Note::default(),
    };
    sender.offer(&offer).unwrap();
    swallow(&mut receiver, &push).unwrap();
    let early = swallow(&mut receiver, sender.output());
    assert_eq!(early, Err(ExchangeError::Unexpected(OFFER)));

    let mut receiver = Receiver::new();
    swallow(&mut receiver, &push).unwrap();
    receiver.settle(Ok(())).unwrap();
    receiver.advance(usize::MAX);
    swallow(&mut receiver, sender.output()).unwrap();
    assert_eq!(receiver.output()[..4], 17u32.to_be_bytes());
}

#[test]
fn the_layout_of_a_push_and_what_is_none() {
    let mut out = [0; 1000];
    let mut pipeline = Pipeline::new();
    let note = Note::cleaned(b"n");
    let len = pipeline.push(id(6), Kind::Json, note.clone(), b"{}", &mut out).unwrap();
    let mut expected = vec![0, 0, 0, 20, 0, 0, 0, 29];
    expected.extend(id(6).0);
    expected.extend([3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 1, b'n', b'{', b'}']);
    expected.extend([0, 0, 0, 18, 0, 0, 0, 49]);
    expected.extend(id(6).0);
    expected.push(1);
    expected.extend(ContentHash::of(HashAlgorithm::Sha256, b"{}").bytes());
    assert_eq!(out[..len], expected);

    let file = pipeline.push(id(7), Kind::File, note.clone(), b"", &mut out);
    assert_eq!(file, Err(Misuse::Name));
    let long = vec![0; PUSH_MAX + 1];
    assert_eq!(
        pipeline.push(id(7), Kind::Text, note.clone(), &long, &mut out),
        Err(Misuse::TooMuch)
    );
    let no_room = pipeline.push(id(7), Kind::Text, note, b"", &mut out[..80]);
    assert_eq!((no_room, pipeline.outstanding()), (Err(Misuse::TooMuch), 1));

    // A file, and more than may come unasked.
    for (at, byte) in [(24, 4), (30, 0x10), (33, 1)] {
        let mut bad = expected.clone();
        bad[at] = byte;
        let result = swallow(&mut Receiver::new(), &bad);
        let is_refused = matches!(result, Err(ExchangeError::Malformed(PUSH)));
        assert!(is_refused, "byte {at}: {result:?}");
    }
    // An unknown kind is refused behind its content, and what follows is understood.
    let mut unknown = expected.clone();
    unknown[24] = 15;
    let mut receiver = Receiver::new();
    assert_eq!(receiver.handle_bytes(&unknown).unwrap(), (37, None));
    swallow(&mut receiver, &unknown[37..]).unwrap();
    assert_eq!(receiver.output()[24], Refusal::UnknownKind.code());
    receiver.advance(usize::MAX);
    swallow(&mut receiver, &expected).unwrap();
    assert_eq!(receiver.deferred(), 1);
}

#[test]
fn a_wrong_content_and_wrong_answers_are_noticed() {
    let mut pipeline = Pipeline::new();
    let mut changed = pushed(&mut pipeline, 5).unwrap();
    changed[60] ^= 1;
    let mut receiver = Receiver::new();
    let mut input = &changed[..];
    let mut is_told = false;
    while !is_told {
        let (used, event) = receiver.handle_bytes(input).unwrap();
        input = &input[used..];
        match event {
            Some(ReceiverEvent::Offered(_)) => {
                receiver.answer(Answer::Send(ContentHash::new(HashAlgorithm::Sha256))).unwrap();
            }
            Some(ReceiverEvent::Mismatch) => is_told = true,
            _ => {}
        }
    }
    let (_, answer) = pipeline.handle_bytes(receiver.output()).unwrap();
    assert_eq!(answer, Some((id(5), Pushed::NotStored(Failure::HashMismatch))));

    let receipt = |which, hash: Digest| {
        let mut frame = vec![0, 0, 0, 19, 0, 0, 0, 49];
        frame.extend(id(which).0);
        frame.push(0);
        frame.extend(hash.bytes());
        frame
    };
    let mut hash = ContentHash::new(HashAlgorithm::Sha256);
    hash.update(&content(1));
    let (right, wrong) = (hash.digest(), ContentHash::new(HashAlgorithm::Sha256).digest());
    for (frame, error) in [
        (receipt(1, wrong), ExchangeError::BadAnswer),
        (receipt(2, right), ExchangeError::WrongTransfer),
    ] {
        let mut pipeline = Pipeline::new();
        pushed(&mut pipeline, 1).unwrap();
        assert_eq!(pipeline.handle_bytes(&frame), Err(error));
        assert_eq!(pipeline.handle_bytes(&receipt(1, right)), Err(ExchangeError::Closed));
        assert_eq!(pushed(&mut pipeline, 2), Err(Misuse::State));
    }
    let unasked = Pipeline::new().handle_bytes(&receipt(1, right));
    assert_eq!(unasked, Err(ExchangeError::Unexpected(19)));
    assert_eq!(Pipeline::new().handle_end(), Ok(()));
    let mut waiting = Pipeline::new();
    pushed(&mut waiting, 1).unwrap();
    assert_eq!(waiting.handle_end(), Err(ExchangeError::Truncated));
}

#[test]
fn what_is_deferred_is_settled_after_the_sender_has_said_its_last() {
    let (mut pipeline, mut receiver) = (Pipeline::new(), Receiver::new());
    for n in 0..3 {
        swallow(&mut receiver, &pushed(&mut pipeline, n).unwrap()).unwrap();
    }
    assert_eq!(receiver.handle_end(), Ok(()));
    for n in 0..3 {
        receiver.settle(Ok(())).unwrap();
        let (used, answer) = pipeline.handle_bytes(receiver.output()).unwrap();
        assert_eq!(answer, Some((id(n), Pushed::Stored)));
        receiver.advance(used);
    }
    assert!(receiver.output().is_empty());
}
