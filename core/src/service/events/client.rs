//! The client's end of a connection: subscribes, publishes, and hears of both.

use super::frame::Frame;
use super::{EventsError, Pattern, Refusal, Topic};
use crate::addr::Address;
use heapless::Deque;

/// Most requests of a connection that wait for their answer.
pub const OUTSTANDING_MAX: usize = 256;

/// Names a request of one connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Request(u32);

/// What the broker said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientEvent<'b> {
    /// The answer to the oldest open request. For a publication: into how many queues it went.
    Done(Request, Result<u32, Refusal>),
    /// Something was published.
    Event {
        /// By whom: the broker knows it from the tunnel.
        from: Address,
        /// Whether it is the value kept from before the subscription.
        retained: bool,
        /// About what.
        topic: Topic<'b>,
        /// At most [`DATA_MAX`](super::DATA_MAX) bytes.
        data: &'b [u8],
    },
    /// So many events were lost here, because this end reads too slowly.
    Dropped(u64),
}

/// The owner's call cannot be carried out; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// [`OUTSTANDING_MAX`] requests wait for their answer.
    #[error("too many requests without an answer")]
    Outstanding,
    /// No room in the buffer, or more data than an event can have.
    #[error("too long")]
    Room,
}

/// One connection to a broker. Frames are written to the front of a buffer that the caller
/// lends, [`FRAME_MAX`](super::FRAME_MAX) bytes are always enough.
#[derive(Debug, Default)]
pub struct Client {
    last: u32,
    open: Deque<u32, OUTSTANDING_MAX>,
    closed: bool,
}

impl Client {
    /// On a fresh stream.
    pub const fn new() -> Self {
        Client { last: 0, open: Deque::new(), closed: false }
    }

    /// Requests without an answer, at most [`OUTSTANDING_MAX`].
    pub fn outstanding(&self) -> usize {
        self.open.len()
    }

    /// Writes a frame that asks for an answer; its length.
    fn ask<'f>(
        &mut self,
        out: &mut [u8],
        frame: impl FnOnce(u32) -> Frame<'f>,
    ) -> Result<(usize, Request), Misuse> {
        if self.open.is_full() {
            return Err(Misuse::Outstanding);
        }
        let request = self.last.wrapping_add(1);
        let len = frame(request).encode(out).ok_or(Misuse::Room)?;
        self.last = request;
        // There is room, as seen above.
        let _ = self.open.push_back(request);
        Ok((len, Request(request)))
    }

    /// Asks for the events of all topics that match; with `retained`, for their last retained
    /// values first. Subscribing again changes nothing, but asks for those again.
    pub fn subscribe(
        &mut self,
        pattern: Pattern<'_>,
        retained: bool,
        out: &mut [u8],
    ) -> Result<(usize, Request), Misuse> {
        self.ask(out, |request| Frame::Subscribe { request, retained, pattern })
    }

    /// Takes a subscription back; what is queued already still comes.
    pub fn unsubscribe(
        &mut self,
        pattern: Pattern<'_>,
        out: &mut [u8],
    ) -> Result<(usize, Request), Misuse> {
        self.ask(out, |request| Frame::Unsubscribe { request, pattern })
    }

    /// Publishes and asks for an answer. With `retain` the broker keeps the value for those who
    /// subscribe later; an empty one deletes what it has kept.
    pub fn publish(
        &mut self,
        topic: Topic<'_>,
        data: &[u8],
        retain: bool,
        out: &mut [u8],
    ) -> Result<(usize, Request), Misuse> {
        let acknowledge = true;
        self.ask(out, |request| Frame::Publish { request, acknowledge, retain, topic, data })
    }

    /// The same without an answer.
    pub fn publish_unacknowledged(
        &mut self,
        topic: Topic<'_>,
        data: &[u8],
        retain: bool,
        out: &mut [u8],
    ) -> Result<usize, Misuse> {
        let (request, acknowledge) = (0, false);
        let frame = Frame::Publish { request, acknowledge, retain, topic, data };
        frame.encode(out).ok_or(Misuse::Room)
    }

    /// Asks whether the broker is still there; its answer has a count of 0.
    pub fn ping(&mut self, out: &mut [u8]) -> Result<(usize, Request), Misuse> {
        self.ask(out, |request| Frame::Ping { request })
    }

    /// Takes received bytes: how many were used, and what they meant. Nothing is used as long
    /// as the frame at the front is not complete.
    pub fn handle_bytes<'b>(
        &mut self,
        input: &'b [u8],
    ) -> Result<(usize, Option<ClientEvent<'b>>), EventsError> {
        if self.closed {
            return Err(EventsError::Closed);
        }
        let result = self.handle(input);
        self.closed = result.is_err();
        result
    }

    fn handle<'b>(
        &mut self,
        input: &'b [u8],
    ) -> Result<(usize, Option<ClientEvent<'b>>), EventsError> {
        let Some((frame, used)) = Frame::decode(input)? else { return Ok((0, None)) };
        let event = match frame {
            Frame::Done { request, code, count } => {
                if self.open.front() != Some(&request) {
                    return Err(EventsError::WrongRequest);
                }
                self.open.pop_front();
                ClientEvent::Done(Request(request), Refusal::from_code(code).map_or(Ok(count), Err))
            }
            Frame::Event { retained, from, topic, data } => {
                ClientEvent::Event { from, retained, topic, data }
            }
            Frame::Dropped(count) => ClientEvent::Dropped(count),
            Frame::Subscribe { .. }
            | Frame::Unsubscribe { .. }
            | Frame::Publish { .. }
            | Frame::Ping { .. } => return Err(EventsError::Unexpected(input[0])),
        };
        Ok((used, Some(event)))
    }
}
