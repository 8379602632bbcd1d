//! A broker of events, and its connections.

use super::error::EventsFailure;
use super::flow::Flow;
use crate::addr::{Address, SocketAddress};
use crate::drive::agent::StreamHandle;
use crate::drive::io::Clock as _;
use crate::drive::runtime::Runtime;
use crate::drive::waiters::Waken as _;
use crate::service::events::{
    self, BrokerLimits, BrokerStats, ConnId, DATA_MAX, EventsError, Misuse, Taken, Topic,
};
use crate::time::{Duration, Instant};
use core::fmt;
use core::task::Poll;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::vec::Vec;

/// Bytes that are taken out of a queue at once.
const OUTPUT: usize = 64 * 1024;
/// A peer that says nothing for so long is gone: subscribers ping more often (`wire.md` 13). One
/// whose answers wait to be read, so that nothing more is read of it, has so long to read some.
const SILENCE: Duration = Duration::from_secs(60);

/// The machine, and whom to wake for what it has to say.
struct Hall<W> {
    broker: events::Broker,
    waiting: BTreeMap<ConnId, W>,
}

impl<W: Clone> Hall<W> {
    /// Who has got something to write.
    fn ready(&mut self) -> Vec<W> {
        let mut all = Vec::new();
        while let Some(id) = self.broker.poll_ready() {
            all.extend(self.waiting.get(&id).cloned());
        }
        all
    }
}

/// What publishers and subscribers meet at. Clones are the same broker.
pub struct Broker<R: Runtime>(Arc<Mutex<Hall<R::Waker>>>);

impl<R: Runtime> Clone for Broker<R> {
    fn clone(&self) -> Self {
        Broker(Arc::clone(&self.0))
    }
}

impl<R: Runtime> fmt::Debug for Broker<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("stats", &self.stats()).finish()
    }
}

impl<R: Runtime> Broker<R> {
    /// Without connections.
    pub fn new(limits: BrokerLimits) -> Self {
        let broker = events::Broker::new(limits);
        Broker(Arc::new(Mutex::new(Hall { broker, waiting: BTreeMap::new() })))
    }

    fn hall(&self) -> MutexGuard<'_, Hall<R::Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes at most 64 KiB in this agent's own name: into how many queues it went.
    pub fn publish(
        &self,
        from: Address,
        topic: &str,
        data: &[u8],
        retain: bool,
    ) -> Result<u32, EventsFailure> {
        let topic = Topic::new(topic)?;
        if data.len() > DATA_MAX {
            return Err(Misuse::Room.into());
        }
        let mut hall = self.hall();
        let count = hall.broker.publish(from, topic, data, retain);
        let ready = hall.ready();
        drop(hall);
        ready.into_iter().for_each(|waker| waker.wake());
        Ok(count)
    }

    /// What has happened.
    pub fn stats(&self) -> BrokerStats {
        self.hall().broker.stats()
    }

    /// A stream that was accepted on port 1002.
    pub fn connection(
        &self,
        stream: StreamHandle<R>,
    ) -> Result<BrokerConnection<R>, EventsFailure> {
        let id =
            self.hall().broker.handle_open(stream.peer().address).ok_or(EventsFailure::Full)?;
        let silent_at = stream.agent().shared().host().now() + SILENCE;
        let (broker, flow) = (self.clone(), Flow::new(stream));
        let silence = SILENCE;
        Ok(BrokerConnection { broker, id, flow, silence, silent_at, written: 0, has_ended: false })
    }
}

/// One peer at a broker. It has to be served: polled whenever its waker is called, and when it is
/// [`due`](Self::due). Dropping it closes the connection.
pub struct BrokerConnection<R: Runtime> {
    broker: Broker<R>,
    id: ConnId,
    pub(super) flow: Flow<R>,
    silence: Duration,
    silent_at: Instant,
    /// What the stream had taken when the peer was last seen to read.
    written: u64,
    has_ended: bool,
}

impl<R: Runtime> fmt::Debug for BrokerConnection<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerConnection").field("peer", &self.peer()).finish_non_exhaustive()
    }
}

impl<R: Runtime> BrokerConnection<R> {
    /// Who has connected.
    pub fn peer(&self) -> SocketAddress {
        self.flow.stream.peer()
    }

    pub(super) fn host(&self) -> R::Host {
        self.flow.host()
    }

    /// When it wants to be polled again at the latest: a peer that says nothing is given up.
    pub fn due(&self) -> Instant {
        self.silent_at
    }

    /// For tests that cannot wait so long.
    #[cfg(feature = "conformance")]
    pub(crate) fn set_silence(&mut self, silence: Duration) {
        self.silence = silence;
        self.silent_at = self.host().now() + silence;
    }

    /// Serves until the peer has ended and has all answers.
    pub fn poll_serve(&mut self, waker: &R::Waker) -> Poll<Result<(), EventsFailure>> {
        let now = self.host().now();
        loop {
            self.pull(waker);
            let flushed = self.flow.poll_flush(waker)?;
            if self.has_ended {
                if flushed.is_pending() {
                    return self.poll_stalled(now);
                }
                if self.pull(waker) {
                    continue;
                }
                return Poll::Ready(self.flow.stream.finish().map_err(EventsFailure::from));
            }
            match self.take()? {
                Taken::Frame(_) => continue,
                Taken::Blocked if flushed.is_ready() => continue,
                // What waits to be read stops the peer, and nobody else.
                Taken::Blocked => return self.poll_stalled(now),
                Taken::More => {}
            }
            match self.flow.poll_fill(waker)? {
                Poll::Ready(true) => self.silent_at = now + self.silence,
                Poll::Ready(false) if !self.flow.input().is_empty() => {
                    return Poll::Ready(Err(EventsError::Closed.into()));
                }
                Poll::Ready(false) => {
                    self.has_ended = true;
                    self.broker.hall().broker.handle_end(self.id);
                }
                Poll::Pending if now >= self.silent_at => {
                    return Poll::Ready(Err(EventsFailure::Silent));
                }
                Poll::Pending if self.pull(waker) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The peer is not read from until it has read itself.
    fn poll_stalled(&mut self, now: Instant) -> Poll<Result<(), EventsFailure>> {
        let written = self.flow.written();
        if written > self.written {
            (self.written, self.silent_at) = (written, now + self.silence);
        }
        if now >= self.silent_at {
            return Poll::Ready(Err(EventsFailure::Silent));
        }
        Poll::Pending
    }

    /// Takes what is to be written, if nothing else waits; whether there is something. From now on
    /// the waker is called when there is more.
    fn pull(&mut self, waker: &R::Waker) -> bool {
        let mut hall = self.broker.hall();
        hall.waiting.insert(self.id, waker.clone());
        if self.flow.backlog() > 0 {
            return false;
        }
        hall.broker.poll_bytes(self.id, self.flow.output(), OUTPUT);
        self.flow.backlog() > 0
    }

    /// Takes one frame.
    fn take(&mut self) -> Result<Taken, EventsFailure> {
        let mut hall = self.broker.hall();
        let taken = hall.broker.handle_bytes(self.id, self.flow.input())?;
        let ready = hall.ready();
        drop(hall);
        ready.into_iter().for_each(|waker| waker.wake());
        if let Taken::Frame(used) = taken {
            self.flow.used(used);
        }
        Ok(taken)
    }
}

impl<R: Runtime> Drop for BrokerConnection<R> {
    fn drop(&mut self) {
        let mut hall = self.broker.hall();
        hall.broker.handle_close(self.id);
        hall.waiting.remove(&self.id);
    }
}
