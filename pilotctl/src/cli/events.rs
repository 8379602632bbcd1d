//! Commands for events.

use super::agent::{InNetwork, Timeout};
use super::values::Agent;
use clap::Args;

/// Publish an event to an agent's broker; returns once the broker has it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl publish 1:0001.0000.0042 weather.berlin \"12 C\"
  pilotctl publish analysis-gcp build.status done --retain
  tail -f log | pilotctl publish analysis-gcp log.web - --lines

The broker hands it to those who subscribe there, and keeps it for nobody else, unless
--retain is given. ADDR may be this agent: its own daemon is a broker like any other.")]
pub(crate) struct Publish {
    /// Address or hostname of the agent whose broker is meant.
    #[arg(value_name = "ADDR")]
    pub(crate) agent: Agent,
    /// Tokens with dots between them, as weather.berlin: at most 255 bytes.
    pub(crate) topic: String,
    /// At most 64 KiB; `-` reads standard input.
    pub(crate) data: String,
    /// Publish each line of standard input as it comes (with `-`).
    #[arg(long)]
    pub(crate) lines: bool,
    /// Keep it as the topic's last value, for those who ask for it when they subscribe; an
    /// empty one deletes what is kept.
    #[arg(long)]
    pub(crate) retain: bool,
    /// Do not wait until the broker has it: it is lost if the stream breaks.
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) at: InNetwork,
    #[command(flatten)]
    pub(crate) timeout: Timeout,
}

/// Show events as they are published at an agent's broker. What others wrote is shown quoted.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl subscribe 1:0001.0000.0042 \"weather.*\" --count 1
  pilotctl subscribe analysis-gcp \"build.>\" log.web --retained --follow
  pilotctl subscribe analysis-gcp \"build.>\" --json | jq -r .data.text

`*` stands for one token, `>` at the end for one or more. Each event is a line: topic, who
published it, data; with --json an envelope a line. Events that were lost because this end was
too slow are counted, on standard error.")]
pub(crate) struct Subscribe {
    /// Address or hostname of the agent whose broker is meant.
    #[arg(value_name = "ADDR")]
    pub(crate) agent: Agent,
    /// Which topics: at most 256 patterns.
    #[arg(value_name = "PATTERN", required = true)]
    pub(crate) patterns: Vec<String>,
    /// End after so many events.
    #[arg(long, short = 'c', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Subscribe again whenever the agent was lost; what is published meanwhile is missed.
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
    /// Show the last values kept for these topics first.
    #[arg(long)]
    pub(crate) retained: bool,
    #[command(flatten)]
    pub(crate) at: InNetwork,
    #[command(flatten)]
    pub(crate) timeout: Timeout,
}
