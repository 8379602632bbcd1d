//! All tasks of one agent, on both sides.

use super::Verdict;
use super::content::About;
use super::record::BadRecord;
use super::signer::{Own, Signer};
use super::task::{ActError, Next, Party, Task, check_content};
use crate::crypto::IdentityKey;
use crate::crypto::task::statement::submission;
use crate::crypto::task::{Claim, Head, Outcome, Receipt, Side, State, Statement, Step, TaskId};
use crate::limits::{TASK_ANSWER, TASK_QUEUE_HEAD};
use crate::time::{Duration, UnixTime};
use alloc::collections::{BTreeMap, BTreeSet, btree_set};
use alloc::vec::Vec;
use core::fmt;

/// What could not be signed is tried again after so long.
const SIGN_AGAIN: Duration = Duration::from_secs(10);

/// The bounds of a [`Board`]. What it holds of one task is at most 90 KiB, and mostly 1 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct BoardLimits {
    /// Tasks of one submitter that we have not ended; further ones are answered full.
    pub of_peer: usize,
    /// The same of all submitters.
    pub of_all: usize,
    /// Tasks that we have submitted and that have not ended; further ones are an error.
    pub submitted: usize,
    /// Tasks that have ended; the one that ended first is forgotten for one more, those with
    /// something still to tell, or a receipt that is not counted yet, last.
    pub settled: usize,
}

impl Default for BoardLimits {
    fn default() -> Self {
        BoardLimits { of_peer: 256, of_all: 2048, submitted: 4096, settled: 2048 }
    }
}

/// What is to be told to the other side of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant, reason = "it lives for one call")]
pub enum Tell<'t> {
    /// A statement of ours.
    Statement {
        /// Which.
        statement: &'t Statement,
        /// What it is about; `None`: the owner has it, under its task and step.
        content: Option<&'t [u8]>,
    },
    /// A claim to be countersigned.
    Claim(&'t Claim),
}

/// Where a task stands in the board's lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Place {
    untold: Option<IdentityKey>,
    /// Of one that we submitted and that has not ended.
    following: Option<IdentityKey>,
    lapse: Option<UnixTime>,
    queued: Option<UnixTime>,
    /// Whether something is still to tell or to hand in, and when it changed last.
    settled: Option<(bool, UnixTime)>,
    open_of: Option<IdentityKey>,
    receipt: bool,
}

impl Place {
    fn of(task: &Task) -> Place {
        let is_worker = task.side == Side::Worker;
        let (is_open, state) = (!task.is_settled(), task.state());
        let is_ours = |state: State, of: State| is_worker && is_open && state == of;
        let times = task.times();
        let receipt = !task.is_counted
            && task.receipt.is_some_and(|receipt| {
                // Each side hands in what the other would rather not have counted.
                is_worker == (receipt.claim.outcome == Outcome::Succeeded)
            });
        Place {
            untold: task.to_tell().map(|_| task.peer.key),
            following: (is_open && !is_worker).then_some(task.peer.key),
            lapse: is_ours(state, State::New).then_some(times.arrived + TASK_ANSWER),
            queued: is_ours(state, State::Accepted).then_some(times.accepted),
            settled: (!is_open).then_some((!task.is_told() || receipt, task.changed)),
            open_of: (is_open && is_worker).then_some(task.peer.key),
            receipt,
        }
    }
}

#[derive(Debug, Default)]
struct Lists {
    untold: BTreeSet<(IdentityKey, TaskId)>,
    following: BTreeSet<(IdentityKey, TaskId)>,
    lapse: BTreeSet<(UnixTime, TaskId)>,
    queued: BTreeSet<(UnixTime, TaskId)>,
    settled: BTreeSet<((bool, UnixTime), TaskId)>,
    open_of: BTreeMap<IdentityKey, usize>,
    open: usize,
    receipts: BTreeSet<TaskId>,
}

fn set<K: Ord>(list: &mut BTreeSet<(K, TaskId)>, key: Option<K>, id: TaskId, is_in: bool) {
    let Some(key) = key else { return };
    match is_in {
        true => list.insert((key, id)),
        false => list.remove(&(key, id)),
    };
}

impl Lists {
    fn put(&mut self, id: TaskId, place: Place, is_in: bool) {
        set(&mut self.untold, place.untold, id, is_in);
        set(&mut self.following, place.following, id, is_in);
        set(&mut self.lapse, place.lapse, id, is_in);
        set(&mut self.queued, place.queued, id, is_in);
        set(&mut self.settled, place.settled, id, is_in);
        if let Some(key) = place.open_of {
            let of_peer = self.open_of.entry(key).or_default();
            (*of_peer, self.open) = match is_in {
                true => (*of_peer + 1, self.open + 1),
                false => (*of_peer - 1, self.open - 1),
            };
            if *of_peer == 0 {
                self.open_of.remove(&key);
            }
        }
        match (place.receipt, is_in) {
            (true, true) => drop(self.receipts.insert(id)),
            (true, false) => drop(self.receipts.remove(&id)),
            (false, _) => {}
        }
    }
}

/// All tasks of one agent.
///
/// The owner stores each task that [`changed`](Board::take_changed) before it says anything to
/// anybody of what was done, and keeps the contents of submissions, results and reasons itself.
/// A change that could not be stored is taken back with [`restore`](Board::restore) or
/// [`forget`](Board::forget), or waits ([`keep_changed`](Board::keep_changed)).
pub struct Board<S> {
    own: Own<S>,
    limits: BoardLimits,
    tasks: BTreeMap<TaskId, Task>,
    lists: Lists,
    changed: BTreeSet<TaskId>,
    /// Rises with every change.
    revision: u64,
    /// When a task left the head of the queue last.
    head_since: UnixTime,
    /// Time limits wait for so long, because nothing could be signed.
    unsigned_until: UnixTime,
}

impl<S> fmt::Debug for Board<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("tasks", &self.tasks.len()).finish_non_exhaustive()
    }
}

impl<S: Signer> Board<S> {
    /// Without tasks: of the identity of this `key`, for which `signer` signs, with the registry
    /// of that key.
    pub fn new(signer: S, key: IdentityKey, registry: IdentityKey, limits: BoardLimits) -> Self {
        Board {
            own: Own { signer, key, registry },
            limits,
            tasks: BTreeMap::new(),
            lists: Lists::default(),
            changed: BTreeSet::new(),
            revision: 0,
            head_since: UnixTime::default(),
            unsigned_until: UnixTime::default(),
        }
    }

    /// A number that rises with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether this task has changed, and [`take_changed`](Self::take_changed) has not said so.
    pub fn is_changed(&self, id: TaskId) -> bool {
        self.changed.contains(&id)
    }

    /// Whether something has changed that [`take_changed`](Self::take_changed) has not given.
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    // ---- what is stored ----

    /// The tasks that have changed or been forgotten since the last call.
    pub fn take_changed(&mut self) -> btree_set::IntoIter<TaskId> {
        core::mem::take(&mut self.changed).into_iter()
    }

    /// A change that could neither be stored nor be taken back: it is to be stored again.
    pub fn keep_changed(&mut self, id: TaskId) {
        self.changed.insert(id);
    }

    /// A task as it is to be stored; `None`: delete it, and its contents.
    pub fn record(&self, id: TaskId) -> Option<Vec<u8>> {
        self.tasks.get(&id).map(Task::to_record)
    }

    /// Puts in what was stored, in place of what is there.
    pub fn restore(&mut self, record: &[u8]) -> Result<TaskId, BadRecord> {
        let task = Task::from_record(record)?;
        let id = task.id();
        self.forget(id);
        self.head_since = self.head_since.max(task.left_head.unwrap_or_default());
        self.lists.put(id, Place::of(&task), true);
        self.tasks.insert(id, task);
        self.changed.remove(&id);
        self.revision += 1;
        Ok(id)
    }

    /// Takes a task out that is not stored.
    pub fn forget(&mut self, id: TaskId) {
        if let Some(task) = self.tasks.remove(&id) {
            self.lists.put(id, Place::of(&task), false);
        }
        self.changed.remove(&id);
        self.revision += 1;
    }

    // ---- to look at ----

    /// A task.
    pub fn get(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(&id)
    }

    /// All of them, by their ids.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values()
    }

    /// The tasks that we have accepted and not started, the one that comes next first.
    pub fn queue(&self) -> impl Iterator<Item = &Task> {
        self.lists.queued.iter().filter_map(|(_, id)| self.tasks.get(id))
    }

    // ---- our own steps ----

    /// Submits a task. The owner keeps `content`, and chooses an id that was never used.
    pub fn submit(
        &mut self,
        id: TaskId,
        worker: Party,
        content: &[u8],
        now: UnixTime,
    ) -> Result<(), ActError> {
        if self.tasks.contains_key(&id) {
            return Err(ActError::Taken);
        }
        if self.lists.following.len() >= self.limits.submitted {
            return Err(ActError::Full);
        }
        check_content(Step::Submit, content).ok_or(ActError::Content)?;
        let fields = submission(id, self.own.key, worker.key, now, content);
        let first = self.own.sign(fields)?;
        let mut task = Task::new(Side::Submitter, worker, first, now);
        task.untold.push_back(super::task::Untold { statement: first, content: [].into() });
        self.insert(task);
        Ok(())
    }

    /// Makes a step of ours. The owner keeps `content` if it belongs to a result or reason.
    pub fn act(
        &mut self,
        id: TaskId,
        step: Step,
        content: &[u8],
        now: UnixTime,
    ) -> Result<(), ActError> {
        let head = self.head();
        self.change(id, |own, task| {
            task.act(own, step, content, now)?;
            if head == Some(id) && task.state() != State::Accepted {
                task.left_head = Some(now);
            }
            Ok(())
        })
        .unwrap_or(Err(ActError::Unknown))?;
        self.moved(head, now);
        Ok(())
    }

    /// Sets the owner's byte.
    pub fn set_mark(&mut self, id: TaskId, mark: u8) {
        self.change(id, |_, task| task.mark = mark);
    }

    /// Gives the tasks with a peer up that can never be told again: nothing is told there any
    /// more, and those that have not ended count as refused. With `only_new`: those whose
    /// submission has not been answered.
    pub fn give_up(&mut self, key: IdentityKey, why: Verdict, only_new: bool, now: UnixTime) {
        let ids: BTreeSet<TaskId> = [&self.lists.untold, &self.lists.following]
            .into_iter()
            .flat_map(|list| list.range((key, TaskId([0; 16]))..=(key, TaskId([0xFF; 16]))))
            .map(|(_, id)| *id)
            .collect();
        for id in ids {
            self.change(id, |_, task| {
                if !only_new || !task.is_known_there() {
                    task.refuse(why, now);
                }
            });
        }
    }

    // ---- the other side ----

    /// A statement of the peer at the other end of a stream. A submission that is new asks
    /// `admit` whether the peer may have tasks here; if it is applied, the owner keeps its
    /// content, and that of a result or reason.
    pub fn judge(
        &mut self,
        peer: Party,
        statement: &Statement,
        content: &[u8],
        admit: impl FnOnce() -> Result<(), Verdict>,
        now: UnixTime,
    ) -> Verdict {
        let fields = &statement.fields;
        let Some(task) = self.tasks.get(&fields.task) else {
            return self.judge_new(peer, statement, content, admit, now);
        };
        if task.peer.key != peer.key {
            return Verdict::Unknown;
        }
        let head = self.head();
        let verdict = self.change(fields.task, |own, task| {
            let before = task.state();
            let verdict = task.judge(own, statement, content, now);
            if head == Some(task.id()) && before != task.state() {
                task.left_head = Some(now);
            }
            verdict
        });
        self.moved(head, now);
        verdict.unwrap_or(Verdict::Unknown)
    }

    fn judge_new(
        &mut self,
        peer: Party,
        statement: &Statement,
        content: &[u8],
        admit: impl FnOnce() -> Result<(), Verdict>,
        now: UnixTime,
    ) -> Verdict {
        let fields = &statement.fields;
        if fields.step != Step::Submit {
            return Verdict::Unknown;
        }
        let is_ours = (fields.submitter, fields.worker) == (peer.key, self.own.key);
        let is_whole =
            check_content(Step::Submit, content).is_some() && statement.is_about(content);
        if !is_ours || !is_whole || Head::begin(statement, &self.own.registry).is_err() {
            return Verdict::Wrong;
        }
        if let Err(verdict) = admit() {
            return verdict;
        }
        let of_peer = self.lists.open_of.get(&peer.key).copied().unwrap_or(0);
        if self.lists.open >= self.limits.of_all || of_peer >= self.limits.of_peer {
            return Verdict::Full;
        }
        self.insert(Task::new(Side::Worker, peer, *statement, now));
        Verdict::Applied
    }

    /// A claim of the peer at the other end of a stream: the receipt, or why there is none.
    pub fn judge_claim(
        &mut self,
        peer: Party,
        claim: &Claim,
        now: UnixTime,
    ) -> Result<Receipt, Verdict> {
        let is_theirs = |task: &&Task| task.peer.key == peer.key;
        self.tasks.get(&claim.task).filter(is_theirs).ok_or(Verdict::Unknown)?;
        self.change(claim.task, |own, task| task.countersign(own, claim, now))
            .unwrap_or(Err(Verdict::Unknown))
    }

    /// The peer has answered a statement of ours; whether to tell it again, but later.
    pub fn answered(
        &mut self,
        peer: IdentityKey,
        id: TaskId,
        seq: u32,
        verdict: Verdict,
        now: UnixTime,
    ) -> bool {
        self.of_peer(peer, id, |own, task| task.answered(own, seq, verdict, now)).unwrap_or(false)
    }

    /// The peer has answered our claim otherwise than with the receipt; whether to tell it
    /// again, but later.
    pub fn claim_answered(&mut self, peer: IdentityKey, id: TaskId, verdict: Verdict) -> bool {
        self.of_peer(peer, id, |_, task| task.claim_refused(verdict)).unwrap_or(false)
    }

    /// The peer has countersigned our claim; whether that is the receipt.
    pub fn countersigned(&mut self, peer: IdentityKey, receipt: &Receipt) -> bool {
        let id = receipt.claim.task;
        self.of_peer(peer, id, |own, task| task.countersigned(own, receipt)).unwrap_or(false)
    }

    /// What is to be told to a peer, at most one thing of a task.
    pub fn untold(&self, peer: IdentityKey) -> impl Iterator<Item = (TaskId, Tell<'_>)> {
        let range = (peer, TaskId([0; 16]))..=(peer, TaskId([0xFF; 16]));
        let tasks = self.lists.untold.range(range).filter_map(|(_, id)| self.tasks.get(id));
        tasks.filter_map(|task| {
            let tell = match task.to_tell()? {
                Next::Statement(statement, content) => {
                    let is_kept = About::of(statement.fields.step).is_none();
                    Tell::Statement { statement, content: is_kept.then_some(content) }
                }
                Next::Claim(claim) => Tell::Claim(claim),
            };
            Some((task.id(), tell))
        })
    }

    /// What was to be told about a task is on its way: its submission may be there from now on.
    pub fn offered(&mut self, id: TaskId) {
        // Not a change that is stored: after a restart it counts as offered anyway.
        if let Some(task) = self.tasks.get_mut(&id) {
            task.is_offered = true;
        }
    }

    /// Peers that something is to be told to, or whose word we wait for.
    pub fn peers(&self) -> Vec<Party> {
        let both = self.lists.untold.iter().chain(&self.lists.following);
        let parties = both.filter_map(|(_, id)| self.tasks.get(id)).map(|task| task.peer);
        parties.collect::<BTreeSet<Party>>().into_iter().collect()
    }

    /// Whether we wait for a peer's word about a task.
    pub fn is_following(&self, peer: IdentityKey) -> bool {
        let range = (peer, TaskId([0; 16]))..=(peer, TaskId([0xFF; 16]));
        self.lists.following.range(range).next().is_some()
    }

    // ---- receipts ----

    /// Receipts that we are to give to the registry: of work of ours that succeeded, and of work
    /// for us that was given up.
    pub fn receipts(&self) -> impl Iterator<Item = &Receipt> {
        self.lists.receipts.iter().filter_map(|id| self.tasks.get(id)?.receipt.as_ref())
    }

    /// The registry has a receipt, or will never take it.
    pub fn counted(&mut self, id: TaskId) {
        self.change(id, |_, task| task.is_counted = true);
    }

    // ---- time ----

    /// When [`handle_time`](Self::handle_time) wants to be called, at the latest.
    pub fn deadline(&self) -> Option<UnixTime> {
        let lapse = self.lists.lapse.first().map(|(due, _)| *due);
        let queue = self.lists.queued.first().map(|(accepted, _)| self.expires(*accepted));
        let due = lapse.into_iter().chain(queue).min()?;
        Some(due.max(self.unsigned_until))
    }

    /// The first in the queue came to its head when it was accepted, or when the one before it
    /// left.
    fn expires(&self, accepted: UnixTime) -> UnixTime {
        accepted.max(self.head_since) + TASK_QUEUE_HEAD
    }

    /// Ends what was not answered in time, or was too long at the head of the queue. While our
    /// identity signs nothing, it is tried every ten seconds.
    pub fn handle_time(&mut self, now: UnixTime) {
        if now < self.unsigned_until {
            return;
        }
        while let Some(&(due, id)) = self.lists.lapse.first()
            && due <= now
        {
            if self.act(id, Step::Lapse, &[], now).is_err() {
                self.unsigned_until = now + SIGN_AGAIN;
                return;
            }
        }
        while let Some(&(accepted, id)) = self.lists.queued.first()
            && self.expires(accepted) <= now
        {
            if self.act(id, Step::Expire, &[], now).is_err() {
                self.unsigned_until = now + SIGN_AGAIN;
                return;
            }
        }
    }

    // ---- inside ----

    fn head(&self) -> Option<TaskId> {
        self.lists.queued.first().map(|(_, id)| *id)
    }

    /// Notes when the head of the queue has gone.
    fn moved(&mut self, before: Option<TaskId>, now: UnixTime) {
        if before.is_some() && before != self.head() {
            self.head_since = now;
        }
    }

    fn insert(&mut self, task: Task) {
        let id = task.id();
        self.lists.put(id, Place::of(&task), true);
        self.tasks.insert(id, task);
        self.changed.insert(id);
        self.revision += 1;
    }

    fn of_peer<T>(
        &mut self,
        peer: IdentityKey,
        id: TaskId,
        change: impl FnOnce(&Own<S>, &mut Task) -> T,
    ) -> Option<T> {
        self.tasks.get(&id).filter(|task| task.peer.key == peer)?;
        self.change(id, change)
    }

    fn change<T>(&mut self, id: TaskId, change: impl FnOnce(&Own<S>, &mut Task) -> T) -> Option<T> {
        let task = self.tasks.get_mut(&id)?;
        let (before, place) = (task.clone(), Place::of(task));
        let result = change(&self.own, task);
        if *task != before {
            let now = Place::of(task);
            if now != place {
                self.lists.put(id, place, false);
                self.lists.put(id, now, true);
            }
            self.changed.insert(id);
            self.revision += 1;
            self.sweep();
        }
        Some(result)
    }

    /// Forgets what ended first, where there is too much of it.
    fn sweep(&mut self) {
        while self.lists.settled.len() > self.limits.settled
            && let Some(&(_, id)) = self.lists.settled.first()
        {
            self.forget(id);
            self.changed.insert(id);
        }
    }
}
