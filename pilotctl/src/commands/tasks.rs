//! Tasks: handing work over, and working.

use super::Context;
use super::exchange::millis;
use crate::api::{Nothing, Progress, Sent, SentFile, SubmitTask, Task, TaskFile, TaskStep, Tasks};
use crate::cli::tasks::{self as cli, TaskCommand};
use crate::cli::values::Span;
use crate::client::{Query, ServerSent};
use crate::error::{Code, Envelope, Failure};
use crate::output::{bytes, cleaned, quoted, time, utc};
use hyper::Method;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest description or result, as the protocol has it.
const TEXT_MAX: usize = pilot_core::service::tasks::TEXT_MAX;
/// Patience of who has named none.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) async fn run(cx: &Context, command: TaskCommand) -> Result<(), Failure> {
    match command {
        TaskCommand::Submit(args) => submit(cx, args).await,
        TaskCommand::List(args) => list(cx, args).await,
        TaskCommand::Show(args) => show(cx, &args.id).await,
        TaskCommand::Accept(args) => step(cx, &args.id, "accept", TaskStep::default()).await,
        TaskCommand::Decline(args) => step(cx, &args.id, "decline", text(args.reason)).await,
        TaskCommand::Start(args) => step(cx, &args.id, "start", TaskStep::default()).await,
        TaskCommand::Progress(args) => step(cx, &args.id, "progress", text(args.text)).await,
        TaskCommand::Complete(args) => complete(cx, args).await,
        TaskCommand::Fail(args) => step(cx, &args.id, "fail", text(args.reason)).await,
        TaskCommand::Cancel(args) => step(cx, &args.id, "cancel", TaskStep::default()).await,
        TaskCommand::Wait(args) => wait(cx, args).await,
        TaskCommand::Serve(args) => super::serve::serve(cx, args).await,
        TaskCommand::Guard => {
            super::guard::guard();
            Ok(())
        }
        TaskCommand::Queue(_) => {
            let query = Query::new("/v1/tasks")
                .with("role", Some("worker"))
                .with("state", Some("accepted"))
                .with("open", Some(true));
            shown(cx, &cx.client().get(query.as_str()).await?);
            Ok(())
        }
    }
}

fn text(text: String) -> TaskStep {
    TaskStep { text, ..TaskStep::default() }
}

/// The path of a task; what cannot be an id is refused by the daemon, not made another path.
pub(super) fn path_of(id: &str) -> String {
    let safe: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("/v1/tasks/{safe}")
}

fn given(text: String) -> Result<String, Failure> {
    if text != "-" {
        return Ok(text);
    }
    let mut text = String::new();
    std::io::stdin()
        .take(TEXT_MAX as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|e| Failure::io("read standard input as UTF-8", e))?;
    Ok(text)
}

fn check(text: &str) -> Result<(), Failure> {
    if text.len() <= TEXT_MAX {
        return Ok(());
    }
    Err(Failure::new(Code::TooLarge, format!("the text has more than {TEXT_MAX} bytes"))
        .hint("send it as a file, with --file"))
}

fn random() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|e| Failure::new(Code::Internal, format!("no randomness: {e}")))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Puts a file into the outbox for an agent, as a part of something else.
async fn queue_file(
    cx: &Context,
    to: &str,
    network: Option<u16>,
    path: &Path,
) -> Result<SentFile, Failure> {
    let doing = |e| Failure::io(format!("read {}", path.display()), e);
    let meta = std::fs::metadata(path).map_err(doing)?;
    if !meta.is_file() {
        return Err(Failure::new(Code::Usage, format!("{} is not a file", path.display())));
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let query = Query::new("/v1/files")
        .with("to", Some(to))
        .with("network", network)
        .with("name", name.as_deref())
        // By name, size and time the daemon knows a file again; each of a task is its own.
        .with("modified_ns", Some(random()?))
        // What is signed names files so.
        .with("hash", Some("sha256"))
        .with("queue", Some(true));
    let file = tokio::fs::File::open(path).await.map_err(doing)?;
    let sent: Sent = cx.client().upload(query.as_str(), meta.len(), file, |_: Progress| {}).await?;
    let sha256 = sent.hash.as_deref().and_then(|hash| hash.strip_prefix("sha256:"));
    let sha256 = sha256.map(str::to_owned).ok_or_else(|| {
        Failure::new(Code::Internal, "the daemon has not told the SHA-256 of a file")
    })?;
    Ok(SentFile { id: sent.id, name: name.unwrap_or_default(), bytes: sent.bytes, sha256 })
}

/// Puts files into the outbox for the other side of a task.
async fn sent(
    cx: &Context,
    to: &str,
    network: Option<u16>,
    files: &[PathBuf],
) -> Result<Vec<SentFile>, Failure> {
    let mut sent = Vec::new();
    for file in files {
        match queue_file(cx, to, network, file).await {
            Ok(file) => sent.push(file),
            Err(failure) => {
                take_back(cx, &sent).await;
                return Err(failure);
            }
        }
    }
    Ok(sent)
}

/// Nobody asks for these files any more.
async fn take_back(cx: &Context, files: &[SentFile]) {
    for file in files {
        let path = super::messages::path_of(&file.id);
        // One that was delivered already stays there.
        let _: Result<serde_json::Value, _> =
            cx.client().send(Method::DELETE, &path, &Nothing {}).await;
    }
}

/// Whether what was asked for may have been done all the same: the answer is lost.
fn is_unknown(failure: &Failure) -> bool {
    matches!(failure.code, Code::Io | Code::Timeout | Code::NotRunning | Code::Internal)
}

async fn submit(cx: &Context, args: cli::TaskSubmit) -> Result<(), Failure> {
    let description = given(args.description)?;
    check(&description)?;
    let to = args.agent.to_string();
    let files = sent(cx, &to, args.at.network, &args.files).await?;
    let body = SubmitTask {
        to,
        description,
        files: files.clone(),
        network: args.at.network,
        wait_ms: millis(args.wait),
    };
    let extra = args.wait.map(|wait| wait.0);
    let submitted = cx.client().send_within(Method::POST, "/v1/tasks", &body, extra).await;
    let task: Task = match submitted {
        Ok(task) => task,
        Err(failure) => {
            // Files without their task do less harm than a task without its files.
            if !is_unknown(&failure) {
                take_back(cx, &files).await;
            }
            return Err(match failure.code {
                Code::Io | Code::Timeout => {
                    failure.hint("`pilotctl task list` shows whether it was submitted")
                }
                _ => failure,
            });
        }
    };
    cx.out.show(&task, |task| task.id.clone());
    Ok(())
}

/// Makes a step and shows the task after it.
async fn step(cx: &Context, id: &str, step: &str, body: TaskStep) -> Result<(), Failure> {
    let path = format!("{}/{step}", path_of(id));
    let task: Task = cx.client().send(Method::POST, &path, &body).await?;
    cx.out.show(&task, line);
    Ok(())
}

async fn complete(cx: &Context, args: cli::TaskComplete) -> Result<(), Failure> {
    let result = given(args.result)?;
    check(&result)?;
    let mut files = Vec::new();
    if !args.files.is_empty() {
        let task: Task = cx.client().get(&path_of(&args.id)).await?;
        files = sent(cx, &task.peer, None, &args.files).await?;
    }
    let body = TaskStep { text: result, files: files.clone(), served: false };
    let done = step(cx, &args.id, "complete", body).await;
    if done.as_ref().is_err_and(|failure| !is_unknown(failure)) {
        take_back(cx, &files).await;
    }
    done
}

async fn list(cx: &Context, args: cli::TaskList) -> Result<(), Failure> {
    let role = args.role.map(cli::Role::as_str);
    let query = Query::new("/v1/tasks").with("role", role).with("open", args.open.then_some(true));
    if !args.follow {
        shown(cx, &cx.client().get(query.as_str()).await?);
        return Ok(());
    }
    // Once what changes is told: in between nothing is missed, and twice does no harm.
    let first = async {
        let all: Tasks = cx.client().get(query.as_str()).await?;
        all.tasks.iter().for_each(|task| cx.out.show(task, line));
        Ok(())
    };
    let events = Query::new("/v1/tasks/events").with("role", role);
    let each = |heard: ServerSent<'_>| {
        let parsed = |e: serde_json::Error| Failure::new(Code::Internal, e.to_string());
        match heard.name {
            "task" => {
                let task: Task = serde_json::from_str(heard.data).map_err(parsed)?;
                cx.out.show(&task, line);
            }
            "missed" => cx.out.note("some changes were missed here: too slow"),
            "end" => {
                let end: Envelope<Nothing> = serde_json::from_str(heard.data).map_err(parsed)?;
                end.into_result()?;
            }
            _ => {}
        }
        Ok(true)
    };
    cx.client().server_sent_after(events.as_str(), first, each).await
}

fn shown(cx: &Context, tasks: &Tasks) {
    cx.out.show(tasks, |tasks| match tasks.tasks.is_empty() {
        true => "no tasks".to_owned(),
        false => tasks.tasks.iter().map(line).collect::<Vec<_>>().join("\n"),
    });
}

/// A task on one line.
fn line(task: &Task) -> String {
    let what = if task.role == "worker" { "from" } else { "to" };
    let more = match (&task.reason, task.cancelling) {
        (Some(reason), _) if !reason.message.is_empty() => {
            format!(": {}", quoted(&reason.message))
        }
        (_, true) => " (to be cancelled)".to_owned(),
        _ if task.role == "submitter" && !task.delivered => " (not delivered yet)".to_owned(),
        _ if task.state == "executing" && !task.progress.is_empty() => {
            format!(", {}", quoted(&task.progress))
        }
        _ => String::new(),
    };
    format!(
        "{} {} {} {what} {}{more} {}",
        utc(task.created_ms / 1000),
        task.id,
        task.state,
        task.peer,
        quoted(&task.description),
    )
}

async fn show(cx: &Context, id: &str) -> Result<(), Failure> {
    let task: Task = cx.client().get(&path_of(id)).await?;
    cx.out.show(&task, whole);
    Ok(())
}

fn whole(task: &Task) -> String {
    let mut text = line(&Task { description: String::new(), ..task.clone() });
    text = text.trim_end_matches(" \"\"").to_owned();
    text += &format!("\ndescription {}", quoted(&task.description));
    text += &files("file", &task.files);
    if !task.progress.is_empty() {
        text += &format!("\nprogress {}", quoted(&task.progress));
    }
    if let Some(result) = &task.result {
        text += &format!("\nresult {}", quoted(result));
    }
    text += &files("result file", &task.result_files);
    if let Some(receipt) = &task.receipt {
        let counted = if receipt.counted { ", counted" } else { "" };
        text += &format!("\nreceipt of both sides, reward {}{counted}", receipt.reward);
    }
    text
}

fn files(what: &str, files: &[TaskFile]) -> String {
    let line = |file: &TaskFile| {
        let place =
            file.path.as_ref().map(|path| format!(" in {}", cleaned(&path.to_string_lossy())));
        let (name, size) = (quoted(&file.name), bytes(file.bytes));
        format!("\n{what} {name} {size}{}", place.unwrap_or_default())
    };
    files.iter().map(line).collect()
}

async fn wait(cx: &Context, args: cli::TaskWait) -> Result<(), Failure> {
    let limit = args.timeout.unwrap_or(Span(WAIT_MAX));
    let query = Query::new(&path_of(&args.id)).with("wait_ms", millis(Some(limit)));
    let task: Task = cx.client().get_within(query.as_str(), Some(limit.0)).await?;
    if !task.settled {
        let message = format!("the task is {} and not over within the time given", task.state);
        return Err(Failure::new(Code::Timeout, message)
            .hint(format!("it goes on: `pilotctl task show {}`", task.id)));
    }
    if task.state != "succeeded" {
        let why = task.reason.as_ref().map(|reason| quoted(&reason.message)).unwrap_or_default();
        let message = format!("the task is {} {why}", task.state);
        return Err(Failure::new(Code::Rejected, message.trim_end())
            .hint(format!("`pilotctl task show {}` shows all of it", task.id)));
    }
    cx.out.show(&task, |task| {
        let took = task.finished_ms.unwrap_or_default().saturating_sub(task.created_ms);
        let reward = task.receipt.as_ref().map(|r| format!(", reward {}", r.reward));
        let result = quoted(task.result.as_deref().unwrap_or_default());
        let took = time(Duration::from_millis(took));
        format!(
            "succeeded in {took}{}: {result}{}",
            reward.unwrap_or_default(),
            files("result file", &task.result_files)
        )
    });
    Ok(())
}
