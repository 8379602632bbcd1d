//! The server's side of data exchange: one task a stream, and while a file comes in one
//! blocking thread that writes it.

use super::inbox::{Delivery, Inbox, StoreError};
use super::received::{Begin, Incoming, Received};
use pilot_core::addr::Address;
use pilot_core::service::exchange::{
    Answer, ContentHash, Digest, ExchangeError, Failure, HashAlgorithm, Kind, Misuse, Offer,
    PlainOffer, Receiver, ReceiverEvent, Refusal, TransferId,
};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

/// Bytes read from a stream at a time.
const CHUNK: usize = 256 * 1024;
/// Bytes written to a file at a time: of larger pieces the file system has less work.
const BLOCK: usize = 1 << 20;
/// Blocks that wait for the disk, per file.
const BLOCKS: usize = 2;
/// A transfer that stands still for so long is given up.
const STALL: Duration = Duration::from_secs(120);
/// A stream without a transfer for so long is closed.
const IDLE: Duration = Duration::from_secs(300);

/// Whether our grant to a peer lets it send this kind (messages need bit 1, files bit 2).
pub(crate) type Permits = dyn Fn(Address, Kind) -> bool + Send + Sync;

/// The stores and rules that all streams share.
pub(crate) struct Exchange {
    /// Where messages go.
    pub(crate) inbox: Arc<Inbox>,
    /// Where files go.
    pub(crate) received: Arc<Received>,
    /// Who may send what.
    pub(crate) permits: Box<Permits>,
}

/// Why a stream was closed other than by its peer's wish. For the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("{0}")]
    Protocol(#[from] ExchangeError),
    #[error("the stream broke: {0}")]
    Stream(#[from] io::Error),
    #[error("it stood still for too long")]
    Stalled,
    #[error("a newer stream went on with its transfer")]
    Superseded,
    #[error("it is not permitted to send this any more")]
    NotPermitted,
    #[error("{0}")]
    NotStored(Failure),
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl From<Misuse> for ServeError {
    fn from(_: Misuse) -> Self {
        ServeError::Internal("a call out of order")
    }
}

/// What is coming in.
#[allow(clippy::large_enum_variant, reason = "one a stream, and it is reused for every transfer")]
enum Current {
    Nothing,
    Message { offer: Offer, content: Vec<u8> },
    File(Writer),
}

impl Current {
    fn kind(&self) -> Option<Kind> {
        match self {
            Current::Nothing => None,
            Current::Message { offer, .. } => Some(offer.kind),
            Current::File(_) => Some(Kind::File),
        }
    }
}

/// The async end of the thread that writes a file.
struct Writer {
    steps: mpsc::Sender<Step>,
    block: Vec<u8>,
    thread: JoinHandle<Result<(), Failure>>,
    active: Arc<super::received::Active>,
}

enum Step {
    Write(Vec<u8>),
    Finish(Digest),
    Discard,
}

impl Writer {
    fn start(incoming: Incoming) -> Writer {
        let (steps, queue) = mpsc::channel(BLOCKS);
        let active = incoming.active();
        let thread = spawn_blocking(move || write_file(incoming, queue));
        Writer { steps, block: Vec::new(), thread, active }
    }

    /// Takes bytes; false if the thread has given up.
    async fn write(&mut self, bytes: &[u8]) -> bool {
        if self.block.is_empty() {
            // At once, so that it never moves; what stays unused of it is no memory.
            self.block.reserve(BLOCK + CHUNK);
        }
        self.block.extend_from_slice(bytes);
        self.block.len() < BLOCK || self.flush().await
    }

    async fn flush(&mut self) -> bool {
        let full = std::mem::take(&mut self.block);
        full.is_empty() || self.steps.send(Step::Write(full)).await.is_ok()
    }

    /// Sends the last step and waits for the outcome.
    async fn end(mut self, last: Option<Step>) -> Result<(), Failure> {
        let flushed = self.flush().await;
        if let Some(last) = last.filter(|_| flushed) {
            let _ = self.steps.send(last).await;
        }
        drop(self.steps);
        self.thread.await.unwrap_or(Err(Failure::Failed))
    }
}

/// Writes what comes out of the queue. When the stream breaks the queue ends, and dropping
/// `incoming` keeps what is there.
fn write_file(mut incoming: Incoming, mut queue: mpsc::Receiver<Step>) -> Result<(), Failure> {
    while let Some(step) = queue.blocking_recv() {
        match step {
            Step::Write(bytes) => incoming.write(&bytes).map_err(|error| {
                tracing::warn!(%error, "cannot write a received file");
                if super::disk::is_full(&error) { Failure::Full } else { Failure::Failed }
            })?,
            Step::Finish(hash) => return incoming.finish(hash).map(|_| ()),
            Step::Discard => {
                incoming.discard();
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Serves one stream until its peer closes it or does not keep to the protocol.
pub(crate) async fn serve<S>(
    exchange: Arc<Exchange>,
    from: Address,
    stream: S,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut current = Current::Nothing;
    // A stream that breaks off is tried again, and the offer is then refused with its reason.
    let served = run(&exchange, from, stream, &mut current).await;
    // What has come of a file is kept to the last byte.
    if let Current::File(writer) = current {
        let _ = writer.end(None).await;
    }
    served
}

async fn run<S>(
    exchange: &Arc<Exchange>,
    from: Address,
    mut stream: S,
    current: &mut Current,
) -> Result<(), ServeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut receiver = Box::new(Receiver::new());
    let mut buf = vec![0; CHUNK];
    let (mut start, mut end) = (0, 0);
    loop {
        if !receiver.output().is_empty() {
            let written = timeout(STALL, stream.write_all(receiver.output())).await;
            written.map_err(|_| ServeError::Stalled)??;
            receiver.advance(receiver.output().len());
            stream.flush().await?;
        }
        let (used, event) = receiver.handle_bytes(&buf[start..end])?;
        start += used;
        let Some(event) = event else {
            if used > 0 || !receiver.output().is_empty() {
                continue;
            }
            (start, end) = (0, read(&mut stream, &receiver, current, &mut buf).await?);
            if end == 0 {
                receiver.handle_end()?;
                stream.shutdown().await?;
                return Ok(());
            }
            continue;
        };
        if let Err(failure) = handle(exchange, from, &mut receiver, current, event).await? {
            receiver.abort(failure)?;
            let _ = timeout(STALL, give_notice(&mut stream, receiver.output(), &mut buf)).await;
            return Err(ServeError::NotStored(failure));
        }
    }
}

/// Writes the last word, and reads on until the peer has it: bytes that nobody reads would
/// reset the stream, and the word could be lost.
async fn give_notice<S>(stream: &mut S, notice: &[u8], buf: &mut [u8]) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(notice).await?;
    stream.shutdown().await?;
    while stream.read(buf).await? > 0 {}
    Ok(())
}

/// Waits for more input, but not for ever, and not if a newer stream takes the file over.
async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    receiver: &Receiver,
    current: &Current,
    buf: &mut [u8],
) -> Result<usize, ServeError> {
    let limit = if receiver.is_idle() { IDLE } else { STALL };
    let superseded = async {
        match current {
            Current::File(writer) => writer.active.superseded().await,
            _ => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = superseded => Err(ServeError::Superseded),
        read = timeout(limit, stream.read(buf)) => match read {
            Ok(read) => Ok(read?),
            Err(_) if receiver.is_idle() => Ok(0),
            Err(_) => Err(ServeError::Stalled),
        },
    }
}

/// Does what an event asks for; the inner error gives the transfer up.
async fn handle(
    exchange: &Arc<Exchange>,
    from: Address,
    receiver: &mut Receiver,
    current: &mut Current,
    event: ReceiverEvent<'_>,
) -> Result<Result<(), Failure>, ServeError> {
    // Rights that were taken meanwhile end what is under way: the port may still be open for
    // the other kind.
    if let Some(kind) = current.kind()
        && !(exchange.permits)(from, kind)
    {
        return Err(ServeError::NotPermitted);
    }
    match event {
        ReceiverEvent::Offered(offer) => {
            let (answer, next) = decide(exchange, from, offer).await?;
            receiver.answer(answer)?;
            *current = next;
        }
        ReceiverEvent::Plain(PlainOffer { kind, size, name }) => {
            // It has no id, so every one is a new one.
            let (id, hash) = (random_id()?, HashAlgorithm::of(kind));
            let offer = Offer { id, kind, size, hash, name, note: Default::default() };
            let (answer, next) = decide(exchange, from, offer).await?;
            receiver.answer(answer)?;
            *current = next;
        }
        ReceiverEvent::Data(bytes) => match current {
            Current::Nothing => return Err(ServeError::Internal("content of nothing")),
            Current::Message { content, .. } => content.extend_from_slice(bytes),
            Current::File(writer) => {
                if !writer.write(bytes).await {
                    return Ok(Err(give_up(current).await));
                }
            }
        },
        ReceiverEvent::End { hash } => {
            let stored = match std::mem::replace(current, Current::Nothing) {
                Current::Nothing => Err(Failure::Failed),
                Current::Message { offer, content } => {
                    store(exchange, from, offer, hash, content).await?
                }
                Current::File(writer) => writer.end(Some(Step::Finish(hash))).await,
            };
            receiver.stored(stored)?;
        }
        ReceiverEvent::Mismatch => {
            if let Current::File(writer) = std::mem::replace(current, Current::Nothing) {
                let _ = writer.end(Some(Step::Discard)).await;
            }
        }
    }
    Ok(Ok(()))
}

/// The failure of a thread that has given up.
async fn give_up(current: &mut Current) -> Failure {
    match std::mem::replace(current, Current::Nothing) {
        Current::File(writer) => writer.end(None).await.err().unwrap_or(Failure::Failed),
        _ => Failure::Failed,
    }
}

async fn decide(
    exchange: &Arc<Exchange>,
    from: Address,
    offer: Offer,
) -> Result<(Answer, Current), ServeError> {
    let refuse = |refusal| Ok((Answer::Refuse(refusal), Current::Nothing));
    if !(exchange.permits)(from, offer.kind) {
        return refuse(Refusal::NotPermitted);
    }
    let stores = exchange.clone();
    if offer.kind.is_message() {
        let (id, size) = (offer.id, offer.size);
        return match blocking(move || stores.inbox.check(from, id, size)).await? {
            Ok(Some(Delivery::Known | Delivery::New)) => Ok((Answer::Have, Current::Nothing)),
            Ok(None) => {
                let answer = Answer::Send(ContentHash::new(offer.hash));
                Ok((answer, Current::Message { offer, content: Vec::new() }))
            }
            Err(refusal) => refuse(refusal),
        };
    }
    match blocking(move || stores.received.begin(from, &offer)).await? {
        Ok(Begin::Have) => Ok((Answer::Have, Current::Nothing)),
        Ok(Begin::Go(incoming)) => {
            let answer = Answer::Send(incoming.hash());
            Ok((answer, Current::File(Writer::start(incoming))))
        }
        Err(refusal) => refuse(refusal),
    }
}

async fn store(
    exchange: &Arc<Exchange>,
    from: Address,
    offer: Offer,
    hash: Digest,
    content: Vec<u8>,
) -> Result<Result<(), Failure>, ServeError> {
    let stores = exchange.clone();
    let Offer { id, kind, note, .. } = offer;
    let stored = blocking(move || stores.inbox.store(from, id, kind, note, hash, &content)).await?;
    Ok(match stored {
        Ok(Delivery::New | Delivery::Known) => Ok(()),
        Err(StoreError::Refused(Refusal::Busy)) => Err(Failure::Superseded),
        Err(StoreError::Refused(_)) => Err(Failure::Full),
        Err(StoreError::Disk(error)) => {
            tracing::warn!(%error, "cannot store a message");
            Err(if super::disk::is_full(&error) { Failure::Full } else { Failure::Failed })
        }
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ServeError> {
    spawn_blocking(work).await.map_err(|_| ServeError::Internal("a store panicked"))
}

/// A fresh transfer id.
pub(crate) fn random_id() -> io::Result<TransferId> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(TransferId(id))
}
