//! From the lock to readiness, and from a signal to the end.

use super::node::{Node, key_texts};
use super::offer::Offer;
use super::state::{Change, State};
use super::{Shared, courier, identity, routes};
use crate::background::Foreground;
use crate::cli::run::DaemonStart;
use crate::cli::values::{HostPort, PathChoice, RegistryKey};
use crate::commands::{Context, started_text};
use crate::config::{self, DaemonSettings, Settings as _};
use crate::error::{Code, Failure};
use crate::home::Home;
use crate::output::utc;
use crate::programs::Programs;
use crate::{http, socket};
use futures_util::FutureExt as _;
use pilot_core::node::{Link, PathPolicy};
use pilot_tokio::{Agent, AgentEvent, BindError, Events, ReadyError, RecvError, StartError};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use sd_notify::NotifyState;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// The UDP port where none is named.
const PORT: u16 = 4000;
/// The beacon's port where only the registry is named.
const BEACON_PORT: u16 = 9001;
/// An agent that was never registered waits so long for the registry.
const REGISTER_TIME: Duration = Duration::from_secs(10);
/// One that has its address waits so long before it says that it is ready all the same.
const ONLINE_TIME: Duration = Duration::from_secs(5);
/// What the API still answers while the daemon stops.
const API_TIME: Duration = Duration::from_millis(500);
/// From the signal to the end, all in all, is five seconds.
const GOODBYE_TIME: Duration = Duration::from_secs(4);

/// The beacon that settings name or imply.
pub(super) fn beacon(settings: &DaemonSettings) -> Option<HostPort> {
    let implied = || settings.registry.as_ref().map(|r| r.at.with_port(BEACON_PORT));
    settings.beacon.clone().or_else(implied)
}

/// The registry's key that settings name, if they do.
pub(super) fn registry_key(settings: &DaemonSettings) -> Option<RegistryKey> {
    settings.registry_key.or(settings.registry.as_ref().and_then(|r| r.key))
}

/// What settings must have, and what must not contradict.
pub(crate) fn check_settings(settings: &DaemonSettings) -> Result<(), Failure> {
    let Some(registry) = &settings.registry else {
        return Err(Failure::new(Code::Usage, "no registry is named, and none is saved")
            .hint("run `pilotctl daemon start --registry HOST:9000 --beacon HOST:9001`"));
    };
    if let (Some(a), Some(b)) = (registry.key, settings.registry_key)
        && a != b
    {
        return Err(Failure::new(Code::Usage, "--registry and --registry-key name two keys"));
    }
    Ok(())
}

/// Runs the daemon in the foreground.
pub(crate) fn run(cx: &Context, args: &DaemonStart) -> Result<(), Failure> {
    let foreground = Foreground::enter(args.detached, cx.out.json)?;
    cx.home.prepare()?;
    let Some(_lock) = cx.home.try_lock()? else {
        let message = format!("a daemon runs already in {}", cx.home.path().display());
        return Err(Failure::new(Code::AlreadyRunning, message)
            .hint("run `pilotctl daemon stop` first, or set PILOT_HOME for another agent"));
    };
    let settings = args.settings().or(config::load(&cx.home.config())?);
    check_settings(&settings)?;
    check_fence(&cx.home, args.takeover)?;
    let log = foreground.start_log(&cx.home)?;
    forbid_dumps();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::io("start the runtime", e))?;
    let result = runtime.block_on(serve(cx, args, settings, log, foreground));
    // Whatever a thread still does: the state is committed, and the lock must fall now.
    runtime.shutdown_timeout(Duration::from_millis(100));
    if let Err(failure) = &result {
        tracing::error!(code = failure.code.as_str(), "{failure}");
    }
    result
}

/// Keys live in this process: no core dumps, no debugger of the same user.
pub(crate) fn forbid_dumps() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let forbidden = set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .and_then(|()| setrlimit(Resource::Core, none));
    if let Err(error) = forbidden {
        tracing::warn!(%error, "core dumps stay possible");
    }
}

/// A home whose identity runs elsewhere does not start unless told to take it back.
fn check_fence(home: &Home, takeover: bool) -> Result<(), Failure> {
    let marker = home.fenced();
    if !marker.exists() {
        return Ok(());
    }
    if !takeover {
        return Err(Failure::new(Code::Fenced, "this identity was taken over by another home"));
    }
    std::fs::remove_file(&marker).map_err(|e| Failure::io("remove the marker `fenced`", e))
}

async fn serve(
    cx: &Context,
    args: &DaemonStart,
    settings: DaemonSettings,
    log: Option<PathBuf>,
    foreground: Foreground,
) -> Result<(), Failure> {
    // First of all: process 1 has no default reaction to signals.
    let mut signals = Signals::listen()?;
    let api = socket::bind(&cx.home.socket())?;
    let takeover = args.takeover || cx.home.takeover().exists();
    let shared = build(&cx.home, settings, log, takeover).await?;
    // The first receiver has missed nothing: it is the one whose news are written down.
    let watching = tokio::spawn(watch_events(Arc::clone(&shared), shared.node.agent.events()));
    let mut news = shared.node.agent.events();
    let api = http::serve(api, routes::routes(Arc::clone(&shared)), shared.stop.subscribe())?;
    let api = tokio::spawn(api);
    let mut stop = shared.stop.subscribe();

    let carrying = tokio::spawn(courier::watch(Arc::clone(&shared), shared.node.agent.events()));

    let ready = tokio::select! {
        ready = get_ready(&shared, &mut news) => ready,
        () = signals.terminate() => Err(stopped_early()),
        _ = stop.wait_for(|stop| *stop) => Err(stopped_early()),
    };
    let ready = match ready {
        Ok(()) => {
            courier::start(&shared);
            announce(&shared, foreground)
        }
        Err(failure) => Err(failure),
    };
    let result = match ready {
        Ok(()) => tokio::select! {
            () = signals.terminate() => Ok(()),
            _ = stop.wait_for(|stop| *stop) => Ok(()),
            failure = fenced(&shared, &mut news) => Err(failure),
        },
        Err(failure) => Err(failure),
    };

    tracing::info!("stopping");
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    shared.stop.send_replace(true);
    let _ = tokio::time::timeout(API_TIME, api).await;
    // Cut before the goodbye: what is cut by it would look like an end of file to programs.
    let _ = tokio::time::timeout(API_TIME, shared.programs.stop()).await;
    if tokio::time::timeout(GOODBYE_TIME, shared.node.agent.shutdown()).await.is_err() {
        tracing::warn!("not everybody has heard our goodbye");
    }
    watching.abort();
    carrying.abort();
    let _ = std::fs::remove_file(cx.home.socket());
    result
}

fn stopped_early() -> Failure {
    Failure::new(Code::NotRunning, "stopped before it was ready")
}

/// Opens what the home holds and binds the agent.
async fn build(
    home: &Home,
    settings: DaemonSettings,
    log: Option<PathBuf>,
    takeover: bool,
) -> Result<Arc<Shared>, Failure> {
    let identity = identity::load_or_create(&home.identity())?;
    let state = State::open(&home.state())?;
    let offer = Offer::open(home, &settings.limits)?;
    let programs = Programs::open(home.programs())?;
    // Each connection that is carried for another program takes a descriptor.
    crate::limits::descriptors();
    let mut builder = Agent::builder(identity).store(Kept(state)).takeover(takeover);
    builder = builder.limits(settings.limits.apply());
    if let Some(registry) = &settings.registry {
        let key = registry_key(&settings).map(|key| format!("#{key}")).unwrap_or_default();
        builder = builder.registry(format!("{}{key}", registry.at));
    }
    if let Some(beacon) = beacon(&settings) {
        builder = builder.beacon(beacon.to_string());
    }
    builder = builder.forbid_spray(settings.no_spray.unwrap_or(false));
    builder = builder.path_policy(match settings.path.unwrap_or_default() {
        PathChoice::Auto => PathPolicy::Auto,
        PathChoice::Direct => PathPolicy::Direct,
        PathChoice::Relay => PathPolicy::Relay,
    });
    match (&settings.listen, &settings.endpoint) {
        (Some(listen), _) => builder = builder.listen(look_up("--listen", listen).await?),
        (None, None) => builder = builder.port(PORT),
        // The endpoint's own port, which then must be free.
        (None, Some(_)) => {}
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.endpoint(look_up("--endpoint", endpoint).await?);
    }
    let agent = builder.bind().await.map_err(from_start)?;
    Ok(Arc::new(Shared {
        node: Node { agent },
        offer,
        courier: super::courier::Courier::default(),
        carriers: super::tasks::Carriers::default(),
        ends: super::ends::Ends::default(),
        programs,
        stop: watch::Sender::new(false),
        home: home.clone(),
        settings,
        log,
        started: now(),
        warnings: Default::default(),
    }))
}

#[expect(clippy::disallowed_methods, reason = "how long the daemon runs, for people")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// A host's first address, IPv4 or IPv6 as the resolver prefers.
pub(crate) async fn look_up(flag: &str, at: &HostPort) -> Result<SocketAddr, Failure> {
    let found = tokio::net::lookup_host((at.host.as_str(), at.port)).await;
    found.ok().and_then(|mut found| found.next()).ok_or_else(|| {
        Failure::new(Code::Usage, format!("{flag}: there is no host {}", at.host))
            .hint("give an IP address, or correct the name")
    })
}

fn from_start(error: StartError) -> Failure {
    match error {
        StartError::Socket(BindError::Taken(at)) => {
            Failure::new(Code::Conflict, format!("UDP {at} is in use by another program"))
                .hint("choose another with --listen, or stop that program")
        }
        StartError::Socket(e) => {
            Failure::new(Code::Io, e.to_string()).hint("choose another address with --listen")
        }
        StartError::Location { .. } | StartError::NoRegistry => {
            Failure::new(Code::Usage, error.to_string())
        }
        StartError::Load(e) => Failure::new(Code::State, format!("state.redb: {e}")),
        StartError::Store(e) => Failure::new(Code::State, format!("state.redb: {e}")),
        e => Failure::new(Code::Internal, e.to_string()),
    }
}

/// Waits for the address; with one from earlier, a while for the registry.
async fn get_ready(shared: &Arc<Shared>, news: &mut Events) -> Result<(), Failure> {
    let agent = &shared.node.agent;
    let known = agent.address().is_some();
    let time = if known { ONLINE_TIME } else { REGISTER_TIME };
    match tokio::time::timeout(time, agent.ready()).await {
        Ok(Ok(_)) => {}
        Ok(Err(ReadyError::Fenced)) => return Err(fence(shared)),
        Ok(Err(ReadyError::RegistryKeyChanged { pinned, shown })) => {
            return Err(key_changed(&pinned, &shown));
        }
        Ok(Err(e)) => return Err(Failure::new(Code::Internal, e.to_string())),
        Err(_) if !known => {
            let registry = shared.registry();
            let message = format!(
                "the registry at {registry} has not registered this agent within {} s",
                time.as_secs()
            );
            return Err(Failure::new(Code::RegistryUnreachable, message));
        }
        // Its address is for life: others reach it by what they know, and it tries on.
        Err(_) => return offer(shared).await,
    }
    // The address is there; the beacon a moment later. Its absence is a warning, no error.
    let online = async {
        while agent.info().link != Link::Online {
            let look = tokio::time::timeout(Duration::from_millis(50), news.recv());
            if let Ok(Err(RecvError::Closed)) = look.await {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(ONLINE_TIME, online).await;
    offer(shared).await
}

/// Serves peers, and other programs of this host.
async fn offer(shared: &Arc<Shared>) -> Result<(), Failure> {
    shared.offer.serve(&shared.node)?;
    super::tasks::start(shared)?;
    shared.programs.start(&shared.node).await;
    Ok(())
}

fn key_changed(pinned: &pilot_tokio::IdentityKey, shown: &pilot_tokio::IdentityKey) -> Failure {
    let (pinned, shown) = (key_texts(pinned).1, key_texts(shown).1);
    let message = format!("the registry's key has changed: pinned is {pinned}, it shows {shown}");
    Failure::new(Code::RegistryKey, message)
}

/// Notes that this identity runs elsewhere.
fn fence(shared: &Shared) -> Failure {
    let path = shared.home.fenced();
    if !path.exists()
        && let Err(error) = crate::home::create_private_file(&path, b"taken over\n")
    {
        tracing::error!(%error, "cannot write the marker `fenced`");
    }
    Failure::new(Code::Fenced, "this identity was taken over by another home")
}

/// Waits until the identity is taken over.
async fn fenced(shared: &Shared, news: &mut Events) -> Failure {
    loop {
        // The news of it come once: they may be among those that came too fast, or were read
        // while we got ready. The state lasts.
        if let Some(Err(ReadyError::Fenced)) = shared.node.agent.ready().now_or_never() {
            return fence(shared);
        }
        match news.recv().await {
            Ok(AgentEvent::Fenced) => return fence(shared),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            // The agent has ended: nothing comes any more but a signal.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn announce(shared: &Shared, foreground: Foreground) -> Result<(), Failure> {
    config::save(&shared.home.config(), &shared.settings)?;
    // Whether a reset went before matters no more once the registry has confirmed us.
    if shared.node.agent.info().link == Link::Online {
        let _ = std::fs::remove_file(shared.home.takeover());
    }
    let status = shared.status();
    let text = format!("{} on {:?}", status.address.as_deref().unwrap_or_default(), status.sockets);
    // Before anybody who waits for it looks into the log.
    tracing::info!("ready: {text}");
    foreground.announce(&status, &started_text(&status, "is ready"))?;
    // Fails only where a service manager waits that cannot be reached.
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&text)]) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
    Ok(())
}

/// Logs what happens, and remembers what its owner should know.
async fn watch_events(shared: Arc<Shared>, mut news: Events) {
    loop {
        match news.recv().await {
            Ok(AgentEvent::RegistryPinned(key)) => {
                let fingerprint = key_texts(&key).1;
                tracing::info!(%fingerprint, "first contact: the registry's key is pinned");
            }
            Ok(AgentEvent::RegistryKeyChanged { pinned, shown }) => {
                shared.warn(key_changed(&pinned, &shown).message);
            }
            Ok(AgentEvent::ClockSkew(seconds)) => {
                shared.warn(clocks_differ(unix_seconds(), seconds));
            }
            Ok(AgentEvent::TrustRequested(from)) => {
                tracing::info!(%from, "somebody asks for trust: `pilotctl trust pending`");
            }
            Ok(AgentEvent::TrustGranted(by)) => tracing::info!(%by, "trust is mutual"),
            Ok(AgentEvent::TrustRefused(by)) => tracing::info!(%by, "trust was refused"),
            Ok(AgentEvent::TrustRevoked(by)) => tracing::info!(%by, "trust was revoked"),
            Ok(AgentEvent::LinkChanged(Link::Online)) => tracing::info!("online"),
            Ok(AgentEvent::LinkChanged(Link::Offline)) => {
                tracing::warn!("registry or beacon does not answer; trying on");
            }
            Ok(event) => tracing::debug!(?event, "news"),
            Err(RecvError::Lagged(missed)) => tracing::debug!(missed, "news came too fast"),
            Err(RecvError::Closed) => return,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "for a message about the time of day")]
fn unix_seconds() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Says what two clocks show that differ by so many seconds, theirs less ours.
fn clocks_differ(ours: u64, seconds: i64) -> String {
    let theirs = utc(ours.saturating_add_signed(seconds));
    format!("this machine's clock shows {}, the registry's {theirs}: set the wrong one", utc(ours))
}

/// The agent's store, kept in `state.redb`.
struct Kept(State);

impl pilot_tokio::Store for Kept {
    fn load(&mut self, each: &mut dyn FnMut([u8; 8], &[u8])) -> std::io::Result<()> {
        for (key, value) in self.0.load().map_err(std::io::Error::other)? {
            each(key, &value);
        }
        Ok(())
    }

    fn commit(&mut self, changes: &[Change]) -> std::io::Result<()> {
        self.0.commit(changes).map_err(std::io::Error::other)
    }
}

/// The signals that end a process in good order.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    _too_large: Signal,
}

impl Signals {
    /// From now on.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let on = |kind| signal(kind).map_err(|e| Failure::io("listen to signals", e));
        Ok(Signals {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
            // Sent to whoever writes beyond the limit of file sizes, and unheard the end of
            // it; heard, the write fails as on a full disk.
            _too_large: on(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }

    /// Waits for SIGTERM or SIGINT. A terminal that goes away ends nobody.
    pub(crate) async fn terminate(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> DaemonSettings {
        let registry = Some("registry.example:9000".parse().unwrap());
        DaemonSettings { registry, ..Default::default() }
    }

    #[test]
    fn the_beacon_is_beside_the_registry_unless_named() {
        assert_eq!(beacon(&settings()).unwrap().to_string(), "registry.example:9001");
        let named = Some("[::1]:7".parse().unwrap());
        let settings = DaemonSettings { beacon: named, ..settings() };
        assert_eq!(beacon(&settings).unwrap().to_string(), "[::1]:7");
    }

    #[test]
    fn settings_need_a_registry_and_one_key() {
        let failure = check_settings(&DaemonSettings::default()).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.hint.contains("--registry"));
        let (a, b) = (RegistryKey([1; 32]), RegistryKey([2; 32]));
        let mut settings = settings();
        settings.registry.as_mut().unwrap().key = Some(a);
        settings.registry_key = Some(b);
        assert_eq!(check_settings(&settings).unwrap_err().code, Code::Usage);
        settings.registry_key = Some(a);
        assert!(check_settings(&settings).is_ok());
        assert_eq!(registry_key(&settings), Some(a));
    }

    #[test]
    fn clocks_that_differ_are_both_shown() {
        let text = clocks_differ(1_767_225_600, -7200);
        assert!(text.contains(&utc(1_767_225_600)) && text.contains(&utc(1_767_218_400)), "{text}");
        assert!(text.contains("2026-01-01") && text.contains("2025-12-31"), "{text}");
    }

    #[test]
    fn a_fenced_home_starts_only_to_take_over() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::find(Some(dir.path())).unwrap();
        assert!(check_fence(&home, false).is_ok());
        std::fs::write(home.fenced(), "").unwrap();
        assert_eq!(check_fence(&home, false).unwrap_err().code, Code::Fenced);
        assert!(home.fenced().exists());
        assert!(check_fence(&home, true).is_ok());
        assert!(check_fence(&home, false).is_ok());
    }
}
