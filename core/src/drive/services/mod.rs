//! The services of [`crate::service`] over an agent's streams: messages, files, events, tasks and
//! echo, for every runtime. The protocol is in those machines; here are their streams and buffers.
//!
//! | for | one side | the other |
//! |---|---|---|
//! | messages | [`Messages`] | [`Incoming`] |
//! | files | [`Upload`] | [`Incoming`] |
//! | events | [`EventsClient`] | [`Broker`] |
//! | tasks | [`Tasks`], by [`TaskService`] | the same |
//! | echo | [`Echo`] | [`EchoServer`] |
//!
//! Everything waits by polls (`poll_…`), with the runtime's waker. On top of them are futures where
//! the runtime has some, and else calls that wait on their thread, at most for a time (`wait_…`).
//! [`super::agent::Agent`] and [`super::blocking::Agent`] begin all of it, with `connect_…` and
//! `listen_…`.
//!
//! What a receiver acknowledges is its application's promise: an acknowledged message or file is
//! where a crash does not lose it. Nothing here writes to a disk; tasks are stored by a
//! [`TaskStore`].

mod asynchronous;
mod blocking;
mod broker;
mod echo;
mod error;
mod events;
mod flow;
mod incoming;
mod messages;
mod served;
mod tasks;
mod upload;

pub use broker::{Broker, BrokerConnection};
pub use echo::{Echo, EchoServer};
pub use error::{EventsFailure, TransferError};
pub use events::{Event, EventsClient, Heard};
pub use incoming::{Incoming, Message, Received};
pub use messages::{Messages, Receipt};
pub use served::{EchoService, ExchangeService, Served, Service};
pub use tasks::{
    Done, MemoryTaskStore, Saving, TaskChanges, TaskContent, TaskOptions, TaskService, TaskStore,
    Tasks, TasksFailure,
};
pub use upload::{Accepted, Upload};
