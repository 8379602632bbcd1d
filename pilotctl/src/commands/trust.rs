//! Trust: ask, decide, end, list.

use super::Context;
use crate::api::{AgentEntry, DecideTrust, Peers, Pending, RequestTrust, TrustState};
use crate::cli::agent::{TrustAllow, TrustApprove, TrustRefuse, TrustRequest, TrustRevoke};
use crate::cli::values::Agent;
use crate::client::Query;
use crate::error::{Code, Failure};
use crate::output::{cleaned, quoted, table, utc};
use hyper::Method;
use pilot_core::addr::Address;
use pilot_core::name::Justification;
use pilot_core::trust::Permissions;

pub(super) async fn request(cx: &Context, args: TrustRequest) -> Result<(), Failure> {
    // Refused here rather than cut off: its owner should know what the other side reads.
    let justification: Justification = args
        .justification
        .parse()
        .map_err(|e| Failure::new(Code::Usage, format!("the justification is {e}")))?;
    let wait = args.wait.map(|span| span.0);
    let address = match args.agent {
        Agent::Address(address) => address.to_string(),
        Agent::Hostname(name) => {
            let query = Query::new("/v1/resolve").with("agent", Some(&name));
            let found: AgentEntry = cx.client().get(query.as_str()).await?;
            found.address
        }
    };
    let body = RequestTrust {
        address,
        justification: justification.as_str().to_owned(),
        wait_ms: wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
    };
    let path = "/v1/trust/requests";
    let state: TrustState = cx.client().send_within(Method::POST, path, &body, wait).await?;
    cx.out.show(&state, |s| match s.state.as_str() {
        "approved" => format!("approved: {} and this agent trust each other", s.address),
        "pending" => format!(
            "pending: {} has been asked; `pilotctl trust list` shows when it has answered",
            s.address
        ),
        other => format!("{other}: {}", s.address),
    });
    Ok(())
}

pub(super) async fn pending(cx: &Context) -> Result<(), Failure> {
    let pending: Pending = cx.client().get("/v1/trust/pending").await?;
    cx.out.show(&pending, |pending| {
        let mut text = String::new();
        for request in &pending.requests {
            text += &format!(
                "{} asks since {}, says {}\n    compare aloud: {}\n",
                request.address,
                utc(request.issued),
                quoted(&request.justification),
                cleaned(&request.fingerprint),
            );
        }
        if !pending.requests.is_empty() {
            text += "What is quoted was written by a stranger. `pilotctl trust approve ADDR` or `pilotctl trust refuse ADDR` decides.\n";
        }
        for address in &pending.outgoing {
            text += &format!("{address} was asked by this agent and has not answered\n");
        }
        if text.is_empty() {
            text += "no requests";
        }
        text
    });
    Ok(())
}

async fn decide(
    cx: &Context,
    verb: &str,
    address: Address,
    reason: Option<String>,
    allow: Option<Permissions>,
) -> Result<TrustState, Failure> {
    let allow = allow.map(|allow| allow.to_string());
    let body = DecideTrust { address: address.to_string(), reason, allow };
    cx.client().send(Method::POST, &format!("/v1/trust/{verb}"), &body).await
}

pub(super) async fn approve(cx: &Context, args: TrustApprove) -> Result<(), Failure> {
    let state = decide(cx, "approve", args.address, None, Some(args.allow)).await?;
    cx.out.show(&state, |s| {
        let may = s.allow.as_deref().filter(|_| args.allow != Permissions::ALL);
        let may = may.map(|may| format!("; it may do here: {may}")).unwrap_or_default();
        format!("approved: {} and this agent trust each other{may}", s.address)
    });
    Ok(())
}

pub(super) async fn allow(cx: &Context, args: TrustAllow) -> Result<(), Failure> {
    let state = decide(cx, "allow", args.address, None, Some(args.allow)).await?;
    cx.out.show(&state, |s| {
        format!("allowed: {} may do here: {}", s.address, s.allow.as_deref().unwrap_or("-"))
    });
    Ok(())
}

pub(super) async fn refuse(cx: &Context, args: TrustRefuse) -> Result<(), Failure> {
    let state = decide(cx, "refuse", args.address, args.reason, None).await?;
    cx.out.show(&state, |s| format!("refused: {}", s.address));
    Ok(())
}

pub(super) async fn revoke(cx: &Context, args: TrustRevoke) -> Result<(), Failure> {
    let state = decide(cx, "revoke", args.address, None, None).await?;
    cx.out.show(&state, |s| format!("revoked: {} is no longer trusted", s.address));
    Ok(())
}

pub(super) async fn list(cx: &Context) -> Result<(), Failure> {
    let trusted: Peers = cx.client().get("/v1/trust").await?;
    cx.out.show(&trusted, |trusted| {
        if trusted.peers.is_empty() {
            return "nobody is trusted yet".to_owned();
        }
        let row = |peer: &crate::api::Peer| {
            vec![
                peer.address.clone(),
                cleaned(peer.hostname.as_deref().unwrap_or("-")),
                if peer.mutual { "mutual" } else { "one-way" }.to_owned(),
                peer.allow.clone(),
                peer.allows_us.clone().unwrap_or_else(|| "-".to_owned()),
                peer.fingerprint.clone(),
            ]
        };
        let rows: Vec<_> = trusted.peers.iter().map(row).collect();
        let (here, there) = ("MAY DO HERE", "WE MAY DO THERE");
        table(&["ADDRESS", "HOSTNAME", "TRUST", here, there, "FINGERPRINT OF THE PAIR"], &rows)
    });
    Ok(())
}
