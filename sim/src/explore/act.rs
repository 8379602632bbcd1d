//! What happens in the first phase, and how it heals.

use super::{Explorer, Fault, PRESETS};
use crate::HostId;
use crate::link::LinkConfig;
use crate::nat::{Middlebox, StaleFlows};
use pilot_core::node::Command;
use pilot_core::time::Duration;

/// Longest stream of the first phase.
const BYTES_MAX: u64 = 300_000;
/// Most packets of one flood.
const FLOOD_MAX: u64 = 120;

impl Explorer {
    pub(super) fn act(&mut self) {
        let agent = self.any();
        let mut kinds: Vec<Option<Fault>> = vec![None, None, None];
        kinds.extend(self.enabled.iter().filter(|f| **f >= Fault::Partition).map(|f| Some(*f)));
        let Some(fault) = self.world.tape.choose(&kinds) else { return self.talk(agent) };
        let happens = match fault {
            Fault::Partition => {
                self.world.set_cut(agent, true);
                true
            }
            Fault::Crash => {
                self.world.crash(agent);
                true
            }
            Fault::Wipe => {
                self.world.crash(agent);
                self.world.wipe(agent);
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
                let boxes = self.world.boxes_of(agent);
                boxes.iter().for_each(|id| self.world.reboot(*id));
                !boxes.is_empty()
            }
            Fault::Renumber => self.renumber(agent),
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
            Fault::Revocation => self.revoke(agent),
            Fault::Liar => self.deal_with_liar(agent),
            Fault::Flood => self.flood(agent, FLOOD_MAX),
            _ => false,
        };
        if happens {
            self.happened.insert(fault);
        }
    }

    /// What was done may last longer than one pause, or not.
    pub(super) fn restore(&mut self) {
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

    /// What applications do: a stream, or a few datagrams.
    fn talk(&mut self, from: HostId) {
        let to = self.any();
        let len = self.draw(BYTES_MAX);
        if from == to || !self.world.trusts(from, to) {
            return;
        }
        if self.draw(3) == 2 {
            return self.datagrams(from, to);
        }
        if let Ok(id) = self.world.start_transfer(from, to, len) {
            self.transfers.push(id);
        }
    }

    fn datagrams(&mut self, from: HostId, to: HostId) {
        for _ in 0..1 + self.draw(8) {
            let _ = self.world.send_datagram(from, to);
        }
    }

    fn renumber(&mut self, agent: HostId) -> bool {
        let stale = self.world.tape.choose(&[StaleFlows::Drop, StaleFlows::KeepOldSource]);
        let boxes = self.world.boxes_of(agent);
        let outer = boxes.last().copied();
        let outer = outer.filter(|id| matches!(self.world.middlebox(*id), Middlebox::Nat(_)));
        if let Some(id) = outer {
            self.world.renumber(id, stale);
            if stale == StaleFlows::KeepOldSource {
                self.stale.insert(id);
            }
        }
        outer.is_some()
    }

    /// An owner no longer trusts somebody, who has perhaps just sent something.
    fn revoke(&mut self, agent: HostId) -> bool {
        let other = self.any();
        let Some(peer) = self.world.address(other).filter(|_| other != agent) else { return false };
        if self.world.trusts(other, agent) && self.draw(2) == 1 {
            self.datagrams(other, agent);
        }
        self.world.command(agent, Command::RevokeTrust { peer }).is_ok()
    }

    fn deal_with_liar(&mut self, agent: HostId) -> bool {
        let Some(liar) = self.liar else { return false };
        let (from, to) = if self.draw(2) == 1 { (agent, liar) } else { (liar, agent) };
        let len = self.draw(BYTES_MAX);
        let started = self.world.start_transfer(from, to, len);
        self.transfers.extend(started.ok());
        if self.world.trusts(from, to) {
            self.datagrams(from, to);
        }
        started.is_ok()
    }

    /// Sends some of what has crossed the core again, from an address at which nobody is.
    fn replay(&mut self) -> bool {
        let captured: Vec<_> = self.world.trace().recent().cloned().collect();
        if captured.is_empty() {
            return false;
        }
        for n in 0..1 + self.draw(8) {
            let (packet, bytes) = captured[self.draw(captured.len() as u64) as usize].clone();
            let nobody = ([203, 0, 113, n as u8 + 1], 1000 + n as u16).into();
            let source = if self.draw(2) == 1 { packet.source } else { nobody };
            self.world.forge(source, packet.destination, bytes);
        }
        true
    }

    /// At an agent, where it was last sent to, or at the beacon.
    pub(super) fn flood(&mut self, agent: HostId, most: u64) -> bool {
        let count = 1 + self.draw(most) as u32;
        let seed = self.world.tape.array();
        let beacon = self.world.beacon()[0];
        let to = match self.draw(2) {
            0 => beacon,
            _ => self.world.observed(agent).unwrap_or(beacon),
        };
        self.world.flood(to, count, seed);
        true
    }

    pub(super) fn heal(&mut self) {
        self.world.fault("healing".to_string());
        self.world.set_refusals(0);
        for agent in self.agents.clone().into_iter().chain(self.liar) {
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
        // Keepalives keep such a flow until the agent takes another local port, which is
        // `tests/rotation.rs`'s business: part of the fault, so it heals with it.
        for id in core::mem::take(&mut self.stale) {
            self.world.reboot(id);
        }
    }

    /// A flood that goes on while others want to get through.
    pub(super) fn disturb(&mut self, agent: HostId) {
        if self.enabled.contains(&Fault::Flood) {
            self.flood(agent, FLOOD_MAX / 2);
            self.happened.insert(Fault::Flood);
        }
        if let Some(liar) = self.liar
            && let Ok(id) = self.world.start_transfer(liar, agent, BYTES_MAX / 10)
        {
            self.transfers.push(id);
        }
    }

    /// How long all that is under way may go on before it is given up.
    pub(super) fn give_up(&mut self) {
        for id in core::mem::take(&mut self.transfers) {
            self.world.abandon_transfer(id);
        }
        let _ = self.world.try_run(Duration::ZERO);
    }
}
