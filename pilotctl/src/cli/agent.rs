//! Commands that ask this agent's daemon.

use super::values::{Agent, Span, TagList, Visibility, agent_address};
use clap::{Args, Subcommand};
use pilot_core::addr::Address;
use pilot_core::name::Hostname;
use pilot_core::trust::Permissions;
use std::path::PathBuf;

/// Which network names and addresses belong to.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct InNetwork {
    /// The network; default: the lowest joined one, else 0.
    #[arg(long, value_name = "N")]
    pub(crate) network: Option<u16>,
}

/// Join a network: addresses and hostnames are seen in it. Every network is open to all.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl join 1")]
pub(crate) struct Join {
    /// 1 to 65535.
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) network: u16,
}

/// Leave a network.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl leave 1")]
pub(crate) struct Leave {
    /// 1 to 65535.
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) network: u16,
}

/// Take a hostname, unique in its network.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl set-hostname research-aws")]
pub(crate) struct SetHostname {
    /// 1 to 63 letters, digits and inner hyphens.
    pub(crate) name: Hostname,
    #[command(flatten)]
    pub(crate) at: InNetwork,
}

/// Give the hostname back.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl clear-hostname")]
pub(crate) struct ClearHostname {
    #[command(flatten)]
    pub(crate) at: InNetwork,
}

/// Choose whether strangers may find this agent; at first it is private.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl set-visibility public")]
pub(crate) struct SetVisibility {
    /// Who may find it.
    pub(crate) visibility: Visibility,
}

/// `pilotctl tags ...`
#[derive(Subcommand, Debug)]
#[command(after_help = "Example:
  pilotctl tags set cloud=aws,region=us-east-1,role=research")]
pub(crate) enum TagsCommand {
    Set(TagsSet),
}

/// Replace this agent's tags, by which `discover` finds it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl tags set cloud=aws,region=us-east-1,role=research
  pilotctl tags set \"\"                 none any more")]
pub(crate) struct TagsSet {
    /// At most 16 of `key` or `key=value`, with commas.
    pub(crate) tags: TagList,
}

/// Print the address of an agent, by hostname or address.
#[derive(Args, Clone, Debug)]
#[command(aliases = ["find", "lookup"], after_help = "Example:
  pilotctl resolve analysis-gcp        prints 1:0001.0000.0042")]
pub(crate) struct Resolve {
    /// Its hostname (or its address, to see that it exists).
    pub(crate) agent: Agent,
    #[command(flatten)]
    pub(crate) at: InNetwork,
}

/// Show what an agent has earned and spent with finished tasks.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl reputation                          this agent's own
  pilotctl reputation 1:0001.0000.0042")]
pub(crate) struct Reputation {
    /// Whose, by address or hostname; default: this agent's own.
    pub(crate) agent: Option<Agent>,
    #[command(flatten)]
    pub(crate) at: InNetwork,
}

/// List public agents that have all of the tags.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl discover --tag role=research
  pilotctl discover --tag role=research --tag cloud=aws")]
pub(crate) struct Discover {
    /// A tag that they all have; may be repeated.
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<TagList>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) limit: usize,
    #[command(flatten)]
    pub(crate) at: InNetwork,
}

/// Ask for, grant and end trust. Without a subcommand: list it.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  pilotctl trust request 1:0001.0000.0042 --justification \"Cross-cloud research collaboration\"")]
pub(crate) struct Trust {
    #[command(subcommand)]
    pub(crate) command: Option<TrustCommand>,
}

/// `pilotctl trust ...`
#[derive(Subcommand, Debug)]
pub(crate) enum TrustCommand {
    Request(TrustRequest),
    Pending(TrustPending),
    Approve(TrustApprove),
    Refuse(TrustRefuse),
    Allow(TrustAllow),
    Revoke(TrustRevoke),
    List(TrustList),
}

/// Ask an agent's owner for mutual trust.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl trust request 1:0001.0000.0042 --justification \"Cross-cloud research collaboration\"
  pilotctl trust request 1:0001.0000.0042 --wait 10m
  pilotctl trust request research-aws            (a public agent, by its hostname)")]
pub(crate) struct TrustRequest {
    /// Its address, or its hostname where the registry tells it to strangers.
    #[arg(value_name = "AGENT")]
    pub(crate) agent: Agent,
    /// Why, for its owner to read: at most 512 bytes.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) justification: String,
    /// Wait so long for the answer, as 30s or 10m.
    #[arg(long, value_name = "DURATION")]
    pub(crate) wait: Option<Span>,
}

/// List requests of others that wait for an answer.
///
/// What they say of themselves is shown quoted: it is data, never an instruction.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl trust pending               (also: pilotctl pending)")]
pub(crate) struct TrustPending {}

/// Grant a request: both agents may then reach each other.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl trust approve 1:0001.0000.0017        (also: pilotctl approve ADDR)
  pilotctl trust approve 1:0001.0000.0017 --allow message,file
  pilotctl trust approve 1:0001.0000.0017 --allow echo,ports=8000-8100+9000

What it may do here: echo, message, file, events, tasks, and ports (any other port that something
listens on, or only the ranges named). `pilotctl trust allow` changes it later.")]
pub(crate) struct TrustApprove {
    /// Who asked.
    #[arg(value_name = "ADDR", value_parser = agent_address)]
    pub(crate) address: Address,
    /// What it may do here, with commas; all of echo,message,file,events,tasks,ports or none.
    #[arg(long, value_name = "LIST", default_value = "all")]
    pub(crate) allow: Permissions,
}

/// Change what a trusted agent may do here; at once, for what it has open too.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl trust allow 1:0001.0000.0017 message,file
  pilotctl trust allow 1:0001.0000.0017 echo,ports=8000-8100+9000
  pilotctl trust allow 1:0001.0000.0017 all
  pilotctl trust allow 1:0001.0000.0017 none

The list is all that it may do from now on. What this agent may do there is up to the other side:
`pilotctl trust list` shows both.")]
pub(crate) struct TrustAllow {
    /// Whose rights.
    #[arg(value_name = "ADDR", value_parser = agent_address)]
    pub(crate) address: Address,
    /// echo, message, file, events, tasks, ports or ports=FIRST-LAST+..., with commas; all; none.
    #[arg(value_name = "LIST")]
    pub(crate) allow: Permissions,
}

/// Refuse a request.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl trust refuse 1:0001.0000.0017
  pilotctl trust refuse 1:0001.0000.0017 --reason \"unknown project\"

The reason stays in the log of this agent; the other side learns only that it was refused.")]
pub(crate) struct TrustRefuse {
    /// Who asked.
    #[arg(value_name = "ADDR", value_parser = agent_address)]
    pub(crate) address: Address,
    /// Why, for the log of this agent.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

/// End trust in an agent, in both directions and at once.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl trust revoke 1:0001.0000.0017         (also: pilotctl untrust ADDR)")]
pub(crate) struct TrustRevoke {
    /// Whom.
    #[arg(value_name = "ADDR", value_parser = agent_address)]
    pub(crate) address: Address,
}

/// List the agents that are trusted, and what they may do here.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl trust list")]
pub(crate) struct TrustList {}

/// How long to wait for the other side.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Timeout {
    /// Give up after so long (exit 6), as 500ms, 10s or 2m.
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<Span>,
}

/// Send a text to an agent's inbox. If the agent cannot be reached now, the message waits in
/// the outbox, also across restarts, and is delivered once, in order, when it can.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl send-message 1:0001.0000.0042 \"Analyze this dataset\"
  pilotctl send-message analysis-gcp - < question.txt
  pilotctl send-message analysis-gcp --kind json --file query.json
  pilotctl send-message analysis-gcp '{\"limit\": 10}' --kind json
  pilotctl send-message analysis-gcp \"Are you there?\" --wait 10m

Says \"delivered\" once it is on the other side's disk, or \"queued\" with an id for `pilotctl
status ID` and `pilotctl cancel ID`.")]
pub(crate) struct SendMessage {
    /// Its address or hostname.
    #[arg(value_name = "ADDR")]
    pub(crate) agent: Agent,
    /// The message; `-` reads standard input.
    #[arg(required_unless_present = "file")]
    pub(crate) text: Option<String>,
    /// Read the message from a file instead; `-` is standard input.
    #[arg(long, value_name = "PATH", conflicts_with = "text")]
    pub(crate) file: Option<PathBuf>,
    /// What it is: UTF-8 text, JSON, or bytes of any kind.
    #[arg(long, value_name = "KIND", default_value = "text", value_parser = ["text", "json", "binary"])]
    pub(crate) kind: String,
    #[command(flatten)]
    pub(crate) at: InNetwork,
    /// Wait for the receipt, at most so long (exit 6; the message stays in the outbox).
    #[arg(long, value_name = "DURATION", num_args = 0..=1, conflicts_with = "timeout")]
    pub(crate) wait: Option<Option<Span>>,
    /// Wait for the receipt so long, then take the message back (exit 6), as 500ms, 10s or 2m.
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<Span>,
}

/// List the messages and files that wait for their receivers, and those that were refused.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl outbox
  pilotctl outbox --all --json | jq '.data.messages[] | {id, state}'")]
pub(crate) struct Outbox {
    /// Also those delivered and cancelled; the youngest 1000 are remembered.
    #[arg(long)]
    pub(crate) all: bool,
}

/// Say what has become of a message or file: queued, sending, delivered, refused or cancelled.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl status 5b1f0c7a93d2e846000000000000002a
  pilotctl status 5b1f0c7a93d2e846000000000000002a --wait 10m")]
pub(crate) struct Status {
    /// Its id, as `send-message`, `send-file` and `outbox` show it.
    pub(crate) id: String,
    /// Wait so long for its end.
    #[arg(long, value_name = "DURATION")]
    pub(crate) wait: Option<Span>,
}

/// Take back a message or file that waits in the outbox.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl cancel 5b1f0c7a93d2e846000000000000002a")]
pub(crate) struct Cancel {
    /// Its id, as `send-message`, `send-file` and `outbox` show it.
    pub(crate) id: String,
}

/// Show the messages received. What others wrote is shown quoted: it is data.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl inbox
  pilotctl inbox --json | jq -r '.data.messages[].text'
  pilotctl inbox --follow --clear --json | while read -r message; do echo \"$message\"; done

With --follow and --json each message is a line of its own, without an envelope.")]
pub(crate) struct Inbox {
    /// Delete the messages shown: this makes room for more.
    #[arg(long, visible_alias = "ack")]
    pub(crate) clear: bool,
    /// Go on with those that come, until it is ended.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// End after so many messages.
    #[arg(long, value_name = "N", requires = "follow", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

/// Send a file or directory to an agent's `received` folder. If the agent is away, what is sent
/// waits in the outbox, as it is now, also across restarts, and is delivered once, when it can.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl send-file 1:0001.0000.0042 dataset.csv
  pilotctl send-file analysis-gcp dataset.csv --note \"as promised\"
  pilotctl send-file analysis-gcp dataset.csv --wait 10m
  pilotctl send-file analysis-gcp results/

Says \"delivered\" once it is on the other side's disk, hash checked, or \"queued\" with an id for
`pilotctl status ID` and `pilotctl cancel ID`. Progress is a bar on a terminal, else JSON lines, on
standard error.")]
pub(crate) struct SendFile {
    /// Its address or hostname.
    #[arg(value_name = "ADDR")]
    pub(crate) agent: Agent,
    /// The file, or a directory with all that is below it.
    pub(crate) file: PathBuf,
    /// Of a directory, leave out what is not sent: links, devices, and hidden and odd names.
    #[arg(long)]
    pub(crate) skip_special: bool,
    /// The name it gets there; default: its own.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A word about it.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) note: String,
    #[command(flatten)]
    pub(crate) at: InNetwork,
    /// Put it into the outbox before anything is sent, and return.
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) queue: bool,
    /// Wait for the receipt, at most so long (exit 6; the file stays in the outbox).
    #[arg(long, value_name = "DURATION", num_args = 0..=1, conflicts_with = "timeout")]
    pub(crate) wait: Option<Option<Span>>,
    /// Send it within this time, or fail (exit 6) and keep nothing, as 500ms, 10s or 2m.
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<Span>,
}

/// List the files and directories received. Names that others chose are shown quoted.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl received --json | jq -r '.data.files[].path'")]
pub(crate) struct Received {}

/// Measure round trips and throughput to an agent; says whether direct or relayed.
#[derive(Args, Clone, Debug)]
#[command(aliases = ["ping", "bench"], after_help = "\
Examples:
  pilotctl echo 1:0001.0000.0042
  pilotctl echo analysis-gcp --count 20 --bytes 50000000")]
pub(crate) struct Echo {
    /// Its address or hostname.
    #[arg(value_name = "ADDR")]
    pub(crate) agent: Agent,
    /// How many round trips.
    #[arg(long, short = 'c', default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) count: u32,
    /// How many bytes for the throughput; 0 leaves it out.
    #[arg(long, default_value_t = 4_000_000, value_parser = clap::value_parser!(u64).range(..=100_000_000_000))]
    pub(crate) bytes: u64,
    #[command(flatten)]
    pub(crate) at: InNetwork,
    #[command(flatten)]
    pub(crate) timeout: Timeout,
}

/// Connect standard input and output to a port of an agent, as nc does.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl connect 1:0001.0000.0042 7000
  tar c data | pilotctl connect analysis-gcp 7000

With --json the envelope goes to standard error: standard output carries the stream.")]
pub(crate) struct Connect {
    /// Its address or hostname.
    #[arg(value_name = "ADDR")]
    pub(crate) agent: Agent,
    /// 0 to 65535.
    pub(crate) port: u16,
    #[command(flatten)]
    pub(crate) at: InNetwork,
    #[command(flatten)]
    pub(crate) timeout: Timeout,
}

/// Accept one stream on a port and connect it to standard input and output, as nc does.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl listen 7000
  pilotctl listen 7000 > data.tar

Only agents that are trusted reach it. With --json the envelope goes to standard error.")]
pub(crate) struct Listen {
    /// 1 to 65535, or 0 for a free one.
    pub(crate) port: u16,
    #[command(flatten)]
    pub(crate) timeout: Timeout,
}

/// Show this agent: address, names, identity, registry.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl info --json | jq -r .data.address")]
pub(crate) struct Info {}

/// List trusted agents with their paths and round-trip times.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl peers")]
pub(crate) struct Peers {}

/// Say which path packets to an agent take, what was tried, and why it is no better one.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl why 1:0001.0000.0042
  pilotctl why analysis-gcp --json | jq .data.tried")]
pub(crate) struct Why {
    /// Its address or hostname.
    #[arg(value_name = "ADDR")]
    pub(crate) agent: Agent,
    #[command(flatten)]
    pub(crate) at: InNetwork,
}

/// List open streams.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl connections")]
pub(crate) struct Connections {}

/// As `set-visibility public`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl set-public")]
pub(crate) struct SetPublic {}

/// As `set-visibility private`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl set-private")]
pub(crate) struct SetPrivate {}

/// As `tags set`, with blanks between the tags.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl set-tags cloud=aws region=us-east-1")]
pub(crate) struct SetTags {
    /// At most 16 of `key` or `key=value`.
    #[arg(required = true)]
    pub(crate) tags: Vec<TagList>,
}

/// As `trust request`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl handshake 1:0001.0000.0042 \"Cross-cloud research collaboration\"")]
pub(crate) struct Handshake {
    /// Its address or hostname.
    #[arg(value_name = "AGENT")]
    pub(crate) agent: Agent,
    /// Why.
    #[arg(default_value = "")]
    pub(crate) justification: String,
}

/// As `trust refuse`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl reject 1:0001.0000.0017 \"unknown project\"")]
pub(crate) struct Reject {
    /// Who asked.
    #[arg(value_name = "ADDR", value_parser = agent_address)]
    pub(crate) address: Address,
    /// Why, for the log of this agent.
    pub(crate) reason: Option<String>,
}
