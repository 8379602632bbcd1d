//! Frames in flight: one node-wide table of records, and a list of them per path in the order
//! of sending (`wire.md` 11, D12). A record says what a frame carried, so that the content can
//! be sent again in another frame; nothing encrypted is kept.

use crate::addr::{NetworkId, Port};
use crate::slab::{Key, Store};
use crate::time::Instant;

const NIL: u32 = u32::MAX;
/// Frames in flight that a peer may have whatever the others have: an initial window.
const FRAMES_FREE: u32 = 10;

/// What a stream frame carried, besides bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Marks(u8);

impl Marks {
    pub(crate) const SYN: Marks = Marks(1);
    pub(crate) const FIN: Marks = Marks(2);
    pub(crate) const RST: Marks = Marks(4);
    /// A byte beyond the window: acknowledged without being taken.
    pub(crate) const PROBE: Marks = Marks(8);
    /// A header without content, for its acknowledgement and window.
    pub(crate) const ACK: Marks = Marks(16);

    pub(crate) const fn has(self, other: Marks) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn with(self, other: Marks, on: bool) -> Marks {
        if on { Marks(self.0 | other.0) } else { self }
    }
}

/// A reset for a segment that belongs to no stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ResetNotice {
    pub(crate) network: NetworkId,
    pub(crate) local: Port,
    pub(crate) remote: Port,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) code: u8,
}

/// What a frame carried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    Stream {
        key: Key,
        offset: u64,
        len: u32,
        marks: Marks,
    },
    Reset(ResetNotice),
    Datagram,
    /// One of the node's control frames, by the node's own number.
    Control(u8),
    /// A frame without content, sent to be answered.
    Padding,
    /// A frame as long as a datagram that the path may carry ([`crate::path::mtu`]).
    PathProbe,
}

impl Content {
    /// Whether losing it speaks of congestion (`wire.md` 11: a probe never counts).
    pub(crate) const fn signals(self) -> bool {
        match self {
            Content::Stream { marks, .. } => !marks.has(Marks::PROBE),
            Content::Padding | Content::PathProbe => false,
            _ => true,
        }
    }
}

/// One frame in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    prev: u32,
    next: u32,
    pub(crate) index: u32,
    /// UDP payload bytes.
    pub(crate) bytes: u32,
    pub(crate) counter: u64,
    pub(crate) sent: Instant,
    pub(crate) content: Content,
    /// Its content is queued again, or it is a path probe and has none: it is not in flight, and
    /// kept only to recognise its acknowledgement.
    pub(crate) requeued: bool,
    /// Its loss is no sign of congestion.
    pub(crate) silent: bool,
    /// State of the delivery-rate estimator when it was sent.
    pub(crate) delivered: u64,
    pub(crate) delivered_at: Instant,
    pub(crate) first_sent: Instant,
    pub(crate) app_limited: bool,
}

impl Record {
    pub(crate) const fn new(now: Instant, content: Content) -> Self {
        Record {
            prev: NIL,
            next: NIL,
            index: 0,
            bytes: 0,
            counter: 0,
            sent: now,
            content,
            requeued: matches!(content, Content::PathProbe),
            silent: !content.signals(),
            delivered: 0,
            delivered_at: now,
            first_sent: now,
            app_limited: false,
        }
    }
}

/// Room for one record, for storage that the caller lends.
#[derive(Clone, Copy, Debug)]
pub struct FrameSlot(Record);

impl FrameSlot {
    /// An unused place.
    pub const fn empty() -> Self {
        FrameSlot(Record::new(Instant::START, Content::Padding))
    }
}

/// All records of a node.
pub(crate) struct FrameTable<'s> {
    slots: Store<'s, FrameSlot>,
    fresh: u32,
    free: u32,
    len: u32,
}

impl<'s> FrameTable<'s> {
    pub(crate) fn new(slots: Store<'s, FrameSlot>) -> Self {
        FrameTable { slots, fresh: 0, free: NIL, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() == self.slots.capacity()
    }

    /// Whether whoever has `held` frames in flight may have no more: beyond a few, they are
    /// never more than the places left to all others. Otherwise a peer that makes its window
    /// large and then answers nothing would silence everybody until its timeout.
    pub(crate) fn is_full_for(&self, held: impl FnOnce() -> u32) -> bool {
        let left = self.slots.capacity() - self.len();
        if left > self.len() {
            // Nobody holds more than all: not worth counting.
            return false;
        }
        let held = held();
        left == 0 || held >= FRAMES_FREE && held as usize >= left
    }

    pub(crate) fn get(&self, at: u32) -> &Record {
        &self.slots[at as usize].0
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> &mut Record {
        &mut self.slots[at as usize].0
    }

    fn insert(&mut self, record: Record) -> Option<u32> {
        let at = if self.free != NIL {
            let at = self.free;
            self.free = self.get(at).next;
            *self.get_mut(at) = record;
            at
        } else if self.slots.reach(self.fresh as usize, FrameSlot::empty) {
            let at = self.fresh;
            self.fresh += 1;
            *self.get_mut(at) = record;
            at
        } else {
            return None;
        };
        self.len += 1;
        Some(at)
    }

    fn remove(&mut self, at: u32) -> Record {
        let free = self.free;
        let record = *self.get(at);
        self.get_mut(at).next = free;
        self.free = at;
        self.len -= 1;
        record
    }
}

/// A list of records in the order of sending.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameList {
    head: u32,
    tail: u32,
    len: u32,
}

impl FrameList {
    pub(crate) const EMPTY: FrameList = FrameList { head: NIL, tail: NIL, len: 0 };

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head == NIL
    }

    pub(crate) fn front(&self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }

    pub(crate) fn back(&self) -> Option<u32> {
        (self.tail != NIL).then_some(self.tail)
    }

    pub(crate) fn next(&self, table: &FrameTable<'_>, at: u32) -> Option<u32> {
        let next = table.get(at).next;
        (next != NIL).then_some(next)
    }

    pub(crate) fn prev(&self, table: &FrameTable<'_>, at: u32) -> Option<u32> {
        let prev = table.get(at).prev;
        (prev != NIL).then_some(prev)
    }

    /// Adds a record; gives it back if the table is full.
    pub(crate) fn push(&mut self, table: &mut FrameTable<'_>, record: Record) -> Option<u32> {
        let at = table.insert(record)?;
        self.append(table, at);
        Some(at)
    }

    fn append(&mut self, table: &mut FrameTable<'_>, at: u32) {
        self.len += 1;
        let tail = self.tail;
        let record = table.get_mut(at);
        (record.prev, record.next) = (tail, NIL);
        if tail == NIL {
            self.head = at;
        } else {
            table.get_mut(tail).next = at;
        }
        self.tail = at;
    }

    fn unlink(&mut self, table: &mut FrameTable<'_>, at: u32) {
        self.len -= 1;
        let Record { prev, next, .. } = *table.get(at);
        if prev == NIL {
            self.head = next;
        } else {
            table.get_mut(prev).next = next;
        }
        if next == NIL {
            self.tail = prev;
        } else {
            table.get_mut(next).prev = prev;
        }
    }

    /// Moves a record from this list to the end of another.
    pub(crate) fn move_to(&mut self, other: &mut FrameList, table: &mut FrameTable<'_>, at: u32) {
        self.unlink(table, at);
        other.append(table, at);
    }

    pub(crate) fn pop(&mut self, table: &mut FrameTable<'_>) -> Option<Record> {
        let at = self.front()?;
        self.unlink(table, at);
        Some(table.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn lists_share_a_bounded_table() {
        let mut slots = [FrameSlot::empty(); 4];
        let mut table = FrameTable::new(Store::from(&mut slots[..]));
        let (mut a, mut b) = (FrameList::EMPTY, FrameList::EMPTY);
        let record = |n| Record { counter: n, ..Record::new(Instant::START, Content::Datagram) };
        let at: Vec<u32> = (0..4).map(|n| a.push(&mut table, record(n)).unwrap()).collect();
        assert!(table.is_full());
        assert_eq!(b.push(&mut table, record(9)), None);
        a.move_to(&mut b, &mut table, at[1]);
        a.move_to(&mut b, &mut table, at[3]);
        let drain = |list: &mut FrameList, table: &mut FrameTable<'_>| {
            core::iter::from_fn(|| list.pop(table).map(|r| r.counter)).collect::<Vec<_>>()
        };
        assert_eq!(drain(&mut a, &mut table), [0, 2]);
        assert_eq!(table.len(), 2);
        assert_eq!(a.push(&mut table, record(7)).map(|at| table.get(at).counter), Some(7));
        assert_eq!(drain(&mut b, &mut table), [1, 3]);
        assert_eq!(drain(&mut a, &mut table), [7]);
        assert!(a.is_empty() && b.is_empty() && table.len() == 0);
    }
}
