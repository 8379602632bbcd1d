//! What an agent does with its node's events.

use super::event::AgentEvent;
use super::events::EventLog;
use crate::addr::{Port, SocketAddress};
use crate::drive::household::{Chores, Outcome};
use crate::drive::runtime::Runtime;
use crate::drive::shared::Owner;
use crate::drive::waiters::Waken;
use crate::drive::{Datagrams, Hub, Outlet};
use crate::limits::Limits;
use crate::machine::SocketId;
use crate::node::{Command, Event, Link, Node};
use crate::time::Instant;
use alloc::vec::Vec;
use core::mem;

/// The node of an agent: boxed storage.
pub type AgentNode = Node<'static>;

/// What surrounds an agent's node: its handles, its news, and what its household has to do.
#[derive(Debug)]
pub struct AgentOwner<W: 'static> {
    pub(crate) hub: Hub<W>,
    pub(crate) events: EventLog<W>,
    chores: Chores,
    /// What errands have brought, at most one of each kind.
    outcomes: Vec<Outcome>,
    /// Who keeps the household, while that one waits.
    keeper: Option<W>,
    woken: Vec<W>,
}

impl<W: Waken> AgentOwner<W> {
    /// For a node with these limits.
    pub(crate) fn new(limits: &Limits) -> Self {
        AgentOwner {
            hub: Hub::new(limits),
            events: EventLog::default(),
            chores: Chores::default(),
            outcomes: Vec::new(),
            keeper: None,
            woken: Vec::new(),
        }
    }

    // ---- for the household ----

    /// Takes what there is to do, and from now on wakes `waker` when there is more.
    pub(crate) fn attend(&mut self, waker: &W, outcomes: &mut Vec<Outcome>) -> Chores {
        if !self.keeper.as_ref().is_some_and(|keeper| keeper.is_same(waker)) {
            self.keeper = Some(waker.clone());
        }
        outcomes.append(&mut self.outcomes);
        let ended = self.chores.ended;
        mem::replace(&mut self.chores, Chores { ended, ..Chores::default() })
    }

    /// An errand is over.
    pub(crate) fn handle_outcome(&mut self, outcome: Outcome) {
        if !self.chores.ended {
            self.outcomes.push(outcome);
            self.woken.extend(self.keeper.take());
        }
    }

    /// Adds to what there is to do.
    pub(crate) fn demand(&mut self, demand: impl FnOnce(&mut Chores)) {
        demand(&mut self.chores);
        self.woken.extend(self.keeper.take());
    }

    fn handle_io_event(
        &mut self,
        now: Instant,
        node: &mut AgentNode,
        io: &mut impl Datagrams,
        event: Event,
    ) {
        match event {
            Event::DialRegistry => self.demand(|chores| {
                chores.dial = true;
                // Who looks for the registry anew may find the beacon elsewhere, too.
                chores.resolve = true;
            }),
            // What was wanted before it is over, too; what is wanted after it is not.
            Event::CloseRegistry => self.demand(|chores| {
                chores.dial = false;
                chores.close = true;
            }),
            Event::RegistryBytes => self.demand(|_| ()),
            Event::Store => self.demand(|chores| chores.store = true),
            Event::LinkChanged(Link::Offline) => self.demand(|chores| chores.resolve = true),
            // Without the socket the machine goes on with others, or with the one of before.
            Event::OpenSocket(socket) => {
                let opened = io.open(socket);
                if opened.is_err() {
                    // Refused by a fenced node alone, which sends nothing any more.
                    let _ = node.command(now, Command::SocketFailed { socket });
                } else if socket == SocketId(0) {
                    self.demand(|chores| chores.list = true);
                }
            }
            Event::CloseSocket(id) => io.close(id),
            _ => {}
        }
    }
}

impl<W: Waken, D: Datagrams> Outlet<AgentNode, D> for AgentOwner<W> {
    fn handle_payload(&mut self, from: SocketAddress, to: Port, payload: &[u8]) {
        self.hub.handle_payload(from, to, payload);
    }

    fn handle_event(&mut self, now: Instant, node: &mut AgentNode, io: &mut D, event: Event) {
        let Some(event) = self.hub.handle_event(event) else { return };
        self.handle_io_event(now, node, io, event);
        if let Some(event) = AgentEvent::from_node(event) {
            self.events.push(event);
        }
    }
}

impl<R: Runtime> Owner<AgentNode, R> for AgentOwner<R::Waker> {
    fn take_woken(&mut self, out: &mut Vec<R::Waker>) {
        self.hub.take_woken(out);
        self.events.take_woken(out);
        out.append(&mut self.woken);
    }

    fn handle_end(&mut self) {
        self.hub.close();
        self.events.close();
        self.outcomes.clear();
        self.demand(|chores| chores.ended = true);
    }
}
