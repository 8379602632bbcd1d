use super::*;
use pilot_core::service::exchange::{ContentHash, Failure, HashAlgorithm, Kind};

fn address(node: u8) -> Address {
    Address::from_bytes([0, 1, 0, 0, 0, node])
}

fn offer(id: u8, name: &str, size: u64) -> Offer {
    let name = Some(name.parse().unwrap());
    let (id, kind, hash) = (TransferId([id; 16]), Kind::File, HashAlgorithm::Blake3);
    Offer { id, kind, size, hash, name, note: Note::cleaned(b"n") }
}

fn open(dir: &tempfile::TempDir) -> Arc<Received> {
    with(dir, ReceivedLimits { keep_free: 0, ..ReceivedLimits::default() })
}

fn with(dir: &tempfile::TempDir, limits: ReceivedLimits) -> Arc<Received> {
    Received::open(dir.path().join("received"), limits).unwrap()
}

fn go(received: &Arc<Received>, from: u8, offer: &Offer) -> Incoming {
    match received.begin(address(from), offer) {
        Ok(Begin::Go(incoming)) => incoming,
        Ok(Begin::Have) => panic!("have it"),
        Err(refusal) => panic!("{refusal}"),
    }
}

fn hashed(content: &[u8]) -> Digest {
    ContentHash::of(HashAlgorithm::Blake3, content)
}

fn put(received: &Arc<Received>, from: u8, id: u8, name: &str, content: &[u8]) -> FileInfo {
    let mut incoming = go(received, from, &offer(id, name, content.len() as u64));
    let rest = &content[usize::try_from(incoming.offset()).unwrap()..];
    incoming.write(rest).unwrap();
    incoming.finish(hashed(content)).unwrap()
}

fn names(received: &Received) -> Vec<String> {
    let files = received.list(0, usize::MAX).into_iter();
    files.filter(|(_, there)| *there).map(|(info, _)| info.name.to_string()).collect()
}

fn refusal(result: Result<Begin, Refusal>) -> Option<Refusal> {
    result.err()
}

#[test]
fn files_land_whole_under_names_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let received = open(&dir);
    let first = put(&received, 16, 1, "data.csv", b"one");
    let second = put(&received, 17, 1, "data.csv", b"two");
    // The user's own files are not replaced either.
    std::fs::write(dir.path().join("received/data (3).csv"), "mine").unwrap();
    let third = put(&received, 16, 2, "data.csv", b"");
    assert_eq!(names(&received), ["data.csv", "data (2).csv", "data (4).csv"]);
    assert_eq!(std::fs::read(received.path(&first)).unwrap(), b"one");
    assert_eq!(std::fs::read(received.path(&second)).unwrap(), b"two");
    assert_eq!(std::fs::read(received.path(&third)).unwrap(), b"");
    assert_eq!(received.find(address(16), first.id), Some((first, true)));
    assert_eq!(received.find(address(18), second.id), None);
    assert_eq!(std::fs::read_dir(dir.path().join("received/.partial")).unwrap().count(), 0);
    let before = received.list(0, usize::MAX);
    drop(received);
    let received = open(&dir);
    assert_eq!(received.list(0, usize::MAX), before);
    assert!(matches!(received.begin(address(16), &offer(1, "data.csv", 3)), Ok(Begin::Have)));
    assert_eq!(before[0].0.hash, hashed(b"one"));
    assert_eq!(received.list(before[0].0.received_us, 1), before[1..2]);
}

#[test]
fn an_interrupted_file_goes_on_from_what_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let offer = offer(1, "data.csv", 6);
    let received = open(&dir);
    let mut incoming = go(&received, 16, &offer);
    incoming.write(b"abc").unwrap();
    drop(incoming);
    for (received, have) in [(received, "abc"), (open(&dir), "abc"), (open(&dir), "abc")] {
        let incoming = go(&received, 16, &offer);
        assert_eq!(incoming.offset(), have.len() as u64);
        assert_eq!(incoming.hash().digest(), hashed(have.as_bytes()));
    }
    // A crash: bytes behind the noted offset are not believed.
    let part = dir.path().join("received/.partial");
    let part = std::fs::read_dir(part).unwrap().map(|e| e.unwrap().path());
    let part = part.into_iter().find(|p| p.extension().unwrap() == "part").unwrap();
    std::fs::write(&part, b"abc\0\0").unwrap();
    let received = open(&dir);
    assert_eq!(go(&received, 16, &offer).offset(), 3);
    // The file is shorter than noted: what is there counts.
    std::fs::write(&part, b"ab").unwrap();
    assert_eq!(go(&received, 16, &offer).offset(), 2);
    let info = put(&received, 16, 1, "data.csv", b"abcdef");
    assert_eq!(std::fs::read(received.path(&info)).unwrap(), b"abcdef");
    // Another size under the same id is another file.
    let mut incoming = go(&received, 16, &self::offer(2, "x", 6));
    incoming.write(b"abc").unwrap();
    drop(incoming);
    assert_eq!(go(&received, 16, &self::offer(2, "x", 7)).offset(), 0);
}

#[test]
fn a_crash_in_the_middle_of_a_large_file_costs_a_bounded_part_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let offer = offer(1, "large", 1 << 30);
    let mut incoming = go(&open(&dir), 16, &offer);
    let block: Vec<u8> = (0..1 << 20).map(|n: u32| (n >> 8) as u8).collect();
    for _ in 0..80 {
        incoming.write(&block).unwrap();
    }
    // Nothing of what it would do at its end happens.
    std::mem::forget(incoming);
    let there = go(&open(&dir), 16, &offer).offset();
    assert!((16 << 20..=80 << 20).contains(&there), "{there}");

    // To the end in order: nothing is lost, by the same hash or another.
    let offer = self::offer(2, "whole", 40 << 20);
    let received = open(&dir);
    let mut incoming = go(&received, 16, &offer);
    for _ in 0..20 {
        incoming.write(&block).unwrap();
    }
    drop(incoming);
    let offer = Offer { hash: HashAlgorithm::Sha256, ..offer };
    let mut incoming = go(&received, 16, &offer);
    assert_eq!(incoming.offset(), 20 << 20);
    let mut hash = incoming.hash();
    for _ in 0..20 {
        incoming.write(&block).unwrap();
        hash.update(&block);
    }
    let info = incoming.finish(hash.digest()).unwrap();
    let content = block.repeat(40);
    assert_eq!(info.hash, ContentHash::of(HashAlgorithm::Sha256, &content));
    assert!(std::fs::read(received.path(&info)).unwrap() == content);
}

#[test]
fn a_wrong_hash_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let received = open(&dir);
    let mut incoming = go(&received, 16, &offer(1, "a", 3));
    incoming.write(b"abc").unwrap();
    incoming.discard();
    assert_eq!(go(&received, 16, &offer(1, "a", 3)).offset(), 0);
    assert_eq!(names(&received), [""; 0]);
    // And one that is not whole gets no name.
    let mut incoming = go(&received, 16, &offer(2, "b", 3));
    incoming.write(b"ab").unwrap();
    assert_eq!(incoming.finish(hashed(b"ab")), Err(Failure::Failed));
    assert_eq!(names(&received), [""; 0]);
}

#[test]
fn a_crash_between_index_and_name_is_mended() {
    for stolen in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let received = open(&dir);
        let info = put(&received, 16, 1, "data.csv", b"abc");
        drop(received);
        // Back to the moment before the rename.
        let root = dir.path().join("received");
        let part = root.join(".partial").join(format!("{:08x}-{}.part", 16, info.id));
        std::fs::rename(root.join("data.csv"), &part).unwrap();
        std::fs::write(root.join(".partial/leftover.tmp"), "x").unwrap();
        std::fs::write(root.join(".partial/nobody.part"), "x").unwrap();
        if stolen {
            std::fs::write(root.join("data.csv"), "mine").unwrap();
        }
        let received = open(&dir);
        let name = if stolen { "data (2).csv" } else { "data.csv" };
        assert_eq!(names(&received), [name]);
        assert_eq!(std::fs::read(root.join(name)).unwrap(), b"abc");
        assert_eq!(std::fs::read_dir(root.join(".partial")).unwrap().count(), 0);
        assert!(matches!(received.begin(address(16), &offer(1, "data.csv", 3)), Ok(Begin::Have)));
        drop(received);
        assert_eq!(names(&open(&dir)), [name]);
    }
}

#[test]
fn a_file_whose_name_could_not_be_synced_does_not_get_another() {
    let tree = tree(2);
    let as_file = (offer(1, "data.csv", 3), b"abc".to_vec());
    for (offer, content) in [as_file, (directory(1, "tree", tree.len() as u64), tree)] {
        let dir = tempfile::tempdir().unwrap();
        let received = open(&dir);
        let name = offer.name.clone().unwrap().to_string();
        // Before it has its name: it goes on as a partial one, and nothing is left of its entry.
        let mut incoming = go(&received, 16, &offer);
        incoming.write(&content).unwrap();
        disk::CANNOT_SYNC.set(Some(dir.path().join("received/.index")));
        assert_eq!(incoming.finish(hashed(&content)), Err(Failure::Failed));
        disk::CANNOT_SYNC.set(None);
        let indexed = || std::fs::read_dir(dir.path().join("received/.index")).unwrap().count();
        assert_eq!((indexed(), names(&received)), (0, vec![]));
        // After that: it has come, and its sender is told so once that is durable.
        let incoming = go(&received, 16, &offer);
        assert_eq!(incoming.offset(), content.len() as u64);
        disk::CANNOT_SYNC.set(Some(dir.path().join("received")));
        assert_eq!(incoming.finish(hashed(&content)), Err(Failure::Failed));
        assert_eq!(refusal(received.begin(address(16), &offer)), Some(Refusal::Failed));
        disk::CANNOT_SYNC.set(None);
        assert!(matches!(received.begin(address(16), &offer), Ok(Begin::Have)));
        assert_eq!((indexed(), names(&received)), (1, vec![name.clone()]));
        assert_eq!(std::fs::read_dir(dir.path().join("received/.partial")).unwrap().count(), 0);
        drop(received);
        assert_eq!(names(&open(&dir)), [name]);
    }
}

#[test]
fn an_entry_of_a_failed_attempt_goes_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let info = put(&open(&dir), 16, 1, "data.csv", b"abc");
    let entry =
        |at: u64| dir.path().join("received/.index").join(format!("{at:017}-{}.json", info.id));
    let text = std::fs::read_to_string(entry(info.received_us)).unwrap();
    let earlier = info.received_us - 1;
    let text = text.replace(&info.received_us.to_string(), &earlier.to_string());
    std::fs::write(entry(earlier), text).unwrap();
    let received = open(&dir);
    assert_eq!(received.list(0, 9), [(info.clone(), true)]);
    assert!(!entry(earlier).exists() && entry(info.received_us).exists());
}

#[test]
fn quotas_hold_and_make_room_where_they_can() {
    let dir = tempfile::tempdir().unwrap();
    let limits = ReceivedLimits {
        files: 3,
        bytes: 20,
        sender_files: 2,
        sender_bytes: 12,
        entries: 9,
        sender_entries: 9,
        partials: 3,
        sender_partials: 2,
        keep_free: 0,
        partial_age: Duration::from_secs(3600),
    };
    let received = with(&dir, limits);
    let begin = |from, id, size| refusal(received.begin(address(from), &offer(id, "f", size)));
    assert_eq!(begin(16, 1, 13), Some(Refusal::TooLarge));
    put(&received, 16, 1, "a", &[0; 8]);
    assert_eq!(begin(16, 2, 5), Some(Refusal::Full), "bytes of a sender");
    let second = put(&received, 16, 2, "b", &[0; 4]);
    assert_eq!(begin(16, 3, 0), Some(Refusal::Full), "files of a sender");
    assert_eq!(begin(17, 1, 9), Some(Refusal::Full), "bytes of all");
    // An unfinished file reserves its whole size ...
    let held = go(&received, 17, &offer(1, "f", 8));
    assert_eq!(begin(18, 1, 1), Some(Refusal::Full));
    drop(held);
    assert_eq!(begin(18, 1, 1), Some(Refusal::Full));
    // ... and what the user has moved away does not count.
    std::fs::remove_file(received.path(&second)).unwrap();
    assert_eq!(begin(18, 1, 1), None);
    assert_eq!(begin(17, 2, 0), None);
    // The sender's third partial pushes out its own oldest.
    assert_eq!(begin(17, 3, 0), None);
    assert!(
        !received.state().partials.contains_key(&(address(17).on_backbone(), TransferId([1; 16])))
    );
    // All places taken by active ones: busy.
    let _held: Vec<_> =
        [(17, 2), (17, 3), (18, 1)].map(|(f, i)| go(&received, f, &offer(i, "f", 0))).into();
    assert_eq!(begin(19, 1, 0), Some(Refusal::Busy));
}

#[test]
fn a_nearly_full_disk_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let limits = ReceivedLimits { keep_free: u64::MAX, ..ReceivedLimits::default() };
    let received = with(&dir, limits);
    assert_eq!(refusal(received.begin(address(16), &offer(1, "f", 1))), Some(Refusal::Full));
}

#[test]
fn what_others_may_write_still_is_not_free() {
    let dir = tempfile::tempdir().unwrap();
    let limits = |keep_free| ReceivedLimits { keep_free, ..ReceivedLimits::default() };
    // Other programs use the disk meanwhile, but not an eighth of what is free.
    let free = disk::free_bytes(dir.path()).unwrap();
    let part = free.min(64 << 30) / 8;
    let received = with(&dir, limits(free - 8 * part));
    let (large, tree) = (offer(1, "f", 5 * part), directory(2, "d", 3 * part));
    let mut held = go(&received, 16, &large);
    assert_eq!(refusal(received.begin(address(17), &large)), Some(Refusal::Full));
    assert_eq!(refusal(received.begin(address(17), &tree)), Some(Refusal::Full));
    drop(go(&received, 17, &offer(2, "f", 2 * part)));
    held.write(b"abc").unwrap();
    // Nobody sends it any more.
    drop(held);
    let held = go(&received, 17, &tree);
    assert_eq!(refusal(received.begin(address(16), &large)), Some(Refusal::Full));
    drop(held);
    drop(go(&received, 16, &large));
}

#[test]
fn a_list_ends_before_a_file_that_still_gets_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let received = open(&dir);
    let whole = |id| {
        let mut incoming = go(&received, 16, &offer(id, "f", 3));
        incoming.write(b"abc").unwrap();
        incoming
    };
    let mut first = whole(1);
    let (path, entries) = first.make_whole().unwrap();
    let info = first.describe(entries, hashed(b"abc")).unwrap();
    let second = put(&received, 16, 2, "f", b"two");
    assert!(info.received_us < second.received_us);
    // Whoever has seen the second would never ask for the first.
    assert_eq!(received.list(0, 9), []);
    let first = first.name(&path, info).unwrap();
    assert_eq!(received.list(0, 9), [(first, true), (second.clone(), true)]);
    // One that fails holds up nothing.
    let mut third = whole(3);
    let (path, entries) = third.make_whole().unwrap();
    let info = third.describe(entries, hashed(b"abc")).unwrap();
    std::fs::remove_file(&path).unwrap();
    let fourth = put(&received, 16, 4, "f", b"four");
    assert_eq!(received.list(second.received_us, 9), []);
    assert_eq!(third.name(&path, info), Err(Failure::Failed));
    assert_eq!(received.list(second.received_us, 9), [(fourth, true)]);
}

#[test]
fn a_file_of_another_in_its_place_is_not_it() {
    let dir = tempfile::tempdir().unwrap();
    let received = open(&dir);
    let first = put(&received, 16, 1, "data.csv", b"one");
    std::fs::rename(received.path(&first), dir.path().join("kept")).unwrap();
    let second = put(&received, 17, 1, "data.csv", b"two");
    for received in [received, open(&dir)] {
        assert_eq!(received.find(address(16), first.id), Some((first.clone(), false)));
        assert_eq!(received.find(address(17), second.id), Some((second.clone(), true)));
        assert_eq!(received.list(0, 9), [(first.clone(), false), (second.clone(), true)]);
    }
    // Nor does it take a place among what is there.
    let received = open(&dir);
    received.prune_index(&mut received.state());
    assert_eq!(open(&dir).list(0, 9), [(second, true)]);
}

#[test]
fn offers_without_room_do_not_look_through_the_folder_each() {
    let dir = tempfile::tempdir().unwrap();
    let received = with(&dir, ReceivedLimits { files: 1, keep_free: 0, ..Default::default() });
    let info = put(&received, 16, 1, "f", b"abc");
    std::thread::sleep(Duration::from_millis(60));
    let full = || refusal(received.begin(address(16), &offer(2, "g", 1))) == Some(Refusal::Full);
    assert!(full());
    let looked = received.state().look.last().unwrap();
    assert!((0..20).all(|_| full()));
    assert_eq!(received.state().look.last(), Some(looked));
    // There is room as soon as it is made.
    std::fs::remove_file(received.path(&info)).unwrap();
    assert!(!full());
}

#[test]
fn the_time_of_arrival_does_not_go_back_behind_what_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let received = open(&dir);
    // The clock was an hour ahead, and goes right from the next start on.
    received.state().last_us = disk::unix_micros() + 3_600_000_000;
    let early = put(&received, 16, 1, "f", b"early");
    std::fs::remove_file(received.path(&early)).unwrap();
    received.prune_index(&mut received.state());
    drop(received);
    let next = put(&open(&dir), 16, 2, "g", b"next");
    assert!(next.received_us > early.received_us);
}

#[test]
fn old_partials_are_removed_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let received = open(&dir);
    go(&received, 16, &offer(1, "f", 1)).write(b"").unwrap();
    drop(received);
    let limits = ReceivedLimits { partial_age: Duration::ZERO, ..ReceivedLimits::default() };
    std::thread::sleep(Duration::from_millis(2));
    let received = with(&dir, limits);
    assert!(received.state().partials.is_empty());
    assert_eq!(std::fs::read_dir(dir.path().join("received/.partial")).unwrap().count(), 0);
}

#[test]
fn a_newer_stream_takes_a_transfer_over() {
    let dir = tempfile::tempdir().unwrap();
    let received = open(&dir);
    let mut old = go(&received, 16, &offer(1, "f", 6));
    old.write(b"abc").unwrap();
    let active = old.active();
    let old = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(active.superseded());
        drop(old);
    });
    let new = go(&received, 16, &offer(1, "f", 6));
    assert_eq!(new.offset(), 3);
    old.join().unwrap();
}

#[test]
fn a_file_that_cannot_be_opened_or_named_now_keeps_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let offer = offer(1, "data.csv", 6);
    let received = open(&dir);
    let mut incoming = go(&received, 16, &offer);
    incoming.write(b"abc").unwrap();
    drop(incoming);
    // Something is in the way for a moment.
    let part = received.part_path(&(address(16).on_backbone(), offer.id), "part");
    let aside = part.with_extension("aside");
    std::fs::rename(&part, &aside).unwrap();
    std::os::unix::fs::symlink(&aside, &part).unwrap();
    assert_eq!(refusal(received.begin(address(16), &offer)), Some(Refusal::Failed));
    std::fs::rename(&aside, &part).unwrap();
    let mut incoming = go(&received, 16, &offer);
    assert_eq!(incoming.offset(), 3);

    // No name can be given: no entry of a file that nobody has stays behind.
    incoming.write(b"def").unwrap();
    std::fs::rename(&part, &aside).unwrap();
    assert_eq!(incoming.finish(hashed(b"abcdef")), Err(Failure::Failed));
    assert_eq!(std::fs::read_dir(dir.path().join("received/.index")).unwrap().count(), 0);
    std::fs::rename(&aside, &part).unwrap();
    assert_eq!(go(&received, 16, &offer).offset(), 6);
}

fn directory(id: u8, name: &str, size: u64) -> Offer {
    Offer { kind: Kind::Directory, ..offer(id, name, size) }
}

/// A directory with this many empty files, and a directory within.
fn tree(files: u32) -> Vec<u8> {
    use pilot_core::service::exchange::TreeWriter;
    let mut writer = TreeWriter::new();
    let mut content = Vec::new();
    content.extend(writer.enter(&"d".parse().unwrap()).unwrap());
    for n in 0..files {
        content.extend(writer.file(&format!("{n:04}").parse().unwrap(), 0).unwrap());
    }
    content.extend(writer.leave().unwrap());
    content.extend(writer.file(&"e".parse().unwrap(), 5).unwrap());
    content.extend(b"hello");
    content.extend(writer.leave().unwrap());
    content
}

fn put_tree(
    received: &Arc<Received>,
    from: u8,
    id: u8,
    content: &[u8],
) -> Result<FileInfo, Failure> {
    let mut incoming = go(received, from, &directory(id, "tree", content.len() as u64));
    let rest = &content[usize::try_from(incoming.offset()).unwrap()..];
    incoming.write(rest).unwrap();
    incoming.finish(hashed(content))
}

#[test]
fn a_directory_is_in_sight_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let received = open(&dir);
    let content = tree(3);
    // A link in the way of the name is not followed.
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, dir.path().join("received/tree")).unwrap();
    let mut incoming = go(&received, 16, &directory(1, "tree", content.len() as u64));
    incoming.write(&content[..20]).unwrap();
    drop(incoming);
    assert_eq!(names(&received), Vec::<String>::new());
    let info = put_tree(&received, 16, 1, &content).unwrap();
    assert_eq!((info.name.as_str(), info.kind, info.entries), ("tree (2)", Kind::Directory, 5));
    assert_eq!(std::fs::read(received.path(&info).join("e")).unwrap(), b"hello");
    assert_eq!(std::fs::read_dir(received.path(&info).join("d")).unwrap().count(), 3);
    assert_eq!(std::fs::read_dir(dir.path().join("received/.partial")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    drop(received);
    let received = open(&dir);
    assert_eq!(received.list(0, 9), [(info.clone(), true)]);
    let again = received.begin(address(16), &directory(1, "tree", content.len() as u64));
    assert!(matches!(again, Ok(Begin::Have)));
    std::fs::remove_dir_all(received.path(&info)).unwrap();
    assert_eq!(received.list(0, 9), [(info, false)]);
}

#[test]
fn what_is_no_directory_or_has_too_many_entries_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let limits =
        ReceivedLimits { entries: 8, sender_entries: 6, keep_free: 0, ..Default::default() };
    let received = with(&dir, limits);
    assert_eq!(put_tree(&received, 16, 1, b"\x02\x02..12345678").unwrap_err(), Failure::BadContent);
    assert_eq!(put_tree(&received, 16, 2, &tree(5)).unwrap_err(), Failure::Full);
    // What was refused for want of room is kept, and goes on when there is some.
    put_tree(&received, 16, 3, &tree(4)).unwrap();
    assert_eq!(put_tree(&received, 17, 1, &tree(1)).unwrap_err(), Failure::Full, "of all");
    // While another directory of theirs waits for its name, its entries are taken.
    let taken = (address(18).on_backbone(), TransferId([9; 16]));
    drop(go(&received, 18, &directory(9, "tree", 9)));
    std::fs::remove_dir_all(dir.path().join("received/tree")).unwrap();
    assert!(!received.take_entries(&taken, 3) && received.take_entries(&taken, 2));
    // What the user has moved away does not count.
    put_tree(&received, 17, 1, &tree(4)).unwrap();
    assert_eq!(names(&received), ["tree"]);
    assert!(!received.take_entries(&taken, 3) && received.take_entries(&taken, 2));
}

#[test]
fn what_was_here_and_is_gone_does_not_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let limits = ReceivedLimits { sender_files: 2, keep_free: 0, ..Default::default() };
    let received = with(&dir, limits);
    let first = put(&received, 16, 1, "a", b"one");
    let second = put(&received, 16, 2, "b", b"two");
    for info in [&first, &second] {
        std::fs::remove_file(received.path(info)).unwrap();
    }
    // Their sender has not learnt that they have arrived; meanwhile there was no place for
    // their entries.
    let third = put(&received, 16, 3, "c", b"three");
    assert_eq!(received.list(0, 9), [(third, true)]);
    let again = |received: &Arc<Received>, from, id| {
        matches!(received.begin(address(from), &offer(id, "a", 3)), Ok(Begin::Have))
    };
    drop(received);
    let received = with(&dir, limits);
    assert!(again(&received, 16, 1) && again(&received, 16, 2) && again(&received, 16, 3));
    assert!(!again(&received, 16, 4) && !again(&received, 17, 1));
    assert_eq!(names(&received), ["c"]);
}

#[test]
fn a_crash_while_a_directory_is_made_or_named_is_mended() {
    let content = tree(2);
    let size = content.len() as u64;
    let partial = |dir: &tempfile::TempDir, end: &str| {
        let name = format!("received/.partial/{:08x}-{}.{end}", 16, TransferId([1; 16]));
        dir.path().join(name)
    };
    // While it is made: nothing is in sight, and it is made anew.
    let dir = tempfile::tempdir().unwrap();
    let received = open(&dir);
    let mut incoming = go(&received, 16, &directory(1, "tree", size));
    incoming.write(&content).unwrap();
    drop(incoming);
    std::fs::create_dir(partial(&dir, "tree")).unwrap();
    std::fs::write(partial(&dir, "tree").join("e"), "he").unwrap();
    drop(received);
    let received = open(&dir);
    assert!(!partial(&dir, "tree").exists() && names(&received).is_empty());
    assert_eq!(go(&received, 16, &directory(1, "tree", size)).offset(), size);
    let info = put_tree(&received, 16, 1, &content).unwrap();

    // Between its index entry and its name, and between that and the end of its content.
    for is_named in [false, true] {
        drop(open(&dir));
        std::fs::write(partial(&dir, "part"), &content).unwrap();
        if !is_named {
            std::fs::rename(dir.path().join("received/tree"), partial(&dir, "tree")).unwrap();
        }
        let received = open(&dir);
        assert_eq!(received.list(0, 9), [(info.clone(), true)]);
        assert_eq!(std::fs::read(received.path(&info).join("e")).unwrap(), b"hello");
        assert_eq!(std::fs::read_dir(dir.path().join("received/.partial")).unwrap().count(), 0);
    }
}

#[test]
fn what_a_sender_has_left_unfinished_makes_room_for_its_next() {
    let dir = tempfile::tempdir().unwrap();
    let limits = ReceivedLimits { bytes: 20, sender_bytes: 10, keep_free: 0, ..Default::default() };
    let received = with(&dir, limits);
    for (from, id, size) in [(16, 1, 4), (16, 2, 4), (17, 1, 9)] {
        let mut incoming = go(&received, from, &offer(id, "f", size));
        incoming.write(b"abc").unwrap();
        drop(incoming);
    }
    // The older of its own goes, and no more than must; nobody else's.
    put(&received, 16, 3, "next", b"123456");
    let offset = |from, id, size| go(&received, from, &offer(id, "f", size)).offset();
    assert_eq!((offset(16, 2, 4), offset(17, 1, 9)), (3, 3));
    let full = received.begin(address(16), &offer(1, "f", 4));
    assert!(matches!(full, Ok(Begin::Go(incoming)) if incoming.offset() == 0));
    // Nothing goes where that would not help, and one that is being sent stays.
    let small = go(&received, 18, &offer(1, "f", 1));
    assert_eq!(refusal(received.begin(address(17), &offer(2, "f", 10))), Some(Refusal::Full));
    assert_eq!(offset(17, 1, 9), 3);
    drop(small);
    let held = go(&received, 16, &offer(1, "f", 4));
    assert_eq!(refusal(received.begin(address(16), &offer(4, "f", 4))), Some(Refusal::Full));
    drop(held);
}
