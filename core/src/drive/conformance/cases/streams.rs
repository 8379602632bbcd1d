//! Bytes in order, in both directions, many and few.

use super::*;
use std::vec;
use std::vec::Vec;

/// 300 streams carry 40 kB each way at the same time; every byte is checked against the stream
/// and position that it belongs to, and afterwards no stream is left.
pub fn many_streams_at_once<A: Subject, B: Subject, R: Rendezvous>() {
    const STREAMS: usize = 300;
    const BYTES: usize = 40_000;
    block_on(async {
        // One peer may have as much of everything as it leaves to others.
        let limits = |setup: &mut Setup| {
            setup.limits.streams = 4 * STREAMS;
            setup.limits.backlog = 4 * STREAMS;
            setup.limits.buffer_bytes = 128 << 20;
        };
        let stage = Stage::<A, B, R>::friends_with(limits).await;
        step("300 streams");
        let listener = stage.b.listen(PORT).expect("the port is free");
        let answer = async |n: usize| {
            let (halves, _) = B::accept(&listener).await.expect("accepted");
            let mut pipe = Pipe::<B>::from(halves);
            // Streams are accepted in any order: the first byte's position tells which it is.
            let mut name = [0; 8];
            let mut got = 0;
            while got < name.len() {
                match B::read(&mut pipe.reader, &mut name[got..]).await {
                    Ok(n @ 1..) => got += n,
                    other => panic!("{other:?} at acceptance {n}"),
                }
            }
            let key = u64::from_le_bytes(name);
            pipe.take(key, 0, BYTES).await;
            pipe.expect_end().await;
            pipe.put(!key, 0, BYTES).await.expect("written");
            pipe.finish().await.expect("finished");
            B::acknowledged(&mut pipe.writer).await.expect("acknowledged");
            key
        };
        let ask = async |key: u64| {
            let halves = stage.a.connect(Target::Address(stage.b_at), PORT).await;
            let mut pipe = Pipe::<A>::from(halves.expect("opened"));
            let name = key.to_le_bytes();
            assert_eq!(A::write(&mut pipe.writer, &name).await, Ok(name.len()));
            pipe.put(key, 0, BYTES).await.expect("written");
            pipe.finish().await.expect("finished");
            pipe.take(!key, 0, BYTES).await;
            pipe.expect_end().await;
        };
        let asking = all((0..STREAMS as u64).map(&ask));
        let answering = all((0..STREAMS).map(&answer));
        let (_, mut answered) = both(asking, answering).await;
        answered.sort_unstable();
        assert_eq!(answered, (0..STREAMS as u64).collect::<Vec<_>>());
        stage.expect_no_streams().await;
    });
}

/// Nobody reads: both writers are stopped at a bound that follows from the limits. Then both
/// sides read, and everything that was accepted arrives.
pub fn a_slow_reader_stops_the_writer_and_loses_nothing<A: Subject, B: Subject, R: Rendezvous>() {
    const POOL: usize = 2 << 20;
    block_on(async {
        let limits = |setup: &mut Setup| {
            setup.limits.buffer_bytes = POOL;
            setup.limits.streams = 16;
        };
        let stage = Stage::<A, B, R>::friends_with(limits).await;
        let (mut left, mut right) = stage.stream().await;
        step("writing until nothing is accepted");
        // Accepted is what lies in our pool and what lies in theirs.
        let filling_left = fill_up::<A>(&mut left.writer, 1, 2 * POOL);
        let (at_left, at_right) =
            both(filling_left, fill_up::<B>(&mut right.writer, 2, 2 * POOL)).await;
        assert!(at_left >= 64 << 10 && at_right >= 64 << 10, "{at_left}, {at_right}");
        step("reading everything, slowly at first");
        const MORE: usize = 200_000;
        let (left_reader, left_writer) = (&mut left.reader, &mut left.writer);
        let (right_reader, right_writer) = (&mut right.reader, &mut right.writer);
        let writing = async {
            put::<A>(left_writer, 1, at_left, MORE).await.expect("written");
            A::finish(left_writer).await.expect("finished");
        };
        let answering = async {
            put::<B>(right_writer, 2, at_right, MORE).await.expect("written");
            B::finish(right_writer).await.expect("finished");
        };
        let reading = async {
            for n in 0..10 {
                sleep(10 * MS).await;
                take::<B>(right_reader, 1, n * 100, 100).await;
            }
            take::<B>(right_reader, 1, 1000, at_left + MORE - 1000).await;
            assert_eq!(B::read(right_reader, &mut [0]).await, Ok(0));
        };
        let listening = async {
            take::<A>(left_reader, 2, 0, at_right + MORE).await;
            assert_eq!(A::read(left_reader, &mut [0]).await, Ok(0));
        };
        both(both(writing, answering), both(reading, listening)).await;
    });
}

/// Writes until nothing was accepted for a second: how much was.
pub(super) async fn fill_up<S: Subject>(writer: &mut S::Writer, key: u64, bound: usize) -> usize {
    let mut accepted = 0;
    let mut chunk = vec![0; 64 << 10];
    loop {
        fill(key, accepted, &mut chunk);
        match within(1000 * MS, S::write(writer, &chunk)).await {
            Some(n) => accepted += n.expect("written"),
            None => return accepted,
        }
        assert!(accepted <= bound, "{accepted} bytes were accepted and nobody reads");
    }
}

/// The end of one direction leaves the other open, both ways round.
pub fn each_direction_ends_by_itself<A: Subject, B: Subject, R: Rendezvous>() {
    const BYTES: usize = 100_000;
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let (mut left, mut right) = stage.stream().await;
        step("the one who connected ends first");
        left.put(1, 0, BYTES).await.expect("written");
        left.finish().await.expect("finished");
        left.finish().await.expect("finishing twice is nothing to complain of");
        let late = A::write(&mut left.writer, b"late").await;
        assert_eq!(late, Err(Failure::Stream(StreamError::Finished)));
        right.take(1, 0, BYTES).await;
        right.expect_end().await;
        right.expect_end().await;
        both(right.put(2, 0, BYTES), left.take(2, 0, BYTES)).await.0.expect("written");
        right.finish().await.expect("finished");
        left.expect_end().await;
        let known =
            both(A::acknowledged(&mut left.writer), B::acknowledged(&mut right.writer)).await;
        assert_eq!(known, (Ok(()), Ok(())));
        drop((left, right));

        let (mut left, mut right) = stage.stream().await;
        step("the one who accepted ends first");
        right.finish().await.expect("finished");
        left.expect_end().await;
        both(left.put(3, 0, BYTES), right.take(3, 0, BYTES)).await.0.expect("written");
        left.finish().await.expect("finished");
        right.expect_end().await;
        A::acknowledged(&mut left.writer).await.expect("acknowledged");
        drop((left, right));
        stage.expect_no_handles().await;
    });
}

/// A reset wakes who reads and who writes at the other side, and fails for oneself, too.
pub fn a_reset_ends_both_sides<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let aborted = Failure::ended(StreamEnd::Aborted);
        let stage = Stage::<A, B, R>::friends().await;
        let (mut left, mut right) = stage.stream().await;
        let full = fill_up::<B>(&mut right.writer, 2, 64 << 20).await;
        assert!(full > 0);
        step("a reset while the peer reads and writes");
        let reset = async {
            sleep(50 * MS).await;
            A::reset(&mut left.writer);
        };
        let reading = async { B::read(&mut right.reader, &mut [0]).await };
        let chunk = [0; 100];
        // The window may still have opened by a little.
        let writing = async {
            loop {
                if let Err(failure) = B::write(&mut right.writer, &chunk).await {
                    return failure;
                }
            }
        };
        let ((), (read, written)) = both(reset, both(reading, writing)).await;
        assert_eq!((read, written), (Err(aborted.clone()), aborted.clone()));
        let acknowledged = B::acknowledged(&mut right.writer).await;
        assert_eq!(acknowledged, Err(aborted));
        let own = Failure::ended(StreamEnd::Reset);
        assert_eq!(A::write(&mut left.writer, b"x").await, Err(own));
        drop((left, right));

        step("a reset by the one who accepted");
        let (mut left, mut right) = stage.stream().await;
        B::reset(&mut right.writer);
        let failed = A::read(&mut left.reader, &mut [0]).await;
        assert_eq!(failed, Err(Failure::ended(StreamEnd::Aborted)));
        drop((left, right));
        stage.expect_no_streams().await;
    });
}

/// 32 MiB, offered in one piece again and again.
pub fn large_writes_arrive_whole<A: Subject, B: Subject, R: Rendezvous>() {
    const BYTES: usize = 32 << 20;
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let (mut left, mut right) = stage.stream().await;
        let mut sent = vec![0; BYTES];
        fill(7, 0, &mut sent);
        step("32 MiB");
        let writing = async {
            let mut left_over = &sent[..];
            while !left_over.is_empty() {
                let n = A::write(&mut left.writer, left_over).await.expect("written");
                assert!(n > 0);
                left_over = &left_over[n..];
            }
            A::finish(&mut left.writer).await.expect("finished");
            A::acknowledged(&mut left.writer).await.expect("acknowledged");
        };
        let reading = async {
            take::<B>(&mut right.reader, 7, 0, BYTES).await;
            assert_eq!(B::read(&mut right.reader, &mut [0]).await, Ok(0));
        };
        both(writing, reading).await;
    });
}

/// 20,000 writes of one byte, empty ones between them; and empty calls never wait.
pub fn tiny_and_empty_writes_arrive_in_order<A: Subject, B: Subject, R: Rendezvous>() {
    const BYTES: usize = 20_000;
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let (mut left, mut right) = stage.stream().await;
        step("writing single bytes");
        let writing = async {
            for at in 0..BYTES {
                let mut byte = [0];
                fill(5, at, &mut byte);
                assert_eq!(A::write(&mut left.writer, &byte).await, Ok(1));
                if at % 100 == 0 {
                    assert_eq!(A::write(&mut left.writer, &[]).await, Ok(0));
                }
            }
            A::finish(&mut left.writer).await.expect("finished");
        };
        let reading = async {
            assert_eq!(B::read(&mut right.reader, &mut []).await, Ok(0));
            take::<B>(&mut right.reader, 5, 0, BYTES).await;
            assert_eq!(B::read(&mut right.reader, &mut [0; 4]).await, Ok(0));
        };
        both(writing, reading).await;
    });
}

/// What was written before the handle was dropped arrives, and so does the end.
pub fn a_dropped_stream_still_delivers<A: Subject, B: Subject, R: Rendezvous>() {
    const BYTES: usize = 60_000;
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let (mut left, mut right) = stage.stream().await;
        left.put(9, 0, BYTES).await.expect("written");
        drop(left);
        assert_eq!(stage.a.connections(), 0);
        right.take(9, 0, BYTES).await;
        right.expect_end().await;
        drop(right);
        stage.expect_no_handles().await;
    });
}

/// Without a finish, too: of a write that was taken whole, and of a ring that was full.
pub fn what_was_written_is_acknowledged_before_the_end<A: Subject, B: Subject, R: Rendezvous>() {
    const BYTES: usize = 1000;
    const SOON: Duration = Duration::from_secs(10);
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let (mut left, mut right) = stage.stream().await;
        for n in 0..3 {
            step("acknowledging what was taken whole");
            left.put(1, n * BYTES, BYTES).await.expect("written");
            let waiting = within(SOON, A::acknowledged(&mut left.writer));
            let ((), known) = both(right.take(1, n * BYTES, BYTES), waiting).await;
            assert_eq!(known, Some(Ok(())));
        }
        step("acknowledging a full ring");
        let filled = fill_up::<A>(&mut left.writer, 2, 64 << 20).await;
        let waiting = within(SOON, A::acknowledged(&mut left.writer));
        let ((), known) = both(right.take(2, 0, filled), waiting).await;
        assert_eq!(known, Some(Ok(())));
    });
}
