//! What every target with machines starts from: a rendezvous at which two agents are registered
//! and trust each other, as it lies on their disks. Made once a process, by the machines
//! themselves.

use crate::pair::{Link, UNIX, World};
use pilot_core::addr::Address;
use pilot_core::crypto::{Grant, Identity, RUST_CRYPTO, Record, Rights, TunnelKey, TunnelSecret};
use pilot_core::limits::Limits;
use pilot_core::node::{Command, Config, Node};
use pilot_core::rendezvous::{Change, Rendezvous, RendezvousConfig, RendezvousLimits, Row};
use pilot_core::time::{Duration, Instant, UnixTime};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::OnceLock;

/// A home: its facts by key.
pub type Disk = BTreeMap<[u8; 8], Vec<u8>>;

/// One of the two agents.
pub struct Agent {
    /// The seed of its Ed25519 identity.
    pub identity: [u8; 32],
    /// Its X25519 tunnel secret.
    pub tunnel: [u8; 32],
    /// As registered.
    pub record: Record,
    /// The process start that the registry knows as its current one.
    pub boot_id: u64,
    /// On the backbone.
    pub address: Address,
    /// Its home.
    pub disk: Disk,
    /// Its UDP socket.
    pub socket: SocketAddr,
}

impl Agent {
    /// Its identity.
    pub fn identity(&self) -> Identity {
        Identity::from_secret(self.identity)
    }

    /// Its tunnel secret.
    pub fn secret(&self) -> TunnelSecret {
        TunnelSecret::from_secret(self.tunnel)
    }
}

/// The stored state of all three.
pub struct Stage {
    /// Agents 0 and 1.
    pub agents: [Agent; 2],
    /// What the rendezvous has stored.
    pub changes: Vec<Change>,
}

/// Where the beacon is.
pub fn beacon_socket() -> SocketAddr {
    crate::pair::beacon_socket()
}

/// The registry's identity, with which it and the beacon are also impersonated.
pub fn registry() -> Identity {
    Identity::from_secret([200; 32])
}

/// The tunnel secret of registry and beacon.
pub fn registry_secret() -> TunnelSecret {
    TunnelSecret::from_secret([201; 32])
}

/// When every run begins.
pub fn start() -> Instant {
    Instant::START + Duration::from_secs(5000)
}

/// The wall clock at [`start`].
pub fn unix() -> UnixTime {
    UNIX + Duration::from_secs(4000)
}

/// Small enough that a fuzzer reaches the bounds.
pub fn limits() -> Limits {
    Limits {
        peers: 4,
        sessions: 16,
        replay_words: 4,
        streams: 12,
        buffer_bytes: 64 * pilot_core::limits::BLOCK,
        frames: 256,
        listeners: 4,
        backlog: 3,
        requests: 8,
        trust_requests: 4,
        channels: 4,
        sources: 64,
        ..Limits::desktop()
    }
}

impl Stage {
    /// The one of this process.
    pub fn get() -> &'static Stage {
        static STAGE: OnceLock<Stage> = OnceLock::new();
        STAGE.get_or_init(Stage::make)
    }

    fn make() -> Stage {
        let mut world = World::new(1, Link::CLEAN, 2);
        world.register();
        world.trust(0, 1);
        world.run(Duration::from_secs(5));
        let rows: Vec<Row> = world.server.rows().collect();
        let agents = [0, 1].map(|n| {
            let agent = &world.agents[n];
            let address = world.address(n);
            let published = rows.iter().find_map(|row| match row {
                Row::Node { node, published, .. } if *node == address.node => published.as_ref(),
                _ => None,
            });
            let published = published.expect("it is registered");
            let record = Record::decode(published.record.as_slice()).expect("as registered");
            Agent {
                identity: agent.identity,
                tunnel: tunnel_secret(&agent.disk, &record.fields.tunnel),
                record,
                boot_id: published.boot_id,
                address,
                disk: agent.disk.clone(),
                socket: agent.socket,
            }
        });
        Stage { agents, changes: rows.iter().map(Row::change).collect() }
    }

    /// A grant from one agent to the other, as the approval would make it.
    pub fn grant(&self, from: usize, rights: Rights, nonce: u8) -> Grant {
        let (from, to) = (&self.agents[from], &self.agents[1 - from]);
        let (key, grantee) = (registry().public(), to.identity().public());
        Grant::sign(&from.identity(), &key, from.address, grantee, rights, 0, [nonce; 8])
    }

    /// Agent `n` as a node, restarted from its disk.
    pub fn node(&self, n: usize, now: Instant) -> Node<'static> {
        let agent = &self.agents[n];
        let config = Config { limits: limits(), ..Config::default() };
        let seed = [n as u8 + 50; 32];
        let identity = agent.identity();
        let mut node = Node::boxed(config, identity, &RUST_CRYPTO, seed, now, unix());
        for (key, value) in &agent.disk {
            node.load(*key, value).expect("what was stored loads");
        }
        node.start(now);
        let locals = [agent.socket];
        node.command(now, Command::NetworkChanged { locals: &locals }).expect("accepted");
        let address = beacon_socket();
        node.command(now, Command::SetBeacon { address }).expect("accepted");
        node
    }
}

/// The rendezvous, restarted from this storage.
pub fn rendezvous(now: Instant, limits: RendezvousLimits, changes: &[Change]) -> Rendezvous {
    let mut config = RendezvousConfig { limits, ..RendezvousConfig::default() };
    config.beacon.push(beacon_socket()).expect("one address fits");
    let (identity, secret) = (registry(), registry_secret());
    let mut server = Rendezvous::new(config, identity, secret, &RUST_CRYPTO, [60; 32], now, unix());
    for change in changes {
        server.apply(change).expect("what was stored loads");
    }
    server
}

/// An agent's disk holds its tunnel secret somewhere; which 32 bytes it is, the public key says.
fn tunnel_secret(disk: &Disk, public: &TunnelKey) -> [u8; 32] {
    let keys = disk.get(b"keys\0\0\0\0").expect("a home has keys");
    let mut windows = keys.windows(32).map(|w| w.try_into().expect("32 bytes"));
    windows
        .find(|secret| TunnelSecret::from_secret(*secret).public() == *public)
        .expect("the secret is stored")
}
