//! The sending end of a stream of small messages, none of which waits for the one before; what
//! they are on the wire is in [`super`].

use super::frame::{ANSWER, END, Frame, Gather, OFFER, Output, PUSH, RECEIPT};
use super::{
    ContentHash, Digest, ExchangeError, Failure, HashAlgorithm, Kind, Misuse, Note, Offer,
    PUSH_MAX, PUSHES_MAX, Refusal, TransferId,
};
use heapless::Deque;

/// What has become of the oldest message without an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// Verified and synced by the receiver.
    Stored,
    /// The receiver has had this one before.
    AlreadyThere,
    /// Not taken.
    Refused(Refusal),
    /// Taken, then not stored.
    NotStored(Failure),
}

/// Sends messages over a stream without waiting between them, [`PUSHES_MAX`] at most without an
/// answer. Each is written to the front of a buffer that the caller lends; its content and
/// [`PUSH_OVERHEAD`](super::PUSH_OVERHEAD) bytes are always enough.
#[derive(Debug)]
pub struct Pipeline {
    open: Deque<(TransferId, Digest), PUSHES_MAX>,
    gather: Gather,
    closed: bool,
}

impl Pipeline {
    /// On a fresh stream.
    pub fn new() -> Self {
        Pipeline { open: Deque::new(), gather: Gather::new(), closed: false }
    }

    /// Messages without an answer.
    pub fn outstanding(&self) -> usize {
        self.open.len()
    }

    /// The oldest of them.
    pub fn oldest(&self) -> Option<TransferId> {
        self.open.front().map(|&(id, _)| id)
    }

    /// Writes a message of at most [`PUSH_MAX`] bytes to `out`: how many bytes it is there.
    ///
    /// [`Misuse::State`] while [`PUSHES_MAX`] have no answer, or after the end;
    /// [`Misuse::TooMuch`] for a longer content or a shorter buffer; [`Misuse::Name`] for a file.
    pub fn push(
        &mut self,
        id: TransferId,
        kind: Kind,
        note: Note,
        content: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Misuse> {
        if self.closed || self.open.is_full() {
            return Err(Misuse::State);
        }
        if !kind.is_message() {
            return Err(Misuse::Name);
        }
        if content.len() > PUSH_MAX {
            return Err(Misuse::TooMuch);
        }
        let (hash, size) = (HashAlgorithm::of(kind), content.len() as u64);
        let (mut head, mut end) = (Output::new(), Output::new());
        head.push(&Offer { id, kind, size, hash, name: None, note });
        let hash = ContentHash::of(hash, content);
        end.end(id, hash);
        let mut len = 0;
        for part in [head.bytes(), content, end.bytes()] {
            let room = out.get_mut(len..len + part.len()).ok_or(Misuse::TooMuch)?;
            room.copy_from_slice(part);
            len += part.len();
        }
        // There is room, as seen above.
        let _ = self.open.push_back((id, hash));
        Ok(len)
    }

    /// Takes received bytes: how many were used, and the answer to the oldest message. Call again
    /// until nothing is used.
    pub fn handle_bytes(
        &mut self,
        input: &[u8],
    ) -> Result<(usize, Option<(TransferId, Pushed)>), ExchangeError> {
        if self.closed {
            return Err(ExchangeError::Closed);
        }
        let result = self.gather.take(input).and_then(|(used, frame)| {
            let answer = frame.map(|frame| self.handle_frame(&frame)).transpose()?;
            Ok((used, answer))
        });
        self.closed = result.is_err();
        result
    }

    /// The receiver has closed its side; an error if answers are missing.
    pub fn handle_end(&mut self) -> Result<(), ExchangeError> {
        self.closed = true;
        let whole = self.open.is_empty() && !self.gather.is_partial();
        if whole { Ok(()) } else { Err(ExchangeError::Truncated) }
    }

    fn handle_frame(&mut self, frame: &Frame) -> Result<(TransferId, Pushed), ExchangeError> {
        let (answered, what) = match *frame {
            Frame::Answer { id, code, .. } => (
                id,
                match Refusal::from_code(code) {
                    Some(refusal) => Pushed::Refused(refusal),
                    None if code == 1 => Pushed::AlreadyThere,
                    // It was not asked.
                    None => return Err(ExchangeError::Unexpected(ANSWER)),
                },
            ),
            Frame::Receipt { id, code, hash } => (
                id,
                match Failure::from_code(code) {
                    Some(failure) => Pushed::NotStored(failure),
                    None if self.open.front().is_some_and(|(_, ours)| *ours.bytes() == hash) => {
                        Pushed::Stored
                    }
                    None if self.open.is_empty() => return Err(ExchangeError::Unexpected(RECEIPT)),
                    None => return Err(ExchangeError::BadAnswer),
                },
            ),
            Frame::Offer(_) => return Err(ExchangeError::Unexpected(OFFER)),
            Frame::Push { .. } => return Err(ExchangeError::Unexpected(PUSH)),
            Frame::End { .. } => return Err(ExchangeError::Unexpected(END)),
            Frame::Plain { kind, .. } => return Err(ExchangeError::Unexpected(kind as u32)),
        };
        match self.open.front() {
            Some(&(id, _)) if id == answered => {
                self.open.pop_front();
                Ok((id, what))
            }
            _ => Err(ExchangeError::WrongTransfer),
        }
    }
}

impl Default for Pipeline {
    fn default() -> Self {
        Pipeline::new()
    }
}
