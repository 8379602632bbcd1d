//! What has become of tasks by others' doing, for an application that waits for work or results.

use super::Verdict;
use super::board::Board;
use super::signer::Signer;
use super::task::{Party, Task};
use crate::crypto::task::{Receipt, Side, State, Step, TaskId};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

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

/// The news of a board, at most two of each task: nothing is lost while nobody asks, and there
/// is never more of it than there are tasks. It is told once it is durable.
#[derive(Debug, Default)]
pub struct News {
    seen: BTreeMap<TaskId, Seen>,
    /// Of what is being stored.
    held: Vec<TaskEvent>,
    waiting: VecDeque<(TaskId, Kind)>,
    events: BTreeMap<(TaskId, Kind), TaskEvent>,
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
            return;
        };
        let now = Seen::of(task);
        let before = self.seen.insert(id, now);
        let is_new = |differs: fn(&Seen, &Seen) -> bool| match &before {
            Some(before) => differs(before, &now),
            None => true,
        };
        if is_new(|a, b| (a.seq, a.is_refused) != (b.seq, b.is_refused)) {
            self.held.extend(what(task).map(|what| event(task, what)));
        }
        if is_new(|a, b| a.has_receipt != b.has_receipt) {
            let receipt = task.receipt().copied().map(What::Receipted);
            self.held.extend(receipt.map(|what| event(task, what)));
        }
    }

    /// What was noted is durable; whether there is news.
    pub fn handle_stored(&mut self) -> bool {
        for event in core::mem::take(&mut self.held) {
            self.push(event);
        }
        !self.waiting.is_empty()
    }

    /// What was noted could not be stored, and was taken back on the board: these tasks.
    pub fn handle_not_stored<S: Signer>(
        &mut self,
        board: &Board<S>,
        ids: impl IntoIterator<Item = TaskId>,
    ) {
        self.held.clear();
        for id in ids {
            match board.get(id) {
                Some(task) => drop(self.seen.insert(id, Seen::of(task))),
                None => drop(self.seen.remove(&id)),
            }
        }
    }

    fn push(&mut self, event: TaskEvent) {
        let kind = match event.what {
            What::Receipted(_) => Kind::Receipt,
            _ => Kind::State,
        };
        let key = (event.id, kind);
        if self.events.insert(key, event).is_none() {
            self.waiting.push_back(key);
        }
    }

    /// The oldest news that has not been told.
    pub fn poll(&mut self) -> Option<TaskEvent> {
        self.waiting.pop_front().and_then(|key| self.events.remove(&key))
    }
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
