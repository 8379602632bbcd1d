//! What many random worlds were like, together.

use super::{Fault, Summary};
use std::collections::BTreeMap;

/// Of 100 worlds, in how many, by what.
pub type Shares = BTreeMap<String, f64>;

/// How many of the worlds had each fault, three agents or more, at least 100 KB of streams, data
/// over the relay, and data without it.
pub fn shares(summaries: &[Summary]) -> Shares {
    let share = |test: &dyn Fn(&Summary) -> bool| {
        let n = summaries.iter().filter(|summary| test(summary)).count();
        (1000.0 * n as f64 / summaries.len().max(1) as f64).round() / 10.0
    };
    let mut shares: Shares = Fault::ALL
        .iter()
        .map(|fault| (format!("fault {fault:?}"), share(&|s| s.faults.contains(fault))))
        .collect();
    shares.insert("three agents or more".to_string(), share(&|s| s.agents >= 3));
    shares.insert("100 KB streamed".to_string(), share(&|s| s.streamed >= 100_000));
    shares.insert("relayed".to_string(), share(&|s| s.relayed));
    shares.insert("direct".to_string(), share(&|s| s.direct));
    shares
}
