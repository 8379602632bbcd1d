//! Real sockets on loopback.

use pilot_core::drive::{Datagrams, IoError, RECEIVE_BUFFER, Received};
use pilot_core::machine::{Ecn, Path, SocketId, Transmit};
use pilot_udp::{AUXILIARY_MAX, BindError, BindOptions, Reactor, SockRef, UdpSockets};
use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::{NonZeroU8, NonZeroU16};
use std::thread::sleep;
use std::time::Duration;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn bind(ip: IpAddr) -> UdpSockets {
    let listen = Some(SocketAddr::new(ip, 0));
    UdpSockets::bind(&BindOptions { listen, ..Default::default() }).unwrap()
}

fn address<S: Reactor>(sockets: &UdpSockets<S>) -> SocketAddr {
    sockets.local_addresses().next().unwrap()
}

fn to(remote: SocketAddr, len: usize) -> Transmit {
    Transmit { path: Path::to(remote), len, segment: None, ecn: Ecn::NotEct, hop_limit: None }
}

/// Waits, for loopback's sake, at most a second.
fn recv(sockets: &mut UdpSockets, buf: &mut [u8]) -> Received {
    for _ in 0..1000 {
        match sockets.recv(buf) {
            Ok(received) => return received,
            Err(IoError::WouldBlock) => sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("nothing arrived");
}

/// IPv6 may be switched off in a container; then there is nothing to test of it.
fn families() -> Vec<IpAddr> {
    let v6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    [V4, V6].into_iter().filter(|ip| ip.is_ipv4() || v6).collect()
}

#[test]
fn a_train_arrives_as_its_datagrams() {
    for ip in families() {
        let (mut a, mut b) = (bind(ip), bind(ip));
        let segment = 1200;
        let segments = a.max_segments().get().min(20);
        let bytes: Vec<u8> =
            (0..segments * segment - 300).map(|i| (i / segment) as u8 ^ i as u8).collect();
        let mut transmit = to(address(&b), bytes.len());
        if segments > 1 {
            transmit.segment = NonZeroU16::new(segment as u16);
        }
        a.send(&transmit, &bytes).unwrap();
        let mut got = Vec::new();
        let mut buf = vec![0; RECEIVE_BUFFER];
        while got.iter().map(Vec::len).sum::<usize>() < bytes.len() {
            let received = recv(&mut b, &mut buf);
            assert_eq!(received.path.remote, address(&a));
            assert_eq!((received.path.socket, received.path.local), (SocketId(0), Some(ip)));
            got.extend(buf[..received.len].chunks(received.stride).map(<[u8]>::to_vec));
        }
        let want: Vec<_> = bytes.chunks(segment).map(<[u8]>::to_vec).collect();
        assert_eq!(got, want);
        assert_eq!(b.recv(&mut buf), Err(IoError::WouldBlock));
    }
}

/// What nobody asks for costs time with every packet.
#[cfg(target_os = "linux")]
#[test]
fn the_system_tells_no_more_of_a_packet_than_is_used() {
    use nix::sys::socket::{getsockopt, sockopt};
    for (ip, tells) in [(V4, false), (Ipv4Addr::UNSPECIFIED.into(), true)] {
        let bound = bind(ip);
        let sock = bound.reactors().next().unwrap().sock_ref();
        assert_eq!(getsockopt(&*sock, sockopt::ReceiveTimestampns), Ok(false));
        assert_eq!(getsockopt(&*sock, sockopt::Ipv4PacketInfo), Ok(tells), "{ip}");
    }
}

#[test]
fn ecn_goes_round() {
    let mut buf = vec![0; RECEIVE_BUFFER];
    for ip in families() {
        let (mut a, mut b) = (bind(ip), bind(ip));
        for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
            a.send(&Transmit { ecn, ..to(address(&b), 2) }, b"hi").unwrap();
            assert_eq!(recv(&mut b, &mut buf).ecn, ecn, "{ip}");
        }
    }
}

/// The hop limit that a datagram from `sockets` has now, as the system tells a sender.
fn hop_limit(sockets: &UdpSockets, ip: IpAddr) -> u32 {
    let sock = sockets.reactors().next().unwrap().sock_ref();
    match ip {
        IpAddr::V4(_) => sock.ttl_v4().unwrap(),
        IpAddr::V6(_) => sock.unicast_hops_v6().unwrap(),
    }
}

#[test]
fn the_hop_limit_is_restored_also_after_an_error() {
    let mut buf = vec![0; RECEIVE_BUFFER];
    for ip in families() {
        let (mut a, mut b) = (bind(ip), bind(ip));
        let before = hop_limit(&a, ip);
        assert_ne!(before, 3);
        let limited = Transmit { hop_limit: NonZeroU8::new(3), ..to(address(&b), 2) };
        a.send(&limited, b"hi").unwrap();
        recv(&mut b, &mut buf);
        assert_eq!(hop_limit(&a, ip), before);
        let huge = vec![0; 66_000];
        let failing = Transmit { len: huge.len(), ..limited };
        assert_eq!(a.send(&failing, &huge), Err(IoError::TooLarge));
        assert_eq!(hop_limit(&a, ip), before);
    }
}

/// A socket that notes its hop limit at every send call.
struct Spy(UdpSocket, RefCell<Vec<u32>>);

impl Reactor for Spy {
    fn register(socket: UdpSocket) -> io::Result<Self> {
        Ok(Spy(socket, RefCell::default()))
    }

    fn sock_ref(&self) -> SockRef<'_> {
        SockRef::from(&self.0)
    }

    fn try_recv<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        call()
    }

    fn try_send<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.1.borrow_mut().push(self.sock_ref().ttl_v4()?);
        call()
    }
}

#[test]
fn one_packet_and_only_that_one_has_the_hop_limit() {
    let listen = Some(SocketAddr::new(V4, 0));
    let options = BindOptions { listen, ..Default::default() };
    let mut a = UdpSockets::<Spy>::bind(&options).unwrap();
    let plain = to(address(&bind(V4)), 1);
    let limited = Transmit { hop_limit: NonZeroU8::new(3), ..plain };
    for transmit in [plain, limited, plain] {
        a.send(&transmit, b"x").unwrap();
    }
    let seen = a.reactors().next().unwrap().1.borrow().clone();
    assert_eq!((seen[0], seen[1], seen[2]), (seen[0], 3, seen[0]));
    assert_ne!(seen[0], 3);
}

/// A socket whose receive calls fail after they have run.
struct Broken(UdpSocket);

impl Reactor for Broken {
    fn register(socket: UdpSocket) -> io::Result<Self> {
        Ok(Broken(socket))
    }

    fn sock_ref(&self) -> SockRef<'_> {
        SockRef::from(&self.0)
    }

    fn try_recv<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        call().and(Err(io::ErrorKind::NetworkDown.into()))
    }

    fn try_send<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        call()
    }
}

/// Otherwise a runtime takes it for readable, and its driver spins.
#[test]
fn a_socket_that_only_fails_would_block_now_and_then() {
    let listen = Some(SocketAddr::new(V4, 0));
    let mut broken =
        UdpSockets::<Broken>::bind(&BindOptions { listen, ..Default::default() }).unwrap();
    let mut peer = bind(V4);
    for _ in 0..20 {
        peer.send(&to(address(&broken), 1), b"x").unwrap();
    }
    let mut buf = vec![0; RECEIVE_BUFFER];
    for _ in 0..3 {
        for _ in 0..4 {
            assert_eq!(broken.recv(&mut buf), Err(IoError::Unreachable));
        }
        assert_eq!(broken.recv(&mut buf), Err(IoError::WouldBlock));
    }
}

#[test]
fn too_large_is_typed() {
    for ip in families() {
        let (mut a, b) = (bind(ip), bind(ip));
        let huge = vec![0; 66_000];
        assert_eq!(a.send(&to(address(&b), huge.len()), &huge), Err(IoError::TooLarge));
    }
}

#[test]
fn an_unroutable_family_and_an_unknown_socket_are_typed() {
    let mut a = bind(V4);
    let v6 = SocketAddr::new(V6, 9);
    assert_eq!(a.send(&to(v6, 1), b"x"), Err(IoError::NoSocket));
    let mut elsewhere = to(SocketAddr::new(V4, 9), 1);
    elsewhere.path.socket = SocketId(7);
    assert_eq!(a.send(&elsewhere, b"x"), Err(IoError::NoSocket));
}

#[test]
fn the_main_socket_covers_both_families_on_one_port() {
    let mut main = UdpSockets::<UdpSocket>::bind(&BindOptions::default()).unwrap();
    let ports: Vec<u16> = main.local_addresses().map(|a| a.port()).collect();
    assert!(ports.iter().all(|port| *port == ports[0] && *port != 0));
    assert_eq!(ports.len(), families().len());
    let mut buf = vec![0; RECEIVE_BUFFER];
    for ip in families() {
        let mut peer = bind(ip);
        peer.send(&to(SocketAddr::new(ip, ports[0]), 2), b"hi").unwrap();
        let received = recv(&mut main, &mut buf);
        assert_eq!(received.path.remote, address(&peer));
        let back = Transmit { path: received.path, ..to(received.path.remote, 3) };
        main.send(&back, b"ho!").unwrap();
        assert_eq!(recv(&mut peer, &mut buf).len, 3);
    }
    let candidates = main.candidates().unwrap();
    assert!(!candidates.is_empty() && candidates.iter().all(|c| c.port() == ports[0]));
}

#[test]
fn a_dual_stack_socket_translates_mapped_addresses() {
    if families().len() < 2 {
        return;
    }
    let mut dual = bind(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let port = address(&dual).port();
    let before = hop_limit(&dual, V4);
    let mut buf = vec![0; RECEIVE_BUFFER];
    for ip in families() {
        let mut peer = bind(ip);
        peer.send(&to(SocketAddr::new(ip, port), 2), b"hi").unwrap();
        let received = recv(&mut dual, &mut buf);
        assert_eq!(received.path.remote, address(&peer));
        assert_eq!(received.path.local, Some(ip));
        let back = Transmit {
            path: received.path,
            hop_limit: NonZeroU8::new(2),
            ecn: Ecn::Ect0,
            ..to(received.path.remote, 3)
        };
        dual.send(&back, b"ho!").unwrap();
        let answer = recv(&mut peer, &mut buf);
        assert_eq!((answer.len, answer.ecn, answer.path.remote.port()), (3, Ecn::Ect0, port));
        assert_eq!(answer.path.remote.ip(), ip);
    }
    assert_eq!(hop_limit(&dual, V4), before);
}

#[test]
fn auxiliary_sockets_open_receive_send_and_close() {
    let mut a = UdpSockets::<UdpSocket>::bind(&BindOptions::default()).unwrap();
    let mut peer = bind(V4);
    let mut buf = vec![0; RECEIVE_BUFFER];
    let mut out = to(address(&peer), 2);
    out.path.socket = SocketId(5);
    assert_eq!(a.send(&out, b"hi"), Err(IoError::NoSocket));
    a.open(SocketId(5)).unwrap();
    a.open(SocketId(5)).unwrap();
    assert_eq!(a.reactors().count(), families().len() + 1);
    a.send(&out, b"hi").unwrap();
    let path = recv(&mut peer, &mut buf).path;
    assert_ne!(path.remote.port(), address(&a).port());
    peer.send(&to(path.remote, 2), b"yo").unwrap();
    assert_eq!(recv(&mut a, &mut buf).path.socket, SocketId(5));
    a.close(SocketId(5));
    a.close(SocketId(0));
    assert_eq!(a.send(&out, b"hi"), Err(IoError::NoSocket));
    assert_eq!(a.reactors().count(), families().len());
    for n in 1..=AUXILIARY_MAX as u16 {
        a.open(SocketId(n)).unwrap();
    }
    assert_eq!(a.open(SocketId(999)), Err(IoError::Full));
}

/// Socket 0 anew: the same addresses, another port, and the one before is free.
#[test]
fn the_main_socket_is_replaced_by_one_on_another_port() {
    let listen = |ip| BindOptions { listen: Some(SocketAddr::new(ip, 0)), ..Default::default() };
    let mut all: Vec<BindOptions> = families().into_iter().map(listen).collect();
    all.push(BindOptions::default());
    let port = address(&UdpSockets::<UdpSocket>::bind(&BindOptions::default()).unwrap()).port();
    all.push(BindOptions { port, ..Default::default() });
    for options in all {
        let mut a = UdpSockets::<UdpSocket>::bind(&options).unwrap();
        a.open(SocketId(5)).unwrap();
        let before: Vec<SocketAddr> = a.local_addresses().collect();
        a.open(SocketId(0)).unwrap();
        let after: Vec<SocketAddr> = a.local_addresses().collect();
        assert_eq!(before.len(), after.len());
        assert_eq!(a.reactors().count(), after.len() + 1, "the auxiliary socket stays");
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before.ip(), after.ip());
            assert_ne!(before.port(), after.port());
            UdpSocket::bind(before).expect("closed");
        }
        let mut peer = bind(if after[0].is_ipv4() { V4 } else { V6 });
        a.send(&to(address(&peer), 2), b"hi").unwrap();
        let mut buf = vec![0; RECEIVE_BUFFER];
        let path = recv(&mut peer, &mut buf).path;
        assert_eq!(path.remote.port(), after[0].port());
        peer.send(&to(path.remote, 2), b"yo").unwrap();
        assert_eq!(recv(&mut a, &mut buf).path.socket, SocketId(0));
        if options.port != 0 {
            a.open(SocketId(0)).unwrap();
            assert_eq!(address(&a).port(), options.port, "the port that was asked for, again");
        }
    }
}

/// A beacon with two addresses and two ports (RFC 5780) has a socket for each of the four.
#[test]
fn further_sockets_are_bound_to_given_addresses() {
    let mut a = bind(V4);
    let mut peer = bind(V4);
    let mut buf = vec![0; RECEIVE_BUFFER];
    let second = a.bind_as(SocketId(1), SocketAddr::new(V4, 0)).unwrap();
    assert!(matches!(a.bind_as(SocketId(2), second), Err(BindError::Taken(_))));
    peer.send(&to(second, 2), b"hi").unwrap();
    let received = recv(&mut a, &mut buf);
    assert_eq!((received.path.socket, received.path.remote), (SocketId(1), address(&peer)));
    a.send(&Transmit { path: received.path, ..to(received.path.remote, 2) }, b"ho").unwrap();
    assert_eq!(recv(&mut peer, &mut buf).path.remote, second);
}

#[test]
fn a_taken_port_gives_way_unless_it_is_fixed() {
    let first = UdpSockets::<UdpSocket>::bind(&BindOptions::default()).unwrap();
    let port = address(&first).port();
    let options = BindOptions { port, ..Default::default() };
    let second = UdpSockets::<UdpSocket>::bind(&options).unwrap();
    assert_ne!(address(&second).port(), port);
    let options = BindOptions { is_port_fixed: true, ..options };
    let result = UdpSockets::<UdpSocket>::bind(&options);
    assert!(matches!(result, Err(BindError::Taken(a)) if a.port() == port));
    let listen = Some(SocketAddr::new(V4, port));
    let result = UdpSockets::<UdpSocket>::bind(&BindOptions { listen, ..Default::default() });
    assert!(matches!(result, Err(BindError::Taken(_))));
    let listen = Some("192.0.2.77:0".parse().unwrap());
    let result = UdpSockets::<UdpSocket>::bind(&BindOptions { listen, ..Default::default() });
    assert!(matches!(result, Err(BindError::NotLocal(_))));
}

/// A path may name a local address that the host has lost. The packet still goes out, and
/// offload and ECN survive it.
#[cfg(target_os = "linux")]
#[test]
fn a_vanished_local_address_costs_neither_the_packet_nor_offload() {
    let listen = Some(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
    let mut a: UdpSockets =
        UdpSockets::bind(&BindOptions { listen, ..Default::default() }).unwrap();
    let mut b = bind(V4);
    let segments = a.max_segments();
    let mut out = Transmit { ecn: Ecn::Ect0, ..to(address(&b), 2) };
    out.path.local = Some("192.0.2.77".parse().unwrap());
    let mut buf = vec![0; RECEIVE_BUFFER];
    for _ in 0..2 {
        a.send(&out, b"hi").unwrap();
        let received = recv(&mut b, &mut buf);
        assert_eq!((received.len, received.ecn), (2, Ecn::Ect0));
        assert_eq!(a.max_segments(), segments);
    }
}
