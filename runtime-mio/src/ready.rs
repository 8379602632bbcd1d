//! What the loop tells its user.

use crate::wake::{Id, bit};

/// Something that is worth trying now; see [`crate::Driver::next_ready`].
///
/// Readiness is an edge: it comes once after a call that would have blocked (that said
/// [`std::io::ErrorKind::WouldBlock`] or `None`), and not again before the next such call. It
/// says that trying again is worth while, and no more: whoever tries may find that it would
/// block again, and is told again then. The same readiness is never queued twice, and none of
/// a handle that was dropped, so there are at most two for each handle that exists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Ready {
    /// A [`crate::Stream`] has bytes, its end, or a failure.
    Readable(Id),
    /// A [`crate::Stream`] has room, everything is acknowledged, or it has failed.
    Writable(Id),
    /// A [`crate::Connecting`] has a result.
    Connected(Id),
    /// A [`crate::Listener`] has a stream.
    Acceptable(Id),
    /// A [`crate::Datagrams`] port has a datagram.
    Datagram(Id),
    /// A [`crate::Question`] is answered.
    Answered(Id),
    /// An [`crate::Events`] receiver has an event.
    Event(Id),
    /// [`crate::Agent::try_ready`] has a result.
    Registered,
    /// The agent has ended: [`crate::Agent::try_ended`].
    Ended,
}

impl Ready {
    /// The readiness that one bit of a source stands for.
    pub(crate) fn of(set: u16, id: Id) -> Option<Self> {
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
