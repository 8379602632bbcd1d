//! The rendezvous machine over sockets of the standard library on loopback, without storage.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "real sockets have real time")]

use pilot_core::addr::{Port, SocketAddress};
use pilot_core::crypto::{Identity, RUST_CRYPTO, TunnelSecret};
use pilot_core::drive::{Budget, Clock as _, Datagrams, Driver, IoError, Outlet, Received, Turn};
use pilot_core::machine::{Ecn, Path, SocketId, Transmit};
use pilot_core::rendezvous::{ConnId, Event, Rendezvous, RendezvousConfig};
use pilot_core::time::{Instant, UnixTime};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A server in a thread of its own, until dropped.
pub struct Server {
    pub registry: SocketAddr,
    pub beacon: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start() -> Server {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        let (registry, beacon) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || serve(Udp(udp), &tcp, &told));
        Server { registry, beacon, stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().expect("it is joined once").join();
        assert!(ended.is_ok() || std::thread::panicking(), "the server has panicked");
    }
}

struct Udp(UdpSocket);

impl Datagrams for Udp {
    fn recv(&mut self, buf: &mut [u8]) -> Result<Received, IoError> {
        let (len, remote) = self.0.recv_from(buf).map_err(typed)?;
        Ok(Received { path: Path::to(remote), ecn: Ecn::NotEct, len, stride: len })
    }

    fn send(&mut self, transmit: &Transmit, bytes: &[u8]) -> Result<(), IoError> {
        self.0.send_to(bytes, transmit.path.remote).map(drop).map_err(typed)
    }

    fn max_segments(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    fn open(&mut self, _: SocketId) -> Result<(), IoError> {
        Err(IoError::Full)
    }

    fn close(&mut self, _: SocketId) {}
}

fn typed(error: std::io::Error) -> IoError {
    match error.kind() {
        ErrorKind::WouldBlock => IoError::WouldBlock,
        _ => IoError::Os(error.raw_os_error().unwrap_or_default()),
    }
}

#[derive(Default)]
struct Connections(BTreeMap<ConnId, TcpStream>);

impl Outlet<Rendezvous, Udp> for Connections {
    fn handle_payload(&mut self, _: SocketAddress, _: Port, _: &[u8]) {}

    fn handle_event(&mut self, now: Instant, server: &mut Rendezvous, _: &mut Udp, event: Event) {
        match event {
            Event::ConnectionWritable(conn) => {
                let mut buf = [0; 16_384];
                loop {
                    let len = server.poll_bytes(now, conn, &mut buf);
                    if len == 0 {
                        return;
                    }
                    if let Some(tcp) = self.0.get_mut(&conn) {
                        // Answers are short; a client that is gone is noticed when reading.
                        let _ = tcp.write_all(&buf[..len]);
                    }
                }
            }
            Event::CloseConnection(conn) => drop(self.0.remove(&conn)),
            _ => {}
        }
    }
}

fn serve(mut udp: Udp, listener: &TcpListener, stop: &AtomicBool) {
    udp.0.set_nonblocking(true).unwrap();
    listener.set_nonblocking(true).unwrap();
    let start = std::time::Instant::now();
    let clock = || Instant::from_nanos(start.elapsed().as_nanos() as u64);
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut config = RendezvousConfig::default();
    config.beacon.push(udp.0.local_addr().unwrap()).expect("one address fits");
    let (identity, tunnel) =
        (Identity::from_secret([200; 32]), TunnelSecret::from_secret([201; 32]));
    let unix = UnixTime::from_millis(unix.as_millis() as u64);
    let mut server =
        Rendezvous::new(config, identity, tunnel, &RUST_CRYPTO, [7; 32], clock.now(), unix);
    let mut driver = Driver::boxed(Budget::DEFAULT);
    let mut connections = Connections::default();
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        while let Ok((tcp, remote)) = listener.accept() {
            tcp.set_nonblocking(true).unwrap();
            next += 1;
            connections.0.insert(ConnId(next), tcp);
            server.handle_open(clock.now(), ConnId(next), remote);
        }
        connections.0.retain(|conn, tcp| {
            let mut buf = [0; 16_384];
            match tcp.read(&mut buf) {
                Ok(len) if len > 0 => server.handle_bytes(clock.now(), *conn, &buf[..len]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => {
                    server.handle_close(clock.now(), *conn);
                    return false;
                }
            }
            true
        });
        while let Some(commit) = server.poll_commit(clock.now()) {
            server.handle_commit(clock.now(), commit.id, true);
        }
        if driver.turn(&clock, &mut server, &mut udp, &mut connections) != Turn::Again {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
