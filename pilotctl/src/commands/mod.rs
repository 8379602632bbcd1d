//! One function per command: ask the daemon, show the answer. Nothing is decided here.

mod events;
mod exchange;
mod files;
mod guard;
mod messages;
mod names;
mod pipe;
mod process;
mod programs;
mod serve;
mod show;
mod tasks;
mod trust;
mod why;

pub(crate) use pipe::{PORT_HEADER, STREAM_HEADER};
pub(crate) use process::{rendezvous_text, started_text};

use crate::cli::agent::{SetVisibility, TagsCommand, TagsSet, TrustCommand, TrustList};
use crate::cli::run::{DaemonCommand, RendezvousCommand};
use crate::cli::values::{TagList, Visibility};
use crate::cli::{Cli, Command, agent};
use crate::client::Client;
use crate::error::Failure;
use crate::home::Home;
use crate::output::Output;

/// What every command needs.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) home: Home,
    pub(crate) out: Output,
}

impl Context {
    fn client(&self) -> Client {
        Client::daemon(&self.home)
    }
}

/// Runs a command that asks; those that are a server themselves are elsewhere.
pub(crate) async fn run(cx: &Context, cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Rendezvous(command) => match command {
            RendezvousCommand::Start(args) => process::rendezvous_start(cx, args).await,
            RendezvousCommand::Status(_) => process::rendezvous_status(cx).await,
            RendezvousCommand::Stop(_) => process::rendezvous_stop(cx).await,
            RendezvousCommand::Export(_) => process::rendezvous_export(cx).await,
        },
        Command::Daemon(command) => match command {
            DaemonCommand::Start(args) => process::daemon_start(cx, *args).await,
            DaemonCommand::Status(_) => process::daemon_status(cx).await,
            DaemonCommand::Stop(_) => process::daemon_stop(cx).await,
        },
        Command::Join(args) => names::join(cx, args).await,
        Command::Leave(args) => names::leave(cx, args).await,
        Command::SetHostname(args) => names::set_hostname(cx, args).await,
        Command::ClearHostname(args) => names::clear_hostname(cx, args).await,
        Command::SetVisibility(args) => names::set_visibility(cx, args).await,
        Command::SetPublic(_) => visibility(cx, Visibility::Public).await,
        Command::SetPrivate(_) => visibility(cx, Visibility::Private).await,
        Command::Tags(TagsCommand::Set(args)) => names::set_tags(cx, args).await,
        Command::SetTags(args) => names::set_tags(cx, TagsSet { tags: joined(args.tags) }).await,
        Command::Resolve(args) => names::resolve(cx, args).await,
        Command::Discover(args) => names::discover(cx, args).await,
        Command::Reputation(args) => show::reputation(cx, args).await,
        Command::Trust(args) => match args.command.unwrap_or(TrustCommand::List(TrustList {})) {
            TrustCommand::Request(args) => trust::request(cx, args).await,
            TrustCommand::Pending(_) => trust::pending(cx).await,
            TrustCommand::Approve(args) => trust::approve(cx, args).await,
            TrustCommand::Refuse(args) => trust::refuse(cx, args).await,
            TrustCommand::Allow(args) => trust::allow(cx, args).await,
            TrustCommand::Revoke(args) => trust::revoke(cx, args).await,
            TrustCommand::List(_) => trust::list(cx).await,
        },
        Command::Handshake(agent::Handshake { agent, justification }) => {
            trust::request(cx, agent::TrustRequest { agent, justification, wait: None }).await
        }
        Command::Pending(_) => trust::pending(cx).await,
        Command::Approve(args) => trust::approve(cx, args).await,
        Command::Reject(agent::Reject { address, reason }) => {
            trust::refuse(cx, agent::TrustRefuse { address, reason }).await
        }
        Command::Untrust(args) => trust::revoke(cx, args).await,
        Command::SendMessage(args) => messages::send_message(cx, args).await,
        Command::Outbox(args) => messages::outbox(cx, args).await,
        Command::Status(args) => messages::status(cx, args).await,
        Command::Cancel(args) => messages::cancel(cx, args).await,
        Command::Inbox(args) => messages::inbox(cx, args).await,
        Command::SendFile(args) => files::send_file(cx, args).await,
        Command::Received(_) => files::received(cx).await,
        Command::Echo(args) => exchange::echo(cx, args).await,
        Command::Task(command) => tasks::run(cx, command).await,
        Command::Publish(args) => events::publish(cx, args).await,
        Command::Subscribe(args) => events::subscribe(cx, args).await,
        Command::Connect(args) => pipe::connect(cx, args).await,
        Command::Listen(args) => pipe::listen(cx, args).await,
        Command::Forward(args) => programs::forward(cx, args).await,
        Command::Expose(args) => programs::expose(cx, args).await,
        Command::Proxy(args) => programs::proxy(cx, args).await,
        Command::Info(_) => show::info(cx).await,
        Command::Peers(_) => show::peers(cx).await,
        Command::Why(args) => why::why(cx, args).await,
        Command::Connections(_) => show::connections(cx).await,
        Command::Logs(args) => process::logs(cx, args).await,
        Command::Completions(args) => process::completions(cx, args),
        Command::Reset(args) => process::reset(cx, args),
        Command::Demo(args) => process::demo(cx, args).await,
    }
}

async fn visibility(cx: &Context, visibility: Visibility) -> Result<(), Failure> {
    names::set_visibility(cx, SetVisibility { visibility }).await
}

fn joined(lists: Vec<TagList>) -> TagList {
    TagList(lists.into_iter().flat_map(|list| list.0).collect())
}
