//! Calls that wait: what they wait for, and how long.

use pilot_core::drive::conformance::{Rendezvous, check, fill};
use pilot_mio::blocking::{self, Agent, Stream, WaitError};
use pilot_mio::services::{
    BrokerLimits, ContentHash, HashAlgorithm, Heard, Kind, Note, Offer, Received,
};
use pilot_mio::{
    Address, AgentEvent, Command, ConnectError, Hostname, Identity, Limits, Link, Port,
    SocketAddress, StreamEnd, StreamFailure, Target,
};
use pilot_rendezvous::conformance::TestServer;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

const PORT: Port = Port(2000);
const LONG: Option<Duration> = Some(Duration::from_secs(20));
const SHORT: Option<Duration> = Some(Duration::from_millis(50));

fn start(world: &TestServer, number: u8) -> (Agent, Address) {
    let limits = Limits { buffer_bytes: 1 << 20, streams: 16, ..Limits::desktop() };
    start_with(world, number, limits)
}

fn start_with(world: &TestServer, number: u8, limits: Limits) -> (Agent, Address) {
    let builder = Agent::builder(Identity::from_secret([number; 32]))
        .registry(world.registry())
        .beacon(world.beacon())
        .limits(limits)
        .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let agent = blocking::start(builder).unwrap();
    let address = agent.ready(LONG).unwrap();
    (agent, address)
}

fn befriend(a: &Agent, b: &Agent) {
    let (mut at_a, mut at_b) = (a.events(), b.events());
    let to = b.address().unwrap();
    a.request_trust(to, "to be tested with").unwrap();
    while !matches!(at_b.next(LONG).unwrap(), AgentEvent::TrustRequested(_)) {}
    b.approve_trust(a.address().unwrap()).unwrap();
    while at_a.next(LONG).unwrap() != AgentEvent::TrustGranted(to) {}
}

fn pair(world: &TestServer) -> (Agent, Agent, Stream, Stream) {
    let ((a, _), (b, to)) = (start(world, 1), start(world, 2));
    befriend(&a, &b);
    let listener = b.listen(PORT).unwrap();
    let accepting = thread::spawn(move || listener.accept(LONG).unwrap());
    let left = a.connect(to, PORT, LONG).unwrap();
    let (right, from) = accepting.join().unwrap();
    assert_eq!(from.address, a.address().unwrap());
    (a, b, left, right)
}

#[test]
fn bytes_go_both_ways_between_threads() {
    const BYTES: usize = 4 << 20;
    let world = TestServer::start();
    let (a, b, left, right) = pair(&world);
    let carry = |key: u64, from: Stream, to: Stream| {
        let writing = thread::spawn(move || {
            let mut bytes = vec![0; BYTES];
            fill(key, 0, &mut bytes);
            (&from).write_all(&bytes).unwrap();
            from.finish().unwrap();
            from.acknowledged().unwrap();
        });
        let reading = thread::spawn(move || {
            let mut bytes = Vec::new();
            (&to).read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len(), BYTES);
            check(key, 0, &bytes);
        });
        [writing, reading]
    };
    let there = carry(1, left.clone(), right.clone());
    let back = carry(2, right, left);
    for thread in there.into_iter().chain(back) {
        thread.join().unwrap();
    }
    a.shutdown();
    assert!(a.is_ended() && !b.is_ended());
}

#[test]
fn nothing_waits_longer_than_it_may_and_nothing_is_lost_by_that() {
    let world = TestServer::start();
    let (a, b, mut left, mut right) = pair(&world);
    right.set_read_timeout(SHORT);
    assert_eq!(right.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
    left.set_write_timeout(SHORT);
    let full = loop {
        if let Err(error) = left.write(&[7; 10_000]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::TimedOut);
    assert_eq!(left.acknowledged().unwrap_err().kind(), ErrorKind::TimedOut);
    right.set_read_timeout(LONG);
    right.read_exact(&mut [0; 10_000]).unwrap();

    let listener = b.listen(Port(2001)).unwrap();
    assert_eq!(listener.accept(SHORT).unwrap_err(), WaitError::TimedOut);
    let (port, peers) = (b.datagrams(PORT).unwrap(), a.datagrams(Port(0)).unwrap());
    assert_eq!(port.recv_from(&mut [0], SHORT).unwrap_err(), WaitError::TimedOut);
    let to = SocketAddress { address: b.address().unwrap(), port: PORT };
    let mut buf = [0; 16];
    let (len, _) = (0..100)
        .find_map(|_| {
            peers.send_to(b"datagram", to).unwrap();
            port.recv_from(&mut buf, SHORT).ok()
        })
        .expect("a datagram");
    assert_eq!(&buf[..len], b"datagram");

    let waiting = thread::spawn(move || listener.accept(None).unwrap_err());
    thread::sleep(Duration::from_millis(20));
    b.shutdown();
    assert!(matches!(waiting.join().unwrap(), WaitError::Failed(_)));
    let ended = left.read(&mut [0]).unwrap_err();
    let why = ended.get_ref().and_then(|error| error.downcast_ref::<StreamFailure>()).unwrap();
    assert_eq!(why.0.to_string(), StreamEnd::Gone.to_string());
}

#[test]
fn agents_are_found_by_name_and_asked_for() {
    let world = TestServer::start();
    let ((a, _), (b, at)) = (start(&world, 1), start(&world, 2));
    befriend(&a, &b);
    let name: Hostname = "echo".parse().unwrap();
    b.ask(Command::SetHostname { name: name.clone(), network: None }, LONG).unwrap();
    b.ask(Command::SetVisibility { public: true }, LONG).unwrap();
    b.ask(Command::SetTags { tags: "echo".parse::<pilot_mio::Tag>().into_iter().collect() }, LONG)
        .unwrap();
    let found = a.resolve(name.clone(), None, LONG).unwrap();
    assert_eq!(found.address.node, at.node);
    let tags = "echo".parse::<pilot_mio::Tag>().into_iter().collect();
    let (page, next) = a.discover(tags, None, 0, LONG).unwrap();
    assert_eq!((page.len(), next), (1, None));
    let _listener = b.listen(PORT).unwrap();
    assert_eq!(a.connect(name, PORT, LONG).unwrap().peer().address.node, at.node);
    let nobody: Hostname = "nobody".parse().unwrap();
    let failed = a.connect(nobody, PORT, LONG).unwrap_err();
    assert!(matches!(failed, WaitError::Failed(ConnectError::Resolve(_))), "{failed:?}");
    let refused = a.connect(Target::Address(at), Port(9), LONG).unwrap_err();
    assert!(matches!(refused, WaitError::Failed(ConnectError::Failed(_))), "{refused:?}");
}

#[test]
fn the_last_handle_ends_the_agent_and_its_thread() {
    let world = TestServer::start();
    let (a, b, left, right) = pair(&world);
    let watch = pilot_mio::Handle::clone(&a);
    drop(a);
    assert!(!watch.is_ended());
    assert_ne!(b.info().link, Link::Offline);
    drop(left);
    for _ in 0..500 {
        if watch.is_ended() {
            // The goodbye has arrived, too.
            let mut rest = Vec::new();
            let _ = (&right).read_to_end(&mut rest);
            assert!(rest.is_empty());
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("the agent goes on");
}

/// Each service once, by calls that wait.
#[test]
fn services_wait_for_each_other() {
    let world = TestServer::start();
    let agent = |number| start_with(&world, number, Limits::desktop());
    let ((a, _), (b, to)) = (agent(1), agent(2));
    befriend(&a, &b);
    let exchange = b.listen_exchange().unwrap();
    let echo = b.listen_echo().unwrap();
    let events = b.listen_events(BrokerLimits::default()).unwrap();
    let serving = thread::spawn(move || {
        let mut incoming = exchange.wait_accept(LONG).unwrap();
        for n in 0..2 {
            let next = incoming.wait_next(LONG).unwrap();
            let Some(Received::Message(message)) = next else { panic!("{next:?}") };
            assert_eq!(message.content, [n]);
        }
        assert_eq!(incoming.wait_next(SHORT).unwrap_err().to_string(), "the time is over");
        incoming.acknowledge(incoming.unacknowledged()).unwrap();
        assert_eq!(incoming.wait_next(LONG).unwrap(), None);

        let mut incoming = exchange.wait_accept(LONG).unwrap();
        let next = incoming.wait_next(LONG).unwrap();
        let Some(Received::File(offer)) = next else { panic!("{next:?}") };
        incoming.accept(ContentHash::new(offer.hash)).unwrap();
        let mut content = Vec::new();
        incoming.read_to_end(&mut content).unwrap();
        check(3, 0, &content);
        incoming.acknowledge(1).unwrap();
        incoming.wait_flush(LONG).unwrap();
        assert_eq!(incoming.wait_next(LONG).unwrap(), None);

        echo.wait_accept(LONG).unwrap().wait_serve(LONG).unwrap();
        events.wait_accept(LONG).unwrap().wait_serve(LONG).unwrap();
        content.len()
    });
    let mut messages = a.connect_messages(to, LONG).unwrap();
    messages.queue(Kind::Binary, Note::default(), &[0]).unwrap();
    messages.wait_send(Kind::Binary, &[1], LONG).unwrap();
    drop(messages);

    let mut content = vec![0; 500_000];
    fill(3, 0, &mut content);
    let (id, size, note) = (a.transfer_id().unwrap(), content.len() as u64, Note::default());
    let (kind, hash) = (Kind::File, HashAlgorithm::Blake3);
    let name = Some("data.bin".parse().unwrap());
    let mut upload = a.upload(to, &Offer { id, kind, size, hash, name, note }, LONG).unwrap();
    upload.write_all(&content).unwrap();
    assert!(upload.wait_receipt(LONG).unwrap().is_some());
    drop(upload);

    let mut echo = a.connect_echo(to, LONG).unwrap();
    assert!(!echo.wait_round_trip(LONG).unwrap().is_zero());
    drop(echo);

    let mut client = a.connect_events(to, LONG).unwrap();
    client.wait_subscribe("a.*", false, LONG).unwrap();
    assert_eq!(client.wait_publish("a.b", b"data", false, LONG).unwrap(), 1);
    let heard = client.wait_next(LONG).unwrap();
    assert!(matches!(&heard, Heard::Event(event) if event.data == b"data"), "{heard:?}");
    assert!(matches!(client.wait_next(SHORT), Err(WaitError::TimedOut)));
    drop(client);
    assert_eq!(serving.join().unwrap(), content.len());
}
