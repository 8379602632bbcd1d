//! Seeds of the codecs of packets: headers, STUN, and messages between agents and servers.

use super::identity::trust_request;
use super::s;
use crate::stage::Stage;
use crate::tape::Script;
use pilot_core::addr::Port;
use pilot_core::crypto::Rights;
use pilot_core::name::parse_tags;
use pilot_core::path::ChannelId;
use pilot_core::wire::control::{
    self, Candidates, Endpoint, EndpointKind, FromBeacon, MESSAGE_MAX, Message, ToBeacon,
};
use pilot_core::wire::header::{Flags, Header, Protocol};
use pilot_core::wire::registry::{Request, Target, Visibility, encode_request};
use pilot_core::wire::{Bytes, stun};

pub(super) fn header(
    flags: Flags,
    protocol: Protocol,
    ports: (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let header = Header {
        flags,
        protocol,
        length: payload.len() as u16,
        source: Stage::get().agents[1].address,
        destination: Stage::get().agents[0].address,
        source_port: Port(ports.0),
        destination_port: Port(ports.1),
        sequence: 1000,
        acknowledgement: 0,
        window: 64,
        checksum: 0,
    };
    [&header.to_bytes()[..], payload].concat()
}

pub(super) fn headers() -> Vec<Script> {
    let inner = [
        header(Flags::SYN, Protocol::Stream, (3000, 1000), &[]),
        header(Flags::ACK, Protocol::Stream, (3000, 1000), b"payload"),
        header(Flags::FIN | Flags::ACK, Protocol::Stream, (3000, 1000), &[]),
        header(Flags::NONE, Protocol::Datagram, (3000, 2000), b"datagram"),
        header(Flags::NONE, Protocol::Control, (0, 0), &[]),
    ];
    let mut seeds: Vec<Script> = inner.iter().map(|packet| s().byte(0).raw(packet)).collect();
    let relayed = [&[0x80; 28][..], &[0x10, 1, 0, 0], &[0x30; 40], &[0x11; 124]];
    seeds.extend(relayed.map(|packet| s().byte(1).raw(&[7; 16]).long(5).word(9).raw(packet)));
    for text in ["1:0001.0000.0017", "0:0000.FFFF.FFFF:1001", "65535:FFFF.0000.0001", "1:1.1.1"] {
        seeds.push(s().byte(2).raw(&[0, 1, 0, 0, 0, 23]).raw(text.as_bytes()));
    }
    seeds
}

pub(super) fn stun_request(change: stun::Change) -> Vec<u8> {
    let mut out = [0; stun::MESSAGE_MAX];
    let n = stun::encode_request([5; 12], change, &mut out).expect("it fits");
    out[..n].to_vec()
}

pub(super) fn stuns() -> Vec<Script> {
    let mut seeds = Vec::new();
    for (ip, port) in [(false, false), (true, false), (true, true)] {
        seeds.push(s().byte(0).raw(&stun_request(stun::Change { ip, port })));
    }
    for address in ["192.0.2.1:9", "[2001:db8::1]:443"] {
        let mapped = address.parse().expect("an address");
        for origin in [None, Some(mapped)] {
            let response = stun::Response { transaction: [6; 12], mapped, origin, other: origin };
            for fingerprint in [false, true] {
                let mut out = [0; stun::MESSAGE_MAX];
                let n = stun::encode_response(&response, fingerprint, &mut out).expect("it fits");
                seeds.push(s().byte(0).raw(&out[..n]));
            }
        }
    }
    let mut out = [0; stun::MESSAGE_MAX];
    let n = stun::encode_unknown([1; 12], 0x24, &mut out).expect("it fits");
    seeds.push(s().byte(0).raw(&out[..n]));
    seeds.push(s().byte(1).raw(&[3; 60]));
    seeds
}

/// Both ends ready at once, by each technique: our NAT, the peer's, and whether we may spray.
pub(super) fn punches() -> Vec<Script> {
    let mut seeds = Vec::new();
    for (ours, theirs) in [(0x1D, 0x1D), (0x1D, 0x2F), (0x2F, 0x2F), (0x1D, 0x3F), (0x3F, 0x1D)] {
        let mut script = s().byte(ours).byte(1).byte(1).byte(7).word(0);
        for round in 0..3 {
            // An offer that does not decode: the next one of this attempt, or of the one after.
            let offer = s().byte(0).chunk(&[]).byte(round.min(1)).byte(1).word(5000).byte(theirs);
            let ready = s().byte(1).byte(0).byte(1);
            script = script.then(offer.byte(ours).byte(1).byte(1)).then(ready);
            script = script.then(s().byte(4).word(1800));
        }
        seeds.push(script);
    }
    seeds
}

pub(super) fn frame<T: Message>(id: u16, message: &T) -> Vec<u8> {
    let mut out = [0; MESSAGE_MAX];
    let n = control::encode(id, message, &mut out).expect("it fits");
    out[..n].to_vec()
}

pub(super) fn to_beacon() -> Vec<ToBeacon> {
    let agent = &Stage::get().agents[0];
    let mut candidates = Candidates::new();
    for text in ["192.168.1.2:4000", "[2001:db8::2]:4000"] {
        let address = text.parse().expect("an address");
        candidates.push(Endpoint { kind: EndpointKind::Host, address }).expect("eight fit");
    }
    let (address, boot_id) = (agent.address, agent.boot_id);
    vec![
        ToBeacon::Hello { address, boot_id, candidates: candidates.clone(), nat: 5 },
        ToBeacon::Keepalive { candidates: None, nat: None },
        ToBeacon::Keepalive { candidates: Some(candidates), nat: Some(9) },
        ToBeacon::Bind { grant: Bytes(Stage::get().grant(1, Rights::ALL, 1).encode()) },
        ToBeacon::BoundAck { channel: ChannelId(7) },
        ToBeacon::Release { channel: ChannelId(7) },
    ]
}

pub(super) fn from_beacon() -> Vec<FromBeacon> {
    let agent = &Stage::get().agents[1];
    let observed = agent.socket;
    let info = control::ChannelInfo {
        channel: ChannelId(5),
        peer: agent.address,
        identity: Bytes(agent.identity().public().0),
        observed,
        key: Bytes([1; 16]),
    };
    vec![
        FromBeacon::HelloAck { observed, alternates: Default::default(), waiting: true },
        FromBeacon::KeepaliveAck { observed, waiting: false },
        FromBeacon::Waiting,
        FromBeacon::Channel(info.clone()),
        FromBeacon::Bound(info),
        FromBeacon::Unbound { channel: ChannelId(5) },
        FromBeacon::Fenced,
        FromBeacon::Error { error: control::BeaconError::Offline, retry_ms: 1000 },
    ]
}

pub(super) fn requests() -> Vec<Vec<u8>> {
    let agent = &Stage::get().agents[1];
    let grant = Bytes(Stage::get().grant(1, Rights::ALL, 1).encode());
    let body = trust_request(false);
    let to = agent.address;
    let all = [
        Request::Beacons,
        Request::SetHostname { hostname: "alice".parse().expect("a name"), network: None },
        Request::SetVisibility { visibility: Visibility::Public },
        Request::SetTags { tags: parse_tags("a,b=c").unwrap_or_default() },
        Request::Resolve { target: Target::Address(to), network: None, grant: Some(grant) },
        Request::Discover { tags: Default::default(), network: None, cursor: 0 },
        Request::TrustRequest { to, sealed: false, body: &body },
        Request::TrustFetch { after: 0 },
        Request::TrustAnswer { to, nonce: Bytes([4; 16]), grant: Some(grant) },
        Request::TrustConfirm { to, grant, held: grant },
        Request::Deregister,
    ];
    let encode = |(id, request): (usize, &Request<'_>)| {
        let mut out = vec![0; 2048];
        let n = encode_request(id as u32, request, &mut out).expect("it fits");
        out.truncate(n);
        out
    };
    all.iter().enumerate().map(encode).collect()
}

pub(super) fn messages() -> Vec<Script> {
    let mut seeds: Vec<Script> =
        to_beacon().iter().map(|message| s().byte(0).raw(&frame(1, message))).collect();
    seeds.extend(from_beacon().iter().map(|message| s().byte(1).raw(&frame(2, message))));
    seeds.extend(requests().iter().map(|request| s().byte(2).raw(request)));
    seeds.push(s().byte(3).raw(&[0, 0, 0, 1, 1, 0]));
    seeds.push(s().byte(3).raw(&[0, 0, 0, 1, 2, 0, 1, 0, 0, 0, 9]));
    seeds.push(s().byte(3).raw(&[0, 0, 0, 1, 1, 1, 0, 16]));
    seeds.push(s().byte(3).raw(&[0, 0, 0, 1, 1, 5, 0, 0]));
    seeds.push(s().byte(3).raw(&[0, 0, 0, 1, 1, 6, 0, 0]));
    seeds
}
