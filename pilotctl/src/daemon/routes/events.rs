//! Events: publishing to a broker, and subscriptions as server-sent events.

use super::Cx;
use crate::api::{self, Dropped, Published, Subscribed};
use crate::cli::values::Agent;
use crate::daemon::Shared;
use crate::daemon::offer::{EventStream, connect_events, from_events};
use crate::error::{Code, Envelope, Failure};
use crate::http::{ALIVE, EVENTS, answer, body, parse, query, server_sent, streamed};
use crate::output::cleaned;
use crate::services::events::client::{self, News, Publication, Subscription};
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use data_encoding::BASE64;
use pilot_core::addr::{Address, NetworkId};
use pilot_core::service::events::OUTSTANDING_MAX;
use schemars::JsonSchema;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// An event has so long to reach the broker, and a subscription to be confirmed, unless the
/// client says otherwise.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Events that wait for the client; behind them the broker's queue fills.
const QUEUE: usize = 64;

pub(super) async fn stats(State(shared): Cx) -> Response {
    let stats = shared.offer.events.stats();
    answer(Ok(api::EventStats {
        connections: stats.connections as u64,
        retained: stats.retained as u64,
        published: stats.published,
        queued: stats.queued,
        dropped: stats.dropped,
        evicted: stats.evicted,
    }))
}

async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let time = limit.unwrap_or(ANSWER_TIME);
    tokio::time::timeout(time, work).await.unwrap_or_else(|_| {
        let code = if limit.is_some() { Code::Timeout } else { Code::NoAnswer };
        Err(Failure::new(code, format!("the other side has not answered within {time:?}")))
    })
}

pub(super) async fn publish(State(shared): Cx, bytes: Bytes) -> Response {
    answer(
        async {
            let wanted: api::Publish = body(&bytes)?;
            let data = contents(&wanted)?;
            let agent: Agent = parse("the agent", &wanted.to)?;
            let limit = wanted.timeout_ms.map(Duration::from_millis);
            let to = shared.node.target(&agent, wanted.network.map(NetworkId)).await?;
            let queued = within(limit, async {
                let stream = connect_events(&shared, to, limit).await?;
                let how = Publication {
                    topic: &wanted.topic,
                    retain: wanted.retain,
                    acknowledge: wanted.acknowledge,
                };
                client::publish(stream, how, &data).await.map_err(from_events)
            });
            let queued = Some(queued.await?).filter(|_| wanted.acknowledge);
            Ok(Published { to: to.to_string(), events: data.len() as u64, queued })
        }
        .await,
    )
}

/// The data of each event.
fn contents(wanted: &api::Publish) -> Result<Vec<Vec<u8>>, Failure> {
    match (&wanted.text, &wanted.base64, &wanted.lines) {
        (Some(text), None, None) => Ok(vec![text.clone().into_bytes()]),
        (None, Some(base64), None) => {
            let bytes = BASE64.decode(base64.as_bytes());
            bytes.map(|bytes| vec![bytes]).map_err(|e| {
                Failure::new(Code::Usage, format!("`base64` is not standard base64: {e}"))
            })
        }
        (None, None, Some(lines)) => {
            Ok(lines.iter().map(|line| line.clone().into_bytes()).collect())
        }
        _ => Err(Failure::new(Code::Usage, "exactly one of text, base64 and lines is needed")
            .hint("docs/pilotctl.md shows each route with an example")),
    }
}

/// `?to=ADDR&pattern=P&pattern=P…&retained=true&network=N&timeout_ms=T`
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The agent whose broker is meant: an address or hostname, also our own.
    #[schemars(with = "String")]
    to: Agent,
    /// 1 to 256 of them.
    #[schemars(rename = "pattern")]
    patterns: Vec<String>,
    /// The values kept from before, too.
    #[schemars(default)]
    retained: bool,
    /// Of the name or address; default: the lowest joined non-zero network, else 0.
    #[schemars(with = "Option<u16>")]
    network: Option<NetworkId>,
    /// Milliseconds until the broker has confirmed.
    #[schemars(rename = "timeout_ms", with = "Option<u64>")]
    limit: Option<Duration>,
}

impl Wanted {
    fn from_query(pairs: Vec<(String, String)>) -> Result<Self, Failure> {
        let (mut to, mut patterns, mut retained) = (None, Vec::new(), false);
        let (mut network, mut limit) = (None, None);
        for (name, value) in pairs {
            match name.as_str() {
                "to" => to = Some(parse("the agent", &value)?),
                "pattern" => patterns.push(value),
                "retained" => retained = parse("`retained`", &value)?,
                "network" => network = Some(NetworkId(parse("the network", &value)?)),
                "timeout_ms" => limit = Some(Duration::from_millis(parse("the time", &value)?)),
                _ => {
                    let shown = cleaned(&name);
                    let known = "`to`, `pattern`, `retained`, `network`, `timeout_ms`";
                    let message = format!("unknown field `{shown}`, expected one of {known}");
                    return Err(Failure::new(Code::Usage, message));
                }
            }
        }
        let missing = |field| Failure::new(Code::Usage, format!("missing field `{field}`"));
        let to = to.ok_or_else(|| missing("to"))?;
        if patterns.is_empty() {
            return Err(missing("pattern"));
        }
        if patterns.len() > OUTSTANDING_MAX {
            return Err(Failure::new(
                Code::Usage,
                format!("a subscription has 1 to {OUTSTANDING_MAX} patterns"),
            ));
        }
        Ok(Wanted { to, patterns, retained, network, limit })
    }
}

pub(super) async fn subscribe(
    State(shared): Cx,
    asked: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    match open(&shared, asked).await {
        Err(failure) => answer::<()>(Err(failure)),
        Ok((subscription, first)) => {
            let (to, heard) = mpsc::channel(QUEUE);
            let work = tokio::spawn(async move { subscription.run(to).await.map_err(from_events) });
            let stop = shared.stop.subscribe();
            let first = Some(server_sent("subscribed", &first));
            let telling = Telling { first, heard, work: Some(work), stop, dropped: 0 };
            let body = futures_util::stream::unfold(telling, Telling::next);
            let body = futures_util::StreamExt::map(body, Ok::<_, Infallible>);
            streamed(EVENTS, Body::from_stream(body))
        }
    }
}

type Opened = (Subscription<Box<dyn EventStream>>, Subscribed);

async fn open(
    shared: &Arc<Shared>,
    asked: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Opened, Failure> {
    let wanted = Wanted::from_query(query(asked)?)?;
    let to: Address = shared.node.target(&wanted.to, wanted.network).await?;
    let subscription = within(wanted.limit, async {
        let stream = connect_events(shared, to, wanted.limit).await?;
        let opened = Subscription::open(stream, &wanted.patterns, wanted.retained);
        opened.await.map_err(from_events)
    });
    Ok((subscription.await?, Subscribed { to: to.to_string(), patterns: wanted.patterns }))
}

/// What an answer says next.
enum Next {
    News(News),
    Nothing,
    Stopped,
    Over,
}

/// The answer to a subscription, as it comes.
struct Telling {
    first: Option<String>,
    heard: mpsc::Receiver<News>,
    /// Gone when the end was told.
    work: Option<JoinHandle<Result<(), Failure>>>,
    stop: watch::Receiver<bool>,
    dropped: u64,
}

impl Telling {
    async fn next(mut self) -> Option<(String, Self)> {
        if let Some(first) = self.first.take() {
            return Some((first, self));
        }
        self.work.as_ref()?;
        let stopped = async {
            // A closed channel means the same.
            let _ = self.stop.wait_for(|stop| *stop).await;
        };
        let next = tokio::select! {
            biased;
            () = stopped => Next::Stopped,
            news = self.heard.recv() => news.map_or(Next::Over, Next::News),
            () = tokio::time::sleep(ALIVE) => Next::Nothing,
        };
        let text = match next {
            Next::Nothing => ": alive\n\n".to_owned(),
            Next::News(news) => self.shown(news),
            Next::Stopped => {
                self.end(Err(Failure::new(Code::NotRunning, "the daemon is stopping")))
            }
            Next::Over => {
                let result = match self.work.take() {
                    Some(work) => work.await.unwrap_or_else(|e| {
                        Err(Failure::new(Code::Internal, format!("it failed: {e}")))
                    }),
                    None => Ok(()),
                };
                self.end(result)
            }
        };
        Some((text, self))
    }

    fn end(&mut self, result: Result<(), Failure>) -> String {
        self.work = None;
        server_sent("end", &Envelope::from_result(result.map(|()| api::Nothing {})))
    }

    fn shown(&mut self, news: News) -> String {
        match news {
            News::Dropped(dropped) => {
                self.dropped = self.dropped.saturating_add(dropped);
                server_sent("dropped", &Dropped { dropped, total: self.dropped })
            }
            News::Event { from, retained, topic, data } => {
                let text = cleaned(&String::from_utf8_lossy(&data));
                let base64 = (text.as_bytes() != data).then(|| BASE64.encode(&data));
                let bytes = data.len() as u64;
                let from = from.to_string();
                server_sent("event", &api::Event { topic, from, retained, text, base64, bytes })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &[(&str, &str)]) -> Result<Wanted, Code> {
        let pair = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        Wanted::from_query(text.iter().map(pair).collect()).map_err(|failure| failure.code)
    }

    #[test]
    fn a_subscription_has_an_agent_and_patterns_and_nothing_unknown() {
        let (to, pattern) = (("to", "1:0001.0000.0042"), ("pattern", "a.*"));
        let query = [to, pattern, ("pattern", "b,c"), ("retained", "true"), ("timeout_ms", "5")];
        let found = wanted(&query).unwrap();
        assert_eq!(found.patterns, ["a.*", "b,c"]);
        assert!(found.retained && found.limit == Some(Duration::from_millis(5)));
        let too_many = [&[to][..], &[pattern; OUTSTANDING_MAX + 1]].concat();
        assert!(wanted(&too_many[..=OUTSTANDING_MAX]).is_ok());
        let bad: [&[_]; 5] =
            [&[to], &[pattern], &too_many, &[to, pattern, ("x", "y")], &[to, ("retained", "1")]];
        for query in bad {
            assert_eq!(wanted(query).err(), Some(Code::Usage), "{query:?}");
        }
    }

    #[test]
    fn an_event_has_one_content() {
        let contents_of = |json: &str| {
            let body = Bytes::from(format!(r#"{{"to":"a","topic":"t"{json}}}"#));
            contents(&body_of(&body)).map_err(|failure| failure.code)
        };
        fn body_of(bytes: &Bytes) -> api::Publish {
            body(bytes).unwrap()
        }
        assert_eq!(contents_of(r#","text":"hi""#), Ok(vec![b"hi".to_vec()]));
        assert_eq!(contents_of(r#","base64":"/wAB""#), Ok(vec![vec![0xFF, 0, 1]]));
        assert_eq!(contents_of(r#","lines":["a",""]"#), Ok(vec![b"a".to_vec(), Vec::new()]));
        for bad in ["", r#","text":"a","lines":[]"#, r#","base64":"?""#] {
            assert_eq!(contents_of(bad), Err(Code::Usage), "{bad}");
        }
    }
}
