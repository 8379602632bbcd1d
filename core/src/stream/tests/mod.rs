//! The transport between two ends, in virtual time.

mod bench;
mod transfer;
mod world;
