//! Why something could not be done with tasks.

use crate::addr::Address;
use crate::crypto::task::TaskId;
use crate::drive::agent::ListenError;
use crate::service::tasks::{ActError, ContentError};
use std::io;

/// Why something could not be done with tasks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TasksFailure {
    /// The agent has no registry yet for which it could sign: wait until it is ready.
    #[error("tasks need an agent that is registered")]
    NotRegistered,
    /// The port cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What is stored cannot be read.
    #[error("cannot read the stored tasks: {0}")]
    Store(#[from] io::Error),
    /// There is no trust between us and this agent.
    #[error("no trust between us and {0}")]
    NotTrusted(Address),
    /// It may not happen to this task.
    #[error(transparent)]
    Act(#[from] ActError),
    /// Not a content that a task may have.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The store has failed: nothing has changed. If it could not be read either, the change is
    /// stored once the store works again.
    #[error("the change could not be stored")]
    NotStored,
    /// There is no such task.
    #[error("there is no task {0}")]
    Unknown(TaskId),
    /// The operating system gave no random numbers.
    #[error("no randomness")]
    Entropy,
    /// The service has ended.
    #[error("the service of tasks has ended")]
    Ended,
}
