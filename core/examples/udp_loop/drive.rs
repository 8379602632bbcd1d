//! What every adapter supplies: a socket that never blocks, a clock, a place for what comes
//! out, and waiting.

use pilot_core::addr::{Port, SocketAddress};
use pilot_core::drive::{Budget, Clock, Datagrams, Driver, IoError, Outlet, Received, Turn};
use pilot_core::machine::{Ecn, Machine as _, Path, SocketId, Transmit};
use pilot_core::node::{Command, Event, Node};
use pilot_core::time::{Duration, Instant};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::num::NonZeroUsize;

/// One UDP socket, without offload and without auxiliary sockets.
pub struct Udp(pub UdpSocket);

impl Datagrams for Udp {
    fn recv(&mut self, buf: &mut [u8]) -> Result<Received, IoError> {
        let (len, remote) = self.0.recv_from(buf).map_err(typed)?;
        Ok(Received { path: Path::to(remote), ecn: Ecn::NotEct, len, stride: len })
    }

    fn send(&mut self, transmit: &Transmit, bytes: &[u8]) -> Result<(), IoError> {
        self.0.send_to(bytes, transmit.path.remote).map(drop).map_err(typed)
    }

    fn max_segments(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    fn open(&mut self, _: SocketId) -> Result<(), IoError> {
        Err(IoError::Full)
    }

    fn close(&mut self, _: SocketId) {}
}

fn typed(error: io::Error) -> IoError {
    match error.kind() {
        ErrorKind::WouldBlock => IoError::WouldBlock,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => IoError::Unreachable,
        ErrorKind::PermissionDenied => IoError::Denied,
        _ => IoError::Os(error.raw_os_error().unwrap_or_default()),
    }
}

pub struct Monotonic(pub std::time::Instant);

impl Clock for Monotonic {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.elapsed().as_nanos() as u64)
    }
}

/// Events wait here for whoever has called [`Loop::turn`].
#[derive(Default)]
pub struct Events(pub VecDeque<Event>);

impl Outlet<Node<'static>, Udp> for Events {
    /// This agent binds no datagram port.
    fn handle_payload(&mut self, _: SocketAddress, _: Port, _: &[u8]) {}

    fn handle_event(&mut self, now: Instant, node: &mut Node<'static>, _: &mut Udp, event: Event) {
        match event {
            // There is one socket; whatever the node wants another one for, it does without.
            Event::OpenSocket(socket) => {
                let _ = node.command(now, Command::SocketFailed { socket });
            }
            event => self.0.push_back(event),
        }
    }
}

pub struct Loop {
    pub clock: Monotonic,
    pub node: Node<'static>,
    pub events: Events,
    driver: Driver<'static>,
    udp: Udp,
}

impl Loop {
    pub fn new(clock: Monotonic, node: Node<'static>, udp: Udp) -> Self {
        Loop { clock, node, udp, events: Events::default(), driver: Driver::boxed(Budget::DEFAULT) }
    }

    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    pub fn turn(&mut self) -> Turn {
        self.driver.turn(&self.clock, &mut self.node, &mut self.udp, &mut self.events)
    }

    /// Until a datagram is there, or it is time, or `most` has passed. What was done with the
    /// node since the turn may have made something due: the node knows.
    pub fn wait(&mut self, turn: Turn, most: Duration) -> io::Result<()> {
        let due = self.node.poll_timeout().map(|timeout| timeout.at);
        let until = match turn {
            Turn::Again => return Ok(()),
            // There is no readiness to write here. The turn's own deadline is a tick away.
            Turn::Wait { until, writable: true } => until,
            Turn::Wait { .. } => due,
        };
        let span = until.map_or(most, |at| at.since(self.now()).min(most));
        if span.is_zero() {
            return Ok(());
        }
        self.udp.0.set_nonblocking(false)?;
        self.udp.0.set_read_timeout(Some(span))?;
        // A failure is met again, and counted, by the turn that follows.
        let _ = self.udp.0.peek_from(&mut [0]);
        self.udp.0.set_nonblocking(true)
    }
}
