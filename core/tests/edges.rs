//! What an owner sees of a node between a mutation and the next poll: one state, never half of
//! a change (contract rules 3 and 7).

#[path = "support/pair.rs"]
mod pair;

use pair::*;
use pilot_core::addr::{Port, SocketAddress};
use pilot_core::machine::Machine;
use pilot_core::name::Justification;
use pilot_core::node::{Command, CommandError, Event, Node};
use pilot_core::stream::State;
use pilot_core::time::Instant;
use pilot_core::trust::Permissions;

/// Whoever is shown as granting us access can be called, at any moment.
fn call_who_grants(node: &mut Node<'_>, now: Instant) {
    if node.streams().count() > 0 {
        return;
    }
    let granting: Vec<_> = node.peers().filter(|p| p.grants_us).map(|p| p.address).collect();
    for to in granting {
        let connected = node.command(now, Command::Connect { to, port: Port(7) });
        assert!(connected.is_ok(), "it grants us access, and yet: {connected:?}");
        let to = SocketAddress { address: to, port: Port(7) };
        let datagram = Command::SendDatagram { to, from: Port(1007), payload: b"x" };
        assert!(node.command(now, datagram).is_ok());
    }
}

fn streams(world: &World, n: usize) -> usize {
    world.agents[n].node.streams().count()
}

#[test]
fn a_peer_that_is_shown_can_be_called_before_any_event_is_polled() {
    let mut world = World::new(1, Link::CLEAN, 2);
    world.register();
    world.on_input = Some(|agent, now| call_who_grants(&mut agent.node, now));
    let (a, b) = (world.address(0), world.address(1));
    let justification = Justification::cleaned("to test");
    world.command(0, Command::RequestTrust { to: b, justification });
    world.run_until(secs(5), |w| w.agents[1].node.trust_requests().any(|r| r.from == a));
    let now = world.now;
    world.agents[1]
        .node
        .command(now, Command::ApproveTrust { from: a, permissions: Permissions::ALL })
        .unwrap();
    call_who_grants(&mut world.agents[1].node, now);
    world.run_until(secs(5), |w| w.holds_grant(0, b) && w.holds_grant(1, a));
    world.run(secs(1));
    assert!(streams(&world, 0) > 0 && streams(&world, 1) > 0, "both were called");
    for (n, peer) in [(0, b), (1, a)] {
        let told = world.agents[n].events.iter().filter(|e| **e == Event::TrustGranted(peer));
        assert_eq!(told.count(), 1, "the edge was kept for its owner");
    }
}

/// The end of trust is whole at once, too; its edge waits for the owner, once, however late.
#[test]
fn a_peer_that_was_revoked_is_gone_before_any_event_is_polled() {
    let mut world = World::new(2, Link::CLEAN, 2);
    world.register();
    world.trust(0, 1);
    world.listen(1, 7);
    world.transfer(0, 1, 7, b"x", secs(5));
    let (a, b) = (world.address(0), world.address(1));
    let id = world.connect(0, 1, 7);
    world.run_until(secs(5), |w| w.saw(0, Event::StreamOpened(id)));
    world.on_input = Some(|agent, _| {
        let open = agent.node.streams().filter(|s| s.state != State::Closed).count();
        assert!(agent.node.peers().count() == 1 || open == 0, "a stream to nobody");
    });
    world.command(1, Command::RevokeTrust { peer: a });
    world.run_until(secs(5), |w| w.agents[0].node.peers().count() == 0);
    world.on_input = None;
    let now = world.now;
    let node = &mut world.agents[0].node;
    let refused = node.command(now, Command::Connect { to: b, port: Port(7) });
    assert_eq!(refused, Err(CommandError::NotTrusted));
    assert!(node.poll_event().is_none());
    let revoked = |w: &World, n: usize, peer| {
        w.agents[n].events.iter().filter(|e| **e == Event::TrustRevoked(peer)).count()
    };
    assert_eq!((revoked(&world, 0, b), revoked(&world, 1, a)), (1, 0));
    // The place of the peer is free again.
    world.trust(0, 1);
    world.transfer(0, 1, 7, b"again", secs(5));
}

#[test]
fn without_an_address_nobody_can_be_called() {
    let mut world = World::new(3, Link::CLEAN, 2);
    world.register();
    let to = world.address(0);
    let n = world.add(world.agents[0].config.clone());
    let now = world.now;
    let node = &mut world.agents[n].node;
    assert!(node.address().is_none());
    let connect = Command::Connect { to, port: Port(7) };
    assert_eq!(node.command(now, connect.clone()), Err(CommandError::NotRegistered));
    world.register();
    let now = world.now;
    let refused = world.agents[n].node.command(now, connect);
    assert_eq!(refused, Err(CommandError::NotTrusted));
}
