//! Writes the seed corpora anew: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`.

use pilot_fuzz::{TARGETS, seeds};
use std::path::Path;

fn main() -> std::io::Result<()> {
    for (name, _) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        std::fs::create_dir_all(&folder)?;
        let seeds = seeds::of(name);
        for (n, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(seeds::file(n)), seed)?;
        }
        println!("{name}: {} seeds", seeds.len());
    }
    Ok(())
}
