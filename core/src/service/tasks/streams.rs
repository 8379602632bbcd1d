//! The streams to all peers: which of several tells, and when to open one.

use super::board::Board;
use super::signer::Signer;
use super::task::Party;
use crate::addr::Address;
use crate::crypto::IdentityKey;
use crate::time::{Duration, Instant};
use alloc::collections::BTreeMap;

/// The first pause after a stream that could not be opened or broke, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// No pause is shorter, whatever a peer does.
const PAUSE_MIN: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct OfPeer {
    open: usize,
    /// The newest one tells; the others answer. 0: none.
    teller: u64,
}

/// The streams that are open, by peer. Each has a number.
#[derive(Debug, Default)]
pub struct Streams {
    last: u64,
    of: BTreeMap<IdentityKey, OfPeer>,
}

impl Streams {
    /// A stream was opened, by either end; its number.
    pub fn begin(&mut self, peer: IdentityKey) -> u64 {
        self.last += 1;
        let of_peer = self.of.entry(peer).or_default();
        (of_peer.open, of_peer.teller) = (of_peer.open + 1, self.last);
        self.last
    }

    /// Whether this stream is the one that tells; one that is left alone becomes it.
    pub fn is_teller(&mut self, peer: IdentityKey, number: u64) -> bool {
        let Some(of_peer) = self.of.get_mut(&peer) else { return false };
        if of_peer.teller == 0 {
            of_peer.teller = number;
        }
        of_peer.teller == number
    }

    /// A stream is over.
    pub fn end(&mut self, peer: IdentityKey, number: u64) {
        if let Some(of_peer) = self.of.get_mut(&peer) {
            of_peer.open -= 1;
            if of_peer.teller == number {
                of_peer.teller = 0;
            }
            if of_peer.open == 0 {
                self.of.remove(&peer);
            }
        }
    }

    /// How many there are to a peer.
    pub fn open(&self, peer: IdentityKey) -> usize {
        self.of.get(&peer).map_or(0, |of_peer| of_peer.open)
    }
}

#[derive(Debug)]
struct Call {
    peer: Party,
    /// How long to wait after the next failure.
    pause: Duration,
    /// Not before.
    at: Instant,
    /// Not before, whoever wakes it.
    at_least: Instant,
    is_calling: bool,
    is_wanted: bool,
}

/// When to open a stream to whom: to each peer that something is to be told to or whose word is
/// waited for, and that has none, with pauses that grow up to a minute while that fails. One for
/// each such peer, so at most as many as the board has tasks.
#[derive(Debug, Default)]
pub struct Calls {
    of: BTreeMap<IdentityKey, Call>,
    /// Of the board when it was looked at.
    revision: Option<u64>,
}

impl Calls {
    /// Whom to open a stream to now; tell [`handle_open`](Self::handle_open) or
    /// [`handle_close`](Self::handle_close) what came of it.
    pub fn poll<S: Signer>(
        &mut self,
        now: Instant,
        board: &Board<S>,
        streams: &Streams,
    ) -> Option<Party> {
        if self.revision != Some(board.revision()) {
            self.revision = Some(board.revision());
            self.look(now, board);
        }
        let is_due = |key: &IdentityKey, call: &Call| {
            call.is_wanted && !call.is_calling && call.at <= now && streams.open(*key) == 0
        };
        let (_, call) = self.of.iter_mut().find(|(key, call)| is_due(key, call))?;
        call.is_calling = true;
        Some(call.peer)
    }

    fn look<S: Signer>(&mut self, now: Instant, board: &Board<S>) {
        self.of.values_mut().for_each(|call| call.is_wanted = false);
        for peer in board.peers() {
            let new = Call {
                peer,
                pause: PAUSE,
                at: now,
                at_least: now,
                is_calling: false,
                is_wanted: true,
            };
            let call = self.of.entry(peer.key).or_insert(new);
            (call.peer, call.is_wanted) = (peer, true);
        }
        // A pause is kept until it is over, so that nobody can shorten it.
        self.of.retain(|_, call| call.is_wanted || call.is_calling || call.at > now);
    }

    /// The stream is open.
    pub fn handle_open(&mut self, peer: IdentityKey) {
        if let Some(call) = self.of.get_mut(&peer) {
            call.pause = PAUSE;
        }
    }

    /// The stream that was called for could not be opened, or is over.
    pub fn handle_close(&mut self, now: Instant, peer: IdentityKey) {
        if let Some(call) = self.of.get_mut(&peer) {
            call.is_calling = false;
            (call.at, call.at_least) = (now + call.pause, now + PAUSE_MIN);
            call.pause = (call.pause * 2).min(PAUSE_MAX);
        }
    }

    /// Ends the pause before the next stream to a peer, by its address on the backbone: it may be
    /// reached now. `None`: of all peers.
    pub fn wake(&mut self, peer: Option<Address>) {
        for call in self.of.values_mut() {
            if peer.is_none_or(|peer| call.peer.address == peer) {
                (call.at, call.pause) = (call.at.min(call.at_least), PAUSE);
            }
        }
    }

    /// When [`poll`](Self::poll) wants to be called, at the latest.
    pub fn deadline(&self, streams: &Streams) -> Option<Instant> {
        let waits = |(key, call): &(&IdentityKey, &Call)| {
            call.is_wanted && !call.is_calling && streams.open(**key) == 0
        };
        self.of.iter().filter(waits).map(|(_, call)| call.at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::NodeId;
    use crate::crypto::Identity;
    use crate::crypto::task::TaskId;
    use crate::service::tasks::{BoardLimits, Content, Keys, Verdict};
    use crate::time::UnixTime;
    use std::vec;

    const PEER: IdentityKey = IdentityKey([1; 32]);

    fn ms(ms: u64) -> Instant {
        Instant::START + Duration::from_millis(ms)
    }

    #[test]
    fn the_newest_stream_tells_and_one_that_is_left_alone() {
        let mut streams = Streams::default();
        assert!(!streams.is_teller(PEER, 1), "there is none");
        let (first, second) = (streams.begin(PEER), streams.begin(PEER));
        assert!(!streams.is_teller(PEER, first) && streams.is_teller(PEER, second));
        assert_eq!(streams.open(PEER), 2);
        streams.end(PEER, second);
        assert!(streams.is_teller(PEER, first));
        streams.end(PEER, first);
        assert_eq!(streams.open(PEER), 0);
        streams.end(PEER, first);
        assert!(!streams.is_teller(PEER, first));
    }

    #[test]
    fn pauses_grow_to_a_minute_and_are_ended_by_a_wake() {
        let (identity, registry) = (Identity::from_secret([16; 32]), IdentityKey([9; 32]));
        let key = identity.public();
        let keys = Keys { identity, registry };
        let mut board = Board::new(keys, key, registry, BoardLimits::default());
        let (mut calls, mut streams) = (Calls::default(), Streams::default());
        assert_eq!(calls.poll(ms(0), &board, &streams), None);
        let peer = Party { address: Address::backbone(NodeId(17)), key: PEER };
        let mut body = vec![0; 64];
        let len = Content::of_text("x").encode(&mut body).unwrap();
        board.submit(TaskId([1; 16]), peer, &body[..len], UnixTime::default()).unwrap();
        let mut now = ms(0);
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(calls.poll(now, &board, &streams), Some(peer));
            assert_eq!(calls.poll(now, &board, &streams), None, "it is being called");
            assert_eq!(calls.deadline(&streams), None);
            calls.handle_close(now, PEER);
            assert_eq!(calls.poll(now, &board, &streams), None);
            let due = now + Duration::from_secs(pause);
            assert_eq!(calls.deadline(&streams), Some(due));
            now = due;
        }
        assert_eq!(calls.poll(now, &board, &streams), Some(peer));
        calls.handle_close(now, PEER);
        calls.wake(Some(Address::backbone(NodeId(18))));
        assert_eq!(calls.poll(now + PAUSE_MIN, &board, &streams), None, "another is awake");
        calls.wake(Some(peer.address));
        assert_eq!(calls.poll(now, &board, &streams), None, "not at once");
        now += PAUSE_MIN;
        let number = streams.begin(PEER);
        assert_eq!(calls.poll(now, &board, &streams), None, "the peer has opened one");
        streams.end(PEER, number);
        assert_eq!(calls.poll(now, &board, &streams), Some(peer));
        calls.handle_open(PEER);
        calls.handle_close(now, PEER);
        board.give_up(PEER, Verdict::NotPermitted, false, UnixTime::default());
        assert_eq!(calls.poll(now + PAUSE, &board, &streams), None, "there is nothing to tell");
        assert!(calls.of.is_empty());
    }
}
