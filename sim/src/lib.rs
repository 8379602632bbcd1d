#![doc = include_str!("../README.md")]
//!
//! # Map
//!
//! | Module | What |
//! |---|---|
//! | [`nat`] | NATs, firewalls, presets and the probe that names them |
//! | [`World`] | hosts, boxes, the rendezvous, time; what can be done to them and seen of them |
//! | [`Tape`] | the choices |
//! | [`Trace`] | what happened: its hash, events, packets |
//! | [`scenario`] | scenario files |
//! | [`matrix`] | the table of pairs |
//! | [`explore`] | random worlds |
//! | [`oracle`] | which path two agents can have |

#![forbid(unsafe_code)]

mod app;
mod check;
mod datagram;
pub mod explore;
mod host;
mod hostile;
mod hosts;
mod link;
pub mod matrix;
pub mod nat;
mod net;
pub mod oracle;
mod owner;
mod pcap;
pub mod scenario;
mod see;
mod server;
mod shrink;
mod span;
mod stream;
mod tape;
mod trace;
mod world;

pub use app::{Progress, TransferId};
pub use host::Arrived;
pub use hosts::{HOSTS_MAX, node_config};
pub use link::{Burst, HEADERS, LinkConfig};
pub use net::{BoxId, HostId, Place};
pub use server::REGISTRY_PORT;
pub use shrink::shrink;
pub use span::Span;
pub use tape::{TAPE_MAX, Tape};
pub use trace::{Lost, Note, PathChange, Trace};
pub use world::{Failure, Stats, World};
