//! Authenticated registry channels at a real rendezvous, with plaintexts of the fuzzer's: any
//! bytes, and every request with fields near to true ones, of two agents and a newcomer; and
//! the storage behind it, which is slow or fails when the tape says so.
//!
//! Oracle, beside that of [`crate::outpost`]: each answer decodes, repeats the id of a request
//! of that connection, and there are no more answers than requests; nothing is told as done
//! before its commit; in the end memory and disk agree, and a restart loads them.

use crate::outpost::{self, Outpost};
use crate::stage::{self, Stage};
use crate::tape::Tape;
use pilot_core::addr::{Address, NetworkId};
use pilot_core::crypto::request::sign_reserve;
use pilot_core::crypto::task::statement::submission;
use pilot_core::crypto::task::{Claim, Head, Receipt, Side, Statement, Step, TaskId, Times};
use pilot_core::crypto::{
    Grant, Identity, RUST_CRYPTO, Record, Rights, TrustRequest, TunnelSecret,
};
use pilot_core::name::{Justification, parse_tags};
use pilot_core::rendezvous::ConnId;
use pilot_core::rng::Rng;
use pilot_core::session::channel::{BUFFER, ClientChannel, ClientEvent, Introduction};
use pilot_core::session::payload::Caps;
use pilot_core::slab::Store;
use pilot_core::time::Duration;
use pilot_core::wire::Bytes;
use pilot_core::wire::registry::{
    Answer, Envelope, EnvelopeKind, PLAINTEXT_MAX, Registration, Request, Target, Visibility,
    encode_request,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;

const STEPS: usize = 48;

/// One client: an agent of the stage, or a newcomer.
struct Client {
    conn: ConnId,
    channel: ClientChannel<'static>,
    secret: TunnelSecret,
    identity: Identity,
    address: Address,
    record: Option<Record>,
    hash: [u8; 32],
    /// Requests by id that were not answered yet.
    asked: BTreeMap<u32, usize>,
    rng: Rng,
}

struct Run {
    outpost: Outpost,
    clients: Vec<Client>,
    /// Storage is asked for nothing until the tape says so.
    slow: bool,
}

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    let mut run = Run { outpost: Outpost::new(), clients: Vec::new(), slow: false };
    run.outpost.drain();
    for n in 0..3 {
        let client = run.enter(n);
        run.clients.push(client);
    }
    for _ in 0..STEPS {
        if tape.is_empty() {
            break;
        }
        run.step(&mut tape);
        run.listen();
    }
    run.outpost.settle();
    run.listen();
    // What is on disk loads, and is then what it was.
    let changes: Vec<_> = run.outpost.server.rows().map(|row| row.change()).collect();
    let restarted = stage::rendezvous(run.outpost.now, outpost::limits(), &changes);
    assert!(restarted.rows().eq(run.outpost.server.rows()), "a restart changes something");
}

impl Run {
    fn enter(&mut self, n: usize) -> Client {
        let agent = Stage::get().agents.get(n);
        let identity = agent.map_or(Identity::from_secret([90 + n as u8; 32]), |a| a.identity());
        let secret = agent.map_or(TunnelSecret::from_secret([91; 32]), |a| a.secret());
        let address = agent.map_or(Address::UNSPECIFIED, |a| a.address);
        let record = agent.map(|a| a.record);
        let boot = agent.map_or(1, |a| a.boot_id);
        let us = Introduction {
            address,
            record,
            boot_id: boot.to_be_bytes(),
            max_datagram: 1232,
            caps: Caps::of(&RUST_CRYPTO),
        };
        let (input, output) =
            (Store::<u8>::boxed_zeroed(BUFFER), Store::<u8>::boxed_zeroed(BUFFER));
        let mut rng = Rng::new([n as u8 + 1; 32]);
        let pin = Some(stage::registry().public());
        let remembered = Some(stage::registry_secret().public());
        let channel = ClientChannel::new(us, &secret, pin, remembered, &mut rng, input, output);
        let conn = self.outpost.connect(SocketAddr::from(([198, 51, 100, 10 + n as u8], 5)));
        let (hash, asked) = ([0; 32], BTreeMap::new());
        let mut client =
            Client { conn, channel, secret, identity, address, record, hash, asked, rng };
        client.flush(&mut self.outpost);
        self.outpost.drain();
        let written = self.outpost.written.remove(&conn).unwrap_or_default();
        assert_eq!(client.channel.handle_bytes(&written), written.len());
        match client.channel.poll(&client.secret, &RUST_CRYPTO, &mut client.rng) {
            Ok(Some(ClientEvent::Open { hash })) => client.hash = hash,
            other => panic!("{other:?}"),
        }
        client
    }

    fn step(&mut self, tape: &mut Tape<'_>) {
        let n = usize::from(tape.below(3));
        match tape.below(12) {
            0 => {
                let plaintext = tape.chunk();
                self.send(n, plaintext);
            }
            1..=7 => {
                let mut out = vec![0; PLAINTEXT_MAX];
                let mut body = Vec::new();
                let id = tape.byte().into();
                let request = self.request(n, tape, &mut body);
                let request = match request {
                    Request::TrustRequest { to, sealed, .. } => {
                        Request::TrustRequest { to, sealed, body: &body }
                    }
                    Request::Receipt { .. } => Request::Receipt { receipt: &body },
                    other => other,
                };
                let Ok(len) = encode_request(id, &request, &mut out) else { return };
                if tape.below(8) == 7 {
                    let at = usize::from(tape.word()) % len;
                    out[at] ^= tape.byte();
                }
                self.send(n, &out[..len]);
            }
            8 => {
                self.outpost.finish_commit(tape.below(4) != 3);
                self.slow = tape.flag();
            }
            9 => {
                let old = self.clients[n].conn;
                self.outpost.drain();
                self.outpost.server.handle_close(self.outpost.now, old);
                self.outpost.open.remove(&old);
                if self.outpost.server.stats().connections < 8 {
                    self.clients[n] = self.enter(n);
                }
            }
            // Not a frame of this channel.
            10 => {
                let conn = self.clients[n].conn;
                if tape.below(4) == 3 {
                    self.outpost.bytes(conn, tape.chunk());
                }
            }
            _ => self.outpost.advance(Duration::from_millis(u64::from(tape.word()) * 8)),
        }
        if !self.slow {
            self.outpost.drain();
            self.outpost.finish_commit(true);
        }
    }

    fn send(&mut self, n: usize, plaintext: &[u8]) {
        let client = &mut self.clients[n];
        let len = plaintext.len().min(PLAINTEXT_MAX);
        let sent = client.channel.send(|out| {
            out.get_mut(..len)?.copy_from_slice(&plaintext[..len]);
            Some(len)
        });
        if sent.is_some() {
            if let Some(id) = plaintext.first_chunk() {
                *client.asked.entry(u32::from_be_bytes(*id)).or_default() += 1;
            }
            client.flush(&mut self.outpost);
        }
    }

    fn request(&mut self, n: usize, tape: &mut Tape<'_>, body: &mut Vec<u8>) -> Request<'static> {
        let stage = Stage::get();
        let client = &self.clients[n];
        let other = &stage.agents[usize::from(n == 0)];
        let network = |tape: &mut Tape<'_>| NetworkId(tape.below(4).into());
        let maybe = |tape: &mut Tape<'_>| tape.flag().then(|| network(tape));
        let grant = |tape: &mut Tape<'_>| {
            let (style, nonce) = (tape.below(8), tape.below(4));
            let from = usize::from(style & 1 == 1);
            let grant = match style {
                0..=5 => stage.grant(from, Rights::ALL, nonce),
                _ => self.newcomers_grant(nonce),
            };
            Bytes(grant.encode())
        };
        let to = match tape.below(8) {
            0 => Address::from_bytes(tape.array()),
            1 => client.address,
            _ => other.address,
        };
        let names = ["alice", "bob", "x"];
        let name = |tape: &mut Tape<'_>| {
            let name = names[usize::from(tape.below(3))];
            name.parse().expect("a name")
        };
        let tags = |tape: &mut Tape<'_>| {
            let lists = ["", "a,b=c", "one,two,three", "b=c"];
            parse_tags(lists[usize::from(tape.below(4))]).unwrap_or_default()
        };
        match tape.below(20) {
            0 => {
                let (identity, mut proof) =
                    (client.identity.public().0, sign_reserve(&client.identity, &client.hash));
                proof[0] ^= u8::from(tape.below(4) == 3);
                Request::Reserve { identity: Bytes(identity), proof: Bytes(proof) }
            }
            1 | 2 => Request::Register(self.registration(n, tape)),
            3 => Request::Beacons,
            4 => Request::Join { network: network(tape) },
            5 => Request::Leave { network: network(tape) },
            6 => Request::SetHostname { hostname: name(tape), network: maybe(tape) },
            7 => Request::ClearHostname { network: maybe(tape) },
            8 => Request::SetVisibility {
                visibility: if tape.flag() { Visibility::Public } else { Visibility::Private },
            },
            9 => Request::SetTags { tags: tags(tape) },
            10 => Request::Resolve {
                target: match tape.flag() {
                    true => Target::Address(to),
                    false => Target::Hostname(name(tape)),
                },
                network: maybe(tape),
                grant: tape.flag().then(|| grant(tape)),
            },
            11 => Request::Discover {
                tags: tags(tape),
                network: maybe(tape),
                cursor: if tape.flag() { tape.quad() } else { 0 },
            },
            12 | 13 => {
                *body = match tape.flag() {
                    true => tape.chunk().to_vec(),
                    false => self.trust_request(n, to, tape),
                };
                Request::TrustRequest { to, sealed: tape.flag(), body: &[] }
            }
            14 => Request::TrustFetch { after: tape.byte().into() },
            15 => {
                let ids = (0..tape.below(8)).map(|_| tape.byte().into()).collect();
                Request::TrustAck { ids }
            }
            16 => {
                let nonce = Bytes([tape.below(2); 16]);
                Request::TrustAnswer { to, nonce, grant: tape.flag().then(|| grant(tape)) }
            }
            17 => Request::TrustConfirm { to, grant: grant(tape), held: grant(tape) },
            18 => {
                let granted = stage.grant(usize::from(n == 1), Rights::ALL, tape.below(4));
                let hash = Bytes(*granted.hash().first_chunk().expect("32 bytes have 8"));
                Request::Revoke { grantee: Bytes(other.identity().public().0), hash }
            }
            _ => match tape.below(5) {
                0 => {
                    *body = receipt(n, tape);
                    Request::Receipt { receipt: &[] }
                }
                1 => Request::Reputation { address: to, grant: tape.flag().then(|| grant(tape)) },
                2 => Request::Rotate { record: &[2; 252] },
                3 => Request::Tombstone { record: &[] },
                _ => Request::Deregister,
            },
        }
    }

    fn newcomers_grant(&self, nonce: u8) -> Grant {
        let client = &self.clients[2];
        let (key, grantee) =
            (stage::registry().public(), Stage::get().agents[0].identity().public());
        Grant::sign(&client.identity, &key, client.address, grantee, Rights::ALL, 0, [nonce; 8])
    }

    fn registration(&self, n: usize, tape: &mut Tape<'_>) -> Registration {
        let client = &self.clients[n];
        let base = client.record.unwrap_or(Stage::get().agents[0].record);
        let mut fields = base.fields;
        fields.addr = client.address;
        fields.tunnel = client.secret.public();
        fields.serial = fields.serial.wrapping_add((tape.below(4) as u64).wrapping_sub(1));
        fields.grant_epoch += u32::from(tape.below(8) == 7);
        let prev = if tape.flag() { base.hash() } else { [0; 32] };
        fields.prev = prev;
        let record = Record::sign(&client.identity, &stage::registry().public(), fields);
        let mut bytes: [u8; 188] = *record.encode().first_chunk().expect("188 bytes");
        bytes[187] ^= u8::from(tape.below(8) == 7);
        let boot = Stage::get().agents.get(n).map_or(1, |a| a.boot_id);
        Registration {
            record: Bytes(bytes),
            boot_id: boot.wrapping_add(tape.below(3).into()),
            earlier: (0..tape.below(9)).map(|i| boot + u64::from(i)).collect(),
            takeover: tape.below(8) == 7,
            hostname: tape.flag().then(|| "carol".parse().expect("a name")),
            tags: tape.flag().then(|| parse_tags("a,b").unwrap_or_default()),
            visibility: tape.flag().then_some(Visibility::Public),
        }
    }

    fn trust_request(&self, n: usize, to: Address, tape: &mut Tape<'_>) -> Vec<u8> {
        let client = &self.clients[n];
        let text = Justification::cleaned("please");
        let (key, nonce) = (stage::registry().public(), [tape.below(2); 16]);
        TrustRequest::sign(
            &client.identity,
            &key,
            client.address,
            (to, None),
            nonce,
            stage::unix().as_secs(),
            Rights::ALL,
            &text,
            None,
        )
        .encode()
        .to_vec()
    }

    /// Reads all answers.
    fn listen(&mut self) {
        self.outpost.drain();
        for client in &mut self.clients {
            let written = self.outpost.written.remove(&client.conn).unwrap_or_default();
            let mut written = &written[..];
            loop {
                let used = client.channel.handle_bytes(written);
                written = &written[used..];
                match client.channel.poll(&client.secret, &RUST_CRYPTO, &mut client.rng) {
                    Ok(Some(ClientEvent::Frame(plaintext))) => {
                        let plaintext = plaintext.to_vec();
                        client.answered(&plaintext);
                    }
                    Ok(None) if written.is_empty() => break,
                    Ok(None) => assert!(used > 0, "the server sends more than a frame"),
                    other => panic!("the server sends {other:?}"),
                }
            }
        }
    }
}

/// The receipt of a task that one agent of the stage has done for another, or a newcomer for it.
fn receipt(n: usize, tape: &mut Tape<'_>) -> Vec<u8> {
    let registry = stage::registry().public();
    let who = |n: usize| {
        Stage::get().agents.get(n).map_or(Identity::from_secret([92; 32]), |a| a.identity())
    };
    let (submitter, worker) = (who(n), who((n + 1 + usize::from(tape.flag())) % 3));
    let id = TaskId([tape.below(4); 16]);
    let now = stage::unix();
    let first = submission(id, submitter.public(), worker.public(), now, b"");
    let first = Statement::sign(&submitter, &registry, first).expect("its own");
    let mut head = Head::begin(&first, &registry).expect("it begins a task");
    let end = if tape.below(4) == 3 { Step::Fail } else { Step::Complete };
    for step in [Step::Accept, Step::Start, end] {
        let next = head.next(step, Side::Worker, now, b"").expect("in order");
        let next = Statement::sign(&worker, &registry, next).expect("its own");
        head.follow(&next, &registry).expect("in order");
    }
    let work = 1000 * u64::from(tape.word());
    let times = Times::from_millis([0, 0, now.as_millis() - work, now.as_millis()]);
    let claim = Claim::sign(&worker, &registry, &head, times).expect("it has ended");
    let receipt = Receipt::sign(&submitter, &registry, &head, &claim, times).expect("its own");
    let mut bytes = receipt.encode().to_vec();
    if tape.below(8) == 7 {
        let bit = usize::from(tape.word()) % (8 * bytes.len());
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    bytes
}

impl Client {
    fn flush(&mut self, outpost: &mut Outpost) {
        let bytes = self.channel.output().to_vec();
        self.channel.sent(bytes.len());
        outpost.bytes(self.conn, &bytes);
    }

    fn answered(&mut self, plaintext: &[u8]) {
        let envelope = Envelope::parse(plaintext).expect("an answer is an envelope");
        assert_ne!(envelope.kind, EnvelopeKind::Request);
        let count = self.asked.get_mut(&envelope.id).expect("an answer to nothing");
        *count = count.checked_sub(1).expect("two answers to one request");
        match envelope.answer().expect("an answer decodes") {
            Ok(Answer::Reserved { address }) => {
                assert!(address.node.is_agent());
                self.address = address;
            }
            Ok(Answer::Registered { record, .. }) => {
                let record = Record::decode(record.as_slice()).expect("a record");
                assert_eq!(record.identity, self.identity.public());
                self.record = Some(record);
            }
            Ok(Answer::Page { entries, .. }) => {
                assert!(entries.iter().all(|entry| entry.is_ok()));
            }
            Ok(Answer::Mailbox { items, .. }) => {
                assert!(items.iter().all(|item| item.is_ok()));
            }
            _ => {}
        }
    }
}
