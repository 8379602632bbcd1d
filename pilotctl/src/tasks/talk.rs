//! One stream to the other side of tasks.

use super::Tasks;
use super::desk::{Answer, Heard, Reaction, Told};
use crate::error::Failure;
use pilot_core::crypto::task::{Step, TaskId};
use pilot_core::service::tasks::{
    FRAME_MAX, Link, LinkEvent, Misuse, Party, TasksError, Verdict, WINDOW,
};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// Who has opened the stream asks so often whether the other end is there.
const PING: Duration = Duration::from_secs(20);
/// A stream on which nothing comes for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// Who has opened the stream keeps it so long after the last word.
const LINGER: Duration = Duration::from_secs(5);
/// What the other side had no room for is told again after so long.
const LATER: Duration = Duration::from_secs(5);
/// Bytes to write beyond which nothing more is told.
const TELL_BELOW: usize = 64 * 1024;
/// Bytes to write beyond which nothing more is read: of a peer that reads no answers.
const OUT_MAX: usize = 1 << 20;
/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// Whether a peer may submit tasks.
pub(crate) type Admit = Arc<dyn Fn(Party) -> Admitted + Send + Sync>;
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
    /// A defect.
    #[error("{0}")]
    Misuse(#[from] Misuse),
}

/// Hears and tells until either end closes the stream. Who has opened it closes it once there
/// is nothing more to tell or to wait for.
pub(crate) async fn talk<S>(
    tasks: &Arc<Tasks>,
    peer: Party,
    stream: S,
    admit: Admit,
    has_opened: bool,
) -> Result<(), TalkError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let number = tasks.begin(peer.key);
    let _end = End { tasks, peer, number };
    let talk = Talk {
        tasks,
        peer,
        number,
        admit,
        has_opened,
        changed: tasks.changed(),
        link: Box::new(Link::new()),
        asked: BTreeSet::new(),
        later: BTreeMap::new(),
        out: Vec::new(),
        frame: vec![0; FRAME_MAX],
        is_needed: true,
    };
    talk.run(stream).await
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

struct Talk<'t> {
    tasks: &'t Arc<Tasks>,
    peer: Party,
    number: u64,
    admit: Admit,
    has_opened: bool,
    changed: watch::Receiver<u64>,
    link: Box<Link>,
    /// Tasks that something was told of and that wait for an answer.
    asked: BTreeSet<TaskId>,
    /// Tasks that are told again, and when.
    later: BTreeMap<TaskId, Instant>,
    out: Vec<u8>,
    frame: Vec<u8>,
    /// Whether there was something to tell or to wait for.
    is_needed: bool,
}

/// What a turn of the loop was for.
enum Woke {
    Read(usize),
    Written(usize),
    Changed,
    Time,
}

impl Talk<'_> {
    async fn run<S>(mut self, stream: S) -> Result<(), TalkError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut reading, mut writing) = tokio::io::split(stream);
        let mut held = Vec::with_capacity(CHUNK);
        let start = Instant::now();
        let (mut heard_at, mut needed_at, mut ping_at) = (start, start, start + PING);
        loop {
            let is_full = self.out.len() >= OUT_MAX;
            if !is_full {
                self.changed.mark_unchanged();
                self.round(&mut held).await?;
            }
            let now = Instant::now();
            if self.is_needed || !self.link.is_idle() {
                needed_at = now;
            }
            let mut wake = heard_at + SILENCE;
            if self.has_opened {
                wake = wake.min(ping_at).min(needed_at + LINGER);
            }
            wake = self.later.values().copied().fold(wake, Instant::min);
            held.reserve(CHUNK);
            let woke = tokio::select! {
                read = reading.read_buf(&mut held), if !is_full => Woke::Read(read?),
                written = writing.write(&self.out), if !self.out.is_empty() => {
                    Woke::Written(written?)
                }
                changed = self.changed.changed(), if !is_full => match changed {
                    Ok(()) => Woke::Changed,
                    Err(_) => return Ok(()),
                },
                () = sleep_until(wake) => Woke::Time,
            };
            let now = Instant::now();
            match woke {
                Woke::Read(0) => break,
                Woke::Read(_) => heard_at = now,
                Woke::Written(n) => {
                    self.out.drain(..n);
                    if self.out.is_empty() {
                        writing.flush().await?;
                    }
                }
                Woke::Changed => {}
                Woke::Time if now >= heard_at + SILENCE => return Err(TalkError::Silent),
                Woke::Time if self.has_opened && now >= needed_at + LINGER => break,
                Woke::Time if self.has_opened && now >= ping_at => {
                    ping_at = now + PING;
                    let len = self.link.ping(&mut self.frame)?;
                    self.out.extend_from_slice(&self.frame[..len]);
                }
                Woke::Time => {}
            }
        }
        timeout(LINGER, writing.shutdown()).await.map_err(|_| TalkError::Silent)??;
        Ok(())
    }

    /// Takes in what has come, and writes what there is to answer and to tell.
    async fn round(&mut self, held: &mut Vec<u8>) -> Result<(), TalkError> {
        let now = Instant::now();
        self.later.retain(|_, at| *at > now);
        loop {
            let (mut heard, is_more) = self.take(held)?;
            self.admit_new(&mut heard).await;
            let mut asked = self.asked.clone();
            asked.extend(self.later.keys());
            let is_teller = self.tasks.is_teller(self.peer.key, self.number);
            // With what is told the rest stays below OUT_MAX: two ends that only told each other
            // and read nothing would wait for ever.
            let may_tell = is_teller && self.out.len() < TELL_BELOW;
            let room = if may_tell { WINDOW - self.asked.len() } else { 0 };
            let reaction = self.tasks.hear(self.peer, heard, room, asked).await;
            self.react(reaction.map_err(TalkError::Store)?)?;
            if !is_more {
                return Ok(());
            }
        }
    }

    /// Asks once for all submissions among what has come.
    async fn admit_new(&self, heard: &mut [Heard]) {
        let is_new = |heard: &Heard| matches!(heard, Heard::Stated { statement, .. } if statement.fields.step == Step::Submit);
        if !heard.iter().any(is_new) {
            return;
        }
        let verdict = (self.admit)(self.peer).await;
        for heard in heard.iter_mut().filter(|heard| is_new(heard)) {
            if let Heard::Stated { admitted, .. } = heard {
                *admitted = verdict;
            }
        }
    }

    /// The events in what has come; whether there may be more once these are answered.
    fn take(&mut self, held: &mut Vec<u8>) -> Result<(Vec<Heard>, bool), TalkError> {
        let (mut heard, mut start) = (Vec::new(), 0);
        let mut owed = 0;
        loop {
            let (used, event) = self.link.handle_bytes(&held[start..])?;
            start += used;
            let Some(event) = event else { break };
            heard.push(match event {
                LinkEvent::Stated { statement, content } => {
                    owed += 1;
                    // Asked of submissions only, by `admit_new`.
                    let (content, admitted) = (content.to_vec(), Ok(()));
                    Heard::Stated { statement: Box::new(statement), content, admitted }
                }
                LinkEvent::Claimed(claim) => {
                    owed += 1;
                    Heard::Claimed(Box::new(claim))
                }
                LinkEvent::Answered(asked, verdict) => {
                    self.asked.remove(&asked.task());
                    Heard::Answered(asked, verdict)
                }
                LinkEvent::Countersigned(receipt) => {
                    self.asked.remove(&receipt.claim.task);
                    Heard::Countersigned(Box::new(receipt))
                }
                LinkEvent::Ping(request) => {
                    let len = self.link.pong(request, &mut self.frame)?;
                    self.out.extend_from_slice(&self.frame[..len]);
                    continue;
                }
                LinkEvent::Pong => continue,
            });
        }
        held.drain(..start);
        Ok((heard, owed >= WINDOW))
    }

    fn react(&mut self, reaction: Reaction) -> Result<(), TalkError> {
        for answer in reaction.answers {
            let len = match answer {
                Answer::Verdict(verdict) => self.link.answer(verdict, &mut self.frame)?,
                Answer::Receipt(receipt) => self.link.answer_receipt(&receipt, &mut self.frame)?,
            };
            self.out.extend_from_slice(&self.frame[..len]);
        }
        let at = Instant::now() + LATER;
        self.later.extend(reaction.later.into_iter().map(|id| (id, at)));
        for told in reaction.told {
            let len = match &told {
                Told::Statement(statement, content) => {
                    self.link.tell(statement, content, &mut self.frame)?
                }
                Told::Claim(claim) => self.link.tell_claim(claim, &mut self.frame)?,
            };
            self.out.extend_from_slice(&self.frame[..len]);
            self.asked.insert(told.task());
        }
        self.is_needed = reaction.is_following || !self.asked.is_empty() || !self.later.is_empty();
        Ok(())
    }
}
