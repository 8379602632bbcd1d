//! The durable store: one redb file with a table for each [`Table`] of the machine.
//!
//! The machine in `core` decides what the rows are; here they are bytes. A file also says
//! which *schema* its rows follow: a newer one than this program knows is refused, an older
//! one is migrated after the file was copied.
//!
//! A file without a schema is *fresh*: schema and imported rows enter in one transaction, so
//! a crash during an import leaves a fresh file and the import runs again.

use crate::files::{self, PrivateFileError};
use pilot_core::rendezvous::{Change, Table};
use redb::backends::FileBackend;
use redb::{
    Database, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError,
    WriteTransaction,
};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the rows of this program's store look like. Raise it, and add a [`Step`], whenever a
/// key or value changes its form.
pub(crate) const SCHEMA: Schema = Schema { current: 1, steps: &[] };

/// Bytes of redb's page cache. The machine holds the directory in memory, so the cache only
/// serves the inner pages that a commit walks through.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("file");
const SCHEMA_KEY: &str = "schema";

/// The redb table that holds a table of the machine.
pub(crate) const fn definition(
    table: Table,
) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.as_str())
}

/// Why a store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process, or another server of this one, has it open.
    #[error("{path} is in use by another server")]
    AlreadyOpen {
        /// The file.
        path: PathBuf,
    },
    /// Written by a newer program.
    #[error("{path} has schema {found}, this program knows up to {known}: use a newer program")]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// The schema in the file.
        found: u64,
        /// The newest schema that this program knows.
        known: u64,
    },
    /// Not a store, or damaged.
    #[error("{path} is not a registry's store, or it is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// No room on the device, or a quota is used up.
    #[error("{path}: no room left")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Others may touch the file, or it is not ours.
    #[error(transparent)]
    Private(#[from] PrivateFileError),
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl StoreError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        match is_full(&source) {
            true => StoreError::Full { path: path.to_owned() },
            false => StoreError::Io { path: path.to_owned(), source },
        }
    }

    pub(crate) fn redb(path: &Path, error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
                StoreError::AlreadyOpen { path: path.to_owned() }
            }
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                StoreError::Damaged { path: path.to_owned(), what: source.to_string() }
            }
            redb::Error::Io(source) => StoreError::io(path, source),
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => {
                StoreError::io(path, io::Error::other("an earlier write failed"))
            }
            other => StoreError::Damaged { path: path.to_owned(), what: other.to_string() },
        }
    }
}

/// No room: the device, the user's quota or the process's file size limit.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Opens the database file; tests put a failing disk underneath.
pub(crate) type Opener = Arc<dyn Fn(&Path) -> Result<Database, StoreError> + Send + Sync>;

/// A private redb file, created if missing, locked for as long as it is open; at most
/// `cache_bytes` of it are kept in memory.
pub fn open_database(path: &Path, cache_bytes: usize) -> Result<Database, StoreError> {
    open_with(path, cache_bytes, FileBackend::new)
}

pub(crate) fn open_file(path: &Path) -> Result<Database, StoreError> {
    open_database(path, CACHE_BYTES)
}

/// Opens the database in the private file `path` through a backend.
pub(crate) fn open_with<B: redb::StorageBackend>(
    path: &Path,
    cache_bytes: usize,
    backend: impl FnOnce(File) -> Result<B, redb::DatabaseError>,
) -> Result<Database, StoreError> {
    let backend = backend(private_file(path)?).map_err(|e| StoreError::redb(path, e.into()))?;
    // With redb's lock held.
    clear_unfinished(&backend).map_err(|error| StoreError::io(path, error))?;
    Database::builder()
        .set_cache_size(cache_bytes)
        .create_with_backend(backend)
        .map_err(|error| StoreError::redb(path, error.into()))
}

fn private_file(path: &Path) -> Result<File, StoreError> {
    match files::open_private(path, true) {
        Err(error) if error.is_missing() => {
            let file = files::create_private(path).map_err(|error| StoreError::io(path, error))?;
            files::sync_directory_of(path).map_err(|error| StoreError::io(path, error))?;
            Ok(file)
        }
        other => Ok(other?),
    }
}

/// redb makes a database by growing the file, writing its header, and last of all the header's
/// first bytes, the magic; it takes a file without them for somebody else's. What a crash has
/// left halfway holds nothing behind the header's page, and is begun anew.
fn clear_unfinished(backend: &impl redb::StorageBackend) -> io::Result<()> {
    const MAGIC: u64 = 9;
    const PAGE: u64 = 4096;
    let is_zero = |from: u64, to: u64| -> io::Result<bool> {
        let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
        backend.read(from, &mut bytes)?;
        Ok(bytes.iter().all(|byte| *byte == 0))
    };
    let len = backend.len()?;
    if len == 0 || !is_zero(0, len.min(MAGIC))? {
        return Ok(());
    }
    let mut at = PAGE;
    while at < len {
        let end = len.min(at + 16 * PAGE);
        if !is_zero(at, end)? {
            return Ok(());
        }
        at = end;
    }
    backend.set_len(0)
}

/// One migration, in the transaction that also raises the file's schema.
pub(crate) type Step = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// The schema of a program: `steps[i]` migrates schema `current - steps.len() + i` to the
/// next one. Older than the first step: refused as damaged, no released program wrote it.
#[derive(Clone, Copy)]
pub(crate) struct Schema {
    pub(crate) current: u64,
    pub(crate) steps: &'static [Step],
}

/// A store that is open and not yet in service.
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) database: Database,
    pub(crate) opener: Opener,
    schema: Schema,
    fresh: bool,
}

impl Opened {
    /// Opens `path`, creating it if it is missing, and migrates it.
    pub(crate) fn open(path: &Path, schema: Schema, opener: Opener) -> Result<Self, StoreError> {
        let mut database = opener(path)?;
        let mut found = schema_of(path, &database)?;
        if found.is_some_and(|found| found < schema.current) {
            // redb's lock goes for the moment of the copy. Should somebody else open the file
            // just then, the second opening fails or finds it migrated.
            drop(database);
            let copy = files::with_suffix(path, &format!(".schema-{}", found.unwrap_or(0)));
            files::copy_private(path, &copy)?;
            database = opener(path)?;
            found = schema_of(path, &database)?;
            if let Some(found) = found.filter(|found| *found < schema.current) {
                tracing::info!(from = found, to = schema.current, copy = %copy.display(),
                    "migrating the store");
                migrate(path, &database, found, schema)?;
            }
        }
        match found {
            Some(found) if found > schema.current => {
                Err(StoreError::NewerSchema { path: path.to_owned(), found, known: schema.current })
            }
            _ => {
                let fresh = found.is_none();
                Ok(Opened { path: path.to_owned(), database, opener, schema, fresh })
            }
        }
    }

    /// Whether the file holds no registry yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Makes a fresh file a store with these rows, in one transaction. Nothing happens to it
    /// if the rows end in an error.
    pub(crate) fn initialise<E: From<StoreError>>(
        &mut self,
        rows: impl FnOnce(&mut dyn FnMut(Change) -> Result<(), E>) -> Result<(), E>,
    ) -> Result<(), E> {
        assert!(self.fresh, "a store is initialised once");
        let failed = |error: redb::Error| E::from(StoreError::redb(&self.path, error));
        let txn = begin(&self.database).map_err(failed)?;
        {
            let mut tables = Tables::of(&txn);
            rows(&mut |change| tables.put(&change).map_err(failed))?;
        }
        let finish = || -> Result<(), redb::Error> {
            txn.open_table(META)?.insert(SCHEMA_KEY, self.schema.current)?;
            Ok(txn.commit()?)
        };
        finish().map_err(failed)?;
        self.fresh = false;
        Ok(())
    }

    /// All rows, in the order of table and key.
    pub(crate) fn read<E: From<StoreError>>(
        &self,
        take: impl FnMut(Table, &[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        Snapshot::of(&self.path, &self.database)?.scan(Table::ALL, take)
    }
}

type OpenTable<'t> = redb::Table<'t, &'static [u8], &'static [u8]>;

/// The tables of one write transaction, each opened once.
pub(crate) struct Tables<'t> {
    txn: &'t WriteTransaction,
    open: Vec<(Table, OpenTable<'t>)>,
}

impl<'t> Tables<'t> {
    pub(crate) fn of(txn: &'t WriteTransaction) -> Self {
        Tables { txn, open: Vec::with_capacity(Table::ALL.len()) }
    }

    pub(crate) fn put(&mut self, change: &Change) -> Result<(), redb::Error> {
        let at = match self.open.iter().position(|(table, _)| *table == change.table) {
            Some(at) => at,
            None => {
                let table = self.txn.open_table(definition(change.table))?;
                self.open.push((change.table, table));
                self.open.len() - 1
            }
        };
        let (table, key) = (&mut self.open[at].1, change.key.as_slice());
        match &change.value {
            Some(value) => table.insert(key, value.as_slice()).map(drop)?,
            None => table.remove(key).map(drop)?,
        }
        Ok(())
    }
}

/// A write transaction that is synced at its end and quick to reopen after a crash.
pub(crate) fn begin(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut txn = database.begin_write()?;
    txn.set_quick_repair(true);
    Ok(txn)
}

fn schema_of(path: &Path, database: &Database) -> Result<Option<u64>, StoreError> {
    let read = || -> Result<Option<u64>, redb::Error> {
        let txn = database.begin_read()?;
        let meta = match txn.open_table(META) {
            Ok(meta) => meta,
            Err(TableError::TableDoesNotExist(_)) => {
                return match txn.list_tables()?.next() {
                    None => Ok(None),
                    Some(_) => Err(redb::Error::Corrupted("tables of another program".into())),
                };
            }
            Err(error) => return Err(error.into()),
        };
        match meta.get(SCHEMA_KEY)? {
            Some(found) => Ok(Some(found.value())),
            None => Err(redb::Error::Corrupted("no schema version".into())),
        }
    };
    read().map_err(|error| StoreError::redb(path, error))
}

fn migrate(path: &Path, database: &Database, found: u64, schema: Schema) -> Result<(), StoreError> {
    let oldest = schema.current - schema.steps.len() as u64;
    let Some(done) = found.checked_sub(oldest) else {
        return Err(StoreError::Damaged {
            path: path.to_owned(),
            what: format!("no way from schema {found} to {}", schema.current),
        });
    };
    let run = || -> Result<(), redb::Error> {
        let txn = begin(database)?;
        for step in &schema.steps[done as usize..] {
            step(&txn)?;
        }
        txn.open_table(META)?.insert(SCHEMA_KEY, schema.current)?;
        Ok(txn.commit()?)
    };
    run().map_err(|error| StoreError::redb(path, error))
}

/// The store as it was at one moment; commits go on beside it.
pub(crate) struct Snapshot {
    path: PathBuf,
    txn: redb::ReadTransaction,
}

impl Snapshot {
    pub(crate) fn of(path: &Path, database: &Database) -> Result<Self, StoreError> {
        let txn = database.begin_read().map_err(|error| StoreError::redb(path, error.into()))?;
        Ok(Snapshot { path: path.to_owned(), txn })
    }

    /// The rows of some tables, in the order of table and key.
    pub(crate) fn scan<E: From<StoreError>>(
        &self,
        tables: &[Table],
        mut take: impl FnMut(Table, &[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |error: redb::Error| E::from(StoreError::redb(&self.path, error));
        for &table in tables {
            let rows = match self.txn.open_table(definition(table)) {
                Ok(rows) => rows,
                Err(TableError::TableDoesNotExist(_)) => continue,
                Err(error) => return Err(failed(error.into())),
            };
            for entry in rows.iter().map_err(|error: StorageError| failed(error.into()))? {
                let (key, value) = entry.map_err(|error| failed(error.into()))?;
                take(table, key.value(), value.value())?;
            }
        }
        Ok(())
    }
}
