//! Keeps the readable export up to date, off the commit path.

use crate::commit::Store;
use crate::export::{self, ExportError};
use pilot_core::crypto::identity::IdentityKey;
use pilot_core::time::Duration;
use pilot_tokio::Clock;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

pub(crate) struct Exporter {
    pub(crate) store: Arc<Store>,
    pub(crate) path: PathBuf,
    pub(crate) registry: IdentityKey,
    pub(crate) clock: Clock,
    /// [`Store::transactions`] at the last export of this run; also keeps two exports from
    /// writing at the same time.
    exported: Mutex<Option<u64>>,
}

impl Exporter {
    pub(crate) fn new(
        store: Arc<Store>,
        path: PathBuf,
        registry: IdentityKey,
        clock: Clock,
    ) -> Self {
        Exporter { store, path, registry, clock, exported: Mutex::new(None) }
    }

    /// Writes the export; blocks. With `if_changed`, only if the store changed since the last
    /// one, or none is known of.
    fn write(&self, if_changed: bool) -> Result<(), ExportError> {
        let mut exported = self.exported.lock().unwrap();
        // Read before the snapshot is taken: what is committed in between is exported twice.
        let transactions = self.store.transactions();
        if if_changed && *exported == Some(transactions) && self.path.exists() {
            return Ok(());
        }
        let snapshot = self.store.snapshot()?;
        export::write(&self.path, &snapshot, &self.registry, self.clock.unix().as_secs())?;
        *exported = Some(transactions);
        tracing::debug!(path = %self.path.display(), "exported the registry");
        Ok(())
    }

    /// Writes the export on a thread for blocking work.
    pub(crate) async fn export(self: &Arc<Self>, if_changed: bool) -> Result<(), ExportError> {
        let this = Arc::clone(self);
        match tokio::task::spawn_blocking(move || this.write(if_changed)).await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Exports every `interval` at most, while the store changes. An export that takes long is
    /// followed by a longer pause, so that it never uses more than a tenth of a core.
    pub(crate) async fn run(self: Arc<Self>, interval: Duration) {
        let mut pause = interval;
        loop {
            tokio::time::sleep(pause).await;
            let begun = tokio::time::Instant::now();
            if let Err(error) = self.export(true).await {
                tracing::warn!(%error, "the registry could not be exported");
            }
            pause = interval.max(begun.elapsed() * 9);
        }
    }
}
