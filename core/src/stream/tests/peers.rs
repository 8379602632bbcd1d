//! Sessions, paths, restarts and early data (`wire.md` 4.7, 4.9, 11).

use super::world::*;
use crate::path::PathId;
use crate::path::mtu::SizeRange;
use crate::stream::{ResetCode, State, StreamEnd, TransportEvent, WriteError};
use crate::time::Duration;
use crate::wire::header::Header;

const S: fn(u64) -> Duration = Duration::from_secs;
const RELAY: PathId = PathId(1);

/// Nothing is built before it can be sealed, and no timer runs meanwhile.
#[test]
fn no_frame_and_no_timer_without_a_session() {
    let mut world = World::listening(1, Link::clean(ms(10)));
    let now = world.now;
    for end in &mut world.ends {
        end.t.session_down(now, PEER);
    }
    let a = world.ends[0].t.connect(now, PEER, PORT, NETWORK).unwrap();
    world.ends[0].t.write(now, a, b"early").unwrap();
    world.ends[0].t.send_datagram(now, PEER, PORT, PORT, NETWORK, b"d").unwrap();
    assert!(world.ends[0].t.wants_session(PEER));
    world.flush();
    assert_eq!(world.ends[0].sent_frames, 0);
    assert_eq!(world.ends[0].t.poll_timeout(), None);
    world.now += S(80);
    let now = world.now;
    for end in &mut world.ends {
        end.t.session_up(now, PEER);
    }
    let mut got = 0;
    world.run(ms(100), |world| {
        if let Some(b) = world.ends[1].t.accept(PORT) {
            got = world.ends[1].t.read(world.now, b, &mut [0; 9]).unwrap_or(0);
        }
        world.ends[0].t.stream_info(a).unwrap().acknowledged == 5 && got <= 5
    });
}

/// A session that comes and goes stops the timers and loses nothing.
#[test]
fn a_transfer_survives_session_loss() {
    let mut world = World::listening(2, Link::lossy(ms(10), 20));
    let (a, b) = world.open(PORT);
    let (mut source, mut sink) = (Source::new(0, a, 1, 2_000_000), Sink::new(1, b, 1));
    for n in 1..5 {
        world.run(S(60), |world| {
            source.pump(world);
            sink.pump(world);
            sink.at > n * 300_000
        });
        let now = world.now;
        world.net.clear();
        for end in &mut world.ends {
            end.t.session_down(now, PEER);
        }
        let old = [world.ends[0].index, world.ends[1].index];
        world.forget(0, old[0]);
        world.forget(1, old[1]);
        world.flush();
        for end in &world.ends {
            assert_eq!(end.t.poll_timeout(), None);
        }
        world.now += S(20);
        let now = world.now;
        world.rekey(0);
        world.rekey(1);
        for end in &mut world.ends {
            end.t.session_up(now, PEER);
        }
    }
    world.run(S(60), |world| {
        source.pump(world);
        sink.pump(world);
        sink.finished
    });
}

/// `wire.md` 4.9: unanswered frames make their path suspect once; what was in flight goes over
/// the other path without a congestion signal; an answer ends the suspicion.
#[test]
fn a_suspect_path_is_told_and_its_frames_go_another_way() {
    let mut world = World::listening(3, Link::clean(ms(20)));
    let now = world.now;
    for (from, end) in world.ends.iter_mut().enumerate() {
        assert!(end.t.add_path(now, PEER, RELAY, SizeRange::direct(1220)));
        assert_eq!(end.t.active_path(PEER), Some(MAIN));
        world.links[from][1] = Link::clean(ms(40));
    }
    let (a, b) = world.open(PORT);
    let (mut source, mut sink) = (Source::new(0, a, 1, 1_000_000), Sink::new(1, b, 1));
    world.run(S(60), |world| {
        source.pump(world);
        sink.pump(world);
        sink.at > 300_000
    });
    for from in 0..2 {
        world.links[from][0].loss = 1000;
    }
    let cut = world.now;
    world.run(S(5), |world| {
        source.pump(world);
        sink.pump(world);
        world.ends[0].events.contains(&TransportEvent::PathSuspect(PEER, MAIN))
    });
    let after = world.now.since(cut);
    assert!((ms(450)..ms(600)).contains(&after), "{after:?}");
    let now = world.now;
    let window = world.ends[0].t.path_info(PEER, RELAY).unwrap().window;
    for end in &mut world.ends {
        end.t.set_active_path(now, PEER, RELAY);
        end.t.mark_suspect(now, PEER, MAIN);
    }
    world.run(S(20), |world| {
        source.pump(world);
        sink.pump(world);
        sink.finished
    });
    let relay = world.ends[0].t.path_info(PEER, RELAY).unwrap();
    assert!(relay.window >= window && relay.lost == 0, "{relay:?}");
    let suspects = world.ends[0].events.iter();
    assert_eq!(suspects.filter(|e| **e == TransportEvent::PathSuspect(PEER, MAIN)).count(), 1);
    // A frame of the node's own over the old path is answered: it is alive.
    for from in 0..2 {
        world.links[from][0].loss = 0;
    }
    let now = world.now;
    let (index, counter) = (world.ends[0].index, world.ends[0].counter);
    world.ends[0].counter += 1;
    assert!(world.ends[0].t.control_sent(now, PEER, MAIN, index, counter, 1232, 5, true));
    let frame = Frame { path: MAIN, index, counter, plain: std::vec![0xFA; 1204] };
    world.deliver(1, &frame);
    world.run(S(1), |world| world.ends[0].events.contains(&TransportEvent::PathAlive(PEER, MAIN)));
    assert!(world.ends[0].events.contains(&TransportEvent::ControlAcknowledged(PEER, 5)));
}

#[test]
fn a_lost_control_frame_is_told_and_is_no_congestion() {
    let mut world = World::listening(4, Link::clean(ms(20)));
    world.open(PORT);
    world.pass(S(1));
    let window = world.ends[0].t.path_info(PEER, MAIN).unwrap().window;
    let now = world.now;
    let (index, counter) = (world.ends[0].index, world.ends[0].counter);
    world.ends[0].counter += 1;
    world.ends[0].t.control_sent(now, PEER, MAIN, index, counter, 1500, 3, true);
    world.run(S(3), |world| world.ends[0].events.contains(&TransportEvent::ControlLost(PEER, 3)));
    assert_eq!(world.ends[0].t.path_info(PEER, MAIN).unwrap().window, window);
}

/// All that a suspect path had in flight is taken up again, not only bytes: a stream that was
/// reset stays until the peer knows, and a control frame until the node hears what became of it.
#[test]
fn a_reset_and_a_control_frame_outlive_a_suspect_path() {
    let mut world = World::listening(6, Link::clean(ms(20)));
    let now = world.now;
    for (from, end) in world.ends.iter_mut().enumerate() {
        assert!(end.t.add_path(now, PEER, RELAY, SizeRange::direct(1220)));
        world.links[from][1] = Link::clean(ms(40));
    }
    let (a, b) = world.open(PORT);
    world.pass(S(1));
    for from in 0..2 {
        world.links[from][0].loss = 1000;
    }
    let now = world.now;
    world.ends[0].t.reset(now, a, ResetCode::Aborted);
    world.ends[0].t.release(now, a);
    let (index, counter) = (world.ends[0].index, world.ends[0].counter);
    world.ends[0].counter += 1;
    assert!(world.ends[0].t.control_sent(now, PEER, MAIN, index, counter, 60, 3, false));
    world.flush();
    assert!(!world.ends[0].t.wants_session(PEER), "it is in flight");
    for end in &mut world.ends {
        end.t.set_active_path(now, PEER, RELAY);
        end.t.mark_suspect(now, PEER, MAIN);
    }
    world.pass(S(5));
    let told = TransportEvent::Closed(b, StreamEnd::Reset(ResetCode::Aborted));
    assert!(world.ends[1].events.contains(&told), "{:?}", world.ends[1].events);
    assert_eq!(world.ends[0].t.streams().count(), 0, "the peer knows, and nobody else asks");
    let lost = |event: &&TransportEvent| **event == TransportEvent::ControlLost(PEER, 3);
    assert_eq!(world.ends[0].events.iter().filter(lost).count(), 1);
}

/// Switching paths marks nothing lost; a removed path's frames go over the other.
#[test]
fn switching_and_removing_paths_loses_nothing() {
    let mut world = World::listening(5, Link { rate: 12_500_000, ..Link::clean(ms(20)) });
    let now = world.now;
    for (from, end) in world.ends.iter_mut().enumerate() {
        assert!(end.t.add_path(now, PEER, RELAY, SizeRange::direct(1220)));
        world.links[from][1] = Link::clean(ms(30));
    }
    let (a, b) = world.open(PORT);
    let (mut source, mut sink) = (Source::new(0, a, 1, 6_000_000), Sink::new(1, b, 1));
    let mut switched = 0;
    world.run(S(60), |world| {
        source.pump(world);
        sink.pump(world);
        if sink.at / 1_000_000 > switched {
            switched += 1;
            let path = if switched % 2 == 1 { RELAY } else { MAIN };
            for end in &mut world.ends {
                end.t.set_active_path(world.now, PEER, path);
            }
        }
        sink.finished
    });
    assert!(switched >= 5);
    for path in [MAIN, RELAY] {
        assert_eq!(world.ends[0].t.path_info(PEER, path).unwrap().lost, 0);
    }
    for end in &mut world.ends {
        end.t.set_active_path(world.now, PEER, RELAY);
    }
    let (a, b) = world.open(PORT);
    let (mut source, mut sink) = (Source::new(0, a, 1, 500_000), Sink::new(1, b, 1));
    source.pump(&mut world);
    world.flush();
    assert!(world.ends[0].t.path_info(PEER, RELAY).unwrap().flight > 0);
    world.net.clear();
    for end in &mut world.ends {
        end.t.remove_path(world.now, PEER, RELAY);
    }
    assert_eq!(world.ends[0].t.active_path(PEER), Some(MAIN));
    world.run(S(60), |world| {
        source.pump(world);
        sink.pump(world);
        sink.finished
    });
}

/// A new boot id ends streams, except one whose SYN was never answered.
#[test]
fn a_restarted_peer_ends_streams_but_not_an_unanswered_syn() {
    let mut world = World::listening(6, Link::clean(ms(20)));
    let (a, b) = world.open(PORT);
    world.pass(ms(100));
    let now = world.now;
    let asked = world.ends[0].t.connect(now, PEER, PORT, NETWORK).unwrap();
    world.flush();
    world.net.clear();
    let old = world.ends[0].index;
    world.rekey(0);
    world.ends[0].t.session_gone(now, PEER, old);
    world.ends[0].t.peer_restarted(now, PEER);
    assert_eq!(world.ends[0].t.stream_info(a).unwrap().end, Some(StreamEnd::PeerRestarted));
    assert_eq!(
        world.ends[0].t.write(now, a, b"x"),
        Err(WriteError::Ended(StreamEnd::PeerRestarted))
    );
    world.ends[1].t.peer_restarted(now, PEER);
    assert!(world.ends[1].t.stream_info(b).unwrap().end.is_some());
    world
        .run(S(5), |world| world.ends[0].t.stream_info(asked).unwrap().state == State::Established);
}

#[test]
fn an_unreachable_peer_ends_only_what_waits_for_it() {
    let mut world = World::listening(7, Link::clean(ms(20)));
    let (idle, _) = world.open(PORT);
    let (busy, _) = world.open(PORT);
    world.pass(S(1));
    let now = world.now;
    world.ends[0].t.session_down(now, PEER);
    world.ends[0].t.write(now, busy, b"x").unwrap();
    let asked = world.ends[0].t.connect(now, PEER, PORT, NETWORK).unwrap();
    world.ends[0].t.peer_unreachable(now, PEER);
    let end = |id| world.ends[0].t.stream_info(id).unwrap().end;
    assert_eq!((end(idle), end(busy)), (None, Some(StreamEnd::Unreachable)));
    assert_eq!(end(asked), Some(StreamEnd::Unreachable));
    world.ends[0].t.remove_peer(now, PEER, StreamEnd::Removed);
    assert_eq!(world.ends[0].t.stream_info(idle).unwrap().end, Some(StreamEnd::Removed));
    for id in [idle, busy, asked] {
        world.ends[0].t.release(now, id);
    }
    let (taken, unreserved, all) = world.ends[0].t.pool_blocks();
    assert_eq!((taken, unreserved), (0, all));
    assert!(world.ends[0].t.add_peer(now, PEER, address(0), address(1)), "the number is free");
}

/// `wire.md` 4.7: the SYN rides in the INIT, the SYN-ACK in the RESP; nothing is visible
/// before the confirmation, and a replay makes one stream.
#[test]
fn early_data_opens_a_stream_in_one_round_trip() {
    let mut world = World::listening(8, Link::clean(ms(20)));
    let now = world.now;
    for end in &mut world.ends {
        end.t.session_down(now, PEER);
    }
    let a = world.ends[0].t.connect(now, PEER, PORT, NETWORK).unwrap();
    assert_eq!(world.ends[0].t.unanswered_syn(PEER), Some(a));
    world.ends[0].t.write(now, a, b"hello").unwrap();
    let syn = world.ends[0].t.syn_for_early(a).unwrap();
    let (header, _) = Header::decode(&syn).unwrap();
    let first = world.ends[1].t.handle_early_syn(now, PEER, &header, true).unwrap();
    let again = world.ends[1].t.handle_early_syn(now, PEER, &header, true).unwrap();
    assert_eq!(first, again);
    assert_eq!(world.ends[1].t.open_streams(PEER), 1);
    assert_eq!(world.ends[1].t.accept(PORT), None);
    let (answer, _) = Header::decode(&first).unwrap();
    let outcome = world.ends[0].t.handle_early_syn_ack(now, PEER, &answer);
    assert!(outcome.accepted);
    assert_eq!(world.ends[0].t.stream_info(a).unwrap().state, State::Established);
    for end in &mut world.ends {
        end.t.session_up(now, PEER);
    }
    world.ends[1].t.early_confirmed(now, PEER);
    let mut b = None;
    world.run(ms(21), |world| {
        b = b.or_else(|| world.ends[1].t.accept(PORT));
        b.is_some_and(|b| world.ends[1].t.read(world.now, b, &mut [0; 9]) == Ok(5))
    });
    for end in &world.ends {
        let syns = end.trains.iter().flatten().filter(|len| **len == 34).count();
        assert_eq!(syns, 0, "no SYN in the session");
    }
}

/// An INIT with this SYN, its RESP, and the confirmation; whether end 0 wanted the SYN-ACK.
fn early(world: &mut World, syn: &Header) -> bool {
    let now = world.now;
    let answer = world.ends[1].t.handle_early_syn(now, PEER, syn, true).unwrap();
    let (answer, _) = Header::decode(&answer).unwrap();
    let outcome = world.ends[0].t.handle_early_syn_ack(now, PEER, &answer);
    world.ends[1].t.early_confirmed(now, PEER);
    outcome.accepted
}

/// Who asks in early data and then says nothing is accepted as soon, also if the session's
/// first frame is lost.
#[test]
fn an_early_stream_is_accepted_before_anything_is_written() {
    for first in [0, 1] {
        let mut world = World::listening(11, Link::clean(ms(20)));
        let a = world.ends[0].t.connect(world.now, PEER, PORT, NETWORK).unwrap();
        let (syn, _) = Header::decode(&world.ends[0].t.syn_for_early(a).unwrap()).unwrap();
        assert!(early(&mut world, &syn));
        assert_eq!(world.ends[1].t.accept(PORT), None, "nothing was acknowledged");
        let mut lose = first;
        world.filter = Some(std::boxed::Box::new(move |from, _| {
            let lost = from == 0 && lose > 0;
            lose -= usize::from(lost);
            !lost
        }));
        let wait = if first == 0 { ms(21) } else { S(2) };
        world.run(wait, |world| world.ends[1].t.accept(PORT).is_some());
    }
}

/// A late INIT asks again for a stream that is over at the responder: nobody accepts it twice,
/// no byte comes twice, and both ends come to know.
#[test]
fn a_late_init_does_not_open_its_stream_again() {
    // Of the two random numbers either may be the greater.
    for seed in 0..16 {
        for closed in [false, true] {
            let mut world = World::listening(seed, Link::clean(ms(20)));
            let a = world.ends[0].t.connect(world.now, PEER, PORT, NETWORK).unwrap();
            let (syn, _) = Header::decode(&world.ends[0].t.syn_for_early(a).unwrap()).unwrap();
            assert!(early(&mut world, &syn));
            world.pass(ms(50));
            let b = world.ends[1].t.accept(PORT).unwrap();
            let now = world.now;
            if closed {
                world.ends[0].t.finish(now, a).unwrap();
                world.ends[1].t.finish(now, b).unwrap();
                world.pass(S(20));
            } else {
                world.ends[1].t.end_streams(now, PEER, StreamEnd::Removed);
            }
            assert_eq!(world.ends[1].t.open_streams(PEER), 0);
            // The reset of the SYN-ACK comes later than all else.
            let mut lose = 2;
            world.filter = Some(std::boxed::Box::new(move |from, frame| {
                let lost = from == 0 && lose > 0 && frame.plain.len() == Header::LEN + 1;
                lose -= usize::from(lost);
                !lost
            }));
            assert!(!early(&mut world, &syn));
            let now = world.now;
            let _ = world.ends[0].t.write(now, a, b"hello");
            let _ = world.ends[0].t.finish(now, a);
            for _ in 0..500 {
                world.pass(ms(40));
                assert_eq!(world.ends[1].t.accept(PORT), None, "accepted twice");
            }
            assert_eq!([0, 1].map(|n| world.ends[n].t.open_streams(PEER)), [0, 0]);
            let end = world.ends[0].t.stream_info(a).unwrap().end.unwrap();
            assert_eq!(end == StreamEnd::Finished, closed, "{end:?}");
        }
    }
}

/// The RESP's SYN-ACK came to nobody: it is asked again, and the reset ends the half-open stream.
#[test]
fn an_early_stream_that_nobody_acknowledges_does_not_stay() {
    let mut world = World::listening(13, Link::clean(ms(20)));
    let now = world.now;
    let a = world.ends[0].t.connect(now, PEER, PORT, NETWORK).unwrap();
    let (syn, _) = Header::decode(&world.ends[0].t.syn_for_early(a).unwrap()).unwrap();
    world.ends[0].t.reset(now, a, ResetCode::Aborted);
    world.pass(S(1));
    let now = world.now;
    world.ends[1].t.handle_early_syn(now, PEER, &syn, true).unwrap();
    world.ends[1].t.early_confirmed(now, PEER);
    assert_eq!(world.ends[1].t.open_streams(PEER), 1);
    world.pass(S(3));
    assert_eq!(world.ends[1].t.open_streams(PEER), 0);
    assert_eq!(world.ends[1].t.accept(PORT), None);
}

/// The handshake with the early SYN came to nothing, another one did: the SYN goes again.
#[test]
fn an_early_syn_that_led_nowhere_is_sent_again() {
    for discarded in [false, true] {
        let mut world = World::listening(9, Link::clean(ms(20)));
        let now = world.now;
        let a = world.ends[0].t.connect(now, PEER, PORT, NETWORK).unwrap();
        let syn = world.ends[0].t.syn_for_early(a).unwrap();
        let (header, _) = Header::decode(&syn).unwrap();
        world.ends[1].t.handle_early_syn(now, PEER, &header, true).unwrap();
        if discarded {
            world.ends[1].t.early_discarded(now, PEER);
            assert_eq!(world.ends[1].t.open_streams(PEER), 0);
        }
        world.run(S(2), |world| world.ends[1].t.accept(PORT).is_some());
        world.pass(ms(100));
        assert_eq!(world.ends[0].t.stream_info(a).unwrap().state, State::Established);
        assert_eq!(world.ends[1].t.open_streams(PEER), 1);
    }
}

/// Two ends with a full table of frames take turns and lose nothing.
#[test]
fn a_full_table_of_frames_only_slows() {
    let limits = crate::limits::Limits { frames: 6, ..limits() };
    let mut world = World::with(10, [Link::lossy(ms(10), 50); 2], &limits, 1232);
    world.ends[1].t.listen(PORT).unwrap();
    let (a, b) = world.open(PORT);
    let (mut source, mut sink) = (Source::new(0, a, 1, 100_000), Sink::new(1, b, 1));
    let mut back = (Source::new(1, b, 2, 100_000), Sink::new(0, a, 2));
    world.run(S(200), |world| {
        source.pump(world);
        sink.pump(world);
        back.0.pump(world);
        back.1.pump(world);
        sink.finished && back.1.finished
    });
}

#[test]
fn sizes_are_within_the_bars() {
    let stream = size_of::<crate::stream::Stream>();
    let peer = size_of::<crate::stream::PeerSlot>();
    let frame = size_of::<crate::stream::FrameSlot>();
    std::println!("stream {stream}, peer {peer}, frame {frame} bytes");
    assert!(stream <= 2048 && peer <= 6144 && frame <= 128);
}
