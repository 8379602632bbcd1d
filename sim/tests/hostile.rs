//! Those who mean harm, one kind at a time: everybody else is served nevertheless.

use pilot_core::node::{Command, PathKind};
use pilot_core::time::Duration;
use pilot_sim::nat::Preset;
use pilot_sim::{Progress, Tape, World, node_config};

fn done(world: &World, id: pilot_sim::TransferId) -> bool {
    matches!(world.progress(id), Progress::Done(_))
}

#[test]
fn a_liar_that_is_trusted_harms_nobody_else() {
    let mut dropped = 0;
    for seed in 1..=8 {
        let mut world = World::new(Tape::from_seed(seed));
        let (a, b) = (world.add_agent(Preset::PortRestricted), world.add_agent(Preset::Firewall));
        let place = world.add_preset(Preset::FullCone);
        let liar = world.add_liar(place, node_config());
        world.register();
        world.trust(a, b);
        for honest in [a, b] {
            world.try_trust(liar, honest, Duration::from_secs(60)).expect("no check fails");
        }
        for _ in 0..5 {
            for (from, to) in [(liar, a), (a, liar), (liar, b), (b, liar)] {
                let _ = world.start_transfer(from, to, 100_000);
                let _ = world.send_datagram(from, to);
            }
            let id = world.start_transfer(a, b, 100_000).expect("they trust each other");
            world.run_until(Duration::from_secs(20), |world| done(world, id));
        }
        dropped += world.drops(a).iter().map(|(_, count)| count).sum::<u64>();
    }
    assert!(dropped > 100, "{dropped}: it has told the truth");
}

#[test]
fn a_flood_at_both_ends_and_at_the_beacon_stops_nobody() {
    for seed in 1..=4 {
        let mut world = World::new(Tape::from_seed(seed));
        world.keep_recent();
        let (a, b) = (world.add_agent(Preset::PortRestricted), world.add_agent(Preset::Public));
        world.register();
        for round in 0..10_u8 {
            let ends = [a, b].map(|host| world.observed(host).expect("online"));
            for to in [ends[0], ends[1], world.beacon()[0]] {
                world.flood(to, 1000, [round; 8]);
            }
            if round == 3 {
                world.trust(a, b);
            }
            world.run(Duration::from_millis(700));
        }
        let id = world.start_transfer(a, b, 200_000).expect("they trust each other");
        for to in [world.beacon()[0], world.observed(b).expect("online")] {
            world.flood(to, 4000, [seed as u8; 8]);
        }
        world.run_until(Duration::from_secs(20), |world| done(world, id));
    }
}

#[test]
fn who_is_no_longer_trusted_reaches_no_application() {
    let mut world = World::new(Tape::from_seed(1));
    let (a, b) = (world.add_agent(Preset::Public), world.add_agent(Preset::PortRestricted));
    world.register();
    world.trust(a, b);
    world.send_datagram(b, a).expect("they trust each other");
    world.run(Duration::from_secs(2));
    assert_eq!(world.path(b, a), PathKind::Direct);
    assert!(world.take_datagram(a).is_some());
    // On their way when the owner decides, and afterwards, as far as the other's node lets them.
    for _ in 0..5 {
        let _ = world.send_datagram(b, a);
    }
    world.run(Duration::from_millis(5));
    let peer = world.address(b).expect("registered");
    world.command(a, Command::RevokeTrust { peer }).expect("it was trusted");
    for _ in 0..5 {
        let _ = world.send_datagram(b, a);
        world.run(Duration::from_millis(10));
    }
    world.run(Duration::from_secs(5));
    assert_eq!(world.take_datagram(a), None);
}
