//! Group commit: what comes while the disk is busy is made durable together, by one sync.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Jobs that are done together, at most.
const JOBS: usize = 256;
/// Bytes of jobs that are done together; a larger one is done alone.
const BYTES: usize = 4 << 20;

struct Job<J, O> {
    job: J,
    bytes: usize,
    answer: oneshot::Sender<O>,
}

struct Queue<J, O> {
    waiting: VecDeque<Job<J, O>>,
    /// Somebody is doing them, and looks again before it stops.
    is_running: bool,
}

/// Jobs that wait to be done, in order.
pub(super) struct Group<J, O>(Mutex<Queue<J, O>>);

impl<J, O> Group<J, O> {
    pub(super) fn new() -> Self {
        Group(Mutex::new(Queue { waiting: VecDeque::new(), is_running: false }))
    }

    fn queue(&self) -> MutexGuard<'_, Queue<J, O>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job. Where the second value is true the caller sees to it that [`run`](Self::run)
    /// is called, on a thread that may block.
    #[must_use]
    pub(super) fn add(&self, job: J, bytes: usize) -> (oneshot::Receiver<O>, bool) {
        let (answer, answered) = oneshot::channel();
        let mut queue = self.queue();
        queue.waiting.push_back(Job { job, bytes, answer });
        let was_running = std::mem::replace(&mut queue.is_running, true);
        (answered, !was_running)
    }

    /// Jobs that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.queue().waiting.len()
    }

    /// Does jobs until none waits. `work` gives an outcome for each, in order.
    pub(super) fn run(&self, work: impl Fn(Vec<J>) -> Vec<O>) {
        let stopped = Stopped(self);
        loop {
            let (jobs, answers): (Vec<_>, Vec<_>) = self.take().into_iter().unzip();
            if jobs.is_empty() {
                std::mem::forget(stopped);
                return;
            }
            for (answer, outcome) in answers.into_iter().zip(work(jobs)) {
                // Who does not wait any more need not know.
                let _ = answer.send(outcome);
            }
        }
    }

    fn take(&self) -> Vec<(J, oneshot::Sender<O>)> {
        let mut queue = self.queue();
        let (mut taken, mut all) = (Vec::new(), 0);
        while let Some(next) = queue.waiting.front() {
            all += next.bytes;
            if taken.len() >= JOBS || (all > BYTES && !taken.is_empty()) {
                break;
            }
            taken.extend(queue.waiting.pop_front().map(|job| (job.job, job.answer)));
        }
        queue.is_running = !taken.is_empty();
        taken
    }
}

/// Dropped only if `work` panics: nobody waits for ever.
struct Stopped<'g, J, O>(&'g Group<J, O>);

impl<J, O> Drop for Stopped<'_, J, O> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.waiting.clear();
        queue.is_running = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_done_together_in_order_and_within_bounds() {
        let group = Group::new();
        let (_, is_first) = group.add(0, 1);
        assert!(is_first);
        let mut answers: Vec<_> = (1..=JOBS).map(|n| group.add(n, 1)).collect();
        assert!(answers.iter().all(|(_, is_first)| !is_first));
        answers.push(group.add(JOBS + 1, BYTES));
        answers.push(group.add(JOBS + 2, 2 * BYTES));
        let done = Mutex::new(Vec::new());
        group.run(|jobs| {
            done.lock().unwrap().push(jobs.len());
            jobs.iter().map(|n| n * 10).collect()
        });
        assert_eq!(*done.lock().unwrap(), [JOBS, 1, 1, 1]);
        for (n, (mut answer, _)) in answers.into_iter().enumerate() {
            assert_eq!(answer.try_recv(), Ok((n + 1) * 10));
        }
        assert!(group.add(0, 1).1, "it has stopped");
    }

    #[test]
    fn a_panic_leaves_nobody_waiting() {
        let group: Group<u8, u8> = Group::new();
        let (first, second) = (group.add(1, 1).0, group.add(2, BYTES).0);
        let run = std::panic::AssertUnwindSafe(|| group.run(|_| panic!("as a test")));
        assert!(std::panic::catch_unwind(run).is_err());
        assert!(first.blocking_recv().is_err() && second.blocking_recv().is_err());
        let (answer, is_first) = group.add(3, 1);
        assert!(is_first);
        group.run(|jobs| jobs);
        assert_eq!(answer.blocking_recv(), Ok(3));
    }
}
