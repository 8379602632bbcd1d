//! Shutting down in every state: whatever waits ends with a clear error, and nothing hangs.

use super::*;
use crate::drive::agent::Handle;
use std::boxed::Box;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::vec;

fn shutdown() -> Failure {
    Failure::Refused(crate::drive::Refusal::Shutdown)
}

fn ended() -> Failure {
    Failure::ended(StreamEnd::Shutdown)
}

/// Longer than any shutdown may take, its lingering included.
const SHUTDOWN_MAX: Duration = Duration::from_secs(6);

async fn shut_down<S: Subject>(agent: &S) {
    step("shutting down");
    within(SHUTDOWN_MAX, agent.shutdown()).await.expect("the end takes too long");
    assert!(agent.local().is_empty(), "the sockets are closed");
}

/// Nobody has answered yet.
pub fn shutting_down_before_registration<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let mut world = R::start();
        world.stop();
        let agent = A::start(Setup::new(&world, 1));
        let mut events = agent.events();
        let ending = async {
            sleep(100 * MS).await;
            shut_down(&agent).await;
        };
        let hearing = async { while A::next(&mut events).await != News::End {} };
        let ((), (ready, ())) = both(ending, both(agent.ready(), hearing)).await;
        assert_eq!(ready, Err(shutdown()));
        // And at once, before anything was tried.
        let agent = A::start(Setup::new(&world, 2));
        shut_down(&agent).await;
        assert_eq!(agent.ready().await, Err(shutdown()));
    });
}

/// The peer is gone, and the handshake goes on and on.
pub fn shutting_down_while_connecting<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let Stage { a, b, b_at, world, .. } = stage;
        kill(b);
        step("connecting to nobody");
        let ending = async {
            sleep(300 * MS).await;
            shut_down(&a).await;
        };
        let connecting = a.connect(Target::Address(b_at), PORT);
        let ((), connected) = both(ending, connecting).await;
        assert_eq!(connected.err(), Some(ended()));
        drop(world);
    });
}

/// One of each waits. Each ends with the error that says why, and the peer is told.
pub fn shutting_down_ends_every_pending_operation<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let small = |setup: &mut Setup| {
            setup.limits.buffer_bytes = 1 << 20;
            setup.limits.streams = 8;
        };
        let mut stage = Stage::<A, B, R>::friends_with(small).await;
        let (mut left, mut right) = stage.stream().await;
        let (mut left2, mut right2) = stage.stream().await;
        let filled = streams::fill_up::<A>(&mut left.writer, 1, 2 << 20).await;
        left2.put(2, 0, 1000).await.expect("written");
        right2.take(2, 0, 1000).await;
        let listener = stage.a.listen(Port(3000)).expect("the port is free");
        let datagrams = stage.a.datagrams(Port(3000)).expect("the port is free");
        let mut events = stage.a.events();
        // Nobody answers questions any more.
        stage.world.stop();
        let (a, b_at) = (&stage.a, stage.b_at);

        let ending = async {
            sleep(300 * MS).await;
            shut_down(a).await;
        };
        let chunk = [0; 100];
        let (mut one, mut two, mut buf) = ([0], [0], [0; 16]);
        let reading =
            both(A::read(&mut left.reader, &mut one), A::read(&mut left2.reader, &mut two));
        // The window may still open by a little.
        let writing = async {
            loop {
                if let Err(failure) = A::write(&mut left.writer, &chunk).await {
                    return failure;
                }
            }
        };
        let waiting = both(A::accept(&listener), A::receive(&datagrams, &mut buf));
        let asking = a.resolve(Target::Address(b_at));
        let hearing = async { while A::next(&mut events).await != News::End {} };
        let ((), ((read, written), (waited, (asked, ())))) =
            both(ending, both(both(reading, writing), both(waiting, both(asking, hearing)))).await;
        assert_eq!(read, (Err(ended()), Err(ended())));
        assert_eq!(written, ended());
        assert_eq!(waited.0.err(), Some(shutdown()));
        assert_eq!(waited.1, Err(shutdown()));
        assert_eq!(asked.err(), Some(Failure::Request(RequestError::Unreachable)));
        step("the peer is told");
        let gone = Failure::ended(StreamEnd::Gone);
        assert_eq!(B::read(&mut right2.reader, &mut [0]).await, Err(gone.clone()));
        assert_eq!(B::write(&mut right2.writer, b"x").await, Err(gone.clone()));
        // What had arrived is still there, and the rest is not made up.
        let failed = read_what_came::<B>(&mut right, filled).await;
        assert_eq!(failed, gone);
    });
}

/// Reads what had arrived, checks it, and returns the error after it.
async fn read_what_came<S: Subject>(pipe: &mut Pipe<S>, most: usize) -> Failure {
    let mut got = 0;
    let mut buf = vec![0; 64 << 10];
    loop {
        match S::read(&mut pipe.reader, &mut buf).await {
            Ok(0) => panic!("an end that nobody has written, after {got} of {most} bytes"),
            Ok(n) => {
                check(1, got, &buf[..n]);
                got += n;
                assert!(got <= most);
            }
            Err(failure) => return failure,
        }
    }
}

/// The end does not wait for who does not read, and does not invent an end of the stream.
pub fn shutting_down_with_unsent_bytes<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let (mut left, mut right) = stage.stream().await;
        // Far more than a window at the start.
        let mut accepted = 0;
        let mut chunk = vec![0; 64 << 10];
        for _ in 0..32 {
            fill(1, accepted, &mut chunk);
            let Some(n) = abandon(A::write(&mut left.writer, &chunk), 1, MS) else { break };
            accepted += n.expect("written");
        }
        assert!(accepted > 0);
        shut_down(&stage.a).await;
        step("reading what has come");
        assert_eq!(read_what_came(&mut right, accepted).await, Failure::ended(StreamEnd::Gone));
        let late = A::acknowledged(&mut left.writer).await;
        assert_eq!(late, Err(ended()));
    });
}

/// Twice at once and once more.
pub fn shutting_down_twice<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let streams = stage.stream().await;
        both(shut_down(&stage.a), shut_down(&stage.a)).await;
        shut_down(&stage.a).await;
        drop(streams);
        both(shut_down(&stage.b), shut_down(&stage.b)).await;
    });
}

/// Every operation after the end fails at once, and dropping handles is harmless.
pub fn nothing_works_after_the_end_and_nothing_hangs<A: Subject, B: Subject, R: Rendezvous>() {
    const SOON: Duration = Duration::from_secs(2);
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let (mut left, _right) = stage.stream().await;
        let a = &stage.a;
        let listener = a.listen(Port(3000)).expect("the port is free");
        let datagrams = a.datagrams(Port(3000)).expect("the port is free");
        let mut events = a.events();
        shut_down(a).await;
        let mut soon = async || {
            step("connecting after the end");
            assert!(a.connect(Target::Address(stage.b_at), PORT).await.is_err());
            let name = Target::Hostname("nobody".parse().expect("a hostname"));
            assert!(a.connect(name, PORT).await.is_err());
            step("accepting after the end");
            assert_eq!(A::accept(&listener).await.err(), Some(shutdown()));
            step("receiving after the end");
            let received = A::receive(&datagrams, &mut [0; 8]).await;
            assert_eq!(received, Err(shutdown()));
            step("asking after the end");
            assert!(a.resolve(Target::Address(stage.b_at)).await.is_err());
            assert!(a.set_visibility(true).await.is_err());
            assert_eq!(a.ready().await, Err(shutdown()));
            step("listening to events after the end");
            while A::next(&mut events).await != News::End {}
            let mut late = a.events();
            while A::next(&mut late).await != News::End {}
        };
        within(SOON, soon()).await.expect("something hangs after the end");
        step("a stream after the end");
        assert_eq!(A::read(&mut left.reader, &mut [0]).await, Err(ended()));
        assert_eq!(A::write(&mut left.writer, b"x").await, Err(ended()));
        assert_eq!(A::acknowledged(&mut left.writer).await, Ok(()), "nothing was written");
        A::reset(&mut left.writer);
        // Whether a port can still be taken is nobody's concern, as long as nothing waits on it.
        if let Ok(late) = a.listen(Port(3001)) {
            let accepted = within(SOON, A::accept(&late)).await.expect("hangs");
            assert_eq!(accepted.err(), Some(shutdown()));
        }
        let to = SocketAddress { address: stage.b_at, port: PORT };
        let _ = A::send(&datagrams, b"late", to);
        drop((left, listener, datagrams));
        assert_eq!(a.connections(), 0);
    });
}

/// Drops it as a panic of the application does.
fn unwind<T>(held: T) {
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _held = held;
        resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err());
}

/// What an application that panics held is given back as if it had been dropped otherwise, and
/// an agent whose last handle went so ends.
pub fn a_panic_of_the_application_leaves_nothing_open<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let (left, mut right) = stage.stream().await;
        let listener = stage.a.listen(Port(3000)).expect("the port is free");
        let datagrams = stage.a.datagrams(Port(3000)).expect("the port is free");
        step("panicking with handles");
        unwind((left, listener, datagrams));
        assert_eq!(stage.a.connections(), 0);
        right.expect_end().await;
        drop(stage.a.listen(Port(3000)).expect("the port is free again"));
        drop(stage.a.datagrams(Port(3000)).expect("the port is free again"));
        step("panicking with half a stream");
        let (Pipe { reader, writer }, mut right) = stage.stream().await;
        unwind(writer);
        right.expect_end().await;
        drop((reader, right));
        let Stage { a, b, world, .. } = stage;
        let handle = Handle::<A::Runtime>::clone(a.keep_alive());
        unwind(a);
        let ending = until("panicking with the agent", || handle.is_ended());
        within(SHUTDOWN_MAX, ending).await.expect("the end takes too long");
        drop((b, world));
    });
}

/// What was changed last is stored, although nobody holds the agent any more: whether its end
/// was begun before or not.
pub fn the_last_handle_goes_and_the_last_change_stays<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        for is_begun in [true, false] {
            let world = R::start();
            let (a, b) = (Setup::new(&world, 11), Setup::new(&world, 12));
            let again = b.clone();
            let stage = Stage::<A, B, R>::with(world, a, b).await;
            let mut events = stage.b.events();
            stage.a.request_trust(stage.b_at, "to be remembered").expect("asked");
            hear::<B>(&mut events, News::TrustRequested(stage.a_at)).await;
            let Stage { a, b, a_at, world, .. } = stage;
            let handle = Handle::<B::Runtime>::clone(b.keep_alive());
            b.approve_trust(a_at).expect("approved");
            if is_begun {
                handle.begin_shutdown();
            }
            drop(b);
            let ending = until("dropping the last handle", || handle.is_ended());
            within(SHUTDOWN_MAX, ending).await.expect("the end takes too long");
            step("starting again");
            let b = B::start(again);
            b.ready().await.expect("registered");
            assert!(b.trusted().iter().any(|peer| peer.address == a_at), "{is_begun}");
            drop((a, b, world));
        }
    });
}
