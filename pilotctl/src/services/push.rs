//! Many small messages to a peer, none of which waits for the one before: the receiver can make
//! all durable together that have come while its disk was busy (`wire.md` 12, pushed messages).

use super::Connect;
use super::send::SendError;
use pilot_core::addr::{Address, Port};
use pilot_core::service::exchange::{
    ExchangeError, Kind, Misuse, Note, PUSH_OVERHEAD, PUSHES_MAX, Pipeline, Pushed, TransferId,
};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::io::{ReadHalf, WriteHalf};

/// Longest message that is pushed: a longer one is offered first, since a receiver without room
/// gets a pushed one whole.
pub(crate) const PUSHED: u64 = 64 * 1024;
/// Bytes that wait for the stream; beyond, no message is taken.
const BACKLOG: usize = 256 * 1024;
/// Bytes read at a time.
const INPUT: usize = 4096;

/// A stream of messages to a peer.
pub(crate) struct Pushes<S> {
    reading: ReadHalf<S>,
    writing: WriteHalf<S>,
    pipeline: Box<Pipeline>,
    output: Vec<u8>,
    written: usize,
    input: Box<[u8; INPUT]>,
    start: usize,
    end: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pushes<S> {
    /// Opens a stream.
    pub(crate) async fn open<C: Connect<Stream = S>>(
        net: &C,
        to: Address,
    ) -> Result<Self, C::Error> {
        let (reading, writing) = tokio::io::split(net.connect(to, Port::DATA_EXCHANGE).await?);
        Ok(Pushes {
            reading,
            writing,
            pipeline: Box::new(Pipeline::new()),
            output: Vec::new(),
            written: 0,
            input: Box::new([0; INPUT]),
            start: 0,
            end: 0,
        })
    }

    /// Whether a message is taken now.
    pub(crate) fn has_room(&self) -> bool {
        let backlog = self.output.len() - self.written;
        self.pipeline.outstanding() < PUSHES_MAX && backlog < BACKLOG
    }

    /// Takes a message, to be sent while [`answers`](Self::answers) is waited for.
    pub(crate) fn push(
        &mut self,
        id: TransferId,
        kind: Kind,
        note: Note,
        content: &[u8],
    ) -> Result<(), Misuse> {
        self.output.drain(..std::mem::take(&mut self.written));
        let start = self.output.len();
        self.output.resize(start + content.len() + PUSH_OVERHEAD, 0);
        let pushed = self.pipeline.push(id, kind, note, content, &mut self.output[start..]);
        self.output.truncate(start + pushed.as_ref().copied().unwrap_or(0));
        pushed.map(drop)
    }

    /// Sends what was taken, and waits for answers: at least one, all that have come, in the order
    /// of sending. Cancelled, nothing is lost.
    pub(crate) async fn answers<E>(&mut self) -> Result<Vec<(TransferId, Pushed)>, SendError<E>> {
        loop {
            let answers = self.take_answers().map_err(SendError::Protocol)?;
            if !answers.is_empty() {
                return Ok(answers);
            }
            tokio::select! {
                read = self.reading.read(&mut self.input[..]) => {
                    (self.start, self.end) = (0, read.map_err(SendError::Broken)?);
                    if self.end == 0 {
                        return Err(SendError::Protocol(ExchangeError::Truncated));
                    }
                }
                written = self.writing.write(&self.output[self.written..]),
                    if self.written < self.output.len() =>
                {
                    match written.map_err(SendError::Broken)? {
                        0 => return Err(SendError::Broken(io::ErrorKind::WriteZero.into())),
                        n => self.written += n,
                    }
                    if self.written == self.output.len() {
                        self.output.clear();
                        self.written = 0;
                    }
                }
            }
        }
    }

    fn take_answers(&mut self) -> Result<Vec<(TransferId, Pushed)>, ExchangeError> {
        let mut answers = Vec::new();
        while self.start < self.end {
            let input = &self.input[self.start..self.end];
            let (used, answer) = self.pipeline.handle_bytes(input)?;
            self.start += used;
            answers.extend(answer);
        }
        Ok(answers)
    }

    /// Ends it, once all are answered.
    pub(crate) async fn close(mut self) {
        let _ = self.writing.shutdown().await;
    }
}
