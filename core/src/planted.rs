//! Defects on purpose, by which the simulator shows that it would find them.
//!
//! With the feature `planted` a test chooses at most one of them for its thread; without it
//! [`has`] is the constant `false`, so that nothing of them is in any build that people run. No
//! member of this workspace depends on the feature but for its tests.

/// A defect, named after what goes wrong.
#[cfg_attr(
    not(feature = "planted"),
    expect(unreachable_pub, reason = "the module is public with the feature alone")
)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Defect {
    /// A frame that was taken is taken again: the replay window never moves (`wire.md` 5.2).
    WindowCommitSkipped,
    /// No empty frames keep the paths of idle streams alive (`wire.md` 5.8).
    KeepaliveOff,
    /// Segments that wait are not in `poll_timeout` (contract rule 3).
    OutputUnreported,
    /// A path that does not answer goes on to carry data.
    StalePathKept,
    /// A segment that arrives out of order is acknowledged and thrown away.
    UnstoredAcknowledged,
    /// Bytes of lost frames are not sent again.
    RetransmissionSkipped,
    /// The beacon does not look at the MACs of relay frames (`wire.md` 7).
    #[cfg(feature = "alloc")]
    RelayUnchecked,
    /// A peer that is no longer trusted keeps its session and its rights.
    UntrustedAccepted,
    /// A lost FIN is not sent again.
    FinLost,
    /// FIN goes with the first segment, whatever follows it.
    FinEarly,
    /// Each sixty-fourth counter of a session is used twice.
    CounterReused,
    /// Streams that are over keep their places.
    SlotKept,
}

#[cfg(feature = "planted")]
impl Defect {
    /// All of them.
    pub const ALL: [Defect; 12] = [
        Defect::WindowCommitSkipped,
        Defect::KeepaliveOff,
        Defect::OutputUnreported,
        Defect::StalePathKept,
        Defect::UnstoredAcknowledged,
        Defect::RetransmissionSkipped,
        Defect::RelayUnchecked,
        Defect::UntrustedAccepted,
        Defect::FinLost,
        Defect::FinEarly,
        Defect::CounterReused,
        Defect::SlotKept,
    ];
}

#[cfg(feature = "planted")]
std::thread_local! {
    static PRESENT: core::cell::Cell<Option<Defect>> = const { core::cell::Cell::new(None) };
}

/// From now on all machines that run on this thread have the defect, or none.
#[cfg(feature = "planted")]
pub fn plant(defect: Option<Defect>) {
    PRESENT.set(defect);
}

/// Whether the machines of this thread have the defect.
#[cfg(feature = "planted")]
#[inline]
pub(crate) fn has(defect: Defect) -> bool {
    PRESENT.get() == Some(defect)
}

/// Never.
#[cfg(not(feature = "planted"))]
#[inline]
pub(crate) const fn has(_: Defect) -> bool {
    false
}
