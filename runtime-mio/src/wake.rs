//! Who is told what: wakers, the list of what is ready, and threads that wait.

use crate::ready::Ready;
use pilot_core::drive::waiters::Waken;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Says which handle a [`Ready`] is about; no two handles of an agent share one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id(pub u64);

/// What a source may be woken for, one bit each.
pub(crate) mod bit {
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

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that no other running thread has.
fn this_thread() -> usize {
    std::thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

/// What the loop of one agent and those who wake it share.
pub(crate) struct Desk {
    /// Sources with a bit set, each once; so there are no more than handles.
    list: Mutex<VecDeque<Arc<Source>>>,
    /// [`bit::TURN`] and [`bit::CHORES`].
    due: AtomicU16,
    /// Whether the loop may be waiting for events, so that it has to be roused.
    sleeps: AtomicBool,
    /// The loop's thread, which need not be roused by itself.
    thread: AtomicUsize,
    ids: AtomicU64,
    waker: Arc<mio::Waker>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("due", &self.due).finish_non_exhaustive()
    }
}

impl Desk {
    pub(crate) fn new(waker: Arc<mio::Waker>) -> Arc<Self> {
        Arc::new(Desk {
            list: Mutex::default(),
            due: AtomicU16::new(bit::TURN | bit::CHORES),
            sleeps: AtomicBool::new(false),
            thread: AtomicUsize::new(this_thread()),
            ids: AtomicU64::new(0),
            waker,
        })
    }

    /// The loop is at work, on this thread.
    pub(crate) fn wake_up(&self) {
        self.thread.store(this_thread(), Ordering::Relaxed);
        self.sleeps.store(false, Ordering::SeqCst);
    }

    /// The loop is about to wait; `false` if it has to look again instead.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.sleeps.store(true, Ordering::SeqCst);
        let may_sleep = !self.has_ready() && self.due.load(Ordering::SeqCst) == 0;
        if !may_sleep {
            self.sleeps.store(false, Ordering::SeqCst);
        }
        may_sleep
    }

    fn rouse(&self) {
        let is_needed = self.sleeps.load(Ordering::SeqCst)
            && self.thread.load(Ordering::Relaxed) != this_thread();
        if is_needed && self.sleeps.swap(false, Ordering::SeqCst) {
            // The only failure is a full counter, and then the loop is awake.
            let _ = self.waker.wake();
        }
    }

    pub(crate) fn demand(&self, due: u16) {
        self.due.fetch_or(due, Ordering::SeqCst);
    }

    pub(crate) fn is_due(&self, due: u16) -> bool {
        self.due.load(Ordering::Relaxed) & due != 0
    }

    pub(crate) fn take_due(&self, due: u16) -> bool {
        self.is_due(due) && self.due.fetch_and(!due, Ordering::SeqCst) & due != 0
    }

    pub(crate) fn has_ready(&self) -> bool {
        !lock(&self.list).is_empty()
    }

    /// The oldest readiness; sources that are closed are passed over.
    pub(crate) fn next_ready(&self) -> Option<Ready> {
        let mut list = lock(&self.list);
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
    List(Arc<Desk>),
    /// A thread that waits.
    Thread(Mutex<bool>, Condvar),
}

/// Something that is waited for: a handle, or the agent itself.
pub(crate) struct Source {
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
    pub(crate) fn listed(desk: &Arc<Desk>, bit: u16) -> Self {
        let id = Id(desk.ids.fetch_add(1, Ordering::Relaxed));
        Waker::new(id, To::List(Arc::clone(desk)), bit)
    }

    /// For the same source.
    pub(crate) fn with(&self, bit: u16) -> Self {
        Waker { source: Arc::clone(&self.source), bit }
    }

    pub(crate) fn id(&self) -> Id {
        self.source.id
    }

    /// Nothing more is told of this source.
    pub(crate) fn close(&self) {
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
    fn wait(&self, until: Option<Instant>) -> bool {
        let To::Thread(rung, rings) = &self.source.to else { return true };
        let mut rung = lock(rung);
        while !*rung {
            rung = match until {
                None => rings.wait(rung).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(now());
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
            To::List(desk) if self.bit & (bit::TURN | bit::CHORES) != 0 => {
                desk.demand(self.bit);
                desk.rouse();
            }
            To::List(desk) => {
                if self.source.set.fetch_or(self.bit, Ordering::SeqCst) == 0 {
                    lock(&desk.list).push_back(Arc::clone(&self.source));
                }
                desk.rouse();
            }
        }
    }
}

fn now() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "timeouts of calls that block")]
    Instant::now()
}

/// Polls on this thread until there is a result or the time is over.
pub(crate) fn block<T>(
    timeout: Option<Duration>,
    mut poll: impl FnMut(&Waker) -> std::task::Poll<T>,
) -> Option<T> {
    let waker = Waker::here();
    // So long that it cannot be said is for ever.
    let until = timeout.and_then(|timeout| now().checked_add(timeout));
    loop {
        if let std::task::Poll::Ready(result) = poll(&waker) {
            return Some(result);
        }
        if !waker.wait(until) {
            return None;
        }
    }
}
