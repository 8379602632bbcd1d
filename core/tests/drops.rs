//! Every reason for which an agent drops something can be provoked at a real node, and moves
//! its own counter and no other. (`core/src/rendezvous/tests/bounds.rs` has the same of the
//! rendezvous.)

#[path = "support/pair.rs"]
mod pair;
#[path = "support/stolen_facts.rs"]
mod stolen_facts;

use pair::*;
use pilot_core::addr::{Address, NetworkId, NodeId, Port, SocketAddress};
use pilot_core::crypto::{CONTEXT, Grant, Identity, Rights, TunnelSecret, kdf};
use pilot_core::drive::Hub;
use pilot_core::machine::{Ecn, Machine as _, Path};
use pilot_core::node::{Command, PathPolicy};
use pilot_core::path::ChannelId;
use pilot_core::session::keys::SmallSession;
use pilot_core::stats::{DropReason, Drops};
use pilot_core::time::Duration;
use pilot_core::wire::control;
use pilot_core::wire::frame::{self, Direction, RelayKey};
use pilot_core::wire::header::{Flags, Header, Protocol};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use stolen_facts::{Thief, seal};

const VICTIM: usize = 0;
const PEER: usize = 1;
/// A port on which nobody listens.
const CLOSED: Port = Port(5555);

/// An agent, the application's side of it, and a peer whose place a thief has taken.
struct Scene {
    world: World,
    hub: Hub<std::task::Waker>,
    thief: Thief,
    session: Option<SmallSession>,
}

impl Scene {
    fn new() -> Scene {
        let mut world = World::new(1, Link::CLEAN, 2);
        world.register();
        world.trust(VICTIM, PEER);
        world.run(secs(1));
        world.kill(PEER);
        let key = |n: usize| Identity::from_secret(world.agents[n].identity).public();
        let facts: Vec<_> = world.agents[PEER].disk.values().cloned().collect();
        let registry = world.agents[PEER].node.registry_key().unwrap();
        let hs_seq = world.unix().as_millis() + 1_000_000;
        let thief = Thief::of(&facts, &registry, &key(PEER), &key(VICTIM), hs_seq);
        let hub = Hub::new(&test_limits());
        Scene { world, hub, thief, session: None }
    }

    /// With a session that the victim takes for its peer's.
    fn inside() -> Scene {
        let mut scene = Scene::new();
        let (initiator, init) = scene.thief.init();
        let resp = scene.ask(init);
        let now = scene.world.now;
        scene.session = Some(scene.thief.session(now, &initiator, &resp));
        scene.say(&[]);
        let peer = scene.thief.record.fields.addr;
        let connected = scene.world.agents[VICTIM].node.peers().any(|p| p.address == peer);
        assert!(connected && scene.drops().total() == 0, "{:?}", scene.drops());
        scene
    }

    fn drops(&self) -> Drops {
        let mut drops = self.world.agents[VICTIM].node.drops();
        drops.add(self.hub.drops());
        drops
    }

    fn peer_socket(&self) -> SocketAddr {
        self.world.agents[PEER].socket
    }

    fn feed_from(&mut self, from: SocketAddr, mut bytes: Vec<u8>) {
        let (now, path) = (self.world.now, Path::to(from));
        let node = &mut self.world.agents[VICTIM].node;
        let _ = node.handle_datagram(now, path, Ecn::NotEct, &mut bytes);
    }

    fn feed(&mut self, bytes: Vec<u8>) {
        self.feed_from(self.peer_socket(), bytes);
    }

    /// Feeds one datagram; the victim's first answer to where it came from.
    fn ask(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        self.feed(bytes);
        let (now, peer) = (self.world.now, self.peer_socket());
        let (mut out, mut answer) = (vec![0; 2048], None);
        let node = &mut self.world.agents[VICTIM].node;
        while let Some(transmit) = node.poll_transmit(now, &mut out, NonZeroUsize::MIN) {
            if transmit.path.remote == peer && answer.is_none() {
                answer = Some(out[..transmit.len].to_vec());
            }
        }
        answer.unwrap_or_default()
    }

    fn seal(&mut self, content: &[u8]) -> Vec<u8> {
        let now = self.world.now;
        seal(self.session.as_mut().unwrap(), now, content)
    }

    fn say(&mut self, content: &[u8]) {
        let frame = self.seal(content);
        self.feed(frame);
    }

    /// An inner packet from the peer's address and port 9.
    fn header(&self, protocol: Protocol, flags: Flags, port: Port) -> Header {
        Header {
            flags,
            protocol,
            length: 0,
            source: self.thief.record.fields.addr,
            destination: self.thief.victim.fields.addr,
            source_port: Port(9),
            destination_port: port,
            sequence: 1,
            acknowledgement: 0,
            window: 64,
            checksum: 0,
        }
    }

    /// The grant that the victim gave becomes one without rights, in what it has stored.
    fn take_rights(&mut self) {
        self.world.kill(VICTIM);
        let victim = Identity::from_secret(self.world.agents[VICTIM].identity);
        let registry = self.world.agents[VICTIM].node.registry_key().unwrap();
        let mut taken = 0;
        for fact in self.world.agents[VICTIM].disk.values_mut() {
            let len = pilot_core::crypto::grant::GRANT;
            for at in 0..(fact.len() + 1).saturating_sub(len) {
                let Ok(grant) = Grant::decode(&fact[at..at + len]) else { continue };
                if grant.grantor != victim.public() || grant.verify(&registry).is_err() {
                    continue;
                }
                let (to, epoch, nonce) = (grant.grantee, grant.epoch, grant.nonce);
                let addr = grant.grantor_addr;
                let none = Grant::sign(&victim, &registry, addr, to, Rights::NONE, epoch, nonce);
                fact[at..at + len].copy_from_slice(&none.encode());
                taken += 1;
            }
        }
        assert!(taken > 0, "the grant is among the victim's facts");
        self.world.revive(VICTIM);
        self.world.run(secs(1));
    }
}

fn with_mac1(mut init: Vec<u8>, to: &pilot_core::crypto::TunnelKey) -> Vec<u8> {
    let body = init.len() - 32;
    let (body, macs) = init.split_at_mut(body);
    let key = kdf::sha256(&[CONTEXT, b"mac1", &to.0]);
    macs[..16].copy_from_slice(&kdf::mac16(&key, &[body]));
    init
}

type Act = Box<dyn FnOnce(&mut Scene)>;
type Before = fn() -> Scene;
type Provoke = fn(&mut Scene) -> Act;

fn feed(bytes: Vec<u8>) -> Act {
    Box::new(move |scene| scene.feed(bytes))
}

fn say(scene: &mut Scene, content: &[u8]) -> Act {
    feed(scene.seal(content))
}

/// How to provoke each reason: what comes before, then the act itself.
const PROVOKED: &[(DropReason, Before, Provoke)] = &[
    (DropReason::UnknownType, Scene::new, |_| feed(vec![0x55; 40])),
    (DropReason::Malformed, Scene::new, |_| feed(Vec::new())),
    (DropReason::Version, Scene::new, |_| feed([&[0x10, 2, 0, 0][..], &[7; 326]].concat())),
    (DropReason::Mac, Scene::new, |scene| {
        let (_, mut init) = scene.thief.init();
        let mac1 = init.len() - 20;
        init[mac1] ^= 1;
        feed(init)
    }),
    (DropReason::Handshake, Scene::new, |scene| {
        let (_, mut init) = scene.thief.init();
        init[60] ^= 1;
        feed(with_mac1(init, &scene.thief.victim.fields.tunnel))
    }),
    (DropReason::Untrusted, Scene::new, |scene| {
        let stranger = TunnelSecret::from_secret([3; 32]);
        let payload = scene.thief.payload();
        feed(scene.thief.init_by(&stranger, &payload).1)
    }),
    (DropReason::Stale, Scene::inside, |scene| {
        scene.thief.hs_seq = 5;
        feed(scene.thief.init().1)
    }),
    (DropReason::RateLimited, Scene::new, |scene| {
        // The answer to one INIT is repeated 32 times.
        let (_, init) = scene.thief.init();
        for _ in 0..33 {
            assert_eq!(scene.ask(init.clone())[0], 0x11);
        }
        feed(init)
    }),
    (DropReason::UnknownIndex, Scene::new, |_| feed(vec![0x80; 40])),
    (DropReason::Decrypt, Scene::inside, |scene| {
        let mut frame = scene.seal(&[]);
        *frame.last_mut().unwrap() ^= 1;
        feed(frame)
    }),
    (DropReason::Replay, Scene::inside, |scene| {
        let frame = scene.seal(&[]);
        scene.feed(frame.clone());
        feed(frame)
    }),
    (DropReason::Expired, Scene::inside, |scene| {
        // Late, and no timer has fired.
        scene.world.now += Duration::from_secs(200);
        say(scene, &[])
    }),
    (DropReason::WrongAddress, Scene::inside, |scene| {
        let mut header = scene.header(Protocol::Datagram, Flags::NONE, Port(7));
        header.source = Address::new(NetworkId::BACKBONE, NodeId(4711));
        say(scene, &header.to_bytes())
    }),
    (
        DropReason::NotPermitted,
        || {
            let mut scene = Scene::new();
            scene.take_rights();
            let (initiator, init) = scene.thief.init();
            let resp = scene.ask(init);
            let now = scene.world.now;
            scene.session = Some(scene.thief.session(now, &initiator, &resp));
            scene.say(&[]);
            scene.world.listen(VICTIM, 7);
            scene
        },
        |scene| {
            let header = scene.header(Protocol::Stream, Flags::SYN, Port(7));
            say(scene, &header.to_bytes())
        },
    ),
    (DropReason::NoListener, Scene::inside, |scene| {
        let header = scene.header(Protocol::Stream, Flags::SYN, CLOSED);
        say(scene, &header.to_bytes())
    }),
    (DropReason::OutOfWindow, Scene::inside, |scene| {
        let header = scene.header(Protocol::Stream, Flags::RST, CLOSED);
        say(scene, &header.to_bytes())
    }),
    (DropReason::Full, Scene::inside, |scene| {
        // Nothing leaves meanwhile: the answers to so many pings find no place.
        let ping = [&[control::PING][..], &[1; 8]].concat();
        while scene.drops().total() == 0 {
            scene.say(&ping);
        }
        say(scene, &ping)
    }),
    (
        DropReason::WrongSource,
        || {
            let mut scene = Scene::new();
            scene.world.kill(VICTIM);
            scene.world.agents[VICTIM].config.path_policy = PathPolicy::Relay;
            scene.world.revive(VICTIM);
            scene.world.run(secs(1));
            scene
        },
        |scene| feed(scene.thief.init().1),
    ),
    (DropReason::UnknownChannel, Scene::new, |_| {
        let mut relayed = vec![0x80; 60];
        frame::wrap(&RelayKey([1; 16]), Direction::FromBeacon, ChannelId(77), &mut relayed);
        Box::new(|scene| scene.feed_from(beacon_socket(), relayed))
    }),
    (DropReason::Unasked, Scene::new, |_| {
        feed([&[1, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat())
    }),
    (DropReason::UnknownControl, Scene::inside, |scene| say(scene, &[0x77])),
    (DropReason::DatagramQueue, Scene::inside, |scene| {
        let to = SocketAddress { address: scene.thief.record.fields.addr, port: Port(7) };
        let send = move |scene: &mut Scene| {
            let now = scene.world.now;
            let command = Command::SendDatagram { to, from: Port(9), payload: b"much" };
            scene.world.agents[VICTIM].node.command(now, command).unwrap();
        };
        for _ in 0..pilot_core::limits::DATAGRAM_QUEUE {
            send(scene);
        }
        Box::new(send)
    }),
    (DropReason::Inbox, Scene::inside, |scene| {
        let now = scene.world.now;
        let node = &mut scene.world.agents[VICTIM].node;
        let port = scene.hub.bind_datagrams(node, now, Port(1234)).unwrap();
        let from = SocketAddress { address: scene.thief.record.fields.addr, port: Port(9) };
        while scene.hub.drops().total() == 0 {
            scene.hub.handle_payload(from, port, &[0; 1000]);
        }
        Box::new(move |scene| scene.hub.handle_payload(from, port, &[0; 1000]))
    }),
];

/// What only a rendezvous drops.
const OF_RENDEZVOUS: &[DropReason] = &[DropReason::Offline];

#[test]
fn each_reason_of_an_agent_can_be_provoked_and_moves_its_counter_alone() {
    for (reason, scene, provoke) in PROVOKED {
        let mut scene = scene();
        let act = provoke(&mut scene);
        let before = scene.drops();
        act(&mut scene);
        let after = scene.drops();
        let risen = |r: &&DropReason| after.get(**r) != before.get(**r);
        let risen: Vec<_> = DropReason::ALL.iter().filter(risen).collect();
        assert_eq!(risen, [reason]);
        assert_eq!(after.get(*reason), before.get(*reason) + 1, "{reason:?}");
    }
    for reason in DropReason::ALL {
        let here = PROVOKED.iter().any(|(provoked, ..)| provoked == reason);
        assert_ne!(here, OF_RENDEZVOUS.contains(reason), "{reason:?}");
    }
}
