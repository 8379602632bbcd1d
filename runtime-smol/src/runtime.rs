//! Smol, as the core's loop needs it: sockets and connections in async-io's event queue, its
//! timer, tasks of the global executor.

use crate::{Sockets, Stream};
use pilot_core::drive::{AsyncRuntime, Readiness, Runtime};
use pilot_core::time::Instant;
use pilot_udp::{Clock, Generation, Reactor, SockRef};
use smol::Async;
use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

/// The types of this runtime.
#[derive(Clone, Copy, Debug)]
pub struct Smol;

impl Runtime for Smol {
    type Waker = Waker;
    type Sockets = Sockets;
    type Host = Clock;
}

impl AsyncRuntime for Smol {
    type Stream = Stream;
    type Line = Line;
    type Copies = Generation<Socket>;
    type Timer = Timer;

    fn register(tcp: TcpStream) -> io::Result<Line> {
        Async::new_nonblocking(tcp).map(Line)
    }

    fn watch_copies() -> Generation<Socket> {
        Generation::watch()
    }

    fn timer(clock: &Clock) -> Timer {
        Timer { clock: *clock, timer: smol::Timer::never() }
    }

    /// The global executor has one thread unless its user asks for more, and then a wake-up is
    /// cheap beside what async-io's waits cost.
    fn is_alone() -> bool {
        true
    }

    /// On the global executor.
    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        smol::spawn(task).detach();
    }
}

/// Whether to try again at once: never. async-io knows of an event, not of readiness: one that
/// it remembers was answered by the calls before. It is asked a second time then, which makes
/// the system look anew: what came in between is an event again.
fn is_ready(mut poll: impl FnMut() -> Poll<io::Result<()>>) -> bool {
    loop {
        match poll() {
            Poll::Ready(Ok(())) => {}
            // Nothing would wake the task; so it has to look by itself.
            Poll::Ready(Err(_)) => return true,
            Poll::Pending => return false,
        }
    }
}

/// A UDP socket in async-io's event queue.
#[derive(Debug)]
pub struct Socket {
    socket: Async<UdpSocket>,
    /// [`USUAL`], or how many of the next receive calls are run although no event has told of
    /// anything. Once there are none the next one is left out: the event queue tells of what is
    /// there when it is asked, whether it came before that or not.
    expected: AtomicU32,
}

/// The next receive call is run as any other.
const USUAL: u32 = u32::MAX;

impl Reactor for Socket {
    fn register(socket: UdpSocket) -> io::Result<Self> {
        Ok(Socket { socket: Async::new_nonblocking(socket)?, expected: AtomicU32::new(USUAL) })
    }

    fn sock_ref(&self) -> SockRef<'_> {
        SockRef::from(self.socket.get_ref())
    }

    fn try_recv<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.expected.swap(USUAL, Ordering::Relaxed) {
            USUAL => call(),
            0 => Err(io::ErrorKind::WouldBlock.into()),
            expected => {
                let received = call()?;
                self.expected.store(expected - 1, Ordering::Relaxed);
                Ok(received)
            }
        }
    }

    fn expect(&self, calls: u32) {
        self.expected.store(calls.min(USUAL - 1), Ordering::Relaxed);
    }

    fn try_send<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        call()
    }
}

impl Readiness for Socket {
    fn poll_readable(&self, cx: &mut Context<'_>) -> bool {
        is_ready(|| self.socket.poll_readable(cx))
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> bool {
        is_ready(|| self.socket.poll_writable(cx))
    }
}

/// A TCP connection in async-io's event queue.
#[derive(Debug)]
pub struct Line(Async<TcpStream>);

impl Read for Line {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.get_ref().read(buf)
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_ref().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Readiness for Line {
    fn poll_readable(&self, cx: &mut Context<'_>) -> bool {
        is_ready(|| self.0.poll_readable(cx))
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> bool {
        is_ready(|| self.0.poll_writable(cx))
    }
}

/// async-io's timer.
#[derive(Debug)]
pub struct Timer {
    clock: Clock,
    timer: smol::Timer,
}

impl pilot_core::drive::Timer for Timer {
    fn set(&mut self, at: Instant) {
        self.timer.set_at(self.clock.std_instant(at));
    }

    fn poll_fired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.timer).poll(cx).map(drop)
    }
}
