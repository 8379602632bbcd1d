//! The frames: written into a buffer that is lent, and parsed where they lie.

use super::content::{CONTENT_MAX, array};
use super::{TasksError, Verdict};
use crate::crypto::task::{CLAIM, Claim, RECEIPT, Receipt, STATEMENT, Statement, TaskId};

/// Type and length.
pub(super) const HEADER: usize = 8;

pub(super) const TELL: u32 = 16;
pub(super) const TELL_CLAIM: u32 = 17;
pub(super) const ANSWER: u32 = 18;
pub(super) const ANSWER_RECEIPT: u32 = 19;
pub(super) const PING: u32 = 20;
pub(super) const PONG: u32 = 21;

/// task 16, code 1.
const ANSWER_LEN: usize = 17;

/// Longest frame: a statement with the longest content.
pub const FRAME_MAX: usize = HEADER + STATEMENT + CONTENT_MAX;

/// One frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is no allocator; it lives for one call")]
pub(super) enum Frame<'a> {
    /// A statement, and the content whose hash it carries.
    Tell {
        statement: Statement,
        content: &'a [u8],
    },
    TellClaim(Claim),
    /// What has become of the oldest of these without an answer.
    Answer {
        task: TaskId,
        verdict: Verdict,
    },
    /// The same, of a claim that was countersigned.
    AnswerReceipt(Receipt),
    Ping {
        request: u32,
    },
    Pong {
        request: u32,
    },
}

impl<'a> Frame<'a> {
    fn kind(&self) -> u32 {
        match self {
            Frame::Tell { .. } => TELL,
            Frame::TellClaim(_) => TELL_CLAIM,
            Frame::Answer { .. } => ANSWER,
            Frame::AnswerReceipt(_) => ANSWER_RECEIPT,
            Frame::Ping { .. } => PING,
            Frame::Pong { .. } => PONG,
        }
    }

    /// Writes the frame to the front of `out`: its length, or `None` if there is no room for it
    /// or a part of it is too long.
    pub(super) fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let mut at = HEADER;
        let mut put = |bytes: &[u8]| {
            let end = at + bytes.len();
            out.get_mut(at..end)?.copy_from_slice(bytes);
            at = end;
            Some(())
        };
        match self {
            Frame::Tell { statement, content } => {
                (content.len() <= CONTENT_MAX).then_some(())?;
                put(&statement.encode())?;
                put(content)?;
            }
            Frame::TellClaim(claim) => put(&claim.encode())?,
            Frame::Answer { task, verdict } => {
                put(&task.0)?;
                put(&[verdict.code()])?;
            }
            Frame::AnswerReceipt(receipt) => put(&receipt.encode())?,
            Frame::Ping { request } | Frame::Pong { request } => put(&request.to_be_bytes())?,
        }
        out[..4].copy_from_slice(&self.kind().to_be_bytes());
        // The longest frame is far below 2^32 bytes.
        out[4..HEADER].copy_from_slice(&((at - HEADER) as u32).to_be_bytes());
        Some(at)
    }

    /// The frame at the front of `input` and its length; `None` as long as it is not all there.
    /// A length is refused as soon as it is known.
    pub(super) fn decode(input: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, TasksError> {
        let Some(kind) = input.first_chunk() else { return Ok(None) };
        let kind = u32::from_be_bytes(*kind);
        let (least, most) = match kind {
            TELL => (STATEMENT, STATEMENT + CONTENT_MAX),
            TELL_CLAIM => (CLAIM, CLAIM),
            ANSWER => (ANSWER_LEN, ANSWER_LEN),
            ANSWER_RECEIPT => (RECEIPT, RECEIPT),
            PING | PONG => (4, 4),
            other => return Err(TasksError::Unexpected(other)),
        };
        let Some(header) = input.first_chunk::<HEADER>() else { return Ok(None) };
        let len = u32::from_be_bytes(array(&header[4..])) as usize;
        if !(least..=most).contains(&len) {
            return Err(TasksError::Malformed(kind));
        }
        let Some(body) = input.get(HEADER..HEADER + len) else { return Ok(None) };
        let frame = Frame::parse(kind, body).ok_or(TasksError::Malformed(kind))?;
        Ok(Some((frame, HEADER + len)))
    }

    /// The length was checked.
    fn parse(kind: u32, body: &'a [u8]) -> Option<Frame<'a>> {
        Some(match kind {
            TELL => {
                let (statement, content) = body.split_at(STATEMENT);
                Frame::Tell { statement: Statement::decode(statement).ok()?, content }
            }
            TELL_CLAIM => Frame::TellClaim(Claim::decode(body).ok()?),
            ANSWER => {
                let task = TaskId(array(body));
                Frame::Answer { task, verdict: Verdict::from_code(body[16]) }
            }
            ANSWER_RECEIPT => Frame::AnswerReceipt(Receipt::decode(body).ok()?),
            PING => Frame::Ping { request: u32::from_be_bytes(array(body)) },
            _ => Frame::Pong { request: u32::from_be_bytes(array(body)) },
        })
    }
}
