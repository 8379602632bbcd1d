//! The house rules of `docs/architecture.md` section 1: who may use whom.

use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;

/// For each workspace package: the workspace packages that it may depend on.
const RULES: &[(&str, &[&str])] = &[
    ("pilot-core", &[]),
    ("pilot-udp", &["pilot-core"]),
    ("pilot-tokio", &["pilot-core", "pilot-udp"]),
    ("pilot-smol", &["pilot-core", "pilot-udp"]),
    ("pilot-mio", &["pilot-core", "pilot-udp"]),
    ("pilot-sim", &["pilot-core"]),
    ("pilot-rendezvous", &["pilot-core", "pilot-tokio"]),
    (
        "pilotctl",
        &[
            "pilot-core",
            "pilot-udp",
            "pilot-tokio",
            "pilot-smol",
            "pilot-mio",
            "pilot-sim",
            "pilot-rendezvous",
        ],
    ),
];

/// May use everything, and nobody may use them.
const UNPUBLISHED: &[&str] = &["pilot-conformance", "pilot-bench"];

fn workspace() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")])
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let name = |v: &Value| v["name"].as_str().expect("a name").to_string();
    packages
        .iter()
        .map(|package| {
            let uses = package["dependencies"].as_array().expect("a list of dependencies");
            // A dependency with a path is one of the workspace.
            let inner = uses.iter().filter(|d| d["path"].is_string() && d["kind"].is_null());
            (name(package), inner.map(name).collect())
        })
        .collect()
}

#[test]
fn packages_use_only_what_the_house_allows() {
    let packages = workspace();
    assert!(packages.contains_key("pilot-core"), "{packages:?}");
    for (package, uses) in &packages {
        if UNPUBLISHED.contains(&package.as_str()) {
            continue;
        }
        let (_, allowed) = RULES
            .iter()
            .find(|(name, _)| name == package)
            .unwrap_or_else(|| panic!("{package} has no rule in core/tests/house.rs"));
        for used in uses {
            assert!(allowed.contains(&used.as_str()), "{package} must not use {used}");
        }
    }
}

/// Whoever chooses another runtime does not get tokio with it.
#[test]
fn only_the_adapter_of_tokio_brings_tokio() {
    let packages = workspace();
    let mut without = 0;
    for package in ["pilot-core", "pilot-udp", "pilot-smol", "pilot-mio"] {
        if packages.contains_key(package) {
            assert!(!tree(package).contains("\ntokio "), "{package} brings tokio");
            without += 1;
        }
    }
    assert!(without >= 3, "{packages:?}");
    assert!(tree("pilot-tokio").contains("\ntokio "), "the test looks in the wrong place");
}

/// What a program gets with this package, a line each, for every platform.
fn tree(package: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--edges", "normal", "--prefix", "none", "--locked"])
        .args(["--all-features", "--target", "all", "--package", package])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")])
        .output()
        .expect("cargo tree runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("names are text")
}

/// Every adapter runs the one suite, and all of it: `conformance!` names no case.
#[test]
fn every_adapter_passes_the_conformance_suite() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut adapters = 0;
    for entry in std::fs::read_dir(root).expect("the workspace is a folder") {
        let folder = entry.expect("a readable folder").path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("runtime-") {
            continue;
        }
        let test = folder.join("tests/conformance.rs");
        let text = std::fs::read_to_string(&test).unwrap_or_default();
        assert!(text.contains("\npilot_core::conformance!("), "{}", test.display());
        adapters += 1;
    }
    assert!(adapters > 0, "no adapter was seen");
}

/// Safe code only: there is no pointer to misuse and no data race (W-C18).
#[test]
fn every_crate_forbids_unsafe_code() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut roots = 0;
    for entry in std::fs::read_dir(root).expect("the workspace is a folder") {
        let folder = entry.expect("a readable folder").path();
        for file in ["src/lib.rs", "src/main.rs"].map(|file| folder.join(file)) {
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            let forbids = text.lines().any(|line| line == "#![forbid(unsafe_code)]");
            assert!(forbids || folder.ends_with("bench"), "{}", file.display());
            roots += 1;
        }
    }
    assert!(roots >= workspace().len(), "only {roots} crates were seen");
}

/// What a program that links `core` without features gets: nothing that asks for more. That the
/// code keeps to it, `.ci/no-std` shows.
#[test]
fn core_without_features_pulls_in_no_std_and_no_allocator() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "-p", "pilot-core", "--no-default-features", "--locked", "--no-dedupe"])
        .args(["--target", "thumbv7em-none-eabi"])
        .args(["-e", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}\t{f}"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")])
        .output()
        .expect("cargo tree runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("text");
    let mut packages = 0;
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (package, features) = line.split_once('\t').unwrap_or((line, ""));
        for feature in features.split(',') {
            let asks = ["std", "alloc", "use-std", "getrandom"].contains(&feature);
            assert!(!asks, "{package} with feature {feature}");
        }
        let name = package.split(' ').next().unwrap_or_default();
        let needs = ["getrandom", "libc", "tokio", "ring", "rand"].contains(&name);
        assert!(!needs, "{package} needs an operating system");
        packages += 1;
    }
    assert!(packages > 20, "only {packages} packages were seen: {tree}");
}

/// `core`'s modules in the order of `docs/architecture.md` section 2: each may use only those
/// above it and beside it; `node` and `rendezvous` compose, `drive` drives any machine. The
/// table of ports and the streams in its accept queues are one layer, and so are paths, which
/// messages name, and messages, which discovery and the ladder speak.
const LAYERS: &[&[&str]] = &[
    // Defects on purpose, for the simulator's own tests.
    &["planted"],
    &["time"],
    &["rng"],
    &["limits"],
    &["stats"],
    &["slab"],
    &["timer"],
    &["addr"],
    &["name"],
    &["machine"],
    &["path", "wire"],
    &["crypto"],
    &["session"],
    &["stream", "port"],
    &["journal"],
    &["trust"],
    &["directory"],
    &["service"],
];

#[test]
fn core_modules_use_only_modules_above_them() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let mut checked = 0;
    let layers = LAYERS.iter().enumerate().flat_map(|(rank, l)| l.iter().map(move |l| (rank, l)));
    for (rank, layer) in layers {
        for (file, text) in files_of(source, layer) {
            // Tests beside the code may build whatever they need.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (i, line) in code.lines().enumerate() {
                if line.trim_start().starts_with("//") {
                    continue;
                }
                for used in line.split("crate::").skip(1) {
                    let used = used.split(|c: char| !c.is_alphanumeric() && c != '_').next();
                    let Some(used) = used.filter(|u| !u.is_empty()) else { continue };
                    let known = LAYERS.iter().position(|l| l.contains(&used));
                    let allowed = known.is_some_and(|at| at <= rank);
                    assert!(allowed, "{file}:{}: {layer} must not use {used}", i + 1);
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 200, "only {checked} uses were seen: the test looks in the wrong place");
}

fn files_of(source: &str, layer: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let single = format!("{source}/{layer}.rs");
    if let Ok(text) = std::fs::read_to_string(&single) {
        found.push((single, text));
    }
    let mut folders = vec![format!("{source}/{layer}")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let name = path.to_string_lossy().into_owned();
            if path.is_dir() && !name.ends_with("/tests") {
                folders.push(name);
            } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
                found.push((name.clone(), std::fs::read_to_string(&path).expect("readable")));
            }
        }
    }
    found.sort();
    found
}
