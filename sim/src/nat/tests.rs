//! Each semantic that is easy to get wrong, and what must hold of any NAT.

use super::*;
use crate::span::Span;
use pilot_core::rng::Rng;
use pilot_core::time::Duration;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an endpoint")
}

/// A NAT, its time and its chance.
struct Lab {
    nat: Nat,
    now: Instant,
    random: Rng,
}

impl Lab {
    fn new(config: NatConfig) -> Lab {
        let nat = Nat::new(config).expect("a NAT");
        Lab { nat, now: Instant::START, random: Rng::new([1; 32]) }
    }

    fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    fn out(&mut self, from: &str, to: &str) -> Verdict {
        let packet = Packet::new(at(from), at(to));
        self.nat.handle_outbound(self.now, &mut self.random, packet)
    }

    /// The external endpoint.
    fn sends(&mut self, from: &str, to: &str) -> SocketAddr {
        self.out(from, to).forwarded().expect("it is translated").source
    }

    fn receives(&mut self, from: &str, to: SocketAddr) -> Verdict {
        let packet = Packet::new(at(from), to);
        self.nat.handle_inbound(self.now, &mut self.random, packet)
    }

    fn hears(&mut self, from: &str, to: SocketAddr) -> bool {
        self.receives(from, to).forwarded().is_some()
    }
}

fn home() -> NatConfig {
    NatConfig::port_restricted(OUTSIDE)
}

const A: &str = "10.0.0.2:4000";
const B: &str = "10.0.0.3:4000";
const X: &str = "198.51.100.1:1000";
const X2: &str = "198.51.100.1:1001";
const Y: &str = "198.51.100.2:1000";

#[test]
fn mapping_depends_on_what_its_kind_says() {
    for (mapping, shared) in [
        (Mapping::EndpointIndependent, [true, true]),
        (Mapping::AddressDependent, [true, false]),
        (Mapping::AddressAndPortDependent, [false, false]),
    ] {
        let mut lab = Lab::new(NatConfig { mapping, allocation: Allocation::Random, ..home() });
        let first = lab.sends(A, X);
        assert_eq!(lab.sends(A, X), first);
        assert_eq!([lab.sends(A, X2) == first, lab.sends(A, Y) == first], shared, "{mapping:?}");
        assert_ne!(lab.sends(B, X), first);
    }
}

#[test]
fn filtering_depends_on_what_its_kind_says() {
    for (filtering, admits) in [
        (Filtering::EndpointIndependent, [true, true]),
        (Filtering::AddressDependent, [true, false]),
        (Filtering::AddressAndPortDependent, [false, false]),
    ] {
        let mut lab = Lab::new(NatConfig { filtering, ..home() });
        let seen = lab.sends(A, X);
        assert!(lab.hears(X, seen));
        assert_eq!([lab.hears(X2, seen), lab.hears(Y, seen)], admits, "{filtering:?}");
        let unmapped = SocketAddr::new(OUTSIDE, 9);
        assert_eq!(lab.receives(X, unmapped), Verdict::Drop(Blocked::NoMapping));
    }
}

#[test]
fn filter_entries_belong_to_the_mapping() {
    let (mapping, filtering) = (Mapping::AddressAndPortDependent, Filtering::AddressDependent);
    let mut lab =
        Lab::new(NatConfig { mapping, filtering, allocation: Allocation::Random, ..home() });
    let (to_x, to_y) = (lab.sends(A, X), lab.sends(A, Y));
    assert!(lab.hears(X2, to_x) && lab.hears(Y, to_y));
    assert_eq!(lab.receives(Y, to_x), Verdict::Drop(Blocked::Filtered));
    assert_eq!(lab.receives(X, to_y), Verdict::Drop(Blocked::Filtered));
}

#[test]
fn inbound_packets_refresh_only_where_they_do() {
    for (refresh, lives) in [(Refresh::Both, true), (Refresh::OutboundOnly, false)] {
        let (life, life_unreplied) = (Span::secs(3), Span::secs(3));
        let mut lab = Lab::new(NatConfig { refresh, life, life_unreplied, ..home() });
        let seen = lab.sends(A, X);
        let mut heard = true;
        for _ in 0..8 {
            lab.wait(1100);
            heard = lab.hears(X, seen);
        }
        assert_eq!(heard, lives, "{refresh:?}");
    }
}

#[test]
fn an_unanswered_mapping_has_a_life_of_its_own() {
    let mut lab = Lab::new(home());
    let silent = lab.sends(A, X);
    lab.wait(29_000);
    assert!(lab.hears(X, silent));
    lab.wait(119_000);
    assert!(lab.hears(X, silent));
    let silent = lab.sends(B, X);
    lab.wait(30_000);
    assert_eq!(lab.receives(X, silent), Verdict::Drop(Blocked::NoMapping));
    lab.wait(200_000);
    lab.sends(B, Y);
    assert_eq!(lab.nat.stats().mappings, 1);
}

#[test]
fn nothing_keeps_a_mapping_beyond_its_absolute_life() {
    let absolute_life = Some(Span::secs(60));
    let random = Allocation::Random;
    let mut lab = Lab::new(NatConfig { absolute_life, allocation: random, ..home() });
    let seen = lab.sends(A, X);
    for _ in 0..5 {
        lab.wait(10_000);
        assert_eq!(lab.sends(A, X), seen);
        assert!(lab.hears(X, seen));
    }
    lab.wait(10_000);
    assert_ne!(lab.sends(A, X), seen);
    assert!(!lab.hears(X, seen));
}

#[test]
fn a_filter_entry_may_end_before_its_mapping() {
    let filter_life = FilterLife::Own(Span::secs(5));
    let mut lab = Lab::new(NatConfig { filter_life, ..home() });
    let seen = lab.sends(A, X);
    lab.wait(4000);
    lab.sends(A, Y);
    assert!(lab.hears(X, seen), "refreshed from outside");
    lab.wait(4900);
    assert!(lab.hears(X, seen));
    assert!(lab.hears(Y, seen));
    lab.wait(5000);
    assert!(!lab.hears(X, seen));
    assert_eq!(lab.sends(A, X), seen, "the mapping is the same");
    assert!(lab.hears(X, seen));
}

#[test]
fn what_a_preserving_nat_does_on_a_clash() {
    for (on_clash, expected) in [(OnClash::Next, Some(4001)), (OnClash::Overload, Some(4000))] {
        let allocation = Allocation::Preserve { on_clash };
        let mut lab = Lab::new(NatConfig { allocation, ..home() });
        assert_eq!(lab.sends(A, X).port(), 4000);
        assert_eq!(Some(lab.sends(B, Y).port()), expected);
        assert!(lab.hears(X, SocketAddr::new(OUTSIDE, 4000)));
    }
    let mut lab = Lab::new(home());
    lab.sends(A, X);
    let other = lab.sends(B, X);
    assert_ne!(other.port(), 4000);
    assert_eq!(lab.sends(B, Y), other, "endpoint-independent for the host that lost, too");
}

#[test]
fn an_overloaded_port_tells_hosts_apart_by_remote() {
    let allocation = Allocation::Preserve { on_clash: OnClash::Overload };
    let mut lab = Lab::new(NatConfig { allocation, ..home() });
    let (a, b) = (lab.sends(A, X), lab.sends(B, Y));
    assert_eq!(a, b);
    let inside = |v: Verdict| v.forwarded().map(|p| p.destination);
    assert_eq!(inside(lab.receives(X, a)), Some(at(A)));
    assert_eq!(inside(lab.receives(Y, a)), Some(at(B)));
    lab.wait(1);
    lab.sends(B, X);
    assert_eq!(inside(lab.receives(X, a)), Some(at(B)), "the latest sender has it");
}

#[test]
fn sequential_ports_step_wrap_and_leave_room_for_others() {
    let config = |step, noise| NatConfig {
        mapping: Mapping::AddressAndPortDependent,
        allocation: Allocation::Sequential { step, noise },
        range: (5000, 5009),
        ..home()
    };
    let mut lab = Lab::new(config(3, 0));
    let ports: Vec<u16> =
        (0..10).map(|n| lab.sends(A, &format!("198.51.100.1:{}", 100 + n)).port()).collect();
    assert_eq!(ports, [5000, 5003, 5006, 5009, 5002, 5005, 5008, 5001, 5004, 5007]);
    assert_eq!(lab.out(A, Y), Verdict::Drop(Blocked::Exhausted));
    let mut lab = Lab::new(config(-1, 0));
    assert_eq!([lab.sends(A, X).port(), lab.sends(A, Y).port()], [5000, 5009]);

    let noisy = NatConfig { range: (1024, 65_535), ..config(1, 500) };
    let mut lab = Lab::new(noisy);
    let ports: Vec<u16> =
        (0..400).map(|n| lab.sends(A, &format!("198.51.100.1:{}", 100 + n)).port()).collect();
    let taken = f64::from(ports[399] - ports[0]) / 399.0;
    assert!((1.7..2.3).contains(&taken), "{taken} ports for each of ours");
}

#[test]
fn a_block_is_all_that_a_host_gets() {
    let config = NatConfig {
        mapping: Mapping::AddressAndPortDependent,
        allocation: Allocation::Block { size: 4, per_host: true },
        range: (1024, 1031),
        ..home()
    };
    let mut lab = Lab::new(config.clone());
    let of = |lab: &mut Lab, host: &str| -> Vec<u16> {
        let mut ports: Vec<u16> =
            (0..4).map(|n| lab.sends(host, &format!("198.51.100.1:{}", 100 + n)).port()).collect();
        ports.sort_unstable();
        ports
    };
    assert_eq!(of(&mut lab, A), [1024, 1025, 1026, 1027]);
    assert_eq!(of(&mut lab, B), [1028, 1029, 1030, 1031]);
    assert_eq!(lab.out(A, Y), Verdict::Drop(Blocked::Exhausted));
    assert_eq!(lab.out("10.0.0.4:4000", Y), Verdict::Drop(Blocked::Exhausted));
    lab.wait(31_000);
    assert!((1024..1032).contains(&lab.sends("10.0.0.4:4000", Y).port()), "an idle host's block");

    // Destinations that share ports: four to each of them, and no more.
    let mut lab = Lab::new(NatConfig { reuse: PortReuse::PerDestination, ..config });
    for to in 100..140 {
        assert!((1024..1028).contains(&lab.sends(A, &format!("198.51.100.1:{to}")).port()));
    }
    for port in 4001..4004 {
        lab.sends(&format!("10.0.0.2:{port}"), "198.51.100.1:100");
    }
    let fifth = lab.out("10.0.0.2:4004", "198.51.100.1:100");
    assert_eq!(fifth, Verdict::Drop(Blocked::Exhausted));
}

#[test]
fn hosts_are_paired_with_an_address_or_not() {
    let pool: Vec<IpAddr> = (1..=4).map(|n| IpAddr::V4(Ipv4Addr::new(203, 0, 113, n))).collect();
    for (pairing, most) in [(Pairing::Paired, 1), (Pairing::Arbitrary, 4)] {
        let mapping = Mapping::AddressAndPortDependent;
        let mut lab = Lab::new(NatConfig { pool: pool.clone(), pairing, mapping, ..home() });
        let mut seen = BTreeMap::new();
        for n in 0..64 {
            *seen.entry(lab.sends(A, &format!("198.51.100.1:{}", 100 + n)).ip()).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), most, "{pairing:?}");
    }
}

#[test]
fn limits_drop_or_evict() {
    let apdm = NatConfig { mapping: Mapping::AddressAndPortDependent, ..home() };
    let mut lab = Lab::new(NatConfig { max_per_host: 2, ..apdm.clone() });
    lab.sends(A, X);
    lab.sends(A, X2);
    assert_eq!(lab.out(A, Y), Verdict::Drop(Blocked::Exhausted));
    lab.sends(B, Y);
    let mut lab = Lab::new(NatConfig { max_total: 2, on_full: OnFull::EvictOldest, ..apdm });
    let first = lab.sends(A, X);
    lab.wait(1);
    let second = lab.sends(B, X);
    lab.wait(1);
    lab.sends(A, X);
    lab.sends(A, Y);
    assert!(lab.hears(X, first));
    assert!(!lab.hears(X, second), "used least recently");
    assert_eq!(lab.nat.stats().mappings, 2);
}

#[test]
fn an_endpoint_rests_after_its_mapping() {
    let mut lab = Lab::new(NatConfig { hold_down: Span::secs(65), ..home() });
    assert_eq!(lab.sends(A, X).port(), 4000);
    lab.wait(30_000);
    lab.wait(64_000);
    assert_ne!(lab.sends(B, X).port(), 4000);
    assert_eq!(lab.nat.stats().held, 1);
    lab.wait(1000);
    assert_eq!(lab.sends("10.0.0.4:4000", X).port(), 4000);
    assert_eq!(lab.nat.stats().held, 0);
}

#[test]
fn hairpins_show_the_source_they_should() {
    for hairpin in [Hairpin::None, Hairpin::InternalSource, Hairpin::ExternalSource] {
        let filtering = Filtering::EndpointIndependent;
        let mut lab = Lab::new(NatConfig { hairpin, filtering, ..home() });
        let target = lab.sends(A, X);
        let own = lab.sends("10.0.0.3:5000", X);
        let packet = Packet::new(at("10.0.0.3:5000"), target);
        let verdict = lab.nat.handle_outbound(lab.now, &mut lab.random, packet);
        let turned =
            |source| Verdict::Hairpin(Packet { source, destination: at(A), ttl: packet.ttl - 1 });
        assert_eq!(
            verdict,
            match hairpin {
                Hairpin::None => Verdict::Drop(Blocked::Hairpin),
                Hairpin::InternalSource => turned(packet.source),
                Hairpin::ExternalSource => turned(own),
            }
        );
    }
}

#[test]
fn an_unsolicited_packet_takes_the_tuple_where_it_is_tracked() {
    for (unsolicited, poisoned) in [(Unsolicited::Drop, false), (Unsolicited::Track, true)] {
        let mut lab = Lab::new(NatConfig { unsolicited, ..home() });
        let seen = lab.sends(A, X);
        assert_eq!(lab.receives(Y, seen), Verdict::Drop(Blocked::Filtered));
        let moved = lab.sends(A, Y);
        assert_eq!(moved != seen, poisoned, "{unsolicited:?}");
        assert_eq!(lab.sends(A, X), seen, "others are not concerned");
        // Both keep trying: it does not heal.
        for _ in 0..20 {
            lab.wait(5000);
            assert_eq!(lab.sends(A, Y), moved);
            assert_eq!(lab.hears(Y, seen), !poisoned);
            assert_eq!(lab.sends(A, X), seen);
        }
    }
}

#[test]
fn who_sends_first_is_not_poisoned_not_even_with_a_packet_that_dies_on_the_way() {
    let mut lab = Lab::new(NatConfig { unsolicited: Unsolicited::Track, ..home() });
    let seen = lab.sends(A, X);
    let primer = Packet { ttl: 2, ..Packet::new(at(A), at(Y)) };
    let sent = lab.nat.handle_outbound(lab.now, &mut lab.random, primer).forwarded();
    let sent = sent.expect("it survives its own NAT");
    assert_eq!((sent.source, sent.hop()), (seen, None), "and dies at the next hop");
    assert!(lab.hears(Y, seen));
    assert_eq!(lab.sends(A, Y), seen);
}

#[test]
fn a_packet_that_dies_at_the_nat_leaves_no_trace() {
    let mut lab = Lab::new(home());
    let dying = Packet { ttl: 1, ..Packet::new(at(A), at(X)) };
    let verdict = lab.nat.handle_outbound(lab.now, &mut lab.random, dying);
    assert_eq!(verdict, Verdict::Drop(Blocked::Ttl));
    assert_eq!(lab.nat.stats(), NatStats::default());
    let seen = lab.sends(A, X);
    lab.wait(29_000);
    let dying = Packet { ttl: 1, ..Packet::new(at(X), seen) };
    let verdict = lab.nat.handle_inbound(lab.now, &mut lab.random, dying);
    assert_eq!(verdict, Verdict::Drop(Blocked::Ttl));
    lab.wait(1000);
    assert!(!lab.hears(X, seen), "it has refreshed nothing");
}

#[test]
fn a_reboot_keeps_a_preserved_port_and_changes_a_random_one() {
    for (allocation, same) in [(home().allocation, true), (Allocation::Random, false)] {
        let mut lab = Lab::new(NatConfig { allocation, ..home() });
        let seen = lab.sends(A, X);
        lab.nat.handle_reboot();
        assert!(!lab.hears(X, seen));
        assert_eq!(lab.sends(A, X) == seen, same, "{allocation:?}");
    }
}

#[test]
fn a_renumbered_nat_forgets_or_keeps_the_old_source() {
    let new = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77));
    for (stale, ip) in [(StaleFlows::Drop, new), (StaleFlows::KeepOldSource, OUTSIDE)] {
        let mut lab = Lab::new(home());
        lab.sends(A, X);
        lab.nat.handle_renumber(vec![new], stale).expect("an address");
        assert_eq!(lab.sends(A, X).ip(), ip, "{stale:?}");
        assert_eq!(lab.sends(B, X).ip(), new);
    }
    let mut lab = Lab::new(home());
    assert_eq!(lab.nat.handle_renumber(vec![], StaleFlows::Drop), Err(ConfigError::Pool));
    lab.nat.set_allocation(Allocation::Sequential { step: 1, noise: 0 }).expect("it fits");
    assert_eq!([lab.sends(A, X).port(), lab.sends(B, X).port()], [1024, 1025]);
}

#[test]
fn blocked_udp_and_another_family_do_not_pass() {
    let mut lab = Lab::new(NatConfig { udp: Udp::Block, ..home() });
    assert_eq!(lab.out(A, X), Verdict::Drop(Blocked::Udp));
    let mut lab = Lab::new(home());
    assert_eq!(lab.out("[fd00::1]:1", "[2001:db8::1]:2"), Verdict::Drop(Blocked::Family));
}

#[test]
fn a_firewall_lets_in_what_answers() {
    let config = FirewallConfig { open: vec![7777], max_flows: 2, ..FirewallConfig::default() };
    let mut wall = Firewall::new(config);
    let mut now = Instant::START;
    let (host, x, y) = (at("203.0.113.9:4000"), at(X), at(Y));
    assert_eq!(wall.handle_inbound(now, Packet::new(x, host)), Verdict::Drop(Blocked::Filtered));
    let sent = wall.handle_outbound(now, Packet::new(host, x)).forwarded().expect("it passes");
    assert_eq!((sent.source, sent.ttl), (host, TTL - 1));
    assert!(wall.handle_inbound(now, Packet::new(x, host)).forwarded().is_some());
    assert!(wall.handle_inbound(now, Packet::new(y, host)).forwarded().is_none());
    assert!(wall.handle_inbound(now, Packet::new(y, at("203.0.113.9:7777"))).forwarded().is_some());
    assert!(wall.handle_outbound(now, Packet::new(host, y)).forwarded().is_some());
    let third = Packet::new(host, at(X2));
    assert_eq!(wall.handle_outbound(now, third), Verdict::Drop(Blocked::Exhausted));
    now += Duration::from_secs(31);
    assert!(wall.handle_outbound(now, third).forwarded().is_some(), "an ended flow gives way");
    now += Duration::from_secs(100);
    assert!(wall.handle_inbound(now, Packet::new(x, host)).forwarded().is_none(), "120 s are over");
}

#[test]
fn configurations_that_describe_no_nat_are_refused() {
    let bad = [
        (NatConfig { pool: vec![], ..home() }, ConfigError::Pool),
        (NatConfig { pool: vec![OUTSIDE, "::1".parse().unwrap()], ..home() }, ConfigError::Pool),
        (NatConfig { range: (9, 8), ..home() }, ConfigError::Range),
        (NatConfig { range: (0, 8), ..home() }, ConfigError::Range),
        (
            NatConfig { allocation: Allocation::Sequential { step: 0, noise: 0 }, ..home() },
            ConfigError::Sequential,
        ),
        (
            NatConfig {
                range: (1, 5),
                allocation: Allocation::Block { size: 6, per_host: false },
                ..home()
            },
            ConfigError::Block,
        ),
        (NatConfig { max_total: 0, ..home() }, ConfigError::Limit),
        (NatConfig { life: Span::secs(0), ..home() }, ConfigError::Life),
    ];
    for (config, error) in bad {
        assert_eq!(Nat::new(config).map(|_| ()), Err(error));
    }
}

/// The acceptance test: what each preset is called, by a probe that does not know it.
#[test]
fn the_probe_names_every_preset() {
    let expected = [
        (Preset::Public, "identity EIF preserving", "public"),
        (Preset::Firewall, "identity APDF preserving", "firewall"),
        (Preset::FullCone, "EIM EIF preserving", "full cone"),
        (Preset::FullConeHairpin, "EIM EIF preserving, hairpins", "full cone"),
        (Preset::Restricted, "EIM ADF preserving", "restricted cone"),
        (Preset::PortRestricted, "EIM APDF preserving", "port-restricted cone"),
        (Preset::SymSeq, "APDM APDF sequential +1", "symmetric"),
        (Preset::SymRandom, "APDM APDF random", "symmetric"),
        (Preset::Adm, "ADM APDF random", "symmetric"),
        (Preset::Leaky, "EIM APDF preserving, poisonable", "port-restricted cone"),
        (Preset::ThirtySeconds, "EIM APDF preserving", "port-restricted cone"),
        (Preset::Aws, "APDM APDF random", "symmetric"),
        (Preset::Gcp, "APDM APDF block of 64", "symmetric"),
        (Preset::GcpEim, "EIM APDF block of 64", "port-restricted cone"),
        (Preset::Azure, "APDM APDF random", "symmetric"),
        (Preset::Ec2Sg, "EIM APDF preserving", "port-restricted cone"),
        (Preset::Eks, "APDM APDF random", "symmetric"),
        (Preset::Cgnat, "EIM APDF block of 1024", "port-restricted cone"),
    ];
    assert_eq!(expected.len() + 1, Preset::ALL.len(), "all but the one that lets nothing through");
    for seed in 0..20 {
        let probe = |preset: Preset| {
            let boxes = preset.boxes(OUTSIDE).into_iter();
            let mut path: Vec<Middlebox> =
                boxes.map(|config| Middlebox::new(config).expect("a preset")).collect();
            let host = Ipv4Addr::new(192, 168, 0, 2);
            classify(&mut path, &mut Rng::new([seed; 32]), Instant::START, host)
        };
        for (preset, text, name) in expected {
            let class = probe(preset).expect("it lets UDP through");
            assert_eq!((class.to_string().as_str(), class.name()), (text, name), "{preset}");
        }
        assert_eq!(probe(Preset::UdpBlocked), None);
    }
}

fn any_config() -> impl Strategy<Value = NatConfig> {
    let mapping = prop_oneof![
        Just(Mapping::EndpointIndependent),
        Just(Mapping::AddressDependent),
        Just(Mapping::AddressAndPortDependent)
    ];
    let filtering = prop_oneof![
        Just(Filtering::EndpointIndependent),
        Just(Filtering::AddressDependent),
        Just(Filtering::AddressAndPortDependent)
    ];
    let allocation = prop_oneof![
        Just(Allocation::Preserve { on_clash: OnClash::Random }),
        Just(Allocation::Preserve { on_clash: OnClash::Next }),
        Just(Allocation::Sequential { step: 1, noise: 300 }),
        Just(Allocation::Random),
        Just(Allocation::Block { size: 8, per_host: true }),
    ];
    let more = (1..12u32, 1..12u32, any::<[bool; 5]>(), 0..20u64);
    (mapping, filtering, allocation, more).prop_map(
        |(mapping, filtering, allocation, (per_host, total, flags, hold))| NatConfig {
            range: (2000, 2031),
            max_per_host: per_host,
            max_total: total,
            on_full: if flags[0] { OnFull::Drop } else { OnFull::EvictOldest },
            refresh: if flags[1] { Refresh::Both } else { Refresh::OutboundOnly },
            unsolicited: if flags[2] { Unsolicited::Drop } else { Unsolicited::Track },
            absolute_life: flags[3].then_some(Span::secs(40)),
            filter_life: if flags[4] {
                FilterLife::SameAsMapping
            } else {
                FilterLife::Own(Span::secs(10))
            },
            hold_down: Span::secs(hold),
            ..NatConfig::new(mapping, filtering, allocation, OUTSIDE)
        },
    )
}

proptest! {
    /// Whatever comes and goes: the tables stay within their limits; no two inside endpoints have
    /// the same external one; what is let in was asked for by its receiver, from that endpoint.
    #[test]
    fn any_nat_keeps_its_limits_and_lets_in_only_what_was_asked_for(
        config in any_config(),
        steps in prop::collection::vec((0..3u8, 0..4u8, 0..3u16, 0..4u8, 0..2u16, 0..8000u64), 1..120),
    ) {
        let mut lab = Lab::new(config.clone());
        // Who has sent by which external endpoint to which remote, ever; who had it last.
        let mut asked = std::collections::BTreeSet::new();
        let mut owner: BTreeMap<SocketAddr, (SocketAddr, Instant)> = BTreeMap::new();
        for (kind, host, port, server, remote_port, wait) in steps {
            lab.wait(wait);
            let inside = SocketAddr::from(([10, 0, 0, host], 2000 + port));
            let remote = SocketAddr::from(([198, 51, 100, server], 1000 + remote_port));
            if kind < 2 {
                let verdict =
                    lab.nat.handle_outbound(lab.now, &mut lab.random, Packet::new(inside, remote));
                if let Some(sent) = verdict.forwarded() {
                    let external = sent.source;
                    prop_assert_eq!(sent.destination, remote);
                    prop_assert!((2000..=2031).contains(&external.port()));
                    asked.insert((external, inside, remote));
                    owner.insert(external, (inside, lab.now));
                }
            } else {
                let external = SocketAddr::new(OUTSIDE, 2000 + port + 8 * u16::from(host % 4));
                let packet = Packet::new(remote, external);
                let verdict = lab.nat.handle_inbound(lab.now, &mut lab.random, packet);
                if let Some(received) = verdict.forwarded() {
                    let to = received.destination;
                    prop_assert_eq!(owner.get(&external).map(|(inside, _)| *inside), Some(to));
                    let known = |of: &dyn Fn(SocketAddr) -> bool| {
                        asked.iter().any(|(e, i, r)| (*e, *i) == (external, to) && of(*r))
                    };
                    let fine = match config.filtering {
                        Filtering::EndpointIndependent => known(&|_| true),
                        Filtering::AddressDependent => known(&|r| r.ip() == remote.ip()),
                        Filtering::AddressAndPortDependent => known(&|r| r == remote),
                    };
                    prop_assert!(fine, "{} got in to {}", remote, to);
                }
            }
            let stats = lab.nat.stats();
            prop_assert!(stats.mappings <= config.max_total as usize);
            prop_assert!(stats.tracked <= config.max_total as usize);
            prop_assert!(stats.held <= 32);
        }
    }
}
