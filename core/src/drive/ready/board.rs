//! Who is told what: wakers, the list of what is ready, and threads that wait.

use super::{Id, Ready};
use crate::drive::io::Clock;
use crate::drive::waiters::Waken;
use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use core::task::Poll;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What a source may be woken for, one bit each.
pub(super) mod bit {
    pub(crate) const READABLE: u16 = 1;
    pub(crate) const WRITABLE: u16 = 1 << 1;
    pub(crate) const CONNECTED: u16 = 1 << 2;
    pub(crate) const ACCEPTABLE: u16 = 1 << 3;
    pub(crate) const DATAGRAM: u16 = 1 << 4;
    pub(crate) const ANSWERED: u16 = 1 << 5;
    pub(crate) const EVENT: u16 = 1 << 6;
    pub(crate) const REGISTERED: u16 = 1 << 7;
    pub(crate) const ENDED: u16 = 1 << 8;
    /// The driver has to make a turn.
    pub(crate) const TURN: u16 = 1 << 9;
    /// The household has something to do.
    pub(crate) const CHORES: u16 = 1 << 10;
    /// A thread that waits has something to look at.
    pub(crate) const RING: u16 = 1 << 11;
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that no other running thread has.
fn this_thread() -> usize {
    std::thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| core::ptr::from_ref(here).addr())
}

/// What the loop of one agent and those who wake it share: what is ready, and whether the loop
/// has to be roused. Clones are the same board.
///
/// A loop says [`Board::wake_up`] when it begins to work and [`Board::fall_asleep`] when nothing
/// is left to do. Whoever wakes something from another thread in between rouses nobody, and
/// after that rouses the loop once. What the loop's own thread wakes, the loop sees anyway
/// before it falls asleep.
#[derive(Clone)]
pub struct Board(Arc<Desk>);

struct Desk {
    /// Sources with a bit set, each once; so there are no more than handles.
    list: Mutex<VecDeque<Arc<Source>>>,
    /// [`bit::TURN`] and [`bit::CHORES`].
    due: AtomicU16,
    /// Whether the loop may be waiting for events, so that it has to be roused.
    sleeps: AtomicBool,
    /// The loop's thread, which need not be roused by itself.
    thread: AtomicUsize,
    rouse: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("due", &self.0.due).finish_non_exhaustive()
    }
}

impl Board {
    /// `rouse` ends the wait of the loop, from any thread.
    pub fn new(rouse: impl Fn() + Send + Sync + 'static) -> Self {
        Board(Arc::new(Desk {
            list: Mutex::default(),
            due: AtomicU16::new(bit::TURN | bit::CHORES),
            sleeps: AtomicBool::new(false),
            thread: AtomicUsize::new(this_thread()),
            rouse: Box::new(rouse),
        }))
    }

    /// The waker of who makes the turns, and that of who keeps the household.
    pub fn wakers(&self) -> (Waker, Waker) {
        let turns = Waker::listed(self, bit::TURN);
        let chores = turns.with(bit::CHORES);
        (turns, chores)
    }

    /// The loop is at work, on this thread.
    pub fn wake_up(&self) {
        self.0.thread.store(this_thread(), Ordering::Relaxed);
        self.0.sleeps.store(false, Ordering::SeqCst);
    }

    /// The loop is about to wait; `false` if it has to look again instead.
    pub fn fall_asleep(&self) -> bool {
        self.0.sleeps.store(true, Ordering::SeqCst);
        let may_sleep = !self.has_ready() && self.0.due.load(Ordering::SeqCst) == 0;
        if !may_sleep {
            self.0.sleeps.store(false, Ordering::SeqCst);
        }
        may_sleep
    }

    /// A turn has to be made.
    pub fn demand_turn(&self) {
        self.demand(bit::TURN);
    }

    /// The household has to be attended to.
    pub fn demand_chores(&self) {
        self.demand(bit::CHORES);
    }

    /// Whether a turn has to be made.
    pub fn is_turn_due(&self) -> bool {
        self.is_due(bit::TURN)
    }

    /// The same, and it will be.
    pub fn take_turn(&self) -> bool {
        self.take_due(bit::TURN)
    }

    /// Whether the household has to be attended to; it will be.
    pub fn take_chores(&self) -> bool {
        self.take_due(bit::CHORES)
    }

    fn demand(&self, due: u16) {
        self.0.due.fetch_or(due, Ordering::SeqCst);
    }

    fn is_due(&self, due: u16) -> bool {
        self.0.due.load(Ordering::Relaxed) & due != 0
    }

    fn take_due(&self, due: u16) -> bool {
        self.is_due(due) && self.0.due.fetch_and(!due, Ordering::SeqCst) & due != 0
    }

    fn rouse(&self) {
        let is_needed = self.0.sleeps.load(Ordering::SeqCst)
            && self.0.thread.load(Ordering::Relaxed) != this_thread();
        if is_needed && self.0.sleeps.swap(false, Ordering::SeqCst) {
            (self.0.rouse)();
        }
    }

    /// Whether something is ready.
    pub fn has_ready(&self) -> bool {
        !lock(&self.0.list).is_empty()
    }

    /// What is ready, the oldest first; handles that are gone are passed over.
    pub fn next_ready(&self) -> Option<Ready> {
        let mut list = lock(&self.0.list);
        while let Some(source) = list.front() {
            let set = source.set.load(Ordering::SeqCst);
            let lowest = set & set.wrapping_neg();
            let left = source.set.fetch_and(!lowest, Ordering::SeqCst) & !lowest;
            let ready = Ready::of(lowest, source.id);
            let is_closed = source.is_closed.load(Ordering::Relaxed);
            // A bit that is set from now on puts it on the list anew.
            if left == 0 {
                list.pop_front();
            }
            if ready.is_some() && !is_closed {
                return ready;
            }
        }
        None
    }
}

/// Who is woken.
enum To {
    /// The list of the loop.
    List(Board),
    /// A thread that waits.
    Thread(Mutex<bool>, Condvar),
    /// A future.
    Task(core::task::Waker),
}

/// Something that is waited for: a handle, or the agent itself.
struct Source {
    id: Id,
    set: AtomicU16,
    is_closed: AtomicBool,
    to: To,
}

/// Makes the loop look at something again, or a thread that waits.
#[derive(Clone)]
pub struct Waker {
    source: Arc<Source>,
    bit: u16,
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker")
            .field("id", &self.source.id)
            .field("bit", &self.bit)
            .finish_non_exhaustive()
    }
}

impl Waker {
    fn new(id: Id, to: To, bit: u16) -> Self {
        let (set, is_closed) = (AtomicU16::new(0), AtomicBool::new(false));
        Waker { source: Arc::new(Source { id, set, is_closed, to }), bit }
    }

    /// Of a new source in the loop's list.
    pub(super) fn listed(board: &Board, bit: u16) -> Self {
        /// Of the process: agents that share a loop share no id.
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = Id(IDS.fetch_add(1, Ordering::Relaxed));
        Waker::new(id, To::List(board.clone()), bit)
    }

    /// Of a future that polls what has wakers of this kind.
    pub fn task(waker: &core::task::Waker) -> Self {
        Waker::new(Id(0), To::Task(waker.clone()), bit::RING)
    }

    /// For the same source.
    pub(super) fn with(&self, bit: u16) -> Self {
        Waker { source: Arc::clone(&self.source), bit }
    }

    pub(super) fn id(&self) -> Id {
        self.source.id
    }

    /// Nothing more is told of this source.
    pub(super) fn close(&self) {
        self.source.is_closed.store(true, Ordering::Relaxed);
    }

    /// Of this thread.
    fn here() -> Self {
        std::thread_local! {
            static HERE: Waker =
                Waker::new(Id(0), To::Thread(Mutex::new(false), Condvar::new()), bit::RING);
        }
        HERE.with(Waker::clone)
    }

    /// Waits until this thread's waker is called, or until then; whether it was called.
    fn wait(&self, clock: &impl Clock, until: Option<Instant>) -> bool {
        let To::Thread(rung, rings) = &self.source.to else { return true };
        let mut rung = lock(rung);
        while !*rung {
            rung = match until {
                None => rings.wait(rung).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.since(clock.now());
                    if left.is_zero() {
                        return false;
                    }
                    rings.wait_timeout(rung, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        *rung = false;
        true
    }
}

impl Waken for Waker {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.source, &other.source) && self.bit == other.bit
    }

    fn wake(self) {
        match &self.source.to {
            To::Thread(rung, rings) => {
                *lock(rung) = true;
                rings.notify_all();
            }
            To::Task(waker) => waker.wake_by_ref(),
            To::List(board) if self.bit & (bit::TURN | bit::CHORES) != 0 => {
                board.demand(self.bit);
                board.rouse();
            }
            To::List(board) => {
                if self.source.set.fetch_or(self.bit, Ordering::SeqCst) == 0 {
                    lock(&board.0.list).push_back(Arc::clone(&self.source));
                }
                board.rouse();
            }
        }
    }
}

/// Polls on this thread until there is a result or the time is over. `poll` gets the thread's
/// waker.
pub fn block<T>(
    clock: &impl Clock,
    timeout: Option<Duration>,
    mut poll: impl FnMut(&Waker) -> Poll<T>,
) -> Option<T> {
    let waker = Waker::here();
    let until = timeout.map(|timeout| clock.now() + timeout);
    loop {
        if let Poll::Ready(result) = poll(&waker) {
            return Some(result);
        }
        if !waker.wait(clock, until) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests;
