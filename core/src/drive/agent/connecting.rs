//! Opening a stream, from the name to the peer's answer.

use super::error::ConnectError;
use super::handle::KeepAlive;
use super::question::Question;
use super::stream::StreamHandle;
use crate::addr::Port;
use crate::drive::runtime::Runtime;
use crate::node::{Command, Target};
use core::fmt;
use core::task::{Poll, ready};

enum State<R: Runtime> {
    Resolving(Question<R>),
    Opening(StreamHandle<R>),
}

/// A stream that is being opened; see [`KeepAlive::begin_connect_to`]. Dropping it gives up
/// the attempt.
pub struct Connecting<R: Runtime> {
    agent: KeepAlive<R>,
    port: Port,
    state: State<R>,
}

impl<R: Runtime> fmt::Debug for Connecting<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").field("port", &self.port).finish_non_exhaustive()
    }
}

impl<R: Runtime> Connecting<R> {
    pub(super) fn new(agent: &KeepAlive<R>, to: Target, port: Port) -> Result<Self, ConnectError> {
        let state = match to {
            Target::Address(to) => State::Opening(agent.begin_connect(to, port)?),
            target @ Target::Hostname(_) => {
                State::Resolving(agent.ask(Command::Resolve { target, network: None })?)
            }
        };
        Ok(Connecting { agent: agent.clone(), port, state })
    }

    /// The open stream, or `waker` is woken when it is worth while to ask again. Once it was
    /// given, further calls give the same one.
    pub fn poll(&mut self, waker: &R::Waker) -> Poll<Result<StreamHandle<R>, ConnectError>> {
        loop {
            match &mut self.state {
                State::Resolving(question) => {
                    let found = ready!(question.poll_answer(waker))?.into_agent()?;
                    let opening = self.agent.begin_connect(found.address, self.port)?;
                    self.state = State::Opening(opening);
                }
                State::Opening(stream) => {
                    ready!(stream.poll_open(waker))?;
                    return Poll::Ready(Ok(stream.clone()));
                }
            }
        }
    }
}
