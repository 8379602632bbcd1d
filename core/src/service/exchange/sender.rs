//! The offering end of data exchange; the table is in [`super`].

use super::frame::{Frame, Gather, Output};
use super::{
    ContentHash, Digest, ExchangeError, Failure, HashAlgorithm, Misuse, Offer, Refusal, TransferId,
};

/// What the receiver said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SenderEvent {
    /// Feed the content to [`Sender::content`], from its first byte.
    Accepted {
        /// Bytes that the receiver has already; they are hashed and not written.
        offset: u64,
    },
    /// The receiver has had this transfer: done.
    AlreadyThere,
    /// Not taken; the next offer may follow.
    Refused(Refusal),
    /// Verified and synced by the receiver: done.
    Stored {
        /// Of the whole content.
        hash: Digest,
    },
    /// Accepted, then not stored. If [`Sender::is_closed`], the stream is of no more use.
    NotStored(Failure),
}

#[derive(Debug)]
#[cfg_attr(
    not(feature = "alloc"),
    allow(clippy::large_enum_variant, reason = "there is no allocator")
)]
enum State {
    Idle,
    Offered { id: TransferId, size: u64, hash: HashAlgorithm },
    Sending { id: TransferId, size: u64, offset: u64, hash: ContentHash },
    Ending { id: TransferId, hash: Digest },
    Closed,
}

/// Sends messages and files, one after another, over one stream.
///
/// Whatever [`output`](Sender::output) holds goes out before anything else. A receiver that does not
/// know the hash algorithm of an offer is offered the same with SHA-256; the owner sees nothing of
/// that but another hash in the end.
#[derive(Debug)]
pub struct Sender {
    state: State,
    gather: Gather,
    output: Output,
}

impl Sender {
    /// On a fresh stream.
    pub fn new() -> Self {
        Sender { state: State::Idle, gather: Gather::new(), output: Output::new() }
    }

    /// Bytes to write now; tell with [`advance`](Self::advance) how many were.
    pub fn output(&self) -> &[u8] {
        self.output.bytes()
    }

    /// `n` bytes of [`output`](Self::output) were written.
    pub fn advance(&mut self, n: usize) {
        self.output.advance(n);
    }

    /// Whether no transfer is under way, so that [`offer`](Self::offer) may be called.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Whether the stream is of no more use.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Offers a transfer.
    pub fn offer(&mut self, offer: &Offer) -> Result<(), Misuse> {
        if !self.is_idle() || !self.output.is_empty() {
            return Err(Misuse::State);
        }
        if offer.kind.is_message() != offer.name.is_none() {
            return Err(Misuse::Name);
        }
        self.output.offer(offer);
        self.state = State::Offered { id: offer.id, size: offer.size, hash: offer.hash };
        Ok(())
    }

    /// Bytes of the content that are still to come, once the offer was accepted.
    pub fn content_left(&self) -> u64 {
        match &self.state {
            State::Sending { size, hash, .. } => size - hash.len(),
            _ => 0,
        }
    }

    /// How many of them the receiver has already.
    pub fn known_left(&self) -> u64 {
        match &self.state {
            State::Sending { offset, hash, .. } => offset.saturating_sub(hash.len()),
            _ => 0,
        }
    }

    /// Takes the next bytes of the content, from its first byte on, and returns those of them
    /// that have to be written now, unframed. After the last byte END is in
    /// [`output`](Self::output), to be written behind them.
    pub fn content<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], Misuse> {
        let State::Sending { id, size, offset, hash } = &mut self.state else {
            return Err(Misuse::State);
        };
        if bytes.len() as u64 > *size - hash.len() {
            return Err(Misuse::TooMuch);
        }
        // Bytes that the receiver has: at most all of them, so the cast is exact.
        let known = offset.saturating_sub(hash.len()).min(bytes.len() as u64) as usize;
        hash.update(bytes);
        if hash.len() == *size {
            let (id, hash) = (*id, hash.digest());
            self.output.end(id, hash);
            self.state = State::Ending { id, hash };
        }
        Ok(&bytes[known..])
    }

    /// Takes received bytes: how many were used, and what they meant. Call again until nothing
    /// is used.
    pub fn handle_bytes(
        &mut self,
        input: &[u8],
    ) -> Result<(usize, Option<SenderEvent>), ExchangeError> {
        if self.is_closed() {
            return Err(ExchangeError::Closed);
        }
        let result = self.gather.take(input).and_then(|(used, frame)| {
            let event = frame.map(|frame| self.handle_frame(frame)).transpose()?;
            Ok((used, event.flatten()))
        });
        if result.is_err() {
            self.state = State::Closed;
        }
        result
    }

    /// The receiver has closed its side.
    pub fn handle_end(&mut self) -> Result<(), ExchangeError> {
        let whole = self.is_idle() && !self.gather.is_partial();
        self.state = State::Closed;
        if whole { Ok(()) } else { Err(ExchangeError::Truncated) }
    }

    fn handle_frame(&mut self, frame: Frame) -> Result<Option<SenderEvent>, ExchangeError> {
        match frame {
            Frame::Answer { id, code, offset } => self.handle_answer(id, code, offset),
            Frame::Receipt { id, code, hash } => self.handle_receipt(id, code, hash).map(Some),
            Frame::Offer(_) => Err(ExchangeError::Unexpected(super::frame::OFFER)),
            Frame::Push { .. } => Err(ExchangeError::Unexpected(super::frame::PUSH)),
            Frame::End { .. } => Err(ExchangeError::Unexpected(super::frame::END)),
            Frame::Plain { kind, .. } => Err(ExchangeError::Unexpected(kind as u32)),
        }
    }

    fn handle_answer(
        &mut self,
        answered: TransferId,
        code: u8,
        offset: u64,
    ) -> Result<Option<SenderEvent>, ExchangeError> {
        let State::Offered { id, size, hash } = self.state else {
            return Err(ExchangeError::Unexpected(super::frame::ANSWER));
        };
        if answered != id {
            return Err(ExchangeError::WrongTransfer);
        }
        // Who does not know the algorithm may take it for a kind.
        let is_unknown = Refusal::from_code(code)
            .is_some_and(|r| matches!(r, Refusal::UnknownHash | Refusal::UnknownKind));
        if is_unknown && hash != HashAlgorithm::Sha256 && self.output.is_empty() {
            self.output.offer_sha256();
            self.state = State::Offered { id, size, hash: HashAlgorithm::Sha256 };
            return Ok(None);
        }
        self.state = State::Idle;
        Ok(Some(match (code, Refusal::from_code(code)) {
            (_, Some(refusal)) => SenderEvent::Refused(refusal),
            (0, _) if offset > size => return Err(ExchangeError::BadAnswer),
            (0, _) => {
                let hash = ContentHash::new(hash);
                if size == 0 {
                    // No content will come to complete it.
                    let hash = hash.digest();
                    self.output.end(id, hash);
                    self.state = State::Ending { id, hash };
                } else {
                    self.state = State::Sending { id, size, offset, hash };
                }
                SenderEvent::Accepted { offset }
            }
            _ => SenderEvent::AlreadyThere,
        }))
    }

    fn handle_receipt(
        &mut self,
        stored: TransferId,
        code: u8,
        theirs: [u8; 32],
    ) -> Result<SenderEvent, ExchangeError> {
        let (id, ours) = match &self.state {
            State::Sending { id, .. } => (*id, None),
            State::Ending { id, hash } => (*id, Some(*hash)),
            _ => return Err(ExchangeError::Unexpected(super::frame::RECEIPT)),
        };
        if stored != id {
            return Err(ExchangeError::WrongTransfer);
        }
        match (Failure::from_code(code), ours) {
            (Some(failure), Some(_)) => {
                // END not yet written means bytes are missing that will never come.
                let whole = self.output.is_empty();
                self.state = if whole { State::Idle } else { State::Closed };
                Ok(SenderEvent::NotStored(failure))
            }
            (Some(failure), None) => {
                self.state = State::Closed;
                Ok(SenderEvent::NotStored(failure))
            }
            (None, Some(hash)) if *hash.bytes() == theirs && self.output.is_empty() => {
                self.state = State::Idle;
                Ok(SenderEvent::Stored { hash })
            }
            (None, _) => Err(ExchangeError::BadAnswer),
        }
    }
}

impl Default for Sender {
    fn default() -> Self {
        Sender::new()
    }
}
