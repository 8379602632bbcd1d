//! An agent without waiting.

use crate::handles::{Connecting, Datagrams, Events, Listener, Question};
use crate::wake::{Desk, Waker, bit, lock};
use crate::{Address, Builder, Handle, Identity, Mio, Port, ReadyError, Target};
use pilot_core::drive::agent::{
    self, ConnectError, DatagramsError, DirectoryError, KeepAlive, ListenError,
};
use pilot_core::drive::waiters::Ticket;
use pilot_core::node::Command;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex};
use std::task::Poll;

/// Tickets of what is waited for at the agent itself.
struct Own {
    handle: Handle,
    waker: Waker,
    registered: Mutex<Ticket>,
    ended: Mutex<Ticket>,
}

impl Drop for Own {
    fn drop(&mut self) {
        self.waker.close();
        self.handle.leave(&mut lock(&self.registered));
        self.handle.shared().leave_ended(&mut lock(&self.ended));
    }
}

/// An agent: one identity on the network. Clones are handles of the same agent, and may be used
/// from any thread; what its loop does is the affair of its [`Driver`](crate::Driver) or
/// [`Loop`](crate::Loop).
///
/// The agent lives as long as a handle, stream, listener or datagram port of it; when the last
/// one is dropped, peers are told in the background, by turns of the driver.
///
/// Nothing here waits. What would have to says `None`, and one [`Ready`](crate::Ready) with the
/// handle's id comes when it is worth while to ask again.
///
/// How the agent stands, its peers, and trust stand at [`Handle`].
#[derive(Clone)]
pub struct Agent {
    agent: KeepAlive<Mio>,
    desk: Arc<Desk>,
    own: Arc<Own>,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").finish_non_exhaustive()
    }
}

impl Deref for Agent {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.agent
    }
}

impl Agent {
    /// Prepares an agent with this identity, for [`Agent::start`], [`Agent::join`] or
    /// [`blocking::Agent::start`](crate::blocking::Agent::start).
    pub fn builder(identity: Identity) -> Builder {
        Builder::new(identity)
    }

    pub(crate) fn new(agent: KeepAlive<Mio>, desk: &Arc<Desk>) -> Self {
        let own = Own {
            handle: Handle::clone(&agent),
            waker: Waker::listed(desk, bit::REGISTERED),
            registered: Mutex::new(Ticket::NONE),
            ended: Mutex::new(Ticket::NONE),
        };
        Agent { agent, desk: Arc::clone(desk), own: Arc::new(own) }
    }

    pub(crate) fn into_inner(self) -> KeepAlive<Mio> {
        self.agent
    }

    /// Our address, once the registry has given or confirmed it; `None`: not yet, and
    /// [`Ready::Registered`](crate::Ready::Registered) comes.
    pub fn try_ready(&self) -> Result<Option<Address>, ReadyError> {
        let mut ticket = lock(&self.own.registered);
        option(self.agent.poll_ready(&mut ticket, &self.own.waker))
    }

    /// Whether the agent has ended; if not, [`Ready::Ended`](crate::Ready::Ended) comes then.
    pub fn try_ended(&self) -> bool {
        let mut ticket = lock(&self.own.ended);
        self.agent.poll_ended(&mut ticket, &self.own.waker.with(bit::ENDED)).is_ready()
    }

    /// Begins to open a stream to a port of an agent that has granted us trust. A hostname is
    /// looked up in the default network first.
    pub fn connect(&self, to: impl Into<Target>, port: Port) -> Result<Connecting, ConnectError> {
        Ok(Connecting::new(self.agent.begin_connect_to(to, port)?, &self.desk))
    }

    /// Accepts streams on a port; 0 takes a free one.
    pub fn listen(&self, port: Port) -> Result<Listener, ListenError> {
        Ok(Listener::new(self.agent.listen(port)?, &self.agent, &self.desk))
    }

    /// Sends and receives datagrams on a port; 0 takes a free one.
    pub fn datagrams(&self, port: Port) -> Result<Datagrams, DatagramsError> {
        Ok(Datagrams::new(self.agent.datagrams(port)?, &self.agent, &self.desk))
    }

    /// Asks the registry: any of [`Command`]'s questions of the directory, which are `Join`,
    /// `Leave`, `SetHostname`, `ClearHostname`, `SetVisibility`, `SetTags`, `Resolve` and
    /// `Discover`.
    pub fn ask(&self, command: Command<'_>) -> Result<Question, DirectoryError> {
        Ok(Question::new(self.agent.ask(command)?, &self.desk))
    }

    /// News from now on; see [`Handle::events`].
    pub fn events(&self) -> Events {
        Events::new(self.agent.events(), &self.desk)
    }
}

/// "Not yet" as the surface of this crate has it.
pub(crate) fn option<T, E>(poll: Poll<Result<T, E>>) -> Result<Option<T>, E> {
    match poll {
        Poll::Ready(result) => result.map(Some),
        Poll::Pending => Ok(None),
    }
}

/// The core's handles for this runtime.
pub(crate) mod inner {
    use super::{Mio, agent};

    pub(crate) type Stream = agent::StreamHandle<Mio>;
    pub(crate) type Connecting = agent::Connecting<Mio>;
    pub(crate) type Listener = agent::Listener<Mio>;
    pub(crate) type Datagrams = agent::Datagrams<Mio>;
    pub(crate) type Question = agent::Question<Mio>;
    pub(crate) type Events = agent::Events<Mio>;
}
