//! Frame acknowledgements (`wire.md` 11): what of a session has arrived, when to say so, and
//! the `FD` frame that says it.
//!
//! ```text
//! FD ‖ index 4 ‖ largest 8 ‖ delay 2 (8 µs) ‖ n 1 ‖ first 4 ‖ n × (gap 4, run 4)
//!    ‖ m 1 ‖ m × (port of the FD's sender 2, port of its receiver 2, ack 4, window 2)
//! ```

use super::range::RangeSet;
use crate::addr::Port;
use crate::limits::{
    ACK_DELAY_MAX, ACK_FRAMES, ACK_FRAMES_AFTER_GAP, ACK_FRAMES_RIDING, ACK_RANGES,
};
use crate::time::{Duration, Instant};

/// First byte of the frame.
pub const ACKNOWLEDGEMENT: u8 = 0xFD;
/// Bytes of an acknowledgement with one range and no stream entry.
pub(crate) const FD_MIN: usize = 21;
const RANGE: usize = 8;
pub(crate) const ENTRY: usize = 10;
/// Unit of the delay field.
const DELAY_UNIT_NS: u64 = 8_000;
/// Quarter round trips below this do not hold an acknowledgement back any shorter: a request
/// answered within it carries its acknowledgement along.
const ACK_DELAY_MIN: Duration = Duration::from_millis(1);

/// One stream's line in an acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) sender_port: Port,
    pub(crate) receiver_port: Port,
    pub(crate) ack: u32,
    pub(crate) window: u16,
}

/// A checked `FD` frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledgement<'a> {
    pub(crate) index: u32,
    pub(crate) largest: u64,
    pub(crate) delay: Duration,
    first: u32,
    ranges: &'a [[u8; RANGE]],
    entries: &'a [[u8; ENTRY]],
}

fn be16(b: &[u8]) -> u16 {
    u16::from_be_bytes([b[0], b[1]])
}

fn be32(b: &[u8]) -> u32 {
    u32::from_be_bytes([b[0], b[1], b[2], b[3]])
}

impl<'a> Acknowledgement<'a> {
    /// `None` for anything but exactly one well-formed acknowledgement.
    pub(crate) fn decode(frame: &'a [u8]) -> Option<Self> {
        let (head, rest) = frame.split_first_chunk::<20>()?;
        if head[0] != ACKNOWLEDGEMENT {
            return None;
        }
        let n = usize::from(head[15]);
        let ranges = rest.get(..n * RANGE)?;
        let (m, entries) = rest[n * RANGE..].split_first()?;
        let m = usize::from(*m);
        if n > ACK_RANGES || m > ACK_RANGES || entries.len() != m * ENTRY {
            return None;
        }
        let largest = u64::from_be_bytes([
            head[5], head[6], head[7], head[8], head[9], head[10], head[11], head[12],
        ]);
        let ack = Acknowledgement {
            index: be32(&head[1..5]),
            largest,
            delay: Duration::from_nanos(u64::from(be16(&head[13..15])) * DELAY_UNIT_NS),
            first: be32(&head[16..20]),
            ranges: ranges.as_chunks().0,
            entries: entries.as_chunks().0,
        };
        // Every range must lie at or above counter 0 and hold something.
        let mut low = largest.checked_add(1)?.checked_sub(u64::from(ack.first))?;
        if ack.first == 0 {
            return None;
        }
        for pair in ack.ranges {
            let (gap, run) = (be32(&pair[..4]), be32(&pair[4..]));
            if gap == 0 || run == 0 {
                return None;
            }
            low = low.checked_sub(u64::from(gap))?.checked_sub(u64::from(run))?;
        }
        Some(ack)
    }

    /// The ranges `start..end`, newest first.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let end = self.largest + 1;
        let first = (end - u64::from(self.first), end);
        let mut low = first.0;
        core::iter::once(first).chain(self.ranges.iter().map(move |pair| {
            let end = low - u64::from(be32(&pair[..4]));
            low = end - u64::from(be32(&pair[4..]));
            (low, end)
        }))
    }

    /// Whether it says that this frame has arrived.
    pub(crate) fn covers(&self, counter: u64) -> bool {
        self.ranges().any(|range| range.0 <= counter && counter < range.1)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.entries.iter().map(|b| Entry {
            sender_port: Port(be16(&b[..2])),
            receiver_port: Port(be16(&b[2..4])),
            ack: be32(&b[4..8]),
            window: be16(&b[8..]),
        })
    }
}

/// Writes an `FD` frame piece by piece.
pub(crate) struct Encoder<'a> {
    out: &'a mut [u8],
    len: usize,
    entries_at: usize,
}

impl<'a> Encoder<'a> {
    /// Head and ranges (ascending in `ranges`); leaves room for at least one entry if it can.
    /// `None` if `out` is shorter than the smallest acknowledgement or nothing was received.
    pub(crate) fn new(
        out: &'a mut [u8],
        index: u32,
        mut ranges: impl DoubleEndedIterator<Item = (u64, u64)>,
        delay: Duration,
    ) -> Option<Self> {
        let (start, end) = ranges.next_back()?;
        if out.len() < FD_MIN {
            return None;
        }
        let room = (out.len() - FD_MIN).saturating_sub(ENTRY) / RANGE;
        let delay = (delay.as_nanos() / u128::from(DELAY_UNIT_NS)).min(u128::from(u16::MAX)) as u16;
        // A run longer than its field (2^32 frames without a gap) is told from its upper end.
        let first = u32::try_from(end - start).unwrap_or(u32::MAX);
        out[0] = ACKNOWLEDGEMENT;
        out[1..5].copy_from_slice(&index.to_be_bytes());
        out[5..13].copy_from_slice(&(end - 1).to_be_bytes());
        out[13..15].copy_from_slice(&delay.to_be_bytes());
        out[16..20].copy_from_slice(&first.to_be_bytes());
        let (mut len, mut n, mut low) = (20, 0u8, end - u64::from(first));
        for (start, end) in ranges.rev().take(room.min(ACK_RANGES)) {
            let (Ok(gap), Ok(run)) = (u32::try_from(low - end), u32::try_from(end - start)) else {
                break;
            };
            out[len..len + 4].copy_from_slice(&gap.to_be_bytes());
            out[len + 4..len + 8].copy_from_slice(&run.to_be_bytes());
            (len, n, low) = (len + RANGE, n + 1, start);
        }
        out[15] = n;
        out[len] = 0;
        Some(Encoder { out, len: len + 1, entries_at: len })
    }

    /// Whether one more stream fits.
    pub(crate) fn has_room(&self) -> bool {
        usize::from(self.out[self.entries_at]) < ACK_RANGES && self.len + ENTRY <= self.out.len()
    }

    pub(crate) fn entry(&mut self, entry: Entry) {
        let b = &mut self.out[self.len..self.len + ENTRY];
        b[..2].copy_from_slice(&entry.sender_port.0.to_be_bytes());
        b[2..4].copy_from_slice(&entry.receiver_port.0.to_be_bytes());
        b[4..8].copy_from_slice(&entry.ack.to_be_bytes());
        b[8..].copy_from_slice(&entry.window.to_be_bytes());
        self.len += ENTRY;
        self.out[self.entries_at] += 1;
    }

    pub(crate) fn finish(self) -> usize {
        self.len
    }
}

/// Ranges that are remembered: more than one acknowledgement tells, so that what reordering has
/// scattered is not forgotten before it joins.
const REMEMBERED: usize = 2 * ACK_RANGES;

/// What has arrived under one session index.
///
/// | Event | Acknowledgement due |
/// |---|---|
/// | a frame opens or closes a gap, or asks for it (FIN, probe) | at once |
/// | 16 eliciting frames (4 within a round trip after a gap) | at once |
/// | 12 eliciting frames | with the next data |
/// | end of a receive batch with two or more of them | at once |
/// | a single eliciting frame | after a quarter round trip, 1 to 25 ms |
/// | anything else | never |
///
/// Opaque: a pool of these is part of [`super::TransportStorage`].
#[derive(Clone, Debug)]
pub struct AckSpace {
    pub(crate) index: u32,
    received: RangeSet<REMEMBERED>,
    largest_at: Instant,
    pending: u32,
    /// Eliciting frames of the present receive batch.
    batch: u32,
    due: Option<Instant>,
    gap_until: Instant,
    /// Largest counters at the last two marks: ranges below the older one have been told for
    /// two marks' time and are forgotten, so that acknowledgements stay short.
    marks: [u64; 2],
    marked_at: Instant,
}

impl AckSpace {
    pub(crate) fn new(now: Instant, index: u32) -> Self {
        AckSpace {
            index,
            received: RangeSet::new(),
            largest_at: now,
            pending: 0,
            batch: 0,
            due: None,
            gap_until: Instant::START,
            marks: [0; 2],
            marked_at: now,
        }
    }

    /// Notes a frame; `rtt` is that of its path.
    pub(crate) fn on_frame(
        &mut self,
        now: Instant,
        counter: u64,
        eliciting: bool,
        immediate: bool,
        rtt: Option<Duration>,
    ) {
        let before = self.received.last();
        let runs = self.received.len();
        if self.received.insert(counter, counter + 1).is_err() {
            // The oldest range has been told most often.
            self.received.drop_first();
            let _ = self.received.insert(counter, counter + 1);
        }
        let newest = before.is_none_or(|(_, end)| counter >= end);
        // The first frame seen need not be counter 0: nothing is missing that we know of.
        let opens = before.is_some_and(|(_, end)| counter > end);
        let fills = !newest && self.received.len() <= runs;
        if newest {
            self.largest_at = now;
        }
        let rtt = rtt.unwrap_or(ACK_DELAY_MAX * 4);
        if opens || fills {
            self.gap_until = now + rtt;
        }
        self.prune(now, rtt);
        if !eliciting {
            return;
        }
        self.pending += 1;
        self.batch += 1;
        let many = if now < self.gap_until { ACK_FRAMES_AFTER_GAP } else { ACK_FRAMES };
        if immediate || opens || fills || self.pending >= many {
            self.due = Some(now);
        } else if self.due.is_none() {
            self.due = Some(now + (rtt / 4).clamp(ACK_DELAY_MIN, ACK_DELAY_MAX));
        }
    }

    fn prune(&mut self, now: Instant, rtt: Duration) {
        if now.since(self.marked_at) > (rtt * 2).max(ACK_DELAY_MAX * 2) {
            self.marked_at = now;
            while self.received.len() > 1
                && self.received.first().is_some_and(|(_, end)| end <= self.marks[1])
            {
                self.received.drop_first();
            }
            self.marks = [self.received.last().map_or(0, |r| r.1), self.marks[0]];
        }
    }

    /// The batch has ended: if it brought several frames, they are not held back.
    pub(crate) fn batch_end(&mut self, now: Instant) {
        if core::mem::take(&mut self.batch) >= 2 && self.pending > 0 {
            self.due = Some(now);
        }
    }

    /// Whether an acknowledgement may go with data now. Who answers what it is sent, message by
    /// message, then sends none alone, which would be a packet of its own and late for both.
    pub(crate) fn may_ride(&self) -> bool {
        self.pending >= ACK_FRAMES_RIDING
    }

    /// Makes an acknowledgement due now, whatever has arrived.
    pub(crate) fn expedite(&mut self, now: Instant) {
        self.due = Some(now);
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn largest_at(&self) -> Instant {
        self.largest_at
    }

    /// Starts the frame that acknowledges this session, and takes it as told.
    pub(crate) fn encode<'a>(&mut self, now: Instant, out: &'a mut [u8]) -> Option<Encoder<'a>> {
        self.due = None;
        self.pending = 0;
        Encoder::new(out, self.index, self.received.iter(), now.since(self.largest_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn bytes_are_as_specified() {
        let mut out = [0; 64];
        let ranges = [(1, 3), (5, 9), (10, 12)];
        let mut encoder =
            Encoder::new(&mut out, 0x8000_0001, ranges.into_iter(), Duration::from_micros(81))
                .unwrap();
        encoder.entry(Entry {
            sender_port: Port(7),
            receiver_port: Port(0xC000),
            ack: 9,
            window: 3,
        });
        let len = encoder.finish();
        assert_eq!(
            data_encoding::HEXLOWER.encode(&out[..len]),
            "fd80000001000000000000000b000a0200000002000000010000000400000002000000020100\
             07c000000000090003"
        );
        assert_eq!(len, 21 + 8 * 2 + 10);
        let ack = Acknowledgement::decode(&out[..len]).unwrap();
        assert_eq!(ack.ranges().collect::<Vec<_>>(), [(10, 12), (5, 9), (1, 3)]);
        assert_eq!(ack.delay, Duration::from_micros(80));
    }

    #[test]
    fn impossible_ranges_are_malformed() {
        let mut out = [0; 64];
        let len = Encoder::new(&mut out, 1, [(0, 2), (4, 6)].into_iter(), ms(0)).unwrap().finish();
        assert!(Acknowledgement::decode(&out[..len]).is_some());
        for (at, byte) in
            [(0, 0xFC), (15, 2), (19, 0), (19, 7), (23, 0), (23, 5), (27, 0), (27, 3), (28, 1)]
        {
            let mut bad = out;
            bad[at] = byte;
            assert!(Acknowledgement::decode(&bad[..len]).is_none(), "byte {at} = {byte}");
        }
        assert!(Acknowledgement::decode(&out[..len - 1]).is_none());
        assert!(Acknowledgement::decode(&out[..len + 1]).is_none());
        out[5..13].fill(0xFF);
        assert!(Acknowledgement::decode(&out[..len]).is_none(), "largest + 1 does not exist");
    }

    #[test]
    fn gaps_are_told_at_once_and_runs_seldom() {
        let start = Instant::from_nanos(1_000_000_000);
        let rtt = Some(ms(40));
        let mut space = AckSpace::new(start, 1);
        space.on_frame(start, 0, true, false, rtt);
        assert_eq!(space.due(), Some(start + ms(10)));
        for counter in 1..15 {
            space.on_frame(start, counter, true, false, rtt);
            assert_ne!(space.due(), Some(start));
            assert_eq!(space.may_ride(), counter >= 11, "of 16, three quarters");
        }
        space.on_frame(start, 15, true, false, rtt);
        assert_eq!(space.due(), Some(start));
        let mut out = [0; 64];
        space.encode(start, &mut out).unwrap();
        assert_eq!(space.due(), None);
        space.on_frame(start, 16, false, false, rtt);
        assert_eq!(space.due(), None, "what elicits nothing is only noted");
        space.on_frame(start, 18, true, false, rtt);
        assert_eq!(space.due(), Some(start), "a gap opens");
        space.encode(start, &mut out).unwrap();
        space.on_frame(start, 17, true, false, rtt);
        assert_eq!(space.due(), Some(start), "a gap closes");
        space.encode(start, &mut out).unwrap();
        for counter in 19..22 {
            space.on_frame(start, counter, true, false, rtt);
            assert_ne!(space.due(), Some(start));
        }
        space.on_frame(start, 22, true, false, rtt);
        assert_eq!(space.due(), Some(start), "four frames soon after a gap");
        space.encode(start, &mut out).unwrap();
        space.on_frame(start, 23, true, true, rtt);
        assert_eq!(space.due(), Some(start), "asked for");
        space.encode(start, &mut out).unwrap();
        space.batch_end(start);
        space.on_frame(start + ms(100), 24, true, false, rtt);
        space.batch_end(start + ms(100));
        assert_eq!(space.due(), Some(start + ms(110)), "a single frame waits for company");
        space.on_frame(start + ms(101), 25, true, false, rtt);
        space.batch_end(start + ms(101));
        assert_eq!(space.due(), Some(start + ms(110)), "also if it comes in its own batch");
        for counter in 26..28 {
            space.on_frame(start + ms(102), counter, true, false, rtt);
        }
        space.batch_end(start + ms(102));
        assert_eq!(space.due(), Some(start + ms(102)));
    }

    #[test]
    fn old_gaps_are_forgotten() {
        let mut space = AckSpace::new(Instant::START, 1);
        let mut now = Instant::START;
        for counter in (0..2000).filter(|c| c % 100 != 50) {
            space.on_frame(now, counter, true, false, Some(ms(10)));
            now += ms(1);
        }
        assert!(space.received.len() < 5, "{}", space.received.len());
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes(
            steps in prop::collection::vec((1u64..50, 1u64..50), 1..40),
            index: u32, delay_us in 0u64..600_000, room in 0usize..700,
            entries in prop::collection::vec((any::<u16>(), any::<u16>(), any::<u32>(), any::<u16>()), 0..40)
        ) {
            let mut ranges = Vec::new();
            let mut at = 0;
            for (gap, run) in steps {
                ranges.push((at + gap, at + gap + run));
                at += gap + run;
            }
            let mut out = std::vec![0; room];
            let encoder = Encoder::new(&mut out, index, ranges.iter().copied(), Duration::from_micros(delay_us));
            prop_assert_eq!(encoder.is_some(), room >= FD_MIN);
            if let Some(mut encoder) = encoder {
                let mut put = Vec::new();
                for (a, b, ack, window) in entries {
                    if encoder.has_room() {
                        let entry =
                            Entry { sender_port: Port(a), receiver_port: Port(b), ack, window };
                        encoder.entry(entry);
                        put.push(entry);
                    }
                }
                let len = encoder.finish();
                let ack = Acknowledgement::decode(&out[..len]).unwrap();
                prop_assert_eq!((ack.index, ack.largest), (index, at - 1));
                let told: Vec<_> = ack.ranges().collect();
                prop_assert!(told.len() <= 33);
                ranges.reverse();
                prop_assert_eq!(&told[..], &ranges[..told.len()]);
                prop_assert_eq!(ack.entries().collect::<Vec<_>>(), put);
            }
        }

        #[test]
        fn any_bytes_decode_or_not(mut bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            if let Some(first) = bytes.first_mut() {
                *first = ACKNOWLEDGEMENT;
            }
            if let Some(ack) = Acknowledgement::decode(&bytes) {
                for (start, end) in ack.ranges() {
                    prop_assert!(start < end);
                }
                let _ = ack.entries().count();
            }
        }
    }
}
