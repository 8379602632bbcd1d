//! Trust between two agents through the mailbox.

use super::*;

#[test]
fn request_and_approval_make_trust_mutual() {
    let mut world = World::online(2);
    world.befriend(0, 1);
}
