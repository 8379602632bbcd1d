//! Random worlds find defects: each of those that can be planted, within 2,000 of them, and the
//! tape of the world that found it can be made at least five times smaller.

use pilot_core::planted::{Defect, plant};
use pilot_sim::explore::explore;
use pilot_sim::{Tape, shrink};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// In so many worlds each has to be found.
const SEEDS: u64 = 2000;
/// Worlds for one attempt at a smaller tape, and attempts.
const RUNS: usize = 40;
const ATTEMPTS: usize = 25;

/// What is wrong with the world of a tape, and what of the tape it has read.
fn fault(tape: Tape) -> Option<(String, Vec<u8>)> {
    let run = AssertUnwindSafe(|| {
        let (result, world) = explore(tape, String::new(), false);
        result.err().map(|failure| (failure.what, world.tape().used().to_vec()))
    });
    // An assertion of a machine is a find, too, and nothing is known of what it read.
    catch_unwind(run).unwrap_or_else(|_| Some(("a machine panicked".to_string(), Vec::new())))
}

/// Finds the defect, makes the tape smaller, and says what happened.
fn find(defect: Defect) -> String {
    plant(Some(defect));
    let found = (1..=SEEDS).find_map(|seed| Some((seed, fault(Tape::from_seed(seed))?)));
    let Some((seed, (what, tape))) = found else { panic!("{defect:?} is not found") };
    let mut small = tape.clone();
    for _ in 0..ATTEMPTS {
        if small.len() * 5 <= tape.len() {
            break;
        }
        small = shrink(&small, RUNS, |tape| fault(Tape::from_bytes(tape.to_vec())).is_some());
    }
    plant(None);
    let (full, small) = (tape.len(), small.len());
    assert!(small * 5 <= full, "{defect:?}: {small} of {full} bytes are left: {what}");
    format!("{defect:?}: seed {seed}, {small} of {full} bytes, {what}")
}

/// The defects are the threads' own, so they are looked for side by side.
#[test]
fn every_defect_is_found_and_its_tape_shrinks() {
    let found = std::thread::scope(|scope| {
        let threads = Defect::ALL.map(|defect| scope.spawn(move || find(defect)));
        threads.map(|thread| thread.join())
    });
    let missed = found.iter().filter(|found| found.is_err()).count();
    found.iter().flatten().for_each(|line| println!("{line}"));
    assert_eq!(missed, 0, "defects that were not found are named above");
}

#[test]
fn without_a_defect_the_same_worlds_hold() {
    for seed in 1..=10 {
        let fault = fault(Tape::from_seed(seed));
        assert_eq!(fault.map(|(what, _)| what), None, "seed {seed}");
    }
}
