//! Two agents behind chosen NATs, as whoever builds on the protocol would write it.

use pilot_core::node::PathKind;
use pilot_core::time::Duration;
use pilot_sim::nat::Preset;
use pilot_sim::{LinkConfig, Progress, Span, Tape, World};

#[test]
fn a_laptop_at_home_reaches_a_server_directly_and_a_neighbour_in_the_cloud_by_relay() {
    let mut world = World::new(Tape::from_seed(7));
    let server = world.add_agent(Preset::Public);
    let laptop = world.add_agent(Preset::PortRestricted);
    let worker = world.add_agent(Preset::Aws);
    world.set_link(laptop, LinkConfig { loss: 20, delay: Span::millis(15), ..Default::default() });
    world.register();

    for (peer, path) in [(server, PathKind::Direct), (worker, PathKind::Relayed)] {
        world.trust(laptop, peer);
        let transfer = world.start_transfer(laptop, peer, 200_000).expect("they trust each other");
        let took = world.run_until(Duration::from_secs(20), |world| {
            matches!(world.progress(transfer), Progress::Done(_))
        });
        assert_eq!(world.path(laptop, peer), path);
        println!("{path:?}: 200 kB in {took:?} of virtual time");
    }
    // A server that moves behind another NAT keeps its address, and its friends.
    let place = world.add_preset(Preset::Gcp);
    world.roam(server, place);
    let transfer = world.start_transfer(server, laptop, 10_000).expect("they still do");
    world.run_until(Duration::from_secs(10), |world| {
        matches!(world.progress(transfer), Progress::Done(_))
    });
}
