//! The agent as the API sees it: its answers as API types, its errors as codes.

use crate::api::{self, AgentEntry, Connection, Peer, Pending, PendingRequest, Why};
use crate::cli::values::Agent as Named;
use crate::error::{Code, Failure};
use pilot_core::addr::{Address, NetworkId, Port, SocketAddress};
use pilot_core::crypto::identity::{Fingerprint, IdentityKey};
use pilot_core::drive::KeyText;
use pilot_core::name::{Hostname, Justification, Tags};
use pilot_core::node::{
    AgentInfo, CommandError, Link, PathKind, RequestError, StreamEnd, StreamError, Target,
};
use pilot_core::trust::{Permissions, PortRanges};
use pilot_tokio::{
    Agent, AgentEvent, ConnectError, DirectoryError, ListenError, RecvError, StreamFailure,
    TrustError,
};
use std::io;
use std::time::Duration;

pub(crate) use pilot_tokio::{Listener, Stream};

/// A peer that has granted us access has so long to answer, unless the client says otherwise.
const CONNECT_TIME: Duration = Duration::from_secs(30);
/// The registry has so long to answer a question.
const REQUEST_TIME: Duration = Duration::from_secs(15);

/// The running agent.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) agent: Agent,
}

impl Node {
    pub(crate) fn default_network(&self) -> NetworkId {
        self.agent.info().default_network
    }

    /// Our address in a network, as text.
    pub(crate) fn address_in(&self, network: NetworkId) -> Option<String> {
        let address = self.agent.address()?;
        Some(Address::new(network, address.node).to_string())
    }

    // ---- names ----

    pub(crate) async fn join(&self, network: NetworkId) -> Result<(), Failure> {
        asked(self.agent.join(network)).await
    }

    pub(crate) async fn leave(&self, network: NetworkId) -> Result<(), Failure> {
        asked(self.agent.leave(network)).await
    }

    pub(crate) async fn set_hostname(
        &self,
        name: Hostname,
        network: Option<NetworkId>,
    ) -> Result<(), Failure> {
        let shown = name.clone();
        asked(self.agent.set_hostname(name, network)).await.map_err(|failure| match failure.code {
            Code::Conflict => {
                let message = format!("the hostname {shown} is taken by another agent");
                Failure::new(Code::Conflict, message).hint("choose another hostname")
            }
            _ => failure,
        })
    }

    pub(crate) async fn clear_hostname(&self, network: Option<NetworkId>) -> Result<(), Failure> {
        asked(self.agent.clear_hostname(network)).await
    }

    pub(crate) async fn set_visibility(&self, public: bool) -> Result<(), Failure> {
        asked(self.agent.set_visibility(public)).await
    }

    pub(crate) async fn set_tags(&self, tags: Tags) -> Result<(), Failure> {
        asked(self.agent.set_tags(tags)).await
    }

    pub(crate) async fn resolve(
        &self,
        agent: &Named,
        network: Option<NetworkId>,
    ) -> Result<AgentEntry, Failure> {
        let target = match agent {
            Named::Address(address) => Target::Address(*address),
            Named::Hostname(name) => Target::Hostname(name.clone()),
        };
        match asked(self.agent.resolve(target, network)).await {
            Ok(found) => Ok(entry(&found)),
            Err(failure) if failure.code == Code::NotFound => {
                Err(Failure::new(Code::NotFound, format!("{agent} is unknown or private")))
            }
            Err(failure) => Err(failure),
        }
    }

    /// The reputation of an agent; of this one where none is named.
    pub(crate) async fn reputation(
        &self,
        agent: Option<&Named>,
        network: Option<NetworkId>,
    ) -> Result<api::Reputation, Failure> {
        let of = match agent {
            Some(agent) => self.target(agent, network).await?,
            None => self.own_address(network)?,
        };
        match asked(self.agent.reputation(of)).await {
            Ok(counted) => Ok(api::Reputation {
                address: of.to_string(),
                score: counted.score(),
                earned: counted.earned,
                spent: counted.spent,
                completed: counted.completed,
                failed: counted.failed,
                submitted: counted.submitted,
            }),
            Err(failure) if failure.code == Code::NotFound => {
                Err(Failure::new(Code::NotFound, format!("{of} is unknown or private")))
            }
            Err(failure) => Err(failure),
        }
    }

    fn own_address(&self, network: Option<NetworkId>) -> Result<Address, Failure> {
        let info = self.agent.info();
        let own = info
            .address
            .ok_or_else(|| Failure::new(Code::NotRegistered, "this agent has no address yet"))?;
        Ok(Address::new(network.unwrap_or(info.default_network), own.node))
    }

    /// The address of an agent however it is named; an address needs nobody to be asked.
    pub(crate) async fn target(
        &self,
        agent: &Named,
        network: Option<NetworkId>,
    ) -> Result<Address, Failure> {
        match agent {
            Named::Address(address) => Ok(*address),
            Named::Hostname(name) => {
                if let Some(known) = self.known_name(name, network) {
                    return Ok(known);
                }
                let found = self.resolve(agent, network).await?;
                found
                    .address
                    .parse()
                    .map_err(|e| Failure::new(Code::Internal, format!("{}: {e}", found.address)))
            }
        }
    }

    /// The address of a trusted agent by the name it had, while the registry cannot be asked.
    fn known_name(&self, name: &Hostname, network: Option<NetworkId>) -> Option<Address> {
        let info = self.agent.info();
        if info.link == Link::Online {
            return None;
        }
        let trusted = self.agent.trusted();
        let peer = trusted.iter().find(|peer| peer.hostname.as_ref() == Some(name))?;
        Some(Address::new(network.unwrap_or(info.default_network), peer.address.node))
    }

    pub(crate) async fn discover(
        &self,
        tags: Tags,
        network: Option<NetworkId>,
        cursor: u64,
    ) -> Result<(Vec<AgentEntry>, Option<u64>), Failure> {
        let (agents, next) = asked(self.agent.discover(tags, network, cursor)).await?;
        Ok((agents.iter().map(entry).collect(), next))
    }

    // ---- trust ----

    /// Fails where a message could not be delivered however long it waited.
    pub(crate) fn check_grant(&self, to: Address) -> Result<(), Failure> {
        if self.has_grant_from(to.on_backbone()) { Ok(()) } else { Err(self.no_grant(to)) }
    }

    /// Trust is between two.
    fn check_other(&self, to: Address) -> Result<(), Failure> {
        if self.agent.info().address.is_none_or(|own| own.node != to.node) {
            return Ok(());
        }
        Err(Failure::new(Code::BadAddress, format!("{to} is this agent itself"))
            .hint("name another agent: `pilotctl trust list` shows those that may be reached"))
    }

    fn no_grant(&self, to: Address) -> Failure {
        if let Err(failure) = self.check_other(to) {
            return failure;
        }
        let message = format!("{to} has not granted this agent access");
        Failure::new(Code::NotTrusted, message).hint(format!(
            "run `pilotctl trust request {to} --justification \"...\"` and wait for the other side to approve"
        ))
    }

    fn has_grant_from(&self, address: Address) -> bool {
        let is = |peer: &pilot_tokio::PeerInfo| peer.address == address && peer.grants_us;
        self.agent.trusted().iter().any(is)
    }

    /// Asks for trust; what came of it until now, or within `wait`.
    pub(crate) async fn request_trust(
        &self,
        to: Address,
        justification: Justification,
        wait: Option<Duration>,
    ) -> Result<&'static str, Failure> {
        let to = to.on_backbone();
        self.check_other(to)?;
        let mut events = self.agent.events();
        self.agent.request_trust(to, justification.as_str()).map_err(from_trust)?;
        if self.has_grant_from(to) {
            return Ok("approved");
        }
        let Some(wait) = wait else { return Ok("pending") };
        let answered = async {
            loop {
                match events.recv().await {
                    Ok(AgentEvent::TrustGranted(by)) if by.on_backbone() == to => {
                        return Ok("approved");
                    }
                    Ok(AgentEvent::TrustRefused(by)) if by.on_backbone() == to => {
                        let message = format!("{to} has refused");
                        return Err(Failure::new(Code::TrustRefused, message));
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) if self.has_grant_from(to) => return Ok("approved"),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => {
                        return Err(Failure::new(Code::NotRunning, "the daemon is stopping"));
                    }
                }
            }
        };
        tokio::time::timeout(wait, answered).await.unwrap_or_else(|_| {
            let message = format!("{to} has not answered within {wait:?}; the request stays open");
            Err(Failure::new(Code::Timeout, message)
                .hint("`pilotctl trust list` shows when it has; its owner may take days"))
        })
    }

    pub(crate) fn pending(&self) -> Pending {
        let own = self.agent.info().identity;
        let requests = self.agent.trust_requests();
        let request = |r: &pilot_tokio::TrustRequestInfo| PendingRequest {
            address: r.from.to_string(),
            identity: KeyText(&r.identity).to_string(),
            fingerprint: Fingerprint::of_pair(&own, &r.identity).to_string(),
            justification: r.justification.as_str().to_owned(),
            issued: unix_seconds(r.issued),
        };
        let outgoing = self.agent.trust_outgoing();
        Pending {
            requests: requests.iter().map(request).collect(),
            outgoing: outgoing.iter().map(Address::to_string).collect(),
        }
    }

    pub(crate) fn approve(&self, from: Address, allow: Permissions) -> Result<(), Failure> {
        self.agent.approve_trust_for(from.on_backbone(), allow).map_err(|e| no_request(e, from))
    }

    pub(crate) fn allow(&self, peer: Address, allow: Permissions) -> Result<(), Failure> {
        self.agent.set_permissions(peer.on_backbone(), allow).map_err(|e| not_a_peer(e, peer))
    }

    pub(crate) fn refuse(&self, from: Address) -> Result<(), Failure> {
        self.agent.refuse_trust(from.on_backbone()).map_err(|e| no_request(e, from))
    }

    pub(crate) fn revoke(&self, peer: Address) -> Result<(), Failure> {
        self.agent.revoke_trust(peer.on_backbone()).map_err(|e| not_a_peer(e, peer))
    }

    /// All agents that are trusted.
    pub(crate) fn trusted(&self) -> Vec<Peer> {
        self.shown(&self.agent.trusted())
    }

    /// Those that there is a path to.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        self.shown(&self.agent.peers())
    }

    fn shown(&self, peers: &[pilot_tokio::PeerInfo]) -> Vec<Peer> {
        let own = self.agent.info().identity;
        let peer = |p: &pilot_tokio::PeerInfo| Peer {
            address: p.address.to_string(),
            hostname: p.hostname.as_ref().map(Hostname::to_string),
            identity: KeyText(&p.identity).to_string(),
            fingerprint: Fingerprint::of_pair(&own, &p.identity).to_string(),
            path: crate::services::path_word(p.path).to_owned(),
            endpoint: p.endpoint,
            rtt_us: p.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            mutual: p.grants_us,
            allow: p.permissions.to_string(),
            allows_us: p
                .grants_us
                .then(|| Permissions::new(p.granted, PortRanges::ALL).to_string()),
        };
        peers.iter().map(peer).collect()
    }

    /// How packets to a peer travel, and why not better.
    pub(crate) fn why(&self, peer: Address) -> Result<Why, Failure> {
        let report = self.agent.why(peer).ok_or_else(|| self.no_grant(peer))?;
        Ok(super::why::told(&report))
    }

    // ---- streams ----

    pub(crate) fn connections(&self) -> Vec<Connection> {
        let connections = self.agent.connections();
        let connection = |c: &pilot_tokio::Connection| Connection {
            peer: c.peer.address.to_string(),
            peer_port: c.peer.port.0,
            local_port: c.local_port.0,
            state: if c.is_open { "open" } else { "opening" }.to_owned(),
        };
        connections.iter().map(connection).collect()
    }

    /// How packets to a peer travel now.
    pub(crate) fn path(&self, peer: Address) -> PathKind {
        let peer = peer.on_backbone();
        let trusted = self.agent.trusted();
        trusted.iter().find(|p| p.address == peer).map_or(PathKind::None, |p| p.path)
    }

    /// Opens a stream. Without a grant this fails at once, and nobody is asked.
    pub(crate) async fn connect(
        &self,
        to: Address,
        port: Port,
        limit: Option<Duration>,
    ) -> Result<Stream, Failure> {
        let time = limit.unwrap_or(CONNECT_TIME);
        match tokio::time::timeout(time, self.agent.connect(to, port)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(ConnectError::Command(CommandError::NotTrusted))) => Err(self.no_grant(to)),
            Ok(Err(error)) => Err(from_connect(error)),
            Err(_) if limit.is_some() => {
                Err(Failure::new(Code::Timeout, format!("{to} has not answered within {time:?}")))
            }
            Err(_) => {
                let message = format!("{to} has granted access but has not answered for {time:?}");
                Err(Failure::new(Code::NoAnswer, message))
            }
        }
    }

    pub(crate) fn listen(&self, port: Port) -> Result<Listener, Failure> {
        self.agent.listen(port).map_err(|e| match e {
            ListenError::Command(CommandError::PortInUse) => {
                Failure::new(Code::Conflict, format!("port {port} is in use"))
                    .hint("choose another port, or 0 for a free one")
            }
            e => from_listen(&e),
        })
    }
}

/// Asks the registry, and waits so long as makes sense.
async fn asked<T>(question: impl Future<Output = Result<T, DirectoryError>>) -> Result<T, Failure> {
    match tokio::time::timeout(REQUEST_TIME, question).await {
        Ok(answer) => answer.map_err(from_directory),
        Err(_) => {
            let message = format!("the registry has not answered for {REQUEST_TIME:?}");
            Err(Failure::new(Code::RegistryUnreachable, message))
        }
    }
}

fn entry(agent: &AgentInfo) -> AgentEntry {
    AgentEntry {
        address: agent.address.to_string(),
        hostname: agent.hostname.as_ref().map(Hostname::to_string),
        tags: agent.tags.iter().map(|tag| tag.as_str().to_owned()).collect(),
    }
}

fn unix_seconds(time: pilot_core::time::UnixTime) -> u64 {
    time.as_secs()
}

/// Base32 and six words of a key.
pub(crate) fn key_texts(key: &IdentityKey) -> (String, String) {
    (KeyText(key).to_string(), Fingerprint::of(key).to_string())
}

// ---- errors ----

fn from_command(error: CommandError) -> Failure {
    let code = match error {
        CommandError::NotTrusted => Code::NotTrusted,
        CommandError::BadAddress => Code::BadAddress,
        CommandError::NotRegistered => Code::NotRegistered,
        CommandError::PortInUse => Code::Conflict,
        CommandError::Full => Code::Full,
        CommandError::TooLarge(_) => Code::TooLarge,
        CommandError::NotFound => Code::NotFound,
        CommandError::Fenced => Code::Fenced,
        _ => Code::Internal,
    };
    Failure::new(code, error.to_string())
}

fn from_request(error: RequestError) -> Failure {
    let code = match error {
        RequestError::NotFound => Code::NotFound,
        RequestError::Conflict => Code::Conflict,
        RequestError::RateLimited(_) => Code::RateLimited,
        RequestError::Full => Code::Full,
        RequestError::Unsupported => Code::Unsupported,
        RequestError::Unreachable => Code::RegistryUnreachable,
        _ => Code::Rejected,
    };
    Failure::new(code, format!("the registry: {error}"))
}

fn from_directory(error: DirectoryError) -> Failure {
    match error {
        DirectoryError::Command(error) => from_command(error),
        DirectoryError::Request(error) => from_request(error),
        error => Failure::new(Code::Internal, error.to_string()),
    }
}

fn from_trust(error: TrustError) -> Failure {
    match error {
        TrustError::Justification(error) => {
            Failure::new(Code::Usage, format!("the justification is {error}"))
        }
        TrustError::Command(error) => from_command(error),
        error => Failure::new(Code::Internal, error.to_string()),
    }
}

fn no_request(error: TrustError, from: Address) -> Failure {
    match error {
        TrustError::Command(CommandError::NotFound) => {
            Failure::new(Code::NotFound, format!("no request of {from} waits"))
                .hint("`pilotctl trust pending` shows those that do")
        }
        error => from_trust(error),
    }
}

fn not_a_peer(error: TrustError, peer: Address) -> Failure {
    match error {
        TrustError::Command(CommandError::NotFound) => {
            Failure::new(Code::NotFound, format!("{peer} is not trusted"))
                .hint("`pilotctl trust list` shows who is")
        }
        error => from_trust(error),
    }
}

/// How a stream ended otherwise than well.
pub(crate) fn from_end(end: StreamEnd) -> Failure {
    let code = match end {
        StreamEnd::Refused => Code::Refused,
        StreamEnd::NotPermitted => Code::NotPermitted,
        StreamEnd::Busy => Code::Busy,
        StreamEnd::Unreachable => Code::NoAnswer,
        StreamEnd::Revoked => Code::NotTrusted,
        _ => Code::Ended,
    };
    Failure::new(code, end.to_string())
}

fn from_connect(error: ConnectError) -> Failure {
    match error {
        ConnectError::Resolve(error) => from_request(error),
        ConnectError::Command(error) => from_command(error),
        ConnectError::Failed(end) => from_end(end),
        error => Failure::new(Code::Internal, error.to_string()),
    }
}

/// Why no more streams come.
pub(crate) fn from_listen(error: &ListenError) -> Failure {
    match error {
        ListenError::Command(error) => from_command(*error),
        ListenError::Shutdown => Failure::new(Code::NotRunning, "the daemon is stopping"),
        error => Failure::new(Code::Internal, error.to_string()),
    }
}

/// What a stream's I/O error says about its end, if it is one.
pub(crate) fn from_io(error: &io::Error) -> Option<Failure> {
    let failure = error.get_ref()?.downcast_ref::<StreamFailure>()?;
    match failure.0 {
        StreamError::Ended(end) => Some(from_end(end)),
        error => Some(Failure::new(Code::Ended, error.to_string())),
    }
}

/// The other end of a stream, and our port.
pub(crate) fn ends_of(stream: &Stream) -> (SocketAddress, Port) {
    (stream.peer(), stream.local_port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_exit_codes_that_the_manual_states() {
        let exits = [
            (from_command(CommandError::NotTrusted), 4),
            (from_request(RequestError::NotFound), 3),
            (from_request(RequestError::Conflict), 8),
            (from_request(RequestError::Unreachable), 5),
            (from_end(StreamEnd::Unreachable), 5),
            (from_end(StreamEnd::Revoked), 4),
            (from_end(StreamEnd::Refused), 1),
            (from_command(CommandError::BadAddress), 2),
        ];
        for (failure, exit) in exits {
            assert_eq!(failure.code.exit(), exit, "{failure:?}");
        }
    }
}
