//! Files and directories: sending them, and those received.

mod tree;

use super::Context;
use super::exchange::millis;
use super::messages::{WAIT_MAX, is_settled, path_of, still_queued, told};
use crate::api::{self, Outgoing, Progress, Received, Sent};
use crate::cli::agent;
use crate::cli::values::Span;
use crate::client::Query;
use crate::error::{Code, Failure};
use crate::output::{bytes, quoted, time, to_line, utc};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tree::Tree;

/// How often in a row a file that does not get on is tried again, and after how long.
const RETRIES: u32 = 20;
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Distance of progress lines.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

fn seconds(seconds: f64) -> String {
    time(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// What is to be sent.
struct Source {
    kind: &'static str,
    name: String,
    size: u64,
    /// Nanoseconds since the Unix epoch.
    modified: Option<u128>,
    content: Content,
}

enum Content {
    File(PathBuf),
    Directory(Arc<Tree>),
}

impl Source {
    async fn look_at(cx: &Context, args: &agent::SendFile) -> Result<Source, Failure> {
        let path = args.file.clone();
        let doing = |e| Failure::io(format!("read {}", path.display()), e);
        let meta = std::fs::metadata(&path).map_err(doing)?;
        let own_name = || {
            // Of `.` and `..` the name is that of the directory that they mean.
            let named = path.file_name().map(ToOwned::to_owned);
            let named = named.or_else(|| path.canonicalize().ok()?.file_name().map(Into::into));
            named.map(|name| name.to_string_lossy().into_owned())
        };
        let name = args.name.clone().or_else(own_name).unwrap_or_default();
        if meta.is_dir() {
            let (root, skip) = (path.clone(), args.skip_special);
            let tree = tokio::task::spawn_blocking(move || Tree::look_at(&root, skip)).await;
            let tree = tree.map_err(|e| Failure::new(Code::Internal, e.to_string()))??;
            if tree.skipped > 0 {
                cx.out.note(&format!("left out: {} entries that are not sent", tree.skipped));
            }
            let (size, modified) = (tree.size, Some(tree.modified));
            let content = Content::Directory(Arc::new(tree));
            return Ok(Source { kind: "directory", name, size, modified, content });
        }
        if !meta.is_file() {
            let message = format!("{} is neither a file nor a directory", path.display());
            return Err(Failure::new(Code::Usage, message));
        }
        let modified = tree::modified(&meta);
        let (size, content) = (meta.len(), Content::File(path));
        Ok(Source { kind: "file", name, size, modified: Some(modified), content })
    }

    /// Uploads it; of a directory that has changed meanwhile the error says so.
    async fn upload(
        &self,
        cx: &Context,
        query: &str,
        progress: impl FnMut(Progress),
    ) -> Result<Sent, Failure> {
        match &self.content {
            Content::File(path) => {
                let doing = |e| Failure::io(format!("read {}", path.display()), e);
                let file = tokio::fs::File::open(path).await.map_err(doing)?;
                cx.client().upload(query, self.size, file, progress).await
            }
            Content::Directory(tree) => {
                let (content, writing) = tree.content();
                let sent = cx.client().upload(query, self.size, content, progress).await;
                // The content is over, or its reader is gone.
                match (sent, writing.await) {
                    (Err(_), Ok(Err(changed))) => Err(changed),
                    (sent, _) => sent,
                }
            }
        }
    }
}

pub(super) async fn send_file(cx: &Context, args: agent::SendFile) -> Result<(), Failure> {
    let source = Source::look_at(cx, &args).await?;
    let name = &source.name;
    let query = Query::new("/v1/files")
        .with("to", Some(&args.agent))
        .with("network", args.at.network)
        .with("name", Some(name))
        .with("kind", Some(source.kind).filter(|kind| *kind != "file"))
        .with("note", Some(&args.note).filter(|note| !note.is_empty()))
        // By name, size and time the daemon knows an interrupted file again.
        .with("modified_ns", source.modified)
        .with("queue", args.queue.then_some(true))
        .with("timeout_ms", millis(args.timeout));
    let mut shown = Shown::new(cx.out.json, source.size);
    let (mut tried, mut furthest) = (0, 0);
    let mut sent: Sent = loop {
        let mut moved = false;
        let progress = |progress: Progress| {
            // Where an attempt begins is no progress.
            moved |= progress.sent > furthest;
            furthest = furthest.max(progress.sent);
            shown.progress(progress);
        };
        match source.upload(cx, query.as_str(), progress).await {
            // The stream broke, or the other side restarted: go on where it was.
            Err(failure) if failure.code == Code::Interrupted && tried < RETRIES => {
                tried = if moved { 0 } else { tried + 1 };
                tokio::time::sleep(RETRY_AFTER).await;
            }
            other => break other?,
        }
    };
    if let Some(wait) = args.wait
        && sent.state != "delivered"
    {
        let limit = wait.map_or(WAIT_MAX, |wait| wait.0);
        sent = await_receipt(cx, sent, limit, &mut shown).await?;
    }
    shown.finish();
    cx.out.show(&sent, |s| {
        if s.state != "delivered" {
            let why = s.reason.as_ref().map_or(String::new(), |r| format!(": {}", r.message));
            return format!("{} {} for {}{why}", s.state, s.id, s.to);
        }
        let rate = (s.bytes - s.resumed_at) as f64 / s.seconds.max(1e-6);
        let hash = s.hash.as_deref().map_or(String::new(), |hash| format!(", {hash}"));
        format!(
            "delivered {} ({}) to {} in {}, {}/s, {}{hash}",
            quoted(name),
            bytes(s.bytes),
            s.to,
            seconds(s.seconds),
            bytes(rate as u64),
            if s.path == "none" { "through the outbox" } else { &s.path },
        )
    });
    Ok(())
}

/// Waits until a file in the outbox is delivered.
async fn await_receipt(
    cx: &Context,
    sent: Sent,
    limit: Duration,
    shown: &mut Shown,
) -> Result<Sent, Failure> {
    let first: Outgoing = cx.client().get(&path_of(&sent.id)).await?;
    let item = follow_shown(cx, first, limit, shown).await?;
    match item.state.as_str() {
        "delivered" => {
            let us = item.settled_us.unwrap_or_default().saturating_sub(item.seq);
            let seconds = Duration::from_micros(us).as_secs_f64();
            Ok(Sent { state: item.state, seconds, reason: None, ..sent })
        }
        "queued" | "sending" => Err(still_queued(&sent.id)),
        _ => Err(ended_badly(&item)),
    }
}

/// Waits until a message or file in the outbox has come to its end, or it is time, and shows how
/// far a file is.
pub(super) async fn follow(
    cx: &Context,
    item: Outgoing,
    limit: Duration,
) -> Result<Outgoing, Failure> {
    if item.sent.is_none() {
        let query = Query::new(&path_of(&item.id)).with("wait_ms", millis(Some(Span(limit))));
        return cx.client().get_within(query.as_str(), Some(limit)).await;
    }
    let mut shown = Shown::new(cx.out.json, item.bytes);
    let item = follow_shown(cx, item, limit, &mut shown).await;
    shown.finish();
    item
}

async fn follow_shown(
    cx: &Context,
    mut item: Outgoing,
    limit: Duration,
    shown: &mut Shown,
) -> Result<Outgoing, Failure> {
    let deadline = tokio::time::Instant::now() + limit;
    while !is_settled(&item) {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        if left.is_zero() {
            break;
        }
        let sent = item.sent.unwrap_or_default();
        shown.progress(Progress { sent, total: item.bytes, kept: None });
        let step = left.min(PROGRESS_EVERY);
        let query = Query::new(&path_of(&item.id)).with("wait_ms", millis(Some(Span(step))));
        item = cx.client().get_within(query.as_str(), Some(step)).await?;
    }
    Ok(item)
}

/// A file that will not be delivered.
fn ended_badly(item: &Outgoing) -> Failure {
    let code = item.reason.as_ref().and_then(|reason| Code::parse(&reason.code));
    Failure::new(code.unwrap_or(Code::Rejected), told(item))
}

/// Progress on standard error: a bar on a terminal, else JSON lines.
enum Shown {
    Bar(ProgressBar),
    Lines(Instant),
}

impl Shown {
    #[expect(clippy::disallowed_methods, reason = "progress is for people, who live by the clock")]
    fn new(json: bool, total: u64) -> Self {
        if json || !std::io::stderr().is_terminal() {
            return Shown::Lines(Instant::now());
        }
        let bar = ProgressBar::new(total);
        let template = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Shown::Bar(bar)
    }

    #[expect(clippy::disallowed_methods, reason = "as above")]
    fn progress(&mut self, progress: Progress) {
        match self {
            Shown::Bar(bar) => bar.set_position(progress.kept.unwrap_or(progress.sent)),
            Shown::Lines(last) if last.elapsed() >= PROGRESS_EVERY => {
                *last = Instant::now();
                let line = to_line(&serde_json::json!({ "progress": progress }));
                let _ = writeln!(std::io::stderr(), "{line}");
            }
            Shown::Lines(_) => {}
        }
    }

    fn finish(self) {
        if let Shown::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

pub(super) async fn received(cx: &Context) -> Result<(), Failure> {
    let mut received = Received { files: Vec::new(), more: true };
    while received.more {
        let after = received.files.last().map(|file| file.seq);
        let query = Query::new("/v1/received").with("after", after);
        let page: Received = cx.client().get(query.as_str()).await?;
        received.more = page.more && !page.files.is_empty();
        received.files.extend(page.files);
    }
    cx.out.show(&received, |received| {
        if received.files.is_empty() {
            return "no files".to_owned();
        }
        let line = |f: &api::ReceivedFile| {
            let note = if f.note.is_empty() {
                String::new()
            } else {
                format!(", says {}", quoted(&f.note))
            };
            let size = match f.kind.as_str() {
                "directory" => format!("{} entries, {}", f.entries, bytes(f.bytes)),
                _ => bytes(f.bytes),
            };
            let gone = if f.there { "" } else { " (moved or deleted)" };
            format!(
                "{} {} {} {size} in {}{gone}{note}",
                utc(f.at),
                f.from,
                quoted(&f.name),
                f.path.display()
            )
        };
        received.files.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    Ok(())
}
