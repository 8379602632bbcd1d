//! Reads the tables of `docs/attacks.md`; shared by the test that checks them and by the example
//! that takes each defence out.

#![allow(dead_code, unreachable_pub, reason = "test and example each use a part of it")]

use std::path::{Path, PathBuf};

/// The columns, exactly.
pub const HEAD: [&str; 5] = ["Row", "The attack", "The test", "The defence", "Without it"];

/// One attack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub id: String,
    pub attack: String,
    /// No tests and no defences: it cannot occur here, for the reason given.
    pub impossible: Option<String>,
    pub tests: Vec<TestName>,
    /// Each is needed by itself; one of several lines stands in several places, each of which
    /// would do.
    pub defences: Vec<Vec<Defence>>,
}

/// `package::binary::path::to::test`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TestName {
    pub package: String,
    /// `lib` for unit tests, else the name of a file in `tests/`.
    pub binary: String,
    pub modules: Vec<String>,
    pub function: String,
}

impl TestName {
    fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split("::").collect();
        let [package, binary, modules @ .., function] = &parts[..] else {
            return Err(format!("`{text}` is no package::binary::path::to::test"));
        };
        Ok(TestName {
            package: (*package).into(),
            binary: (*binary).into(),
            modules: modules.iter().map(|m| (*m).into()).collect(),
            function: (*function).into(),
        })
    }

    /// The name as libtest has it.
    pub fn path(&self) -> String {
        let function = std::iter::once(&self.function);
        self.modules.iter().chain(function).cloned().collect::<Vec<_>>().join("::")
    }
}

/// A part of one line of a file, and what to put in its place to take the defence out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Defence {
    pub file: String,
    pub line: String,
    pub without: String,
}

impl Defence {
    fn new(place: &[String], without: String) -> Self {
        Defence { file: place[0].clone(), line: place[1].clone(), without }
    }
}

/// All rows of all tables, in order.
pub fn parse(document: &str) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    let mut in_table = false;
    for (n, line) in document.lines().enumerate() {
        let at = |e: String| format!("line {}: {e}", n + 1);
        let Some(cells) = cells(line) else {
            in_table = false;
            continue;
        };
        if !in_table {
            if cells != HEAD {
                return Err(at(format!("the columns are {cells:?}")));
            }
            in_table = true;
        } else if !cells.iter().all(|cell| cell.chars().all(|c| "-: ".contains(c))) {
            rows.push(row(&cells).map_err(at)?);
        }
    }
    Ok(rows)
}

/// The cells of a table's line; `\|` is no border.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let inner = inner.replace("\\|", "\0");
    Some(inner.split('|').map(|cell| cell.trim().replace('\0', "|")).collect())
}

fn row(cells: &[String]) -> Result<Row, String> {
    let [id, attack, test, defence, without] = cells else {
        return Err(format!("{} cells instead of 5", cells.len()));
    };
    let row = Row {
        id: id.clone(),
        attack: attack.clone(),
        impossible: None,
        tests: Vec::new(),
        defences: Vec::new(),
    };
    if test == "cannot occur" {
        if without != "-" || defence.split(' ').count() < 5 {
            return Err(format!("{id} does not say why it cannot occur"));
        }
        return Ok(Row { impossible: Some(defence.clone()), ..row });
    }
    let one = |cell: &str| match spans(cell)?.as_slice() {
        [span] => Ok(span.clone()),
        _ => Err(format!("{id}: one code span is expected in: {cell}")),
    };
    let tests = test.split("<br>").map(|cell| TestName::parse(&one(cell)?));
    let tests = tests.collect::<Result<Vec<_>, _>>()?;
    let (places, replacements) = (defence.split("<br>"), without.split("<br>"));
    if places.clone().count() != replacements.clone().count() {
        return Err(format!("{id}: a replacement for each defence"));
    }
    let defences = places.zip(replacements).map(|(place, without)| {
        let (places, without) = (spans(place)?, spans(without)?);
        if without.is_empty() || places.len() != 2 * without.len() {
            return Err(format!("{id}: file, line and replacement are expected in: {place}"));
        }
        let edits = places.chunks(2).zip(without);
        Ok::<_, String>(edits.map(|(place, without)| Defence::new(place, without)).collect())
    });
    Ok(Row { tests, defences: defences.collect::<Result<Vec<_>, _>>()?, ..row })
}

/// The text between backticks.
fn spans(cell: &str) -> Result<Vec<String>, String> {
    let parts: Vec<&str> = cell.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return Err(format!("an open code span in: {cell}"));
    }
    Ok(parts.iter().skip(1).step_by(2).map(|span| (*span).to_string()).collect())
}

/// Puts the replacement in; fails unless the defence stands in exactly one line, once.
pub fn remove(text: &str, defence: &Defence) -> Result<String, String> {
    match text.matches(&defence.line).count() {
        1 if defence.without != defence.line => Ok(text.replace(&defence.line, &defence.without)),
        n => Err(format!("`{}` stands {n} times in {}", defence.line, defence.file)),
    }
}

/// The folder of a workspace package.
pub fn folder(root: &Path, package: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(root).ok()?;
    entries.filter_map(|entry| Some(entry.ok()?.path())).find(|folder| {
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
        manifest.lines().any(|line| line == format!("name = \"{package}\""))
    })
}

/// Checks that the test stands where its name says: follows the `mod` declarations from the
/// binary's root to a `fn` with a test attribute.
pub fn find(root: &Path, test: &TestName) -> Result<PathBuf, String> {
    let folder = folder(root, &test.package).ok_or(format!("no package {}", test.package))?;
    let mut file = match test.binary.as_str() {
        "lib" => folder.join("src/lib.rs"),
        "main" => folder.join("src/main.rs"),
        name => folder.join(format!("tests/{name}.rs")),
    };
    let mut below = file.parent().ok_or("a file is in a folder")?.to_path_buf();
    let read =
        |file: &Path| std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()));
    let mut text = read(&file)?;
    for module in &test.modules {
        let lines: Vec<&str> = text.lines().collect();
        let missing = || format!("no module {module} in {}", file.display());
        let (place, inline) = lines
            .iter()
            .enumerate()
            .find_map(|(place, line)| Some((place, declares(line, module)?)))
            .ok_or_else(missing)?;
        if inline {
            let indent = lines[place].len() - lines[place].trim_start().len();
            let end = format!("{}}}", " ".repeat(indent));
            let body = lines[place + 1..].iter().take_while(|line| **line != end);
            text = body.copied().collect::<Vec<_>>().join("\n");
            below = below.join(module);
            continue;
        }
        let path = attributes(&lines, place)
            .find_map(|a| a.strip_prefix("#[path = \"")?.strip_suffix("\"]"));
        let beside = file.parent().ok_or_else(missing)?;
        (file, below) = match path {
            Some(path) => (beside.join(path), beside.join(path).parent().unwrap().to_path_buf()),
            None => {
                let single = below.join(format!("{module}.rs"));
                let inner = below.join(module);
                (if single.exists() { single } else { inner.join("mod.rs") }, inner)
            }
        };
        text = read(&file)?;
    }
    let lines: Vec<&str> = text.lines().collect();
    let head = format!("fn {}(", test.function);
    let is_test = lines.iter().enumerate().any(|(place, line)| {
        let code = line.trim_start();
        let code = code.strip_prefix("async ").unwrap_or(code);
        code.starts_with(&head) && attributes(&lines, place).any(|a| a.contains("test"))
    });
    is_test.then(|| file.clone()).ok_or(format!("no test {} in {}", test.path(), file.display()))
}

/// Whether the line is `mod name;` (false) or `mod name {` (true).
fn declares(line: &str, module: &str) -> Option<bool> {
    let code = line.trim();
    let rest = code.strip_prefix("mod ").or_else(|| code.split_once(" mod ").map(|(_, r)| r))?;
    let end = rest.strip_prefix(module)?;
    (end == ";" || end == " {").then_some(end == " {")
}

/// The attributes right above a line.
fn attributes<'t>(lines: &'t [&str], place: usize) -> impl Iterator<Item = &'t str> {
    let above = lines[..place].iter().rev().map(|line| line.trim());
    above.take_while(|line| line.starts_with("#[") || line.starts_with("//"))
}
