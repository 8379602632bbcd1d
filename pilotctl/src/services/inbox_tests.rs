use super::*;
use pilot_core::service::exchange::{ContentHash, HashAlgorithm};
use std::sync::Arc;

fn address(node: u32) -> Address {
    Address::from_bytes([0, 1, 0, 0, 0, u8::try_from(node).unwrap()])
}

fn put(inbox: &Inbox, from: u32, id: u8, content: &[u8]) -> Result<Delivery, StoreError> {
    let hash = ContentHash::of(HashAlgorithm::Sha256, content);
    let (id, note) = (TransferId([id; 16]), Note::cleaned(b"a\x1bnote"));
    inbox.store(address(from), id, Kind::Text, note, hash, content)
}

fn texts(inbox: &Inbox) -> Vec<String> {
    let read = |info| String::from_utf8(inbox.content(&info).unwrap()).unwrap();
    inbox.list(0, usize::MAX).into_iter().map(read).collect()
}

fn open(dir: &tempfile::TempDir) -> Inbox {
    Inbox::open(dir.path().join("inbox"), InboxLimits::default()).unwrap()
}

#[test]
fn messages_arrive_once_in_order_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(&dir);
    for (i, text) in ["one", "two\nlines", ""].iter().enumerate() {
        assert_eq!(put(&inbox, 16, i as u8, text.as_bytes()).unwrap(), Delivery::New);
        assert_eq!(put(&inbox, 16, i as u8, text.as_bytes()).unwrap(), Delivery::Known);
    }
    // Another sender's message of the same id is another message.
    assert_eq!(put(&inbox, 17, 0, b"other").unwrap(), Delivery::New);
    let before = inbox.list(0, usize::MAX);
    drop(inbox);
    let inbox = open(&dir);
    assert_eq!(inbox.list(0, usize::MAX), before);
    assert_eq!(texts(&inbox), ["one", "two\nlines", "", "other"]);
    assert_eq!(inbox.list(before[1].received_us, 1), before[2..3]);
    assert_eq!(before[0].note.as_str(), "anote");
    assert_eq!(put(&inbox, 16, 1, b"two\nlines").unwrap(), Delivery::Known);
    assert_eq!(inbox.check(address(16), TransferId([1; 16]), 9), Ok(Some(Delivery::Known)));
    assert_eq!(inbox.count(), (4, 17));
}

#[test]
fn a_deleted_message_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(&dir);
    put(&inbox, 16, 1, b"one").unwrap();
    put(&inbox, 16, 2, b"two").unwrap();
    let all = inbox.list(0, usize::MAX);
    assert_eq!(inbox.remove(&all[..1]).unwrap(), 1);
    assert_eq!(inbox.remove(&all[..1]).unwrap(), 0);
    for inbox in [inbox, open(&dir)] {
        assert_eq!(put(&inbox, 16, 1, b"one").unwrap(), Delivery::Known);
        assert_eq!(texts(&inbox), ["two"]);
        assert_eq!(inbox.count(), (1, 3));
    }
}

#[test]
fn what_a_crash_leaves_is_cleared_and_the_message_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("inbox");
    put(&open(&dir), 16, 1, b"one").unwrap();
    let whole = std::fs::read_dir(&path).unwrap().next().unwrap().unwrap();
    // A write that was cut before its rename, and lines that were cut.
    let name = whole.file_name().into_string().unwrap().replace("0101", "0202");
    std::fs::write(path.join(name).with_extension("tmp"), b"{\"id\":").unwrap();
    std::fs::write(path.join("00000000000000001-junk.msg"), b"{\"id\":\"").unwrap();
    std::fs::write(path.join("seen"), b"0:0000.0000.0010 0303").unwrap();
    let inbox = open(&dir);
    assert_eq!(texts(&inbox), ["one"]);
    assert!(
        !std::fs::read_dir(&path).unwrap().any(|e| e
            .unwrap()
            .path()
            .extension()
            .unwrap_or_default()
            == "tmp")
    );
    assert_eq!(put(&inbox, 16, 2, b"two").unwrap(), Delivery::New);
    assert_eq!(put(&inbox, 16, 3, b"three").unwrap(), Delivery::New);
}

#[test]
fn quotas_hold_over_all_and_per_sender() {
    let dir = tempfile::tempdir().unwrap();
    let limits = InboxLimits {
        message_bytes: 10,
        messages: 4,
        bytes: 25,
        sender_messages: 2,
        sender_bytes: 12,
    };
    let inbox = Inbox::open(dir.path().to_path_buf(), limits).unwrap();
    let refusal = |result: Result<Delivery, StoreError>| match result {
        Err(StoreError::Refused(refusal)) => Some(refusal),
        _ => None,
    };
    assert_eq!(refusal(put(&inbox, 16, 0, &[0; 11])), Some(Refusal::TooLarge));
    put(&inbox, 16, 1, &[0; 8]).unwrap();
    assert_eq!(refusal(put(&inbox, 16, 2, &[0; 5])), Some(Refusal::Full), "bytes of a sender");
    put(&inbox, 16, 3, &[0; 4]).unwrap();
    assert_eq!(refusal(put(&inbox, 16, 4, b"")), Some(Refusal::Full), "messages of a sender");
    put(&inbox, 17, 1, &[0; 10]).unwrap();
    assert_eq!(refusal(put(&inbox, 18, 1, &[0; 4])), Some(Refusal::Full), "bytes of all");
    put(&inbox, 18, 1, &[0; 3]).unwrap();
    assert_eq!(refusal(put(&inbox, 19, 1, b"")), Some(Refusal::Full), "messages of all");
    assert_eq!(inbox.check(address(19), TransferId([9; 16]), 0), Err(Refusal::Full));
    inbox.remove(&inbox.list(0, 1)).unwrap();
    put(&inbox, 19, 1, b"").unwrap();
}

#[test]
fn many_streams_with_one_message_store_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = Arc::new(open(&dir));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let inbox = inbox.clone();
            std::thread::spawn(move || put(&inbox, 16, 1, b"once"))
        })
        .collect();
    let new = threads
        .into_iter()
        .filter(|_| true)
        .map(|t| t.join().unwrap())
        .filter(|r| matches!(r, Ok(Delivery::New)))
        .count();
    assert_eq!(new, 1);
    assert_eq!(texts(&inbox), ["once"]);
}

#[test]
fn digests_parse() {
    for digest in [Digest::Sha256([0xA5; 32]), Digest::Blake3([0x5A; 32])] {
        assert_eq!(parse_digest(&digest.to_string()), Some(digest));
    }
    // As earlier versions have stored it.
    assert_eq!(parse_digest(&"a5".repeat(32)), Some(Digest::Sha256([0xA5; 32])));
    assert_eq!(parse_digest("a5"), None);
}

#[test]
fn a_note_of_deleted_messages_that_was_cut_does_not_swallow_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(&dir);
    put(&inbox, 16, 1, b"one").unwrap();
    put(&inbox, 16, 2, b"two").unwrap();
    let all = inbox.list(0, usize::MAX);
    assert_eq!(inbox.remove(&all[..1]).unwrap(), 1);
    // What a disk that runs full leaves of a line.
    let seen = dir.path().join("inbox/seen");
    let text = std::fs::read_to_string(&seen).unwrap();
    std::fs::write(&seen, [&text, "0:0000.0000.0010 0202"].concat()).unwrap();
    assert_eq!(inbox.remove(&all[1..]).unwrap(), 1);
    let inbox = open(&dir);
    assert_eq!(put(&inbox, 16, 1, b"one").unwrap(), Delivery::Known);
    assert_eq!(put(&inbox, 16, 2, b"two").unwrap(), Delivery::Known);
}

#[test]
fn messages_of_a_group_share_a_sync_and_a_file_and_are_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let limits = InboxLimits { sender_messages: 100, ..InboxLimits::default() };
    let inbox = Inbox::open(dir.path().join("inbox"), limits).unwrap();
    let arrived = |from: u32, id: u8| {
        let content = vec![b'0' + from as u8; 3];
        let hash = ContentHash::of(HashAlgorithm::Sha256, &content);
        let (from, id) = (address(from), TransferId([id; 16]));
        Arrived { from, id, kind: Kind::Text, note: Note::default(), hash, content, turn: None }
    };
    // One that comes twice, and one too many.
    let mut group: Vec<_> = (0..101).map(|id| arrived(1, id)).collect();
    group.extend([arrived(1, 5), arrived(2, 5)]);
    let outcomes = inbox.store_all(&group);
    assert!(outcomes[..100].iter().all(|o| matches!(o, Ok(Delivery::New))));
    assert!(matches!(outcomes[100], Err(StoreError::Refused(Refusal::Full))));
    assert!(matches!(outcomes[101..], [Ok(Delivery::Known), Ok(Delivery::New)]));
    assert_eq!((inbox.syncs(), inbox.count()), (1, (101, 303)));
    let ids = |inbox: &Inbox| inbox.list(0, 999).iter().map(|m| m.id.0[0]).collect::<Vec<_>>();
    let expected: Vec<u8> = (0..100).chain([5]).collect();
    assert_eq!(ids(&inbox), expected);
    assert_eq!(texts(&inbox)[99..], ["111", "222"]);
    let files = std::fs::read_dir(dir.path().join("inbox")).unwrap().count();
    assert_eq!((files, ids(&open(&dir))), (1, expected));
}

#[test]
fn a_message_that_was_written_twice_is_there_once() {
    for earlier in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        put(&open(&dir), 16, 1, b"once").unwrap();
        let acknowledged = open(&dir).list(0, 9);
        let file = std::fs::read_dir(dir.path().join("inbox")).unwrap().next().unwrap().unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let at = acknowledged[0].received_us;
        let other = if earlier { at - 1 } else { at + 1 };
        let text = text.replace(&at.to_string(), &other.to_string());
        std::fs::write(file.path().with_file_name("00-other.msg"), text).unwrap();
        let inbox = open(&dir);
        assert_eq!(inbox.count(), (1, 4));
        let there = inbox.list(0, 9);
        assert_eq!(there[0].received_us, at.max(other));
        assert_eq!(texts(&inbox), ["once"]);
        assert_eq!(inbox.remove(&there).unwrap(), 1);
        assert_eq!(open(&dir).count(), (0, 0));
        assert_eq!(std::fs::read_dir(dir.path().join("inbox")).unwrap().count(), 1, "seen");
    }
}

#[test]
fn the_time_of_arrival_does_not_go_back_behind_what_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(&dir);
    // The clock was an hour ahead, and goes right from the next start on.
    inbox.state().last_us = disk::unix_micros() + 3_600_000_000;
    for id in [1, 2] {
        put(&inbox, 16, id, b"early").unwrap();
    }
    let all = inbox.list(0, 9);
    inbox.remove(&all[1..]).unwrap();
    inbox.remove(&all[..1]).unwrap();
    drop(inbox);
    let inbox = open(&dir);
    put(&inbox, 16, 3, b"next").unwrap();
    assert_eq!(inbox.list(all[1].received_us, 9).len(), 1);
}

#[test]
fn a_damaged_message_is_not_shown_and_the_others_are() {
    let dir = tempfile::tempdir().unwrap();
    let inbox = open(&dir);
    for (id, text) in [(1, "one"), (2, "two"), (3, "three")] {
        put(&inbox, 16, id, text.as_bytes()).unwrap();
    }
    let file = std::fs::read_dir(dir.path().join("inbox")).unwrap().next().unwrap().unwrap().path();
    let text = String::from_utf8(std::fs::read(&file).unwrap()).unwrap();
    std::fs::write(&file, text.replace("\ntwo", "\nTWO")).unwrap();
    for _ in 0..2 {
        assert_eq!(texts(&open(&dir)), ["one", "three"]);
    }
    // It was not acknowledged, or is lost: it may come again.
    assert_eq!(put(&open(&dir), 16, 2, b"two").unwrap(), Delivery::New);
}
