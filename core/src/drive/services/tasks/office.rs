//! What an agent's tasks are behind one lock: the board, what waits to be stored, and who waits.

use super::failure::TasksFailure;
use super::store::{TaskChanges, TaskStore};
use super::undo::take_back;
use crate::crypto::task::{Step, TaskId};
use crate::drive::agent::Handle;
use crate::drive::runtime::Runtime;
use crate::drive::waiters::Waken as _;
use crate::service::tasks::{About, Board, Calls, Contents, News, Party, Streams};
use crate::time::UnixTime;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use core::task::Poll;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Commits that have failed and are remembered for those who wait for them.
const FAILURES: usize = 64;
/// Tasks of the application that may wait; if there are more, they take turns.
const WAITING: usize = 256;

/// A commit that is under way.
pub(super) struct Flight {
    pub(super) changes: Arc<TaskChanges>,
    /// Once it is over.
    pub(super) outcome: Option<io::Result<()>>,
}

pub(super) struct Office<R: Runtime> {
    pub(super) board: Board<Handle<R>>,
    pub(super) streams: Streams,
    pub(super) calls: Calls,
    pub(super) news: News,
    /// Not handed to the store yet.
    fresh: Vec<(TaskId, About, Vec<u8>)>,
    flight: Option<Flight>,
    /// Commits that were begun; each has a number.
    begun: u64,
    /// Those whose outcome is known: all up to this one.
    over: u64,
    /// Of those: first and last of the changes that were lost.
    failures: VecDeque<(u64, u64)>,
    /// Who serves, while that one waits.
    server: Option<R::Waker>,
    waiting: Vec<R::Waker>,
    pub(super) is_over: bool,
}

impl<R: Runtime> Office<R> {
    pub(super) fn new(board: Board<Handle<R>>) -> Self {
        let mut news = News::default();
        news.begin(&board);
        Office {
            board,
            streams: Streams::default(),
            calls: Calls::default(),
            news,
            fresh: Vec::new(),
            flight: None,
            begun: 0,
            over: 0,
            failures: VecDeque::new(),
            server: None,
            waiting: Vec::new(),
            is_over: false,
        }
    }

    // ---- who waits ----

    /// From now on `waker` is called when there is something to do.
    pub(super) fn attend(&mut self, waker: &R::Waker) {
        self.server = Some(waker.clone());
    }

    /// Keeps a waker of the application. What is returned is to be woken.
    pub(super) fn park(&mut self, waker: &R::Waker) -> Vec<R::Waker> {
        if self.waiting.iter().any(|parked| parked.is_same(waker)) {
            return Vec::new();
        }
        let full = self.waiting.len() >= WAITING;
        let evicted = if full { mem::take(&mut self.waiting) } else { Vec::new() };
        self.waiting.push(waker.clone());
        evicted
    }

    pub(super) fn take_waiting(&mut self) -> Vec<R::Waker> {
        mem::take(&mut self.waiting)
    }

    // ---- what is stored ----

    fn is_dirty(&self) -> bool {
        self.board.has_changed() || !self.fresh.is_empty()
    }

    /// The commit after which all that was done so far is durable; `None`: it is.
    pub(super) fn pending(&self) -> Option<u64> {
        match (self.is_dirty(), &self.flight) {
            (true, _) => Some(self.begun + 1),
            (false, Some(_)) => Some(self.begun),
            (false, None) => None,
        }
    }

    /// What has become of a commit.
    pub(super) fn outcome(&self, number: u64) -> Poll<Result<(), TasksFailure>> {
        if number > self.over {
            return Poll::Pending;
        }
        let is_lost = |(first, last): &(u64, u64)| (*first..=*last).contains(&number);
        match self.failures.iter().any(is_lost) {
            true => Poll::Ready(Err(TasksFailure::NotStored)),
            false => Poll::Ready(Ok(())),
        }
    }

    /// Whether all that is known of a task is durable.
    pub(super) fn is_stored(&self, id: TaskId) -> bool {
        let in_flight = |flight: &Flight| flight.changes.tasks.iter().any(|(i, _)| *i == id);
        !self.board.is_changed(id) && !self.flight.as_ref().is_some_and(in_flight)
    }

    /// What is to be stored, if nothing is under way.
    pub(super) fn begin_commit(&mut self) -> Option<Arc<TaskChanges>> {
        if self.flight.is_some() || !self.is_dirty() {
            return None;
        }
        let ids: Vec<TaskId> = self.board.take_changed().collect();
        ids.iter().for_each(|id| self.news.note(&self.board, *id));
        let tasks = ids.into_iter().map(|id| (id, self.board.record(id))).collect();
        let changes = Arc::new(TaskChanges { tasks, contents: mem::take(&mut self.fresh) });
        self.begun += 1;
        self.flight = Some(Flight { changes: Arc::clone(&changes), outcome: None });
        Some(changes)
    }

    /// The store has told an outcome; returns who acts on it.
    pub(super) fn handle_outcome(&mut self, outcome: io::Result<()>) -> Option<R::Waker> {
        if let Some(flight) = &mut self.flight {
            flight.outcome = Some(outcome);
        }
        self.server.take()
    }

    /// Acts on an outcome that was told: whether it was a success, and who waits for it.
    pub(super) fn end_commit(
        &mut self,
        store: &mut dyn TaskStore,
    ) -> Option<(bool, Vec<R::Waker>)> {
        let flight = self.flight.take_if(|flight| flight.outcome.is_some())?;
        let is_stored = matches!(flight.outcome, Some(Ok(())));
        if is_stored {
            self.over = self.begun;
            self.news.handle_stored();
        } else {
            self.take_back(&flight.changes, store);
        }
        Some((is_stored, self.take_waiting()))
    }

    fn take_back(&mut self, changes: &TaskChanges, store: &mut dyn TaskStore) {
        take_back(&mut self.board, &mut self.news, &mut self.fresh, changes, store);
        // What was to come with the next commit is lost, too.
        self.failures.push_back((self.begun, self.begun + 1));
        if self.failures.len() > FAILURES {
            self.failures.pop_front();
        }
        self.begun += 1;
        self.over = self.begun;
    }

    // ---- what is done ----

    pub(super) fn submit(
        &mut self,
        id: TaskId,
        worker: Party,
        content: &[u8],
        now: UnixTime,
    ) -> Result<(), TasksFailure> {
        self.board.submit(id, worker, content, now)?;
        self.fresh.push((id, About::Work, content.to_vec()));
        Ok(())
    }

    pub(super) fn act(
        &mut self,
        id: TaskId,
        step: Step,
        content: &[u8],
        now: UnixTime,
    ) -> Result<(), TasksFailure> {
        self.board.act(id, step, content, now)?;
        if let Some(about) = About::of(step) {
            self.fresh.push((id, about, content.to_vec()));
        }
        Ok(())
    }

    /// A content that is not in the store yet.
    pub(super) fn unstored(&self, id: TaskId, about: About) -> Option<Vec<u8>> {
        unstored(&self.fresh, self.flight.as_ref(), id, about)
    }

    /// The board, and the contents beside it.
    pub(super) fn desk<'a>(
        &'a mut self,
        store: &'a mut dyn TaskStore,
    ) -> (&'a mut Board<Handle<R>>, Shelf<'a>) {
        let shelf = Shelf { fresh: &mut self.fresh, flight: self.flight.as_ref(), store };
        (&mut self.board, shelf)
    }

    pub(super) fn take_server(&mut self) -> Option<R::Waker> {
        self.server.take()
    }
}

fn unstored(
    fresh: &[(TaskId, About, Vec<u8>)],
    flight: Option<&Flight>,
    id: TaskId,
    about: About,
) -> Option<Vec<u8>> {
    let flying = flight.map_or(&[][..], |flight| &flight.changes.contents);
    let found = fresh.iter().rev().chain(flying).find(|(i, a, _)| (*i, *a) == (id, about));
    found.map(|(_, _, content)| content.clone())
}

/// The contents beside a board.
pub(super) struct Shelf<'a> {
    fresh: &'a mut Vec<(TaskId, About, Vec<u8>)>,
    flight: Option<&'a Flight>,
    store: &'a mut dyn TaskStore,
}

impl Contents for Shelf<'_> {
    fn keep(&mut self, id: TaskId, about: About, content: &[u8]) {
        self.fresh.push((id, about, content.to_vec()));
    }

    fn get(&mut self, id: TaskId, about: About) -> Option<Vec<u8>> {
        let unstored = unstored(self.fresh, self.flight, id, about);
        unstored.or_else(|| self.store.content(id, about).ok().flatten())
    }
}

/// What service and handles share. Who needs both locks takes the store's first.
pub(super) struct Hall<R: Runtime> {
    pub(super) agent: Handle<R>,
    pub(super) store: Mutex<Box<dyn TaskStore>>,
    pub(super) office: Mutex<Office<R>>,
}

impl<R: Runtime> Hall<R> {
    pub(super) fn office(&self) -> MutexGuard<'_, Office<R>> {
        self.office.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Box<dyn TaskStore>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
