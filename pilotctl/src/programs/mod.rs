//! Other programs use the network: a forward carries TCP connections to a port of a peer, an
//! expose offers a TCP service to trusted peers, and a SOCKS5 proxy does what a forward does
//! for every agent there is. All three are lasting settings of the daemon, kept in
//! `programs.json`.
//!
//! * [`local`]: TCP ports of this host, for forwards and the proxy; [`socks`]: its handshake.
//! * [`expose`]: virtual ports of this agent.
//! * [`join`]: a TCP connection and a stream as one.
//! * [`entry`]: whether one of them listens, and how it is used; [`settings`]: the file.

mod entry;
mod expose;
mod join;
mod local;
mod settings;
mod socks;

use crate::api::{Expose, Forward, Proxy};
use crate::cli::values::{AgentPort, HostPort, LocalAddr};
use crate::daemon::node::{Listener, Node};
use crate::error::{Code, Failure};
use entry::{Entry, Running};
use local::Target;
use pilot_core::addr::Port;
use settings::{Saved, SavedExpose, SavedForward};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Forwards of one daemon.
const FORWARDS_MAX: usize = 64;
/// Exposed ports of one daemon.
const EXPOSES_MAX: usize = 64;
/// TCP connections that forwards and proxy carry at a time, all together; one too many is
/// reset.
const CONNECTIONS_MAX: usize = 512;

#[derive(Default)]
struct Table {
    forwards: BTreeMap<LocalAddr, Running<Target>>,
    exposes: BTreeMap<u16, Running<HostPort>>,
    proxy: Option<(LocalAddr, Running<()>)>,
}

/// How far the daemon is. Only while it runs does the table say what the file must.
enum Phase {
    Loaded(Saved),
    Running,
    Stopped,
}

impl Phase {
    fn check(&self) -> Result<(), Failure> {
        match self {
            Phase::Running => Ok(()),
            Phase::Loaded(_) => {
                Err(Failure::new(Code::NotRegistered, "the daemon is still starting"))
            }
            Phase::Stopped => Err(Failure::new(Code::NotRunning, "the daemon is stopping")),
        }
    }
}

/// What the daemon does for other programs.
pub(crate) struct Programs {
    path: PathBuf,
    /// One change at a time; each is on disk before it counts.
    changing: tokio::sync::Mutex<Phase>,
    table: Mutex<Table>,
    places: Arc<Semaphore>,
}

impl Programs {
    /// Reads the settings of a home. Nothing runs yet.
    pub(crate) fn open(path: PathBuf) -> Result<Programs, Failure> {
        Ok(Programs {
            changing: tokio::sync::Mutex::new(Phase::Loaded(Saved::load(&path)?)),
            table: Mutex::default(),
            path,
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs what the settings say. What cannot be opened now is a warning, and tried again.
    pub(crate) async fn start(&self, node: &Node) {
        let mut phase = self.changing.lock().await;
        let Phase::Loaded(saved) = &mut *phase else { return };
        let saved = std::mem::take(saved);
        *phase = Phase::Running;
        let mut table = self.table();
        for SavedForward { local, to, network } in saved.forwards.into_iter().take(FORWARDS_MAX) {
            let running =
                self.forward_of(node, local, Target { to, network }, local::bind(local.0));
            table.forwards.insert(local, running);
        }
        for SavedExpose { port, to } in saved.exposes.into_iter().take(EXPOSES_MAX) {
            table.exposes.insert(port, expose_of(node, Port(port), to, node.listen(Port(port))));
        }
        table.proxy =
            saved.proxy.map(|local| (local, self.proxy_of(node, local, local::bind(local.0))));
    }

    /// Ends everything; the settings stay.
    pub(crate) async fn stop(&self) {
        let mut phase = self.changing.lock().await;
        *phase = Phase::Stopped;
        let Table { forwards, exposes, proxy } = std::mem::take(&mut *self.table());
        for running in forwards.into_values() {
            running.end().await;
        }
        for running in exposes.into_values() {
            running.end().await;
        }
        if let Some((_, running)) = proxy {
            running.end().await;
        }
    }

    /// What does not listen though it should.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let table = self.table();
        let forwards = table.forwards.values().filter_map(|running| running.entry.warning());
        let exposes = table.exposes.values().filter_map(|running| running.entry.warning());
        let proxy = table.proxy.iter().filter_map(|(_, running)| running.entry.warning());
        forwards.chain(exposes).chain(proxy).collect()
    }

    /// Makes a change of the settings last.
    async fn save(&self, change: impl FnOnce(&mut Saved)) -> Result<(), Failure> {
        let mut saved = self.table().saved();
        change(&mut saved);
        let path = self.path.clone();
        let done = tokio::task::spawn_blocking(move || saved.save(&path)).await;
        done.unwrap_or_else(|e| Err(Failure::new(Code::Internal, e.to_string())))
    }

    // ---- forwards ----

    pub(crate) fn forwards(&self) -> Vec<Forward> {
        let table = self.table();
        table
            .forwards
            .iter()
            .map(|(local, running)| shown_forward(*local, &running.entry))
            .collect()
    }

    /// Listens on `local`, or leads what listens there to somewhere else. Port 0 takes a free
    /// port, which then stays the same.
    pub(crate) async fn set_forward(
        &self,
        node: &Node,
        local: LocalAddr,
        to: AgentPort,
        network: Option<u16>,
    ) -> Result<Forward, Failure> {
        let changing = self.changing.lock().await;
        changing.check()?;
        let target = Target { to, network };
        let saved = |local| SavedForward { local, to: target.to.clone(), network };
        let found = self.table().forwards.get(&local).map(|running| Arc::clone(&running.entry));
        if let Some(entry) = found {
            self.save(|file| {
                file.forwards.retain(|other| other.local != local);
                file.forwards.push(saved(local));
            })
            .await?;
            entry.retarget(target);
            return Ok(shown_forward(local, &entry));
        }
        check_room(self.table().forwards.len(), FORWARDS_MAX, "forwards")?;
        let listener = local::bind(local.0)?;
        let local = bound(&listener)?;
        self.save(|file| file.forwards.push(saved(local))).await?;
        let running = self.forward_of(node, local, target, Ok(listener));
        let shown = shown_forward(local, &running.entry);
        self.table().forwards.insert(local, running);
        Ok(shown)
    }

    pub(crate) async fn remove_forward(&self, local: LocalAddr) -> Result<Forward, Failure> {
        let changing = self.changing.lock().await;
        changing.check()?;
        if !self.table().forwards.contains_key(&local) {
            let message = format!("nothing is forwarded from {local}");
            return Err(
                Failure::new(Code::NotFound, message).hint("`pilotctl forward list` shows what is")
            );
        }
        self.save(|saved| saved.forwards.retain(|other| other.local != local)).await?;
        let running = self.table().forwards.remove(&local).ok_or_else(|| gone("forward"))?;
        let shown = shown_forward(local, &running.entry);
        running.end().await;
        Ok(shown)
    }

    fn forward_of(
        &self,
        node: &Node,
        local: LocalAddr,
        target: Target,
        listener: Result<TcpListener, Failure>,
    ) -> Running<Target> {
        let entry = Entry::new(format!("forward {local}"), target);
        let listener = entry.noted(listener);
        let (node, places, serving) = (node.clone(), self.places.clone(), entry.clone());
        Running::new(entry, async move {
            let listener = serving.opened(listener, || local::bind(local.0)).await;
            let target = serving.clone();
            let handle = move |tcp| local::forward(node.clone(), target.target(), tcp);
            local::accept_all(listener, serving, places, handle).await;
        })
    }

    // ---- exposes ----

    pub(crate) fn exposes(&self) -> Vec<Expose> {
        let table = self.table();
        table.exposes.iter().map(|(port, running)| shown_expose(*port, &running.entry)).collect()
    }

    /// Offers the service at `to` on a virtual port, or another one there from now on.
    pub(crate) async fn set_expose(
        &self,
        node: &Node,
        port: u16,
        to: HostPort,
    ) -> Result<Expose, Failure> {
        expose::check_port(Port(port))?;
        let changing = self.changing.lock().await;
        changing.check()?;
        let saved = SavedExpose { port, to: to.clone() };
        let found = self.table().exposes.get(&port).map(|running| Arc::clone(&running.entry));
        if let Some(entry) = found {
            self.save(|file| {
                file.exposes.retain(|other| other.port != port);
                file.exposes.push(saved);
            })
            .await?;
            entry.retarget(to);
            return Ok(shown_expose(port, &entry));
        }
        check_room(self.table().exposes.len(), EXPOSES_MAX, "exposed ports")?;
        let listener = node.listen(Port(port))?;
        self.save(|file| file.exposes.push(saved)).await?;
        let running = expose_of(node, Port(port), to, Ok(listener));
        let shown = shown_expose(port, &running.entry);
        self.table().exposes.insert(port, running);
        Ok(shown)
    }

    pub(crate) async fn remove_expose(&self, port: u16) -> Result<Expose, Failure> {
        let changing = self.changing.lock().await;
        changing.check()?;
        if !self.table().exposes.contains_key(&port) {
            let message = format!("nothing is exposed on port {port}");
            return Err(
                Failure::new(Code::NotFound, message).hint("`pilotctl expose list` shows what is")
            );
        }
        self.save(|saved| saved.exposes.retain(|other| other.port != port)).await?;
        let running = self.table().exposes.remove(&port).ok_or_else(|| gone("expose"))?;
        let shown = shown_expose(port, &running.entry);
        running.end().await;
        Ok(shown)
    }

    // ---- proxy ----

    pub(crate) fn proxy(&self) -> Option<Proxy> {
        let table = self.table();
        table.proxy.as_ref().map(|(local, running)| shown_proxy(*local, &running.entry))
    }

    /// Runs the proxy at `local`; one that runs elsewhere ends.
    pub(crate) async fn set_proxy(&self, node: &Node, local: LocalAddr) -> Result<Proxy, Failure> {
        let changing = self.changing.lock().await;
        changing.check()?;
        if let Some(proxy) = self.proxy().filter(|proxy| proxy.local == local.to_string()) {
            return Ok(proxy);
        }
        let listener = local::bind(local.0)?;
        let local = bound(&listener)?;
        self.save(|saved| saved.proxy = Some(local)).await?;
        let running = self.proxy_of(node, local, Ok(listener));
        let shown = shown_proxy(local, &running.entry);
        let before = self.table().proxy.replace((local, running));
        if let Some((_, before)) = before {
            before.end().await;
        }
        Ok(shown)
    }

    pub(crate) async fn remove_proxy(&self) -> Result<Proxy, Failure> {
        let changing = self.changing.lock().await;
        changing.check()?;
        if self.proxy().is_none() {
            return Err(
                Failure::new(Code::NotFound, "no proxy runs").hint("`pilotctl proxy` starts it")
            );
        }
        self.save(|saved| saved.proxy = None).await?;
        let (local, running) = self.table().proxy.take().ok_or_else(|| gone("proxy"))?;
        let shown = shown_proxy(local, &running.entry);
        running.end().await;
        Ok(shown)
    }

    fn proxy_of(
        &self,
        node: &Node,
        local: LocalAddr,
        listener: Result<TcpListener, Failure>,
    ) -> Running<()> {
        let entry = Entry::new(format!("proxy {local}"), ());
        let listener = entry.noted(listener);
        let (node, places, serving) = (node.clone(), self.places.clone(), entry.clone());
        Running::new(entry, async move {
            let listener = serving.opened(listener, || local::bind(local.0)).await;
            let handle = move |tcp| socks::serve(node.clone(), tcp);
            local::accept_all(listener, serving, places, handle).await;
        })
    }
}

fn expose_of(
    node: &Node,
    port: Port,
    to: HostPort,
    listener: Result<Listener, Failure>,
) -> Running<HostPort> {
    let entry = Entry::new(format!("expose {port}"), to);
    let listener = entry.noted(listener);
    let (node, serving) = (node.clone(), entry.clone());
    Running::new(entry, async move {
        let listener = serving.opened(listener, || node.listen(port)).await;
        expose::serve(listener, serving).await;
    })
}

fn check_room(count: usize, most: usize, what: &str) -> Result<(), Failure> {
    if count < most {
        return Ok(());
    }
    Err(Failure::new(Code::Full, format!("there are {most} {what}, and no room for more")))
}

/// Where it listens: port 0 has become a real one.
fn bound(listener: &TcpListener) -> Result<LocalAddr, Failure> {
    listener.local_addr().map(LocalAddr).map_err(|e| Failure::io("listen on TCP", e))
}

/// Changes come one at a time, so this says that something here is wrong.
fn gone(what: &str) -> Failure {
    Failure::new(Code::Internal, format!("the {what} has gone meanwhile"))
}

fn shown_forward(local: LocalAddr, entry: &Entry<Target>) -> Forward {
    let Target { to, network } = entry.target();
    let usage = entry.usage();
    Forward { local: local.to_string(), to: to.to_string(), network, usage }
}

fn shown_expose(port: u16, entry: &Entry<HostPort>) -> Expose {
    Expose { port, to: entry.target().to_string(), usage: entry.usage() }
}

fn shown_proxy(local: LocalAddr, entry: &Entry<()>) -> Proxy {
    Proxy { local: local.to_string(), usage: entry.usage() }
}

impl Table {
    /// As it stands in the file.
    fn saved(&self) -> Saved {
        let forward = |(local, running): (&LocalAddr, &Running<Target>)| {
            let Target { to, network } = running.entry.target();
            SavedForward { local: *local, to, network }
        };
        let expose = |(port, running): (&u16, &Running<HostPort>)| SavedExpose {
            port: *port,
            to: running.entry.target(),
        };
        Saved {
            forwards: self.forwards.iter().map(forward).collect(),
            exposes: self.exposes.iter().map(expose).collect(),
            proxy: self.proxy.as_ref().map(|(local, _)| *local),
            ..Saved::default()
        }
    }
}
