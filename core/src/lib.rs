//! The sans-IO core of Pilot Protocol: every decision about what to send, when and to whom, as
//! pure state machines. Datagrams, bytes and time go in; datagrams, bytes, deadlines and events
//! come out. Nothing here opens a socket, reads a clock or draws randomness of its own.
//!
//! # Map
//!
//! | Module | What |
//! |---|---|
//! | [`time`], [`rng`], [`limits`], [`stats`] | time as a value, seeded randomness, every bound and timer, drop counters |
//! | [`slab`], [`timer`] | fixed-capacity storage, boxed or lent; deadlines |
//! | [`addr`], [`name`] | addresses, ports, hostnames, tags |
//! | [`wire`], [`crypto`] | byte layouts and message bodies; keys, signatures, the Noise exchange, AEAD providers |
//! | [`session`] | the tunnel: handshakes, session slots, keys, timers |
//! | [`stream`], [`port`] | streams, datagrams, acknowledgement, loss recovery, congestion control |
//! | [`journal`], [`trust`], [`directory`] | durable facts; who may reach us; the client of registry and beacon |
//! | [`service`] | echo and data exchange over streams |
//! | [`node`] | one agent: all of the above behind one interface |
//! | `rendezvous` | the server machine: registry and beacon (feature `alloc`) |
//! | [`drive`] | the one loop that all adapters share |
//!
//! # Features
//!
//! | Feature | Adds |
//! |---|---|
//! | `alloc` (default) | boxed storage, the rendezvous machine |
//! | `std` | runtime detection of AES hardware; implies `alloc` |
//! | `conformance` | [`drive`]'s module `conformance`: the cases that the tests of adapters run; implies `std` |
//! | `ring` | the AEAD provider `crypto::ring::RING`; implies `alloc`, needs a C compiler |
//! | none | storage lent by the caller, no allocator |
//!
//! # The contract of a [`machine::Machine`]
//!
//! 1. `now` is an argument of every mutation, never ambient; an older `now` is clamped.
//! 2. Calls may come in any order; no drain is required between mutations.
//! 3. Queued output means `poll_timeout().at <= last now`; after a full drain it is strictly
//!    later.
//! 4. `handle_timeout` early or twice does nothing; late is safe.
//! 5. Peer bytes never yield `Err` and never panic: they are dropped with a reason, counted.
//! 6. Packets are built inside `poll_transmit`, from state; nothing encrypted is queued. A packet
//!    that the socket refused is parked whole in the driver.
//! 7. Events are edges, coalesced on the object they concern: no queue can overflow.
//! 8. [`drive::Driver::turn`] receives before it fires timers; after four capped receive batches
//!    timers fire regardless; the clock, not the runtime's timer, decides expiry.
//! 9. `write` returning n means accepted into a bounded ring; acknowledged is an event.
//! 10. The same seed and inputs give the same bytes.

#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(any(test, feature = "std"))]
extern crate std;

pub mod addr;
pub mod crypto;
pub mod directory;
pub mod drive;
#[cfg(test)]
mod frozen_packets;
pub mod journal;
pub mod limits;
pub mod machine;
pub mod name;
pub mod node;
pub mod path;
pub mod port;
#[cfg(feature = "alloc")]
pub mod rendezvous;
pub mod rng;
pub mod service;
pub mod session;
pub mod slab;
pub mod stats;
pub mod stream;
pub mod time;
pub mod timer;
pub mod trust;
pub mod wire;
