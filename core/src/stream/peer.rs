//! The record of one peer: paths, what has arrived from it, its streams and queues.

use super::ack::AckSpace;
use super::datagram::DatagramQueue;
use super::frame::ResetNotice;
use super::list::{Link, Linked, List};
use super::recovery::{PathState, TailProbe};
use crate::addr::{Address, Port};
use crate::path::{PATHS, PathId, PeerIndex};
use crate::slab::{Key, Slab, Store};
use crate::time::{Duration, Instant};

/// Lists through peers.
pub(crate) const READY: usize = 0;
pub(crate) const PEER_EVENT: usize = 1;
/// Waiting for a place in the table of frames.
pub(crate) const STARVED: usize = 2;

/// Sessions whose arrivals are remembered: current and two previous ones.
const SPACES: usize = 3;
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
    pub(crate) spaces: heapless::Vec<AckSpace, SPACES>,
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

    /// When the earliest acknowledgement is due.
    pub(crate) fn ack_due(&self) -> Option<Instant> {
        self.spaces.iter().filter_map(AckSpace::due).min()
    }

    /// The session whose acknowledgement goes next: the one that is due, else the one heard
    /// last.
    pub(crate) fn ack_space(&mut self) -> Option<&mut AckSpace> {
        let due = self.ack_due();
        let at = match due {
            Some(_) => self.spaces.iter().position(|space| space.due() == due),
            None => (0..self.spaces.len()).max_by_key(|&at| self.spaces[at].largest_at()),
        };
        self.spaces.get_mut(at?)
    }

    /// What has arrived under `index`; forgets the session that was silent longest if there is
    /// no room.
    pub(crate) fn space(&mut self, now: Instant, index: u32) -> &mut AckSpace {
        let at = match self.spaces.iter().position(|space| space.index == index) {
            Some(at) => at,
            None => {
                if self.spaces.is_full() {
                    let oldest = (0..self.spaces.len())
                        .min_by_key(|&at| self.spaces[at].largest_at())
                        .unwrap_or(0);
                    self.spaces.swap_remove(oldest);
                }
                let added = self.spaces.push(AckSpace::new(now, index));
                assert!(added.is_ok(), "room was just made");
                self.spaces.len() - 1
            }
        };
        &mut self.spaces[at]
    }

    pub(crate) fn has_events(&self) -> bool {
        self.suspects != 0
            || self.alives != 0
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

/// All peers, by the node's numbers, and the pool of their path states: most peers have one
/// path, few have all four.
///
/// The first path of each peer always has a place. Further ones share what the pool has beyond
/// one place for each peer; when that is used up, there is no second path.
pub(crate) struct PeerTable<'s> {
    slots: Store<'s, PeerSlot>,
    paths: Slab<'s, PathState>,
    /// Paths beyond the first of their peer.
    further: usize,
}

impl<'s> PeerTable<'s> {
    pub(crate) fn new(mut slots: Store<'s, PeerSlot>, paths: Slab<'s, PathState>) -> Self {
        for slot in slots.iter_mut() {
            slot.0 = None;
        }
        assert!(paths.capacity() >= slots.capacity(), "each peer may have one path");
        PeerTable { slots, paths, further: 0 }
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
        let Some(record) = self.get(peer) else { return false };
        let further = record.path_ids().next().is_some();
        if further && self.further == self.paths.capacity() - self.slots.capacity() {
            return false;
        }
        let Ok(key) = self.paths.insert(state) else { return false };
        let place = self.get_mut(peer).and_then(|r| r.paths.get_mut(usize::from(path.0)));
        match place {
            Some(place @ None) => *place = Some(key),
            _ => {
                self.paths.remove(key);
                return false;
            }
        }
        self.further += usize::from(further);
        true
    }

    pub(crate) fn remove_path(&mut self, peer: PeerIndex, path: PathId) -> Option<PathState> {
        let record = self.get_mut(peer)?;
        let key = record.paths.get_mut(usize::from(path.0))?.take()?;
        self.further -= usize::from(record.path_ids().next().is_some());
        self.paths.remove(key)
    }

    pub(crate) fn path(&self, peer: PeerIndex, path: PathId) -> Option<&PathState> {
        self.paths.get(self.key_of(peer, path)?)
    }

    pub(crate) fn path_mut(&mut self, peer: PeerIndex, path: PathId) -> Option<&mut PathState> {
        self.paths.get_mut(self.key_of(peer, path)?)
    }

    /// The peer's paths.
    pub(crate) fn paths(&self, peer: PeerIndex) -> impl Iterator<Item = &PathState> {
        let keys = self.get(peer).map_or([None; PATHS], |record| record.paths);
        keys.into_iter().flatten().filter_map(|key| self.paths.get(key))
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
        let due = |path: &PathId| {
            self.path(peer, *path).is_some_and(|path| path.tail_probe == TailProbe::Due)
        };
        self.get(peer)?.path_ids().find(due)
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
