//! What a path promises over time: a stream goes on after a move, through restarts and NATs that
//! forget, and an idle pair stays reachable.

use pilot_core::node::PathKind;
use pilot_core::time::Duration;
use pilot_sim::nat::{Allocation, BoxConfig, Preset, Refresh};
use pilot_sim::{HostId, LinkConfig, Place, Progress, Span, Tape, TransferId, World};
use std::net::{IpAddr, Ipv4Addr};

/// Bytes a second of every access: a stream of a megabyte takes seconds, in which something can
/// happen.
const RATE: u64 = 250_000;

fn seeds() -> u64 {
    std::env::var("PROMISE_SEEDS").map_or(2, |n| n.parse().expect("a number"))
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Two agents that trust each other and have a direct path with an open stream.
fn direct(seed: u64, from: Preset, to: Preset, rate: u64) -> (World, HostId, HostId) {
    let mut world = World::new(Tape::from_seed(seed));
    world.set_again(format!("seed {seed}: {from} and {to}"));
    let (a, b) = (world.add_agent(from), world.add_agent(to));
    for host in [a, b] {
        world.set_link(host, LinkConfig { rate, ..LinkConfig::default() });
    }
    world.register();
    world.trust(a, b);
    let hello = world.start_open_transfer(a, b, 1000).expect("they trust each other");
    world.run_until(secs(40), |world| {
        arrived(world, hello) == 1000 && world.path(a, b) == PathKind::Direct
    });
    (world, a, b)
}

fn arrived(world: &World, transfer: TransferId) -> u64 {
    match world.progress(transfer) {
        Progress::Running(bytes) => bytes,
        Progress::Done(_) => u64::MAX,
        Progress::Failed(end) => panic!("the stream ended: {end:?}"),
    }
}

/// Runs until a transfer is done; the longest time in which nothing of it arrived.
fn longest_pause(world: &mut World, transfer: TransferId, within: Duration) -> Duration {
    let step = Duration::from_millis(20);
    let (mut longest, mut pause, mut taken) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut before = arrived(world, transfer);
    while !matches!(world.progress(transfer), Progress::Done(_)) {
        assert!(taken < within, "not done within {within:?}: {}", world.describe());
        world.run(step);
        taken += step;
        let now = arrived(world, transfer);
        pause = if now > before { Duration::ZERO } else { pause + step };
        longest = longest.max(pause);
        before = now;
    }
    longest
}

/// Sends a small message every 250 ms for a while; how long the slowest one took.
fn slowest_message(world: &mut World, from: HostId, to: HostId, span: Duration) -> Duration {
    let (mut slowest, until) = (Duration::ZERO, world.elapsed() + span);
    while world.elapsed() < until {
        let message = world.start_transfer(from, to, 500).expect("trust");
        let done = |world: &mut World| matches!(world.progress(message), Progress::Done(_));
        slowest = slowest.max(world.run_until(secs(20), done));
        world.run(Duration::from_millis(250));
    }
    slowest
}

/// "An open stream continues within 2 s of an address change": whoever moves, and wherever to.
/// Bytes are checked as they arrive, in order and once.
#[test]
fn a_stream_goes_on_within_two_seconds_of_a_move() {
    let mut worst = Duration::ZERO;
    for (from, to, moves_to) in [
        (Preset::PortRestricted, Preset::Public, Preset::Cgnat),
        (Preset::Public, Preset::PortRestricted, Preset::PortRestricted),
        (Preset::PortRestricted, Preset::PortRestricted, Preset::SymRandom),
        (Preset::SymSeq, Preset::FullCone, Preset::Firewall),
        (Preset::Firewall, Preset::Restricted, Preset::Leaky),
    ] {
        for seed in 1..=seeds() {
            for sender_moves in [true, false] {
                let (mut world, a, b) = direct(seed, from, to, RATE);
                let (sender, receiver) = if sender_moves { (a, b) } else { (b, a) };
                let transfer = world.start_transfer(sender, receiver, 1_500_000).expect("trust");
                world.run_until(secs(10), |world| arrived(world, transfer) > 300_000);
                let place = world.add_preset(moves_to);
                world.roam(a, place);
                world.set_link(a, LinkConfig { rate: RATE, ..LinkConfig::default() });
                let pause = longest_pause(&mut world, transfer, secs(60));
                assert!(pause <= secs(2), "{from} to {moves_to}, seed {seed}: {pause:?}");
                worst = worst.max(pause);
            }
        }
    }
    println!("longest pause after a move: {worst:?}");
}

/// A NAT that restarts, one that forgets after 30 s, one that only outgoing packets refresh, and
/// one that ends every mapping after a minute: no stream ends, and a direct path is there again.
#[test]
fn no_stream_ends_within_an_hour_behind_nats_that_forget() {
    let forgetful = |change: fn(&mut pilot_sim::nat::NatConfig)| {
        let mut boxes = Preset::PortRestricted.boxes(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77)));
        if let Some(BoxConfig::Nat(config)) = boxes.first_mut() {
            change(config);
        }
        boxes
    };
    let kinds: [(&str, Vec<BoxConfig>); 3] = [
        ("30 s", forgetful(|nat| nat.life = Span::secs(30))),
        (
            "outbound only",
            forgetful(|nat| {
                (nat.life, nat.refresh) = (Span::secs(30), Refresh::OutboundOnly);
            }),
        ),
        ("a minute at most", forgetful(|nat| nat.absolute_life = Some(Span::secs(60)))),
    ];
    for (name, boxes) in kinds {
        for seed in 1..=seeds() {
            let mut world = World::new(Tape::from_seed(seed));
            world.set_again(format!("seed {seed}: {name}"));
            let place: Place = world.add_boxes(boxes.clone()).expect("a valid box");
            let a = world.add_host(place, pilot_sim::node_config());
            let b = world.add_agent(Preset::PortRestricted);
            world.register();
            world.trust(a, b);
            let transfer = world.start_open_transfer(a, b, 100_000).expect("trust");
            world.run_until(secs(60), |world| arrived(world, transfer) == 100_000);
            let mut direct = 0;
            for _ in 0..60 {
                world.run(secs(60));
                direct += u32::from(world.path(a, b) == PathKind::Direct);
                assert_eq!(arrived(&world, transfer), 100_000, "{name}: it is still open");
            }
            assert!(direct >= 50, "{name}, seed {seed}: direct in {direct} of 60 minutes");
            let late = world.start_transfer(b, a, 50_000).expect("trust");
            let pause = longest_pause(&mut world, late, secs(30));
            assert!(pause <= secs(3), "{name}: {pause:?}");
        }
    }
}

/// A carrier's NAT that ends every mapping after a minute, with another port afterwards: two
/// deaths are noticed by what has to wait, from then on the next path is there before the old one
/// ends; and if nothing is sent, too, neither end leaves the direct path for the offers of the
/// other, which come by the relay.
#[test]
fn a_path_with_a_known_end_has_a_successor_in_time() {
    let mut boxes = Preset::PortRestricted.boxes(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77)));
    let Some(BoxConfig::Nat(nat)) = boxes.first_mut() else { panic!("a NAT") };
    (nat.absolute_life, nat.allocation) = (Some(Span::secs(60)), Allocation::Random);
    for seed in 1..=seeds() {
        let mut world = World::new(Tape::from_seed(seed));
        world.set_again(format!("seed {seed}"));
        let place = world.add_boxes(boxes.clone()).expect("a valid box");
        let a = world.add_host(place, pilot_sim::node_config());
        let b = world.add_agent(Preset::PortRestricted);
        world.register();
        world.trust(a, b);
        let kept = world.start_open_transfer(a, b, 1).expect("trust");
        let worst = slowest_message(&mut world, a, b, secs(200));
        assert!(worst <= secs(3), "seed {seed}: {worst:?} while it is not known");
        let worst = slowest_message(&mut world, a, b, secs(400));
        println!("seed {seed}: slowest message {worst:?} once it is known");
        assert!(worst <= Duration::from_millis(200), "seed {seed}: {worst:?}");
        let (before, idle) = (world.path_changes().len(), world.elapsed());
        world.run(secs(300));
        let changes = &world.path_changes()[before..];
        assert!(changes.is_empty(), "seed {seed}, idle since {idle:?}: {changes:?}");
        assert_eq!(arrived(&world, kept), 1);
    }
}

#[test]
fn a_stream_survives_its_nats_restart_and_is_direct_again() {
    for preset in [Preset::PortRestricted, Preset::SymRandom, Preset::SymSeq] {
        for seed in 1..=seeds() {
            let (mut world, a, b) = direct(seed, preset, Preset::FullCone, RATE);
            let transfer = world.start_transfer(a, b, 1_000_000).expect("trust");
            world.run_until(secs(10), |world| arrived(world, transfer) > 200_000);
            for id in world.boxes_of(a) {
                world.reboot(id);
            }
            let pause = longest_pause(&mut world, transfer, secs(60));
            assert!(pause <= secs(3), "{preset}, seed {seed}: {pause:?}");
            world.run_until(secs(90), |world| world.path(a, b) == PathKind::Direct);
        }
    }
}

/// An idle agent sends no more than 2 KB a minute, and is found after a day.
#[test]
fn an_idle_pair_stays_reachable_for_a_day_and_costs_next_to_nothing() {
    let mut world = World::new(Tape::from_seed(1));
    let (a, b) = (world.add_agent(Preset::PortRestricted), world.add_agent(Preset::SymRandom));
    world.register();
    world.trust(a, b);
    world.run(secs(300));
    let before = world.stats().sent_bytes;
    let minutes = 24 * 60;
    world.run(secs(60 * minutes));
    // Of both agents and the beacon's answers to them.
    let each = (world.stats().sent_bytes - before) / minutes / 2;
    println!("{each} bytes a minute for an idle agent");
    assert!(each <= 2_000, "{each} bytes a minute");
    let transfer = world.start_transfer(a, b, 10_000).expect("trust");
    world.run_until(secs(5), |world| matches!(world.progress(transfer), Progress::Done(_)));
}
