//! The registry's TCP side: a listener, and a task for each connection that pumps bytes
//! between socket and machine.
//!
//! A task holds no buffers while it waits, so an idle connection costs a task and a socket.
//! Output that the socket does not take is kept (at most [`CHUNK`]), and meanwhile nothing is
//! read: a client that does not read its answers cannot ask more.
//!
//! All of them run on one thread. They spend their time within the machine, which takes one at
//! a time anyway; and what connections hold comes from one arena of the system's allocator. Of
//! many, each would keep what one flood of connections has left with it, and the next flood
//! would find it with another.

use super::Shared;
use super::engine::Line;
use pilot_core::limits::REGISTRY_FRAME_MAX;
use pilot_core::rendezvous::ConnId;
use pilot_core::time::Duration;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// Bytes moved in one step: a whole frame.
const CHUNK: usize = REGISTRY_FRAME_MAX;
/// A connection whose socket takes nothing for this long is closed.
const STALLED: Duration = Duration::from_secs(30);
/// What a closing server leaves a connection to take its answers.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How often a closing server looks whether its connections have ended.
const ENDING: Duration = Duration::from_millis(2);
/// Connections that the system holds before they are accepted.
const BACKLOG: u32 = 1024;
/// After an error that would come again at once (no descriptor is left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the server's tasks are to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    /// Everything.
    Serve,
    /// Take nothing new; finish what is under way.
    Drain,
    /// Send what is there and end.
    Close,
}

/// Listens on exactly this address; `[::]` takes IPv4, too, whatever the system's default.
/// Must be called within a tokio runtime.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    #[cfg(unix)]
    {
        // A restart finds connections of its predecessor in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        if address.is_ipv6() {
            rustix::net::sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
        }
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Starts the thread that serves connections until the server closes and they have ended.
pub(crate) fn spawn(
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
    mut phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let listener = TcpListener::from_std(listener)?;
    drop(entered);
    let serve = async move {
        accept(&shared, listener, phase.clone()).await;
        // Without a sender, the server is no more.
        let _ = phase.wait_for(|phase| *phase == Phase::Close).await;
        let ended = || shared.driver.peek(|access| access.owner.len()) == 0;
        let all = async {
            while !ended() {
                tokio::time::sleep(ENDING).await;
            }
        };
        let _ = tokio::time::timeout(2 * LAST_WORDS, all).await;
    };
    let thread = std::thread::Builder::new().name("registry".into());
    thread.spawn(move || runtime.block_on(serve)).map(drop)
}

/// Accepts until the server drains.
async fn accept(shared: &Arc<Shared>, listener: TcpListener, mut phase: watch::Receiver<Phase>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|phase| *phase >= Phase::Drain) => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                let (shared, phase) = (Arc::clone(shared), phase.clone());
                tokio::spawn(async move { shared.serve(stream, remote, phase).await });
            }
            Err(error) => {
                tracing::debug!(%error, "a registry connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Shared {
    /// One connection, from its first byte to its last.
    async fn serve(&self, stream: TcpStream, remote: SocketAddr, phase: watch::Receiver<Phase>) {
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        // Answers are small, and the next request waits for them.
        let _ = stream.set_nodelay(true);
        let (conn, line) = self.driver.with(|access| {
            let (conn, line) = access.owner.connect();
            access.machine.rendezvous.handle_open(access.now, conn, remote);
            (conn, line)
        });
        let mut connection = Connection { shared: self, stream, conn, line, rest: Vec::new() };
        let mut end = phase.clone();
        let cut = async move {
            let _ = end.wait_for(|phase| *phase == Phase::Close).await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            result = connection.pump(phase) => if let Err(error) = result {
                tracing::trace!(%error, "a registry connection failed");
            },
            () = cut => {}
        }
        drop(connection);
        self.driver.with(|access| {
            access.owner.disconnect(conn);
            access.machine.rendezvous.handle_close(access.now, conn);
        });
    }
}

struct Connection<'s> {
    shared: &'s Shared,
    stream: TcpStream,
    conn: ConnId,
    line: Arc<Line>,
    /// Output that the socket has not taken.
    rest: Vec<u8>,
}

impl Connection<'_> {
    async fn pump(&mut self, mut phase: watch::Receiver<Phase>) -> io::Result<()> {
        loop {
            // What the machine said before the signal was given is seen here; what it says
            // from now on leaves a signal.
            let is_last = self.line.is_closed() || *phase.borrow() == Phase::Close;
            self.write()?;
            if !self.rest.is_empty() {
                let stalled = || io::Error::from(io::ErrorKind::TimedOut);
                tokio::time::timeout(STALLED, self.stream.writable())
                    .await
                    .map_err(|_| stalled())??;
                continue;
            }
            if is_last {
                return Ok(());
            }
            let is_serving = *phase.borrow() == Phase::Serve;
            tokio::select! {
                ready = self.stream.readable(), if is_serving => {
                    ready?;
                    if !self.read()? {
                        return Ok(());
                    }
                }
                () = self.line.signal.notified() => {}
                // The sender lives as long as the server; without one there is none.
                changed = phase.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    /// Hands what has arrived to the machine; `false` at the end of the stream.
    fn read(&self) -> io::Result<bool> {
        let mut bytes = [0; CHUNK];
        match self.stream.try_read(&mut bytes) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.shared.driver.with(|access| {
                    access.machine.handle_bytes(access.now, self.conn, &bytes[..n]);
                });
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Writes until the machine has no more or the socket takes no more.
    fn write(&mut self) -> io::Result<()> {
        let mut bytes = [0; CHUNK];
        loop {
            if !self.rest.is_empty() {
                match self.stream.try_write(&self.rest) {
                    Ok(n) => drop(self.rest.drain(..n)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                }
                continue;
            }
            self.rest = Vec::new();
            let conn = self.conn;
            let n = self
                .shared
                .driver
                .peek(|access| access.machine.rendezvous.poll_bytes(access.now, conn, &mut bytes));
            if n == 0 {
                return Ok(());
            }
            match self.stream.try_write(&bytes[..n]) {
                Ok(written) => self.rest.extend_from_slice(&bytes[written..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.rest.extend_from_slice(&bytes[..n]);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
