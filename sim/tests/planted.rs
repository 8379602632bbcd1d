//! Random worlds find defects: each of those that can be planted, within 2,000 of them; and the tape
//! of the world that found it can be made at least five times smaller.

use pilot_core::planted::{Defect, plant};
use pilot_sim::explore::explore;
use pilot_sim::{Failure, Tape, shrink};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// In so many worlds each has to be found.
const SEEDS: u64 = 2000;
/// Worlds that may be run to make a tape smaller.
const RUNS: usize = 1500;
/// How many times smaller it has to be.
const SMALLER: usize = 5;

/// What is wrong with the world of a tape, and what of the tape it has read. A machine whose own
/// assertion fails has found the defect, too, but what was read is not known then.
fn fault(tape: Tape) -> Option<(Failure, Tape)> {
    let run = AssertUnwindSafe(|| explore(tape, String::new(), false));
    let (result, world) = catch_unwind(run).ok()?;
    Some((result.err()?, world.into_tape()))
}

/// Finds the defect, makes the tape smaller, and says what happened.
fn find(defect: Defect) -> String {
    plant(Some(defect));
    let found = (1..=SEEDS).find_map(|seed| Some((seed, fault(Tape::from_seed(seed))?)));
    let Some((seed, (failure, tape))) = found else { panic!("{defect:?} is not found") };
    let full = tape.used().len();
    let (mut runs, enough) = (0, full / SMALLER);
    let small = shrink(tape.used(), RUNS, enough, |tape| {
        runs += 1;
        let (other, tape) = fault(tape)?;
        (other.kind() == failure.kind()).then_some(tape)
    });
    let again = fault(Tape::from_bytes(small.clone()));
    plant(None);
    let (small, what) = (small.len(), &failure.what);
    assert!(small <= enough, "{defect:?}: {small} of {full} bytes after {runs} worlds: {what}");
    assert_eq!(again.map(|(again, _)| again.kind().to_string()), Some(failure.kind().to_string()));
    format!("{defect:?}: seed {seed}, {small} of {full} bytes after {runs} worlds: {what}")
}

/// The defects are the threads' own, so they are looked for side by side.
#[test]
fn every_defect_is_found() {
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
        assert_eq!(fault.map(|(failure, _)| failure), None, "seed {seed}");
    }
}
