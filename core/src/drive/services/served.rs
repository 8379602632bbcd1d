//! Ports at which services wait, and how an agent begins them.

use super::broker::{Broker, BrokerConnection};
use super::echo::EchoServer;
use super::error::TransferError;
use super::incoming::Incoming;
use crate::addr::Port;
use crate::drive::agent::{Handle, KeepAlive, ListenError, Listener, StreamHandle};
use crate::drive::runtime::{Host as _, Runtime};
use crate::drive::waiters::Ticket;
use crate::service::events::BrokerLimits;
use crate::service::exchange::TransferId;
use core::fmt;
use core::task::{Poll, ready};

/// What becomes of the streams of a port.
pub trait Service<R: Runtime> {
    /// One stream, served.
    type Connection;

    /// Takes a stream; `None` resets it.
    fn begin(&self, stream: StreamHandle<R>) -> Option<Self::Connection>;
}

/// Messages and files, on port 1001.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeService;

impl<R: Runtime> Service<R> for ExchangeService {
    type Connection = Incoming<R>;

    fn begin(&self, stream: StreamHandle<R>) -> Option<Incoming<R>> {
        Some(Incoming::new(stream))
    }
}

/// Echo, on port 7.
#[derive(Clone, Copy, Debug)]
pub struct EchoService;

impl<R: Runtime> Service<R> for EchoService {
    type Connection = EchoServer<R>;

    fn begin(&self, stream: StreamHandle<R>) -> Option<EchoServer<R>> {
        Some(EchoServer::new(stream))
    }
}

impl<R: Runtime> Service<R> for Broker<R> {
    type Connection = BrokerConnection<R>;

    fn begin(&self, stream: StreamHandle<R>) -> Option<BrokerConnection<R>> {
        self.connection(stream).ok()
    }
}

/// A port of a service. Only peers whose grant allows the service get this far; each of their
/// streams is served by whoever accepts it. Dropping it closes the port.
pub struct Served<R: Runtime, S> {
    pub(super) agent: Handle<R>,
    listener: Listener<R>,
    service: S,
}

impl<R: Runtime, S> fmt::Debug for Served<R, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl<R: Runtime, S: Service<R>> Served<R, S> {
    fn new(agent: &KeepAlive<R>, port: Port, service: S) -> Result<Self, ListenError> {
        let listener = agent.listen(port)?;
        Ok(Served { agent: Handle::clone(agent), listener, service })
    }

    /// What all streams share: the [`Broker`], for one.
    pub fn service(&self) -> &S {
        &self.service
    }

    /// The next stream; see [`Listener::poll_accept`].
    pub fn poll_accept(
        &self,
        ticket: &mut Ticket,
        waker: &R::Waker,
    ) -> Poll<Result<S::Connection, ListenError>> {
        loop {
            let stream = ready!(self.listener.poll_accept(ticket, waker))?;
            match self.service.begin(stream.clone()) {
                Some(connection) => return Poll::Ready(Ok(connection)),
                None => stream.reset(),
            }
        }
    }
}

impl<R: Runtime> KeepAlive<R> {
    /// Receives messages and files.
    pub fn listen_exchange(&self) -> Result<Served<R, ExchangeService>, ListenError> {
        Served::new(self, Port::DATA_EXCHANGE, ExchangeService)
    }

    /// Is a broker of events.
    pub fn listen_events(&self, limits: BrokerLimits) -> Result<Served<R, Broker<R>>, ListenError> {
        Served::new(self, Port::EVENTS, Broker::new(limits))
    }

    /// Sends back what peers send.
    pub fn listen_echo(&self) -> Result<Served<R, EchoService>, ListenError> {
        Served::new(self, Port::ECHO, EchoService)
    }
}

impl<R: Runtime> Handle<R> {
    /// A fresh random id for a message or file.
    pub fn transfer_id(&self) -> Result<TransferId, TransferError> {
        let entropy = self.shared().host().entropy().ok_or(TransferError::Entropy)?;
        let mut id = [0; 16];
        id.copy_from_slice(&entropy[..16]);
        Ok(TransferId(id))
    }

    /// What the ids of one stream of messages begin with.
    pub(super) fn incarnation(&self) -> Result<[u8; 8], TransferError> {
        let TransferId(id) = self.transfer_id()?;
        let mut incarnation = [0; 8];
        incarnation.copy_from_slice(&id[..8]);
        Ok(incarnation)
    }
}
