//! Streams coming, going and moving along their table; what each change asks for.

use super::entry::{ACCEPT, EVENT, OF_PEER, SEND, Stream, UNTOLD, event};
use super::state::{State, Step};
use super::transport::{NIL, Transport};
use super::{ResetCode, StreamEnd};
use crate::addr::Port;
use crate::limits::{
    BLOCKS_GUARANTEED_RECEIVE, BLOCKS_GUARANTEED_SEND, OVERHEAD, SEGMENT_LIFETIME,
    ZERO_WINDOW_PROBE_MAX,
};
use crate::path::PeerIndex;
use crate::path::mtu::FLOOR;
use crate::planted::{self, Defect};
use crate::slab::Key;
use crate::time::{Duration, Instant};
use core::hash::Hasher;
use siphasher::sip::SipHasher13;

impl Transport<'_> {
    fn bucket(&self, peer: PeerIndex, local: Port, remote: Port) -> usize {
        let mut hasher = SipHasher13::new_with_keys(self.hash_key.0, self.hash_key.1);
        hasher.write_u64(u64::from(peer.0) << 32 | u64::from(local.0) << 16 | u64::from(remote.0));
        let spread = hasher.finish() >> 32;
        ((spread * self.buckets.len() as u64) >> 32) as usize
    }

    /// The stream between these ports, unless it is over.
    pub(crate) fn find(&self, peer: PeerIndex, local: Port, remote: Port) -> Option<Key> {
        let mut slot = self.buckets[self.bucket(peer, local, remote)];
        while slot != NIL {
            let key = self.streams.key_at(slot as usize)?;
            let stream = &self.streams[key];
            if stream.peer == peer && stream.local == local && stream.remote == remote {
                return Some(key);
            }
            slot = stream.hash_next;
        }
        None
    }

    /// Adds a stream with its guaranteed blocks; `Err(true)`: the table is full, `Err(false)`:
    /// the pool is.
    pub(crate) fn insert_stream(&mut self, mut stream: Stream) -> Result<Key, bool> {
        if self.streams.is_full() {
            return Err(true);
        }
        let receive = stream.rcv.ring.reserve(&mut self.pool, BLOCKS_GUARANTEED_RECEIVE as u32);
        let send = stream.snd.ring.reserve(&mut self.pool, BLOCKS_GUARANTEED_SEND as u32);
        if !receive || !send {
            stream.rcv.ring.close(&mut self.pool);
            stream.snd.ring.close(&mut self.pool);
            return Err(false);
        }
        let peer = stream.peer;
        let bucket = self.bucket(peer, stream.local, stream.remote);
        stream.hash_next = self.buckets[bucket];
        let Ok(key) = self.streams.insert(stream) else { return Err(true) };
        self.buckets[bucket] = key.index() as u32;
        if let Some(record) = self.peers.get_mut(peer) {
            record.streams.push_back(&mut self.streams, OF_PEER, key.index() as u32);
        }
        Ok(key)
    }

    fn unhash(&mut self, key: Key) {
        let stream = &self.streams[key];
        let (next, wanted) = (stream.hash_next, key.index() as u32);
        let bucket = self.bucket(stream.peer, stream.local, stream.remote);
        if self.buckets[bucket] == wanted {
            self.buckets[bucket] = next;
            return;
        }
        let mut slot = self.buckets[bucket];
        while slot != NIL {
            let Some(at) = self.streams.key_at(slot as usize) else { return };
            if self.streams[at].hash_next == wanted {
                self.streams[at].hash_next = next;
                return;
            }
            slot = self.streams[at].hash_next;
        }
    }

    /// Calls `f` with each stream of a peer; `f` may end it.
    pub(crate) fn for_each_stream(&mut self, peer: PeerIndex, mut f: impl FnMut(&mut Self, Key)) {
        let mut at = self.peers.get(peer).and_then(|record| record.streams.front());
        while let Some(slot) = at {
            let Some(record) = self.peers.get(peer) else { return };
            at = record.streams.next(&self.streams, OF_PEER, slot);
            if let Some(key) = self.streams.key_at(slot as usize) {
                f(self, key);
            }
        }
    }

    /// Ends all streams with a peer, which has said goodbye.
    pub fn end_streams(&mut self, now: Instant, peer: PeerIndex, end: StreamEnd) {
        let now = self.see(now);
        self.end_streams_if(now, peer, end, |_| true);
    }

    /// Resets the streams that a peer has opened to ports which it may not reach any more; what
    /// we have opened to it goes on.
    pub fn reset_forbidden(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        permits: impl Fn(Port) -> bool,
    ) {
        let now = self.see(now);
        self.for_each_stream(peer, |this, key| {
            let stream = &this.streams[key];
            if !stream.initiator && !permits(stream.local) {
                this.abort(now, key, ResetCode::NotPermitted);
            }
        });
    }

    pub(crate) fn end_streams_if(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        end: StreamEnd,
        which: impl Fn(&Stream) -> bool,
    ) {
        self.for_each_stream(peer, |this, key| {
            if which(&this.streams[key]) {
                this.end_stream(now, key, end);
            }
        });
    }

    /// Moves a stream along its table and does what the new state asks for.
    pub(crate) fn step(&mut self, now: Instant, key: Key, step: Step) {
        let stream = &mut self.streams[key];
        let before = stream.state;
        stream.state = before.after(step);
        if stream.state == before {
            return self.update_stream(now, key);
        }
        match stream.state {
            State::TimeWait => {
                stream.linger_at = Some(now + SEGMENT_LIFETIME * 2);
                stream.end = Some(StreamEnd::Finished);
                if stream.released {
                    stream.rcv.discard(&mut self.pool);
                    stream.rcv.ring.close(&mut self.pool);
                }
                stream.snd.ring.close(&mut self.pool);
                self.stream_event(key, event::CLOSED);
                self.update_stream(now, key);
            }
            State::FinWait2 if stream.released => {
                stream.linger_at = Some(now + crate::limits::ORPHAN_LINGER);
                self.update_stream(now, key);
            }
            State::Closed => {
                let end = stream.end.unwrap_or(StreamEnd::Finished);
                self.end_stream(now, key, end);
            }
            _ => self.update_stream(now, key),
        }
    }

    /// The stream is over: nothing is sent or received any more. The application can still
    /// read what has arrived, until it releases the stream.
    pub(crate) fn end_stream(&mut self, now: Instant, key: Key, end: StreamEnd) {
        let slot = key.index() as u32;
        let told = self.streams[key].end.is_some();
        self.unhash(key);
        self.leave_backlog(key);
        let stream = &mut self.streams[key];
        let (peer, local, initiator) = (stream.peer, stream.local, stream.initiator);
        stream.state = stream.state.after(Step::Ended);
        stream.end.get_or_insert(end);
        (stream.persist_at, stream.reopen_at, stream.linger_at) = (None, None, None);
        stream.snd.abandon(&mut self.pool);
        if stream.released {
            stream.rcv.discard(&mut self.pool);
            stream.rcv.ring.close(&mut self.pool);
        }
        self.stream_timers.set(key.index(), None);
        if let Some(record) = self.peers.get_mut(peer) {
            if self.streams[key].links[OF_PEER].is_linked() {
                record.opened -= u32::from(!initiator);
                record.streams.remove(&mut self.streams, OF_PEER, slot);
            }
            record.send.remove(&mut self.streams, SEND, slot);
            record.untold.remove(&mut self.streams, UNTOLD, slot);
            record.last = None;
        }
        // Not accepted yet: nobody knows of it.
        if self.streams[key].links[ACCEPT].is_linked() {
            if let Some(open) = self.ports.get_mut(local) {
                open.queue.remove(&mut self.streams, ACCEPT, slot);
            }
            self.streams[key].released = true;
            self.streams[key].rcv.ring.close(&mut self.pool);
        }
        if self.streams[key].released {
            self.stream_events.remove(&mut self.streams, EVENT, slot);
            if !planted::has(Defect::SlotKept) {
                self.streams.remove(key);
            }
        } else if !told {
            self.stream_event(key, event::CLOSED);
        }
        self.see(now);
        self.touch(peer);
    }

    pub(crate) fn leave_backlog(&mut self, key: Key) {
        let stream = &mut self.streams[key];
        if core::mem::take(&mut stream.in_backlog) {
            self.ports.leave(stream.local);
            if let Some(record) = self.peers.get_mut(stream.peer) {
                record.waiting -= 1;
            }
        }
    }

    /// After any change: whether the stream has something to send, and its timers.
    pub(crate) fn update_stream(&mut self, now: Instant, key: Key) {
        let stream = &mut self.streams[key];
        let peer = stream.peer;
        let path = self.peers.active_path(peer);
        let most = path.map_or(usize::from(FLOOR) - OVERHEAD, |path| path.segment());
        let Some(record) = self.peers.get(peer) else { return };
        let open = stream.state.is_synchronized();
        let sends = !stream.early && (stream.state != State::Closed || stream.resetting.is_some());
        if open && record.session && stream.snd.is_blocked_by_window() {
            if stream.persist_at.is_none() && !stream.snd.probe_due {
                let wait = self.peers.rto(peer).saturating_mul(1 << stream.snd.probes.min(8));
                stream.persist_at = Some(now + wait.min(ZERO_WINDOW_PROBE_MAX));
            }
        } else {
            stream.persist_at = None;
        }
        let has_output = sends && stream.snd.next(open, most).is_some();
        self.stream_timers.set(key.index(), stream.next_timeout());
        let slot = key.index() as u32;
        let Some(record) = self.peers.get_mut(peer) else { return };
        if has_output {
            record.send.push_back(&mut self.streams, SEND, slot);
            self.touch(peer);
        } else {
            record.send.remove(&mut self.streams, SEND, slot);
        }
    }

    /// The stream's acknowledgement number and window go into the next FD; with `at_once` that
    /// is due now.
    pub(crate) fn tell(&mut self, now: Instant, key: Key, at_once: bool) {
        let stream = &mut self.streams[key];
        let peer = stream.peer;
        let Some(record) = self.peers.get_mut(peer) else { return };
        if at_once && !record.has_arrivals() {
            // No session to acknowledge: a header carries it.
            stream.snd.ack_due = true;
            return self.update_stream(now, key);
        }
        record.untold.push_back(&mut self.streams, UNTOLD, key.index() as u32);
        if at_once {
            if let Some(space) = self.peers.ack_space(peer) {
                space.expedite(now);
            }
            self.touch(peer);
        }
    }

    /// Tells a reopened window at 0, 1 and 3 round trips until data arrives (`wire.md` 11).
    pub(crate) fn repeat_window(&mut self, now: Instant, key: Key) {
        let stream = &mut self.streams[key];
        let rtt = self.peers.rtt(stream.peer).unwrap_or(Duration::from_millis(100));
        stream.reopen_at = match stream.reopened {
            0 => Some(now + rtt),
            1 => Some(now + rtt * 2),
            _ => None,
        };
        stream.reopened += 1;
        self.stream_timers.set(key.index(), stream.next_timeout());
        self.tell(now, key, true);
    }
}
