//! One signed step of a task, and the chain of them (`wire.md` 12).

use super::state::{NotAllowed, Side, State, Step};
use super::{NotSigned, TaskId};
use crate::crypto::codec::{DecodeError, Reader, Writer, serde_as_bytes};
use crate::crypto::identity::{BadSignature, Identity, IdentityKey};
use crate::crypto::{kdf, purpose};
use crate::time::UnixTime;

/// Bytes of a [`Statement`] as sent.
pub const STATEMENT: usize = SIGNED + 64;
const SIGNED: usize = 16 + 32 + 32 + 4 + 1 + 8 + 32 + 32;

/// What is said, before it is signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatementFields {
    /// Which task.
    pub task: TaskId,
    /// Who asked for the work.
    pub submitter: IdentityKey,
    /// Who does it.
    pub worker: IdentityKey,
    /// Place in the chain, from 0.
    pub seq: u32,
    /// What it does, and so who signs it.
    pub step: Step,
    /// When, by the signer's clock.
    pub time: UnixTime,
    /// SHA-256 of what it is about, as the service sends it: description, reason, text or
    /// result with the hashes of its files; of no bytes where there is nothing.
    pub body: [u8; 32],
    /// SHA-256 of the statement before, signature included; zero for the first.
    pub prev: [u8; 32],
}

impl StatementFields {
    /// The identity that has to sign it.
    pub const fn signer(&self) -> IdentityKey {
        match self.step.side() {
            Side::Submitter => self.submitter,
            Side::Worker => self.worker,
        }
    }

    /// The first statement is a submission and stands on nothing; no other one is or does. And
    /// there are two sides.
    fn is_sound(&self) -> bool {
        let first = matches!(self.step, Step::Submit);
        (self.seq == 0) == first
            && (!first || self.prev == [0; 32])
            && self.submitter != self.worker
    }
}

/// A signed statement. Decoding checks the form only; [`Head`] checks the rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statement {
    /// What is said.
    pub fields: StatementFields,
    sig: [u8; 64],
}

impl Statement {
    /// Signs `fields` for use with the registry of this key, as the side whose step it is.
    pub fn sign(
        identity: &Identity,
        registry: &IdentityKey,
        fields: StatementFields,
    ) -> Result<Self, NotSigned> {
        if fields.submitter == fields.worker {
            return Err(NotSigned::Itself);
        }
        if fields.signer() != identity.public() {
            return Err(NotSigned::WrongSide);
        }
        let mut statement = Statement { fields, sig: [0; 64] };
        let text = &statement.encode()[..SIGNED];
        statement.sig = identity.sign(purpose::TASK, &[&registry.0, text]);
        Ok(statement)
    }

    /// Checks the signature, by the side whose step it is, for the registry of this key.
    pub fn verify(&self, registry: &IdentityKey) -> Result<(), BadSignature> {
        let text = &self.encode()[..SIGNED];
        self.fields.signer().verify(purpose::TASK, &[&registry.0, text], &self.sig)
    }

    /// SHA-256 over the bytes as sent, signature included: `prev` of the next one.
    pub fn hash(&self) -> [u8; 32] {
        kdf::sha256(&[&self.encode()])
    }

    /// Whether `body` is what the statement is about.
    pub fn is_about(&self, body: &[u8]) -> bool {
        kdf::sha256(&[body]) == self.fields.body
    }

    /// The 221 bytes.
    pub fn encode(&self) -> [u8; STATEMENT] {
        let f = &self.fields;
        let mut out = [0; STATEMENT];
        Writer::new(&mut out)
            .put(&f.task.0)
            .put(&f.submitter.0)
            .put(&f.worker.0)
            .put(&f.seq.to_be_bytes())
            .put(&[f.step as u8])
            .put(&f.time.as_millis().to_be_bytes())
            .put(&f.body)
            .put(&f.prev)
            .put(&self.sig);
        out
    }

    /// Reads exactly 221 bytes. The step must be one that is known; submitter and worker
    /// differ; number 0, and it alone, is a submission, on top of nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let fields = StatementFields {
            task: TaskId(r.array()?),
            submitter: IdentityKey(r.array()?),
            worker: IdentityKey(r.array()?),
            seq: r.u32()?,
            step: Step::from_u8(r.u8()?).ok_or(DecodeError::Field)?,
            time: UnixTime::from_millis(r.u64()?),
            body: r.array()?,
            prev: r.array()?,
        };
        let sig = r.array()?;
        r.finish()?;
        if fields.is_sound() { Ok(Statement { fields, sig }) } else { Err(DecodeError::Field) }
    }
}

serde_as_bytes!(Statement);

/// Why a statement does not continue a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// Not signed by the side whose step it is.
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// About another task, or between others.
    #[error("a statement about another task")]
    OtherTask,
    /// Not the next one: `expected` is. A lower number that is not in the chain is history
    /// that has been overtaken.
    #[error("statement {expected} comes next")]
    Number {
        /// The number of the next one.
        expected: u32,
    },
    /// On top of another statement than ours: the two sides have different histories.
    #[error("a statement on top of another history")]
    Fork,
    /// The task's state does not allow it.
    #[error(transparent)]
    Step(#[from] NotAllowed),
}

/// The end of a task's chain: all that a side has to keep to check what comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The last statement.
    last: Statement,
    hash: [u8; 32],
}

impl Head {
    /// The chain that begins with `first`, a submission.
    pub fn begin(first: &Statement, registry: &IdentityKey) -> Result<Self, Broken> {
        first.fields.step.take(None, first.fields.step.side())?;
        first.verify(registry)?;
        Ok(Head::restore(first))
    }

    /// The chain whose last statement is `last`, which was checked before it was stored.
    pub fn restore(last: &Statement) -> Self {
        Head { last: *last, hash: last.hash() }
    }

    /// Appends `next` if it continues the chain; gives the state after it. The statement that
    /// is the head already is taken again, without an effect, so that it may be repeated.
    pub fn follow(&mut self, next: &Statement, registry: &IdentityKey) -> Result<State, Broken> {
        let (last, f) = (&self.last.fields, &next.fields);
        if (f.task, f.submitter, f.worker) != (last.task, last.submitter, last.worker) {
            return Err(Broken::OtherTask);
        }
        if *next == self.last {
            return Ok(self.state());
        }
        let expected = last.seq.saturating_add(1);
        if f.seq != expected || last.seq == u32::MAX {
            return Err(Broken::Number { expected });
        }
        if f.prev != self.hash {
            return Err(Broken::Fork);
        }
        let state = f.step.take(Some(self.state()), f.step.side())?;
        next.verify(registry)?;
        *self = Head::restore(next);
        Ok(state)
    }

    /// What is to be signed for `step` to come next. Refused if the state does not allow it or
    /// it is not `by`'s.
    pub fn next(
        &self,
        step: Step,
        by: Side,
        time: UnixTime,
        body: &[u8],
    ) -> Result<StatementFields, NotAllowed> {
        step.take(Some(self.state()), by)?;
        let last = self.last.fields;
        let (seq, prev) = (last.seq.saturating_add(1), self.hash);
        Ok(StatementFields { seq, step, time, body: kdf::sha256(&[body]), prev, ..last })
    }

    /// Where the task stands.
    pub const fn state(&self) -> State {
        self.last.fields.step.to()
    }

    /// The last statement.
    pub const fn last(&self) -> &Statement {
        &self.last
    }

    /// Its hash.
    pub const fn hash(&self) -> [u8; 32] {
        self.hash
    }
}

/// The first statement of a task, to be signed by the submitter.
pub fn submission(
    task: TaskId,
    submitter: IdentityKey,
    worker: IdentityKey,
    time: UnixTime,
    body: &[u8],
) -> StatementFields {
    let body = kdf::sha256(&[body]);
    StatementFields {
        task,
        submitter,
        worker,
        seq: 0,
        step: Step::Submit,
        time,
        body,
        prev: [0; 32],
    }
}

#[cfg(test)]
pub(crate) mod tests;
