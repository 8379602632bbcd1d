//! One UDP socket: translation between the core's words and the system's.

use crate::sockets::Reactor;
#[cfg(feature = "faults")]
use pilot_core::drive::conformance::Calls;
use pilot_core::drive::{IoError, Received};
use pilot_core::machine::{Ecn, Path, SocketId, Transmit};
use quinn_udp::{EcnCodepoint, RecvMeta, UdpSockRef, UdpSocketState};
use socket2::SockRef;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

/// Local addresses that are remembered as gone.
const GONE: usize = 4;
/// Receive errors in a row after which a socket is left alone until it becomes readable anew:
/// a runtime takes a socket for readable until a call would block, so one that does nothing
/// but fail would keep its driver spinning.
const RECEIVE_ERRORS: u32 = 4;

pub(crate) struct Bound<S> {
    pub(crate) id: SocketId,
    pub(crate) reactor: S,
    /// As bound; the port is never 0.
    pub(crate) local: SocketAddr,
    pub(crate) is_dual: bool,
    state: UdpSocketState,
    hop_limits: HopLimits,
    /// Local addresses that some path still names but the host no longer has. Sending from
    /// one fails, on some kernels with `EINVAL`, which quinn-udp takes for missing offload and
    /// ECN support; so the source is left to the system until something arrives on it again.
    gone: [Option<IpAddr>; GONE],
    next_gone: usize,
    /// Receive calls in a row that failed otherwise than by blocking.
    receive_errors: u32,
    /// Something was received.
    pub(crate) is_used: bool,
}

/// The socket's own hop limits, and whether one of them could not be restored.
struct HopLimits {
    v4: Option<u32>,
    v6: Option<u32>,
    is_stale: bool,
}

impl<S: Reactor> Bound<S> {
    pub(crate) fn new(
        id: SocketId,
        socket: UdpSocket,
        is_dual: bool,
        buffer_bytes: Option<usize>,
    ) -> io::Result<Self> {
        let local = socket.local_addr()?;
        #[cfg(feature = "faults")]
        crate::faults::forget(local);
        let state = prepared(&SockRef::from(&socket), local)?;
        if let Some(bytes) = buffer_bytes {
            // Best effort: the system's limit counts, and a smaller buffer still works.
            let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), bytes);
            let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), bytes);
        }
        let sock = SockRef::from(&socket);
        let is_v4 = local.is_ipv4();
        let hop_limits = HopLimits {
            v4: if is_v4 || is_dual { sock.ttl_v4().ok() } else { None },
            v6: if is_v4 { None } else { Some(sock.unicast_hops_v6()?) },
            is_stale: false,
        };
        let reactor = S::register(socket)?;
        Ok(Bound {
            id,
            reactor,
            local,
            is_dual,
            state,
            hop_limits,
            gone: [None; GONE],
            next_gone: 0,
            receive_errors: 0,
            is_used: false,
        })
    }

    /// Whether it can send to this address.
    pub(crate) fn reaches(&self, remote: SocketAddr) -> bool {
        self.is_dual || self.local.is_ipv4() == remote.is_ipv4()
    }

    pub(crate) fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    pub(crate) fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    pub(crate) fn recv(&mut self, buf: &mut [u8]) -> Result<Received, IoError> {
        let mut meta = [RecvMeta::default()];
        let sock = self.reactor.sock_ref();
        let received = self.reactor.try_recv(|| {
            if self.receive_errors >= RECEIVE_ERRORS {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            #[cfg(feature = "faults")]
            if let Some(Err(error)) = crate::faults::meet(self.local, Calls::Receive) {
                return Err(error);
            }
            let mut bufs = [IoSliceMut::new(buf)];
            self.state.recv(UdpSockRef::from(&*sock), &mut bufs, &mut meta)
        });
        self.receive_errors = match &received {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => self.receive_errors + 1,
            _ => 0,
        };
        received.map_err(typed)?;
        let meta = &meta[0];
        let local = meta.dst_ip.unwrap_or(self.local.ip()).to_canonical();
        let local = Some(local).filter(is_unicast);
        if let Some(local) = local {
            self.gone.iter_mut().filter(|gone| **gone == Some(local)).for_each(|g| *g = None);
        }
        let path = Path { socket: self.id, local, remote: canonical(meta.addr) };
        let ecn = match meta.ecn {
            None => Ecn::NotEct,
            Some(EcnCodepoint::Ect1) => Ecn::Ect1,
            Some(EcnCodepoint::Ect0) => Ecn::Ect0,
            Some(EcnCodepoint::Ce) => Ecn::Ce,
        };
        Ok(Received { path, ecn, len: meta.len, stride: meta.stride })
    }

    pub(crate) fn send(&mut self, transmit: &Transmit, bytes: &[u8]) -> Result<(), IoError> {
        if self.hop_limits.is_stale {
            self.set_hop_limit(transmit.path.remote, None).map_err(typed)?;
        }
        let Some(limit) = transmit.hop_limit else { return self.send_plain(transmit, bytes) };
        self.set_hop_limit(transmit.path.remote, Some(u32::from(limit.get()))).map_err(typed)?;
        let sent = self.send_plain(transmit, bytes);
        // A failure leaves it stale, and nothing is sent before it has been restored.
        let _ = self.set_hop_limit(transmit.path.remote, None);
        sent
    }

    /// Sets the hop limit for packets to `remote`'s family, or restores the socket's own.
    fn set_hop_limit(&mut self, remote: SocketAddr, limit: Option<u32>) -> io::Result<()> {
        let sock = self.reactor.sock_ref();
        let result = match remote {
            SocketAddr::V4(_) => {
                limit.or(self.hop_limits.v4).map_or(Ok(()), |ttl| sock.set_ttl_v4(ttl))
            }
            SocketAddr::V6(_) => {
                limit.or(self.hop_limits.v6).map_or(Ok(()), |hops| sock.set_unicast_hops_v6(hops))
            }
        };
        self.hop_limits.is_stale = limit.is_some() || result.is_err();
        result
    }

    fn send_plain(&mut self, transmit: &Transmit, bytes: &[u8]) -> Result<(), IoError> {
        let mut outgoing = quinn_udp::Transmit {
            destination: self.outward(transmit.path.remote),
            ecn: match transmit.ecn {
                Ecn::NotEct => None,
                Ecn::Ect1 => Some(EcnCodepoint::Ect1),
                Ecn::Ect0 => Some(EcnCodepoint::Ect0),
                Ecn::Ce => Some(EcnCodepoint::Ce),
            },
            contents: bytes,
            segment_size: transmit.segment.map(|segment| usize::from(segment.get())),
            // Where it is bound to one address, there is nothing to choose.
            src_ip: transmit
                .path
                .local
                .filter(|ip| self.local.ip().is_unspecified() && !self.gone.contains(&Some(*ip))),
        };
        let mut sent = self.try_send(&outgoing);
        if let (Err(error), Some(local)) = (&sent, outgoing.src_ip)
            && is_bad_source(error)
        {
            outgoing.src_ip = None;
            sent = self.try_send(&outgoing);
            if sent.is_ok() {
                // It was the address. Forget what quinn-udp concluded from the error.
                self.state = prepared(&self.reactor.sock_ref(), self.local).map_err(typed)?;
                self.gone[self.next_gone] = Some(local);
                self.next_gone = (self.next_gone + 1) % GONE;
            }
        }
        match (sent, outgoing.segment_size) {
            // The interface cannot segment, which shows only in trying; from now on
            // `max_segments` is 1, but this train is built already.
            (Err(error), Some(segment)) if segment < bytes.len() && is_offload_failure(&error) => {
                self.send_singly(outgoing, segment)
            }
            (sent, _) => sent.map_err(typed),
        }
    }

    /// Sends a train datagram by datagram. If the socket is full in the middle, the rest is
    /// lost: the first ones must not be sent twice, and loss recovery repairs it.
    fn send_singly(
        &self,
        mut outgoing: quinn_udp::Transmit<'_>,
        segment: usize,
    ) -> Result<(), IoError> {
        outgoing.segment_size = None;
        for (n, datagram) in outgoing.contents.chunks(segment).enumerate() {
            outgoing.contents = datagram;
            match self.try_send(&outgoing) {
                Ok(()) => {}
                Err(error) if n > 0 && error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(IoError::Os(0));
                }
                Err(error) => return Err(typed(error)),
            }
        }
        Ok(())
    }

    fn try_send(&self, outgoing: &quinn_udp::Transmit<'_>) -> io::Result<()> {
        let sock = self.reactor.sock_ref();
        self.reactor.try_send(|| {
            #[cfg(feature = "faults")]
            if let Some(met) = crate::faults::meet(self.local, Calls::Send) {
                return met;
            }
            if is_plain(outgoing) {
                return send_plainly(&sock, outgoing);
            }
            self.state.try_send(UdpSockRef::from(&*sock), outgoing)
        })
    }

    /// The address as this socket's family writes it.
    fn outward(&self, remote: SocketAddr) -> SocketAddr {
        match remote {
            SocketAddr::V4(v4) if self.local.is_ipv6() => {
                SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0))
            }
            other => other,
        }
    }
}

/// Sets the options that a socket bound to `local` has.
fn prepared(sock: &SockRef<'_>, local: SocketAddr) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(UdpSockRef::from(&**sock))?;
    #[cfg(target_os = "linux")]
    tell_less(sock, local);
    Ok(state)
}

/// quinn-udp asks the system to tell of each packet when it came, which nobody here wants to
/// know, and where to, which is known of a socket that is bound to one address. Either takes a
/// percent or two of a short packet's time; where it cannot be switched off, it does no harm.
#[cfg(target_os = "linux")]
fn tell_less(sock: &SockRef<'_>, local: SocketAddr) {
    use nix::sys::socket::{setsockopt, sockopt};
    let _ = setsockopt(&**sock, sockopt::ReceiveTimestampns, &false);
    if !local.ip().is_unspecified() {
        let _ = match local {
            SocketAddr::V4(_) => setsockopt(&**sock, sockopt::Ipv4PacketInfo, &false),
            SocketAddr::V6(_) => setsockopt(&**sock, sockopt::Ipv6RecvPacketInfo, &false),
        };
    }
}

/// Whether nothing has to be said to the system but the destination.
fn is_plain(outgoing: &quinn_udp::Transmit<'_>) -> bool {
    let is_single = outgoing.segment_size.is_none_or(|segment| segment >= outgoing.contents.len());
    is_single && outgoing.ecn.is_none() && outgoing.src_ip.is_none()
}

/// Without ancillary data, which the system would have to copy and look through.
fn send_plainly(sock: &SockRef<'_>, outgoing: &quinn_udp::Transmit<'_>) -> io::Result<()> {
    let to = outgoing.destination.into();
    loop {
        match sock.send_to(outgoing.contents, &to) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            sent => return sent.map(drop),
        }
    }
}

/// IPv4 is never written as an IPv4-mapped IPv6 address, and the flow label is no part of an
/// address; so one peer is one `SocketAddr`.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => match v6.ip().to_canonical() {
            IpAddr::V4(v4) => SocketAddr::from((v4, v6.port())),
            IpAddr::V6(ip) => {
                let scope = if ip.is_unicast_link_local() { v6.scope_id() } else { 0 };
                SocketAddr::V6(SocketAddrV6::new(ip, v6.port(), 0, scope))
            }
        },
    }
}

/// Nothing can be sent from a broadcast or multicast address.
fn is_unicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !(v4.is_unspecified() || v4.is_broadcast() || v4.is_multicast()),
        IpAddr::V6(v6) => !(*v6 == Ipv6Addr::UNSPECIFIED || v6.is_multicast()),
    }
}

/// What systems say to a source address that the host does not have, or from which the
/// destination cannot be reached any more.
fn is_bad_source(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::InvalidInput
            | Kind::AddrNotAvailable
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
    )
}

/// `EIO` or `EINVAL`: what Linux says where the interface lacks segmentation offload.
fn is_offload_failure(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    error.kind() == io::ErrorKind::InvalidInput || error.raw_os_error() == Some(EIO)
}

pub(crate) fn typed(error: io::Error) -> IoError {
    use io::ErrorKind as Kind;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    if quinn_udp::is_msg_size_err(&error) {
        return IoError::TooLarge;
    }
    match error.kind() {
        Kind::WouldBlock => IoError::WouldBlock,
        Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::NetworkDown
        | Kind::AddrNotAvailable => IoError::Unreachable,
        Kind::PermissionDenied => IoError::Denied,
        _ => match error.raw_os_error() {
            Some(ENFILE | EMFILE) if cfg!(unix) => IoError::Full,
            number => IoError::Os(number.unwrap_or(0)),
        },
    }
}
