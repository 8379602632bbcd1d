//! Which addresses the main socket takes.

use pilot_core::drive::{BindError, BindOptions};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// How often an arbitrary port is tried for both families at once.
const PAIR_ATTEMPTS: u32 = 8;
/// `ENFILE`, `EMFILE` and `ENOBUFS`, or what corresponds to them.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SHORTAGES: [i32; 3] = [23, 24, 105];
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
const SHORTAGES: [i32; 3] = [23, 24, 55];
#[cfg(windows)]
const SHORTAGES: [i32; 2] = [10024, 10055];
#[cfg(not(any(unix, windows)))]
const SHORTAGES: [i32; 0] = [];

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
            // That will pass, and IPv4 alone would stay.
            Err(error) if is_shortage(&error) => return Err(error),
            // No IPv6 on this host, in one of the many ways to say so.
            Err(_) => return Ok(vec![v4]),
        }
    }
}

/// Whether the system has no descriptor or memory left at present.
fn is_shortage(error: &BindError) -> bool {
    let BindError::Io { source, .. } = error else { return false };
    source.kind() == io::ErrorKind::OutOfMemory
        || source.raw_os_error().is_some_and(|number| SHORTAGES.contains(&number))
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
