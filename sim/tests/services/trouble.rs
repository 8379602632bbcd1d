//! What befalls a world while a service is at work in it.

use pilot_core::time::Duration;
use pilot_sim::nat::Preset;
use pilot_sim::{HostId, LinkConfig, Span, Tape, World};
use std::collections::BTreeMap;

/// Services are looked after so often.
const STEP: Duration = Duration::from_millis(20);
/// Where hosts are and come to be: one of each kind of path.
const PRESETS: [Preset; 5] =
    [Preset::Public, Preset::PortRestricted, Preset::FullCone, Preset::SymRandom, Preset::Firewall];

/// How often something happened, over all worlds.
pub(crate) type Counts = BTreeMap<&'static str, u64>;

/// What befalls every world now and then.
const TROUBLES: [&str; 4] = ["crash", "crash of the rendezvous", "move", "partition"];

/// Runs the worlds, two at a time; all of `wanted` has to happen in some of them.
pub(crate) fn each_seed(run: fn(u64) -> Counts, wanted: &[&str]) {
    let seeds = std::env::var("SERVICE_SEEDS").map_or(24, |n| n.parse().expect("a number"));
    let job = |first: u64| {
        let mut all = Counts::new();
        for seed in (first..=seeds).step_by(2) {
            for (what, count) in run(seed) {
                *all.entry(what).or_default() += count;
            }
        }
        all
    };
    let counts = std::thread::scope(|scope| {
        let other = scope.spawn(|| job(2));
        let mut all = job(1);
        for (what, count) in other.join().expect("no assertion fails") {
            *all.entry(what).or_default() += count;
        }
        all
    });
    println!("{seeds} worlds: {counts:?}");
    for what in TROUBLES.iter().chain(wanted) {
        assert!(counts.contains_key(what), "no {what} in all these worlds");
    }
}

/// What runs on the hosts, as one value.
pub(crate) trait Service {
    /// Goes on as far as it can.
    fn poll(&mut self, world: &mut World, tape: &mut Tape);

    /// The process of a host has died: what was not synced is gone.
    fn crashed(&mut self, host: HostId, tape: &mut Tape);
}

/// A world with agents that trust each other, and its troubles.
pub(crate) struct Troubled {
    pub(crate) world: World,
    pub(crate) tape: Tape,
    pub(crate) hosts: Vec<HostId>,
    server_down: bool,
}

impl Troubled {
    /// All hosts trust the first.
    pub(crate) fn new(seed: u64, hosts: usize) -> Self {
        let mut tape = Tape::from_seed(1 << 32 | seed);
        let mut world = World::new(Tape::from_seed(seed));
        world.set_again(format!("the world of seed {seed}"));
        let hosts: Vec<_> = (0..hosts).map(|_| world.add_agent(tape.choose(&PRESETS))).collect();
        world.register();
        for host in &hosts[1..] {
            world.trust(*host, hosts[0]);
        }
        let mut troubled = Troubled { world, tape, hosts, server_down: false };
        for host in troubled.hosts.clone() {
            troubled.link(host);
        }
        troubled
    }

    fn link(&mut self, host: HostId) {
        let tape = &mut self.tape;
        let link = LinkConfig {
            delay: Span::millis(1 + tape.below(60)),
            loss: tape.below(120) as u16,
            reorder: tape.below(50) as u16,
            duplicate: tape.below(50) as u16,
            rate: 60_000 + tape.below(400_000),
            ..LinkConfig::default()
        };
        self.world.set_link(host, link);
    }

    /// Lets the service and the world go on.
    pub(crate) fn run(&mut self, service: &mut impl Service, span: Duration) {
        let end = self.world.elapsed() + span;
        while self.world.elapsed() < end {
            service.poll(&mut self.world, &mut self.tape);
            self.world.run(STEP);
        }
    }

    /// Until it is done, at most so long.
    pub(crate) fn run_until<S: Service>(
        &mut self,
        service: &mut S,
        most: Duration,
        mut done: impl FnMut(&mut World, &S) -> bool,
    ) -> bool {
        let end = self.world.elapsed() + most;
        while !done(&mut self.world, service) {
            if self.world.elapsed() >= end {
                return false;
            }
            self.run(service, STEP);
        }
        true
    }

    /// So many troubles, one after the other, and what was done may last beyond the next.
    pub(crate) fn befall(&mut self, service: &mut impl Service, counts: &mut Counts) {
        for _ in 0..4 + self.tape.below(8) {
            let host = self.tape.choose(&self.hosts);
            let what = match self.tape.below(6) {
                0 => "quiet",
                1 => {
                    self.world.set_cut(host, true);
                    "partition"
                }
                2 => {
                    let place = self.world.add_preset(self.tape.choose(&PRESETS));
                    self.world.roam(host, place);
                    self.link(host);
                    "move"
                }
                3 => {
                    self.world.crash_server();
                    self.server_down = true;
                    "crash of the rendezvous"
                }
                _ => {
                    self.world.crash(host);
                    service.crashed(host, &mut self.tape);
                    "crash"
                }
            };
            *counts.entry(what).or_default() += 1;
            let pause = Duration::from_millis(self.tape.below(8000));
            self.run(service, pause);
            self.restore(false);
        }
    }

    /// Everything that was done, or some of it, is undone.
    fn restore(&mut self, all: bool) {
        for host in self.hosts.clone() {
            if all || self.tape.below(3) > 0 {
                self.world.set_cut(host, false);
            }
            if all || self.tape.below(3) > 0 {
                self.world.restart(host);
            }
        }
        if self.server_down && (all || self.tape.below(2) == 1) {
            self.world.restart_server();
            self.server_down = false;
        }
    }

    /// The troubles end.
    pub(crate) fn heal(&mut self) {
        self.restore(true);
        for host in self.hosts.clone() {
            self.world.set_link(host, LinkConfig::default());
        }
    }
}
