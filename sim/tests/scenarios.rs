//! Every scenario file goes as it says, in more than one world.

use pilot_sim::Tape;
use pilot_sim::scenario::{Play, Scenario, ScenarioError};
use std::path::{Path, PathBuf};

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.retain(|path| path.extension().is_some_and(|ext| ext == "toml"));
    files.sort();
    files
}

fn play(text: &str, seed: u64) -> Result<Play, ScenarioError> {
    let scenario: Scenario = toml::from_str(text).unwrap_or_else(|error| panic!("{error}"));
    let mut play = Play::new(&scenario, Tape::from_seed(seed), format!("seed {seed}"))?;
    scenario.steps.iter().try_for_each(|step| play.step(step))?;
    Ok(play)
}

#[test]
fn every_scenario_goes_as_it_says() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios"));
    let (pairs, others) = (files(&folder.join("pairs")), files(folder));
    assert_eq!(pairs.len(), 28);
    assert!(others.len() >= 20, "{}", others.len());
    for path in others.iter().chain(&pairs) {
        let text = std::fs::read_to_string(path).expect("readable");
        for seed in [1, 2] {
            if let Err(error) = play(&text, seed) {
                panic!("{}: {error}", path.display());
            }
        }
    }
}

const PAIR: &str = r#"
    title = "a pair"
    [[agent]]
    name = "a"
    nat = "sym-random"
    [[agent]]
    name = "b"
    boxes = [{ nat = { mapping = "address-and-port-dependent", filtering = "address-and-port-dependent", allocation = "random", life = 60 } }]
    link = { delay = 0.02, loss = 5 }
    [[step]]
    do = "register"
    [[step]]
    do = "trust"
    from = "a"
    to = "b"
    [[step]]
    do = "transfer"
    name = "data"
    from = "a"
    to = "b"
    bytes = 10000
"#;

#[test]
fn a_scenario_that_does_not_go_as_it_says_fails_where_it_does_not() {
    let ends = |steps: &str| match play(&format!("{PAIR}{steps}"), 3) {
        Ok(_) => panic!("it went"),
        Err(error) => error.to_string(),
    };
    let direct = "[[step]]\ndo = \"path\"\nfrom = \"a\"\nto = \"b\"\nis = \"direct\"\nwithin = 9\n";
    assert_eq!(ends(direct), "step 4: not Direct, within 9s; again: seed 3");
    let cut = "[[step]]\ndo = \"cut\"\nagent = \"b\"\n";
    let wait = "[[step]]\ndo = \"await\"\ntransfer = \"data\"\nwithin = 9\n";
    let text = ends(&format!("{cut}{wait}"));
    assert_eq!(text, "step 5: data has not arrived, within 9s; again: seed 3");
    let crash = "[[step]]\ndo = \"crash\"\nagent = \"b\"\n";
    assert_eq!(ends(&format!("{crash}{wait}")), "step 5: data failed: None; again: seed 3",);
    assert_eq!(ends("[[step]]\ndo = \"crash\"\nagent = \"c\"\n"), "there is no \"c\"");
    assert!(play(&format!("{PAIR}{wait}"), 3).is_ok());
}

#[test]
fn unknown_keys_are_refused() {
    for text in ["colour = 1\n", "[[step]]\ndo = \"cut\"\nagent = \"a\"\nhow = 1\n"] {
        let text =
            if text.starts_with('[') { format!("{PAIR}{text}") } else { format!("{text}{PAIR}") };
        assert!(toml::from_str::<Scenario>(&text).is_err(), "{text}");
    }
}

#[test]
fn the_readme_has_the_test_that_runs_and_every_preset() {
    let readme = include_str!("../README.md");
    let example = include_str!("readme.rs").split_once("\n\n").expect("a title").1;
    assert!(readme.contains(&format!("```rust\n{example}```\n")));
    for preset in pilot_sim::nat::Preset::ALL {
        assert!(readme.contains(&format!("`{preset}`")), "{preset}");
        let parsed: Result<AnyPreset, _> = toml::from_str(&format!("nat = \"{preset}\""));
        assert_eq!(parsed.map(|any| any.nat), Ok(*preset));
    }
}

#[derive(serde::Deserialize)]
struct AnyPreset {
    nat: pilot_sim::nat::Preset,
}
