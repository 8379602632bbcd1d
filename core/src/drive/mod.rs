//! The one loop that every adapter shares, and what surrounds it.
//!
//! An adapter supplies non-blocking sockets ([`Datagrams`]), a clock ([`Clock`]), a place for
//! what comes out ([`Outlet`]), and the ability to wait until readable, writable, a deadline or
//! a wake-up. Everything else is [`Driver::turn`]: receive, let timers fire, send, hand out
//! events, each with a budget, and then say what to wait for.
//!
//! ```text
//! loop {
//!     match driver.turn(&clock, &mut machine, &mut sockets, &mut outlet) {
//!         Turn::Again => yield to other work,
//!         Turn::Wait { until, writable } => wait until readable, until `until`,
//!                                           until writable (if asked for) or until woken,
//!     }
//! }
//! ```
//!
//! Application handles of an adapter (streams, listeners, requests) park wakers in [`waiters`];
//! with an allocator, [`Hub`] joins them and the inboxes of datagram ports to a
//! [`crate::node::Node`], so that a handle is a few lines in any runtime.
//!
//! With the standard library there is the rest of what adapters have in common: `Shared` (a
//! machine, its sockets and the loop behind one lock), `agent` (handles), `household` (the
//! registry's connection, durable changes, clocks and interfaces), and for runtimes with
//! futures the tasks that drive both; for readiness loops `ready`, and for threads that wait
//! `blocking`. An adapter then consists of its implementations of `Runtime` and, if it has tasks,
//! `AsyncRuntime`, and otherwise of its loop.

#[cfg(any(test, feature = "std"))]
pub mod agent;
#[cfg(any(test, feature = "std"))]
pub mod blocking;
mod budget;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(any(test, feature = "std"))]
mod eager;
#[cfg(any(test, feature = "std"))]
pub mod household;
#[cfg(feature = "alloc")]
mod hub;
#[cfg(feature = "alloc")]
mod inbox;
mod io;
#[cfg(feature = "alloc")]
mod location;
#[cfg(any(test, feature = "std"))]
mod neighbours;
#[cfg(any(test, feature = "std"))]
pub mod ready;
#[cfg(any(test, feature = "std"))]
mod runtime;
#[cfg(any(test, feature = "std"))]
pub mod services;
#[cfg(any(test, feature = "std"))]
mod shared;
#[cfg(any(test, feature = "std"))]
mod sockets;
#[cfg(any(test, feature = "std"))]
mod task;
mod turn;
pub mod waiters;

pub use budget::Budget;
#[cfg(any(test, feature = "std"))]
pub use eager::Eagerness;
#[cfg(feature = "alloc")]
pub use hub::{Hub, Refusal, WaitFor};
#[cfg(feature = "alloc")]
pub use inbox::Inbox;
pub use io::{Clock, Datagrams, IoError, Received};
#[cfg(feature = "alloc")]
pub use location::{
    BEACON_PORT, HostPort, KeyText, LocationError, REGISTRY_PORT, RegistryLocation,
};
#[cfg(any(test, feature = "std"))]
pub use runtime::{AsyncRuntime, Copies, Host, Readiness, Runtime, Sockets, Timer};
#[cfg(any(test, feature = "std"))]
pub use shared::{Access, Made, Next, Owner, Shared};
#[cfg(any(test, feature = "std"))]
pub use sockets::{BindError, BindOptions};
#[cfg(any(test, feature = "std"))]
pub use task::{Task, UdpDriver};
pub use turn::{BLOCKED_TICK, Driver, IoStats, Outlet, RECEIVE_BUFFER, SEND_BUFFER, Turn};
