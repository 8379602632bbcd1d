//! Publishing and subscribing.

use super::Context;
use crate::api::{Dropped, Event, Nothing, Publish, Published, Subscribed};
use crate::cli::events;
use crate::client::{Query, ServerSent};
use crate::error::{Code, Envelope, Failure};
use crate::output::{bytes, cleaned, quoted, time};
use hyper::Method;
use serde::de::DeserializeOwned;
use std::io::Read as _;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};

/// Longest data of one event.
const DATA_MAX: usize = pilot_core::service::events::DATA_MAX;
/// Most lines, and about their bytes, of one request.
const LINES_MAX: usize = 1000;
const LINES_BYTES: usize = 1024 * 1024;
/// First pause before a lost agent is tried again, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) async fn publish(cx: &Context, args: events::Publish) -> Result<(), Failure> {
    let limit = args.timeout.timeout.map(|span| span.0);
    let mut body = Publish {
        to: args.agent.to_string(),
        topic: args.topic,
        text: None,
        base64: None,
        lines: None,
        retain: args.retain,
        acknowledge: !args.no_wait,
        network: args.at.network,
        timeout_ms: limit.map(millis),
    };
    let send = async |body: &Publish| -> Result<Published, Failure> {
        cx.client().send_within(Method::POST, "/v1/events/publish", body, limit).await
    };
    let published = if args.lines {
        if args.data != "-" {
            return Err(Failure::new(
                Code::Usage,
                "--lines reads standard input: give `-` as DATA",
            ));
        }
        let mut input = BufReader::new(tokio::io::stdin());
        let mut all = Published { to: body.to.clone(), events: 0, queued: None };
        while let Some(lines) = lines(&mut input).await? {
            body.lines = Some(lines);
            let published = send(&body).await?;
            all.to = published.to;
            all.events += published.events;
            all.queued = published.queued.map(|queued| all.queued.unwrap_or(0) + queued);
        }
        all
    } else {
        match if args.data == "-" { read_data()? } else { args.data.into_bytes() } {
            data if data.len() > DATA_MAX => return Err(too_large()),
            data => match String::from_utf8(data) {
                Ok(text) => body.text = Some(text),
                Err(e) => body.base64 = Some(data_encoding::BASE64.encode(e.as_bytes())),
            },
        }
        send(&body).await?
    };
    cx.out.show(&published, |p| {
        let what = if p.events == 1 {
            "published".to_owned()
        } else {
            format!("published {} events", p.events)
        };
        match p.queued {
            Some(1) => format!("{what} at {}, to 1 subscriber", p.to),
            Some(n) if p.events == 1 => format!("{what} at {}, to {n} subscribers", p.to),
            Some(n) => format!("{what} at {}, {n} into subscribers' queues", p.to),
            None => format!("{what} at {}, unacknowledged", p.to),
        }
    });
    Ok(())
}

fn too_large() -> Failure {
    let message = format!("an event has at most {}", bytes(DATA_MAX as u64));
    Failure::new(Code::TooLarge, message).hint("use `pilotctl send-file`, and publish its name")
}

fn read_data() -> Result<Vec<u8>, Failure> {
    let mut data = Vec::new();
    std::io::stdin()
        .take(DATA_MAX as u64 + 1)
        .read_to_end(&mut data)
        .map_err(|e| Failure::io("read standard input", e))?;
    Ok(data)
}

/// The lines that are there, at least one; `None` at the end.
async fn lines<R: AsyncRead + Unpin>(
    input: &mut BufReader<R>,
) -> Result<Option<Vec<String>>, Failure> {
    let (mut lines, mut size) = (Vec::new(), 0);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut *input).take(DATA_MAX as u64 + 2);
        let read = limited.read_until(b'\n', &mut line).await;
        if read.map_err(|e| Failure::io("read standard input", e))? == 0 {
            return Ok(Some(lines).filter(|lines| !lines.is_empty()));
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.len() > DATA_MAX {
            return Err(too_large());
        }
        size += line.len();
        lines.push(String::from_utf8(line).map_err(|_| {
            Failure::new(Code::Usage, "a line of standard input is not UTF-8")
                .hint("publish bytes one by one, with `-` and without --lines")
        })?);
        // Only whole lines that are here already: one that is still typed keeps none waiting.
        let more = input.buffer().contains(&b'\n');
        if !more || lines.len() == LINES_MAX || size >= LINES_BYTES {
            return Ok(Some(lines));
        }
    }
}

pub(super) async fn subscribe(cx: &Context, args: events::Subscribe) -> Result<(), Failure> {
    let Some(span) = args.timeout.timeout else { return follow(cx, &args).await };
    tokio::time::timeout(span.0, follow(cx, &args)).await.unwrap_or_else(|_| {
        Err(Failure::new(
            Code::Timeout,
            format!("not all that was waited for came in {:?}", span.0),
        ))
    })
}

/// Whether an agent that was lost in this way may come back.
fn may_come_back(code: Code) -> bool {
    matches!(
        code,
        Code::Ended
            | Code::NoAnswer
            | Code::Busy
            | Code::Full
            | Code::Refused
            | Code::Timeout
            | Code::NotRunning
            | Code::RegistryUnreachable
            | Code::RateLimited
            | Code::Io
    )
}

async fn follow(cx: &Context, args: &events::Subscribe) -> Result<(), Failure> {
    let mut query = Query::new("/v1/events/subscribe").with("to", Some(&args.agent));
    for pattern in &args.patterns {
        query = query.with("pattern", Some(pattern));
    }
    let query = query
        .with("retained", args.retained.then_some(true))
        .with("network", args.at.network)
        .with("timeout_ms", args.timeout.timeout.map(|span| millis(span.0)));
    let mut shown = Shown { cx, left: args.count, was_lost: false, pause: RETRY_FIRST };
    loop {
        let each = |heard: ServerSent<'_>| shown.handle(heard);
        match cx.client().server_sent(query.as_str(), each).await {
            Err(failure) if args.follow && may_come_back(failure.code) => {
                let pause = shown.pause;
                let (message, pause_text) = (&failure.message, time(pause));
                cx.out.note(&format!("lost {}: {message}; again in {pause_text}", args.agent));
                tokio::time::sleep(pause).await;
                shown.was_lost = true;
                shown.pause = (pause * 2).min(RETRY_MAX);
            }
            ended => return ended,
        }
    }
}

/// What was shown, and how much is still wanted.
struct Shown<'c> {
    cx: &'c Context,
    left: Option<u64>,
    was_lost: bool,
    pause: Duration,
}

fn parsed<T: DeserializeOwned>(data: &str) -> Result<T, Failure> {
    serde_json::from_str(data).map_err(|e| Failure::new(Code::Internal, e.to_string()))
}

impl Shown<'_> {
    /// Whether there may be more.
    fn handle(&mut self, heard: ServerSent<'_>) -> Result<bool, Failure> {
        let out = self.cx.out;
        match heard.name {
            "subscribed" => {
                let subscribed: Subscribed = parsed(heard.data)?;
                let again = if self.was_lost { " again" } else { "" };
                out.note(&format!("subscribed{again} at {}", subscribed.to));
                self.pause = RETRY_FIRST;
            }
            "event" => {
                let event: Event = parsed(heard.data)?;
                out.show(&event, |e| {
                    let retained = if e.retained { " (retained)" } else { "" };
                    format!("{} {} {}{retained}", cleaned(&e.topic), e.from, quoted(&e.text))
                });
                self.left = self.left.map(|left| left - 1);
                return Ok(self.left != Some(0));
            }
            "dropped" => {
                let Dropped { dropped, total } = parsed(heard.data)?;
                let note = format!("{dropped} events were lost here ({total} in all): too slow");
                if out.json {
                    out.show(&Dropped { dropped, total }, |_| String::new());
                } else {
                    out.note(&note);
                }
            }
            "end" => {
                let end: Envelope<Nothing> = parsed(heard.data)?;
                end.into_result()?;
                return Ok(false);
            }
            // Of a newer daemon.
            _ => {}
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_taken_as_they_come_and_not_too_long() {
        let mut input = BufReader::new(&b"a\n\nlast"[..]);
        assert_eq!(lines(&mut input).await.unwrap().unwrap(), ["a", ""]);
        assert_eq!(lines(&mut input).await.unwrap().unwrap(), ["last"]);
        assert!(lines(&mut input).await.unwrap().is_none());
        let long = "x".repeat(DATA_MAX) + "\n";
        let mut input = BufReader::new(long.as_bytes());
        assert_eq!(lines(&mut input).await.unwrap().unwrap()[0].len(), DATA_MAX);
        let longer = "x".repeat(DATA_MAX + 1) + "\n";
        let mut input = BufReader::new(longer.as_bytes());
        assert_eq!(lines(&mut input).await.unwrap_err().code, Code::TooLarge);
    }
}
