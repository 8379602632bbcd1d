//! Exhaustive schedules of two real tunnels (`wire.md` 4.8): within a budget of faults every
//! order in which packets arrive, are lost or doubled, in which ends open, restart and time out.
//!
//! After each of them the network is good, and then both directions must work, both ends must
//! send in the same session, and on the way no frame may have met a session that its receiver
//! has forgotten.
//!
//! `PILOT_SCHEDULES=deep cargo test --release -p pilot-core --lib schedule -- --nocapture` adds
//! what takes minutes, and prints how much was covered.

mod machine;
mod search;

use crate::session::slots::Fault;
use machine::Machines;
use search::{Budget, Report, Search};

/// One search.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    budget: Budget,
    /// Both ends begin with a confirmed session.
    established: bool,
    /// Who restarts finds its wall clock an hour back.
    clock_set_back: bool,
    /// Three rekeys may pass a packet in flight: `prev` holds two sessions, so it may be lost.
    outruns_prev: bool,
    /// At least so many states are there: a search that sees less does not search.
    states_min: usize,
}

const QUIET: Budget =
    Budget { opens: [0; 2], losses: 0, copies: 0, restarts: 0, timeouts: 0, sends: 0 };

impl Scenario {
    const fn new(name: &'static str, states_min: usize, budget: Budget) -> Self {
        Scenario {
            name,
            budget,
            established: false,
            clock_set_back: false,
            outruns_prev: false,
            states_min,
        }
    }

    const fn established(mut self) -> Self {
        self.established = true;
        self
    }

    const fn clock_set_back(mut self) -> Self {
        self.clock_set_back = true;
        self
    }

    const fn outruns_prev(mut self) -> Self {
        self.outruns_prev = true;
        self
    }

    fn run(&self, fault: Fault) -> Report {
        let mut machines = Machines::new(fault, self.clock_set_back);
        let report = Search::run(&mut machines, self.budget, self.established);
        let (locals, steps) = machines.size();
        std::println!(
            "{}: {} states, {} ends, {} healed after a restart, {} frames to processes that are \
             gone; {locals} local states, {steps} steps of tunnels",
            self.name,
            report.states,
            report.ends,
            report.healed,
            report.orphans,
        );
        report
    }

    /// Nothing that must not be is there.
    fn holds(&self) {
        let report = self.run(Fault::None);
        let example = report.example.as_deref().unwrap_or_default();
        assert_eq!(
            (report.unusable, report.split, report.forgotten > 0),
            (0, 0, self.outruns_prev),
            "{}: unusable, split, forgotten; {example}",
            self.name
        );
        assert!(report.ends > 0 && report.agreed == report.ends);
        assert!(report.states >= self.states_min, "{}: {} states", self.name, report.states);
        assert!((self.budget.restarts > 0) || (report.healed, report.orphans) == (0, 0));
    }
}

fn all_hold(scenarios: &[Scenario], deep: &[Scenario]) {
    scenarios.iter().for_each(Scenario::holds);
    if std::env::var("PILOT_SCHEDULES").is_ok_and(|value| value == "deep") {
        deep.iter().for_each(Scenario::holds);
    }
}

const SIMULTANEOUS: Scenario =
    Scenario::new("simultaneous open", 300, Budget { opens: [1, 1], ..QUIET });
const REKEYS_WITH_LOSS: Scenario =
    Scenario::new("rekeys, 1 loss", 30_000, Budget { opens: [2, 1], losses: 1, ..QUIET })
        .established();
const RESTART: Scenario = Scenario::new(
    "restart and opens over a session",
    30_000,
    Budget { opens: [1, 1], restarts: 1, ..QUIET },
)
.established();

#[test]
fn without_loss_both_ends_agree() {
    let (one, two) = (Budget { opens: [1, 0], ..QUIET }, SIMULTANEOUS.budget);
    all_hold(
        &[
            Scenario::new("one open, 3 copies", 50, Budget { copies: 3, ..one }),
            SIMULTANEOUS,
            Scenario::new("simultaneous, 2 copies", 9_000, Budget { copies: 2, ..two }),
            Scenario::new("simultaneous, 1 late", 6_000, Budget { timeouts: 1, ..two }),
            Scenario::new(
                "simultaneous, 2 late, 1 copy",
                700_000,
                Budget { timeouts: 2, copies: 1, ..two },
            ),
        ],
        &[Scenario::new("simultaneous, 3 late", 100_000, Budget { timeouts: 3, ..two })],
    );
}

#[test]
fn with_losses_both_ends_agree() {
    let two = Budget { losses: 1, ..SIMULTANEOUS.budget };
    all_hold(
        &[
            Scenario::new(
                "simultaneous, 3 losses, 1 late",
                30_000,
                Budget { losses: 3, timeouts: 1, ..two },
            ),
            Scenario::new(
                "simultaneous, 3 losses, 2 late",
                600_000,
                Budget { losses: 3, timeouts: 2, ..two },
            ),
            Scenario::new(
                "simultaneous, 1 loss, 1 copy, 1 late",
                150_000,
                Budget { copies: 1, timeouts: 1, ..two },
            ),
            Scenario::new("open and rekey, 1 loss", 30_000, Budget { opens: [2, 1], ..two }),
        ],
        &[Scenario::new(
            "open and rekey, 2 losses, 1 late",
            500_000,
            Budget { opens: [2, 1], losses: 2, timeouts: 1, ..two },
        )],
    );
}

#[test]
fn rekeys_forget_no_session_in_use() {
    let two = Budget { losses: 1, ..SIMULTANEOUS.budget };
    all_hold(
        &[
            REKEYS_WITH_LOSS,
            Scenario::new("rekeys, 1 datum, 1 loss", 12_000, Budget { sends: 1, ..two })
                .established(),
            Scenario::new("rekeys, 2 data, 1 loss", 120_000, Budget { sends: 2, ..two })
                .established(),
        ],
        &[Scenario::new(
            "more rekeys, 1 datum, 1 loss",
            200_000,
            Budget { opens: [2, 1], sends: 1, ..two },
        )
        .established()
        .outruns_prev()],
    );
}

#[test]
fn after_a_restart_both_ends_agree() {
    let one = Budget { opens: [1, 0], restarts: 1, ..QUIET };
    let two = Budget { opens: [1, 1], losses: 1, restarts: 1, ..QUIET };
    all_hold(
        &[
            RESTART,
            Scenario::new("open, restart, 1 loss", 1_000, Budget { losses: 1, ..one }),
            Scenario::new("open, restart back in time, 1 copy", 4_000, Budget { copies: 1, ..one })
                .clock_set_back(),
            Scenario::new("simultaneous, restart, 1 loss", 150_000, two),
            Scenario::new("simultaneous, restart back in time, 1 loss", 150_000, two)
                .clock_set_back(),
        ],
        &[
            Scenario::new("restart and opens, 1 loss", 100_000, two).established(),
            Scenario::new("open, 2 restarts", 10_000, Budget { restarts: 2, ..one }),
        ],
    );
}

/// The searches find what wrong rules lead to.
#[test]
fn wrong_rules_are_found_out() {
    let report = SIMULTANEOUS.run(Fault::LastConfirmedWins);
    assert!(report.split > 0, "as in WireGuard");
    let report = REKEYS_WITH_LOSS.run(Fault::OnePending);
    assert!(report.forgotten > 0, "one pending slot");
    let report = RESTART.run(Fault::PreviousIsFinal);
    assert!(report.split > 0, "prev is judged once");
    let report = RESTART.run(Fault::OldestGoesFirst);
    assert!(report.forgotten > 0, "prev drops its oldest");
}
