//! The path MTU is searched (RFC 8899): what is found, how soon, and that no byte is lost when a
//! path comes to carry less. A round trip takes 40 ms.

use pilot_core::limits::MTU_RAISE;
use pilot_core::node::{Config, PathKind, PathPolicy};
use pilot_core::time::Duration;
use pilot_sim::nat::Preset;
use pilot_sim::{HostId, LinkConfig, Lost, Place, Progress, Tape, TransferId, World, node_config};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Two public agents that trust each other, with this access, and nothing under way.
fn pair(seed: u64, link: LinkConfig, config: &Config) -> (World, HostId, HostId) {
    let mut world = World::new(Tape::from_seed(seed));
    let [a, b] = [0, 1].map(|_| world.add_host(Place::Core, config.clone()));
    world.set_link(a, link);
    world.set_link(b, link);
    world.register();
    world.trust(a, b);
    world.run(secs(5));
    (world, a, b)
}

fn with_mtu(mtu: u16) -> LinkConfig {
    LinkConfig { mtu, ..LinkConfig::default() }
}

fn lost(world: &World) -> u64 {
    world.stats().lost.get(&Lost::Link).copied().unwrap_or(0)
}

fn arrived(world: &World, transfer: TransferId) -> u64 {
    match world.progress(transfer) {
        Progress::Running(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

/// IPv4 and UDP take 28 bytes. A clean link loses nothing but probes that are too long for it.
#[test]
fn what_a_link_carries_is_found_within_a_second_and_a_few_probes() {
    for (mtu, size, lost_most) in [
        (1260, 1232, 8),
        (1280, 1252, 8),
        (1400, 1372, 8),
        (1420, 1392, 8),
        (1500, 1472, 7),
        (9000, 8972, 10),
        (u16::MAX, 65_507, 0),
    ] {
        let (mut world, a, b) = pair(1, with_mtu(mtu), &node_config());
        let before = lost(&world);
        let transfer = world.start_open_transfer(a, b, 3_000_000).expect("both run");
        let took = world.run_until(secs(60), |w| w.path_size(a, b) == Some(size));
        assert!(took <= secs(1), "{mtu}: {took:?}");
        world.run(secs(30));
        assert_eq!(world.path_size(a, b), Some(size), "{mtu}");
        assert_eq!(arrived(&world, transfer), 3_000_000);
        assert_eq!(world.path(a, b), PathKind::Direct);
        // Both ends search.
        let probes = lost(&world) - before;
        assert!(probes <= 2 * lost_most, "{mtu}: {probes}");
        println!("MTU {mtu}: {size} after {took:?}, {probes} probes lost by both ends");
    }
}

/// On a path that carries everything, three round trips of a stream suffice.
#[test]
fn the_limit_is_reached_within_three_round_trips() {
    let (mut world, a, b) = pair(2, with_mtu(u16::MAX), &node_config());
    let _ = world.start_open_transfer(a, b, 1000).expect("both run");
    let took = world.run_until(secs(60), |w| w.path_size(a, b) == Some(65_507));
    assert!(took <= ms(160), "{took:?}: one for the session, one for the base, one for the leap");
}

#[test]
fn losses_do_not_hide_what_a_link_carries() {
    for seed in 1..=10 {
        let link = LinkConfig { loss: 50, ..with_mtu(1400) };
        let (mut world, a, b) = pair(seed, link, &node_config());
        let transfer = world.start_open_transfer(a, b, 2_000_000).expect("both run");
        world.run_until(secs(120), |w| arrived(w, transfer) == 2_000_000);
        world.run(secs(20));
        let size = world.path_size(a, b).expect("a path");
        assert!((1232..=1372).contains(&size), "seed {seed}: {size}");
    }
}

/// Over the relay the datagram is as long as on any path, and 12 bytes of it are the relay's.
#[test]
fn over_the_relay_twelve_bytes_less() {
    let config = Config { path_policy: PathPolicy::Relay, ..node_config() };
    let (mut world, a, b) = pair(3, with_mtu(1500), &config);
    let transfer = world.start_open_transfer(a, b, 500_000).expect("both run");
    let took = world.run_until(secs(10), |w| w.path_size(a, b) == Some(1460));
    assert!(took <= secs(1), "{took:?}");
    world.run(secs(20));
    assert_eq!((world.path_size(a, b), world.path(a, b)), (Some(1460), PathKind::Relayed));
    assert_eq!(arrived(&world, transfer), 500_000);
}

/// The path comes to carry less in the middle of a transfer and says nothing of it: the transfer
/// goes on within 1.5 s, and no byte is lost or comes twice. Ten minutes after the search the path
/// may carry more again.
#[test]
fn a_black_hole_in_the_middle_of_a_transfer() {
    const LEN: u64 = 30_000_000;
    for (seed, (before, after, found)) in
        [(9000, 1500, 1472), (9000, 1400, 1372), (1500, 1280, 1252), (1500, 1300, 1271)]
            .into_iter()
            .enumerate()
    {
        let link = LinkConfig { rate: 5_000_000, ..with_mtu(before) };
        let (mut world, a, b) = pair(seed as u64, link, &node_config());
        let transfer = world.start_open_transfer(a, b, LEN).expect("both run");
        world.run_until(secs(60), |w| arrived(w, transfer) > LEN / 3);
        assert_eq!(world.path_size(a, b), Some(before - 28));
        world.set_link(a, LinkConfig { mtu: after, ..link });
        world.run(ms(50));
        let stopped_at = arrived(&world, transfer);
        let stood = world.run_until(secs(60), |w| arrived(w, transfer) > stopped_at + 200_000);
        assert!(stood <= ms(1500), "{before} to {after}: {stood:?}");
        let took = world.run_until(secs(60), |w| arrived(w, transfer) == LEN);
        assert!(took <= secs(10), "{before} to {after}: {took:?}");
        world.run(secs(20));
        assert_eq!(world.path_size(a, b), Some(found), "{before} to {after}");
        assert_eq!(world.path(a, b), PathKind::Direct);
        println!("MTU {before} to {after}: stood still for {stood:?}, then {found} bytes");

        world.set_link(a, link);
        world.run(MTU_RAISE + secs(5));
        assert_eq!(world.path_size(a, b), Some(before - 28), "{after} to {before}");
    }
}

/// A direct path that answers challenges but swallows datagrams of 1,232 bytes gets no bulk: that
/// stays on the relay. Once it carries them, it is found and used.
#[test]
fn bulk_stays_on_the_relay_while_the_direct_path_swallows_long_datagrams() {
    for seed in 1..=5 {
        let mut world = World::new(Tape::from_seed(seed));
        let [a, b] = [0, 1].map(|_| world.add_agent(Preset::Public));
        world.set_path_mtu(a, b, 1200 + 28);
        world.register();
        world.trust(a, b);
        world.run(secs(5));
        let transfer = world.start_open_transfer(a, b, 2_000_000).expect("both run");
        world.run(secs(1));
        let changes = world.path_changes().len();
        world.run_until(secs(20), |w| arrived(w, transfer) == 2_000_000);
        world.run(secs(4));
        assert_eq!([world.path(a, b), world.path(b, a)], [PathKind::Relayed; 2], "seed {seed}");
        assert_eq!(world.path_changes().len(), changes, "seed {seed}: it stays there");

        world.set_path_mtu(a, b, 1500);
        let direct =
            |w: &mut World| w.path(a, b) == PathKind::Direct && w.path(b, a) == w.path(a, b);
        let took = world.run_until(secs(120), direct);
        assert!(took <= secs(60), "seed {seed}: {took:?}");
        world.run_until(secs(5), |w| w.path_size(a, b) == Some(1472));
    }
}

/// Who has nothing to send does not search.
#[test]
fn an_idle_path_is_not_searched() {
    let (mut world, a, b) = pair(4, with_mtu(1500), &node_config());
    let transfer = world.start_transfer(a, b, 1).expect("both run");
    world.run_until(secs(10), |w| matches!(w.progress(transfer), Progress::Done(_)));
    world.run(secs(60));
    let before = lost(&world);
    world.run(MTU_RAISE * 3);
    assert_eq!(lost(&world), before);
}
