//! Tasks over the agent's streams: port 1003, and a carrier for each peer that something is to
//! be told to or whose word is waited for.

use super::Shared;
use super::identity;
use super::node::Node;
use super::offer::Listening;
use crate::error::{Code, Failure};
use crate::services::accept::{AcceptLimits, accept_all};
use crate::tasks::{Admit, Tasks, now, talk};
use pilot_core::addr::{Address, Port};
use pilot_core::crypto::task::TaskId;
use pilot_core::crypto::{IdentityKey, Rights};
use pilot_core::service::tasks::{Party, Verdict};
use pilot_tokio::DirectoryError;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The first pause after a stream that could not be opened or broke, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// No pause is shorter, whatever a peer does.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Opening a stream takes no longer.
const ATTEMPT: Duration = Duration::from_secs(20);
/// A score that was told longer ago is asked for again; the registry has so long to answer.
const SCORE_AGE: Duration = Duration::from_secs(60);
const SCORE_TIME: Duration = Duration::from_secs(10);
/// Scores that are remembered.
const SCORES: usize = 4096;
/// What the registry would not take now is handed in again after so long.
const HAND_IN_AGAIN: Duration = Duration::from_secs(60);
/// Streams of one peer: more than one only while an older one is dying.
const STREAMS_OF_PEER: usize = 4;

/// Those who carry, by peer.
#[derive(Default)]
pub(crate) struct Carriers {
    tasks: OnceLock<Arc<Tasks>>,
    waking: Mutex<BTreeMap<IdentityKey, (Address, Arc<Notify>)>>,
    /// Reputations, and when they were told.
    scores: Mutex<BTreeMap<IdentityKey, (i64, Instant)>>,
}

impl Carriers {
    fn waking(&self) -> MutexGuard<'_, BTreeMap<IdentityKey, (Address, Arc<Notify>)>> {
        self.waking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tasks; there are none before the registry has told its key.
    pub(crate) fn tasks(&self) -> Result<&Arc<Tasks>, Failure> {
        self.tasks.get().ok_or_else(|| {
            Failure::new(Code::NotRegistered, "tasks need an address, which is not there yet")
        })
    }

    /// A peer's score, as the registry has told it not long ago; none if it does not answer.
    async fn score(&self, node: &Node, peer: Party) -> Option<i64> {
        let known = self.scores().get(&peer.key).copied();
        if let Some((score, _)) = known.filter(|(_, at)| at.elapsed() < SCORE_AGE) {
            return Some(score);
        }
        let asked = tokio::time::timeout(SCORE_TIME, node.agent.reputation(peer.address)).await;
        let score = match asked {
            Ok(Ok(reputation)) => reputation.score(),
            Ok(Err(error)) => {
                tracing::info!(peer = %peer.address, %error, "a reputation is not told");
                return None;
            }
            Err(_) => {
                tracing::info!(peer = %peer.address, "the registry tells no reputation in time");
                return None;
            }
        };
        let mut scores = self.scores();
        if scores.len() >= SCORES {
            scores.clear();
        }
        scores.insert(peer.key, (score, Instant::now()));
        Some(score)
    }

    fn scores(&self) -> MutexGuard<'_, BTreeMap<IdentityKey, (i64, Instant)>> {
        self.scores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the pause before the next stream to a peer.
    pub(super) fn wake(&self, peer: Address) {
        let peer = peer.on_backbone();
        self.waking().values().filter(|(at, _)| *at == peer).for_each(|(_, w)| w.notify_one());
    }

    pub(super) fn wake_all(&self) {
        self.waking().values().for_each(|(_, wake)| wake.notify_one());
    }
}

/// A peer by its address: who it is, if it is trusted.
pub(crate) fn party(node: &Node, address: Address) -> Option<Party> {
    let address = address.on_backbone();
    let peers = node.agent.trusted();
    let peer = peers.iter().find(|peer| peer.address == address)?;
    Some(Party { address, key: peer.identity })
}

/// Who may submit tasks: whoever has the right, and the reputation that is asked for.
fn admit(shared: &Arc<Shared>) -> Admit {
    let shared = Arc::downgrade(shared);
    Arc::new(move |peer: Party| {
        let shared = shared.clone();
        Box::pin(async move {
            let Some(shared) = shared.upgrade() else { return Err(Verdict::Failed) };
            let agent = &shared.node.agent;
            if !agent.rights(peer.address).is_some_and(|r| r.contains(Rights::TASKS)) {
                return Err(Verdict::NotPermitted);
            }
            let Some(least) = shared.settings.min_reputation else { return Ok(()) };
            match shared.carriers.score(&shared.node, peer).await {
                Some(score) if score >= least => Ok(()),
                Some(_) => Err(Verdict::Reputation),
                // Asked again when the submitter tells it again.
                None => Err(Verdict::Failed),
            }
        })
    })
}

/// Opens the tasks, serves the port, and carries what is to be told.
pub(super) fn start(shared: &Arc<Shared>) -> Result<(), Failure> {
    let Some(registry) = shared.node.agent.info().registry_key else { return Ok(()) };
    let identity = identity::load_or_create(&shared.home.identity())?;
    let tasks = Tasks::open(&shared.home.tasks(), identity, registry)?;
    let _ = shared.carriers.tasks.set(Arc::clone(&tasks));
    let streams = Listening(shared.node.listen(Port::TASKS)?);
    let limits = AcceptLimits { per_peer: STREAMS_OF_PEER, ..AcceptLimits::default() };
    let (node, admit) = (shared.node.clone(), admit(shared));
    let serving = Arc::clone(&tasks);
    let serve = move |stream, address: Address| {
        let (tasks, admit, peer) = (Arc::clone(&serving), admit.clone(), party(&node, address));
        async move {
            let Some(peer) = peer else { return };
            if let Err(error) = talk(&tasks, peer, stream, admit, false).await {
                tracing::info!(peer = %peer.address, %error, "a stream of tasks was closed");
            }
        }
    };
    tokio::spawn(accept_all(streams, limits, serve));
    tokio::spawn(hand_in(Arc::clone(shared), Arc::clone(&tasks)));
    tokio::spawn(watch(Arc::clone(shared), tasks));
    Ok(())
}

/// Sees to it that there is a carrier for each peer that needs one.
async fn watch(shared: Arc<Shared>, tasks: Arc<Tasks>) {
    let mut changed = tasks.changed();
    loop {
        let peers = match tasks.run(|desk| Ok(desk.board.peers())).await {
            Ok(peers) => peers,
            Err(failure) if failure.code == Code::NotRunning => return,
            Err(_) => Vec::new(),
        };
        for peer in peers {
            let mut waking = shared.carriers.waking();
            if waking.contains_key(&peer.key) {
                continue;
            }
            let wake = Arc::new(Notify::new());
            waking.insert(peer.key, (peer.address, Arc::clone(&wake)));
            tokio::spawn(carry(Arc::clone(&shared), Arc::clone(&tasks), peer, wake));
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Opens streams to a peer until there is nothing more to tell or to wait for.
async fn carry(shared: Arc<Shared>, tasks: Arc<Tasks>, peer: Party, wake: Arc<Notify>) {
    let mut pause = PAUSE;
    let mut changed = tasks.changed();
    loop {
        changed.mark_unchanged();
        let is_needed = tasks.run(move |desk| {
            let is_untold = desk.board.untold(peer.key).next().is_some();
            Ok(is_untold || desk.board.is_following(peer.key))
        });
        match is_needed.await {
            Ok(true) if tasks.is_connected(peer.key) => {
                // Either end's stream serves both.
                if changed.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Ok(true) => {}
            _ => {
                shared.carriers.waking().remove(&peer.key);
                // What was changed since was left to this carrier.
                tasks.nudge();
                return;
            }
        }
        match attempt(&shared, &tasks, peer).await {
            Ok(()) => pause = PAUSE,
            Err(failure) => {
                tracing::debug!(peer = %peer.address, %failure, "no stream for tasks");
                give_up(&tasks, peer, &failure).await;
            }
        }
        tokio::time::sleep(PAUSE_MIN).await;
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            () = wake.notified() => pause = PAUSE,
        }
    }
}

/// Opens a stream and talks until it ends.
async fn attempt(shared: &Arc<Shared>, tasks: &Arc<Tasks>, peer: Party) -> Result<(), Failure> {
    let stream = shared.node.connect(peer.address, Port::TASKS, Some(ATTEMPT)).await?;
    talk(tasks, peer, stream, admit(shared), true)
        .await
        .map_err(|e| Failure::new(Code::Ended, e.to_string()))
}

/// Ends the tasks for which no stream will ever be there.
async fn give_up(tasks: &Arc<Tasks>, peer: Party, failure: &Failure) {
    let only_new = match failure.code {
        // What the worker has, it may still tell over a stream of its own.
        Code::NotPermitted => true,
        Code::NotTrusted => false,
        _ => return,
    };
    let give_up = move |desk: &mut crate::tasks::Desk| {
        desk.board.give_up(peer.key, Verdict::NotPermitted, only_new, now());
        Ok(())
    };
    if let Err(failure) = tasks.run(give_up).await {
        tracing::warn!(%failure, "cannot note that tasks are refused");
    }
}

/// Hands receipts in to the registry until they are counted, or never will be.
async fn hand_in(shared: Arc<Shared>, tasks: Arc<Tasks>) {
    let mut changed = tasks.changed();
    // Those that were not taken, so that they are not asked about all the time.
    let mut later: BTreeMap<TaskId, Instant> = BTreeMap::new();
    loop {
        changed.mark_unchanged();
        let now = Instant::now();
        later.retain(|_, at| *at > now);
        let due = tasks.run(|desk| Ok(desk.board.receipts().copied().collect::<Vec<_>>())).await;
        let due = match due {
            Ok(due) => due,
            Err(failure) if failure.code == Code::NotRunning => return,
            Err(_) => Vec::new(),
        };
        for receipt in due {
            let id = receipt.claim.task;
            if later.contains_key(&id) {
                continue;
            }
            match shared.node.agent.submit_receipt(&receipt).await {
                Err(error) if is_passing(&error) => {
                    tracing::debug!(task = %id, %error, "a receipt is not counted yet");
                    let pause = again_after(&error);
                    later.insert(id, Instant::now() + pause);
                    if pause <= HAND_IN_AGAIN {
                        // It is not about this receipt: the others wait, too.
                        break;
                    }
                    continue;
                }
                Err(error) => tracing::info!(task = %id, %error, "a receipt does not count"),
                Ok(()) => {}
            }
            let counted = move |desk: &mut crate::tasks::Desk| {
                desk.board.counted(id);
                Ok(())
            };
            if tasks.run(counted).await.is_err() {
                later.insert(id, Instant::now() + HAND_IN_AGAIN);
            }
        }
        let next = later.values().min().copied();
        tokio::select! {
            changed = changed.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = sleep_until(next) => {}
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn is_passing(error: &DirectoryError) -> bool {
    use pilot_core::node::RequestError::{RateLimited, Unreachable, Unsupported};
    match error {
        DirectoryError::Request(error) => {
            // An older registry may be replaced by one that counts.
            matches!(error, RateLimited(_) | Unreachable | Unsupported)
        }
        _ => true,
    }
}

fn again_after(error: &DirectoryError) -> Duration {
    match error {
        DirectoryError::Request(pilot_core::node::RequestError::RateLimited(ms)) => {
            Duration::from_millis(u64::from(*ms)).max(PAUSE)
        }
        _ => HAND_IN_AGAIN,
    }
}
