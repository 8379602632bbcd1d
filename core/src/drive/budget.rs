//! How much one turn may do before it gives way.
//!
//! A turn holds the adapter's lock and, on a single-threaded runtime, the only thread. The
//! budget bounds that time: with the defaults a turn opens at most 8 trains, or 64 datagrams that
//! came alone, and seals at most 8, about a millisecond of work at one gigabyte a second.

/// Bounds of one [`super::Driver::turn`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Receive calls of one turn: one batch. Each yields at most one train.
    pub receives: u32,
    /// Receive calls of a turn that follows a pause, an answer or a flush; a full batch makes those
    /// of the next one eight times as many. 1 answers the first datagram before the socket is asked
    /// for a second one, which pays where few come at a time.
    pub receives_first: u32,
    /// Bytes received in one turn after which its batch is full, too. So data is handed on while it
    /// is in the processor's cache, while acknowledgements, which are short, are read faster than
    /// one turn's sending can make new ones: else a queue of them would never get shorter again.
    pub receive_bytes: usize,
    /// Batches in a row that may end with more to receive before timers fire regardless.
    /// Until then timers wait, since the acknowledgement that cancels a retransmission may be
    /// the next datagram in the socket's buffer.
    pub batches_before_timers: u32,
    /// Send calls of one turn.
    pub sends: u32,
    /// Events handed out in one turn.
    pub events: u32,
}

impl Budget {
    /// The budget that adapters use.
    pub const DEFAULT: Budget = Budget {
        receives: 64,
        receives_first: 8,
        receive_bytes: 512 * 1024,
        batches_before_timers: 4,
        sends: 8,
        events: 256,
    };
}

impl Default for Budget {
    fn default() -> Self {
        Budget::DEFAULT
    }
}
