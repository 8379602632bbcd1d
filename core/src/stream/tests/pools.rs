//! What peers share: paths beyond the first, sessions beyond the first.

use super::world::*;
use crate::addr::{Address, NetworkId, NodeId};
use crate::limits::Limits;
use crate::path::mtu::SizeRange;
use crate::path::{PATHS, PathId, PeerIndex};
use crate::rng::Rng;
use crate::slab::{Slab, Slot, Store};
use crate::stream::{AckSpace, PathState, StreamEnd, Transport, TransportStorage};
use crate::time::Instant;
use std::vec::Vec;

const PEERS: usize = 3;
const NOW: Instant = Instant::from_nanos(1);
const A: PeerIndex = PeerIndex(0);
const B: PeerIndex = PeerIndex(1);
const C: PeerIndex = PeerIndex(2);

/// Three peers over lent memory for so many paths and sessions.
fn with_places(paths: usize, spaces: usize, test: impl FnOnce(Transport<'_>)) {
    let limits = Limits { peers: PEERS, ..Limits::small() };
    let mut paths: Vec<Slot<PathState>> = (0..paths).map(|_| Slot::empty()).collect();
    let mut spaces: Vec<Slot<AckSpace>> = (0..spaces).map(|_| Slot::empty()).collect();
    let storage = TransportStorage {
        paths: Slab::new(Store::from(&mut paths[..])),
        spaces: Slab::new(Store::from(&mut spaces[..])),
        ..TransportStorage::boxed(&limits)
    };
    let mut transport = Transport::new(&limits, Rng::new([7; 32]), storage);
    for peer in [A, B, C] {
        add(&mut transport, peer);
    }
    test(transport);
}

fn add(transport: &mut Transport<'_>, peer: PeerIndex) {
    let address = |n| Address::new(NetworkId(0), NodeId(n));
    assert!(transport.add_peer(NOW, peer, address(9), address(10 + peer.0)));
}

fn path(transport: &mut Transport<'_>, peer: PeerIndex, path: u8) -> bool {
    let added = transport.add_path(NOW, peer, PathId(path), SizeRange::direct(1232));
    assert_eq!(transport.path_info(peer, PathId(path)).is_some(), added);
    added
}

#[test]
fn a_first_path_always_has_a_place() {
    with_places(PEERS + 1, PEERS, |mut t| {
        assert!(path(&mut t, A, 0) && path(&mut t, A, 1));
        assert!(!path(&mut t, A, 2), "the one further place is A's already");
        assert!(path(&mut t, B, 0) && !path(&mut t, B, 1));
        assert!(path(&mut t, C, 3), "its first, whatever A holds");
        assert!(path(&mut t, A, 1), "known: only its size changes");
        assert_eq!(t.active_path(A), Some(PathId(0)));

        // A's other path becomes its only one, so the further place is free.
        t.remove_path(NOW, A, PathId(0));
        assert_eq!(t.active_path(A), Some(PathId(1)));
        assert!(path(&mut t, B, 1) && !path(&mut t, A, 0));
        t.remove_peer(NOW, B, StreamEnd::Removed);
        assert!(path(&mut t, A, 0), "B's places are free again");
        add(&mut t, B);
        assert!(path(&mut t, B, 2) && !path(&mut t, B, 0));
        assert!(
            !t.add_path(NOW, PeerIndex(PEERS as u32), PathId(0), SizeRange::direct(1232)),
            "no such peer"
        );
    });
}

/// With the places that boxed storage has, no peer feels what others hold.
#[test]
fn boxed_pools_are_never_exhausted() {
    let limits = Limits { peers: PEERS, ..Limits::small() };
    let storage = TransportStorage::boxed(&limits);
    let mut t = Transport::new(&limits, Rng::new([7; 32]), storage);
    for peer in [A, B, C] {
        add(&mut t, peer);
        for n in 0..PATHS as u8 {
            assert!(path(&mut t, peer, n));
        }
        for index in 1..=3 {
            t.frame_received(NOW, peer, PathId(0), index, 0, true, false);
        }
    }
    for peer in [A, B, C] {
        assert_eq!(sessions(&mut t, peer), [1, 2, 3]);
    }
}

/// The sessions that an acknowledgement to `peer` could name.
fn sessions(transport: &mut Transport<'_>, peer: PeerIndex) -> Vec<u32> {
    let mut indices = Vec::new();
    transport.peers.each_space(peer, |space| indices.push(space.index));
    indices.sort_unstable();
    indices
}

#[test]
fn a_further_session_without_a_place_takes_that_of_the_oldest() {
    with_places(PEERS, PEERS + 1, |mut t| {
        let hear = |t: &mut Transport<'_>, at: u64, peer, index| {
            let now = NOW + ms(at);
            t.frame_received(now, peer, PathId(0), index, 0, true, false);
        };
        hear(&mut t, 1, A, 10);
        hear(&mut t, 2, A, 11);
        assert_eq!(sessions(&mut t, A), [10, 11]);
        hear(&mut t, 3, A, 12);
        assert_eq!(sessions(&mut t, A), [11, 12], "10 was silent longest");
        hear(&mut t, 4, B, 20);
        hear(&mut t, 5, B, 21);
        assert_eq!(sessions(&mut t, B), [21], "its own place, and no more");
        hear(&mut t, 6, C, 30);
        assert_eq!(
            (sessions(&mut t, A), sessions(&mut t, C)),
            (Vec::from([11, 12]), Vec::from([30]))
        );

        t.session_gone(NOW + ms(7), A, 11);
        hear(&mut t, 8, B, 22);
        assert_eq!(
            (sessions(&mut t, A), sessions(&mut t, B)),
            (Vec::from([12]), Vec::from([21, 22]))
        );
        t.remove_peer(NOW + ms(9), B, StreamEnd::Removed);
        hear(&mut t, 10, C, 31);
        assert_eq!(sessions(&mut t, C), [30, 31], "B's are free again");
    });
}
