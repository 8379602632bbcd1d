//! Serving an agent's tasks: streams, storage, time limits, receipts.

use super::connection::{Connection, State};
use super::failure::TasksFailure;
use super::handle::{Tasks, party};
use super::office::{Hall, Office};
use super::registry::{HandIn, Scores};
use super::store::{Done, TaskStore};
use crate::addr::Port;
use crate::crypto::Rights;
use crate::drive::agent::{
    AgentEvent, ConnectError, Events, Handle, KeepAlive, ListenError, Listener, RecvError,
    StreamHandle,
};
use crate::drive::io::Clock as _;
use crate::drive::runtime::{Host as _, Runtime};
use crate::drive::waiters::{Ticket, Waken as _};
use crate::node::{CommandError, Link, PathKind, StreamEnd};
use crate::service::tasks::{Board, BoardLimits, Party, Turn, Verdict, Worked};
use crate::time::{Duration, Instant};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::task::Poll;
use std::sync::Mutex;

/// Streams of one peer: more than one only while an older one is dying.
const STREAMS_OF_PEER: usize = 4;
/// Streams of all peers, and those that are being opened.
const STREAMS: usize = 1024;
const CALLS: usize = 64;
/// Opening a stream takes no longer.
const ATTEMPT: Duration = Duration::from_secs(20);
/// The time of day is looked at so often at least, since it may be set.
const LOOK: Duration = Duration::from_secs(10);
/// After a commit that has failed nothing is done for so long.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;
/// Passes of one poll, before others are let run.
const PASSES: usize = 32;

/// How tasks are served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct TaskOptions {
    /// How many tasks there may be.
    pub limits: BoardLimits,
    /// Who has a lower score may submit nothing; the registry is asked.
    pub min_reputation: Option<i64>,
}

/// Serves the tasks of an agent, one service each agent. It has to be polled whenever its waker is
/// called, and when it is [`due`](Self::due). Dropping it ends the streams, and [`Tasks`] with it;
/// what was stored is there for the next one.
pub struct TaskService<R: Runtime> {
    hall: Arc<Hall<R>>,
    agent: KeepAlive<R>,
    listener: Listener<R>,
    ticket: Ticket,
    /// Tell when a peer may be reached.
    events: Events<R>,
    options: TaskOptions,
    connections: Vec<Connection<R>>,
    calling: Vec<(Party, StreamHandle<R>, Instant)>,
    scores: Scores<R>,
    receipts: HandIn<R>,
    chunk: Vec<u8>,
    due: Instant,
    /// After a failure of the store.
    rests_until: Instant,
}

impl<R: Runtime> fmt::Debug for TaskService<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams = self.connections.len();
        f.debug_struct("TaskService").field("streams", &streams).finish_non_exhaustive()
    }
}

impl<R: Runtime> KeepAlive<R> {
    /// Takes part in tasks, as a submitter and as a worker, with those that are stored. The agent
    /// itself signs; it has to be ready, so that it is known for which registry.
    pub fn listen_tasks(
        &self,
        options: TaskOptions,
        mut store: impl TaskStore,
    ) -> Result<TaskService<R>, TasksFailure> {
        let registry = self.registry_key().ok_or(TasksFailure::NotRegistered)?;
        let handle = Handle::clone(self);
        let key = handle.peek(|access| access.machine.identity());
        let mut board = Board::new(handle.clone(), key, registry, options.limits);
        store.load(&mut |record| {
            // One of a newer version is left where it is.
            let _ = board.restore(record);
        })?;
        let listener = self.listen(Port::TASKS)?;
        let (store, office) = (Mutex::new(Box::new(store) as _), Mutex::new(Office::new(board)));
        let now = self.shared().host().now();
        Ok(TaskService {
            hall: Arc::new(Hall { agent: handle, store, office }),
            agent: self.clone(),
            listener,
            ticket: Ticket::NONE,
            events: Events::from_now(Handle::clone(self)),
            options,
            connections: Vec::new(),
            calling: Vec::new(),
            scores: Scores::new(),
            receipts: HandIn::new(),
            chunk: vec![0; CHUNK],
            due: now,
            rests_until: now,
        })
    }
}

impl<R: Runtime> TaskService<R> {
    /// What an application does with them.
    pub fn tasks(&self) -> Tasks<R> {
        Tasks(Arc::clone(&self.hall))
    }

    pub(super) fn host(&self) -> R::Host {
        self.agent.shared().host()
    }

    /// When it wants to be polled again at the latest.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Serves until the agent has ended.
    pub fn poll_serve(&mut self, waker: &R::Waker) -> Poll<Result<(), TasksFailure>> {
        self.hall.office().attend(waker);
        for _ in 0..PASSES {
            match self.pass(waker) {
                Ok(true) => {}
                Ok(false) => {
                    self.due = self.next_due();
                    return Poll::Pending;
                }
                Err(error) => {
                    self.end();
                    return Poll::Ready(match error {
                        ListenError::Shutdown => Ok(()),
                        error => Err(error.into()),
                    });
                }
            }
        }
        self.due = self.host().now();
        waker.clone().wake();
        Poll::Pending
    }

    /// Does what there is to do; whether there may be more.
    fn pass(&mut self, waker: &R::Waker) -> Result<bool, ListenError> {
        let now = self.host().now();
        let mut moved = self.accept(now, waker)?;
        self.hear(waker);
        moved |= self.call(now, waker);
        moved |= self.scores.poll(now, waker);
        moved |= self.talk(now, waker);
        {
            let mut office = self.hall.office();
            if now >= self.rests_until {
                office.board.handle_time(self.host().reading().unix);
            }
            moved |= self.receipts.poll(now, &self.agent, &mut office, waker);
        }
        Ok(moved | self.commit(now))
    }

    // ---- streams ----

    fn accept(&mut self, now: Instant, waker: &R::Waker) -> Result<bool, ListenError> {
        let mut has_accepted = false;
        while let Poll::Ready(stream) = self.listener.poll_accept(&mut self.ticket, waker) {
            let stream = stream?;
            has_accepted = true;
            let peer = party(&self.hall.agent, stream.peer().address.on_backbone());
            let is_full = |peer: Party| {
                let of_peer = |c: &&Connection<R>| !c.has_opened && c.talk.peer().key == peer.key;
                self.connections.len() >= STREAMS
                    || self.connections.iter().filter(of_peer).count() >= STREAMS_OF_PEER
            };
            match peer.filter(|peer| !is_full(*peer)) {
                Some(peer) => self.begin(stream, peer, false, now),
                None => stream.reset(),
            }
        }
        Ok(has_accepted)
    }

    fn begin(&mut self, stream: StreamHandle<R>, peer: Party, has_opened: bool, now: Instant) {
        let mut office = self.hall.office();
        let connection = Connection::new(stream, peer, has_opened, &mut office, now);
        self.connections.push(connection);
    }

    /// Ends pauses when the agent tells that peers may be reached.
    fn hear(&mut self, waker: &R::Waker) {
        while let Poll::Ready(event) = self.events.poll_recv(waker) {
            let peer = match event {
                Ok(AgentEvent::PathChanged(peer, PathKind::Direct | PathKind::Relayed))
                | Ok(AgentEvent::TrustGranted(peer)) => Some(peer.on_backbone()),
                Ok(AgentEvent::LinkChanged(Link::Online)) | Err(RecvError::Lagged(_)) => None,
                Ok(_) => continue,
                Err(RecvError::Closed) => return,
            };
            self.hall.office().calls.wake(peer);
        }
    }

    /// Opens streams to those who are to be told something.
    fn call(&mut self, now: Instant, waker: &R::Waker) -> bool {
        let mut moved = false;
        while self.calling.len() < CALLS && self.connections.len() < STREAMS {
            let mut office = self.hall.office();
            let Office { calls, board, streams, .. } = &mut *office;
            let Some(peer) = calls.poll(now, board, streams) else { break };
            drop(office);
            moved = true;
            match self.agent.begin_connect(peer.address, Port::TASKS) {
                Ok(stream) => self.calling.push((peer, stream, now + ATTEMPT)),
                Err(error) => self.not_open(now, peer, Some(&error)),
            }
        }
        for (peer, stream, until) in core::mem::take(&mut self.calling) {
            match stream.poll_open(waker) {
                Poll::Ready(Ok(())) => {
                    self.hall.office().calls.handle_open(peer.key);
                    self.begin(stream, peer, true, now);
                }
                Poll::Ready(Err(end)) => self.not_open(now, peer, Some(&end.into())),
                Poll::Pending if now >= until => {
                    stream.reset();
                    self.not_open(now, peer, None);
                }
                Poll::Pending => {
                    self.calling.push((peer, stream, until));
                    continue;
                }
            }
            moved = true;
        }
        moved
    }

    fn not_open(&self, now: Instant, peer: Party, error: Option<&ConnectError>) {
        let unix = self.host().reading().unix;
        let mut office = self.hall.office();
        office.calls.handle_close(now, peer.key);
        let only_new = match error {
            // What the worker has, it may still tell over a stream of its own.
            Some(ConnectError::Failed(StreamEnd::NotPermitted)) => true,
            Some(ConnectError::Failed(StreamEnd::Revoked)) => false,
            Some(ConnectError::Command(CommandError::NotTrusted)) => false,
            _ => return,
        };
        office.board.give_up(peer.key, Verdict::NotPermitted, only_new, unix);
    }

    /// Lets all streams come further.
    fn talk(&mut self, now: Instant, waker: &R::Waker) -> bool {
        let mut moved = false;
        let mut kept = Vec::with_capacity(self.connections.len());
        for mut connection in core::mem::take(&mut self.connections) {
            match self.move_on(&mut connection, now, waker) {
                State::Over => {
                    moved = true;
                    let (peer, mut office) = (connection.talk.peer().key, self.hall.office());
                    office.streams.end(peer, connection.number);
                    if connection.has_opened {
                        office.calls.handle_close(now, peer);
                    }
                }
                state => {
                    moved |= state == State::Moved;
                    kept.push(connection);
                }
            }
        }
        self.connections = kept;
        moved
    }

    fn move_on(&mut self, connection: &mut Connection<R>, now: Instant, waker: &R::Waker) -> State {
        let Ok(has_read) = connection.read(waker, now, &mut self.chunk) else {
            return State::Over;
        };
        connection.talk.handle_time(now);
        if let Some(number) = connection.sealed {
            match self.hall.office().outcome(number) {
                Poll::Ready(Ok(())) => {
                    connection.talk.release();
                    connection.sealed = None;
                }
                Poll::Ready(Err(_)) => {
                    connection.stream.reset();
                    return State::Over;
                }
                Poll::Pending => {}
            }
        }
        if connection.sealed.is_none() && now >= self.rests_until && !self.work(connection, now) {
            connection.stream.reset();
            return State::Over;
        }
        let Ok(has_written) = connection.write(waker) else { return State::Over };
        if connection.close(now) {
            return State::Over;
        }
        if has_read || has_written { State::Moved } else { State::Idle }
    }

    /// Does what was said on a stream; whether it keeps to the protocol.
    fn work(&mut self, connection: &mut Connection<R>, now: Instant) -> bool {
        let peer = connection.talk.peer();
        let admitted = self.admitted(now, peer);
        let unix = self.host().reading().unix;
        let worked = {
            let mut store = self.hall.store();
            let mut office = self.hall.office();
            let is_teller = office.streams.is_teller(peer.key, connection.number);
            let (board, mut shelf) = office.desk(&mut **store);
            let turn = Turn { now, unix, is_teller, admitted };
            let worked = connection.talk.work(board, &mut shelf, turn);
            connection.sealed = office.pending().filter(|_| connection.talk.is_withheld());
            worked
        };
        if connection.sealed.is_none() {
            connection.talk.release();
        }
        match worked {
            Ok(Worked::Done) => true,
            Ok(Worked::Admit) => {
                self.scores.ask(now, &self.agent, peer);
                true
            }
            Err(_) => false,
        }
    }

    /// Whether a peer may submit tasks, if that is known.
    fn admitted(&self, now: Instant, peer: Party) -> Option<Result<(), Verdict>> {
        let rights = self.hall.agent.rights(peer.address);
        if !rights.is_some_and(|rights| rights.contains(Rights::TASKS)) {
            return Some(Err(Verdict::NotPermitted));
        }
        let Some(least) = self.options.min_reputation else { return Some(Ok(())) };
        Some(match self.scores.known(now, peer.key)? {
            Some(score) if score >= least => Ok(()),
            Some(_) => Err(Verdict::Reputation),
            // Asked again when the submitter tells it again.
            None => Err(Verdict::Failed),
        })
    }

    // ---- storage ----

    /// Ends a commit whose outcome is known, and begins the next one; whether something was done.
    fn commit(&mut self, now: Instant) -> bool {
        let mut store = self.hall.store();
        let mut office = self.hall.office();
        let ended = office.end_commit(&mut **store);
        let begun = if now >= self.rests_until { office.begin_commit() } else { None };
        drop(office);
        let moved = ended.is_some() || begun.is_some();
        if let Some((is_stored, waiting)) = ended {
            waiting.into_iter().for_each(|waker| waker.wake());
            if !is_stored {
                self.rests_until = now + PAUSE;
            }
        }
        if let Some(changes) = begun {
            let hall = Arc::downgrade(&self.hall);
            let done = Done::new(move |outcome| {
                let Some(hall) = hall.upgrade() else { return };
                let server = hall.office().handle_outcome(outcome);
                server.into_iter().for_each(|waker| waker.wake());
            });
            store.commit(changes, done);
        }
        moved
    }

    /// Nothing happens any more: whoever waits is told.
    fn end(&self) {
        let mut office = self.hall.office();
        office.is_over = true;
        let waiting = office.take_waiting();
        drop(office);
        waiting.into_iter().for_each(|waker| waker.wake());
    }

    fn next_due(&self) -> Instant {
        let now = self.host().now();
        let unix = self.host().reading().unix;
        let office = self.hall.office();
        let limit = office.board.deadline().map(|due| {
            now + Duration::from_millis(due.as_millis().saturating_sub(unix.as_millis())).min(LOOK)
        });
        let calls = office.calls.deadline(&office.streams);
        let may_call = self.calling.len() < CALLS && self.connections.len() < STREAMS;
        let calls = calls.filter(|_| may_call);
        let limit = limit.map(|limit| limit.max(self.rests_until));
        let rest = (self.rests_until > now).then_some(self.rests_until);
        let streams = self.connections.iter().map(Connection::due);
        let calling = self.calling.iter().map(|(_, _, until)| *until);
        let due = streams.chain(calling).chain(limit).chain(calls).chain(rest);
        let due = due.chain(self.receipts.due()).chain(self.scores.due());
        due.fold(now + LOOK, Instant::min)
    }
}

impl<R: Runtime> Drop for TaskService<R> {
    fn drop(&mut self) {
        self.hall.agent.leave(&mut self.ticket);
        self.end();
    }
}
