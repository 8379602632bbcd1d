//! Data exchange: the frames of both ends from hostile bytes, and an honest transfer.
//!
//! Oracle: how the bytes are cut into pieces changes nothing; content never exceeds what was
//! offered; a name is a base name; an honest transfer arrives whole, once, and both ends agree
//! on the hash; output is bounded and comes before anything else.

use crate::tape::Tape;
use pilot_core::service::exchange::{
    Answer, ContentHash, ExchangeError, FRAME_MAX, Failure, FileName, HashAlgorithm, Kind, Note,
    Offer, Receiver, ReceiverEvent, Refusal, Sender, SenderEvent, TransferId,
};

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    match tape.below(3) {
        0 => {
            let (cuts, choices) = (tape.array(), tape.array());
            let input = tape.rest();
            let whole = receive(input, &[u8::MAX; 8], choices);
            assert_eq!(receive(input, &cuts, choices), whole, "cutting changes nothing");
        }
        1 => {
            let (cuts, size) = (tape.array(), tape.word());
            let input = tape.rest();
            let whole = send(input, &[u8::MAX; 8], size.into());
            assert_eq!(send(input, &cuts, size.into()), whole, "cutting changes nothing");
        }
        _ => honest(&mut tape),
    }
}

/// The sizes of pieces, over and over; the largest one means all.
fn piece<'a>(input: &'a [u8], cuts: &[u8; 8], turn: &mut usize) -> &'a [u8] {
    let cut = cuts[*turn % 8];
    *turn += 1;
    let n = if cut == u8::MAX { input.len() } else { 1 + usize::from(cut) };
    &input[..n.min(input.len())]
}

/// All that the receiver made of the input: what it wrote, what it told, how it ended.
#[derive(PartialEq, Eq, Debug, Default)]
struct Heard {
    written: Vec<u8>,
    told: Vec<String>,
    content: Vec<u8>,
    error: Option<ExchangeError>,
}

fn receive(input: &[u8], cuts: &[u8; 8], choices: [u8; 4]) -> Heard {
    let (mut receiver, mut heard) = (Receiver::new(), Heard::default());
    let (mut at, mut turn, mut decided) = (0, 0, 0);
    let mut left = None;
    loop {
        assert!(receiver.output().len() <= FRAME_MAX);
        heard.written.extend(receiver.output());
        receiver.advance(receiver.output().len());
        if receiver.is_closed() {
            return heard;
        }
        let given = piece(&input[at..], cuts, &mut turn);
        let (used, event) = match receiver.handle_bytes(given) {
            Ok(step) => step,
            Err(error) => {
                assert!(receiver.is_closed());
                heard.error = Some(error);
                return heard;
            }
        };
        assert!(used <= given.len());
        at += used;
        let choice = choices[decided % 4];
        let idle = used == 0 && event.is_none();
        match event {
            Some(ReceiverEvent::Offered(offer)) => {
                decided += 1;
                assert_eq!(offer.kind.is_message(), offer.name.is_none());
                heard.told.push(format!("{offer:?}"));
                offer.name.iter().for_each(base_name);
                left = Some(offer.size);
                decide(&mut receiver, choice, offer.hash, &mut left);
            }
            Some(ReceiverEvent::Plain(plain)) => {
                decided += 1;
                heard.told.push(format!("{plain:?}"));
                plain.name.iter().for_each(base_name);
                left = Some(plain.size);
                decide(&mut receiver, choice % 2 * 2, HashAlgorithm::Blake3, &mut left);
            }
            Some(ReceiverEvent::Data(bytes)) => {
                let left = left.as_mut().expect("an offer was accepted");
                *left = left.checked_sub(bytes.len() as u64).expect("no more than was offered");
                heard.content.extend(bytes);
            }
            Some(ReceiverEvent::End { hash }) => {
                assert_eq!(left.take(), Some(0), "all of it came");
                heard.told.push(format!("end {hash:?}"));
                let result = if choice & 8 == 0 { Ok(()) } else { Err(Failure::Failed) };
                match receiver.defer() {
                    Ok(()) if choice & 16 == 0 => while receiver.settle(result).is_ok() {},
                    Ok(()) => {}
                    // A plain frame.
                    Err(_) => receiver.stored(result).expect("it ended"),
                }
            }
            Some(ReceiverEvent::Mismatch) => heard.told.push("mismatch".into()),
            None => {}
        }
        if idle && receiver.output().is_empty() && given.len() == input.len() - at {
            let end = receiver.handle_end();
            heard.told.push(format!("{end:?}"));
            return heard;
        }
    }
}

fn decide(receiver: &mut Receiver, choice: u8, hash: HashAlgorithm, left: &mut Option<u64>) {
    let prefix = || {
        let mut hash = ContentHash::new(hash);
        hash.update(&[choice][..usize::from(left.is_some_and(|n| n > 0))]);
        hash
    };
    let answer = match choice % 4 {
        0 => Answer::Send(ContentHash::new(hash)),
        1 => Answer::Send(prefix()),
        2 => Answer::Refuse(Refusal::Full),
        _ => Answer::Have,
    };
    let mut had = match &answer {
        Answer::Send(hash) => Some(hash.len()),
        _ => None,
    };
    // What comes unasked comes from its first byte.
    if receiver.answer(answer).is_err() {
        receiver.answer(Answer::Send(ContentHash::new(hash))).expect("it was offered");
        had = Some(0);
    }
    *left = had.and_then(|had| left.map(|n| n - had));
}

fn base_name(name: &FileName) {
    let text = name.as_str();
    assert!(!text.is_empty() && !text.starts_with(['.', '-', ' ']), "{text}");
    assert!(text.chars().all(|c| c != '/' && c != '\\' && !c.is_control()), "{text}");
    let second = name.numbered(text.len() as u32 * 77);
    assert_eq!(second.as_str().parse().as_ref(), Ok(&second), "a second one is as good");
}

/// What the sender made of a receiver's bytes.
#[derive(PartialEq, Eq, Debug, Default)]
struct Said {
    written: Vec<u8>,
    told: Vec<SenderEvent>,
    error: Option<ExchangeError>,
}

fn send(input: &[u8], cuts: &[u8; 8], size: u64) -> Said {
    let (mut sender, mut said) = (Sender::new(), Said::default());
    let content = vec![5; size as usize];
    let (mut at, mut turn, mut offers) = (0, 0, 0u8);
    loop {
        if sender.is_idle() && !sender.is_closed() && offers < 4 {
            sender.offer(&offer(offers, Kind::Binary, size, None)).expect("it is idle");
            offers += 1;
        }
        said.written.extend(sender.output());
        sender.advance(sender.output().len());
        if sender.is_closed() {
            return said;
        }
        let given = piece(&input[at..], cuts, &mut turn);
        match sender.handle_bytes(given) {
            Ok((used, event)) => {
                at += used;
                said.told.extend(event);
                if let Some(SenderEvent::Accepted { offset }) = event {
                    assert!(offset <= size);
                    // Of nothing there is nothing to send.
                    if size == 0 {
                        continue;
                    }
                    let rest = sender.content(&content).expect("it was accepted");
                    assert_eq!(rest.len() as u64, size - offset);
                    said.written.extend(rest);
                }
                if used == 0 && event.is_none() && given.len() == input.len() - at {
                    return said;
                }
            }
            Err(error) => {
                assert!(sender.is_closed());
                said.error = Some(error);
                return said;
            }
        }
    }
}

fn offer(n: u8, kind: Kind, size: u64, name: Option<FileName>) -> Offer {
    let hash = if size % 2 == 1 { HashAlgorithm::Blake3 } else { HashAlgorithm::Sha256 };
    Offer { id: TransferId([n; 16]), kind, size, hash, name, note: Note::cleaned(b"") }
}

fn honest(tape: &mut Tape<'_>) {
    let (had, step) = (tape.word(), 1 + usize::from(tape.byte()));
    let name = FileName::from_bytes(tape.chunk()).ok();
    let note = Note::cleaned(tape.chunk());
    let kind = if name.is_some() { Kind::File } else { Kind::Text };
    let content = tape.rest();
    let had = usize::from(had).min(content.len());
    let (mut sender, mut receiver) = (Sender::new(), Receiver::new());
    let offered = Offer { note, ..offer(1, kind, content.len() as u64, name) };
    sender.offer(&offered).expect("it is idle");
    let (mut there, mut back) = (Vec::new(), Vec::new());
    let mut stored = content[..had].to_vec();
    for _ in 0..8 + 4 * (content.len() + 2048) / step {
        there.extend(sender.output());
        sender.advance(sender.output().len());
        back.extend(receiver.output());
        receiver.advance(receiver.output().len());
        let (used, event) =
            sender.handle_bytes(&back[..step.min(back.len())]).expect("an honest receiver");
        back.drain(..used);
        match event {
            Some(SenderEvent::Accepted { offset }) => {
                assert_eq!(offset, had as u64);
                for bytes in content.chunks(step) {
                    there.extend(sender.content(bytes).expect("accepted"));
                }
            }
            Some(SenderEvent::Stored { hash }) => {
                assert_eq!(stored, content, "once and whole");
                assert_eq!(hash, ContentHash::of(offered.hash, content));
                assert!(sender.is_idle() && receiver.is_idle());
                return;
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        }
        let given = there[..step.min(there.len())].to_vec();
        let (used, event) = receiver.handle_bytes(&given).expect("an honest sender");
        there.drain(..used);
        match event {
            Some(ReceiverEvent::Offered(got)) => {
                assert_eq!(got, offered);
                let mut hash = ContentHash::new(offered.hash);
                hash.update(&stored);
                receiver.answer(Answer::Send(hash)).expect("it was offered");
            }
            Some(ReceiverEvent::Data(bytes)) => stored.extend(bytes),
            Some(ReceiverEvent::End { .. }) => receiver.stored(Ok(())).expect("it ended"),
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
    panic!("an honest transfer comes to no end");
}
