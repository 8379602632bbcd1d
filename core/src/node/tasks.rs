//! What the owner has signed of its tasks: steps and halves of receipts, never other bytes.

use super::{Node, SignError};
use crate::crypto::task::{Claim, Head, Receipt, Statement, StatementFields, Times};

impl Node<'_> {
    /// Signs our step of a task (`wire.md` 12.1). Refused if it is the other side's.
    pub fn sign_statement(&self, fields: StatementFields) -> Result<Statement, SignError> {
        self.directory.sign_statement(fields)
    }

    /// Signs the worker's half of the receipt of a task that we have ended.
    pub fn sign_claim(&self, head: &Head, times: Times) -> Result<Claim, SignError> {
        self.directory.sign_claim(head, times)
    }

    /// Signs the receipt of a task that another has ended for us, if the worker's half is its
    /// and of this task.
    pub fn sign_receipt(
        &self,
        head: &Head,
        claim: &Claim,
        times: Times,
    ) -> Result<Receipt, SignError> {
        self.directory.sign_receipt(head, claim, times)
    }
}
