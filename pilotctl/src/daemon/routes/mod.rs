//! The routes of the daemon's API: each takes apart what came, asks the agent or a service, and
//! puts the answer into its envelope.

mod agent;
mod events;
mod exchange;
mod files;
mod outbox;
mod programs;
mod stream;
mod tasks;

use super::Shared;
use crate::api;
use crate::error::Failure;
use crate::http::{JSON_MAX, answer};
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use std::sync::Arc;

/// What each handler is given.
type Cx = State<Arc<Shared>>;

/// All routes.
pub(super) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/stop", post(stop))
        .route("/v1/info", get(agent::info))
        .route("/v1/peers", get(agent::peers))
        .route("/v1/why", get(agent::why))
        .route("/v1/connections", get(agent::connections))
        .route("/v1/networks/{network}", put(agent::join).delete(agent::leave))
        .route("/v1/hostname", put(agent::set_hostname).delete(agent::clear_hostname))
        .route("/v1/visibility", put(agent::set_visibility))
        .route("/v1/tags", put(agent::set_tags))
        .route("/v1/resolve", get(agent::resolve))
        .route("/v1/discover", get(agent::discover))
        .route("/v1/reputation", get(agent::reputation))
        .route("/v1/trust", get(agent::trusted))
        .route("/v1/trust/requests", post(agent::request_trust))
        .route("/v1/trust/pending", get(agent::pending))
        .route("/v1/trust/approve", post(agent::approve))
        .route("/v1/trust/allow", post(agent::allow))
        .route("/v1/trust/refuse", post(agent::refuse))
        .route("/v1/trust/revoke", post(agent::revoke))
        .route("/v1/messages", post(outbox::send_message))
        .route("/v1/outbox", get(outbox::list))
        .route("/v1/outbox/{id}", get(outbox::status).delete(outbox::cancel))
        .route("/v1/inbox", get(exchange::inbox))
        .route("/v1/inbox/{seq}", delete(exchange::delete_message))
        .route("/v1/received", get(exchange::received))
        .route("/v1/received/{from}/{id}", get(exchange::received_one))
        .route("/v1/echo", post(exchange::echo))
        .route("/v1/events", get(events::stats))
        .route("/v1/events/publish", post(events::publish))
        .route("/v1/events/subscribe", get(events::subscribe))
        .route("/v1/tasks", post(tasks::submit).get(tasks::list))
        .route("/v1/tasks/events", get(tasks::events))
        .route("/v1/tasks/{id}", get(tasks::show))
        .route("/v1/tasks/{id}/{step}", post(tasks::step))
        .route("/v1/connect", post(stream::connect))
        .route("/v1/listen", post(stream::listen))
        .route("/v1/streams/{id}", get(stream::end))
        .route("/v1/forwards", get(programs::forwards))
        .route("/v1/forwards/{local}", put(programs::set_forward).delete(programs::remove_forward))
        .route("/v1/exposes", get(programs::exposes))
        .route("/v1/exposes/{port}", put(programs::set_expose).delete(programs::remove_expose))
        .route(
            "/v1/proxy",
            get(programs::proxy).put(programs::set_proxy).delete(programs::remove_proxy),
        )
        .layer(DefaultBodyLimit::max(JSON_MAX))
        // A file is as long as it is: its bytes pass through.
        .route("/v1/files", post(files::send_file).layer(DefaultBodyLimit::disable()))
        .with_state(shared)
}

async fn status(State(shared): Cx) -> Response {
    answer(Ok(shared.status()))
}

async fn stop(State(shared): Cx) -> Response {
    tracing::info!("asked to stop");
    shared.stop.send_replace(true);
    answer(Ok::<_, Failure>(api::Nothing {}))
}
