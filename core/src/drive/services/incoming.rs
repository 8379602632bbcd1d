//! Receiving messages and files.

use super::error::TransferError;
use super::flow::Flow;
use crate::addr::SocketAddress;
use crate::drive::agent::StreamHandle;
use crate::drive::runtime::Runtime;
use crate::service::exchange::{
    Answer, ContentHash, Digest, Failure, Kind, Misuse, Note, Offer, PUSH_MAX, Receiver,
    ReceiverEvent, Refusal, TransferId,
};
use core::fmt;
use core::task::{Poll, ready};
use std::boxed::Box;
use std::vec::Vec;

/// Bytes of answers that wait for the stream; beyond, nothing is read. Honest peers have 256 of 65
/// bytes at most.
const BACKLOG: usize = 256 * 1024;

/// A message that has arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Which: unique for its sender, and the same when it is sent again.
    pub id: TransferId,
    /// What it is.
    pub kind: Kind,
    /// A remark of the sender: **hostile text**, cleaned.
    pub note: Note,
    /// At most 1 MiB.
    pub content: Vec<u8>,
    /// Of the content.
    pub hash: Digest,
}

/// What a sender has sent.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::large_enum_variant, reason = "it lives for one call")]
pub enum Received {
    /// A whole message. Make it durable, then [`Incoming::acknowledge`] it.
    Message(Message),
    /// A file is offered: [`Incoming::accept`] it and read its content, or
    /// [`Incoming::refuse`] it.
    File(Offer),
}

/// Where the machine is.
#[allow(clippy::large_enum_variant, reason = "one a stream, and it is reused for every transfer")]
enum Stage {
    Between,
    /// The content of a message comes.
    Message(Offer, Vec<u8>),
    /// A file was offered, and awaits its answer.
    Offered,
    /// Its content comes.
    File,
}

/// Messages and files of one peer, over one stream. [`Listener::accept`](super::Served) has the
/// streams.
///
/// An acknowledgement is this application's promise: what it acknowledges is durable here. It may
/// take further messages before, at most 256, and acknowledge them together, in their order. A
/// message that is known already (by its sender and id) is acknowledged without being stored
/// again: its sender has not heard of the first time.
///
/// Dropping it ends the stream; what was not acknowledged is sent again by whoever cares.
pub struct Incoming<R: Runtime> {
    flow: Flow<R>,
    receiver: Box<Receiver>,
    stage: Stage,
    /// The sender has said its last.
    has_ended: bool,
}

impl<R: Runtime> fmt::Debug for Incoming<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("from", &self.peer()).finish_non_exhaustive()
    }
}

/// What a step of the machine has brought.
#[allow(clippy::large_enum_variant, reason = "it lives for one call")]
enum Step {
    /// Go on.
    Used,
    /// It needs more bytes.
    Hungry,
    Received(Received),
    /// So many bytes of a file were put into the buffer.
    Data(usize),
    /// The file is complete.
    Complete,
    /// It is not what was sent.
    Mismatch,
}

impl<R: Runtime> Incoming<R> {
    /// Over a stream that was accepted on port 1001.
    pub fn new(stream: StreamHandle<R>) -> Self {
        let receiver = Box::new(Receiver::new());
        Incoming { flow: Flow::new(stream), receiver, stage: Stage::Between, has_ended: false }
    }

    pub(super) fn host(&self) -> R::Host {
        self.flow.host()
    }

    /// Who sends.
    pub fn peer(&self) -> SocketAddress {
        self.flow.stream.peer()
    }

    /// Messages and files that were received and not acknowledged, at most 256.
    pub fn unacknowledged(&self) -> usize {
        self.receiver.deferred()
    }

    /// The next message, or a file that is offered; `None` when the sender has said its last.
    /// What was acknowledged meanwhile is told to the sender.
    pub fn poll_next(&mut self, waker: &R::Waker) -> Poll<Result<Option<Received>, TransferError>> {
        loop {
            if let Stage::Offered | Stage::File = self.stage {
                return Poll::Ready(Err(Misuse::State.into()));
            }
            match self.step(&mut [])? {
                Step::Received(received) => return Poll::Ready(Ok(Some(received))),
                Step::Hungry => {
                    let has_more = ready!(self.poll_more(waker))?;
                    if !has_more {
                        return Poll::Ready(Ok(None));
                    }
                }
                _ => {}
            }
        }
    }

    /// Answers the offer of a file: send it, from where `stored` ends, which covers the bytes that
    /// are durable already (a fresh [`ContentHash`] covers none), by the offer's algorithm.
    pub fn accept(&mut self, stored: ContentHash) -> Result<(), TransferError> {
        self.answer(Answer::Send(stored), Stage::File)
    }

    /// Answers the offer of a file: it is here, durable, already.
    pub fn have(&mut self) -> Result<(), TransferError> {
        self.answer(Answer::Have, Stage::Between)
    }

    /// Answers the offer of a file: no.
    pub fn refuse(&mut self, refusal: Refusal) -> Result<(), TransferError> {
        self.answer(Answer::Refuse(refusal), Stage::Between)
    }

    fn answer(&mut self, answer: Answer, next: Stage) -> Result<(), TransferError> {
        let Stage::Offered = self.stage else { return Err(Misuse::State.into()) };
        self.receiver.answer(answer)?;
        self.stage = next;
        Ok(())
    }

    /// Reads the content of the file that was [accepted](Self::accept), from where its stored
    /// part ends; 0 bytes when all of it has come and its hash is right. Then make it durable, and
    /// [acknowledge](Self::acknowledge) it. With [`Failure::HashMismatch`] it is of no use.
    pub fn poll_read(
        &mut self,
        waker: &R::Waker,
        buf: &mut [u8],
    ) -> Poll<Result<usize, TransferError>> {
        // Nothing fits, and nothing is to pile up here instead.
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            let Stage::File = self.stage else { return Poll::Ready(Err(Misuse::State.into())) };
            if self.is_all_content() {
                return self.poll_content(waker, buf);
            }
            match self.step(buf)? {
                Step::Data(n) => return Poll::Ready(Ok(n)),
                Step::Complete => return Poll::Ready(Ok(0)),
                Step::Mismatch => return Poll::Ready(Err(Failure::HashMismatch.into())),
                Step::Hungry => {
                    let has_more = ready!(self.poll_more(waker))?;
                    if !has_more {
                        return Poll::Ready(Err(io_end().into()));
                    }
                }
                Step::Used | Step::Received(_) => {}
            }
        }
    }

    /// Whether the stream has nothing but content for a while, and nothing of it was read yet.
    fn is_all_content(&self) -> bool {
        let is_quiet = self.receiver.output().is_empty() && self.flow.input().is_empty();
        is_quiet && self.receiver.content_left() > 0
    }

    /// Reads such content straight into the caller's buffer.
    fn poll_content(
        &mut self,
        waker: &R::Waker,
        buf: &mut [u8],
    ) -> Poll<Result<usize, TransferError>> {
        let left = usize::try_from(self.receiver.content_left()).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        let flushed = self.flow.poll_flush(waker);
        let n = ready!(self.flow.poll_read(waker, &mut buf[..len]))?;
        if n == 0 {
            self.receiver.handle_end()?;
            ready!(flushed)?;
            return Poll::Ready(Err(io_end().into()));
        }
        let (used, _) = self.receiver.handle_bytes(&buf[..n])?;
        Poll::Ready(Ok(used))
    }

    /// The oldest `count` that were received and not acknowledged are durable here. Told to their
    /// senders with the next poll.
    pub fn acknowledge(&mut self, count: usize) -> Result<(), TransferError> {
        for _ in 0..count {
            self.receiver.settle(Ok(()))?;
            self.take_output();
        }
        Ok(())
    }

    /// The oldest that was received and not acknowledged was not stored.
    pub fn reject(&mut self, failure: Failure) -> Result<(), TransferError> {
        self.receiver.settle(Err(failure))?;
        self.take_output();
        Ok(())
    }

    /// Waits until the stream has taken all acknowledgements.
    pub fn poll_flush(&mut self, waker: &R::Waker) -> Poll<Result<(), TransferError>> {
        self.take_output();
        self.flow.poll_flush(waker).map_err(TransferError::from)
    }

    /// What the machine has to say. [`BACKLOG`] bounds it.
    fn take_output(&mut self) {
        while !self.receiver.output().is_empty() {
            self.flow.output().extend_from_slice(self.receiver.output());
            self.receiver.advance(usize::MAX);
        }
    }

    /// Reads on, and writes what waits; `false` at the end.
    fn poll_more(&mut self, waker: &R::Waker) -> Poll<Result<bool, TransferError>> {
        // What was written before the other side went away may still be read.
        let flushed = self.flow.poll_flush(waker);
        if self.has_ended {
            ready!(flushed)?;
            return Poll::Ready(Ok(false));
        }
        if flushed.is_pending() && self.flow.backlog() >= BACKLOG {
            return Poll::Pending;
        }
        let more = ready!(self.flow.poll_fill(waker))?;
        if !more {
            self.receiver.handle_end()?;
            self.has_ended = true;
            ready!(flushed)?;
        }
        Poll::Ready(Ok(more))
    }

    /// One step of the machine with what was read.
    fn step(&mut self, buf: &mut [u8]) -> Result<Step, TransferError> {
        self.take_output();
        if self.receiver.is_closed() {
            return Ok(Step::Hungry);
        }
        let input = self.flow.input();
        let input = match self.stage {
            // No more than fits.
            Stage::File => &input[..input.len().min(buf.len())],
            _ => input,
        };
        let (used, event) = self.receiver.handle_bytes(input)?;
        let step = match (event, &mut self.stage) {
            (None, _) if used == 0 => Step::Hungry,
            (None, _) => Step::Used,
            (Some(ReceiverEvent::Offered(offer)), _) if !offer.kind.is_message() => {
                self.stage = Stage::Offered;
                Step::Received(Received::File(offer))
            }
            (Some(ReceiverEvent::Offered(offer)), _) if offer.size > PUSH_MAX as u64 => {
                self.receiver.answer(Answer::Refuse(Refusal::TooLarge))?;
                Step::Used
            }
            (Some(ReceiverEvent::Offered(offer)), _) => {
                self.receiver.answer(Answer::Send(ContentHash::new(offer.hash)))?;
                self.stage = Stage::Message(offer, Vec::new());
                Step::Used
            }
            // Without an id it could not be known again.
            (Some(ReceiverEvent::Plain(_)), _) => {
                self.receiver.answer(Answer::Refuse(Refusal::UnknownKind))?;
                Step::Used
            }
            (Some(ReceiverEvent::Data(bytes)), Stage::Message(_, content)) => {
                content.extend_from_slice(bytes);
                Step::Used
            }
            (Some(ReceiverEvent::Data(bytes)), _) => {
                buf[..bytes.len()].copy_from_slice(bytes);
                Step::Data(bytes.len())
            }
            (Some(ReceiverEvent::End { hash }), _) => {
                self.receiver.defer()?;
                match core::mem::replace(&mut self.stage, Stage::Between) {
                    Stage::Message(Offer { id, kind, note, .. }, content) => {
                        let message = Message { id, kind, note, content, hash };
                        Step::Received(Received::Message(message))
                    }
                    _ => Step::Complete,
                }
            }
            (Some(ReceiverEvent::Mismatch), _) => {
                self.stage = Stage::Between;
                Step::Mismatch
            }
        };
        self.flow.used(used);
        Ok(step)
    }
}

fn io_end() -> std::io::Error {
    std::io::ErrorKind::UnexpectedEof.into()
}
