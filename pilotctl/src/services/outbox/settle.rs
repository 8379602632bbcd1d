//! How an attempt with an item ends: it waits again, or it is done with.

use super::{Item, ItemState, Outbox, Reason, SETTLED_MAX, disk, record};
use pilot_core::service::exchange::TransferId;
use std::io::{self, Write as _};
use std::sync::PoisonError;

/// What becomes of an item.
#[derive(Clone, Debug)]
pub(crate) struct Settling {
    pub(crate) id: TransferId,
    pub(crate) outcome: ItemState,
    pub(crate) reason: Option<Reason>,
}

impl Outbox {
    /// An attempt has ended without an outcome.
    pub(crate) fn put_back(&self, id: TransferId, reason: Reason) {
        let mut state = self.state();
        if let Some(waiting) = state.find_mut(id) {
            waiting.item.state = ItemState::Queued;
            if waiting.item.kind.is_message() {
                // It holds for all that wait behind it.
                let peer = waiting.item.to.on_backbone();
                state.peers.entry(peer).or_default().failing = Some(reason);
            } else {
                waiting.item.reason = Some(reason);
            }
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// Attempts with messages have ended without an outcome and without a reason: the next follows
    /// at once.
    pub(crate) fn put_back_all(&self, ids: impl IntoIterator<Item = TransferId>) {
        let mut state = self.state();
        for id in ids {
            if let Some(waiting) = state.find_mut(id) {
                waiting.item.state = ItemState::Queued;
            }
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// An item is done with. False if it was before, or is just being settled otherwise.
    pub(crate) fn settle(
        &self,
        id: TransferId,
        outcome: ItemState,
        reason: Option<Reason>,
    ) -> io::Result<bool> {
        Ok(self.settle_all(vec![Settling { id, outcome, reason }])? > 0)
    }

    /// The same of several; how many. Where it fails, those that it fails for wait again.
    pub(crate) fn settle_all(&self, settling: Vec<Settling>) -> io::Result<usize> {
        let mut items = Vec::with_capacity(settling.len());
        {
            let mut state = self.state();
            for Settling { id, outcome, reason } in settling {
                let Some(waiting) = state.find_mut(id).filter(|w| !w.is_settling) else { continue };
                waiting.is_settling = true;
                let settled_us = Some(disk::unix_micros());
                let item = waiting.item.clone();
                items.push(Item { state: outcome, reason, settled_us, ..item });
            }
        }
        if items.is_empty() {
            return Ok(0);
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        // Without its line it is forgotten; what must not fail is that it goes.
        if let Err(error) = self.note(&mut lines, &items) {
            tracing::warn!(%error, "cannot note what became of {} items", items.len());
        }
        let (messages, files): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|item| item.kind.is_message());
        let orders: Vec<_> = messages.iter().map(|item| item.created_us).collect();
        let may_return = messages.iter().all(|item| item.state == ItemState::Delivered);
        let removed = self.segments.remove(&orders, !may_return);
        // If it has failed, some of them may be gone nevertheless.
        let (mut failed, mut settled): (Vec<_>, Vec<_>) =
            messages.into_iter().partition(|item| self.segments.contains(item.created_us));
        let mut outcome = removed.map(|()| settled.len());
        for item in files {
            match self.remove_file(&item) {
                Ok(()) => {
                    outcome = outcome.map(|settled| settled + 1);
                    settled.push(item);
                }
                Err(e) => {
                    outcome = Err(e);
                    failed.push(item);
                }
            }
        }
        let mut state = self.state();
        settled.into_iter().for_each(|item| state.settle(item));
        for item in failed {
            if let Some(waiting) = state.find_mut(item.id) {
                (waiting.is_settling, waiting.item.state) = (false, ItemState::Queued);
            }
        }
        drop((state, lines));
        self.changed.send_replace(());
        outcome
    }

    /// Removes a file and its line.
    fn remove_file(&self, item: &Item) -> io::Result<()> {
        let path = self.dir.join(record::file_name(item));
        match std::fs::remove_file(&path) {
            Ok(()) => {
                // One that stays is removed at the next start.
                let _ = std::fs::remove_file(path.with_extension("data"));
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Appends lines, or writes the file anew with what is remembered.
    fn note(&self, lines: &mut usize, items: &[Item]) -> io::Result<()> {
        let path = self.dir.join("settled");
        let text = items.iter().map(record::settled_line).collect::<io::Result<Vec<_>>>()?.concat();
        if *lines >= 2 * SETTLED_MAX {
            let settled = self.state().settled.clone();
            let all = settled.iter().map(record::settled_line).collect::<io::Result<Vec<_>>>()?;
            disk::replace(&path, &[&all.concat(), &text], true)?;
            *lines = settled.len() + items.len();
            return Ok(());
        }
        let mut file = disk::open_append(&path)?;
        // A line that a crash or a full disk has cut must not swallow the next one.
        if !disk::ends_in_newline(&file)? {
            file.write_all(b"\n")?;
        }
        file.write_all(&text)?;
        // One that was delivered may go out again after a power loss: the receiver knows it. What
        // was taken back or given up must not.
        if items.iter().any(|item| item.state != ItemState::Delivered) {
            file.sync_all()?;
        }
        *lines += items.len();
        Ok(())
    }
}
