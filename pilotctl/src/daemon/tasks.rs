//! Tasks over the agent's streams: port 1003, and a carrier for each peer that something is to
//! be told to or whose word is waited for.

use super::Shared;
use super::node::Node;
use super::offer::Listening;
use crate::error::{Code, Failure};
use crate::services::accept::{AcceptLimits, accept_all};
use crate::tasks::{Admit, Admitted, Tasks, now, talk};
use pilot_core::addr::{Address, Port};
use pilot_core::crypto::task::TaskId;
use pilot_core::crypto::{IdentityKey, Rights};
use pilot_core::service::tasks::{Party, Verdict};
use pilot_tokio::{DirectoryError, Handle};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// The registry is asked again after so long, at least.
const PAUSE: Duration = Duration::from_secs(1);
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

/// What carries tasks to and fro.
#[derive(Default)]
pub(crate) struct Carriers {
    tasks: OnceLock<Arc<Tasks>>,
    /// Reputations, and when they were told.
    scores: Mutex<BTreeMap<IdentityKey, (i64, Instant)>>,
}

impl Carriers {
    /// The tasks; there are none before the registry has told its key.
    pub(crate) fn tasks(&self) -> Result<&Arc<Tasks>, Failure> {
        self.tasks.get().ok_or_else(|| {
            Failure::new(Code::NotRegistered, "tasks need an address, which is not there yet")
        })
    }

    /// A peer's score, as the registry has told it not long ago.
    fn known_score(&self, peer: Party) -> Option<i64> {
        let known = self.scores().get(&peer.key).copied();
        known.filter(|(_, at)| at.elapsed() < SCORE_AGE).map(|(score, _)| score)
    }

    /// The same, or what it tells now; none if it does not answer.
    async fn score(&self, node: &Node, peer: Party) -> Option<i64> {
        if let Some(score) = self.known_score(peer) {
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
        if let Some(tasks) = self.tasks.get() {
            tasks.wake(Some(peer));
        }
    }

    pub(super) fn wake_all(&self) {
        if let Some(tasks) = self.tasks.get() {
            tasks.wake(None);
        }
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
struct Welcome(Weak<Shared>);

fn is_enough(score: i64, least: i64) -> Result<(), Verdict> {
    if score >= least { Ok(()) } else { Err(Verdict::Reputation) }
}

impl Admit for Welcome {
    fn known(&self, peer: Party) -> Option<Result<(), Verdict>> {
        let Some(shared) = self.0.upgrade() else { return Some(Err(Verdict::Failed)) };
        let rights = shared.node.agent.rights(peer.address);
        if !rights.is_some_and(|rights| rights.contains(Rights::TASKS)) {
            return Some(Err(Verdict::NotPermitted));
        }
        let Some(least) = shared.settings.min_reputation else { return Some(Ok(())) };
        Some(is_enough(shared.carriers.known_score(peer)?, least))
    }

    fn ask(&self, peer: Party) -> Admitted {
        let shared = self.0.clone();
        Box::pin(async move {
            // Asked again when the submitter tells it again.
            let shared = shared.upgrade().ok_or(Verdict::Failed)?;
            let score = shared.carriers.score(&shared.node, peer).await.ok_or(Verdict::Failed)?;
            is_enough(score, shared.settings.min_reputation.unwrap_or(score))
        })
    }
}

fn admit(shared: &Arc<Shared>) -> Arc<dyn Admit> {
    Arc::new(Welcome(Arc::downgrade(shared)))
}

/// Opens the tasks, serves the port, and carries what is to be told.
pub(super) fn start(shared: &Arc<Shared>) -> Result<(), Failure> {
    let info = shared.node.agent.info();
    let Some(registry) = info.registry_key else { return Ok(()) };
    let signer = Box::new(Handle::clone(&shared.node.agent));
    let tasks = Tasks::open(&shared.home.tasks(), signer, info.identity, registry)?;
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

/// Sees to it that there is a stream to each peer that needs one.
async fn watch(shared: Arc<Shared>, tasks: Arc<Tasks>) {
    let mut changed = tasks.changed();
    loop {
        changed.mark_unchanged();
        // It fails only where the daemon stops.
        let Ok(due) = tasks.due().await else { return };
        for peer in due.peers {
            tokio::spawn(carry(Arc::clone(&shared), Arc::clone(&tasks), peer));
        }
        tokio::select! {
            changed = changed.changed() => if changed.is_err() {
                return;
            },
            () = sleep_until(due.next) => {}
        }
    }
}

/// Opens a stream to a peer, and talks until it ends.
async fn carry(shared: Arc<Shared>, tasks: Arc<Tasks>, peer: Party) {
    let stream = shared.node.connect(peer.address, Port::TASKS, Some(ATTEMPT)).await;
    match stream {
        Ok(stream) => {
            tasks.called(peer.key, true);
            if let Err(error) = talk(&tasks, peer, stream, admit(&shared), true).await {
                tracing::debug!(peer = %peer.address, %error, "a stream of tasks broke");
            }
        }
        Err(failure) => {
            tracing::debug!(peer = %peer.address, %failure, "no stream for tasks");
            give_up(&tasks, peer, &failure).await;
        }
    }
    tasks.called(peer.key, false);
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
