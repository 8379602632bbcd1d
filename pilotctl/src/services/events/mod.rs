//! The broker's side of events: one task a connection, which reads and writes at the same time.
//!
//! Nobody waits for a subscriber: its task writes what the broker's queue for it holds, and
//! while its stream is full the queue loses the oldest. The lock is held for one frame, or for
//! taking [`BATCH`] bytes. A connection costs at most about 100 KiB for each direction beside
//! what its queue holds.

pub(crate) mod client;

#[cfg(test)]
mod tests;

use pilot_core::addr::Address;
use pilot_core::service::events::{Broker, BrokerLimits, BrokerStats, ConnId, EventsError, Taken};
use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::timeout;

/// Bytes read at a time.
const CHUNK: usize = 16 * 1024;
/// Bytes written at a time, and up to one frame more.
const BATCH: usize = 32 * 1024;
/// A peer that says nothing for so long is gone: subscribers ping more often. So is one that for
/// so long makes no room for the answers that it asks for.
const IDLE: Duration = Duration::from_secs(60);
/// A peer that has said its last takes its answers within this time.
const FAREWELL: Duration = Duration::from_secs(10);

/// Why a connection was closed other than by its peer's wish. For the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("{0}")]
    Protocol(#[from] EventsError),
    #[error("the stream broke: {0}")]
    Stream(#[from] io::Error),
    #[error("it ended within a frame")]
    Truncated,
    #[error("it said or read nothing for too long")]
    Idle,
    #[error("there are too many connections")]
    Full,
}

/// The broker that all connections share.
#[derive(Debug)]
pub(crate) struct Events(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    broker: Broker,
    bells: BTreeMap<ConnId, Arc<Bell>>,
}

/// What the two halves of a connection's task wait for.
#[derive(Debug, Default)]
struct Bell {
    /// There is something to write.
    output: Notify,
    /// Something was taken to be written.
    room: Notify,
}

/// An open connection; closed when dropped.
struct Conn<'e> {
    events: &'e Events,
    id: ConnId,
    bell: Arc<Bell>,
}

impl Drop for Conn<'_> {
    fn drop(&mut self) {
        let mut inner = self.events.lock();
        inner.broker.handle_close(self.id);
        inner.bells.remove(&self.id);
    }
}

impl Events {
    /// A broker without connections.
    pub(crate) fn new(limits: BrokerLimits) -> Self {
        Events(Mutex::new(Inner { broker: Broker::new(limits), bells: BTreeMap::new() }))
    }

    /// What has happened.
    pub(crate) fn stats(&self) -> BrokerStats {
        self.lock().broker.stats()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one connection until its peer closes it or does not keep to the protocol.
    pub(crate) async fn serve<S>(&self, peer: Address, stream: S) -> Result<(), ServeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let conn = self.open(peer)?;
        let (from, to) = tokio::io::split(stream);
        let has_ended = AtomicBool::new(false);
        let mut write = pin!(conn.write(to, &has_ended));
        tokio::select! {
            written = &mut write => return written,
            read = conn.read(from) => read?,
        }
        self.lock().broker.handle_end(conn.id);
        has_ended.store(true, Ordering::Relaxed);
        conn.bell.output.notify_one();
        timeout(FAREWELL, write).await.unwrap_or(Err(ServeError::Idle))
    }

    fn open(&self, peer: Address) -> Result<Conn<'_>, ServeError> {
        let mut inner = self.lock();
        let id = inner.broker.handle_open(peer).ok_or(ServeError::Full)?;
        let bell = Arc::new(Bell::default());
        inner.bells.insert(id, bell.clone());
        Ok(Conn { events: self, id, bell })
    }
}

impl Conn<'_> {
    /// Takes one frame, and tells whoever has something to write by it.
    fn take(&self, input: &[u8]) -> Result<Taken, EventsError> {
        let mut inner = self.events.lock();
        let taken = inner.broker.handle_bytes(self.id, input);
        while let Some(ready) = inner.broker.poll_ready() {
            if let Some(bell) = inner.bells.get(&ready) {
                bell.output.notify_one();
            }
        }
        taken
    }

    /// Reads until the peer has said its last.
    async fn read(&self, mut from: impl AsyncRead + Unpin) -> Result<(), ServeError> {
        let mut buf = Vec::new();
        loop {
            let mut start = 0;
            loop {
                match self.take(&buf[start..])? {
                    Taken::Frame(used) => start += used,
                    Taken::More => break,
                    // One that asks and never reads would keep its place for ever.
                    Taken::Blocked => timeout(IDLE, self.bell.room.notified())
                        .await
                        .map_err(|_| ServeError::Idle)?,
                }
            }
            buf.drain(..start);
            // What is left is less than one frame.
            buf.reserve(CHUNK);
            let read = timeout(IDLE, from.read_buf(&mut buf)).await;
            if read.map_err(|_| ServeError::Idle)?? == 0 {
                return if buf.is_empty() { Ok(()) } else { Err(ServeError::Truncated) };
            }
        }
    }

    /// Writes what there is, and at the end of the peer what is left.
    async fn write(
        &self,
        mut to: impl AsyncWrite + Unpin,
        has_ended: &AtomicBool,
    ) -> Result<(), ServeError> {
        let mut out = Vec::new();
        loop {
            self.events.lock().broker.poll_bytes(self.id, &mut out, BATCH);
            if !out.is_empty() {
                self.bell.room.notify_one();
                to.write_all(&out).await?;
                to.flush().await?;
                out.clear();
            } else if has_ended.load(Ordering::Relaxed) {
                to.shutdown().await?;
                return Ok(());
            } else {
                self.bell.output.notified().await;
            }
        }
    }
}
