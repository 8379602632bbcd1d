//! The registry's connection, from dialling to its end.

use super::errand::{Errand, Notice};
use super::tenant::Tenant;
use crate::drive::HostPort;
use crate::drive::runtime::Host;
use crate::time::{Duration, Instant};
use alloc::vec;
use alloc::vec::Vec;
use core::mem;
use core::ops::Range;
use std::io::{self, Read, Write};

/// How long the last bytes to a registry that is being left may take.
pub(super) const FLUSH: Duration = Duration::from_secs(1);
/// Bytes moved at once in either direction.
const CHUNK: usize = 16 * 1024;
/// Chunks moved before others get their turn.
const ROUNDS: u32 = 8;

/// A connection and what waits to be written to it: no more is taken from the node than the
/// connection takes.
struct Connection<L> {
    line: L,
    output: Vec<u8>,
    pending: Range<usize>,
}

/// | state | on | goes to |
/// |---|---|---|
/// | idle | dial | dialling |
/// | dialling | connected | open, or idle if it is not wanted any more |
/// | | not connected | idle |
/// | open | close or dial | leaving |
/// | | its end or an error | idle |
/// | leaving | everything written, its end, an error, or a second has passed | idle |
///
/// The node is told of every way back to idle, and decides when to dial again.
enum State<L> {
    Idle,
    Dialling,
    Open(Connection<L>),
    Leaving(Connection<L>, Instant),
}

pub(super) struct Registry<L> {
    place: HostPort,
    state: State<L>,
    /// A new connection is wanted.
    dial: bool,
    /// The end of the present one is wanted, if any. When both are, closing comes first.
    close: bool,
    input: Vec<u8>,
}

/// How moving bytes went.
enum Moved {
    /// Both directions are blocked.
    Blocked,
    /// There may be more.
    Some,
    /// The connection has ended.
    Closed,
}

impl<L: Read + Write> Registry<L> {
    pub(super) fn new(place: HostPort) -> Self {
        Registry { place, state: State::Idle, dial: false, close: false, input: vec![0; CHUNK] }
    }

    /// What the node wants; within one call, dialling comes after closing.
    pub(super) fn demand(&mut self, dial: bool, close: bool) {
        if close {
            self.close = true;
            self.dial = false;
        }
        self.dial |= dial;
    }

    /// The end of a dialling errand.
    pub(super) fn handle_dialled(
        &mut self,
        host: &impl Host,
        tenant: &impl Tenant,
        dialled: io::Result<L>,
    ) {
        self.state = State::Idle;
        if mem::take(&mut self.close) {
            // Not wanted any more.
            return tenant.handle_registry_close();
        }
        match dialled {
            Ok(line) => {
                self.state =
                    State::Open(Connection { line, output: vec![0; CHUNK], pending: 0..0 });
                tenant.handle_registry_open();
            }
            Err(error) => {
                host.note(Notice::CannotDial(&self.place, &error));
                tenant.handle_registry_close();
            }
        }
    }

    /// Goes on as far as it can; whether to be called again soon.
    pub(super) fn turn(
        &mut self,
        now: Instant,
        host: &impl Host,
        tenant: &impl Tenant,
        errands: &mut Vec<Errand>,
    ) -> bool {
        let mut is_more = false;
        self.state = match mem::replace(&mut self.state, State::Idle) {
            State::Open(mut connection) => {
                if self.close || self.dial {
                    self.close = false;
                    connection.fill(tenant);
                    State::Leaving(connection, now + FLUSH)
                } else {
                    match connection.pump(tenant, &mut self.input) {
                        Moved::Closed => {
                            host.note(Notice::RegistryClosed(&self.place));
                            tenant.handle_registry_close();
                            State::Idle
                        }
                        moved => {
                            is_more = matches!(moved, Moved::Some);
                            State::Open(connection)
                        }
                    }
                }
            }
            state => state,
        };
        if let State::Leaving(connection, until) = &mut self.state {
            let moved = connection.leave(&mut self.input);
            if *until <= now || matches!(moved, Moved::Closed) {
                self.state = State::Idle;
                tenant.handle_registry_close();
            } else {
                is_more = matches!(moved, Moved::Some);
            }
        }
        if matches!(self.state, State::Idle) {
            // There is nothing to close.
            self.close = false;
            if mem::take(&mut self.dial) {
                self.state = State::Dialling;
                errands.push(Errand::Dial(self.place.clone()));
            }
        }
        is_more
    }

    /// When to be called again, however little happens.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Leaving(_, until) => Some(until),
            _ => None,
        }
    }

    /// The connection, and whether it has refused bytes.
    pub(super) fn line(&self) -> Option<(&L, bool)> {
        match &self.state {
            State::Open(connection) | State::Leaving(connection, _) => {
                Some((&connection.line, !connection.pending.is_empty()))
            }
            _ => None,
        }
    }

    /// The same to change it; for an event queue that wants that.
    pub(super) fn line_mut(&mut self) -> Option<&mut L> {
        match &mut self.state {
            State::Open(connection) | State::Leaving(connection, _) => Some(&mut connection.line),
            _ => None,
        }
    }
}

impl<L: Read + Write> Connection<L> {
    fn fill(&mut self, tenant: &impl Tenant) {
        if self.pending.is_empty() {
            self.pending = 0..tenant.poll_bytes(&mut self.output);
        }
    }

    /// Bytes both ways.
    fn pump(&mut self, tenant: &impl Tenant, input: &mut [u8]) -> Moved {
        for _ in 0..ROUNDS {
            self.fill(tenant);
            let is_written = !self.pending.is_empty();
            let written = match self.write() {
                Moved::Closed => return Moved::Closed,
                Moved::Some => is_written,
                Moved::Blocked => false,
            };
            match self.line.read(input) {
                Ok(0) => return Moved::Closed,
                Ok(n) => tenant.handle_bytes(&input[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !written {
                        return Moved::Blocked;
                    }
                }
                Err(_) => return Moved::Closed,
            }
        }
        Moved::Some
    }

    /// Writes what is left, and discards what comes: unread, it would keep an event queue calling
    /// for nothing. [`Moved::Closed`] also once everything is written.
    fn leave(&mut self, input: &mut [u8]) -> Moved {
        if !matches!(self.write(), Moved::Blocked) {
            return Moved::Closed;
        }
        for _ in 0..ROUNDS {
            match self.line.read(input) {
                Ok(0) => return Moved::Closed,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Moved::Blocked,
                Err(_) => return Moved::Closed,
            }
        }
        Moved::Some
    }

    /// Writes all that is pending: [`Moved::Some`] if that succeeded.
    fn write(&mut self) -> Moved {
        while !self.pending.is_empty() {
            match self.line.write(&self.output[self.pending.clone()]) {
                Ok(0) => return Moved::Closed,
                Ok(n) => self.pending.start += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Moved::Blocked,
                Err(_) => return Moved::Closed,
            }
        }
        Moved::Some
    }
}
