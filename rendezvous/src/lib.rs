//! The rendezvous server: `pilot-core`'s rendezvous machine (registry and beacon) on real
//! sockets, with a durable store.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use pilot_rendezvous::{Server, ServerConfig};
//!
//! let server = Server::start(ServerConfig::new("/var/lib/pilot/registry.json")).await?;
//! println!("{} serves at {}", server.fingerprint(), server.registry_addr());
//! // ... until it is asked to stop:
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Files
//!
//! `--persist P.json` names three files, all of mode 0600 ([`Files`]):
//!
//! | file | holds | written |
//! |---|---|---|
//! | `P.redb` | the registry: the truth | before anything is acknowledged |
//! | `P.key` | the server's secret keys | once, and when the tunnel key rotates (at a start, after [`TUNNEL_ROTATION`]) |
//! | `P.json` | a readable copy of the registry, without secrets | on a clean stop, on demand, and at most every five minutes while something changes |
//!
//! A registry whose `P.redb` is lost is founded anew from `P.json`; its numbers then go on
//! [`NUMBERS_SKIPPED`] later, since the copy may be older than what was last promised.
//!
//! # Threads and tasks
//!
//! The machine lives behind the lock of `pilot-tokio`'s driver, whose task runs the beacon.
//! Each registry connection has a task that pumps bytes. One thread writes to the disk; it
//! holds no lock meanwhile, and answers go out when it has reported the sync.
//!
//! | bound | at the bound |
//! |---|---|
//! | registry connections, per source and in all ([`RendezvousLimits`](pilot_core::rendezvous::RendezvousLimits)) | a new one is closed at once |
//! | output that a client does not read: a frame here, 256 KiB in the machine | nothing more is read from it; after 30 s it is closed |
//! | changes that wait for the disk | requests that change something are answered RateLimited |
//! | a disk that fails or is full | the same; what needs no disk goes on, and the store heals by itself |
#![forbid(unsafe_code)]

mod commit;
#[cfg(feature = "conformance")]
pub mod conformance;
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
pub use server::{AlternateBeacon, EXPORT_INTERVAL, Server, ServerConfig, ServerStats, StartError};
pub use store::{StoreError, open_database};

#[cfg(test)]
mod export_tests;
#[cfg(test)]
mod load_tests;
#[cfg(all(test, unix))]
mod power_tests;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod test_client;
#[cfg(test)]
mod test_disk;
#[cfg(all(test, unix))]
mod test_power;
