//! Outgoing datagrams of one peer: a queue of 64 in pool blocks, oldest dropped first
//! (`wire.md` 11).

use super::buffer::{Cursor, Pool, Ring};
use crate::addr::{NetworkId, Port};
use crate::limits::{BLOCK, DATAGRAM_QUEUE};

/// Network, ports and length in front of each queued payload.
const HEAD: u64 = 8;

/// A queued datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Queued {
    pub(crate) network: NetworkId,
    pub(crate) to: Port,
    pub(crate) from: Port,
    pub(crate) len: usize,
    offset: u64,
}

#[derive(Debug)]
pub(crate) struct DatagramQueue {
    ring: Ring,
    start: u64,
    end: u64,
    count: u32,
}

impl DatagramQueue {
    pub(crate) const fn new() -> Self {
        DatagramQueue { ring: Ring::new(), start: 0, end: 0, count: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a datagram; returns how many were dropped for it, itself included if the pool has
    /// no room even for one.
    pub(crate) fn push(
        &mut self,
        pool: &mut Pool<'_>,
        network: NetworkId,
        to: Port,
        from: Port,
        payload: &[u8],
    ) -> u32 {
        let mut dropped = 0;
        while self.count >= DATAGRAM_QUEUE as u32 {
            self.pop(pool);
            dropped += 1;
        }
        let need = HEAD + payload.len() as u64;
        while self.end + need > self.ring.limit() {
            let blocks = (self.end + need - self.start / BLOCK as u64 * BLOCK as u64)
                .div_ceil(BLOCK as u64) as u32;
            let more = blocks.max(self.ring.reserved() + 1);
            if self.ring.grow(pool, more, 0) {
                continue;
            }
            if self.is_empty() {
                return dropped + 1;
            }
            self.pop(pool);
            dropped += 1;
        }
        let mut head = [0; HEAD as usize];
        head[..2].copy_from_slice(&network.0.to_be_bytes());
        head[2..4].copy_from_slice(&to.0.to_be_bytes());
        head[4..6].copy_from_slice(&from.0.to_be_bytes());
        head[6..].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        self.ring.put(pool, Cursor::Sequential, self.end, &head);
        self.ring.put(pool, Cursor::Sequential, self.end + HEAD, payload);
        self.end += need;
        self.count += 1;
        dropped
    }

    /// The oldest datagram.
    pub(crate) fn front(&mut self, pool: &mut Pool<'_>) -> Option<Queued> {
        if self.is_empty() {
            return None;
        }
        let mut head = [0; HEAD as usize];
        self.ring.get(pool, Cursor::Random, self.start, &mut head);
        let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        Some(Queued {
            network: NetworkId(word(0)),
            to: Port(word(2)),
            from: Port(word(4)),
            len: usize::from(word(6)),
            offset: self.start + HEAD,
        })
    }

    pub(crate) fn copy(&mut self, pool: &mut Pool<'_>, queued: &Queued, out: &mut [u8]) {
        self.ring.get(pool, Cursor::Random, queued.offset, out);
    }

    /// Takes the oldest datagram out.
    pub(crate) fn pop(&mut self, pool: &mut Pool<'_>) {
        if let Some(queued) = self.front(pool) {
            self.start = queued.offset + queued.len as u64;
            self.count -= 1;
            if self.count == 0 {
                self.clear(pool);
            } else {
                self.ring.release_below(pool, self.start);
            }
        }
    }

    /// Drops all and gives the blocks back.
    pub(crate) fn clear(&mut self, pool: &mut Pool<'_>) {
        self.count = 0;
        // The next one starts a block.
        self.end = self.end.next_multiple_of(BLOCK as u64);
        self.start = self.end;
        self.ring.release_all(pool, self.end);
        self.ring.shrink(pool, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Store;

    #[test]
    fn the_oldest_goes_first_and_is_dropped_first() {
        let links = Store::<u32>::boxed_with(8, || 0);
        let accounts = Store::<u32>::growing(0);
        let mut pool = Pool::new(Store::boxed_zeroed(8 * BLOCK), links, accounts);
        let mut queue = DatagramQueue::new();
        let push = |queue: &mut DatagramQueue, pool: &mut Pool<'_>, n: u8, len: usize| {
            queue.push(pool, NetworkId(1), Port(7), Port(u16::from(n)), &std::vec![n; len])
        };
        for n in 0..70 {
            assert_eq!(push(&mut queue, &mut pool, n, 100), u32::from(n >= 64));
        }
        for n in 6..70 {
            let front = queue.front(&mut pool).unwrap();
            assert_eq!((front.from, front.len), (Port(u16::from(n)), 100));
            let mut out = [0; 100];
            queue.copy(&mut pool, &front, &mut out);
            assert_eq!(out, [n; 100]);
            queue.pop(&mut pool);
        }
        assert!(queue.is_empty());
        assert_eq!((pool.taken(), pool.unreserved()), (0, 8));
        assert_eq!(push(&mut queue, &mut pool, 1, 60_000), 0);
        assert_eq!(push(&mut queue, &mut pool, 2, 60_000), 1, "a fair share of eight blocks");
        assert_eq!(queue.front(&mut pool).unwrap().from, Port(2));
        queue.clear(&mut pool);
        assert_eq!((pool.taken(), pool.unreserved()), (0, 8));
    }
}
