//! The machine itself: its tables, its peers and their paths, streams coming and going, time.

use super::StreamEnd;
use super::ack::AckSpace;
use super::buffer::Pool;
use super::entry::Stream;
use super::frame::{Content, FrameList, FrameSlot, FrameTable};
use super::list::List;
#[cfg(feature = "alloc")]
use super::peer::SPACES;
use super::peer::{PEER_EVENT, Peer, PeerSlot, PeerTable, READY, STARVED};
use super::recovery::PathState;
use super::send::Control;
use super::state::{State, Step};
use crate::addr::Address;
#[cfg(feature = "alloc")]
use crate::limits::BLOCK;
use crate::limits::Limits;
use crate::machine::{Reason, Timeout};
use crate::path::mtu::SizeRange;
use crate::path::{PATHS, PathId, PeerIndex};
use crate::port::{OpenPort, PortTable};
use crate::rng::Rng;
use crate::slab::{Key, Slab, Store};
use crate::stats::Drops;
use crate::time::Instant;
use crate::timer::Deadlines;

pub(crate) const NIL: u32 = u32::MAX;

/// All memory of a [`Transport`].
#[derive(Debug)]
pub struct TransportStorage<'s> {
    /// The block pool: a multiple of [`crate::limits::BLOCK`] bytes.
    pub pool: Store<'s, u8>,
    /// One word for each block.
    pub pool_links: Store<'s, u32>,
    /// One word for each peer.
    pub pool_accounts: Store<'s, u32>,
    /// Frames in flight.
    pub frames: Store<'s, FrameSlot>,
    /// Streams.
    pub streams: Slab<'s, Stream>,
    /// Hash buckets; as many as streams is a good number.
    pub buckets: Store<'s, u32>,
    /// A deadline for each stream.
    pub stream_timers: Deadlines<'s>,
    /// Peers.
    pub peers: Store<'s, PeerSlot>,
    /// States of paths: a place for each peer, so that its first path always has one, and as
    /// many more as there may be further paths ([`PATHS`] of a peer at most).
    pub paths: Slab<'s, PathState>,
    /// What has arrived under a session's index: a place for each peer, and as many more as
    /// there may be further sessions that receive (three of a peer at most).
    pub spaces: Slab<'s, AckSpace>,
    /// A deadline for each peer.
    pub peer_timers: Deadlines<'s>,
    /// Open ports.
    pub ports: Store<'s, OpenPort>,
}

impl TransportStorage<'_> {
    /// Allocated once, for these limits. What is not used is not touched.
    #[cfg(feature = "alloc")]
    pub fn boxed(limits: &Limits) -> TransportStorage<'static> {
        TransportStorage {
            pool: Store::boxed_zeroed(limits.buffer_bytes),
            pool_links: Store::<u32>::boxed_with(limits.buffer_bytes / BLOCK, || 0),
            pool_accounts: Store::<u32>::growing(limits.peers),
            frames: Store::<FrameSlot>::growing(limits.frames),
            streams: Slab::<Stream>::boxed(limits.streams),
            buckets: Store::<u32>::boxed_with(limits.streams.max(1), || NIL),
            stream_timers: Deadlines::boxed(limits.streams),
            peers: Store::<PeerSlot>::growing(limits.peers),
            // Pools that no peer can exhaust for others; only what is used is touched.
            paths: Slab::<PathState>::boxed(PATHS * limits.peers),
            spaces: Slab::<AckSpace>::boxed(SPACES * limits.peers),
            peer_timers: Deadlines::boxed(limits.peers),
            ports: Store::<OpenPort>::boxed_with(limits.listeners, OpenPort::empty),
        }
    }
}

/// A frame that was written and not yet reported as sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unsent {
    pub(crate) peer: PeerIndex,
    /// What to send again should it not leave; an FD: nothing.
    pub(crate) content: Option<Content>,
    pub(crate) serial: u32,
}

/// Streams, datagrams and frame acknowledgement for all peers of a node.
pub struct Transport<'s> {
    pub(crate) pool: Pool<'s>,
    pub(crate) frames: FrameTable<'s>,
    pub(crate) streams: Slab<'s, Stream>,
    pub(crate) buckets: Store<'s, u32>,
    pub(crate) peers: PeerTable<'s>,
    pub(crate) ports: PortTable<'s>,
    pub(crate) stream_timers: Deadlines<'s>,
    pub(crate) peer_timers: Deadlines<'s>,
    pub(crate) ready: List,
    pub(crate) starved: List,
    pub(crate) peer_events: List,
    pub(crate) stream_events: List,
    pub(crate) unsent: Option<Unsent>,
    /// Whose frames left last, and by which path.
    pub(crate) last_sent: Option<(PeerIndex, PathId)>,
    pub(crate) serial: u32,
    pub(crate) rng: Rng,
    pub(crate) hash_key: (u64, u64),
    pub(crate) now: Instant,
    pub(crate) drops: Drops,
}

impl core::fmt::Debug for Transport<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Transport({} streams, {} frames)", self.streams.len(), self.frames.len())
    }
}

impl<'s> Transport<'s> {
    /// A transport without peers.
    pub fn new(limits: &Limits, mut rng: Rng, mut storage: TransportStorage<'s>) -> Self {
        storage.buckets.fill(NIL);
        assert!(!storage.buckets.is_empty(), "at least one hash bucket");
        Transport {
            pool: Pool::new(storage.pool, storage.pool_links, storage.pool_accounts),
            frames: FrameTable::new(storage.frames),
            streams: storage.streams,
            buckets: storage.buckets,
            peers: PeerTable::new(storage.peers, storage.paths, storage.spaces),
            ports: PortTable::new(storage.ports, limits.backlog),
            stream_timers: storage.stream_timers,
            peer_timers: storage.peer_timers,
            ready: List::EMPTY,
            starved: List::EMPTY,
            peer_events: List::EMPTY,
            stream_events: List::EMPTY,
            unsent: None,
            last_sent: None,
            serial: 0,
            hash_key: (rng.u64(), rng.u64()),
            rng,
            now: Instant::START,
            drops: Drops::new(),
        }
    }

    pub(crate) fn see(&mut self, now: Instant) -> Instant {
        self.now = self.now.max(now);
        self.now
    }

    // ---- peers and paths ----

    /// Mixes entropy into the generator.
    pub fn reseed(&mut self, entropy: &[u8; 32]) {
        self.rng.mix(entropy);
    }

    /// Adds a peer: our address and its, on the backbone. `false` if the number is in use or
    /// not below `Limits::peers`.
    pub fn add_peer(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        local: Address,
        remote: Address,
    ) -> bool {
        self.see(now);
        self.peers.insert(peer, Peer::new(local, remote))
    }

    /// Forgets a peer; its streams end with `end`.
    pub fn remove_peer(&mut self, now: Instant, peer: PeerIndex, end: StreamEnd) {
        let now = self.see(now);
        self.end_streams_if(now, peer, end, |_| true);
        for at in 0..PATHS {
            if let Some(mut path) = self.peers.remove_path(peer, PathId(at as u8)) {
                while path.frames.pop(&mut self.frames).is_some() {}
            }
        }
        let Some(record) = self.peers.get_mut(peer) else { return };
        record.datagrams.clear(&mut self.pool);
        self.ready.remove(&mut self.peers, READY, peer.0);
        self.starved.remove(&mut self.peers, STARVED, peer.0);
        self.peer_events.remove(&mut self.peers, PEER_EVENT, peer.0);
        self.peer_timers.set(peer.index(), None);
        self.peers.remove(peer);
        self.unsent = self.unsent.filter(|unsent| unsent.peer != peer);
        self.feed_starved();
    }

    /// The peer has a new boot id: its streams are gone. Ours end, except one whose SYN is
    /// unanswered: that is sent again (`wire.md` 11).
    pub fn peer_restarted(&mut self, now: Instant, peer: PeerIndex) {
        let now = self.see(now);
        // What the new process has asked for in its INIT's early data stays, too.
        let lost = |s: &Stream| s.state != State::SynSent && !s.early;
        self.end_streams_if(now, peer, StreamEnd::PeerRestarted, lost);
        self.for_each_stream(peer, |this, key| {
            if !this.streams[key].early {
                this.streams[key].snd.restart_syn();
                this.update_stream(now, key);
            }
        });
    }

    /// The handshake gave up: streams with unsent or unacknowledged data end, as do queued
    /// datagrams (`wire.md` 4.9).
    pub fn peer_unreachable(&mut self, now: Instant, peer: PeerIndex) {
        let now = self.see(now);
        self.end_streams_if(now, peer, StreamEnd::Unreachable, Stream::is_unanswered);
        if let Some(record) = self.peers.get_mut(peer) {
            record.datagrams.clear(&mut self.pool);
        }
    }

    /// There is a session to send in; timers run.
    pub fn session_up(&mut self, now: Instant, peer: PeerIndex) {
        let now = self.see(now);
        let Some(record) = self.peers.get_mut(peer) else { return };
        if !core::mem::replace(&mut record.session, true) {
            for path in record.path_ids() {
                if let Some(path) = self.peers.path_mut(peer, path) {
                    path.restart_timers(now);
                }
            }
            self.for_each_stream(peer, |this, key| this.update_stream(now, key));
        }
        self.touch(peer);
    }

    /// There is another session: a SYN without its answer is sent again. The peer may have taken
    /// it, given its half of the stream up since, and forgotten it.
    pub fn session_renewed(&mut self, now: Instant, peer: PeerIndex) {
        let now = self.see(now);
        self.for_each_stream(peer, |this, key| {
            let stream = &mut this.streams[key];
            if stream.state == State::SynSent && stream.snd.syn == Control::Sent {
                stream.snd.syn = Control::Due;
                this.update_stream(now, key);
            }
        });
    }

    /// There is no session any more; timers stand still. What was written and not sealed any
    /// more waits for the next one.
    pub fn session_down(&mut self, now: Instant, peer: PeerIndex) {
        let now = self.see(now);
        self.abandon_unsent(now);
        if let Some(record) = self.peers.get_mut(peer) {
            record.session = false;
            self.touch(peer);
        }
    }

    /// A session's index is no more, theirs or ours: what is unacknowledged under it is sent
    /// again without a congestion signal, what arrived under it is not acknowledged any more.
    pub fn session_gone(&mut self, now: Instant, peer: PeerIndex, index: u32) {
        let now = self.see(now);
        self.peers.retain_spaces(peer, |space| space.index != index);
        for at in 0..PATHS {
            let Some(path) = self.peers.path_mut(peer, PathId(at as u8)) else {
                continue;
            };
            let mut taken = path.take_session(&mut self.frames, index);
            self.peers.follow_search(peer, PathId(at as u8));
            self.requeue_list(now, peer, &mut taken);
        }
        self.feed_starved();
        self.touch(peer);
    }

    /// Adds a path whose datagrams carry at least the base of `sizes`, our 62 bytes included, and
    /// are searched up to the largest ([`crate::path::mtu`]). The first path becomes the active
    /// one. Of a path that is known nothing changes.
    ///
    /// `false`, and nothing changes, if there is no such peer or no place: a peer's first path
    /// always has one, further ones share the rest of [`TransportStorage::paths`].
    #[must_use = "without a place, nothing can be sent on this path"]
    pub fn add_path(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        path: PathId,
        sizes: SizeRange,
    ) -> bool {
        let now = self.see(now);
        if self.peers.path(peer, path).is_none()
            && !self.peers.add_path(peer, path, PathState::new(now, sizes))
        {
            return false;
        }
        if let Some(record) = self.peers.get_mut(peer) {
            record.active.get_or_insert(path);
        }
        self.touch(peer);
        true
    }

    /// Forgets a path; what is in flight on it is sent again without a congestion signal.
    pub fn remove_path(&mut self, now: Instant, peer: PeerIndex, path: PathId) {
        let now = self.see(now);
        let Some(mut state) = self.peers.remove_path(peer, path) else { return };
        let Some(record) = self.peers.get_mut(peer) else { return };
        if record.active == Some(path) {
            record.active = record.path_ids().next();
        }
        record.suspects &= !(1 << path.0);
        record.alives &= !(1 << path.0);
        record.wides &= !(1 << path.0);
        self.requeue_list(now, peer, &mut state.frames);
        self.feed_starved();
        self.touch(peer);
    }

    /// A challenge or handshake was answered on `path`: a suspicion is over, and the next
    /// unanswered frame raises it again.
    pub fn path_proven(&mut self, now: Instant, peer: PeerIndex, path: PathId) {
        let now = self.see(now);
        if let Some(state) = self.peers.path_mut(peer, path) {
            state.on_proven(now);
            self.touch(peer);
        }
    }

    /// New frames go over this path. What is in flight on others stays theirs: nothing is
    /// marked lost.
    pub fn set_active_path(&mut self, now: Instant, peer: PeerIndex, path: PathId) {
        self.see(now);
        if self.peers.path(peer, path).is_some()
            && let Some(record) = self.peers.get_mut(peer)
        {
            record.active = Some(path);
            self.touch(peer);
        }
    }

    /// What is in flight on `path` is queued again for the active path, without a congestion
    /// signal; its late acknowledgement still counts.
    pub fn mark_suspect(&mut self, now: Instant, peer: PeerIndex, path: PathId) {
        let now = self.see(now);
        let Some(state) = self.peers.path_mut(peer, path) else { return };
        let frames = state.suspend_all();
        let mut at = frames.front();
        while let Some(current) = at {
            at = frames.next(&self.frames, current);
            let record = self.frames.get_mut(current);
            let content = record.content;
            if !core::mem::replace(&mut record.requeued, true) {
                self.requeue(now, peer, content);
            }
        }
        // The others, too: the path that they go by now may carry less or more.
        self.for_each_stream(peer, |this, key| this.update_stream(now, key));
        self.touch(peer);
    }

    // ---- readiness and time ----

    /// The peer may have something to send or another timer: [`Transport::poll_ready`] sees.
    pub(crate) fn touch(&mut self, peer: PeerIndex) {
        if self.peers.get(peer).is_some() {
            self.ready.push_back(&mut self.peers, READY, peer.0);
        }
    }

    /// A peer that has a frame to send now; in turn. `None` when all have been asked.
    pub fn poll_ready(&mut self, now: Instant) -> Option<PeerIndex> {
        let now = self.see(now);
        self.abandon_unsent(now);
        while let Some(slot) = self.ready.front() {
            let peer = PeerIndex(slot);
            if self.settle(now, peer) {
                self.ready.rotate(&mut self.peers, READY);
                return Some(peer);
            }
        }
        None
    }

    /// Works out whether the peer can send now; if not, takes it out of the ready list and
    /// sets its timer.
    pub(crate) fn settle(&mut self, now: Instant, peer: PeerIndex) -> bool {
        if self.peers.get(peer).is_some_and(|record| record.search_at <= now) {
            self.peers.renew_search(peer);
        }
        let Some(record) = self.peers.get(peer) else { return false };
        let full = self.frames.is_full_for(|| self.peers.frames_in_flight(peer));
        let mut at = Instant::NEVER;
        if record.session && record.active.is_some() {
            let mut earliest = |other: Option<Instant>| {
                at = other.map_or(at, |other| at.min(other));
            };
            let due = self.peers.ack_due(peer);
            if due.is_some_and(|due| due <= now) {
                return true;
            }
            earliest(due);
            let waiting = !record.send.is_empty() || !record.datagrams.is_empty();
            let search = self.peers.search_at(peer);
            let urgent = !record.resets.is_empty()
                || search.is_some_and(|at| at <= now)
                || self.peers.probe_path(peer).is_some();
            earliest(search.filter(|at| *at > now));
            if full && (waiting || urgent) {
                self.starved.push_back(&mut self.peers, STARVED, peer.0);
            } else if urgent {
                return true;
            }
            if let Some(path) = self.peers.active_path_mut(peer) {
                if !waiting {
                    path.set_app_limited();
                } else if !full {
                    match path.may_start(now) {
                        Ok(()) => return true,
                        Err(paced) => earliest(paced),
                    }
                }
            }
            for path in self.peers.paths(peer) {
                earliest(path.next_timeout());
            }
        }
        self.ready.remove(&mut self.peers, READY, peer.0);
        self.peer_timers.set(peer.index(), Some(at));
        false
    }

    /// The peer gave no frame although it was ready: it waits for its timers and for input.
    pub(crate) fn unready(&mut self, peer: PeerIndex) {
        let timers = self.peers.paths(peer).filter_map(PathState::next_timeout);
        let later = self.peers.ack_due(peer).filter(|due| *due > self.now);
        let search = self.peers.search_at(peer).filter(|at| *at > self.now);
        let timers = timers.chain(later).chain(search).min();
        self.ready.remove(&mut self.peers, READY, peer.0);
        self.peer_timers.set(peer.index(), timers);
    }

    /// The next moment at which something may happen without input.
    pub fn poll_timeout(&self) -> Option<Timeout> {
        if !self.ready.is_empty() {
            return Some(Timeout { at: self.now, reason: Reason::Output });
        }
        let first = |timers: &Deadlines<'_>| timers.first().map_or(Instant::NEVER, |(at, _)| at);
        let (peer, stream) = (first(&self.peer_timers), first(&self.stream_timers));
        let reason = if peer <= stream { Reason::Recovery } else { Reason::Stream };
        let at = peer.min(stream);
        (at != Instant::NEVER).then_some(Timeout { at, reason })
    }

    /// Lets time pass. Early or twice does nothing; late is safe.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.see(now);
        while let Some(slot) = self.stream_timers.pop_due(now) {
            if let Some(key) = self.streams.key_at(slot) {
                self.handle_stream_timeout(now, key);
            }
        }
        while let Some(slot) = self.peer_timers.pop_due(now) {
            let peer = PeerIndex(slot as u32);
            for at in 0..PATHS {
                self.handle_path_timeout(now, peer, at);
            }
            self.touch(peer);
        }
        self.feed_starved();
    }

    /// All that is due on one path: whoever is late may find probe and retransmission timeout
    /// due at once, and nothing may be left behind (contract rules 3 and 4).
    fn handle_path_timeout(&mut self, now: Instant, peer: PeerIndex, at: usize) {
        // Reordering, the probe, the retransmission timeout; each moves its own deadline.
        for _ in 0..3 {
            let Some(path) = self.peers.path_mut(peer, PathId(at as u8)) else { return };
            if path.next_timeout().is_none_or(|due| due > now) {
                return;
            }
            let mut fired = path.handle_timeout(now, &mut self.frames);
            let widens = path.mtu.take_news();
            self.peers.follow_search(peer, PathId(at as u8));
            if fired.suspect {
                self.peer_event(peer, |record| record.suspects |= 1 << at);
            }
            if widens {
                self.peer_event(peer, |record| record.wides |= 1 << at);
            }
            self.requeue_list(now, peer, &mut fired.lost);
        }
    }

    fn handle_stream_timeout(&mut self, now: Instant, key: Key) {
        let stream = &mut self.streams[key];
        let due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        if due(&mut stream.persist_at) {
            stream.snd.probe_due = true;
        }
        let reopened = due(&mut stream.reopen_at);
        let lingered = due(&mut stream.linger_at);
        if reopened {
            self.repeat_window(now, key);
        }
        if lingered && self.streams[key].state == State::FinWait2 {
            // The application has left and the peer does not finish.
            return self.abort(now, key, super::ResetCode::Aborted);
        }
        if lingered && self.streams[key].state == State::SynReceived {
            // The SYN-ACK in the RESP was not acknowledged.
            self.streams[key].snd.restart_syn();
        } else if lingered {
            return self.step(now, key, Step::Expired);
        }
        self.update_stream(now, key);
    }

    /// Peers that waited for a place in the table of frames.
    pub(crate) fn feed_starved(&mut self) {
        let mut at = self.starved.front();
        while let Some(slot) = at
            && !self.frames.is_full()
        {
            at = self.starved.next(&self.peers, STARVED, slot);
            let peer = PeerIndex(slot);
            let held = self.peers.frames_in_flight(peer);
            if !self.frames.is_full_for(|| held) {
                self.starved.remove(&mut self.peers, STARVED, slot);
                self.touch(peer);
            }
        }
    }

    // ---- what was lost ----

    /// Queues again what these frames carried, and forgets the frames.
    pub(crate) fn requeue_list(&mut self, now: Instant, peer: PeerIndex, list: &mut FrameList) {
        while let Some(record) = list.pop(&mut self.frames) {
            if !record.requeued {
                self.requeue(now, peer, record.content);
            }
        }
    }

    pub(crate) fn requeue(&mut self, now: Instant, peer: PeerIndex, content: Content) {
        match content {
            Content::Stream { key, offset, len, marks } => {
                if let Some(stream) = self.streams.get_mut(key) {
                    stream.snd.on_lost(offset, len, marks);
                    if marks.has(super::frame::Marks::RST) && stream.snd.reset_due.is_none() {
                        stream.snd.reset_due = stream.resetting;
                    }
                    self.update_stream(now, key);
                }
            }
            Content::Reset(notice) => {
                if let Some(record) = self.peers.get_mut(peer) {
                    // Eight are enough: the peer asks again if this one is lost too.
                    let _ = record.resets.push_back(notice);
                }
            }
            Content::Control(tag) => {
                self.peer_event(peer, |record| record.control_lost |= 1 << tag);
            }
            Content::Datagram | Content::Padding | Content::PathProbe => {}
        }
        self.touch(peer);
    }
}
