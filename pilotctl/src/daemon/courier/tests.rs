//! The courier over pipes, to the services of a receiver.

use super::*;
use crate::services::Connect;
use crate::services::inbox::{Inbox, InboxLimits};
use crate::services::outbox::{NewFile, OutboxLimits, keep_file};
use crate::services::push::PUSHED;
use crate::services::received::{Received, ReceivedLimits};
use crate::services::serve::{Exchange, serve};
use crate::services::unfinished::Unfinished;
use pilot_core::addr::{NodeId, Port};
use pilot_core::service::exchange::{HashAlgorithm, Kind, Note};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::{sleep, timeout};

const ME: Address = Address::backbone(NodeId(16));
const PEER: Address = Address::backbone(NodeId(17));
/// Of a second, in which so much passes through a slow pipe.
const TICK: Duration = Duration::from_millis(100);

struct Pipes {
    courier: Courier,
    outbox: Arc<Outbox>,
    unfinished: Arc<Unfinished>,
    exchange: Arc<Exchange>,
    /// A stream is opened for each permit, after so long.
    gate: Semaphore,
    opening: Duration,
    opened: AtomicUsize,
    /// Bytes that pass in a tick.
    rate: usize,
    dir: tempfile::TempDir,
}

impl Pipes {
    fn new() -> Pipes {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        let limits = OutboxLimits { keep_free: 0, ..OutboxLimits::default() };
        let outbox = Arc::new(Outbox::open(path("outbox"), limits).unwrap());
        let unfinished = Arc::new(Unfinished::open(path("unfinished.json")).unwrap());
        let inbox = Arc::new(Inbox::open(path("inbox"), InboxLimits::default()).unwrap());
        let limits = ReceivedLimits { keep_free: 0, ..ReceivedLimits::default() };
        let received = Received::open(path("received"), limits).unwrap();
        let exchange = Arc::new(Exchange { inbox, received, permits: Box::new(|_, _| true) });
        Pipes {
            courier: Courier::default(),
            outbox,
            unfinished,
            exchange,
            gate: Semaphore::new(0),
            opening: Duration::ZERO,
            opened: AtomicUsize::new(0),
            rate: 0,
            dir,
        }
    }

    fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    fn put(&self, content: &[u8]) -> Item {
        self.outbox.put(PEER, Kind::Binary, content).unwrap()
    }

    async fn keep(&self, content: &[u8]) -> Item {
        let (name, note) = ("data.csv".parse().unwrap(), Note::default());
        let (kind, hash, size) = (Kind::File, HashAlgorithm::Blake3, content.len() as u64);
        let file = NewFile { to: PEER, kind, name, size, hash, note, id: None };
        keep_file(&self.outbox, file, &mut &content[..], |_| {}, |_| {}).await.unwrap()
    }

    fn arrived(&self) -> Vec<Vec<u8>> {
        let inbox = &self.exchange.inbox;
        inbox.list(0, usize::MAX).iter().map(|m| inbox.content(m).unwrap()).collect()
    }

    fn received(&self) -> PathBuf {
        self.dir.path().join("received/data.csv")
    }

    /// The line of the only file in the outbox.
    fn line(&self) -> PathBuf {
        let entries = std::fs::read_dir(self.dir.path().join("outbox")).unwrap();
        let mut paths = entries.map(|entry| entry.unwrap().path());
        paths.find(|path| path.extension().is_some_and(|e| e == "out")).unwrap()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Pipes) -> bool) {
        let wait = async {
            while !is_so(self) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(300), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

impl Connect for Pipes {
    type Stream = DuplexStream;
    type Error = Failure;

    async fn connect(&self, _: Address, _: Port) -> Result<DuplexStream, Failure> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.gate.acquire().await.unwrap().forget();
        sleep(self.opening).await;
        let (near, mut far) = duplex(4096);
        if self.rate > 0 {
            let (slow, end) = duplex(4096);
            tokio::spawn(slowly(std::mem::replace(&mut far, end), slow, self.rate));
        }
        drop(tokio::spawn(serve(Arc::clone(&self.exchange), ME, far)));
        Ok(near)
    }

    fn is_final(_: &Failure) -> bool {
        false
    }

    async fn path(&self, _: Address) -> PathKind {
        PathKind::Direct
    }
}

async fn slowly(from: DuplexStream, to: DuplexStream, rate: usize) {
    let (mut from, mut back) = tokio::io::split(from);
    let (mut answers, mut to) = tokio::io::split(to);
    let forth = async {
        let mut bytes = vec![0; rate];
        while let Ok(n @ 1..) = from.read(&mut bytes).await {
            sleep(TICK).await;
            to.write_all(&bytes[..n]).await.unwrap();
        }
    };
    tokio::join!(forth, tokio::io::copy(&mut answers, &mut back)).1.unwrap();
}

impl Means for Pipes {
    fn courier(&self) -> &Courier {
        &self.courier
    }

    fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    fn unfinished(&self) -> &Arc<Unfinished> {
        &self.unfinished
    }
}

#[tokio::test]
async fn what_was_taken_back_while_a_stream_was_opened_is_not_sent() {
    let pipes = Arc::new(Pipes::new());
    let item = pipes.put(b"never");
    carry(&pipes, PEER);
    pipes.until("a stream is opened", |pipes| pipes.opened() == 1).await;
    let taken = take_back(&pipes, item.id).await.unwrap().unwrap();
    assert_eq!((taken.state, taken.may_have_arrived), (ItemState::Cancelled, false));
    pipes.put(b"next");
    pipes.gate.add_permits(9);
    pipes.until("all are settled", |pipes| pipes.outbox.count().0 == 0).await;
    assert_eq!(pipes.arrived(), [b"next"]);
}

/// Its line is being written when the receiver says that it wants it.
#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "what waits for it does so on other threads")]
async fn what_is_just_being_taken_back_is_not_sent() {
    let large = vec![b'x'; PUSHED as usize + 1];
    for (content, is_file) in
        [(&b"small"[..], false), (&large, false), (b"file", true), (b"", true)]
    {
        let pipes = Arc::new(Pipes::new());
        let item = if is_file { pipes.keep(content).await } else { pipes.put(content) };
        carry(&pipes, PEER);
        pipes.until("a stream is opened", |pipes| pipes.opened() == 1).await;
        let held = pipes.outbox.hold();
        let taker = Arc::clone(&pipes);
        let taken = tokio::spawn(async move { take_back(&taker, item.id).await });
        pipes.until("it is being settled", |pipes| pipes.outbox.is_settling(item.id)).await;
        pipes.gate.add_permits(9);
        pipes.until("the task has ended", |pipes| pipes.courier.tasks().is_empty()).await;
        drop(held);
        let taken = taken.await.unwrap().unwrap().unwrap();
        assert_eq!((taken.state, taken.may_have_arrived), (ItemState::Cancelled, false));
        assert!(pipes.arrived().is_empty() && !pipes.received().exists());
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_over_a_slow_path_arrives_at_the_first_attempt() {
    for (size, rate) in [(1 << 20, 3000), (PUSHED as usize, 250)] {
        let pipes = Arc::new(Pipes { rate, ..Pipes::new() });
        pipes.gate.add_permits(99);
        pipes.put(&vec![b'x'; size]);
        carry(&pipes, PEER);
        pipes.until("it is delivered", |pipes| pipes.outbox.count().0 == 0).await;
        assert_eq!((pipes.arrived()[0].len(), pipes.opened()), (size, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_waited_for_from_when_the_stream_is_open() {
    let pipes = Arc::new(Pipes { opening: Duration::from_secs(25), ..Pipes::new() });
    pipes.gate.add_permits(99);
    let item = pipes.put(b"one");
    carry(&pipes, PEER);
    pipes.until("it is delivered", |pipes| pipes.outbox.count().0 == 0).await;
    assert_eq!((pipes.outbox.find(item.id).unwrap().attempts, pipes.opened()), (1, 1));
}

/// A folder in its place cannot be removed as a file is.
fn put_in_the_way(line: &std::path::Path) -> Vec<u8> {
    let text = std::fs::read(line).unwrap();
    std::fs::remove_file(line).unwrap();
    std::fs::create_dir(line).unwrap();
    text
}

#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "what waits for it does so on other threads")]
async fn what_could_not_be_taken_back_is_delivered() {
    let pipes = Arc::new(Pipes::new());
    let item = pipes.keep(b"content").await;
    let held = pipes.outbox.hold();
    let taker = Arc::clone(&pipes);
    let taken = tokio::spawn(async move { take_back(&taker, item.id).await });
    pipes.until("it is being settled", |pipes| pipes.outbox.is_settling(item.id)).await;
    // Who looks for something to carry finds nothing.
    carry(&pipes, PEER);
    assert!(pipes.courier.tasks().is_empty());
    let line = pipes.line();
    let text = put_in_the_way(&line);
    drop(held);
    assert!(taken.await.unwrap().is_err());
    std::fs::remove_dir(&line).unwrap();
    std::fs::write(&line, text).unwrap();
    pipes.gate.add_permits(9);
    pipes.until("it is delivered", |pipes| pipes.outbox.count().0 == 0).await;
    assert_eq!(std::fs::read(pipes.received()).unwrap(), b"content");
}

#[tokio::test]
#[allow(clippy::await_holding_lock, reason = "what waits for it does so on other threads")]
async fn taking_back_does_not_wait_for_a_settling_that_has_failed() {
    let pipes = Arc::new(Pipes::new());
    let item = pipes.keep(b"content").await;
    let held = pipes.outbox.hold();
    let outbox = Arc::clone(&pipes.outbox);
    let settle = move || outbox.settle(item.id, ItemState::Delivered, None);
    let other = tokio::task::spawn_blocking(settle);
    pipes.until("it is being settled", |pipes| pipes.outbox.is_settling(item.id)).await;
    let taker = Arc::clone(&pipes);
    let taken = tokio::spawn(async move { take_back(&taker, item.id).await });
    sleep(Duration::from_millis(100)).await;
    let line = pipes.line();
    put_in_the_way(&line);
    drop(held);
    assert!(other.await.unwrap().is_err());
    std::fs::remove_dir(&line).unwrap();
    // It tries itself, and fails or not.
    let taken = timeout(Duration::from_secs(30), taken).await.unwrap().unwrap();
    assert!(taken.is_err() || taken.unwrap().unwrap().state == ItemState::Cancelled);
}
