//! A task in the form in which its owner stores it.

use super::Verdict;
use super::task::{Party, Task, Untold};
use crate::addr::Address;
use crate::crypto::IdentityKey;
use crate::crypto::codec::{DecodeError, Reader};
use crate::crypto::task::{
    CLAIM, Claim, Head, RECEIPT, Receipt, STATEMENT, Side, Statement, Times,
};
use crate::time::UnixTime;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// The layout; a newer one is refused.
const VERSION: u8 = 1;

/// Bytes that are no stored task of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a stored task")]
pub struct BadRecord;

impl From<DecodeError> for BadRecord {
    fn from(_: DecodeError) -> Self {
        BadRecord
    }
}

/// Whether there is one, and it.
fn put_option(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    out.push(u8::from(bytes.is_some()));
    out.extend_from_slice(bytes.unwrap_or_default());
}

fn option<'a>(r: &mut Reader<'a>, len: usize) -> Result<Option<&'a [u8]>, BadRecord> {
    match r.u8()? {
        0 => Ok(None),
        1 => Ok(Some(r.slice(len)?)),
        _ => Err(BadRecord),
    }
}

fn statement(r: &mut Reader<'_>) -> Result<Statement, BadRecord> {
    Ok(Statement::decode(r.slice(STATEMENT)?)?)
}

impl Task {
    pub(super) fn to_record(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 * STATEMENT + CLAIM + RECEIPT + 256);
        out.extend_from_slice(&[VERSION, u8::from(self.side == Side::Worker), self.mark]);
        out.extend_from_slice(&self.peer.address.to_bytes());
        out.extend_from_slice(&self.peer.key.0);
        out.extend_from_slice(&self.first.encode());
        out.extend_from_slice(&self.head.last().encode());
        for time in self.times.millis() {
            out.extend_from_slice(&time.to_be_bytes());
        }
        out.extend_from_slice(&self.changed.as_millis().to_be_bytes());
        put_option(
            &mut out,
            self.left_head.map(|at| at.as_millis().to_be_bytes()).as_ref().map(|b| &b[..]),
        );
        put_option(&mut out, self.refused.map(|verdict| [verdict.code()]).as_ref().map(|b| &b[..]));
        put_option(&mut out, self.cancel.map(|cancel| cancel.encode()).as_ref().map(|b| &b[..]));
        put_option(&mut out, self.claim.map(|claim| claim.encode()).as_ref().map(|b| &b[..]));
        put_option(&mut out, self.receipt.map(|receipt| receipt.encode()).as_ref().map(|b| &b[..]));
        out.push(u8::from(self.is_counted));
        // All of these lengths fit by their bounds.
        out.extend_from_slice(&(self.progress.len() as u16).to_be_bytes());
        out.extend_from_slice(self.progress.as_bytes());
        out.push(self.untold.len() as u8);
        for untold in &self.untold {
            out.extend_from_slice(&untold.statement.encode());
            out.extend_from_slice(&(untold.content.len() as u16).to_be_bytes());
            out.extend_from_slice(&untold.content);
        }
        out
    }

    pub(super) fn from_record(bytes: &[u8]) -> Result<Task, BadRecord> {
        let mut r = Reader::new(bytes);
        let [VERSION, side @ (0 | 1), mark] = r.array()? else { return Err(BadRecord) };
        let side = if side == 1 { Side::Worker } else { Side::Submitter };
        let address = Address::from_bytes(r.array()?);
        let peer = Party { address, key: IdentityKey(r.array()?) };
        let (first, last) = (statement(&mut r)?, statement(&mut r)?);
        let times = Times::from_millis([r.u64()?, r.u64()?, r.u64()?, r.u64()?]);
        let changed = UnixTime::from_millis(r.u64()?);
        let mut task = Task::new(side, peer, first, changed);
        (task.head, task.times, task.mark) = (Head::restore(&last), times, mark);
        let time =
            |b: &[u8]| b.first_chunk().map(|b| UnixTime::from_millis(u64::from_be_bytes(*b)));
        task.left_head = option(&mut r, 8)?.and_then(time);
        task.refused = option(&mut r, 1)?.map(|code| Verdict::from_code(code[0]));
        task.cancel = option(&mut r, STATEMENT)?.map(Statement::decode).transpose()?;
        task.claim = option(&mut r, CLAIM)?.map(Claim::decode).transpose()?;
        task.receipt = option(&mut r, RECEIPT)?.map(Receipt::decode).transpose()?;
        task.is_counted = r.u8()? != 0;
        let progress = r.u16()?;
        let progress = r.slice(usize::from(progress))?;
        task.progress = core::str::from_utf8(progress).map_err(|_| BadRecord)?.into();
        let count = r.u8()?;
        let mut untold = VecDeque::new();
        for _ in 0..count {
            let statement = statement(&mut r)?;
            let len = r.u16()?;
            untold.push_back(Untold { statement, content: Box::from(r.slice(usize::from(len))?) });
        }
        r.finish()?;
        (task.untold, task.is_offered) = (untold, true);
        Ok(task)
    }
}
