//! The handle of an agent.

use crate::builder::Builder;
use crate::datagrams::Datagrams;
use crate::driver::UdpDriver;
use crate::error::{
    ConnectError, DatagramsError, DirectoryError, ListenError, ReadyError, TrustError,
};
use crate::event::AgentEvent;
use crate::listener::{Listener, Place};
use crate::owner::{AgentNode, AgentOwner, Signals};
use crate::stream::Stream;
use pilot_core::addr::{Address, NetworkId, Port, SocketAddress};
use pilot_core::crypto::Rights;
use pilot_core::crypto::identity::{Identity, IdentityKey};
use pilot_core::drive::{IoStats, waiters::Ticket};
use pilot_core::name::{Hostname, Justification, Tags};
use pilot_core::node::{
    AgentInfo, Answer, Command, CommandError, Link, PathKind, PeerInfo, Reply, RequestError,
    RequestId, StreamEnd, StreamError, Target, TrustRequestInfo,
};
use pilot_core::stats::Drops;
use pilot_core::time::Duration;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{broadcast, watch};

/// How long the last packets may take: goodbyes to peers, durable changes.
const LINGER: Duration = Duration::from_secs(2);

/// What all handles of an agent share; the agent ends with it.
#[derive(Debug)]
pub(crate) struct AgentInner {
    pub(crate) driver: UdpDriver<AgentNode, AgentOwner>,
    pub(crate) signals: Arc<Signals>,
    /// Counts how often the store task found nothing left to store.
    pub(crate) stored: watch::Receiver<u64>,
}

impl AgentInner {
    fn say_goodbye(&self) {
        self.driver.with(|access| {
            // An agent without peers has nobody to say goodbye to.
            let _ = access.machine.command(access.now, Command::Shutdown);
        });
    }
}

impl Drop for AgentInner {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.say_goodbye();
            self.driver.stop(LINGER);
        }
    }
}

/// An agent: one identity on the network. Clones are handles of the same agent.
///
/// The agent lives as long as a handle, stream, listener or datagram port of it; when the last
/// one is dropped, peers are told in the background. [`Agent::shutdown`] does the same and
/// waits.
#[derive(Clone, Debug)]
pub struct Agent {
    inner: Arc<AgentInner>,
}

/// How an agent stands.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its identity.
    pub identity: IdentityKey,
    /// Its backbone address, once known.
    pub address: Option<Address>,
    /// The network used where none is named.
    pub default_network: NetworkId,
    /// The networks joined besides the backbone, each with our hostname there.
    pub memberships: Vec<(NetworkId, Option<Hostname>)>,
    /// Our tags.
    pub tags: Tags,
    /// Whether strangers may find us.
    pub is_public: bool,
    /// The registry's key, given or pinned.
    pub registry_key: Option<IdentityKey>,
    /// The registry's key was taken at first contact since the start: show its fingerprint.
    pub is_first_contact: bool,
    /// How the link to the rendezvous server stands.
    pub link: Link,
    /// The endpoint that the beacon observes.
    pub observed: Option<SocketAddr>,
    /// What the UDP sockets are bound to.
    pub local: Vec<SocketAddr>,
}

/// A stream that has a handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The other end.
    pub peer: SocketAddress,
    /// Our port.
    pub local_port: Port,
    /// Whether the opening handshake is over.
    pub is_open: bool,
}

impl Agent {
    /// Prepares an agent with this identity.
    pub fn builder(identity: Identity) -> Builder {
        Builder::new(identity)
    }

    pub(crate) fn new(inner: AgentInner) -> Self {
        Agent { inner: Arc::new(inner) }
    }

    fn command(&self, command: Command<'_>) -> Result<Reply, CommandError> {
        self.inner.driver.with(|access| access.machine.command(access.now, command))
    }

    // ---- standing ----

    /// Our backbone address, once known.
    pub fn address(&self) -> Option<Address> {
        self.inner.driver.peek(|access| access.machine.address())
    }

    /// Waits until the registry has given or confirmed our address. There is no timeout: the
    /// agent keeps trying.
    pub async fn ready(&self) -> Result<Address, ReadyError> {
        let mut place = Place::new(&self.inner);
        poll_fn(|cx| {
            self.inner
                .driver
                .peek(|access| access.owner.hub.poll_registered(&mut place.ticket, cx.waker()))
        })
        .await
    }

    /// How the agent stands.
    pub fn info(&self) -> Info {
        let local = self.inner.driver.local_addresses();
        self.inner.driver.peek(|access| Info {
            identity: access.machine.identity(),
            address: access.machine.address(),
            default_network: access.machine.default_network(),
            memberships: access.machine.memberships().to_vec(),
            tags: access.machine.tags().clone(),
            is_public: access.machine.is_public(),
            registry_key: access.machine.registry_key(),
            is_first_contact: access.machine.is_first_contact(),
            link: access.machine.link(),
            observed: access.machine.observed(),
            local,
        })
    }

    /// Trusted agents that there is a path to, in table order.
    pub fn peers(&self) -> Vec<PeerInfo> {
        let has_path = |peer: &PeerInfo| peer.path != PathKind::None;
        self.inner.driver.peek(|access| access.machine.peers().filter(has_path).collect())
    }

    /// What our grant lets this agent do here; `None` if it is not trusted.
    pub fn rights(&self, peer: Address) -> Option<Rights> {
        self.inner.driver.peek(|access| access.machine.rights(peer))
    }

    /// The streams that have a handle.
    pub fn connections(&self) -> Vec<Connection> {
        self.inner.driver.peek(|access| {
            let node = access.machine;
            let connection = |id| {
                let stream = node.stream(id)?;
                let (peer, local_port) = stream.addresses();
                Some(Connection { peer, local_port, is_open: stream.is_open() })
            };
            access.owner.hub.streams().filter_map(connection).collect()
        })
    }

    /// What was dropped, by reason.
    pub fn drops(&self) -> Drops {
        self.inner.driver.peek(|access| {
            let mut drops = access.machine.drops();
            drops.add(access.owner.hub.drops());
            drops
        })
    }

    /// What the sockets did.
    pub fn io_stats(&self) -> IoStats {
        self.inner.driver.io_stats()
    }

    /// News from now on. A receiver that is more than 256 events behind is told how many it
    /// has missed, and goes on with the oldest that is left.
    ///
    /// The first caller also gets what happened since `bind`; later ones what happens from now.
    pub fn events(&self) -> broadcast::Receiver<AgentEvent> {
        self.inner.driver.peek(|access| {
            let owner = access.owner;
            owner.early.take().unwrap_or_else(|| owner.events.subscribe())
        })
    }

    // ---- streams and datagrams ----

    /// Opens a stream to a port of an agent that has granted us trust. A hostname is looked
    /// up in the default network first.
    ///
    /// Waits until the peer has answered, at most for the 90 seconds after which it counts as
    /// unreachable. Dropping the future gives up the attempt.
    pub async fn connect(&self, to: impl Into<Target>, port: Port) -> Result<Stream, ConnectError> {
        let to = match to.into() {
            Target::Address(address) => address,
            by_name @ Target::Hostname(_) => {
                self.resolve(by_name, None).await.map_err(ConnectError::from_lookup)?.address
            }
        };
        let stream = self.inner.driver.with(|access| {
            let reply = access.machine.command(access.now, Command::Connect { to, port })?;
            let Reply::Stream(id) = reply else { return Err(CommandError::NotFound) };
            access.owner.hub.adopt(id);
            Ok(id)
        })?;
        // From here on dropping it releases the stream.
        let stream = Stream::new(&self.inner, stream);
        let open = poll_fn(|cx| {
            self.inner
                .driver
                .peek(|access| access.owner.hub.poll_open(access.machine, stream.id(), cx.waker()))
        });
        match open.await {
            Ok(()) => Ok(stream),
            Err(StreamError::Ended(end)) => Err(ConnectError::Failed(end)),
            Err(_) => Err(ConnectError::Failed(StreamEnd::Reset)),
        }
    }

    /// Accepts streams on a port; 0 takes a free one.
    pub fn listen(&self, port: Port) -> Result<Listener, ListenError> {
        let port = match self.command(Command::Listen { port })? {
            Reply::Port(port) => port,
            _ => port,
        };
        Ok(Listener::new(Arc::clone(&self.inner), port))
    }

    /// Sends and receives datagrams on a port; 0 takes a free one.
    pub fn datagrams(&self, port: Port) -> Result<Datagrams, DatagramsError> {
        let port = self
            .inner
            .driver
            .with(|access| access.owner.hub.bind_datagrams(access.machine, access.now, port))?;
        Ok(Datagrams::new(Arc::clone(&self.inner), port))
    }

    // ---- directory ----

    /// Joins a network.
    pub async fn join(&self, network: NetworkId) -> Result<(), DirectoryError> {
        self.request(Command::Join { network }).await.map(drop)
    }

    /// Leaves a network.
    pub async fn leave(&self, network: NetworkId) -> Result<(), DirectoryError> {
        self.request(Command::Leave { network }).await.map(drop)
    }

    /// Takes a hostname in a network; `None` is the default network.
    pub async fn set_hostname(
        &self,
        name: Hostname,
        network: Option<NetworkId>,
    ) -> Result<(), DirectoryError> {
        self.request(Command::SetHostname { name, network }).await.map(drop)
    }

    /// Gives the hostname back.
    pub async fn clear_hostname(&self, network: Option<NetworkId>) -> Result<(), DirectoryError> {
        self.request(Command::ClearHostname { network }).await.map(drop)
    }

    /// Whether strangers may find us; the default is that they may not.
    pub async fn set_visibility(&self, public: bool) -> Result<(), DirectoryError> {
        self.request(Command::SetVisibility { public }).await.map(drop)
    }

    /// Replaces our tags.
    pub async fn set_tags(&self, tags: Tags) -> Result<(), DirectoryError> {
        self.request(Command::SetTags { tags }).await.map(drop)
    }

    /// Looks an agent up.
    pub async fn resolve(
        &self,
        target: impl Into<Target>,
        network: Option<NetworkId>,
    ) -> Result<AgentInfo, DirectoryError> {
        match self.request(Command::Resolve { target: target.into(), network }).await? {
            Owned::Agent(agent) => Ok(*agent),
            _ => Err(RequestError::NotFound.into()),
        }
    }

    /// A page of public agents that have all of these tags, and the cursor of the next page if
    /// there is one. The first page has cursor 0.
    pub async fn discover(
        &self,
        tags: Tags,
        network: Option<NetworkId>,
        cursor: u64,
    ) -> Result<(Vec<AgentInfo>, Option<u64>), DirectoryError> {
        match self.request(Command::Discover { tags, network, cursor }).await? {
            Owned::Page(agents, next) => Ok((agents, next)),
            _ => Ok((Vec::new(), None)),
        }
    }

    /// Asks the registry and waits for its answer. Dropping the future forgets the question;
    /// it may have been carried out.
    async fn request(&self, command: Command<'_>) -> Result<Owned, DirectoryError> {
        let Reply::Request(id) = self.command(command)? else { return Ok(Owned::Done) };
        let mut asked = Asked { agent: &self.inner, id, ticket: Ticket::NONE, is_over: false };
        let answer = poll_fn(|cx| {
            self.inner.driver.peek(|access| {
                let hub = &mut access.owner.hub;
                let ticket = &mut asked.ticket;
                hub.poll_answer(access.machine, id, ticket, cx.waker(), Owned::from_answer)
            })
        })
        .await;
        asked.is_over = true;
        Ok(answer?)
    }

    // ---- trust ----

    /// Asks an agent for trust. Returns when the request is on its way; the answer comes as
    /// [`AgentEvent::TrustGranted`] or [`AgentEvent::TrustRefused`], perhaps days later. The
    /// justification is shown to whoever decides.
    pub fn request_trust(&self, to: Address, justification: &str) -> Result<(), TrustError> {
        let justification: Justification = justification.parse()?;
        Ok(self.command(Command::RequestTrust { to, justification }).map(drop)?)
    }

    /// Grants a pending request; trust is mutual then.
    pub fn approve_trust(&self, from: Address) -> Result<(), TrustError> {
        Ok(self.command(Command::ApproveTrust { from }).map(drop)?)
    }

    /// Refuses a pending request.
    pub fn refuse_trust(&self, from: Address) -> Result<(), TrustError> {
        Ok(self.command(Command::RefuseTrust { from }).map(drop)?)
    }

    /// Ends trust in an agent, and with it every session and stream.
    pub fn revoke_trust(&self, peer: Address) -> Result<(), TrustError> {
        Ok(self.command(Command::RevokeTrust { peer }).map(drop)?)
    }

    /// Trusted agents, whether there is a path to them or not.
    pub fn trusted(&self) -> Vec<PeerInfo> {
        self.inner.driver.peek(|access| access.machine.peers().collect())
    }

    /// Requests that wait for our decision.
    pub fn trust_requests(&self) -> Vec<TrustRequestInfo> {
        self.inner.driver.peek(|access| access.machine.trust_requests().collect())
    }

    /// Agents that we have asked and that have not answered.
    pub fn trust_outgoing(&self) -> Vec<Address> {
        self.inner.driver.peek(|access| access.machine.trust_outgoing().collect())
    }

    // ---- the end ----

    /// Ends the agent: tells its peers, makes the last changes durable, closes the sockets.
    /// Takes four seconds at most. Streams end with [`StreamEnd::Shutdown`]; wait for
    /// [`Stream::acknowledged`] before, where the peer has to have everything.
    pub async fn shutdown(&self) {
        self.inner.say_goodbye();
        let mut stored = self.inner.stored.clone();
        let before = *stored.borrow_and_update();
        self.inner.signals.store.notify_one();
        // Ended already, or a store that does not work: nothing more can be done for it.
        let _ = tokio::time::timeout(LINGER, stored.wait_for(|round| *round > before)).await;
        self.inner.driver.stop(LINGER);
        self.inner.driver.ended().await;
    }
}

/// A question that is forgotten when its future is dropped.
struct Asked<'a> {
    agent: &'a AgentInner,
    id: RequestId,
    ticket: Ticket,
    is_over: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.is_over || std::thread::panicking() {
            return;
        }
        self.agent.driver.peek(|access| {
            access.owner.hub.leave(&mut self.ticket);
            access.machine.forget(self.id);
        });
    }
}

/// An answer, out of the node.
enum Owned {
    Done,
    Agent(Box<AgentInfo>),
    Page(Vec<AgentInfo>, Option<u64>),
}

impl Owned {
    fn from_answer(answer: Answer<'_>) -> Self {
        match answer {
            Answer::Agent(agent) => Owned::Agent(Box::new(agent)),
            Answer::Page(page) => {
                let next = page.next_cursor();
                Owned::Page(page.collect(), next)
            }
            _ => Owned::Done,
        }
    }
}

impl ConnectError {
    fn from_lookup(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Command(error) => ConnectError::Command(error),
            DirectoryError::Request(error) => ConnectError::Resolve(error),
        }
    }
}
