//! Events, port 1002 (`wire.md` 12): topics that agents publish to and subscribe at. Every
//! agent is a broker for the peers that its grants let in, and for itself.
//!
//! Every frame is `kind u8 ‖ length u24 ‖ payload`, integers big-endian:
//!
//! | Kind | Frame | From | Payload |
//! |---|---|---|---|
//! | 16 | SUBSCRIBE | client | request 4, flags 1 (bit 0: retained values, too), pattern |
//! | 17 | UNSUBSCRIBE | client | request 4, pattern |
//! | 18 | PUBLISH | client | request 4, flags 1 (bit 0: answer; bit 1: retain), topic len 1, topic, data |
//! | 19 | DONE | broker | request 4, code 1 (0: done), count 4 |
//! | 20 | EVENT | broker | flags 1 (bit 0: retained), publisher 6, topic len 1, topic, data |
//! | 21 | DROPPED | broker | count 8 |
//! | 22 | PING | client | request 4 |
//!
//! Undefined flags mean nothing. The first byte of a published plain frame, that of a topic
//! length of at most 1,024, is none of these kinds: such a frame is refused, not misread.
//!
//! * **Answers** come in the order of the requests, one DONE each; a PUBLISH asks for it. Its
//!   count says into how many queues the event has gone, which is not yet that it arrived.
//! * **Delivery** is at most once, in the order of publishing, once a connection however many
//!   of its patterns match. What is published while nobody subscribes is gone, unless retained.
//! * **Queues** are bounded, one a connection. A full one loses its oldest event, and DROPPED
//!   stands where the lost ones would have been. Nothing ever waits for a subscriber.
//! * **Retained**: the last value of a topic that was published so, for those who ask for it
//!   with their subscription. An empty one deletes it. The table is bounded; the topic least
//!   recently published or asked for goes first.
//!
//! Machines parse in the bytes that the owner holds: it keeps what was not used, at most
//! [`FRAME_MAX`] bytes, and appends what comes. A length is refused as soon as it is there, so a
//! peer that announces much costs nothing. Any bytes give frames or an [`EventsError`], which
//! ends the connection; none make a machine panic.

#[cfg(feature = "alloc")]
mod broker;
mod client;
mod frame;
#[cfg(feature = "alloc")]
mod queue;
#[cfg(feature = "alloc")]
mod retained;
mod topic;

#[cfg(all(test, feature = "alloc"))]
mod tests;

#[cfg(feature = "alloc")]
pub use broker::{Broker, BrokerLimits, BrokerStats, ConnId, Taken};
pub use client::{Client, ClientEvent, Misuse, OUTSTANDING_MAX, Request};
pub use topic::{Pattern, TOKENS_MAX, TOPIC_MAX, Topic, TopicError};

/// Most bytes of one event's data.
pub const DATA_MAX: usize = 64 * 1024;

/// Longest frame: an EVENT with the longest topic and data.
pub const FRAME_MAX: usize = frame::HEADER + frame::EVENT_FIXED + TOPIC_MAX + DATA_MAX;

/// Why a connection has to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventsError {
    /// A frame of a kind that means nothing here or now.
    #[error("unexpected frame of kind {0}")]
    Unexpected(u8),
    /// A frame longer or shorter than its kind allows, or whose fields do not add up.
    #[error("malformed frame of kind {0}")]
    Malformed(u8),
    /// A topic or pattern that is none.
    #[error("bad topic: {0}")]
    Topic(TopicError),
    /// An answer to another request than the oldest open one.
    #[error("an answer to no open request")]
    WrongRequest,
    /// The connection is not open.
    #[error("closed")]
    Closed,
}

/// Why a broker has not done what a request asked for; the connection goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The connection has as many patterns as it may.
    #[error("too many patterns on one connection")]
    TooManyPatterns,
    /// The pattern to be taken back was not subscribed.
    #[error("not subscribed")]
    NotSubscribed,
    /// A code of a newer version.
    #[error("refused with code {0}")]
    Other(u8),
}

impl Refusal {
    /// The code on the wire; never 0.
    pub const fn code(self) -> u8 {
        match self {
            Refusal::TooManyPatterns => 1,
            Refusal::NotSubscribed => 2,
            Refusal::Other(0) => u8::MAX,
            Refusal::Other(code) => code,
        }
    }

    /// `None` for code 0, which is no refusal.
    pub const fn from_code(code: u8) -> Option<Refusal> {
        match code {
            0 => None,
            1 => Some(Refusal::TooManyPatterns),
            2 => Some(Refusal::NotSubscribed),
            other => Some(Refusal::Other(other)),
        }
    }
}
