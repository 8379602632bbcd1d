//! Sending a file.

use super::error::TransferError;
use super::flow::Flow;
use crate::drive::agent::StreamHandle;
use crate::drive::runtime::Runtime;
use crate::service::exchange::{Digest, ExchangeError, Misuse, Offer, Sender, SenderEvent};
use core::fmt;
use core::task::{Poll, ready};

/// Most bytes of one write; more would be hashed at a time than the agent should wait for.
const CHUNK: usize = 256 * 1024;

/// What the receiver says to an offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepted {
    /// It wants the content, of which it has so many bytes already.
    From(u64),
    /// It has all of it: nothing is to be written.
    Already,
}

/// A file on its way to one agent.
///
/// The content is written from its first byte, also where the receiver has the beginning already:
/// that is hashed and not sent, so that what it has and what is sent are one content. Sent again
/// under the same id after an interruption, it goes on where the receiver has stored it.
pub struct Upload<R: Runtime> {
    flow: Flow<R>,
    sender: Sender,
    accepted: Option<Accepted>,
    outcome: Option<Result<Digest, TransferError>>,
}

impl<R: Runtime> fmt::Debug for Upload<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("accepted", &self.accepted).finish_non_exhaustive()
    }
}

impl<R: Runtime> Upload<R> {
    /// Offers a file over a fresh stream to port 1001.
    pub fn new(stream: StreamHandle<R>, offer: &Offer) -> Result<Self, TransferError> {
        let mut sender = Sender::new();
        sender.offer(offer)?;
        Ok(Upload { flow: Flow::new(stream), sender, accepted: None, outcome: None })
    }

    pub(super) fn host(&self) -> R::Host {
        self.flow.host()
    }

    /// Waits for the answer to the offer.
    pub fn poll_accepted(&mut self, waker: &R::Waker) -> Poll<Result<Accepted, TransferError>> {
        loop {
            if let Some(accepted) = self.accepted {
                return Poll::Ready(Ok(accepted));
            }
            ready!(self.poll_heard(waker))?;
        }
    }

    /// Takes the next bytes of the content; how many. Waits for the answer to the offer, and for
    /// room in the stream.
    pub fn poll_write(
        &mut self,
        waker: &R::Waker,
        bytes: &[u8],
    ) -> Poll<Result<usize, TransferError>> {
        let Accepted::From(_) = ready!(self.poll_accepted(waker))? else {
            return Poll::Ready(Err(Misuse::State.into()));
        };
        // All of it is there; the receipt is for who asks for it.
        if let Some(Ok(_)) = self.outcome {
            let more = if bytes.is_empty() { Ok(0) } else { Err(Misuse::TooMuch.into()) };
            return Poll::Ready(more);
        }
        ready!(self.flow.poll_flush(waker))?;
        // A receiver that gives up says so in the middle.
        if let Poll::Ready(heard) = self.poll_heard(waker) {
            heard?;
            return match self.outcome.take_if(|outcome| outcome.is_err()) {
                Some(outcome) => Poll::Ready(outcome.map(|_| 0)),
                None => Poll::Ready(Ok(0)),
            };
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let bytes = &bytes[..bytes.len().min(CHUNK)];
        if bytes.len() as u64 > self.sender.content_left() {
            return Poll::Ready(Err(Misuse::TooMuch.into()));
        }
        // First what the stream takes is known, then that is hashed: nothing has to wait here.
        let n = match usize::try_from(self.sender.known_left()).unwrap_or(usize::MAX) {
            0 => ready!(self.flow.poll_write(waker, bytes))?,
            known => known.min(bytes.len()),
        };
        self.sender.content(&bytes[..n])?;
        Poll::Ready(Ok(n))
    }

    /// Waits until the receiver has acknowledged the whole content; its hash. Of what it had
    /// [already](Accepted::Already), that is over at once, and nothing was hashed.
    pub fn poll_receipt(
        &mut self,
        waker: &R::Waker,
    ) -> Poll<Result<Option<Digest>, TransferError>> {
        if ready!(self.poll_accepted(waker))? == Accepted::Already {
            return Poll::Ready(Ok(None));
        }
        loop {
            if let Some(outcome) = self.outcome.take() {
                return Poll::Ready(outcome.map(Some));
            }
            ready!(self.poll_heard(waker))?;
        }
    }

    /// Writes what waits, and hears what the receiver says next.
    fn poll_heard(&mut self, waker: &R::Waker) -> Poll<Result<(), TransferError>> {
        loop {
            let frame = self.sender.output();
            self.flow.output().extend_from_slice(frame);
            self.sender.advance(usize::MAX);
            if let Poll::Ready(Err(error)) = self.flow.poll_flush(waker) {
                return Poll::Ready(Err(error.into()));
            }
            let (used, event) = self.sender.handle_bytes(self.flow.input())?;
            self.flow.used(used);
            match event {
                None if used > 0 => continue,
                None => {}
                Some(event) => return Poll::Ready(self.heard(event)),
            }
            if !ready!(self.flow.poll_fill(waker))? {
                return Poll::Ready(Err(ExchangeError::Truncated.into()));
            }
        }
    }

    fn heard(&mut self, event: SenderEvent) -> Result<(), TransferError> {
        match event {
            SenderEvent::Accepted { offset } => self.accepted = Some(Accepted::From(offset)),
            SenderEvent::AlreadyThere => self.accepted = Some(Accepted::Already),
            SenderEvent::Refused(refusal) => return Err(refusal.into()),
            SenderEvent::Stored { hash } => self.outcome = Some(Ok(hash)),
            SenderEvent::NotStored(failure) => self.outcome = Some(Err(failure.into())),
        }
        Ok(())
    }
}
