//! What the two local APIs share: envelopes as answers, bodies and queries as values, serving
//! on a Unix socket.

use crate::error::{Code, Envelope, Failure};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::Response;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;

/// Longest JSON body.
pub(crate) const JSON_MAX: usize = 8 * 1024 * 1024;

/// Media type of server-sent events.
pub(crate) const EVENTS: &str = "text/event-stream";

/// A comment is sent so often, by which a client that is gone is noticed.
pub(crate) const ALIVE: Duration = Duration::from_secs(15);

/// One server-sent event; JSON has no line break of its own.
pub(crate) fn server_sent<T: Serialize>(name: &str, data: &T) -> String {
    format!("event: {name}\ndata: {}\n\n", crate::output::to_line(data))
}

/// A result in its envelope, with the status that belongs to it.
pub(crate) fn answer<T: Serialize>(result: Result<T, Failure>) -> Response {
    let status = match &result {
        Ok(_) => StatusCode::OK,
        Err(failure) => status(failure),
    };
    let text = crate::output::to_line(&Envelope::from_result(result)) + "\n";
    let mut response = raw_json(text);
    *response.status_mut() = status;
    response
}

/// The HTTP status of an error.
pub(crate) fn status(failure: &Failure) -> StatusCode {
    StatusCode::from_u16(failure.code.http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A JSON body; an empty one is an empty object.
pub(crate) fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, Failure> {
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(bytes).map_err(|e| {
        Failure::new(Code::Usage, format!("the body is not what this route takes: {e}"))
            .hint("docs/pilotctl.md shows each route with an example")
    })
}

/// A query string.
pub(crate) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Failure> {
    query.map(|Query(query)| query).map_err(|e| {
        Failure::new(Code::Usage, format!("the query is not what this route takes: {e}"))
            .hint("docs/pilotctl.md shows each route with an example")
    })
}

/// Text in a query, path or body that has a form of its own.
pub(crate) fn parse<T>(what: &str, text: &str) -> Result<T, Failure>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let shown = crate::output::quoted(text);
    text.parse().map_err(|e| Failure::new(Code::Usage, format!("{what} {shown}: {e}")))
}

/// The answer where there is no route.
pub(crate) async fn no_route(uri: Uri) -> Response {
    let message = format!("there is no {}", crate::output::quoted(uri.path()));
    answer::<()>(Err(Failure::new(Code::Usage, message)
        .hint("docs/pilotctl.md lists the routes, all under /v1/")))
}

/// The answer where a route has other methods.
pub(crate) async fn no_method(uri: Uri) -> Response {
    let message = format!("{} has other methods", crate::output::quoted(uri.path()));
    answer::<()>(Err(Failure::new(Code::Usage, message)
        .hint("docs/pilotctl.md lists the routes with their methods")))
}

/// A text that is JSON already.
pub(crate) fn raw_json(text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A body that is written as things happen.
pub(crate) fn streamed(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Serves until `stop` says so; then answers what is under way.
pub(crate) fn serve(
    listener: std::os::unix::net::UnixListener,
    routes: Router,
    mut stop: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()>, Failure> {
    let listener = tokio::net::UnixListener::from_std(listener)
        .map_err(|e| Failure::io("serve the local API", e))?;
    let routes = routes.fallback(no_route).method_not_allowed_fallback(no_method);
    let until = async move {
        // A closed channel means the same: nobody is left who could say more.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let server = axum::serve(listener, routes).with_graceful_shutdown(until);
    Ok(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the local API ended");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn answers_carry_envelope_and_status() {
        let response = answer(Err::<(), _>(Failure::new(Code::NotTrusted, "no")));
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert!(bytes.starts_with(b"{\"status\":\"error\",\"code\":\"not_trusted\""));
    }

    #[test]
    fn bodies_say_what_is_wrong_with_them() {
        let bytes = Bytes::from_static(b"{\"tags\": 3}");
        let failure = body::<crate::api::SetTags>(&bytes).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(body::<crate::api::Nothing>(&Bytes::new()).is_ok());
        assert!(parse::<u16>("the port", "x\u{7}").unwrap_err().message.contains("\"x\""));
    }
}
