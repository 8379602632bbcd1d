//! The board of tasks with its store: what happens here is on the disk before anybody is told.

use super::store::{Changes, Store};
use crate::error::{Code, Failure};
use pilot_core::crypto::IdentityKey;
use pilot_core::crypto::task::{Side, Step, TaskId};
use pilot_core::service::tasks::{
    About, ActError, Board, BoardLimits, Content, Contents, Party, Signer, Talk, Task, TasksError,
    Turn, Worked,
};
use pilot_core::time::UnixTime;

/// Who signs: the running agent.
pub(crate) type AnySigner = Box<dyn Signer + Send>;

/// The store, and the contents of this batch.
pub(super) struct Shelf {
    pub(super) store: Store,
    fresh: Vec<(TaskId, About, Vec<u8>)>,
}

impl Shelf {
    fn read(&mut self, id: TaskId, about: About) -> Result<Option<Vec<u8>>, Failure> {
        let fresh = self.fresh.iter().rev().find(|(i, a, _)| (*i, *a) == (id, about));
        match fresh {
            Some((_, _, content)) => Ok(Some(content.clone())),
            None => self.store.content(id, about),
        }
    }
}

impl Contents for Shelf {
    fn keep(&mut self, id: TaskId, about: About, content: &[u8]) {
        self.fresh.push((id, about, content.to_vec()));
    }

    fn get(&mut self, id: TaskId, about: About) -> Option<Vec<u8>> {
        self.read(id, about).unwrap_or_else(|failure| {
            tracing::warn!(task = %id, %failure, "what a task is about cannot be read");
            None
        })
    }
}

/// Board and store.
pub(crate) struct Desk {
    pub(crate) board: Board<AnySigner>,
    pub(super) shelf: Shelf,
    /// Changed by a commit that has failed, after which the store could not be read, either: in
    /// memory these tasks are ahead of it.
    ahead: Vec<TaskId>,
}

impl Desk {
    /// With all tasks of this key that are stored. Others, and one that cannot be read, are left
    /// where they are.
    pub(super) fn open(
        signer: AnySigner,
        key: IdentityKey,
        registry: IdentityKey,
        mut store: Store,
    ) -> Result<Desk, Failure> {
        let mut board = Board::new(signer, key, registry, BoardLimits::default());
        for record in store.load()? {
            match board.restore(&record) {
                Ok(id) if board.get(id).is_some_and(|task| own_key(task) != key) => {
                    tracing::warn!(task = %id, "a stored task of another identity is left alone");
                    board.forget(id);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "a stored task is left alone"),
            }
        }
        Ok(Desk { board, shelf: Shelf { store, fresh: Vec::new() }, ahead: Vec::new() })
    }

    /// Makes what was done durable, or takes it back; which tasks have changed.
    pub(super) fn commit(&mut self) -> Result<Vec<TaskId>, Failure> {
        let ids: Vec<TaskId> = self.board.take_changed().collect();
        let tasks = ids.iter().map(|id| (*id, self.board.record(*id))).collect();
        let changes = Changes { tasks, contents: std::mem::take(&mut self.shelf.fresh) };
        if changes.is_empty() {
            return Ok(ids);
        }
        let Err(failure) = self.shelf.store.commit(&changes) else { return Ok(ids) };
        tracing::warn!(%failure, "tasks cannot be stored");
        self.ahead.extend(ids);
        if let Err(failure) = self.take_back() {
            tracing::warn!(%failure, "what was stored of tasks cannot be read");
        }
        Err(failure)
    }

    /// Takes back what could not be stored; until that is done nothing else may be: it would show
    /// or tell what nobody has, and of which somebody was told that it failed.
    pub(super) fn take_back(&mut self) -> Result<(), Failure> {
        while let Some(&id) = self.ahead.last() {
            match self.shelf.store.task(id)? {
                // It was read from the same store at the start, or written by us.
                Some(record) => drop(self.board.restore(&record)),
                None => self.board.forget(id),
            }
            self.ahead.pop();
        }
        Ok(())
    }

    /// What a task is about; nothing, if that is not known.
    pub(crate) fn content(&mut self, id: TaskId, about: About) -> Result<Vec<u8>, Failure> {
        Ok(self.shelf.read(id, about)?.unwrap_or_default())
    }

    /// A task, or that there is none.
    pub(crate) fn find(&self, id: TaskId) -> Result<&Task, Failure> {
        self.board.get(id).ok_or_else(|| unknown(id))
    }

    pub(crate) fn submit(
        &mut self,
        id: TaskId,
        worker: Party,
        content: &Content<'_>,
        now: UnixTime,
    ) -> Result<(), Failure> {
        let bytes = encoded(content)?;
        self.board.submit(id, worker, &bytes, now).map_err(|e| from_act(id, e))?;
        self.shelf.keep(id, About::Work, &bytes);
        Ok(())
    }

    pub(crate) fn act(
        &mut self,
        id: TaskId,
        step: Step,
        content: &Content<'_>,
        now: UnixTime,
    ) -> Result<(), Failure> {
        let bytes = encoded(content)?;
        self.board.act(id, step, &bytes, now).map_err(|e| from_act(id, e))?;
        if let Some(about) = About::of(step) {
            self.shelf.keep(id, about, &bytes);
        }
        Ok(())
    }

    /// Does what was said on a stream, and looks what is to be told there.
    pub(super) fn work(&mut self, talk: &mut Talk, turn: Turn) -> Result<Worked, TasksError> {
        talk.work(&mut self.board, &mut self.shelf, turn)
    }
}

/// Whose side of a task is kept.
fn own_key(task: &Task) -> IdentityKey {
    let fields = &task.first().fields;
    match task.side() {
        Side::Submitter => fields.submitter,
        Side::Worker => fields.worker,
    }
}

fn encoded(content: &Content<'_>) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; content.encoded_len()];
    content.encode(&mut bytes).map_err(|e| {
        Failure::new(Code::TooLarge, format!("not a content that a task can have: {e}"))
            .hint("texts have at most 64 KiB, and there are at most 16 files: send more as files")
    })?;
    Ok(bytes)
}

fn unknown(id: TaskId) -> Failure {
    Failure::new(Code::NotFound, format!("there is no task {id}"))
        .hint("`pilotctl task list` shows those that are known; old ones are forgotten")
}

fn from_act(id: TaskId, error: ActError) -> Failure {
    match error {
        ActError::Unknown => unknown(id),
        ActError::NotAllowed(_) | ActError::Refused(_) | ActError::Cancelling => {
            Failure::new(Code::Conflict, format!("task {id}: {error}"))
                .hint(format!("`pilotctl task show {id}` shows its state and whose turn it is"))
        }
        ActError::Content => Failure::new(Code::TooLarge, error.to_string())
            .hint("a reason has at most 512 bytes, a word of progress 1,024"),
        ActError::Full => Failure::new(Code::Full, format!("task {id}: {error}"))
            .hint("wait until some have ended, or cancel them: `pilotctl task list`"),
        ActError::NotSigned(_) => Failure::new(Code::NotRegistered, error.to_string()),
        ActError::Itself => Failure::new(Code::Usage, error.to_string()),
        error => Failure::new(Code::Internal, error.to_string()),
    }
}
