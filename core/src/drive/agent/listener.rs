//! Ports that accept streams.

use super::error::ListenError;
use super::handle::{Handle, KeepAlive};
use super::stream::StreamHandle;
use crate::addr::{Port, SocketAddress};
use crate::drive::runtime::{AsyncRuntime, Runtime};
use crate::drive::waiters::Ticket;
use crate::node::Command;
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;

/// A place in the hub's table of waiters, given back when the future is dropped.
pub(crate) struct Place<'a, R: Runtime> {
    handle: &'a Handle<R>,
    pub(crate) ticket: Ticket,
}

impl<'a, R: Runtime> Place<'a, R> {
    pub(crate) fn new(handle: &'a Handle<R>) -> Self {
        Place { handle, ticket: Ticket::NONE }
    }
}

impl<R: Runtime> Drop for Place<'_, R> {
    fn drop(&mut self) {
        self.handle.leave(&mut self.ticket);
    }
}

/// Accepts streams on a port. Only trusted peers whose grant covers the port get this far.
///
/// A bounded number of streams waits to be accepted; when that many wait, further ones are
/// refused as busy. Dropping the listener closes the port and resets those that wait.
pub struct Listener<R: Runtime> {
    agent: KeepAlive<R>,
    port: Port,
}

impl<R: Runtime> fmt::Debug for Listener<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("port", &self.port).finish_non_exhaustive()
    }
}

impl<R: Runtime> Listener<R> {
    pub(super) fn new(agent: KeepAlive<R>, port: Port) -> Self {
        Listener { agent, port }
    }

    /// The port.
    pub fn port(&self) -> Port {
        self.port
    }

    /// The next stream, or `waker` is woken when there is one. `ticket` is the place of the
    /// one who waits; [`Handle::leave`] gives it back.
    pub fn poll_accept(
        &self,
        ticket: &mut Ticket,
        waker: &R::Waker,
    ) -> Poll<Result<StreamHandle<R>, ListenError>> {
        let accepted = self.agent.peek(|access| {
            let hub = &mut access.owner.hub;
            hub.poll_accept(access.machine, self.port, ticket, waker)
        });
        accepted.map_ok(|id| StreamHandle::new(&self.agent, id)).map_err(ListenError::from)
    }
}

impl<R: AsyncRuntime> Listener<R> {
    /// The next stream and its other end. Any number of tasks may wait; each stream goes to
    /// one of them. Dropping the future loses no stream.
    pub async fn accept(&self) -> Result<(R::Stream, SocketAddress), ListenError> {
        let mut place = Place::new(&self.agent);
        let stream = poll_fn(|cx| self.poll_accept(&mut place.ticket, cx.waker())).await?;
        let peer = stream.peer();
        Ok((stream.into(), peer))
    }
}

impl<R: Runtime> Drop for Listener<R> {
    fn drop(&mut self) {
        self.agent.shared().with_unless_broken(|access| {
            // The only failure is that the port is closed already.
            let _ = access.machine.command(access.now, Command::Unlisten { port: self.port });
        });
    }
}
