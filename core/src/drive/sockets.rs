//! Which addresses the main socket takes, and why it could not.

use std::io;
use std::net::SocketAddr;

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
    /// What an error of the system means for a socket on `address`.
    pub fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::Taken(address),
            io::ErrorKind::AddrNotAvailable => BindError::NotLocal(address),
            io::ErrorKind::PermissionDenied => BindError::Denied(address),
            _ => BindError::Io { address, source },
        }
    }
}
