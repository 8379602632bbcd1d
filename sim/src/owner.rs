//! What the owners of agents do, and what anybody on the internet can.

use crate::host::Power;
use crate::nat::Packet;
use crate::net::{HostId, Place};
use crate::trace::Note;
use crate::world::{Failure, Item, World};
use pilot_core::machine::SocketId;
use pilot_core::name::Justification;
use pilot_core::node::{Command, CommandError, Reply};
use pilot_core::time::Duration;
use pilot_core::trust::Permissions;
use std::net::SocketAddr;

impl World {
    /// Carries out a request of an agent's owner. Run the world for it to have an effect.
    ///
    /// # Errors
    /// As [`pilot_core::node::Node::command`]; [`CommandError::NotRegistered`] if the host does not
    /// run.
    pub fn command(&mut self, host: HostId, command: Command<'_>) -> Result<Reply, CommandError> {
        if self.hosts[host.0].power != Power::Running {
            return Err(CommandError::NotRegistered);
        }
        self.due.insert(host);
        let trusts = match &command {
            Command::RequestTrust { to, .. } => Some((*to, true)),
            Command::ApproveTrust { from, .. } => Some((*from, true)),
            Command::RevokeTrust { peer } => Some((*peer, false)),
            _ => None,
        };
        let result = self.hosts[host.0].node.command(self.now, command);
        if let Some((peer, trusts)) = trusts.filter(|_| result.is_ok()) {
            self.checks.set_trust(host, peer, trusts);
        }
        result
    }

    /// Runs until every agent is registered and hears the beacon.
    ///
    /// # Panics
    /// If that takes more than a minute, or if a check fails.
    pub fn register(&mut self) -> Duration {
        self.run_until(Duration::from_secs(60), |w| w.hosts().all(|host| w.is_online(host)))
    }

    /// `a` asks, `b` approves, both hold grants.
    ///
    /// # Panics
    /// If that takes more than a minute, or if a check fails.
    pub fn trust(&mut self, a: HostId, b: HostId) -> Duration {
        self.try_trust(a, b, Duration::from_secs(60))
            .unwrap_or_else(|failure| panic!("{failure}"))
            .unwrap_or_else(|| panic!("no trust; again: {}{}", self.again, self.describe()))
    }

    /// [`World::trust`], within `most`; `None` if it took longer.
    ///
    /// # Errors
    /// If a check fails.
    pub fn try_trust(
        &mut self,
        a: HostId,
        b: HostId,
        most: Duration,
    ) -> Result<Option<Duration>, Failure> {
        let mut asked = false;
        self.try_run_until(most, |w| {
            let (Some(from), Some(to)) = (w.address(a), w.address(b)) else { return false };
            if w.trusts(a, b) && w.trusts(b, a) {
                return true;
            }
            if !asked {
                let justification = Justification::cleaned("to test");
                asked = w.command(a, Command::RequestTrust { to, justification }).is_ok();
            }
            if w.hosts[b.0].node.trust_requests().any(|request| request.from == from) {
                let _ = w.command(b, Command::ApproveTrust { from, permissions: Permissions::ALL });
            }
            false
        })
    }

    /// Whether `a` trusts `b` and holds its grant.
    pub fn trusts(&self, a: HostId, b: HostId) -> bool {
        let b = self.address(b);
        self.hosts[a.0].node.peers().any(|peer| Some(peer.address) == b && peer.grants_us)
    }

    /// Puts a datagram on the wire as anybody on the internet could, with any source.
    pub fn forge(&mut self, source: SocketAddr, destination: SocketAddr, bytes: Vec<u8>) {
        self.forge_later(Duration::ZERO, source, destination, bytes);
    }

    pub(crate) fn forge_later(
        &mut self,
        span: Duration,
        source: SocketAddr,
        destination: SocketAddr,
        bytes: Vec<u8>,
    ) {
        if !self.was_somebody(source.ip()) {
            self.checks.spoof(source);
        }
        let packet = Packet::new(source, destination);
        self.later(span, Item::Core { packet, bytes });
    }

    pub(crate) fn fault(&mut self, what: String) {
        self.note(Note::Fault { what }, &[]);
    }

    pub(crate) fn socket(&self, host: HostId) -> SocketAddr {
        let host = &self.hosts[host.0];
        SocketAddr::new(host.address, host.io.ports[&SocketId(0)])
    }

    pub(crate) fn place_of(&self, host: HostId) -> Place {
        self.hosts[host.0].place
    }
}
