//! The running server: machine, sockets, store and export.

mod engine;
mod exporter;
mod registry;

use crate::commit::Store;
use crate::export::ExportError;
use crate::files::Files;
use crate::key;
use crate::open::{self, OpenError, Registry};
use crate::store::{Opened, Opener, StoreError, open_file};
use engine::{Engine, Switchboard};
use exporter::Exporter;
use pilot_core::crypto::aead::RUST_CRYPTO;
use pilot_core::crypto::identity::{Fingerprint, IdentityKey};
use pilot_core::drive::{Clock as _, IoStats};
use pilot_core::machine::SocketId;
use pilot_core::rendezvous::{
    Alternate, Change, Rendezvous, RendezvousConfig, RendezvousLimits, RendezvousStats, RowError,
};
use pilot_core::stats::Drops;
use pilot_core::time::Duration;
use pilot_core::wire::registry::BEACONS_MAX;
use pilot_tokio::{BindError, BindOptions, Clock, Sockets, UdpDriver};
use registry::Phase;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often the export follows the store, at most.
pub const EXPORT_INTERVAL: Duration = Duration::from_secs(300);
/// How often the wall clock is read anew: clocks are set while a server runs.
const WALL_CLOCK: Duration = Duration::from_secs(60);
/// How long a stop waits for commits under way, and for answers to go out.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the beacon's last packets may take.
const LINGER: Duration = Duration::from_millis(200);
/// Bytes of the beacon's socket buffers: a relay's bursts.
const SOCKET_BUFFER: usize = 8 << 20;

/// The beacon's second address and second port; all four combinations are bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AlternateBeacon {
    /// Another address of this host than the beacon's, which must not be a wildcard either,
    /// and another port; 0 is any port.
    pub listen: SocketAddr,
    /// How agents see that address, where it is translated (as clouds do).
    pub advertised: Option<IpAddr>,
}

/// What an operator decides.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where the registry listens (TCP). Exactly this address; port 0 is any port, `[::]`
    /// takes IPv4, too.
    pub registry_addr: SocketAddr,
    /// Where the beacon listens (UDP), likewise.
    pub beacon_addr: SocketAddr,
    /// A second address and port of this host for the beacon (`--beacon-alt-addr`), by which
    /// agents can tell what kind of NAT they are behind (RFC 5780).
    pub beacon_alt: Option<AlternateBeacon>,
    /// Where agents reach the beacon, best first; at most 4 are told to them. Empty: the
    /// beacon's own address or, if that is a wildcard, the addresses of this host.
    pub advertised: Vec<SocketAddr>,
    /// `--persist`: the export's path; store and key lie beside it (see [`Files`]).
    pub persist: PathBuf,
    /// How much of everything the server holds.
    pub limits: RendezvousLimits,
    /// Make a new identity for a registry whose key file is lost.
    pub new_key: bool,
    /// How often the export follows the store, at most; [`EXPORT_INTERVAL`].
    pub export_interval: Duration,
}

impl ServerConfig {
    /// The default ports on all IPv4 addresses, the default limits.
    pub fn new(persist: impl Into<PathBuf>) -> Self {
        ServerConfig {
            registry_addr: SocketAddr::from(([0, 0, 0, 0], 9000)),
            beacon_addr: SocketAddr::from(([0, 0, 0, 0], 9001)),
            beacon_alt: None,
            advertised: Vec::new(),
            persist: persist.into(),
            limits: RendezvousLimits::server(),
            new_key: false,
            export_interval: EXPORT_INTERVAL,
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Its files.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A row of the store cannot be read.
    #[error("{path}: {source}")]
    Row {
        /// The store.
        path: PathBuf,
        /// Why not.
        source: RowError,
    },
    /// The registry's address.
    #[error("the registry cannot listen on {address}: {source}")]
    Registry {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The beacon's address.
    #[error("the beacon cannot be bound: {0}")]
    Beacon(#[from] BindError),
    /// Two beacon addresses that are not two.
    #[error(
        "a beacon with two addresses needs two different ones of one family and two ports, \
         not {main} and {alternate}"
    )]
    Alternate {
        /// The beacon's address.
        main: SocketAddr,
        /// The second one.
        alternate: SocketAddr,
    },
    /// An advertised address that nobody can send to.
    #[error("agents cannot be told to send to {0}: it needs an address and a port")]
    Advertised(SocketAddr),
    /// The system has no random numbers, or not even an address.
    #[error(transparent)]
    System(io::Error),
}

impl StartError {
    /// Whether another server has the registry open (pilotctl's exit code 8).
    pub fn is_in_use(&self) -> bool {
        matches!(self, StartError::Open(error) if error.is_in_use())
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        StartError::Open(error.into())
    }
}

/// What a server counts. Counters start at zero with the server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerStats {
    /// The machine's.
    pub rendezvous: RendezvousStats,
    /// Datagrams and connections that were dropped, by reason.
    pub drops: Drops,
    /// The beacon's socket.
    pub io: IoStats,
    /// TCP connections that are open now, those about to be closed included.
    pub connections: usize,
    /// Transactions that are on disk.
    pub transactions: u64,
    /// Transactions that failed; the disk needs attention if this rises.
    pub failed_transactions: u64,
}

/// What the tasks of a server share.
pub(crate) struct Shared {
    driver: UdpDriver<Engine, Switchboard>,
    store: Arc<Store>,
}

/// A running server. [`Server::shutdown`] stops it in good order; dropping it ends its tasks
/// and, once they are gone, writes what the store has queued, but no export.
pub struct Server {
    shared: Arc<Shared>,
    exporter: Arc<Exporter>,
    phase: watch::Sender<Phase>,
    tasks: Vec<JoinHandle<()>>,
    registry_addr: SocketAddr,
    beacon: SocketAddr,
    advertised: Vec<SocketAddr>,
    key: IdentityKey,
    files: Files,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("registry", &self.registry_addr)
            .field("beacon", &self.beacon)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Opens the registry, binds the sockets and serves. Must be called within a tokio
    /// runtime. A registry of a million agents takes seconds to load.
    pub async fn start(config: ServerConfig) -> Result<Server, StartError> {
        Server::start_on(config, Arc::new(open_file)).await
    }

    /// The same on a disk of the caller's choice.
    pub(crate) async fn start_on(
        config: ServerConfig,
        opener: Opener,
    ) -> Result<Server, StartError> {
        let clock = Clock::start();
        let files = Files::beside(&config.persist);
        // First of all: who has the store open has the ports, too, and is the better reason.
        let registry = {
            let (files, new_key) = (files.clone(), config.new_key);
            blocking(move || open::open(&files, new_key, clock.unix(), opener)).await?
        };
        let listener = registry::listen(config.registry_addr)
            .map_err(|source| StartError::Registry { address: config.registry_addr, source })?;
        let registry_addr = listener.local_addr().map_err(StartError::System)?;
        let mut sockets = Sockets::bind(&BindOptions {
            listen: Some(config.beacon_addr),
            is_port_fixed: true,
            buffer_bytes: SOCKET_BUFFER,
            ..BindOptions::default()
        })?;
        let beacon = sockets.local_addresses().next().unwrap_or(config.beacon_addr);
        let advertised = advertised(&config.advertised, beacon, &sockets)?;
        let alternate = match config.beacon_alt {
            Some(alternate) => Some(bind_alternate(&mut sockets, beacon, &advertised, alternate)?),
            None => None,
        };

        let machine = RendezvousConfig {
            limits: config.limits.clone(),
            beacon: advertised.iter().copied().collect(),
            beacon_serial: registry.keys.serial,
            alternate,
        };
        let (rendezvous, opened) = blocking(move || load(machine, registry, clock)).await?;
        let key = rendezvous.identity();
        let (driver, store) = assemble(rendezvous, opened, sockets, clock)?;
        let exporter =
            Arc::new(Exporter::new(Arc::clone(&store), files.export.clone(), key, clock));
        let shared = Arc::new(Shared { driver, store });
        let phase = watch::Sender::new(Phase::Serve);
        registry::spawn(Arc::clone(&shared), listener, phase.subscribe())
            .map_err(StartError::System)?;
        let tasks = vec![
            tokio::spawn(Arc::clone(&exporter).run(config.export_interval)),
            tokio::spawn(follow_wall_clock(Arc::clone(&shared))),
        ];
        tracing::info!(registry = %registry_addr, %beacon, fingerprint = %Fingerprint::of(&key),
            "the rendezvous serves");
        Ok(Server { shared, exporter, phase, tasks, registry_addr, beacon, advertised, key, files })
    }

    /// Where the registry listens.
    pub fn registry_addr(&self) -> SocketAddr {
        self.registry_addr
    }

    /// Where the beacon listens.
    pub fn beacon_addr(&self) -> SocketAddr {
        self.beacon
    }

    /// What agents are told about where the beacon is.
    pub fn advertised(&self) -> &[SocketAddr] {
        &self.advertised
    }

    /// The identity that agents pin.
    pub fn key(&self) -> IdentityKey {
        self.key
    }

    /// The fingerprint of [`Server::key`], for people to compare.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.key)
    }

    /// The registry's files.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Counters and gauges.
    pub fn stats(&self) -> ServerStats {
        let (rendezvous, drops, connections) = self.shared.driver.peek(|access| {
            let rendezvous = &access.machine.rendezvous;
            (rendezvous.stats(), rendezvous.drops().clone(), access.owner.len())
        });
        ServerStats {
            rendezvous,
            drops,
            io: self.shared.driver.io_stats(),
            connections,
            transactions: self.shared.store.transactions(),
            failed_transactions: self.shared.store.failures(),
        }
    }

    /// Writes the export now.
    pub async fn export(&self) -> Result<(), ExportError> {
        self.exporter.export(false).await
    }

    /// Stops in good order: takes no more requests, waits for the commits under way and the
    /// answers to them (5 s each at most), closes all connections, writes the export if the
    /// registry has changed, and closes the store.
    pub async fn shutdown(self) -> Result<(), ExportError> {
        let driver = &self.shared.driver;
        self.phase.send_replace(Phase::Drain);
        wait_until(|| !driver.peek(|access| access.machine.is_committing)).await;
        self.phase.send_replace(Phase::Close);
        wait_until(|| driver.peek(|access| access.owner.len()) == 0).await;
        driver.stop(LINGER);
        driver.ended().await;
        self.tasks.iter().for_each(JoinHandle::abort);
        let exported = self.exporter.export(true).await;
        let store = Arc::clone(&self.shared.store);
        blocking(move || store.close()).await;
        exported
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Close);
        self.tasks.iter().for_each(JoinHandle::abort);
        self.shared.driver.stop(Duration::ZERO);
        // The store's thread calls the driver: it must not be waited for within a call of it.
        let store = self.shared.driver.peek(|access| access.machine.store.take());
        drop(store);
    }
}

/// Runs `work` where it may block; a panic goes on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Looks again and again, for [`DRAIN`] at most.
async fn wait_until(is_done: impl Fn() -> bool) {
    let look = async {
        while !is_done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let _ = tokio::time::timeout(DRAIN, look).await;
}

/// Tells the machine what the wall clock shows, and mixes fresh entropy in.
async fn follow_wall_clock(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(WALL_CLOCK).await;
        let unix = shared.driver.clock().unix();
        // Fresh entropy as long as there is some; what there was goes on otherwise.
        let entropy = key::random();
        shared.driver.peek(|access| {
            access.machine.rendezvous.set_wall_clock(access.now, unix);
            if let Ok(entropy) = entropy {
                access.machine.rendezvous.reseed(entropy);
            }
        });
    }
}

/// The machine with everything that is stored.
fn load(
    config: RendezvousConfig,
    registry: Registry,
    clock: Clock,
) -> Result<(Rendezvous, Opened), StartError> {
    let Registry { store, keys } = registry;
    let seed = key::random().map_err(StartError::System)?;
    let (now, unix) = (clock.now(), clock.unix());
    let mut rendezvous =
        Rendezvous::new(config, keys.identity, keys.tunnel, &RUST_CRYPTO, seed, now, unix);
    store.read(|table, key, value| {
        let change = Change { table, key: key.to_vec(), value: Some(value.to_vec()) };
        rendezvous
            .apply(&change)
            .map_err(|source| StartError::Row { path: store.path.clone(), source })
    })?;
    Ok((rendezvous, store))
}

/// Ties the machine's driver and the store's thread to each other.
fn assemble(
    rendezvous: Rendezvous,
    opened: Opened,
    sockets: Sockets,
    clock: Clock,
) -> Result<(UdpDriver<Engine, Switchboard>, Arc<Store>), StartError> {
    let engine = Engine { rendezvous, store: None, is_committing: false };
    let driver = UdpDriver::spawn(engine, Switchboard::default(), sockets, clock);
    let told = driver.clone();
    let deliver = move |id, stored| {
        told.with(|access| access.machine.handle_commit(access.now, id, stored));
    };
    match Store::start(opened, Box::new(deliver)) {
        Ok(store) => {
            let store = Arc::new(store);
            driver.with(|access| access.machine.store = Some(Arc::clone(&store)));
            Ok((driver, store))
        }
        Err(error) => {
            driver.stop(Duration::ZERO);
            Err(error.into())
        }
    }
}

/// Binds the other three corners of RFC 5780: second port, second address, both.
fn bind_alternate(
    sockets: &mut Sockets,
    main: SocketAddr,
    advertised: &[SocketAddr],
    alternate: AlternateBeacon,
) -> Result<Alternate, StartError> {
    let AlternateBeacon { listen, advertised: seen } = alternate;
    let is_wild = main.ip().is_unspecified() || listen.ip().is_unspecified();
    if is_wild
        || main.is_ipv4() != listen.is_ipv4()
        || main.ip() == listen.ip()
        || main.port() == listen.port()
    {
        return Err(StartError::Alternate { main, alternate: listen });
    }
    let mut bind = |id, ip, port| -> Result<SocketAddr, StartError> {
        let bound = sockets.bind_as(SocketId(id), SocketAddr::new(ip, port));
        Ok(bound?)
    };
    let port = bind(1, main.ip(), listen.port())?.port();
    bind(2, listen.ip(), main.port())?;
    bind(3, listen.ip(), port)?;
    let family = |at: &&SocketAddr| at.is_ipv4() == main.is_ipv4();
    let main = advertised.iter().find(family).copied().unwrap_or(main);
    let second = seen.unwrap_or(listen.ip());
    Ok(Alternate {
        main: (SocketId(0), main),
        port: (SocketId(1), SocketAddr::new(main.ip(), port)),
        ip: (SocketId(2), SocketAddr::new(second, main.port())),
        both: (SocketId(3), SocketAddr::new(second, port)),
    })
}

/// What agents are told: what the operator says, else where the beacon can be reached by what
/// this host knows of itself.
fn advertised(
    given: &[SocketAddr],
    beacon: SocketAddr,
    sockets: &Sockets,
) -> Result<Vec<SocketAddr>, StartError> {
    let useless = |at: &&SocketAddr| at.ip().is_unspecified() || at.port() == 0;
    if let Some(address) = given.iter().find(useless) {
        return Err(StartError::Advertised(*address));
    }
    let mut addresses = given.to_vec();
    if addresses.is_empty() {
        addresses = sockets.candidates().map_err(StartError::System)?;
    }
    if addresses.is_empty() {
        let ip: IpAddr = match beacon.is_ipv4() {
            true => Ipv4Addr::LOCALHOST.into(),
            false => Ipv6Addr::LOCALHOST.into(),
        };
        addresses.push(SocketAddr::new(ip, beacon.port()));
    }
    addresses.truncate(BEACONS_MAX);
    Ok(addresses)
}
