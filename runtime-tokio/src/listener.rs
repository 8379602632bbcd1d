//! Ports that accept streams.

use crate::agent::AgentInner;
use crate::error::ListenError;
use crate::stream::Stream;
use pilot_core::addr::{Port, SocketAddress};
use pilot_core::drive::waiters::Ticket;
use pilot_core::node::Command;
use std::future::poll_fn;
use std::sync::Arc;

/// A place in the hub's table of waiters, given back when the future is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    agent: &'a AgentInner,
    pub(crate) ticket: Ticket,
}

impl<'a> Place<'a> {
    pub(crate) fn new(agent: &'a AgentInner) -> Self {
        Place { agent, ticket: Ticket::NONE }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.ticket != Ticket::NONE && !std::thread::panicking() {
            self.agent.driver.peek(|access| access.owner.hub.leave(&mut self.ticket));
        }
    }
}

/// Accepts streams on a port. Only trusted peers whose grant covers the port get this far.
///
/// A bounded number of streams waits to be accepted; when that many wait, further ones are
/// refused as busy. Dropping the listener closes the port and resets those that wait.
#[derive(Debug)]
pub struct Listener {
    agent: Arc<AgentInner>,
    port: Port,
}

impl Listener {
    pub(crate) fn new(agent: Arc<AgentInner>, port: Port) -> Self {
        Listener { agent, port }
    }

    /// The port.
    pub fn port(&self) -> Port {
        self.port
    }

    /// The next stream and its other end. Any number of tasks may wait; each stream goes to
    /// one of them. Dropping the future loses no stream.
    pub async fn accept(&self) -> Result<(Stream, SocketAddress), ListenError> {
        let mut place = Place::new(&self.agent);
        let id = poll_fn(|cx| {
            self.agent.driver.peek(|access| {
                let hub = &mut access.owner.hub;
                hub.poll_accept(access.machine, self.port, &mut place.ticket, cx.waker())
            })
        })
        .await?;
        let stream = Stream::new(&self.agent, id);
        let peer = stream.peer();
        Ok((stream, peer))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.agent.driver.with(|access| {
                // The only failure is that the port is closed already.
                let _ = access.machine.command(access.now, Command::Unlisten { port: self.port });
            });
        }
    }
}
