//! The store on a disk that loses power: what was acknowledged is there, what was not is there
//! as a whole commit or not at all, and the store opens.

use crate::commit::Store;
use crate::store::{Opened, SCHEMA, StoreError};
use crate::test_power::Power;
use pilot_core::rendezvous::{Change, Commit, Table};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// How many disks, each with its own seed.
const SEEDS: u64 = 400;
/// How often each loses power in service.
const LIVES: usize = 4;
const TABLES: [Table; 3] = [Table::Mailbox, Table::Names, Table::Memberships];

type Rows = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

/// What happened on one disk.
#[derive(Default)]
struct Story {
    acknowledged: usize,
    /// Lives that ended inside a transaction.
    interrupted: usize,
    /// Transactions that were never acknowledged and are there, whole.
    arrived: usize,
    /// Openings that the power failed in.
    dark_openings: usize,
    at_stake: u64,
}

fn random_commit(power: &Power, id: u64) -> Commit {
    let change = |_| {
        let table = TABLES[power.below(TABLES.len() as u64) as usize];
        let key = power.below(60).to_be_bytes().to_vec();
        let len = match power.below(20) {
            0 => 20_000,
            1..4 => 3_000,
            _ => 200,
        };
        let fill = id.to_be_bytes().repeat(1 + power.below(len) as usize / 8);
        Change { table, key, value: (power.below(4) > 0).then_some(fill) }
    };
    Commit { id, changes: (0..=power.below(6)).map(change).collect() }
}

fn apply(rows: &mut Rows, commit: &Commit) {
    for Change { table, key, value } in commit.changes.clone() {
        match value {
            Some(value) => rows.insert((table.as_str(), key), value),
            None => rows.remove(&(table.as_str(), key)),
        };
    }
}

fn open(path: &Path, power: &Arc<Power>) -> Result<Opened, StoreError> {
    let mut opened = Opened::open(path, SCHEMA, power.opener())?;
    if opened.is_fresh() {
        opened.initialise::<StoreError>(|_| Ok(()))?;
    }
    Ok(opened)
}

/// Opens the store; now and then the power goes again meanwhile.
fn open_at_last(path: &Path, power: &Arc<Power>, story: &mut Story) -> Result<Opened, String> {
    for _ in 0..2 {
        if power.below(3) == 0 {
            power.fail_after(1 + power.below(40));
        }
        let opened = open(path, power);
        let went = power.is_off();
        match opened {
            Ok(opened) if !went => {
                power.restore();
                return Ok(opened);
            }
            Err(error) if !went => return Err(format!("it does not open: {error}")),
            _ => story.dark_openings += 1,
        }
        power.restore();
    }
    open(path, power).map_err(|error| format!("it does not open: {error}"))
}

fn rows_of(opened: &Opened) -> Result<Rows, String> {
    let mut rows = Rows::new();
    let read = opened.read(|table, key, value| {
        rows.insert((table.as_str(), key.to_vec()), value.to_vec());
        Ok::<(), StoreError>(())
    });
    read.map(|()| rows).map_err(|error| format!("it cannot be read: {error}"))
}

/// Commits until the power goes. The states that the disk may hold after it: that of the last
/// commit acknowledged, and of each after it.
fn serve(opened: Opened, before: Rows, power: &Power, story: &mut Story) -> Vec<Rows> {
    let (tell, told) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    // The thread that writes waits at the end of each transaction until the next group is
    // queued, so that the same seed makes the same transactions.
    let deliver = move |id: u64, stored: bool| {
        let _ = tell.send((id, stored));
        let _ = gate.recv();
    };
    let store = Store::start(opened, Box::new(deliver)).unwrap();
    match power.below(4) {
        0 => {}
        _ => power.fail_after(1 + power.below(120)),
    }
    let (mut states, mut acknowledged) = (vec![before], 0);
    'life: for round in 0..10 {
        let group = if round == 0 { 1 } else { 1 + power.below(5) as usize };
        for _ in 0..group {
            let commit = random_commit(power, states.len() as u64);
            let mut rows = states.last().unwrap().clone();
            apply(&mut rows, &commit);
            states.push(rows);
            assert!(store.submit(commit));
        }
        for n in 0..group {
            // The first commit finds the thread waiting for it, every other one for the gate.
            if (round, n) != (0, 0) {
                go.send(()).unwrap();
            }
            // Nothing comes if the thread has panicked over what a lying disk holds.
            let Ok((id, stored)) = told.recv_timeout(Duration::from_secs(60)) else { break 'life };
            if !stored {
                story.interrupted += 1;
                break 'life;
            }
            acknowledged = id as usize;
        }
    }
    power.fail();
    drop(go);
    store.close();
    story.acknowledged += acknowledged;
    states.split_off(acknowledged)
}

/// The whole story of a disk, or what is wrong with it.
fn run(seed: u64, lies: bool) -> Result<Story, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("r.redb");
    let power = Power::new(seed, lies);
    let (mut story, mut possible) = (Story::default(), vec![Rows::new()]);
    for life in 0..=LIVES {
        let opened = open_at_last(&path, &power, &mut story)?;
        let rows = rows_of(&opened)?;
        let Some(at) = possible.iter().rposition(|state| *state == rows) else {
            return Err(format!("life {life}: neither what was acknowledged nor whole commits"));
        };
        story.arrived += usize::from(at > 0);
        if life < LIVES {
            possible = serve(opened, rows, &power, &mut story);
            power.restore();
        }
    }
    story.at_stake = power.at_stake();
    Ok(story)
}

#[test]
fn after_a_power_loss_everything_acknowledged_is_there_and_no_half_commit() {
    let mut all = Story::default();
    for seed in 0..SEEDS {
        let story = run(seed, false).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        all.acknowledged += story.acknowledged;
        all.interrupted += story.interrupted;
        all.arrived += story.arrived;
        all.dark_openings += story.dark_openings;
        all.at_stake += story.at_stake;
    }
    let Story { acknowledged, interrupted, arrived, dark_openings, at_stake } = all;
    println!(
        "{SEEDS} disks: {acknowledged} commits acknowledged, power lost in {interrupted} \
         transactions and {dark_openings} openings with {at_stake} sectors unsynced; {arrived} \
         unacknowledged states arrived whole"
    );
    // It has met what it is about.
    assert!(interrupted > 500 && dark_openings > 100 && arrived > 20 && at_stake > 5_000);
}

/// The control: were anything acknowledged before it is synced, the test above would say so.
#[test]
fn a_disk_that_lies_about_syncing_is_found_out() {
    let found = (0..20).filter(|seed| {
        let story = std::panic::catch_unwind(|| run(*seed, true));
        !matches!(story, Ok(Ok(_)))
    });
    let found = found.count();
    assert!(found > 15, "{found} of 20");
}
