//! What an agent needs done beside its packets: the registry's TCP connection, durable
//! changes, and news about clocks, interfaces and names. Bytes and facts are carried here and
//! nothing is decided.

use crate::clock::{ClockWatch, Reading};
use crate::driver::UdpDriver;
use crate::generation::Generation;
use crate::owner::{AgentNode, AgentOwner, Signals, Wishes};
use crate::store::{Change, Store};
use pilot_core::drive::{BEACON_PORT, HostPort, REGISTRY_PORT};
use pilot_core::node::Command;
use pilot_core::time::Duration;
use pilot_udp::host_candidates;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// One attempt at one address of the registry.
const CONNECT: Duration = Duration::from_secs(5);
/// Addresses of a name that are tried.
const ADDRESSES: usize = 8;
/// How long the last bytes to a registry that is being left may take.
const FLUSH: Duration = Duration::from_secs(1);
/// Bytes moved at once in either direction of the registry connection.
const CHUNK: usize = 16 * 1024;
/// Durable changes committed at once.
const CHANGES: usize = 256;
/// Bytes of the longest durable value, twice what the node asks for.
const VALUE: usize = 4 * 1024;
/// A commit that failed is tried again after this time, and a name looked up again.
const RETRY: Duration = Duration::from_secs(1);
/// The longest distance of two attempts to look the beacon up for the first time.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The clocks are compared and fresh entropy is mixed in this often ...
const CLOCK_CHECK: Duration = Duration::from_secs(1);
/// ... and the interfaces listed at every so many of these.
const CHECKS_PER_LISTING: u32 = 5;

pub(crate) struct Household {
    driver: UdpDriver<AgentNode, AgentOwner>,
    signals: Arc<Signals>,
    registry: HostPort,
    beacon: HostPort,
    locals: Vec<SocketAddr>,
    stored: watch::Sender<u64>,
}

impl Household {
    /// `locals` are the host candidates that the node knows. The receiver counts how often
    /// there was nothing left to store.
    pub(crate) fn new(
        driver: UdpDriver<AgentNode, AgentOwner>,
        signals: Arc<Signals>,
        registry: HostPort,
        beacon: HostPort,
        locals: Vec<SocketAddr>,
    ) -> (Self, watch::Receiver<u64>) {
        let (stored, receiver) = watch::channel(0);
        (Household { driver, signals, registry, beacon, locals, stored }, receiver)
    }

    /// Runs until the driver ends.
    pub(crate) async fn run(self, store: Box<dyn Store>) {
        let work = async {
            tokio::join!(
                self.keep_registry(),
                self.keep_store(store),
                self.keep_beacon(),
                self.watch_host()
            )
        };
        tokio::select! {
            () = self.driver.ended() => {}
            _ = work => {}
        }
    }

    // ---- the registry connection ----

    fn take_wishes(&self) -> Wishes {
        self.driver.peek(|access| mem::take(&mut access.owner.wishes))
    }

    /// Dials when the node asks for it. A failure is reported and that is all: when to try
    /// again is the node's decision.
    async fn keep_registry(&self) {
        loop {
            if !self.take_wishes().dial {
                self.signals.registry.notified().await;
                continue;
            }
            let connection = dial(&self.registry).await;
            if self.driver.peek(|access| mem::take(&mut access.owner.wishes.close)) {
                // Not wanted any more.
                self.driver.with(|access| access.machine.handle_registry_close(access.now));
                continue;
            }
            match connection {
                Ok(tcp) => {
                    self.driver.with(|access| access.machine.handle_registry_open(access.now));
                    self.pump(tcp).await;
                }
                Err(error) => {
                    tracing::debug!(registry = %self.registry, %error, "cannot connect");
                    self.driver.with(|access| access.machine.handle_registry_close(access.now));
                }
            }
        }
    }

    /// Carries bytes both ways. Takes no more from the node than the connection has taken.
    async fn pump(&self, mut tcp: TcpStream) {
        let (mut reader, mut writer) = tcp.split();
        let mut input = vec![0; CHUNK];
        let mut output = vec![0; CHUNK];
        let mut pending = 0..0;
        loop {
            let is_left = self.driver.peek(|access| {
                if pending.is_empty() {
                    pending = 0..access.machine.poll_bytes(access.now, &mut output);
                }
                let wishes = &mut access.owner.wishes;
                mem::take(&mut wishes.close) || wishes.dial
            });
            if is_left {
                let last = writer.write_all(&output[pending]);
                let _ = timeout(FLUSH, last).await;
                self.driver.with(|access| access.machine.handle_registry_close(access.now));
                return;
            }
            let carried = tokio::select! {
                written = writer.write(&output[pending.clone()]), if !pending.is_empty() => {
                    written.inspect(|n| pending.start += n)
                }
                read = reader.read(&mut input) => {
                    if let Ok(n @ 1..) = read {
                        self.driver.with(|access| {
                            access.machine.handle_bytes(access.now, &input[..n]);
                        });
                    }
                    read
                }
                () = self.signals.registry.notified() => continue,
            };
            if !matches!(carried, Ok(1..)) {
                tracing::debug!(registry = %self.registry, ?carried, "connection closed");
                self.driver.with(|access| access.machine.handle_registry_close(access.now));
                return;
            }
        }
    }

    // ---- durable changes ----

    async fn keep_store(&self, mut store: Box<dyn Store>) {
        let mut value = vec![0; VALUE];
        loop {
            let mut changes = Vec::<Change>::new();
            let mut sequence = 0;
            self.driver.peek(|access| {
                while changes.len() < CHANGES
                    && let Some(change) = access.machine.poll_store(&mut value)
                {
                    changes.push((change.key, change.len.map(|len| value[..len].to_vec())));
                    sequence = change.sequence;
                }
            });
            if changes.is_empty() {
                self.stored.send_modify(|round| *round += 1);
                self.signals.store.notified().await;
                continue;
            }
            let changes = Arc::new(changes);
            loop {
                let batch = Arc::clone(&changes);
                let commit = tokio::task::spawn_blocking(move || {
                    let committed = store.commit(&batch);
                    (store, committed)
                });
                // The task is only lost with the runtime, or if the store panics.
                let Ok((back, committed)) = commit.await else { return };
                store = back;
                match committed {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::warn!(%error, "cannot store durable state; trying again");
                        sleep(RETRY).await;
                    }
                }
            }
            self.driver.with(|access| access.machine.handle_stored(access.now, sequence));
        }
    }

    // ---- names, interfaces, clocks ----

    /// Tells the node where the beacon is, at the start and whenever that changes.
    async fn keep_beacon(&self) {
        let mut known = None;
        let mut pause = RETRY;
        loop {
            match lookup(&self.beacon, BEACON_PORT).await {
                Ok(addresses) => {
                    let found = addresses.into_iter().find(|a| self.driver.reaches(*a));
                    if let Some(address) = found
                        && known != found
                    {
                        known = found;
                        self.driver.with(|access| {
                            // Refused only after a shutdown.
                            let command = Command::SetBeacon { address };
                            let _ = access.machine.command(access.now, command);
                        });
                    }
                }
                Err(error) => tracing::debug!(beacon = %self.beacon, %error, "cannot look up"),
            }
            // Not more often, however often the link is lost.
            sleep(RETRY).await;
            if known.is_some() {
                self.signals.resolve.notified().await;
            } else {
                pause = (pause * 2).min(RETRY_MAX);
                let _ = timeout(pause, self.signals.resolve.notified()).await;
            }
        }
    }

    async fn watch_host(&self) {
        let mut locals = self.locals.clone();
        let mut clocks = ClockWatch::new(Reading::take(&self.driver.clock()));
        let mut ticks = interval(CLOCK_CHECK);
        // After a suspend one look is enough.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let generation = Generation::watch();
        for n in 1u32.. {
            let copied = tokio::select! {
                biased;
                () = generation.changed() => true,
                _ = ticks.tick() => false,
            };
            let reading = Reading::take(&self.driver.clock());
            let stepped = clocks.check(reading);
            if stepped.is_some() {
                tracing::info!("the clock was stepped, or the machine was suspended");
            }
            if copied {
                tracing::info!("this machine is a copy of what it was");
            }
            // Refused only after a shutdown. First the generator, then who draws from it.
            if let Some(entropy) = entropy() {
                self.driver.peek(|access| {
                    let _ = access.machine.command(access.now, Command::Reseed { entropy });
                });
            }
            if let Some(unix) = stepped.or(copied.then_some(reading.unix())) {
                self.driver.with(|access| {
                    let _ = access.machine.command(access.now, Command::ClockChanged { unix });
                });
            }
            if n.is_multiple_of(CHECKS_PER_LISTING)
                && let Ok(found) = host_candidates(&self.driver.local_addresses())
                && found != locals
            {
                locals = found;
                self.driver.with(|access| {
                    let command = Command::NetworkChanged { locals: &locals };
                    let _ = access.machine.command(access.now, command);
                });
                self.signals.resolve.notify_one();
            }
        }
    }
}

/// Fresh entropy of the operating system.
fn entropy() -> Option<[u8; 32]> {
    let mut entropy = [0; 32];
    match getrandom::fill(&mut entropy) {
        Ok(()) => Some(entropy),
        Err(error) => {
            // It gave some at the start, from which the generator goes on.
            tracing::warn!(%error, "no fresh entropy");
            None
        }
    }
}

async fn lookup(place: &HostPort, default_port: u16) -> io::Result<Vec<SocketAddr>> {
    let port = place.port.unwrap_or(default_port);
    let found: Vec<_> = lookup_host((place.host.as_str(), port)).await?.take(ADDRESSES).collect();
    Ok(found)
}

async fn dial(registry: &HostPort) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup(registry, REGISTRY_PORT).await? {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => {
                // Requests are small and waited for.
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}
