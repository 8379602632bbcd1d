//! Runs one target on the given files: `one TARGET FILE...`; for looking at a failure.

use pilot_fuzz::TARGETS;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().expect("usage: one TARGET FILE...");
    let (_, run) = TARGETS.iter().find(|(n, _)| *n == name).expect("no such target");
    for file in arguments {
        run(&std::fs::read(&file).expect("a readable file"));
    }
}
