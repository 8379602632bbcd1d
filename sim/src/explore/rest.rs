//! What has to become of a world after its faults have ended.

use super::Explorer;
use crate::oracle::Expected;
use crate::world::{Failure, World};
use crate::{HostId, PathChange, Progress, TransferId};
use pilot_core::node::{Command, PathKind, StreamInfo};
use pilot_core::time::Duration;

/// Until all are online after the healing. The longest back-off towards the rendezvous is 45 s,
/// a beacon session is noticed to be dead within as much, and both may come after each other.
const ONLINE: Duration = Duration::from_secs(180);
/// Until two trust each other.
const TRUST: Duration = Duration::from_secs(180);
/// Until a stream gets through: a handshake is given up after 90 s, and then begun again.
const STREAM: Duration = Duration::from_secs(180);
/// Bytes that have to get through then.
const BYTES: u64 = 20_000;
/// Until a pair that can talk directly does: it looks for a better path once a minute at least.
const DIRECT: Duration = Duration::from_secs(150);
/// Until what was given up is over at both ends, and paths are what they will be.
const SETTLED: Duration = Duration::from_secs(15);
/// Nobody says anything for so long: more than NATs remember, less than a session lasts.
const IDLE: Duration = Duration::from_secs(70);
/// Until what is said then arrives: well before anything is given up as lost.
const AWAKE: Duration = Duration::from_secs(3);
/// Bytes of what is said.
const FEW: u64 = 1000;
/// Until nothing is left of streams: half-closed ones without an owner linger for a minute, and a
/// peer that does not answer is given up after a minute and a half.
const GONE: Duration = Duration::from_secs(120);
/// Until the beacon has forgotten agents that have said goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

impl Explorer {
    pub(super) fn converge(&mut self) -> Result<(), Failure> {
        let agents = self.agents.clone();
        let all = |w: &mut World| agents.iter().all(|agent| w.is_online(*agent));
        if self.world.try_run_until(ONLINE, all)?.is_none() {
            let missing: Vec<_> = agents.iter().filter(|a| !self.world.is_online(**a)).collect();
            return Err(self.missed(format!("{missing:?} not online {ONLINE:?} after healing")));
        }
        for (a, b) in self.neighbours() {
            if self.world.try_trust(a, b, TRUST)?.is_none() {
                return Err(self.missed(format!("{a:?} and {b:?} do not come to trust")));
            }
            self.disturb(a);
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
        self.outlast()?;
        self.give_up();
        Ok(())
    }

    /// Streams that were begun among the faults have got through by now, or have ended; those of
    /// liars need not.
    fn outlast(&mut self) -> Result<(), Failure> {
        let mut begun = self.transfers.clone();
        begun.retain(|id| self.world.is_honest(*id));
        let running = |w: &World, id: &TransferId| matches!(w.progress(*id), Progress::Running(_));
        let over = |w: &mut World| !begun.iter().any(|id| running(w, id));
        if self.world.try_run_until(STREAM, over)?.is_none() {
            begun.retain(|id| running(&self.world, id));
            let stand = begun.iter().map(|id| self.world.stand(*id)).collect::<Vec<_>>();
            return Err(self.missed(format!("streams neither go on nor end: {stand:?}")));
        }
        Ok(())
    }

    fn neighbours(&self) -> Vec<(HostId, HostId)> {
        self.agents.windows(2).map(|pair| (pair[1], pair[0])).collect()
    }

    /// Streams that say nothing for a minute: the path is the one that there can be, it stays,
    /// and what is said then arrives at once.
    pub(super) fn rest(&mut self) -> Result<(), Failure> {
        let mut open = Vec::new();
        for (a, b) in self.neighbours() {
            match self.world.start_open_transfer(a, b, FEW) {
                Ok(id) => open.push(id),
                Err(error) => return Err(self.missed(format!("{a:?} to {b:?}: {error}"))),
            }
        }
        self.heard(&open, FEW, STREAM)?;
        let mut direct = self.neighbours();
        direct.retain(|(a, b)| self.world.expected(*a, *b) == Expected::Direct);
        let are = |w: &World| {
            let goes = |a, b| w.path(a, b) == PathKind::Direct;
            direct.iter().all(|&(a, b)| goes(a, b) && goes(b, a))
        };
        if self.world.try_run_until(DIRECT, |w| are(w))?.is_none() {
            return Err(self.missed(format!("of {direct:?} not all go directly")));
        }
        // What was given up before may still make a path suspect for a moment.
        self.world.try_run(SETTLED)?;
        let before = self.world.path_changes().len();
        self.world.try_run(IDLE)?;
        open.iter().for_each(|id| self.world.extend_transfer(*id, FEW));
        self.heard(&open, 2 * FEW, AWAKE)?;
        let is = |host, peer, change: &PathChange| {
            change.host == host && self.world.address(peer) == Some(change.peer)
        };
        let lost = self.world.path_changes()[before..].iter().find(|change| {
            let one = direct.iter().any(|&(a, b)| is(a, b, change) || is(b, a, change));
            change.kind != PathKind::Direct && one
        });
        if let Some(lost) = lost.copied() {
            return Err(self.missed(format!("a direct path did not last: {lost:?}")));
        }
        for id in open {
            self.world.finish_transfer(id);
            self.transfers.push(id);
        }
        Ok(())
    }

    /// All of these have arrived up to there.
    fn heard(&mut self, ids: &[TransferId], bytes: u64, most: Duration) -> Result<(), Failure> {
        let all = |w: &mut World| ids.iter().all(|id| w.progress(*id) == Progress::Running(bytes));
        if self.world.try_run_until(most, all)?.is_none() {
            let progress: Vec<_> = ids.iter().map(|id| self.world.progress(*id)).collect();
            return Err(self.missed(format!("open streams after {most:?}: {progress:?}")));
        }
        Ok(())
    }

    /// Everything ends, and nothing is left of it.
    pub(super) fn close(&mut self) -> Result<(), Failure> {
        let ids = self.transfers.clone();
        let over =
            |w: &mut World| ids.iter().all(|id| !matches!(w.progress(*id), Progress::Running(_)));
        if self.world.try_run_until(STREAM, over)?.is_none() {
            return Err(self.missed("streams do not end".to_string()));
        }
        self.give_up();
        let agents = self.agents.clone();
        let left = |w: &World| -> Vec<StreamInfo> {
            agents.iter().flat_map(|agent| w.streams(*agent)).collect()
        };
        if self.world.try_run_until(GONE, |w| left(w).is_empty())?.is_none() {
            let left = left(&self.world);
            return Err(self.missed(format!("streams that are over have places: {left:?}")));
        }
        for agent in agents.iter().copied().chain(self.liar) {
            let _ = self.world.command(agent, Command::Shutdown);
        }
        let gone = |w: &mut World| w.server_stats().agents == 0;
        if self.liar.is_none() && self.world.try_run_until(GOODBYE, gone)?.is_none() {
            let stats = self.world.server_stats();
            return Err(self.missed(format!("the beacon keeps agents that have gone: {stats:?}")));
        }
        Ok(())
    }
}
