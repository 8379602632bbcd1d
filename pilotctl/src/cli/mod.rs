//! The command line: every command, its flags, and an example in each `--help`.

pub(crate) mod agent;
pub(crate) mod events;
pub(crate) mod programs;
pub(crate) mod run;
pub(crate) mod tasks;
pub(crate) mod values;

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// What `--version` prints behind the program's name. The wire version is that of the
/// handshake's second byte (`wire.md` 4.2).
const VERSION: &str =
    concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("PILOT_COMMIT"), ", wire version 1)");

/// The version as the API shows it.
pub(crate) const fn version() -> &'static str {
    VERSION
}

/// Pilot Protocol: agents find, trust and talk to each other, wherever they run.
#[derive(Parser, Debug)]
#[command(
    name = "pilotctl",
    version = VERSION,
    propagate_version = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "\
Examples:
  pilotctl demo                                          the whole story on this machine
  pilotctl daemon start --registry registry.example:9000
  pilotctl resolve analysis-gcp
  pilotctl send-message 1:0001.0000.0042 \"Analyze this dataset\"

Exit codes: 0 done; 1 failed; 2 usage; 3 name unknown or private; 4 no grant for that agent;
5 no answer; 6 timed out; 7 daemon not running; 8 conflict."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Common {
    /// Print one JSON envelope instead of plain lines.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The directory of this agent, default ~/.pilot.
    #[arg(long, global = true, value_name = "DIR", env = "PILOT_HOME")]
    pub(crate) home: Option<PathBuf>,
}

/// Every command.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run the rendezvous server: registry and beacon.
    #[command(subcommand)]
    Rendezvous(run::RendezvousCommand),
    /// Run this agent's daemon.
    #[command(subcommand)]
    Daemon(run::DaemonCommand),
    Join(agent::Join),
    Leave(agent::Leave),
    SetHostname(agent::SetHostname),
    ClearHostname(agent::ClearHostname),
    SetVisibility(agent::SetVisibility),
    /// Say what this agent is and does.
    #[command(subcommand)]
    Tags(agent::TagsCommand),
    Resolve(agent::Resolve),
    Discover(agent::Discover),
    Reputation(agent::Reputation),
    Trust(agent::Trust),
    SendMessage(agent::SendMessage),
    Outbox(agent::Outbox),
    Status(agent::Status),
    Cancel(agent::Cancel),
    Inbox(agent::Inbox),
    SendFile(agent::SendFile),
    Received(agent::Received),
    /// Hand work to agents, and work for them.
    #[command(subcommand)]
    Task(tasks::TaskCommand),
    Publish(events::Publish),
    Subscribe(events::Subscribe),
    Echo(agent::Echo),
    Connect(agent::Connect),
    Listen(agent::Listen),
    Forward(programs::Forward),
    Expose(programs::Expose),
    Proxy(programs::Proxy),
    Info(agent::Info),
    Peers(agent::Peers),
    Why(agent::Why),
    Connections(agent::Connections),
    Logs(run::Logs),
    Completions(run::Completions),
    Reset(run::Reset),
    Demo(run::Demo),

    // The Go program's spelling of what is a group or a value here.
    #[command(hide = true)]
    SetPublic(agent::SetPublic),
    #[command(hide = true)]
    SetPrivate(agent::SetPrivate),
    #[command(hide = true)]
    SetTags(agent::SetTags),
    #[command(hide = true)]
    Handshake(agent::Handshake),
    #[command(hide = true)]
    Pending(agent::TrustPending),
    #[command(hide = true)]
    Approve(agent::TrustApprove),
    #[command(hide = true)]
    Reject(agent::Reject),
    #[command(hide = true)]
    Untrust(agent::TrustRevoke),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_has_an_example_of_that_command() {
        fn check(command: &mut clap::Command, path: &str) -> usize {
            let help = command.render_long_help().to_string();
            let (_, examples) = help.split_once("Example").unwrap_or_else(|| panic!("{path}"));
            let name = path.trim_end();
            assert!(examples.contains(name), "{path}: no example of itself");
            assert!(command.get_about().is_some(), "{path}: no description");
            let mut count = 1;
            for sub in command.get_subcommands_mut() {
                let path = format!("{path} {}", sub.get_name());
                count += check(sub, &path);
            }
            count
        }
        assert!(check(&mut Cli::command(), "pilotctl") > 40);
    }

    #[test]
    fn the_command_lines_of_the_manual_parse() {
        for line in include_str!("../../tests/manual.txt").lines() {
            let words = split(line);
            if words.is_empty() {
                continue;
            }
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{line}\n{error}");
            }
        }
    }

    /// Words of a shell line, with double quotes.
    fn split(line: &str) -> Vec<String> {
        let line = line.split(" # ").next().unwrap_or_default();
        let mut words = Vec::new();
        for (i, part) in line.split('"').enumerate() {
            if i % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        words
    }

    #[test]
    fn the_version_names_commit_and_wire() {
        let version = Cli::command().render_version();
        let wire = format!("wire version {})", pilot_core::wire::frame::VERSION);
        assert!(version.contains("(commit ") && version.contains(&wire), "{version}");
    }
}
