//! The client's side of events: publishes, and subscribes.

use pilot_core::addr::Address;
use pilot_core::service::events::{
    Client, ClientEvent, EventsError, FRAME_MAX, Misuse, OUTSTANDING_MAX, Pattern, Refusal, Topic,
    TopicError,
};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;
/// How often a subscriber asks whether the broker is there.
const PING: Duration = Duration::from_secs(10);
/// A broker that has said nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes of events that may come before all patterns are subscribed.
const EARLY_MAX: usize = 8 * 1024 * 1024;

/// Why nothing was published, or nothing more is heard.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("the stream broke: {0}")]
    Stream(#[from] io::Error),
    #[error("the other side ended the connection")]
    Ended,
    #[error("the other side is silent")]
    Silent,
    #[error("{0}")]
    Protocol(#[from] EventsError),
    #[error("more events than asked for")]
    Flooded,
    #[error("{0}")]
    Refused(Refusal),
    #[error("{0}")]
    Topic(#[from] TopicError),
    #[error("{0}")]
    TooLong(#[from] Misuse),
}

/// How events are published.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publication<'p> {
    pub(crate) topic: &'p str,
    /// The last one is kept for those who subscribe later.
    pub(crate) retain: bool,
    /// Wait until the broker has them.
    pub(crate) acknowledge: bool,
}

/// What a subscriber hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum News {
    /// Something was published.
    Event { from: Address, retained: bool, topic: String, data: Vec<u8> },
    /// So many events were lost here.
    Dropped(u64),
}

impl News {
    fn size(&self) -> usize {
        match self {
            News::Event { topic, data, .. } => topic.len() + data.len() + 64,
            News::Dropped(_) => 64,
        }
    }
}

enum Told {
    Done(Result<u32, Refusal>),
    News(News),
}

/// One connection to a broker.
struct Connection<S> {
    from: ReadHalf<S>,
    to: WriteHalf<S>,
    client: Client,
    buf: Vec<u8>,
    start: usize,
    /// When something came last.
    heard: Instant,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn new(stream: S) -> Self {
        let (from, to) = tokio::io::split(stream);
        let (client, buf) = (Client::new(), Vec::new());
        Connection { from, to, client, buf, start: 0, heard: Instant::now() }
    }

    /// What comes next. May be dropped without losing anything.
    async fn next(&mut self) -> Result<Told, ClientError> {
        loop {
            if let (used, Some(event)) = self.client.handle_bytes(&self.buf[self.start..])? {
                let told = match event {
                    ClientEvent::Done(_, result) => Told::Done(result),
                    ClientEvent::Dropped(count) => Told::News(News::Dropped(count)),
                    ClientEvent::Event { from, retained, topic, data } => {
                        let (topic, data) = (topic.as_str().to_owned(), data.to_vec());
                        Told::News(News::Event { from, retained, topic, data })
                    }
                };
                self.start += used;
                return Ok(told);
            }
            // What is left is less than one frame.
            self.buf.drain(..std::mem::take(&mut self.start));
            self.buf.reserve(CHUNK);
            if self.from.read_buf(&mut self.buf).await? == 0 {
                return Err(ClientError::Ended);
            }
            self.heard = Instant::now();
        }
    }

    /// The answer to the oldest request, where no events come.
    async fn answer(&mut self) -> Result<u32, ClientError> {
        match self.next().await? {
            Told::Done(result) => result.map_err(ClientError::Refused),
            Told::News(_) => Err(ClientError::Flooded),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.to.write_all(bytes).await?;
        Ok(self.to.flush().await?)
    }

    async fn ping(&mut self) -> Result<(), ClientError> {
        let mut out = [0; 16];
        match self.client.ping(&mut out) {
            Ok((len, _)) => self.write(&out[..len]).await,
            // Whoever reads nothing for so long may be taken for dead.
            Err(_) => Ok(()),
        }
    }
}

/// Publishes each of `events` in order; into how many queues all of them went, 0 if it was not
/// waited for.
pub(crate) async fn publish<S>(
    stream: S,
    how: Publication<'_>,
    events: &[Vec<u8>],
) -> Result<u64, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Publication { topic, retain, acknowledge } = how;
    let topic = Topic::new(topic)?;
    let mut connection = Connection::new(stream);
    let mut frame = vec![0; FRAME_MAX];
    let mut out = Vec::new();
    let mut queued = 0;
    for data in events {
        let client = &mut connection.client;
        let len = if acknowledge {
            client.publish(topic, data, retain, &mut frame)?.0
        } else {
            client.publish_unacknowledged(topic, data, retain, &mut frame)?
        };
        out.extend_from_slice(&frame[..len]);
        let is_full = connection.client.outstanding() == OUTSTANDING_MAX;
        if out.len() >= CHUNK || is_full {
            connection.write(&out).await?;
            out.clear();
        }
        // So few answers always have room on their way: neither side waits for the other.
        while is_full && connection.client.outstanding() > OUTSTANDING_MAX / 2 {
            queued += u64::from(connection.answer().await?);
        }
    }
    connection.write(&out).await?;
    while connection.client.outstanding() > 0 {
        queued += u64::from(connection.answer().await?);
    }
    connection.to.shutdown().await?;
    Ok(queued)
}

/// A subscription that the broker has confirmed.
pub(crate) struct Subscription<S> {
    connection: Connection<S>,
    early: Vec<News>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Subscription<S> {
    /// Subscribes to all patterns; with `retained`, to the values kept for them, too.
    pub(crate) async fn open(
        stream: S,
        patterns: &[String],
        retained: bool,
    ) -> Result<Self, ClientError> {
        let mut connection = Connection::new(stream);
        let (mut out, mut frame) = (Vec::new(), [0; 512]);
        for pattern in patterns {
            let pattern = Pattern::new(pattern)?;
            let (len, _) = connection.client.subscribe(pattern, retained, &mut frame)?;
            out.extend_from_slice(&frame[..len]);
        }
        connection.write(&out).await?;
        let (mut early, mut size) = (Vec::new(), 0);
        while connection.client.outstanding() > 0 {
            match connection.next().await? {
                Told::Done(result) => drop(result.map_err(ClientError::Refused)?),
                Told::News(news) => {
                    size += news.size();
                    if size > EARLY_MAX {
                        return Err(ClientError::Flooded);
                    }
                    early.push(news);
                }
            }
        }
        Ok(Subscription { connection, early })
    }

    /// Hands on what is heard until `to` is closed or the broker is lost. While `to` is full
    /// nothing is read, and the broker drops what this end is too slow for.
    pub(crate) async fn run(self, to: mpsc::Sender<News>) -> Result<(), ClientError> {
        let Subscription { mut connection, early } = self;
        let mut early = early.into_iter();
        let mut tick = interval(PING);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let permit = tokio::select! {
                permit = to.reserve() => permit,
                _ = tick.tick() => {
                    connection.ping().await?;
                    continue;
                }
            };
            let Ok(permit) = permit else { return Ok(()) };
            // Time in which nobody listened does not count as silence.
            connection.heard = Instant::now();
            let news = loop {
                if let Some(news) = early.next() {
                    break news;
                }
                let silence = connection.heard + SILENCE;
                tokio::select! {
                    // Pings first: a broker that hears none closes, however much it says.
                    biased;
                    () = to.closed() => return Ok(()),
                    _ = tick.tick() => connection.ping().await?,
                    told = connection.next() => match told? {
                        Told::News(news) => break news,
                        Told::Done(_) => {}
                    },
                    () = sleep_until(silence) => return Err(ClientError::Silent),
                }
            };
            permit.send(news);
        }
    }
}
