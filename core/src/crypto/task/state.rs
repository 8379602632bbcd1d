//! States of a task and who may move it from which to which (`published-wire.md`, tasks 1003).

use crate::limits::{TASK_ANSWER, TASK_QUEUE_HEAD};
use crate::time::Duration;
use core::fmt;

/// One of the two sides of a task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Side {
    /// Who asked for the work.
    Submitter,
    /// Who does it.
    Worker,
}

/// Where a task stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum State {
    /// Submitted, not answered.
    New = 1,
    /// The worker will do it; it waits in its queue.
    Accepted = 2,
    /// The worker will not do it.
    Declined = 3,
    /// Called off by the submitter, or not answered in time.
    Cancelled = 4,
    /// Being done.
    Executing = 5,
    /// Done, with a result.
    Succeeded = 6,
    /// Given up by the worker, with a reason.
    Failed = 7,
    /// Was for too long at the head of the worker's queue.
    Expired = 8,
}

impl State {
    const ALL: [State; 8] = [
        State::New,
        State::Accepted,
        State::Declined,
        State::Cancelled,
        State::Executing,
        State::Succeeded,
        State::Failed,
        State::Expired,
    ];

    /// The state with this number, 1 to 8.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            1..=8 => Some(Self::ALL[number as usize - 1]),
            _ => None,
        }
    }

    /// Nothing follows.
    pub const fn is_final(self) -> bool {
        !matches!(self, State::New | State::Accepted | State::Executing)
    }

    /// What the worker does when a task has been in this state for this long: an unanswered
    /// one lapses, and one that waits *at the head of the queue* expires. The time is the
    /// worker's own, from when it got the task or when the task came to the head.
    pub const fn limit(self) -> Option<(Duration, Step)> {
        match self {
            State::New => Some((TASK_ANSWER, Step::Lapse)),
            State::Accepted => Some((TASK_QUEUE_HEAD, Step::Expire)),
            _ => None,
        }
    }

    /// The published name, in capitals.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::New => "NEW",
            State::Accepted => "ACCEPTED",
            State::Declined => "DECLINED",
            State::Cancelled => "CANCELLED",
            State::Executing => "EXECUTING",
            State::Succeeded => "SUCCEEDED",
            State::Failed => "FAILED",
            State::Expired => "EXPIRED",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a statement does. The numbers are on the wire and only ever appended to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Step {
    /// The submitter asks for the work.
    Submit = 1,
    /// The worker will do it.
    Accept = 2,
    /// The worker will not.
    Decline = 3,
    /// The worker has begun.
    Start = 4,
    /// The worker tells how far it is.
    Progress = 5,
    /// The worker is done.
    Complete = 6,
    /// The worker gives up.
    Fail = 7,
    /// The submitter calls it off.
    Cancel = 8,
    /// Nobody answered for [`TASK_ANSWER`].
    Lapse = 9,
    /// It was for [`TASK_QUEUE_HEAD`] at the head of the queue.
    Expire = 10,
}

impl Step {
    /// All steps in the order of their numbers.
    pub const ALL: [Step; 10] = [
        Step::Submit,
        Step::Accept,
        Step::Decline,
        Step::Start,
        Step::Progress,
        Step::Complete,
        Step::Fail,
        Step::Cancel,
        Step::Lapse,
        Step::Expire,
    ];

    /// The step with this number, 1 to 10.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            1..=10 => Some(Self::ALL[number as usize - 1]),
            _ => None,
        }
    }

    /// Whose step it is, and so whose signature a statement of it carries.
    pub const fn side(self) -> Side {
        match self {
            Step::Submit | Step::Cancel => Side::Submitter,
            _ => Side::Worker,
        }
    }

    /// The state that it leads to.
    pub const fn to(self) -> State {
        match self {
            Step::Submit => State::New,
            Step::Accept => State::Accepted,
            Step::Decline => State::Declined,
            Step::Start | Step::Progress => State::Executing,
            Step::Complete => State::Succeeded,
            Step::Fail => State::Failed,
            Step::Cancel | Step::Lapse => State::Cancelled,
            Step::Expire => State::Expired,
        }
    }

    /// The state after this step, made by `by` from `from` (`None`: there is no task yet).
    pub const fn take(self, from: Option<State>, by: Side) -> Result<State, NotAllowed> {
        if !matches!(
            (self.side(), by),
            (Side::Submitter, Side::Submitter) | (Side::Worker, Side::Worker)
        ) {
            return Err(NotAllowed::WrongSide { step: self });
        }
        let allowed = match self {
            Step::Submit => from.is_none(),
            Step::Accept | Step::Decline | Step::Lapse => matches!(from, Some(State::New)),
            Step::Start | Step::Expire => matches!(from, Some(State::Accepted)),
            Step::Progress | Step::Complete => matches!(from, Some(State::Executing)),
            Step::Fail => matches!(from, Some(State::Accepted | State::Executing)),
            Step::Cancel => {
                matches!(from, Some(State::New | State::Accepted | State::Executing))
            }
        };
        if allowed { Ok(self.to()) } else { Err(NotAllowed::NotFrom { step: self, from }) }
    }
}

/// Why a step is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotAllowed {
    /// It is the other side's.
    #[error("this step is the other side's")]
    WrongSide {
        /// Which.
        step: Step,
    },
    /// A task in this state cannot take it.
    #[error("{}", not_from(.from))]
    NotFrom {
        /// Which.
        step: Step,
        /// The state; `None`: there is no task.
        from: Option<State>,
    },
}

const fn not_from(from: &Option<State>) -> &'static str {
    match from {
        None => "there is no such task",
        Some(State::New) => "the task is NEW",
        Some(State::Accepted) => "the task is ACCEPTED",
        Some(State::Declined) => "the task is DECLINED",
        Some(State::Cancelled) => "the task is CANCELLED",
        Some(State::Executing) => "the task is EXECUTING",
        Some(State::Succeeded) => "the task has SUCCEEDED",
        Some(State::Failed) => "the task has FAILED",
        Some(State::Expired) => "the task is EXPIRED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// Every pair of state and step, from both sides, against the table in [`super::super`].
    #[test]
    fn a_step_is_taken_by_its_side_from_its_states_only() {
        use {Side::*, State::*};
        let allowed: &[(Step, Side, &[Option<State>], State)] = &[
            (Step::Submit, Submitter, &[None], New),
            (Step::Accept, Worker, &[Some(New)], Accepted),
            (Step::Decline, Worker, &[Some(New)], Declined),
            (Step::Lapse, Worker, &[Some(New)], Cancelled),
            (Step::Start, Worker, &[Some(Accepted)], Executing),
            (Step::Expire, Worker, &[Some(Accepted)], Expired),
            (Step::Progress, Worker, &[Some(Executing)], Executing),
            (Step::Complete, Worker, &[Some(Executing)], Succeeded),
            (Step::Fail, Worker, &[Some(Accepted), Some(Executing)], Failed),
            (Step::Cancel, Submitter, &[Some(New), Some(Accepted), Some(Executing)], Cancelled),
        ];
        assert_eq!(allowed.len(), Step::ALL.len());
        let states: Vec<Option<State>> =
            State::ALL.into_iter().map(Some).chain(core::iter::once(None)).collect();
        for &(step, side, froms, to) in allowed {
            for &from in &states {
                let expected = match froms.contains(&from) {
                    true => Ok(to),
                    false => Err(NotAllowed::NotFrom { step, from }),
                };
                assert_eq!(step.take(from, side), expected, "{step:?} from {from:?}");
                let other = if side == Worker { Submitter } else { Worker };
                assert_eq!(step.take(from, other), Err(NotAllowed::WrongSide { step }));
            }
        }
        for state in State::ALL {
            let moves = |step: &Step| step.take(Some(state), step.side()).is_ok();
            assert_eq!(Step::ALL.iter().any(moves), !state.is_final(), "{state}");
        }
    }

    #[test]
    fn numbers_and_limits() {
        for n in 0..=255 {
            assert_eq!(State::from_u8(n).map(|s| s as u8), (1..=8).contains(&n).then_some(n));
            assert_eq!(Step::from_u8(n).map(|s| s as u8), (1..=10).contains(&n).then_some(n));
        }
        for state in State::ALL {
            if let Some((time, step)) = state.limit() {
                assert!(step.take(Some(state), Side::Worker).is_ok());
                assert!(time >= Duration::from_secs(60));
            }
        }
        assert_eq!(State::New.limit(), Some((Duration::from_secs(60), Step::Lapse)));
        assert_eq!(State::Accepted.limit(), Some((Duration::from_secs(3600), Step::Expire)));
    }
}
