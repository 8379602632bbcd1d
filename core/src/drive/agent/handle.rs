//! The handle of an agent in any runtime: everything that does not wait.

use super::connecting::Connecting;
use super::datagrams::Datagrams;
use super::error::{ConnectError, DatagramsError, DirectoryError, ListenError, TrustError};
use super::events::Events;
use super::listener::Listener;
use super::owner::{AgentNode, AgentOwner};
use super::question::Question;
use super::stream::StreamHandle;
use crate::addr::{Address, NetworkId, Port, SocketAddress};
use crate::crypto::Rights;
use crate::crypto::identity::IdentityKey;
use crate::crypto::task::{Claim, Head, NotSigned, Receipt, Statement, StatementFields, Times};
use crate::drive::IoStats;
use crate::drive::household::{Chores, Outcome};
use crate::drive::runtime::Runtime;
use crate::drive::shared::{Access, Shared};
use crate::drive::waiters::Ticket;
use crate::name::{Hostname, Justification, Tags};
use crate::node::{
    Command, CommandError, Link, NatInfo, PathKind, PathReport, PeerInfo, Reply, SignError, Target,
    TrustRequestInfo,
};
use crate::service::tasks::Signer;
use crate::stats::Drops;
use crate::time::Duration;
use crate::trust;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;
use core::task::Poll;
use std::net::SocketAddr;
use std::sync::Arc;

/// How long the last packets may take: goodbyes to peers, durable changes.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

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
    /// What the NATs in front of us do, as far as the beacon could tell (RFC 5780).
    pub nat: NatInfo,
    /// What the UDP sockets are bound to.
    pub local: Vec<SocketAddr>,
    /// The addresses at which this host may be reached, best first.
    pub candidates: Vec<SocketAddr>,
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

/// What one can do with an agent without waiting, in any runtime. It does not keep the agent
/// alive; [`KeepAlive`] does.
pub struct Handle<R: Runtime> {
    shared: Arc<Shared<AgentNode, AgentOwner<R::Waker>, R>>,
}

impl<R: Runtime> Clone for Handle<R> {
    fn clone(&self) -> Self {
        Handle { shared: Arc::clone(&self.shared) }
    }
}

impl<R: Runtime> fmt::Debug for Handle<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl<R: Runtime> Handle<R> {
    pub(super) fn new(shared: Arc<Shared<AgentNode, AgentOwner<R::Waker>, R>>) -> Self {
        Handle { shared }
    }

    // ---- for adapters ----

    /// The agent's machine, sockets and lock, for the adapter that makes the turns.
    pub fn shared(&self) -> &Arc<Shared<AgentNode, AgentOwner<R::Waker>, R>> {
        &self.shared
    }

    /// [`Shared::with`], for operations of this module only.
    pub(crate) fn with<T>(
        &self,
        call: impl FnOnce(Access<'_, AgentNode, AgentOwner<R::Waker>>) -> T,
    ) -> T {
        self.shared.with(call)
    }

    /// [`Shared::peek`], likewise.
    pub(crate) fn peek<T>(
        &self,
        call: impl FnOnce(Access<'_, AgentNode, AgentOwner<R::Waker>>) -> T,
    ) -> T {
        self.shared.peek(call)
    }

    pub(super) fn command(&self, command: Command<'_>) -> Result<Reply, CommandError> {
        self.with(|access| access.machine.command(access.now, command))
    }

    /// What the household has to do; `waker` is woken when there is more.
    pub(crate) fn chores(&self, waker: &R::Waker, outcomes: &mut Vec<Outcome>) -> Chores {
        self.peek(|access| access.owner.attend(waker, outcomes))
    }

    // ---- standing ----

    /// Our backbone address, once known.
    pub fn address(&self) -> Option<Address> {
        self.peek(|access| access.machine.address())
    }

    /// Whether the registry has given or confirmed our address; if neither that nor the
    /// opposite is known yet, `waker` is woken then.
    pub fn poll_ready(
        &self,
        ticket: &mut Ticket,
        waker: &R::Waker,
    ) -> Poll<Result<Address, super::ReadyError>> {
        self.peek(|access| access.owner.hub.poll_registered(ticket, waker))
    }

    /// Gives back a place among those who wait: of [`Handle::poll_ready`],
    /// [`Listener::poll_accept`] and [`Datagrams::poll_recv`].
    pub fn leave(&self, ticket: &mut Ticket) {
        if *ticket != Ticket::NONE {
            self.shared.peek_unless_broken(|access| access.owner.hub.leave(ticket));
        }
    }

    /// How the agent stands.
    pub fn info(&self) -> Info {
        let local = self.shared.local_addresses();
        self.peek(|access| Info {
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
            nat: access.machine.nat(),
            local,
            candidates: access.machine.host_candidates().to_vec(),
        })
    }

    /// Trusted agents that there is a path to, in table order.
    pub fn peers(&self) -> Vec<PeerInfo> {
        let has_path = |peer: &PeerInfo| peer.path != PathKind::None;
        self.peek(|access| access.machine.peers().filter(has_path).collect())
    }

    /// Why packets to a peer travel as they do: the paths there are, what was tried to get off
    /// the relay, and what comes next; `None` for an agent that is not trusted.
    pub fn why(&self, peer: Address) -> Option<PathReport> {
        self.peek(|access| access.machine.why(peer))
    }

    /// What our grant lets this agent do here; `None` if it is not trusted.
    pub fn rights(&self, peer: Address) -> Option<Rights> {
        self.peek(|access| access.machine.rights(peer))
    }

    /// The streams that have a handle.
    pub fn connections(&self) -> Vec<Connection> {
        self.peek(|access| {
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
        self.peek(|access| {
            let mut drops = access.machine.drops();
            drops.add(access.owner.hub.drops());
            drops
        })
    }

    /// What the sockets did.
    pub fn io_stats(&self) -> IoStats {
        self.shared.io_stats()
    }

    /// News from now on. A receiver that is more than 256 events behind is told how many it
    /// has missed, and goes on with the oldest that is left.
    ///
    /// The first caller also gets what happened since `bind`; later ones what happens from now.
    pub fn events(&self) -> Events<R> {
        Events::new(self.clone())
    }

    // ---- tasks ----

    /// The registry's key, given or pinned: what statements and receipts are verified for.
    pub fn registry_key(&self) -> Option<IdentityKey> {
        self.peek(|access| access.machine.registry_key())
    }

    /// Signs our step of a task.
    pub fn sign_statement(&self, fields: StatementFields) -> Result<Statement, SignError> {
        self.peek(|access| access.machine.sign_statement(fields))
    }

    /// Signs the worker's half of the receipt of a task that we have ended.
    pub fn sign_claim(&self, head: &Head, times: Times) -> Result<Claim, SignError> {
        self.peek(|access| access.machine.sign_claim(head, times))
    }

    /// Signs the receipt of a task that another has ended for us, if the worker's half is its
    /// and of this task.
    pub fn sign_receipt(
        &self,
        head: &Head,
        claim: &Claim,
        times: Times,
    ) -> Result<Receipt, SignError> {
        self.peek(|access| access.machine.sign_receipt(head, claim, times))
    }

    // ---- trust ----

    /// Asks an agent for trust. Returns when the request is on its way; the answer comes as
    /// [`super::AgentEvent::TrustGranted`] or [`super::AgentEvent::TrustRefused`], perhaps days later. The
    /// justification is shown to whoever decides.
    pub fn request_trust(&self, to: Address, justification: &str) -> Result<(), TrustError> {
        let justification: Justification = justification.parse()?;
        Ok(self.command(Command::RequestTrust { to, justification }).map(drop)?)
    }

    /// Grants a pending request, with all rights; trust is mutual then.
    pub fn approve_trust(&self, from: Address) -> Result<(), TrustError> {
        self.approve_trust_for(from, trust::Permissions::ALL)
    }

    /// Grants a pending request, with these rights alone; trust is mutual then.
    pub fn approve_trust_for(
        &self,
        from: Address,
        permissions: trust::Permissions,
    ) -> Result<(), TrustError> {
        Ok(self.command(Command::ApproveTrust { from, permissions }).map(drop)?)
    }

    /// Changes what a trusted agent may do here. Streams that it has opened to ports which it
    /// may reach no more are reset at once. [`PeerInfo::permissions`] shows what holds.
    pub fn set_permissions(
        &self,
        peer: Address,
        permissions: trust::Permissions,
    ) -> Result<(), TrustError> {
        Ok(self.command(Command::SetPermissions { peer, permissions }).map(drop)?)
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
        self.peek(|access| access.machine.peers().collect())
    }

    /// Requests that wait for our decision.
    pub fn trust_requests(&self) -> Vec<TrustRequestInfo> {
        self.peek(|access| access.machine.trust_requests().collect())
    }

    /// Agents that we have asked and that have not answered.
    pub fn trust_outgoing(&self) -> Vec<Address> {
        self.peek(|access| access.machine.trust_outgoing().collect())
    }

    // ---- the end ----

    /// Whether the agent has ended: its sockets are closed and nothing happens any more.
    pub fn is_ended(&self) -> bool {
        self.shared.is_ended()
    }

    /// Waits for the end.
    pub fn poll_ended(&self, ticket: &mut Ticket, waker: &R::Waker) -> Poll<()> {
        self.shared.poll_ended(ticket, waker)
    }

    /// Begins the end: tells peers, makes the last changes durable, then closes the sockets.
    /// [`Handle::is_ended`] holds after four seconds at most. Streams end with
    /// [`crate::node::StreamEnd::Shutdown`].
    pub fn begin_shutdown(&self) {
        self.say_goodbye();
        self.peek(|access| access.owner.demand(|chores| chores.leave = true));
    }

    fn say_goodbye(&self) {
        // An agent without peers has nobody to say goodbye to.
        let _ = self.command(Command::Shutdown);
    }
}

/// A board of tasks has the agent itself sign for it.
impl<R: Runtime> Signer for Handle<R> {
    fn sign_statement(&self, fields: StatementFields) -> Result<Statement, NotSigned> {
        Handle::sign_statement(self, fields).map_err(not_signed)
    }

    fn sign_claim(&self, head: &Head, times: Times) -> Result<Claim, NotSigned> {
        Handle::sign_claim(self, head, times).map_err(not_signed)
    }

    fn sign_receipt(&self, head: &Head, claim: &Claim, times: Times) -> Result<Receipt, NotSigned> {
        Handle::sign_receipt(self, head, claim, times).map_err(not_signed)
    }
}

fn not_signed(error: SignError) -> NotSigned {
    match error {
        SignError::NotSigned(error) => error,
        SignError::NotRegistered | SignError::Fenced => NotSigned::Unavailable,
    }
}

struct Guard<R: Runtime>(Handle<R>);

impl<R: Runtime> Drop for Guard<R> {
    fn drop(&mut self) {
        let shared = &self.0.shared;
        shared.with_unless_broken(|access| {
            // An agent without peers has nobody to say goodbye to.
            let _ = access.machine.command(access.now, Command::Shutdown);
            access.owner.demand(|chores| chores.leave = true);
        });
        // The household stops it once everything is stored, unless there is none any more.
        shared.stop_at_last(LINGER * 2);
    }
}

/// A [`Handle`] that keeps the agent alive. When the last one is dropped, peers are told in
/// the background and the agent ends.
pub struct KeepAlive<R: Runtime>(Arc<Guard<R>>);

impl<R: Runtime> Clone for KeepAlive<R> {
    fn clone(&self) -> Self {
        KeepAlive(Arc::clone(&self.0))
    }
}

impl<R: Runtime> fmt::Debug for KeepAlive<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepAlive").finish_non_exhaustive()
    }
}

impl<R: Runtime> Deref for KeepAlive<R> {
    type Target = Handle<R>;

    fn deref(&self) -> &Handle<R> {
        &self.0.0
    }
}

impl<R: Runtime> KeepAlive<R> {
    pub(super) fn new(handle: Handle<R>) -> Self {
        KeepAlive(Arc::new(Guard(handle)))
    }

    /// Accepts streams on a port; 0 takes a free one.
    pub fn listen(&self, port: Port) -> Result<Listener<R>, ListenError> {
        let port = match self.command(Command::Listen { port })? {
            Reply::Port(port) => port,
            _ => port,
        };
        Ok(Listener::new(self.clone(), port))
    }

    /// Sends and receives datagrams on a port; 0 takes a free one.
    pub fn datagrams(&self, port: Port) -> Result<Datagrams<R>, DatagramsError> {
        let port =
            self.with(|access| access.owner.hub.bind_datagrams(access.machine, access.now, port))?;
        Ok(Datagrams::new(self.clone(), port))
    }

    /// Begins to open a stream to a port of an agent that has granted us trust;
    /// [`StreamHandle::poll_open`] tells when that is over, at most after the 90 seconds for
    /// which an unreachable peer is tried. Dropping the handle gives up the attempt.
    pub fn begin_connect(&self, to: Address, port: Port) -> Result<StreamHandle<R>, ConnectError> {
        let stream = self.with(|access| {
            let reply = access.machine.command(access.now, Command::Connect { to, port })?;
            let Reply::Stream(id) = reply else { return Err(CommandError::NotFound) };
            access.owner.hub.adopt(id);
            Ok(id)
        })?;
        Ok(StreamHandle::new(self, stream))
    }

    /// The same, to an address or a hostname; that is looked up in the default network first.
    pub fn begin_connect_to(
        &self,
        to: impl Into<Target>,
        port: Port,
    ) -> Result<Connecting<R>, ConnectError> {
        Connecting::new(self, to.into(), port)
    }

    /// Asks the registry; the answer is waited for with [`Question::poll_answer`]. Dropping the
    /// question forgets it; it may have been carried out.
    ///
    /// `command` is one of the directory's: join, leave, hostnames, visibility, tags, resolve,
    /// discover, receipts, reputation.
    pub fn ask(&self, command: Command<'_>) -> Result<Question<R>, DirectoryError> {
        Question::ask(self, command)
    }
}
