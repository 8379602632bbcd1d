//! Tasks of this agent (`wire.md` 12): those that it has submitted and those that it works on.
//! What may happen to them is decided by `pilot_core::service::tasks`; here are the store, the
//! one thread that uses it, and the streams.
//!
//! * [`desk`]: board and store together.
//! * [`store`]: the file `tasks.redb`.
//! * [`mod@talk`]: one stream to the other side of tasks.
//!
//! Whatever is done goes as a job to one thread. It does all jobs that wait, makes their changes
//! durable in one commit, and only then answers: what was answered survives a power loss, and
//! many tasks at a time cost one sync.

mod desk;
mod store;
mod talk;

#[cfg(test)]
mod tests;

pub(crate) use desk::Desk;
pub(crate) use store::About;
pub(crate) use talk::{Admit, talk};

use crate::error::{Code, Failure};
use desk::{Heard, Reaction};
use pilot_core::crypto::task::TaskId;
use pilot_core::crypto::{Identity, IdentityKey};
use pilot_core::time::UnixTime;
use std::collections::BTreeMap;
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
type Job = Box<dyn FnOnce(&mut Desk) -> Reply + Send>;

/// The streams to one peer.
#[derive(Default)]
struct Streams {
    open: usize,
    /// The newest one tells; the others answer.
    teller: u64,
}

/// All tasks of this agent.
pub(crate) struct Tasks {
    jobs: Mutex<Sender<Job>>,
    /// Counts commits that changed something.
    changed: watch::Sender<u64>,
    changes: broadcast::Sender<Arc<[TaskId]>>,
    streams: Mutex<BTreeMap<IdentityKey, Streams>>,
    number: Mutex<u64>,
}

impl Tasks {
    /// Opens the store and starts the thread. What is signed holds for the registry of this key.
    pub(crate) fn open(
        path: &Path,
        identity: Identity,
        registry: IdentityKey,
    ) -> Result<Arc<Tasks>, Failure> {
        let desk = Desk::open(identity, registry, Store::open(path)?)?;
        let (jobs, waiting) = channel();
        let tasks = Arc::new(Tasks {
            jobs: Mutex::new(jobs),
            changed: watch::Sender::new(1),
            changes: broadcast::Sender::new(CHANGES),
            streams: Mutex::default(),
            number: Mutex::new(0),
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
            let result = work(desk);
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

    async fn hear(
        &self,
        peer: pilot_core::service::tasks::Party,
        heard: Vec<Heard>,
        room: usize,
        asked: std::collections::BTreeSet<TaskId>,
    ) -> Result<Reaction, Failure> {
        self.run(move |desk| desk.hear(peer, &heard, room, &asked, now())).await
    }

    // ---- streams ----

    /// Whether there is a stream to a peer.
    pub(crate) fn is_connected(&self, peer: IdentityKey) -> bool {
        lock(&self.streams).contains_key(&peer)
    }

    fn begin(&self, peer: IdentityKey) -> u64 {
        let number = {
            let mut number = lock(&self.number);
            *number += 1;
            *number
        };
        let mut streams = lock(&self.streams);
        let of_peer = streams.entry(peer).or_default();
        (of_peer.open, of_peer.teller) = (of_peer.open + 1, number);
        number
    }

    /// Whether this stream is the one that tells; one that is left alone becomes it.
    fn is_teller(&self, peer: IdentityKey, number: u64) -> bool {
        let mut streams = lock(&self.streams);
        let of_peer = streams.entry(peer).or_default();
        if of_peer.teller == 0 {
            of_peer.teller = number;
        }
        of_peer.teller == number
    }

    fn end(&self, peer: IdentityKey, number: u64) {
        let mut streams = lock(&self.streams);
        if let Some(of_peer) = streams.get_mut(&peer) {
            of_peer.open -= 1;
            if of_peer.teller == number {
                of_peer.teller = 0;
            }
            if of_peer.open == 0 {
                streams.remove(&peer);
            }
        }
        drop(streams);
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
    loop {
        let now = now();
        let until = desk.board.deadline().map_or(LOOK, |due| {
            LOOK.min(Duration::from_millis(due.as_millis().saturating_sub(now.as_millis())))
        });
        let mut replies = Vec::new();
        match jobs.recv_timeout(until) {
            Ok(job) => replies.push(job(&mut desk)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while replies.len() < BATCH
            && !replies.is_empty()
            && let Ok(job) = jobs.try_recv()
        {
            replies.push(job(&mut desk));
        }
        desk.board.handle_time(self::now());
        let stored = desk.commit();
        let result = stored.as_ref().map(|_| ()).map_err(Clone::clone);
        for reply in replies {
            reply(result.clone());
        }
        match stored {
            Ok(ids) if !ids.is_empty() => {
                changed.send_modify(|n| *n += 1);
                // Nobody may follow.
                let _ = changes.send(ids.into());
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
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
