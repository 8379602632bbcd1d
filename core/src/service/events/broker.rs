//! The broker: many connections, what they subscribe to, and what waits for each of them.

use super::frame::Frame;
use super::queue::{Event, Queue};
use super::retained::Retained;
use super::topic::{Pattern, Topic, matches};
use super::{EventsError, FRAME_MAX, OUTSTANDING_MAX, Refusal};
use crate::addr::Address;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// The broker's bounds. What it holds is at most `connections` × `queue_bytes` and
/// `retained_bytes` of events, and `connections` × `patterns` × 255 bytes of patterns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BrokerLimits {
    /// Connections; further ones are refused.
    pub connections: usize,
    /// Connections of one peer; further ones are refused.
    pub of_peer: usize,
    /// Patterns of one connection; further ones are refused.
    pub patterns: usize,
    /// Events that wait for one connection; then its oldest goes.
    pub queue_events: usize,
    /// Their bytes, but one event always fits.
    pub queue_bytes: usize,
    /// Topics with a retained value; then the least recently used goes.
    pub retained_topics: usize,
    /// Their bytes; a larger value is not retained.
    pub retained_bytes: usize,
}

impl Default for BrokerLimits {
    fn default() -> Self {
        BrokerLimits {
            connections: 160,
            of_peer: 16,
            patterns: 256,
            queue_events: 1024,
            queue_bytes: 512 * 1024,
            // All of them fit into an empty queue.
            retained_topics: 1024,
            retained_bytes: 512 * 1024,
        }
    }
}

/// Names a connection; never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(u64);

/// What has become of received bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// So many were one frame; there may be another behind it.
    Frame(usize),
    /// The frame at the front is not complete.
    More,
    /// Too many answers wait to be read; go on when the output has been taken.
    Blocked,
}

/// Counts since the start, but for the first two, which are as of now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct BrokerStats {
    /// Open connections.
    pub connections: usize,
    /// Topics with a retained value.
    pub retained: usize,
    /// Events published.
    pub published: u64,
    /// Events put into queues.
    pub queued: u64,
    /// Events lost because a subscriber was too slow, or went away before it had them.
    pub dropped: u64,
    /// Retained values that had to go for others.
    pub evicted: u64,
}

/// An answer that waits to be written.
#[derive(Clone, Copy, Debug)]
struct Answer {
    request: u32,
    code: u8,
    count: u32,
}

#[derive(Debug)]
struct Conn {
    peer: Address,
    /// Patterns without wildcards: found at once.
    exact: BTreeSet<Box<str>>,
    /// The others.
    wild: BTreeSet<Box<str>>,
    answers: VecDeque<Answer>,
    queue: Queue,
    /// In the list of those with output.
    listed: bool,
}

impl Conn {
    fn wants(&self, topic: Topic<'_>) -> bool {
        let topic = topic.as_str();
        self.exact.contains(topic) || self.wild.iter().any(|pattern| matches(pattern, topic))
    }

    fn patterns(&mut self, pattern: Pattern<'_>) -> &mut BTreeSet<Box<str>> {
        if pattern.is_wild() { &mut self.wild } else { &mut self.exact }
    }

    fn has_output(&self) -> bool {
        !self.answers.is_empty() || !self.queue.is_empty()
    }
}

/// What publishers and subscribers of one agent meet at. It never waits for any of them: what
/// one does not read costs it its own oldest events.
#[derive(Debug)]
pub struct Broker {
    limits: BrokerLimits,
    conns: BTreeMap<ConnId, Conn>,
    last: u64,
    retained: Retained,
    ready: VecDeque<ConnId>,
    stats: BrokerStats,
}

impl Broker {
    /// Without connections.
    pub fn new(limits: BrokerLimits) -> Self {
        Broker {
            limits,
            conns: BTreeMap::new(),
            last: 0,
            retained: Retained::default(),
            ready: VecDeque::new(),
            stats: BrokerStats::default(),
        }
    }

    /// A peer has connected; `None` if there are as many connections as there may be, of all or
    /// of this peer.
    pub fn handle_open(&mut self, peer: Address) -> Option<ConnId> {
        let of_peer = self.conns.values().filter(|conn| conn.peer.node == peer.node).count();
        if self.conns.len() >= self.limits.connections || of_peer >= self.limits.of_peer {
            return None;
        }
        self.last += 1;
        let id = ConnId(self.last);
        let conn = Conn {
            peer,
            exact: BTreeSet::new(),
            wild: BTreeSet::new(),
            answers: VecDeque::new(),
            queue: Queue::default(),
            listed: false,
        };
        self.conns.insert(id, conn);
        Some(id)
    }

    /// A connection is over; what waits for it is lost.
    pub fn handle_close(&mut self, id: ConnId) {
        if let Some(mut conn) = self.conns.remove(&id) {
            self.ready.retain(|&listed| listed != id);
            while conn.queue.pop().is_some() {
                self.stats.dropped += 1;
            }
        }
    }

    /// The peer has said its last: nothing is published to it any more, and only the answers
    /// that it asked for are still to be written.
    pub fn handle_end(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(&id) {
            while conn.queue.pop().is_some() {
                self.stats.dropped += 1;
            }
            conn.queue.clear();
            conn.exact.clear();
            conn.wild.clear();
        }
    }

    /// Takes the frame at the front of what a connection's peer has sent. After an error the
    /// connection has to be closed.
    pub fn handle_bytes(&mut self, id: ConnId, input: &[u8]) -> Result<Taken, EventsError> {
        let conn = self.conns.get_mut(&id).ok_or(EventsError::Closed)?;
        let Some((frame, used)) = Frame::decode(input)? else { return Ok(Taken::More) };
        if conn.answers.len() >= OUTSTANDING_MAX {
            return Ok(Taken::Blocked);
        }
        let answer = match frame {
            Frame::Subscribe { request, retained, pattern } => {
                let code = self.subscribe(id, pattern, retained);
                Some(Answer { request, code, count: 0 })
            }
            Frame::Unsubscribe { request, pattern } => {
                let removed = conn.patterns(pattern).remove(pattern.as_str());
                let code = if removed { 0 } else { Refusal::NotSubscribed.code() };
                Some(Answer { request, code, count: 0 })
            }
            Frame::Publish { request, acknowledge, retain, topic, data } => {
                let from = conn.peer;
                let count = self.publish(from, topic, data, retain);
                acknowledge.then_some(Answer { request, code: 0, count })
            }
            Frame::Ping { request } => Some(Answer { request, code: 0, count: 0 }),
            Frame::Done { .. } | Frame::Event { .. } | Frame::Dropped(_) => {
                return Err(EventsError::Unexpected(input[0]));
            }
        };
        if let (Some(answer), Some(conn)) = (answer, self.conns.get_mut(&id)) {
            conn.answers.push_back(answer);
            list(&mut self.ready, id, conn);
        }
        Ok(Taken::Frame(used))
    }

    fn subscribe(&mut self, id: ConnId, pattern: Pattern<'_>, retained: bool) -> u8 {
        let Some(conn) = self.conns.get_mut(&id) else { return 0 };
        let is_full = conn.exact.len() + conn.wild.len() >= self.limits.patterns;
        let patterns = conn.patterns(pattern);
        if !patterns.contains(pattern.as_str()) {
            if is_full {
                return Refusal::TooManyPatterns.code();
            }
            patterns.insert(pattern.as_str().into());
        }
        if retained {
            for event in self.retained.matching(pattern) {
                self.stats.queued += 1;
                self.stats.dropped += conn.queue.push(event, true, &self.limits);
            }
            list(&mut self.ready, id, conn);
        }
        0
    }

    /// Publishes what comes from the agent itself or from a connection, at most
    /// [`DATA_MAX`](super::DATA_MAX) bytes; the number of queues that it has gone into.
    pub fn publish(&mut self, from: Address, topic: Topic<'_>, data: &[u8], retain: bool) -> u32 {
        self.stats.published += 1;
        // Made once, and only if anybody wants it.
        let mut event = None;
        let mut event = || {
            let made = || Event { from, topic: topic.as_str().into(), data: data.into() };
            event.get_or_insert_with(|| Arc::new(made())).clone()
        };
        if retain {
            self.stats.evicted += self.retained.set(&event(), &self.limits);
        }
        let mut count = 0;
        for (&id, conn) in &mut self.conns {
            if conn.wants(topic) {
                self.stats.dropped += conn.queue.push(event(), false, &self.limits);
                list(&mut self.ready, id, conn);
                count += 1;
            }
        }
        self.stats.queued += u64::from(count);
        count
    }

    /// A connection that has got something to write since it was last named here.
    pub fn poll_ready(&mut self) -> Option<ConnId> {
        while let Some(id) = self.ready.pop_front() {
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.listed = false;
                return Some(id);
            }
        }
        None
    }

    /// Appends what is to be written to a connection, whole frames until `out` has at least
    /// `enough` bytes: at most `enough` + [`FRAME_MAX`]. Answers go first.
    pub fn poll_bytes(&mut self, id: ConnId, out: &mut Vec<u8>, enough: usize) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        while out.len() < enough && conn.has_output() {
            if let Some(Answer { request, code, count }) = conn.answers.pop_front() {
                append(out, &Frame::Done { request, code, count });
            } else if let Some(count) = conn.queue.take_dropped() {
                append(out, &Frame::Dropped(count));
            } else if let Some((event, retained)) = conn.queue.pop()
                && let Some(frame) = event.frame(retained)
            {
                append(out, &frame);
            }
        }
    }

    /// What has happened.
    pub fn stats(&self) -> BrokerStats {
        let (connections, retained) = (self.conns.len(), self.retained.len());
        BrokerStats { connections, retained, ..self.stats }
    }
}

fn list(ready: &mut VecDeque<ConnId>, id: ConnId, conn: &mut Conn) {
    if !conn.listed && conn.has_output() {
        conn.listed = true;
        ready.push_back(id);
    }
}

fn append(out: &mut Vec<u8>, frame: &Frame<'_>) {
    let start = out.len();
    let room = match frame {
        Frame::Event { topic, data, .. } => 16 + topic.as_str().len() + data.len(),
        _ => 16,
    };
    out.resize(start + room.min(FRAME_MAX), 0);
    let len = frame.encode(&mut out[start..]).unwrap_or(0);
    out.truncate(start + len);
}
