//! What tasks ask of the registry: reputations, and that receipts are counted.

use super::office::Office;
use crate::crypto::IdentityKey;
use crate::crypto::task::TaskId;
use crate::drive::agent::{DirectoryError, KeepAlive, Question};
use crate::drive::runtime::Runtime;
use crate::node::{Command, RequestError};
use crate::service::tasks::Party;
use crate::time::{Duration, Instant};
use alloc::collections::BTreeMap;
use core::task::Poll;

/// A score that was told longer ago is asked for again.
const SCORE_AGE: Duration = Duration::from_secs(60);
/// That it was not told is believed for so long.
const NO_SCORE_AGE: Duration = Duration::from_secs(2);
/// The registry has so long to tell it.
const SCORE_TIME: Duration = Duration::from_secs(10);
/// Scores that are remembered, and questions at a time.
const SCORES: usize = 4096;
const QUESTIONS: usize = 16;
/// What the registry would not take now is handed in again after so long, and not before.
const HAND_IN_AGAIN: Duration = Duration::from_secs(60);
const HAND_IN_PAUSE: Duration = Duration::from_secs(1);

/// Reputations, and when they were told.
pub(super) struct Scores<R: Runtime> {
    known: BTreeMap<IdentityKey, (Option<i64>, Instant)>,
    asked: BTreeMap<IdentityKey, (Question<R>, Instant)>,
}

impl<R: Runtime> Scores<R> {
    pub(super) fn new() -> Self {
        Scores { known: BTreeMap::new(), asked: BTreeMap::new() }
    }

    /// What is known of a peer's score: not yet, none, or so much.
    pub(super) fn known(&self, now: Instant, peer: IdentityKey) -> Option<Option<i64>> {
        let (score, at) = self.known.get(&peer)?;
        let age = if score.is_some() { SCORE_AGE } else { NO_SCORE_AGE };
        (now < *at + age).then_some(*score)
    }

    pub(super) fn ask(&mut self, now: Instant, agent: &KeepAlive<R>, peer: Party) {
        if self.asked.contains_key(&peer.key) || self.asked.len() >= QUESTIONS {
            return;
        }
        match agent.ask(Command::Reputation { of: peer.address }) {
            Ok(question) => drop(self.asked.insert(peer.key, (question, now + SCORE_TIME))),
            Err(_) => self.note(now, peer.key, None),
        }
    }

    fn note(&mut self, now: Instant, peer: IdentityKey, score: Option<i64>) {
        if self.known.len() >= SCORES {
            self.known.clear();
        }
        self.known.insert(peer, (score, now));
    }

    /// Whether something was told.
    pub(super) fn poll(&mut self, now: Instant, waker: &R::Waker) -> bool {
        let mut told = alloc::vec::Vec::new();
        for (peer, (question, until)) in &mut self.asked {
            match question.poll_answer(waker) {
                Poll::Ready(answer) => {
                    let reputation = answer.and_then(|answer| answer.into_reputation());
                    told.push((*peer, reputation.ok().map(|reputation| reputation.score())));
                }
                Poll::Pending if now >= *until => told.push((*peer, None)),
                Poll::Pending => {}
            }
        }
        for (peer, score) in &told {
            self.asked.remove(peer);
            self.note(now, *peer, *score);
        }
        !told.is_empty()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.asked.values().map(|(_, until)| *until).min()
    }
}

/// Hands receipts in until they are counted, or never will be: one after the other.
pub(super) struct HandIn<R: Runtime> {
    asked: Option<(TaskId, Question<R>)>,
    /// Those that were not taken, and when they are handed in again.
    later: BTreeMap<TaskId, Instant>,
    /// It was not about one receipt: the others wait, too.
    not_before: Instant,
    /// Of the board when there was nothing to hand in.
    looked: Option<u64>,
}

impl<R: Runtime> HandIn<R> {
    pub(super) fn new() -> Self {
        HandIn { asked: None, later: BTreeMap::new(), not_before: Instant::START, looked: None }
    }

    /// Whether it has come further.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        agent: &KeepAlive<R>,
        office: &mut Office<R>,
        waker: &R::Waker,
    ) -> bool {
        if let Some((id, question)) = &mut self.asked {
            let Poll::Ready(answer) = question.poll_answer(waker) else { return false };
            let id = *id;
            self.asked = None;
            match answer {
                Err(error) if is_passing(&error) => self.delay(now, id, &error),
                // Counted, or it never will be.
                _ => office.board.counted(id),
            }
            return true;
        }
        let later = self.later.len();
        self.later.retain(|_, at| *at > now);
        if later == self.later.len() && self.looked == Some(office.board.revision()) {
            return false;
        }
        if now < self.not_before {
            return false;
        }
        let next = office.board.receipts().find(|r| !self.later.contains_key(&r.claim.task));
        let Some(receipt) = next.filter(|receipt| office.is_stored(receipt.claim.task)) else {
            self.looked = next.is_none().then(|| office.board.revision());
            return false;
        };
        let id = receipt.claim.task;
        match agent.ask(Command::SubmitReceipt { receipt }) {
            Ok(question) => self.asked = Some((id, question)),
            Err(error) => self.delay(now, id, &error),
        }
        true
    }

    fn delay(&mut self, now: Instant, id: TaskId, error: &DirectoryError) {
        let pause = match error {
            DirectoryError::Request(RequestError::RateLimited(ms)) => {
                Duration::from_millis(u64::from(*ms)).max(HAND_IN_PAUSE)
            }
            _ => HAND_IN_AGAIN,
        };
        self.later.insert(id, now + pause);
        if pause <= HAND_IN_AGAIN {
            self.not_before = now + pause;
        }
        self.looked = None;
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let waits = self.asked.is_none() && !self.later.is_empty();
        waits.then(|| self.later.values().copied().fold(Instant::NEVER, Instant::min))
    }
}

fn is_passing(error: &DirectoryError) -> bool {
    use RequestError::{RateLimited, Unreachable, Unsupported};
    match error {
        // An older registry may be replaced by one that counts.
        DirectoryError::Request(error) => {
            matches!(error, RateLimited(_) | Unreachable | Unsupported)
        }
        DirectoryError::Command(_) => true,
    }
}
