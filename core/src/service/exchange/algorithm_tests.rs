//! Hash algorithms that one end does not know, or that do not fit.

use super::*;
use std::vec;
use std::vec::Vec;

fn offer(hash: HashAlgorithm) -> Offer {
    let name = Some("a.bin".parse().unwrap());
    Offer { id: TransferId([7; 16]), kind: Kind::File, size: 2, hash, name, note: Note::default() }
}

/// The frame of an offer whose octet of algorithm and kind is this.
fn offered(octet: u8) -> Vec<u8> {
    let mut sender = Sender::new();
    sender.offer(&offer(HashAlgorithm::Sha256)).unwrap();
    let mut frame = sender.output().to_vec();
    assert_eq!(frame[24], 4);
    frame[24] = octet;
    frame
}

fn answer(code: u8) -> Vec<u8> {
    [&[0, 0, 0, 17, 0, 0, 0, 25][..], &[7; 16], &[code], &[0; 8]].concat()
}

fn end(algorithm: u8, hash: &[u8; 32]) -> Vec<u8> {
    [&[0, 0, 0, 18, 0, 0, 0, 49][..], &[7; 16], &[algorithm], hash].concat()
}

/// A receiver that has accepted an offer and got its content.
fn receiving(hash: HashAlgorithm) -> Receiver {
    let octet = if hash == HashAlgorithm::Sha256 { 0x04 } else { 0x24 };
    let mut receiver = Receiver::new();
    let frame = offered(octet);
    let (_, event) = receiver.handle_bytes(&frame).unwrap();
    assert_eq!(event, Some(ReceiverEvent::Offered(offer(hash))));
    receiver.answer(Answer::Send(ContentHash::new(hash))).unwrap();
    assert_eq!(receiver.content_left(), 2);
    receiver.advance(usize::MAX);
    receiver.handle_bytes(b"hi").unwrap();
    assert_eq!(receiver.content_left(), 0);
    receiver
}

#[test]
fn an_algorithm_that_the_receiver_does_not_know_is_refused_and_the_stream_goes_on() {
    // 1 is written as 0, and as nothing else.
    for unknown in [0x14, 0x34, 0xf4] {
        let mut receiver = Receiver::new();
        let frame = offered(unknown);
        assert_eq!(receiver.handle_bytes(&frame).unwrap(), (frame.len(), None));
        assert_eq!(receiver.output(), answer(9));
        receiver.advance(usize::MAX);
        let frame = offered(0x24);
        let (_, event) = receiver.handle_bytes(&frame).unwrap();
        assert_eq!(event, Some(ReceiverEvent::Offered(offer(HashAlgorithm::Blake3))));
    }
    let mut receiver = Receiver::new();
    receiver.handle_bytes(&offered(0x2f)).unwrap();
    assert_eq!(receiver.output(), answer(8), "the kind comes first");
}

#[test]
fn a_pushed_message_of_an_unknown_algorithm_is_passed_over() {
    let push = |octet: u8| {
        let mut frame = vec![0, 0, 0, 20, 0, 0, 0, 28];
        frame.extend_from_slice(&[7; 16]);
        frame.extend_from_slice(&[octet, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
        frame
    };
    let mut receiver = Receiver::new();
    let bytes = [push(0x31), b"hi".to_vec(), end(3, &[9; 32])].concat();
    let mut at = 0;
    while at < bytes.len() {
        let (used, event) = receiver.handle_bytes(&bytes[at..]).unwrap();
        assert_eq!(event, None);
        at += used;
    }
    assert_eq!(receiver.output(), answer(9));
    receiver.advance(usize::MAX);
    assert!(receiver.is_idle());

    // One that is known, though we never push with it.
    let frame = push(0x21);
    let (_, event) = receiver.handle_bytes(&frame).unwrap();
    let Some(ReceiverEvent::Offered(offer)) = event else { panic!("{event:?}") };
    receiver.answer(Answer::Send(ContentHash::new(offer.hash))).unwrap();
    receiver.handle_bytes(b"hi").unwrap();
    let hash = ContentHash::of(HashAlgorithm::Blake3, b"hi");
    let frame = end(2, hash.bytes());
    let (_, event) = receiver.handle_bytes(&frame).unwrap();
    assert_eq!(event, Some(ReceiverEvent::End { hash }));
}

#[test]
fn a_receiver_that_knows_only_the_first_algorithm_is_served_with_it() {
    // The second octet is what a receiver says that takes the algorithm for a part of the kind.
    for code in [9, 8] {
        let mut sender = Sender::new();
        sender.offer(&offer(HashAlgorithm::Blake3)).unwrap();
        assert_eq!(sender.output(), offered(0x24));
        sender.advance(usize::MAX);
        assert_eq!(sender.handle_bytes(&answer(code)).unwrap(), (33, None));
        assert_eq!(sender.output(), offered(0x04));
        sender.advance(usize::MAX);
        assert!(!sender.is_idle());
        let (_, event) = sender.handle_bytes(&answer(0)).unwrap();
        assert_eq!(event, Some(SenderEvent::Accepted { offset: 0 }));
        assert_eq!((sender.content_left(), sender.known_left()), (2, 0));
        sender.content(b"hi").unwrap();
        let hash = ContentHash::of(HashAlgorithm::Sha256, b"hi");
        assert_eq!(sender.output(), end(1, hash.bytes()));
        sender.advance(usize::MAX);
        let mut receipt = end(0, hash.bytes());
        receipt[3] = 19;
        let (_, event) = sender.handle_bytes(&receipt).unwrap();
        assert_eq!(event, Some(SenderEvent::Stored { hash }));
    }
}

#[test]
fn a_receiver_that_refuses_both_algorithms_has_refused() {
    for (code, refusal) in [(9, Refusal::UnknownHash), (8, Refusal::UnknownKind)] {
        let mut sender = Sender::new();
        sender.offer(&offer(HashAlgorithm::Blake3)).unwrap();
        sender.advance(usize::MAX);
        assert_eq!(sender.handle_bytes(&answer(9)).unwrap().1, None);
        sender.advance(usize::MAX);
        let (_, event) = sender.handle_bytes(&answer(code)).unwrap();
        assert_eq!(event, Some(SenderEvent::Refused(refusal)));
        assert!(sender.is_idle());
        assert_eq!(Refusal::from_code(refusal.code()), Some(refusal));
    }
}

#[test]
fn an_end_with_another_algorithm_than_was_offered_ends_the_stream() {
    for (hash, other) in [(HashAlgorithm::Blake3, 1), (HashAlgorithm::Sha256, 2)] {
        // Not even with the hash that would be right.
        let bytes = ContentHash::of(HashAlgorithm::from_u8(other).unwrap(), b"hi");
        for algorithm in [0, other, 3, u8::MAX] {
            let mut receiver = receiving(hash);
            let frame = end(algorithm, bytes.bytes());
            let heard = receiver.handle_bytes(&frame);
            assert_eq!(heard, Err(ExchangeError::WrongHash(algorithm)));
            assert!(receiver.is_closed());
        }
    }
}

#[test]
fn the_hash_of_what_is_stored_is_of_the_algorithm_that_was_offered() {
    let mut receiver = Receiver::new();
    receiver.handle_bytes(&offered(0x24)).unwrap();
    let wrong = Answer::Send(ContentHash::new(HashAlgorithm::Sha256));
    assert_eq!(receiver.answer(wrong), Err(Misuse::Hash));
    let right = Answer::Send(ContentHash::new(HashAlgorithm::Blake3));
    assert_eq!(receiver.answer(right), Ok(()));
}
