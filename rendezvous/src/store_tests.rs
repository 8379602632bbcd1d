//! The store against crashes, a second opener, other schemas and a failing disk.

use crate::commit::Store;
use crate::store::{self, META, Opened, Opener, SCHEMA, Schema, StoreError, definition, open_file};
use crate::test_disk::{Disk, Fault};
use pilot_core::rendezvous::{Change, Commit, Table};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

type Outcome = (u64, bool);

fn opener() -> Opener {
    Arc::new(open_file)
}

fn opened(path: &Path, opener: Opener) -> Opened {
    let mut opened = Opened::open(path, SCHEMA, opener).unwrap();
    if opened.is_fresh() {
        opened.initialise::<StoreError>(|_| Ok(())).unwrap();
    }
    opened
}

fn start(path: &Path, opener: Opener) -> (Store, mpsc::Receiver<Outcome>) {
    let (tell, told) = mpsc::channel();
    let deliver = move |id, stored| {
        let _ = tell.send((id, stored));
    };
    (Store::start(opened(path, opener), Box::new(deliver)).unwrap(), told)
}

fn put(key: u64, value: &[u8]) -> Change {
    Change { table: Table::Mailbox, key: key.to_be_bytes().to_vec(), value: Some(value.to_vec()) }
}

fn delete(key: u64) -> Change {
    Change { value: None, ..put(key, b"") }
}

/// Commits as the machine does: one at a time, waiting while the queue is full.
fn submit(store: &Store, id: u64, changes: Vec<Change>) {
    let commit = Commit { id, changes };
    while !store.submit(commit.clone()) {
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn contents(path: &Path) -> BTreeMap<u64, Vec<u8>> {
    let mut found = BTreeMap::new();
    let take = |table, key: &[u8], value: &[u8]| {
        assert_eq!(table, Table::Mailbox);
        found.insert(u64::from_be_bytes(key.try_into().unwrap()), value.to_vec());
        Ok::<(), StoreError>(())
    };
    Opened::open(path, SCHEMA, opener()).unwrap().read(take).unwrap();
    found
}

fn outcome_of(told: &mpsc::Receiver<Outcome>, id: u64) -> bool {
    let (told, stored) = told.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(told, id);
    stored
}

#[test]
fn acknowledged_rows_are_there_after_a_drop_without_a_clean_stop() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r.redb");
    let (store, told) = start(&path, opener());
    for id in 0..50 {
        submit(&store, id, vec![put(id, &id.to_be_bytes()), put(id + 1000, b"gone soon")]);
        submit(&store, id + 100, vec![delete(id + 1000)]);
    }
    for _ in 0..100 {
        let (_, stored) = told.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(stored);
    }
    assert!(store.transactions() > 0 && store.failures() == 0);
    // A copy of the file as it is, with the store still open: what a crash would leave.
    let copy = directory.path().join("copy.redb");
    std::fs::copy(&path, &copy).unwrap();
    let found = contents(&copy);
    assert_eq!(found.len(), 50);
    assert!(found.iter().all(|(key, value)| value.as_slice() == key.to_be_bytes()));
    drop(store);
    assert_eq!(contents(&path), found);
}

#[test]
fn what_waits_shares_a_transaction_and_the_queue_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r.redb");
    let (gate, wait) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let deliver = move |id: u64, stored: bool| {
        let _ = tell.send((id, stored));
        let _ = wait.recv();
    };
    let store = Store::start(opened(&path, opener()), Box::new(deliver)).unwrap();
    submit(&store, 0, vec![put(0, b"x")]);
    assert!(outcome_of(&told, 0));
    // The thread stands in `deliver`; from here on everything queues.
    let mut taken = 0;
    while store.submit(Commit { id: taken + 1, changes: vec![put(taken + 1, b"y")] }) {
        taken += 1;
        assert!(taken < 1000, "no bound");
    }
    assert!(taken > 1);
    drop(gate);
    (1..=taken).for_each(|id| assert!(outcome_of(&told, id)));
    assert_eq!(store.transactions(), 2);
    // Dropping writes what is queued.
    submit(&store, 99, vec![put(99, b"z")]);
    drop(store);
    assert_eq!(contents(&path).len() as u64, taken + 2);
}

#[test]
fn a_second_opener_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r.redb");
    let (store, _told) = start(&path, opener());
    let error = Opened::open(&path, SCHEMA, opener()).err().unwrap();
    assert!(matches!(error, StoreError::AlreadyOpen { .. }), "{error}");
    drop(store);
    Opened::open(&path, SCHEMA, opener()).unwrap();
}

#[cfg(unix)]
#[test]
fn a_store_that_others_may_read_is_refused() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r.redb");
    drop(opened(&path, opener()));
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = Opened::open(&path, SCHEMA, opener()).err().unwrap();
    assert!(matches!(error, StoreError::Private(_)), "{error}");
}

#[test]
fn other_files_are_refused_and_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r.redb");
    let text = b"not a database, whatever its name says".repeat(300);
    crate::files::replace_private(&path, |w| w.write_all(&text)).unwrap();
    let error = Opened::open(&path, SCHEMA, opener()).err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(std::fs::read(&path).unwrap() == text, "it was touched");
    // Nor is one that merely begins as a database does whose making a crash has interrupted.
    let zeros = [&[0; 20_000][..], b"and yet"].concat();
    crate::files::replace_private(&path, |w| w.write_all(&zeros)).unwrap();
    let error = Opened::open(&path, SCHEMA, opener()).err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(std::fs::read(&path).unwrap() == zeros, "it was touched");

    // A redb file of somebody else.
    let path = directory.path().join("other.redb");
    let database = open_file(&path).unwrap();
    let txn = store::begin(&database).unwrap();
    let table: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("theirs");
    txn.open_table(table).unwrap().insert(1, 2).unwrap();
    txn.commit().unwrap();
    drop(database);
    let error = Opened::open(&path, SCHEMA, opener()).err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn an_import_that_fails_leaves_a_fresh_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r.redb");
    let mut opened = Opened::open(&path, SCHEMA, opener()).unwrap();
    let failed = opened.initialise(|take| {
        take(put(1, b"x"))?;
        Err(StoreError::Full { path: path.clone() })
    });
    assert!(matches!(failed, Err(StoreError::Full { .. })));
    drop(opened);
    let mut opened = Opened::open(&path, SCHEMA, opener()).unwrap();
    assert!(opened.is_fresh());
    opened.initialise::<StoreError>(|take| take(put(2, b"y"))).unwrap();
    drop(opened);
    assert_eq!(contents(&path), BTreeMap::from([(2, b"y".to_vec())]));
}

fn write_schema(path: &Path, schema: u64) {
    let database = open_file(path).unwrap();
    let txn = store::begin(&database).unwrap();
    txn.open_table(META).unwrap().insert("schema", schema).unwrap();
    txn.commit().unwrap();
}

#[test]
fn a_newer_schema_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r.redb");
    drop(opened(&path, opener()));
    write_schema(&path, SCHEMA.current + 1);
    let error = Opened::open(&path, SCHEMA, opener()).err().unwrap();
    let text = error.to_string();
    assert!(matches!(error, StoreError::NewerSchema { found, .. } if found == SCHEMA.current + 1));
    assert!(text.contains("newer program"), "{text}");
}

#[test]
fn an_older_schema_is_migrated_after_a_copy() {
    fn step(
        from: &'static [u8],
        to: &'static [u8],
        txn: &redb::WriteTransaction,
    ) -> Result<(), redb::Error> {
        let mut rows = txn.open_table(definition(Table::Mailbox))?;
        let key = put(1, b"").key;
        assert_eq!(rows.get(key.as_slice())?.unwrap().value(), from);
        rows.insert(key.as_slice(), to)?;
        Ok(())
    }
    use redb::ReadableTable;
    const NEWER: Schema = Schema {
        current: SCHEMA.current + 2,
        steps: &[|txn| step(b"one", b"two", txn), |txn| step(b"two", b"three", txn)],
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r.redb");
    let mut old = Opened::open(&path, SCHEMA, opener()).unwrap();
    old.initialise::<StoreError>(|take| take(put(1, b"one"))).unwrap();
    drop(old);
    drop(Opened::open(&path, NEWER, opener()).unwrap());

    let refused = Opened::open(&path, SCHEMA, opener()).err().unwrap();
    assert!(matches!(refused, StoreError::NewerSchema { .. }), "{refused}");
    let mut found = Vec::new();
    let migrated = Opened::open(&path, NEWER, opener()).unwrap();
    migrated
        .read(|_, _, v| {
            found.push(v.to_vec());
            Ok::<(), StoreError>(())
        })
        .unwrap();
    assert_eq!(found, [b"three"]);
    // The copy is the old store, whole and private.
    let copy = directory.path().join("r.redb.schema-1");
    assert_eq!(contents(&copy), BTreeMap::from([(1, b"one".to_vec())]));
    // Older than the oldest step.
    write_schema(&copy, 0);
    let refused = Opened::open(&copy, NEWER, opener()).err().unwrap();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
}

#[test]
fn a_full_disk_fails_commits_and_heals() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r.redb");
    let fault = Arc::new(Fault::default());
    let (store, told) = start(&path, Disk::opener(&fault));
    submit(&store, 1, vec![put(1, b"before")]);
    assert!(outcome_of(&told, 1));
    fault.full.store(true, Ordering::SeqCst);
    for id in 2..5 {
        submit(&store, id, vec![put(id, b"no room"), put(1, b"no room")]);
        assert!(!outcome_of(&told, id), "commit {id}");
    }
    assert_eq!((store.transactions(), store.failures()), (1, 3));
    let error = store.snapshot().err().unwrap();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    fault.full.store(false, Ordering::SeqCst);
    submit(&store, 5, vec![put(5, b"after")]);
    assert!(outcome_of(&told, 5));
    drop(store);
    let expected = BTreeMap::from([(1, b"before".to_vec()), (5, b"after".to_vec())]);
    assert_eq!(contents(&path), expected);
}

/// Whichever of a transaction's syncs fails, and whether or not its data arrived: the commit
/// is reported as failed, nothing older is lost, and tried again (as the machine does) it and
/// what came on top of it are stored.
#[test]
fn a_failed_sync_loses_nothing_and_the_commit_can_be_repeated() {
    let mut arrived = 0;
    for sync in 1.. {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r.redb");
        let fault = Arc::new(Fault::default());
        let (store, told) = start(&path, Disk::opener(&fault));
        submit(&store, 1, vec![put(1, b"one"), put(2, b"two")]);
        assert!(outcome_of(&told, 1));

        fault.sync.store(sync, Ordering::SeqCst);
        let changes = vec![put(1, b"x"), delete(2), put(3, b"z")];
        submit(&store, 2, changes.clone());
        if outcome_of(&told, 2) {
            break; // The transaction has fewer syncs than that.
        }
        let copy = directory.path().join("copy.redb");
        std::fs::copy(&path, &copy).unwrap();
        let left = contents(&copy);
        arrived += u32::from(left.contains_key(&3));
        assert!(left.len() == 2, "half a transaction: {left:?}");

        // Meanwhile the file cannot even be opened: still an answer.
        fault.gone.store(true, Ordering::SeqCst);
        submit(&store, 3, changes.clone());
        assert!(!outcome_of(&told, 3));
        assert!(store.snapshot().is_err());
        fault.gone.store(false, Ordering::SeqCst);
        submit(&store, 4, [changes, vec![put(3, b"newer")]].concat());
        assert!(outcome_of(&told, 4));
        drop(store);
        let expected = [(1, b"x".to_vec()), (3, b"newer".to_vec())];
        assert_eq!(contents(&path), BTreeMap::from(expected), "sync {sync}");
    }
    assert!(arrived > 0, "no failed transaction arrived on the disk");
}

const CHILD: &str = "PILOT_RENDEZVOUS_STORE_CHILD";

/// Commits without end and writes the number of each acknowledged commit to stderr.
fn commit_until_killed(path: &Path) -> ! {
    let deliver = |id: u64, stored: bool| {
        assert!(stored);
        // A whole line in one write to a pipe: a kill cannot tear it.
        io::stderr().write_all(format!("ack {id}\n").as_bytes()).unwrap();
    };
    let store = Store::start(opened(path, opener()), Box::new(deliver)).unwrap();
    for id in 0.. {
        submit(&store, id, vec![put(2 * id, &id.to_be_bytes()), put(2 * id + 1, b"pair")]);
    }
    unreachable!("somebody kills us")
}

#[test]
fn killed_while_committing_everything_acknowledged_is_there() {
    if let Some(path) = std::env::var_os(CHILD) {
        commit_until_killed(Path::new(&path));
    }
    for round in 0..6u64 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r.redb");
        let name = "store_tests::killed_while_committing_everything_acknowledged_is_there";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(CHILD, &path)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = io::BufReader::new(child.stderr.take().unwrap()).lines();
        let mut acknowledged = Vec::new();
        let mut take = |line: String| {
            let id = line.strip_prefix("ack ").unwrap_or_else(|| panic!("child: {line}"));
            acknowledged.push(id.parse::<u64>().unwrap());
        };
        // Different moments relative to the transactions.
        for line in lines.by_ref().take(50 + 777 * round as usize) {
            take(line.unwrap());
        }
        std::thread::sleep(Duration::from_micros(371 * round));
        child.kill().unwrap();
        lines.for_each(|line| take(line.unwrap()));
        child.wait().unwrap();

        let found = contents(&path);
        assert!(acknowledged.len() >= 50, "only {} commits", acknowledged.len());
        for id in acknowledged {
            assert_eq!(found.get(&(2 * id)).unwrap().as_slice(), id.to_be_bytes());
            assert_eq!(found.get(&(2 * id + 1)).unwrap().as_slice(), b"pair");
        }
        // What was not acknowledged is there as a whole commit or not at all.
        assert_eq!(found.len() % 2, 0);
        assert!(found.keys().all(|key| found.contains_key(&(key ^ 1))));
    }
}
