//! How many bytes a second two machines move to each other in memory, without encryption.

use super::world::*;
use crate::limits::{FRAME_HEADER, TAG};
use crate::stream::{ACKNOWLEDGEMENT, StreamId, TrainState};
use crate::time::Duration;
use crate::wire::header::Header;
use std::println;
use std::vec::Vec;

/// Moves trains from one end to the other at once; a shuttle without any queue.
fn shuttle(world: &mut World, from: usize, out: &mut [u8], lens: &mut Vec<usize>) -> bool {
    let now = world.now;
    let mut any = false;
    while let Some(peer) = world.ends[from].t.poll_ready(now) {
        let mut train = TrainState::new(52);
        lens.clear();
        let mut at = 0;
        let end = &mut world.ends[from];
        let first = end.counter;
        while let Some(written) = end.t.write_frame(now, peer, MAIN, &mut out[at..], &mut train) {
            let wire = written.len + FRAME_HEADER + TAG;
            end.t.frame_sent(now, peer, MAIN, end.index, end.counter, wire, written.token);
            end.counter += 1;
            lens.push(written.len);
            at += written.len;
        }
        let index = end.index;
        let end = &mut world.ends[1 - from];
        let mut at = 0;
        for (n, len) in lens.iter().enumerate() {
            let plain = &out[at..at + len];
            at += len;
            let counter = first + n as u64;
            if plain[0] == ACKNOWLEDGEMENT {
                end.t.handle_ack(now, PEER, plain, |_| None).unwrap();
                end.t.frame_received(now, PEER, MAIN, index, counter, false, false);
            } else {
                let (header, payload) = Header::decode(plain).unwrap();
                let outcome = end.t.handle_packet(now, PEER, &header, payload, true, true);
                assert!(outcome.accepted);
                let immediate = outcome.immediate;
                end.t.frame_received(now, PEER, MAIN, index, counter, true, immediate);
            }
        }
        end.t.batch_end(now, PEER);
        any |= !lens.is_empty();
    }
    any
}

fn bulk(world: &mut World, a: StreamId, b: StreamId, total: u64) -> f64 {
    let chunk = std::vec![7u8; 128 * 1024];
    let mut buffer = std::vec![0u8; 128 * 1024];
    let (mut out, mut lens) = (std::vec![0u8; 66_000], Vec::new());
    let (mut written, mut read) = (0u64, 0u64);
    let base = world.now;
    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    let start = std::time::Instant::now();
    while read < total {
        // The real clock: rates and round trips are those of this machine.
        let now = base + start.elapsed();
        world.now = now;
        for end in &mut world.ends {
            end.t.handle_timeout(now);
        }
        while written < total
            && let Ok(n) = world.ends[0].t.write(now, a, &chunk)
        {
            written += n as u64;
        }
        shuttle(world, 0, &mut out, &mut lens);
        while let Ok(n) = world.ends[1].t.read(now, b, &mut buffer) {
            read += n as u64;
        }
        shuttle(world, 1, &mut out, &mut lens);
        for end in &mut world.ends {
            while end.t.poll_event().is_some() {}
        }
    }
    read as f64 / start.elapsed().as_secs_f64()
}

pub(super) fn run() {
    for datagram in [1232, 1452, 8952] {
        let clean = [Link::clean(Duration::from_micros(50)); 2];
        let mut world = World::with(1, clean, &limits(), datagram);
        world.ends[1].t.listen(PORT).unwrap();
        let (a, b) = world.open(PORT);
        bulk(&mut world, a, b, 50_000_000);
        let rate = bulk(&mut world, a, b, 2_000_000_000);
        println!("datagrams of {datagram}: {:.0} MB/s through both ends", rate / 1e6);
    }
}
