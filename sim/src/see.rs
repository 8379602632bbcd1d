//! What can be seen of a world.

use crate::host::{Arrived, Power};
use crate::net::HostId;
use crate::tape::Tape;
use crate::trace::{PathChange, Trace};
use crate::world::{Stats, World};
use pilot_core::addr::Address;
use pilot_core::node::{Event, Link, NatInfo, PathKind, PathReport, StreamInfo};
use pilot_core::rendezvous::RendezvousStats;
use pilot_core::stats::Drops;
use pilot_core::time::Instant;

impl World {
    /// What happened.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// To keep events or packets.
    pub fn trace_mut(&mut self) -> &mut Trace {
        &mut self.trace
    }

    /// The choices that were made.
    pub fn tape(&self) -> &Tape {
        &self.tape
    }

    /// The same, of a world that is over.
    pub fn into_tape(self) -> Tape {
        self.tape
    }

    /// What was counted.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Counters and gauges of the rendezvous.
    pub fn server_stats(&self) -> RendezvousStats {
        self.server.stats()
    }

    /// Changes of paths since the world began, in order.
    pub fn path_changes(&self) -> &[PathChange] {
        &self.paths
    }

    /// UDP payload bytes that `from` uses on its path to `to`, a relay's header not counted;
    /// `None` if it has none.
    pub fn path_size(&self, from: HostId, to: HostId) -> Option<u16> {
        let info = self.hosts[from.0].node.path_info(self.address(to)?)?;
        Some(info.datagram)
    }

    /// Hosts, in the order in which they were added.
    pub fn hosts(&self) -> impl Iterator<Item = HostId> + use<> {
        (0..self.hosts.len()).map(HostId)
    }

    /// A host's agent's address, once it is registered.
    ///
    /// # Panics
    /// If the id is of another world, as everywhere.
    pub fn address(&self, host: HostId) -> Option<Address> {
        self.hosts[host.0].node.address()
    }

    /// Streams that a host's agent has a place for, lingering ones included.
    pub fn streams(&self, host: HostId) -> impl Iterator<Item = StreamInfo> + '_ {
        self.hosts[host.0].node.streams()
    }

    /// Where the beacon sees a host's agent.
    pub fn observed(&self, host: HostId) -> Option<std::net::SocketAddr> {
        self.hosts[host.0].node.observed()
    }

    /// Whether a host's agent is registered and the beacon answers it.
    pub fn is_online(&self, host: HostId) -> bool {
        let host = &self.hosts[host.0];
        host.power == Power::Running
            && host.node.address().is_some()
            && host.node.link() == Link::Online
    }

    /// What an agent has found out about the NATs in front of it.
    pub fn nat(&self, host: HostId) -> NatInfo {
        self.hosts[host.0].node.nat()
    }

    /// How packets from one agent to another travel.
    pub fn path(&self, from: HostId, to: HostId) -> PathKind {
        let to = self.address(to);
        let mut peers = self.hosts[from.0].node.peers();
        peers.find(|peer| Some(peer.address) == to).map_or(PathKind::None, |peer| peer.path)
    }

    /// Why packets from one agent to another travel as they do; `None` without trust.
    pub fn why(&self, from: HostId, to: HostId) -> Option<PathReport> {
        self.hosts[from.0].node.why(self.address(to)?)
    }

    /// Drop counters of an agent.
    pub fn drops(&self, host: HostId) -> Drops {
        self.hosts[host.0].node.drops()
    }

    /// What an agent's owner was told since its process started, the last 4,096.
    pub fn events(&self, host: HostId) -> impl Iterator<Item = (Instant, Event)> + '_ {
        self.hosts[host.0].told.events.iter().copied()
    }

    /// The oldest application datagram that was not taken.
    pub fn take_datagram(&mut self, host: HostId) -> Option<Arrived> {
        self.hosts[host.0].told.datagrams.pop_front()
    }

    /// Where everybody stands, for people.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (n, host) in self.hosts.iter().enumerate() {
            let peers: Vec<_> =
                host.node.peers().map(|p| (p.address, p.path, p.grants_us)).collect();
            text += &format!(
                "\nhost {n} {:?} {:?} link {:?} peers {peers:?} drops {:?}",
                host.power,
                host.node,
                host.node.link(),
                host.node.drops()
            );
        }
        text + &format!("\n{:?} lost {:?}", self.server.machine, self.stats.lost)
    }
}
