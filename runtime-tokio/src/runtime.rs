//! Tokio, as the core's loop needs it: sockets and connections in its event queue, its timer,
//! its tasks.

use crate::{Sockets, Stream};
use pilot_core::drive::{AsyncRuntime, Readiness, Runtime};
use pilot_core::time::Instant;
use pilot_udp::{Clock, Generation, Reactor, SockRef};
use std::io::{self, Read, Write};
use std::net;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use tokio::io::Interest;
use tokio::net::{TcpStream, UdpSocket};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Sleep;

/// The types of this runtime.
#[derive(Clone, Copy, Debug)]
pub struct Tokio;

impl Runtime for Tokio {
    type Waker = Waker;
    type Sockets = Sockets;
    type Host = Clock;
}

impl AsyncRuntime for Tokio {
    type Stream = Stream;
    type Line = Line;
    type Copies = Generation<Socket>;
    type Timer = Timer;

    fn register(tcp: net::TcpStream) -> io::Result<Line> {
        TcpStream::from_std(tcp).map(Line)
    }

    fn watch_copies() -> Generation<Socket> {
        Generation::watch()
    }

    fn timer(clock: &Clock) -> Timer {
        let never = tokio::time::Instant::from_std(clock.std_instant(Instant::NEVER));
        Timer { clock: *clock, sleep: Box::pin(tokio::time::sleep_until(never)) }
    }

    fn is_alone() -> bool {
        Handle::try_current()
            .is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::CurrentThread)
    }

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    /// Not `wake_by_ref`: a task that is always runnable keeps tokio from asking the system for
    /// events, and acknowledgements would be seen only every 61 polls.
    fn give_way(cx: &mut Context<'_>) {
        let _ = pin!(tokio::task::yield_now()).poll(cx);
    }
}

/// A UDP socket in tokio's event queue.
#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    /// So many of the next receive calls are run whatever tokio knows.
    expected: AtomicU32,
}

impl Reactor for Socket {
    fn register(socket: net::UdpSocket) -> io::Result<Self> {
        let socket = UdpSocket::from_std(socket)?;
        Ok(Socket { socket, expected: AtomicU32::new(0) })
    }

    fn sock_ref(&self) -> SockRef<'_> {
        SockRef::from(&self.socket)
    }

    fn try_recv<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let expected = self.expected.load(Ordering::Relaxed);
        if expected == 0 {
            return self.socket.try_io(Interest::READABLE, call);
        }
        let received = call();
        self.expected.store(if received.is_ok() { expected - 1 } else { 0 }, Ordering::Relaxed);
        received
    }

    fn expect(&self, calls: u32) {
        self.expected.store(calls, Ordering::Relaxed);
    }

    fn try_send<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.socket.try_io(Interest::WRITABLE, call)
    }
}

/// An error is readiness, too: the next call meets it.
impl Readiness for Socket {
    fn poll_readable(&self, cx: &mut Context<'_>) -> bool {
        self.socket.poll_recv_ready(cx).is_ready()
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> bool {
        self.socket.poll_send_ready(cx).is_ready()
    }
}

/// A TCP connection in tokio's event queue.
#[derive(Debug)]
pub struct Line(TcpStream);

impl Read for Line {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Readiness for Line {
    fn poll_readable(&self, cx: &mut Context<'_>) -> bool {
        self.0.poll_read_ready(cx).is_ready()
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> bool {
        self.0.poll_write_ready(cx).is_ready()
    }
}

/// Tokio's timer.
#[derive(Debug)]
pub struct Timer {
    clock: Clock,
    sleep: Pin<Box<Sleep>>,
}

impl pilot_core::drive::Timer for Timer {
    fn set(&mut self, at: Instant) {
        self.sleep.as_mut().reset(tokio::time::Instant::from_std(self.clock.std_instant(at)));
    }

    fn poll_fired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }
}
