//! An agent as firmware would have it: a node and its driver over static memory, and what to do
//! with what comes out of them.

use crate::memory::{Buffers, LIMITS, Tables, storage};
use pilot_core::addr::{Port, SocketAddress};
use pilot_core::crypto::{Identity, RUST_CRYPTO};
use pilot_core::drive::{Budget, Driver, Outlet};
use pilot_core::node::{Config, Event, Node};
use pilot_core::time::{Instant, UnixTime};

/// What the factory wrote into an agent.
pub struct Agent {
    /// The seed of its Ed25519 identity.
    pub identity: [u8; 32],
    /// Its stored facts.
    pub facts: &'static [([u8; 8], &'static [u8])],
}

pub struct Running {
    pub node: Node<'static>,
    pub driver: Driver<'static>,
    pub ears: Ears,
}

impl Running {
    /// Starts an agent; `None` if its facts do not load.
    pub fn start(
        agent: &Agent,
        tables: &'static mut Tables,
        buffers: &'static mut Buffers,
        seed: [u8; 32],
        now: Instant,
        unix: UnixTime,
    ) -> Option<Self> {
        let (storage, send, receive) = storage(tables, buffers);
        let config = Config { limits: LIMITS, ..Config::default() };
        let identity = Identity::from_secret(agent.identity);
        let mut node = Node::new(config, identity, &RUST_CRYPTO, seed, now, unix, storage);
        for (key, value) in agent.facts {
            node.load(*key, value).ok()?;
        }
        node.start(now);
        let driver = Driver::new(send, receive, Budget::DEFAULT);
        Some(Running { node, driver, ears: Ears::default() })
    }
}

/// What was heard besides streams.
#[derive(Default)]
pub struct Ears {
    /// Application datagrams.
    pub datagrams: u32,
}

impl<D> Outlet<Node<'static>, D> for Ears {
    fn handle_payload(&mut self, _: SocketAddress, _: Port, payload: &[u8]) {
        self.datagrams += u32::from(payload == crate::DATAGRAM);
    }

    fn handle_event(&mut self, now: Instant, node: &mut Node<'static>, _: &mut D, event: Event) {
        match event {
            // There is no registry here: whoever is told so tries again later.
            Event::DialRegistry | Event::CloseRegistry => node.handle_registry_close(now),
            // Firmware writes these into its flash before it says that they are stored.
            Event::Store => {
                let mut value = [0; pilot_core::journal::VALUE_MAX];
                while let Some(change) = node.poll_store(&mut value) {
                    node.handle_stored(now, change.sequence);
                }
            }
            _ => {}
        }
    }
}
