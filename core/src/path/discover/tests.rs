//! The machine against a NAT in a few lines, all answers at once or never.

use super::run::MAIN;
use super::*;
use crate::path::nat::Classical;
use crate::path::nat::{Allocation, Filtering};
use std::collections::BTreeMap;
use std::vec::Vec;

const BEACON: SocketAddr = addr([203, 0, 113, 1], 9001);
const OTHERS: [SocketAddr; 3] =
    [addr([203, 0, 113, 1], 9002), addr([203, 0, 113, 2], 9001), addr([203, 0, 113, 2], 9002)];
const LOCAL: SocketAddr = addr([192, 168, 0, 2], 4000);
const OUTSIDE: [u8; 4] = [198, 51, 100, 7];

const fn addr(ip: [u8; 4], port: u16) -> SocketAddr {
    let [a, b, c, d] = ip;
    SocketAddr::new(core::net::IpAddr::V4(core::net::Ipv4Addr::new(a, b, c, d)), port)
}

fn at(ms: u64) -> Instant {
    Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
}

/// What a NAT is, for one host.
struct Toy {
    mapping: Mapping,
    filtering: Filtering,
    /// The port of the n-th mapping of a socket.
    port: fn(socket: u16, nth: u16) -> u16,
    outside: [u8; 4],
    mappings: BTreeMap<(u16, Option<SocketAddr>), u16>,
}

impl Toy {
    fn new(mapping: Mapping, filtering: Filtering, port: fn(u16, u16) -> u16) -> Self {
        Toy { mapping, filtering, port, outside: OUTSIDE, mappings: BTreeMap::new() }
    }

    fn answer(&mut self, ask: &Ask<Test>) -> Option<Mapped> {
        let (ip, port) = (ask.to.ip(), ask.to.port());
        let key = match self.mapping {
            Mapping::AddressDependent => Some(SocketAddr::new(ip, 0)),
            Mapping::AddressAndPortDependent => Some(SocketAddr::new(ip, port)),
            _ => None,
        };
        let nth = self.mappings.len() as u16;
        let socket = ask.socket.0;
        let port = *self.mappings.entry((socket, key)).or_insert_with(|| (self.port)(socket, nth));
        let passes = match self.filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => ask.from.ip() == ip,
            _ => ask.from == ask.to,
        };
        let observed = addr(self.outside, port);
        passes.then_some(Mapped { observed, origin: None, other: None })
    }
}

/// The time of the machine's world.
struct Bench {
    discover: Discover,
    rng: Rng,
    now: u64,
    asked: Vec<(u64, Ask<Test>)>,
    sockets: u16,
    closed: usize,
    /// When questions without an answer fail.
    late: Vec<(u64, Test)>,
}

impl Bench {
    fn new() -> Self {
        let (discover, rng) = (Discover::default(), Rng::new([3; 32]));
        Bench { discover, rng, now: 0, asked: Vec::new(), sockets: 0, closed: 0, late: Vec::new() }
    }

    fn server(&mut self, alternates: Option<[SocketAddr; 3]>, observed: SocketAddr) {
        let observed = Some(observed);
        let server = Server { address: Some(BEACON), alternates, is_up: true, observed };
        self.discover.set_server(at(self.now), server);
    }

    /// Lets the machine do what it wants until nothing is left within the span.
    fn run(&mut self, ms: u64, mut answer: impl FnMut(&Ask<Test>) -> Option<Mapped>) {
        let end = self.now + ms;
        loop {
            while let Some(wish) = self.discover.poll(at(self.now), &mut self.rng) {
                match wish {
                    Wish::Open => {
                        self.sockets += 1;
                        self.discover.set_socket(Some(SocketId(self.sockets)));
                    }
                    Wish::Close => {
                        self.late.clear();
                        self.closed += 1;
                    }
                    Wish::Ask(ask) => {
                        self.asked.push((self.now, ask));
                        match answer(&ask) {
                            Some(mapped) => {
                                let test = ask.purpose;
                                self.discover.handle_answer(test, Some(&mapped), &[LOCAL]);
                            }
                            None => self.late.push((self.now + 2000, ask.purpose)),
                        }
                    }
                }
            }
            let due = self.discover.next_at().map(|at| (at.as_nanos() - 1_000_000_000) / 1_000_000);
            let fails = self.late.iter().map(|(at, _)| *at).min();
            // The machine's times are rounded down here, so a millisecond more.
            let next = due.map(|at| (at + 1).max(self.now)).into_iter().chain(fails).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = next;
            if let Some(n) = self.late.iter().position(|(at, _)| *at <= self.now) {
                let (_, test) = self.late.remove(n);
                self.discover.handle_answer(test, None, &[LOCAL]);
            }
        }
    }

    fn classical(&self) -> Classical {
        let found = self.discover.found();
        Classical::new(found.nat, found.is_translated)
    }
}

/// What is found behind that NAT; also that the questions kept to the rate.
fn measured(mut toy: Toy, alternates: Option<[SocketAddr; 3]>) -> (Found, Classical) {
    let mut bench = Bench::new();
    bench.server(alternates, addr(toy.outside, (toy.port)(0, 0)));
    bench.run(20_000, |ask| toy.answer(ask));
    assert!(bench.asked.len() <= 18, "{}", bench.asked.len());
    for pair in bench.asked.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= 200, "five a second: {pair:?}");
    }
    let filters = bench.asked.iter().filter(|(_, ask)| !ask.change.is_none());
    for (_, tested) in filters {
        let others = |ask: &&(u64, Ask<Test>)| ask.1.socket == tested.socket && ask.1.to != BEACON;
        assert_eq!(bench.asked.iter().find(others), None, "its filters are open");
    }
    assert_eq!(bench.closed, 1);
    assert!(bench.discover.measured_at().is_some());
    (*bench.discover.found(), bench.classical())
}

fn preserving(socket: u16, _: u16) -> u16 {
    4000 + socket
}

fn scattered(_: u16, nth: u16) -> u16 {
    (nth + 7).wrapping_mul(40_503) | 1024
}

#[test]
fn each_mapping_and_filter_is_told_apart() {
    use Filtering as F;
    use Mapping as M;
    for mapping in [M::EndpointIndependent, M::AddressDependent, M::AddressAndPortDependent] {
        for filtering in [F::EndpointIndependent, F::AddressDependent, F::AddressAndPortDependent] {
            let (found, _) = measured(Toy::new(mapping, filtering, scattered), Some(OTHERS));
            let nat = Nat { mapping, filtering, allocation: Allocation::Random };
            assert_eq!(found.nat, nat);
            assert_eq!(found.is_translated, Some(true));
        }
    }
}

/// A block of ports of which every destination has all (GCP): now and then two are the same.
#[test]
fn a_port_that_comes_twice_by_chance_deceives_nobody() {
    for twice in [[1, 0], [2, 0], [2, 1]] {
        let filtering = Filtering::AddressAndPortDependent;
        let mut toy =
            Toy::new(Mapping::AddressAndPortDependent, filtering, |_, nth| 40_000 + nth * 29 % 64);
        let mut bench = Bench::new();
        bench.server(Some(OTHERS), addr(OUTSIDE, 40_000));
        // What the main socket shows to the three addresses.
        let mut seen = Vec::new();
        bench.run(20_000, |ask| {
            let mut mapped = toy.answer(ask)?;
            if ask.socket == SocketId(0) {
                if seen.len() == twice[0] {
                    mapped.observed = seen[twice[1]];
                }
                seen.push(mapped.observed);
            }
            Some(mapped)
        });
        let nat = Nat {
            mapping: Mapping::AddressAndPortDependent,
            filtering,
            allocation: Allocation::Block,
        };
        assert_eq!(bench.discover.found().nat, nat, "{twice:?}");
    }
}

#[test]
fn without_translation_the_filter_decides() {
    for (filtering, name) in [
        (Filtering::EndpointIndependent, Classical::Public),
        (Filtering::AddressAndPortDependent, Classical::Firewall),
    ] {
        let mut toy = Toy::new(Mapping::EndpointIndependent, filtering, preserving);
        toy.outside = [192, 168, 0, 2];
        let (found, classical) = measured(toy, Some(OTHERS));
        assert_eq!((found.is_translated, classical), (Some(false), name));
        assert_eq!(found.nat.allocation, Allocation::Preserving);
    }
}

#[test]
fn one_address_of_the_beacon_tells_only_the_allocation() {
    let filter = Filtering::EndpointIndependent;
    for (port, allocation) in [
        (preserving as fn(u16, u16) -> u16, Allocation::Preserving),
        (|_, nth| 30_000 + 3 * nth, Allocation::Sequential),
        (|_, nth| 30_000 - 3 * nth, Allocation::Sequential),
        // Steps too long for a sequence.
        (|_, nth| 30_000 + nth * 300, Allocation::Block),
        (|_, nth| 30_000 + nth * 2000, Allocation::Random),
        // The wrap at the end of the range.
        (|_, nth| if nth < 4 { 60_000 + nth } else { 1024 + nth }, Allocation::Sequential),
        (|_, nth| 40_000 + nth * 29 % 64, Allocation::Block),
        (scattered, Allocation::Random),
    ] {
        let toy = Toy::new(Mapping::EndpointIndependent, filter, port);
        let (found, classical) = measured(toy, None);
        let unknown = (Mapping::Unknown, Filtering::Unknown, allocation);
        assert_eq!((found.nat.mapping, found.nat.filtering, found.nat.allocation), unknown);
        assert_eq!(classical, Classical::Unknown);
    }
}

#[test]
fn a_silent_beacon_is_asked_once_and_means_blocked() {
    let mut bench = Bench::new();
    let server = Server { address: Some(BEACON), ..Server::default() };
    bench.discover.set_server(at(0), server);
    bench.run(10_000, |_| None);
    assert_eq!(bench.asked.len(), 1);
    assert!(bench.asked[0].0 >= 1000, "it may just be slow");
    assert!(bench.discover.found().is_blocked);
    assert_eq!(bench.discover.measured_at(), None);
    // More and more rarely; in a day 24 times and a few.
    bench.run(24 * 3_600_000, |_| None);
    assert!((26..36).contains(&bench.asked.len()), "{}", bench.asked.len());
    // Then it answers.
    let mut toy =
        Toy::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent, preserving);
    bench.server(Some(OTHERS), addr(OUTSIDE, 4000));
    bench.run(10_000, |ask| toy.answer(ask));
    assert!(!bench.discover.found().is_blocked);
    assert_eq!(bench.classical(), Classical::FullCone);
}

#[test]
fn lost_answers_are_asked_for_again_and_no_answer_keeps_what_was_known() {
    let mut toy = Toy::new(Mapping::EndpointIndependent, Filtering::AddressDependent, preserving);
    let mut bench = Bench::new();
    bench.server(Some(OTHERS), addr(OUTSIDE, 4000));
    // The first of each is lost.
    let mut asked = std::collections::BTreeSet::new();
    bench.run(30_000, |ask| if asked.insert(ask.purpose) { None } else { toy.answer(ask) });
    assert_eq!(bench.classical(), Classical::RestrictedCone);
    let first = bench.discover.measured_at();
    assert!(first.is_some());
    // Nothing comes for hours, while the session lives.
    bench.run(3 * 3_600_000, |_| None);
    assert_eq!(bench.discover.measured_at(), first);
    assert_eq!(bench.classical(), Classical::RestrictedCone);
    assert!(!bench.discover.found().is_blocked);
}

#[test]
fn runs_follow_hours_networks_and_endpoints() {
    let mut toy =
        Toy::new(Mapping::EndpointIndependent, Filtering::EndpointIndependent, preserving);
    let mut bench = Bench::new();
    bench.server(Some(OTHERS), addr(OUTSIDE, 4000));
    bench.run(10_000, |ask| toy.answer(ask));
    let runs = |bench: &Bench| bench.asked.iter().filter(|(_, ask)| ask.purpose == MAIN).count();
    assert_eq!(runs(&bench), 1);
    bench.run(24 * 3_600_000, |ask| toy.answer(ask));
    assert!((22..=28).contains(&runs(&bench)), "{}", runs(&bench));

    // Keepalives that say the same change nothing, another endpoint does.
    let before = runs(&bench);
    bench.server(Some(OTHERS), addr(OUTSIDE, 4000));
    bench.run(10_000, |ask| toy.answer(ask));
    assert_eq!(runs(&bench), before);
    toy.filtering = Filtering::AddressAndPortDependent;
    toy.outside = [198, 51, 100, 8];
    bench.server(Some(OTHERS), addr(toy.outside, 4000));
    bench.run(10_000, |ask| toy.answer(ask));
    assert_eq!(runs(&bench), before + 1);
    assert_eq!(bench.classical(), Classical::PortRestrictedCone);
    // One that changes all the time, once a minute.
    let before = runs(&bench);
    for n in 0..600 {
        bench.server(Some(OTHERS), addr(OUTSIDE, 5000 + n));
        bench.run(1000, |ask| toy.answer(ask));
    }
    assert!((9..=11).contains(&(runs(&bench) - before)), "{}", runs(&bench) - before);

    // Another network: what was known is void at once, and measured at once.
    bench.discover.network_changed(at(bench.now));
    assert_eq!(bench.classical(), Classical::Unknown);
    assert!(bench.discover.take_news());
    toy.filtering = Filtering::EndpointIndependent;
    bench.run(2000, |ask| toy.answer(ask));
    assert_eq!(bench.classical(), Classical::FullCone);

    bench.discover.end();
    bench.run(1, |_| None);
    let before = bench.asked.len();
    bench.server(None, addr(OUTSIDE, 1));
    bench.discover.network_changed(at(bench.now));
    bench.run(24 * 3_600_000, |ask| toy.answer(ask));
    assert_eq!(bench.asked.len(), before);
}

#[test]
fn without_sockets_the_mapping_is_told() {
    let mut toy = Toy::new(Mapping::AddressDependent, Filtering::AddressDependent, scattered);
    let (mut discover, mut rng) = (Discover::default(), Rng::new([3; 32]));
    let server =
        Server { address: Some(BEACON), alternates: Some(OTHERS), is_up: true, observed: None };
    discover.set_server(at(0), server);
    let mut opened = 0;
    for ms in (0..5000).step_by(100) {
        while let Some(wish) = discover.poll(at(ms), &mut rng) {
            match wish {
                // The first is refused late, as an adapter does.
                Wish::Open if opened == 0 => {
                    opened += 1;
                    discover.set_socket(Some(SocketId(1)));
                    discover.handle_no_socket(SocketId(1));
                }
                Wish::Open => discover.set_socket(None),
                Wish::Close => {}
                Wish::Ask(ask) => {
                    assert_eq!(ask.socket, SocketId(0));
                    let answer = toy.answer(&ask);
                    discover.handle_answer(ask.purpose, answer.as_ref(), &[LOCAL]);
                }
            }
        }
    }
    let nat = Nat { mapping: Mapping::AddressDependent, ..Nat::default() };
    assert_eq!(discover.found().nat, nat);
    assert_eq!(discover.measured_at(), None, "to be tried again");
    assert!(discover.next_at().is_some_and(|next| next < at(70_000)));
}
