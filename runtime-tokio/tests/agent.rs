//! Agents over real sockets on loopback, with the real rendezvous machine in this process.

mod support;

use pilot_core::drive::services::Heard;
use pilot_core::service::events::BrokerLimits;
use pilot_core::stats::DropReason;
use pilot_tokio::{
    Agent, AgentEvent, Change, ConnectError, Hostname, Identity, Link, ListenError, MemoryStore,
    NetworkId, Port, ReadyError, SocketAddress, Store, Stream, StreamEnd,
};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PORT: Port = Port(2000);

/// Nothing here takes long; what hangs must fail.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("took twenty seconds")
}

fn builder(server: &Server, n: u8) -> pilot_tokio::Builder {
    Agent::builder(Identity::from_secret([n; 32]))
        .registry(&server.registry)
        .beacon(&server.beacon)
        .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

async fn start(server: &Server, n: u8) -> Agent {
    let agent = builder(server, n).bind().await.unwrap();
    within(agent.ready()).await.unwrap();
    agent
}

/// `a` asks, `b` approves.
async fn befriend(a: &Agent, b: &Agent) {
    let (a_at, b_at) = (a.address().unwrap(), b.address().unwrap());
    let (mut at_a, mut at_b) = (a.events(), b.events());
    a.request_trust(b_at, "a test").unwrap();
    within(async { while at_b.recv().await.unwrap() != AgentEvent::TrustRequested(a_at) {} }).await;
    assert_eq!(b.trust_requests()[0].justification.as_str(), "a test");
    b.approve_trust(a_at).unwrap();
    within(async { while at_a.recv().await.unwrap() != AgentEvent::TrustGranted(b_at) {} }).await;
    within(async {
        while !b.trusted().iter().any(|peer| peer.address == a_at && peer.grants_us) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn friends() -> (Server, Agent, Agent) {
    let server = Server::start().await;
    let (a, b) = (start(&server, 11).await, start(&server, 12).await);
    befriend(&a, &b).await;
    (server, a, b)
}

async fn pair(a: &Agent, b: &Agent) -> (Stream, Stream) {
    let listener = b.listen(PORT).unwrap();
    let (opened, accepted) =
        tokio::join!(within(a.connect(b.address().unwrap(), PORT)), within(listener.accept()));
    (opened.unwrap(), accepted.unwrap().0)
}

/// Bytes that show where they belong.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 251) as u8 ^ i as u8).collect()
}

#[tokio::test]
async fn registration_gives_an_address_and_keeps_it() {
    let server = Server::start().await;
    let store = Shown::default();
    let agent = builder(&server, 1).store(store.clone()).bind().await.unwrap();
    let mut events = agent.events();
    let address = within(agent.ready()).await.unwrap();
    assert_eq!(agent.address(), Some(address));
    within(async {
        while events.recv().await.unwrap() != AgentEvent::LinkChanged(Link::Online) {}
    })
    .await;
    assert_eq!(agent.info().link, Link::Online);
    within(agent.shutdown()).await;
    assert!(agent.info().local.is_empty());
    let again = builder(&server, 1).store(store).bind().await.unwrap();
    assert_eq!(within(again.ready()).await, Ok(address));
    // The same identity without that home's state is a copy.
    let copy = builder(&server, 1).bind().await.unwrap();
    assert_eq!(within(copy.ready()).await, Err(ReadyError::Fenced));
    let moved = builder(&server, 1).takeover(true).bind().await.unwrap();
    assert_eq!(within(moved.ready()).await, Ok(address));
}

#[tokio::test]
async fn a_registry_without_a_known_key_is_refused_if_first_use_is_forbidden() {
    let server = Server::start().await;
    let (location, _) = server.registry.split_once('#').unwrap();
    let careful = builder(&server, 1).registry(location).forbid_first_use(true).bind().await;
    let refused = within(careful.unwrap().ready()).await;
    assert!(matches!(refused, Err(ReadyError::RegistryUnknown(_))), "{refused:?}");
    let trusting = builder(&server, 2).registry(location).bind().await.unwrap();
    within(trusting.ready()).await.unwrap();
    assert!(trusting.info().registry_key.is_some());
}

#[tokio::test]
async fn without_trust_nobody_is_reached() {
    let server = Server::start().await;
    let (a, b) = (start(&server, 1).await, start(&server, 2).await);
    let _listener = b.listen(PORT).unwrap();
    let refused = a.connect(b.address().unwrap(), PORT).await;
    assert!(matches!(refused, Err(ConnectError::Command(_))), "{refused:?}");
}

#[tokio::test]
async fn a_megabyte_each_way_arrives_and_ends() {
    let (_server, a, b) = friends().await;
    let (mut left, right) = pair(&a, &b).await;
    assert_eq!(right.peer().address.node, a.address().unwrap().node);
    assert_eq!((left.peer().port, right.local_port()), (PORT, PORT));
    let sent = pattern(1 << 20);
    let (mut reader, mut writer) = right.into_split();
    let echo = tokio::spawn(async move {
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
        writer.acknowledged().await.unwrap();
    });
    let (mut reading, mut writing) = left.split();
    let mut got = Vec::new();
    within(async {
        let write = async {
            writing.write_all(&sent).await.unwrap();
            writing.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(reading.read_to_end(&mut got), write);
        read.unwrap();
    })
    .await;
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    within(echo).await.unwrap();
    assert_eq!(a.io_stats().stalls + b.io_stats().stalls, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_at_once_on_several_threads() {
    let (_server, a, b) = friends().await;
    let listener = b.listen(PORT).unwrap();
    let serve = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.into_split();
                tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                writer.shutdown().await.unwrap();
                let _ = writer.acknowledged().await;
            });
        }
    });
    let to = b.address().unwrap();
    let mut tasks = Vec::new();
    for n in 0..32usize {
        let a = a.clone();
        tasks.push(tokio::spawn(async move {
            let mut stream = a.connect(to, PORT).await.unwrap();
            let sent = pattern(10_000 + n);
            stream.write_all(&sent).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.unwrap();
            assert!(got == sent);
        }));
    }
    for task in tasks {
        within(task).await.unwrap();
    }
    serve.abort();
}

#[tokio::test]
async fn a_dropped_stream_still_delivers() {
    let (_server, a, b) = friends().await;
    let (mut left, mut right) = pair(&a, &b).await;
    let sent = pattern(30_000);
    within(left.write_all(&sent)).await.unwrap();
    drop(left);
    let mut got = Vec::new();
    within(right.read_to_end(&mut got)).await.unwrap();
    assert!(got == sent);
    assert!(a.connections().is_empty());
}

#[tokio::test]
async fn a_reset_is_an_error_for_the_peer() {
    let (_server, a, b) = friends().await;
    let (mut left, mut right) = pair(&a, &b).await;
    left.reset();
    let error = within(right.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn nobody_listens() {
    let (_server, a, b) = friends().await;
    let refused = within(a.connect(b.address().unwrap(), Port(4000))).await;
    assert_eq!(refused.unwrap_err(), ConnectError::Failed(StreamEnd::Refused));
}

/// A full ring makes the writer wait, and reading wakes it; a write that was given up has
/// accepted nothing.
#[tokio::test]
async fn writing_waits_for_the_reader_and_survives_cancellation() {
    let (_server, a, b) = friends().await;
    let (mut left, mut right) = pair(&a, &b).await;
    let chunk = pattern(1 << 20);
    let mut accepted = 0usize;
    // Until it would wait.
    while let Ok(n) = tokio::time::timeout(Duration::from_millis(500), left.write(&chunk)).await {
        accepted += n.unwrap();
        assert!(accepted < 256 << 20, "an unbounded ring");
    }
    let reader = tokio::spawn(async move {
        let mut total = 0;
        let mut buf = vec![0; 1 << 16];
        loop {
            match right.read(&mut buf).await.unwrap() {
                0 => return total,
                n => total += n,
            }
        }
    });
    within(left.write_all(b"last")).await.unwrap();
    left.shutdown().await.unwrap();
    assert_eq!(within(reader).await.unwrap(), accepted + 4);
}

#[tokio::test]
async fn accepting_can_be_given_up_without_losing_a_stream() {
    let (_server, a, b) = friends().await;
    let listener = b.listen(PORT).unwrap();
    for _ in 0..2000 {
        let given_up = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
        assert!(given_up.is_err());
    }
    let mut stream = within(a.connect(b.address().unwrap(), PORT)).await.unwrap();
    within(stream.write_all(b"x")).await.unwrap();
    let (mut accepted, from) = within(listener.accept()).await.unwrap();
    assert_eq!(from.address.node, a.address().unwrap().node);
    assert_eq!(within(accepted.read_u8()).await.unwrap(), b'x');
}

#[tokio::test]
async fn datagrams_go_round_and_overflow_drops_the_newest() {
    let (_server, a, b) = friends().await;
    let at_a = a.datagrams(Port(0)).unwrap();
    let at_b = b.datagrams(PORT).unwrap();
    let to = SocketAddress { address: b.address().unwrap(), port: PORT };
    let mut buf = [0; 2048];
    // Datagrams may be lost, so ask again.
    let (n, from) = within(async {
        loop {
            at_a.send_to(b"ping", to).unwrap();
            let recv = at_b.recv_from(&mut buf);
            if let Ok(got) = tokio::time::timeout(Duration::from_millis(300), recv).await {
                return got.unwrap();
            }
        }
    })
    .await;
    assert_eq!((&buf[..n], from.port), (&b"ping"[..], at_a.port()));
    at_b.send_to(b"pong", from).unwrap();
    let (n, _) = within(at_a.recv_from(&mut buf)).await.unwrap();
    assert_eq!(&buf[..n], b"pong");
    assert!(at_a.send_to(&[0; 60_000], to).is_err());
    within(async {
        while b.drops().get(DropReason::Inbox) == 0 {
            at_a.send_to(&[1; 1000], to).unwrap();
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(within(at_b.recv_from(&mut buf)).await.is_ok());
}

#[tokio::test]
async fn hostnames_lead_to_agents() {
    let (_server, a, b) = friends().await;
    let network = NetworkId(1);
    within(a.join(network)).await.unwrap();
    within(b.join(network)).await.unwrap();
    let name: Hostname = "bob".parse().unwrap();
    within(b.set_hostname(name.clone(), None)).await.unwrap();
    within(b.set_visibility(true)).await.unwrap();
    let info = b.info();
    assert!(info.is_public && info.default_network == network);
    assert!(info.memberships.contains(&(network, Some(name.clone()))), "{info:?}");
    let found = within(a.resolve(name.clone(), None)).await.unwrap();
    assert_eq!(found.address.node, b.address().unwrap().node);
    let _listener = b.listen(PORT).unwrap();
    let stream = within(a.connect(name, PORT)).await.unwrap();
    assert_eq!(stream.peer().address.node, b.address().unwrap().node);
    let unknown: Hostname = "nobody".parse().unwrap();
    let missing = within(a.connect(unknown, PORT)).await;
    assert!(matches!(missing, Err(ConnectError::Resolve(_))), "{missing:?}");
}

#[tokio::test]
async fn shutting_down_ends_what_waits_and_tells_the_peer() {
    let (_server, a, b) = friends().await;
    let (left, mut right) = pair(&a, &b).await;
    let listener = a.listen(Port(3000)).unwrap();
    let waiting = tokio::spawn(async move { listener.accept().await.map(|_| ()) });
    tokio::task::yield_now().await;
    within(a.shutdown()).await;
    assert_eq!(within(waiting).await.unwrap(), Err(ListenError::Shutdown));
    // The peer's side ends at once rather than after a timeout.
    assert!(within(right.read_u8()).await.is_err());
    drop(left);
}

/// A store that shows what is in it.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<MemoryStore>>);

impl Store for Shown {
    fn load(&mut self, each: &mut dyn FnMut([u8; 8], &[u8])) -> io::Result<()> {
        self.0.lock().unwrap().load(each)
    }

    fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        self.0.lock().unwrap().commit(changes)
    }
}

#[tokio::test]
async fn trust_survives_a_restart() {
    let server = Server::start().await;
    let store = Shown::default();
    let a = builder(&server, 1).store(store.clone()).bind().await.unwrap();
    within(a.ready()).await.unwrap();
    let b = start(&server, 2).await;
    befriend(&a, &b).await;
    within(a.shutdown()).await;
    drop(a);
    let a = builder(&server, 1).store(store).bind().await.unwrap();
    within(a.ready()).await.unwrap();
    assert_eq!(a.trusted().len(), 1);
    let (mut left, mut right) = pair(&a, &b).await;
    within(left.write_all(b"again")).await.unwrap();
    let mut buf = [0; 5];
    within(right.read_exact(&mut buf)).await.unwrap();
    assert_eq!(&buf, b"again");
}

/// W-C15. Nobody chose a port: the beacon sees, and peers are told, the one that the only socket
/// got, and come there directly.
#[tokio::test]
async fn agents_on_any_port_are_reached_directly_where_they_are() {
    let (_server, a, b) = friends().await;
    let _streams = pair(&a, &b).await;
    let own = b.info().local;
    assert!(own.len() == 1 && own[0].port() != 0, "{own:?}");
    within(async {
        while !a.peers().iter().any(|peer| peer.endpoint == Some(own[0])) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(b.info().observed, Some(own[0]));
}

#[tokio::test]
async fn services_have_futures() {
    let (_server, a, b) = friends().await;
    within(pilot_core::drive::conformance::futures::services(&a, &b)).await;
}

#[tokio::test]
async fn tasks_have_futures() {
    let (_server, a, b) = friends().await;
    within(pilot_core::drive::conformance::futures::tasks(&a, &b)).await;
}

/// Publications that are given up leave no place taken, however many they are: the answers come
/// to nobody, and the connection goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_may_be_given_up() {
    let (_server, a, b) = friends().await;
    let service = b.listen_events(BrokerLimits::default()).unwrap();
    let (events, connection) =
        within(async { tokio::join!(a.connect_events(b.address().unwrap()), service.accept()) })
            .await;
    let (mut events, mut connection) = (events.unwrap(), connection.unwrap());
    tokio::spawn(async move { connection.serve().await });
    let mut given_up = 0;
    for n in 0..2000 {
        let data = [n as u8; 8];
        tokio::select! {
            biased;
            answer = events.publish("a", &data, false) => assert_eq!(answer.unwrap(), 0),
            () = std::future::ready(()) => given_up += 1,
        }
        if n % 200 == 199 {
            // Meanwhile the answers come.
            assert_eq!(within(events.publish("b", b"", false)).await.unwrap(), 0);
        }
    }
    assert!(given_up > 1000, "{given_up}");
    within(events.subscribe("c", false)).await.unwrap();
    assert_eq!(within(events.publish("c", b"here", false)).await.unwrap(), 1);
    let Heard::Event(event) = within(events.next()).await.unwrap() else { panic!("lost") };
    assert_eq!(event.data, b"here");
}
