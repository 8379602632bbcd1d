//! Files and echo.

use super::Context;
use super::messages::{WAIT_MAX, path_of, still_queued, told};
use crate::api::{self, EchoReport, EchoRequest, Outgoing, Progress, Received, Sent, SentFile};
use crate::cli::agent;
use crate::cli::values::Span;
use crate::client::Query;
use crate::error::{Code, Failure};
use crate::output::{bytes, quoted, time, to_line, utc};
use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// How often in a row a file that does not get on is tried again, and after how long.
const RETRIES: u32 = 20;
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Patience with an echo whose time was not limited.
const ECHO_MAX: Duration = Duration::from_secs(24 * 3600);
/// Distance of progress lines.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

pub(super) fn millis(span: Option<Span>) -> Option<u64> {
    span.map(|span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX))
}

fn seconds(seconds: f64) -> String {
    time(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

pub(super) async fn send_file(cx: &Context, args: agent::SendFile) -> Result<(), Failure> {
    let doing = |e| Failure::io(format!("read {}", args.file.display()), e);
    let meta = std::fs::metadata(&args.file).map_err(doing)?;
    if !meta.is_file() {
        let message = format!("{} is not a file", args.file.display());
        return Err(Failure::new(Code::Usage, message)
            .hint("pack a directory first, as with `tar c DIR | pilotctl connect ADDR PORT`"));
    }
    let own_name = || args.file.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = args.name.clone().or_else(own_name).unwrap_or_default();
    let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    let query = Query::new("/v1/files")
        .with("to", Some(&args.agent))
        .with("network", args.at.network)
        .with("name", Some(&name))
        .with("note", Some(&args.note).filter(|note| !note.is_empty()))
        // By name, size and time the daemon knows an interrupted file again.
        .with("modified_ns", modified.map(|t| t.as_nanos()))
        .with("queue", args.queue.then_some(true))
        .with("timeout_ms", millis(args.timeout));
    let mut shown = Shown::new(cx.out.json, meta.len());
    let mut tried = 0;
    let mut sent: Sent = loop {
        let file = tokio::fs::File::open(&args.file).await.map_err(doing)?;
        let mut moved = false;
        let progress = |progress: Progress| {
            moved |= progress.sent > 0;
            shown.progress(progress);
        };
        let sent = cx.client().upload(query.as_str(), meta.len(), file, progress).await;
        match sent {
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
        let hash = s.sha256.as_deref().map_or(String::new(), |hash| format!(", sha256 {hash}"));
        format!(
            "delivered {} ({}) to {} in {}, {}/s, {}{hash}",
            quoted(&name),
            bytes(s.bytes),
            s.to,
            seconds(s.seconds),
            bytes(rate as u64),
            if s.path == "none" { "through the outbox" } else { &s.path },
        )
    });
    Ok(())
}

/// Waits until a file in the outbox has come to its end.
async fn await_receipt(
    cx: &Context,
    sent: Sent,
    limit: Duration,
    shown: &mut Shown,
) -> Result<Sent, Failure> {
    let deadline = tokio::time::Instant::now() + limit;
    let path = path_of(&sent.id);
    loop {
        let left = deadline.saturating_duration_since(tokio::time::Instant::now());
        let step = left.min(PROGRESS_EVERY);
        let query = Query::new(&path).with("wait_ms", Some(step.as_millis()));
        let item: Outgoing = cx.client().get_within(query.as_str(), Some(step)).await?;
        match item.state.as_str() {
            "delivered" => {
                let us = item.settled_us.unwrap_or_default().saturating_sub(item.seq);
                let seconds = Duration::from_micros(us).as_secs_f64();
                return Ok(Sent { state: item.state, seconds, reason: None, ..sent });
            }
            "queued" | "sending" if !left.is_zero() => {
                let sent = item.sent.unwrap_or_default();
                shown.progress(Progress { sent, total: item.bytes, kept: None });
            }
            "queued" | "sending" => return Err(still_queued(&sent.id)),
            _ => return Err(ended_badly(&item)),
        }
    }
}

/// A file that will not be delivered.
fn ended_badly(item: &Outgoing) -> Failure {
    let code = item.reason.as_ref().and_then(|reason| Code::parse(&reason.code));
    Failure::new(code.unwrap_or(Code::Rejected), told(item))
}

/// Puts a file into the outbox for an agent, as a part of something else.
pub(super) async fn queue_file(
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
        .with("queue", Some(true));
    let file = tokio::fs::File::open(path).await.map_err(doing)?;
    let sent: Sent = cx.client().upload(query.as_str(), meta.len(), file, |_: Progress| {}).await?;
    let sha256 = sent.sha256.ok_or_else(|| {
        Failure::new(Code::Internal, "the daemon has not told the hash of a file")
    })?;
    Ok(SentFile { id: sent.id, name: name.unwrap_or_default(), bytes: sent.bytes, sha256 })
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
            let gone = if f.there { "" } else { " (moved or deleted)" };
            format!(
                "{} {} {} {} in {}{gone}{note}",
                utc(f.at),
                f.from,
                quoted(&f.name),
                bytes(f.bytes),
                f.path.display()
            )
        };
        received.files.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

pub(super) async fn echo(cx: &Context, args: agent::Echo) -> Result<(), Failure> {
    let body = EchoRequest {
        to: args.agent.to_string(),
        network: args.at.network,
        count: args.count,
        bytes: args.bytes,
        timeout_ms: millis(args.timeout.timeout),
    };
    let limit = args.timeout.timeout.map_or(ECHO_MAX, |span| span.0);
    let report: EchoReport =
        cx.client().send_within(Method::POST, "/v1/echo", &body, Some(limit)).await?;
    cx.out.show(&report, |r| {
        let us = |us| time(Duration::from_micros(us));
        let mut text = String::new();
        for (i, rtt) in r.rtts_us.iter().enumerate() {
            text += &format!("{}: {}\n", i + 1, us(*rtt));
        }
        text += &format!(
            "{} {}: rtt min {}, median {}, 99% {}, max {}",
            r.address,
            r.path,
            us(r.min_us),
            us(r.p50_us),
            us(r.p99_us),
            us(r.max_us)
        );
        if let Some(rate) = r.bytes_per_second {
            let (size, each) = (bytes(r.bytes), bytes(rate as u64));
            text += &format!("; {size} there and back in {}, {each}/s each way", us(r.burst_us));
        }
        text
    });
    Ok(())
}
