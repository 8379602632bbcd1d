//! The sending half of a stream: its ring, what of it was sent, acknowledged and lost, and
//! which segment goes next (`wire.md` 11).
//!
//! Offsets count bytes from 0 in 64 bits; on the wire offset n is number ISN + 1 + n. The FIN
//! has the offset of the end. Bytes leave the ring when they are acknowledged: by the header's
//! or the FD's acknowledgement number, or because every frame that carried them is.

use super::buffer::{Cursor, Pool, Ring};
use super::frame::Marks;
use super::range::RangeSet;
use crate::limits::{BLOCK, BLOCKS_GUARANTEED_SEND, STREAM_WINDOW_MAX, WINDOW_UNIT};
use crate::planted::{self, Defect};

/// Separate ranges of lost bytes, and of bytes acknowledged out of order.
const RANGES: usize = 32;

/// Bytes that may always wait to be sent for the first time: four trains.
const UNSENT_MIN: u64 = 256 * 1024;

/// Where one of the two sequence-numbered controls is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Control {
    /// Not asked for.
    None,
    /// To be sent, or sent again.
    Due,
    Sent,
    Acknowledged,
}

/// The next segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) len: usize,
    pub(crate) marks: Marks,
    /// Sent before.
    pub(crate) repeat: bool,
}

#[derive(Debug)]
pub(crate) struct SendHalf {
    pub(crate) isn: u32,
    /// Everything below is acknowledged.
    pub(crate) una: u64,
    /// Everything below was sent once.
    pub(crate) nxt: u64,
    /// Everything below was written.
    pub(crate) end: u64,
    /// Highest offset that the peer's window ever allowed.
    pub(crate) edge: u64,
    pub(crate) ring: Ring,
    lost: RangeSet<RANGES>,
    acked: RangeSet<RANGES>,
    pub(crate) syn: Control,
    pub(crate) fin: Control,
    /// A zero-window probe is due.
    pub(crate) probe_due: bool,
    /// The byte at `nxt` was sent as a probe, so its acknowledgement is possible.
    probed: bool,
    /// Probes since the window closed.
    pub(crate) probes: u8,
    /// A header for its acknowledgement alone is due.
    pub(crate) ack_due: bool,
    /// A reset is due, with this code.
    pub(crate) reset_due: Option<u8>,
    /// The bytes are gone: nothing but a reset is sent any more.
    pub(crate) abandoned: bool,
    /// The writer was told to wait.
    pub(crate) writer_waits: bool,
    /// Somebody was told that not everything is acknowledged, and waits.
    pub(crate) ack_waits: bool,
}

impl SendHalf {
    pub(crate) const fn new(isn: u32) -> Self {
        SendHalf {
            isn,
            una: 0,
            nxt: 0,
            end: 0,
            edge: 0,
            ring: Ring::new(),
            lost: RangeSet::new(),
            acked: RangeSet::new(),
            syn: Control::Due,
            fin: Control::None,
            probe_due: false,
            probed: false,
            probes: 0,
            ack_due: false,
            reset_due: None,
            abandoned: false,
            writer_waits: false,
            ack_waits: false,
        }
    }

    /// The sequence number of `offset`.
    pub(crate) fn sequence(&self, offset: u64) -> u32 {
        self.isn.wrapping_add(1).wrapping_add(offset as u32)
    }

    /// The number after the last one we used: what a reset carries.
    pub(crate) fn next_sequence(&self) -> u32 {
        let fin = matches!(self.fin, Control::Sent | Control::Acknowledged);
        self.sequence(self.nxt + u64::from(fin && self.nxt == self.end))
    }

    /// Writes what fits; the ring grows towards `blocks`.
    pub(crate) fn write(&mut self, pool: &mut Pool<'_>, blocks: u32, bytes: &[u8]) -> usize {
        let room = |ring: &Ring, end: u64| (ring.limit() - end) as usize;
        while room(&self.ring, self.end) < bytes.len() {
            let wanted = (self.ring.reserved() * 2).max(4).min(blocks);
            if !self.ring.grow(pool, wanted, BLOCKS_GUARANTEED_SEND as u32) {
                break;
            }
        }
        let unsent = self.end - self.nxt;
        let ahead = Self::unsent_max(blocks).saturating_sub(unsent) as usize;
        let n = room(&self.ring, self.end).min(ahead).min(bytes.len());
        self.ring.put(pool, Cursor::Sequential, self.end, &bytes[..n]);
        self.end += n as u64;
        n
    }

    /// The most blocks worth having for a congestion window.
    pub(crate) fn blocks_for(window: u64) -> u32 {
        let bytes = (window.saturating_mul(2)).min(STREAM_WINDOW_MAX as u64) as usize;
        (bytes.div_ceil(BLOCK) + 4).min(STREAM_WINDOW_MAX / BLOCK) as u32
    }

    /// How far a writer may be ahead of what was sent: half of a congestion window, so that the
    /// path never waits for the writer, and no more, so that bytes are sent while they are still
    /// in the processor's cache.
    const fn unsent_max(blocks: u32) -> u64 {
        let quarter = blocks as u64 * BLOCK as u64 / 4;
        if quarter > UNSENT_MIN { quarter } else { UNSENT_MIN }
    }

    /// The window field of a segment that acknowledged `una` and said `window`.
    pub(crate) fn on_window(&mut self, acked: u64, window: u16) {
        let edge = acked + u64::from(window) * WINDOW_UNIT as u64;
        if edge > self.edge {
            self.edge = edge;
            if self.edge > self.nxt {
                self.probe_due = false;
                self.probes = 0;
            }
        }
    }

    /// The offset that acknowledgement number `ack` means: `None` if it is beyond what was
    /// sent (W-T9). A FIN's number counts one beyond the end.
    pub(crate) fn offset_of_ack(&self, ack: u32) -> Option<u64> {
        let distance = ack.wrapping_sub(self.sequence(self.una)) as i32;
        let fin = self.nxt == self.end && matches!(self.fin, Control::Sent | Control::Acknowledged);
        let most = self.nxt + u64::from(fin || self.probed);
        let offset = self.una.checked_add_signed(i64::from(distance));
        match offset {
            Some(offset) => (offset <= most).then_some(offset),
            // Below the first byte: an old number, or the SYN not acknowledged.
            None => Some(0),
        }
    }

    /// The peer has everything below `offset` (one more than the end: and the FIN).
    pub(crate) fn on_cumulative(&mut self, offset: u64) {
        if offset > self.end && matches!(self.fin, Control::Sent | Control::Due) {
            self.fin = Control::Acknowledged;
        }
        let data = offset.min(self.end);
        if data > self.nxt {
            // The probe's byte was taken.
            self.nxt = data;
            self.probed = false;
            self.probe_due = false;
        }
        self.advance(data);
    }

    /// A frame with these bytes has arrived.
    pub(crate) fn on_delivered(&mut self, offset: u64, len: u32, marks: Marks) {
        if marks.has(Marks::FIN) {
            self.fin = Control::Acknowledged;
        }
        if marks.has(Marks::PROBE) || len == 0 {
            return;
        }
        let end = offset + u64::from(len);
        self.lost.remove(offset, end);
        if offset <= self.una {
            self.advance(end);
        } else if self.acked.insert(offset, end).is_err() {
            // Forgetting that it arrived is safe as long as it is sent again.
            self.on_lost(offset, len, Marks::default());
        }
    }

    fn advance(&mut self, offset: u64) {
        let mut una = self.una.max(offset);
        if let Some((start, end)) = self.acked.first()
            && start <= una
        {
            una = una.max(end);
        }
        if una > self.una {
            self.una = una;
            self.acked.remove_below(una);
            self.lost.remove_below(una);
        }
    }

    /// Frees what is acknowledged.
    pub(crate) fn free(&mut self, pool: &mut Pool<'_>) {
        if self.una == self.end {
            self.ring.release_all(pool, self.una);
            self.ring.shrink(pool, self.una, BLOCKS_GUARANTEED_SEND as u32);
        } else {
            self.ring.release_below(pool, self.una);
            if pool.is_scarce() {
                self.ring.shrink(pool, self.end, BLOCKS_GUARANTEED_SEND as u32);
            }
        }
    }

    /// Whether a waiting writer is worth waking.
    pub(crate) fn has_room(&self, blocks: u32) -> bool {
        if self.end - self.nxt > Self::unsent_max(blocks) / 2 {
            return false;
        }
        let room = self.ring.limit() - self.end;
        self.una == self.end
            || room >= u64::from(self.ring.reserved()) * BLOCK as u64 / 4
            || self.ring.reserved() * 2 <= blocks
    }

    /// A frame with these bytes is lost.
    pub(crate) fn on_lost(&mut self, offset: u64, len: u32, marks: Marks) {
        if marks.has(Marks::SYN) && self.syn == Control::Sent {
            self.syn = Control::Due;
        }
        if marks.has(Marks::FIN) && self.fin == Control::Sent && !planted::has(Defect::FinLost) {
            self.fin = Control::Due;
        }
        if marks.has(Marks::ACK) {
            self.ack_due = true;
        }
        let (start, end) = (offset.max(self.una), offset + u64::from(len));
        if marks.has(Marks::PROBE) || start >= end || planted::has(Defect::RetransmissionSkipped) {
            return;
        }
        self.lost.insert_merging(start, end);
        for (from, to) in self.acked.iter() {
            if from < end && to > start {
                self.lost.remove(from, to);
            }
        }
    }

    /// Nothing more of this half can come, nothing is waited for.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.una == self.end && matches!(self.fin, Control::None | Control::Acknowledged)
    }

    /// All that was written has been sent, and nothing has to be sent again.
    pub(crate) fn is_blocked_by_window(&self) -> bool {
        self.nxt < self.end && self.nxt >= self.edge && self.una == self.nxt
    }

    /// The next segment of at most `most` bytes. `open`: both ends know each other's numbers.
    pub(crate) fn next(&self, open: bool, most: usize) -> Option<Segment> {
        let bare = |marks| Segment { offset: self.nxt, len: 0, marks, repeat: false };
        if self.reset_due.is_some() {
            return Some(bare(Marks::RST));
        }
        if self.abandoned {
            return None;
        }
        if self.syn == Control::Due {
            return Some(Segment { offset: 0, ..bare(Marks::SYN) });
        }
        if !open {
            return None;
        }
        if let Some((start, end)) = self.lost.first() {
            let len = (end - start).min(most as u64) as usize;
            let fin = self.fin == Control::Due && start + len as u64 == self.end;
            let marks = Marks::default().with(Marks::FIN, fin);
            return Some(Segment { offset: start, len, marks, repeat: true });
        }
        let allowed = self.end.min(self.edge).saturating_sub(self.nxt);
        if allowed > 0 {
            let len = allowed.min(most as u64) as usize;
            // No slivers while an acknowledgement is coming that may open the window
            // (RFC 9293 3.8.6.2.1).
            let sliver = len < most && self.nxt + (len as u64) < self.end && self.una < self.nxt;
            if !sliver {
                let last = self.nxt + len as u64 == self.end || planted::has(Defect::FinEarly);
                let fin = self.fin == Control::Due && last;
                let marks = Marks::default().with(Marks::FIN, fin);
                return Some(Segment { len, marks, ..bare(Marks::default()) });
            }
        }
        if self.fin == Control::Due && self.nxt == self.end {
            return Some(bare(Marks::FIN));
        }
        if self.probe_due && self.is_blocked_by_window() {
            return Some(Segment { len: 1, ..bare(Marks::PROBE) });
        }
        self.ack_due.then(|| bare(Marks::ACK))
    }

    /// The segment is in a frame now.
    pub(crate) fn on_sent(&mut self, segment: &Segment) {
        let Segment { offset, len, marks, repeat } = *segment;
        let end = offset + len as u64;
        if marks.has(Marks::RST) {
            self.reset_due = None;
        }
        if marks.has(Marks::SYN) {
            self.syn = Control::Sent;
        }
        if marks.has(Marks::FIN) {
            self.fin = Control::Sent;
        }
        self.ack_due = false;
        if marks.has(Marks::PROBE) {
            self.probe_due = false;
            self.probed = true;
            self.probes = self.probes.saturating_add(1);
        } else if repeat {
            self.lost.remove(offset, end);
        } else if len > 0 {
            self.nxt = end;
            self.probed = false;
        }
    }

    /// Gives the bytes back: the stream has ended otherwise than by being acknowledged. Frames
    /// in flight outlive it, and must not be sent again when they are lost or probed. Who
    /// waits is told the end, not that there is room.
    pub(crate) fn abandon(&mut self, pool: &mut Pool<'_>) {
        self.abandoned = true;
        self.writer_waits = false;
        self.ack_waits = false;
        self.ring.close(pool);
    }

    /// Copies the segment's bytes out of the ring.
    pub(crate) fn copy(&mut self, pool: &mut Pool<'_>, segment: &Segment, out: &mut [u8]) {
        let cursor = if segment.repeat { Cursor::Random } else { Cursor::Sequential };
        self.ring.get(pool, cursor, segment.offset, out);
    }

    /// Everything that was sent goes again: the peer has a new session or never answered.
    pub(crate) fn restart_syn(&mut self) {
        if self.syn == Control::Sent {
            self.syn = Control::Due;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Store;
    use proptest::prelude::*;

    fn pool(blocks: usize) -> Pool<'static> {
        let links = Store::<u32>::boxed_with(blocks, || 0);
        Pool::new(Store::boxed_zeroed(blocks * BLOCK), links, Store::<u32>::growing(2))
    }

    fn open(isn: u32, edge: u64) -> SendHalf {
        SendHalf { edge, syn: Control::Acknowledged, ..SendHalf::new(isn) }
    }

    #[test]
    fn acknowledgements_beyond_what_was_sent_are_not_believed() {
        let mut pool = pool(8);
        let mut half = open(u32::MAX - 5, 1000);
        half.write(&mut pool, 4, &[1; 100]);
        assert_eq!(half.offset_of_ack(half.sequence(1)), None);
        let segment = half.next(true, 50).unwrap();
        half.on_sent(&segment);
        assert_eq!(half.offset_of_ack(half.sequence(50)), Some(50));
        assert_eq!(half.offset_of_ack(half.sequence(51)), None);
        assert_eq!(half.offset_of_ack(half.isn), Some(0), "the SYN itself");
        half.on_cumulative(50);
        assert_eq!(half.offset_of_ack(half.sequence(10)), Some(10), "old, but possible");
        half.on_cumulative(10);
        assert_eq!(half.una, 50);
    }

    #[test]
    fn an_abandoned_half_sends_a_reset_and_nothing_else() {
        let mut pool = pool(8);
        let mut half = open(7, 1000);
        half.write(&mut pool, 4, &[1; 100]);
        let segment = half.next(true, 50).unwrap();
        half.on_sent(&segment);
        half.reset_due = Some(3);
        half.abandon(&mut pool);
        let reset = half.next(true, 50).unwrap();
        assert!(reset.marks.has(Marks::RST));
        half.on_sent(&reset);
        half.on_lost(segment.offset, segment.len as u32, segment.marks);
        assert_eq!(half.next(true, 50), None);
    }

    #[test]
    fn fin_follows_all_data_and_needs_no_window() {
        let mut pool = pool(8);
        let mut half = open(0, 80);
        half.write(&mut pool, 4, &[1; 80]);
        half.fin = Control::Due;
        let first = half.next(true, 50).unwrap();
        assert!(!first.marks.has(Marks::FIN));
        half.on_sent(&first);
        let second = half.next(true, 50).unwrap();
        assert_eq!((second.offset, second.len, second.marks.has(Marks::FIN)), (50, 30, true));
        half.on_sent(&second);
        assert_eq!(half.next(true, 50), None);
        half.on_lost(50, 30, second.marks);
        assert_eq!(half.next(true, 50), Some(Segment { repeat: true, ..second }));
        half.on_lost(0, 50, first.marks);
        assert_eq!(half.next(true, 50).unwrap().offset, 0, "older bytes go first");
    }

    #[test]
    fn a_closed_window_is_probed_with_one_byte() {
        let mut pool = pool(8);
        let mut half = open(0, 0);
        half.write(&mut pool, 4, &[1; 10]);
        assert!(half.is_blocked_by_window());
        assert_eq!(half.next(true, 50), None);
        half.probe_due = true;
        let probe = half.next(true, 50).unwrap();
        assert_eq!((probe.offset, probe.len, probe.marks.has(Marks::PROBE)), (0, 1, true));
        half.on_sent(&probe);
        assert_eq!((half.nxt, half.next(true, 50)), (0, None));
        half.on_delivered(0, 1, probe.marks);
        assert_eq!(half.una, 0, "an answered probe is no byte taken");
        assert_eq!(half.offset_of_ack(half.sequence(1)), Some(1), "unless its number is told");
        half.on_cumulative(1);
        assert_eq!((half.una, half.nxt), (1, 1));
    }

    proptest! {
        /// Segments cut at random sizes, lost and delivered at random: the half ends with
        /// everything acknowledged, and never sends outside what was written.
        #[test]
        fn lost_bytes_are_sent_until_they_arrive(
            total in 1usize..5000, seed: u64, loss in 0u64..60
        ) {
            let mut pool = pool(8);
            let mut half = open(7, total as u64);
            prop_assert_eq!(half.write(&mut pool, 4, &std::vec![3; total]), total);
            half.fin = Control::Due;
            let mut rng = crate::rng::Rng::new([seed as u8; 32]);
            let mut flight = std::vec::Vec::new();
            for _ in 0..100_000 {
                let most = 1 + rng.below(300) as usize;
                if rng.below(3) < 2 && let Some(segment) = half.next(true, most) {
                    prop_assert!(segment.offset + segment.len as u64 <= total as u64);
                    prop_assert!(!segment.marks.has(Marks::FIN)
                        || segment.offset + segment.len as u64 == total as u64);
                    half.on_sent(&segment);
                    flight.push(segment);
                } else if !flight.is_empty() {
                    let at = rng.below(flight.len() as u64) as usize;
                    let segment = flight.swap_remove(at);
                    if rng.below(100) < loss {
                        half.on_lost(segment.offset, segment.len as u32, segment.marks);
                    } else {
                        half.on_delivered(segment.offset, segment.len as u32, segment.marks);
                    }
                    half.free(&mut pool);
                }
                if half.is_idle() {
                    break;
                }
            }
            prop_assert!(half.is_idle());
            prop_assert_eq!(pool.taken(), 0);
        }
    }
}
