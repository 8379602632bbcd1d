//! The sans-IO core of Pilot Protocol.
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
