//! Who signs what a board states.

use super::task::ActError;
use crate::crypto::task::{Claim, Head, NotSigned, Receipt, Statement, StatementFields, Times};
use crate::crypto::{Identity, IdentityKey};
use alloc::boxed::Box;
use core::fmt;

/// Signs our part of tasks: a running agent's handle does, so that nobody else needs a copy of
/// its identity. The key must stay the same for as long as a board asks it.
pub trait Signer {
    /// Signs a step of ours.
    fn sign_statement(&self, fields: StatementFields) -> Result<Statement, NotSigned>;

    /// Signs the worker's half of the receipt of the finished task that ends in `head`.
    fn sign_claim(&self, head: &Head, times: Times) -> Result<Claim, NotSigned>;

    /// Signs the receipt of the task that ends in `head`, if the worker's half is of it.
    fn sign_receipt(&self, head: &Head, claim: &Claim, times: Times) -> Result<Receipt, NotSigned>;
}

impl<S: Signer + ?Sized> Signer for Box<S> {
    fn sign_statement(&self, fields: StatementFields) -> Result<Statement, NotSigned> {
        (**self).sign_statement(fields)
    }

    fn sign_claim(&self, head: &Head, times: Times) -> Result<Claim, NotSigned> {
        (**self).sign_claim(head, times)
    }

    fn sign_receipt(&self, head: &Head, claim: &Claim, times: Times) -> Result<Receipt, NotSigned> {
        (**self).sign_receipt(head, claim, times)
    }
}

/// An identity that signs by itself, for whoever has no running agent to ask.
pub struct Keys {
    /// Who signs.
    pub identity: Identity,
    /// The registry for which it counts.
    pub registry: IdentityKey,
}

/// Without the secret.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("key", &self.identity.public()).finish_non_exhaustive()
    }
}

impl Signer for Keys {
    fn sign_statement(&self, fields: StatementFields) -> Result<Statement, NotSigned> {
        Statement::sign(&self.identity, &self.registry, fields)
    }

    fn sign_claim(&self, head: &Head, times: Times) -> Result<Claim, NotSigned> {
        Claim::sign(&self.identity, &self.registry, head, times)
    }

    fn sign_receipt(&self, head: &Head, claim: &Claim, times: Times) -> Result<Receipt, NotSigned> {
        Receipt::sign(&self.identity, &self.registry, head, claim, times)
    }
}

/// Our side: who we are, for which registry, and who signs.
pub(super) struct Own<S> {
    pub(super) signer: S,
    pub(super) key: IdentityKey,
    pub(super) registry: IdentityKey,
}

impl<S: Signer> Own<S> {
    pub(super) fn sign(&self, fields: StatementFields) -> Result<Statement, ActError> {
        self.signer.sign_statement(fields).map_err(|error| match error {
            NotSigned::Itself => ActError::Itself,
            error => ActError::NotSigned(error),
        })
    }

    /// The worker's half, if the task has ended so that there is one.
    pub(super) fn claim(&self, head: &Head, times: Times) -> Result<Option<Claim>, ActError> {
        match self.signer.sign_claim(head, times) {
            Ok(claim) => Ok(Some(claim)),
            Err(NotSigned::Unfinished | NotSigned::WrongSide) => Ok(None),
            Err(error) => Err(ActError::NotSigned(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::task::{State, Step};
    use crate::service::tasks::tests::{ID, REGISTRY, at, content, identity, party, text_of};
    use crate::service::tasks::{Board, BoardLimits, Tell, Verdict};
    use std::cell::Cell;
    use std::vec::Vec;

    /// Signs nothing while it is off.
    struct Switch(Keys, Cell<bool>);

    impl Switch {
        fn check(&self) -> Result<(), NotSigned> {
            if self.1.get() { Ok(()) } else { Err(NotSigned::Unavailable) }
        }
    }

    impl Signer for &Switch {
        fn sign_statement(&self, fields: StatementFields) -> Result<Statement, NotSigned> {
            self.check()?;
            self.0.sign_statement(fields)
        }

        fn sign_claim(&self, head: &Head, times: Times) -> Result<Claim, NotSigned> {
            // Off between the statement and the claim.
            self.1.set(self.1.get() && head.state() != State::Failed);
            self.check()?;
            self.0.sign_claim(head, times)
        }

        fn sign_receipt(
            &self,
            head: &Head,
            claim: &Claim,
            times: Times,
        ) -> Result<Receipt, NotSigned> {
            self.check()?;
            self.0.sign_receipt(head, claim, times)
        }
    }

    #[test]
    fn what_cannot_be_signed_changes_nothing_and_is_tried_again() {
        let keys = |n| Keys { identity: identity(n), registry: REGISTRY };
        let switches = [Switch(keys(16), true.into()), Switch(keys(17), true.into())];
        let new = |n: usize| {
            let key = switches[n].0.identity.public();
            Board::new(&switches[n], key, REGISTRY, BoardLimits::default())
        };
        let (mut submitter, mut worker) = (new(0), new(1));
        switches[0].1.set(false);
        let unsigned = Err(ActError::NotSigned(NotSigned::Unavailable));
        assert_eq!(submitter.submit(ID, party(17), &content("do it"), at(0)), unsigned);
        assert_eq!((submitter.tasks().count(), submitter.has_changed()), (0, false));
        switches[0].1.set(true);
        submitter.submit(ID, party(17), &content("do it"), at(0)).unwrap();
        let first = *submitter.get(ID).unwrap().first();
        let body = content("do it");
        assert_eq!(worker.judge(party(16), &first, &body, || Ok(()), at(1)), Verdict::Applied);
        // A time limit: tried every ten seconds, and not all the time.
        switches[1].1.set(false);
        worker.handle_time(at(61));
        assert_eq!(worker.deadline(), Some(at(71)));
        worker.handle_time(at(70));
        assert_eq!(worker.get(ID).unwrap().state(), State::New);
        switches[1].1.set(true);
        // Work that fails while the claim cannot be signed has not failed.
        worker.act(ID, Step::Accept, &[], at(70)).unwrap();
        let before = worker.get(ID).unwrap().clone();
        assert_eq!(worker.act(ID, Step::Fail, &content("no"), at(70)), unsigned);
        assert_eq!(*worker.get(ID).unwrap(), before);
        switches[1].1.set(true);
        worker.act(ID, Step::Start, &[], at(70)).unwrap();
        worker.act(ID, Step::Complete, &content("done"), at(70)).unwrap();
        // A receipt that cannot be signed now is asked for again.
        let claim = worker.get(ID).unwrap().claim.unwrap();
        for (_, tell) in worker.untold(party(16).key).collect::<Vec<_>>() {
            let Tell::Statement { statement, .. } = tell else { continue };
            let body = content(text_of(statement.fields.step));
            let told = submitter.judge(party(17), statement, &body, || Ok(()), at(71));
            assert_eq!(told, Verdict::Applied);
        }
        let ids: Vec<_> = worker.get(ID).unwrap().untold.iter().map(|u| u.statement).collect();
        for statement in &ids[1..] {
            let body = content(text_of(statement.fields.step));
            submitter.judge(party(17), statement, &body, || Ok(()), at(71));
        }
        assert_eq!(submitter.get(ID).unwrap().state(), State::Succeeded);
        switches[0].1.set(false);
        assert_eq!(submitter.judge_claim(party(17), &claim, at(72)), Err(Verdict::Failed));
        assert!(submitter.get(ID).unwrap().receipt().is_none() && Verdict::Failed.is_passing());
        switches[0].1.set(true);
        assert!(submitter.judge_claim(party(17), &claim, at(73)).is_ok());
    }
}
