//! Floods over loopback sockets, from many addresses of 127.0.0.0/8, bounded in count and time.

use super::stolen_facts::Thief;
use pilot_core::addr::Address;
use pilot_core::crypto::{TunnelKey, TunnelSecret};
use pilot_core::rng::Rng;
use pilot_core::session::handshake::{TYPE_COOKIE, TYPE_RESP, write_mac2};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No flood lasts longer.
const TIME_MAX: Duration = Duration::from_secs(240);
/// Bytes in the target's socket buffer up to which more is sent: a packet that the system
/// drops attacks nobody.
const BACKLOG: u64 = 512 * 1024;
/// Connections of one source that the registry takes.
const PER_SOURCE: u32 = 8;
/// Descriptors that the test itself needs.
const DESCRIPTORS_KEPT: u64 = 500;

fn host(net: u8, n: u32) -> SocketAddr {
    let [_, _, b, c] = n.to_be_bytes();
    SocketAddr::from(([127, net, b, c], 0))
}

/// Prepared packets of every kind, hostile in every way that costs the sender nothing.
pub struct Mix(Vec<Vec<u8>>);

impl Mix {
    /// For the owner of the tunnel key `to`, on whose data path `index` is alive. The thief
    /// itself is trusted there; these packets claim to be from others.
    pub fn new(thief: &mut Thief, to: &TunnelKey, dst: Address, index: [u8; 4]) -> Mix {
        let mut rng = Rng::new(to.0);
        let mut packets: Vec<_> =
            (0..4096u32).map(|n| packet(n, thief, to, dst, index, &mut rng)).collect();
        for n in (0..packets.len()).filter(|n| n % 13 == 12) {
            let len = rng.below(packets[n].len() as u64) as usize;
            packets[n].truncate(len);
        }
        Mix(packets)
    }
}

fn random(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.u32() as u8).collect()
}

fn packet(
    n: u32,
    thief: &mut Thief,
    to: &TunnelKey,
    dst: Address,
    index: [u8; 4],
    rng: &mut Rng,
) -> Vec<u8> {
    let len = 29 + rng.below(1300) as usize;
    let headed = |head: &[u8], len: usize, rng: &mut Rng| {
        [head, &random(rng, len - head.len())[..]].concat()
    };
    let stranger = TunnelSecret::from_secret(rng.bytes());
    match n % 12 {
        0 => random(rng, len),
        kind @ 1..=3 => {
            // A stranger's INIT with the right mac1, or without, or with a made up mac2.
            let mut payload = thief.payload();
            payload.dst = dst;
            let (_, mut init) = thief.init_to(to, &stranger, &payload);
            let end = init.len();
            match kind {
                1 => {}
                2 => init[8..].fill_with(|| rng.u32() as u8),
                _ => init[end - 16..].fill_with(|| rng.u32() as u8),
            }
            init
        }
        4 => headed(&[0x12, 1, 0, 0], 64, rng),
        5 => headed(&[0x13, 1, 0, 0], 56, rng),
        6 => headed(&[0x11, 1, 0, 0], 160, rng),
        7 => headed(&[0x80, 0, 0, 1], len, rng),
        8 | 9 => headed(&index, len, rng),
        10 => headed(&[0x30], len, rng),
        _ => headed(&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42], 20, rng),
    }
}

/// Bytes that wait in the receive buffer of the UDP socket at `at`, as the system says.
fn backlog(at: SocketAddr) -> u64 {
    let SocketAddr::V4(v4) = at else { return 0 };
    let ip = u32::from_ne_bytes(v4.ip().octets());
    let own = format!("{ip:08X}:{:04X}", v4.port());
    let table = std::fs::read_to_string("/proc/net/udp").unwrap_or_default();
    let line = table.lines().find(|line| line.contains(&own));
    let queues = line.and_then(|line| line.split_whitespace().nth(4));
    let receive = queues.and_then(|queues| queues.split_once(':')).map(|(_, receive)| receive);
    receive.and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

/// A thread that attacks until it is told to stop and has done its least.
pub struct Attack {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Attack {
    fn start(run: impl FnOnce(&dyn Fn() -> bool, &AtomicU64) + Send + 'static) -> Attack {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&done));
        let begin = Instant::now();
        let is_over = move || stopped.load(Ordering::Relaxed) || begin.elapsed() > TIME_MAX;
        let thread = std::thread::spawn(move || run(&is_over, &counter));
        Attack { stop, done, thread }
    }

    /// How much it has done.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// It may end once it has done its least; whether it has ended.
    pub fn is_over(&self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.is_finished()
    }

    /// Waits for its end; how much it has done.
    pub fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.done.load(Ordering::Relaxed)
    }

    /// At least `least` datagrams, at most four times as many, from 16 addresses.
    pub fn datagrams(at: SocketAddr, mix: Mix, least: u64) -> Attack {
        Attack::start(move |is_over, done| {
            let sockets: Vec<_> = (0..16u8)
                .map(|n| UdpSocket::bind(SocketAddr::from(([127, 10 + n, 0, 1], 0))).unwrap())
                .collect();
            let begin = Instant::now();
            for n in 0..4 * least {
                if n % 64 == 0 {
                    let is_late = begin.elapsed() > TIME_MAX;
                    if is_late || (n >= least && is_over()) {
                        return;
                    }
                    for _ in 0..1000 {
                        if backlog(at) < BACKLOG {
                            break;
                        }
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                let packet = &mix.0[(n % 4093) as usize];
                let _ = sockets[(n % 16) as usize].send_to(packet, at);
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    /// `each` connections at a time that say nothing, or half a thing; again until the end,
    /// at most 50 times.
    pub fn connections(at: SocketAddr, each: u32) -> Attack {
        Attack::start(move |is_over, done| {
            for round in 0..50 {
                let mut open = Vec::new();
                for n in 0..each {
                    if round > 0 && is_over() {
                        return;
                    }
                    if let Ok(mut stream) = connect(host(100, n / PER_SOURCE), at) {
                        let said = &b"AOR1\x00\xE6half of a message"[..(n % 20) as usize];
                        let _ = stream.write_all(said);
                        open.push(stream);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
                std::thread::sleep(Duration::from_millis(500));
            }
        })
    }

    /// `count` handshakes by somebody who is trusted, each from an address of its own, with
    /// whatever cookie is demanded, and never finished. Counts the answers.
    pub fn handshakes(
        at: SocketAddr,
        mut thief: Thief,
        to: TunnelKey,
        dst: Address,
        count: u32,
    ) -> Attack {
        Attack::start(move |_, done| {
            let begin = Instant::now();
            let secret = TunnelSecret::from_secret(*thief.secret.secret());
            for n in 0..count {
                if begin.elapsed() > TIME_MAX {
                    return;
                }
                let mut payload = thief.payload();
                payload.dst = dst;
                let (initiator, mut init) = thief.init_to(&to, &secret, &payload);
                let socket = UdpSocket::bind(host(101, n)).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                let _ = socket.send_to(&init, at);
                let mut answer = [0; 2048];
                for _ in 0..2 {
                    match socket.recv(&mut answer) {
                        Ok(len) if answer[0] == TYPE_COOKIE => {
                            if let Ok(cookie) = initiator.read_cookie(&answer[..len]) {
                                write_mac2(&mut init, Some(&cookie));
                                let _ = socket.send_to(&init, at);
                            }
                        }
                        Ok(_) if answer[0] == TYPE_RESP => {
                            done.fetch_add(1, Ordering::Relaxed);
                            break;
                        }
                        _ => break,
                    }
                }
            }
        })
    }
}

fn connect(from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SockAddr::from(from))?;
    socket.connect_timeout(&SockAddr::from(to), Duration::from_secs(2))?;
    Ok(socket.into())
}

/// How many descriptors this process may use for an attack, after raising its limit as far as
/// it goes.
pub fn descriptors() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(1 << 20).saturating_sub(DESCRIPTORS_KEPT)
}

/// The tunnel key that a registry shows to everybody who asks, which is the beacon's too.
pub fn beacon_key(registry: SocketAddr) -> TunnelKey {
    let mut stream = TcpStream::connect(registry).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(&[&b"AOR0"[..], &[7; 32]].concat()).unwrap();
    let mut keys = [0; 128];
    stream.read_exact(&mut keys).unwrap();
    TunnelKey(keys[32..64].try_into().unwrap())
}

/// Memory of a process in KiB: resident now, and at most so far.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub now: u64,
    pub most: u64,
}

impl Memory {
    pub fn of(pid: u64) -> Memory {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        Memory { now: field("VmRSS:"), most: field("VmHWM:") }
    }
}
