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
use std::collections::{BTreeSet, VecDeque};
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
    /// Open requests whose answers nobody will take.
    disregarded: BTreeSet<Request>,
    /// At most [`HEARD_MAX`] and one more.
    heard: VecDeque<Heard>,
    ping: Option<Request>,
    ping_at: Instant,
    silent_at: Instant,
    /// After how long it asks, and gives up.
    patience: (Duration, Duration),
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
            disregarded: BTreeSet::new(),
            heard: VecDeque::new(),
            ping: None,
            ping_at: now + PING,
            silent_at: now + SILENCE,
            patience: (PING, SILENCE),
        }
    }

    /// For tests that cannot wait so long.
    #[cfg(feature = "conformance")]
    pub(crate) fn set_patience(&mut self, ping: Duration, silence: Duration) {
        let now = self.now();
        (self.ping_at, self.silent_at) = (now + ping, now + silence);
        self.patience = (ping, silence);
    }

    fn now(&self) -> Instant {
        self.host().now()
    }

    pub(super) fn host(&self) -> R::Host {
        self.flow.host()
    }

    /// When it wants to be polled again at the latest.
    pub fn due(&self) -> Instant {
        // While an answer is waited for, nothing more is asked.
        if self.ping.is_some() { self.silent_at } else { self.ping_at.min(self.silent_at) }
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
        Ok(self.write(room, frame)?)
    }

    fn write<T>(
        &mut self,
        room: usize,
        frame: impl FnOnce(&mut Client, &mut [u8]) -> Result<(usize, T), Misuse>,
    ) -> Result<T, Misuse> {
        let output = self.flow.output();
        let start = output.len();
        output.resize(start + room.min(FRAME_MAX), 0);
        let put = frame(&mut self.client, &mut output[start..]);
        output.truncate(start + put.as_ref().map_or(0, |(len, _)| *len));
        let (_, result) = put?;
        self.ping_at = self.now() + self.patience.0;
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

    /// Nobody will ask for the answer to a request.
    pub(super) fn disregard(&mut self, request: Request) {
        match self.done.iter().position(|(done, _)| *done == request) {
            Some(at) => drop(self.done.remove(at)),
            None => drop(self.disregarded.insert(request)),
        }
    }

    /// Waits until the stream has taken what was published.
    pub fn poll_flush(&mut self, waker: &R::Waker) -> Poll<Result<(), EventsFailure>> {
        self.flow.poll_flush(waker).map_err(EventsFailure::from)
    }

    /// Waits for the next event.
    pub fn poll_next(&mut self, waker: &R::Waker) -> Poll<Result<Heard, EventsFailure>> {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return Poll::Ready(Ok(heard));
            }
            ready!(self.poll_frame(waker))?;
        }
    }

    /// Takes one frame.
    fn poll_frame(&mut self, waker: &R::Waker) -> Poll<Result<(), EventsFailure>> {
        loop {
            let now = self.now();
            if self.ping.is_none() && now >= self.ping_at {
                // With as many questions as there may be the broker has something to answer.
                self.ping = self.write(16, |client, out| client.ping(out)).ok();
                self.ping_at = now + self.patience.0;
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
                Some(ClientEvent::Done(request, _)) if self.disregarded.remove(&request) => {}
                Some(ClientEvent::Done(request, result)) => self.done.push_back((request, result)),
                Some(ClientEvent::Dropped(count)) => hear(&mut self.heard, Heard::Dropped(count)),
                Some(ClientEvent::Event { from, retained, topic, data }) => {
                    let (topic, data) = (topic.as_str().to_owned(), data.to_vec());
                    let event = Event { from, retained, topic, data };
                    hear(&mut self.heard, Heard::Event(event));
                }
            }
            self.flow.used(used);
            if used > 0 {
                return Poll::Ready(Ok(()));
            }
            match self.flow.poll_fill(waker)? {
                Poll::Ready(true) => self.silent_at = now + self.patience.1,
                Poll::Ready(false) => return Poll::Ready(Err(EventsFailure::Ended)),
                Poll::Pending if now >= self.silent_at => {
                    return Poll::Ready(Err(EventsFailure::Silent));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Puts something behind what waits, and counts what is lost where it was.
fn hear(queue: &mut VecDeque<Heard>, heard: Heard) {
    match (queue.back_mut(), heard) {
        (Some(Heard::Dropped(before)), Heard::Dropped(more)) => {
            *before = before.saturating_add(more);
        }
        (_, heard) => queue.push_back(heard),
    }
    let mut lost = 0u64;
    while queue.len() > HEARD_MAX {
        match queue.pop_front() {
            Some(Heard::Dropped(count)) => lost = lost.saturating_add(count),
            Some(Heard::Event(_)) => lost = lost.saturating_add(1),
            None => break,
        }
    }
    if lost > 0 {
        if let Some(Heard::Dropped(after)) = queue.front_mut() {
            *after = after.saturating_add(lost);
        } else {
            queue.push_front(Heard::Dropped(lost));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: usize) -> Heard {
        let topic = std::format!("t.{n}");
        let from = Address::backbone(crate::addr::NodeId(1));
        Heard::Event(Event { from, retained: false, topic, data: Vec::new() })
    }

    #[test]
    fn what_nobody_asks_for_is_lost_and_counted_where_it_was() {
        let mut queue = VecDeque::new();
        hear(&mut queue, event(0));
        for count in [7, u64::MAX, 1] {
            hear(&mut queue, Heard::Dropped(count));
        }
        hear(&mut queue, event(1));
        assert_eq!(queue, [event(0), Heard::Dropped(u64::MAX), event(1)]);

        let mut queue = VecDeque::new();
        let most = HEARD_MAX + 1;
        for n in 0..3 * HEARD_MAX {
            hear(&mut queue, event(n));
            assert!(queue.len() <= most);
        }
        let Some(Heard::Dropped(lost)) = queue.pop_front() else { panic!("{:?}", queue.front()) };
        let left: Vec<_> = queue.into_iter().collect();
        assert_eq!(lost as usize + left.len(), 3 * HEARD_MAX);
        assert!(left.len() >= HEARD_MAX - 1 && left.last() == Some(&event(3 * HEARD_MAX - 1)));
    }
}
