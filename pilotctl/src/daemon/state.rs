//! `state.redb`: the node's durable facts (`Node::poll_store`), 8 bytes of key each. A commit
//! is on disk when it returns.

use crate::error::{Code, Failure};
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};
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

/// The open store.
pub(crate) struct State {
    database: Database,
    path: PathBuf,
}

impl State {
    /// Opens the store, creates it at first (private: it holds tunnel keys).
    pub(crate) fn open(path: &Path) -> Result<State, Failure> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let failed = |e: &dyn std::fmt::Display| broken(path, "open", e);
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| Failure::io(format!("open {}", path.display()), e))?;
        let database = FileBackend::new(file).and_then(|file| {
            Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(file)
        });
        let database = database.map_err(|e| match e {
            DatabaseError::DatabaseAlreadyOpen => {
                let message = format!("{} is open in another process", path.display());
                Failure::new(Code::StoreBusy, message)
            }
            e => failed(&e),
        })?;
        let state = State { database, path: path.to_owned() };
        state.check_schema()?;
        Ok(state)
    }

    fn check_schema(&self) -> Result<(), Failure> {
        let run = || -> Result<Option<u64>, redb::Error> {
            let write = self.database.begin_write()?;
            let schema = {
                let mut meta = write.open_table(META)?;
                let found = meta.get("schema")?.map(|value| value.value());
                if found.is_none() {
                    meta.insert("schema", SCHEMA)?;
                }
                write.open_table(FACTS)?;
                found
            };
            write.commit()?;
            Ok(schema)
        };
        match run().map_err(|e| broken(&self.path, "open", &e))? {
            None | Some(SCHEMA) => Ok(()),
            Some(newer) => {
                let shown = self.path.display();
                let message = format!("{shown} has schema {newer}, this program knows {SCHEMA}");
                Err(Failure::new(Code::State, message).hint("use the newer program again"))
            }
        }
    }

    /// All facts.
    pub(crate) fn load(&self) -> Result<Facts, Failure> {
        let run = || -> Result<Facts, redb::Error> {
            let facts = self.database.begin_read()?.open_table(FACTS)?;
            let mut all = Vec::new();
            for fact in facts.iter()? {
                let (key, value) = fact?;
                all.push((*key.value(), value.value().to_vec()));
            }
            Ok(all)
        };
        run().map_err(|e| broken(&self.path, "read", &e))
    }

    /// Makes changes durable, all or none.
    pub(crate) fn commit(&self, changes: &[Change]) -> Result<(), Failure> {
        let run = || -> Result<(), redb::Error> {
            let mut write = self.database.begin_write()?;
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
        run().map_err(|e| broken(&self.path, "write", &e))
    }
}

fn broken(path: &Path, doing: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Code::State, format!("cannot {doing} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let state = State::open(&path).unwrap();
        assert_eq!(state.load().unwrap(), []);
        let one = (*b"one-----", Some(b"1".to_vec()));
        let two = (*b"two-----", Some(b"22".to_vec()));
        state.commit(&[one, two]).unwrap();
        state.commit(&[(*b"one-----", None), (*b"two-----", Some(vec![3]))]).unwrap();
        assert_eq!(State::open(&path).err().unwrap().code, Code::StoreBusy);
        drop(state);
        let state = State::open(&path).unwrap();
        assert_eq!(state.load().unwrap(), [(*b"two-----", vec![3])]);
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_newer_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let state = State::open(&path).unwrap();
        let write = state.database.begin_write().unwrap();
        write.open_table(META).unwrap().insert("schema", SCHEMA + 1).unwrap();
        write.commit().unwrap();
        drop(state);
        let failure = State::open(&path).err().unwrap();
        assert_eq!(failure.code, Code::State);
        assert!(failure.message.contains("schema 2"), "{}", failure.message);
    }
}
