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
//! | [`service`] | echo, data exchange, events and tasks over streams |
//! | [`node`] | one agent: all of the above behind one interface |
//! | `rendezvous` | the server machine: registry and beacon (feature `alloc`) |
//! | [`drive`] | the one loop that all adapters share; with `std` also agents' handles and their household |
//!
//! # Example
//!
//! Two agents and a rendezvous in memory, on virtual time: what a test, a simulator or a runtime of
//! your own does. Over sockets, [`drive::Driver`] is the loop (`docs/drive-it-yourself.md`).
//!
//! ```
//! use pilot_core::addr::Port;
//! use pilot_core::machine::{Ecn, Machine, Path};
//! use pilot_core::node::{Command, Event, Node, Reply, StreamId};
//! # use pilot_core::trust::Permissions;
//! # use pilot_core::crypto::{Identity, RUST_CRYPTO, TunnelSecret};
//! # use pilot_core::name::Justification;
//! # use pilot_core::node::Config;
//! # use pilot_core::rendezvous::{ConnId, Event as ServerEvent, Rendezvous, RendezvousConfig};
//! # use pilot_core::time::{Duration, Instant, UnixTime};
//! # use std::{net::SocketAddr, num::NonZeroUsize};
//! #
//! /// Agents 0 and 1 on hosts 0 and 1; the rendezvous on host 2.
//! struct Net { now: Instant, agents: [Node<'static>; 2], server: Rendezvous, told: [Vec<Event>; 2] }
//!
//! fn socket(host: u8) -> SocketAddr {
//!     SocketAddr::from(([198, 51, 100, host], 4000))
//! }
//!
//! /// What a machine sends now: its packets are built here, from its state, until there is none.
//! fn packets(machine: &mut impl Machine, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
//!     let mut out = [0; 2048];
//!     let mut sent = Vec::new();
//!     while let Some(t) = machine.poll_transmit(now, &mut out, NonZeroUsize::MIN) {
//!         sent.push((t.path.remote, out[..t.len].to_vec()));
//!     }
//!     sent
//! }
//!
//! impl Net {
//!     /// Lets things happen until `done`.
//!     fn run(&mut self, mut done: impl FnMut(&mut Net) -> bool) {
//!         let end = self.now + Duration::from_secs(60);
//!         while !done(self) {
//!             assert!(self.now < end, "not within a minute");
//!             let now = self.now;
//!             for n in 0..2 {
//!                 for (to, bytes) in packets(&mut self.agents[n], now) {
//!                     self.deliver(socket(n as u8), to, bytes);
//!                 }
//!                 while let Some(event) = self.agents[n].poll_event() {
//!                     self.told[n].push(event);
//!                     self.see_to(n, event);
//!                 }
//!             }
//!             for (to, bytes) in packets(&mut self.server, now) {
//!                 self.deliver(socket(2), to, bytes);
//!             }
//!             # self.pump_registry();
//!             // Time passes: to whatever is due first, at least by a bit.
//!             let due = self.agents.iter().filter_map(Machine::poll_timeout).map(|t| t.at).min();
//!             let tick = now + Duration::from_millis(1);
//!             self.now = due.unwrap_or(tick).clamp(tick, now + Duration::from_millis(50));
//!             self.agents.iter_mut().for_each(|agent| agent.handle_timeout(self.now));
//!             self.server.handle_timeout(self.now);
//!         }
//!     }
//!
//!     fn deliver(&mut self, from: SocketAddr, to: SocketAddr, mut bytes: Vec<u8>) {
//!         let path = Path::to(from);
//!         for n in 0..2 {
//!             if to == socket(n as u8) {
//!                 let _ = self.agents[n].handle_datagram(self.now, path, Ecn::NotEct, &mut bytes);
//!                 self.agents[n].handle_batch_end(self.now);
//!             }
//!         }
//!         if to == socket(2) {
//!             let _ = self.server.handle_datagram(self.now, path, Ecn::NotEct, &mut bytes);
//!         }
//!     }
//! #
//! #     /// What an adapter does when it is told something.
//! #     fn see_to(&mut self, n: usize, event: Event) {
//! #         let (now, conn) = (self.now, ConnId(n as u64));
//! #         let agent = &mut self.agents[n];
//! #         match event {
//! #             Event::DialRegistry => {
//! #                 self.server.handle_open(now, conn, socket(n as u8));
//! #                 agent.handle_registry_open(now);
//! #             }
//! #             Event::CloseRegistry => {
//! #                 self.server.handle_close(now, conn);
//! #                 agent.handle_registry_close(now);
//! #             }
//! #             Event::Store => {
//! #                 let mut value = [0; 2048];
//! #                 while let Some(change) = agent.poll_store(&mut value) {
//! #                     agent.handle_stored(now, change.sequence);
//! #                 }
//! #             }
//! #             Event::TrustRequested(from) => {
//! #                 agent.command(now, Command::ApproveTrust { from, permissions: Permissions::ALL }).unwrap();
//! #             }
//! #             _ => {}
//! #         }
//! #     }
//! #
//! #     fn pump_registry(&mut self) {
//! #         let (now, mut buf) = (self.now, [0; 16_384]);
//! #         for n in 0..2 {
//! #             let len = self.agents[n].poll_bytes(now, &mut buf);
//! #             if len > 0 {
//! #                 self.server.handle_bytes(now, ConnId(n as u64), &buf[..len]);
//! #             }
//! #         }
//! #         while let Some(commit) = self.server.poll_commit(now) {
//! #             self.server.handle_commit(now, commit.id, true);
//! #         }
//! #         while let Some(event) = self.server.poll_event() {
//! #             match event {
//! #                 ServerEvent::ConnectionWritable(conn) => {
//! #                     let len = self.server.poll_bytes(now, conn, &mut buf);
//! #                     self.agents[conn.0 as usize].handle_bytes(now, &buf[..len]);
//! #                 }
//! #                 ServerEvent::CloseConnection(conn) => {
//! #                     self.agents[conn.0 as usize].handle_registry_close(now);
//! #                 }
//! #                 _ => {}
//! #             }
//! #         }
//! #     }
//! }
//!
//! # let (now, unix) = (Instant::START + Duration::from_secs(1), UnixTime::from_secs(1_800_000_000));
//! # let mut config = RendezvousConfig::default();
//! # config.beacon.push(socket(2)).unwrap();
//! # let (identity, secret) = (Identity::from_secret([9; 32]), TunnelSecret::from_secret([8; 32]));
//! # let server = Rendezvous::new(config, identity, secret, &RUST_CRYPTO, [7; 32], now, unix);
//! # let agents = [0, 1].map(|n| {
//! #     let identity = Identity::from_secret([n + 1; 32]);
//! #     let mut agent = Node::boxed(Config::default(), identity, &RUST_CRYPTO, [n + 5; 32], now, unix);
//! #     agent.start(now);
//! #     agent.command(now, Command::NetworkChanged { locals: &[socket(n)] }).unwrap();
//! #     agent.command(now, Command::SetBeacon { address: socket(2) }).unwrap();
//! #     agent
//! # });
//! # let mut net = Net { now, agents, server, told: [Vec::new(), Vec::new()] };
//! // Both register; the first asks the second for trust, which grants it.
//! net.run(|net| net.agents.iter().all(|agent| agent.address().is_some()));
//! let to = net.agents[1].address().unwrap();
//! net.agents[1].command(net.now, Command::Listen { port: Port(7) })?;
//! # let justification = Justification::cleaned("an example");
//! net.agents[0].command(net.now, Command::RequestTrust { to, justification })?;
//! net.run(|net| net.told[0].contains(&Event::TrustGranted(to)));
//!
//! // A stream: `write` takes what there is room for, `read` gives what is there.
//! let connect = Command::Connect { to, port: Port(7) };
//! let Reply::Stream(ours) = net.agents[0].command(net.now, connect)? else { unreachable!() };
//! let mut stream = net.agents[0].stream(ours).unwrap();
//! assert_eq!(stream.write(net.now, b"hello")?, 5);
//! stream.finish(net.now)?;
//!
//! let (mut theirs, mut heard) = (None::<StreamId>, Vec::new());
//! net.run(|net| {
//!     theirs = theirs.or_else(|| net.agents[1].accept(Port(7)));
//!     let Some(mut stream) = theirs.and_then(|id| net.agents[1].stream(id)) else { return false };
//!     let mut buf = [0; 64];
//!     match stream.read(net.now, &mut buf) {
//!         Ok(0) => return true,
//!         Ok(len) => heard.extend_from_slice(&buf[..len]),
//!         Err(_) => {}
//!     }
//!     false
//! });
//! assert_eq!(heard, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Without a runtime, or without an operating system: the guide `docs/drive-it-yourself.md`
//! explains the contract below and walks through two programs, one on sockets of the standard
//! library, one on static memory alone.
//!
//! # Features
//!
//! | Feature | Adds |
//! |---|---|
//! | `alloc` (default) | boxed storage, the rendezvous machine |
//! | `std` | what adapters share (`drive::agent`, `drive::household`, `drive::Shared`), runtime detection of AES hardware; implies `alloc` |
//! | `conformance` | [`drive`]'s module `conformance`: the cases that the tests of adapters run; implies `std` |
//! | `memo` | results of costly functions of keys that the simulator's threads keep (`crypto::memo`); implies `std` |
//! | `planted` | defects that tests switch on, for the simulator to find; implies `std` |
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
#[cfg(not(feature = "planted"))]
mod planted;
#[cfg(feature = "planted")]
pub mod planted;
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
