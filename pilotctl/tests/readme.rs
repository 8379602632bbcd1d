//! The README's walk-through, word for word: three agents, as in three clouds, and their
//! rendezvous server. Only placeholders are replaced (addresses, ports and where the registry is
//! kept); in between it is waited for what a person would wait for.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{Home, Story, mutual, wait_at_most, wait_for};

/// A block takes less, or hangs.
const BLOCK_MAX: Duration = Duration::from_secs(90);
const SERVER: &str = "a machine that every agent can reach";

/// A shell block, and the machines that it is for.
struct Block {
    places: Vec<String>,
    script: String,
}

/// The shell blocks that say where they run.
fn blocks(readme: &str) -> Vec<Block> {
    let after = readme.split("```sh\n# on ").skip(1);
    let block = |text: &str| {
        let (places, rest) = text.split_once('\n').unwrap();
        let (script, _) = rest.split_once("```").unwrap();
        let places = places.split(" and ").map(str::to_owned).collect();
        Block { places, script: script.to_owned() }
    };
    after.map(block).collect()
}

/// A machine: a home, and a directory in which its shell works.
struct Machine {
    home: Home,
    desk: PathBuf,
    listen: String,
    /// Shells that have left something running.
    shells: Vec<Child>,
}

impl Machine {
    fn new(listen: String) -> Machine {
        let home = Home::new();
        let desk = home.beside("desk");
        fs::create_dir(&desk).unwrap();
        Machine { home, desk, listen, shells: Vec::new() }
    }

    /// Runs a script to its end, but not what it leaves in the background; what it printed.
    fn run(&mut self, script: &str) -> String {
        let output = self.desk.join(".output");
        let file = File::create(&output).unwrap();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_pilotctl"));
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", program.parent().unwrap().display());
        let mut shell = Command::new("sh");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PILOT_")) {
            shell.env_remove(name);
        }
        shell.args(["-e", "-c", script]).current_dir(&self.desk).env("PATH", path);
        shell.env("PILOT_HOME", &self.home.path).env("PILOT_LISTEN", &self.listen);
        shell.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let mut shell = shell.process_group(0).spawn().unwrap();
        wait_at_most(BLOCK_MAX, script, || shell.try_wait().unwrap().is_some());
        let printed = fs::read_to_string(&output).unwrap();
        assert!(shell.wait().unwrap().success(), "{script}\n{printed}");
        self.shells.push(shell);
        printed
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for shell in &self.shells {
            let group = format!("-{}", shell.id());
            let mut kill = Command::new("kill");
            let _ = kill.args(["-9", "--", &group]).stderr(Stdio::null()).status();
        }
    }
}

/// An address of loopback whose UDP and TCP ports nobody has.
fn free() -> String {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = udp.local_addr().unwrap();
        if TcpListener::bind(at).is_ok() {
            return at.to_string();
        }
    }
}

#[test]
fn the_walk_through_of_the_readme_works_word_for_word() {
    let mut story = Story::begin("readme", Duration::from_secs(180));
    let readme = include_str!("../../README.md");
    let (registry, beacon, endpoint) = (free(), free(), free());
    let places =
        [(SERVER, ""), ("AWS", &*endpoint), ("GCP", "127.0.0.1:0"), ("Azure", "127.0.0.1:0")];
    let mut machines: BTreeMap<&str, Machine> =
        places.map(|(place, listen)| (place, Machine::new(listen.to_owned()))).into();
    fs::write(machines["AWS"].desk.join("dataset.csv"), "a,row\n".repeat(1000)).unwrap();
    let store = machines[SERVER].desk.display().to_string();
    let filled = |script: &str| {
        script
            .replace("0.0.0.0:9000", &registry)
            .replace("0.0.0.0:9001", &beacon)
            .replace("OWN_IP:4000", &endpoint)
            .replace("IP:9000", &registry)
            .replace("IP:9001", &beacon)
            .replace("/var/lib/pilot", &store)
    };
    // What each of them must have printed, and what a person waits for before going on.
    let mut seen = String::new();
    let blocks = blocks(readme);
    assert_eq!(blocks.len(), 11);
    for block in &blocks {
        for place in &block.places {
            let machine = machines.get_mut(&**place).unwrap_or_else(|| panic!("{place}?"));
            if block.script.contains("trust pending") {
                let pending = || machine.home.data(&["trust", "pending"])["requests"].clone();
                wait_for("a request", || !pending().as_array().unwrap().is_empty());
            }
            let printed = machine.run(&filled(&block.script));
            seen += &printed;
            if block.script.contains("trust pending") {
                assert!(printed.contains("Cross-cloud research collaboration"), "{printed}");
                mutual(&machine.home);
            }
            story.done(&format!("{place}: {}", block.script.lines().next().unwrap()));
        }
    }
    // What the README says they print.
    let comments = blocks.iter().flat_map(|block| block.script.lines());
    let told = comments.filter_map(|line| line.split_once("# 1:")).map(|(_, told)| told);
    let told: Vec<&str> = told.collect();
    assert_eq!(told.len(), 2);
    for expected in told {
        assert!(seen.contains(&format!("1:{expected}\n")), "{expected}: {seen}");
    }
    for expected in
        ["\"Analyze this dataset\"", "dataset.csv", "\"1000 rows\"", "direct", ": \"1000\\n\"\n"]
    {
        assert!(seen.contains(expected), "{expected}: {seen}");
    }
    assert_eq!(machines["Azure"].home.inbox(), ["Have a look at it, too"]);
    let earned = || machines["AWS"].home.data(&["reputation", "analysis-gcp"])["earned"].clone();
    wait_for("the receipt is counted", || earned() == 1);
    story.done("the receipt is counted");
}
