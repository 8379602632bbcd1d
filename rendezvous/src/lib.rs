//! The rendezvous server: `pilot-core`'s rendezvous machine on real sockets, with a durable
//! store.
mod commit;
mod files;
mod store;

pub use files::{Files, PrivateFileError};
pub use store::StoreError;
#[cfg(test)]
mod store_tests;
