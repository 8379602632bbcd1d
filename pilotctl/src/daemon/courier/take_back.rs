//! Takes back what waits, or is on its way.

use super::{Means, carry};
use crate::services::outbox::{Item, ItemState};
use pilot_core::service::exchange::TransferId;
use std::io;
use std::sync::Arc;

/// Cancels an item; what has become of it, or nothing if it is not known. The work is done also if
/// nobody waits for it any more.
pub(crate) async fn take_back<M: Means>(
    means: &Arc<M>,
    id: TransferId,
) -> io::Result<Option<Item>> {
    let outbox = means.outbox();
    let mut changes = outbox.changes();
    loop {
        let Some(item) = outbox.find(id) else { return Ok(None) };
        if item.state.is_settled() {
            return Ok(Some(item));
        }
        let taker = Arc::clone(means);
        let settle = move || settle(&taker, &item);
        let settled = tokio::task::spawn_blocking(settle).await;
        if settled.unwrap_or_else(|e| Err(io::Error::other(e)))? {
            return Ok(outbox.find(id));
        }
        // Another has begun to settle it, tells when it is done, and may fail.
        if changes.changed().await.is_err() {
            return Ok(outbox.find(id));
        }
    }
}

/// False if another settles it.
fn settle<M: Means>(means: &Arc<M>, item: &Item) -> io::Result<bool> {
    let settled = means.outbox().settle(item.id, ItemState::Cancelled, None);
    if settled.is_err() {
        // Meanwhile nobody had anything to carry.
        carry(means, item.to);
    }
    // Sent again, the same file is a new one.
    if settled.as_ref().is_ok_and(|is_cancelled| *is_cancelled)
        && !item.kind.is_message()
        && let Err(error) = means.unfinished().end(item.id)
    {
        tracing::warn!(%error, id = %item.id, "cannot note that a file was taken back");
    }
    settled
}
