use super::*;
use pilot_core::service::exchange::HashAlgorithm;
use proptest::prelude::*;
use std::sync::Arc;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Note {
    order: u64,
    content: Vec<u8>,
}

impl Record for (u64, u64, Digest) {
    fn read(line: &[u8]) -> Option<Self> {
        let (order, size, hash): (u64, u64, String) =
            serde_json::from_slice::<serde_json::Value>(line).ok().and_then(|value| {
                Some((value["n"].as_u64()?, value["size"].as_u64()?, value["h"].as_str()?.into()))
            })?;
        Some((order, size, crate::services::inbox::parse_digest(&hash)?))
    }

    fn order(&self) -> u64 {
        self.0
    }

    fn size(&self) -> u64 {
        self.1
    }

    fn hash(&self) -> Digest {
        self.2
    }
}

fn note(order: u64, len: usize) -> Note {
    let content = (0..len).map(|at| (order as usize * 31 + at) as u8).collect();
    Note { order, content }
}

fn append(segments: &Segments, notes: &[Note]) -> io::Result<()> {
    let record = |note: &Note| {
        let hash = ContentHash::of(HashAlgorithm::Blake3, &note.content);
        let (order, size) = (note.order, note.content.len());
        let line = format!("{{\"n\":{order},\"size\":{size},\"h\":\"{hash}\"}}\n");
        (order, line.into_bytes())
    };
    let lines = notes.iter().map(record);
    let new: Vec<_> = lines
        .zip(notes)
        .map(|((order, line), note)| New { order, line, content: &note.content })
        .collect();
    segments.append(&format!("{:017}-note.seg", notes[0].order), &new)
}

fn files(dir: &tempfile::TempDir) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.path()).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn bytes(dir: &tempfile::TempDir) -> u64 {
    files(dir).iter().map(|path| path.metadata().unwrap().len()).sum()
}

fn empty(dir: &tempfile::TempDir) -> Segments {
    Segments::new(dir.path().to_owned(), "seg")
}

/// What another process finds: whole or not.
fn reopen(dir: &tempfile::TempDir) -> (Segments, Vec<(u64, bool)>) {
    let segments = empty(dir);
    let mut found = Vec::new();
    for path in files(dir) {
        let records = segments.load::<(u64, u64, Digest)>(&path).unwrap_or_default();
        found.extend(records.into_iter().map(|((order, ..), is_whole)| (order, is_whole)));
    }
    (segments, found)
}

fn orders(dir: &tempfile::TempDir) -> Vec<u64> {
    reopen(dir).1.into_iter().map(|(order, _)| order).collect()
}

#[test]
fn records_share_files_and_syncs_and_survive() {
    let dir = tempfile::tempdir().unwrap();
    let segments = empty(&dir);
    let notes: Vec<_> = (1..=300).map(|order| note(order, 1024)).collect();
    append(&segments, &notes[..256]).unwrap();
    append(&segments, &notes[256..]).unwrap();
    assert_eq!((segments.syncs(), files(&dir).len()), (2, 1));
    for segments in [segments, reopen(&dir).0] {
        for note in &notes {
            assert_eq!(segments.read(note.order).unwrap(), note.content);
        }
        assert_eq!(segments.read(301).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
    // What an earlier process has begun is not gone on with.
    let (segments, found) = reopen(&dir);
    assert_eq!(found.len(), 300);
    append(&segments, &[note(301, 0)]).unwrap();
    assert_eq!((files(&dir).len(), orders(&dir).len()), (2, 301));
}

#[test]
fn what_was_cut_at_any_byte_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let segments = empty(&dir);
    let mut ends = vec![0];
    for order in 1..=3 {
        append(&segments, &[note(order, 20)]).unwrap();
        ends.push(bytes(&dir));
    }
    let path = files(&dir).remove(0);
    let whole = std::fs::read(&path).unwrap();
    for len in 0..=whole.len() {
        let expected = ends[1..].iter().filter(|end| **end <= len as u64).count();
        std::fs::write(&path, &whole[..len]).unwrap();
        assert_eq!(orders(&dir), (1..=expected as u64).collect::<Vec<_>>(), "cut at {len}");
        // A block that was allocated and never written.
        let mut zeros = whole.clone();
        zeros[len..].fill(0);
        std::fs::write(&path, &zeros).unwrap();
        assert_eq!(orders(&dir), (1..=expected as u64).collect::<Vec<_>>(), "zeros from {len}");
    }
    // In the middle it is told.
    let mut damaged = whole.clone();
    damaged[ends[2] as usize - 1] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    assert_eq!(reopen(&dir).1, [(1, true), (2, false), (3, true)]);
}

#[test]
fn what_is_removed_does_not_come_back_and_a_file_goes_with_its_last() {
    let dir = tempfile::tempdir().unwrap();
    let segments = empty(&dir);
    append(&segments, &(1..=4).map(|order| note(order, 9)).collect::<Vec<_>>()).unwrap();
    segments.remove(&[2, 9], true).unwrap();
    assert_eq!(orders(&dir), [1, 3, 4]);
    assert_eq!(segments.read(3).unwrap(), note(3, 9).content);
    segments.remove(&[2, 1], false).unwrap();
    segments.remove(&[4, 3], true).unwrap();
    assert!(files(&dir).is_empty());
    append(&segments, &[note(5, 9)]).unwrap();
    assert_eq!((files(&dir).len(), orders(&dir)), (1, vec![5]));
    // All of it marked, and the process ended before the file went.
    let path = files(&dir).remove(0);
    let mut removed = std::fs::read(&path).unwrap();
    removed[0] = REMOVED;
    std::fs::write(&path, removed).unwrap();
    assert!(orders(&dir).is_empty() && files(&dir).is_empty());
}

#[test]
fn few_that_stay_do_not_hold_the_room_of_many() {
    let dir = tempfile::tempdir().unwrap();
    let segments = empty(&dir);
    let mut next = 0;
    let mut stay = Vec::new();
    while next < 48 * 64 {
        let some: Vec<_> = (next..next + 64).map(|order| note(order, 16 * 1024)).collect();
        append(&segments, &some).unwrap();
        stay.push(some[7].clone());
        let gone: Vec<_> = (next..next + 64).filter(|order| *order != next + 7).collect();
        segments.remove(&gone, false).unwrap();
        next += 64;
        assert!(bytes(&dir) < 2 * (stay.len() as u64 * 17 * 1024) + SLACK + 2 * SEGMENT);
    }
    for segments in [segments, reopen(&dir).0] {
        for note in &stay {
            assert_eq!(segments.read(note.order).unwrap(), note.content);
        }
    }
}

#[test]
fn what_was_being_moved_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let segments = empty(&dir);
    append(&segments, &[note(1, 5), note(2, 5), note(3, 5)]).unwrap();
    segments.remove(&[2], true).unwrap();
    let before = files(&dir).remove(0);
    let bytes = std::fs::read(&before).unwrap();
    segments.move_records(0).unwrap();
    assert!(!before.exists());
    assert_eq!(segments.read(1).unwrap(), note(1, 5).content);
    // The process ended before the old file was removed.
    std::fs::write(&before, bytes).unwrap();
    let (segments, found) = reopen(&dir);
    assert_eq!(found.iter().map(|(order, _)| *order).collect::<Vec<_>>(), [1, 3]);
    segments.remove(&[1], true).unwrap();
    assert_eq!(orders(&dir), [3]);
}

#[test]
fn of_a_record_that_was_moved_the_whole_copy_stays() {
    for torn_first in [true, false] {
        for others in [0, 1] {
            let dir = tempfile::tempdir().unwrap();
            let segments = empty(&dir);
            let notes: Vec<_> = (1..=2 + others).map(|order| note(order, 50)).collect();
            append(&segments, &notes).unwrap();
            let good = files(&dir).remove(0);
            // The power failed while they were written elsewhere, by blocks in any order.
            let mut torn = std::fs::read(&good).unwrap();
            let at = torn.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            torn[at..at + 50].fill(0);
            let moved = dir.path().join("moved.seg");
            std::fs::write(&moved, torn).unwrap();
            if others == 1 {
                segments.remove(&[3], true).unwrap();
            }
            let segments = empty(&dir);
            let mut found = Vec::new();
            for path in if torn_first { [&moved, &good] } else { [&good, &moved] } {
                let records = segments.load::<(u64, u64, Digest)>(path).unwrap();
                found.extend(records.into_iter().map(|((order, ..), _)| order));
            }
            found.sort_unstable();
            assert!(found.starts_with(&[1, 2]) && found[2..].iter().all(|order| *order == 3));
            for segments in [segments, reopen(&dir).0] {
                assert_eq!(segments.read(1).unwrap(), notes[0].content);
                assert_eq!(segments.read(2).unwrap(), notes[1].content);
                assert!(!lock(&segments.index).damaged.contains(&1));
            }
            let (segments, found) = reopen(&dir);
            segments
                .remove(&found.into_iter().map(|(order, _)| order).collect::<Vec<_>>(), true)
                .unwrap();
            assert!(files(&dir).is_empty());
        }
    }
}

#[test]
fn a_file_that_is_known_already_is_not_taken_for_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let segments = empty(&dir);
    append(&segments, &[note(1, 5), note(2, 5)]).unwrap();
    let path = files(&dir).remove(0);
    assert_eq!(segments.load::<(u64, u64, Digest)>(&path).unwrap(), []);
    assert_eq!(segments.read(2).unwrap(), note(2, 5).content);
    assert_eq!(orders(&dir), [1, 2]);
}

#[test]
fn a_failed_write_leaves_nothing_and_the_next_one_works() {
    let dir = tempfile::tempdir().unwrap();
    let segments = empty(&dir);
    append(&segments, &[note(1, 5)]).unwrap();
    // Its file can be opened for writing no more; a new one would be a directory.
    lock(&segments.writer).as_mut().unwrap().file = File::open(&files(&dir)[0]).unwrap();
    assert!(append(&segments, &[note(2, 5), note(3, 5)]).is_err());
    assert_eq!(orders(&dir), [1]);
    append(&segments, &[note(2, 5)]).unwrap();
    assert_eq!(orders(&dir), [1, 2]);
    std::fs::create_dir(dir.path().join("00000000000000009-note.tmp")).unwrap();
    *lock(&segments.writer) = None;
    assert!(append(&segments, &[note(9, 5)]).is_err());
    assert_eq!(segments.read(9).unwrap_err().kind(), io::ErrorKind::NotFound);
    // A file that has its name, but not for sure.
    disk::CANNOT_SYNC.set(Some(dir.path().to_owned()));
    assert!(append(&segments, &[note(8, 5)]).is_err());
    disk::CANNOT_SYNC.set(None);
    assert_eq!(orders(&dir), [1, 2]);
    segments.remove(&[1, 2], true).unwrap();
    assert!(orders(&dir).is_empty());
}

#[test]
fn what_cannot_be_removed_stays_and_the_others_go() {
    let dir = tempfile::tempdir().unwrap();
    let segments = empty(&dir);
    for order in [1, 2, 3] {
        append(&segments, &[note(order, 5)]).unwrap();
        *lock(&segments.writer) = None;
    }
    let (second, aside) = (files(&dir).remove(1), dir.path().join("aside"));
    std::fs::rename(&second, &aside).unwrap();
    std::fs::create_dir(&second).unwrap();
    assert!(segments.remove(&[1, 2, 3], false).is_err());
    assert_eq!([1, 2, 3].map(|order| segments.contains(order)), [false, true, false]);
    std::fs::remove_dir(&second).unwrap();
    std::fs::rename(&aside, &second).unwrap();
    assert_eq!(segments.read(2).unwrap(), note(2, 5).content);
    segments.remove(&[2], false).unwrap();
    assert!(files(&dir).is_empty());
}

#[test]
fn appending_and_removing_at_the_same_time_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let segments = Arc::new(empty(&dir));
    let writing = std::thread::spawn({
        let segments = segments.clone();
        move || (0..400).for_each(|order| append(&segments, &[note(order, 8000)]).unwrap())
    });
    let mut gone = 0;
    while gone < 300 {
        match segments.read(gone) {
            Ok(content) => {
                assert_eq!(content, note(gone, 8000).content);
                segments.remove(&[gone], false).unwrap();
                gone += 1;
            }
            Err(_) => std::thread::yield_now(),
        }
    }
    writing.join().unwrap();
    let mut left = orders(&dir);
    left.sort_unstable();
    assert_eq!(left, (300..400).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn it_is_a_set_whatever_is_done_and_wherever_the_process_ends(
        steps in proptest::collection::vec((0u8..4, 0usize..6, 0usize..40), 1..40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut segments, mut there, mut next) = (empty(&dir), Vec::new(), 0);
        for (what, count, len) in steps {
            match what {
                0 | 1 => {
                    let new: Vec<_> = (0..=count as u64).map(|n| note(next + n, len)).collect();
                    append(&segments, &new).unwrap();
                    next += new.len() as u64;
                    there.extend(new);
                }
                2 => {
                    let gone: Vec<_> = there.drain(..count.min(there.len())).collect();
                    let orders: Vec<_> = gone.iter().map(|note| note.order).collect();
                    segments.remove(&orders, len % 2 == 0).unwrap();
                }
                _ => segments = reopen(&dir).0,
            }
            for note in &there {
                prop_assert_eq!(&segments.read(note.order).unwrap(), &note.content);
            }
        }
        let mut found = orders(&dir);
        found.sort_unstable();
        prop_assert_eq!(found, there.iter().map(|note| note.order).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_are_a_file_that_is_left_alone_or_records(
        junk in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.seg"), junk).unwrap();
        prop_assert!(orders(&dir).is_empty());
    }
}
