//! Echo, both sides.

use super::flow::Flow;
use crate::drive::agent::StreamHandle;
use crate::drive::io::Clock as _;
use crate::drive::runtime::Runtime;
use crate::service::echo::{PROBE, check, fill};
use crate::time::{Duration, Instant};
use core::fmt;
use core::task::{Poll, ready};
use std::io;

/// Bytes that wait to go back; beyond, nothing is read.
const BACKLOG: usize = 256 * 1024;

/// Sends back what one peer sends. A peer that does not read stops itself.
pub struct EchoServer<R: Runtime>(Flow<R>);

impl<R: Runtime> fmt::Debug for EchoServer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EchoServer").field(&self.0.stream.peer()).finish()
    }
}

impl<R: Runtime> EchoServer<R> {
    /// Over a stream that was accepted on port 7.
    pub fn new(stream: StreamHandle<R>) -> Self {
        EchoServer(Flow::new(stream))
    }

    pub(super) fn host(&self) -> R::Host {
        self.0.host()
    }

    /// Serves until the peer has ended and has everything back.
    pub fn poll_serve(&mut self, waker: &R::Waker) -> Poll<io::Result<()>> {
        let flow = &mut self.0;
        loop {
            let flushed = flow.poll_flush(waker)?;
            if flushed.is_pending() && flow.backlog() >= BACKLOG {
                return Poll::Pending;
            }
            if !ready!(flow.poll_fill(waker))? {
                ready!(flow.poll_flush(waker))?;
                return Poll::Ready(flow.stream.finish());
            }
            let len = flow.input().len();
            let bytes = flow.input().to_vec();
            flow.output().extend_from_slice(&bytes);
            flow.used(len);
        }
    }
}

/// Measures round trips to one peer.
pub struct Echo<R: Runtime> {
    flow: Flow<R>,
    /// Bytes sent in all: no two probes are the same.
    sent: u64,
    /// Since when a probe is under way.
    since: Option<Instant>,
}

impl<R: Runtime> fmt::Debug for Echo<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Echo").field("to", &self.flow.stream.peer()).finish_non_exhaustive()
    }
}

impl<R: Runtime> Echo<R> {
    /// Over a fresh stream to port 7.
    pub fn new(stream: StreamHandle<R>) -> Self {
        Echo { flow: Flow::new(stream), sent: 0, since: None }
    }

    pub(super) fn host(&self) -> R::Host {
        self.flow.host()
    }

    /// Sends 64 bytes, unless some are under way, and waits until they are back: how long that
    /// took. Other bytes than those are an error.
    pub fn poll_round_trip(&mut self, waker: &R::Waker) -> Poll<io::Result<Duration>> {
        let clock = self.host();
        let since = *self.since.get_or_insert_with(|| {
            let mut probe = [0; PROBE];
            fill(self.sent, &mut probe);
            self.flow.output().extend_from_slice(&probe);
            clock.now()
        });
        loop {
            if let Poll::Ready(Err(error)) = self.flow.poll_flush(waker) {
                return Poll::Ready(Err(error));
            }
            if self.flow.input().len() >= PROBE {
                break;
            }
            if !ready!(self.flow.poll_fill(waker))? {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let is_right = check(self.sent, &self.flow.input()[..PROBE]);
        self.flow.used(PROBE);
        self.sent += PROBE as u64;
        self.since = None;
        if !is_right {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        Poll::Ready(Ok(clock.now().since(since)))
    }
}
