//! The outer demultiplexer's classification, the inner header and the relay frame as codecs.
//!
//! Oracle: a header that decodes has one encoding, the bytes it came from; a relay frame opens
//! only under its key, direction and channel, and only unchanged; what is inside a relay frame
//! is never STUN or another relay frame; addresses and ports print as they parse.

use crate::tape::Tape;
use pilot_core::addr::{Address, SocketAddress};
use pilot_core::limits::RELAY_HEADER;
use pilot_core::path::ChannelId;
use pilot_core::wire::frame::{
    Direction, Kind, RelayKey, classify, classify_relayed, relay_channel, unwrap, verify, wrap,
};
use pilot_core::wire::header::{Header, Protocol};

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    match tape.below(3) {
        0 => inner(tape.rest()),
        1 => relay(&mut tape),
        _ => addresses(&mut tape),
    }
}

fn inner(packet: &[u8]) {
    let Ok((header, payload)) = Header::decode(packet) else { return };
    assert_eq!(usize::from(header.length), payload.len());
    assert_eq!([&header.to_bytes()[..], payload].concat(), packet, "one encoding");
    assert_eq!(Header::decode(packet).map(|(h, _)| h), Ok(header));
    let sum = header.crc(payload);
    let summed = Header { checksum: sum, ..header };
    assert_eq!(summed.crc(payload), sum, "the sum does not cover itself");
    if header.protocol == Protocol::Stream {
        let other = Header { sequence: header.sequence ^ 1, ..header };
        assert_ne!(other.crc(payload), sum);
    }
}

fn relay(tape: &mut Tape<'_>) {
    let (key, id, bit) = (RelayKey(tape.array()), tape.long() & 0xFF_FFFF, tape.word());
    let packet = tape.rest();
    // As it came.
    let kind = classify(packet);
    if let Ok(inside) = classify_relayed(packet) {
        assert_eq!(kind, Ok(inside));
        assert!(!matches!(inside, Kind::Relay | Kind::Stun));
    }
    if kind == Ok(Kind::Relay) {
        assert!(relay_channel(packet).is_some_and(|channel| channel.0 < 1 << 24));
    }
    // As a relay frame around it.
    if packet.is_empty() || packet.len() > 60_000 {
        return;
    }
    let mut frame = [&[0; RELAY_HEADER][..], packet].concat();
    wrap(&key, Direction::ToBeacon, ChannelId(id), &mut frame);
    assert_eq!(classify(&frame), Ok(Kind::Relay));
    assert!(classify_relayed(&frame).is_err(), "no nesting");
    assert_eq!(relay_channel(&frame), Some(ChannelId(id)));
    assert!(verify(&key, Direction::FromBeacon, &frame).is_err(), "reflected");
    let bit = usize::from(bit) % (8 * (RELAY_HEADER + packet.len().min(32)));
    frame[bit / 8] ^= 1 << (bit % 8);
    assert!(verify(&key, Direction::ToBeacon, &frame).is_err(), "forged");
    frame[bit / 8] ^= 1 << (bit % 8);
    assert_eq!(
        unwrap(&key, Direction::ToBeacon, &mut frame).map(|p| p.to_vec()),
        Ok(packet.into())
    );
}

fn addresses(tape: &mut Tape<'_>) {
    let bytes = tape.array();
    let address = Address::from_bytes(bytes);
    assert_eq!(address.to_bytes(), bytes);
    assert_eq!(address.to_string().parse(), Ok(address));
    if let Ok(text) = core::str::from_utf8(tape.rest()) {
        if let Ok(address) = text.parse::<Address>() {
            assert_eq!(address.to_string().parse(), Ok(address));
        }
        if let Ok(socket) = text.parse::<SocketAddress>() {
            assert_eq!(socket.to_string().parse(), Ok(socket));
        }
    }
}
