//! The example of the README.

use pilot_core::node::PathKind;
use pilot_core::time::Duration;
use pilot_sim::nat::Preset;
use pilot_sim::{LinkConfig, Progress, Span, Tape, World};

#[test]
fn a_phone_reaches_a_laptop_at_home() {
    let mut world = World::new(Tape::from_seed(7));
    let laptop = world.add_agent(Preset::PortRestricted);
    let phone = world.add_agent(Preset::Cgnat);
    world.set_link(phone, LinkConfig { loss: 20, delay: Span::millis(30), ..Default::default() });

    world.register();
    world.trust(phone, laptop);
    let transfer = world.start_transfer(phone, laptop, 200_000).expect("they trust each other");
    let took = world.run_until(Duration::from_secs(20), |world| {
        matches!(world.progress(transfer), Progress::Done(_))
    });
    assert!(took < Duration::from_secs(10));
    assert_eq!(world.path(phone, laptop), PathKind::Direct);

    // It goes on by relay, from wherever the phone is next; the address stays.
    let hotel = world.add_preset(Preset::SymRandom);
    world.roam(phone, hotel);
    let transfer = world.start_transfer(laptop, phone, 10_000).expect("they still do");
    world.run_until(Duration::from_secs(10), |world| {
        matches!(world.progress(transfer), Progress::Done(_))
    });
}
