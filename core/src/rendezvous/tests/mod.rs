//! The whole machine, driven as an adapter and real agents drive it: bytes over TCP, datagrams
//! over UDP, commits to a store.

mod attacks;
mod beacon;
mod bounds;
mod receipts;
mod registry;
mod storage;
mod trust;
mod world;

pub(crate) use world::*;
