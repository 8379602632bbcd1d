//! A stream with what was read and not yet used, and what is still to be written.

use crate::drive::agent::StreamHandle;
use crate::drive::runtime::Runtime;
use crate::service::buffer::Buffer;
use core::task::{Poll, ready};
use std::io;
use std::vec::Vec;

/// Bytes of one read.
const CHUNK: usize = 64 * 1024;

pub(super) struct Flow<R: Runtime> {
    pub(super) stream: StreamHandle<R>,
    /// Where is read into; from `start` to `end` lies what was not yet used.
    input: Vec<u8>,
    start: usize,
    end: usize,
    output: Buffer,
    /// Bytes that the stream has taken since its beginning.
    written: u64,
}

impl<R: Runtime> Flow<R> {
    pub(super) fn new(stream: StreamHandle<R>) -> Self {
        let (input, output) = (Vec::new(), Buffer::default());
        Flow { stream, input, start: 0, end: 0, output, written: 0 }
    }

    /// The clock of its agent.
    pub(super) fn host(&self) -> R::Host {
        self.stream.agent().shared().host()
    }

    /// What was read and not yet used.
    pub(super) fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    pub(super) fn used(&mut self, n: usize) {
        self.start += n;
    }

    /// Reads into the caller's buffer, past what was read here and used; 0 at the end.
    pub(super) fn poll_read(
        &mut self,
        waker: &R::Waker,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.poll_read(waker, buf)
    }

    /// Reads some; `false` at the end.
    pub(super) fn poll_fill(&mut self, waker: &R::Waker) -> Poll<io::Result<bool>> {
        // What is left is the beginning of a frame: seldom something, and never much.
        self.input.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.input.len() < self.end + CHUNK {
            self.input.resize(self.end + CHUNK, 0);
        }
        let n = ready!(self.stream.poll_read(waker, &mut self.input[self.end..]))?;
        self.end += n;
        Poll::Ready(Ok(n > 0))
    }

    /// Where to append what is to be written.
    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        self.output.end()
    }

    /// Bytes that are still to be written.
    pub(super) fn backlog(&self) -> usize {
        self.output.len()
    }

    /// Bytes that the stream has taken since its beginning: a peer that reads makes room for more.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Writes until nothing is left.
    pub(super) fn poll_flush(&mut self, waker: &R::Waker) -> Poll<io::Result<()>> {
        while self.output.len() > 0 {
            let n = ready!(self.stream.poll_write(waker, self.output.bytes()))?;
            self.output.advance(n);
            self.written += n as u64;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the first of these bytes, once nothing else waits; how many.
    pub(super) fn poll_write(&mut self, waker: &R::Waker, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(waker))?;
        self.stream.poll_write(waker, bytes)
    }
}
