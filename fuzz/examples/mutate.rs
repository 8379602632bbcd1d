//! Runs targets on mutations of their corpora, on any toolchain: a campaign without coverage
//! feedback. The same seed gives the same inputs.
//!
//! ```text
//! mutate TARGET|all [--seconds N] [--seed N]
//! mutate --list
//! ```
//!
//! An input that fails is written to `artifacts/TARGET/`, as libFuzzer would.

use pilot_core::rng::Rng;
use pilot_fuzz::{TARGETS, Target};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Longest input, as in `.ci/fuzz`.
const LONGEST: usize = 4096;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    let seconds = value("--seconds").unwrap_or(10);
    let seed = value("--seed").unwrap_or(1);
    let Some(name) = arguments.first() else {
        eprintln!("usage: mutate TARGET|all [--seconds N] [--seed N], or mutate --list");
        return ExitCode::from(2);
    };
    if name == "--list" {
        TARGETS.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<&Target> =
        TARGETS.iter().filter(|(target, _)| name == "all" || name == target).collect();
    if chosen.is_empty() {
        eprintln!("no target is called {name}; mutate --list names them");
        return ExitCode::from(2);
    }
    let failed = chosen.into_iter().filter(|t| !campaign(t, seconds, seed)).count();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether no input failed.
fn campaign((name, run): &Target, seconds: u64, seed: u64) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = pilot_fuzz::inputs(&root.join("corpus").join(name));
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    let mut rng = Rng::new(bytes).fork(name);
    #[allow(clippy::disallowed_methods, reason = "how long to run is real time")]
    let clock = std::time::Instant::now;
    let (start, mut runs) = (clock(), 0u64);
    while start.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..16 {
            let input = mutate(&corpus, &mut rng);
            runs += 1;
            if catch_unwind(AssertUnwindSafe(|| run(&input))).is_err() {
                let path = keep(root, name, &input);
                println!("{name}: input {runs} FAILED, written to {}", path.display());
                return false;
            }
        }
    }
    println!("{name}: {runs} inputs in {} s, none failed", start.elapsed().as_secs());
    true
}

fn keep(root: &Path, name: &str, input: &[u8]) -> PathBuf {
    let folder = root.join("artifacts").join(name);
    let digest = pilot_core::crypto::kdf::sha256(&[input]);
    let hex: String = digest[..10].iter().map(|b| format!("{b:02x}")).collect();
    let path = folder.join(format!("crash-{hex}"));
    std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, input)).unwrap_or_else(
        |error| panic!("cannot write {}: {error}; the input is {input:?}", path.display()),
    );
    path
}

fn mutate(corpus: &[(PathBuf, Vec<u8>)], rng: &mut Rng) -> Vec<u8> {
    let mut pick = |n: usize| rng.below(n as u64) as usize;
    let mut input = match corpus.len() {
        0 => Vec::new(),
        n => corpus[pick(n)].1.clone(),
    };
    for _ in 0..1 + pick(8) {
        let at = pick(input.len() + 1);
        let end = (at + 1 + pick(32)).min(input.len());
        match pick(9) {
            0 | 1 if at < input.len() => input[at] ^= 1 << pick(8),
            2 | 3 if at < input.len() => input[at] = pick(256) as u8,
            4 if at < input.len() => input[at] = [0, 1, 0x7F, 0x80, 0xFE, 0xFF][pick(6)],
            5 => drop(
                input
                    .splice(at..at, (0..1 + pick(16)).map(|_| pick(256) as u8).collect::<Vec<_>>()),
            ),
            6 if at < end => drop(input.drain(at..end)),
            7 if at < end => {
                let copy = input[at..end].to_vec();
                let to = pick(input.len());
                drop(input.splice(to..to, copy));
            }
            8 if !corpus.is_empty() => {
                let other = &corpus[pick(corpus.len())].1;
                let from = pick(other.len() + 1);
                input.truncate(at);
                input.extend(&other[from..]);
            }
            _ => input.truncate(at),
        }
    }
    input.truncate(LONGEST);
    input
}
