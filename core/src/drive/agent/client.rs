//! The handle of an agent in a runtime of futures.

use super::builder::Builder;
use super::datagrams::Datagrams;
use super::error::{ConnectError, DatagramsError, DirectoryError, ListenError, ReadyError};
use super::handle::{Handle, KeepAlive};
use super::listener::{Listener, Place};
use super::question::Answer;
use crate::addr::{Address, NetworkId, Port};
use crate::crypto::identity::Identity;
use crate::crypto::task::Receipt;
use crate::drive::runtime::AsyncRuntime;
use crate::drive::task::ended;
use crate::name::{Hostname, Tags};
use crate::node::{AgentInfo, Command, Reputation, Target};
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::ops::Deref;

/// An agent: one identity on the network. Clones are handles of the same agent.
///
/// The agent lives as long as a handle, stream, listener or datagram port of it; when the last
/// one is dropped, peers are told in the background. [`Agent::shutdown`] does the same and
/// waits.
///
/// What does not wait (how the agent stands, its peers, trust, news) stands at [`Handle`].
pub struct Agent<R: AsyncRuntime>(KeepAlive<R>);

impl<R: AsyncRuntime> Clone for Agent<R> {
    fn clone(&self) -> Self {
        Agent(self.0.clone())
    }
}

impl<R: AsyncRuntime> fmt::Debug for Agent<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").finish_non_exhaustive()
    }
}

impl<R: AsyncRuntime> Deref for Agent<R> {
    type Target = Handle<R>;

    fn deref(&self) -> &Handle<R> {
        &self.0
    }
}

impl<R: AsyncRuntime> Agent<R> {
    /// Prepares an agent with this identity.
    pub fn builder(identity: Identity) -> Builder<R> {
        Builder::new(identity)
    }

    pub(super) fn new(agent: KeepAlive<R>) -> Self {
        Agent(agent)
    }

    /// The agent, for those who wait by polls.
    pub fn keep_alive(&self) -> &KeepAlive<R> {
        &self.0
    }

    /// Waits until the registry has given or confirmed our address. There is no timeout: the
    /// agent keeps trying.
    pub async fn ready(&self) -> Result<Address, ReadyError> {
        let mut place = Place::new(&self.0);
        poll_fn(|cx| self.poll_ready(&mut place.ticket, cx.waker())).await
    }

    // ---- streams and datagrams ----

    /// Opens a stream to a port of an agent that has granted us trust. A hostname is looked
    /// up in the default network first.
    ///
    /// Waits until the peer has answered, at most for the 90 seconds after which it counts as
    /// unreachable. Dropping the future gives up the attempt.
    pub async fn connect(
        &self,
        to: impl Into<Target>,
        port: Port,
    ) -> Result<R::Stream, ConnectError> {
        let mut connecting = self.0.begin_connect_to(to, port)?;
        Ok(poll_fn(|cx| connecting.poll(cx.waker())).await?.into())
    }

    /// Accepts streams on a port; 0 takes a free one.
    pub fn listen(&self, port: Port) -> Result<Listener<R>, ListenError> {
        self.0.listen(port)
    }

    /// Sends and receives datagrams on a port; 0 takes a free one.
    pub fn datagrams(&self, port: Port) -> Result<Datagrams<R>, DatagramsError> {
        self.0.datagrams(port)
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
        self.request(Command::Resolve { target: target.into(), network }).await?.into_agent()
    }

    /// A page of public agents that have all of these tags, and the cursor of the next page if
    /// there is one. The first page has cursor 0.
    pub async fn discover(
        &self,
        tags: Tags,
        network: Option<NetworkId>,
        cursor: u64,
    ) -> Result<(Vec<AgentInfo>, Option<u64>), DirectoryError> {
        Ok(self.request(Command::Discover { tags, network, cursor }).await?.into_page())
    }

    /// Hands in the receipt of a finished task of ours. It may be repeated, and counts once: an
    /// agent keeps a receipt until this has succeeded, or was refused for good.
    pub async fn submit_receipt(&self, receipt: &Receipt) -> Result<(), DirectoryError> {
        self.request(Command::SubmitReceipt { receipt }).await.map(drop)
    }

    /// An agent's reputation: our own, a public agent's, or that of one that has granted us
    /// trust.
    pub async fn reputation(&self, of: Address) -> Result<Reputation, DirectoryError> {
        self.request(Command::Reputation { of }).await?.into_reputation()
    }

    /// Asks the registry and waits for its answer. Dropping the future forgets the question;
    /// it may have been carried out.
    async fn request(&self, command: Command<'_>) -> Result<Answer, DirectoryError> {
        let mut question = self.0.ask(command)?;
        poll_fn(|cx| question.poll_answer(cx.waker())).await
    }

    // ---- the end ----

    /// Ends the agent: tells its peers, makes the last changes durable, closes the sockets.
    /// Takes four seconds at most. Streams end with [`crate::node::StreamEnd::Shutdown`]; wait
    /// for a stream's `acknowledged` before, where the peer has to have everything.
    pub async fn shutdown(&self) {
        self.begin_shutdown();
        ended(self.shared()).await;
    }
}
