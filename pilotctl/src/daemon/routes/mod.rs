//! The routes of the daemon's API: each takes apart what came, asks the agent or a service, and
//! puts the answer into its envelope.

mod agent;
mod events;
mod exchange;
mod files;
mod follow;
mod outbox;
mod programs;
mod stream;
mod tasks;

use super::Shared;
use crate::api::{self, Line, Nothing, STREAM_PROTOCOL};
use crate::commands::{PORT_HEADER, STREAM_HEADER};
use crate::error::{Envelope, Failure};
use crate::http::{EVENTS, JSON_MAX, answer};
use crate::openapi::{Api, Part, delete, get, post, put};
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::Response;
use std::sync::Arc;

/// What stands for a message or file.
const ID: &str = "The id that was given when it was sent";

/// What each handler is given.
type Cx = State<Arc<Shared>>;

/// All routes.
pub(super) fn routes(shared: Arc<Shared>) -> Router {
    api().into_router().layer(DefaultBodyLimit::max(JSON_MAX)).with_state(shared)
}

/// What they are.
pub(super) fn api() -> Api<Arc<Shared>> {
    let api = Api::new("Pilot Protocol: an agent's daemon", "PILOT_HOME/pilot.sock")
        .add(get("/v1/status", status).answers::<api::DaemonStatus>("What runs, where, since when"))
        .add(post("/v1/stop", stop).answers::<Nothing>("The daemon ends"));
    programs(streams(tasked(exchanged(trust(named(api))))))
}

/// Names, and how other agents are reached.
fn named(api: Api<Arc<Shared>>) -> Api<Arc<Shared>> {
    use agent::{self as a, InNetwork, Resolve};
    const NETWORK: &str = "The network's number";
    api.add(get("/v1/info", a::info).answers::<api::Info>("This agent"))
        .add(get("/v1/peers", a::peers).answers::<api::Peers>("Trusted agents with a path"))
        .add(
            get("/v1/why", a::why)
                .asks::<Resolve>()
                .answers::<api::Why>("Which path leads to an agent, and why no better one"),
        )
        .add(get("/v1/connections", a::connections).answers::<api::Connections>("All open streams"))
        .add(
            put("/v1/networks/{network}", a::join)
                .at::<u16>(NETWORK)
                .answers::<api::Profile>("Joins a network"),
        )
        .add(
            delete("/v1/networks/{network}", a::leave)
                .at::<u16>(NETWORK)
                .answers::<api::Profile>("Leaves a network"),
        )
        .add(
            put("/v1/hostname", a::set_hostname)
                .takes::<api::SetHostname>()
                .answers::<api::Profile>("Takes a hostname"),
        )
        .add(
            delete("/v1/hostname", a::clear_hostname)
                .asks::<InNetwork>()
                .answers::<api::Profile>("Gives the hostname back"),
        )
        .add(
            put("/v1/visibility", a::set_visibility)
                .takes::<api::SetVisibility>()
                .answers::<api::Profile>("Whether strangers can find this agent"),
        )
        .add(
            put("/v1/tags", a::set_tags)
                .takes::<api::SetTags>()
                .answers::<api::Profile>("Says what this agent does"),
        )
        .add(
            get("/v1/resolve", a::resolve)
                .asks::<Resolve>()
                .answers::<api::AgentEntry>("Who has a name or address"),
        )
        .add(
            get("/v1/reputation", a::reputation)
                .asks::<agent::Reputed>()
                .answers::<api::Reputation>("What an agent's receipts add up to"),
        )
        .add(
            get("/v1/discover", a::discover)
                .asks::<agent::Discover>()
                .answers::<api::Discovered>("Public agents with these tags"),
        )
}

fn trust(api: Api<Arc<Shared>>) -> Api<Arc<Shared>> {
    use agent as a;
    use api::{DecideTrust, TrustState};
    api.add(get("/v1/trust", a::trusted).answers::<api::Peers>("All trusted agents"))
        .add(
            post("/v1/trust/requests", a::request_trust)
                .takes::<api::RequestTrust>()
                .answers::<TrustState>("Asks an agent for trust"),
        )
        .add(
            get("/v1/trust/pending", a::pending)
                .answers::<api::Pending>("Requests that wait for an answer"),
        )
        .add(
            post("/v1/trust/approve", a::approve)
                .takes::<DecideTrust>()
                .answers::<TrustState>("Grants what an agent asks for"),
        )
        .add(
            post("/v1/trust/allow", a::allow)
                .takes::<DecideTrust>()
                .answers::<TrustState>("Changes what a trusted agent may do"),
        )
        .add(
            post("/v1/trust/refuse", a::refuse)
                .takes::<DecideTrust>()
                .answers::<TrustState>("Refuses a request"),
        )
        .add(
            post("/v1/trust/revoke", a::revoke)
                .takes::<DecideTrust>()
                .answers::<TrustState>("Takes all trust back"),
        )
}

/// Messages, files, events and echo.
fn exchanged(api: Api<Arc<Shared>>) -> Api<Arc<Shared>> {
    const SEQ: &str = "`seq` of the message";
    api.add(
        post("/v1/messages", outbox::send_message)
            .takes::<api::SendMessage>()
            .answers::<api::Outgoing>("Puts a message into the outbox, and sends it"),
    )
    .add(
        get("/v1/outbox", outbox::list)
            .asks::<outbox::Listed>()
            .answers::<api::Outbox>("Messages and files to be sent, and what became of others"),
    )
    .add(
        get("/v1/outbox/{id}", outbox::status)
            .at::<String>(ID)
            .asks::<outbox::Waited>()
            .answers::<api::Outgoing>("What has become of a message or file"),
    )
    .add(
        delete("/v1/outbox/{id}", outbox::cancel)
            .at::<String>(ID)
            .answers::<api::Outgoing>("Takes back a message or file that waits"),
    )
    .add(
        get("/v1/inbox", exchange::inbox)
            .asks::<exchange::Followed>()
            .answers::<api::Inbox>("Messages received")
            .or_streams(
                EVENTS,
                vec![Part::of::<api::Message>("message"), Part::of::<Envelope<Nothing>>("end")],
            ),
    )
    .add(
        delete("/v1/inbox/{seq}", exchange::delete_message)
            .at::<u64>(SEQ)
            .answers::<Nothing>("Deletes a message"),
    )
    .add(
        post("/v1/files", files::send_file)
            .asks::<files::SendFile>()
            .takes_bytes()
            .answers::<api::Sent>(
                "Sends a file or directory, or keeps it in the outbox; its length must be told",
            )
            .or_streams(api::LINES, vec![Part::of::<Line<api::Progress, api::Sent>>("line")]),
    )
    .add(
        get("/v1/received", exchange::received)
            .asks::<exchange::Listed>()
            .answers::<api::Received>("Files and directories received"),
    )
    .add(
        get("/v1/received/{from}/{id}", exchange::received_one)
            .at::<String>("Its sender's address")
            .at::<String>("The id that its sender has for it")
            .answers::<api::ReceivedFile>("One of them; not found until it is whole"),
    )
    .add(
        post("/v1/echo", exchange::echo)
            .takes::<api::EchoRequest>()
            .answers::<api::EchoReport>("Measures round trips and throughput"),
    )
    .add(get("/v1/events", events::stats).answers::<api::EventStats>("This agent's broker"))
    .add(
        post("/v1/events/publish", events::publish)
            .takes::<api::Publish>()
            .answers::<api::Published>("Publishes events"),
    )
    .add(get("/v1/events/subscribe", events::subscribe).asks::<events::Wanted>().streams(
        EVENTS,
        vec![
            Part::of::<api::Subscribed>("subscribed"),
            Part::of::<api::Event>("event"),
            Part::of::<api::Dropped>("dropped"),
            Part::of::<Envelope<Nothing>>("end"),
        ],
        "Events as they are published",
    ))
}

/// Work that is handed over.
fn tasked(api: Api<Arc<Shared>>) -> Api<Arc<Shared>> {
    const TASK: &str = "The id that was given when it was submitted";
    const STEP: &str = "accept, decline, start, progress, complete, fail or cancel";
    api.add(
        post("/v1/tasks", tasks::submit)
            .takes::<api::SubmitTask>()
            .answers::<api::Task>("Hands work to an agent"),
    )
    .add(
        get("/v1/tasks", tasks::list)
            .asks::<tasks::Listed>()
            .answers::<api::Tasks>("Tasks, the oldest first; waits for a change"),
    )
    .add(
        get("/v1/tasks/{id}", tasks::show)
            .at::<String>(TASK)
            .asks::<tasks::Waited>()
            .answers::<api::Task>("A task; waits for its end"),
    )
    .add(
        post("/v1/tasks/{id}/{step}", tasks::step)
            .at::<String>(TASK)
            .at::<String>(STEP)
            .takes::<api::TaskStep>()
            .answers::<api::Task>("Makes a step; the task after it"),
    )
    .add(get("/v1/tasks/events", tasks::events).asks::<tasks::Watched>().streams(
        EVENTS,
        vec![
            Part::of::<api::Task>("task"),
            Part::of::<u64>("missed"),
            Part::of::<Envelope<Nothing>>("end"),
        ],
        "Tasks as they change",
    ))
}

/// Raw streams.
fn streams(api: Api<Arc<Shared>>) -> Api<Arc<Shared>> {
    const HEADERS: &[(&str, &str)] =
        &[(STREAM_HEADER, "Its number, for `streams/{id}`"), (PORT_HEADER, "Its local port")];
    api.add(post("/v1/connect", stream::connect).asks::<stream::Connect>().upgrades(
        STREAM_PROTOCOL,
        HEADERS,
        "Opens a stream to an agent's port",
    ))
    .add(post("/v1/listen", stream::listen).asks::<stream::Listen>().upgrades(
        STREAM_PROTOCOL,
        HEADERS,
        "Takes one stream; its first line is an envelope with `peer` and `peer_port`",
    ))
    .add(
        get("/v1/streams/{id}", stream::end)
            .at::<u64>("The stream's number")
            .answers::<Nothing>("Waits until a stream has ended"),
    )
    .add(
        delete("/v1/streams/{id}", stream::abort)
            .at::<u64>("The stream's number")
            .answers::<Nothing>("Gives a stream up: the other side sees a reset"),
    )
}

/// What other programs use the network by.
fn programs(api: Api<Arc<Shared>>) -> Api<Arc<Shared>> {
    use programs as p;
    const LOCAL: &str = "A local port or `IP:PORT`";
    const PORT: &str = "This agent's port";
    api.add(get("/v1/forwards", p::forwards).answers::<api::Forwards>("Local ports that lead away"))
        .add(
            put("/v1/forwards/{local}", p::set_forward)
                .at::<String>(LOCAL)
                .takes::<api::SetForward>()
                .answers::<api::Forward>("Listens on TCP for an agent's port"),
        )
        .add(
            delete("/v1/forwards/{local}", p::remove_forward)
                .at::<String>(LOCAL)
                .answers::<api::Forward>("Ends a forward; what it was"),
        )
        .add(get("/v1/exposes", p::exposes).answers::<api::Exposes>("Services offered to others"))
        .add(
            put("/v1/exposes/{port}", p::set_expose)
                .at::<u16>(PORT)
                .takes::<api::SetExpose>()
                .answers::<api::Expose>("Offers a TCP service to trusted agents"),
        )
        .add(
            delete("/v1/exposes/{port}", p::remove_expose)
                .at::<u16>(PORT)
                .answers::<api::Expose>("Ends an offer; what it was"),
        )
        .add(get("/v1/proxy", p::proxy).answers::<api::ProxyState>("The SOCKS5 proxy, if it runs"))
        .add(
            put("/v1/proxy", p::set_proxy)
                .takes::<api::SetProxy>()
                .answers::<api::Proxy>("Starts or moves the proxy"),
        )
        .add(
            delete("/v1/proxy", p::remove_proxy)
                .answers::<api::Proxy>("Stops the proxy; what it was"),
        )
}

async fn status(State(shared): Cx) -> Response {
    answer(Ok(shared.status()))
}

async fn stop(State(shared): Cx) -> Response {
    tracing::info!("asked to stop");
    shared.stop.send_replace(true);
    answer(Ok::<_, Failure>(Nothing {}))
}
