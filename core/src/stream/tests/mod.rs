//! The transport between two ends, in virtual time.

mod attacks;
mod bench;
mod hostile;
mod peers;
mod recovery;
mod transfer;
mod world;
