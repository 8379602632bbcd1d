//! Which tasks `task serve` accepts, so that nobody's tasks keep those of others out.

use crate::api::Task;
use std::collections::BTreeMap;

/// Whether all files of a task are here.
pub(super) fn has_files(task: &Task) -> bool {
    task.files.iter().all(|file| file.path.is_some())
}

/// The tasks that were accepted and wait.
pub(super) struct Queue<'t> {
    most: usize,
    /// Those that wait for a place alone.
    ready: usize,
    /// Those that wait for files, by their submitters. They are not counted with the others:
    /// files may never come.
    of: BTreeMap<&'t str, usize>,
}

impl<'t> Queue<'t> {
    pub(super) fn of(tasks: &'t [Task], most: usize) -> Queue<'t> {
        let mut queue = Queue { most, ready: 0, of: BTreeMap::new() };
        for task in tasks.iter().filter(|task| task.state == "accepted") {
            *queue.waiting(task) += 1;
        }
        queue
    }

    fn waiting(&mut self, task: &'t Task) -> &mut usize {
        match has_files(task) {
            true => &mut self.ready,
            false => self.of.entry(&task.peer).or_default(),
        }
    }

    /// Whether there is room for one more; then it is taken.
    pub(super) fn take(&mut self, task: &'t Task) -> bool {
        let share = if has_files(task) { self.most } else { self.most.div_ceil(4) };
        let waiting = self.waiting(task);
        let is_free = *waiting < share;
        *waiting += usize::from(is_free);
        is_free
    }
}
