//! Agents on any runtime, with a rendezvous server on a thread of its own.

use crate::adapter::Adapter;
use crate::contest::{Cores, Exchange, run_ends};
use crate::measure::runtime;
use pilot_core::addr::{Address, Port};
use pilot_core::crypto::ring::RING;
use pilot_core::crypto::{AeadProvider, RUST_CRYPTO};
use pilot_core::drive::agent::{Agent, AgentEvent, Builder};
use pilot_core::node::{Link, PathKind};
use pilot_core::rendezvous::RendezvousLimits;
use pilot_rendezvous::{Server, ServerConfig};
use pilot_tokio::{Identity, Limits};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

pub const PORT: Port = Port(2000);

/// Who encrypts.
#[derive(Clone, Copy)]
pub enum Provider {
    RustCrypto,
    Ring,
}

impl Provider {
    pub fn aead(self) -> &'static dyn AeadProvider {
        match self {
            Provider::RustCrypto => &RUST_CRYPTO,
            Provider::Ring => &RING,
        }
    }
}

/// Where a rendezvous server is.
#[derive(Clone, Copy)]
pub struct Location {
    pub registry: SocketAddr,
    pub beacon: SocketAddr,
}

/// A running rendezvous server; ends when dropped.
pub struct Rendezvous {
    pub at: Location,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Rendezvous {
    pub fn start(limits: RendezvousLimits) -> Self {
        let (tell, told) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let folder = tempfile::tempdir().expect("a folder");
            let mut config = ServerConfig::new(folder.path().join("registry.json"));
            config.registry_addr = loopback();
            config.beacon_addr = loopback();
            config.limits = limits;
            runtime().block_on(async move {
                let server = Server::start(config).await.expect("a server");
                let (registry, beacon) = (server.registry_addr(), server.beacon_addr());
                tell.send(Location { registry, beacon }).expect("awaited");
                let _ = stopped.await;
                server.shutdown().await.expect("an orderly end");
            });
        });
        let at = told.recv().expect("started");
        Rendezvous { at, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().expect("ended once").join();
        assert!(ended.is_ok() || std::thread::panicking(), "the server has panicked");
    }
}

pub fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub fn builder<R: Adapter>(secret: [u8; 32], at: Location, provider: Provider) -> Builder<R> {
    Agent::builder(Identity::from_secret(secret))
        .registry(at.registry.to_string())
        .beacon(at.beacon.to_string())
        .listen(loopback())
        .aead(provider.aead())
}

/// Binds an agent that is registered and has its link to the beacon.
pub async fn start<R: Adapter>(builder: Builder<R>) -> Agent<R> {
    let agent = R::bind(builder).await.expect("an agent");
    agent.ready().await.expect("registered");
    until::<R>(|| agent.info().link == Link::Online).await;
    agent
}

pub async fn until<R: Adapter>(mut is: impl FnMut() -> bool) {
    while !is() {
        R::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks for trust and waits until it is granted.
pub async fn trust<R: Adapter>(agent: &Agent<R>, peer: Address) {
    let mut events = agent.events();
    agent.request_trust(peer, "a benchmark").expect("asked");
    while !matches!(events.recv().await, Ok(AgentEvent::TrustGranted(by)) if by == peer) {}
}

/// Waits for one request for trust and grants it.
pub async fn approve_one<R: Adapter>(agent: &Agent<R>) {
    until::<R>(|| !agent.trust_requests().is_empty()).await;
    agent.approve_trust(agent.trust_requests()[0].from).expect("approved");
}

pub fn path<R: Adapter>(agent: &Agent<R>, peer: Address) -> PathKind {
    let trusted = agent.trusted();
    trusted.iter().find(|p| p.address == peer).map_or(PathKind::None, |p| p.path)
}

/// Runs an exchange over a stream of two agents that trust each other, on a direct path.
pub fn run<R: Adapter, E: Exchange>(
    provider: Provider,
    cores: Cores,
    payload: u16,
    exchange: E,
) -> E::Output {
    let passive = move |agent: Agent<R>| {
        let listener = agent.listen(PORT).expect("a free port");
        async move {
            let (stream, _) = listener.accept().await.expect("a stream");
            exchange.passive(&mut R::duplex(stream)).await;
        }
    };
    let active = move |agent: Agent<R>, peer| async move {
        let mut stream = R::duplex(agent.connect(peer, PORT).await.expect("connected"));
        until::<R>(|| path(&agent, peer) == PathKind::Direct).await;
        exchange.active(&mut stream).await
    };
    run_agents::<R, _, _, _>(provider, cores, payload, active, passive)
}

/// Runs what two agents that trust each other do. `passive` begins before there is trust, and the
/// other one is given its address.
pub fn run_agents<R: Adapter, A, P, T>(
    provider: Provider,
    cores: Cores,
    payload: u16,
    active: impl FnOnce(Agent<R>, Address) -> A + Send + 'static,
    passive: impl FnOnce(Agent<R>) -> P + Send + 'static,
) -> T
where
    A: Future<Output = T> + Send + 'static,
    P: Future<Output = ()> + Send + 'static,
    T: Send + 'static,
{
    let server = Rendezvous::start(RendezvousLimits::server());
    let at = server.at;
    let limits = Limits { datagram: payload, ..Limits::desktop() };
    let limits_there = limits.clone();
    let (tell, told) = oneshot::channel();
    let (finish, finished) = oneshot::channel();
    let passive = move || async move {
        let agent = start::<R>(builder([2; 32], at, provider).limits(limits_there)).await;
        let serving = passive(agent.clone());
        tell.send(agent.address().expect("registered")).expect("awaited");
        approve_one(&agent).await;
        serving.await;
        let _ = finished.await;
        agent.shutdown().await;
    };
    let active = move || async move {
        let agent = start::<R>(builder([1; 32], at, provider).limits(limits)).await;
        let peer = told.await.expect("registered");
        trust(&agent, peer).await;
        let output = active(agent.clone(), peer).await;
        finish.send(()).expect("awaited");
        agent.shutdown().await;
        output
    };
    run_ends::<R, _, _, _>(cores, active, passive)
}
