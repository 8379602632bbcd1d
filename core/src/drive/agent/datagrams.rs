//! Ports that send and receive datagrams.

use super::error::{DatagramsError, SendError};
use super::handle::KeepAlive;
use super::listener::Place;
use crate::addr::{Port, SocketAddress};
use crate::drive::runtime::{AsyncRuntime, Runtime};
use crate::drive::waiters::Ticket;
use crate::node::Command;
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;

/// A port for datagrams: encrypted, authenticated, unreliable and unordered.
///
/// What is received waits in an inbox of 256 KiB and 1024 datagrams. When it is full, the
/// newest datagram is dropped and counted as `inbox` in [`super::Handle::drops`]. What is sent
/// waits in a queue of 64 per peer, from which the oldest is dropped. Dropping the handle
/// releases the port and discards its inbox.
pub struct Datagrams<R: Runtime> {
    agent: KeepAlive<R>,
    port: Port,
}

impl<R: Runtime> fmt::Debug for Datagrams<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("port", &self.port).finish_non_exhaustive()
    }
}

impl<R: Runtime> Datagrams<R> {
    pub(super) fn new(agent: KeepAlive<R>, port: Port) -> Self {
        Datagrams { agent, port }
    }

    /// Our port.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Queues a datagram to a trusted peer. Never waits.
    pub fn send_to(&self, payload: &[u8], to: SocketAddress) -> Result<(), SendError> {
        let command = Command::SendDatagram { to, from: self.port, payload };
        self.agent.command(command).map(drop).map_err(SendError::from)
    }

    /// Receives a datagram into `buf`, or `waker` is woken when there is one; what does not
    /// fit is lost. `ticket` is the place of the one who waits; [`super::Handle::leave`] gives
    /// it back.
    pub fn poll_recv(
        &self,
        ticket: &mut Ticket,
        buf: &mut [u8],
        waker: &R::Waker,
    ) -> Poll<Result<(usize, SocketAddress), DatagramsError>> {
        let received =
            self.agent.peek(|access| access.owner.hub.poll_datagram(self.port, ticket, buf, waker));
        received.map_err(DatagramsError::from)
    }
}

impl<R: AsyncRuntime> Datagrams<R> {
    /// Receives a datagram into `buf`; what does not fit there is lost. Returns its length and
    /// sender. Any number of tasks may wait. Dropping the future loses nothing.
    pub async fn recv_from(
        &self,
        buf: &mut [u8],
    ) -> Result<(usize, SocketAddress), DatagramsError> {
        let mut place = Place::new(&self.agent);
        poll_fn(|cx| self.poll_recv(&mut place.ticket, buf, cx.waker())).await
    }
}

impl<R: Runtime> Drop for Datagrams<R> {
    fn drop(&mut self) {
        self.agent.shared().with_unless_broken(|access| {
            access.owner.hub.unbind_datagrams(access.machine, access.now, self.port);
        });
    }
}
