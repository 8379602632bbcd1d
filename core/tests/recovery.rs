//! How long it takes until agents talk again after kills, moves and cuts, on virtual time
//! (`wire.md` 4.9, 5.5, 7, 9).

#[path = "support/pair.rs"]
mod pair;

use pair::*;
use pilot_core::addr::Port;
use pilot_core::machine::{Ecn, Ingress, Machine, Path};
use pilot_core::node::{Command, Config, Event, PathKind, PathPolicy, StreamEnd};
use pilot_core::rng::Rng;
use pilot_core::time::Duration;
use std::net::SocketAddr;
use std::num::NonZeroUsize;

fn path(world: &World, n: usize) -> PathKind {
    world.agents[n].node.peers().next().expect("a peer").path
}

fn pair_with(seed: u64, link: Link, path_policy: PathPolicy) -> World {
    let mut world = World::new(seed, link, 0);
    for _ in 0..2 {
        world.add(Config { limits: test_limits(), path_policy, ..Config::default() });
    }
    world.register();
    world.trust(0, 1);
    for n in [0, 1] {
        world.listen(n, 7);
    }
    world
}

fn rtt_200() -> Link {
    Link { delay: ms(100), ..Link::CLEAN }
}

/// The rendezvous is killed and restarted and has forgotten every channel; the two agents know
/// no other way, and have a session.
fn relay_restart(
    seed: u64,
    from: usize,
    idle: Duration,
    dead: Duration,
    wait: Duration,
) -> Duration {
    let mut world = pair_with(seed, Link::CLEAN, PathPolicy::Relay);
    world.transfer(0, 1, 7, b"before", secs(20));
    world.run(idle);
    world.kill_server();
    world.run(dead);
    world.revive_server();
    world.run(wait);
    world.transfer(from, 1 - from, 7, b"after", secs(60))
}

/// The beacon takes the channel away while data waits, and the node is asked for output before
/// its owner hears of it: no frame leaves without the relay's header in front of it.
#[test]
fn nothing_is_sent_over_a_relay_channel_that_is_gone() {
    let mut world = pair_with(40, Link::CLEAN, PathPolicy::Relay);
    let id = world.connect(0, 1, 7);
    world.run_until(secs(20), |w| w.saw(0, Event::StreamOpened(id)));
    world.run(secs(5));
    assert_eq!(path(&world, 0), PathKind::Relayed);
    let (us, them) = (world.agents[0].socket, world.address(0));
    world.cut.insert((beacon_socket(), us));
    world.wire = Some(Vec::new());
    world.command(1, Command::RevokeTrust { peer: them });
    world.run(secs(2));
    assert_eq!(path(&world, 0), PathKind::Relayed, "it has heard of nothing");
    let wire = world.wire.take().unwrap();
    let told = wire.into_iter().filter(|p| (p.0, p.1) == (beacon_socket(), us) && p.2[0] >= 0x80);
    let mut sent = 0;
    for (from, _, mut frame) in told {
        let now = world.now;
        let node = &mut world.agents[0].node;
        node.stream(id).unwrap().write(now, b"waiting").unwrap();
        let _: Ingress<'_> = node.handle_datagram(now, Path::to(from), Ecn::NotEct, &mut frame);
        let mut out = [0xAA; 2000];
        while node.poll_transmit(now, &mut out, NonZeroUsize::MIN).is_some() {
            assert_ne!(out[..12], [0xAA; 12], "what lay in the buffer goes out");
            (out, sent) = ([0xAA; 2000], sent + 1);
        }
    }
    assert_eq!((path(&world, 0), sent > 0), (PathKind::None, true));
}

#[test]
fn relayed_agents_talk_again_soon_after_the_rendezvous_has_restarted() {
    // Milliseconds: idle before, dead for, waited after.
    for (idle, dead, wait) in [
        (0_u64, 0_u64, 0_u64),
        (0, 0, 60_000),
        (0, 3_000, 0),
        (30_000, 1_000, 0),
        (0, 60_000, 0),
        (100_000, 0, 0),
        (100_000, 2_000, 0),
    ] {
        for from in [0, 1] {
            let run = |seed: u64| {
                relay_restart(1000 + seed, from, ms(idle + 1700 * seed), ms(dead), ms(wait))
            };
            let worst = (0_u64..8).map(run).max().expect("eight runs");
            println!("idle {idle} dead {dead} wait {wait} from {from}: {worst:?} at the worst");
            assert!(worst <= secs(5), "{worst:?}");
        }
    }
}

#[test]
fn a_peer_that_restarts_on_another_port_is_found() {
    for seed in 0..8 {
        let mut world = pair_with(1100 + seed, rtt_200(), PathPolicy::Auto);
        world.transfer(0, 1, 7, b"before", secs(20));
        world.run(ms(500 * seed));
        world.kill(1);
        world.run(secs(1));
        world.agents[1].socket.set_port(5000);
        world.revive(1);
        world.listen(1, 7);
        world.run_until(secs(30), |w| w.agents[1].node.link() == pilot_core::node::Link::Online);
        let took = world.transfer(0, 1, 7, b"after", secs(30));
        let id = world.connect(0, 1, 7);
        let direct = world.run_until(secs(60), |w| path(w, 0) == PathKind::Direct);
        println!("seed {seed}: {took:?}, direct after another {direct:?}");
        let endpoint = world.agents[0].node.peers().next().unwrap().endpoint;
        assert_eq!(endpoint, Some(world.agents[1].socket));
        assert!(took <= secs(2), "{took:?}");
        let now = world.now;
        world.agents[0].node.release(now, id);
    }
}

/// Writes what there is room for and reads nothing; false once the stream is over.
fn push(world: &mut World, n: usize, id: pilot_core::node::StreamId) -> bool {
    let now = world.now;
    let Some(mut stream) = world.agents[n].node.stream(id) else { return false };
    !matches!(stream.write(now, &[7; 500]), Err(pilot_core::node::StreamError::Ended(_)))
}

/// Agent 1 dies again and again while agent 0 never stops to write, and comes back on another
/// port each time: how long after it is online the first byte arrives, at the worst.
fn restarts(seed: u64, link: Link, dead: Duration, lives: Duration) -> Duration {
    let mut world = pair_with(seed, link, PathPolicy::Auto);
    let mut worst = Duration::ZERO;
    let mut id = world.connect(0, 1, 7);
    world.run(secs(3));
    for n in 0..6 {
        world.kill(1);
        let end = world.now + dead;
        while world.now < end {
            if !push(&mut world, 0, id) {
                id = world.connect(0, 1, 7);
            }
            world.run(ms(50));
        }
        world.agents[1].socket.set_port(5000 + n);
        world.revive(1);
        world.listen(1, 7);
        let online = |w: &World| w.agents[1].node.link() == pilot_core::node::Link::Online;
        let mut accepted = None;
        let mut since = None;
        let begin = world.now;
        loop {
            if !push(&mut world, 0, id) {
                id = world.connect(0, 1, 7);
            }
            world.run(ms(10));
            if since.is_none() && online(&world) {
                since = Some(world.now);
            }
            accepted = accepted.or(world.agents[1].node.accept(Port(7)));
            let mut got = Vec::new();
            if let Some(accepted) = accepted {
                world.read(1, accepted, &mut got);
            }
            if !got.is_empty() {
                break;
            }
            assert!(world.now.since(begin) < secs(120), "{}", world.describe());
        }
        let took = world.now.since(since.unwrap_or(world.now));
        worst = worst.max(took);
        world.run(lives);
    }
    worst
}

#[test]
fn a_peer_that_keeps_restarting_on_other_ports_is_found_each_time() {
    for link in [Link { delay: ms(1), ..Link::CLEAN }, rtt_200()] {
        let cases = [
            (0, 0),
            (1000, 0),
            (300, 500),
            (2500, 700),
            (4000, 3000),
            (200, 10_000),
            (20_000, 700),
        ];
        for (dead, lives) in cases {
            let run = |seed: u64| restarts(1700 + seed, link, ms(dead + 170 * seed), ms(lives));
            let worst = (0..4).map(run).max().expect("four runs");
            println!("RTT {:?} dead {dead} lives {lives}: {worst:?} at the worst", link.delay * 2);
            assert!(worst <= secs(2), "{worst:?}");
        }
    }
}

/// An open stream of agents 0 and 1: both handles.
fn open(world: &mut World) -> (pilot_core::node::StreamId, pilot_core::node::StreamId) {
    let id = world.connect(0, 1, 7);
    let mut accepted = None;
    world.run_until(secs(20), |w| {
        accepted = accepted.or(w.agents[1].node.accept(Port(7)));
        accepted.is_some()
    });
    (id, accepted.unwrap())
}

fn roam(seed: u64, link: Link, mover: usize, told: bool) -> Duration {
    let mut world = pair_with(seed, link, PathPolicy::Auto);
    let (id, accepted) = open(&mut world);
    let bytes = pattern(5000);
    let mut got = Vec::new();
    assert_eq!(world.write(0, id, &bytes[..1000]), 1000);
    world.run(secs(10));
    assert_eq!(path(&world, 0), PathKind::Direct);
    world.agents[mover].socket = SocketAddr::from(([203, 0, 113, 77], 4000));
    let locals = [world.agents[mover].socket];
    if told {
        world.command(mover, Command::NetworkChanged { locals: &locals });
    }
    assert_eq!(world.write(0, id, &bytes[1000..]), 4000);
    let there = world.run_until(secs(60), |w| {
        w.read(1, accepted, &mut got);
        got.len() == bytes.len()
    });
    assert!(got == bytes);
    let begin = world.now;
    // And back the other way, the mover's new address is direct again.
    let back = pattern(3000);
    assert_eq!(world.write(1, accepted, &back), 3000);
    let mut heard = Vec::new();
    world.run_until(secs(60), |w| {
        w.read(0, id, &mut heard);
        heard.len() == back.len()
    });
    let returned = world.now.since(begin);
    let direct = world
        .run_until(secs(60), |w| path(w, 0) == PathKind::Direct && path(w, 1) == PathKind::Direct);
    println!(
        "seed {seed} mover {mover} told {told}: there {there:?}, back {returned:?}, direct {direct:?}"
    );
    there.max(returned)
}

#[test]
fn a_stream_survives_a_change_of_address() {
    for (seed, told) in [(1200, true), (1201, false)] {
        for mover in [0, 1] {
            for link in [Link::CLEAN, rtt_200()] {
                let took = roam(seed, link, mover, told);
                assert!(took <= secs(5), "{took:?}");
            }
        }
    }
}

#[test]
fn simultaneous_open_under_loss() {
    let mut worst = Duration::ZERO;
    for seed in 0..50 {
        let link = Link { delay: ms(20), jitter: ms(20), loss: 100 + 4 * seed, duplicates: 20 };
        let mut world = pair_with(1300 + seed, link, PathPolicy::Auto);
        world.run(secs(300));
        let (a, b) = (world.connect(0, 1, 7), world.connect(1, 0, 7));
        let took = world.run_until(secs(60), |w| {
            w.saw(0, Event::StreamOpened(a)) && w.saw(1, Event::StreamOpened(b))
        });
        worst = worst.max(took);
    }
    println!("both open after {worst:?} at the worst");
    assert!(worst <= secs(20));
}

/// The revoked agent did not hear of it: it gives up by itself, says why, and is quiet.
#[test]
fn who_was_revoked_while_away_gives_up_and_goes_quiet() {
    for policy in [PathPolicy::Auto, PathPolicy::Relay, PathPolicy::Direct] {
        let mut world = pair_with(1400, Link::CLEAN, policy);
        world.transfer(0, 1, 7, b"x", secs(20));
        world.kill(0);
        let a = world.address(0);
        world.run(secs(2));
        world.command(1, Command::RevokeTrust { peer: a });
        world.run(secs(30));
        world.revive(0);
        world.run(secs(5));
        let b = world.address(1);
        let now = world.now;
        let result = world.agents[0].node.command(now, Command::Connect { to: b, port: Port(7) });
        println!("{policy:?}: connect {result:?}");
        if let Ok(pilot_core::node::Reply::Stream(id)) = result {
            let took = world.run_until(secs(100), |w| {
                w.agents[0]
                    .events
                    .iter()
                    .any(|e| matches!(e, Event::StreamClosed(i, _) if *i == id))
            });
            println!("{policy:?}: ended after {took:?}: {:?}", world.agents[0].events);
            let unreachable = world.saw(0, Event::StreamClosed(id, StreamEnd::Unreachable));
            assert!(unreachable || world.saw(0, Event::StreamClosed(id, StreamEnd::Revoked)));
            world.run(secs(120).saturating_sub(took));
        } else {
            world.run(secs(120));
        }
        quiet(&mut world, 0);
    }
}

/// Somebody who never comes back causes no endless work either.
#[test]
fn a_peer_that_is_gone_is_given_up_and_all_is_quiet() {
    for policy in [PathPolicy::Auto, PathPolicy::Relay, PathPolicy::Direct] {
        for before in [0, 600] {
            let mut world = pair_with(1450, Link::CLEAN, policy);
            world.transfer(0, 1, 7, b"x", secs(20));
            let (id, _) = open(&mut world);
            world.run(secs(before));
            world.kill(1);
            assert_eq!(world.write(0, id, b"lost"), 4);
            let took = world.run_until(secs(200), |w| {
                w.saw(0, Event::StreamClosed(id, StreamEnd::Unreachable))
            });
            println!("{policy:?}: given up after {took:?}");
            world.run(secs(120));
            quiet(&mut world, 0);
        }
    }
}

/// Agent `n` sends no more than a keepalive each 15 s, and those to the beacon alone.
fn quiet(world: &mut World, n: usize) {
    let socket = world.agents[n].socket;
    world.wire = Some(Vec::new());
    world.run(secs(300));
    let wire = world.wire.take().unwrap();
    let sent: Vec<_> = wire.iter().filter(|(from, ..)| *from == socket).collect();
    assert!(sent.iter().all(|(_, to, _)| *to == beacon_socket()), "a packet to somebody else");
    assert!(
        sent.len() <= 23,
        "{} packets in 300 s: {:?}",
        sent.len(),
        sent.iter().map(|s| (s.2[0], s.2.len())).collect::<Vec<_>>()
    );
}

#[test]
fn everything_recovers_after_five_minutes_without_the_beacon() {
    for policy in [PathPolicy::Auto, PathPolicy::Relay] {
        for seed in 0..4 {
            let mut world = pair_with(1500 + seed, Link::CLEAN, policy);
            world.transfer(0, 1, 7, b"x", secs(20));
            for n in [0, 1] {
                let socket = world.agents[n].socket;
                world.cut.insert((socket, beacon_socket()));
                world.cut.insert((beacon_socket(), socket));
            }
            world.run(secs(300));
            world.cut.clear();
            let online = world.run_until(secs(60), |w| {
                w.agents.iter().all(|a| a.node.link() == pilot_core::node::Link::Online)
            });
            let took = world.transfer(0, 1, 7, b"y", secs(60));
            println!("{policy:?}: online {online:?}, transfer another {took:?}");
            assert!(online + took <= secs(50));
        }
    }
}

/// The bytes of a stream that was reset are gone; the tail probe of its frames in flight
/// (RFC 8985 7.3) finds nothing to repeat.
#[test]
fn a_reset_with_bytes_in_flight_and_no_answer_is_harmless() {
    let mut world = pair_with(1550, Link::CLEAN, PathPolicy::Auto);
    let (id, _) = open(&mut world);
    world.run(secs(5));
    world.cut_agents(0, 1);
    for n in [0, 1] {
        let socket = world.agents[n].socket;
        world.cut.insert((socket, beacon_socket()));
    }
    assert_eq!(world.write(0, id, &pattern(5000)), 5000);
    world.run(ms(1));
    let now = world.now;
    world.agents[0].node.stream(id).expect("it exists").reset(now);
    world.run(secs(20));
    world.cut.clear();
    world.transfer(0, 1, 7, b"and on", secs(60));
}

/// Streams that a random run has open, by agent.
type Handles = Vec<Vec<pilot_core::node::StreamId>>;

/// One random operation; what cannot be done now is refused with a typed error.
fn act(world: &mut World, rng: &mut Rng, open: &mut Handles) {
    let n = rng.below(3) as usize;
    let m = (n + 1 + rng.below(2) as usize) % 3;
    let now = world.now;
    let pick = |rng: &mut Rng, list: &Vec<_>| match list.len() {
        0 => None,
        len => Some(list[rng.below(len as u64) as usize]),
    };
    let what = rng.below(100);
    match what {
        0..=2 if world.agents[n].up => world.kill(n),
        3..=12 if !world.agents[n].up => {
            if rng.below(3) == 0 {
                let port = world.agents[n].socket.port();
                world.agents[n].socket.set_port(port + 1);
            }
            world.revive(n);
            world.listen(n, 7);
            open[n].clear();
        }
        13 if world.server_up => world.kill_server(),
        14..=19 if !world.server_up => world.revive_server(),
        20..=22 => world.cut_agents(n, m),
        23..=24 => {
            let socket = world.agents[n].socket;
            world.cut.insert((socket, beacon_socket()));
        }
        25..=29 => world.cut.clear(),
        30 if world.agents[n].up => {
            let port = world.agents[n].socket.port();
            world.agents[n].socket.set_port(port + 1);
            let locals = [world.agents[n].socket];
            world.command(n, Command::NetworkChanged { locals: &locals });
        }
        _ if !world.agents[n].up => {}
        31..=45 => {
            let Some(to) = world.agents[m].node.address() else { return };
            let command = Command::Connect { to, port: Port(7) };
            if let Ok(pilot_core::node::Reply::Stream(id)) =
                world.agents[n].node.command(now, command)
            {
                open[n].push(id);
            }
        }
        46..=55 => open[n].extend(world.agents[n].node.accept(Port(7))),
        _ => {
            let Some(id) = pick(rng, &open[n]) else { return };
            if what >= 95 {
                world.agents[n].node.release(now, id);
                open[n].retain(|other| *other != id);
                return;
            }
            let Some(mut stream) = world.agents[n].node.stream(id) else { return };
            match what {
                56..=72 => drop(stream.write(now, &pattern(1 + rng.below(20_000) as usize))),
                73..=86 => drop(stream.read(now, &mut [0; 9000])),
                87..=91 => drop(stream.finish(now)),
                _ => stream.reset(now),
            }
        }
    }
}

#[test]
fn random_operations_never_panic_and_everything_works_when_healed() {
    let mut worst = Duration::ZERO;
    for seed in 0..30 {
        let link =
            Link { delay: ms(5 + seed), jitter: ms(10), loss: 10 * (seed % 6), duplicates: 10 };
        let mut world = World::new(1600 + seed, link, 3);
        world.register();
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            world.trust(a, b);
        }
        for n in 0..3 {
            world.listen(n, 7);
        }
        let mut rng = Rng::new([seed as u8; 32]);
        let mut open: Handles = vec![Vec::new(); 3];
        for _ in 0..600 {
            act(&mut world, &mut rng, &mut open);
            let span = if rng.below(20) == 0 { rng.below(20_000) } else { rng.below(300) };
            world.run(ms(span));
        }
        world.cut.clear();
        if !world.server_up {
            world.revive_server();
        }
        for n in 0..3 {
            if !world.agents[n].up {
                world.revive(n);
            }
            world.listen(n, 9);
        }
        for (a, b) in [(0, 1), (0, 2), (1, 2), (2, 0), (1, 0), (2, 1)] {
            worst = worst.max(world.transfer(a, b, 9, &pattern(20_000), secs(60)));
        }
    }
    println!("healed, a transfer took {worst:?} at the worst");
}
