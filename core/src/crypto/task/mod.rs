//! Tasks between agents, as far as they are signed (`wire.md` 12): the statements that move a
//! task from state to state, the receipt of a finished one, and what a receipt is worth.
//!
//! A task is named by submitter, worker and a [`TaskId`] of the submitter's choice. Each
//! [`Step`] belongs to one [`Side`], which signs a [`Statement`] of it; a statement holds the
//! hash of the one before, so that neither side can show two histories of one task without
//! having signed the proof of it. [`Head`] is what a side keeps of the chain, and checks what
//! comes next.
//!
//! | Step | Whose | From | To |
//! |---|---|---|---|
//! | submit | submitter | - | NEW |
//! | accept | worker | NEW | ACCEPTED |
//! | decline | worker | NEW | DECLINED |
//! | lapse: not answered within 60 s | worker | NEW | CANCELLED |
//! | start | worker | ACCEPTED | EXECUTING |
//! | expire: an hour at the head of the queue | worker | ACCEPTED | EXPIRED |
//! | progress | worker | EXECUTING | EXECUTING |
//! | complete | worker | EXECUTING | SUCCEEDED |
//! | fail | worker | ACCEPTED, EXECUTING | FAILED |
//! | cancel | submitter | NEW, ACCEPTED, EXECUTING | CANCELLED |
//!
//! The worker orders: where both sides have signed something on top of one statement, what the
//! worker has appended counts. So a cancellation is in force once the worker has it in its
//! chain; one that was overtaken is signed again on top of what overtook it, or is moot.
//!
//! With the step that ends the work the worker signs a [`Claim`], the submitter adds its own
//! times and signs the whole: a [`Receipt`], which alone moves reputation.

pub mod receipt;
pub mod reward;
pub mod state;
pub mod statement;

#[cfg(test)]
pub(crate) mod support;

pub use receipt::{CLAIM, Claim, Outcome, RECEIPT, Receipt, Times};
pub use reward::{CPU_MAX, SUBMIT_COST};
pub use state::{NotAllowed, Side, State, Step};
pub use statement::{Broken, Head, STATEMENT, Statement, StatementFields};

use core::fmt;
use core::str::FromStr;

/// Names a task between one submitter and one worker: 16 random bytes of the submitter's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub [u8; 16]);

/// 32 lower-case hexadecimal digits.
impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({self})")
    }
}

/// Not 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a task id is 32 hexadecimal digits")]
pub struct BadTaskId;

/// Exactly 32 hexadecimal digits, in either case: nothing that could be part of a path.
impl FromStr for TaskId {
    type Err = BadTaskId;

    fn from_str(text: &str) -> Result<Self, BadTaskId> {
        let digits: &[u8; 32] = text.as_bytes().try_into().map_err(|_| BadTaskId)?;
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| char::from(d).to_digit(16).ok_or(BadTaskId);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(TaskId(id))
    }
}

/// Why a signature was not given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotSigned {
    /// The identity is not the side whose signature it is.
    #[error("this is the other side's to sign")]
    WrongSide,
    /// Submitter and worker are one identity.
    #[error("an agent has no tasks with itself")]
    Itself,
    /// The task's state is none that yields a receipt.
    #[error("the work has not ended")]
    Unfinished,
    /// The worker's half of the receipt is not its, or not of this end of this task.
    #[error("the worker's half is not of this task")]
    BadClaim,
    /// The identity signs nothing at present: it is not registered, or runs elsewhere now.
    #[error("this identity signs nothing now")]
    Unavailable,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn ids_are_hexadecimal_digits_and_nothing_else() {
        let id = TaskId(core::array::from_fn(|i| 0xF0 + i as u8));
        assert_eq!(id.to_string(), "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        for bad in
            ["", "f0", "../../../../../../etc/passwd00000", "+0000000000000000000000000000000"]
        {
            assert_eq!(bad.parse::<TaskId>(), Err(BadTaskId), "{bad}");
        }
    }
}
