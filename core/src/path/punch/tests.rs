use super::super::nat::{Allocation, Filtering, Mapping};
use super::*;
use crate::wire::control::{CANDIDATES_MAX, Endpoint};
use proptest::prelude::{any, prop_assert, proptest};
use std::vec::Vec as List;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(1 + ms * 1_000_000)
}

fn endpoint(port: u16) -> Endpoint {
    let address = SocketAddr::from(([203, 0, 113, 9], port));
    Endpoint { kind: EndpointKind::Observed, address }
}

fn cone() -> Nat {
    Nat {
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::AddressAndPortDependent,
        allocation: Allocation::Preserving,
    }
}

fn random() -> Nat {
    Nat { mapping: Mapping::AddressAndPortDependent, allocation: Allocation::Random, ..cone() }
}

fn setting(nat: Nat) -> Setting {
    Setting {
        nat,
        candidates: [endpoint(4000)].into_iter().collect(),
        observed: Some(SocketAddr::from(([198, 51, 100, 7], 700))),
        may_spray: true,
    }
}

fn start(nat: Nat) -> Punch {
    Punch::start(at(0), Rng::new([3; 32]), setting(nat), 0)
}

fn offer(attempt: u16, nat: Nat, candidates: usize) -> Offer {
    let candidates = (0..candidates as u16).map(|n| endpoint(5000 + n)).collect();
    Offer { attempt, nat, candidates }
}

/// All outputs up to a time, each with when it came; sockets are there, STUN is silent.
fn outputs(punch: &mut Punch, until: Instant) -> List<(Instant, Output)> {
    let mut all = List::new();
    let mut sockets = 0;
    let mut now = at(0);
    loop {
        punch.handle_timeout(now);
        while let Some(output) = punch.poll_output(now, |_| true) {
            match output {
                Output::Open => {
                    sockets += 1;
                    punch.handle_socket(now, Some(SocketId(sockets)));
                }
                Output::Ask(socket) => punch.handle_observed(now, socket, None),
                _ => {}
            }
            all.push((now, output));
            assert!(all.len() < 10_000, "it ends");
        }
        match punch.next_at(|_| true) {
            Some(next) if next <= until => now = now.max(next),
            _ => return all,
        }
    }
}

fn challenges(outputs: &[(Instant, Output)]) -> usize {
    outputs.iter().filter(|(_, o)| matches!(o, Output::Challenge { .. })).count()
}

#[test]
fn an_offer_that_nobody_answers_ends_the_episode() {
    let mut punch = start(cone());
    let sent = outputs(&mut punch, at(60_000));
    let times: List<_> = sent.iter().map(|(when, _)| when.since(at(0)).as_millis()).collect();
    assert_eq!(times, [0, 150, 300, 900]);
    assert!(sent.iter().all(|(_, output)| *output == Output::Offer));
    assert!(punch.is_over());
    assert_eq!(punch.tried()[0].outcome, Outcome::NotAnswered);
}

#[test]
fn a_round_primes_once_and_punches_ten_times() {
    let mut punch = start(cone());
    let attempt = punch.attempt();
    punch.handle_offer(at(0), offer(attempt, cone(), CANDIDATES_MAX), setting(cone()));
    punch.handle_primed(at(0), attempt, Primed::Ready);
    let sent = outputs(&mut punch, at(1_300));
    // The eight that the peer named, and where the beacon sees it.
    let targets = CANDIDATES_MAX + 1;
    assert_eq!(challenges(&sent), targets * (1 + usize::from(PUNCHES)));
    let (first, later): (List<_>, List<_>) = sent
        .iter()
        .filter_map(|(when, output)| match output {
            Output::Challenge { hop_limit, .. } => Some((*when, *hop_limit)),
            _ => None,
        })
        .partition(|(_, hop_limit)| hop_limit.is_some());
    assert_eq!(first.len(), targets);
    assert!(first.iter().all(|&(when, limit)| when == at(0) && limit.unwrap().get() == 2));
    assert!(later.iter().all(|(when, _)| *when <= at(1_100)), "1 s, and 20 %");
}

#[test]
fn nothing_is_punched_before_the_peer_is_ready_or_patience_ends() {
    let mut punch = start(cone());
    let attempt = punch.attempt();
    punch.handle_offer(at(0), offer(attempt, cone(), 1), setting(cone()));
    let full = |sent: &[(Instant, Output)]| {
        let full =
            |(_, o): &&(Instant, Output)| matches!(o, Output::Challenge { hop_limit: None, .. });
        sent.iter().filter(full).count()
    };
    assert_eq!(full(&outputs(&mut punch, at(1_199))), 0);
    assert!(full(&outputs(&mut punch, at(1_200))) > 0);
}

#[test]
fn a_response_belongs_to_its_path() {
    let mut punch = start(cone());
    let attempt = punch.attempt();
    punch.handle_offer(at(0), offer(attempt, cone(), 2), setting(cone()));
    let sent = outputs(&mut punch, at(0));
    let challenges: List<_> = sent
        .iter()
        .filter_map(|(_, output)| match *output {
            Output::Challenge { path, data, .. } => Some((path, data)),
            _ => None,
        })
        .collect();
    assert_eq!(challenges.len(), 3);
    for (path, data) in &challenges {
        assert!(punch.is_response(*path, *data));
        let others = challenges.iter().filter(|(other, _)| other != path);
        others.for_each(|(other, _)| assert!(!punch.is_response(*other, *data)));
        let elsewhere = Path { socket: SocketId(9), ..*path };
        assert!(!punch.is_response(elsewhere, *data), "another socket");
    }
    let mut other = Punch::start(at(0), Rng::new([4; 32]), setting(cone()), 0);
    let _ = outputs(&mut other, at(0));
    assert!(!other.is_response(challenges[0].0, challenges[0].1), "another episode");
}

#[test]
fn the_higher_attempt_wins_and_numbers_wrap() {
    assert!(is_higher(9, 8) && !is_higher(8, 9) && !is_higher(8, 8));
    assert!(is_higher(0, 65_528) && !is_higher(65_528, 0));
    let mut punch = Punch::start(at(0), Rng::new([3; 32]), setting(cone()), 65_535);
    assert_eq!(punch.attempt(), 0);
    punch.handle_offer(at(5), offer(65_528, cone(), 1), setting(cone()));
    assert_eq!(punch.attempt(), 0);
    punch.handle_offer(at(5), offer(9, cone(), 1), setting(cone()));
    assert_eq!((punch.attempt(), punch.technique()), (9, Technique::Fresh));
    assert_eq!(punch.tried()[0].outcome, Outcome::Superseded);
}

#[test]
fn a_spray_keeps_its_manners() {
    // Ours are stable: we look. The attempt is the one after the plain punch.
    let mut punch = Punch::join(at(0), Rng::new([3; 32]), setting(cone()), offer(9, random(), 1));
    assert_eq!(punch.technique(), Technique::Spray);
    punch.handle_primed(at(0), 9, Primed::Ready);
    let sent = outputs(&mut punch, at(100_000));
    let probes: List<_> = sent
        .iter()
        .filter_map(|(when, output)| match output {
            Output::Challenge { path, .. } => Some((*when, path.remote)),
            _ => None,
        })
        .collect();
    assert_eq!(probes.len(), usize::from(spray::PROBES));
    let seen = setting(cone()).observed.unwrap().ip();
    assert!(probes.iter().all(|(_, to)| to.ip() == seen), "what the beacon saw, and nothing else");
    for pair in probes.windows(2) {
        assert!(pair[1].0.since(pair[0].0) >= Duration::from_millis(10), "100 a second");
    }
    assert!(punch.is_over() && punch.has_sprayed());
    assert!(probes.last().unwrap().0 < at(30_000), "before a NAT forgets");

    // Without leave we say so.
    let forbidden = Setting { may_spray: false, ..setting(cone()) };
    let mut punch = Punch::join(at(0), Rng::new([3; 32]), forbidden, offer(9, random(), 1));
    let sent = outputs(&mut punch, at(100_000));
    assert_eq!(challenges(&sent), 0);
    assert_eq!(sent.last().unwrap().1, Output::Primed(9, Primed::Declined));
    assert!(!punch.has_sprayed());

    // Without an address that the beacon saw there is nowhere to look.
    let unseen = Setting { observed: None, ..setting(cone()) };
    let mut punch = Punch::join(at(0), Rng::new([3; 32]), unseen, offer(9, random(), 1));
    punch.handle_primed(at(0), 9, Primed::Ready);
    assert_eq!(challenges(&outputs(&mut punch, at(100_000))), 0);
}

#[test]
fn a_socket_that_cannot_be_opened_ends_the_opening() {
    let mut punch = Punch::join(at(0), Rng::new([3; 32]), setting(random()), offer(9, cone(), 1));
    let mut opened = 0;
    let mut now = at(0);
    let mut first_punches = 0;
    while punch.next_at(|_| true).is_some_and(|next| next < at(20_000)) {
        while let Some(output) = punch.poll_output(now, |_| true) {
            match output {
                Output::Open => {
                    opened += 1;
                    let socket = SocketId(opened);
                    punch.handle_socket(now, Some(socket));
                    if opened == 11 {
                        punch.handle_socket_failed(now, socket);
                    }
                }
                Output::Challenge { .. } => first_punches += 1,
                _ => {}
            }
        }
        now = now.max(punch.next_at(|_| true).unwrap());
        punch.handle_timeout(now);
        if opened > 11 {
            break;
        }
    }
    assert_eq!((opened, first_punches), (11, 10));
}

proptest! {
    /// Whatever a peer sends, an episode ends, and sends no more than its bounds allow.
    #[test]
    fn a_peer_cannot_make_an_episode_endless(
        steps in proptest::collection::vec((0u64..400, any::<u16>(), 0u8..80, 0u8..4), 0..60),
    ) {
        let mut punch = start(cone());
        let mut now = at(0);
        let mut sent = 0;
        for (wait, attempt, nat, what) in steps {
            now = now + Duration::from_millis(wait);
            // Most of them close to the one under way.
            let attempt = match attempt % 3 {
                0 => attempt,
                _ => punch.attempt().wrapping_add(attempt % 3 - 1),
            };
            match what {
                0 => punch.handle_offer(now, offer(attempt, Nat::from_byte(nat), 8), setting(cone())),
                1 => punch.handle_primed(now, attempt, Primed::Ready),
                2 => punch.handle_primed(now, attempt, Primed::Declined),
                _ => punch.handle_timeout(now),
            }
            while let Some(output) = punch.poll_output(now, |_| true) {
                match output {
                    Output::Open => punch.handle_socket(now, None),
                    Output::Ask(socket) => punch.handle_observed(now, socket, None),
                    _ => {}
                }
                sent += 1;
                prop_assert!(sent < 4_000);
            }
            if let Some(next) = punch.next_at(|_| true) {
                prop_assert!(next > now || !punch.is_over());
            }
        }
        let _ = outputs(&mut punch, now + Duration::from_secs(120));
        prop_assert!(punch.is_over());
    }
}
