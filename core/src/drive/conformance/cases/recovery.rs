//! What goes away and comes back: a peer, the rendezvous.

use super::*;
use std::format;

/// A peer that vanishes without a word and starts again with what it had stored: streams of
/// before end, and new ones open without anybody being asked for trust.
pub fn a_peer_that_vanished_is_not_waited_for_after_its_restart<
    A: Subject,
    B: Subject,
    R: Rendezvous,
>() {
    block_on(async {
        let world = R::start();
        let (a, b) = (Setup::new(&world, 11), Setup::new(&world, 12));
        let again = b.clone();
        let stage = Stage::<A, B, R>::with(world, a, b).await;
        befriend(&stage.a, &stage.b).await;
        let (mut left, mut right) = stage.stream().await;
        left.put(1, 0, 1000).await.expect("written");
        right.take(1, 0, 1000).await;
        let Stage { a, b, a_at, b_at, world } = stage;
        step("the peer vanishes");
        drop(right);
        kill(b);
        sleep(300 * MS).await;
        // To nobody: that the port is closed ends nothing.
        left.put(1, 1000, 1000).await.expect("accepted into the ring");
        let b = B::start(again);
        assert_eq!(b.ready().await, Ok(b_at), "the same address");
        let stage = Stage { a, b, a_at, b_at, world };
        step("the old stream ends");
        let ended = A::read(&mut left.reader, &mut [0]).await;
        // The goodbye of a peer whose process ends in good order would be another end; a finish
        // that went out before the crash leaves the end of the stream to be read first.
        let ended = match ended {
            Ok(0) => A::acknowledged(&mut left.writer).await.expect_err("a stream that is lost"),
            other => other.expect_err("a stream that is lost"),
        };
        let known = [StreamEnd::PeerRestarted, StreamEnd::Refused].map(Failure::ended);
        assert!(known.contains(&ended), "{ended:?}");
        step("a new stream");
        let (mut left, mut right) = stage.stream().await;
        both(left.put(2, 0, 100_000), right.take(2, 0, 100_000)).await.0.expect("written");
    });
}

/// Without the rendezvous streams go on and open; when it is back, it is found, and answers.
pub fn a_rendezvous_that_restarts_is_found_again<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let mut stage = Stage::<A, B, R>::friends().await;
        until("waiting to be online", || stage.a.link() == Link::Online).await;
        let (mut left, mut right) = stage.stream().await;
        both(left.put(1, 0, 1000), right.take(1, 0, 1000)).await.0.expect("written");
        step("the rendezvous stops");
        stage.world.stop();
        // A question waits for it, as long as nobody gives up.
        let unanswered = within(500 * MS, stage.a.resolve(Target::Address(stage.b_at))).await;
        assert_eq!(unanswered.map(|answer| answer.err()), None);
        both(left.put(1, 1000, 100_000), right.take(1, 1000, 100_000)).await.0.expect("written");
        let (mut left2, mut right2) = stage.stream().await;
        both(left2.put(2, 0, 1000), right2.take(2, 0, 1000)).await.0.expect("written");
        stage.world.restart();
        step("a question after the restart");
        let found = stage.a.resolve(Target::Address(stage.b_at)).await.expect("found");
        assert_eq!(found.address.node, stage.b_at.node);
        until("waiting to be online again", || {
            stage.a.link() == Link::Online && stage.b.link() == Link::Online
        })
        .await;
        both(left.put(1, 101_000, 1000), right.take(1, 101_000, 1000)).await.0.expect("written");
    });
}

/// An agent that starts before its rendezvous registers as soon as that is there.
pub fn a_registry_that_is_not_there_is_waited_for<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let mut world = R::start();
        world.stop();
        let agent = A::start(Setup::new(&world, 1));
        step("no registry");
        assert!(within(700 * MS, agent.ready()).await.is_none());
        assert_eq!(agent.address(), None);
        let starting = async {
            sleep(50 * MS).await;
            world.restart();
        };
        step("the registry comes");
        let ((), at) = both(starting, agent.ready()).await;
        assert!(at.is_ok(), "{}", format!("{at:?}"));
    });
}
