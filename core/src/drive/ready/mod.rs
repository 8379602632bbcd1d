//! Agents without futures, for adapters whose loop is told what is ready: handles that never wait,
//! and the list of those that are worth trying again.
//!
//! An adapter's [`Runtime`] has this module's [`Waker`]. Its loop makes turns and keeps the
//! household with the wakers of a [`Board`], and hands [`Board::next_ready`] to its user.
//! [`super::blocking`] has the same for threads that wait.

mod agent;
mod board;
mod handles;

pub use agent::Agent;
pub use board::{Board, Waker, block};
pub(super) use handles::owned_stream_traits;
pub use handles::{Connecting, Datagrams, Events, Listener, Question, Stream};

use super::runtime::Runtime;
use board::bit;

/// A [`Runtime`] whose wakers are those of this module.
pub trait ReadyRuntime: Runtime<Waker = Waker> {}

impl<R: Runtime<Waker = Waker>> ReadyRuntime for R {}

/// Says which handle a [`Ready`] is about; no two handles of a process share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id(pub u64);

/// Something that is worth trying now; see [`Board::next_ready`].
///
/// Readiness is an edge: it comes once after a call that would have blocked (that said
/// [`std::io::ErrorKind::WouldBlock`] or `None`), and not again before the next such call. It
/// says that trying again is worth while, and no more: whoever tries may find that it would
/// block again, and is told again then. The same readiness is never queued twice, and none of
/// a handle that was dropped, so there are at most two for each handle that exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Ready {
    /// A [`Stream`] has bytes, its end, or a failure.
    Readable(Id),
    /// A [`Stream`] has room, everything is acknowledged, or it has failed.
    Writable(Id),
    /// A [`Connecting`] has a result.
    Connected(Id),
    /// A [`Listener`] has a stream.
    Acceptable(Id),
    /// A [`Datagrams`] port has a datagram.
    Datagram(Id),
    /// A [`Question`] is answered.
    Answered(Id),
    /// An [`Events`] receiver has an event.
    Event(Id),
    /// [`Agent::try_ready`] has a result.
    Registered,
    /// The agent has ended: [`Agent::try_ended`].
    Ended,
}

impl Ready {
    /// The readiness that one bit of a source stands for.
    fn of(set: u16, id: Id) -> Option<Self> {
        Some(match set {
            bit::READABLE => Ready::Readable(id),
            bit::WRITABLE => Ready::Writable(id),
            bit::CONNECTED => Ready::Connected(id),
            bit::ACCEPTABLE => Ready::Acceptable(id),
            bit::DATAGRAM => Ready::Datagram(id),
            bit::ANSWERED => Ready::Answered(id),
            bit::EVENT => Ready::Event(id),
            bit::REGISTERED => Ready::Registered,
            bit::ENDED => Ready::Ended,
            _ => return None,
        })
    }
}
