//! Resident memory of a node (a process of its own) with a thousand peers, which live here.

use crate::bulk::PAYLOAD;
use crate::measure::runtime;
use crate::pilot::{Location, PORT, Provider, Rendezvous, builder, start, trust, until};
use crate::quic::{self, Certified};
use crate::table::{Metric, Table};
use pilot_core::rendezvous::RendezvousLimits;
use pilot_tokio::{Address, Agent, Limits, SocketAddress, Stream, Tokio};
use rustls::pki_types::CertificateDer;
use std::future::Future;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

/// Peers that are set up at once; the registry keeps 32 requests for trust.
const AT_ONCE: usize = 16;
const LEN: usize = 64;
/// After the last peer, before memory is read.
const SETTLE: Duration = Duration::from_secs(3);
/// As often as a limit of rates may be asked to count.
const PLENTY: u32 = 1_000_000;

/// What the measured process is.
#[derive(Clone, Copy, clap::Subcommand)]
pub enum Node {
    /// An agent that approves whoever asks, and echoes.
    Pilot { registry: SocketAddr, beacon: SocketAddr, peers: usize },
    /// A QUIC server that echoes.
    Quinn,
}

// ---- the measured process ----

/// Runs until standard input ends.
pub fn node(node: Node) {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    runtime().block_on(async {
        match node {
            Node::Pilot { registry, beacon, peers } => {
                pilot_node(Location { registry, beacon }, peers).await;
            }
            Node::Quinn => quinn_node().await,
        }
    });
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let mut message = [0; LEN];
    while stream.read_exact(&mut message).await.is_ok() {
        stream.write_all(&message).await.expect("room");
    }
}

/// The tables of so many peers, and no limit by source: all peers come from one here.
fn limits(peers: usize) -> Limits {
    Limits {
        peers,
        sessions: 2 * peers + 64,
        channels: peers.max(64),
        handshakes_per_second: PLENTY,
        handshakes_per_source: PLENTY,
        ..Limits::desktop()
    }
}

fn secret(n: u64) -> [u8; 32] {
    let mut secret = [1; 32];
    secret[..8].copy_from_slice(&n.to_be_bytes());
    secret
}

async fn pilot_node(at: Location, peers: usize) {
    // Every process is an agent of its own: one identity in two homes would be fenced.
    let agent: Agent =
        start(builder(secret(u64::MAX - peers as u64), at, Provider::Ring).limits(limits(peers)))
            .await;
    let listener = agent.listen(PORT).expect("a free port");
    let datagrams = agent.datagrams(PORT).expect("a free port");
    println!("{}", agent.address().expect("registered"));
    let approve = async {
        loop {
            for request in agent.trust_requests() {
                agent.approve_trust(request.from).expect("room");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let accept = async {
        loop {
            let (stream, _) = listener.accept().await.expect("a stream");
            tokio::spawn(echo(stream));
        }
    };
    let answer = async {
        let mut buf = [0; LEN];
        loop {
            let (len, from) = datagrams.recv_from(&mut buf).await.expect("a datagram");
            datagrams.send_to(&buf[..len], from).expect("a peer");
        }
    };
    let ((), (), ()) = tokio::join!(approve, accept, answer);
}

async fn quinn_node() {
    let certified = Certified::new();
    let hex: String = certified.certificate.iter().map(|byte| format!("{byte:02x}")).collect();
    let options = quic::Options { tuned: false, payload: PAYLOAD, idle: true };
    let endpoint = quic::server(options, certified);
    println!("{} {hex}", endpoint.local_addr().expect("bound"));
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async {
            let connection = incoming.await.expect("connected");
            while let Ok((send, receive)) = connection.accept_bi().await {
                tokio::spawn(echo(tokio::io::join(receive, send)));
            }
        });
    }
}

// ---- the process that measures ----

/// A measured process; ends when dropped.
struct Measured {
    child: Child,
    stdin: Option<ChildStdin>,
    /// What it said of itself.
    line: String,
}

impl Measured {
    fn start(arguments: &[String]) -> Self {
        let this = std::env::current_exe().expect("a path");
        let mut child = Command::new(this)
            .arg("memory-node")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let stdin = child.stdin.take();
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        Measured { child, stdin, line: line.trim().to_owned() }
    }

    /// Resident bytes, in KiB.
    fn resident(&self) -> f64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("still running");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Does something for every peer, a few at once.
async fn for_each<I, F, T>(items: I, task: impl Fn(I::Item) -> F) -> Vec<T>
where
    I: IntoIterator,
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let (mut set, mut done) = (JoinSet::new(), Vec::new());
    for item in items {
        if set.len() == AT_ONCE {
            done.push(set.join_next().await.expect("some").expect("no panic"));
        }
        set.spawn(task(item));
    }
    done.extend(set.join_all().await);
    done
}

async fn first_echo<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> S {
    let mut answer = [0; LEN];
    stream.write_all(&[7; LEN]).await.expect("room");
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(answer, [7; LEN]);
    stream
}

/// A peer, whose own limits are those of a microcontroller.
async fn peer(n: usize, at: Location, node: Address) -> Agent {
    let agent = start(builder(secret(n as u64), at, Provider::Ring).limits(Limits::small())).await;
    trust(&agent, node).await;
    agent
}

/// A datagram there and back: a session, and nothing that needs a stream.
async fn session(agent: Agent, node: Address) {
    let port = agent.datagrams(PORT).expect("a free port");
    let mut buf = [0; LEN];
    loop {
        port.send_to(&[7; LEN], SocketAddress { address: node, port: PORT }).expect("a peer");
        let answer = tokio::time::timeout(Duration::from_millis(500), port.recv_from(&mut buf));
        if let Ok(answer) = answer.await {
            assert_eq!(answer.expect("bound").0, LEN);
            return;
        }
    }
}

async fn stream(agent: Agent, node: Address) -> Stream {
    first_echo(agent.connect(node, PORT).await.expect("connected")).await
}

fn arguments(at: Location, peers: usize) -> [String; 4] {
    ["pilot".into(), at.registry.to_string(), at.beacon.to_string(), peers.to_string()]
}

/// KiB: of a node with nobody, then each peer's share as it is trusted, has a session, and has
/// an idle stream.
async fn pilot(peers: usize) -> [f64; 6] {
    let server = Rendezvous::start(RendezvousLimits {
        unauthenticated_per_source: PLENTY as usize,
        reserves_per_minute: PLENTY,
        stun_per_second: PLENTY,
        channel_handshakes_per_second: PLENTY,
        channel_handshakes_per_source: PLENTY,
        beacon_handshakes_per_second: PLENTY,
        beacon_handshakes_per_source: PLENTY,
        channels_per_node: 2 * peers + 64,
        ..RendezvousLimits::server()
    });
    let at = server.at;
    // One that can have no more than four peers shows what the tables cost.
    let small = Measured::start(&arguments(at, 4));
    tokio::time::sleep(SETTLE).await;
    let bare = small.resident();
    drop(small);
    let measured = Measured::start(&arguments(at, peers));
    let node: Address = measured.line.parse().expect("an address");
    tokio::time::sleep(SETTLE).await;
    let empty = measured.resident();
    let agents = for_each(0..peers, move |n| peer(n, at, node)).await;
    tokio::time::sleep(SETTLE).await;
    let trusted = measured.resident();
    for_each(agents.clone(), move |agent| session(agent, node)).await;
    tokio::time::sleep(SETTLE).await;
    let sessions = measured.resident();
    let open = for_each(agents.clone(), move |agent| stream(agent, node)).await;
    until::<Tokio>(|| agents.iter().all(|a| a.trusted().iter().all(|p| p.streams == 1))).await;
    tokio::time::sleep(SETTLE).await;
    let streams = measured.resident();
    assert_eq!(open.len(), peers);
    let each = |to: f64, from: f64| (to - from) / peers as f64;
    [
        empty,
        each(empty, bare),
        each(trusted, bare),
        each(sessions, bare),
        each(streams, sessions),
        streams,
    ]
}

fn parse(line: &str) -> (SocketAddr, CertificateDer<'static>) {
    let (address, hex) = line.split_once(' ').expect("two words");
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    let certificate: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    (address.parse().expect("an address"), certificate.into())
}

async fn quinn(peers: usize) -> [f64; 6] {
    let measured = Measured::start(&["quinn".to_owned()]);
    let (at, certificate) = parse(&measured.line);
    let options = quic::Options { tuned: false, payload: PAYLOAD, idle: true };
    let endpoint = quic::client(options, certificate, false);
    tokio::time::sleep(SETTLE).await;
    let empty = measured.resident();
    let connections = for_each(0..peers, |_| {
        let connecting = endpoint.connect(at, "localhost").expect("a name");
        async { connecting.await.expect("connected") }
    })
    .await;
    tokio::time::sleep(SETTLE).await;
    let connected = measured.resident();
    let open = for_each(connections.clone(), |connection| async move {
        let (send, receive) = connection.open_bi().await.expect("a stream");
        first_echo(tokio::io::join(receive, send)).await
    })
    .await;
    tokio::time::sleep(SETTLE).await;
    let streams = measured.resident();
    assert_eq!(open.len(), peers);
    let each = |to: f64, from: f64| (to - from) / peers as f64;
    [empty, f64::NAN, f64::NAN, each(connected, empty), each(streams, connected), streams]
}

/// The peers need more than one core's patience, and are not measured.
fn crowd() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

pub fn run(rounds: usize, peers: usize) -> Vec<Table> {
    let metrics = [
        Metric::plain("node without peers, KiB", 0),
        Metric::plain("its tables, KiB a peer", 2),
        Metric::plain("trusted peer, KiB", 2),
        Metric::spread("peer with session, KiB", 2),
        Metric::spread("idle stream, KiB", 2),
        Metric::plain("all, KiB", 0),
    ];
    let title = format!("Memory: resident, {peers} peers");
    let mut table = Table::new(title, metrics, &["pilot, tokio, ring"]);
    for _ in 0..rounds {
        table.add("pilot, tokio, ring", &crowd().block_on(pilot(peers)));
        table.add("quinn, default", &crowd().block_on(quinn(peers)));
    }
    vec![table]
}
