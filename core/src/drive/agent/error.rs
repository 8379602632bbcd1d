//! One error type per operation.

use crate::drive::{BindError, LocationError, Refusal};
use crate::name::NameError;
use crate::node::{CommandError, LoadError, RequestError, StreamEnd, StreamError};
use alloc::string::String;
use std::io;

/// Why an agent could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No registry was named.
    #[error("an agent needs a registry")]
    NoRegistry,
    /// The registry's or beacon's location is not one.
    #[error("{text:?}: {source}")]
    Location {
        /// As given.
        text: String,
        /// What is wrong with it.
        source: LocationError,
    },
    /// The UDP port.
    #[error(transparent)]
    Socket(#[from] BindError),
    /// The store could not be read.
    #[error("cannot read the stored state")]
    Store(#[source] io::Error),
    /// What is stored was not accepted.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The operating system gave no random numbers.
    #[error("no randomness")]
    Entropy,
}

/// Why an agent will not become registered.
pub use crate::drive::Refusal as ReadyError;

/// Why a stream could not be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The hostname was not resolved.
    #[error("cannot find that agent: {0}")]
    Resolve(#[from] RequestError),
    /// Refused here, before anybody was asked; without trust, for one.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Failed on the way or at the peer.
    #[error(transparent)]
    Failed(#[from] StreamEnd),
}

/// Why a port could not be listened on, or yields no more streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Refused: the port is in use, say.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The agent was shut down.
    #[error("shut down")]
    Shutdown,
}

/// Why a datagram port could not be bound, or yields no more datagrams.
pub use ListenError as DatagramsError;

/// Why a datagram was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The datagram exceeds what fits on this path: the number of bytes.
    #[error("at most {0} bytes fit into a datagram on this path")]
    TooLarge(usize),
    /// Any other refusal.
    #[error(transparent)]
    Command(CommandError),
}

impl From<CommandError> for SendError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::TooLarge(bytes) => SendError::TooLarge(bytes),
            other => SendError::Command(other),
        }
    }
}

/// Why a question to the registry was not answered as hoped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Refused here.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Refused by the registry, or it does not answer.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// Why trust could not be asked for, granted, refused or revoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The justification is too long.
    #[error("the justification: {0}")]
    Justification(#[from] NameError),
    /// Refused here.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// Why reading or writing a stream failed; the inner error of its [`io::Error`]s.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(transparent)]
pub struct StreamFailure(#[from] pub StreamError);

/// As an I/O error, its kind chosen so that code written for TCP reacts sensibly.
pub fn io_error(error: StreamError) -> io::Error {
    use io::ErrorKind as Kind;
    let kind = match error {
        StreamError::WouldBlock => Kind::WouldBlock,
        StreamError::Finished => Kind::BrokenPipe,
        StreamError::Ended(end) => match end {
            StreamEnd::Closed => Kind::BrokenPipe,
            StreamEnd::Refused => Kind::ConnectionRefused,
            StreamEnd::NotPermitted | StreamEnd::Revoked => Kind::PermissionDenied,
            StreamEnd::Unreachable => Kind::TimedOut,
            StreamEnd::Shutdown => Kind::ConnectionAborted,
            _ => Kind::ConnectionReset,
        },
    };
    io::Error::new(kind, StreamFailure(error))
}

impl From<Refusal> for ListenError {
    fn from(_: Refusal) -> Self {
        ListenError::Shutdown
    }
}

impl From<DirectoryError> for ConnectError {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Command(error) => ConnectError::Command(error),
            DirectoryError::Request(error) => ConnectError::Resolve(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_io_error_keeps_its_cause() {
        let error = io_error(StreamError::Ended(StreamEnd::PeerRestarted));
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let cause = error.get_ref().and_then(|e| e.downcast_ref::<StreamFailure>()).unwrap();
        assert_eq!(cause.0, StreamError::Ended(StreamEnd::PeerRestarted));
        assert_eq!(error.to_string(), "the peer restarted");
    }
}
