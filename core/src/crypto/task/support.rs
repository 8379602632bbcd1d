//! Finished tasks, for the tests of other modules.

use super::*;
use crate::crypto::{Identity, IdentityKey};
use crate::time::UnixTime;

/// The receipt of a task that `worker` has done for `submitter`, with these times of both.
pub(crate) fn receipt(
    submitter: &Identity,
    worker: &Identity,
    registry: &IdentityKey,
    task: TaskId,
    (worked, seen): (Times, Times),
) -> Receipt {
    let (s, w) = (submitter.public(), worker.public());
    let first = statement::submission(task, s, w, UnixTime::default(), b"work");
    let first = Statement::sign(submitter, registry, first).unwrap();
    let mut head = Head::begin(&first, registry).unwrap();
    for step in [Step::Accept, Step::Start, Step::Complete] {
        let next = head.next(step, Side::Worker, UnixTime::default(), b"").unwrap();
        head.follow(&Statement::sign(worker, registry, next).unwrap(), registry).unwrap();
    }
    let claim = Claim::sign(worker, registry, &head, worked).unwrap();
    Receipt::sign(submitter, registry, &head, &claim, seen).unwrap()
}

/// Times of work that took `cpu_s` seconds, without waiting, and ended at `end`.
pub(crate) fn worked(end: UnixTime, cpu_s: u64) -> Times {
    let end = end.as_millis();
    let start = end - 1000 * cpu_s;
    Times::from_millis([start, start, start, end])
}
