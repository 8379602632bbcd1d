//! The block pool in which all stream data lives, and the rings drawn from it
//! (`wire.md` 11, Memory).
//!
//! Two accounts are kept. A ring *reserves* blocks before it promises room to anybody (an
//! advertised window, an accepted write); it *takes* a block when a byte is put into it and
//! gives it back when the last byte has left. As nothing is taken beyond a reservation, and
//! reservations never exceed the pool, taking cannot fail, and an idle stream holds no block.
//!
//! The rings of streams that a peer has opened are on that peer's account, and an account may
//! not hold more than it leaves to everybody else: no peer can have the whole pool by opening
//! streams, nor by not reading what is written to them.

use crate::limits::BLOCK;
use crate::slab::Store;

const NIL: u32 = u32::MAX;
const B: u64 = BLOCK as u64;

/// All blocks of a node.
pub(crate) struct Pool<'s> {
    bytes: Store<'s, u8>,
    next: Store<'s, u32>,
    free: u32,
    /// Blocks from here on were never used: a boxed pool touches no page before it needs it.
    fresh: u32,
    blocks: u32,
    reserved: u32,
    taken: u32,
    /// Reserved blocks of each account.
    accounts: Store<'s, u32>,
}

impl<'s> Pool<'s> {
    pub(crate) fn new(
        bytes: Store<'s, u8>,
        next: Store<'s, u32>,
        mut accounts: Store<'s, u32>,
    ) -> Self {
        let blocks = (bytes.len() / BLOCK).min(next.len()) as u32;
        accounts.fill(0);
        Pool { bytes, next, free: NIL, fresh: 0, blocks, reserved: 0, taken: 0, accounts }
    }

    pub(crate) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Blocks in which bytes are.
    pub(crate) fn taken(&self) -> u32 {
        self.taken
    }

    /// Blocks that nobody has reserved.
    pub(crate) fn unreserved(&self) -> u32 {
        self.blocks - self.reserved
    }

    /// Whether less than an eighth is unreserved; then rings shrink to what is guaranteed.
    pub(crate) fn is_scarce(&self) -> bool {
        self.unreserved() < self.blocks / 8
    }

    fn reserve(&mut self, account: Option<u32>, n: u32) -> bool {
        let granted = n <= self.unreserved();
        if granted {
            self.reserved += n;
            if let Some(held) = self.held_by(account) {
                *held += n;
            }
        }
        granted
    }

    fn unreserve(&mut self, account: Option<u32>, n: u32) {
        self.reserved -= n;
        if let Some(held) = self.held_by(account) {
            *held -= n;
        }
    }

    fn held_by(&mut self, account: Option<u32>) -> Option<&mut u32> {
        let at = account? as usize;
        self.accounts.reach(at, || 0);
        self.accounts.get_mut(at)
    }

    /// Blocks that this account may reserve in addition without holding more than it leaves.
    pub(crate) fn share_left(&mut self, account: Option<u32>) -> u32 {
        let unreserved = self.unreserved();
        let held = self.held_by(account).map_or(0, |held| *held);
        unreserved.saturating_sub(held) / 2
    }

    fn take(&mut self) -> u32 {
        let block = if self.free != NIL {
            let block = self.free;
            self.free = self.next[block as usize];
            block
        } else {
            assert!(self.fresh < self.blocks, "nothing is taken beyond a reservation");
            self.fresh += 1;
            self.fresh - 1
        };
        self.next[block as usize] = NIL;
        self.taken += 1;
        block
    }

    fn give(&mut self, block: u32) {
        self.next[block as usize] = self.free;
        self.free = block;
        self.taken -= 1;
    }
}

/// Which reader of a ring asks; each keeps its place, so that sequential access walks no chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cursor {
    /// First sending, or in-order storing.
    Sequential = 0,
    /// Retransmission, or storing out of order.
    Random = 1,
}

/// A window of a byte stream, in a chain of blocks. Offsets are absolute.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Offset of the first byte of the first block; a multiple of the block size.
    base: u64,
    head: u32,
    tail: u32,
    held: u32,
    reserved: u32,
    /// Whose reservations these are; nobody's in particular if the owner of the node asked.
    pub(crate) account: Option<u32>,
    /// (number counted from offset 0, block)
    cursors: [(u64, u32); 2],
}

impl Ring {
    pub(crate) const fn new() -> Self {
        Ring {
            base: 0,
            head: NIL,
            tail: NIL,
            held: 0,
            reserved: 0,
            account: None,
            cursors: [(0, NIL); 2],
        }
    }

    pub(crate) fn reserved(&self) -> u32 {
        self.reserved
    }

    /// The offset up to which bytes may be put.
    pub(crate) fn limit(&self) -> u64 {
        self.base + u64::from(self.reserved) * B
    }

    /// Reserves blocks until it has `wanted`, if the pool has as many.
    pub(crate) fn reserve(&mut self, pool: &mut Pool<'_>, wanted: u32) -> bool {
        let more = wanted.saturating_sub(self.reserved);
        let granted = pool.reserve(self.account, more);
        if granted {
            self.reserved += more;
        }
        granted
    }

    /// Grows towards `wanted` blocks as far as fairness allows: a ring larger than `floor`
    /// never has more than what is left to all others, nor do all rings of its account.
    pub(crate) fn grow(&mut self, pool: &mut Pool<'_>, wanted: u32, floor: u32) -> bool {
        let mut fair = (self.reserved + pool.unreserved()) / 2;
        if self.account.is_some() {
            fair = fair.min(self.reserved + pool.share_left(self.account));
        }
        let wanted = wanted.min(fair.max(floor));
        wanted > self.reserved && self.reserve(pool, wanted)
    }

    /// Gives back reservations that neither hold bytes nor are needed to reach `end`, down to
    /// `floor`.
    pub(crate) fn shrink(&mut self, pool: &mut Pool<'_>, end: u64, floor: u32) {
        let needed = (end.saturating_sub(self.base)).div_ceil(B) as u32;
        let keep = needed.max(self.held).max(floor);
        if keep < self.reserved {
            pool.unreserve(self.account, self.reserved - keep);
            self.reserved = keep;
        }
    }

    /// Copies `bytes` to offset `at`.
    pub(crate) fn put(&mut self, pool: &mut Pool<'_>, cursor: Cursor, at: u64, bytes: &[u8]) {
        assert!(at >= self.base && at + bytes.len() as u64 <= self.limit());
        let (mut at, mut bytes) = (at, bytes);
        while !bytes.is_empty() {
            let block = self.locate(pool, cursor, at / B);
            let from = (at % B) as usize;
            let n = bytes.len().min(BLOCK - from);
            let start = block as usize * BLOCK + from;
            pool.bytes[start..start + n].copy_from_slice(&bytes[..n]);
            at += n as u64;
            bytes = &bytes[n..];
        }
    }

    /// Copies from offset `at` into all of `out`; the bytes must have been put.
    pub(crate) fn get(&mut self, pool: &mut Pool<'_>, cursor: Cursor, at: u64, out: &mut [u8]) {
        let (mut at, mut done) = (at, 0);
        while done < out.len() {
            let block = self.locate(pool, cursor, at / B);
            let from = (at % B) as usize;
            let n = (out.len() - done).min(BLOCK - from);
            let start = block as usize * BLOCK + from;
            out[done..done + n].copy_from_slice(&pool.bytes[start..start + n]);
            at += n as u64;
            done += n;
        }
    }

    /// Gives back the blocks that lie wholly below `at`.
    pub(crate) fn release_below(&mut self, pool: &mut Pool<'_>, at: u64) {
        while self.base + B <= at {
            if self.held == 0 {
                self.base = at / B * B;
                return;
            }
            self.drop_head(pool);
            self.base += B;
        }
    }

    /// Gives back all blocks: nothing is stored, and the next byte goes to `at`.
    pub(crate) fn release_all(&mut self, pool: &mut Pool<'_>, at: u64) {
        while self.held > 0 {
            self.drop_head(pool);
        }
        self.base = at / B * B;
        // The block of this number may soon be another one.
        self.cursors = [(0, NIL); 2];
    }

    /// Gives back blocks and reservations.
    pub(crate) fn close(&mut self, pool: &mut Pool<'_>) {
        self.release_all(pool, self.base);
        pool.unreserve(self.account, self.reserved);
        self.reserved = 0;
    }

    fn drop_head(&mut self, pool: &mut Pool<'_>) {
        let next = pool.next[self.head as usize];
        pool.give(self.head);
        self.head = next;
        self.held -= 1;
        if self.held == 0 {
            self.tail = NIL;
        }
    }

    /// The block with number `number`; takes blocks from the pool up to it.
    fn locate(&mut self, pool: &mut Pool<'_>, cursor: Cursor, number: u64) -> u32 {
        let first = self.base / B;
        assert!(number >= first && number < first + u64::from(self.reserved), "outside the ring");
        if self.held == 0 {
            self.head = pool.take();
            self.tail = self.head;
            self.held = 1;
        }
        while first + u64::from(self.held) <= number {
            let block = pool.take();
            pool.next[self.tail as usize] = block;
            self.tail = block;
            self.held += 1;
        }
        debug_assert!(self.held <= self.reserved);
        if number == first + u64::from(self.held) - 1 {
            return self.tail;
        }
        let kept = self.cursors[cursor as usize];
        let (mut n, mut block) = if kept.1 != NIL && kept.0 >= first && kept.0 <= number {
            kept
        } else {
            (first, self.head)
        };
        while n < number {
            block = pool.next[block as usize];
            n += 1;
        }
        self.cursors[cursor as usize] = (n, block);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(at: u64) -> u8 {
        (at ^ at >> 8 ^ at >> 16) as u8
    }

    fn pool(blocks: usize) -> Pool<'static> {
        let links = Store::<u32>::boxed_with(blocks, || 0);
        Pool::new(Store::boxed_zeroed(blocks * BLOCK), links, Store::<u32>::growing(2))
    }

    #[test]
    fn nobody_reserves_more_than_there_is() {
        let mut pool = pool(8);
        let (mut a, mut b) = (Ring::new(), Ring::new());
        assert!(a.reserve(&mut pool, 5));
        assert!(!b.reserve(&mut pool, 4));
        assert!(b.reserve(&mut pool, 3));
        assert_eq!((pool.unreserved(), pool.taken()), (0, 0));
        a.put(&mut pool, Cursor::Sequential, 3 * B, b"x");
        assert_eq!(pool.taken(), 4);
        a.release_all(&mut pool, 3 * B + 1);
        assert_eq!((pool.taken(), a.limit()), (0, 8 * B));
        a.close(&mut pool);
        b.close(&mut pool);
        assert_eq!((pool.unreserved(), pool.taken()), (8, 0));
    }

    #[test]
    fn growth_leaves_as_much_to_others() {
        let mut pool = pool(100);
        let mut rings = [const { Ring::new() }; 4];
        for ring in &mut rings {
            assert!(ring.reserve(&mut pool, 3));
            ring.grow(&mut pool, 1000, 3);
        }
        assert_eq!(rings.each_ref().map(Ring::reserved), [50, 25, 12, 6]);
    }

    proptest! {
        /// Two rings in one pool: bytes put anywhere in the window come out unchanged, and
        /// blocks are neither lost nor shared.
        #[test]
        fn rings_keep_their_bytes(
            ops in prop::collection::vec((0usize..2, 0u8..4, 0u64..3 * B, 1usize..40_000), 0..60)
        ) {
            let mut pool = pool(12);
            let mut rings = [Ring::new(), Ring::new()];
            let mut state = [(0u64, 0u64); 2];
            for ring in &mut rings {
                prop_assert!(ring.reserve(&mut pool, 6));
            }
            for (i, op, off, len) in ops {
                let (ring, (low, high)) = (&mut rings[i], &mut state[i]);
                let cursor = if off % 2 == 0 { Cursor::Sequential } else { Cursor::Random };
                match op {
                    0 | 1 => {
                        let end = (*high + len as u64).min(ring.limit());
                        let bytes: std::vec::Vec<u8> =
                            (*high..end).map(|at| pattern(at) ^ i as u8).collect();
                        ring.put(&mut pool, cursor, *high, &bytes);
                        *high = end;
                    }
                    2 => {
                        let at = (*low + off).min(*high);
                        let mut out = std::vec![0; len.min((*high - at) as usize)];
                        ring.get(&mut pool, cursor, at, &mut out);
                        for (n, byte) in out.iter().enumerate() {
                            prop_assert_eq!(*byte, pattern(at + n as u64) ^ i as u8);
                        }
                    }
                    _ => {
                        *low = (*low + off).min(*high);
                        if *low == *high {
                            ring.release_all(&mut pool, *low);
                        } else {
                            ring.release_below(&mut pool, *low);
                        }
                    }
                }
                prop_assert_eq!(pool.taken(), rings[0].held + rings[1].held);
                prop_assert!(rings.iter().all(|r| r.held <= r.reserved));
            }
            for ring in &mut rings {
                ring.close(&mut pool);
            }
            prop_assert_eq!((pool.unreserved(), pool.taken()), (12, 0));
        }
    }
}
