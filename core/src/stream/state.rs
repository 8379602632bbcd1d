//! The states of a stream: TCP's (RFC 9293 3.3.2), on the 34-byte header.
//!
//! LISTEN is not a state of a stream here (`port.rs` keeps listeners), and CLOSED is kept
//! until the application lets go of its handle, so that it can read what has arrived and ask
//! how the stream ended.
//!
//! | State | Syn acknowledged | Finish (application) | Fin received | Fin acknowledged | Expired |
//! |---|---|---|---|---|---|
//! | SynSent | Established | stays; again when established | – | – | – |
//! | SynReceived | Established | stays; again when established | – | – | – |
//! | Established | – | FinWait1 | CloseWait | – | – |
//! | FinWait1 | – | – | Closing | FinWait2 | – |
//! | FinWait2 | – | – | TimeWait | – | Closed |
//! | CloseWait | – | LastAck | – | – | – |
//! | Closing | – | – | – | TimeWait | – |
//! | LastAck | – | – | – | Closed | – |
//! | TimeWait | – | – | – | – | Closed |
//!
//! *Ended* (RST sent or received, peer restarted, unreachable or removed) leads from every
//! state to Closed. "Fin received" happens when all data before the FIN has arrived, not when
//! the FIN itself does (W-T6).

/// Where a stream is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// We have asked for a stream.
    SynSent,
    /// We have been asked; our SYN is not acknowledged yet.
    SynReceived,
    /// Open in both directions.
    Established,
    /// We have finished; data or our FIN is unacknowledged.
    FinWait1,
    /// We have finished and the peer knows; it may still send.
    FinWait2,
    /// The peer has finished; we may still send.
    CloseWait,
    /// Both have finished; our FIN is unacknowledged.
    Closing,
    /// The peer had finished first; our FIN is unacknowledged.
    LastAck,
    /// Over; late segments are recognised for two segment lifetimes.
    TimeWait,
    /// Over.
    Closed,
}

/// What moves a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    SynAcknowledged,
    Finish,
    FinReceived,
    FinAcknowledged,
    Expired,
    Ended,
}

impl State {
    pub(crate) const ALL: [State; 10] = [
        State::SynSent,
        State::SynReceived,
        State::Established,
        State::FinWait1,
        State::FinWait2,
        State::CloseWait,
        State::Closing,
        State::LastAck,
        State::TimeWait,
        State::Closed,
    ];

    /// The state after `step`; a step that the table does not name changes nothing.
    #[must_use]
    pub(crate) const fn after(self, step: Step) -> State {
        use State::*;
        match (self, step) {
            (_, Step::Ended) => Closed,
            (SynSent | SynReceived, Step::SynAcknowledged) => Established,
            (Established, Step::Finish) => FinWait1,
            (CloseWait, Step::Finish) => LastAck,
            (Established, Step::FinReceived) => CloseWait,
            (FinWait1, Step::FinReceived) => Closing,
            (FinWait2, Step::FinReceived) => TimeWait,
            (FinWait1, Step::FinAcknowledged) => FinWait2,
            (Closing, Step::FinAcknowledged) => TimeWait,
            (LastAck, Step::FinAcknowledged) => Closed,
            (FinWait2 | TimeWait, Step::Expired) => Closed,
            (state, _) => state,
        }
    }

    /// Both ends know each other's initial number, and the stream is not over.
    pub const fn is_synchronized(self) -> bool {
        !matches!(self, State::SynSent | State::SynReceived | State::Closed)
    }

    /// The peer may still send data.
    pub const fn may_receive(self) -> bool {
        matches!(self, State::Established | State::FinWait1 | State::FinWait2)
    }

    /// The name in `connections`.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::SynSent => "syn_sent",
            State::SynReceived => "syn_received",
            State::Established => "established",
            State::FinWait1 => "fin_wait_1",
            State::FinWait2 => "fin_wait_2",
            State::CloseWait => "close_wait",
            State::Closing => "closing",
            State::LastAck => "last_ack",
            State::TimeWait => "time_wait",
            State::Closed => "closed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From every state every order of the remaining steps ends in Closed.
    #[test]
    fn every_way_leads_to_closed() {
        use Step::*;
        for start in State::ALL {
            let steps = [Finish, FinReceived, FinAcknowledged];
            for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2]] {
                let mut state = start.after(SynAcknowledged);
                for _ in 0..3 {
                    for i in order {
                        state = state.after(steps[i]);
                    }
                }
                assert_eq!(state.after(Expired), State::Closed, "{start:?} {order:?}");
            }
            assert_eq!(start.after(Ended), State::Closed);
        }
    }

    #[test]
    fn nothing_leaves_closed_and_no_fin_is_acknowledged_before_it_is_sent() {
        use Step::*;
        for step in [SynAcknowledged, Finish, FinReceived, FinAcknowledged, Expired] {
            assert_eq!(State::Closed.after(step), State::Closed);
        }
        for state in [State::SynSent, State::Established, State::CloseWait] {
            assert_eq!(state.after(FinAcknowledged), state);
        }
    }
}
