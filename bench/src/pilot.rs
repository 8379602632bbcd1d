//! Two agents on tokio, one core each, with the rendezvous server on a third thread.

use crate::{BYTES, Checker, PAYLOAD, Stopwatch, Took, on_core, pattern, runtime};
use pilot_core::limits::Limits;
use pilot_rendezvous::{Server, ServerConfig};
use pilot_tokio::{Agent, Identity, Port};
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

const PORT: Port = Port(2000);

async fn agent(n: u8, server: (SocketAddr, SocketAddr)) -> Agent {
    let limits = Limits { datagram: PAYLOAD, ..Limits::desktop() };
    let agent = Agent::builder(Identity::from_secret([n; 32]))
        .registry(&server.0.to_string())
        .beacon(&server.1.to_string())
        .listen(SocketAddr::from(([127, 0, 0, 1], 0)))
        .limits(limits)
        .bind()
        .await
        .expect("an agent");
    agent.ready().await.expect("registered");
    agent
}

async fn until(mut is: impl FnMut() -> bool) {
    while !is() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn bulk() -> Took {
    let folder = tempfile::tempdir().expect("a folder");
    let persist = folder.path().join("registry.json");
    let (tell, told) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = std::thread::spawn(move || {
        runtime().block_on(async move {
            let mut config = ServerConfig::new(persist);
            config.registry_addr = SocketAddr::from(([127, 0, 0, 1], 0));
            config.beacon_addr = SocketAddr::from(([127, 0, 0, 1], 0));
            let server = Server::start(config).await.expect("a server");
            tell.send((server.registry_addr(), server.beacon_addr())).expect("awaited");
            let _ = stopped.await;
            server.shutdown().await.expect("an orderly end");
        });
    });
    let at = told.recv().expect("started");
    let (address_tell, address_told) = mpsc::channel();
    let receiver = on_core(1, move || {
        runtime().block_on(async move {
            let agent = agent(2, at).await;
            let listener = agent.listen(PORT).expect("a free port");
            address_tell.send(agent.address().expect("registered")).expect("awaited");
            until(|| !agent.trust_requests().is_empty()).await;
            agent.approve_trust(agent.trust_requests()[0].from).expect("approved");
            let (mut stream, _) = listener.accept().await.expect("a stream");
            let (mut buf, mut checker) = (vec![0; 256 * 1024], Checker::new());
            while checker.received() < BYTES {
                let n = stream.read(&mut buf).await.expect("bytes");
                checker.check(&buf[..n]);
            }
            stream.write_all(b"done").await.expect("room");
            stream.shutdown().await.expect("open");
            let _ = stream.acknowledged().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            agent.shutdown().await;
        });
    });
    let peer = address_told.recv().expect("registered");
    let sender = on_core(0, move || {
        runtime().block_on(async move {
            let agent = agent(1, at).await;
            agent.request_trust(peer, "a benchmark").expect("asked");
            until(|| agent.trusted().iter().any(|p| p.address == peer && p.grants_us)).await;
            let mut stream = agent.connect(peer, PORT).await.expect("connected");
            let block = pattern();
            let watch = Stopwatch::start();
            let mut left = BYTES;
            while left > 0 {
                let n = left.min(block.len());
                stream.write_all(&block[..n]).await.expect("room");
                left -= n;
            }
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("done");
            let took = watch.stop();
            agent.shutdown().await;
            took
        })
    });
    let took = sender.join().expect("sent");
    receiver.join().expect("received");
    let _ = stop.send(());
    server.join().expect("stopped");
    took
}
