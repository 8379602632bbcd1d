//! TCP connections of the registry: from bytes to requests and back (`wire.md` 6.1).
//!
//! | State | Bytes | Next |
//! |---|---|---|
//! | start | `AOR0`, nonce | start; key, tunnel key and signature go out; once |
//! | start | `AOR1`, message 1 that authenticates | open; message 2 goes out |
//! | start | anything else, 512 bytes in all, or 3 s | closed |
//! | open | a frame | a request; its answer goes out at once or after a commit |
//! | open | a frame that does not open, or 60 s of silence, or 256 KiB unread answers | closed |

use super::pipe::{self, Pipe};
use super::service::Standing;
use super::{Caller, Context, Directory};
use crate::addr::{Address, NodeId};
use crate::crypto::assign::sign_keys;
use crate::crypto::{AeadProvider, TunnelSecret};
use crate::limits::{
    REGISTRY_FRAME_MAX, REGISTRY_IDLE, REGISTRY_PRE_AUTH, REGISTRY_PRE_AUTH_BYTES, TAG,
};
use crate::rendezvous::limit::prefix;
use crate::rendezvous::{Event, RendezvousLimits};
use crate::rng::Rng;
use crate::session::gate::Bucket;
use crate::session::payload::BootId;
use crate::stats::DropReason;
use crate::time::Instant;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::net::SocketAddr;

/// Answers that a client has not read; above it the connection is closed.
const UNREAD_MAX: usize = 256 * 1024;

/// A TCP connection as the adapter numbers it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

struct Conn {
    remote: SocketAddr,
    heard: Instant,
    /// Where it stands among the timers.
    check: Instant,
    open: Option<Box<Open>>,
    /// Bytes taken before the channel was open.
    before: usize,
    asked_keys: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// Requests that wait for a commit.
    waiting: usize,
    /// [`Event::ConnectionWritable`] is out and the bytes are not.
    told: bool,
}

struct Open {
    pipe: Pipe,
    standing: Standing,
    /// The node under which it is counted.
    counted: Option<NodeId>,
}

pub(crate) struct Connections {
    conns: BTreeMap<ConnId, Conn>,
    timers: BTreeSet<(Instant, ConnId)>,
    /// Connections that have not authenticated, per source.
    strangers: BTreeMap<[u8; 9], usize>,
    of_node: BTreeSet<(NodeId, ConnId)>,
    events: VecDeque<Event>,
    aead: &'static dyn AeadProvider,
    secret: TunnelSecret,
    keys: [u8; 64],
    boot_id: BootId,
    rng: Rng,
    budget: Bucket,
    budget_full_at: u64,
    limits: RendezvousLimits,
}

type Step = Result<Option<Vec<u8>>, DropReason>;

impl Connections {
    pub(crate) fn new(
        limits: &RendezvousLimits,
        aead: &'static dyn AeadProvider,
        identity: &crate::crypto::Identity,
        secret: TunnelSecret,
        mut rng: Rng,
    ) -> Self {
        let mut keys = [0; 64];
        keys[..32].copy_from_slice(&identity.public().0);
        keys[32..].copy_from_slice(&secret.public().0);
        let rate = limits.channel_handshakes_per_second;
        Connections {
            conns: BTreeMap::new(),
            timers: BTreeSet::new(),
            strangers: BTreeMap::new(),
            of_node: BTreeSet::new(),
            events: VecDeque::new(),
            aead,
            secret,
            keys,
            boot_id: rng.bytes(),
            rng,
            budget: Bucket::new(rate, rate),
            budget_full_at: 0,
            limits: limits.clone(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.conns.len()
    }

    pub(crate) fn open(
        &mut self,
        now: Instant,
        conn: ConnId,
        remote: SocketAddr,
    ) -> Result<(), DropReason> {
        let source = prefix(remote.ip());
        let strangers = self.strangers.get(&source).copied().unwrap_or(0);
        if self.conns.len() >= self.limits.connections
            || strangers >= self.limits.unauthenticated_per_source
            || self.conns.contains_key(&conn)
        {
            self.events.push_back(Event::CloseConnection(conn));
            return Err(DropReason::Full);
        }
        self.strangers.insert(source, strangers + 1);
        let check = now + REGISTRY_PRE_AUTH;
        self.timers.insert((check, conn));
        let state = Conn {
            remote,
            heard: now,
            check,
            open: None,
            before: 0,
            asked_keys: false,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            waiting: 0,
            told: false,
        };
        self.conns.insert(conn, state);
        Ok(())
    }

    /// Takes bytes until a request is complete (`Some(Ok(Some(plaintext)))`), something else
    /// happened (`Some(Ok(None))`), or all are taken (`None`). On an error the connection is
    /// closed.
    pub(crate) fn receive(
        &mut self,
        ctx: &Context<'_>,
        conn: ConnId,
        bytes: &mut &[u8],
        directory: &Directory,
    ) -> Option<Step> {
        let state = self.conns.get_mut(&conn)?;
        let need = match state.need() {
            Ok(need) => need,
            Err(reason) => return Some(self.fail(conn, reason)),
        };
        let take = (need - state.input.len()).min(bytes.len());
        let (taken, rest) = bytes.split_at(take);
        *bytes = rest;
        state.input.extend_from_slice(taken);
        if state.open.is_none() {
            state.before += take;
            if state.before > REGISTRY_PRE_AUTH_BYTES {
                return Some(self.fail(conn, DropReason::Malformed));
            }
        }
        if state.input.len() < need {
            return None;
        }
        match state.need() {
            Ok(more) if more > need => return Some(Ok(None)),
            Ok(_) => {}
            Err(reason) => return Some(self.fail(conn, reason)),
        }
        let step = if state.open.is_some() {
            state.request(ctx.now)
        } else {
            self.greet(ctx, conn, directory)
        };
        match step {
            Ok(step) => Some(Ok(step)),
            Err(reason) => Some(self.fail(conn, reason)),
        }
    }

    /// A complete `AOR0` or `AOR1`.
    fn greet(&mut self, ctx: &Context<'_>, conn: ConnId, directory: &Directory) -> Step {
        let state = self.conns.get_mut(&conn).ok_or(DropReason::UnknownIndex)?;
        let mut input = core::mem::take(&mut state.input);
        if input.starts_with(pipe::UNKNOWN) {
            let nonce = *input[4..].first_chunk::<32>().ok_or(DropReason::Malformed)?;
            state.asked_keys = true;
            state.output.extend_from_slice(&self.keys);
            let sig = sign_keys(ctx.registry, &nonce, &self.secret.public());
            state.output.extend_from_slice(&sig);
            self.tell(conn);
            return Ok(None);
        }
        if !self.budget.take(&mut self.budget_full_at, ctx.now) {
            return Err(DropReason::RateLimited);
        }
        let (rng, boot_id) = (&mut self.rng, self.boot_id);
        let accepted =
            pipe::accept(&self.secret, self.aead, rng, boot_id, state.remote, &mut input[6..])?;
        let payload = &accepted.payload;
        if payload.dst != Address::REGISTRY || accepted.remote == self.secret.public() {
            return Err(DropReason::WrongAddress);
        }
        let mut standing = Standing {
            from: state.remote.ip(),
            hash: accepted.hash,
            boot_id: u64::from_be_bytes(payload.boot_id),
            caller: None,
            registered: false,
            was_current: false,
        };
        if let Some(record) = payload.record {
            let record = record.expand(payload.src, accepted.remote);
            let node = directory.owner(&record).ok_or(DropReason::Untrusted)?;
            standing.registered = node.record() == Some(record);
            if !standing.registered {
                record.verify(&ctx.registry.public()).map_err(|_| DropReason::Untrusted)?;
            }
            standing.was_current = node.boot_id() == Some(standing.boot_id);
            let caller = Caller { node: record.fields.addr.node, identity: record.identity };
            standing.caller = Some(caller);
        } else if !payload.src.is_unspecified() {
            return Err(DropReason::WrongAddress);
        }
        state.output.extend_from_slice(&(accepted.message2.len() as u16).to_be_bytes());
        state.output.extend_from_slice(&accepted.message2);
        state.heard = ctx.now;
        state.open = Some(Box::new(Open { pipe: accepted.pipe, standing, counted: None }));
        let source = prefix(state.remote.ip());
        self.less_strange(source);
        self.follow(conn);
        self.tell(conn);
        Ok(None)
    }

    fn less_strange(&mut self, source: [u8; 9]) {
        if let Some(count) = self.strangers.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.strangers.remove(&source);
            }
        }
    }

    pub(crate) fn standing(&mut self, conn: ConnId) -> Option<&mut Standing> {
        Some(&mut self.conns.get_mut(&conn)?.open.as_mut()?.standing)
    }

    /// Counts the connection under the node it has proven to be; above the limit the node's
    /// oldest connection is closed.
    pub(crate) fn follow(&mut self, conn: ConnId) {
        let Some(open) = self.conns.get_mut(&conn).and_then(|c| c.open.as_mut()) else { return };
        let Some(caller) = open.standing.caller.filter(|_| open.counted.is_none()) else { return };
        open.counted = Some(caller.node);
        self.of_node.insert((caller.node, conn));
        let all = (caller.node, ConnId(0))..=(caller.node, ConnId(u64::MAX));
        if self.of_node.range(all.clone()).count() > self.limits.connections_per_node.max(1) {
            let oldest = self.of_node.range(all).map(|(_, id)| *id).find(|id| *id != conn);
            if let Some(oldest) = oldest {
                self.close(oldest);
            }
        }
    }

    /// Whether so many requests wait for storage that the next is refused.
    pub(crate) fn is_busy(&self, conn: ConnId) -> bool {
        let limit = self.limits.waiting_per_connection;
        self.conns.get(&conn).is_some_and(|state| state.waiting >= limit)
    }

    pub(crate) fn wait(&mut self, conn: ConnId) {
        if let Some(state) = self.conns.get_mut(&conn) {
            state.waiting += 1;
        }
    }

    pub(crate) fn waited(&mut self, conn: ConnId) {
        if let Some(state) = self.conns.get_mut(&conn) {
            state.waiting -= 1;
        }
    }

    /// Seals an answer and tells the adapter that there is something to write.
    pub(crate) fn answer(&mut self, now: Instant, conn: ConnId, plaintext: &[u8]) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let Some(open) = state.open.as_mut() else { return };
        state.heard = state.heard.max(now);
        open.pipe.seal(plaintext, &mut state.output);
        if state.output.len() - state.written > UNREAD_MAX {
            self.close(conn);
            return;
        }
        self.tell(conn);
    }

    fn tell(&mut self, conn: ConnId) {
        if let Some(state) = self.conns.get_mut(&conn)
            && !state.told
        {
            state.told = true;
            self.events.push_back(Event::ConnectionWritable(conn));
        }
    }

    pub(crate) fn poll_bytes(&mut self, conn: ConnId, out: &mut [u8]) -> usize {
        let Some(state) = self.conns.get_mut(&conn) else { return 0 };
        let rest = &state.output[state.written..];
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        state.written += n;
        if state.written == state.output.len() {
            // An idle connection holds no buffer.
            (state.output, state.written, state.told) = (Vec::new(), 0, false);
        }
        n
    }

    fn fail(&mut self, conn: ConnId, reason: DropReason) -> Step {
        self.close(conn);
        Err(reason)
    }

    /// Forgets a connection and has the adapter close it.
    pub(crate) fn close(&mut self, conn: ConnId) {
        if self.forget(conn) {
            self.events.push_back(Event::CloseConnection(conn));
        }
    }

    /// Forgets a connection; whether it was there.
    pub(crate) fn forget(&mut self, conn: ConnId) -> bool {
        let Some(state) = self.conns.remove(&conn) else { return false };
        self.timers.remove(&(state.check, conn));
        match state.open {
            None => self.less_strange(prefix(state.remote.ip())),
            Some(open) => {
                if let Some(node) = open.counted {
                    self.of_node.remove(&(node, conn));
                }
            }
        }
        true
    }

    /// Closes what is late; gives a reason for each.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<DropReason> {
        let mut dropped = Vec::new();
        while let Some(&(at, conn)) = self.timers.first() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            let Some(state) = self.conns.get_mut(&conn) else { continue };
            let end = match state.open {
                None => at,
                Some(_) => state.heard + REGISTRY_IDLE,
            };
            if end <= now {
                self.close(conn);
                dropped.push(DropReason::Expired);
            } else {
                state.check = end;
                self.timers.insert((end, conn));
            }
        }
        dropped
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

impl Conn {
    /// How many bytes of input make the next whole thing, as far as that is known yet.
    fn need(&self) -> Result<usize, DropReason> {
        let input = &self.input[..];
        let length = |at: usize| usize::from(u16::from_be_bytes([input[at], input[at + 1]]));
        if self.open.is_some() {
            return match input.len() {
                0 | 1 => Ok(2),
                _ if length(0) < TAG || length(0) > REGISTRY_FRAME_MAX => {
                    Err(DropReason::Malformed)
                }
                _ => Ok(2 + length(0)),
            };
        }
        match input.len() {
            0..4 => Ok(4),
            _ if input.starts_with(pipe::UNKNOWN) && !self.asked_keys => Ok(4 + 32),
            _ if !input.starts_with(pipe::KNOWN) => Err(DropReason::UnknownType),
            4 | 5 => Ok(6),
            _ if !pipe::MESSAGE1.contains(&length(4)) => Err(DropReason::Malformed),
            _ => Ok(6 + length(4)),
        }
    }

    /// A complete frame.
    fn request(&mut self, now: Instant) -> Step {
        let mut input = core::mem::take(&mut self.input);
        let open = self.open.as_mut().ok_or(DropReason::UnknownIndex)?;
        let len = open.pipe.open(&mut input[2..])?.len();
        self.heard = self.heard.max(now);
        input.truncate(2 + len);
        input.drain(..2);
        Ok(Some(input))
    }
}
