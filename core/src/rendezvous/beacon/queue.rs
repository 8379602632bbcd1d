//! Outgoing datagrams: a byte ring and a list of packets in it, both allocated once.
//!
//! A relay cannot build its packets from state when the socket is ready, so they wait here, in
//! the bytes they go out in; so do the beacon's own answers, which are as good as lost when
//! they do not fit. Consecutive packets of one length to one path leave as one train.

use crate::machine::{Ecn, Path, Transmit};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::num::{NonZeroU16, NonZeroUsize};

/// Mean packet length for which the list of packets suffices.
const MEAN: usize = 128;

#[derive(Clone, Copy, Debug)]
struct Packet {
    path: Path,
    at: u32,
    len: u32,
    ecn: Ecn,
}

pub(crate) struct PacketQueue {
    bytes: Box<[u8]>,
    packets: VecDeque<Packet>,
    packets_max: usize,
    /// Where the next packet is written.
    tail: usize,
}

impl PacketQueue {
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.clamp(64 * 1024, 1 << 30);
        let packets_max = bytes / MEAN;
        PacketQueue {
            bytes: alloc::vec![0; bytes].into_boxed_slice(),
            packets: VecDeque::with_capacity(packets_max),
            packets_max,
            tail: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Adds a datagram; `false` if there is no room.
    pub(crate) fn push(&mut self, path: Path, ecn: Ecn, datagram: &[u8]) -> bool {
        let len = datagram.len();
        let Some(at) = self.room(len).filter(|_| self.packets.len() < self.packets_max) else {
            return false;
        };
        self.bytes[at..at + len].copy_from_slice(datagram);
        self.tail = at + len;
        self.packets.push_back(Packet { path, at: at as u32, len: len as u32, ecn });
        true
    }

    /// Where `len` contiguous bytes are free, with at least one byte kept between tail and
    /// head so that full and empty differ.
    fn room(&self, len: usize) -> Option<usize> {
        let Some(first) = self.packets.front() else {
            return (len <= self.bytes.len()).then_some(0);
        };
        let head = first.at as usize;
        if self.tail > head {
            if self.bytes.len() - self.tail >= len {
                return Some(self.tail);
            }
            return (head > len).then_some(0);
        }
        (head - self.tail > len).then_some(self.tail)
    }

    /// Writes the next datagrams to `out`: one, or a train of equal ones to one path.
    pub(crate) fn pop(&mut self, out: &mut [u8], max_segments: NonZeroUsize) -> Option<Transmit> {
        // What is longer than the caller's buffer can never leave.
        while self.packets.front().is_some_and(|first| first.len as usize > out.len()) {
            self.packets.pop_front();
        }
        let first = self.packets.pop_front()?;
        let (mut len, mut segments) = (0, 0);
        let mut next = Some(first);
        while let Some(packet) = next.take() {
            let (at, n) = (packet.at as usize, packet.len as usize);
            out[len..len + n].copy_from_slice(&self.bytes[at..at + n]);
            (len, segments) = (len + n, segments + 1);
            let fits = |p: &Packet| {
                packet.len == first.len
                    && p.len <= first.len
                    && (p.path, p.ecn) == (first.path, first.ecn)
                    && len + p.len as usize <= out.len().min(crate::limits::TRAIN_BYTES_MAX)
            };
            if segments < max_segments.get() && self.packets.front().is_some_and(fits) {
                next = self.packets.pop_front();
            }
        }
        let segment = (segments > 1).then(|| NonZeroU16::new(first.len as u16)).flatten();
        Some(Transmit { path: first.path, len, segment, ecn: first.ecn, hop_limit: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn path(port: u16) -> Path {
        Path::to(core::net::SocketAddr::new([192, 0, 2, 1].into(), port))
    }

    #[test]
    fn trains_hold_equal_packets_of_one_path() {
        let mut queue = PacketQueue::new(0);
        for (port, len) in [(1, 100), (1, 100), (1, 60), (1, 100), (2, 100), (2, 120)] {
            assert!(queue.push(path(port), Ecn::NotEct, &std::vec![port as u8; len]));
        }
        let mut out = [0; 2048];
        let mut sent = Vec::new();
        while let Some(t) = queue.pop(&mut out, NonZeroUsize::new(64).unwrap()) {
            sent.push((t.path.remote.port(), t.len, t.segment.map(NonZeroU16::get)));
        }
        assert_eq!(sent, [(1, 260, Some(100)), (1, 100, None), (2, 100, None), (2, 120, None)]);
    }

    proptest! {
        #[test]
        fn a_ring_of_packets(
            steps in prop::collection::vec((any::<bool>(), 1usize..40_000, 0u16..2), 1..200),
        ) {
            let mut queue = PacketQueue::new(0);
            let capacity = queue.packets.capacity();
            let mut model = VecDeque::<(u16, Vec<u8>)>::new();
            let mut out = std::vec![0; 65_535];
            for (n, (push, len, port)) in steps.into_iter().enumerate() {
                if push {
                    let datagram: Vec<u8> = (0..len).map(|i| (i + n) as u8).collect();
                    let used: usize = model.iter().map(|m| m.1.len()).sum();
                    let taken = queue.push(path(port), Ecn::NotEct, &datagram);
                    if taken {
                        model.push_back((port, datagram));
                    } else {
                        // Wrapping wastes at most one packet's length.
                        prop_assert!(used + 2 * 40_000 > 64 * 1024);
                    }
                } else {
                    let max = NonZeroUsize::new(4).unwrap();
                    let Some(t) = queue.pop(&mut out, max) else {
                        prop_assert!(model.is_empty());
                        continue;
                    };
                    let segment = t.segment.map_or(t.len, |s| s.get().into());
                    for chunk in out[..t.len].chunks(segment) {
                        let (port, datagram) = model.pop_front().unwrap();
                        prop_assert_eq!(port, t.path.remote.port());
                        prop_assert_eq!(chunk, &datagram[..]);
                    }
                }
            }
            prop_assert_eq!(queue.packets.capacity(), capacity);
        }
    }
}
