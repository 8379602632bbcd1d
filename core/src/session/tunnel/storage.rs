//! The tunnel's memory: every table, boxed once or lent by the caller.

use super::state::{Answer, Attempt, Link, Peer};
use crate::session::index::IndexCell;
use crate::slab::{Slot, Store};
use crate::timer::Cell;

#[cfg(feature = "alloc")]
use crate::{limits::Limits, session::index::IndexTable};

/// One place of the table of peers.
pub struct PeerCell(pub(super) Option<Peer>);

impl PeerCell {
    /// An empty place, for storage that the caller lends.
    pub const fn empty() -> Self {
        PeerCell(None)
    }
}

/// One place of the table of sessions.
pub type LinkSlot = Slot<Link>;
/// One place of the table of own attempts.
pub type AttemptSlot = Slot<Attempt>;
/// One place of the table of answers to others' attempts.
pub type AnswerSlot = Slot<Answer>;

/// All tables of a tunnel. With `n` peers (the beacon counts as one) and `m` sessions of `w`
/// replay words:
pub struct TunnelStorage<'s> {
    /// `n`.
    pub peers: Store<'s, PeerCell>,
    /// `n`: peers in the order of their addresses.
    pub by_address: Store<'s, u32>,
    /// `n`: peers with output.
    pub ready: Store<'s, u32>,
    /// `n`: peers with events.
    pub eventful: Store<'s, u32>,
    /// `n`.
    pub deadlines: Store<'s, Cell>,
    /// `m`.
    pub sessions: Store<'s, LinkSlot>,
    /// `m × w`, with `w` at least 2.
    pub replay: Store<'s, u64>,
    /// `n`.
    pub attempts: Store<'s, AttemptSlot>,
    /// `n`: a full table drops confirmed ones, else the INIT.
    pub answers: Store<'s, AnswerSlot>,
    /// [`crate::session::index::IndexTable::cells_for`]`(m + n)`.
    pub indices: Store<'s, IndexCell>,
    /// [`crate::session::index::IndexTable::cells_for`]`(n)`.
    pub hashes: Store<'s, IndexCell>,
    /// Buckets for sources that have shown a cookie.
    pub sources: Store<'s, u64>,
}

#[cfg(feature = "alloc")]
impl TunnelStorage<'static> {
    /// Tables for `limits`, with one place more than `limits.peers`: for the beacon. What is not
    /// used is not touched.
    pub fn boxed(limits: &Limits) -> Self {
        let (n, m) = (limits.peers + 1, limits.sessions);
        let words = limits.replay_words.max(2);
        TunnelStorage {
            peers: Store::<PeerCell>::growing(n),
            by_address: Store::<u32>::boxed_with(n, || 0),
            ready: Store::<u32>::boxed_with(n, || 0),
            eventful: Store::<u32>::boxed_with(n, || 0),
            deadlines: Store::<Cell>::boxed_with(n, Cell::empty),
            sessions: Store::<LinkSlot>::growing(m),
            replay: Store::boxed_zero_words(m * words),
            attempts: Store::<AttemptSlot>::growing(n),
            answers: Store::<AnswerSlot>::growing(n),
            indices: Store::<IndexCell>::boxed_with(IndexTable::cells_for(m + n), IndexCell::empty),
            hashes: Store::<IndexCell>::boxed_with(IndexTable::cells_for(n), IndexCell::empty),
            sources: Store::<u64>::boxed_with(limits.sources.max(1), || 0),
        }
    }
}

/// A first-in first-out queue of peer numbers; whoever queues sees to it that each is in it
/// once.
pub(super) struct Queue<'s> {
    items: Store<'s, u32>,
    head: usize,
    len: usize,
}

impl<'s> Queue<'s> {
    pub(super) fn new(items: Store<'s, u32>) -> Self {
        Queue { items, head: 0, len: 0 }
    }

    pub(super) fn push(&mut self, item: u32) {
        assert!(self.len < self.items.len(), "each peer is queued once");
        let at = (self.head + self.len) % self.items.len();
        self.items[at] = item;
        self.len += 1;
    }

    pub(super) fn front(&self) -> Option<u32> {
        (self.len > 0).then(|| self.items[self.head])
    }

    pub(super) fn pop(&mut self) {
        if self.len > 0 {
            self.head = (self.head + 1) % self.items.len();
            self.len -= 1;
        }
    }

    pub(super) fn remove(&mut self, item: u32) {
        for _ in 0..self.len {
            let Some(front) = self.front() else { return };
            self.pop();
            if front != item {
                self.push(front);
            }
        }
    }
}
