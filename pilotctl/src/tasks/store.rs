//! `tasks.redb`: all tasks of an agent and what they are about. A commit is on disk when it
//! returns.

use crate::daemon::state;
use crate::error::Failure;
use pilot_core::crypto::task::TaskId;
use pilot_core::service::tasks::About;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};
use std::path::{Path, PathBuf};

const TASKS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("tasks");
/// By task and what it is: a description, or what its end is about.
const CONTENTS: TableDefinition<'_, &[u8; 17], &[u8]> = TableDefinition::new("contents");

fn key(id: TaskId, about: About) -> [u8; 17] {
    let mut key = [about as u8; 17];
    key[..16].copy_from_slice(&id.0);
    key
}

/// Changes of one commit.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// `None` deletes a task with its contents.
    pub(crate) tasks: Vec<(TaskId, Option<Vec<u8>>)>,
    pub(crate) contents: Vec<(TaskId, About, Vec<u8>)>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.contents.is_empty()
    }
}

/// The store.
pub(crate) struct Store {
    /// Absent after a failure: redb refuses all further work until the file is opened again.
    database: Option<Database>,
    path: PathBuf,
}

impl Store {
    /// Opens the store, creates it at first.
    pub(crate) fn open(path: &Path) -> Result<Store, Failure> {
        Ok(Store { database: Some(state::open(path)?), path: path.to_owned() })
    }

    /// As after a failure.
    #[cfg(test)]
    pub(super) fn close(&mut self) {
        self.database = None;
    }

    fn database(&mut self) -> Result<&Database, Failure> {
        if self.database.is_none() {
            self.database = Some(state::open(&self.path)?);
            tracing::info!("the store of tasks is open again");
        }
        match &self.database {
            Some(database) => Ok(database),
            None => unreachable!("it was opened just now"),
        }
    }

    fn read<T>(
        &mut self,
        run: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, Failure> {
        let result = run(self.database()?);
        result.map_err(|e| state::broken(&self.path, "read", e))
    }

    /// Every task.
    pub(crate) fn load(&mut self) -> Result<Vec<Vec<u8>>, Failure> {
        self.read(|database| {
            let tasks = match database.begin_read()?.open_table(TASKS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                tasks => tasks?,
            };
            tasks.iter()?.map(|task| Ok(task?.1.value().to_vec())).collect()
        })
    }

    /// One task.
    pub(crate) fn task(&mut self, id: TaskId) -> Result<Option<Vec<u8>>, Failure> {
        self.read(|database| match database.begin_read()?.open_table(TASKS) {
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            tasks => Ok(tasks?.get(&id.0)?.map(|task| task.value().to_vec())),
        })
    }

    /// What a task is about; `None` if nothing is kept.
    pub(crate) fn content(&mut self, id: TaskId, about: About) -> Result<Option<Vec<u8>>, Failure> {
        self.read(|database| match database.begin_read()?.open_table(CONTENTS) {
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            contents => Ok(contents?.get(&key(id, about))?.map(|c| c.value().to_vec())),
        })
    }

    /// Makes changes durable, all or none.
    pub(crate) fn commit(&mut self, changes: &Changes) -> Result<(), Failure> {
        let run = |database: &Database| -> Result<(), redb::Error> {
            let mut write = database.begin_write()?;
            // Reopening after a crash then takes milliseconds, not a walk over the file.
            write.set_quick_repair(true);
            {
                let mut tasks = write.open_table(TASKS)?;
                let mut contents = write.open_table(CONTENTS)?;
                for (id, about, content) in &changes.contents {
                    contents.insert(&key(*id, *about), content.as_slice())?;
                }
                for (id, record) in &changes.tasks {
                    match record {
                        Some(record) => drop(tasks.insert(&id.0, record.as_slice())?),
                        None => {
                            tasks.remove(&id.0)?;
                            for about in About::ALL {
                                contents.remove(&key(*id, about))?;
                            }
                        }
                    }
                }
            }
            Ok(write.commit()?)
        };
        run(self.database()?).map_err(|error| {
            self.database = None;
            state::broken(&self.path, "write", error)
        })
    }
}
