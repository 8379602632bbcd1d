//! The thread that writes: commits go in, and their outcome comes out once the disk has
//! synced them.
//!
//! Group commit is the machine's doing: it gathers all changes while a commit is under way and
//! hands them out as the next one. Should several commits wait here nevertheless, they share a
//! transaction.
//!
//! After a failed write redb refuses all further work until the file is opened again, and
//! whether the failed transaction will be found in it is unknown. That does no harm: the
//! machine keeps the changes of a failed commit and hands them out again, under what came
//! later, so what is in the file and what is in memory meet as soon as the disk recovers. The
//! clients who waited were told of the failure, and requests are idempotent.
//!
//! | state | event | next |
//! |---|---|---|
//! | open | transaction synced | open: commits done |
//! | open | transaction failed | closed: commits failed |
//! | closed | commit, reopening fails | closed: commits failed |
//! | closed | commit, reopening succeeds | open, the transaction is written |

use crate::store::{Opened, Opener, Snapshot, StoreError, Tables, begin};
use pilot_core::rendezvous::Commit;
use redb::Database;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Commits that wait for the disk. The machine has one under way at a time; above this many
/// they fail at once.
const QUEUE: usize = 16;

/// Told on the store's own thread, with no lock held: a commit's number, and whether it is
/// durable.
pub(crate) type Deliver = Box<dyn FnMut(u64, bool) + Send>;

struct Shared {
    path: PathBuf,
    /// Absent after a failure, until it could be opened again.
    database: Mutex<Option<Arc<Database>>>,
    transactions: AtomicU64,
    failures: AtomicU64,
    /// The last failure was for want of room.
    is_full: AtomicBool,
}

/// A store in service. Closing or dropping it writes what is queued and closes the file.
pub(crate) struct Store {
    shared: Arc<Shared>,
    queue: Mutex<Option<SyncSender<Commit>>>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Starts the thread that writes.
    pub(crate) fn start(opened: Opened, deliver: Deliver) -> Result<Self, StoreError> {
        let Opened { path, database, opener, .. } = opened;
        let shared = Arc::new(Shared {
            path: path.clone(),
            database: Mutex::new(Some(Arc::new(database))),
            transactions: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
        });
        let (queue, commits) = mpsc::sync_channel(QUEUE);
        let mut writer = Writer { shared: shared.clone(), opener, deliver };
        let worker = std::thread::Builder::new()
            .name("registry-store".into())
            .spawn(move || writer.run(&commits))
            .map_err(|error| StoreError::io(&path, error))?;
        Ok(Store { shared, queue: Mutex::new(Some(queue)), worker: Mutex::new(Some(worker)) })
    }

    /// Queues a commit; whether there was room. If not, the caller reports it as failed.
    #[must_use]
    pub(crate) fn submit(&self, commit: Commit) -> bool {
        let queue = self.queue.lock().unwrap();
        queue.as_ref().is_some_and(|queue| queue.try_send(commit).is_ok())
    }

    /// Durable transactions since the start: changes when the store did.
    pub(crate) fn transactions(&self) -> u64 {
        self.shared.transactions.load(Ordering::Acquire)
    }

    /// Transactions that failed since the start.
    pub(crate) fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    /// The store as it is now, or an error while its disk fails.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let database = self.shared.database.lock().unwrap().clone();
        match database {
            Some(database) => Snapshot::of(&self.shared.path, &database),
            None if self.shared.is_full.load(Ordering::Relaxed) => {
                Err(StoreError::Full { path: self.shared.path.clone() })
            }
            None => Err(StoreError::redb(&self.shared.path, redb::Error::PreviousIo)),
        }
    }
}

impl Store {
    /// Writes what is queued, delivers the outcomes and closes the file; blocks until then.
    pub(crate) fn close(&self) {
        *self.queue.lock().unwrap() = None;
        let worker = self.worker.lock().unwrap().take();
        if let Some(worker) = worker {
            // A panic over there was reported by its own hook.
            let _ = worker.join();
        }
        *self.shared.database.lock().unwrap() = None;
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

struct Writer {
    shared: Arc<Shared>,
    opener: Opener,
    deliver: Deliver,
}

impl Writer {
    fn run(&mut self, commits: &Receiver<Commit>) {
        while let Ok(first) = commits.recv() {
            let mut group = vec![first];
            group.extend(commits.try_iter().take(QUEUE));
            let result = self.write(&group);
            match &result {
                Ok(()) => self.shared.transactions.fetch_add(1, Ordering::AcqRel),
                Err(error) => {
                    tracing::warn!(%error, "the store could not commit");
                    let is_full = matches!(error, StoreError::Full { .. });
                    self.shared.is_full.store(is_full, Ordering::Relaxed);
                    self.shared.failures.fetch_add(1, Ordering::Relaxed)
                }
            };
            for commit in &group {
                (self.deliver)(commit.id, result.is_ok());
            }
        }
    }

    fn write(&mut self, group: &[Commit]) -> Result<(), StoreError> {
        let open = self.shared.database.lock().unwrap().clone();
        let database = match open {
            Some(database) => database,
            None => {
                let database = Arc::new((self.opener)(&self.shared.path)?);
                *self.shared.database.lock().unwrap() = Some(database.clone());
                tracing::info!("the store is open again");
                database
            }
        };
        transact(&database, group).map_err(|error| {
            *self.shared.database.lock().unwrap() = None;
            StoreError::redb(&self.shared.path, error)
        })
    }
}

fn transact(database: &Database, group: &[Commit]) -> Result<(), redb::Error> {
    let txn = begin(database)?;
    {
        let mut tables = Tables::of(&txn);
        for change in group.iter().flat_map(|commit| &commit.changes) {
            tables.put(change)?;
        }
    }
    Ok(txn.commit()?)
}
