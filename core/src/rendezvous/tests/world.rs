//! A store, homes with keys and records, and their channels and beacon sessions.

use crate::addr::{Address, NetworkId, NodeId};
use crate::crypto::record::RecordFields;
use crate::crypto::{
    Grant, Identity, IdentityKey, RUST_CRYPTO, Record, Rights, TunnelKey, TunnelSecret,
};
use crate::machine::{Ecn, Ingress, Machine, Path};
use crate::rendezvous::*;
use crate::rng::Rng;
use crate::session::channel::{BUFFER, ClientChannel, ClientEvent, Introduction};
use crate::session::handshake::{self, INIT_MAX, write_mac2};
use crate::session::keys::SmallSession;
use crate::session::payload::{Caps, InitPayload};
use crate::slab::Store;
use crate::time::{Duration, Instant, UnixTime};
use crate::wire::control::{self, ChannelInfo, FromBeacon, ToBeacon};
use crate::wire::registry::{Answer, Envelope, ErrorCode, Refusal, Registration, Request};
use crate::wire::{Bytes, GrantBytes, RecordBytes};
use core::net::SocketAddr;
use core::num::NonZeroUsize;
use std::collections::{BTreeMap, VecDeque};
use std::vec::Vec;

pub(crate) const REGISTRY: &str = "203.0.113.1:9001";

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// The rendezvous and what an adapter has around it.
pub(crate) struct World {
    pub(crate) machine: Rendezvous,
    pub(crate) now: Instant,
    pub(crate) store: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    /// Answer commits at once.
    pub(crate) storing: bool,
    next_conn: u64,
    next_home: u8,
    draws: u64,
    pub(crate) outbox: VecDeque<(Path, Vec<u8>)>,
    pub(crate) closed: Vec<ConnId>,
}

pub(crate) const START: u64 = 1_800_000_000;

impl World {
    pub(crate) fn new() -> Self {
        World::with(RendezvousConfig::default())
    }

    pub(crate) fn with(mut config: RendezvousConfig) -> Self {
        config.beacon.push(addr(REGISTRY)).unwrap();
        // A small ring is quicker to allocate a thousand times.
        config.limits.relay_queue_bytes = 1 << 17;
        let now = Instant::from_nanos(1_000_000_000);
        let machine = Rendezvous::new(
            config,
            Identity::from_secret([200; 32]),
            TunnelSecret::from_secret([201; 32]),
            &RUST_CRYPTO,
            [7; 32],
            now,
            UnixTime::from_secs(START),
        );
        World {
            machine,
            now,
            store: BTreeMap::new(),
            storing: true,
            next_conn: 1,
            next_home: 1,
            draws: 0,
            outbox: VecDeque::new(),
            closed: Vec::new(),
        }
    }

    /// The same rendezvous after a restart: a new machine, loaded from the store.
    pub(crate) fn restart(&mut self) {
        let mut fresh = World::new();
        for ((table, key), value) in &self.store {
            let change = Change { table: *table, key: key.clone(), value: Some(value.clone()) };
            fresh.machine.apply(&change).unwrap();
        }
        self.machine = fresh.machine;
        self.machine.set_wall_clock(self.now, self.unix());
        // What was due while it was made.
        self.machine.handle_timeout(self.now);
    }

    pub(crate) fn unix(&self) -> UnixTime {
        UnixTime::from_secs(START) + self.now.since(Instant::from_nanos(1_000_000_000))
    }

    pub(crate) fn registry_key(&self) -> IdentityKey {
        self.machine.identity()
    }

    pub(crate) fn tunnel_key(&self) -> TunnelKey {
        TunnelSecret::from_secret([201; 32]).public()
    }

    /// 32 bytes that no call before has given.
    pub(crate) fn random(&mut self) -> [u8; 32] {
        self.draws += 1;
        crate::crypto::kdf::sha256(&[b"world", &self.draws.to_be_bytes()])
    }

    pub(crate) fn sleep(&mut self, span: Duration) {
        let end = self.now + span;
        // A commit that nobody takes stays due.
        while self.storing {
            self.turn();
            match self.machine.poll_timeout().map(|timeout| timeout.at) {
                Some(at) if at <= end => {
                    assert!(at > self.now, "a timeout that has fired is still due");
                    self.now = at;
                    self.machine.handle_timeout(at);
                }
                _ => break,
            }
        }
        self.now = end;
        self.machine.handle_timeout(end);
        self.turn();
    }

    /// Does what an adapter does after each input.
    pub(crate) fn turn(&mut self) {
        while self.storing
            && let Some(commit) = self.machine.poll_commit(self.now)
        {
            self.keep(&commit);
            self.machine.handle_commit(self.now, commit.id, true);
        }
        let mut out = std::vec![0; 65_535];
        let segments = NonZeroUsize::new(64).unwrap();
        while let Some(t) = self.machine.poll_transmit(self.now, &mut out, segments) {
            let each = t.segment.map_or(t.len, |s| s.get().into());
            for datagram in out[..t.len].chunks(each) {
                self.outbox.push_back((t.path, datagram.to_vec()));
            }
        }
        while let Some(event) = self.machine.poll_event() {
            if let Event::CloseConnection(conn) = event {
                self.closed.push(conn);
            }
        }
    }

    pub(crate) fn keep(&mut self, commit: &Commit) {
        for change in commit.changes.clone() {
            match change.value {
                Some(value) => self.store.insert((change.table, change.key), value),
                None => self.store.remove(&(change.table, change.key)),
            };
        }
    }

    pub(crate) fn home(&mut self) -> Home {
        let n = self.next_home;
        self.next_home += 1;
        Home {
            identity: Identity::from_secret([n; 32]),
            tunnel: TunnelSecret::from_secret([n ^ 0x55; 32]),
            node: None,
            serial: 0,
            grant_epoch: 0,
            boot_id: u64::from(n) * 1000,
            hs_seq: 0,
            from: SocketAddr::new([192, 0, 2, n].into(), 4000),
        }
    }

    /// A home with an address and a record.
    pub(crate) fn registered(&mut self) -> (Home, Link) {
        let mut home = self.home();
        let mut link = self.connect(&home);
        self.reserve(&mut home, &mut link).unwrap();
        self.register(&mut home, &mut link).unwrap();
        (home, link)
    }

    pub(crate) fn reserve(&mut self, home: &mut Home, link: &mut Link) -> Result<(), Refusal> {
        let proof = crate::crypto::request::sign_reserve(&home.identity, &link.hash);
        let identity = Bytes(home.identity.public().0);
        let request = Request::Reserve { identity, proof: Bytes(proof) };
        let answer = self.ask(link, &request);
        match reply(&answer)? {
            Answer::Reserved { address } => home.node = Some(address.node),
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    /// Registers with the next serial.
    pub(crate) fn register(&mut self, home: &mut Home, link: &mut Link) -> Result<(), Refusal> {
        home.serial += 1;
        let request = home.registration(self.registry_key());
        self.register_with(link, request)
    }

    pub(crate) fn register_with(
        &mut self,
        link: &mut Link,
        request: Registration,
    ) -> Result<(), Refusal> {
        let answer = self.ask(link, &Request::Register(request.clone()));
        match reply(&answer)? {
            Answer::Registered { record, assign, beacons } => {
                assert_eq!(record, request.record);
                let registry = self.registry_key();
                let record = Record::decode(&record.0).unwrap();
                let assign = crate::crypto::Assign::decode(&assign.0).unwrap();
                assign.verify(&registry, &record).unwrap();
                let entry = crate::crypto::BeaconEntry::decode(&beacons[0].entry.0).unwrap();
                entry.verify(&registry).unwrap();
                assert_eq!(entry.tunnel, self.tunnel_key());
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    // ---- TCP ----

    pub(crate) fn open(&mut self, from: SocketAddr) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.machine.handle_open(self.now, conn, from);
        conn
    }

    pub(crate) fn bytes(&mut self, conn: ConnId, bytes: &[u8]) -> Vec<u8> {
        self.machine.handle_bytes(self.now, conn, bytes);
        self.read(conn)
    }

    pub(crate) fn read(&mut self, conn: ConnId) -> Vec<u8> {
        self.turn();
        let (mut all, mut out) = (Vec::new(), [0; 1000]);
        loop {
            match self.machine.poll_bytes(self.now, conn, &mut out) {
                0 => return all,
                n => all.extend_from_slice(&out[..n]),
            }
        }
    }

    /// Opens a channel as the home would: with its record once it has one.
    pub(crate) fn connect(&mut self, home: &Home) -> Link {
        self.try_connect(home).expect("the registry answers message 1")
    }

    pub(crate) fn try_connect(&mut self, home: &Home) -> Option<Link> {
        let conn = self.open(home.from);
        let seed = self.random();
        let (client, message1) =
            Connecting::start(home, self.registry_key(), self.tunnel_key(), seed);
        let answer = self.bytes(conn, &message1);
        if answer.is_empty() {
            return None;
        }
        Some(client.finish(conn, &home.tunnel, &answer))
    }

    /// Sends a request; gives the answer's plaintext, empty if there is none yet.
    pub(crate) fn ask(&mut self, link: &mut Link, request: &Request<'_>) -> Vec<u8> {
        link.id += 1;
        let mut plaintext = [0; 16 * 1024];
        let n = crate::wire::registry::encode_request(link.id, request, &mut plaintext).unwrap();
        let frame = link.seal(&plaintext[..n]);
        let answer = self.bytes(link.conn, &frame);
        link.receive(&answer)
    }

    // ---- UDP ----

    pub(crate) fn datagram(&mut self, from: SocketAddr, bytes: &[u8]) -> Ingress<'static> {
        self.datagram_on(Path::to(from), bytes)
    }

    pub(crate) fn datagram_on(&mut self, path: Path, bytes: &[u8]) -> Ingress<'static> {
        let mut bytes = bytes.to_vec();
        let result = match self.machine.handle_datagram(self.now, path, Ecn::NotEct, &mut bytes) {
            Ingress::Dropped(reason) => Ingress::Dropped(reason),
            _ => Ingress::Handled,
        };
        self.turn();
        result
    }

    /// Takes what was sent to `to`.
    pub(crate) fn sent_to(&mut self, to: SocketAddr) -> Vec<Vec<u8>> {
        let (mine, rest) =
            self.outbox.drain(..).partition::<VecDeque<_>, _>(|(path, _)| path.remote == to);
        self.outbox = rest;
        mine.into_iter().map(|(_, bytes)| bytes).collect()
    }

    /// A beacon session of a registered home, with `Hello` said.
    pub(crate) fn agent(&mut self, home: &mut Home) -> Agent {
        let mut agent = self.handshake(home).expect("the beacon answers");
        let answer = self.tell(&mut agent, &home.hello()).unwrap();
        assert!(matches!(answer, FromBeacon::HelloAck { .. }), "{answer:?}");
        agent
    }

    /// INIT, COOKIE, INIT with mac2, RESP.
    pub(crate) fn handshake(&mut self, home: &mut Home) -> Option<Agent> {
        let (initiator, mut init) = self.init(home);
        let _ = self.datagram(home.from, &init);
        let cookie = self.sent_to(home.from).pop()?;
        assert_eq!(cookie[0], 0x12);
        write_mac2(&mut init, Some(&initiator.read_cookie(&cookie).unwrap()));
        let _ = self.datagram(home.from, &init);
        let mut resp = self.sent_to(home.from).pop()?;
        if resp[0] == 0x13 {
            home.hs_seq = initiator.read_stale(&resp).unwrap();
            return self.handshake(home);
        }
        assert!(resp[0] == 0x11 && resp.len() <= init.len());
        let accepted = initiator.read_resp(&home.tunnel, &mut resp).unwrap().ok().unwrap();
        assert_eq!(accepted.payload.observed, Some(home.from));
        let expires = self.now + Duration::from_secs(3900);
        let index = initiator.index();
        let session = SmallSession::new(accepted.keys, index, accepted.remote_index, expires);
        Some(Agent { session, from: home.from, id: 1000, inbox: VecDeque::new(), init })
    }

    pub(crate) fn init(&mut self, home: &mut Home) -> (handshake::Initiator, Vec<u8>) {
        home.hs_seq += 1;
        let e = TunnelSecret::from_secret(self.random());
        let index = u32::from_be_bytes(self.random()[..4].try_into().unwrap()) | 1 << 31;
        let payload = home.payload(self.registry_key(), Address::BEACON);
        let mut out = [0; INIT_MAX];
        let (initiator, n) = handshake::Initiator::start(
            &home.tunnel,
            &self.tunnel_key(),
            e,
            index,
            &payload,
            &mut out,
        )
        .unwrap();
        (initiator, out[..n].to_vec())
    }

    /// Sends a frame with this content.
    pub(crate) fn frame(&mut self, agent: &mut Agent, content: &[u8]) -> Ingress<'static> {
        let frame = agent.seal(self.now, content);
        self.datagram(agent.from, &frame)
    }

    /// Takes what arrived for an agent: opened contents and relay frames go to its inbox.
    pub(crate) fn collect(&mut self, agent: &mut Agent) {
        for mut datagram in self.sent_to(agent.from) {
            if datagram[0] >= 0x80
                && agent.session.open(self.now, &RUST_CRYPTO, &mut datagram).is_ok()
            {
                agent.inbox.push_back(datagram[12..datagram.len() - 16].to_vec());
            } else {
                agent.inbox.push_back(datagram);
            }
        }
    }

    /// Sends a message and gives the answer with its id; others stay in the inbox.
    pub(crate) fn tell(&mut self, agent: &mut Agent, message: &ToBeacon) -> Option<FromBeacon> {
        agent.id += 1;
        let mut content = [0; control::MESSAGE_MAX];
        let n = control::encode(agent.id, message, &mut content).unwrap();
        let _ = self.frame(agent, &content[..n]);
        self.collect(agent);
        let place = agent.inbox.iter().position(|content| {
            // The beacon numbers its own messages from 0, far below the agents' ids.
            control::message_id(content) == Some(agent.id)
        })?;
        let content = agent.inbox.remove(place).unwrap();
        Some(control::decode(&content).unwrap().1)
    }

    /// Messages of the beacon that nobody asked for.
    pub(crate) fn unasked(&mut self, agent: &mut Agent) -> Vec<FromBeacon> {
        self.turn();
        self.collect(agent);
        let (messages, rest) = agent
            .inbox
            .drain(..)
            .partition::<VecDeque<_>, _>(|content| content.first() == Some(&control::BEACON));
        agent.inbox = rest;
        messages.iter().map(|content| control::decode(content).unwrap().1).collect()
    }

    /// Two agents with a channel: the binder's view and the other's.
    pub(crate) fn bound(&mut self) -> (Home, Agent, ChannelInfo, Home, Agent, ChannelInfo) {
        let ((mut a, _), (mut b, _)) = (self.registered(), self.registered());
        let (mut at_a, mut at_b) = (self.agent(&mut a), self.agent(&mut b));
        let grant = b.grant(self.registry_key(), &a);
        let answer = self.tell(&mut at_a, &ToBeacon::Bind { grant });
        let Some(FromBeacon::Channel(of_a)) = answer else { panic!("{answer:?}") };
        let told = self.unasked(&mut at_b);
        let [FromBeacon::Bound(of_b)] = &told[..] else { panic!("{told:?}") };
        let of_b = of_b.clone();
        self.tell(&mut at_b, &ToBeacon::BoundAck { channel: of_b.channel });
        (a, at_a, of_a, b, at_b, of_b)
    }
}

/// An agent's keys and numbers.
pub(crate) struct Home {
    pub(crate) identity: Identity,
    pub(crate) tunnel: TunnelSecret,
    pub(crate) node: Option<NodeId>,
    pub(crate) serial: u64,
    pub(crate) grant_epoch: u32,
    pub(crate) boot_id: u64,
    pub(crate) hs_seq: u64,
    pub(crate) from: SocketAddr,
}

impl Home {
    pub(crate) fn key(&self) -> IdentityKey {
        self.identity.public()
    }

    pub(crate) fn address(&self) -> Address {
        Address::backbone(self.node.unwrap())
    }

    pub(crate) fn in_network(&self, network: u16) -> Address {
        Address::new(NetworkId(network), self.node.unwrap())
    }

    /// The same keys, on another machine.
    pub(crate) fn copy(&self) -> Home {
        Home {
            identity: Identity::from_secret(*self.identity.secret()),
            tunnel: TunnelSecret::from_secret(*self.tunnel.secret()),
            ..*self
        }
    }

    pub(crate) fn record(&self, registry: IdentityKey) -> Record {
        let fields = RecordFields {
            addr: self.address(),
            tunnel: self.tunnel.public(),
            serial: self.serial,
            not_after: 0,
            flags: 0,
            grant_epoch: self.grant_epoch,
            prev: [0; 32],
        };
        Record::sign(&self.identity, &registry, fields)
    }

    pub(crate) fn record_bytes(&self, registry: IdentityKey) -> RecordBytes {
        Bytes(self.record(registry).encode()[..].try_into().unwrap())
    }

    pub(crate) fn registration(&self, registry: IdentityKey) -> Registration {
        Registration {
            record: self.record_bytes(registry),
            boot_id: self.boot_id,
            earlier: heapless::Vec::new(),
            takeover: false,
            hostname: None,
            tags: None,
            visibility: None,
        }
    }

    pub(crate) fn grant(&self, registry: IdentityKey, to: &Home) -> GrantBytes {
        let (epoch, nonce) = (self.grant_epoch, [1; 8]);
        let grant = Grant::sign(
            &self.identity,
            &registry,
            self.address(),
            to.key(),
            Rights::ALL,
            epoch,
            nonce,
        );
        Bytes(grant.encode())
    }

    pub(crate) fn hello(&self) -> ToBeacon {
        let candidates = control::Candidates::from_slice(&[control::Endpoint {
            kind: control::EndpointKind::Host,
            address: addr("10.0.0.1:4000"),
        }])
        .unwrap();
        ToBeacon::Hello { address: self.address(), boot_id: self.boot_id, candidates, nat: 5 }
    }

    fn payload(&self, registry: IdentityKey, dst: Address) -> InitPayload {
        let published = self.serial > 0;
        InitPayload {
            caps: Caps::of(&RUST_CRYPTO),
            rekey: false,
            max_datagram: 1232,
            src: if published { self.address() } else { Address::UNSPECIFIED },
            dst,
            hs_seq: self.hs_seq,
            known_peer_serial: 0,
            generation: 1,
            boot_id: self.boot_id.to_be_bytes(),
            record: published.then(|| self.record(registry).to_short()),
            early: None,
        }
    }
}

/// A client that has sent message 1.
pub(crate) struct Connecting {
    channel: ClientChannel<'static>,
    rng: Rng,
}

impl Connecting {
    pub(crate) fn start(
        home: &Home,
        registry: IdentityKey,
        tunnel: TunnelKey,
        seed: [u8; 32],
    ) -> (Self, Vec<u8>) {
        let published = home.serial > 0;
        let us = Introduction {
            address: if published { home.address() } else { Address::UNSPECIFIED },
            record: published.then(|| home.record(registry)),
            boot_id: home.boot_id.to_be_bytes(),
            max_datagram: 1232,
            caps: Caps::of(&RUST_CRYPTO),
        };
        let buffer = || Store::<u8>::boxed_zeroed(BUFFER);
        let (mut rng, pin) = (Rng::new(seed), Some(registry));
        let mut channel =
            ClientChannel::new(us, &home.tunnel, pin, Some(tunnel), &mut rng, buffer(), buffer());
        let bytes = channel.output().to_vec();
        channel.sent(bytes.len());
        (Connecting { channel, rng }, bytes)
    }

    pub(crate) fn finish(mut self, conn: ConnId, tunnel: &TunnelSecret, answer: &[u8]) -> Link {
        assert_eq!(self.channel.handle_bytes(answer), answer.len());
        let hash = match self.channel.poll(tunnel, &RUST_CRYPTO, &mut self.rng).unwrap() {
            Some(ClientEvent::Open { hash }) => hash,
            other => panic!("{other:?}"),
        };
        let secret = TunnelSecret::from_secret(*tunnel.secret());
        Link { conn, hash, channel: self.channel, rng: self.rng, secret, id: 0 }
    }
}

/// An open channel, client side.
pub(crate) struct Link {
    pub(crate) conn: ConnId,
    pub(crate) hash: [u8; 32],
    channel: ClientChannel<'static>,
    rng: Rng,
    secret: TunnelSecret,
    pub(crate) id: u32,
}

impl Link {
    /// The bytes of one frame.
    pub(crate) fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let sent = self.channel.send(|frame| {
            frame[..plaintext.len()].copy_from_slice(plaintext);
            Some(plaintext.len())
        });
        assert_eq!(sent, Some(plaintext.len()));
        let bytes = self.channel.output().to_vec();
        self.channel.sent(bytes.len());
        bytes
    }

    /// The plaintext of one frame, or nothing.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut all = self.receive_all(bytes);
        assert!(all.len() <= 1);
        all.pop().unwrap_or_default()
    }

    pub(crate) fn receive_all(&mut self, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            bytes = &bytes[self.channel.handle_bytes(bytes)..];
            match self.channel.poll(&self.secret, &RUST_CRYPTO, &mut self.rng).unwrap() {
                Some(ClientEvent::Frame(plaintext)) => all.push(plaintext.to_vec()),
                None => {
                    assert!(bytes.is_empty());
                    return all;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// What the registry said.
pub(crate) fn reply(plaintext: &[u8]) -> Result<Answer<'_>, Refusal> {
    Envelope::parse(plaintext).expect("an answer").answer().expect("it decodes")
}

/// The code of an error.
pub(crate) fn code(plaintext: &[u8]) -> ErrorCode {
    reply(plaintext).expect_err("an error").code
}

/// A beacon session, agent side.
pub(crate) struct Agent {
    pub(crate) session: SmallSession,
    pub(crate) from: SocketAddr,
    pub(crate) id: u16,
    pub(crate) inbox: VecDeque<Vec<u8>>,
    /// The INIT that made it, with mac2.
    pub(crate) init: Vec<u8>,
}

impl Agent {
    pub(crate) fn seal(&mut self, now: Instant, content: &[u8]) -> Vec<u8> {
        let mut frame = std::vec![0; 28 + content.len()];
        frame[12..12 + content.len()].copy_from_slice(content);
        self.session.seal(now, &RUST_CRYPTO, &mut frame, content.len()).unwrap();
        frame
    }
}
