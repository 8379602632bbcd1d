//! Sending messages.

use super::error::TransferError;
use super::flow::Flow;
use crate::drive::agent::StreamHandle;
use crate::drive::runtime::Runtime;
use crate::service::exchange::{
    Kind, Misuse, NUMBER_LIMIT, Note, PUSH_OVERHEAD, PUSHES_MAX, Pipeline, Pushed, TransferId,
};
use core::fmt;
use core::task::Poll;

/// Bytes that wait for the stream; beyond, no message is taken.
const BACKLOG: usize = 256 * 1024;

/// What has become of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Which message.
    pub id: TransferId,
    /// What has become of it.
    pub outcome: Pushed,
}

impl Receipt {
    /// The id, if the message is where it should be.
    pub fn delivered(self) -> Result<TransferId, TransferError> {
        match self.outcome {
            Pushed::Stored | Pushed::AlreadyThere => Ok(self.id),
            Pushed::Refused(refusal) => Err(refusal.into()),
            Pushed::NotStored(failure) => Err(failure.into()),
        }
    }
}

/// A stream of messages to one agent. Up to 256 of them may be under way without a receipt, so
/// that the receiver can make many durable at once; receipts come in the order of sending.
///
/// Dropping it ends the stream behind what was written; a message without a receipt may have
/// arrived, or not. Sent again under its id ([`Messages::queue_as`]) it is the same message.
pub struct Messages<R: Runtime> {
    flow: Flow<R>,
    pipeline: Pipeline,
    incarnation: [u8; 8],
    last: u64,
}

impl<R: Runtime> fmt::Debug for Messages<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages")
            .field("to", &self.flow.stream.peer())
            .field("outstanding", &self.outstanding())
            .finish_non_exhaustive()
    }
}

impl<R: Runtime> Messages<R> {
    /// Over a fresh stream to port 1001. `incarnation` is random: with it begin the ids.
    pub fn new(stream: StreamHandle<R>, incarnation: [u8; 8]) -> Self {
        Messages { flow: Flow::new(stream), pipeline: Pipeline::new(), incarnation, last: 0 }
    }

    pub(super) fn host(&self) -> R::Host {
        self.flow.host()
    }

    /// Messages without a receipt, at most 256.
    pub fn outstanding(&self) -> usize {
        self.pipeline.outstanding()
    }

    /// Whether [`queue`](Self::queue) takes a message now: fewer than 256 are without a receipt,
    /// and less than 256 KiB wait for the stream.
    pub fn has_room(&self) -> bool {
        self.outstanding() < PUSHES_MAX && self.flow.backlog() < BACKLOG
    }

    /// Takes a message of at most 1 MiB, to be sent with the next polls; its id.
    pub fn queue(
        &mut self,
        kind: Kind,
        note: Note,
        content: &[u8],
    ) -> Result<TransferId, TransferError> {
        // Nobody sends as many over one stream.
        let id = TransferId::numbered(self.incarnation, self.last + 1).ok_or(Misuse::State)?;
        self.queue_as(id, kind, note, content)?;
        self.last = (self.last + 1).min(NUMBER_LIMIT);
        Ok(id)
    }

    /// The same under an id of the caller's: one that was sent before is not received twice.
    pub fn queue_as(
        &mut self,
        id: TransferId,
        kind: Kind,
        note: Note,
        content: &[u8],
    ) -> Result<(), TransferError> {
        if !self.has_room() {
            return Err(Misuse::State.into());
        }
        let output = self.flow.output();
        let start = output.len();
        output.resize(start + content.len() + PUSH_OVERHEAD, 0);
        let pushed = self.pipeline.push(id, kind, note, content, &mut output[start..]);
        output.truncate(start + pushed.as_ref().copied().unwrap_or(0));
        Ok(pushed.map(drop)?)
    }

    /// Sends what was queued, and waits for the next receipt; `None` when no message is without.
    pub fn poll_receipt(
        &mut self,
        waker: &R::Waker,
    ) -> Poll<Result<Option<Receipt>, TransferError>> {
        loop {
            let flushed = self.flow.poll_flush(waker);
            let (used, answer) = self.pipeline.handle_bytes(self.flow.input())?;
            self.flow.used(used);
            if let Some((id, outcome)) = answer {
                return Poll::Ready(Ok(Some(Receipt { id, outcome })));
            }
            if let Poll::Ready(Err(error)) = flushed {
                return Poll::Ready(Err(error.into()));
            }
            if self.outstanding() == 0 && flushed.is_ready() {
                return Poll::Ready(Ok(None));
            }
            match self.flow.poll_fill(waker)? {
                Poll::Ready(true) => {}
                Poll::Ready(false) => {
                    self.pipeline.handle_end()?;
                    return Poll::Ready(Ok(None));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
