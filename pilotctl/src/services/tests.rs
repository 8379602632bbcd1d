//! Both sides of the services against each other over pipes.

mod push;

use super::echo::{EchoError, EchoReport};
use super::inbox::{Inbox, InboxLimits};
use super::received::{Received, ReceivedLimits};
use super::send::{Memory, Message, Once, Progress, SendError, Sent, send};
use super::serve::{Exchange, random_id, serve};
use super::*;
use pilot_core::service::exchange::{
    ContentHash, HashAlgorithm, Kind, Note, Offer, Refusal, TransferId,
};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex};
use tokio::time::Instant;

async fn send_message(
    net: &Net,
    to: Address,
    message: Message<'_>,
    deadline: Instant,
) -> Result<Sent, SendError<NotTrusted>> {
    send::send_message(net, to, message, deadline, &mut |_| {}).await
}

const ME: Address = Address::backbone(pilot_core::addr::NodeId(16));
const PEER: Address = Address::backbone(pilot_core::addr::NodeId(17));

/// An agent's services behind pipes that break after so many bytes, one number a stream.
struct Net {
    exchange: Arc<Exchange>,
    cuts: Mutex<Vec<i64>>,
    opened: AtomicUsize,
    carried: Arc<AtomicUsize>,
    is_corrupting: bool,
}

impl Net {
    fn new(dir: &tempfile::TempDir) -> Net {
        let inbox = Inbox::open(dir.path().join("inbox"), InboxLimits::default()).unwrap();
        let limits = ReceivedLimits { keep_free: 0, ..ReceivedLimits::default() };
        let received = Received::open(dir.path().join("received"), limits).unwrap();
        let exchange = Exchange {
            inbox: Arc::new(inbox),
            received,
            permits: Box::new(|from, kind| from == ME && kind != Kind::Binary),
        };
        Net {
            exchange: Arc::new(exchange),
            cuts: Mutex::default(),
            opened: AtomicUsize::new(0),
            carried: Arc::default(),
            is_corrupting: false,
        }
    }

    /// The first stream breaks after the last of these, and so on.
    fn cuts(self, cuts: &[i64]) -> Net {
        *self.cuts.lock().unwrap() = cuts.to_vec();
        self
    }

    fn texts(&self) -> Vec<String> {
        let inbox = &self.exchange.inbox;
        let all = inbox.list(0, usize::MAX);
        all.iter().map(|m| String::from_utf8(inbox.content(m).unwrap()).unwrap()).collect()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("not trusted")]
struct NotTrusted;

impl Connect for Net {
    type Stream = Cut;
    type Error = NotTrusted;

    async fn connect(&self, to: Address, port: Port) -> Result<Cut, NotTrusted> {
        if to != PEER {
            return Err(NotTrusted);
        }
        self.opened.fetch_add(1, Ordering::Relaxed);
        let (near, far) = duplex(64 * 1024);
        let exchange = self.exchange.clone();
        match port {
            Port::ECHO => drop(tokio::spawn(echo::serve(far))),
            _ => drop(tokio::spawn(serve(exchange, ME, far))),
        }
        let left = self.cuts.lock().unwrap().pop().unwrap_or(i64::MAX);
        let (left, carried) = (AtomicI64::new(left), self.carried.clone());
        Ok(Cut { pipe: Some(near), left, carried, is_corrupting: self.is_corrupting })
    }

    fn is_final(_: &NotTrusted) -> bool {
        true
    }

    async fn path(&self, _: Address) -> PathKind {
        PathKind::Direct
    }
}

/// A pipe that breaks after so many bytes written, or that flips a bit of what comes back.
struct Cut {
    pipe: Option<DuplexStream>,
    left: AtomicI64,
    carried: Arc<AtomicUsize>,
    is_corrupting: bool,
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let is_corrupting = self.is_corrupting;
        let before = buf.filled().len();
        let Some(pipe) = &mut self.pipe else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let poll = Pin::new(pipe).poll_read(cx, buf);
        if is_corrupting && let Some(byte) = buf.filled_mut().get_mut(before) {
            *byte ^= 1;
        }
        poll
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let left = self.left.load(Ordering::Relaxed);
        if left <= 0 {
            self.pipe = None;
        }
        let Some(pipe) = &mut self.pipe else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let n = buf.len().min(usize::try_from(left).unwrap());
        let poll = Pin::new(pipe).poll_write(cx, &buf[..n]);
        if let Poll::Ready(Ok(n)) = poll {
            self.left.fetch_sub(n as i64, Ordering::Relaxed);
            self.carried.fetch_add(n, Ordering::Relaxed);
        }
        poll
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.pipe {
            Some(pipe) => Pin::new(pipe).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn text(content: &str) -> Message<'_> {
    Message { kind: Kind::Text, content: content.as_bytes(), note: Note::default(), id: None }
}

async fn file<R: send::Source>(
    net: &Net,
    id: TransferId,
    size: u64,
    source: &mut R,
) -> Result<Sent, SendError<NotTrusted>> {
    send(net, PEER, &offer(id, size, ""), source, soon(), &mut |_| {}).await
}

fn offer(id: TransferId, size: u64, note: &str) -> Offer {
    let (name, note) = ("dataset.csv".parse().ok(), Note::cleaned(note.as_bytes()));
    Offer { id, kind: Kind::File, size, hash: HashAlgorithm::Blake3, name, note }
}

fn content(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    pilot_core::service::echo::fill(3, &mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_and_files_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::new(&dir);
    let sent = send_message(&net, PEER, text("Analyze this dataset"), soon()).await.unwrap();
    assert_eq!((sent.attempts, sent.size, sent.path), (1, 20, PathKind::Direct));
    send_message(&net, PEER, text(""), soon()).await.unwrap();
    assert_eq!(net.texts(), ["Analyze this dataset", ""]);
    assert_eq!(net.exchange.inbox.list(0, 1)[0].from, ME);

    let bytes = content(3_000_000);
    let mut seen = Vec::new();
    let mut progress = |p| seen.push(p);
    let (id, size) = (random_id().unwrap(), bytes.len() as u64);
    let (offered, source) = (offer(id, size, "as promised"), &mut Once(&bytes[..]));
    let sent = send(&net, PEER, &offered, source, soon(), &mut progress).await.unwrap();
    let (info, there) = net.exchange.received.list(0, 9).remove(0);
    assert!(there);
    assert_eq!((Some(info.hash), info.size, info.from), (sent.hash, size, ME));
    assert_eq!((info.name.as_str(), info.note.as_str()), ("dataset.csv", "as promised"));
    assert_eq!(std::fs::read(net.exchange.received.path(&info)).unwrap(), bytes);
    assert_eq!(seen.first(), Some(&Progress::Accepted(0)));
    assert_eq!(seen.last(), Some(&Progress::At(size)));
    // An empty file, and the same transfer once more.
    file(&net, random_id().unwrap(), 0, &mut Once(&b""[..])).await.unwrap();
    let again = file(&net, id, size, &mut Once(&bytes[..])).await.unwrap();
    assert_eq!((again.hash, again.offset), (None, size));
    assert_eq!(net.exchange.received.list(0, 9).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_breaking_streams_arrives_exactly_once() {
    // OFFER 36, content 5, END 57: broken before, in and after each of them.
    for cut in (0..=98).step_by(7).chain([36, 41, 97, 98]) {
        let dir = tempfile::tempdir().unwrap();
        let net = Net::new(&dir).cuts(&[cut]);
        let sent = send_message(&net, PEER, text("hello"), soon()).await.unwrap();
        assert_eq!(sent.attempts, if cut < 98 { 2 } else { 1 }, "cut at {cut}");
        assert_eq!(net.texts(), ["hello"], "cut at {cut}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_id_is_delivered_once_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let id = Some(random_id().unwrap());
    for _ in 0..3 {
        let net = Net::new(&dir);
        send_message(&net, PEER, Message { id, ..text("once") }, soon()).await.unwrap();
        assert_eq!(net.texts(), ["once"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_over_breaking_streams_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(2_000_000);
    let net = Net::new(&dir).cuts(&[900_000, 700_000, 20]);
    let sent = file(&net, random_id().unwrap(), 2_000_000, &mut Memory::new(&bytes)).await.unwrap();
    assert_eq!(sent.attempts, 4);
    assert!(sent.offset >= 1_300_000, "{}", sent.offset);
    // Little is sent twice: what was still in the pipes when they broke.
    assert!(net.carried.load(Ordering::Relaxed) < 2_500_000);
    let (info, _) = net.exchange.received.list(0, 9).remove(0);
    assert_eq!(std::fs::read(net.exchange.received.path(&info)).unwrap(), bytes);
    assert_eq!(net.exchange.received.list(0, 9).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_comes_once_is_continued_by_another_call() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(500_000);
    let id = random_id().unwrap();
    let net = Net::new(&dir).cuts(&[400_000]);
    let broken = file(&net, id, 500_000, &mut Once(&bytes[..])).await;
    assert!(matches!(broken, Err(SendError::Broken(_))), "{broken:?}");
    assert_eq!(net.opened.load(Ordering::Relaxed), 1);
    // Another process later, when nothing of the first one is left.
    let received = net.exchange.received.clone();
    drop(net);
    while Arc::strong_count(&received) > 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(received);
    let net = Net::new(&dir);
    let sent = file(&net, id, 500_000, &mut Once(&bytes[..])).await.unwrap();
    assert_eq!(sent.hash, Some(ContentHash::of(HashAlgorithm::Blake3, &bytes)));
    assert!(sent.offset >= 300_000, "{}", sent.offset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_permitted_too_large_or_not_trusted_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::new(&dir);
    let binary = Message { kind: Kind::Binary, ..text("x") };
    let refused = send_message(&net, PEER, binary, soon()).await;
    assert!(matches!(refused, Err(SendError::Refused(Refusal::NotPermitted))), "{refused:?}");
    let large = "x".repeat((1 << 20) + 1);
    let refused = send_message(&net, PEER, text(&large), soon()).await;
    assert!(matches!(refused, Err(SendError::Refused(Refusal::TooLarge))), "{refused:?}");
    let refused = send_message(&net, ME, text("x"), soon()).await;
    assert!(matches!(refused, Err(SendError::Connect(NotTrusted))), "{refused:?}");
    assert_eq!(net.opened.load(Ordering::Relaxed), 2, "no attempt that cannot help");
    // A source shorter than announced stores nothing under the name.
    let short = file(&net, random_id().unwrap(), 9, &mut Once(&b"short"[..])).await;
    assert!(matches!(short, Err(SendError::Size)), "{short:?}");
    assert!(net.texts().is_empty() && net.exchange.received.list(0, 9).is_empty());
}

/// The port stays open for messages; the file that is under way does not go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_taken_ends_the_transfer_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = Net::new(&dir);
    let carried = net.carried.clone();
    let permits = move |_, kind| kind != Kind::File || carried.load(Ordering::Relaxed) < 1_000_000;
    Arc::get_mut(&mut net.exchange).unwrap().permits = Box::new(permits);
    let bytes = content(8_000_000);
    let id = random_id().unwrap();
    let refused = file(&net, id, bytes.len() as u64, &mut Memory::new(&bytes)).await;
    assert!(matches!(refused, Err(SendError::Refused(Refusal::NotPermitted))), "{refused:?}");
    let carried = net.carried.load(Ordering::Relaxed);
    assert!(carried < 4_000_000, "{carried} bytes were sent");
    assert!(net.exchange.received.list(0, 9).is_empty());
    send_message(&net, PEER, text("still allowed"), soon()).await.unwrap();
    assert_eq!(net.texts(), ["still allowed"]);
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_peer_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::new(&dir).cuts(&[0; 64]);
    let deadline = Instant::now() + Duration::from_secs(5);
    let broken = send_message(&net, PEER, text("x"), deadline).await;
    assert!(matches!(broken, Err(SendError::Broken(_))), "{broken:?}");
    let attempts = net.opened.load(Ordering::Relaxed);
    assert!((4..10).contains(&attempts), "{attempts} attempts, with growing pauses");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_streams_with_one_transfer_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(4_000_000);
    let id = random_id().unwrap();
    let net = Net::new(&dir);
    let (mut a, mut b) = (Memory::new(&bytes), Memory::new(&bytes));
    let (a, b) = tokio::join!(file(&net, id, 4_000_000, &mut a), file(&net, id, 4_000_000, &mut b));
    a.unwrap();
    b.unwrap();
    let files = net.exchange.received.list(0, 9);
    assert_eq!(files.len(), 1);
    assert_eq!(std::fs::read(net.exchange.received.path(&files[0].0)).unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_bytes_end_a_stream_and_store_nothing() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let dir = tempfile::tempdir().unwrap();
    let net = Net::new(&dir);
    let nothing: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xFF; 64],
        &[0, 0, 0, 4, 0, 0, 0, 9, 0, 5, b'.', b'.', b'/', b'x', b'y', b'h', b'i'],
        &[0, 0, 0, 2, 0, 0, 0, 1, b'x'],
        &[0, 0, 0, 1, 0, 0, 0, 5, b'c', b'u', b't'],
    ];
    for bytes in nothing {
        let mut stream = net.connect(PEER, Port::DATA_EXCHANGE).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        let _ = stream.read_to_end(&mut back).await;
        assert!(back.is_empty() || back[8..].starts_with(b"ERR"), "{back:?}");
    }
    assert!(net.texts().is_empty() && net.exchange.received.list(0, 9).is_empty());
    // The published plain frames are taken, each a new one.
    let mut stream = net.connect(PEER, Port::DATA_EXCHANGE).await.unwrap();
    for _ in 0..2 {
        stream.write_all(&[0, 0, 0, 1, 0, 0, 0, 2, b'h', b'i']).await.unwrap();
    }
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 9, 0, 5]).await.unwrap();
    stream.write_all(b"a.txthi").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back.windows(3).filter(|w| w == b"ACK").count(), 3);
    assert_eq!(net.texts(), ["hi", "hi"]);
    assert_eq!(net.exchange.received.list(0, 9)[0].0.name.as_str(), "a.txt");
}

/// What a stream says until it is closed, and how long it stayed open; nothing more is sent.
async fn until_closed(net: &Net, said: &[u8]) -> (Vec<u8>, Duration) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let start = Instant::now();
    let mut stream = net.connect(PEER, Port::DATA_EXCHANGE).await.unwrap();
    stream.write_all(said).await.unwrap();
    let mut back = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(3600), stream.read_to_end(&mut back));
    let _ = read.await.expect("it is closed at some time");
    (back, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_or_stops_in_the_middle_does_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::new(&dir);
    let mut offer = vec![0, 0, 0, 16, 0, 0, 0, 28];
    offer.extend([7; 16]);
    offer.extend([&[1, 0, 0, 0, 0, 0, 0, 0, 9, 0], &[0, 0][..]].concat());
    let content = [&offer[..], b"cut"].concat();
    for (said, most) in [
        // Not a byte; a part of a frame; an offer without content; content without its end; a
        // plain frame that promises much.
        (&b""[..], 300),
        (&offer[..9], 120),
        (&offer, 120),
        (&content, 120),
        (&[0, 0, 0, 2, 0, 0x10, 0, 0, 1], 120),
    ] {
        let (_, stayed) = until_closed(&net, said).await;
        assert!(stayed <= Duration::from_secs(most + 1), "{said:?} stayed {stayed:?}");
    }
    assert!(net.texts().is_empty());
}

/// What is announced costs nothing until it is there, and what is too much is said at once.
#[tokio::test(start_paused = true)]
async fn frames_that_announce_too_much_are_refused_before_their_content() {
    let dir = tempfile::tempdir().unwrap();
    let net = Net::new(&dir);
    let offer = |kind: u8, size: u64, name: &[u8]| {
        let body = [&[9; 16][..], &[kind], &size.to_be_bytes(), &[name.len() as u8], name, &[0; 2]];
        let body = body.concat();
        [&[0, 0, 0, 16][..], &(body.len() as u32).to_be_bytes(), &body].concat()
    };
    for (kind, size, name, code) in [
        (1, u64::MAX, &b""[..], Refusal::TooLarge),
        (4, u64::MAX, b"a", Refusal::TooLarge),
        (5, u64::MAX, b"a", Refusal::TooLarge),
        (4, 1, b"../a", Refusal::BadName),
        (5, 1, b"/a", Refusal::BadName),
        (4, 1, b"", Refusal::BadName),
        (6, 1, b"a", Refusal::UnknownKind),
    ] {
        let (back, _) = until_closed(&net, &offer(kind, size, name)).await;
        assert_eq!((back[3], back[24]), (17, code.code()), "{kind} {size} {name:?}: {back:?}");
    }
    // Longer than any frame: closed without a word.
    for kind in [1u32, 4, 16, 17, 18] {
        let frame = [&kind.to_be_bytes()[..], &[0xFF; 4]].concat();
        let (back, stayed) = until_closed(&net, &frame).await;
        assert!(back.is_empty() && stayed < Duration::from_secs(1), "{kind}: {back:?} {stayed:?}");
    }
    assert!(net.texts().is_empty() && net.exchange.received.list(0, 9).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn echo_measures_and_notices_other_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = Net::new(&dir);
    let report = echo::measure(&net, PEER, 20, 3_000_000).await.unwrap();
    assert_eq!((report.rtts.len(), report.path), (20, PathKind::Direct));
    let summary = report.summary();
    assert!(summary.min <= summary.p50 && summary.p50 <= summary.p99);
    assert!(summary.min <= summary.avg && summary.avg <= summary.max);
    assert!(report.bytes_per_second().unwrap() > 0.0);
    net.is_corrupting = true;
    for (count, bytes) in [(1, 0), (0, 100_000)] {
        let corrupt = echo::measure(&net, PEER, count, bytes).await;
        assert!(matches!(corrupt, Err(EchoError::Corrupt)), "{corrupt:?}");
    }
    let untrusted = echo::measure(&net, ME, 1, 0).await;
    assert!(matches!(untrusted, Err(EchoError::Connect(NotTrusted))));
}

#[test]
fn percentiles_are_nearest_ranks() {
    let ms = Duration::from_millis;
    let report = |rtts: Vec<Duration>| EchoReport {
        connect: ms(0),
        rtts,
        bytes: 0,
        burst: ms(0),
        path: PathKind::Relayed,
    };
    let s = report((1..=200).rev().map(ms).collect()).summary();
    assert_eq!((s.min, s.p50, s.p99, s.max), (ms(1), ms(100), ms(198), ms(200)));
    assert_eq!(report(vec![ms(5)]).summary().p99, ms(5));
    assert_eq!(report(vec![]).summary().max, ms(0));
    assert_eq!(report(vec![]).bytes_per_second(), None);
}

/// Streams handed in by a channel.
struct Queue(tokio::sync::mpsc::Receiver<(DuplexStream, SocketAddress)>);

impl Accept for Queue {
    type Stream = DuplexStream;
    async fn accept(&mut self) -> Option<(DuplexStream, SocketAddress)> {
        self.0.recv().await
    }
}

#[tokio::test]
async fn one_peer_cannot_take_all_places() {
    use tokio::io::AsyncReadExt as _;
    let (sender, queue) = tokio::sync::mpsc::channel(16);
    let limits = accept::AcceptLimits { streams: 3, per_peer: 2 };
    let serving =
        tokio::spawn(accept::accept_all(Queue(queue), limits, |mut stream, _| async move {
            let _ = stream.write_u8(1).await;
            let _ = stream.read_u8().await;
        }));
    use tokio::io::AsyncWriteExt as _;
    let open = async |address| {
        let (near, far) = duplex(64);
        sender.send((far, SocketAddress { address, port: Port(50_000) })).await.unwrap();
        let mut near = near;
        near.read_u8().await.ok().map(|_| near)
    };
    let first = open(ME).await.unwrap();
    let _second = open(ME).await.unwrap();
    assert!(open(ME).await.is_none(), "a peer's places");
    let _third = open(PEER).await.unwrap();
    assert!(open(PEER).await.is_none(), "all places");
    drop(first);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(open(PEER).await.is_some());
    drop(sender);
    serving.await.unwrap();
}

/// An agent from before there was a second hash algorithm: it takes that for a part of the kind.
struct Older;

impl Connect for Older {
    type Stream = DuplexStream;
    type Error = NotTrusted;

    async fn connect(&self, _: Address, _: Port) -> Result<DuplexStream, NotTrusted> {
        let (near, far) = duplex(64 * 1024);
        tokio::spawn(older(far));
        Ok(near)
    }

    fn is_final(_: &NotTrusted) -> bool {
        true
    }

    async fn path(&self, _: Address) -> PathKind {
        PathKind::Direct
    }
}

async fn frame_body(stream: &mut DuplexStream) -> Vec<u8> {
    let mut header = [0; 8];
    stream.read_exact(&mut header).await.unwrap();
    let mut body = vec![0; usize::from(header[7])];
    stream.read_exact(&mut body).await.unwrap();
    body
}

async fn older(mut stream: DuplexStream) {
    let answer = |id: &[u8], code: u8| [&[0, 0, 0, 17, 0, 0, 0, 25], id, &[code], &[0; 8]].concat();
    let offered = frame_body(&mut stream).await;
    assert_eq!(offered[16], 0x24);
    stream.write_all(&answer(&offered[..16], Refusal::UnknownKind.code())).await.unwrap();
    let again = frame_body(&mut stream).await;
    assert_eq!((again[16], &again[17..]), (0x04, &offered[17..]));
    stream.write_all(&answer(&offered[..16], 0)).await.unwrap();
    let mut content = vec![0; usize::from(offered[24])];
    stream.read_exact(&mut content).await.unwrap();
    let end = frame_body(&mut stream).await;
    let hash = ContentHash::of(HashAlgorithm::Sha256, &content);
    assert_eq!((end[16], &end[17..]), (1, &hash.bytes()[..]));
    let receipt = [&[0, 0, 0, 19, 0, 0, 0, 49], &end[..16], &[0], &end[17..]].concat();
    stream.write_all(&receipt).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_knows_only_sha256_gets_files_with_it() {
    let (bytes, id) = (content(200), TransferId([4; 16]));
    let offer = offer(id, 200, "");
    let sent =
        send(&Older, PEER, &offer, &mut Once(&bytes[..]), soon(), &mut |_| {}).await.unwrap();
    assert_eq!(sent.hash, Some(ContentHash::of(HashAlgorithm::Sha256, &bytes)));
    assert_eq!((sent.attempts, sent.offset), (1, 0));
}
