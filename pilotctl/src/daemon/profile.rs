//! What this home has told the registry about its agent, and the registry's key: so that
//! `info` can show it without asking, also offline. The registry has the truth; after a
//! takeover by another home this may be older.

use crate::error::Failure;
use crate::home;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// The layout of the file.
const SCHEMA: u32 = 1;
/// Longest file that is read.
const BYTES_MAX: u64 = 256 * 1024;

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    schema: u32,
    /// Networks joined.
    pub(crate) networks: BTreeSet<u16>,
    /// Hostnames by network.
    pub(crate) hostnames: BTreeMap<u16, String>,
    pub(crate) tags: Vec<String>,
    /// `public` or `private`; at first an agent is private.
    pub(crate) visibility: Option<String>,
    /// The registry's key in base32.
    pub(crate) registry_key: Option<String>,
}

/// The file `profile.json` of a home.
pub(crate) struct Profile {
    path: PathBuf,
    facts: Mutex<Facts>,
}

impl Profile {
    /// Reads the file. One that is damaged or of another schema is begun anew: nothing but
    /// what `info` shows depends on it.
    pub(crate) fn open(path: &Path) -> Result<Profile, Failure> {
        let content = home::read_private_file(path, BYTES_MAX)?;
        let facts = content
            .and_then(|content| serde_json::from_slice::<Facts>(&content).ok())
            .filter(|facts| facts.schema == SCHEMA)
            .unwrap_or(Facts { schema: SCHEMA, ..Facts::default() });
        Ok(Profile { path: path.to_owned(), facts: Mutex::new(facts) })
    }

    /// What is known.
    pub(crate) fn facts(&self) -> Facts {
        self.lock().clone()
    }

    /// Changes it and writes it down. That it could not be written is not worth failing a
    /// command whose effect is real.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.lock();
        let before = facts.clone();
        change(&mut facts);
        if *facts == before {
            return;
        }
        let text = serde_json::to_vec_pretty(&*facts).unwrap_or_default();
        if let Err(error) = home::replace_private_file(&self.path, &text) {
            tracing::warn!(%error, "cannot note what `info` shows");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_and_a_damaged_file_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.json");
        let profile = Profile::open(&path).unwrap();
        profile.update(|facts| {
            facts.networks.insert(1);
            facts.hostnames.insert(1, "research-aws".to_owned());
        });
        let facts = Profile::open(&path).unwrap().facts();
        assert_eq!(facts, profile.facts());
        assert_eq!(facts.hostnames[&1], "research-aws");
        home::replace_private_file(&path, b"{\"schema\": 1,").unwrap();
        assert!(Profile::open(&path).unwrap().facts().networks.is_empty());
    }
}
