//! Work that may block, and what came of it.

use crate::drive::HostPort;
use crate::drive::agent::{Change, Store};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};

/// Stored facts.
pub type Facts = Vec<([u8; 8], Vec<u8>)>;

/// Work that may block; an adapter has it done on some thread ([`super::super::Host`]). At most
/// one of each kind is under way.
pub enum Errand {
    /// Look the name up and connect by TCP. The port is given.
    Dial(HostPort),
    /// Look the name up. The port is given.
    LookUp(HostPort),
    /// Make changes durable.
    Commit(Box<dyn Store>, Vec<Change>),
    /// List the host candidates of sockets bound to these addresses.
    List(Vec<SocketAddr>),
    /// Read what is stored.
    Load(Box<dyn Store>),
}

/// What an errand is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrandKind {
    /// [`Errand::Dial`]
    Dial,
    /// [`Errand::LookUp`]
    LookUp,
    /// [`Errand::Commit`]
    Commit,
    /// [`Errand::List`]
    List,
    /// [`Errand::Load`]
    Load,
}

/// What came of an errand. `L` is a TCP connection.
pub enum Outcome<L = TcpStream> {
    /// A connection, non-blocking.
    Dialled(io::Result<L>),
    /// The addresses of the name.
    LookedUp(io::Result<Vec<SocketAddr>>),
    /// Everything was made durable, or nothing. The store and the changes come back.
    Committed(Box<dyn Store>, Vec<Change>, io::Result<()>),
    /// Addresses at which this host may be reached, best first.
    Listed(io::Result<Vec<SocketAddr>>),
    /// All stored facts. The store comes back.
    Loaded(io::Result<(Box<dyn Store>, Facts)>),
    /// The thread has panicked, and whatever the errand held is lost with it.
    Lost(ErrandKind),
}

impl Errand {
    /// What it is about.
    pub fn kind(&self) -> ErrandKind {
        match self {
            Errand::Dial(_) => ErrandKind::Dial,
            Errand::LookUp(_) => ErrandKind::LookUp,
            Errand::Commit(..) => ErrandKind::Commit,
            Errand::List(_) => ErrandKind::List,
            Errand::Load(_) => ErrandKind::Load,
        }
    }

    /// The outcome of an errand that could not be begun.
    pub fn failed(self, error: io::Error) -> Outcome {
        match self {
            Errand::Dial(_) => Outcome::Dialled(Err(error)),
            Errand::LookUp(_) => Outcome::LookedUp(Err(error)),
            Errand::Commit(store, changes) => Outcome::Committed(store, changes, Err(error)),
            Errand::List(_) => Outcome::Listed(Err(error)),
            Errand::Load(_) => Outcome::Loaded(Err(error)),
        }
    }
}

impl Outcome {
    /// With the connection, if it is one, put into an event queue by `register`.
    pub(super) fn registered<L>(
        self,
        register: impl FnOnce(TcpStream) -> io::Result<L>,
    ) -> Outcome<L> {
        match self {
            Outcome::Dialled(dialled) => Outcome::Dialled(dialled.and_then(register)),
            Outcome::LookedUp(result) => Outcome::LookedUp(result),
            Outcome::Committed(store, changes, result) => {
                Outcome::Committed(store, changes, result)
            }
            Outcome::Listed(result) => Outcome::Listed(result),
            Outcome::Loaded(result) => Outcome::Loaded(result),
            Outcome::Lost(kind) => Outcome::Lost(kind),
        }
    }
}

impl fmt::Debug for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Errand").field(&self.kind()).finish()
    }
}

impl<L> fmt::Debug for Outcome<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Dialled(result) => write!(f, "Dialled({})", result.is_ok()),
            Outcome::LookedUp(result) => write!(f, "LookedUp({result:?})"),
            Outcome::Committed(_, _, result) => write!(f, "Committed({result:?})"),
            Outcome::Listed(result) => write!(f, "Listed({result:?})"),
            Outcome::Loaded(result) => write!(f, "Loaded({})", result.is_ok()),
            Outcome::Lost(kind) => write!(f, "Lost({kind:?})"),
        }
    }
}

/// Something that an operator may want to read in a log.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Notice<'a> {
    /// The wall clock was stepped, or the machine was suspended.
    #[error("the clock was stepped, or the machine was suspended")]
    ClockStepped,
    /// This machine is a copy.
    #[error("this machine is a copy of what it was")]
    Copied,
    /// The registry cannot be connected to at present.
    #[error("cannot connect to the registry {0}: {1}")]
    CannotDial(&'a HostPort, &'a io::Error),
    /// The connection to the registry has ended without being asked to.
    #[error("the connection to the registry {0} was closed")]
    RegistryClosed(&'a HostPort),
    /// The beacon's name cannot be looked up at present.
    #[error("cannot look up the beacon {0}: {1}")]
    CannotLookUp(&'a HostPort, &'a io::Error),
    /// Durable state cannot be stored at present; somebody may have to make room.
    #[error("cannot store durable state; trying again: {0}")]
    CannotStore(&'a io::Error),
    /// The store has panicked: nothing is stored any more.
    #[error("the store of durable state has failed for good")]
    StoreLost,
}
