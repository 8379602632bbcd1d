//! UDP sockets in a mio event queue.

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};
use pilot_udp::{Reactor, SockRef};
use std::io;
use std::net;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is known of a socket: the event queue tells of a change once, so it is kept until a
/// call finds it to be otherwise.
#[derive(Debug)]
pub(crate) struct Readiness {
    readable: AtomicBool,
    writable: AtomicBool,
}

impl Readiness {
    /// An event of the queue. An error is readiness, too: the next call meets it.
    pub(crate) fn handle(&self, event: &mio::event::Event) {
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.readable.store(true, Ordering::Relaxed);
        }
        if event.is_writable() || event.is_write_closed() || event.is_error() {
            self.writable.store(true, Ordering::Relaxed);
        }
    }
}

/// A UDP socket in a mio event queue, or on its way there.
#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    readiness: Arc<Readiness>,
    token: Option<Token>,
    /// Whether the event queue tells when it is writable. Only while it is not: a system
    /// that tells whenever room appears would wake the loop for every packet sent.
    is_awaited: bool,
}

impl Socket {
    pub(crate) fn readiness(&self) -> &Arc<Readiness> {
        &self.readiness
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.readiness.readable.load(Ordering::Relaxed)
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.readiness.writable.load(Ordering::Relaxed)
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.token.is_some()
    }

    pub(crate) fn enter(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.socket, token, Interest::READABLE)?;
        self.token = Some(token);
        Ok(())
    }

    /// Asks the event queue for what the socket is waited for.
    pub(crate) fn await_writable(&mut self, registry: &Registry) -> io::Result<()> {
        let is_blocked = !self.is_writable();
        let Some(token) = self.token.filter(|_| is_blocked != self.is_awaited) else {
            return Ok(());
        };
        let readable = Interest::READABLE;
        let interests = if is_blocked { readable | Interest::WRITABLE } else { readable };
        registry.reregister(&mut self.socket, token, interests)?;
        self.is_awaited = is_blocked;
        Ok(())
    }

    fn call<T>(
        &self,
        is_ready: &AtomicBool,
        call: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        if !is_ready.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let result = self.socket.try_io(call);
        if let Err(error) = &result
            && error.kind() == io::ErrorKind::WouldBlock
        {
            is_ready.store(false, Ordering::Relaxed);
        }
        result
    }
}

impl Reactor for Socket {
    fn register(socket: net::UdpSocket) -> io::Result<Self> {
        let readiness = Readiness { readable: true.into(), writable: true.into() };
        Ok(Socket {
            socket: UdpSocket::from_std(socket),
            readiness: Arc::new(readiness),
            token: None,
            is_awaited: false,
        })
    }

    fn sock_ref(&self) -> SockRef<'_> {
        SockRef::from(&self.socket)
    }

    fn try_recv<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.call(&self.readiness.readable, call)
    }

    fn expect(&self, _calls: u32) {
        self.readiness.readable.store(true, Ordering::Relaxed);
    }

    fn try_send<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.call(&self.readiness.writable, call)
    }
}
