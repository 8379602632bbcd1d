//! The bytes of one stream to the other side of tasks; `pilot_core::service::tasks::Talk` decides.

use super::Tasks;
use crate::error::Failure;
use pilot_core::service::tasks::{Party, Talk, TalkEnd, TasksError, Verdict, Worked};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{sleep_until, timeout};

/// Ending a stream takes no longer.
const LINGER: Duration = Duration::from_secs(5);
/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// Whether a peer may submit tasks: at once if that is known, and else when it is.
pub(crate) trait Admit: Send + Sync + 'static {
    /// What is known.
    fn known(&self, peer: Party) -> Option<Result<(), Verdict>>;
    /// What is found out.
    fn ask(&self, peer: Party) -> Admitted;
}

/// What comes of asking that.
pub(crate) type Admitted = Pin<Box<dyn Future<Output = Result<(), Verdict>> + Send>>;

/// Why a stream was given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TalkError {
    /// It broke.
    #[error("{0}")]
    Stream(#[from] io::Error),
    /// The other end does not keep to the protocol.
    #[error("{0}")]
    Protocol(#[from] TasksError),
    /// Nothing came.
    #[error("the other side is silent")]
    Silent,
    /// Nothing could be stored.
    #[error("{0}")]
    Store(Failure),
}

/// Hears and tells until either end closes the stream. Who has opened it closes it once there
/// is nothing more to tell or to wait for.
pub(crate) async fn talk<S>(
    tasks: &Tasks,
    peer: Party,
    stream: S,
    admit: Arc<dyn Admit>,
    has_opened: bool,
) -> Result<(), TalkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let number = tasks.begin(peer.key);
    let _end = End { tasks, peer, number };
    let mut talk = Box::new(Talk::new(peer, has_opened, tasks.instant()));
    let mut changed = tasks.changed();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let mut chunk = vec![0; CHUNK];
    loop {
        changed.mark_unchanged();
        talk.handle_time(tasks.instant());
        talk = work(tasks, talk, number, &*admit).await?;
        match talk.end() {
            None => {}
            Some(TalkEnd::Silent) => return Err(TalkError::Silent),
            Some(TalkEnd::Finished) => {
                let close = async {
                    writing.write_all(talk.output()).await?;
                    writing.shutdown().await
                };
                return Ok(timeout(LINGER, close).await.map_err(|_| TalkError::Silent)??);
            }
        }
        let room = talk.room().min(CHUNK);
        tokio::select! {
            read = reading.read(&mut chunk[..room]), if room > 0 => match read? {
                0 => talk.handle_end(),
                n => drop(talk.handle_bytes(tasks.instant(), &chunk[..n])),
            },
            written = writing.write(talk.output()), if !talk.output().is_empty() => {
                talk.advance(written?);
                if talk.output().is_empty() {
                    writing.flush().await?;
                }
            }
            changed = changed.changed() => if changed.is_err() {
                return Ok(());
            },
            () = sleep_until(tasks.at(talk.deadline())) => {}
        }
    }
}

/// Takes the stream off the list, however it ended.
struct End<'t> {
    tasks: &'t Tasks,
    peer: Party,
    number: u64,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.tasks.end(self.peer.key, self.number);
    }
}

/// Does what has come, and asks about its peer as often as that is needed.
async fn work(
    tasks: &Tasks,
    mut talk: Box<Talk>,
    number: u64,
    admit: &dyn Admit,
) -> Result<Box<Talk>, TalkError> {
    let mut admitted = admit.known(talk.peer());
    loop {
        let (worked_on, worked) =
            tasks.work(talk, number, admitted).await.map_err(TalkError::Store)?;
        talk = worked_on;
        match worked? {
            Worked::Done => return Ok(talk),
            Worked::Admit => admitted = Some(admit.ask(talk.peer()).await),
        }
    }
}
