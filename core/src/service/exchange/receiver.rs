//! The accepting end of data exchange; the table is in [`super`].
//!
//! Published plain frames pass through the same states: the frame's header is the offer, its
//! last byte the end. They have no identifier, no hash and no offset, and since their content
//! follows at once, a refused one is skipped.

use super::frame::{Frame, Gather, Output};
use super::{
    ContentHash, Digest, ExchangeError, Failure, FileName, HashAlgorithm, Kind, Misuse, Offer,
    PUSHES_MAX, Refusal, TransferId,
};
use heapless::Deque;

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
    /// more is read until then, or until [`Receiver::defer`].
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
#[cfg_attr(
    not(feature = "alloc"),
    allow(clippy::large_enum_variant, reason = "there is no allocator; it lives for one call")
)]
pub enum Answer {
    /// Send, from where this hash ends: it covers what is stored already, and is of the algorithm
    /// that was offered (for a plain frame, of any).
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
    hash: HashAlgorithm,
    /// Its content comes unasked.
    is_pushed: bool,
}

impl Transfer {
    const fn offered(offer: &Offer, is_pushed: bool) -> Transfer {
        let Offer { id, kind, size, hash, .. } = *offer;
        Transfer { id: Some(id), kind, size, hash, is_pushed }
    }

    const fn plain(kind: Kind, size: u64) -> Transfer {
        Transfer { id: None, kind, size, hash: HashAlgorithm::of(kind), is_pushed: false }
    }

    /// One of which neither the kind nor the size matters any more.
    const fn ended(id: TransferId) -> Transfer {
        Transfer { id: Some(id), ..Transfer::plain(Kind::Binary, 0) }
    }
}

/// What the sender is told of a transfer, at last.
#[derive(Clone, Copy, Debug)]
enum Reply {
    Receipt { hash: Digest, result: Result<(), Failure> },
    Answer { code: u8, size: u64 },
}

#[derive(Debug)]
#[cfg_attr(
    not(feature = "alloc"),
    allow(clippy::large_enum_variant, reason = "there is no allocator")
)]
enum State {
    Frame,
    Offered(Transfer),
    Data(Transfer, ContentHash),
    /// A refused plain frame, and how much of it is still to come.
    Skip(Transfer, u64),
    /// A pushed message that is not taken, how much of it is still to come, and why.
    SkipPushed(TransferId, u64, Reply),
    /// Only its END may come.
    SkipEnd(TransferId, Reply),
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
    /// Transfers whose last word is not in the output yet, in order; of those without one only
    /// the hash is known.
    unanswered: Deque<(TransferId, Result<Reply, Digest>), PUSHES_MAX>,
}

impl Receiver {
    /// On a fresh stream.
    pub fn new() -> Self {
        Receiver {
            state: State::Frame,
            gather: Gather::new(),
            output: Output::new(),
            unanswered: Deque::new(),
        }
    }

    /// Bytes to write now; tell with [`advance`](Self::advance) how many were.
    pub fn output(&self) -> &[u8] {
        self.output.bytes()
    }

    /// `n` bytes of [`output`](Self::output) were written.
    pub fn advance(&mut self, n: usize) {
        self.output.advance(n);
        self.refill();
    }

    /// Whether no transfer is under way.
    pub fn is_idle(&self) -> bool {
        self.is_between() && self.unanswered.is_empty()
    }

    /// Bytes of content that come next, with nothing between them that is no content.
    pub fn content_left(&self) -> u64 {
        match &self.state {
            State::Data(transfer, hash) => transfer.size - hash.len(),
            _ => 0,
        }
    }

    fn is_between(&self) -> bool {
        matches!(self.state, State::Frame) && !self.gather.is_partial()
    }

    /// Whether what was [offered](ReceiverEvent::Offered) now was pushed: others may be right behind
    /// it, and its receipt may be [deferred](Self::defer).
    pub fn is_pushed(&self) -> bool {
        matches!(&self.state, State::Offered(transfer) if transfer.is_pushed)
    }

    /// Transfers that were [deferred](Self::defer) and not [settled](Self::settle), at most
    /// [`PUSHES_MAX`].
    pub fn deferred(&self) -> usize {
        self.unanswered.iter().filter(|(_, reply)| reply.is_err()).count()
    }

    /// The last word on a transfer, behind those on the ones before it.
    fn reply(&mut self, id: TransferId, reply: Reply) {
        // There is room: no transfer begins without.
        let _ = self.unanswered.push_back((id, Ok(reply)));
        self.refill();
    }

    fn refill(&mut self) {
        if self.output.is_empty()
            && let Some(&(id, Ok(reply))) = self.unanswered.front()
        {
            self.unanswered.pop_front();
            match reply {
                Reply::Receipt { hash, result } => self.output.receipt(id, result, hash),
                Reply::Answer { code, size } => self.output.answer(id, code, size),
            }
        }
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
            State::Frame | State::WaitEnd(..) | State::SkipEnd(..) => {
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
            State::SkipPushed(id, left, reply) => {
                let n = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= n as u64;
                if *left == 0 {
                    self.state = State::SkipEnd(*id, *reply);
                }
                Ok((n, None))
            }
            State::Offered(_) | State::Ended(..) | State::Closed => Ok((0, None)),
        }
    }

    /// The sender has closed its side.
    pub fn handle_end(&mut self) -> Result<(), ExchangeError> {
        let whole = self.is_between();
        self.state = State::Closed;
        if whole { Ok(()) } else { Err(ExchangeError::Truncated) }
    }

    fn handle_frame<'b>(
        &mut self,
        frame: Frame,
    ) -> Result<Option<ReceiverEvent<'b>>, ExchangeError> {
        match self.state {
            State::WaitEnd(id, ours) => return self.handle_end_frame(id, ours, frame),
            State::SkipEnd(id, reply) => {
                expect_end(id, frame)?;
                self.state = State::Frame;
                self.reply(id, reply);
                return Ok(None);
            }
            _ => {}
        }
        match frame {
            // Who waits for an answer has none before it to wait for.
            Frame::Offer(_) | Frame::Plain { .. } if !self.unanswered.is_empty() => {
                Err(ExchangeError::Unexpected(super::frame::OFFER))
            }
            Frame::Push { .. } if self.unanswered.is_full() => {
                Err(ExchangeError::Unexpected(super::frame::PUSH))
            }
            Frame::Push { offer: Ok(offer), .. } => {
                self.state = State::Offered(Transfer::offered(&offer, true));
                Ok(Some(ReceiverEvent::Offered(offer)))
            }
            Frame::Push { id, size, offer: Err(refusal) } => {
                self.skip_pushed(id, size, Reply::Answer { code: refusal.code(), size: 0 });
                Ok(None)
            }
            Frame::Offer(Ok(offer)) => {
                self.state = State::Offered(Transfer::offered(&offer, false));
                Ok(Some(ReceiverEvent::Offered(offer)))
            }
            Frame::Offer(Err((id, refusal))) => {
                self.output.answer(id, refusal.code(), 0);
                Ok(None)
            }
            Frame::Plain { kind: kind @ Kind::File, size, name: None } => {
                self.refuse_plain(Transfer::plain(kind, size));
                Ok(None)
            }
            Frame::Plain { kind, size, name } => {
                self.state = State::Offered(Transfer::plain(kind, size));
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
        let (algorithm, theirs) = expect_end(id, frame)?;
        if algorithm != ours.algorithm() as u8 {
            return Err(ExchangeError::WrongHash(algorithm));
        }
        if theirs != *ours.bytes() {
            self.state = State::Frame;
            let result = Err(Failure::HashMismatch);
            self.reply(id, Reply::Receipt { hash: ours, result });
            return Ok(Some(ReceiverEvent::Mismatch));
        }
        self.state = State::Ended(Transfer::ended(id), ours);
        Ok(Some(ReceiverEvent::End { hash: ours }))
    }

    fn skip_pushed(&mut self, id: TransferId, size: u64, reply: Reply) {
        self.state = match size {
            0 => State::SkipEnd(id, reply),
            left => State::SkipPushed(id, left, reply),
        };
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
        if let (Answer::Send(hash), Some(_)) = (&answer, transfer.id)
            && hash.algorithm() != transfer.hash
        {
            return Err(Misuse::Hash);
        }
        if let (true, Some(id)) = (transfer.is_pushed, transfer.id) {
            return self.answer_pushed(transfer, id, answer);
        }
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
                self.output.answer(id, code_of(refusal), 0);
                self.state = State::Frame;
            }
            (Answer::Refuse(_), None) => self.refuse_plain(transfer),
        }
        Ok(())
    }

    /// The content of a pushed message comes in any case; its sender hears of it afterwards.
    fn answer_pushed(
        &mut self,
        transfer: Transfer,
        id: TransferId,
        answer: Answer,
    ) -> Result<(), Misuse> {
        let size = transfer.size;
        match answer {
            Answer::Send(hash) if !hash.is_empty() => return Err(Misuse::State),
            Answer::Send(hash) if size == 0 => self.state = State::WaitEnd(id, hash.digest()),
            Answer::Send(hash) => self.state = State::Data(transfer, hash),
            Answer::Have => self.skip_pushed(id, size, Reply::Answer { code: 1, size }),
            Answer::Refuse(refusal) => {
                self.skip_pushed(id, size, Reply::Answer { code: code_of(refusal), size: 0 });
            }
        }
        Ok(())
    }

    /// After [`ReceiverEvent::End`]: synced to storage, or not.
    pub fn stored(&mut self, result: Result<(), Failure>) -> Result<(), Misuse> {
        let State::Ended(transfer, hash) = self.state else { return Err(Misuse::State) };
        self.state = State::Frame;
        match transfer.id {
            Some(id) => self.reply(id, Reply::Receipt { hash, result: at_least_one(result) }),
            None => self.output.plain(transfer.kind, transfer.size, result.is_ok()),
        }
        Ok(())
    }

    /// After [`ReceiverEvent::End`], instead of [`stored`](Self::stored): what follows is read
    /// already, and the receipt is given later, with [`settle`](Self::settle). Of what was pushed,
    /// many can so be synced at once; who has offered sends nothing before the receipt.
    pub fn defer(&mut self) -> Result<(), Misuse> {
        match self.state {
            State::Ended(Transfer { id: Some(id), .. }, hash) => {
                // There is room: no transfer begins without.
                let _ = self.unanswered.push_back((id, Err(hash)));
                self.state = State::Frame;
                Ok(())
            }
            _ => Err(Misuse::State),
        }
    }

    /// The oldest of the [deferred](Self::defer): synced to storage, or not.
    pub fn settle(&mut self, result: Result<(), Failure>) -> Result<(), Misuse> {
        let waiting = self.unanswered.iter_mut().find(|(_, reply)| reply.is_err());
        let Some((_, reply @ Err(_))) = waiting else { return Err(Misuse::State) };
        if let Err(hash) = *reply {
            *reply = Ok(Reply::Receipt { hash, result: at_least_one(result) });
        }
        self.refill();
        Ok(())
    }

    /// Gives a transfer up while its bytes come in. The sender is told with an early receipt;
    /// then the stream has to be closed, because the rest of the content is still under way.
    pub fn abort(&mut self, failure: Failure) -> Result<(), Misuse> {
        let (transfer, hash) = match &self.state {
            State::Data(transfer, hash) => (*transfer, hash.digest()),
            State::WaitEnd(id, hash) => (Transfer::ended(*id), *hash),
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

/// The hash of the only frame that may come now, and its algorithm.
fn expect_end(id: TransferId, frame: Frame) -> Result<(u8, [u8; 32]), ExchangeError> {
    match frame {
        Frame::End { id: ended, algorithm, hash } if ended == id => Ok((algorithm, hash)),
        Frame::End { .. } => Err(ExchangeError::WrongTransfer),
        Frame::Offer(_) => Err(ExchangeError::Unexpected(super::frame::OFFER)),
        Frame::Push { .. } => Err(ExchangeError::Unexpected(super::frame::PUSH)),
        Frame::Answer { .. } => Err(ExchangeError::Unexpected(super::frame::ANSWER)),
        Frame::Receipt { .. } => Err(ExchangeError::Unexpected(super::frame::RECEIPT)),
        Frame::Plain { kind, .. } => Err(ExchangeError::Unexpected(kind as u32)),
    }
}

/// 0 and 1 would not be refusals.
fn code_of(refusal: Refusal) -> u8 {
    if refusal.code() < 2 { Refusal::Failed.code() } else { refusal.code() }
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
