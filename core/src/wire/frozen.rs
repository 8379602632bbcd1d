//! The bytes of one value of each message kind, frozen: what fails here breaks every agent in
//! the field. New kinds are appended; old lines never change.

use super::control::{self, *};
use super::registry::{self, *};
use super::*;
use crate::addr::{Address, NetworkId, NodeId};
use crate::name::{Hostname, parse_tags};
use crate::path::ChannelId;
use heapless::Vec;
use proptest::prelude::*;
use std::format;
use std::string::String;
use std::vec::Vec as StdVec;

fn address() -> Address {
    Address::new(NetworkId(1), NodeId(0x17))
}

fn endpoint() -> Endpoint {
    Endpoint { kind: EndpointKind::Observed, address: "192.0.2.1:4000".parse().unwrap() }
}

fn info() -> ChannelInfo {
    ChannelInfo {
        channel: ChannelId(0xAB_CDEF),
        peer: address(),
        identity: Bytes([7; 32]),
        observed: "[2001:db8::1]:4000".parse().unwrap(),
        key: Bytes([8; 16]),
    }
}

/// Runs of five and more equal bytes are written as `xx*n`, so that lines stay readable.
fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut i = 0;
    while i < bytes.len() {
        let run = bytes[i..].iter().take_while(|b| **b == bytes[i]).count();
        if run >= 5 {
            out += &format!("{:02x}*{run}.", bytes[i]);
            i += run;
        } else {
            out += &format!("{:02x}", bytes[i]);
            i += 1;
        }
    }
    out
}

fn compare(actual: &[String], expected: &str) {
    let expected: StdVec<&str> = expected.split_whitespace().collect();
    assert_eq!(actual, expected, "got:\n{}", actual.join("\n"));
}

#[test]
fn to_beacon() {
    let candidates = Candidates::from_slice(&[endpoint()]).unwrap();
    let messages = [
        ToBeacon::Hello { address: address(), boot_id: 300, candidates, nat: 5 },
        ToBeacon::Keepalive { candidates: None, nat: Some(5) },
        ToBeacon::Bind { grant: Bytes([9; 156]) },
        ToBeacon::BoundAck { channel: ChannelId(5) },
        ToBeacon::Release { channel: ChannelId(5) },
    ];
    let mut lines = StdVec::new();
    for message in &messages {
        let mut out = [0; MESSAGE_MAX];
        let n = control::encode(0x0102, message, &mut out).unwrap();
        assert_eq!(control::decode::<ToBeacon>(&out[..n]).unwrap(), (0x0102, message.clone()));
        lines.push(hex(&out[..n]));
    }
    compare(&lines, include_str!("frozen/to_beacon.txt"));
}

#[test]
fn from_beacon() {
    let observed = endpoint().address;
    let alternates = heapless::Vec::from_slice(&[observed]).unwrap();
    let messages = [
        FromBeacon::HelloAck { observed, alternates, waiting: true },
        FromBeacon::KeepaliveAck { observed, waiting: false },
        FromBeacon::Waiting,
        FromBeacon::Channel(info()),
        FromBeacon::Bound(info()),
        FromBeacon::Unbound { channel: ChannelId(5) },
        FromBeacon::Fenced,
        FromBeacon::Error { error: BeaconError::Offline, retry_ms: 1000 },
    ];
    let mut lines = StdVec::new();
    for message in &messages {
        let mut out = [0; MESSAGE_MAX];
        let n = control::encode(0x0102, message, &mut out).unwrap();
        assert_eq!(control::decode::<FromBeacon>(&out[..n]).unwrap(), (0x0102, message.clone()));
        lines.push(hex(&out[..n]));
    }
    compare(&lines, include_str!("frozen/from_beacon.txt"));
}

fn requests() -> StdVec<Request<'static>> {
    let network = Some(NetworkId(2));
    let name: Hostname = "a-b".parse().unwrap();
    let tags = parse_tags("cloud=aws,x").unwrap();
    StdVec::from([
        Request::Reserve { identity: Bytes([1; 32]), proof: Bytes([2; 64]) },
        Request::Register(Registration {
            record: Bytes([3; 188]),
            boot_id: 300,
            earlier: Vec::from_slice(&[1, 2]).unwrap(),
            takeover: true,
            hostname: Some(name.clone()),
            tags: Some(tags.clone()),
            visibility: Some(Visibility::Public),
        }),
        Request::Beacons,
        Request::Join { network: NetworkId(300) },
        Request::Leave { network: NetworkId(300) },
        Request::SetHostname { hostname: name.clone(), network },
        Request::ClearHostname { network: None },
        Request::SetVisibility { visibility: Visibility::Public },
        Request::SetTags { tags: tags.clone() },
        Request::Resolve {
            target: Target::Address(address()),
            network: None,
            grant: Some(Bytes([9; 156])),
        },
        Request::Discover { tags, network, cursor: 16 },
        Request::TrustRequest { to: address(), sealed: true, body: &[1, 2, 3] },
        Request::TrustFetch { after: 4 },
        Request::TrustAck { ids: Vec::from_slice(&[4, 5]).unwrap() },
        Request::TrustAnswer { to: address(), nonce: Bytes([5; 16]), grant: None },
        Request::TrustConfirm { to: address(), grant: Bytes([9; 156]), held: Bytes([8; 156]) },
        Request::Revoke { grantee: Bytes([1; 32]), hash: Bytes([2; 8]) },
        Request::Receipt { receipt: &[1, 2] },
        Request::Reputation { address: address(), grant: None },
        Request::Rotate { record: &[3, 4] },
        Request::Tombstone { record: &[5] },
        Request::Deregister,
    ])
}

#[test]
fn registry_requests() {
    let requests = requests();
    assert_eq!(requests.len(), REQUEST_KINDS as usize);
    let mut lines = StdVec::new();
    for request in &requests {
        let mut out = [0; 1024];
        let n = encode_request(0x0102_0304, request, &mut out).unwrap();
        assert_eq!(Envelope::parse(&out[..n]).unwrap().request().as_ref(), Ok(request));
        assert!(Envelope::parse(&out[..n]).unwrap().answer().is_err());
        // One byte less or more is not the same message.
        let short = Envelope::parse(&out[..n - 1]).and_then(|e| e.request());
        assert_ne!(short.as_ref(), Ok(request));
        assert_eq!(Envelope::parse(&out[..n + 1]).unwrap().request(), Err(CodecError::Malformed));
        lines.push(hex(&out[..n]));
    }
    compare(&lines, include_str!("frozen/requests.txt"));
}

#[test]
fn registry_answers() {
    let beacon = BeaconInfo {
        entry: Bytes([4; 108]),
        addresses: Vec::from_slice(&["192.0.2.1:9001".parse().unwrap()]).unwrap(),
    };
    let beacons = Beacons::from_slice(core::slice::from_ref(&beacon)).unwrap();
    let tags = parse_tags("x").unwrap();
    let entry = Discovered {
        address: address(),
        identity: Bytes([1; 32]),
        hostname: None,
        tags: tags.clone(),
    };
    let mut page = [0; 256];
    let mut used = 0;
    for _ in 0..2 {
        used = append(&entry, &mut page, used).unwrap();
    }
    let bodies = [
        MailboxBody::Request { sealed: true, body: &[1, 2] },
        MailboxBody::Answer { nonce: Bytes([5; 16]), grant: Some(Bytes([9; 156])) },
        MailboxBody::Confirm { grant: Bytes([9; 156]), held: Bytes([8; 156]) },
    ];
    let mut items = [0; 2048];
    let mut items_len = 0;
    for (id, body) in (1..).zip(bodies.clone()) {
        let (record, assign) = (Bytes([3; 188]), Bytes([6; 80]));
        let item = MailboxItem { id, received: 300, record, assign, body };
        items_len = append(&item, &mut items, items_len).unwrap();
    }
    let items: List<'_, MailboxItem<'_>> = List::from_encoded(&items[..items_len]);
    let decoded: StdVec<_> = items.iter().map(|item| item.unwrap().body).collect();
    assert_eq!(decoded, bodies);
    let entries = List::from_encoded(&page[..used]);
    assert_eq!(entries.iter().collect::<StdVec<_>>(), [Ok(entry.clone()), Ok(entry)]);
    let answers = [
        Answer::Done,
        Answer::Reserved { address: address() },
        Answer::Registered {
            record: Bytes([3; 188]),
            assign: Bytes([6; 80]),
            beacons: beacons.clone(),
        },
        Answer::Beacons(beacons),
        Answer::Resolved(Resolved {
            address: address(),
            record: Bytes([3; 188]),
            assign: Bytes([6; 80]),
            hostname: Some("a-b".parse().unwrap()),
            tags,
            networks: Vec::from_slice(&[NetworkId(1)]).unwrap(),
            reach: Some(Reach {
                endpoints: Vec::from_slice(&[endpoint()]).unwrap(),
                beacon: Some(beacon),
            }),
        }),
        Answer::Page { entries, cursor: 16 },
        Answer::Mailbox { items, more: true },
        Answer::At { address: address() },
        Answer::Reputation(Reputation {
            earned: 300,
            spent: 2,
            completed: 90,
            failed: 1,
            submitted: 3,
        }),
    ];
    assert_eq!(answers.len(), ANSWER_KINDS as usize);
    let mut lines = StdVec::new();
    let mut out = [0; 4096];
    for answer in answers {
        let answer = Ok(answer);
        let n = encode_answer(7, &answer, &mut out).unwrap();
        assert_eq!(Envelope::parse(&out[..n]).unwrap().answer().as_ref(), Ok(&answer));
        lines.push(hex(&out[..n]));
    }
    for code in 1..=10 {
        let code = ErrorCode::from_u16(code).unwrap();
        let refusal = Err(Refusal { code, retry_ms: 1000 });
        let n = encode_answer(7, &refusal, &mut out).unwrap();
        assert_eq!(Envelope::parse(&out[..n]).unwrap().answer(), Ok(refusal));
        lines.push(hex(&out[..n]));
    }
    compare(&lines, include_str!("frozen/answers.txt"));
}

#[test]
fn later_kinds_are_told_apart_from_nonsense() {
    let mut out = [0; 64];
    let n = encode_request(1, &Request::Deregister, &mut out).unwrap();
    out[n - 1] += 1;
    let envelope = Envelope::parse(&out[..n]).unwrap();
    assert_eq!(envelope.request(), Err(CodecError::UnknownKind));
    assert_eq!(control::decode::<ToBeacon>(&[0xFE, 0, 0, 9, 9]), Err(CodecError::UnknownKind));
    assert_eq!(control::decode::<ToBeacon>(&[0xFE, 0, 0]), Err(CodecError::Malformed));
    assert_eq!(control::message_id(&[0xFD, 0, 0]), None);
}

#[test]
fn bounds_hold_while_decoding() {
    // 9 candidates where 8 are the limit, 17 tags, a tag that is none.
    let mut hello = StdVec::from([0xFE, 0, 1, 0, 0, 0x17, 1, 9]);
    for _ in 0..9 {
        hello.extend([1, 0, 192, 0, 2, 1, 0xA0, 0x1F]);
    }
    hello.push(0);
    assert_eq!(control::decode::<ToBeacon>(&hello), Err(CodecError::Malformed));
    let mut tags = StdVec::from([0, 0, 0, 1, 0, 8, 17]);
    for i in 0..17 {
        tags.extend([1, b'a' + i]);
    }
    let parse = |bytes: &[u8]| Envelope::parse(bytes).unwrap().request().map(|_| ());
    assert_eq!(parse(&tags), Err(CodecError::Malformed));
    assert_eq!(parse(&[0, 0, 0, 1, 0, 8, 1, 1, b' ']), Err(CodecError::Malformed));
    assert_eq!(parse(&[0, 0, 0, 1, 0, 8, 1, 1, b'a']), Ok(()));
}

proptest! {
    #[test]
    fn decoders_are_total(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..24) {
        let _ = control::decode::<ToBeacon>(&bytes);
        let _ = control::decode::<FromBeacon>(&bytes);
        for tail in [&bytes[..], &[&[0, 0, 0, 1, 0, kind], &bytes[..]].concat(),
            &[&[0, 0, 0, 1, 1, kind], &bytes[..]].concat()]
        {
            if let Ok(envelope) = registry::Envelope::parse(tail) {
                let _ = envelope.request();
                if let Ok(Ok(Answer::Page { entries, .. })) = envelope.answer() {
                    let _ = entries.iter().count();
                }
                if let Ok(Ok(Answer::Mailbox { items, .. })) = envelope.answer() {
                    let _ = items.iter().count();
                }
            }
        }
        for kind in 0..8 {
            let _ = control::decode::<ToBeacon>(&[&[0xFE, 0, 1, kind], &bytes[..]].concat());
            let _ = control::decode::<FromBeacon>(&[&[0xFE, 0, 1, kind], &bytes[..]].concat());
        }
    }
}
