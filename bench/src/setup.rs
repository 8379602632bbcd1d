//! From nothing to the first echo of a known peer.

use crate::bulk::PAYLOAD;
use crate::contest::run_ends;
use crate::contest::{Cores, OURS};
use crate::measure::{Checker, Source, Stopwatch, Took};
use crate::pilot::{PORT, Provider, Rendezvous, approve_one, builder, path, start, trust, until};
use crate::quic::{self, Certified};
use crate::table::{Metric, Table};
use pilot_core::rendezvous::RendezvousLimits;
use pilot_tokio::{Address, Agent, Change, MemoryStore, PathKind, Store, Tokio};
use quinn::VarInt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

/// Samples of a contestant in a round.
const SAMPLES: usize = 5;
const LEN: usize = 64;
/// Before each sample: goodbyes and acknowledgements of what was before are over.
const QUIET: Duration = Duration::from_millis(100);

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let (mut answer, mut checker) = ([0; LEN], Checker::new());
    stream.write_all(Source::new().next(LEN)).await.expect("room");
    stream.read_exact(&mut answer).await.expect("an answer");
    checker.check(&answer);
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let mut message = [0; LEN];
    stream.read_exact(&mut message).await.expect("a message");
    stream.write_all(&message).await.expect("room");
}

/// A store that outlives its agent.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<MemoryStore>>);

impl Store for Kept {
    fn load(&mut self, each: &mut dyn FnMut([u8; 8], &[u8])) -> io::Result<()> {
        self.0.lock().expect("nobody panics with it").load(each)
    }

    fn commit(&mut self, changes: &[Change]) -> io::Result<()> {
        self.0.lock().expect("nobody panics with it").commit(changes)
    }
}

/// Who is started anew before each sample, so that there is no session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Restarts {
    /// The peer, at the same address: our node knows where it was.
    Peer,
    /// We: what our store holds and what the registry told since is all that we know.
    We,
}

/// Sets up a tunnel and a stream, and has one message echoed.
async fn first_echo(agent: &Agent, peer: Address) -> Took {
    tokio::time::sleep(QUIET).await;
    assert_eq!(path(agent, peer), PathKind::None, "a session is left");
    let watch = Stopwatch::start();
    let mut stream = agent.connect(peer, PORT).await.expect("connected");
    ask(&mut stream).await;
    watch.stop()
}

fn pilot(provider: Provider, restarts: Restarts) -> Vec<Took> {
    let server = Rendezvous::start(RendezvousLimits::server());
    let at = server.at;
    let (tell, told) = oneshot::channel();
    let (up, is_up) = channel(1);
    let (done, is_done) = channel(1);
    let passive = move || async move { answer(provider, restarts, at, tell, up, is_done).await };
    let active = move || async move {
        let peer = told.await.expect("registered");
        measure(provider, restarts, at, peer, is_up, done).await
    };
    run_ends::<Tokio, _, _, _>(Cores::Split, active, passive)
}

/// The asking end.
async fn measure(
    provider: Provider,
    restarts: Restarts,
    at: crate::pilot::Location,
    peer: Address,
    mut is_up: Receiver<()>,
    done: Sender<()>,
) -> Vec<Took> {
    let store = Kept::default();
    let make = || start(builder([1; 32], at, provider).store(store.clone()));
    let mut agent = make().await;
    trust(&agent, peer).await;
    done.send(()).await.expect("awaited");
    let mut samples = Vec::new();
    for _ in 0..SAMPLES {
        if restarts == Restarts::We {
            agent.shutdown().await;
            agent = make().await;
        }
        is_up.recv().await.expect("running");
        until::<Tokio>(|| path(&agent, peer) == PathKind::None).await;
        if restarts == Restarts::Peer && samples.is_empty() {
            // So that we know a path at all; not counted.
            first_echo(&agent, peer).await;
            until::<Tokio>(|| path(&agent, peer) == PathKind::Direct).await;
            done.send(()).await.expect("awaited");
            is_up.recv().await.expect("running");
            until::<Tokio>(|| path(&agent, peer) == PathKind::None).await;
        }
        samples.push(first_echo(&agent, peer).await);
        done.send(()).await.expect("awaited");
    }
    agent.shutdown().await;
    samples
}

/// The answering end.
async fn answer(
    provider: Provider,
    restarts: Restarts,
    at: crate::pilot::Location,
    tell: oneshot::Sender<Address>,
    up: Sender<()>,
    mut is_done: Receiver<()>,
) {
    let store = Kept::default();
    let make = |listen: Option<SocketAddr>| {
        let builder = builder::<Tokio>([2; 32], at, provider).store(store.clone());
        start(listen.into_iter().fold(builder, |builder, listen| builder.listen(listen)))
    };
    let mut agent = make(None).await;
    tell.send(agent.address().expect("registered")).expect("awaited");
    approve_one(&agent).await;
    is_done.recv().await.expect("running");
    let local = agent.info().local[0];
    loop {
        if restarts == Restarts::Peer {
            agent.shutdown().await;
            agent = make(Some(local)).await;
        }
        let listener = agent.listen(PORT).expect("a free port");
        if up.send(()).await.is_err() {
            break;
        }
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = up.closed() => break,
        };
        let (mut stream, _) = accepted.expect("a stream");
        echo(&mut stream).await;
        if is_done.recv().await.is_none() {
            break;
        }
    }
    agent.shutdown().await;
}

/// A new connection of endpoints that have known each other for long, with a certificate of
/// the server only.
fn quinn(resume: bool) -> Vec<Took> {
    let options = quic::Options { tuned: false, payload: PAYLOAD, idle: false };
    let certified = Certified::new();
    let trusted = certified.certificate.clone();
    let (tell, told) = oneshot::channel();
    let passive = move || async move {
        let endpoint = quic::server(options, certified);
        tell.send(endpoint.local_addr().expect("bound")).expect("awaited");
        for _ in 0..=SAMPLES {
            let incoming = endpoint.accept().await.expect("somebody");
            let connection = incoming.await.expect("connected");
            let (send, receive) = connection.accept_bi().await.expect("a stream");
            echo(&mut tokio::io::join(receive, send)).await;
            connection.closed().await;
        }
    };
    let active = move || async move {
        let endpoint = quic::client(options, trusted, resume);
        let at = told.await.expect("bound");
        let mut samples = Vec::new();
        for n in 0..=SAMPLES {
            tokio::time::sleep(QUIET).await;
            let watch = Stopwatch::start();
            let connecting = endpoint.connect(at, "localhost").expect("a name");
            let connection = connecting.await.expect("connected");
            let (send, receive) = connection.open_bi().await.expect("a stream");
            ask(&mut tokio::io::join(receive, send)).await;
            let took = watch.stop();
            // The first one has no ticket to resume with.
            if n > 0 {
                samples.push(took);
            }
            // Tickets arrive after the handshake.
            tokio::time::sleep(QUIET).await;
            connection.close(VarInt::from_u32(0), b"");
        }
        endpoint.wait_idle().await;
        samples
    };
    run_ends::<Tokio, _, _, _>(Cores::Split, active, passive)
}

/// A row and how its samples of a round are taken.
type Contestant = (&'static str, fn() -> Vec<Took>);

pub fn run(rounds: usize) -> Vec<Table> {
    let contestants: [Contestant; 6] = [
        ("pilot, tokio, ring", || pilot(Provider::Ring, Restarts::Peer)),
        ("pilot, tokio, RustCrypto", || pilot(Provider::RustCrypto, Restarts::Peer)),
        ("pilot, tokio, ring, we restarted", || pilot(Provider::Ring, Restarts::We)),
        ("pilot, tokio, RustCrypto, we restarted", || pilot(Provider::RustCrypto, Restarts::We)),
        ("quinn", || quinn(false)),
        ("quinn, resumed", || quinn(true)),
    ];
    let title = format!(
        "Set-up: no session to the echo of {LEN} bytes, {} samples, a core an end",
        rounds * SAMPLES
    );
    let metrics = [Metric::spread("ms", 2), Metric::spread("CPU ms", 2)];
    let mut table = Table::new(title, metrics, OURS);
    for _ in 0..rounds {
        for (name, sample) in contestants {
            for took in sample() {
                table.add(name, &[took.seconds() * 1e3, took.cpu_seconds() * 1e3]);
            }
        }
    }
    vec![table]
}
