//! Why packets to an agent travel as they do, in plain words.

use super::Context;
use super::show::Facts;
use crate::api::{Why, WhyNat, WhyPath, WhyTried};
use crate::cli::agent;
use crate::client::Query;
use crate::error::Failure;
use crate::output::time;
use std::time::Duration;

pub(super) async fn why(cx: &Context, args: agent::Why) -> Result<(), Failure> {
    let query =
        Query::new("/v1/why").with("agent", Some(&args.agent)).with("network", args.at.network);
    let why: Why = cx.client().get(query.as_str()).await?;
    cx.out.show(&why, text);
    Ok(())
}

/// The whole answer.
fn text(why: &Why) -> String {
    let mut facts = Facts::new();
    facts.line(&why.address, sentence(why));
    if let Some(reason) = reason(why) {
        facts.line("because", reason);
    }
    for path in &why.paths {
        facts.line(if path.active { "path in use" } else { "path kept ready" }, path_line(path));
    }
    facts.line("our NAT", nat(&why.nat));
    facts.line("its NAT", why.peer_nat.as_ref().map_or("not asked yet".to_owned(), nat));
    for tried in &why.tried {
        facts.line("tried", tried_line(tried));
    }
    facts.maybe("trying now", why.running.as_ref());
    facts.maybe("next attempt", why.next_try_ms.map(|ms| format!("in {}", time(span(ms)))));
    facts.text()
}

fn span(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// How packets travel.
fn sentence(why: &Why) -> String {
    let active = why.paths.iter().find(|path| path.active);
    let rtt = active.and_then(|path| path.rtt_us).map(Duration::from_micros);
    let rtt = rtt.map(|rtt| format!(", round trip {}", time(rtt))).unwrap_or_default();
    match (why.path.as_str(), active.and_then(|path| path.endpoint)) {
        ("direct", Some(at)) => format!("packets go straight to {at}{rtt}"),
        ("relayed", _) => format!("packets go over the beacon's relay, encrypted end to end{rtt}"),
        _ => "there is no path now".to_owned(),
    }
}

/// Why it is no better.
fn reason(why: &Why) -> Option<String> {
    let last = why.tried.iter().rev().find(|tried| tried.outcome != "superseded");
    let text = match (why.path.as_str(), why.policy.as_str()) {
        ("direct", _) => {
            let technique = last.filter(|tried| tried.outcome == "direct");
            return technique.map(|tried| format!("{} got through", tried.technique));
        }
        (_, "relay") => "this daemon was told to use nothing but the relay (--path relay)".into(),
        ("none", _) if !why.has_session && why.candidates.is_empty() && !why.has_relay => {
            "nothing was sent lately, and nobody says where it is: it may be offline".into()
        }
        ("none", _) => {
            "nothing was sent lately: a path is made when there is something to send".into()
        }
        _ if why.running.is_some() => "a direct path is being sought right now".into(),
        _ => match (last, why.hardest.as_deref()) {
            (None, _) => "no direct path was sought yet".into(),
            (Some(tried), _) if tried.outcome == "not-answered" => {
                "it does not answer offers of a direct path: it may be told to use the relay, or \
                 run a version that has none"
                    .into()
            }
            (Some(tried), _) if tried.outcome == "declined" => {
                "it takes no part in a birthday spray now: its owner forbids it, or the last one \
                 was a short time ago"
                    .into()
            }
            (Some(_), Some("birthday spray")) if why.sprays_forbidden => {
                "only a birthday spray could get through these two NATs, and this daemon was told \
                 not to (--no-spray)"
                    .into()
            }
            (Some(_), Some("birthday spray")) if why.no_spray_ms.is_some() => format!(
                "a birthday spray found no port; it is not repeated for another {}",
                time(span(why.no_spray_ms.unwrap_or_default()))
            ),
            (Some(_), Some("hole punching")) if both_change(why) => {
                "both NATs give every destination another port that cannot be foreseen, so \
                 neither end can know where to send; a public or forwarded UDP port at one end \
                 (--endpoint) would help"
                    .into()
            }
            (Some(_), _) => {
                "nothing came through: a firewall on the way may drop UDP between the two".into()
            }
        },
    };
    Some(text)
}

fn both_change(why: &Why) -> bool {
    let changes =
        |nat: &WhyNat| nat.mapping.ends_with("dependent") && !nat.mapping.contains("indep");
    changes(&why.nat) && why.peer_nat.as_ref().is_some_and(changes)
}

fn path_line(path: &WhyPath) -> String {
    let mut text = match path.endpoint {
        Some(at) if path.path == "direct" => format!("direct, {at}"),
        Some(at) => format!("relay, {at}"),
        None => path.path.clone(),
    };
    if let Some(rtt) = path.rtt_us {
        text += &format!(", round trip {}", time(Duration::from_micros(rtt)));
    }
    if path.auxiliary {
        text += ", from a socket of its own";
    }
    if let Some(ms) = path.silent_ms {
        text += &format!(", silent for {}", time(span(ms)));
    }
    text
}

fn nat(nat: &WhyNat) -> String {
    let WhyNat { mapping, filtering, allocation } = nat;
    if [mapping, filtering, allocation].iter().all(|word| *word == "unknown") {
        return "unknown".to_owned();
    }
    format!("mapping {mapping}, filtering {filtering}, ports {allocation}")
}

fn tried_line(tried: &WhyTried) -> String {
    let outcome = match tried.outcome.as_str() {
        "direct" => "got through",
        "nothing-came-through" => "nothing came through",
        "not-answered" => "the peer did not answer the offer",
        "declined" => "the peer took no part",
        _ => "given up for another attempt",
    };
    let ago = time(span(tried.ago_ms));
    format!("{}: {outcome}, {ago} ago, {} probes", tried.technique, tried.probes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(mapping: &str, allocation: &str) -> WhyNat {
        let filtering = "address- and port-dependent".to_owned();
        WhyNat { mapping: mapping.to_owned(), filtering, allocation: allocation.to_owned() }
    }

    fn relayed() -> Why {
        Why {
            address: "0:0000.0000.0007".to_owned(),
            path: "relayed".to_owned(),
            policy: "auto".to_owned(),
            has_session: true,
            has_relay: true,
            paths: vec![WhyPath {
                path: "relayed".to_owned(),
                endpoint: "192.0.2.1:9001".parse().ok(),
                active: true,
                auxiliary: false,
                rtt_us: Some(41_000),
                silent_ms: None,
            }],
            candidates: Vec::new(),
            nat: of("address- and port-dependent", "random"),
            peer_nat: Some(of("address- and port-dependent", "random")),
            tried: vec![WhyTried {
                technique: "hole punching".to_owned(),
                outcome: "nothing-came-through".to_owned(),
                ago_ms: 2_000,
                probes: 22,
            }],
            running: None,
            hardest: Some("hole punching".to_owned()),
            next_try_ms: Some(30_000),
            no_spray_ms: None,
            sprays_forbidden: false,
        }
    }

    #[test]
    fn two_symmetric_nats_are_explained() {
        let text = text(&relayed());
        for part in ["over the beacon's relay", "cannot be foreseen", "22 probes", "in 30"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn each_cause_has_its_own_words() {
        let spray = |why: Why| Why {
            hardest: Some("birthday spray".to_owned()),
            peer_nat: Some(of("endpoint-independent", "preserving")),
            ..why
        };
        let outcome = |outcome: &str| {
            let mut why = relayed();
            why.tried[0].outcome = outcome.to_owned();
            why
        };
        let cases = [
            (Why { policy: "relay".to_owned(), ..relayed() }, "--path relay"),
            (Why { running: Some("port prediction".to_owned()), ..relayed() }, "right now"),
            (Why { tried: Vec::new(), ..relayed() }, "was sought yet"),
            (outcome("not-answered"), "does not answer"),
            (outcome("declined"), "takes no part"),
            (Why { sprays_forbidden: true, ..spray(relayed()) }, "--no-spray"),
            (Why { no_spray_ms: Some(60_000), ..spray(relayed()) }, "not repeated"),
            (
                Why { peer_nat: Some(of("endpoint-independent", "preserving")), ..relayed() },
                "firewall",
            ),
            (Why { path: "none".to_owned(), ..relayed() }, "something to send"),
        ];
        for (why, part) in cases {
            let reason = reason(&why).expect("a reason");
            assert!(reason.contains(part), "{part}: {reason}");
        }
    }

    #[test]
    fn a_direct_path_says_how_it_was_got() {
        let mut why = relayed();
        why.path = "direct".to_owned();
        why.paths[0].path = "direct".to_owned();
        assert_eq!(reason(&why), None);
        why.tried[0].outcome = "direct".to_owned();
        assert_eq!(reason(&why).as_deref(), Some("hole punching got through"));
        assert!(sentence(&why).starts_with("packets go straight to 192.0.2.1:9001"));
    }
}
