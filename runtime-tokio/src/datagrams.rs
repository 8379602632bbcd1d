//! Ports that send and receive datagrams.

use crate::agent::AgentInner;
use crate::error::{DatagramsError, SendError};
use crate::listener::Place;
use pilot_core::addr::{Port, SocketAddress};
use pilot_core::node::Command;
use std::future::poll_fn;
use std::sync::Arc;

/// A port for datagrams: encrypted, authenticated, unreliable and unordered.
///
/// What is received waits in an inbox of 256 KiB and 1024 datagrams. When it is full, the
/// newest datagram is dropped and counted as `inbox` in [`crate::Agent::drops`]. What is sent
/// waits in a queue of 64 per peer, from which the oldest is dropped. Dropping the handle
/// releases the port and discards its inbox.
#[derive(Debug)]
pub struct Datagrams {
    agent: Arc<AgentInner>,
    port: Port,
}

impl Datagrams {
    pub(crate) fn new(agent: Arc<AgentInner>, port: Port) -> Self {
        Datagrams { agent, port }
    }

    /// Our port.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Queues a datagram to a trusted peer. Never waits.
    pub fn send_to(&self, payload: &[u8], to: SocketAddress) -> Result<(), SendError> {
        self.agent.driver.with(|access| {
            let command = Command::SendDatagram { to, from: self.port, payload };
            access.machine.command(access.now, command).map(drop).map_err(SendError::from)
        })
    }

    /// Receives a datagram into `buf`; what does not fit there is lost. Returns its length and
    /// sender. Any number of tasks may wait. Dropping the future loses nothing.
    pub async fn recv_from(
        &self,
        buf: &mut [u8],
    ) -> Result<(usize, SocketAddress), DatagramsError> {
        let mut place = Place::new(&self.agent);
        let received = poll_fn(|cx| {
            self.agent.driver.peek(|access| {
                let hub = &mut access.owner.hub;
                hub.poll_datagram(self.port, &mut place.ticket, buf, cx.waker())
            })
        })
        .await?;
        Ok(received)
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.agent.driver.with(|access| {
                access.owner.hub.unbind_datagrams(access.machine, access.now, self.port);
            });
        }
    }
}
