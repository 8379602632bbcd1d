//! UDP sockets for [`pilot_core::drive::Driver`]: the part of an adapter that knows the
//! operating system, without a runtime and without the protocol.
//!
//! [`UdpSockets`] implements [`Datagrams`](pilot_core::drive::Datagrams) over quinn-udp:
//! segmentation and receive offload, ECN, the local address of each packet, a hop limit on
//! single packets, and auxiliary sockets. It is generic over how a runtime registers a socket
//! ([`Reactor`]): a plain [`std::net::UdpSocket`] is tried whenever it is asked for, and a
//! runtime's own type spares the system call while it knows that nothing is there.
//!
//! [`host_candidates`] lists the addresses at which this host may be reached.
#![forbid(unsafe_code)]

mod bind;
mod candidates;
mod socket;
mod sockets;

pub use bind::{BindError, BindOptions};
pub use candidates::{CANDIDATES_MAX, host_candidates, local_candidates};
pub use socket2::SockRef;
pub use sockets::{AUXILIARY_MAX, Reactor, UdpSockets};
