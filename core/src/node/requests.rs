//! Commands of the owner, each mapped to the sub-machine that carries it out.

use super::{Command, CommandError, Node, Reply};
use crate::addr::{Address, NetworkId, Port, SocketAddress};
use crate::directory::DirectoryError;
use crate::path::PeerIndex;
use crate::port::ListenError;
use crate::stream::{ConnectError, DatagramError};
use crate::time::{Instant, UnixTime, WallClock};
use crate::wire::control::{Candidates, CloseCode, Endpoint, EndpointKind};
use core::net::SocketAddr;

impl<'s> Node<'s> {
    pub(super) fn execute(
        &mut self,
        now: Instant,
        command: Command<'_>,
    ) -> Result<Reply, CommandError> {
        if self.directory.is_fenced() && !matches!(command, Command::Shutdown) {
            return Err(CommandError::Fenced);
        }
        match command {
            Command::NetworkChanged { locals } => self.network_changed(now, locals),
            Command::SetBeacon { address } => self.directory.set_beacon(now, address),
            Command::SocketFailed { socket } => self.socket_failed(now, socket),
            Command::ClockChanged { unix } => {
                self.clock_changed(now, unix);
            }
            Command::Reseed { entropy } => self.reseed(&entropy),
            Command::Connect { to, port } => return self.connect(now, to, port),
            Command::Listen { port } => {
                self.transport.listen(port)?;
                return Ok(Reply::Port(port));
            }
            Command::Unlisten { port } => {
                self.transport.unlisten(now, port);
                // Whoever waited in the queue is told, also if that takes a session.
                for index in 0..self.links.len() {
                    self.reach_to_end(now, Some(PeerIndex(index as u32)));
                }
            }
            Command::BindDatagrams { port } => {
                self.transport.bind_datagram(port)?;
                return Ok(Reply::Port(port));
            }
            Command::UnbindDatagrams { port } => self.transport.unbind_datagram(port),
            Command::SendDatagram { to, from, payload } => {
                self.send_datagram(now, to, from, payload)?;
            }
            Command::Join { network } => return request(self.directory.join(now, network)),
            Command::Leave { network } => return request(self.directory.leave(now, network)),
            Command::SetHostname { name, network } => {
                return request(self.directory.set_hostname(now, name, network));
            }
            Command::ClearHostname { network } => {
                return request(self.directory.clear_hostname(now, network));
            }
            Command::SetVisibility { public } => {
                return request(self.directory.set_visibility(now, public));
            }
            Command::SetTags { tags } => return request(self.directory.set_tags(now, tags)),
            Command::Resolve { target, network } => {
                return request(self.directory.resolve(now, &target, network));
            }
            Command::Discover { tags, network, cursor } => {
                return request(self.directory.discover(now, tags, network, cursor));
            }
            Command::SubmitReceipt { receipt } => {
                return request(self.directory.submit_receipt(now, receipt));
            }
            Command::Reputation { of } => return request(self.directory.reputation(now, of)),
            Command::RequestTrust { to, justification } => {
                self.directory.request_trust(now, to.on_backbone(), justification)?;
            }
            Command::ApproveTrust { from, permissions } => {
                self.directory.approve_trust(now, from.on_backbone(), permissions)?;
            }
            Command::SetPermissions { peer, permissions } => {
                let index = self.directory.trust().find(peer.on_backbone());
                self.directory.set_permissions(
                    now,
                    index.ok_or(CommandError::NotFound)?,
                    permissions,
                )?;
            }
            Command::RefuseTrust { from } => {
                self.directory.refuse_trust(now, from.on_backbone())?;
            }
            Command::RevokeTrust { peer } => {
                let index = self.directory.trust().find(peer.on_backbone());
                let index = index.ok_or(CommandError::NotFound)?;
                self.say_goodbye(index, CloseCode::Revoked);
            }
            Command::SetPeerEndpoint { peer, endpoint } => {
                let index = self.directory.trust().find(peer.on_backbone());
                let index = index.ok_or(CommandError::NotFound)?;
                self.directory.set_peer_endpoint(now, index, endpoint);
            }
            Command::Shutdown => {
                self.say_goodbye_to_all(CloseCode::Shutdown);
                self.leaving = true;
                self.discover.end();
            }
        }
        Ok(Reply::Done)
    }

    fn network_changed(&mut self, now: Instant, locals: &[SocketAddr]) {
        let is_gone = self.locals.as_slice().iter().any(|old| !locals.contains(old));
        if self.locals.set(locals) {
            self.discover.network_changed(now);
            // Told with the candidates.
            self.discover.take_news();
            self.tell_candidates(now, self.config.endpoint);
            if is_gone {
                self.address_gone(now);
            }
        }
    }

    /// Tells the beacon where else we may be reached: first the endpoint that the operator
    /// named, then our interfaces.
    pub(super) fn tell_candidates(&mut self, now: Instant, endpoint: Option<SocketAddr>) {
        let mut candidates = Candidates::new();
        if self.config.path_policy != super::PathPolicy::Relay {
            let mapped = endpoint.map(|e| (EndpointKind::Mapped, e));
            let hosts = self.locals.as_slice().iter().map(|&l| (EndpointKind::Host, l));
            for (kind, address) in mapped.into_iter().chain(hosts) {
                // More than eight: the first ones are the best, by the adapter's order.
                let _ = candidates.push(Endpoint { kind, address });
            }
        }
        self.directory.set_candidates(now, candidates, self.discover.found().nat.to_byte());
    }

    fn reseed(&mut self, entropy: &[u8; 32]) {
        self.rng.mix(entropy);
        self.directory.reseed(&self.rng.bytes());
        self.tunnel.reseed(&self.rng.bytes());
        self.transport.reseed(&self.rng.bytes());
    }

    /// After a suspend a resumed counter could repeat, so every session ends and is made anew;
    /// streams survive that (`wire.md` 8).
    fn clock_changed(&mut self, now: Instant, unix: UnixTime) {
        self.wall = WallClock::new(now, unix);
        self.tunnel.set_wall_clock(self.wall);
        self.directory.handle_clock_change(now, unix);
        for index in 0..self.links.len() {
            let peer = PeerIndex(index as u32);
            if self.tunnel.has_session(peer) {
                self.tunnel.close(now, peer);
                if self.transport.open_streams(peer) > 0 {
                    self.reach(now, peer);
                }
            }
        }
    }

    /// The trusted peer behind an address in any network, and the network it is meant in.
    pub(super) fn trusted(&self, to: Address) -> Result<(PeerIndex, NetworkId), CommandError> {
        if !to.node.is_agent() {
            return Err(CommandError::BadAddress);
        }
        if self.address().is_none() {
            return Err(CommandError::NotRegistered);
        }
        let trust = self.directory.trust();
        let index = trust.find(to.on_backbone()).ok_or(CommandError::NotTrusted)?;
        let granted = trust.peer(index).is_some_and(|p| p.held().is_some());
        if granted { Ok((index, to.network)) } else { Err(CommandError::NotTrusted) }
    }

    fn connect(&mut self, now: Instant, to: Address, port: Port) -> Result<Reply, CommandError> {
        let (peer, network) = self.trusted(to)?;
        let stream = self.transport.connect(now, peer, port, network)?;
        self.reach_unless_reachable(now, peer);
        self.upkeep(now, peer);
        Ok(Reply::Stream(stream))
    }

    fn send_datagram(
        &mut self,
        now: Instant,
        to: SocketAddress,
        from: Port,
        payload: &[u8],
    ) -> Result<(), CommandError> {
        let (peer, network) = self.trusted(to.address)?;
        self.transport.send_datagram(now, peer, to.port, from, network, payload)?;
        self.reach_unless_reachable(now, peer);
        Ok(())
    }

    pub(super) fn say_goodbye_to_all(&mut self, code: CloseCode) {
        for index in 0..self.links.len() {
            let peer = PeerIndex(index as u32);
            if self.tunnel.has_session(peer) {
                self.say_goodbye(peer, code);
            }
        }
    }

    fn say_goodbye(&mut self, peer: PeerIndex, code: CloseCode) {
        let Some(link) = self.link_mut(peer) else { return };
        link.goodbye = Some(code);
        self.schedule(peer);
    }
}

fn request(result: Result<super::RequestId, DirectoryError>) -> Result<Reply, CommandError> {
    Ok(Reply::Request(result?))
}

impl From<DirectoryError> for CommandError {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Full => CommandError::Full,
            DirectoryError::NotFound => CommandError::NotFound,
            DirectoryError::BadAddress => CommandError::BadAddress,
            DirectoryError::NotRegistered => CommandError::NotRegistered,
            DirectoryError::Fenced => CommandError::Fenced,
        }
    }
}

impl From<ConnectError> for CommandError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::UnknownPeer => CommandError::NotTrusted,
            ConnectError::TooManyStreams | ConnectError::NoMemory | ConnectError::NoPort => {
                CommandError::Full
            }
        }
    }
}

impl From<ListenError> for CommandError {
    fn from(error: ListenError) -> Self {
        match error {
            ListenError::InUse => CommandError::PortInUse,
            _ => CommandError::Full,
        }
    }
}

impl From<DatagramError> for CommandError {
    fn from(error: DatagramError) -> Self {
        match error {
            DatagramError::UnknownPeer => CommandError::NotTrusted,
            DatagramError::TooLarge { max } => CommandError::TooLarge(max),
            DatagramError::NoMemory => CommandError::Full,
        }
    }
}
