//! What the owner asks of the registry, and what comes back.

use crate::addr::Address;
use crate::crypto::IdentityKey;
use crate::name::{Hostname, Tags};
use crate::wire::registry::{self, Discovered, List};

pub use crate::wire::registry::{Reputation, Target};

/// A question to the registry whose answer comes as [`super::DirectoryEvent::Answered`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u32);

/// Why a request to the registry failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Unknown, or private and not ours to see.
    #[error("not found")]
    NotFound,
    /// The name is taken.
    #[error("taken by another agent")]
    Conflict,
    /// Too many requests; try again after this many milliseconds.
    #[error("rate limited for {0} ms")]
    RateLimited(u32),
    /// A limit of the registry is reached.
    #[error("full")]
    Full,
    /// The registry does not do that.
    #[error("unsupported")]
    Unsupported,
    /// The registry could not be asked.
    #[error("the registry does not answer")]
    Unreachable,
    /// The answer exceeds the buffers that this node was given.
    #[error("the answer does not fit")]
    TooLarge,
    /// What the registry said of an agent is not signed as it should be, or contradicts what
    /// we have pinned.
    #[error("the registry's answer is not authentic")]
    NotAuthentic,
    /// Any other refusal, with the registry's error code (`wire.md` 6.1).
    #[error("refused by the registry with code {0}")]
    Refused(u16),
}

impl From<registry::Refusal> for RequestError {
    fn from(refusal: registry::Refusal) -> Self {
        use registry::ErrorCode;
        match refusal.code {
            ErrorCode::NotFound => RequestError::NotFound,
            ErrorCode::Conflict => RequestError::Conflict,
            ErrorCode::RateLimited => RequestError::RateLimited(refusal.retry_ms),
            ErrorCode::Full => RequestError::Full,
            ErrorCode::Unsupported => RequestError::Unsupported,
            code => RequestError::Refused(code as u16),
        }
    }
}

/// What the registry answered.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "lives on the stack while the owner looks at it")]
pub enum Answer<'a> {
    /// Done.
    Done,
    /// An agent.
    Agent(AgentInfo),
    /// A page of agents, and the cursor of the next page if there is one.
    Page(Page<'a>),
    /// What the registry counts of an agent's receipts.
    Reputation(Reputation),
}

/// A public agent, or one that has granted us access.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentInfo {
    /// Its address in the network that was asked for.
    pub address: Address,
    /// Its identity, as the registry states it.
    pub identity: IdentityKey,
    /// Its hostname there.
    pub hostname: Option<Hostname>,
    /// Its tags.
    pub tags: Tags,
}

impl From<Discovered> for AgentInfo {
    fn from(d: Discovered) -> Self {
        AgentInfo {
            address: d.address,
            identity: IdentityKey(d.identity.0),
            hostname: d.hostname,
            tags: d.tags,
        }
    }
}

/// A page of [`AgentInfo`]s, decoded one by one; ends at the first that does not decode.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    entries: List<'a, Discovered>,
    taken: usize,
    cursor: u64,
}

impl Page<'_> {
    /// The cursor of the next page, if there is one.
    pub fn next_cursor(&self) -> Option<u64> {
        (self.cursor != 0).then_some(self.cursor)
    }
}

impl Iterator for Page<'_> {
    type Item = AgentInfo;

    fn next(&mut self) -> Option<AgentInfo> {
        // At most 16 entries, so decoding again from the start costs little and no memory.
        let entry = self.entries.iter().nth(self.taken)?.ok()?;
        self.taken += 1;
        Some(entry.into())
    }
}

/// The owner's view of an answer; `None` if it is not one to an owner's request.
pub(super) fn owners_view(answer: registry::Answer<'_>) -> Option<Answer<'_>> {
    Some(match answer {
        registry::Answer::Done | registry::Answer::At { .. } => Answer::Done,
        registry::Answer::Resolved(r) => {
            let record = crate::crypto::Record::decode(&r.record.0).ok()?;
            Answer::Agent(AgentInfo {
                address: r.address,
                identity: record.identity,
                hostname: r.hostname,
                tags: r.tags,
            })
        }
        registry::Answer::Page { entries, cursor } => {
            Answer::Page(Page { entries, taken: 0, cursor })
        }
        registry::Answer::Reputation(reputation) => Answer::Reputation(reputation),
        _ => return None,
    })
}
