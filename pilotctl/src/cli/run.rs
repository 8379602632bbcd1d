//! Commands that run or look after processes and files of this machine.

use super::values::{HostPort, PathChoice, Registry, RegistryKey};
use crate::config::{DaemonSettings, RendezvousSettings};
use crate::limits::{DaemonLimits, ServerLimits};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `pilotctl rendezvous ...`
#[derive(Subcommand, Debug)]
#[command(after_help = "Example:
  pilotctl rendezvous start --registry-addr 0.0.0.0:9000 --beacon-addr 0.0.0.0:9001")]
pub(crate) enum RendezvousCommand {
    Start(RendezvousStart),
    Status(RendezvousStatus),
    Stop(RendezvousStop),
    Export(RendezvousExport),
}

/// Start the rendezvous server: TCP and UDP port 9000 and 9001 must reach it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl rendezvous start --registry-addr 0.0.0.0:9000 --beacon-addr 0.0.0.0:9001 \\
      --persist /var/lib/pilot/registry.json
  pilotctl rendezvous start            again, with the settings of the last time

`--persist P.json` keeps P.redb (the truth), P.key (the server's identity, back it up) and
P.json (a readable export). Without it they lie in PILOT_HOME/rendezvous.")]
pub(crate) struct RendezvousStart {
    /// Where the registry listens (TCP), default 0.0.0.0:9000. Port 0 takes a free one; `[::]`
    /// takes IPv4, too.
    #[arg(long, value_name = "HOST:PORT", env = "PILOT_REGISTRY_ADDR")]
    pub(crate) registry_addr: Option<HostPort>,
    /// Where the beacon listens (UDP), default 0.0.0.0:9001.
    #[arg(long, value_name = "HOST:PORT", env = "PILOT_BEACON_ADDR")]
    pub(crate) beacon_addr: Option<HostPort>,
    /// A second address and port of this host for the beacon, by which agents learn how their
    /// NAT behaves (RFC 5780); neither beacon address may be a wildcard then.
    #[arg(long, value_name = "HOST:PORT", env = "PILOT_BEACON_ALT_ADDR")]
    pub(crate) beacon_alt_addr: Option<HostPort>,
    /// The export beside which store and key lie.
    #[arg(long, value_name = "FILE.json", env = "PILOT_PERSIST")]
    pub(crate) persist: Option<PathBuf>,
    /// Import FILE.json without its FILE.key: make a new server identity.
    #[arg(long)]
    pub(crate) new_key: bool,
    /// Stay in the foreground and log to standard error.
    #[arg(long)]
    pub(crate) foreground: bool,
    #[arg(long, hide = true, requires = "foreground")]
    pub(crate) detached: bool,
}

impl RendezvousStart {
    /// The settings among the flags and the environment.
    pub(crate) fn settings(&self) -> RendezvousSettings {
        RendezvousSettings {
            registry_addr: self.registry_addr.clone(),
            beacon_addr: self.beacon_addr.clone(),
            beacon_alt_addr: self.beacon_alt_addr.clone(),
            persist: self.persist.clone(),
            limits: ServerLimits::default(),
        }
    }
}

/// Show whether the rendezvous server runs, where, and how much it carries.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl rendezvous status --json | jq -r .data.registry")]
pub(crate) struct RendezvousStatus {}

/// Stop the rendezvous server; what it acknowledged is on disk.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl rendezvous stop")]
pub(crate) struct RendezvousStop {}

/// Write the readable export now.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl rendezvous export")]
pub(crate) struct RendezvousExport {}

/// `pilotctl daemon ...`
#[derive(Subcommand, Debug)]
#[command(after_help = "Example:
  pilotctl daemon start --registry registry.example:9000 --beacon registry.example:9001")]
pub(crate) enum DaemonCommand {
    Start(Box<DaemonStart>),
    Status(DaemonStatus),
    Stop(DaemonStop),
}

/// Start this agent's daemon; the first start registers it and gives it its address for life.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl daemon start --registry 192.0.2.1:9000 --beacon 192.0.2.1:9001
  pilotctl daemon start --registry registry.example:9000#KEY --endpoint 198.51.100.7:4000
  pilotctl daemon start                again, with the settings of the last time
  PILOT_HOME=/srv/agent2 pilotctl daemon start --registry 192.0.2.1:9000 --listen 0.0.0.0:0")]
pub(crate) struct DaemonStart {
    /// The registry (TCP), with its key if you have it: HOST:PORT or HOST:PORT#KEY.
    #[arg(long, value_name = "HOST:PORT[#KEY]", env = "PILOT_REGISTRY")]
    pub(crate) registry: Option<Registry>,
    /// The registry's key; without one the first key seen is pinned.
    #[arg(long, value_name = "KEY", env = "PILOT_REGISTRY_KEY")]
    pub(crate) registry_key: Option<RegistryKey>,
    /// The beacon (UDP); default: the registry's host, port 9001.
    #[arg(long, value_name = "HOST:PORT", env = "PILOT_BEACON")]
    pub(crate) beacon: Option<HostPort>,
    /// The public UDP address of this agent, if it has one.
    #[arg(long, value_name = "HOST:PORT", env = "PILOT_ENDPOINT")]
    pub(crate) endpoint: Option<HostPort>,
    /// Where to listen (UDP); default port 4000 on IPv4 and IPv6, any free port if that is
    /// taken and no --endpoint is given. Port 0 takes a free one.
    #[arg(long, value_name = "HOST:PORT", env = "PILOT_LISTEN")]
    pub(crate) listen: Option<HostPort>,
    /// Which paths to peers may be used.
    #[arg(long, value_name = "PATH", env = "PILOT_PATH")]
    pub(crate) path: Option<PathChoice>,
    /// Never look for a peer's port by trying many: it may look like a port scan to whoever
    /// watches the network. Some pairs of NATs are relayed then.
    #[arg(long, value_name = "BOOL", env = "PILOT_NO_SPRAY", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) no_spray: Option<bool>,
    /// Take tasks only from agents with this reputation or a higher one.
    #[arg(long, value_name = "N", env = "PILOT_MIN_REPUTATION", allow_hyphen_values = true)]
    pub(crate) min_reputation: Option<i64>,
    /// Take this identity over from another home that runs it.
    #[arg(long)]
    pub(crate) takeover: bool,
    /// Stay in the foreground and log to standard error.
    #[arg(long)]
    pub(crate) foreground: bool,
    #[arg(long, hide = true, requires = "foreground")]
    pub(crate) detached: bool,
}

impl DaemonStart {
    /// The settings among the flags and the environment.
    pub(crate) fn settings(&self) -> DaemonSettings {
        DaemonSettings {
            registry: self.registry.clone(),
            registry_key: self.registry_key,
            beacon: self.beacon.clone(),
            endpoint: self.endpoint.clone(),
            listen: self.listen.clone(),
            path: self.path,
            no_spray: self.no_spray,
            min_reputation: self.min_reputation,
            limits: DaemonLimits::default(),
        }
    }
}

/// Show whether the daemon runs, with its process id, address and sockets.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl daemon status --json | jq .data.pid")]
pub(crate) struct DaemonStatus {}

/// Stop the daemon: it says goodbye to its peers first.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl daemon stop")]
pub(crate) struct DaemonStop {}

/// Show the daemon's log.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl logs
  pilotctl logs -f
  pilotctl logs --rendezvous -n 20

A daemon in the foreground logs to standard error instead (under systemd: journalctl).")]
pub(crate) struct Logs {
    /// Go on with what is logged from now.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many lines.
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    pub(crate) lines: usize,
    /// The rendezvous server's log.
    #[arg(long)]
    pub(crate) rendezvous: bool,
}

/// Print a completion script for a shell.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl completions bash > ~/.local/share/bash-completion/completions/pilotctl")]
pub(crate) struct Completions {
    /// Which shell.
    pub(crate) shell: clap_complete::Shell,
}

/// Delete this agent: identity, trust, settings, inbox and received files.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl reset --yes
  pilotctl reset --yes --keep-identity    keeps the identity, and with it the address

A rendezvous server in the same home is left alone.")]
pub(crate) struct Reset {
    /// Yes, delete it.
    #[arg(long, required = true)]
    pub(crate) yes: bool,
    /// Keep the identity, and with it the address.
    #[arg(long)]
    pub(crate) keep_identity: bool,
}

/// Run the whole story on this machine: register, discover, trust, message, file, event, task.
///
/// The file is cut in the middle and resumed; the task earns its agent a reputation.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl demo
  pilotctl demo --keep                 its directory stays: logs, stores, received file

Needs no root, no network and no second terminal; its processes end with it. With --json each
step is a line of its own, before the envelope.")]
pub(crate) struct Demo {
    /// Keep its temporary directory.
    #[arg(long)]
    pub(crate) keep: bool,
}
