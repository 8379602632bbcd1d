//! Names the commit in `--version`; a build without git says "unknown".

use std::process::Command;

fn main() {
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=PILOT_COMMIT={commit}");
    // The reflog grows with every commit, checkout and reset; without it cargo would keep the
    // first commit it saw.
    match git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        Some(path) => println!("cargo:rerun-if-changed={path}"),
        None => println!("cargo:rerun-if-changed=build.rs"),
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
