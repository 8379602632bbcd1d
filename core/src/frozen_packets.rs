//! Whole packets, frozen: for fixed keys the exact bytes of one of each kind. Message bodies
//! have their own files in `wire/frozen/`.
//!
//! What fails here breaks every agent in the field. Where that is meant, the new file is
//! printed by `PILOT_FREEZE=1 cargo test -p pilot-core --lib frozen_packets -- --nocapture`,
//! and `docs/wire.md` changes with it.

use crate::addr::{Address, NodeId, Port};
use crate::crypto::record::RecordFields;
use crate::crypto::{
    Assign, BeaconEntry, CONTEXT, Grant, Identity, RUST_CRYPTO, Record, Rights, Suite,
    TrustRequest, TunnelSecret, exchange,
};
use crate::path::ChannelId;
use crate::rng::Rng;
use crate::session::channel::{
    BUFFER, ClientChannel, ClientEvent, Introduction, ServerChannel, ServerEvent, ServerKeys,
};
use crate::session::handshake::{
    COOKIE, INIT_MAX, Initiator, RESP_MAX, Received, STALE, SessionKeys, write_cookie,
};
use crate::session::keys::SmallSession;
use crate::session::payload::{Caps, EARLY, InitPayload, RespPayload};
use crate::slab::Store;
use crate::stream::ack;
use crate::time::{Duration, Instant};
use crate::wire::control::{self, Endpoint, EndpointKind, ToBeacon};
use crate::wire::frame::{self, Direction, RelayKey};
use crate::wire::header::{Flags, Header, Protocol};
use crate::wire::stun;
use data_encoding::HEXLOWER;
use std::string::String;
use std::vec::Vec;

const FILE: &str = include_str!("frozen_packets.txt");

fn frozen(name: &str) -> Vec<u8> {
    let line = FILE.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    HEXLOWER.decode(line.unwrap_or_else(|| panic!("no {name}")).as_bytes()).unwrap()
}

fn identity(n: u8) -> Identity {
    Identity::from_secret([n; 32])
}

fn tunnel(n: u8) -> TunnelSecret {
    TunnelSecret::from_secret([100 + n; 32])
}

fn address(n: u8) -> Address {
    Address::backbone(NodeId(16 + u32::from(n)))
}

/// Agents 1 and 2; the registry is 9.
fn record(n: u8) -> Record {
    let fields = RecordFields {
        addr: address(n),
        tunnel: tunnel(n).public(),
        serial: 1_800_000_000_000,
        not_after: 1_900_000_000,
        flags: 2,
        grant_epoch: 3,
        prev: [0; 32],
    };
    Record::sign(&identity(n), &identity(9).public(), fields)
}

fn rotated() -> Record {
    let fields =
        RecordFields { prev: record(1).hash(), serial: 1_800_000_000_001, ..record(1).fields };
    let registry = identity(9).public();
    Record::sign(&identity(3), &registry, fields).with_previous(&identity(1), &registry)
}

fn grant() -> Grant {
    let (grantor, grantee) = (identity(1), identity(2).public());
    let registry = identity(9).public();
    Grant::sign(&grantor, &registry, address(1), grantee, Rights::ALL, 3, [7; 8])
}

fn trust_request() -> TrustRequest {
    let to = (address(2), Some(identity(2).public()));
    let why = "to send you the figures".parse().unwrap();
    let registry = identity(9).public();
    let (nonce, issued) = ([4; 16], 1_800_000_000);
    let grant = Some(grant());
    TrustRequest::sign(
        &identity(1),
        &registry,
        address(1),
        to,
        nonce,
        issued,
        Rights::ALL,
        &why,
        grant,
    )
}

fn seal_prologue() -> [u8; 30] {
    let mut prologue = [0; 30];
    prologue[..16].copy_from_slice(CONTEXT);
    prologue[16..24].copy_from_slice(b"trust-x\0");
    prologue[24..].copy_from_slice(&address(2).to_bytes());
    prologue
}

fn syn(flags: Flags) -> [u8; EARLY] {
    let header = Header {
        flags,
        protocol: Protocol::Stream,
        length: 0,
        source: address(1),
        destination: address(2),
        source_port: Port(50_000),
        destination_port: Port(1001),
        sequence: 0x0102_0304,
        acknowledgement: 0,
        window: 256,
        checksum: 0,
    };
    header.to_bytes()
}

fn p1(early: bool) -> InitPayload {
    InitPayload {
        caps: Caps(7),
        rekey: false,
        max_datagram: 1400,
        src: address(1),
        dst: address(2),
        hs_seq: 1_800_000_000_123,
        known_peer_serial: 5,
        generation: 6,
        boot_id: [7; 8],
        record: Some(record(1).to_short()),
        early: early.then(|| syn(Flags::SYN)),
    }
}

fn p2(suite: Suite, whole: bool) -> RespPayload {
    RespPayload {
        suite: suite.to_byte(),
        caps: Caps(7),
        max_datagram: 1452,
        observed: Some("192.0.2.1:4000".parse().unwrap()),
        boot_id: [8; 8],
        record: whole.then(|| record(2).to_short()),
        early: whole.then(|| syn(Flags::SYN)),
    }
}

const INIT_INDEX: u32 = 0x8101_0101;
const RESP_INDEX: u32 = 0x8202_0202;

fn start(early: bool) -> (Initiator, Vec<u8>) {
    let e = TunnelSecret::from_secret([21; 32]);
    let mut out = [0; INIT_MAX];
    let (initiator, len) =
        Initiator::start(&tunnel(1), &tunnel(2).public(), e, INIT_INDEX, &p1(early), &mut out)
            .unwrap();
    (initiator, out[..len].to_vec())
}

fn respond(init: &[u8], suite: Suite, whole: bool) -> (Vec<u8>, SessionKeys) {
    let received = Received::read(&tunnel(2), &mut init.to_vec()).unwrap();
    let e = TunnelSecret::from_secret([22; 32]);
    let mut out = [0; RESP_MAX];
    let (len, keys) =
        received.write_resp(e, RESP_INDEX, suite, &p2(suite, whole), &mut out).unwrap();
    (out[..len].to_vec(), keys)
}

fn end() -> Instant {
    Instant::START + Duration::from_secs(180)
}

/// The responder's frame 0 of a session.
fn data(keys: SessionKeys, content: &[u8]) -> Vec<u8> {
    let mut session = SmallSession::new(keys, RESP_INDEX, INIT_INDEX, end());
    let mut buf = [&[0; 12], content, &[0; 16]].concat();
    let sealed = session.seal(Instant::START, &RUST_CRYPTO, &mut buf, content.len()).unwrap();
    assert_eq!(sealed.len, buf.len());
    buf
}

fn inner() -> Vec<u8> {
    [&syn(Flags::ACK)[..], b"the figures"].concat()
}

fn acknowledgement() -> Vec<u8> {
    let mut out = [0; 128];
    let ranges = [(0, 5), (7, 20)].into_iter();
    let delay = Duration::from_micros(900);
    let mut encoder = ack::Encoder::new(&mut out, INIT_INDEX, ranges, delay).unwrap();
    encoder.entry(entry());
    let len = encoder.finish();
    out[..len].to_vec()
}

fn entry() -> ack::Entry {
    let (sender_port, receiver_port) = (Port(50_000), Port(1001));
    ack::Entry { sender_port, receiver_port, ack: 0x0102_0310, window: 255 }
}

const CHANNEL: ChannelId = ChannelId(0x00AB_CDEF);

fn relayed(direction: Direction, packet: &[u8]) -> Vec<u8> {
    let mut out = [&[0; 12], packet].concat();
    frame::wrap(&RelayKey([11; 16]), direction, CHANNEL, &mut out);
    out
}

fn stun_response() -> stun::Response {
    stun::Response {
        transaction: [12; 12],
        mapped: "192.0.2.1:4000".parse().unwrap(),
        origin: Some("198.51.100.1:9001".parse().unwrap()),
        other: Some("198.51.100.2:9002".parse().unwrap()),
    }
}

fn stun_bytes() -> [Vec<u8>; 3] {
    let mut out = [0; stun::MESSAGE_MAX];
    let change = stun::Change { ip: true, port: true };
    let n = stun::encode_request([12; 12], stun::Change::default(), &mut out).unwrap();
    let plain = out[..n].to_vec();
    let n = stun::encode_request([13; 12], change, &mut out).unwrap();
    let changed = out[..n].to_vec();
    let n = stun::encode_response(&stun_response(), true, &mut out).unwrap();
    [plain, changed, out[..n].to_vec()]
}

fn hello() -> ToBeacon {
    let own = Endpoint { kind: EndpointKind::Observed, address: "192.0.2.1:4000".parse().unwrap() };
    let candidates = control::Candidates::from_slice(&[own]).unwrap();
    ToBeacon::Hello { address: address(1), boot_id: 0x0102_0304_0506_0708, candidates, nat: 0x11 }
}

/// What client and registry say on a channel, in the order in which they say it.
fn channel() -> Vec<(&'static str, Vec<u8>)> {
    let introduction = |record| Introduction {
        address: address(1),
        record,
        boot_id: [7; 8],
        max_datagram: 1400,
        caps: Caps(7),
    };
    let (secret, registry, registry_tunnel) = (tunnel(1), identity(9), tunnel(9));
    let mut rng = Rng::new([31; 32]);
    let buffer = || Store::boxed_zeroed(BUFFER);
    let us = introduction(Some(record(1)));
    let mut client = ClientChannel::new(us, &secret, None, None, &mut rng, buffer(), buffer());
    let mut server = ServerChannel::new(introduction(None), buffer(), buffer());
    let mut said = Vec::new();
    let to_server = |client: &mut ClientChannel<'_>,
                     server: &mut ServerChannel<'_>,
                     rng: &mut Rng|
     -> Vec<u8> {
        let bytes = client.output().to_vec();
        client.sent(bytes.len());
        assert_eq!(server.handle_bytes(&bytes), bytes.len());
        let keys = ServerKeys { identity: &registry, secret: &registry_tunnel, previous: None };
        while let Some(event) = server.poll(keys, &RUST_CRYPTO, rng).unwrap() {
            if let ServerEvent::Frame(frame) = event {
                assert_eq!(frame, b"a question");
            }
        }
        bytes
    };
    let to_client = |client: &mut ClientChannel<'_>,
                     server: &mut ServerChannel<'_>,
                     rng: &mut Rng|
     -> Vec<u8> {
        let bytes = server.output().to_vec();
        server.sent(bytes.len());
        assert_eq!(client.handle_bytes(&bytes), bytes.len());
        while let Some(event) = client.poll(&secret, &RUST_CRYPTO, rng).unwrap() {
            if let ClientEvent::Frame(frame) = event {
                assert_eq!(frame, b"an answer");
            }
        }
        bytes
    };
    said.push(("channel.aor0", to_server(&mut client, &mut server, &mut rng)));
    said.push(("channel.keys", to_client(&mut client, &mut server, &mut rng)));
    said.push(("channel.aor1", to_server(&mut client, &mut server, &mut rng)));
    said.push(("channel.answer", to_client(&mut client, &mut server, &mut rng)));
    assert!(client.is_open());
    let put = |text: &'static [u8]| {
        move |out: &mut [u8]| {
            out[..text.len()].copy_from_slice(text);
            Some(text.len())
        }
    };
    client.send(put(b"a question")).unwrap();
    said.push(("channel.request", to_server(&mut client, &mut server, &mut rng)));
    assert!(server.is_open());
    server.send(put(b"an answer")).unwrap();
    said.push(("channel.response", to_client(&mut client, &mut server, &mut rng)));
    said
}

/// Every packet, made anew.
fn packets() -> Vec<(&'static str, Vec<u8>)> {
    let (aes, chacha) = (Suite::Aes256Gcm, Suite::ChaCha20Poly1305);
    let (init, init_syn) = (start(false).1, start(true).1);
    let (resp, keys_aes) = respond(&init, aes, false);
    let keys_chacha = || respond(&init_syn, chacha, true).1;
    let mut cookie = [0; COOKIE];
    write_cookie(&init, &tunnel(2).public(), &[13; 16], [14; 24], &mut cookie);
    let mut stale = [0; STALE];
    let received = Received::read(&tunnel(2), &mut init.clone()).unwrap();
    received.write_stale(1_800_000_000_999, [15; 24], &mut stale);
    let data_aes = data(keys_aes, &inner());
    let mut out = [0; control::MESSAGE_MAX];
    let n = control::encode(0x0102, &hello(), &mut out).unwrap();
    let text = trust_request().encode();
    let mut sealed = [&[0; exchange::MESSAGE1_PAYLOAD], &text[..], &[0; 16]].concat();
    let e = TunnelSecret::from_secret([23; 32]);
    exchange::seal_x(&[&seal_prologue()], &tunnel(1), &tunnel(2).public(), e, &mut sealed).unwrap();
    let [stun_request, stun_change, stun_response] = stun_bytes();
    let mut packets = Vec::from([
        ("init", init.clone()),
        ("init.syn", init_syn.clone()),
        ("resp", resp),
        ("resp.whole", respond(&init_syn, chacha, true).0),
        ("cookie", cookie.to_vec()),
        ("stale", stale.to_vec()),
        ("data.aes_256_gcm", data_aes.clone()),
        ("data.chacha20_poly1305", data(keys_chacha(), &inner())),
        ("data.acknowledgement", data(keys_chacha(), &acknowledgement())),
        ("data.hello", data(keys_chacha(), &out[..n])),
        ("data.keepalive", data(keys_chacha(), &[])),
        ("acknowledgement", acknowledgement()),
        ("relay.to_beacon", relayed(Direction::ToBeacon, &data_aes)),
        ("relay.from_beacon", relayed(Direction::FromBeacon, &data_aes)),
        ("stun.request", stun_request),
        ("stun.request.change", stun_change),
        ("stun.response", stun_response),
        ("record", record(1).encode().to_vec()),
        ("record.rotated", rotated().encode().to_vec()),
        ("assign", Assign::sign(&identity(9), &record(1), 17, 1_800_000_000).encode().to_vec()),
        ("beacon", beacon_entry().encode().to_vec()),
        ("grant", grant().encode().to_vec()),
        ("trust_request", text.to_vec()),
        ("trust_request.sealed", sealed),
    ]);
    packets.extend(channel());
    packets
}

fn beacon_entry() -> BeaconEntry {
    BeaconEntry::sign(&identity(9), NodeId(2), tunnel(8).public(), 4)
}

#[test]
fn every_packet_has_the_frozen_bytes() {
    let lines: Vec<String> = packets()
        .iter()
        .map(|(name, bytes)| std::format!("{name} {}", HEXLOWER.encode(bytes)))
        .collect();
    if std::env::var_os("PILOT_FREEZE").is_some() {
        std::println!("{}", lines.join("\n"));
    }
    let frozen: Vec<&str> = FILE.lines().collect();
    assert_eq!(lines.len(), 30);
    for (line, frozen) in lines.iter().zip(&frozen) {
        assert_eq!(line, frozen);
    }
    assert_eq!(frozen.len(), lines.len());
}

#[test]
fn frozen_handshakes_read_back() {
    for (early, suite, init, resp) in [
        (false, Suite::Aes256Gcm, "init", "resp"),
        (true, Suite::ChaCha20Poly1305, "init.syn", "resp.whole"),
    ] {
        let received = Received::read(&tunnel(2), &mut frozen(init)).unwrap();
        assert_eq!((received.payload.clone(), received.remote_index), (p1(early), INIT_INDEX));
        assert_eq!(received.remote_static(), tunnel(1).public());
        let (initiator, _) = start(early);
        let accepted = initiator.read_resp(&tunnel(1), &mut frozen(resp)).unwrap().ok().unwrap();
        assert_eq!((accepted.payload, accepted.remote_index), (p2(suite, early), RESP_INDEX));
        let frames: &[(&str, &[u8])] = if early {
            &[
                ("data.chacha20_poly1305", &inner()),
                ("data.acknowledgement", &frozen("acknowledgement")),
                ("data.keepalive", &[]),
            ]
        } else {
            &[("data.aes_256_gcm", &inner())]
        };
        for (name, content) in frames {
            let keys =
                initiator.read_resp(&tunnel(1), &mut frozen(resp)).unwrap().ok().unwrap().keys;
            let mut session = SmallSession::new(keys, INIT_INDEX, RESP_INDEX, end());
            let mut bytes = frozen(name);
            session.open(Instant::START, &RUST_CRYPTO, &mut bytes).unwrap();
            assert_eq!(bytes[12..bytes.len() - 16], **content, "{name}");
        }
    }
    let (initiator, _) = start(false);
    assert_eq!(initiator.read_stale(&frozen("stale")), Ok(1_800_000_000_999));
    assert_eq!(initiator.read_cookie(&frozen("cookie")), Ok([13; 16]));
}

#[test]
fn frozen_hello_reads_back() {
    let (initiator, _) = start(true);
    let accepted = initiator.read_resp(&tunnel(1), &mut frozen("resp.whole")).unwrap();
    let keys = accepted.ok().unwrap().keys;
    let mut session = SmallSession::new(keys, INIT_INDEX, RESP_INDEX, end());
    let mut bytes = frozen("data.hello");
    session.open(Instant::START, &RUST_CRYPTO, &mut bytes).unwrap();
    let content = &bytes[12..bytes.len() - 16];
    assert_eq!(control::decode::<ToBeacon>(content), Ok((0x0102, hello())));
}

#[test]
fn frozen_frames_read_back() {
    let bytes = frozen("acknowledgement");
    let decoded = ack::Acknowledgement::decode(&bytes).unwrap();
    assert_eq!((decoded.index, decoded.largest), (INIT_INDEX, 19));
    assert_eq!(decoded.ranges().collect::<Vec<_>>(), [(7, 20), (0, 5)]);
    let entries: Vec<_> = decoded.entries().map(|e| (e.sender_port, e.ack, e.window)).collect();
    assert_eq!(entries, [(entry().sender_port, entry().ack, entry().window)]);
    for (name, direction) in
        [("relay.to_beacon", Direction::ToBeacon), ("relay.from_beacon", Direction::FromBeacon)]
    {
        let mut bytes = frozen(name);
        assert_eq!(frame::relay_channel(&bytes), Some(CHANNEL));
        let inner = frame::unwrap(&RelayKey([11; 16]), direction, &mut bytes).unwrap();
        assert_eq!(inner, frozen("data.aes_256_gcm"));
    }
    let request = stun::decode_request(&frozen("stun.request")).unwrap();
    assert_eq!((request.transaction, request.change.is_none()), ([12; 12], true));
    let request = stun::decode_request(&frozen("stun.request.change")).unwrap();
    assert_eq!(request.change, stun::Change { ip: true, port: true });
    assert_eq!(stun::decode_response(&frozen("stun.response")), Ok(stun_response()));
}

#[test]
fn frozen_signed_texts_verify() {
    let registry = identity(9).public();
    let decoded = Record::decode(&frozen("record")).unwrap();
    assert_eq!(decoded, record(1));
    decoded.verify(&registry).unwrap();
    let turned = Record::decode(&frozen("record.rotated")).unwrap();
    turned.verify(&registry).unwrap();
    turned.verify_previous(&identity(1).public(), &registry).unwrap();
    let assign = Assign::decode(&frozen("assign")).unwrap();
    assert_eq!((assign.log_index, assign.time), (17, 1_800_000_000));
    assign.verify(&registry, &decoded).unwrap();
    let beacon = BeaconEntry::decode(&frozen("beacon")).unwrap();
    assert_eq!(beacon, beacon_entry());
    beacon.verify(&registry).unwrap();
    let decoded = Grant::decode(&frozen("grant")).unwrap();
    assert_eq!(decoded, grant());
    decoded.verify(&registry).unwrap();
    let mut sealed = frozen("trust_request.sealed");
    let (from, text) = exchange::open_x(&[&seal_prologue()], &tunnel(2), &mut sealed).unwrap();
    assert_eq!((from, text), (tunnel(1).public(), &frozen("trust_request")[..]));
    let request = TrustRequest::decode(text).unwrap();
    assert_eq!(request, trust_request());
    request.verify(&registry).unwrap();
}
