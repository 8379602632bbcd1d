//! All sockets of one machine.

use crate::bind;
use crate::candidates::host_candidates;
use crate::socket::{Bound, typed};
use pilot_core::drive::{BindError, BindOptions, Datagrams, IoError, Readiness, Received, Sockets};
use pilot_core::machine::{SocketId, Transmit};
use socket2::SockRef;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::task::Context;

/// Most auxiliary sockets: a spray over 256 ports (`nat.md`).
pub use pilot_core::limits::AUXILIARY_MAX;

/// A socket as a runtime registers it with its event queue.
pub trait Reactor: Sized {
    /// Registers a non-blocking socket.
    fn register(socket: UdpSocket) -> io::Result<Self>;

    /// The socket itself.
    fn sock_ref(&self) -> SockRef<'_>;

    /// Runs a receive call and, if it would block, waits for readiness from then on. May say
    /// [`io::ErrorKind::WouldBlock`] without running it, if it knows that nothing is there.
    fn try_recv<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T>;

    /// The next receive calls are run although nothing is known to be there, `calls` at most and
    /// until one would block. Who runs every call has nothing to do.
    fn expect(&self, _calls: u32) {}

    /// The same for a send call.
    fn try_send<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T>;
}

/// Without any event queue: tried whenever it is asked for.
impl Reactor for UdpSocket {
    fn register(socket: UdpSocket) -> io::Result<Self> {
        Ok(socket)
    }

    fn sock_ref(&self) -> SockRef<'_> {
        SockRef::from(self)
    }

    fn try_recv<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        call()
    }

    fn try_send<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        call()
    }
}

/// The sockets of one machine: the main one, which is one system socket per address family,
/// and up to [`AUXILIARY_MAX`] auxiliary ones.
pub struct UdpSockets<S = UdpSocket> {
    /// The main sockets first, then auxiliary ones in no order.
    sockets: Vec<Bound<S>>,
    main: usize,
    /// Where the next receive call begins, so that no socket starves another.
    cursor: usize,
    /// Where the socket is that refused the last packet.
    blocked: Option<usize>,
    /// So many of the next receive calls, until one would block, ask none but main sockets that
    /// have received something before.
    trials: u32,
    /// What the main socket was asked to be.
    options: BindOptions,
}

impl<S> fmt::Debug for UdpSockets<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.sockets.iter().map(|s| (s.id, s.local))).finish()
    }
}

impl<S: Reactor> UdpSockets<S> {
    /// Binds the main socket.
    pub fn bind(options: &BindOptions) -> Result<Self, BindError> {
        let sockets = Self::bind_main(options)?;
        let main = sockets.len();
        let options = options.clone();
        Ok(UdpSockets { sockets, main, cursor: 0, blocked: None, trials: 0, options })
    }

    fn bind_main(options: &BindOptions) -> Result<Vec<Bound<S>>, BindError> {
        let mut sockets = Vec::new();
        for socket in bind::bind(options)? {
            let local = socket.local_addr().unwrap_or(([0, 0, 0, 0], options.port).into());
            let is_dual = options.listen.is_some() && local.ip() == Ipv6Addr::UNSPECIFIED;
            let bound = Bound::new(SocketId(0), socket, is_dual, Some(options.buffer_bytes))
                .map_err(|source| BindError::Io { address: local, source })?;
            sockets.push(bound);
        }
        Ok(sockets)
    }

    /// Puts a main socket on another port in the place of the present one: on that which was
    /// asked for, if it is not there, else on any.
    fn replace_main(&mut self) -> Result<(), IoError> {
        let listen = self.options.listen.map(|address| SocketAddr::new(address.ip(), 0));
        let is_there = self.local_addresses().any(|local| local.port() == self.options.port);
        let port = if is_there { 0 } else { self.options.port };
        let options = BindOptions { listen, port, is_port_fixed: false, ..self.options.clone() };
        let sockets = Self::bind_main(&options).map_err(refused)?;
        let main = sockets.len();
        if main < self.main {
            // The family that is missing is still there with the present one.
            return Err(IoError::NoSocket);
        }
        self.sockets.splice(..self.main, sockets);
        // Places have changed.
        (self.main, self.cursor, self.blocked) = (main, 0, None);
        Ok(())
    }

    /// The addresses that the main socket is bound to, the wildcard address among them.
    pub fn local_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.sockets[..self.main].iter().map(|bound| bound.local)
    }

    /// Whether the main socket can send to addresses of this family.
    pub fn reaches(&self, remote: SocketAddr) -> bool {
        self.sockets[..self.main].iter().any(|bound| bound.reaches(remote))
    }

    /// The main socket's host candidates, see [`host_candidates`].
    pub fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        host_candidates(&self.local_addresses().collect::<Vec<_>>())
    }

    /// All registered sockets, main and auxiliary.
    pub fn reactors(&self) -> impl Iterator<Item = &S> {
        self.sockets.iter().map(|bound| &bound.reactor)
    }

    /// The same for event queues that register a socket by an exclusive reference.
    pub fn reactors_mut(&mut self) -> impl Iterator<Item = &mut S> {
        self.sockets.iter_mut().map(|bound| &mut bound.reactor)
    }

    /// The socket that refused the last packet, and that has to become writable.
    pub fn blocked(&self) -> Option<&S> {
        self.blocked.and_then(|at| self.sockets.get(at)).map(|bound| &bound.reactor)
    }

    /// Binds a further socket to exactly this address, under an id of its own. Returns the
    /// address with the port that it got.
    pub fn bind_as(&mut self, id: SocketId, address: SocketAddr) -> Result<SocketAddr, BindError> {
        let failed = |source| BindError::Io { address, source };
        if self.sockets.iter().any(|bound| bound.id == id) {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        }
        let socket = bind::bind_one(address, true)?;
        let bound = Bound::new(id, socket, false, None).map_err(failed)?;
        let local = bound.local;
        self.sockets.push(bound);
        Ok(local)
    }

    fn open_auxiliary(&mut self, id: SocketId) -> Result<(), IoError> {
        if self.sockets.len() - self.main >= AUXILIARY_MAX {
            return Err(IoError::Full);
        }
        if self.sockets.iter().any(|bound| bound.id == id) {
            return Ok(());
        }
        // Like the main socket, but on any port. IPv4 where there is any: auxiliary sockets
        // are for NATs, and IPv6 has none.
        let any_v4 = |s: &&Bound<S>| s.local.is_ipv4() || s.is_dual;
        let model = self.sockets[..self.main].iter().find(any_v4).unwrap_or(&self.sockets[0]);
        let ip = if model.is_dual { Ipv4Addr::UNSPECIFIED.into() } else { model.local.ip() };
        let ip: IpAddr = ip;
        let socket = bind::bind_one(SocketAddr::new(ip, 0), true).map_err(refused)?;
        self.sockets.push(Bound::new(id, socket, false, None).map_err(typed)?);
        Ok(())
    }
}

/// A socket that could not be bound.
fn refused(error: BindError) -> IoError {
    match error {
        BindError::Io { source, .. } => typed(source),
        BindError::Denied(_) => IoError::Denied,
        BindError::Taken(_) => IoError::Full,
        BindError::NotLocal(_) => IoError::Unreachable,
        _ => IoError::Os(0),
    }
}

impl<S: Reactor> Sockets for UdpSockets<S> {
    fn bind(options: &BindOptions) -> Result<Self, BindError> {
        UdpSockets::bind(options)
    }

    fn local_addresses(&self) -> Vec<SocketAddr> {
        UdpSockets::local_addresses(self).collect()
    }

    fn expect(&mut self, calls: u32) {
        self.trials = calls;
        // Those that were to be asked in any case are not left out now.
        if calls > 0 {
            let used = self.sockets[..self.main].iter().filter(|bound| bound.is_used);
            used.for_each(|bound| bound.reactor.expect(calls));
        }
    }

    fn reaches(&self, remote: SocketAddr) -> bool {
        UdpSockets::reaches(self, remote)
    }

    fn candidates(&self) -> io::Result<Vec<SocketAddr>> {
        UdpSockets::candidates(self)
    }
}

impl<S: Readiness> Readiness for UdpSockets<S> {
    /// Asks every socket, so that each one wakes the task.
    fn poll_readable(&self, cx: &mut Context<'_>) -> bool {
        self.sockets.iter().fold(false, |ready, bound| bound.reactor.poll_readable(cx) | ready)
    }

    /// Asks the socket that refused the last packet. One that was closed meanwhile has nothing
    /// to wait for.
    fn poll_writable(&self, cx: &mut Context<'_>) -> bool {
        let blocked = self.blocked.and_then(|at| self.sockets.get(at));
        blocked.is_none_or(|bound| bound.reactor.poll_writable(cx))
    }
}

impl<S: Reactor> Datagrams for UdpSockets<S> {
    fn recv(&mut self, buf: &mut [u8]) -> Result<Received, IoError> {
        let is_trial = self.trials > 0;
        self.trials = self.trials.saturating_sub(1);
        for _ in 0..self.sockets.len() {
            let at = self.cursor;
            self.cursor = if at + 1 == self.sockets.len() { 0 } else { at + 1 };
            if is_trial && (at >= self.main || !self.sockets[at].is_used) {
                continue;
            }
            match self.sockets[at].recv(buf) {
                Err(IoError::WouldBlock) => {}
                result => {
                    self.sockets[at].is_used |= result.is_ok();
                    return result;
                }
            }
        }
        self.trials = 0;
        Err(IoError::WouldBlock)
    }

    fn send(&mut self, transmit: &Transmit, bytes: &[u8]) -> Result<(), IoError> {
        let Transmit { path, .. } = transmit;
        let fits = |bound: &Bound<S>| bound.id == path.socket && bound.reaches(path.remote);
        let at = self.sockets.iter().position(fits).ok_or(IoError::NoSocket)?;
        let sent = self.sockets[at].send(transmit, bytes);
        self.blocked = (sent == Err(IoError::WouldBlock)).then_some(at);
        sent
    }

    fn max_segments(&self) -> NonZeroUsize {
        let least = self.sockets[..self.main].iter().map(Bound::max_segments).min();
        least.and_then(NonZeroUsize::new).unwrap_or(NonZeroUsize::MIN)
    }

    fn may_fragment(&self) -> bool {
        self.sockets[..self.main].iter().any(Bound::may_fragment)
    }

    fn open(&mut self, socket: SocketId) -> Result<(), IoError> {
        let is_main = socket == SocketId(0);
        let opened = if is_main { self.replace_main() } else { self.open_auxiliary(socket) };
        match &opened {
            Err(error) => tracing::debug!(%error, "cannot open socket {}", socket.0),
            Ok(()) if is_main => tracing::info!("the main socket is on another port: {self:?}"),
            Ok(()) => {}
        }
        opened
    }

    fn close(&mut self, socket: SocketId) {
        let auxiliary = self.sockets.iter().skip(self.main).position(|bound| bound.id == socket);
        if let Some(n) = auxiliary {
            self.sockets.swap_remove(self.main + n);
            // Places have changed.
            self.cursor = 0;
            self.blocked = None;
        }
    }
}
