//! The seed corpora: what an honest party would send, and scripts that lead deep into a
//! machine. Deterministic; the example `seeds` writes them, a test compares them.

use crate::stage::{self, Stage};
use crate::tape::Script;
use pilot_core::addr::{Address, NodeId, Port};
use pilot_core::crypto::task::statement::submission;
use pilot_core::crypto::task::{Claim, Head, Receipt, Side, Statement, Step, TaskId, Times};
use pilot_core::crypto::{Identity, RUST_CRYPTO, Rights, TrustRequest};
use pilot_core::name::{Justification, parse_tags};
use pilot_core::path::ChannelId;
use pilot_core::rng::Rng;
use pilot_core::service::exchange::{ContentHash, HashAlgorithm};
use pilot_core::session::payload::{Caps, InitPayload, P1_MAX, P2_MAX, RespPayload};
use pilot_core::wire::Bytes;
use pilot_core::wire::control::{
    self, Candidates, Endpoint, EndpointKind, FromBeacon, MESSAGE_MAX, Message, ToBeacon,
};
use pilot_core::wire::header::{Flags, Header, Protocol};
use pilot_core::wire::registry::{Request, Target, Visibility, encode_request};
use pilot_core::wire::stun;

/// Scripts of random choices per target, beside those made by hand.
const RANDOM: u64 = 12;

/// The name of a target's `n`th seed.
pub fn file(n: usize) -> String {
    format!("seed-{n:02}")
}

/// The seeds of a target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Script> = match target {
        "header" => headers(),
        "stun" => stuns(),
        "records" => records(),
        "messages" => messages(),
        "events" => events(),
        "exchange" => exchanges(),
        "tree" => trees(),
        "punch" => punches(),
        "demux_node" => demux_node(),
        "demux_rendezvous" => demux_rendezvous(),
        "handshake_init" => handshake_init(),
        "handshake_resp" => handshake_resp(),
        "session" => sessions(),
        "streams" => streams(),
        "registry_open" => registry_open(),
        "registry_session" => registry_session(),
        "beacon_session" => beacon_session(),
        "tasks" => tasks(),
        "talk" => talks(),
        "beacon_client" => beacon_client(),
        other => panic!("no target is called {other}"),
    };
    let mut rng = Rng::new([1; 32]).fork(target);
    for n in 0..RANDOM {
        let len = 24 + rng.below(40 * (n + 1));
        seeds.push(Script((0..len).map(|_| rng.u32() as u8).collect()));
    }
    seeds.into_iter().map(|script| script.0).collect()
}

fn s() -> Script {
    Script::new()
}

// ---- codecs ----

fn header(flags: Flags, protocol: Protocol, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
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

fn headers() -> Vec<Script> {
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

fn stun_request(change: stun::Change) -> Vec<u8> {
    let mut out = [0; stun::MESSAGE_MAX];
    let n = stun::encode_request([5; 12], change, &mut out).expect("it fits");
    out[..n].to_vec()
}

fn stuns() -> Vec<Script> {
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
fn punches() -> Vec<Script> {
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

fn trust_request(with_grant: bool) -> Vec<u8> {
    let [a, b] = &Stage::get().agents;
    let key = stage::registry().public();
    let grant = with_grant.then(|| Stage::get().grant(0, Rights::ALL, 1));
    let to = with_grant.then(|| b.identity().public());
    TrustRequest::sign(
        &a.identity(),
        &key,
        a.address,
        (b.address, to),
        [4; 16],
        1_800_000_000,
        Rights::ALL,
        &Justification::cleaned("to work together"),
        grant,
    )
    .encode()
    .to_vec()
}

fn p1(record: bool, early: bool) -> Vec<u8> {
    let [us, them] = &Stage::get().agents;
    let p1 = InitPayload {
        caps: Caps::of(&RUST_CRYPTO),
        rekey: false,
        max_datagram: 1232,
        src: them.address,
        dst: us.address,
        hs_seq: stage::unix().as_millis() + 5_000_000,
        known_peer_serial: 1,
        generation: 1,
        boot_id: [8; 8],
        record: record.then(|| them.record.to_short()),
        early: early.then(|| {
            let syn = header(Flags::SYN, Protocol::Stream, (3000, 1000), &[]);
            *syn.first_chunk().expect("a header")
        }),
    };
    let mut out = [0; P1_MAX];
    let n = p1.encode(&mut out);
    out[..n].to_vec()
}

fn p2(record: bool, early: bool, observed: Option<&str>) -> Vec<u8> {
    let p2 = RespPayload {
        suite: 2,
        caps: Caps::of(&RUST_CRYPTO),
        max_datagram: 1232,
        observed: observed.map(|text| text.parse().expect("an address")),
        boot_id: [3; 8],
        record: record.then(|| Stage::get().agents[1].record.to_short()),
        early: early.then_some([0x13; 34]),
    };
    let mut out = [0; P2_MAX];
    let n = p2.encode(&mut out);
    out[..n].to_vec()
}

fn records() -> Vec<Script> {
    let [a, b] = &Stage::get().agents;
    let rotated = a.record.with_previous(&b.identity(), &stage::registry().public());
    let grant = Stage::get().grant(0, Rights::ALL, 1).encode();
    let mut seeds = vec![
        s().byte(0).raw(&a.record.encode()),
        s().byte(0).raw(&rotated.encode()),
        s().byte(1).raw(&grant),
        s().byte(2).raw(&trust_request(false)),
        s().byte(2).raw(&trust_request(true)),
        s().byte(3).raw(&[7; 80]),
        s().byte(3).raw(&[7; 108]),
        s().byte(4).raw(&p1(true, true)),
        s().byte(4).raw(&p1(false, false)),
        s().byte(4).raw(&p2(true, false, Some("192.0.2.1:4000"))),
        s().byte(4).raw(&p2(false, true, Some("[2001:db8::1]:1"))),
        s().byte(4).raw(&p2(false, false, None)),
    ];
    let fill = |n: u8| (0..255).map(|i: u8| i.wrapping_mul(n)).collect::<Vec<u8>>();
    seeds.extend((5..9).map(|kind| s().byte(kind).raw(&fill(kind)).raw(&fill(kind + 1))));
    seeds
}

fn tasks() -> Vec<Script> {
    let [a, b] = [1, 2].map(|n| Identity::from_secret([n; 32]));
    let registry = stage::registry().public();
    let first = submission(TaskId([1; 16]), a.public(), b.public(), stage::unix(), b"work");
    let first = Statement::sign(&a, &registry, first).expect("the submitter's");
    let mut head = Head::begin(&first, &registry).expect("it begins a task");
    for step in [Step::Accept, Step::Start, Step::Complete] {
        let next = head.next(step, Side::Worker, stage::unix(), b"").expect("in order");
        let next = Statement::sign(&b, &registry, next).expect("the worker's");
        head.follow(&next, &registry).expect("in order");
    }
    let claim = Claim::sign(&b, &registry, &head, Times::default()).expect("it is done");
    let times = Times::from_millis([1, 2, 3, 600_000]);
    let receipt = Receipt::sign(&a, &registry, &head, &claim, times).expect("it is done");
    let chain = |kinds: &[u8]| {
        let begin = s().byte(3).byte(1).chunk(b"work").quad(5);
        // Step, time, body, no lie; then what is done to each of the signatures: nothing.
        kinds.iter().fold(begin, |script, kind| {
            script.then(s().byte(kind - 1).quad(6).chunk(b"x").byte(9).byte(0))
        })
    };
    vec![
        s().byte(0).raw(&first.encode()),
        s().byte(0).raw(&head.last().encode()),
        s().byte(1).raw(&claim.encode()),
        s().byte(1).raw(&receipt.encode()),
        s().byte(2).quad(600_000).quad(30_000).quad(300_000).long(1).long(1),
        chain(&[]),
        chain(&[2, 4, 5, 5, 6]).then(s().raw(&[9; 60])),
        chain(&[2, 7]),
        chain(&[3]),
        chain(&[8]),
        chain(&[9]),
        chain(&[2, 10]),
        chain(&[2, 4, 8]),
        chain(&[2]).then(s().byte(3).quad(6).chunk(b"x").byte(0).long(3)),
        chain(&[2]).then(s().byte(3).quad(6).chunk(b"x").byte(1).byte(3).byte(2)),
        chain(&[2]).then(s().byte(3).quad(6).chunk(b"x").byte(9).byte(3).word(777)),
    ]
}

/// Seeds of a stream of tasks: see the choices in `talk::World::step`.
fn talks() -> Vec<Script> {
    let stored = || s().byte(7).byte(8).word(9999);
    // As who is admitted, and tells.
    let work = || s().byte(9).byte(1).byte(2).byte(1).then(stored());
    let state = |task: u8, step: Step| s().byte(1).byte(task).byte(step as u8 - 1);
    let say = |task, step| state(task, step).byte(2).byte(0);
    let quiet = |task, step| state(task, step).byte(0).byte(0);
    let act = |task: u8, step: Step| s().byte(5).byte(task).byte(step as u8 - 1);
    let answer = |task: u8, verdict: u8| s().byte(4).byte(task).byte(verdict);
    let pass = |ms: u16| s().byte(6).word(ms);
    let lie = |task, step, lie: u8| state(task, step).byte(2).byte(lie).byte(3);
    let submitted = || s().byte(1).then(work()).then(answer(0, 0)).then(work());
    let accepted = || submitted().then(quiet(0, Step::Accept)).then(work());
    let begun = || accepted().then(quiet(0, Step::Start)).then(work());
    let taken = || s().byte(0).then(say(1, Step::Submit)).then(work());
    let working = || taken().then(act(1, Step::Accept)).then(act(1, Step::Start)).then(work());
    vec![
        submitted(),
        begun().then(say(0, Step::Progress)).then(say(0, Step::Complete)).then(work()),
        begun()
            .then(say(0, Step::Complete))
            .then(work())
            .then(s().byte(3).byte(0).quad(9).byte(1))
            .then(work()),
        accepted()
            .then(act(0, Step::Cancel))
            .then(work())
            .then(answer(0, 2))
            .then(quiet(0, Step::Start))
            .then(work()),
        submitted().then(say(0, Step::Decline)).then(work()),
        s().byte(1).then(work()).then(answer(0, 5)).then(work()).then(pass(5001)).then(work()),
        s().byte(1).then(work()).then(answer(0, 9)).then(work()).then(answer(0, 0)).then(work()),
        working()
            .then(answer(1, 0))
            .then(act(1, Step::Complete))
            .then(work())
            .then(answer(1, 0))
            .then(work())
            .then(s().byte(3).byte(1).quad(9).byte(0))
            .then(work()),
        working().then(quiet(1, Step::Cancel)).then(work()),
        taken()
            .then(say(2, Step::Submit))
            .then(say(3, Step::Submit))
            .then(say(4, Step::Submit))
            .then(work()),
        taken().then(pass(60_001)).then(work()),
        lie(1, Step::Submit, 8).then(work()),
        s().byte(1)
            .then(lie(9, Step::Cancel, 64))
            .then(work())
            .then(lie(9, Step::Cancel, 0))
            .then(work()),
        begun()
            .then(lie(0, Step::Complete, 1))
            .then(work())
            .then(lie(0, Step::Complete, 16))
            .then(work()),
        s().byte(1).then(s().byte(0).chunk(&[0, 0, 0, 20, 0, 0, 0, 4, 0, 0, 0, 1])).then(work()),
        s().byte(1)
            .then(say(1, Step::Submit))
            .then(s().byte(9).byte(1).byte(0).byte(1))
            .then(s().byte(9).byte(0)),
    ]
}

fn frame<T: Message>(id: u16, message: &T) -> Vec<u8> {
    let mut out = [0; MESSAGE_MAX];
    let n = control::encode(id, message, &mut out).expect("it fits");
    out[..n].to_vec()
}

fn to_beacon() -> Vec<ToBeacon> {
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

fn from_beacon() -> Vec<FromBeacon> {
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

fn requests() -> Vec<Vec<u8>> {
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

fn messages() -> Vec<Script> {
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

fn event_frame(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

fn trees() -> Vec<Script> {
    let entry = |kind: u8, name: &str| [&[kind, name.len() as u8], name.as_bytes()].concat();
    let file = |name: &str, data: &[u8]| {
        [&entry(2, name)[..], &(data.len() as u64).to_be_bytes(), data].concat()
    };
    let inner = [entry(1, "b"), file("empty", b""), vec![0], file("c", b"hello")].concat();
    let contents = [
        vec![0],
        [file("a", b"content"), inner.clone(), vec![0]].concat(),
        [entry(1, "d").repeat(33), vec![0; 34]].concat(),
        [file("a", b""), file("a", b""), vec![0]].concat(),
        [entry(1, "a"), vec![0], file("a", b""), vec![0]].concat(),
        [file("../a", b""), vec![0]].concat(),
        [inner, vec![0, 0]].concat(),
        [entry(1, &"n".repeat(255)).repeat(5), vec![0; 6]].concat(),
    ];
    let mut seeds: Vec<Script> =
        contents.iter().map(|content| s().byte(1).raw(&[3; 8]).raw(content)).collect();
    let entries = s().byte(1).chunk(b"a").chunk(b"data").byte(2).chunk(b"b");
    let entries = entries.byte(1).chunk(b"c").chunk(b"").byte(0).byte(1).chunk(b"z").chunk(b"z");
    seeds.push(s().byte(0).then(entries));
    seeds
}

fn events() -> Vec<Script> {
    let subscribe = |flags: u8, pattern: &str| {
        event_frame(16, &[&[0, 0, 0, 1, flags], pattern.as_bytes()].concat())
    };
    let publish = |flags: u8, topic: &str, data: &[u8]| {
        let (len, topic) = (topic.len() as u8, topic.as_bytes());
        event_frame(18, &[&[0, 0, 0, 2, flags, len], topic, data].concat())
    };
    let event = |flags: u8, topic: &str, data: &[u8]| {
        let (len, topic) = (topic.len() as u8, topic.as_bytes());
        event_frame(20, &[&[flags, 0, 0, 0, 0, 0, 9, len], topic, data].concat())
    };
    let unsubscribe = event_frame(17, b"\0\0\0\x03a.*");
    let ping = event_frame(22, &[0, 0, 0, 4]);
    let patterns = ["a", "a.*", "b.>", "*", ">"].map(|pattern| subscribe(1, pattern)).concat();
    let kept = ["a.1", "a.2", "b.1", "b.2", "a.1"].map(|topic| publish(3, topic, b"kept")).concat();
    let many = publish(1, "a.b", &[7; 100]).repeat(12);
    let inputs = [
        [patterns.clone(), many.clone(), ping.clone()].concat(),
        [kept.clone(), patterns.clone(), publish(2, "a.1", b""), subscribe(1, "a.1")].concat(),
        [subscribe(0, "a.*"), unsubscribe.clone(), unsubscribe, publish(0, "a.b", b"x")].concat(),
        [patterns, ping.repeat(300)].concat(),
        [subscribe(0, "own.>"), publish(3, "own.topic", b"mine"), many].concat(),
        [kept, b"\0\x03t/1\0\0\0\x02hi".to_vec()].concat(),
    ];
    let mut seeds = Vec::new();
    for (n, input) in inputs.iter().enumerate() {
        seeds.push(s().byte(0).raw(&[2; 8]).byte(n as u8 % 3).raw(input));
    }
    let done = |request: u8, code: u8| event_frame(19, &[0, 0, 0, request, code, 0, 0, 0, 3]);
    let dropped = event_frame(21, &[0, 0, 0, 0, 0, 0, 1, 0]);
    let told = [done(1, 0), event(1, "a.b", b"kept"), dropped, event(0, "a", b""), done(2, 1)];
    seeds.push(s().byte(1).raw(&[1; 8]).byte(2).raw(&told.concat()));
    seeds.push(s().byte(1).raw(&[1; 8]).byte(1).raw(&[done(1, 0), done(2, 0)].concat()));
    seeds.push(s().byte(1).raw(&[1; 8]).byte(0).raw(&event(0, "a b", b"x")));
    for patterns in [[0, 4], [2, 3], [1, 4]] {
        let steps = [2, 0, 9, 2, 2, 30, 0, 3, 3, 200, 2, 1, 255, 2, 2, 255, 1].repeat(6);
        seeds.push(s().byte(2).raw(&patterns).raw(&steps));
    }
    seeds
}

fn exchange_frame(kind: u32, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(body.len() as u32).to_be_bytes(), body].concat()
}

fn exchanges() -> Vec<Script> {
    let hash = |content: &[u8]| pilot_core::crypto::kdf::sha256(&[content]);
    let end = |content: &[u8]| exchange_frame(18, &[&[1; 16][..], &[1], &hash(content)].concat());
    let offered = |kind: u8, size: u64, name: &str| {
        let body = [
            &[1; 16][..],
            &[kind],
            &size.to_be_bytes(),
            &[name.len() as u8],
            name.as_bytes(),
            &[0, 2],
            b"hi",
        ];
        body.concat()
    };
    let push = |kind: u8, content: &[u8]| {
        let head = exchange_frame(20, &offered(kind, content.len() as u64, ""));
        [head, content.to_vec(), end(content)].concat()
    };
    let offer = |kind: u8, size: u64, name: &str| exchange_frame(16, &offered(kind, size, name));
    let whole = [offer(1, 5, ""), b"hello".to_vec(), end(b"hello")].concat();
    let file =
        [offer(4, 3, "a.txt"), b"abc".to_vec(), end(b"abc"), offer(4, 0, "con.txt")].concat();
    let blake3 = ContentHash::of(HashAlgorithm::Blake3, b"abc");
    let blake3 = exchange_frame(18, &[&[1; 16][..], &[2], blake3.bytes()].concat());
    let blake3 = [offer(0x24, 3, "b.txt"), b"abc".to_vec(), blake3].concat();
    let wrong = [offer(2, 2, ""), b"xy".to_vec(), end(b"yx")].concat();
    let plain = [
        exchange_frame(1, b"text"),
        exchange_frame(4, &[&[0, 5][..], b"a.txt", b"content"].concat()),
        exchange_frame(4, &[&[0, 2][..], b"..", b"content"].concat()),
    ];
    let receiver =
        |choices: u8, input: &[u8]| s().byte(0).raw(&[2; 8]).raw(&[choices; 4]).raw(input);
    let mut seeds = Vec::new();
    let pushed = [push(1, b"one"), push(3, b""), push(9, b"?"), push(2, b"two")].concat();
    for choices in [0, 1, 2, 3, 8, 16] {
        seeds.push(receiver(choices, &whole));
        seeds.push(receiver(choices, &plain.concat()));
        seeds.push(receiver(choices, &pushed));
    }
    seeds.extend([receiver(0, &file), receiver(0, &wrong)]);
    let answer = |id: u8, code: u8, offset: u64| {
        exchange_frame(17, &[&[id; 16][..], &[code], &offset.to_be_bytes()].concat())
    };
    let receipt = |id: u8, code: u8, content: &[u8]| {
        exchange_frame(19, &[&[id; 16][..], &[code], &hash(content)].concat())
    };
    let sender = |input: &[u8]| s().byte(1).raw(&[3; 8]).word(2).raw(input);
    seeds.push(sender(&[answer(0, 0, 0), receipt(0, 0, &[5; 2]), answer(1, 1, 0)].concat()));
    seeds.push(sender(&[answer(0, 0, 1), receipt(0, 1, &[5; 2]), answer(1, 4, 0)].concat()));
    seeds.push(sender(&answer(0, 0, 9)));
    seeds.push(s().byte(2).word(0).byte(7).chunk(b"a.txt").chunk(b"note").raw(b"content"));
    seeds.push(s().byte(2).word(3).byte(0).chunk(b"").chunk(b"").raw(b"some text"));
    seeds.push(s().byte(2).word(9).byte(255).chunk(b"b").chunk(b"").raw(b""));
    seeds.push(receiver(0, &blake3));
    seeds
}

// ---- machines ----

fn demux_node() -> Vec<Script> {
    let raw = |from: u8, packet: &[u8]| s().byte(0).byte(from).chunk(packet);
    let mut seeds = Vec::new();
    let packets = [
        stun_request(stun::Change::default()),
        [&[0x10, 1, 0, 0, 0x80, 0, 0, 1][..], &[7; 322]].concat(),
        [&[0x11, 1, 0, 0, 0x80, 0, 0, 1, 0x80, 0, 0, 2][..], &[7; 112]].concat(),
        [&[0x12, 1, 0, 0, 0x80, 0, 0, 1][..], &[7; 56]].concat(),
        [&[0x13, 1, 0, 0, 0x80, 0, 0, 1][..], &[7; 48]].concat(),
        [0x80; 28].to_vec(),
        [0xFF; 100].to_vec(),
    ];
    for idle in [0, 1] {
        for packet in &packets {
            seeds.push(s().byte(idle).then(raw(1, packet)).then(s().byte(5).word(500)));
        }
    }
    let all = packets.iter().fold(s(), |script, packet| script.then(raw(2, packet)));
    seeds.push(s().byte(0).then(all));
    let change = |n: u8, at: u16| s().byte(2).byte(n).byte(0).word(at).byte(1).byte(0);
    for n in 0..4 {
        let script = change(n, 4).then(change(n, 13)).then(change(n, 60));
        seeds.push(s().byte(1).then(script));
    }
    seeds.push(s().byte(0).then(s().byte(3).chunk(&[0x80; 40]).raw(&[5; 11]).byte(1)));
    seeds
}

fn demux_rendezvous() -> Vec<Script> {
    let step = |from: u8, kind: u8| s().byte(from).byte(kind);
    let mut seeds = vec![
        step(1, 0).chunk(&stun_request(stun::Change::default())),
        step(1, 0).chunk(&stun_request(stun::Change { ip: true, port: true })),
        step(1, 2).chunk(&[]).byte(0).byte(1),
        step(1, 2).chunk(&[0x80, 0x22, 0, 0]).byte(0).byte(1).then(step(1, 6).byte(31)),
        step(1, 2).chunk(&[0, 0x24, 0, 4, 0, 0, 0, 1]).byte(0).byte(1),
        step(1, 3).chunk(&p1(true, false)),
        step(1, 4).byte(0).then(step(1, 4).byte(1)).then(step(1, 6).byte(3)),
        step(1, 4).byte(0).then(step(2, 4).byte(1)),
        step(1, 4).byte(0).then(step(1, 5).word(40).byte(1).byte(1)),
        step(1, 0).chunk(&[0x80; 40]),
        step(1, 0).chunk(&[0x30; 60]),
    ];
    let burst = (0..12).fold(s(), |script, _| script.then(step(3, 2).chunk(&[]).byte(0).byte(9)));
    seeds.push(burst.then(step(0, 7).word(500)).then(step(3, 6).byte(20)));
    seeds
}

fn handshake_init() -> Vec<Script> {
    let step = |from: u8, kind: u8| s().byte(from).byte(kind);
    let honest = |from: u8| step(from, 1).byte(0).byte(0);
    let confirm = |from: u8| step(from, 6).chunk(&[]);
    let mut seeds = vec![
        honest(1),
        honest(1).then(confirm(1)),
        honest(1).then(step(1, 4)).then(step(2, 4)).then(confirm(1)),
        honest(1).then(honest(1)).then(honest(2)).then(confirm(1)),
        honest(1).then(step(1, 3).word(100).byte(1)),
        step(1, 5).byte(127).then(honest(1)).then(step(1, 1).byte(0).byte(1)),
        // Early data, confirmed and not.
        step(1, 1).byte(1).byte(10).byte(0).word(3000).long(9).word(64).byte(0),
        step(1, 1).byte(1).byte(10).byte(0).word(3000).long(9).word(64).byte(0).then(confirm(1)),
        // Numbers from the past and from the far future.
        step(1, 1).byte(1).byte(5).quad(1).byte(0),
        step(1, 1).byte(1).byte(5).quad(1 << 62).byte(0),
        step(1, 1).byte(1).byte(5).quad((1 << 62) - 1).byte(0).then(confirm(1)).then(honest(1)),
        step(1, 1).byte(1).byte(7).long(u32::MAX).byte(0).then(confirm(1)).then(honest(1)),
        step(1, 1).byte(1).byte(0).byte(1).byte(0).then(confirm(1)),
        honest(1).then(confirm(1)).then(step(1, 7).word(40_000)).then(honest(1)).then(confirm(1)),
    ];
    for (record, early) in [(true, true), (true, false), (false, true), (false, false)] {
        seeds.push(step(1, 0).chunk(&p1(record, early)));
    }
    seeds
}

fn handshake_resp() -> Vec<Script> {
    let step = |suite: u8, kind: u8| s().byte(suite).byte(kind);
    // Every packet is followed by where it comes from.
    let honest = || step(0, 1).byte(0).byte(0);
    let frame = |plain: &[u8]| step(0, 6).byte(0).chunk(plain).byte(0);
    let mut seeds = vec![
        honest(),
        honest().then(frame(&[])).then(frame(&[0xF0, 1, 2, 3, 4, 5, 6, 7, 8])),
        honest().then(honest()).then(frame(&[])),
        step(0, 1).byte(1).byte(0).byte(1).byte(0),
        step(0, 1).byte(1).byte(0).byte(9).byte(0),
        step(0, 1).byte(1).byte(5).byte(40).byte(1).byte(0),
        step(0, 1).byte(1).byte(6).raw(&[0x13; 34]).byte(0),
        step(0, 4).byte(0).byte(0).then(honest()),
        step(0, 4).byte(1).quad(1 << 61).byte(0).then(honest()),
        step(0, 4).byte(1).quad(u64::MAX).byte(0).then(step(0, 7).word(3000)),
        step(0, 5).raw(&[5; 16]).byte(0).then(honest()),
        step(0, 5).raw(&[5; 16]).byte(0).then(step(0, 5).raw(&[6; 16]).byte(0)),
        honest().then(step(0, 3).word(50).byte(1).byte(0)),
        step(0, 7).word(5000).then(step(0, 7).word(5000)).then(honest()),
    ];
    for payload in [p2(true, false, None), p2(false, true, None), p2(false, false, None)] {
        seeds.push(step(0, 0).chunk(&payload).byte(0));
    }
    seeds
}

/// Reads and sends of `session`'s tape.
fn sessions() -> Vec<Script> {
    let chunk = |plain: &[u8]| s().byte(0).chunk(plain);
    // `packet`: style, flags, port, window, back, then what the style asks for.
    let syn = |port: u8| s().byte(1).byte(2).byte(1).byte(port).byte(64).byte(0).byte(0);
    let answer = |flags: u8, len: u16| {
        let script = s().byte(1).byte(0x80).byte(flags).byte(0).byte(64).byte(0).byte(0);
        script.word(len)
    };
    let bare = |flags: u8| s().byte(1).byte(0).byte(flags).byte(0).byte(64).byte(0).byte(0);
    let listen = || s().byte(14);
    let wait = |span: u16| s().byte(15).word(span).byte(0);
    let ack =
        || s().byte(5).byte(0).byte(0).byte(0).word(0).byte(0).byte(0).byte(1).byte(0).word(64);
    let app = |pick: u8, what: u8| s().byte(10).byte(pick).byte(what);
    let open = || app(0, 0).then(listen()).then(bare(3)).then(listen());
    let incoming = || syn(0).then(listen()).then(bare(2)).then(app(0, 1));
    let accept = |script: Script| script.then(app(0, 3).word(5000)).then(listen()).then(wait(500));
    let mut seeds = vec![
        incoming(),
        accept(incoming().then(answer(2, 100)).then(answer(2, 100))),
        accept(incoming().then(answer(2, 1000)).then(bare(6))),
        incoming()
            .then(app(0, 2).word(5000))
            .then(listen())
            .then(ack())
            .then(wait(2000))
            .then(ack()),
        incoming().then(app(0, 2).word(60_000)).then(listen()).then(wait(60_000)).then(listen()),
        open().then(app(0, 2).word(3000)).then(listen()).then(ack()).then(app(0, 4)),
        open().then(app(0, 5)),
        open().then(bare(8)),
        syn(0).then(syn(1)).then(syn(2)).then(syn(3)).then(app(0, 1)).then(app(0, 6)),
        s().byte(1).byte(3).byte(0).byte(0).byte(0).byte(0).byte(0),
        chunk(&header(Flags::NONE, Protocol::Datagram, (9, 2000), b"datagram")),
        s().byte(8).byte(0).byte(0).then(chunk(&[])).then(s().byte(8).byte(0).byte(0)),
        s().byte(9).byte(3).chunk(&[]).then(listen()).then(s().byte(11)),
        s().byte(12).byte(0).then(incoming()),
        s().byte(12).byte(1).byte(9).byte(2).then(incoming()),
        s().byte(12).byte(2).byte(100),
    ];
    for kind in 0..16 {
        seeds.push(s().byte(7).byte(kind).raw(&[kind; 8]).byte(1).then(wait(100)));
    }
    seeds
}

fn streams() -> Vec<Script> {
    // Bit 7 of a choice: which node.
    let flow = |n: usize| (0..n).fold(s(), |script, _| script.byte(13).byte(141).byte(6).byte(134));
    let connect = || s().byte(8).then(flow(4));
    let write = |node: u8, pipe: u8, len: u16| s().byte(node << 7 | 9).byte(pipe).word(len);
    let read = |node: u8, pipe: u8, len: u16| s().byte(node << 7 | 11).byte(pipe).word(len);
    let finish = |node: u8, pipe: u8| s().byte(node << 7 | 12).byte(7).byte(pipe);
    let wait = |span: u8| s().byte(15).byte(span);
    let lose = || s().byte(7).byte(135);
    vec![
        s(),
        s().byte(8),
        connect(),
        connect().then(write(0, 0, 100)).then(flow(2)).then(read(1, 0, 1000)),
        connect().then(write(0, 0, 60_000)).then(flow(12)).then(read(1, 0, 65_000)).then(flow(4)),
        connect().then(write(1, 0, 5000)).then(write(0, 0, 5000)).then(flow(4)).then(finish(0, 0)),
        connect().then(finish(0, 0)).then(flow(2)).then(write(1, 0, 9000)).then(finish(1, 0)),
        connect()
            .then(write(0, 0, 30_000))
            .then(s().byte(13))
            .then(lose())
            .then(wait(20))
            .then(flow(4)),
        connect().then(write(0, 0, 9000)).then(s().byte(13).byte(130).byte(3).byte(131).byte(2)),
        connect().then(s().byte(12).byte(1)).then(flow(4)).then(write(0, 0, 500)).then(flow(4)),
        connect().then(s().byte(12).byte(0).byte(0)).then(flow(4)),
        s().byte(8).byte(136).byte(8).byte(136).then(flow(6)).then(write(0, 1, 900)).then(flow(3)),
        connect().then(write(0, 0, 60_000)).then(flow(3)).then(wait(200)).then(flow(6)),
        connect().then(s().byte(13).byte(133).byte(0).word(20).byte(4)).then(flow(3)),
    ]
}

fn registry_open() -> Vec<Script> {
    let step = |pick: u8, kind: u8| s().byte(pick).byte(kind);
    let open = || step(0, 0).byte(1);
    // An honest P1, whole, with the agent's key.
    let hello = |style: u8| step(0, 4).byte(0).byte(style).byte(1).byte(1);
    vec![
        open(),
        open().then(hello(5)),
        open().then(step(0, 3).raw(&[4; 32])).then(hello(5)),
        open().then(step(0, 3).raw(&[4; 32])).then(step(0, 3).raw(&[4; 32])),
        open().then(hello(3)),
        open().then(step(0, 4).byte(0).byte(0).byte(2).byte(1).byte(1)),
        open().then(step(0, 4).byte(0).byte(5).byte(0).byte(1)),
        open().then(step(0, 4).byte(1).chunk(&p1(true, true)).byte(1).byte(1)),
        open().then(step(0, 4).byte(0).byte(5).byte(1).byte(0).word(100)).then(step(0, 6)),
        open().then(step(0, 2).chunk(b"GET / HTTP/1.1\r\n\r\n")),
        open().then(step(0, 2).chunk(b"AOR1\xFF\xFF")),
        open().then(step(0, 2).chunk(b"AOR")).then(step(0, 7).byte(1).word(4000)),
        (0..9).fold(s(), |script, _| script.then(open())).then(step(0, 7).byte(1).word(5000)),
        open().then(open()).then(step(1, 7).byte(0)),
    ]
}

fn registry_session() -> Vec<Script> {
    let raw = |n: u8, plain: &[u8]| s().byte(n).byte(0).chunk(plain);
    let ask = |n: u8, id: u8, rest: Script| s().byte(n).byte(1).byte(id).then(rest).byte(0);
    // `to`, then the request and what it asks for.
    let kind = |n: u8| s().byte(2).byte(n);
    let reserve = || ask(2, 1, kind(0).byte(0));
    let register = |n: u8, serial: u8| {
        ask(n, 2, kind(1).byte(serial).byte(0).byte(1).byte(0).byte(0).byte(1).byte(0).raw(&[1; 3]))
    };
    let mut seeds = vec![
        reserve(),
        reserve().then(register(2, 2)),
        register(0, 2),
        register(0, 2).then(register(0, 1)).then(register(0, 0)),
        ask(0, 1, kind(4).byte(2)).then(ask(0, 2, kind(6).byte(0).byte(1).byte(2))),
        ask(0, 1, kind(6).byte(0).byte(0)).then(ask(
            1,
            2,
            kind(10).byte(0).byte(0).byte(0).byte(0),
        )),
        ask(0, 1, kind(8).byte(1)).then(ask(1, 2, kind(11).byte(0).byte(0).byte(0))),
        ask(0, 1, kind(12).byte(0).byte(0).byte(0)).then(ask(1, 2, kind(14).byte(0))),
        ask(0, 1, kind(12).byte(0).byte(0).byte(0)).then(ask(
            1,
            2,
            kind(15).byte(2).byte(1).byte(2),
        )),
        ask(1, 1, kind(18).byte(1)),
        s().byte(0).byte(8).byte(3).byte(1).then(register(0, 2)).then(s().byte(0).byte(8).byte(3)),
    ];
    seeds.extend(requests().iter().map(|plain| raw(0, plain)));
    seeds
}

fn beacon_session() -> Vec<Script> {
    let step = |n: u8, kind: u8| s().byte(n).byte(kind);
    let bind = |n: u8, style: u8| step(n, 1).word(7).byte(2).byte(style).byte(1).word(0x3F).byte(0);
    let relay = |n: u8, packet: &[u8]| step(n, 5).byte(0).chunk(packet);
    let mut seeds = vec![
        bind(0, 0),
        bind(0, 0).then(relay(0, &[0x80; 40])).then(relay(1, &[0x90; 28])),
        bind(0, 1),
        bind(0, 2),
        bind(0, 0).then(step(1, 1).word(8).byte(5).byte(1)),
        bind(0, 0).then(step(0, 1).word(8).byte(6).byte(1)).then(relay(1, &[0x80; 40])),
        bind(0, 0).then(step(0, 5).byte(1).chunk(&[0x80; 40]).byte(5).byte(1)),
        step(0, 7).byte(0).raw(&[1; 8]).byte(0).byte(1).then(step(0, 8)),
        step(0, 9).then(bind(0, 0)),
        step(0, 11).word(9000).then(bind(1, 0)),
        bind(0, 0).then(step(0, 11).word(40_000)).then(relay(0, &[0x80; 40])),
    ];
    seeds.extend(to_beacon().iter().map(|message| step(0, 0).chunk(&frame(9, message))));
    seeds
}

fn beacon_client() -> Vec<Script> {
    // id choice, observed, then the message.
    let tell = |kind: u8| s().byte(1).byte(1).raw(&[192, 0, 2, 9]).word(4000).byte(kind);
    let ack = || tell(0).byte(0);
    let channel = |id: u8| tell(3).byte(0).byte(0).byte(1).byte(0).byte(1).byte(id).byte(1).byte(0);
    let init = || s().byte(6).byte(0).byte(0);
    let data = |plain: &[u8]| s().byte(7).byte(0).chunk(plain).byte(0).byte(0);
    let wait = |span: u16| s().byte(9).word(span);
    let mut seeds = vec![
        ack(),
        ack().then(channel(0)),
        ack().then(channel(0)).then(init()).then(data(&[])),
        ack().then(channel(0)).then(init()).then(data(&[])).then(data(&[0xF7, 2])),
        ack().then(channel(0)).then(init()).then(data(&[0xF0, 1, 2, 3, 4, 5, 6, 7, 8])),
        ack().then(channel(0)).then(channel(1)).then(tell(7).byte(0)).then(init()),
        ack().then(channel(0)).then(wait(2000)).then(init()).then(data(&[])).then(wait(4000)),
        ack().then(tell(1).byte(1)).then(tell(2)),
        ack().then(tell(9).byte(1).long(1000)),
        ack().then(tell(8).byte(7)),
        wait(1000).then(wait(5000)),
    ];
    seeds.extend(from_beacon().iter().map(|message| s().byte(0).chunk(&frame(1, message))));
    let nobody = Address::backbone(NodeId(99));
    let mut stranger = from_beacon();
    for message in &mut stranger {
        if let FromBeacon::Channel(info) | FromBeacon::Bound(info) = message {
            info.peer = nobody;
            seeds.push(s().byte(0).chunk(&frame(1, message)));
        }
    }
    seeds
}
