//! Calls that wait on their thread, each at most for a time (`None`: for ever).

use super::failure::TasksFailure;
use super::handle::{Saving, Tasks};
use super::serve::{TaskOptions, TaskService};
use super::store::TaskStore;
use crate::addr::Address;
use crate::crypto::task::{Receipt, Step, TaskId};
use crate::drive::blocking::{Agent, WaitError};
use crate::drive::ready::ReadyRuntime;
use crate::drive::services::blocking::{Wait, timed, wait_at};
use crate::service::tasks::{Content, Task, TaskEvent};

type Waited<T> = Result<T, WaitError<TasksFailure>>;

impl<R: ReadyRuntime> Agent<R> {
    /// Takes part in tasks; [`TaskService::wait_serve`] is for a thread of its own.
    pub fn listen_tasks(
        &self,
        options: TaskOptions,
        store: impl TaskStore,
    ) -> Result<TaskService<R>, TasksFailure> {
        self.keep_alive().listen_tasks(options, store)
    }
}

impl<R: ReadyRuntime> TaskService<R> {
    /// Serves until the agent has ended.
    pub fn wait_serve(&mut self, timeout: Wait) -> Waited<()> {
        let host = self.host();
        timed::<R, _, _>(host, timeout, |waker| (self.poll_serve(waker), self.due()))
    }
}

/// After a timeout, what was begun may still come.
impl<R: ReadyRuntime> Tasks<R> {
    fn wait_saved(&self, saving: Saving, timeout: Wait) -> Waited<()> {
        wait_at::<R, _, _>(self.host(), timeout, |waker| self.poll_saved(waker, saving))
    }

    /// Asks an agent to do something; the task's id, once it is stored. See
    /// [`begin_submit`](Self::begin_submit).
    pub fn wait_submit(
        &self,
        worker: Address,
        content: &Content<'_>,
        timeout: Wait,
    ) -> Waited<TaskId> {
        let (id, saving) = self.begin_submit(worker, content)?;
        self.wait_saved(saving, timeout).map(|()| id)
    }

    /// Makes a step of ours, once it is stored: accepts, declines, starts, completes or fails what
    /// we work on, tells how far it is, or cancels what we have submitted. See
    /// [`begin_step`](Self::begin_step).
    pub fn wait_step(
        &self,
        id: TaskId,
        step: Step,
        content: &Content<'_>,
        timeout: Wait,
    ) -> Waited<()> {
        let saving = self.begin_step(id, step, content)?;
        self.wait_saved(saving, timeout)
    }

    /// Waits for news of any task; see [`poll_event`](Self::poll_event).
    pub fn wait_event(&self, timeout: Wait) -> Waited<TaskEvent> {
        wait_at::<R, _, _>(self.host(), timeout, |waker| self.poll_event(waker))
    }

    /// Waits until nothing more happens to a task.
    pub fn wait_ended(&self, id: TaskId, timeout: Wait) -> Waited<Task> {
        wait_at::<R, _, _>(self.host(), timeout, |waker| self.poll_ended(waker, id))
    }

    /// Waits until a task is receipted by both sides; `None` if it has ended without.
    pub fn wait_receipt(&self, id: TaskId, timeout: Wait) -> Waited<Option<Receipt>> {
        wait_at::<R, _, _>(self.host(), timeout, |waker| self.poll_receipt(waker, id))
    }
}
