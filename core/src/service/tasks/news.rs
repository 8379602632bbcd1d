//! What has become of tasks by others' doing, for an application that waits for work or results.

use super::Verdict;
use super::board::Board;
use super::signer::Signer;
use super::task::{Party, Task};
use crate::crypto::task::{Receipt, Side, State, Step, TaskId};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use core::mem;

/// What an application is told of a task. Of several steps that came together it hears the last.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "it lives for one call")]
pub enum What {
    /// Worker: a peer wants this done. Accept or decline it within 60 s.
    Submitted,
    /// Submitter: the worker will do it.
    Accepted,
    /// Submitter: the worker has begun.
    Started,
    /// Submitter: the newest word about how far it is, of the worker: **hostile text**.
    Progress(String),
    /// Submitter: done, with a result.
    Succeeded,
    /// Submitter: the worker will not do it, for a reason.
    Declined,
    /// Submitter: the worker has given it up, for a reason.
    Failed,
    /// Called off by the submitter, and in force; or nobody has answered within 60 s.
    Cancelled,
    /// It was an hour at the head of the worker's queue.
    Expired,
    /// The other side does not have it, and never will: why.
    Refused(Verdict),
    /// It is receipted by both sides.
    Receipted(Receipt),
}

/// Something that is new about a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskEvent {
    /// Which.
    pub id: TaskId,
    /// Which side of it we are.
    pub side: Side,
    /// The other side.
    pub peer: Party,
    /// What.
    pub what: What,
}

/// What was noted of a task last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    seq: u32,
    is_refused: bool,
    has_receipt: bool,
}

impl Seen {
    fn of(task: &Task) -> Seen {
        Seen {
            seq: task.last().fields.seq,
            is_refused: task.refused().is_some(),
            has_receipt: task.receipt().is_some(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    State,
    Receipt,
}

/// The news of a board, at most two of each task: nothing is lost while nobody asks, unless the
/// task itself is forgotten, and there is never more of it than there are tasks. It is told once
/// it is durable.
#[derive(Debug, Default)]
pub struct News {
    seen: BTreeMap<TaskId, Seen>,
    /// Of what is being stored.
    held: BTreeMap<Key, TaskEvent>,
    /// Tasks that are being deleted from the store.
    forgotten: BTreeSet<TaskId>,
    /// With its place in `waiting`.
    events: BTreeMap<Key, (u64, TaskEvent)>,
    /// In the order in which it is told.
    waiting: BTreeMap<u64, Key>,
    /// The next place.
    next: u64,
}

type Key = (TaskId, Kind);

fn keys(id: TaskId) -> [Key; 2] {
    [(id, Kind::State), (id, Kind::Receipt)]
}

impl News {
    /// Takes the board as it was restored. What awaits an answer of ours is news again.
    pub fn begin<S: Signer>(&mut self, board: &Board<S>) {
        for task in board.tasks() {
            self.seen.insert(task.id(), Seen::of(task));
            if task.side() == Side::Worker && task.state() == State::New {
                self.push(event(task, What::Submitted));
            }
        }
    }

    /// Notes what is new about a task that has changed and is being stored.
    pub fn note<S: Signer>(&mut self, board: &Board<S>, id: TaskId) {
        let Some(task) = board.get(id) else {
            self.seen.remove(&id);
            self.drop_held(id);
            self.forgotten.insert(id);
            return;
        };
        let now = Seen::of(task);
        let before = self.seen.insert(id, now);
        let is_new = |differs: fn(&Seen, &Seen) -> bool| match &before {
            Some(before) => differs(before, &now),
            None => true,
        };
        if is_new(|a, b| (a.seq, a.is_refused) != (b.seq, b.is_refused)) {
            self.hold(what(task).map(|what| event(task, what)));
        }
        if is_new(|a, b| a.has_receipt != b.has_receipt) {
            let receipt = task.receipt().copied().map(What::Receipted);
            self.hold(receipt.map(|what| event(task, what)));
        }
    }

    fn hold(&mut self, event: Option<TaskEvent>) {
        if let Some(event) = event {
            self.held.insert(key(&event), event);
        }
    }

    fn drop_held(&mut self, id: TaskId) {
        keys(id).iter().for_each(|key| drop(self.held.remove(key)));
    }

    /// What was noted is durable; whether there is news.
    pub fn handle_stored(&mut self) -> bool {
        for key in mem::take(&mut self.forgotten).into_iter().flat_map(keys) {
            if let Some((place, _)) = self.events.remove(&key) {
                self.waiting.remove(&place);
            }
        }
        for event in mem::take(&mut self.held).into_values() {
            self.push(event);
        }
        !self.waiting.is_empty()
    }

    /// What was noted could not be stored, and these tasks were taken back on the board. The
    /// news of others waits for the commit that stores them.
    pub fn handle_not_stored<S: Signer>(
        &mut self,
        board: &Board<S>,
        ids: impl IntoIterator<Item = TaskId>,
    ) {
        for id in ids {
            self.drop_held(id);
            self.forgotten.remove(&id);
            match board.get(id) {
                Some(task) => drop(self.seen.insert(id, Seen::of(task))),
                None => drop(self.seen.remove(&id)),
            }
        }
    }

    fn push(&mut self, event: TaskEvent) {
        let key = key(&event);
        match self.events.get_mut(&key) {
            // It keeps its place.
            Some((_, before)) => *before = event,
            None => {
                self.waiting.insert(self.next, key);
                self.events.insert(key, (self.next, event));
                self.next += 1;
            }
        }
    }

    /// The oldest news that has not been told.
    pub fn poll(&mut self) -> Option<TaskEvent> {
        let (_, key) = self.waiting.pop_first()?;
        self.events.remove(&key).map(|(_, event)| event)
    }
}

fn key(event: &TaskEvent) -> Key {
    let kind = match event.what {
        What::Receipted(_) => Kind::Receipt,
        _ => Kind::State,
    };
    (event.id, kind)
}

fn event(task: &Task, what: What) -> TaskEvent {
    TaskEvent { id: task.id(), side: task.side(), peer: task.peer(), what }
}

/// What has brought a task to where it is, unless we have done it ourselves.
fn what(task: &Task) -> Option<What> {
    if let Some(verdict) = task.refused() {
        return Some(What::Refused(verdict));
    }
    let is_worker = task.side() == Side::Worker;
    Some(match task.last().fields.step {
        Step::Cancel | Step::Lapse => What::Cancelled,
        Step::Expire => What::Expired,
        Step::Submit if is_worker => What::Submitted,
        _ if is_worker => return None,
        Step::Submit => return None,
        Step::Accept => What::Accepted,
        Step::Decline => What::Declined,
        Step::Start => What::Started,
        Step::Progress => What::Progress(task.progress().into()),
        Step::Complete => What::Succeeded,
        Step::Fail => What::Failed,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, content, limited, party};
    use super::*;
    use crate::service::tasks::BoardLimits;

    #[test]
    fn there_is_never_more_news_than_tasks() {
        let mut board = limited(16, BoardLimits { settled: 50, ..BoardLimits::default() });
        let mut news = News::default();
        let ids: std::vec::Vec<_> =
            (0..1000u128).map(|n| TaskId(n.reverse_bits().to_be_bytes())).collect();
        for id in &ids {
            board.submit(*id, party(17), &content("do it"), at(0)).unwrap();
            board.act(*id, Step::Cancel, &[], at(u64::from(id.0[0]))).unwrap();
            board.take_changed().for_each(|id| news.note(&board, id));
            assert!(news.handle_stored());
            let count = board.tasks().count();
            assert!(news.events.len() <= 2 * count && news.seen.len() <= count);
            assert_eq!(news.waiting.len(), news.events.len());
        }
        assert!(news.held.is_empty() && news.forgotten.is_empty());
        let told: std::vec::Vec<_> =
            core::iter::from_fn(|| news.poll()).map(|event| event.id).collect();
        let left = ids.into_iter().filter(|id| board.get(*id).is_some());
        assert_eq!(told, left.collect::<std::vec::Vec<_>>(), "the oldest first");
        assert_eq!((told.len(), news.events.len(), news.waiting.len()), (50, 0, 0));
    }
}
