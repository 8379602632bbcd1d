//! Agents that trust each other and are not told by any rendezvous where they are.

#[path = "support/pair.rs"]
mod pair;

use pair::{Link, World, pattern, secs};
use pilot_core::addr::{Address, NetworkId, NodeId};
use pilot_core::node::{Command, CommandError, Event};
use std::net::SocketAddr;

/// Two agents that were restarted after the rendezvous was gone for good.
fn alone() -> World {
    let mut world = World::new(5, Link::CLEAN, 2);
    world.register();
    world.trust(0, 1);
    world.kill_server();
    for n in 0..2 {
        world.kill(n);
        world.revive(n);
        world.listen(n, 7);
    }
    world
}

fn set_endpoint(world: &mut World, at: usize, of: usize, endpoint: SocketAddr) {
    let peer = world.address(of);
    world.command(at, Command::SetPeerEndpoint { peer, endpoint });
}

#[test]
fn the_owner_knows_where_a_peer_is() {
    let mut world = alone();
    let id = world.connect(0, 1, 7);
    world.run(secs(20));
    assert!(!world.saw(0, Event::StreamOpened(id)), "nobody has told where the peer is");
    // One that is wrong costs a packet.
    set_endpoint(&mut world, 0, 1, SocketAddr::from(([198, 51, 100, 77], 4000)));
    let endpoint = world.agents[1].socket;
    set_endpoint(&mut world, 0, 1, endpoint);
    // The attempt that is under way takes it at once.
    let took = world.run_until(secs(1), |w| w.saw(0, Event::StreamOpened(id)));
    println!("open {} ms after the endpoint was known", took.as_millis());
    // The other end has learned by the handshake what it was not told.
    world.transfer(1, 0, 7, &pattern(200_000), secs(10));
}

#[test]
fn of_many_endpoints_the_last_told_are_tried() {
    let mut world = alone();
    let endpoint = world.agents[1].socket;
    for host in 0..4 {
        set_endpoint(&mut world, 0, 1, SocketAddr::from(([203, 0, 113, host], 4000)));
    }
    set_endpoint(&mut world, 0, 1, endpoint);
    set_endpoint(&mut world, 0, 1, endpoint);
    let id = world.connect(0, 1, 7);
    world.wire = Some(Vec::new());
    world.run_until(secs(1), |w| w.saw(0, Event::StreamOpened(id)));
    let tried = |host: u8| {
        let to = SocketAddr::from(([203, 0, 113, host], 4000));
        world.wire.iter().flatten().any(|(_, at, _)| *at == to)
    };
    assert_eq!([0, 1, 2, 3].map(tried), [false, true, true, true]);
}

#[test]
fn nobody_is_reached_where_no_peer_can_be_and_no_stranger_has_a_place() {
    let mut world = alone();
    world.wire = Some(Vec::new());
    let nowhere = ["255.255.255.255:4000", "127.0.0.1:4000", "224.0.0.1:4000", "198.51.100.2:0"];
    for endpoint in nowhere.map(|text| text.parse().expect("an address")) {
        set_endpoint(&mut world, 0, 1, endpoint);
        world.connect(0, 1, 7);
        world.run(secs(5));
        assert!(world.wire.iter().flatten().all(|(_, to, _)| *to != endpoint), "{endpoint}");
    }
    let (now, endpoint) = (world.now, world.agents[1].socket);
    let peer = Address::new(NetworkId(0), NodeId(77_777));
    let command = Command::SetPeerEndpoint { peer, endpoint };
    assert_eq!(world.agents[0].node.command(now, command), Err(CommandError::NotFound));
}
