//! The table of pairs: which path two agents find behind each two of the presets, and how soon.

use crate::nat::Preset;
use crate::world::{Failure, World};
use crate::{HostId, Progress, Tape};
use pilot_core::node::PathKind;
use pilot_core::path::punch::Outcome;
use pilot_core::path::strategy;
use pilot_core::time::Duration;
use serde::Serialize;

/// Bytes that are sent.
const BYTES: u64 = 64 * 1024;
/// How long a pair may take for them.
const WITHIN: Duration = Duration::from_secs(60);
/// How long it is watched afterwards for a better path.
const WATCH: Duration = Duration::from_secs(20);

/// What one pair did in one world.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PairReport {
    /// The end that connects.
    pub from: Preset,
    /// The other.
    pub to: Preset,
    /// The tape's.
    pub seed: u64,
    /// How packets travelled in the end: direct or relayed, the same in both directions, or mixed.
    pub path: &'static str,
    /// What made the path, of the end that connects; none for one that needed nothing.
    pub technique: Option<Technique>,
    /// Path challenges that both ends sent in all rounds.
    pub probes: u32,
    /// From the connect to the first byte at the other end.
    pub first_byte_ms: Option<f64>,
    /// From the connect until both ends sent directly.
    pub direct_ms: Option<f64>,
    /// Until all 64 KiB were there; `None`: not within a minute.
    pub done_ms: Option<f64>,
    /// Datagrams of both agents from the connect to the end of the watch.
    pub datagrams: u64,
}

/// A technique, as reports name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Technique {
    /// Plain punching.
    Punch,
    /// From fresh sockets.
    Fresh,
    /// Port prediction.
    Predict,
    /// Birthday spray.
    Spray,
}

impl From<strategy::Technique> for Technique {
    fn from(technique: strategy::Technique) -> Self {
        match technique {
            strategy::Technique::Plain => Technique::Punch,
            strategy::Technique::Fresh => Technique::Fresh,
            strategy::Technique::Predict => Technique::Predict,
            strategy::Technique::Spray => Technique::Spray,
        }
    }
}

impl Technique {
    /// One word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Technique::Punch => "punch",
            Technique::Fresh => "fresh",
            Technique::Predict => "predict",
            Technique::Spray => "spray",
        }
    }
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

/// Two agents register, trust each other, and one sends to the other. Every access has 10 ms each
/// way and the beacon's 5 ms: a direct round trip takes 40 ms.
///
/// # Errors
/// If a check fails.
pub fn run_pair(from: Preset, to: Preset, seed: u64) -> Result<PairReport, Failure> {
    let mut world = World::new(Tape::from_seed(seed));
    world.set_again(format!("pilot-sim matrix --presets {from},{to} --first {seed} --seeds 1"));
    let (a, b) = (world.add_agent(from), world.add_agent(to));
    let mut report = PairReport {
        from,
        to,
        seed,
        path: "none",
        technique: None,
        probes: 0,
        first_byte_ms: None,
        direct_ms: None,
        done_ms: None,
        datagrams: 0,
    };
    let online = |w: &mut World| w.is_online(a) && w.is_online(b);
    if world.try_run_until(WITHIN, online)?.is_none() || world.try_trust(a, b, WITHIN)?.is_none() {
        return Ok(report);
    }
    // What trust has set going comes to rest.
    world.try_run(Duration::from_secs(5))?;
    let (begin, sent) = (world.now, world.stats().sent);
    let Ok(transfer) = world.start_open_transfer(a, b, BYTES) else { return Ok(report) };
    let done = world.try_run_until(WITHIN, |w| w.progress(transfer) == Progress::Running(BYTES))?;
    world.try_run(WATCH)?;
    report.done_ms = done.map(ms);
    report.first_byte_ms = world.first_byte(transfer).map(ms);
    report.path = match (world.path(a, b), world.path(b, a)) {
        (PathKind::Direct, PathKind::Direct) => "direct",
        (PathKind::Relayed, PathKind::Relayed) => "relayed",
        (PathKind::None, PathKind::None) => "none",
        _ => "mixed",
    };
    if report.path == "direct" {
        // The last change of each end before the end is the one that lasted.
        let since = |host: HostId| {
            let mut changes = world.path_changes().iter().rev();
            changes.find(|c| c.host == host).map(|c| c.at.since(begin))
        };
        report.direct_ms = since(a).max(since(b)).map(ms);
    }
    for (from, to) in [(a, b), (b, a)] {
        let Some(why) = world.why(from, to) else { continue };
        report.probes += why.tried.iter().map(|tried| u32::from(tried.probes)).sum::<u32>();
        let through = why.tried.iter().rev().find(|tried| tried.outcome == Outcome::Direct);
        let technique = through.map(|tried| Technique::from(tried.technique));
        report.technique = report.technique.or(technique.filter(|_| report.path == "direct"));
    }
    report.datagrams = world.stats().sent - sent;
    Ok(report)
}

/// All pairs of these, without order.
pub fn pairs(presets: &[Preset]) -> Vec<(Preset, Preset)> {
    let mut pairs = Vec::new();
    for (n, from) in presets.iter().enumerate() {
        pairs.extend(presets[n..].iter().map(|to| (*from, *to)));
    }
    pairs
}
