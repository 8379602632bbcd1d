use super::*;
use crate::services::push::PUSHED;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

fn peer(node: u8) -> Address {
    Address::from_bytes([0, 1, 0, 0, 0, node])
}

fn open(dir: &tempfile::TempDir) -> Outbox {
    Outbox::open(dir.path().join("outbox"), OutboxLimits::default()).unwrap()
}

fn put(outbox: &Outbox, to: u8, text: &str) -> Item {
    outbox.put(peer(to), Kind::Text, text.as_bytes()).unwrap()
}

fn texts(outbox: &Outbox, to: u8) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(item) = outbox.begin(peer(to).on_backbone(), Lane::Messages) {
        texts.push(String::from_utf8(outbox.content(&item).unwrap()).unwrap());
        assert!(outbox.settle(item.id, ItemState::Delivered, None).unwrap());
    }
    texts
}

fn files(dir: &tempfile::TempDir) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.path().join("outbox")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "out"));
    files.sort();
    files
}

fn reason(message: &str) -> Reason {
    Reason { code: "no_answer".into(), message: message.into() }
}

#[test]
fn messages_wait_in_order_per_receiver_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = open(&dir);
    let first = put(&outbox, 16, "one");
    put(&outbox, 17, "other");
    put(&outbox, 16, "two\nlines");
    drop(outbox);
    for file in files(&dir) {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let outbox = open(&dir);
    put(&outbox, 16, "");
    assert_eq!(outbox.count(), (4, 17));
    assert_eq!(outbox.receivers(), [peer(16).on_backbone(), peer(17).on_backbone()]);
    let found = outbox.find(first.id).unwrap();
    assert!(found.may_have_arrived && found.state == ItemState::Queued);
    assert_eq!(found.to, peer(16), "with its network");
    assert_eq!(texts(&outbox, 16), ["one", "two\nlines", ""]);
    assert_eq!(texts(&outbox, 17), ["other"]);
    assert_eq!(outbox.count(), (0, 0));
    assert!(files(&dir).is_empty() && outbox.receivers().is_empty());
    assert_eq!(open(&dir).find(first.id).unwrap().state, ItemState::Delivered);
}

#[test]
fn numbers_count_per_receiver_and_no_start_repeats_one() {
    let dir = tempfile::tempdir().unwrap();
    let number = |item: Item| item.id.number().unwrap();
    let outbox = open(&dir);
    let ids = [number(put(&outbox, 16, "a")), number(put(&outbox, 17, "b"))];
    assert_eq!((ids[0].1, ids[1].1), (1, 1));
    assert_ne!(ids[0].0, ids[1].0, "each receiver has an incarnation of its own");
    assert_eq!(number(put(&outbox, 16, "c")), (ids[0].0, 2));
    drop(outbox);
    let next = number(put(&open(&dir), 16, "d"));
    assert_eq!(next.1, 1);
    assert_ne!(next.0, ids[0].0);
}

#[test]
fn a_file_that_was_torn_is_never_sent_and_never_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = open(&dir);
    let mut ends = Vec::new();
    for text in ["whole", "changed", "last"] {
        put(&outbox, 16, text);
        ends.push(std::fs::metadata(&files(&dir)[0]).unwrap().len() as usize);
    }
    drop(outbox);
    let [file] = &files(&dir)[..] else { panic!("one file") };
    let bytes = std::fs::read(file).unwrap();
    // A write that was cut before its rename.
    std::fs::write(file.with_extension("tmp"), &bytes[..bytes.len() / 2]).unwrap();
    for len in 0..bytes.len() {
        std::fs::write(file, &bytes[..len]).unwrap();
        let outbox = open(&dir);
        let whole = ends.iter().filter(|end| **end <= len).count();
        assert_eq!(outbox.count().0, whole, "cut at {len}");
    }
    assert!(!file.with_extension("tmp").exists());
    std::fs::write(file, [&bytes[..], b"more"].concat()).unwrap();
    assert_eq!(open(&dir).count().0, 3);
    let mut damaged = bytes.clone();
    damaged[ends[1] - 7..ends[1]].copy_from_slice(b"CHANGED");
    std::fs::write(file, damaged).unwrap();
    let outbox = open(&dir);
    assert_eq!(outbox.count().0, 3);
    let begin = || outbox.begin(peer(16).on_backbone(), Lane::Messages).unwrap();
    let item = begin();
    assert_eq!(outbox.content(&item).unwrap(), b"whole");
    outbox.settle(item.id, ItemState::Delivered, None).unwrap();
    let item = begin();
    let error = outbox.content(&item).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    outbox.settle(item.id, ItemState::Refused, None).unwrap();
    assert_eq!(outbox.content(&begin()).unwrap(), b"last");
}

#[test]
fn a_crash_while_settling_settles_or_sends_again() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = open(&dir);
    let item = put(&outbox, 16, "one");
    let [file] = &files(&dir)[..] else { panic!() };
    let content = std::fs::read(file).unwrap();
    outbox.settle(item.id, ItemState::Delivered, None).unwrap();
    drop(outbox);
    // The line was written, the file not yet removed.
    std::fs::write(file, &content).unwrap();
    let outbox = open(&dir);
    assert_eq!((outbox.count().0, outbox.find(item.id).unwrap().state), (0, ItemState::Delivered));
    assert!(!file.exists());
    drop(outbox);
    // The line was cut: it goes out again with the same id, which the receiver knows.
    let path = dir.path().join("outbox/settled");
    let line = std::fs::read(&path).unwrap();
    for len in 0..line.len() - 1 {
        std::fs::write(&path, &line[..len]).unwrap();
        std::fs::write(file, &content).unwrap();
        let outbox = open(&dir);
        assert_eq!(outbox.find(item.id).unwrap().state, ItemState::Queued, "cut at {len}");
        assert_eq!(outbox.count().0, 1);
    }
    // And the next line is not swallowed.
    let outbox = open(&dir);
    outbox.settle(item.id, ItemState::Refused, Some(reason("no"))).unwrap();
    let found = open(&dir).find(item.id).unwrap();
    assert_eq!((found.state, found.reason), (ItemState::Refused, Some(reason("no"))));
}

#[test]
fn a_full_outbox_says_what_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let limits = OutboxLimits {
        message_bytes: 10,
        messages: Quota { items: 4, bytes: 25, peer_items: 2, peer_bytes: 12 },
        ..OutboxLimits::default()
    };
    let outbox = Outbox::open(dir.path().to_path_buf(), limits).unwrap();
    let put = |to, len: usize| outbox.put(peer(to), Kind::Binary, &vec![0; len]);
    let of = |to| Some(peer(to).on_backbone());
    assert!(matches!(put(16, 11), Err(PutError::TooLarge(10))));
    put(16, 8).unwrap();
    assert!(matches!(put(16, 5), Err(PutError::Full { to, items: 1, bytes: 8 }) if to == of(16)));
    put(16, 4).unwrap();
    assert!(matches!(put(16, 0), Err(PutError::Full { to, items: 2, .. }) if to == of(16)));
    put(17, 10).unwrap();
    assert!(matches!(put(18, 4), Err(PutError::Full { to: None, items: 3, bytes: 22 })));
    let last = put(18, 3).unwrap();
    assert!(matches!(put(19, 0), Err(PutError::Full { to: None, items: 4, .. })));
    outbox.settle(last.id, ItemState::Cancelled, None).unwrap();
    put(19, 1).unwrap();
}

#[test]
fn a_message_is_settled_once_and_cancelling_says_whether_it_may_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = open(&dir);
    let (never, offered) = (put(&outbox, 16, "never"), put(&outbox, 16, "offered"));
    assert!(outbox.settle(never.id, ItemState::Cancelled, None).unwrap());
    assert!(!outbox.settle(never.id, ItemState::Delivered, None).unwrap());
    assert_eq!(outbox.begin(peer(16).on_backbone(), Lane::Messages).unwrap().id, offered.id);
    assert!(outbox.offered(offered.id) && !outbox.offered(never.id));
    outbox.put_back(offered.id, reason("the stream broke"));
    let found = outbox.find(offered.id).unwrap();
    assert_eq!((found.state, found.attempts), (ItemState::Queued, 1));
    assert_eq!(found.reason, Some(reason("the stream broke")));
    assert_eq!(put(&outbox, 16, "next").reason, Some(reason("the stream broke")));
    assert!(outbox.settle(offered.id, ItemState::Cancelled, None).unwrap());
    drop(outbox);
    let outbox = open(&dir);
    for (item, may_be_there) in [(never, false), (offered, true)] {
        let found = outbox.find(item.id).unwrap();
        assert_eq!((found.state, found.may_have_arrived), (ItemState::Cancelled, may_be_there));
    }
    assert_eq!(texts(&outbox, 16), ["next"]);
}

#[test]
fn a_bounded_number_of_settled_messages_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = open(&dir);
    let first = put(&outbox, 16, "first");
    outbox.settle(first.id, ItemState::Refused, Some(reason("no"))).unwrap();
    assert_eq!(outbox.list(0, 9, false).len(), 1, "what was refused is shown");
    let mut last = first.id;
    for n in 0..2 * SETTLED_MAX + 10 {
        last = put(&outbox, 16, &n.to_string()).id;
        outbox.settle(last, ItemState::Delivered, None).unwrap();
    }
    for outbox in [outbox, open(&dir)] {
        assert_eq!(outbox.list(0, usize::MAX, true).len(), SETTLED_MAX);
        assert!(outbox.find(first.id).is_none() && outbox.find(last).is_some());
        assert!(outbox.list(0, usize::MAX, false).is_empty());
    }
    let lines = std::fs::read_to_string(dir.path().join("outbox/settled")).unwrap();
    assert!(lines.lines().count() <= 2 * SETTLED_MAX);
    let outbox = open(&dir);
    let page = outbox.list(0, 10, true);
    let next = outbox.list(page[9].created_us, 10, true);
    assert!(page.len() == 10 && next[0].created_us > page[9].created_us);
}

fn with(dir: &tempfile::TempDir, files: Quota) -> Arc<Outbox> {
    let limits = OutboxLimits { files, keep_free: 0, ..OutboxLimits::default() };
    Arc::new(Outbox::open(dir.path().join("outbox"), limits).unwrap())
}

fn file(to: u8, size: usize) -> NewFile {
    let (name, note) = ("data.csv".parse().unwrap(), Note::cleaned(b"as promised"));
    let (kind, hash) = (Kind::File, HashAlgorithm::Blake3);
    NewFile { to: peer(to), kind, name, size: size as u64, hash, note, id: None }
}

async fn keep(outbox: &Arc<Outbox>, to: u8, content: &[u8]) -> Result<Item, PutError> {
    keep_file(outbox, file(to, content.len()), &mut &content[..], |_| {}, |_| {}).await
}

async fn content(outbox: &Outbox, item: &Item) -> io::Result<Vec<u8>> {
    use crate::services::send::Source as _;
    let (mut source, mut content) = (outbox.open_content(item)?, Vec::new());
    while (content.len() as u64) < item.size {
        let mut chunk = [0; 100_000];
        let n = source.read(&mut chunk).await?;
        content.extend_from_slice(&chunk[..n]);
    }
    Ok(content)
}

/// What there is beside the lines of settled items.
fn left(dir: &tempfile::TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(dir.path().join("outbox")).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name != "settled");
    names
}

#[tokio::test]
async fn a_file_is_kept_as_it_was_given_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let limits = OutboxLimits::default().files;
    let outbox = with(&dir, limits);
    let bytes: Vec<u8> = (0..2_500_000u32).map(|n| (n % 251) as u8).collect();
    let mut told = Vec::new();
    let kept =
        keep_file(&outbox, file(16, bytes.len()), &mut &bytes[..], |n| told.push(n), |_| {}).await;
    let kept = kept.unwrap();
    assert_eq!(told.last(), Some(&2_500_000));
    let empty = keep(&outbox, 16, b"").await.unwrap();
    assert_ne!(kept.id, empty.id);
    drop(outbox);
    let outbox = with(&dir, limits);
    let found = outbox.find(kept.id).unwrap();
    assert_eq!(found, Item { may_have_arrived: true, ..kept.clone() });
    assert_eq!((found.name.unwrap().as_str(), found.note.as_str()), ("data.csv", "as promised"));
    assert!(content(&outbox, &kept).await.unwrap() == bytes);
    assert_eq!(content(&outbox, &empty).await.unwrap(), b"");
    assert_eq!(outbox.count(), (2, 2_500_000));
    for item in [&kept, &empty] {
        assert!(outbox.settle(item.id, ItemState::Delivered, None).unwrap());
    }
    assert_eq!((outbox.count(), left(&dir)), ((0, 0), vec![]));
    let found = open(&dir).find(kept.id).unwrap();
    assert_eq!((found.state, found.name), (ItemState::Delivered, kept.name));
}

#[tokio::test]
async fn a_file_that_was_torn_or_changed_is_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let limits = OutboxLimits::default().files;
    let outbox = with(&dir, limits);
    // Of one that is cut, or longer than was said, nothing stays, nor of a client that goes away.
    let cut = keep_file(&outbox, file(16, 9), &mut &b"short"[..], |_| {}, |_| {}).await;
    assert!(matches!(cut, Err(PutError::Size)), "{cut:?}");
    drop(outbox.begin_file(file(16, 5)).unwrap());
    assert_eq!((outbox.count(), left(&dir)), ((0, 0), vec![]));
    let kept = keep(&outbox, 16, b"content").await.unwrap();
    let [line] = &files(&dir)[..] else { panic!() };
    let data = line.with_extension("data");
    std::fs::write(&data, b"CONTENT").unwrap();
    let changed = content(&outbox, &kept).await.unwrap_err();
    assert_eq!(changed.kind(), io::ErrorKind::InvalidData);
    std::fs::write(&data, b"con").unwrap();
    assert!(outbox.open_content(&kept).is_err());
    assert_eq!(with(&dir, limits).count().0, 0, "a content of another length is none");
    // A content whose line a crash has prevented.
    std::fs::remove_file(line).unwrap();
    with(&dir, limits);
    assert!(!data.exists());
}

#[tokio::test]
async fn a_file_that_was_taken_back_and_given_again_with_its_id_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let limits = OutboxLimits::default().files;
    let outbox = with(&dir, limits);
    let id = keep(&outbox, 16, b"first").await.unwrap().id;
    let again = || NewFile { id: Some(id), ..file(16, 5) };
    outbox.settle(id, ItemState::Cancelled, None).unwrap();
    let kept = keep_file(&outbox, again(), &mut &b"again"[..], |_| {}, |_| {}).await.unwrap();
    drop(outbox);
    let outbox = with(&dir, limits);
    let found = outbox.find(kept.id).unwrap();
    assert_eq!((found.state, found.created_us), (ItemState::Queued, kept.created_us));
    assert_eq!(content(&outbox, &kept).await.unwrap(), b"again");
}

#[test]
fn a_file_that_is_being_copied_is_not_copied_again() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = with(&dir, OutboxLimits::default().files);
    let id = Some(TransferId([7; 16]));
    let begin = || outbox.begin_file(NewFile { id, ..file(16, 0) });
    let first = begin().unwrap();
    assert!(matches!(begin(), Err(PutError::Waits(item)) if Some(item.id) == id));
    drop(first);
    let kept = begin().unwrap().finish().unwrap();
    assert!(matches!(begin(), Err(PutError::Waits(_))));
    assert_eq!(outbox.count().0, 1);
    outbox.settle(kept.id, ItemState::Cancelled, None).unwrap();
    assert!(begin().is_ok());
}

#[tokio::test]
async fn files_have_bounds_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = with(&dir, Quota { items: 3, bytes: 25, peer_items: 2, peer_bytes: 12 });
    let of = |node| Some(peer(node).on_backbone());
    assert!(matches!(keep(&outbox, 16, &[0; 13]).await, Err(PutError::TooLarge(12))));
    let first = keep(&outbox, 16, &[0; 8]).await.unwrap();
    let full = keep(&outbox, 16, &[0; 5]).await;
    assert!(matches!(full, Err(PutError::Full { to, items: 1, bytes: 8 }) if to == of(16)));
    keep(&outbox, 16, &[0; 4]).await.unwrap();
    let full = keep(&outbox, 16, &[]).await;
    assert!(matches!(full, Err(PutError::Full { to, items: 2, .. }) if to == of(16)));
    keep(&outbox, 17, &[0; 10]).await.unwrap();
    let full = keep(&outbox, 18, &[]).await;
    assert!(matches!(full, Err(PutError::Full { to: None, items: 3, bytes: 22 })));
    put(&outbox, 16, "messages are counted apart");
    let again = NewFile { id: Some(first.id), ..file(16, 1) };
    outbox.settle(first.id, ItemState::Cancelled, None).unwrap();
    keep_file(&outbox, again.clone(), &mut &b"x"[..], |_| {}, |_| {}).await.unwrap();
    let twice = keep_file(&outbox, again, &mut &b"x"[..], |_| {}, |_| {}).await;
    assert!(matches!(twice, Err(PutError::Waits(_))), "{twice:?}");
    let limits = OutboxLimits { keep_free: u64::MAX / 2, ..OutboxLimits::default() };
    let outbox = Arc::new(Outbox::open(dir.path().join("outbox"), limits).unwrap());
    assert!(matches!(keep(&outbox, 18, b"x").await, Err(PutError::NoSpace)));
}

#[tokio::test]
async fn large_files_leave_a_lane_to_small_ones_and_a_refused_one_waits_its_turn() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = with(&dir, OutboxLimits::default().files);
    let large = vec![0; SMALL as usize + 1];
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(keep(&outbox, 16, &large).await.unwrap().id);
    }
    ids.push(keep(&outbox, 16, b"small").await.unwrap().id);
    let message = put(&outbox, 16, "message").id;
    let begin = |lane| outbox.begin(peer(16).on_backbone(), lane).map(|item| item.id);
    let lanes = [Lane::Files(0), Lane::Small, Lane::Files(1), Lane::Files(2), Lane::Messages];
    let begun = lanes.map(begin);
    assert_eq!(begun, [Some(ids[0]), Some(ids[2]), Some(ids[1]), None, Some(message)]);
    outbox.progressed(ids[0], 7);
    assert_eq!(outbox.find(ids[0]).unwrap().sent, 7);
    // Each is tried as often as the others.
    outbox.put_back(ids[0], reason("full"));
    assert_eq!(begin(Lane::Files(0)), Some(ids[0]));
    outbox.put_back(ids[0], reason("full"));
    outbox.put_back(ids[1], reason("full"));
    assert_eq!(begin(Lane::Files(0)), Some(ids[1]));
    assert_eq!(outbox.find(ids[1]).unwrap().reason, Some(reason("full")));
    assert_eq!(outbox.find(message).unwrap().reason, None, "a reason is of its file alone");
}

/// A runtime whose only thread for what blocks is busy until something is sent.
fn with_a_busy_disk(test: impl AsyncFnOnce(std::sync::mpsc::Sender<()>)) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
    let (free, busy) = std::sync::mpsc::channel();
    runtime.spawn_blocking(move || busy.recv());
    runtime.block_on(test(free));
}

#[test]
fn a_file_whose_client_goes_away_at_the_end_is_carried_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = with(&dir, OutboxLimits::default().files);
    let (carried, carries) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
    runtime.unwrap().block_on(async {
        let (free, busy) = std::sync::mpsc::channel();
        let (mut busy, whole) = (Some(busy), tokio::sync::Notify::new());
        // All of it is there, and is synced once the disk is free.
        let progress = |_| {
            let busy = busy.take().unwrap();
            drop(spawn_blocking(move || busy.recv()));
            whole.notify_one();
        };
        let carry = |item: &Item| carried.send(item.id).unwrap();
        let mut content = &b"x"[..];
        let keeping = keep_file(&outbox, file(16, 1), &mut content, progress, carry);
        tokio::select! {
            biased;
            kept = keeping => panic!("{kept:?}"),
            () = whole.notified() => {}
        }
        free.send(()).unwrap();
        assert!(outbox.find(carries.await.unwrap()).is_some());
    });
}

#[test]
fn messages_that_come_while_the_disk_is_busy_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Arc::new(open(&dir));
    with_a_busy_disk(async |free| {
        let message = |n: usize| NewMessage::new(peer(16), Kind::Text, vec![n as u8; 1024]);
        let posts: Vec<_> = (0..256).map(|n| outbox.post(message(n))).collect();
        assert_eq!((outbox.posts(), outbox.syncs(), outbox.count()), (256, 0, (0, 0)));
        free.send(()).unwrap();
        for post in posts {
            assert_eq!(post.await.unwrap().unwrap().state, ItemState::Queued);
        }
    });
    assert_eq!((outbox.syncs(), outbox.count()), (1, (256, 256 * 1024)));
    drop(outbox);
    let outbox = open(&dir);
    assert_eq!(outbox.count().0, 256);
    // From the disk as from memory, in order.
    let begun = outbox.begin_messages(peer(16).on_backbone(), 256, None);
    assert_eq!(begun.len(), 256);
    for (n, (item, content)) in begun.iter().enumerate() {
        assert!(content.is_none());
        assert_eq!(outbox.content(item).unwrap(), vec![n as u8; 1024]);
    }
    let delivered = |(item, _): &(Item, _)| Settling {
        id: item.id,
        outcome: ItemState::Delivered,
        reason: None,
    };
    assert_eq!(outbox.settle_all(begun.iter().map(delivered).collect()).unwrap(), 256);
    assert_eq!((outbox.count(), left(&dir)), ((0, 0), vec![]));
}

#[tokio::test]
async fn a_batch_ends_before_what_cannot_be_pushed_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = Arc::new(open(&dir));
    let other = Address::from_bytes([0, 2, 0, 0, 0, 16]);
    let large = vec![b'x'; PUSHED as usize + 1];
    for (to, content) in
        [(peer(16), &b"1"[..]), (peer(16), b"2"), (other, b"3"), (other, &large), (other, b"5")]
    {
        outbox.post(NewMessage::new(to, Kind::Text, content.to_vec())).await.unwrap().unwrap();
    }
    let begin = |most, to| {
        let begun = outbox.begin_messages(peer(16).on_backbone(), most, to);
        begun.iter().map(|(_, content)| content.as_ref().unwrap().len()).collect::<Vec<_>>()
    };
    assert_eq!(begin(1, None), [1]);
    assert_eq!(begin(9, Some(peer(16))), [1], "the next goes over another network");
    assert_eq!(begin(9, Some(peer(16))), [0; 0]);
    assert_eq!(begin(9, None), [1]);
    assert_eq!(begin(9, Some(other)), [0; 0], "what is large goes alone");
    assert_eq!(begin(9, None), [large.len()]);
    assert_eq!(begin(9, None), [1]);
    // Nothing is kept that was delivered, and no more than there is room for.
    let all = outbox.list(0, 9, true);
    outbox.put_back_all(all.iter().map(|item| item.id));
    for item in all {
        outbox.settle(item.id, ItemState::Delivered, None).unwrap();
    }
    for _ in 0..5 {
        let message = NewMessage::new(other, Kind::Binary, vec![0; 1 << 20]);
        outbox.post(message).await.unwrap().unwrap();
    }
    let kept: Vec<_> = (0..5)
        .flat_map(|_| outbox.begin_messages(other.on_backbone(), 9, None))
        .map(|(_, content)| content.is_some())
        .collect();
    assert_eq!(kept, [true, true, true, true, false]);
}
