//! Questions to the registry and what it answers.

use super::error::DirectoryError;
use super::handle::Handle;
use crate::drive::runtime::Runtime;
use crate::drive::waiters::Ticket;
use crate::node::{
    AgentInfo, Answer as NodeAnswer, Command, Reply, Reputation, RequestError, RequestId,
};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::task::Poll;

/// The registry's answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Answer {
    /// Carried out.
    Done,
    /// The agent that was looked up.
    Agent(Box<AgentInfo>),
    /// A page of agents, and the cursor of the next page if there is one.
    Page(Vec<AgentInfo>, Option<u64>),
    /// What the registry counts of an agent's receipts.
    Reputation(Reputation),
}

impl Answer {
    fn from_node(answer: NodeAnswer<'_>) -> Self {
        match answer {
            NodeAnswer::Agent(agent) => Answer::Agent(Box::new(agent)),
            NodeAnswer::Page(page) => {
                let next = page.next_cursor();
                Answer::Page(page.collect(), next)
            }
            NodeAnswer::Reputation(reputation) => Answer::Reputation(reputation),
            _ => Answer::Done,
        }
    }

    /// The answer to a look-up.
    pub fn into_agent(self) -> Result<AgentInfo, DirectoryError> {
        match self {
            Answer::Agent(agent) => Ok(*agent),
            _ => Err(RequestError::NotFound.into()),
        }
    }

    /// The answer to a question for a reputation.
    pub fn into_reputation(self) -> Result<Reputation, DirectoryError> {
        match self {
            Answer::Reputation(reputation) => Ok(reputation),
            _ => Err(RequestError::NotFound.into()),
        }
    }

    /// The answer to a search.
    pub fn into_page(self) -> (Vec<AgentInfo>, Option<u64>) {
        match self {
            Answer::Page(agents, next) => (agents, next),
            _ => (Vec::new(), None),
        }
    }
}

/// A question to the registry that waits for its answer; forgotten when dropped.
pub struct Question<R: Runtime> {
    handle: Handle<R>,
    /// Gone when it is answered, or needed no answer.
    id: Option<RequestId>,
    ticket: Ticket,
}

impl<R: Runtime> fmt::Debug for Question<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<R: Runtime> Question<R> {
    pub(super) fn ask(handle: &Handle<R>, command: Command<'_>) -> Result<Self, DirectoryError> {
        let id = match handle.command(command)? {
            Reply::Request(id) => Some(id),
            _ => None,
        };
        Ok(Question { handle: handle.clone(), id, ticket: Ticket::NONE })
    }

    /// The answer, or `waker` is woken when it is there. Once it was given, there is only
    /// [`Answer::Done`].
    pub fn poll_answer(&mut self, waker: &R::Waker) -> Poll<Result<Answer, DirectoryError>> {
        let Some(id) = self.id else { return Poll::Ready(Ok(Answer::Done)) };
        let ticket = &mut self.ticket;
        let answer = self.handle.peek(|access| {
            let hub = &mut access.owner.hub;
            hub.poll_answer(access.machine, id, ticket, waker, Answer::from_node)
        });
        if answer.is_ready() {
            // A node that has ended still holds it; there it does no harm.
            self.id = None;
        }
        answer.map_err(DirectoryError::from)
    }
}

impl<R: Runtime> Drop for Question<R> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        self.handle.shared().peek_unless_broken(|access| {
            access.owner.hub.leave(&mut self.ticket);
            access.machine.forget(id);
        });
    }
}
