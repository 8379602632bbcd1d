//! Carries the messages for one receiver: small ones over a stream on which none waits for the one
//! before, a large one as a file is carried. What became of those that were answered together is
//! noted together.

use super::{Means, Outcome, PAUSE, PAUSE_MAX, attempt, patience, pause, reason};
use crate::daemon::offer::{from_send, is_hopeless};
use crate::error::{Code, Failure};
use crate::services::outbox::{Item, ItemState, Lane, Outbox, Reason, Settling};
use crate::services::push::{PUSHED, Pushes};
use crate::services::send::SendError;
use pilot_core::addr::Address;
use pilot_core::service::exchange::{PUSHES_MAX, Pushed, TransferId};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// A stream without messages stays open for so long, for those that come right after.
const LINGER: Duration = Duration::from_secs(1);

/// Carries messages until none waits.
pub(super) async fn carry_messages<M: Means>(means: Arc<M>, peer: Address, wake: Arc<Notify>) {
    let outbox = means.outbox();
    let mut line = Line::new(Arc::clone(&means), peer);
    let mut wait = PAUSE;
    loop {
        match line.carry(&wake).await {
            Ok(()) => {
                let has_next = || outbox.has_next(peer, Lane::Messages);
                if means.courier().end(peer, Lane::Messages, has_next) {
                    line.close().await;
                    return;
                }
            }
            Err(reason) => {
                // On the same stream nothing more would be taken.
                (line.pushes, line.window) = (None, 1);
                tracing::debug!(%peer, reason = reason.message, "not delivered yet");
                if std::mem::take(&mut line.has_delivered) {
                    wait = PAUSE;
                }
                wait = if pause(wait, &wake).await { PAUSE } else { (wait * 2).min(PAUSE_MAX) };
            }
        }
    }
}

/// The messages on their way to a receiver.
struct Line<M: Means> {
    means: Arc<M>,
    peer: Address,
    pushes: Option<Pushes<M::Stream>>,
    /// Whom the stream goes to: the receiver, in the network that the sender has named.
    to: Address,
    /// Pushed and not answered, in order, with their bytes.
    under_way: VecDeque<(TransferId, u64)>,
    /// One, until it is known that the receiver has room.
    window: usize,
    /// Since the stream was opened.
    has_answers: bool,
    /// Since the last pause.
    has_delivered: bool,
    /// Why one was put back: those under way behind it are still to be answered.
    failed: Option<Reason>,
    /// The last answer, or the first push after none was under way.
    moved: Instant,
}

impl<M: Means> Line<M> {
    fn new(means: Arc<M>, peer: Address) -> Self {
        Line {
            means,
            peer,
            pushes: None,
            to: peer,
            under_way: VecDeque::new(),
            window: 1,
            has_answers: false,
            has_delivered: false,
            failed: None,
            moved: Instant::now(),
        }
    }

    fn outbox(&self) -> &Arc<Outbox> {
        self.means.outbox()
    }

    /// Carries until nothing waits, or something fails: the reason. Nothing is under way then.
    async fn carry(&mut self, wake: &Notify) -> Result<(), Reason> {
        loop {
            let is_alone = self.carry_next().await?;
            if is_alone {
                continue;
            }
            if self.under_way.is_empty() {
                if let Some(reason) = self.failed.take() {
                    return Err(reason);
                }
                if self.pushes.is_none() {
                    return Ok(());
                }
                tokio::select! {
                    () = wake.notified() => continue,
                    () = sleep(LINGER) => return Ok(()),
                }
            }
            let Some(pushes) = &mut self.pushes else { return Ok(()) };
            let is_open = self.failed.is_none() && self.under_way.len() < self.window;
            let first = self.under_way.front().map_or(0, |(_, size)| *size);
            let answers = tokio::select! {
                answers = pushes.answers() => answers,
                () = wake.notified(), if is_open && pushes.has_room() => continue,
                () = sleep_until(self.moved + patience(first)) => Err(SendError::TimedOut),
            };
            self.moved = Instant::now();
            match answers {
                Ok(answers) => self.answered(answers).await?,
                Err(error) => self.broken(error).await?,
            }
        }
    }

    /// Begins with what waits, as far as there is room; true if that has ended already.
    async fn carry_next(&mut self) -> Result<bool, Reason> {
        let has_room = self.pushes.as_ref().is_none_or(Pushes::has_room);
        let most = self.window.saturating_sub(self.under_way.len());
        if self.failed.is_some() || !has_room || most == 0 {
            return Ok(false);
        }
        let is_idle = self.under_way.is_empty();
        let begun = self.outbox().begin_messages(self.peer, most, (!is_idle).then_some(self.to));
        let (items, contents): (Vec<Item>, Vec<_>) = begun.into_iter().unzip();
        let Some(first) = items.first() else { return Ok(false) };
        if first.size > PUSHED {
            return match attempt(&*self.means, first, &mut None).await {
                Outcome::Settled => Ok(true),
                Outcome::Again(reason) => {
                    self.outbox().put_back(first.id, reason.clone());
                    Err(reason)
                }
            };
        }
        if is_idle && let Err(error) = self.open(first.to).await {
            self.outbox().put_back_all(items[1..].iter().map(|item| item.id));
            self.fail(first.id, error).await?;
            return Ok(true);
        }
        self.push(items, contents).await;
        // All of them were taken back: others may wait behind.
        Ok(self.under_way.is_empty() && self.failed.is_none())
    }

    /// Opens a stream, unless there is one.
    async fn open(&mut self, to: Address) -> Result<(), SendError<Failure>> {
        if self.pushes.is_some() && self.to == to {
            return Ok(());
        }
        self.close().await;
        let _place = self.means.courier().messages.acquire().await;
        let pushes = Pushes::open(&*self.means, to).await.map_err(SendError::Connect)?;
        (self.pushes, self.to, self.has_answers) = (Some(pushes), to, false);
        Ok(())
    }

    async fn close(&mut self) {
        if let Some(pushes) = self.pushes.take() {
            pushes.close().await;
        }
    }

    async fn push(&mut self, items: Vec<Item>, contents: Vec<Option<Arc<[u8]>>>) {
        let contents = read(self.outbox(), &items, contents).await;
        let mut items = items.into_iter().zip(contents);
        while let Some((item, content)) = items.next() {
            let Some(pushes) = &mut self.pushes else { return };
            let outbox = self.means.outbox();
            let pushed = content.map_err(SendError::Source).and_then(|content| {
                // It may have been taken back while the stream was opened.
                if !outbox.offered(item.id) {
                    return Ok(false);
                }
                pushes.push(item.id, item.kind, item.note.clone(), &content)?;
                Ok(true)
            });
            let failed = match pushed {
                Ok(false) => continue,
                Ok(true) => {
                    if self.under_way.is_empty() {
                        self.moved = Instant::now();
                    }
                    self.under_way.push_back((item.id, item.size));
                    continue;
                }
                Err(error) => self.fail(item.id, error).await,
            };
            if let Err(reason) = failed {
                self.failed = Some(reason);
                self.outbox().put_back_all(items.map(|(item, _)| item.id));
                return;
            }
        }
    }

    /// An attempt has failed: the message is settled, or waits again, and so does who sends.
    async fn fail(&mut self, id: TransferId, error: SendError<Failure>) -> Result<(), Reason> {
        let is_hopeless = is_hopeless(&error);
        let why = reason(&from_send(error, false));
        if !is_hopeless {
            self.outbox().put_back(id, why.clone());
            return Err(why);
        }
        tracing::info!(to = %self.peer, %id, why = why.message, "refused for good");
        let refused = Settling { id, outcome: ItemState::Refused, reason: Some(why) };
        settle(self.outbox(), vec![refused]).await
    }

    /// The stream is of no more use.
    async fn broken(&mut self, error: SendError<Failure>) -> Result<(), Reason> {
        self.pushes = None;
        let mut ids = std::mem::take(&mut self.under_way).into_iter().map(|(id, _)| id);
        if let Some(reason) = self.failed.take() {
            self.outbox().put_back_all(ids);
            return Err(reason);
        }
        // A receiver may end a stream that was used; a fresh one tells how things are.
        let is_stale = matches!(error, SendError::Broken(_) | SendError::Protocol(_));
        if is_stale && self.has_answers && !is_hopeless(&error) {
            self.outbox().put_back_all(ids);
            return Ok(());
        }
        let first = ids.next();
        self.outbox().put_back_all(ids);
        match first {
            Some(first) => self.fail(first, error).await,
            None => Ok(()),
        }
    }

    /// What has become of the first that were under way.
    async fn answered(&mut self, answers: Vec<(TransferId, Pushed)>) -> Result<(), Reason> {
        self.has_answers = true;
        let mut settling = Vec::with_capacity(answers.len());
        for (id, pushed) in answers {
            self.under_way.pop_front();
            let error = match pushed {
                Pushed::Stored | Pushed::AlreadyThere => {
                    let outcome = ItemState::Delivered;
                    settling.push(Settling { id, outcome, reason: None });
                    continue;
                }
                Pushed::Refused(refusal) => SendError::Refused(refusal),
                Pushed::NotStored(failure) => SendError::NotStored(failure),
            };
            if self.failed.is_some() {
                // Behind one that is to come first.
                self.outbox().put_back_all([id]);
            } else if let Err(reason) = self.fail(id, error).await {
                self.failed = Some(reason);
            }
        }
        if !settling.is_empty() {
            (self.has_delivered, self.window) = (true, PUSHES_MAX);
            if let Err(reason) = settle(self.outbox(), settling).await {
                self.failed.get_or_insert(reason);
            }
        }
        Ok(())
    }
}

async fn settle(outbox: &Arc<Outbox>, settling: Vec<Settling>) -> Result<(), Reason> {
    let outbox = Arc::clone(outbox);
    let settle = move || outbox.settle_all(settling);
    match tokio::task::spawn_blocking(settle).await {
        Ok(Ok(_)) => Ok(()),
        // They could not be removed: they go out again, and the receiver knows them.
        Ok(Err(e)) => Err(reason(&Failure::io("remove it from the outbox", e))),
        Err(e) => Err(reason(&Failure::new(Code::Internal, e.to_string()))),
    }
}

/// The contents of messages, from the disk where they are not in memory.
async fn read(
    outbox: &Arc<Outbox>,
    items: &[Item],
    contents: Vec<Option<Arc<[u8]>>>,
) -> Vec<io::Result<Arc<[u8]>>> {
    if contents.iter().all(Option::is_some) {
        return contents.into_iter().flatten().map(Ok).collect();
    }
    let (outbox, items) = (Arc::clone(outbox), items.to_vec());
    let count = items.len();
    let read = move || {
        let one = |(item, content): (&Item, Option<Arc<[u8]>>)| match content {
            Some(content) => Ok(content),
            None => outbox.content(item).map(Arc::from),
        };
        items.iter().zip(contents).map(one).collect()
    };
    let failed = |_| (0..count).map(|_| Err(io::Error::other("it panicked"))).collect();
    tokio::task::spawn_blocking(read).await.unwrap_or_else(failed)
}
