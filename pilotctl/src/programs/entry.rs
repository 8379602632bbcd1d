//! One thing that the daemon listens on for other programs: where it leads to, whether it
//! listens, and how it is used.

use crate::api::Usage;
use crate::error::Failure;
use crate::output::cleaned;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// What could not be opened is tried again so often: the other program may end.
const RETRY: Duration = Duration::from_secs(5);

/// Shared by what shows it and what serves it.
#[derive(Debug)]
pub(super) struct Entry<T> {
    /// As people know it: `forward 127.0.0.1:8080`.
    name: String,
    target: Mutex<T>,
    /// Why it does not listen.
    trouble: Mutex<Option<String>>,
    last_failure: Mutex<Option<String>>,
    open: AtomicUsize,
    served: AtomicU64,
    failed: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Clone> Entry<T> {
    pub(super) fn new(name: String, target: T) -> Arc<Self> {
        Arc::new(Entry {
            name,
            target: Mutex::new(target),
            trouble: Mutex::default(),
            last_failure: Mutex::default(),
            open: AtomicUsize::new(0),
            served: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// Where it leads to now.
    pub(super) fn target(&self) -> T {
        lock(&self.target).clone()
    }

    /// Leads to somewhere else from the next connection on; gives the target before.
    pub(super) fn retarget(&self, target: T) -> T {
        std::mem::replace(&mut lock(&self.target), target)
    }

    /// Notes how an attempt to listen went, and warns once.
    pub(super) fn noted<L>(&self, attempt: Result<L, Failure>) -> Option<L> {
        match attempt {
            Ok(listening) => {
                if lock(&self.trouble).take().is_some() {
                    tracing::info!("{} listens again", self.name);
                }
                Some(listening)
            }
            Err(failure) => {
                let before = lock(&self.trouble).replace(failure.message);
                if let (None, Some(warning)) = (before, self.warning()) {
                    tracing::warn!("{warning}");
                }
                None
            }
        }
    }

    /// What it listens on, by the attempt that was noted or by others until one succeeds.
    pub(super) async fn opened<L>(
        &self,
        noted: Option<L>,
        open: impl Fn() -> Result<L, Failure>,
    ) -> L {
        let mut listening = noted;
        loop {
            if let Some(listening) = listening {
                return listening;
            }
            tokio::time::sleep(RETRY).await;
            listening = self.noted(open());
        }
    }

    /// What its owner should know, if it does not listen.
    pub(super) fn warning(&self) -> Option<String> {
        let trouble = lock(&self.trouble);
        let trouble = trouble.as_ref()?;
        Some(format!("{} does not listen: {trouble}; trying on", self.name))
    }

    /// A connection begins; over when the result is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Connection<T> {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        Connection(Arc::clone(self))
    }

    /// A connection has come to nothing, or has broken. The log has each reason, but not each
    /// time: a program that tries on and on would leave room for nothing else in it.
    pub(super) fn failed(&self, failure: &Failure) {
        let count = self.failed.fetch_add(1, Ordering::Relaxed) + 1;
        let reason = Some(cleaned(&failure.message));
        let before = std::mem::replace(&mut *lock(&self.last_failure), reason.clone());
        let code = failure.code.as_str();
        if before != reason || count.is_power_of_two() {
            tracing::info!(code, count, "{}: {failure}", self.name);
        } else {
            tracing::debug!(code, count, "{}: {failure}", self.name);
        }
    }

    pub(super) fn usage(&self) -> Usage {
        let trouble = lock(&self.trouble).clone();
        Usage {
            state: if trouble.is_some() { "waiting" } else { "listening" }.to_owned(),
            trouble,
            open: self.open.load(Ordering::Relaxed),
            served: self.served.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            last_failure: lock(&self.last_failure).clone(),
        }
    }
}

/// Counts as open until it is dropped.
pub(super) struct Connection<T>(Arc<Entry<T>>);

impl<T> Drop for Connection<T> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An entry with the task that serves it; connections and all end when this is dropped.
pub(super) struct Running<T> {
    pub(super) entry: Arc<Entry<T>>,
    task: JoinSet<()>,
}

impl<T> Running<T> {
    pub(super) fn new(
        entry: Arc<Entry<T>>,
        serve: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let mut task = JoinSet::new();
        task.spawn(serve);
        Running { entry, task }
    }

    /// Ends it, and returns when it listens no more and every connection is cut.
    pub(super) async fn end(mut self) {
        self.task.shutdown().await;
    }
}
