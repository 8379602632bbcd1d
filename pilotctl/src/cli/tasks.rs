//! Commands for tasks.

use super::agent::InNetwork;
use super::values::{Agent, Span};
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// `pilotctl task ...`
#[derive(Subcommand, Debug)]
#[command(after_help = "\
Examples:
  pilotctl task submit analysis-gcp --description \"Summarize this\" --file dataset.csv
  pilotctl task wait 3f0c95a1d2e84b6790aabbccddeeff00
  pilotctl task serve --exec ./worker")]
pub(crate) enum TaskCommand {
    Submit(TaskSubmit),
    List(TaskList),
    Show(TaskShow),
    Accept(TaskAccept),
    Decline(TaskDecline),
    Start(TaskStart),
    Progress(TaskProgress),
    Complete(TaskComplete),
    Fail(TaskFail),
    Cancel(TaskCancel),
    Wait(TaskWait),
    Serve(TaskServe),
    /// The tasks that were accepted and wait for their turn (the Go program's spelling).
    #[command(hide = true)]
    Queue(TaskQueue),
    /// What `task serve` runs to end its programs after it.
    #[command(hide = true)]
    #[command(after_help = "\
Example:
  (echo +4242; cat) | pilotctl task guard      # kills process group 4242 when cat ends")]
    Guard,
}

/// Hand work to an agent; prints the task's id. If the agent cannot be reached now, the task
/// waits, also across restarts, and is handed over once when it can.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl task submit 1:0001.0000.0042 --description \"Summarize this\" --file dataset.csv
  pilotctl task submit analysis-gcp --description - < task.txt
  id=$(pilotctl task submit analysis-gcp --description \"Add 2 and 2\"); pilotctl task wait $id

The worker has a minute to accept or decline it, from when its daemon has it.")]
pub(crate) struct TaskSubmit {
    /// The worker's address or hostname.
    #[arg(value_name = "ADDR")]
    pub(crate) agent: Agent,
    /// What is to be done, at most 64 KiB; `-` reads standard input.
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: String,
    /// A file that it needs; may be repeated, up to 16 times.
    #[arg(long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) at: InNetwork,
    /// Wait until the worker's daemon has it, at most so long.
    #[arg(long, value_name = "DURATION")]
    pub(crate) wait: Option<Span>,
}

/// Which side of a task this agent is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Role {
    /// It has submitted the task.
    Submitter,
    /// It works on the task.
    Worker,
}

impl Role {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Role::Submitter => "submitter",
            Role::Worker => "worker",
        }
    }
}

/// List tasks, those of others and our own, the oldest first.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl task list
  pilotctl task list --role worker --open
  pilotctl task list --follow --json | jq '.data | {id, state}'")]
pub(crate) struct TaskList {
    /// Only those in which this agent has this role.
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: Option<Role>,
    /// Only those that have not ended.
    #[arg(long)]
    pub(crate) open: bool,
    /// Go on with each task that changes.
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
}

/// Show a task: its state, texts and files, and what becomes of it.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl task show 3f0c95a1d2e84b6790aabbccddeeff00 --json | jq -r .data.result")]
pub(crate) struct TaskShow {
    /// Its id.
    pub(crate) id: String,
}

/// Take a task on. It waits in this agent's queue until it is started; one that is at its head
/// for an hour expires.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl task accept 3f0c95a1d2e84b6790aabbccddeeff00")]
pub(crate) struct TaskAccept {
    /// Its id.
    pub(crate) id: String,
}

/// Do not take a task on.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl task decline 3f0c95a1d2e84b6790aabbccddeeff00 --reason \"no GPU here\"")]
pub(crate) struct TaskDecline {
    /// Its id.
    pub(crate) id: String,
    /// Why, for the submitter: at most 512 bytes.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) reason: String,
}

/// Begin to work on a task that was accepted.
#[derive(Args, Clone, Debug)]
#[command(
    alias = "execute",
    after_help = "Example:
  pilotctl task start 3f0c95a1d2e84b6790aabbccddeeff00"
)]
pub(crate) struct TaskStart {
    /// Its id.
    pub(crate) id: String,
}

/// Tell the submitter how far a task is.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl task progress 3f0c95a1d2e84b6790aabbccddeeff00 \"40 of 100 files\"")]
pub(crate) struct TaskProgress {
    /// Its id.
    pub(crate) id: String,
    /// A word about it: at most 1,024 bytes.
    pub(crate) text: String,
}

/// Return the result of a task.
#[derive(Args, Clone, Debug)]
#[command(
    alias = "send-results",
    after_help = "\
Examples:
  pilotctl task complete 3f0c95a1d2e84b6790aabbccddeeff00 --result \"4\"
  pilotctl task complete 3f0c95a1d2e84b6790aabbccddeeff00 --result - --file plot.png < summary.txt"
)]
pub(crate) struct TaskComplete {
    /// Its id.
    pub(crate) id: String,
    /// The result, at most 64 KiB; `-` reads standard input.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) result: String,
    /// A file that belongs to it; may be repeated, up to 16 times.
    #[arg(long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// Give a task up.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl task fail 3f0c95a1d2e84b6790aabbccddeeff00 --reason \"the dataset is damaged\"")]
pub(crate) struct TaskFail {
    /// Its id.
    pub(crate) id: String,
    /// Why, for the submitter: at most 512 bytes.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) reason: String,
}

/// Call off a task that this agent has submitted.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Example:
  pilotctl task cancel 3f0c95a1d2e84b6790aabbccddeeff00

It is cancelled once the worker has heard of it, unless it has ended before.")]
pub(crate) struct TaskCancel {
    /// Its id.
    pub(crate) id: String,
}

/// Wait until a task has ended, and show its result. Exit 0 if it succeeded, 1 if it ended
/// otherwise, 6 if it is not over in time.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl task wait 3f0c95a1d2e84b6790aabbccddeeff00 --timeout 10m")]
pub(crate) struct TaskWait {
    /// Its id.
    pub(crate) id: String,
    /// Give up after so long (exit 6; the task goes on), as 30s or 10m.
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<Span>,
}

/// List the tasks that were accepted and wait for their turn.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Example:
  pilotctl task queue")]
pub(crate) struct TaskQueue {}

/// Work: accept tasks as they come and run a program for each. Stays until it is stopped.
///
/// Nothing is ever run unless this is. The program gets the description on standard input, as
/// data of somebody else, and the task's files in its current directory, which is a fresh one
/// and is removed at the end; what it prints is the result. Exit code 0 completes the task, any
/// other fails it with the end of what it wrote to standard error.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  pilotctl task serve --exec ./worker
  pilotctl task serve --exec ./worker --jobs 4 --limit 2m

Beside this agent's PILOT_HOME, the program finds PILOT_TASK_ID and PILOT_TASK_FROM (the
submitter's address) in its environment. At the limit of time or output it is killed with all
that it has started in its process group, and so it is when its task is cancelled or this command
ends. A task that was begun is never begun again: found unfinished at the next start, it fails.")]
pub(crate) struct TaskServe {
    /// The program: a path, or a name that is looked up in PATH.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) exec: PathBuf,
    /// Its arguments.
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) arguments: Vec<String>,
    /// How many run at a time.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: u16,
    /// A program that takes longer is killed, and its task fails.
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    pub(crate) limit: Span,
    /// One that prints more bytes is killed, and its task fails; at most 64 KiB.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) output: u32,
    /// Accept no more while so many wait for their turn, or of one submitter a quarter of that
    /// for their files: those beyond lapse after a minute.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) queue: usize,
    /// End after so many tasks.
    #[arg(long, short = 'c', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}
