//! `forward`, `expose` and `proxy`: other programs use the network.

use super::Context;
use crate::api::{
    Expose, Exposes, Forward, Forwards, Nothing, Proxy, ProxyState, SetExpose, SetForward,
    SetProxy, Usage,
};
use crate::cli::agent::InNetwork;
use crate::cli::programs::{self as cli, ExposeCommand, ForwardCommand, ProxyCommand};
use crate::cli::values::LocalAddr;
use crate::error::Failure;
use crate::output::{cleaned, table};
use hyper::Method;

/// Says so if other hosts can come in.
fn note_open(cx: &Context, local: &str) {
    let is_open = local.parse().is_ok_and(|LocalAddr(at)| !at.ip().is_loopback());
    if is_open && !cx.out.json {
        cx.out.note(&format!("warning: other hosts can connect to {local} and use it"));
    }
}

/// Columns that all tables have.
fn usage_columns(usage: &Usage) -> Vec<String> {
    let why = usage.trouble.as_ref().or(usage.last_failure.as_ref());
    vec![
        usage.state.clone(),
        usage.open.to_string(),
        usage.served.to_string(),
        usage.failed.to_string(),
        why.map_or_else(|| "-".to_owned(), |why| cleaned(why)),
    ]
}

const USAGE: [&str; 5] = ["STATE", "OPEN", "SERVED", "FAILED", "LAST FAILURE"];

fn listed(columns: [&str; 2], rows: Vec<[String; 2]>, usage: &[&Usage]) -> String {
    let head: Vec<&str> = columns.into_iter().chain(USAGE).collect();
    let row = |(row, usage): (Vec<String>, &&Usage)| [row, usage_columns(usage)].concat();
    let rows = rows.into_iter().map(Vec::from).zip(usage).map(row).collect::<Vec<_>>();
    table(&head, &rows)
}

fn forward_path(local: LocalAddr) -> String {
    format!("/v1/forwards/{local}")
}

pub(super) async fn forward(cx: &Context, args: cli::Forward) -> Result<(), Failure> {
    let cli::Forward { command, local, to, at: InNetwork { network } } = args;
    match (command, local, to) {
        (Some(ForwardCommand::Remove(remove)), ..) => {
            let path = forward_path(remove.local);
            let gone: Forward = cx.client().send(Method::DELETE, &path, &Nothing {}).await?;
            cx.out.show(&gone, |f| format!("{} leads to {} no more", f.local, f.to));
        }
        (None, Some(local), Some(to)) => {
            let body = SetForward { to: to.to_string(), network };
            let set: Forward = cx.client().send(Method::PUT, &forward_path(local), &body).await?;
            note_open(cx, &set.local);
            cx.out.show(&set, |f| format!("{} leads to {}", f.local, f.to));
        }
        _ => {
            let all: Forwards = cx.client().get("/v1/forwards").await?;
            cx.out.show(&all, |all| {
                if all.forwards.is_empty() {
                    return "nothing is forwarded".to_owned();
                }
                let row = |f: &Forward| match f.network {
                    Some(network) => [f.local.clone(), format!("{} in network {network}", f.to)],
                    None => [f.local.clone(), f.to.clone()],
                };
                let usage: Vec<_> = all.forwards.iter().map(|f| &f.usage).collect();
                listed(["LOCAL", "TO"], all.forwards.iter().map(row).collect(), &usage)
            });
        }
    }
    Ok(())
}

pub(super) async fn expose(cx: &Context, args: cli::Expose) -> Result<(), Failure> {
    match (args.command, args.port, args.to) {
        (Some(ExposeCommand::Remove(remove)), ..) => {
            let path = format!("/v1/exposes/{}", remove.port);
            let gone: Expose = cx.client().send(Method::DELETE, &path, &Nothing {}).await?;
            cx.out.show(&gone, |e| format!("port {} leads to {} no more", e.port, e.to));
        }
        (None, Some(port), Some(to)) => {
            let path = format!("/v1/exposes/{port}");
            let body = SetExpose { to: to.to_string() };
            let set: Expose = cx.client().send(Method::PUT, &path, &body).await?;
            cx.out.show(&set, |e| {
                format!("trusted agents reach {} on port {} of this agent", e.to, e.port)
            });
        }
        _ => {
            let all: Exposes = cx.client().get("/v1/exposes").await?;
            cx.out.show(&all, |all| {
                if all.exposes.is_empty() {
                    return "nothing is exposed".to_owned();
                }
                let row = |e: &Expose| [e.port.to_string(), e.to.clone()];
                let usage: Vec<_> = all.exposes.iter().map(|e| &e.usage).collect();
                listed(["PORT", "TO"], all.exposes.iter().map(row).collect(), &usage)
            });
        }
    }
    Ok(())
}

pub(super) async fn proxy(cx: &Context, args: cli::Proxy) -> Result<(), Failure> {
    match args.command {
        Some(ProxyCommand::Stop(_)) => {
            let gone: Proxy = cx.client().send(Method::DELETE, "/v1/proxy", &Nothing {}).await?;
            cx.out.show(&gone, |p| format!("no proxy at {} any more", p.local));
        }
        Some(ProxyCommand::Status(_)) => {
            let state: ProxyState = cx.client().get("/v1/proxy").await?;
            cx.out.show(&state, |state| match &state.proxy {
                None => "no proxy runs: `pilotctl proxy` starts it".to_owned(),
                Some(proxy) => {
                    let row = [proxy.local.clone(), "*.pilot".to_owned()];
                    listed(["LOCAL", "TO"], vec![row], &[&proxy.usage])
                }
            });
        }
        None => {
            let body = SetProxy { local: Some(args.local.to_string()) };
            let set: Proxy = cx.client().send(Method::PUT, "/v1/proxy", &body).await?;
            note_open(cx, &set.local);
            cx.out.show(&set, |p| {
                format!("SOCKS5 proxy at {}, for names as HOSTNAME.pilot", p.local)
            });
        }
    }
    Ok(())
}
