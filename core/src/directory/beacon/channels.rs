//! The table of relay channels (`wire.md` 7).
//!
//! | State | Input | Next |
//! |---|---|---|
//! | – | `bind` | asked: Bind due |
//! | asked | Channel | up, edge |
//! | asked | Offline, Quota | asked, again after 1 s doubling to 30 s |
//! | asked | NotPermitted | –, edge |
//! | – or any | Bound from a trusted peer | up, edge, BoundAck due |
//! | asked | the owner's attempt to reach the peer has ended | – |
//! | up | Unbound | –, edge |
//! | up | new boot id of the beacon | asked again, edge |
//! | up | `unbind` | leaving: Release due, edge |
//! | leaving | Unbound, or Release repeated in vain | – |
//!
//! After a restart of the beacon both ends ask: it is not known which returns last, and only
//! the last one's `Bind` finds the other. `Bind` is idempotent.
//!
//! Bound: `Limits::channels`; a `bind` or `Bound` beyond is refused and counted.

use super::Pending;
use crate::limits::{BIND_RETRY_MAX, BIND_RETRY_MIN};
use crate::path::{ChannelId, PeerIndex};
use crate::session::index::{IndexCell, IndexTable};
use crate::slab::Store;
use crate::time::{Duration, Instant};
use crate::wire::control::{BeaconError, ChannelInfo};
use crate::wire::frame::RelayKey;
use core::net::SocketAddr;

/// An open relay channel, our end.
pub struct Channel {
    /// Our end's id; packets travel under it.
    pub id: ChannelId,
    /// The peer at the other end.
    pub peer: PeerIndex,
    /// Where the beacon sees the peer.
    pub observed: SocketAddr,
    pub(super) key: RelayKey,
}

const UP: u8 = 1;
const REFUSED: u8 = 2;

pub(super) struct Entry {
    pub(super) peer: PeerIndex,
    /// The owner wants it: we bind, and bind again.
    pub(super) wanted: bool,
    pub(super) up: Option<Channel>,
    pub(super) leaving: Option<ChannelId>,
    /// A `Bind` or `Release` that was sent.
    pub(super) pending: Option<Pending>,
    /// Id of the `Bound` to acknowledge.
    pub(super) ack: Option<u16>,
    back_off: Duration,
    pub(super) hold: Instant,
    /// Whether the owner has heard of the id that is up.
    told: bool,
    /// The last id, until the owner heard that it is gone.
    down: Option<ChannelId>,
    edges: u8,
    refusal: BeaconError,
}

/// One place of the channel table.
#[derive(Default)]
pub struct ChannelSlot(Option<Entry>);

impl ChannelSlot {
    /// An empty place, for storage that the caller lends.
    pub const fn empty() -> Self {
        ChannelSlot(None)
    }
}

/// An edge of one channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChannelEvent {
    Up(PeerIndex),
    Down(ChannelId, PeerIndex),
    Refused(PeerIndex, BeaconError),
}

pub(super) struct Channels<'s> {
    slots: Store<'s, ChannelSlot>,
    index: IndexTable<'s>,
    edges: u32,
}

/// Ids have 24 random bits; the index table spreads by the upper ones.
const fn spread(id: ChannelId) -> u32 {
    id.0 << 8
}

impl<'s> Channels<'s> {
    pub(super) fn new(mut slots: Store<'s, ChannelSlot>, cells: Store<'s, IndexCell>) -> Self {
        assert!(cells.len() >= IndexTable::cells_for(slots.len()), "index cells for all channels");
        slots.iter_mut().for_each(|slot| *slot = ChannelSlot::empty());
        Channels { slots, index: IndexTable::new(cells), edges: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn entry(&mut self, i: usize) -> Option<&mut Entry> {
        self.slots[i].0.as_mut()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().filter_map(|slot| slot.0.as_ref())
    }

    /// The open channel of an id: one probe of the index.
    pub(super) fn get(&self, id: ChannelId) -> Option<&Channel> {
        let of = |i: u32| self.slots[i as usize].0.as_ref()?.up.as_ref().filter(|up| up.id == id);
        let i = self.index.find(spread(id), |i| of(i).is_some())?;
        of(i)
    }

    /// The open channel to a peer.
    pub(super) fn of_peer(&self, peer: PeerIndex) -> Option<&Channel> {
        self.entries().find(|e| e.peer == peer)?.up.as_ref()
    }

    fn find(&self, peer: PeerIndex) -> Option<usize> {
        self.slots.iter().position(|slot| slot.0.as_ref().is_some_and(|e| e.peer == peer))
    }

    fn find_or_make(&mut self, peer: PeerIndex) -> Option<usize> {
        if let Some(i) = self.find(peer) {
            return Some(i);
        }
        let i = self.slots.iter().position(|slot| slot.0.is_none())?;
        self.slots[i].0 = Some(Entry {
            peer,
            wanted: false,
            up: None,
            leaving: None,
            pending: None,
            ack: None,
            back_off: BIND_RETRY_MIN,
            hold: Instant::START,
            told: false,
            down: None,
            edges: 0,
            refusal: BeaconError::Offline,
        });
        Some(i)
    }

    /// Frees an entry that neither end, beacon nor owner has a use for.
    fn tidy(&mut self, i: usize) {
        let done = self.slots[i].0.as_ref().is_some_and(|e| {
            !e.wanted
                && e.up.is_none()
                && e.leaving.is_none()
                && e.ack.is_none()
                && e.down.is_none()
                && e.edges == 0
        });
        if done {
            self.slots[i].0 = None;
        }
    }

    fn raise(&mut self, i: usize, flag: u8) {
        if let Some(entry) = &mut self.slots[i].0
            && entry.edges & flag == 0
        {
            entry.edges |= flag;
            self.edges += 1;
        }
    }

    /// Wants a channel to `peer`; asks again (for its present endpoint) if there is one.
    pub(super) fn bind(&mut self, peer: PeerIndex) -> bool {
        let Some(i) = self.find_or_make(peer) else {
            return false;
        };
        if let Some(entry) = &mut self.slots[i].0 {
            entry.wanted = true;
            entry.hold = Instant::START;
            entry.back_off = BIND_RETRY_MIN;
            if entry.leaving.is_none() && entry.pending.is_none() {
                entry.pending = Some(Pending::new());
            }
        }
        true
    }

    /// Asks no more for a channel to `peer` that there is not; one that is up stays.
    pub(super) fn stop_binding(&mut self, peer: PeerIndex) {
        if let Some(i) = self.find(peer)
            && let Some(entry) = &mut self.slots[i].0
            && entry.leaving.is_none()
        {
            entry.wanted &= entry.up.is_some();
            entry.pending = None;
            self.tidy(i);
        }
    }

    /// Wants no channel to `peer` any more.
    pub(super) fn unbind(&mut self, peer: PeerIndex) {
        let Some(i) = self.find(peer) else {
            return;
        };
        let id = self.take_down(i);
        if let Some(entry) = &mut self.slots[i].0 {
            entry.wanted = false;
            entry.ack = None;
            if entry.leaving.is_none() {
                entry.pending = id.map(|_| Pending::new());
                entry.leaving = id;
            }
        }
        self.tidy(i);
    }

    /// Takes the id of an open channel out of use; the owner hears of it.
    fn take_down(&mut self, i: usize) -> Option<ChannelId> {
        let entry = self.slots[i].0.as_mut()?;
        let up = entry.up.take()?;
        if entry.edges & UP != 0 {
            entry.edges &= !UP;
            self.edges -= 1;
        }
        // Of an id that the owner never heard of, it need not hear that it is gone.
        if core::mem::take(&mut entry.told) && entry.down.is_none() {
            entry.down = Some(up.id);
            self.edges += 1;
        }
        self.index.remove(spread(up.id), i as u32);
        Some(up.id)
    }

    /// The beacon gave (`Channel`) or announced (`Bound`) a channel to `peer`.
    pub(super) fn set_up(&mut self, peer: PeerIndex, info: &ChannelInfo, ack: Option<u16>) -> bool {
        let Some(i) = self.find_or_make(peer) else {
            return false;
        };
        let known = self.slots[i].0.as_ref().and_then(|e| e.up.as_ref()).map(|up| up.id);
        if known != Some(info.channel) {
            self.take_down(i);
            // Ids are unique in the beacon: another entry with this one is out of date.
            let other = self.index.find(spread(info.channel), |_| true);
            if let Some(other) = other {
                self.take_down(other as usize);
                self.tidy(other as usize);
            }
            if !self.index.insert(spread(info.channel), i as u32) {
                return false;
            }
        }
        let Some(entry) = &mut self.slots[i].0 else {
            return false;
        };
        entry.up = Some(Channel {
            id: info.channel,
            peer,
            observed: info.observed,
            key: RelayKey(info.key.0),
        });
        entry.ack = ack.or(entry.ack);
        entry.leaving = None;
        if ack.is_none() {
            entry.pending = None;
        }
        self.raise(i, UP);
        true
    }

    /// The beacon says that a channel is gone.
    pub(super) fn unbound(&mut self, id: ChannelId) {
        let leaving = self
            .slots
            .iter()
            .position(|slot| slot.0.as_ref().is_some_and(|entry| entry.leaving == Some(id)));
        if let Some(i) = leaving {
            self.released(i);
            return;
        }
        let Some(i) = self.get(id).and_then(|up| self.find(up.peer)) else {
            return;
        };
        self.take_down(i);
        if let Some(entry) = &mut self.slots[i].0 {
            entry.wanted = false;
            entry.pending = None;
        }
        self.tidy(i);
    }

    /// A `Release` was answered, or repeated in vain.
    pub(super) fn released(&mut self, i: usize) {
        if let Some(entry) = &mut self.slots[i].0 {
            entry.leaving = None;
            entry.pending = entry.wanted.then(Pending::new);
        }
        self.tidy(i);
    }

    /// A `Bind` was refused.
    pub(super) fn refused(&mut self, i: usize, now: Instant, error: BeaconError) {
        let Some(entry) = &mut self.slots[i].0 else {
            return;
        };
        entry.refusal = error;
        match error {
            BeaconError::Offline | BeaconError::Quota | BeaconError::NotRegistered => {
                entry.pending = entry.wanted.then(Pending::new);
                entry.hold = now + entry.back_off;
                entry.back_off = (2 * entry.back_off).min(BIND_RETRY_MAX);
            }
            BeaconError::NotPermitted | BeaconError::Malformed => {
                entry.pending = None;
                entry.wanted = false;
                self.take_down(i);
            }
        }
        self.raise(i, REFUSED);
    }

    /// The beacon restarted and has forgotten all channels.
    pub(super) fn forget_all(&mut self) {
        for i in 0..self.slots.len() {
            let was_up = self.take_down(i).is_some();
            if let Some(entry) = &mut self.slots[i].0 {
                entry.wanted |= was_up;
                entry.leaving = None;
                entry.ack = None;
                entry.pending = entry.wanted.then(Pending::new);
            }
            self.tidy(i);
        }
    }

    /// What was sent on an older session is sent again.
    pub(super) fn restart_pending(&mut self) {
        for slot in self.slots.iter_mut() {
            if let Some(Entry { pending: Some(pending), .. }) = &mut slot.0 {
                *pending = Pending::new();
            }
        }
    }

    pub(super) fn acknowledged(&mut self, i: usize) {
        if let Some(entry) = &mut self.slots[i].0 {
            entry.ack = None;
        }
        self.tidy(i);
    }

    pub(super) fn has_edge(&self) -> bool {
        self.edges > 0
    }

    pub(super) fn poll_event(&mut self) -> Option<ChannelEvent> {
        if self.edges == 0 {
            return None;
        }
        for i in 0..self.slots.len() {
            let Some(entry) = &mut self.slots[i].0 else {
                continue;
            };
            let peer = entry.peer;
            let event = if let Some(id) = entry.down.take() {
                ChannelEvent::Down(id, peer)
            } else if entry.edges & UP != 0 {
                entry.edges &= !UP;
                entry.told = true;
                ChannelEvent::Up(peer)
            } else if entry.edges & REFUSED != 0 {
                entry.edges &= !REFUSED;
                ChannelEvent::Refused(peer, entry.refusal)
            } else {
                continue;
            };
            self.edges -= 1;
            self.tidy(i);
            return Some(event);
        }
        unreachable!("every counted edge is in an entry")
    }
}
