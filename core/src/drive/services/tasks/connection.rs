//! One stream of tasks.

use super::office::Office;
use crate::drive::agent::StreamHandle;
use crate::drive::runtime::Runtime;
use crate::service::tasks::{Party, Talk, TalkEnd};
use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use core::task::Poll;
use std::io;

/// What is left to be written at the end may take so long.
const LINGER: Duration = Duration::from_secs(5);

pub(super) struct Connection<R: Runtime> {
    pub(super) stream: StreamHandle<R>,
    pub(super) talk: Box<Talk>,
    pub(super) number: u64,
    pub(super) has_opened: bool,
    /// The commit that its output waits for.
    pub(super) sealed: Option<u64>,
    /// The end was noticed, and has so long.
    ending: Option<Instant>,
}

/// What has become of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Nothing is new.
    Idle,
    /// It has come further.
    Moved,
    /// It is over: drop it.
    Over,
}

impl<R: Runtime> Connection<R> {
    pub(super) fn new(
        stream: StreamHandle<R>,
        peer: Party,
        has_opened: bool,
        office: &mut Office<R>,
        now: Instant,
    ) -> Self {
        Connection {
            stream,
            talk: Box::new(Talk::new(peer, has_opened, now)),
            number: office.streams.begin(peer.key),
            has_opened,
            sealed: None,
            ending: None,
        }
    }

    /// Reads what there is room for; whether that was something.
    pub(super) fn read(
        &mut self,
        waker: &R::Waker,
        now: Instant,
        chunk: &mut [u8],
    ) -> io::Result<bool> {
        let mut has_read = false;
        while self.talk.room() > 0 && self.talk.end().is_none() {
            let room = self.talk.room().min(chunk.len());
            match self.stream.poll_read(waker, &mut chunk[..room])? {
                Poll::Ready(0) => self.talk.handle_end(),
                Poll::Ready(n) => drop(self.talk.handle_bytes(now, &chunk[..n])),
                Poll::Pending => break,
            }
            has_read = true;
        }
        Ok(has_read)
    }

    /// Writes what may be written; whether that was something.
    pub(super) fn write(&mut self, waker: &R::Waker) -> io::Result<bool> {
        let mut has_written = false;
        while !self.talk.output().is_empty() {
            match self.stream.poll_write(waker, self.talk.output())? {
                Poll::Ready(n) => self.talk.advance(n),
                Poll::Pending => break,
            }
            has_written = true;
        }
        Ok(has_written)
    }

    /// Whether it is over; then the rest of what it had to say was written, or cannot be.
    pub(super) fn close(&mut self, now: Instant) -> bool {
        match self.talk.end() {
            None => false,
            Some(TalkEnd::Silent) => {
                self.stream.reset();
                true
            }
            Some(TalkEnd::Finished) => {
                let until = *self.ending.get_or_insert(now + LINGER);
                if (self.sealed.is_some() || !self.talk.output().is_empty()) && now < until {
                    return false;
                }
                // If it cannot be finished, it has ended otherwise.
                let _ = self.stream.finish();
                true
            }
        }
    }

    pub(super) fn due(&self) -> Instant {
        self.ending.unwrap_or_else(|| self.talk.deadline())
    }
}
