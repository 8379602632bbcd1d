//! The receipt of a finished task, signed by both sides (`wire.md` 12).

#[cfg(feature = "alloc")]
use super::state::Step;
use super::statement::Head;
use super::{NotSigned, State, TaskId};
use crate::crypto::codec::{DecodeError, Reader, Writer, serde_as_bytes};
use crate::crypto::identity::{BadSignature, Identity, IdentityKey};
use crate::crypto::purpose;
use crate::time::UnixTime;

/// Bytes of a [`Claim`] as sent.
pub const CLAIM: usize = CLAIMED + 64;
const CLAIMED: usize = 16 + 32 + 32 + 1 + 32 + TIMES;
/// Bytes of a [`Receipt`] as sent.
pub const RECEIPT: usize = COUNTERSIGNED + 64;
const COUNTERSIGNED: usize = CLAIM + TIMES;
const TIMES: usize = 32;

/// How the work ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Outcome {
    /// With a result.
    Succeeded = 1,
    /// The worker gave up.
    Failed = 2,
}

impl Outcome {
    /// That of a task in this state; `None` for a state that yields no receipt.
    pub const fn of(state: State) -> Option<Self> {
        match state {
            State::Succeeded => Some(Outcome::Succeeded),
            State::Failed => Some(Outcome::Failed),
            _ => None,
        }
    }
}

/// When a task went from state to state, as one side saw it by its own clock. Zero where it
/// never did: a task that failed before it was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// The worker: when it got the task. The submitter: when it knew that the worker had it.
    pub arrived: UnixTime,
    /// When it was accepted, or when the submitter learned of it.
    pub accepted: UnixTime,
    /// When it was started, or when the submitter learned of it.
    pub started: UnixTime,
    /// When it was finished, or when the submitter learned of it.
    pub finished: UnixTime,
}

impl Times {
    /// Arrived, accepted, started and finished, in milliseconds since the epoch.
    pub const fn from_millis([arrived, accepted, started, finished]: [u64; 4]) -> Self {
        Times {
            arrived: UnixTime::from_millis(arrived),
            accepted: UnixTime::from_millis(accepted),
            started: UnixTime::from_millis(started),
            finished: UnixTime::from_millis(finished),
        }
    }

    /// The four in their order, in milliseconds.
    pub const fn millis(&self) -> [u64; 4] {
        [
            self.arrived.as_millis(),
            self.accepted.as_millis(),
            self.started.as_millis(),
            self.finished.as_millis(),
        ]
    }

    /// Notes that our side has a step since `now`.
    #[cfg(feature = "alloc")]
    pub(crate) fn note(&mut self, step: Step, now: UnixTime) {
        match step {
            Step::Submit | Step::Progress => {}
            Step::Accept => self.accepted = now,
            Step::Start => self.started = now,
            _ => self.finished = now,
        }
    }

    fn encode(&self) -> [u8; TIMES] {
        let mut out = [0; TIMES];
        let mut writer = Writer::new(&mut out);
        for time in self.millis() {
            writer.put(&time.to_be_bytes());
        }
        out
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Times::from_millis([r.u64()?, r.u64()?, r.u64()?, r.u64()?]))
    }
}

/// The worker's half of a receipt, which it signs with the statement that ends the work.
/// Decoding checks the form only; call [`Claim::verify`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Which task.
    pub task: TaskId,
    /// Who asked for the work.
    pub submitter: IdentityKey,
    /// Who did it.
    pub worker: IdentityKey,
    /// How it ended.
    pub outcome: Outcome,
    /// SHA-256 of the statement that ended it, and so of the whole chain.
    pub last: [u8; 32],
    /// By the worker's clock.
    pub times: Times,
    sig: [u8; 64],
}

impl Claim {
    /// Signs the worker's half for the finished task whose chain ends in `head`, for use with
    /// the registry of this key.
    pub fn sign(
        worker: &Identity,
        registry: &IdentityKey,
        head: &Head,
        times: Times,
    ) -> Result<Self, NotSigned> {
        let of = head.last().fields;
        if worker.public() != of.worker {
            return Err(NotSigned::WrongSide);
        }
        let outcome = Outcome::of(head.state()).ok_or(NotSigned::Unfinished)?;
        let mut claim = Claim {
            task: of.task,
            submitter: of.submitter,
            worker: of.worker,
            outcome,
            last: head.hash(),
            times,
            sig: [0; 64],
        };
        let text = &claim.encode()[..CLAIMED];
        claim.sig = worker.sign(purpose::CLAIM, &[&registry.0, text]);
        Ok(claim)
    }

    /// Checks the worker's signature for the registry of this key.
    pub fn verify(&self, registry: &IdentityKey) -> Result<(), BadSignature> {
        let text = &self.encode()[..CLAIMED];
        self.worker.verify(purpose::CLAIM, &[&registry.0, text], &self.sig)
    }

    /// Whether it is about the chain that ends in `head`: the same task and sides, its last
    /// statement, and the outcome that this says.
    pub fn is_of(&self, head: &Head) -> bool {
        let of = &head.last().fields;
        (self.task, self.submitter, self.worker) == (of.task, of.submitter, of.worker)
            && self.last == head.hash()
            && Outcome::of(head.state()) == Some(self.outcome)
    }

    /// The 209 bytes.
    pub fn encode(&self) -> [u8; CLAIM] {
        let mut out = [0; CLAIM];
        Writer::new(&mut out)
            .put(&self.task.0)
            .put(&self.submitter.0)
            .put(&self.worker.0)
            .put(&[self.outcome as u8])
            .put(&self.last)
            .put(&self.times.encode())
            .put(&self.sig);
        out
    }

    /// Reads exactly 209 bytes. The outcome must be one that is known; submitter and worker
    /// differ.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let claim = Claim {
            task: TaskId(r.array()?),
            submitter: IdentityKey(r.array()?),
            worker: IdentityKey(r.array()?),
            outcome: match r.u8()? {
                1 => Outcome::Succeeded,
                2 => Outcome::Failed,
                _ => return Err(DecodeError::Field),
            },
            last: r.array()?,
            times: Times::read(&mut r)?,
            sig: r.array()?,
        };
        r.finish()?;
        if claim.submitter == claim.worker { Err(DecodeError::Field) } else { Ok(claim) }
    }
}

serde_as_bytes!(Claim);

/// A claim and the submitter's own times, signed by the submitter: what moves reputation.
/// Decoding checks the form only; call [`Receipt::verify`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// The worker's half.
    pub claim: Claim,
    /// By the submitter's clock.
    pub times: Times,
    sig: [u8; 64],
}

impl Receipt {
    /// The submitter's signature under the worker's half and its own times. That half must be
    /// the worker's and of the task whose chain, as the submitter has it, ends in `head`.
    pub fn sign(
        submitter: &Identity,
        registry: &IdentityKey,
        head: &Head,
        claim: &Claim,
        times: Times,
    ) -> Result<Self, NotSigned> {
        if submitter.public() != claim.submitter {
            return Err(NotSigned::WrongSide);
        }
        if !claim.is_of(head) || claim.verify(registry).is_err() {
            return Err(NotSigned::BadClaim);
        }
        let mut receipt = Receipt { claim: *claim, times, sig: [0; 64] };
        let text = &receipt.encode()[..COUNTERSIGNED];
        receipt.sig = submitter.sign(purpose::RECEIPT, &[&registry.0, text]);
        Ok(receipt)
    }

    /// Checks both signatures for the registry of this key.
    pub fn verify(&self, registry: &IdentityKey) -> Result<(), BadSignature> {
        self.claim.verify(registry)?;
        let text = &self.encode()[..COUNTERSIGNED];
        self.claim.submitter.verify(purpose::RECEIPT, &[&registry.0, text], &self.sig)
    }

    /// When the work ended, by the clock that says the earlier time.
    pub fn finished(&self) -> UnixTime {
        self.claim.times.finished.min(self.times.finished)
    }

    /// The 305 bytes.
    pub fn encode(&self) -> [u8; RECEIPT] {
        let mut out = [0; RECEIPT];
        Writer::new(&mut out).put(&self.claim.encode()).put(&self.times.encode()).put(&self.sig);
        out
    }

    /// Reads exactly 305 bytes; the claim as [`Claim::decode`] does.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let claim = Claim::decode(r.slice(CLAIM)?)?;
        let receipt = Receipt { claim, times: Times::read(&mut r)?, sig: r.array()? };
        r.finish()?;
        Ok(receipt)
    }
}

serde_as_bytes!(Receipt);

#[cfg(test)]
pub(crate) mod tests;
