//! The same tape makes the same world in every build: one recorded hash, which debug and release
//! builds of the library and of the program have to show.
//!
//! It changes with everything that agents send. After a change that is meant, record it anew:
//!
//! ```sh
//! PILOT_SIM_RECORD=1 cargo test -p pilot-sim --test recorded
//! ```

use pilot_sim::Tape;
use pilot_sim::explore::explore;
use std::process::Command;

/// A world with three agents or more and a dozen kinds of fault.
const SEED: u64 = 9;
const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorded.txt");
const AGAIN: &str = "PILOT_SIM_RECORD=1 cargo test -p pilot-sim --test recorded";

#[test]
fn every_build_makes_the_recorded_world() {
    let (result, world) = explore(Tape::from_seed(SEED), String::new(), false);
    let summary = result.unwrap_or_else(|failure| panic!("{failure}{}", world.describe()));
    if std::env::var_os("PILOT_SIM_RECORD").is_some() {
        std::fs::write(RECORD, format!("{}\n", summary.hash)).expect("it can be written");
    }
    let recorded = std::fs::read_to_string(RECORD).unwrap_or_default();
    assert_eq!(summary.hash, recorded.trim(), "not the recorded world; if that is meant: {AGAIN}");

    let folder = tempfile::tempdir().expect("a folder");
    let tape = folder.path().join("tape");
    std::fs::write(&tape, world.tape().used()).expect("it is written");
    let run = || {
        let output = Command::new(env!("CARGO_BIN_EXE_pilot-sim"))
            .args(["replay", tape.to_str().expect("text"), "--json"])
            .output()
            .expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        said["hash"].as_str().expect("text").to_string()
    };
    assert_eq!([run(), run()], [summary.hash.clone(), summary.hash], "two other processes");
}
