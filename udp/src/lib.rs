//! UDP sockets for [`pilot_core::drive::Driver`], and what else of an adapter knows the
//! operating system: without a runtime and without the protocol.
//!
//! [`UdpSockets`] implements [`Datagrams`](pilot_core::drive::Datagrams) over quinn-udp:
//! segmentation and receive offload, ECN, the local address of each packet, a hop limit on
//! single packets, and auxiliary sockets. It is generic over how a runtime registers a socket
//! ([`Reactor`]): a plain [`std::net::UdpSocket`] is tried whenever it is asked for, and a
//! runtime's own type spares the system call while it knows that nothing is there.
//!
//! [`host_candidates`] lists the addresses at which this host may be reached. [`Clock`] is the
//! [`Host`](pilot_core::drive::Host) of every adapter: clocks, entropy, and threads for what
//! may block ([`carry_out`]). [`Generation`] notices that the machine was copied.
//!
//! # Features
//!
//! | Feature | Adds |
//! |---|---|
//! | `faults` | `faults::inject`: errors of the operating system on demand, for the tests of adapters |
#![forbid(unsafe_code)]

mod bind;
mod candidates;
mod clock;
mod errand;
#[cfg(feature = "faults")]
pub mod faults;
mod generation;
mod socket;
mod sockets;

pub use candidates::{CANDIDATES_MAX, host_candidates, local_candidates};
pub use clock::Clock;
pub use errand::carry_out;
pub use generation::Generation;
pub use pilot_core::drive::{BindError, BindOptions};
pub use socket2::SockRef;
pub use sockets::{AUXILIARY_MAX, Reactor, UdpSockets};
