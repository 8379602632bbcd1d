//! A stream of tasks with a live board behind it, and a peer that says anything: bytes, and frames
//! that it signs honestly or not, in any order, while our own side makes steps, time passes, and
//! storing takes its time or fails.
//!
//! Oracle: what is held of a stream is bounded; nothing is written before it is durable, and what
//! is written are frames; a task that is not this peer's never changes, and one that is moves only
//! by a statement that its side has signed for this registry; receipts are signed by both; a peer
//! has no more tasks than it may have.

use crate::tape::Tape;
use pilot_core::addr::{Address, NodeId};
use pilot_core::crypto::task::statement::submission;
use pilot_core::crypto::task::{
    Claim, Head, Receipt, Side, Statement, StatementFields, Step, TaskId, Times,
};
use pilot_core::crypto::{Identity, IdentityKey};
use pilot_core::service::tasks::{
    About, Board, BoardLimits, Content, Contents, INPUT_MAX, Keys, OUTPUT_MAX, Party, Talk, Task,
    Turn, Verdict,
};
use pilot_core::time::{Duration, Instant, UnixTime};
use std::collections::BTreeMap;

const REGISTRY: IdentityKey = IdentityKey([7; 32]);
/// Ourselves, the peer, and a third that has a task with us.
const ME: u8 = 1;
const PEER: u8 = 2;
const THIRD: u8 = 3;
const OF_PEER: usize = 3;
const STEPS: usize = 120;

fn identity(n: u8) -> Identity {
    Identity::from_secret([n; 32])
}

fn party(n: u8) -> Party {
    Party { address: Address::backbone(NodeId(u32::from(n))), key: identity(n).public() }
}

#[derive(Default)]
struct Kept(BTreeMap<(TaskId, About), Vec<u8>>);

impl Contents for Kept {
    fn keep(&mut self, id: TaskId, about: About, content: &[u8]) {
        self.0.insert((id, about), content.to_vec());
    }

    fn get(&mut self, id: TaskId, about: About) -> Option<Vec<u8>> {
        self.0.get(&(id, about)).cloned()
    }
}

struct World {
    board: Board<Keys>,
    kept: Kept,
    talk: Talk,
    /// What is on the disk.
    disk: BTreeMap<TaskId, Vec<u8>>,
    now: Instant,
    unix: UnixTime,
    /// Written and not yet looked at.
    written: Vec<u8>,
}

pub fn run(data: &[u8]) {
    let mut tape = Tape::new(data);
    let mut world = World::new(tape.flag());
    for _ in 0..STEPS {
        if tape.is_empty() || !world.step(&mut tape) {
            break;
        }
        world.check();
    }
}

impl World {
    /// We have a task of a third's, and one that the peer is to do for us.
    fn new(has_opened: bool) -> World {
        let keys = Keys { identity: identity(ME), registry: REGISTRY };
        let mut limits = BoardLimits::default();
        limits.of_peer = OF_PEER;
        let mut board = Board::new(keys, party(ME).key, REGISTRY, limits);
        let (now, unix) = (Instant::START, UnixTime::from_secs(1_700_000_000));
        let mut kept = Kept::default();
        let body = content("x");
        let first = submission(id(9), party(THIRD).key, party(ME).key, unix, &body);
        let first = Statement::sign(&identity(THIRD), &REGISTRY, first).expect("its own");
        let verdict = board.judge(party(THIRD), &first, &body, || Ok(()), unix);
        assert_eq!(verdict, Verdict::Applied);
        board.act(id(9), Step::Accept, &[], unix).expect("new");
        board.submit(id(0), party(PEER), &body, unix).expect("room");
        kept.keep(id(0), About::Work, &body);
        let talk = Talk::new(party(PEER), has_opened, now);
        let (disk, written) = Default::default();
        let mut world = World { board, kept, talk, disk, now, unix, written };
        world.store();
        world
    }

    fn store(&mut self) {
        for id in self.board.take_changed() {
            match self.board.record(id) {
                Some(record) => drop(self.disk.insert(id, record)),
                None => drop(self.disk.remove(&id)),
            }
        }
        self.talk.release();
    }

    /// The storage has failed: what was done is taken back, and the stream is dropped.
    fn lose(&mut self) {
        for id in self.board.take_changed() {
            match self.disk.get(&id) {
                Some(record) => drop(self.board.restore(record).expect("it was written by us")),
                None => self.board.forget(id),
            }
        }
    }

    /// Whether the stream goes on.
    fn step(&mut self, tape: &mut Tape<'_>) -> bool {
        match tape.below(10) {
            0 => self.give(tape.chunk()),
            1 | 2 => {
                let frame = self.statement(tape);
                self.give(&frame);
            }
            3 => {
                let frame = self.receipt(tape);
                self.give(&frame);
            }
            4 => {
                let (task, verdict) = (id(tape.below(10)), tape.byte());
                self.give(&frame(18, &[&task.0[..], &[verdict]].concat()));
            }
            5 => self.act(tape),
            6 => {
                let passed = Duration::from_millis(tape.word().into());
                (self.now, self.unix) = (self.now + passed, self.unix + passed);
                self.board.handle_time(self.unix);
                self.talk.handle_time(self.now);
            }
            7 => self.store(),
            8 => {
                let n = usize::from(tape.word()).min(self.talk.output().len());
                self.written.extend(&self.talk.output()[..n]);
                self.talk.advance(n);
            }
            _ if tape.byte() == 0 => {
                self.lose();
                return false;
            }
            _ => return self.work(tape),
        }
        true
    }

    fn give(&mut self, bytes: &[u8]) {
        let room = self.talk.room();
        assert_eq!(self.talk.handle_bytes(self.now, bytes), bytes.len().min(room));
    }

    /// Works: what was done must have been signed by who did it.
    fn work(&mut self, tape: &mut Tape<'_>) -> bool {
        let admitted = match tape.below(4) {
            0 => None,
            1 => Some(Err(Verdict::NotPermitted)),
            _ => Some(Ok(())),
        };
        let turn = Turn { now: self.now, unix: self.unix, is_teller: tape.flag(), admitted };
        let before: BTreeMap<TaskId, Task> =
            self.board.tasks().map(|task| (task.id(), task.clone())).collect();
        let output = self.talk.output().len();
        let worked = self.talk.work(&mut self.board, &mut self.kept, turn);
        assert_eq!(self.talk.output().len(), output, "nothing goes out before it is durable");
        for task in self.board.tasks() {
            let was = before.get(&task.id());
            if task.peer().key != party(PEER).key {
                assert_eq!(was, Some(task), "not this peer's");
                continue;
            }
            if was.is_none() {
                assert_eq!((task.side(), admitted), (Side::Worker, Some(Ok(()))), "not admitted");
            }
            if was.is_none_or(|was| was.last() != task.last()) {
                let last = task.last();
                assert!(last.verify(&REGISTRY).is_ok(), "not signed");
                let is_cancel = task.side() == Side::Submitter && last.fields.step == Step::Cancel;
                assert!(last.fields.signer() == party(PEER).key || is_cancel, "not its step");
            }
        }
        worked.is_ok()
    }

    fn act(&mut self, tape: &mut Tape<'_>) {
        let (task, step) = (id(tape.below(10)), Step::ALL[usize::from(tape.below(10))]);
        let body = match step {
            Step::Complete | Step::Progress | Step::Fail | Step::Decline | Step::Submit => {
                content("done")
            }
            _ => Vec::new(),
        };
        let is_done = match step {
            Step::Submit => self.board.submit(task, party(PEER), &body, self.unix).is_ok(),
            step => self.board.act(task, step, &body, self.unix).is_ok(),
        };
        if let Some(about) = About::of(step).filter(|_| is_done) {
            self.kept.keep(task, about, &body);
        }
    }

    /// A statement about some task, nearly right.
    fn statement(&self, tape: &mut Tape<'_>) -> Vec<u8> {
        let (task, step) = (id(tape.below(10)), Step::ALL[usize::from(tape.below(10))]);
        let body = match tape.below(4) {
            0 => Vec::new(),
            1 => tape.chunk().to_vec(),
            _ => content("so it is"),
        };
        let known = self.board.get(task);
        let head = known.map(|task| Head::restore(task.last()));
        let next = head.and_then(|head| head.next(step, step.side(), self.unix, &body).ok());
        let mut fields = match (next, known) {
            (Some(next), _) => next,
            (None, Some(known)) if step != Step::Submit => StatementFields {
                seq: known.last().fields.seq + 1,
                prev: known.last().hash(),
                step,
                ..known.last().fields
            },
            _ => submission(task, party(PEER).key, party(ME).key, self.unix, &body),
        };
        let lie = tape.byte();
        if lie & 3 == 1 && fields.seq > 0 {
            fields.seq = (fields.seq + u32::from(tape.byte())).max(1);
        }
        if lie & 12 == 4 {
            std::mem::swap(&mut fields.submitter, &mut fields.worker);
        }
        if lie & 12 == 8 {
            fields.submitter = party(THIRD).key;
        }
        let registry = if lie & 48 == 16 { IdentityKey([8; 32]) } else { REGISTRY };
        let signer = if lie & 192 == 64 { THIRD } else { PEER };
        let signed = Statement::sign(&identity(signer), &registry, fields);
        // What is not its own to sign it can only make up.
        let bytes = signed.map_or_else(|_| made_up(&fields), |s| s.encode().to_vec());
        frame(16, &[&bytes[..], &body].concat())
    }

    /// A claim or receipt about some task, nearly right.
    fn receipt(&self, tape: &mut Tape<'_>) -> Vec<u8> {
        let task = id(tape.below(10));
        let Some(known) = self.board.get(task) else { return Vec::new() };
        let head = Head::restore(known.last());
        let times = Times::from_millis([1, 2, 3, tape.quad()]);
        if tape.flag() {
            let claim = Claim::sign(&identity(PEER), &REGISTRY, &head, times);
            return claim.map_or_else(|_| Vec::new(), |claim| frame(17, &claim.encode()));
        }
        // Our own claim, as it was told, or one that the peer would like to be ours.
        let Ok(claim) = Claim::sign(&identity(ME), &REGISTRY, &head, known.times()) else {
            return Vec::new();
        };
        let receipt = Receipt::sign(&identity(PEER), &REGISTRY, &head, &claim, times);
        receipt.map_or_else(|_| Vec::new(), |receipt| frame(19, &receipt.encode()))
    }

    fn check(&mut self) {
        assert!(self.talk.output().len() <= OUTPUT_MAX && self.talk.room() <= INPUT_MAX);
        let is_open = |task: &&Task| {
            let is_theirs = task.peer().key == party(PEER).key && task.side() == Side::Worker;
            is_theirs && !task.is_settled()
        };
        assert!(self.board.tasks().filter(is_open).count() <= OF_PEER);
        for task in self.board.tasks() {
            if let Some(receipt) = task.receipt() {
                assert!(receipt.verify(&REGISTRY).is_ok());
            }
        }
        let mut at = 0;
        while let Some(header) = self.written[at..].first_chunk::<8>() {
            let [.., kind, _, a, b, c] = *header;
            let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            assert!((16..=21).contains(&kind) && header[..3] == [0; 3], "{header:?}");
            if self.written.len() < at + 8 + len {
                break;
            }
            at += 8 + len;
        }
        self.written.drain(..at);
    }
}

fn id(n: u8) -> TaskId {
    TaskId([n; 16])
}

fn content(text: &str) -> Vec<u8> {
    let mut out = vec![0; 64];
    let len = Content::of_text(text).encode(&mut out).expect("short");
    out.truncate(len);
    out
}

fn frame(kind: u32, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(body.len() as u32).to_be_bytes(), body].concat()
}

/// The fields with a signature of nobody.
fn made_up(fields: &StatementFields) -> Vec<u8> {
    let mut bytes = fields.task.0.to_vec();
    bytes.extend(fields.submitter.0);
    bytes.extend(fields.worker.0);
    bytes.extend(fields.seq.to_be_bytes());
    bytes.push(fields.step as u8);
    bytes.extend(fields.time.as_millis().to_be_bytes());
    bytes.extend(fields.body);
    bytes.extend(fields.prev);
    bytes.extend([1; 64]);
    bytes
}
