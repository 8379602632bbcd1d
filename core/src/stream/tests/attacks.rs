//! Attacks and failures (`attacks.md` 2), and the rules of `wire.md` 11 at their edges.

use super::world::*;
use crate::addr::{Address, NetworkId, NodeId, Port};
use crate::limits::{BLOCK, Limits};
use crate::stats::DropReason;
use crate::stream::{
    ConnectError, DatagramError, ReadError, ResetCode, State, StreamEnd, TransportEvent, WriteError,
};
use crate::time::Duration;
use crate::wire::header::{Flags, Header, Protocol};
use std::boxed::Box;
use std::vec::Vec;

const S: fn(u64) -> Duration = Duration::from_secs;

/// A segment from end 0's side of the stream to end 1.
fn segment(world: &World, flags: Flags, local: Port, remote: Port, seq: u32, ack: u32) -> Header {
    let _ = world;
    Header {
        flags,
        protocol: Protocol::Stream,
        length: 0,
        source: Address::new(NETWORK, NodeId(16)),
        destination: Address::new(NETWORK, NodeId(17)),
        source_port: local,
        destination_port: remote,
        sequence: seq,
        acknowledgement: ack,
        window: 64,
        checksum: 0,
    }
}

fn ended(world: &World, end: usize) -> Vec<StreamEnd> {
    let closed = |event: &TransportEvent| match event {
        TransportEvent::Closed(_, end) => Some(*end),
        _ => None,
    };
    world.ends[end].events.iter().filter_map(closed).collect()
}

/// W-T1: a normal close is a handful of frames, and then silence for ever.
#[test]
fn closing_is_short_and_final() {
    let mut world = World::listening(1, Link::clean(ms(10)));
    let (a, b) = world.open(PORT);
    let now = world.now;
    world.pass(S(1));
    let before: u64 = world.ends.iter().map(|end| end.sent_frames).sum();
    world.ends[0].t.finish(now, a).unwrap();
    world.pass(ms(100));
    let now = world.now;
    world.ends[1].t.finish(now, b).unwrap();
    world.pass(S(1));
    let after: u64 = world.ends.iter().map(|end| end.sent_frames).sum();
    assert!(after - before <= 6, "{}", after - before);
    world.pass(S(60));
    let last: u64 = world.ends.iter().map(|end| end.sent_frames).sum();
    assert_eq!(last, after);
    for end in &world.ends {
        assert_eq!(end.t.open_streams(PEER), 0, "TIME_WAIT ends");
    }
}

#[test]
fn half_close_works_both_ways() {
    for first in 0..2 {
        let mut world = World::listening(2, Link::lossy(ms(10), 100));
        let (a, b) = world.open(PORT);
        let ids = [a, b];
        let now = world.now;
        world.ends[first].t.write(now, ids[first], b"question").unwrap();
        world.ends[first].t.finish(now, ids[first]).unwrap();
        assert_eq!(world.ends[first].t.write(now, ids[first], b"x"), Err(WriteError::Finished));
        let (mut got, mut over) = (Vec::new(), false);
        world.run(S(60), |world| {
            let mut buffer = [0; 100];
            match world.ends[1 - first].t.read(world.now, ids[1 - first], &mut buffer) {
                Ok(0) => over = true,
                Ok(n) => got.extend_from_slice(&buffer[..n]),
                Err(error) => assert_eq!(error, ReadError::WouldBlock),
            }
            over
        });
        assert_eq!(got, b"question");
        let info = world.ends[1 - first].t.stream_info(ids[1 - first]).unwrap();
        assert_eq!(info.state, State::CloseWait);
        // The other direction goes on.
        let mut source = Source::new(1 - first, ids[1 - first], 5, 200_000);
        let mut sink = Sink::new(first, ids[first], 5);
        world.run(S(120), |world| {
            source.pump(world);
            sink.pump(world);
            sink.finished
        });
        world.run(S(30), |world| world.ends.iter().all(|end| end.t.open_streams(PEER) == 0));
        assert_eq!(ended(&world, 0), [StreamEnd::Finished]);
        assert_eq!(ended(&world, 1), [StreamEnd::Finished]);
    }
}

#[test]
fn both_close_at_once() {
    let mut world = World::listening(3, Link::clean(ms(20)));
    let (a, b) = world.open(PORT);
    world.pass(S(1));
    let now = world.now;
    world.ends[0].t.finish(now, a).unwrap();
    world.ends[1].t.finish(now, b).unwrap();
    world.pass(ms(30));
    assert_eq!(world.ends[0].t.stream_info(a).unwrap().state, State::Closing);
    world.pass(ms(200));
    assert_eq!(world.ends[0].t.stream_info(a).unwrap().state, State::TimeWait);
    assert_eq!(world.ends[1].t.stream_info(b).unwrap().state, State::TimeWait);
    world.pass(S(11));
    assert_eq!(world.ends[0].t.stream_info(a).unwrap().state, State::Closed);
}

/// A SYN-ACK that is reset was not accepted, whatever else of it arrives first.
#[test]
fn a_stale_syn_opens_nothing_when_the_reset_is_late() {
    let mut world = World::listening(30, Link::clean(ms(20)));
    let now = world.now;
    let header = segment(&world, Flags::SYN, Port(50_000), PORT, 77, 0);
    assert!(world.ends[1].t.handle_packet(now, PEER, &header, b"", true, true).accepted);
    let mut late = 2;
    world.filter = Some(Box::new(move |from, frame| {
        let reset = from == 0 && frame.plain.len() == Header::LEN + 1;
        late -= usize::from(reset && late > 0);
        !reset || late == 0
    }));
    for _ in 0..500 {
        world.pass(ms(10));
        assert_eq!(world.ends[1].t.accept(PORT), None);
    }
    assert_eq!(world.ends[1].t.open_streams(PEER), 0);
}

/// RFC 9293 3.5.1: a peer that has forgotten a stream and asks anew between its ports learns
/// its numbers, resets it, and gets a new one.
#[test]
fn a_forgotten_stream_can_be_opened_anew() {
    let mut world = World::listening(31, Link::clean(ms(20)));
    let (a, _) = world.open(PORT);
    world.pass(S(1));
    let now = world.now;
    let port = world.ends[0].t.stream_info(a).unwrap().local_port;
    world.ends[0].t.end_streams(now, PEER, StreamEnd::Removed);
    let again = segment(&world, Flags::SYN, port, PORT, 77, 0);
    let outcome = world.ends[1].t.handle_packet(now, PEER, &again, b"", true, true);
    assert!(!outcome.accepted, "or it would not come again");
    world.pass(ms(100));
    assert_eq!(world.ends[1].t.open_streams(PEER), 0);
    let now = world.now;
    assert!(world.ends[1].t.handle_packet(now, PEER, &again, b"", true, true).accepted);
    assert_eq!(world.ends[1].t.open_streams(PEER), 1);
}

/// W-T6: a FIN that overtakes data is no end; a lost FIN is sent again.
#[test]
fn the_end_is_not_seen_before_the_data_and_a_lost_fin_comes_again() {
    let mut world = World::listening(4, Link::clean(ms(10)));
    let (a, b) = world.open(PORT);
    let (mut losses, mut fins) = (0, 0);
    world.filter = Some(Box::new(move |from, frame| {
        let data = from == 0 && frame.plain.len() > Header::LEN;
        let fin = from == 0
            && Header::decode(&frame.plain).is_ok_and(|(header, _)| header.flags.has(Flags::FIN));
        losses += u32::from(data);
        fins += u32::from(fin);
        !(data && losses <= 3 || fin && fins <= 2)
    }));
    let (mut source, mut sink) = (Source::new(0, a, 1, 5000), Sink::new(1, b, 1));
    world.run(S(20), |world| {
        source.pump(world);
        sink.pump(world);
        sink.finished
    });
    assert_eq!(sink.at, 5000);
}

/// W-T2: one application that does not read stops its own stream and no other.
#[test]
fn a_slow_reader_blocks_only_its_own_stream() {
    let mut world = World::listening(5, Link { rate: 12_500_000, ..Link::clean(ms(5)) });
    let (slow, slow_b) = world.open(PORT);
    let (fast, fast_b) = world.open(PORT);
    let mut stuck = Source::new(0, slow, 1, 10_000_000);
    let (mut source, mut sink) = (Source::new(0, fast, 2, 3_000_000), Sink::new(1, fast_b, 2));
    let start = world.now;
    world.run(S(5), |world| {
        stuck.pump(world);
        source.pump(world);
        sink.pump(world);
        sink.finished
    });
    assert!(world.now.since(start) < S(1));
    let info = world.ends[1].t.stream_info(slow_b).unwrap();
    assert_eq!(info.received, 3 * BLOCK as u64, "the guaranteed window, and not more");
    // And it is not lost: once read, it goes on.
    let mut late = Sink::new(1, slow_b, 1);
    world.run(S(30), |world| {
        stuck.pump(world);
        late.pump(world);
        late.finished
    });
}

/// W-T3 and `wire.md` 11: a closed window is probed with back-off up to 2 s, probes are
/// answered and are no timeout; the reopening is told three times should it be lost.
#[test]
fn a_closed_window_is_probed_and_reopens() {
    let mut world = World::listening(6, Link::clean(ms(10)));
    let (a, b) = world.open(PORT);
    let mut source = Source::new(0, a, 1, 1_000_000);
    source.pump(&mut world);
    world.pass(S(2));
    let window = world.ends[0].t.path_info(PEER, MAIN).unwrap().window;
    let frames = world.ends[0].sent_frames;
    world.pass(S(60));
    let probes = world.ends[0].sent_frames - frames;
    assert!((29..=35).contains(&probes), "one each 2 s: {probes}");
    let info = world.ends[0].t.path_info(PEER, MAIN).unwrap();
    assert_eq!((info.window, info.lost, info.suspect), (window, 0, false));
    assert_eq!(world.ends[1].t.stream_info(b).unwrap().received, 3 * BLOCK as u64);
    // The first two tellings are lost; the third, after three round trips, arrives.
    let mut told = 0;
    world.filter = Some(Box::new(move |from, _| {
        told += u32::from(from == 1);
        from == 0 || told > 2
    }));
    let mut sink = Sink::new(1, b, 1);
    sink.pump(&mut world);
    let start = world.now;
    world.run(S(5), |world| {
        source.pump(world);
        sink.pump(world);
        sink.at > 3 * BLOCK as u64
    });
    assert!(world.now.since(start) <= ms(110), "{:?}", world.now.since(start));
    world.run(S(30), |world| {
        source.pump(world);
        sink.pump(world);
        sink.finished
    });
}

/// W-T9: an acknowledgement of what was never sent changes nothing, in a header or an FD.
#[test]
fn acknowledgements_beyond_what_was_sent_are_ignored() {
    let mut world = World::listening(7, Link::clean(ms(10)));
    let (a, b) = world.open(PORT);
    world.pass(S(1));
    let now = world.now;
    let info = world.ends[0].t.stream_info(a).unwrap();
    world.ends[1].t.write(now, b, &[1; 5000]).unwrap();
    let (snd, rcv) = {
        let stream = &world.ends[1].t.streams[b.0];
        (stream.snd.sequence(0), stream.rcv.acknowledgement())
    };
    let forged = segment(&world, Flags::ACK, info.local_port, PORT, rcv, snd.wrapping_add(4000));
    let outcome = world.ends[1].t.handle_packet(now, PEER, &forged, b"", true, true);
    assert_eq!((outcome.accepted, outcome.dropped), (false, Some(DropReason::OutOfWindow)));
    let mut fd = std::vec![0xFD];
    fd.extend_from_slice(&world.ends[1].index.to_be_bytes());
    fd.extend_from_slice(&[0; 15]);
    fd[16..20].copy_from_slice(&1u32.to_be_bytes());
    fd[12] = 200;
    fd.push(1);
    fd.extend_from_slice(&info.local_port.0.to_be_bytes());
    fd.extend_from_slice(&PORT.0.to_be_bytes());
    fd.extend_from_slice(&snd.wrapping_add(4000).to_be_bytes());
    fd.extend_from_slice(&[0xFF; 2]);
    world.ends[1].t.handle_ack(now, PEER, &fd, |_| None).unwrap();
    assert_eq!(world.ends[1].t.stream_info(b).unwrap().acknowledged, 0);
    assert_eq!(world.ends[1].t.streams[b.0].snd.edge, 47 * 1024 + 1024);
    let mut got = 0;
    world.run(S(5), |world| {
        let mut buffer = [0; 8192];
        got += world.ends[0].t.read(world.now, a, &mut buffer).unwrap_or(0);
        got == 5000
    });
}

/// W-T10: a reset outside the window is not believed; one inside is.
#[test]
fn blind_resets_are_not_believed() {
    let mut world = World::listening(8, Link::clean(ms(10)));
    let (a, b) = world.open(PORT);
    world.pass(S(1));
    let now = world.now;
    let local = world.ends[0].t.stream_info(a).unwrap().local_port;
    let next = world.ends[1].t.streams[b.0].rcv.acknowledgement();
    for wrong in [next.wrapping_sub(1), next.wrapping_add(3 * BLOCK as u32 + 1), next ^ 0x8000_0000]
    {
        let mut forged = segment(&world, Flags::RST, local, PORT, wrong, 0);
        forged.length = 1;
        let outcome = world.ends[1].t.handle_packet(now, PEER, &forged, &[3], true, true);
        assert_eq!(outcome.dropped, Some(DropReason::OutOfWindow));
        assert_eq!(world.ends[1].t.stream_info(b).unwrap().state, State::Established);
    }
    world.ends[0].t.reset(now, a, ResetCode::Aborted);
    world.pass(ms(100));
    assert_eq!(ended(&world, 1), [StreamEnd::Reset(ResetCode::Aborted)]);
    assert_eq!(ended(&world, 0), [StreamEnd::Aborted]);
    assert_eq!(
        world.ends[1].t.read(now, b, &mut [0]),
        Err(ReadError::Ended(StreamEnd::Reset(ResetCode::Aborted)))
    );
    assert_eq!(world.ends[0].t.open_streams(PEER), 0, "the reset was acknowledged");
}

/// The writer waits for room when the stream is given up: it is told the end and nothing else.
#[test]
fn giving_a_stream_up_while_its_writer_waits_tells_the_end_only() {
    let mut world = World::listening(8, Link::clean(ms(10)));
    let (a, _) = world.open(PORT);
    let now = world.now;
    while world.ends[0].t.write(now, a, &[7; 65_536]) != Err(WriteError::WouldBlock) {}
    world.ends[0].events.clear();
    world.ends[0].t.reset(now, a, ResetCode::Aborted);
    world.pass(S(1));
    assert_eq!(ended(&world, 0), [StreamEnd::Aborted]);
    assert!(!world.ends[0].events.contains(&TransportEvent::Writable(a)));
    assert_eq!(ended(&world, 1), [StreamEnd::Reset(ResetCode::Aborted)]);
}

/// The peer has forgotten a stream that had ended in both directions, and what acknowledged our
/// FIN was lost for so long: the stream has ended well, unless data is missing or the peer ends
/// it for another reason.
#[test]
fn a_reset_for_a_forgotten_stream_acknowledges_the_fin_and_no_data() {
    for (data, code, end) in [
        (&b""[..], ResetCode::Closed, StreamEnd::Finished),
        (b"unheard", ResetCode::Closed, StreamEnd::Reset(ResetCode::Closed)),
        (b"", ResetCode::Aborted, StreamEnd::Reset(ResetCode::Aborted)),
    ] {
        let mut world = World::listening(8, Link::clean(ms(10)));
        let (a, b) = world.open(PORT);
        let now = world.now;
        world.ends[0].t.finish(now, a).unwrap();
        world.pass(ms(100));
        let now = world.now;
        if !data.is_empty() {
            world.ends[1].t.write(now, b, data).unwrap();
        }
        world.ends[1].t.finish(now, b).unwrap();
        assert_eq!(world.ends[1].t.stream_info(b).unwrap().state, State::LastAck);
        let local = world.ends[0].t.stream_info(a).unwrap().local_port;
        let next = world.ends[1].t.streams[b.0].rcv.acknowledgement();
        let mut reset = segment(&world, Flags::RST, local, PORT, next, 0);
        reset.length = 1;
        let _ = world.ends[1].t.handle_packet(now, PEER, &reset, &[code.to_byte()], true, true);
        world.pass(ms(1));
        assert_eq!(ended(&world, 1), [end]);
    }
}

/// A reset survives loss, in both kinds: of a stream, and for a port that is closed.
#[test]
fn resets_are_sent_until_they_arrive() {
    for seed in 0..8 {
        let mut world = World::listening(seed, Link::lossy(ms(10), 400));
        let (a, _) = world.open(PORT);
        let now = world.now;
        world.ends[0].t.reset(now, a, ResetCode::Aborted);
        world.run(S(300), |world| !ended(world, 1).is_empty());
        let refused = world.ends[0].t.connect(now, PEER, Port(9), NETWORK).unwrap();
        world.run(S(300), |world| {
            let gone = StreamEnd::Reset(ResetCode::Closed);
            world.ends[0].events.contains(&TransportEvent::Closed(refused, gone))
        });
    }
}

#[test]
fn refusals_say_why() {
    // Of four places one peer may have two.
    let limits = Limits { backlog: 4, ..limits() };
    let mut world = World::with(9, [Link::clean(ms(5)); 2], &limits, 1232);
    world.ends[1].t.listen(PORT).unwrap();
    let try_port = |world: &mut World, port: Port| {
        let now = world.now;
        let id = world.ends[0].t.connect(now, PEER, port, NETWORK).unwrap();
        world.pass(ms(100));
        world.ends[0].t.stream_info(id).unwrap().end
    };
    assert_eq!(try_port(&mut world, Port(444)), Some(StreamEnd::Reset(ResetCode::Closed)));
    world.ends[1].permitted = false;
    assert_eq!(try_port(&mut world, PORT), Some(StreamEnd::Reset(ResetCode::NotPermitted)));
    world.ends[1].permitted = true;
    assert_eq!(try_port(&mut world, PORT), None);
    assert_eq!(try_port(&mut world, PORT), None);
    assert_eq!(try_port(&mut world, PORT), Some(StreamEnd::Reset(ResetCode::Busy)));
    assert!(world.ends[1].t.accept(PORT).is_some());
    assert_eq!(try_port(&mut world, PORT), None, "accepting makes room");
}

/// W-T11: SYNs beyond the backlog cost nothing that stays.
#[test]
fn a_flood_of_syns_is_bounded() {
    let mut world = World::listening(10, Link::clean(ms(5)));
    let now = world.now;
    for n in 0..5000u32 {
        let syn = segment(&world, Flags::SYN, Port(n as u16), PORT, n, 0);
        let _ = world.ends[1].t.handle_packet(now, PEER, &syn, b"", true, true);
    }
    assert_eq!(world.ends[1].t.open_streams(PEER), limits().backlog / 2);
    let (_, unreserved, all) = world.ends[1].t.pool_blocks();
    assert_eq!(all - unreserved, 2 * limits().backlog as u32);
}

/// W-T12: a SYN of a former life neither disturbs a stream nor answers for it, and a SYN-ACK
/// with a wrong number opens nothing.
#[test]
fn stale_syns_and_syn_acks_do_nothing() {
    let mut world = World::listening(11, Link::clean(ms(10)));
    let (a, b) = world.open(PORT);
    world.pass(S(1));
    let now = world.now;
    let local = world.ends[0].t.stream_info(a).unwrap().local_port;
    let before = world.ends[1].t.stream_info(b).unwrap();
    let syn = segment(&world, Flags::SYN, local, PORT, 0x1234_5678, 0);
    let outcome = world.ends[1].t.handle_packet(now, PEER, &syn, b"", true, true);
    assert_eq!(outcome.dropped, Some(DropReason::OutOfWindow));
    assert_eq!(world.ends[1].t.stream_info(b).unwrap(), before);
    world.pass(S(1));
    assert_eq!(world.ends[0].t.stream_info(a).unwrap().state, State::Established);

    let asked = world.ends[0].t.connect(now, PEER, Port(77), NETWORK).unwrap();
    let info = world.ends[0].t.stream_info(asked).unwrap();
    let isn = world.ends[0].t.streams[asked.0].snd.isn;
    let mut stale = segment(&world, Flags::SYN | Flags::ACK, Port(77), info.local_port, 9, isn);
    (stale.source, stale.destination) = (stale.destination, stale.source);
    let _ = world.ends[0].t.handle_packet(now, PEER, &stale, b"", true, true);
    assert_eq!(world.ends[0].t.stream_info(asked).unwrap().state, State::SynSent);
}

/// W-T13: ports drawn stay in the ephemeral range, and differ while their streams live.
#[test]
fn source_ports_are_ephemeral_and_distinct() {
    let mut world = World::listening(12, Link::clean(ms(10)));
    let now = world.now;
    let mut ports = std::collections::BTreeSet::new();
    for _ in 0..limits().streams {
        let id = world.ends[0].t.connect(now, PEER, PORT, NETWORK).unwrap();
        let port = world.ends[0].t.stream_info(id).unwrap().local_port;
        assert!(port.is_ephemeral() && ports.insert(port));
    }
    assert_eq!(
        world.ends[0].t.connect(now, PEER, PORT, NETWORK),
        Err(ConnectError::TooManyStreams)
    );
}

/// A pool without room refuses new streams at both ends; those that exist go on, and closing
/// gives the room back.
#[test]
fn an_exhausted_pool_refuses_streams_and_no_bytes() {
    let limits = Limits { buffer_bytes: 24 * BLOCK, ..limits() };
    let mut world = World::with(13, [Link::lossy(ms(5), 20); 2], &limits, 1232);
    world.ends[1].t.listen(PORT).unwrap();
    let pairs: Vec<_> = (0..3).map(|_| world.open(PORT)).collect();
    // A peer may open no more than it leaves to others; the rest is ours to ask with.
    let now = world.now;
    let mut asked = Vec::new();
    for (at, end) in world.ends.iter_mut().enumerate() {
        asked.extend((0..3).map(|_| (at, end.t.connect(now, PEER, PORT, NETWORK).unwrap())));
        assert_eq!(end.t.connect(now, PEER, PORT, NETWORK), Err(ConnectError::NoMemory));
        let datagram = end.t.send_datagram(now, PEER, PORT, PORT, NETWORK, b"x");
        assert_eq!(datagram, Err(DatagramError::NoMemory));
    }
    let mut flows: Vec<_> = pairs
        .iter()
        .enumerate()
        .map(|(n, p)| (Source::new(0, p.0, n as u64, 400_000), Sink::new(1, p.1, n as u64)))
        .collect();
    world.run(S(120), |world| {
        for (source, sink) in &mut flows {
            source.pump(world);
            sink.pump(world);
        }
        flows.iter().all(|(_, sink)| sink.finished)
    });
    for (at, id) in asked {
        let code = if at == 0 { ResetCode::Busy } else { ResetCode::Closed };
        let end = &mut world.ends[at].t;
        assert_eq!(end.stream_info(id).unwrap().end, Some(StreamEnd::Reset(code)));
        end.release(world.now, id);
    }
    for (a, b) in &pairs {
        let now = world.now;
        world.ends[0].t.release(now, *a);
        world.ends[1].t.release(now, *b);
    }
    world.run(S(60), |world| world.ends.iter().all(|end| end.t.open_streams(PEER) == 0));
    for end in &world.ends {
        assert_eq!(end.t.pool_blocks(), (0, 24, 24));
    }
    world.open(PORT);
}

#[test]
fn released_streams_finish_or_reset_and_leave_nothing() {
    // Everything read: a finish. Something unread: a reset.
    for unread in [false, true] {
        let mut world = World::listening(14, Link::clean(ms(10)));
        let (a, b) = world.open(PORT);
        let now = world.now;
        world.ends[0].t.write(now, a, b"hello").unwrap();
        world.pass(ms(100));
        let now = world.now;
        if !unread {
            world.ends[1].t.read(now, b, &mut [0; 9]).unwrap();
        }
        world.ends[1].t.release(now, b);
        world.pass(ms(100));
        let end = world.ends[0].t.stream_info(a).unwrap();
        if unread {
            assert_eq!(end.end, Some(StreamEnd::Reset(ResetCode::Aborted)));
        } else {
            assert_eq!(end.state, State::CloseWait);
            let now = world.now;
            world.ends[0].t.release(now, a);
        }
        world.pass(S(70));
        let now = world.now;
        world.ends[0].t.release(now, a);
        for end in &world.ends {
            let (taken, unreserved, all) = end.t.pool_blocks();
            assert_eq!((taken, unreserved, end.t.streams().count()), (0, all, 0));
        }
    }
}

/// A finished and released stream whose peer never finishes is given up after a minute.
#[test]
fn an_orphan_does_not_linger_for_ever() {
    let mut world = World::listening(15, Link::clean(ms(10)));
    let (a, b) = world.open(PORT);
    let now = world.now;
    world.ends[0].t.release(now, a);
    world.pass(S(59));
    assert_eq!(world.ends[0].t.open_streams(PEER), 1);
    world.pass(S(3));
    assert_eq!(world.ends[0].t.open_streams(PEER), 0);
    assert_eq!(
        world.ends[1].t.stream_info(b).unwrap().end,
        Some(StreamEnd::Reset(ResetCode::Aborted))
    );
}

#[test]
fn datagrams_arrive_and_are_dropped_by_rule() {
    let mut world = World::listening(16, Link::clean(ms(10)));
    let now = world.now;
    let max = 1232 - 62;
    let send = |world: &mut World, n: u8, len: usize| {
        let bytes = std::vec![n; len];
        world.ends[0].t.send_datagram(now, PEER, Port(53), Port(5), NETWORK, &bytes)
    };
    assert_eq!(send(&mut world, 0, max + 1), Err(DatagramError::TooLarge { max }));
    send(&mut world, 0, max).unwrap();
    world.pass(ms(100));
    assert!(world.ends[1].datagrams.is_empty(), "nobody listens");
    world.ends[1].t.bind_datagram(Port(53)).unwrap();
    for n in 0..100 {
        send(&mut world, n, 10).unwrap();
    }
    assert_eq!(world.ends[0].t.drops().get(DropReason::DatagramQueue), 36);
    world.pass(S(1));
    let got: Vec<u8> = world.ends[1].datagrams.iter().map(|(_, bytes)| bytes[0]).collect();
    assert_eq!(got, (36..100).collect::<Vec<u8>>(), "the oldest went");
}

/// `wire.md` 1 (W-C8): addresses of an inner packet must be those of the session.
#[test]
fn packets_of_other_addresses_are_dropped() {
    let mut world = World::listening(17, Link::clean(ms(10)));
    let good = segment(&world, Flags::SYN, Port(50_000), PORT, 7, 0);
    let other = Address::new(NETWORK, NodeId(99));
    for bad in [
        Header { source: other, ..good },
        Header { destination: other, ..good },
        Header { source: Address::new(NetworkId(8), NodeId(16)), ..good },
    ] {
        let outcome = world.ends[1].t.handle_packet(world.now, PEER, &bad, b"", true, true);
        assert_eq!(outcome.dropped, Some(DropReason::WrongAddress));
    }
    assert_eq!(world.ends[1].t.open_streams(PEER), 0);
    let _ = world.ends[1].t.handle_packet(world.now, PEER, &good, b"", true, true);
    assert_eq!(world.ends[1].t.open_streams(PEER), 1);
}

/// A stream in the accept queue is invisible until its opener has answered, and is gone with
/// its opener's reset.
#[test]
fn nothing_half_open_is_accepted() {
    let mut world = World::listening(18, Link::clean(ms(10)));
    let syn = segment(&world, Flags::SYN, Port(50_000), PORT, 7, 0);
    let now = world.now;
    let _ = world.ends[1].t.handle_packet(now, PEER, &syn, b"", true, true);
    assert_eq!(world.ends[1].t.accept(PORT), None);
    // The SYN-ACK goes to an end that never asked: it answers with a reset.
    world.pass(S(1));
    assert_eq!(world.ends[1].t.accept(PORT), None);
    assert_eq!(world.ends[1].t.open_streams(PEER), 0);
    assert_eq!(world.ends[1].t.pool_blocks().0, 0);
}
