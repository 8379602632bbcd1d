//! An attacker with a node's home in its hands: speaks with that node's keys by the building
//! blocks of the handshake, and keeps to nobody's rules.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use super::pair::{World, secs};
use pilot_core::addr::{Address, Port};
use pilot_core::crypto::{Identity, IdentityKey, RUST_CRYPTO, Record, TunnelKey, TunnelSecret};
use pilot_core::rng::Rng;
use pilot_core::session::handshake::{INIT_MAX, Initiator};
use pilot_core::session::keys::SmallSession;
use pilot_core::session::payload::{Caps, InitPayload};
use pilot_core::wire::header::{Flags, Header, Protocol};
use serde::Deserialize;
use std::net::SocketAddr;

/// The start of what a node stores of its keys.
#[derive(Deserialize)]
struct Stored {
    _address: Option<Address>,
    _published: bool,
    current: [u8; 32],
    _previous: Option<[u8; 32]>,
    _since: u64,
    record: Option<Record>,
}

pub struct Thief {
    pub secret: TunnelSecret,
    pub record: Record,
    pub identity: Identity,
    pub address: Address,
    pub socket: SocketAddr,
    rng: Rng,
}

fn stored(world: &World, n: usize) -> Stored {
    let value = &world.agents[n].disk[b"keys\0\0\0\0"];
    postcard::take_from_bytes(&value[1..]).expect("what a node stored").0
}

/// The public tunnel key of an agent.
pub fn tunnel_key(world: &World, n: usize) -> TunnelKey {
    TunnelSecret::from_secret(stored(world, n).current).public()
}

pub fn registry_key(world: &World, n: usize) -> IdentityKey {
    world.agents[n].node.registry_key().expect("pinned")
}

impl Thief {
    /// A copy of agent `n`'s home, at another socket.
    pub fn copy(world: &World, n: usize) -> Thief {
        let stored = stored(world, n);
        let record = stored.record.expect("it is registered");
        Thief {
            secret: TunnelSecret::from_secret(stored.current),
            record,
            identity: Identity::from_secret(world.agents[n].identity),
            address: record.fields.addr,
            socket: SocketAddr::from(([203, 0, 113, 66], 6666)),
            rng: Rng::new([66; 32]),
        }
    }

    /// What a genuine INIT to agent `to` says.
    pub fn payload(&mut self, world: &World, to: usize) -> InitPayload {
        InitPayload {
            caps: Caps::of(&RUST_CRYPTO),
            rekey: false,
            max_datagram: 1400,
            src: self.address,
            dst: world.address(to),
            hs_seq: world.unix().as_millis(),
            known_peer_serial: u64::MAX,
            generation: 1,
            boot_id: self.rng.bytes(),
            record: Some(self.record.to_short()),
            early: None,
        }
    }

    /// An INIT for the owner of `key`.
    pub fn init(&mut self, key: &TunnelKey, payload: &InitPayload) -> (Initiator, Vec<u8>) {
        let mut out = [0; INIT_MAX];
        let e = TunnelSecret::from_secret(self.rng.bytes());
        let index = self.rng.u32() | 1 << 31;
        let (initiator, len) =
            Initiator::start(&self.secret, key, e, index, payload, &mut out).expect("a key");
        (initiator, out[..len].to_vec())
    }

    /// Sends one INIT to agent `to` and gives what came back to this socket within a second.
    pub fn knock(
        &mut self,
        world: &mut World,
        to: usize,
        payload: &InitPayload,
    ) -> (Initiator, Vec<Vec<u8>>) {
        let (initiator, packet) = self.init(&tunnel_key(world, to), payload);
        let back = self.provoke(world, to, packet);
        (initiator, back)
    }

    /// Sends a packet to agent `to` and gives what came back to this socket within a second.
    pub fn provoke(&mut self, world: &mut World, to: usize, packet: Vec<u8>) -> Vec<Vec<u8>> {
        let target = world.agents[to].socket;
        let before = world.wire.replace(Vec::new());
        world.send_udp(self.socket, target, packet);
        world.run(secs(1));
        let wire = core::mem::replace(&mut world.wire, before).expect("it was recording");
        let own = wire.iter().filter(|(_, there, _)| *there == self.socket);
        own.map(|(_, _, bytes)| bytes.clone()).collect()
    }

    /// A session with agent `to`, which trusts whose home this is.
    pub fn open(&mut self, world: &mut World, to: usize) -> SmallSession {
        let payload = self.payload(world, to);
        let (initiator, back) = self.knock(world, to, &payload);
        let mut resp = back.into_iter().find(|p| p[0] == 0x11).expect("a RESP");
        let accepted = initiator.read_resp(&self.secret, &mut resp).unwrap().unwrap();
        let expires = world.now + secs(180);
        let index = initiator.index();
        let mut session = SmallSession::new(accepted.keys, index, accepted.remote_index, expires);
        self.send(world, &mut session, to, &[]);
        session
    }

    /// Sends one frame with this content.
    pub fn send(&self, world: &mut World, session: &mut SmallSession, to: usize, content: &[u8]) {
        let mut frame = vec![0; 12 + content.len() + 16];
        frame[12..12 + content.len()].copy_from_slice(content);
        session.seal(world.now, &RUST_CRYPTO, &mut frame, content.len()).expect("it lives");
        world.send_udp(self.socket, world.agents[to].socket, frame);
        world.run(secs(1));
    }
}

/// An inner packet with a datagram.
pub fn datagram(source: Address, destination: Address, port: Port, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        flags: Flags::NONE,
        protocol: Protocol::Datagram,
        length: payload.len() as u16,
        source,
        destination,
        source_port: Port(50_000),
        destination_port: port,
        sequence: 0,
        acknowledgement: 0,
        window: 0,
        checksum: 0,
    };
    let mut header = Header { checksum: header.crc(payload), ..header }.to_bytes().to_vec();
    header.extend(payload);
    header
}
