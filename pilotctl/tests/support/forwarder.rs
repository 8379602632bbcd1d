//! Forwarders in user space that stand between all processes and keep what they carry.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::sync::{Arc, Mutex};

/// Socket buffers: a burst of a whole congestion window waits here.
const BUFFER: usize = 4 * 1024 * 1024;

/// What was carried, in order: single datagrams, or pieces of one direction of a connection.
#[derive(Clone, Default)]
pub struct Tape(Arc<Mutex<Vec<Carried>>>);

/// One datagram, or one direction of a TCP connection so far.
#[derive(Clone)]
pub struct Carried {
    /// Away from whoever has spoken to the forwarder first.
    pub forward: bool,
    pub bytes: Vec<u8>,
}

impl Tape {
    pub fn all(&self) -> Vec<Carried> {
        self.0.lock().unwrap().clone()
    }

    /// Lengths of everything carried since it had `from` entries.
    pub fn lengths(&self, from: usize) -> Vec<usize> {
        self.0.lock().unwrap()[from..].iter().map(|carried| carried.bytes.len()).collect()
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Whether these bytes were carried, whole, in a datagram or one direction of a connection.
    pub fn has(&self, wanted: &[u8]) -> bool {
        let finder = |carried: &Carried| carried.bytes.windows(wanted.len()).any(|w| w == wanted);
        self.0.lock().unwrap().iter().any(finder)
    }

    fn push(&self, forward: bool, bytes: &[u8]) -> usize {
        let mut all = self.0.lock().unwrap();
        all.push(Carried { forward, bytes: bytes.to_vec() });
        all.len() - 1
    }

    fn extend(&self, entry: usize, bytes: &[u8]) {
        self.0.lock().unwrap()[entry].bytes.extend_from_slice(bytes);
    }
}

fn bind_udp(host: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((host, 0)).unwrap();
    let of = socket2::SockRef::from(&socket);
    // As much as the system allows; what is lost nevertheless is sent again.
    let _ = of.set_recv_buffer_size(BUFFER);
    let _ = of.set_send_buffer_size(BUFFER);
    socket
}

/// Forwards datagrams to one target, each client by a socket of its own, as a NAT would that
/// lets nobody else in.
pub struct UdpForwarder {
    pub address: SocketAddr,
    pub tape: Tape,
    target: Arc<Mutex<Option<SocketAddr>>>,
}

impl UdpForwarder {
    /// Its own address is on `host`; the target may be of the other family.
    pub fn new(host: IpAddr) -> UdpForwarder {
        let front = Arc::new(bind_udp(host));
        let forwarder = UdpForwarder {
            address: front.local_addr().unwrap(),
            tape: Tape::default(),
            target: Arc::default(),
        };
        let (tape, target) = (forwarder.tape.clone(), Arc::clone(&forwarder.target));
        std::thread::spawn(move || {
            let mut clients: BTreeMap<SocketAddr, UdpSocket> = BTreeMap::new();
            let mut buf = vec![0; 65536];
            loop {
                // An error is a client's closed port (ICMP), not ours.
                let Ok((n, client)) = front.recv_from(&mut buf) else { continue };
                let Some(target) = *target.lock().unwrap() else { continue };
                tape.push(true, &buf[..n]);
                let back = clients.entry(client).or_insert_with(|| {
                    let back = bind_udp(match target {
                        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                    });
                    back.connect(target).unwrap();
                    let (from, to, tape) =
                        (back.try_clone().unwrap(), Arc::clone(&front), tape.clone());
                    std::thread::spawn(move || {
                        let mut buf = vec![0; 65536];
                        loop {
                            let Ok(n) = from.recv(&mut buf) else { continue };
                            tape.push(false, &buf[..n]);
                            let _ = to.send_to(&buf[..n], client);
                        }
                    });
                    back
                });
                let _ = back.send(&buf[..n]);
            }
        });
        forwarder
    }

    /// Where to. Before that everything is lost.
    pub fn set_target(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = Some(target);
    }
}

/// Forwards TCP connections.
pub struct TcpForwarder {
    pub address: SocketAddr,
    pub tape: Tape,
}

impl TcpForwarder {
    pub fn new(host: IpAddr, target: SocketAddr) -> TcpForwarder {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let forwarder =
            TcpForwarder { address: listener.local_addr().unwrap(), tape: Tape::default() };
        let tape = forwarder.tape.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(target) else { continue };
                let clones = (client.try_clone().unwrap(), server.try_clone().unwrap());
                for (forward, from, to) in [(true, client, server), (false, clones.1, clones.0)] {
                    let tape = tape.clone();
                    std::thread::spawn(move || copy(from, to, &tape, forward));
                }
            }
        });
        forwarder
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, tape: &Tape, forward: bool) {
    let entry = tape.push(forward, &[]);
    let mut buf = vec![0; 65536];
    while let Ok(n @ 1..) = from.read(&mut buf) {
        tape.extend(entry, &buf[..n]);
        if to.write_all(&buf[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
