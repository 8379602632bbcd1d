//! Tasks of this agent (`wire.md` 12): those that it has submitted and those that it works on.
//! What may happen to them is decided by `pilot_core::service::tasks`; here are the store, the
//! one thread that uses it, and the streams.
//!
//! * [`desk`]: board and store together.
//! * [`store`]: the file `tasks.redb`.
//! * [`mod@talk`]: the bytes of one stream to the other side of tasks.
//!
//! Whatever is done goes as a job to one thread. It does all jobs that wait, makes their changes
//! durable in one commit, and only then answers: what was answered survives a power loss, and
//! many tasks at a time cost one sync.

mod desk;
mod store;
mod talk;

#[cfg(test)]
mod tests;

pub(crate) use desk::{AnySigner, Desk};
pub(crate) use talk::{Admit, Admitted, talk};

use crate::error::{Code, Failure};
use pilot_core::addr::Address;
use pilot_core::crypto::IdentityKey;
use pilot_core::crypto::task::TaskId;
use pilot_core::service::tasks::{Calls, Party, Streams, Talk, TasksError, Turn, Verdict, Worked};
use pilot_core::time::{Instant, UnixTime};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::Store;
use tokio::sync::{broadcast, oneshot, watch};

/// Jobs whose changes share a commit.
const BATCH: usize = 512;
/// Changes that wait for one who follows them; who is slower misses some, and is told.
const CHANGES: usize = 1024;
/// The clock is looked at so often at least, since it may be set.
const LOOK: Duration = Duration::from_secs(10);

/// Says to whoever waits for a job that it is durable, or why not.
type Reply = Box<dyn FnOnce(Result<(), Failure>) + Send>;
/// Gets the desk, or why there is none now.
type Job = Box<dyn FnOnce(Result<&mut Desk, Failure>) -> Reply + Send>;

/// All tasks of this agent.
pub(crate) struct Tasks {
    jobs: Mutex<Sender<Job>>,
    /// Counts commits that changed something.
    changed: watch::Sender<u64>,
    changes: broadcast::Sender<Arc<[TaskId]>>,
    streams: Mutex<Streams>,
    calls: Mutex<Calls>,
    /// What streams and calls measure time from.
    start: tokio::time::Instant,
}

/// What is to be done about streams.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// To whom one is to be opened.
    pub(crate) peers: Vec<Party>,
    /// When to ask again, at the latest.
    pub(crate) next: Option<tokio::time::Instant>,
}

impl Tasks {
    /// Opens the store and starts the thread. `signer` signs for the identity of this key, with
    /// the registry of that key.
    pub(crate) fn open(
        path: &Path,
        signer: AnySigner,
        key: IdentityKey,
        registry: IdentityKey,
    ) -> Result<Arc<Tasks>, Failure> {
        let desk = Desk::open(signer, key, registry, Store::open(path)?)?;
        let (jobs, waiting) = channel();
        let tasks = Arc::new(Tasks {
            jobs: Mutex::new(jobs),
            changed: watch::Sender::new(1),
            changes: broadcast::Sender::new(CHANGES),
            streams: Mutex::default(),
            calls: Mutex::default(),
            start: tokio::time::Instant::now(),
        });
        let (changed, changes) = (tasks.changed.clone(), tasks.changes.clone());
        std::thread::Builder::new()
            .name("tasks".to_owned())
            .spawn(move || work(desk, &waiting, &changed, &changes))
            .map_err(|e| Failure::io("start the thread of the tasks", e))?;
        Ok(tasks)
    }

    /// Does something with the tasks; returns when its changes are durable.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Desk) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (to, done) = oneshot::channel();
        let job: Job = Box::new(move |desk| {
            let result = desk.and_then(work);
            Box::new(move |stored| {
                let _ = to.send(stored.and(result));
            })
        });
        let stopped = || Failure::new(Code::NotRunning, "the daemon is stopping");
        lock(&self.jobs).send(job).map_err(|_| stopped())?;
        done.await.map_err(|_| stopped())?
    }

    /// Tells when anything has changed: a number that rises.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Makes those who wait for a change look again.
    pub(crate) fn nudge(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    /// Tells which tasks have changed.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Arc<[TaskId]>> {
        self.changes.subscribe()
    }

    // ---- streams ----

    fn instant(&self) -> Instant {
        Instant::START + self.start.elapsed()
    }

    fn at(&self, instant: Instant) -> tokio::time::Instant {
        self.start + instant.since(Instant::START)
    }

    /// To whom a stream is to be opened now: tell [`called`](Self::called) what came of it.
    pub(crate) async fn due(self: &Arc<Self>) -> Result<Due, Failure> {
        // Not the job's result, which is lost where others' changes could not be stored: whoever
        // is taken from the calls is called.
        let due = Arc::new(Mutex::new(Due::default()));
        let (tasks, found) = (Arc::clone(self), Arc::clone(&due));
        let looked = self.run(move |desk| {
            let (streams, mut calls) = (lock(&tasks.streams), lock(&tasks.calls));
            let (mut found, now) = (lock(&found), tasks.instant());
            while let Some(peer) = calls.poll(now, &desk.board, &streams) {
                found.peers.push(peer);
            }
            found.next = calls.deadline(&streams).map(|at| tasks.at(at));
            Ok(())
        });
        match looked.await {
            Err(failure) if failure.code == Code::NotRunning => Err(failure),
            _ => Ok(std::mem::take(&mut *lock(&due))),
        }
    }

    /// A stream that was to be opened is open, or could not be opened or is over.
    pub(crate) fn called(&self, peer: IdentityKey, is_open: bool) {
        match is_open {
            true => lock(&self.calls).handle_open(peer),
            false => lock(&self.calls).handle_close(self.instant(), peer),
        }
        self.nudge();
    }

    /// Ends the pause before the next stream to a peer; `None`: to all.
    pub(crate) fn wake(&self, peer: Option<Address>) {
        lock(&self.calls).wake(peer.map(Address::on_backbone));
        self.nudge();
    }

    /// Does on the desk what came on a stream; what that says is durable then.
    async fn work(
        &self,
        mut talk: Box<Talk>,
        number: u64,
        admitted: Option<Result<(), Verdict>>,
    ) -> Result<(Box<Talk>, Result<Worked, TasksError>), Failure> {
        let is_teller = lock(&self.streams).is_teller(talk.peer().key, number);
        let turn = Turn { now: self.instant(), unix: now(), is_teller, admitted };
        let work = move |desk: &mut Desk| {
            let worked = desk.work(&mut talk, turn);
            Ok((talk, worked))
        };
        let (mut talk, worked) = self.run(work).await?;
        talk.release();
        Ok((talk, worked))
    }

    fn begin(&self, peer: IdentityKey) -> u64 {
        lock(&self.streams).begin(peer)
    }

    fn end(&self, peer: IdentityKey, number: u64) {
        lock(&self.streams).end(peer, number);
        // Whoever takes its place has something to look for.
        self.nudge();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread: jobs, time limits, commits, answers.
fn work(
    mut desk: Desk,
    jobs: &Receiver<Job>,
    changed: &watch::Sender<u64>,
    changes: &broadcast::Sender<Arc<[TaskId]>>,
) {
    let mut has_failed = false;
    loop {
        let now = now();
        let until = desk.board.deadline().map_or(LOOK, |due| {
            LOOK.min(Duration::from_millis(due.as_millis().saturating_sub(now.as_millis())))
        });
        let first = match jobs.recv_timeout(until) {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let is_usable = desk.take_back();
        let batch = first.into_iter().chain(jobs.try_iter()).take(BATCH);
        let replies: Vec<Reply> = batch
            .map(|job| match &is_usable {
                Ok(()) => job(Ok(&mut desk)),
                Err(failure) => job(Err(failure.clone())),
            })
            .collect();
        let stored = is_usable.and_then(|()| {
            desk.board.handle_time(self::now());
            desk.commit()
        });
        let result = stored.as_ref().map(|_| ()).map_err(Clone::clone);
        for reply in replies {
            reply(result.clone());
        }
        match stored {
            Ok(ids) => {
                // Who has failed with others' changes has something to look for again.
                if has_failed || !ids.is_empty() {
                    changed.send_modify(|n| *n += 1);
                }
                if !ids.is_empty() {
                    // Nobody may follow.
                    let _ = changes.send(ids.into());
                }
                has_failed = false;
            }
            Err(_) => {
                has_failed = true;
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// The time of day, by which the limits of tasks run.
#[expect(clippy::disallowed_methods, reason = "statements carry the time of day")]
pub(crate) fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime::from_millis(since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}

/// A fresh id.
pub(crate) fn random_id() -> Result<TaskId, Failure> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|e| Failure::new(Code::Internal, format!("no randomness: {e}")))?;
    Ok(TaskId(id))
}
