//! A rendezvous server in this process: the real machine, with commits that are durable at
//! once.

use pilot_core::addr::{Port, SocketAddress};
use pilot_core::crypto::aead::RUST_CRYPTO;
use pilot_core::crypto::identity::{Identity, TunnelSecret};
use pilot_core::drive::{Clock as _, KeyText, Outlet};
use pilot_core::machine::{Ecn, Ingress, Machine, Path, Timeout, Transmit};
use pilot_core::rendezvous::{ConnId, Event, Rendezvous, RendezvousConfig};
use pilot_core::time::{Duration, Instant};
use pilot_tokio::{BindOptions, Clock, Owner, Sockets, Tokio, UdpDriver};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// The machine, whose commits succeed without any disk.
pub(crate) struct Engine(Rendezvous);

impl Engine {
    fn commit(&mut self, now: Instant) {
        while let Some(commit) = self.0.poll_commit(now) {
            self.0.handle_commit(now, commit.id, true);
        }
    }
}

impl Machine for Engine {
    type Event = Event;

    fn handle_datagram<'b>(
        &mut self,
        now: Instant,
        path: Path,
        ecn: Ecn,
        datagram: &'b mut [u8],
    ) -> Ingress<'b> {
        self.0.handle_datagram(now, path, ecn, datagram)
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.0.handle_timeout(now);
        self.commit(now);
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        out: &mut [u8],
        max_segments: NonZeroUsize,
    ) -> Option<Transmit> {
        self.0.poll_transmit(now, out, max_segments)
    }

    fn poll_timeout(&self) -> Option<Timeout> {
        self.0.poll_timeout()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.0.poll_event()
    }
}

#[derive(Default)]
struct Line {
    signal: Notify,
    is_closed: AtomicBool,
}

/// Tells each connection's task that it has something to do.
#[derive(Default)]
struct Lines(BTreeMap<u64, Arc<Line>>);

impl Outlet<Engine, Sockets> for Lines {
    fn handle_payload(&mut self, _: SocketAddress, _: Port, _: &[u8]) {}

    fn handle_event(&mut self, _: Instant, _: &mut Engine, _: &mut Sockets, event: Event) {
        let (conn, closed) = match event {
            Event::ConnectionWritable(conn) => (conn, false),
            Event::CloseConnection(conn) => (conn, true),
            _ => return,
        };
        if let Some(line) = self.0.get(&conn.0) {
            line.is_closed.fetch_or(closed, Ordering::AcqRel);
            line.signal.notify_one();
        }
    }
}

impl Owner<Engine, Tokio> for Lines {}

/// A running server.
pub(crate) struct Server {
    driver: UdpDriver<Engine, Lines>,
    /// For `Builder::registry`, key included.
    pub(crate) registry: String,
    /// For `Builder::beacon`.
    pub(crate) beacon: String,
}

impl Server {
    pub(crate) async fn start() -> Server {
        let listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let sockets = Sockets::bind(&BindOptions { listen, ..Default::default() }).unwrap();
        let beacon = sockets.local_addresses().next().unwrap();
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (identity, tunnel) = ([1; 32], [2; 32]);
        let identity = Identity::from_secret(identity);
        let registry = format!("{}#{}", tcp.local_addr().unwrap(), KeyText(&identity.public()));
        let mut config = RendezvousConfig::default();
        config.beacon.push(beacon).unwrap();
        let clock = Clock::start();
        let machine = Rendezvous::new(
            config,
            identity,
            TunnelSecret::from_secret(tunnel),
            &RUST_CRYPTO,
            [3; 32],
            clock.now(),
            clock.unix(),
        );
        let driver = UdpDriver::spawn(Engine(machine), Lines::default(), sockets, clock);
        tokio::spawn(accept(driver.clone(), tcp));
        Server { driver, registry, beacon: beacon.to_string() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.driver.stop(Duration::ZERO);
    }
}

async fn accept(driver: UdpDriver<Engine, Lines>, tcp: TcpListener) {
    for n in 0.. {
        let Ok((connection, remote)) = tcp.accept().await else { return };
        let line = Arc::<Line>::default();
        driver.with(|access| {
            access.owner.0.insert(n, Arc::clone(&line));
            access.machine.0.handle_open(access.now, ConnId(n), remote);
        });
        tokio::spawn(serve(driver.clone(), ConnId(n), line, connection));
    }
}

async fn serve(
    driver: UdpDriver<Engine, Lines>,
    conn: ConnId,
    line: Arc<Line>,
    mut tcp: TcpStream,
) {
    let (mut input, mut output) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        let n = driver.peek(|access| access.machine.0.poll_bytes(access.now, conn, &mut output));
        if n > 0 {
            if tcp.write_all(&output[..n]).await.is_err() {
                break;
            }
            continue;
        }
        if line.is_closed.load(Ordering::Acquire) {
            break;
        }
        tokio::select! {
            () = line.signal.notified() => {}
            read = tcp.read(&mut input) => match read {
                Ok(n @ 1..) => driver.with(|access| {
                    access.machine.0.handle_bytes(access.now, conn, &input[..n]);
                    access.machine.commit(access.now);
                }),
                _ => break,
            },
        }
    }
    driver.with(|access| {
        access.owner.0.remove(&conn.0);
        access.machine.0.handle_close(access.now, conn);
    });
}
