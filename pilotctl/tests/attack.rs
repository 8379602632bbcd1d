//! A raw core node that holds trust which the other side has ended attacks a real daemon
//! directly: no byte comes back, the daemon counts it, its inbox stays as it was. The same
//! code got answers and delivered a message while it was trusted.

mod support;

use pilot_core::addr::{Address, Port};
use pilot_core::node::{Command, Event, PathKind};
use std::time::Duration;
use support::raw_node::{Company, RawNode};
use support::{Home, Story, request_of, start, wait_for};

/// What a published plain text message looks like on a stream: type 1, length, text.
fn message(text: &str) -> Vec<u8> {
    let len = u32::try_from(text.len()).unwrap();
    [&1u32.to_be_bytes()[..], &len.to_be_bytes(), text.as_bytes()].concat()
}

/// Goes for the victim's ports, first in the session that the attacker has or remembers, then
/// with fresh handshakes; bytes that came back as the streams' contents.
fn attack(raw: &mut RawNode, victim: Address, text: &str, span: Duration) -> Vec<u8> {
    let (echo, exchange) =
        (raw.connect(victim, Port::ECHO), raw.connect(victim, Port::DATA_EXCHANGE));
    raw.write(echo, b"echo");
    raw.write(exchange, &message(text));
    // Long enough for the packets of the old session to have gone out.
    raw.run(Duration::from_millis(500), |_| false);
    raw.start_over();
    let mut got = Vec::new();
    raw.run(span, |raw| {
        got.extend(raw.read(echo));
        raw.node.stream(exchange).is_none_or(|s| s.is_acknowledged()) && got == b"echo"
    });
    got
}

#[test]
fn stale_trust_gets_no_byte_from_a_real_daemon() {
    let mut story = Story::begin("attack", Duration::from_secs(60));
    let (_server, registry, beacon) = Home::rendezvous();
    let daemon = Home::new();
    let report = daemon.data(&start(&registry, &beacon));
    let victim: Address = report["address"].as_str().unwrap().parse().unwrap();
    let socket = report["sockets"][0].as_str().unwrap();
    let mut raw = RawNode::start(&registry, &beacon, socket);
    let registered = raw.run(Duration::from_secs(20), |raw| raw.node.address().is_some());
    assert!(registered, "it registers at the real rendezvous server as itself");
    let own = raw.node.address().unwrap().to_string();
    story.done("a daemon, and an attacker that is registered");

    raw.command(Command::RequestTrust { to: victim, justification: "a friend".parse().unwrap() });
    raw.run(Duration::from_secs(1), |_| false);
    request_of(&daemon, &own);
    daemon.ok(&["trust", "approve", &own]);
    let granted = |raw: &mut RawNode| raw.events.contains(&Event::TrustGranted(victim));
    assert!(raw.run(Duration::from_secs(20), granted));
    story.done("it is trusted");

    // The control: the attack itself, while it is none.
    let got = attack(&mut raw, victim, "as a friend", Duration::from_secs(20));
    assert_eq!(got, b"echo");
    assert!(raw.from_victim.len() >= 5, "{:?}", raw.from_victim);
    let direct = raw.node.peers().any(|p| p.path == PathKind::Direct);
    assert!(direct, "it knows where the daemon is");
    wait_for("the control's message arrives", || daemon.inbox() == ["as a friend"]);
    assert_eq!(daemon.drops("untrusted"), 0);
    story.done("the control got answers");

    // It does not want to hear that it is over.
    raw.company = Company::Nobody;
    daemon.ok(&["trust", "revoke", &own]);
    // What it sends meanwhile is lost, so it doubts its path to the daemon.
    let lost = raw.connect(victim, Port::ECHO);
    raw.write(lost, b"lost");
    raw.run(Duration::from_secs(2), |_| false);
    assert_eq!(raw.node.peers().count(), 1, "it holds the daemon's grant still");
    assert!(raw.node.peers().all(|peer| peer.grants_us));
    raw.company = Company::Victim;
    raw.from_victim.clear();
    raw.to_victim = 0;
    let unknown = daemon.drops("unknown_index");
    story.done("revoked");

    let got = attack(&mut raw, victim, "as an enemy", Duration::from_secs(5));
    assert!(got.is_empty());
    let (sent, received) = (raw.to_victim, raw.from_victim.clone());
    println!("{sent} datagrams at the daemon, {received:?} back");
    assert!(sent >= 5, "the attack must reach its target: {sent}");
    assert_eq!(received, [0; 0], "not one datagram left the daemon for it");
    assert!(daemon.drops("untrusted") >= 3, "handshakes");
    assert!(daemon.drops("unknown_index") > unknown, "frames of the session that was");
    assert_eq!(daemon.inbox(), ["as a friend"]);
    assert_eq!(daemon.data(&["trust", "list"])["peers"], serde_json::json!([]));
    story.done("it got nothing");
}
