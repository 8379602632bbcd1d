//! Random worlds: they hold and heal, and the same tape makes the same one, in another process,
//! too.

use pilot_sim::explore::{Fault, Summary, explore, shares};
use pilot_sim::scenario::{Play, Scenario};
use pilot_sim::{Tape, World};
use std::process::Command;

/// Each kind of fault, and each kind of world, is in at least 5 % of them.
#[test]
fn random_worlds_hold_and_heal_and_are_of_all_kinds() {
    const WORLDS: u64 = 300;
    const JOBS: u64 = 2;
    let run = |first| {
        let seeds = (first..=WORLDS).step_by(JOBS as usize);
        seeds.map(|seed| {
            let again = format!("pilot-sim explore --first {seed} --seeds 1");
            let (result, world) = explore(Tape::from_seed(seed), again, false);
            result.unwrap_or_else(|failure| panic!("{failure}{}", world.describe()))
        })
    };
    let summaries: Vec<Summary> = std::thread::scope(|scope| {
        let jobs: Vec<_> =
            (1..=JOBS).map(|first| scope.spawn(move || run(first).collect::<Vec<_>>())).collect();
        jobs.into_iter().flat_map(|job| job.join().expect("no world fails")).collect()
    });
    assert_eq!(summaries.len() as u64, WORLDS);
    let shares = shares(&summaries);
    assert_eq!(shares.len(), Fault::ALL.len() + 4);
    for (what, share) in shares {
        assert!(share >= 5.0, "{what}: {share} %");
    }
}

#[test]
fn a_tape_that_was_used_makes_the_same_world_and_its_beginning_a_quieter_one() {
    let run = |tape| {
        let (result, world) = explore(tape, String::new(), false);
        (result.map(|summary| summary.hash), world)
    };
    let (hash, world) = run(Tape::from_seed(3));
    let used = world.tape().used().to_vec();
    assert!(hash.is_ok() && used.len() > 100);
    assert_eq!(run(Tape::from_bytes(used.clone())).0, hash);
    assert_ne!(run(Tape::from_seed(4)).0, hash);
    for len in [0, 1, used.len() / 2] {
        let (result, _) = run(Tape::from_bytes(used[..len].to_vec()));
        result.unwrap_or_else(|failure| panic!("{len} bytes of it: {failure}"));
    }
}

fn program(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_pilot-sim"))
        .args(arguments)
        .arg("--json")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

#[test]
fn another_process_sees_the_same_world() {
    let folder = tempfile::tempdir().expect("a folder");
    let tape = folder.path().join("tape");
    let (result, world) = explore(Tape::from_seed(9), String::new(), false);
    std::fs::write(&tape, world.tape().used()).expect("it is written");
    let path = tape.to_str().expect("text");
    let [first, second] = [program(&["replay", path]), program(&["replay", path])];
    assert_eq!(first, second);
    assert_eq!(first["hash"], result.expect("it heals").hash.as_str());

    let run = |seed| program(&["run", "scenarios/lossy.toml", "--seed", seed]);
    let (first, second) = (run("5"), run("5"));
    assert_eq!(first, second);
    assert_ne!(first["hash"], run("6")["hash"]);
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/lossy.toml"));
    let scenario: Scenario = toml::from_str(&text.expect("readable")).expect("a scenario");
    let mut play = Play::new(&scenario, Tape::from_seed(5), String::new()).expect("it begins");
    scenario.steps.iter().for_each(|step| play.step(step).expect("as it says"));
    assert_eq!(first["hash"], play.world.trace().hash().as_str());
}

#[test]
fn the_program_says_how_to_see_a_failure_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s.toml");
    let text = "title = \"t\"\n[[agent]]\nname = \"a\"\nnat = \"udp-blocked\"\n\
                [[step]]\ndo = \"register\"\nwithin = 5\n";
    std::fs::write(&path, text).expect("it is written");
    let output = Command::new(env!("CARGO_BIN_EXE_pilot-sim"))
        .args(["run", path.to_str().expect("text"), "--seed", "8"])
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let again = format!("again: pilot-sim run {} --seed 8", path.display());
    assert!(said.contains("not everybody is online") && said.contains(&again), "{said}");
    let nothing = Command::new(env!("CARGO_BIN_EXE_pilot-sim")).args(["run", "nowhere"]).output();
    assert_eq!(nothing.expect("it starts").status.code(), Some(2));
}

/// A world is a value: two of them do not touch each other.
#[test]
fn worlds_side_by_side_are_the_same_as_one_after_the_other() {
    let step = |world: &mut World| world.run(pilot_core::time::Duration::from_millis(50));
    let fresh = || {
        let mut world = World::new(Tape::from_seed(2));
        world.add_agent(pilot_sim::nat::Preset::SymRandom);
        world
    };
    let (mut a, mut b, mut alone) = (fresh(), fresh(), fresh());
    for _ in 0..40 {
        step(&mut a);
        step(&mut b);
    }
    (0..40).for_each(|_| step(&mut alone));
    assert!(a.trace().count() > 10);
    assert_eq!([a.trace().hash(), b.trace().hash()], [alone.trace().hash(), alone.trace().hash()]);
}
