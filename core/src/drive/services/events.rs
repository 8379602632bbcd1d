//! Publishing and subscribing.

use super::error::EventsFailure;
use super::flow::Flow;
use crate::addr::Address;
use crate::drive::agent::StreamHandle;
use crate::drive::io::Clock as _;
use crate::drive::runtime::Runtime;
use crate::service::events::{
    Client, ClientEvent, FRAME_MAX, Misuse, OUTSTANDING_MAX, Pattern, Refusal, Request, Topic,
};
use crate::time::{Duration, Instant};
use core::fmt;
use core::task::{Poll, ready};
use std::borrow::ToOwned as _;
use std::collections::VecDeque;
use std::string::String;
use std::vec::Vec;

/// A broker hears from us so often, at least (it gives up after 60 s; `wire.md` 13).
const PING: Duration = Duration::from_secs(10);
/// A broker of which nothing is heard for so long is gone (`wire.md` 13).
const SILENCE: Duration = Duration::from_secs(30);
/// Events that wait for the application while it waits for an answer; then the oldest are lost and
/// counted, as at the broker.
const HEARD_MAX: usize = 1024;

/// Something that was published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// By whom.
    pub from: Address,
    /// Whether it is the value kept from before the subscription.
    pub retained: bool,
    /// About what.
    pub topic: String,
    /// At most 64 KiB.
    pub data: Vec<u8>,
}

/// What a subscriber hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// An event.
    Event(Event),
    /// So many were lost here, because this end reads too slowly.
    Dropped(u64),
}

/// A connection to a broker, for publishing and subscribing alike.
///
/// It has to be polled now and then, by [`due`](Self::due) at the latest: a subscriber that says
/// nothing for 60 s is given up by the broker, and a broker that says nothing for 30 s by it.
pub struct EventsClient<R: Runtime> {
    flow: Flow<R>,
    client: Client,
    /// Answers that nobody has taken yet.
    done: VecDeque<(Request, Result<u32, Refusal>)>,
    heard: VecDeque<Event>,
    dropped: u64,
    ping: Option<Request>,
    ping_at: Instant,
    silent_at: Instant,
}

impl<R: Runtime> fmt::Debug for EventsClient<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventsClient").field("at", &self.flow.stream.peer()).finish_non_exhaustive()
    }
}

impl<R: Runtime> EventsClient<R> {
    /// Over a fresh stream to port 1002.
    pub fn new(stream: StreamHandle<R>) -> Self {
        let now = stream.agent().shared().host().now();
        EventsClient {
            flow: Flow::new(stream),
            client: Client::new(),
            done: VecDeque::new(),
            heard: VecDeque::new(),
            dropped: 0,
            ping: None,
            ping_at: now + PING,
            silent_at: now + SILENCE,
        }
    }

    fn now(&self) -> Instant {
        self.host().now()
    }

    pub(super) fn host(&self) -> R::Host {
        self.flow.host()
    }

    /// When it wants to be polled again at the latest.
    pub fn due(&self) -> Instant {
        self.ping_at.min(self.silent_at)
    }

    /// Writes a frame behind what waits.
    fn put<T>(
        &mut self,
        room: usize,
        frame: impl FnOnce(&mut Client, &mut [u8]) -> Result<(usize, T), Misuse>,
    ) -> Result<T, EventsFailure> {
        if self.done.len() >= OUTSTANDING_MAX {
            return Err(Misuse::Outstanding.into());
        }
        let output = self.flow.output();
        let start = output.len();
        output.resize(start + room.min(FRAME_MAX), 0);
        let put = frame(&mut self.client, &mut output[start..]);
        output.truncate(start + put.as_ref().map_or(0, |(len, _)| *len));
        let (_, result) = put?;
        self.ping_at = self.now() + PING;
        Ok(result)
    }

    /// Asks for the events of all topics that match `pattern`; with `retained`, for their last
    /// retained values first. [`poll_done`](Self::poll_done) has the answer.
    pub fn begin_subscribe(
        &mut self,
        pattern: &str,
        retained: bool,
    ) -> Result<Request, EventsFailure> {
        let pattern = Pattern::new(pattern)?;
        self.put(512, |client, out| client.subscribe(pattern, retained, out))
    }

    /// Takes a subscription back; what is queued already still comes.
    pub fn begin_unsubscribe(&mut self, pattern: &str) -> Result<Request, EventsFailure> {
        let pattern = Pattern::new(pattern)?;
        self.put(512, |client, out| client.unsubscribe(pattern, out))
    }

    /// Publishes at most 64 KiB, and asks into how many queues it went. With `retain` the broker
    /// keeps the value for those who subscribe later; an empty one deletes what it has kept.
    pub fn begin_publish(
        &mut self,
        topic: &str,
        data: &[u8],
        retain: bool,
    ) -> Result<Request, EventsFailure> {
        let topic = Topic::new(topic)?;
        self.put(data.len() + 512, |client, out| client.publish(topic, data, retain, out))
    }

    /// Publishes without asking whether it arrived; it is sent with the next polls.
    pub fn publish_unacknowledged(
        &mut self,
        topic: &str,
        data: &[u8],
        retain: bool,
    ) -> Result<(), EventsFailure> {
        let topic = Topic::new(topic)?;
        self.put(data.len() + 512, |client, out| {
            Ok((client.publish_unacknowledged(topic, data, retain, out)?, ()))
        })
    }

    /// Waits for the answer to a request: for a publication, into how many queues it went.
    /// Events that come meanwhile are kept for [`poll_next`](Self::poll_next).
    pub fn poll_done(
        &mut self,
        waker: &R::Waker,
        request: Request,
    ) -> Poll<Result<u32, EventsFailure>> {
        loop {
            if let Some(at) = self.done.iter().position(|(done, _)| *done == request)
                && let Some((_, result)) = self.done.remove(at)
            {
                return Poll::Ready(result.map_err(EventsFailure::from));
            }
            ready!(self.poll_frame(waker))?;
        }
    }

    /// Waits until the stream has taken what was published.
    pub fn poll_flush(&mut self, waker: &R::Waker) -> Poll<Result<(), EventsFailure>> {
        self.flow.poll_flush(waker).map_err(EventsFailure::from)
    }

    /// Waits for the next event.
    pub fn poll_next(&mut self, waker: &R::Waker) -> Poll<Result<Heard, EventsFailure>> {
        loop {
            let dropped = core::mem::take(&mut self.dropped);
            if dropped > 0 {
                return Poll::Ready(Ok(Heard::Dropped(dropped)));
            }
            if let Some(event) = self.heard.pop_front() {
                return Poll::Ready(Ok(Heard::Event(event)));
            }
            ready!(self.poll_frame(waker))?;
        }
    }

    /// Takes one frame.
    fn poll_frame(&mut self, waker: &R::Waker) -> Poll<Result<(), EventsFailure>> {
        loop {
            let now = self.now();
            if self.ping.is_none() && now >= self.ping_at {
                self.ping = Some(self.put(16, |client, out| client.ping(out))?);
            }
            if let Poll::Ready(Err(error)) = self.flow.poll_flush(waker) {
                return Poll::Ready(Err(error.into()));
            }
            let (used, event) = self.client.handle_bytes(self.flow.input())?;
            match event {
                None => {}
                Some(ClientEvent::Done(request, _)) if self.ping == Some(request) => {
                    self.ping = None;
                    self.flow.used(used);
                    continue;
                }
                Some(ClientEvent::Done(request, result)) => self.done.push_back((request, result)),
                Some(ClientEvent::Dropped(count)) => self.dropped += count,
                Some(ClientEvent::Event { from, retained, topic, data }) => {
                    let (topic, data) = (topic.as_str().to_owned(), data.to_vec());
                    self.heard.push_back(Event { from, retained, topic, data });
                    if self.heard.len() > HEARD_MAX {
                        self.heard.pop_front();
                        self.dropped += 1;
                    }
                }
            }
            self.flow.used(used);
            if used > 0 {
                return Poll::Ready(Ok(()));
            }
            match self.flow.poll_fill(waker)? {
                Poll::Ready(true) => self.silent_at = now + SILENCE,
                Poll::Ready(false) => return Poll::Ready(Err(EventsFailure::Ended)),
                Poll::Pending if now >= self.silent_at => {
                    return Poll::Ready(Err(EventsFailure::Silent));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
