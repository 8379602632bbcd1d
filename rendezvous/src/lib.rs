//! The rendezvous server: `pilot-core`'s rendezvous machine on real sockets, with a durable
//! store.
mod commit;
mod export;
mod files;
mod json;
mod key;
mod open;
mod server;
mod store;

pub use export::{ExportError, NUMBERS_SKIPPED};
pub use files::{Files, PrivateFileError};
pub use key::{KeyError, TUNNEL_ROTATION};
pub use open::OpenError;
pub use server::{EXPORT_INTERVAL, Server, ServerConfig, ServerStats, StartError};
pub use store::StoreError;
#[cfg(test)]
mod export_tests;
#[cfg(test)]
mod store_tests;
