//! One task as one of its two sides knows it, and what may happen to it.

use super::content::{About, Content, REASON_MAX};
use super::signer::{Own, Signer};
use super::{PROGRESS_MAX, Verdict};
use crate::addr::Address;
use crate::crypto::IdentityKey;
use crate::crypto::task::{
    Broken, Claim, Head, NotAllowed, NotSigned, Outcome, Receipt, Side, State, Statement, Step,
    TaskId, Times,
};
use crate::time::UnixTime;
use alloc::boxed::Box;
use alloc::collections::VecDeque;

/// Most statements of one side about one task that wait for the other side; then there can be
/// no more progress, while the steps that end a task still find room.
pub const UNTOLD_MAX: usize = 64;
/// What [`UNTOLD_MAX`] leaves for other steps than progress.
const KEPT_FREE: usize = 3;

/// The other side of a task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Party {
    /// Where it is reached, on the backbone.
    pub address: Address,
    /// Who it is: what it states is signed by this key.
    pub key: IdentityKey,
}

/// Why something cannot be done to a task; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ActError {
    /// There is no such task.
    #[error("there is no such task")]
    Unknown,
    /// Its state does not allow it, or it is the other side's to do.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// It was refused, or its other side knows it no more.
    #[error("the task was refused: {0}")]
    Refused(Verdict),
    /// It is being cancelled.
    #[error("the task is being cancelled")]
    Cancelling,
    /// The content has a form or length that it may not have.
    #[error("not a content that this can have")]
    Content,
    /// As many tasks as there may be, or as many words of progress that wait.
    #[error("too many of them wait")]
    Full,
    /// The id is taken.
    #[error("there is a task with this id")]
    Taken,
    /// An agent has no tasks with itself.
    #[error("an agent has no tasks with itself")]
    Itself,
    /// Our identity signs nothing now.
    #[error(transparent)]
    NotSigned(NotSigned),
}

/// A statement of ours that waits for the other side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Untold {
    pub(super) statement: Statement,
    /// Of small ones; larger ones are the owner's to keep.
    pub(super) content: Box<[u8]>,
}

/// One task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    pub(super) side: Side,
    pub(super) peer: Party,
    pub(super) first: Statement,
    pub(super) head: Head,
    /// Oldest first; each stands in the chain already.
    pub(super) untold: VecDeque<Untold>,
    /// The submitter's, on top of the head as it knows it: in force when the worker says so.
    pub(super) cancel: Option<Statement>,
    /// That one was overtaken, and what overtook it has not come yet; not stored.
    pub(super) is_overtaken: bool,
    /// The submitter wants to cancel and was overtaken by us; not stored.
    pub(super) is_cancel_wanted: bool,
    pub(super) times: Times,
    pub(super) changed: UnixTime,
    /// When it left the queue, having been at its head.
    pub(super) left_head: Option<UnixTime>,
    pub(super) claim: Option<Claim>,
    pub(super) receipt: Option<Receipt>,
    /// Nothing more is to be done with the receipt.
    pub(super) is_counted: bool,
    pub(super) progress: Box<str>,
    pub(super) refused: Option<Verdict>,
    pub(super) mark: u8,
    /// Whether its submission may have reached the worker; after a restart it may.
    pub(super) is_offered: bool,
}

impl Task {
    pub(super) fn new(side: Side, peer: Party, first: Statement, now: UnixTime) -> Self {
        let arrived = if side == Side::Worker { now } else { UnixTime::default() };
        Task {
            side,
            peer,
            first,
            head: Head::restore(&first),
            untold: VecDeque::new(),
            cancel: None,
            is_overtaken: false,
            is_cancel_wanted: false,
            times: Times { arrived, ..Times::default() },
            changed: now,
            left_head: None,
            claim: None,
            receipt: None,
            is_counted: false,
            progress: Box::default(),
            refused: None,
            mark: 0,
            is_offered: false,
        }
    }

    /// Its name, chosen by the submitter.
    pub fn id(&self) -> TaskId {
        self.first.fields.task
    }

    /// Which side we are.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The other side.
    pub fn peer(&self) -> Party {
        self.peer
    }

    /// As our side knows it.
    pub fn state(&self) -> State {
        self.head.state()
    }

    /// The submission.
    pub fn first(&self) -> &Statement {
        &self.first
    }

    /// The last statement of the chain, as our side knows it.
    pub fn last(&self) -> &Statement {
        self.head.last()
    }

    /// Why there never was such a task on the other side, or is none any more; then it has
    /// ended, in whatever state.
    pub fn refused(&self) -> Option<Verdict> {
        self.refused
    }

    /// Whether nothing more will happen to it.
    pub fn is_settled(&self) -> bool {
        self.refused.is_some() || self.state().is_final()
    }

    /// Whether it was cancelled by its submitter, and this is not in force yet.
    pub fn is_cancelling(&self) -> bool {
        !self.is_settled() && (self.cancel.is_some() || self.is_cancel_wanted)
    }

    /// Whether the other side knows all that we have stated.
    pub fn is_told(&self) -> bool {
        self.to_tell().is_none()
    }

    /// Whether the other side has the submission.
    pub fn is_known_there(&self) -> bool {
        let is_first = |untold: &Untold| untold.statement == self.first;
        self.side == Side::Worker || !self.untold.front().is_some_and(is_first)
    }

    /// By our clock. The submitter's tell when it learned of a step.
    pub fn times(&self) -> Times {
        self.times
    }

    /// By our clock: when it changed last.
    pub fn changed(&self) -> UnixTime {
        self.changed
    }

    /// The newest word about how far it is: of a worker, **hostile text**.
    pub fn progress(&self) -> &str {
        &self.progress
    }

    /// Signed by both sides.
    pub fn receipt(&self) -> Option<&Receipt> {
        self.receipt.as_ref()
    }

    /// Whether it has ended so that there is a receipt, or will be one.
    pub fn yields_receipt(&self) -> bool {
        let has_half = self.claim.is_some() || self.receipt.is_some();
        self.refused.is_none()
            && Outcome::of(self.state()).is_some()
            && (has_half || self.side == Side::Submitter)
    }

    /// Whether the registry has the receipt, or nothing will come of it.
    pub fn is_counted(&self) -> bool {
        self.is_counted
    }

    /// A byte of the owner's, kept with the task.
    pub fn mark(&self) -> u8 {
        self.mark
    }

    /// What is to be told next: one thing of a task at a time.
    pub(super) fn to_tell(&self) -> Option<Next<'_>> {
        if self.refused.is_some() {
            return None;
        }
        if let Some(untold) = self.untold.front() {
            return Some(Next::Statement(&untold.statement, &untold.content));
        }
        if let Some(cancel) = self.cancel.as_ref().filter(|_| !self.is_overtaken) {
            return Some(Next::Statement(cancel, &[]));
        }
        let claim = self.claim.as_ref().filter(|_| self.side == Side::Worker);
        claim.filter(|_| self.receipt.is_none()).map(Next::Claim)
    }

    // ---- our own steps ----

    /// A step of ours, with what it is about.
    pub(super) fn act<S: Signer>(
        &mut self,
        own: &Own<S>,
        step: Step,
        content: &[u8],
        now: UnixTime,
    ) -> Result<(), ActError> {
        if let Some(verdict) = self.refused {
            return Err(ActError::Refused(verdict));
        }
        let fields = self.head.next(step, self.side, now, content)?;
        if self.is_cancelling() && matches!(step, Step::Cancel | Step::Progress) {
            return Err(ActError::Cancelling);
        }
        let room = if step == Step::Progress { UNTOLD_MAX - KEPT_FREE } else { UNTOLD_MAX };
        if self.untold.len() >= room {
            return Err(ActError::Full);
        }
        check_content(step, content).ok_or(ActError::Content)?;
        let statement = own.sign(fields)?;
        if step == Step::Cancel && self.is_offered {
            self.changed = now;
            self.cancel = Some(statement);
            return Ok(());
        }
        let mut head = self.head;
        // What was just signed continues the chain.
        let _ = head.follow(&statement, &own.registry);
        let mut times = self.times;
        times.note(step, now);
        // Before anything changes: without a half there would never be a receipt.
        self.claim = own.claim(&head, times)?.or(self.claim);
        self.head = head;
        if step == Step::Cancel {
            // Nobody else has heard of it.
            self.untold.clear();
        } else {
            let is_owners = About::of(step).is_some();
            let kept = if is_owners { Box::default() } else { Box::from(content) };
            self.untold.push_back(Untold { statement, content: kept });
        }
        self.entered(step, content, now);
        Ok(())
    }

    /// Notes that the chain has got this step.
    fn entered(&mut self, step: Step, content: &[u8], now: UnixTime) {
        self.changed = now;
        self.times.note(step, now);
        if step == Step::Progress {
            let text = Content::decode(content).map(|content| content.text);
            self.progress = text.unwrap_or_default().into();
        }
    }

    // ---- the other side's ----

    /// A statement of the other side about this task.
    pub(super) fn judge<S: Signer>(
        &mut self,
        own: &Own<S>,
        statement: &Statement,
        content: &[u8],
        now: UnixTime,
    ) -> Verdict {
        let step = statement.fields.step;
        if step.side() == self.side || check_content(step, content).is_none() {
            return Verdict::Wrong;
        }
        if !statement.is_about(content) {
            return Verdict::Wrong;
        }
        match self.side {
            Side::Worker => self.judge_submitter(own, statement, now),
            Side::Submitter => self.judge_worker(own, statement, content, now),
        }
    }

    fn judge_submitter<S: Signer>(
        &mut self,
        own: &Own<S>,
        statement: &Statement,
        now: UnixTime,
    ) -> Verdict {
        if *statement == self.first || statement == self.head.last() {
            return Verdict::Applied;
        }
        if statement.fields.step != Step::Cancel || statement.verify(&own.registry).is_err() {
            return Verdict::Wrong;
        }
        if self.state().is_final() {
            return Verdict::TooLate;
        }
        match self.head.follow(statement, &own.registry) {
            Ok(_) => {
                self.entered(Step::Cancel, &[], now);
                Verdict::Applied
            }
            Err(Broken::Number { expected }) if statement.fields.seq < expected => {
                self.is_cancel_wanted = true;
                Verdict::Overtaken
            }
            Err(_) => Verdict::Wrong,
        }
    }

    fn judge_worker<S: Signer>(
        &mut self,
        own: &Own<S>,
        statement: &Statement,
        content: &[u8],
        now: UnixTime,
    ) -> Verdict {
        let last = self.head.last().fields.seq;
        if statement == self.head.last() || statement.fields.seq < last {
            // It was in the chain before: nothing changes.
            return Verdict::Applied;
        }
        match self.head.follow(statement, &own.registry) {
            Ok(_) => {}
            Err(Broken::Number { expected }) if statement.fields.seq > expected => {
                return Verdict::Order;
            }
            Err(_) => return Verdict::Wrong,
        }
        // Whoever speaks of a task has its submission.
        self.arrived(now);
        self.entered(statement.fields.step, content, now);
        self.is_overtaken = false;
        if self.cancel.take().is_some()
            && let Ok(fields) = self.head.next(Step::Cancel, self.side, now, &[])
        {
            self.cancel = own.sign(fields).ok();
        }
        Verdict::Applied
    }

    fn arrived(&mut self, now: UnixTime) {
        self.untold.clear();
        if self.times.arrived == UnixTime::default() {
            self.times.arrived = now;
        }
    }

    /// The worker's claim, which the submitter signs once, with the times that it knows.
    pub(super) fn countersign<S: Signer>(
        &mut self,
        own: &Own<S>,
        claim: &Claim,
        now: UnixTime,
    ) -> Result<Receipt, Verdict> {
        if self.side != Side::Submitter {
            return Err(Verdict::Wrong);
        }
        if let Some(receipt) = self.receipt {
            return if receipt.claim == *claim { Ok(receipt) } else { Err(Verdict::Wrong) };
        }
        if !self.state().is_final() {
            return Err(Verdict::Order);
        }
        let receipt = own.signer.sign_receipt(&self.head, claim, self.times);
        let receipt = receipt.map_err(|error| match error {
            NotSigned::Unavailable => Verdict::Failed,
            _ => Verdict::Wrong,
        })?;
        (self.receipt, self.changed) = (Some(receipt), now);
        Ok(receipt)
    }

    /// The submitter's answer to our claim; whether it is the receipt.
    pub(super) fn countersigned<S: Signer>(&mut self, own: &Own<S>, receipt: &Receipt) -> bool {
        let is_ours = self.side == Side::Worker && self.claim == Some(receipt.claim);
        if is_ours && self.receipt.is_none() && receipt.verify(&own.registry).is_ok() {
            self.receipt = Some(*receipt);
        }
        is_ours && self.receipt.is_some()
    }

    /// The other side has answered a statement of ours; whether to tell it again later.
    pub(super) fn answered<S: Signer>(
        &mut self,
        own: &Own<S>,
        seq: u32,
        verdict: Verdict,
        now: UnixTime,
    ) -> bool {
        let is = |statement: &Statement| statement.fields.seq == seq;
        if self.untold.front().is_some_and(|untold| is(&untold.statement)) {
            match verdict {
                Verdict::Applied => {
                    self.untold.pop_front();
                    if self.side == Side::Submitter {
                        self.arrived(now);
                    }
                }
                verdict if verdict.is_passing() => return true,
                verdict => self.refuse(verdict, now),
            }
        } else if let Some(cancel) = self.cancel.filter(is) {
            match verdict {
                Verdict::Applied => {
                    self.cancel = None;
                    // It was signed on top of this head.
                    let _ = self.head.follow(&cancel, &own.registry);
                    self.entered(Step::Cancel, &[], now);
                }
                Verdict::TooLate => self.cancel = None,
                Verdict::Overtaken => self.is_overtaken = true,
                verdict if verdict.is_passing() => return true,
                verdict => self.refuse(verdict, now),
            }
        }
        false
    }

    /// The other side has no answer to our claim but this; whether to tell it again later.
    pub(super) fn claim_refused(&mut self, verdict: Verdict) -> bool {
        if verdict.is_passing() {
            return true;
        }
        self.claim = None;
        false
    }

    /// It has no other side any more.
    pub(super) fn refuse(&mut self, why: Verdict, now: UnixTime) {
        self.untold.clear();
        (self.cancel, self.refused, self.changed) = (None, Some(why), now);
    }
}

/// What is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next<'t> {
    Statement(&'t Statement, &'t [u8]),
    Claim(&'t Claim),
}

/// Whether a content is one that a step may have.
pub(super) fn check_content(step: Step, bytes: &[u8]) -> Option<()> {
    let content = Content::decode(bytes).ok()?;
    let of_text = |most| content.files.is_empty() && content.text.len() <= most;
    let is_good = match step {
        Step::Submit => !content.text.is_empty(),
        Step::Complete => true,
        Step::Decline | Step::Fail => of_text(REASON_MAX),
        Step::Progress => of_text(PROGRESS_MAX),
        _ => content.is_empty(),
    };
    is_good.then_some(())
}
