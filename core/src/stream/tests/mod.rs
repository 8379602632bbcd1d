//! The transport between two ends, in virtual time.

mod attacks;
mod hostile;
mod peers;
mod pools;
mod recovery;
mod search;
mod transfer;
mod world;
