//! Received datagrams of one port, until the application takes them.

use crate::addr::SocketAddress;
use alloc::collections::VecDeque;

/// Bytes that wait in one inbox: what a kernel's UDP socket holds by default.
pub(crate) const INBOX_BYTES: usize = 256 * 1024;
/// Datagrams that wait in one inbox.
pub(crate) const INBOX_DATAGRAMS: usize = 1024;

/// A bounded queue of datagrams. When one does not fit, it is dropped and those that wait
/// stay, as in a kernel's socket buffer: who reads too slowly loses the newest.
///
/// Allocates once, when it is made.
#[derive(Debug)]
pub struct Inbox {
    bytes: VecDeque<u8>,
    heads: VecDeque<(SocketAddress, u16)>,
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox {
            bytes: VecDeque::with_capacity(INBOX_BYTES),
            heads: VecDeque::with_capacity(INBOX_DATAGRAMS),
        }
    }
}

impl Inbox {
    /// Adds a datagram; `false` if it was dropped.
    #[must_use = "a dropped datagram is counted"]
    pub fn push(&mut self, from: SocketAddress, payload: &[u8]) -> bool {
        let Ok(len) = u16::try_from(payload.len()) else { return false };
        let room = INBOX_BYTES - self.bytes.len();
        if payload.len() > room || self.heads.len() == INBOX_DATAGRAMS {
            return false;
        }
        self.bytes.extend(payload);
        self.heads.push_back((from, len));
        true
    }

    /// Moves the oldest datagram into `buf`; what does not fit there is lost, as with any
    /// datagram socket. Returns the bytes moved and the sender.
    pub fn pop(&mut self, buf: &mut [u8]) -> Option<(usize, SocketAddress)> {
        let (from, len) = self.heads.pop_front()?;
        let len = usize::from(len);
        let n = len.min(buf.len());
        let (first, second) = self.bytes.as_slices();
        let split = n.min(first.len());
        buf[..split].copy_from_slice(&first[..split]);
        buf[split..n].copy_from_slice(&second[..n - split]);
        self.bytes.drain(..len);
        Some((n, from))
    }

    /// Datagrams that wait.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Address, NodeId, Port};
    use proptest::prelude::*;
    use std::vec::Vec;

    fn from(node: u32) -> SocketAddress {
        SocketAddress { address: Address::backbone(NodeId(node)), port: Port(1) }
    }

    #[test]
    fn the_newest_is_dropped_and_nothing_grows() {
        let mut inbox = Inbox::default();
        let capacities = (inbox.bytes.capacity(), inbox.heads.capacity());
        let payload = [7; 1000];
        let fitting = INBOX_BYTES / 1000;
        for n in 0..fitting {
            assert!(inbox.push(from(n as u32), &payload));
        }
        assert!(!inbox.push(from(0), &payload));
        let mut empty = Inbox::default();
        for n in 0..INBOX_DATAGRAMS {
            assert!(empty.push(from(n as u32), &[]));
        }
        assert!(!empty.push(from(0), &[]));
        assert!(!empty.push(from(0), &[0; 70_000]));
        assert_eq!((inbox.bytes.capacity(), inbox.heads.capacity()), capacities);
        assert_eq!(inbox.pop(&mut [0; 2000]), Some((1000, from(0))));
    }

    proptest! {
        #[test]
        fn behaves_like_a_queue(ops in prop::collection::vec(
            prop_oneof![(0usize..3000).prop_map(Some), Just(None)], 0..600)
        ) {
            let mut inbox = Inbox::default();
            let mut model = VecDeque::<(u32, Vec<u8>)>::new();
            let mut buf = [0; 2048];
            for (n, op) in ops.into_iter().enumerate() {
                let n = n as u32;
                match op {
                    Some(len) => {
                        let payload: Vec<u8> = (0..len).map(|i| (i as u32 ^ n) as u8).collect();
                        if inbox.push(from(n), &payload) {
                            model.push_back((n, payload));
                        }
                    }
                    None => {
                        let got = inbox.pop(&mut buf);
                        let want = model.pop_front();
                        prop_assert_eq!(got.is_some(), want.is_some());
                        if let (Some((len, sender)), Some((n, payload))) = (got, want) {
                            prop_assert_eq!(sender, from(n));
                            prop_assert_eq!(&buf[..len], &payload[..payload.len().min(2048)]);
                        }
                    }
                }
                prop_assert_eq!(inbox.len(), model.len());
            }
        }
    }
}
