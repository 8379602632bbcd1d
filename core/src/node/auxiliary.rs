//! Auxiliary UDP sockets: fresh ports for NAT behaviour discovery and for punching.
//!
//! | state | `open` | `close` | event polled | the adapter failed |
//! |---|---|---|---|---|
//! | free | opening | – | – | – |
//! | opening: `OpenSocket` is due | – | free, no event | open | – |
//! | open | – | closing | – | free; its user is told |
//! | closing: `CloseSocket` is due | – | – | free | – |
//!
//! An id is given out again only when its `CloseSocket` was polled. Nothing is sent by a socket
//! before its `OpenSocket` was.

use super::{Event, Node};
use crate::limits::AUXILIARY_MAX;
use crate::machine::SocketId;
use crate::path::PeerIndex;
use crate::path::stun_client::StunAnswer;
use crate::time::Instant;

/// Whose socket it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// NAT behaviour discovery.
    Discovery,
    /// Punching towards a peer.
    Punch(PeerIndex),
}

/// What a question to a STUN server is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// A test of NAT behaviour discovery, by its number there.
    Discovery(u8),
    /// Punching towards a peer.
    Punch(PeerIndex),
}

const WORDS: usize = AUXILIARY_MAX.div_ceil(64);
/// In the table of users: discovery. Peers have smaller numbers.
const DISCOVERY: u32 = u32::MAX;

/// One bit for each socket, by its id less one.
#[derive(Debug, Default)]
struct Bits([u64; WORDS]);

impl Bits {
    fn get(&self, place: usize) -> bool {
        self.0[place / 64] >> (place % 64) & 1 != 0
    }

    fn set(&mut self, place: usize, value: bool) {
        let bit = 1 << (place % 64);
        if value {
            self.0[place / 64] |= bit;
        } else {
            self.0[place / 64] &= !bit;
        }
    }
}

/// The lowest place whose bit in the word that `word` makes is set.
fn lowest(word: impl Fn(usize) -> u64) -> Option<usize> {
    let found = (0..WORDS).find(|&n| word(n) != 0)?;
    let place = found * 64 + word(found).trailing_zeros() as usize;
    (place < AUXILIARY_MAX).then_some(place)
}

/// The table of auxiliary sockets: ids 1 to [`AUXILIARY_MAX`]. One more is refused.
#[derive(Debug)]
pub(super) struct Auxiliary {
    users: [u32; AUXILIARY_MAX],
    /// Opening or open.
    used: Bits,
    /// An event is due: `OpenSocket` where used, `CloseSocket` where not.
    due: Bits,
}

impl Default for Auxiliary {
    fn default() -> Self {
        Auxiliary { users: [DISCOVERY; AUXILIARY_MAX], used: Bits::default(), due: Bits::default() }
    }
}

impl Auxiliary {
    pub(super) fn open(&mut self, user: Use) -> Option<SocketId> {
        let place = lowest(|n| !(self.used.0[n] | self.due.0[n]))?;
        self.users[place] = match user {
            Use::Discovery => DISCOVERY,
            Use::Punch(peer) => peer.0,
        };
        self.used.set(place, true);
        self.due.set(place, true);
        Some(SocketId(place as u16 + 1))
    }

    /// A socket that is not in use is ignored.
    pub(super) fn close(&mut self, id: SocketId) {
        let Some(place) = self.place(id) else { return };
        // What was never opened needs no closing.
        let is_open = !self.due.get(place);
        self.used.set(place, false);
        self.due.set(place, is_open);
    }

    /// The adapter could not open it. Whose it was, if it was open.
    fn failed(&mut self, id: SocketId) -> Option<Use> {
        let place = self.place(id).filter(|&place| !self.due.get(place))?;
        self.used.set(place, false);
        Some(self.user_at(place))
    }

    /// Whether packets can leave by it: the main socket, or one that the adapter has opened.
    pub(super) fn is_open(&self, id: SocketId) -> bool {
        id == SocketId(0) || self.place(id).is_some_and(|place| !self.due.get(place))
    }

    /// The sockets of one user, opening ones included.
    pub(super) fn of(&self, user: Use) -> impl Iterator<Item = SocketId> + '_ {
        (0..AUXILIARY_MAX)
            .filter(move |&place| self.used.get(place) && self.user_at(place) == user)
            .map(|place| SocketId(place as u16 + 1))
    }

    pub(super) fn has_event(&self) -> bool {
        self.due.0.iter().any(|word| *word != 0)
    }

    /// Closed sockets first: the adapter may be at its limit.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        if let Some(place) = lowest(|n| self.due.0[n] & !self.used.0[n]) {
            self.due.set(place, false);
            return Some(Event::CloseSocket(SocketId(place as u16 + 1)));
        }
        let place = lowest(|n| self.due.0[n])?;
        self.due.set(place, false);
        Some(Event::OpenSocket(SocketId(place as u16 + 1)))
    }

    /// Of a socket in use.
    fn place(&self, id: SocketId) -> Option<usize> {
        let place = usize::from(id.0).checked_sub(1)?;
        (place < AUXILIARY_MAX && self.used.get(place)).then_some(place)
    }

    fn user_at(&self, place: usize) -> Use {
        match self.users[place] {
            DISCOVERY => Use::Discovery,
            peer => Use::Punch(PeerIndex(peer)),
        }
    }
}

impl Node<'_> {
    /// A fresh socket; `None` if there are too many. Questions by it wait until it is there; if
    /// it cannot be had, its user is told.
    pub(super) fn open_socket(&mut self, user: Use) -> Option<SocketId> {
        self.auxiliary.open(user)
    }

    /// Closes an auxiliary socket, with what was asked by it.
    pub(super) fn close_socket(&mut self, id: SocketId) {
        self.stun.forget_socket(id);
        self.auxiliary.close(id);
    }

    /// Closes all that this user has, and forgets what it has asked by any socket.
    pub(super) fn close_sockets_of(&mut self, user: Use) {
        while let Some(id) = { self.auxiliary.of(user).next() } {
            self.close_socket(id);
        }
        self.stun.retain(|ask| match (ask.purpose, user) {
            (Purpose::Discovery(_), Use::Discovery) => false,
            (Purpose::Punch(peer), Use::Punch(of)) => peer != of,
            _ => true,
        });
    }

    /// Its `OpenSocket` was polled: what waited for it may leave.
    pub(super) fn socket_opened(&mut self, id: SocketId) {
        let Some(place) = self.auxiliary.place(id) else { return };
        if let Use::Punch(peer) = self.auxiliary.user_at(place) {
            self.schedule(peer);
        }
    }

    /// The adapter has no socket of this id.
    pub(super) fn socket_failed(&mut self, now: Instant, id: SocketId) {
        self.stun.forget_socket(id);
        match self.auxiliary.failed(id) {
            Some(Use::Discovery) => self.discover.handle_no_socket(id),
            Some(Use::Punch(peer)) => self.punch_socket_failed(now, peer, id),
            None => {}
        }
    }

    /// A question has ended.
    pub(super) fn stun_answer(&mut self, now: Instant, answer: &StunAnswer<Purpose>) {
        match answer.ask.purpose {
            Purpose::Discovery(test) => self.discovery_answer(now, test, answer),
            Purpose::Punch(peer) => self.punch_answer(now, peer, answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn an_id_is_free_again_only_after_its_close_was_polled() {
        let mut table = Auxiliary::default();
        let first = table.open(Use::Discovery).unwrap();
        let second = table.open(Use::Punch(PeerIndex(4))).unwrap();
        assert_eq!((first, second), (SocketId(1), SocketId(2)));
        assert!(!table.is_open(first) && table.is_open(SocketId(0)));
        assert_eq!(table.poll_event(), Some(Event::OpenSocket(first)));
        assert!(table.is_open(first));
        // The second was never opened: no event, and free at once.
        table.close(second);
        assert!(!table.has_event());
        assert_eq!(table.open(Use::Discovery), Some(second));
        table.close(first);
        table.close(first);
        assert!(!table.is_open(first));
        assert!(table.of(Use::Discovery).eq([second]));
        assert_eq!(table.open(Use::Discovery), Some(SocketId(3)));
        assert_eq!(table.poll_event(), Some(Event::CloseSocket(first)), "before any opening");
        assert_eq!(table.open(Use::Discovery), Some(first));
    }

    #[test]
    fn a_socket_that_could_not_be_opened_is_told_to_its_user() {
        let mut table = Auxiliary::default();
        let user = Use::Punch(PeerIndex(4));
        let id = table.open(user).unwrap();
        assert_eq!(table.failed(id), None, "nobody has tried");
        table.poll_event();
        assert_eq!(table.failed(id), Some(user));
        assert_eq!(table.failed(id), None);
        assert!(!table.has_event());
        for id in [0, 17, AUXILIARY_MAX as u16 + 1, u16::MAX] {
            assert_eq!(table.failed(SocketId(id)), None);
            table.close(SocketId(id));
        }
    }

    #[test]
    fn there_is_a_bound() {
        let mut table = Auxiliary::default();
        for n in 1..=AUXILIARY_MAX {
            assert_eq!(table.open(Use::Punch(PeerIndex(7))), Some(SocketId(n as u16)));
        }
        assert_eq!(table.open(Use::Discovery), None);
        assert_eq!(table.of(Use::Punch(PeerIndex(7))).count(), AUXILIARY_MAX);
        assert_eq!(table.of(Use::Discovery).count(), 0);
        table.close(SocketId(AUXILIARY_MAX as u16));
        assert_eq!(table.open(Use::Discovery), Some(SocketId(AUXILIARY_MAX as u16)));
    }

    proptest! {
        /// An adapter that does as it is told opens each id only while it has none such, closes
        /// only what it has, and in the end has what is in use.
        #[test]
        fn the_adapter_can_follow(steps in prop::collection::vec((0u8..4, 0u16..12), 0..200)) {
            let mut table = Auxiliary::default();
            let mut wanted = BTreeMap::new();
            let mut adapter = std::collections::BTreeSet::new();
            let mut follow = |table: &mut Auxiliary| match table.poll_event() {
                Some(Event::OpenSocket(id)) => assert!(adapter.insert(id)),
                Some(Event::CloseSocket(id)) => assert!(adapter.remove(&id)),
                _ => {}
            };
            for (step, n) in steps {
                let user = Use::Punch(PeerIndex(u32::from(n)));
                match step {
                    0 => {
                        let id = table.open(user).unwrap();
                        prop_assert_eq!(wanted.insert(id, user), None);
                    }
                    1 => {
                        table.close(SocketId(n));
                        wanted.remove(&SocketId(n));
                    }
                    _ => follow(&mut table),
                }
                for (id, user) in &wanted {
                    prop_assert!(table.of(*user).any(|of| of == *id));
                }
            }
            while table.has_event() {
                follow(&mut table);
            }
            prop_assert!(adapter.iter().eq(wanted.keys()));
        }
    }
}
