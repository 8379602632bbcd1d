//! The server on real sockets.

use crate::server::{AlternateBeacon, Server, ServerConfig, StartError};
use crate::test_client::{Client, Home, finished};
use crate::test_disk::{Disk, Fault};
use pilot_core::addr::{Address, NodeId};
use pilot_core::stats::DropReason;
use pilot_core::time::UnixTime;
use pilot_core::wire::registry::{ErrorCode, Reputation, Request};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

fn config(directory: &tempfile::TempDir, ip: &str) -> ServerConfig {
    let any_port = SocketAddr::new(ip.parse().unwrap(), 0);
    ServerConfig {
        registry_addr: any_port,
        beacon_addr: any_port,
        ..ServerConfig::new(directory.path().join("rendezvous/registry.json"))
    }
}

async fn patiently<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("it takes too long")
}

/// Reserves an address and registers under a name.
async fn join(server: &Server, home: &mut Home, name: &str) -> (Client, Address) {
    let mut client = Client::connect(server.registry_addr(), home).await.unwrap();
    let address = client.reserve(home).await.unwrap();
    let beacons = client.register(home, address, name).await.unwrap();
    assert_eq!(beacons, server.advertised());
    (client, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_registers_and_a_restart_keeps_its_address() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&directory, "127.0.0.1");
    let server = Server::start(config.clone()).await.unwrap();
    let (mut alice, mut bob) = (Home::new(1), Home::new(2));
    let (mut client, address) = join(&server, &mut alice, "alice").await;
    assert_eq!(address, Address::backbone(NodeId::FIRST_AGENT));
    assert_eq!(client.registry, server.key());
    let (_, second) = join(&server, &mut bob, "bob").await;
    assert_eq!(second.node.0, address.node.0 + 1);
    assert_eq!(client.resolve("bob").await, Ok(bob.identity.public()));
    let stats = server.stats();
    assert_eq!((stats.rendezvous.published, stats.failed_transactions), (2, 0));
    assert!(stats.transactions >= 1);

    let (key, export) = (server.key(), server.files().export.clone());
    config.registry_addr = server.registry_addr();
    config.beacon_addr = server.beacon_addr();
    patiently(server.shutdown()).await.unwrap();
    let text = std::fs::read_to_string(export).unwrap();
    assert!(text.contains("\"hostname\":\"alice\"") && text.contains("0:0000.0000.0011"), "{text}");
    // The connection was closed by the server.
    assert_eq!(patiently(client.stream.read(&mut [0; 64])).await.unwrap_or(0), 0);

    // The same ports, the same key, the same addresses, also over a channel with the record.
    let server = Server::start(config).await.unwrap();
    assert_eq!((server.key(), server.stats().rendezvous.published), (key, 2));
    let mut client = Client::connect(server.registry_addr(), &alice).await.unwrap();
    assert_eq!(client.resolve("bob").await, Ok(bob.identity.public()));
    assert_eq!(client.reserve(&alice).await, Ok(address));
    let (_, third) = join(&server, &mut Home::new(3), "carol").await;
    assert_eq!(third.node.0, address.node.0 + 2);
    patiently(server.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_a_server_that_was_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "127.0.0.1");
    let server = Server::start(config.clone()).await.unwrap();
    let mut alice = Home::new(1);
    let (_, address) = join(&server, &mut alice, "alice").await;
    let export = server.files().export.clone();
    drop(server);
    assert!(!export.exists(), "nobody asked for an export");
    let server = patiently(async {
        loop {
            // Its tasks may hold the store a moment longer.
            match Server::start(config.clone()).await {
                Err(error) if error.is_in_use() => {
                    tokio::time::sleep(Duration::from_millis(5)).await
                }
                other => break other.unwrap(),
            }
        }
    })
    .await;
    let mut client = Client::connect(server.registry_addr(), &alice).await.unwrap();
    assert_eq!(client.reserve(&alice).await, Ok(address));
}

/// W-R8: the reputation is computed again from the stored receipts, after a stop, after a server
/// that was dropped without a word, and out of an export.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "the server lives by the clock")]
async fn w_r8_a_reputation_is_computed_again_from_the_receipts() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "127.0.0.1");
    let (mut alice, mut bob) = (Home::new(1), Home::new(2));
    let mut server = Server::start(config.clone()).await.unwrap();
    let (_, at_alice) = join(&server, &mut alice, "alice").await;
    let (mut client, at_bob) = join(&server, &mut bob, "bob").await;
    let now = UnixTime::from_secs(
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(),
    );
    let receipt = |n| finished(&client.registry, &alice.identity, &bob.identity, n, now);
    let receipts = [1, 2, 3].map(receipt);
    for receipt in &receipts {
        client.hand_in(receipt).await.unwrap();
    }
    let earned = Reputation { earned: 12, completed: 3, ..Reputation::default() };
    let spent = Reputation { spent: 3, submitted: 3, ..Reputation::default() };
    let files = server.files().clone();
    for round in 0..4 {
        assert_eq!(client.reputation(at_bob).await, Ok(earned), "round {round}");
        assert_eq!(client.reputation(at_alice).await, Ok(spent), "round {round}");
        assert_eq!(server.stats().rendezvous.receipts, 3);
        // And each still counts once.
        client.hand_in(&receipts[0]).await.unwrap();
        match round {
            0 => drop(server),
            _ => patiently(server.shutdown()).await.unwrap(),
        }
        if round == 2 {
            std::fs::remove_file(&files.store).unwrap();
        }
        server = patiently(async {
            loop {
                match Server::start(config.clone()).await {
                    Err(error) if error.is_in_use() => {
                        tokio::time::sleep(Duration::from_millis(5)).await
                    }
                    other => break other.unwrap(),
                }
            }
        })
        .await;
        client = Client::connect(server.registry_addr(), &bob).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_founds_the_registry_anew() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "127.0.0.1");
    let server = Server::start(config.clone()).await.unwrap();
    let (mut alice, mut bob) = (Home::new(1), Home::new(2));
    let (_, address) = join(&server, &mut alice, "alice").await;
    let (key, files) = (server.key(), server.files().clone());
    patiently(server.shutdown()).await.unwrap();

    std::fs::remove_file(&files.store).unwrap();
    let server = Server::start(config.clone()).await.unwrap();
    assert_eq!(server.key(), key);
    let (mut client, second) = join(&server, &mut bob, "bob").await;
    // Numbers that the lost store may have handed out since the export are not used again.
    assert_eq!(second.node.0, address.node.0 + 1 + crate::NUMBERS_SKIPPED);
    assert_eq!(client.resolve("alice").await, Ok(alice.identity.public()));
    let mut client = Client::connect(server.registry_addr(), &alice).await.unwrap();
    assert_eq!(client.reserve(&alice).await, Ok(address));
    patiently(server.shutdown()).await.unwrap();

    // The key is lost, too.
    std::fs::remove_file(&files.store).unwrap();
    std::fs::remove_file(&files.key).unwrap();
    let refused = Server::start(config.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("registry.key"), "{refused}");
    let server = Server::start(ServerConfig { new_key: true, ..config }).await.unwrap();
    assert_ne!(server.key(), key);
    assert_eq!(server.stats().rendezvous.nodes, 2);
    patiently(server.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_on_the_same_files_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "127.0.0.1");
    let server = Server::start(config.clone()).await.unwrap();
    let refused = Server::start(config.clone()).await.unwrap_err();
    assert!(refused.is_in_use(), "{refused}");
    patiently(server.shutdown()).await.unwrap();
    let server = Server::start(config).await.unwrap();
    patiently(server.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_taken_as_given_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let base = config(&directory, "127.0.0.1");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let registry_addr = taken.local_addr().unwrap();
    let refused = Server::start(ServerConfig { registry_addr, ..base.clone() }).await.unwrap_err();
    assert!(matches!(refused, StartError::Registry { address, .. } if address == registry_addr));
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let beacon_addr = taken.local_addr().unwrap();
    let refused = Server::start(ServerConfig { beacon_addr, ..base.clone() }).await.unwrap_err();
    assert!(matches!(refused, StartError::Beacon(_)), "{refused}");
    for useless in ["0.0.0.0:9001", "192.0.2.1:0"] {
        let advertised = vec![useless.parse().unwrap()];
        let refused = Server::start(ServerConfig { advertised, ..base.clone() }).await.unwrap_err();
        assert!(matches!(refused, StartError::Advertised(_)), "{refused}");
    }
    // A failed start has let go of everything.
    let advertised: Vec<SocketAddr> =
        vec!["192.0.2.1:9001".parse().unwrap(), "[2001:db8::1]:9001".parse().unwrap()];
    let told = ServerConfig { advertised: advertised.clone(), ..base.clone() };
    let server = Server::start(told).await.unwrap();
    assert_eq!(server.advertised(), advertised);
    join(&server, &mut Home::new(1), "alice").await;
    patiently(server.shutdown()).await.unwrap();
    // A wildcard is never told to anybody.
    let beacon_addr = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let server = Server::start(ServerConfig { beacon_addr, ..base }).await.unwrap();
    let port = server.beacon_addr().port();
    assert!(!server.advertised().is_empty());
    assert!(server.advertised().iter().all(|at| !at.ip().is_unspecified() && at.port() == port));
    patiently(server.shutdown()).await.unwrap();
}

/// A STUN Binding request (RFC 8489) with a CHANGE-REQUEST (RFC 5780) if `change` is not 0;
/// where the answer came from, and its XOR-MAPPED-ADDRESS.
async fn ask_stun(socket: &UdpSocket, beacon: SocketAddr, change: u8) -> (SocketAddr, SocketAddr) {
    let mut request = vec![0, 1, 0, 0];
    request.extend(0x2112_A442u32.to_be_bytes());
    request.extend(b"transaction!");
    if change != 0 {
        request[3] = 8;
        request.extend([0, 3, 0, 4, 0, 0, 0, change]);
    }
    socket.send_to(&request, beacon).await.unwrap();
    let mut answer = [0; 512];
    let (length, from) = patiently(socket.recv_from(&mut answer)).await.unwrap();
    let answer = &answer[..length];
    assert_eq!((&answer[..2], &answer[8..20]), (&[1, 1][..], &b"transaction!"[..]));
    let mut at = 20;
    while answer[at..at + 2] != [0, 0x20] {
        at += 4 + usize::from(answer[at + 3]).next_multiple_of(4);
    }
    let value = &answer[at + 4..];
    let port = u16::from_be_bytes([value[2], value[3]]) ^ 0x2112;
    let clear = |n: usize| -> Vec<u8> {
        value[4..4 + n].iter().zip(&request[4..]).map(|(a, b)| a ^ b).collect()
    };
    let ip: IpAddr = match value[1] {
        1 => <[u8; 4]>::try_from(clear(4)).unwrap().into(),
        _ => <[u8; 16]>::try_from(clear(16)).unwrap().into(),
    };
    (from, SocketAddr::new(ip, port))
}

/// The address that the beacon sees, and the one that it should.
async fn stun(beacon: SocketAddr) -> (SocketAddr, SocketAddr) {
    let local: SocketAddr =
        if beacon.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }.parse().unwrap();
    let socket = UdpSocket::bind(local).await.unwrap();
    let (from, mapped) = ask_stun(&socket, beacon, 0).await;
    assert_eq!(from, beacon);
    (mapped, socket.local_addr().unwrap())
}

/// All of 127/8 is local on Linux alone.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_beacon_with_two_addresses_answers_from_each_corner() {
    let directory = tempfile::tempdir().unwrap();
    let base = config(&directory, "127.0.0.1");
    let with = |listen: &str| {
        let listen = listen.parse().unwrap();
        ServerConfig {
            beacon_alt: Some(AlternateBeacon { listen, advertised: None }),
            ..base.clone()
        }
    };
    for same in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
        let refused = Server::start(with(same)).await.unwrap_err();
        assert!(matches!(refused, StartError::Alternate { .. }), "{refused}");
    }
    let server = Server::start(with("127.0.0.2:0")).await.unwrap();
    let beacon = server.beacon_addr();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // CHANGE-REQUEST: 2 changes the port, 4 the address.
    let mut corners = Vec::new();
    for change in [0, 2, 4, 6] {
        let (from, mapped) = ask_stun(&socket, beacon, change).await;
        assert_eq!(mapped, socket.local_addr().unwrap());
        corners.push(from);
    }
    let second: IpAddr = "127.0.0.2".parse().unwrap();
    assert_eq!(corners[0], beacon);
    assert_eq!(
        (corners[1].ip(), corners[2]),
        (beacon.ip(), SocketAddr::new(second, beacon.port()))
    );
    assert_eq!(corners[3], SocketAddr::new(second, corners[1].port()));
    assert_ne!(corners[1].port(), beacon.port());
    patiently(server.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_and_beacon_serve_both_families() {
    let at = |ip: &str, address: SocketAddr| SocketAddr::new(ip.parse().unwrap(), address.port());
    for (listen, clients) in [
        ("127.0.0.1", &["127.0.0.1"][..]),
        ("::1", &["::1"]),
        ("::", &["127.0.0.1", "::1"]),
        ("0.0.0.0", &["127.0.0.1"]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start(config(&directory, listen)).await.unwrap();
        assert_eq!(server.registry_addr().ip().to_string(), listen);
        assert_eq!(server.beacon_addr().ip().to_string(), listen);
        for (n, ip) in clients.iter().enumerate() {
            let home = Home::new(n as u8 + 1);
            let registry = at(ip, server.registry_addr());
            let mut client = Client::connect(registry, &home).await.unwrap();
            assert_eq!(client.reserve(&home).await.unwrap().node, NodeId(16 + n as u32));
            let (mapped, local) = stun(at(ip, server.beacon_addr())).await;
            assert_eq!(mapped, local, "through {ip} at {listen}");
        }
        let stats = server.stats();
        assert_eq!(stats.rendezvous.stun_answers, clients.len() as u64);
        assert_eq!((stats.io.stalls, stats.drops.total()), (0, 0));
        patiently(server.shutdown()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_an_answer_and_not_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let fault = Arc::new(Fault::default());
    let server =
        Server::start_on(config(&directory, "127.0.0.1"), Disk::opener(&fault)).await.unwrap();
    let mut alice = Home::new(1);
    let (mut client, address) = join(&server, &mut alice, "alice").await;
    fault.full.store(true, Ordering::SeqCst);
    let bob = Home::new(2);
    let mut other = Client::connect(server.registry_addr(), &bob).await.unwrap();
    let refused = patiently(other.reserve(&bob)).await.unwrap_err();
    assert_eq!((refused.code, refused.retry_ms), (ErrorCode::RateLimited, 1000));
    // What needs no disk goes on; what would be written is refused, not lost track of.
    assert_eq!(client.resolve("alice").await, Ok(alice.identity.public()));
    assert_eq!(stun(server.beacon_addr()).await.0.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert!(server.export().await.is_err());
    assert!(server.stats().failed_transactions >= 1);

    fault.full.store(false, Ordering::SeqCst);
    let reserved = patiently(async {
        loop {
            match other.reserve(&bob).await {
                Ok(address) => break address,
                Err(refused) => assert_eq!(refused.code, ErrorCode::RateLimited),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert_eq!(reserved.node.0, address.node.0 + 1);
    server.export().await.unwrap();
    patiently(server.shutdown()).await.unwrap();
    let server = Server::start(config(&directory, "127.0.0.1")).await.unwrap();
    assert_eq!(server.stats().rendezvous.nodes, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_do_not_speak_the_protocol_are_closed_and_limited() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(config(&directory, "127.0.0.1")).await.unwrap();
    let at = server.registry_addr();
    let mut rude = TcpStream::connect(at).await.unwrap();
    rude.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(patiently(rude.read(&mut [0; 64])).await.unwrap_or(0), 0);

    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(at).await.unwrap());
    }
    patiently(async {
        while server.stats().connections < 8 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let mut ninth = TcpStream::connect(at).await.unwrap();
    assert_eq!(patiently(ninth.read(&mut [0; 64])).await.unwrap_or(0), 0);
    assert_eq!(server.stats().drops.get(DropReason::Full), 1);
    // Silence ends after three seconds, and with it the claim to a place.
    for mut connection in silent {
        assert_eq!(patiently(connection.read(&mut [0; 64])).await.unwrap_or(0), 0);
    }
    Client::connect(at, &Home::new(1)).await.unwrap();
    patiently(async {
        while server.stats().connections > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(server.stats().rendezvous.connections, 0);
    patiently(server.shutdown()).await.unwrap();
}

/// Asks and never reads. The server must neither remember all answers nor wait for this client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_held_back() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(config(&directory, "127.0.0.1")).await.unwrap();
    let (mut greedy, mut modest) = (Home::new(1), Home::new(2));
    let (mut client, _) = join(&server, &mut greedy, "greedy").await;
    let mut sent = 0;
    loop {
        let requests: Vec<u8> = (0..100).flat_map(|_| client.seal(&Request::Beacons)).collect();
        let write = client.stream.write_all(&requests);
        match tokio::time::timeout(Duration::from_millis(500), write).await {
            Ok(Ok(())) => sent += requests.len(),
            Ok(Err(_)) | Err(_) => break,
        }
        // Socket buffers of both ends hold a few megabytes; answers are five times as long.
        assert!(sent < 64 << 20, "the server takes everything");
    }
    assert!(sent > 0);
    let (mut other, _) = patiently(join(&server, &mut modest, "modest")).await;
    assert_eq!(patiently(other.resolve("greedy")).await, Ok(greedy.identity.public()));
    // The stalled connection does not hold the stop up.
    patiently(server.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_export_follows_the_store_and_rests_when_nothing_changes() {
    let directory = tempfile::tempdir().unwrap();
    let export_interval = Duration::from_millis(30);
    let config = ServerConfig { export_interval, ..config(&directory, "127.0.0.1") };
    let server = Server::start(config).await.unwrap();
    let export = server.files().export.clone();
    let holds = |text: &'static str| {
        let export = export.clone();
        patiently(async move {
            while !std::fs::read_to_string(&export).is_ok_and(|found| found.contains(text)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    join(&server, &mut Home::new(1), "alice").await;
    holds("\"hostname\":\"alice\"").await;
    join(&server, &mut Home::new(2), "bob").await;
    holds("\"hostname\":\"bob\"").await;
    // `Register` may have been exported before its last commit; wait for the last one.
    tokio::time::sleep(export_interval * 10).await;
    let before = std::fs::metadata(&export).unwrap().modified().unwrap();
    tokio::time::sleep(export_interval * 10).await;
    assert_eq!(std::fs::metadata(&export).unwrap().modified().unwrap(), before);
    patiently(server.shutdown()).await.unwrap();
    assert_eq!(std::fs::metadata(&export).unwrap().modified().unwrap(), before);
}
