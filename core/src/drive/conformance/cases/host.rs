//! What the host does to an agent: it is late, its sockets fail, its network goes.

use super::*;
use crate::drive::IoStats;
use core::net::SocketAddr;
use std::vec::Vec;

/// A stream carries on in both directions while something happens: `disturb` is called when a
/// part of the bytes has arrived, and is given to the end to have an effect.
async fn carry_on<A: Subject, B: Subject, R: Rendezvous>(
    stage: &Stage<A, B, R>,
    bytes: usize,
    disturb: impl AsyncFnOnce(),
) {
    let (mut left, mut right) = stage.stream().await;
    step("a transfer that is disturbed");
    let (left_reader, left_writer) = (&mut left.reader, &mut left.writer);
    let (right_reader, right_writer) = (&mut right.reader, &mut right.writer);
    let there = async {
        put::<A>(left_writer, 1, 0, bytes).await.expect("written");
        A::finish(left_writer).await.expect("finished");
        A::acknowledged(left_writer).await.expect("acknowledged");
    };
    let back = async {
        put::<B>(right_writer, 2, 0, bytes).await.expect("written");
        B::finish(right_writer).await.expect("finished");
    };
    let at_b = async {
        take::<B>(right_reader, 1, 0, bytes / 8).await;
        disturb().await;
        take::<B>(right_reader, 1, bytes / 8, bytes - bytes / 8).await;
        assert_eq!(B::read(right_reader, &mut [0]).await, Ok(0));
    };
    let at_a = async {
        take::<A>(left_reader, 2, 0, bytes).await;
        assert_eq!(A::read(left_reader, &mut [0]).await, Ok(0));
    };
    both(both(there, back), both(at_b, at_a)).await;
}

/// Each driver in turn does not run for two seconds while bytes are under way.
pub fn a_late_scheduler_costs_time_alone<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let late = Duration::from_secs(2);
        carry_on(&stage, 4 << 20, async || {
            stage.b.hold_up(late);
            sleep(late).await;
        })
        .await;
        carry_on(&stage, 4 << 20, async || {
            stage.a.hold_up(late);
            sleep(late).await;
        })
        .await;
        assert_eq!(stage.a.io_stats().stalls + stage.b.io_stats().stalls, 0);
        step("an operation while the driver is held up");
        stage.a.hold_up(500 * MS);
        let (mut left, mut right) = stage.stream().await;
        left.put(3, 0, 1000).await.expect("written");
        right.take(3, 0, 1000).await;
    });
}

/// Every error that a send call may meet, in the middle of a transfer: the packets concerned are
/// lost and counted, and the transfer is completed.
pub fn socket_errors_cost_their_packets_alone<A: Subject, B: Subject, R: Rendezvous>() {
    const TIMES: u32 = 10;
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let locals: Vec<_> = stage.a.local().into_iter().chain(stage.b.local()).collect();
        for fault in [Fault::Refused, Fault::Unreachable, Fault::TooLarge, Fault::NoBuffers] {
            let before = (stage.a.io_stats(), stage.b.io_stats());
            carry_on(&stage, 1 << 20, async || {
                for local in &locals {
                    A::inject(*local, Calls::Send, Some(fault), TIMES);
                }
            })
            .await;
            for (before, after) in [(before.0, stage.a.io_stats()), (before.1, stage.b.io_stats())]
            {
                let too_large = after.too_large - before.too_large;
                let unreachable = after.unreachable - before.unreachable;
                let others = after.send_errors - before.send_errors;
                let counted = match fault {
                    Fault::TooLarge => too_large,
                    Fault::Unreachable => unreachable,
                    _ => others,
                };
                // A call that fails may be made again at once, in another way.
                let fits = (1..=u64::from(TIMES)).contains(&counted);
                assert!(
                    fits && counted == too_large + unreachable + others,
                    "{fault:?}: {after:?}"
                );
            }
        }
    });
}

/// Receive calls that fail, as they do after an ICMP error: what comes after is received.
pub fn errors_in_receiving_are_passed_over<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        for fault in [Fault::Refused, Fault::Unreachable, Fault::NoBuffers] {
            // Fewer and more than are passed over at once.
            for times in [2, 30] {
                let before = stage.b.io_stats().receive_errors;
                let locals = stage.b.local();
                carry_on(&stage, 1 << 20, async || {
                    for local in &locals {
                        B::inject(*local, Calls::Receive, Some(fault), times);
                    }
                })
                .await;
                let counted = stage.b.io_stats().receive_errors - before;
                assert!((1..=u64::from(times)).contains(&counted), "{fault:?}: {counted}");
            }
        }
    });
}

/// A beacon at an address that the system lets nobody send to (`EACCES`): each attempt is counted,
/// the registry answers nevertheless.
pub fn errors_of_the_real_system_are_survived<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let world = R::start();
        let forbidden =
            |number| Setup { beacon: "255.255.255.255:9".into(), ..Setup::new(&world, number) };
        let (a, b) = (forbidden(11), forbidden(12));
        let stage = Stage::<A, B, R>::with(world, a, b).await;
        until("waiting for errors", || {
            let failed = |stats: IoStats| stats.send_errors + stats.unreachable > 0;
            failed(stage.a.io_stats()) && failed(stage.b.io_stats())
        })
        .await;
        step("questions without a beacon");
        stage.b.set_visibility(true).await.expect("visible");
        let found = stage.a.resolve(Target::Address(stage.b_at)).await.expect("found");
        assert_eq!(found.address.node, stage.b_at.node);
        assert_ne!(stage.a.link(), Link::Online);
        both(stage.a.shutdown(), stage.b.shutdown()).await;
        assert_eq!(stage.a.io_stats().stalls + stage.b.io_stats().stalls, 0);
    });
}

/// For three seconds every packet meets `ENETUNREACH`, on both sides. Streams wait and go on;
/// what is begun meanwhile is completed.
pub fn a_network_that_is_gone_comes_back<A: Subject, B: Subject, R: Rendezvous>() {
    let gone = Duration::from_secs(3);
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let locals: Vec<_> = stage.a.local().into_iter().chain(stage.b.local()).collect();
        let all = |fault| {
            for local in &locals {
                A::inject(*local, Calls::Send, fault, u32::MAX);
            }
        };
        let before = stage.a.io_stats();
        carry_on(&stage, 2 << 20, async || {
            all(Some(Fault::Unreachable));
            sleep(gone).await;
            all(None);
        })
        .await;
        let after = stage.a.io_stats();
        assert!(after.unreachable > before.unreachable, "{after:?}");
        // Nobody may spin at a wall: a few packets a second are tried.
        assert!(after.unreachable - before.unreachable < 2000, "{after:?}");
        step("a stream that is opened without a network");
        all(Some(Fault::Unreachable));
        let healing = async {
            sleep(1000 * MS).await;
            all(None);
        };
        let (_, (mut left, mut right)) = both(healing, stage.stream()).await;
        left.put(3, 0, 1000).await.expect("written");
        right.take(3, 0, 1000).await;
    });
}

/// Interfaces get other addresses: the agent's candidates follow, and its stream goes on.
pub fn a_change_of_interfaces_is_noticed<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let (mut left, mut right) = stage.stream().await;
        let (before, local) = (stage.a.candidates(), stage.a.local()[0]);
        assert_eq!(before, [local], "it is bound to one address");
        for n in [1, 2] {
            let moved = SocketAddr::from(([192, 0, 2, n], local.port()));
            A::set_candidates(local, Some([local, moved].into()));
            until("another interface", || stage.a.candidates() == [local, moved]).await;
        }
        A::set_candidates(local, None);
        until("the interfaces of before", || stage.a.candidates() == before).await;
        both(left.put(1, 0, 100_000), right.take(1, 0, 100_000)).await.0.expect("written");
    });
}

/// What the main sockets send is lost, as behind a router that was renumbered and keeps old flows
/// (`nat.md` 3). After 20 s without an answer of the beacon others take their place, on other
/// ports, and the stream of before goes on.
pub fn a_dead_socket_is_replaced<A: Subject, B: Subject, R: Rendezvous>() {
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let is_online = || stage.a.link() == Link::Online && stage.b.link() == Link::Online;
        until("waiting to be online", is_online).await;
        let (mut left, mut right) = stage.stream().await;
        both(left.put(1, 0, 1000), right.take(1, 0, 1000)).await.0.expect("written");
        step("dead sockets");
        let (a, b) = (stage.a.local(), stage.b.local());
        for local in a.iter().chain(&b) {
            A::inject(*local, Calls::Send, Some(Fault::Lost), u32::MAX);
            // Has the beacon asked now and not at the next keepalive.
            let moved = SocketAddr::from(([192, 0, 2, 1], local.port()));
            A::set_candidates(*local, Some([moved].into()));
        }
        let is_replaced = |now: Vec<SocketAddr>, before: &[SocketAddr]| {
            now.len() == before.len() && now.iter().zip(before).all(|(n, b)| n != b)
        };
        until("other sockets", || {
            is_replaced(stage.a.local(), &a) && is_replaced(stage.b.local(), &b)
        })
        .await;
        until("online by other sockets", is_online).await;
        until("candidates with the new ports", || {
            stage.a.candidates() == stage.a.local() && stage.b.candidates() == stage.b.local()
        })
        .await;
        step("the stream of before");
        both(left.put(1, 1000, 100_000), right.take(1, 1000, 100_000)).await.0.expect("written");
    });
}

/// The host sleeps for an hour; its time is set back by two hours, and ahead by a day. Each is
/// noticed, sessions are made anew, and streams of before go on.
pub fn suspends_and_clock_steps_are_survived<A: Subject, B: Subject, R: Rendezvous>() {
    const HOUR: Duration = Duration::from_secs(3600);
    const HOUR_MS: i64 = 3_600_000;
    const BYTES: usize = 50_000;
    block_on(async {
        let stage = Stage::<A, B, R>::friends().await;
        let listener = stage.b.listen(PORT).expect("the port is free");
        let (mut left, mut right) = stage.stream_to(&listener).await;
        let mut events = stage.a.events();
        let changes = [(HOUR, 0), (Duration::ZERO, -2 * HOUR_MS), (Duration::ZERO, 24 * HOUR_MS)];
        let mut at = 0;
        for (asleep, step_ms) in changes {
            both(left.put(1, at, BYTES), right.take(1, at, BYTES)).await.0.expect("written");
            while within(50 * MS, A::next(&mut events)).await.is_some() {}
            step("the clocks change");
            A::displace_clocks(asleep, step_ms);
            // Of what there is to hear of: that the path to the peer had to be proved anew.
            loop {
                match A::next(&mut events).await {
                    News::Path(peer, _) if peer == stage.b_at => break,
                    News::End | News::Missed(_) => panic!("an agent that has ended"),
                    _ => {}
                }
            }
            step("the stream of before");
            both(right.put(2, at, BYTES), left.take(2, at, BYTES)).await.0.expect("written");
            step("a new stream");
            let (mut left, mut right) = stage.stream_to(&listener).await;
            both(left.put(3, 0, BYTES), right.take(3, 0, BYTES)).await.0.expect("written");
            step("a question");
            let found = stage.a.resolve(Target::Address(stage.b_at)).await.expect("found");
            assert_eq!(found.address.node, stage.b_at.node);
            at += BYTES;
        }
        drop(stage);
        A::displace_clocks(Duration::ZERO, -22 * HOUR_MS);
    });
}
