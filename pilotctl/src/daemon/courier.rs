//! Carries messages from the outbox to their receivers: one task for each receiver that
//! messages wait for, in the order in which they were put there. Where a receiver is not
//! reached, or has no room, the task tries again after a pause that doubles, or at once when a
//! path to it comes up or another message for it comes.

use super::Shared;
use super::offer::{Net, from_send, is_hopeless};
use crate::error::{Code, Failure};
use crate::services::outbox::{Item, ItemState, Reason};
use crate::services::send::{self, Progress, SendError};
use pilot_core::addr::Address;
use pilot_core::node::{Link, PathKind};
use pilot_core::service::exchange::{Note, TransferId};
use pilot_tokio::{AgentEvent, Events, RecvError};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

/// The first pause after an attempt that failed, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// No pause is shorter, whatever a peer does to its paths.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// An attempt takes no longer, so that the next one starts from what is known then.
const ATTEMPT: Duration = Duration::from_secs(20);
/// Attempts at a time, over all receivers.
const ATTEMPTS: usize = 64;

/// The tasks that carry, by receiver on the backbone.
pub(crate) struct Courier {
    tasks: Mutex<BTreeMap<Address, Arc<Notify>>>,
    places: Semaphore,
}

impl Default for Courier {
    fn default() -> Self {
        Courier { tasks: Mutex::default(), places: Semaphore::new(ATTEMPTS) }
    }
}

impl Courier {
    fn tasks(&self) -> MutexGuard<'_, BTreeMap<Address, Arc<Notify>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the pause before the next attempt, if there is a task.
    fn wake(&self, peer: Address) {
        if let Some(wake) = self.tasks().get(&peer.on_backbone()) {
            wake.notify_one();
        }
    }

    fn wake_all(&self) {
        self.tasks().values().for_each(|wake| wake.notify_one());
    }
}

/// A message for `peer` was put into the outbox: somebody carries it.
pub(crate) fn carry(shared: &Arc<Shared>, peer: Address) {
    let peer = peer.on_backbone();
    let mut tasks = shared.courier.tasks();
    if let Some(wake) = tasks.get(&peer) {
        wake.notify_one();
        return;
    }
    let wake = Arc::new(Notify::new());
    tasks.insert(peer, Arc::clone(&wake));
    drop(tasks);
    tokio::spawn(carry_all(Arc::clone(shared), peer, wake));
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
            | Ok(AgentEvent::TrustGranted(peer)) => shared.courier.wake(peer),
            Ok(AgentEvent::LinkChanged(Link::Online)) | Err(RecvError::Lagged(_)) => {
                shared.courier.wake_all();
            }
            Ok(_) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

async fn carry_all(shared: Arc<Shared>, peer: Address, wake: Arc<Notify>) {
    let outbox = &shared.offer.outbox;
    let mut pause = PAUSE;
    loop {
        let Some(item) = outbox.begin(peer) else {
            let mut tasks = shared.courier.tasks();
            // Who puts one in does so before it looks for a task.
            if outbox.has_next(peer) {
                continue;
            }
            tasks.remove(&peer);
            return;
        };
        match attempt(&shared, &item).await {
            Outcome::Settled => pause = PAUSE,
            Outcome::Again(reason) => {
                tracing::debug!(%peer, id = %item.id, reason = reason.message, "not delivered yet");
                outbox.put_back(item.id, reason);
                tokio::time::sleep(PAUSE_MIN).await;
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                    () = wake.notified() => pause = PAUSE,
                }
            }
        }
    }
}

enum Outcome {
    /// It is done with, in one way or another.
    Settled,
    Again(Reason),
}

async fn attempt(shared: &Arc<Shared>, item: &Item) -> Outcome {
    let Ok(_place) = shared.courier.places.acquire().await else {
        return Outcome::Again(reason(&Failure::new(Code::NotRunning, "the daemon is stopping")));
    };
    let sent = tokio::select! {
        sent = send(shared, item) => sent,
        () = gone(shared, item.id) => return Outcome::Settled,
    };
    let (outcome, why) = match sent {
        Ok(()) => (ItemState::Delivered, None),
        Err(error) => {
            let hopeless = is_hopeless(&error);
            let why = reason(&from_send(error, false));
            if !hopeless {
                return Outcome::Again(why);
            }
            tracing::info!(to = %item.to, id = %item.id, why = why.message, "a message is refused");
            (ItemState::Refused, Some(why))
        }
    };
    let (outbox, id) = (Arc::clone(&shared.offer.outbox), item.id);
    let settled = tokio::task::spawn_blocking(move || outbox.settle(id, outcome, why)).await;
    match settled {
        Ok(Ok(_)) => Outcome::Settled,
        // Its file could not be removed: it goes out again, and the receiver knows it.
        Ok(Err(e)) => Outcome::Again(reason(&Failure::io("remove a message from the outbox", e))),
        Err(e) => Outcome::Again(reason(&Failure::new(Code::Internal, e.to_string()))),
    }
}

async fn send(shared: &Arc<Shared>, item: &Item) -> Result<(), SendError<Failure>> {
    let outbox = Arc::clone(&shared.offer.outbox);
    let read = {
        let (outbox, item) = (Arc::clone(&outbox), item.clone());
        tokio::task::spawn_blocking(move || outbox.content(&item))
    };
    let content = read.await.map_err(|e| SendError::Source(io::Error::other(e)))?;
    let content = content.map_err(SendError::Source)?;
    let message = send::Message {
        kind: item.kind,
        content: &content,
        note: Note::default(),
        id: Some(item.id),
    };
    let mut progress = |progress| {
        if let Progress::Accepted(_) = progress {
            outbox.offered(item.id);
        }
    };
    let net = Net::new(shared, Some(ATTEMPT));
    let deadline = Instant::now() + ATTEMPT;
    send::send_message(&net, item.to, message, deadline, &mut progress).await.map(drop)
}

/// Waits until a message is settled: cancelled, while it is being sent.
async fn gone(shared: &Arc<Shared>, id: TransferId) {
    let outbox = &shared.offer.outbox;
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
