//! Finding the registry in its files: which of them count, and in which order.
//!
//! | `P.redb` | `P.json` | `P.key` | what happens |
//! |---|---|---|---|
//! | a store | ignored | there | opened |
//! | a store | ignored | missing | refused, or a new key if asked for |
//! | fresh | there | there | imported |
//! | fresh | there | missing | refused, or imported under a new key if asked for |
//! | fresh | missing | there or missing | a new registry; the key is made if missing |
//!
//! Everything happens under the lock that the open store holds.

use crate::export::{self, ExportError};
use crate::files::Files;
use crate::key::{IfMissing, KeyError, Keys};
use crate::store::{Opened, Opener, SCHEMA, StoreError};
use pilot_core::time::UnixTime;
use std::io;
use std::path::PathBuf;

/// Why a registry could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory of the files could not be made.
    #[error("{path}: {source}")]
    Directory {
        /// The directory's files are called like this.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The secret keys.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The export that was to be imported.
    #[error(transparent)]
    Import(#[from] ExportError),
}

impl OpenError {
    /// Whether another server has the registry open (pilotctl's exit code 8).
    pub fn is_in_use(&self) -> bool {
        matches!(self, OpenError::Store(StoreError::AlreadyOpen { .. }))
    }
}

/// A registry whose files are open.
pub(crate) struct Registry {
    pub(crate) store: Opened,
    pub(crate) keys: Keys,
}

/// Opens, imports or founds the registry in `files`.
pub(crate) fn open(
    files: &Files,
    new_key: bool,
    now: UnixTime,
    opener: Opener,
) -> Result<Registry, OpenError> {
    files
        .make_directory()
        .map_err(|source| OpenError::Directory { path: files.export.clone(), source })?;
    let mut store = Opened::open(&files.store, SCHEMA, opener)?;
    let has_export = files.export.symlink_metadata().is_ok();
    let missing = match (new_key, store.is_fresh() && !has_export) {
        (true, _) => IfMissing::Replace,
        (false, true) => IfMissing::Create,
        (false, false) => IfMissing::Refuse,
    };
    let keys = Keys::load(&files.key, missing, now)?;
    if store.is_fresh() && has_export {
        store.initialise::<ExportError>(|take| export::read(&files.export, take))?;
        tracing::info!(from = %files.export.display(), "imported a registry");
    } else if store.is_fresh() {
        store.initialise::<StoreError>(|_| Ok(()))?;
        tracing::info!(store = %files.store.display(), "a new registry");
    }
    Ok(Registry { store, keys })
}
