//! The server's side of data exchange: one task a stream, and while a file comes in one
//! blocking thread that writes it. Pushed messages are read on while those before are synced.

use super::inbox::{Arrived, Delivery, Inbox, StoreError, Turn};
use super::received::{Begin, Incoming, Received};
use pilot_core::addr::Address;
use pilot_core::service::exchange::{
    Answer, ContentHash, Digest, ExchangeError, Failure, HashAlgorithm, Kind, Misuse, Offer,
    PlainOffer, Receiver, ReceiverEvent, Refusal, TransferId,
};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

/// Bytes read from a stream at a time.
const CHUNK: usize = 256 * 1024;
/// Bytes written to a file at a time: of larger pieces the file system has less work.
const BLOCK: usize = 1 << 20;
/// Blocks that wait for the disk, per file.
const BLOCKS: usize = 2;
/// Bytes of messages of a stream that wait for the disk; beyond, no more is read.
const PENDING: usize = 256 * 1024;
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
    Message { offer: Offer, content: Vec<u8>, is_pushed: bool },
    File(Writer),
}

/// A pushed message that is being stored.
struct Storing {
    outcome: oneshot::Receiver<Result<Delivery, StoreError>>,
    bytes: usize,
}

/// What of a stream is being stored, in order.
#[derive(Default)]
struct Pending {
    messages: VecDeque<Storing>,
    bytes: usize,
    turn: Arc<Turn>,
}

impl Pending {
    fn is_full(&self) -> bool {
        self.bytes >= PENDING
    }

    fn add(&mut self, storing: Storing) {
        self.bytes += storing.bytes;
        self.messages.push_back(storing);
    }

    /// Waits for the outcome of the first; for ever, if there is none.
    async fn first(&mut self) -> Result<Result<Delivery, StoreError>, ServeError> {
        match self.messages.front_mut() {
            Some(first) => (&mut first.outcome).await.map_err(|_| PANICKED),
            None => std::future::pending().await,
        }
    }

    /// Settles the first, and with it what is ready behind it.
    fn settle(
        &mut self,
        receiver: &mut Receiver,
        mut outcome: Result<Delivery, StoreError>,
    ) -> Result<(), Misuse> {
        loop {
            receiver.settle(stored(outcome))?;
            self.bytes -= self.messages.pop_front().map_or(0, |settled| settled.bytes);
            let Some(next) = self.messages.front_mut() else { return Ok(()) };
            outcome = match next.outcome.try_recv() {
                Ok(outcome) => outcome,
                // Or lost: the next wait tells.
                Err(_) => return Ok(()),
            };
        }
    }
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
    let mut pending = Pending::default();
    let mut buf = vec![0; CHUNK];
    let (mut start, mut end) = (0, 0);
    let mut is_over = false;
    loop {
        write_output(&mut stream, &mut receiver).await?;
        let may_read = !is_over && !pending.is_full();
        let given = if may_read { &buf[start..end] } else { &[] };
        let (used, event) = receiver.handle_bytes(given)?;
        start += used;
        let Some(event) = event else {
            if used > 0 || !receiver.output().is_empty() {
                continue;
            }
            // While something is stored it is the sender who waits.
            let limit = match (receiver.is_idle(), pending.messages.is_empty()) {
                (true, _) => Some(IDLE),
                (false, true) => Some(STALL),
                (false, false) => None,
            };
            tokio::select! {
                outcome = pending.first() => pending.settle(&mut receiver, outcome?)?,
                read = read(&mut stream, limit, current, &mut buf), if may_read => {
                    (start, end) = (0, read?);
                    is_over = end == 0;
                }
                () = std::future::ready(()), if is_over && pending.messages.is_empty() => {
                    receiver.handle_end()?;
                    stream.shutdown().await?;
                    return Ok(());
                }
            }
            continue;
        };
        let handled = handle(exchange, from, &mut receiver, current, &mut pending, event).await?;
        if let Err(failure) = handled {
            receiver.abort(failure)?;
            let _ = timeout(STALL, give_notice(&mut stream, receiver.output(), &mut buf)).await;
            return Err(ServeError::NotStored(failure));
        }
    }
}

/// Writes what there is to say, all of it at once.
async fn write_output<S>(stream: &mut S, receiver: &mut Receiver) -> Result<(), ServeError>
where
    S: AsyncWrite + Unpin,
{
    let mut output = Vec::new();
    while !receiver.output().is_empty() {
        output.extend_from_slice(receiver.output());
        receiver.advance(receiver.output().len());
    }
    if !output.is_empty() {
        let written = async {
            stream.write_all(&output).await?;
            stream.flush().await
        };
        timeout(STALL, written).await.map_err(|_| ServeError::Stalled)??;
    }
    Ok(())
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

/// Waits for more input, but not beyond a limit, [`IDLE`] being no error, and not if a newer stream
/// takes the file over.
async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    limit: Option<Duration>,
    current: &Current,
    buf: &mut [u8],
) -> Result<usize, ServeError> {
    let superseded = async {
        match current {
            Current::File(writer) => writer.active.superseded().await,
            _ => std::future::pending().await,
        }
    };
    let patience = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = superseded => Err(ServeError::Superseded),
        read = stream.read(buf) => Ok(read?),
        () = patience => if limit == Some(IDLE) { Ok(0) } else { Err(ServeError::Stalled) },
    }
}

/// Does what an event asks for; the inner error gives the transfer up.
async fn handle(
    exchange: &Arc<Exchange>,
    from: Address,
    receiver: &mut Receiver,
    current: &mut Current,
    pending: &mut Pending,
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
            let turn = receiver.is_pushed().then_some(&*pending.turn);
            let (answer, next) = decide(exchange, from, offer, turn).await?;
            receiver.answer(answer)?;
            *current = next;
        }
        ReceiverEvent::Plain(PlainOffer { kind, size, name }) => {
            // It has no id, so every one is a new one.
            let (id, hash) = (random_id()?, HashAlgorithm::of(kind));
            let offer = Offer { id, kind, size, hash, name, note: Default::default() };
            let (answer, next) = decide(exchange, from, offer, None).await?;
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
                Current::Message { offer, content, is_pushed } => {
                    let Offer { id, kind, note, .. } = offer;
                    let bytes = content.len();
                    let turn = is_pushed.then(|| Arc::clone(&pending.turn));
                    let arrived = Arrived { from, id, kind, note, hash, content, turn };
                    let outcome = exchange.inbox.deliver(arrived);
                    if is_pushed {
                        receiver.defer()?;
                        pending.add(Storing { outcome, bytes });
                        return Ok(Ok(()));
                    }
                    stored(outcome.await.map_err(|_| PANICKED)?)
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
    turn: Option<&Turn>,
) -> Result<(Answer, Current), ServeError> {
    let refuse = |refusal| Ok((Answer::Refuse(refusal), Current::Nothing));
    if !(exchange.permits)(from, offer.kind) {
        return refuse(Refusal::NotPermitted);
    }
    if offer.kind.is_message() {
        return match exchange.inbox.check(from, offer.id, offer.size) {
            Ok(Some(Delivery::Known | Delivery::New)) => Ok((Answer::Have, Current::Nothing)),
            Ok(None) if turn.is_some_and(|turn| !turn.allows(offer.id)) => refuse(Refusal::Busy),
            Ok(None) => {
                let (content, is_pushed) = (Vec::new(), turn.is_some());
                let answer = Answer::Send(ContentHash::new(offer.hash));
                Ok((answer, Current::Message { offer, content, is_pushed }))
            }
            Err(refusal) => {
                // What is too large stays so: nothing waits for it.
                let passes = refusal != Refusal::TooLarge;
                turn.iter().filter(|_| passes).for_each(|turn| turn.miss(offer.id));
                refuse(refusal)
            }
        };
    }
    let stores = exchange.clone();
    match blocking(move || stores.received.begin(from, &offer)).await? {
        Ok(Begin::Have) => Ok((Answer::Have, Current::Nothing)),
        Ok(Begin::Go(incoming)) => {
            let answer = Answer::Send(incoming.hash());
            Ok((answer, Current::File(Writer::start(incoming))))
        }
        Err(refusal) => refuse(refusal),
    }
}

/// What the sender of a message is told.
fn stored(outcome: Result<Delivery, StoreError>) -> Result<(), Failure> {
    match outcome {
        Ok(Delivery::New | Delivery::Known) => Ok(()),
        Err(StoreError::Refused(Refusal::Busy)) => Err(Failure::Superseded),
        Err(StoreError::Refused(_)) => Err(Failure::Full),
        Err(StoreError::Disk(error)) => {
            tracing::warn!(%error, "cannot store a message");
            Err(if super::disk::is_full(&error) { Failure::Full } else { Failure::Failed })
        }
    }
}

const PANICKED: ServeError = ServeError::Internal("a store panicked");

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ServeError> {
    spawn_blocking(work).await.map_err(|_| PANICKED)
}

/// A fresh transfer id.
pub(crate) fn random_id() -> io::Result<TransferId> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(TransferId(id))
}
