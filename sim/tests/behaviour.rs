//! RFC 5780 against the real beacon, from a program on a host behind each preset: the same words
//! as the probe of `nat::classify` has for the boxes alone.

use pilot_core::rng::Rng;
use pilot_core::time::Duration;
use pilot_core::time::Instant;
use pilot_core::wire::stun::{Change, decode_response, encode_request};
use pilot_sim::nat::{Middlebox, Preset, classify};
use pilot_sim::{HostId, Tape, World};
use std::net::{IpAddr, SocketAddr};

/// The endpoint that the beacon saw, and who answered; `None` if nothing came.
fn ask(
    world: &mut World,
    host: HostId,
    port: u16,
    server: SocketAddr,
    change: Change,
) -> Option<(SocketAddr, SocketAddr)> {
    let mut buf = [0; 64];
    let len = encode_request([port as u8; 12], change, &mut buf).expect("it fits");
    world.send(host, port, server, 64, buf[..len].to_vec());
    // Spaced, since the beacon answers ten a second to a source.
    world.run(Duration::from_millis(300));
    let (from, bytes) = world.receive(host, port)?;
    Some((decode_response(&bytes).expect("an answer").mapped, from))
}

/// Mapping and filtering, as `Class` prints them.
fn behaviour(world: &mut World, host: HostId) -> Option<String> {
    let [main, _, other_ip, both] = world.beacon();
    for port in [6000, 6001, 6002] {
        assert!(world.open_socket(host, port));
    }
    let none = Change::default();
    let (first, from) = ask(world, host, 6000, main, none)?;
    assert_eq!(from, main);
    let second = ask(world, host, 6000, other_ip, none)?.0;
    let third = ask(world, host, 6000, both, none)?.0;
    let own = SocketAddr::new(world.local_address(host), 6000);
    let mapping = match (first == own, first == second, second == third) {
        (true, ..) => "identity",
        (_, true, true) => "EIM",
        (_, _, true) => "ADM",
        _ => "APDM",
    };
    let filtering =
        if let Some((_, from)) = ask(world, host, 6001, main, Change { ip: true, port: true }) {
            assert_eq!(from, both);
            "EIF"
        } else if ask(world, host, 6002, main, Change { ip: false, port: true }).is_some() {
            "ADF"
        } else {
            "APDF"
        };
    Some(format!("{mapping} {filtering}"))
}

#[test]
fn the_beacon_sees_of_each_preset_what_the_probe_sees() {
    for &preset in Preset::ALL {
        let mut world = World::new(Tape::from_seed(1));
        let host = world.add_agent(preset);
        world.run(Duration::from_secs(1));
        let outside = IpAddr::from([203, 0, 113, 1]);
        let mut boxes: Vec<Middlebox> = preset
            .boxes(outside)
            .into_iter()
            .map(|config| Middlebox::new(config).expect("a preset"))
            .collect();
        let inside = [192, 168, 0, 2].into();
        let class = classify(&mut boxes, &mut Rng::new([1; 32]), Instant::START, inside);
        let seen = behaviour(&mut world, host);
        match class {
            Some(class) => {
                let seen = seen.unwrap_or_else(|| panic!("{preset}: nothing came"));
                assert!(class.to_string().starts_with(&format!("{seen} ")), "{preset}: {seen}");
            }
            None => assert_eq!(seen, None, "{preset}"),
        }
    }
}

#[test]
fn a_packet_with_a_short_life_dies_where_it_should() {
    let mut world = World::new(Tape::from_seed(1));
    world.set_core_hops(2);
    let (a, b) = (world.add_agent(Preset::FullCone), world.add_agent(Preset::Public));
    assert!(world.open_socket(a, 6000) && world.open_socket(b, 6000));
    assert!(!world.open_socket(a, 6000) && !world.open_socket(a, 4000), "taken");
    let to = SocketAddr::new(world.local_address(b), 6000);
    // One hop at the NAT, two in the core, and it has to be alive afterwards.
    for (ttl, arrives) in [(1, false), (2, false), (3, false), (4, true), (64, true)] {
        world.send(a, 6000, to, ttl, vec![ttl]);
        world.run(Duration::from_secs(1));
        let got = world.receive(b, 6000).map(|(_, bytes)| bytes);
        assert_eq!(got, arrives.then_some(vec![ttl]));
    }
}
