//! The table of pairs as agents have it now: a reviewed statement, not a goal. Pairs that need
//! port prediction or a spray go by relay (`nat.md` 5: Q, B, QQ), as do those that nothing helps.

use pilot_sim::matrix::{pairs, run_pair};
use pilot_sim::nat::Preset;

/// D: direct, r: relayed; rows and columns as in [`Preset::SEVEN`].
const TABLE: [&str; 7] =
    ["DDDDDDD", " DDDDrr", "  DDDDD", "   DDDD", "    Drr", "     rr", "      r"];

#[test]
fn every_pair_gets_through_and_by_the_way_that_the_table_says() {
    let mut worlds = 0;
    for seed in 1..=3 {
        for (from, to) in pairs(&Preset::SEVEN) {
            let report = run_pair(from, to, seed).unwrap_or_else(|failure| panic!("{failure}"));
            let place = |preset| Preset::SEVEN.iter().position(|p| *p == preset).unwrap();
            let path = match TABLE[place(from)].as_bytes()[place(to)] {
                b'D' => "direct",
                _ => "relayed",
            };
            assert_eq!(report.path, path, "{from} and {to}, seed {seed}: {report:?}");
            // The beacon is 15 ms from everybody, so a relayed round trip is 60 ms.
            assert!(report.done_ms.is_some_and(|ms| ms < 500.0), "{report:?}");
            assert!(report.first_byte_ms.is_some_and(|ms| ms < 150.0), "{report:?}");
            worlds += 1;
        }
    }
    assert_eq!(worlds, 84);
}
