//! Networks, hostname, visibility, tags; resolve and discover.

use super::Context;
use crate::api::{AgentEntry, Discovered, Nothing, Profile, SetTags};
use crate::cli::agent::{
    ClearHostname, Discover, InNetwork, Join, Leave, Resolve, SetHostname, SetVisibility, TagsSet,
};
use crate::cli::values::Visibility;
use crate::client::Query;
use crate::error::Failure;
use crate::output::tag_list;
use crate::{api, output};
use hyper::Method;
use serde::Serialize;

pub(super) async fn join(cx: &Context, args: Join) -> Result<(), Failure> {
    let path = format!("/v1/networks/{}", args.network);
    let profile: Profile = cx.client().send(Method::PUT, &path, &Nothing {}).await?;
    cx.out.show(&profile, |p| match &p.address {
        Some(address) => format!("joined network {}: this agent is {address}", args.network),
        None => format!("joined network {}", args.network),
    });
    Ok(())
}

pub(super) async fn leave(cx: &Context, args: Leave) -> Result<(), Failure> {
    let path = format!("/v1/networks/{}", args.network);
    let profile: Profile = cx.client().send(Method::DELETE, &path, &Nothing {}).await?;
    cx.out.show(&profile, |_| format!("left network {}", args.network));
    Ok(())
}

pub(super) async fn set_hostname(cx: &Context, args: SetHostname) -> Result<(), Failure> {
    let body =
        api::SetHostname { hostname: args.name.as_str().to_owned(), network: args.at.network };
    let profile: Profile = cx.client().send(Method::PUT, "/v1/hostname", &body).await?;
    cx.out.show(&profile, |p| {
        let address = p.address.as_deref().unwrap_or("this agent");
        format!("{address} is now {}", args.name)
    });
    Ok(())
}

pub(super) async fn clear_hostname(cx: &Context, args: ClearHostname) -> Result<(), Failure> {
    let query = Query::new("/v1/hostname").with("network", args.at.network);
    let profile: Profile = cx.client().send(Method::DELETE, query.as_str(), &Nothing {}).await?;
    cx.out.show(&profile, |_| "this agent has no hostname any more".to_owned());
    Ok(())
}

pub(super) async fn set_visibility(cx: &Context, args: SetVisibility) -> Result<(), Failure> {
    let visibility = match args.visibility {
        Visibility::Public => "public",
        Visibility::Private => "private",
    };
    let body = api::SetVisibility { visibility: visibility.to_owned() };
    let profile: Profile = cx.client().send(Method::PUT, "/v1/visibility", &body).await?;
    cx.out.show(&profile, |_| format!("this agent is now {visibility}"));
    Ok(())
}

pub(super) async fn set_tags(cx: &Context, args: TagsSet) -> Result<(), Failure> {
    let tags = args.tags.0.iter().map(|tag| tag.as_str().to_owned()).collect();
    let profile: Profile = cx.client().send(Method::PUT, "/v1/tags", &SetTags { tags }).await?;
    cx.out.show(&profile, |p| tag_list(p.tags.as_deref().unwrap_or_default()));
    Ok(())
}

pub(super) async fn resolve(cx: &Context, args: Resolve) -> Result<(), Failure> {
    let query =
        Query::new("/v1/resolve").with("agent", Some(&args.agent)).with("network", args.at.network);
    let agent: AgentEntry = cx.client().get(query.as_str()).await?;
    // Alone on its line, for `$(pilotctl resolve NAME)`.
    cx.out.show(&agent, |a| a.address.clone());
    Ok(())
}

pub(super) async fn discover(cx: &Context, args: Discover) -> Result<(), Failure> {
    let tags = super::joined(args.tags);
    let tags: Vec<&str> = tags.0.iter().map(|tag| tag.as_str()).collect();
    let InNetwork { network } = args.at;
    let mut agents = Vec::new();
    let mut cursor = None;
    loop {
        let query = Query::new("/v1/discover")
            .with("tags", (!tags.is_empty()).then(|| tags.join(",")))
            .with("network", network)
            .with("cursor", cursor);
        let page: Discovered = cx.client().get(query.as_str()).await?;
        agents.extend(page.agents);
        cursor = page.next_cursor;
        if cursor.is_none() || agents.len() >= args.limit {
            break;
        }
    }
    agents.truncate(args.limit);
    #[derive(Serialize)]
    struct Found {
        agents: Vec<AgentEntry>,
    }
    cx.out.show(&Found { agents }, |found| {
        found.agents.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

/// `1:0001.0000.0017 research-aws [cloud=aws, region=us-east-1, role=research]`
fn line(agent: &AgentEntry) -> String {
    let mut line = agent.address.clone();
    if let Some(hostname) = &agent.hostname {
        line.push(' ');
        line.push_str(&output::cleaned(hostname));
    }
    if !agent.tags.is_empty() {
        line.push(' ');
        line.push_str(&tag_list(&agent.tags));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_one_line() {
        let mut agent = AgentEntry {
            address: "1:0001.0000.0017".to_owned(),
            hostname: Some("research-aws".to_owned()),
            tags: ["cloud=aws", "region=us-east-1", "role=research"].map(String::from).to_vec(),
        };
        assert_eq!(
            line(&agent),
            "1:0001.0000.0017 research-aws [cloud=aws, region=us-east-1, role=research]"
        );
        agent.hostname = None;
        agent.tags.clear();
        assert_eq!(line(&agent), "1:0001.0000.0017");
    }
}
