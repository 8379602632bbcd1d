//! What must work: opening, early data, loss, simultaneous opens, restarts, rekeys, healing.

use super::*;
use crate::session::handshake::{TYPE_INIT, TYPE_RESP, TYPE_STALE};
use crate::session::slots::Slot;

fn sent(world: &World, kind: u8) -> Vec<usize> {
    let of_kind = world.captured.iter().filter(|(_, p)| p[0] == kind);
    of_kind.map(|(_, p)| p.len()).collect()
}

#[test]
fn a_session_opens_in_one_round_trip() {
    let mut world = World::new(1);
    world.initiate(0);
    world.run(Duration::from_millis(21));
    assert!(world.ends[0].tunnel.has_session(PEER));
    assert!(!world.ends[0].tunnel.is_attempting(PEER));
    let up = world.ends[0].events.iter().find_map(|e| match e {
        TunnelEvent::SessionUp(up) => Some(*up),
        _ => None,
    });
    assert_eq!(
        up,
        Some(SessionUp {
            peer: PEER,
            route: route(1),
            // It went there with the first flight, of which the tunnel knows nothing.
            proven: false,
            restarted: false,
            first: true,
            ours: true,
            observed: Some("192.0.2.1:4000".parse().unwrap()),
            max_datagram: 1401,
        })
    );
    assert!(!world.ends[0].has(|e| matches!(e, TunnelEvent::Confirmed { .. })));
    world.run(Duration::from_millis(100));
    assert!(world.ends.iter().all(|e| e.has(|e| matches!(e, TunnelEvent::Confirmed { .. }))));
    assert!(world.agrees() && world.works());
    assert_eq!(sent(&world, TYPE_INIT), [330]);
    assert_eq!(sent(&world, TYPE_RESP), [124]);
    // Confirmation: one F0 of 9 bytes, one empty frame; nothing else for eight seconds.
    let frames: Vec<usize> =
        world.captured.iter().map(|(_, p)| p.len()).filter(|n| *n < 64).take(2).collect();
    assert_eq!(frames, [37, 28]);
    assert!(world.ends.iter().all(|e| e.tunnel.drops().total() == 0));
}

#[test]
fn data_frames_cost_28_bytes_and_62_with_the_inner_header() {
    let mut world = World::new(1);
    world.initiate(0);
    world.run(Duration::from_secs(1));
    let frame = world.ends[0].seal(world.now, &[0x10; 34 + 100]).unwrap();
    assert_eq!(frame.len(), 100 + crate::limits::OVERHEAD);
    assert!(frame[0] >= 0x80);
}

#[test]
fn early_data_arrives_with_the_handshake_and_counts_after_it() {
    let mut world = World::new(1);
    let (syn, syn_ack) = ([0x11; EARLY], [0x12; EARLY]);
    world.ends[1].answer_early = Some(syn_ack);
    assert!(world.ends[0].tunnel.initiate(world.now, PEER, Some(syn)));
    world.run(Duration::from_millis(15));
    let early = |e: &TunnelEvent| matches!(e, TunnelEvent::EarlySyn { .. });
    assert!(world.ends[1].has(|e| matches!(e, TunnelEvent::EarlyOffer { .. })));
    assert!(!world.ends[1].has(early), "not before the key is confirmed");
    world.run(Duration::from_millis(100));
    assert_eq!(sent(&world, TYPE_INIT), [366]);
    assert_eq!(sent(&world, TYPE_RESP), [160]);
    assert!(world.ends[0].events.contains(&TunnelEvent::SynAck { peer: PEER, syn_ack }));
    let expected = TunnelEvent::EarlySyn { peer: PEER, syn, answered: Some(syn_ack) };
    assert_eq!(world.ends[1].count(early), 1);
    assert!(world.ends[1].events.contains(&expected));
}

#[test]
fn a_newer_record_of_the_responder_comes_in_the_resp() {
    let mut world = World::new(1);
    let newer = record(1, secret(1).public(), 7);
    world.ends[1].tunnel.set_identity(address(1), Some(newer));
    world.ends[1].answer_early = Some([0x12; EARLY]);
    assert!(world.ends[0].tunnel.initiate(world.now, PEER, Some([0x11; EARLY])));
    world.run(Duration::from_millis(100));
    assert_eq!(sent(&world, TYPE_RESP), [310]);
    assert!(world.ends[0].events.contains(&TunnelEvent::NewRecord { peer: PEER, record: newer }));
    assert_eq!(world.ends[0].tunnel.peer_keys(PEER).unwrap().record_serial, 7);
    // Without a SYN-ACK: 274.
    let mut world = World::new(1);
    world.ends[1].tunnel.set_identity(address(1), Some(newer));
    world.initiate(0);
    world.run(Duration::from_millis(100));
    assert_eq!(sent(&world, TYPE_RESP), [274]);
}

#[test]
fn a_newer_record_of_the_initiator_is_pinned_and_a_lower_one_refused() {
    let mut world = World::new(1);
    let rotated = TunnelSecret::from_secret([55; 32]);
    let newer = record(0, rotated.public(), 9);
    world.ends[0].tunnel.rotate_secret(rotated, newer);
    world.initiate(0);
    world.run(Duration::from_secs(1));
    assert!(world.ends[1].events.contains(&TunnelEvent::NewRecord { peer: PEER, record: newer }));
    assert!(world.agrees());
    // Rolled back: the same agent with its first record again.
    world.restart(0, 2);
    world.initiate(0);
    world.run(Duration::from_secs(10));
    assert!(!world.ends[0].tunnel.has_session(PEER));
    assert!(world.ends[1].tunnel.drops().get(DropReason::Untrusted) > 0);
}

#[test]
fn an_init_for_the_previous_tunnel_key_works_and_asks_for_f8() {
    let mut world = World::new(1);
    let rotated = TunnelSecret::from_secret([55; 32]);
    let newer = record(1, rotated.public(), 9);
    world.ends[1].tunnel.rotate_secret(rotated, newer);
    world.initiate(0);
    world.run(Duration::from_secs(1));
    assert_eq!(sent(&world, TYPE_RESP), [124]);
    assert!(world.ends[1].has(|e| matches!(e, TunnelEvent::SendRecord { .. })));
    let now = world.now;
    assert!(!world.ends[0].tunnel.offer_peer_record(now, PEER, &record(0, secret(0).public(), 9)));
    assert!(world.ends[0].tunnel.offer_peer_record(now, PEER, &newer));
    assert!(!world.ends[0].tunnel.offer_peer_record(now, PEER, &newer));
    assert_eq!(world.ends[0].tunnel.peer_keys(PEER).unwrap().tunnel_key, newer.fields.tunnel);
    assert!(world.works());
}

#[test]
fn an_unanswered_attempt_repeats_renews_and_gives_up() {
    let mut world = World::new(1);
    world.weather.loss = 1000;
    world.initiate(0);
    world.run(Duration::from_secs(4));
    let inits: Vec<&Vec<u8>> = world.captured.iter().map(|(_, p)| p).collect();
    assert_eq!(inits.len(), 4);
    assert!(inits.iter().all(|p| *p == inits[0]), "identical bytes");
    assert!(world.ends[0].has(|e| matches!(e, TunnelEvent::Unanswered { .. })));
    world.run(Duration::from_secs(80));
    let first = world.captured[0].1.clone();
    assert!(world.captured[4..].iter().all(|(_, p)| p[4..40] != first[4..40]));
    assert!(world.ends[0].tunnel.is_attempting(PEER));
    world.run(Duration::from_secs(10));
    assert!(!world.ends[0].tunnel.is_attempting(PEER));
    assert_eq!(world.ends[0].count(|e| matches!(e, TunnelEvent::GaveUp { .. })), 1);
    assert_eq!(world.ends[0].tunnel.poll_timeout(), None);
}

#[test]
fn a_lost_resp_is_sent_again_without_a_new_handshake() {
    let mut world = World::new(1);
    world.initiate(0);
    world.run(Duration::from_millis(5));
    world.weather.loss = 1000;
    world.run(Duration::from_millis(100));
    world.weather.loss = 0;
    world.run(Duration::from_secs(1));
    let resps: Vec<&Vec<u8>> =
        world.captured.iter().filter(|(_, p)| p[0] == TYPE_RESP).map(|(_, p)| p).collect();
    assert_eq!(resps.len(), 2);
    assert_eq!(resps[0], resps[1]);
    assert!(world.agrees() && world.works());
}

#[test]
fn simultaneous_opens_agree_on_one_session() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        world.weather = Weather { loss: 0, duplicate: 100, jitter_ms: u64::from(seed) * 3 };
        world.initiate(0);
        world.run(Duration::from_millis(u64::from(seed % 12)));
        world.initiate(1);
        world.run(Duration::from_secs(8));
        assert!(world.agrees(), "seed {seed}");
        assert!(world.works(), "seed {seed}");
    }
}

#[test]
fn the_larger_identity_pauses_and_the_smaller_repeats_at_once() {
    let mut world = World::new(1);
    world.initiate(0);
    world.initiate(1);
    world.run(Duration::from_millis(5));
    let smaller = usize::from(
        Identity::from_secret([1; 32]).public() < Identity::from_secret([0; 32]).public(),
    );
    world.weather.loss = 1000;
    world.run(Duration::from_millis(10));
    let inits = |end| world.captured.iter().filter(|(e, p)| *e == end && p[0] == TYPE_INIT).count();
    assert_eq!((inits(smaller), inits(1 - smaller)), (2, 1));
    world.run(Duration::from_secs(3));
    let inits = |end| world.captured.iter().filter(|(e, p)| *e == end && p[0] == TYPE_INIT).count();
    assert_eq!((inits(smaller), inits(1 - smaller)), (5, 1));
    world.weather.loss = 0;
    world.run(Duration::from_secs(10));
    assert!(world.agrees() && world.works());
}

#[test]
fn opens_survive_loss_duplication_and_reordering() {
    for seed in 0..120 {
        let mut world = World::new(seed);
        world.weather = Weather { loss: 300, duplicate: 200, jitter_ms: 800 };
        world.initiate(0);
        if seed % 2 == 0 {
            world.run(Duration::from_millis(u64::from(seed) * 17));
            world.initiate(1);
        }
        world.run(Duration::from_secs(60));
        world.weather = Weather::default();
        world.run(Duration::from_secs(20));
        assert!(world.works(), "seed {seed}");
    }
}

#[test]
fn either_side_restarts_and_both_are_told() {
    for seed in 0..40u8 {
        let mut world = World::new(seed);
        world.weather = Weather { loss: 0, duplicate: 100, jitter_ms: 60 };
        world.initiate(usize::from(seed % 2));
        world.run(Duration::from_secs(5));
        assert!(world.agrees(), "seed {seed}");
        let gone = usize::from(seed / 2 % 2);
        world.restart(gone, 2);
        let stays = 1 - gone;
        // Half of the time the one that stays notices first.
        world.initiate(if seed / 4 % 2 == 0 { gone } else { stays });
        world.run(Duration::from_secs(10));
        assert!(world.works(), "seed {seed}");
        let told = |e: &TunnelEvent| {
            matches!(e, TunnelEvent::SessionUp(SessionUp { restarted: true, .. }))
        };
        assert_eq!(world.ends[stays].count(told), 1, "seed {seed}");
        assert_eq!(world.ends[gone].count(told), 0, "seed {seed}");
    }
}

#[test]
fn a_resp_delayed_across_a_restart_does_not_win() {
    let mut world = World::new(1);
    world.initiate(0);
    world.run(Duration::from_millis(15));
    let old: Vec<u8> = world.captured.iter().find(|(_, p)| p[0] == TYPE_RESP).unwrap().1.clone();
    // The responder restarts before its RESP arrives, and initiates.
    world.flying.clear();
    world.restart(1, 2);
    world.initiate(1);
    world.run(Duration::from_millis(200));
    assert!(world.works());
    let now = world.now;
    let _ = world.ends[0].take(now, route(1), &old);
    world.run(Duration::from_secs(6));
    assert!(world.works());
}

#[test]
fn rekeys_lose_no_frame() {
    for seed in 0..4 {
        let mut world = World::new(seed);
        world.initiate(0);
        world.run(Duration::from_secs(1));
        world.weather.jitter_ms = 30;
        let mut next = [0u32; 2];
        let end = world.now + Duration::from_secs(600);
        while world.now < end {
            for (side, next) in next.iter_mut().enumerate() {
                let mut content = std::vec![0x10];
                content.extend(next.to_be_bytes());
                assert!(world.send(side, &content), "never stalls");
                *next += 1;
            }
            world.run(Duration::from_millis(50));
        }
        world.run(Duration::from_millis(500));
        for (side, next) in next.into_iter().enumerate() {
            let mut got: Vec<u32> = world.ends[1 - side]
                .received
                .iter()
                .filter(|(c, ..)| c.len() == 5)
                .map(|(c, ..)| u32::from_be_bytes(c[1..5].try_into().unwrap()))
                .collect();
            got.sort_unstable();
            assert!(got.into_iter().eq(0..next), "seed {seed}");
        }
        let ups = world.ends[0].count(|e| matches!(e, TunnelEvent::SessionUp(_)));
        assert!((5..=6).contains(&ups), "{ups} sessions in 600 s");
        assert!(world.ends[0].has(|e| matches!(e, TunnelEvent::SessionsChanged { .. })));
    }
}

#[test]
fn an_idle_session_ends_and_a_busy_one_is_renewed() {
    let mut world = World::new(1);
    world.initiate(0);
    world.run(Duration::from_secs(200));
    assert!(world.ends.iter().all(|e| e.has(|e| matches!(e, TunnelEvent::Down { .. }))));
    assert!(world.ends.iter().all(|e| e.tunnel.sessions(PEER).is_empty()));
    assert!(world.ends.iter().all(|e| e.tunnel.poll_timeout().is_none()), "nothing is left");

    let mut world = World::new(1);
    world.initiate(0);
    world.run(Duration::from_secs(1));
    let now = world.now;
    world.ends[0].tunnel.set_busy(now, PEER, true);
    world.run(Duration::from_secs(600));
    assert!(world.agrees() && world.works());
    let ups = world.ends[0].count(|e| matches!(e, TunnelEvent::SessionUp(_)));
    assert!((5..=6).contains(&ups));
}

#[test]
fn the_responder_rekeys_when_the_initiator_does_not() {
    let mut world = World::new(1);
    world.initiate(0);
    world.run(Duration::from_secs(1));
    let now = world.now;
    world.ends[1].tunnel.set_busy(now, PEER, true);
    world.run(Duration::from_secs(163));
    assert!(!world.ends[1].tunnel.is_attempting(PEER));
    world.run(Duration::from_secs(3));
    assert!(
        world.ends[1].has(|e| matches!(e, TunnelEvent::SessionUp(SessionUp { ours: true, .. })))
    );
    assert!(world.agrees());
}

#[test]
fn passive_keepalive_answers_data_once_and_never_an_empty_frame() {
    let mut world = World::new(1);
    world.initiate(0);
    world.run(Duration::from_secs(30));
    let before = world.captured.len();
    assert!(world.send(0, b"\x10data"));
    world.run(Duration::from_secs(9));
    assert_eq!(world.captured.len(), before + 1);
    world.run(Duration::from_secs(2));
    assert_eq!(world.captured.len(), before + 2);
    assert_eq!(world.captured[before + 1].1.len(), 28);
    world.run(Duration::from_secs(60));
    assert_eq!(world.captured.len(), before + 2);
    // An answer of its own makes it needless.
    assert!(world.send(0, b"\x10data"));
    world.run(Duration::from_secs(1));
    assert!(world.send(1, b"\x10data"));
    world.run(Duration::from_secs(1));
    assert!(world.send(0, b"\x10data"));
    let before = world.captured.len();
    world.run(Duration::from_secs(8));
    assert_eq!(world.captured.len(), before);
}

#[test]
fn a_clock_set_back_heals_in_one_round_trip() {
    for back in [3600u64, 365 * 86_400, 1_800_000_000] {
        let mut world = World::new(1);
        world.initiate(0);
        world.run(Duration::from_secs(5));
        // The process restarts on a machine whose clock is wrong by then.
        world.restart(0, 2);
        let wall = UnixTime::from_secs(1_800_001_005 - back.min(1_800_001_000));
        world.ends[0].tunnel.set_wall_clock(WallClock::new(world.now, wall));
        let before = world.captured.len();
        world.initiate(0);
        world.run(Duration::from_millis(200));
        assert!(world.works(), "{back}");
        let kinds: Vec<u8> = world.captured[before..].iter().map(|(_, p)| p[0]).take(4).collect();
        assert_eq!(kinds, [TYPE_INIT, TYPE_STALE, TYPE_INIT, TYPE_RESP]);
        assert!(world.captured.iter().any(|(_, p)| p[0] == TYPE_STALE && p.len() == 56));
    }
}

#[test]
fn a_clock_once_far_ahead_heals_too() {
    let mut world = World::new(1);
    let ahead = WallClock::new(world.now, UnixTime::from_secs(1_800_000_000 + 10 * 365 * 86_400));
    world.ends[0].tunnel.set_wall_clock(ahead);
    world.initiate(0);
    world.run(Duration::from_secs(5));
    assert!(world.agrees());
    world.restart(0, 2);
    world.initiate(0);
    world.run(Duration::from_millis(200));
    assert!(world.works());
}

#[test]
fn close_and_remove_leave_nothing() {
    let mut world = World::new(1);
    world.initiate(0);
    world.run(Duration::from_secs(1));
    let now = world.now;
    world.ends[0].tunnel.close(now, PEER);
    assert!(!world.ends[0].tunnel.has_session(PEER));
    assert_eq!(world.ends[0].tunnel.poll_timeout(), None);
    assert!(world.send(1, b"\x10late"));
    world.run(Duration::from_secs(1));
    assert_eq!(world.ends[0].tunnel.drops().get(DropReason::UnknownIndex), 1);
    world.initiate(0);
    world.run(Duration::from_secs(1));
    assert!(world.works());
    let now = world.now;
    world.ends[0].tunnel.remove_peer(now, PEER);
    assert_eq!(world.ends[0].tunnel.links.len(), 0);
    assert_eq!(world.ends[0].tunnel.attempts.len(), 0);
    assert_eq!(world.ends[0].tunnel.answers.len(), 0);
    assert!(world.ends[0].tunnel.peer_keys(PEER).is_none());
    world.ends[0].pin(1);
    world.initiate(0);
    world.run(Duration::from_secs(1));
    assert!(world.works());
}

#[test]
fn peers_are_found_by_address_and_identity() {
    let mut end = End::with(0, Instant::START, 1, &Limits::desktop(), |_| {});
    let mut rng = Rng::new([9; 32]);
    let mut all = Vec::new();
    for i in 0..200u32 {
        let n = rng.below(50) as u8;
        let identity = IdentityKey(rng.bytes());
        let keys = PeerKeys { identity, address: address(n), ..keys(1) };
        end.tunnel.add_peer(PeerIndex(i), keys).unwrap();
        assert_eq!(end.tunnel.add_peer(PeerIndex(i), keys), Err(PeerError::Number));
        assert_eq!(end.tunnel.add_peer(PeerIndex(1000), keys), Err(PeerError::Exists));
        all.push((PeerIndex(i), keys));
    }
    let gone: Vec<_> = all.extract_if(.., |(i, _)| i.0 % 3 == 0).collect();
    for (i, _) in &gone {
        end.tunnel.remove_peer(Instant::START, *i);
    }
    for (i, keys) in &all {
        assert_eq!(end.tunnel.find_peer(keys.address, &keys.identity), Some(*i));
    }
    for (_, keys) in &gone {
        assert_eq!(end.tunnel.find_peer(keys.address, &keys.identity), None);
    }
}

#[test]
fn frames_of_a_superseded_session_are_marked() {
    let mut world = World::new(1);
    world.initiate(0);
    world.run(Duration::from_secs(1));
    let now = world.now;
    let held: Vec<Vec<u8>> =
        (0..3).map(|_| world.ends[0].seal(now, b"\x10held").unwrap()).collect();
    world.initiate(0);
    world.run(Duration::from_secs(1));
    let now = world.now;
    world.ends[1].take(now, route(0), &held[0]).unwrap();
    let last = world.ends[1].received.last().unwrap();
    assert_eq!((last.1, last.2), (Slot::Previous, true));
    world.run(Duration::from_secs(10));
    let now = world.now;
    world.ends[1].take(now, route(0), &held[1]).unwrap();
    let last = world.ends[1].received.last().unwrap();
    assert_eq!((last.1, last.2), (Slot::Previous, false));
    world.run(Duration::from_secs(200));
    let now = world.now;
    assert!(world.ends[1].take(now, route(0), &held[2]).is_err());
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let run = || {
        let mut world = World::new(3);
        world.weather = Weather { loss: 200, duplicate: 200, jitter_ms: 500 };
        world.initiate(0);
        world.initiate(1);
        world.run(Duration::from_secs(30));
        world.captured
    };
    assert_eq!(run(), run());
}

#[test]
fn lent_memory_serves_as_well() {
    use crate::session::index::{IndexCell, IndexTable};
    use crate::slab::Slot;
    use crate::timer::Cell;
    const N: usize = 2;
    const M: usize = 6;
    let mut peers = [const { PeerCell::empty() }; N];
    let (mut by_address, mut ready, mut eventful) = ([0; N], [0; N], [0; N]);
    let mut deadlines = [Cell::empty(); N];
    let mut sessions: [LinkSlot; M] = [const { Slot::empty() }; M];
    let mut replay = [0; M * 4];
    let mut attempts: [AttemptSlot; N] = [const { Slot::empty() }; N];
    let mut answers: [AnswerSlot; N] = [const { Slot::empty() }; N];
    let mut indices = [IndexCell::empty(); IndexTable::cells_for(M + N)];
    let mut hashes = [IndexCell::empty(); IndexTable::cells_for(N)];
    let mut sources = [0; 16];
    let storage = TunnelStorage {
        peers: Store::from(&mut peers[..]),
        by_address: Store::from(&mut by_address[..]),
        ready: Store::from(&mut ready[..]),
        eventful: Store::from(&mut eventful[..]),
        deadlines: Store::from(&mut deadlines[..]),
        sessions: Store::from(&mut sessions[..]),
        replay: Store::from(&mut replay[..]),
        attempts: Store::from(&mut attempts[..]),
        answers: Store::from(&mut answers[..]),
        indices: Store::from(&mut indices[..]),
        hashes: Store::from(&mut hashes[..]),
        sources: Store::from(&mut sources[..]),
    };
    let now = Instant::START + Duration::from_secs(1000);
    let config = TunnelConfig {
        address: address(0),
        identity: Identity::from_secret([0; 32]).public(),
        registry: registry().public(),
        record: Some(record(0, secret(0).public(), 1)),
        secret: secret(0),
        previous_secret: None,
        boot_id: [1; 8],
        max_datagram: 1232,
        caps: Caps::of(&RUST_CRYPTO),
        wall: WallClock::new(now, UnixTime::from_secs(1_800_000_000)),
    };
    let rng = Rng::new([1; 32]);
    let mut tunnel = Tunnel::new(now, config, &Limits::small(), &RUST_CRYPTO, rng, storage);
    tunnel.add_peer(PEER, keys(1)).unwrap();
    let mut other = End::new(1, now, 1);
    other.pin(0);
    assert!(tunnel.initiate(now, PEER, None));
    let mut out = [0; OUTPUT_MIN];
    assert!(tunnel.poll_output(now, &mut out[1..]).is_none(), "too short a buffer");
    let init = tunnel.poll_output(now, &mut out).unwrap();
    other.take(now, route(0), &out[..init.len]).unwrap();
    let mut resp = other.drain(now).remove(0).1;
    assert!(matches!(tunnel.handle(now, route(1), &mut resp), TunnelIn::Handled));
    assert!(tunnel.has_session(PEER));
}

#[test]
fn sizes_in_memory_are_known() {
    use super::super::state::{Answer, Attempt, Link, Peer};
    // Two expanded AES keys make most of a session; an idle peer stays under 8 KiB with its
    // window of 1 KiB (`wire.md` 7).
    assert!(size_of::<Link>() <= 1600, "{}", size_of::<Link>());
    assert!(size_of::<Peer>() <= 1200, "{}", size_of::<Peer>());
    assert!(size_of::<Attempt>() <= 1100, "{}", size_of::<Attempt>());
    assert!(size_of::<Answer>() <= 1300, "{}", size_of::<Answer>());
}
