//! Carries what is in the outbox to its receivers. For each receiver that something waits for
//! there is one task that carries messages, in the order in which they were put there and many at
//! a time ([`messages`]), one that
//! carries small files and [`FILES`] that carry any: each has a stream of its own, and streams
//! share the path fairly, so that no large file holds up what is small. Where a receiver is not
//! reached, or has no room, a task tries again after a pause that doubles, or at once when a path
//! to it comes up or something else for it comes.

mod means;
mod messages;
mod take_back;

pub(crate) use take_back::take_back;

use super::Shared;
use super::offer::{from_send, is_hopeless};
use crate::error::{Code, Failure};
use crate::services::outbox::{Content, Item, ItemState, Lane, Outbox, Reason};
use crate::services::send::{Conversation, Interrupted, Memory, Progress, SendError};
use means::{Guarded, Means};
use messages::carry_messages;
use pilot_core::addr::Address;
use pilot_core::node::{Link, PathKind};
use pilot_core::service::exchange::{Offer, TransferId};
use pilot_tokio::{AgentEvent, Events, RecvError};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

/// The first pause after an attempt that failed, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// No pause is shorter, whatever a peer does to its paths.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Opening a stream takes no longer, nor does a small message, so that the next attempt starts from
/// what is known then. A file takes as long as it moves.
const ATTEMPT: Duration = Duration::from_secs(20);
/// Bytes of a message in a second beyond that: it starts again from nothing, and what takes longer
/// would never arrive.
const SLOWEST: u64 = 4 * 1024;
/// Attempts at a time over all receivers, with messages, and with files.
const ATTEMPTS: usize = 64;
/// Files of any size at a time to one receiver.
const FILES: u8 = 3;

/// The tasks that carry, by receiver on the backbone.
pub(crate) struct Courier {
    tasks: Mutex<BTreeMap<(Address, Lane), Arc<Notify>>>,
    messages: Semaphore,
    files: Semaphore,
}

impl Default for Courier {
    fn default() -> Self {
        let (messages, files) = (Semaphore::new(ATTEMPTS), Semaphore::new(ATTEMPTS));
        Courier { tasks: Mutex::default(), messages, files }
    }
}

impl Courier {
    fn tasks(&self) -> MutexGuard<'_, BTreeMap<(Address, Lane), Arc<Notify>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the pauses before the next attempts, where there are tasks.
    fn wake(&self, peer: Address) {
        for lane in lanes() {
            if let Some(wake) = self.tasks().get(&(peer.on_backbone(), lane)) {
                wake.notify_one();
            }
        }
    }

    /// Ends a task that has nothing more to carry; false if it has after all.
    fn end(&self, peer: Address, lane: Lane, has_next: impl FnOnce() -> bool) -> bool {
        let mut tasks = self.tasks();
        // Who puts something in does so before it looks for a task.
        let is_over = !has_next();
        if is_over {
            tasks.remove(&(peer, lane));
        }
        is_over
    }

    fn wake_all(&self) {
        self.tasks().values().for_each(|wake| wake.notify_one());
    }
}

fn lanes() -> impl Iterator<Item = Lane> {
    [Lane::Messages, Lane::Small].into_iter().chain((0..FILES).map(Lane::Files))
}

/// Something for `peer` was put into the outbox: somebody carries it.
pub(crate) fn carry<M: Means>(means: &Arc<M>, peer: Address) {
    let peer = peer.on_backbone();
    let mut tasks = means.courier().tasks();
    for lane in lanes() {
        if let Some(wake) = tasks.get(&(peer, lane)) {
            wake.notify_one();
        } else if means.outbox().has_next(peer, lane) {
            let wake = Arc::new(Notify::new());
            tasks.insert((peer, lane), Arc::clone(&wake));
            let means = Arc::clone(means);
            match lane {
                Lane::Messages => drop(tokio::spawn(carry_messages(means, peer, wake))),
                _ => drop(tokio::spawn(carry_files(means, peer, lane, wake))),
            }
        }
    }
}

/// Carries what an earlier process has left.
pub(super) fn start(shared: &Arc<Shared>) {
    for peer in shared.offer.outbox.receivers() {
        carry(shared, peer);
    }
}

/// Wakes the tasks when the agent tells that their receivers may be reached.
pub(super) async fn watch(shared: Arc<Shared>, mut news: Events) {
    loop {
        match news.recv().await {
            Ok(AgentEvent::PathChanged(peer, PathKind::Direct | PathKind::Relayed))
            | Ok(AgentEvent::TrustGranted(peer)) => {
                shared.courier.wake(peer);
                shared.carriers.wake(peer);
            }
            Ok(AgentEvent::LinkChanged(Link::Online)) | Err(RecvError::Lagged(_)) => {
                shared.courier.wake_all();
                shared.carriers.wake_all();
            }
            Ok(_) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

async fn carry_files<M: Means>(means: Arc<M>, peer: Address, lane: Lane, wake: Arc<Notify>) {
    let outbox = means.outbox();
    let mut wait = PAUSE;
    let mut talk = None;
    loop {
        let Some(item) = outbox.begin(peer, lane) else {
            if !means.courier().end(peer, lane, || outbox.has_next(peer, lane)) {
                continue;
            }
            if let Some(talk) = talk {
                Conversation::close(talk).await;
            }
            return;
        };
        match attempt(&*means, &item, &mut talk).await {
            Outcome::Settled => wait = PAUSE,
            Outcome::Again(reason) => {
                talk = None;
                tracing::debug!(%peer, id = %item.id, reason = reason.message, "not delivered yet");
                outbox.put_back(item.id, reason);
                wait = if pause(wait, &wake).await { PAUSE } else { (wait * 2).min(PAUSE_MAX) };
            }
        }
    }
}

/// The pause before the next attempt; true if it was ended.
async fn pause(wait: Duration, wake: &Notify) -> bool {
    tokio::time::sleep(PAUSE_MIN).await;
    tokio::select! {
        () = tokio::time::sleep(wait) => false,
        () = wake.notified() => true,
    }
}

enum Outcome {
    /// It is done with, in one way or another, or about to be: who settles it lets it be carried
    /// again if that fails.
    Settled,
    Again(Reason),
}

/// One attempt with an item; the stream of the one before is used again if it is still good.
async fn attempt<M: Means>(
    means: &M,
    item: &Item,
    talk: &mut Option<Conversation<M::Stream>>,
) -> Outcome {
    let courier = means.courier();
    let places = if item.kind.is_message() { &courier.messages } else { &courier.files };
    let Ok(_place) = places.acquire().await else {
        return Outcome::Again(reason(&Failure::new(Code::NotRunning, "the daemon is stopping")));
    };
    let mut used = talk.take();
    let sent = tokio::select! {
        sent = send(means, item, &mut used) => sent,
        // What is under way on the stream is of no use any more.
        () = gone(means.outbox(), item.id) => return Outcome::Settled,
    };
    *talk = used.filter(Conversation::is_idle);
    let (outcome, why) = match sent {
        Ok(Sent::Whole) => (ItemState::Delivered, None),
        Ok(Sent::TakenBack) => return Outcome::Settled,
        Err(error) => {
            let hopeless = is_hopeless(&error);
            let why = reason(&from_send(error, false));
            if !hopeless {
                return Outcome::Again(why);
            }
            tracing::info!(to = %item.to, id = %item.id, why = why.message, "refused for good");
            (ItemState::Refused, Some(why))
        }
    };
    let (outbox, unfinished) = (Arc::clone(means.outbox()), Arc::clone(means.unfinished()));
    let (kind, id) = (item.kind, item.id);
    let settle = move || {
        let settled = outbox.settle(id, outcome, why)?;
        // Sent again, the same file is a new one.
        if !kind.is_message()
            && let Err(error) = unfinished.end(id)
        {
            tracing::warn!(%error, %id, "cannot note that a file has arrived");
        }
        Ok(settled)
    };
    let settled: Result<io::Result<bool>, _> = tokio::task::spawn_blocking(settle).await;
    match settled {
        Ok(Ok(_)) => Outcome::Settled,
        // Its file could not be removed: it goes out again, and the receiver knows it.
        Ok(Err(e)) => Outcome::Again(reason(&Failure::io("remove it from the outbox", e))),
        Err(e) => Outcome::Again(reason(&Failure::new(Code::Internal, e.to_string()))),
    }
}

/// What has become of a content.
enum Sent {
    Whole,
    /// Nothing of it was sent: it was taken back before the receiver wanted it.
    TakenBack,
}

async fn send<M: Means>(
    means: &M,
    item: &Item,
    talk: &mut Option<Conversation<M::Stream>>,
) -> Result<Sent, SendError<Failure>> {
    let was_used = talk.is_some();
    let sent = send_over(means, item, talk).await;
    let is_stale =
        |error: &SendError<Failure>| matches!(error, SendError::Broken(_) | SendError::Protocol(_));
    // A receiver may end a stream between two transfers; a fresh one tells how things are.
    if was_used && sent.as_ref().is_err_and(is_stale) {
        *talk = None;
        return send_over(means, item, talk).await;
    }
    sent
}

async fn send_over<M: Means>(
    means: &M,
    item: &Item,
    talk: &mut Option<Conversation<M::Stream>>,
) -> Result<Sent, SendError<Failure>> {
    let outbox = means.outbox();
    let Item { id, kind, size, ref name, ref note, to, .. } = *item;
    let hash = item.hash.algorithm();
    let offer = Offer { id, kind, size, hash, name: name.clone(), note: note.clone() };
    let mut progress = |progress| match progress {
        Progress::At(sent) if !kind.is_message() => outbox.progressed(id, sent),
        Progress::Accepted(_) | Progress::At(_) => {}
    };
    let stored = {
        let (outbox, item) = (Arc::clone(outbox), item.clone());
        tokio::task::spawn_blocking(move || match item.kind.is_message() {
            true => outbox.content(&item).map(Stored::Message),
            false => outbox.open_content(&item).map(Box::new).map(Stored::File),
        })
    };
    let stored = stored.await.map_err(|e| SendError::Source(io::Error::other(e)))?;
    let stored = stored.map_err(SendError::Source)?;
    let talk = match talk {
        Some(talk) => talk,
        None => talk.insert(Conversation::open(means, to).await.map_err(SendError::Connect)?),
    };
    let (done, is_taken_back) = match stored {
        Stored::Message(content) => {
            let mut source = Guarded::new(Memory::new(&content), outbox, id);
            let transfer = talk.transfer(&offer, &mut source, &mut progress);
            let done = tokio::time::timeout(patience(size), transfer).await;
            (done.map_err(|_| SendError::TimedOut)?, source.is_taken_back)
        }
        Stored::File(content) => {
            let mut source = Guarded::new(*content, outbox, id);
            (talk.transfer(&offer, &mut source, &mut progress).await, source.is_taken_back)
        }
    };
    match done {
        Err(_) if is_taken_back => Ok(Sent::TakenBack),
        Ok(_) => Ok(Sent::Whole),
        Err(Interrupted { error, .. }) => Err(error),
    }
}

/// How long a message may take, and the answer to one that was pushed.
fn patience(size: u64) -> Duration {
    ATTEMPT + Duration::from_secs(size / SLOWEST)
}

enum Stored {
    Message(Vec<u8>),
    File(Box<Content>),
}

/// Waits until an item is settled: cancelled, while it is being sent.
async fn gone(outbox: &Outbox, id: TransferId) {
    let mut changes = outbox.changes();
    while outbox.find(id).is_some_and(|item| !item.state.is_settled()) {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn reason(failure: &Failure) -> Reason {
    Reason { code: failure.code.as_str().to_owned(), message: failure.message.clone() }
}

#[cfg(test)]
mod tests;
