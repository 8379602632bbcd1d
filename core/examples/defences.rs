//! Shows that the tests named in `docs/attacks.md` notice when the defences named there are
//! taken out: in a copy of the tree, each defence is replaced in turn and the row's tests run.
//!
//! ```text
//! cargo run -p pilot-core --example defences [ROW…]
//! ```
//!
//! Prints a line for each row. `bites`: without any one of the row's defences at least one of
//! its tests fails, and each of its tests fails without at least one of them. Exits with an
//! error unless all rows do.

#![allow(missing_docs, reason = "a program")]
#![allow(clippy::disallowed_methods, reason = "it waits for other programs, by the real clock")]

#[path = "../tests/support/attack_table.rs"]
mod attack_table;

use attack_table::{Defence, Row, TestName, folder, parse, remove};
use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// A test that runs longer has failed: it hangs.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// A copy of the tree, with a target folder of its own that later runs find again.
struct Copy {
    root: PathBuf,
    target: PathBuf,
}

/// What is wrong with a row.
enum Wrong {
    /// The tests fail as the code stands.
    FailsAlready(String),
    /// Nothing fails without the defence, or the test without any.
    Survives(String),
    DoesNotCompile(String),
    BadRow(String),
}

fn main() -> ExitCode {
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let document = fs::read_to_string(source.join("docs/attacks.md")).expect("docs/attacks.md");
    let mut rows = parse(&document).unwrap_or_else(|e| panic!("docs/attacks.md, {e}"));
    let named: BTreeSet<String> = std::env::args().skip(1).collect();
    if !named.is_empty() {
        rows.retain(|row| named.contains(&row.id));
        assert_eq!(rows.len(), named.len(), "no such row");
    }
    let copy = Copy::new(source);
    // First all of them as the code stands, then without: half as much to build.
    let genuine: Vec<_> = rows.iter().map(|row| copy.stands(row)).collect();
    let mut all_bite = true;
    for (row, genuine) in rows.iter().zip(genuine) {
        let verdict = match (&row.impossible, genuine.and_then(|()| copy.judge(row))) {
            (Some(_), _) => "cannot occur".to_string(),
            (None, Ok(())) => "bites".to_string(),
            (None, Err(wrong)) => {
                all_bite = false;
                match wrong {
                    Wrong::FailsAlready(what) => format!("FAILS ALREADY: {what}"),
                    Wrong::Survives(what) => format!("SURVIVES: {what}"),
                    Wrong::DoesNotCompile(what) => format!("does not compile: {what}"),
                    Wrong::BadRow(what) => format!("does not fit the code: {what}"),
                }
            }
        };
        println!("{:<6} {verdict}", row.id);
    }
    if all_bite { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Copy {
    /// Copies the tracked files as they are in the working tree. Files that are the same already
    /// keep their times, so that cargo builds only what changed.
    fn new(source: &Path) -> Copy {
        let listed = Command::new("git").arg("ls-files").current_dir(source).output();
        let listed = listed.expect("git lists the tracked files");
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        // This program is target/debug/examples/defences.
        let program = std::env::current_exe().expect("a program has a path");
        let target = program.ancestors().nth(3).expect("it lies in the target folder");
        let base = target.join("defences");
        let copy = Copy { root: base.join("tree"), target: base.join("target") };
        let files = String::from_utf8(listed.stdout).expect("names in UTF-8");
        let files: BTreeSet<&str> = files.lines().collect();
        let mut stale = Vec::new();
        list(&copy.root, &mut stale);
        for file in stale {
            let name = file.strip_prefix(&copy.root).expect("inside").to_string_lossy();
            if !files.contains(&*name) {
                fs::remove_file(&file).expect("a stale file goes");
            }
        }
        for file in files {
            // A tracked file that was deleted is not part of the working tree.
            let Ok(bytes) = fs::read(source.join(file)) else { continue };
            let to = copy.root.join(file);
            if fs::read(&to).is_ok_and(|there| there == bytes) {
                continue;
            }
            fs::create_dir_all(to.parent().expect("inside the tree")).expect("a folder");
            fs::write(to, bytes).expect("a copy");
        }
        copy
    }

    /// All of the row's tests pass with its defences in place.
    fn stands(&self, row: &Row) -> Result<(), Wrong> {
        match self.failing(row)?.first() {
            Some(test) => Err(Wrong::FailsAlready(test.path())),
            None => Ok(()),
        }
    }

    fn judge(&self, row: &Row) -> Result<(), Wrong> {
        let mut noticed = BTreeSet::new();
        for places in &row.defences {
            let mut genuine = BTreeMap::new();
            let edited = places.iter().try_for_each(|place| self.edit(place, &mut genuine));
            let failing = edited.and_then(|()| self.failing(row));
            for (file, text) in genuine {
                fs::write(file, text).expect("the copy is ours");
            }
            let failing = failing?;
            if failing.is_empty() {
                return Err(Wrong::Survives(format!("no test needs `{}`", places[0].line)));
            }
            noticed.extend(failing);
        }
        match row.tests.iter().find(|test| !noticed.contains(test)) {
            Some(test) => Err(Wrong::Survives(format!("{} needs none of them", test.path()))),
            None => Ok(()),
        }
    }

    /// Puts one replacement in; keeps the text that was there first.
    fn edit(&self, place: &Defence, genuine: &mut BTreeMap<PathBuf, String>) -> Result<(), Wrong> {
        let file = self.root.join(&place.file);
        let text =
            fs::read_to_string(&file).map_err(|e| Wrong::BadRow(format!("{}: {e}", place.file)))?;
        let without = remove(&text, place).map_err(Wrong::BadRow)?;
        genuine.entry(file.clone()).or_insert(text);
        fs::write(file, without).expect("the copy is ours");
        Ok(())
    }

    /// The row's tests that fail with the copy as it stands.
    fn failing<'r>(&self, row: &'r Row) -> Result<Vec<&'r TestName>, Wrong> {
        let mut programs: BTreeMap<(&str, &str), PathBuf> = BTreeMap::new();
        let mut failing = Vec::new();
        for test in &row.tests {
            let key = (test.package.as_str(), test.binary.as_str());
            let program = match programs.entry(key) {
                Entry::Occupied(built) => built.into_mut(),
                Entry::Vacant(place) => place.insert(self.build(test)?),
            };
            if !self.passes(program, test) {
                failing.push(test);
            }
        }
        Ok(failing)
    }

    /// Builds the program that the test is in.
    fn build(&self, test: &TestName) -> Result<PathBuf, Wrong> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.current_dir(&self.root).args(["test", "--no-run", "-p", &test.package]);
        match test.binary.as_str() {
            "lib" => cargo.arg("--lib"),
            "main" => cargo.arg("--bins"),
            name => cargo.args(["--test", name]),
        };
        // What only the defence used may be unused without it.
        cargo.env("RUSTFLAGS", "--cap-lints=warn");
        let output = cargo.arg("--target-dir").arg(&self.target).output().expect("cargo runs");
        let told = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let error = told.lines().find(|line| line.starts_with("error"));
            return Err(Wrong::DoesNotCompile(error.unwrap_or("cargo failed").into()));
        }
        // "Executable unittests src/lib.rs (path)"
        let named = told.lines().find_map(|line| {
            let line = line.trim_start().strip_prefix("Executable ")?;
            Some(line.rsplit_once('(')?.1.trim_end_matches(')').to_string())
        });
        Ok(self.root.join(named.expect("cargo names the program")))
    }

    /// Runs one test in a process group of its own, for at most the time limit.
    fn passes(&self, program: &Path, test: &TestName) -> bool {
        let mut command = Command::new(program);
        command.args(["--exact", &test.path()]);
        command.current_dir(folder(&self.root, &test.package).expect("the package was built"));
        let said = self.target.join("said");
        let file = fs::File::create(&said).expect("the target folder is ours");
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(file);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().expect("the test runs");
        let begin = Instant::now();
        let passed = loop {
            match child.try_wait().expect("our child") {
                Some(status) => break status.success(),
                None if begin.elapsed() > TIME_LIMIT => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break false;
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        // Whatever it has started and not ended.
        #[cfg(unix)]
        let _ = Command::new("kill")
            .args(["-KILL", "--", &format!("-{}", child.id())])
            .stderr(Stdio::null())
            .status();
        // A name that fits no test would pass, too.
        passed && fs::read_to_string(said).is_ok_and(|text| text.contains(" 1 passed"))
    }
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => list(&path, files),
            path => files.push(path),
        }
    }
}
