//! The accepting end of data exchange; the table is in [`super`].
//!
//! Published plain frames pass through the same states: the frame's header is the offer, its
//! last byte the end. They have no identifier, no hash and no offset, and since their content
//! follows at once, a refused one is skipped.

use super::frame::{Frame, Gather, Output};
use super::{
    ContentHash, Digest, ExchangeError, Failure, FileName, Kind, Misuse, Offer, Refusal, TransferId,
};

/// A published plain frame, which is not offered but just comes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlainOffer {
    /// What it is.
    pub kind: Kind,
    /// Bytes of the content.
    pub size: u64,
    /// The file's base name; `None` exactly for messages.
    pub name: Option<FileName>,
}

/// What the sender said.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is no allocator; it lives for one call")]
pub enum ReceiverEvent<'b> {
    /// Decide with [`Receiver::answer`]; nothing more is read until then.
    Offered(Offer),
    /// The same for a plain frame; [`Answer::Have`] and a non-zero offset are not possible.
    Plain(PlainOffer),
    /// The next bytes of the content.
    Data(&'b [u8]),
    /// All bytes are here and the hash is right. Sync, then call [`Receiver::stored`]; nothing
    /// more is read until then.
    End {
        /// Of the whole content.
        hash: Digest,
    },
    /// All bytes are here, and what came or what was stored before is not what was sent. The
    /// sender has its receipt; discard what is stored of it.
    Mismatch,
}

/// What the owner says to an offer.
#[derive(Debug)]
pub enum Answer {
    /// Send, from where this hash ends: it covers what is stored already.
    Send(ContentHash),
    /// It is stored already.
    Have,
    /// No.
    Refuse(Refusal),
}

/// A transfer that has been offered and not been finished.
#[derive(Clone, Copy, Debug)]
struct Transfer {
    /// `None` for a plain frame.
    id: Option<TransferId>,
    kind: Kind,
    size: u64,
}

#[derive(Debug)]
enum State {
    Frame,
    Offered(Transfer),
    Data(Transfer, ContentHash),
    /// A refused plain frame, and how much of it is still to come.
    Skip(Transfer, u64),
    /// Only END may come.
    WaitEnd(TransferId, Digest),
    Ended(Transfer, Digest),
    Closed,
}

/// Receives messages and files, one after another, over one stream.
///
/// Whatever [`output`](Receiver::output) holds goes out before anything else; until it has, no
/// input is used, so a sender that does not read its answers stops itself.
#[derive(Debug)]
pub struct Receiver {
    state: State,
    gather: Gather,
    output: Output,
}

impl Receiver {
    /// On a fresh stream.
    pub fn new() -> Self {
        Receiver { state: State::Frame, gather: Gather::new(), output: Output::new() }
    }

    /// Bytes to write now; tell with [`advance`](Self::advance) how many were.
    pub fn output(&self) -> &[u8] {
        self.output.bytes()
    }

    /// `n` bytes of [`output`](Self::output) were written.
    pub fn advance(&mut self, n: usize) {
        self.output.advance(n);
    }

    /// Whether no transfer is under way.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Frame) && !self.gather.is_partial()
    }

    /// Whether the stream is of no more use: close it once the output is written.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Takes received bytes: how many were used, and what they meant. Call again until nothing
    /// is used and nothing happens.
    pub fn handle_bytes<'b>(
        &mut self,
        input: &'b [u8],
    ) -> Result<(usize, Option<ReceiverEvent<'b>>), ExchangeError> {
        if self.is_closed() {
            return Err(ExchangeError::Closed);
        }
        if !self.output.is_empty() {
            return Ok((0, None));
        }
        let result = self.step(input);
        if result.is_err() {
            self.state = State::Closed;
        }
        result
    }

    fn step<'b>(
        &mut self,
        input: &'b [u8],
    ) -> Result<(usize, Option<ReceiverEvent<'b>>), ExchangeError> {
        match &mut self.state {
            State::Frame | State::WaitEnd(..) => {
                let (used, frame) = self.gather.take(input)?;
                let event = frame.map(|frame| self.handle_frame(frame)).transpose()?;
                Ok((used, event.flatten()))
            }
            State::Data(transfer, hash) => {
                let left = transfer.size - hash.len();
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let data = &input[..n];
                hash.update(data);
                let event = (n > 0).then_some(ReceiverEvent::Data(data));
                if hash.len() == transfer.size {
                    let digest = hash.digest();
                    match transfer.id {
                        Some(id) => self.state = State::WaitEnd(id, digest),
                        // A plain frame's last byte is its end; told with the next call.
                        None if n > 0 => {}
                        None => {
                            self.state = State::Ended(*transfer, digest);
                            return Ok((0, Some(ReceiverEvent::End { hash: digest })));
                        }
                    }
                }
                Ok((n, event))
            }
            State::Skip(transfer, left) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= n as u64;
                if *left == 0 {
                    self.output.plain(transfer.kind, transfer.size, false);
                    self.state = State::Frame;
                }
                Ok((n, None))
            }
            State::Offered(_) | State::Ended(..) | State::Closed => Ok((0, None)),
        }
    }

    /// The sender has closed its side.
    pub fn handle_end(&mut self) -> Result<(), ExchangeError> {
        let whole = self.is_idle();
        self.state = State::Closed;
        if whole { Ok(()) } else { Err(ExchangeError::Truncated) }
    }

    fn handle_frame<'b>(
        &mut self,
        frame: Frame,
    ) -> Result<Option<ReceiverEvent<'b>>, ExchangeError> {
        if let State::WaitEnd(id, ours) = self.state {
            return self.handle_end_frame(id, ours, frame);
        }
        match frame {
            Frame::Offer(Ok(offer)) => {
                let Offer { id, kind, size, .. } = offer;
                self.state = State::Offered(Transfer { id: Some(id), kind, size });
                Ok(Some(ReceiverEvent::Offered(offer)))
            }
            Frame::Offer(Err((id, refusal))) => {
                self.output.answer(id, refusal.code(), 0);
                Ok(None)
            }
            Frame::Plain { kind: kind @ Kind::File, size, name: None } => {
                self.refuse_plain(Transfer { id: None, kind, size });
                Ok(None)
            }
            Frame::Plain { kind, size, name } => {
                self.state = State::Offered(Transfer { id: None, kind, size });
                Ok(Some(ReceiverEvent::Plain(PlainOffer { kind, size, name })))
            }
            Frame::Answer { .. } => Err(ExchangeError::Unexpected(super::frame::ANSWER)),
            Frame::End { .. } => Err(ExchangeError::Unexpected(super::frame::END)),
            Frame::Receipt { .. } => Err(ExchangeError::Unexpected(super::frame::RECEIPT)),
        }
    }

    fn handle_end_frame<'b>(
        &mut self,
        id: TransferId,
        ours: Digest,
        frame: Frame,
    ) -> Result<Option<ReceiverEvent<'b>>, ExchangeError> {
        let (ended, hash) = match frame {
            Frame::End { id, hash } => (id, hash),
            Frame::Offer(_) => return Err(ExchangeError::Unexpected(super::frame::OFFER)),
            Frame::Answer { .. } => return Err(ExchangeError::Unexpected(super::frame::ANSWER)),
            Frame::Receipt { .. } => return Err(ExchangeError::Unexpected(super::frame::RECEIPT)),
            Frame::Plain { kind, .. } => return Err(ExchangeError::Unexpected(kind as u32)),
        };
        if ended != id {
            return Err(ExchangeError::WrongTransfer);
        }
        if hash != ours {
            self.output.receipt(id, Err(Failure::HashMismatch), ours);
            self.state = State::Frame;
            return Ok(Some(ReceiverEvent::Mismatch));
        }
        // Neither the kind nor the size matters from here on.
        self.state = State::Ended(Transfer { id: Some(id), kind: Kind::Binary, size: 0 }, ours);
        Ok(Some(ReceiverEvent::End { hash }))
    }

    fn refuse_plain(&mut self, transfer: Transfer) {
        if transfer.size == 0 {
            self.output.plain(transfer.kind, 0, false);
            self.state = State::Frame;
        } else {
            self.state = State::Skip(transfer, transfer.size);
        }
    }

    /// Decides an offer.
    pub fn answer(&mut self, answer: Answer) -> Result<(), Misuse> {
        let State::Offered(transfer) = self.state else { return Err(Misuse::State) };
        match (answer, transfer.id) {
            (Answer::Send(hash), _) if hash.len() > transfer.size => return Err(Misuse::TooMuch),
            (Answer::Send(hash), Some(id)) => {
                self.output.answer(id, 0, hash.len());
                self.state = if hash.len() == transfer.size {
                    State::WaitEnd(id, hash.digest())
                } else {
                    State::Data(transfer, hash)
                };
            }
            (Answer::Send(hash), None) if hash.is_empty() => {
                self.state = State::Data(transfer, hash);
            }
            (Answer::Send(_) | Answer::Have, None) => return Err(Misuse::State),
            (Answer::Have, Some(id)) => {
                self.output.answer(id, 1, transfer.size);
                self.state = State::Frame;
            }
            (Answer::Refuse(refusal), Some(id)) => {
                // 0 and 1 would not be refusals.
                let code = if refusal.code() < 2 { Refusal::Failed.code() } else { refusal.code() };
                self.output.answer(id, code, 0);
                self.state = State::Frame;
            }
            (Answer::Refuse(_), None) => self.refuse_plain(transfer),
        }
        Ok(())
    }

    /// After [`ReceiverEvent::End`]: synced to storage, or not.
    pub fn stored(&mut self, result: Result<(), Failure>) -> Result<(), Misuse> {
        let State::Ended(transfer, hash) = self.state else { return Err(Misuse::State) };
        match transfer.id {
            Some(id) => self.output.receipt(id, at_least_one(result), hash),
            None => self.output.plain(transfer.kind, transfer.size, result.is_ok()),
        }
        self.state = State::Frame;
        Ok(())
    }

    /// Gives a transfer up while its bytes come in. The sender is told with an early receipt;
    /// then the stream has to be closed, because the rest of the content is still under way.
    pub fn abort(&mut self, failure: Failure) -> Result<(), Misuse> {
        let (transfer, hash) = match &self.state {
            State::Data(transfer, hash) => (*transfer, hash.digest()),
            State::WaitEnd(id, hash) => {
                (Transfer { id: Some(*id), kind: Kind::Binary, size: 0 }, *hash)
            }
            _ => return Err(Misuse::State),
        };
        // An answer that is partly written is lost with the stream.
        if self.output.is_empty() {
            match transfer.id {
                Some(id) => self.output.receipt(id, at_least_one(Err(failure)), hash),
                None => self.output.plain(transfer.kind, transfer.size, false),
            }
        }
        self.state = State::Closed;
        Ok(())
    }
}

/// Code 0 is not a failure, whoever says so.
fn at_least_one(result: Result<(), Failure>) -> Result<(), Failure> {
    result.map_err(|failure| if failure.code() == 0 { Failure::Failed } else { failure })
}

impl Default for Receiver {
    fn default() -> Self {
        Receiver::new()
    }
}
