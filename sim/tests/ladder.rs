//! The ladder alone: two real [`Punch`] machines and two real NATs, a relay that carries F9 and
//! F6, and nothing else. So thousands of seeds are a matter of seconds, and the formula of the
//! birthday spray can be held against what the machine really does (`nat.md` 4).

use pilot_core::limits::NAT_KEEPALIVE;
use pilot_core::machine::{Path, SocketId};
use pilot_core::path::punch::{Output, Punch, Setting};
use pilot_core::path::strategy::Technique;
use pilot_core::rng::Rng;
use pilot_core::time::{Duration, Instant};
use pilot_core::wire::control::{Candidates, Endpoint, EndpointKind};
use pilot_core::wire::punch::{Offer, Primed};
use pilot_sim::nat::{self, BoxConfig, Middlebox, Packet, Preset, classify};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// From any host to any other.
const ONE_WAY: Duration = Duration::from_millis(25);
/// By the relay.
const RELAYED: Duration = Duration::from_millis(35);
/// Routers between the two NATs.
const HOPS: u8 = 3;
const BEACON: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9001);

enum Event {
    Offer(Box<Offer>),
    Primed(u16, Primed),
    /// What the beacon saw.
    Observed(SocketId, Option<SocketAddr>),
    /// A challenge of ours that F2 of the peer caused is due again.
    Again(Path),
    /// F2 (or F3) with these bytes, sent to this external endpoint.
    Frame {
        packet: Packet,
        is_response: bool,
        data: [u8; 8],
        number: u32,
    },
}

struct End {
    boxes: Vec<Middlebox>,
    host: IpAddr,
    punch: Punch,
    setting: Setting,
    sockets: u16,
    /// Our own challenges that F2 of the peer caused.
    triggered: BTreeSet<(SocketId, SocketAddr)>,
    proven: Option<(Instant, Path)>,
    /// F2 frames sent at full hop limit in this attempt.
    punches: u32,
    attempt: u16,
}

struct Lab {
    now: Instant,
    order: u64,
    events: BTreeMap<(Instant, u64), (usize, Event)>,
    random: Rng,
    ends: [End; 2],
    /// The number, in its round, of the first punch that reached the other end.
    hit: Option<u32>,
    /// When each end sent its first punch at full hop limit.
    go: [Option<Instant>; 2],
    /// Of 1,000 frames, by either way.
    loss: u64,
}

impl Lab {
    fn new(seed: u64, kinds: [Vec<BoxConfig>; 2]) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut random = Rng::new(bytes);
        // Far from zero, so that a probe before does not count.
        let now = Instant::from_nanos(1) + Duration::from_secs(3600);
        let mut number = 0;
        let ends = kinds.map(|boxes| {
            number += 1;
            let host = match boxes.iter().any(|b| matches!(b, BoxConfig::Nat(_))) {
                true => IpAddr::from([192, 168, 0, 1 + number]),
                false => IpAddr::from([203, 0, 113, number]),
            };
            let make = |boxes: &Vec<BoxConfig>| -> Vec<Middlebox> {
                boxes.iter().map(|b| Middlebox::new(b.clone()).expect("a valid box")).collect()
            };
            // Another box of the same kind is probed: what the probe leaves is not in ours.
            let IpAddr::V4(probed) = host else { unreachable!("all are IPv4") };
            let class = classify(&mut make(&boxes), &mut random, Instant::START, probed);
            let setting = Setting {
                nat: class.expect("UDP passes").into(),
                candidates: Candidates::new(),
                observed: None,
                may_spray: true,
            };
            let punch = Punch::start(now, random.fork("placeholder"), setting.clone(), 0);
            End {
                boxes: make(&boxes),
                host,
                punch,
                setting,
                sockets: 0,
                triggered: BTreeSet::new(),
                proven: None,
                punches: 0,
                attempt: 0,
            }
        });
        let mut lab = Lab {
            now,
            order: 0,
            events: BTreeMap::new(),
            random,
            ends,
            hit: None,
            go: [None; 2],
            loss: 0,
        };
        let observed =
            [0, 1].map(|i| lab.outbound(i, SocketId(0), BEACON, 64).expect("out").source);
        for i in [0, 1] {
            let end = &mut lab.ends[i];
            let address = observed[i];
            end.setting.observed = Some(observed[1 - i]);
            let _ = end.setting.candidates.push(Endpoint { kind: EndpointKind::Observed, address });
            end.punch = Punch::start(now, lab.random.fork("punch"), end.setting.clone(), 0);
        }
        lab
    }

    fn presets(seed: u64, a: Preset, b: Preset) -> Self {
        let boxes = |n, preset: Preset| preset.boxes(IpAddr::from([203, 0, 113, n]));
        Lab::new(seed, [boxes(1, a), boxes(2, b)])
    }

    fn is_lost(&mut self) -> bool {
        self.loss > 0 && self.random.below(1000) < self.loss
    }

    /// How long after both ends were ready both were direct.
    fn after_the_go(&self) -> Option<Duration> {
        let go = self.go[0].max(self.go[1])?;
        let proven = self.ends.iter().map(|end| end.proven.map(|(at, _)| at)).max()??;
        Some(proven.since(go))
    }

    fn local(&self, i: usize, socket: SocketId) -> SocketAddr {
        let port = if socket.0 == 0 { 4000 } else { 20_000 + socket.0 };
        SocketAddr::new(self.ends[i].host, port)
    }

    /// Through the end's own boxes.
    fn outbound(&mut self, i: usize, socket: SocketId, to: SocketAddr, ttl: u8) -> Option<Packet> {
        let mut packet = Packet { source: self.local(i, socket), destination: to, ttl };
        for middle in &mut self.ends[i].boxes {
            packet = middle.handle_outbound(self.now, &mut self.random, packet).forwarded()?;
        }
        Some(packet)
    }

    fn at(&mut self, after: Duration, i: usize, event: Event) {
        self.order += 1;
        self.events.insert((self.now + after, self.order), (i, event));
    }

    fn send(&mut self, i: usize, path: Path, ttl: u8, is_response: bool, data: [u8; 8]) {
        let packet = self.outbound(i, path.socket, path.remote, ttl);
        let mut packet = packet.map(Ok).unwrap_or(Err(()));
        for _ in 0..HOPS {
            packet = packet.and_then(|p| p.hop().ok_or(()));
        }
        if let Ok(packet) = packet
            && !self.is_lost()
        {
            let number = self.ends[i].punches;
            self.at(ONE_WAY, 1 - i, Event::Frame { packet, is_response, data, number });
        }
    }

    /// A frame at the outermost box of its receiver.
    fn arrive(
        &mut self,
        i: usize,
        mut packet: Packet,
        is_response: bool,
        data: [u8; 8],
        number: u32,
    ) {
        for n in (0..self.ends[i].boxes.len()).rev() {
            let verdict = self.ends[i].boxes[n].handle_inbound(self.now, &mut self.random, packet);
            let Some(forwarded) = verdict.forwarded() else { return };
            packet = forwarded;
        }
        let port = packet.destination.port();
        let socket = SocketId(if port == 4000 { 0 } else { port.wrapping_sub(20_000) });
        if packet.destination.ip() != self.ends[i].host || socket.0 > self.ends[i].sockets {
            return;
        }
        let path = Path { socket, local: None, remote: packet.source };
        let key = (socket, packet.source);
        if is_response {
            let end = &mut self.ends[i];
            if end.punch.is_response(path, data) || end.triggered.contains(&key) {
                let now = self.now;
                end.proven.get_or_insert((now, path));
                end.punch.handle_direct(now);
            }
            return;
        }
        self.hit = self.hit.or(Some(number));
        self.send(i, path, 64, true, data);
        let end = &self.ends[i];
        let is_new = end.proven.is_none() && end.punch.expects(packet.source.ip());
        if is_new && self.ends[i].triggered.insert(key) {
            for ms in [0, 300, 900] {
                self.at(Duration::from_millis(ms), i, Event::Again(path));
            }
        }
    }

    fn poll(&mut self, i: usize) {
        loop {
            self.ends[i].punch.handle_timeout(self.now);
            let Some(output) = self.ends[i].punch.poll_output(self.now, |_| true) else { return };
            let attempt = self.ends[i].punch.attempt();
            if core::mem::replace(&mut self.ends[i].attempt, attempt) != attempt {
                self.ends[i].punches = 0;
            }
            match output {
                Output::Offer if self.is_lost() => {}
                Output::Offer => {
                    let offer = self.ends[i].punch.offer().clone();
                    self.at(RELAYED, 1 - i, Event::Offer(Box::new(offer)));
                }
                Output::Primed(..) if self.is_lost() => {}
                Output::Primed(attempt, code) => {
                    self.at(RELAYED, 1 - i, Event::Primed(attempt, code));
                }
                Output::Challenge { path, data, hop_limit } => {
                    if hop_limit.is_none() {
                        self.ends[i].punches += 1;
                        self.go[i].get_or_insert(self.now);
                    }
                    let ttl = hop_limit.map_or(64, |limit| limit.get());
                    self.send(i, path, ttl, false, data);
                }
                Output::Open => {
                    let end = &mut self.ends[i];
                    end.sockets += 1;
                    end.punch.handle_socket(self.now, Some(SocketId(end.sockets)));
                }
                Output::Ask(socket) => {
                    let seen = self.outbound(i, socket, BEACON, 64).map(|packet| packet.source);
                    self.at(ONE_WAY + ONE_WAY, i, Event::Observed(socket, seen));
                }
            }
        }
    }

    /// Until both ends are direct or have given up; whether they are.
    fn run(&mut self) -> bool {
        let end = self.now + Duration::from_secs(60);
        while self.now < end {
            (0..2).for_each(|i| self.poll(i));
            let timers = self.ends.iter().filter_map(|end| end.punch.next_at(|_| true));
            let first = self.events.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = timers.chain(first).min() else { break };
            self.now = self.now.max(next);
            while let Some(entry) = self.events.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let (i, event) = entry.remove();
                let now = self.now;
                let end = &mut self.ends[i];
                match event {
                    Event::Offer(offer) => {
                        let setting = end.setting.clone();
                        end.punch.handle_offer(now, *offer, setting);
                    }
                    Event::Primed(attempt, code) => {
                        end.punch.handle_primed(now, attempt, code);
                    }
                    Event::Observed(socket, seen) => end.punch.handle_observed(now, socket, seen),
                    Event::Again(path) if end.proven.is_none() => {
                        self.send(i, path, 64, false, [0; 8]);
                    }
                    Event::Again(_) => {}
                    Event::Frame { packet, is_response, data, number } => {
                        self.arrive(i, packet, is_response, data, number);
                    }
                }
                self.poll(i);
            }
        }
        self.ends.iter().all(|end| end.proven.is_some())
    }

    fn technique(&self) -> Option<Technique> {
        self.ends[0].punch.tried().last().map(|tried| tried.technique)
    }
}

fn share(seeds: u64, mut run: impl FnMut(u64) -> bool) -> f64 {
    (0..seeds).filter(|&seed| run(seed)).count() as f64 / seeds as f64
}

/// Which cells of the goal table are got through, and by what.
#[test]
fn twenty_six_of_the_twenty_eight_pairs_go_directly() {
    use Preset::{Firewall, PortRestricted, SymRandom, SymSeq};
    let mut relayed = Vec::new();
    for (n, &a) in Preset::SEVEN.iter().enumerate() {
        for &b in &Preset::SEVEN[n..] {
            for seed in 0..40 {
                let mut lab = Lab::presets(seed, a, b);
                let direct = lab.run();
                let expected = match (a, b) {
                    (Firewall | PortRestricted, SymSeq) | (SymSeq, SymSeq) => Technique::Predict,
                    (Firewall | PortRestricted, SymRandom) => Technique::Spray,
                    _ => Technique::Plain,
                };
                match (a, b) {
                    (SymSeq | SymRandom, SymRandom) => {
                        assert!(!direct, "{a:?} × {b:?}, seed {seed}");
                        relayed.push((a, b));
                        continue;
                    }
                    // Two in ten thousand sprays find nothing.
                    (_, SymRandom) if expected == Technique::Spray && !direct => continue,
                    _ => assert!(direct, "{a:?} × {b:?}, seed {seed}"),
                }
                assert_eq!(lab.technique(), Some(expected), "{a:?} × {b:?}, seed {seed}");
                if expected == Technique::Plain {
                    let took = lab.after_the_go().expect("both are direct");
                    assert!(took <= ONE_WAY * 4, "{a:?} × {b:?}: {took:?} after the go");
                }
            }
        }
    }
    relayed.dedup();
    assert_eq!(relayed.len(), 2);
}

/// The two cells of the spray: what share of sprays has found a port after n probes, against
/// 1 − C(N−k, n) ⁄ C(N, n) for k = 256 of N = 64,512 ports, within three standard errors.
#[test]
fn a_spray_finds_a_port_as_often_as_the_birthday_formula_says() {
    let seeds = std::env::var("LADDER_SEEDS").map_or(600, |n| n.parse().expect("a number"));
    for stable in [Preset::PortRestricted, Preset::Firewall] {
        let hits: Vec<Option<u32>> = (0..seeds)
            .map(|seed| {
                let mut lab = Lab::presets(seed, stable, Preset::SymRandom);
                let direct = lab.run();
                lab.hit.filter(|_| direct)
            })
            .collect();
        let mean = hits.iter().flatten().map(|&n| f64::from(n)).sum::<f64>() / seeds as f64;
        println!("{stable:?} × sym-random, {seeds} sprays: mean {mean:.0} probes");
        for n in [256, 512, 1024, 2048] {
            let missed: f64 = (0..n).map(|i| 1.0 - 256.0 / (64_512.0 - f64::from(i))).product();
            let expected = 1.0 - missed;
            let found = hits.iter().flatten().filter(|&&hit| hit <= n as u32).count();
            let found = found as f64 / seeds as f64;
            let error = (expected * missed / seeds as f64).sqrt();
            println!("  {n:4} probes: {:.2} %, formula {:.2} %", 100.0 * found, 100.0 * expected);
            assert!((found - expected).abs() <= 3.0 * error + 1.0 / seeds as f64, "at {n} probes");
        }
    }
}

/// Ports of a NAT that counts are predicted, also when half of them go to others.
#[test]
fn a_port_is_predicted_on_a_quiet_nat_and_on_a_busy_one() {
    let counting = |noise: u16| {
        move |seed| {
            let address = IpAddr::from([203, 0, 113, 2]);
            let mut boxes = Preset::SymSeq.boxes(address);
            let Some(BoxConfig::Nat(config)) = boxes.first_mut() else { panic!("a NAT") };
            config.allocation = busy(config.allocation, noise);
            let stable = Preset::PortRestricted.boxes(IpAddr::from([203, 0, 113, 1]));
            Lab::new(seed, [stable, boxes]).run()
        }
    };
    assert!(share(200, counting(0)) >= 0.99);
    let busy = share(200, counting(500));
    println!("half of the ports go to others: {:.1} %", 100.0 * busy);
    assert!(busy >= 0.9, "{busy}");
    let quiet_pair = share(200, |seed| Lab::presets(seed, Preset::SymSeq, Preset::SymSeq).run());
    assert!(quiet_pair >= 0.95, "{quiet_pair}");
}

/// "At 10 % loss and 50 ms: direct within 1 s", counted from when both ends are ready.
#[test]
fn a_lossy_pair_is_direct_within_a_second() {
    let cells = [
        (Preset::Public, Preset::PortRestricted),
        (Preset::Firewall, Preset::Firewall),
        (Preset::FullCone, Preset::SymRandom),
        (Preset::Restricted, Preset::SymSeq),
        (Preset::PortRestricted, Preset::PortRestricted),
        (Preset::Leaky, Preset::Leaky),
    ];
    for (a, b) in cells {
        let within = share(200, |seed| {
            let mut lab = Lab::presets(seed, a, b);
            lab.loss = 100;
            lab.run() && lab.after_the_go().is_some_and(|took| took <= Duration::from_secs(1))
        });
        println!("{a:?} × {b:?}: {:.1} %", 100.0 * within);
        assert!(within >= 0.99, "{a:?} × {b:?}: {within}");
    }
}

/// First punches that die on the way keep each NAT from tracking what it did not ask for
/// (`nat.md` 2).
#[test]
fn leaky_nats_are_got_through_by_priming() {
    for (a, b) in [
        (Preset::Leaky, Preset::Leaky),
        (Preset::Leaky, Preset::PortRestricted),
        (Preset::PortRestricted, Preset::Leaky),
    ] {
        for seed in 0..50 {
            let mut lab = Lab::presets(seed, a, b);
            assert!(lab.run(), "{a:?} × {b:?}, seed {seed}");
            assert_eq!(lab.technique(), Some(Technique::Plain), "{a:?} × {b:?}");
        }
    }
}

/// A packet at full hop limit that came before we had sent anything has taken the port towards
/// its sender: the same sockets never get through, fresh ones do.
#[test]
fn a_poisoned_pair_gets_through_from_fresh_sockets() {
    for seed in 0..50 {
        let mut lab = Lab::presets(seed, Preset::Leaky, Preset::Leaky);
        let remote = lab.ends[0].setting.observed.expect("seen");
        lab.send(0, Path::to(remote), 64, false, [1; 8]);
        assert!(lab.run(), "seed {seed}");
        assert_eq!(lab.technique(), Some(Technique::Fresh));
    }
}

/// Whoever may not spray says so, and the other end does not look in vain.
#[test]
fn a_spray_needs_both() {
    for forbidden in [0, 1] {
        let mut lab = Lab::presets(3, Preset::PortRestricted, Preset::SymRandom);
        lab.ends[forbidden].setting.may_spray = false;
        let setting = lab.ends[forbidden].setting.clone();
        lab.ends[forbidden].punch = Punch::start(lab.now, Rng::new([5; 32]), setting, 0);
        let started = lab.now;
        assert!(!lab.run());
        assert!(lab.now.since(started) < NAT_KEEPALIVE, "{:?}", lab.now.since(started));
        let probes: u32 = lab.ends.iter().map(|end| end.punches).sum();
        assert!(probes < 300, "{probes} probes");
    }
}

fn busy(allocation: nat::Allocation, thousandths: u16) -> nat::Allocation {
    match allocation {
        nat::Allocation::Sequential { step, .. } => {
            nat::Allocation::Sequential { step, noise: thousandths }
        }
        other => other,
    }
}
