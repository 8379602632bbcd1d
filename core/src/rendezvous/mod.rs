//! The rendezvous: registry and beacon as one sans-IO machine.

mod beacon;
mod config;
mod limit;
mod registry;

pub use config::{Alternate, RendezvousConfig, RendezvousLimits};
pub use registry::commit::Commit;
pub use registry::rows::{Change, Letter, Published, Row, RowError, SCHEMA, Table};
