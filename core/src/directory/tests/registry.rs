//! First contact, restarts, serials, fencing, the owner's requests.

use super::*;

#[test]
fn first_start_gets_an_address_and_goes_online() {
    let mut world = World::new(1);
    let took = world.wait_online();
    let agent = &world.agents[0];
    assert_eq!(agent.dir.address(), Some(Address::backbone(crate::addr::NodeId(16))));
    let key = world.server.identity();
    assert!(world.has(0, DirectoryEvent::RegistryPinned(key)));
    assert!(world.has(0, DirectoryEvent::Registered(world.address(0))));
    assert_eq!(agent.dir.observed(), Some(agent.socket));
    assert_eq!(agent.dials, 1);
    assert!(took < ms(300), "{took:?}");
    // The channel is closed once there is nothing to ask.
    world.run(secs(70));
    assert_eq!(world.agents[0].conn, None);
    world.run(secs(600));
    assert_eq!((world.agents[0].dials, world.agents[0].dir.link()), (1, LinkState::Online));
}
