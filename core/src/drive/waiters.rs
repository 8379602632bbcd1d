//! Who waits for what: bookkeeping of wakers, generic over what a waker is.
//!
//! [`StreamWaiters`] has two places per stream, one for its reader and one for its writer,
//! found by the stream's index: the packet path wakes streams all the time. [`Waiters`] is for
//! everything rare (accepting, answers, datagrams): a few entries, scanned.
//!
//! Wakers are never called in here. They are handed to the caller, who calls them after it has
//! let go of its lock.

use crate::node::StreamId;
use crate::slab::{Key, Slab, Slot, Store};
use core::fmt;

/// Something that makes a waiting task, thread or event source look again.
pub trait Waken: Clone + 'static {
    /// Whether waking `other` does the same as waking `self`; a false "no" is harmless.
    fn is_same(&self, other: &Self) -> bool;

    /// Makes it look again. Called without any lock.
    fn wake(self);
}

impl Waken for core::task::Waker {
    fn is_same(&self, other: &Self) -> bool {
        self.will_wake(other)
    }

    fn wake(self) {
        core::task::Waker::wake(self);
    }
}

/// Which direction of a stream somebody waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Bytes to read, the end, or a failure.
    Read,
    /// Room to write, everything acknowledged, the stream being open, or a failure.
    Write,
}

/// The wakers of one stream.
pub struct StreamSlot<W> {
    id: Option<StreamId>,
    wakers: [Option<W>; 2],
}

impl<W> StreamSlot<W> {
    /// An unused place, for storage that the caller lends.
    pub const fn empty() -> Self {
        StreamSlot { id: None, wakers: [None, None] }
    }
}

/// The wakers of all streams that have a handle; at most one per stream and direction, since a
/// direction has one owner. A second one replaces the first, as `Future::poll` has it.
pub struct StreamWaiters<'s, W> {
    slots: Store<'s, StreamSlot<W>>,
    len: usize,
}

impl<W> fmt::Debug for StreamWaiters<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamWaiters({}/{})", self.len, self.slots.len())
    }
}

impl<'s, W: Waken> StreamWaiters<'s, W> {
    /// A table for streams whose index is below `slots.len()`, so that is `Limits::streams`.
    pub fn new(mut slots: Store<'s, StreamSlot<W>>) -> Self {
        for slot in slots.iter_mut() {
            *slot = StreamSlot::empty();
        }
        StreamWaiters { slots, len: 0 }
    }

    /// Room for `streams` streams.
    #[cfg(feature = "alloc")]
    pub fn boxed(streams: usize) -> StreamWaiters<'static, W> {
        let slots = Store::<StreamSlot<W>>::boxed_with(streams, StreamSlot::empty);
        StreamWaiters { slots, len: 0 }
    }

    /// Begins to keep wakers of a stream, because a handle for it exists.
    pub fn adopt(&mut self, id: StreamId) {
        let slot = &mut self.slots[id.0.index()];
        if slot.id.is_none() {
            self.len += 1;
        }
        *slot = StreamSlot { id: Some(id), wakers: [None, None] };
    }

    /// Forgets a stream and its wakers.
    pub fn forget(&mut self, id: StreamId) {
        if let Some(slot) = self.slot(id) {
            *slot = StreamSlot::empty();
            self.len -= 1;
        }
    }

    fn slot(&mut self, id: StreamId) -> Option<&mut StreamSlot<W>> {
        self.slots.get_mut(id.0.index()).filter(|slot| slot.id == Some(id))
    }

    /// Keeps a waker; ignored for a stream that was not adopted, since it has no handle that
    /// could wait.
    pub fn park(&mut self, id: StreamId, side: Side, waker: &W) {
        if let Some(slot) = self.slot(id) {
            let place = &mut slot.wakers[side as usize];
            if !place.as_ref().is_some_and(|parked| parked.is_same(waker)) {
                *place = Some(waker.clone());
            }
        }
    }

    /// Takes the waker of one direction.
    pub fn take(&mut self, id: StreamId, side: Side) -> Option<W> {
        self.slot(id)?.wakers[side as usize].take()
    }

    /// Takes all wakers, at the end of the node.
    pub fn take_all(&mut self, mut each: impl FnMut(W)) {
        for slot in self.slots.iter_mut() {
            slot.wakers.iter_mut().filter_map(Option::take).for_each(&mut each);
        }
    }

    /// How many streams have a handle.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no stream has a handle.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The streams that have a handle, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = StreamId> {
        self.slots.iter().filter_map(|slot| slot.id)
    }
}

/// A place in a [`Waiters`]; held by the one who waits, so that polling again does not take a
/// second place and giving up frees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ticket(Option<Key>);

impl Ticket {
    /// Not waiting yet.
    pub const NONE: Ticket = Ticket(None);
}

/// Wakers by what they wait for; any number for the same thing, `capacity` in all.
///
/// When the table is full, the one in the first place is evicted: its waker is handed out to
/// be called, it finds nothing new and parks again. So nobody is lost, at the price of busy
/// tasks as long as too many wait.
pub struct Waiters<'s, K, W> {
    entries: Slab<'s, (K, W)>,
    /// The place that is evicted next, so that all take their turn.
    victim: usize,
}

impl<K, W> fmt::Debug for Waiters<'_, K, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Waiters({}/{})", self.entries.len(), self.entries.capacity())
    }
}

impl<'s, K: PartialEq, W: Waken> Waiters<'s, K, W> {
    /// An empty table over the caller's storage.
    pub fn new(slots: Store<'s, Slot<(K, W)>>) -> Self {
        Waiters { entries: Slab::new(slots), victim: 0 }
    }

    /// Room for `capacity` waiters, at least one.
    #[cfg(feature = "alloc")]
    pub fn boxed(capacity: usize) -> Waiters<'static, K, W> {
        Waiters { entries: Slab::<(K, W)>::boxed(capacity.max(1)), victim: 0 }
    }

    /// Keeps a waker in the place of `ticket`, or in a new one. Returns the waker that had to
    /// go, to be called.
    #[must_use = "an evicted waiter has to be woken"]
    pub fn park(&mut self, ticket: &mut Ticket, key: K, waker: &W) -> Option<W> {
        if let Some((parked_key, parked)) = ticket.0.and_then(|place| self.entries.get_mut(place)) {
            *parked_key = key;
            if !parked.is_same(waker) {
                *parked = waker.clone();
            }
            return None;
        }
        let evicted = if self.entries.is_full() {
            let place = self.entries.key_at(self.victim);
            self.victim = (self.victim + 1) % self.entries.capacity().max(1);
            place.and_then(|place| self.entries.remove(place)).map(|(_, waker)| waker)
        } else {
            None
        };
        // After the eviction there is room; a table without any place cannot keep anyone, and
        // its caller is told so by being woken at once.
        match self.entries.insert((key, waker.clone())) {
            Ok(place) => {
                *ticket = Ticket(Some(place));
                evicted
            }
            Err((_, waker)) => Some(waker),
        }
    }

    /// Gives up waiting.
    pub fn leave(&mut self, ticket: &mut Ticket) {
        if let Some(place) = ticket.0.take() {
            self.entries.remove(place);
        }
    }

    /// Takes the wakers of all that wait for `key`.
    pub fn take(&mut self, key: &K, mut each: impl FnMut(W)) {
        self.take_if(|k| k == key, &mut each);
    }

    /// Takes all wakers, at the end of the node.
    pub fn take_all(&mut self, mut each: impl FnMut(W)) {
        self.take_if(|_| true, &mut each);
    }

    fn take_if(&mut self, wanted: impl Fn(&K) -> bool, each: &mut impl FnMut(W)) {
        let mut left = self.entries.len();
        let mut index = 0;
        while left > 0 && index < self.entries.capacity() {
            if let Some(place) = self.entries.key_at(index) {
                left -= 1;
                if wanted(&self.entries[place].0)
                    && let Some((_, waker)) = self.entries.remove(place)
                {
                    each(waker);
                }
            }
            index += 1;
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// A waker that is a number.
    #[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
    struct Number(u32);

    impl Waken for Number {
        fn is_same(&self, other: &Self) -> bool {
            self == other
        }

        fn wake(self) {}
    }

    fn stream(index: u64, generation: u64) -> StreamId {
        StreamId(Key::from_bits(generation << 32 | index))
    }

    #[test]
    fn a_stream_has_one_waker_per_direction() {
        let mut waiters = StreamWaiters::<Number>::boxed(2);
        let id = stream(1, 0);
        waiters.adopt(id);
        waiters.park(id, Side::Read, &Number(1));
        waiters.park(id, Side::Read, &Number(2));
        waiters.park(id, Side::Write, &Number(3));
        assert_eq!(waiters.take(id, Side::Read), Some(Number(2)));
        assert_eq!(waiters.take(id, Side::Read), None);
        assert_eq!(waiters.take(id, Side::Write), Some(Number(3)));
    }

    #[test]
    fn a_reused_index_does_not_inherit_wakers() {
        let mut waiters = StreamWaiters::<Number>::boxed(2);
        let (old, new) = (stream(0, 0), stream(0, 1));
        waiters.adopt(old);
        waiters.park(old, Side::Read, &Number(1));
        waiters.forget(old);
        waiters.park(old, Side::Read, &Number(2));
        waiters.adopt(new);
        assert_eq!(waiters.take(new, Side::Read), None);
        assert_eq!(waiters.take(old, Side::Read), None);
        waiters.park(new, Side::Read, &Number(3));
        waiters.forget(old);
        assert_eq!((waiters.len(), waiters.take(new, Side::Read)), (1, Some(Number(3))));
        assert_eq!(waiters.iter().collect::<Vec<_>>(), [new]);
    }

    #[test]
    fn polling_again_takes_no_second_place() {
        let mut waiters = Waiters::<u8, Number>::boxed(2);
        let mut ticket = Ticket::NONE;
        for n in 0..5 {
            assert_eq!(waiters.park(&mut ticket, 7, &Number(n)), None);
        }
        assert_eq!(waiters.len(), 1);
        let mut woken = Vec::new();
        waiters.take(&7, |w| woken.push(w));
        assert_eq!(woken, [Number(4)]);
        // A ticket whose waiter was woken is used anew.
        assert_eq!(waiters.park(&mut ticket, 7, &Number(9)), None);
        waiters.leave(&mut ticket);
        assert!(waiters.is_empty());
    }

    #[test]
    fn a_full_table_wakes_each_in_turn_and_loses_nobody() {
        let mut waiters = Waiters::<u8, Number>::boxed(2);
        let mut tickets = [Ticket::NONE; 4];
        let mut evicted = Vec::new();
        for (n, ticket) in tickets.iter_mut().enumerate() {
            evicted.extend(waiters.park(ticket, 1, &Number(n as u32)));
        }
        assert_eq!(evicted, [Number(0), Number(1)]);
        waiters.take(&1, |w| evicted.push(w));
        evicted.sort();
        assert_eq!(evicted, [Number(0), Number(1), Number(2), Number(3)]);
        // The ticket of an evicted waiter does not free the place of its successor.
        assert_eq!(waiters.park(&mut tickets[2], 1, &Number(2)), None);
        waiters.leave(&mut tickets[0]);
        assert_eq!(waiters.len(), 1);
    }

    #[test]
    fn a_table_without_places_wakes_at_once() {
        let mut none: [Slot<(u8, Number)>; 0] = [];
        let mut waiters = Waiters::new(Store::from(&mut none[..]));
        let mut ticket = Ticket::NONE;
        assert_eq!(waiters.park(&mut ticket, 1, &Number(5)), Some(Number(5)));
    }

    proptest! {
        /// Whoever parked and neither left nor was woken is still woken by its key.
        #[test]
        fn nobody_is_lost(ops in prop::collection::vec((0u8..4, 0usize..6), 0..200)) {
            let mut waiters = Waiters::<u8, Number>::boxed(3);
            let mut tickets = [Ticket::NONE; 6];
            let mut waiting = [None::<u8>; 6];
            for (op, who) in ops {
                let mut woken = Vec::new();
                match op {
                    0 | 1 => {
                        waiting[who] = Some(op);
                        woken.extend(waiters.park(&mut tickets[who], op, &Number(who as u32)));
                    }
                    2 => {
                        waiting[who] = None;
                        waiters.leave(&mut tickets[who]);
                    }
                    _ => {
                        let key = (who % 2) as u8;
                        waiters.take(&key, |w| woken.push(w));
                        for (who, waits) in waiting.iter().enumerate() {
                            if *waits == Some(key) {
                                prop_assert!(woken.contains(&Number(who as u32)));
                            }
                        }
                    }
                }
                for Number(who) in woken {
                    prop_assert!(waiting[who as usize].take().is_some());
                }
                prop_assert_eq!(waiters.len(), waiting.iter().flatten().count());
            }
        }
    }
}
