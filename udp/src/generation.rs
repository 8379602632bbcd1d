//! Notices that the machine was copied: a virtual machine that was restored from a snapshot or
//! cloned goes on with counters and random numbers that another has used or will use. Its
//! kernel is told a new *generation id* by the hypervisor and says so in a uevent.

use crate::sockets::Reactor;
use pilot_core::drive::{Copies, Readiness};
use std::net::UdpSocket;
use std::task::{Context, Poll};

/// Listens for a new generation id, on Linux; elsewhere a copy shows itself by its clocks
/// alone. `S` is how the runtime registers a socket.
#[derive(Debug)]
pub struct Generation<S = UdpSocket>(Option<S>);

impl<S: Reactor> Generation<S> {
    /// From now on. Where uevents cannot be heard, nothing is ever noticed.
    pub fn watch() -> Self {
        #[cfg(target_os = "linux")]
        {
            // No UDP, but of all that runtimes wait for without unsafe code the nearest: a
            // socket of datagrams. Nothing of UDP is asked of it.
            let socket = linux::open().and_then(S::register);
            if let Err(error) = &socket {
                tracing::debug!(%error, "a copy of this machine will not be noticed at once");
            }
            Generation(socket.ok())
        }
        #[cfg(not(target_os = "linux"))]
        Generation(None)
    }

    /// The socket, to wait until it is readable.
    pub fn reactor(&self) -> Option<&S> {
        self.0.as_ref()
    }

    /// The same for event queues that want it mutable.
    pub fn reactor_mut(&mut self) -> Option<&mut S> {
        self.0.as_mut()
    }

    /// Whether the machine has become another one since the last call. Reads until nothing is
    /// left.
    pub fn take_changed(&mut self) -> bool {
        #[cfg(target_os = "linux")]
        if let Some(socket) = &self.0 {
            let (is_changed, is_alive) = linux::drain(socket);
            if !is_alive {
                self.0 = None;
            }
            return is_changed;
        }
        false
    }
}

impl<S: Reactor + Readiness> Copies for Generation<S> {
    fn poll_copied(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.take_changed() {
                return Poll::Ready(());
            }
            match &self.0 {
                Some(socket) if socket.poll_readable(cx) => {}
                _ => return Poll::Pending,
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use crate::sockets::Reactor;
    use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
    use rustix::net::{bind, recvfrom, socket_with};
    use std::io;
    use std::net::UdpSocket;

    /// The multicast group of the kernel's own uevents.
    const KERNEL: u32 = 1;
    /// Longest uevent, with room to spare.
    const MESSAGE: usize = 8 * 1024;
    /// What the kernel puts in that of a new generation id.
    const NEW: &[u8] = b"NEW_VMGENID=1";

    pub(super) fn open() -> io::Result<UdpSocket> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let kind = SocketType::DGRAM;
        let socket = socket_with(AddressFamily::NETLINK, kind, flags, Some(KOBJECT_UEVENT))?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
        Ok(socket.into())
    }

    /// Reads what there is: whether a new generation was among it, and whether the socket is
    /// still of use.
    pub(super) fn drain<S: Reactor>(socket: &S) -> (bool, bool) {
        let mut message = [0; MESSAGE];
        let mut is_changed = false;
        loop {
            let received = socket.try_recv(|| {
                let (len, _, from) =
                    recvfrom(&*socket.sock_ref(), &mut message[..], RecvFlags::empty())?;
                let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                Ok((len, from))
            });
            match received {
                // Port 0 is the kernel; others may say what they like.
                Ok((len, Some(from))) if from.pid() == 0 => {
                    is_changed |= is_new(&message[..len.min(MESSAGE)]);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return (is_changed, true);
                }
                // There was more than the socket could hold.
                Err(error) if is_overflow(&error) => {}
                Err(_) => return (is_changed, false),
            }
        }
    }

    fn is_overflow(error: &io::Error) -> bool {
        error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
    }

    /// Whether a uevent (a line and `KEY=value` pairs, each ended by a zero) is the one.
    fn is_new(message: &[u8]) -> bool {
        message.split(|byte| *byte == 0).any(|pair| pair == NEW)
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::Generation;

        #[test]
        fn the_kernels_words_for_a_new_generation() {
            let head = b"change@/devices/platform/QEMUVGID:00\0ACTION=change\0".to_vec();
            let tail = b"SUBSYSTEM=platform\0SEQNUM=4711\0";
            assert!(is_new(&[&head[..], NEW, b"\0", tail].concat()));
            assert!(!is_new(&[&head[..], tail].concat()));
            assert!(!is_new(b"change@/NEW_VMGENID=1/x\0NEW_VMGENID=10\0"));
            assert!(!is_new(b""));
        }

        #[test]
        fn nothing_happens_on_a_machine_that_stays_itself() {
            let mut generation = Generation::<UdpSocket>::watch();
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!generation.take_changed());
        }
    }
}
