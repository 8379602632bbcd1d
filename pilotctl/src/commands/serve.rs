//! `task serve`: a program for each task that others submit.
//!
//! ```text
//! NEW --(the queue has room) accept--> ACCEPTED
//! ACCEPTED --(a place is free, its files are here) start--> the program runs
//!   ends with 0 → complete with what it printed
//!   ends otherwise, at a limit, or with this command → fail with why
//!   its task is cancelled → killed
//! found EXECUTING and not running here → fail: nothing is run twice
//! ```
//!
//! * [`queue`]: which tasks are accepted.
//! * [`folder`]: where the programs run.

mod folder;
mod queue;

use super::Context;
use super::guard::Guard;
use super::tasks::path_of;
use crate::api::{Task, TaskStep, Tasks};
use crate::cli::tasks::TaskServe;
use crate::client::Query;
use crate::daemon::Signals;
use crate::error::{Code, Failure};
use crate::home::HomeLock;
use crate::output::{cleaned, quoted};
use folder::{Folder, Room};
use hyper::Method;
use queue::{Queue, has_files};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A request for what comes next waits so long; then it is asked again.
const FOLLOW: Duration = Duration::from_secs(20);
/// The same while a task waits for a file, or a program could be told that it is cancelled.
const LOOK: Duration = Duration::from_millis(500);
/// What is asked of a daemon that is away is asked again after so long.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes of standard error that are kept: its end.
const TAIL: usize = 16 * 1024;
/// Longest reason.
const REASON_MAX: usize = pilot_core::service::tasks::REASON_MAX;
/// After its end a program's output is read so long, for what it has left running.
const DRAIN: Duration = Duration::from_secs(2);

/// How a program ended.
type Ended = (String, Result<String, String>);

struct Serving<'c> {
    cx: &'c Context,
    args: TaskServe,
    guard: Arc<Guard>,
    room: Room,
    programs: JoinSet<Ended>,
    /// Kills a program, by its task.
    running: BTreeMap<String, oneshot::Sender<()>>,
    /// Results that the daemon has not taken yet.
    ended: Vec<Ended>,
    /// Why it has not, as was said.
    trouble: Option<Code>,
    done: u64,
}

pub(super) async fn serve(cx: &Context, args: TaskServe) -> Result<(), Failure> {
    let args = TaskServe { exec: program(&args.exec)?, ..args };
    let _lock = one_at_a_time(cx)?;
    let mut signals = Signals::listen()?;
    let mut serving = Serving {
        cx,
        args,
        guard: Arc::new(Guard::start()?),
        room: Room::default(),
        programs: JoinSet::new(),
        running: BTreeMap::new(),
        ended: Vec::new(),
        trouble: None,
        done: 0,
    };
    let result = tokio::select! {
        result = serving.run() => result,
        () = signals.terminate() => Ok(()),
    };
    serving.stop().await;
    result
}

/// Two of these would fail each other's tasks.
fn one_at_a_time(cx: &Context) -> Result<HomeLock, Failure> {
    let lock = cx.home.serving();
    lock.prepare()?;
    let locked = lock.try_lock()?.ok_or_else(|| {
        Failure::new(Code::AlreadyRunning, "another `pilotctl task serve` works for this agent")
            .hint("stop it first, or let it run more at a time with --jobs")
    })?;
    folder::clear(lock.path());
    Ok(locked)
}

/// The program's full path: the programs run elsewhere.
fn program(exec: &Path) -> Result<PathBuf, Failure> {
    let is_name = exec.components().count() == 1 && !exec.is_absolute() && !exec.starts_with(".");
    if is_name {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|dir| dir.join(exec)).find(|p| p.is_file());
        if let Some(found) = found {
            return Ok(found);
        }
    }
    let full = std::path::absolute(exec).map_err(|e| Failure::io("find the program", e))?;
    if full.is_file() {
        return Ok(full);
    }
    Err(Failure::new(Code::Usage, format!("there is no program {}", exec.display())))
}

/// Whether the daemon may be there again later, and may have room for what changes.
fn is_passing(failure: &Failure) -> bool {
    matches!(
        failure.code,
        Code::NotRunning
            | Code::Io
            | Code::Timeout
            | Code::NotRegistered
            | Code::Full
            | Code::StoreBusy
    )
}

/// Whether a result is told again: nobody can do its work a second time, and a store that makes
/// no sense just now may be opened again.
fn is_told_again(failure: &Failure) -> bool {
    is_passing(failure) || failure.code == Code::State
}

/// The step that tells a result, and its text.
fn told(result: &Result<String, String>) -> (&'static str, &str) {
    match result {
        Ok(text) => ("complete", text),
        Err(reason) => ("fail", reason),
    }
}

impl Serving<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        self.cx.out.note(&format!("runs {} for each task", self.args.exec.display()));
        let (mut since, mut wait) = (0, Duration::ZERO);
        loop {
            self.report().await?;
            if self.args.count.is_some_and(|count| self.done >= count) {
                return Ok(());
            }
            if !self.ended.is_empty() {
                // It is told again soon, whatever changes.
                wait = Duration::ZERO;
            }
            let query = Query::new("/v1/tasks")
                .with("role", Some("worker"))
                .with("open", Some(true))
                .with("since", Some(since))
                .with("wait_ms", Some(wait.as_millis()));
            let client = self.cx.client();
            let listed = client.get_within::<Tasks>(query.as_str(), Some(wait));
            let listed = tokio::select! {
                listed = listed => listed,
                Some(ended) = self.programs.join_next(), if !self.programs.is_empty() => {
                    self.take(ended);
                    continue;
                }
            };
            match listed {
                Ok(tasks) => {
                    since = tasks.revision;
                    wait = self.look(&tasks.tasks).await?;
                }
                Err(failure) if is_passing(&failure) => {
                    (since, wait) = (0, Duration::ZERO);
                    tokio::time::sleep(RETRY).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    fn take(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        match ended {
            Ok((id, result)) => {
                let (how, text) = told(&result);
                self.cx.out.note(&format!("{id}: {how} {}", quoted(text)));
                self.running.remove(&id);
                self.ended.push((id, result));
            }
            Err(error) => self.cx.out.note(&format!("a program was lost: {error}")),
        }
    }

    /// Goes through the open tasks; how long to wait for a change of them.
    async fn look(&mut self, tasks: &[Task]) -> Result<Duration, Failure> {
        let mut queue = Queue::of(tasks, self.args.queue);
        let is_open = |id: &String| tasks.iter().any(|task| task.id == *id);
        // The task of a program that is not open any more was cancelled.
        let gone: Vec<String> = self.running.keys().filter(|id| !is_open(id)).cloned().collect();
        gone.iter().for_each(|id| drop(self.running.remove(id)));
        let mut wait = FOLLOW;
        for task in tasks {
            match task.state.as_str() {
                "new" if queue.take(task) => {
                    self.step(&task.id, "accept", TaskStep::default()).await?;
                }
                // Its files may come before it lapses.
                "new" if !has_files(task) => wait = LOOK,
                // Begun by an earlier one of these, or the answer to `start` was lost.
                "executing" if task.served && !self.is_mine(&task.id) => {
                    let text = "the worker was interrupted".to_owned();
                    let fail = TaskStep { text, ..TaskStep::default() };
                    self.step(&task.id, "fail", fail).await?;
                }
                "accepted" if self.running.len() < usize::from(self.args.jobs) => {
                    if has_files(task) {
                        self.begin(task).await?;
                    } else {
                        wait = LOOK;
                    }
                }
                _ => {}
            }
        }
        Ok(wait)
    }

    /// Whether its program runs here, or has ended and that is still to be told.
    fn is_mine(&self, id: &str) -> bool {
        self.running.contains_key(id) || self.ended.iter().any(|(ended, _)| ended == id)
    }

    /// Makes a step; false if the task has gone another way meanwhile.
    async fn step(&self, id: &str, step: &str, body: TaskStep) -> Result<bool, Failure> {
        let path = format!("{}/{step}", path_of(id));
        match self.cx.client().send::<_, Task>(Method::POST, &path, &body).await {
            Ok(_) => Ok(true),
            Err(failure) if matches!(failure.code, Code::Conflict | Code::NotFound) => Ok(false),
            Err(failure) if is_passing(&failure) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    async fn begin(&mut self, task: &Task) -> Result<(), Failure> {
        // The list has only the beginning of the description.
        let Ok(task) = self.cx.client().get::<Task>(&path_of(&task.id)).await else {
            return Ok(());
        };
        let body = TaskStep { served: true, ..TaskStep::default() };
        if !self.step(&task.id, "start", body).await? {
            return Ok(());
        }
        self.cx.out.note(&format!("{} from {}: {}", task.id, task.peer, quoted(&task.description)));
        let (kill, killed) = oneshot::channel();
        self.running.insert(task.id.clone(), kill);
        let (args, home) = (self.args.clone(), self.cx.home.path().to_owned());
        let (guard, room) = (self.guard.clone(), self.room.clone());
        self.programs.spawn(async move {
            let result = execute(&args, &home, &task, killed, guard, &room).await;
            (task.id, result)
        });
        Ok(())
    }

    /// Tells the daemon how programs have ended; what it does not take now is told later.
    async fn report(&mut self) -> Result<(), Failure> {
        for (id, result) in std::mem::take(&mut self.ended) {
            let (step, text) = told(&result);
            let path = format!("{}/{step}", path_of(&id));
            let body = TaskStep { text: text.to_owned(), ..TaskStep::default() };
            match self.cx.client().send::<_, Task>(Method::POST, &path, &body).await {
                Ok(_) => {
                    self.done += 1;
                    self.trouble = None;
                }
                Err(failure) if is_told_again(&failure) => {
                    // Once: standard error may go to the disk that is full.
                    if self.trouble.replace(failure.code) != Some(failure.code) {
                        self.cx.out.note(&format!("{id}: {}: told again later", failure.message));
                    }
                    self.ended.push((id, result));
                }
                Err(failure) => self.cx.out.note(&format!("{id}: {}", failure.message)),
            }
        }
        if !self.ended.is_empty() {
            tokio::time::sleep(RETRY).await;
        }
        Ok(())
    }

    /// Kills what runs, and says so.
    async fn stop(&mut self) {
        self.running.clear();
        while let Some(ended) = self.programs.join_next().await {
            self.take(ended);
        }
        let _ = self.report().await;
    }
}

/// Runs the program for one task: its result, or why there is none.
async fn execute(
    args: &TaskServe,
    home: &Path,
    task: &Task,
    killed: oneshot::Receiver<()>,
    guard: Arc<Guard>,
    room: &Room,
) -> Result<String, String> {
    let dir = Folder::new(home, &task.id).map_err(|e| format!("no folder for its files: {e}"))?;
    dir.fill(task, room).await?;
    let mut command = Command::new(&args.exec);
    command
        .args(&args.arguments)
        .current_dir(dir.path())
        .env("PILOT_HOME", home)
        .env("PILOT_TASK_ID", &task.id)
        .env("PILOT_TASK_FROM", &task.peer)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let child = command.spawn().map_err(|e| format!("cannot run the program: {e}"))?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let group = Group::new(group, guard);
    let most = usize::try_from(args.output).unwrap_or(usize::MAX);
    let work = converse(child, task.description.as_bytes(), most, &group);
    let ended = tokio::select! {
        ended = timeout(args.limit.0, work) => ended,
        _ = killed => return Err("stopped: the task was cancelled, or the worker ended".to_owned()),
    };
    let ended = ended.map_err(|_| format!("it took longer than {:?}", args.limit.0))?;
    let Output { status, out, tail } = ended?;
    if !status.success() {
        return Err(failed(status, &tail));
    }
    String::from_utf8(out).map_err(|_| "its output is no UTF-8 text".to_owned())
}

/// All that a program has started and that has not left its group; killed when dropped.
struct Group {
    group: Option<Pid>,
    guard: Arc<Guard>,
}

impl Group {
    fn new(group: Option<Pid>, guard: Arc<Guard>) -> Group {
        if let Some(group) = group {
            guard.watch(group);
        }
        Group { group, guard }
    }

    fn kill(&self) {
        if let Some(group) = self.group {
            // It may be empty by now.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        if let Some(group) = self.group {
            self.guard.forget(group);
        }
    }
}

struct Output {
    status: ExitStatus,
    out: Vec<u8>,
    tail: Vec<u8>,
}

/// Gives the program its input, and takes what it says until it ends.
async fn converse(
    mut child: Child,
    input: &[u8],
    most: usize,
    group: &Group,
) -> Result<Output, String> {
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err("its input and output cannot be used".to_owned());
    };
    let write = async {
        // One that does not read its input has its reasons.
        let _ = stdin.write_all(input).await;
        drop(stdin);
    };
    let read = async { tokio::join!(write, limited(stdout, most), tail_of(stderr)) };
    tokio::pin!(read);
    let wait = |e: std::io::Error| format!("cannot wait for the program: {e}");
    tokio::select! {
        ((), out, tail) = &mut read => {
            // It has closed its output: too much of it, or it ends now.
            let Some(out) = out else {
                return Err(format!("it printed more than {most} bytes"));
            };
            Ok(Output { status: child.wait().await.map_err(wait)?, out, tail })
        }
        status = child.wait() => {
            // What it has left running may hold its output open.
            let status = status.map_err(wait)?;
            group.kill();
            let ((), out, tail) = timeout(DRAIN, read)
                .await
                .map_err(|_| "something that it started holds its output".to_owned())?;
            let out = out.ok_or_else(|| format!("it printed more than {most} bytes"))?;
            Ok(Output { status, out, tail })
        }
    }
}

/// All of a stream, unless it is too long.
async fn limited(stream: impl AsyncRead + Unpin, most: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let _ = stream.take(most as u64 + 1).read_to_end(&mut out).await;
    (out.len() <= most).then_some(out)
}

/// The end of a stream.
async fn tail_of(mut stream: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut tail = Vec::new();
    while let Ok(n) = stream.read_buf(&mut tail).await
        && n > 0
    {
        if tail.len() > 2 * TAIL {
            tail.drain(..tail.len() - TAIL);
        }
    }
    tail
}

/// Why a program that ended badly has failed its task.
fn failed(status: ExitStatus, tail: &[u8]) -> String {
    let said = cleaned(String::from_utf8_lossy(tail).trim_end());
    let how = status.to_string();
    let room = REASON_MAX.saturating_sub(how.len() + 2);
    let mut from = said.len().saturating_sub(room);
    while !said.is_char_boundary(from) {
        from += 1;
    }
    if said.is_empty() { how } else { format!("{how}: {}", &said[from..]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    #[test]
    fn a_reason_is_the_end_of_what_was_said_and_fits() {
        let status = ExitStatus::from_raw(3 << 8);
        assert_eq!(failed(status, b"no\x1b[31m luck\n"), "exit status: 3: no[31m luck");
        assert_eq!(failed(status, b""), "exit status: 3");
        let long = failed(status, "ä".repeat(TAIL).as_bytes());
        assert!(long.len() <= REASON_MAX && long.ends_with('ä'), "{}", long.len());
    }

    #[test]
    fn what_may_work_later_ends_nothing() {
        let failure = |code| Failure::new(code, "");
        for code in [Code::NotRunning, Code::Io, Code::Full, Code::StoreBusy] {
            assert!(is_passing(&failure(code)) && is_told_again(&failure(code)), "{code:?}");
        }
        assert!(!is_passing(&failure(Code::State)) && is_told_again(&failure(Code::State)));
        for code in [Code::Conflict, Code::NotFound, Code::TooLarge, Code::Permissions] {
            assert!(!is_told_again(&failure(code)), "{code:?}");
        }
    }

    #[test]
    fn programs_are_found_or_refused() {
        assert!(program(Path::new("sh")).unwrap().is_absolute());
        assert_eq!(program(Path::new("./no-such-program")).unwrap_err().code, Code::Usage);
        assert_eq!(program(Path::new("/")).unwrap_err().code, Code::Usage);
    }
}
