//! What is smol's own in an agent: executors, and streams as futures-io has them. The rest is
//! the conformance suite's.

use pilot_core::drive::conformance::Rendezvous;
use pilot_core::drive::conformance::run::{case, until};
use pilot_rendezvous::conformance::TestServer;
use pilot_smol::{
    Agent, AgentEvent, Builder, ConnectError, Identity, ListenError, Port, Stream, StreamEnd,
};
use smol::channel::{self, RecvError, Sender};
use smol::future::zip;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Executor, LocalExecutor, block_on};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;

const PORT: Port = Port(2000);

fn builder(server: &TestServer, n: u8) -> Builder {
    Agent::builder(Identity::from_secret([n; 32]))
        .registry(server.registry())
        .beacon(server.beacon())
        .listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

/// `a` asks, `b` approves.
async fn befriend(a: &Agent, b: &Agent) {
    let (a_at, b_at) = (a.ready().await.unwrap(), b.ready().await.unwrap());
    let (mut at_a, mut at_b) = (a.events(), b.events());
    a.request_trust(b_at, "a test").unwrap();
    while at_b.recv().await.unwrap() != AgentEvent::TrustRequested(a_at) {}
    b.approve_trust(a_at).unwrap();
    while at_a.recv().await.unwrap() != AgentEvent::TrustGranted(b_at) {}
    until("trust is mutual", || b.trusted().iter().any(|peer| peer.grants_us)).await;
}

/// On the global executor.
async fn friends() -> (TestServer, Agent, Agent) {
    let server = TestServer::start();
    let a = builder(&server, 1).bind().await.unwrap();
    let b = builder(&server, 2).bind().await.unwrap();
    befriend(&a, &b).await;
    (server, a, b)
}

async fn pair(a: &Agent, b: &Agent) -> (Stream, Stream) {
    let listener = b.listen(PORT).unwrap();
    let (opened, accepted) = zip(a.connect(b.address().unwrap(), PORT), listener.accept()).await;
    (opened.unwrap(), accepted.unwrap().0)
}

/// Bytes that show where they belong.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 251) as u8 ^ i as u8).collect()
}

/// Sends everything, reads what comes back to the end.
async fn echoed(mut stream: Stream, sent: &[u8]) -> Vec<u8> {
    let (mut reading, mut writing) = stream.split();
    let mut got = Vec::new();
    let write = async {
        writing.write_all(sent).await.unwrap();
        writing.close().await.unwrap();
        writing.acknowledged().await.unwrap();
    };
    let (read, ()) = zip(reading.read_to_end(&mut got), write).await;
    read.unwrap();
    got
}

async fn echo(stream: Stream) {
    let (reader, mut writer) = stream.into_split();
    smol::io::copy(reader, &mut writer).await.unwrap();
    writer.close().await.unwrap();
    writer.acknowledged().await.unwrap();
}

#[test]
fn a_megabyte_goes_there_and_back_in_halves_on_the_global_executor() {
    case::<pilot_smol::Clock>("a megabyte on the global executor", || {
        block_on(async {
            let (_server, a, b) = friends().await;
            let (left, right) = pair(&a, &b).await;
            let echo = smol::spawn(echo(right));
            let sent = pattern(1 << 20);
            let got = echoed(left, &sent).await;
            assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
            echo.await;
            assert_eq!(a.io_stats().stalls + b.io_stats().stalls, 0);
        });
    });
}

#[test]
fn halves_make_a_whole_again_and_no_other() {
    case::<pilot_smol::Clock>("halves are reunited", || {
        block_on(async {
            let (_server, a, b) = friends().await;
            let (left, mut right) = pair(&a, &b).await;
            let (other, _) = pair(&a, &b).await;
            let ((reader, writer), (other_reader, other_writer)) =
                (left.into_split(), other.into_split());
            let (reader, other_writer) = reader.reunite(other_writer).unwrap_err();
            drop((other_reader, other_writer));
            let mut left = reader.reunite(writer).unwrap();
            // Its writing direction did not end.
            left.write_all(b"whole").await.unwrap();
            let mut got = [0; 5];
            right.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"whole");
            right.reset();
            let error = left.read(&mut got).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        });
    });
}

/// Both agents and everything else on one thread, without the global executor.
#[test]
fn a_local_executor_runs_agents() {
    case::<pilot_smol::Clock>("a local executor", || {
        let executor = LocalExecutor::new();
        block_on(executor.run(async {
            let server = TestServer::start();
            let spawn = |task| executor.spawn(task).detach();
            let a = builder(&server, 1).bind_with(spawn).await.unwrap();
            let b = builder(&server, 2).bind_with(spawn).await.unwrap();
            befriend(&a, &b).await;
            let (left, right) = pair(&a, &b).await;
            let sent = pattern(200_000);
            let (got, ()) = zip(echoed(left, &sent), echo(right)).await;
            assert!(got == sent);
            zip(a.shutdown(), b.shutdown()).await;
            assert!(a.is_ended() && b.is_ended());
        }));
    });
}

/// Runs an executor on so many threads until the sender is dropped.
fn run_on(threads: usize) -> (Arc<Executor<'static>>, Sender<()>, Vec<JoinHandle<RecvError>>) {
    let executor = Arc::new(Executor::new());
    let (runs, over) = channel::bounded::<()>(1);
    let run = || {
        let (executor, over) = (Arc::clone(&executor), over.clone());
        std::thread::spawn(move || block_on(executor.run(over.recv())).unwrap_err())
    };
    let threads = (0..threads).map(|_| run()).collect();
    (executor, runs, threads)
}

#[test]
fn several_threads_share_an_executor() {
    case::<pilot_smol::Clock>("several threads", || {
        let (executor, _runs, _) = run_on(3);
        block_on(async {
            let server = TestServer::start();
            let spawn = |task| executor.spawn(task).detach();
            let a = builder(&server, 1).bind_with(spawn).await.unwrap();
            let b = builder(&server, 2).bind_with(spawn).await.unwrap();
            befriend(&a, &b).await;
            let (listener, accepting) = (b.listen(PORT).unwrap(), Arc::clone(&executor));
            let serve = executor.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    accepting.spawn(echo(stream)).detach();
                }
            });
            let to = b.address().unwrap();
            let stream = |n: usize| {
                let a = a.clone();
                executor.spawn(async move {
                    let sent = pattern(10_000 + n);
                    let stream = a.connect(to, PORT).await.unwrap();
                    assert!(echoed(stream, &sent).await == sent);
                })
            };
            for stream in (0..24).map(stream).collect::<Vec<_>>() {
                stream.await;
            }
            zip(a.shutdown(), b.shutdown()).await;
            // The listener has ended, and the task with it.
            serve.await;
        });
    });
}

/// Nobody makes the turns any more: whoever waits is told, instead of waiting for ever.
#[test]
fn an_executor_that_is_dropped_ends_its_agents() {
    case::<pilot_smol::Clock>("a dropped executor", || {
        block_on(async {
            let server = TestServer::start();
            let a = builder(&server, 1).bind().await.unwrap();
            let (executor, runs, threads) = run_on(1);
            let b = builder(&server, 2).bind_with(|task| executor.spawn(task).detach());
            let b = b.await.unwrap();
            befriend(&a, &b).await;
            let (_left, mut right) = pair(&a, &b).await;
            let bound = b.info().local[0];
            let listener = b.listen(Port(3000)).unwrap();
            let accepting = smol::spawn(async move { listener.accept().await.map(drop) });
            let reading = smol::spawn(async move { right.read(&mut [0]).await });
            drop((executor, runs));
            for thread in threads {
                thread.join().unwrap();
            }
            assert_eq!(accepting.await, Err(ListenError::Shutdown));
            assert_eq!(reading.await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
            assert!(b.is_ended());
            b.shutdown().await;
            let refused = b.connect(a.address().unwrap(), PORT).await;
            assert_eq!(refused.unwrap_err(), ConnectError::Failed(StreamEnd::Shutdown));
            std::net::UdpSocket::bind(bound).unwrap();
        });
    });
}

/// An executor that never ran the agent's tasks is dropped, too.
#[test]
fn an_executor_that_never_ran_ends_its_agents() {
    case::<pilot_smol::Clock>("an executor that never ran", || {
        block_on(async {
            let server = TestServer::start();
            let executor = Executor::new();
            let builder = builder(&server, 1);
            let agent = builder.bind_with(|task| executor.spawn(task).detach()).await.unwrap();
            assert!(!agent.is_ended());
            drop(executor);
            assert!(agent.is_ended() && agent.ready().await.is_err());
            agent.shutdown().await;
        });
    });
}

#[test]
fn services_have_futures() {
    case::<pilot_smol::Clock>("services_have_futures", || {
        block_on(async {
            let (_server, a, b) = friends().await;
            pilot_core::drive::conformance::futures::services(&a, &b).await;
        });
    });
}

#[test]
fn tasks_have_futures() {
    case::<pilot_smol::Clock>("tasks_have_futures", || {
        block_on(async {
            let (_server, a, b) = friends().await;
            pilot_core::drive::conformance::futures::tasks(&a, &b).await;
        });
    });
}
