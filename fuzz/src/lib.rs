//! Fuzz targets over `pilot-core`: one module a target, each with `run(data)` and an oracle.
//! `README.md` has the table of them and says how to run a campaign.
//!
//! Nothing here needs libFuzzer: the committed corpora are replayed by `cargo test`, and the
//! example `mutate` runs any target on a stable toolchain.

#![forbid(unsafe_code)]

// What the targets are made of.
pub mod actor;
pub mod lab;
pub mod outpost;
#[path = "../../core/tests/support/pair.rs"]
mod pair;
pub mod stage;
pub mod tape;

// The targets.
pub mod beacon_client;
pub mod beacon_session;
pub mod demux_node;
pub mod demux_rendezvous;
pub mod events;
pub mod exchange;
pub mod handshake_init;
pub mod handshake_resp;
pub mod header;
pub mod messages;
pub mod punch;
pub mod records;
pub mod registry_open;
pub mod registry_session;
pub mod session;
pub mod streams;
pub mod stun;
pub mod talk;
pub mod tasks;
pub mod tree;

pub mod seeds;

/// A target: its name, as in `fuzz_targets/` and `corpus/`, and what runs one input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("beacon_client", beacon_client::run),
    ("beacon_session", beacon_session::run),
    ("demux_node", demux_node::run),
    ("demux_rendezvous", demux_rendezvous::run),
    ("events", events::run),
    ("exchange", exchange::run),
    ("handshake_init", handshake_init::run),
    ("handshake_resp", handshake_resp::run),
    ("header", header::run),
    ("messages", messages::run),
    ("punch", punch::run),
    ("records", records::run),
    ("registry_open", registry_open::run),
    ("registry_session", registry_session::run),
    ("session", session::run),
    ("streams", streams::run),
    ("stun", stun::run),
    ("talk", talk::run),
    ("tasks", tasks::run),
    ("tree", tree::run),
];

/// The files of a folder with their content, in the order of their names; none if there is no
/// such folder.
pub fn inputs(folder: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(&path).expect("a readable file");
            (path, bytes)
        })
        .collect()
}
