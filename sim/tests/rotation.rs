//! A main socket by which nobody is heard is replaced by one on another port, and others are not.

use pilot_core::node::{Config, PathKind};
use pilot_core::time::Duration;
use pilot_sim::nat::{Preset, StaleFlows};
use pilot_sim::{HostId, Progress, Tape, World, node_config};

const S: Duration = Duration::from_secs(1);
const NEVER: [u32; 0] = [];

/// When, in seconds from now, the main socket's port changed.
fn changes(world: &mut World, host: HostId, seconds: u32) -> Vec<u32> {
    let mut port = world.main_port(host);
    let mut at = Vec::new();
    for n in 1..=seconds {
        world.run(S);
        if core::mem::replace(&mut port, world.main_port(host)) != port {
            at.push(n);
        }
    }
    at
}

fn host(world: &mut World, change: impl Fn(&mut Config)) -> HostId {
    let place = world.add_preset(Preset::PortRestricted);
    let mut config = node_config();
    change(&mut config);
    world.add_host(place, config)
}

#[test]
fn without_an_answer_the_port_changes_ever_more_rarely() {
    let mut world = World::new(Tape::from_seed(1));
    let a = host(&mut world, |_| ());
    world.register();
    world.run(10 * S);
    assert_eq!(changes(&mut world, a, 300), NEVER, "the beacon answers");
    world.crash_server();
    // Up to 17 s until the next keepalive, then 20, 40, 80, 160 and 300 s.
    let at = changes(&mut world, a, 1000);
    assert!(at.len() == 6 && (20..=40).contains(&at[0]), "{at:?}");
    let gaps: Vec<u32> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().zip([40, 80, 160, 300, 300]).all(|(a, b)| a.abs_diff(b) <= 2), "{at:?}");
    world.restart_server();
    world.run(60 * S);
    assert!(world.is_online(a));
    assert_eq!(changes(&mut world, a, 600), NEVER);
}

#[test]
fn a_port_that_its_owner_has_chosen_stays() {
    let mut world = World::new(Tape::from_seed(2));
    let a = host(&mut world, |config| config.keep_port = true);
    let b = host(&mut world, |c| c.endpoint = Some("203.0.113.200:4000".parse().expect("one")));
    world.register();
    world.crash_server();
    for host in [a, b] {
        assert_eq!(changes(&mut world, host, 400), NEVER);
    }
}

/// A beacon that is down takes no path from those who do without it.
#[test]
fn whoever_hears_a_peer_keeps_its_socket() {
    let mut world = World::new(Tape::from_seed(3));
    let (a, b) = (host(&mut world, |_| ()), host(&mut world, |_| ()));
    world.register();
    world.trust(a, b);
    world.start_open_transfer(a, b, 10_000).expect("started");
    world.run(20 * S);
    assert_eq!(world.path(a, b), PathKind::Direct);
    world.crash_server();
    assert_eq!(changes(&mut world, a, 600), NEVER);
    assert_eq!(world.path(a, b), PathKind::Direct);
}

/// The flows of before lead nowhere, for an agent that keeps its port for ever.
#[test]
fn a_renumbered_nat_that_keeps_old_flows_is_got_over_by_another_port_alone() {
    for (keep_port, seed) in [(false, 1), (false, 2), (true, 1)] {
        let mut world = World::new(Tape::from_seed(seed));
        let a = host(&mut world, |config| config.keep_port = keep_port);
        world.register();
        world.run(10 * S);
        let nat = *world.boxes_of(a).last().expect("a NAT");
        world.renumber(nat, StaleFlows::KeepOldSource);
        world.run(60 * S);
        assert_eq!(world.is_online(a), !keep_port, "seed {seed}");
    }
}

/// Both ends at once, in the middle of a stream.
#[test]
fn a_stream_goes_on_when_both_ends_have_another_port() {
    for seed in 1..=3 {
        let mut world = World::new(Tape::from_seed(seed));
        let (a, b) = (host(&mut world, |_| ()), host(&mut world, |_| ()));
        world.register();
        world.trust(a, b);
        world.start_open_transfer(a, b, 10_000).expect("started");
        world.run(20 * S);
        assert_eq!(world.path(a, b), PathKind::Direct);
        for host in [a, b] {
            let nat = *world.boxes_of(host).last().expect("a NAT");
            world.renumber(nat, StaleFlows::KeepOldSource);
        }
        let after = world.start_transfer(a, b, 10_000).expect("started");
        world.run(60 * S);
        let end = world.progress(after);
        assert!(matches!(end, Progress::Done(_)), "seed {seed}: {end:?}");
    }
}
