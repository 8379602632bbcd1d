//! Both machines against each other, cut and chunked in every way, and against any bytes.

use super::*;
use proptest::prelude::*;
use std::vec::Vec;
use std::{format, vec};

const ALGORITHMS: [HashAlgorithm; 2] = [HashAlgorithm::Sha256, HashAlgorithm::Blake3];

fn offer(kind: Kind, size: u64, name: Option<&str>) -> Offer {
    Offer {
        id: TransferId([7; 16]),
        kind,
        size,
        hash: HashAlgorithm::of(kind),
        name: name.map(|n| n.parse().unwrap()),
        note: Note::cleaned(b"for you"),
    }
}

fn sha256(content: &[u8]) -> Digest {
    ContentHash::of(HashAlgorithm::Sha256, content)
}

/// What a receiver's owner keeps: stored contents, and partial ones by id.
#[derive(Default)]
struct Owner {
    current: Option<Offer>,
    partial: Vec<u8>,
    stored: Vec<(Offer, Vec<u8>)>,
    mismatches: usize,
}

impl Owner {
    fn handle(&mut self, receiver: &mut Receiver, event: ReceiverEvent<'_>) {
        match event {
            ReceiverEvent::Offered(offer) => {
                let answer = if self.stored.iter().any(|(o, _)| o.id == offer.id) {
                    Answer::Have
                } else {
                    let mut hash = ContentHash::new(offer.hash);
                    hash.update(&self.partial);
                    self.current = Some(offer);
                    Answer::Send(hash)
                };
                receiver.answer(answer).unwrap();
            }
            ReceiverEvent::Plain(PlainOffer { kind, size, name }) => {
                self.partial.clear();
                self.current = Some(Offer { kind, size, name, ..offer(kind, size, None) });
                receiver.answer(Answer::Send(ContentHash::new(HashAlgorithm::of(kind)))).unwrap();
            }
            ReceiverEvent::Data(bytes) => self.partial.extend_from_slice(bytes),
            ReceiverEvent::End { hash } => {
                let offer = self.current.take().unwrap();
                assert_eq!(hash, ContentHash::of(offer.hash, &self.partial));
                self.stored.push((offer, std::mem::take(&mut self.partial)));
                receiver.stored(Ok(())).unwrap();
            }
            ReceiverEvent::Mismatch => {
                self.partial.clear();
                self.mismatches += 1;
            }
        }
    }

    /// Feeds `input` in pieces; what the receiver writes is appended to `back`.
    fn feed(
        &mut self,
        receiver: &mut Receiver,
        mut input: &[u8],
        chunk: usize,
        back: &mut Vec<u8>,
    ) -> Result<(), ExchangeError> {
        loop {
            back.extend_from_slice(receiver.output());
            receiver.advance(receiver.output().len());
            let piece = &input[..chunk.max(1).min(input.len())];
            let (used, event) = receiver.handle_bytes(piece)?;
            input = &input[used..];
            let quiet = event.is_none() && used == 0 && receiver.output().is_empty();
            if let Some(event) = event {
                self.handle(receiver, event);
            }
            if quiet {
                return Ok(());
            }
        }
    }
}

/// Runs one transfer until it ends or `cut` bytes have gone to the receiver.
fn transfer(
    owner: &mut Owner,
    offer: &Offer,
    content: &[u8],
    chunk: usize,
    cut: usize,
) -> (Option<SenderEvent>, usize) {
    let (mut sender, mut receiver) = (Sender::new(), Receiver::new());
    let (mut to, mut back) = (Vec::new(), Vec::new());
    let (mut fed, mut carried) = (0, 0);
    let mut sending = false;
    sender.offer(offer).unwrap();
    loop {
        if sending && fed < content.len() {
            let piece = &content[fed..content.len().min(fed + chunk)];
            to.extend_from_slice(sender.content(piece).unwrap());
            fed += piece.len();
        }
        to.extend_from_slice(sender.output());
        sender.advance(sender.output().len());
        let n = to.len().min(cut - carried);
        carried += n;
        owner.feed(&mut receiver, &to[..n], chunk, &mut back).unwrap();
        if carried == cut {
            return (None, carried);
        }
        to.clear();
        let mut input = &back[..];
        loop {
            let (used, event) = sender.handle_bytes(input).unwrap();
            input = &input[used..];
            match event {
                Some(SenderEvent::Accepted { .. }) => sending = true,
                Some(event) => return (Some(event), carried),
                None if used == 0 => break,
                None => {}
            }
        }
        back.clear();
    }
}

#[test]
fn the_published_example_of_a_plain_file() {
    let bytes = data_encoding::HEXLOWER.decode(b"00000004000000090005612e7478746869").unwrap();
    for chunk in 1..=bytes.len() {
        let (mut owner, mut back) = (Owner::default(), Vec::new());
        let mut receiver = Receiver::new();
        owner.feed(&mut receiver, &bytes, chunk, &mut back).unwrap();
        let (offer, content) = &owner.stored[0];
        assert_eq!(offer.name.as_ref().unwrap().as_str(), "a.txt");
        assert_eq!(content, b"hi");
        assert_eq!(back, b"\0\0\0\x01\0\0\0\x10ACK FILE 2 bytes");
        assert!(receiver.is_idle());
    }
}

#[test]
fn plain_frames_that_are_refused_are_skipped() {
    let mut input = vec![0, 0, 0, 4, 0, 0, 0, 11, 0, 4, b'.', b'.', b'/', b'x'];
    input.extend_from_slice(b"evil!");
    input.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, b'o', b'k']);
    let mut owner = Owner::default();
    let (mut receiver, mut back) = (Receiver::new(), Vec::new());
    owner.feed(&mut receiver, &input, 3, &mut back).unwrap();
    assert_eq!(owner.stored.len(), 1);
    assert_eq!(owner.stored[0].1, b"ok");
    assert!(back.starts_with(b"\0\0\0\x01\0\0\0\x10ERR FILE"));
    assert!(back.ends_with(b"ACK TEXT 2 bytes"));
}

#[test]
fn the_layout_of_every_frame() {
    the_layout(HashAlgorithm::Sha256, 0x04, 1);
    the_layout(HashAlgorithm::Blake3, 0x24, 2);
}

fn the_layout(algorithm: HashAlgorithm, octet: u8, number: u8) {
    let digest = ContentHash::of(algorithm, b"hi");
    let mut sender = Sender::new();
    sender.offer(&Offer { hash: algorithm, ..offer(Kind::File, 2, Some("a.txt")) }).unwrap();
    let mut expected = vec![0, 0, 0, 16, 0, 0, 0, 28 + 5 + 7];
    expected.extend_from_slice(&[7; 16]);
    expected.extend_from_slice(&[octet, 0, 0, 0, 0, 0, 0, 0, 2, 5]);
    expected.extend_from_slice(b"a.txt\0\x07for you");
    assert_eq!(sender.output(), expected);
    sender.advance(expected.len());

    let mut receiver = Receiver::new();
    assert_eq!(receiver.handle_bytes(&expected).unwrap().0, expected.len());
    receiver.answer(Answer::Send(ContentHash::new(algorithm))).unwrap();
    let mut expected = vec![0, 0, 0, 17, 0, 0, 0, 25];
    expected.extend_from_slice(&[7; 16]);
    expected.extend_from_slice(&[0; 9]);
    assert_eq!(receiver.output(), expected);
    receiver.advance(expected.len());

    let (_, event) = sender.handle_bytes(&expected).unwrap();
    assert_eq!(event, Some(SenderEvent::Accepted { offset: 0 }));
    assert_eq!(sender.content(b"hi").unwrap(), b"hi");
    let mut expected = vec![0, 0, 0, 18, 0, 0, 0, 49];
    expected.extend_from_slice(&[7; 16]);
    expected.push(number);
    expected.extend_from_slice(digest.bytes());
    assert_eq!(sender.output(), expected);
    sender.advance(expected.len());

    assert_eq!(receiver.handle_bytes(b"hi").unwrap(), (2, Some(ReceiverEvent::Data(b"hi"))));
    let end = ReceiverEvent::End { hash: digest };
    assert_eq!(receiver.handle_bytes(&expected).unwrap(), (expected.len(), Some(end)));
    receiver.stored(Ok(())).unwrap();
    expected[3] = 19;
    expected[24] = 0;
    assert_eq!(receiver.output(), expected);
    let stored = SenderEvent::Stored { hash: digest };
    assert_eq!(sender.handle_bytes(&expected).unwrap(), (expected.len(), Some(stored)));
    assert!(sender.is_idle() && receiver.is_idle());
}

#[test]
fn a_transfer_cut_at_every_byte_resumes_with_what_is_there() {
    for hash in ALGORITHMS {
        resumes(&Offer { hash, ..offer(Kind::File, 100, Some("a")) });
    }
}

fn resumes(offer: &Offer) {
    let content: Vec<u8> = (0..100).collect();
    let (_, whole) = transfer(&mut Owner::default(), offer, &content, 7, usize::MAX);
    for cut in 0..whole {
        let mut owner = Owner::default();
        assert_eq!(transfer(&mut owner, offer, &content, 7, cut).0, None);
        let kept = owner.partial.len();
        let (event, carried) = transfer(&mut owner, offer, &content, 11, usize::MAX);
        assert_eq!(
            event,
            Some(SenderEvent::Stored { hash: ContentHash::of(offer.hash, &content) })
        );
        assert_eq!(carried, whole - kept, "only what is missing travels");
        assert_eq!(owner.stored.len(), 1);
        assert_eq!(owner.stored[0].1, content);
        // And once more, as after a lost receipt.
        let (event, _) = transfer(&mut owner, offer, &content, 11, usize::MAX);
        assert_eq!(event, Some(SenderEvent::AlreadyThere));
        assert_eq!(owner.stored.len(), 1);
    }
}

#[test]
fn a_changed_content_is_noticed_even_before_the_offset() {
    let offered = |hash| Offer { hash, ..offer(Kind::File, 100, Some("a")) };
    let cases = ALGORITHMS.iter().flat_map(|&hash| [1, 50, 100].map(|kept| (offered(hash), kept)));
    for (offer, kept) in cases {
        let mut owner = Owner { partial: vec![1; kept], ..Owner::default() };
        let (event, _) = transfer(&mut owner, &offer, &[2; 100], 16, usize::MAX);
        assert_eq!(event, Some(SenderEvent::NotStored(Failure::HashMismatch)));
        assert_eq!((owner.mismatches, owner.stored.len()), (1, 0));
        let (event, _) = transfer(&mut owner, &offer, &[2; 100], 16, usize::MAX);
        assert_eq!(
            event,
            Some(SenderEvent::Stored { hash: ContentHash::of(offer.hash, &[2; 100]) })
        );
    }
}

#[test]
fn refusals_leave_the_stream_usable_and_unusable_names_are_refused_by_the_machine() {
    let mut sender = Sender::new();
    sender.offer(&offer(Kind::File, 5, Some("abc"))).unwrap();
    let good = sender.output().to_vec();
    let name = good.windows(3).position(|w| w == b"abc").unwrap();
    for bad in [&b"../"[..], b"a/b", b".ab", b"a\0b", b"\xFFab"] {
        let mut frame = good.clone();
        frame[name..name + 3].copy_from_slice(bad);
        let mut receiver = Receiver::new();
        assert_eq!(receiver.handle_bytes(&frame).unwrap(), (frame.len(), None));
        assert_eq!(receiver.output()[24], Refusal::BadName.code());
        assert_eq!(receiver.handle_bytes(&good).unwrap().0, 0, "output goes first");
        receiver.advance(receiver.output().len());
        assert!(matches!(receiver.handle_bytes(&good), Ok((_, Some(ReceiverEvent::Offered(_))))));
        receiver.answer(Answer::Refuse(Refusal::Full)).unwrap();
        let mut sender = Sender::new();
        sender.offer(&offer(Kind::File, 5, Some("abc"))).unwrap();
        sender.advance(usize::MAX);
        let (_, event) = sender.handle_bytes(receiver.output()).unwrap();
        assert_eq!(event, Some(SenderEvent::Refused(Refusal::Full)));
        assert!(sender.is_idle());
    }
}

#[test]
fn an_early_receipt_closes_both_ends() {
    let (mut sender, mut receiver) = (Sender::new(), Receiver::new());
    sender.offer(&offer(Kind::Text, 1 << 40, None)).unwrap();
    receiver.handle_bytes(sender.output()).unwrap();
    sender.advance(usize::MAX);
    receiver.answer(Answer::Send(ContentHash::new(HashAlgorithm::Sha256))).unwrap();
    sender.handle_bytes(receiver.output()).unwrap();
    receiver.advance(usize::MAX);
    receiver.handle_bytes(b"some").unwrap();
    receiver.abort(Failure::Full).unwrap();
    let (_, event) = sender.handle_bytes(receiver.output()).unwrap();
    assert_eq!(event, Some(SenderEvent::NotStored(Failure::Full)));
    assert!(sender.is_closed() && receiver.is_closed());
    assert_eq!(receiver.handle_bytes(b"x"), Err(ExchangeError::Closed));
}

#[test]
fn what_does_not_belong_ends_the_stream() {
    let header = |kind: u32, len: u32| [kind.to_be_bytes(), len.to_be_bytes()].concat();
    let cases: &[(u32, u32, ExchangeError)] = &[
        (0, 0, ExchangeError::Unexpected(0)),
        (5, 0, ExchangeError::Unexpected(5)),
        (21, 0, ExchangeError::Unexpected(21)),
        (1, PLAIN_MAX + 1, ExchangeError::Malformed(1)),
        (4, 1, ExchangeError::Malformed(4)),
        (16, 27, ExchangeError::Malformed(16)),
        (16, u32::MAX, ExchangeError::Malformed(16)),
        (16, 28 + 255 + 512 + 1, ExchangeError::Malformed(16)),
        (20, 27, ExchangeError::Malformed(20)),
        (17, 24, ExchangeError::Malformed(17)),
        (18, 50, ExchangeError::Malformed(18)),
    ];
    for &(kind, len, error) in cases {
        assert_eq!(Receiver::new().handle_bytes(&header(kind, len)), Err(error));
        assert_eq!(Sender::new().handle_bytes(&header(kind, len)), Err(error));
    }
    for (kind, len) in [(17u32, 25), (18, 49), (19, 49)] {
        let mut frame = header(kind, len);
        frame.resize(8 + len as usize, 1);
        assert_eq!(Receiver::new().handle_bytes(&frame), Err(ExchangeError::Unexpected(kind)));
    }
    // A plain file whose name is longer than the frame.
    let frame = [header(4, 6), vec![0, 5, b'a']].concat();
    assert_eq!(Receiver::new().handle_bytes(&frame), Err(ExchangeError::Malformed(4)));
    // Streams that end in the middle.
    let mut receiver = Receiver::new();
    receiver.handle_bytes(&[0]).unwrap();
    assert_eq!(receiver.handle_end(), Err(ExchangeError::Truncated));
    assert_eq!(Receiver::new().handle_end(), Ok(()));
}

#[test]
fn answers_and_receipts_must_fit() {
    let accepted = |id: u8, offset: u64| {
        let mut answer = vec![0, 0, 0, 17, 0, 0, 0, 25];
        answer.extend_from_slice(&[id; 16]);
        answer.push(0);
        answer.extend_from_slice(&offset.to_be_bytes());
        answer
    };
    let receipt = |id: u8, hash: Digest| {
        let mut receipt = vec![0, 0, 0, 19, 0, 0, 0, 49];
        receipt.extend_from_slice(&[id; 16]);
        receipt.push(0);
        receipt.extend_from_slice(hash.bytes());
        receipt
    };
    let offered = || {
        let mut sender = Sender::new();
        sender.offer(&offer(Kind::Text, 2, None)).unwrap();
        sender.advance(usize::MAX);
        sender
    };
    let wrong = Err(ExchangeError::BadAnswer);
    assert_eq!(offered().handle_bytes(&accepted(7, 3)), wrong);
    assert_eq!(offered().handle_bytes(&accepted(8, 0)), Err(ExchangeError::WrongTransfer));
    let mut sender = offered();
    sender.handle_bytes(&accepted(7, 0)).unwrap();
    // Nobody can have stored what was not sent.
    assert_eq!(sender.handle_bytes(&receipt(7, sha256(b"hi"))), wrong);
    let mut sender = offered();
    sender.handle_bytes(&accepted(7, 0)).unwrap();
    assert_eq!(sender.content(b"hi!"), Err(Misuse::TooMuch));
    sender.content(b"hi").unwrap();
    sender.advance(usize::MAX);
    assert_eq!(sender.handle_bytes(&receipt(7, sha256(b"ho"))), wrong);
}

#[test]
fn calls_out_of_order_change_nothing() {
    let mut receiver = Receiver::new();
    assert_eq!(receiver.answer(Answer::Have), Err(Misuse::State));
    assert_eq!(receiver.stored(Ok(())), Err(Misuse::State));
    assert_eq!(receiver.abort(Failure::Full), Err(Misuse::State));
    let mut sender = Sender::new();
    assert_eq!(sender.content(b"x"), Err(Misuse::State));
    assert_eq!(sender.offer(&offer(Kind::File, 1, None)), Err(Misuse::Name));
    assert_eq!(sender.offer(&offer(Kind::Text, 1, Some("a"))), Err(Misuse::Name));
    assert!(receiver.is_idle() && sender.is_idle());
    let id = TransferId([0xAB; 16]);
    assert_eq!(format!("{id}").parse(), Ok(id));
    assert!("+b".repeat(16).parse::<TransferId>().is_err());
}

proptest! {
    #[test]
    fn any_chunking_and_any_cuts_deliver_once(
        content in prop::collection::vec(any::<u8>(), 0..600),
        chunk in 1usize..64,
        cuts in prop::collection::vec(0usize..900, 0..6),
        message: bool,
        blake3: bool,
    ) {
        let (kind, name) = if message { (Kind::Json, None) } else { (Kind::File, Some("x.y")) };
        let hash = ALGORITHMS[usize::from(blake3)];
        let offer = Offer { hash, ..offer(kind, content.len() as u64, name) };
        let mut owner = Owner::default();
        for cut in cuts {
            transfer(&mut owner, &offer, &content, chunk, cut);
        }
        let (event, _) = transfer(&mut owner, &offer, &content, chunk, usize::MAX);
        let stored = SenderEvent::Stored { hash: ContentHash::of(offer.hash, &content) };
        prop_assert!(event == Some(stored) || event == Some(SenderEvent::AlreadyThere));
        prop_assert_eq!(owner.stored.len(), 1);
        prop_assert_eq!(&owner.stored[0], &(offer, content));
    }

    #[test]
    fn any_bytes_end_in_an_event_or_error(
        frames in prop::collection::vec(
            (prop_oneof![0u32..24, any::<u32>()], prop::option::of(0u32..900),
             prop::collection::vec(any::<u8>(), 0..900)), 1..8),
        chunk in 1usize..100,
    ) {
        let mut input = Vec::new();
        for (kind, len, body) in frames {
            input.extend_from_slice(&kind.to_be_bytes());
            input.extend_from_slice(&len.unwrap_or(body.len() as u32).to_be_bytes());
            input.extend_from_slice(&body);
        }
        let (mut owner, mut back) = (Owner::default(), Vec::new());
        let _ = owner.feed(&mut Receiver::new(), &input, chunk, &mut back);
        for (offer, content) in &owner.stored {
            prop_assert_eq!(offer.size, content.len() as u64);
            prop_assert_eq!(offer.kind.is_message(), offer.name.is_none());
        }
        let mut sender = Sender::new();
        let _ = sender.handle_bytes(&input);
    }
}
