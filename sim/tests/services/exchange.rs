//! Data exchange: an outbox that is delivered in order over one stream at a time, another that is
//! pushed, and an inbox, each with a disk that keeps what was synced.

use crate::pushes::{self, Pushes};
use crate::trouble::{Counts, Service, Troubled};
use pilot_core::addr::Port;
use pilot_core::node::{Command, Reply, StreamError, StreamId};
use pilot_core::service::exchange::{
    Answer, ContentHash, Digest, Failure, HashAlgorithm, Kind, Note, NumberSet, Offer, Receiver,
    ReceiverEvent, Refusal, Sender, SenderEvent, TransferId,
};
use pilot_core::time::Duration;
use pilot_sim::{HostId, Tape, World};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const PORT: Port = Port::DATA_EXCHANGE;
const INCARNATION: [u8; 8] = *b"outbox 1";
/// Until everything is delivered after the troubles: a peer that does not answer is given up after
/// a minute and a half, a rendezvous is dialled again after 45 s.
const DELIVERED: Duration = Duration::from_secs(300);
/// Before a broken stream is followed by another.
const RETRY: Duration = Duration::from_millis(500);

fn hash_of(algorithm: HashAlgorithm, content: &[u8]) -> ContentHash {
    let mut hash = ContentHash::new(algorithm);
    hash.update(content);
    hash
}

pub(crate) struct Item {
    pub(crate) offer: Offer,
    pub(crate) content: Vec<u8>,
    hash: Digest,
}

impl Item {
    pub(crate) fn new(incarnation: [u8; 8], number: u64, size: u64, is_file: bool) -> Self {
        let content: Vec<u8> = (0..size).map(|n| (n * 31 + number * 7 + (n >> 8)) as u8).collect();
        let id = TransferId::numbered(incarnation, number).expect("a number");
        let name = is_file.then(|| format!("{number}.bin").parse().expect("a name"));
        let kind = if is_file { Kind::File } else { Kind::Binary };
        let hash = HashAlgorithm::of(kind);
        let offer = Offer { id, kind, size, hash, name, note: Note::cleaned(b"") };
        Item { offer, hash: hash_of(hash, &content).digest(), content }
    }
}

/// One stream of the sender.
struct Out {
    stream: StreamId,
    sender: Sender,
    /// Content that goes out before anything else.
    pending: Vec<u8>,
    /// So much of the content was given to the machine, once it is wanted.
    fed: Option<usize>,
    received: Vec<u8>,
}

/// One stream of the receiver.
struct In {
    stream: StreamId,
    receiver: Receiver,
    received: Vec<u8>,
    current: Option<TransferId>,
    /// What has arrived and is being synced, in order, and when that will be done.
    deferred: Vec<TransferId>,
    syncing: Option<Duration>,
}

/// What a receiver stores.
#[derive(Clone, Default)]
struct Disk {
    partial: BTreeMap<TransferId, Vec<u8>>,
    inbox: BTreeMap<TransferId, Vec<u8>>,
    seen: BTreeMap<[u8; 8], NumberSet>,
}

impl Disk {
    fn has_seen(&self, id: TransferId) -> bool {
        let (incarnation, number) = id.number().expect("numbered");
        self.seen.get(&incarnation).is_some_and(|seen| seen.contains(number))
    }
}

struct Exchange {
    to: HostId,
    from: HostId,
    items: Vec<Item>,
    /// The next item, as the process knows it and as its disk does.
    next: [usize; 2],
    out: Option<Out>,
    pushes: Pushes,
    retry: Duration,
    listens: bool,
    ins: Vec<In>,
    /// As the process sees it, and what a crash leaves.
    disk: Disk,
    synced: Disk,
    delivered: BTreeSet<TransferId>,
    counts: Counts,
}

/// Writes from the front of `bytes`; whether all of it has gone. An error: the stream is over.
pub(crate) fn drain(
    world: &mut World,
    host: HostId,
    stream: StreamId,
    bytes: &mut Vec<u8>,
) -> Result<bool, ()> {
    while !bytes.is_empty() {
        match world.write_stream(host, stream, bytes) {
            Ok(n) => drop(bytes.drain(..n)),
            Err(StreamError::Ended(_)) => return Err(()),
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

/// Reads what is there; an error: the stream is over.
pub(crate) fn fill(
    world: &mut World,
    host: HostId,
    stream: StreamId,
    to: &mut Vec<u8>,
) -> Result<(), ()> {
    let mut buf = [0; 4096];
    while to.len() < 64 * 1024 {
        match world.read_stream(host, stream, &mut buf) {
            Ok(0) | Err(StreamError::Ended(_)) => return Err(()),
            Ok(n) => to.extend_from_slice(&buf[..n]),
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

impl Exchange {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    // ---- the sender ----

    fn poll_sender(&mut self, world: &mut World, tape: &mut Tape) {
        let Some(mut out) = self.out.take().or_else(|| self.connect(world)) else { return };
        match self.send(world, &mut out, tape) {
            Ok(()) => self.out = Some(out),
            Err(()) => {
                world.abort_stream(self.from, out.stream);
                self.retry = world.elapsed() + RETRY;
            }
        }
    }

    fn connect(&mut self, world: &mut World) -> Option<Out> {
        if world.elapsed() < self.retry || self.next[0] == self.items.len() {
            return None;
        }
        let to = world.address(self.to)?;
        let reply = world.command(self.from, Command::Connect { to, port: PORT }).ok()?;
        let Reply::Stream(stream) = reply else { return None };
        let sender = Sender::new();
        Some(Out { stream, sender, pending: Vec::new(), fed: None, received: Vec::new() })
    }

    fn send(&mut self, world: &mut World, out: &mut Out, tape: &mut Tape) -> Result<(), ()> {
        fill(world, self.from, out.stream, &mut out.received)?;
        loop {
            let (used, event) = out.sender.handle_bytes(&out.received).expect("an honest peer");
            out.received.drain(..used);
            match event {
                Some(event) => self.heard(out, event, tape)?,
                None if used == 0 => break,
                None => {}
            }
        }
        loop {
            if !drain(world, self.from, out.stream, &mut out.pending)? {
                return Ok(());
            }
            // What the machine has to say stands behind the content.
            let mut said = out.sender.output().to_vec();
            let before = said.len();
            let all = drain(world, self.from, out.stream, &mut said)?;
            out.sender.advance(before - said.len());
            let Some(item) = self.items.get(self.next[0]).filter(|_| all) else { return Ok(()) };
            match out.fed {
                Some(fed) if fed < item.content.len() => {
                    let end = item.content.len().min(fed + 1 + tape.below(8000) as usize);
                    let wanted = out.sender.content(&item.content[fed..end]).expect("wanted");
                    out.pending.extend_from_slice(wanted);
                    out.fed = Some(end);
                }
                None if out.sender.is_idle() => out.sender.offer(&item.offer).expect("idle"),
                _ => return Ok(()),
            }
        }
    }

    fn heard(&mut self, out: &mut Out, event: SenderEvent, tape: &mut Tape) -> Result<(), ()> {
        let item = &self.items[self.next[0]];
        let (_, number) = item.offer.id.number().expect("numbered");
        match event {
            SenderEvent::Accepted { offset } => {
                out.fed = Some(0);
                if offset > 0 {
                    self.count("resumption");
                }
                return Ok(());
            }
            SenderEvent::Stored { hash } => {
                assert_eq!(hash, item.hash, "the hash of item {number}");
                self.count("receipt");
            }
            SenderEvent::AlreadyThere => self.count("repetition"),
            SenderEvent::Refused(Refusal::Busy) => return Err(()),
            SenderEvent::Refused(refusal) => panic!("item {number}: {refusal}"),
            SenderEvent::NotStored(Failure::Superseded) => return Err(()),
            SenderEvent::NotStored(failure) => panic!("item {number}: {failure}"),
        }
        let stored = self.synced.has_seen(self.items[self.next[0]].offer.id);
        assert!(stored, "item {number} is acknowledged and not synced");
        out.fed = None;
        self.next[0] += 1;
        // The sender's own disk is as slow as it likes: at worst it sends again.
        if tape.below(2) == 1 {
            self.next[1] = self.next[0];
        }
        Ok(())
    }

    // ---- the receiver ----

    fn poll_receiver(&mut self, world: &mut World, tape: &mut Tape) {
        if !self.listens {
            self.listens = world.command(self.to, Command::Listen { port: PORT }).is_ok();
        }
        while let Some(stream) = world.accept(self.to, PORT) {
            let (receiver, received, deferred) = (Receiver::new(), Vec::new(), Vec::new());
            let (current, syncing) = (None, None);
            self.ins.push(In { stream, receiver, received, current, deferred, syncing });
        }
        for n in (0..self.ins.len()).rev() {
            // All the others are there while one is looked after.
            let mut conn = self.ins.remove(n);
            match self.receive(world, &mut conn, tape) {
                Ok(()) => self.ins.insert(n, conn),
                Err(()) => world.abort_stream(self.to, conn.stream),
            }
        }
    }

    fn receive(&mut self, world: &mut World, conn: &mut In, tape: &mut Tape) -> Result<(), ()> {
        let now = world.elapsed();
        if conn.syncing.is_some_and(|done| done <= now) {
            self.commit(conn);
        }
        let mut said = conn.receiver.output().to_vec();
        let before = said.len();
        let result = drain(world, self.to, conn.stream, &mut said);
        conn.receiver.advance(before - said.len());
        if !result? {
            return Ok(());
        }
        if conn.receiver.is_closed() {
            return Err(());
        }
        fill(world, self.to, conn.stream, &mut conn.received)?;
        loop {
            let input = core::mem::take(&mut conn.received);
            let (used, event) = conn.receiver.handle_bytes(&input).expect("an honest peer");
            let quiet = used == 0 && event.is_none();
            match event {
                Some(ReceiverEvent::Data(bytes)) => {
                    let id = conn.current.expect("it was offered");
                    self.disk.partial.entry(id).or_default().extend_from_slice(bytes);
                    if tape.below(4) == 3 {
                        self.synced.partial = self.disk.partial.clone();
                    }
                }
                Some(ReceiverEvent::Offered(offer)) => {
                    let answer = self.answer(conn, offer.id, offer.hash);
                    conn.receiver.answer(answer).expect("it was asked");
                }
                Some(ReceiverEvent::End { hash }) => {
                    let id = conn.current.take().expect("it was offered");
                    let stored = self.disk.partial.entry(id).or_default();
                    assert_eq!(hash_of(hash.algorithm(), stored).digest(), hash);
                    conn.receiver.defer().expect("it has ended");
                    conn.deferred.push(id);
                    let soon = now + Duration::from_millis(tape.below(80));
                    conn.syncing.get_or_insert(soon);
                }
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            conn.received = input[used..].to_vec();
            if quiet {
                return Ok(());
            }
        }
    }

    fn answer(&mut self, conn: &mut In, id: TransferId, hash: HashAlgorithm) -> Answer {
        if self.disk.has_seen(id) {
            return Answer::Have;
        }
        if self.ins.iter().chain([&*conn]).any(|conn| conn.deferred.contains(&id)) {
            return Answer::Refuse(Refusal::Busy);
        }
        // On another stream, whose sender has gone without a word that has arrived.
        if let Some(other) = self.ins.iter_mut().find(|other| other.current == Some(id)) {
            let _ = other.receiver.abort(Failure::Superseded);
            other.current = None;
            self.count("stream superseded");
        }
        conn.current = Some(id);
        let partial = self.disk.partial.entry(id).or_default();
        // What is pushed comes whole.
        if id.number().is_some_and(|(incarnation, _)| incarnation == pushes::INCARNATION) {
            partial.clear();
        }
        Answer::Send(hash_of(hash, partial))
    }

    /// All of them are visible, remembered and synced at once.
    fn commit(&mut self, conn: &mut In) {
        conn.syncing = None;
        for id in &conn.deferred {
            let (incarnation, number) = id.number().expect("numbered");
            let content = self.disk.partial.remove(id).unwrap_or_default();
            self.disk.inbox.insert(*id, content);
            self.disk.seen.entry(incarnation).or_default().insert(number, number);
            assert!(self.delivered.insert(*id), "{id} is delivered twice");
        }
        self.synced = self.disk.clone();
        self.check_inbox();
        if conn.deferred.len() > 1 {
            self.count("sync of several");
        }
        for _ in core::mem::take(&mut conn.deferred) {
            conn.receiver.settle(Ok(())).expect("it was deferred");
        }
    }

    /// Whatever can be seen is whole.
    fn check_inbox(&self) {
        for (id, content) in self.disk.inbox.iter().chain(&self.synced.inbox) {
            let mut items = self.items.iter().chain(self.pushes.items());
            let item = items.find(|item| item.offer.id == *id).expect("was sent");
            assert!(item.content == *content, "{id} is not what was sent");
        }
    }
}

impl Service for Exchange {
    fn poll(&mut self, world: &mut World, tape: &mut Tape) {
        self.poll_sender(world, tape);
        let synced = &self.synced;
        let stored = |id| synced.has_seen(id);
        self.pushes.poll(world, self.to, tape, &stored, &mut self.counts);
        self.poll_receiver(world, tape);
        // The owner reads and deletes; what was seen stays known.
        if tape.below(50) == 49 {
            self.disk.inbox.clear();
            self.synced.inbox.clear();
        }
    }

    fn crashed(&mut self, host: HostId, tape: &mut Tape) {
        if host == self.from {
            self.out = None;
            self.next[0] = self.next[1];
            self.pushes.crashed();
        } else {
            self.listens = false;
            self.ins.clear();
            let written = core::mem::take(&mut self.disk.partial);
            self.disk = self.synced.clone();
            // Of what was appended and not synced, some may have reached the disk.
            for (id, bytes) in written {
                let kept = self.disk.partial.entry(id).or_default();
                let more = bytes.len().saturating_sub(kept.len()) as u64;
                let end = kept.len() + tape.below(more + 1) as usize;
                *kept = bytes[..end.min(bytes.len())].to_vec();
            }
            self.disk.partial.retain(|id, _| !self.delivered.contains(id));
            self.check_inbox();
        }
    }
}

pub(crate) fn run(seed: u64) -> Counts {
    let mut troubled = Troubled::new(seed, 2);
    let (to, from) = (troubled.hosts[0], troubled.hosts[1]);
    let tape = &mut troubled.tape;
    let count = 3 + tape.below(20);
    let mut item = |number| {
        let is_file = tape.below(3) == 2;
        let size = tape.below(if is_file { 600_000 } else { 3000 });
        Item::new(INCARNATION, number, size, is_file)
    };
    let items: Vec<_> = (1..=count).map(&mut item).collect();
    let pushes = Pushes::new(from, tape);
    let mut exchange = Exchange {
        to,
        from,
        items,
        pushes,
        next: [0; 2],
        out: None,
        retry: Duration::ZERO,
        listens: false,
        ins: Vec::new(),
        disk: Disk::default(),
        synced: Disk::default(),
        delivered: BTreeSet::new(),
        counts: Counts::new(),
    };
    let mut counts = Counts::new();
    troubled.befall(&mut exchange, &mut counts);
    troubled.heal();
    let all = exchange.items.len();
    let done =
        |_: &mut World, exchange: &Exchange| exchange.next[0] == all && exchange.pushes.is_done();
    let delivered = troubled.run_until(&mut exchange, DELIVERED, done);
    assert!(delivered, "seed {seed}: {:?} of {all}{}", exchange.next, troubled.world.describe());
    assert_eq!(exchange.delivered.len(), all + exchange.pushes.items().len(), "seed {seed}");
    counts.append(&mut exchange.counts);
    counts
}
