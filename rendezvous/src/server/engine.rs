//! The machine as the driver sees it: the rendezvous, with its commits going to the store.

use crate::commit::Store;
use pilot_core::addr::{Port, SocketAddress};
use pilot_core::drive::Outlet;
use pilot_core::machine::{Ecn, Ingress, Machine, Path, Timeout, Transmit};
use pilot_core::rendezvous::{ConnId, Event, Rendezvous};
use pilot_core::time::Instant;
use pilot_tokio::{Owner, Sockets, Tokio};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// The rendezvous and its way to the disk. After every call that may have changed something,
/// what is to be committed is handed to the store, which only queues it.
pub(crate) struct Engine {
    pub(crate) rendezvous: Rendezvous,
    /// Absent only until the store's thread has started.
    pub(crate) store: Option<Arc<Store>>,
    /// A commit is with the store.
    pub(crate) is_committing: bool,
}

impl Engine {
    /// Bytes of a connection.
    pub(crate) fn handle_bytes(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        self.rendezvous.handle_bytes(now, conn, bytes);
        self.submit(now);
    }

    /// The store's answer.
    pub(crate) fn handle_commit(&mut self, now: Instant, id: u64, stored: bool) {
        self.is_committing = false;
        self.rendezvous.handle_commit(now, id, stored);
        self.submit(now);
    }

    /// Hands the next commit to the store, if there is one and none is under way.
    pub(crate) fn submit(&mut self, now: Instant) {
        while let Some(commit) = self.rendezvous.poll_commit(now) {
            let id = commit.id;
            self.is_committing = true;
            if self.store.as_ref().is_some_and(|store| store.submit(commit)) {
                return;
            }
            // Tried again later, after the machine's pause.
            self.is_committing = false;
            self.rendezvous.handle_commit(now, id, false);
        }
    }
}

impl Machine for Engine {
    type Event = Event;

    fn handle_datagram<'b>(
        &mut self,
        now: Instant,
        path: Path,
        ecn: Ecn,
        datagram: &'b mut [u8],
    ) -> Ingress<'b> {
        self.rendezvous.handle_datagram(now, path, ecn, datagram)
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.rendezvous.handle_timeout(now);
        self.submit(now);
    }

    fn poll_transmit(
        &mut self,
        now: Instant,
        out: &mut [u8],
        max_segments: NonZeroUsize,
    ) -> Option<Transmit> {
        self.rendezvous.poll_transmit(now, out, max_segments)
    }

    fn poll_timeout(&self) -> Option<Timeout> {
        self.rendezvous.poll_timeout()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.rendezvous.poll_event()
    }
}

/// What the machine tells a connection's task.
#[derive(Debug, Default)]
pub(crate) struct Line {
    pub(crate) signal: Notify,
    is_closed: AtomicBool,
}

impl Line {
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }
}

/// The open connections; tells their tasks what the machine wants of them.
#[derive(Debug, Default)]
pub(crate) struct Switchboard {
    lines: BTreeMap<ConnId, Arc<Line>>,
    next: u64,
}

impl Switchboard {
    /// A number that was never used, and the line of the new connection.
    pub(crate) fn connect(&mut self) -> (ConnId, Arc<Line>) {
        let (conn, line) = (ConnId(self.next), Arc::<Line>::default());
        self.next += 1;
        self.lines.insert(conn, Arc::clone(&line));
        (conn, line)
    }

    /// The task of a connection has ended.
    pub(crate) fn disconnect(&mut self, conn: ConnId) {
        self.lines.remove(&conn);
    }

    /// Open connections.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }
}

impl Outlet<Engine, Sockets> for Switchboard {
    /// Nobody sends datagrams to the rendezvous as to an agent; the machine drops them.
    fn handle_payload(&mut self, _from: SocketAddress, _to: Port, _payload: &[u8]) {}

    fn handle_event(&mut self, _now: Instant, _: &mut Engine, _io: &mut Sockets, event: Event) {
        match event {
            Event::ConnectionWritable(conn) => {
                if let Some(line) = self.lines.get(&conn) {
                    line.signal.notify_one();
                }
            }
            Event::CloseConnection(conn) => {
                if let Some(line) = self.lines.get(&conn) {
                    line.is_closed.store(true, Ordering::Release);
                    line.signal.notify_one();
                }
            }
            _ => {}
        }
    }
}

impl Owner<Engine, Tokio> for Switchboard {}
