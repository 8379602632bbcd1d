//! `docs/attacks.md` says for each attack which test makes it and which line stops it; here the
//! document is held to the code. That the tests fail without these lines is shown by
//! `cargo run -p pilot-core --example defences`.

#[path = "support/attack_table.rs"]
mod attack_table;

use attack_table::{Defence, Row, TestName, find, parse, remove};
use std::path::Path;

/// The rows that there must be, by the heading above them.
const SECTIONS: &[(&str, &[&str])] = &[
    (
        "Tunnel",
        &[
            "W-C1", "W-C2", "W-C3", "W-C4", "W-C5", "W-C6", "W-C7", "W-C8", "W-C9", "W-C10",
            "W-C11", "W-C12", "W-C13", "W-C14", "W-C15", "W-C16", "W-C17", "W-C18",
        ],
    ),
    (
        "Streams",
        &[
            "W-T1", "W-T2", "W-T3", "W-T4", "W-T5", "W-T6", "W-T7", "W-T8", "W-T9", "W-T10",
            "W-T11", "W-T12", "W-T13", "W-T14", "W-T15", "W-T16", "W-T17", "W-T18",
        ],
    ),
    ("Registry", &["W-R1", "W-R2", "W-R3", "W-R4", "W-R5", "W-R6", "W-R7", "W-R8"]),
    ("Beacon", &["W-B1", "W-B2", "W-B3", "W-B6"]),
    ("Trust", &["W-H1", "W-H2", "W-H3", "W-H4", "W-H5", "W-H6", "W-H7", "W-H8"]),
    (
        "Services",
        &["W-X1", "W-X2", "W-X3", "W-X4", "W-X5", "W-X6", "W-X7", "W-X9", "W-X10", "W-X11"],
    ),
    ("Local API", &["W-I1", "W-I2", "W-I3", "W-I4", "W-I5", "W-I6", "W-I7", "W-I8", "W-I9"]),
];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn document() -> String {
    std::fs::read_to_string(root().join("docs/attacks.md")).expect("the document is there")
}

fn rows() -> Vec<Row> {
    parse(&document()).unwrap_or_else(|e| panic!("docs/attacks.md, {e}"))
}

#[test]
fn every_attack_has_its_row_in_its_section() {
    let document = document();
    let mut all = Vec::new();
    for (section, expected) in SECTIONS {
        let heading = format!("\n## {section}\n");
        let (_, after) = document.split_once(&heading).expect("each section is there");
        let own = after.split("\n## ").next().unwrap_or_default();
        let rows = parse(own).unwrap_or_else(|e| panic!("{section}, {e}"));
        let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(ids, *expected, "{section}");
        all.extend(rows);
    }
    assert_eq!(all, rows(), "no rows elsewhere");
}

#[test]
fn every_named_test_exists() {
    let mut wrong = Vec::new();
    for row in rows() {
        assert!(row.impossible.is_some() || !row.tests.is_empty(), "{} has no test", row.id);
        for test in &row.tests {
            if let Err(e) = find(root(), test) {
                wrong.push(format!("{}: {e}", row.id));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_defence_stands_in_its_file_once() {
    let mut wrong = Vec::new();
    for row in rows() {
        assert!(row.impossible.is_some() || !row.defences.is_empty(), "{} has none", row.id);
        for defence in row.defences.iter().flatten() {
            let text = std::fs::read_to_string(root().join(&defence.file));
            let removed = text.map_err(|e| e.to_string()).and_then(|t| remove(&t, defence));
            if let Err(e) = removed {
                wrong.push(format!("{}: {e}", row.id));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The checks above can fail.
#[test]
fn a_wrong_table_is_refused() {
    let head =
        "| Row | The attack | The test | The defence | Without it |\n|---|---|---|---|---|\n";
    let one = |row: &str| parse(&format!("{head}{row}\n"));
    let good =
        one("| W-1 | It. | `p::lib::a::t` | `f.rs`: `if a \\| b {` | `if true {` |").unwrap();
    assert_eq!(good.len(), 1);
    assert_eq!(good[0].tests[0].path(), "a::t");
    assert_eq!(good[0].defences[0][0].line, "if a | b {");
    let two = "| W-1 | It. | `p::lib::t` | `f.rs`: `a` and `g.rs`: `b`<br>`f.rs`: `c` | `d` and `e`<br>`g` |";
    let two = one(two).unwrap();
    assert_eq!(two[0].defences.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    assert_eq!((&*two[0].defences[0][1].file, &*two[0].defences[0][1].without), ("g.rs", "e"));
    for bad in [
        "| W-1 | It. | t | `f.rs`: `a` | `b` |",
        "| W-1 | It. | `t` | `f.rs`: `a` | `b` |",
        "| W-1 | It. | `p::lib::t` | `f.rs` | `b` |",
        "| W-1 | It. | `p::lib::t` | `f.rs`: `a` | - |",
        "| W-1 | It. | `p::lib::t` | `f.rs`: `a`<br>`f.rs`: `b` | `b` |",
        "| W-1 | It. | `p::lib::t` | `f.rs`: `a` and `g.rs`: `b` | `c` |",
        "| W-1 | It. | `p::lib::t` | `f.rs`: `a` |",
        "| W-1 | It. | cannot occur | - | - |",
    ] {
        assert!(one(bad).is_err(), "{bad}");
    }
    assert!(parse("| Row | Test |\n|---|---|\n").is_err());
    let test = |package: &str, binary: &str, modules: &[&str], function: &str| TestName {
        package: package.into(),
        binary: binary.into(),
        modules: modules.iter().map(|m| (*m).into()).collect(),
        function: function.into(),
    };
    let (core, deep) = ("pilot-core", ["session", "slots", "tests"]);
    let named = "a_higher_generation_wins_and_the_displaced_still_receives";
    assert!(find(root(), &test(core, "lib", &deep, named)).is_ok());
    assert!(find(root(), &test(core, "lib", &["session", "keys", "tests"], named)).is_err());
    assert!(find(root(), &test(core, "lib", &["session", "slot", "tests"], named)).is_err());
    assert!(find(root(), &test(core, "house", &[], named)).is_err());
    assert!(find(root(), &test("pilot", "lib", &deep, named)).is_err());
    // A function, but no test.
    assert!(find(root(), &test(core, "attack_rows", &[], "document")).is_err());
    let defence =
        |line: &str| Defence { file: String::new(), line: line.into(), without: "-".into() };
    assert_eq!(remove("a\nb\n", &defence("a")).unwrap(), "-\nb\n");
    assert!(remove("a\na\n", &defence("a")).is_err());
    assert!(remove("a\nb\n", &defence("c")).is_err());
    assert!(remove("-", &defence("-")).is_err(), "which changes nothing");
}
