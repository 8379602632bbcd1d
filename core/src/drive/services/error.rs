//! Why something between two agents did not come about.

use crate::drive::agent::ConnectError;
use crate::service::events::{self, EventsError, TopicError};
use crate::service::exchange::{ExchangeError, Failure, Misuse, Refusal};
use std::io;

/// Why a message or file was not delivered, or not received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// There is no stream to the other side.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The stream broke. Whatever had no receipt may have arrived: send it again under its id.
    #[error("the stream broke: {0}")]
    Stream(#[from] io::Error),
    /// The other side does not keep to the protocol, or went away in the middle.
    #[error(transparent)]
    Protocol(#[from] ExchangeError),
    /// Not taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Taken, then not stored.
    #[error(transparent)]
    NotStored(#[from] Failure),
    /// The call does not fit what has been done so far, or the content what was offered.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// The operating system gave no random numbers.
    #[error("no randomness")]
    Entropy,
}

/// Why events were not published, or are not heard.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventsFailure {
    /// There is no stream to the broker.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The stream broke.
    #[error("the stream broke: {0}")]
    Stream(#[from] io::Error),
    /// The other side does not keep to the protocol.
    #[error(transparent)]
    Protocol(#[from] EventsError),
    /// The broker has not done it.
    #[error(transparent)]
    Refused(#[from] events::Refusal),
    /// What is no topic or pattern.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// More data than an event can have, or too many requests without an answer.
    #[error(transparent)]
    Misuse(#[from] events::Misuse),
    /// The broker has ended the connection.
    #[error("the broker has ended the connection")]
    Ended,
    /// Nothing was heard of the other side for too long.
    #[error("nothing was heard of the other side for too long")]
    Silent,
    /// The broker has as many connections as it may have.
    #[error("the broker has too many connections")]
    Full,
}
