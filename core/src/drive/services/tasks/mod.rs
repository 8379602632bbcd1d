//! Tasks between agents, for both of their sides.
//!
//! [`TaskService`] is to be served: it opens and accepts the streams, has changes stored, keeps
//! the time limits and hands receipts in to the registry. [`Tasks`], of which there may be any
//! number, is what an application does with tasks and hears of them. What may happen to a task
//! is decided in [`crate::service::tasks`].

mod asynchronous;
mod blocking;
mod connection;
mod failure;
mod handle;
mod office;
mod registry;
mod serve;
mod store;
mod undo;

pub use failure::TasksFailure;
pub use handle::{Saving, TaskContent, Tasks};
pub use serve::{TaskOptions, TaskService};
pub use store::{Done, MemoryTaskStore, TaskChanges, TaskStore};
