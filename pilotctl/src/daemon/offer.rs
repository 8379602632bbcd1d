//! What this agent offers its peers, over the agent's streams: echo, data exchange, events. The
//! work is in `services`; here it meets the agent.

use super::Shared;
use super::node::{self, Node, Stream};
use crate::error::{Code, Failure};
use crate::home::Home;
use crate::limits::DaemonLimits;
use crate::services::accept::{AcceptLimits, accept_all};
use crate::services::echo::{self, EchoError};
use crate::services::events::Events;
use crate::services::events::client::ClientError;
use crate::services::inbox::Inbox;
use crate::services::outbox::Outbox;
use crate::services::received::Received;
use crate::services::send::SendError;
use crate::services::serve::{self, Exchange};
use crate::services::unfinished::Unfinished;
use crate::services::{Accept, Connect};
use pilot_core::addr::{Address, Port, SocketAddress};
use pilot_core::node::PathKind;
use pilot_core::service::events::{BrokerLimits, Refusal};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Connections of peers to the broker: fewer than it takes, so that some are left for our own
/// commands.
const EVENT_STREAMS: usize = 128;
/// Bytes on their way within the daemon, each way.
const LOCAL_PIPE: usize = 64 * 1024;

/// The stores behind data exchange, and the broker of events.
#[derive(Clone)]
pub(crate) struct Offer {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) received: Arc<Received>,
    pub(crate) unfinished: Arc<Unfinished>,
    pub(crate) events: Arc<Events>,
}

impl Offer {
    /// Opens the stores of a home.
    pub(crate) fn open(home: &Home, limits: &DaemonLimits) -> Result<Offer, Failure> {
        let inbox = Inbox::open(home.inbox(), limits.inbox())
            .map_err(|e| Failure::io(format!("open {}", home.inbox().display()), e))?;
        let outbox = Outbox::open(home.outbox(), limits.outbox())
            .map_err(|e| Failure::io(format!("open {}", home.outbox().display()), e))?;
        let received = Received::open(home.received(), limits.received())
            .map_err(|e| Failure::io(format!("open {}", home.received().display()), e))?;
        let unfinished = Unfinished::open(home.unfinished())
            .map_err(|e| Failure::io(format!("open {}", home.unfinished().display()), e))?;
        let (inbox, outbox) = (Arc::new(inbox), Arc::new(outbox));
        let mut limits = BrokerLimits::default();
        // Those of peers are counted where they are accepted; all programs here are one agent.
        limits.of_peer = limits.connections;
        let events = Arc::new(Events::new(limits));
        Ok(Offer { inbox, outbox, received, unfinished: Arc::new(unfinished), events })
    }

    /// Serves all ports until the agent shuts down.
    pub(crate) fn serve(&self, node: &Node) -> Result<(), Failure> {
        let streams = Listening(node.listen(Port::ECHO)?);
        tokio::spawn(accept_all(streams, AcceptLimits::default(), |stream, peer| async move {
            if let Err(error) = echo::serve(stream).await {
                tracing::debug!(%peer, %error, "an echo stream broke");
            }
        }));
        let exchange = Arc::new(Exchange {
            inbox: self.inbox.clone(),
            received: self.received.clone(),
            // The port is open to grants with either right; what is offered decides further.
            permits: Box::new({
                let agent = node.agent.clone();
                move |from, kind| agent.rights(from).is_some_and(|r| r.contains(kind.right()))
            }),
        });
        let streams = Listening(node.listen(Port::DATA_EXCHANGE)?);
        let serve = move |stream, peer| {
            let exchange = exchange.clone();
            async move {
                if let Err(error) = serve::serve(exchange, peer, stream).await {
                    tracing::info!(%peer, %error, "a data exchange was closed");
                }
            }
        };
        tokio::spawn(accept_all(streams, AcceptLimits::default(), serve));
        let events = self.events.clone();
        // The port is open to grants with the right, and to nobody else.
        let streams = Listening(node.listen(Port::EVENTS)?);
        let limits = AcceptLimits { streams: EVENT_STREAMS, ..AcceptLimits::default() };
        let serve = move |stream, peer: Address| {
            let events = events.clone();
            async move {
                if let Err(error) = events.serve(peer.on_backbone(), stream).await {
                    tracing::info!(%peer, %error, "a connection for events was closed");
                }
            }
        };
        tokio::spawn(accept_all(streams, limits, serve));
        Ok(())
    }
}

pub(super) struct Listening(pub(super) node::Listener);

impl Accept for Listening {
    type Stream = Stream;

    async fn accept(&mut self) -> Option<(Stream, SocketAddress)> {
        self.0.accept().await.ok()
    }
}

/// The agent as the services' way to peers.
pub(crate) struct Net<'s> {
    node: &'s Node,
    /// The client's own limit for opening a stream.
    limit: Option<Duration>,
}

impl<'s> Net<'s> {
    pub(crate) fn new(shared: &'s Shared, limit: Option<Duration>) -> Self {
        Net { node: &shared.node, limit }
    }
}

impl Connect for Net<'_> {
    type Stream = Stream;
    type Error = Failure;

    async fn connect(&self, to: Address, port: Port) -> Result<Stream, Failure> {
        self.node.connect(to, port, self.limit).await
    }

    fn is_final(error: &Failure) -> bool {
        // A stream that ended while it was opened (the peer restarts) is worth another one.
        !matches!(error.code, Code::Ended | Code::Busy | Code::Full)
    }

    async fn path(&self, peer: Address) -> PathKind {
        self.node.path(peer)
    }
}

/// Whether a message or file will never be delivered, however often it is tried.
pub(crate) fn is_hopeless(error: &SendError<Failure>) -> bool {
    use pilot_core::service::exchange::{Failure as NotStored, Refusal};
    let without_grant = |failure: &Failure| {
        matches!(failure.code, Code::NotTrusted | Code::NotPermitted | Code::BadAddress)
    };
    match error {
        SendError::Connect(failure) => without_grant(failure),
        SendError::Broken(e) => node::from_io(e).is_some_and(|failure| without_grant(&failure)),
        // Room may be made, and storage may be repaired.
        SendError::Refused(refusal) => {
            !matches!(refusal, Refusal::Full | Refusal::Busy | Refusal::Failed)
        }
        SendError::Source(e) => e.kind() == std::io::ErrorKind::InvalidData,
        SendError::Size | SendError::Offer(_) => true,
        SendError::NotStored(NotStored::BadContent) => true,
        SendError::NotStored(_) | SendError::Protocol(_) | SendError::TimedOut => false,
    }
}

/// A stream to a broker.
pub(crate) trait EventStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> EventStream for S {}

/// Opens a stream to the broker of an agent, which may be this one.
pub(crate) async fn connect_events(
    shared: &Shared,
    to: Address,
    limit: Option<Duration>,
) -> Result<Box<dyn EventStream>, Failure> {
    let own = shared.node.agent.address();
    if own.map(Address::on_backbone) != Some(to.on_backbone()) {
        return Ok(Box::new(shared.node.connect(to, Port::EVENTS, limit).await?));
    }
    let (ours, theirs) = tokio::io::duplex(LOCAL_PIPE);
    let events = shared.offer.events.clone();
    tokio::spawn(async move {
        if let Err(error) = events.serve(to.on_backbone(), theirs).await {
            tracing::debug!(%error, "a local connection for events was closed");
        }
    });
    Ok(Box::new(ours))
}

/// Why nothing was published, or nothing more is heard.
pub(crate) fn from_events(error: ClientError) -> Failure {
    match error {
        ClientError::Stream(e) => node::from_io(&e)
            .unwrap_or_else(|| Failure::new(Code::Ended, format!("the stream broke: {e}"))),
        ClientError::Ended => Failure::new(Code::Ended, "the other side ended the connection")
            .hint("it may be stopping, or have as many connections as it allows: try again"),
        ClientError::Silent => Failure::new(Code::NoAnswer, "the other side does not answer"),
        ClientError::Protocol(_) | ClientError::Flooded => {
            let message = format!("the other side does not keep to the protocol: {error}");
            Failure::new(Code::Unsupported, message)
        }
        ClientError::Refused(refusal) => {
            let code = match refusal {
                Refusal::TooManyPatterns => Code::Full,
                _ => Code::Rejected,
            };
            Failure::new(code, format!("the other side refused: {refusal}"))
        }
        ClientError::Topic(e) => Failure::new(Code::Usage, e.to_string()),
        ClientError::TooLong(e) => Failure::new(Code::TooLarge, format!("an event is {e}"))
            .hint("an event carries at most 64 KiB: send a file and publish its name"),
    }
}

/// Why a message or file was not delivered; `is_limited` if the client set the time.
pub(crate) fn from_send(error: SendError<Failure>, is_limited: bool) -> Failure {
    use pilot_core::service::exchange::{Failure as NotStored, Refusal};
    match error {
        SendError::Connect(failure) => failure,
        SendError::Broken(e) => match node::from_io(&e) {
            Some(failure) if failure.code == Code::NotTrusted => failure,
            _ => Failure::new(Code::Interrupted, format!("the stream broke: {e}")),
        },
        SendError::Refused(refusal) => {
            let code = match refusal {
                Refusal::NotPermitted => Code::NotPermitted,
                Refusal::Busy => Code::Busy,
                Refusal::Full => Code::Full,
                Refusal::TooLarge => Code::TooLarge,
                Refusal::BadName => Code::Usage,
                Refusal::UnknownKind => Code::Unsupported,
                _ => Code::Rejected,
            };
            let failure = Failure::new(code, format!("the other side refused: {refusal}"));
            match code {
                // Its own hint says what helps.
                Code::NotPermitted => failure,
                _ => failure.hint("its inbox or received folder may be full: ask its owner"),
            }
        }
        SendError::NotStored(reason) => {
            let code = match reason {
                NotStored::Full => Code::Full,
                NotStored::Superseded => Code::Interrupted,
                NotStored::BadContent => Code::Rejected,
                _ => Code::Integrity,
            };
            Failure::new(code, format!("the other side has not stored it: {reason}"))
        }
        SendError::Protocol(e) => {
            let message = format!("the other side does not keep to the protocol: {e}");
            Failure::new(Code::Unsupported, message)
        }
        SendError::Source(e) => Failure::io("read the content", e),
        SendError::Size => Failure::new(Code::Usage, "the content is not as long as announced")
            .hint("the file was changed meanwhile: send it again"),
        SendError::TimedOut if is_limited => {
            Failure::new(Code::Timeout, "not delivered within the time given")
        }
        SendError::TimedOut => Failure::new(Code::NoAnswer, "the other side does not answer"),
        SendError::Offer(e) => Failure::new(Code::Usage, e.to_string()),
    }
}

/// Why an echo failed.
pub(crate) fn from_echo(error: EchoError<Failure>) -> Failure {
    match error {
        EchoError::Connect(failure) => failure,
        EchoError::Stream(e) => node::from_io(&e)
            .unwrap_or_else(|| Failure::new(Code::Ended, format!("the stream broke: {e}"))),
        EchoError::Corrupt => Failure::new(Code::Integrity, "other bytes came back than were sent")
            .hint("the other side's echo is broken, or something worse: do not rely on it"),
    }
}
