//! Listeners, ephemeral ports and accept queues.
//!
//! A port of ours may be open for streams, for datagrams, or both. A stream that a peer opens
//! counts against the backlog of its port from its SYN until the application accepts it; when
//! the backlog is full the SYN is answered "busy". No peer may have more of it than it leaves.

use crate::addr::Port;
use crate::rng::Rng;
use crate::slab::Store;

/// Why a port cannot be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// It is open already.
    #[error("the port is in use")]
    InUse,
    /// `Limits::listeners` ports are open.
    #[error("too many open ports")]
    Full,
}

/// One open port.
#[derive(Clone, Copy, Debug)]
pub struct OpenPort {
    port: Port,
    streams: bool,
    datagrams: bool,
    /// Streams that count against the backlog.
    waiting: u32,
    /// The application has not been told of the newest arrival.
    fresh: bool,
    pub(crate) queue: crate::stream::AcceptQueue,
}

impl OpenPort {
    /// An unused place, for storage that the caller lends.
    pub const fn empty() -> Self {
        OpenPort {
            port: Port(0),
            streams: false,
            datagrams: false,
            waiting: 0,
            fresh: false,
            queue: crate::stream::AcceptQueue::EMPTY,
        }
    }
}

/// The open ports, ascending.
pub(crate) struct PortTable<'s> {
    ports: Store<'s, OpenPort>,
    len: usize,
    backlog: u32,
    fresh: usize,
}

impl<'s> PortTable<'s> {
    pub(crate) fn new(ports: Store<'s, OpenPort>, backlog: usize) -> Self {
        PortTable { ports, len: 0, backlog: backlog as u32, fresh: 0 }
    }

    fn position(&self, port: Port) -> Result<usize, usize> {
        self.ports[..self.len].binary_search_by_key(&port, |entry| entry.port)
    }

    fn get(&self, port: Port) -> Option<&OpenPort> {
        self.position(port).ok().map(|at| &self.ports[at])
    }

    pub(crate) fn get_mut(&mut self, port: Port) -> Option<&mut OpenPort> {
        self.position(port).ok().map(|at| &mut self.ports[at])
    }

    fn entry(&mut self, port: Port) -> Result<&mut OpenPort, ListenError> {
        let at = match self.position(port) {
            Ok(at) => at,
            Err(_) if self.len == self.ports.len() => return Err(ListenError::Full),
            Err(at) => {
                self.ports.copy_within(at..self.len, at + 1);
                self.ports[at] = OpenPort { port, ..OpenPort::empty() };
                self.len += 1;
                at
            }
        };
        Ok(&mut self.ports[at])
    }

    fn drop_unused(&mut self, port: Port) {
        if let Ok(at) = self.position(port)
            && !self.ports[at].streams
            && !self.ports[at].datagrams
        {
            self.ports.copy_within(at + 1..self.len, at);
            self.len -= 1;
        }
    }

    /// Opens a port for streams.
    pub(crate) fn listen(&mut self, port: Port) -> Result<(), ListenError> {
        let entry = self.entry(port)?;
        if entry.streams {
            return Err(ListenError::InUse);
        }
        entry.streams = true;
        Ok(())
    }

    /// Opens a port for datagrams.
    pub(crate) fn bind(&mut self, port: Port) -> Result<(), ListenError> {
        let entry = self.entry(port)?;
        if entry.datagrams {
            return Err(ListenError::InUse);
        }
        entry.datagrams = true;
        Ok(())
    }

    /// Closes a port for streams; its queue must have been emptied.
    pub(crate) fn unlisten(&mut self, port: Port) {
        if let Some(entry) = self.get_mut(port) {
            let fresh = core::mem::take(&mut entry.fresh);
            entry.streams = false;
            entry.waiting = 0;
            self.fresh -= usize::from(fresh);
        }
        self.drop_unused(port);
    }

    /// Closes a port for datagrams.
    pub(crate) fn unbind(&mut self, port: Port) {
        if let Some(entry) = self.get_mut(port) {
            entry.datagrams = false;
        }
        self.drop_unused(port);
    }

    pub(crate) fn is_listening(&self, port: Port) -> bool {
        self.get(port).is_some_and(|entry| entry.streams)
    }

    pub(crate) fn takes_datagrams(&self, port: Port) -> bool {
        self.get(port).is_some_and(|entry| entry.datagrams)
    }

    /// Counts one more stream against the backlog of a listening port; `false` if it is full, or
    /// if the peer, of which `held` wait here or at other ports, would have more than the places
    /// left to all others.
    pub(crate) fn admit(&mut self, port: Port, held: u32) -> bool {
        let backlog = self.backlog;
        self.get_mut(port).is_some_and(|entry| {
            let room = held == 0 && entry.waiting < backlog || entry.waiting + held + 2 <= backlog;
            entry.waiting += u32::from(room);
            room
        })
    }

    /// A stream was accepted or ended before that.
    pub(crate) fn leave(&mut self, port: Port) {
        if let Some(entry) = self.get_mut(port) {
            entry.waiting = entry.waiting.saturating_sub(1);
        }
    }

    /// The accept queue of `port` is longer than before.
    pub(crate) fn announce(&mut self, port: Port) {
        if let Some(entry) = self.get_mut(port)
            && !core::mem::replace(&mut entry.fresh, true)
        {
            self.fresh += 1;
        }
    }

    /// Whether there is a port to announce.
    pub(crate) fn has_news(&self) -> bool {
        self.fresh > 0
    }

    /// A port to announce to the application.
    pub(crate) fn poll(&mut self) -> Option<Port> {
        if self.fresh == 0 {
            return None;
        }
        let entry = self.ports[..self.len].iter_mut().find(|entry| entry.fresh)?;
        entry.fresh = false;
        self.fresh -= 1;
        Some(entry.port)
    }
}

/// Draws a port from 49152 to 65535 for which `taken` is false: at random, so that a peer's
/// memory of our former life does not meet us (W-T12), and never outside the range (W-T13).
pub(crate) fn ephemeral(rng: &mut Rng, mut taken: impl FnMut(Port) -> bool) -> Option<Port> {
    let first = u32::from(Port::FIRST_EPHEMERAL.0);
    let count = 0x1_0000 - first;
    let start = rng.below(u64::from(count)) as u32;
    (0..count).map(|n| Port((first + (start + n) % count) as u16)).find(|port| !taken(*port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ephemeral_ports_stay_in_their_range_to_the_last_one() {
        let mut rng = Rng::new([3; 32]);
        let mut used = BTreeSet::new();
        for _ in 0..16_384 {
            let port = ephemeral(&mut rng, |port| used.contains(&port)).unwrap();
            assert!(port.is_ephemeral() && used.insert(port));
        }
        assert_eq!(ephemeral(&mut rng, |port| used.contains(&port)), None);
    }

    #[test]
    fn tables_are_bounded_and_ports_close() {
        let mut storage = [OpenPort::empty(); 2];
        let mut table = PortTable::new(Store::from(&mut storage[..]), 1);
        table.listen(Port(9)).unwrap();
        table.bind(Port(9)).unwrap();
        assert_eq!(table.listen(Port(9)), Err(ListenError::InUse));
        table.listen(Port(7)).unwrap();
        assert_eq!(table.listen(Port(8)), Err(ListenError::Full));
        assert!(table.admit(Port(7), 0) && !table.admit(Port(7), 0), "backlog of one");
        table.leave(Port(7));
        assert!(table.admit(Port(7), 0));
        table.announce(Port(7));
        table.announce(Port(7));
        table.announce(Port(9));
        assert_eq!(
            [table.poll(), table.poll(), table.poll()],
            [Some(Port(7)), Some(Port(9)), None]
        );
        table.unlisten(Port(9));
        assert!(!table.is_listening(Port(9)) && table.takes_datagrams(Port(9)));
        table.unbind(Port(9));
        table.listen(Port(8)).unwrap();
        assert!(table.is_listening(Port(7)) && table.is_listening(Port(8)));
    }
}
