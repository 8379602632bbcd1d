//! What an agent does with its node's events.

use crate::driver::{Owner, Sockets};
use crate::event::AgentEvent;
use pilot_core::addr::{Port, SocketAddress};
use pilot_core::drive::{Datagrams as _, Hub, Outlet};
use pilot_core::limits::Limits;
use pilot_core::node::{Event, Link, Node};
use pilot_core::time::Instant;
use std::sync::Arc;
use std::task::Waker;
use tokio::sync::{Notify, broadcast};

/// The node of an agent: boxed storage.
pub(crate) type AgentNode = Node<'static>;

/// Events that a receiver of [`crate::Agent::events`] may be behind.
pub(crate) const EVENTS: usize = 256;

/// Wakes the agent's household tasks; a signal given twice is seen once.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// The registry connection: to be opened, closed, or it has bytes to send.
    pub(crate) registry: Notify,
    /// Durable state changed.
    pub(crate) store: Notify,
    /// The rendezvous server's names should be resolved again.
    pub(crate) resolve: Notify,
}

/// What the node wants of its registry connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Wishes {
    /// A new connection.
    pub(crate) dial: bool,
    /// The end of the present one, if any. When both are wanted, closing comes first.
    pub(crate) close: bool,
}

#[derive(Debug)]
pub(crate) struct AgentOwner {
    pub(crate) hub: Hub<Waker>,
    pub(crate) wishes: Wishes,
    pub(crate) events: broadcast::Sender<AgentEvent>,
    /// What happened before the first caller asked for events; it gets this receiver.
    pub(crate) early: Option<broadcast::Receiver<AgentEvent>>,
    pub(crate) signals: Arc<Signals>,
}

impl AgentOwner {
    pub(crate) fn new(limits: &Limits) -> Self {
        let (events, early) = broadcast::channel(EVENTS);
        AgentOwner {
            hub: Hub::new(limits),
            wishes: Wishes::default(),
            events,
            early: Some(early),
            signals: Arc::default(),
        }
    }

    fn handle_io_event(&mut self, io: &mut Sockets, event: Event) {
        match event {
            Event::DialRegistry => {
                self.wishes.dial = true;
                self.signals.registry.notify_one();
                // Who looks for the registry anew may find the beacon elsewhere, too.
                self.signals.resolve.notify_one();
            }
            Event::CloseRegistry => {
                self.wishes = Wishes { dial: false, close: true };
                self.signals.registry.notify_one();
            }
            Event::RegistryBytes => self.signals.registry.notify_one(),
            Event::Store => self.signals.store.notify_one(),
            // Without the socket, what is sent by it is dropped and counted, and the path
            // that would have used it is not found: the machine goes on with others.
            Event::OpenSocket(id) => {
                if let Err(error) = io.open(id) {
                    tracing::debug!(%error, "cannot open an auxiliary socket");
                }
            }
            Event::CloseSocket(id) => io.close(id),
            Event::LinkChanged(Link::Offline) => self.signals.resolve.notify_one(),
            _ => {}
        }
    }
}

impl Outlet<AgentNode, Sockets> for AgentOwner {
    fn handle_payload(&mut self, from: SocketAddress, to: Port, payload: &[u8]) {
        self.hub.handle_payload(from, to, payload);
    }

    fn handle_event(&mut self, _: Instant, _: &mut AgentNode, io: &mut Sockets, event: Event) {
        let Some(event) = self.hub.handle_event(event) else { return };
        self.handle_io_event(io, event);
        if let Some(event) = AgentEvent::from_node(event) {
            // Nobody listens: nobody wanted to know.
            let _ = self.events.send(event);
        }
    }
}

impl Owner<AgentNode> for AgentOwner {
    fn take_woken(&mut self, out: &mut Vec<Waker>) {
        self.hub.take_woken(out);
    }

    fn handle_end(&mut self) {
        self.hub.close();
    }
}
