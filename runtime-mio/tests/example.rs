//! `examples/beside_tcp.rs` at work, with a blocking agent at the other end.

#[path = "../examples/beside_tcp.rs"]
#[allow(dead_code, reason = "the test is the program's main function")]
mod beside_tcp;

use pilot_core::drive::conformance::{Rendezvous, check, fill};
use pilot_mio::{AgentEvent, Identity, Port, blocking};
use pilot_rendezvous::conformance::TestServer;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const LONG: Option<Duration> = Some(Duration::from_secs(20));

/// Gives back what it is sent, on every stream.
fn echo(mut stream: blocking::Stream) {
    let mut buf = vec![0; 10_000];
    loop {
        match stream.read(&mut buf).unwrap() {
            0 => break,
            n => stream.write_all(&buf[..n]).unwrap(),
        }
    }
    stream.finish().unwrap();
    stream.acknowledged().unwrap();
}

#[test]
fn tcp_connections_are_carried_to_an_agent_and_back() {
    const BYTES: usize = 1 << 20;
    let world = TestServer::start();
    let builder = blocking::Agent::builder(Identity::from_secret([2; 32]));
    let peer = blocking::start(builder.registry(world.registry()).beacon(world.beacon())).unwrap();
    let address = peer.ready(LONG).unwrap();
    let listener = peer.listen(Port(2000)).unwrap();
    let mut events = peer.events();

    let own = "07".repeat(32);
    let arguments = [own, world.registry(), world.beacon(), address.to_string()];
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let ended = beside_tcp::gateway(&arguments, |address| tell.send(address).unwrap());
        panic!("the gateway has ended: {ended:?}");
    });
    let tcp = told.recv_timeout(Duration::from_secs(20)).unwrap();
    loop {
        if let AgentEvent::TrustRequested(from) = events.next(LONG).unwrap() {
            peer.approve_trust(from).unwrap();
            break;
        }
    }
    thread::spawn(move || {
        loop {
            let (stream, _) = listener.accept(None).unwrap();
            thread::spawn(|| echo(stream));
        }
    });

    // Until the gateway knows that it is trusted, it closes connections.
    let deadline = Duration::from_secs(20);
    let first = (0..400).find_map(|_| {
        let mut probe = TcpStream::connect(tcp).unwrap();
        probe.set_read_timeout(Some(deadline)).unwrap();
        let answer = probe.write_all(b"hello").and_then(|()| {
            let mut answer = [0; 5];
            probe.read_exact(&mut answer).map(|()| answer)
        });
        if answer.is_err() {
            thread::sleep(Duration::from_millis(50));
        }
        answer.ok()
    });
    assert_eq!(first.as_ref(), Some(b"hello"));

    let clients = (1..5).map(|key| {
        thread::spawn(move || {
            let mut sent = vec![0; BYTES];
            fill(key, 0, &mut sent);
            let mut reader = TcpStream::connect(tcp).unwrap();
            reader.set_read_timeout(Some(deadline)).unwrap();
            let mut writer = reader.try_clone().unwrap();
            let writing = thread::spawn(move || {
                writer.write_all(&sent).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            writing.join().unwrap();
            assert_eq!(got.len(), BYTES);
            check(key, 0, &got);
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.join().unwrap();
    }
}
