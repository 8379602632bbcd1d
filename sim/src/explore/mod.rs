//! Random worlds. Each is drawn from its tape: who is there and behind what, which kinds of fault
//! there are and how strong, and what happens when.
//!
//! Two phases. *Safety*: anything may happen, and only the checks must hold. *Healing*: faults
//! end, links are clean, everybody runs; now the world has to converge: all agents online, those
//! who trusted each other do again, a stream gets through between each two of them, those that
//! were begun before go on or end, and at rest the path is the one that the oracle says. In the
//! end nothing is left of any stream or session.
//!
//! Those who mean harm do not heal: liars go on to lie, floods go on, and everybody else has to
//! converge nevertheless.

mod act;
mod report;
mod rest;

pub use report::{Shares, shares};

use crate::link::{Burst, LinkConfig};
use crate::nat::Preset;
use crate::world::{Failure, World};
use crate::{BoxId, HostId, Span, Tape, TransferId};
use pilot_core::limits::Limits;
use pilot_core::node::{Config, PathKind};
use pilot_core::time::Duration;
use serde::Serialize;
use std::collections::BTreeSet;

/// What agents of random worlds stand behind: all but what lets nothing through.
const PRESETS: [Preset; 18] = {
    let mut out = [Preset::Public; 18];
    let (mut n, mut m) = (0, 0);
    while n < Preset::ALL.len() {
        if !matches!(Preset::ALL[n], Preset::UdpBlocked) {
            out[m] = Preset::ALL[n];
            m += 1;
        }
        n += 1;
    }
    out
};

/// A kind of fault. Each world has some of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Random loss.
    Loss,
    /// Loss in bursts.
    Bursts,
    /// Jitter and reordering.
    Disorder,
    /// Duplicates.
    Duplicates,
    /// Flipped bits.
    Corruption,
    /// Slow links with short queues.
    Rate,
    /// Sites that are cut off for a while.
    Partition,
    /// Processes that die and start again.
    Crash,
    /// Machines that sleep.
    Suspend,
    /// Wall clocks that are set.
    Skew,
    /// Boxes that restart.
    Reboot,
    /// NATs that get another address.
    Renumber,
    /// Agents that move.
    Roam,
    /// A rendezvous that dies and starts again.
    Server,
    /// Sockets that refuse packets.
    Refusals,
    /// Captured packets that are sent again, from elsewhere.
    Replay,
    /// Processes that die and start again without their disks.
    Wipe,
    /// Owners who no longer trust somebody.
    Revocation,
    /// An agent that is trusted and lies.
    Liar,
    /// Garbage and captured packets, from anywhere, many of them.
    Flood,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 20] = [
        Fault::Loss,
        Fault::Bursts,
        Fault::Disorder,
        Fault::Duplicates,
        Fault::Corruption,
        Fault::Rate,
        Fault::Partition,
        Fault::Crash,
        Fault::Suspend,
        Fault::Skew,
        Fault::Reboot,
        Fault::Renumber,
        Fault::Roam,
        Fault::Server,
        Fault::Refusals,
        Fault::Replay,
        Fault::Wipe,
        Fault::Revocation,
        Fault::Liar,
        Fault::Flood,
    ];
}

/// What a world was like.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Summary {
    /// Faults that happened, or were in its links.
    pub faults: BTreeSet<Fault>,
    /// How many agents.
    pub agents: usize,
    /// Bytes of streams that arrived.
    pub streamed: u64,
    /// Whether data went over the relay.
    pub relayed: bool,
    /// Whether data went directly.
    pub direct: bool,
    /// Seconds of virtual time.
    pub virtual_secs: u64,
    /// Hash of all that happened.
    pub hash: String,
    /// Bytes of the tape that were read.
    pub tape: usize,
}

/// With smaller pools than other agents of worlds: they are cleared for every process of every
/// world, and streams are short.
fn small_node() -> Config {
    let config = crate::node_config();
    let limits = Limits { buffer_bytes: 1 << 20, requests: 16, ..config.limits };
    Config { limits, ..config }
}

struct Explorer {
    world: World,
    agents: Vec<HostId>,
    /// One of them lies, if there is one; it is not among the agents.
    liar: Option<HostId>,
    enabled: BTreeSet<Fault>,
    happened: BTreeSet<Fault>,
    transfers: Vec<TransferId>,
    server_down: bool,
    /// NATs that send from an address that they no longer have.
    stale: BTreeSet<BoxId>,
}

/// Makes and runs the world of a tape, and gives it as it is in the end. `keep_events` as
/// [`crate::Trace::keep_events`].
pub fn explore(tape: Tape, again: String, keep_events: bool) -> (Result<Summary, Failure>, World) {
    let mut world = World::new(tape);
    world.set_again(again);
    if keep_events {
        world.trace_mut().keep_events();
    }
    let mut explorer = Explorer {
        world,
        agents: Vec::new(),
        liar: None,
        enabled: BTreeSet::new(),
        happened: BTreeSet::new(),
        transfers: Vec::new(),
        server_down: false,
        stale: BTreeSet::new(),
    };
    let result = explorer.run();
    (result, explorer.world)
}

impl Explorer {
    fn run(&mut self) -> Result<Summary, Failure> {
        self.build();
        self.safety()?;
        self.heal();
        self.converge()?;
        self.rest()?;
        self.close()?;
        let world = &self.world;
        let went = |kind| world.path_changes().iter().any(|change| change.kind == kind);
        Ok(Summary {
            faults: self.happened.clone(),
            agents: self.agents.len(),
            streamed: world.stats().streamed,
            relayed: went(PathKind::Relayed),
            direct: went(PathKind::Direct),
            virtual_secs: world.elapsed().as_secs(),
            hash: world.trace().hash(),
            tape: world.tape().used().len(),
        })
    }

    #[track_caller]
    fn draw(&mut self, bound: u64) -> u64 {
        self.world.tape.below(bound)
    }

    #[track_caller]
    fn any(&mut self) -> HostId {
        self.world.tape.choose(&self.agents)
    }

    /// Whether the world has this fault; notes that it happened.
    fn has(&mut self, fault: Fault) -> bool {
        let has = self.enabled.contains(&fault);
        if has {
            self.happened.insert(fault);
        }
        has
    }

    fn build(&mut self) {
        // Each fault by a bit of its own; in one of four worlds all of them are rarer.
        let word = self.draw(1 << 20);
        let word = word & if self.draw(4) == 3 { self.draw(1 << 20) } else { !0 };
        self.enabled = Fault::ALL
            .into_iter()
            .enumerate()
            .filter(|(n, _)| word >> n & 1 == 1)
            .map(|(_, f)| f)
            .collect();
        let hops = self.draw(4) as u8 + 1;
        self.world.set_core_hops(hops);
        for n in 0..2 + self.draw(3) {
            let preset = self.world.tape.choose(&PRESETS);
            let beside = n > 0 && self.draw(4) == 3;
            let place = match beside {
                true => self.world.place_of(self.agents[0]),
                false => self.world.add_preset(preset),
            };
            let host = self.world.add_host(place, small_node());
            self.agents.push(host);
            let link = self.link();
            self.world.set_link(host, link);
        }
        if self.has(Fault::Refusals) {
            let share = self.draw(200) as u16;
            self.world.set_refusals(share);
        }
        if self.has(Fault::Liar) {
            let preset = self.world.tape.choose(&PRESETS);
            let place = self.world.add_preset(preset);
            self.liar = Some(self.world.add_liar(place, small_node()));
        }
        if [Fault::Replay, Fault::Flood].iter().any(|fault| self.enabled.contains(fault)) {
            self.world.keep_recent();
        }
    }

    fn link(&mut self) -> LinkConfig {
        let delay = Span::millis(1 + self.draw(100));
        let mut link = LinkConfig { delay, ..LinkConfig::default() };
        if self.has(Fault::Loss) {
            link.loss = self.draw(150) as u16;
        }
        if self.has(Fault::Bursts) {
            let (enter, leave) = (self.draw(20) as u16, 50 + self.draw(400) as u16);
            link.burst = Some(Burst { enter, leave, loss: 300 + self.draw(700) as u16 });
        }
        if self.has(Fault::Disorder) {
            link.jitter = Span::millis(self.draw(30));
            link.reorder = self.draw(100) as u16;
            link.reorder_by = Span::millis(self.draw(100));
        }
        if self.has(Fault::Duplicates) {
            link.duplicate = self.draw(200) as u16;
        }
        if self.has(Fault::Corruption) {
            link.corrupt = self.draw(30) as u16;
        }
        if self.has(Fault::Rate) {
            link.rate = 30_000 + self.draw(500_000);
            link.queue = 8_000 + self.draw(64_000) as u32;
        }
        link
    }

    fn safety(&mut self) -> Result<(), Failure> {
        let first = self.draw(15);
        self.world.try_run(Duration::from_secs(first))?;
        for n in 1..self.agents.len() {
            let before = self.draw(n as u64) as usize;
            let (a, b) = (self.agents[n], self.agents[before]);
            let _ = self.world.try_trust(a, b, Duration::from_secs(20))?;
        }
        if let Some(liar) = self.liar {
            for agent in self.agents.clone().into_iter().take(2) {
                let _ = self.world.try_trust(liar, agent, Duration::from_secs(10))?;
            }
        }
        for _ in 0..4 + self.draw(12) {
            self.act();
            let pause = Duration::from_millis(self.draw(12_000));
            self.world.try_run(pause)?;
            self.restore();
        }
        Ok(())
    }

    fn missed(&mut self, what: String) -> Failure {
        self.world.fail(what);
        self.world.failure().expect("it has just failed")
    }
}
