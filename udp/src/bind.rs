//! Which addresses the main socket takes.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// How often an arbitrary port is tried for both families at once.
const PAIR_ATTEMPTS: u32 = 8;

/// Where the main socket (socket 0) listens.
///
/// | given | bound |
/// |---|---|
/// | `listen` | that address alone; `[::]` covers IPv4, too |
/// | `port`, not fixed | the port on `0.0.0.0` and `[::]`, or if it is taken any free one |
/// | `port`, fixed | the port on `0.0.0.0` and `[::]`, or an error |
///
/// Where the system has no IPv6, IPv4 alone is bound.
#[derive(Clone, Debug)]
pub struct BindOptions {
    /// Exactly this address.
    pub listen: Option<SocketAddr>,
    /// The port on all addresses; 0 is any.
    pub port: u16,
    /// Whether it must be that port, because others were told so (`--endpoint`).
    pub is_port_fixed: bool,
    /// Send and receive buffer of the main sockets, in bytes; best effort, since the system
    /// has its own limit. 4 MB hold what arrives in 4 ms at a gigabyte a second.
    pub buffer_bytes: usize,
}

impl Default for BindOptions {
    fn default() -> Self {
        BindOptions { listen: None, port: 0, is_port_fixed: false, buffer_bytes: 4 << 20 }
    }
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another program has this address.
    #[error("{0} is in use by another program")]
    Taken(SocketAddr),
    /// The address is not one of this host's.
    #[error("{0} is not an address of this host")]
    NotLocal(SocketAddr),
    /// The system does not allow it; ports below 1024 usually need a privilege.
    #[error("not permitted to bind {0}")]
    Denied(SocketAddr),
    /// Anything else.
    #[error("cannot bind {address}")]
    Io {
        /// What was tried.
        address: SocketAddr,
        /// Why it failed.
        source: io::Error,
    },
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::Taken(address),
            io::ErrorKind::AddrNotAvailable => BindError::NotLocal(address),
            io::ErrorKind::PermissionDenied => BindError::Denied(address),
            _ => BindError::Io { address, source },
        }
    }
}

/// The sockets that `options` ask for: one, or one per family on the same port.
pub(crate) fn bind(options: &BindOptions) -> Result<Vec<UdpSocket>, BindError> {
    if let Some(address) = options.listen {
        let is_dual = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        return Ok(vec![bind_one(address, !is_dual)?]);
    }
    match bind_pair(options.port) {
        Err(BindError::Taken(_) | BindError::Denied(_))
            if !options.is_port_fixed && options.port != 0 =>
        {
            bind_pair(0)
        }
        result => result,
    }
}

/// `port` for both families.
fn bind_pair(port: u16) -> Result<Vec<UdpSocket>, BindError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let v4 = bind_one(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), true)?;
        let taken = v4.local_addr().map_or(port, |address| address.port());
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, taken));
        match bind_one(address, true) {
            Ok(v6) => return Ok(vec![v4, v6]),
            // An arbitrary port that IPv4 gave is another's for IPv6: draw again.
            Err(BindError::Taken(_)) if port == 0 && attempt < PAIR_ATTEMPTS => {}
            Err(error @ BindError::Taken(_)) => return Err(error),
            // No IPv6 on this host, in one of the many ways to say so.
            Err(_) => return Ok(vec![v4]),
        }
    }
}

/// One socket on one address. IPv6 sockets with `only_v6` leave IPv4 to another one.
pub(crate) fn bind_one(address: SocketAddr, only_v6: bool) -> Result<UdpSocket, BindError> {
    let open = || -> io::Result<UdpSocket> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(only_v6)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    };
    open().map_err(|error| BindError::new(address, error))
}
