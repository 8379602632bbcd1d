//! Random worlds find defects: each of those that can be planted, within 2,000 of them. Of five of
//! them the tape of the world that found it is also made at least five times smaller; the tapes of
//! the others shrink less, or take too long for a test.

use pilot_core::planted::{Defect, plant};
use pilot_sim::explore::explore;
use pilot_sim::{Tape, shrink};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// In so many worlds each has to be found.
const SEEDS: u64 = 2000;
/// Worlds that may be run to make a tape smaller.
const RUNS: usize = 400;
/// Whose tapes are made smaller.
const SHRINKS: [Defect; 5] = [
    Defect::KeepaliveOff,
    Defect::OutputUnreported,
    Defect::FinEarly,
    Defect::CounterReused,
    Defect::SlotKept,
];

/// What is wrong with the world of a tape, in general and in detail, and what of the tape it has
/// read. A machine whose own assertion fails has found it, too; what was read is not known then.
fn fault(tape: Tape) -> Option<(String, String, Vec<u8>)> {
    let run = AssertUnwindSafe(|| explore(tape, String::new(), false));
    let (result, world) = match catch_unwind(run) {
        Ok(outcome) => outcome,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            let what = format!("a panic: {}", text.unwrap_or_default());
            return Some(("a panic".to_string(), what, Vec::new()));
        }
    };
    let failure = result.err()?;
    Some((failure.kind().to_string(), failure.what, world.tape().used().to_vec()))
}

/// Finds the defect, makes the tape smaller, and says what happened.
fn find(defect: Defect) -> String {
    plant(Some(defect));
    let found = (1..=SEEDS).find_map(|seed| Some((seed, fault(Tape::from_seed(seed))?)));
    let Some((seed, (kind, what, tape))) = found else { panic!("{defect:?} is not found") };
    if !SHRINKS.contains(&defect) {
        plant(None);
        return format!("{defect:?}: seed {seed}, {what}");
    }
    let full = tape.len();
    assert!(full > 0, "{defect:?}: seed {seed}, {what}: a tape to make smaller");
    let mut best = full;
    let small = shrink(&tape, RUNS, |tape| {
        // Small enough: the rest of the runs is saved.
        let again = |tape: &[u8]| fault(Tape::from_bytes(tape.to_vec()));
        let fails = best * 5 > full && again(tape).is_some_and(|fault| fault.0 == kind);
        if fails {
            best = tape.len();
        }
        fails
    });
    plant(None);
    let small = small.len();
    assert!(small * 5 <= full, "{defect:?}: {small} of {full} bytes are left: {what}");
    format!("{defect:?}: seed {seed}, {small} of {full} bytes, {what}")
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
        assert_eq!(fault.map(|fault| fault.1), None, "seed {seed}");
    }
}
