//! The inbox as server-sent events: each message as it comes, with its `seq` as the event's id, so
//! that a client that comes back goes on behind the last one (`Last-Event-ID`).

use super::exchange::{PAGE, blocking, page};
use crate::api::{Message, Nothing};
use crate::daemon::Shared;
use crate::error::{Code, Envelope, Failure};
use crate::http::{ALIVE, EVENTS, parse, server_sent, streamed};
use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::Response;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::watch;

/// Whether a client wants events.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).is_some_and(|accept| accept == EVENTS)
}

/// The answer to who follows, from behind the message `after` on.
pub(super) fn inbox(
    shared: Arc<Shared>,
    after: u64,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let last = match headers.get("last-event-id").and_then(|last| last.to_str().ok()) {
        Some(last) => parse("the last event's id", last)?,
        None => after,
    };
    let (changes, stop) = (shared.offer.inbox.changes(), shared.stop.subscribe());
    let waiting = VecDeque::new();
    let following = Following { shared, last, waiting, changes, stop, is_over: false };
    let body = futures_util::stream::unfold(following, Following::next);
    let body = futures_util::StreamExt::map(body, Ok::<_, Infallible>);
    Ok(streamed(EVENTS, Body::from_stream(body)))
}

struct Following {
    shared: Arc<Shared>,
    /// `seq` of the last message that was told, or looked at.
    last: u64,
    waiting: VecDeque<Message>,
    changes: watch::Receiver<()>,
    stop: watch::Receiver<bool>,
    is_over: bool,
}

impl Following {
    async fn next(mut self) -> Option<(String, Self)> {
        if self.is_over {
            return None;
        }
        loop {
            if let Some(message) = self.waiting.pop_front() {
                let text = format!("id: {}\n{}", message.seq, server_sent("message", &message));
                return Some((text, self));
            }
            // What comes while we look is a change.
            self.changes.borrow_and_update();
            let (inbox, last) = (self.shared.offer.inbox.clone(), self.last);
            let found = blocking("read the inbox", move || page(&inbox, last, PAGE)).await;
            match found {
                Err(failure) => return Some(self.end(failure)),
                Ok(found) => self.waiting.extend(found.messages),
            }
            if let Some(message) = self.waiting.back() {
                self.last = message.seq;
                continue;
            }
            let is_quiet = tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => None,
                changed = self.changes.changed() => changed.ok().map(|()| false),
                () = tokio::time::sleep(ALIVE) => Some(true),
            };
            match is_quiet {
                Some(true) => return Some((": alive\n\n".to_owned(), self)),
                Some(false) => {}
                None => {
                    let stopped = Failure::new(Code::NotRunning, "the daemon is stopping");
                    return Some(self.end(stopped));
                }
            }
        }
    }

    fn end(mut self, failure: Failure) -> (String, Self) {
        self.is_over = true;
        let text = server_sent("end", &Envelope::<Nothing>::from_result(Err(failure)));
        (text, self)
    }
}
