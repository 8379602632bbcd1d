//! The client of the local API: HTTP over the Unix socket of a home.

use crate::api::{LINES, Line, STREAM_PROTOCOL};
use crate::error::{Code, Envelope, Failure};
use crate::home::Home;
use crate::socket;
use futures_util::{FutureExt as _, TryStreamExt as _};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::{Display, Write as _};
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio_util::io::ReaderStream;

/// The body of a request.
type Body = BoxBody<Bytes, std::io::Error>;

/// Longest answer that is taken into memory.
const ANSWER_MAX: usize = 64 * 1024 * 1024;
/// Longest line of an answer in lines.
const LINE_MAX: usize = 1024 * 1024;
/// An answer takes no longer than the request's own time plus this.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks one process.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    home: Home,
    who: &'static str,
    command: &'static str,
}

impl Client {
    /// The daemon of a home.
    pub(crate) fn daemon(home: &Home) -> Self {
        Client { home: home.clone(), who: "the daemon", command: "daemon" }
    }

    /// The rendezvous server of a home.
    pub(crate) fn rendezvous(home: &Home) -> Self {
        let (who, command) = ("the rendezvous server", "rendezvous");
        Client { home: home.rendezvous(), who, command }
    }

    /// `GET`.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.get_within(path, None).await
    }

    /// The same, where the answer itself may take as long as `extra`.
    pub(crate) async fn get_within<T: DeserializeOwned>(
        &self,
        path: &str,
        extra: Option<Duration>,
    ) -> Result<T, Failure> {
        let request = self.request(Method::GET, path, Vec::new())?;
        self.call(request, PATIENCE.saturating_add(extra.unwrap_or_default())).await
    }

    /// `POST`, `PUT` or `DELETE` with a JSON body.
    pub(crate) async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        self.send_within(method, path, body, None).await
    }

    /// The same, for a request that itself may take as long as `extra`.
    pub(crate) async fn send_within<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
        extra: Option<Duration>,
    ) -> Result<T, Failure> {
        let request = self.request(method, path, json(body)?)?;
        self.call(request, PATIENCE.saturating_add(extra.unwrap_or_default())).await
    }

    /// `POST` of raw bytes, with an answer in lines. The bytes go out once the daemon has told of
    /// progress, which it does when the other side has accepted them: a daemon that refuses and
    /// closes with bytes unread would take its answer down with the connection.
    pub(crate) async fn upload<P: DeserializeOwned, T: DeserializeOwned>(
        &self,
        path: &str,
        size: u64,
        bytes: impl AsyncRead + Send + Sync + 'static,
        mut progress: impl FnMut(P),
    ) -> Result<T, Failure> {
        let frames = ReaderStream::with_capacity(bytes, 256 * 1024).map_ok(Frame::data);
        let (accepted, gate) = oneshot::channel();
        let gated = async move {
            if gate.await.is_err() {
                // Refused: nobody reads them.
                std::future::pending::<()>().await;
            }
            frames
        };
        let body: Body = StreamBody::new(gated.flatten_stream()).boxed();
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, "pilot")
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size)
            .header(ACCEPT, LINES)
            .body(body)
            .map_err(defect)?;
        let mut accepted = Some(accepted);
        let progress = |at: P| {
            if let Some(accepted) = accepted.take() {
                // Without a receiver the connection is gone, and the answer says so.
                let _ = accepted.send(());
            }
            progress(at);
        };
        self.lines(self.open(request).await?, progress).await
    }

    /// A route whose body is a raw stream in both directions.
    pub(crate) async fn upgrade(&self, path: &str) -> Result<Upgraded, Failure> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, "pilot")
            .header(CONNECTION, "upgrade")
            .header(UPGRADE, STREAM_PROTOCOL)
            .body(full(Vec::new()))
            .map_err(defect)?;
        let response = self.open(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let answer: Envelope<serde_json::Value> = self.whole(response).await?;
            return Err(answer.into_result().err().unwrap_or_else(|| defect("no upgrade")));
        }
        let headers = response.headers().clone();
        let stream = hyper::upgrade::on(response).await.map_err(|e| self.lost(e))?;
        Ok(Upgraded { headers, stream: TokioIo::new(stream) })
    }

    fn request(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Request<Body>, Failure> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, "pilot");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(full(body)).map_err(defect)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        request: Request<Body>,
        limit: Duration,
    ) -> Result<T, Failure> {
        let answer = async {
            let response = self.open(request).await?;
            self.whole::<T>(response).await?.into_result()
        };
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
            let message = format!("{} has not answered for {limit:?}", self.who);
            Err(Failure::new(Code::Timeout, message).hint("see `pilotctl logs`"))
        })
    }

    /// Sends a request on a connection of its own.
    async fn open(&self, request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        let stream = socket::connect(&self.home.socket(), self.who, self.command)?;
        stream.set_nonblocking(true).map_err(|e| Failure::io("use the socket", e))?;
        let stream = UnixStream::from_std(stream).map_err(|e| Failure::io("use the socket", e))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.unanswered(e))?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(|e| self.unanswered(e))
    }

    /// The process took the connection and closed it without a word of answer. One that is being
    /// killed does that until the kernel has closed its listener; then nobody listens any more.
    fn unanswered(&self, error: impl Display) -> Failure {
        match socket::connect(&self.home.socket(), self.who, self.command) {
            Err(gone) if gone.code == Code::NotRunning => gone,
            _ => self.lost(error),
        }
    }

    async fn whole<T: DeserializeOwned>(
        &self,
        response: Response<Incoming>,
    ) -> Result<Envelope<T>, Failure> {
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let bytes = body.map_err(|e| self.lost(e))?.to_bytes();
        serde_json::from_slice(&bytes)
            .map_err(|e| defect(format!("{} answered {status} with something else: {e}", self.who)))
    }

    async fn lines<P: DeserializeOwned, T: DeserializeOwned>(
        &self,
        response: Response<Incoming>,
        mut progress: impl FnMut(P),
    ) -> Result<T, Failure> {
        let mut body = response.into_body();
        let mut buffer = Vec::new();
        loop {
            let frame = body.frame().await;
            let ended = frame.is_none();
            if let Some(frame) = frame {
                let frame = frame.map_err(|e| self.lost(e))?;
                buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            } else if !buffer.is_empty() {
                // An error before the first line is one envelope without a line break.
                buffer.push(b'\n');
            }
            while let Some(end) = buffer.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                match serde_json::from_slice(&line).map_err(defect)? {
                    Line::Progress { progress: p } => progress(p),
                    Line::End(envelope) => return envelope.into_result(),
                }
            }
            if ended || buffer.len() > LINE_MAX {
                return Err(self.lost("its answer has no end"));
            }
        }
    }

    /// `GET` of server-sent events: hands each to `each` until that returns false, or they end,
    /// which is an error: an answer says itself when it is over.
    pub(crate) async fn server_sent(
        &self,
        path: &str,
        each: impl FnMut(ServerSent<'_>) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        self.server_sent_after(path, async { Ok(()) }, each).await
    }

    /// The same; between the beginning of the answer and the first event `begun` is done.
    pub(crate) async fn server_sent_after(
        &self,
        path: &str,
        begun: impl Future<Output = Result<(), Failure>>,
        mut each: impl FnMut(ServerSent<'_>) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let response = self.open(self.request(Method::GET, path, Vec::new())?).await?;
        if response.status() != StatusCode::OK {
            let answer: Envelope<serde_json::Value> = self.whole(response).await?;
            return Err(answer.into_result().err().unwrap_or_else(|| defect("no events")));
        }
        begun.await?;
        let mut body = response.into_body();
        let mut buffer = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| self.lost(e))?;
            buffer.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            let mut start = 0;
            while let Some(len) = buffer[start..].windows(2).position(|end| end == b"\n\n") {
                let text = std::str::from_utf8(&buffer[start..start + len]).map_err(defect)?;
                start += len + 2;
                if let Some(sent) = ServerSent::parse(text)
                    && !each(sent)?
                {
                    return Ok(());
                }
            }
            buffer.drain(..start);
            if buffer.len() > LINE_MAX {
                break;
            }
        }
        Err(self.lost("its answer has no end"))
    }

    /// The process went away in the middle.
    fn lost(&self, error: impl Display) -> Failure {
        let message = format!("{} ended the conversation: {error}", self.who);
        Failure::new(Code::Io, message).hint("see `pilotctl logs`, and try again")
    }
}

/// One server-sent event, in the form in which the daemon sends them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ServerSent<'t> {
    pub(crate) name: &'t str,
    /// JSON.
    pub(crate) data: &'t str,
}

impl<'t> ServerSent<'t> {
    /// `None` for a comment.
    fn parse(text: &'t str) -> Option<Self> {
        let (name, data) = text.split_once('\n')?;
        let (name, data) = (name.strip_prefix("event: ")?, data.strip_prefix("data: ")?);
        Some(ServerSent { name, data })
    }
}

/// A raw stream through the daemon.
pub(crate) struct Upgraded {
    /// What the daemon said about it.
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) stream: TokioIo<hyper::upgrade::Upgraded>,
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed()
}

fn json<B: Serialize>(body: &B) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(body).map_err(defect)
}

fn defect(error: impl Display) -> Failure {
    Failure::new(Code::Internal, error.to_string())
}

/// A path with a query, its values escaped as RFC 3986 wants.
pub(crate) struct Query {
    text: String,
    separator: char,
}

impl Query {
    /// Begins with a path.
    pub(crate) fn new(path: &str) -> Self {
        Query { text: path.to_owned(), separator: '?' }
    }

    /// Adds a value, if there is one.
    pub(crate) fn with(mut self, name: &str, value: Option<impl Display>) -> Self {
        if let Some(value) = value {
            self.text.push(self.separator);
            self.separator = '&';
            self.text.push_str(name);
            self.text.push('=');
            for byte in value.to_string().bytes() {
                if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
                    self.text.push(char::from(byte));
                } else {
                    let _ = write!(self.text, "%{byte:02X}");
                }
            }
        }
        self
    }

    /// The whole.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        let query = Query::new("/v1/files")
            .with("to", Some("1:0001.0000.0042"))
            .with("network", None::<u16>)
            .with("name", Some("a b&c=ü.csv"));
        assert_eq!(query.as_str(), "/v1/files?to=1:0001.0000.0042&name=a%20b%26c%3D%C3%BC.csv");
    }

    #[test]
    fn server_sent_events_are_told_from_comments() {
        let sent = ServerSent { name: "event", data: "{\"a\":1}" };
        assert_eq!(ServerSent::parse("event: event\ndata: {\"a\":1}"), Some(sent));
        assert_eq!(ServerSent::parse(": alive"), None);
    }

    #[tokio::test]
    async fn a_process_that_dies_before_its_answer_is_not_running() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::find(Some(dir.path())).unwrap();
        // What the kernel does to one that is killed: its listener goes, then its connections.
        for (stays, expected) in [(false, Code::NotRunning), (true, Code::Io)] {
            let listener = socket::bind(&home.socket()).unwrap();
            listener.set_nonblocking(false).unwrap();
            let process = std::thread::spawn(move || {
                let taken = listener.accept().unwrap();
                let listener = stays.then_some(listener);
                drop(taken);
                listener
            });
            let answer = Client::daemon(&home).get::<serde_json::Value>("/v1/status").await;
            assert_eq!(answer.unwrap_err().code, expected);
            drop(process.join().unwrap());
        }
    }
}
