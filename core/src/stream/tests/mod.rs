//! The transport between two ends, in virtual time.

mod attacks;
mod bench;
mod hostile;
mod peers;
mod transfer;
mod world;
