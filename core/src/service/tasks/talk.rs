//! One stream of tasks from its first byte to its last, and what it does on the board.

use super::board::{Board, Tell};
use super::content::About;
use super::frame::{FRAME_MAX, Frame, HEADER};
use super::link::{Asked, Link, LinkEvent, WINDOW};
use super::signer::Signer;
use super::task::{Party, Task};
use super::{TasksError, Verdict};
use crate::crypto::IdentityKey;
use crate::crypto::task::{CLAIM, RECEIPT, STATEMENT, Statement, Step, TaskId};
use crate::service::buffer::Buffer;
use crate::time::{Duration, Instant, UnixTime};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// Who has opened the stream asks so often whether the other end is there (`wire.md` 12).
const PING: Duration = Duration::from_secs(20);
/// A stream on which nothing comes for so long is given up (`wire.md` 12).
const SILENCE: Duration = Duration::from_secs(60);
/// Who has opened the stream keeps it so long after the last word.
const LINGER: Duration = Duration::from_secs(5);
/// What the other side had no room for is told again after so long.
const LATER: Duration = Duration::from_secs(5);
/// Bytes to write beyond which nothing more is told.
const TELL_BELOW: usize = 64 * 1024;
/// Bytes after which no more is told at a time.
const TELL_BYTES: usize = 512 * 1024;
/// The longest answer, to a claim or a ping.
const ANSWER_MAX: usize = HEADER + RECEIPT;

/// Most bytes that a [`Talk`] has to write; as long as there is no room for another answer,
/// nothing more is heard: of a peer that reads no answers.
pub const OUTPUT_MAX: usize = 1 << 20;
/// Most bytes that a [`Talk`] holds of what it was given: the longest frame and a part.
pub const INPUT_MAX: usize = 128 * 1024;

// Else a frame would never be complete.
const _: () = assert!(FRAME_MAX <= INPUT_MAX);
// Two ends that only told each other and heard nothing would wait for ever.
const _: () = assert!(TELL_BELOW + TELL_BYTES + FRAME_MAX + ANSWER_MAX < OUTPUT_MAX);

/// The contents that the owner of a board keeps beside it: of submissions, results and reasons.
pub trait Contents {
    /// Keeps one; durable when the change of its task is.
    fn keep(&mut self, id: TaskId, about: About, content: &[u8]);

    /// One that was kept; `None` if it cannot be had now: what it belongs to is told later.
    fn get(&mut self, id: TaskId, about: About) -> Option<Vec<u8>>;
}

/// The circumstances of a call of [`Talk::work`].
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// The present.
    pub now: Instant,
    /// The time of day, by which the limits of tasks run.
    pub unix: UnixTime,
    /// Whether this stream is the one of several to its peer that tells.
    pub is_teller: bool,
    /// Whether the peer may submit tasks, if that is known.
    pub admitted: Option<Result<(), Verdict>>,
}

/// How far [`Talk::work`] has come.
#[must_use = "a peer may wait to be admitted"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Worked {
    /// All that could be done is done.
    Done,
    /// The peer submits a task, and it was not said whether it may: work again, and say it.
    Admit,
}

/// Why a stream is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TalkEnd {
    /// The other end has ended it, or there is nothing more to tell or to wait for: write the
    /// rest of the output, and end it.
    Finished,
    /// Nothing came for 60 s: reset it.
    Silent,
}

/// One stream on port 1003, whoever has opened it: bytes and time in, bytes and a deadline out.
///
/// 1. [`handle_bytes`](Talk::handle_bytes) takes what was read, as much as there is
///    [`room`](Talk::room) for.
/// 2. [`work`](Talk::work) does on the board what was said, and adds the answers and what is to
///    be told to the output. Call it after bytes, after the deadline, when output was taken, and
///    when the board has changed.
/// 3. Once all that was done on the board is durable, [`release`](Talk::release): what was
///    written before that is [`output`](Talk::output), and nothing else. If it cannot be made
///    durable, take it back on the board and drop the stream.
/// 4. [`advance`](Talk::advance) for what the stream has taken.
/// 5. [`handle_time`](Talk::handle_time) at the [`deadline`](Talk::deadline).
#[derive(Debug)]
pub struct Talk {
    peer: Party,
    has_opened: bool,
    link: Link,
    input: Buffer,
    output: Buffer,
    /// Of the output: what may be written.
    released: usize,
    /// Tasks that something was told of and that wait for an answer, at most [`WINDOW`].
    asked: BTreeSet<TaskId>,
    /// Tasks that are told again, and when.
    later: BTreeMap<TaskId, Instant>,
    /// The board and whether this stream tells, as it was looked for something to tell last.
    looked: Option<(u64, bool)>,
    heard_at: Instant,
    needed_at: Instant,
    ping_at: Instant,
    /// Whether there was something to tell or to wait for.
    is_needed: bool,
    end: Option<TalkEnd>,
}

impl Talk {
    /// On a fresh stream to this peer, which the tunnel has authenticated.
    pub fn new(peer: Party, has_opened: bool, now: Instant) -> Self {
        Talk {
            peer,
            has_opened,
            link: Link::new(),
            input: Buffer::default(),
            output: Buffer::default(),
            released: 0,
            asked: BTreeSet::new(),
            later: BTreeMap::new(),
            looked: None,
            heard_at: now,
            needed_at: now,
            ping_at: now + PING,
            is_needed: true,
            end: None,
        }
    }

    /// The other side.
    pub fn peer(&self) -> Party {
        self.peer
    }

    // ---- bytes ----

    /// How many bytes it takes now. None while it has enough that is not worked on.
    pub fn room(&self) -> usize {
        INPUT_MAX - self.input.len()
    }

    /// Takes received bytes, at most as many as there is room for; how many.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room());
        if n > 0 {
            self.heard_at = now;
            self.input.put(&bytes[..n]);
        }
        n
    }

    /// The other end has ended the stream: what it said completely is still worked on.
    pub fn handle_end(&mut self) {
        self.end = self.end.or(Some(TalkEnd::Finished));
    }

    /// What is to be written.
    pub fn output(&self) -> &[u8] {
        &self.output.bytes()[..self.released]
    }

    /// The stream has taken the first `n` bytes of the output.
    pub fn advance(&mut self, n: usize) {
        let n = n.min(self.released);
        self.output.advance(n);
        self.released -= n;
        self.looked = None;
    }

    /// All that was done on the board so far is durable.
    pub fn release(&mut self) {
        self.released = self.output.len();
    }

    /// Whether there is output that waits for [`release`](Self::release).
    pub fn is_withheld(&self) -> bool {
        self.released < self.output.len()
    }

    // ---- work ----

    /// Does on the board what the other end has said, and looks what is to be told to it. After an
    /// error the stream is to be reset; what was done on the board counts.
    pub fn work<S: Signer>(
        &mut self,
        board: &mut Board<S>,
        contents: &mut impl Contents,
        turn: Turn,
    ) -> Result<Worked, TasksError> {
        let worked = self.hear(board, contents, turn)?;
        if self.end.is_none() {
            self.tell(board, contents, turn);
        }
        Ok(worked)
    }

    fn hear<S: Signer>(
        &mut self,
        board: &mut Board<S>,
        contents: &mut impl Contents,
        turn: Turn,
    ) -> Result<Worked, TasksError> {
        while self.output.len() + ANSWER_MAX <= OUTPUT_MAX {
            if turn.admitted.is_none() && submits(self.input.bytes(), board)? {
                return Ok(Worked::Admit);
            }
            let (used, event) = self.link.handle_bytes(self.input.bytes())?;
            let Some(event) = event else { break };
            match event {
                LinkEvent::Stated { statement, content } => {
                    let admit = || turn.admitted.unwrap_or(Err(Verdict::Failed));
                    let verdict = board.judge(self.peer, &statement, content, admit, turn.unix);
                    if verdict == Verdict::Applied {
                        keep(board, contents, &statement, content);
                    }
                    answer(&mut self.output, |out| self.link.answer(verdict, out));
                }
                LinkEvent::Claimed(claim) => {
                    match board.judge_claim(self.peer, &claim, turn.unix) {
                        Ok(receipt) => {
                            answer(&mut self.output, |out| self.link.answer_receipt(&receipt, out));
                        }
                        Err(verdict) => {
                            answer(&mut self.output, |out| self.link.answer(verdict, out))
                        }
                    }
                }
                LinkEvent::Answered(asked, verdict) => {
                    let key = self.peer.key;
                    self.asked.remove(&asked.task());
                    if answered(board, key, asked, verdict, turn.unix) {
                        self.later.insert(asked.task(), turn.now + LATER);
                    }
                    self.looked = None;
                }
                LinkEvent::Countersigned(receipt) => {
                    self.asked.remove(&receipt.claim.task);
                    if !board.countersigned(self.peer.key, &receipt) {
                        // Not what we asked for; asked again, perhaps it is then.
                        self.later.insert(receipt.claim.task, turn.now + LATER);
                    }
                    self.looked = None;
                }
                LinkEvent::Ping(request) => {
                    answer(&mut self.output, |out| self.link.pong(request, out));
                }
                LinkEvent::Pong => {}
            }
            self.input.advance(used);
        }
        Ok(Worked::Done)
    }

    fn tell<S: Signer>(&mut self, board: &mut Board<S>, contents: &mut impl Contents, turn: Turn) {
        self.drop_due(turn.now);
        let looks = Some((board.revision(), turn.is_teller));
        if self.looked != looks {
            self.looked = looks;
            if turn.is_teller && self.output.len() < TELL_BELOW {
                self.tell_next(board, contents, turn.now);
            }
        }
        let was_needed = self.is_needed;
        self.is_needed = board.is_following(self.peer.key)
            || !(self.asked.is_empty() && self.later.is_empty() && self.link.is_idle())
            || self.output.len() > 0;
        if self.is_needed || was_needed {
            self.needed_at = turn.now;
        }
    }

    fn tell_next<S: Signer>(
        &mut self,
        board: &mut Board<S>,
        contents: &mut impl Contents,
        now: Instant,
    ) {
        let mut offered = heapless::Vec::<TaskId, WINDOW>::new();
        let start = self.output.len();
        for (id, tell) in board.untold(self.peer.key) {
            if !self.link.has_room() || self.output.len() - start > TELL_BYTES {
                break;
            }
            if self.asked.contains(&id) || self.later.contains_key(&id) {
                continue;
            }
            let told = match tell {
                Tell::Statement { statement, content } => {
                    let kept = match (content, About::of(statement.fields.step)) {
                        (None, Some(about)) => contents.get(id, about),
                        _ => None,
                    };
                    let Some(content) = content.or(kept.as_deref()) else {
                        self.later.insert(id, now + LATER);
                        continue;
                    };
                    let room = HEADER + STATEMENT + content.len();
                    self.output.put_with(room, |out| self.link.tell(statement, content, out))
                }
                Tell::Claim(claim) => {
                    self.output.put_with(HEADER + CLAIM, |out| self.link.tell_claim(claim, out))
                }
            };
            // There is room for as many as the link takes; a content longer than a frame is none
            // that was ever kept.
            if told.is_ok() && offered.push(id).is_ok() {
                self.asked.insert(id);
            }
        }
        offered.into_iter().for_each(|id| board.offered(id));
    }

    // ---- time ----

    /// When [`handle_time`](Self::handle_time) and [`work`](Self::work) want to be called at the
    /// latest.
    pub fn deadline(&self) -> Instant {
        let mut due = self.heard_at + SILENCE;
        if self.has_opened {
            due = due.min(self.ping_at);
        }
        if self.has_opened && !self.is_needed {
            due = due.min(self.needed_at + LINGER);
        }
        self.later.values().copied().fold(due, Instant::min)
    }

    /// The present is `now`: whether the other end is still there, and still needed.
    pub fn handle_time(&mut self, now: Instant) {
        self.drop_due(now);
        if now >= self.heard_at + SILENCE {
            self.end = self.end.or(Some(TalkEnd::Silent));
        } else if self.has_opened && !self.is_needed && now >= self.needed_at + LINGER {
            self.end = self.end.or(Some(TalkEnd::Finished));
        } else if self.has_opened && now >= self.ping_at {
            self.ping_at = now + PING;
            if self.output.len() + ANSWER_MAX <= OUTPUT_MAX {
                let may_go = !self.is_withheld();
                answer(&mut self.output, |out| self.link.ping(out));
                if may_go {
                    self.release();
                }
            }
        }
    }

    /// What is due may be told again: it is looked for.
    fn drop_due(&mut self, now: Instant) {
        let later = self.later.len();
        self.later.retain(|_, at| *at > now);
        if self.later.len() < later {
            self.looked = None;
        }
    }

    /// Whether, and why, the stream is over.
    pub fn end(&self) -> Option<TalkEnd> {
        self.end
    }
}

/// Whether the next frame submits a task that is new here.
fn submits<S: Signer>(input: &[u8], board: &Board<S>) -> Result<bool, TasksError> {
    Ok(match Frame::decode(input)? {
        Some((Frame::Tell { statement, .. }, _)) => {
            let fields = &statement.fields;
            fields.step == Step::Submit && board.get(fields.task).is_none()
        }
        _ => false,
    })
}

/// Keeps what a statement that was applied is about, if the task holds that very statement: an
/// older one is not looked at, and anybody could have written it.
fn keep<S: Signer>(
    board: &Board<S>,
    contents: &mut impl Contents,
    statement: &Statement,
    content: &[u8],
) {
    let id = statement.fields.task;
    let Some(about) = About::of(statement.fields.step) else { return };
    let is_held = |task: &Task| [task.first(), task.last()].contains(&statement);
    if board.get(id).is_some_and(is_held) {
        contents.keep(id, about, content);
    }
}

/// Whether what was asked is to be told again, but later.
fn answered<S: Signer>(
    board: &mut Board<S>,
    peer: IdentityKey,
    asked: Asked,
    verdict: Verdict,
    now: UnixTime,
) -> bool {
    match asked {
        Asked::Statement(id, seq) => board.answered(peer, id, seq, verdict, now),
        Asked::Claim(id) => board.claim_answered(peer, id, verdict),
    }
}

/// Writes what there is room for, and what is owed.
fn answer<E>(output: &mut Buffer, write: impl FnOnce(&mut [u8]) -> Result<usize, E>) {
    let written = output.put_with(ANSWER_MAX, write);
    debug_assert!(written.is_ok(), "it was looked at before");
}
