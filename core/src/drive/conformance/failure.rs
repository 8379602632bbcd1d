//! An agent's errors and events in the suite's words.

use super::{Failure, News};
use crate::drive::Refusal;
use crate::drive::agent::{
    AgentEvent, ConnectError, DirectoryError, ListenError, RecvError, SendError, StreamFailure,
    TrustError,
};
use crate::node::CommandError;
use std::io;
use std::string::ToString;

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::Command(error) => Failure::Command(error),
            ListenError::Shutdown => Failure::Refused(Refusal::Shutdown),
        }
    }
}

impl From<DirectoryError> for Failure {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Command(error) => Failure::Command(error),
            DirectoryError::Request(error) => Failure::Request(error),
        }
    }
}

impl From<TrustError> for Failure {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Command(error) => Failure::Command(error),
            TrustError::Justification(error) => Failure::Other(error.to_string()),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Resolve(error) => Failure::Request(error),
            ConnectError::Command(error) => Failure::Command(error),
            ConnectError::Failed(end) => Failure::ended(end),
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::TooLarge(most) => Failure::Command(CommandError::TooLarge(most)),
            SendError::Command(error) => Failure::Command(error),
        }
    }
}

/// Of a stream.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<StreamFailure>());
        inner.map_or_else(|| Failure::Other(error.to_string()), |f| Failure::Stream(f.0))
    }
}

impl From<Result<AgentEvent, RecvError>> for News {
    fn from(received: Result<AgentEvent, RecvError>) -> Self {
        match received {
            Ok(AgentEvent::Registered(at)) => News::Registered(at),
            Ok(AgentEvent::LinkChanged(link)) => News::Link(link),
            Ok(AgentEvent::PathChanged(peer, kind)) => News::Path(peer, kind),
            Ok(AgentEvent::TrustRequested(from)) => News::TrustRequested(from),
            Ok(AgentEvent::TrustGranted(by)) => News::TrustGranted(by),
            Ok(AgentEvent::TrustRefused(by)) => News::TrustRefused(by),
            Ok(AgentEvent::TrustRevoked(by)) => News::TrustRevoked(by),
            Ok(_) => News::Other,
            Err(RecvError::Lagged(missed)) => News::Missed(missed),
            Err(RecvError::Closed) => News::End,
        }
    }
}
