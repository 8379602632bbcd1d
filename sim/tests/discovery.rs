//! The real agent finds out what its NAT does: the same as the probe of `nat::classify`, also
//! where packets are lost, and nothing it cannot know.

use pilot_core::node::NatInfo;
use pilot_core::path::nat::{Classical, Nat};
use pilot_core::rng::Rng;
use pilot_core::time::{Duration, Instant};
use pilot_sim::nat::{self, Class, MappingClass, Middlebox, Preset};
use pilot_sim::{HostId, LinkConfig, Span, Tape, World};
use std::net::IpAddr;

/// What the probe says of a preset's boxes; `None` if nothing gets through.
fn probe(preset: Preset) -> Option<Class> {
    let outside = IpAddr::from([203, 0, 113, 1]);
    let boxes = preset.boxes(outside).into_iter();
    let mut boxes: Vec<Middlebox> =
        boxes.map(|config| Middlebox::new(config).expect("a preset")).collect();
    let inside = [192, 168, 0, 2].into();
    nat::classify(&mut boxes, &mut Rng::new([1; 32]), Instant::START, inside)
}

fn agree(preset: Preset, found: &NatInfo, what: &str) {
    match probe(preset) {
        Some(class) => {
            assert_eq!(found.nat, Nat::from(class), "{preset}, {what}");
            assert_eq!(found.classical.as_str(), class.name(), "{preset}, {what}");
            let is_identity = class.mapping == MappingClass::Identity;
            assert_eq!(found.is_translated, Some(!is_identity), "{preset}, {what}");
            assert!(found.age.is_some() && found.observed.is_some(), "{preset}, {what}");
        }
        None => {
            assert_eq!(found.classical, Classical::Blocked, "{preset}, {what}");
            assert_eq!((found.nat, found.age), (Nat::default(), None), "{preset}, {what}");
        }
    }
}

/// Lets an agent behind the preset find out; how long that took from its start. A lost answer may
/// look like blocked UDP for a moment.
fn settle(world: &mut World, host: HostId, preset: Preset, within: Duration) -> Duration {
    world.run_until(within, |world| {
        let found = world.nat(host);
        let is_blocked = found.classical == Classical::Blocked;
        found.age.is_some() || is_blocked && preset == Preset::UdpBlocked
    })
}

#[test]
fn each_preset_is_found_to_be_what_the_probe_says() {
    assert_eq!(Preset::ALL.len(), 19);
    for &preset in Preset::ALL {
        for seed in 1..=5 {
            let mut world = World::new(Tape::from_seed(seed));
            let host = world.add_agent(preset);
            let took = settle(&mut world, host, preset, Duration::from_secs(30));
            agree(preset, &world.nat(host), &format!("seed {seed}"));
            assert!(took < Duration::from_secs(8), "{preset}: {took:?}");
        }
    }
}

#[test]
fn ten_percent_loss_and_jitter_deceive_nobody() {
    for &preset in Preset::ALL {
        for seed in 1..=20 {
            let mut world = World::new(Tape::from_seed(seed));
            let host = world.add_agent(preset);
            let delay = Span::millis(25);
            let jitter = Span::millis(20);
            world.set_link(host, LinkConfig { loss: 100, delay, jitter, ..LinkConfig::default() });
            let _ = settle(&mut world, host, preset, Duration::from_secs(600));
            agree(preset, &world.nat(host), &format!("seed {seed}"));
        }
    }
}

#[test]
fn one_address_of_the_beacon_cannot_tell() {
    for &preset in Preset::ALL {
        let mut world = World::new(Tape::from_seed(7));
        world.remove_alternates();
        let host = world.add_agent(preset);
        let _ = settle(&mut world, host, preset, Duration::from_secs(30));
        let found = world.nat(host);
        let Some(class) = probe(preset) else {
            assert_eq!(found.classical, Classical::Blocked);
            continue;
        };
        assert_eq!(found.classical, Classical::Unknown, "{preset}");
        // One destination is enough to see how ports are chosen.
        let allocation = Nat::from(class).allocation;
        assert_eq!(found.nat, Nat { allocation, ..Nat::default() }, "{preset}");
    }
}

#[test]
fn another_network_is_measured_anew_and_an_outage_forgets_nothing() {
    let mut world = World::new(Tape::from_seed(3));
    let host = world.add_agent(Preset::SymRandom);
    world.run(Duration::from_secs(20));
    assert_eq!(world.nat(host).classical, Classical::Symmetric);
    let cafe = world.add_preset(Preset::PortRestricted);
    world.roam(host, cafe);
    let took = world.run_until(Duration::from_secs(60), |world| {
        world.nat(host).classical == Classical::PortRestrictedCone
    });
    assert!(took < Duration::from_secs(8), "{took:?}");

    // The server is away for a while: what the NAT does is known all the same.
    world.crash_server();
    world.run(Duration::from_secs(120));
    assert_eq!(world.nat(host).classical, Classical::Blocked);
    world.restart_server();
    let took = world.run_until(Duration::from_secs(120), |world| {
        world.nat(host).classical == Classical::PortRestrictedCone
    });
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn an_idle_agent_sends_two_kilobytes_a_minute_at_most() {
    for preset in [Preset::SymRandom, Preset::Public, Preset::Cgnat] {
        let mut world = World::new(Tape::from_seed(5));
        let host = world.add_agent(preset);
        world.run(Duration::from_secs(60));
        assert!(world.is_online(host), "{preset}");
        let (mut before, mut most) = (world.stats().sent_bytes, 0);
        for _ in 0..150 {
            world.run(Duration::from_secs(60));
            let sent = world.stats().sent_bytes;
            most = most.max(sent - before);
            before = sent;
        }
        // Two and a half hours: discovery is among them, more than once.
        let age = world.nat(host).age.expect("measured");
        assert!(age < Duration::from_secs(4000), "{preset}: {age:?}");
        assert!(most <= 2000, "{preset}: {most} bytes in a minute");
    }
}
