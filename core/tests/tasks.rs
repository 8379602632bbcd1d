//! Two agents that hand each other tasks while streams break, statements are repeated and
//! either one is restarted at any moment: no task is done twice, none is lost, and in the end
//! both sides say the same of each. `TASK_SEEDS` sets how many worlds there are.

#[path = "support/task_world.rs"]
mod task_world;

use pilot_core::crypto::task::State;
use pilot_core::rng::Rng;
use task_world::World;

fn seeds() -> u64 {
    std::env::var("TASK_SEEDS").map_or(2000, |n| n.parse().expect("a number"))
}

#[test]
fn no_task_is_done_twice_none_is_lost_and_both_sides_agree() {
    let mut ended = [0u64; 9];
    let (mut restarts, mut cuts, mut repeats) = (0, 0, 0);
    for seed in 1..=seeds() {
        let mut world = World::new(Rng::new(core::array::from_fn(|i| (seed >> (i % 8 * 8)) as u8)));
        world.run(seed);
        for state in world.states() {
            ended[state as usize] += 1;
        }
        restarts += world.restarts;
        cuts += world.cuts;
        repeats += world.repeats();
    }
    println!("states {ended:?}, {restarts} restarts, {cuts} streams cut, {repeats} told again");
    let many = seeds() / 20;
    for state in [State::Declined, State::Cancelled, State::Succeeded, State::Failed] {
        assert!(ended[state as usize] > many, "{state}: {ended:?}");
    }
    assert!(ended[State::Expired as usize] > 0 || seeds() < 500, "{ended:?}");
    assert!(restarts > many && cuts > many && repeats > many);
}
