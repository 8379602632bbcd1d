//! How soon the first byte of an application is there (`docs/nat.md` 2): over the relay, without
//! waiting for any better path.

use pilot_core::node::CommandError;
use pilot_core::time::Duration;
use pilot_sim::nat::Preset;
use pilot_sim::{HostId, LinkConfig, Span, Tape, TransferId, World};

/// Between a host and the core, one way.
const ACCESS: u64 = 40;
/// Between the core and the rendezvous.
const SERVER: u64 = 5;
/// From host to host over the relay and back; each end's own network adds less than a millisecond.
const RELAYED_RTT: Duration = Duration::from_millis(4 * (ACCESS + SERVER) + 2);

fn seeds() -> u64 {
    std::env::var("FIRST_BYTE_SEEDS").map_or(5, |n| n.parse().expect("a number"))
}

/// Two agents that trust each other and have no session.
fn strangers(seed: u64, from: Preset, to: Preset) -> (World, HostId, HostId) {
    let mut world = World::new(Tape::from_seed(seed));
    world.set_again(format!("{from} to {to}, seed {seed}"));
    let (a, b) = (world.add_agent(from), world.add_agent(to));
    for host in [a, b] {
        world.set_link(host, LinkConfig { delay: Span::millis(ACCESS), ..LinkConfig::default() });
    }
    world.register();
    world.trust(a, b);
    (world, a, b)
}

fn arrives(world: &mut World, id: TransferId) {
    world.run_until(Duration::from_secs(30), |world| world.first_byte(id).is_some());
}

/// All pairs of the seven kinds, in both directions.
fn each(mut test: impl FnMut(u64, Preset, Preset) -> Duration) -> Duration {
    let pairs = Preset::SEVEN.into_iter().flat_map(|a| Preset::SEVEN.map(|b| (a, b)));
    pairs
        .flat_map(|pair| (1..=seeds()).map(move |seed| (pair, seed)))
        .map(|((from, to), seed)| test(seed, from, to))
        .max()
        .expect("there are pairs")
}

/// Beacon session and record are there: the handshake of the tunnel, and half a round trip.
#[test]
fn the_first_byte_is_there_within_two_relayed_round_trips() {
    let worst = each(|seed, from, to| {
        let (mut world, a, b) = strangers(seed, from, to);
        world.run(Duration::from_secs(1));
        let id = world.start_transfer(a, b, 100).expect("they trust each other");
        arrives(&mut world, id);
        let took = world.first_byte(id).expect("it has arrived");
        assert!(took <= RELAYED_RTT * 2, "{from} to {to}, seed {seed}: {took:?}");
        took
    });
    println!("{worst:?} of {:?}", RELAYED_RTT * 2);
}

/// A process that has just started knows nothing but its disk: it dials the registry, is admitted,
/// asks for the record and joins the beacon, all before the handshake.
#[test]
fn the_first_byte_of_a_process_that_has_just_started_is_there_within_five() {
    let worst = each(|seed, from, to| {
        let (mut world, a, b) = strangers(seed, from, to);
        world.crash(a);
        // Nobody remembers the connections of the process before.
        world.run(Duration::from_secs(180));
        let begun = world.elapsed();
        world.restart(a);
        let id = loop {
            match world.start_transfer(a, b, 100) {
                Ok(id) => break id,
                Err(CommandError::NotRegistered) => world.run(Duration::from_millis(1)),
                Err(error) => panic!("{from} to {to}, seed {seed}: {error}"),
            }
        };
        arrives(&mut world, id);
        let took = world.elapsed() - begun;
        assert!(took <= RELAYED_RTT * 5, "{from} to {to}, seed {seed}: {took:?}");
        took
    });
    println!("{worst:?} of {:?}", RELAYED_RTT * 5);
}
