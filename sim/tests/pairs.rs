//! Two agents behind chosen NATs, as an integrator would write it.

use pilot_core::node::PathKind;
use pilot_core::time::Duration;
use pilot_sim::nat::Preset;
use pilot_sim::{Progress, Tape, World};

#[test]
fn a_public_agent_and_one_behind_a_symmetric_nat_meet_directly() {
    let mut world = World::new(Tape::from_seed(7));
    let (server, laptop) = (world.add_agent(Preset::Public), world.add_agent(Preset::SymRandom));
    world.register();
    world.trust(laptop, server);
    let transfer = world.start_transfer(laptop, server, 200_000).expect("they trust each other");
    world.run_until(Duration::from_secs(10), |w| matches!(w.progress(transfer), Progress::Done(_)));
    assert_eq!(world.path(laptop, server), PathKind::Direct);
    println!("{:?} {:?} {:?}", world.stats(), world.trace().hash(), world.trace().count());
}
