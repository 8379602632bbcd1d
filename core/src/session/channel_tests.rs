//! Both ends of the registry channel against each other, and against wrong bytes.

use super::*;
use crate::addr::NodeId;
use crate::crypto::RUST_CRYPTO;
use crate::crypto::record::RecordFields;
use std::vec::Vec;

fn introduction(record: Option<Record>) -> Introduction {
    Introduction {
        address: record.map_or(Address::UNSPECIFIED, |r| r.fields.addr),
        record,
        boot_id: [1; 8],
        max_datagram: 1400,
        caps: Caps::of(&RUST_CRYPTO),
    }
}

struct Ends {
    client: ClientChannel<'static>,
    server: ServerChannel<'static>,
    identity: Identity,
    secret: TunnelSecret,
    previous: TunnelSecret,
    agent: TunnelSecret,
    rng: Rng,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
}

fn agent_record(agent: &TunnelSecret, registry: &Identity) -> Record {
    Record::sign(
        &Identity::from_secret([8; 32]),
        &registry.public(),
        RecordFields {
            addr: Address::backbone(NodeId(16)),
            tunnel: agent.public(),
            serial: 1,
            not_after: 0,
            flags: 0,
            grant_epoch: 0,
            prev: [0; 32],
        },
    )
}

impl Ends {
    fn new(pin: Option<IdentityKey>, remembered: Option<TunnelKey>, registered: bool) -> Self {
        let identity = Identity::from_secret([1; 32]);
        let agent = TunnelSecret::from_secret([4; 32]);
        let record = registered.then(|| agent_record(&agent, &identity));
        let mut rng = Rng::new([5; 32]);
        let buffer = || Store::boxed_zeroed(BUFFER);
        let client = ClientChannel::new(
            introduction(record),
            &agent,
            pin,
            remembered,
            &mut rng,
            buffer(),
            buffer(),
        );
        Ends {
            client,
            server: ServerChannel::new(introduction(None), buffer(), buffer()),
            identity,
            secret: TunnelSecret::from_secret([2; 32]),
            previous: TunnelSecret::from_secret([3; 32]),
            agent,
            rng,
            to_server: Vec::new(),
            to_client: Vec::new(),
        }
    }

    fn collect(&mut self) {
        let n = self.client.output().len();
        self.to_server.extend_from_slice(self.client.output());
        self.client.sent(n);
        let n = self.server.output().len();
        self.to_client.extend_from_slice(self.server.output());
        self.server.sent(n);
    }

    /// Carries bytes in pieces until nothing moves. Returns what both ends yielded, as text.
    fn run(&mut self, piece: usize) -> Result<Vec<std::string::String>, ChannelError> {
        let mut log = Vec::new();
        loop {
            self.collect();
            let n = piece.min(self.to_server.len());
            let taken = self.server.handle_bytes(&self.to_server[..n]);
            self.to_server.drain(..taken);
            let m = piece.min(self.to_client.len());
            let given = self.client.handle_bytes(&self.to_client[..m]);
            self.to_client.drain(..given);
            loop {
                let keys = ServerKeys {
                    identity: &self.identity,
                    secret: &self.secret,
                    previous: Some(&self.previous),
                };
                let Some(event) = self.server.poll(keys, &RUST_CRYPTO, &mut self.rng)? else {
                    break;
                };
                log.push(std::format!("server {event:?}"));
            }
            while let Some(event) = self.client.poll(&self.agent, &RUST_CRYPTO, &mut self.rng)? {
                log.push(std::format!("client {event:?}"));
            }
            self.collect();
            if taken + given == 0 && self.to_server.is_empty() && self.to_client.is_empty() {
                return Ok(log);
            }
        }
    }

    fn send(&mut self, from_client: bool, content: &[u8]) -> Option<usize> {
        let build = |out: &mut [u8]| {
            out.get_mut(..content.len())?.copy_from_slice(content);
            Some(content.len())
        };
        if from_client { self.client.send(build) } else { self.server.send(build) }
    }
}

#[test]
fn first_contact_asks_for_the_keys_and_later_ones_do_not() {
    for piece in [1, 7, 100_000] {
        let mut ends = Ends::new(None, None, false);
        let log = ends.run(piece).unwrap();
        assert_eq!(log.len(), 3, "{log:?}");
        assert!(log[0].starts_with("client Keys"));
        assert!(log[1].starts_with("server Open") && log[1].contains("record: None"));
        assert!(ends.client.is_open() && ends.server.is_open());
        let hash = std::format!("{:?}", ends.server.hash().unwrap());
        assert!(log[1].contains(&hash) && log[2].contains(&hash));

        let identity = Identity::from_secret([1; 32]).public();
        let known = TunnelSecret::from_secret([2; 32]).public();
        let mut ends = Ends::new(Some(identity), Some(known), true);
        let log = ends.run(piece).unwrap();
        assert_eq!(log.len(), 2);
        assert!(log[0].contains("serial: 1"));
        assert_eq!(ends.send(true, b"question"), Some(8));
        assert_eq!(ends.send(false, b"answer"), Some(6));
        assert_eq!(ends.run(piece).unwrap().len(), 2);
    }
}

#[test]
fn a_remembered_key_works_until_the_second_rotation() {
    let previous = TunnelSecret::from_secret([3; 32]).public();
    assert_eq!(Ends::new(None, Some(previous), false).run(50).unwrap().len(), 2);
    let forgotten = TunnelSecret::from_secret([9; 32]).public();
    let mut ends = Ends::new(None, Some(forgotten), false);
    assert_eq!(ends.run(50), Err(ChannelError::NotAuthentic));
    assert!(!ends.client.is_open());
}

#[test]
fn a_changed_registry_key_is_named_with_both() {
    let pinned = IdentityKey([7; 32]);
    let shown = Identity::from_secret([1; 32]).public();
    let mut ends = Ends::new(Some(pinned), None, false);
    assert_eq!(ends.run(50), Err(ChannelError::KeyChanged { pinned, shown }));
}

#[test]
fn frames_of_every_size_pass_and_nothing_longer() {
    let mut ends = Ends::new(None, None, false);
    ends.run(4096).unwrap();
    let longest = REGISTRY_FRAME_MAX - TAG;
    for len in [0, 1, 1000, longest] {
        let content = std::vec![7; len];
        assert_eq!(ends.send(true, &content), Some(len));
        let log = ends.run(999).unwrap();
        assert_eq!(log.len(), 1);
    }
    assert_eq!(ends.send(true, &std::vec![7; longest + 1]), None);
    // A full buffer refuses, and works again when it is empty.
    assert_eq!(ends.send(false, &std::vec![7; longest]), Some(longest));
    assert_eq!(ends.send(false, b"more"), None);
    assert_eq!(ends.run(5000).unwrap().len(), 1);
    assert_eq!(ends.send(false, b"more"), Some(4));
}

#[test]
fn every_flipped_bit_on_the_way_ends_the_channel() {
    let whole = {
        let mut ends = Ends::new(None, None, true);
        ends.collect();
        ends.to_server.len()
    };
    assert_eq!(whole, 36);
    // AOR1 with a record: 4 + 2 + 96 + 44 + 150.
    let known = TunnelSecret::from_secret([2; 32]).public();
    let mut ends = Ends::new(None, Some(known), true);
    ends.collect();
    assert_eq!(ends.to_server.len(), 296);
    let hello = ends.to_server.clone();
    for bit in (0..hello.len() * 8).step_by(3) {
        let mut ends = Ends::new(None, Some(known), true);
        ends.collect();
        ends.to_server[bit / 8] ^= 1 << (bit % 8);
        let result = ends.run(1000);
        assert!(result.is_err() || !ends.server.is_open(), "bit {bit}");
    }
    // msg2, and a frame.
    let answer = 2 + MESSAGE2_OVERHEAD + P2_FIXED;
    for bit in 0..answer * 8 {
        let mut ends = Ends::new(None, Some(known), false);
        ends.collect();
        let hello = core::mem::take(&mut ends.to_server);
        ends.server.handle_bytes(&hello);
        let keys = ServerKeys { identity: &ends.identity, secret: &ends.secret, previous: None };
        assert!(ends.server.poll(keys, &RUST_CRYPTO, &mut ends.rng).unwrap().is_some());
        ends.collect();
        assert_eq!(ends.to_client.len(), answer);
        ends.to_client[bit / 8] ^= 1 << (bit % 8);
        assert!(ends.run(1000).is_err() || !ends.client.is_open(), "bit {bit}");
    }
    for bit in 16..(2 + 8 + TAG) * 8 {
        let mut ends = Ends::new(None, Some(known), false);
        ends.run(1000).unwrap();
        ends.send(true, b"question").unwrap();
        ends.collect();
        ends.to_server[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(ends.run(1000), Err(ChannelError::NotAuthentic), "bit {bit}");
    }
}

#[test]
fn frames_cannot_be_repeated_or_dropped() {
    let mut ends = Ends::new(None, None, false);
    ends.run(1000).unwrap();
    ends.send(true, b"one").unwrap();
    ends.collect();
    let one = ends.to_server.clone();
    ends.run(1000).unwrap();
    ends.to_server = one;
    assert_eq!(ends.run(1000), Err(ChannelError::NotAuthentic));
    let mut ends = Ends::new(None, None, false);
    ends.run(1000).unwrap();
    ends.send(true, b"one").unwrap();
    ends.collect();
    ends.to_server.clear();
    ends.send(true, b"two").unwrap();
    assert_eq!(ends.run(1000), Err(ChannelError::NotAuthentic));
}

#[test]
fn strangers_are_cut_off_early() {
    let poll = |server: &mut ServerChannel<'static>, bytes: &[u8]| {
        server.handle_bytes(bytes);
        let identity = Identity::from_secret([1; 32]);
        let secret = TunnelSecret::from_secret([2; 32]);
        let keys = ServerKeys { identity: &identity, secret: &secret, previous: None };
        server.poll(keys, &RUST_CRYPTO, &mut Rng::new([1; 32])).map(|event| event.is_some())
    };
    let fresh = || {
        let buffer = || Store::boxed_zeroed(BUFFER);
        ServerChannel::new(introduction(None), buffer(), buffer())
    };
    assert_eq!(poll(&mut fresh(), b"G"), Err(ChannelError::Malformed));
    assert_eq!(poll(&mut fresh(), b"AOR2"), Err(ChannelError::Malformed));
    assert_eq!(poll(&mut fresh(), b"AOR1\0\x10"), Err(ChannelError::Malformed));
    assert_eq!(poll(&mut fresh(), b"AOR1\xFF\xFF"), Err(ChannelError::Malformed));
    let mut twice = Vec::new();
    for _ in 0..2 {
        twice.extend_from_slice(ASK_KEYS);
        twice.extend([1; NONCE]);
    }
    assert_eq!(poll(&mut fresh(), &twice), Err(ChannelError::Malformed));
    let mut server = fresh();
    assert_eq!(server.handle_bytes(&[b'A'; 600]), REGISTRY_PRE_AUTH_BYTES);
    assert_eq!(server.handle_bytes(b"more"), 0);
    // Anything after an error stays an error.
    let mut server = fresh();
    assert!(poll(&mut server, b"X").is_err());
    assert!(poll(&mut server, b"AOR1").is_err());
}
