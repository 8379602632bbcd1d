//! One agent at the beacon and its timers.

use super::relay::Repeat;
use super::{Beacon, OFFLINE, SILENT, Share};
use crate::addr::NodeId;
use crate::limits::{BEACON_REPEAT, FRAME_HEADER, PENDING_TTL, TAG};
use crate::machine::Path;
use crate::rendezvous::registry::Directory;
use crate::session::keys::SmallSession;
use crate::time::{Duration, Instant};
use crate::wire::control::{self, Endpoint, FromBeacon};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// When F2 goes to a new path again (`wire.md` 5.5).
const CHALLENGE_REPEAT: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(900)];
/// When a validation has failed.
const CHALLENGE_FAIL: Duration = Duration::from_secs(3);
/// Least distance of validations of one session.
const CHALLENGE_INTERVAL: Duration = Duration::from_secs(1);
/// Longest distance of `Waiting`: a keepalive's.
const WAITING_MAX: Duration = crate::limits::NAT_KEEPALIVE;

/// Which of an agent's sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LinkKind {
    Current,
    Pending,
}

/// A session that has not said `Hello` yet.
pub(super) struct Pending {
    pub(super) link: SmallSession,
    pub(super) at: Instant,
    pub(super) path: Path,
    pub(super) hs_seq: u64,
    /// Of the INIT, without mac2.
    pub(super) hash: [u8; 16],
    pub(super) resp: Box<[u8]>,
    pub(super) resends: u8,
}

/// A path that sent the newest frame and has not proven that it receives.
pub(super) struct Validation {
    path: Path,
    challenge: [u8; 8],
    started: Instant,
    sent: usize,
    /// Bytes that may still go there: three times what came from it (`wire.md` 5.5).
    credit: usize,
}

/// Bytes of a frame with F2 or F3.
const CONTROL: usize = FRAME_HEADER + 9 + TAG;

impl Validation {
    /// Whether one more control frame may go to the path; then it counts as sent.
    fn spend(&mut self) -> bool {
        let allowed = self.credit >= CONTROL;
        self.credit -= if allowed { CONTROL } else { 0 };
        allowed
    }
}

/// `Waiting` goes out again at `at`, then after twice the pause.
pub(super) struct Notice {
    at: Instant,
    pause: Duration,
}

pub(super) struct Agent {
    pub(super) node: NodeId,
    pub(super) current: Option<Box<SmallSession>>,
    pub(super) pending: Option<Box<Pending>>,
    /// Highest handshake number that a confirmed session had.
    pub(super) confirmed_seq: u64,
    pub(super) stale_at: Option<Instant>,
    /// Of the last `Hello`.
    pub(super) boot_id: Option<u64>,
    pub(super) fenced: bool,
    /// Validated.
    pub(super) path: Path,
    pub(super) heard: Instant,
    pub(super) validation: Option<Box<Validation>>,
    validated: Option<Instant>,
    pub(super) candidates: Box<[Endpoint]>,
    pub(super) nat: u8,
    /// Number of the newest letter it has fetched in this boot.
    pub(super) fetched: u64,
    pub(super) notice: Option<Notice>,
    pub(super) next_id: u16,
    pub(super) share: Share,
    /// Where it stands among the beacon's timers.
    pub(super) timer: Option<Instant>,
}

/// What an agent holds while nothing is going on (`wire.md` 7: at most 512 bytes).
const _: () = assert!(size_of::<Agent>() + size_of::<SmallSession>() <= 512);

impl Agent {
    pub(super) fn new(now: Instant, node: NodeId, path: Path) -> Self {
        Agent {
            node,
            current: None,
            pending: None,
            confirmed_seq: 0,
            stale_at: None,
            boot_id: None,
            fenced: false,
            path,
            heard: now,
            validation: None,
            validated: None,
            candidates: Box::default(),
            nat: 0,
            fetched: 0,
            notice: None,
            next_id: 0,
            share: Share::default(),
            timer: None,
        }
    }

    pub(super) fn is_online(&self, now: Instant) -> bool {
        self.current.as_ref().is_some_and(|link| link.session().is_alive(now))
            && now.since(self.heard) < OFFLINE
    }

    /// A session and the path that its handshake or a validation has proven.
    pub(super) fn link(&mut self, kind: LinkKind) -> Option<(Path, &mut SmallSession)> {
        match kind {
            LinkKind::Current => self.current.as_deref_mut().map(|link| (self.path, link)),
            LinkKind::Pending => {
                self.pending.as_deref_mut().map(|pending| (pending.path, &mut pending.link))
            }
        }
    }

    /// Starts to validate the path of the newest frame, if it is time.
    pub(super) fn challenge(&mut self, now: Instant, path: Path, challenge: [u8; 8]) {
        let early = self.validated.is_some_and(|at| now.since(at) < CHALLENGE_INTERVAL);
        let same = self.validation.as_ref().is_some_and(|v| v.path == path);
        if !early && !same {
            self.validated = Some(now);
            let validation = Validation { path, challenge, started: now, sent: 0, credit: 0 };
            self.validation = Some(Box::new(validation));
        }
    }

    /// An authentic frame came from a path.
    pub(super) fn credit(&mut self, path: Path, came: usize) {
        if let Some(validation) = self.validation.as_mut().filter(|v| v.path == path) {
            validation.credit = validation.credit.saturating_add(3 * came);
        }
    }

    /// Whether a question from this path, which is as long as its answer, may be answered
    /// there: not if its challenges have used up what came.
    pub(super) fn may_answer(&mut self, path: Path) -> bool {
        let validation = self.validation.as_mut().filter(|v| v.path == path);
        validation.is_none_or(|validation| validation.spend())
    }

    /// An F3; whether it proves the path under validation, which then is the agent's.
    pub(super) fn answer(&mut self, path: Path, response: &[u8]) -> bool {
        let proven = self
            .validation
            .as_ref()
            .is_some_and(|v| v.path == path && crate::crypto::kdf::equal(&v.challenge, response));
        if proven {
            self.path = path;
            self.validation = None;
        }
        proven
    }

    fn deadline(&self) -> Instant {
        let pending = self.pending.as_ref().map(|pending| pending.at + PENDING_TTL);
        let session = self.current.as_ref().map(|link| link.session().expires());
        let validation = self.validation.as_ref().map(|v| match v.sent {
            0 => v.started,
            n => v.started + CHALLENGE_REPEAT.get(n - 1).copied().unwrap_or(CHALLENGE_FAIL),
        });
        let notice = self.notice.as_ref().map(|notice| notice.at);
        let silent = Some(self.heard + SILENT);
        [pending, session, validation, notice, silent]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Instant::NEVER)
    }
}

impl Beacon {
    /// Puts the agent among the timers where it now belongs.
    pub(super) fn schedule(&mut self, slot: u32) {
        let Some(agent) = self.agents.get(slot) else { return };
        let bound = self.channels.of(agent.node).filter_map(|end| {
            self.channels.get(end.slot)?.ends[end.side].bound.as_ref().and_then(Repeat::due)
        });
        let at = bound.min().unwrap_or(Instant::NEVER).min(agent.deadline());
        if agent.timer != Some(at) {
            if let Some(old) = agent.timer {
                self.timers.remove(&(old, slot));
            }
            self.timers.insert((at, slot));
            if let Some(agent) = self.agents.get_mut(slot) {
                agent.timer = Some(at);
            }
        }
    }

    /// Does what is due for one agent.
    pub(super) fn fire(&mut self, now: Instant, slot: u32, directory: &Directory) {
        let Some(agent) = self.agents.get_mut(slot) else { return };
        if agent.pending.as_ref().is_some_and(|pending| pending.at + PENDING_TTL <= now) {
            self.drop_pending(slot);
        }
        let Some(agent) = self.agents.get_mut(slot) else { return };
        let over = agent.current.as_ref().is_none_or(|link| !link.session().is_alive(now));
        if agent.heard + SILENT <= now || (over && agent.pending.is_none()) {
            self.remove_agent(slot);
            return;
        }
        self.repeat_challenge(now, slot);
        self.repeat_waiting(now, slot, directory);
        self.repeat_bound(now, slot, directory);
        self.schedule(slot);
    }

    pub(super) fn repeat_challenge(&mut self, now: Instant, slot: u32) {
        let Some(agent) = self.agents.get_mut(slot) else { return };
        let Some(validation) = &mut agent.validation else { return };
        if validation.started + CHALLENGE_FAIL <= now {
            agent.validation = None;
            return;
        }
        let due = match validation.sent {
            0 => Some(validation.started),
            n => CHALLENGE_REPEAT.get(n - 1).map(|after| validation.started + *after),
        };
        if due.is_some_and(|due| due <= now) {
            validation.sent += 1;
            if !validation.spend() {
                return;
            }
            let (path, mut frame) = (validation.path, [control::PATH_CHALLENGE; 9]);
            frame[1..].copy_from_slice(&validation.challenge);
            self.send(now, slot, LinkKind::Current, Some(path), &frame);
        }
    }

    /// There is mail: `Waiting` at once, and again until it is fetched.
    pub(super) fn notify(&mut self, now: Instant, node: NodeId) {
        let Some(&slot) = self.by_node.get(&node) else { return };
        let Some(agent) = self.agents.get_mut(slot) else { return };
        if agent.current.is_none() || agent.fenced {
            return;
        }
        agent.notice = Some(Notice { at: now + BEACON_REPEAT[0], pause: BEACON_REPEAT[0] });
        self.tell(now, slot, &FromBeacon::Waiting);
        self.schedule(slot);
    }

    fn repeat_waiting(&mut self, now: Instant, slot: u32, directory: &Directory) {
        let Some(agent) = self.agents.get_mut(slot) else { return };
        let Some(notice) = agent.notice.as_mut().filter(|notice| notice.at <= now) else { return };
        if directory.newest_mail(agent.node) <= agent.fetched || agent.fenced {
            agent.notice = None;
            return;
        }
        notice.pause = (notice.pause * 2).min(WAITING_MAX);
        notice.at = now + notice.pause;
        self.tell(now, slot, &FromBeacon::Waiting);
    }

    pub(super) fn repeat_bound(&mut self, now: Instant, slot: u32, directory: &Directory) {
        let Some(agent) = self.agents.get(slot) else { return };
        let ends: Vec<_> = self.channels.of(agent.node).collect();
        for end in ends {
            let info = self.info(end, directory);
            let Some(channel) = self.channels.get_mut(end.slot) else { continue };
            let bound = &mut channel.ends[end.side].bound;
            let Some(repeat) = bound else { continue };
            match repeat.due() {
                // Again when the agent is heard: see `remind_of_bound`.
                None => {}
                Some(due) if due > now => {}
                Some(_) => {
                    repeat.sent += 1;
                    if let Some(info) = info {
                        self.tell(now, slot, &FromBeacon::Bound(info));
                    }
                }
            }
        }
    }

    pub(super) fn drop_pending(&mut self, slot: u32) {
        let pending = self.agents.get_mut(slot).and_then(|agent| agent.pending.take());
        if let Some(pending) = pending {
            self.by_index.remove(&pending.link.session().local_index());
            self.answered.remove(&pending.hash);
        }
    }

    pub(super) fn remove_agent(&mut self, slot: u32) {
        self.drop_pending(slot);
        let Some(agent) = self.agents.remove(slot) else { return };
        if let Some(link) = &agent.current {
            self.by_index.remove(&link.session().local_index());
        }
        if let Some(at) = agent.timer {
            self.timers.remove(&(at, slot));
        }
        self.by_node.remove(&agent.node);
        self.channels.set_agent(agent.node, None);
    }
}
