//! Tasks, port 1003 (`wire.md` 12): one agent hands work to another, which accepts it, does it
//! and returns a result; both sign what they do, and both sign the receipt.
//!
//! Every frame is `type u32 ‖ length u32 ‖ body`, integers big-endian. Both ends of a stream
//! are the same, whoever has opened it:
//!
//! | Type | Frame | Body |
//! |---|---|---|
//! | 16 | TELL | statement 221, content |
//! | 17 | CLAIM | claim 209 |
//! | 18 | ANSWER | task 16, verdict 1 |
//! | 19 | RECEIPT | receipt 305: the answer to a claim that is countersigned |
//! | 20, 21 | PING, PONG | request 4 |
//!
//! Statement, claim and receipt are those of [`crate::crypto::task`]; a content is a text and a
//! list of files, which travel by data exchange ([`Content`]). The published types, which are
//! below 16, carry no signatures and are refused.
//!
//! * **Answers** come in the order of what was told, one each, after it is durable. Of one task
//!   only one thing is told at a time, so nothing is told on top of what was refused.
//! * **Repetition**: what was not answered is told again on the next stream. A statement that is
//!   in the chain already is answered as the first time, and changes nothing.
//! * **Order**: the worker's side has the chain. A cancellation that the worker's own step has
//!   overtaken is answered so; the submitter takes that step in and cancels again on top of it.
//! * **Who**: a stream belongs to the identity that the tunnel has authenticated. It is heard
//!   about its own tasks only, and what it states must be signed by it.
//!
//! | Verdict | | What its maker does |
//! |---|---|---|
//! | 0 applied | it is durable, now or before | goes on |
//! | 1 too late | a cancellation after the end | waits for the end |
//! | 2 overtaken | a cancellation beside a step that is already made | cancels again |
//! | 3 not permitted | the grant has no right to tasks | gives up |
//! | 4 reputation | below what the worker asks for | gives up |
//! | 5 full, 6 failed | no room; the storage has failed | tells it again later |
//! | 7 unknown | no such task of this peer | gives up |
//! | 8 order | it does not come next | tells it again later |
//! | 9 wrong | signature, side, state or content is wrong | gives up |
//!
//! [`Link`] is one end of a stream. With the feature `alloc` there is the rest: `Board` is all
//! tasks of one agent, what may happen to them, what is to be told to whom, time limits, bounds,
//! and the form in which they are stored; `Talk` is one stream and what it does on the board;
//! `Streams` and `Calls` say which stream tells, and when one is to be opened; `News` is what an
//! application is told. Any bytes give frames or a [`TasksError`], which ends the stream.

#[cfg(feature = "alloc")]
mod board;
mod content;
mod frame;
mod link;
#[cfg(feature = "alloc")]
mod news;
#[cfg(feature = "alloc")]
mod record;
#[cfg(feature = "alloc")]
mod signer;
#[cfg(feature = "alloc")]
mod streams;
#[cfg(feature = "alloc")]
mod talk;
#[cfg(feature = "alloc")]
mod task;

#[cfg(all(test, feature = "alloc"))]
mod talk_tests;
#[cfg(all(test, feature = "alloc"))]
mod tests;

#[cfg(feature = "alloc")]
pub use board::{Board, BoardLimits, Tell};
pub use content::{
    About, CONTENT_MAX, Content, ContentError, FILES_MAX, REASON_MAX, TEXT_MAX, TaskFile,
};
pub use frame::FRAME_MAX;
pub use link::{Asked, Link, LinkEvent, Misuse, WINDOW};
#[cfg(feature = "alloc")]
pub use news::{News, TaskEvent, What};
#[cfg(feature = "alloc")]
pub use record::BadRecord;
#[cfg(feature = "alloc")]
pub use signer::{Keys, Signer};
#[cfg(feature = "alloc")]
pub use streams::{Calls, Streams};
#[cfg(feature = "alloc")]
pub use talk::{Contents, INPUT_MAX, OUTPUT_MAX, Talk, TalkEnd, Turn, Worked};
#[cfg(feature = "alloc")]
pub use task::{ActError, Party, Task, UNTOLD_MAX};

/// Longest word about how far a task is, in bytes.
pub const PROGRESS_MAX: usize = 1024;

/// Why a stream has to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TasksError {
    /// A frame of a type that means nothing here.
    #[error("unexpected frame of type {0}")]
    Unexpected(u32),
    /// A frame longer or shorter than its type allows, or whose fields do not add up.
    #[error("malformed frame of type {0}")]
    Malformed(u32),
    /// An answer to something else than what waits for one.
    #[error("an answer to nothing that was told")]
    WrongAnswer,
    /// The stream was closed for one of these.
    #[error("closed")]
    Closed,
}

/// What has become of what one side has told the other; the table is above.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// 0: it is durable on the other side.
    Applied,
    /// 1: a cancellation of a task that had ended.
    TooLate,
    /// 2: a cancellation beside a step of the worker's that comes before it.
    Overtaken,
    /// 3: the worker's grant to the submitter has no right to tasks.
    NotPermitted,
    /// 4: the submitter's reputation is below what the worker asks for.
    Reputation,
    /// 5: there is no room for another task now.
    Full,
    /// 6: the storage has failed.
    Failed,
    /// 7: there is no such task between the two.
    Unknown,
    /// 8: something else comes before it.
    Order,
    /// 9: it is not signed by who may make it, its task cannot take it, or it has a content
    /// that it may not have.
    Wrong,
    /// A code of a newer version: told again later.
    Other(u8),
}

impl Verdict {
    const CODES: [Verdict; 10] = [
        Verdict::Applied,
        Verdict::TooLate,
        Verdict::Overtaken,
        Verdict::NotPermitted,
        Verdict::Reputation,
        Verdict::Full,
        Verdict::Failed,
        Verdict::Unknown,
        Verdict::Order,
        Verdict::Wrong,
    ];

    /// The code on the wire.
    pub fn code(self) -> u8 {
        match self {
            Verdict::Other(code) => code,
            known => Self::CODES.iter().position(|v| *v == known).unwrap_or(0xFF) as u8,
        }
    }

    /// The verdict with this code.
    pub fn from_code(code: u8) -> Verdict {
        Self::CODES.get(usize::from(code)).copied().unwrap_or(Verdict::Other(code))
    }

    /// Whether its maker tells it again later.
    pub const fn is_passing(self) -> bool {
        matches!(self, Verdict::Full | Verdict::Failed | Verdict::Order | Verdict::Other(_))
    }
}

impl core::fmt::Display for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Verdict::Applied => "done",
            Verdict::TooLate => "the task had ended before",
            Verdict::Overtaken => "the worker was faster",
            Verdict::NotPermitted => "the worker's grant does not allow tasks",
            Verdict::Reputation => "the worker asks for a higher reputation",
            Verdict::Full => "there is no room for another task",
            Verdict::Failed => "the other side's storage has failed",
            Verdict::Unknown => "the other side knows no such task",
            Verdict::Order => "something else comes first",
            Verdict::Wrong => "the other side does not accept it",
            Verdict::Other(code) => return write!(f, "refused with code {code}"),
        })
    }
}
