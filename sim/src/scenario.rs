//! Scenarios: a world and what happens in it, step by step, as a TOML file has them. The schema is
//! in the crate's README.

use crate::link::LinkConfig;
use crate::nat::{BoxConfig, Middlebox, Preset, StaleFlows};
use crate::world::{Failure, World};
use crate::{HostId, Progress, Span, Tape, TransferId, node_config};
use pilot_core::node::PathKind;
use pilot_core::time::Duration;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A scenario.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is about.
    pub title: String,
    /// Routers in the core.
    #[serde(default = "one")]
    pub core_hops: u8,
    /// Who is there.
    #[serde(rename = "agent")]
    pub agents: Vec<AgentConfig>,
    /// What happens, one after the other.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

const fn one() -> u8 {
    1
}

/// An agent and where it stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// What steps call it.
    pub name: String,
    /// Behind this preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<Preset>,
    /// Or behind these boxes, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boxes: Vec<BoxConfig>,
    /// Or at the place of another agent, named before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<String>,
    /// Whether it has a global IPv6 address as well, behind what lets in only what answers.
    #[serde(default)]
    pub ipv6: bool,
    /// Between its site and the core, in each direction.
    #[serde(default)]
    pub link: LinkConfig,
}

/// How packets are expected to travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// Straight.
    Direct,
    /// By the relay.
    Relayed,
}

impl Expected {
    const fn is(self, kind: PathKind) -> bool {
        matches!(
            (self, kind),
            (Expected::Direct, PathKind::Direct) | (Expected::Relayed, PathKind::Relayed)
        )
    }
}

/// One step. Those with `within` wait, and fail the scenario if it takes longer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Waits until these agents (none: all) are registered and hear the beacon.
    Register {
        /// Who.
        #[serde(default)]
        agents: Vec<String>,
        /// At most.
        #[serde(default = "minute")]
        within: Span,
    },
    /// Waits, and fails if the agent is registered and hears the beacon then.
    Offline {
        /// Who.
        agent: String,
        /// How long.
        after: Span,
    },
    /// One asks, the other approves.
    Trust {
        /// Who asks.
        from: String,
        /// Whom.
        to: String,
        /// At most.
        #[serde(default = "minute")]
        within: Span,
    },
    /// Starts to send bytes on a stream of its own.
    Transfer {
        /// What steps call it.
        name: String,
        /// Who sends.
        from: String,
        /// To whom.
        to: String,
        /// How many.
        bytes: u64,
        /// The stream does not end: later steps wait for its bytes, not for its end.
        #[serde(default)]
        stays_open: bool,
    },
    /// Waits until all bytes of a transfer have arrived.
    Await {
        /// Which.
        transfer: String,
        /// At most.
        within: Span,
    },
    /// Waits until packets from one agent to the other travel so, in both directions.
    Path {
        /// One end.
        from: String,
        /// The other.
        to: String,
        /// How.
        is: Expected,
        /// At most.
        within: Span,
    },
    /// Fails if packets have travelled otherwise for the whole time.
    Stay {
        /// One end.
        from: String,
        /// The other.
        to: String,
        /// How.
        is: Expected,
        /// How long.
        during: Span,
    },
    /// Lets time pass.
    Wait {
        /// How much.
        seconds: Span,
    },
    /// Changes an agent's link.
    Link {
        /// Whose.
        agent: String,
        /// To this.
        link: LinkConfig,
    },
    /// Cuts an agent's site off.
    Cut {
        /// Whose.
        agent: String,
    },
    /// Mends that.
    Mend {
        /// Whose.
        agent: String,
    },
    /// The process dies.
    Crash {
        /// Whose.
        agent: String,
    },
    /// A dead process's disk is lost.
    Wipe {
        /// Whose.
        agent: String,
    },
    /// The process starts again.
    Restart {
        /// Whose.
        agent: String,
    },
    /// The machine sleeps.
    Suspend {
        /// Whose.
        agent: String,
    },
    /// It wakes up.
    Resume {
        /// Whose.
        agent: String,
    },
    /// The wall clock is set.
    Skew {
        /// Whose.
        agent: String,
        /// Ahead of the world's by so many milliseconds.
        ms: i64,
    },
    /// The agent moves behind another NAT.
    Roam {
        /// Who.
        agent: String,
        /// Behind what.
        nat: Preset,
        /// With this link.
        #[serde(default)]
        link: LinkConfig,
    },
    /// The boxes in front of an agent restart.
    Reboot {
        /// Whose.
        agent: String,
    },
    /// The outermost NAT in front of an agent gets another address.
    Renumber {
        /// Whose.
        agent: String,
        /// And what runs through it.
        #[serde(default)]
        stale: StaleFlows,
    },
    /// The rendezvous dies.
    CrashServer,
    /// It starts again.
    RestartServer,
}

const fn minute() -> Span {
    Span::secs(60)
}

/// Why a scenario could not be run, or did not go as it says.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// No agent or transfer has this name.
    #[error("there is no {0:?}")]
    Unknown(String),
    /// A name is given twice.
    #[error("{0:?} is there twice")]
    Twice(String),
    /// An agent stands at more than one place.
    #[error("{0}: one of nat, boxes and beside")]
    Places(String),
    /// A box is none.
    #[error("{0}: {1}")]
    Box(String, crate::nat::ConfigError),
    /// A step did not happen in its time, or not at all.
    #[error("step {step}: {what}; again: {again}")]
    Step {
        /// Counted from 1.
        step: usize,
        /// What was missed.
        what: String,
        /// What shows it again.
        again: String,
    },
    /// A check failed.
    #[error(transparent)]
    Check(#[from] Failure),
}

/// What became of a step.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StepReport {
    /// As in the file.
    #[serde(flatten)]
    pub step: Step,
    /// Seconds of virtual time since the world began, at its end.
    pub at: f64,
    /// Seconds that it took.
    pub took: f64,
}

/// A scenario in its world.
#[derive(Debug)]
pub struct Play {
    /// The world.
    pub world: World,
    names: BTreeMap<String, HostId>,
    transfers: BTreeMap<String, (TransferId, u64)>,
    /// The steps that are over.
    pub done: Vec<StepReport>,
    again: String,
}

impl Play {
    /// The world at its beginning. `again` is the command that shows it again.
    ///
    /// # Errors
    /// If names or boxes are wrong.
    pub fn new(scenario: &Scenario, tape: Tape, again: String) -> Result<Self, ScenarioError> {
        let mut world = World::new(tape);
        world.set_again(again.clone());
        world.set_core_hops(scenario.core_hops);
        let (names, transfers) = (BTreeMap::new(), BTreeMap::new());
        let mut play = Play { world, names, transfers, done: Vec::new(), again };
        for agent in &scenario.agents {
            play.add(agent)?;
        }
        Ok(play)
    }

    fn add(&mut self, agent: &AgentConfig) -> Result<(), ScenarioError> {
        let name = &agent.name;
        let place = match (agent.nat, agent.boxes.is_empty(), &agent.beside) {
            (Some(preset), true, None) => self.world.add_preset(preset),
            (None, false, None) => {
                let added = self.world.add_boxes(agent.boxes.clone());
                added.map_err(|error| ScenarioError::Box(name.clone(), error))?
            }
            (None, true, Some(other)) => {
                let other = self.host(other)?;
                self.world.place_of(other)
            }
            _ => return Err(ScenarioError::Places(name.clone())),
        };
        let host = self.world.add_host(place, node_config());
        if agent.ipv6 {
            self.world.add_ipv6(host);
        }
        if agent.beside.is_none() {
            self.world.set_link(host, agent.link);
        }
        match self.names.insert(name.clone(), host) {
            Some(_) => Err(ScenarioError::Twice(name.clone())),
            None => Ok(()),
        }
    }

    /// The agent of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn host(&self, name: &str) -> Result<HostId, ScenarioError> {
        self.names.get(name).copied().ok_or_else(|| ScenarioError::Unknown(name.to_string()))
    }

    /// Lets one step happen.
    ///
    /// # Errors
    /// If it does not, or if a check fails.
    pub fn step(&mut self, step: &Step) -> Result<(), ScenarioError> {
        let begin = self.world.elapsed();
        self.carry_out(step)?;
        let end = self.world.elapsed();
        let took = (end - begin).as_secs_f64();
        self.done.push(StepReport { step: step.clone(), at: end.as_secs_f64(), took });
        Ok(())
    }

    fn missed(&self, what: impl Into<String>) -> ScenarioError {
        let (step, again) = (self.done.len() + 1, self.again.clone());
        ScenarioError::Step { step, what: what.into(), again }
    }

    fn until(
        &mut self,
        within: Duration,
        what: &str,
        done: impl FnMut(&mut World) -> bool,
    ) -> Result<(), ScenarioError> {
        match self.world.try_run_until(within, done)? {
            Some(_) => Ok(()),
            None => Err(self.missed(format!("{what}, within {within:?}"))),
        }
    }

    fn carry_out(&mut self, step: &Step) -> Result<(), ScenarioError> {
        match step {
            Step::Register { agents, within } => {
                let named: Result<Vec<_>, _> = agents.iter().map(|name| self.host(name)).collect();
                let mut hosts = named?;
                if hosts.is_empty() {
                    hosts.extend(self.world.hosts());
                }
                let online = |w: &mut World| hosts.iter().all(|host| w.is_online(*host));
                self.until(within.0, "not everybody is online", online)?;
            }
            Step::Offline { agent, after } => {
                let host = self.host(agent)?;
                self.world.try_run(after.0)?;
                if self.world.is_online(host) {
                    return Err(self.missed(format!("{agent} is online")));
                }
            }
            Step::Trust { from, to, within } => {
                let (a, b) = (self.host(from)?, self.host(to)?);
                if self.world.try_trust(a, b, within.0)?.is_none() {
                    return Err(self.missed("no trust"));
                }
            }
            Step::Transfer { name, from, to, bytes, stays_open } => {
                let (a, b) = (self.host(from)?, self.host(to)?);
                let started = match stays_open {
                    true => self.world.start_open_transfer(a, b, *bytes),
                    false => self.world.start_transfer(a, b, *bytes),
                };
                let id = started.map_err(|error| self.missed(error.to_string()))?;
                if self.transfers.insert(name.clone(), (id, *bytes)).is_some() {
                    return Err(ScenarioError::Twice(name.clone()));
                }
            }
            Step::Await { transfer, within } => self.wait_for(transfer, within.0)?,
            Step::Path { from, to, is, within } => {
                let (a, b, is) = (self.host(from)?, self.host(to)?, *is);
                let done = |w: &mut World| is.is(w.path(a, b)) && is.is(w.path(b, a));
                self.until(within.0, &format!("not {is:?}"), done)?;
            }
            Step::Stay { from, to, is, during } => {
                let (a, b, is) = (self.host(from)?, self.host(to)?, *is);
                let left = |w: &mut World| !(is.is(w.path(a, b)) && is.is(w.path(b, a)));
                if self.world.try_run_until(during.0, left)?.is_some() {
                    return Err(self.missed(format!("no longer {is:?}")));
                }
            }
            Step::Wait { seconds } => self.world.try_run(seconds.0)?,
            Step::CrashServer => self.world.crash_server(),
            Step::RestartServer => self.world.restart_server(),
            _ => self.befall(step)?,
        }
        Ok(())
    }

    fn wait_for(&mut self, transfer: &str, within: Duration) -> Result<(), ScenarioError> {
        let unknown = || ScenarioError::Unknown(transfer.to_string());
        let (id, bytes) = *self.transfers.get(transfer).ok_or_else(unknown)?;
        self.until(within, &format!("{transfer} has not arrived"), |w| match w.progress(id) {
            Progress::Running(read) => read == bytes && w.stays_open(id),
            _ => true,
        })?;
        match self.world.progress(id) {
            Progress::Failed(why) => Err(self.missed(format!("{transfer} failed: {why:?}"))),
            _ => Ok(()),
        }
    }

    /// What happens to one agent.
    fn befall(&mut self, step: &Step) -> Result<(), ScenarioError> {
        let world = |play: &mut Play, name: &str, f: &dyn Fn(&mut World, HostId)| {
            let host = play.host(name)?;
            f(&mut play.world, host);
            Ok(())
        };
        match step {
            Step::Link { agent, link } => world(self, agent, &|w, h| w.set_link(h, *link)),
            Step::Cut { agent } => world(self, agent, &|w, h| w.set_cut(h, true)),
            Step::Mend { agent } => world(self, agent, &|w, h| w.set_cut(h, false)),
            Step::Crash { agent } => world(self, agent, &World::crash),
            Step::Wipe { agent } => world(self, agent, &World::wipe),
            Step::Restart { agent } => world(self, agent, &World::restart),
            Step::Suspend { agent } => world(self, agent, &World::suspend),
            Step::Resume { agent } => world(self, agent, &World::resume),
            Step::Skew { agent, ms } => world(self, agent, &|w, h| w.set_skew(h, *ms)),
            Step::Roam { agent, nat, link } => world(self, agent, &|w, h| {
                let place = w.add_preset(*nat);
                w.roam(h, place);
                w.set_link(h, *link);
            }),
            Step::Reboot { agent } => world(self, agent, &|w, h| {
                for id in w.boxes_of(h) {
                    w.reboot(id);
                }
            }),
            Step::Renumber { agent, stale } => world(self, agent, &|w, h| {
                let boxes = w.boxes_of(h);
                let is_nat = |id: &&crate::BoxId| matches!(w.middlebox(**id), Middlebox::Nat(_));
                if let Some(outer) = boxes.iter().rev().find(is_nat).copied() {
                    w.renumber(outer, *stale);
                }
            }),
            _ => Ok(()),
        }
    }
}
