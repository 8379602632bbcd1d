//! Random worlds. Each is drawn from its tape: who is there and behind what, which kinds of fault
//! there are and how strong, and what happens when.
//!
//! Two phases. *Safety*: anything may happen, and only the checks must hold. *Healing*: faults
//! end, links are clean, everybody runs; now the world has to converge: all agents online, those
//! who trusted each other still do, and a stream gets through between each two of them.

use crate::link::{Burst, LinkConfig};
use crate::nat::{Preset, StaleFlows};
use crate::world::{Failure, World};
use crate::{BoxId, HostId, Progress, Span, Tape, TransferId};
use pilot_core::node::PathKind;
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
/// Until all are online after the healing. The longest back-off towards the rendezvous is 45 s,
/// a beacon session is noticed to be dead within as much, and both may come after each other.
const ONLINE: Duration = Duration::from_secs(180);
/// Until two trust each other.
const TRUST: Duration = Duration::from_secs(180);
/// Until a stream gets through: a handshake is given up after 90 s, and then begun again.
const STREAM: Duration = Duration::from_secs(180);
/// Bytes that have to get through then.
const BYTES: u64 = 20_000;

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
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 16] = [
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

struct Explorer {
    world: World,
    agents: Vec<HostId>,
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

    fn draw(&mut self, bound: u64) -> u64 {
        self.world.tape.below(bound)
    }

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
        let word = self.draw(1 << 16);
        let word = word & if self.draw(4) == 3 { self.draw(1 << 16) } else { !0 };
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
            let host = self.world.add_host(place, crate::node_config());
            self.agents.push(host);
            let link = self.link();
            self.world.set_link(host, link);
        }
        if self.has(Fault::Refusals) {
            let share = self.draw(200) as u16;
            self.world.set_refusals(share);
        }
        if self.enabled.contains(&Fault::Replay) {
            self.world.trace_mut().keep_packets();
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
        for _ in 0..4 + self.draw(12) {
            self.act();
            let pause = Duration::from_millis(self.draw(12_000));
            self.world.try_run(pause)?;
            self.restore();
        }
        Ok(())
    }

    fn act(&mut self) {
        let agent = self.any();
        let mut kinds: Vec<Option<Fault>> = vec![None, None];
        kinds.extend(self.enabled.iter().filter(|f| **f >= Fault::Partition).map(|f| Some(*f)));
        let Some(fault) = self.world.tape.choose(&kinds) else { return self.transfer(agent) };
        let boxes = self.world.boxes_of(agent);
        let happens = match fault {
            Fault::Partition => {
                self.world.set_cut(agent, true);
                true
            }
            Fault::Crash => {
                self.world.crash(agent);
                true
            }
            Fault::Suspend => {
                self.world.suspend(agent);
                true
            }
            Fault::Skew => {
                let ms = self.draw(14_400_000) as i64 - 7_200_000;
                self.world.set_skew(agent, ms);
                true
            }
            Fault::Reboot => {
                boxes.iter().for_each(|id| self.world.reboot(*id));
                !boxes.is_empty()
            }
            Fault::Renumber => {
                let stale = self.world.tape.choose(&[StaleFlows::Drop, StaleFlows::KeepOldSource]);
                let outer = boxes.last().filter(|id| {
                    matches!(self.world.middlebox(**id), crate::nat::Middlebox::Nat(_))
                });
                let outer = outer.copied();
                if let Some(id) = outer {
                    self.world.renumber(id, stale);
                    if stale == StaleFlows::KeepOldSource {
                        self.stale.insert(id);
                    }
                }
                outer.is_some()
            }
            Fault::Roam => {
                let preset = self.world.tape.choose(&PRESETS);
                let place = self.world.add_preset(preset);
                self.world.roam(agent, place);
                let link = self.link();
                self.world.set_link(agent, link);
                true
            }
            Fault::Server => {
                self.world.crash_server();
                self.server_down = true;
                true
            }
            Fault::Replay => self.replay(),
            _ => false,
        };
        if happens {
            self.happened.insert(fault);
        }
    }

    /// What was done may last longer than one pause, or not.
    fn restore(&mut self) {
        for agent in self.agents.clone() {
            match self.draw(3) {
                0 => {}
                1 => self.world.set_cut(agent, false),
                _ => {
                    self.world.restart(agent);
                    self.world.resume(agent);
                }
            }
        }
        if self.server_down && self.draw(2) == 1 {
            self.world.restart_server();
            self.server_down = false;
        }
    }

    fn transfer(&mut self, from: HostId) {
        let to = self.any();
        let len = self.draw(300_000);
        if from != to
            && self.world.trusts(from, to)
            && let Ok(id) = self.world.start_transfer(from, to, len)
        {
            self.transfers.push(id);
        }
    }

    /// Sends some of what has crossed the core again, from an address at which nobody is.
    fn replay(&mut self) -> bool {
        let captured: Vec<_> = self.world.trace().packets().cloned().collect();
        if captured.is_empty() {
            return false;
        }
        for n in 0..1 + self.draw(8) {
            let (_, packet, bytes) = captured[self.draw(captured.len() as u64) as usize].clone();
            let source = ([203, 0, 113, n as u8 + 1], 1000 + n as u16).into();
            self.world.forge(source, packet.destination, bytes);
        }
        true
    }

    fn heal(&mut self) {
        self.world.fault("healing".to_string());
        self.world.set_refusals(0);
        for agent in self.agents.clone() {
            self.world.set_cut(agent, false);
            let delay = self.world.access_of(agent).delay();
            self.world.set_link(agent, LinkConfig { delay, ..LinkConfig::default() });
            self.world.restart(agent);
            self.world.resume(agent);
            self.world.set_skew(agent, 0);
        }
        if self.server_down {
            self.world.restart_server();
            self.server_down = false;
        }
        // Keepalives keep such a flow, and only another local port would end it, which agents do
        // not take yet: part of the fault, so it heals with it.
        for id in core::mem::take(&mut self.stale) {
            self.world.reboot(id);
        }
    }

    fn converge(&mut self) -> Result<(), Failure> {
        let agents = self.agents.clone();
        let all = |w: &mut World| agents.iter().all(|agent| w.is_online(*agent));
        if self.world.try_run_until(ONLINE, all)?.is_none() {
            let missing: Vec<_> = agents.iter().filter(|a| !self.world.is_online(**a)).collect();
            return Err(self.missed(format!("{missing:?} not online {ONLINE:?} after healing")));
        }
        for n in 1..agents.len() {
            let (a, b) = (agents[n], agents[n - 1]);
            if self.world.try_trust(a, b, TRUST)?.is_none() {
                return Err(self.missed(format!("{a:?} and {b:?} do not come to trust")));
            }
            let id = match self.world.start_transfer(a, b, BYTES) {
                Ok(id) => id,
                Err(error) => return Err(self.missed(format!("{a:?} to {b:?}: {error}"))),
            };
            let is_over = |w: &mut World| !matches!(w.progress(id), Progress::Running(_));
            self.world.try_run_until(STREAM, is_over)?;
            let progress = self.world.progress(id);
            if !matches!(progress, Progress::Done(_)) {
                return Err(self.missed(format!("a stream from {a:?} to {b:?}: {progress:?}")));
            }
        }
        Ok(())
    }

    fn missed(&mut self, what: String) -> Failure {
        self.world.fail(what);
        self.world.failure().expect("it has just failed")
    }
}
