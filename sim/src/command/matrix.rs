//! `pilot-sim matrix`.

use super::{Trouble, progress};
use pilot_sim::matrix::{PairReport, Technique, pairs, run_pair};
use pilot_sim::nat::Preset;
use std::collections::BTreeMap;

pub(super) fn run(first: u64, seeds: u64, presets: &[Preset], json: bool) -> Result<bool, Trouble> {
    let pairs = pairs(presets);
    let bar = progress(pairs.len() as u64 * seeds, "worlds");
    let (mut ok, mut reports) = (true, Vec::new());
    for (from, to) in pairs {
        let mut runs = Vec::new();
        for seed in first..first.saturating_add(seeds) {
            match run_pair(from, to, seed) {
                Ok(report) => runs.push(report),
                Err(failure) => {
                    ok = false;
                    bar.suspend(|| eprintln!("{from} and {to}: {failure}"));
                }
            }
            bar.inc(1);
        }
        reports.push((from, to, runs));
    }
    bar.finish_and_clear();
    // Everybody has to get through, whatever the way.
    ok &= reports.iter().flat_map(|(.., runs)| runs).all(|run| run.done_ms.is_some());
    if json {
        let all: Vec<&PairReport> = reports.iter().flat_map(|(.., runs)| runs).collect();
        println!("{}", serde_json::to_string(&all)?);
        return Ok(ok);
    }
    println!("Of {seeds} worlds each; times are medians in ms, from the connect on.");
    println!(
        "{:<18}{:<18}{:>8}{:>8}{:>7}  {:<14}{:>8}{:>12}{:>9}{:>8}{:>11}",
        "from",
        "to",
        "direct",
        "relayed",
        "other",
        "technique",
        "probes",
        "first byte",
        "direct",
        "64 KiB",
        "datagrams"
    );
    for (from, to, runs) in &reports {
        let count = |path: &str| runs.iter().filter(|run| run.path == path).count();
        let (direct, relayed) = (count("direct"), count("relayed"));
        println!(
            "{from:<18}{to:<18}{direct:>8}{relayed:>8}{:>7}  {:<14}{:>8}{:>12}{:>9}{:>8}{:>11}",
            runs.len() - direct - relayed,
            techniques(runs),
            median(runs.iter().map(|run| f64::from(run.probes))),
            median(runs.iter().filter_map(|run| run.first_byte_ms)),
            median(runs.iter().filter_map(|run| run.direct_ms)),
            median(runs.iter().filter_map(|run| run.done_ms)),
            median(runs.iter().map(|run| run.datagrams as f64)),
        );
    }
    Ok(ok)
}

/// What made the paths, the commonest first.
fn techniques(runs: &[PairReport]) -> String {
    let mut counts = BTreeMap::new();
    for technique in runs.iter().filter_map(|run| run.technique) {
        *counts.entry(technique).or_insert(0) += 1;
    }
    let mut counts: Vec<(Technique, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(technique, count)| (std::cmp::Reverse(*count), *technique));
    let words: Vec<&str> = counts.iter().map(|(technique, _)| technique.as_str()).collect();
    if words.is_empty() { "-".to_owned() } else { words.join("+") }
}

fn median(values: impl Iterator<Item = f64>) -> String {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).map_or("-".to_string(), |value| format!("{value:.0}"))
}
