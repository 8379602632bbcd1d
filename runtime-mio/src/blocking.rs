//! For simple programs: calls that wait, each at most for a time that its caller gives. The
//! agent's turns are made by a thread of its own, so that it goes on while the program does
//! something else. The example stands at the [crate's root](crate#blocking).

use crate::{Builder, Loop, Mio, StartError};
use pilot_core::drive::blocking;

pub use pilot_core::drive::blocking::WaitError;

/// An agent whose calls wait.
pub type Agent = blocking::Agent<Mio>;
/// A stream whose calls wait.
pub type Stream = blocking::Stream<Mio>;
/// Accepts streams on a port.
pub type Listener = blocking::Listener<Mio>;
/// A port for datagrams.
pub type Datagrams = blocking::Datagrams<Mio>;
/// Receives an agent's news.
pub type Events = blocking::Events<Mio>;

/// Starts an agent and its thread, which ends with the agent. Reads the stored state on this
/// thread; does not wait for the registry.
pub fn start(builder: Builder) -> Result<Agent, StartError> {
    Loop::spawn(builder).map(Agent::new)
}
