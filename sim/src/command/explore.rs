//! `pilot-sim explore` and `pilot-sim replay`.

use super::{Trouble, progress};
use pilot_sim::explore::{Shares, Summary, explore, shares};
use pilot_sim::{Failure, Tape, shrink};
use serde::Serialize;
use std::cell::RefCell;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    /// What shows this thread's world again, should it panic.
    static AGAIN: RefCell<String> = const { RefCell::new(String::new()) };
}

/// An assertion inside a machine ends the program: it says at least in which world.
fn say_which_world() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        AGAIN.with_borrow(|again| eprintln!("again: {again}"));
    }));
}

#[derive(Serialize)]
struct Report {
    seeds: u64,
    failures: Vec<FailureReport>,
    virtual_secs: u64,
    streamed: u64,
    /// Of 100 worlds, in how many.
    share: Shares,
}

#[derive(Serialize)]
struct FailureReport {
    seed: u64,
    error: String,
}

pub(super) fn run(
    first: u64,
    seeds: u64,
    jobs: Option<usize>,
    tapes: Option<&Path>,
    json: bool,
) -> Result<bool, Trouble> {
    if let Some(folder) = tapes {
        std::fs::create_dir_all(folder).map_err(Trouble::file(folder))?;
    }
    say_which_world();
    let processors = || std::thread::available_parallelism().map_or(1, |n| n.get());
    let jobs = jobs.unwrap_or_else(processors).max(1);
    let (next, bar) = (AtomicU64::new(first), progress(seeds, "worlds"));
    let (failures, summaries) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let end = first.saturating_add(seeds);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let again = format!("pilot-sim explore --first {seed} --seeds 1");
                    AGAIN.set(again.clone());
                    let (result, world) = explore(Tape::from_seed(seed), again, false);
                    match result {
                        Ok(summary) => lock(&summaries).push(summary),
                        Err(failure) => {
                            bar.suspend(|| eprintln!("seed {seed}: {failure}"));
                            lock(&failures).push((seed, failure, world.tape().used().to_vec()));
                        }
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut failures = failures.into_inner().unwrap_or_else(|poison| poison.into_inner());
    let summaries = summaries.into_inner().unwrap_or_else(|poison| poison.into_inner());
    failures.sort_by_key(|(seed, ..)| *seed);
    if let Some(folder) = tapes {
        for (seed, failure, tape) in &failures {
            let path = folder.join(format!("{seed}.tape"));
            std::fs::write(&path, shrunk(*seed, failure, tape)).map_err(Trouble::file(&path))?;
            eprintln!("again, smaller: pilot-sim replay {}", path.display());
        }
    }
    let report = report(seeds, &failures, &summaries);
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(report.failures.is_empty())
}

/// Worlds that are run to make the tape of one failure smaller.
const SHRINK_RUNS: usize = 500;

/// A smaller tape, at which the same kind of thing goes wrong.
fn shrunk(seed: u64, failure: &Failure, tape: &[u8]) -> Vec<u8> {
    AGAIN.set(format!("pilot-sim explore --first {seed} --seeds 1, while its tape was shrunk"));
    let bar = progress(SHRINK_RUNS as u64, "worlds to shrink a tape");
    let small = shrink(tape, SHRINK_RUNS, 0, |tape| {
        bar.inc(1);
        let (result, world) = explore(tape, String::new(), false);
        let same = result.is_err_and(|other| other.kind() == failure.kind());
        same.then(|| world.into_tape())
    });
    bar.finish_and_clear();
    small
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

fn report(seeds: u64, failures: &[(u64, Failure, Vec<u8>)], summaries: &[Summary]) -> Report {
    let failures = failures.iter();
    Report {
        seeds,
        failures: failures
            .map(|(seed, failure, _)| FailureReport { seed: *seed, error: failure.to_string() })
            .collect(),
        virtual_secs: summaries.iter().map(|s| s.virtual_secs).sum(),
        streamed: summaries.iter().map(|s| s.streamed).sum(),
        share: shares(summaries),
    }
}

fn print(report: &Report) {
    println!(
        "{} worlds, {} failed; {} min of virtual time, {} MB streamed",
        report.seeds,
        report.failures.len(),
        report.virtual_secs / 60,
        report.streamed / 1_000_000
    );
    for (what, share) in &report.share {
        println!("{share:>6.1} %  {what}");
    }
}

pub(super) fn replay(path: &Path, trace: Option<&Path>, json: bool) -> Result<bool, Trouble> {
    let tape = std::fs::read(path).map_err(Trouble::file(path))?;
    let again = format!("pilot-sim replay {}", path.display());
    say_which_world();
    AGAIN.set(again.clone());
    let (result, world) = explore(Tape::from_bytes(tape), again, trace.is_some());
    if let Some(path) = trace {
        let mut file = BufWriter::new(File::create(path).map_err(Trouble::file(path))?);
        world.trace().write_events(&mut file)?;
        file.flush()?;
    }
    match &result {
        Ok(summary) if json => println!("{}", serde_json::to_string(summary)?),
        Ok(summary) => println!("ok: {summary:?}"),
        Err(failure) if json => {
            println!("{}", serde_json::json!({ "error": failure.to_string() }));
        }
        Err(failure) => println!("FAILED: {failure}{}", world.describe()),
    }
    Ok(result.is_ok())
}
