//! Cancellation: every operation is begun, polled a few times and dropped, at each of its await
//! points. No byte, stream, datagram or answer is lost or comes twice, and no place in any table
//! stays taken.

use super::datagrams::warm_up;
use super::*;
use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

/// More than [`crate::drive::Hub`] has places for those who wait.
const MORE_THAN_WAITERS: u32 = 1500;

/// Far more attempts than either side has places for streams are given up; the place is free
/// again each time, and a real one still succeeds.
pub fn connecting_may_be_given_up<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends_with(|setup| setup.limits.streams = 16).await;
        let listener = stage.b.listen(PORT).expect("the port is free");
        step("the first connection");
        drop(stage.stream_to(&listener).await);
        step("giving up connections");
        let to = Target::Address(stage.b_at);
        let mut opened = 0;
        for n in 0..100 {
            let polls = n % 4 + 1;
            match abandon(stage.a.connect(to.clone(), PORT), polls, 3 * MS) {
                // Fast enough: dropped all the same.
                Some(Ok(_)) => opened += 1,
                // Those given up are still taking leave.
                Some(Err(Failure::Command(CommandError::Full))) => sleep(20 * MS).await,
                Some(Err(failure)) => {
                    let busy = Failure::ended(StreamEnd::Busy);
                    assert_eq!(failure, busy, "after {n} attempts");
                }
                None => {}
            }
            // The accepting side has them all, given up or not.
            while abandon(B::accept(&listener), 1, Duration::ZERO).is_some() {}
        }
        assert_eq!(stage.a.connections(), 0, "{opened} were opened");
        step("one connection that is not given up");
        let accepting = async {
            loop {
                let (halves, _) = B::accept(&listener).await.expect("accepted");
                let mut pipe = Pipe::<B>::from(halves);
                let mut first = [0; 4];
                // Streams that were given up end here.
                if B::read(&mut pipe.reader, &mut first).await == Ok(4) {
                    return first;
                }
            }
        };
        let connecting = async {
            loop {
                match stage.a.connect(to.clone(), PORT).await {
                    Ok(halves) => {
                        let mut pipe = Pipe::<A>::from(halves);
                        assert_eq!(A::write(&mut pipe.writer, b"here").await, Ok(4));
                        return pipe;
                    }
                    Err(_) => sleep(100 * MS).await,
                }
            }
        };
        let (first, pipe) = both(accepting, connecting).await;
        assert_eq!(&first, b"here");
        drop(pipe);
        while abandon(B::accept(&listener), 1, Duration::ZERO).is_some() {}
        stage.expect_no_streams().await;
    });
}

/// Waiting for a stream is given up more often than there are places to wait, and while streams
/// come; each stream goes to one who did not give up.
pub fn accepting_may_be_given_up<A: Subject, B: Subject, R: Rendezvous>() {
    const STREAMS: u8 = 40;
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let listener = stage.b.listen(PORT).expect("the port is free");
        step("giving up acceptance");
        for _ in 0..MORE_THAN_WAITERS {
            assert!(abandon(B::accept(&listener), 1, Duration::ZERO).is_none());
        }
        drop(stage.stream_to(&listener).await);
        step("giving up acceptance while streams come");
        let connecting = async {
            let mut pipes = Vec::new();
            for n in 0..STREAMS {
                let halves = stage.a.connect(Target::Address(stage.b_at), PORT).await;
                let mut pipe = Pipe::<A>::from(halves.expect("opened"));
                assert_eq!(A::write(&mut pipe.writer, &[n]).await, Ok(1));
                pipes.push(pipe);
            }
            pipes
        };
        let accepting = async {
            let mut came = BTreeSet::new();
            for n in 0u32.. {
                let accepted = abandon(B::accept(&listener), n % 3 + 1, MS);
                if let Some(accepted) = accepted {
                    let (halves, _) = accepted.expect("accepted");
                    let mut pipe = Pipe::<B>::from(halves);
                    let mut first = [0];
                    assert_eq!(B::read(&mut pipe.reader, &mut first).await, Ok(1));
                    assert!(came.insert(first[0]), "{} came twice", first[0]);
                }
                if came.len() == usize::from(STREAMS) {
                    return;
                }
                // The one who connects shares this thread.
                sleep(Duration::from_micros(200)).await;
            }
        };
        both(connecting, accepting).await;
        stage.expect_no_handles().await;
    });
}

/// Reads are given up at every point while bytes trickle in.
pub fn reading_may_be_given_up<A: Subject, B: Subject, R: Rendezvous>() {
    const BYTES: usize = 300_000;
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let (mut left, mut right) = stage.stream().await;
        step("giving up reads");
        let writing = async {
            let mut at = 0;
            while at < BYTES {
                let n = (1 + at * 7 % 2999).min(BYTES - at);
                left.put(1, at, n).await.expect("written");
                at += n;
                sleep(Duration::from_micros(300)).await;
            }
            left.finish().await.expect("finished");
        };
        let reading = async {
            let (mut got, mut given_up) = (0, 0);
            let mut buf = [0; 1999];
            for n in 0u32.. {
                match abandon(B::read(&mut right.reader, &mut buf), n % 3 + 1, MS) {
                    Some(Ok(0)) => break,
                    Some(Ok(n)) => {
                        check(1, got, &buf[..n]);
                        got += n;
                    }
                    Some(Err(failure)) => panic!("{failure:?}"),
                    None => {
                        given_up += 1;
                        sleep(Duration::from_micros(100)).await;
                    }
                }
            }
            assert_eq!(got, BYTES);
            assert!(given_up > 10, "{given_up} were given up");
        };
        both(writing, reading).await;
    });
}

/// Writes are given up at every point while the ring is full: what was not accepted is offered
/// again, and nothing is missing or doubled.
pub fn writing_may_be_given_up<A: Subject, B: Subject, R: Rendezvous>() {
    const BYTES: usize = 4 << 20;
    block_on(async {
        let small = |setup: &mut Setup| {
            setup.limits.buffer_bytes = 1 << 20;
            setup.limits.streams = 8;
        };
        let stage = Stage::<A, B, R>::friends_with(small).await;
        let (mut left, mut right) = stage.stream().await;
        step("giving up writes");
        let writing = async {
            let (mut at, mut given_up) = (0, 0);
            let mut chunk = vec![0; 50_000];
            for n in 0u32.. {
                let len = chunk.len().min(BYTES - at);
                fill(1, at, &mut chunk[..len]);
                match abandon(A::write(&mut left.writer, &chunk[..len]), n % 3 + 1, MS) {
                    Some(accepted) => at += accepted.expect("written"),
                    None => {
                        given_up += 1;
                        sleep(Duration::from_micros(100)).await;
                    }
                }
                if at == BYTES {
                    break;
                }
            }
            left.finish().await.expect("finished");
            assert!(given_up > 10, "{given_up} were given up");
        };
        let reading = async {
            let mut at = 0;
            while at < BYTES {
                let n = 60_000.min(BYTES - at);
                right.take(1, at, n).await;
                at += n;
                sleep(2 * MS).await;
            }
            right.expect_end().await;
        };
        both(writing, reading).await;
    });
}

/// Waiting for acknowledgement is given up and begun again; it is not over before the peer has
/// everything.
pub fn waiting_for_acknowledgement_may_be_given_up<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let (mut left, mut right) = stage.stream().await;
        step("giving up waiting for acknowledgement");
        A::acknowledged(&mut left.writer).await.expect("nothing is unacknowledged");
        let bytes = fill_up_quickly::<A>(&mut left.writer).await;
        for n in 0..200 {
            let acknowledged = abandon(A::acknowledged(&mut left.writer), n % 3 + 1, MS);
            assert!(acknowledged.is_none(), "nobody has read");
        }
        let acknowledging = async {
            A::finish(&mut left.writer).await.expect("finished");
            A::acknowledged(&mut left.writer).await.expect("acknowledged");
        };
        let reading = async {
            right.take(1, 0, bytes).await;
            right.expect_end().await;
        };
        both(acknowledging, reading).await;
        A::acknowledged(&mut left.writer).await.expect("still");
    });
}

async fn fill_up_quickly<S: Subject>(writer: &mut S::Writer) -> usize {
    streams::fill_up::<S>(writer, 1, 64 << 20).await
}

/// Waiting for a datagram is given up more often than there are places to wait, and while
/// datagrams come; none is lost.
pub fn receiving_may_be_given_up<A: Subject, B: Subject, R: Rendezvous>() {
    const DATAGRAMS: u8 = 200;
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let at_a = stage.a.datagrams(Port(0)).expect("a free port");
        let at_b = stage.b.datagrams(PORT).expect("the port is free");
        let to = SocketAddress { address: stage.b_at, port: PORT };
        warm_up::<A, B>(&at_a, to, &at_b).await;
        step("giving up receiving");
        let mut buf = [0; 16];
        for _ in 0..MORE_THAN_WAITERS {
            assert!(abandon(B::receive(&at_b, &mut buf), 1, Duration::ZERO).is_none());
        }
        let sending = async {
            for n in 0..DATAGRAMS {
                A::send(&at_a, &[n], to).expect("sent");
                sleep(MS).await;
            }
        };
        let receiving = async {
            let mut came = BTreeSet::new();
            let mut buf = [0; 16];
            // Attempts in vain, of a millisecond at least.
            let mut quiet = 0;
            for n in 0u32.. {
                if let Some(got) = abandon(B::receive(&at_b, &mut buf), n % 3 + 1, MS) {
                    assert_eq!(got.expect("received").0, 1);
                    assert!(came.insert(buf[0]), "{} came twice", buf[0]);
                    quiet = 0;
                } else {
                    quiet += 1;
                }
                if came.len() == usize::from(DATAGRAMS) || quiet == 2000 {
                    break;
                }
                sleep(Duration::from_micros(100)).await;
            }
            came.len()
        };
        let ((), came) = both(sending, receiving).await;
        let dropped = stage.a.drops().total() + stage.b.drops().total();
        assert_eq!(came, usize::from(DATAGRAMS), "{dropped} dropped");
    });
}

/// More questions are given up than there are places for; the places are free again.
pub fn asking_the_registry_may_be_given_up<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends_with(|setup| setup.limits.requests = 8).await;
        let target = Target::Address(stage.b_at);
        step("giving up questions");
        let mut answered = 0;
        for n in 0..200 {
            match abandon(stage.a.resolve(target.clone()), n % 3 + 1, MS) {
                Some(Ok(found)) => {
                    assert_eq!(found.address.node, stage.b_at.node);
                    answered += 1;
                }
                Some(Err(failure)) => panic!("{failure:?} after {n} questions"),
                None => {}
            }
        }
        step("a question after those given up");
        let found = stage.a.resolve(target.clone()).await.expect("found");
        assert_eq!(found.address.node, stage.b_at.node);
        // And as many as there are places at once.
        let found = all((0..8).map(|_| stage.a.resolve(target.clone()))).await;
        assert!(found.iter().all(Result::is_ok), "{found:?} after {answered} answers");
        let unknown = Target::Hostname("nobody".parse().expect("a hostname"));
        for n in 0..50 {
            drop(abandon(stage.a.connect(unknown.clone(), PORT), n % 2 + 1, MS));
        }
        assert_eq!(stage.a.connections(), 0);
        assert!(stage.a.resolve(target).await.is_ok());
    });
}

/// Waiting for the registration is given up more often than there are places to wait.
pub fn waiting_to_be_ready_may_be_given_up<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let world = R::start();
        let agent = A::start(Setup::new(&world, 1));
        step("giving up waiting for the registration");
        for _ in 0..MORE_THAN_WAITERS {
            drop(abandon(agent.ready(), 1, Duration::ZERO));
        }
        let mut events = agent.events();
        for _ in 0..100 {
            if let Some(News::End) = abandon(A::next(&mut events), 1, Duration::ZERO) {
                panic!("the end");
            }
        }
        let at = agent.ready().await.expect("registered");
        assert_eq!(abandon(agent.ready(), 1, Duration::ZERO), Some(Ok(at)));
    });
}

/// Who gives up waiting for the end has ended the agent nevertheless, or can try again.
pub fn shutting_down_may_be_given_up<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        for polls in 1..4 {
            let stage = Stage::<A, B, R>::friends().await;
            let (left, mut right) = stage.stream().await;
            step("giving up the end");
            let _ = abandon(stage.a.shutdown(), polls, MS);
            stage.a.shutdown().await;
            assert!(stage.a.local().is_empty());
            let ended = B::read(&mut right.reader, &mut [0]).await;
            assert_eq!(ended, Err(Failure::ended(StreamEnd::Gone)));
            drop(left);
        }
    });
}
