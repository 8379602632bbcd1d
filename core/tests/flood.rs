//! A million hostile packets at a real node, on virtual time: it allocates nothing for them,
//! answers strangers with no more than it was sent, and an honest handshake is through in less
//! than a second.

#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/pair.rs"]
mod pair;
#[path = "support/stolen_facts.rs"]
mod stolen_facts;

use allocations::Counting;
use pair::*;
use pilot_core::crypto::{Identity, TunnelSecret};
use pilot_core::machine::{Ecn, Machine as _, Path};
use pilot_core::node::Event;
use pilot_core::rng::Rng;
use pilot_core::session::handshake::TYPE_COOKIE;
use pilot_core::stats::DropReason;
use pilot_core::time::Duration;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use stolen_facts::Thief;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const VICTIM: usize = 0;
const HONEST: usize = 1;
const THIEVES: usize = 2;
/// Packets of the whole test: 100,000 a second, ten in each step of a world.
const PACKETS: u64 = 1_000_000;
const PER_STEP: u64 = 10;
const STEP: Duration = Duration::from_nanos(100_000);

/// What the flood sends, prepared; the last bytes of some are altered on the way.
struct Flood {
    valid: Vec<Vec<u8>>,
    rng: Rng,
    sent: u64,
    bytes_sent: u64,
    bytes_back: u64,
    buf: Vec<u8>,
}

impl Flood {
    /// INITs of strangers with the right mac1, from ephemeral keys that never come again.
    fn new(thief: &mut Thief) -> Flood {
        let valid = (0..512u32).map(|n| {
            let mut secret = [5; 32];
            secret[..4].copy_from_slice(&n.to_be_bytes());
            let payload = thief.payload();
            thief.init_by(&TunnelSecret::from_secret(secret), &payload).1
        });
        let valid = valid.collect();
        let rng = Rng::new([1; 32]);
        Flood { valid, rng, sent: 0, bytes_sent: 0, bytes_back: 0, buf: vec![0; 2048] }
    }

    /// The next packet into `buf`; its length.
    fn next(&mut self) -> usize {
        let init = &self.valid[(self.sent % 512) as usize];
        let len = init.len();
        self.buf[..len].copy_from_slice(init);
        match self.sent % 8 {
            // With the right mac1: these cost the victim most.
            0..4 => {}
            // With a wrong one.
            4 => self.buf[len - 20] ^= 1,
            // A mac2 that no cookie made.
            5 => self.buf[len - 16..len].copy_from_slice(&self.rng.bytes::<16>()),
            6 => {
                self.buf[..40].copy_from_slice(&self.rng.bytes::<40>());
                self.sent += 1;
                return 40;
            }
            _ => {
                self.buf[..4].copy_from_slice(&[0x80, 1, 2, 3]);
                self.buf[4..12].copy_from_slice(&self.rng.bytes::<8>());
            }
        }
        self.sent += 1;
        len
    }

    /// One step of it, and whatever the victim answers, which goes on its way.
    fn strike(&mut self, world: &mut World, out: &mut [u8]) {
        let now = world.now;
        let own = world.agents[VICTIM].socket;
        for _ in 0..PER_STEP {
            let len = self.next();
            let from = Ipv4Addr::from_bits(self.rng.u32() | 0x0100_0000);
            let path = Path::to(SocketAddr::new(from.into(), 4000));
            self.bytes_sent += len as u64;
            let node = &mut world.agents[VICTIM].node;
            let before = allocations::count();
            let _ = node.handle_datagram(now, path, Ecn::NotEct, &mut self.buf[..len]);
            // Cookies for the flood are drawn one by one; nothing else may have been allocated.
            while let Some(transmit) = node.poll_transmit(now, out, NonZeroUsize::MIN) {
                let to = transmit.path.remote;
                if to.ip() == from {
                    self.bytes_back += transmit.len as u64;
                    continue;
                }
                world.send_udp(own, to, out[..transmit.len].to_vec());
                return;
            }
            assert_eq!(allocations::count(), before, "packet {}", self.sent);
        }
    }
}

#[test]
fn a_million_packets_allocate_nothing_and_the_honest_peer_is_in_within_a_second() {
    let mut world = World::new(1, Link::CLEAN, 3);
    world.register();
    world.trust(VICTIM, HONEST);
    world.trust(VICTIM, THIEVES);
    world.listen(VICTIM, 7);
    world.kill(THIEVES);
    let key = |n: usize| Identity::from_secret(world.agents[n].identity).public();
    let facts: Vec<_> = world.agents[THIEVES].disk.values().cloned().collect();
    let registry = world.agents[THIEVES].node.registry_key().unwrap();
    let mut thief = Thief::of(&facts, &registry, &key(THIEVES), &key(VICTIM), 1 << 50);
    let mut flood = Flood::new(&mut thief);
    let mut out = vec![0; 65_536];
    let mut waits = Vec::new();
    while flood.sent < PACKETS {
        // All sessions are gone; what is there is the flood.
        world.kill(HONEST);
        world.kill(VICTIM);
        world.revive(VICTIM);
        world.listen(VICTIM, 7);
        for _ in 0..5000 {
            world.run(STEP);
            flood.strike(&mut world, &mut out);
        }
        world.revive(HONEST);
        world.wire = Some(Vec::new());
        let begin = world.now;
        let mut stream = None;
        for _ in 0..15_000 {
            world.run(STEP);
            flood.strike(&mut world, &mut out);
            if stream.is_none() && world.agents[HONEST].node.address().is_some() {
                stream = Some((world.now, world.connect(HONEST, VICTIM, 7)));
            }
            if let Some((since, id)) = stream
                && world.saw(HONEST, Event::StreamOpened(id))
            {
                waits.push(world.now.since(since));
                break;
            }
        }
        assert!(stream.is_some() && world.now.since(begin) < Duration::from_millis(1490));
        let (own, honest) = (world.agents[VICTIM].socket, world.agents[HONEST].socket);
        let cookie = |(from, to, bytes): &(_, _, Vec<u8>)| {
            (*from, *to) == (own, honest) && bytes[0] == TYPE_COOKIE
        };
        assert!(world.wire.take().unwrap().iter().any(cookie), "it had to show a cookie");
        println!("{} packets, honest stream open after {:?}", flood.sent, waits.last());
    }
    let worst = waits.iter().max().expect("somebody honest was there");
    let drops = world.agents[VICTIM].node.drops();
    println!(
        "{} packets of {} bytes, {} bytes back; {drops:?}",
        flood.sent, flood.bytes_sent, flood.bytes_back
    );
    assert!(*worst < secs(1), "{waits:?}");
    assert!(
        flood.bytes_back * 4 < flood.bytes_sent,
        "{} of {}",
        flood.bytes_back,
        flood.bytes_sent
    );
    for reason in [DropReason::Mac, DropReason::UnknownIndex, DropReason::UnknownType] {
        assert!(drops.get(reason) > 0, "{drops:?}");
    }
}
