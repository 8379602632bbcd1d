//! STUN as a codec (RFC 8489, RFC 5780).
//!
//! Oracle: what decodes is written and read back the same, within the stated length; an answer
//! is not longer than three times its request, IP and UDP headers counted (`wire.md` 7); a
//! message is a request or an answer, never both.

use crate::tape::Tape;
use core::net::SocketAddr;
use pilot_core::wire::stun::{
    Change, MESSAGE_MAX, REQUEST_MAX, Request, Response, StunError, decode_request,
    decode_response, encode_no_change, encode_request, encode_response, encode_unknown, is_request,
    transaction,
};

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    if tape.flag() { structured(&mut tape) } else { bytes(tape.rest()) }
}

fn bytes(message: &[u8]) {
    let mut out = [0; MESSAGE_MAX];
    let request = decode_request(message);
    let response = decode_response(message);
    assert!(request.is_err() || response.is_err());
    match request {
        Ok(request) => {
            assert!(is_request(message));
            assert_eq!(transaction(message), Some(request.transaction));
            let n = encode_request(request.transaction, request.change, &mut out).expect("it fits");
            assert!(n <= REQUEST_MAX);
            let again = Request { fingerprint: false, ..request };
            assert_eq!(decode_request(&out[..n]), Ok(again));
        }
        Err(StunError::Unknown(attribute)) => {
            let id = transaction(message).expect("it has a header");
            let n = encode_unknown(id, attribute, &mut out).expect("it fits");
            assert_eq!(decode_response(&out[..n]), Err(StunError::Refused(420)));
            assert!(n + 28 <= 3 * (message.len() + 28));
        }
        Err(_) => {}
    }
    if let Ok(response) = response {
        respond(&response, false);
        respond(&response, true);
    }
}

fn respond(response: &Response, fingerprint: bool) {
    let mut out = [0; MESSAGE_MAX];
    let n = encode_response(response, fingerprint, &mut out).expect("it fits");
    assert_eq!(n % 4, 0);
    assert_eq!(decode_response(&out[..n]).as_ref(), Ok(response));
    // The shortest request is a header alone.
    assert!(n + 28 <= 3 * (20 + 28));
    if fingerprint {
        for bit in [8 * 9, 8 * (n - 12), 8 * (n - 1)] {
            let mut forged = out;
            forged[bit / 8] ^= 1;
            assert_ne!(decode_response(&forged[..n]).as_ref(), Ok(response));
        }
    }
}

fn structured(tape: &mut Tape<'_>) {
    let id = tape.array();
    let change = Change { ip: tape.flag(), port: tape.flag() };
    let mut out = [0; MESSAGE_MAX];
    let n = encode_request(id, change, &mut out).expect("it fits");
    let request = Request { transaction: id, change, fingerprint: false };
    assert_eq!(decode_request(&out[..n]), Ok(request));
    let n = encode_no_change(id, &mut out).expect("it fits");
    assert_eq!(decode_response(&out[..n]), Err(StunError::Refused(420)));
    let mapped = address(tape);
    let mut maybe = || tape.flag().then(|| address(tape));
    let (origin, other) = (maybe(), maybe());
    let response = Response { transaction: id, mapped, origin, other };
    respond(&response, tape.flag());
    // A buffer that is too short is refused, never overrun.
    let mut short = vec![0; usize::from(tape.byte())];
    if let Some(n) = encode_response(&response, true, &mut short) {
        assert!(n <= short.len());
    }
}

fn address(tape: &mut Tape<'_>) -> SocketAddr {
    let port = tape.word();
    if tape.flag() {
        SocketAddr::from((tape.array::<16>(), port))
    } else {
        SocketAddr::from((tape.array::<4>(), port))
    }
}
