//! Where an agent keeps its tasks.

use crate::crypto::task::TaskId;
use crate::service::tasks::About;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use std::io;

/// What is to be made durable together, all or none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TaskChanges {
    /// Each with its new record; `None`: delete it, and its contents.
    pub tasks: Vec<(TaskId, Option<Vec<u8>>)>,
    /// New contents.
    pub contents: Vec<(TaskId, About, Vec<u8>)>,
}

/// To be told what has become of changes. Dropping it counts as a failure.
pub struct Done(Option<Box<dyn FnOnce(io::Result<()>) + Send>>);

impl Done {
    pub(super) fn new(told: impl FnOnce(io::Result<()>) + Send + 'static) -> Self {
        Done(Some(Box::new(told)))
    }

    /// The changes are on disk, or they are not and the store is as it was before.
    pub fn handle(mut self, result: io::Result<()>) {
        if let Some(told) = self.0.take() {
            told(result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(told) = self.0.take() {
            told(Err(io::ErrorKind::Interrupted.into()));
        }
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Done").finish_non_exhaustive()
    }
}

/// Durable storage of an agent's tasks: at most 90 KiB each, mostly 1 KiB, and what they are
/// about, at most 70 KiB each. Nothing is told to anybody before it is stored.
///
/// Its methods are called by whoever serves the tasks, one at a time, and should take
/// milliseconds: a slow disk is for a thread of its own, to which `commit` hands what it is
/// given. Changes that come meanwhile are committed together, one commit after another.
pub trait TaskStore: Send + 'static {
    /// Hands every record to `each`, in any order.
    fn load(&mut self, each: &mut dyn FnMut(&[u8])) -> io::Result<()>;

    /// One record, as it was committed last.
    fn record(&mut self, id: TaskId) -> io::Result<Option<Vec<u8>>>;

    /// One content, as it was committed last.
    fn content(&mut self, id: TaskId, about: About) -> io::Result<Option<Vec<u8>>>;

    /// Makes changes durable, all or none, and then tells `done`, there or later.
    fn commit(&mut self, changes: Arc<TaskChanges>, done: Done);
}

/// A store that forgets everything at the end of the process: for tests, and for agents whose
/// tasks may be lost with them.
#[derive(Clone, Debug, Default)]
pub struct MemoryTaskStore {
    tasks: BTreeMap<TaskId, Vec<u8>>,
    contents: BTreeMap<(TaskId, About), Vec<u8>>,
}

impl TaskStore for MemoryTaskStore {
    fn load(&mut self, each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.tasks.values().for_each(|record| each(record));
        Ok(())
    }

    fn record(&mut self, id: TaskId) -> io::Result<Option<Vec<u8>>> {
        Ok(self.tasks.get(&id).cloned())
    }

    fn content(&mut self, id: TaskId, about: About) -> io::Result<Option<Vec<u8>>> {
        Ok(self.contents.get(&(id, about)).cloned())
    }

    fn commit(&mut self, changes: Arc<TaskChanges>, done: Done) {
        for (id, about, content) in &changes.contents {
            self.contents.insert((*id, *about), content.clone());
        }
        for (id, record) in &changes.tasks {
            match record {
                Some(record) => drop(self.tasks.insert(*id, record.clone())),
                None => {
                    self.tasks.remove(id);
                    About::ALL.iter().for_each(|about| drop(self.contents.remove(&(*id, *about))));
                }
            }
        }
        done.handle(Ok(()));
    }
}
