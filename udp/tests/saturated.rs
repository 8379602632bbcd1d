//! A machine that always has something to send, and what its sockets receive meanwhile.

use pilot_core::addr::{Port, SocketAddress};
use pilot_core::drive::{Access, BindOptions, Next, Outlet, Owner, Runtime, Shared};
use pilot_core::machine::{Ecn, Ingress, Machine, Path, Reason, SocketId, Timeout, Transmit};
use pilot_core::time::Instant;
use pilot_udp::{Clock, UdpSockets};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::task::Waker;

/// Turns within which everybody is heard.
const TURNS: u32 = 12;

struct Plain;

impl Runtime for Plain {
    type Waker = Waker;
    type Sockets = UdpSockets;
    type Host = Clock;
}

/// Sends short packets without end, and keeps what has come by which socket from where.
struct Talker {
    to: Path,
    heard: Vec<(SocketId, SocketAddr)>,
}

impl Machine for Talker {
    type Event = ();

    fn handle_datagram<'b>(
        &mut self,
        _: Instant,
        path: Path,
        _: Ecn,
        _: &'b mut [u8],
    ) -> Ingress<'b> {
        self.heard.push((path.socket, path.remote));
        Ingress::Handled
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_transmit(&mut self, _: Instant, out: &mut [u8], _: NonZeroUsize) -> Option<Transmit> {
        out[0] = 7;
        Some(Transmit { path: self.to, len: 1, segment: None, ecn: Ecn::NotEct, hop_limit: None })
    }

    fn poll_timeout(&self) -> Option<Timeout> {
        Some(Timeout { at: Instant::START, reason: Reason::Output })
    }

    fn poll_event(&mut self) -> Option<()> {
        None
    }
}

struct Nobody;

impl Outlet<Talker, UdpSockets> for Nobody {
    fn handle_payload(&mut self, _: SocketAddress, _: Port, _: &[u8]) {}

    fn handle_event(&mut self, _: Instant, _: &mut Talker, _: &mut UdpSockets, (): ()) {}
}

impl Owner<Talker, Plain> for Nobody {}

type Talking = Shared<Talker, Nobody, Plain>;

fn heard(talking: &Talking) -> Vec<(SocketId, SocketAddr)> {
    talking.peek(|Access { machine, .. }| machine.heard.clone())
}

/// A turn, and whether the event queue was asked.
fn turn(talking: &Talking) -> bool {
    let mut is_asked = false;
    let made = talking.turn(Waker::noop(), &mut Vec::new(), |_, _| {
        is_asked = true;
        false
    });
    assert_eq!(made.next, Next::Again, "there always is something to send");
    is_asked
}

fn turn_until(talking: &Talking, is_heard: impl Fn(&[(SocketId, SocketAddr)]) -> bool) {
    for _ in 0..TURNS {
        if is_heard(&heard(talking)) {
            return;
        }
        turn(talking);
    }
    panic!("not heard within {TURNS} turns");
}

#[test]
fn who_sends_all_the_time_hears_by_all_sockets() {
    let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let from = peer.local_addr().unwrap();
    let mut sockets = UdpSockets::bind(&BindOptions::default()).unwrap();
    let auxiliary = sockets.bind_as(SocketId(1), (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let main: Vec<SocketAddr> = sockets.local_addresses().collect();
    // The sink is another socket: what it receives it drops.
    let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = Path::to(sink.local_addr().unwrap());
    let talking = Talking::new(Talker { to, heard: Vec::new() }, Nobody, sockets, Clock::start());
    let port = main[0].port();
    let send = |to: SocketAddr| assert_eq!(peer.send_to(b"x", to).unwrap(), 1);

    // The main socket is known to receive: from now on it is asked first.
    send((Ipv4Addr::LOCALHOST, port).into());
    turn_until(&talking, |heard| heard.contains(&(SocketId(0), from)));
    for _ in 0..3 {
        let before = heard(&talking).len();
        send(auxiliary);
        turn_until(&talking, |heard| heard[before..].contains(&(SocketId(1), from)));
    }
    // It receives all the time, too.
    let before = heard(&talking).len();
    (0..200).for_each(|_| send((Ipv4Addr::LOCALHOST, port).into()));
    send(auxiliary);
    turn_until(&talking, |heard| heard[before..].contains(&(SocketId(1), from)));
    // The other family's main socket, which has never received anything.
    if main.len() > 1 {
        let peer = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        assert_eq!(peer.send_to(b"x", (Ipv6Addr::LOCALHOST, port)).unwrap(), 1);
        let from = (SocketId(0), peer.local_addr().unwrap());
        turn_until(&talking, |heard| heard.contains(&from));
    }
    // So is a socket that only the event queue can tell of.
    let asked = (0..100).filter(|_| turn(&talking)).count();
    assert!((100 / 8..=100 / 4).contains(&asked), "{asked}");
}
