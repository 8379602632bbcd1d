//! Messages and the inbox; the outbox, in which files wait, too.

use super::Context;
use super::exchange::millis;
use super::files;
use crate::api::{self, Inbox, Message, Nothing, Outbox, Outgoing};
use crate::cli::agent;
use crate::cli::values::Span;
use crate::client::Query;
use crate::error::{Code, Failure};
use crate::output::{bytes, print_line, quoted, time, to_line, utc};
use data_encoding::BASE64;
use hyper::Method;
use std::io::Read as _;
use std::time::Duration;

/// Longest text of one message (`Type 1` frames carry at most 2^24 bytes; a message is read
/// whole, so it is bounded far below).
const TEXT_MAX: u64 = 1024 * 1024;
/// Patience of who has named none.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// A request for what comes next waits so long; then it is asked again.
const FOLLOW: Duration = Duration::from_secs(60);

// ---- out ----

pub(super) async fn send_message(cx: &Context, args: agent::SendMessage) -> Result<(), Failure> {
    let content = match (args.text, args.file) {
        (_, Some(path)) if path.as_os_str() != "-" => {
            let doing = |e| Failure::io(format!("read {}", path.display()), e);
            read(std::fs::File::open(&path).map_err(doing)?).map_err(doing)?
        }
        (Some(text), _) if text != "-" => text.into_bytes(),
        _ => read(std::io::stdin()).map_err(|e| Failure::io("read standard input", e))?,
    };
    if content.len() as u64 > TEXT_MAX {
        let message = format!("the message has more than {}", bytes(TEXT_MAX));
        return Err(Failure::new(Code::TooLarge, message).hint("use `pilotctl send-file`"));
    }
    let (text, base64) = match String::from_utf8(content) {
        Ok(text) => (Some(text), None),
        Err(e) => (None, Some(BASE64.encode(e.as_bytes()))),
    };
    let wait = args.wait.map(|wait| wait.unwrap_or(Span(WAIT_MAX)));
    let body = api::SendMessage {
        to: args.agent.to_string(),
        text,
        base64,
        kind: Some(args.kind),
        network: args.at.network,
        timeout_ms: millis(args.timeout),
        wait_ms: millis(wait),
    };
    let extra = args.timeout.or(wait).map(|span| span.0);
    let sent: Outgoing =
        cx.client().send_within(Method::POST, "/v1/messages", &body, extra).await?;
    if wait.is_some() && !is_settled(&sent) {
        return Err(still_queued(&sent.id));
    }
    cx.out.show(&sent, told);
    Ok(())
}

fn read(from: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    from.take(TEXT_MAX + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// It was waited for, and not for long enough.
pub(super) fn still_queued(id: &str) -> Failure {
    let message = format!("not delivered within the time given; it stays queued as {id}");
    Failure::new(Code::Timeout, message)
        .hint(format!("`pilotctl status {id}` shows what becomes of it"))
}

pub(super) fn is_settled(message: &Outgoing) -> bool {
    !matches!(message.state.as_str(), "queued" | "sending")
}

/// What has become of a message or file, for people.
pub(super) fn told(message: &Outgoing) -> String {
    let Outgoing { id, to, .. } = message;
    let why = message.reason.as_ref().map_or(String::new(), |r| format!(": {}", r.message));
    let took = || {
        let us = message.settled_us.unwrap_or_default().saturating_sub(message.seq);
        time(Duration::from_micros(us))
    };
    match message.state.as_str() {
        "delivered" => format!("delivered to {to} in {}", took()),
        "refused" => format!("refused for {to}{why}"),
        "cancelled" if message.may_have_arrived => {
            format!("cancelled; it was on its way to {to} already and may have arrived")
        }
        "cancelled" => format!("cancelled; {to} will not get it"),
        state => format!("{state} {id} for {to}{why}"),
    }
}

pub(super) async fn outbox(cx: &Context, args: agent::Outbox) -> Result<(), Failure> {
    let mut outbox = Outbox { messages: Vec::new(), more: true, waiting: 0, waiting_bytes: 0 };
    while outbox.more {
        let after = outbox.messages.last().map(|message| message.seq);
        let all = args.all.then_some(true);
        let query = Query::new("/v1/outbox").with("after", after).with("all", all);
        let page: Outbox = cx.client().get(query.as_str()).await?;
        outbox.more = page.more && !page.messages.is_empty();
        (outbox.waiting, outbox.waiting_bytes) = (page.waiting, page.waiting_bytes);
        outbox.messages.extend(page.messages);
    }
    cx.out.show(&outbox, |outbox| {
        if outbox.messages.is_empty() {
            return "nothing".to_owned();
        }
        let line = |m: &Outgoing| {
            let why = m.reason.as_ref().map_or(String::new(), |r| format!(": {}", r.message));
            let (at, size) = (utc(m.seq / 1_000_000), bytes(m.bytes));
            let name = m.name.as_deref().map_or(String::new(), |name| format!(" {}", quoted(name)));
            let sent = match m.sent {
                Some(sent) if m.state == "sending" => format!("{} of ", bytes(sent)),
                _ => String::new(),
            };
            format!("{at} {} {} {} {}{name} {sent}{size}{why}", m.id, m.to, m.state, m.kind)
        };
        outbox.messages.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

pub(super) async fn status(cx: &Context, args: agent::Status) -> Result<(), Failure> {
    let mut message: Outgoing = cx.client().get(&path_of(&args.id)).await?;
    if let Some(wait) = args.wait {
        message = files::follow(cx, message, wait.0).await?;
    }
    cx.out.show(&message, told);
    Ok(())
}

pub(super) async fn cancel(cx: &Context, args: agent::Cancel) -> Result<(), Failure> {
    let path = path_of(&args.id);
    let message: Outgoing = cx.client().send(Method::DELETE, &path, &Nothing {}).await?;
    cx.out.show(&message, told);
    Ok(())
}

/// The path of an item; what cannot be an id is refused by the daemon, not made another path.
pub(super) fn path_of(id: &str) -> String {
    let safe: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("/v1/outbox/{safe}")
}

// ---- in ----

pub(super) async fn inbox(cx: &Context, args: agent::Inbox) -> Result<(), Failure> {
    if args.follow {
        return follow(cx, &args).await;
    }
    let mut inbox = Inbox { messages: Vec::new(), more: true };
    while inbox.more {
        let after = inbox.messages.last().map(|message| message.seq);
        let query = Query::new("/v1/inbox").with("after", after);
        let page: Inbox = cx.client().get(query.as_str()).await?;
        inbox.more = page.more && !page.messages.is_empty();
        inbox.messages.extend(page.messages);
    }
    cx.out.show(&inbox, |inbox| {
        if inbox.messages.is_empty() {
            return "no messages".to_owned();
        }
        inbox.messages.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    if args.clear {
        // One by one: what came in since then has not been shown.
        for message in &inbox.messages {
            delete(cx, message).await?;
        }
    }
    Ok(())
}

fn line(message: &Message) -> String {
    format!("{} {} {}", utc(message.at), message.from, quoted(&message.text))
}

async fn delete(cx: &Context, message: &Message) -> Result<(), Failure> {
    let path = format!("/v1/inbox/{}", message.seq);
    let _: Nothing = cx.client().send(Method::DELETE, &path, &Nothing {}).await?;
    Ok(())
}

/// Shows what is there and what comes, each message once.
async fn follow(cx: &Context, args: &agent::Inbox) -> Result<(), Failure> {
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut after = None;
    loop {
        let wait = millis(Some(Span(FOLLOW)));
        let query = Query::new("/v1/inbox").with("after", after).with("wait_ms", wait);
        let page: Inbox = cx.client().get_within(query.as_str(), Some(FOLLOW)).await?;
        for message in &page.messages {
            print_line(&if cx.out.json { to_line(message) } else { line(message) });
            after = Some(message.seq);
            if args.clear {
                delete(cx, message).await?;
            }
            left -= 1;
            if left == 0 {
                return Ok(());
            }
        }
    }
}
