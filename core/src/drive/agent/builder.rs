//! Preparing an agent.

use super::client::Agent;
use super::error::StartError;
use super::handle::{Handle, KeepAlive};
use super::owner::{AgentNode, AgentOwner};
use super::store::{MemoryStore, Store};
use crate::crypto::aead::{AeadProvider, RUST_CRYPTO};
use crate::crypto::identity::Identity;
use crate::drive::Datagrams as _;
use crate::drive::household::{Errand, Facts, Household, Outcome};
use crate::drive::runtime::{AsyncRuntime, Host as _, Runtime, Sockets as _};
use crate::drive::shared::Shared;
use crate::drive::task::{Task, drive, keep};
use crate::drive::{
    BEACON_PORT, BindOptions, Clock as _, HostPort, LocationError, RegistryLocation,
};
use crate::limits::{DATAGRAM_DEFAULT, Limits};
use crate::node::{Command, Config, PathPolicy};
use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use core::future::poll_fn;
use core::marker::PhantomData;
use core::mem;
use core::str::FromStr;
use core::task::{Poll, Waker};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// An agent that is not running yet; see [`super::Agent::builder`].
pub struct Builder<R> {
    identity: Identity,
    registry: Option<String>,
    beacon: Option<String>,
    sockets: BindOptions,
    config: Config,
    aead: &'static dyn AeadProvider,
    store: Box<dyn Store>,
    seed: Option<[u8; 32]>,
    runtime: PhantomData<fn() -> R>,
}

impl<R> fmt::Debug for Builder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("registry", &self.registry)
            .field("beacon", &self.beacon)
            .field("sockets", &self.sockets)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl<R: Runtime> Builder<R> {
    /// An agent with this identity, and nothing else decided.
    pub fn new(identity: Identity) -> Self {
        Builder {
            identity,
            registry: None,
            beacon: None,
            sockets: BindOptions::default(),
            config: Config::default(),
            aead: &RUST_CRYPTO,
            store: Box::new(MemoryStore::default()),
            seed: None,
            runtime: PhantomData,
        }
    }

    /// The registry: `registry.example:9000`, optionally with `#` and its key in base32.
    /// Without a key, the first one shown is pinned. Required. The name is looked up anew for
    /// every connection.
    pub fn registry(mut self, location: impl Into<String>) -> Self {
        self.registry = Some(location.into());
        self
    }

    /// The beacon: `registry.example:9001`. Default: the registry's host and port 9001. The
    /// name is looked up anew whenever the link is lost.
    pub fn beacon(mut self, location: impl Into<String>) -> Self {
        self.beacon = Some(location.into());
        self
    }

    /// Binds the UDP socket to exactly this address. Default: all addresses. If its port is 0,
    /// another port of it may be bound later: see [`Builder::port`].
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.sockets.listen = Some(address);
        self
    }

    /// The UDP port on all addresses; another one if it is taken, or seems dead because neither
    /// beacon nor peers have been heard by it for 20 s (a router that was renumbered may keep a
    /// flow that leads nowhere), unless an endpoint was given or the beacon sees us at an address
    /// of ours. Default: any.
    pub fn port(mut self, port: u16) -> Self {
        self.sockets.port = port;
        self
    }

    /// The UDP address at which everybody can reach us. Unless [`Builder::listen`] or
    /// [`Builder::port`] says otherwise, its port is bound.
    pub fn endpoint(mut self, endpoint: SocketAddr) -> Self {
        self.config.endpoint = Some(endpoint);
        self
    }

    /// How much of everything the agent may hold.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Who encrypts. Default: RustCrypto's ciphers.
    pub fn aead(mut self, provider: &'static dyn AeadProvider) -> Self {
        self.aead = provider;
        self
    }

    /// Where durable state is kept. Default: in memory.
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Box::new(store);
        self
    }

    /// Never look for a peer's port by a birthday spray (`nat.md` 2): of all techniques the one
    /// that may look like a port scan to whoever watches the network. Pairs of which one end
    /// has random ports are relayed then. Default: allowed.
    #[must_use]
    pub fn forbid_spray(mut self, forbid: bool) -> Self {
        self.config.forbid_spray = forbid;
        self
    }

    /// Which paths may be used.
    pub fn path_policy(mut self, policy: PathPolicy) -> Self {
        self.config.path_policy = policy;
        self
    }

    /// Refuse a registry whose key is neither given nor pinned.
    pub fn forbid_first_use(mut self, forbid: bool) -> Self {
        self.config.forbid_first_use = forbid;
        self
    }

    /// Take the identity over from another home.
    pub fn takeover(mut self, takeover: bool) -> Self {
        self.config.takeover = takeover;
        self
    }

    /// The seed of all random choices. Default: from the operating system. **Never the same
    /// twice** outside of tests: ephemeral keys come from it.
    pub fn seed(mut self, seed: [u8; 32]) -> Self {
        self.seed = Some(seed);
        self
    }

    // ---- the start, step by step ----

    /// Checks what was given and binds the sockets.
    fn prepare(mut self) -> Result<Prepared<R>, StartError> {
        let registry: RegistryLocation =
            parse(self.registry.as_ref().ok_or(StartError::NoRegistry)?)?;
        let beacon = match &self.beacon {
            Some(text) => parse(text)?,
            None => HostPort { host: registry.at.host.clone(), port: Some(BEACON_PORT) },
        };
        if let Some(endpoint) = self.config.endpoint {
            self.sockets.is_port_fixed = true;
            if self.sockets.port == 0 {
                self.sockets.port = endpoint.port();
            }
        }
        self.config.registry_key = registry.key;
        // A port that is only preferred is replaced if it is dead, as it is if it is taken.
        self.config.keep_port = self.sockets.listen.is_some_and(|address| address.port() != 0);
        let sockets = R::Sockets::bind(&self.sockets)?;
        Ok(Prepared { builder: self, registry: registry.at, beacon, sockets })
    }

    /// Binds the sockets, reads the stored state on this thread, and makes the agent. Nothing
    /// runs yet: the caller makes the turns ([`Shared::turn`]) and keeps the household
    /// ([`Household::attend`]), each with a waker of its own.
    ///
    /// For adapters whose runtime has no tasks; `host` is a clock that has just been started.
    pub fn start<L: io::Read + io::Write>(
        self,
        host: R::Host,
    ) -> Result<Started<R, L>, StartError> {
        let mut prepared = self.prepare()?;
        let store = mem::replace(&mut prepared.builder.store, Box::new(MemoryStore::default()));
        let (store, facts) = load(store).map_err(StartError::Store)?;
        prepared.start(host, store, facts)
    }

    /// Binds the sockets, reads the stored state and starts the agent's tasks as the runtime
    /// does by default ([`AsyncRuntime::spawn`]). Does not wait for the registry;
    /// [`Agent::ready`] does.
    pub async fn bind(self) -> Result<Agent<R>, StartError>
    where
        R: AsyncRuntime,
        R::Host: Default,
    {
        let (agent, turns, household) = self.tasks().await?;
        R::spawn(turns);
        R::spawn(household);
        Ok(agent)
    }

    /// [`Builder::bind`] with the choice of who runs the agent's tasks: `spawn` is called with
    /// each of the two. They end by themselves, and the agent ends if they are dropped.
    pub async fn bind_with(self, mut spawn: impl FnMut(Task)) -> Result<Agent<R>, StartError>
    where
        R: AsyncRuntime,
        R::Host: Default,
    {
        let (agent, turns, household) = self.tasks().await?;
        spawn(Box::pin(turns));
        spawn(Box::pin(household));
        Ok(agent)
    }

    /// The agent and its tasks, not yet running.
    async fn tasks(
        self,
    ) -> Result<
        (
            Agent<R>,
            impl Future<Output = ()> + Send + use<R>,
            impl Future<Output = ()> + Send + use<R>,
        ),
        StartError,
    >
    where
        R: AsyncRuntime,
        R::Host: Default,
    {
        let host = R::Host::default();
        let mut prepared = self.prepare()?;
        let store = mem::replace(&mut prepared.builder.store, Box::new(MemoryStore::default()));
        let (store, facts) = loaded(&host, store).await.map_err(StartError::Store)?;
        let Started { agent, household } = prepared.start::<R::Line>(host, store, facts)?;
        let turns = drive(Arc::clone(agent.shared()));
        let household = keep(household, Handle::clone(&agent));
        Ok((Agent::new(agent), turns, household))
    }
}

/// An agent that nobody drives yet.
#[derive(Debug)]
pub struct Started<R: Runtime, L> {
    /// The agent.
    pub agent: KeepAlive<R>,
    /// Its household.
    pub household: Household<L>,
}

/// Bound, and its state not yet loaded.
struct Prepared<R: Runtime> {
    builder: Builder<R>,
    registry: HostPort,
    beacon: HostPort,
    sockets: R::Sockets,
}

impl<R: Runtime> Prepared<R> {
    fn start<L: io::Read + io::Write>(
        self,
        host: R::Host,
        store: Box<dyn Store>,
        facts: Facts,
    ) -> Result<Started<R, L>, StartError> {
        let Prepared { builder, registry, beacon, sockets } = self;
        let seed = builder.seed.or_else(|| host.entropy()).ok_or(StartError::Entropy)?;
        let owner = AgentOwner::new(&builder.config.limits);
        let (now, reading) = (host.now(), host.reading());
        let Builder { mut config, identity, aead, .. } = builder;
        if sockets.may_fragment() {
            config.limits.datagram = config.limits.datagram.min(DATAGRAM_DEFAULT);
        }
        let mut node = AgentNode::boxed(config, identity, aead, seed, now, reading.unix);
        for (key, value) in &facts {
            node.load(*key, value)?;
        }
        node.start(now);
        // Without a list of interfaces there are no host candidates, and the beacon still
        // tells peers where it sees us.
        let locals = sockets.candidates().unwrap_or_default();
        // Refused only after a shutdown.
        let _ = node.command(now, Command::NetworkChanged { locals: &locals });
        let handle = Handle::new(Arc::new(Shared::new(node, owner, sockets, host)));
        let household = Household::new(registry, beacon, store, locals, reading);
        Ok(Started { agent: KeepAlive::new(handle), household })
    }
}

fn parse<T: FromStr<Err = LocationError>>(text: &str) -> Result<T, StartError> {
    text.parse().map_err(|source| StartError::Location { text: text.to_owned(), source })
}

/// Reads all that is stored; blocks.
pub fn load(mut store: Box<dyn Store>) -> io::Result<(Box<dyn Store>, Facts)> {
    let mut facts = Facts::new();
    store.load(&mut |key, value| facts.push((key, value.to_vec())))?;
    Ok((store, facts))
}

/// Where the loading thread leaves what it has read.
#[derive(Default)]
struct Desk {
    loaded: Option<io::Result<(Box<dyn Store>, Facts)>>,
    waker: Option<Waker>,
}

/// The thread's side of it; dropped without a result if the store panics.
struct Loader(Arc<Mutex<Desk>>);

impl Loader {
    fn leave(&self, loaded: io::Result<(Box<dyn Store>, Facts)>) {
        let waker = {
            let mut desk = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            desk.loaded.get_or_insert(loaded);
            desk.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.leave(Err(io::Error::other("the store has panicked")));
    }
}

/// [`load`] on a thread where it may block.
async fn loaded(
    host: &impl crate::drive::runtime::Host,
    store: Box<dyn Store>,
) -> io::Result<(Box<dyn Store>, Facts)> {
    let desk = Arc::<Mutex<Desk>>::default();
    let loader = Loader(Arc::clone(&desk));
    host.carry_out(Errand::Load(store), move |outcome| {
        if let Outcome::Loaded(loaded) = outcome {
            loader.leave(loaded);
        }
    });
    poll_fn(|cx| {
        let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
        match desk.loaded.take() {
            Some(loaded) => Poll::Ready(loaded),
            None => {
                desk.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    })
    .await
}
