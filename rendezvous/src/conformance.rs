//! The rendezvous of a conformance suite (feature `conformance`): a [`Server`] with its files in
//! a temporary folder, on a thread of its own, whatever runtime the agents have.

use crate::{Server, ServerConfig};
use pilot_core::drive::KeyText;
use pilot_core::drive::conformance::Rendezvous;
use pilot_core::rendezvous::RendezvousLimits;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// A server for a test; ends when it is dropped.
#[derive(Debug)]
pub struct TestServer {
    folder: TempDir,
    registry: SocketAddr,
    beacon: SocketAddr,
    key: String,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// All agents of a test have one address, and are no flood.
fn limits() -> RendezvousLimits {
    RendezvousLimits { reserves_per_minute: 1000, ..RendezvousLimits::server() }
}

impl TestServer {
    fn run(&mut self) {
        let mut config = ServerConfig::new(self.folder.path().join("registry.json"));
        config.registry_addr = self.registry;
        config.beacon_addr = self.beacon;
        config.limits = limits();
        let (stop, stopped) = oneshot::channel();
        let (started, is_started) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let server = Server::start(config).await.expect("the rendezvous starts");
                let at = (server.registry_addr(), server.beacon_addr());
                let key = KeyText(&server.key()).to_string();
                let _ = started.send((at, key));
                // Its owner asks for the end, or is gone.
                let _ = stopped.await;
                let _ = server.shutdown().await;
            });
        });
        let ((registry, beacon), key) = is_started.recv().expect("the rendezvous starts");
        (self.registry, self.beacon, self.key) = (registry, beacon, key);
        self.running = Some((stop, thread));
    }
}

impl Rendezvous for TestServer {
    type Clock = pilot_tokio::Clock;

    fn start() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut server =
            TestServer { folder, registry: any, beacon: any, key: String::new(), running: None };
        server.run();
        server
    }

    fn registry(&self) -> String {
        format!("{}#{}", self.registry, self.key)
    }

    fn beacon(&self) -> String {
        self.beacon.to_string()
    }

    fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }

    fn restart(&mut self) {
        assert!(self.running.is_none(), "it runs");
        self.run();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop();
    }
}
