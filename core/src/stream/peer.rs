//! The record of one peer: paths, what has arrived from it, its streams and queues.

use super::ack::{AckSpace, ENTRY, FD_MIN};
use super::datagram::DatagramQueue;
use super::frame::ResetNotice;
use super::list::{Link, Linked, List};
use super::recovery::{PathState, TailProbe};
use crate::addr::{Address, Port};
use crate::path::mtu::Need;
use crate::path::{PATHS, PathId, PeerIndex};
use crate::slab::{Key, Slab, Store};
use crate::time::{Duration, Instant};

/// Lists through peers.
pub(crate) const READY: usize = 0;
pub(crate) const PEER_EVENT: usize = 1;
/// Waiting for a place in the table of frames.
pub(crate) const STARVED: usize = 2;

/// Sessions whose arrivals are remembered: current and two previous ones.
pub(crate) const SPACES: usize = 3;
/// Resets for unknown streams that wait; a frame that would need one more is not acknowledged.
pub(crate) const RESETS: usize = 8;

#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) local: Address,
    pub(crate) remote: Address,
    /// There is a session to send in.
    pub(crate) session: bool,
    /// Places in the pool of path states.
    paths: [Option<Key>; PATHS],
    pub(crate) active: Option<PathId>,
    /// Places in the pool of acknowledgements: of the sessions under which frames arrived.
    spaces: heapless::Vec<Key, SPACES>,
    pub(crate) streams: List,
    /// Of these, opened by the peer.
    pub(crate) opened: u32,
    /// Of these, not accepted yet.
    pub(crate) waiting: u32,
    pub(crate) send: List,
    pub(crate) untold: List,
    pub(crate) resets: heapless::Deque<ResetNotice, RESETS>,
    pub(crate) datagrams: DatagramQueue,
    /// Streams went first in the last train, so datagrams do in the next.
    pub(crate) datagrams_first: bool,
    /// Stream with which the last train began.
    pub(crate) served: Option<u32>,
    /// Stream of the last segment received, so that a train looks it up once.
    pub(crate) last: Option<(Port, Port, Key)>,
    pub(crate) suspects: u8,
    pub(crate) alives: u8,
    /// No path probe may go earlier on any path, whatever it is there for.
    pub(crate) search_at: Instant,
    /// Paths that became wide.
    pub(crate) wides: u8,
    pub(crate) control_acknowledged: u32,
    pub(crate) control_lost: u32,
    links: [Link; 3],
}

impl Peer {
    pub(crate) fn new(local: Address, remote: Address) -> Self {
        Peer {
            local,
            remote,
            session: false,
            paths: [const { None }; PATHS],
            active: None,
            spaces: heapless::Vec::new(),
            streams: List::EMPTY,
            opened: 0,
            waiting: 0,
            send: List::EMPTY,
            untold: List::EMPTY,
            resets: heapless::Deque::new(),
            datagrams: DatagramQueue::new(),
            datagrams_first: false,
            served: None,
            last: None,
            suspects: 0,
            alives: 0,
            search_at: Instant::NEVER,
            wides: 0,
            control_acknowledged: 0,
            control_lost: 0,
            links: [Link::NONE; 3],
        }
    }

    /// Its paths, those that exist.
    pub(crate) fn path_ids(&self) -> impl Iterator<Item = PathId> + use<> {
        let keys = self.paths;
        (0..PATHS).filter(move |&at| keys[at].is_some()).map(|at| PathId(at as u8))
    }

    /// Whether anything has arrived that an acknowledgement could name.
    pub(crate) fn has_arrivals(&self) -> bool {
        !self.spaces.is_empty()
    }

    /// What a path is there for.
    pub(crate) fn need(&self, path: PathId) -> Need {
        if self.streams.is_empty() && self.datagrams.is_empty() {
            Need::None
        } else if self.active == Some(path) {
            Need::Data
        } else {
            Need::Standby
        }
    }

    pub(crate) fn has_events(&self) -> bool {
        self.suspects != 0
            || self.alives != 0
            || self.wides != 0
            || self.control_acknowledged != 0
            || self.control_lost != 0
    }
}

/// Room for one peer. Opaque: a table of these is part of [`super::TransportStorage`].
#[derive(Debug)]
pub struct PeerSlot(Option<Peer>);

impl PeerSlot {
    /// An unused place.
    pub const fn empty() -> Self {
        PeerSlot(None)
    }
}

/// Entries of all peers: the first of each peer always has a place, further ones share what
/// there is beyond one place for each peer.
struct Shared<'s, T> {
    entries: Slab<'s, T>,
    /// How many further ones there can be, and are.
    room: usize,
    further: usize,
}

impl<'s, T> Shared<'s, T> {
    fn new(entries: Slab<'s, T>, peers: usize) -> Self {
        assert!(entries.capacity() >= peers, "a place for each peer");
        Shared { room: entries.capacity() - peers, entries, further: 0 }
    }

    /// Adds an entry of a peer, which has others if `further`; `None` if there is no place.
    fn insert(&mut self, further: bool, value: T) -> Option<Key> {
        if further && self.further == self.room {
            return None;
        }
        self.further += usize::from(further);
        let key = self.entries.insert(value).ok();
        assert!(key.is_some(), "first ones and further ones have their own room");
        key
    }

    /// Removes an entry of a peer that keeps others if `further`.
    fn remove(&mut self, further: bool, key: Key) -> Option<T> {
        self.further -= usize::from(further);
        self.entries.remove(key)
    }
}

/// All peers, by the node's numbers, and what they share: most have one path and one session,
/// few have as many as there may be. A further path without a place is not taken; a further
/// session takes the place of the peer's own that was silent longest.
pub(crate) struct PeerTable<'s> {
    slots: Store<'s, PeerSlot>,
    paths: Shared<'s, PathState>,
    spaces: Shared<'s, AckSpace>,
}

impl<'s> PeerTable<'s> {
    pub(crate) fn new(
        mut slots: Store<'s, PeerSlot>,
        paths: Slab<'s, PathState>,
        spaces: Slab<'s, AckSpace>,
    ) -> Self {
        for slot in slots.iter_mut() {
            slot.0 = None;
        }
        let peers = slots.capacity();
        PeerTable { slots, paths: Shared::new(paths, peers), spaces: Shared::new(spaces, peers) }
    }

    pub(crate) fn insert(&mut self, peer: PeerIndex, value: Peer) -> bool {
        let free =
            self.slots.reach(peer.index(), PeerSlot::empty) && self.slots[peer.index()].0.is_none();
        if free {
            self.slots[peer.index()].0 = Some(value);
        }
        free
    }

    pub(crate) fn remove(&mut self, peer: PeerIndex) {
        for path in 0..PATHS {
            self.remove_path(peer, PathId(path as u8));
        }
        self.retain_spaces(peer, |_| false);
        if let Some(slot) = self.slots.get_mut(peer.index()) {
            slot.0 = None;
        }
    }

    pub(crate) fn get(&self, peer: PeerIndex) -> Option<&Peer> {
        self.slots.get(peer.index())?.0.as_ref()
    }

    pub(crate) fn get_mut(&mut self, peer: PeerIndex) -> Option<&mut Peer> {
        self.slots.get_mut(peer.index())?.0.as_mut()
    }

    // ---- paths ----

    fn key_of(&self, peer: PeerIndex, path: PathId) -> Option<Key> {
        *self.get(peer)?.paths.get(usize::from(path.0))?
    }

    /// Gives the peer a path that it does not have yet; `false` if there is no place for it.
    pub(crate) fn add_path(&mut self, peer: PeerIndex, path: PathId, state: PathState) -> bool {
        let record = self.slots.get_mut(peer.index()).and_then(|slot| slot.0.as_mut());
        let Some(record) = record else { return false };
        let further = record.path_ids().next().is_some();
        let Some(place @ None) = record.paths.get_mut(usize::from(path.0)) else { return false };
        record.search_at = record.search_at.min(state.mtu.at());
        *place = self.paths.insert(further, state);
        place.is_some()
    }

    pub(crate) fn remove_path(&mut self, peer: PeerIndex, path: PathId) -> Option<PathState> {
        let record = self.get_mut(peer)?;
        let key = record.paths.get_mut(usize::from(path.0))?.take()?;
        let further = record.path_ids().next().is_some();
        self.paths.remove(further, key)
    }

    pub(crate) fn path(&self, peer: PeerIndex, path: PathId) -> Option<&PathState> {
        self.paths.entries.get(self.key_of(peer, path)?)
    }

    pub(crate) fn path_mut(&mut self, peer: PeerIndex, path: PathId) -> Option<&mut PathState> {
        self.paths.entries.get_mut(self.key_of(peer, path)?)
    }

    /// The peer's paths.
    pub(crate) fn paths(&self, peer: PeerIndex) -> impl Iterator<Item = &PathState> {
        let keys = self.get(peer).map_or(&[][..], |record| &record.paths);
        keys.iter().filter_map(|key| self.paths.entries.get((*key)?))
    }

    /// The peer's paths and their names.
    fn named_paths(&self, record: &Peer) -> impl Iterator<Item = (PathId, &PathState)> {
        record
            .paths
            .iter()
            .enumerate()
            .filter_map(|(at, key)| Some((PathId(at as u8), self.paths.entries.get((*key)?)?)))
    }

    pub(crate) fn active_path(&self, peer: PeerIndex) -> Option<&PathState> {
        self.path(peer, self.get(peer)?.active?)
    }

    pub(crate) fn active_path_mut(&mut self, peer: PeerIndex) -> Option<&mut PathState> {
        self.path_mut(peer, self.get(peer)?.active?)
    }

    /// Frames in flight on all paths of the peer.
    pub(crate) fn frames_in_flight(&self, peer: PeerIndex) -> u32 {
        self.paths(peer).map(|path| path.frames.len()).sum()
    }

    /// The round trip of the active path, or of any other that has a sample.
    pub(crate) fn rtt(&self, peer: PeerIndex) -> Option<Duration> {
        let mut paths = self.active_path(peer).into_iter().chain(self.paths(peer));
        paths.find_map(|path| path.rtt.smoothed())
    }

    /// The smallest round trip of the active path, or of any other that has a sample: what
    /// windows are sized for, as the smoothed one grows with the queues that they fill.
    pub(crate) fn rtt_min(&self, peer: PeerIndex) -> Option<Duration> {
        let mut paths = self.active_path(peer).into_iter().chain(self.paths(peer));
        paths.find_map(|path| path.rtt.smoothed().map(|_| path.rtt.min()))
    }

    /// Retransmission timeout of the active path.
    pub(crate) fn rto(&self, peer: PeerIndex) -> Duration {
        self.active_path(peer).map_or(crate::limits::RTO_INITIAL, |path| path.rtt.rto_base())
    }

    /// A path whose tail probe is due.
    pub(crate) fn probe_path(&self, peer: PeerIndex) -> Option<PathId> {
        let mut paths = self.named_paths(self.get(peer)?);
        paths.find_map(|(id, path)| (path.tail_probe == TailProbe::Due).then_some(id))
    }

    /// When the next path probe may go.
    pub(crate) fn search_at(&self, peer: PeerIndex) -> Option<Instant> {
        let record = self.get(peer).filter(|record| record.search_at != Instant::NEVER)?;
        self.named_paths(record).filter_map(|(id, path)| path.search_at(record.need(id))).min()
    }

    /// The search on this path may have moved: the next probe is perhaps earlier than thought.
    pub(crate) fn follow_search(&mut self, peer: PeerIndex, path: PathId) {
        let Some(at) = self.path(peer, path).map(|path| path.mtu.at()) else { return };
        if let Some(record) = self.get_mut(peer) {
            record.search_at = record.search_at.min(at);
        }
    }

    /// A probe was due somewhere: works out when the next one is.
    pub(crate) fn renew_search(&mut self, peer: PeerIndex) {
        let at = self.paths(peer).map(|path| path.mtu.at()).min();
        if let Some(record) = self.get_mut(peer) {
            record.search_at = at.unwrap_or(Instant::NEVER);
        }
    }

    /// A path on which a probe is due.
    pub(crate) fn search_path(&self, now: Instant, peer: PeerIndex) -> Option<PathId> {
        let record = self.get(peer).filter(|record| record.search_at <= now)?;
        let due = |path: &PathId| {
            let state = self.path(peer, *path);
            state.and_then(|state| state.search_at(record.need(*path))).is_some_and(|at| at <= now)
        };
        record.path_ids().find(due)
    }

    // ---- acknowledgements ----

    fn spaces(&self, peer: PeerIndex) -> impl Iterator<Item = &AckSpace> {
        let keys = self.get(peer).map_or(&[][..], |record| &record.spaces[..]);
        keys.iter().filter_map(|key| self.spaces.entries.get(*key))
    }

    /// When the earliest acknowledgement is due.
    pub(crate) fn ack_due(&self, peer: PeerIndex) -> Option<Instant> {
        self.spaces(peer).filter_map(AckSpace::due).min()
    }

    /// Whether an acknowledgement may go with data now, with all there is to tell of streams in
    /// `room` bytes: what is left over would be due at once, and go alone.
    pub(crate) fn ack_may_ride(&self, peer: PeerIndex, room: usize) -> bool {
        let untold = self.get(peer).map_or(0, |record| record.untold.len() as usize);
        FD_MIN + ENTRY * untold <= room && self.spaces(peer).any(AckSpace::may_ride)
    }

    /// The session whose acknowledgement goes next: the one that is due, else the one heard
    /// last.
    pub(crate) fn ack_space(&mut self, peer: PeerIndex) -> Option<&mut AckSpace> {
        let due = self.ack_due(peer);
        let at = match due {
            Some(_) => self.spaces(peer).position(|space| space.due() == due)?,
            None => {
                let heard = self.spaces(peer).map(AckSpace::largest_at).enumerate();
                heard.max_by_key(|&(_, at)| at)?.0
            }
        };
        let key = *self.get(peer)?.spaces.get(at)?;
        self.spaces.entries.get_mut(key)
    }

    /// What has arrived from the peer under `index`; forgets its session that was silent
    /// longest if there is no room.
    pub(crate) fn space(
        &mut self,
        now: Instant,
        peer: PeerIndex,
        index: u32,
    ) -> Option<&mut AckSpace> {
        let known = self.spaces(peer).position(|space| space.index == index);
        let key = match known {
            Some(at) => *self.get(peer)?.spaces.get(at)?,
            None => self.add_space(now, peer, index)?,
        };
        self.spaces.entries.get_mut(key)
    }

    fn add_space(&mut self, now: Instant, peer: PeerIndex, index: u32) -> Option<Key> {
        let silent = self.spaces(peer).map(AckSpace::largest_at).enumerate();
        let oldest = silent.min_by_key(|&(_, at)| at).map(|(at, _)| at);
        let record = self.slots.get_mut(peer.index())?.0.as_mut()?;
        let space = AckSpace::new(now, index);
        let further = !record.spaces.is_empty();
        if record.spaces.is_full() || further && self.spaces.further == self.spaces.room {
            let key = record.spaces.swap_remove(oldest?);
            self.spaces.remove(!record.spaces.is_empty(), key);
        }
        let key = self.spaces.insert(!record.spaces.is_empty(), space)?;
        let added = record.spaces.push(key);
        assert!(added.is_ok(), "room was just made");
        Some(key)
    }

    /// Does something with what has arrived in each session.
    pub(crate) fn each_space(&mut self, peer: PeerIndex, mut change: impl FnMut(&mut AckSpace)) {
        let record = self.slots.get(peer.index()).and_then(|slot| slot.0.as_ref());
        let keys = record.map_or(&[][..], |record| &record.spaces[..]);
        let entries = &mut self.spaces.entries;
        for key in keys {
            if let Some(space) = entries.get_mut(*key) {
                change(space);
            }
        }
    }

    /// Forgets what has arrived in sessions that `keep` does not hold for.
    pub(crate) fn retain_spaces(&mut self, peer: PeerIndex, keep: impl Fn(&AckSpace) -> bool) {
        let record = self.slots.get_mut(peer.index()).and_then(|slot| slot.0.as_mut());
        let Some(record) = record else { return };
        for at in (0..record.spaces.len()).rev() {
            let key = record.spaces[at];
            if !self.spaces.entries.get(key).is_some_and(&keep) {
                record.spaces.remove(at);
                self.spaces.remove(!record.spaces.is_empty(), key);
            }
        }
    }
}

impl Linked for PeerTable<'_> {
    fn link(&mut self, slot: u32, which: usize) -> &mut Link {
        &mut self.get_mut(PeerIndex(slot)).expect("only living peers are in lists").links[which]
    }

    fn link_ref(&self, slot: u32, which: usize) -> &Link {
        &self.get(PeerIndex(slot)).expect("only living peers are in lists").links[which]
    }
}
