//! One end of a stream; both ends are the same.

use super::frame::Frame;
use super::{TasksError, Verdict};
use crate::crypto::task::{Claim, Receipt, Statement, TaskId};
use heapless::Deque;

/// Most statements and claims of one end that wait for their answer; beyond so many of the other
/// end's, nothing is read.
pub const WINDOW: usize = 64;

/// What the other end said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is no allocator; it lives for one call")]
pub enum LinkEvent<'b> {
    /// It states something. Have it judged, make that durable, then [`answer`](Link::answer),
    /// in the order in which they came.
    Stated {
        /// Its form is right; nothing else was looked at.
        statement: Statement,
        /// What it is about.
        content: &'b [u8],
    },
    /// It wants its claim countersigned: [`answer_receipt`](Link::answer_receipt), in the same
    /// order, or [`answer`](Link::answer) with why not.
    Claimed(Claim),
    /// What has become of our oldest statement or claim without an answer.
    Answered(Asked, Verdict),
    /// Our oldest claim without an answer is countersigned; nothing but the form was looked at.
    Countersigned(Receipt),
    /// It asks whether we are there: write [`pong`](Link::pong).
    Ping(u32),
    /// It is there.
    Pong,
}

/// What an answer is to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// A statement: its task and number.
    Statement(TaskId, u32),
    /// The claim about a task.
    Claim(TaskId),
}

impl Asked {
    /// The task.
    pub const fn task(self) -> TaskId {
        match self {
            Asked::Statement(task, _) | Asked::Claim(task) => task,
        }
    }
}

/// The owner's call cannot be carried out; nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Misuse {
    /// [`WINDOW`] of ours wait for their answer.
    #[error("too many statements without an answer")]
    Window,
    /// Nothing of the other end waits for this answer.
    #[error("there is nothing to answer in this way")]
    Nothing,
    /// No room in the buffer, or something is too long.
    #[error("too long")]
    Room,
}

/// One end of a stream on port 1003. Frames are written to the front of a buffer that the
/// caller lends; [`FRAME_MAX`](super::FRAME_MAX) bytes are always enough.
#[derive(Debug, Default)]
pub struct Link {
    /// Ours, oldest first.
    told: Deque<Asked, WINDOW>,
    /// Theirs, oldest first.
    owed: Deque<Asked, WINDOW>,
    pings: u32,
    closed: bool,
}

impl Link {
    /// On a fresh stream.
    pub const fn new() -> Self {
        Link { told: Deque::new(), owed: Deque::new(), pings: 0, closed: false }
    }

    /// Whether another of ours may be told.
    pub fn has_room(&self) -> bool {
        !self.told.is_full()
    }

    /// Whether something of ours about this task waits for its answer here.
    pub fn is_asking(&self, task: TaskId) -> bool {
        self.told.iter().any(|asked| asked.task() == task)
    }

    /// Whether nothing waits for an answer, on either end.
    pub fn is_idle(&self) -> bool {
        self.told.is_empty() && self.owed.is_empty()
    }

    fn ask(&mut self, asked: Asked, frame: &Frame<'_>, out: &mut [u8]) -> Result<usize, Misuse> {
        if self.told.is_full() {
            return Err(Misuse::Window);
        }
        let len = frame.encode(out).ok_or(Misuse::Room)?;
        // There is room, as seen above.
        let _ = self.told.push_back(asked);
        Ok(len)
    }

    /// Writes a statement of ours; its length.
    pub fn tell(
        &mut self,
        statement: &Statement,
        content: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Misuse> {
        let asked = Asked::Statement(statement.fields.task, statement.fields.seq);
        self.ask(asked, &Frame::Tell { statement: *statement, content }, out)
    }

    /// Writes a claim of ours; its length.
    pub fn tell_claim(&mut self, claim: &Claim, out: &mut [u8]) -> Result<usize, Misuse> {
        self.ask(Asked::Claim(claim.task), &Frame::TellClaim(*claim), out)
    }

    /// Writes the answer to the oldest of the other end's that has none.
    pub fn answer(&mut self, verdict: Verdict, out: &mut [u8]) -> Result<usize, Misuse> {
        let task = self.owed.front().ok_or(Misuse::Nothing)?.task();
        let len = Frame::Answer { task, verdict }.encode(out).ok_or(Misuse::Room)?;
        self.owed.pop_front();
        Ok(len)
    }

    /// The same for a claim that was countersigned.
    pub fn answer_receipt(&mut self, receipt: &Receipt, out: &mut [u8]) -> Result<usize, Misuse> {
        if self.owed.front() != Some(&Asked::Claim(receipt.claim.task)) {
            return Err(Misuse::Nothing);
        }
        let len = Frame::AnswerReceipt(*receipt).encode(out).ok_or(Misuse::Room)?;
        self.owed.pop_front();
        Ok(len)
    }

    /// Asks whether the other end is still there.
    pub fn ping(&mut self, out: &mut [u8]) -> Result<usize, Misuse> {
        self.pings = self.pings.wrapping_add(1);
        Frame::Ping { request: self.pings }.encode(out).ok_or(Misuse::Room)
    }

    /// Says that we are.
    pub fn pong(&mut self, request: u32, out: &mut [u8]) -> Result<usize, Misuse> {
        Frame::Pong { request }.encode(out).ok_or(Misuse::Room)
    }

    /// Takes received bytes: how many were used, and what they meant. Nothing is used as long
    /// as the frame at the front is not complete, or while [`WINDOW`] answers are owed.
    pub fn handle_bytes<'b>(
        &mut self,
        input: &'b [u8],
    ) -> Result<(usize, Option<LinkEvent<'b>>), TasksError> {
        if self.closed {
            return Err(TasksError::Closed);
        }
        if self.owed.is_full() {
            return Ok((0, None));
        }
        let result = self.handle(input);
        self.closed = result.is_err();
        result
    }

    fn handle<'b>(
        &mut self,
        input: &'b [u8],
    ) -> Result<(usize, Option<LinkEvent<'b>>), TasksError> {
        let Some((frame, used)) = Frame::decode(input)? else { return Ok((0, None)) };
        let event = match frame {
            Frame::Tell { statement, content } => {
                // There is room, as seen above.
                let _ = self
                    .owed
                    .push_back(Asked::Statement(statement.fields.task, statement.fields.seq));
                LinkEvent::Stated { statement, content }
            }
            Frame::TellClaim(claim) => {
                let _ = self.owed.push_back(Asked::Claim(claim.task));
                LinkEvent::Claimed(claim)
            }
            Frame::Answer { task, verdict } => match self.told.front() {
                Some(&asked) if asked.task() == task => {
                    self.told.pop_front();
                    LinkEvent::Answered(asked, verdict)
                }
                _ => return Err(TasksError::WrongAnswer),
            },
            Frame::AnswerReceipt(receipt) => {
                if self.told.front() != Some(&Asked::Claim(receipt.claim.task)) {
                    return Err(TasksError::WrongAnswer);
                }
                self.told.pop_front();
                LinkEvent::Countersigned(receipt)
            }
            Frame::Ping { request } => LinkEvent::Ping(request),
            Frame::Pong { .. } => LinkEvent::Pong,
        };
        Ok((used, Some(event)))
    }
}
