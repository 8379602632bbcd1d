//! Commands by which other programs use the network.

use super::agent::InNetwork;
use super::values::{AgentPort, HostPort, LocalAddr};
use clap::{Args, Subcommand};

/// Listen on a local TCP port, and carry each connection to a port of an agent. Lasts.
///
/// Without anything: list what is forwarded.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  pilotctl forward 8080 1:0001.0000.0042:80
  pilotctl forward [::1]:2222 analysis-gcp:22
  pilotctl forward list
  pilotctl forward remove 8080

A port alone listens on 127.0.0.1; whoever can connect there can use it. The daemon listens again
after a restart. The same LOCAL again leads new connections to another port."
)]
pub(crate) struct Forward {
    #[command(subcommand)]
    pub(crate) command: Option<ForwardCommand>,
    /// Where to listen: PORT or IP:PORT; port 0 takes a free one.
    #[arg(requires = "to")]
    pub(crate) local: Option<LocalAddr>,
    /// The agent's address or hostname, and its port.
    #[arg(value_name = "ADDR:PORT")]
    pub(crate) to: Option<AgentPort>,
    #[command(flatten)]
    pub(crate) at: InNetwork,
}

/// `pilotctl forward ...`
#[derive(Subcommand, Debug)]
pub(crate) enum ForwardCommand {
    List(ForwardList),
    Remove(ForwardRemove),
}

/// List what is forwarded, and how it is used.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl forward list")]
pub(crate) struct ForwardList {}

/// Forward no more; open connections are cut.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl forward remove 8080")]
pub(crate) struct ForwardRemove {
    /// Where it listens.
    pub(crate) local: LocalAddr,
}

/// Offer a TCP service to trusted agents on a port of this agent. Lasts.
///
/// Without anything: list what is exposed.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  pilotctl expose 80 127.0.0.1:3000
  pilotctl expose list
  pilotctl expose remove 80

Only agents that are trusted, and whose grant covers the port, reach it. The service sees
connections of this host. Ports 7, 444, 1001, 1002 and 1003 belong to services of every agent."
)]
pub(crate) struct Expose {
    #[command(subcommand)]
    pub(crate) command: Option<ExposeCommand>,
    /// The port that agents connect to, 1 to 65535.
    #[arg(requires = "to", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// The service.
    #[arg(value_name = "HOST:PORT")]
    pub(crate) to: Option<HostPort>,
}

/// `pilotctl expose ...`
#[derive(Subcommand, Debug)]
pub(crate) enum ExposeCommand {
    List(ExposeList),
    Remove(ExposeRemove),
}

/// List what is exposed, and how it is used.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl expose list")]
pub(crate) struct ExposeList {}

/// Expose no more; open connections are cut.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl expose remove 80")]
pub(crate) struct ExposeRemove {
    /// The port that agents connect to.
    pub(crate) port: u16,
}

/// Run a SOCKS5 proxy that leads to agents, by names under .pilot. Lasts.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  pilotctl proxy
  pilotctl proxy 127.0.0.1:9050
  pilotctl proxy status
  pilotctl proxy stop
  curl --proxy socks5h://127.0.0.1:1080 http://analysis-gcp.pilot/

Names: HOSTNAME.pilot, HOSTNAME.N.pilot in network N, and an address with dots alone, as
1.0001.0000.0042.pilot. The proxy resolves them, so let it (socks5h). It leads nowhere else."
)]
pub(crate) struct Proxy {
    #[command(subcommand)]
    pub(crate) command: Option<ProxyCommand>,
    /// Where to listen: PORT or IP:PORT; port 0 takes a free one.
    #[arg(default_value_t = LocalAddr::PROXY)]
    pub(crate) local: LocalAddr,
}

/// `pilotctl proxy ...`
#[derive(Subcommand, Debug)]
pub(crate) enum ProxyCommand {
    Status(ProxyStatus),
    Stop(ProxyStop),
}

/// Show whether the proxy runs, and how it is used.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl proxy status")]
pub(crate) struct ProxyStatus {}

/// Run the proxy no more; open connections are cut.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl proxy stop")]
pub(crate) struct ProxyStop {}
