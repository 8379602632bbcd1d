//! Pushed messages: none waits for the one before, on either side.

use super::*;
use crate::services::push::Pushes;
use pilot_core::service::exchange::{Failure, Pushed};

fn push(pushes: &mut Pushes<Cut>, number: u64, content: &str) -> TransferId {
    let id = TransferId::numbered([7; 8], number).unwrap();
    pushes.push(id, Kind::Text, Note::default(), content.as_bytes()).unwrap();
    id
}

async fn outcomes(pushes: &mut Pushes<Cut>, count: usize) -> Vec<(TransferId, Pushed)> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(pushes.answers::<NotTrusted>().await.unwrap());
    }
    all
}

/// A net whose disk does nothing until it is told that it is free.
fn with_a_busy_disk(story: impl AsyncFnOnce(&Net, std::sync::mpsc::Sender<()>)) {
    let dir = tempfile::tempdir().unwrap();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
    let (free, busy) = std::sync::mpsc::channel();
    runtime.spawn_blocking(move || busy.recv());
    runtime.block_on(async { story(&Net::new(&dir), free).await });
}

/// None waits for the one before, and what has come while the disk was busy is synced once.
#[test]
fn pushed_messages_share_a_sync() {
    with_a_busy_disk(async |net, free| {
        let inbox = net.exchange.inbox.clone();
        let mut pushes = Pushes::open(net, PEER).await.unwrap();
        let text = "x".repeat(1000);
        let ids: Vec<_> = (1..=256).map(|n| push(&mut pushes, n, &text)).collect();
        assert!(!pushes.has_room());
        tokio::select! {
            answers = pushes.answers::<NotTrusted>() => panic!("not synced: {answers:?}"),
            () = async { while inbox.waiting() < 256 { tokio::task::yield_now().await } } => {}
        }
        assert_eq!((inbox.syncs(), inbox.count().0), (0, 0));
        free.send(()).unwrap();
        let expected: Vec<_> = ids.iter().map(|id| (*id, Pushed::Stored)).collect();
        assert_eq!(outcomes(&mut pushes, 256).await, expected);
        assert_eq!((inbox.syncs(), inbox.count().0), (1, 256));
        // Again, over another stream.
        let mut pushes = Pushes::open(net, PEER).await.unwrap();
        let again: Vec<_> = (1..=3).map(|n| push(&mut pushes, n, &text)).collect();
        let expected: Vec<_> = again.iter().map(|id| (*id, Pushed::AlreadyThere)).collect();
        assert_eq!(outcomes(&mut pushes, 3).await, expected);
        pushes.close().await;
        assert_eq!((inbox.syncs(), inbox.count().0), (1, 256));
    });
}

/// A stream does not fill the memory while the disk is busy.
#[test]
fn what_waits_for_the_disk_is_bounded() {
    with_a_busy_disk(async |net, free| {
        let inbox = net.exchange.inbox.clone();
        let mut pushes = Pushes::open(net, PEER).await.unwrap();
        let text = "x".repeat(60_000);
        for n in 1..=40 {
            push(&mut pushes, n, &text);
        }
        tokio::select! {
            answers = pushes.answers::<NotTrusted>() => panic!("not synced: {answers:?}"),
            () = async {
                while inbox.waiting() < 5 {
                    tokio::task::yield_now().await;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            } => {}
        }
        assert_eq!(inbox.waiting(), 5, "256 KiB, and the one that was begun before");
        free.send(()).unwrap();
        assert!(outcomes(&mut pushes, 40).await.iter().all(|(_, what)| *what == Pushed::Stored));
    });
}

/// Behind a message that found no room none is taken, until it comes again.
#[tokio::test]
async fn pushed_messages_stay_in_order_where_one_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = Net::new(&dir);
    let limits = InboxLimits { bytes: 10, ..InboxLimits::default() };
    let inbox = Arc::new(Inbox::open(dir.path().join("small"), limits).unwrap());
    Arc::get_mut(&mut net.exchange).unwrap().inbox = inbox.clone();
    let mut pushes = Pushes::open(&net, PEER).await.unwrap();
    let first = push(&mut pushes, 1, "12345678");
    assert_eq!(outcomes(&mut pushes, 1).await, [(first, Pushed::Stored)]);
    let (large, small) = (push(&mut pushes, 2, "1234"), push(&mut pushes, 3, "1"));
    let expected = [(large, Refusal::Full), (small, Refusal::Busy)];
    let expected = expected.map(|(id, why)| (id, Pushed::Refused(why)));
    assert_eq!(outcomes(&mut pushes, 2).await, expected);
    // Room alone does not help the one behind.
    inbox.remove(&inbox.list(0, 9)).unwrap();
    let small = push(&mut pushes, 3, "1");
    assert_eq!(outcomes(&mut pushes, 1).await, [(small, Pushed::Refused(Refusal::Busy))]);
    for (number, content) in [(2, "1234"), (3, "1")] {
        let id = push(&mut pushes, number, content);
        assert_eq!(outcomes(&mut pushes, 1).await, [(id, Pushed::Stored)]);
    }
    // Two at once, of which only the first finds room, and one behind them.
    let ids =
        [push(&mut pushes, 4, "1234"), push(&mut pushes, 5, "1234"), push(&mut pushes, 6, "")];
    let got = outcomes(&mut pushes, 3).await;
    assert_eq!(got[0], (ids[0], Pushed::Stored));
    let refused = |what: &Pushed| matches!(what, Pushed::Refused(_) | Pushed::NotStored(_));
    assert!(refused(&got[1].1) && refused(&got[2].1), "{got:?}");
    assert!(!got.iter().any(|(_, what)| *what == Pushed::NotStored(Failure::Failed)));
    assert_eq!(net.texts(), ["1234", "1", "1234"]);
}
