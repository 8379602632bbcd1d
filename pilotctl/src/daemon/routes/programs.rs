//! Forwards, exposes and the proxy.

use super::Cx;
use crate::api::{Exposes, Forwards, ProxyState, SetExpose, SetForward, SetProxy};
use crate::cli::values::{AgentPort, HostPort, LocalAddr};
use crate::error::{Code, Failure};
use crate::http::{answer, body, parse};
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::Response;

/// Carries a change to its end, also when the client goes away meanwhile: what is on disk and what
/// runs stay the same.
async fn whole<T: Send + 'static>(
    change: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::spawn(change).await;
    done.unwrap_or_else(|e| Err(Failure::new(Code::Internal, e.to_string())))
}

pub(super) async fn forwards(State(shared): Cx) -> Response {
    answer(Ok(Forwards { forwards: shared.programs.forwards() }))
}

pub(super) async fn set_forward(
    State(shared): Cx,
    Path(local): Path<String>,
    bytes: Bytes,
) -> Response {
    answer(
        async {
            let wanted: SetForward = body(&bytes)?;
            let local: LocalAddr = parse("the local address", &local)?;
            let to: AgentPort = parse("the agent's port", &wanted.to)?;
            whole(async move {
                shared.programs.set_forward(&shared.node, local, to, wanted.network).await
            })
            .await
        }
        .await,
    )
}

pub(super) async fn remove_forward(State(shared): Cx, Path(local): Path<String>) -> Response {
    answer(
        async {
            let local: LocalAddr = parse("the local address", &local)?;
            whole(async move { shared.programs.remove_forward(local).await }).await
        }
        .await,
    )
}

pub(super) async fn exposes(State(shared): Cx) -> Response {
    answer(Ok(Exposes { exposes: shared.programs.exposes() }))
}

pub(super) async fn set_expose(
    State(shared): Cx,
    Path(port): Path<String>,
    bytes: Bytes,
) -> Response {
    answer(
        async {
            let wanted: SetExpose = body(&bytes)?;
            let port: u16 = parse("the port", &port)?;
            let to: HostPort = parse("the service", &wanted.to)?;
            whole(async move { shared.programs.set_expose(&shared.node, port, to).await }).await
        }
        .await,
    )
}

pub(super) async fn remove_expose(State(shared): Cx, Path(port): Path<String>) -> Response {
    answer(
        async {
            let port: u16 = parse("the port", &port)?;
            whole(async move { shared.programs.remove_expose(port).await }).await
        }
        .await,
    )
}

pub(super) async fn proxy(State(shared): Cx) -> Response {
    answer(Ok(ProxyState { proxy: shared.programs.proxy() }))
}

pub(super) async fn set_proxy(State(shared): Cx, bytes: Bytes) -> Response {
    answer(
        async {
            let SetProxy { local } = body(&bytes)?;
            let local = match local {
                Some(local) => parse("the local address", &local)?,
                None => LocalAddr::PROXY,
            };
            whole(async move { shared.programs.set_proxy(&shared.node, local).await }).await
        }
        .await,
    )
}

pub(super) async fn remove_proxy(State(shared): Cx) -> Response {
    answer(whole(async move { shared.programs.remove_proxy().await }).await)
}
