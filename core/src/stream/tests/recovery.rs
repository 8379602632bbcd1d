//! What must be sent again, and what must not: rows of `docs/attacks.md` in which the network,
//! or the moment, is the enemy.

use super::world::*;
use crate::stream::{ACKNOWLEDGEMENT, TrainState};
use crate::time::Duration;
use crate::wire::header::Header;
use std::boxed::Box;
use std::rc::Rc;
use std::vec::Vec;

/// An acknowledgement of frames that end 0 has not sent yet.
fn early_acknowledgement(world: &World) -> Vec<u8> {
    let (index, largest) = (world.ends[0].index, world.ends[0].counter + 2);
    let mut fd = std::vec![ACKNOWLEDGEMENT];
    fd.extend_from_slice(&index.to_be_bytes());
    fd.extend_from_slice(&largest.to_be_bytes());
    fd.extend_from_slice(&[0, 0, 0]);
    fd.extend_from_slice(&3u32.to_be_bytes());
    fd.push(0);
    fd
}

/// W-T8: a segment that was written and never noted as sent (its session ended just then), or
/// whose acknowledgement came before the note, is not forgotten.
#[test]
fn a_frame_that_was_never_noted_as_sent_is_sent_again() {
    for acknowledged_early in [false, true] {
        let mut world = World::listening(1, Link::clean(ms(10)));
        let (a, b) = world.open(PORT);
        world.pass(Duration::from_secs(1));
        let now = world.now;
        world.ends[0].t.write(now, a, &[7; 1000]).unwrap();
        let peer = world.ends[0].t.poll_ready(now).unwrap();
        if acknowledged_early {
            let fd = early_acknowledgement(&world);
            world.ends[0].t.handle_ack(now, peer, &fd, |_| None).unwrap();
            // It leaves, and is lost.
            let mut lost = 0;
            world.filter = Some(Box::new(move |from, frame| {
                lost += u32::from(from == 0 && frame.plain.len() > Header::LEN);
                lost != 1
            }));
        } else {
            let mut out = [0; 2000];
            let written =
                world.ends[0].t.write_frame(now, peer, MAIN, &mut out, &mut TrainState::new(1));
            assert_eq!(written.unwrap().len, Header::LEN + 1000);
            world.ends[0].t.session_down(now, peer);
            assert!(world.ends[0].t.wants_session(peer));
            world.ends[0].t.session_up(now, peer);
        }
        let mut got = 0;
        world.run(Duration::from_secs(5), |world| {
            got += world.ends[1].t.read(world.now, b, &mut [0; 2000]).unwrap_or(0);
            got == 1000
        });
    }
}

/// W-T14: what has arrived behind a hole is remembered, and not sent again with it.
#[test]
fn only_what_was_lost_is_sent_again() {
    let mut world = World::listening(2, Link::clean(ms(10)));
    let (a, b) = world.open(PORT);
    let sent = Rc::new(core::cell::Cell::new((0, 0)));
    let count = Rc::clone(&sent);
    world.filter = Some(Box::new(move |from, frame| {
        let len = frame.plain.len().saturating_sub(Header::LEN) as u64;
        if from == 1 || frame.plain[0] == ACKNOWLEDGEMENT || len == 0 {
            return true;
        }
        let (frames, bytes) = count.get();
        count.set((frames + 1, bytes + len));
        frames + 1 != 60
    }));
    let (mut source, mut sink) = (Source::new(0, a, 1, 300_000), Sink::new(1, b, 1));
    world.run(Duration::from_secs(20), |world| {
        source.pump(world);
        sink.pump(world);
        sink.finished
    });
    let (frames, bytes) = sent.get();
    assert!(frames > 200);
    assert!(bytes <= 300_000 + 2 * 1170, "{bytes}: the lost one, and perhaps a probe");
}

/// W-T16: a path that answers nothing gets one datagram at a time, ever more rarely.
#[test]
fn a_dead_path_is_sent_ever_less() {
    let mut world = World::listening(3, Link::clean(ms(10)));
    let (a, b) = world.open(PORT);
    let (mut source, mut sink) = (Source::new(0, a, 1, 50_000_000), Sink::new(1, b, 1));
    world.run(Duration::from_secs(20), |world| {
        source.pump(world);
        sink.pump(world);
        sink.at > 2_000_000
    });
    let window = world.ends[0].t.path_info(PEER, MAIN).unwrap().window;
    assert!(window > 100_000, "{window}");
    world.filter = Some(Box::new(|_, _| false));
    world.pass(Duration::from_secs(3));
    let early = world.ends[0].sent_frames;
    assert_eq!(world.ends[0].t.path_info(PEER, MAIN).unwrap().window, 1232);
    world.pass(Duration::from_secs(60));
    let late = world.ends[0].sent_frames - early;
    assert!((2..=8).contains(&late), "{late} frames in a minute");
}
