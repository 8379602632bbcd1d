//! The board of tasks with its store: what happens here is on the disk before anybody is told.

use super::store::{About, Changes, Store};
use crate::error::{Code, Failure};
use pilot_core::crypto::task::{Claim, Receipt, Statement, Step, TaskId};
use pilot_core::crypto::{Identity, IdentityKey};
use pilot_core::service::tasks::{
    ActError, Asked, Board, BoardLimits, Content, Party, Task, Tell, Verdict,
};
use pilot_core::time::UnixTime;
use std::collections::BTreeSet;

/// Bytes after which a peer is told no more at a time.
const TELL_BYTES: usize = 512 * 1024;

/// What a peer has said on a stream.
#[derive(Debug)]
pub(crate) enum Heard {
    Stated { statement: Box<Statement>, content: Vec<u8>, admitted: Result<(), Verdict> },
    Claimed(Box<Claim>),
    Answered(Asked, Verdict),
    Countersigned(Box<Receipt>),
}

/// What it is answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Verdict(Verdict),
    Receipt(Box<Receipt>),
}

/// What it is told.
#[derive(Debug)]
pub(crate) enum Told {
    Statement(Box<Statement>, Vec<u8>),
    Claim(Box<Claim>),
}

impl Told {
    pub(crate) fn task(&self) -> TaskId {
        match self {
            Told::Statement(statement, _) => statement.fields.task,
            Told::Claim(claim) => claim.task,
        }
    }
}

/// What comes of what was heard.
#[derive(Debug, Default)]
pub(crate) struct Reaction {
    /// In the order of what was heard.
    pub(crate) answers: Vec<Answer>,
    pub(crate) told: Vec<Told>,
    /// Tasks that are to be told again, but not at once.
    pub(crate) later: Vec<TaskId>,
    /// Whether we wait for this peer's word about a task.
    pub(crate) is_following: bool,
}

/// Board and store.
pub(crate) struct Desk {
    pub(crate) board: Board,
    pub(super) store: Store,
    /// Of this batch.
    contents: Vec<(TaskId, About, Vec<u8>)>,
}

impl Desk {
    /// With all tasks that are stored. One that cannot be read is left where it is.
    pub(super) fn open(
        identity: Identity,
        registry: IdentityKey,
        mut store: Store,
    ) -> Result<Desk, Failure> {
        let mut board = Board::new(identity, registry, BoardLimits::default());
        for record in store.load()? {
            if let Err(error) = board.restore(&record) {
                tracing::warn!(%error, "a stored task is left alone");
            }
        }
        Ok(Desk { board, store, contents: Vec::new() })
    }

    /// Makes what was done durable, or takes it back; which tasks have changed.
    pub(super) fn commit(&mut self) -> Result<Vec<TaskId>, Failure> {
        let ids: Vec<TaskId> = self.board.take_changed().collect();
        let tasks = ids.iter().map(|id| (*id, self.board.record(*id))).collect();
        let changes = Changes { tasks, contents: std::mem::take(&mut self.contents) };
        if changes.is_empty() {
            return Ok(ids);
        }
        let Err(failure) = self.store.commit(&changes) else { return Ok(ids) };
        tracing::warn!(%failure, "tasks cannot be stored");
        for id in ids {
            match self.store.task(id) {
                Ok(Some(record)) => {
                    // It was read from the same store at the start, or written by us.
                    let _ = self.board.restore(&record);
                }
                Ok(None) => self.board.forget(id),
                // What is in memory is ahead of the disk; it is stored with its next change.
                Err(_) => {}
            }
        }
        Err(failure)
    }

    fn keep(&mut self, id: TaskId, step: Step, content: &[u8]) {
        if let Some(about) = About::of(step) {
            self.contents.push((id, about, content.to_vec()));
        }
    }

    /// What a task is about, if that is known.
    pub(crate) fn content(&mut self, id: TaskId, about: About) -> Result<Vec<u8>, Failure> {
        let fresh = self.contents.iter().rev().find(|(i, a, _)| (*i, *a) == (id, about));
        if let Some((_, _, content)) = fresh {
            return Ok(content.clone());
        }
        Ok(self.store.content(id, about)?.unwrap_or_default())
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
        self.keep(id, Step::Submit, &bytes);
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
        self.keep(id, step, &bytes);
        Ok(())
    }

    /// Does what a peer said, and looks what is to be told to it: at most `room` things, and
    /// nothing of the tasks that are `asked` about.
    pub(crate) fn hear(
        &mut self,
        peer: Party,
        heard: &[Heard],
        room: usize,
        asked: &BTreeSet<TaskId>,
        now: UnixTime,
    ) -> Result<Reaction, Failure> {
        let mut reaction = Reaction::default();
        for heard in heard {
            match heard {
                Heard::Stated { statement, content, admitted } => {
                    let verdict = self.board.judge(peer, statement, content, || *admitted, now);
                    if verdict == Verdict::Applied {
                        let fields = &statement.fields;
                        self.keep(fields.task, fields.step, content);
                    }
                    reaction.answers.push(Answer::Verdict(verdict));
                }
                Heard::Claimed(claim) => {
                    let receipt = self.board.judge_claim(peer, claim, now);
                    reaction.answers.push(match receipt {
                        Ok(receipt) => Answer::Receipt(Box::new(receipt)),
                        Err(verdict) => Answer::Verdict(verdict),
                    });
                }
                Heard::Answered(asked, verdict) => {
                    let is_later = match *asked {
                        Asked::Statement(id, seq) => {
                            self.board.answered(peer.key, id, seq, *verdict, now)
                        }
                        Asked::Claim(id) => self.board.claim_answered(peer.key, id, *verdict),
                    };
                    if is_later {
                        reaction.later.push(asked.task());
                    }
                }
                Heard::Countersigned(receipt) => {
                    if !self.board.countersigned(peer.key, receipt) {
                        tracing::info!(task = %receipt.claim.task, "a receipt is none");
                    }
                }
            }
        }
        reaction.told = self.next_told(peer, room, asked, &reaction.later)?;
        reaction.is_following = self.board.is_following(peer.key);
        Ok(reaction)
    }

    fn next_told(
        &mut self,
        peer: Party,
        room: usize,
        asked: &BTreeSet<TaskId>,
        later: &[TaskId],
    ) -> Result<Vec<Told>, Failure> {
        let mut told = Vec::new();
        let is_free = |id: &TaskId| !asked.contains(id) && !later.contains(id);
        for (_, tell) in self.board.untold(peer.key).filter(|(id, _)| is_free(id)).take(room) {
            told.push(match tell {
                Tell::Statement { statement, content } => {
                    Told::Statement(Box::new(*statement), content.unwrap_or_default().to_vec())
                }
                Tell::Claim(claim) => Told::Claim(Box::new(*claim)),
            });
        }
        let (mut bytes, mut count) = (0, 0);
        for told in &mut told {
            if bytes > TELL_BYTES {
                break;
            }
            count += 1;
            if let Told::Statement(statement, content) = told {
                let fields = statement.fields;
                if let Some(about) = About::of(fields.step) {
                    *content = self.content(fields.task, about)?;
                }
                bytes += content.len();
            }
            self.board.offered(told.task());
        }
        told.truncate(count);
        Ok(told)
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
        ActError::Itself => Failure::new(Code::Usage, error.to_string()),
        error => Failure::new(Code::Internal, error.to_string()),
    }
}
