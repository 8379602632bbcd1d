//! Group commit, sans-IO: changes gather while a commit is under way; who waits for an answer
//! waits for the commit that holds all changes made up to then.
//!
//! | State | `poll_commit` | `handle_commit` |
//! |---|---|---|
//! | nothing gathered | `None` | – |
//! | changes gathered, none under way | the commit → under way | – |
//! | under way | `None`, changes gather | ok: waiters answered · error: its changes go back under the gathered ones, waiters are refused, next try after [`RETRY`] |

use super::rows::{Change, Table};
use crate::time::{Duration, Instant};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Pause after a failed commit.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// Changes to store in one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    /// For [`handle_commit`](crate::rendezvous::Rendezvous::handle_commit); rises by one.
    pub id: u64,
    /// One change per row at most, in the order of table and key.
    pub changes: Vec<Change>,
}

#[derive(Debug)]
pub(crate) struct CommitQueue {
    gathered: BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>,
    under_way: Option<Commit>,
    next: u64,
    not_before: Instant,
}

impl CommitQueue {
    pub(crate) fn new() -> Self {
        CommitQueue {
            gathered: BTreeMap::new(),
            under_way: None,
            next: 1,
            not_before: Instant::START,
        }
    }

    pub(crate) fn add(&mut self, change: Change) {
        self.gathered.insert((change.table, change.key), change.value);
    }

    /// Changes that no commit holds yet.
    pub(crate) fn gathered(&self) -> usize {
        self.gathered.len()
    }

    /// The commit after which all that was added is durable; `None`: it is already.
    pub(crate) fn ticket(&self) -> Option<u64> {
        if !self.gathered.is_empty() {
            return Some(self.next);
        }
        self.under_way.as_ref().map(|commit| commit.id)
    }

    pub(crate) fn poll(&mut self, now: Instant) -> Option<Commit> {
        if self.under_way.is_some() || self.gathered.is_empty() || now < self.not_before {
            return None;
        }
        let changes = core::mem::take(&mut self.gathered)
            .into_iter()
            .map(|((table, key), value)| Change { table, key, value })
            .collect();
        let commit = Commit { id: self.next, changes };
        self.next += 1;
        self.under_way = Some(commit.clone());
        Some(commit)
    }

    /// Whether `id` was under way; on failure its changes will be tried again.
    pub(crate) fn finish(&mut self, now: Instant, id: u64, stored: bool) -> bool {
        match self.under_way.take_if(|commit| commit.id == id) {
            None => return false,
            Some(_) if stored => {}
            Some(commit) => {
                for change in commit.changes {
                    self.gathered.entry((change.table, change.key)).or_insert(change.value);
                }
                self.not_before = now + RETRY;
            }
        }
        true
    }

    /// When [`CommitQueue::poll`] will have something, if it is only time that is missing.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        (self.under_way.is_none() && !self.gathered.is_empty()).then_some(self.not_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: u8, value: Option<u8>) -> Change {
        Change { table: Table::Asked, key: alloc::vec![key], value: value.map(|v| alloc::vec![v]) }
    }

    #[test]
    fn changes_gather_while_a_commit_is_under_way() {
        let now = Instant::START;
        let mut queue = CommitQueue::new();
        assert_eq!((queue.poll(now), queue.ticket()), (None, None));
        queue.add(change(1, Some(1)));
        queue.add(change(1, Some(2)));
        assert_eq!(queue.ticket(), Some(1));
        let first = queue.poll(now).unwrap();
        assert_eq!(first.changes, [change(1, Some(2))]);
        assert_eq!(queue.ticket(), Some(1));
        queue.add(change(2, Some(1)));
        assert_eq!((queue.poll(now), queue.ticket()), (None, Some(2)));
        assert!(!queue.finish(now, 7, true));
        assert!(queue.finish(now, 1, true));
        assert!(!queue.finish(now, 1, true));
        assert_eq!(queue.poll(now).unwrap().id, 2);
    }

    #[test]
    fn a_failed_commit_is_tried_again_under_what_came_later() {
        let now = Instant::START;
        let mut queue = CommitQueue::new();
        queue.add(change(1, Some(1)));
        queue.add(change(2, Some(1)));
        let commit = queue.poll(now).unwrap();
        queue.add(change(1, None));
        assert!(queue.finish(now, commit.id, false));
        assert_eq!(queue.poll(now), None);
        assert_eq!(queue.next_at(), Some(now + RETRY));
        let again = queue.poll(now + RETRY).unwrap();
        assert_eq!(again.changes, [change(1, None), change(2, Some(1))]);
    }
}
