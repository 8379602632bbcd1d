//! Messages and files to a peer: offer, bytes, end, receipt, and again with the same id where
//! the stream breaks, so that a message arrives exactly once and a file goes on where it was.

use super::Connect;
#[cfg(test)]
use super::serve::random_id;
use pilot_core::addr::{Address, Port};
use pilot_core::node::PathKind;
use pilot_core::service::exchange::{
    Digest, ExchangeError, Failure, Misuse, Offer, Refusal, Sender, SenderEvent, TransferId,
};
#[cfg(test)]
use pilot_core::service::exchange::{HashAlgorithm, Kind, Note};
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Bytes read from a source at a time.
const CHUNK: usize = 256 * 1024;
/// A stream on which nothing moves for so long is given up.
const STALL: Duration = Duration::from_secs(60);
/// What is allowed beside [`STALL`] while the receiver hashes or syncs what it has.
const DISK_BYTES_PER_SECOND: u64 = 20 << 20;
/// Pauses between attempts.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Where a content comes from.
pub(crate) trait Source: Send {
    /// The next bytes; 0 is the end.
    fn read(&mut self, buf: &mut [u8]) -> impl Future<Output = io::Result<usize>> + Send;

    /// The receiver wants it; false if it is not to be sent after all.
    fn begin(&mut self) -> bool {
        true
    }

    /// Starts again at the first byte, for another attempt; false if that cannot be.
    fn rewind(&mut self) -> bool;
}

/// A content in memory.
#[derive(Debug)]
pub(crate) struct Memory<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Memory<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Memory { bytes, at: 0 }
    }
}

impl Source for Memory<'_> {
    async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = buf.len().min(self.bytes.len() - self.at);
        buf[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }

    fn rewind(&mut self) -> bool {
        self.at = 0;
        true
    }
}

/// A content that comes once, such as a request's body. Where the receiver has a part of it,
/// that part is still read, for the hash, but not sent.
#[derive(Debug)]
pub(crate) struct Once<R>(pub(crate) R);

impl<R: AsyncRead + Unpin + Send> Source for Once<R> {
    async fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).await
    }

    fn rewind(&mut self) -> bool {
        false
    }
}

/// What a transfer has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// The receiver wants the content from this offset on.
    Accepted(u64),
    /// The content was written up to here.
    At(u64),
}

/// A transfer that the receiver has on its disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sent {
    /// Its id.
    pub(crate) id: TransferId,
    /// Of the whole content; `None` if the receiver had it all and nothing was read.
    pub(crate) hash: Option<Digest>,
    /// Bytes of the content.
    pub(crate) size: u64,
    /// Where the last attempt started.
    pub(crate) offset: u64,
    /// From the first attempt to the receipt.
    pub(crate) elapsed: Duration,
    /// Streams that were opened.
    pub(crate) attempts: u32,
    /// How packets travelled at the end.
    pub(crate) path: PathKind,
}

/// Why a transfer did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError<E> {
    /// There is no stream.
    #[error("{0}")]
    Connect(E),
    /// The stream broke, and time was up for another one or the source cannot be read again.
    #[error("the stream broke: {0}")]
    Broken(io::Error),
    /// The receiver did not take the offer.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The receiver took the offer and did not store the content.
    #[error("not stored: {0}")]
    NotStored(Failure),
    /// The receiver does not keep to the protocol.
    #[error("the receiver does not keep to the protocol: {0}")]
    Protocol(ExchangeError),
    /// The content could not be read.
    #[error("cannot read the content: {0}")]
    Source(io::Error),
    /// The content is not as long as was said.
    #[error("the content is not as long as announced")]
    Size,
    /// Not done in the time given.
    #[error("timed out")]
    TimedOut,
    /// The offer is not one.
    #[error("{0}")]
    Offer(#[from] Misuse),
}

/// A message to send.
#[cfg(test)]
#[derive(Clone, Debug)]
pub(crate) struct Message<'b> {
    /// Text, JSON or binary.
    pub(crate) kind: Kind,
    /// The content.
    pub(crate) content: &'b [u8],
    /// A remark.
    pub(crate) note: Note,
    /// The same again recognises a repetition; default: a fresh one.
    pub(crate) id: Option<TransferId>,
}

/// Sends a message and returns when the receiver has it on its disk. Tries again with the same
/// id until `deadline`, so that it arrives exactly once.
#[cfg(test)]
pub(crate) async fn send_message<C: Connect>(
    net: &C,
    to: Address,
    message: Message<'_>,
    deadline: Instant,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Sent, SendError<C::Error>> {
    let id = match message.id {
        Some(id) => id,
        None => random_id().map_err(SendError::Source)?,
    };
    let size = message.content.len() as u64;
    let (kind, hash) = (message.kind, HashAlgorithm::of(message.kind));
    let offer = Offer { id, kind, size, hash, name: None, note: message.note };
    send(net, to, &offer, &mut Memory::new(message.content), deadline, progress).await
}

/// Sends what is offered and returns when the receiver has it whole, verified and on its disk.
/// Where the source can be read again it tries until `deadline`; else another call with the same
/// id goes on from what the receiver has.
pub(crate) async fn send<C: Connect, R: Source>(
    net: &C,
    to: Address,
    offer: &Offer,
    source: &mut R,
    deadline: Instant,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Sent, SendError<C::Error>> {
    let start = Instant::now();
    let mut pause = PAUSE;
    let mut attempts = 0;
    loop {
        attempts += 1;
        let attempt = async {
            let mut talk = Conversation::open(net, to).await.map_err(Interrupted::connect)?;
            let done = talk.transfer(offer, source, progress).await?;
            let path = net.path(to).await;
            talk.close().await;
            Ok((done, path))
        };
        let interrupted = match timeout_at(deadline, attempt).await {
            Ok(Ok((Done { hash, offset }, path))) => {
                let (id, size, elapsed) = (offer.id, offer.size, start.elapsed());
                return Ok(Sent { id, hash, size, offset, elapsed, attempts, path });
            }
            Ok(Err(interrupted)) => interrupted,
            Err(_) => return Err(SendError::TimedOut),
        };
        let Interrupted { error, was_read } = interrupted;
        let again = is_passing::<C>(&error) && (!was_read || source.rewind());
        if !again || Instant::now() + pause >= deadline {
            return Err(error);
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether another stream may help.
fn is_passing<C: Connect>(error: &SendError<C::Error>) -> bool {
    match error {
        SendError::Connect(error) => !C::is_final(error),
        SendError::Broken(_) => true,
        SendError::Refused(refusal) => *refusal == Refusal::Busy,
        SendError::NotStored(failure) => *failure == Failure::Superseded,
        SendError::Protocol(error) => *error == ExchangeError::Truncated,
        _ => false,
    }
}

/// How an attempt ended, and whether the source must be rewound for another one.
#[derive(Debug)]
pub(crate) struct Interrupted<E> {
    pub(crate) error: SendError<E>,
    pub(crate) was_read: bool,
}

impl<E> Interrupted<E> {
    fn connect(error: E) -> Self {
        Interrupted { error: SendError::Connect(error), was_read: false }
    }
}

/// What is on the receiver's disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Done {
    /// Of the whole content; `None` if the receiver had it all and nothing was read.
    pub(crate) hash: Option<Digest>,
    /// Where the transfer started.
    pub(crate) offset: u64,
}

/// A stream to a receiver, over which one transfer goes after another.
pub(crate) struct Conversation<S> {
    stream: S,
    talk: Talk,
    size: u64,
    was_read: bool,
}

/// The machine, and what came in for it.
struct Talk {
    sender: Box<Sender>,
    input: Box<[u8; 1024]>,
    start: usize,
    end: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    /// Opens a stream.
    pub(crate) async fn open<C: Connect<Stream = S>>(
        net: &C,
        to: Address,
    ) -> Result<Self, C::Error> {
        let stream = net.connect(to, Port::DATA_EXCHANGE).await?;
        let talk =
            Talk { sender: Box::new(Sender::new()), input: Box::new([0; 1024]), start: 0, end: 0 };
        Ok(Conversation { stream, talk, size: 0, was_read: false })
    }

    /// Whether another transfer may follow.
    pub(crate) fn is_idle(&self) -> bool {
        self.talk.sender.is_idle() && self.talk.sender.output().is_empty()
    }

    /// Ends it, once the last transfer has.
    pub(crate) async fn close(mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// One attempt with one transfer. It ends by itself when nothing moves for a minute.
    pub(crate) async fn transfer<R: Source, E>(
        &mut self,
        offer: &Offer,
        source: &mut R,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Done, Interrupted<E>> {
        (self.size, self.was_read) = (offer.size, false);
        let result = match self.talk.sender.offer(offer) {
            Ok(()) => self.run(source, progress).await,
            Err(misuse) => Err(SendError::Offer(misuse)),
        };
        result.map_err(|error| Interrupted { error, was_read: self.was_read })
    }

    async fn run<R: Source, E>(
        &mut self,
        source: &mut R,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<Done, SendError<E>> {
        self.write_output().await?;
        let offset = match self.event().await? {
            SenderEvent::Accepted { offset } => offset,
            SenderEvent::AlreadyThere => return Ok(Done { hash: None, offset: self.size }),
            other => return Err(failed(other)),
        };
        if !source.begin() {
            return Err(SendError::Source(io::ErrorKind::Interrupted.into()));
        }
        progress(Progress::Accepted(offset));
        let mut buf = vec![0; usize::try_from(self.size).unwrap_or(CHUNK).min(CHUNK)];
        let mut at = 0;
        while at < self.size {
            self.was_read = true;
            let left = usize::try_from(self.size - at).unwrap_or(CHUNK).min(buf.len());
            let n = source.read(&mut buf[..left]).await.map_err(SendError::Source)?;
            if n == 0 {
                return Err(SendError::Size);
            }
            at += n as u64;
            let rest = self.talk.sender.content(&buf[..n])?;
            self.write_content(rest).await?;
            progress(Progress::At(at));
        }
        self.write_output().await?;
        match self.event().await? {
            SenderEvent::Stored { hash } => Ok(Done { hash: Some(hash), offset }),
            other => Err(failed(other)),
        }
    }

    async fn write_output<E>(&mut self) -> Result<(), SendError<E>> {
        let output = self.talk.sender.output();
        let n = output.len();
        let write = async {
            self.stream.write_all(output).await?;
            self.stream.flush().await
        };
        timeout(STALL, write).await.map_err(|_| stalled())?.map_err(SendError::Broken)?;
        self.talk.sender.advance(n);
        Ok(())
    }

    /// Writes content, and stops as soon as the receiver says that it does not want it.
    async fn write_content<E>(&mut self, mut rest: &[u8]) -> Result<(), SendError<E>> {
        let (mut reading, mut writing) = tokio::io::split(&mut self.stream);
        while !rest.is_empty() {
            let moved = async {
                tokio::select! {
                    biased;
                    n = reading.read(&mut self.talk.input[..]) => n.map(Moved::In),
                    n = writing.write(rest) => n.map(Moved::Out),
                }
            };
            match timeout(STALL, moved).await.map_err(|_| stalled())?.map_err(SendError::Broken)? {
                Moved::Out(0) => return Err(SendError::Broken(io::ErrorKind::WriteZero.into())),
                Moved::Out(n) => rest = &rest[n..],
                Moved::In(n) => {
                    if let Some(event) = self.talk.handle_input(n)? {
                        return Err(failed(event));
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for the receiver's next word.
    async fn event<E>(&mut self) -> Result<SenderEvent, SendError<E>> {
        let disk = Duration::from_secs(self.size / DISK_BYTES_PER_SECOND);
        let mut event = self.talk.take_event()?;
        loop {
            if let Some(event) = event {
                return Ok(event);
            }
            let read = timeout(STALL + disk, self.stream.read(&mut self.talk.input[..])).await;
            let n = read.map_err(|_| stalled())?.map_err(SendError::Broken)?;
            event = self.talk.handle_input(n)?;
            // It may have something to say to that by itself.
            if event.is_none() && !self.talk.sender.output().is_empty() {
                self.write_output().await?;
            }
        }
    }
}

impl Talk {
    /// `n` bytes came in, 0 at the end of the stream.
    fn handle_input<E>(&mut self, n: usize) -> Result<Option<SenderEvent>, SendError<E>> {
        (self.start, self.end) = (0, n);
        if n == 0 {
            // Whatever it may be in the middle of, the transfer is not over.
            return Err(SendError::Protocol(ExchangeError::Truncated));
        }
        self.take_event()
    }

    fn take_event<E>(&mut self) -> Result<Option<SenderEvent>, SendError<E>> {
        while self.start < self.end {
            let input = &self.input[self.start..self.end];
            let (used, event) = self.sender.handle_bytes(input).map_err(SendError::Protocol)?;
            self.start += used;
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }
}

enum Moved {
    Out(usize),
    In(usize),
}

fn stalled<E>() -> SendError<E> {
    SendError::Broken(io::ErrorKind::TimedOut.into())
}

/// What an event that ends a transfer badly means.
fn failed<E>(event: SenderEvent) -> SendError<E> {
    match event {
        SenderEvent::Refused(refusal) => SendError::Refused(refusal),
        SenderEvent::NotStored(failure) => SendError::NotStored(failure),
        _ => SendError::Protocol(ExchangeError::BadAnswer),
    }
}
