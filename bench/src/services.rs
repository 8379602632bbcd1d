//! Messages and files through the library's services, beside the raw stream. The receiver's disk is
//! a temporary file.

use crate::adapter::Adapter as _;
use crate::bulk::{Bulk, PAYLOAD};
use crate::contest::{Cores, RING};
use crate::measure::{Checker, Source, Stopwatch, Took, on_core};
use crate::pilot::{Provider, path, run_agents, until};
use crate::table::{Metric, Table};
use pilot_core::addr::Address;
use pilot_core::node::PathKind;
use pilot_tokio::services::{
    ContentHash, HashAlgorithm, Incoming, Kind, Note, Offer, Pushed, Received,
};
use pilot_tokio::{Agent, Tokio};
use std::fs::File;
use std::io::Write as _;
use std::thread::JoinHandle;

const MESSAGE: usize = 1024;
/// Bytes of a file that are written at a time: of larger pieces the file system has less work.
const BLOCK: usize = 1 << 20;

/// After so many bytes a sync begins.
const EARLY: usize = 16 << 20;

/// What the receiver does before it acknowledges.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Promise {
    /// Nothing.
    None,
    /// What has come is appended to a file, and synced together.
    Synced,
}

/// Much of a file is synced beside the writing of what follows, as a daemon does it.
struct Disk {
    file: Option<File>,
    unsynced: usize,
    syncing: Option<JoinHandle<std::io::Result<()>>>,
}

impl Disk {
    fn new(promise: Promise) -> Self {
        let file = || tempfile::tempfile().expect("a file");
        let file = (promise == Promise::Synced).then(file);
        Disk { file, unsynced: 0, syncing: None }
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some(file) = &mut self.file else { return };
        file.write_all(bytes).expect("room");
        self.unsynced += bytes.len();
        if self.unsynced >= EARLY && self.syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.unsynced = 0;
            let file = file.try_clone().expect("a handle");
            let before = self.syncing.replace(std::thread::spawn(move || file.sync_data()));
            before.into_iter().for_each(synced);
        }
    }

    fn sync(&mut self) {
        if let Some(file) = &self.file {
            self.syncing.take().into_iter().for_each(synced);
            file.sync_data().expect("synced");
            self.unsynced = 0;
        }
    }
}

fn synced(thread: JoinHandle<std::io::Result<()>>) {
    thread.join().expect("it runs").expect("synced");
}

async fn direct(agent: &Agent, peer: Address) {
    // A round trip, so that there is a path.
    agent.connect_echo(peer).await.expect("connected").round_trip().await.expect("an echo");
    until::<Tokio>(|| path(agent, peer) == PathKind::Direct).await;
}

/// Serves one echo, then one stream of messages and files.
async fn accept(agent: Agent) -> Incoming {
    let echo = agent.listen_echo().expect("a free port");
    let exchange = agent.listen_exchange().expect("a free port");
    let serving = Tokio::spawn_here(async move {
        echo.accept().await.expect("a stream").serve().await.expect("served");
    });
    serving.await;
    exchange.accept().await.expect("a stream")
}

/// A message counts when its receipt is there.
fn messages(promise: Promise, count: usize) -> Took {
    let passive = move |agent: Agent| async move {
        let mut incoming = accept(agent).await;
        let (mut disk, mut checker) = (Disk::new(promise), Checker::new());
        while let Some(received) = incoming.next().await.expect("received") {
            let mut next = Some(received);
            while let Some(Received::Message(message)) = next {
                checker.check(&message.content);
                disk.write(&message.content);
                next = incoming.next_here().await.expect("received");
            }
            disk.sync();
            incoming.acknowledge(incoming.unacknowledged()).expect("received before");
        }
        assert_eq!(checker.received(), count * MESSAGE);
    };
    let active = move |agent: Agent, peer| async move {
        direct(&agent, peer).await;
        let mut messages = agent.connect_messages(peer).await.expect("connected");
        let mut source = Source::new();
        let watch = Stopwatch::start();
        for _ in 0..count {
            while !messages.has_room() {
                let receipt = messages.receipt().await.expect("a receipt").expect("one is owed");
                assert_eq!(receipt.outcome, Pushed::Stored);
            }
            let content = source.next(MESSAGE);
            messages.queue(Kind::Binary, Note::default(), content).expect("room");
        }
        while let Some(receipt) = messages.receipt().await.expect("a receipt") {
            assert_eq!(receipt.outcome, Pushed::Stored);
        }
        watch.stop()
    };
    run_agents::<Tokio, _, _, _>(Provider::Ring, Cores::Split, PAYLOAD, active, passive)
}

fn file(promise: Promise, bytes: usize) -> Took {
    let passive = move |agent: Agent| async move {
        let mut incoming = accept(agent).await;
        let (mut disk, mut checker) = (Disk::new(promise), Checker::new());
        let received = incoming.next().await.expect("received");
        let Some(Received::File(offer)) = received else { panic!("{received:?}") };
        incoming.accept(ContentHash::new(offer.hash)).expect("offered");
        let (mut block, mut len) = (vec![0; BLOCK], 0);
        while let n @ 1.. = incoming.read(&mut block[len..]).await.expect("read") {
            checker.check(&block[len..len + n]);
            len += n;
            if len == BLOCK {
                disk.write(&block);
                len = 0;
            }
        }
        disk.write(&block[..len]);
        disk.sync();
        assert_eq!(checker.received(), bytes);
        incoming.acknowledge(1).expect("received before");
        while incoming.next().await.expect("the end").is_some() {}
    };
    let active = move |agent: Agent, peer| async move {
        direct(&agent, peer).await;
        let (id, size) = (agent.transfer_id().expect("randomness"), bytes as u64);
        let (name, note) = (Some("bench.bin".parse().expect("a name")), Note::default());
        let (kind, hash) = (Kind::File, HashAlgorithm::Blake3);
        let offer = Offer { id, kind, size, hash, name, note };
        let mut source = Source::new();
        let watch = Stopwatch::start();
        let mut upload = agent.upload(peer, &offer).await.expect("accepted");
        let mut left = bytes;
        while left > 0 {
            let len = left.min(Source::MOST);
            upload.write_all(source.next(len)).await.expect("taken");
            left -= len;
        }
        upload.receipt().await.expect("acknowledged");
        watch.stop()
    };
    run_agents::<Tokio, _, _, _>(Provider::Ring, Cores::Split, PAYLOAD, active, passive)
}

/// What the disk alone takes: the same bytes from memory, written and synced as a receiver does it.
fn disk(bytes: usize) -> Took {
    let alone = on_core(1, move || {
        let (mut disk, mut source) = (Disk::new(Promise::Synced), Source::new());
        let watch = Stopwatch::start();
        let mut left = bytes;
        while left > 0 {
            let len = left.min(BLOCK).min(Source::MOST);
            disk.write(source.next(len));
            left -= len;
        }
        disk.sync();
        watch.stop()
    });
    alone.join().expect("the disk has room")
}

pub fn run(rounds: usize, bytes: usize) -> Vec<Table> {
    const RAW: &[&str] = &["raw stream"];
    const PROMISES: [(Promise, &str); 2] =
        [(Promise::Synced, "acknowledged once synced"), (Promise::None, "acknowledged at once")];
    let count = bytes / MESSAGE;
    let title = format!("Services: {count} messages of 1 KiB, at most 256 without a receipt");
    let metrics = [Metric::spread("messages/s", 0), Metric::new("CPU ns each", 0)];
    let mut messages_table = Table::new(title, metrics, RAW);
    let title = format!("Services: a file of {} MB", bytes / 1_000_000);
    let metrics = [Metric::spread("MB/s", 0), Metric::new("CPU s/GB", 2)];
    let mut files = Table::new(title, metrics, RAW);
    for _ in 0..rounds {
        let rate = |took: &Took| count as f64 / took.seconds();
        let cost = |took: &Took| took.cpu_seconds() * 1e9 / count as f64;
        let raw = RING.run(Cores::Split, PAYLOAD, crate::messages::Messages { count });
        messages_table.add("raw stream", &[rate(&raw), cost(&raw)]);
        for (promise, name) in PROMISES {
            let took = messages(promise, count);
            messages_table.add(name, &[rate(&took), cost(&took)]);
        }
        let rate = |took: &Took| bytes as f64 / 1e6 / took.seconds();
        let cost = |took: &Took| took.cpu_seconds() / (bytes as f64 / 1e9);
        let raw = RING.run(Cores::Split, PAYLOAD, Bulk { bytes });
        files.add("raw stream", &[rate(&raw), cost(&raw)]);
        for (promise, name) in PROMISES {
            let took = file(promise, bytes);
            files.add(name, &[rate(&took), cost(&took)]);
        }
        let took = disk(bytes);
        files.add("the disk alone", &[rate(&took), cost(&took)]);
    }
    vec![messages_table, files]
}
