//! The futures of runtimes that have some.

use super::failure::TasksFailure;
use super::handle::{Saving, Tasks};
use super::serve::{TaskOptions, TaskService};
use super::store::TaskStore;
use crate::addr::Address;
use crate::crypto::task::{Receipt, Step, TaskId};
use crate::drive::agent::Agent;
use crate::drive::runtime::AsyncRuntime;
use crate::drive::services::asynchronous::timed;
use crate::service::tasks::{Content, Task, TaskEvent};
use core::future::poll_fn;

impl<R: AsyncRuntime> Agent<R> {
    /// Takes part in tasks; [`TaskService::serve`] is to be awaited in a task of its own.
    pub fn listen_tasks(
        &self,
        options: TaskOptions,
        store: impl TaskStore,
    ) -> Result<TaskService<R>, TasksFailure> {
        self.keep_alive().listen_tasks(options, store)
    }
}

impl<R: AsyncRuntime> TaskService<R> {
    /// Serves until the agent has ended.
    pub async fn serve(&mut self) -> Result<(), TasksFailure> {
        let host = self.host();
        timed::<R, _>(host, |waker| (self.poll_serve(waker), self.due())).await
    }
}

/// Dropping a future takes nothing back that it has begun.
impl<R: AsyncRuntime> Tasks<R> {
    async fn saved(&self, saving: Saving) -> Result<(), TasksFailure> {
        poll_fn(|cx| self.poll_saved(cx.waker(), saving)).await
    }

    /// Asks an agent to do something; the task's id, once it is stored. See
    /// [`begin_submit`](Self::begin_submit).
    pub async fn submit(
        &self,
        worker: Address,
        content: &Content<'_>,
    ) -> Result<TaskId, TasksFailure> {
        let (id, saving) = self.begin_submit(worker, content)?;
        self.saved(saving).await.map(|()| id)
    }

    /// Makes a step of ours, once it is stored. See [`begin_step`](Self::begin_step).
    pub async fn step(
        &self,
        id: TaskId,
        step: Step,
        content: &Content<'_>,
    ) -> Result<(), TasksFailure> {
        let saving = self.begin_step(id, step, content)?;
        self.saved(saving).await
    }

    /// Calls a task off that we have submitted. It is in force when its worker has it.
    pub async fn cancel(&self, id: TaskId) -> Result<(), TasksFailure> {
        self.step(id, Step::Cancel, &Content::default()).await
    }

    /// Takes a task on.
    pub async fn accept(&self, id: TaskId) -> Result<(), TasksFailure> {
        self.step(id, Step::Accept, &Content::default()).await
    }

    /// Does not take it on, for a reason of at most 512 bytes.
    pub async fn decline(&self, id: TaskId, reason: &str) -> Result<(), TasksFailure> {
        self.step(id, Step::Decline, &Content::of_text(reason)).await
    }

    /// Says that we begin to work on it. Once this has returned, nobody is told twice that it is
    /// begun: after a crash it [stands](Self::list) as executing.
    pub async fn start(&self, id: TaskId) -> Result<(), TasksFailure> {
        self.step(id, Step::Start, &Content::default()).await
    }

    /// Says how far it is, in at most 1,024 bytes.
    pub async fn progress(&self, id: TaskId, word: &str) -> Result<(), TasksFailure> {
        self.step(id, Step::Progress, &Content::of_text(word)).await
    }

    /// Says that it is done, with its result.
    pub async fn complete(&self, id: TaskId, result: &Content<'_>) -> Result<(), TasksFailure> {
        self.step(id, Step::Complete, result).await
    }

    /// Gives it up, for a reason of at most 512 bytes.
    pub async fn fail(&self, id: TaskId, reason: &str) -> Result<(), TasksFailure> {
        self.step(id, Step::Fail, &Content::of_text(reason)).await
    }

    /// Waits for news of any task; see [`poll_event`](Self::poll_event).
    pub async fn next_event(&self) -> Result<TaskEvent, TasksFailure> {
        poll_fn(|cx| self.poll_event(cx.waker())).await
    }

    /// Waits until nothing more happens to a task.
    pub async fn ended(&self, id: TaskId) -> Result<Task, TasksFailure> {
        poll_fn(|cx| self.poll_ended(cx.waker(), id)).await
    }

    /// Waits until a task is receipted by both sides; `None` if it has ended without.
    pub async fn receipt(&self, id: TaskId) -> Result<Option<Receipt>, TasksFailure> {
        poll_fn(|cx| self.poll_receipt(cx.waker(), id)).await
    }
}
