//! Tasks: the routes in front of the board.

use super::Cx;
use super::exchange::{Queried, WAIT_MAX_MS};
use crate::api::{self, Reason, SentFile};
use crate::cli::values::Agent;
use crate::daemon::{Shared, tasks::party};
use crate::error::{Code, Envelope, Failure};
use crate::http::{EVENTS, answer, body, parse, query, streamed};
use crate::output::{cleaned, to_line};
use crate::tasks::{Desk, Tasks, now, random_id};
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::Response;
use pilot_core::addr::NetworkId;
use pilot_core::crypto::task::{Outcome, Side, State as TaskState, Step, TaskId};
use pilot_core::service::exchange::{FileName, Kind, TransferId};
use pilot_core::service::tasks::{About, Content, Task, TaskFile};
use pilot_core::time::UnixTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

/// Most tasks of one answer.
const LISTED: usize = 1000;
/// Characters of a description in lists.
const BEGINNING: usize = 200;
/// A comment is sent so often, by which a client that is gone is noticed.
const ALIVE: Duration = Duration::from_secs(15);
/// The mark of a task that `task serve` has started.
const SERVED: u8 = 1;

fn span(ms: u64) -> Duration {
    Duration::from_millis(ms.min(WAIT_MAX_MS))
}

/// The lower-case word for the state of a task.
fn state_word(task: &Task) -> String {
    match task.refused() {
        Some(_) if !task.state().is_final() => "refused".to_owned(),
        _ => task.state().as_str().to_ascii_lowercase(),
    }
}

fn created(task: &Task) -> UnixTime {
    match task.side() {
        Side::Submitter => task.first().fields.time,
        Side::Worker => task.times().arrived,
    }
}

/// A task with its texts, as they are stored.
struct Whole {
    task: Task,
    work: Vec<u8>,
    end: Vec<u8>,
}

impl Whole {
    fn of(desk: &mut Desk, task: Task) -> Result<Whole, Failure> {
        let work = desk.content(task.id(), About::Work)?;
        let end = desk.content(task.id(), About::End)?;
        Ok(Whole { task, work, end })
    }

    fn find(desk: &mut Desk, id: TaskId) -> Result<Whole, Failure> {
        let task = desk.find(id)?.clone();
        Whole::of(desk, task)
    }

    fn shown(&self, shared: &Shared) -> api::Task {
        let task = &self.task;
        let (work, end) = (decoded(&self.work), decoded(&self.end));
        let is_worker = task.side() == Side::Worker;
        let times = task.times();
        let time = |at: UnixTime| Some(at.as_millis()).filter(|ms| *ms > 0);
        let is_done = task.state() == TaskState::Succeeded;
        let files = |content: &Content<'_>, are_theirs: bool| {
            content.files.iter().map(|file| self.file(shared, file, are_theirs)).collect()
        };
        api::Task {
            id: task.id().to_string(),
            role: if is_worker { "worker" } else { "submitter" }.to_owned(),
            peer: task.peer().address.to_string(),
            state: state_word(task),
            settled: task.is_settled(),
            cancelling: task.is_cancelling(),
            delivered: task.is_known_there() && task.refused().is_none(),
            created_ms: created(task).as_millis(),
            changed_ms: task.changed().as_millis(),
            accepted_ms: time(times.accepted),
            started_ms: time(times.started),
            finished_ms: time(times.finished),
            description: cleaned(work.text),
            files: files(&work, is_worker),
            progress: cleaned(task.progress()),
            result: is_done.then(|| cleaned(end.text)),
            result_files: if is_done { files(&end, !is_worker) } else { Vec::new() },
            reason: reason(task, end.text),
            receipt: task.receipt().map(|receipt| api::TaskReceipt {
                outcome: match receipt.claim.outcome {
                    Outcome::Succeeded => "succeeded",
                    Outcome::Failed => "failed",
                }
                .to_owned(),
                reward: receipt.reward(),
                counted: task.is_counted(),
            }),
            served: task.mark() == SERVED,
        }
    }

    fn file(&self, shared: &Shared, file: &TaskFile, is_theirs: bool) -> api::TaskFile {
        let received = &shared.offer.received;
        let found = is_theirs.then(|| received.find(self.task.peer().address, file.id)).flatten();
        // Only what was announced is it.
        let found = found.filter(|(info, there)| {
            let is_it = (info.kind, info.size, info.hash) == (Kind::File, file.size, file.hash);
            *there && is_it
        });
        api::TaskFile {
            id: file.id.to_string(),
            name: file.name.as_str().to_owned(),
            bytes: file.size,
            sha256: file.hash.to_string().trim_start_matches("sha256:").to_owned(),
            path: found.map(|(info, _)| received.path(&info)),
        }
    }
}

/// What was stored was checked when it came.
fn decoded(bytes: &[u8]) -> Content<'_> {
    Content::decode(bytes).unwrap_or_default()
}

fn reason(task: &Task, text: &str) -> Option<Reason> {
    let told = |code: Code, message: &str| {
        Some(Reason { code: code.as_str().to_owned(), message: message.to_owned() })
    };
    match (task.refused(), task.state()) {
        (Some(verdict), state) if !state.is_final() => {
            told(refusal_code(verdict), &verdict.to_string())
        }
        (_, TaskState::Declined | TaskState::Failed) => told(Code::Rejected, &cleaned(text)),
        (_, TaskState::Cancelled) if task.last().fields.step == Step::Lapse => {
            told(Code::NoAnswer, "the worker has not answered it within a minute")
        }
        (_, TaskState::Expired) => {
            told(Code::NoAnswer, "it was for an hour at the head of the worker's queue")
        }
        _ => None,
    }
}

fn refusal_code(verdict: pilot_core::service::tasks::Verdict) -> Code {
    use pilot_core::service::tasks::Verdict;
    match verdict {
        Verdict::NotPermitted | Verdict::Reputation => Code::NotPermitted,
        Verdict::Unknown => Code::NotFound,
        _ => Code::Rejected,
    }
}

// ---- in and out ----

fn files(sent: &[SentFile]) -> Result<Vec<TaskFile>, Failure> {
    let file = |file: &SentFile| {
        let id: TransferId = parse("the file's id", &file.id)?;
        let name: FileName = parse("the file's name", &file.name)?;
        let hash = format!("sha256:{}", file.sha256).parse().map_err(|_| {
            Failure::new(Code::Usage, "the file's sha256 is not 64 hexadecimal digits")
        })?;
        Ok(TaskFile { id, size: file.bytes, hash, name })
    };
    sent.iter().map(file).collect()
}

fn content<'t>(text: &'t str, files: &[TaskFile]) -> Result<Content<'t>, Failure> {
    let mut content = Content::of_text(text);
    for file in files {
        content.files.push(file.clone()).map_err(|_| {
            Failure::new(Code::TooLarge, "a task has at most 16 files each way")
                .hint("pack them into one")
        })?;
    }
    Ok(content)
}

pub(super) async fn submit(State(shared): Cx, bytes: Bytes) -> Response {
    answer(
        async {
            let wanted: api::SubmitTask = body(&bytes)?;
            let agent: Agent = parse("the agent", &wanted.to)?;
            if wanted.description.is_empty() {
                return Err(Failure::new(Code::Usage, "a task needs a description"));
            }
            let files = files(&wanted.files)?;
            let to = shared.node.target(&agent, wanted.network.map(NetworkId)).await?;
            shared.node.check_grant(to)?;
            let worker = party(&shared.node, to)
                .ok_or_else(|| Failure::new(Code::NotTrusted, format!("{to} is not trusted")))?;
            let tasks = shared.carriers.tasks()?;
            let (id, mut changes) = (random_id()?, tasks.changes());
            let description = wanted.description;
            let submitted = tasks
                .run(move |desk| {
                    desk.submit(id, worker, &content(&description, &files)?, now())?;
                    Whole::find(desk, id)
                })
                .await?;
            shared.carriers.wake(to);
            let mut stop = shared.stop.subscribe();
            let until = Instant::now() + wanted.wait_ms.map_or(Duration::ZERO, span);
            let is_there = |task: &Task| task.is_known_there() || task.is_settled();
            // From here on nothing is an error: told of one, its owner would submit it again.
            let later = tokio::select! {
                whole = waited(tasks, id, &mut changes, until, is_there) => whole.ok(),
                _ = stop.wait_for(|stop| *stop) => None,
            };
            Ok(later.unwrap_or(submitted).shown(&shared))
        }
        .await,
    )
}

/// A task, once `is_enough` or it is time.
async fn waited(
    tasks: &Tasks,
    id: TaskId,
    changes: &mut Receiver<Arc<[TaskId]>>,
    until: Instant,
    is_enough: impl Fn(&Task) -> bool,
) -> Result<Whole, Failure> {
    loop {
        let whole = tasks.run(move |desk| Whole::find(desk, id)).await?;
        if is_enough(&whole.task) || Instant::now() >= until {
            return Ok(whole);
        }
        let changed = async {
            loop {
                match changes.recv().await {
                    Ok(ids) if !ids.contains(&id) => {}
                    _ => return,
                }
            }
        };
        // At the end of the time it is looked at once more.
        let _ = tokio::time::timeout_at(until, changed).await;
    }
}

/// `?wait_ms=T`
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Waited {
    /// Wait so long for its end.
    wait_ms: Option<u64>,
}

pub(super) async fn show(
    State(shared): Cx,
    Path(id): Path<String>,
    wait: Queried<Waited>,
) -> Response {
    answer(
        async {
            let wait = query(wait)?.wait_ms.map_or(Duration::ZERO, span);
            let id: TaskId = parse("the task", &id)?;
            let tasks = shared.carriers.tasks()?;
            let mut stop = shared.stop.subscribe();
            let mut changes = tasks.changes();
            let until = Instant::now() + wait;
            let settled = waited(tasks, id, &mut changes, until, Task::is_settled);
            tokio::select! {
                whole = settled => whole.map(|whole| whole.shown(&shared)),
                _ = stop.wait_for(|stop| *stop) => {
                    Err(Failure::new(Code::NotRunning, "the daemon is stopping"))
                }
            }
        }
        .await,
    )
}

pub(super) async fn step(
    State(shared): Cx,
    Path((id, step)): Path<(String, String)>,
    bytes: Bytes,
) -> Response {
    answer(
        async {
            let made: api::TaskStep = body(&bytes)?;
            let id: TaskId = parse("the task", &id)?;
            let step = step_of(&step)?;
            if step != Step::Complete && !made.files.is_empty() {
                return Err(Failure::new(Code::Usage, "only a result has files"));
            }
            let files = files(&made.files)?;
            let tasks = shared.carriers.tasks()?;
            let whole = tasks
                .run(move |desk| {
                    desk.find(id)?;
                    desk.act(id, step, &content(&made.text, &files)?, now())?;
                    if made.served {
                        desk.board.set_mark(id, SERVED);
                    }
                    Whole::find(desk, id)
                })
                .await?;
            shared.carriers.wake(whole.task.peer().address);
            Ok(whole.shown(&shared))
        }
        .await,
    )
}

fn step_of(word: &str) -> Result<Step, Failure> {
    Ok(match word {
        "accept" => Step::Accept,
        "decline" => Step::Decline,
        "start" => Step::Start,
        "progress" => Step::Progress,
        "complete" => Step::Complete,
        "fail" => Step::Fail,
        "cancel" => Step::Cancel,
        _ => {
            let shown = crate::output::quoted(word);
            return Err(Failure::new(Code::Usage, format!("there is no step {shown}")).hint(
                "accept, decline, start, progress, complete and fail are the worker's, cancel is \
                 the submitter's",
            ));
        }
    })
}

// ---- lists ----

/// `?role=R&state=S&open=true&limit=N&since=REVISION&wait_ms=T`
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    /// `submitter` or `worker`: what this agent is in them.
    role: Option<String>,
    /// Only those in this state.
    state: Option<String>,
    /// Only those that have not ended.
    #[serde(default)]
    open: bool,
    /// At most so many, and at most 1,000.
    limit: Option<usize>,
    /// The `revision` of an answer before.
    #[serde(default)]
    since: u64,
    /// Wait so long for a change since then.
    wait_ms: Option<u64>,
}

impl Listed {
    fn side(&self) -> Result<Option<Side>, Failure> {
        match self.role.as_deref() {
            None => Ok(None),
            Some("submitter") => Ok(Some(Side::Submitter)),
            Some("worker") => Ok(Some(Side::Worker)),
            Some(_) => Err(Failure::new(Code::Usage, "a role is submitter or worker")),
        }
    }
}

pub(super) async fn list(State(shared): Cx, listed: Queried<Listed>) -> Response {
    answer(
        async {
            let listed = query(listed)?;
            let side = listed.side()?;
            let tasks = shared.carriers.tasks()?;
            let mut changed = tasks.changed();
            if let Some(wait) = listed.wait_ms {
                let mut stop = shared.stop.subscribe();
                tokio::select! {
                    _ = changed.wait_for(|revision| *revision > listed.since) => {}
                    () = tokio::time::sleep(span(wait)) => {}
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            }
            // Read before the tasks: what changes meanwhile is asked for again.
            let revision = *changed.borrow_and_update();
            let limit = listed.limit.unwrap_or(LISTED).clamp(1, LISTED);
            let wanted = listed.state.map(|state| state.to_ascii_lowercase());
            let found = tasks
                .run(move |desk| {
                    let is_wanted = |task: &&Task| {
                        side.is_none_or(|side| task.side() == side)
                            && !(listed.open && task.is_settled())
                            && wanted.as_ref().is_none_or(|state| state_word(task) == *state)
                    };
                    let mut all: Vec<Task> =
                        desk.board.tasks().filter(is_wanted).cloned().collect();
                    all.sort_by_key(|task| (created(task), task.id()));
                    let more = all.len() > limit;
                    if listed.open {
                        // It is their turn first.
                        all.truncate(limit);
                    } else {
                        all.drain(..all.len().saturating_sub(limit));
                    }
                    let whole = all.into_iter().map(|task| Whole::of(desk, task));
                    Ok((whole.collect::<Result<Vec<_>, _>>()?, more))
                })
                .await?;
            let (found, more) = found;
            let tasks = found.iter().map(|whole| in_short(whole.shown(&shared))).collect();
            Ok(api::Tasks { tasks, more, revision })
        }
        .await,
    )
}

/// Without what may be long.
fn in_short(task: api::Task) -> api::Task {
    let description = task.description.chars().take(BEGINNING).collect();
    api::Task { description, result: None, ..task }
}

// ---- as they change ----

/// `?role=R`
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Watched {
    /// `submitter` or `worker`: what this agent is in them.
    role: Option<String>,
}

/// One server-sent event; JSON has no line break of its own.
fn sse<T: Serialize>(name: &str, data: &T) -> String {
    format!("event: {name}\ndata: {}\n\n", to_line(data))
}

/// Each task that changes, as server-sent events.
pub(super) async fn events(State(shared): Cx, watched: Queried<Watched>) -> Response {
    let opened = query(watched).and_then(|watched| {
        let listed = Listed {
            role: watched.role,
            state: None,
            open: false,
            limit: None,
            since: 0,
            wait_ms: None,
        };
        Ok((listed.side()?, shared.carriers.tasks()?.changes()))
    });
    match opened {
        Err(failure) => answer::<()>(Err(failure)),
        Ok((side, changes)) => {
            let telling = Telling { shared, side, changes, is_over: false };
            let body = futures_util::stream::unfold(telling, Telling::next);
            let body = futures_util::StreamExt::map(body, Ok::<_, Infallible>);
            streamed(EVENTS, Body::from_stream(body))
        }
    }
}

struct Telling {
    shared: Arc<Shared>,
    side: Option<Side>,
    changes: Receiver<Arc<[TaskId]>>,
    is_over: bool,
}

impl Telling {
    async fn next(mut self) -> Option<(String, Self)> {
        if self.is_over {
            return None;
        }
        let mut stop = self.shared.stop.subscribe();
        let stopped = async move {
            // A closed channel means the same.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        let text = tokio::select! {
            biased;
            () = stopped => self.end(),
            changed = self.changes.recv() => match changed {
                Ok(ids) => self.told(&ids).await.unwrap_or_else(|_| self.end()),
                // Not all was told: ask for the list.
                Err(RecvError::Lagged(missed)) => sse("missed", &missed),
                Err(RecvError::Closed) => self.end(),
            },
            () = tokio::time::sleep(ALIVE) => ": alive\n\n".to_owned(),
        };
        Some((text, self))
    }

    fn end(&mut self) -> String {
        self.is_over = true;
        let failure = Failure::new(Code::NotRunning, "the daemon is stopping");
        sse("end", &Envelope::<api::Nothing>::from_result(Err(failure)))
    }

    async fn told(&self, ids: &[TaskId]) -> Result<String, Failure> {
        let ids: BTreeSet<TaskId> = ids.iter().copied().collect();
        let side = self.side;
        let found = self.shared.carriers.tasks()?.run(move |desk| {
            let is_wanted = |task: &&Task| side.is_none_or(|side| task.side() == side);
            let tasks: Vec<Task> = ids
                .iter()
                .filter_map(|id| desk.board.get(*id))
                .filter(is_wanted)
                .cloned()
                .collect();
            tasks.into_iter().map(|task| Whole::of(desk, task)).collect::<Result<Vec<_>, _>>()
        });
        let told = found.await?;
        let each = |whole: &Whole| sse("task", &in_short(whole.shown(&self.shared)));
        let text: String = told.iter().map(each).collect();
        Ok(if text.is_empty() { ": other\n\n".to_owned() } else { text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_files_are_what_they_must_be() {
        assert_eq!(step_of("accept").unwrap(), Step::Accept);
        for bad in ["submit", "lapse", "expire", "", "Accept"] {
            assert_eq!(step_of(bad).unwrap_err().code, Code::Usage, "{bad}");
        }
        let good = SentFile {
            id: "00".repeat(16),
            name: "a.csv".to_owned(),
            bytes: 1,
            sha256: "ab".repeat(32),
        };
        assert_eq!(files(std::slice::from_ref(&good)).unwrap()[0].size, 1);
        for bad in ["../a", "/etc/passwd", ".bashrc", "", "a/b"] {
            let file = SentFile { name: bad.to_owned(), ..good.clone() };
            assert_eq!(files(&[file]).unwrap_err().code, Code::Usage, "{bad}");
        }
        for id in ["../../x", "", &"0".repeat(31)] {
            let file = SentFile { id: id.to_owned(), ..good.clone() };
            assert!(files(&[file]).is_err(), "{id}");
        }
    }
}
