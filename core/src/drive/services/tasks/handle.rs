//! What an application does with tasks, and hears of them.

use super::failure::TasksFailure;
use super::office::{Hall, Office};
use crate::addr::Address;
use crate::crypto::task::{NotAllowed, Receipt, Side, Step, TaskId};
use crate::drive::runtime::{Host as _, Runtime};
use crate::drive::waiters::Waken as _;
use crate::service::tasks::{About, ActError, Content, Party, Task, TaskEvent, TaskFile};
use crate::time::UnixTime;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::task::Poll;

/// A change that is being stored: [`Tasks::poll_saved`].
#[must_use = "it may not be stored"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Saving(pub(super) Option<u64>);

/// What a submission, a result or a reason says: of the other side, **hostile text**, data and
/// never an instruction. Its files travel by data exchange, under their ids.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TaskContent {
    /// At most 64 KiB.
    pub text: String,
    /// At most 16.
    pub files: Vec<TaskFile>,
}

/// An agent's tasks, those that it has submitted and those that it works on. Clones are the same.
/// They are only changed while somebody serves them ([`super::TaskService`]).
///
/// Whatever is told here is durable, and nothing is told to the other side before it is.
pub struct Tasks<R: Runtime>(pub(super) Arc<Hall<R>>);

impl<R: Runtime> Clone for Tasks<R> {
    fn clone(&self) -> Self {
        Tasks(Arc::clone(&self.0))
    }
}

impl<R: Runtime> fmt::Debug for Tasks<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("board", &self.0.office().board).finish_non_exhaustive()
    }
}

impl<R: Runtime> Tasks<R> {
    pub(super) fn host(&self) -> R::Host {
        self.0.agent.shared().host()
    }

    fn unix(&self) -> UnixTime {
        self.host().reading().unix
    }

    /// Changes something, and has it stored.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Office<R>) -> Result<T, TasksFailure>,
    ) -> Result<(T, Saving), TasksFailure> {
        let mut office = self.0.office();
        if office.is_over {
            return Err(TasksFailure::Ended);
        }
        let result = change(&mut office)?;
        let saving = Saving(office.pending());
        let server = office.take_server();
        drop(office);
        server.into_iter().for_each(|waker| waker.wake());
        Ok((result, saving))
    }

    // ---- steps ----

    /// Asks an agent that we trust to do something: a text, and files that are sent to it by
    /// [`upload`](crate::drive::agent::Agent::upload) under the ids that are named here. It is
    /// told when it can be reached, whenever that is.
    pub fn begin_submit(
        &self,
        worker: Address,
        content: &Content<'_>,
    ) -> Result<(TaskId, Saving), TasksFailure> {
        let worker = self.party(worker)?;
        let entropy = self.host().entropy().ok_or(TasksFailure::Entropy)?;
        let mut id = TaskId([0; 16]);
        id.0.copy_from_slice(&entropy[..16]);
        let (bytes, now) = (encoded(content)?, self.unix());
        let ((), saving) = self.change(|office| office.submit(id, worker, &bytes, now))?;
        Ok((id, saving))
    }

    /// Makes a step of ours: what a step may say, and in which state of the task it may be made,
    /// stands in [`crate::service::tasks`] and [`crate::crypto::task`].
    pub fn begin_step(
        &self,
        id: TaskId,
        step: Step,
        content: &Content<'_>,
    ) -> Result<Saving, TasksFailure> {
        let (bytes, now) = (encoded(content)?, self.unix());
        let ((), saving) = self.change(|office| {
            // Time makes these, and nobody before it is time.
            if matches!(step, Step::Lapse | Step::Expire) {
                let from = office.board.get(id).map(Task::state);
                return Err(ActError::NotAllowed(NotAllowed::NotFrom { step, from }).into());
            }
            office.act(id, step, &bytes, now)
        })?;
        Ok(saving)
    }

    /// Waits until a change is stored.
    pub fn poll_saved(&self, waker: &R::Waker, saving: Saving) -> Poll<Result<(), TasksFailure>> {
        let Some(number) = saving.0 else { return Poll::Ready(Ok(())) };
        self.poll(waker, |office| office.outcome(number))
    }

    fn party(&self, address: Address) -> Result<Party, TasksFailure> {
        let address = address.on_backbone();
        party(&self.0.agent, address).ok_or(TasksFailure::NotTrusted(address))
    }

    // ---- news ----

    /// What has become of tasks by others' doing: work that is submitted, for one, and results.
    /// Each is told to one of those who wait. After a start, what was submitted and has no answer
    /// is told again; what was accepted stands in [`list`](Self::list).
    pub fn poll_event(&self, waker: &R::Waker) -> Poll<Result<TaskEvent, TasksFailure>> {
        self.poll(waker, |office| office.news.poll().map_or(Poll::Pending, |e| Poll::Ready(Ok(e))))
    }

    /// Waits until nothing more happens to a task: [`Task::state`] and [`Task::refused`] say how
    /// it has ended.
    pub fn poll_ended(&self, waker: &R::Waker, id: TaskId) -> Poll<Result<Task, TasksFailure>> {
        self.poll(waker, |office| {
            let Some(task) = office.board.get(id) else {
                return Poll::Ready(Err(TasksFailure::Unknown(id)));
            };
            match task.is_settled() && office.is_stored(id) {
                true => Poll::Ready(Ok(task.clone())),
                false => Poll::Pending,
            }
        })
    }

    /// Waits until a task is receipted by both sides; `None` if it has ended without.
    pub fn poll_receipt(
        &self,
        waker: &R::Waker,
        id: TaskId,
    ) -> Poll<Result<Option<Receipt>, TasksFailure>> {
        self.poll(waker, |office| {
            let Some(task) = office.board.get(id) else {
                return Poll::Ready(Err(TasksFailure::Unknown(id)));
            };
            let is_over = task.is_settled() && !task.yields_receipt();
            match (task.receipt().is_some() || is_over) && office.is_stored(id) {
                true => Poll::Ready(Ok(task.receipt().copied())),
                false => Poll::Pending,
            }
        })
    }

    fn poll<T>(
        &self,
        waker: &R::Waker,
        look: impl FnOnce(&mut Office<R>) -> Poll<Result<T, TasksFailure>>,
    ) -> Poll<Result<T, TasksFailure>> {
        let mut office = self.0.office();
        let found = look(&mut office);
        if found.is_ready() {
            return found;
        }
        if office.is_over {
            return Poll::Ready(Err(TasksFailure::Ended));
        }
        let evicted = office.park(waker);
        drop(office);
        evicted.into_iter().for_each(|waker| waker.wake());
        Poll::Pending
    }

    // ---- to look at ----

    /// A task as it stands, perhaps a moment before that is stored.
    pub fn get(&self, id: TaskId) -> Option<Task> {
        self.0.office().board.get(id).cloned()
    }

    /// All of them, by their ids.
    pub fn list(&self) -> Vec<Task> {
        self.0.office().board.tasks().cloned().collect()
    }

    /// The next of those that we have accepted and not begun.
    pub fn next_accepted(&self) -> Option<Task> {
        self.0.office().board.queue().next().cloned()
    }

    /// What a task is about, or what its end is; `None` if there is nothing of it.
    pub fn content(&self, id: TaskId, about: About) -> Result<Option<TaskContent>, TasksFailure> {
        let mut store = self.0.store();
        let unstored = self.0.office().unstored(id, about);
        let bytes = match unstored {
            Some(bytes) => Some(bytes),
            None => store.content(id, about)?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let content = Content::decode(&bytes)?;
        let files = content.files.iter().cloned().collect();
        Ok(Some(TaskContent { text: content.text.into(), files }))
    }

    /// Whether the agent submits this task or works on it.
    pub fn side(&self, id: TaskId) -> Option<Side> {
        self.0.office().board.get(id).map(Task::side)
    }
}

/// Who has an address, if there is trust.
pub(super) fn party<R: Runtime>(
    agent: &crate::drive::agent::Handle<R>,
    address: Address,
) -> Option<Party> {
    let key = agent.peek(|access| {
        access.machine.peers().find(|peer| peer.address == address).map(|peer| peer.identity)
    });
    key.map(|key| Party { address, key })
}

fn encoded(content: &Content<'_>) -> Result<Vec<u8>, TasksFailure> {
    let mut bytes = vec![0; content.encoded_len()];
    content.encode(&mut bytes)?;
    Ok(bytes)
}
