//! What agents do with streams (`wire.md` 12), as machines over bytes: no socket, no file, no
//! clock. An adapter moves bytes between a stream and a machine, and between a machine and its
//! storage; what the bytes mean is decided here.

#[cfg(feature = "alloc")]
pub(crate) mod buffer;
pub mod echo;
pub mod events;
pub mod exchange;
pub mod tasks;
