//! Group commit: one thread owns all writing.
//!
//! Whatever is queued while a transaction is being synced goes into the next one, so the
//! number of syncs a second, not of commits, is what the disk limits. A commit's outcome is
//! delivered only after the sync.
//!
//! **What "failed" means.** When a write or sync fails, redb refuses all further work until
//! the file is opened again, and whether the failed transaction will be found there is
//! unknown. Its commits are answered "failed", and the previous values of what they touched
//! are remembered. When the file opens again, its batch number tells whether the transaction
//! did become durable; if so it is undone before anything else is written. So within one run
//! of the server, what was answered "failed" is not in the store, and what was answered "done"
//! is. (After a crash in between, a failed fact may be found; the machine then loads it like
//! any other, and requests are idempotent.)
//!
//! | state | event | next |
//! |---|---|---|
//! | open | batch written | open: commits done |
//! | open | batch failed | closed, in doubt: commits failed |
//! | closed | batch, reopening fails | closed: commits failed |
//! | closed | batch, reopened, doubt not found | open, batch is written |
//! | closed | batch, reopened, doubt found | undone, then open, batch is written |

use crate::store::{BATCH, FACTS, Fact, META, Opened, Opener, Snapshot, StoreError, begin};
use redb::{Database, ReadableDatabase, ReadableTable};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Commits that wait for the disk. Full: the server takes no more from the machine, which
/// then tells its clients.
const QUEUE_COMMITS: usize = 8192;
/// Bytes of keys and values that wait for the disk.
const QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// Facts that become durable together.
#[derive(Debug)]
pub(crate) struct Batch<Id> {
    pub(crate) id: Id,
    pub(crate) facts: Vec<Fact>,
}

impl<Id> Batch<Id> {
    fn bytes(&self) -> usize {
        let fact = |f: &Fact| 64 + f.key.len() + f.value.as_ref().map_or(0, Vec::len);
        self.facts.iter().map(fact).sum()
    }
}

/// Why commits failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// No room on the device.
    Full,
    /// Anything else.
    Io,
}

/// Told on the store's own thread, with no lock held, once the disk has answered.
pub(crate) type Deliver<Id> = Box<dyn FnMut(Vec<Id>, Result<(), Failure>) + Send>;

struct Queue<Id> {
    batches: Vec<Batch<Id>>,
    bytes: usize,
    closed: bool,
}

struct Shared<Id> {
    path: PathBuf,
    queue: Mutex<Queue<Id>>,
    wake: Condvar,
    /// Absent after a failure, until it could be opened again.
    database: Mutex<Option<Arc<Database>>>,
    /// Number of the last durable transaction.
    batch: AtomicU64,
    failures: AtomicU64,
}

/// A store in service. Dropping it commits what is queued and closes the file.
pub(crate) struct Store<Id> {
    shared: Arc<Shared<Id>>,
    worker: Option<JoinHandle<()>>,
}

impl<Id: Send + 'static> Store<Id> {
    /// Starts the thread that commits.
    pub(crate) fn start(opened: Opened, deliver: Deliver<Id>) -> Result<Self, StoreError> {
        let Opened { path, database, opener, .. } = opened;
        let batch = Snapshot::of(&path, &database)?.batch()?;
        let shared = Arc::new(Shared {
            path: path.clone(),
            queue: Mutex::new(Queue { batches: Vec::new(), bytes: 0, closed: false }),
            wake: Condvar::new(),
            database: Mutex::new(Some(Arc::new(database))),
            batch: AtomicU64::new(batch),
            failures: AtomicU64::new(0),
        });
        let mut writer = Writer { shared: shared.clone(), opener, deliver, doubt: None };
        let worker = std::thread::Builder::new()
            .name("registry-store".into())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::io(&path, error))?;
        Ok(Store { shared, worker: Some(worker) })
    }

    /// Whether a commit would be taken.
    pub(crate) fn has_room(&self) -> bool {
        let queue = self.shared.queue.lock().unwrap();
        queue.batches.len() < QUEUE_COMMITS && queue.bytes < QUEUE_BYTES
    }

    /// Queues a commit. The caller asks [`Self::has_room`] first; one commit more than the
    /// bounds is taken all the same.
    pub(crate) fn submit(&self, batch: Batch<Id>) {
        let mut queue = self.shared.queue.lock().unwrap();
        queue.bytes += batch.bytes();
        queue.batches.push(batch);
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// The number of the last durable transaction: changes when the store did.
    pub(crate) fn batch(&self) -> u64 {
        self.shared.batch.load(Ordering::Acquire)
    }

    /// How many transactions failed.
    pub(crate) fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    /// The store as it is now, or an error while its disk fails.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let database = self.shared.database.lock().unwrap().clone();
        match database {
            Some(database) => Snapshot::of(&self.shared.path, &database),
            None => Err(StoreError::redb(&self.shared.path, redb::Error::PreviousIo)),
        }
    }
}

impl<Id> Drop for Store<Id> {
    fn drop(&mut self) {
        self.shared.queue.lock().unwrap().closed = true;
        self.shared.wake.notify_one();
        if let Some(worker) = self.worker.take() {
            // A panic over there was reported by its own hook.
            let _ = worker.join();
        }
    }
}

/// The failed transaction that may turn out to be durable.
struct Doubt {
    batch: u64,
    /// Stored key and previous value, in the order of writing.
    undo: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

struct Writer<Id> {
    shared: Arc<Shared<Id>>,
    opener: Opener,
    deliver: Deliver<Id>,
    doubt: Option<Doubt>,
}

impl<Id> Writer<Id> {
    fn run(&mut self) {
        while let Some(batches) = self.next() {
            let outcome = self.commit(&batches);
            let ids = batches.into_iter().map(|batch| batch.id).collect();
            (self.deliver)(ids, outcome);
        }
    }

    /// Everything that is queued, waiting for the first; `None` once closed and empty.
    fn next(&self) -> Option<Vec<Batch<Id>>> {
        let mut queue = self.shared.queue.lock().unwrap();
        while queue.batches.is_empty() && !queue.closed {
            queue = self.shared.wake.wait(queue).unwrap();
        }
        queue.bytes = 0;
        let batches = std::mem::take(&mut queue.batches);
        (!batches.is_empty()).then_some(batches)
    }

    fn commit(&mut self, batches: &[Batch<Id>]) -> Result<(), Failure> {
        let path = self.shared.path.clone();
        self.database().and_then(|database| self.write(&path, &database, batches)).map_err(
            |error| {
                self.shared.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, commits = batches.len(), "the store could not commit");
                match error {
                    StoreError::Full { .. } => Failure::Full,
                    _ => Failure::Io,
                }
            },
        )
    }

    /// The open database; opened again, and the doubt settled, if the last write failed.
    fn database(&mut self) -> Result<Arc<Database>, StoreError> {
        let open = self.shared.database.lock().unwrap().clone();
        if let Some(database) = open {
            return Ok(database);
        }
        let path = &self.shared.path;
        let database = (self.opener)(path)?;
        let found = Snapshot::of(path, &database)?.batch()?;
        let doubt = self.doubt.as_ref().filter(|doubt| doubt.batch == found);
        let batch = match doubt {
            Some(doubt) => undo(&database, doubt).map_err(|e| StoreError::redb(path, e))?,
            None => found,
        };
        tracing::info!(undone = doubt.is_some(), "the store is open again");
        self.doubt = None;
        self.shared.batch.store(batch, Ordering::Release);
        let database = Arc::new(database);
        *self.shared.database.lock().unwrap() = Some(database.clone());
        Ok(database)
    }

    fn write(
        &mut self,
        path: &Path,
        database: &Database,
        batches: &[Batch<Id>],
    ) -> Result<(), StoreError> {
        let batch = self.shared.batch.load(Ordering::Acquire) + 1;
        let mut undo = Vec::new();
        let facts = batches.iter().flat_map(|batch| &batch.facts);
        match write(database, batch, facts, &mut undo) {
            Ok(()) => {
                self.shared.batch.store(batch, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                self.doubt = Some(Doubt { batch, undo });
                *self.shared.database.lock().unwrap() = None;
                Err(StoreError::redb(path, error))
            }
        }
    }
}

fn write<'f>(
    database: &Database,
    batch: u64,
    facts: impl Iterator<Item = &'f Fact>,
    undo: &mut Vec<(Vec<u8>, Option<Vec<u8>>)>,
) -> Result<(), redb::Error> {
    let txn = begin(database)?;
    {
        let mut table = txn.open_table(FACTS)?;
        for fact in facts {
            let key = fact.stored_key();
            let previous = match &fact.value {
                Some(value) => table.insert(key.as_slice(), value.as_slice())?,
                None => table.remove(key.as_slice())?,
            };
            let previous = previous.map(|value| value.value().to_vec());
            undo.push((key, previous));
        }
        txn.open_table(META)?.insert(BATCH, batch)?;
    }
    Ok(txn.commit()?)
}

/// Takes a transaction back that was answered "failed"; the number of the one that does so.
fn undo(database: &Database, doubt: &Doubt) -> Result<u64, redb::Error> {
    let txn = begin(database)?;
    {
        let mut table = txn.open_table(FACTS)?;
        for (key, previous) in doubt.undo.iter().rev() {
            match previous {
                Some(value) => table.insert(key.as_slice(), value.as_slice()).map(drop)?,
                None => table.remove(key.as_slice()).map(drop)?,
            }
        }
        txn.open_table(META)?.insert(BATCH, doubt.batch + 1)?;
    }
    txn.commit()?;
    Ok(doubt.batch + 1)
}
