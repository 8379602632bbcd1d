//! An agent without waiting.

use super::ReadyRuntime;
use super::board::{Board, Waker, bit, lock};
use super::handles::{Connecting, Datagrams, Events, Listener, Question};
use crate::addr::{Address, Port};
use crate::crypto::identity::Identity;
use crate::drive::agent::{
    Builder, ConnectError, DatagramsError, DirectoryError, Handle, KeepAlive, ListenError,
    ReadyError,
};
use crate::drive::waiters::Ticket;
use crate::node::{Command, Target};
use core::fmt;
use core::ops::Deref;
use core::task::Poll;
use std::sync::{Arc, Mutex};

/// Tickets of what is waited for at the agent itself.
struct Own<R: ReadyRuntime> {
    handle: Handle<R>,
    waker: Waker,
    registered: Mutex<Ticket>,
    ended: Mutex<Ticket>,
}

impl<R: ReadyRuntime> Drop for Own<R> {
    fn drop(&mut self) {
        self.waker.close();
        self.handle.leave(&mut lock(&self.registered));
        self.handle.shared().leave_ended(&mut lock(&self.ended));
    }
}

/// An agent: one identity on the network. Clones are handles of the same agent, and may be used
/// from any thread.
///
/// The agent lives as long as a handle, stream, listener or datagram port of it; when the last
/// one is dropped, peers are told in the background, by turns of the loop.
///
/// Nothing here waits. What would have to says `None`, and one [`super::Ready`] with the
/// handle's id comes when it is worth while to ask again.
///
/// How the agent stands, its peers, and trust stand at [`Handle`].
pub struct Agent<R: ReadyRuntime> {
    agent: KeepAlive<R>,
    board: Board,
    own: Arc<Own<R>>,
}

impl<R: ReadyRuntime> Clone for Agent<R> {
    fn clone(&self) -> Self {
        let Agent { agent, board, own } = self;
        Agent { agent: agent.clone(), board: board.clone(), own: Arc::clone(own) }
    }
}

impl<R: ReadyRuntime> fmt::Debug for Agent<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").finish_non_exhaustive()
    }
}

impl<R: ReadyRuntime> Deref for Agent<R> {
    type Target = Handle<R>;

    fn deref(&self) -> &Handle<R> {
        &self.agent
    }
}

impl<R: ReadyRuntime> Agent<R> {
    /// Prepares an agent with this identity; the adapter starts it.
    pub fn builder(identity: Identity) -> Builder<R> {
        Builder::new(identity)
    }

    /// The agent, for those who wait by polls.
    pub fn keep_alive(&self) -> &KeepAlive<R> {
        &self.agent
    }

    /// An agent whose loop is told by `board`.
    pub fn new(agent: KeepAlive<R>, board: &Board) -> Self {
        let own = Own {
            handle: Handle::clone(&agent),
            waker: Waker::listed(board, bit::REGISTERED),
            registered: Mutex::new(Ticket::NONE),
            ended: Mutex::new(Ticket::NONE),
        };
        Agent { agent, board: board.clone(), own: Arc::new(own) }
    }

    /// Our address, once the registry has given or confirmed it; `None`: not yet, and
    /// [`super::Ready::Registered`] comes.
    pub fn try_ready(&self) -> Result<Option<Address>, ReadyError> {
        let mut ticket = lock(&self.own.registered);
        option(self.agent.poll_ready(&mut ticket, &self.own.waker))
    }

    /// Whether the agent has ended; if not, [`super::Ready::Ended`] comes then.
    pub fn try_ended(&self) -> bool {
        let mut ticket = lock(&self.own.ended);
        self.agent.poll_ended(&mut ticket, &self.own.waker.with(bit::ENDED)).is_ready()
    }

    /// Begins to open a stream to a port of an agent that has granted us trust. A hostname is
    /// looked up in the default network first.
    pub fn connect(
        &self,
        to: impl Into<Target>,
        port: Port,
    ) -> Result<Connecting<R>, ConnectError> {
        Ok(Connecting::new(self.agent.begin_connect_to(to, port)?, &self.board))
    }

    /// Accepts streams on a port; 0 takes a free one.
    pub fn listen(&self, port: Port) -> Result<Listener<R>, ListenError> {
        Ok(Listener::new(self.agent.listen(port)?, &self.agent, &self.board))
    }

    /// Sends and receives datagrams on a port; 0 takes a free one.
    pub fn datagrams(&self, port: Port) -> Result<Datagrams<R>, DatagramsError> {
        Ok(Datagrams::new(self.agent.datagrams(port)?, &self.agent, &self.board))
    }

    /// Asks the registry: any of [`Command`]'s questions of the directory, which are `Join`,
    /// `Leave`, `SetHostname`, `ClearHostname`, `SetVisibility`, `SetTags`, `Resolve` and
    /// `Discover`.
    pub fn ask(&self, command: Command<'_>) -> Result<Question<R>, DirectoryError> {
        Ok(Question::new(self.agent.ask(command)?, &self.board))
    }

    /// News from now on; see [`Handle::events`].
    pub fn events(&self) -> Events<R> {
        Events::new(self.agent.events(), &self.board)
    }
}

/// "Not yet" as the surface of this crate has it.
pub(super) fn option<T, E>(poll: Poll<Result<T, E>>) -> Result<Option<T>, E> {
    match poll {
        Poll::Ready(result) => result.map(Some),
        Poll::Pending => Ok(None),
    }
}
