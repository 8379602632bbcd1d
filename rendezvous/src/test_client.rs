//! An agent's end of the registry channel by hand, over a real socket: for tests.

use pilot_core::addr::Address;
use pilot_core::crypto::aead::RUST_CRYPTO;
use pilot_core::crypto::assign::verify_keys;
use pilot_core::crypto::exchange::{
    Initiator, MESSAGE1_OVERHEAD, MESSAGE1_PAYLOAD, MESSAGE2_PAYLOAD, Pattern,
};
use pilot_core::crypto::record::RecordFields;
use pilot_core::crypto::request::sign_reserve;
use pilot_core::crypto::task::statement::submission;
use pilot_core::crypto::task::{Claim, Head, Receipt, Side, Statement, Step, TaskId, Times};
use pilot_core::crypto::{
    AeadKey, AeadProvider, CONTEXT, Identity, IdentityKey, Record, Suite, TunnelKey, TunnelSecret,
};
use pilot_core::session::handshake::key_schedule;
use pilot_core::session::payload::{Caps, InitPayload, P1_MAX, RespPayload};
use pilot_core::time::UnixTime;
use pilot_core::wire::Bytes;
use pilot_core::wire::registry::{
    Answer, Envelope, Refusal, Registration, Reputation, Request, Target, Visibility,
    encode_request,
};
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Who asks.
pub(crate) struct Home {
    pub(crate) identity: Identity,
    tunnel: TunnelSecret,
    boot_id: u64,
    record: Option<Record>,
}

impl Home {
    pub(crate) fn new(seed: u8) -> Self {
        Home {
            identity: Identity::from_secret([seed; 32]),
            tunnel: TunnelSecret::from_secret([seed ^ 0x80; 32]),
            boot_id: u64::from(seed),
            record: None,
        }
    }
}

/// The receipt of ten minutes of work that `worker` has just ended for `submitter`.
pub(crate) fn finished(
    registry: &IdentityKey,
    submitter: &Identity,
    worker: &Identity,
    task: u8,
    now: UnixTime,
) -> Receipt {
    let id = TaskId([task; 16]);
    let fields = submission(id, submitter.public(), worker.public(), now, b"work");
    let first = Statement::sign(submitter, registry, fields).unwrap();
    let mut head = Head::begin(&first, registry).unwrap();
    for step in [Step::Accept, Step::Start, Step::Complete] {
        let fields = head.next(step, Side::Worker, now, b"").unwrap();
        head.follow(&Statement::sign(worker, registry, fields).unwrap(), registry).unwrap();
    }
    let end = now.as_millis();
    let times = Times::from_millis([end - 600_000, end - 600_000, end - 600_000, end]);
    let claim = Claim::sign(worker, registry, &head, times).unwrap();
    Receipt::sign(submitter, registry, &head, &claim, times).unwrap()
}

/// An open channel.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    /// The registry's key, as it showed it.
    pub(crate) registry: IdentityKey,
    send: AeadKey,
    receive: AeadKey,
    sent: u64,
    received: u64,
    hash: [u8; 32],
    id: u32,
}

fn nonce(counter: &mut u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    *counter += 1;
    nonce
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

impl Client {
    /// Asks for the keys (`AOR0`) and opens the channel (`AOR1`), with the home's record if it
    /// has one.
    pub(crate) async fn connect(to: SocketAddr, home: &Home) -> io::Result<Client> {
        let mut stream = TcpStream::connect(to).await?;
        let asked = [7; 32];
        stream.write_all(&[b"AOR0", &asked[..]].concat()).await?;
        let mut keys = [0; 128];
        stream.read_exact(&mut keys).await?;
        let registry = IdentityKey(*keys.first_chunk().unwrap());
        let tunnel = TunnelKey(keys[32..64].try_into().unwrap());
        verify_keys(&registry, &asked, &tunnel, keys[64..].try_into().unwrap()).unwrap();

        let payload = InitPayload {
            caps: Caps::of(&RUST_CRYPTO),
            rekey: false,
            max_datagram: 0,
            src: home.record.map_or(Address::UNSPECIFIED, |record| record.fields.addr),
            dst: Address::REGISTRY,
            hs_seq: 0,
            known_peer_serial: 0,
            generation: 0,
            boot_id: home.boot_id.to_be_bytes(),
            record: home.record.map(|record| record.to_short()),
            early: None,
        };
        let mut message = [0; MESSAGE1_OVERHEAD + P1_MAX];
        let length = MESSAGE1_OVERHEAD + payload.encode(&mut message[MESSAGE1_PAYLOAD..]);
        let message = &mut message[..length];
        let mut ephemeral = [0; 32];
        getrandom::fill(&mut ephemeral).unwrap();
        let ephemeral = TunnelSecret::from_secret(ephemeral);
        let prologue = [&CONTEXT[..], b"AOR1"];
        let exchange = Initiator::write_message1(
            Pattern::Ik,
            &prologue,
            &home.tunnel,
            &tunnel,
            ephemeral,
            message,
        )
        .unwrap();
        let length = (length as u16).to_be_bytes();
        stream.write_all(&[b"AOR1", &length[..], message].concat()).await?;

        let mut message = read_framed(&mut stream).await?;
        let finished = exchange.read_message2(&home.tunnel, &mut message).unwrap();
        let payload = &message[MESSAGE2_PAYLOAD..message.len() - 16];
        let payload = RespPayload::decode(payload).unwrap();
        // Endpoints are told by the beacon alone (`wire.md` 9).
        assert_eq!(payload.observed, None);
        let suite = Suite::from_byte(payload.suite).unwrap();
        let keys = key_schedule(&finished, suite, 0, 0, true);
        Ok(Client {
            stream,
            registry,
            send: RUST_CRYPTO.key(suite, keys.send.as_bytes()),
            receive: RUST_CRYPTO.key(suite, keys.receive.as_bytes()),
            sent: 0,
            received: 0,
            hash: keys.hash,
            id: 0,
        })
    }

    /// A sealed request.
    pub(crate) fn seal(&mut self, request: &Request<'_>) -> Vec<u8> {
        self.id += 1;
        let mut text = vec![0; 4096];
        let length = encode_request(self.id, request, &mut text).unwrap();
        text.truncate(length);
        let tag = self.send.seal_in_place(nonce(&mut self.sent), &mut text);
        let framed = (text.len() as u16 + 16).to_be_bytes();
        [&framed[..], &text, &tag].concat()
    }

    /// Asks, and looks at the answer.
    pub(crate) async fn ask<T>(
        &mut self,
        request: &Request<'_>,
        look: impl FnOnce(Result<Answer<'_>, Refusal>) -> T,
    ) -> io::Result<T> {
        let sealed = self.seal(request);
        self.stream.write_all(&sealed).await?;
        let mut frame = read_framed(&mut self.stream).await?;
        let (text, tag) = frame.split_last_chunk_mut::<16>().unwrap();
        self.receive.open_in_place(nonce(&mut self.received), text, tag).unwrap();
        let envelope = Envelope::parse(text).unwrap();
        assert_eq!(envelope.id, self.id);
        Ok(look(envelope.answer().unwrap()))
    }

    pub(crate) async fn reserve(&mut self, home: &Home) -> Result<Address, Refusal> {
        let request = Request::Reserve {
            identity: Bytes(home.identity.public().0),
            proof: Bytes(sign_reserve(&home.identity, &self.hash)),
        };
        let look = |answer: Result<Answer<'_>, Refusal>| match answer? {
            Answer::Reserved { address } => Ok(address),
            other => panic!("{other:?}"),
        };
        self.ask(&request, look).await.unwrap()
    }

    /// Publishes a public record under `hostname`; gives the beacons' addresses.
    pub(crate) async fn register(
        &mut self,
        home: &mut Home,
        address: Address,
        hostname: &str,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let fields = RecordFields {
            addr: address,
            tunnel: home.tunnel.public(),
            serial: 1,
            not_after: 0,
            flags: 0,
            grant_epoch: 0,
            prev: [0; 32],
        };
        let record = Record::sign(&home.identity, &self.registry, fields);
        home.record = Some(record);
        let request = Request::Register(Registration {
            record: Bytes(record.encode()[..].try_into().unwrap()),
            boot_id: home.boot_id,
            earlier: Default::default(),
            takeover: false,
            hostname: Some(hostname.parse().unwrap()),
            tags: None,
            visibility: Some(Visibility::Public),
        });
        let look = |answer: Result<Answer<'_>, Refusal>| match answer? {
            Answer::Registered { beacons, .. } => Ok(beacons[0].addresses.to_vec()),
            other => panic!("{other:?}"),
        };
        self.ask(&request, look).await.unwrap()
    }

    /// Hands a receipt in.
    pub(crate) async fn hand_in(&mut self, receipt: &Receipt) -> Result<(), Refusal> {
        let request = Request::Receipt { receipt: &receipt.encode() };
        let look = |answer: Result<Answer<'_>, Refusal>| match answer? {
            Answer::Done => Ok(()),
            other => panic!("{other:?}"),
        };
        self.ask(&request, look).await.unwrap()
    }

    /// The reputation of a public agent.
    pub(crate) async fn reputation(&mut self, address: Address) -> Result<Reputation, Refusal> {
        let request = Request::Reputation { address, grant: None };
        let look = |answer: Result<Answer<'_>, Refusal>| match answer? {
            Answer::Reputation(reputation) => Ok(reputation),
            other => panic!("{other:?}"),
        };
        self.ask(&request, look).await.unwrap()
    }

    /// Whose name it is.
    pub(crate) async fn resolve(&mut self, hostname: &str) -> Result<IdentityKey, Refusal> {
        let target = Target::Hostname(hostname.parse().unwrap());
        let request = Request::Resolve { target, network: None, grant: None };
        let look = |answer: Result<Answer<'_>, Refusal>| match answer? {
            Answer::Resolved(found) => Ok(Record::decode(&found.record.0).unwrap().identity),
            other => panic!("{other:?}"),
        };
        self.ask(&request, look).await.unwrap()
    }
}
