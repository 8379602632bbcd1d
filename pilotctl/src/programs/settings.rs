//! `programs.json`: what the daemon listens on for other programs, replaced as a whole and
//! synced before a change counts.

use crate::cli::values::{AgentPort, HostPort, LocalAddr};
use crate::error::{Code, Failure};
use crate::home;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The layout of the file.
const VERSION: u32 = 1;
/// Longest file that is read: far more than the bounds on entries allow.
const BYTES_MAX: u64 = 1 << 20;

/// A lasting forward.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedForward {
    pub(super) local: LocalAddr,
    pub(super) to: AgentPort,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) network: Option<u16>,
}

/// A lasting expose.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedExpose {
    pub(super) port: u16,
    pub(super) to: HostPort,
}

/// The whole file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saved {
    pub(super) version: u32,
    #[serde(default)]
    pub(super) forwards: Vec<SavedForward>,
    #[serde(default)]
    pub(super) exposes: Vec<SavedExpose>,
    #[serde(default)]
    pub(super) proxy: Option<LocalAddr>,
}

impl Default for Saved {
    fn default() -> Self {
        Saved { version: VERSION, forwards: Vec::new(), exposes: Vec::new(), proxy: None }
    }
}

impl Saved {
    /// What the file says; nothing if there is none. A file that makes no sense is an error:
    /// it is left alone rather than forgotten.
    pub(super) fn load(path: &Path) -> Result<Saved, Failure> {
        let Some(text) = home::read_private_file(path, BYTES_MAX)? else {
            return Ok(Saved::default());
        };
        let broken = |what: String| {
            Failure::new(Code::State, format!("{} {what}", path.display()))
                .hint("correct it, or delete it to begin without forwards, exposes and proxy")
        };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |e: serde_json::Error| broken(format!("is damaged: {e}"));
        let Version { version } = serde_json::from_slice(&text).map_err(damaged)?;
        if version != VERSION {
            return Err(broken(format!("has version {version}, this program knows {VERSION}")));
        }
        serde_json::from_slice(&text).map_err(damaged)
    }

    /// Makes it last; on disk when this returns. Blocks.
    pub(super) fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
        home::replace_private_file(path, (text + "\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_last_and_what_makes_no_sense_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("programs.json");
        assert_eq!(Saved::load(&path).unwrap(), Saved::default());
        let saved = Saved {
            forwards: vec![SavedForward {
                local: "8080".parse().unwrap(),
                to: "analysis-gcp:80".parse().unwrap(),
                network: Some(1),
            }],
            exposes: vec![SavedExpose { port: 80, to: "localhost:3000".parse().unwrap() }],
            proxy: Some("[::1]:1080".parse().unwrap()),
            ..Saved::default()
        };
        saved.save(&path).unwrap();
        saved.save(&path).unwrap();
        assert_eq!(Saved::load(&path).unwrap(), saved);
        for (text, word) in [
            ("", "damaged"),
            ("{\"version\":1,\"other\":2}", "other"),
            ("{\"version\":1,\"exposes\":[{\"port\":70000,\"to\":\"a:1\"}]}", "70000"),
            ("{\"version\":2,\"other\":2}", "version 2"),
        ] {
            home::replace_private_file(&path, text.as_bytes()).unwrap();
            let failure = Saved::load(&path).unwrap_err();
            assert_eq!(failure.code, Code::State);
            assert!(failure.message.contains(word), "{}", failure.message);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
