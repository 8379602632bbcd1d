//! Preparing an agent.

use crate::agent::{Agent, AgentInner};
use crate::clock::Clock;
use crate::driver::{Sockets, UdpDriver};
use crate::error::StartError;
use crate::household::Household;
use crate::owner::{AgentNode, AgentOwner};
use crate::store::{MemoryStore, Store};
use pilot_core::crypto::aead::{AeadProvider, RUST_CRYPTO};
use pilot_core::crypto::identity::Identity;
use pilot_core::drive::{BEACON_PORT, Clock as _, HostPort, LocationError, RegistryLocation};
use pilot_core::limits::Limits;
use pilot_core::node::{Command, Config, PathPolicy};
use pilot_udp::BindOptions;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

/// An agent that is not running yet; see [`Agent::builder`].
pub struct Builder {
    identity: Identity,
    registry: Option<String>,
    beacon: Option<String>,
    sockets: BindOptions,
    config: Config,
    aead: &'static dyn AeadProvider,
    store: Box<dyn Store>,
    seed: Option<[u8; 32]>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("registry", &self.registry)
            .field("beacon", &self.beacon)
            .field("sockets", &self.sockets)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new(identity: Identity) -> Self {
        Builder {
            identity,
            registry: None,
            beacon: None,
            sockets: BindOptions::default(),
            config: Config::default(),
            aead: &RUST_CRYPTO,
            store: Box::new(MemoryStore::default()),
            seed: None,
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

    /// Binds the UDP socket to exactly this address. Default: all addresses.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.sockets.listen = Some(address);
        self
    }

    /// The UDP port on all addresses; another one if it is taken, unless an endpoint was
    /// given. Default: any.
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
    pub fn store(mut self, store: impl Store + 'static) -> Self {
        self.store = Box::new(store);
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

    /// Binds the sockets, reads the stored state and starts the agent's tasks on the current
    /// tokio runtime. Does not wait for the registry; [`Agent::ready`] does.
    pub async fn bind(mut self) -> Result<Agent, StartError> {
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
        let sockets = Sockets::bind(&self.sockets)?;
        let (store, facts) = load(self.store).await.map_err(StartError::Store)?;
        let seed = match self.seed {
            Some(seed) => seed,
            None => {
                let mut seed = [0; 32];
                getrandom::fill(&mut seed).map_err(StartError::Entropy)?;
                seed
            }
        };

        let clock = Clock::start();
        let owner = AgentOwner::new(&self.config.limits);
        let signals = Arc::clone(&owner.signals);
        let (now, unix) = (clock.now(), clock.unix());
        let mut node = AgentNode::boxed(self.config, self.identity, self.aead, seed, now, unix);
        for (key, value) in &facts {
            node.load(*key, value)?;
        }
        // Without a list of interfaces there are no host candidates, and the beacon still
        // tells peers where it sees us.
        let locals = sockets.candidates().unwrap_or_default();
        // Refused only after a shutdown.
        let _ = node.command(now, Command::NetworkChanged { locals: &locals });
        let driver = UdpDriver::spawn(node, owner, sockets, clock);
        let (household, stored) =
            Household::new(driver.clone(), Arc::clone(&signals), registry.at, beacon, locals);
        tokio::spawn(household.run(store));
        Ok(Agent::new(AgentInner { driver, signals, stored }))
    }
}

fn parse<T: FromStr<Err = LocationError>>(text: &str) -> Result<T, StartError> {
    text.parse().map_err(|source| StartError::Location { text: text.to_owned(), source })
}

type Facts = Vec<([u8; 8], Vec<u8>)>;

async fn load(mut store: Box<dyn Store>) -> io::Result<(Box<dyn Store>, Facts)> {
    let load = move || {
        let mut facts = Facts::new();
        store.load(&mut |key, value| facts.push((key, value.to_vec())))?;
        Ok((store, facts))
    };
    tokio::task::spawn_blocking(load).await.map_err(io::Error::other)?
}
