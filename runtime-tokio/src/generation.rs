//! Notices that the machine was copied: a virtual machine that was restored from a snapshot or
//! cloned goes on with counters and random numbers that another has used or will use. Its
//! kernel is told a new *generation id* by the hypervisor and says so in a uevent.

#[cfg(target_os = "linux")]
mod linux {
    use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
    use rustix::net::{bind, recvfrom, socket_with};
    use std::io;
    use tokio::io::Interest;
    use tokio::net::UdpSocket;

    /// The multicast group of the kernel's own uevents.
    const KERNEL: u32 = 1;
    /// Longest uevent, with room to spare.
    const MESSAGE: usize = 8 * 1024;
    /// What the kernel puts in that of a new generation id.
    const NEW: &[u8] = b"NEW_VMGENID=1";

    #[derive(Debug)]
    pub(crate) struct Generation(Option<UdpSocket>);

    impl Generation {
        /// From now on. Where uevents cannot be heard, nothing is ever noticed.
        pub(crate) fn watch() -> Self {
            // No UDP, but of all that tokio waits for without unsafe code the nearest: a socket
            // of datagrams. Nothing of UDP is asked of it.
            let open = || -> io::Result<UdpSocket> {
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                let kind = SocketType::DGRAM;
                let socket =
                    socket_with(AddressFamily::NETLINK, kind, flags, Some(KOBJECT_UEVENT))?;
                bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
                UdpSocket::from_std(socket.into())
            };
            let socket = open();
            if let Err(error) = &socket {
                tracing::debug!(%error, "a copy of this machine will not be noticed at once");
            }
            Generation(socket.ok())
        }

        /// Completes when the machine is another one than before.
        pub(crate) async fn changed(&self) {
            let Some(socket) = &self.0 else { return std::future::pending().await };
            let mut message = [0; MESSAGE];
            loop {
                let Ok(()) = socket.readable().await else {
                    return std::future::pending().await;
                };
                let received = socket.try_io(Interest::READABLE, || {
                    let (len, _, from) = recvfrom(socket, &mut message[..], RecvFlags::empty())?;
                    let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                    Ok((len, from))
                });
                // Port 0 is the kernel; others may say what they like.
                match received {
                    Ok((len, Some(from)))
                        if from.pid() == 0 && is_new(&message[..len.min(MESSAGE)]) =>
                    {
                        return;
                    }
                    Err(error) if !is_passing(&error) => return std::future::pending().await,
                    _ => {}
                }
            }
        }
    }

    /// Nothing there yet, or there was more than the socket could hold.
    fn is_passing(error: &io::Error) -> bool {
        let overflow = rustix::io::Errno::NOBUFS.raw_os_error();
        error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(overflow)
    }

    /// Whether a uevent (a line and `KEY=value` pairs, each ended by a zero) is the one.
    fn is_new(message: &[u8]) -> bool {
        message.split(|byte| *byte == 0).any(|pair| pair == NEW)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_kernels_words_for_a_new_generation() {
            let head = b"change@/devices/platform/QEMUVGID:00\0ACTION=change\0".to_vec();
            let tail = b"SUBSYSTEM=platform\0SEQNUM=4711\0";
            assert!(is_new(&[&head[..], NEW, b"\0", tail].concat()));
            assert!(!is_new(&[&head[..], tail].concat()));
            assert!(!is_new(b"change@/NEW_VMGENID=1/x\0NEW_VMGENID=10\0"));
            assert!(!is_new(b""));
        }

        #[tokio::test]
        async fn nothing_happens_on_a_machine_that_stays_itself() {
            let generation = Generation::watch();
            let wait = std::time::Duration::from_millis(50);
            assert!(tokio::time::timeout(wait, generation.changed()).await.is_err());
        }
    }
}

#[cfg(target_os = "linux")]
pub(crate) use linux::Generation;

/// Elsewhere a copy shows itself by its clocks alone.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(crate) struct Generation;

#[cfg(not(target_os = "linux"))]
impl Generation {
    pub(crate) fn watch() -> Self {
        Generation
    }

    pub(crate) async fn changed(&self) {
        std::future::pending().await
    }
}
