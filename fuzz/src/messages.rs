//! The bodies of control messages: what agent and beacon, and agent and registry say.
//!
//! Oracle: what decodes fits its limits and is written and read back the same; lists of a page
//! end; the id of a message that does not decode can still be told.

use crate::tape::Tape;
use pilot_core::wire::control::{
    self, CANDIDATES_MAX, FromBeacon, MESSAGE_MAX, Message, ToBeacon, message_id,
};
use pilot_core::wire::registry::{
    Answer, Envelope, EnvelopeKind, PLAINTEXT_MAX, encode_answer, encode_request,
};

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    match tape.below(4) {
        0 => to_beacon(tape.rest()),
        1 => beacon::<FromBeacon>(tape.rest()),
        2 => request(tape.rest()),
        _ => answer(tape.rest()),
    }
}

fn to_beacon(frame: &[u8]) {
    if let Ok((_, ToBeacon::Hello { candidates, .. })) = control::decode(frame) {
        assert!(candidates.len() <= CANDIDATES_MAX);
    }
    beacon::<ToBeacon>(frame);
}

fn beacon<T: Message + PartialEq + core::fmt::Debug>(frame: &[u8]) {
    let Ok((id, message)) = control::decode::<T>(frame) else { return };
    assert_eq!(message_id(frame), Some(id));
    let mut out = [0; MESSAGE_MAX];
    let n = control::encode(id, &message, &mut out).expect("a message has at most MESSAGE_MAX");
    assert_eq!(control::decode(&out[..n]), Ok((id, message)));
}

fn request(plaintext: &[u8]) {
    let Ok(envelope) = Envelope::parse(plaintext) else { return };
    let Ok(request) = envelope.request() else { return };
    assert_eq!(envelope.kind, EnvelopeKind::Request);
    let mut out = vec![0; plaintext.len().max(PLAINTEXT_MAX)];
    let n = encode_request(envelope.id, &request, &mut out).expect("not longer than it was");
    assert!(n <= plaintext.len(), "the shortest form of every number");
    let again = Envelope::parse(&out[..n]).expect("as written");
    assert_eq!((again.id, again.request()), (envelope.id, Ok(request)));
}

fn answer(plaintext: &[u8]) {
    let Ok(envelope) = Envelope::parse(plaintext) else { return };
    let Ok(answer) = envelope.answer() else { return };
    match &answer {
        Ok(Answer::Page { entries, .. }) => assert!(entries.iter().count() <= plaintext.len()),
        Ok(Answer::Mailbox { items, .. }) => assert!(items.iter().count() <= plaintext.len()),
        _ => {}
    }
    let mut out = vec![0; plaintext.len().max(PLAINTEXT_MAX)];
    let n = encode_answer(envelope.id, &answer, &mut out).expect("not longer than it was");
    let again = Envelope::parse(&out[..n]).expect("as written");
    assert_eq!((again.id, again.answer()), (envelope.id, Ok(answer)));
}
