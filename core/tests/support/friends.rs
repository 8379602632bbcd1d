//! Real nodes that trust each other, and what attack tests ask of them.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use super::pair::{Link, World, secs, test_limits};
use pilot_core::addr::{Port, SocketAddress};
use pilot_core::node::{Command, Config, PathPolicy, StreamId};
use pilot_core::stats::DropReason;
use std::net::SocketAddr;

pub const PORT: Port = Port(5000);

pub type Packet = (SocketAddr, SocketAddr, Vec<u8>);

/// `n` agents of which every later one is trusted by, and trusts, agent 1; agent 0 and 1 too.
/// All listen on stream port 7 and take datagrams on [`PORT`].
pub fn friends(seed: u64, n: usize, path_policy: PathPolicy) -> World {
    let mut world = World::new(seed, Link::CLEAN, 0);
    for _ in 0..n {
        world.add(Config { limits: test_limits(), path_policy, ..Config::default() });
    }
    world.register();
    for other in (0..n).filter(|other| *other != 1) {
        world.trust(other, 1);
    }
    for agent in 0..n {
        world.listen(agent, 7);
        world.command(agent, Command::BindDatagrams { port: PORT });
    }
    world
}

pub fn send(world: &mut World, from: usize, to: usize, payload: &[u8]) {
    let to = SocketAddress { address: world.address(to), port: PORT };
    world.command(from, Command::SendDatagram { to, from: Port(50_000), payload });
}

/// Payloads of the datagrams that the agent has received.
pub fn received(world: &World, n: usize) -> Vec<&[u8]> {
    world.agents[n].datagrams.iter().map(|d| d.payload.as_slice()).collect()
}

pub fn dropped(world: &World, n: usize, reason: DropReason) -> u64 {
    world.agents[n].node.drops().get(reason)
}

/// Datagrams go both ways, each once.
pub fn talk(world: &mut World, a: usize, b: usize, text: &[u8]) {
    for (from, to) in [(a, b), (b, a)] {
        let before = world.agents[to].datagrams.len();
        send(world, from, to, text);
        world.run(secs(2));
        assert_eq!(received(world, to)[before..], [text], "{from} to {to}");
    }
}

/// The stream that is opened to the agent now.
pub fn accept(world: &mut World, n: usize) -> StreamId {
    let mut accepted = None;
    world.run_until(secs(5), |w| {
        accepted = accepted.or(w.agents[n].node.accept(Port(7)));
        accepted.is_some()
    });
    accepted.expect("it ran until then")
}

pub fn endpoint(world: &World, at: usize, of: usize) -> Option<SocketAddr> {
    let address = world.address(of);
    world.agents[at].node.peers().find(|p| p.address == address).expect("a peer").endpoint
}

pub fn is_frame(packet: &[u8]) -> bool {
    packet[0] >= 0x80
}

pub fn sent(wire: &[Packet], from: SocketAddr, to: SocketAddr) -> Vec<&[u8]> {
    wire.iter().filter(|p| (p.0, p.1) == (from, to)).map(|p| p.2.as_slice()).collect()
}
