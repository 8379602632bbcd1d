//! How raw streams ended. A reset must not look like an end of file, and the client of a raw
//! stream sees nothing but bytes: so it asks afterwards.

use crate::error::{Code, Failure};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

/// Ended streams that are remembered, the youngest.
const ENDED_MAX: usize = 256;

/// `None` while the stream is open.
type End = Option<Result<(), Failure>>;

/// The streams of the raw routes.
#[derive(Clone, Default)]
pub(crate) struct Ends(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    next: u64,
    streams: BTreeMap<u64, Known>,
}

struct Known {
    ended: watch::Receiver<End>,
    abort: Arc<Notify>,
}

impl Ends {
    /// A new stream.
    pub(crate) fn begin(&self) -> Ticket {
        let mut table = self.lock();
        table.next += 1;
        let id = table.next;
        let (end, ended) = watch::channel(None);
        // Open ones are bounded by the node's streams; only ended ones pile up.
        let is_ended = |(_, known): &(&u64, &Known)| known.ended.borrow().is_some();
        let old: Vec<u64> = table.streams.iter().filter(is_ended).map(|(id, _)| *id).collect();
        for id in old.iter().take(old.len().saturating_sub(ENDED_MAX)) {
            table.streams.remove(id);
        }
        let abort = Arc::new(Notify::new());
        table.streams.insert(id, Known { ended, abort: Arc::clone(&abort) });
        Ticket { id, end, abort }
    }

    /// Waits until the stream has ended, and says how.
    pub(crate) async fn wait(&self, id: u64) -> Result<(), Failure> {
        let found = self.lock().streams.get(&id).map(|known| known.ended.clone());
        let mut ended = found.ok_or_else(|| unknown(id))?;
        let end = ended.wait_for(Option::is_some).await.map(|end| end.clone());
        match end {
            Ok(Some(result)) => result,
            Ok(None) | Err(_) => Err(Failure::new(Code::Ended, "the stream never began")),
        }
    }

    /// The client gives the stream up: what the other side has is not the whole. One that has
    /// ended is as it is.
    pub(crate) fn abort(&self, id: u64) -> Result<(), Failure> {
        let table = self.lock();
        let known = table.streams.get(&id).ok_or_else(|| unknown(id))?;
        known.abort.notify_one();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn unknown(id: u64) -> Failure {
    Failure::new(Code::NotFound, format!("there is no stream {id}"))
        .hint("only the youngest ended streams are remembered")
}

/// The right to say how a stream ended.
pub(crate) struct Ticket {
    id: u64,
    end: watch::Sender<End>,
    abort: Arc<Notify>,
}

impl Ticket {
    /// The stream's number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Completes when the client gives the stream up.
    pub(crate) async fn aborted(&self) {
        self.abort.notified().await;
    }

    /// It has ended so.
    pub(crate) fn end(self, result: Result<(), Failure>) {
        self.end.send_replace(Some(result));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let open = self.end.borrow().is_none();
        if open {
            let failure = Failure::new(Code::Ended, "the stream never began");
            self.end.send_replace(Some(Err(failure)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_told_also_before_and_also_later() {
        let ends = Ends::default();
        let (good, bad, never) = (ends.begin(), ends.begin(), ends.begin());
        let ids = [good.id(), bad.id(), never.id()];
        let waiting = tokio::spawn({
            let ends = ends.clone();
            async move { ends.wait(ids[0]).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        good.end(Ok(()));
        assert!(waiting.await.unwrap().is_ok());
        bad.end(Err(Failure::new(Code::Refused, "no")));
        drop(never);
        assert_eq!(ends.wait(ids[1]).await.unwrap_err().code, Code::Refused);
        assert_eq!(ends.wait(ids[2]).await.unwrap_err().code, Code::Ended);
        assert_eq!(ends.wait(99).await.unwrap_err().code, Code::NotFound);
    }

    #[tokio::test]
    async fn a_bounded_number_is_remembered_and_open_ones_always() {
        let ends = Ends::default();
        let open = ends.begin();
        for _ in 0..ENDED_MAX + 10 {
            ends.begin().end(Ok(()));
        }
        ends.begin().end(Ok(()));
        assert!(ends.lock().streams.len() <= ENDED_MAX + 2);
        assert_eq!(ends.wait(2).await.unwrap_err().code, Code::NotFound);
        let id = open.id();
        open.end(Ok(()));
        assert!(ends.wait(id).await.is_ok());
    }
}
