//! The services of `pilot_core::service` over the streams of real nodes, while packets are lost,
//! sites are cut off, hosts move, and processes die and start again with what they had synced.
//!
//! `SERVICE_SEEDS=2000` for more worlds.

mod events;
mod exchange;
mod pushes;
mod trouble;

use trouble::each_seed;

/// Every acknowledged item is there exactly once with its own bytes, and no half one is ever seen.
#[test]
fn what_is_acknowledged_is_there_exactly_once() {
    each_seed(
        exchange::run,
        &[
            "receipt",
            "receipt of a push",
            "repetition",
            "repetition of a push",
            "resumption",
            "sync of several",
        ],
    );
}

/// A subscriber gets everything in order but for what it is told to have missed, and one that comes
/// late gets the retained value.
#[test]
fn subscribers_get_all_but_what_they_are_told_to_have_missed() {
    let wanted = ["event", "loss that was told", "publication", "retained value"];
    each_seed(events::run, &wanted);
}
