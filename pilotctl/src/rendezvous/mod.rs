//! The rendezvous server as a process: its lock, its settings, its own small local API.

use crate::api::{self, Exported, Nothing, RendezvousStatus};
use crate::background::Foreground;
use crate::cli::run::RendezvousStart;
use crate::commands::{Context, rendezvous_text};
use crate::config::{self, RendezvousSettings, Settings as _};
use crate::daemon::{Signals, forbid_dumps, look_up};
use crate::error::{Code, Failure};
use crate::home::Home;
use crate::openapi::{Api, get, post};
use crate::{http, socket};
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use pilot_core::drive::KeyText;
use pilot_rendezvous::{
    AlternateBeacon, ExportError, Server, ServerConfig, ServerStats, StartError, StoreError,
};
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What the API still answers while the server stops.
const API_TIME: Duration = Duration::from_millis(500);
/// From the signal to the end, all in all, is five seconds.
const STOP_TIME: Duration = Duration::from_secs(4);

/// The settings with a path that means the same in every directory.
pub(crate) fn absolute(settings: RendezvousSettings) -> Result<RendezvousSettings, Failure> {
    let persist = settings.persist.as_ref().map(std::path::absolute).transpose();
    let persist = persist.map_err(|e| Failure::io("find the file that --persist names", e))?;
    Ok(RendezvousSettings { persist, ..settings })
}

struct Shared {
    server: Server,
    stop: watch::Sender<bool>,
    home: Home,
    settings: RendezvousSettings,
    log: Option<PathBuf>,
    started: std::time::Instant,
}

/// Runs the server in the foreground.
pub(crate) fn run(cx: &Context, args: &RendezvousStart) -> Result<(), Failure> {
    let foreground = Foreground::enter(args.detached, cx.out.json)?;
    let home = cx.home.rendezvous();
    cx.home.prepare()?;
    home.prepare()?;
    let Some(_lock) = home.try_lock()? else {
        let message = format!("a rendezvous server runs already in {}", home.path().display());
        return Err(Failure::new(Code::AlreadyRunning, message)
            .hint("run `pilotctl rendezvous stop` first, or set PILOT_HOME for another"));
    };
    let settings = absolute(args.settings())?.or(config::load(&home.config())?);
    let log = foreground.start_log(&home)?;
    forbid_dumps();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::io("start the runtime", e))?;
    let result = runtime.block_on(serve(args, home, settings, log, foreground));
    runtime.shutdown_timeout(Duration::from_millis(100));
    if let Err(failure) = &result {
        tracing::error!(code = failure.code.as_str(), "{failure}");
    }
    result
}

async fn serve(
    args: &RendezvousStart,
    home: Home,
    settings: RendezvousSettings,
    log: Option<PathBuf>,
    foreground: Foreground,
) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let listener = socket::bind(&home.socket())?;
    let server = start(args, &home, &settings).await?;
    let shared = Arc::new(Shared {
        server,
        stop: watch::Sender::new(false),
        home,
        settings,
        log,
        started: now(),
    });
    let api = http::serve(listener, routes(Arc::clone(&shared)), shared.stop.subscribe())?;
    let api = tokio::spawn(api);
    let announced = announce(&shared, foreground);
    if announced.is_ok() {
        let mut stop = shared.stop.subscribe();
        tokio::select! {
            () = signals.terminate() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
    tracing::info!("stopping");
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    shared.stop.send_replace(true);
    let mut api = api;
    if tokio::time::timeout(API_TIME, &mut api).await.is_err() {
        api.abort();
        let _ = api.await;
    }
    end(shared).await;
    announced
}

#[expect(clippy::disallowed_methods, reason = "how long the server runs, for people")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

async fn start(
    args: &RendezvousStart,
    home: &Home,
    settings: &RendezvousSettings,
) -> Result<Server, Failure> {
    let persist = settings.persist.clone().unwrap_or_else(|| home.path().join("registry.json"));
    let mut config = ServerConfig::new(persist);
    config.new_key = args.new_key;
    config.limits = settings.limits.apply();
    if let Some(at) = &settings.registry_addr {
        config.registry_addr = look_up("--registry-addr", at).await?;
    }
    if let Some(at) = &settings.beacon_addr {
        config.beacon_addr = look_up("--beacon-addr", at).await?;
    }
    if let Some(at) = &settings.beacon_alt_addr {
        let listen = look_up("--beacon-alt-addr", at).await?;
        config.beacon_alt = Some(AlternateBeacon { listen, advertised: None });
    }
    Server::start(config).await.map_err(from_start)
}

fn from_start(error: StartError) -> Failure {
    let in_use = error.is_in_use();
    let message = error.to_string();
    match error {
        _ if in_use => Failure::new(Code::StoreBusy, message)
            .hint("another rendezvous server has it open: stop that, or name another --persist"),
        StartError::Registry { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            Failure::new(Code::Conflict, message)
                .hint("choose another --registry-addr, or stop the program that has it")
        }
        StartError::Beacon(pilot_tokio::BindError::Taken(_)) => {
            Failure::new(Code::Conflict, message)
                .hint("choose another --beacon-addr, or stop the program that has it")
        }
        StartError::Alternate { .. } => Failure::new(Code::Usage, message).hint(
            "give both beacon flags an address of this host, of one family, each its own port",
        ),
        StartError::Registry { .. } | StartError::Beacon(_) => {
            Failure::new(Code::Io, message).hint("choose another address")
        }
        _ => Failure::new(Code::State, message)
            .hint("docs/operations.md says how to restore or import a registry"),
    }
}

fn routes(shared: Arc<Shared>) -> Router {
    api().into_router().with_state(shared)
}

fn api() -> Api<Arc<Shared>> {
    Api::new("Pilot Protocol: a rendezvous server", "PILOT_HOME/rendezvous/pilot.sock")
        .add(get("/v1/status", status).answers::<RendezvousStatus>("What runs, where, since when"))
        .add(post("/v1/stop", stop).answers::<Nothing>("The server ends"))
        .add(post("/v1/export", export).answers::<Exported>("Writes the readable export"))
}

/// The description of the local API.
#[cfg(test)]
pub(crate) fn described() -> serde_json::Value {
    api().document()
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    http::answer(Ok(shared.status()))
}

async fn stop(State(shared): State<Arc<Shared>>) -> Response {
    tracing::info!("asked to stop");
    shared.stop.send_replace(true);
    http::answer(Ok::<_, Failure>(Nothing {}))
}

async fn export(State(shared): State<Arc<Shared>>) -> Response {
    let exported = shared.server.export().await;
    http::answer(match exported {
        Ok(()) => Ok(Exported { file: shared.server.files().export.clone() }),
        Err(ExportError::Io { path, source }) => {
            Err(Failure::io(format!("write {}", path.display()), source))
        }
        Err(ExportError::Store(StoreError::Full { path })) => {
            let full = std::io::ErrorKind::StorageFull;
            Err(Failure::io(format!("read {}", path.display()), full))
        }
        Err(e) => Err(Failure::new(Code::Io, format!("cannot write the export: {e}"))),
    })
}

impl Shared {
    fn status(&self) -> RendezvousStatus {
        let (files, stats) = (self.server.files(), self.server.stats());
        RendezvousStatus {
            pid: std::process::id(),
            version: crate::cli::version().to_owned(),
            home: self.home.path().to_owned(),
            ready: true,
            registry: self.server.registry_addr(),
            beacon: self.server.beacon_addr(),
            key: KeyText(&self.server.key()).to_string(),
            fingerprint: self.server.fingerprint().to_string(),
            store: files.store.clone(),
            export: files.export.clone(),
            uptime_s: self.started.elapsed().as_secs(),
            counters: counters(&stats),
            drops: api::drops(&stats.drops),
            settings: self.settings.clone(),
            log: self.log.clone(),
            warnings: Vec::new(),
        }
    }
}

fn counters(stats: &ServerStats) -> BTreeMap<String, u64> {
    let rendezvous = &stats.rendezvous;
    let counters = [
        ("nodes", rendezvous.nodes as u64),
        ("published_nodes", rendezvous.published as u64),
        ("agents_online", rendezvous.agents as u64),
        ("relay_channels", rendezvous.channels as u64),
        ("registry_connections", rendezvous.connections as u64),
        ("letters_waiting", rendezvous.letters as u64),
        ("receipts", rendezvous.receipts as u64),
        ("registrations", rendezvous.registrations),
        ("requests", rendezvous.requests),
        ("stun_answers", rendezvous.stun_answers),
        ("handshakes", rendezvous.handshakes),
        ("relayed_packets", rendezvous.relayed_packets),
        ("relayed_bytes", rendezvous.relayed_bytes),
        ("transactions", stats.transactions),
        ("failed_transactions", stats.failed_transactions),
        ("udp_datagrams_in", stats.io.datagrams_in),
        ("udp_datagrams_out", stats.io.datagrams_out),
        ("udp_bytes_in", stats.io.bytes_in),
        ("udp_bytes_out", stats.io.bytes_out),
        ("dropped", stats.drops.total()),
    ];
    counters.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

fn announce(shared: &Shared, foreground: Foreground) -> Result<(), Failure> {
    config::save(&shared.home.config(), &shared.settings)?;
    let status = shared.status();
    let text = format!("registry on TCP {}, beacon on UDP {}", status.registry, status.beacon);
    // Before anybody who waits for it looks into the log.
    tracing::info!("ready: {text}");
    foreground.announce(&status, &rendezvous_text(&status, "is ready"))?;
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&text)]) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
    Ok(())
}

/// Stops the server in good order; what it acknowledged is on disk in any case.
async fn end(shared: Arc<Shared>) {
    let path = shared.home.socket();
    match Arc::try_unwrap(shared) {
        Ok(shared) => match tokio::time::timeout(STOP_TIME, shared.server.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "cannot write the export"),
            Err(_) => tracing::warn!("stopped before everything was answered"),
        },
        // A request still runs, for longer than we wait: the store closes when it is dropped.
        Err(_) => tracing::warn!("stopped while a request was under way"),
    }
    let _ = std::fs::remove_file(path);
}
