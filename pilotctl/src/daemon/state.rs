//! `state.redb`: the node's durable facts (`Node::poll_store`), 8 bytes of key each. A commit
//! is on disk when it returns.

use crate::error::{Code, Failure};
use pilot_rendezvous::{PrivateFileError, StoreError};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};
use std::path::{Path, PathBuf};

const FACTS: TableDefinition<'_, &[u8; 8], &[u8]> = TableDefinition::new("facts");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The layout of the tables; facts carry their own versions.
const SCHEMA: u64 = 1;
/// A node has at most a few thousand facts of some hundred bytes: a small cache holds them.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// A change of one fact; `None` deletes it.
pub(crate) type Change = ([u8; 8], Option<Vec<u8>>);

/// Facts with their keys.
pub(crate) type Facts = Vec<([u8; 8], Vec<u8>)>;

/// The store.
pub(crate) struct State {
    /// Absent after a failure: redb refuses all further work until the file is opened again,
    /// which the next commit does. Whether the failed changes are in it does no harm: the
    /// same are committed again.
    database: Option<Database>,
    path: PathBuf,
}

impl State {
    /// Opens the store, creates it at first (private: it holds tunnel keys).
    pub(crate) fn open(path: &Path) -> Result<State, Failure> {
        Ok(State { database: Some(open(path)?), path: path.to_owned() })
    }

    fn database(&mut self) -> Result<&Database, Failure> {
        if self.database.is_none() {
            self.database = Some(open(&self.path)?);
            tracing::info!("the store of durable state is open again");
        }
        match &self.database {
            Some(database) => Ok(database),
            None => unreachable!("it was opened just now"),
        }
    }

    /// All facts.
    pub(crate) fn load(&mut self) -> Result<Facts, Failure> {
        let run = |database: &Database| -> Result<Facts, redb::Error> {
            let facts = match database.begin_read()?.open_table(FACTS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                facts => facts?,
            };
            let mut all = Vec::new();
            for fact in facts.iter()? {
                let (key, value) = fact?;
                all.push((*key.value(), value.value().to_vec()));
            }
            Ok(all)
        };
        run(self.database()?).map_err(|e| broken(&self.path, "read", e))
    }

    /// Makes changes durable, all or none.
    pub(crate) fn commit(&mut self, changes: &[Change]) -> Result<(), Failure> {
        let run = |database: &Database| -> Result<(), redb::Error> {
            let mut write = database.begin_write()?;
            // Reopening after a crash then takes milliseconds, not a walk over the file.
            write.set_quick_repair(true);
            {
                let mut facts = write.open_table(FACTS)?;
                for (key, value) in changes {
                    match value {
                        Some(value) => facts.insert(key, value.as_slice())?,
                        None => facts.remove(key)?,
                    };
                }
            }
            Ok(write.commit()?)
        };
        run(self.database()?).map_err(|error| {
            self.database = None;
            broken(&self.path, "write", error)
        })
    }
}

/// Opens a database of ours, private, with its schema.
pub(crate) fn open(path: &Path) -> Result<Database, Failure> {
    let database = pilot_rendezvous::open_database(path, CACHE_BYTES).map_err(|e| match e {
        StoreError::AlreadyOpen { path } => {
            let message = format!("{} is open in another process", path.display());
            Failure::new(Code::StoreBusy, message)
        }
        StoreError::Damaged { path, what } => {
            Failure::new(Code::State, format!("cannot open {}: {what}", path.display()))
        }
        StoreError::Full { path } => {
            Failure::io(format!("open {}", path.display()), std::io::ErrorKind::StorageFull)
        }
        StoreError::Private(PrivateFileError::Io { path, source })
        | StoreError::Io { path, source } => {
            Failure::io(format!("open {}", path.display()), source)
        }
        StoreError::Private(e) => Failure::new(Code::Permissions, e.to_string()),
        e => Failure::new(Code::State, e.to_string()),
    })?;
    check_schema(path, &database)?;
    Ok(database)
}

/// Writes the schema into a fresh file; else reads it, and only that: a disk that is full
/// keeps nobody from starting.
fn check_schema(path: &Path, database: &Database) -> Result<(), Failure> {
    let read = || -> Result<Option<u64>, redb::Error> {
        match database.begin_read()?.open_table(META) {
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            meta => Ok(meta?.get("schema")?.map(|value| value.value())),
        }
    };
    let write = || -> Result<(), redb::Error> {
        let mut write = database.begin_write()?;
        write.set_quick_repair(true);
        write.open_table(META)?.insert("schema", SCHEMA)?;
        Ok(write.commit()?)
    };
    match read().map_err(|e| broken(path, "open", e))? {
        None => write().map_err(|e| broken(path, "open", e)),
        Some(SCHEMA) => Ok(()),
        Some(newer) => {
            let shown = path.display();
            let message = format!("{shown} has schema {newer}, this program knows {SCHEMA}");
            Err(Failure::new(Code::State, message).hint("use the newer program again"))
        }
    }
}

pub(crate) fn broken(path: &Path, doing: &str, error: redb::Error) -> Failure {
    let doing = format!("{doing} {}", path.display());
    match error {
        // How redb says that a file's content makes no sense.
        redb::Error::Io(e) if e.kind() != std::io::ErrorKind::InvalidData => Failure::io(doing, e),
        e => Failure::new(Code::State, format!("cannot {doing}: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let mut state = State::open(&path).unwrap();
        assert_eq!(state.load().unwrap(), []);
        let one = (*b"one-----", Some(b"1".to_vec()));
        let two = (*b"two-----", Some(b"22".to_vec()));
        state.commit(&[one, two]).unwrap();
        state.commit(&[(*b"one-----", None), (*b"two-----", Some(vec![3]))]).unwrap();
        assert_eq!(State::open(&path).err().unwrap().code, Code::StoreBusy);
        drop(state);
        let mut state = State::open(&path).unwrap();
        assert_eq!(state.load().unwrap(), [(*b"two-----", vec![3])]);
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_not_ours_alone_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        drop(State::open(&path).unwrap());
        let link = dir.path().join("link.redb");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(State::open(&link).err().unwrap().code, Code::Permissions);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(State::open(&path).err().unwrap().code, Code::Permissions);
    }

    #[test]
    fn a_newer_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let state = State::open(&path).unwrap();
        let write = state.database.as_ref().unwrap().begin_write().unwrap();
        write.open_table(META).unwrap().insert("schema", SCHEMA + 1).unwrap();
        write.commit().unwrap();
        drop(state);
        let failure = State::open(&path).err().unwrap();
        assert_eq!(failure.code, Code::State);
        assert!(failure.message.contains("schema 2"), "{}", failure.message);
    }
}
