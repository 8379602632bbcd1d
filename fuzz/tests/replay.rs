//! Every committed input through its target, on any toolchain and without libFuzzer.

use pilot_fuzz::{TARGETS, inputs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

fn names(folder: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Ok(entries) = std::fs::read_dir(root.join(folder)) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .map(|entry| {
            let path = entry.expect("a readable folder").path();
            path.file_stem().expect("a name").to_string_lossy().into_owned()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn every_committed_input_passes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut failed = Vec::new();
    for (name, run) in TARGETS {
        let (mut corpus, known) =
            (inputs(&root.join("corpus").join(name)), inputs(&root.join("regressions").join(name)));
        assert!(corpus.len() >= 12, "{name} has {} seeds", corpus.len());
        corpus.extend(known);
        // Nothing at all is an input, too.
        run(&[]);
        for (path, input) in corpus {
            if catch_unwind(AssertUnwindSafe(|| run(&input))).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn targets_files_and_folders_agree() {
    let targets: Vec<String> = TARGETS.iter().map(|(name, _)| name.to_string()).collect();
    assert!(targets.is_sorted());
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    assert!(names("regressions").iter().all(|name| targets.contains(name)));
}

#[test]
fn the_corpora_hold_what_the_generator_writes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, _) in TARGETS {
        for (n, seed) in pilot_fuzz::seeds::of(name).into_iter().enumerate() {
            let path = root.join("corpus").join(name).join(pilot_fuzz::seeds::file(n));
            let stored = std::fs::read(&path).unwrap_or_default();
            assert!(stored == seed, "{}: run the example `seeds`", path.display());
        }
    }
}
